//! What happens at a tracker, for whoever runs it.

use std::fmt;
use std::net::SocketAddr;

use actix::Message;

use crate::base::PeerId;

/// A peer came or went.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum TrackerEvent {
    /// It registered and was not registered before.
    PeerJoined {
        /// The peer.
        peer: PeerId,
        /// Where it serves.
        address: SocketAddr,
        /// Entries in the first frame of its list.
        files: usize,
    },
    /// It registered on a new connection while the older one lived; that one is closed.
    PeerReturned {
        /// The peer.
        peer: PeerId,
        /// Where it serves.
        address: SocketAddr,
        /// Entries in the first frame of its list.
        files: usize,
    },
    /// Its registration ended.
    PeerLeft {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: LeaveReason,
    },
}

/// Why a registration ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// The peer said so.
    Disconnected,
    /// Its connection ended; the sentence says how.
    ConnectionEnded(String),
    /// It left two CONFIRMs unanswered.
    Unconfirmed,
    /// It registered again, with a list for which there is no room.
    NoRoom(String),
}

impl fmt::Display for LeaveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeaveReason::Disconnected => f.write_str("it disconnected"),
            LeaveReason::Unconfirmed => f.write_str("it did not confirm its list, though asked twice"),
            LeaveReason::ConnectionEnded(why) | LeaveReason::NoRoom(why) => f.write_str(why),
        }
    }
}
