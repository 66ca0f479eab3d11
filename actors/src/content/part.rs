//! The part file: what a download has so far, hidden beside its target.
//!
//! The disk is the journal. There is no list of what was written: whoever opens a part file hashes
//! what it holds and keeps what is right, after an orderly stop, `kill -9`, power loss and
//! tampering alike. So nothing has to be synced while a download runs, and a torn write is a span
//! that has to be fetched again.
//!
//! The final name appears by one rename, of a file whose spans were all verified.
//!
//! A part file is named by its id, so it does not say what it is to be called. Whoever goes on with
//! it by himself, without being asked again, leaves a *note* beside it: a file of one line, the name.
//! A part and its note are found together, moved together, and deleted by who wants neither.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rustix::fs::{
    Advice, AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, StatVfs, fadvise,
    fallocate, flock, fstat, fstatfs, fstatvfs, openat, seek, statat, unlinkat,
};
use rustix::io::Errno;

use super::folder::{Folder, Stamp, publish};
use super::tree::{Proof, hash_file, hash_spans};
use crate::base::limits::{JOB_IN_FLIGHT_BYTES, MAX_COMPONENT_BYTES, RESERVED_PREFIX};
use crate::base::{FileId, FileName, Geometry, IoBuffer, SpanIndex, SpanSet};

/// How far the time of last change of a finished file is put back, so that its stamp is settled at
/// once (see [`Stamp::is_settled_at`]) and the index need not hash it again: a change by anybody
/// else gives another time.
pub(super) const FINISHED_AGE: Duration = Duration::from_secs(3);

/// How often a part file that is swapped under our hands is opened anew.
const OPEN_ATTEMPTS: usize = 8;

/// What the name of a part file ends with.
const PART_SUFFIX: &str = ".part";
/// What the name of a note ends with.
pub(super) const NOTE_SUFFIX: &str = ".want";

/// Rights of a finished file, before the umask.
pub(super) const FINISHED_MODE: u32 = 0o666;

/// `statfs(2)`: the type of a file system that is in memory.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// What is said of a part file that another download has.
pub(crate) const LOCKED: &str = "is being written by another download";
/// What is said of a part file that lacks spans.
pub(crate) const INCOMPLETE: &str = "is not complete";

/// Why a part file cannot be opened or finished.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// Another process (or another job of this one) downloads the same file to the same folder.
    #[error("{} {}", .0.display(), LOCKED)]
    Locked(PathBuf),
    /// Something stands where the file was to go, and it is not the same content.
    #[error("{} exists and has another content", .0.display())]
    TargetExists(PathBuf),
    /// Not every span was verified.
    #[error("{} {}", .0.display(), INCOMPLETE)]
    Incomplete(PathBuf),
    /// The disk refused.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The path that was to be read or written.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What stands where a file is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing.
    Nothing,
    /// The same content already.
    Same(Stamp),
    /// Something else: another content, a folder, a link.
    Other,
}

/// Looks at what stands under a name, and hashes it if it can be the wanted content by its size.
///
/// # Errors
/// It cannot be looked at.
pub fn existing(
    folder: &Folder,
    target: &FileName,
    id: FileId,
    size: u64,
    stop: &AtomicBool,
) -> io::Result<Existing> {
    let (file, stamp) = match folder.open_file(target) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Existing::Nothing),
        Err(error) => {
            // A link, or something that is no file.
            let link = error.raw_os_error() == Some(Errno::LOOP.raw_os_error());
            let no_file = error.kind() == io::ErrorKind::InvalidInput;
            return if link || no_file { Ok(Existing::Other) } else { Err(error) };
        }
    };
    if stamp.size != size {
        return Ok(Existing::Other);
    }
    let same = match hash_file(&file, size, stop) {
        Ok(proof) => proof.id() == id && Stamp::of(&file)? == stamp,
        // It became shorter while it was read.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(error),
    };
    Ok(if same { Existing::Same(stamp) } else { Existing::Other })
}

/// The data of a part file, for those who serve from it while it grows.
#[derive(Debug)]
pub struct PartData {
    file: File,
    proof: Proof,
    /// Per span: whether it was verified on its way in or by [`PartFile::recover`]. Only grows.
    had: Box<[AtomicU64]>,
    /// Whether somebody holds its lock and puts it together.
    is_open: AtomicBool,
    /// What it looked like when it got its final name, under which anybody may change it.
    finished: OnceLock<Stamp>,
}

impl PartData {
    /// The file: of a span that is had it holds what was verified.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What proves the content.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Whether what is had still stands in the file: while it is being put together, and as long as
    /// nobody changed it once it was finished. To be asked before bytes go out.
    pub fn is_unchanged(&self) -> bool {
        match self.finished.get() {
            Some(stamp) => Stamp::of(&self.file).is_ok_and(|now| now == *stamp),
            None => self.is_open.load(Ordering::Acquire),
        }
    }

    /// Whether a span is there.
    pub fn has(&self, span: SpanIndex) -> bool {
        let word = self.had.get(span.get() / 64);
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (span.get() % 64) & 1 == 1)
    }

    fn add(&self, span: SpanIndex) {
        self.had[span.get() / 64].fetch_or(1 << (span.get() % 64), Ordering::Release);
    }

    /// The spans that are there.
    pub fn had(&self) -> SpanSet {
        SpanSet::of_words(self.proof.geometry(), self.had.iter().map(|word| word.load(Ordering::Acquire)))
    }
}

/// A part file, open and locked. Dropping it leaves the file for a later resume.
///
/// Its methods take `&self`: several blocking threads store spans at the same time.
#[derive(Debug)]
pub struct PartFile {
    data: Arc<PartData>,
    /// Whether nothing stood there when it was opened.
    is_new: bool,
    /// The folder in which the part and the target stand.
    dir: OwnedFd,
    part_name: String,
    part_path: PathBuf,
    target_leaf: String,
    target_path: PathBuf,
}

impl Drop for PartFile {
    fn drop(&mut self) {
        self.data.is_open.store(false, Ordering::Release);
        // Who serves from it may keep it open a while; the lock is not theirs. Where there are no
        // locks, there is none to give back.
        let _ = flock(&self.data.file, FlockOperation::Unlock);
    }
}

impl PartFile {
    /// Opens the part file of this content beside `target`, or begins one, and makes it at least as
    /// long as the file will be: a longer one is cut when it is finished, for until then its size may
    /// be a lie. What it holds is not known until [`PartFile::recover`].
    ///
    /// # Errors
    /// [`PartError::Locked`]; no room, no right to write, no such folder.
    pub fn open(folder: &Folder, target: &FileName, proof: &Proof) -> Result<PartFile, PartError> {
        PartFile::open_and(folder, target, proof, false)
    }

    /// [`PartFile::open`], with a note beside it by which [`unfinished`] finds it.
    ///
    /// # Errors
    /// As [`PartFile::open`].
    pub fn open_noted(folder: &Folder, target: &FileName, proof: &Proof) -> Result<PartFile, PartError> {
        PartFile::open_and(folder, target, proof, true)
    }

    fn open_and(
        folder: &Folder,
        target: &FileName,
        proof: &Proof,
        is_noted: bool,
    ) -> Result<PartFile, PartError> {
        let target_path = folder.path_of(target);
        let part_name = part_name(proof.id());
        let part_path = target_path.with_file_name(&part_name);
        let disk = |source: io::Error| PartError::Disk { path: part_path.clone(), source };
        let dir = folder.create_parents(target).map_err(disk)?;
        let (file, is_new) = open_locked(&dir, &part_name, &part_path)?;
        let noted = if is_noted { note(&dir, proof.id(), target.last()) } else { Ok(()) };
        if let Err(error) = noted.and_then(|()| make_room(&file, proof.geometry())) {
            if is_new {
                // Nothing is in it, and it may hold what room there was.
                remove_part(&dir, proof.id()).map_err(disk)?;
            }
            return Err(disk(error));
        }
        let had = (0..proof.geometry().spans().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let data = PartData {
            file,
            proof: proof.clone(),
            had,
            is_open: AtomicBool::new(true),
            finished: OnceLock::new(),
        };
        Ok(PartFile {
            data: Arc::new(data),
            is_new,
            dir,
            part_name,
            target_leaf: target.last().to_owned(),
            part_path,
            target_path,
        })
    }

    /// What proves the content.
    pub fn proof(&self) -> &Proof {
        &self.data.proof
    }

    /// The data, for those who serve from it.
    pub fn share(&self) -> Arc<PartData> {
        Arc::clone(&self.data)
    }

    /// Where the part file is: for messages.
    pub fn path(&self) -> &Path {
        &self.part_path
    }

    /// Hashes what the file holds, on all cores, passing over holes, and says what is right.
    ///
    /// # Errors
    /// Reading failed, or `stop` was set: [`io::ErrorKind::Interrupted`].
    pub fn recover(&self, stop: &AtomicBool) -> io::Result<SpanSet> {
        let geometry = self.data.proof.geometry();
        let spans = self.spans_with_data()?;
        let hashes = hash_spans(&self.data.file, geometry, &spans, stop)?;
        let mut have = SpanSet::empty(geometry);
        for (span, hash) in spans.into_iter().zip(hashes) {
            if self.data.proof.expects(span, hash) {
                self.data.add(span);
                have.insert(span);
            }
        }
        Ok(have)
    }

    /// Takes over the spans that an older file has at the same place: what of a new version need not
    /// be fetched. They enter as what comes over the network does, so a file that changes while it is
    /// read does no harm. All cores read, each holds one span.
    ///
    /// # Errors
    /// Writing failed, or `stop` was set: [`io::ErrorKind::Interrupted`]. What cannot be read is left to
    /// be fetched.
    pub fn adopt(&self, older: &File, stop: &AtomicBool) -> io::Result<()> {
        let geometry = self.data.proof.geometry();
        let Ok(older_len) = older.metadata().map(|metadata| metadata.len()) else { return Ok(()) };
        let is_there =
            |span: &SpanIndex| geometry.offset(*span) + geometry.len_bytes(*span) as u64 <= older_len;
        let wanted: Vec<SpanIndex> =
            geometry.all_spans().filter(is_there).filter(|span| !self.data.has(*span)).collect();
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut data = IoBuffer::default();
            while let Some(span) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let data = data.first(geometry.len_bytes(*span));
                if older.read_exact_at(data, geometry.offset(*span)).is_err() {
                    break;
                }
                self.store(*span, data)?;
            }
            Ok(())
        };
        let memory = (JOB_IN_FLIGHT_BYTES / geometry.span_len_bytes()).max(1) as usize;
        let workers = rayon::current_num_threads().min(memory);
        (0..workers).into_par_iter().with_max_len(1).try_for_each(|_| worker())
    }

    /// Makes sure of the room that the whole file needs, as [`PartFile::open`] does: for who goes on
    /// after the disk was full.
    ///
    /// # Errors
    /// There is none.
    pub fn make_room(&self) -> io::Result<()> {
        make_room(&self.data.file, self.data.proof.geometry())
    }

    /// The spans that do not lie wholly in a hole. A hole in place of zeros that were written
    /// (some file systems store zeros so) costs a second fetch, no more.
    fn spans_with_data(&self) -> io::Result<Vec<SpanIndex>> {
        let geometry = self.data.proof.geometry();
        let mut spans = Vec::new();
        // The stretch of data at or behind the place looked at: from `data` to `hole`.
        let (mut data, mut hole) = (0, 0);
        for span in geometry.all_spans() {
            let begin = geometry.offset(span);
            let end = begin + geometry.len_bytes(span) as u64;
            if hole <= begin && begin < end {
                (data, hole) = self.next_data(begin)?;
            }
            if data < end || begin == end {
                spans.push(span);
            }
        }
        Ok(spans)
    }

    /// Where the next data at or behind `offset` begins and ends.
    fn next_data(&self, offset: u64) -> io::Result<(u64, u64)> {
        match seek(&self.data.file, SeekFrom::Data(offset)) {
            Ok(data) => Ok((data, seek(&self.data.file, SeekFrom::Hole(data))?)),
            Err(Errno::NXIO) => Ok((u64::MAX, u64::MAX)),
            // The file system knows no holes: all is data.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok((offset, u64::MAX)),
            Err(error) => Err(error.into()),
        }
    }

    /// Verifies a span and writes it. The only way for data into a part file: what does not verify
    /// is not written, and the answer is `false`.
    ///
    /// # Errors
    /// Writing failed: the disk is full, gone, broken. The span is not had.
    pub fn store(&self, span: SpanIndex, data: &[u8]) -> io::Result<bool> {
        if !self.data.proof.verify(span, data) {
            return Ok(false);
        }
        self.data.file.write_all_at(data, self.data.proof.geometry().offset(span))?;
        self.data.add(span);
        Ok(true)
    }

    /// Reads a span that is had; `false` if it is not, or if somebody changed it on disk.
    ///
    /// # Errors
    /// Reading failed.
    pub fn read_span(&self, span: SpanIndex, data: &mut Vec<u8>) -> io::Result<bool> {
        if !self.data.has(span) {
            return Ok(false);
        }
        let geometry = self.data.proof.geometry();
        data.resize(geometry.len_bytes(span), 0);
        self.data.file.read_exact_at(data, geometry.offset(span))?;
        Ok(self.data.proof.verify(span, data))
    }

    /// Gives the file its final name. Takes the part file itself, so nobody can write into a
    /// finished file. If the same content stands there already, that is as good: the part goes.
    ///
    /// # Errors
    /// [`PartError::Incomplete`], [`PartError::TargetExists`], what the disk says. The part file
    /// is left as it is.
    pub fn finish(self, overwrite: bool) -> Result<Stamp, PartError> {
        if !self.data.had().is_full() {
            return Err(PartError::Incomplete(self.part_path.clone()));
        }
        self.prepare().map_err(|source| PartError::Disk { path: self.part_path.clone(), source })?;
        let disk = |source| PartError::Disk { path: self.target_path.clone(), source };
        match publish(&self.dir, &self.part_name, &self.target_leaf, overwrite) {
            Ok(()) => {
                let stamp = Stamp::of(&self.data.file).map_err(disk)?;
                // It is finished once, for that takes the part file.
                let _ = self.data.finished.set(stamp);
                self.forget_note();
                Ok(stamp)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.settle_for_existing(),
            Err(error) => Err(disk(error)),
        }
    }

    /// Makes the file ready for its final name.
    fn prepare(&self) -> io::Result<()> {
        // The part may have been made longer behind our back.
        if self.data.file.metadata()?.len() != self.data.proof.geometry().size() {
            self.data.file.set_len(self.data.proof.geometry().size())?;
        }
        let rights = self.data.file.set_permissions(Permissions::from_mode(FINISHED_MODE & !umask()));
        let age = self.data.file.set_modified(SystemTime::now() - FINISHED_AGE);
        if let Err(error) = rights.and(age) {
            // FAT and the like keep neither; the content is no less right.
            log::debug!("{}: rights or time cannot be set: {error}", self.part_path.display());
        }
        self.sync()
    }

    /// The one place that decides when a download is synced: here, before the rename, for files of
    /// every size. A rename can reach the disk before the data does, and a power loss then leaves
    /// the final name on zeros. The folder is not synced: a rename that is lost leaves the part
    /// file, from which the next download resumes.
    fn sync(&self) -> io::Result<()> {
        self.data.file.sync_data().inspect_err(|_| {
            // After a failed sync the kernel takes its pages for clean, and a second try would
            // succeed without the data being on disk. Dropping them makes the next reader, our own
            // recover above all, see what the disk really has.
            let _ = fadvise(&self.data.file, 0, None, Advice::DontNeed);
        })
    }

    fn settle_for_existing(self) -> Result<Stamp, PartError> {
        let PartFile { data, target_leaf, target_path, .. } = &self;
        let proof = &data.proof;
        let disk = |source| PartError::Disk { path: target_path.clone(), source };
        let folder = Folder::at(self.dir.try_clone().map_err(disk)?, target_path);
        // The last part of a name that was accepted is a name itself.
        let Ok(leaf) = target_leaf.parse() else {
            return Err(PartError::TargetExists(self.target_path.clone()));
        };
        match existing(&folder, &leaf, proof.id(), proof.geometry().size(), &AtomicBool::new(false))
            .map_err(disk)?
        {
            Existing::Same(stamp) => {
                self.discard()?;
                Ok(stamp)
            }
            Existing::Other | Existing::Nothing => Err(PartError::TargetExists(self.target_path.clone())),
        }
    }

    /// Removes the part file if it was begun when this one was opened: what stood there before may be
    /// right, whatever came of it now.
    ///
    /// # Errors
    /// What the disk says.
    pub fn discard_if_new(self) -> Result<(), PartError> {
        if self.is_new { self.discard() } else { Ok(()) }
    }

    /// Removes the part file.
    ///
    /// # Errors
    /// What the disk says.
    pub fn discard(self) -> Result<(), PartError> {
        remove_part(&self.dir, self.data.proof.id())
            .map_err(|source| PartError::Disk { path: self.part_path.clone(), source })
    }

    /// The file has its name. A note that stays behind is found to be without a part, and removed.
    fn forget_note(&self) {
        if let Err(error) = remove(&self.dir, &note_name(self.data.proof.id())) {
            log::warn!("the note beside {} cannot be removed: {error}", self.target_path.display());
        }
    }
}

pub(super) fn part_name(id: FileId) -> String {
    format!("{RESERVED_PREFIX}-{id}{PART_SUFFIX}")
}

fn note_name(id: FileId) -> String {
    format!("{RESERVED_PREFIX}-{id}{NOTE_SUFFIX}")
}

/// Removes what may be there.
pub(super) fn remove(dir: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes a part and its note. In this order: a note alone says nothing, a part alone is litter.
fn remove_part(dir: &OwnedFd, id: FileId) -> io::Result<()> {
    remove(dir, &part_name(id))?;
    remove(dir, &note_name(id))
}

/// Notes what a part is to be called.
fn note(dir: &OwnedFd, id: FileId, leaf: &str) -> io::Result<()> {
    let name = note_name(id);
    if read_note(dir, &name).is_ok_and(|noted| noted == leaf) {
        return Ok(());
    }
    // Never into what stands there: it may be somebody's link.
    remove(dir, &name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, &name, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(format!("{leaf}\n").as_bytes())
}

/// The name in a note. Its line end says that all of it is there: no name has one.
fn read_note(dir: &OwnedFd, name: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(openat(dir, name, flags, Mode::empty())?);
    let mut text = String::new();
    file.take(MAX_COMPONENT_BYTES as u64 + 1).read_to_string(&mut text)?;
    let leaf = text.strip_suffix('\n').ok_or_else(|| io::Error::other("it is cut short"))?;
    Ok(leaf.to_owned())
}

/// A download into a shared folder that was begun and is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The content.
    pub id: FileId,
    /// Its name below the folder.
    pub name: FileName,
}

/// What was begun in a folder and is not finished, by the notes that a walk found in it (paths below
/// the folder). Notes without a part, which a crash leaves behind, are removed.
pub fn unfinished(folder: &Folder, notes: &[String]) -> Vec<Unfinished> {
    let mut found = Vec::new();
    for path in notes {
        match unfinished_by(folder, path) {
            Ok(unfinished) => found.extend(unfinished),
            Err(error) => log::warn!("{}/{path} is passed over: {error}", folder.path().display()),
        }
    }
    found
}

fn unfinished_by(folder: &Folder, path: &str) -> io::Result<Option<Unfinished>> {
    let nonsense = || io::Error::other("it is no note of a download");
    let (prefix, note) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
    let id = note.strip_prefix(RESERVED_PREFIX).and_then(|rest| rest.strip_prefix('-'));
    let id = id.and_then(|rest| rest.strip_suffix(NOTE_SUFFIX)).and_then(|id| id.parse::<FileId>().ok());
    let id = id.ok_or_else(nonsense)?;
    let dir = folder.open_folder(prefix)?;
    match statat(&dir, part_name(id), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => {}
        Err(Errno::NOENT) => {
            remove(&dir, note)?;
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    }
    let leaf: FileName = read_note(&dir, note)?.parse().map_err(io::Error::other)?;
    let name: FileName = format!("{prefix}{leaf}").parse().map_err(io::Error::other)?;
    // One part: a note says nothing of other folders.
    if leaf.components().count() == 1 { Ok(Some(Unfinished { id, name })) } else { Err(nonsense()) }
}

/// Removes what an earlier download left of a content that stands at its place already, unless
/// somebody is writing it.
///
/// # Errors
/// What the disk says.
pub fn discard_leftover(folder: &Folder, target: &FileName, id: FileId) -> io::Result<()> {
    let prefix = target.as_str().strip_suffix(target.last()).unwrap_or_default();
    let dir = folder.open_folder(prefix)?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match openat(&dir, part_name(id), flags, Mode::empty()) {
        Ok(part) => match flock(&part, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(()),
            Ok(()) | Err(_) => remove_part(&dir, id),
        },
        Err(Errno::NOENT) => remove(&dir, &note_name(id)),
        Err(error) => Err(error.into()),
    }
}

/// Whether so many bytes fit onto the disk of a folder.
///
/// # Errors
/// They do not ([`io::ErrorKind::StorageFull`]), or it cannot be told.
pub fn room_for(folder: &Folder, size: u64) -> io::Result<()> {
    room_on(&fstatvfs(folder.dir())?, size)
}

/// Opens the part file, or begins one, and locks it; whether it was begun.
fn open_locked(dir: &OwnedFd, name: &str, path: &Path) -> Result<(File, bool), PartError> {
    let disk = |error: Errno| PartError::Disk { path: path.to_owned(), source: error.into() };
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    for _ in 0..OPEN_ATTEMPTS {
        let (fd, begun) = match openat(dir, name, flags, Mode::empty()) {
            Ok(fd) => (fd, false),
            Err(Errno::NOENT) => {
                let new = flags | OFlags::CREATE | OFlags::EXCL;
                match openat(dir, name, new, Mode::from_raw_mode(0o600)) {
                    Ok(fd) => (fd, true),
                    Err(Errno::EXIST) => continue,
                    Err(error) => return Err(disk(error)),
                }
            }
            Err(error) => return Err(disk(error)),
        };
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(PartError::Locked(path.to_owned())),
            // A network file system without locks. Two writers of one part write the same verified
            // bytes to the same places, so what is lost is the clear message.
            Err(Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP) => {
                log::debug!("{} cannot be locked on this file system", path.display());
            }
            Err(error) => return Err(disk(error)),
        }
        let stat = fstat(&fd).map_err(disk)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(PartError::Disk { path: path.to_owned(), source });
        }
        // Between open and lock its last writer may have finished it: what we hold then stands under
        // a final name and must not be touched.
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if (named.st_dev, named.st_ino) == (stat.st_dev, stat.st_ino) => {}
            Ok(_) | Err(Errno::NOENT) => continue,
            Err(error) => return Err(disk(error)),
        }
        if stat.st_nlink > 1 {
            // It has a second name: a download that was cut in the middle of publishing, or
            // somebody's link. Writing here would write there; this name goes, and we begin anew.
            unlinkat(dir, name, AtFlags::empty()).map_err(disk)?;
            continue;
        }
        return Ok((File::from(fd), begun));
    }
    Err(PartError::Locked(path.to_owned()))
}

/// Gives the file its final length, unless it is longer, and reserves the room, so that a full disk
/// shows now and not at 99 %. Where the file system cannot reserve, it shows when a span is written;
/// and in memory, where reserving a page costs as much as writing it, it is looked at only.
fn make_room(file: &File, geometry: &Geometry) -> io::Result<()> {
    let size = geometry.size();
    check_room(file, size)?;
    let before = file.metadata()?.len();
    if before < size {
        file.set_len(size)?;
    }
    if size == 0 || fstatfs(file)?.f_type == TMPFS_MAGIC {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => {
            // Room that was reserved before it ran out is given back; what was there stays.
            let _ = file.set_len(before);
            Err(error.into())
        }
    }
}

/// Looks before it reserves: some file systems take all the room there is before they say that it
/// does not suffice, and everybody else on that disk meets a full one meanwhile.
fn check_room(file: &File, size: u64) -> io::Result<()> {
    const STAT_BLOCK_BYTES: u64 = 512;
    let held = file.metadata()?.blocks().saturating_mul(STAT_BLOCK_BYTES);
    room_on(&fstatvfs(file)?, size.saturating_sub(held))
}

fn room_on(disk: &StatVfs, needed: u64) -> io::Result<()> {
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    // Some file systems say nothing of their size.
    if disk.f_blocks > 0 && needed > free {
        let why = format!("{needed} bytes more are needed, {free} are free");
        return Err(io::Error::new(io::ErrorKind::StorageFull, why));
    }
    Ok(())
}

/// The process's umask. Asking the system for it means setting it, for all threads, so it is read
/// from where the kernel shows it.
pub(super) fn umask() -> u32 {
    const USUAL: u32 = 0o022;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(USUAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::tree::SpanHash;
    use crate::content::tree::tests::{SPAN, data, proof_of};
    use proptest::prelude::*;
    use std::fs;

    struct Place {
        root: tempfile::TempDir,
        folder: Folder,
    }

    impl Place {
        fn new() -> Place {
            let root = tempfile::tempdir().unwrap();
            let folder = Folder::open(root.path()).unwrap();
            Place { root, folder }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn part(&self, name: &str, bytes: &[u8]) -> PartFile {
            PartFile::open(&self.folder, &name.parse().unwrap(), &proof_of(bytes)).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(self.root.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    fn span_of<'a>(bytes: &'a [u8], part: &PartFile, span: SpanIndex) -> &'a [u8] {
        let geometry = part.proof().geometry();
        &bytes[geometry.offset(span) as usize..][..geometry.len_bytes(span)]
    }

    fn store_all(part: &PartFile, bytes: &[u8]) {
        for span in part.proof().geometry().all_spans() {
            assert!(part.store(span, span_of(bytes, part, span)).unwrap());
        }
    }

    #[test]
    fn a_file_of_every_size_is_stored_recovered_and_finished() {
        // edges of block and span, several spans and a rest, enough of them to be hashed in parallel
        for len in [0, 1, 4095, 4096, 4097, SPAN - 1, SPAN, SPAN + 1, 3 * SPAN + 5000, 70 * SPAN + 1] {
            let place = Place::new();
            let bytes = data(len);
            let part = place.part("sub/file", &bytes);
            let mut have = part.recover(&AtomicBool::new(false)).unwrap();
            // The only span of an empty file is had from the start: there is nothing to fetch.
            assert_eq!(have.count(), usize::from(len == 0), "{len} bytes");
            let mut read = Vec::new();
            for span in part.proof().geometry().all_spans().rev() {
                assert_eq!(part.read_span(span, &mut read).unwrap(), len == 0);
                assert!(part.store(span, span_of(&bytes, &part, span)).unwrap());
                have.insert(span);
                assert!(part.read_span(span, &mut read).unwrap());
                assert_eq!(read, span_of(&bytes, &part, span));
            }
            drop(part);
            assert!(!place.path("sub/file").exists());

            let part = place.part("sub/file", &bytes);
            assert!(part.recover(&AtomicBool::new(false)).unwrap().is_full(), "{len} bytes");
            let stamp = part.finish(false).unwrap();
            assert_eq!(fs::read(place.path("sub/file")).unwrap(), bytes);
            assert_eq!(stamp, place.folder.open_file(&"sub/file".parse().unwrap()).unwrap().1);
            assert!(stamp.is_settled_at(super::super::folder::now_ns()), "trusted at once");
            let mode = fs::metadata(place.path("sub/file")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o666 & !umask());
            assert_eq!(fs::read_dir(place.path("sub")).unwrap().count(), 1, "the part is gone");
        }
    }

    #[test]
    fn data_that_does_not_verify_never_reaches_the_disk() {
        let place = Place::new();
        let bytes = data(2 * SPAN + 100);
        let part = place.part("file", &bytes);
        let [first, second, last] = part.proof().geometry().all_spans().collect::<Vec<_>>()[..] else {
            unreachable!()
        };
        let mut wrong = span_of(&bytes, &part, first).to_vec();
        wrong[77] ^= 1;
        assert!(!part.store(first, &wrong).unwrap());
        assert!(!part.store(second, span_of(&bytes, &part, first)).unwrap(), "another place");
        assert!(!part.store(last, span_of(&bytes, &part, first)).unwrap(), "too long");
        assert!(!part.store(last, &[]).unwrap(), "empty");
        assert!(fs::read(part.path()).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(fs::metadata(part.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(part.store(second, span_of(&bytes, &part, second)).unwrap());
        assert!(matches!(part.finish(true), Err(PartError::Incomplete(_))));
        assert!(!place.path("file").exists());
    }

    /// Row 10 of SECURITY.md.
    #[test]
    fn no_byte_of_three_spans_and_none_of_their_manifest_is_accepted_flipped() {
        let place = Place::new();
        let bytes = data(2 * SPAN + 4097);
        let part = place.part("file", &bytes);
        let geometry = *part.proof().geometry();
        for span in geometry.all_spans() {
            let right = span_of(&bytes, &part, span);
            let flip = |flipped: &mut Vec<u8>, at: usize| {
                flipped[at] ^= 1 << (at % 8);
                assert!(!part.store(span, flipped).unwrap(), "span {span}, byte {at}");
                flipped[at] = right[at];
            };
            (0..right.len()).into_par_iter().for_each_init(|| right.to_vec(), flip);
        }
        assert!(part.share().had().is_empty());
        assert!(fs::read(part.path()).unwrap().iter().all(|byte| *byte == 0), "nothing of it was written");

        let manifest: Vec<u8> = part.proof().manifest().iter().flat_map(|value| *value.as_bytes()).collect();
        assert_eq!(manifest.len(), 3 * 32);
        let is_accepted = |manifest: &[u8]| {
            Proof::new(part.proof().id(), geometry, SpanHash::parse_all(manifest).unwrap()).is_ok()
        };
        for (at, bit) in (0..manifest.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = manifest.clone();
            flipped[at] ^= 1 << bit;
            assert!(!is_accepted(&flipped), "byte {at}, bit {bit}");
        }
        assert!(is_accepted(&manifest));
        store_all(&part, &bytes);
        part.finish(false).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn whatever_happened_to_the_part_file_what_is_recovered_is_right(
            stored in prop::collection::vec(any::<bool>(), 6),
            damage in prop::collection::vec((0u8..4, 0..6 * SPAN, 1..9000usize), 0..4),
        ) {
            let place = Place::new();
            let bytes = data(5 * SPAN + 4097);
            let part = place.part("file", &bytes);
            let path = part.path().to_owned();
            for (span, _) in part.proof().geometry().all_spans().zip(&stored).filter(|(_, stored)| **stored) {
                part.store(span, span_of(&bytes, &part, span)).unwrap();
            }
            drop(part);
            let mut held = fs::read(&path).unwrap();
            for (kind, at, len) in damage {
                let range = at.min(held.len())..(at + len).min(held.len());
                match kind {
                    0 => held[range].fill(0),
                    1 => held[range].iter_mut().for_each(|byte| *byte ^= 0x55),
                    2 => held.truncate(range.start),
                    _ => held.extend(std::iter::repeat_n(7, len)),
                }
            }
            fs::write(&path, &held).unwrap();
            held.resize(bytes.len(), 0);

            let part = place.part("file", &bytes);
            let have = part.recover(&AtomicBool::new(false)).unwrap();
            for span in part.proof().geometry().all_spans() {
                let right = span_of(&held, &part, span) == span_of(&bytes, &part, span);
                prop_assert_eq!(have.contains(span), right, "span {}", span);
            }
            store_all(&part, &bytes);
            part.finish(false).unwrap();
            prop_assert!(fs::read(place.path("file")).unwrap() == bytes);
        }
    }

    #[test]
    fn a_part_that_is_opened_for_a_wrong_size_loses_nothing() {
        let bytes = data(2 * SPAN + 100);
        let proof = proof_of(&bytes);
        let single = Proof::new(proof.id(), Geometry::new(1).unwrap(), Vec::new()).unwrap();
        let of_size =
            |size| Proof::new(proof.id(), Geometry::new(size).unwrap(), proof.manifest().to_vec()).unwrap();
        let size = bytes.len() as u64;
        for wrong in [single, of_size(size - 1), of_size(size + 1)] {
            let place = Place::new();
            let target = "file".parse().unwrap();
            store_all(&place.part("file", &bytes), &bytes);
            let part = PartFile::open(&place.folder, &target, &wrong).unwrap();
            assert!(!part.recover(&AtomicBool::new(false)).unwrap().is_full(), "{:?}", wrong.geometry());
            drop(part);
            let part = place.part("file", &bytes);
            assert!(part.recover(&AtomicBool::new(false)).unwrap().is_full(), "{:?}", wrong.geometry());
            part.finish(false).unwrap();
            assert!(fs::read(place.path("file")).unwrap() == bytes, "{:?}", wrong.geometry());
        }
    }

    #[test]
    fn a_part_that_another_download_writes_is_refused_and_free_again_afterwards() {
        let place = Place::new();
        let bytes = data(10);
        let first = place.part("file", &bytes);
        let second = PartFile::open(&place.folder, &"other".parse().unwrap(), first.proof());
        assert!(matches!(second, Err(PartError::Locked(_))));
        let serving = first.share();
        drop(first);
        assert!(!serving.is_unchanged());
        let third = place.part("file", &bytes);
        third.discard_if_new().unwrap();
        assert_eq!(place.names().len(), 1, "it was there before");
        place.part("file", &bytes).discard().unwrap();
        place.part("file", &bytes).discard_if_new().unwrap();
        assert_eq!(place.names(), [""; 0]);
    }

    #[test]
    fn an_existing_file_is_never_replaced_unless_it_is_told_to() {
        let place = Place::new();
        let bytes = data(SPAN + 1);
        let finish = |overwrite| {
            let part = place.part("file", &bytes);
            store_all(&part, &bytes);
            part.finish(overwrite)
        };
        for other in [data(SPAN), vec![1; SPAN + 1]] {
            fs::write(place.path("file"), &other).unwrap();
            assert!(
                matches!(finish(false), Err(PartError::TargetExists(path)) if path == place.path("file"))
            );
            assert_eq!(fs::read(place.path("file")).unwrap(), other);
            assert_eq!(place.names().len(), 2, "the part is kept");
        }
        finish(true).unwrap();
        assert_eq!(fs::read(place.path("file")).unwrap(), bytes);
        finish(false).expect("the same content is there already");
        assert_eq!(place.names(), ["file"]);
        std::os::unix::fs::symlink("file", place.path("link")).unwrap();
        let id = proof_of(&bytes).id();
        let look = |name: &str| {
            existing(&place.folder, &name.parse().unwrap(), id, bytes.len() as u64, &AtomicBool::new(false))
                .unwrap()
        };
        assert!(matches!(look("file"), Existing::Same(_)));
        assert_eq!(look("link"), Existing::Other);
        assert_eq!(look("none"), Existing::Nothing);
    }

    #[test]
    fn of_two_contents_that_race_for_a_name_one_wins_whole_and_readers_see_only_whole_files() {
        let place = Place::new();
        let contents: [Vec<u8>; 2] = [vec![1; SPAN + 7], vec![2; SPAN + 7]];
        for round in 0..40 {
            let target: FileName = format!("file{round}").parse().unwrap();
            let path = place.folder.path_of(&target);
            let parts: Vec<PartFile> = contents
                .iter()
                .map(|bytes| {
                    let part = place.part(target.as_str(), bytes);
                    store_all(&part, bytes);
                    part
                })
                .collect();
            let winners = std::thread::scope(|scope| {
                let racers: Vec<_> =
                    parts.into_iter().map(|part| scope.spawn(move || part.finish(false))).collect();
                while !racers.iter().all(|racer| racer.is_finished()) {
                    if let Ok(seen) = fs::read(&path) {
                        assert!(contents.contains(&seen), "a final name shows what is no whole file");
                    }
                }
                let ends: Vec<bool> = racers.into_iter().map(|racer| racer.join().unwrap().is_ok()).collect();
                (0..2).filter(|racer| ends[*racer]).collect::<Vec<_>>()
            });
            assert_eq!(winners.len(), 1, "round {round}");
            assert!(fs::read(&path).unwrap() == contents[winners[0]]);
        }
    }

    #[test]
    fn a_part_with_a_second_name_or_of_another_kind_is_not_written_to() {
        let place = Place::new();
        let bytes = data(SPAN);
        let part = place.part("file", &bytes);
        let path = part.path().to_owned();
        drop(part);
        // cut in the middle of publishing by link
        fs::write(&path, &bytes).unwrap();
        fs::hard_link(&path, place.path("file")).unwrap();
        let part = place.part("file", &bytes);
        assert!(part.recover(&AtomicBool::new(false)).unwrap().is_empty(), "begun anew");
        drop(part);
        assert_eq!(fs::read(place.path("file")).unwrap(), bytes);

        fs::remove_file(&path).unwrap();
        fs::write(place.path("victim"), "precious").unwrap();
        std::os::unix::fs::symlink("victim", &path).unwrap();
        let target = "file".parse().unwrap();
        assert!(PartFile::open(&place.folder, &target, &proof_of(&bytes)).is_err());
        assert_eq!(fs::read(place.path("victim")).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(PartFile::open(&place.folder, &target, &proof_of(&bytes)).is_err());
    }

    #[test]
    fn more_than_fits_on_the_disk_is_refused_at_once_and_leaves_nothing() {
        // A file system in memory: small, and it refuses without having taken all the room first.
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let disk = rustix::fs::statvfs(root.path()).unwrap();
        let size = disk.f_blocks * disk.f_frsize + 1;
        let proof = Proof::of_unknown(Geometry::new(size).unwrap());
        let error = PartFile::open(&folder, &"file".parse().unwrap(), &proof).unwrap_err();
        let PartError::Disk { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{error}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn of_an_older_file_the_spans_that_are_the_same_are_taken_over_and_nothing_else() {
        let place = Place::new();
        let new = data(9 * SPAN + 100);
        for (older, same) in [
            (Vec::new(), 0),
            (new[..SPAN - 1].to_vec(), 0),
            (new[..4 * SPAN + 1].to_vec(), 4),
            (new.clone(), 10),
            ([&new[..], &[7; 5000]].concat(), 10),
            // one byte changed, in the first, the last, and a middle span
            ([&[!new[0]], &new[1..]].concat(), 9),
            ([&new[..new.len() - 1], &[!new[new.len() - 1]]].concat(), 9),
            ([&new[..5 * SPAN], &[!new[5 * SPAN]], &new[5 * SPAN + 1..]].concat(), 9),
            // moved by a byte: what is at other places is not looked for
            ([&[7], &new[..]].concat(), 0),
        ] {
            fs::write(place.path("older"), &older).unwrap();
            let before = place.folder.open_file(&"older".parse().unwrap()).unwrap();
            let part = place.part("file", &new);
            part.adopt(&before.0, &AtomicBool::new(false)).unwrap();
            let had = part.share().had();
            assert_eq!(had.count(), same, "{} bytes", older.len());
            let mut read = Vec::new();
            for span in part.proof().geometry().all_spans().filter(|span| had.contains(*span)) {
                assert!(part.read_span(span, &mut read).unwrap());
            }
            assert!(part.recover(&AtomicBool::new(false)).unwrap() == had, "nothing else was written");
            assert_eq!(Stamp::of(&before.0).unwrap(), before.1, "the older file is only read");
            part.discard().unwrap();
        }
    }

    #[test]
    fn a_job_that_has_ended_takes_nothing_over() {
        let place = Place::new();
        let bytes = data(3 * SPAN);
        fs::write(place.path("older"), &bytes).unwrap();
        let older = File::open(place.path("older")).unwrap();
        let part = place.part("file", &bytes);
        let error = part.adopt(&older, &AtomicBool::new(true)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert_eq!(part.share().had().count(), 0);
    }

    #[test]
    fn an_older_file_that_changes_while_it_is_read_puts_nothing_wrong_into_the_part() {
        let place = Place::new();
        let new = data(80 * SPAN);
        fs::write(place.path("older"), &new).unwrap();
        let part = place.part("file", &new);
        let older = File::options().read(true).write(true).open(place.path("older")).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for at in (0..80 * SPAN as u64).rev().step_by(4096) {
                    older.write_all_at(&[0x55; 64], at.saturating_sub(64)).unwrap();
                }
                older.set_len(SPAN as u64).unwrap();
            });
            part.adopt(&older, &AtomicBool::new(false)).unwrap();
            writer.join().unwrap();
        });
        let had = part.share().had();
        assert!(part.recover(&AtomicBool::new(false)).unwrap() == had);
        store_all(&part, &new);
        part.finish(false).unwrap();
        assert!(fs::read(place.path("file")).unwrap() == new);
    }

    fn notes_of(place: &Place) -> Vec<Unfinished> {
        unfinished(&place.folder, &super::super::scan::walk(&place.folder).unwrap().notes)
    }

    #[test]
    fn what_was_begun_with_a_note_is_found_under_its_name_until_it_is_finished() {
        let place = Place::new();
        let bytes = data(2 * SPAN);
        let proof = proof_of(&bytes);
        let name: FileName = "dir/größe 🐝.bin".parse().unwrap();
        let part = PartFile::open_noted(&place.folder, &name, &proof).unwrap();
        store_all(&part, &bytes);
        let expected = [Unfinished { id: proof.id(), name: name.clone() }];
        assert_eq!(notes_of(&place), expected);
        drop(part);
        assert_eq!(notes_of(&place), expected);
        // the other kind of download neither needs a note nor takes it away
        drop(PartFile::open(&place.folder, &name, &proof).unwrap());
        assert_eq!(notes_of(&place), expected);
        let part = PartFile::open_noted(&place.folder, &name, &proof).unwrap();
        part.recover(&AtomicBool::new(false)).unwrap();
        part.finish(false).unwrap();
        assert_eq!(notes_of(&place), []);
        assert_eq!(fs::read_dir(place.path("dir")).unwrap().count(), 1, "the file alone");

        PartFile::open_noted(&place.folder, &name, &proof).unwrap().discard().unwrap();
        assert_eq!(fs::read_dir(place.path("dir")).unwrap().count(), 1);
        drop(PartFile::open_noted(&place.folder, &name, &proof).unwrap());
        discard_leftover(&place.folder, &name, proof.id()).unwrap();
        discard_leftover(&place.folder, &name, proof.id()).unwrap();
        assert_eq!(fs::read_dir(place.path("dir")).unwrap().count(), 1);
    }

    #[test]
    fn what_somebody_is_writing_is_no_leftover() {
        let place = Place::new();
        let bytes = data(2 * SPAN);
        let part = place.part("file", &bytes);
        discard_leftover(&place.folder, &"file".parse().unwrap(), part.proof().id()).unwrap();
        assert!(part.path().exists());
    }

    #[test]
    fn a_note_that_is_cut_strange_or_alone_names_nothing_and_writes_nowhere() {
        let place = Place::new();
        let proof = proof_of(&data(2 * SPAN));
        let note_path = place.path(&note_name(proof.id()));
        drop(place.part("file", &data(2 * SPAN)));
        for text in
            ["", "fil", "\n", "..\n", "../file\n", "sub/file\n", "/etc/x\n", ".enxame\n", "a\nb\n", "a\0\n"]
        {
            fs::write(&note_path, text).unwrap();
            assert_eq!(notes_of(&place), [], "{text:?}");
        }
        fs::write(&note_path, "x".repeat(1 << 20) + "\n").unwrap();
        assert_eq!(notes_of(&place), []);
        fs::write(&note_path, b"\xff\n").unwrap();
        assert_eq!(notes_of(&place), []);
        assert!(
            unfinished(&place.folder, &[".enxame-zz.want".into(), "gone/.enxame-1.want".into()]).is_empty()
        );

        // a link in its place is neither read nor written through
        fs::write(place.path("victim"), "victim\n").unwrap();
        fs::remove_file(&note_path).unwrap();
        std::os::unix::fs::symlink("victim", &note_path).unwrap();
        assert_eq!(notes_of(&place), []);
        drop(PartFile::open_noted(&place.folder, &"file".parse().unwrap(), &proof).unwrap());
        assert_eq!(fs::read_to_string(place.path("victim")).unwrap(), "victim\n");
        assert_eq!(notes_of(&place).len(), 1, "it was written anew");

        // alone, it is what a crash between the rename and its removal leaves
        fs::remove_file(place.path(&part_name(proof.id()))).unwrap();
        assert_eq!(notes_of(&place), []);
        assert!(!note_path.exists());
    }

    #[test]
    fn several_threads_store_into_one_part() {
        let place = Place::new();
        let bytes = data(40 * SPAN + 3);
        let part = place.part("file", &bytes);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| store_all(&part, &bytes));
            }
        });
        part.finish(false).unwrap();
        assert!(fs::read(place.path("file")).unwrap() == bytes);
    }
}
