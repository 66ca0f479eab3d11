//! Starting and ending a peer and a fetch, in order.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix::prelude::*;
use actix_rt::Arbiter;
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::base::limits::{
    HEALTH_CHECK_EVERY, RESERVED_PREFIX, SHUTDOWN_STEP_TIMEOUT, TRACKER_START_TIMEOUT,
};
use crate::base::{ByteRate, PeerId, What};
use crate::content::folder::Folder;
use crate::content::part::Unfinished;
use crate::net::{Limiter, TrackerAddress};
use crate::peer::block_server::{BlockServer, BlockServerConfig, Serving, StopServing};
use crate::peer::dialling::Dialling;
use crate::peer::downloader::{AwaitJob, CancelJob, Destination, Downloader, DownloaderConfig, Want};
use crate::peer::events::JobEvent;
use crate::peer::library::{
    self, AwaitReady, FirstScan, FolderError, Hashing, Library, LibraryConfig, ListChanged, Subscribe,
    TakeUnfinished,
};
use crate::peer::memory::Memory;
use crate::peer::shelf::{CloseShelf, SharedFiles, Shelf};
use crate::peer::threads::{DataThreads, Turns};
use crate::peer::tracker_link::TrackerNews;
use crate::peer::trackers::{
    AwaitTracker, HasAllLinks, LeaveAll, Remembers, TrackerFailure, Trackers, TrackersConfig, WhoHas,
};

/// Limits on the data that a process moves, all connections together.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimits {
    /// On what it sends.
    pub upload: Option<ByteRate>,
    /// On what it receives.
    pub download: Option<ByteRate>,
}

/// What a peer is started with.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Its id.
    pub id: PeerId,
    /// It shares `root/ID/files`.
    pub root: PathBuf,
    /// Where it listens; port 0 for any.
    pub listen: SocketAddr,
    /// Its trackers, each once: it registers with all that answer.
    pub trackers: Vec<TrackerAddress>,
    /// What it is about to fetch. If no tracker answers, it starts all the same when it remembers
    /// holders of one of these.
    pub wants: Vec<What>,
    /// Who hears how far the hashing of its folder is.
    pub progress: Option<Recipient<Hashing>>,
    /// How fast it may send and receive.
    pub limits: RateLimits,
}

/// Why a peer or a fetch could not start.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The folder cannot be used.
    #[error("{}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No tracker answered, or one refused.
    #[error(transparent)]
    Tracker(#[from] TrackerFailure),
    /// The system has no more threads.
    #[error("threads cannot be started: {0}")]
    Threads(io::Error),
}

impl From<FolderError> for PeerError {
    fn from(error: FolderError) -> PeerError {
        PeerError::Folder { path: error.path, source: io::Error::new(error.kind, error.why) }
    }
}

/// A peer that runs.
pub struct Peer {
    id: PeerId,
    address: SocketAddr,
    first_scan: FirstScan,
    unfinished: Vec<Unfinished>,
    files: Arc<Folder>,
    pub(crate) library: Addr<Library>,
    pub(crate) trackers: Addr<Trackers>,
    pub(crate) shelf: Addr<Shelf>,
    pub(crate) server: Addr<BlockServer>,
    pub(crate) dialling: Addr<Dialling>,
    threads: DataThreads,
    /// The limit on all its downloads, of whatever job.
    download: Option<Limiter>,
}

impl Peer {
    /// Starts a peer; its folder is indexed, or what takes long of that is under way, and it is
    /// registered and its list told to a tracker at least, when this returns. Has to be called in an actix system.
    ///
    /// # Errors
    /// A folder or an address that cannot be used, no tracker that answers, or one at which another
    /// process has the peer id. What was started is ended again.
    pub async fn start(config: PeerConfig, news: Option<Recipient<TrackerNews>>) -> Result<Peer, PeerError> {
        let home = config.root.join(config.id.as_str());
        let folder = |source| PeerError::Folder { path: home.join("files"), source };
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| PeerError::Listen { address: config.listen, source })?;
        let address =
            listener.local_addr().map_err(|source| PeerError::Listen { address: config.listen, source })?;
        let is_new = !home.exists();
        let files = Arc::new(Folder::open_or_create(&home.join("files")).map_err(folder)?);
        let state = home.join(RESERVED_PREFIX);
        let memory = tokio::task::spawn_blocking(move || Memory::load(state)).await;
        let threads = DataThreads::start().map_err(PeerError::Threads)?;
        let library = Library::start(
            LibraryConfig { root: home.clone(), watch: true, progress: config.progress },
            &Arbiter::current(),
        );
        let trackers = Trackers::start(TrackersConfig {
            trackers: config.trackers,
            us: config.id.clone(),
            port: address.port(),
            rescan: Some(library.clone().recipient()),
            is_lazy: false,
            news,
            memory: Some(memory.expect("it does not panic, and the runtime lives")),
        });
        let RateLimits { upload, download } = config.limits;
        let upload = upload.map(Limiter::new);
        let (shelf, server) = serve(&config.id, listener, Some(&library), &trackers, threads.turns(), upload);
        let mut peer = Peer {
            id: config.id,
            address,
            first_scan: FirstScan::default(),
            unfinished: Vec::new(),
            files,
            library,
            trackers,
            shelf,
            server,
            dialling: Dialling::default().start(),
            threads,
            download: download.map(Limiter::new),
        };
        match peer.get_ready(config.wants).await {
            Ok(()) => Ok(peer),
            Err(error) => {
                peer.stop().await;
                if is_new {
                    remove_unused(&home);
                }
                Err(error)
            }
        }
    }

    /// Waits until the first index is complete, or long enough, and told. The tracker is asked first: nobody should
    /// wait for a long scan to hear that there is no tracker.
    async fn get_ready(&mut self, wants: Vec<What>) -> Result<(), PeerError> {
        let is_alone = match self.registered().await {
            Ok(()) => false,
            Err(failure @ TrackerFailure::NoAnswer(_)) if self.remembers(wants).await => {
                log::warn!("{failure}; starting without, for holders are remembered of what is wanted");
                true
            }
            Err(failure) => return Err(failure.into()),
        };
        // From here on the trackers hear of every file as it is hashed.
        if let Ok(added) = self.library.send(Subscribe(self.trackers.clone().recipient())).await {
            self.trackers.do_send(ListChanged { added, removed: Vec::new() });
        }
        if let Ok(first_scan) = self.library.send(AwaitReady).await {
            self.first_scan = first_scan?;
        }
        self.unfinished = self.library.send(TakeUnfinished).await.unwrap_or_default();
        if is_alone { Ok(()) } else { Ok(self.registered().await?) }
    }

    async fn registered(&self) -> Result<(), TrackerFailure> {
        let registered = self.trackers.send(AwaitTracker { within: TRACKER_START_TIMEOUT }).await;
        registered.expect("who asks the trackers lives until it is told to leave")
    }

    async fn remembers(&self, wants: Vec<What>) -> bool {
        self.trackers.send(Remembers(wants)).await.unwrap_or(false)
    }

    /// Its id.
    pub fn id(&self) -> &PeerId {
        &self.id
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the first look at its folder led to.
    pub fn first_scan(&self) -> FirstScan {
        self.first_scan
    }

    /// The actor that owns the folder.
    pub fn library(&self) -> &Addr<Library> {
        &self.library
    }

    /// Starts to fetch files into the shared folder, each under its whole name. What cannot be had
    /// now is told as failed, and tried again until it can, or the job is cancelled.
    pub fn fetch(&self, wants: Vec<What>, overwrite: bool, events: Recipient<JobEvent>) -> Job {
        self.start_job(&[], wants, overwrite, events)
    }

    /// [`Peer::fetch`], and in the same job what is [`Peer::unfinished`], each under the name that it
    /// was to have. One job, for two would get in each other's way where both want the same file.
    pub fn go_on(&self, wants: Vec<What>, overwrite: bool, events: Recipient<JobEvent>) -> Job {
        self.start_job(&self.unfinished, wants, overwrite, events)
    }

    /// Downloads into its folder that former runs began and did not finish.
    pub fn unfinished(&self) -> &[Unfinished] {
        &self.unfinished
    }

    fn start_job(
        &self,
        unfinished: &[Unfinished],
        wants: Vec<What>,
        overwrite: bool,
        events: Recipient<JobEvent>,
    ) -> Job {
        let go_on = |unfinished: &Unfinished| Want {
            what: What::from(unfinished.id),
            to: Destination::File { folder: Arc::clone(&self.files), name: unfinished.name.clone() },
        };
        let share = |what| Want { what, to: Destination::Share(Arc::clone(&self.files)) };
        Job(Downloader::start(DownloaderConfig {
            us: self.id.clone(),
            wants: unfinished.iter().map(go_on).chain(wants.into_iter().map(share)).collect(),
            overwrite,
            is_patient: true,
            listens_on: self.address,
            tracker: self.trackers.clone().recipient::<WhoHas>(),
            tracker_of_many: self.trackers.clone().recipient(),
            lists: self.trackers.clone().recipient(),
            memory: self.trackers.clone().recipient(),
            permits: (&self.dialling).into(),
            library: Some(self.library.clone().recipient()),
            shelf: self.shelf.clone().recipient(),
            events,
            threads: self.threads.turns(),
            limiter: self.download.clone(),
            seed: fastrand::u64(..),
        }))
    }

    /// Waits until one of the peer's actors has ended although nobody stopped it, and says which. That is
    /// a defect, and nothing mends itself: the peer is to be ended.
    pub async fn broken(&self) -> &'static str {
        loop {
            for (name, lives) in [
                ("the library", self.library.connected()),
                ("the shelf", self.shelf.connected()),
                ("the block server", self.server.connected()),
                ("who permits dials", self.dialling.connected()),
                ("who speaks with the trackers", self.trackers.send(HasAllLinks).await.unwrap_or(false)),
            ] {
                if !lives {
                    return name;
                }
            }
            sleep(HEALTH_CHECK_EVERY).await;
        }
    }

    /// Ends the peer in order: no more uploads, DISCONNECT, index flushed, threads joined. Jobs are
    /// cancelled by who started them, before.
    pub async fn stop(self) {
        step("the block server", self.server.send(StopServing)).await;
        step("the links to the trackers", self.trackers.send(LeaveAll)).await;
        step("the shelf", self.shelf.send(CloseShelf)).await;
        step("the library", self.library.send(library::Stop)).await;
        self.threads.stop().await;
    }
}

/// Removes the folder of a peer that never came to be, unless something was put into it meanwhile.
fn remove_unused(home: &Path) {
    let removed = std::fs::remove_dir(home.join("files"))
        .and_then(|()| std::fs::remove_dir_all(home.join(RESERVED_PREFIX)))
        .and_then(|()| std::fs::remove_dir(home));
    if let Err(error) = removed {
        log::debug!("{} stays: {error}", home.display());
    }
}

/// Starts what serves: a shelf, and a block server that serves what is on it.
fn serve(
    us: &PeerId,
    listener: TcpListener,
    library: Option<&Addr<Library>>,
    trackers: &Addr<Trackers>,
    threads: Turns,
    limiter: Option<Limiter>,
) -> (Addr<Shelf>, Addr<BlockServer>) {
    let library = library.map(|library| SharedFiles {
        open: library.clone().recipient(),
        read: library.clone().recipient(),
        suspect: library.clone().recipient(),
    });
    let (shelf, grown) = Shelf::start(library, trackers.clone().recipient());
    let serving = Serving {
        open: shelf.clone().recipient(),
        read: shelf.clone().recipient(),
        suspect: shelf.clone().recipient(),
        others: trackers.clone().recipient(),
    };
    let config = BlockServerConfig { us: us.clone(), serving, growth: grown, threads, limiter };
    let server = BlockServer::start(listener, config);
    (shelf, server)
}

/// Waits for one step of a shutdown, but not for ever.
async fn step<T, E>(what: &str, ended: impl Future<Output = Result<T, E>>) {
    if tokio::time::timeout(2 * SHUTDOWN_STEP_TIMEOUT, ended).await.is_err() {
        log::warn!("{what} did not end in time; it is cut short");
    }
}

/// A download job that runs.
#[derive(Clone)]
pub struct Job(pub(crate) Addr<Downloader>);

impl Job {
    /// Waits until every wanted file is done or has failed, which was told as events.
    pub async fn wait(&self) {
        // A job that has gone is over.
        let _ = self.0.send(AwaitJob).await;
    }

    /// Gives up what is not done; part files stay. [`Job::wait`] tells when it is over.
    pub fn cancel(&self) {
        self.0.do_send(CancelJob);
    }
}

/// What a fetch is started with.
pub struct FetchConfig {
    /// The name under which it is known while it runs.
    pub us: PeerId,
    /// The trackers, each once.
    pub trackers: Vec<TrackerAddress>,
    /// The wanted files.
    pub wants: Vec<Want>,
    /// Whether other contents at their places are replaced.
    pub overwrite: bool,
    /// How fast it may send and receive.
    pub limits: RateLimits,
}

/// A job of its own, without a shared folder. While it runs, it serves what it has already.
pub struct Fetch {
    job: Job,
    pub(crate) trackers: Addr<Trackers>,
    pub(crate) shelf: Addr<Shelf>,
    pub(crate) server: Addr<BlockServer>,
    threads: DataThreads,
}

impl Fetch {
    /// Starts to fetch. Has to be called in an actix system.
    ///
    /// # Errors
    /// The system has no more threads, or no port to serve from.
    pub fn start(config: FetchConfig, events: Recipient<JobEvent>) -> Result<Fetch, PeerError> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listen = |source| PeerError::Listen { address: any, source };
        let listener = StdTcpListener::bind(any).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let listener = TcpListener::from_std(listener).map_err(listen)?;
        let listens_on = listener.local_addr().map_err(listen)?;
        let threads = DataThreads::start().map_err(PeerError::Threads)?;
        let trackers = Trackers::start(TrackersConfig {
            trackers: config.trackers,
            us: config.us.clone(),
            port: listens_on.port(),
            rescan: None,
            // A job that has nothing to share yet, or never will, is no peer.
            is_lazy: true,
            news: None,
            memory: None,
        });
        let RateLimits { upload, download } = config.limits;
        let upload = upload.map(Limiter::new);
        let (shelf, server) = serve(&config.us, listener, None, &trackers, threads.turns(), upload);
        let job = Job(Downloader::start(DownloaderConfig {
            us: config.us,
            wants: config.wants,
            overwrite: config.overwrite,
            is_patient: false,
            listens_on,
            tracker: trackers.clone().recipient(),
            tracker_of_many: trackers.clone().recipient(),
            lists: trackers.clone().recipient(),
            memory: trackers.clone().recipient(),
            permits: (&Dialling::default().start()).into(),
            library: None,
            shelf: shelf.clone().recipient(),
            events,
            threads: threads.turns(),
            limiter: download.map(Limiter::new),
            seed: fastrand::u64(..),
        }));
        Ok(Fetch { job, trackers, shelf, server, threads })
    }

    /// The job.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Waits until the job is over, then leaves.
    pub async fn finish(self) {
        self.job.wait().await;
        step("the links to the trackers", self.trackers.send(LeaveAll)).await;
        step("the block server", self.server.send(StopServing)).await;
        step("the shelf", self.shelf.send(CloseShelf)).await;
        self.threads.stop().await;
    }
}

/// Opens the folder into which files are fetched.
///
/// # Errors
/// It is missing or cannot be entered.
pub fn open_folder(path: &Path) -> Result<Arc<Folder>, PeerError> {
    Folder::open(path).map(Arc::new).map_err(|source| PeerError::Folder { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_of_a_shutdown_that_never_ends_is_cut_short() {
        let start = tokio::time::Instant::now();
        step("what has ended", ready(Ok::<(), ()>(()))).await;
        assert_eq!(start.elapsed().as_secs(), 0);
        step("what hangs", pending::<Result<(), ()>>()).await;
        assert_eq!(start.elapsed(), 2 * SHUTDOWN_STEP_TIMEOUT);
    }
}
