//! A stream of frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use enxame_actors::base::BLOCK_LEN_BYTES;
use enxame_actors::base::limits::MIN_SPAN_BLOCKS;
use enxame_actors::net::LinkError;
use enxame_actors::net::blocks::FrameReader;
use enxame_actors::wire::codec::{decode, take};
use enxame_actors::wire::frame::{FrameError, FrameHeader, FrameLimits, HEADER_BYTES, blocks_header};
use enxame_actors::wire::peer::ToHolder;
use enxame_actors::wire::tracker::ToTracker;
use tokio::io::{AsyncRead, ReadBuf};

use crate::heap;
use crate::input::Input;
use crate::messages::enough_for;

const SPAN: usize = (MIN_SPAN_BLOCKS * BLOCK_LEN_BYTES) as usize;

/// A stream is the same frames in whatever pieces it comes, and what they are is what the description of
/// the protocol says, read by hand. What is over the limits is refused by its header, and no more is
/// allocated than came.
pub fn frame_codec(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let limits = match input.byte() % 3 {
        0 => FrameLimits::HELLO,
        1 => FrameLimits::CONTROL,
        _ => FrameLimits::with_blocks(SPAN),
    };
    let piece = usize::from(input.byte()).max(1);
    let stream = input.rest();
    if let Some(header) = stream.first_chunk() {
        header_reads_back(*header, limits);
    }
    messages_are_the_same_in_pieces(stream, limits, piece);
    let read = heap::within(enough_for(stream.len()) + SPAN, || read(stream, limits, piece));
    assert_eq!(read, by_hand(stream, limits));
}

fn header_reads_back(bytes: [u8; HEADER_BYTES], limits: FrameLimits) {
    let [a, b, c, d, kind] = bytes;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    match FrameHeader::parse(bytes, limits) {
        Ok(header) => {
            assert_eq!(header.to_bytes(), bytes);
            if let FrameHeader::Blocks { data_len } = header {
                let first = u64::from_be_bytes([a, b, c, d, a, b, c, d]);
                let whole = blocks_header(first, data_len);
                assert_eq!(whole[..HEADER_BYTES], bytes);
                assert_eq!(whole[HEADER_BYTES..], first.to_be_bytes());
            }
        }
        Err(FrameError::Kind(stated)) => assert!(stated == kind && kind > 1),
        Err(FrameError::TooShort(stated)) => assert!(stated == len && len < 8 && kind == 1),
        Err(FrameError::TooLong { len, limit }) => assert!(len > limit),
        Err(error) => panic!("a header cannot be wrong so: {error}"),
    }
}

/// The messages in front of what ends them, and whether that is an error.
fn messages(stream: &[u8], limits: FrameLimits, piece: usize) -> (Vec<ToTracker>, bool) {
    let mut buffer = BytesMut::new();
    let mut all = Vec::new();
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match take(&mut buffer, limits) {
                Ok(Some(message)) => all.push(message),
                Ok(None) => break,
                Err(_) => return (all, true),
            }
        }
        assert!(buffer.len() <= HEADER_BYTES + limits.control_bytes + piece.len(), "it waits for ever");
    }
    (all, false)
}

fn messages_are_the_same_in_pieces(stream: &[u8], limits: FrameLimits, piece: usize) {
    assert_eq!(messages(stream, limits, piece), messages(stream, limits, stream.len().max(1)));
}

/// What a getter's or holder's stream brings.
#[derive(Debug, PartialEq)]
enum Frame {
    Message(ToHolder),
    /// The first block, and the data.
    Blocks(u64, Vec<u8>),
}

/// How a stream ends.
#[derive(Debug, PartialEq)]
enum End {
    Closed,
    Cut,
    Refused,
}

/// As the program reads.
fn read(stream: &[u8], limits: FrameLimits, piece: usize) -> (Vec<Frame>, End) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut reader = FrameReader::new(Pieces { stream, piece }, BytesMut::new(), Duration::from_secs(60));
    let mut frames = Vec::new();
    let ended: Result<(), LinkError> = runtime.block_on(async {
        loop {
            frames.push(match reader.header(limits).await? {
                FrameHeader::Control { len } => Frame::Message(reader.message(len).await?),
                FrameHeader::Blocks { data_len } => {
                    let mut data = vec![0; data_len];
                    Frame::Blocks(reader.blocks(&mut data).await?, data)
                }
            });
        }
    });
    let end = match ended {
        Err(LinkError::Closed) => End::Closed,
        Err(LinkError::Cut) => End::Cut,
        Err(LinkError::Frame(_)) => End::Refused,
        other => panic!("a stream cannot end so: {other:?}"),
    };
    (frames, end)
}

/// As the description of the protocol says.
fn by_hand(mut stream: &[u8], limits: FrameLimits) -> (Vec<Frame>, End) {
    let mut frames = Vec::new();
    loop {
        let Some((header, rest)) = stream.split_first_chunk::<HEADER_BYTES>() else {
            return (frames, if stream.is_empty() { End::Closed } else { End::Cut });
        };
        let [a, b, c, d, kind] = *header;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        let may_come = match kind {
            0 => len <= limits.control_bytes,
            1 => (8..=limits.blocks_bytes + 8).contains(&len),
            _ => false,
        };
        if !may_come {
            return (frames, End::Refused);
        }
        let Some((body, behind)) = rest.split_at_checked(len) else { return (frames, End::Cut) };
        match body.split_first_chunk() {
            Some((first, data)) if kind == 1 => {
                frames.push(Frame::Blocks(u64::from_be_bytes(*first), data.to_vec()));
            }
            _ => match decode(body) {
                Ok(message) => frames.push(Frame::Message(message)),
                Err(_) => return (frames, End::Refused),
            },
        }
        stream = behind;
    }
}

/// A stream that comes in pieces of a length.
struct Pieces<'a> {
    stream: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = self.piece.min(self.stream.len()).min(buffer.remaining());
        let (piece, rest) = self.stream.split_at(len);
        buffer.put_slice(piece);
        self.stream = rest;
        Poll::Ready(Ok(()))
    }
}
