//! BLAKE3 where a download and a scan need it: a span that arrived, a manifest, a whole file.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::AtomicBool;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use enxame_actors::base::Geometry;
use enxame_actors::content::{Proof, hash_file};

fn main() {
    divan::main();
}

/// A file of random bytes, open, without a name; and its bytes.
fn file_of(size: usize) -> (File, Vec<u8>) {
    let mut bytes = vec![0; size];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    let mut file = tempfile::tempfile().expect("there is room for a temporary file");
    file.write_all(&bytes).expect("there is room for a temporary file");
    (file, bytes)
}

fn proof_of(file: &File, size: usize) -> Proof {
    hash_file(file, size as u64, &AtomicBool::new(false)).expect("the file was just written")
}

/// Spans of 256 KiB, one after another from memory, as they arrive.
#[divan::bench]
fn verify_span(bencher: Bencher<'_, '_>) {
    let (file, bytes) = file_of(16 << 20);
    let proof = proof_of(&file, bytes.len());
    let geometry = *proof.geometry();
    let spans: Vec<_> = geometry.all_spans().collect();
    let mut next = 0;
    bencher.counter(BytesCount::new(geometry.span_len_bytes())).bench_local(|| {
        let span = spans[next % spans.len()];
        next += 1;
        let start = geometry.offset(span) as usize;
        assert!(proof.verify(span, &bytes[start..start + geometry.len_bytes(span)]));
    });
}

/// A file that is in memory already: on one core, then large enough for all of them.
#[divan::bench(args = [4 << 10, 1 << 20, 64 << 20])]
fn hash_whole_file(bencher: Bencher<'_, '_>, size: usize) {
    let (file, _) = file_of(size);
    bencher.counter(BytesCount::new(size)).bench_local(|| proof_of(&file, size));
}

/// The manifest of a file of 16 GiB, from a stranger, merged to its root.
#[divan::bench]
fn prove_manifest(bencher: Bencher<'_, '_>) {
    let geometry = Geometry::new(16 << 30).expect("it can be shared");
    let file = tempfile::tempfile().expect("there is room for an empty file");
    // Holes cost no disk; what they hash to is as good as anything.
    file.set_len(64 << 20).expect("a hole has room");
    let part = proof_of(&file, 64 << 20);
    let manifest = part.manifest().iter().copied().cycle().take(geometry.spans()).collect::<Vec<_>>();
    bencher.counter(BytesCount::new(manifest.len() * 32)).bench_local(|| {
        // It merges all of them before it finds that they are of another file.
        Proof::new(black_box(part.id()), geometry, manifest.clone()).is_err()
    });
}
