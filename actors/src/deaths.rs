//! Each actor of a peer and of a fetch dies in turn, of a panic in one of its handlers. Nobody waits for
//! it for ever: the job goes on or says that it failed, and the peer can tell that it is to be ended.
//!
//! In release builds a panic aborts the whole process instead, which the others see as a connection that
//! ended; so this is about builds that unwind, and about actors that end by another mistake.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::System;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::base::FileId;
use crate::content::folder::Folder;
use crate::peer::assembler::Assembler;
use crate::peer::block_server::BlockServer;
use crate::peer::dialling::Dialling;
use crate::peer::downloader::Downloader;
use crate::peer::events::{JobError, JobEvent, SourceState};
use crate::peer::library::Library;
use crate::peer::shelf::Shelf;
use crate::peer::source_connection::SourceConnection;
use crate::peer::tracker_link::TrackerLink;
use crate::peer::trackers::Trackers;
use crate::peer::{Destination, Fetch, FetchConfig, Peer, PeerConfig, RateLimits, Want};
use crate::tracker::{self, TrackerConfig, TrackerEvent, TrackerHandle};

/// How long anything here may take: nobody waits for a dead actor's answer, but a source that was lost
/// is dialled again after a while.
const SOON: Duration = Duration::from_secs(20);

/// Panic, and with that end.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct Die;

/// Has these actors die when they are told to.
macro_rules! mortal {
    ($($actor:ty),*) => { $(
        impl Handler<Die> for $actor {
            type Result = ();
            fn handle(&mut self, _: Die, _: &mut Self::Context) {
                panic!("an actor dies");
            }
        }
    )* };
}
pub(crate) use mortal;

mortal!(
    Library,
    Shelf,
    BlockServer,
    Dialling,
    Trackers,
    TrackerLink,
    Downloader,
    Assembler,
    SourceConnection
);

/// Have those die that an actor has started.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
enum Orphan {
    Links,
    Assembler,
    Sources,
}

impl Handler<Orphan> for Trackers {
    type Result = ();
    fn handle(&mut self, _: Orphan, _: &mut Self::Context) {
        self.links.iter().for_each(|link| link.address.do_send(Die));
    }
}

impl Handler<Orphan> for Downloader {
    type Result = ();
    fn handle(&mut self, orphan: Orphan, _: &mut Self::Context) {
        match orphan {
            Orphan::Assembler => self.assembler.iter().for_each(|assembler| assembler.do_send(Die)),
            _ => self.sources.values().for_each(|source| source.connection.do_send(Die)),
        }
    }
}

/// Hands on what it is told.
struct Probe<M>(mpsc::Sender<M>);

impl<M: Unpin + 'static> Actor for Probe<M> {
    type Context = Context<Self>;
}

impl<M: Message<Result = ()> + Unpin + 'static> Handler<M> for Probe<M> {
    type Result = ();
    fn handle(&mut self, message: M, _: &mut Context<Self>) {
        // A test that has seen enough drops its end.
        let _ = self.0.try_send(message);
    }
}

/// A probe, and what it is told.
pub(crate) fn probe<M: Message<Result = ()> + Send + Unpin + 'static>() -> (Recipient<M>, mpsc::Receiver<M>) {
    let (told, heard) = mpsc::channel(10_000);
    (Probe(told).start().recipient(), heard)
}

pub(crate) fn run<F: Future<Output = ()>>(story: impl FnOnce() -> F) {
    System::new().block_on(async { timeout(6 * SOON, story()).await.expect("the story ends in time") });
}

pub(crate) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    timeout(SOON, event).await.unwrap_or_else(|_| panic!("{what} takes for ever"))
}

fn start_tracker() -> TrackerHandle {
    let config =
        TrackerConfig { listen: ([127, 0, 0, 1], 0).into(), refresh_interval: Duration::from_secs(3600) };
    tracker::start(config, probe::<TrackerEvent>().0).unwrap()
}

/// Large enough that a job has not ended when it is hit.
const SIZE: u64 = 256 << 20;

async fn start_peer(tracker: &TrackerHandle, id: &str, root: &Path) -> Peer {
    let config = PeerConfig {
        id: id.parse().unwrap(),
        root: root.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        trackers: vec![tracker.address.into()],
        wants: Vec::new(),
        progress: None,
        limits: RateLimits::default(),
    };
    soon("the start of a peer", Peer::start(config, None)).await.unwrap()
}

/// A peer that shares a file of zeros.
async fn start_holder(tracker: &TrackerHandle, root: &Path) -> Peer {
    let files = root.join("holder/files");
    fs::create_dir_all(&files).unwrap();
    File::create(files.join("zeros")).unwrap().set_len(SIZE).unwrap();
    start_peer(tracker, "holder", root).await
}

/// How an actor of a peer dies, and how that is told.
type Death = (&'static str, fn(&Peer));

/// Row 21 of SECURITY.md.
#[test]
fn a_peer_of_which_an_actor_dies_says_which_and_ends_and_the_next_one_shares_again() {
    run(|| async {
        let deaths: [Death; 6] = [
            ("the library", |peer| peer.library.do_send(Die)),
            ("the shelf", |peer| peer.shelf.do_send(Die)),
            ("the block server", |peer| peer.server.do_send(Die)),
            ("who permits dials", |peer| peer.dialling.do_send(Die)),
            ("who speaks with the trackers", |peer| peer.trackers.do_send(Die)),
            ("who speaks with the trackers", |peer| peer.trackers.do_send(Orphan::Links)),
        ];
        let tracker = start_tracker();
        let root = tempfile::tempdir().unwrap();
        for (expected, kill) in deaths {
            let peer = start_holder(&tracker, root.path()).await;
            assert_eq!(peer.first_scan().files, 1);
            kill(&peer);
            assert_eq!(soon("to see it", peer.broken()).await, expected);
            soon("the end of the peer", peer.stop()).await;
        }
        soon("the end of a whole one", start_holder(&tracker, root.path()).await.stop()).await;
        soon("the end of the tracker", tracker.stop()).await;
    });
}

/// Whether the source is there: the job is in the middle.
fn is_connected(event: &JobEvent) -> bool {
    matches!(event, JobEvent::Source { state: SourceState::Connected, .. })
}

/// Waits for the first event that fits.
async fn until(heard: &mut mpsc::Receiver<JobEvent>, fits: impl Fn(&JobEvent) -> bool) {
    while !fits(&soon("an event", heard.recv()).await.expect("the job tells its end")) {}
}

/// The outcomes that a job has told: whether it is done, or why not. The job is over.
async fn outcomes(mut heard: mpsc::Receiver<JobEvent>) -> Vec<Result<FileId, JobError>> {
    let mut outcomes = Vec::new();
    while let Some(event) = soon("the last event", heard.recv()).await {
        match event {
            JobEvent::Done(done) => outcomes.push(Ok(done.id)),
            JobEvent::Failed { error, .. } => outcomes.push(Err(error)),
            _ => {}
        }
    }
    outcomes
}

#[test]
fn a_fetch_of_which_an_actor_dies_goes_on_or_says_that_it_failed() {
    run(|| async {
        /// Who dies, how, and whether the file comes all the same.
        type Death = (&'static str, fn(&Fetch), bool);
        let deaths: [Death; 7] = [
            ("the sources", |fetch| fetch.job().0.do_send(Orphan::Sources), true),
            ("the shelf", |fetch| fetch.shelf.do_send(Die), true),
            ("the block server", |fetch| fetch.server.do_send(Die), true),
            ("the trackers", |fetch| fetch.trackers.do_send(Die), true),
            ("the links", |fetch| fetch.trackers.do_send(Orphan::Links), true),
            ("the assembler", |fetch| fetch.job().0.do_send(Orphan::Assembler), false),
            ("the downloader", |fetch| fetch.job().0.do_send(Die), false),
        ];
        let (tracker, root) = (start_tracker(), tempfile::tempdir().unwrap());
        let holder = start_holder(&tracker, root.path()).await;
        for (who, kill, comes) in deaths {
            let to = tempfile::tempdir().unwrap();
            let folder = Folder::open(to.path()).unwrap();
            let want = Want { what: "zeros".parse().unwrap(), to: Destination::Folder(folder.into()) };
            let (events, mut heard) = probe();
            let config = FetchConfig {
                us: "getter".parse().unwrap(),
                trackers: vec![tracker.address.into()],
                wants: vec![want],
                overwrite: false,
                limits: RateLimits::default(),
            };
            let fetch = Fetch::start(config, events).unwrap();
            until(&mut heard, is_connected).await;
            kill(&fetch);
            soon(who, fetch.finish()).await;
            let outcomes = outcomes(heard).await;
            let file = to.path().join("zeros");
            match outcomes[..] {
                [Ok(_)] => assert!(comes && file.metadata().unwrap().len() == SIZE, "{who}"),
                [Err(JobError::Interrupted)] => assert!(!comes && !file.exists(), "{who}"),
                _ => panic!("{who}: {outcomes:?}"),
            }
        }
        soon("the end of the holder", holder.stop()).await;
        soon("the end of the tracker", tracker.stop()).await;
    });
}

#[test]
fn a_peer_of_which_a_job_dies_says_so_and_shares_on() {
    run(|| async {
        let (tracker, root) = (start_tracker(), tempfile::tempdir().unwrap());
        let holder = start_holder(&tracker, root.path()).await;
        let peer = start_peer(&tracker, "p1", root.path()).await;
        for kill in [Orphan::Assembler, Orphan::Sources] {
            let (events, mut heard) = probe();
            let job = peer.fetch(vec!["zeros".parse().unwrap()], false, events);
            until(&mut heard, is_connected).await;
            job.0.do_send(kill);
            soon("the job", job.wait()).await;
            drop(job);
            let outcomes = outcomes(heard).await;
            let is_done = matches!(outcomes[..], [Ok(_)]);
            assert!(is_done || matches!(outcomes[..], [Err(JobError::Interrupted)]), "{outcomes:?}");
            assert_eq!(is_done, matches!(kill, Orphan::Sources));
        }
        assert!(timeout(Duration::from_millis(100), peer.broken()).await.is_err(), "all that it needs lives");
        for peer in [peer, holder] {
            soon("the end of a peer", peer.stop()).await;
        }
        soon("the end of the tracker", tracker.stop()).await;
    });
}
