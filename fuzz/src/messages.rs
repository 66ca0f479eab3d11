//! The bodies of control frames.

use std::fmt::Debug;

use bytes::BytesMut;
use enxame_actors::base::limits::{MAX_CONTROL_BYTES, MAX_SPANS, MIN_SPAN_BLOCKS};
use enxame_actors::base::{BLOCK_LEN_BYTES, BlockRun, Geometry, SpanSet};
use enxame_actors::content::SpanHash;
use enxame_actors::wire::codec::take;
use enxame_actors::wire::frame::{FrameError, FrameLimits, HEADER_BYTES};
use enxame_actors::wire::peer::{FromHolder, ToHolder};
use enxame_actors::wire::tracker::{Candidate, FromTracker, Listing, ToTracker};
use enxame_actors::wire::{HolderBytes, ListDigest, decode, encode, encode_candidates};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::heap;

/// The memory that reading so many bytes may take: what is made of a byte, and the room that serde makes
/// for a list before it has seen any of it, which is 1 MiB at most, in each of the few lists that stand
/// in each other.
pub(crate) fn enough_for(bytes: usize) -> usize {
    (4 << 20) + 128 * bytes
}

/// A body is one message that reads back, or none. What is made of it agrees with itself: the digest of
/// a list comes to nothing when the list does, and an answer that is written piece by piece has the bytes
/// of the message.
pub fn tracker_messages(bytes: &[u8]) {
    let Some((direction, body)) = bytes.split_first() else { return };
    if direction % 2 == 0 {
        if let Some(ToTracker::Register { files, .. } | ToTracker::NewFile { files }) = reads_back(body) {
            digest_follows(&files);
        }
    } else if let Some(FromTracker::Candidates { candidates }) = reads_back(body) {
        is_written_the_same(candidates);
    }
}

/// A body is one message that reads back, or none. What a message states of a file lies in the file, or
/// is refused, by arithmetic that cannot overflow.
pub fn peer_messages(bytes: &[u8]) {
    let Some((direction, body)) = bytes.split_first() else { return };
    if direction % 2 == 0 {
        if let Some(ToHolder::Get { run, .. }) = reads_back(body) {
            // Of sizes at the edges, and of what the run itself comes to.
            let blocks = run.first.saturating_add(u64::from(run.count));
            let near = blocks.saturating_mul(BLOCK_LEN_BYTES);
            for size in [0, 1, near, near.saturating_sub(1), near.saturating_add(1), near / 3] {
                run_lies_in_the_file(size, run);
            }
        }
        return;
    }
    match reads_back(body) {
        Some(FromHolder::Opened { size, spans: Some(spans), .. }) => {
            let Some(geometry) = Geometry::new(size) else { return };
            let Some(set) = SpanSet::from_bytes(&geometry, &spans) else { return };
            assert_eq!(set.to_bytes(), spans);
            assert_eq!(set.count() as u32, spans.iter().map(|byte| byte.count_ones()).sum::<u32>());
            assert!(set.len_bytes(&geometry) <= size && set.count() <= geometry.spans());
            assert_eq!(set.is_full(), set.len_bytes(&geometry) == size && set.contains(geometry.last_span()));
        }
        Some(FromHolder::Manifest { values, .. }) => {
            let hashes = SpanHash::parse_all(&values);
            assert_eq!(hashes.is_some(), values.len().is_multiple_of(SpanHash::LEN_BYTES));
            let back: Option<Vec<u8>> =
                hashes.map(|hashes| hashes.iter().flat_map(|hash| *hash.as_bytes()).collect());
            assert!(back.is_none_or(|back| back == values));
        }
        _ => {}
    }
}

/// The message in a body, for which all holds that holds for messages.
fn reads_back<M>(body: &[u8]) -> Option<M>
where
    M: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let message: M = heap::within(enough_for(body.len()), || decode(body).ok())?;
    let mut frame = b"before".to_vec();
    match encode(&message, &mut frame) {
        // What came in a shorter form, structs without the names of their fields for instance.
        Err(FrameError::TooLong { len, .. }) => {
            assert!(len > MAX_CONTROL_BYTES && frame == b"before");
            return Some(message);
        }
        done => done.expect("a message can be written"),
    }
    let frame = frame.split_off(b"before".len());
    let mut stream = BytesMut::from(&frame[..]);
    stream.extend_from_slice(b"next");
    assert_eq!(take(&mut stream, FrameLimits::CONTROL).expect("it reads back").as_ref(), Some(&message));
    assert_eq!(&stream[..], b"next");

    let own = &frame[HEADER_BYTES..];
    let mut again = Vec::new();
    encode(&decode::<M>(own).expect("it reads back"), &mut again).expect("as before");
    assert_eq!(again, frame, "a message has one form");
    assert!(decode::<M>(&own[..own.len() - 1]).is_err(), "a message that was cut");
    let more = [own, &[0xc0]].concat();
    assert!(matches!(decode::<M>(&more), Err(FrameError::Trailing(1))));
    Some(message)
}

fn digest_follows(files: &[Listing]) {
    let mut digest: ListDigest = files.iter().rev().collect();
    assert_eq!(digest, files.iter().collect());
    files.iter().for_each(|listing| digest.remove(listing));
    assert_eq!(digest, ListDigest::default());
}

fn is_written_the_same(candidates: Vec<Candidate>) {
    let mut written = Vec::new();
    let done = encode_candidates(candidates.len(), &mut written, |answer| {
        for candidate in &candidates {
            let names = candidate.names.iter().map(|name| name.as_str().as_bytes());
            let holders = candidate.holders.iter();
            let holders = holders
                .map(|holder| (HolderBytes::new(holder.peer.clone(), holder.address), holder.complete));
            answer.candidate(&candidate.id, candidate.size, names, candidate.holder_count, holders);
        }
    });
    let mut whole = Vec::new();
    let encoded = encode(&FromTracker::Candidates { candidates }, &mut whole);
    assert_eq!(done.is_ok(), encoded.is_ok());
    assert_eq!(written, whole);
}

/// Against the same in numbers that have room for everything.
fn run_lies_in_the_file(size: u64, run: BlockRun) {
    let Some(geometry) = Geometry::new(size) else { return assert!(size > Geometry::MAX_SIZE) };
    let span_blocks = u128::from(geometry.span_len_bytes() / BLOCK_LEN_BYTES);
    assert!(geometry.spans() <= MAX_SPANS as usize && span_blocks >= u128::from(MIN_SPAN_BLOCKS));
    let (first, end) = (u128::from(run.first), u128::from(run.first) + u128::from(run.count));
    let file_end = u128::from(size).div_ceil(u128::from(BLOCK_LEN_BYTES));
    let is_whole = first.is_multiple_of(span_blocks) && (end.is_multiple_of(span_blocks) || end == file_end);
    let spans = geometry.spans() as u128;
    let fits = run.count > 0 && end <= u128::from(u64::MAX) && is_whole && first / span_blocks < spans;
    let expected = fits.then(|| {
        let end = end.div_ceil(span_blocks).min(spans);
        (first / span_blocks) as u32..end as u32
    });
    assert_eq!(geometry.spans_of_run(run), expected, "{run:?} of {size} bytes");
}
