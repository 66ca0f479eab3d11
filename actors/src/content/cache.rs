//! The index cache: what was hashed before, so that a restart hashes only what changed.
//!
//! It is a convenience and never an authority: an entry counts only while the file's stamp is the
//! one that was hashed, its manifest has to prove itself again, and a cache that cannot be read is
//! put aside and begun anew. Losing it costs time, nothing else, so batches are not synced; only
//! [`Cache::flush`] is.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError,
};
use rustix::fs::OFlags;

use super::folder::Stamp;
use super::tree::{Proof, SpanHash};
use crate::base::{FileId, FileName, Geometry};

/// Name -> stamp, id and manifest. The number is the version of the value's layout: another one
/// finds its own table empty and hashes anew.
const FILES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("files-1");

/// Memory that redb may use for pages: the table is read once and written in batches.
const PAGE_CACHE_BYTES: usize = 8 << 20;

const FILE_NAME: &str = "index.redb";
const BROKEN_NAME: &str = "index.redb.broken";

/// What the cache knows of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// What the file looked like when it was hashed.
    pub stamp: Stamp,
    /// Its content.
    pub proof: Proof,
}

/// The cache of one peer's folder. Without a usable file it forgets everything, and says so once.
pub struct Cache {
    database: Option<Database>,
    path: PathBuf,
}

/// What a step of the database can fail with; only shown.
type Failure = Box<redb::Error>;

fn failure(error: impl Into<redb::Error>) -> Failure {
    Box::new(error.into())
}

impl Cache {
    /// Opens the cache in this folder, creating both if they are missing, readable by nobody else.
    /// What cannot be opened is warned of; what is broken is put aside.
    pub fn open(folder: &Path) -> Cache {
        let path = folder.join(FILE_NAME);
        let database = Cache::open_database(folder, &path).unwrap_or_else(|error| {
            log::warn!(
                "{}: no index cache, so the next start hashes all files again: {error}",
                path.display()
            );
            None
        });
        Cache { database, path }
    }

    fn open_database(folder: &Path, path: &Path) -> io::Result<Option<Database>> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let open = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
                .open(path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            // A changed byte in a file that redb trusts can end in a panic; with the check it is an
            // error. It reads the file once, as loading does anyway.
            let mut builder = Database::builder();
            builder.set_cache_size(PAGE_CACHE_BYTES).set_check_integrity_on_open(true);
            Ok(FileBackend::new(file).and_then(|backend| builder.create_with_backend(backend)))
        };
        match open()? {
            Ok(database) => return Ok(Some(database)),
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                log::warn!("{} is in use by another process: this one goes without", path.display());
                return Ok(None);
            }
            Err(error) => {
                log::warn!("{} is put aside as {BROKEN_NAME} and begun anew: {error}", path.display());
            }
        }
        fs::rename(path, folder.join(BROKEN_NAME))?;
        open()?.map(Some).map_err(io::Error::other)
    }

    /// Everything the cache knows; entries that are not what they should be are left out.
    pub fn load(&self) -> HashMap<FileName, Cached> {
        let Some(database) = &self.database else { return HashMap::new() };
        read_all(database).unwrap_or_else(|error| {
            log::warn!("{} cannot be read: {error}", self.path.display());
            HashMap::new()
        })
    }

    /// Enters `put` and takes `gone` out, in one transaction that is not synced.
    pub fn write(&mut self, put: &[(FileName, Cached)], gone: &[FileName]) {
        if !put.is_empty() || !gone.is_empty() {
            self.commit(put, gone, Durability::None);
        }
    }

    /// Makes sure that all that was written is on disk.
    pub fn flush(&mut self) {
        self.commit(&[], &[], Durability::Immediate);
    }

    fn commit(&mut self, put: &[(FileName, Cached)], gone: &[FileName], durability: Durability) {
        let Some(database) = &self.database else { return };
        if let Err(error) = write_batch(database, put, gone, durability) {
            // A full disk, for instance. The database is not used any more: it may be in any state
            // in memory, while on disk it is what was flushed last.
            log::warn!(
                "{} cannot be written, so the next start hashes more files again: {error}",
                self.path.display()
            );
            self.database = None;
        }
    }
}

fn read_all(database: &Database) -> Result<HashMap<FileName, Cached>, Failure> {
    let transaction = database.begin_read().map_err(failure)?;
    let table = match transaction.open_table(FILES) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(HashMap::new()),
        Err(error) => return Err(failure(error)),
    };
    let mut known = HashMap::new();
    for row in table.iter().map_err(failure)? {
        let (name, value) = row.map_err(failure)?;
        if let (Ok(name), Some(cached)) = (name.value().parse(), decode(value.value())) {
            known.insert(name, cached);
        }
    }
    Ok(known)
}

fn write_batch(
    database: &Database,
    put: &[(FileName, Cached)],
    gone: &[FileName],
    durability: Durability,
) -> Result<(), Failure> {
    let mut transaction = database.begin_write().map_err(failure)?;
    transaction.set_durability(durability).map_err(failure)?;
    {
        let mut table = transaction.open_table(FILES).map_err(failure)?;
        for name in gone {
            table.remove(name.as_str()).map_err(failure)?;
        }
        for (name, cached) in put {
            table.insert(name.as_str(), encode(cached).as_slice()).map_err(failure)?;
        }
    }
    transaction.commit().map_err(failure)
}

/// Five numbers of the stamp, the id, the manifest.
fn encode(cached: &Cached) -> Vec<u8> {
    let Cached { stamp, proof } = cached;
    let numbers = [
        stamp.device,
        stamp.inode,
        stamp.size,
        stamp.mtime_ns.cast_unsigned(),
        stamp.ctime_ns.cast_unsigned(),
    ];
    let mut value: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    value.extend_from_slice(proof.id().as_bytes());
    proof.manifest().iter().for_each(|hash| value.extend_from_slice(hash.as_bytes()));
    value
}

fn decode(value: &[u8]) -> Option<Cached> {
    let mut rest = value;
    let mut number = || {
        let (first, behind) = rest.split_first_chunk()?;
        rest = behind;
        Some(u64::from_be_bytes(*first))
    };
    let stamp = Stamp {
        device: number()?,
        inode: number()?,
        size: number()?,
        mtime_ns: number()?.cast_signed(),
        ctime_ns: number()?.cast_signed(),
    };
    let (id, manifest) = rest.split_first_chunk()?;
    let geometry = Geometry::new(stamp.size)?;
    let proof = Proof::new(FileId::from_bytes(*id), geometry, SpanHash::parse_all(manifest)?).ok()?;
    Some(Cached { stamp, proof })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::tree::tests::{SPAN, data, proof_of};
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn cached(len: usize) -> Cached {
        let stamp = Stamp { device: 1, inode: 2, size: len as u64, mtime_ns: -3, ctime_ns: i64::MAX };
        Cached { stamp, proof: proof_of(&data(len)) }
    }

    fn entries() -> Vec<(FileName, Cached)> {
        [0, 1, SPAN, SPAN + 1, 3 * SPAN + 5]
            .into_iter()
            .map(|len| (format!("sub/{len}").parse().unwrap(), cached(len)))
            .collect()
    }

    #[test]
    fn what_was_written_is_there_again_and_what_went_is_not() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("p1/.enxame");
        let mut cache = Cache::open(&folder);
        assert!(cache.load().is_empty());
        cache.write(&entries(), &[]);
        cache.write(&[], &[entries()[0].0.clone(), "never there".parse().unwrap()]);
        cache.flush();
        drop(cache);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(folder.join(FILE_NAME)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Cache::open(&folder).load(), entries().into_iter().skip(1).collect());
        assert!(!folder.join(BROKEN_NAME).exists());
    }

    #[test]
    fn a_file_that_is_no_cache_is_put_aside_and_work_goes_on() {
        let root = tempfile::tempdir().unwrap();
        for foreign in [b"no database".to_vec(), vec![0; 100_000], data(100_000)] {
            fs::write(root.path().join(FILE_NAME), &foreign).unwrap();
            let mut cache = Cache::open(root.path());
            assert_eq!(fs::read(root.path().join(BROKEN_NAME)).unwrap(), foreign);
            cache.write(&entries(), &[]);
            drop(cache);
            assert_eq!(Cache::open(root.path()).load(), entries().into_iter().collect());
        }
        // Where no file can be at all, it goes without.
        let mut cache = Cache::open(&root.path().join(FILE_NAME).join("below a file"));
        cache.write(&entries(), &[]);
        cache.flush();
        assert!(cache.load().is_empty());
    }

    #[test]
    fn a_second_process_goes_without_and_disturbs_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut first = Cache::open(root.path());
        first.write(&entries(), &[]);
        let mut second = Cache::open(root.path());
        second.write(&[], &[entries()[1].0.clone()]);
        assert!(second.load().is_empty());
        drop((first, second));
        assert_eq!(Cache::open(root.path()).load().len(), entries().len());
    }

    #[test]
    fn damage_anywhere_in_the_file_is_no_panic_and_no_wrong_entry() {
        let root = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(root.path());
        cache.write(&entries(), &[]);
        cache.flush();
        drop(cache);
        let path = root.path().join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        for turn in 0..100 {
            let mut damaged = whole.clone();
            // Most of the file is empty: half of the damage goes where the header and the entries are.
            let at = if turn % 2 == 0 { random.usize(..whole.len()) } else { random.usize(..64 << 10) };
            match turn % 3 {
                0 => damaged.truncate(at),
                1 => damaged[at] ^= 1 << random.u8(..8),
                _ => damaged[at..].iter_mut().take(512).for_each(|byte| *byte = random.u8(..)),
            }
            fs::write(&path, &damaged).unwrap();
            let mut cache = Cache::open(root.path());
            for (name, found) in cache.load() {
                assert!(entries().contains(&(name, found)), "turn {turn}");
            }
            cache.write(&entries(), &[]);
            cache.flush();
            assert_eq!(cache.load(), entries().into_iter().collect(), "turn {turn}");
        }
    }

    proptest! {
        #[test]
        fn a_value_of_any_bytes_is_an_entry_that_proves_itself_or_none(
            mut value in Just(encode(&cached(SPAN + 1))), at in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>(), flip in 1u8..
        ) {
            prop_assert_eq!(decode(&value), Some(cached(SPAN + 1)));
            prop_assert_eq!(decode(&value[..cut.index(value.len())]), None);
            let at = at.index(value.len());
            value[at] ^= flip;
            // Only the times and numbers can be others; the size decides the geometry.
            let same_proof = decode(&value).is_none_or(|found| found.proof.manifest() == cached(SPAN + 1).proof.manifest());
            prop_assert!(same_proof && (at < 40 || decode(&value).is_none()));
        }
    }
}
