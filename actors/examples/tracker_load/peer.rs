//! One peer's connection to the tracker, as cheap as it can be: the cores are the tracker's too.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;

use enxame_actors::wire::frame::{FrameHeader, FrameLimits};
use enxame_actors::wire::tracker::{FromTracker, ToTracker};
use enxame_actors::wire::{HEADER_BYTES, Hello, ListDigest, decode, encode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::Failure;
use crate::config::Config;
use crate::questions;

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

thread_local! {
    /// Ten thousand peers that wait share one buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// A peer that has greeted.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: TcpStream,
    number: usize,
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
    /// Digest of the list that it has told.
    digest: ListDigest,
    /// Whether the last CONFIRM had another one.
    differs: bool,
}

/// What a peer sends of itself.
#[derive(Debug)]
pub(crate) struct Greeting {
    number: usize,
    bytes: Vec<u8>,
    digest: ListDigest,
}

/// HELLO and REGISTER of a peer, with its list or with none.
pub(crate) fn greeting(config: &Config, number: usize, with_list: bool) -> Result<Greeting, Failure> {
    let files = if with_list { questions::list(config, number)? } else { Vec::new() };
    let digest = files.iter().collect();
    let port = 1024 + (number % 60_000) as u16;
    let mut bytes = Vec::new();
    encode(&ToTracker::Hello(Hello::new(format!("node-{number:05}").parse()?)), &mut bytes)?;
    encode(&ToTracker::Register { instance: number as u64, port, files }, &mut bytes)?;
    Ok(Greeting { number, bytes, digest })
}

impl Peer {
    /// Connects, greets and registers.
    pub(crate) async fn join(tracker: SocketAddr, greeting: Greeting) -> Result<Peer, Failure> {
        let Greeting { number, bytes, digest } = greeting;
        let mut stream = TcpStream::connect(tracker).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&bytes).await?;
        let mut peer = Peer { stream, number, rest: Vec::new(), digest, differs: false };
        let mut registered = false;
        while !registered {
            peer.read(|frame| {
                match decode(frame)? {
                    FromTracker::Hello(_) => {}
                    FromTracker::Registered { .. } => registered = true,
                    other => return Err(format!("{other:?} where REGISTERED was to come").into()),
                }
                Ok(())
            })
            .await?;
        }
        Ok(peer)
    }

    /// Tells the list, as NEW_FILE, of a peer that registered without.
    pub(crate) async fn tell_list(&mut self, config: &Config) -> Result<(), Failure> {
        let files = questions::list(config, self.number)?;
        self.digest = files.iter().collect();
        let mut bytes = Vec::new();
        encode(&ToTracker::NewFile { files }, &mut bytes)?;
        self.stream.write_all(&bytes).await?;
        let mut noted = false;
        while !noted {
            self.read(|frame| match decode(frame)? {
                FromTracker::Noted => {
                    noted = true;
                    Ok(())
                }
                other => Err(format!("{other:?} where NOTED was to come").into()),
            })
            .await?;
        }
        Ok(())
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Reads what has come, at least something, and calls `take` with the body of each frame in it.
    /// CONFIRM is answered here. Who drops the future may have been called.
    pub(crate) async fn read(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut confirm = None;
        loop {
            self.stream.readable().await?;
            let read = SCRATCH.with_borrow_mut(|scratch| match self.stream.try_read(scratch) {
                Ok(0) => Err("the tracker closed the connection".into()),
                Ok(len) => frames(&mut self.rest, &scratch[..len], |frame| {
                    if is(frame, b"Confirm") {
                        confirm = Some(decode::<FromTracker>(frame)?);
                        return Ok(());
                    }
                    take(frame)
                })
                .map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error.into()),
            })?;
            if read {
                break;
            }
        }
        if let Some(FromTracker::Confirm { digest }) = confirm {
            // One that was under way while the list was told may have the digest from before.
            let differed = std::mem::replace(&mut self.differs, digest != self.digest);
            if differed && self.differs {
                return Err("the tracker has another list than it was told".into());
            }
            let mut bytes = Vec::new();
            encode(&ToTracker::Confirmed { digest: self.digest }, &mut bytes)?;
            self.stream.write_all(&bytes).await?;
        }
        Ok(())
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

/// Calls `take` with the body of every whole frame of `rest` and then `bytes`; keeps what is left.
fn frames(
    rest: &mut Vec<u8>,
    bytes: &[u8],
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let joined;
    let mut bytes = if rest.is_empty() {
        bytes
    } else {
        rest.extend_from_slice(bytes);
        joined = std::mem::take(rest);
        &joined
    };
    while let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let FrameHeader::Control { len } = FrameHeader::parse(*header, FrameLimits::CONTROL)? else {
            return Err("a frame of another kind".into());
        };
        let Some(body) = bytes.get(HEADER_BYTES..HEADER_BYTES + len) else { break };
        take(body)?;
        bytes = &bytes[HEADER_BYTES + len..];
    }
    rest.extend_from_slice(bytes);
    Ok(())
}

/// Whether a frame's body is the message of this name: a map of one entry, whose key is a short text.
pub(crate) fn is(body: &[u8], name: &[u8]) -> bool {
    body.first() == Some(&0x81)
        && body.get(1) == Some(&(0xa0 | name.len() as u8))
        && body.get(2..2 + name.len()) == Some(name)
}
