//! A part file between two runs.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use enxame_actors::base::limits::MIN_SPAN_BLOCKS;
use enxame_actors::base::{BLOCK_LEN_BYTES, FileId, FileName, Geometry};
use enxame_actors::content::{Folder, PartError, PartFile, Proof, SpanHash};

use crate::input::Input;
use crate::tree;

const SPAN: usize = (MIN_SPAN_BLOCKS * BLOCK_LEN_BYTES) as usize;
/// A few spans and a rest: all that a part file can be wrong in.
const MAX_SIZE: usize = 3 * SPAN + 5000;

/// Whatever happened to a part file, recovery takes exactly the spans that are what a plain look at the
/// bytes says, but that it may pass over holes; what is missing can be stored and nothing else; and what
/// gets the final name has the hash that it should.
pub fn part_recovery(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let size = input.up_to(MAX_SIZE);
    let content = content(input.byte(), size);
    let proof = proof_of(&content);
    let geometry = *proof.geometry();
    let range = |span| {
        let start = geometry.offset(span) as usize;
        start..start + geometry.len_bytes(span)
    };
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = Folder::open(root.path()).expect("it was just made");
    let target: FileName = "sub/x".parse().expect("a name");

    let begun = PartFile::open(&folder, &target, &proof).expect("a new part");
    let path = begun.path().to_owned();
    let stored = u64::from(input.u32());
    for span in geometry.all_spans().filter(|span| stored >> span.number() & 1 == 1) {
        assert!(begun.store(span, &content[range(span)]).expect("there is room"));
    }
    drop(begun);
    while !input.is_empty() {
        happen(&mut input, &path, &content);
    }

    let before = fs::read(&path).expect("it is there");
    let part = PartFile::open(&folder, &target, &proof).expect("the same part");
    let have = part.recover(&AtomicBool::new(false)).expect("it can be read");
    for span in geometry.all_spans() {
        let is_right = before.get(range(span)) == Some(&content[range(span)]);
        let may_be_a_hole = content[range(span)].iter().all(|byte| *byte == 0);
        let is_had = have.contains(span);
        assert!(is_right == is_had || may_be_a_hole, "{span:?}: right {is_right}, taken {is_had}");
        assert_eq!(part.share().has(span), is_had);
        let mut data = Vec::new();
        assert_eq!(part.read_span(span, &mut data).expect("it can be read"), is_had);
        assert!(!is_had || data == content[range(span)]);
    }
    let part = if have.is_full() {
        part
    } else {
        assert!(matches!(part.finish(false), Err(PartError::Incomplete(_))));
        PartFile::open(&folder, &target, &proof).expect("it was left")
    };
    let have = part.recover(&AtomicBool::new(false)).expect("it can be read");
    for span in geometry.all_spans().filter(|span| !have.contains(*span)) {
        let mut data = content[range(span)].to_vec();
        // No span of no bytes is missing, for nothing in it can be wrong.
        data[0] ^= 1;
        assert!(!part.store(span, &data).expect("nothing is written"));
        data[0] ^= 1;
        assert!(!part.store(span, &data[1..]).expect("nothing is written"));
        assert!(part.store(span, &data).expect("there is room"));
    }
    part.finish(false).expect("all is there");
    let finished = fs::read(root.path().join("sub/x")).expect("it has its name");
    assert_eq!(blake3::hash(&finished).as_bytes(), proof.id().as_bytes());
    assert!(!path.exists());
}

/// Bytes of a kind: zeros as they are in holes, one byte, and what looks like data.
fn content(kind: u8, size: usize) -> Vec<u8> {
    match kind % 4 {
        0 => vec![0; size],
        1 => vec![kind; size],
        2 => (0..size).map(|at| if at < SPAN { kind } else { 0 }).collect(),
        _ => {
            let mut data = vec![0; size];
            blake3::Hasher::new().update(&[kind]).finalize_xof().fill(&mut data);
            data
        }
    }
}

fn proof_of(content: &[u8]) -> Proof {
    let geometry = Geometry::new(content.len() as u64).expect("it is small");
    let id = FileId::from_bytes(*blake3::hash(content).as_bytes());
    let values = if geometry.is_single() { Vec::new() } else { tree::span_values(content, SPAN) };
    let values = values.into_iter().map(SpanHash::from_bytes).collect();
    Proof::new(id, geometry, values).expect("the values are right")
}

/// Something that happens to a file that nobody guards.
fn happen(input: &mut Input<'_>, path: &Path, content: &[u8]) {
    let file: File = OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let what = input.byte();
    let at = input.up_to(content.len() + SPAN);
    let done = match what % 6 {
        // A write that was torn; one at the wrong place; other data; zeros.
        0 => content.get(at..).map_or(Ok(()), |data| {
            file.write_all_at(&data[..data.len().min(usize::from(what) << 10)], at as u64)
        }),
        1 => file.write_all_at(&content[..content.len().min(usize::from(what) << 8)], at as u64),
        2 => {
            let len = usize::from(input.byte());
            file.write_all_at(input.take(len), at as u64)
        }
        3 => file.write_all_at(&vec![0; usize::from(what) << 10], at as u64),
        // Cut, and made longer: then there is a hole.
        4 => file.set_len(at as u64),
        _ => file.set_len(at as u64).and_then(|()| file.set_len(content.len() as u64)),
    };
    done.expect("there is room");
}
