//! A download job as a test sees it: what it was asked for, and all that it told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix::Recipient;
use enxame_actors::base::limits::RESERVED_PREFIX;
use enxame_actors::base::{FileName, PeerId, What};
use enxame_actors::content::folder::Folder;
use enxame_actors::net::TrackerAddress;
use enxame_actors::peer::events::{FileDone, JobError, JobEvent, SourceState};
use enxame_actors::peer::{self, Destination, Fetch, FetchConfig, RateLimits, Want, open_folder};
use tokio::sync::mpsc;

use super::files::Content;
use super::harness::Test;
use super::probe::Probe;

/// What somebody types.
pub fn what(text: &str) -> What {
    text.parse().expect("it can be asked for")
}

/// The trackers of a peer or a job: one, or several.
pub trait Trackers {
    /// Where they are.
    fn addresses(self) -> Vec<TrackerAddress>;
}

impl Trackers for SocketAddr {
    fn addresses(self) -> Vec<TrackerAddress> {
        vec![self.into()]
    }
}

impl<const N: usize> Trackers for [SocketAddr; N] {
    fn addresses(self) -> Vec<TrackerAddress> {
        self.map(TrackerAddress::from).into()
    }
}

/// A folder to fetch into.
pub fn folder(path: &Path) -> Arc<Folder> {
    open_folder(path).expect("a test's folder")
}

/// `text`, into this folder under the last part of its name.
pub fn into_folder(text: &str, path: &Path) -> Want {
    Want { what: what(text), to: Destination::Folder(folder(path)) }
}

/// `text`, to this name.
pub fn to_name(text: &str, path: &Path, name: &str) -> Want {
    let name: FileName = name.parse().expect("a valid name");
    Want { what: what(text), to: Destination::File { folder: folder(path), name } }
}

/// `text`, in order into this writer.
pub fn to_stream(text: &str, writer: impl std::io::Write + Send + 'static) -> Want {
    Want { what: what(text), to: Destination::Stream(Box::new(writer)) }
}

/// The events of a job, as they come.
pub struct Watched {
    test: Test,
    events: mpsc::Receiver<JobEvent>,
    told: Vec<JobEvent>,
}

impl Watched {
    /// A recipient for a job, and what it is told.
    pub fn start(test: &Test) -> (Recipient<JobEvent>, Watched) {
        let (recipient, events) = Probe::start();
        (recipient, Watched { test: test.clone(), events, told: Vec::new() })
    }

    /// Waits for the first event from here on that fits.
    pub async fn until(&mut self, for_what: &str, mut fits: impl FnMut(&JobEvent) -> bool) -> JobEvent {
        loop {
            let event = self.test.wait_for(for_what, self.events.recv()).await;
            let event = event.unwrap_or_else(|| panic!("the job is over, no {for_what}: {:?}", self.told));
            self.told.push(event.clone());
            if fits(&event) {
                return event;
            }
        }
    }

    /// All that was told; the job is over, so there is an end.
    pub async fn end(mut self) -> Told {
        while let Some(event) = self.test.wait_for("the last event of the job", self.events.recv()).await {
            self.told.push(event);
        }
        Told(self.told)
    }
}

/// A fetch that runs.
pub struct Running {
    test: Test,
    fetch: Fetch,
    pub watched: Watched,
}

impl Running {
    /// Starts a fetch that replaces nothing.
    pub fn start(test: &Test, trackers: impl Trackers, wants: Vec<Want>) -> Running {
        Running::start_with(test, trackers, wants, false)
    }

    /// Starts a fetch.
    pub fn start_with(test: &Test, trackers: impl Trackers, wants: Vec<Want>, overwrite: bool) -> Running {
        Running::start_limited(test, trackers, wants, overwrite, RateLimits::default())
    }

    /// Starts a fetch that may move so much per second.
    pub fn start_limited(
        test: &Test,
        trackers: impl Trackers,
        wants: Vec<Want>,
        overwrite: bool,
        limits: RateLimits,
    ) -> Running {
        let (events, watched) = Watched::start(test);
        let us = "getter".parse().expect("a peer id");
        let config = FetchConfig { us, trackers: trackers.addresses(), wants, overwrite, limits };
        let fetch = Fetch::start(config, events).expect("threads and a port");
        Running { test: test.clone(), fetch, watched }
    }

    /// Gives up what is not done.
    pub fn cancel(&self) {
        self.fetch.job().cancel();
    }

    /// Waits until it is over and has left.
    pub async fn finish(self) -> Told {
        self.test.wait_for("the job's end", self.fetch.finish()).await;
        self.watched.end().await
    }
}

/// Fetches, and says all that was told.
pub async fn fetch(test: &Test, trackers: impl Trackers, wants: Vec<Want>) -> Told {
    Running::start(test, trackers, wants).finish().await
}

/// All that a job told.
#[derive(Debug)]
pub struct Told(pub Vec<JobEvent>);

impl Told {
    /// The finished files, in the order in which they were finished.
    pub fn all_done(&self) -> Vec<&FileDone> {
        fn done(event: &JobEvent) -> Option<&FileDone> {
            if let JobEvent::Done(done) = event { Some(done) } else { None }
        }
        self.0.iter().filter_map(done).collect()
    }

    /// What failed, and why.
    pub fn all_failed(&self) -> Vec<(&str, &JobError)> {
        fn failed(event: &JobEvent) -> Option<(&str, &JobError)> {
            if let JobEvent::Failed { what, error } = event { Some((what.as_str(), error)) } else { None }
        }
        self.0.iter().filter_map(failed).collect()
    }

    /// The one file that is done; nothing failed.
    pub fn done(&self) -> &FileDone {
        match (&self.all_done()[..], &self.all_failed()[..]) {
            ([done], []) => done,
            _ => panic!("not one file done, and nothing else: {self:#?}"),
        }
    }

    /// The one failure; nothing is done.
    pub fn failed(&self) -> &JobError {
        match (&self.all_failed()[..], &self.all_done()[..]) {
            ([(_, error)], []) => error,
            _ => panic!("not one failure, and nothing else: {self:#?}"),
        }
    }

    /// How often this source was connected.
    pub fn connected(&self, peer: &str) -> usize {
        self.states(peer).filter(|state| **state == SourceState::Connected).count()
    }

    /// Why this source was dropped, each time that it was.
    pub fn dropped(&self, peer: &str) -> Vec<&str> {
        fn reason(state: &SourceState) -> Option<&str> {
            if let SourceState::Dropped { reason } = state { Some(reason.as_str()) } else { None }
        }
        self.states(peer).filter_map(reason).collect()
    }

    /// Why this source was dropped for lying, each time that it was.
    pub fn lies(&self, peer: &str) -> Vec<&str> {
        let is_lie = |reason: &&str| LIES.iter().any(|lie| reason.starts_with(lie));
        self.dropped(peer).into_iter().filter(is_lie).collect()
    }

    fn states(&self, peer: &str) -> impl Iterator<Item = &SourceState> {
        let of_peer: PeerId = peer.parse().expect("a peer id");
        self.0.iter().filter_map(move |event| match event {
            JobEvent::Source { peer, state, .. } if *peer == of_peer => Some(state),
            _ => None,
        })
    }
}

/// How the reasons begin for which a source is dropped because of an untruth.
const LIES: [&str; 4] =
    ["sent wrong data", "sent a wrong manifest", "states a wrong size", "broke the protocol"];

/// What a source has delivered of a finished file, in bytes.
pub fn share(done: &FileDone, peer: &str) -> u64 {
    done.sources.iter().filter(|share| share.peer.as_str() == peer).map(|share| share.bytes).sum()
}

/// Whether the numbers of a finished file agree with each other.
pub fn sums_up(done: &FileDone) -> bool {
    let delivered: u64 = done.sources.iter().map(|share| share.bytes).sum();
    done.fetched_bytes + done.kept_bytes == done.size && delivered == done.fetched_bytes
}

/// [`sums_up`], asserted.
pub fn assert_sums_up(done: &FileDone) {
    assert!(sums_up(done), "{done:?}");
}

/// Where the part file of a content stands that is fetched into this folder.
pub fn part_path(folder: &Path, content: &Content) -> PathBuf {
    folder.join(format!("{RESERVED_PREFIX}-{}.part", content.id))
}

/// The part files below a folder.
pub fn part_files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).expect("a test's folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(part_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "part") {
            found.push(path);
        }
    }
    found
}
