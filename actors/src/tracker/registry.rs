//! The catalogue, and every request that reads or changes it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::events::{LeaveReason, TrackerEvent};
use super::scheduler::{Due, Note, RefreshScheduler, now};
use super::session::Order;
use super::{FindBroken, Stop, session};
use crate::base::PeerId;
use crate::base::limits::LIST_FRAME_BYTES;
use crate::net::reached::seen_by;
use crate::plan::catalogue::{
    ANSWER_ENTRY_BYTES, Catalogue, CatalogueError, Confirmation, ConnectionId, candidate_bytes,
};
use crate::plan::confirmation::{Action, Schedule};
use crate::wire::Refusal;
use crate::wire::tracker::{FromTracker, Listing, ToTracker};

/// Owns the catalogue. Whatever is asked or told on any connection comes here.
pub(super) struct PeerRegistry {
    catalogue: Catalogue,
    /// The sessions that speak for a peer.
    pub(super) sessions: HashMap<ConnectionId, Recipient<Order>>,
    pub(super) scheduler: Addr<RefreshScheduler>,
    lease: Duration,
    refresh_interval: Duration,
    events: Recipient<TrackerEvent>,
    _alive: TaskTrackerToken,
}

/// Requests of one connection, in the order in which they came.
#[derive(Message)]
#[rtype(result = "Answers")]
pub(super) struct Requests {
    pub(super) connection: session::Connection,
    /// Who greeted on it.
    pub(super) peer: PeerId,
    pub(super) requests: Vec<ToTracker>,
    /// Where CONFIRM goes, if the connection registers.
    pub(super) session: Recipient<Order>,
}

/// What to write.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) frames: Vec<FromTracker>,
    /// Requests that were not looked at, because the answers before them are a load for one
    /// connection: they come again when those are written.
    pub(super) rest: Vec<ToTracker>,
    /// Whether the connection is to be closed behind the frames.
    pub(super) close: bool,
}

/// A connection is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct ConnectionEnded {
    pub(super) connection: ConnectionId,
    pub(super) from: SocketAddr,
    pub(super) why: String,
    /// Whether the other side broke the protocol.
    pub(super) faulty: bool,
}

/// What follows from one request.
enum Reply {
    Nothing,
    Frame(FromTracker),
    /// The connection ends behind it.
    Last(Option<FromTracker>),
}

/// A refusal as a frame.
pub(super) fn refused(refusal: Refusal, why: impl Into<String>) -> FromTracker {
    FromTracker::Refused { refusal, why: why.into() }
}

impl From<CatalogueError> for Reply {
    fn from(error: CatalogueError) -> Reply {
        let refusal = match error {
            CatalogueError::NotRegistered => Refusal::NotRegistered,
            CatalogueError::PeerIdTaken { .. } => Refusal::PeerIdTaken,
            CatalogueError::TooManyPeers(_) | CatalogueError::TooManyFiles(_) | CatalogueError::Full(_) => {
                Refusal::Limit
            }
        };
        Reply::Frame(refused(refusal, error.to_string()))
    }
}

impl PeerRegistry {
    /// Starts the registry and, below it, the clock of confirmation.
    pub(super) fn start_with(
        catalogue: Catalogue,
        schedule: Schedule,
        refresh_interval: Duration,
        events: Recipient<TrackerEvent>,
        actors: &TaskTracker,
    ) -> Addr<PeerRegistry> {
        let actors = actors.clone();
        PeerRegistry::create(move |ctx| PeerRegistry {
            catalogue,
            sessions: HashMap::new(),
            lease: schedule.lease(),
            scheduler: RefreshScheduler::start_with(schedule, ctx.address().downgrade().recipient(), &actors),
            refresh_interval,
            events,
            _alive: actors.token(),
        })
    }

    fn answer(&mut self, from: &Requests, request: ToTracker) -> Reply {
        let connection = from.connection.id;
        let seen = |address| seen_by(address, from.connection.from.ip(), from.connection.reached_at);
        match request {
            ToTracker::Register { instance, port, files } => self.register(from, instance, port, &files),
            ToTracker::NewFile { files } => noted(self.catalogue.add(connection, &files)),
            ToTracker::RemoveFile { files } => noted(self.catalogue.remove(connection, &files)),
            ToTracker::WhoHas { question } => {
                let mut candidates = self.catalogue.who_has(&question, Some(&from.peer));
                for holder in candidates.iter_mut().flat_map(|candidate| &mut candidate.holders) {
                    holder.address = seen(holder.address);
                }
                Reply::Frame(FromTracker::Candidates { candidates })
            }
            ToTracker::List { prefix, after, limit } => {
                let (files, more) = self.catalogue.list(&prefix, after.as_ref(), limit as usize);
                Reply::Frame(FromTracker::Files { files, more })
            }
            ToTracker::Peers { after, limit } => {
                let (mut peers, more) = self.catalogue.peers(after.as_ref(), limit as usize, now());
                peers.iter_mut().for_each(|peer| peer.address = seen(peer.address));
                Reply::Frame(FromTracker::Peers { peers, more })
            }
            ToTracker::Confirmed { digest } => {
                match self.catalogue.confirmed(connection, digest, now()) {
                    Ok(Confirmation::Same) => self.scheduler.do_send(Note::Confirmed(connection)),
                    Ok(Confirmation::Differs(_)) => {
                        log::warn!("{} has another list than it told; it is asked again", from.peer);
                        self.scheduler.do_send(Note::Differed(connection));
                    }
                    // Nothing to confirm, and CONFIRMED has no answer.
                    Err(_) => {}
                }
                Reply::Nothing
            }
            ToTracker::Disconnect => {
                self.leave(connection, LeaveReason::Disconnected);
                Reply::Last(None)
            }
            ToTracker::Hello(_) => Reply::Last(Some(refused(
                Refusal::Protocol,
                "a second HELLO on one connection; it is the first message and no other",
            ))),
        }
    }

    fn register(&mut self, from: &Requests, instance: u64, port: u16, files: &[Listing]) -> Reply {
        let connection = from.connection.id;
        if port == 0 {
            let why = "a peer that registers states the port on which it serves, and 0 is none";
            return Reply::Frame(refused(Refusal::Protocol, why));
        }
        let address = SocketAddr::new(from.connection.from.ip(), port);
        let registered = match self.catalogue.register(&from.peer, instance, connection, address, now()) {
            Ok(registered) => registered,
            Err(error) => {
                log::info!("{} from {} was refused: {error}", from.peer, from.connection.from);
                return error.into();
            }
        };
        if let Some(older) = registered.replaced {
            self.scheduler.do_send(Note::Gone(older));
            if let Some(session) = self.sessions.remove(&older) {
                session.do_send(Order::Close);
            }
        }
        if let Err(error) = self.catalogue.add(connection, files) {
            if registered.joined {
                self.catalogue.disconnect(connection);
                log::info!("{} from {} was refused: {error}", from.peer, from.connection.from);
            } else {
                self.leave(connection, LeaveReason::NoRoom(error.to_string()));
            }
            return error.into();
        }
        self.sessions.insert(connection, from.session.clone());
        self.scheduler.do_send(Note::Registered(connection));
        let (peer, files) = (from.peer.clone(), files.len());
        if registered.joined {
            log::info!("{peer} joined from {address} with {files} files");
            self.events.do_send(TrackerEvent::PeerJoined { peer, address, files });
        } else if registered.replaced.is_some() {
            log::info!("{peer} returned on a new connection from {address} with {files} files");
            self.events.do_send(TrackerEvent::PeerReturned { peer, address, files });
        }
        Reply::Frame(FromTracker::Registered {
            lease_ms: self.lease.as_millis() as u64,
            refresh_interval_ms: self.refresh_interval.as_millis() as u64,
        })
    }

    /// Ends a connection's registration, and says whether it had one.
    fn leave(&mut self, connection: ConnectionId, reason: LeaveReason) -> bool {
        self.sessions.remove(&connection);
        let Some(peer) = self.catalogue.disconnect(connection) else { return false };
        self.scheduler.do_send(Note::Gone(connection));
        log::info!("{peer} left: {reason}");
        self.events.do_send(TrackerEvent::PeerLeft { peer, reason });
        true
    }
}

fn noted(result: Result<(), CatalogueError>) -> Reply {
    result.map_or_else(Reply::from, |()| Reply::Frame(FromTracker::Noted))
}

/// Bytes of an answer in its frame, at most.
fn answer_bytes(frame: &FromTracker) -> usize {
    ANSWER_ENTRY_BYTES
        + match frame {
            FromTracker::Candidates { candidates } => candidates.iter().map(candidate_bytes).sum(),
            FromTracker::Files { files, .. } => {
                files.iter().map(|file| file.name.as_str().len() + ANSWER_ENTRY_BYTES).sum()
            }
            FromTracker::Peers { peers, .. } => {
                peers.iter().map(|peer| peer.peer.as_str().len() + ANSWER_ENTRY_BYTES).sum()
            }
            FromTracker::Refused { why, .. } => why.len(),
            FromTracker::Hello(_)
            | FromTracker::Registered { .. }
            | FromTracker::Noted
            | FromTracker::Confirm { .. } => 0,
        }
}

impl Actor for PeerRegistry {
    type Context = Context<PeerRegistry>;
}

impl Handler<Requests> for PeerRegistry {
    type Result = MessageResult<Requests>;

    fn handle(&mut self, mut from: Requests, _: &mut Context<PeerRegistry>) -> MessageResult<Requests> {
        let mut answers = Answers::default();
        let mut answered_bytes = 0;
        let mut requests = std::mem::take(&mut from.requests).into_iter();
        while answered_bytes < LIST_FRAME_BYTES
            && !answers.close
            && let Some(request) = requests.next()
        {
            let frame = match self.answer(&from, request) {
                Reply::Nothing => None,
                Reply::Frame(frame) => Some(frame),
                Reply::Last(frame) => {
                    answers.close = true;
                    frame
                }
            };
            answered_bytes += frame.as_ref().map_or(0, answer_bytes);
            answers.frames.extend(frame);
        }
        answers.rest = requests.collect();
        MessageResult(answers)
    }
}

impl Handler<ConnectionEnded> for PeerRegistry {
    type Result = ();

    fn handle(&mut self, ended: ConnectionEnded, _: &mut Context<PeerRegistry>) {
        let left = self.leave(ended.connection, LeaveReason::ConnectionEnded(ended.why.clone()));
        if !left && ended.faulty {
            log::warn!("{}: {}", ended.from, ended.why);
        }
    }
}

impl Handler<Due> for PeerRegistry {
    type Result = ();

    fn handle(&mut self, Due(actions): Due, _: &mut Context<PeerRegistry>) {
        for action in actions {
            match action {
                Action::Confirm(connection) => {
                    // It may have left since; then there is nobody to ask.
                    if let Some(digest) = self.catalogue.digest(connection)
                        && let Some(session) = self.sessions.get(&connection)
                    {
                        session.do_send(Order::Push(FromTracker::Confirm { digest }));
                    }
                }
                Action::Out(connection) => {
                    let session = self.sessions.remove(&connection);
                    self.leave(connection, LeaveReason::Unconfirmed);
                    if let Some(session) = session {
                        session.do_send(Order::Close);
                    }
                }
            }
        }
    }
}

impl Handler<FindBroken> for PeerRegistry {
    type Result = Option<&'static str>;

    fn handle(&mut self, _: FindBroken, _: &mut Context<PeerRegistry>) -> Self::Result {
        (!self.scheduler.connected()).then_some("the clock of confirmation")
    }
}

impl Handler<Stop> for PeerRegistry {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<PeerRegistry>) {
        self.scheduler.do_send(Stop);
        ctx.stop();
    }
}
