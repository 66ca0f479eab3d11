//! Many peers, one file, all at the same time; and a swarm of the binary with hardly any descriptors.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use enxame_actors::base::limits::{BUSY_RETRY, DESCRIPTOR_PATIENCE, HELLO_TIMEOUT};
use enxame_actors::net::link::LinkError;
use enxame_actors::wire::peer::{FromHolder, ToHolder};
use enxame_actors::wire::{Hello, encode};
use rustix::process::Signal;
use support::binary::{Process, enxame, quiet, ran};
use support::files::SPAN;
use support::getter::{Heard, RawGetter, blocks, get, open};
use support::job::{Watched, assert_sums_up, share, what};
use support::swarm::{NEVER, RealPeer, RealTracker};
use support::{Content, Test, system_test, system_test_within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[test]
fn seven_peers_fetch_from_one_at_the_same_time_and_all_have_the_same_file() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 40 * SPAN + 4097);
        let tracker = RealTracker::start(&test, NEVER);
        let mut peers = Vec::new();
        for n in 1..=8 {
            let fill = |files: &std::path::Path| {
                if n == 1 {
                    content.write(files, "dir/the file");
                }
            };
            peers.push(RealPeer::start(&test, tracker.address(), &format!("p{n}"), fill).await);
        }
        let fetch = |peer: &RealPeer| {
            let (events, watched) = Watched::start(&test);
            (peer.peer.fetch(vec![what("dir/the file")], false, events), watched)
        };
        let jobs: Vec<_> = peers[1..].iter().map(fetch).collect();
        for ((job, watched), peer) in jobs.into_iter().zip(&peers[1..]) {
            test.wait_for(format!("the job of {}", peer.peer.id()), job.wait()).await;
            drop(job);
            let told = watched.end().await;
            assert!(content.stands_at(&peer.files.join("dir/the file")), "{}", peer.peer.id());
            assert_sums_up(told.done());
            assert_eq!(share(told.done(), peer.peer.id().as_str()), 0, "nobody fetches from itself");
            assert_eq!(support::job::part_files(&peer.files), Vec::<std::path::PathBuf>::new());
        }
        let all_have_it = |found: &[enxame_actors::wire::tracker::Candidate]| {
            matches!(found, [one] if one.id == content.id
                && one.holder_count == 8
                && one.holders.iter().all(|holder| holder.complete))
        };
        tracker.until("eight complete holders", "dir/the file", all_have_it).await;
        for peer in peers {
            peer.stop().await;
        }
        tracker.stop().await;
    });
}

// ---- few file descriptors ----

/// This command of the binary with so many file descriptors: as it finds them, and as it may take.
fn with_descriptors(soft: u32, hard: u32, args: &[&str]) -> Command {
    let limits = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$@\"");
    let mut command = quiet(Command::new("sh"));
    command.args(["-c", &limits, "sh", env!("CARGO_BIN_EXE_enxame")]).args(args);
    command
}

#[test]
fn the_limit_of_descriptors_is_raised_as_far_as_it_may_be() {
    system_test(|test| async move {
        let args = ["tracker", "--json", "--listen", "127.0.0.1:0"];
        let mut tracker = Process::start(&test, with_descriptors(64, 500, &args));
        tracker.ready().await;
        let limits = fs::read_to_string(format!("/proc/{}/limits", tracker.pid().as_raw_nonzero())).unwrap();
        let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(open_files.split_whitespace().collect::<Vec<_>>()[3..5], ["500", "500"]);
        tracker.kill().await;
    });
}

#[test]
fn a_tracker_of_few_descriptors_says_that_it_is_full_while_it_still_can() {
    system_test(|test| async move {
        let args = ["tracker", "--json", "--listen", "127.0.0.1:0"];
        let mut tracker = Process::start(&test, with_descriptors(64, 64, &args));
        let address = tracker.ready().await;
        assert!(tracker.said().contains("this tracker takes 48 connections, 36 of them from one address"));
        let mut strangers = Vec::new();
        for _ in 0..36 {
            strangers.push(TcpStream::connect(address).await.unwrap());
        }
        let asked = ran(&test, enxame(["ls", "--tracker", &address.to_string()])).await;
        assert!(asked.stderr.contains("as many connections from this address"), "{}", asked.stderr);
        drop(strangers);
        assert!(tracker.end(Signal::TERM).await.0.success());
    });
}

#[test]
fn a_swarm_of_64_descriptors_each_finishes() {
    system_test_within(Duration::from_secs(120), |test| async move {
        let mut rng = test.rng();
        let start = |args: &[&str]| Process::start(&test, with_descriptors(64, 64, args));
        let mut tracker = start(&["tracker", "--json", "--listen", "127.0.0.1:0"]);
        let address = tracker.ready().await.to_string();
        let root = test.folder();
        let peer = |id: &str, gets: &[String]| {
            let root = root.to_str().unwrap();
            let args =
                ["peer", id, "--json", "--tracker", &address, "--root", root, "--listen", "127.0.0.1:0"];
            let gets = gets.iter().flat_map(|name| ["--get", name.as_str()]);
            start(&args.into_iter().chain(gets).collect::<Vec<_>>())
        };
        // More small files than descriptors, and large ones.
        let contents: Vec<(String, Content)> = (0..100)
            .map(|n| {
                let size = if n % 10 == 0 { 12 * SPAN + n } else { 3000 + n };
                (format!("d{}/f{n}", n % 7), Content::random(&mut rng, size))
            })
            .collect();
        let files = RealPeer::files_of(&root, "p1");
        contents.iter().for_each(|(name, content)| drop(content.write(&files, name)));
        let mut p1 = peer("p1", &[]);
        p1.ready().await;
        let names: Vec<String> = contents.iter().map(|(name, _)| name.clone()).collect();
        let others = ["p2", "p3", "p4"];
        let mut processes: Vec<Process> = others.iter().map(|id| peer(id, &names)).collect();
        for (process, id) in processes.iter_mut().zip(others) {
            for _ in &names {
                process.until("done").await;
            }
            for (name, content) in &contents {
                let path = RealPeer::files_of(&root, id).join(name);
                assert!(content.stands_at(&path), "{}", path.display());
            }
        }
        let to = test.folder();
        let mut args = vec!["get", "--json", "--tracker", &address, "-o", to.to_str().unwrap()];
        args.extend(names.iter().map(String::as_str));
        let got = ran(&test, with_descriptors(64, 64, &args)).await;
        assert_eq!(got.code, Some(0), "{}", got.stderr);
        assert_eq!(got.records("done").len(), names.len());
        for process in processes.into_iter().chain([p1, tracker]) {
            let (ended, said) = process.end(Signal::TERM).await;
            assert!(ended.success(), "{said}");
        }
    });
}

/// Waits until a process has said this.
async fn until_said(test: &Test, process: &Process, text: &str) {
    let heard = async {
        while !process.said().contains(text) {
            tokio::task::yield_now().await;
        }
    };
    test.wait_for(format!("{text:?} to be said"), heard).await;
}

/// A peer `p1` of this folder, which has 64 descriptors, and where it listens.
async fn of_few_descriptors(
    test: &Test,
    tracker: &RealTracker,
    root: &Path,
    options: &[&str],
) -> (Process, SocketAddr) {
    let (address, root) = (tracker.address().to_string(), root.to_str().unwrap());
    let args = ["peer", "p1", "--json", "--tracker", &address, "--root", root, "--listen", "127.0.0.1:0"];
    let args = [&args, options].concat();
    let mut peer = Process::start(test, with_descriptors(64, 64, &args));
    let listens_at = peer.ready().await;
    (peer, listens_at)
}

/// [`of_few_descriptors`], a getter that is connected to it, and strangers who have taken all its other ones:
/// they greet, as getters do, and ask for nothing.
async fn without_descriptors(
    test: &Test,
    tracker: &RealTracker,
    root: &Path,
) -> (Process, SocketAddr, RawGetter, Vec<TcpStream>) {
    let (peer, listens_at) = of_few_descriptors(test, tracker, root, &[]).await;
    let getter = RawGetter::greeted(test, listens_at).await;
    let mut hello = Vec::new();
    encode(&ToHolder::Hello(Hello::new("stranger".parse().unwrap())), &mut hello).unwrap();
    let connect = async || {
        let mut stranger = TcpStream::connect(listens_at).await.unwrap();
        stranger.write_all(&hello).await.unwrap();
        stranger
    };
    let mut strangers = Vec::new();
    let mut all_are_taken = Box::pin(until_said(test, &peer, "could not be accepted: Too many open files"));
    loop {
        let mut stranger = connect().await;
        let is_last = tokio::select! {
            () = &mut all_are_taken => true,
            greeted = stranger.read_u8() => greeted.is_err(),
        };
        strangers.push(stranger);
        if is_last {
            break;
        }
    }
    drop(all_are_taken);
    // What becomes free is taken by these.
    for _ in 0..16 {
        strangers.push(connect().await);
    }
    (peer, listens_at, getter, strangers)
}

#[test]
fn strangers_who_do_not_greet_keep_nobody_out_of_a_peer_of_few_descriptors() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let tracker = RealTracker::start(&test, NEVER);
        let root = test.folder();
        content.write(&RealPeer::files_of(&root, "p1"), "x");
        let (peer, listens_at) = of_few_descriptors(&test, &tracker, &root, &["-v"]).await;
        let mut strangers = Vec::new();
        for _ in 0..200 {
            strangers.push(TcpStream::connect(listens_at).await.unwrap());
        }
        let mut getter = RawGetter::greeted(&test, listens_at).await;
        getter.say(&[get(&content, 1..2)]).await;
        assert_eq!(getter.hear().await, blocks(&content, 1));
        drop((getter, strangers));
        let (ended, said) = peer.end(Signal::TERM).await;
        assert!(ended.success(), "{said}");
        assert!(
            !said.contains(&LinkError::NoHello(HELLO_TIMEOUT).to_string()),
            "it waited until the time of strangers was over: {said}"
        );
        tracker.stop().await;
    });
}

#[test]
fn a_holder_that_has_no_descriptors_for_two_seconds_tells_its_getter_to_come_back() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let tracker = RealTracker::start(&test, NEVER);
        let root = test.folder();
        content.write(&RealPeer::files_of(&root, "p1"), "x");
        let (peer, listens_at, mut getter, strangers) = without_descriptors(&test, &tracker, &root).await;
        let asked = Instant::now();
        getter.say(&[get(&content, 1..2)]).await;
        let busy = FromHolder::Busy { retry_after_ms: BUSY_RETRY.as_millis() as u32 };
        assert_eq!(getter.hear().await, Heard::Message(busy));
        assert!(asked.elapsed() >= DESCRIPTOR_PATIENCE, "it may have had some again");
        assert_eq!(getter.hear().await, Heard::End);
        drop(strangers);
        let mut getter = RawGetter::greeted(&test, listens_at).await;
        getter.say(&[get(&content, 1..2)]).await;
        assert_eq!(getter.hear().await, blocks(&content, 1));
        drop(getter);
        assert!(peer.end(Signal::TERM).await.0.success());
        tracker.stop().await;
    });
}

#[test]
fn a_peer_whose_descriptors_strangers_take_withdraws_nothing_and_answers_when_they_are_gone() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let [here, late] = [3 * SPAN, 2 * SPAN].map(|size| Content::random(&mut rng, size));
        let tracker = RealTracker::start(&test, NEVER);
        let root = test.folder();
        let files = RealPeer::files_of(&root, "p1");
        here.write(&files, "deep/er/here");
        let (peer, _, mut getter, strangers) = without_descriptors(&test, &tracker, &root).await;
        getter.say(&[open(&here, false), get(&here, 2..3)]).await;
        late.write(&files, "deep/late");
        until_said(&test, &peer, "cannot be looked at now: Too many open files").await;
        assert_eq!(tracker.who_has("deep/er/here").await.len(), 1, "it is as it was");

        drop(strangers);
        let opened = getter.hear().await;
        assert!(matches!(opened, Heard::Message(FromHolder::Opened { .. })), "{opened:?}");
        assert_eq!(getter.hear().await, blocks(&here, 2));
        tracker.until("what came meanwhile", "deep/late", |found| found.len() == 1).await;
        drop(getter);
        let (ended, said) = peer.end(Signal::TERM).await;
        assert!(ended.success(), "{said}");
        assert_eq!(said.matches("Too many open files").count(), 2, "each is told once: {said}");
        tracker.stop().await;
    });
}
