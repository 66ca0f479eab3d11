//! The actor of one connection to one remote peer, for all files of a job.
//!
//! It takes orders from the job and reports facts to it; a task owns the socket. It ends exactly
//! once, with a reason. What was in flight then is known to the job's plan.

use std::net::SocketAddr;
use std::ops::Range;

use actix::prelude::*;
use actix_rt::ArbiterHandle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use crate::base::limits::MAX_REQUESTS_IN_FLIGHT;
use crate::base::{FileId, Geometry, PeerId, SpanIndex, SpanSet};
use crate::content::tree::SpanHash;
use crate::net::limiter::Limiter;
use crate::peer::assembler::{Handoff, Outcome};
use crate::peer::dialling::DialPermits;
use crate::peer::source_task::SourceTask;
use crate::plan::{Ending, FileIndex, Request, SourceId};
use crate::wire::tracker::Holder;

/// Orders that may wait for the task: the plan asks for no more spans than
/// [`MAX_REQUESTS_IN_FLIGHT`], and opens at most as many files.
const ORDERS: usize = 2 * MAX_REQUESTS_IN_FLIGHT;

/// Which connection to make.
pub struct SourceConfig {
    /// Its number in the job's plan.
    pub source: SourceId,
    /// Who we are.
    pub us: PeerId,
    /// Who is there.
    pub peer: PeerId,
    /// Where.
    pub address: SocketAddr,
    /// Whether it may be dialled now.
    pub permits: DialPermits,
    /// The limit on all downloads together.
    pub limiter: Option<Limiter>,
    /// Where spans go.
    pub handoff: Handoff,
    /// Where facts go.
    pub facts: Recipient<SourceReport>,
}

/// The actor.
pub struct SourceConnection {
    source: SourceId,
    facts: Recipient<SourceReport>,
    orders: mpsc::Sender<Order>,
    stop: CancellationToken,
    /// Why the job wants its end, until the task has ended.
    ending: Option<Ending>,
    has_ended: bool,
}

impl SourceConnection {
    /// Starts the actor on one of the data threads; it dials at once.
    pub fn start_on(thread: &ArbiterHandle, config: SourceConfig) -> Addr<SourceConnection> {
        let (orders, taken) = mpsc::channel(ORDERS);
        Self::start_in_arbiter(thread, move |ctx| {
            let stop = CancellationToken::new();
            let (source, facts) = (config.source, config.facts.clone());
            let task = SourceTask::new(config, taken, ctx.address().recipient(), stop.clone());
            actix_rt::spawn(task.run());
            SourceConnection { source, facts, orders, stop, ending: None, has_ended: false }
        })
    }

    /// Has the task end; its end is the source's.
    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        self.stop.cancel();
    }
}

impl Actor for SourceConnection {
    type Context = Context<Self>;
}

impl Drop for SourceConnection {
    /// However it ends, the job hears of it.
    fn drop(&mut self) {
        self.stop.cancel();
        if !self.has_ended {
            let fact = SourceFact::Ended(Ending::Cut("its actor has ended".into()));
            self.facts.do_send(SourceReport { source: self.source, fact });
        }
    }
}

/// What the job wants of a source.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum Order {
    /// Ask what it has of a file.
    Open {
        /// The file.
        file: FileIndex,
        /// Its id.
        id: FileId,
        /// The size in bytes that it has to state.
        size: u64,
        /// Whether the manifest is needed.
        manifest: bool,
    },
    /// Fetch spans: which ones of which file, its id and its geometry. All that is asked for at the same
    /// time is one order, for each wakes another thread.
    Get(Vec<(Request, FileId, Geometry)>),
    /// Ask who else has a file.
    Peers {
        /// The file.
        file: FileIndex,
        /// Its id.
        id: FileId,
    },
    /// End, because of what the job found out.
    End(Ending),
}

/// A fact about a source.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SourceReport {
    /// The source.
    pub source: SourceId,
    /// The fact.
    pub fact: SourceFact,
}

/// What a source did.
#[derive(Debug)]
pub enum SourceFact {
    /// HELLO is done.
    Connected,
    /// It has this of a file.
    Opened {
        /// The file.
        file: FileIndex,
        /// The size it states, in bytes.
        size: u64,
        /// What it has: `None` for all, else a bit per span.
        spans: Option<bytes::Bytes>,
        /// The manifest, if it was asked for and the file has one.
        manifest: Option<Vec<SpanHash>>,
    },
    /// It has got these spans of a file too.
    Have {
        /// The file's id.
        id: FileId,
        /// Numbers of the spans, as it states them.
        spans: Vec<u32>,
    },
    /// It says that these have a file too.
    Holders {
        /// The file.
        file: FileIndex,
        /// Whom it knows of.
        holders: Vec<Holder>,
    },
    /// It does not have this file (any more).
    Missing {
        /// The file.
        file: FileIndex,
    },
    /// It has given these spans to others, and so does not send them on a fresh request.
    Taken {
        /// The file.
        file: FileIndex,
        /// The spans that were asked for and do not come.
        spans: Range<u32>,
        /// All that it has given to others.
        given: SpanSet,
    },
    /// Spans came and were dealt with.
    Settled(Vec<(FileIndex, SpanIndex, Outcome)>),
    /// It is over.
    Ended(Ending),
}

impl Handler<Order> for SourceConnection {
    type Result = ();

    fn handle(&mut self, order: Order, _: &mut Self::Context) {
        if let Order::End(ending) = order {
            return self.end(ending);
        }
        if let Err(TrySendError::Full(_)) = self.orders.try_send(order) {
            self.end(Ending::Stalled(crate::base::limits::SOURCE_DEAD_TIMEOUT));
        }
    }
}

/// What the task saw. Awaited by the task, so that facts cannot pile up.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct TaskFact(pub SourceFact);

impl Handler<TaskFact> for SourceConnection {
    type Result = ();

    fn handle(&mut self, TaskFact(fact): TaskFact, ctx: &mut Self::Context) {
        let fact = match fact {
            // The last word of the task.
            SourceFact::Ended(ending) => {
                self.has_ended = true;
                ctx.stop();
                SourceFact::Ended(self.ending.take().unwrap_or(ending))
            }
            fact => fact,
        };
        self.facts.do_send(SourceReport { source: self.source, fact });
    }
}
