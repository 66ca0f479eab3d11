//! What of a folder is shared, and that nothing else is: links, devices, names that are one elsewhere.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};
use rustix::process::Signal;
use support::binary::{Process, enxame, ran};
use support::files::SPAN;
use support::getter::{Heard, RawGetter, blocks, get, missing, open};
use support::job::what;
use support::probe::Probe;
use support::swarm::{NEVER, RealPeer, RealTracker};
use support::{Content, system_test, system_test_within};
use tokio::task::spawn_blocking;

/// Names and contents of a folder, in order.
fn listing(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut all: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    all.sort();
    all
}

/// Row 2 of SECURITY.md.
#[test]
fn a_folder_that_is_swapped_for_a_link_during_transfers_leads_out_of_the_share_neither_way() {
    const SWAPS: usize = 10_000;
    const ANSWERS: usize = 2_000;
    system_test_within(Duration::from_secs(120), |test| async move {
        let mut rng = test.rng();
        let sizes = [4000, 3 * SPAN + 5];
        let inside = sizes.map(|size| Content::random(&mut rng, size));
        let secret = sizes.map(|size| Content::random(&mut rng, size));
        let wanted: Vec<Content> = (0..20).map(|n| Content::random(&mut rng, 1 + n * 20_000)).collect();
        let outside = test.folder();
        for (content, name) in secret.iter().zip(["0", "1"]) {
            content.write(&outside, name);
        }
        let before = listing(&outside);
        let tracker = RealTracker::start(&test, NEVER);
        let other = RealPeer::start(&test, tracker.address(), "other", |files| {
            for (n, content) in wanted.iter().enumerate() {
                content.write(files, &format!("real/new{n}"));
            }
        })
        .await;
        let peer = RealPeer::start(&test, tracker.address(), "p1", |files| {
            for (content, name) in inside.iter().zip(["real/0", "real/1"]) {
                content.write(files, name);
            }
            symlink(&outside, files.join("link")).unwrap();
        })
        .await;

        // It writes below the folder that is swapped, too.
        let (events, _told) = Probe::start();
        let wants = (0..wanted.len()).map(|n| what(&format!("real/new{n}"))).collect();
        let fetching = peer.peer.fetch(wants, false, events);
        let answers = Arc::new(AtomicUsize::new(0));
        let (files, answered) = (peer.files.clone(), Arc::clone(&answers));
        let swapping = spawn_blocking(move || {
            let (real, link) = (files.join("real"), files.join("link"));
            let mut swaps = 0;
            while swaps < SWAPS || answered.load(Ordering::Relaxed) < ANSWERS {
                // Twice: at the end each is what it was.
                for _ in 0..2 {
                    renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                }
                swaps += 2;
            }
        });
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        let (mut served, mut refused) = (0, 0);
        while !swapping.is_finished() {
            for (inside, secret) in inside.iter().zip(&secret) {
                let span = rng.u32(..inside.geometry.spans() as u32);
                getter.say(&[get(inside, span..span + 1)]).await;
                match getter.hear().await {
                    heard if heard == blocks(inside, span) => served += 1,
                    heard if heard == missing(inside) => refused += 1,
                    // It was found changed in the middle of a span.
                    Heard::End => getter = RawGetter::greeted(&test, peer.peer.address()).await,
                    heard => panic!("{heard:?}"),
                }
                for request in [open(secret, true), get(secret, span..span + 1)] {
                    getter.say(&[request]).await;
                    assert_eq!(getter.hear().await, missing(secret));
                }
            }
            answers.store(served + refused, Ordering::Relaxed);
        }
        swapping.await.unwrap();
        println!("{served} spans were served and {refused} refused meanwhile");
        for content in &inside {
            let id = content.id.to_string();
            tracker.until("it again", &id, |found| !found.is_empty()).await;
        }
        for content in &secret {
            assert_eq!(tracker.who_has(&content.id.to_string()).await, []);
        }
        fetching.cancel();
        test.wait_for("the job to end", fetching.wait()).await;
        assert!(listing(&outside) == before, "something was written outside");
        drop(getter);
        peer.stop().await;
        other.stop().await;
        tracker.stop().await;
    });
}

/// Rows 2 and 3 of SECURITY.md.
#[test]
fn what_is_not_shared_is_counted_when_the_peer_is_ready_and_each_has_its_reason() {
    system_test(|test| async move {
        let root = test.folder();
        let files = RealPeer::files_of(&root, "p1");
        let content = Content::of("shared");
        content.write(&files, "other");
        let mut reasons: Vec<(&str, &str)> = Vec::new();
        let mut leaves_out = |name, why| reasons.push((name, why));
        for (name, with) in [("readme", "README"), ("sub/\u{e9}", "sub/e\u{301}")] {
            content.write(&files, name);
            content.write(&files, with);
            leaves_out(name, with);
        }
        content.write(&files, "aux.txt");
        leaves_out("aux.txt", "reserved on Windows");
        let link = "no link is followed";
        symlink("nowhere", files.join("dangling")).unwrap();
        leaves_out("dangling", link);
        symlink("loop", files.join("loop")).unwrap();
        leaves_out("loop", link);
        symlink("README", files.join("alias")).unwrap();
        leaves_out("alias", link);
        symlink("..", files.join("up")).unwrap();
        leaves_out("up", link);
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, files.join("fifo"), FileType::Fifo, mode, 0).unwrap();
        leaves_out("fifo", "only regular files");
        // Not everybody may make a device; of /dev/zero, which would never end.
        if mknodat(CWD, files.join("zero"), FileType::CharacterDevice, mode, makedev(1, 5)).is_ok() {
            leaves_out("zero", "only regular files");
        }
        // More than are named without -v.
        let many: Vec<String> = (0..30).map(|n| format!("many/{n:02} ")).collect();
        for name in &many {
            content.write(&files, name);
            leaves_out(name, "ends with a dot or a space");
        }
        let tracker = RealTracker::start(&test, NEVER);
        let tracked = tracker.address().to_string();
        let mut peer =
            enxame(["peer", "p1", "-v", "--json", "--listen", "127.0.0.1:0", "--tracker", &tracked]);
        peer.arg("--root").arg(&root);
        let mut peer = Process::start(&test, peer);
        let ready = peer.until("ready").await.pop().unwrap();
        assert_eq!(ready["not_shared"], reasons.len());
        let (status, said) = peer.end(Signal::TERM).await;
        assert!(status.success());
        for (name, why) in reasons {
            let line = said.lines().find(|line| line.contains(&format!("{name} is not shared")));
            assert!(line.is_some_and(|line| line.contains(why)), "{name}: {line:?} in {said}");
        }
        tracker.stop().await;
    });
}

/// Row 23 of SECURITY.md.
#[test]
fn the_log_of_a_full_run_has_nothing_of_a_files_content_and_the_state_is_nobody_elses() {
    const MARK: &str = "the-content-of-a-file";
    system_test(|test| async move {
        let root = test.folder();
        let files = RealPeer::files_of(&root, "p1");
        // One that is sent from memory, and one of several spans.
        let contents = [MARK.to_string(), MARK.repeat(3 * SPAN / MARK.len())].map(Content::of);
        for (content, name) in contents.iter().zip(["small", "large"]) {
            content.write(&files, name);
        }
        let start = |args: &[&str]| {
            let mut command = enxame(["-vvv", "--json"]);
            command.args(args).arg("--listen").arg("127.0.0.1:0");
            command
        };
        let mut tracker = Process::start(&test, start(&["tracker"]));
        let tracked = tracker.ready().await.to_string();
        let mut peer = start(&["peer", "p1", "--tracker", &tracked]);
        peer.arg("--root").arg(&root);
        let mut peer = Process::start(&test, peer);
        peer.ready().await;
        let to = test.folder();
        let mut get = enxame(["get", "small", "large", "-vvv", "--json", "--tracker", &tracked, "-o"]);
        get.arg(format!("{}/", to.display()));
        let get = ran(&test, get).await;
        assert_eq!(get.code, Some(0), "{get:?}");
        assert!(contents[1].stands_at(&to.join("large")));

        let (_, peer) = peer.end(Signal::TERM).await;
        let (_, tracker) = tracker.end(Signal::TERM).await;
        for (who, log) in [("get", get.stderr + &get.stdout), ("peer", peer), ("tracker", tracker)] {
            assert!(log.contains("TRACE") || log.contains("DEBUG"), "{who} logs all it has: {log}");
            assert!(!log.contains(MARK), "{who}: {log}");
        }
        let state = root.join("p1/.enxame");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        for entry in fs::read_dir(&state).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    });
}
