//! How often an address may be dialled, whichever job wants it.
//!
//! The addresses of holders come from others: a tracker, or a source. Who tells many peers of an address at
//! which there is none has all of them knock there. So an address at which no peer has greeted us has few
//! dials a minute, and none for a long time after some that failed. One at which a peer did is a peer's, and is
//! dialled as its job sees fit, until dials fail in a row. A tracker that says that its peer has registered
//! again ends the long wait, as a restart is no fault, but does not give more dials a minute.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::base::limits::{
    DIAL_PAUSE, DIAL_PUT_OFF, DIAL_WINDOW, MAX_DIAL_FAILURES, MAX_DIALLED_ADDRESSES, MAX_DIALS_IN_WINDOW,
};

/// What came of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialEnd {
    /// A peer greeted us there.
    Greeted,
    /// It did not, in whatever way.
    Failed,
    /// Nothing went out: we had no descriptor, or no port.
    NotMade,
    /// It was not needed any more before it had an end.
    LeftOff,
}

/// The dials of a process, by address.
#[derive(Debug, Default)]
pub struct Dials {
    addresses: HashMap<SocketAddr, Dialled>,
}

/// How dialling one address went.
#[derive(Debug, Default)]
struct Dialled {
    /// The last dials that nobody had greeted before.
    recent: VecDeque<Instant>,
    /// Of the last dial.
    last: Option<Instant>,
    /// Whether its end was not told yet.
    is_pending: bool,
    /// Failures in a row.
    failures: u32,
    put_off_until: Option<Instant>,
    /// Whether a peer greeted us there, and dials have not failed too often since.
    has_greeted: bool,
}

impl Dials {
    /// Counts a dial to this address that is to be made now; its end has to be told.
    ///
    /// # Errors
    /// It may not be dialled now: how long to wait.
    pub fn dial(&mut self, address: SocketAddr, now: Instant) -> Result<(), Duration> {
        self.forget_old(now);
        let dialled = self.addresses.entry(address).or_default();
        let wait = dialled.wait(now);
        if !wait.is_zero() {
            return Err(wait);
        }
        if !dialled.has_greeted {
            dialled.recent.push_back(now);
            if dialled.recent.len() > MAX_DIALS_IN_WINDOW {
                dialled.recent.pop_front();
            }
        }
        dialled.last = Some(now);
        dialled.is_pending = true;
        Ok(())
    }

    /// A dial has ended.
    pub fn ended(&mut self, address: SocketAddr, end: DialEnd, now: Instant) {
        let Some(dialled) = self.addresses.get_mut(&address) else { return };
        dialled.is_pending = false;
        match end {
            DialEnd::Greeted => {
                *dialled = Dialled { has_greeted: true, last: dialled.last, ..Dialled::default() };
            }
            DialEnd::Failed => {
                dialled.failures += 1;
                if dialled.failures >= MAX_DIAL_FAILURES {
                    dialled.failures = 0;
                    dialled.has_greeted = false;
                    dialled.put_off_until = Some(now + DIAL_PUT_OFF);
                }
            }
            DialEnd::NotMade => {
                dialled.recent.pop_back();
            }
            DialEnd::LeftOff => {}
        }
    }

    /// A tracker says that the peer at this address has registered again.
    pub fn registered_again(&mut self, address: SocketAddr) {
        if let Some(dialled) = self.addresses.get_mut(&address) {
            dialled.put_off_until = None;
            dialled.failures = 0;
        }
    }

    /// Makes room: of what is too old to count first, else of what was dialled longest ago.
    fn forget_old(&mut self, now: Instant) {
        if self.addresses.len() < MAX_DIALLED_ADDRESSES {
            return;
        }
        let counts = |at: Instant| now.saturating_duration_since(at) < DIAL_PUT_OFF;
        self.addresses.retain(|_, dialled| dialled.last.is_some_and(counts));
        if self.addresses.len() >= MAX_DIALLED_ADDRESSES {
            let mut ages: Vec<_> = self.addresses.iter().map(|(at, dialled)| (dialled.last, *at)).collect();
            let (oldest, ..) = ages.select_nth_unstable(MAX_DIALLED_ADDRESSES / 8);
            oldest.iter().for_each(|(_, address)| {
                self.addresses.remove(address);
            });
        }
    }
}

impl Dialled {
    fn wait(&self, now: Instant) -> Duration {
        let until = |at: Instant| at.saturating_duration_since(now);
        if self.has_greeted {
            return Duration::ZERO;
        }
        let put_off = self.put_off_until.map_or(Duration::ZERO, until);
        // Of two jobs that begin at the same time, one finds out for both.
        let pending = if self.is_pending { DIAL_PAUSE } else { Duration::ZERO };
        let is_full = self.recent.len() >= MAX_DIALS_IN_WINDOW;
        let full =
            self.recent.front().filter(|_| is_full).map_or(Duration::ZERO, |at| until(*at + DIAL_WINDOW));
        put_off.max(pending).max(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::DIAL_TIMEOUT;
    use crate::plan::{Ending, Holders};

    fn address(number: u16) -> SocketAddr {
        ([10, 0, (number >> 8) as u8, number as u8], 9).into()
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_strange_address_has_two_dials_a_minute_and_none_for_ten_behind_three_failures() {
        let (mut dials, start) = (Dials::default(), Instant::now());
        let mut made = Vec::new();
        for second in 0..1500 {
            let now = after(start, second);
            if dials.dial(address(1), now).is_ok() {
                made.push(second);
                dials.ended(address(1), DialEnd::Failed, now);
            }
            assert!(second > 0 || dials.dial(address(2), now).is_ok(), "another address has its own");
        }
        assert_eq!(made, [0, 1, 60, 660, 661, 720, 1320, 1321, 1380]);
    }

    #[test]
    fn where_a_peer_greeted_it_is_dialled_at_once_until_dials_fail() {
        let (mut dials, start) = (Dials::default(), Instant::now());
        for second in 0..30 {
            assert_eq!(dials.dial(address(1), after(start, second)), Ok(()));
            dials.ended(address(1), DialEnd::Greeted, after(start, second));
        }
        let mut now = after(start, 30);
        for _ in 0..MAX_DIAL_FAILURES {
            assert_eq!(dials.dial(address(1), now), Ok(()));
            dials.ended(address(1), DialEnd::Failed, now);
        }
        assert_eq!(dials.dial(address(1), now), Err(DIAL_PUT_OFF));
        // It comes back, and is found at once, but has to greet to count as a peer's again.
        now = after(now, 4);
        dials.registered_again(address(1));
        assert_eq!(dials.dial(address(1), now), Ok(()));
        dials.ended(address(1), DialEnd::Failed, now);
        assert_eq!(dials.dial(address(1), now), Ok(()));
        dials.ended(address(1), DialEnd::Failed, now);
        dials.registered_again(address(1));
        assert_eq!(dials.dial(address(1), now), Err(DIAL_WINDOW), "however often it registers");
        now += DIAL_WINDOW;
        assert_eq!(dials.dial(address(1), now), Ok(()));
        dials.ended(address(1), DialEnd::Greeted, now);
        assert_eq!(dials.dial(address(1), now), Ok(()));
    }

    #[test]
    fn two_jobs_that_begin_together_dial_once() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        assert_eq!(dials.dial(address(1), now), Ok(()));
        assert_eq!(dials.dial(address(1), now), Err(DIAL_PAUSE));
        dials.ended(address(1), DialEnd::Greeted, now);
        assert_eq!(dials.dial(address(1), now), Ok(()));
        // One of them is ended in the middle.
        assert_eq!(dials.dial(address(2), now), Ok(()));
        dials.ended(address(2), DialEnd::LeftOff, now);
        assert_eq!(dials.dial(address(2), now), Ok(()));
        dials.ended(address(2), DialEnd::LeftOff, now);
        assert_eq!(dials.dial(address(2), now), Err(DIAL_WINDOW), "it knocked twice all the same");
    }

    #[test]
    fn a_dial_that_we_could_not_make_does_not_count() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        for _ in 0..20 {
            assert_eq!(dials.dial(address(1), now), Ok(()));
            dials.ended(address(1), DialEnd::NotMade, now);
        }
    }

    #[test]
    fn what_is_remembered_has_a_cap_and_the_latest_are_kept() {
        let (mut dials, start) = (Dials::default(), Instant::now());
        let all = 2 * MAX_DIALLED_ADDRESSES as u16;
        for number in 0..all {
            let now = start + Duration::from_millis(u64::from(number));
            assert_eq!(dials.dial(address(number), now), Ok(()));
            assert!(dials.addresses.len() <= MAX_DIALLED_ADDRESSES);
        }
        assert!(dials.dial(address(all - 1), after(start, 9)).is_err(), "the last one is known");
        assert_eq!(dials.dial(address(0), after(start, 9)), Ok(()));
    }

    /// Peers with three jobs each, that all try again whatever failed, and are told of one address.
    #[test]
    fn a_hundred_peers_that_are_told_of_a_black_hole_dial_it_two_hundred_times_a_minute_at_most() {
        const PEERS: usize = 100;
        let (hole, far, start) = (address(1), "far".parse().unwrap(), Instant::now());
        let mut rng = fastrand::Rng::with_seed(1);
        let job = || Holders::new("us".parse().unwrap(), address(2));
        let mut peers: Vec<_> = (0..PEERS).map(|_| (Dials::default(), [job(), job(), job()])).collect();
        // When each dial is over, and whose it is.
        let mut pending: Vec<(Instant, usize, usize)> = Vec::new();
        let mut made = VecDeque::new();
        let (mut most, mut all) = (0, 0);
        for tick in 0..4 * 60 * 30 {
            let now = start + tick * Duration::from_millis(250);
            pending.retain(|(over, peer, job)| {
                if *over <= now {
                    let (dials, jobs) = &mut peers[*peer];
                    dials.ended(hole, DialEnd::Failed, now);
                    jobs[*job].ended(&far, Ending::Unreachable("no answer".into()), now);
                }
                *over > now
            });
            for (number, (dials, jobs)) in peers.iter_mut().enumerate() {
                for (which, job) in jobs.iter_mut().enumerate() {
                    job.learn(&far, hole, now);
                    job.forgive(now);
                    if job.dial(|_| true, now, &mut rng).is_none() {
                        continue;
                    }
                    match dials.dial(hole, now) {
                        Ok(()) => {
                            made.push_back(now);
                            all += 1;
                            pending.push((now + DIAL_TIMEOUT, number, which));
                        }
                        Err(wait) => job.ended(&far, Ending::PutOff(wait), now),
                    }
                }
            }
            while made.front().is_some_and(|at| now.duration_since(*at) >= DIAL_WINDOW) {
                made.pop_front();
            }
            most = most.max(made.len());
        }
        println!("{most} dials in a minute at most, {all} in half an hour");
        assert_eq!(most, 2 * PEERS);
        // Three, ten minutes of peace, and again.
        assert!(all <= 9 * PEERS, "{all}");
    }
}
