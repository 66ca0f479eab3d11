//! What a getter and a holder say to each other. BLOCKS is not among the messages here: it is a
//! frame of its own kind, see [`frame`](super::frame).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::hello::{Hello, Refusal};
use super::serial::{BlockRunFields, plain};
use super::tracker::Holder;
use crate::base::{BlockRun, FileId};

/// What a getter says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHolder {
    /// The greeting.
    Hello(Hello),
    /// What do you have of this file?
    Open {
        /// The file.
        id: FileId,
        /// Whether to send the manifest too.
        manifest: bool,
    },
    /// Send these blocks: whole spans.
    Get {
        /// The file.
        id: FileId,
        /// The blocks.
        #[serde(with = "BlockRunFields")]
        run: BlockRun,
        /// Only those that the holder has given to no other getter that is connected to it.
        fresh: bool,
    },
    /// Who else has this file?
    Peers {
        /// The file.
        id: FileId,
    },
}

/// What a holder says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromHolder {
    /// The greeting.
    Hello(Hello),
    /// The answer to OPEN.
    Opened {
        /// The file.
        id: FileId,
        /// Its size in bytes.
        size: u64,
        /// What the holder has of it: `None` for all, else a bit per span (lowest bit first).
        spans: Option<Bytes>,
        /// Whether MANIFEST frames follow.
        manifest: bool,
    },
    /// A part of the manifest, in order; the last part ends with the last span.
    Manifest {
        /// The file.
        id: FileId,
        /// The 32-byte chaining values of consecutive spans, one behind the other: at most 8,192.
        values: Bytes,
    },
    /// The holder of a part has these spans too now. Comes unasked.
    Have {
        /// The file.
        id: FileId,
        /// Numbers of the spans.
        spans: Vec<u32>,
    },
    /// The answer to OPEN or to (the rest of) a GET: the holder does not have it.
    Missing {
        /// The file.
        id: FileId,
    },
    /// The answer to (the rest of) a fresh GET: its next span was given to another getter, who will
    /// pass it on.
    Taken {
        /// The file.
        id: FileId,
        /// The spans that were given to others: a bit per span (lowest bit first).
        given: Bytes,
    },
    /// The answer to PEERS; of who is told it is known only that he was one.
    Holders {
        /// The file.
        id: FileId,
        /// At most 50, never the asker; none if the holder knows of nobody.
        holders: Vec<Holder>,
    },
    /// Too much to do. The request it answers is not done; the connection may be closed after it.
    Busy {
        /// When to ask again, in milliseconds.
        retry_after_ms: u32,
    },
    /// The connection ends, and why.
    Refused {
        /// The kind.
        refusal: Refusal,
        /// The sentence for people.
        #[serde(deserialize_with = "plain")]
        why: String,
    },
}
