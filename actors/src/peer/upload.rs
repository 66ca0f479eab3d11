//! One upload connection: reads a request, answers it, reads the next. TCP paces it, so nothing queues.
//!
//! Between two requests it tells which spans of partial files have come meanwhile.

use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use actix::Recipient;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::base::limits::{
    BUSY_RETRY, IDLE_TIMEOUT, MANIFEST_FRAME_SPANS, MAX_OPEN_FILES_PER_UPLOAD, MAX_REQUEST_SPANS,
    TURN_TIMEOUT,
};
use crate::base::{BlockRun, FileId, PeerId, SpanIndex, SpanSet};
use crate::content::part::PartData;
use crate::net::blocks::{Blocks, BlocksSink, FrameReader, send_messages};
use crate::net::greeting;
use crate::net::limiter::Limiter;
use crate::net::link::LinkError;
use crate::net::reached::seen_by;
use crate::peer::block_server::{Closed, Give, Gives};
use crate::peer::library::Suspect;
use crate::peer::shelf::{Open, Served, spans_bytes};
use crate::peer::trackers::HoldersOf;
use crate::plan::UploadId;
use crate::wire::frame::{FrameHeader, FrameLimits};
use crate::wire::peer::{FromHolder, ToHolder};
use crate::wire::{Hello, Refusal};

/// What a connection needs to be served.
pub(super) struct Upload {
    pub us: PeerId,
    pub id: UploadId,
    pub from: SocketAddr,
    pub open: Recipient<Open>,
    pub suspect: Recipient<Suspect>,
    pub others: Recipient<HoldersOf>,
    /// Who knows what was given to whom.
    pub give: Recipient<Give>,
    pub closed: Recipient<Closed>,
    /// The turns of those who send.
    pub turns: Arc<Semaphore>,
    /// The limit on all uploads together.
    pub limiter: Option<Limiter>,
    /// Changes whenever a partial file has got a span.
    pub growth: watch::Receiver<u64>,
    /// Whether there is room for it; else it is told to come back.
    pub is_granted: bool,
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
    let reached_at = stream.local_addr()?.ip().to_canonical();
    let (getter, stream, read) = greeting::answer(stream, Hello::new(upload.us.clone())).await?;
    let mut connection = Connection {
        reader: FrameReader::new(stream, read, IDLE_TIMEOUT),
        getter: getter.peer,
        reached_at,
        upload,
        opened: Vec::new(),
        told: Vec::new(),
        is_slow: false,
        scratch: Vec::new(),
    };
    if !connection.upload.is_granted {
        let retry_after_ms = BUSY_RETRY.as_millis() as u32;
        return connection.answer(&[FromHolder::Busy { retry_after_ms }]).await;
    }
    log::debug!("{} fetches from {}", connection.getter, connection.upload.from);
    loop {
        if let Some(request) = connection.request().await? {
            connection.handle(request).await?;
        }
        connection.tell_growth().await?;
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
    /// Whether the getter did not take the last span within its turn.
    is_slow: bool,
    scratch: Vec<u8>,
}

impl Connection {
    /// The next request; `None` if there is something to tell first.
    async fn request(&mut self) -> Result<Option<ToHolder>, LinkError> {
        let header = tokio::select! {
            header = timeout(IDLE_TIMEOUT, self.reader.header(FrameLimits::CONTROL)) => {
                header.map_err(|_| LinkError::Idle(IDLE_TIMEOUT))??
            }
            Ok(()) = self.upload.growth.changed(), if !self.told.is_empty() => return Ok(None),
        };
        match header {
            FrameHeader::Control { len } => Ok(Some(self.reader.message(len).await?)),
            FrameHeader::Blocks { .. } => Err(LinkError::Unexpected("BLOCKS")),
        }
    }

    /// Says HAVE for the spans that have come since the getter was last told.
    async fn tell_growth(&mut self) -> Result<(), LinkError> {
        if self.told.is_empty() {
            return Ok(());
        }
        self.upload.growth.borrow_and_update();
        let mut news = Vec::new();
        for (id, part, told) in &mut self.told {
            let geometry = part.proof().geometry();
            let new: Vec<u32> = geometry
                .all_spans()
                .filter(|span| part.has(*span) && told.insert(*span))
                .map(|span| span.number())
                .collect();
            if !new.is_empty() {
                news.push(FromHolder::Have { id: *id, spans: new });
            }
        }
        self.told.retain(|(.., told)| !told.is_full());
        if news.is_empty() { Ok(()) } else { self.answer(&news).await }
    }

    async fn answer(&mut self, answers: &[FromHolder]) -> Result<(), LinkError> {
        send_messages(self.reader.stream_mut(), answers, &mut self.scratch).await
    }

    async fn handle(&mut self, request: ToHolder) -> Result<(), LinkError> {
        match request {
            ToHolder::Hello(_) => self.refuse("HELLO came twice").await,
            ToHolder::Open { id, manifest } => self.open(id, manifest).await,
            ToHolder::Get { id, run, fresh } => self.get(id, run, fresh).await,
            ToHolder::Peers { id } => self.peers(id).await,
        }
    }

    /// Says why the connection ends, and ends it.
    async fn refuse(&mut self, why: &'static str) -> Result<(), LinkError> {
        self.answer(&[FromHolder::Refused { refusal: Refusal::Protocol, why: why.into() }]).await?;
        Err(LinkError::Unexpected(why))
    }

    async fn open(&mut self, id: FileId, wants_manifest: bool) -> Result<(), LinkError> {
        let Some(file) = self.file(id).await else {
            return self.answer(&[FromHolder::Missing { id }]).await;
        };
        let manifest = if wants_manifest { file.proof().manifest() } else { &[] };
        let size = file.proof().geometry().size();
        let spans = file.spans();
        let mut answers =
            vec![FromHolder::Opened { id, size, spans: spans_bytes(&spans), manifest: !manifest.is_empty() }];
        if let (Served::Part(part), Some(spans)) = (&file, spans) {
            self.told.retain(|(told, ..)| *told != id);
            self.told.push((id, Arc::clone(part), spans));
        }
        answers.extend(manifest.chunks(MANIFEST_FRAME_SPANS).map(|part| {
            let values = part.iter().flat_map(|value| *value.as_bytes()).collect::<Bytes>();
            FromHolder::Manifest { id, values }
        }));
        self.answer(&answers).await
    }

    async fn get(&mut self, id: FileId, run: BlockRun, is_fresh: bool) -> Result<(), LinkError> {
        let Some(file) = self.file(id).await else {
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

    /// Sends a span when it is our turn, under a limit in pieces. Who is slow keeps its turn for a
    /// while only, and then has none.
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
        let turns = Arc::clone(&self.upload.turns);
        let turn = if self.is_slow { None } else { turns.acquire().await.ok() };
        let began = Instant::now();
        let is_good = || file.is_unchanged();
        let sending = self.reader.stream_mut().send_part(blocks, part, is_good);
        tokio::pin!(sending);
        let sent = match timeout(TURN_TIMEOUT, &mut sending).await {
            Ok(sent) => sent,
            Err(_) => {
                drop(turn);
                sending.await
            }
        };
        self.is_slow = began.elapsed() >= TURN_TIMEOUT;
        sent
    }

    async fn peers(&mut self, id: FileId) -> Result<(), LinkError> {
        let asker = self.getter.clone();
        let known = self.upload.others.send(HoldersOf { id, asker }).await;
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
        self.upload.suspect.do_send(Suspect { id });
    }

    fn forget(&mut self, id: FileId) {
        self.opened.retain(|(opened, _)| *opened != id);
        self.told.retain(|(told, ..)| *told != id);
    }

    /// The file, if we have any of it (still).
    async fn file(&mut self, id: FileId) -> Option<Served> {
        if let Some(position) = self.opened.iter().position(|(opened, _)| *opened == id) {
            let entry = self.opened.remove(position);
            // A part that was given up meanwhile may be there again, or the whole file.
            if matches!(&entry.1, Served::Part(_)) && !entry.1.is_unchanged() {
                return self.open_anew(id).await;
            }
            self.opened.push(entry);
            return self.opened.last().map(|(_, file)| file.clone());
        }
        self.open_anew(id).await
    }

    async fn open_anew(&mut self, id: FileId) -> Option<Served> {
        let file = self.upload.open.send(Open { id }).await.ok()??;
        if self.opened.len() == MAX_OPEN_FILES_PER_UPLOAD {
            let (id, _) = self.opened.remove(0);
            self.upload.closed.do_send(Closed { by: self.upload.id, id });
        }
        self.opened.push((id, file.clone()));
        Some(file)
    }
}
