//! The manifest a second time, as plainly as it can be written, to check the first against.
//! What both share is the `blake3` crate; that the values are right is shown by `blake3::hash` alone.

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// The chaining value of each span of `data`, which has more than one.
pub fn span_values(data: &[u8], span_len: usize) -> Vec<[u8; 32]> {
    assert!(data.len() > span_len, "a file of one span has no chaining value: its hash is the id");
    let value = |(number, span): (usize, &[u8])| {
        Hasher::new().set_input_offset((number * span_len) as u64).update(span).finalize_non_root()
    };
    data.chunks(span_len).enumerate().map(value).collect()
}

/// The id of a file with these values.
pub fn id_of(values: &[[u8; 32]]) -> [u8; 32] {
    let (left, right) = halves(values);
    *merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes()
}

fn subtree(values: &[[u8; 32]]) -> [u8; 32] {
    if let [value] = values {
        return *value;
    }
    let (left, right) = halves(values);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// The left subtree of a node is the largest full one that leaves something to the right.
fn halves(values: &[[u8; 32]]) -> (&[[u8; 32]], &[[u8; 32]]) {
    values.split_at(values.len().next_power_of_two() / 2)
}
