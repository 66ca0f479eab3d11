//! The connection between a getter and a holder after its greeting: control messages and runs of
//! blocks. Blocks are read straight into the caller's buffer, and sent straight from the file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use rustix::io::ioctl_fionread;
use rustix::net::SendFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::limiter::Limiter;
use super::link::{LinkError, write_all};
use crate::base::BLOCK_LEN_BYTES;
use crate::base::limits::{REQUEST_TIMEOUT, WRITE_STALL_TIMEOUT};
use crate::wire::codec;
use crate::wire::frame::{
    BLOCKS_HEADER_BYTES, BLOCKS_PREFIX_BYTES, FrameHeader, FrameLimits, HEADER_BYTES, blocks_header,
};

/// What is read ahead of what is asked for, with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAhead {
    /// What stands in front of a span's data: all of that goes where it belongs, and is copied once.
    Front,
    /// A few messages.
    Messages,
    /// As many small files as are handed over at once: each of them is copied once more anyhow.
    SmallFiles,
}

impl ReadAhead {
    fn bytes(self) -> usize {
        match self {
            ReadAhead::Front => BLOCKS_HEADER_BYTES,
            ReadAhead::Messages => 16 << 10,
            ReadAhead::SmallFiles => 256 << 10,
        }
    }
}

/// The reading side: headers and messages through a small buffer, blocks past it.
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    read_ahead: ReadAhead,
    /// The other side has to move something within this time, once a frame has begun.
    stall: Duration,
    /// The limit on blocks; messages have none.
    limiter: Option<Limiter>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads on from a greeting: `read` is what came behind it.
    pub fn new(stream: R, read: BytesMut, stall: Duration) -> FrameReader<R> {
        FrameReader { stream, buffer: read, read_ahead: ReadAhead::Messages, stall, limiter: None }
    }

    /// Takes blocks no faster than this lets it: what is not read yet, TCP holds back.
    pub fn limited(mut self, limiter: Option<Limiter>) -> FrameReader<R> {
        self.limiter = limiter;
        self
    }

    /// The stream below, for writing.
    pub fn stream_mut(&mut self) -> &mut R {
        &mut self.stream
    }

    /// Waits for the next frame's header. Cancel safe: nothing is taken until the header is whole.
    ///
    /// # Errors
    /// The end of the connection, and a header over the limits.
    pub async fn header(&mut self, limits: FrameLimits) -> Result<FrameHeader, LinkError> {
        loop {
            if let Some(header) = self.buffered_header(limits)? {
                return Ok(header);
            }
            if self.fill().await? == 0 {
                return Err(if self.buffer.is_empty() { LinkError::Closed } else { LinkError::Cut });
            }
        }
    }

    /// Reads what has come, once something has; how many bytes. Cancel safe.
    async fn fill(&mut self) -> io::Result<usize> {
        let most = self.read_ahead.bytes();
        self.buffer.reserve(most);
        self.stream.read_buf(&mut (&mut self.buffer).limit(most)).await
    }

    /// The next frame's header if it was read already.
    ///
    /// # Errors
    /// A header over the limits.
    fn buffered_header(&mut self, limits: FrameLimits) -> Result<Option<FrameHeader>, LinkError> {
        let Some(bytes) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = FrameHeader::parse(*bytes, limits)?;
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(header))
    }

    /// Says what is due, and so what is worth to be read ahead.
    pub fn expect(&mut self, read_ahead: ReadAhead) {
        self.read_ahead = read_ahead;
    }

    /// The next request if all of it was read already. What is none is left to be met in its turn.
    pub fn buffered_request<M: DeserializeOwned>(&mut self) -> Option<M> {
        let bytes = self.buffer.first_chunk::<HEADER_BYTES>()?;
        let Ok(FrameHeader::Control { len }) = FrameHeader::parse(*bytes, FrameLimits::REQUEST) else {
            return None;
        };
        let message = codec::decode(self.buffer.get(HEADER_BYTES..HEADER_BYTES + len)?).ok()?;
        self.buffer.advance(HEADER_BYTES + len);
        Some(message)
    }

    /// Reads the message behind a control header.
    ///
    /// # Errors
    /// The end of the connection, a stall, and bytes that are no message.
    pub async fn message<M: DeserializeOwned>(&mut self, len: usize) -> Result<M, LinkError> {
        while self.buffer.len() < len {
            self.buffer.reserve(len - self.buffer.len());
            let read = timeout(self.stall, self.stream.read_buf(&mut self.buffer)).await;
            if read.map_err(|_| LinkError::NoAnswer(self.stall))?? == 0 {
                return Err(LinkError::Cut);
            }
        }
        let message = codec::decode(&self.buffer[..len]);
        self.buffer.advance(len);
        Ok(message?)
    }

    /// Reads a request to a holder: it comes in one piece, unless somebody trickles.
    ///
    /// # Errors
    /// As [`FrameReader::message`], and that it is not whole within [`REQUEST_TIMEOUT`].
    pub async fn request<M: DeserializeOwned>(&mut self, len: usize) -> Result<M, LinkError> {
        let request = timeout(REQUEST_TIMEOUT, self.message(len)).await;
        request.map_err(|_| LinkError::Idle(REQUEST_TIMEOUT))?
    }

    /// Reads the index and the data behind a BLOCKS header into `data`, which is as long as the
    /// header says. Returns the index of the first block.
    ///
    /// # Errors
    /// The end of the connection and a stall.
    pub async fn blocks(&mut self, data: &mut [u8]) -> Result<u64, LinkError> {
        let mut index = [0; BLOCKS_PREFIX_BYTES];
        self.exactly(&mut index).await?;
        match self.limiter.clone() {
            None => self.exactly(data).await?,
            Some(limiter) => {
                for piece in data.chunks_mut(limiter.piece_bytes()) {
                    limiter.take(piece.len()).await;
                    self.exactly(piece).await?;
                }
            }
        }
        Ok(u64::from_be_bytes(index))
    }

    async fn exactly(&mut self, mut into: &mut [u8]) -> Result<(), LinkError> {
        let ready = self.buffer.len().min(into.len());
        let (front, rest) = into.split_at_mut(ready);
        self.buffer.copy_to_slice(front);
        into = rest;
        while !into.is_empty() {
            let read = timeout(self.stall, self.stream.read(into)).await;
            let read = read.map_err(|_| LinkError::NoAnswer(self.stall))??;
            if read == 0 {
                return Err(LinkError::Cut);
            }
            into = &mut into[read..];
        }
        Ok(())
    }
}

impl FrameReader<TcpStream> {
    /// Bytes that have come and were not taken, in the socket and here.
    ///
    /// # Errors
    /// The socket failed.
    pub fn waiting_bytes(&self) -> Result<usize, LinkError> {
        let in_socket = ioctl_fionread(&self.stream).map_err(io::Error::from)? as usize;
        Ok(in_socket + self.buffer.len())
    }

    /// Whether the next frame is one of `data_len` bytes of blocks, and has arrived to its end: then
    /// its header is taken, and taking the rest waits for nothing.
    ///
    /// # Errors
    /// The end of the connection.
    pub async fn take_arrived(&mut self, data_len: usize) -> Result<bool, LinkError> {
        let frame = BLOCKS_HEADER_BYTES + data_len;
        let missing = frame.saturating_sub(self.buffer.len());
        if missing > 0 && (ioctl_fionread(&self.stream).map_err(io::Error::from)? as usize) < missing {
            return Ok(false);
        }
        while self.buffer.len() < HEADER_BYTES {
            if self.fill().await? == 0 {
                return Err(LinkError::Cut);
            }
        }
        let Some(bytes) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(false) };
        // Anything else is taken, or refused, in its turn.
        let header = FrameHeader::parse(*bytes, FrameLimits::with_blocks(data_len));
        let is_it = header.is_ok_and(|header| header == FrameHeader::Blocks { data_len });
        if is_it {
            self.buffer.advance(HEADER_BYTES);
        }
        Ok(is_it)
    }
}

/// Writes control messages in one go.
///
/// # Errors
/// A message over the limit, a socket that failed, a reader that stalls.
pub async fn send_messages<W, M>(
    stream: &mut W,
    messages: &[M],
    scratch: &mut Vec<u8>,
) -> Result<(), LinkError>
where
    W: AsyncWrite + Unpin,
    M: Serialize,
{
    scratch.clear();
    for message in messages {
        codec::encode(message, scratch)?;
    }
    write_all(stream, scratch).await
}

/// What one BLOCKS frame sends.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// The index of the first block, as it is stated.
    pub first_block: u64,
    /// Where the bytes are.
    pub file: &'a File,
    /// From which byte of the file on.
    pub offset: u64,
    /// How many bytes.
    pub len: usize,
}

/// Where blocks go out.
pub trait BlocksSink {
    /// Sends these bytes of the data of one BLOCKS frame; its parts are sent one behind the other, and
    /// the first one brings the header. The frame's last block is held back until `is_good` was asked, so that a file
    /// that changed meanwhile makes a frame that never ends, and not one with wrong bytes.
    ///
    /// # Errors
    /// A socket that failed, a reader that stalls, a file that could not be read, is too short or is
    /// not good any more: then the frame is not whole, and the connection has to end.
    fn send_part(
        &mut self,
        blocks: Blocks<'_>,
        part: Range<usize>,
        is_good: impl Fn() -> bool,
    ) -> impl Future<Output = Result<(), LinkError>>;
}

impl BlocksSink for TcpStream {
    /// The data goes from the page cache into the socket without passing through the program
    /// (`sendfile`), and the header is held back to travel with it (`MSG_MORE`).
    async fn send_part(
        &mut self,
        Blocks { first_block, file, offset, len }: Blocks<'_>,
        part: Range<usize>,
        is_good: impl Fn() -> bool,
    ) -> Result<(), LinkError> {
        let header = blocks_header(first_block, len);
        let mut sent = if part.start == 0 { 0 } else { header.len() };
        let flags = if len > 0 { SendFlags::MORE | SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL };
        while sent < header.len() {
            let rest = &header[sent..];
            sent += when_writable(self, || Ok(rustix::net::send(self.as_fd(), rest, flags)?)).await?;
        }
        let mut at = offset + part.start as u64;
        let mut left = part.len();
        let is_last = part.end == len;
        while left > 0 {
            let now = match left.saturating_sub(BLOCK_LEN_BYTES as usize) {
                _ if !is_last => left,
                0 if !is_good() => return Err(LinkError::FileChanged),
                0 => left,
                before_last => before_last,
            };
            let moved =
                when_writable(self, || Ok(rustix::fs::sendfile(self.as_fd(), file, Some(&mut at), now)?));
            match moved.await? {
                0 => return Err(LinkError::Io(io::ErrorKind::UnexpectedEof.into())),
                moved => left -= moved,
            }
        }
        Ok(())
    }
}

/// Runs a call on a socket each time it can be written, until it does something; within
/// [`WRITE_STALL_TIMEOUT`].
async fn when_writable<T>(stream: &TcpStream, call: impl FnMut() -> io::Result<T>) -> Result<T, LinkError> {
    Ok(timeout(WRITE_STALL_TIMEOUT, stream.async_io(Interest::WRITABLE, call))
        .await
        .map_err(|_| LinkError::WriteStall(WRITE_STALL_TIMEOUT))??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    fn file_of(data: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(data).unwrap();
        file
    }

    #[tokio::test]
    async fn blocks_and_messages_arrive_as_they_were_sent_whatever_the_reads_look_like() {
        let data: Vec<u8> = (0..300_000u32).map(|n| (n * 7 % 251) as u8).collect();
        let file = file_of(&data);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (client, mut server) = (client.unwrap(), server.unwrap().0);
        let sizes = [0usize, 1, 4095, 4096, 262_144];
        let send = async {
            for (n, len) in sizes.into_iter().enumerate() {
                send_messages(&mut server, &[n as u32], &mut Vec::new()).await.unwrap();
                let (first_block, offset) = (n as u64, n as u64);
                let blocks = Blocks { first_block, file: &file, offset, len };
                server.send_part(blocks, 0..len, || true).await.unwrap();
            }
            server.shutdown().await.unwrap();
        };
        let receive = async {
            let mut reader = FrameReader::new(client, BytesMut::new(), Duration::from_secs(5));
            for (n, len) in sizes.into_iter().enumerate() {
                let limits = FrameLimits::with_blocks(262_144);
                let FrameHeader::Control { len: message } = reader.header(limits).await.unwrap() else {
                    panic!()
                };
                assert_eq!(reader.message::<u32>(message).await.unwrap(), n as u32);
                let header = reader.header(limits).await.unwrap();
                assert_eq!(header, FrameHeader::Blocks { data_len: len });
                let mut got = vec![0; len];
                assert_eq!(reader.blocks(&mut got).await.unwrap(), n as u64);
                assert!(got == data[n..n + len], "size {len}");
            }
            assert!(matches!(reader.header(FrameLimits::CONTROL).await, Err(LinkError::Closed)));
        };
        tokio::join!(send, receive);
    }

    #[tokio::test]
    async fn a_file_that_became_too_short_ends_the_connection_in_the_middle_of_the_frame() {
        let file = file_of(&[1; 1000]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let mut server = server.unwrap().0;
        let blocks = Blocks { first_block: 0, file: &file, offset: 0, len: 4096 };
        assert!(server.send_part(blocks, 0..blocks.len, || true).await.is_err());
        drop(server);
        let mut reader = FrameReader::new(client.unwrap(), BytesMut::new(), Duration::from_secs(5));
        let header = reader.header(FrameLimits::with_blocks(4096)).await.unwrap();
        assert_eq!(header, FrameHeader::Blocks { data_len: 4096 });
        assert!(matches!(reader.blocks(&mut [0; 4096]).await, Err(LinkError::Cut)));
    }

    #[tokio::test]
    async fn of_a_file_that_is_not_good_any_more_the_last_block_is_not_sent() {
        let file = file_of(&[1; 10_000]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let mut server = server.unwrap().0;
        let blocks = Blocks { first_block: 0, file: &file, offset: 0, len: 10_000 };
        assert!(matches!(
            server.send_part(blocks, 0..blocks.len, || false).await,
            Err(LinkError::FileChanged)
        ));
        drop(server);
        let mut received = Vec::new();
        client.unwrap().read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), BLOCKS_HEADER_BYTES + 10_000 - 4096);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_trickles_is_given_up_after_ten_seconds() {
        let (mut here, there) = tokio::io::duplex(64);
        let start = tokio::time::Instant::now();
        let trickle = async {
            here.write_all(&FrameHeader::Control { len: 1000 }.to_bytes()).await.unwrap();
            while here.write_all(&[0]).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let read = async {
            let mut reader = FrameReader::new(there, BytesMut::new(), Duration::from_secs(120));
            let FrameHeader::Control { len } = reader.header(FrameLimits::REQUEST).await.unwrap() else {
                panic!("it is a message")
            };
            let end = reader.request::<u32>(len).await.unwrap_err();
            assert!(matches!(end, LinkError::Idle(REQUEST_TIMEOUT)), "{end}");
        };
        tokio::join!(trickle, read);
        assert!(start.elapsed() <= REQUEST_TIMEOUT + Duration::from_secs(1), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_frame_that_stops_in_its_middle_is_a_stall() {
        let (mut here, there) = tokio::io::duplex(64);
        here.write_all(&blocks_header(0, 100)).await.unwrap();
        let mut reader = FrameReader::new(there, BytesMut::new(), Duration::from_millis(20));
        reader.header(FrameLimits::with_blocks(100)).await.unwrap();
        assert!(matches!(reader.blocks(&mut [0; 100]).await, Err(LinkError::NoAnswer(_))));
    }
}
