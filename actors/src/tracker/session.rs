//! One connection of a tracker: who is behind it, and what it is asked and told.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use actix::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::registry::{Answers, ConnectionEnded, PeerRegistry, Requests, refused};
use super::{Slot, own_hello, socket};
use crate::base::PeerId;
use crate::base::limits::{MAX_AGENT_BYTES, MAX_PENDING_PUSHES};
use crate::net::LinkError;
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

/// Decides what the messages of one connection mean; a task of its own moves the bytes.
pub(super) struct TrackerSession {
    connection: Connection,
    /// Who greeted; `None` before HELLO.
    peer: Option<PeerId>,
    registry: Addr<PeerRegistry>,
    pushes: mpsc::Sender<FromTracker>,
    stop: CancellationToken,
    /// Whether the registry was told that the connection is gone.
    has_ended: bool,
    _alive: TaskTrackerToken,
}

/// Messages that came, in order; the socket is read again when the answers are written.
#[derive(Message)]
#[rtype(result = "Answers")]
pub(super) struct Frames(pub(super) Vec<ToTracker>);

/// What the registry wants of a session.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) enum Order {
    /// Send this.
    Push(FromTracker),
    /// Close the connection: it speaks for nobody any more.
    Close,
    /// Panic.
    #[cfg(test)]
    Die,
}

/// The socket's task has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SocketEnded(pub(super) Result<(), LinkError>);

impl TrackerSession {
    /// Starts a session and the task that owns its socket.
    pub(super) fn start_on(
        connection: Connection,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        slot: Slot,
        refresh_interval: Duration,
        registry: &Addr<PeerRegistry>,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) {
        let (pushes, to_push) = mpsc::channel(MAX_PENDING_PUSHES);
        let stop = stop.child_token();
        let session = TrackerSession {
            connection,
            peer: None,
            registry: registry.clone(),
            pushes,
            stop: stop.clone(),
            has_ended: false,
            _alive: tasks.token(),
        }
        .start();
        tasks.spawn_local(socket::run(stream, slot, session, to_push, stop, refresh_interval));
    }

    fn end(&mut self, why: String, faulty: bool) {
        self.has_ended = true;
        let Connection { id: connection, from, .. } = self.connection;
        self.registry.do_send(ConnectionEnded { connection, from, why, faulty });
    }

    /// The first message: it has to be HELLO in our version.
    fn greet(&mut self, first: Option<ToTracker>) -> Answers {
        let refusal = match first {
            Some(ToTracker::Hello(hello)) if hello.version != VERSION => {
                refused(Refusal::Version, hello.version_mismatch())
            }
            Some(ToTracker::Hello(hello)) if hello.agent.len() > MAX_AGENT_BYTES => {
                refused(Refusal::Protocol, "the description in HELLO is too long")
            }
            Some(ToTracker::Hello(hello)) => {
                self.peer = Some(hello.peer);
                let frames = vec![FromTracker::Hello(own_hello())];
                return Answers { frames, ..Answers::default() };
            }
            _ => refused(Refusal::Protocol, "the first message was not HELLO"),
        };
        if let FromTracker::Refused { why, .. } = &refusal {
            log::warn!("{} was refused: {}", self.connection.from, why.escape_debug());
        }
        let frames = vec![FromTracker::Hello(own_hello()), refusal];
        Answers { frames, close: true, ..Answers::default() }
    }
}

impl Actor for TrackerSession {
    type Context = Context<TrackerSession>;
}

impl Drop for TrackerSession {
    /// However it ends, it speaks for nobody any more.
    fn drop(&mut self) {
        if !self.has_ended {
            self.stop.cancel();
            self.end("the tracker closed the connection".into(), false);
        }
    }
}

impl Handler<Frames> for TrackerSession {
    type Result = ResponseFuture<Answers>;

    fn handle(&mut self, Frames(frames): Frames, ctx: &mut Context<TrackerSession>) -> Self::Result {
        let Some(peer) = self.peer.clone() else {
            let mut frames = frames.into_iter();
            let mut answers = self.greet(frames.next());
            answers.rest = frames.collect();
            return Box::pin(std::future::ready(answers));
        };
        let answers = self.registry.send(Requests {
            connection: self.connection,
            peer,
            requests: frames,
            session: ctx.address().recipient(),
        });
        // Without a registry the tracker is ending.
        Box::pin(async move { answers.await.unwrap_or(Answers { close: true, ..Answers::default() }) })
    }
}

impl Handler<Order> for TrackerSession {
    type Result = ();

    fn handle(&mut self, order: Order, _: &mut Context<TrackerSession>) {
        match order {
            // One CONFIRM waits at a time, or two: more of them mean that the socket takes nothing.
            Order::Push(frame) => {
                if self.pushes.try_send(frame).is_err() {
                    self.stop.cancel();
                }
            }
            Order::Close => self.stop.cancel(),
            #[cfg(test)]
            Order::Die => panic!("a session dies"),
        }
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
    use std::sync::Arc;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::Semaphore;
    use tokio::task::LocalSet;
    use tokio::time::Instant;

    use crate::base::limits::{HELLO_TIMEOUT, IDLE_TIMEOUT, WRITE_STALL_TIMEOUT};
    use crate::net::ControlLink;
    use crate::plan::catalogue::{Catalogue, CatalogueLimits};
    use crate::plan::confirmation::Schedule;
    use crate::tracker::TrackerEvent;
    use crate::wire::{Hello, encode};

    struct Events;

    impl Actor for Events {
        type Context = Context<Events>;
    }

    impl Handler<TrackerEvent> for Events {
        type Result = ();
        fn handle(&mut self, _: TrackerEvent, _: &mut Context<Events>) {}
    }

    /// A session on a pipe that holds `pipe_bytes` either way, its other end, and its tasks.
    fn session(pipe_bytes: usize) -> (DuplexStream, TaskTracker) {
        let interval = Duration::from_secs(30);
        let schedule = Schedule::new(interval, fastrand::Rng::with_seed(1));
        let catalogue = Catalogue::new(CatalogueLimits::default(), fastrand::Rng::with_seed(1));
        let events = Events.start().recipient();
        let registry = PeerRegistry::start_with(catalogue, schedule, interval, events, &TaskTracker::new());
        let (theirs, ours) = duplex(pipe_bytes);
        let from = ([10, 0, 0, 1], 9).into();
        let connection = Connection { id: ConnectionId(1), from, reached_at: from.ip() };
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        TrackerSession::start_on(connection, ours, slot, interval, &registry, &stop, &tasks);
        tasks.close();
        (theirs, tasks)
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
