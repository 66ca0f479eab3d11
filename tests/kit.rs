//! The test kit is tested here: a kit that misses what it is for would let everything pass.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod support;

use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use actix::{Actor, Arbiter, AsyncContext, Context, Handler, Message};
use bytes::{Buf, Bytes, BytesMut};
use enxame_actors::base::limits::STALL_TIMEOUT;
use enxame_actors::base::{BlockRun, FileId, SpanSet};
use enxame_actors::net::LinkError;
use enxame_actors::wire::frame::{BLOCKS_PREFIX_BYTES, FrameLimits};
use enxame_actors::wire::peer::{FromHolder, ToHolder};
use enxame_actors::wire::tracker::{FromTracker, Listing, ToTracker};
use enxame_actors::wire::{FrameHeader, HEADER_BYTES, Hello, ListDigest, Refusal, VERSION};
use support::files::{SIZES, SPAN};
use support::harness::{Failure, Patience, try_system_test};
use support::holder::{Asked, Says, opened};
use support::probe::Probe;
use support::proxy::{End, RefusingAddress, Traffic, Way};
use support::tracker::{Script, candidate};
use support::{
    Behaviour, Content, FakeHolder, FakeTracker, Fault, FaultProxy, RawPeer, Test, system_test, tree,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// For tests that are meant to leave something.
const LEAVING: Patience = Patience { grace: Duration::from_millis(500), ..LONG };
/// For tests that are meant to take too long.
const SHORT: Patience = Patience {
    deadline: Duration::from_millis(300),
    grace: Duration::from_millis(200),
    last_word: Duration::from_millis(500),
};
/// For the others.
const LONG: Patience = Patience {
    deadline: Duration::from_secs(30),
    grace: Duration::from_secs(5),
    last_word: Duration::from_secs(5),
};

// ---- the harness ----

/// An actor that does what its messages say.
struct Soldier;

impl Actor for Soldier {
    type Context = Context<Soldier>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct Die(&'static str);

impl Handler<Die> for Soldier {
    type Result = ();

    fn handle(&mut self, Die(word): Die, _: &mut Context<Soldier>) {
        panic!("{word}");
    }
}

fn arbiter() -> Arbiter {
    Arbiter::with_tokio_rt(|| Builder::new_current_thread().enable_all().build().expect("a runtime"))
}

/// The lines of a failure of this kind; panics if it is another.
fn left(result: Result<(), Failure>) -> Vec<String> {
    match result {
        Err(Failure::Left(left)) => left,
        other => panic!("{other:?}"),
    }
}

fn panicked(result: Result<(), Failure>) -> String {
    match result {
        Err(Failure::Panicked(panics)) => panics.join("\n"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_test_that_leaves_nothing_passes() {
    system_test(|test| async move {
        let (probe, mut seen) = Probe::<Note>::start();
        let arbiter = arbiter();
        let soldier = Soldier::start_in_arbiter(&arbiter.handle(), |_| Soldier);
        probe.do_send(Note(1));
        assert_eq!(test.wait_for("the note", seen.recv()).await.map(|Note(n)| n), Some(1));

        let content = Content::random(&mut test.rng(), 10_000);
        let path = content.write(&test.folder(), "a/b");
        assert!(content.stands_at(&path));
        let holder = FakeHolder::start(&test, "p1", &[content], Behaviour::Honest);
        let stream = TcpStream::connect(holder.address()).await.unwrap();
        holder.until(|asked| !asked.is_empty()).await;
        drop((soldier, stream));
        arbiter.stop();
        arbiter.join().unwrap();
    });
}

#[derive(Message)]
#[rtype(result = "()")]
struct Note(u32);

#[test]
fn a_task_that_is_left_is_reported() {
    let local = left(try_system_test(LEAVING, 1, |_| async {
        actix::spawn(std::future::pending::<()>());
    }));
    assert_eq!(local, ["actors or tasks on the test's thread"]);

    let movable = left(try_system_test(LEAVING, 1, |_| async {
        tokio::spawn(std::future::pending::<()>());
        tokio::spawn(std::future::pending::<()>());
    }));
    assert_eq!(movable, ["2 tasks of the test's runtime"]);
}

/// It would live until its last address is gone, and its own timer keeps it.
struct Ticking;

impl Actor for Ticking {
    type Context = Context<Ticking>;

    fn started(&mut self, ctx: &mut Context<Ticking>) {
        ctx.run_interval(Duration::from_secs(3600), |_, _| {});
    }
}

#[test]
fn an_actor_that_is_left_is_reported() {
    let actor = left(try_system_test(LEAVING, 1, |_| async {
        Ticking.start();
    }));
    assert_eq!(actor, ["actors or tasks on the test's thread"]);

    let arbiter = left(try_system_test(LEAVING, 1, |_| async {
        Ticking::start_in_arbiter(&arbiter().handle(), |_| Ticking);
    }));
    assert_eq!(arbiter, ["1 arbiters that were not stopped and joined"]);
}

#[test]
fn a_file_that_is_left_is_reported_even_if_it_was_removed() {
    let left = left(try_system_test(LEAVING, 1, |test| async move {
        let folder = test.folder();
        std::mem::forget(File::create(folder.join("part")).unwrap());
        std::mem::forget(File::create(folder.join("removed")).unwrap());
        std::fs::remove_file(folder.join("removed")).unwrap();
        drop(File::create(folder.join("closed")).unwrap());
    }));
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].ends_with("/part") && left[1].contains("/removed"), "{left:?}");
}

#[test]
fn a_socket_that_is_left_is_reported_on_either_side_and_after_a_reset() {
    let listening = left(try_system_test(LEAVING, 1, |test| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _watch = test.watch(listener.local_addr().unwrap());
        std::mem::forget(listener);
    }));
    assert!(matches!(&listening[..], [one] if one.contains("listens on port")), "{listening:?}");

    for reset in [false, true] {
        let connected = left(try_system_test(LEAVING, 1, move |test| async move {
            let (target, _talking) = talker(&test, b"x").await;
            let end = if reset { Way::ends(1, End::Reset) } else { Way::default() };
            let proxy = FaultProxy::start(&test, target, vec![Fault::to_client(end)]);
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            let _ = stream.read(&mut [0]).await;
            proxy.until(|traffic| !reset || traffic.open == 0).await;
            std::mem::forget(stream.into_std().unwrap());
        }));
        let said = if reset { "a socket that was reset" } else { "the socket from port" };
        assert!(matches!(&connected[..], [one] if one.contains(said)), "reset: {reset}, {connected:?}");
    }
}

#[test]
fn a_socket_on_a_port_that_another_test_got_is_not_reported() {
    system_test(|test| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let watch = test.watch(address);
        drop(listener);
        drop(watch);
        // The kernel may give the port to anybody now.
        std::mem::forget(TcpListener::bind(address).await.unwrap().into_std().unwrap());
    });
}

#[test]
fn a_panic_is_reported_wherever_it_happens() {
    let body = panicked(try_system_test(LONG, 1, |_| async { panic!("in the body") }));
    assert!(body.contains("in the body") && body.contains("kit.rs"), "{body}");

    let actor = panicked(try_system_test(LONG, 1, |_| async {
        let soldier = Soldier.start();
        assert!(soldier.send(Die("in an actor")).await.is_err());
    }));
    assert!(actor.contains("in an actor"), "{actor}");

    let other_thread = panicked(try_system_test(LONG, 1, |_| async {
        let arbiter = arbiter();
        let soldier = Soldier::start_in_arbiter(&arbiter.handle(), |_| Soldier);
        assert!(soldier.send(Die("on an arbiter")).await.is_err());
        arbiter.stop();
        arbiter.join().unwrap();
    }));
    assert!(other_thread.contains("on an arbiter"), "{other_thread}");

    let task = panicked(try_system_test(LONG, 1, |_| async {
        assert!(tokio::spawn(async { panic!("in a task") }).await.is_err());
    }));
    assert!(task.contains("in a task"), "{task}");

    let blocking = panicked(try_system_test(LONG, 1, |_| async {
        assert!(tokio::task::spawn_blocking(|| panic!("on a blocking thread")).await.is_err());
    }));
    assert!(blocking.contains("on a blocking thread"), "{blocking}");
}

#[test]
fn a_panic_ends_the_test_that_waits_for_something_else() {
    let started = Instant::now();
    let panics = panicked(try_system_test(LONG, 1, |_| async {
        Soldier.start().do_send(Die("unseen"));
        std::future::pending().await
    }));
    assert!(panics.contains("unseen"), "{panics}");
    assert!(started.elapsed() < LONG.deadline);
}

#[test]
fn a_panic_is_the_tests_own_though_others_run_beside_it() {
    let beside = std::thread::spawn(|| {
        try_system_test(LONG, 1, |_| async {
            for round in 0..200 {
                tokio::task::spawn_blocking(move || round).await.unwrap();
            }
        })
    });
    for _ in 0..20 {
        let panics = panicked(try_system_test(LONG, 1, |_| async { panic!("mine") }));
        assert_eq!(panics.lines().count(), 1, "{panics}");
    }
    beside.join().unwrap().unwrap();
}

#[test]
fn an_announced_panic_has_to_come() {
    system_test(|test| async move {
        test.expect_panic("at your orders");
        assert!(Soldier.start().send(Die("at your orders")).await.is_err());
    });
    let result = try_system_test(LONG, 1, |test| async move { test.expect_panic("never") });
    assert!(matches!(result, Err(Failure::NoPanic(_))), "{result:?}");
}

#[test]
fn the_deadline_says_what_was_waited_for() {
    let failure = try_system_test(SHORT, 1, |test| async move {
        test.wait_for("what comes", std::future::ready(())).await;
        test.wait_for("the source to be dropped", std::future::pending::<()>()).await;
    })
    .unwrap_err();
    assert_eq!(failure.to_string(), "the deadline passed; waited for:\n  the source to be dropped");
}

#[test]
fn a_thread_that_is_blocked_is_reported_too() {
    let failure = try_system_test(SHORT, 1, |test| async move {
        test.wait_for("a lock that nobody opens", async { std::thread::park_timeout(LONG.deadline) }).await;
    })
    .unwrap_err();
    assert!(matches!(&failure, Failure::Stuck(waits) if waits.len() == 1), "{failure}");
}

#[test]
fn a_failure_says_how_to_repeat_it_and_a_seed_repeats_it() {
    let failure = std::panic::catch_unwind(|| system_test(|_| async { panic!("once") })).unwrap_err();
    let failure = failure.downcast::<String>().unwrap();
    assert!(failure.contains("once") && failure.contains("to repeat it: ENXAME_SEED="), "{failure}");
    assert!(failure.contains("cargo test --test kit"), "{failure}");

    let drawn = |seed| {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        try_system_test(LONG, seed, move |test| async move {
            tell.send((test.seed(), test.rng().u64(..), test.rng().u64(..))).unwrap();
        })
        .unwrap();
        told.recv().unwrap()
    };
    assert_eq!(drawn(7), drawn(7));
    assert_ne!(drawn(7), drawn(8));
    let (_, first, second) = drawn(7);
    assert_ne!(first, second);
}

// ---- contents and the second tree ----

#[test]
fn the_second_tree_comes_to_the_hash_of_the_whole_file() {
    let mut rng = fastrand::Rng::with_seed(1);
    let many_spans = (2..20).flat_map(|spans| [spans * SPAN - 1, spans * SPAN, spans * SPAN + 1]);
    for size in SIZES.into_iter().map(|(size, _)| size).chain(many_spans) {
        let content = Content::random(&mut rng, size);
        assert_eq!(content.data.len(), size);
        if content.geometry.is_single() {
            assert!(content.values.is_empty() && size <= SPAN);
        } else {
            assert_eq!(content.values.len(), content.geometry.spans());
            assert_eq!(FileId::from_bytes(tree::id_of(&content.values)), content.id, "{size} bytes");
        }
    }
}

// ---- the proxy ----

/// A server that sends `data` to whoever connects, counts nothing, and reads until the end.
async fn talker(test: &Test, data: &[u8]) -> (SocketAddr, (JoinSet<()>, support::harness::PortWatch)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let watch = test.watch(address);
    let data = Bytes::copy_from_slice(data);
    let mut talking = JoinSet::new();
    talking.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let data = data.clone();
            connections.spawn(async move {
                // Whatever the proxy does to it is meant.
                let _ = stream.write_all(&data).await;
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    (address, (talking, watch))
}

/// What a client reads through this fault, and how it ends.
async fn through(test: &Test, target: SocketAddr, fault: Fault) -> (Vec<u8>, Result<(), ErrorKind>, Traffic) {
    let proxy = FaultProxy::start(test, target, vec![fault]);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let mut read = Vec::new();
    let end = stream.read_to_end(&mut read).await.map(|_| ()).map_err(|error| error.kind());
    drop(stream);
    (
        read,
        end,
        test.wait_for("the proxy's connection to end", proxy.until(|traffic| traffic.open == 0)).await,
    )
}

#[test]
fn the_proxy_changes_nothing_unless_told() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 300_000);
        let (target, _talking) = talker(&test, &content.data).await;
        let pieces = Way { piece_bytes: Some(1000), ..Way::default() };
        let late = Way { latency: Duration::from_millis(30), ..Way::default() };
        for fault in [Fault::none(), Fault::to_client(pieces), Fault::to_client(late)] {
            let (read, end, traffic) = through(&test, target, fault).await;
            assert!(read == content.data && end == Ok(()), "{} bytes, {end:?}", read.len());
            assert_eq!(traffic, Traffic { connections: 1, to_client: 300_000, ..Traffic::default() });
        }
    });
}

#[test]
fn the_proxy_cuts_at_the_byte_by_fin_and_by_reset() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 100_000);
        let (target, _talking) = talker(&test, &content.data).await;
        for bytes in [0, 1, 4096, 16_384, 16_385, 99_999] {
            let (read, end, traffic) =
                through(&test, target, Fault::to_client(Way::ends(bytes, End::Fin))).await;
            assert_eq!((&read[..], end), (&content.data[..bytes as usize], Ok(())), "FIN at {bytes}");
            assert_eq!(traffic.to_client, bytes);

            let (read, end, traffic) =
                through(&test, target, Fault::to_client(Way::ends(bytes, End::Reset))).await;
            assert_eq!(end, Err(ErrorKind::ConnectionReset), "RST at {bytes}");
            assert!(content.data.starts_with(&read) && read.len() as u64 <= bytes);
            assert_eq!(traffic.to_client, bytes);
        }
    });
}

#[test]
fn the_proxy_flips_the_one_bit() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 50_000);
        let (target, _talking) = talker(&test, &content.data).await;
        for (byte, bit) in [(0, 0), (1, 7), (16_384, 3), (49_999, 4)] {
            let (mut read, end, _) = through(&test, target, Fault::to_client(Way::flips(byte, bit))).await;
            assert_ne!(read, content.data);
            read[byte as usize] ^= 1 << bit;
            assert!(read == content.data && end == Ok(()), "byte {byte}");
        }
    });
}

#[test]
fn the_proxy_flips_a_bit_in_as_many_stretches_as_it_is_told() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 1_000_000);
        let (target, _talking) = talker(&test, &content.data).await;
        for (probability, flipped) in [(0.0, 0..=0), (0.1, 50..=150), (1.0, 1000..=1000)] {
            let noise = Way { noise: Some((1000, probability)), ..Way::default() };
            let (read, end, traffic) = through(&test, target, Fault::to_client(noise)).await;
            assert_eq!((read.len(), end), (content.data.len(), Ok(())));
            let bits = |(a, b): (&[u8], &[u8])| -> u64 {
                a.iter().zip(b).map(|(a, b)| u64::from((a ^ b).count_ones())).sum()
            };
            let flips: Vec<u64> = read.chunks(1000).zip(content.data.chunks(1000)).map(bits).collect();
            assert!(flips.iter().all(|flips| *flips <= 1), "one in a stretch");
            let flips: u64 = flips.iter().sum();
            assert!(flipped.contains(&flips) && traffic.flips == flips, "{flips} and {traffic:?}");
        }
    });
}

#[test]
fn the_proxy_takes_the_time_it_is_told() {
    system_test(|test| async move {
        let (target, _talking) = talker(&test, &[7; 20_000]).await;
        let started = Instant::now();
        let slow = Way { rate_bytes_s: Some(100_000), ..Way::default() };
        let (read, _, _) = through(&test, target, Fault::to_client(slow)).await;
        // 0.2 s, less the first piece, which leaves at once.
        assert!(
            read.len() == 20_000 && started.elapsed() >= Duration::from_millis(170),
            "{:?}",
            started.elapsed()
        );

        let started = Instant::now();
        let late = Way { latency: Duration::from_millis(100), ..Way::default() };
        let (read, _, _) = through(&test, target, Fault::to_client(late)).await;
        assert!(
            read.len() == 20_000 && started.elapsed() >= Duration::from_millis(100),
            "{:?}",
            started.elapsed()
        );
    });
}

#[test]
fn the_proxy_swallows_and_refuses_by_a_script_that_repeats() {
    system_test(|test| async move {
        let (target, _talking) = talker(&test, &[7; 1000]).await;
        let hole = Fault::to_client(Way::ends(600, End::BlackHole));
        let proxy = FaultProxy::start(&test, target, vec![hole, Fault::refuse(), Fault::none()]);
        for round in 1..=2 {
            let mut swallowed = TcpStream::connect(proxy.address()).await.unwrap();
            swallowed.read_exact(&mut [0; 600]).await.unwrap();
            let more = swallowed.try_read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(more, Err(ErrorKind::WouldBlock));

            let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
            let end = refused.read(&mut [0]).await.map_err(|error| error.kind());
            assert_eq!(end, Err(ErrorKind::ConnectionReset));

            let mut read = Vec::new();
            let mut whole = TcpStream::connect(proxy.address()).await.unwrap();
            whole.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, [7; 1000]);
            assert_eq!(proxy.traffic().connections, round * 3);
            // The other end of a hole learns nothing.
            let still = swallowed.try_read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(still, Err(ErrorKind::WouldBlock));
        }

        let nobody = RefusingAddress::new();
        let refused = TcpStream::connect(nobody.address()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

// ---- the holder ----

/// Reads and writes frames as a getter does, and believes nothing.
struct Getter {
    stream: TcpStream,
    buffer: BytesMut,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Message(FromHolder),
    Blocks(u64, Bytes),
    End,
}

impl Getter {
    async fn greeted(holder: &FakeHolder) -> Getter {
        let stream = TcpStream::connect(holder.address()).await.unwrap();
        let mut getter = Getter { stream, buffer: BytesMut::new() };
        getter.say(ToHolder::Hello(Hello::new("getter".parse().unwrap()))).await;
        let hello = getter.hear().await;
        assert!(matches!(hello, Heard::Message(FromHolder::Hello(_)) | Heard::End), "{hello:?}");
        getter
    }

    async fn say(&mut self, message: ToHolder) {
        let mut frame = Vec::new();
        enxame_actors::wire::encode(&message, &mut frame).unwrap();
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn open(&mut self, content: &Content) -> Heard {
        self.say(ToHolder::Open { id: content.id, manifest: true }).await;
        self.hear().await
    }

    async fn get(&mut self, content: &Content, spans: std::ops::Range<u32>) {
        self.say(ToHolder::Get { id: content.id, run: content.geometry.run(&spans), fresh: false }).await;
    }

    async fn hear(&mut self) -> Heard {
        loop {
            if let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() {
                let (prefix, len, control) =
                    match FrameHeader::parse(*header, FrameLimits::with_blocks(SPAN)).unwrap() {
                        FrameHeader::Control { len } => (0, len, true),
                        FrameHeader::Blocks { data_len } => (BLOCKS_PREFIX_BYTES, data_len, false),
                    };
                if self.buffer.len() >= HEADER_BYTES + prefix + len {
                    self.buffer.advance(HEADER_BYTES);
                    let first = if control { 0 } else { self.buffer.get_u64() };
                    let body = self.buffer.split_to(len).freeze();
                    return match control {
                        true => Heard::Message(enxame_actors::wire::decode(&body).unwrap()),
                        false => Heard::Blocks(first, body),
                    };
                }
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return Heard::End;
            }
        }
    }
}

fn first_block(content: &Content, span: u32) -> u64 {
    content.geometry.first_block(content.geometry.span(span.into()).unwrap())
}

fn blocks(content: &Content, span: u32) -> Heard {
    Heard::Blocks(first_block(content, span), content.span(span).unwrap())
}

fn opened_all(content: &Content) -> Heard {
    let manifest = !content.geometry.is_single();
    Heard::Message(FromHolder::Opened { id: content.id, size: content.size(), spans: None, manifest })
}

fn manifest(content: &Content) -> Heard {
    Heard::Message(FromHolder::Manifest { id: content.id, values: content.values.concat().into() })
}

#[test]
fn an_honest_holder_delivers_every_size_and_says_what_it_was_asked() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let contents: Vec<Content> = SIZES.iter().map(|(size, _)| Content::random(&mut rng, *size)).collect();
        let holder = FakeHolder::start(&test, "p1", &contents, Behaviour::Honest);
        let mut getter = Getter::greeted(&holder).await;
        for content in &contents {
            assert_eq!(getter.open(content).await, opened_all(content));
            if !content.geometry.is_single() {
                assert_eq!(getter.hear().await, manifest(content));
            }
            let spans = content.geometry.spans() as u32;
            getter.get(content, 0..spans).await;
            for span in 0..spans {
                assert_eq!(getter.hear().await, blocks(content, span));
            }
        }
        let unknown = Content::of("nobody has this");
        assert_eq!(getter.open(&unknown).await, Heard::Message(FromHolder::Missing { id: unknown.id }));
        drop(getter);
        let asked = holder.until(|asked| asked.last() == Some(&(1, Asked::Closed))).await;
        assert_eq!(asked.len(), 1 + 1 + contents.len() * 2 + 1 + 1);
        let mut ids: Vec<FileId> = contents.iter().map(|content| content.id).collect();
        ids.push(unknown.id);
        assert_eq!(opened(&asked), ids);
    });
}

#[test]
fn each_misbehaviour_is_what_it_says() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN + 5000);
        let ask = async |behaviour| {
            let holder = FakeHolder::start(&test, "p1", std::slice::from_ref(&content), behaviour);
            let mut getter = Getter::greeted(&holder).await;
            let opened = getter.open(&content).await;
            (holder, getter, opened)
        };
        let missing = || Heard::Message(FromHolder::Missing { id: content.id });

        let (holder, mut getter, _) = ask(Behaviour::StallAfter(2)).await;
        getter.hear().await;
        getter.get(&content, 0..4).await;
        assert_eq!([getter.hear().await, getter.hear().await], [blocks(&content, 0), blocks(&content, 1)]);
        getter.get(&content, 3..4).await;
        let gets = |asked: &[(u64, Asked)]| {
            asked.iter().filter(|(_, asked)| matches!(asked, Asked::Said(ToHolder::Get { .. }))).count()
        };
        holder.until(|asked| gets(asked) == 2).await;
        let more = getter.stream.try_read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(more, Err(ErrorKind::WouldBlock), "stalled, but it reads on");

        let frozen = FakeHolder::start(&test, "p1", std::slice::from_ref(&content), Behaviour::Freeze(1));
        let mut first = Getter::greeted(&frozen).await;
        first.get(&content, 0..2).await;
        assert_eq!(first.hear().await, blocks(&content, 0));
        let mut second = Getter::greeted(&frozen).await;
        assert_eq!(second.open(&content).await, opened_all(&content), "it greets and opens");
        second.hear().await;
        second.get(&content, 1..2).await;
        frozen.until(|asked| gets(asked) == 2).await;
        for getter in [first, second] {
            let more = getter.stream.try_read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(more, Err(ErrorKind::WouldBlock), "and sends no span more");
        }

        for at in [1, 50, 200, 1000, SPAN as u64 + 300] {
            let holder =
                FakeHolder::start(&test, "p1", std::slice::from_ref(&content), Behaviour::CloseAt(at));
            let mut stream = TcpStream::connect(holder.address()).await.unwrap();
            let mut said = Vec::new();
            for message in [
                ToHolder::Hello(Hello::new("getter".parse().unwrap())),
                ToHolder::Open { id: content.id, manifest: true },
                ToHolder::Get { id: content.id, run: content.geometry.run(&(0..4)), fresh: false },
            ] {
                enxame_actors::wire::encode(&message, &mut said).unwrap();
            }
            stream.write_all(&said).await.unwrap();
            let mut read = Vec::new();
            stream.read_to_end(&mut read).await.unwrap();
            assert_eq!(read.len() as u64, at);
        }

        let (_holder, mut getter, _) = ask(Behaviour::FlipBit(1)).await;
        getter.hear().await;
        getter.get(&content, 0..2).await;
        assert_eq!(getter.hear().await, blocks(&content, 0));
        let Heard::Blocks(first, wrong) = getter.hear().await else { panic!("no blocks") };
        let right = content.span(1).unwrap();
        let bits: u32 = right.iter().zip(&wrong).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!((first, wrong.len(), bits), (64, right.len(), 1));

        let (_holder, mut getter, _) = ask(Behaviour::OtherFile).await;
        getter.hear().await;
        getter.get(&content, 3..4).await;
        let Heard::Blocks(192, wrong) = getter.hear().await else { panic!("no blocks") };
        assert!(wrong.len() == 5000 && wrong != content.span(3).unwrap());

        for says in [Says::Complete, Says::InOpened, Says::ByHave] {
            let (holder, mut getter, opened) = ask(Behaviour::FalseHave(says, [1].into())).await;
            assert_eq!(holder.listed().complete, says == Says::Complete);
            let Heard::Message(FromHolder::Opened { spans, .. }) = opened else { panic!("{opened:?}") };
            let told = spans.map(|spans| SpanSet::from_bytes(&content.geometry, &spans).unwrap().count());
            assert_eq!(getter.hear().await, manifest(&content));
            match says {
                Says::Complete => assert_eq!(told, None),
                Says::InOpened => assert_eq!(told, Some(4)),
                Says::ByHave => {
                    assert_eq!(told, Some(0));
                    let have = FromHolder::Have { id: content.id, spans: vec![0, 1, 2, 3] };
                    assert_eq!(getter.hear().await, Heard::Message(have));
                }
            }
            getter.get(&content, 1..2).await;
            assert_eq!(getter.hear().await, blocks(&content, 1));
            getter.get(&content, 2..3).await;
            assert_eq!(getter.hear().await, missing());
        }

        let (_holder, mut getter, busy) = ask(Behaviour::Busy(77)).await;
        assert_eq!(busy, Heard::Message(FromHolder::Busy { retry_after_ms: 77 }));
        getter.get(&content, 0..1).await;
        assert_eq!(getter.hear().await, busy);

        let (_holder, mut getter, _) = ask(Behaviour::WrongIndex).await;
        getter.hear().await;
        getter.get(&content, 0..1).await;
        assert_eq!(getter.hear().await, Heard::Blocks(64, content.span(0).unwrap()));

        let (_holder, mut getter, unasked) = ask(Behaviour::Unasked).await;
        assert_eq!(unasked, blocks(&content, 0));
        assert_eq!(getter.hear().await, opened_all(&content));

        let (_holder, _, opened) = ask(Behaviour::WrongSize).await;
        let (id, size) = (content.id, content.size() + 1);
        assert_eq!(opened, Heard::Message(FromHolder::Opened { id, size, spans: None, manifest: true }));

        let (_holder, mut getter, _) = ask(Behaviour::WrongManifest).await;
        let Heard::Message(FromHolder::Manifest { values, .. }) = getter.hear().await else {
            panic!("no manifest")
        };
        let values: Vec<[u8; 32]> = values.chunks(32).map(|value| value.try_into().unwrap()).collect();
        assert_ne!(FileId::from_bytes(tree::id_of(&values)), content.id);

        let holder = FakeHolder::start(&test, "p1", std::slice::from_ref(&content), Behaviour::OtherVersion);
        let mut getter = Getter::greeted(&holder).await;
        let refused = getter.hear().await;
        assert!(matches!(refused, Heard::Message(FromHolder::Refused { refusal: Refusal::Version, .. })));
        assert_eq!(getter.hear().await, Heard::End);
    });
}

#[test]
fn a_partial_holder_tells_what_it_gains() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN + 1);
        let some = Behaviour::Partial([0, 2].into());
        let holder = FakeHolder::start(&test, "p1", std::slice::from_ref(&content), some);
        assert!(!holder.listed().complete);
        let mut getter = Getter::greeted(&holder).await;
        let Heard::Message(FromHolder::Opened { spans: Some(spans), .. }) = getter.open(&content).await
        else {
            panic!("not opened as a part")
        };
        let spans = SpanSet::from_bytes(&content.geometry, &spans).unwrap();
        assert_eq!(spans.count(), 2);
        assert_eq!(getter.hear().await, manifest(&content));
        getter.get(&content, 0..2).await;
        assert_eq!(getter.hear().await, blocks(&content, 0));
        assert_eq!(getter.hear().await, Heard::Message(FromHolder::Missing { id: content.id }));

        // Span 2 is known and span 9 is none of this file.
        holder.gain([1, 2, 3, 9]);
        assert_eq!(
            getter.hear().await,
            Heard::Message(FromHolder::Have { id: content.id, spans: vec![1, 3] })
        );
        getter.get(&content, 1..2).await;
        assert_eq!(getter.hear().await, blocks(&content, 1));
    });
}

#[test]
fn a_trickling_holder_takes_its_time() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 10_000);
        let holder =
            FakeHolder::start(&test, "p1", std::slice::from_ref(&content), Behaviour::Trickle(50_000));
        let started = Instant::now();
        let mut getter = Getter::greeted(&holder).await;
        getter.get(&content, 0..1).await;
        assert_eq!(getter.hear().await, blocks(&content, 0));
        assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
        assert!(started.elapsed() < STALL_TIMEOUT * 3, "{:?}", started.elapsed());
    });
}

#[test]
fn a_late_holder_greets_late_and_is_honest() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 100);
        let holder = FakeHolder::start(&test, "p1", std::slice::from_ref(&content), Behaviour::Late(50));
        let started = Instant::now();
        let mut getter = Getter::greeted(&holder).await;
        assert!(started.elapsed() >= Duration::from_millis(50), "{:?}", started.elapsed());
        getter.get(&content, 0..1).await;
        assert_eq!(getter.hear().await, blocks(&content, 0));
    });
}

#[test]
fn a_holder_hangs_up_on_who_asks_for_half_a_span() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 2 * SPAN);
        let holder = FakeHolder::start(&test, "p1", std::slice::from_ref(&content), Behaviour::Honest);
        let mut getter = Getter::greeted(&holder).await;
        getter
            .say(ToHolder::Get { id: content.id, run: BlockRun { first: 1, count: 64 }, fresh: false })
            .await;
        assert_eq!(getter.hear().await, Heard::End);
    });
}

// ---- the tracker and the peer ----

fn listing(name: &str, content: &Content) -> Listing {
    Listing { name: name.parse().unwrap(), id: content.id, size: content.size(), complete: true }
}

#[test]
fn a_tracker_answers_by_its_script() {
    system_test(|test| async move {
        let content = Content::of("a file");
        let holder = FakeHolder::start(&test, "p1", std::slice::from_ref(&content), Behaviour::Honest);
        let known = candidate(&content, &["a", "b/c"], vec![holder.listed()]);
        let tracker =
            FakeTracker::start(&test, Script { candidates: vec![known.clone()], ..Script::default() });
        let peer = RawPeer::connect(tracker.address(), "p2").await.unwrap();
        let found = FromTracker::Candidates { candidates: vec![known] };
        assert_eq!(peer.who_has("b/c").await.unwrap(), found);
        let nothing = FromTracker::Candidates { candidates: vec![] };
        assert_eq!(peer.who_has("c").await.unwrap(), nothing);
        let registered = peer.register(1, 2, vec![]).await.unwrap();
        assert!(matches!(registered, FromTracker::Registered { .. }));

        tracker.change(|script| script.candidates.clear());
        assert_eq!(peer.who_has("a").await.unwrap(), nothing);
        tracker.change(|script| script.refuse = Some(Refusal::PeerIdTaken));
        let refused = peer.register(1, 2, vec![]).await.unwrap();
        assert!(matches!(refused, FromTracker::Refused { refusal: Refusal::PeerIdTaken, .. }));

        let told = tracker.told();
        assert_eq!(told.len(), 6, "{told:?}");
        assert!(matches!(&told[0], (1, ToTracker::Hello(hello)) if hello.version == VERSION));

        tracker.change(|script| script.cuts += 1);
        assert!(matches!(peer.ended().await, LinkError::Closed));
        // The next connection is served as before.
        let peer = RawPeer::connect(tracker.address(), "p2").await.unwrap();
        peer.who_has("a").await.unwrap();
        peer.disconnect().await;
        tracker.until(|told| told.last() == Some(&(2, ToTracker::Disconnect))).await;
    });
}

#[test]
fn a_peer_confirms_the_list_it_told_unless_it_is_told_not_to() {
    system_test(|test| async move {
        let tracker = FakeTracker::start(&test, Script::default());
        let peer = RawPeer::connect(tracker.address(), "p1").await.unwrap();
        let (a, b, c) = (Content::of("a"), Content::of("b"), Content::of("c"));
        peer.register(1, 2, vec![listing("a", &a), listing("b", &b)]).await.unwrap();
        peer.ask(ToTracker::NewFile { files: vec![listing("c", &c), listing("a", &a)] }).await.unwrap();
        peer.ask(ToTracker::RemoveFile { files: vec![("b".parse().unwrap(), b.id)] }).await.unwrap();
        let digest: ListDigest = [listing("a", &a), listing("c", &c)].iter().collect();

        tracker.change(|script| script.confirm = Some(digest));
        let confirmed =
            |told: &[(u64, ToTracker)]| matches!(told.last(), Some((_, ToTracker::Confirmed { .. })));
        let told = test.wait_for("CONFIRMED", tracker.until(confirmed)).await;
        assert_eq!(told.last(), Some(&(1, ToTracker::Confirmed { digest })));

        peer.answer_confirms(false);
        tracker.change(|script| script.confirm = Some(ListDigest::default()));
        assert_eq!(peer.confirms(2).await.unwrap(), [digest, ListDigest::default()]);
        // A CONFIRMED would stand in front of this.
        peer.who_has("a").await.unwrap();
        assert_eq!(tracker.told().len(), told.len() + 1);
    });
}

#[test]
fn a_silent_tracker_says_nothing() {
    system_test(|test| async move {
        let tracker = FakeTracker::start(&test, Script { silent: true, ..Script::default() });
        let mut stream = TcpStream::connect(tracker.address()).await.unwrap();
        let mut hello = Vec::new();
        let greeting = ToTracker::Hello(Hello::new("p1".parse().unwrap()));
        enxame_actors::wire::encode(&greeting, &mut hello).unwrap();
        stream.write_all(&hello).await.unwrap();
        tracker.until(|told| told.len() == 1).await;
        assert_eq!(stream.try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}
