//! A real tracker and real peers, in the test's system.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use actix::Recipient;
use enxame_actors::base::PeerId;
use enxame_actors::net::{ControlLink, LinkError};
use enxame_actors::peer::tracker_client::TrackerClients;
use enxame_actors::peer::tracker_link::TrackerNews;
use enxame_actors::peer::{Peer, PeerConfig, PeerError, RateLimits};
use enxame_actors::tracker::{self, TrackerConfig, TrackerEvent, TrackerHandle};
use enxame_actors::wire::Hello;
use enxame_actors::wire::tracker::{Candidate, FromTracker, ToTracker};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::harness::{PortWatch, Test};
use super::job::{Trackers, what};
use super::probe::Probe;
use super::proxy::{Fault, FaultProxy, listen};

/// An interval in which no test meets a CONFIRM.
pub const NEVER: Duration = Duration::from_secs(3600);

/// A tracker that runs.
pub struct RealTracker {
    handle: TrackerHandle,
    pub events: mpsc::Receiver<TrackerEvent>,
    watch: PortWatch,
}

impl RealTracker {
    /// Listens on a free port of 127.0.0.1.
    pub fn start(test: &Test, refresh_interval: Duration) -> RealTracker {
        RealTracker::start_at(test, ([127, 0, 0, 1], 0).into(), refresh_interval)
    }

    /// Listens there.
    pub fn start_at(test: &Test, listen: SocketAddr, refresh_interval: Duration) -> RealTracker {
        let (recipient, events) = Probe::start();
        let handle = tracker::start(TrackerConfig { listen, refresh_interval }, recipient);
        let handle = handle.expect("a tracker");
        let watch = test.watch(handle.address);
        RealTracker { handle, events, watch }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.handle.address
    }

    /// Ends it in order.
    pub async fn stop(self) {
        self.watch.test().wait_for("the tracker's end", self.handle.stop()).await;
    }

    /// What it answers to WHO_HAS.
    pub async fn who_has(&self, text: &str) -> Vec<Candidate> {
        self.asker().await.who_has(&what(text)).await
    }

    /// A connection for asking.
    pub async fn asker(&self) -> TrackerClients {
        let hello = Hello::new("asker".parse().expect("a peer id"));
        let asker = TrackerClients::connect(&[self.address().into()], &hello).await;
        assert!(asker.failures().is_empty(), "{:?}", asker.failures());
        asker
    }

    /// Asks until the answer is as wanted. Each answer is awaited, so this turns as fast as the
    /// tracker answers and no faster; the harness's deadline ends it.
    pub async fn until(
        &self,
        what_for: &str,
        text: &str,
        mut fits: impl FnMut(&[Candidate]) -> bool,
    ) -> Vec<Candidate> {
        let mut asker = self.asker().await;
        let asking = async {
            loop {
                let candidates = asker.who_has(&what(text)).await;
                assert!(!asker.is_none_left(), "{:?}", asker.failures());
                if fits(&candidates) {
                    return candidates;
                }
            }
        };
        self.watch.test().wait_for(format!("WHO_HAS {text} to show {what_for}"), asking).await
    }
}

/// A peer that runs, its folder, and what it says of its tracker.
pub struct RealPeer {
    pub peer: Peer,
    /// The shared folder.
    pub files: PathBuf,
    pub news: mpsc::Receiver<TrackerNews>,
    watch: PortWatch,
}

impl RealPeer {
    /// The folder that a peer with this id shares below `root`, created.
    pub fn files_of(root: &std::path::Path, id: &str) -> PathBuf {
        let files = root.join(id).join("files");
        std::fs::create_dir_all(&files).expect("a test's folder");
        files
    }

    /// Starts a peer on a new root, with a folder into which `fill` puts files first.
    pub async fn start(
        test: &Test,
        trackers: impl Trackers,
        id: &str,
        fill: impl FnOnce(&std::path::Path),
    ) -> RealPeer {
        let root = test.folder();
        let files = RealPeer::files_of(&root, id);
        fill(&files);
        RealPeer::start_in(test, trackers, id, root).await
    }

    /// As [`RealPeer::start`], with limits.
    pub async fn start_limited(
        test: &Test,
        trackers: impl Trackers,
        id: &str,
        limits: RateLimits,
        fill: impl FnOnce(&std::path::Path),
    ) -> RealPeer {
        let root = test.folder();
        fill(&RealPeer::files_of(&root, id));
        RealPeer::start_limited_in(test, trackers, id, root, limits).await
    }

    /// Starts a peer on this root.
    pub async fn start_in(test: &Test, trackers: impl Trackers, id: &str, root: PathBuf) -> RealPeer {
        RealPeer::start_limited_in(test, trackers, id, root, RateLimits::default()).await
    }

    async fn start_limited_in(
        test: &Test,
        trackers: impl Trackers,
        id: &str,
        root: PathBuf,
        limits: RateLimits,
    ) -> RealPeer {
        let (news, heard) = Probe::start();
        let files = root.join(id).join("files");
        let started = start_limited_peer(trackers, id, root, limits, Some(news));
        let peer = test.wait_for(format!("{id} to be ready"), started).await.expect("a peer");
        let watch = test.watch(peer.address());
        RealPeer { peer, files, news: heard, watch }
    }

    /// Ends it in order.
    pub async fn stop(self) {
        let RealPeer { peer, watch, .. } = self;
        watch.test().wait_for("the peer's end", peer.stop()).await;
    }
}

/// What makes all others reach a peer through a proxy, and the peer know nothing of it: it stands between
/// the peer and its tracker, and states the proxy's port there.
pub struct Detour {
    address: SocketAddr,
    proxy: oneshot::Receiver<FaultProxy>,
    watch: PortWatch,
    _relaying: JoinSet<()>,
}

impl Detour {
    /// In front of this tracker; the proxy will have this script.
    pub fn start(test: &Test, tracker: SocketAddr, script: Vec<Fault>) -> Detour {
        let (listener, address) = listen();
        let (made, proxy) = oneshot::channel();
        let mut proxy_of = Made { test: test.clone(), script, made: Some(made), port: None };
        let mut relaying = JoinSet::new();
        relaying.spawn(async move {
            // A peer has one connection to its tracker at a time.
            loop {
                let (peer, _) = listener.accept().await.expect("a test has descriptors to spare");
                let mut link = ControlLink::new(peer);
                // Either side may end it, and comes back if it wants.
                let _ = relay(&mut link, tracker, &mut proxy_of).await;
                link.finish().await;
            }
        });
        Detour { address, proxy, watch: test.watch(address), _relaying: relaying }
    }

    /// What the peer is told as its tracker.
    pub fn tracker(&self) -> SocketAddr {
        self.address
    }

    /// The proxy, which is there when the peer has registered; the peer is reached as long as it lives.
    pub async fn proxy(&mut self) -> FaultProxy {
        let made = self.watch.test().wait_for("a peer to register by a detour", &mut self.proxy).await;
        made.expect("it is asked for once")
    }
}

/// The proxy of a detour, once it is known where the peer listens.
struct Made {
    test: Test,
    script: Vec<Fault>,
    made: Option<oneshot::Sender<FaultProxy>>,
    port: Option<u16>,
}

impl Made {
    fn port_for(&mut self, peer: u16) -> u16 {
        *self.port.get_or_insert_with(|| {
            let proxy = FaultProxy::start(&self.test, ([127, 0, 0, 1], peer).into(), self.script.clone());
            let port = proxy.address().port();
            let made = self.made.take().expect("it is made once");
            assert!(made.send(proxy).is_ok(), "a test keeps a detour as long as its peer");
            port
        })
    }
}

async fn relay(
    peer: &mut ControlLink<TcpStream>,
    tracker: SocketAddr,
    proxy: &mut Made,
) -> Result<std::convert::Infallible, LinkError> {
    let mut tracker = ControlLink::new(TcpStream::connect(tracker).await?);
    loop {
        tokio::select! {
            said = peer.read::<ToTracker>() => {
                let mut said = said?;
                match &mut said {
                    ToTracker::Hello(_) => peer.hello_is_done(),
                    ToTracker::Register { port, .. } => *port = proxy.port_for(*port),
                    _ => {}
                }
                tracker.write(&[said]).await?;
            }
            heard = tracker.read::<FromTracker>() => {
                let heard = heard?;
                if matches!(heard, FromTracker::Hello(_)) {
                    tracker.hello_is_done();
                }
                peer.write(&[heard]).await?;
            }
        }
    }
}

/// Starts a peer on a free port of 127.0.0.1.
///
/// # Errors
/// As [`Peer::start`].
pub async fn start_peer(
    trackers: impl Trackers,
    id: &str,
    root: PathBuf,
    news: Option<Recipient<TrackerNews>>,
) -> Result<Peer, PeerError> {
    start_limited_peer(trackers, id, root, RateLimits::default(), news).await
}

async fn start_limited_peer(
    trackers: impl Trackers,
    id: &str,
    root: PathBuf,
    limits: RateLimits,
    news: Option<Recipient<TrackerNews>>,
) -> Result<Peer, PeerError> {
    let id: PeerId = id.parse().expect("a peer id");
    let listen = ([127, 0, 0, 1], 0).into();
    let trackers = trackers.addresses();
    Peer::start(PeerConfig { id, root, listen, trackers, wants: Vec::new(), progress: None, limits }, news)
        .await
}
