//! One connection of a tracker: who is behind it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::registry::{Caller, ConnectionEnded, Order, PeerRegistry, refused};
use super::{Slot, socket};
use crate::base::limits::MAX_AGENT_BYTES;
use crate::net::link::{LinkError, Readable};
use crate::net::reached::{in_place_of_loopback, seen_by};
use crate::plan::catalogue::ConnectionId;
use crate::wire::tracker::{FromTracker, ToTracker};
use crate::wire::{Refusal, VERSION};

/// A connection as the tracker sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    /// Where it comes from; the IP is canonical.
    pub(super) from: SocketAddr,
    /// The address of ours that it dialled, canonical.
    pub(super) reached_at: IpAddr,
}

impl Connection {
    /// A holder's address as it is told on this connection.
    pub(super) fn sees(&self, holder: SocketAddr) -> SocketAddr {
        seen_by(holder, self.from.ip(), self.reached_at)
    }

    /// What stands in place of the loopback addresses of holders on this connection.
    pub(super) fn in_place_of_loopback(&self) -> Option<IpAddr> {
        in_place_of_loopback(self.from.ip(), self.reached_at)
    }
}

/// What all connections of a tracker share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) registry: Addr<PeerRegistry>,
    /// Whoever has one may bring requests before the registry.
    pub(super) turns: Semaphore,
    /// Whoever has one may hold more than little of a frame that is not whole.
    pub(super) long_frames: Semaphore,
    pub(super) refresh_interval: Duration,
    /// Ends them all.
    pub(super) stop: CancellationToken,
    /// The accept loop, the sessions and their sockets.
    pub(super) connections: TaskTracker,
}

/// Decides whom a connection lets in, and reports its end; a task of its own moves the bytes, and asks
/// the registry under the pass that it was given here.
pub(super) struct TrackerSession {
    connection: Connection,
    registry: Addr<PeerRegistry>,
    orders: watch::Sender<Order>,
    /// Whether the registry was told that the connection is gone.
    has_ended: bool,
    _alive: TaskTrackerToken,
}

/// The first message that came: it has to be HELLO in our version.
#[derive(Message)]
#[rtype(result = "Greeted")]
pub(super) struct Greet(pub(super) ToTracker);

/// What is said to it.
#[derive(Debug, MessageResponse)]
pub(super) enum Greeted {
    /// HELLO; what comes now is asked under this pass.
    Welcome(Arc<Caller>),
    /// HELLO and this, and no more.
    Refused(FromTracker),
}

/// The socket's task has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SocketEnded(pub(super) Result<(), LinkError>);

impl TrackerSession {
    /// Starts a session and the task that owns its socket.
    pub(super) fn start_on(
        connection: Connection,
        stream: impl AsyncRead + AsyncWrite + Readable + Unpin + 'static,
        slot: Slot,
        shared: &Arc<Shared>,
    ) {
        let (orders, ordered) = watch::channel(Order::Wait);
        let session = TrackerSession {
            connection,
            registry: shared.registry.clone(),
            orders,
            has_ended: false,
            _alive: shared.connections.token(),
        };
        let task = socket::run(stream, slot, session.start(), ordered, Arc::clone(shared));
        shared.connections.spawn_local(task);
    }

    fn end(&mut self, why: String, faulty: bool) {
        self.has_ended = true;
        let Connection { id: connection, from, .. } = self.connection;
        self.registry.do_send(ConnectionEnded { connection, from, why, faulty });
    }
}

impl Actor for TrackerSession {
    type Context = Context<TrackerSession>;
}

impl Drop for TrackerSession {
    /// However it ends, its connection speaks for nobody any more.
    fn drop(&mut self) {
        if !self.has_ended {
            self.orders.send_replace(Order::Close);
            self.end("the tracker closed the connection".into(), false);
        }
    }
}

impl Handler<Greet> for TrackerSession {
    type Result = Greeted;

    fn handle(&mut self, Greet(first): Greet, _: &mut Context<TrackerSession>) -> Greeted {
        let (refusal, why) = match first {
            ToTracker::Hello(hello) if hello.version != VERSION => {
                (Refusal::Version, hello.version_mismatch())
            }
            ToTracker::Hello(hello) if hello.agent.len() > MAX_AGENT_BYTES => {
                (Refusal::Protocol, "the description in HELLO is too long".into())
            }
            ToTracker::Hello(hello) => {
                let (connection, orders) = (self.connection, self.orders.clone());
                return Greeted::Welcome(Arc::new(Caller { connection, peer: hello.peer, orders }));
            }
            _ => (Refusal::Protocol, "the first message was not HELLO".into()),
        };
        log::warn!("{} was refused: {why}", self.connection.from);
        Greeted::Refused(refused(refusal, why))
    }
}

impl Handler<SocketEnded> for TrackerSession {
    type Result = ();

    fn handle(&mut self, SocketEnded(end): SocketEnded, ctx: &mut Context<TrackerSession>) {
        let faulty = matches!(end, Err(LinkError::Frame(_)));
        let why = end.map_or_else(|error| error.to_string(), |()| "the tracker closed the connection".into());
        self.end(why, faulty);
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::pin::Pin;
    use std::task::Poll;

    use tokio::io::{AsyncBufRead, AsyncWriteExt, BufReader, DuplexStream, duplex};
    use tokio::task::LocalSet;
    use tokio::time::Instant;

    use crate::base::limits::{
        HELLO_TIMEOUT, IDLE_TIMEOUT, LINGER_TIMEOUT, REQUEST_TIMEOUT, SHORT_FRAME_BYTES, WRITE_STALL_TIMEOUT,
    };
    use crate::base::{FileId, Question};
    use crate::net::ControlLink;
    use crate::plan::catalogue::{Catalogue, CatalogueLimits};
    use crate::plan::confirmation::Schedule;
    use crate::tracker::deaths::Events;
    use crate::wire::tracker::Listing;
    use crate::wire::{Hello, encode};

    /// A pipe does not tell that something has come without giving it.
    impl Readable for BufReader<DuplexStream> {
        fn poll_readable(&mut self, context: &mut std::task::Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(self).poll_fill_buf(context).map_ok(drop)
        }
    }

    /// What sessions share where one has a turn, and one a place for a long frame.
    fn shared() -> Arc<Shared> {
        let interval = Duration::from_secs(30);
        let schedule = Schedule::new(interval, fastrand::Rng::with_seed(1));
        let catalogue = Catalogue::new(CatalogueLimits::default(), fastrand::Rng::with_seed(1));
        let events = Events.start().recipient();
        let registry = PeerRegistry::start_with(catalogue, schedule, interval, events, &TaskTracker::new());
        Arc::new(Shared {
            registry,
            turns: Semaphore::new(1),
            long_frames: Semaphore::new(1),
            refresh_interval: interval,
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
        })
    }

    /// A session on a pipe that holds `pipe_bytes` either way; the other end.
    fn connect(shared: &Arc<Shared>, number: u64, pipe_bytes: usize) -> DuplexStream {
        let (theirs, ours) = duplex(pipe_bytes);
        let from = ([10, 0, 0, 1], 9).into();
        let connection = Connection { id: ConnectionId(number), from, reached_at: from.ip() };
        let place = || Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let slot = Slot { _places: [place(), place()], long_frames: Arc::new(Semaphore::new(2)) };
        TrackerSession::start_on(connection, BufReader::new(ours), slot, shared);
        theirs
    }

    /// The other end of a session's pipe, and the session's tasks.
    fn session(pipe_bytes: usize) -> (DuplexStream, TaskTracker) {
        let shared = shared();
        let theirs = connect(&shared, 1, pipe_bytes);
        shared.connections.close();
        (theirs, shared.connections.clone())
    }

    async fn greeted(stream: DuplexStream) -> ControlLink<DuplexStream> {
        let mut link = ControlLink::new(stream);
        link.write(&[hello()]).await.unwrap();
        link.read::<FromTracker>().await.unwrap();
        link.hello_is_done();
        link
    }

    /// The frame of a list that is much longer than what may be held of an unfinished one.
    fn long_frame() -> Vec<u8> {
        let listing = |number: usize| Listing {
            name: format!("{number:0100}").parse().unwrap(),
            id: FileId::from_bytes([1; 32]),
            size: 1,
            complete: true,
        };
        let mut frame = Vec::new();
        encode(&ToTracker::NewFile { files: (0..1000).map(listing).collect() }, &mut frame).unwrap();
        assert!(frame.len() > 8 * SHORT_FRAME_BYTES);
        frame
    }

    fn hello() -> ToTracker {
        ToTracker::Hello(Hello::new("p1".parse().unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_greet_is_dropped_after_ten_seconds_however_busy_it_looks() {
        let story = async {
            let start = Instant::now();
            let (_silent, tasks) = session(1024);
            tasks.wait().await;
            assert_eq!(start.elapsed(), HELLO_TIMEOUT);

            let start = Instant::now();
            let (mut trickling, tasks) = session(1024);
            let mut greeting = Vec::new();
            encode(&hello(), &mut greeting).unwrap();
            let trickle = async {
                for byte in greeting {
                    if trickling.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            tokio::join!(trickle, tasks.wait());
            assert!(start.elapsed() <= HELLO_TIMEOUT + Duration::from_secs(1), "{:?}", start.elapsed());
        };
        LocalSet::new().run_until(story).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_more_is_dropped_after_two_minutes() {
        let story = async {
            let start = Instant::now();
            let (stream, tasks) = session(1024);
            let mut link = ControlLink::new(stream);
            link.write(&[hello()]).await.unwrap();
            link.read::<FromTracker>().await.unwrap();
            tasks.wait().await;
            assert_eq!(start.elapsed(), IDLE_TIMEOUT);
        };
        LocalSet::new().run_until(story).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_all_turns_are_taken_waits_where_it_comes_from() {
        let story = async {
            let shared = shared();
            let mut link = greeted(connect(&shared, 1, 8 << 10)).await;
            let turn = shared.turns.acquire().await.unwrap();
            // More than the pipe holds, so that all of it is taken only if somebody reads.
            let name = vec!["x".repeat(200); 5].join("/").parse().unwrap();
            let question = ToTracker::WhoHas { question: Question::Name { name, prefix: None } };
            let asking = async {
                link.write(&vec![question; 40]).await.unwrap();
                link.read::<FromTracker>().await.unwrap()
            };
            tokio::pin!(asking);
            tokio::time::timeout(WRITE_STALL_TIMEOUT / 2, &mut asking).await.expect_err("nobody reads");
            drop(turn);
            let answer = asking.await;
            assert_eq!(answer, FromTracker::Candidates { candidates: Vec::new() });
        };
        LocalSet::new().run_until(story).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_frame_may_be_slow_as_long_as_there_are_places_for_others() {
        let story = async {
            let shared = shared();
            shared.long_frames.add_permits(1);
            let (mut slow, _) = greeted(connect(&shared, 1, 1024)).await.into_parts();
            let start = Instant::now();
            for piece in long_frame().chunks(2 * SHORT_FRAME_BYTES) {
                tokio::time::sleep(REQUEST_TIMEOUT).await;
                slow.write_all(piece).await.unwrap();
            }
            let mut link = ControlLink::new(slow);
            link.hello_is_done();
            let answer = link.read::<FromTracker>().await.unwrap();
            assert!(!matches!(answer, FromTracker::Refused { refusal: Refusal::Limit, .. }), "{answer:?}");
            assert!(start.elapsed() > 3 * REQUEST_TIMEOUT, "{:?}", start.elapsed());
        };
        LocalSet::new().run_until(story).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_frame_that_trickles_ends_its_connection_after_ten_seconds() {
        let story = async {
            let (stream, tasks) = session(1024);
            let (mut trickling, _) = greeted(stream).await.into_parts();
            let start = Instant::now();
            let frame = long_frame();
            let (front, rest) = frame.split_at(2 * SHORT_FRAME_BYTES);
            trickling.write_all(front).await.unwrap();
            assert_eq!(start.elapsed(), Duration::ZERO, "who has a place is read");
            let trickle = async {
                for byte in rest {
                    if trickling.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            tokio::join!(trickle, tasks.wait());
            // And a second until the next byte shows it.
            let most = REQUEST_TIMEOUT + LINGER_TIMEOUT + Duration::from_secs(1);
            assert!(start.elapsed() <= most, "{:?}", start.elapsed());
        };
        LocalSet::new().run_until(story).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_frame_that_has_no_place_waits_where_it_comes_from() {
        let story = async {
            let shared = shared();
            let (mut first, _) = greeted(connect(&shared, 1, 1024)).await.into_parts();
            let (mut second, _) = greeted(connect(&shared, 2, 1024)).await.into_parts();
            let start = Instant::now();
            let frame = long_frame();
            first.write_all(&frame[..2 * SHORT_FRAME_BYTES]).await.unwrap();
            let written = Cell::new(0);
            let write = async {
                for piece in frame.chunks(512) {
                    second.write_all(piece).await.unwrap();
                    written.set(written.get() + piece.len());
                }
            };
            tokio::select! {
                biased;
                () = write => panic!("all of it was taken"),
                () = tokio::time::sleep(REQUEST_TIMEOUT / 2) => {}
            }
            // And what is in the pipe, and in what a socket is here.
            assert!((SHORT_FRAME_BYTES..=SHORT_FRAME_BYTES + 1024 + 8192).contains(&written.get()));
            second.write_all(&frame[written.get()..]).await.unwrap();
            assert_eq!(start.elapsed(), REQUEST_TIMEOUT, "it has the place of the first one");
            let mut link = ControlLink::new(second);
            link.hello_is_done();
            link.read::<FromTracker>().await.unwrap();
            assert_eq!(start.elapsed(), REQUEST_TIMEOUT);
        };
        LocalSet::new().run_until(story).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_and_does_not_read_is_dropped_after_thirty_seconds() {
        let story = async {
            let start = Instant::now();
            let (stream, tasks) = session(4096);
            let mut link = ControlLink::new(stream);
            link.write(&[hello()]).await.unwrap();
            let ask = ToTracker::Peers { after: None, limit: 1 };
            // It takes in a batch of these, and no more of them while it cannot write.
            let asking = async { while link.write(std::slice::from_ref(&ask)).await.is_ok() {} };
            tokio::join!(asking, tasks.wait());
            assert_eq!(start.elapsed(), WRITE_STALL_TIMEOUT);
        };
        LocalSet::new().run_until(story).await;
    }
}
