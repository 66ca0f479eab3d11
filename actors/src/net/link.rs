//! A connection that carries control messages only, owned by one task.
//!
//! Used between peers and trackers, and for the greeting on every connection. Nothing is queued
//! here: what is read is handed on before more is read, what is written is written before the next.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::base::limits::{
    HELLO_TIMEOUT, LINGER_TIMEOUT, MAX_FRAMES_PER_BATCH, MAX_LINGER_BYTES, SHORT_FRAME_BYTES,
    WRITE_STALL_TIMEOUT,
};
use crate::wire::codec;
use crate::wire::frame::{FrameError, FrameLimits};

/// Bytes asked of the socket at once: many typical messages.
const READ_BYTES: usize = SHORT_FRAME_BYTES;
/// The same while HELLO is to come, where what follows it is to stay in the socket for the time being.
const READ_HELLO_BYTES: usize = 256;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other side closed it, between two messages.
    #[error("the connection was closed")]
    Closed,
    /// The other side closed it in the middle of a message.
    #[error("the connection was cut in the middle of a message")]
    Cut,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The other side sent what is no message.
    #[error("the other side sent {0}")]
    Frame(#[from] FrameError),
    /// The other side took nothing for so long.
    #[error("the other side read nothing for {} s", .0.as_secs())]
    WriteStall(Duration),
    /// Nothing came for so long.
    #[error("nothing came for {} s", .0.as_secs())]
    Idle(Duration),
    /// A long message took longer than it may while others wait to send theirs.
    #[error("a long message was not whole after {} s, while others waited with theirs; try again", .0.as_secs())]
    TooSlow(Duration),
    /// No greeting in time.
    #[error("no greeting within {} s", .0.as_secs())]
    NoHello(Duration),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// What was being sent is not what it was; the rest of it is not sent.
    #[error("the file changed while it was sent")]
    FileChanged,
    /// We have no descriptors left to serve the other side, and told it to come back.
    #[error("no file can be opened: {0}")]
    NoDescriptors(io::Error),
    /// We closed it, for it held a place that others wanted, and asked for nothing.
    #[error("it asked for nothing while others waited for a place")]
    MadeRoom,
    /// The other side asks for more than it may, and was told so.
    #[error("the other side asked for too much: {0}")]
    TooMuch(&'static str),
    /// The other side refused, and said why.
    #[error("{0}")]
    Refused(String),
    /// The other side sent a message that may not come now.
    #[error("the other side sent a message that may not come now: {0}")]
    Unexpected(&'static str),
}

/// A connection of control messages: reads `In`, writes `Out`.
pub struct ControlLink<S> {
    stream: S,
    incoming: BytesMut,
    limits: FrameLimits,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ControlLink<S> {
    /// A link on which HELLO is still to come, with the limits for that.
    pub fn new(stream: S) -> ControlLink<S> {
        ControlLink { stream, incoming: BytesMut::new(), limits: FrameLimits::HELLO }
    }

    /// The limits after HELLO.
    pub fn hello_is_done(&mut self) {
        self.limits = FrameLimits::CONTROL;
    }

    /// The stream below.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream, and what was read of it but not taken.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.incoming)
    }

    /// The next message. Cancel safe: no byte is lost if the future is dropped.
    ///
    /// # Errors
    /// The end of the connection, and bytes that are no message.
    pub async fn read<M: DeserializeOwned>(&mut self) -> Result<M, LinkError> {
        loop {
            if let Some(message) = codec::take(&mut self.incoming, self.limits)? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// Appends to `batch` all messages that have come, at least one, at most
    /// [`MAX_FRAMES_PER_BATCH`]. Cancel safe.
    ///
    /// # Errors
    /// As [`ControlLink::read`]; messages in front of a broken one are appended, and the error comes
    /// with the next call.
    pub async fn read_batch<M: DeserializeOwned>(&mut self, batch: &mut Vec<M>) -> Result<(), LinkError> {
        while !self.take_all(batch, MAX_FRAMES_PER_BATCH)? {
            self.fill().await?;
        }
        Ok(())
    }

    /// Takes the messages that are in the buffer, and says whether there was any.
    fn take_all<M: DeserializeOwned>(&mut self, batch: &mut Vec<M>, max: usize) -> Result<bool, LinkError> {
        let before = batch.len();
        while batch.len() < max {
            match codec::take(&mut self.incoming, self.limits) {
                Ok(Some(message)) => batch.push(message),
                // A broken message stays in the buffer: the next call meets it first.
                Err(error) if batch.len() == before => return Err(error.into()),
                Ok(None) | Err(_) => break,
            }
        }
        Ok(batch.len() > before)
    }

    async fn fill(&mut self) -> Result<(), LinkError> {
        // One long message must not cost its bytes for the rest of the connection.
        if self.incoming.is_empty() {
            self.incoming = BytesMut::new();
        }
        self.incoming.reserve(READ_BYTES);
        let read = self.stream.read_buf(&mut self.incoming).await?;
        self.is_open(read)
    }

    /// Whether a read of so many bytes leaves the connection open.
    fn is_open(&self, read: usize) -> Result<(), LinkError> {
        match read {
            0 if self.incoming.is_empty() => Err(LinkError::Closed),
            0 => Err(LinkError::Cut),
            _ => Ok(()),
        }
    }

    /// Writes messages in one go.
    ///
    /// # Errors
    /// A message over the limit, a socket that failed, a reader that takes nothing for
    /// [`WRITE_STALL_TIMEOUT`].
    pub async fn write<M: Serialize>(&mut self, messages: &[M]) -> Result<(), LinkError> {
        let mut frames = Vec::new();
        for message in messages {
            codec::encode(message, &mut frames)?;
        }
        self.write_frames(&frames).await
    }

    /// Writes messages that are encoded already.
    ///
    /// # Errors
    /// A socket that failed, a reader that takes nothing for [`WRITE_STALL_TIMEOUT`].
    pub async fn write_frames(&mut self, frames: &[u8]) -> Result<(), LinkError> {
        write_all(&mut self.stream, frames).await
    }

    /// See [`linger`].
    pub async fn finish(mut self) {
        linger(&mut self.stream).await;
    }
}

/// A stream on which one can wait for what comes without a buffer for it.
pub trait Readable {
    /// Ready when a read would not have to wait, or once in a while for nothing.
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Readable for TcpStream {
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(context)
    }
}

/// For a link that is one of very many: it has a buffer only from the moment at which something has
/// come to the one at which it is taken.
impl<S: AsyncRead + AsyncWrite + Readable + Unpin> ControlLink<S> {
    /// Whether something was read that is not taken: messages, or the beginning of one.
    pub fn has_unread(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Waits until [`ControlLink::read_now`] may have something to read. Cancel safe.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn readable(&mut self) -> Result<(), LinkError> {
        Ok(poll_fn(|context| self.stream.poll_readable(context)).await?)
    }

    /// Whether so much of an unfinished frame was read that no more is without a place among the long ones.
    pub fn is_long(&self) -> bool {
        self.incoming.len() >= SHORT_FRAME_BYTES
    }

    /// Appends to `batch` the messages that have come, at most `max`, without waiting for any. There may
    /// be none. Of an unfinished message no more than [`SHORT_FRAME_BYTES`] are read, unless it `may_be_long`.
    ///
    /// # Errors
    /// As [`ControlLink::read`]; messages in front of a broken one are appended, and the error comes
    /// with the next call.
    pub async fn read_now<M: DeserializeOwned>(
        &mut self,
        batch: &mut Vec<M>,
        max: usize,
        may_be_long: bool,
    ) -> Result<(), LinkError> {
        let mut has_taken = self.take_all(batch, max)?;
        if !has_taken {
            let most = if self.limits == FrameLimits::HELLO { READ_HELLO_BYTES } else { READ_BYTES };
            let room = if may_be_long {
                most
            } else {
                most.min(SHORT_FRAME_BYTES.saturating_sub(self.incoming.len()))
            };
            // A read into no room would look like the end.
            if room == 0 {
                return Ok(());
            }
            self.incoming.reserve(room);
            let mut into = (&mut self.incoming).limit(room);
            let read = {
                let mut read = pin!(self.stream.read_buf(&mut into));
                poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await
            };
            if let Poll::Ready(read) = read {
                self.is_open(read?)?;
                has_taken = self.take_all(batch, max)?;
            }
        }
        // What is left of a buffer that was long is short: it is not to cost as much as the whole, and
        // one into which nothing came costs nothing.
        if has_taken || self.incoming.is_empty() {
            self.incoming = BytesMut::from(&self.incoming[..]);
        }
        Ok(())
    }
}

/// Writes all bytes; each part of them has to be taken within [`WRITE_STALL_TIMEOUT`].
///
/// # Errors
/// A socket that failed or was closed, a reader that stalls.
pub async fn write_all<S: AsyncWrite + Unpin>(stream: &mut S, mut bytes: &[u8]) -> Result<(), LinkError> {
    while !bytes.is_empty() {
        let written = timeout(WRITE_STALL_TIMEOUT, stream.write(bytes))
            .await
            .map_err(|_| LinkError::WriteStall(WRITE_STALL_TIMEOUT))??;
        if written == 0 {
            return Err(LinkError::Closed);
        }
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Closes our direction, so that what was written arrives before the end does.
///
/// What still comes is read and dropped until the other side closes too, for [`LINGER_TIMEOUT`] and
/// [`MAX_LINGER_BYTES`] at most: a socket closed with unread bytes in it resets the connection, and the
/// reset overtakes the last words.
pub async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let lingering = async {
        stream.shutdown().await?;
        let mut dropped = [0; 4096];
        let mut left = MAX_LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut dropped).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<(), io::Error>(())
    };
    // Nothing is left to be done if it fails or takes too long.
    let _ = timeout(LINGER_TIMEOUT, lingering).await;
}

/// Runs the greeting against its one budget of time, from the connection's first moment.
///
/// # Errors
/// What `greeting` says, or that it took longer than [`HELLO_TIMEOUT`].
pub async fn within_hello_budget<T>(
    greeting: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout(HELLO_TIMEOUT, greeting).await.unwrap_or(Err(LinkError::NoHello(HELLO_TIMEOUT)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;
    use tokio::time::Instant;

    #[tokio::test]
    async fn a_batch_has_so_many_messages_and_the_next_one_the_rest() {
        use crate::wire::tracker::ToTracker;
        let (ours, mut theirs) = duplex(1 << 20);
        let mut frames = Vec::new();
        for limit in 0..MAX_FRAMES_PER_BATCH as u32 + 10 {
            codec::encode(&ToTracker::Peers { after: None, limit }, &mut frames).unwrap();
        }
        theirs.write_all(&frames).await.unwrap();
        let mut link = ControlLink::new(ours);
        let (mut told, mut largest) = (Vec::new(), 0);
        while told.len() < MAX_FRAMES_PER_BATCH + 10 {
            let mut batch: Vec<ToTracker> = Vec::new();
            link.read_batch(&mut batch).await.unwrap();
            largest = largest.max(batch.len());
            told.extend(batch);
        }
        assert_eq!(largest, MAX_FRAMES_PER_BATCH);
        let numbers: Vec<u32> = told
            .iter()
            .filter_map(|said| if let ToTracker::Peers { limit, .. } = said { Some(*limit) } else { None })
            .collect();
        assert_eq!(numbers, (0..MAX_FRAMES_PER_BATCH as u32 + 10).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn last_words_are_waited_for_a_second_and_through_some_megabytes() {
        let start = Instant::now();
        let (mut ours, _silent) = duplex(1024);
        linger(&mut ours).await;
        assert_eq!(start.elapsed(), LINGER_TIMEOUT);

        let start = Instant::now();
        let (mut ours, mut flood) = duplex(64 << 10);
        let sent = async {
            let mut sent = 0;
            while let Ok(written) = flood.write(&[0; 4096]).await {
                sent += written;
            }
            sent
        };
        let lingering = async {
            linger(&mut ours).await;
            drop(ours);
        };
        let (sent, ()) = tokio::join!(sent, lingering);
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!((MAX_LINGER_BYTES..=MAX_LINGER_BYTES + (128 << 10)).contains(&sent), "{sent}");
    }
}
