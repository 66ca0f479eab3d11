//! The greeting, and the reasons to refuse.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::{PeerId, plain_text};

/// Version of the protocol.
///
/// | version | what changed |
/// |---|---|
/// | 1 | the first |
/// | 2 | GET says whether only fresh spans are wanted, and can be answered TAKEN |
pub const VERSION: u16 = 2;

/// The first frame in either direction. Its fields are the one thing no later version may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the sender.
    pub version: u16,
    /// Who is speaking; a tracker and a process that only asks have made-up ids.
    pub peer: PeerId,
    /// The program and its version, for logs.
    pub agent: String,
}

impl Hello {
    /// Our greeting.
    pub fn new(peer: PeerId) -> Hello {
        Hello { version: VERSION, peer, agent: concat!("enxame/", env!("CARGO_PKG_VERSION")).into() }
    }

    /// The sentence for a greeting of another version.
    pub fn version_mismatch(&self) -> String {
        format!(
            "this is protocol version {VERSION}, {} ({}) speaks version {}; run the same enxame on both sides",
            self.peer,
            plain_text(&self.agent),
            self.version
        )
    }
}

/// The kind of a refusal, for the program; the sentence for people travels beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The other side speaks another version.
    Version,
    /// Another living process has this peer id.
    PeerIdTaken,
    /// Only a registered connection may do this.
    NotRegistered,
    /// A cap was reached.
    Limit,
    /// The message cannot be understood or may not come now.
    Protocol,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Version => "another protocol version",
            Refusal::PeerIdTaken => "peer id taken",
            Refusal::NotRegistered => "not registered",
            Refusal::Limit => "limit reached",
            Refusal::Protocol => "protocol error",
        })
    }
}
