//! The index cache.

use std::collections::HashMap;
use std::fs;
use std::sync::LazyLock;

use enxame_actors::base::{FileId, FileName, Geometry};
use enxame_actors::content::{Cache, Cached, Proof, SpanHash, Stamp};
use redb::{Database, TableDefinition};

use crate::input::Input;
use crate::tree;

/// As `content/cache.rs` has it.
const FILES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("files-1");
const FILE_NAME: &str = "index.redb";

/// Entries of one span and of more, and the file of a cache that has them.
static CACHE: LazyLock<(HashMap<FileName, Cached>, Vec<u8>)> = LazyLock::new(|| {
    let entries: HashMap<FileName, Cached> = [0, 1, 262_144, 262_145, 800_000]
        .into_iter()
        .map(|size| (format!("sub/{size}").parse().expect("a name"), cached(size)))
        .collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cache = Cache::open(folder.path());
    let put: Vec<(FileName, Cached)> = entries.clone().into_iter().collect();
    cache.write(&put, &[]);
    cache.flush();
    drop(cache);
    (entries, fs::read(folder.path().join(FILE_NAME)).expect("it was written"))
});

fn cached(size: usize) -> Cached {
    let content = vec![7; size];
    let geometry = Geometry::new(size as u64).expect("it is small");
    let values = if geometry.is_single() {
        Vec::new()
    } else {
        tree::span_values(&content, geometry.span_len_bytes() as usize)
    };
    let id = FileId::from_bytes(*blake3::hash(&content).as_bytes());
    let values = values.into_iter().map(SpanHash::from_bytes).collect();
    let stamp = Stamp { device: 1, inode: 2, size: size as u64, mtime_ns: -3, ctime_ns: i64::MAX };
    Cached { stamp, proof: Proof::new(id, geometry, values).expect("the values are right") }
}

/// A file of any bytes is a cache or is put aside, and no entry comes out of it that was not put in. A
/// value of any bytes is an entry that proves itself, or none. In either case the cache can be used.
pub fn index_cache(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (entries, file) = &*CACHE;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(FILE_NAME);
    let mut expected = match input.byte() % 3 {
        0 => {
            fs::write(&path, input.rest()).expect("there is room");
            HashMap::new()
        }
        1 => {
            fs::write(&path, damaged(file, &mut input)).expect("there is room");
            entries.clone()
        }
        _ => {
            let len = usize::from(input.byte());
            let name = String::from_utf8_lossy(input.take(len)).into_owned();
            let value = value(entries, &mut input);
            let database = Database::create(&path).expect("a new one");
            let transaction = database.begin_write().expect("a new one");
            transaction
                .open_table(FILES)
                .and_then(|mut table| Ok(table.insert(name.as_str(), value.as_slice()).map(drop)?))
                .expect("a new one");
            transaction.commit().expect("a new one");
            by_hand(&name, &value).into_iter().collect()
        }
    };
    let mut cache = Cache::open(folder.path());
    let loaded = cache.load();
    assert!(loaded.iter().all(|(name, cached)| expected.get(name) == Some(cached)));
    assert!(bytes.first().is_none_or(|mode| mode % 3 != 2) || loaded == expected);

    let put: Vec<(FileName, Cached)> = entries.clone().into_iter().collect();
    cache.write(&put, &[]);
    cache.flush();
    expected = loaded;
    expected.extend(put);
    assert_eq!(cache.load(), expected);
    drop(cache);
    assert_eq!(Cache::open(folder.path()).load(), expected);
}

/// The file, some bytes of which are others, or which was cut.
fn damaged(file: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut file = file.to_vec();
    while !input.is_empty() && !file.is_empty() {
        let what = input.byte();
        // Most of the file is empty: the front of it is hit as often as all of it.
        let at =
            input.up_to(if what.is_multiple_of(2) { file.len() - 1 } else { file.len().min(32 << 10) - 1 });
        match what % 8 {
            7 => file.truncate(at),
            6 => {
                let from = input.up_to(file.len() - 1);
                let len = usize::from(what).min(file.len() - at.max(from));
                file.copy_within(from..from + len, at);
            }
            len => {
                let new = input.take(usize::from(len) + 1);
                let len = new.len().min(file.len() - at);
                file[at..at + len].copy_from_slice(&new[..len]);
            }
        }
    }
    file
}

/// A value: any bytes, or those of an entry with some changed.
fn value(entries: &HashMap<FileName, Cached>, input: &mut Input<'_>) -> Vec<u8> {
    if input.byte().is_multiple_of(2) {
        return input.rest().to_vec();
    }
    let Some(cached) = entries.values().min_by_key(|cached| cached.stamp.size.abs_diff(800_000)) else {
        return Vec::new();
    };
    let mut value = [0; 40].to_vec();
    value[16..24].copy_from_slice(&cached.stamp.size.to_be_bytes());
    value.extend_from_slice(cached.proof.id().as_bytes());
    cached.proof.manifest().iter().for_each(|hash| value.extend_from_slice(hash.as_bytes()));
    while !input.is_empty() {
        let at = input.up_to(value.len() - 1);
        value[at] ^= input.byte();
    }
    value
}

/// What a value says, read by hand: five numbers of the stamp, the id, the manifest.
fn by_hand(name: &str, value: &[u8]) -> Option<(FileName, Cached)> {
    let (numbers, rest) = value.split_at_checked(40)?;
    let (id, manifest) = rest.split_at_checked(32)?;
    let number = |at: usize| Some(u64::from_be_bytes(numbers[at * 8..at * 8 + 8].try_into().ok()?));
    let stamp = Stamp {
        device: number(0)?,
        inode: number(1)?,
        size: number(2)?,
        mtime_ns: number(3)? as i64,
        ctime_ns: number(4)? as i64,
    };
    let (values, cut) = manifest.as_chunks::<32>();
    let geometry = Geometry::new(stamp.size)?;
    let needed = if geometry.is_single() { 0 } else { geometry.spans() };
    let proves_itself =
        cut.is_empty() && values.len() == needed && (geometry.is_single() || tree::id_of(values) == id);
    let values = values.iter().copied().map(SpanHash::from_bytes).collect();
    let id = FileId::from_bytes(id.try_into().ok()?);
    let proof = proves_itself.then(|| Proof::new(id, geometry, values).expect("it proves itself"))?;
    Some((name.parse().ok()?, Cached { stamp, proof }))
}
