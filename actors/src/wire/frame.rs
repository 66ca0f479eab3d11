//! Frames: the header in front of every message, and what it may say.

use crate::base::limits::{MAX_CONTROL_BYTES, MAX_HELLO_BYTES, MAX_REQUEST_BYTES};
use crate::base::plain_text;

/// Bytes of a frame's header: `u32` length of the body, `u8` kind.
pub const HEADER_BYTES: usize = 5;
/// Bytes in front of the data of a BLOCKS frame: `u64` index of the first block.
pub const BLOCKS_PREFIX_BYTES: usize = 8;
/// Bytes in front of the data of a BLOCKS frame: its header and the index.
pub const BLOCKS_HEADER_BYTES: usize = HEADER_BYTES + BLOCKS_PREFIX_BYTES;
/// Kind of a control message.
const KIND_CONTROL: u8 = 0;
/// Kind of a run of blocks.
const KIND_BLOCKS: u8 = 1;

/// What the receiver takes at this moment; a longer frame is refused by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Bytes of a control body.
    pub control_bytes: usize,
    /// Bytes of data in a BLOCKS frame; 0 where none may come.
    pub blocks_bytes: usize,
}

impl FrameLimits {
    /// Before HELLO is done.
    pub const HELLO: FrameLimits = FrameLimits { control_bytes: MAX_HELLO_BYTES, blocks_bytes: 0 };
    /// Requests to a holder.
    pub const REQUEST: FrameLimits = FrameLimits { control_bytes: MAX_REQUEST_BYTES, blocks_bytes: 0 };
    /// Control messages only.
    pub const CONTROL: FrameLimits = FrameLimits { control_bytes: MAX_CONTROL_BYTES, blocks_bytes: 0 };

    /// Control messages, and blocks of at most `blocks_bytes` of data: one span of the file expected.
    pub const fn with_blocks(blocks_bytes: usize) -> FrameLimits {
        FrameLimits { control_bytes: MAX_CONTROL_BYTES, blocks_bytes }
    }
}

/// A frame's header, read and within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameHeader {
    /// A control message of `len` bytes follows.
    Control {
        /// Bytes of the MessagePack body.
        len: usize,
    },
    /// The index of the first block, then `data_len` bytes of blocks follow.
    Blocks {
        /// Bytes of data behind the index.
        data_len: usize,
    },
}

impl FrameHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// An unknown kind, a BLOCKS frame too short for its index, or a length over the limit.
    pub fn parse(bytes: [u8; HEADER_BYTES], limits: FrameLimits) -> Result<FrameHeader, FrameError> {
        let [a, b, c, d, kind] = bytes;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        match kind {
            KIND_CONTROL if len <= limits.control_bytes => Ok(FrameHeader::Control { len }),
            KIND_CONTROL => Err(FrameError::TooLong { len, limit: limits.control_bytes }),
            KIND_BLOCKS => {
                let data_len = len.checked_sub(BLOCKS_PREFIX_BYTES).ok_or(FrameError::TooShort(len))?;
                if data_len <= limits.blocks_bytes {
                    Ok(FrameHeader::Blocks { data_len })
                } else {
                    Err(FrameError::TooLong { len: data_len, limit: limits.blocks_bytes })
                }
            }
            _ => Err(FrameError::Kind(kind)),
        }
    }

    /// The bytes of this header. The length must be one that [`FrameHeader::parse`] takes.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let (len, kind) = match self {
            FrameHeader::Control { len } => (len, KIND_CONTROL),
            FrameHeader::Blocks { data_len } => (data_len + BLOCKS_PREFIX_BYTES, KIND_BLOCKS),
        };
        let [a, b, c, d] = (len as u32).to_be_bytes();
        [a, b, c, d, kind]
    }
}

/// The header of a BLOCKS frame and the index behind it: what stands in front of the data.
pub fn blocks_header(first_block: u64, data_len: usize) -> [u8; BLOCKS_HEADER_BYTES] {
    let mut bytes = [0; BLOCKS_HEADER_BYTES];
    let (header, index) = bytes.split_at_mut(HEADER_BYTES);
    header.copy_from_slice(&FrameHeader::Blocks { data_len }.to_bytes());
    index.copy_from_slice(&first_block.to_be_bytes());
    bytes
}

/// Why bytes are no message of this protocol.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A kind that version 1 does not have.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Longer than may come now.
    #[error("a frame of {len} bytes where at most {limit} may come")]
    TooLong {
        /// Bytes stated.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A BLOCKS frame that has no room for its index.
    #[error("a BLOCKS frame of {0} bytes, too short for its index")]
    TooShort(usize),
    /// The body is no message that may come here; and why not, in a line that may quote some of what came.
    #[error("a message that cannot be read: {0}")]
    Message(String),
    /// Bytes behind the message.
    #[error("{0} bytes behind the end of a message")]
    Trailing(usize),
}

impl From<rmp_serde::decode::Error> for FrameError {
    fn from(error: rmp_serde::decode::Error) -> FrameError {
        FrameError::Message(plain_text(&error.to_string()))
    }
}
