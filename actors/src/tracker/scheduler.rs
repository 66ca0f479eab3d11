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
