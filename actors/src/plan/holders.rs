//! The holders that a job knows of, and which of them to dial next.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use crate::base::PeerId;
use crate::plan::{Ending, Policy};

/// What a job has to do with one holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialState {
    /// It can be dialled from this instant on.
    Ready(Instant),
    /// It is being dialled, or is a source.
    Connected,
    /// It is not dialled again.
    GivenUp,
}

/// One holder.
#[derive(Clone, Debug)]
struct Entry {
    address: SocketAddr,
    state: DialState,
    /// Failures since it last delivered.
    failures: u32,
    /// How it last ended.
    ending: Option<Ending>,
}

/// All holders of a job's files, by peer id.
#[derive(Debug, Default)]
pub struct Holders {
    entries: BTreeMap<PeerId, Entry>,
}

impl Holders {
    /// Enters what a tracker says of a holder; it can be dialled at once if it is new or has moved.
    pub fn learn(&mut self, peer: &PeerId, address: SocketAddr, now: Instant) {
        let fresh = Entry { address, state: DialState::Ready(now), failures: 0, ending: None };
        let entry = self.entries.entry(peer.clone()).or_insert_with(|| fresh.clone());
        // A new address is a new process: what the old one did is not held against it.
        if entry.address != address && entry.state != DialState::Connected {
            *entry = fresh;
        }
    }

    /// The next holder to dial among `wanted`, chosen at random; it counts as connected from here on.
    pub fn dial(
        &mut self,
        wanted: impl Fn(&PeerId) -> bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<(PeerId, SocketAddr)> {
        let ready: Vec<&PeerId> = self
            .entries
            .iter()
            .filter(|(peer, entry)| matches!(entry.state, DialState::Ready(at) if at <= now) && wanted(peer))
            .map(|(peer, _)| peer)
            .collect();
        let peer = rng.choice(ready)?.clone();
        let entry = self.entries.get_mut(&peer)?;
        entry.state = DialState::Connected;
        Some((peer, entry.address))
    }

    /// A source delivered something: earlier failures are forgiven.
    pub fn delivered(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.failures = 0;
        }
    }

    /// A source ended.
    pub fn ended(&mut self, peer: &PeerId, ending: Ending, now: Instant) {
        let Some(entry) = self.entries.get_mut(peer) else { return };
        entry.failures += 1;
        entry.state = match ending.policy(entry.failures) {
            Policy::AgainAfter(wait) => DialState::Ready(now + wait),
            Policy::Never => DialState::GivenUp,
        };
        entry.ending = Some(ending);
    }

    /// A later attempt begins: who failed may be well again. Who lied stays given up.
    pub fn forgive(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            if entry.state == DialState::GivenUp && !entry.ending.as_ref().is_some_and(Ending::is_lie) {
                entry.state = DialState::Ready(now);
                entry.failures = 0;
            }
        }
    }

    /// A holder that is connected or can still be tried, if there is one among `wanted`.
    pub fn any_hope(&self, wanted: impl Fn(&PeerId) -> bool) -> bool {
        self.entries.iter().any(|(peer, entry)| entry.state != DialState::GivenUp && wanted(peer))
    }

    /// Whether one among `wanted` failed and will be dialled again later.
    pub fn any_put_off(&self, wanted: impl Fn(&PeerId) -> bool, now: Instant) -> bool {
        let is_put_off = |entry: &Entry| matches!(entry.state, DialState::Ready(at) if at > now);
        self.entries.iter().any(|(peer, entry)| is_put_off(entry) && wanted(peer))
    }

    /// How this holder last ended.
    pub fn ending(&self, peer: &PeerId) -> Option<&Ending> {
        self.entries.get(peer)?.ending.as_ref()
    }

    /// When the next holder that was put off can be dialled.
    pub fn next_ready(&self) -> Option<Instant> {
        let ready = |entry: &Entry| match entry.state {
            DialState::Ready(at) => Some(at),
            DialState::Connected | DialState::GivenUp => None,
        };
        self.entries.values().filter_map(ready).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_holder_is_dialled_once_put_off_when_it_fails_and_given_up_when_it_lies() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut holders = Holders::default();
        let p: PeerId = "p".parse().unwrap();
        holders.learn(&p, address(1), now);
        assert_eq!(holders.dial(|_| true, now, &mut rng), Some((p.clone(), address(1))));
        assert_eq!(holders.dial(|_| true, now, &mut rng), None, "it is being dialled");
        holders.ended(&p, Ending::Unreachable("refused".into()), now);
        assert_eq!(holders.dial(|_| true, now, &mut rng), None, "put off");
        assert!(holders.any_hope(|_| true));
        let later = holders.next_ready().unwrap();
        assert!(later > now);
        assert!(holders.dial(|_| true, later, &mut rng).is_some());
        holders.ended(&p, Ending::WrongManifest, later);
        assert!(!holders.any_hope(|_| true));
        holders.learn(&p, address(1), later);
        assert_eq!(holders.dial(|_| true, later + Duration::from_secs(999), &mut rng), None);
        holders.learn(&p, address(2), later);
        assert!(holders.dial(|_| true, later, &mut rng).is_some(), "a new process at a new address");
    }

    #[test]
    fn a_later_attempt_forgives_who_failed_and_not_who_lied() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(3);
        let mut holders = Holders::default();
        for (number, (peer, ending)) in [
            ("dead", Ending::Unreachable("refused".into())),
            ("gone", Ending::Missing),
            ("liar", Ending::WrongManifest),
        ]
        .into_iter()
        .enumerate()
        {
            let peer: PeerId = peer.parse().unwrap();
            holders.learn(&peer, address(number as u16 + 1), now);
            let mut later = now;
            while holders.any_hope(|other| *other == peer) {
                assert!(holders.dial(|other| *other == peer, later, &mut rng).is_some());
                holders.ended(&peer, ending.clone(), later);
                later += Duration::from_secs(60);
            }
        }
        holders.forgive(now);
        let hope = ["dead", "gone", "liar"].map(|peer| holders.any_hope(|other| other.as_str() == peer));
        assert_eq!(hope, [true, true, false]);
        let (dead, _) = holders.dial(|peer| peer.as_str() == "dead", now, &mut rng).unwrap();
        holders.ended(&dead, Ending::Cut("cut".into()), now);
        assert!(holders.any_hope(|peer| *peer == dead), "its failures begin anew");
    }

    #[test]
    fn delivering_forgives_failures() {
        let mut now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(2);
        let mut holders = Holders::default();
        let p: PeerId = "p".parse().unwrap();
        holders.learn(&p, address(1), now);
        for _ in 0..20 {
            assert!(holders.dial(|_| true, now, &mut rng).is_some());
            holders.delivered(&p);
            holders.ended(&p, Ending::Cut("cut".into()), now);
            now += Duration::from_secs(60);
        }
    }
}
