//! Control messages to bytes and back.

use bytes::{Buf, BytesMut};
use rmp_serde::decode::Error;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::frame::{FrameError, FrameHeader, FrameLimits, HEADER_BYTES};
use crate::base::limits::{MAX_CONTROL_BYTES, MAX_DEPTH};

/// Appends a message to `out` as one control frame.
///
/// # Errors
/// A message over [`MAX_CONTROL_BYTES`]; `out` is then as it was.
pub fn encode<M: Serialize>(message: &M, out: &mut Vec<u8>) -> Result<(), FrameError> {
    framed(out, |out| body(message, out))
}

/// Appends what `write` appends, as one control frame.
///
/// # Errors
/// As [`encode`].
pub(super) fn framed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    write(out);
    let len = out.len() - start - HEADER_BYTES;
    if len > MAX_CONTROL_BYTES {
        out.truncate(start);
        return Err(FrameError::TooLong { len, limit: MAX_CONTROL_BYTES });
    }
    out[start..start + HEADER_BYTES].copy_from_slice(&FrameHeader::Control { len }.to_bytes());
    Ok(())
}

/// Appends a message, or a part of one, without a frame around it.
pub(super) fn body<M: Serialize>(message: &M, out: &mut Vec<u8>) {
    let mut serializer = rmp_serde::Serializer::new(out).with_struct_map();
    message
        .serialize(&mut serializer)
        .expect("our messages have no value that MessagePack lacks, and a Vec takes every byte");
}

/// The message in the body of a control frame.
///
/// # Errors
/// Anything that is not exactly one message of this type.
pub fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    // Texts are looked at where they stand. Such a reader does not tell how far it came, but what it
    // finds next: where nothing is left, not even the mark that every value begins with.
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(body);
    deserializer.set_max_depth(MAX_DEPTH);
    let message = M::deserialize(&mut deserializer)?;
    match bool::deserialize(&mut deserializer) {
        Err(Error::InvalidMarkerRead(_)) => Ok(message),
        _ => Err(FrameError::Trailing(trailing_bytes::<M>(body))),
    }
}

/// How many bytes stand behind a message.
fn trailing_bytes<M: DeserializeOwned>(body: &[u8]) -> usize {
    let mut rest = body;
    let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
    deserializer.set_max_depth(MAX_DEPTH);
    // It was read once already.
    let _ = M::deserialize(&mut deserializer);
    rest.len()
}

/// Takes the next control message off the front of `buffer`; `None` while it is incomplete.
///
/// # Errors
/// A header over the limits or of another kind, and what [`decode`] refuses.
pub fn take<M: DeserializeOwned>(
    buffer: &mut BytesMut,
    limits: FrameLimits,
) -> Result<Option<M>, FrameError> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let FrameHeader::Control { len } =
        FrameHeader::parse(*header, FrameLimits { blocks_bytes: 0, ..limits })?
    else {
        return Err(FrameError::Kind(1));
    };
    let Some(body) = buffer.get(HEADER_BYTES..HEADER_BYTES + len) else { return Ok(None) };
    let message = decode(body)?;
    buffer.advance(HEADER_BYTES + len);
    Ok(Some(message))
}
