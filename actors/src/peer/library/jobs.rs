//! What the Library has done on blocking threads: plain functions of values that move in and out.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSlice;
use tokio::sync::Notify;

use super::watch::Watch;
use super::{OpenError, SharedFile};
use crate::base::FileName;
use crate::content::cache::{Cache, Cached};
use crate::content::folder::{Folder, Stamp, is_passing, now_ns};
use crate::content::index::{Changes, Entry, Snapshot};
use crate::content::part::{Unfinished, unfinished};
use crate::content::scan::{Scan, walk};
use crate::content::tree::{hash_file_counted, read_ahead};

/// Small files that one core has open at a time.
const OPENED_AHEAD: usize = 16;

/// Where a look gets what was hashed in former times.
pub(super) enum CacheSource {
    /// From the cache in this folder, which is opened for good.
    Open(PathBuf),
    /// From this one.
    Here(Cache),
    /// It needs none: the index knows all.
    None,
}

/// One look at the folder.
pub(super) struct Look {
    pub(super) files: PathBuf,
    /// Whether it is the first one: it creates the folder if that is missing, and finds what was
    /// begun and not finished.
    pub(super) is_first: bool,
    /// Files that changed less than this ago are left for later.
    pub(super) quiet: Duration,
    pub(super) snapshot: Snapshot,
    pub(super) cache: CacheSource,
    pub(super) watch: Option<Watch>,
    /// Whom a watcher tells; `None`: no watcher is wanted.
    pub(super) changed: Option<Arc<Notify>>,
}

/// What it found, and what was lent to it.
pub(super) struct Looked {
    pub(super) found: io::Result<Found>,
    pub(super) watch: Option<Watch>,
    pub(super) cache: Option<Cache>,
}

/// What a look at the folder found.
pub(super) struct Found {
    pub(super) changes: Changes,
    /// Path and reason.
    pub(super) skipped: Vec<(String, String)>,
    /// What was begun and not finished; found by the first look.
    pub(super) unfinished: Vec<Unfinished>,
}

impl Look {
    pub(super) fn run(mut self) -> Looked {
        let cache = match std::mem::replace(&mut self.cache, CacheSource::None) {
            // The folder comes first: where it cannot be made, nothing else is.
            CacheSource::Open(state) => match Folder::open_or_create(&self.files) {
                Ok(_) => Some(CacheSource::Open(state)),
                Err(error) => return Looked { found: Err(error), watch: None, cache: None },
            },
            CacheSource::Here(cache) => Some(CacheSource::Here(cache)),
            CacheSource::None => None,
        };
        let (scanned, (cache, cached)) = match cache {
            None => (self.scan(), (None, HashMap::new())),
            // Beside each other, for both read much; on a thread of its own, for all others may be hashing.
            Some(cache) => std::thread::scope(|threads| {
                let loading = threads.spawn(|| load(cache));
                (self.scan(), loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            }),
        };
        let found = scanned.map(|scanned| {
            let Scanned { folder, moment_ns, scan } = scanned;
            let skipped = scan.skipped.iter().map(|(path, why)| (path.clone(), why.to_string())).collect();
            let unfinished = if self.is_first { unfinished(&folder, &scan.notes) } else { Vec::new() };
            let changes = self.snapshot.compare(scan, cached, moment_ns, self.quiet);
            Found { changes, skipped, unfinished }
        });
        Looked { found, watch: self.watch, cache }
    }

    fn scan(&mut self) -> io::Result<Scanned> {
        let folder =
            if self.is_first { Folder::open_or_create(&self.files)? } else { Folder::open(&self.files)? };
        // Before the walk, so that no change falls between the two.
        if let Some(changed) = &self.changed {
            self.watch = Watch::of(&folder, self.watch.take(), changed);
        }
        let moment_ns = now_ns();
        let scan = walk(&folder)?;
        Ok(Scanned { folder, moment_ns, scan })
    }
}

/// What a walk found, and when it began.
struct Scanned {
    folder: Folder,
    moment_ns: i64,
    scan: Scan,
}

/// Opens the cache and reads it.
fn load(source: CacheSource) -> (Option<Cache>, HashMap<FileName, Cached>) {
    let cache = match source {
        CacheSource::Open(state) => Some(Cache::open(&state)),
        CacheSource::Here(cache) => Some(cache),
        CacheSource::None => None,
    };
    let cached = cache.as_ref().map(Cache::load).unwrap_or_default();
    (cache, cached)
}

/// Files as they looked when they were last looked at.
pub(super) type Batch = Vec<(FileName, Stamp)>;

/// What became of a file that was to be hashed.
pub(super) struct Outcome {
    pub(super) name: FileName,
    /// What it looked like when it was sent here.
    pub(super) stamp: Stamp,
    /// `Ok(None)`: it changed meanwhile.
    pub(super) result: io::Result<Option<Entry>>,
}

/// How hashing goes on, for those who do it and those who watch.
pub(super) struct HashWatch {
    /// Whether it has to stop.
    pub(super) stop: AtomicBool,
    /// Bytes hashed by now.
    pub(super) bytes: AtomicU64,
}

/// Hashes small files, as many at a time as there are cores.
pub(super) fn hash_side_by_side(files: &Path, batch: Batch, watch: &HashWatch) -> Vec<Outcome> {
    hash_with(files, batch, |folder, batch| {
        let groups = batch.par_chunks(OPENED_AHEAD);
        groups.flat_map_iter(|group| hash_group(folder, group, watch)).collect()
    })
}

/// Hashes large files one after the other, each on all cores.
pub(super) fn hash_in_turn(files: &Path, batch: Batch, watch: &HashWatch) -> Vec<Outcome> {
    hash_with(files, batch, |folder, batch| {
        batch.chunks(1).flat_map(|group| hash_group(folder, group, watch)).collect()
    })
}

fn hash_with(files: &Path, batch: Batch, hash: impl FnOnce(&Folder, &Batch) -> Vec<Outcome>) -> Vec<Outcome> {
    match Folder::open(files) {
        Ok(folder) => hash(&folder, &batch),
        // The folder is gone, and the files with it; the next look says so.
        Err(error) => batch
            .into_iter()
            .map(|(name, stamp)| Outcome { name, stamp, result: Err(again(&error)) })
            .collect(),
    }
}

/// The same error.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// Opens all of a group before it hashes the first, so that a disk reads the next ones meanwhile.
fn hash_group(folder: &Folder, group: &[(FileName, Stamp)], watch: &HashWatch) -> Vec<Outcome> {
    let open = |(name, _): &(FileName, Stamp)| {
        if watch.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (file, before) = folder.open_file(name)?;
        read_ahead(&file, before.size);
        Ok((file, before))
    };
    let opened: Vec<io::Result<(File, Stamp)>> = group.iter().map(open).collect();
    group
        .iter()
        .zip(opened)
        .map(|((name, stamp), opened)| Outcome {
            name: name.clone(),
            stamp: *stamp,
            result: opened.and_then(|(file, before)| hash_one(&file, before, watch)),
        })
        .collect()
}

fn hash_one(file: &File, before: Stamp, watch: &HashWatch) -> io::Result<Option<Entry>> {
    let begun_ns = now_ns();
    let count = |bytes| {
        watch.bytes.fetch_add(bytes, Ordering::Relaxed);
    };
    let proof = match hash_file_counted(file, before.size, &watch.stop, &count) {
        // It was cut while it was read.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        hashed => hashed?,
    };
    let settled = before.is_settled_at(begun_ns);
    Ok((Stamp::of(file)? == before).then_some(Entry { stamp: before, proof, settled }))
}

/// What came of opening a file.
pub(super) struct Opened {
    pub(super) file: Result<Arc<SharedFile>, OpenError>,
    /// Names under which something else stands now.
    pub(super) stale: Batch,
}

/// Opens the first of these files that is as it was hashed.
pub(super) fn open_first(files: &Path, wanted: Vec<(FileName, Entry)>) -> Opened {
    let mut stale = Batch::new();
    let folder = match Folder::open(files) {
        Ok(folder) => folder,
        Err(error) if is_passing(&error) => return Opened { file: Err(error.into()), stale },
        Err(_) => return Opened { file: Err(OpenError::Missing), stale },
    };
    let mut refused = None;
    for (name, Entry { stamp, proof, .. }) in wanted {
        match folder.open_file(&name) {
            Ok((file, found)) if found == stamp => {
                return Opened { file: Ok(Arc::new(SharedFile { file, proof, stamp, name })), stale };
            }
            // No descriptors left, for instance, says nothing of the file.
            Err(error) if is_passing(&error) => refused = Some(error),
            Ok(_) | Err(_) => stale.push((name, stamp)),
        }
    }
    Opened { file: Err(refused.map_or(OpenError::Missing, OpenError::Io)), stale }
}

/// Reads these files, each if it is as it was hashed; it still is when it was read.
pub(super) fn read_each(files: &Path, wanted: Vec<Option<(FileName, Stamp)>>) -> Vec<Option<Vec<u8>>> {
    let folder = Folder::open(files).ok();
    let read = |(name, stamp): (FileName, Stamp)| {
        let (file, found) = folder.as_ref()?.open_file(&name).ok().filter(|(_, found)| *found == stamp)?;
        let mut data = vec![0; found.size as usize];
        file.read_exact_at(&mut data, 0).ok()?;
        Stamp::of(&file).is_ok_and(|now| now == stamp).then_some(data)
    };
    wanted.into_iter().map(|wanted| wanted.and_then(read)).collect()
}
