//! The catalogue, and every request that reads or changes it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::events::{LeaveReason, TrackerEvent};
use super::scheduler::{Due, Note, RefreshScheduler, now};
use super::session::Connection;
use super::{FindBroken, Stop};
use crate::base::PeerId;
use crate::base::limits::LIST_FRAME_BYTES;
use crate::plan::catalogue::{Catalogue, CatalogueError, Confirmation, ConnectionId, KnownPeer};
use crate::plan::confirmation::{Action, Schedule};
use crate::wire::tracker::{FromTracker, Listing, ToTracker};
use crate::wire::{ListDigest, Refusal, encode};

/// Owns the catalogue. Whatever is asked or told on any connection comes here.
pub(super) struct PeerRegistry {
    catalogue: Catalogue,
    /// The connections that speak for a peer.
    pub(super) speakers: HashMap<ConnectionId, Arc<Caller>>,
    pub(super) scheduler: Addr<RefreshScheduler>,
    lease: Duration,
    refresh_interval: Duration,
    events: Recipient<TrackerEvent>,
    /// Whether another step of what peers leave behind is due.
    is_releasing: bool,
    _alive: TaskTrackerToken,
}

/// A connection on which somebody has greeted.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) connection: Connection,
    /// Who greeted on it.
    pub(super) peer: PeerId,
    /// What is wanted of the connection, if it registers.
    pub(super) orders: watch::Sender<Order>,
}

/// What the registry wants of a connection. A newer order takes the place of one that has not been
/// carried out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Nothing yet.
    Wait,
    /// Send CONFIRM.
    Confirm(ListDigest),
    /// Close it: it speaks for nobody any more.
    Close,
    /// Its session is to panic.
    #[cfg(test)]
    Die,
}

/// Requests of one connection, in the order in which they came.
#[derive(Message)]
#[rtype(result = "Answers")]
pub(super) struct Requests {
    pub(super) from: Arc<Caller>,
    pub(super) requests: Vec<ToTracker>,
}

/// What to write.
#[derive(Debug)]
pub(super) struct Answers {
    /// The frames, one behind another.
    pub(super) frames: Vec<u8>,
    /// Requests that were not looked at, because the answers before them are a load for one
    /// connection: they come again when those are written.
    pub(super) rest: Vec<ToTracker>,
    /// Whether the connection is to be closed behind the frames.
    pub(super) close: bool,
}

/// Room for an answer, made before it is known: one with a few holders.
const TYPICAL_ANSWER_BYTES: usize = 512;

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
            CatalogueError::TooManyPeers(_)
            | CatalogueError::TooManyFiles(_)
            | CatalogueError::Full(_)
            | CatalogueError::NamesFull(_) => Refusal::Limit,
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
            speakers: HashMap::new(),
            lease: schedule.lease(),
            scheduler: RefreshScheduler::start_with(schedule, ctx.address().downgrade().recipient(), &actors),
            refresh_interval,
            events,
            is_releasing: false,
            _alive: actors.token(),
        })
    }

    /// Does what a request asks for. The answer to WHO_HAS is written at once; `asker` is who asks it,
    /// once it has been looked up.
    fn answer(
        &mut self,
        from: &Arc<Caller>,
        asker: &mut Option<Option<KnownPeer>>,
        request: ToTracker,
        frames: &mut Vec<u8>,
    ) -> Reply {
        let connection = from.connection.id;
        match request {
            ToTracker::Register { instance, port, files } => {
                *asker = None;
                self.register(from, instance, port, &files)
            }
            ToTracker::NewFile { files } => noted(self.catalogue.add(connection, &files)),
            ToTracker::RemoveFile { files } => noted(self.catalogue.remove(connection, &files)),
            ToTracker::WhoHas { question } => {
                let in_place_of_loopback = from.connection.in_place_of_loopback();
                let asker = *asker.get_or_insert_with(|| self.catalogue.known(&from.peer));
                self.catalogue.who_has(&question, asker, in_place_of_loopback, frames);
                Reply::Nothing
            }
            ToTracker::List { prefix, after, limit } => {
                let (files, more) = self.catalogue.list(&prefix, after.as_ref(), limit as usize);
                Reply::Frame(FromTracker::Files { files, more })
            }
            ToTracker::Peers { after, limit } => {
                let (mut peers, more) = self.catalogue.peers(after.as_ref(), limit as usize, now());
                peers.iter_mut().for_each(|peer| peer.address = from.connection.sees(peer.address));
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

    fn register(&mut self, from: &Arc<Caller>, instance: u64, port: u16, files: &[Listing]) -> Reply {
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
            if let Some(older) = self.speakers.remove(&older) {
                older.orders.send_replace(Order::Close);
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
        self.speakers.insert(connection, Arc::clone(from));
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
        self.speakers.remove(&connection);
        let Some(peer) = self.catalogue.disconnect(connection) else { return false };
        self.scheduler.do_send(Note::Gone(connection));
        log::info!("{peer} left: {reason}");
        self.events.do_send(TrackerEvent::PeerLeft { peer, reason });
        true
    }

    /// Has what peers have left behind released, in steps between which others are answered. A message to
    /// ourselves would not do: it comes before the tasks of this thread that have something to ask.
    fn release_soon(&mut self, ctx: &mut Context<PeerRegistry>) {
        if self.catalogue.is_releasing() && !std::mem::replace(&mut self.is_releasing, true) {
            let turn = tokio::task::yield_now().into_actor(self);
            ctx.spawn(turn.map(|(), registry, ctx| {
                registry.is_releasing = false;
                registry.catalogue.release();
                registry.release_soon(ctx);
            }));
        }
    }
}

fn noted(result: Result<(), CatalogueError>) -> Reply {
    result.map_or_else(Reply::from, |()| Reply::Frame(FromTracker::Noted))
}

impl Actor for PeerRegistry {
    type Context = Context<PeerRegistry>;
}

impl Handler<Requests> for PeerRegistry {
    type Result = MessageResult<Requests>;

    fn handle(&mut self, asked: Requests, ctx: &mut Context<PeerRegistry>) -> MessageResult<Requests> {
        let Requests { from, requests } = asked;
        let mut frames = Vec::with_capacity(requests.len() * TYPICAL_ANSWER_BYTES);
        let mut close = false;
        let mut asker = None;
        let mut requests = requests.into_iter();
        while frames.len() < LIST_FRAME_BYTES
            && !close
            && let Some(request) = requests.next()
        {
            let frame = match self.answer(&from, &mut asker, request, &mut frames) {
                Reply::Nothing => None,
                Reply::Frame(frame) => Some(frame),
                Reply::Last(frame) => {
                    close = true;
                    frame
                }
            };
            if let Some(frame) = frame {
                encode(&frame, &mut frames).expect("an answer is cut to what a frame takes");
            }
        }
        self.release_soon(ctx);
        MessageResult(Answers { frames, rest: requests.collect(), close })
    }
}

impl Handler<ConnectionEnded> for PeerRegistry {
    type Result = ();

    fn handle(&mut self, ended: ConnectionEnded, ctx: &mut Context<PeerRegistry>) {
        let left = self.leave(ended.connection, LeaveReason::ConnectionEnded(ended.why.clone()));
        if !left && ended.faulty {
            log::warn!("{}: {}", ended.from, ended.why);
        }
        self.release_soon(ctx);
    }
}

impl Handler<Due> for PeerRegistry {
    type Result = ();

    fn handle(&mut self, Due(actions): Due, ctx: &mut Context<PeerRegistry>) {
        for action in actions {
            match action {
                Action::Confirm(connection) => {
                    // It may have left since; then there is nobody to ask.
                    if let Some(digest) = self.catalogue.digest(connection)
                        && let Some(speaker) = self.speakers.get(&connection)
                    {
                        speaker.orders.send_replace(Order::Confirm(digest));
                    }
                }
                Action::Out(connection) => {
                    let speaker = self.speakers.remove(&connection);
                    self.leave(connection, LeaveReason::Unconfirmed);
                    if let Some(speaker) = speaker {
                        speaker.orders.send_replace(Order::Close);
                    }
                }
            }
        }
        self.release_soon(ctx);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FileId;
    use crate::deaths::{probe, run};
    use crate::plan::catalogue::CatalogueLimits;

    /// How many entries there are: a question after which nothing is released.
    #[derive(Message)]
    #[rtype(result = "usize")]
    struct Entries;

    impl Handler<Entries> for PeerRegistry {
        type Result = usize;

        fn handle(&mut self, _: Entries, _: &mut Context<PeerRegistry>) -> usize {
            self.catalogue.counts().entries
        }
    }

    #[test]
    fn a_long_list_that_is_left_behind_is_released_without_anybody_asking_for_it() {
        run(|| async {
            let (connection, from) = (ConnectionId(1), SocketAddr::from(([127, 0, 0, 1], 7000)));
            let mut catalogue = Catalogue::new(CatalogueLimits::default(), fastrand::Rng::with_seed(1));
            catalogue.register(&"p1".parse().unwrap(), 1, connection, from, now()).unwrap();
            let listing = |n: usize| Listing {
                name: n.to_string().parse().unwrap(),
                id: FileId::from_bytes([1; 32]),
                size: 1,
                complete: true,
            };
            catalogue.add(connection, &(0..5000).map(listing).collect::<Vec<_>>()).unwrap();
            let interval = Duration::from_secs(60);
            let schedule = Schedule::new(interval, fastrand::Rng::with_seed(1));
            let registry =
                PeerRegistry::start_with(catalogue, schedule, interval, probe().0, &TaskTracker::new());
            assert_eq!(registry.send(Entries).await, Ok(5000));
            let ended = ConnectionEnded { connection, from, why: "it was closed".into(), faulty: false };
            registry.send(ended).await.unwrap();
            let mut left = Vec::new();
            while left.last() != Some(&0) {
                left.push(registry.send(Entries).await.unwrap());
                tokio::task::yield_now().await;
            }
            assert!(left.len() > 2, "others have a turn between: {left:?}");
        });
    }
}
