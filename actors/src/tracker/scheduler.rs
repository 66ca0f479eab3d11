//! The clock of confirmation.

use std::time::Instant;

use actix::WeakRecipient;
use actix::prelude::*;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Stop;
use crate::plan::catalogue::ConnectionId;
use crate::plan::confirmation::{Action, Schedule};

/// Says when a peer is to confirm its list, and when it is out. One timer, for the next deadline of
/// all: an actor with a timer per peer would poll each of them with every message.
pub(super) struct RefreshScheduler {
    schedule: Schedule,
    registry: WeakRecipient<Due>,
    timer: Option<(Instant, SpawnHandle)>,
    _alive: TaskTrackerToken,
}

/// What became of a registered connection.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) enum Note {
    /// It registered, perhaps again.
    Registered(ConnectionId),
    /// It confirmed its list.
    Confirmed(ConnectionId),
    /// It answered CONFIRM, and has another list than the catalogue.
    Differed(ConnectionId),
    /// Its registration ended.
    Gone(ConnectionId),
}

/// What is to be done now.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Due(pub(super) Vec<Action>);

impl RefreshScheduler {
    pub(super) fn start_with(
        schedule: Schedule,
        registry: WeakRecipient<Due>,
        actors: &TaskTracker,
    ) -> Addr<RefreshScheduler> {
        RefreshScheduler { schedule, registry, timer: None, _alive: actors.token() }.start()
    }

    fn tell(&self, actions: Vec<Action>) {
        if let Some(registry) = self.registry.upgrade().filter(|_| !actions.is_empty()) {
            registry.do_send(Due(actions));
        }
    }

    /// Sees to it that the timer rings no later than the next deadline. One that rings early, for a
    /// deadline that has gone, finds nothing due: cheaper than to set it anew with each answer.
    fn arm(&mut self, ctx: &mut Context<RefreshScheduler>) {
        let Some(deadline) = self.schedule.next_deadline() else { return };
        if let Some((rings, timer)) = self.timer {
            if rings <= deadline {
                return;
            }
            ctx.cancel_future(timer);
        }
        let timer = ctx.run_later(deadline.saturating_duration_since(now()), |this, ctx| {
            this.timer = None;
            let actions = this.schedule.due(now());
            this.tell(actions);
            this.arm(ctx);
        });
        self.timer = Some((deadline, timer));
    }
}

/// Tokio's clock, so that a test that holds it holds this one.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Actor for RefreshScheduler {
    type Context = Context<RefreshScheduler>;
}

impl Handler<Note> for RefreshScheduler {
    type Result = ();

    fn handle(&mut self, note: Note, ctx: &mut Context<RefreshScheduler>) {
        match note {
            Note::Registered(connection) => self.schedule.registered(connection, now()),
            Note::Confirmed(connection) => self.schedule.answered(connection, now()),
            Note::Gone(connection) => self.schedule.gone(connection),
            Note::Differed(connection) => {
                if self.schedule.differed(connection, now()) {
                    self.tell(vec![Action::Confirm(connection)]);
                }
            }
        }
        self.arm(ctx);
    }
}

impl Handler<Stop> for RefreshScheduler {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<RefreshScheduler>) {
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::task::LocalSet;
    use tokio::time::{Instant, sleep, timeout_at};

    const INTERVAL: Duration = Duration::from_secs(30);

    /// In place of the registry.
    struct Orders(mpsc::Sender<Action>);

    impl Actor for Orders {
        type Context = Context<Orders>;
    }

    impl Handler<Due> for Orders {
        type Result = ();
        fn handle(&mut self, Due(actions): Due, _: &mut Context<Orders>) {
            actions.into_iter().for_each(|action| self.0.try_send(action).expect("they are read"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_peer_is_asked_once_per_interval_and_a_silent_one_is_out_within_two() {
        let story = async {
            let (ordered, mut orders) = mpsc::channel(1000);
            let registry = Orders(ordered).start();
            let schedule = Schedule::new(INTERVAL, fastrand::Rng::with_seed(3));
            let actors = TaskTracker::new();
            let weak = registry.downgrade().recipient();
            let scheduler = RefreshScheduler::start_with(schedule, weak, &actors);
            // They come one after another, so that a later one is often due before an earlier one.
            let start = Instant::now();
            for n in 0..100 {
                scheduler.do_send(Note::Registered(ConnectionId(n)));
                sleep(Duration::from_millis(10)).await;
            }
            let (mut asked, mut out) = (HashMap::<ConnectionId, u32>::new(), HashMap::new());
            let end = start + Duration::from_secs(1) + INTERVAL * 5;
            while let Ok(Some(order)) = timeout_at(end, orders.recv()).await {
                match order {
                    Action::Confirm(peer) => {
                        *asked.entry(peer).or_default() += 1;
                        if peer.0 % 2 == 0 {
                            scheduler.do_send(Note::Confirmed(peer));
                        }
                    }
                    Action::Out(peer) => drop(out.insert(peer, start.elapsed())),
                }
            }
            for n in 0..100 {
                let peer = ConnectionId(n);
                let (times, left) = (asked[&peer], out.get(&peer));
                if n % 2 == 0 {
                    assert!((5..=6).contains(&times) && left.is_none(), "{n}: {times} {left:?}");
                } else {
                    let registered = Duration::from_millis(10) * n as u32;
                    assert_eq!(times, 2, "{n}");
                    assert!(left.is_some_and(|left| *left <= registered + INTERVAL * 2), "{n}: {left:?}");
                }
            }
            scheduler.do_send(Stop);
            actors.close();
            actors.wait().await;
        };
        LocalSet::new().run_until(story).await;
    }
}
