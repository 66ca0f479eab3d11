//! A TCP proxy that does to connections what networks and dying machines do.
//!
//! Connection `n` gets the fault `script[n % script.len()]`. Offsets are counted per direction from
//! the connection's first byte, so "cut at byte n" is exact whatever the sizes of the reads are.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::harness::{PortWatch, Test};

/// Bytes moved at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks that are under way while latency passes.
const CHUNKS_UNDER_WAY: usize = 64;

/// What happens to one connection.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    /// It is reset as soon as it was made, and the target hears nothing of it.
    pub refuse: bool,
    /// From who connected to the target.
    pub to_target: Way,
    /// From the target to who connected.
    pub to_client: Way,
}

impl Fault {
    /// None: bytes are moved as they come.
    pub fn none() -> Fault {
        Fault::default()
    }

    /// See [`Fault::refuse`].
    pub fn refuse() -> Fault {
        Fault { refuse: true, ..Fault::default() }
    }

    /// Something happens on the way from the target, which is where a download's bytes come from.
    pub fn to_client(way: Way) -> Fault {
        Fault { to_client: way, ..Fault::default() }
    }

    /// Accepts, and then moves nothing either way.
    pub fn black_hole() -> Fault {
        let way = Way::ends(0, End::BlackHole);
        Fault { refuse: false, to_target: way.clone(), to_client: way }
    }
}

/// What happens to the bytes of one direction.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// How much later each byte arrives.
    pub latency: Duration,
    /// Bytes per second at most.
    pub rate_bytes_s: Option<u64>,
    /// Bytes come out in pieces of random size, at most this.
    pub piece_bytes: Option<usize>,
    /// The bit (0 to 7) of the byte with this number that is flipped.
    pub flip: Option<(u64, u8)>,
    /// In each stretch of so many bytes one random bit is flipped, with this probability.
    pub noise: Option<(u64, f64)>,
    /// What happens when so many bytes were moved.
    pub end: Option<(u64, End)>,
}

impl Way {
    /// Ends after `bytes` bytes.
    pub fn ends(bytes: u64, end: End) -> Way {
        Way { end: Some((bytes, end)), ..Way::default() }
    }

    /// At most so many bytes per second.
    pub fn rate(bytes_s: u64) -> Way {
        Way { rate_bytes_s: Some(bytes_s), ..Way::default() }
    }

    /// One bit arrives wrong.
    pub fn flips(byte: u64, bit: u8) -> Way {
        Way { flip: Some((byte, bit)), ..Way::default() }
    }
}

/// How a way ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides see an orderly end of the connection.
    Fin,
    /// Both sides see a reset. What they had not read yet may be lost, as it is in life.
    Reset,
    /// Nothing moves in this direction any more, and nothing is said.
    BlackHole,
}

/// What a proxy has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections accepted, the refused ones included.
    pub connections: u64,
    /// Connections that have not ended.
    pub open: u64,
    /// Bytes delivered to targets.
    pub to_target: u64,
    /// Bytes delivered to those who connected.
    pub to_client: u64,
    /// Bits that were flipped by noise.
    pub flips: u64,
}

/// A running proxy; dropping it ends it and resets or closes all its connections.
pub struct FaultProxy {
    address: SocketAddr,
    traffic: watch::Receiver<Traffic>,
    watch: PortWatch,
    _accepting: JoinSet<()>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1, in front of `target`. An empty script means no faults.
    pub fn start(test: &Test, target: SocketAddr, script: Vec<Fault>) -> FaultProxy {
        let (listener, address) = listen();
        let watch = test.watch(address);
        let (counts, traffic) = watch::channel(Traffic::default());
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(test.clone(), listener, target, script, counts));
        FaultProxy { address, traffic, watch, _accepting: accepting }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done so far.
    pub fn traffic(&self) -> Traffic {
        *self.traffic.borrow()
    }

    /// Waits until it has done so much.
    pub async fn until(&self, enough: impl FnMut(&Traffic) -> bool) -> Traffic {
        let mut traffic = self.traffic.clone();
        let traffic = self.watch.test().wait_for("traffic through the proxy", traffic.wait_for(enough));
        *traffic.await.expect("it runs as long as this lives")
    }
}

/// A listener on a free port of 127.0.0.1.
pub(super) fn listen() -> (TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket option");
    let address = listener.local_addr().expect("it is bound");
    (TcpListener::from_std(listener).expect("a runtime"), address)
}

async fn accept(
    test: Test,
    listener: TcpListener,
    target: SocketAddr,
    script: Vec<Fault>,
    counts: watch::Sender<Traffic>,
) {
    let mut rng = test.rng();
    let mut connections = JoinSet::new();
    let mut script = script.into_iter().cycle();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted.expect("a test has descriptors to spare");
                let fault = script.next().unwrap_or_default();
                counts.send_modify(|traffic| {
                    traffic.connections += 1;
                    traffic.open += 1;
                });
                connections.spawn(connection(test.clone(), client, target, fault, rng.fork(), counts.clone()));
            }
            Some(ended) = connections.join_next() => {
                ended.expect("no connection panics");
                counts.send_modify(|traffic| traffic.open -= 1);
            }
        }
    }
}

async fn connection(
    test: Test,
    mut client: TcpStream,
    target: SocketAddr,
    fault: Fault,
    mut rng: fastrand::Rng,
    counts: watch::Sender<Traffic>,
) {
    let target = if fault.refuse { None } else { TcpStream::connect(target).await.ok() };
    let Some(mut target) = target else { return reset(&test, [&client]) };
    // Small pieces leave as they are, and not when the kernel has gathered enough.
    let _ = client.set_nodelay(true);
    let _ = target.set_nodelay(true);
    let end = {
        let (from_client, to_client) = client.split();
        let (from_target, to_target) = target.split();
        let mut other = rng.fork();
        let up = pump(from_client, to_target, &fault.to_target, &mut rng, |bytes, flips| {
            counts.send_modify(|traffic| {
                traffic.to_target += bytes;
                traffic.flips += flips;
            });
        });
        let down = pump(from_target, to_client, &fault.to_client, &mut other, |bytes, flips| {
            counts.send_modify(|traffic| {
                traffic.to_client += bytes;
                traffic.flips += flips;
            });
        });
        tokio::try_join!(up, down)
    };
    match end {
        // Both sides ended by themselves.
        Ok(_) => {}
        Err(Ended::Fin) => {
            let _ = tokio::join!(client.shutdown(), target.shutdown());
            // A socket that is closed with unread bytes is reset instead, so what comes is read.
            tokio::join!(drain(&mut client), drain(&mut target));
        }
        Err(Ended::Reset) => reset(&test, [&client, &target]),
    }
}

/// Closes with RST. The sockets of the other sides are noted first: afterwards nobody finds them.
fn reset<const N: usize>(test: &Test, streams: [&TcpStream; N]) {
    test.note_sockets();
    for stream in streams {
        let _ = stream.set_zero_linger();
    }
}

async fn drain(stream: &mut TcpStream) {
    let mut scrap = vec![0; CHUNK_BYTES];
    while stream.read(&mut scrap).await.is_ok_and(|read| read > 0) {}
}

/// How a connection is ended by a script, or by a side that reset it.
enum Ended {
    Fin,
    Reset,
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Ended {
        Ended::Reset
    }
}

/// Flips bits as a way's noise says.
struct Noise {
    stretch_bytes: u64,
    probability: f64,
    /// Where the next stretch begins, and the bit of the one before that is still to be flipped.
    next: u64,
    at: Option<u64>,
}

impl Noise {
    fn of(way: &Way) -> Option<Noise> {
        let (stretch_bytes, probability) = way.noise?;
        Some(Noise { stretch_bytes, probability, next: 0, at: None })
    }

    /// Flips bits in the bytes that begin at `offset`, which follow the ones before; how many.
    fn disturb(&mut self, offset: u64, bytes: &mut [u8], rng: &mut fastrand::Rng) -> u64 {
        let mut flips = 0;
        loop {
            if let Some(at) = self.at {
                let Some(byte) = bytes.get_mut((at - offset) as usize) else { return flips };
                *byte ^= 1 << rng.u8(..8);
                flips += 1;
                self.at = None;
            }
            if self.next >= offset + bytes.len() as u64 {
                return flips;
            }
            self.at = (rng.f64() < self.probability).then(|| self.next + rng.u64(..self.stretch_bytes));
            self.next += self.stretch_bytes;
        }
    }
}

/// Moves bytes one way until their sender ends it (then the receiver is told) or the script does.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    way: &Way,
    rng: &mut fastrand::Rng,
    moved: impl Fn(u64, u64),
) -> Result<(), Ended> {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_UNDER_WAY);
    let read = async move {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let len = from.read(&mut chunk).await?;
            chunk.truncate(len);
            // The writer has ended: its end is the connection's, and nothing more is read.
            if len == 0 || queue.send((Instant::now() + way.latency, chunk)).await.is_err() {
                return Ok::<(), Ended>(());
            }
        }
    };
    let write = async {
        let mut offset = 0;
        let mut next_at = Instant::now();
        let mut noise = Noise::of(way);
        if let Some((0, end)) = way.end {
            return Err(end);
        }
        while let Some((due, mut chunk)) = queued.recv().await {
            sleep_until(due).await;
            if let Some((byte, bit)) = way.flip
                && let Some(at) = byte.checked_sub(offset)
                && let Some(byte) = chunk.get_mut(at as usize)
            {
                *byte ^= 1 << bit;
            }
            if let Some(noise) = &mut noise {
                moved(0, noise.disturb(offset, &mut chunk, rng));
            }
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let mut len = rest.len();
                if let Some(most) = way.piece_bytes {
                    len = len.min(rng.usize(1..=most));
                }
                if let Some((until, _)) = way.end {
                    len = len.min((until - offset) as usize);
                }
                if let Some(rate) = way.rate_bytes_s {
                    // A fiftieth of a second at once: slow ways are slow, and not still and then fast.
                    len = len.min((rate / 50).max(1) as usize);
                    sleep_until(next_at).await;
                    next_at = next_at.max(Instant::now() - Duration::from_millis(20))
                        + Duration::from_secs_f64(len as f64 / rate as f64);
                }
                to.write_all(&rest[..len]).await.map_err(|_| End::Reset)?;
                offset += len as u64;
                moved(len as u64, 0);
                rest = &rest[len..];
                if let Some((until, end)) = way.end
                    && until == offset
                {
                    return Err(end);
                }
            }
        }
        to.shutdown().await.map_err(|_| End::Reset)
    };
    tokio::pin!(read);
    tokio::pin!(write);
    // The reader ends with its sender; the writer then still has what is under way.
    let end = tokio::select! {
        biased;
        end = &mut write => end,
        read = &mut read => {
            read?;
            write.await
        }
    };
    match end {
        Ok(()) => Ok(()),
        Err(End::Fin) => Err(Ended::Fin),
        Err(End::Reset) => Err(Ended::Reset),
        Err(End::BlackHole) => std::future::pending().await,
    }
}

/// An address at which connects are refused for as long as this lives: bound, but nobody listens.
/// Who is told to listen there can, and come back there after an end, and nobody else gets the port.
pub struct RefusingAddress {
    address: SocketAddr,
    _socket: tokio::net::TcpSocket,
}

impl RefusingAddress {
    /// A free port of 127.0.0.1.
    pub fn new() -> RefusingAddress {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("a socket option");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        RefusingAddress { address: socket.local_addr().expect("it is bound"), _socket: socket }
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
