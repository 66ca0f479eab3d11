//! A holder on a real socket that does what a test tells it, right or wrong.
//!
//! It reads and writes frames by itself, with nothing of `net`, so that a mistake there cannot hide
//! behind the same mistake here. It proves nothing and trusts nobody: it records what it was asked.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use enxame_actors::base::{FileId, PeerId, SpanIndex, SpanSet};
use enxame_actors::wire::codec;
use enxame_actors::wire::frame::{FrameLimits, blocks_header};
use enxame_actors::wire::peer::{FromHolder, ToHolder};
use enxame_actors::wire::tracker::Holder;
use enxame_actors::wire::{Hello, Refusal, VERSION};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::files::Content;
use super::harness::{PortWatch, Test};
use super::proxy::listen;

/// What a holder does wrong. Counts are per connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Nothing.
    Honest,
    /// Greets so many milliseconds late, and does nothing wrong.
    Late(u64),
    /// Sends so many spans, then nothing more; the connection stays open.
    StallAfter(u64),
    /// Sends so many spans on its first connection, then none on any.
    Freeze(u64),
    /// Closes when it has sent so many bytes, HELLO included.
    CloseAt(u64),
    /// Closes its first connection before its first byte, the next one behind it, and so on.
    CloseLaterEachTime,
    /// Sends the span with this number with one bit flipped, each time.
    FlipBit(u32),
    /// Sends the bytes of another file.
    OtherFile,
    /// Has only the spans with these numbers of each file, says in this way that it has all, and
    /// answers a GET of another one with MISSING.
    FalseHave(Says, BTreeSet<u32>),
    /// Answers every OPEN and GET with BUSY, to be asked again after so many milliseconds.
    Busy(u32),
    /// Sends what was asked for under the index of another span.
    WrongIndex,
    /// Sends the first span once more in front of each answer to OPEN and GET.
    Unasked,
    /// States in OPENED a size that is one byte too much.
    WrongSize,
    /// Sends a manifest with one bit flipped.
    WrongManifest,
    /// Has only the spans with these numbers of each file, until [`FakeHolder::gain`].
    Partial(BTreeSet<u32>),
    /// Sends everything at so many bytes per second.
    Trickle(u64),
    /// Speaks the next version of the protocol and refuses ours.
    OtherVersion,
}

/// How a holder says what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// As a complete one, to the tracker and in OPENED.
    Complete,
    /// Span by span in OPENED.
    InOpened,
    /// By a HAVE behind an OPENED of nothing.
    ByHave,
}

/// What a getter did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It connected.
    Connected,
    /// It said this.
    Said(ToHolder),
    /// It closed the connection, or sent what cannot be read.
    Closed,
}

/// A running holder; dropping it closes its connections.
pub struct FakeHolder {
    peer: PeerId,
    address: SocketAddr,
    partial: bool,
    asked: watch::Receiver<Vec<(u64, Asked)>>,
    have: watch::Sender<BTreeSet<u32>>,
    watch: PortWatch,
    _accepting: JoinSet<()>,
}

impl FakeHolder {
    /// Listens on a free port of 127.0.0.1 and holds `contents`.
    pub fn start(test: &Test, peer: &str, contents: &[Content], behaviour: Behaviour) -> FakeHolder {
        FakeHolder::start_knowing(test, peer, contents, behaviour, &[])
    }

    /// [`FakeHolder::start`] for one that answers every PEERS with `others`.
    pub fn start_knowing(
        test: &Test,
        peer: &str,
        contents: &[Content],
        behaviour: Behaviour,
        others: &[Holder],
    ) -> FakeHolder {
        let peer: PeerId = peer.parse().expect("a peer id");
        let (listener, address) = listen();
        let (record, asked) = watch::channel(Vec::new());
        let spans = match &behaviour {
            Behaviour::Partial(spans) | Behaviour::FalseHave(_, spans) => spans.clone(),
            _ => (0..contents.iter().map(|content| content.geometry.spans() as u32).max().unwrap_or(0))
                .collect(),
        };
        let partial = match behaviour {
            Behaviour::FalseHave(says, _) => says != Says::Complete,
            Behaviour::Partial(_) => true,
            _ => false,
        };
        let (have, has) = watch::channel(spans);
        let mut served = Served {
            peer: peer.clone(),
            contents: contents.to_vec(),
            behaviour,
            others: others.to_vec(),
            record: record.into(),
            has,
            connection: 0,
        };
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.expect("a test has descriptors to spare");
                        served.connection += 1;
                        connections.spawn(served.clone().connection(stream));
                    }
                    Some(ended) = connections.join_next() => ended.expect("no connection panics"),
                }
            }
        });
        let watch = test.watch(address);
        FakeHolder { peer, address, partial, asked, have, watch, _accepting: accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How a tracker would tell of it.
    pub fn listed(&self) -> Holder {
        self.listed_at(self.address)
    }

    /// How a tracker would tell of it if it was behind a proxy at this address.
    pub fn listed_at(&self, address: SocketAddr) -> Holder {
        Holder { peer: self.peer.clone(), address, complete: !self.partial }
    }

    /// What it was asked so far, each with the number of the connection, from 1.
    pub fn asked(&self) -> Vec<(u64, Asked)> {
        self.asked.borrow().clone()
    }

    /// Waits until what it was asked is enough.
    pub async fn until(&self, mut enough: impl FnMut(&[(u64, Asked)]) -> bool) -> Vec<(u64, Asked)> {
        let mut asked = self.asked.clone();
        let what = format!("{} to be asked enough", self.peer);
        let asked = self.watch.test().wait_for(what, asked.wait_for(|asked| enough(asked)));
        asked.await.expect("it runs as long as this lives").clone()
    }

    /// A partial holder has these spans of each file too now, and says so to all who opened it.
    pub fn gain(&self, spans: impl IntoIterator<Item = u32>) {
        self.have.send_modify(|have| have.extend(spans));
    }
}

/// What each connection knows.
#[derive(Clone)]
struct Served {
    peer: PeerId,
    contents: Vec<Content>,
    behaviour: Behaviour,
    others: Vec<Holder>,
    record: Arc<watch::Sender<Vec<(u64, Asked)>>>,
    has: watch::Receiver<BTreeSet<u32>>,
    connection: u64,
}

/// The connection is over: by the behaviour, or because the getter closed it.
struct Over;

impl Served {
    fn note(&self, asked: Asked) {
        self.record.send_modify(|all| all.push((self.connection, asked)));
    }

    async fn connection(mut self, stream: TcpStream) {
        self.note(Asked::Connected);
        let _ = stream.set_nodelay(true);
        let (from, to) = stream.into_split();
        let mut incoming = Incoming { stream: from, buffer: BytesMut::new(), limits: FrameLimits::HELLO };
        let mut out = Out { stream: to, left: None, bytes_s: None, frozen: false, spans: 0 };
        match self.behaviour {
            Behaviour::CloseAt(bytes) => out.left = Some(bytes),
            Behaviour::CloseLaterEachTime => out.left = Some(self.connection - 1),
            Behaviour::Trickle(bytes_s) => out.bytes_s = Some(bytes_s),
            Behaviour::Late(ms) => sleep(Duration::from_millis(ms)).await,
            _ => {}
        }
        let Err(Over) = self.talk(&mut incoming, &mut out).await;
        // What was sent arrives before the end does, and unread bytes make no reset of it.
        let _ = out.stream.shutdown().await;
        while incoming.next().await.is_some() {}
        self.note(Asked::Closed);
    }

    async fn talk(
        &mut self,
        incoming: &mut Incoming,
        out: &mut Out,
    ) -> Result<std::convert::Infallible, Over> {
        let other = self.behaviour == Behaviour::OtherVersion;
        let version = if other { VERSION + 1 } else { VERSION };
        let hello = Hello { version, peer: self.peer.clone(), agent: "fake holder".into() };
        match incoming.next().await.ok_or(Over)? {
            said @ ToHolder::Hello(_) => self.note(Asked::Said(said)),
            said => {
                self.note(Asked::Said(said));
                return Err(Over);
            }
        }
        out.say(&FromHolder::Hello(hello)).await?;
        if other {
            let why = format!("this is protocol version {version}, you speak version {VERSION}");
            out.say(&FromHolder::Refused { refusal: Refusal::Version, why }).await?;
            return Err(Over);
        }
        incoming.limits = FrameLimits::CONTROL;
        let mut opened: Vec<Content> = Vec::new();
        let mut told = self.has.borrow_and_update().clone();
        loop {
            let said = tokio::select! {
                said = incoming.next() => said.ok_or(Over)?,
                Ok(()) = self.has.changed() => {
                    let now = self.has.borrow_and_update().clone();
                    for content in &opened {
                        let in_file = |span: &u32| content.geometry.span((*span).into()).is_some();
                        let spans = now.difference(&told).copied().filter(in_file).collect();
                        out.say(&FromHolder::Have { id: content.id, spans }).await?;
                    }
                    told = now;
                    continue;
                }
            };
            self.note(Asked::Said(said.clone()));
            let id = match said {
                ToHolder::Open { id, .. } | ToHolder::Get { id, .. } => id,
                ToHolder::Peers { id } => {
                    let holders = self.others.clone();
                    out.say(&FromHolder::Holders { id, holders }).await?;
                    continue;
                }
                ToHolder::Hello(_) => return Err(Over),
            };
            if let Behaviour::Busy(retry_after_ms) = self.behaviour {
                out.say(&FromHolder::Busy { retry_after_ms }).await?;
                continue;
            }
            let Some(content) = self.contents.iter().find(|content| content.id == id).cloned() else {
                out.say(&FromHolder::Missing { id }).await?;
                continue;
            };
            if self.behaviour == Behaviour::Unasked {
                out.blocks(0, &content.span(0).expect("every file has a span")).await?;
            }
            match said {
                ToHolder::Open { manifest, .. } => {
                    self.open(out, &content, manifest, &told).await?;
                    opened.push(content);
                }
                ToHolder::Get { run, .. } => {
                    let spans = content.geometry.spans_of_run(run).ok_or(Over)?;
                    self.answer(out, &content, spans).await?;
                }
                ToHolder::Hello(_) | ToHolder::Peers { .. } => return Err(Over),
            }
        }
    }

    /// OPENED and the manifest.
    async fn open(
        &self,
        out: &mut Out,
        content: &Content,
        manifest: bool,
        has: &BTreeSet<u32>,
    ) -> Result<(), Over> {
        let geometry = &content.geometry;
        let set_of = |spans: &mut dyn Iterator<Item = SpanIndex>| {
            let mut set = SpanSet::empty(geometry);
            spans.for_each(|span| {
                set.insert(span);
            });
            Some(Bytes::from(set.to_bytes()))
        };
        let partial = match self.behaviour {
            Behaviour::Partial(_) => set_of(&mut has.iter().filter_map(|span| geometry.span((*span).into()))),
            Behaviour::FalseHave(Says::InOpened, _) => set_of(&mut geometry.all_spans()),
            Behaviour::FalseHave(Says::ByHave, _) => set_of(&mut std::iter::empty()),
            _ => None,
        };
        let manifest = manifest && !content.geometry.is_single();
        let size = content.size() + u64::from(self.behaviour == Behaviour::WrongSize);
        out.say(&FromHolder::Opened { id: content.id, size, spans: partial, manifest }).await?;
        if manifest {
            let mut values = content.values.concat();
            if self.behaviour == Behaviour::WrongManifest {
                values[7] ^= 1;
            }
            for part in values.chunks(enxame_actors::base::limits::MANIFEST_FRAME_SPANS * 32) {
                let values = Bytes::copy_from_slice(part);
                out.say(&FromHolder::Manifest { id: content.id, values }).await?;
            }
        }
        if let Behaviour::FalseHave(Says::ByHave, _) = self.behaviour {
            let spans = geometry.all_spans().map(SpanIndex::number).collect();
            out.say(&FromHolder::Have { id: content.id, spans }).await?;
        }
        Ok(())
    }

    /// BLOCKS for each span, or MISSING at the first that it does not have.
    async fn answer(
        &self,
        out: &mut Out,
        content: &Content,
        spans: std::ops::Range<u32>,
    ) -> Result<(), Over> {
        for number in spans {
            if !self.has.borrow().contains(&number) {
                return out.say(&FromHolder::Missing { id: content.id }).await;
            }
            let span = content.geometry.span(number.into()).expect("a span of the file");
            let mut data = content.span(number).expect("a span of the file");
            let mut first_block = content.geometry.first_block(span);
            match self.behaviour {
                Behaviour::StallAfter(spans) if out.spans >= spans => out.frozen = true,
                Behaviour::Freeze(spans) if self.connection > 1 || out.spans >= spans => out.frozen = true,
                Behaviour::FlipBit(wrong) if wrong == number && !data.is_empty() => {
                    let mut bytes = data.to_vec();
                    let at = bytes.len() / 2;
                    bytes[at] ^= 1;
                    data = bytes.into();
                }
                Behaviour::OtherFile => data = data.iter().map(|byte| !byte).collect(),
                Behaviour::WrongIndex => first_block += content.geometry.span_len_bytes() / 4096,
                _ => {}
            }
            out.blocks(first_block, &data).await?;
            out.spans += 1;
        }
        Ok(())
    }
}

/// The reading side.
struct Incoming {
    stream: OwnedReadHalf,
    buffer: BytesMut,
    limits: FrameLimits,
}

impl Incoming {
    /// The next message; `None` when the getter is gone or sent what is no message. Cancel safe.
    async fn next(&mut self) -> Option<ToHolder> {
        loop {
            if let Some(message) = codec::take(&mut self.buffer, self.limits).ok()? {
                return Some(message);
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// The writing side, with what may stop it.
struct Out {
    stream: OwnedWriteHalf,
    /// Bytes until it closes.
    left: Option<u64>,
    bytes_s: Option<u64>,
    /// Whether all that is said is dropped.
    frozen: bool,
    spans: u64,
}

impl Out {
    async fn say(&mut self, message: &FromHolder) -> Result<(), Over> {
        let mut frame = Vec::new();
        codec::encode(message, &mut frame).expect("a test's messages are small");
        self.raw(&frame).await
    }

    async fn blocks(&mut self, first_block: u64, data: &[u8]) -> Result<(), Over> {
        self.raw(&blocks_header(first_block, data.len())).await?;
        self.raw(data).await
    }

    async fn raw(&mut self, bytes: &[u8]) -> Result<(), Over> {
        if self.frozen {
            return Ok(());
        }
        let until = self.left.map_or(bytes.len(), |left| bytes.len().min(left as usize));
        match self.bytes_s {
            None => self.stream.write_all(&bytes[..until]).await.map_err(|_| Over)?,
            Some(bytes_s) => {
                for piece in bytes.chunks((bytes_s / 50).max(1) as usize) {
                    sleep(Duration::from_secs_f64(piece.len() as f64 / bytes_s as f64)).await;
                    self.stream.write_all(piece).await.map_err(|_| Over)?;
                }
            }
        }
        if let Some(left) = &mut self.left {
            *left -= until as u64;
            if *left == 0 {
                return Err(Over);
            }
        }
        Ok(())
    }
}

/// How many connections there were.
pub fn connections(asked: &[(u64, Asked)]) -> usize {
    asked.iter().filter(|(_, asked)| *asked == Asked::Connected).count()
}

/// How many spans of this file were asked for.
pub fn spans_asked(content: &Content, asked: &[(u64, Asked)]) -> usize {
    let spans = |(_, asked): &(u64, Asked)| match asked {
        Asked::Said(ToHolder::Get { run, .. }) => content.geometry.spans_of_run(*run).map(|run| run.len()),
        _ => None,
    };
    asked.iter().filter_map(spans).sum()
}

/// The ids of the files that were opened, in order.
pub fn opened(asked: &[(u64, Asked)]) -> Vec<FileId> {
    let id = |(_, asked): &(u64, Asked)| match asked {
        Asked::Said(ToHolder::Open { id, .. }) => Some(*id),
        _ => None,
    };
    asked.iter().filter_map(id).collect()
}
