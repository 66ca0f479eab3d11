//! The answer to WHO_HAS, written as it is found.
//!
//! A tracker says nothing else as often. So CANDIDATES is not put together before it is encoded: what
//! is known of a content goes straight into the frame, and a holder as the bytes that were made when it
//! registered. They are the bytes that [`FromTracker::Candidates`] is encoded to, and that is what the
//! other side reads.
//!
//! [`FromTracker::Candidates`]: super::tracker::FromTracker::Candidates

use std::borrow::Borrow;
use std::net::SocketAddr;

use rmp::encode::{
    write_array_len, write_bin, write_bool, write_map_len, write_str, write_str_len, write_uint,
};

use super::codec::{body, framed};
use super::frame::FrameError;
use super::tracker::Holder;
use crate::base::{FileId, PeerId};

/// A holder as it stands in an answer, but for the flag at its end.
///
/// An answer names many holders out of very many. So each is one line of a processor's cache, but for
/// those with long ids, and nothing else of a peer is looked at for it.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct HolderBytes(Place);

#[derive(Clone, Debug)]
enum Place {
    Here { at_loopback: bool, len: u8, bytes: [u8; HERE_BYTES] },
    Elsewhere { at_loopback: bool, bytes: Box<[u8]> },
}

/// What is left of 64 bytes.
const HERE_BYTES: usize = 61;

/// The key of the flag, which is the last of the fields, and stands in front of it in every holder.
const FLAG_KEY: &[u8] = b"\xa8complete";

impl HolderBytes {
    /// Of a peer and the address of its block server.
    pub fn new(peer: PeerId, address: SocketAddr) -> HolderBytes {
        let at_loopback = address.ip().is_loopback();
        let mut all = Vec::new();
        body(&Holder { peer, address, complete: false }, &mut all);
        all.truncate(all.len() - FLAG_KEY.len() - 1);
        let mut bytes = [0; HERE_BYTES];
        HolderBytes(match bytes.get_mut(..all.len()) {
            Some(here) => {
                here.copy_from_slice(&all);
                Place::Here { at_loopback, len: all.len() as u8, bytes }
            }
            None => Place::Elsewhere { at_loopback, bytes: all.into() },
        })
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Place::Here { len, bytes, .. } => &bytes[..usize::from(*len)],
            Place::Elsewhere { bytes, .. } => bytes,
        }
    }

    /// Whether the address is one of loopback, which means another machine to everybody else.
    pub fn is_at_loopback(&self) -> bool {
        let (Place::Here { at_loopback, .. } | Place::Elsewhere { at_loopback, .. }) = self.0;
        at_loopback
    }

    /// How many bytes a holder has in an answer, whatever its address is.
    pub fn max_len_bytes(&self) -> usize {
        self.bytes().len() + FLAG_KEY.len() + 1 + MAX_ADDRESS_BYTES
    }
}

/// Bytes of the longest address: an IPv6 one.
const MAX_ADDRESS_BYTES: usize = 48;

/// Takes the candidates of one answer.
#[derive(Debug)]
pub struct CandidatesWriter<'a> {
    out: &'a mut Vec<u8>,
    left: usize,
}

/// Appends CANDIDATES to `out` as one frame: `count` candidates, which `write` states.
///
/// # Errors
/// A message over the limit; `out` is then as it was.
///
/// # Panics
/// If `write` states another number of candidates.
pub fn encode_candidates(
    count: usize,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut CandidatesWriter<'_>),
) -> Result<(), FrameError> {
    framed(out, |out| {
        map(out, 1);
        text(out, "Candidates");
        map(out, 1);
        text(out, "candidates");
        array(out, count);
        let mut writer = CandidatesWriter { out, left: count };
        write(&mut writer);
        assert_eq!(writer.left, 0, "an answer has as many candidates as it states");
    })
}

impl CandidatesWriter<'_> {
    /// The next candidate. `names` are the bytes of file names, in order; `holders` are those that are
    /// told, each with whether it is complete.
    pub fn candidate<'n>(
        &mut self,
        id: &FileId,
        size: u64,
        names: impl ExactSizeIterator<Item = &'n [u8]>,
        holder_count: u32,
        holders: impl ExactSizeIterator<Item = (impl Borrow<HolderBytes>, bool)>,
    ) {
        let out = &mut *self.out;
        map(out, 5);
        text(out, "id");
        write_bin(out, id.as_bytes()).expect(A_VEC_TAKES_ALL);
        text(out, "size");
        write_uint(out, size).expect(A_VEC_TAKES_ALL);
        text(out, "names");
        array(out, names.len());
        for name in names {
            write_str_len(out, name.len() as u32).expect(A_VEC_TAKES_ALL);
            out.extend_from_slice(name);
        }
        text(out, "holder_count");
        write_uint(out, u64::from(holder_count)).expect(A_VEC_TAKES_ALL);
        text(out, "holders");
        array(out, holders.len());
        for (holder, complete) in holders {
            out.extend_from_slice(holder.borrow().bytes());
            out.extend_from_slice(FLAG_KEY);
            write_bool(out, complete).expect(A_VEC_TAKES_ALL);
        }
        self.left -= 1;
    }
}

const A_VEC_TAKES_ALL: &str = "a Vec takes every byte";

fn map(out: &mut Vec<u8>, len: u32) {
    write_map_len(out, len).expect(A_VEC_TAKES_ALL);
}

fn array(out: &mut Vec<u8>, len: usize) {
    write_array_len(out, len as u32).expect(A_VEC_TAKES_ALL);
}

fn text(out: &mut Vec<u8>, text: &str) {
    write_str(out, text).expect(A_VEC_TAKES_ALL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_of_usual_length_is_one_line_of_a_cache() {
        assert_eq!((size_of::<HolderBytes>(), align_of::<HolderBytes>()), (64, 64));
        for (peer, address, here) in [
            ("gpu-node-0123456.rack-210000", "255.255.255.255:65535", true),
            ("gpu-node-0123456.rack-2100000x", "255.255.255.255:65535", false),
            ("gpu", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", true),
            ("gpu-01", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", false),
        ] {
            let holder = HolderBytes::new(peer.parse().unwrap(), address.parse().unwrap());
            assert_eq!(matches!(holder.0, Place::Here { .. }), here, "{peer}: {}", holder.bytes().len());
        }
    }
}
