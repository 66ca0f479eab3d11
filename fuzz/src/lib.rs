//! What holds for any bytes from outside: a function for each place at which they come in, which takes
//! the bytes and panics if it does not hold.
//!
//! | function | the bytes are |
//! |---|---|
//! | [`frame_codec`] | what a stream brings, in pieces |
//! | [`tracker_messages`], [`peer_messages`] | the body of a control frame |
//! | [`names`] | a text that is to be a name, an id, a wish; a path on disk |
//! | [`manifest`] | the chaining values of a file's spans |
//! | [`part_recovery`] | what happened to a part file between two runs |
//! | [`index_cache`] | what happened to the index cache, and the values in it |
//! | [`Live::block_server`], [`Live::tracker`] | what comes on a connection behind HELLO |
//!
//! Two use them: the programs in `fuzz_targets`, which look for bytes that break one, and the project's
//! tests, which run all that is in `corpus` and `regressions`.

mod cache;
mod frames;
mod heap;
mod input;
mod live;
mod manifest;
mod messages;
mod names;
mod part;
#[path = "../../tests/support/tree.rs"]
#[expect(unreachable_pub, reason = "it is a part of the kit")]
mod tree;

pub use cache::index_cache;
pub use frames::frame_codec;
pub use live::Live;
pub use manifest::manifest;
pub use messages::{peer_messages, tracker_messages};
pub use names::names;
pub use part::part_recovery;

/// A place at which bytes come in.
pub type Target = fn(&[u8]);

/// Those that need nothing beside the bytes, with the names of their folders.
pub const TARGETS: [(&str, Target); 7] = [
    ("frame_codec", frame_codec),
    ("tracker_messages", tracker_messages),
    ("peer_messages", peer_messages),
    ("names", names),
    ("manifest", manifest),
    ("part_recovery", part_recovery),
    ("index_cache", index_cache),
];
