//! The holders that a job knows of, and which of them to dial next.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::time::Instant;

use crate::base::PeerId;
use crate::base::limits::{MAX_DIAL_WAIT, MAX_HEARD_HOLDERS, MAX_JOB_HOLDERS, MAX_LOST_PATIENCE};
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
    /// Whether it has greeted us.
    is_met: bool,
    /// Failures since it last delivered.
    failures: u32,
    /// Times that it was busy since then.
    busy: u32,
    /// Times that it came back since then.
    came_back: u32,
    /// Dials in a row that we could not make.
    unmade: u32,
    /// When it was last put off for other jobs' sake, for longer than this one waits.
    put_off: Option<Instant>,
    /// Whether trackers did not tell of it, who had before.
    is_unlisted: bool,
    /// How it last ended.
    ending: Option<Ending>,
}

/// All holders of a job's files, by peer id.
#[derive(Debug)]
pub struct Holders {
    us: PeerId,
    listens_on: SocketAddr,
    entries: BTreeMap<PeerId, Entry>,
    /// Where those are who are told of again, and have not been asked about.
    listed_again: Vec<SocketAddr>,
    /// Whether none that was given up can be forgotten for another one.
    is_full: bool,
    /// Whoever was forgotten last while idle: the next one stands behind it in the order of ids.
    last_forgotten: Option<PeerId>,
    /// Whether there were too many, and whether that was asked about.
    overflow: Overflow,
}

/// It is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overflow {
    No,
    Untold,
    Told,
}

impl Entry {
    /// Whether it is connected or can still be tried.
    fn is_hopeful(&self) -> bool {
        self.state != DialState::GivenUp
    }

    /// Whether its last connection ended because it lied.
    fn has_lied(&self) -> bool {
        self.ending.as_ref().is_some_and(Ending::is_lie)
    }
}

/// Dials that we cannot make, one after the other, until a holder is given up: half a minute of them.
const MAX_UNMADE: u32 = 30;

impl Holders {
    /// No holders yet, for a job of this peer, which listens there itself.
    pub fn new(us: PeerId, listens_on: SocketAddr) -> Holders {
        Holders {
            us,
            listens_on,
            entries: BTreeMap::new(),
            listed_again: Vec::new(),
            is_full: false,
            last_forgotten: None,
            overflow: Overflow::No,
        }
    }

    /// Enters what is said of a holder; it can be dialled at once if it is new, or has moved and did not
    /// move too often without delivering anything. False, and nothing is entered, if it is ourselves, or an
    /// address at which no peer can be, or if there are [`MAX_JOB_HOLDERS`] of which none can be forgotten.
    pub fn learn(&mut self, peer: &PeerId, address: SocketAddr, now: Instant) -> bool {
        if *peer == self.us || why_not(address, self.listens_on).is_some() {
            return false;
        }
        let is_new = !self.entries.contains_key(peer);
        if is_new && self.entries.len() >= MAX_JOB_HOLDERS && !self.make_room() {
            return false;
        }
        let fresh = Entry {
            address,
            state: DialState::Ready(now),
            is_met: false,
            failures: 0,
            busy: 0,
            came_back: 0,
            unmade: 0,
            put_off: None,
            is_unlisted: false,
            ending: None,
        };
        let entry = self.entries.entry(peer.clone()).or_insert_with(|| fresh.clone());
        let is_elsewhere = entry.address != address && entry.state != DialState::Connected;
        let is_back = is_elsewhere || std::mem::take(&mut entry.is_unlisted);
        // Whoever comes back again and again and delivers nothing would keep a job that has no other.
        if is_back && entry.came_back < MAX_LOST_PATIENCE {
            // Where it was never met it has not come back: trackers may see it at two addresses.
            let came_back = entry.came_back + u32::from(entry.ending.is_some());
            // A new address is a new process: what the old one did is not held against it.
            if is_elsewhere {
                *entry = Entry { came_back, ..fresh };
                return true;
            }
            entry.came_back = came_back;
            entry.failures = 0;
            entry.put_off = None;
            if entry.state != DialState::Connected && !entry.has_lied() {
                entry.state = DialState::Ready(now);
                self.listed_again.push(address);
            }
        } else if entry.state == DialState::GivenUp
            && entry.put_off.is_some_and(|at| now >= at + MAX_DIAL_WAIT)
        {
            // Another job may have heard that it came back.
            entry.put_off = None;
            entry.state = DialState::Ready(now);
        }
        true
    }

    /// Forgets those that were given up, except for liars, or else one that is not connected and never was:
    /// whoever is told of again gets its turn. Whether there is room then.
    fn make_room(&mut self) -> bool {
        if !self.is_full {
            self.entries.retain(|_, entry| entry.is_hopeful() || entry.has_lied());
            // It is not looked for again until another one is given up.
            self.is_full = self.entries.len() >= MAX_JOB_HOLDERS;
        }
        if !self.is_full {
            return true;
        }
        if self.overflow == Overflow::No {
            self.overflow = Overflow::Untold;
        }
        // In turn, so that whoever tells of others has no say in whom they displace.
        let behind = self.last_forgotten.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut in_turn = self.entries.range((behind, Bound::Unbounded)).chain(&self.entries);
        let is_idle = |entry: &Entry| matches!(entry.state, DialState::Ready(_)) && !entry.is_met;
        let Some(idle) = in_turn.find(|(_, entry)| is_idle(entry)).map(|(peer, _)| peer.clone()) else {
            return false;
        };
        self.entries.remove(&idle);
        self.last_forgotten = Some(idle);
        true
    }

    /// Whether there were more holders than a job knows of, since this was last asked for the first time.
    pub fn take_overflow(&mut self) -> bool {
        let is_news = self.overflow == Overflow::Untold;
        if is_news {
            self.overflow = Overflow::Told;
        }
        is_news
    }

    /// Trackers do not tell of a holder that they did tell of: when they do so again, it has registered
    /// again, or shares again, and what it failed at before is not held against it.
    pub fn unlisted(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.is_unlisted = true;
        }
    }

    /// Where those are who have been told of again since this was last asked.
    pub fn take_listed_again(&mut self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.listed_again)
    }

    /// Enters what a source says of another holder, if nothing is known of it yet. False if nothing is
    /// known of it now either: for the reasons of [`Holders::learn`], or because too many were told.
    pub fn hear(&mut self, peer: &PeerId, address: SocketAddr, now: Instant) -> bool {
        self.entries.contains_key(peer)
            || (self.entries.len() < MAX_HEARD_HOLDERS && self.learn(peer, address, now))
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
        (entry.state, entry.put_off) = (DialState::Connected, None);
        Some((peer, entry.address))
    }

    /// A holder has greeted us.
    pub fn met(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.is_met = true;
        }
    }

    /// Whether a holder was there once, and is given up now because it is not there any more.
    pub fn is_lost(&self, peer: &PeerId) -> bool {
        let is_gone = |entry: &Entry| {
            matches!(entry.ending, Some(Ending::Unreachable(_) | Ending::Cut(_) | Ending::Stalled(_)))
        };
        let entry = self.entries.get(peer).filter(|entry| entry.is_met && is_gone(entry));
        entry.is_some_and(|entry| entry.state == DialState::GivenUp)
    }

    /// A source delivered something: earlier failures are forgiven.
    pub fn delivered(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.get_mut(peer) {
            (entry.failures, entry.busy, entry.came_back) = (0, 0, 0);
        }
    }

    /// A source ended.
    pub fn ended(&mut self, peer: &PeerId, ending: Ending, now: Instant) {
        let Some(entry) = self.entries.get_mut(peer) else { return };
        let is_busy = matches!(ending, Ending::Busy(_));
        let count = if is_busy { &mut entry.busy } else { &mut entry.failures };
        *count += u32::from(ending.is_failure());
        let count = *count;
        entry.unmade = if matches!(ending, Ending::NotMade(_)) { entry.unmade + 1 } else { 0 };
        entry.state = match ending.policy(count) {
            _ if entry.unmade >= MAX_UNMADE => DialState::GivenUp,
            Policy::AgainAfter(wait) => DialState::Ready(now + wait),
            Policy::Never => DialState::GivenUp,
        };
        self.is_full &= entry.state != DialState::GivenUp;
        let is_put_off = matches!(ending, Ending::PutOff(_)) && entry.state == DialState::GivenUp;
        entry.put_off = is_put_off.then_some(now);
        // That it is put off says less than why.
        if entry.ending.is_none() || !matches!(ending, Ending::PutOff(_)) {
            entry.ending = Some(ending);
        }
    }

    /// A later attempt begins: who failed may be well again. Who lied stays given up.
    pub fn forgive(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            if entry.state == DialState::GivenUp && !entry.has_lied() {
                entry.state = DialState::Ready(now);
                (entry.failures, entry.busy, entry.came_back, entry.put_off) = (0, 0, 0, None);
            }
        }
    }

    /// Whether this holder was entered, and was not forgotten for another one.
    pub fn knows(&self, peer: &PeerId) -> bool {
        self.entries.contains_key(peer)
    }

    /// Whether this holder is a source or being dialled.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.entries.get(peer).is_some_and(|entry| entry.state == DialState::Connected)
    }

    /// Whether this holder is connected or can still be tried.
    pub fn is_hopeful(&self, peer: &PeerId) -> bool {
        self.entries.get(peer).is_some_and(Entry::is_hopeful)
    }

    /// A holder that is connected or can still be tried, if there is one among `wanted`.
    pub fn any_hope(&self, wanted: impl Fn(&PeerId) -> bool) -> bool {
        self.entries.iter().any(|(peer, entry)| entry.is_hopeful() && wanted(peer))
    }

    /// Whether one among `wanted` will be dialled: now, when there is room for another connection, or later.
    pub fn any_undialled(&self, wanted: impl Fn(&PeerId) -> bool) -> bool {
        let is_ready = |entry: &Entry| matches!(entry.state, DialState::Ready(_));
        self.entries.iter().any(|(peer, entry)| is_ready(entry) && wanted(peer))
    }

    /// How many among `wanted` can be dialled now.
    pub fn ready(&self, wanted: impl Fn(&PeerId) -> bool, now: Instant) -> usize {
        let is_ready = |entry: &Entry| matches!(entry.state, DialState::Ready(at) if at <= now);
        self.entries.iter().filter(|(peer, entry)| is_ready(entry) && wanted(peer)).count()
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

/// Why no peer is dialled at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoPeer {
    /// No port is stated.
    Port,
    /// No machine has it: unspecified, this network, reserved, broadcast.
    Nobody,
    /// It reaches many.
    Multicast,
    /// It depends on a link that is not named.
    LinkLocal,
    /// We are there.
    Us,
}

/// Why there is no peer at this address for us, who listen on `listens_on`. Others state addresses of
/// holders, so only what reaches a single other machine is dialled.
fn why_not(address: SocketAddr, listens_on: SocketAddr) -> Option<NoPeer> {
    let ip = address.ip().to_canonical();
    let (is_multicast, is_link_local, is_nobody) = match ip {
        // 0.0.0.0/8 is this network, from 240.0.0.0 on all is reserved, the last one broadcast.
        IpAddr::V4(ip) => (ip.is_multicast(), ip.is_link_local(), matches!(ip.octets()[0], 0 | 240..=255)),
        IpAddr::V6(ip) => (ip.is_multicast(), ip.is_unicast_link_local(), ip.is_unspecified()),
    };
    [
        (address.port() == 0, NoPeer::Port),
        (is_nobody, NoPeer::Nobody),
        (is_multicast, NoPeer::Multicast),
        (is_link_local, NoPeer::LinkLocal),
        (is_at(address, listens_on), NoPeer::Us),
    ]
    .into_iter()
    .find_map(|(is_so, why)| is_so.then_some(why))
}

/// Whether who listens on `listener` is reached at `address`, as far as the addresses tell. By another
/// address of this machine we would reach ourselves too; then HELLO tells.
fn is_at(address: SocketAddr, listener: SocketAddr) -> bool {
    let (ip, listens_on) = (address.ip().to_canonical(), listener.ip().to_canonical());
    address.port() == listener.port()
        && (ip == listens_on || (listens_on.is_unspecified() && ip.is_loopback()))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;
    use std::time::Duration;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn holders() -> Holders {
        Holders::new("us".parse().unwrap(), "0.0.0.0:7071".parse().unwrap())
    }

    /// Row 13 of SECURITY.md: the table of addresses.
    #[test]
    fn only_addresses_at_which_one_peer_can_be_are_dialled() {
        use NoPeer::*;
        let now = Instant::now();
        for (address, refusal) in [
            ("10.0.0.1:9", None),
            ("192.168.1.7:65535", None),
            ("172.16.0.1:1", None),
            ("100.64.0.1:9", None),
            ("8.8.8.8:9", None),
            ("127.0.0.1:9", None),
            ("127.8.9.10:9", None),
            ("223.255.255.254:9", None),
            ("169.253.255.255:9", None),
            ("169.255.0.1:9", None),
            ("[2001:db8::7]:9", None),
            ("[fd00::1]:9", None),
            ("[::1]:9", None),
            ("[::ffff:10.0.0.1]:9", None),
            ("[fec0::1]:9", None),
            ("10.0.0.1:0", Some(Port)),
            ("[2001:db8::7]:0", Some(Port)),
            ("0.0.0.0:9", Some(Nobody)),
            ("0.1.2.3:9", Some(Nobody)),
            ("[::]:9", Some(Nobody)),
            ("224.0.0.1:9", Some(Multicast)),
            ("239.255.255.255:9", Some(Multicast)),
            ("[ff02::1]:9", Some(Multicast)),
            ("[ff0e::1]:9", Some(Multicast)),
            ("169.254.0.1:9", Some(LinkLocal)),
            ("169.254.169.254:80", Some(LinkLocal)),
            ("[fe80::1]:9", Some(LinkLocal)),
            ("[febf:ffff::1]:9", Some(LinkLocal)),
            ("240.0.0.1:9", Some(Nobody)),
            ("255.255.255.255:9", Some(Nobody)),
            ("[::ffff:224.0.0.1]:9", Some(Multicast)),
            ("[::ffff:0.0.0.0]:9", Some(Nobody)),
            ("[::ffff:169.254.0.1]:9", Some(LinkLocal)),
            ("[::ffff:255.255.255.255]:9", Some(Nobody)),
            // Our own: we listen on all addresses, port 7071.
            ("127.0.0.1:7071", Some(Us)),
            ("127.0.0.9:7071", Some(Us)),
            ("[::1]:7071", Some(Us)),
            ("[::ffff:127.0.0.1]:7071", Some(Us)),
            ("10.0.0.1:7071", None),
            ("127.0.0.1:7072", None),
        ] {
            let (mut holders, p) = (holders(), "p".parse().unwrap());
            let address = address.parse().unwrap();
            assert_eq!(why_not(address, holders.listens_on), refusal, "{address}");
            assert_eq!(holders.learn(&p, address, now), refusal.is_none(), "{address}");
            assert_eq!(holders.any_hope(|_| true), refusal.is_none(), "{address}");
        }
        assert!(!holders().learn(&"us".parse().unwrap(), address(9), now), "we are no holder to ourselves");
        let listens_on = "10.0.0.5:7071".parse().unwrap();
        let mut holders = Holders::new("us".parse().unwrap(), listens_on);
        let p = "p".parse().unwrap();
        assert!(!holders.learn(&p, listens_on, now));
        assert!(holders.learn(&p, "127.0.0.1:7071".parse().unwrap(), now), "another process");
    }

    #[test]
    fn what_a_source_says_changes_nothing_that_is_known_and_has_a_cap() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(3);
        let mut holders = holders();
        let [p, q]: [PeerId; 2] = ["p", "q"].map(|id| id.parse().unwrap());
        holders.learn(&p, address(1), now);
        assert!(holders.hear(&p, address(2), now));
        assert_eq!(holders.dial(|_| true, now, &mut rng), Some((p, address(1))));
        assert!(!holders.hear(&q, "224.0.0.1:9".parse().unwrap(), now));
        assert!(holders.hear(&q, address(3), now));
        for number in 0..2 * MAX_HEARD_HOLDERS {
            holders.hear(&format!("x{number}").parse().unwrap(), address(4), now);
        }
        assert_eq!(holders.entries.len(), MAX_HEARD_HOLDERS);
        assert!(holders.learn(&"told".parse().unwrap(), address(5), now), "a tracker is heard all the same");
    }

    #[test]
    fn of_too_many_holders_those_are_forgotten_that_were_given_up_or_are_idle_but_no_liars() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(9);
        let mut holders = holders();
        let peer = |number: usize| -> PeerId { format!("p{number:05}").parse().unwrap() };
        for number in 0..MAX_JOB_HOLDERS {
            assert!(holders.learn(&peer(number), address(9), now));
            holders.dial(|_| true, now, &mut rng).unwrap();
        }
        assert!(!holders.take_overflow());
        let [other, another] = [1, 2].map(|more| peer(MAX_JOB_HOLDERS + more));
        for _ in 0..2 {
            assert!(!holders.learn(&other, address(9), now), "all are connected");
            assert!(!holders.hear(&other, address(9), now));
            assert!(holders.learn(&peer(7), address(9), now), "it is known");
        }
        assert!(holders.take_overflow() && !holders.take_overflow(), "it is told once");
        holders.ended(&peer(1), Ending::WrongManifest, now);
        assert!(!holders.learn(&other, address(9), now), "in the place of who lied");
        holders.ended(&peer(2), Ending::Refused("no".into()), now);
        assert!(holders.learn(&other, address(9), now), "in the place of who refused us");
        assert!(holders.learn(&another, address(9), now), "in the place of who is idle");
        assert!(holders.is_hopeful(&another) && !holders.is_hopeful(&other));
        holders.dial(|peer| *peer == another, now, &mut rng).unwrap();
        holders.met(&another);
        let cut = Ending::Cut("gone".into());
        holders.ended(&another, cut, now);
        assert!(holders.is_hopeful(&another) && !holders.learn(&other, address(9), now), "it was there");
        assert_eq!(holders.entries.len(), MAX_JOB_HOLDERS);
    }

    #[test]
    fn a_holder_is_dialled_once_put_off_when_it_fails_and_given_up_when_it_lies() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut holders = holders();
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
        let mut holders = holders();
        for (number, (peer, ending)) in [
            ("dead", Ending::Unreachable("refused".into())),
            ("gone", Ending::PutOff(2 * MAX_DIAL_WAIT)),
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
    fn who_is_told_of_again_is_dialled_again_and_who_lied_is_not() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(4);
        let mut holders = holders();
        let [dead, liar]: [PeerId; 2] = ["dead", "liar"].map(|id| id.parse().unwrap());
        for (number, (peer, ending)) in
            [(&dead, Ending::PutOff(2 * MAX_DIAL_WAIT)), (&liar, Ending::WrongManifest)]
                .into_iter()
                .enumerate()
        {
            holders.learn(peer, address(number as u16 + 1), now);
            assert!(holders.dial(|other| other == peer, now, &mut rng).is_some());
            holders.ended(peer, ending, now);
            holders.learn(peer, address(number as u16 + 1), now);
            assert!(!holders.any_hope(|other| other == peer), "they have told of it all the time");
            holders.unlisted(peer);
            assert!(!holders.any_hope(|other| other == peer));
            holders.learn(peer, address(number as u16 + 1), now);
        }
        assert_eq!(holders.dial(|_| true, now, &mut rng), Some((dead, address(1))));
        assert_eq!(holders.dial(|_| true, now, &mut rng), None);
        assert_eq!(holders.take_listed_again(), [address(1)]);
        assert_eq!(holders.take_listed_again(), []);
    }

    #[test]
    fn who_comes_back_again_and_again_and_delivers_nothing_is_given_up() {
        let mut now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(6);
        for moves in [false, true] {
            let (mut holders, p) = (holders(), PeerId::from_str("p").unwrap());
            let mut lives = 0;
            let mut live = |holders: &mut Holders| {
                lives += 1;
                holders.unlisted(&p);
                holders.learn(&p, address(if moves { lives } else { 1 }), now);
                let mut is_dialled = false;
                while holders.any_hope(|_| true) {
                    is_dialled = true;
                    assert!(holders.dial(|_| true, now, &mut rng).is_some());
                    holders.met(&p);
                    holders.ended(&p, Ending::Cut("cut".into()), now);
                    now += Duration::from_secs(60);
                }
                is_dialled
            };
            for _ in 0..=MAX_LOST_PATIENCE {
                assert!(live(&mut holders));
            }
            assert!(!live(&mut holders) && !live(&mut holders), "it came back often enough");
            holders.delivered(&p);
            assert!(live(&mut holders), "who delivers may");
        }
    }

    #[test]
    fn who_is_put_off_is_tried_again_after_a_while_if_trackers_tell_of_it() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(7);
        let mut holders = holders();
        let p = PeerId::from_str("p").unwrap();
        holders.learn(&p, address(1), now);
        for try_at in [now, now + MAX_DIAL_WAIT] {
            holders.learn(&p, address(1), try_at);
            assert!(holders.dial(|_| true, try_at, &mut rng).is_some());
            holders.ended(&p, Ending::PutOff(2 * MAX_DIAL_WAIT), try_at);
            holders.learn(&p, address(1), try_at + MAX_DIAL_WAIT / 2);
            assert!(!holders.any_hope(|_| true), "it holds no job up");
        }

        // It registered again, and is connected: it is not dialled a second time because it was put off.
        holders.unlisted(&p);
        holders.learn(&p, address(1), now + 2 * MAX_DIAL_WAIT);
        assert!(holders.dial(|_| true, now + 2 * MAX_DIAL_WAIT, &mut rng).is_some());
        holders.learn(&p, address(1), now + 9 * MAX_DIAL_WAIT);
        assert!(holders.dial(|_| true, now + 9 * MAX_DIAL_WAIT, &mut rng).is_none());
    }

    #[test]
    fn that_a_holder_is_busy_is_not_counted_with_its_failures() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(8);
        let mut holders = holders();
        let p = PeerId::from_str("p").unwrap();
        holders.learn(&p, address(1), now);
        let mut fail = |holders: &mut Holders, ending: Ending| {
            assert!(holders.dial(|_| true, now + MAX_DIAL_WAIT, &mut rng).is_some());
            holders.ended(&p, ending, now);
            holders.any_hope(|_| true)
        };
        for _ in 0..5 {
            assert!(fail(&mut holders, Ending::Busy(Duration::from_secs(2))));
        }
        for is_hope in [true, true, false] {
            assert_eq!(fail(&mut holders, Ending::Cut("cut".into())), is_hope);
        }
    }

    #[test]
    fn that_we_cannot_dial_is_not_held_against_a_holder_until_it_lasts() {
        let mut now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(5);
        let mut holders = holders();
        let p: PeerId = "p".parse().unwrap();
        holders.learn(&p, address(1), now);
        let mut fail = |holders: &mut Holders, ending: Ending| {
            assert!(holders.dial(|_| true, now, &mut rng).is_some());
            holders.ended(&p, ending, now);
            now += Duration::from_secs(60);
        };
        for _ in 0..MAX_UNMADE - 1 {
            fail(&mut holders, Ending::NotMade("no descriptors".into()));
        }
        fail(&mut holders, Ending::Cut("cut".into()));
        fail(&mut holders, Ending::Cut("cut".into()));
        assert!(holders.any_hope(|_| true), "these were two failures");
        for _ in 0..MAX_UNMADE {
            fail(&mut holders, Ending::NotMade("no descriptors".into()));
        }
        assert!(!holders.any_hope(|_| true));
    }

    #[test]
    fn delivering_forgives_failures() {
        let mut now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(2);
        let mut holders = holders();
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
