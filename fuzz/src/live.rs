//! A tracker and a peer that run, and connections to them behind their HELLO.

use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use actix::prelude::*;
use enxame_actors::base::limits::{MAX_CONTROL_BYTES, MAX_REQUEST_BYTES, MIN_SPAN_BLOCKS};
use enxame_actors::base::{BLOCK_LEN_BYTES, FileId, Geometry, PeerId};
use enxame_actors::net::TrackerAddress;
use enxame_actors::peer::{Peer, PeerConfig, RateLimits};
use enxame_actors::tracker::{self, TrackerConfig, TrackerEvent};
use enxame_actors::wire::peer::{FromHolder, ToHolder};
use enxame_actors::wire::tracker::{Candidate, FromTracker, ToTracker};
use enxame_actors::wire::{Hello, Refusal, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::{heap, tree};

/// More of the bytes is not sent: it has to fit into the buffers of a socket, for nothing is read before
/// all is written.
const MAX_BYTES: usize = 4096;
/// What one connection may cost both sides together: a getter's buffers, a span and some answers.
const MEMORY_BYTES: usize = 16 << 20;
/// Whoever is silent for so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

const SPAN: usize = (MIN_SPAN_BLOCKS * BLOCK_LEN_BYTES) as usize;
/// Sizes of the files that are shared: of one span, and of two.
const SIZES: [usize; 2] = [5000, SPAN + 10];
/// Who shares them, and who it is that says what the bytes say.
const GOOD: &str = "good";
const FUZZ: &str = "fuzz";

/// A tracker and a peer that is registered there and shares two files, in an actix system on a thread of
/// its own.
pub struct Live {
    tracker: SocketAddr,
    holder: SocketAddr,
    files: Vec<File>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A shared file.
struct File {
    id: FileId,
    data: Vec<u8>,
    geometry: Geometry,
}

impl File {
    fn new(size: usize) -> File {
        let data: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let geometry = Geometry::new(size as u64).expect("it is small");
        File { id: FileId::from_bytes(*blake3::hash(&data).as_bytes()), data, geometry }
    }

    fn values(&self) -> Vec<u8> {
        if self.geometry.is_single() { Vec::new() } else { tree::span_values(&self.data, SPAN).concat() }
    }
}

struct Unheard;

impl Actor for Unheard {
    type Context = Context<Unheard>;
}

impl Handler<TrackerEvent> for Unheard {
    type Result = ();
    fn handle(&mut self, _: TrackerEvent, _: &mut Context<Unheard>) {}
}

impl Live {
    /// Starts both.
    pub fn start() -> Live {
        let files: Vec<File> = SIZES.map(File::new).into();
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join(GOOD).join("files");
        std::fs::create_dir_all(&folder).expect("it was just made");
        for (number, file) in files.iter().enumerate() {
            std::fs::write(folder.join(number.to_string()), &file.data).expect("there is room");
        }
        let (started, is_started) = sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let run = async move {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let config = TrackerConfig { listen: any, refresh_interval: Duration::from_secs(3600) };
            let tracker = tracker::start(config, Unheard.start().recipient()).expect("a free port");
            let config = PeerConfig {
                id: GOOD.parse().expect("a peer id"),
                root: root.path().to_owned(),
                listen: any,
                trackers: vec![TrackerAddress::from(tracker.address)],
                wants: Vec::new(),
                progress: None,
                limits: RateLimits::default(),
            };
            let peer = Peer::start(config, None).await.expect("the tracker is there");
            started.send((tracker.address, peer.address())).expect("it is waited for");
            // Nobody else stops them, and a sender that is gone says the same.
            let _ = stopped.await;
            peer.stop().await;
            tracker.stop().await;
        };
        let thread = thread::spawn(|| System::new().block_on(run));
        let (tracker, holder) = is_started.recv().expect("they start");
        Live { tracker, holder, files, stop: Some(stop), thread: Some(thread) }
    }

    /// Whatever comes behind HELLO, each request of it is answered, in order, with what is true of the
    /// files, until one that is none; then the connection ends, with a reason. It costs little memory, and
    /// another getter is served as before.
    pub fn block_server(&self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
        heap::within(MEMORY_BYTES, || {
            let (requests, is_broken) = requests::<ToHolder>(bytes, MAX_REQUEST_BYTES);
            let mut line = Line::greeted(self.holder, FUZZ);
            line.say_all(bytes);
            let mut told = requests.iter().try_for_each(|request| self.is_answered(request, &mut line));
            if is_broken && told.is_ok() {
                told = refused_for_a_fault(&mut line);
            }
            let may_be_reset = is_broken || told == Err(Over::Last);
            line.has_ended(told, may_be_reset);
        });
        let mut getter = Line::greeted(self.holder, "getter");
        for file in &self.files {
            let run = file.geometry.run(&(0..file.geometry.spans() as u32));
            for request in [
                ToHolder::Open { id: file.id, manifest: true },
                ToHolder::Get { id: file.id, run, fresh: false },
            ] {
                getter.say(&frame_of(&request));
                self.is_answered(&request, &mut getter).expect("a good getter is served");
            }
        }
    }

    fn is_answered(&self, request: &ToHolder, line: &mut Line) -> Result<(), Over> {
        let file = |id| self.files.iter().find(|file| file.id == id);
        match *request {
            ToHolder::Hello(_) => {
                let refused = line.message()?;
                assert!(matches!(refused, FromHolder::Refused { refusal: Refusal::Protocol, .. }));
                return Err(Over::Last);
            }
            ToHolder::Open { id, manifest } => match file(id) {
                None => assert_eq!(line.message::<FromHolder>()?, FromHolder::Missing { id }),
                Some(file) => {
                    let manifest = manifest && !file.geometry.is_single();
                    let size = file.geometry.size();
                    let opened = FromHolder::Opened { id, size, spans: None, manifest };
                    assert_eq!(line.message::<FromHolder>()?, opened);
                    if manifest {
                        let values = file.values().into();
                        assert_eq!(line.message::<FromHolder>()?, FromHolder::Manifest { id, values });
                    }
                }
            },
            ToHolder::Get { id, run, fresh } => {
                let Some((file, spans)) =
                    file(id).and_then(|file| Some((file, file.geometry.spans_of_run(run)?)))
                else {
                    assert_eq!(line.message::<FromHolder>()?, FromHolder::Missing { id });
                    return Ok(());
                };
                for span in spans.filter_map(|number| file.geometry.span(u64::from(number))) {
                    match line.frame()? {
                        Frame::Blocks(first, data) => {
                            assert_eq!(first, file.geometry.first_block(span));
                            let start = file.geometry.offset(span) as usize;
                            let right = &file.data[start..start + file.geometry.len_bytes(span)];
                            assert!(data == right, "wrong data");
                        }
                        // The connection before this one may count for a moment longer.
                        Frame::Control(body) if fresh && !file.geometry.is_single() => {
                            let taken: FromHolder = decode(&body).expect("a message");
                            assert!(matches!(taken, FromHolder::Taken { id: of, .. } if of == id));
                            return Ok(());
                        }
                        Frame::Control(body) => panic!("{:?}", decode::<FromHolder>(&body)),
                    }
                }
            }
            ToHolder::Peers { id } => {
                let holders = line.message()?;
                assert!(matches!(holders, FromHolder::Holders { id: of, .. } if of == id), "{holders:?}");
            }
        }
        Ok(())
    }

    /// Whatever comes behind HELLO, each request of it is answered, in order, until one that is none; then
    /// the connection ends, and with it all that was registered on it. It costs little memory, and what
    /// the tracker knows of the other peer is what it was.
    pub fn tracker(&self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
        heap::within(MEMORY_BYTES, || {
            let (requests, is_broken) = requests::<ToTracker>(bytes, MAX_CONTROL_BYTES);
            let mut line = Line::greeted(self.tracker, FUZZ);
            line.say_all(bytes);
            let mut told = requests.iter().try_for_each(|request| is_replied_to(request, &mut line));
            if is_broken && told.is_ok() {
                told = told_of_a_fault(&mut line);
            }
            let may_be_reset = is_broken || told == Err(Over::Last);
            // Who confirms another list than it told may be asked to begin anew.
            let confirmed = requests.iter().any(|request| matches!(request, ToTracker::Confirmed { .. }));
            if !(confirmed && told == Err(Over::Closed)) {
                line.has_ended(told, may_be_reset);
            }
        });
        let mut asker = Line::greeted(self.tracker, "asker");
        let mut ask = |request: ToTracker| {
            asker.say(&frame_of(&request));
            asker.message::<FromTracker>().expect("who asks is answered")
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let peers = ask(ToTracker::Peers { after: None, limit: 100 });
            let FromTracker::Peers { peers, more: false } = peers else { panic!("{peers:?}") };
            assert!(peers.iter().any(|peer| peer.peer.as_str() == GOOD && peer.address == self.holder));
            // Its end is seen a moment later than by us.
            if peers.len() == 1 {
                break;
            }
            assert!(peers.iter().all(|peer| [GOOD, FUZZ].contains(&peer.peer.as_str())));
            assert!(Instant::now() < deadline, "who has gone stays registered");
        }
        let files = ask(ToTracker::List { prefix: String::new(), after: None, limit: 100 });
        let FromTracker::Files { files, more: false } = files else { panic!("{files:?}") };
        let ids: Vec<FileId> = files.iter().map(|listed| listed.id).collect();
        assert_eq!(ids, self.files.iter().map(|file| file.id).collect::<Vec<_>>());
        assert!(files.iter().all(|listed| listed.holders == 1));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // If it is gone, the thread has ended, which is seen below.
            let _ = stop.send(());
        }
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "the system panicked");
    }
}

fn is_replied_to(request: &ToTracker, line: &mut Line) -> Result<(), Over> {
    if let ToTracker::Confirmed { .. } = request {
        return Ok(());
    }
    if let ToTracker::Disconnect = request {
        return Err(Over::Last);
    }
    let answer = line.answer()?;
    match (request, &answer) {
        (ToTracker::Hello(_), FromTracker::Refused { refusal: Refusal::Protocol, .. }) => Err(Over::Last),
        (
            ToTracker::Register { .. } | ToTracker::NewFile { .. } | ToTracker::RemoveFile { .. },
            FromTracker::Refused { .. },
        )
        | (ToTracker::Register { .. }, FromTracker::Registered { .. })
        | (ToTracker::NewFile { .. } | ToTracker::RemoveFile { .. }, FromTracker::Noted)
        | (ToTracker::List { .. }, FromTracker::Files { .. })
        | (ToTracker::Peers { .. }, FromTracker::Peers { .. }) => Ok(()),
        (ToTracker::WhoHas { .. }, FromTracker::Candidates { candidates }) => {
            candidates.iter().for_each(are_true);
            Ok(())
        }
        _ => panic!("{request:?} is answered {answer:?}"),
    }
}

/// Nobody is told of but by the address at which he is seen, and nobody of himself.
fn are_true(candidate: &Candidate) {
    assert!(candidate.holders.len() <= candidate.holder_count as usize);
    for holder in &candidate.holders {
        assert_eq!(holder.address.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(holder.peer.as_str(), GOOD);
    }
}

fn told_of_a_fault(line: &mut Line) -> Result<(), Over> {
    let refused = line.answer()?;
    assert!(matches!(refused, FromTracker::Refused { refusal: Refusal::Protocol, .. }), "{refused:?}");
    Err(Over::Last)
}

/// [`told_of_a_fault`], by a holder.
fn refused_for_a_fault(line: &mut Line) -> Result<(), Over> {
    let refused = line.message()?;
    assert!(matches!(refused, FromHolder::Refused { refusal: Refusal::Protocol, .. }), "{refused:?}");
    Err(Over::Last)
}

/// The requests of so many bytes at most in front of what is none, if anything is: what is cut at its end
/// only ends.
fn requests<M: DeserializeOwned>(mut bytes: &[u8], most_bytes: usize) -> (Vec<M>, bool) {
    let mut requests = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        let [a, b, c, d, kind] = *header;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if kind != 0 || len > most_bytes {
            return (requests, true);
        }
        let Some((body, behind)) = rest.split_at_checked(len) else { break };
        match decode(body) {
            Ok(request) => requests.push(request),
            Err(_) => return (requests, true),
        }
        bytes = behind;
    }
    (requests, false)
}

fn frame_of(message: &impl Serialize) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(message, &mut frame).expect("it is short");
    frame
}

/// What the other side sends.
enum Frame {
    Control(Vec<u8>),
    Blocks(u64, Vec<u8>),
}

/// Why nothing more is to come.
#[derive(Debug, PartialEq)]
enum Over {
    /// The last answer was that the connection ends.
    Last,
    /// The other side closed the connection, behind a frame.
    Closed,
    /// It did so with something unread in its socket, so that some answers may be lost.
    Reset,
}

/// A connection, from the side that asks.
struct Line {
    stream: BufReader<TcpStream>,
}

impl Line {
    fn greeted(to: SocketAddr, as_peer: &str) -> Line {
        let stream = TcpStream::connect(to).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        let mut line = Line { stream: BufReader::new(stream) };
        let peer: PeerId = as_peer.parse().expect("a peer id");
        line.write(&frame_of(&ToHolder::Hello(Hello::new(peer)))).expect("it reads");
        let hello = line.message::<FromHolder>();
        assert!(matches!(hello, Ok(FromHolder::Hello(_))), "{hello:?}");
        line
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Says these bytes; who has closed the connection already does not hear them.
    fn say(&mut self, bytes: &[u8]) {
        let is_gone = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
        };
        self.write(bytes)
            .or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) })
            .expect("it reads");
    }

    /// Says these bytes, and nothing more.
    fn say_all(&mut self, bytes: &[u8]) {
        self.say(bytes);
        // Fails if the other side has closed the connection.
        let _ = self.stream.get_mut().shutdown(Shutdown::Write);
    }

    /// All that was to be said was heard so far: the other side ends.
    fn has_ended(&mut self, told: Result<(), Over>, may_be_reset: bool) {
        let end = match told {
            Ok(()) | Err(Over::Last) => loop {
                match self.frame() {
                    // CONFIRM may come at any time.
                    Ok(Frame::Control(body)) => {
                        let more: FromTracker = decode(&body).expect("a message");
                        assert!(matches!(more, FromTracker::Confirm { .. }), "{more:?} answers nothing");
                    }
                    Ok(Frame::Blocks(..)) => panic!("blocks answer nothing"),
                    Err(end) => break end,
                }
            },
            Err(end) => end,
        };
        assert!(may_be_reset || (end == Over::Closed), "{end:?}");
    }

    fn message<M: DeserializeOwned>(&mut self) -> Result<M, Over> {
        match self.frame()? {
            Frame::Control(body) => Ok(decode(&body).expect("a message")),
            Frame::Blocks(..) => panic!("blocks where a message is to come"),
        }
    }

    /// The next answer of a tracker.
    fn answer(&mut self) -> Result<FromTracker, Over> {
        loop {
            let message = self.message()?;
            if !matches!(message, FromTracker::Confirm { .. }) {
                return Ok(message);
            }
        }
    }

    fn frame(&mut self) -> Result<Frame, Over> {
        let mut header = [0; 5];
        match self.stream.read(&mut header[..1]) {
            Ok(0) => return Err(Over::Closed),
            Ok(_) => self.exactly(&mut header[1..])?,
            Err(error) => return Err(over(&error)),
        }
        let [a, b, c, d, kind] = header;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        assert!(kind <= 1 && len <= 1 << 20, "a frame of kind {kind} and {len} bytes");
        let mut first = [0; 8];
        let mut body = vec![0; if kind == 0 { len } else { len - first.len() }];
        if kind == 1 {
            self.exactly(&mut first)?;
        }
        self.exactly(&mut body)?;
        Ok(if kind == 0 { Frame::Control(body) } else { Frame::Blocks(u64::from_be_bytes(first), body) })
    }

    fn exactly(&mut self, into: &mut [u8]) -> Result<(), Over> {
        self.stream.read_exact(into).map_err(|error| over(&error))
    }
}

fn over(error: &io::Error) -> Over {
    match error.kind() {
        io::ErrorKind::ConnectionReset => Over::Reset,
        io::ErrorKind::WouldBlock => panic!("it neither answers nor ends the connection"),
        _ => panic!("the connection ends in the middle of a frame: {error}"),
    }
}
