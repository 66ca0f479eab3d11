//! When each peer is asked to confirm its list, and when it is out.
//!
//! # Why these times
//!
//! Let `I` be the refresh interval. A round of a peer begins at a moment `t`:
//!
//! | moment | what happens |
//! |---|---|
//! | `t` | CONFIRM |
//! | `t + I/2`, unanswered | CONFIRM again |
//! | `t + 9I/10`, unanswered | the peer is out |
//! | `t + I` | the next round, if it answered |
//!
//! The answer that opens the way to the round at `t` was sent in the round before it, so not before
//! `t - I`, and a peer that is silent at `t` died after that. It is out at `t + 9I/10`, hence at most
//! `19I/10` after its death, whatever the moment of it; the tenth that is left is for late timers, so
//! that two intervals hold. A peer is asked for the first time at most `I` after it registered.
//!
//! That first moment is random within the interval and the rounds keep its phase. So the load is
//! spread evenly, also after all peers came back at once. But not peer by peer: those whose moments
//! are close together are served together, up to a three hundredth of the interval late, for to wake
//! up costs more than to ask. For the three of a round that is a tenth of the tenth that is left.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::catalogue::ConnectionId;

/// An interval has so many moments at which anybody is served.
const MOMENTS: u32 = 300;

/// What is to be done with a registered connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it CONFIRM.
    Confirm(ConnectionId),
    /// It left two CONFIRMs unanswered: its registration ends. The schedule has forgotten it.
    Out(ConnectionId),
}

/// The clock of confirmation for all registered connections.
#[derive(Debug)]
pub struct Schedule {
    interval: Duration,
    rng: fastrand::Rng,
    rounds: HashMap<ConnectionId, Round>,
    /// The deadline of every round: the one order in which they are served.
    deadlines: BTreeSet<(Instant, ConnectionId)>,
    /// When somebody was served last.
    served: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    begins: Instant,
    deadline: Instant,
    asked: Asked,
    /// Whether a difference was answered with a CONFIRM in this round.
    repeated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    NotYet,
    Once,
    Twice,
}

impl Schedule {
    /// A clock with this refresh interval; `rng` spreads the rounds.
    pub fn new(interval: Duration, rng: fastrand::Rng) -> Schedule {
        Schedule { interval, rng, rounds: HashMap::new(), deadlines: BTreeSet::new(), served: None }
    }

    /// How long a registration lasts that nobody confirms.
    pub fn lease(&self) -> Duration {
        self.interval * 2
    }

    /// A connection registered. One that is known already keeps its round: to register again does
    /// not put off the judgement.
    pub fn registered(&mut self, connection: ConnectionId, now: Instant) {
        if self.rounds.contains_key(&connection) {
            return;
        }
        let begins = now + self.interval.mul_f64(self.rng.f64());
        let round = Round { begins, deadline: begins, asked: Asked::NotYet, repeated: false };
        self.deadlines.insert((begins, connection));
        self.rounds.insert(connection, round);
    }

    /// A connection's registration ended.
    pub fn gone(&mut self, connection: ConnectionId) {
        if let Some(round) = self.rounds.remove(&connection) {
            self.deadlines.remove(&(round.deadline, connection));
        }
    }

    /// CONFIRMED came. An answer nobody waits for changes nothing, so a peer that answers the first
    /// CONFIRM late and the second one too is not taken to have answered the next.
    pub fn answered(&mut self, connection: ConnectionId, now: Instant) {
        let Some(round) = self.rounds.get_mut(&connection) else { return };
        if round.asked == Asked::NotYet {
            return;
        }
        self.deadlines.remove(&(round.deadline, connection));
        // The phase is kept; rounds that passed while the tracker itself was held up are left out.
        let mut begins = round.begins + self.interval;
        if begins <= now {
            let missed = (now - begins).as_nanos() / self.interval.as_nanos() + 1;
            begins += self.interval * u32::try_from(missed).unwrap_or(u32::MAX);
        }
        *round = Round { begins, deadline: begins, asked: Asked::NotYet, repeated: false };
        self.deadlines.insert((begins, connection));
    }

    /// CONFIRMED came and its digest is not the tracker's: an answer all the same. Whether CONFIRM
    /// should follow at once; once per round, so that two sides that never agree do not spin.
    pub fn differed(&mut self, connection: ConnectionId, now: Instant) -> bool {
        self.answered(connection, now);
        match self.rounds.get_mut(&connection) {
            Some(round) if !round.repeated => {
                round.repeated = true;
                true
            }
            _ => false,
        }
    }

    /// When [`Schedule::due`] is to be asked next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (deadline, _) = *self.deadlines.first()?;
        let next_moment = self.served.map(|served| served + self.interval / MOMENTS);
        Some(next_moment.map_or(deadline, |moment| moment.max(deadline)))
    }

    /// What is to be done by now, each connection at most once: after a CONFIRM it has its time to
    /// answer, however late the CONFIRM was.
    pub fn due(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some((deadline, connection)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.deadlines.remove(&(deadline, connection));
            self.served = Some(now);
            let Some(round) = self.rounds.get_mut(&connection) else { continue };
            let (asked, time_to_answer) = match round.asked {
                Asked::NotYet => (Asked::Once, self.interval / 2),
                Asked::Once => (Asked::Twice, self.interval * 2 / 5),
                Asked::Twice => {
                    self.rounds.remove(&connection);
                    actions.push(Action::Out(connection));
                    continue;
                }
            };
            round.asked = asked;
            round.deadline = now + time_to_answer;
            self.deadlines.insert((round.deadline, connection));
            actions.push(Action::Confirm(connection));
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTERVAL: Duration = Duration::from_secs(30);
    const PEER: ConnectionId = ConnectionId(1);

    /// A schedule with one peer, and the moment it registered.
    fn one_peer(seed: u64) -> (Schedule, Instant) {
        let start = Instant::now();
        let mut schedule = Schedule::new(INTERVAL, fastrand::Rng::with_seed(seed));
        schedule.registered(PEER, start);
        (schedule, start)
    }

    /// Goes to the next deadline.
    fn step(schedule: &mut Schedule) -> (Instant, Vec<Action>) {
        let now = schedule.next_deadline().expect("somebody is registered");
        (now, schedule.due(now))
    }

    #[test]
    fn a_silent_peer_is_asked_at_once_again_after_half_an_interval_and_out_after_nine_tenths() {
        let (mut schedule, start) = one_peer(7);
        let (first, actions) = step(&mut schedule);
        assert_eq!(actions, [Action::Confirm(PEER)]);
        assert!(first >= start && first <= start + INTERVAL);
        assert_eq!(step(&mut schedule), (first + INTERVAL / 2, vec![Action::Confirm(PEER)]));
        assert_eq!(step(&mut schedule), (first + INTERVAL * 9 / 10, vec![Action::Out(PEER)]));
        assert_eq!(schedule.next_deadline(), None);
    }

    #[test]
    fn a_peer_that_answers_is_asked_once_per_interval_in_its_own_phase() {
        let (mut schedule, _) = one_peer(8);
        let (first, _) = step(&mut schedule);
        for round in 1..100 {
            // In every second round the second CONFIRM is the one that is answered.
            if round % 2 == 0 {
                assert_eq!(step(&mut schedule).1, [Action::Confirm(PEER)]);
            }
            schedule.answered(PEER, first + INTERVAL * (round - 1) + Duration::from_millis(15_100));
            assert_eq!(step(&mut schedule), (first + INTERVAL * round, vec![Action::Confirm(PEER)]));
        }
    }

    #[test]
    fn an_answer_nobody_waits_for_does_not_spare_the_next_question() {
        let (mut schedule, _) = one_peer(9);
        let (first, _) = step(&mut schedule);
        schedule.answered(PEER, first);
        schedule.answered(PEER, first + INTERVAL / 3);
        assert_eq!(step(&mut schedule), (first + INTERVAL, vec![Action::Confirm(PEER)]));
    }

    #[test]
    fn to_register_again_on_the_same_connection_does_not_put_off_the_judgement() {
        let (mut schedule, _) = one_peer(10);
        let (first, _) = step(&mut schedule);
        schedule.registered(PEER, first + INTERVAL / 4);
        assert_eq!(step(&mut schedule), (first + INTERVAL / 2, vec![Action::Confirm(PEER)]));
    }

    #[test]
    fn a_difference_is_answered_with_one_confirm_per_round() {
        let (mut schedule, _) = one_peer(11);
        let (first, _) = step(&mut schedule);
        assert!(schedule.differed(PEER, first));
        assert!(!schedule.differed(PEER, first + INTERVAL / 10));
        let (second, _) = step(&mut schedule);
        assert!(schedule.differed(PEER, second));
        assert!(!schedule.differed(ConnectionId(99), second), "a stranger is not asked");
    }

    #[test]
    fn who_is_gone_is_not_asked() {
        let (mut schedule, _) = one_peer(12);
        schedule.gone(PEER);
        assert_eq!(schedule.next_deadline(), None);
        let (mut schedule, _) = one_peer(12);
        let (first, _) = step(&mut schedule);
        schedule.gone(PEER);
        assert_eq!(schedule.due(first + INTERVAL * 5), []);
    }

    #[test]
    fn a_tracker_that_was_held_up_gives_every_peer_its_time_to_answer() {
        let (mut schedule, start) = one_peer(13);
        let late = start + INTERVAL * 20;
        assert_eq!(schedule.due(late), [Action::Confirm(PEER)]);
        assert_eq!(schedule.due(late + INTERVAL / 2), [Action::Confirm(PEER)]);
        schedule.answered(PEER, late + INTERVAL / 2);
        let next = schedule.next_deadline().expect("the peer is in");
        assert!(next > late + INTERVAL / 2 && next <= late + INTERVAL * 3 / 2);
    }

    #[test]
    fn a_thousand_peers_that_come_at_once_are_spread_over_every_interval() {
        let start = Instant::now();
        let mut schedule = Schedule::new(INTERVAL, fastrand::Rng::with_seed(14));
        (0..1000).for_each(|n| schedule.registered(ConnectionId(n), start));
        let mut tenths = [0; 30];
        while let Some(now) = schedule.next_deadline().filter(|now| *now < start + INTERVAL * 3) {
            for action in schedule.due(now) {
                let Action::Confirm(connection) = action else { panic!("{action:?}: all of them answer") };
                tenths[((now - start).as_millis() / (INTERVAL / 10).as_millis()) as usize] += 1;
                schedule.answered(connection, now);
            }
        }
        assert_eq!(tenths.iter().sum::<i32>(), 3000);
        assert!(tenths.iter().all(|n| (65..=140).contains(n)), "{tenths:?}");
    }

    #[test]
    fn ten_thousand_peers_are_asked_at_three_hundred_moments_and_none_of_them_late() {
        let start = Instant::now();
        let mut schedule = Schedule::new(INTERVAL, fastrand::Rng::with_seed(13));
        for n in 0..10_000 {
            schedule.registered(ConnectionId(n), start);
        }
        let due: HashMap<ConnectionId, Instant> =
            schedule.deadlines.iter().map(|(deadline, peer)| (*peer, *deadline)).collect();
        let (mut asked, mut moments) = (HashMap::new(), 0);
        while let Some(now) = schedule.next_deadline().filter(|now| *now <= start + INTERVAL * 2) {
            moments += 1;
            for action in schedule.due(now) {
                let Action::Confirm(peer) = action else { panic!("{action:?}") };
                schedule.answered(peer, now);
                asked.entry(peer).or_insert(now);
            }
        }
        assert_eq!(asked.len(), 10_000);
        assert!(asked.iter().all(|(peer, now)| *now >= due[peer] && *now - due[peer] <= INTERVAL / MOMENTS));
        assert!(moments <= 2 * MOMENTS + 1, "{moments}");
    }

    proptest! {
        /// The eighth invariant. The peer answers each CONFIRM of its life after some delay, and
        /// dies at any moment; each timer is late by a little.
        #[test]
        fn a_dead_peer_is_out_within_two_intervals_of_its_death(
            seed: u64,
            death_ms in 0u64..200_000,
            delays_ms in prop::collection::vec(0u64..14_000, 40),
            late_ms in 0u64..900,
        ) {
            let (mut schedule, start) = one_peer(seed);
            let death = start + Duration::from_millis(death_ms);
            let mut delays = delays_ms.into_iter().cycle().map(Duration::from_millis);
            let out = loop {
                let now = schedule.next_deadline().expect("it is in") + Duration::from_millis(late_ms);
                match schedule.due(now).as_slice() {
                    [Action::Confirm(_)] => {
                        let answer = now + delays.next().expect("they go round");
                        if answer < death {
                            schedule.answered(PEER, answer);
                        }
                    }
                    [Action::Out(_)] => break now,
                    other => prop_assert!(false, "{:?}", other),
                }
            };
            prop_assert!(out >= death, "a peer that answers stays in");
            prop_assert!(out <= death + INTERVAL * 2);
        }
    }
}
