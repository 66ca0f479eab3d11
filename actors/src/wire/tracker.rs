//! What a peer and a tracker say to each other.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::digest::ListDigest;
use super::hello::{Hello, Refusal};
use super::serial::{QuestionForms, plain};
use crate::base::{FileId, FileName, PeerId, Question};

/// One file of a peer's list: a name, and what stands under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Listing {
    /// The name below the peer's folder.
    pub name: FileName,
    /// The content's id.
    pub id: FileId,
    /// The content's size in bytes.
    pub size: u64,
    /// Whether the peer has all of it; if not, it is downloading it.
    pub complete: bool,
}

/// What a peer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToTracker {
    /// The greeting.
    Hello(Hello),
    /// Speak for this peer on this connection; its list begins with `files`.
    Register {
        /// A random number of the process: the same one replaces its older connection.
        instance: u64,
        /// Port of its block server; the address is the one the tracker sees.
        port: u16,
        /// The first part of the list.
        files: Vec<Listing>,
    },
    /// These are in the list now. An entry with the same name and id replaces the older one.
    NewFile {
        /// The entries.
        files: Vec<Listing>,
    },
    /// These are not in the list any more; what is not in it is passed over.
    RemoveFile {
        /// Name and id of each entry.
        files: Vec<(FileName, FileId)>,
    },
    /// Who has this?
    WhoHas {
        /// What is looked for.
        #[serde(with = "QuestionForms")]
        question: Question,
    },
    /// A page of the catalogue in the order of (name, id).
    List {
        /// Only names that begin so; any text.
        prefix: String,
        /// Entries behind this one; `None` for the first page.
        after: Option<(FileName, FileId)>,
        /// Entries wanted, at most [`MAX_PAGE_ENTRIES`](crate::base::limits::MAX_PAGE_ENTRIES).
        limit: u32,
    },
    /// A page of the registered peers in the order of their ids.
    Peers {
        /// Peers behind this one; `None` for the first page.
        after: Option<PeerId>,
        /// Entries wanted.
        limit: u32,
    },
    /// The answer to CONFIRM, behind the changes if there were any: the digest of the list as told.
    Confirmed {
        /// Digest of all that was told on this connection.
        digest: ListDigest,
    },
    /// The peer leaves. No answer; the tracker closes.
    Disconnect,
}

/// What a tracker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromTracker {
    /// The greeting.
    Hello(Hello),
    /// The registration holds.
    Registered {
        /// It ends by itself when nothing was confirmed for this long, in milliseconds.
        lease_ms: u64,
        /// How often the list is confirmed, in milliseconds.
        refresh_interval_ms: u64,
    },
    /// NEW_FILE or REMOVE_FILE was taken in.
    Noted,
    /// The request, or for [`Refusal::Version`] and [`Refusal::Limit`] the connection, was refused.
    Refused {
        /// The kind.
        refusal: Refusal,
        /// The sentence for people.
        #[serde(deserialize_with = "plain")]
        why: String,
    },
    /// The answer to WHO_HAS; empty if nobody has it.
    Candidates {
        /// One entry per content.
        candidates: Vec<Candidate>,
    },
    /// A page of LIST.
    Files {
        /// The entries.
        files: Vec<ListedFile>,
        /// Whether there are entries behind the last one.
        more: bool,
    },
    /// A page of PEERS.
    Peers {
        /// The entries.
        peers: Vec<ListedPeer>,
        /// Whether there are entries behind the last one.
        more: bool,
    },
    /// Confirm your list.
    Confirm {
        /// Digest of the list that the tracker has.
        digest: ListDigest,
    },
}

/// One content that WHO_HAS found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its id.
    pub id: FileId,
    /// Its size in bytes, as the holders below state it. Holders that state another size for the
    /// same id are a candidate of their own: at most one of the two can be right, and only the
    /// content can tell which.
    pub size: u64,
    /// Names it has, in order: at most 16.
    pub names: Vec<FileName>,
    /// How many peers hold it, wholly or in part, the asker included.
    pub holder_count: u32,
    /// A random sample of at most 50 of them, never the asker.
    pub holders: Vec<Holder>,
}

/// A peer that has a content, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The peer.
    pub peer: PeerId,
    /// Where its block server listens.
    pub address: SocketAddr,
    /// Whether it has all of it.
    pub complete: bool,
}

/// A line of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    /// A name.
    pub name: FileName,
    /// A content that stands under it.
    pub id: FileId,
    /// Its size in bytes.
    pub size: u64,
    /// How many peers have this content under this name.
    pub holders: u32,
}

/// A registered peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedPeer {
    /// The peer.
    pub peer: PeerId,
    /// Where its block server listens.
    pub address: SocketAddr,
    /// Entries in its list.
    pub files: u32,
    /// Milliseconds since its list was last confirmed (or registered).
    pub confirmed_ms: u64,
}
