//! The protocol, version 2: messages and their bytes. No sockets, no clock, no actors.
//!
//! # Frames
//!
//! Everything goes over TCP in frames: `u32` length of the body, `u8` kind, body. Integers are
//! big-endian. Kind 0 is a control message: MessagePack, fields by name, enums by name, nested at
//! most [`MAX_DEPTH`](crate::base::limits::MAX_DEPTH) deep, with nothing behind it. Kind 1 is
//! BLOCKS: the `u64` index of the first block, then the bytes of one span of blocks, raw, so that a
//! holder can send them straight from the file. The length is checked against a limit before
//! anything is allocated, by the encoder too: see [`frame`].
//!
//! # Greeting
//!
//! The first frame in either direction is HELLO: protocol version, peer id, and the program's own
//! description. A side that reads another version answers with its own HELLO and a REFUSED that
//! names both versions, and closes. HELLO has to be done within 10 s and in 64 KiB.
//!
//! # Peer and tracker ([`tracker`])
//!
//! The peer opens the connection and keeps it; the tracker dials nobody. Every request but
//! HELLO, CONFIRMED and DISCONNECT gets exactly one answer, in the order asked, so requests can be
//! pipelined. The one thing a tracker says unasked is CONFIRM.
//!
//! - REGISTER makes the connection speak for the peer, and states its files. Long lists go on in
//!   NEW_FILE frames. A second REGISTER on the connection begins the list anew. The answer is
//!   REGISTERED, or REFUSED if another process has the peer id.
//! - NEW_FILE and REMOVE_FILE tell what changed; NOTED, or REFUSED for who has not registered.
//! - WHO_HAS asks by name, id or prefix of an id; CANDIDATES, of which there may be none. Nobody
//!   needs to register to ask.
//! - LIST and PEERS read the catalogue in pages.
//! - CONFIRM carries the digest of the list that the tracker has of the peer. The peer looks at
//!   its folder, sends NEW_FILE and REMOVE_FILE for what the tracker does not know yet, and answers
//!   CONFIRMED with the digest of what it has told now. If it finds that the tracker's list is not
//!   the one it told, it registers anew.
//! - DISCONNECT ends the registration of the connection it comes on. So does the connection's end.
//!
//! # Peer and peer ([`peer`])
//!
//! A getter opens one connection to a holder for all files of its job.
//!
//! - OPEN asks for what the holder has of an id: OPENED states size and spans, and MANIFEST
//!   frames follow if the manifest was asked for. MISSING: it has nothing of it.
//! - HAVE comes unasked for each opened file of which the holder has only a part, as it gets more.
//! - GET asks for a run of whole spans of an id. The answer is one BLOCKS frame per span, in order,
//!   the last one clipped to the end of the file; or MISSING for those that cannot be had (any more).
//!   A file of one span is proved by its id alone, so it can be asked for without OPEN.
//! - A *fresh* GET is for spans that nobody else was given: those who fetch together take each span
//!   from a lone holder once, and pass it on. At the first span that another connected getter was
//!   given, TAKEN answers the rest of it, with the set of all such spans; who wants one all the same
//!   asks for it with a GET that is not fresh.
//! - PEERS asks who else has an id, for the time when no tracker answers. HOLDERS are those that a
//!   tracker told the asked one of, and those that it fetches from itself. Addresses that a stranger
//!   stated about others are not passed on. The getter trusts none of them: it dials no address that
//!   cannot be a peer's, and HELLO tells who answers there.
//! - BUSY, in place of any answer, says that the holder serves as many as it can, and when to try again.
//!
//! Answers come in the order asked. What this protocol does not do: choke, trade, encrypt.

mod answer;
pub mod codec;
mod digest;
pub mod frame;
mod hello;
pub mod peer;
mod serial;
pub mod tracker;

pub use answer::{CandidatesWriter, HolderBytes, encode_candidates};
pub use codec::{decode, encode};
pub use digest::ListDigest;
pub use frame::{FrameError, FrameHeader, HEADER_BYTES};
pub use hello::{Hello, Refusal, VERSION};

#[cfg(test)]
mod tests;
