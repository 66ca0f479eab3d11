//! The actor that turns spans into files: verifies, writes, finishes.
//!
//! Spans come with an awaited message whose answer is the credit for the next one, so what is in
//! memory is bounded by the number of sources. Hashing and writing run on blocking threads, one call
//! per message, several sources at the same time.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::WeakRecipient;
use actix::prelude::*;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;

use crate::base::{FileId, FileName, Geometry, IoBuffer, SpanIndex, SpanSet};
use crate::content::clash_key;
use crate::content::folder::{Folder, Stamp};
use crate::content::part::{
    Existing, INCOMPLETE, LOCKED, PartData, PartError, PartFile, discard_leftover, existing, room_for,
};
use crate::content::small::{Small, SmallFiles, Written, publish_all};
use crate::content::tree::{Proof, hash_file};
use crate::peer::events::JobError;
use crate::plan::FileIndex;

/// Messages that may wait without being sent again later: one per source, and as many from the job.
const MAILBOX: usize = 64;

/// A place for a file.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder.
    pub folder: Arc<Folder>,
    /// The name below it.
    pub name: FileName,
    /// Whether another content there is replaced.
    pub overwrite: bool,
    /// Whether a later run of this process goes on by itself with what this one cannot finish.
    pub is_noted: bool,
    /// The file beside it that has the name under which the content is shared, if that is another
    /// name: it may be an older version. It is only read.
    pub namesake: Option<FileName>,
}

impl Place {
    /// The whole path.
    pub fn path(&self) -> PathBuf {
        self.folder.path_of(&self.name)
    }

    /// What is the same for places that are one where case and normal form of a name do not count.
    pub fn clash_key(&self) -> String {
        clash_key(&self.path().to_string_lossy()).into_owned()
    }

    /// The same place, for a content that is shared under this name.
    #[must_use]
    pub fn shared_as(mut self, shared: &FileName) -> Place {
        let beside = self.name.as_str().strip_suffix(self.name.last()).unwrap_or_default();
        let namesake = format!("{beside}{}", shared.last()).parse().ok();
        self.namesake = namesake.filter(|namesake| *namesake != self.name);
        self
    }

    /// The older versions that may stand around here.
    fn older(&self) -> impl Iterator<Item = &FileName> {
        self.overwrite.then_some(&self.name).into_iter().chain(&self.namesake)
    }

    fn trouble(&self, error: io::Error) -> JobError {
        disk_trouble(self.path(), error)
    }
}

fn disk_trouble(path: PathBuf, error: io::Error) -> JobError {
    JobError::Disk { path, kind: error.kind(), why: error.to_string() }
}

impl From<PartError> for JobError {
    fn from(error: PartError) -> JobError {
        let refused = |path, why| disk_trouble(path, io::Error::new(io::ErrorKind::WouldBlock, why));
        match error {
            PartError::TargetExists(path) => JobError::TargetExists(path),
            PartError::Disk { path, source } => disk_trouble(path, source),
            // The path is told once.
            PartError::Locked(path) => refused(path, LOCKED),
            PartError::Incomplete(path) => refused(path, INCOMPLETE),
        }
    }
}

/// Where a file goes.
pub enum Output {
    /// Into a folder.
    Place(Place),
    /// In order into a stream.
    Stream(Box<dyn Write + Send>),
}

/// A file that is being put together.
enum Assembly {
    /// A part file.
    Part(Part),
    /// A file of one span, which is written and finished in one go when it comes; one at a time,
    /// for two sources may deliver it.
    Whole { place: Place, proof: Proof, is_one_of_many: bool, is_storing: bool },
    /// One of many such files: written, and to be published with others.
    Written { written: Written, overwrite: bool },
    /// A stream.
    Ordered(Ordered),
}

/// A part file.
struct Part {
    /// Who writes into it has it too: a finished file must not be written to, not even with its own content, for
    /// that changes its stamp.
    file: Arc<PartFile>,
    overwrite: bool,
    finishing: Option<oneshot::Sender<Result<Stamp, JobError>>>,
}

/// A stream, and the spans that came before their turn.
struct Ordered {
    proof: Proof,
    /// The next span to write.
    next: u32,
    waiting: BTreeMap<u32, Vec<u8>>,
    /// `None` while a blocking thread writes.
    writer: Option<Box<dyn Write + Send>>,
    finishing: Option<oneshot::Sender<Result<(), JobError>>>,
    error: Option<JobError>,
}

/// The actor.
pub struct Assembler {
    files: HashMap<FileIndex, Assembly>,
    advanced: WeakRecipient<StreamAdvanced>,
    /// Work on files that is under way. What goes to a stream is not among it: nobody knows when
    /// the other end of a pipe reads on.
    disk: TaskTracker,
    /// Ends the hashing of what is on disk already, when the job is over before it has begun.
    stop: Arc<AtomicBool>,
}

impl Assembler {
    /// Starts the actor; `advanced` hears how far a stream is.
    pub fn start(advanced: WeakRecipient<StreamAdvanced>) -> Addr<Assembler> {
        Assembler { files: HashMap::new(), advanced, disk: TaskTracker::new(), stop: Arc::default() }.start()
    }

    /// Runs work on files beside the actors.
    fn on_disk<T, W>(&self, work: W) -> impl Future<Output = T> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let under_way = self.disk.token();
        blocking(move || {
            let done = work();
            drop(under_way);
            done
        })
    }
}

impl Actor for Assembler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// How far a stream is.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct StreamAdvanced {
    /// The file.
    pub file: FileIndex,
    /// Number of the next span to be written: those in front of it were. Or why no more can be.
    pub next: Result<u32, JobError>,
}

/// Look at what stands at the place of a file.
#[derive(Message)]
#[rtype(result = "Result<Prepared, JobError>")]
pub struct Prepare {
    /// The place.
    pub place: Place,
    /// The content that is to stand there.
    pub id: FileId,
    /// Its size in bytes.
    pub size: u64,
}

/// What stands at the place of a file.
#[derive(Clone, Debug)]
pub enum Prepared {
    /// Nothing, or what may be replaced.
    Free {
        /// The folder that stands at the place's path now, if it is another one than the place has:
        /// the disk was away, or somebody has put it back.
        moved: Option<Arc<Folder>>,
    },
    /// The same content already.
    Same(Stamp),
}

impl Handler<Prepare> for Assembler {
    type Result = ResponseFuture<Result<Prepared, JobError>>;

    fn handle(&mut self, Prepare { place, id, size }: Prepare, _: &mut Self::Context) -> Self::Result {
        let stop = Arc::clone(&self.stop);
        Box::pin(self.on_disk(move || prepare(&place, id, size, &stop)))
    }
}

/// [`Prepare`] for many files; the answers are in the same order.
#[derive(Message)]
#[rtype(result = "Vec<Result<Prepared, JobError>>")]
pub struct PrepareEach(pub Vec<Prepare>);

impl Handler<PrepareEach> for Assembler {
    type Result = ResponseFuture<Vec<Result<Prepared, JobError>>>;

    fn handle(&mut self, PrepareEach(files): PrepareEach, _: &mut Self::Context) -> Self::Result {
        let stop = Arc::clone(&self.stop);
        Box::pin(self.on_disk(move || {
            // They go to one folder as a rule, which is looked at once.
            let mut last = None;
            let prepare = |Prepare { place, id, size }: Prepare| {
                let seen = last.take().filter(|(folder, _)| Arc::ptr_eq(folder, &place.folder));
                let seen = seen.unwrap_or_else(|| (Arc::clone(&place.folder), moved(&place)));
                let (_, moved) = last.insert(seen);
                prepare_in(moved.clone()?, &place, id, size, &stop)
            };
            files.into_iter().map(prepare).collect()
        }))
    }
}

fn prepare(place: &Place, id: FileId, size: u64, stop: &AtomicBool) -> Result<Prepared, JobError> {
    prepare_in(moved(place)?, place, id, size, stop)
}

/// The folder that stands at the path of a place's folder now, if it is another one.
fn moved(place: &Place) -> Result<Option<Arc<Folder>>, JobError> {
    let trouble = |error| place.trouble(error);
    let now = Folder::open(place.folder.path()).map_err(trouble)?;
    let is_another = now.identity().map_err(trouble)? != place.folder.identity().map_err(trouble)?;
    Ok(is_another.then(|| Arc::new(now)))
}

fn prepare_in(
    moved: Option<Arc<Folder>>,
    place: &Place,
    id: FileId,
    size: u64,
    stop: &AtomicBool,
) -> Result<Prepared, JobError> {
    let trouble = |error| place.trouble(error);
    let folder = moved.as_ref().unwrap_or(&place.folder);
    match existing(folder, &place.name, id, size, stop).map_err(trouble)? {
        Existing::Same(stamp) => {
            if let Err(error) = discard_leftover(folder, &place.name, id) {
                log::warn!("what was left of {} cannot be removed: {error}", place.path().display());
            }
            return Ok(Prepared::Same(stamp));
        }
        Existing::Other if !place.overwrite => return Err(JobError::TargetExists(place.path())),
        Existing::Other | Existing::Nothing => {}
    }
    // A part file sees to the room itself when it is begun. Other files are written when they have
    // come, and then it is late: they would be fetched, in vain, as often as they are tried.
    if Geometry::new(size).is_some_and(|geometry| geometry.is_single()) {
        room_for(folder, size).map_err(trouble)?;
    }
    Ok(Prepared::Free { moved })
}

/// Begin to put a file together, or go on with it if it was begun: its room is made sure of, and it
/// has what it had.
#[derive(Message)]
#[rtype(result = "Result<Begun, JobError>")]
pub struct Begin {
    /// Its number in the job.
    pub file: FileIndex,
    /// What proves it.
    pub proof: Proof,
    /// Where it goes.
    pub output: Output,
    /// Whether a file of one span is one of many: it gets its name by [`Publish`], and not when it comes.
    pub is_one_of_many: bool,
}

/// A file is being put together.
pub struct Begun {
    /// The spans that are there already.
    pub had: SpanSet,
    /// Its data, if others can be served from it while it grows.
    pub part: Option<Arc<PartData>>,
}

impl Handler<Begin> for Assembler {
    type Result = ResponseActFuture<Self, Result<Begun, JobError>>;

    fn handle(&mut self, begin: Begin, _: &mut Self::Context) -> Self::Result {
        let Begin { file, proof, output, is_one_of_many } = begin;
        let nothing = Begun { had: SpanSet::empty(proof.geometry()), part: None };
        let place = match output {
            Output::Stream(writer) => {
                let ordered = Ordered {
                    proof,
                    next: 0,
                    waiting: BTreeMap::new(),
                    writer: Some(writer),
                    finishing: None,
                    error: None,
                };
                self.files.insert(file, Assembly::Ordered(ordered));
                return Box::pin(fut::ready(Ok(nothing)));
            }
            Output::Place(place) if proof.geometry().is_single() => {
                let whole = Assembly::Whole { place, proof, is_one_of_many, is_storing: false };
                self.files.entry(file).or_insert(whole);
                return Box::pin(fut::ready(Ok(nothing)));
            }
            Output::Place(place) => place,
        };
        if let Some(Assembly::Part(part)) = self.files.get(&file)
            && *part.file.proof() == proof
        {
            let part = Arc::clone(&part.file);
            let gone_on = self.on_disk(move || {
                part.make_room().map_err(|error| disk_trouble(part.path().to_owned(), error))?;
                Ok(Begun { had: part.share().had(), part: Some(part.share()) })
            });
            return Box::pin(gone_on.into_actor(self));
        }
        let overwrite = place.overwrite;
        let stop = Arc::clone(&self.stop);
        let begun = self.on_disk(move || begin_part(&place, &proof, &stop));
        Box::pin(begun.into_actor(self).map(move |begun, assembler, _| {
            let file_begun = Arc::new(begun?);
            let begun = Begun { had: file_begun.share().had(), part: Some(file_begun.share()) };
            let part = Part { file: file_begun, overwrite, finishing: None };
            assembler.files.insert(file, Assembly::Part(part));
            Ok(begun)
        }))
    }
}

/// Opens a part file and finds out what of the content is on disk already: in the part, in the older
/// file that is to be replaced, and in the one that has its name.
fn begin_part(place: &Place, proof: &Proof, stop: &AtomicBool) -> Result<PartFile, JobError> {
    let open = if place.is_noted { PartFile::open_noted } else { PartFile::open };
    let part = open(&place.folder, &place.name, proof)?;
    let trouble = |error| disk_trouble(part.path().to_owned(), error);
    part.recover(stop).map_err(trouble)?;
    for name in place.older() {
        if part.share().had().is_full() {
            break;
        }
        if let Ok((older, _)) = place.folder.open_file(name) {
            part.adopt(&older, stop).map_err(trouble)?;
        }
    }
    Ok(part)
}

/// Spans that came, one behind the other in one buffer. The answer gives the buffer back, and is the
/// sender's credit for the next spans: so it has to be awaited, see [`Handoff`].
#[derive(Message)]
#[rtype(result = "Verdict")]
pub struct SpansArrived {
    /// Which span of which file stands where in the buffer.
    pub parts: Vec<(FileIndex, SpanIndex, Range<usize>)>,
    /// The bytes.
    pub buffer: IoBuffer,
}

/// What became of the spans.
pub struct Verdict {
    /// One outcome per span, in the order given.
    pub outcomes: Vec<(FileIndex, SpanIndex, Outcome)>,
    /// The buffer, to be used again.
    pub buffer: IoBuffer,
}

/// What became of one span.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Verified and written.
    Stored,
    /// Verified and written, and the file stands under its final name.
    Finished(Stamp),
    /// It is not of the file. Nothing was written.
    Wrong,
    /// The file is not being put together (any more), or another source is just delivering it.
    NotWanted,
    /// The disk refused.
    Failed(JobError),
}

/// The one way to hand over spans: a message that is awaited. With this type, bytes cannot be sent
/// without waiting for their credit.
#[derive(Clone)]
pub struct Handoff(Recipient<SpansArrived>);

impl Handoff {
    /// Hands over to this recipient.
    pub fn to(recipient: Recipient<SpansArrived>) -> Handoff {
        Handoff(recipient)
    }

    /// Hands spans over, at once; resolves when they were dealt with, to `None` if nobody is there
    /// any more.
    pub fn hand_over(&self, spans: SpansArrived) -> impl Future<Output = Option<Verdict>> + use<> {
        let handed_over = self.0.send(spans);
        async move { handed_over.await.ok() }
    }
}

/// Where the blocking thread puts a span.
enum Sink {
    Part(Arc<PartFile>),
    Whole(Place, Proof),
    OneOfMany(Place, Proof),
    Memory(Proof),
    Nowhere,
}

/// What the actor keeps of a span that was dealt with.
enum Kept {
    Nothing,
    /// A span of a stream, which waits for its turn.
    Span(Vec<u8>),
    /// A file that waits for its name.
    Written(Written),
}

impl Sink {
    /// Verifies a span and writes it; for a stream, gives it back to wait for its turn.
    fn store(&self, span: SpanIndex, data: &[u8], small_files: &mut SmallFiles) -> (Outcome, Kept) {
        let outcome = match self {
            Sink::Part(part) => match part.store(span, data) {
                Ok(true) => Outcome::Stored,
                Ok(false) => Outcome::Wrong,
                Err(error) => Outcome::Failed(disk_trouble(part.path().to_owned(), error)),
            },
            Sink::Whole(place, proof) => match store_whole(place, proof, span, data) {
                Ok(Some(stamp)) => Outcome::Finished(stamp),
                Ok(None) => Outcome::Wrong,
                Err(error) => Outcome::Failed(error),
            },
            Sink::OneOfMany(place, proof) => {
                match small_files.write(&place.folder, &place.name, proof, data) {
                    Ok(Small::Written(written)) => return (Outcome::Stored, Kept::Written(written)),
                    Ok(Small::Wrong) => Outcome::Wrong,
                    Ok(Small::Unusual) => {
                        return Sink::Whole(place.clone(), proof.clone()).store(span, data, small_files);
                    }
                    Err(error) => Outcome::Failed(place.trouble(error)),
                }
            }
            Sink::Memory(proof) if proof.verify(span, data) => {
                return (Outcome::Stored, Kept::Span(data.to_vec()));
            }
            Sink::Memory(_) => Outcome::Wrong,
            Sink::Nowhere => Outcome::NotWanted,
        };
        (outcome, Kept::Nothing)
    }
}

fn store_whole(
    place: &Place,
    proof: &Proof,
    span: SpanIndex,
    data: &[u8],
) -> Result<Option<Stamp>, JobError> {
    let part = PartFile::open(&place.folder, &place.name, proof)?;
    if part.store(span, data).map_err(|error| place.trouble(error))? {
        return Ok(Some(part.finish(place.overwrite)?));
    }
    part.discard_if_new()?;
    Ok(None)
}

impl Handler<SpansArrived> for Assembler {
    type Result = ResponseActFuture<Self, Verdict>;

    fn handle(
        &mut self,
        SpansArrived { parts, buffer }: SpansArrived,
        _: &mut Self::Context,
    ) -> Self::Result {
        let sinks: Vec<Sink> = parts
            .iter()
            .map(|(file, ..)| match self.files.get_mut(file) {
                Some(Assembly::Part(part)) if part.finishing.is_none() => Sink::Part(Arc::clone(&part.file)),
                Some(Assembly::Whole { place, proof, is_one_of_many, is_storing }) if !*is_storing => {
                    *is_storing = true;
                    let sink = if *is_one_of_many { Sink::OneOfMany } else { Sink::Whole };
                    sink(place.clone(), proof.clone())
                }
                Some(Assembly::Ordered(ordered)) if ordered.error.is_none() => {
                    Sink::Memory(ordered.proof.clone())
                }
                Some(_) | None => Sink::Nowhere,
            })
            .collect();
        let stored = self.on_disk(move || {
            let mut small_files = SmallFiles::default();
            let stored: Vec<_> = parts
                .into_iter()
                .zip(sinks)
                .map(|((file, span, range), sink)| {
                    (file, span, sink.store(span, &buffer[range], &mut small_files))
                })
                .collect();
            (stored, buffer)
        });
        Box::pin(stored.into_actor(self).map(|(stored, buffer), assembler, ctx| {
            let outcomes = stored.into_iter().map(|(file, span, (outcome, kept))| {
                match kept {
                    Kept::Nothing => {}
                    Kept::Span(data) => assembler.queue(file, span, data, ctx),
                    Kept::Written(written) => {
                        assembler.wait_for_name(file, written);
                        return (file, span, outcome);
                    }
                }
                match assembler.files.get_mut(&file) {
                    Some(Assembly::Part(_)) => assembler.finish_when_quiet(file, ctx),
                    Some(Assembly::Whole { .. }) if matches!(outcome, Outcome::Finished(_)) => {
                        assembler.files.remove(&file);
                    }
                    Some(Assembly::Whole { is_storing, .. }) if !matches!(outcome, Outcome::NotWanted) => {
                        *is_storing = false;
                    }
                    _ => {}
                }
                (file, span, outcome)
            });
            Verdict { outcomes: outcomes.collect(), buffer }
        }))
    }
}

/// Finish a file: all of its spans are stored. Answered when it stands under its final name (with its
/// stamp), or when all of a stream was written.
#[derive(Message)]
#[rtype(result = "Result<Option<Stamp>, JobError>")]
pub struct Finish {
    /// The file.
    pub file: FileIndex,
}

impl Handler<Finish> for Assembler {
    type Result = ResponseFuture<Result<Option<Stamp>, JobError>>;

    fn handle(&mut self, Finish { file }: Finish, ctx: &mut Self::Context) -> Self::Result {
        match self.files.get_mut(&file) {
            Some(Assembly::Part(part)) => {
                let (sender, finished) = oneshot::channel();
                part.finishing = Some(sender);
                self.finish_when_quiet(file, ctx);
                Box::pin(async move { finished.await.unwrap_or(Err(JobError::Interrupted)).map(Some) })
            }
            Some(Assembly::Ordered(ordered)) => {
                let (sender, finished) = oneshot::channel();
                ordered.finishing = Some(sender);
                self.settle(file);
                Box::pin(async move { finished.await.unwrap_or(Err(JobError::Interrupted)).map(|()| None) })
            }
            Some(Assembly::Whole { .. } | Assembly::Written { .. }) | None => {
                Box::pin(async { Err(JobError::Interrupted) })
            }
        }
    }
}

/// Give the final names to files of one span that are written: all are made durable in one go. The
/// answers are in the order of the files.
#[derive(Message)]
#[rtype(result = "Vec<Result<Stamp, JobError>>")]
pub struct Publish {
    /// The files.
    pub files: Vec<FileIndex>,
}

impl Handler<Publish> for Assembler {
    type Result = ResponseFuture<Vec<Result<Stamp, JobError>>>;

    fn handle(&mut self, Publish { files }: Publish, _: &mut Self::Context) -> Self::Result {
        let mut overwrites = false;
        let taken: Vec<Option<Written>> = files
            .iter()
            .map(|file| match self.files.remove(file) {
                Some(Assembly::Written { written, overwrite }) => {
                    overwrites |= overwrite;
                    Some(written)
                }
                // It was given up meanwhile.
                Some(_) | None => None,
            })
            .collect();
        Box::pin(self.on_disk(move || {
            let there: Vec<bool> = taken.iter().map(Option::is_some).collect();
            // All files of a job replace what stands there, or none does.
            let mut published = publish_all(taken.into_iter().flatten().collect(), overwrites).into_iter();
            let answer = |is_there: bool| match is_there.then(|| published.next()).flatten() {
                Some(published) => Ok(published?),
                None => Err(JobError::Interrupted),
            };
            there.into_iter().map(answer).collect()
        }))
    }
}

/// Put a second copy of a finished file somewhere else.
#[derive(Message)]
#[rtype(result = "Result<(Stamp, Proof), CopyError>")]
pub struct Copy {
    /// Where it stands: the folder, and the name below it.
    pub from: (Arc<Folder>, FileName),
    /// Where it goes.
    pub to: Place,
    /// Its id: what is read is proved against it again.
    pub id: FileId,
}

/// Why there is no copy.
#[derive(Debug)]
pub enum CopyError {
    /// The finished file is gone, or is another one now.
    From(JobError),
    /// It cannot be written to the other place.
    To(JobError),
}

impl Handler<Copy> for Assembler {
    type Result = ResponseFuture<Result<(Stamp, Proof), CopyError>>;

    fn handle(&mut self, Copy { from: (folder, name), to, id }: Copy, _: &mut Self::Context) -> Self::Result {
        let stop = Arc::clone(&self.stop);
        Box::pin(self.on_disk(move || {
            let reading = |error| CopyError::From(disk_trouble(folder.path_of(&name), error));
            let writing = |error| CopyError::To(to.trouble(error));
            let (file, stamp) = folder.open_file(&name).map_err(reading)?;
            let proof = hash_file(&file, stamp.size, &stop).map_err(reading)?;
            if proof.id() != id {
                return Err(reading(io::Error::other("it was changed while it was copied")));
            }
            if let Prepared::Same(stamp) = prepare(&to, id, stamp.size, &stop).map_err(CopyError::To)? {
                return Ok((stamp, proof));
            }
            let part =
                PartFile::open(&to.folder, &to.name, &proof).map_err(|error| CopyError::To(error.into()))?;
            let mut data = IoBuffer::default();
            for span in proof.geometry().all_spans() {
                let data = data.first(proof.geometry().len_bytes(span));
                file.read_exact_at(data, proof.geometry().offset(span)).map_err(reading)?;
                part.store(span, data).map_err(writing)?;
            }
            let stamp = part.finish(to.overwrite).map_err(|error| CopyError::To(error.into()))?;
            Ok((stamp, proof))
        }))
    }
}

/// Put a file together no more. Its part file stays, for a later resume.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Forget {
    /// The file.
    pub file: FileIndex,
}

impl Handler<Forget> for Assembler {
    type Result = ();

    fn handle(&mut self, Forget { file }: Forget, _: &mut Self::Context) {
        self.files.remove(&file);
    }
}

/// Give the stream of a file back, if nothing was written to it.
#[derive(Message)]
#[rtype(result = "Option<Box<dyn Write + Send>>")]
pub struct GiveStreamBack {
    /// The file.
    pub file: FileIndex,
}

impl Handler<GiveStreamBack> for Assembler {
    type Result = Option<Box<dyn Write + Send>>;

    fn handle(&mut self, GiveStreamBack { file }: GiveStreamBack, _: &mut Self::Context) -> Self::Result {
        match self.files.get_mut(&file) {
            Some(Assembly::Ordered(ordered)) if ordered.next == 0 => ordered.writer.take(),
            _ => None,
        }
    }
}

/// End; the part files stay. Answered when nothing is written any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopAssembling;

impl Handler<StopAssembling> for Assembler {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: StopAssembling, _: &mut Self::Context) -> Self::Result {
        self.stop.store(true, Ordering::Relaxed);
        self.disk.close();
        let disk = self.disk.clone();
        Box::pin(async move { disk.wait().await }.into_actor(self).map(|(), assembler, ctx| {
            assembler.files.clear();
            ctx.stop();
        }))
    }
}

impl Assembler {
    /// One of many files is written, and has no name yet.
    fn wait_for_name(&mut self, file: FileIndex, written: Written) {
        // Of one that was given up meanwhile the part file stays, as of any other.
        if let Some(Assembly::Whole { place, .. }) = self.files.get(&file) {
            let overwrite = place.overwrite;
            self.files.insert(file, Assembly::Written { written, overwrite });
        }
    }

    /// Finishes a part file that is to be finished, once nobody writes into it.
    fn finish_when_quiet(&mut self, file: FileIndex, ctx: &mut Context<Self>) {
        let Some(Assembly::Part(part)) = self.files.get_mut(&file) else { return };
        if Arc::strong_count(&part.file) > 1 {
            return;
        }
        let Some(finishing) = part.finishing.take() else { return };
        let Some(Assembly::Part(part)) = self.files.remove(&file) else { return };
        let finished = self.on_disk(move || {
            let file = Arc::into_inner(part.file).expect("nobody stores, so nobody else has the part file");
            Ok(file.finish(part.overwrite)?)
        });
        ctx.spawn(finished.into_actor(self).map(|finished, _, _| {
            // The job may have been cancelled meanwhile; the file is there all the same.
            let _ = finishing.send(finished);
        }));
    }
}

// ---- streams ----

impl Assembler {
    /// A verified span of a stream waits for its turn.
    fn queue(&mut self, file: FileIndex, span: SpanIndex, data: Vec<u8>, ctx: &mut Context<Self>) {
        if let Some(Assembly::Ordered(ordered)) = self.files.get_mut(&file) {
            if span.number() >= ordered.next {
                ordered.waiting.insert(span.number(), data);
            }
            self.write_on(file, ctx);
        }
    }

    /// Writes the spans whose turn it is, if nobody is writing.
    fn write_on(&mut self, file: FileIndex, ctx: &mut Context<Self>) {
        let Some(Assembly::Ordered(ordered)) = self.files.get_mut(&file) else { return };
        if ordered.error.is_some() || !ordered.waiting.contains_key(&ordered.next) {
            return;
        }
        let Some(mut writer) = ordered.writer.take() else { return };
        let mut due = Vec::new();
        while let Some(data) = ordered.waiting.remove(&ordered.next) {
            due.push(data);
            ordered.next += 1;
        }
        let written = blocking(move || {
            let written =
                due.iter().try_for_each(|data| writer.write_all(data)).and_then(|()| writer.flush());
            (writer, written)
        });
        ctx.spawn(written.into_actor(self).map(move |(writer, written), assembler, ctx| {
            let Some(Assembly::Ordered(ordered)) = assembler.files.get_mut(&file) else { return };
            ordered.writer = Some(writer);
            ordered.error = written.err().map(|error| disk_trouble("standard output".into(), error));
            if let Some(advanced) = assembler.advanced.upgrade() {
                let next = ordered.error.clone().map_or(Ok(ordered.next), Err);
                advanced.do_send(StreamAdvanced { file, next });
            }
            assembler.write_on(file, ctx);
            assembler.settle(file);
        }));
    }

    /// Answers FINISH when all is written, or nothing more can be.
    fn settle(&mut self, file: FileIndex) {
        let Some(Assembly::Ordered(ordered)) = self.files.get_mut(&file) else { return };
        let is_over = ordered.writer.is_some() && ordered.waiting.is_empty();
        let outcome = match ordered.error.clone() {
            Some(error) => Err(error),
            None if is_over => Ok(()),
            None => return,
        };
        if let Some(finishing) = ordered.finishing.take() {
            // The job may have been cancelled meanwhile.
            let _ = finishing.send(outcome);
            self.files.remove(&file);
        }
    }
}

/// Runs disk and hash work beside the actors.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("blocking work is not cancelled, and a panic in it aborts the process")
}
