//! The BLAKE3 tree of a file, cut at its spans.
//!
//! A span is a subtree of the hash: it has a chaining value of its own, and the values of all spans
//! merge up to the root, which is the file id. So a list of values from a stranger proves itself
//! (merge it, compare the root), and from then on each span is proved alone, in any order.
//!
//! A file of one span is its own root: its only value is the id, and no list has to be sent. This
//! is the one place that knows the difference; [`Proof::verify`] is the same for empty, tiny,
//! middle and last spans.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rustix::fs::Advice;

use crate::base::{FileId, Geometry, IoBuffer, SpanIndex};

/// Bytes read and hashed at once: a whole span of the usual length, and a bound for the long spans
/// of huge files.
const PIECE_BYTES: usize = 1 << 20;

/// Files of fewer spans are hashed on one core: waking the others costs more than it saves.
const PARALLEL_SPANS: usize = 64;

/// Whether hashing one file of this size occupies all cores. Of others, whoever has many hashes
/// several at once.
pub fn is_hashed_in_parallel(size: u64) -> bool {
    Geometry::new(size).is_some_and(|geometry| geometry.spans() >= PARALLEL_SPANS)
}

/// The hash of one span: its BLAKE3 chaining value, or in a file of one span the root hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpanHash([u8; 32]);

impl SpanHash {
    /// Length in bytes.
    pub const LEN_BYTES: usize = 32;

    /// The hash with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> SpanHash {
        SpanHash(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hashes that stand one behind the other; `None` if the last one is cut.
    pub fn parse_all(bytes: &[u8]) -> Option<Vec<SpanHash>> {
        let (hashes, rest) = bytes.as_chunks();
        rest.is_empty().then(|| hashes.iter().copied().map(SpanHash).collect())
    }
}

impl fmt::Debug for SpanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpanHash({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// What proves each span of one file: its id, its geometry and the hashes of its spans.
///
/// It exists only if the hashes merge to the id. Cheap to clone.
///
/// The size is proved together with the last span, not before: a false one can fit a true list,
/// but then no data verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    id: FileId,
    geometry: Geometry,
    /// One per span.
    hashes: Arc<[SpanHash]>,
}

impl Proof {
    /// The proof with this manifest: the chaining values of all spans in order, none for a file of
    /// one span.
    ///
    /// # Errors
    /// Another number of values than the file needs; values that are not of this file.
    pub fn new(id: FileId, geometry: Geometry, manifest: Vec<SpanHash>) -> Result<Proof, ManifestError> {
        let needed = if geometry.is_single() { 0 } else { geometry.spans() };
        if manifest.len() != needed {
            return Err(ManifestError::Count { needed, got: manifest.len() });
        }
        let hashes = if geometry.is_single() { vec![SpanHash(*id.as_bytes())] } else { manifest };
        if root(&hashes) != id {
            return Err(ManifestError::Root);
        }
        Ok(Proof { id, geometry, hashes: hashes.into() })
    }

    /// The file's id.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// The file's size, and how it falls into spans.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What [`Proof::new`] takes: the chaining values of all spans, none for a file of one span.
    pub fn manifest(&self) -> &[SpanHash] {
        if self.geometry.is_single() { &[] } else { &self.hashes }
    }

    /// Whether `data` is this span, whole and right.
    pub fn verify(&self, span: SpanIndex, data: &[u8]) -> bool {
        let Some(expected) = self.hashes.get(span.get()) else { return false };
        if data.len() != self.geometry.len_bytes(span) {
            return false;
        }
        let mut hasher = span_hasher(&self.geometry, span);
        hasher.update(data);
        span_hash(&self.geometry, &hasher) == *expected
    }

    /// A proof of a file of which nothing is known but its size, and that nobody has.
    #[cfg(test)]
    pub(crate) fn of_unknown(geometry: Geometry) -> Proof {
        let hashes = vec![SpanHash([7; 32]); geometry.spans()];
        Proof { id: root(&hashes), geometry, hashes: hashes.into() }
    }

    /// Whether this is the hash of the span.
    pub(super) fn expects(&self, span: SpanIndex, hash: SpanHash) -> bool {
        self.hashes.get(span.get()) == Some(&hash)
    }
}

/// Why a manifest is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Another number of chaining values than the size calls for.
    #[error("the manifest has {got} values where the size calls for {needed}")]
    Count {
        /// What the size calls for.
        needed: usize,
        /// What there was.
        got: usize,
    },
    /// The values merge to another root than the file id.
    #[error("the manifest is not of this file")]
    Root,
}

fn span_hasher(geometry: &Geometry, span: SpanIndex) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(geometry.offset(span));
    hasher
}

fn span_hash(geometry: &Geometry, hasher: &Hasher) -> SpanHash {
    SpanHash(if geometry.is_single() { *hasher.finalize().as_bytes() } else { hasher.finalize_non_root() })
}

/// The id of the file whose spans have these hashes. There must be at least one.
fn root(hashes: &[SpanHash]) -> FileId {
    if let [only] = hashes {
        return FileId::from_bytes(only.0);
    }
    let (left, right) = split(hashes);
    FileId::from_bytes(*merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes())
}

fn merge(hashes: &[SpanHash]) -> [u8; 32] {
    if let [only] = hashes {
        return only.0;
    }
    let (left, right) = split(hashes);
    merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
}

/// The two sides of a tree of two spans or more: BLAKE3 puts the largest power of two that leaves
/// something over to the left.
fn split(hashes: &[SpanHash]) -> (&[SpanHash], &[SpanHash]) {
    hashes.split_at(hashes.len().next_power_of_two() / 2)
}

/// Hashes the first `size` bytes of a file, a large one on all cores, in order as far as that goes.
/// Holds one piece of at most 1 MiB per core.
///
/// # Errors
/// Reading failed; the file is shorter than `size` ([`io::ErrorKind::UnexpectedEof`]) or larger
/// than any that is shared; `stop` was set ([`io::ErrorKind::Interrupted`]).
pub fn hash_file(file: &File, size: u64, stop: &AtomicBool) -> io::Result<Proof> {
    hash_file_counted(file, size, stop, &|_| ())
}

/// [`hash_file`], which tells of each piece that was hashed how many bytes it had.
///
/// # Errors
/// As [`hash_file`].
pub fn hash_file_counted(
    file: &File,
    size: u64,
    stop: &AtomicBool,
    count: &(dyn Fn(u64) + Sync),
) -> io::Result<Proof> {
    let geometry = Geometry::new(size).ok_or(io::ErrorKind::FileTooLarge)?;
    let spans: Vec<SpanIndex> = geometry.all_spans().collect();
    let hashes = hash_spans_counted(file, &geometry, &spans, stop, count)?;
    Ok(Proof { id: root(&hashes), geometry, hashes: hashes.into() })
}

/// The hashes of these spans of a file, in the same order; many of them on all cores.
///
/// # Errors
/// As [`hash_file`].
pub(super) fn hash_spans(
    file: &File,
    geometry: &Geometry,
    spans: &[SpanIndex],
    stop: &AtomicBool,
) -> io::Result<Vec<SpanHash>> {
    hash_spans_counted(file, geometry, spans, stop, &|_| ())
}

/// Has the system read a small file, if it is not in memory, while something else is done, and of a
/// large one more at a time than it would. Ranges of a large one are not asked for: where it is in
/// memory already, that costs a tenth of the speed of hashing.
pub(crate) fn read_ahead(file: &File, size: u64) {
    let advice = if is_hashed_in_parallel(size) { Advice::Sequential } else { Advice::WillNeed };
    // Where advice cannot be taken, reading waits.
    let _ = rustix::fs::fadvise(file, 0, None, advice);
}

fn hash_spans_counted(
    file: &File,
    geometry: &Geometry,
    spans: &[SpanIndex],
    stop: &AtomicBool,
    count: &(dyn Fn(u64) + Sync),
) -> io::Result<Vec<SpanHash>> {
    // Each worker takes the next span that nobody has, so that the disk sees one stream of reads
    // that goes forward, not one per core from places far apart.
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut hashed = Vec::new();
        let mut piece = IoBuffer::default();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(span) = spans.get(place) else { return Ok(hashed) };
            hashed.push((place, hash_span(file, geometry, *span, &mut piece, stop, count)?));
        }
    };
    if spans.len() < PARALLEL_SPANS {
        return worker().map(|hashed| hashed.into_iter().map(|(_, hash)| hash).collect());
    }
    let workers = rayon::current_num_threads();
    let parts: Vec<Vec<(usize, SpanHash)>> =
        (0..workers).into_par_iter().with_max_len(1).map(|_| worker()).collect::<io::Result<_>>()?;
    let mut hashes = vec![SpanHash([0; 32]); spans.len()];
    for (place, hash) in parts.into_iter().flatten() {
        hashes[place] = hash;
    }
    Ok(hashes)
}

fn hash_span(
    file: &File,
    geometry: &Geometry,
    span: SpanIndex,
    piece: &mut IoBuffer,
    stop: &AtomicBool,
    count: &(dyn Fn(u64) + Sync),
) -> io::Result<SpanHash> {
    let mut hasher = span_hasher(geometry, span);
    let mut offset = geometry.offset(span);
    let mut left = geometry.len_bytes(span);
    while left > 0 {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = left.min(PIECE_BYTES);
        let piece = piece.first(len);
        file.read_exact_at(piece, offset)?;
        hasher.update(piece);
        count(len as u64);
        offset += len as u64;
        left -= len;
    }
    Ok(span_hash(geometry, &hasher))
}

/// The id and the size in bytes of what a path leads to, as `b3sum` would print it. A path that is
/// no regular file (a pipe) is read to its end.
///
/// # Errors
/// It cannot be opened or read, or changes its length while it is read.
pub fn hash_path(path: &Path) -> io::Result<(FileId, u64)> {
    hash_path_counted(path, &|_| ())
}

/// [`hash_path`], which tells of each piece that was hashed how many bytes it had.
///
/// # Errors
/// As [`hash_path`].
pub fn hash_path_counted(path: &Path, count: &(dyn Fn(u64) + Sync)) -> io::Result<(FileId, u64)> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    // Files of /proc and the like state a size of zero and have content all the same.
    if metadata.is_file() && metadata.len() > 0 {
        read_ahead(&file, metadata.len());
        let proof = hash_file_counted(&file, metadata.len(), &AtomicBool::new(false), count)?;
        return Ok((proof.id(), metadata.len()));
    }
    let mut hasher = Hasher::new();
    let mut piece = IoBuffer::new(PIECE_BYTES);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok((FileId::from_bytes(*hasher.finalize().as_bytes()), hasher.count())),
            Ok(len) => {
                count(len as u64);
                hasher.update(&piece[..len])
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::BLOCK_LEN_BYTES;
    use crate::base::limits::MIN_SPAN_BLOCKS;
    use proptest::prelude::*;
    use std::io::Write;

    pub(crate) const SPAN: usize = (MIN_SPAN_BLOCKS * BLOCK_LEN_BYTES) as usize;

    /// Random bytes that are the same in every run.
    pub(crate) fn data(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(len as u64).fill(&mut bytes);
        bytes
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    pub(crate) fn proof_of(bytes: &[u8]) -> Proof {
        hash_file(&file(bytes), bytes.len() as u64, &AtomicBool::new(false)).unwrap()
    }

    fn span_of<'a>(bytes: &'a [u8], proof: &Proof, span: SpanIndex) -> &'a [u8] {
        &bytes[proof.geometry().offset(span) as usize..][..proof.geometry().len_bytes(span)]
    }

    fn check(bytes: &[u8]) {
        let proof = proof_of(bytes);
        let len = bytes.len();
        assert_eq!(proof.id().as_bytes(), blake3::hash(bytes).as_bytes(), "{len} bytes");
        assert_eq!(Proof::new(proof.id(), *proof.geometry(), proof.manifest().to_vec()), Ok(proof.clone()));
        for span in proof.geometry().all_spans() {
            let data = span_of(bytes, &proof, span);
            assert!(proof.verify(span, data), "span {span} of {len} bytes");
            assert!(!proof.verify(span, &[data, &[0]].concat()), "one byte more");
            if !data.is_empty() {
                assert!(!proof.verify(span, &data[1..]), "one byte less");
            }
        }
    }

    #[test]
    fn the_root_of_the_spans_is_the_id_at_every_interesting_size() {
        // edges of chunk, block and span
        for len in [0, 1, 1023, 1024, 1025, 4095, 4096, 4097, SPAN - 1, SPAN, SPAN + 1] {
            check(&data(len));
        }
        // shapes of the tree, with the last span whole, and barely begun
        for spans in 2..=17 {
            check(&data(spans * SPAN));
            check(&data(spans * SPAN + 1));
        }
        // enough spans for all cores to share
        check(&data((PARALLEL_SPANS + 3) * SPAN + 4097));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_root_of_the_spans_is_the_id_at_any_size(len in 0..6 * SPAN) {
            check(&data(len));
        }
    }

    #[test]
    fn a_span_longer_than_a_piece_hashes_as_a_whole() {
        // The geometry of a file over 64 GiB, whose spans are 2 MiB; only one span of it is there.
        let geometry = Geometry::new(100 << 30).unwrap();
        let len = geometry.span_len_bytes() as usize;
        assert!(len > PIECE_BYTES);
        let bytes = data(len);
        let hashed =
            hash_spans(&file(&bytes), &geometry, &[SpanIndex::FIRST], &AtomicBool::new(false)).unwrap();
        let mut whole = span_hasher(&geometry, SpanIndex::FIRST);
        whole.update(&bytes);
        assert_eq!(hashed, [SpanHash(whole.finalize_non_root())]);
    }

    #[test]
    fn a_flipped_byte_of_data_or_manifest_is_never_accepted() {
        let bytes = data(2 * SPAN + 5000);
        let proof = proof_of(&bytes);
        for span in proof.geometry().all_spans() {
            let mut flipped = span_of(&bytes, &proof, span).to_vec();
            for at in (0..flipped.len()).step_by(997).chain([flipped.len() - 1]) {
                flipped[at] ^= 1 << (at % 8);
                assert!(!proof.verify(span, &flipped), "byte {at} of span {span}");
                flipped[at] ^= 1 << (at % 8);
            }
            assert!(proof.verify(span, &flipped), "flipped back");
        }
        let manifest: Vec<u8> = proof.manifest().iter().flat_map(|hash| hash.0).collect();
        for at in 0..manifest.len() {
            let mut flipped = manifest.clone();
            flipped[at] ^= 1 << (at % 8);
            let values = SpanHash::parse_all(&flipped).unwrap();
            assert_eq!(Proof::new(proof.id(), *proof.geometry(), values), Err(ManifestError::Root));
        }
    }

    #[test]
    fn a_span_at_another_place_or_a_manifest_of_another_shape_is_refused() {
        let bytes = data(3 * SPAN);
        let proof = proof_of(&bytes);
        let spans: Vec<SpanIndex> = proof.geometry().all_spans().collect();
        assert!(!proof.verify(spans[1], span_of(&bytes, &proof, spans[0])), "swapped");

        let values = proof.manifest().to_vec();
        let refused = |size: usize, values: Vec<SpanHash>| {
            Proof::new(proof.id(), Geometry::new(size as u64).unwrap(), values).unwrap_err()
        };
        assert_eq!(refused(3 * SPAN, vec![]), ManifestError::Count { needed: 3, got: 0 });
        assert_eq!(refused(3 * SPAN, values[..2].to_vec()), ManifestError::Count { needed: 3, got: 2 });
        assert_eq!(refused(SPAN, values.clone()), ManifestError::Count { needed: 0, got: 3 });
        assert_eq!(refused(3 * SPAN, vec![values[1], values[0], values[2]]), ManifestError::Root);
        assert_eq!(SpanHash::parse_all(&[0; 33]), None);

        // A true list under a false size: no data fits it.
        let lie = Proof::new(proof.id(), Geometry::new(3 * SPAN as u64 - 1).unwrap(), values).unwrap();
        assert!(!lie.verify(spans[2], &bytes[2 * SPAN..3 * SPAN - 1]));
        assert!(!lie.verify(spans[2], &bytes[2 * SPAN..]));
        // A span number of a longer file.
        let far = Geometry::new(9 * SPAN as u64).unwrap().last_span();
        assert!(!proof.verify(far, &bytes[..SPAN]));
    }

    #[test]
    fn a_file_that_is_shorter_than_stated_is_an_error_and_a_stop_ends_the_hashing() {
        let short = file(&data(3 * SPAN - 1));
        let go = AtomicBool::new(false);
        assert_eq!(hash_file(&short, 3 * SPAN as u64, &go).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(hash_file(&short, u64::MAX, &go).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let stop = AtomicBool::new(true);
        assert_eq!(hash_file(&short, SPAN as u64, &stop).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn hash_path_reads_files_and_what_states_no_size() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 5, SPAN + 1] {
            let path = folder.path().join("file");
            std::fs::write(&path, data(len)).unwrap();
            let (id, size) = hash_path(&path).unwrap();
            assert_eq!((id.as_bytes(), size), (blake3::hash(&data(len)).as_bytes(), len as u64));
        }
        let version = std::fs::read("/proc/version").unwrap();
        let (id, size) = hash_path(Path::new("/proc/version")).unwrap();
        assert_eq!((id.as_bytes(), size), (blake3::hash(&version).as_bytes(), version.len() as u64));
        assert!(hash_path(folder.path()).is_err(), "a folder");
    }
}
