//! Control messages to bytes and back: what a tracker answers all day, and a full frame of a list.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use enxame_actors::base::limits::{LIST_FRAME_BYTES, MAX_ANSWER_HOLDERS};
use enxame_actors::base::{FileId, FileName, Question};
use enxame_actors::wire::tracker::{Candidate, FromTracker, Holder, Listing, ToTracker};
use enxame_actors::wire::{HEADER_BYTES, ListDigest, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn main() {
    divan::main();
}

fn name(n: usize) -> FileName {
    format!("models/set-{:05}/shard-{n:08}.safetensors", n / 100).parse().expect("a valid name")
}

fn id(n: usize) -> FileId {
    let mut rng = fastrand::Rng::with_seed(n as u64);
    FileId::from_bytes(std::array::from_fn(|_| rng.u8(..)))
}

fn listing(n: usize) -> Listing {
    Listing { name: name(n), id: id(n), size: 1 << 30, complete: true }
}

/// As many entries as a peer puts into one frame.
fn full_list() -> Vec<Listing> {
    let entry_bytes = name(0).as_str().len() + 80;
    (0..LIST_FRAME_BYTES / entry_bytes).map(listing).collect()
}

fn candidates(holders: usize) -> FromTracker {
    let holder = |n| Holder {
        peer: format!("node-{n:05}").parse().expect("a valid peer id"),
        address: ([10, 0, 0, n as u8], 7071).into(),
        complete: true,
    };
    let candidate = Candidate {
        id: id(0),
        size: 1 << 30,
        names: vec![name(0)],
        holder_count: holders as u32,
        holders: (0..holders).map(holder).collect(),
    };
    FromTracker::Candidates { candidates: vec![candidate] }
}

fn encoding<M: Serialize>(bencher: Bencher<'_, '_>, message: &M) {
    let mut out = Vec::new();
    encode(message, &mut out).expect("it is below the limit");
    bencher.counter(BytesCount::new(out.len())).bench_local(|| {
        out.clear();
        encode(black_box(message), &mut out)
    });
}

fn decoding<M: Serialize + DeserializeOwned>(bencher: Bencher<'_, '_>, message: &M) {
    let mut frame = Vec::new();
    encode(message, &mut frame).expect("it is below the limit");
    let body = &frame[HEADER_BYTES..];
    bencher.counter(BytesCount::new(body.len())).bench_local(|| decode::<M>(black_box(body)));
}

fn by_name() -> ToTracker {
    ToTracker::WhoHas { question: Question::Name { name: name(7), prefix: None } }
}

fn by_id() -> ToTracker {
    ToTracker::WhoHas { question: Question::Prefix(id(7).into()) }
}

#[divan::bench]
fn encode_who_has_by_name(bencher: Bencher<'_, '_>) {
    encoding(bencher, &by_name());
}

#[divan::bench]
fn encode_who_has_by_id(bencher: Bencher<'_, '_>) {
    encoding(bencher, &by_id());
}

#[divan::bench]
fn decode_who_has_by_name(bencher: Bencher<'_, '_>) {
    decoding(bencher, &by_name());
}

#[divan::bench]
fn decode_who_has_by_id(bencher: Bencher<'_, '_>) {
    decoding(bencher, &by_id());
}

#[divan::bench(args = [1, 10, MAX_ANSWER_HOLDERS])]
fn encode_candidates(bencher: Bencher<'_, '_>, holders: usize) {
    encoding(bencher, &candidates(holders));
}

#[divan::bench(args = [1, 10, MAX_ANSWER_HOLDERS])]
fn decode_candidates(bencher: Bencher<'_, '_>, holders: usize) {
    decoding(bencher, &candidates(holders));
}

#[divan::bench]
fn encode_full_list(bencher: Bencher<'_, '_>) {
    encoding(bencher, &ToTracker::NewFile { files: full_list() });
}

#[divan::bench]
fn decode_full_list(bencher: Bencher<'_, '_>) {
    decoding(bencher, &ToTracker::NewFile { files: full_list() });
}

#[divan::bench]
fn digest_full_list(bencher: Bencher<'_, '_>) {
    let list = full_list();
    bencher
        .counter(ItemsCount::new(list.len()))
        .bench_local(|| black_box(&list).iter().collect::<ListDigest>());
}
