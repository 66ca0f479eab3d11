//! The binary as a process among others: few descriptors, what it logs and leaves, whom it connects to.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use support::binary::{Process, enxame, quiet, ran};
use support::files::SPAN;
use support::{Content, RawPeer, Test, system_test, system_test_within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A tracker and a peer of the binary, made by `run` from their arguments, with a folder that the peer shares.
struct Network {
    tracker: Process,
    at: SocketAddr,
    peer: Process,
    /// Where the peer serves.
    serves_at: SocketAddr,
    root: PathBuf,
}

impl Network {
    async fn start(test: &Test, run: impl Fn(&[&OsStr]) -> Command, fill: impl Fn(&Path)) -> Network {
        let root = test.folder();
        let files = root.join("p1/files");
        fs::create_dir_all(&files).unwrap();
        fill(&files);
        let mut tracker = Process::start(test, run(&os(&["tracker", "--json", "--listen", "127.0.0.1:0"])));
        let at = tracker.ready().await;
        let text = at.to_string();
        let mut args = os(&["peer", "p1", "--json", "--listen", "127.0.0.1:0", "--tracker", &text, "--root"]);
        args.push(root.as_os_str());
        let mut peer = Process::start(test, run(&args));
        let serves_at = peer.ready().await;
        Network { tracker, at, peer, serves_at, root }
    }

    /// Ends both; what they have said.
    async fn end(self) -> [String; 2] {
        let (status, peer) = self.peer.end(Signal::TERM).await;
        assert!(status.success(), "{status}: {peer}");
        let (status, tracker) = self.tracker.end(Signal::TERM).await;
        assert!(status.success(), "{status}: {tracker}");
        [peer, tracker]
    }
}

fn os<'a>(args: &[&'a str]) -> Vec<&'a OsStr> {
    args.iter().map(|arg| OsStr::new(*arg)).collect()
}

#[test]
fn a_full_run_goes_through_with_sixty_four_descriptors_for_each() {
    const SMALL: usize = 300;
    system_test_within(Duration::from_secs(180), |test| async move {
        let large = Content::random(&mut test.rng(), 40 * SPAN + 7);
        let small: Vec<Content> = (0..SMALL).map(|n| Content::random(&mut test.rng(), 100 + n)).collect();
        let run = |args: &[&OsStr]| {
            let mut command = Command::new("sh");
            command.args(["-c", "ulimit -n 64 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_enxame")]);
            command.args(args);
            quiet(command)
        };
        let fill = |files: &Path| {
            (0..12).for_each(|n| drop(large.write(files, &format!("tree/large{n}"))));
            small
                .iter()
                .enumerate()
                .for_each(|(n, content)| drop(content.write(files, &format!("tree/s{n}"))));
        };
        let network = Network::start(&test, run, fill).await;
        let at = network.at.to_string();
        let got = async || {
            let to = test.folder();
            let mut args = os(&["get", "tree/", "--tracker", &at, "-o"]);
            args.push(to.as_os_str());
            let got = ran(&test, run(&args)).await;
            assert_eq!(got.code, Some(0), "{}", got.stderr);
            assert!((0..12).all(|n| large.stands_at(&to.join(format!("large{n}")))));
            assert!(
                small.iter().enumerate().all(|(n, content)| content.stands_at(&to.join(format!("s{n}"))))
            );
        };
        tokio::join!(got(), got(), got());
        network.end().await;
    });
}

/// Rows 4 and 8 of SECURITY.md.
#[test]
fn who_breaks_the_protocol_is_logged_once_with_the_reason() {
    system_test(|test| async move {
        let run = |args: &[&OsStr]| {
            let mut command = enxame(args);
            command.env("ENXAME_VERBOSE", "1");
            command
        };
        let network = Network::start(&test, run, |_| ()).await;
        let mut strangers = Vec::new();
        for at in [network.at, network.serves_at] {
            let mut stream = TcpStream::connect(at).await.unwrap();
            strangers.push(stream.local_addr().unwrap().to_string());
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            // It is closed, with a refusal or without; what was not read yet makes it a reset.
            let _ = test.wait_for("the end", stream.read_to_end(&mut Vec::new())).await;
        }
        // It may be logged after the connection was closed.
        for (stranger, who) in strangers.iter().zip([&network.tracker, &network.peer]) {
            let is_logged = async {
                while !who.said().contains(stranger) {
                    tokio::task::yield_now().await;
                }
            };
            test.wait_for(format!("{stranger} to be logged"), is_logged).await;
        }
        let [peer, tracker] = network.end().await;
        for (stranger, log) in strangers.iter().zip([tracker, peer]) {
            let told: Vec<&str> = log.lines().filter(|line| line.contains(stranger.as_str())).collect();
            assert!(matches!(told[..], [line] if line.contains("frame")), "{told:#?} in {log}");
        }
    });
}

#[test]
fn the_logs_of_a_full_run_have_nothing_of_the_content_and_the_state_is_for_its_owner_alone() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let mut line = |_| format!("secret-{:016x}\n", rng.u64(..));
        let lines: Vec<String> = (0..30_000).map(&mut line).collect();
        let [small, large] = [Content::of("a-word-that-nobody-says\n"), Content::of(lines.concat())];
        let run = |args: &[&OsStr]| {
            let mut command = enxame(args);
            command.env("ENXAME_VERBOSE", "3");
            command
        };
        let fill = |files: &Path| {
            small.write(files, "small");
            large.write(files, "large");
        };
        let network = Network::start(&test, run, fill).await;
        let (at, to) = (network.at.to_string(), test.folder());
        let mut args = os(&["get", "small", "large", "--json", "--tracker", &at, "-o"]);
        args.push(to.as_os_str());
        let got = ran(&test, run(&args)).await;
        assert_eq!(got.code, Some(0), "{}", got.stderr);
        assert!(small.stands_at(&to.join("small")) && large.stands_at(&to.join("large")));
        let state = network.root.join("p1/.enxame");
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        for entry in fs::read_dir(&state).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} is for its owner alone", entry.path().display());
        }
        let [peer, tracker] = network.end().await;
        for (who, log) in
            [("get", &got.stderr), ("get's records", &got.stdout), ("peer", &peer), ("tracker", &tracker)]
        {
            assert!(!log.contains("secret-") && !log.contains("a-word-that-nobody-says"), "{who}: {log}");
        }
        for (who, log) in [("get", &got.stderr), ("peer", &peer), ("tracker", &tracker)] {
            assert!(log.contains("TRACE"), "{who} logs all that it has: {log}");
        }
    });
}

#[test]
fn a_tracker_makes_no_connection() {
    system_test(|test| async move {
        let mut tracker = Process::start(
            &test,
            enxame(["tracker", "--json", "--listen", "127.0.0.1:0", "--refresh-interval", "200ms"]),
        );
        let at = tracker.ready().await;
        // A peer that serves at this port, as it says. Only who dials it would come there.
        let stated = TcpListener::bind("127.0.0.1:0").unwrap();
        stated.set_nonblocking(true).unwrap();
        let peer = RawPeer::connect(at, "p1").await.unwrap();
        peer.register(1, stated.local_addr().unwrap().port(), Vec::new()).await.unwrap();
        let asker = RawPeer::connect(at, "asker").await.unwrap();
        for round in 1..=5 {
            peer.confirms(round).await.unwrap();
            asker.who_has("x").await.unwrap();
            let others = ports_of(tracker.pid()).into_iter().filter(|port| *port != at.port());
            assert_eq!(
                others.collect::<Vec<u16>>(),
                Vec::<u16>::new(),
                "all its sockets are where it listens"
            );
        }
        assert_eq!(stated.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody came");
        // A peer that is gone is not looked for either.
        drop(peer);
        asker.who_has("x").await.unwrap();
        assert_eq!(stated.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(ports_of(tracker.pid()), BTreeSet::from([at.port()]));
        drop(asker);
        assert!(tracker.end(Signal::TERM).await.0.success());
    });
}

/// The local ports of a process's TCP sockets.
fn ports_of(process: Pid) -> BTreeSet<u16> {
    let place = PathBuf::from("/proc").join(process.as_raw_nonzero().to_string());
    let open = fs::read_dir(place.join("fd")).unwrap();
    let targets = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let sockets: BTreeSet<String> = targets
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let tables =
        ["net/tcp", "net/tcp6"].map(|table| fs::read_to_string(place.join(table)).unwrap_or_default());
    let port = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        sockets.contains(*fields.get(9)?).then(|| u16::from_str_radix(port, 16).ok())?
    };
    tables.iter().flat_map(|table| table.lines()).filter_map(port).collect()
}

/// A panic that was caught would leave a role without one of its actors; and a sum that wrapped, a wrong index.
#[test]
fn what_is_released_ends_when_it_panics_and_panics_when_a_sum_overflows() {
    let manifest = include_str!("../Cargo.toml");
    let (_, release) = manifest.split_once("[profile.release]").expect("there is one");
    let release = release.split("\n[").next().unwrap();
    for line in ["panic = \"abort\"", "overflow-checks = true"] {
        assert!(release.lines().any(|other| other == line), "{line}");
    }
}
