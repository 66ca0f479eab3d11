//! The actor Library: owns the shared folder, and knows what stands under which name.
//!
//! It looks at the whole folder at once, always the same way: at the start, when the watcher saw
//! something, when the tracker asks for confirmation. One look compares the disk with the index;
//! what is gone or changed is withdrawn at once, what is new is hashed and announced when it is
//! proved. A watcher that is blind, overflows or cannot be had costs freshness and nothing else.
//!
//! Looks, hashing and the cache run on blocking threads, one of each kind at a time; the values they
//! work on move to them and come back with the result. Small files are hashed many at once in one
//! lane, large ones one after the other on all cores in another, so that none waits for the other.
//! What is hashed is announced batch by batch; who starts a peer does not wait for the last one longer
//! than [`FIRST_SCAN_PATIENCE`].

mod jobs;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::fut::{ActorFutureExt, WrapFuture};
use actix::{
    Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, Recipient, ResponseActFuture,
    ResponseFuture,
};
use actix_rt::ArbiterHandle;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::jobs::{Batch, CacheSource, Found, HashWatch, Look, Looked, Opened, Outcome};
use self::watch::Watch;
use crate::base::limits::{FIRST_SCAN_PATIENCE, JOB_TICK, MAX_SMALL_READ_BYTES, OPEN_PATIENCE, WATCH_QUIET};
use crate::base::{FileId, FileName};
use crate::content::cache::{Cache, Cached};
use crate::content::folder::{Folder, Stamp, is_no_file, is_passing, now_ns};
use crate::content::index::{Entry, Index};
use crate::content::part::Unfinished;
use crate::content::tree::{Proof, is_hashed_in_parallel};
use crate::wire::tracker::Listing;

/// Files that are hashed before their results are told: files hashed early are announced early.
const HASH_BATCH_FILES: usize = 1000;
/// Bytes that are hashed before their results are told.
const HASH_BATCH_BYTES: u64 = 64 << 20;
/// Skipped files that one look names as warnings; the rest are counted there, and named for who wants to
/// see more.
const MAX_SKIPPED_LINES: usize = 20;

/// Where a library's folder is, and how it is looked after.
#[derive(Clone, Debug)]
pub struct LibraryConfig {
    /// `DIR/ID`: holds `files`, which is shared, and `.enxame`, which holds the cache.
    pub root: PathBuf,
    /// Whether to watch for changes; if not, [`Rescan`] alone finds them.
    pub watch: bool,
    /// Who hears how far hashing is, while it goes on.
    pub progress: Option<Recipient<Hashing>>,
}

impl LibraryConfig {
    /// The shared folder.
    pub fn files(&self) -> PathBuf {
        self.root.join("files")
    }

    /// The folder of our own things.
    pub fn state(&self) -> PathBuf {
        self.root.join(crate::base::limits::RESERVED_PREFIX)
    }
}

/// How far the hashing of what is new is: told every [`JOB_TICK`] while it goes on, and at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Hashing {
    /// Files that are to be hashed, the present ones included; 0 when all is done.
    pub left_files: usize,
    /// Bytes hashed since it began.
    pub bytes: u64,
    /// Bytes that were to be hashed.
    pub of_bytes: u64,
}

/// What of a peer's list came and went. `removed` happened before `added`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct ListChanged {
    /// New entries.
    pub added: Vec<Listing>,
    /// Entries that do not hold any more.
    pub removed: Vec<Listing>,
}

/// Tell this recipient of every change from now on. The answer is the list up to now.
#[derive(Message)]
#[rtype(result = "Vec<Listing>")]
pub struct Subscribe(pub Recipient<ListChanged>);

/// The whole list. Everything in it was hashed.
#[derive(Message)]
#[rtype(result = "Vec<Listing>")]
pub struct GetListings;

/// Wait until what the folder held at the start has been hashed; if that takes long
/// ([`FIRST_SCAN_PATIENCE`]), until what the cache knows of it is in the list and the rest is being hashed.
#[derive(Message)]
#[rtype(result = "Result<FirstScan, FolderError>")]
pub struct AwaitReady;

/// What downloads of former runs were begun and are not finished? Told once, and found by the first
/// look, see [`AwaitReady`].
#[derive(Message)]
#[rtype(result = "Vec<Unfinished>")]
pub struct TakeUnfinished;

/// Look at the folder now. The answer comes when what is gone or changed has been withdrawn; what is
/// new is announced when it has been hashed. Costs little if nothing changed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Rescan;

/// Open a file to serve it. Until the folder was looked at and hashed for the first time, the answer
/// waits for what may yet be found, but no longer than a getter waits.
#[derive(Message)]
#[rtype(result = "Result<Arc<SharedFile>, OpenError>")]
pub struct OpenFile {
    /// The content.
    pub id: FileId,
}

/// Read files of one span to serve them; those that cannot be read so are to be opened. The answers are
/// in the same order.
#[derive(Message)]
#[rtype(result = "Vec<Option<Vec<u8>>>")]
pub struct ReadSmall {
    /// The contents.
    pub ids: Vec<FileId>,
}

/// A file changed while it was served: withdraw it, and hash it again.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Suspect {
    /// The content it had.
    pub id: FileId,
}

/// A finished download of this process stands in the folder: enter it without hashing it again,
/// every span was verified on its way. The answer is false if the file does not have that stamp any more:
/// then it is looked at like any other.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct AddFile {
    /// Its name.
    pub name: FileName,
    /// Its content.
    pub proof: Proof,
    /// What it looked like when it got its name.
    pub stamp: Stamp,
}

/// Which file has this content? Of several, the one whose name comes first.
#[derive(Message)]
#[rtype(result = "Option<Listing>")]
pub struct FindById {
    /// The content.
    pub id: FileId,
}

/// What stands under this name?
#[derive(Message)]
#[rtype(result = "Option<Listing>")]
pub struct FindName {
    /// The name.
    pub name: FileName,
}

/// End. The answer comes when no blocking work runs any more and the cache is on disk.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;

/// What the first look at the folder led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstScan {
    /// Files in the list.
    pub files: usize,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// Files that were hashed; the others were known from the cache.
    pub hashed: usize,
    /// Files and folders that cannot be shared.
    pub skipped: usize,
    /// Files that are being hashed, and will be in the list one after the other.
    pub left: usize,
}

/// The shared folder cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the folder {} cannot be shared: {why}", path.display())]
pub struct FolderError {
    /// The folder.
    pub path: PathBuf,
    /// The system's kind of error.
    pub kind: io::ErrorKind,
    /// What the system says.
    pub why: String,
}

/// Why a file is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not in the list, or was not there any more and is withdrawn now.
    #[error("no such file is shared")]
    Missing,
    /// The system refused for a reason that may pass, such as too many open files.
    #[error("the file cannot be opened: {0}")]
    Io(#[from] io::Error),
}

/// An open file of the folder, as it was hashed.
#[derive(Debug)]
pub struct SharedFile {
    /// The handle: what is read from it is what was hashed as long as [`SharedFile::is_unchanged`].
    pub file: File,
    /// Id, geometry and manifest.
    pub proof: Proof,
    /// What the file looked like when it was hashed.
    pub stamp: Stamp,
    /// The name under which it was opened.
    pub name: FileName,
}

impl SharedFile {
    /// Whether nobody wrote to the file since it was hashed. To be asked before bytes that were read
    /// go out. Blocks as fstat does.
    pub fn is_unchanged(&self) -> bool {
        Stamp::of(&self.file).is_ok_and(|stamp| stamp == self.stamp)
    }
}

/// The actor.
pub struct Library {
    config: LibraryConfig,
    index: Index,
    subscribers: Vec<Recipient<ListChanged>>,
    /// Set by the watcher, and by whoever wants a look when things have calmed down.
    changed: Arc<Notify>,
    watch: Option<Watch>,

    walking: bool,
    /// Who waits for the look that runs, and for the one after it: a look that began before the
    /// question is no answer to it.
    waiting: Vec<oneshot::Sender<()>>,
    waiting_next: Vec<oneshot::Sender<()>>,
    /// Whether the last look failed: said once.
    lost: bool,
    /// Whether the last look could not be made, for want of descriptors: said once.
    held_up: bool,
    skipped: HashSet<String>,
    /// What the first look found, until it is taken.
    unfinished: Vec<Unfinished>,

    /// What is to be hashed, per lane.
    pending: [BTreeMap<FileName, Stamp>; 2],
    lane_is_busy: [bool; 2],
    /// What is being hashed, and whether it was seen to change meanwhile.
    hashing: HashMap<FileName, bool>,
    /// What could not be read, as it looked then: not tried again until it looks different.
    refused: HashMap<FileName, Stamp>,

    /// `None` until it is opened, and while a blocking thread has it.
    cache: Option<Cache>,
    /// What the cache is to be told: an entry, or that it is gone.
    cache_news: BTreeMap<FileName, Option<Cached>>,
    cache_is_synced: bool,

    hashed: usize,
    /// Bytes that were to be hashed since nothing was.
    queued_bytes: u64,
    /// How the first look ended, the hashing that follows from it included.
    ready: Option<Result<FirstScan, FolderError>>,
    first_look_is_done: bool,
    /// It is ready at a certain moment, whatever is hashed by then.
    is_ready_soon: bool,
    waiting_ready: Vec<oneshot::Sender<Result<FirstScan, FolderError>>>,
    /// Who wants to open what the first look may find: dropped when it has, or when it is over.
    waiting_open: Vec<(FileId, oneshot::Sender<()>)>,

    /// Blocking work under way.
    jobs: usize,
    /// Shared with the hashing threads.
    hash_watch: Arc<HashWatch>,
    stopping: CancellationToken,
    waiting_stop: Vec<oneshot::Sender<()>>,
}

impl Library {
    /// Starts the actor on an arbiter. It looks at the folder at once; see [`AwaitReady`].
    pub fn start(config: LibraryConfig, arbiter: &ArbiterHandle) -> Addr<Library> {
        Library::start_in_arbiter(arbiter, |_| Library::new(config))
    }

    fn new(config: LibraryConfig) -> Library {
        Library {
            config,
            index: Index::default(),
            subscribers: Vec::new(),
            changed: Arc::default(),
            watch: None,
            walking: false,
            waiting: Vec::new(),
            waiting_next: Vec::new(),
            lost: false,
            held_up: false,
            skipped: HashSet::new(),
            unfinished: Vec::new(),
            pending: Default::default(),
            lane_is_busy: [false; 2],
            hashing: HashMap::new(),
            refused: HashMap::new(),
            cache: None,
            cache_news: BTreeMap::new(),
            cache_is_synced: true,
            hashed: 0,
            queued_bytes: 0,
            ready: None,
            first_look_is_done: false,
            is_ready_soon: false,
            waiting_ready: Vec::new(),
            waiting_open: Vec::new(),
            jobs: 0,
            hash_watch: Arc::new(HashWatch { stop: AtomicBool::new(false), bytes: AtomicU64::new(0) }),
            stopping: CancellationToken::new(),
            waiting_stop: Vec::new(),
        }
    }
}

impl Drop for Library {
    /// A library that is not stopped in order (its process ends while it starts) does not hash on.
    fn drop(&mut self) {
        self.hash_watch.stop.store(true, Ordering::Relaxed);
    }
}

impl Actor for Library {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let watcher = watch::tell_of_changes(
            Arc::clone(&self.changed),
            ctx.address().downgrade(),
            self.stopping.clone(),
        );
        actix_rt::spawn(watcher);
        if self.config.progress.is_some() {
            ctx.run_interval(JOB_TICK, |library, _| library.tell_progress());
        }
        self.look(ctx);
    }
}

// ---- blocking work ----

impl Library {
    /// Runs `work` on a blocking thread; what comes out of it re-enters the actor as one step.
    fn run<T: Send + 'static>(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Library, T) + 'static,
    ) {
        let job = self.ask(work, then);
        ctx.spawn(job);
    }

    /// As [`Library::run`], with an answer for whoever sent the message.
    fn ask<T: Send + 'static, R: 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Library, T) -> R + 'static,
    ) -> ResponseActFuture<Self, R> {
        self.jobs += 1;
        let task = tokio::task::spawn_blocking(work);
        let end = async move {
            match task.await {
                Ok(end) => end,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is being torn down: nothing runs on it any more.
                    Err(_) => std::future::pending().await,
                },
            }
        };
        Box::pin(end.into_actor(self).map(|end, library, ctx| {
            library.jobs -= 1;
            let answer = then(library, end);
            library.go_on(ctx);
            answer
        }))
    }

    /// Begins whatever can begin now. Called after everything that changes the state of the work.
    fn go_on(&mut self, ctx: &mut Context<Self>) {
        if self.stopping.is_cancelled() {
            self.wind_up(ctx);
            return;
        }
        if !self.walking && !self.waiting_next.is_empty() {
            self.look(ctx);
        }
        self.hash_small(ctx);
        self.hash_large(ctx);
        self.check_ready(ctx);
        self.write_cache(ctx);
    }

    fn is_hashing(&self) -> bool {
        !self.hashing.is_empty() || self.pending.iter().any(|pending| !pending.is_empty())
    }

    fn left(&self) -> usize {
        self.hashing.len() + self.pending.iter().map(BTreeMap::len).sum::<usize>()
    }

    fn tell_progress(&mut self) {
        let left_files = self.left();
        if let Some(progress) = self.config.progress.as_ref().filter(|_| self.queued_bytes > 0) {
            let bytes = self.hash_watch.bytes.load(Ordering::Relaxed).min(self.queued_bytes);
            progress.do_send(Hashing { left_files, bytes, of_bytes: self.queued_bytes });
        }
        if left_files == 0 {
            self.queued_bytes = 0;
            self.hash_watch.bytes.store(0, Ordering::Relaxed);
        }
    }

    fn wind_up(&mut self, ctx: &mut Context<Self>) {
        // Nobody is left waiting for a look that will not come.
        self.waiting.clear();
        self.waiting_next.clear();
        self.waiting_ready.clear();
        self.watch = None;
        if self.jobs > 0 {
            return;
        }
        if let Some(mut cache) = self.cache.take() {
            let (put, gone) = self.take_cache_news();
            let last = move || {
                cache.write(&put, &gone);
                cache.flush();
            };
            self.run(ctx, last, |_, ()| {});
            return;
        }
        answer_all(&mut self.waiting_stop, &());
        ctx.stop();
    }
}

fn answer_all<T: Clone>(waiting: &mut Vec<oneshot::Sender<T>>, answer: &T) {
    for waiting in waiting.drain(..) {
        // Who does not wait any more needs no answer.
        let _ = waiting.send(answer.clone());
    }
}

// ---- looking ----

impl Library {
    fn look(&mut self, ctx: &mut Context<Self>) {
        self.walking = true;
        self.waiting.append(&mut self.waiting_next);
        let is_first = !self.first_look_is_done;
        let cache = match self.cache.take_if(|_| self.lost) {
            _ if is_first => CacheSource::Open(self.config.state()),
            // The folder is back, perhaps the same as before: what is in it may be known.
            Some(cache) => CacheSource::Here(cache),
            None => CacheSource::None,
        };
        let look = Look {
            files: self.config.files(),
            is_first,
            // At the start nothing waits for calm: what is there is what the peer starts with.
            quiet: if is_first { Duration::ZERO } else { WATCH_QUIET },
            snapshot: self.index.snapshot(),
            cache,
            watch: self.watch.take(),
            changed: self.config.watch.then(|| Arc::clone(&self.changed)),
        };
        self.run(ctx, move || look.run(), Library::looked);
    }

    fn looked(&mut self, looked: Looked) {
        let Looked { found, watch, cache } = looked;
        self.walking = false;
        self.watch = watch;
        self.cache = cache.or(self.cache.take());
        match found {
            Ok(found) => {
                if std::mem::take(&mut self.lost) {
                    log::info!("the folder {} is there again", self.config.files().display());
                }
                self.held_up = false;
                self.apply(found);
            }
            Err(error) if is_passing(&error) => {
                if !std::mem::replace(&mut self.held_up, true) {
                    log::warn!("{} cannot be looked at now: {error}", self.config.files().display());
                }
                self.changed.notify_one();
                return answer_all(&mut self.waiting, &());
            }
            Err(error) => self.lose(&error),
        }
        self.first_look_is_done = true;
        answer_all(&mut self.waiting, &());
    }

    fn apply(&mut self, found: Found) {
        let Found { changes, skipped, unfinished } = found;
        self.unfinished.extend(unfinished);
        let mut told = ListChanged::default();
        // The look began a while ago: what was entered since is newer than what it saw.
        for (name, stamp) in changes.gone {
            if self.index.get(&name).is_some_and(|entry| entry.stamp == stamp) {
                self.withdraw(&name, &mut told);
                self.cache_news.insert(name, None);
            }
        }
        for (name, entry) in changes.known {
            if self.index.get(&name).is_none() {
                self.enter(name, entry, &mut told);
            }
        }
        let refused = std::mem::take(&mut self.refused);
        for (name, stamp) in changes.fresh {
            if refused.get(&name) == Some(&stamp) {
                self.refused.insert(name, stamp);
            } else if self.index.get(&name).is_none() {
                self.queue(name, stamp);
            }
        }
        for (name, stamp) in changes.unsettled {
            if self.index.get(&name).is_some_and(|entry| entry.stamp == stamp && !entry.settled) {
                self.queue(name, stamp);
            }
        }
        if !changes.busy.is_empty() {
            self.changed.notify_one();
        }
        self.cache_news.extend(changes.forgotten.into_iter().map(|name| (name, None)));
        self.tell_skipped(skipped);
        self.announce(told);
    }

    /// The folder cannot be read: nothing in it can be served.
    fn lose(&mut self, error: &io::Error) {
        let error = FolderError { path: self.config.files(), kind: error.kind(), why: error.to_string() };
        if !std::mem::replace(&mut self.lost, true) {
            log::error!("{error}; nothing is shared until it is back");
        }
        let mut told = ListChanged::default();
        let names: Vec<FileName> = self.index.iter().map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.withdraw(name, &mut told));
        self.pending = Default::default();
        self.hashing.clear();
        self.announce(told);
        if !self.first_look_is_done {
            self.set_ready(Err(error));
        }
    }

    fn tell_skipped(&mut self, skipped: Vec<(String, String)>) {
        let new = || skipped.iter().filter(|(path, _)| !self.skipped.contains(path));
        new().take(MAX_SKIPPED_LINES).for_each(|(path, why)| log::warn!("{path} is not shared: {why}"));
        let more = new().count().saturating_sub(MAX_SKIPPED_LINES);
        if more > 0 {
            log::warn!("{more} more are not shared; -v names them all");
            let rest = new().skip(MAX_SKIPPED_LINES);
            rest.for_each(|(path, why)| log::info!("{path} is not shared: {why}"));
        }
        self.skipped = skipped.into_iter().map(|(path, _)| path).collect();
    }

    fn check_ready(&mut self, ctx: &mut Context<Self>) {
        if self.is_ready_soon && self.ready.is_some() && !self.is_hashing() {
            self.is_ready_soon = false;
            log::info!("all files are hashed: {} are shared", self.index.iter().len());
        }
        if self.ready.is_some() || !self.first_look_is_done {
            return;
        }
        if !self.is_hashing() {
            self.be_ready();
        } else if !std::mem::replace(&mut self.is_ready_soon, true) {
            ctx.run_later(FIRST_SCAN_PATIENCE, |library, _| library.be_ready());
        }
    }

    fn be_ready(&mut self) {
        if self.ready.is_some() {
            return;
        }
        let scan = FirstScan {
            files: self.index.iter().len(),
            bytes: self.index.iter().map(|(_, entry)| entry.stamp.size).sum(),
            hashed: self.hashed,
            skipped: self.skipped.len() + self.refused.len(),
            left: self.left(),
        };
        self.set_ready(Ok(scan));
    }

    fn set_ready(&mut self, ready: Result<FirstScan, FolderError>) {
        answer_all(&mut self.waiting_ready, &ready);
        self.waiting_open.clear();
        self.ready = Some(ready);
    }
}

// ---- the list ----

impl Library {
    fn withdraw(&mut self, name: &FileName, told: &mut ListChanged) {
        if let Some(entry) = self.index.remove(name) {
            told.removed.push(listing(name, &entry));
        }
    }

    fn enter(&mut self, name: FileName, entry: Entry, told: &mut ListChanged) {
        let new = listing(&name, &entry);
        self.waiting_open.retain(|(id, _)| *id != new.id);
        match self.index.insert(name.clone(), entry).map(|before| listing(&name, &before)) {
            Some(before) if before == new => {}
            before => {
                told.removed.extend(before);
                told.added.push(new);
            }
        }
    }

    fn announce(&self, told: ListChanged) {
        if told != ListChanged::default() {
            self.subscribers.iter().for_each(|subscriber| subscriber.do_send(told.clone()));
        }
    }

    fn listings(&self) -> Vec<Listing> {
        self.index.iter().map(|(name, entry)| listing(name, entry)).collect()
    }
}

fn listing(name: &FileName, entry: &Entry) -> Listing {
    Listing { name: name.clone(), id: entry.proof.id(), size: entry.stamp.size, complete: true }
}

// ---- hashing ----

const SMALL: usize = 0;
const LARGE: usize = 1;

impl Library {
    fn queue(&mut self, name: FileName, stamp: Stamp) {
        if let Some(changed) = self.hashing.get_mut(&name) {
            *changed = true;
            return;
        }
        let (lane, other) = if is_hashed_in_parallel(stamp.size) { (LARGE, SMALL) } else { (SMALL, LARGE) };
        let before = self.pending[other].remove(&name);
        let before = self.pending[lane].insert(name, stamp).or(before);
        self.queued_bytes += stamp.size;
        self.queued_bytes -= before.map_or(0, |before| before.size.min(self.queued_bytes));
    }

    fn hash_small(&mut self, ctx: &mut Context<Self>) {
        self.hash_lane(SMALL, jobs::hash_side_by_side, ctx);
    }

    fn hash_large(&mut self, ctx: &mut Context<Self>) {
        self.hash_lane(LARGE, jobs::hash_in_turn, ctx);
    }

    fn hash_lane(
        &mut self,
        lane: usize,
        hash: fn(&Path, Batch, &HashWatch) -> Vec<Outcome>,
        ctx: &mut Context<Self>,
    ) {
        if self.lane_is_busy[lane] || self.pending[lane].is_empty() {
            return;
        }
        let (mut batch, mut bytes) = (Batch::new(), 0);
        while batch.len() < HASH_BATCH_FILES && bytes < HASH_BATCH_BYTES {
            let Some((name, stamp)) = self.pending[lane].pop_first() else { break };
            bytes += stamp.size;
            self.hashing.insert(name.clone(), false);
            batch.push((name, stamp));
        }
        self.lane_is_busy[lane] = true;
        let (files, watch) = (self.config.files(), Arc::clone(&self.hash_watch));
        let hash = move || hash(&files, batch, &watch);
        self.run(ctx, hash, move |library, outcomes| {
            library.lane_is_busy[lane] = false;
            library.take_outcomes(outcomes);
        });
    }

    fn take_outcomes(&mut self, outcomes: Vec<Outcome>) {
        let mut told = ListChanged::default();
        for Outcome { name, stamp, result } in outcomes {
            // What is not expected any more was lost with the folder, or came as a download.
            let Some(changed_meanwhile) = self.hashing.remove(&name) else { continue };
            if changed_meanwhile {
                self.changed.notify_one();
            }
            match result {
                Ok(Some(entry)) => {
                    self.hashed += 1;
                    self.cache_later(&name, &entry);
                    self.enter(name, entry, &mut told);
                }
                Ok(None) => {
                    log::debug!("{name} changed while it was hashed");
                    self.withdraw(&name, &mut told);
                    self.changed.notify_one();
                }
                Err(error) if is_passing(&error) => {
                    log::debug!("{name} is hashed later: {error}");
                    self.changed.notify_one();
                }
                Err(error) => {
                    self.withdraw(&name, &mut told);
                    // What stands in its place now says nothing of the file that may be there again.
                    if !is_no_file(&error) && error.kind() != io::ErrorKind::Interrupted {
                        log::warn!("{name} is not shared, it cannot be read: {error}");
                        self.refused.insert(name, stamp);
                    }
                }
            }
        }
        self.announce(told);
    }
}

// ---- the cache ----

impl Library {
    fn cache_later(&mut self, name: &FileName, entry: &Entry) {
        if entry.settled {
            let cached = Cached { stamp: entry.stamp, proof: entry.proof.clone() };
            self.cache_news.insert(name.clone(), Some(cached));
        }
    }

    fn take_cache_news(&mut self) -> (Vec<(FileName, Cached)>, Vec<FileName>) {
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for (name, news) in std::mem::take(&mut self.cache_news) {
            match news {
                Some(cached) => put.push((name, cached)),
                None => gone.push(name),
            }
        }
        (put, gone)
    }

    /// Writes what is new; the sync waits until there is nothing more to hash.
    fn write_cache(&mut self, ctx: &mut Context<Self>) {
        let sync = !self.is_hashing();
        if self.cache_news.is_empty() && (self.cache_is_synced || !sync) {
            return;
        }
        let Some(mut cache) = self.cache.take() else { return };
        let (put, gone) = self.take_cache_news();
        self.cache_is_synced = sync;
        let write = move || {
            cache.write(&put, &gone);
            if sync {
                cache.flush();
            }
            cache
        };
        self.run(ctx, write, |library, cache| library.cache = Some(cache));
    }
}

// ---- messages ----

impl Handler<Subscribe> for Library {
    type Result = Vec<Listing>;

    fn handle(&mut self, Subscribe(subscriber): Subscribe, _: &mut Context<Self>) -> Vec<Listing> {
        self.subscribers.push(subscriber);
        self.listings()
    }
}

impl Handler<GetListings> for Library {
    type Result = Vec<Listing>;

    fn handle(&mut self, _: GetListings, _: &mut Context<Self>) -> Vec<Listing> {
        self.listings()
    }
}

impl Handler<AwaitReady> for Library {
    type Result = ResponseFuture<Result<FirstScan, FolderError>>;

    fn handle(&mut self, _: AwaitReady, _: &mut Context<Self>) -> Self::Result {
        if let Some(ready) = self.ready.clone() {
            return Box::pin(async { ready });
        }
        let (sender, receiver) = oneshot::channel();
        self.waiting_ready.push(sender);
        let stopped = FolderError {
            path: self.config.files(),
            kind: io::ErrorKind::Interrupted,
            why: "the peer is stopping".into(),
        };
        Box::pin(async { receiver.await.unwrap_or(Err(stopped)) })
    }
}

impl Handler<TakeUnfinished> for Library {
    type Result = Vec<Unfinished>;

    fn handle(&mut self, _: TakeUnfinished, _: &mut Context<Self>) -> Vec<Unfinished> {
        std::mem::take(&mut self.unfinished)
    }
}

impl Handler<Rescan> for Library {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Rescan, ctx: &mut Context<Self>) -> ResponseFuture<()> {
        let (sender, receiver) = oneshot::channel();
        self.waiting_next.push(sender);
        self.go_on(ctx);
        // Dropped unanswered if the library stops: there is nothing left to find.
        Box::pin(async { receiver.await.unwrap_or(()) })
    }
}

impl Handler<OpenFile> for Library {
    type Result = ResponseActFuture<Self, Result<Arc<SharedFile>, OpenError>>;

    fn handle(&mut self, OpenFile { id }: OpenFile, _: &mut Context<Self>) -> Self::Result {
        if self.ready.is_some() || self.index.names_of(&id).next().is_some() {
            return self.open(id);
        }
        // A getter comes back to a peer that was started again, and is not sent away before it is
        // known what there is.
        let (sender, found) = oneshot::channel();
        self.waiting_open.push((id, sender));
        Box::pin(until_found(found).into_actor(self).then(move |(), library, _| library.open(id)))
    }
}

/// Waits until a file was found or all was looked at, but not for ever.
async fn until_found(found: oneshot::Receiver<()>) {
    // It is opened then, or said to be missing.
    let _ = timeout(OPEN_PATIENCE, found).await;
}

impl Library {
    /// Opens a file as it was hashed. Names under which something else stands are withdrawn.
    fn open(&mut self, id: FileId) -> ResponseActFuture<Self, Result<Arc<SharedFile>, OpenError>> {
        let names = self.index.names_of(&id);
        let wanted: Vec<(FileName, Entry)> =
            names.filter_map(|name| Some((name.clone(), self.index.get(name)?.clone()))).collect();
        let files = self.config.files();
        let open = move || jobs::open_first(&files, wanted);
        self.ask(open, |library, Opened { file, stale }| {
            let mut told = ListChanged::default();
            for (name, stamp) in stale {
                if library.index.get(&name).is_some_and(|entry| entry.stamp == stamp) {
                    library.withdraw(&name, &mut told);
                    library.changed.notify_one();
                }
            }
            library.announce(told);
            file
        })
    }
}

impl Handler<ReadSmall> for Library {
    type Result = ResponseActFuture<Self, Vec<Option<Vec<u8>>>>;

    fn handle(&mut self, ReadSmall { ids }: ReadSmall, _: &mut Context<Self>) -> Self::Result {
        let mut room = MAX_SMALL_READ_BYTES;
        let wanted = ids.iter().map(|id| {
            let name = self.index.names_of(id).next()?;
            let entry = self.index.get(name).filter(|entry| entry.proof.geometry().is_single())?;
            room = room.checked_sub(entry.stamp.size)?;
            Some((name.clone(), entry.stamp))
        });
        let (files, wanted) = (self.config.files(), wanted.collect());
        self.ask(move || jobs::read_each(&files, wanted), |_, read| read)
    }
}

impl Handler<Suspect> for Library {
    type Result = ();

    fn handle(&mut self, Suspect { id }: Suspect, _: &mut Context<Self>) {
        let names: Vec<FileName> = self.index.names_of(&id).cloned().collect();
        let mut told = ListChanged::default();
        names.iter().for_each(|name| self.withdraw(name, &mut told));
        self.announce(told);
        self.changed.notify_one();
    }
}

impl Handler<AddFile> for Library {
    type Result = ResponseActFuture<Self, bool>;

    fn handle(&mut self, added: AddFile, _: &mut Context<Self>) -> Self::Result {
        let AddFile { name, proof, stamp } = added;
        let (files, looked_up) = (self.config.files(), name.clone());
        let work = move || Folder::open(&files).and_then(|folder| folder.open_file(&looked_up));
        self.ask(work, move |library, found| {
            let is_same = match found {
                Ok((_, found)) => found == stamp,
                // It is compared whenever it is opened.
                Err(error) => is_passing(&error),
            };
            if is_same && proof.geometry().size() == stamp.size {
                // A look may have found it before us: it need not be hashed.
                for pending in &mut library.pending {
                    pending.remove(&name);
                }
                library.hashing.remove(&name);
                let mut told = ListChanged::default();
                let entry = Entry { stamp, proof, settled: stamp.is_settled_at(now_ns()) };
                library.cache_later(&name, &entry);
                library.enter(name, entry, &mut told);
                library.announce(told);
                true
            } else {
                library.changed.notify_one();
                false
            }
        })
    }
}

impl Handler<FindById> for Library {
    type Result = Option<Listing>;

    fn handle(&mut self, FindById { id }: FindById, _: &mut Context<Self>) -> Option<Listing> {
        let name = self.index.names_of(&id).next()?;
        Some(listing(name, self.index.get(name)?))
    }
}

impl Handler<FindName> for Library {
    type Result = Option<Listing>;

    fn handle(&mut self, FindName { name }: FindName, _: &mut Context<Self>) -> Option<Listing> {
        Some(listing(&name, self.index.get(&name)?))
    }
}

impl Handler<Stop> for Library {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) -> ResponseFuture<()> {
        let (sender, receiver) = oneshot::channel();
        self.waiting_stop.push(sender);
        self.waiting_open.clear();
        self.hash_watch.stop.store(true, Ordering::Relaxed);
        self.stopping.cancel();
        self.go_on(ctx);
        Box::pin(async { receiver.await.unwrap_or(()) })
    }
}
