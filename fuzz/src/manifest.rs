//! The proof of a content.

use enxame_actors::base::{FileId, Geometry};
use enxame_actors::content::{ManifestError, Proof, SpanHash};

use crate::input::Input;
use crate::tree;

/// More spans than this are not tried: it takes the time of many others.
const MAX_SPANS: usize = 700;

/// A list of chaining values is taken for exactly one id: the one that a second implementation of the
/// tree comes to. With one value less, or more, or another, or at another place, it is refused.
pub fn manifest(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let id = FileId::from_bytes(*blake3::hash(input.take(32)).as_bytes());
    // Small ones, with a few spans, and all that there are.
    let size = if input.byte().is_multiple_of(4) {
        input.u64()
    } else {
        u64::from(input.u32()) >> (input.byte() % 16)
    };
    let at = input.u32() as usize;
    let Some(geometry) = Geometry::new(size) else { return assert!(size > Geometry::MAX_SIZE) };
    let given: Vec<[u8; 32]> = input.rest().as_chunks().0.to_vec();
    let hashes = |values: &[[u8; 32]]| values.iter().copied().map(SpanHash::from_bytes).collect::<Vec<_>>();
    let needed = if geometry.is_single() { 0 } else { geometry.spans() };
    match Proof::new(id, geometry, hashes(&given)) {
        Ok(proof) => assert!(geometry.is_single() && given.is_empty() && proof.manifest().is_empty()),
        Err(error) if given.len() == needed => assert_eq!(error, ManifestError::Root),
        Err(error) => assert_eq!(error, ManifestError::Count { needed, got: given.len() }),
    }
    if geometry.is_single() || geometry.spans() > MAX_SPANS || given.is_empty() {
        return;
    }

    let mut values: Vec<[u8; 32]> = given.iter().copied().cycle().take(needed).collect();
    let id = FileId::from_bytes(tree::id_of(&values));
    let proof = Proof::new(id, geometry, hashes(&values)).expect("the values are of this file");
    assert_eq!((proof.id(), proof.geometry()), (id, &geometry));
    assert_eq!(proof.manifest(), hashes(&values));
    for span in [geometry.span(at as u64 % geometry.spans() as u64), Some(geometry.last_span())] {
        // Nobody finds data for a value that was given.
        assert!(!proof.verify(span.expect("it is one of the file's"), bytes));
    }
    let refusal = |values: &[[u8; 32]]| Proof::new(id, geometry, hashes(values)).expect_err("it is another");
    assert_eq!(refusal(&values[1..]), ManifestError::Count { needed, got: needed - 1 });
    let (one, other) = (at % needed, (at + 1) % needed);
    values.swap(one, other);
    if values[one] != values[other] {
        assert_eq!(refusal(&values), ManifestError::Root);
    }
    values.swap(one, other);
    values[one][at / needed % 32] ^= 1 << (at % 8);
    assert_eq!(refusal(&values), ManifestError::Root);
    values.push([0; 32]);
    assert_eq!(refusal(&values), ManifestError::Count { needed, got: needed + 1 });
}
