//! The task that owns the socket of a source: writes requests, reads answers, hands spans over.
//!
//! Answers come in the order asked, so a queue of what is expected tells what each frame is. One
//! handed-over buffer may be on its way while the next is read: two buffers per source, no more.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::time::Instant;

use actix::Recipient;
use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::base::limits::{BATCH_BYTES, MAX_ANSWER_HOLDERS, MAX_SPANS, SOURCE_DEAD_TIMEOUT};
use crate::base::{FileId, Geometry, IoBuffer, SpanIndex, SpanSet};
use crate::content::tree::SpanHash;
use crate::net::blocks::{FrameReader, ReadAhead, send_messages};
use crate::net::link::LinkError;
use crate::net::{dial, greeting};
use crate::peer::assembler::{Handoff, SpansArrived, Verdict};
use crate::peer::dialling::MayDial;
use crate::peer::source_connection::{Order, SourceConfig, SourceFact, TaskFact};
use crate::plan::{DialEnd, Ending, FileIndex, Request};
use crate::wire::Hello;
use crate::wire::frame::{FrameHeader, FrameLimits};
use crate::wire::peer::{FromHolder, ToHolder};

/// The task of one source.
pub(super) struct SourceTask {
    config: SourceConfig,
    orders: mpsc::Receiver<Order>,
    connection: Recipient<TaskFact>,
    stop: CancellationToken,
}

/// An answer that is due.
enum Expected {
    Opened { file: FileIndex, id: FileId, size: u64 },
    Manifest { file: FileIndex, id: FileId, size: u64, spans: Option<bytes::Bytes>, values: Vec<SpanHash> },
    Holders { file: FileIndex, id: FileId },
    Blocks { file: FileIndex, id: FileId, geometry: Geometry, next: u32, end: u32, is_fresh: bool },
}

/// A hand-over that is on its way. When it is done, what became of the spans was told, and this is the buffer;
/// nothing, if the job is ending.
type HandingOver = Pin<Box<dyn Future<Output = Option<IoBuffer>>>>;

struct Talk {
    reader: FrameReader<TcpStream>,
    expected: VecDeque<Expected>,
    handoff: Handoff,
    connection: Recipient<TaskFact>,
    handing_over: Option<HandingOver>,
    /// The buffers that are not on their way: two in all.
    spare: Vec<IoBuffer>,
    /// Since when the other side owes us something and has sent nothing.
    waiting_since: Instant,
    scratch: Vec<u8>,
}

impl SourceTask {
    pub(super) fn new(
        config: SourceConfig,
        orders: mpsc::Receiver<Order>,
        connection: Recipient<TaskFact>,
        stop: CancellationToken,
    ) -> SourceTask {
        SourceTask { config, orders, connection, stop }
    }

    /// Runs until the connection ends or is to stop, and says why. When it says so, nothing that it
    /// handed over is being written any more.
    pub(super) async fn run(self) {
        let connection = self.connection.clone();
        let ending = self.talk().await.unwrap_or_else(ending_of);
        // If the actor has gone, it has told its end already.
        let _ = connection.send(TaskFact(SourceFact::Ended(ending))).await;
    }

    async fn talk(mut self) -> Result<Ending, LinkError> {
        let stop = self.stop.clone();
        let mut talk = match stop.run_until_cancelled(self.connect()).await {
            Some(connected) => match connected? {
                Ok(talk) => talk,
                Err(ending) => return Ok(ending),
            },
            None => return Ok(Ending::NotNeeded),
        };
        loop {
            let ended = match stop.run_until_cancelled(talk.step(&mut self.orders)).await {
                Some(Ok(None)) => continue,
                Some(Ok(Some(ending))) => Ok(ending),
                Some(Err(error)) => Err(error),
                None => Ok(Ending::NotNeeded),
            };
            // It counts, whatever came behind it.
            talk.flush().await;
            return ended;
        }
    }

    /// Dials and greets, if its address may be dialled; or why this is not the peer that is wanted.
    async fn connect(&self) -> Result<Result<Talk, Ending>, LinkError> {
        let (address, permits) = (self.config.address, &self.config.permits);
        let mut permit = match permits.may_dial.send(MayDial(address)).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(wait)) => return Ok(Err(Ending::PutOff(wait))),
            // Without who permits it, the process is ending.
            Err(_) => return Ok(Err(Ending::NotNeeded)),
        };
        let stream = match dial(address).await {
            Ok(stream) => stream,
            Err(error) if is_ours(&error, address) => {
                permit.end = DialEnd::NotMade;
                return Ok(Err(Ending::NotMade(error.to_string())));
            }
            Err(error) => {
                permit.end = DialEnd::Failed;
                return Ok(Err(Ending::Unreachable(error.to_string())));
            }
        };
        let greeted = greeting::greet(stream, Hello::new(self.config.us.clone())).await;
        // Whoever it is that greets, it is the address of a peer.
        permit.end = if greeted.is_ok() { DialEnd::Greeted } else { DialEnd::Failed };
        drop(permit);
        let (hello, stream, read) = greeted?;
        if hello.peer != self.config.peer {
            let why = format!("{} answers at its address", hello.peer);
            return Ok(Err(Ending::Unreachable(why)));
        }
        if hello.peer == self.config.us {
            return Ok(Err(Ending::Refused("it is ourselves".into())));
        }
        let talk = Talk {
            reader: FrameReader::new(stream, read, SOURCE_DEAD_TIMEOUT).limited(self.config.limiter.clone()),
            expected: VecDeque::new(),
            handoff: self.config.handoff.clone(),
            connection: self.connection.clone(),
            handing_over: None,
            spare: vec![IoBuffer::default(), IoBuffer::default()],
            waiting_since: Instant::now(),
            scratch: Vec::new(),
        };
        talk.tell(SourceFact::Connected).await;
        Ok(Ok(talk))
    }
}

/// Whether a dial failed for want of something of ours, before anything went out: a descriptor, a port, a
/// link that is up.
fn is_ours(error: &io::Error, address: SocketAddr) -> bool {
    match Errno::from_io_error(error) {
        Some(
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL | Errno::NETDOWN,
        ) => true,
        // A router says so too, of networks behind it.
        Some(Errno::NETUNREACH) => !has_route(address),
        _ => false,
    }
}

/// Whether packets to this address would leave this machine. None is sent.
fn has_route(address: SocketAddr) -> bool {
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(address)).is_ok()
}

fn ending_of(error: LinkError) -> Ending {
    match error {
        LinkError::Refused(why) => Ending::Refused(why),
        LinkError::Frame(_) | LinkError::Unexpected(_) => Ending::Protocol(error.to_string()),
        LinkError::NoAnswer(time) => Ending::Stalled(time),
        LinkError::Closed
        | LinkError::Cut
        | LinkError::Io(_)
        | LinkError::WriteStall(_)
        | LinkError::Idle(_)
        | LinkError::NoHello(_)
        | LinkError::TooSlow(_)
        | LinkError::NoDescriptors(_)
        | LinkError::MadeRoom
        | LinkError::TooMuch(_)
        | LinkError::FileChanged => Ending::Cut(error.to_string()),
    }
}

impl Talk {
    async fn tell(&self, fact: SourceFact) {
        // If the actor has gone, this task is about to be dropped.
        let _ = self.connection.send(TaskFact(fact)).await;
    }

    /// Waits for the next thing that happens, and does it.
    async fn step(&mut self, orders: &mut mpsc::Receiver<Order>) -> Result<Option<Ending>, LinkError> {
        let limits = self.limits();
        self.reader.expect(match self.expected.front() {
            Some(Expected::Blocks { geometry, .. }) if geometry.is_single() => ReadAhead::SmallFiles,
            Some(Expected::Blocks { .. }) => ReadAhead::Front,
            _ => ReadAhead::Messages,
        });
        let is_owed = !self.expected.is_empty();
        let deadline = self.waiting_since + SOURCE_DEAD_TIMEOUT;
        tokio::select! {
            biased;
            buffer = handed_over(&mut self.handing_over) => return Ok(self.take_back(buffer)),
            order = orders.recv() => {
                let Some(order) = order else { return Ok(Some(Ending::NotNeeded)) };
                self.follow(order, orders).await?;
            }
            header = self.reader.header(limits) => {
                let ending = self.take(header?).await?;
                self.waiting_since = Instant::now();
                return Ok(ending);
            }
            () = sleep_until(deadline.into()), if is_owed => {
                return Ok(Some(Ending::Stalled(SOURCE_DEAD_TIMEOUT)));
            }
        }
        Ok(None)
    }

    /// What may come now: of blocks, only the span that is due.
    fn limits(&self) -> FrameLimits {
        match self.expected.front() {
            Some(Expected::Blocks { geometry, .. }) => {
                FrameLimits::with_blocks(geometry.span_len_bytes() as usize)
            }
            _ => FrameLimits::CONTROL,
        }
    }

    /// Writes the requests of this order, and of those that wait behind it, in one go.
    async fn follow(&mut self, order: Order, orders: &mut mpsc::Receiver<Order>) -> Result<(), LinkError> {
        if self.expected.is_empty() {
            self.waiting_since = Instant::now();
        }
        let mut requests = Vec::new();
        let mut next = Some(order);
        while let Some(order) = next {
            match order {
                Order::Open { file, id, size, manifest } => {
                    self.expected.push_back(Expected::Opened { file, id, size });
                    requests.push(ToHolder::Open { id, manifest });
                }
                Order::Get(gets) => {
                    for (Request { file, spans, is_fresh }, id, geometry) in gets {
                        requests.push(ToHolder::Get { id, run: geometry.run(&spans), fresh: is_fresh });
                        let (next, end) = (spans.start, spans.end);
                        self.expected.push_back(Expected::Blocks { file, id, geometry, next, end, is_fresh });
                    }
                }
                Order::Peers { file, id } => {
                    self.expected.push_back(Expected::Holders { file, id });
                    requests.push(ToHolder::Peers { id });
                }
                // The actor keeps it to itself.
                Order::End(_) => {}
            }
            next = orders.try_recv().ok();
        }
        send_messages(self.reader.stream_mut(), &requests, &mut self.scratch).await
    }

    async fn take(&mut self, header: FrameHeader) -> Result<Option<Ending>, LinkError> {
        match header {
            FrameHeader::Control { len } => {
                let message = self.reader.message(len).await?;
                self.take_message(message).await
            }
            FrameHeader::Blocks { data_len } => self.take_blocks(data_len).await,
        }
    }

    async fn take_message(&mut self, message: FromHolder) -> Result<Option<Ending>, LinkError> {
        match (message, self.expected.pop_front()) {
            (
                FromHolder::Opened { id, size, spans, manifest },
                Some(Expected::Opened { file, id: asked, size: believed }),
            ) if id == asked => {
                if size != believed {
                    // Its manifest may be of another length, so that the rest never comes.
                    return Ok(Some(Ending::WrongSize { stated: size }));
                }
                if manifest {
                    let values = Vec::new();
                    self.expected.push_front(Expected::Manifest { file, id, size, spans, values });
                } else {
                    self.tell(SourceFact::Opened { file, size, spans, manifest: None }).await;
                }
            }
            (
                FromHolder::Manifest { id, values: part },
                Some(Expected::Manifest { file, id: asked, size, spans, mut values }),
            ) if id == asked => {
                let part = SpanHash::parse_all(&part);
                values.extend(part.ok_or(LinkError::Unexpected("a manifest of broken values"))?);
                let due = Geometry::new(size).map_or(0, |geometry| geometry.spans());
                if values.is_empty() || values.len() > due.min(MAX_SPANS as usize) {
                    return Ok(Some(Ending::WrongManifest));
                }
                if values.len() == due {
                    self.tell(SourceFact::Opened { file, size, spans, manifest: Some(values) }).await;
                } else {
                    self.expected.push_front(Expected::Manifest { file, id, size, spans, values });
                }
            }
            (FromHolder::Holders { id, holders }, Some(Expected::Holders { file, id: asked }))
                if id == asked =>
            {
                if holders.len() > MAX_ANSWER_HOLDERS {
                    return Err(LinkError::Unexpected("more holders than an answer may have"));
                }
                self.tell(SourceFact::Holders { file, holders }).await;
            }
            (FromHolder::Missing { id }, Some(Expected::Opened { file, id: asked, .. }))
            | (FromHolder::Missing { id }, Some(Expected::Blocks { file, id: asked, .. }))
                if id == asked =>
            {
                // Spans of this file that came before are settled first, so that what the job hears
                // of the file is in order.
                let ending = self.flush().await;
                self.tell(SourceFact::Missing { file }).await;
                return Ok(ending);
            }
            (
                FromHolder::Taken { id, given },
                Some(Expected::Blocks { file, id: asked, geometry, next, end, is_fresh: true }),
            ) if id == asked => {
                let given = SpanSet::from_bytes(&geometry, &given);
                let given = given.ok_or(LinkError::Unexpected("a bit set of another length"))?;
                // As with MISSING: what came before is settled first.
                let ending = self.flush().await;
                self.tell(SourceFact::Taken { file, spans: next..end, given }).await;
                return Ok(ending);
            }
            (FromHolder::Have { id, spans }, expected) => {
                if let Some(expected) = expected {
                    self.expected.push_front(expected);
                }
                self.tell(SourceFact::Have { id, spans }).await;
            }
            (FromHolder::Busy { retry_after_ms }, _) => {
                return Ok(Some(Ending::Busy(std::time::Duration::from_millis(u64::from(retry_after_ms)))));
            }
            (FromHolder::Refused { why, .. }, _) => return Ok(Some(Ending::Refused(why))),
            (_, _) => return Err(LinkError::Unexpected("an answer that was not asked for")),
        }
        Ok(None)
    }

    /// Reads the span that is due, and those behind it that have come with it, and hands them over:
    /// who is behind catches up in larger steps.
    async fn take_blocks(&mut self, data_len: usize) -> Result<Option<Ending>, LinkError> {
        // At most one buffer is on its way, so the other one is here.
        let mut buffer = self.spare.pop().unwrap_or_default();
        let mut filled = 0;
        let mut parts = Vec::new();
        let mut data_len = data_len;
        loop {
            let (file, span, geometry) = self.due()?;
            self.advance();
            if data_len != geometry.len_bytes(span) {
                return Err(LinkError::Unexpected("a span of another length"));
            }
            let range = filled..filled + data_len;
            // Grown a few times; what stands in it from before is written over.
            buffer.grow(range.end);
            if self.read_blocks(&mut buffer[range.clone()]).await? != geometry.first_block(span) {
                return Err(LinkError::Unexpected("blocks that were not asked for"));
            }
            filled = range.end;
            parts.push((file, span, range));
            let Ok((_, next, geometry)) = self.due() else { break };
            data_len = geometry.len_bytes(next);
            if filled + data_len > BATCH_BYTES || !self.reader.take_arrived(data_len).await? {
                break;
            }
        }
        if let Some(ending) = self.flush().await {
            return Ok(Some(ending));
        }
        let verdict = self.handoff.hand_over(SpansArrived { parts, buffer });
        self.handing_over = Some(Box::pin(hand_over(verdict, self.connection.clone())));
        Ok(None)
    }

    /// Reads blocks. What was handed over is settled meanwhile: it is had, however slowly the next comes.
    async fn read_blocks(&mut self, data: &mut [u8]) -> Result<u64, LinkError> {
        let reading = self.reader.blocks(data);
        tokio::pin!(reading);
        loop {
            tokio::select! {
                biased;
                Some(buffer) = handed_over(&mut self.handing_over) => self.spare.push(buffer),
                first = &mut reading => return first,
            }
        }
    }

    /// The span that the next BLOCKS frame has to be.
    fn due(&self) -> Result<(FileIndex, SpanIndex, Geometry), LinkError> {
        let Some(Expected::Blocks { file, geometry, next, .. }) = self.expected.front() else {
            return Err(LinkError::Unexpected("BLOCKS"));
        };
        let span = geometry.span(u64::from(*next)).ok_or(LinkError::Unexpected("BLOCKS"))?;
        Ok((*file, span, *geometry))
    }

    /// The span that was due is not any more.
    fn advance(&mut self) {
        if let Some(Expected::Blocks { next, end, .. }) = self.expected.front_mut() {
            *next += 1;
            if next == end {
                self.expected.pop_front();
            }
        }
    }

    /// Waits for the hand-over that is on its way, if there is one.
    async fn flush(&mut self) -> Option<Ending> {
        self.handing_over.as_ref()?;
        let buffer = handed_over(&mut self.handing_over).await;
        self.take_back(buffer)
    }

    /// Takes the buffer of a hand-over back.
    fn take_back(&mut self, buffer: Option<IoBuffer>) -> Option<Ending> {
        match buffer {
            Some(buffer) => self.spare.push(buffer),
            // The assembler has gone: so will the job.
            None => return Some(Ending::NotNeeded),
        }
        None
    }
}

/// Tells what became of spans, and gives their buffer back. One future for both, which outlives a step that is
/// given up: a message whose answer nobody awaits any more is not handled, and what was stored would be unknown.
async fn hand_over(
    verdict: impl Future<Output = Option<Verdict>>,
    connection: Recipient<TaskFact>,
) -> Option<IoBuffer> {
    let Verdict { outcomes, buffer } = verdict.await?;
    // If the actor has gone, this task is about to be dropped.
    let _ = connection.send(TaskFact(SourceFact::Settled(outcomes))).await;
    Some(buffer)
}

/// Resolves when the hand-over is done; never, if there is none.
async fn handed_over(handing_over: &mut Option<HandingOver>) -> Option<IoBuffer> {
    match handing_over {
        Some(future) => {
            let buffer = future.await;
            *handing_over = None;
            buffer
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use actix::{Actor, Context, Handler, Message, System};

    use super::*;
    use crate::peer::assembler::Outcome;

    /// Counts what it is told of spans that were stored.
    struct Connection(usize);

    impl Actor for Connection {
        type Context = Context<Self>;
    }

    impl Handler<TaskFact> for Connection {
        type Result = ();

        fn handle(&mut self, TaskFact(fact): TaskFact, _: &mut Self::Context) {
            let SourceFact::Settled(outcomes) = fact else { panic!("{fact:?}") };
            self.0 += outcomes.len();
        }
    }

    #[derive(Message)]
    #[rtype(result = "usize")]
    struct HowMany;

    impl Handler<HowMany> for Connection {
        type Result = usize;

        fn handle(&mut self, _: HowMany, _: &mut Self::Context) -> usize {
            self.0
        }
    }

    #[test]
    fn what_was_stored_is_told_although_the_step_that_waits_for_it_is_given_up() {
        System::new().block_on(async {
            let connection = Connection(0).start();
            let span = Geometry::new(1).unwrap().last_span();
            let verdict = Verdict {
                outcomes: vec![(FileIndex(0), span, Outcome::Stored)],
                buffer: IoBuffer::default(),
            };
            let told = hand_over(std::future::ready(Some(verdict)), connection.clone().recipient());
            let mut handing_over: Option<HandingOver> = Some(Box::pin(told));
            tokio::select! {
                biased;
                _ = handed_over(&mut handing_over) => panic!("the answer takes another turn"),
                () = std::future::ready(()) => {}
            }
            assert!(handed_over(&mut handing_over).await.is_some());
            assert_eq!(connection.send(HowMany).await.unwrap(), 1);
        });
    }

    #[test]
    fn what_we_lack_ourselves_is_told_from_what_the_other_side_refuses() {
        let address = ([127, 0, 0, 1], 9).into();
        assert!(has_route(address));
        for (errno, ours) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOBUFS, true),
            (Errno::NOMEM, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::NETDOWN, true),
            // There is a route, so a router has said it.
            (Errno::NETUNREACH, false),
            (Errno::HOSTUNREACH, false),
            (Errno::CONNREFUSED, false),
            (Errno::CONNRESET, false),
            (Errno::TIMEDOUT, false),
        ] {
            assert_eq!(is_ours(&errno.into(), address), ours, "{errno}");
        }
        assert!(!is_ours(&io::ErrorKind::TimedOut.into(), address));
    }
}
