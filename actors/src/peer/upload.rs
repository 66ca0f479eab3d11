//! One upload connection: reads a request, answers it, reads the next. TCP paces it, so nothing queues.
//!
//! Between two requests it tells which spans of partial files have come meanwhile.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream};
use std::ops::Range;
use std::sync::Arc;

use actix::Recipient;
use bytes::Bytes;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::base::limits::{
    ACCEPT_BACKOFF, BUSY_RETRY, CROWDED_IDLE_TIMEOUT, DESCRIPTOR_PATIENCE, HAVE_EVERY, IDLE_TIMEOUT,
    MANIFEST_FRAME_SPANS, MAX_OPEN_FILES_PER_UPLOAD, MAX_REQUEST_SPANS, MAX_SMALL_READ_FILES,
    MAX_WAITING_REQUEST_BYTES, MIN_SPAN_BLOCKS, TURN_TIMEOUT,
};
use crate::base::{BlockRun, FileId, Geometry, PeerId, SpanIndex, SpanSet};
use crate::content::part::PartData;
use crate::net::address::site;
use crate::net::blocks::{Blocks, BlocksSink, FrameReader, send_messages};
use crate::net::greeting;
use crate::net::limiter::Limiter;
use crate::net::link::{LinkError, linger, write_all};
use crate::net::reached::seen_by;
use crate::peer::block_server::{Admit, Closed, Crowded, Give, Gives, Serving};
use crate::peer::library::{OpenError, ReadSmall, Suspect};
use crate::peer::shelf::{Open, Served, spans_bytes};
use crate::peer::trackers::HoldersOf;
use crate::plan::UploadId;
use crate::wire::frame::{FrameHeader, FrameLimits, blocks_header};
use crate::wire::peer::{FromHolder, ToHolder};
use crate::wire::{Hello, Refusal};

/// What a connection needs to be served.
pub(super) struct Upload {
    pub us: PeerId,
    pub id: UploadId,
    pub from: SocketAddr,
    pub serving: Serving,
    /// Who knows what was given to whom.
    pub give: Recipient<Give>,
    pub closed: Recipient<Closed>,
    /// Who knows whether there is room for it.
    pub admit: Recipient<Admit>,
    /// Whether others are turned away for want of room.
    pub crowded: watch::Receiver<Crowded>,
    /// The turns of those who send.
    pub turns: Arc<Semaphore>,
    /// The limit on all uploads together.
    pub limiter: Option<Limiter>,
    /// Changes whenever a partial file has got a span.
    pub growth: watch::Receiver<u64>,
}

/// Serves one getter until it goes or errs.
pub(super) async fn serve(upload: Upload, stream: StdTcpStream) {
    let from = upload.from;
    match run(upload, stream).await {
        Ok(()) | Err(LinkError::Closed) => log::debug!("{from} is done"),
        // What a stranger sends is no warning; that somebody cannot be served may explain a slow job.
        Err(error) => log::info!("the upload to {from} ended: {error}"),
    }
}

async fn run(upload: Upload, stream: StdTcpStream) -> Result<(), LinkError> {
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    // What may wait and some more, so that too much is seen; else the kernel keeps megabytes for each.
    set_socket_recv_buffer_size(&stream, 2 * MAX_WAITING_REQUEST_BYTES).map_err(io::Error::from)?;
    let reached_at = stream.local_addr()?.ip().to_canonical();
    let (getter, stream, read) = greeting::answer(stream, Hello::new(upload.us.clone())).await?;
    // Who admits is gone when we are about to end.
    let is_admitted = upload.admit.send(Admit { id: upload.id, from: upload.from }).await.unwrap_or(false);
    let mut connection = Connection {
        reader: FrameReader::new(stream, read, IDLE_TIMEOUT),
        getter: getter.peer,
        reached_at,
        upload,
        opened: Vec::new(),
        told: Vec::new(),
        idle_since: Instant::now(),
        tell_from: Instant::now(),
        is_slow: false,
        next: VecDeque::new(),
        frames: Vec::new(),
        scratch: Vec::new(),
    };
    if !is_admitted {
        return connection.say_busy().await;
    }
    log::debug!("{} fetches from {}", connection.getter, connection.upload.from);
    let error = loop {
        if let Err(error) = connection.step().await {
            break error;
        }
    };
    if let LinkError::Frame(what) = &error {
        let words = FromHolder::Refused { refusal: Refusal::Protocol, why: what.to_string() };
        // Whoever sent it may not listen.
        let _ = connection.last_words(words).await;
    }
    Err(error)
}

/// Waits until `from`, and then for spans that have come since they were last looked at. Cancel safe.
async fn grown(growth: &mut watch::Receiver<u64>, from: Instant) {
    sleep_until(from).await;
    // Who has the sender ends us: nothing grows any more, and the connection has other things to do.
    if growth.changed().await.is_err() {
        std::future::pending().await
    }
}

struct Connection {
    reader: FrameReader<TcpStream>,
    getter: PeerId,
    /// Our address, as the getter has it.
    reached_at: IpAddr,
    upload: Upload,
    /// Files in use, the latest last: opened once, not per request.
    opened: Vec<(FileId, Served)>,
    /// Partial files that the getter opened, and the spans of them that it was told of.
    told: Vec<(FileId, Arc<PartData>, SpanSet)>,
    /// When the last request was answered: while others want its place, what it is told of does not keep it.
    idle_since: Instant,
    /// From when on it may be told of more.
    tell_from: Instant,
    /// Whether the getter did not take the last span within its turn.
    is_slow: bool,
    /// Requests that were read and come behind the one that is answered now: fewer than are read in one go.
    next: VecDeque<ToHolder>,
    /// Small files that go out in one go.
    frames: Vec<u8>,
    scratch: Vec<u8>,
}

/// A GET of what may be a file of one span.
struct SmallGet {
    id: FileId,
    run: BlockRun,
    is_fresh: bool,
}

impl SmallGet {
    /// The request, if it can be one for a file of one span.
    fn of(request: &ToHolder) -> Option<SmallGet> {
        match *request {
            ToHolder::Get { id, run, fresh } if run.first == 0 && u64::from(run.count) <= MIN_SPAN_BLOCKS => {
                Some(SmallGet { id, run, is_fresh: fresh })
            }
            _ => None,
        }
    }

    /// Whether this is all of the file that is asked for.
    fn fits(&self, data: &[u8]) -> bool {
        let geometry = Geometry::new(data.len() as u64).filter(Geometry::is_single);
        geometry.is_some_and(|geometry| geometry.spans_of_run(self.run) == Some(0..1))
    }
}

impl Connection {
    /// Answers a request, or tells what there is to tell.
    async fn step(&mut self) -> Result<(), LinkError> {
        if let Some(request) = self.request().await? {
            self.handle(request).await?;
            self.idle_since = Instant::now();
        }
        self.tell_growth().await
    }

    /// The next request; `None` if there is something to tell first.
    async fn request(&mut self) -> Result<Option<ToHolder>, LinkError> {
        if let Some(next) = self.next.pop_front() {
            return Ok(Some(next));
        }
        if self.reader.waiting_bytes()? > MAX_WAITING_REQUEST_BYTES {
            let why = "more requests wait on this connection than a getter may have under way";
            return self.refuse_as(Refusal::Limit, why, LinkError::TooMuch(why)).await.map(|()| None);
        }
        let since = Instant::now();
        let header = loop {
            let from = site(self.upload.from.ip());
            let is_crowded = self.upload.crowded.borrow_and_update().by(from);
            let until =
                if is_crowded { self.idle_since + CROWDED_IDLE_TIMEOUT } else { since + IDLE_TIMEOUT };
            tokio::select! {
                header = timeout_at(until, self.reader.header(FrameLimits::REQUEST)) => {
                    match header {
                        Ok(header) => break header?,
                        Err(_) if is_crowded => {
                            self.say_busy().await?;
                            return Err(LinkError::MadeRoom);
                        }
                        Err(_) => return Err(LinkError::Idle(IDLE_TIMEOUT)),
                    }
                }
                () = grown(&mut self.upload.growth, self.tell_from), if !self.told.is_empty() => {
                    return Ok(None);
                }
                Ok(()) = self.upload.crowded.changed() => {}
            }
        };
        match header {
            FrameHeader::Control { len } => Ok(Some(self.reader.request(len).await?)),
            FrameHeader::Blocks { .. } => self.refuse("BLOCKS came from a getter").await.map(|()| None),
        }
    }

    /// Says HAVE for the spans that have come since the getter was last told, if that was not just now.
    async fn tell_growth(&mut self) -> Result<(), LinkError> {
        if self.told.is_empty() || Instant::now() < self.tell_from {
            return Ok(());
        }
        self.tell_from = Instant::now() + HAVE_EVERY;
        self.upload.growth.borrow_and_update();
        let mut news = Vec::new();
        for (id, part, told) in &mut self.told {
            let had = part.had();
            let new: Vec<u32> = had.from(0, None, [Some(told), None]).map(|span| span.number()).collect();
            if !new.is_empty() {
                *told = had;
                news.push(FromHolder::Have { id: *id, spans: new });
            }
        }
        self.told.retain(|(.., told)| !told.is_full());
        // What was given up is not held open.
        let is_given_up =
            |(id, part, _): &(FileId, Arc<PartData>, SpanSet)| (!part.is_unchanged()).then_some(*id);
        for id in self.told.iter().filter_map(is_given_up).collect::<Vec<_>>() {
            self.forget(id);
        }
        if news.is_empty() { Ok(()) } else { self.answer(&news).await }
    }

    async fn answer(&mut self, answers: &[FromHolder]) -> Result<(), LinkError> {
        send_messages(self.reader.stream_mut(), answers, &mut self.scratch).await
    }

    async fn handle(&mut self, request: ToHolder) -> Result<(), LinkError> {
        if let Some(get) = SmallGet::of(&request)
            && !self.opened.iter().any(|(opened, _)| *opened == get.id)
        {
            return self.get_small(get).await;
        }
        match request {
            ToHolder::Hello(_) => self.refuse("HELLO came twice").await,
            ToHolder::Open { id, manifest } => self.open(id, manifest).await,
            ToHolder::Get { id, run, fresh } => self.get(id, run, fresh).await,
            ToHolder::Peers { id } => self.peers(id).await,
        }
    }

    /// Says why the connection ends, and ends it.
    async fn refuse(&mut self, why: &'static str) -> Result<(), LinkError> {
        self.refuse_as(Refusal::Protocol, why, LinkError::Unexpected(why)).await
    }

    async fn refuse_as(
        &mut self,
        refusal: Refusal,
        why: &'static str,
        error: LinkError,
    ) -> Result<(), LinkError> {
        self.last_words(FromHolder::Refused { refusal, why: why.into() }).await?;
        Err(error)
    }

    /// Says that the getter is to come back later.
    async fn say_busy(&mut self) -> Result<(), LinkError> {
        let retry_after_ms = BUSY_RETRY.as_millis() as u32;
        self.last_words(FromHolder::Busy { retry_after_ms }).await
    }

    /// Says this, and has it arrive: the connection is closed behind it, whatever has come meanwhile.
    async fn last_words(&mut self, words: FromHolder) -> Result<(), LinkError> {
        self.answer(&[words]).await?;
        linger(self.reader.stream_mut()).await;
        Ok(())
    }

    async fn open(&mut self, id: FileId, wants_manifest: bool) -> Result<(), LinkError> {
        let Some(file) = self.file(id).await? else {
            return self.answer(&[FromHolder::Missing { id }]).await;
        };
        let manifest = if wants_manifest { file.proof().manifest() } else { &[] };
        let size = file.proof().geometry().size();
        let spans = file.spans();
        let mut answers =
            vec![FromHolder::Opened { id, size, spans: spans_bytes(&spans), manifest: !manifest.is_empty() }];
        if let (Served::Part(part), Some(spans)) = (&file, spans) {
            self.told.retain(|(told, ..)| *told != id);
            put_last(&mut self.told, (id, Arc::clone(part), spans));
        }
        answers.extend(manifest.chunks(MANIFEST_FRAME_SPANS).map(|part| {
            let values = part.iter().flat_map(|value| *value.as_bytes()).collect::<Bytes>();
            FromHolder::Manifest { id, values }
        }));
        self.answer(&answers).await
    }

    /// Answers this GET, and those behind it that were read already, as long as they may be of small
    /// files: these are read in one go, and sent in one.
    async fn get_small(&mut self, first: SmallGet) -> Result<(), LinkError> {
        let mut gets = VecDeque::from([first]);
        while gets.len() < MAX_SMALL_READ_FILES
            && let Some(request) = self.next.pop_front().or_else(|| self.reader.buffered_request())
        {
            match SmallGet::of(&request) {
                Some(get) => gets.push_back(get),
                None => {
                    self.next.push_front(request);
                    break;
                }
            }
        }
        let ids = gets.iter().map(|get| get.id).collect();
        // Who reads is gone when we are about to end.
        let read = self.upload.serving.read.send(ReadSmall { ids }).await.unwrap_or_default();
        for data in read {
            let Some(get) = gets.pop_front() else { break };
            let Some(data) = data.filter(|data| get.fits(data)) else {
                gets.push_front(get);
                break;
            };
            self.frames.extend_from_slice(&blocks_header(0, data.len()));
            self.frames.extend_from_slice(&data);
        }
        if self.frames.is_empty()
            && let Some(get) = gets.pop_front()
        {
            self.get(get.id, get.run, get.is_fresh).await?;
        }
        // What was too much for one go, or has to be looked at by itself, comes first the next time.
        for SmallGet { id, run, is_fresh } in gets.into_iter().rev() {
            self.next.push_front(ToHolder::Get { id, run, fresh: is_fresh });
        }
        self.send_frames().await
    }

    /// Sends the small files that were read, when it is our turn.
    async fn send_frames(&mut self) -> Result<(), LinkError> {
        if self.frames.is_empty() {
            return Ok(());
        }
        let limiter = self.upload.limiter.clone();
        let piece_bytes = limiter.as_ref().map_or(self.frames.len(), Limiter::piece_bytes);
        for piece in self.frames.chunks(piece_bytes) {
            if let Some(limiter) = &limiter {
                limiter.take(piece.len()).await;
            }
            let sending = write_all(self.reader.stream_mut(), piece);
            in_turn(&self.upload.turns, &mut self.is_slow, sending).await?;
        }
        self.frames.clear();
        Ok(())
    }

    async fn get(&mut self, id: FileId, run: BlockRun, is_fresh: bool) -> Result<(), LinkError> {
        let Some(file) = self.file(id).await? else {
            return self.answer(&[FromHolder::Missing { id }]).await;
        };
        // A run that does not fit the file comes from a getter that was told another size.
        let Some(spans) = file.proof().geometry().spans_of_run(run) else {
            return self.answer(&[FromHolder::Missing { id }]).await;
        };
        if spans.len() > MAX_REQUEST_SPANS {
            return self.refuse("a GET of more spans than one request may state").await;
        }
        let geometry = *file.proof().geometry();
        let Gives { until, to_others } = self.give(id, &file, spans.clone(), is_fresh).await;
        for span in (spans.start..until).filter_map(|number| geometry.span(u64::from(number))) {
            // Checked in front of every span: bytes of a changed file must not go out as the old id.
            if !file.is_unchanged() {
                self.suspect(id);
                return self.answer(&[FromHolder::Missing { id }]).await;
            }
            if !file.has(span) {
                return self.answer(&[FromHolder::Missing { id }]).await;
            }
            let sent = self.send_span(&file, span).await;
            if matches!(sent, Err(LinkError::FileChanged)) {
                self.suspect(id);
            }
            sent?;
        }
        // Behind the last one too: it should be withdrawn now, and not when somebody asks again.
        if !file.is_unchanged() {
            self.suspect(id);
        }
        match to_others {
            Some(given) => self.answer(&[FromHolder::Taken { id, given: given.to_bytes().into() }]).await,
            None => Ok(()),
        }
    }

    /// Has the spans noted as given to this getter, and learns up to which it may be sent them now.
    async fn give(&self, id: FileId, file: &Served, spans: Range<u32>, is_fresh: bool) -> Gives {
        let all = Gives { until: spans.end, to_others: None };
        let geometry = *file.proof().geometry();
        // Nobody waits for a part of what is one span.
        if geometry.is_single() {
            return all;
        }
        let give = Give { to: self.upload.id, id, geometry, spans, is_fresh };
        // Who counts is gone when we are about to end.
        self.upload.give.send(give).await.unwrap_or(all)
    }

    /// Sends a span when it is our turn, under a limit in pieces.
    async fn send_span(&mut self, file: &Served, span: SpanIndex) -> Result<(), LinkError> {
        let geometry = file.proof().geometry();
        let blocks = Blocks {
            first_block: geometry.first_block(span),
            file: file.file(),
            offset: geometry.offset(span),
            len: geometry.len_bytes(span),
        };
        let Some(limiter) = self.upload.limiter.clone() else {
            return self.send_part(file, blocks, 0..blocks.len).await;
        };
        let piece_bytes = limiter.piece_bytes();
        let mut part = 0..blocks.len.min(piece_bytes);
        loop {
            // Without a turn: who waits for the limit keeps nobody waiting, and is not slow.
            limiter.take(part.len()).await;
            self.send_part(file, blocks, part.clone()).await?;
            if part.end == blocks.len {
                return Ok(());
            }
            part = part.end..blocks.len.min(part.end + piece_bytes);
        }
    }

    async fn send_part(
        &mut self,
        file: &Served,
        blocks: Blocks<'_>,
        part: Range<usize>,
    ) -> Result<(), LinkError> {
        let is_good = || file.is_unchanged();
        let sending = self.reader.stream_mut().send_part(blocks, part, is_good);
        in_turn(&self.upload.turns, &mut self.is_slow, sending).await
    }

    async fn peers(&mut self, id: FileId) -> Result<(), LinkError> {
        let asker = self.getter.clone();
        let known = self.upload.serving.others.send(HoldersOf { id, asker }).await;
        // Who knew the others is gone when we are about to end.
        let mut holders = known.unwrap_or_default();
        let from = self.upload.from.ip().to_canonical();
        for holder in &mut holders {
            holder.address = seen_by(holder.address, from, self.reached_at);
        }
        self.answer(&[FromHolder::Holders { id, holders }]).await
    }

    /// The file is not what was hashed: it is not served any more, and looked at.
    fn suspect(&mut self, id: FileId) {
        self.forget(id);
        self.upload.serving.suspect.do_send(Suspect { id });
    }

    fn forget(&mut self, id: FileId) {
        self.opened.retain(|(opened, _)| *opened != id);
        self.told.retain(|(told, ..)| *told != id);
    }

    /// The file, if we have any of it (still).
    ///
    /// # Errors
    /// See [`Connection::open_anew`].
    async fn file(&mut self, id: FileId) -> Result<Option<Served>, LinkError> {
        if let Some(position) = self.opened.iter().position(|(opened, _)| *opened == id) {
            let entry = self.opened.remove(position);
            // A part that was given up meanwhile may be there again, or the whole file.
            if matches!(&entry.1, Served::Part(_)) && !entry.1.is_unchanged() {
                return self.open_anew(id).await;
            }
            self.opened.push(entry);
            return Ok(self.opened.last().map(|(_, file)| file.clone()));
        }
        self.open_anew(id).await
    }

    /// Opens a file. If there are no descriptors left, those that we keep open here are given back, and it
    /// is tried again for a while.
    ///
    /// # Errors
    /// It was in vain, and the getter is told to come back.
    async fn open_anew(&mut self, id: FileId) -> Result<Option<Served>, LinkError> {
        let deadline = Instant::now() + DESCRIPTOR_PATIENCE;
        let file = loop {
            match self.upload.serving.open.send(Open { id }).await {
                Ok(Ok(file)) => break file,
                Ok(Err(OpenError::Io(error))) => {
                    for (id, _) in std::mem::take(&mut self.opened) {
                        self.tell_closed(id);
                    }
                    if Instant::now() >= deadline {
                        self.say_busy().await?;
                        return Err(LinkError::NoDescriptors(error));
                    }
                    sleep(ACCEPT_BACKOFF).await;
                }
                // Who opens is gone when we are about to end.
                Ok(Err(OpenError::Missing)) | Err(_) => return Ok(None),
            }
        };
        if let Some((oldest, _)) = put_last(&mut self.opened, (id, file.clone())) {
            self.tell_closed(oldest);
        }
        Ok(Some(file))
    }

    fn tell_closed(&self, id: FileId) {
        self.upload.closed.do_send(Closed { by: self.upload.id, id });
    }
}

/// Puts a file last among those in use, of which there are [`MAX_OPEN_FILES_PER_UPLOAD`] at most: the one in
/// front, which was not asked for longest, makes room.
fn put_last<T>(files: &mut Vec<T>, file: T) -> Option<T> {
    let oldest = (files.len() >= MAX_OPEN_FILES_PER_UPLOAD).then(|| files.remove(0));
    files.push(file);
    oldest
}

/// Sends when it is our turn. Who is slow keeps its turn for a while only, and then has none.
async fn in_turn(
    turns: &Semaphore,
    is_slow: &mut bool,
    sending: impl Future<Output = Result<(), LinkError>>,
) -> Result<(), LinkError> {
    let turn = if *is_slow { None } else { turns.acquire().await.ok() };
    let began = Instant::now();
    tokio::pin!(sending);
    let sent = match timeout(TURN_TIMEOUT, &mut sending).await {
        Ok(sent) => sent,
        Err(_) => {
            drop(turn);
            sending.await
        }
    };
    *is_slow = began.elapsed() >= TURN_TIMEOUT;
    sent
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::task::{JoinSet, LocalSet};

    use super::*;
    use crate::base::limits::MAX_SENDING_UPLOADS;

    #[test]
    fn of_the_files_in_use_the_one_not_asked_for_longest_makes_room() {
        let mut files = Vec::new();
        let closed: Vec<usize> =
            (0..2 * MAX_OPEN_FILES_PER_UPLOAD).filter_map(|file| put_last(&mut files, file)).collect();
        assert_eq!(closed, (0..MAX_OPEN_FILES_PER_UPLOAD).collect::<Vec<_>>());
        assert_eq!(files, (MAX_OPEN_FILES_PER_UPLOAD..2 * MAX_OPEN_FILES_PER_UPLOAD).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn eight_send_at_a_time_and_who_is_slow_keeps_nobody_waiting() {
        let (turns, sending) = (Rc::new(Semaphore::new(MAX_SENDING_UPLOADS)), Rc::new(Cell::new((0, 0))));
        let send = |time: Duration| {
            let (turns, sending, start) = (Rc::clone(&turns), Rc::clone(&sending), Instant::now());
            async move {
                let mut is_slow = false;
                let take = async {
                    let (now, most) = sending.get();
                    sending.set((now + 1, most.max(now + 1)));
                    sleep(time).await;
                    let (now, most) = sending.get();
                    sending.set((now - 1, most));
                    Ok(())
                };
                in_turn(&turns, &mut is_slow, take).await.unwrap();
                (is_slow, start.elapsed())
            }
        };
        let story = async {
            let quick = TURN_TIMEOUT / 2;
            let mut all = JoinSet::new();
            (0..3 * MAX_SENDING_UPLOADS).for_each(|_| drop(all.spawn_local(send(quick))));
            let mut ended = all.join_all().await;
            ended.sort();
            for (number, one) in ended.into_iter().enumerate() {
                assert_eq!(one, (false, quick * (number / MAX_SENDING_UPLOADS + 1) as u32));
            }
            assert_eq!(sending.get(), (0, MAX_SENDING_UPLOADS));

            let mut slow = JoinSet::new();
            (0..MAX_SENDING_UPLOADS).for_each(|_| drop(slow.spawn_local(send(10 * TURN_TIMEOUT))));
            tokio::task::yield_now().await;
            assert_eq!(
                send(quick).await,
                (false, TURN_TIMEOUT + quick),
                "it waits for their turns, and no longer"
            );
            assert!(slow.join_all().await.into_iter().all(|one| one == (true, 10 * TURN_TIMEOUT)));
        };
        LocalSet::new().run_until(story).await;
    }
}
