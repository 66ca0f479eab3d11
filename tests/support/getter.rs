//! A getter that says to a holder what a test wants, frame by frame, with nothing of `net`.

use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use enxame_actors::wire::frame::{BLOCKS_PREFIX_BYTES, FrameLimits};
use enxame_actors::wire::peer::{FromHolder, ToHolder};
use enxame_actors::wire::{FrameHeader, HEADER_BYTES, Hello};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::files::{Content, SPAN};
use super::harness::Test;

/// One connection to a holder.
pub struct RawGetter {
    test: Test,
    stream: TcpStream,
    buffer: BytesMut,
}

/// What a holder said.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// A control message.
    Message(FromHolder),
    /// Blocks from this index on.
    Blocks(u64, Bytes),
    /// It closed or reset the connection.
    End,
}

impl RawGetter {
    /// Connects, and says nothing.
    pub async fn connect(test: &Test, holder: SocketAddr) -> RawGetter {
        let stream = TcpStream::connect(holder).await.expect("a holder that listens");
        RawGetter { test: test.clone(), stream, buffer: BytesMut::new() }
    }

    /// Connects from this address of loopback, and says nothing.
    pub async fn connect_from(test: &Test, from: [u8; 4], holder: SocketAddr) -> RawGetter {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("all of 127.0.0.0/8 is ours");
        let stream = socket.connect(holder).await.expect("a holder that listens");
        RawGetter { test: test.clone(), stream, buffer: BytesMut::new() }
    }

    /// Connects and greets.
    pub async fn greeted(test: &Test, holder: SocketAddr) -> RawGetter {
        RawGetter::connect(test, holder).await.greets().await
    }

    /// Greets.
    pub async fn greets(self) -> RawGetter {
        let mut getter = self;
        getter.say(&[ToHolder::Hello(Hello::new("raw".parse().expect("a peer id")))]).await;
        let hello = getter.hear().await;
        assert!(matches!(hello, Heard::Message(FromHolder::Hello(_))), "{hello:?}");
        getter
    }

    /// Says all of this in one go.
    pub async fn say(&mut self, messages: &[ToHolder]) {
        let mut frames = Vec::new();
        for message in messages {
            enxame_actors::wire::encode(message, &mut frames).expect("a test's messages are small");
        }
        self.stream.write_all(&frames).await.expect("a holder that reads");
    }

    /// Says these bytes.
    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("a holder that reads");
    }

    /// The next thing that comes.
    pub async fn hear(&mut self) -> Heard {
        let test = self.test.clone();
        test.wait_for("an answer of the holder", self.next()).await
    }

    /// How many bytes have come, of whatever they are a part; they are gone then.
    pub async fn pass_over(&mut self) -> usize {
        self.buffer.clear();
        let read =
            self.test.clone().wait_for("bytes of the holder", self.stream.read_buf(&mut self.buffer)).await;
        match read.expect("a holder that sends") {
            0 => panic!("the holder closed the connection"),
            len => len,
        }
    }

    async fn next(&mut self) -> Heard {
        loop {
            if let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() {
                let limits = FrameLimits::with_blocks(SPAN);
                let (prefix, len) = match FrameHeader::parse(*header, limits).expect("a frame") {
                    FrameHeader::Control { len } => (0, len),
                    FrameHeader::Blocks { data_len } => (BLOCKS_PREFIX_BYTES, data_len),
                };
                if self.buffer.len() >= HEADER_BYTES + prefix + len {
                    self.buffer.advance(HEADER_BYTES);
                    let first = (prefix > 0).then(|| self.buffer.get_u64());
                    let body = self.buffer.split_to(len).freeze();
                    return match first {
                        Some(first) => Heard::Blocks(first, body),
                        None => Heard::Message(enxame_actors::wire::decode(&body).expect("a message")),
                    };
                }
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Heard::End,
                Ok(_) => {}
            }
        }
    }
}

/// OPEN.
pub fn open(content: &Content, manifest: bool) -> ToHolder {
    ToHolder::Open { id: content.id, manifest }
}

/// GET of these spans.
pub fn get(content: &Content, spans: std::ops::Range<u32>) -> ToHolder {
    ToHolder::Get { id: content.id, run: content.geometry.run(&spans), fresh: false }
}

/// The BLOCKS that a span is.
pub fn blocks(content: &Content, span: u32) -> Heard {
    let index = content.geometry.span(span.into()).expect("a span of the file");
    Heard::Blocks(content.geometry.first_block(index), content.span(span).expect("a span of the file"))
}

/// MISSING.
pub fn missing(content: &Content) -> Heard {
    Heard::Message(FromHolder::Missing { id: content.id })
}
