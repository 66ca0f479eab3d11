//! The words everything above is built from: ids, names, block and span geometry, span sets, limits.
//!
//! Only `std` is used here, nothing reads a clock, a file or a socket, and every value of these
//! types is valid by construction: what comes from outside becomes one of them by parsing, once.

mod byte_rate;
mod geometry;
mod id;
mod io_buffer;
pub mod limits;
mod name;
mod peer_id;
mod plain;
mod spans;
mod what;

pub use byte_rate::{ByteRate, ByteRateError};
pub use geometry::{BLOCK_LEN_BYTES, BlockRun, Geometry, SpanIndex};
pub use id::{FileId, IdError, IdPrefix};
pub use io_buffer::IoBuffer;
pub use name::{FileName, NameError};
pub use peer_id::{PeerId, PeerIdError};
pub use plain::plain_text;
pub use spans::SpanSet;
pub use what::{Question, What, WhatError};
