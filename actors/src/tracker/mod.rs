//! The tracker: who has what, told to whoever asks. It carries no file data and dials nobody.
//!
//! ```text
//! accept loop ──> Tracker ──starts──> TrackerSession <──Greet── task that owns the socket
//!                                                                   │     ^
//!                                                   Requests/Answers│     │Order (CONFIRM, close)
//!                                                                   v     │
//!                                        RefreshScheduler <─> PeerRegistry (the catalogue) ──> TrackerEvent
//! ```
//!
//! A TrackerSession lets a connection in and reports its end. In between, the task that owns the socket
//! asks the registry itself, under the pass that it got when it greeted. It awaits the answers to what it
//! read before it reads on, so what a connection can have waiting here is one batch of requests, one
//! frame's worth of answers and one order. And it reads when it is its turn, which few have at a time:
//! what ten thousand peers send at once waits in their sockets. No queue grows with what others send.
//!
//! All of these actors live on the arbiter that starts the tracker.

#[cfg(test)]
mod deaths;
mod events;
mod registry;
mod scheduler;
mod session;
mod socket;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::base::limits::{
    HEALTH_CHECK_EVERY, LISTEN_BACKLOG, MAX_CONNECTIONS_HAVING_TURN, MAX_LONG_FRAMES,
    MAX_LONG_FRAMES_PER_ADDRESS, MAX_REFUSING_CONNECTIONS, MAX_TRACKER_CONNECTIONS,
    MAX_TRACKER_CONNECTIONS_PER_ADDRESS, MIN_REFRESH_INTERVAL, SHUTDOWN_STEP_TIMEOUT,
};
use crate::net::address::site;
use crate::net::listener::accept_until;
use crate::plan::catalogue::{Catalogue, CatalogueLimits, ConnectionId};
use crate::plan::confirmation::Schedule;
use crate::wire::Hello;
pub use events::{LeaveReason, TrackerEvent};
use registry::PeerRegistry;
use session::{Shared, TrackerSession};

/// How a tracker is to run.
#[derive(Clone, Debug)]
pub struct TrackerConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How often each peer confirms its list.
    pub refresh_interval: Duration,
}

/// Descriptors of a tracker that are not for its connections, at least: a dozen of its runtime and its
/// terminal, and some for those who are told that it is full.
const OWN_DESCRIPTORS: usize = 16;

/// The caps of a tracker, where they are not the usual ones.
#[derive(Clone, Copy, Debug)]
pub struct TrackerLimits {
    /// Connections of peers and askers.
    pub connections: usize,
    /// Of these, from one address.
    pub connections_per_address: usize,
    /// Caps of the catalogue.
    pub catalogue: CatalogueLimits,
}

impl TrackerLimits {
    /// Makes room for as many connections, if there is less: each registered peer has one.
    pub fn allow_connections(&mut self, connections: usize) {
        if connections > self.connections {
            self.take_connections(connections);
        }
    }

    /// Takes no more connections than the process has descriptors for, but for some of its own. Beyond them
    /// nobody could be accepted, and so nobody be told why.
    pub fn fit_descriptors(&mut self, descriptors: Option<u64>) {
        let descriptors = descriptors.map_or(usize::MAX, |all| usize::try_from(all).unwrap_or(usize::MAX));
        let room = descriptors.saturating_sub(OWN_DESCRIPTORS.max(descriptors / 16)).max(1);
        if room < self.connections {
            self.take_connections(room);
        }
    }

    /// Takes so many connections, three in four of them from one address.
    fn take_connections(&mut self, connections: usize) {
        self.connections = connections;
        self.connections_per_address = (connections / 4 * 3).max(1);
    }
}

impl Default for TrackerLimits {
    fn default() -> TrackerLimits {
        TrackerLimits {
            connections: MAX_TRACKER_CONNECTIONS,
            connections_per_address: MAX_TRACKER_CONNECTIONS_PER_ADDRESS,
            catalogue: CatalogueLimits::default(),
        }
    }
}

/// Why a tracker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// Somebody listens there.
    #[error("cannot listen on {0}: the port is in use; stop the other program or choose another port")]
    PortInUse(SocketAddr),
    /// The system does not let us.
    #[error("cannot listen on {0}: no permission; choose a port from 1024 on")]
    NoPermission(SocketAddr),
    /// Another failure to listen.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// An interval in which a busy machine looks dead.
    #[error("a refresh interval of {0:?} is too short; the shortest is {MIN_REFRESH_INTERVAL:?}")]
    RefreshInterval(Duration),
}

/// A running tracker. Dropping the handle leaves it running until its arbiter ends.
#[derive(Debug)]
pub struct TrackerHandle {
    /// Where it listens.
    pub address: SocketAddr,
    tracker: Addr<Tracker>,
}

impl TrackerHandle {
    /// Waits until one of the tracker's actors has ended although nobody stopped it, and says which. That
    /// is a defect, and nothing mends itself: the tracker is to be ended.
    pub async fn broken(&self) -> &'static str {
        loop {
            match self.tracker.send(FindBroken).await {
                Ok(None) => sleep(HEALTH_CHECK_EVERY).await,
                Ok(Some(name)) => return name,
                Err(_) => return "who accepts connections",
            }
        }
    }

    /// Ends the tracker in order: no new connections, the present ones closed and their peers
    /// reported as gone, then the actors. Each step takes at most [`SHUTDOWN_STEP_TIMEOUT`].
    pub async fn stop(self) {
        if self.tracker.send(Shutdown).await.is_err() {
            log::warn!("the tracker on {} had ended before it was stopped", self.address);
        }
    }
}

/// Starts a tracker on the current arbiter; connections are accepted when this returns.
///
/// # Errors
/// The address cannot be listened on, or the interval is below [`MIN_REFRESH_INTERVAL`].
///
/// # Panics
/// Outside of an actix system.
pub fn start(config: TrackerConfig, events: Recipient<TrackerEvent>) -> Result<TrackerHandle, TrackerError> {
    start_with(config, TrackerLimits::default(), events)
}

/// As [`start`], with caps of one's own.
///
/// # Errors
/// As [`start`].
///
/// # Panics
/// As [`start`].
pub fn start_with(
    config: TrackerConfig,
    limits: TrackerLimits,
    events: Recipient<TrackerEvent>,
) -> Result<TrackerHandle, TrackerError> {
    if config.refresh_interval < MIN_REFRESH_INTERVAL {
        return Err(TrackerError::RefreshInterval(config.refresh_interval));
    }
    let listener = listen(config.listen).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => TrackerError::PortInUse(config.listen),
        io::ErrorKind::PermissionDenied => TrackerError::NoPermission(config.listen),
        _ => TrackerError::Listen { address: config.listen, source },
    })?;
    let address =
        listener.local_addr().map_err(|source| TrackerError::Listen { address: config.listen, source })?;

    let actors = TaskTracker::new();
    let catalogue = Catalogue::new(limits.catalogue, fastrand::Rng::new());
    let schedule = Schedule::new(config.refresh_interval, fastrand::Rng::new());
    let registry = PeerRegistry::start_with(catalogue, schedule, config.refresh_interval, events, &actors);
    let tracker = Tracker {
        shared: Arc::new(Shared {
            registry,
            turns: Semaphore::new(MAX_CONNECTIONS_HAVING_TURN),
            long_frames: Semaphore::new(MAX_LONG_FRAMES),
            refresh_interval: config.refresh_interval,
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
        }),
        slots: Arc::new(Semaphore::new(limits.connections)),
        connections_per_address: limits.connections_per_address,
        sites: HashMap::new(),
        refusals: Arc::new(Semaphore::new(MAX_REFUSING_CONNECTIONS)),
        full: false,
        next_connection: 0,
        _alive: actors.token(),
        actors,
    };
    let (stop, tasks) = (tracker.shared.stop.clone(), tracker.shared.connections.clone());
    let tracker = tracker.start();
    let accepted = tracker.clone();
    tasks.spawn_local(accept_until(listener, stop, move |stream, from| {
        let taken = accepted.send(Accepted { stream, from });
        async move {
            // It fails when the tracker has ended; then the loop ends too.
            let _ = taken.await;
        }
    }));
    Ok(TrackerHandle { address, tracker })
}

/// A listening socket with room for many that come at once, as peers do after a restart.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // On Unix this lets a restarted tracker have its port again at once, and no second one take it.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// The tracker's own greeting. Its id is made up: nobody looks a tracker up by it.
fn own_hello() -> Hello {
    Hello::new("tracker".parse().expect("these are letters"))
}

/// A place among all connections, and one among those from its site; they are free again when this is
/// dropped.
struct Slot {
    _places: [OwnedSemaphorePermit; 2],
    /// The places of its site for long frames.
    long_frames: Arc<Semaphore>,
}

/// What the connections from one site share.
struct Site {
    connections: Arc<Semaphore>,
    long_frames: Arc<Semaphore>,
}

/// Starts a session per connection, and orders the shutdown.
struct Tracker {
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    connections_per_address: usize,
    /// The sites from which there are connections, or were a while ago.
    sites: HashMap<IpAddr, Site>,
    refusals: Arc<Semaphore>,
    /// Whether the last connection found no slot: a flood is logged once.
    full: bool,
    next_connection: u64,
    actors: TaskTracker,
    _alive: TaskTrackerToken,
}

impl Tracker {
    /// A place for a connection from this site, or why there is none.
    fn take_slot(&mut self, from: IpAddr) -> Result<Slot, &'static str> {
        let full = |_| "this tracker has as many connections as it takes; try again later";
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(full)?;
        let most = self.connections_per_address;
        // Sites that have gone are forgotten when they are more than there are connections.
        if self.sites.len() > self.shared.connections.len() {
            self.sites.retain(|_, site| site.connections.available_permits() < most);
        }
        let site = self.sites.entry(from).or_insert_with(|| Site {
            connections: Arc::new(Semaphore::new(most)),
            long_frames: Arc::new(Semaphore::new(MAX_LONG_FRAMES_PER_ADDRESS)),
        });
        let full = |_| "this tracker has as many connections from this address as it takes; try again later";
        let of_site = Arc::clone(&site.connections).try_acquire_owned().map_err(full)?;
        Ok(Slot { _places: [slot, of_site], long_frames: Arc::clone(&site.long_frames) })
    }
}

impl Actor for Tracker {
    type Context = Context<Tracker>;
}

impl Drop for Tracker {
    /// However it ends, nothing is accepted for it any more.
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// A connection came.
#[derive(Message)]
#[rtype(result = "()")]
struct Accepted {
    stream: TcpStream,
    from: SocketAddr,
}

/// End in order; answered when all is gone.
#[derive(Message)]
#[rtype(result = "()")]
struct Shutdown;

/// Which of the actors has ended unasked?
#[derive(Message)]
#[rtype(result = "Option<&'static str>")]
struct FindBroken;

/// End: sent by the one that started an actor.
#[derive(Message)]
#[rtype(result = "()")]
struct Stop;

impl Handler<Accepted> for Tracker {
    type Result = ();

    fn handle(&mut self, Accepted { stream, from }: Accepted, _: &mut Context<Tracker>) {
        // Both fail only for a connection that is closed already.
        let (Ok(reached), Ok(())) = (stream.local_addr(), stream.set_nodelay(true)) else { return };
        let slot = match self.take_slot(site(from.ip())) {
            Ok(slot) => slot,
            Err(why) => {
                if !self.full {
                    self.full = true;
                    log::warn!("{from} and more are refused: {why}");
                }
                if let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() {
                    let refusing = socket::refuse_for_want_of_room(stream, why, place);
                    let stop = self.shared.stop.clone();
                    self.shared
                        .connections
                        .spawn_local(async move { stop.run_until_cancelled(refusing).await });
                }
                return;
            }
        };
        self.full = false;
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        TrackerSession::start_on(
            session::Connection {
                id: connection,
                from: SocketAddr::new(from.ip().to_canonical(), from.port()),
                reached_at: reached.ip().to_canonical(),
            },
            stream,
            slot,
            &self.shared,
        );
    }
}

impl Handler<FindBroken> for Tracker {
    type Result = ResponseFuture<Option<&'static str>>;

    fn handle(&mut self, _: FindBroken, _: &mut Context<Tracker>) -> Self::Result {
        let answer = self.shared.registry.send(FindBroken);
        Box::pin(async move { answer.await.unwrap_or(Some("the registry of peers")) })
    }
}

impl Handler<Shutdown> for Tracker {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Shutdown, ctx: &mut Context<Tracker>) -> ResponseFuture<()> {
        self.shared.stop.cancel();
        self.shared.connections.close();
        self.actors.close();
        let (connections, actors) = (self.shared.connections.clone(), self.actors.clone());
        let registry = self.shared.registry.clone();
        // The accept loop may wait for this actor: it ends now, the steps are a task of their own.
        ctx.stop();
        Box::pin(async move {
            if timeout(SHUTDOWN_STEP_TIMEOUT, connections.wait()).await.is_err() {
                log::warn!("{} connections were not closed in time", connections.len());
            }
            registry.do_send(Stop);
            drop(registry);
            if timeout(SHUTDOWN_STEP_TIMEOUT, actors.wait()).await.is_err() {
                log::warn!("{} of the tracker's actors did not end in time", actors.len());
            }
        })
    }
}
