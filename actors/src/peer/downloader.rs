//! The actor of one job: finds holders, opens sources, assigns spans, replaces what fails, and says
//! what came of it.
//!
//! What to ask of whom is decided by the plan; this actor carries it out. A file goes through the
//! stages of [`Stage`]; a source is in the job from its dialling to its one ending.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::base::limits::{
    HALF_CONNECTED_FOR, JOB_IN_FLIGHT_BYTES, JOB_TICK, MAX_DOWNLOAD_CONNECTIONS, MAX_JOB_HOLDERS,
    MAX_PEERS_IN_FLIGHT, MAX_TREE_FILES, MAX_TREE_FILES_OPEN, PUBLISH_AFTER_FILES, REPLACE_EVERY,
    REPLACE_EVERY_MAX, STALL_TIMEOUT, TREE_BATCH_FILES,
};
use crate::base::{FileId, FileName, PeerId, Question, SpanIndex, SpanSet, What};
use crate::content::folder::{Folder, Stamp};
use crate::content::tree::{Proof, SpanHash};
use crate::net::Limiter;
use crate::peer::assembler::{
    Assembler, Begin, Begun, Copy, CopyError, Finish, Forget, GiveStreamBack, Handoff, Outcome, Output,
    Place, Prepare, PrepareEach, Prepared, Publish, StopAssembling, StreamAdvanced,
};
use crate::peer::copies::{Copies, Further};
use crate::peer::dialling::{DialPermits, RegisteredAgain};
use crate::peer::events::{FileDone, JobError, JobEvent, SourceState};
use crate::peer::job_file::{JobFile, PATIENCE_FIRST, PATIENCE_LONGEST, Stage, Target};
use crate::peer::library::AddFile;
use crate::peer::places::Places;
use crate::peer::shelf::Lend;
use crate::peer::source_connection::{Order, SourceConfig, SourceConnection, SourceFact, SourceReport};
use crate::peer::threads::Turns;
use crate::peer::trackers::{ListFiles, Remember, TrackerFailure, WhoHas, WhoHasEach};
use crate::peer::tree::Tree;
use crate::plan::{Backoff, Ending, FileIndex, FilePlan, Holders, Holding, JobPlan, Settled, SourceId};
use crate::wire::tracker::{Candidate, Holder, ListedFile};

/// Files of several spans that are fetched at the same time: enough that no source runs dry between
/// two, and at most so many manifests are in memory.
const MAX_LARGE_FILES: usize = 8;
/// How far an ordered output may run ahead of what was written: half of a job's memory.
const STREAM_AHEAD_BYTES: u64 = JOB_IN_FLIGHT_BYTES / 2;
/// The least time between two looks at a job.
const MIN_TICK: Duration = Duration::from_millis(20);

/// Where a wanted file goes. What is in a wanted folder goes below the place that is named here, under
/// the rest of its name.
pub enum Destination {
    /// To this name.
    File {
        /// The folder.
        folder: Arc<Folder>,
        /// The name below it.
        name: FileName,
    },
    /// Into this folder, under the last part of its name; of a wanted folder, what is in it.
    Folder(Arc<Folder>),
    /// Into this shared folder, under its whole name.
    Share(Arc<Folder>),
    /// In order into a stream, which is not for a folder.
    Stream(Box<dyn std::io::Write + Send>),
}

/// One wanted file.
pub struct Want {
    /// What is wanted.
    pub what: What,
    /// Where it goes.
    pub to: Destination,
}

/// What a job is made of.
pub struct DownloaderConfig {
    /// Who we are.
    pub us: PeerId,
    /// The wanted files.
    pub wants: Vec<Want>,
    /// Whether other contents at their places are replaced.
    pub overwrite: bool,
    /// Whether what cannot be had now is tried again until it can.
    pub is_patient: bool,
    /// Where we serve: nobody else is there.
    pub listens_on: SocketAddr,
    /// Whom to ask for holders.
    pub tracker: Recipient<WhoHas>,
    /// Whom to ask for those of many files.
    pub tracker_of_many: Recipient<WhoHasEach>,
    /// Whom to ask what is in a folder.
    pub lists: Recipient<ListFiles>,
    /// Who remembers the holders that were found without a tracker.
    pub memory: Recipient<Remember>,
    /// Who permits dials.
    pub permits: DialPermits,
    /// Who hears of finished files before anybody else, if we share them.
    pub library: Option<Recipient<AddFile>>,
    /// Who serves files while they are downloaded.
    pub shelf: Recipient<Lend>,
    /// Who hears what happens.
    pub events: Recipient<JobEvent>,
    /// Where connections run.
    pub threads: Turns,
    /// The limit on all downloads together.
    pub limiter: Option<Limiter>,
    /// Equal seeds make equal choices.
    pub seed: u64,
}

/// A connection, from its dialling on.
pub(crate) struct Source {
    peer: PeerId,
    address: SocketAddr,
    pub(crate) connection: Addr<SourceConnection>,
    is_connected: bool,
    asked_peers: AskedPeers,
    /// Why we ended it, until it says that it has ended.
    ending: Option<Ending>,
}

/// Files for which a source was asked who else has them, and has not answered.
#[derive(Default)]
struct AskedPeers(BTreeSet<FileIndex>);

impl AskedPeers {
    /// Whether it is to be asked for this file too: it was not, and few answers are due.
    fn ask(&mut self, file: FileIndex) -> bool {
        self.0.len() < MAX_PEERS_IN_FLIGHT && self.0.insert(file)
    }

    fn has_answered(&mut self, file: FileIndex) {
        self.0.remove(&file);
    }

    fn contains(&self, file: FileIndex) -> bool {
        self.0.contains(&file)
    }
}

/// A want that no tracker has answered yet, or not since it failed.
struct OpenWant {
    what: What,
    to: Destination,
    /// The last attempt at it.
    failed: Option<JobFile>,
}

impl OpenWant {
    fn new(what: What, to: Destination) -> OpenWant {
        OpenWant { what, to, failed: None }
    }
}

impl From<Want> for OpenWant {
    fn from(Want { what, to }: Want) -> OpenWant {
        OpenWant::new(what, to)
    }
}

impl From<Tree> for OpenWant {
    fn from(Tree { what, to, .. }: Tree) -> OpenWant {
        OpenWant::new(what, to)
    }
}

impl From<Further> for OpenWant {
    fn from(Further { what, place, .. }: Further) -> OpenWant {
        OpenWant::new(what, place.into())
    }
}

impl From<Place> for Destination {
    fn from(Place { folder, name, .. }: Place) -> Destination {
        Destination::File { folder, name }
    }
}

/// The actor.
pub struct Downloader {
    us: PeerId,
    wants: Vec<Option<OpenWant>>,
    overwrite: bool,
    is_patient: bool,
    /// How long to wait with what failed, each by itself.
    patience: BTreeMap<String, Backoff>,
    tracker: Recipient<WhoHas>,
    tracker_of_many: Recipient<WhoHasEach>,
    lists: Recipient<ListFiles>,
    memory: Recipient<Remember>,
    permits: DialPermits,
    library: Option<Recipient<AddFile>>,
    shelf: Recipient<Lend>,
    events: Recipient<JobEvent>,
    threads: Turns,
    limiter: Option<Limiter>,
    rng: fastrand::Rng,
    pub(crate) assembler: Option<Addr<Assembler>>,
    facts: Option<Recipient<SourceReport>>,
    started: Instant,
    plan: JobPlan,
    holders: Holders,
    /// Those that are not over. Another attempt at one is another file, so that nothing late meets it.
    files: BTreeMap<FileIndex, JobFile>,
    next_file: u64,
    /// The same. Several with one id are streams, and one that has a place.
    by_id: BTreeSet<(FileId, FileIndex)>,
    places: Places,
    /// Files whose turn has not come.
    queue: VecDeque<FileIndex>,
    /// Files in the stage of that name.
    fetching: BTreeSet<FileIndex>,
    /// Those of several spans that are being fetched or finished.
    large: BTreeSet<FileIndex>,
    pub(crate) sources: BTreeMap<SourceId, Source>,
    /// Wants that no tracker has answered yet; of a folder, not all of it.
    unresolved: usize,
    /// Wanted folders of which not all was taken up, numbered in the order in which they were begun.
    trees: BTreeMap<u64, Tree>,
    next_tree: u64,
    /// Small files of wanted folders that have come and wait for their names.
    unpublished: Vec<FileIndex>,
    is_publishing: bool,
    /// Whether many files are taken up one after the other, and what to ask for is decided behind them.
    is_gathering: bool,
    copies: Copies,
    is_connect_due: bool,
    /// When sources are next compared with each other, and how long to wait behind that.
    next_replacement: Instant,
    replace_wait: Duration,
    is_over: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Downloader {
    /// Starts the job.
    pub fn start(config: DownloaderConfig) -> Addr<Downloader> {
        let wants: Vec<_> = config.wants.into_iter().map(|want| Some(want.into())).collect();
        Downloader {
            us: config.us.clone(),
            unresolved: wants.len(),
            wants,
            overwrite: config.overwrite,
            is_patient: config.is_patient,
            patience: BTreeMap::new(),
            tracker: config.tracker,
            tracker_of_many: config.tracker_of_many,
            lists: config.lists,
            trees: BTreeMap::new(),
            next_tree: 0,
            unpublished: Vec::new(),
            is_publishing: false,
            is_gathering: false,
            memory: config.memory,
            permits: config.permits,
            library: config.library,
            shelf: config.shelf,
            events: config.events,
            threads: config.threads,
            limiter: config.limiter,
            rng: fastrand::Rng::with_seed(config.seed),
            assembler: None,
            facts: None,
            started: Instant::now(),
            plan: JobPlan::new(config.seed),
            holders: Holders::new(config.us, config.listens_on),
            files: BTreeMap::new(),
            next_file: 0,
            by_id: BTreeSet::new(),
            places: Places::new(),
            queue: VecDeque::new(),
            fetching: BTreeSet::new(),
            large: BTreeSet::new(),
            sources: BTreeMap::new(),
            copies: Copies::default(),
            is_connect_due: false,
            next_replacement: Instant::now(),
            replace_wait: REPLACE_EVERY,
            is_over: false,
            waiting: Vec::new(),
        }
        .start()
    }

    /// A file that is in this stage (still).
    fn file_in(&mut self, stage: Stage, index: FileIndex) -> Option<&mut JobFile> {
        self.files.get_mut(&index).filter(|file| file.stage == stage)
    }

    fn set_stage(&mut self, index: FileIndex, stage: Stage) {
        let Some(file) = self.files.get_mut(&index) else { return };
        file.stage = stage;
        if stage == Stage::Fetching {
            self.fetching.insert(index);
        } else {
            self.fetching.remove(&index);
        }
        if stage == Stage::Fetching && file.is_large() {
            self.large.insert(index);
        } else if stage == Stage::Waiting {
            self.large.remove(&index);
        }
    }

    fn fetching(&self) -> Vec<FileIndex> {
        self.fetching.iter().copied().collect()
    }

    /// The files in the stage of that name.
    fn fetched(&self) -> impl Iterator<Item = &JobFile> {
        at(&self.fetching, &self.files)
    }

    /// Asks the assembler, and takes its answer as one step of this actor.
    fn ask<M>(
        &self,
        message: M,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, M::Result, &mut Context<Self>) + 'static,
    ) where
        M: Message + Send + 'static,
        M::Result: Send,
        Assembler: Handler<M>,
    {
        let Some(assembler) = &self.assembler else { return };
        let answer = assembler.send(message).into_actor(self);
        ctx.spawn(answer.map(move |answer, job, ctx| match answer {
            Ok(answer) => then(job, answer, ctx),
            // An assembler that has gone was stopped by us, at the end.
            Err(_) => assert!(job.assembler.is_none(), "the assembler of a running job has ended"),
        }));
    }

    // ---- from a want to a file ----

    fn resolve(
        &mut self,
        want: usize,
        answer: Result<Vec<Candidate>, TrackerFailure>,
        ctx: &mut Context<Self>,
    ) {
        // A job that was cancelled has given up its wants.
        let Some(OpenWant { what, to, failed }) = self.wants[want].take() else { return };
        self.unresolved -= 1;
        let failed = match &answer {
            Ok(candidates) => {
                failed.iter().for_each(|failed| failed.note_unlisted(candidates, &mut self.holders));
                None
            }
            Err(_) => failed,
        };
        match choose(answer) {
            Ok(candidates) => {
                let name = candidates.first().map(|first| name_of(&what, first));
                let file = name.and_then(|name| self.take_up(what, name, to, &candidates, false, ctx));
                if let Some(file) = file {
                    self.prepare(file, ctx);
                }
            }
            Err(error) => self.fail_want(OpenWant { what, to, failed }, error, ctx),
        }
        self.end_if_over(ctx);
    }

    /// Asks the tracker for a want.
    fn ask_for(&mut self, want: usize, ctx: &mut Context<Self>) {
        if self.wants[want].as_ref().is_some_and(|want| want.what.tree().is_some()) {
            return self.begin_tree(want, ctx);
        }
        let Some(OpenWant { what, .. }) = &self.wants[want] else { return };
        let answer = self.tracker.send(WhoHas { what: what.clone() }).into_actor(self);
        ctx.spawn(answer.map(move |answer, job, ctx| {
            // Who asks the trackers has gone: so will we.
            job.resolve(want, answer.unwrap_or(Err(TrackerFailure::NoAnswer(Vec::new()))), ctx);
        }));
    }

    /// Says that a want cannot be had; a patient job tries it again later.
    fn fail_want(&mut self, failed: OpenWant, error: JobError, ctx: &mut Context<Self>) {
        let is_final = !self.is_patient || !error.may_pass();
        let name = failed.what.to_string();
        self.events.do_send(JobEvent::Failed { what: name.clone(), error });
        if is_final {
            self.patience.remove(&name);
            return;
        }
        let want = self.wants.iter().position(Option::is_none).unwrap_or_else(|| {
            self.wants.push(None);
            self.wants.len() - 1
        });
        self.wants[want] = Some(failed);
        self.unresolved += 1;
        let patience =
            self.patience.entry(name).or_insert_with(|| Backoff::new(PATIENCE_FIRST, PATIENCE_LONGEST));
        let wait = patience.next_wait(&mut self.rng);
        ctx.run_later(wait, move |job, ctx| {
            job.holders.forgive(Instant::now());
            job.ask_for(want, ctx);
        });
    }

    /// Begins a file: all candidates have the same id. What is new is to be prepared.
    fn take_up(
        &mut self,
        what: What,
        name: FileName,
        to: Destination,
        candidates: &[Candidate],
        is_of_tree: bool,
        ctx: &mut Context<Self>,
    ) -> Option<FileIndex> {
        let first = candidates.first()?;
        let target = match to {
            Destination::Stream(stream) => Target::Stream(Some(stream)),
            Destination::File { folder, name: to } => Target::Place(self.place(folder, to).shared_as(&name)),
            Destination::Share(folder) => Target::Place(self.place(folder, name.clone())),
            Destination::Folder(folder) => {
                // The last part of a name that was accepted is a name itself.
                let last = name.last().parse().unwrap_or_else(|_| name.clone());
                Target::Place(self.place(folder, last))
            }
        };
        let holders = candidates.iter().map(|candidate| candidate.holder_count).sum();
        self.events.do_send(JobEvent::Found { name: name.clone(), id: first.id, size: first.size, holders });
        if let Target::Place(place) = &target {
            let (files, by_id, copies) = (&self.files, &self.by_id, &self.copies);
            let attempt_at = |id: &FileId| {
                let mut known = with_id(by_id, *id).filter_map(|index| files.get(&index));
                let placed = known.find(|file| file.place().is_some());
                placed.map(|file| file.attempt).or_else(|| copies.attempt(id))
            };
            let known = attempt_at(&first.id);
            let attempt = known.unwrap_or(FileIndex(self.next_file));
            let is_alive = |id: &FileId, attempt| attempt_at(id) == Some(attempt);
            let text = what.to_string();
            match self.places.take(place, first.id, attempt, &text, is_alive) {
                // What goes through a stream cannot be copied: it is fetched for each place.
                Ok(true) if known.is_none() => {}
                Ok(true) => {
                    self.copies.want(first.id, Further { what, name, place: place.clone() });
                    self.copy_on(first.id, ctx);
                    return None;
                }
                Ok(false) => {
                    log::info!("{text} was asked for twice");
                    self.patience.remove(&text);
                    return None;
                }
                Err(error) => {
                    self.patience.remove(&text);
                    self.events.do_send(JobEvent::Failed { what: text, error });
                    return None;
                }
            }
        }
        let now = Instant::now();
        let mut file = JobFile::new(FileIndex(self.next_file), what, first.id, name, target, now);
        file.is_of_tree = is_of_tree;
        file.learn(candidates, &mut self.holders, now);
        self.tell_who_is_back();
        if file.holder_count() == 0 {
            // Nobody but us: the size is all there is to learn.
            file.believe(first.size);
        }
        Some(self.enter(file))
    }

    /// Enters a file under the next index.
    fn enter(&mut self, file: JobFile) -> FileIndex {
        let index = FileIndex(self.next_file);
        self.next_file += 1;
        self.by_id.insert((file.id, index));
        self.files.insert(index, file);
        index
    }

    fn prepare(&mut self, index: FileIndex, ctx: &mut Context<Self>) {
        let Some(file) = self.files.get(&index) else { return };
        match file.place().cloned() {
            Some(place) => {
                let prepare = Prepare { place, id: file.id, size: file.size() };
                self.ask(prepare, ctx, move |job, prepared, ctx| job.prepared(index, prepared, ctx));
            }
            None => self.prepared(index, Ok(Prepared::Free { moved: None }), ctx),
        }
    }

    fn place(&self, folder: Arc<Folder>, name: FileName) -> Place {
        Place { folder, name, overwrite: self.overwrite, is_noted: self.is_patient, namesake: None }
    }

    fn prepared(&mut self, index: FileIndex, prepared: Result<Prepared, JobError>, ctx: &mut Context<Self>) {
        // The job may have been cancelled meanwhile.
        let Some(file) = self.file_in(Stage::Preparing, index) else { return };
        match prepared {
            Ok(Prepared::Free { moved }) => {
                if let Some(folder) = moved {
                    self.move_to(index, folder);
                }
                self.set_stage(index, Stage::Queued);
                self.queue.push_back(index);
                self.advance_queue(ctx);
            }
            Ok(Prepared::Same(stamp)) => {
                file.kept_bytes = file.size().saturating_sub(file.fetched_bytes);
                self.done(index, Some(stamp), ctx);
            }
            Err(error) => self.fail(index, error, ctx),
        }
    }

    /// Another folder stands where the file goes: what was begun in the former one is left there.
    fn move_to(&mut self, index: FileIndex, folder: Arc<Folder>) {
        let Some(file) = self.files.get_mut(&index) else { return };
        if let Target::Place(place) = &mut file.target {
            place.folder = folder;
        }
        self.shelf.do_send(Lend::Ended { id: file.id });
        self.forget(index);
    }

    /// Fetches the files that wait, as many large ones at a time as there may be.
    fn advance_queue(&mut self, ctx: &mut Context<Self>) {
        while let Some(index) = self.queue.front().copied() {
            // One of them may have been given up meanwhile.
            let is_large = self.file_in(Stage::Queued, index).map(|file| file.is_large());
            if is_large == Some(true) && self.large.len() >= MAX_LARGE_FILES {
                break;
            }
            self.queue.pop_front();
            if is_large.is_some() {
                self.fetch(index, ctx);
            }
        }
    }

    // ---- from a folder to its files ----

    fn begin_tree(&mut self, want: usize, ctx: &mut Context<Self>) {
        let Some(OpenWant { what, to, .. }) = self.wants[want].take() else { return };
        self.trees.insert(self.next_tree, Tree::new(what, to));
        self.next_tree += 1;
        self.advance_trees(ctx);
    }

    /// Lists what is in the wanted folders, and takes it up, as far as there is room.
    fn advance_trees(&mut self, ctx: &mut Context<Self>) {
        if self.trees.is_empty() {
            return;
        }
        for number in self.trees.keys().copied().collect::<Vec<_>>() {
            self.advance_tree(number, ctx);
        }
    }

    fn advance_tree(&mut self, number: u64, ctx: &mut Context<Self>) {
        loop {
            let resolving: usize = self.trees.values().map(|tree| tree.resolving).sum();
            let open = self.files.len() + self.copies.count() + self.unresolved + resolving;
            let Some(tree) = self.trees.get_mut(&number) else { return };
            if let Some((prefix, after)) = tree.next_page() {
                let page = self.lists.send(ListFiles { prefix, after }).into_actor(self);
                ctx.spawn(page.map(move |page, job, ctx| {
                    job.listed(number, page.unwrap_or(Err(TrackerFailure::NoAnswer(Vec::new()))), ctx);
                }));
                continue;
            }
            let room = MAX_TREE_FILES_OPEN.saturating_sub(open);
            // Few at a time would be many questions: it goes on when there is room for a batch.
            let taken = if room < TREE_BATCH_FILES { Vec::new() } else { tree.take(TREE_BATCH_FILES) };
            if taken.is_empty() {
                break;
            }
            tree.resolving += taken.len();
            self.look_up(number, taken, ctx);
        }
        if self.trees.get(&number).is_some_and(Tree::is_over)
            && let Some(tree) = self.trees.remove(&number)
        {
            self.unresolved -= 1;
            match tree.failure() {
                None => drop(self.patience.remove(&tree.what.to_string())),
                Some(failure) => self.fail_want(tree.into(), failure, ctx),
            }
        }
    }

    /// A page of a wanted folder.
    fn listed(
        &mut self,
        number: u64,
        page: Result<(Vec<ListedFile>, bool), TrackerFailure>,
        ctx: &mut Context<Self>,
    ) {
        let Some(tree) = self.trees.get_mut(&number) else { return };
        match page {
            Ok((files, is_more)) => tree.list(files, is_more),
            Err(failure) => self.fail_tree(number, failure, ctx),
        }
        self.end_if_over(ctx);
    }

    /// No tracker tells what else is in a folder.
    fn fail_tree(&mut self, number: u64, failure: TrackerFailure, ctx: &mut Context<Self>) {
        if let Some(tree) = self.trees.remove(&number) {
            self.unresolved -= 1;
            self.fail_want(tree.into(), failure.into(), ctx);
        }
    }

    /// Asks who has these files of a folder: all in one go.
    fn look_up(&mut self, number: u64, files: Vec<(FileName, Option<FileId>)>, ctx: &mut Context<Self>) {
        let question = |(name, id): &(FileName, Option<FileId>)| match id {
            Some(id) => Question::Prefix((*id).into()),
            None => Question::Name { name: name.clone(), prefix: None },
        };
        let questions = files.iter().map(question).collect();
        let found = self.tracker_of_many.send(WhoHasEach { questions }).into_actor(self);
        ctx.spawn(found.map(move |found, job, ctx| {
            let found = found.unwrap_or(Err(TrackerFailure::NoAnswer(Vec::new())));
            job.looked_up(number, files, found, ctx);
        }));
    }

    fn looked_up(
        &mut self,
        number: u64,
        files: Vec<(FileName, Option<FileId>)>,
        found: Result<Vec<Vec<Candidate>>, TrackerFailure>,
        ctx: &mut Context<Self>,
    ) {
        let Some(tree) = self.trees.get_mut(&number) else { return };
        tree.resolving -= files.len();
        let found = match found {
            Ok(found) => found,
            Err(failure) => {
                self.fail_tree(number, failure, ctx);
                return self.end_if_over(ctx);
            }
        };
        let places: Vec<_> = files.iter().map(|(name, _)| tree.place_of(name)).collect();
        let mut new = Vec::new();
        for (((name, _), candidates), place) in files.into_iter().zip(found).zip(places) {
            // The folder is listed anew, and meanwhile this one is tried by itself.
            if self.patience.contains_key(name.as_str()) {
                continue;
            }
            let what = What::from(name.clone());
            let Some((folder, place)) = place else {
                let why = "a folder cannot be written to a stream".into();
                let error = JobError::Disk { path: name.as_str().into(), kind: ErrorKind::InvalidInput, why };
                self.events.do_send(JobEvent::Failed { what: what.to_string(), error });
                continue;
            };
            let is_full = self.patience.len() >= MAX_TREE_FILES
                || (self.places.is_full()
                    && !self.places.has(&self.place(Arc::clone(&folder), place.clone())));
            if is_full {
                if let Some(tree) = self.trees.get_mut(&number) {
                    tree.cut_off();
                }
                break;
            }
            let to = Destination::File { folder, name: place };
            match choose(Ok(candidates)) {
                Ok(candidates) => new.extend(self.take_up(what, name, to, &candidates, true, ctx)),
                Err(error) => self.fail_want(OpenWant::new(what, to), error, ctx),
            }
        }
        self.prepare_each(new, ctx);
        self.end_if_over(ctx);
    }

    /// [`Downloader::prepare`] for many files that have places.
    fn prepare_each(&mut self, files: Vec<FileIndex>, ctx: &mut Context<Self>) {
        let prepare = |index: &FileIndex| {
            let file = self.files.get(index)?;
            Some((*index, Prepare { place: file.place()?.clone(), id: file.id, size: file.size() }))
        };
        let (files, prepare): (Vec<_>, Vec<_>) = files.iter().filter_map(prepare).unzip();
        if files.is_empty() {
            return;
        }
        self.ask(PrepareEach(prepare), ctx, move |job, prepared, ctx| {
            job.is_gathering = true;
            for (index, prepared) in files.into_iter().zip(prepared) {
                job.prepared(index, prepared, ctx);
            }
            job.is_gathering = false;
            job.assign_all();
        });
    }

    // ---- from a file to its spans ----

    /// Asks for what is missing to fetch a file: its proof first, then what each source has.
    fn engage(&mut self, index: FileIndex, ctx: &mut Context<Self>) {
        let Some(file) = self.file_in(Stage::Fetching, index).filter(|file| !file.is_beginning) else {
            return;
        };
        if !file.is_begun
            && let Some(proof) = file.proof.clone().or_else(|| file.proof_of_single())
        {
            return self.begin(index, proof, ctx);
        }
        for id in self.sources.keys().copied().collect::<Vec<_>>() {
            self.engage_source(index, id);
        }
    }

    fn engage_source(&mut self, index: FileIndex, id: SourceId) {
        let Some(source) =
            self.sources.get(&id).filter(|source| source.is_connected && source.ending.is_none())
        else {
            return;
        };
        let Some(file) = self.files.get_mut(&index) else { return };
        let Some(is_complete) = file.holder(&source.peer) else { return };
        if file.stage != Stage::Fetching || self.plan.holds(id, index) || file.asked_open.contains(&id) {
            return;
        }
        if file.proof.is_none() {
            if file.manifest_from.is_none() {
                file.manifest_from = Some(id);
                file.manifest_asked = Instant::now();
                file.asked_open.insert(id);
                let order = Order::Open { file: index, id: file.id, size: file.size(), manifest: true };
                source.connection.do_send(order);
            }
        } else if file.is_begun {
            if is_complete {
                self.plan.set_holding(id, index, Some(Holding::All));
                self.assign(id);
            } else {
                file.asked_open.insert(id);
                let order = Order::Open { file: index, id: file.id, size: file.size(), manifest: false };
                source.connection.do_send(order);
            }
        }
    }

    /// The proof is there: the file can be put together.
    fn begin(&mut self, index: FileIndex, proof: Proof, ctx: &mut Context<Self>) {
        let Some(file) = self.files.get_mut(&index) else { return };
        file.proof = Some(proof.clone());
        let output = match &mut file.target {
            Target::Place(place) => Output::Place(place.clone()),
            Target::Stream(stream) => match stream.take() {
                Some(stream) => Output::Stream(stream),
                None => return,
            },
        };
        let is_one_of_many = file.is_one_of_many();
        file.is_beginning = !is_one_of_many;
        let begin = Begin { file: index, proof, output, is_one_of_many };
        if is_one_of_many {
            // Nothing of it is there, and nothing is done before it comes: no answer is worth a wait.
            if let Some(assembler) = &self.assembler {
                let had = SpanSet::empty(begin.proof.geometry());
                assembler.do_send(begin);
                self.begun(index, Begun { had, part: None }, ctx);
            }
            return;
        }
        self.ask(begin, ctx, move |job, begun, ctx| {
            // Of one that was given up meanwhile the part file would stay locked.
            let Some(file) = job.files.get_mut(&index) else { return job.forget(index) };
            file.is_beginning = false;
            match begun {
                Ok(begun) => job.begun(index, begun, ctx),
                Err(error) => job.fail(index, error, ctx),
            }
        });
    }

    fn begun(&mut self, index: FileIndex, Begun { had, part }: Begun, ctx: &mut Context<Self>) {
        let file = self.files.get_mut(&index).filter(|file| file.stage == Stage::Fetching);
        let Some((proof, file)) = file.and_then(|file| Some((file.proof.clone()?, file))) else { return };
        let geometry = *proof.geometry();
        file.is_begun = true;
        file.is_size_proved = had.contains(geometry.last_span());
        // A file that is begun again, with another size, finds what was fetched before.
        file.kept_bytes = had.len_bytes(&geometry).saturating_sub(file.fetched_bytes);
        let (is_stream, is_complete) = (matches!(file.target, Target::Stream(_)), had.is_full());
        self.plan.add_file(index, geometry, had);
        if file.is_size_disputed() {
            self.plan.doubt_size(index);
        }
        if is_stream {
            self.plan.limit_file_to(index, stream_horizon(&proof, 0));
        }
        if is_complete {
            return self.finish(index, ctx);
        }
        let file = self.files.get(&index);
        if let (Some(part), Some((file, place))) = (part, file.and_then(|file| Some((file, file.place()?)))) {
            // A shared file is told under the name that it will have in the folder.
            let name = if self.library.is_some() { place.name.clone() } else { file.name.clone() };
            self.shelf.do_send(Lend::Part { name, part });
        }
        self.engage(index, ctx);
        self.check_hope(index, ctx);
    }

    fn opened(
        &mut self,
        id: SourceId,
        index: FileIndex,
        size: u64,
        spans: Option<bytes::Bytes>,
        manifest: Option<Vec<SpanHash>>,
        ctx: &mut Context<Self>,
    ) {
        let (Some(source), Some(file)) = (self.sources.get(&id), self.files.get_mut(&index)) else { return };
        file.asked_open.remove(&id);
        if file.stage != Stage::Fetching {
            return;
        }
        let Some(geometry) = file.geometry().filter(|geometry| geometry.size() == size) else {
            return self.end_source(id, Ending::WrongSize { stated: size });
        };
        let holding = match spans.map(|spans| SpanSet::from_bytes(&geometry, &spans)) {
            None => Holding::All,
            Some(Some(spans)) => Holding::Spans(spans),
            Some(None) => return self.end_source(id, Ending::Protocol("a bit set of another length".into())),
        };
        if file.proof.is_none() && (manifest.is_some() || file.manifest_from == Some(id)) {
            let proof = manifest.and_then(|values| Proof::new(file.id, geometry, values).ok());
            let Some(proof) = proof else { return self.end_source(id, Ending::WrongManifest) };
            log::debug!("{} sent the manifest of {}", source.peer, file.id.short());
            return self.begin(index, proof, ctx);
        }
        self.plan.set_holding(id, index, Some(holding));
        self.assign(id);
    }

    fn assign(&mut self, id: SourceId) {
        let Some(source) = self.sources.get(&id).filter(|source| source.ending.is_none()) else { return };
        // It is done at the end, for many files at once.
        if self.is_gathering {
            return;
        }
        let requests = self.plan.assign(id, Instant::now()).into_iter().filter_map(|request| {
            let file = self.files.get(&request.file)?;
            let (id, geometry) = (file.id, file.geometry()?);
            Some((request, id, geometry))
        });
        let gets: Vec<_> = requests.collect();
        if !gets.is_empty() {
            source.connection.do_send(Order::Get(gets));
        }
    }

    fn assign_all(&mut self) {
        for id in self.plan.sources() {
            self.assign(id);
        }
    }

    fn settled(
        &mut self,
        id: SourceId,
        outcomes: Vec<(FileIndex, SpanIndex, Outcome)>,
        ctx: &mut Context<Self>,
    ) {
        for (index, span, outcome) in outcomes {
            let geometry = self.files.get(&index).and_then(JobFile::geometry);
            if geometry.and_then(|geometry| geometry.span(span.number().into())).is_none() {
                // It was asked for by an earlier attempt, or when another size was believed.
                self.plan.not_stored(id, index, span);
                continue;
            }
            match outcome {
                Outcome::Stored => self.stored(id, index, span, None, ctx),
                Outcome::Finished(stamp) => self.stored(id, index, span, Some(stamp), ctx),
                Outcome::NotWanted => {
                    self.plan.not_stored(id, index, span);
                    self.waste(index, span);
                }
                Outcome::Wrong => {
                    self.plan.not_stored(id, index, span);
                    self.waste(index, span);
                    self.end_source(id, Ending::WrongSpan(span));
                }
                Outcome::Failed(error) => {
                    self.plan.not_stored(id, index, span);
                    self.fail(index, error, ctx);
                }
            }
        }
        self.assign(id);
    }

    fn waste(&mut self, index: FileIndex, span: SpanIndex) {
        let Some(file) = self.files.get_mut(&index) else { return };
        if let Some(geometry) = file.geometry() {
            file.wasted_bytes += geometry.len_bytes(span) as u64;
        }
    }

    fn stored(
        &mut self,
        id: SourceId,
        index: FileIndex,
        span: SpanIndex,
        stamp: Option<Stamp>,
        ctx: &mut Context<Self>,
    ) {
        let now = Instant::now();
        // Of a file that waits for the disk it is there all the same.
        let is_planned = self.plan.file(index).is_some();
        let settled = self.plan.stored(id, index, span, now);
        let Some(file) = self.files.get_mut(&index) else { return };
        let (complete, geometry) = match (settled, file.geometry()) {
            (Settled::Used { complete }, Some(geometry)) => (complete, geometry),
            (Settled::Wasted, Some(geometry)) if !is_planned => (false, geometry),
            _ => return self.waste(index, span),
        };
        // A source that has ended meanwhile has delivered all the same.
        if let Some(source) = self.sources.get(&id) {
            self.holders.delivered(&source.peer);
            let is_first = file.used(&source.peer, geometry.len_bytes(span) as u64, now);
            if is_first && !file.is_one_of_many() {
                self.memory.do_send(Remember(file.held_by(source.peer.clone(), source.address)));
            }
        }
        if stamp.is_none() && !file.is_one_of_many() {
            self.shelf.do_send(Lend::Grown);
        }
        if span == geometry.last_span() && !file.is_size_proved {
            file.is_size_proved = true;
            self.end_who_disagrees(index);
        }
        if complete {
            match stamp {
                Some(stamp) => self.done(index, Some(stamp), ctx),
                None => self.finish(index, ctx),
            }
        }
    }

    /// The size is proved: who states another one for this id was wrong.
    fn end_who_disagrees(&mut self, index: FileIndex) {
        let Some(file) = self.files.get(&index) else { return };
        let stated = |(id, source): (&SourceId, &Source)| Some((*id, file.disagrees(&source.peer)?));
        for (id, stated) in self.sources.iter().filter_map(stated).collect::<Vec<_>>() {
            self.end_source(id, Ending::WrongSize { stated });
        }
    }

    // ---- from its spans to a finished file ----

    fn finish(&mut self, index: FileIndex, ctx: &mut Context<Self>) {
        self.set_stage(index, Stage::Finishing);
        if self.files.get(&index).is_some_and(JobFile::is_one_of_many) {
            self.unpublished.push(index);
            return self.publish_if_due(ctx);
        }
        self.ask(Finish { file: index }, ctx, move |job, finished, ctx| job.finished(index, finished, ctx));
    }

    fn finished(
        &mut self,
        index: FileIndex,
        finished: Result<Option<Stamp>, JobError>,
        ctx: &mut Context<Self>,
    ) {
        match finished {
            // What was given up meanwhile has told its end.
            _ if self.file_in(Stage::Finishing, index).is_none() => {}
            Ok(stamp) => self.done(index, stamp, ctx),
            Err(error) => self.fail(index, error, ctx),
        }
    }

    fn done(&mut self, index: FileIndex, stamp: Option<Stamp>, ctx: &mut Context<Self>) {
        let Some(file) = self.take_out(index) else { return };
        if self.is_patient {
            self.patience.remove(&file.what.to_string());
        }
        let finished = Lend::Finished { id: file.id };
        match (&self.library, stamp, &file.target, &file.proof) {
            (.., Target::Stream(_), _) => {}
            (Some(library), Some(stamp), Target::Place(place), Some(proof)) => {
                let add = AddFile { name: place.name.clone(), proof: proof.clone(), stamp };
                // The shelf serves it until the library does, so that nobody is turned away between.
                let added = library.send(add).into_actor(self);
                ctx.spawn(added.map(|_, job, _| job.shelf.do_send(finished)));
            }
            _ => self.shelf.do_send(finished),
        }
        if file.fetched_bytes > 0 && !file.is_one_of_many() {
            // However quick it was, its progress was told once.
            let rate_bytes_s = file.rate.bytes_s().unwrap_or(0);
            self.events.do_send(JobEvent::Progress(file.progress(file.size(), rate_bytes_s)));
        }
        if let Some(place) = file.place() {
            self.copies.stands(file.id, file.attempt, place);
        }
        self.events.do_send(JobEvent::Done(FileDone {
            id: file.id,
            size: file.size(),
            path: file.place().map(Place::path),
            elapsed: self.started.elapsed(),
            fetched_bytes: file.fetched_bytes,
            kept_bytes: file.kept_bytes,
            wasted_bytes: file.wasted_bytes,
            sources: file.shares(),
            name: file.name,
        }));
        self.copy_on(file.id, ctx);
        self.advance_queue(ctx);
        self.end_if_over(ctx);
    }

    /// Gives names to the small files that wait for them: when they are many, or all that is left.
    fn publish_if_due(&mut self, ctx: &mut Context<Self>) {
        let is_looked_up = self.trees.values().all(|tree| tree.resolving == 0);
        let is_rest = self.unpublished.len() >= self.files.len() && is_looked_up;
        if is_rest || self.unpublished.len() >= PUBLISH_AFTER_FILES {
            self.publish(ctx);
        }
    }

    fn publish(&mut self, ctx: &mut Context<Self>) {
        // One at a time: what comes meanwhile is the next one.
        if self.unpublished.is_empty() || std::mem::replace(&mut self.is_publishing, true) {
            return;
        }
        let files = std::mem::take(&mut self.unpublished);
        self.ask(Publish { files: files.clone() }, ctx, move |job, published, ctx| {
            job.is_publishing = false;
            for (index, published) in files.into_iter().zip(published) {
                job.finished(index, published.map(Some), ctx);
            }
            job.publish_if_due(ctx);
        });
    }

    /// Copies a content that has come to the next of the other places where it was asked for.
    fn copy_on(&mut self, id: FileId, ctx: &mut Context<Self>) {
        let Some((folder, name, to)) = self.copies.begin_next(&id) else { return };
        self.ask(Copy { from: (folder, name), to, id }, ctx, move |job, copied, ctx| {
            let Some(further) = job.copies.made(&id) else { return };
            match copied {
                Ok((stamp, proof)) => {
                    let Further { what, name, place } = further;
                    job.patience.remove(&what.to_string());
                    job.events.do_send(JobEvent::Done(FileDone {
                        name,
                        id,
                        size: stamp.size,
                        path: Some(place.path()),
                        elapsed: job.started.elapsed(),
                        fetched_bytes: 0,
                        kept_bytes: stamp.size,
                        wasted_bytes: 0,
                        sources: Vec::new(),
                    }));
                    if let Some(library) = &job.library {
                        // Shared at once, and not when a look finds it.
                        library.do_send(AddFile { name: place.name, proof, stamp });
                    }
                }
                Err(CopyError::From(error)) => {
                    let others = job.copies.is_gone(&id);
                    for further in std::iter::once(further).chain(others) {
                        job.places.give_back(&further.place);
                        job.fail_want(further.into(), error.clone(), ctx);
                    }
                }
                Err(CopyError::To(error)) => {
                    job.places.give_back(&further.place);
                    job.fail_want(further.into(), error, ctx);
                }
            }
            job.copy_on(id, ctx);
            job.end_if_over(ctx);
        });
    }

    fn fail(&mut self, index: FileIndex, error: JobError, ctx: &mut Context<Self>) {
        let Some(file) = self.files.get(&index) else { return };
        if matches!(error, JobError::Disk { .. }) && file.place().is_some() && self.is_patient {
            return self.wait(index, error, ctx);
        }
        let Some(mut file) = self.take_out(index) else { return };
        self.end_lending(&file);
        // Only who held it counts from here on.
        file.proof = None;
        match file.place().cloned() {
            Some(place) => {
                let further = self.copies.give_up(&file.id);
                let first = OpenWant { what: file.what.clone(), to: place.into(), failed: Some(file) };
                for want in std::iter::once(first).chain(further.into_iter().map(OpenWant::from)) {
                    self.fail_want(want, error.clone(), ctx);
                }
            }
            // A stream that was begun cannot be begun again.
            None => {
                let what = file.what.to_string();
                self.events.do_send(JobEvent::Failed { what, error });
            }
        }
        self.advance_queue(ctx);
        self.end_if_over(ctx);
    }

    /// The disk refused a file of a patient job: it keeps what it has, and goes on later.
    fn wait(&mut self, index: FileIndex, error: JobError, ctx: &mut Context<Self>) {
        // Of several spans that came at the same time, each met the same trouble; and the file may be begun again
        // already, which will tell.
        let is_met = |file: &JobFile| file.stage == Stage::Waiting || file.is_beginning;
        let Some(file) = self.files.get_mut(&index).filter(|file| !is_met(file)) else { return };
        self.events.do_send(JobEvent::Failed { what: file.what.to_string(), error });
        if file.stage == Stage::Finishing {
            // Its part file is closed.
            self.shelf.do_send(Lend::Ended { id: file.id });
        }
        file.is_begun = false;
        file.asked_open.clear();
        let wait = file.patience.next_wait(&mut self.rng);
        self.set_stage(index, Stage::Waiting);
        self.plan.remove_file(index);
        ctx.run_later(wait, move |job, ctx| job.try_again(index, ctx));
        self.want_connections(ctx);
        self.advance_queue(ctx);
    }

    fn try_again(&mut self, index: FileIndex, ctx: &mut Context<Self>) {
        let Some(file) = self.file_in(Stage::Waiting, index) else { return };
        file.is_search_exhausted = false;
        self.holders.forgive(Instant::now());
        self.set_stage(index, Stage::Preparing);
        self.prepare(index, ctx);
    }

    /// Takes a file out of the job: it is done, or has failed.
    fn take_out(&mut self, index: FileIndex) -> Option<JobFile> {
        let file = self.files.remove(&index)?;
        self.fetching.remove(&index);
        self.large.remove(&index);
        self.by_id.remove(&(file.id, index));
        self.plan.remove_file(index);
        self.forget(index);
        Some(file)
    }

    /// What is there of a file is not served while it grows any more. Of a stream nothing is.
    fn end_lending(&self, file: &JobFile) {
        if file.place().is_some() {
            self.shelf.do_send(Lend::Ended { id: file.id });
        }
    }

    fn forget(&self, index: FileIndex) {
        if let Some(assembler) = &self.assembler {
            assembler.do_send(Forget { file: index });
        }
    }

    // ---- sources ----

    /// Has connections made, once, after what is being handled now.
    fn want_connections(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.is_connect_due, true) {
            ctx.notify(Connect);
        }
    }

    fn connect(&mut self) {
        let now = Instant::now();
        self.is_connect_due = false;
        if self.is_over || self.holders.next_ready().is_none_or(|ready| ready > now) {
            return;
        }
        let is_young = now.saturating_duration_since(self.started) < HALF_CONNECTED_FOR;
        let most = if is_young { self.max_sources() / 2 } else { self.max_sources() };
        // While a reader takes nothing, whoever ends an idle connection is not dialled again and again.
        let is_asked = |index: &&FileIndex| !self.plan.file(**index).is_some_and(FilePlan::waits_for_reader);
        let asked: BTreeSet<FileIndex> = self.fetching.iter().filter(is_asked).copied().collect();
        while self.sources.len() < most {
            let is_wanted = |peer: &PeerId| at(&asked, &self.files).any(|file| file.holder(peer).is_some());
            let Some((peer, address)) = self.holders.dial(is_wanted, now, &mut self.rng) else { break };
            self.dial(peer, address, now);
        }
    }

    /// Those who are said to have what is being fetched.
    fn wanted_holders(&self) -> BTreeSet<PeerId> {
        self.fetched().flat_map(|file| file.holders().cloned()).collect()
    }

    /// Has sources that deliver little make room for holders that are not connected.
    fn replace_sources(&mut self, now: Instant) {
        for id in self.plan.retired() {
            self.end_source(id, Ending::MadeRoom);
        }
        if now < self.next_replacement || self.sources.len() < self.max_sources() {
            return;
        }
        let wanted = self.wanted_holders();
        let ready = self.holders.ready(|peer| wanted.contains(peer), now);
        let retired = self.plan.retire_poor(ready, now);
        self.replace_wait =
            if retired > 0 { REPLACE_EVERY } else { (self.replace_wait * 2).min(REPLACE_EVERY_MAX) };
        self.next_replacement = now + self.replace_wait;
    }

    /// How many connections fit into the memory of a job: fewer if spans are large.
    fn max_sources(&self) -> usize {
        let largest = self.fetched().filter_map(JobFile::geometry);
        let span_len_bytes = largest.map(|geometry| geometry.span_len_bytes()).max().unwrap_or(1);
        ((JOB_IN_FLIGHT_BYTES / (2 * span_len_bytes)) as usize).clamp(2, MAX_DOWNLOAD_CONNECTIONS)
    }

    fn dial(&mut self, peer: PeerId, address: SocketAddr, now: Instant) {
        let (Some(assembler), Some(facts)) = (&self.assembler, self.facts.clone()) else { return };
        let source = self.plan.add_source(now);
        log::debug!("dialling {peer} at {address}");
        let config = SourceConfig {
            source,
            us: self.us.clone(),
            peer: peer.clone(),
            address,
            permits: self.permits.clone(),
            limiter: self.limiter.clone(),
            handoff: Handoff::to(assembler.clone().recipient()),
            facts,
        };
        let connection = SourceConnection::start_on(self.threads.take_turn(), config);
        let source_of = Source {
            peer,
            address,
            connection,
            is_connected: false,
            asked_peers: AskedPeers::default(),
            ending: None,
        };
        self.sources.insert(source, source_of);
    }

    fn tell_source(&self, source: &Source, state: SourceState) {
        self.events.do_send(JobEvent::Source { peer: source.peer.clone(), address: source.address, state });
    }

    /// Ends a source because of what it did; it is not asked from here on.
    fn end_source(&mut self, id: SourceId, ending: Ending) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        if source.ending.is_none() {
            source.ending = Some(ending.clone());
            source.connection.do_send(Order::End(ending));
        }
    }

    fn source_ended(&mut self, id: SourceId, ending: Ending, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let Some(source) = self.sources.remove(&id) else { return };
        let ending = match source.ending.clone().unwrap_or(ending) {
            Ending::WrongSize { stated } if self.restate(&source.peer, stated) => {
                Ending::Cut(format!("states another size ({stated} bytes) than who told of it"))
            }
            ending => ending,
        };
        let lost_spans = self.plan.remove_source(id);
        if ending.is_lie() {
            log::warn!("{} at {} {ending}; it is not asked again for this job", source.peer, source.address);
        } else if ending.is_failure() || matches!(ending, Ending::NotMade(_)) {
            log::info!("{} at {} {ending} ({lost_spans} spans unfinished)", source.peer, source.address);
        }
        if !matches!(ending, Ending::NotNeeded | Ending::PutOff(_)) {
            self.tell_source(&source, SourceState::Dropped { reason: ending.to_string() });
        }
        self.holders.ended(&source.peer, ending, now);
        // It was there a moment ago, and may be back in a moment.
        let is_lost = self.holders.is_lost(&source.peer);
        for index in self.fetching() {
            let Some(file) = self.files.get_mut(&index) else { continue };
            if is_lost && file.holder(&source.peer).is_some() {
                file.be_patient(now);
            }
            file.asked_open.remove(&id);
            if file.manifest_from == Some(id) {
                file.manifest_from = None;
            }
            let is_holder = file.holder(&source.peer).is_some() || file.disagrees(&source.peer).is_some();
            if is_holder || source.asked_peers.contains(index) {
                file.is_search_exhausted = false;
                self.engage(index, ctx);
                self.check_hope(index, ctx);
            }
        }
        self.assign_all();
        self.want_connections(ctx);
        self.end_if_over(ctx);
    }

    /// See [`JobFile::restate`]; whether it did so for any file.
    fn restate(&mut self, peer: &PeerId, size: u64) -> bool {
        let mut has_restated = false;
        for index in self.fetching() {
            has_restated |= self.files.get_mut(&index).is_some_and(|file| file.restate(peer, size));
        }
        has_restated
    }

    fn missing(&mut self, id: SourceId, index: FileIndex, ctx: &mut Context<Self>) {
        self.plan.set_holding(id, index, None);
        let (Some(source), Some(file)) = (self.sources.get(&id), self.files.get_mut(&index)) else { return };
        log::info!("{} {} ({})", source.peer, Ending::Missing, file.id.short());
        let peer = source.peer.clone();
        file.asked_open.remove(&id);
        file.lose(&peer, Ending::Missing.to_string(), Instant::now());
        if file.manifest_from == Some(id) {
            file.manifest_from = None;
        }
        let is_holder = |file: &JobFile| file.holder(&peer).is_some();
        // Most likely of one that is being fetched too, which is soon found.
        if !self.fetched().chain(self.files.values()).any(is_holder) {
            self.end_source(id, Ending::Missing);
        }
        self.engage(index, ctx);
        self.assign_all();
        self.check_hope(index, ctx);
    }

    // ---- when holders run out ----

    /// Looks for further holders of a file that nobody can deliver; fails it if there are none.
    fn check_hope(&mut self, index: FileIndex, ctx: &mut Context<Self>) {
        let file = self.files.get(&index).filter(|file| file.stage == Stage::Fetching);
        // While it is being found out what is on disk, nobody is needed.
        let Some(file) = file.filter(|file| !file.is_beginning) else { return };
        if self.holders.any_hope(|peer| file.holder(peer).is_some()) || self.believe_another(index, ctx) {
            return;
        }
        let Some(file) = self.files.get(&index) else { return };
        if file.is_search_exhausted {
            let is_asking = self.sources.values().any(|source| source.asked_peers.contains(index));
            if is_asking || file.is_patient(Instant::now()) {
                return;
            }
            let reasons = file.reasons(&self.holders);
            return self.fail(index, JobError::Undelivered(reasons), ctx);
        }
        if !file.is_searching {
            self.search(index, ctx);
        }
    }

    /// Begins a file anew with another size that is claimed; whether there is one. It has another index then,
    /// so that nothing meets it that was asked for with the former size.
    fn believe_another(&mut self, former: FileIndex, ctx: &mut Context<Self>) -> bool {
        let Some(file) = self.files.get_mut(&former) else { return false };
        if !file.believe_another() {
            return false;
        }
        let index = FileIndex(self.next_file);
        let is_streaming = matches!(file.target, Target::Stream(None));
        if is_streaming {
            // Before the assembler is told to forget it.
            self.ask(GiveStreamBack { file: former }, ctx, move |job, stream, ctx| {
                job.stream_again(index, stream, ctx);
            });
        }
        let Some(mut file) = self.take_out(former) else { return false };
        self.end_lending(&file);
        file.alive = Instant::now();
        self.enter(file);
        if is_streaming {
            self.set_stage(index, Stage::Preparing);
        } else {
            self.begin_anew(index, ctx);
        }
        true
    }

    /// Queues a file whose size is another one now: it may be a large one, of which there are few at a time. Not
    /// at once, for of the sizes that are claimed each may be given up in its turn.
    fn begin_anew(&mut self, index: FileIndex, ctx: &mut Context<Self>) {
        self.set_stage(index, Stage::Queued);
        self.queue.push_front(index);
        ctx.notify(AdvanceQueue);
    }

    fn fetch(&mut self, index: FileIndex, ctx: &mut Context<Self>) {
        self.set_stage(index, Stage::Fetching);
        if let Some(file) = self.files.get_mut(&index) {
            file.alive = Instant::now();
        }
        self.want_connections(ctx);
        self.engage(index, ctx);
        self.check_hope(index, ctx);
    }

    /// A stream begins anew with another size; not if something of the former one went out.
    fn stream_again(
        &mut self,
        index: FileIndex,
        stream: Option<Box<dyn std::io::Write + Send>>,
        ctx: &mut Context<Self>,
    ) {
        let Some(file) = self.file_in(Stage::Preparing, index) else { return };
        if stream.is_some() {
            file.target = Target::Stream(stream);
            file.fetched_in_vain();
            return self.begin_anew(index, ctx);
        }
        let reasons = self.files.get(&index).map(|file| file.reasons(&self.holders)).unwrap_or_default();
        self.fail(index, JobError::Undelivered(reasons), ctx);
    }

    fn search(&mut self, index: FileIndex, ctx: &mut Context<Self>) {
        let Some(file) = self.files.get_mut(&index) else { return };
        file.is_searching = true;
        let what = What::from(file.id);
        let answer = self.tracker.send(WhoHas { what }).into_actor(self);
        ctx.spawn(answer.map(move |answer, job, ctx| {
            let Some(file) = job.files.get_mut(&index) else { return };
            file.is_searching = false;
            // A tracker that is gone is no reason to give up sources that are there.
            file.is_search_exhausted = true;
            let is_news = match answer {
                Ok(Ok(candidates)) => {
                    file.note_unlisted(&candidates, &mut job.holders);
                    file.learn(&candidates, &mut job.holders, Instant::now())
                }
                Ok(Err(_)) | Err(_) => false,
            };
            job.tell_who_is_back();
            if !is_news {
                job.ask_sources(index);
            }
            job.want_connections(ctx);
            job.engage(index, ctx);
            job.check_hope(index, ctx);
        }));
    }

    /// Tells who permits dials of holders that trackers tell of again, and whoever reads the log of those
    /// that are too many.
    fn tell_who_is_back(&mut self) {
        if self.holders.take_overflow() {
            log::warn!(
                "more than {MAX_JOB_HOLDERS} holders are told of: this job knows of so many at a time"
            );
        }
        for address in self.holders.take_listed_again() {
            self.permits.back.do_send(RegisteredAgain(address));
        }
    }

    /// Asks the sources who else has a file: for the time when no tracker knows of others.
    fn ask_sources(&mut self, index: FileIndex) {
        let file = self.files.get(&index).filter(|file| file.stage == Stage::Fetching);
        let Some(file) = file else { return };
        for source in self.sources.values_mut() {
            let may_ask = source.is_connected && source.ending.is_none();
            if may_ask && source.asked_peers.ask(index) {
                source.connection.do_send(Order::Peers { file: index, id: file.id });
            }
        }
    }

    /// A source has said who else has a file.
    fn heard(&mut self, id: SourceId, index: FileIndex, mut told: Vec<Holder>, ctx: &mut Context<Self>) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.asked_peers.has_answered(index);
        // A loopback address means the machine that says it, which is ours only if it is there too.
        if !source.address.ip().is_loopback() {
            told.retain(|holder| !holder.address.ip().to_canonical().is_loopback());
        }
        let Some(file) = self.files.get_mut(&index) else { return };
        file.hear(&told, &mut self.holders, Instant::now());
        self.want_connections(ctx);
        self.engage(index, ctx);
        self.check_hope(index, ctx);
    }

    // ---- the clock ----

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        self.assign_all();
        self.replace_sources(now);
        self.connect();
        for index in self.fetching() {
            let Some(file) = self.files.get_mut(&index) else { continue };
            // Of a small file somebody has all; others are looked for when that fails.
            if !file.is_one_of_many() && file.is_search_due(now) {
                self.search(index, ctx);
            }
            self.look_for_the_lost(index, now, ctx);
            self.hurry_manifest(index, now, ctx);
            self.tell_progress(index, now);
            self.check_standstill(index, now, ctx);
        }
        self.publish(ctx);
        ctx.run_later(self.next_tick(now), |job, ctx| {
            if !job.is_over {
                job.tick(ctx);
            }
        });
    }

    /// How long until the next look: those who began together find each other by searches that follow
    /// each other faster at first, and a tick later is a tick in which their links are idle.
    fn next_tick(&self, now: Instant) -> Duration {
        let next =
            self.fetched().filter(|file| !file.is_one_of_many()).filter_map(JobFile::next_search).min();
        let wait = next.map_or(JOB_TICK, |next| next.saturating_duration_since(now));
        wait.clamp(MIN_TICK, JOB_TICK)
    }

    /// Of a file whose last holder was lost a moment ago, asks again who has it, and gives it up in the end.
    fn look_for_the_lost(&mut self, index: FileIndex, now: Instant, ctx: &mut Context<Self>) {
        let Some(file) = self.files.get_mut(&index) else { return };
        if file.is_lost_due(now) && !self.holders.any_hope(|peer| file.holder(peer).is_some()) {
            file.is_search_exhausted &= !file.is_patient(now);
            self.check_hope(index, ctx);
        }
    }

    /// Fails a file of which nobody who is connected has anything that is missing, for too long.
    fn check_standstill(&mut self, index: FileIndex, now: Instant, ctx: &mut Context<Self>) {
        let Some(file) = self.files.get(&index) else { return };
        let is_holder = |peer: &PeerId| file.holder(peer).is_some();
        let is_dialled = |source: &Source| !source.is_connected && is_holder(&source.peer);
        // Who fails is dialled a few times and then given up, which has an end of its own.
        let plan = self.plan.file(index);
        let is_awaited = plan.is_none_or(|plan| plan.in_flight().next().is_some() || plan.waits_for_reader())
            || self.plan.is_in_line(index)
            || file.is_beginning
            || self.sources.values().any(is_dialled)
            || file.is_patient(now)
            || self.holders.any_undialled(is_holder);
        let is_over = self.files.get_mut(&index).is_some_and(|file| file.stands_still(is_awaited, now));
        if is_over && !self.believe_another(index, ctx) {
            let Some(file) = self.files.get(&index) else { return };
            let mut reasons = file.reasons(&self.holders);
            for source in self.sources.values().filter(|source| file.holder(&source.peer).is_some()) {
                reasons.push((source.peer.clone(), "does not have what is missing".into()));
            }
            self.fail(index, JobError::Undelivered(reasons), ctx);
        }
    }

    /// Asks another source for a manifest that is overdue.
    fn hurry_manifest(&mut self, index: FileIndex, now: Instant, ctx: &mut Context<Self>) {
        let Some(file) = self.files.get_mut(&index) else { return };
        let is_overdue = now.saturating_duration_since(file.manifest_asked) >= STALL_TIMEOUT;
        if file.proof.is_none() && file.manifest_from.is_some() && is_overdue {
            file.manifest_from = None;
            self.engage(index, ctx);
        }
    }

    fn tell_progress(&mut self, index: FileIndex, now: Instant) {
        let (Some(plan), Some(file)) = (self.plan.file(index), self.files.get_mut(&index)) else { return };
        let have_bytes = plan.had().len_bytes(plan.geometry());
        let rate_bytes_s = file.rate.bytes_s_at(now);
        // A file that stands still is told too, as long as it falls: the rate goes down to zero.
        if std::mem::take(&mut file.has_moved) || rate_bytes_s > 0 {
            self.events.do_send(JobEvent::Progress(file.progress(have_bytes, rate_bytes_s)));
        }
    }

    // ---- the end ----

    fn tell_interrupted(&self, what: &What) {
        self.events.do_send(JobEvent::Failed { what: what.to_string(), error: JobError::Interrupted });
    }

    fn end_if_over(&mut self, ctx: &mut Context<Self>) {
        self.advance_trees(ctx);
        self.publish_if_due(ctx);
        if self.unresolved > 0 || self.copies.count() > 0 || !self.files.is_empty() {
            return;
        }
        if !std::mem::replace(&mut self.is_over, true) {
            for id in self.sources.keys().copied().collect::<Vec<_>>() {
                self.end_source(id, Ending::NotNeeded);
            }
        }
        if !self.sources.is_empty() {
            return;
        }
        let Some(assembler) = self.assembler.take() else { return };
        let stopped = assembler.send(StopAssembling).into_actor(self);
        ctx.spawn(stopped.map(|_, job, ctx| {
            for waiting in job.waiting.drain(..) {
                // Who started the job may have gone.
                let _ = waiting.send(());
            }
            ctx.stop();
        }));
    }
}

impl From<TrackerFailure> for JobError {
    fn from(failure: TrackerFailure) -> JobError {
        match failure {
            TrackerFailure::NoAnswer(reasons) => JobError::NoTracker(reasons),
            TrackerFailure::Refused { tracker, why } => JobError::Refused { tracker, why },
        }
    }
}

/// The indexes of the files that have this id.
fn with_id(by_id: &BTreeSet<(FileId, FileIndex)>, id: FileId) -> impl Iterator<Item = FileIndex> {
    by_id.range((id, FileIndex(0))..=(id, FileIndex(u64::MAX))).map(|(_, index)| *index)
}

/// The files under these indexes.
fn at<'a>(
    indexes: &'a BTreeSet<FileIndex>,
    files: &'a BTreeMap<FileIndex, JobFile>,
) -> impl Iterator<Item = &'a JobFile> {
    indexes.iter().filter_map(|index| files.get(index))
}

/// The candidates of the one id that a question found. What nobody but us has does not make a name
/// ambiguous.
fn choose(answer: Result<Vec<Candidate>, TrackerFailure>) -> Result<Vec<Candidate>, JobError> {
    let mut candidates = answer?;
    if candidates.iter().any(|candidate| !candidate.holders.is_empty()) {
        candidates.retain(|candidate| !candidate.holders.is_empty());
    }
    let Some(first) = candidates.first() else { return Err(JobError::NobodyHasIt) };
    if candidates.iter().any(|candidate| candidate.id != first.id) {
        return Err(JobError::Ambiguous(candidates));
    }
    Ok(candidates)
}

/// The name under which a file is fetched: the one that was asked for, else the first one it has.
fn name_of(what: &What, candidate: &Candidate) -> FileName {
    let asked = what.questions().iter().find_map(|question| match question {
        Question::Name { name, .. } if candidate.names.contains(name) => Some(name.clone()),
        Question::Name { .. } | Question::Prefix(_) => None,
    });
    let known = || candidate.names.first().cloned();
    // An id is a valid name.
    asked
        .or_else(known)
        .unwrap_or_else(|| candidate.id.to_string().parse().expect("64 hex digits are a name"))
}

/// Up to which span an ordered output may be fetched while `next` is to be written.
fn stream_horizon(proof: &Proof, next: u32) -> u32 {
    let ahead = (STREAM_AHEAD_BYTES / proof.geometry().span_len_bytes()).max(1);
    next.saturating_add(ahead as u32)
}

impl Drop for Downloader {
    /// However it ends, its sources end too, and what was wanted has an outcome that is told.
    fn drop(&mut self) {
        for source in self.sources.values() {
            source.connection.do_send(Order::End(Ending::NotNeeded));
        }
        let wanted = self.wants.iter().flatten().map(|want| &want.what);
        let listed = self.trees.values().map(|tree| &tree.what);
        let begun = self.files.values().map(|file| &file.what);
        let copied = self.copies.places().map(|further| &further.what);
        wanted.chain(listed).chain(begun).chain(copied).for_each(|what| self.tell_interrupted(what));
    }
}

impl Actor for Downloader {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let us = ctx.address();
        self.assembler = Some(Assembler::start(us.downgrade().recipient()));
        self.facts = Some(us.recipient());
        (0..self.wants.len()).for_each(|want| self.ask_for(want, ctx));
        ctx.run_later(JOB_TICK, |job, ctx| job.tick(ctx));
        self.end_if_over(ctx);
    }
}

/// Connections are wanted.
#[derive(Message)]
#[rtype(result = "()")]
struct Connect;

impl Handler<Connect> for Downloader {
    type Result = ();

    fn handle(&mut self, _: Connect, _: &mut Self::Context) {
        self.connect();
    }
}

/// A file was queued.
#[derive(Message)]
#[rtype(result = "()")]
struct AdvanceQueue;

impl Handler<AdvanceQueue> for Downloader {
    type Result = ();

    fn handle(&mut self, _: AdvanceQueue, ctx: &mut Self::Context) {
        self.advance_queue(ctx);
    }
}

impl Handler<SourceReport> for Downloader {
    type Result = ();

    fn handle(&mut self, SourceReport { source: id, fact }: SourceReport, ctx: &mut Self::Context) {
        match fact {
            SourceFact::Connected => {
                let Some(source) = self.sources.get_mut(&id) else { return };
                source.is_connected = true;
                self.holders.met(&source.peer);
                let source = &self.sources[&id];
                self.tell_source(source, SourceState::Connected);
                self.is_gathering = true;
                for index in self.fetching() {
                    self.engage_source(index, id);
                }
                self.is_gathering = false;
                self.assign(id);
            }
            SourceFact::Opened { file, size, spans, manifest } => {
                self.opened(id, file, size, spans, manifest, ctx)
            }
            SourceFact::Have { id: file, spans } => {
                for index in with_id(&self.by_id, file) {
                    let Some(geometry) = self.files.get(&index).and_then(JobFile::geometry) else { continue };
                    let spans = spans.iter().filter_map(|number| geometry.span(u64::from(*number)));
                    if self.plan.extend_holding(id, index, &spans.collect::<Vec<_>>())
                        && let Some(file) = self.files.get_mut(&index)
                    {
                        // It may not be what is missing, but something moves.
                        file.alive = Instant::now();
                    }
                }
                self.assign(id);
            }
            SourceFact::Holders { file, holders } => self.heard(id, file, holders, ctx),
            SourceFact::Missing { file } => self.missing(id, file, ctx),
            SourceFact::Taken { file, spans, given } => {
                self.plan.taken(id, file, spans, &given);
                // Who was asked in vain may be the only one with room, or somebody else has it already.
                self.assign_all();
            }
            SourceFact::Settled(outcomes) => self.settled(id, outcomes, ctx),
            SourceFact::Ended(ending) => self.source_ended(id, ending, ctx),
        }
    }
}

impl Handler<StreamAdvanced> for Downloader {
    type Result = ();

    fn handle(&mut self, StreamAdvanced { file, next }: StreamAdvanced, ctx: &mut Self::Context) {
        match (next, self.files.get(&file).and_then(|file| file.proof.as_ref())) {
            (Ok(next), Some(proof)) => {
                self.plan.limit_file_to(file, stream_horizon(proof, next));
                self.assign_all();
                self.want_connections(ctx);
            }
            (Ok(_), None) => {}
            (Err(error), _) => self.fail(file, error, ctx),
        }
    }
}

/// Wait until the job is over; what came of it was told as events.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AwaitJob;

impl Handler<AwaitJob> for Downloader {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: AwaitJob, _: &mut Self::Context) -> Self::Result {
        let (sender, over) = oneshot::channel();
        self.waiting.push(sender);
        Box::pin(async move {
            // A job that stopped without saying so is over too.
            let _ = over.await;
        })
    }
}

/// Give the job up: what is not done fails as interrupted, part files stay.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CancelJob;

impl Handler<CancelJob> for Downloader {
    type Result = ();

    fn handle(&mut self, _: CancelJob, ctx: &mut Self::Context) {
        self.is_patient = false;
        let wanted = self.wants.iter_mut().filter_map(Option::take).map(|want| want.what);
        let listed = std::mem::take(&mut self.trees).into_values().map(|tree| tree.what);
        let copied = self.copies.give_up_all().into_iter().map(|further| further.what);
        let given_up: Vec<What> = wanted.chain(listed).chain(copied).collect();
        given_up.iter().for_each(|what| self.tell_interrupted(what));
        self.unresolved = 0;
        self.queue.clear();
        for index in self.files.keys().copied().collect::<Vec<_>>() {
            // All of it is there: it gets its name in a moment.
            let is_there = |file: &JobFile| file.stage == Stage::Finishing && file.place().is_some();
            if !self.files.get(&index).is_some_and(is_there) {
                self.fail(index, JobError::Interrupted, ctx);
            }
        }
        self.end_if_over(ctx);
    }
}

#[cfg(test)]
mod tests {
    use actix_rt::System;
    use tokio::runtime::Builder;

    use super::*;
    use crate::deaths::probe;
    use crate::peer::dialling::Dialling;
    use crate::peer::threads::DataThreads;

    /// A tracker that knows another content at each question, which nobody has.
    struct Fickle(u8);

    impl Actor for Fickle {
        type Context = Context<Self>;
    }

    impl Handler<WhoHas> for Fickle {
        type Result = Result<Vec<Candidate>, TrackerFailure>;

        fn handle(&mut self, _: WhoHas, _: &mut Self::Context) -> Self::Result {
            self.0 += 1;
            let id = FileId::from_bytes([self.0; 32]);
            Ok(vec![Candidate { id, size: 5, names: Vec::new(), holders: Vec::new(), holder_count: 1 }])
        }
    }

    impl Handler<WhoHasEach> for Fickle {
        type Result = Result<Vec<Vec<Candidate>>, TrackerFailure>;

        fn handle(&mut self, _: WhoHasEach, _: &mut Self::Context) -> Self::Result {
            Ok(Vec::new())
        }
    }

    impl Handler<ListFiles> for Fickle {
        type Result = Result<(Vec<ListedFile>, bool), TrackerFailure>;

        fn handle(&mut self, _: ListFiles, _: &mut Self::Context) -> Self::Result {
            Ok((Vec::new(), false))
        }
    }

    /// How many files a job knows of, and how many ids.
    #[derive(Message)]
    #[rtype(result = "(usize, usize)")]
    struct Known;

    impl Handler<Known> for Downloader {
        type Result = MessageResult<Known>;

        fn handle(&mut self, _: Known, _: &mut Self::Context) -> Self::Result {
            MessageResult((self.files.len(), self.by_id.len()))
        }
    }

    #[test]
    fn a_patient_job_knows_of_one_attempt_at_a_file_however_many_it_makes() {
        let clock = || Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        System::with_tokio_rt(clock).block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let (events, mut heard) = probe();
            let tracker = Fickle(0).start();
            let threads = DataThreads::start().unwrap();
            let to = Arc::new(Folder::open(folder.path()).unwrap());
            let job = Downloader::start(DownloaderConfig {
                us: "us".parse().unwrap(),
                wants: vec![Want { what: "x".parse().unwrap(), to: Destination::Folder(to) }],
                overwrite: false,
                is_patient: true,
                listens_on: ([127, 0, 0, 1], 1).into(),
                tracker: tracker.clone().recipient(),
                tracker_of_many: tracker.clone().recipient(),
                lists: tracker.recipient(),
                memory: probe().0,
                permits: DialPermits::from(&Dialling::default().start()),
                library: None,
                shelf: probe().0,
                events,
                threads: threads.turns(),
                limiter: None,
                seed: 1,
            });
            let mut failures = 0;
            while failures < 50 {
                let event = heard.recv().await.unwrap();
                failures += usize::from(matches!(event, JobEvent::Failed { .. }));
                let (files, ids) = job.send(Known).await.unwrap();
                assert!(files <= 1 && ids <= 1, "{files} files and {ids} ids after {failures} failures");
            }
            let (over, cancelled) = tokio::join!(job.send(AwaitJob), job.send(CancelJob));
            over.and(cancelled).unwrap();
            threads.stop().await;
        });
    }

    #[test]
    fn a_source_is_asked_who_else_has_thirty_two_files_at_a_time() {
        let mut asked = AskedPeers::default();
        let number = |number: usize| FileIndex(number as u64);
        let more = (0..99).filter(|file| asked.ask(number(*file))).count();
        assert_eq!(more, MAX_PEERS_IN_FLIGHT);
        asked.has_answered(number(5));
        assert!(!asked.contains(number(5)) && asked.contains(number(6)));
        assert!(!asked.ask(number(6)), "once");
        assert!(asked.ask(number(98)) && !asked.ask(number(97)));
    }
}
