//! A real tracker and real peers, in the test's system.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use actix::Recipient;
use enxame_actors::base::PeerId;
use enxame_actors::peer::tracker_client::TrackerClients;
use enxame_actors::peer::tracker_link::TrackerNews;
use enxame_actors::peer::{Peer, PeerConfig, PeerError};
use enxame_actors::tracker::{self, TrackerConfig, TrackerEvent, TrackerHandle};
use enxame_actors::wire::Hello;
use enxame_actors::wire::tracker::Candidate;
use tokio::sync::mpsc;

use super::harness::{PortWatch, Test};
use super::job::{Trackers, what};
use super::probe::Probe;

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

    /// Starts a peer on this root.
    pub async fn start_in(test: &Test, trackers: impl Trackers, id: &str, root: PathBuf) -> RealPeer {
        let (news, heard) = Probe::start();
        let files = root.join(id).join("files");
        let started = start_peer(trackers, id, root, Some(news));
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
    let id: PeerId = id.parse().expect("a peer id");
    let listen = ([127, 0, 0, 1], 0).into();
    let trackers = trackers.addresses();
    Peer::start(PeerConfig { id, root, listen, trackers, wants: Vec::new() }, news).await
}
