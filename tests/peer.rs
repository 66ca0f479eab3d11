//! Real peers and a real tracker: what a peer serves, how the tracker follows its folder, how it
//! starts, fetches and ends.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use actix::Arbiter;

use enxame_actors::base::limits::{
    BUSY_RETRY, MAX_GREETING_CONNECTIONS, MAX_OPEN_FILES_PER_UPLOAD, MAX_REQUEST_BYTES, MAX_REQUEST_SPANS,
    MAX_REQUESTS_IN_FLIGHT, MAX_UPLOAD_CONNECTIONS, MAX_UPLOAD_CONNECTIONS_PER_ADDRESS,
    MAX_WAITING_REQUEST_BYTES,
};
use enxame_actors::base::{BlockRun, ByteRate, FileId};
use enxame_actors::peer::events::{JobError, JobEvent};
use enxame_actors::peer::library::{AwaitReady, Library, LibraryConfig, ListChanged, Stop, Subscribe};
use enxame_actors::peer::tracker_link::{
    AwaitRegistration, Leave, LinkConfig, Registration, TrackerLink, TrackerNews,
};
use enxame_actors::peer::trackers::TrackerFailure;
use enxame_actors::peer::{Peer, PeerConfig, PeerError, RateLimits};
use enxame_actors::tracker::{LeaveReason, TrackerEvent};
use enxame_actors::wire::frame::blocks_header;
use enxame_actors::wire::peer::{FromHolder, ToHolder};
use enxame_actors::wire::tracker::{Candidate, Listing};
use enxame_actors::wire::{FrameHeader, Hello, Refusal, VERSION};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use support::files::SPAN;
use support::getter::{Heard, RawGetter, blocks, get, missing, open};
use support::holder::Asked;
use support::job::{Running, Watched, assert_sums_up, into_folder, part_files, what};
use support::proxy::{End, RefusingAddress, Way};
use support::swarm::{NEVER, RealPeer, RealTracker, start_peer};
use support::tracker::{Script, candidate};
use support::{Behaviour, Content, FakeHolder, FakeTracker, Fault, FaultProxy, RawPeer, Test, system_test};

/// Ids of the candidates, and how many peers hold each.
fn held(candidates: &[Candidate]) -> Vec<(FileId, u32)> {
    candidates.iter().map(|candidate| (candidate.id, candidate.holder_count)).collect()
}

// ---- serving, verb by verb ----

/// A tracker and a peer that shares these contents as `f0`, `f1` and so on.
async fn serving(test: &Test, contents: &[Content]) -> (RealTracker, RealPeer) {
    let tracker = RealTracker::start(test, NEVER);
    let peer = RealPeer::start(test, tracker.address(), "p1", |files| {
        for (n, content) in contents.iter().enumerate() {
            content.write(files, &format!("f{n}"));
        }
    })
    .await;
    (tracker, peer)
}

async fn end(tracker: RealTracker, peer: RealPeer) {
    peer.stop().await;
    tracker.stop().await;
}

#[test]
fn a_getter_of_another_version_is_refused_with_both_versions_named() {
    system_test(|test| async move {
        let (tracker, peer) = serving(&test, &[]).await;
        let mut getter = RawGetter::connect(&test, peer.peer.address()).await;
        let hello = Hello { version: VERSION + 8, ..Hello::new("raw".parse().unwrap()) };
        getter.say(&[ToHolder::Hello(hello)]).await;
        let answer = getter.hear().await;
        assert!(
            matches!(&answer, Heard::Message(FromHolder::Hello(hello)) if hello.version == VERSION && hello.peer.as_str() == "p1"),
            "{answer:?}"
        );
        match getter.hear().await {
            Heard::Message(FromHolder::Refused { refusal: Refusal::Version, why }) => {
                assert!(why.contains("version 2,") && why.contains("version 10;"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(getter.hear().await, Heard::End);
        end(tracker, peer).await;
    });
}

#[test]
fn a_getter_that_does_not_greet_first_is_refused() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 10);
        let (tracker, peer) = serving(&test, std::slice::from_ref(&content)).await;
        let mut getter = RawGetter::connect(&test, peer.peer.address()).await;
        getter.say(&[open(&content, true)]).await;
        assert!(matches!(getter.hear().await, Heard::Message(FromHolder::Hello(_))));
        is_refused(getter, "HELLO").await;
        end(tracker, peer).await;
    });
}

#[test]
fn open_tells_the_size_and_the_manifest_if_it_is_wanted() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let contents = [0, 5, SPAN, SPAN + 1, 5 * SPAN].map(|size| Content::random(&mut rng, size));
        let (tracker, peer) = serving(&test, &contents).await;
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        for content in &contents {
            for wanted in [true, false] {
                getter.say(&[open(content, wanted)]).await;
                let manifest = wanted && !content.geometry.is_single();
                let opened =
                    FromHolder::Opened { id: content.id, size: content.size(), spans: None, manifest };
                assert_eq!(getter.hear().await, Heard::Message(opened));
                if manifest {
                    let values = content.values.concat().into();
                    let manifest = FromHolder::Manifest { id: content.id, values };
                    assert_eq!(getter.hear().await, Heard::Message(manifest));
                }
            }
        }
        let unknown = Content::of("nobody has this");
        getter.say(&[open(&unknown, true), get(&unknown, 0..1)]).await;
        assert_eq!(getter.hear().await, missing(&unknown));
        assert_eq!(getter.hear().await, missing(&unknown));
        drop(getter);
        end(tracker, peer).await;
    });
}

#[test]
fn get_is_answered_span_by_span_in_the_order_asked_whatever_the_files() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let [tiny, large] = [1, 5 * SPAN + 77].map(|size| Content::random(&mut rng, size));
        let (tracker, peer) = serving(&test, &[tiny.clone(), large.clone()]).await;
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        // All of it, the last span, one in the middle: pipelined, without OPEN.
        getter
            .say(&[
                get(&large, 0..6),
                get(&tiny, 0..1),
                get(&large, 5..6),
                open(&tiny, true),
                get(&large, 2..3),
            ])
            .await;
        for span in 0..6 {
            assert_eq!(getter.hear().await, blocks(&large, span));
        }
        assert_eq!(getter.hear().await, blocks(&tiny, 0));
        assert_eq!(getter.hear().await, blocks(&large, 5));
        let opened = FromHolder::Opened { id: tiny.id, size: 1, spans: None, manifest: false };
        assert_eq!(getter.hear().await, Heard::Message(opened));
        assert_eq!(getter.hear().await, blocks(&large, 2));

        // What does not fit the file is not had.
        for (first, count) in [(1, 64), (0, 63), (64 * 6, 64), (0, 0), (u64::MAX - 63, 64), (1 << 63, 64)] {
            getter.say(&[ToHolder::Get { id: large.id, run: BlockRun { first, count }, fresh: false }]).await;
            assert_eq!(getter.hear().await, missing(&large), "{first} {count}");
        }
        getter.say(&[get(&large, 0..1)]).await;
        assert_eq!(getter.hear().await, blocks(&large, 0), "the connection goes on");
        drop(getter);
        end(tracker, peer).await;
    });
}

#[test]
fn a_get_of_too_many_spans_ends_the_connection_with_a_reason() {
    system_test(|test| async move {
        let most = MAX_REQUEST_SPANS as u32;
        let content = Content::random(&mut test.rng(), (MAX_REQUEST_SPANS + 1) * SPAN);
        let (tracker, peer) = serving(&test, std::slice::from_ref(&content)).await;
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        getter.say(&[get(&content, 1..most + 1)]).await;
        for span in 1..most + 1 {
            assert_eq!(getter.hear().await, blocks(&content, span));
        }
        getter.say(&[get(&content, 0..most + 1)]).await;
        is_refused(getter, "spans").await;
        end(tracker, peer).await;
    });
}

#[test]
fn a_second_hello_ends_the_connection_with_a_reason() {
    system_test(|test| async move {
        let (tracker, peer) = serving(&test, &[]).await;
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        getter.say(&[ToHolder::Hello(Hello::new("raw".parse().unwrap()))]).await;
        is_refused(getter, "HELLO").await;
        end(tracker, peer).await;
    });
}

#[test]
fn a_getter_that_has_too_many_requests_waiting_is_refused_with_a_reason() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 100);
        let tracker = RealTracker::start(&test, NEVER);
        let limits = RateLimits { upload: ByteRate::new(4096), download: None };
        let fill = |files: &Path| drop(content.write(files, "small"));
        let peer = RealPeer::start_limited(&test, tracker.address(), "p1", limits, fill).await;
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        let one = get(&content, 0..1);
        let mut frame = Vec::new();
        enxame_actors::wire::encode(&one, &mut frame).unwrap();
        getter.say(&vec![one; 2 * MAX_REQUESTS_IN_FLIGHT]).await;
        assert_eq!(getter.hear().await, blocks(&content, 0), "what an honest getter has under way is little");
        let too_many = MAX_WAITING_REQUEST_BYTES / frame.len() + 1000;
        getter.say(&vec![get(&content, 0..1); too_many]).await;
        let last = loop {
            let heard = getter.hear().await;
            if heard != blocks(&content, 0) {
                break heard;
            }
        };
        assert!(
            matches!(&last, Heard::Message(FromHolder::Refused { refusal: Refusal::Limit, why }) if why.contains("requests")),
            "{last:?}"
        );
        assert_eq!(getter.hear().await, Heard::End);
        end(tracker, peer).await;
    });
}

#[test]
fn a_request_longer_than_any_honest_one_ends_the_connection_with_a_reason() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 10);
        let (tracker, peer) = serving(&test, std::slice::from_ref(&content)).await;
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        getter.say(&[get(&content, 0..1)]).await;
        getter.say_bytes(&FrameHeader::Control { len: MAX_REQUEST_BYTES + 1 }.to_bytes()).await;
        assert_eq!(getter.hear().await, blocks(&content, 0));
        is_refused(getter, "at most 4096").await;
        end(tracker, peer).await;
    });
}

/// The getter is told why its connection ends, and then it ends.
async fn is_refused(mut getter: RawGetter, reason: &str) {
    let answer = getter.hear().await;
    assert!(
        matches!(&answer, Heard::Message(FromHolder::Refused { refusal: Refusal::Protocol, why }) if why.contains(reason)),
        "{answer:?}"
    );
    assert_eq!(getter.hear().await, Heard::End);
}

#[test]
fn what_is_no_message_ends_the_connection_with_a_reason() {
    system_test(|test| async move {
        let (tracker, peer) = serving(&test, &[]).await;
        let broken = [&FrameHeader::Control { len: 3 }.to_bytes()[..], b"\xc1\xc1\xc1"].concat();
        let other_kind = [0, 0, 0, 1, 9, 0];
        let blocks = blocks_header(0, 0);
        for (bytes, reason) in [
            (&broken[..], "cannot be read"),
            (&other_kind, "kind 9"),
            (&blocks, "BLOCKS"),
            (&[255; 5], "kind 255"),
        ] {
            let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
            getter.say_bytes(bytes).await;
            is_refused(getter, reason).await;
        }
        for (bytes, reason) in [(&broken[..], "cannot be read"), (&[255, 0, 0, 0, 0], "at most 65536")] {
            let mut getter = RawGetter::connect(&test, peer.peer.address()).await;
            getter.say_bytes(bytes).await;
            assert!(matches!(getter.hear().await, Heard::Message(FromHolder::Hello(_))));
            is_refused(getter, reason).await;
        }
        end(tracker, peer).await;
    });
}

/// The files of this folder that the process has open.
fn open_files_of(folder: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let targets = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.starts_with(folder) && target.is_file()).count()
}

#[test]
fn a_connection_holds_eight_files_open_and_the_one_not_asked_for_longest_makes_room() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let contents: Vec<_> =
            (0..2 * MAX_OPEN_FILES_PER_UPLOAD).map(|_| Content::random(&mut rng, SPAN + 1)).collect();
        let (tracker, peer) = serving(&test, &contents).await;
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        for (number, content) in contents.iter().enumerate() {
            getter.say(&[get(content, 1..2)]).await;
            assert_eq!(getter.hear().await, blocks(content, 1));
            assert_eq!(open_files_of(&peer.files), (number + 1).min(MAX_OPEN_FILES_PER_UPLOAD));
        }
        drop(getter);
        end(tracker, peer).await;
    });
}

const HERE: [u8; 4] = [127, 0, 0, 1];
const THERE: [u8; 4] = [127, 0, 0, 2];

#[test]
fn one_getter_too_many_is_told_to_come_back_and_is_served_when_another_has_gone() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 10);
        let (tracker, peer) = serving(&test, std::slice::from_ref(&content)).await;
        let address = peer.peer.address();
        let greeted = async |from| RawGetter::connect_from(&test, from, address).await.greets().await;
        let is_turned_away = async |from| {
            let mut one_more = greeted(from).await;
            // A request that is on its way must not cost it the answer.
            one_more.say(&[get(&content, 0..1)]).await;
            match one_more.hear().await {
                Heard::Message(FromHolder::Busy { retry_after_ms }) => {
                    assert_eq!(retry_after_ms, BUSY_RETRY.as_millis() as u32);
                    assert_eq!(one_more.hear().await, Heard::End);
                    true
                }
                answer => {
                    assert_eq!(answer, blocks(&content, 0));
                    false
                }
            }
        };
        let mut getters = Vec::new();
        for _ in 0..MAX_UPLOAD_CONNECTIONS_PER_ADDRESS {
            getters.push(greeted(HERE).await);
        }
        assert!(is_turned_away(HERE).await, "one address has as many as it may");
        for _ in MAX_UPLOAD_CONNECTIONS_PER_ADDRESS..MAX_UPLOAD_CONNECTIONS {
            getters.push(greeted(THERE).await);
        }
        assert!(is_turned_away(THERE).await, "all are taken");
        for getter in getters.iter_mut().step_by(50) {
            getter.say(&[get(&content, 0..1)]).await;
            assert_eq!(getter.hear().await, blocks(&content, 0), "those who are there are served");
        }
        getters.pop();
        while is_turned_away(THERE).await {}
        drop(getters);
        end(tracker, peer).await;
    });
}

#[test]
fn who_holds_a_place_and_asks_for_nothing_is_told_to_come_back_when_others_want_it() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 10);
        let (tracker, peer) = serving(&test, std::slice::from_ref(&content)).await;
        let address = peer.peer.address();
        let mut idle = Vec::new();
        for _ in 0..MAX_UPLOAD_CONNECTIONS_PER_ADDRESS {
            idle.push(RawGetter::greeted(&test, address).await);
        }
        let mut elsewhere = RawGetter::connect_from(&test, THERE, address).await.greets().await;
        let busy = || Heard::Message(FromHolder::Busy { retry_after_ms: BUSY_RETRY.as_millis() as u32 });
        assert_eq!(RawGetter::greeted(&test, address).await.hear().await, busy());
        let mut first = idle.remove(0);
        assert_eq!(first.hear().await, busy());
        assert_eq!(first.hear().await, Heard::End);
        drop(first);
        loop {
            let mut next = RawGetter::greeted(&test, address).await;
            next.say(&[get(&content, 0..1)]).await;
            match next.hear().await {
                heard if heard == busy() => {}
                heard => break assert_eq!(heard, blocks(&content, 0), "it has the place"),
            }
        }
        elsewhere.say(&[get(&content, 0..1)]).await;
        assert_eq!(elsewhere.hear().await, blocks(&content, 0), "its address has room");
        end(tracker, peer).await;
    });
}

#[test]
fn of_those_who_do_not_greet_the_oldest_makes_room_and_nobody_who_greets_waits_for_them() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 10);
        let (tracker, peer) = serving(&test, std::slice::from_ref(&content)).await;
        let address = peer.peer.address();
        let mut greeted = RawGetter::greeted(&test, address).await;
        let mut silent = Vec::new();
        for _ in 0..=MAX_GREETING_CONNECTIONS {
            silent.push(RawGetter::connect(&test, address).await);
        }
        assert_eq!(silent[0].hear().await, Heard::End);
        let mut late = RawGetter::greeted(&test, address).await;
        for getter in [&mut greeted, &mut late] {
            getter.say(&[get(&content, 0..1)]).await;
            assert_eq!(getter.hear().await, blocks(&content, 0));
        }
        drop(silent);
        end(tracker, peer).await;
    });
}

#[test]
fn a_file_that_changes_while_it_is_served_is_missing_withdrawn_and_offered_anew() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let [before, after] = [3 * SPAN, 2 * SPAN + 9].map(|size| Content::random(&mut rng, size));
        let (tracker, peer) = serving(&test, std::slice::from_ref(&before)).await;
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        getter.say(&[open(&before, false), get(&before, 0..1)]).await;
        assert!(matches!(getter.hear().await, Heard::Message(FromHolder::Opened { .. })));
        assert_eq!(getter.hear().await, blocks(&before, 0));

        after.write(&peer.files, "f0");
        getter.say(&[get(&before, 1..3)]).await;
        assert_eq!(getter.hear().await, missing(&before), "no byte goes out as the old id");
        tracker.until("the new content alone", "f0", |found| held(found) == [(after.id, 1)]).await;
        assert_eq!(tracker.who_has(&before.id.to_string()).await, []);
        getter.say(&[get(&before, 1..2), get(&after, 2..3)]).await;
        assert_eq!(getter.hear().await, missing(&before));
        assert_eq!(getter.hear().await, blocks(&after, 2));
        drop(getter);
        end(tracker, peer).await;
    });
}

// ---- the folder and the tracker ----

#[test]
fn the_tracker_follows_the_folder() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let [a, b, c] = [100, SPAN + 3, 3 * SPAN].map(|size| Content::random(&mut rng, size));
        let (tracker, peer) = serving(&test, &[]).await;
        assert_eq!(tracker.who_has("a").await, []);
        a.write(&peer.files, "a");
        b.write(&peer.files, "deep/er/b");
        tracker.until("a", "a", |found| held(found) == [(a.id, 1)]).await;
        tracker.until("b", "deep/er/b", |found| held(found) == [(b.id, 1)]).await;

        fs::rename(peer.files.join("deep"), peer.files.join("moved")).unwrap();
        tracker.until("b under its new name", "moved/er/b", |found| held(found) == [(b.id, 1)]).await;
        tracker.until("nothing under the old one", "deep/er/b", |found| found.is_empty()).await;

        c.write(&peer.files, "a");
        tracker.until("the new content", "a", |found| held(found) == [(c.id, 1)]).await;
        assert_eq!(tracker.who_has(&a.id.to_string()).await, []);

        fs::remove_file(peer.files.join("a")).unwrap();
        tracker.until("nothing", "a", |found| found.is_empty()).await;
        assert_eq!(held(&tracker.who_has("moved/er/b").await), [(b.id, 1)], "the rest stays");
        end(tracker, peer).await;
    });
}

#[test]
fn what_no_watcher_sees_is_found_by_the_confirmation() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let [a, b] = [100, 200].map(|size| Content::random(&mut rng, size));
        // The shortest interval that a tracker takes.
        let tracker = RealTracker::start(&test, Duration::from_millis(200));
        let root = test.folder();
        let files = root.join("files");
        a.write(&files, "a");
        let blind = LibraryConfig { root, watch: false, progress: None };
        let library = Library::start(blind, &Arbiter::current());
        let link = TrackerLink::start(LinkConfig {
            tracker: tracker.address().into(),
            us: "p1".parse().unwrap(),
            registration: Some(Registration {
                instance: 1,
                port: 9,
                rescan: Some(library.downgrade().recipient()),
                is_lazy: false,
            }),
            news: None,
        });
        let added = library.send(Subscribe(link.clone().recipient())).await.unwrap();
        link.do_send(ListChanged { added, removed: Vec::new() });
        library.send(AwaitReady).await.unwrap().unwrap();
        link.send(AwaitRegistration { within: Duration::from_secs(10) }).await.unwrap().unwrap();
        assert_eq!(held(&tracker.who_has("a").await), [(a.id, 1)]);

        b.write(&files, "b");
        tracker.until("the file that was added", "b", |found| held(found) == [(b.id, 1)]).await;
        fs::rename(files.join("b"), files.join("a")).unwrap();
        tracker.until("the content that replaced it", "a", |found| held(found) == [(b.id, 1)]).await;
        fs::remove_file(files.join("a")).unwrap();
        tracker.until("nothing", "a", |found| found.is_empty()).await;

        link.send(Leave).await.unwrap();
        library.send(Stop).await.unwrap();
        tracker.stop().await;
    });
}

#[test]
fn fifos_and_links_in_the_share_are_not_served() {
    system_test(|test| async move {
        let content = Content::of("the only file");
        let tracker = RealTracker::start(&test, NEVER);
        let secret = Content::of("outside");
        let outside = secret.write(&test.folder(), "secret");
        let peer = RealPeer::start(&test, tracker.address(), "p1", |files| {
            content.write(files, "plain");
            symlink(&outside, files.join("link")).unwrap();
            symlink(outside.parent().unwrap(), files.join("folder")).unwrap();
            mknodat(CWD, files.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        })
        .await;
        assert_eq!(peer.peer.first_scan().files, 1);
        assert_eq!(peer.peer.first_scan().skipped, 3);
        assert_eq!(held(&tracker.who_has("plain").await), [(content.id, 1)]);
        for name in ["link", "folder/secret", "fifo", &secret.id.to_string()] {
            assert_eq!(tracker.who_has(name).await, [], "{name}");
        }
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        getter.say(&[open(&secret, true)]).await;
        assert_eq!(getter.hear().await, missing(&secret));
        drop(getter);
        end(tracker, peer).await;
    });
}

// ---- trackers come and go ----

#[test]
fn a_tracker_that_restarts_empty_knows_all_living_peers_again() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let contents = [10, SPAN + 1].map(|size| Content::random(&mut rng, size));
        let tracker = RealTracker::start(&test, NEVER);
        let address = tracker.address();
        let mut peers = Vec::new();
        for (id, content) in ["p1", "p2"].into_iter().zip(&contents) {
            peers.push(RealPeer::start(&test, address, id, |files| drop(content.write(files, id))).await);
        }
        for peer in &mut peers {
            let news = test.wait_for("news", peer.news.recv()).await;
            assert_eq!(news, Some(TrackerNews::Registered { tracker: address.into() }));
        }
        tracker.stop().await;
        for peer in &mut peers {
            let news = test.wait_for("news of the loss", peer.news.recv()).await;
            assert!(matches!(news, Some(TrackerNews::Lost { .. })), "{news:?}");
        }
        let tracker = RealTracker::start_at(&test, address, NEVER);
        for peer in &mut peers {
            let news = test.wait_for("news of the return", peer.news.recv()).await;
            assert_eq!(news, Some(TrackerNews::Registered { tracker: address.into() }));
        }
        for (name, content) in ["p1", "p2"].into_iter().zip(&contents) {
            assert_eq!(held(&tracker.who_has(name).await), [(content.id, 1)]);
        }
        for peer in peers {
            peer.stop().await;
        }
        tracker.stop().await;
    });
}

#[test]
fn a_download_that_runs_finishes_while_the_tracker_is_gone() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 5 * SPAN);
        let tracker = RealTracker::start(&test, NEVER);
        let half = Behaviour::Partial([0, 2, 4].into());
        let holder = FakeHolder::start(&test, "p1", std::slice::from_ref(&content), half);
        let listed = RawPeer::connect(tracker.address(), "p1").await.unwrap();
        let (id, size) = (content.id, content.size());
        let listing = Listing { name: "x".parse().unwrap(), id, size, complete: false };
        listed.register(1, holder.address().port(), vec![listing]).await.unwrap();
        let to = test.folder();
        let mut running = Running::start(&test, tracker.address(), vec![into_folder("x", &to)]);
        let stored =
            |event: &JobEvent| matches!(event, JobEvent::Progress(now) if now.have_bytes == 3 * SPAN as u64);
        running.watched.until("three spans", stored).await;
        tracker.stop().await;
        listed.ended().await;
        holder.gain([1, 3]);
        let told = running.finish().await;
        assert!(content.stands_at(&to.join("x")));
        assert_sums_up(told.done());
    });
}

#[test]
fn a_peer_that_stops_is_gone_from_the_answers_at_once() {
    system_test(|test| async move {
        let content = Content::of("a file");
        let (mut tracker, peer) = serving(&test, std::slice::from_ref(&content)).await;
        assert_eq!(held(&tracker.who_has("f0").await), [(content.id, 1)]);
        peer.stop().await;
        assert_eq!(tracker.who_has("f0").await, []);
        assert!(matches!(tracker.events.recv().await, Some(TrackerEvent::PeerJoined { .. })));
        let left = TrackerEvent::PeerLeft { peer: "p1".parse().unwrap(), reason: LeaveReason::Disconnected };
        assert_eq!(tracker.events.recv().await, Some(left));
        tracker.stop().await;
    });
}

// ---- how a peer starts ----

#[test]
fn a_second_peer_with_a_living_id_is_refused_and_the_first_one_stays() {
    system_test(|test| async move {
        let content = Content::of("a file");
        let (tracker, peer) = serving(&test, std::slice::from_ref(&content)).await;
        let second = start_peer(tracker.address(), "p1", test.folder(), None);
        match test.wait_for("the refusal", second).await.err() {
            Some(PeerError::Tracker(TrackerFailure::Refused { why, .. })) => {
                assert!(why.contains("p1"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        let [found] = &tracker.who_has("f0").await[..] else { panic!("one candidate") };
        assert_eq!(found.holders[0].address, peer.peer.address());
        end(tracker, peer).await;
    });
}

#[test]
fn a_peer_whose_tracker_is_not_there_says_so_and_leaves_nothing_running() {
    system_test(|test| async move {
        let nobody = RefusingAddress::new();
        let started = start_peer(nobody.address(), "p1", test.folder(), None);
        match test.wait_for("the failure", started).await.err() {
            Some(PeerError::Tracker(TrackerFailure::NoAnswer(reasons))) => {
                let [(tracker, why)] = &reasons[..] else { panic!("{reasons:?}") };
                assert_eq!(*tracker, nobody.address().to_string());
                assert!(why.contains("refused"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_peer_that_cannot_have_its_folder_or_its_port_says_which() {
    system_test(|test| async move {
        let tracker = RealTracker::start(&test, NEVER);
        let root = test.folder();
        fs::write(root.join("p1"), "a file where a folder has to be").unwrap();
        let error = start_peer(tracker.address(), "p1", root.clone(), None).await.err();
        assert!(
            matches!(&error, Some(PeerError::Folder { path, source })
                if *path == root.join("p1/files") && source.kind() == ErrorKind::NotADirectory),
            "{error:?}"
        );
        let config = PeerConfig {
            id: "p2".parse().unwrap(),
            root: root.clone(),
            listen: tracker.address(),
            trackers: vec![tracker.address().into()],
            wants: Vec::new(),
            progress: None,
            limits: RateLimits::default(),
        };
        let error = Peer::start(config, None).await.err();
        assert!(
            matches!(&error, Some(PeerError::Listen { address, source })
                if *address == tracker.address() && source.kind() == ErrorKind::AddrInUse),
            "{error:?}"
        );
        assert!(!root.join("p2").exists(), "nothing half-done");
        tracker.stop().await;
    });
}

// ---- how a peer fetches ----

#[test]
fn names_travel_whole_from_peer_to_peer() {
    system_test(|test| async move {
        let names =
            ["with spaces.txt", "Übergrößen/größe.txt", "🐝/schwarm 🐝.bin", "a/b/c/d/e", "日本語/ファイル"];
        let mut rng = test.rng();
        let contents: Vec<Content> =
            (1..=names.len()).map(|n| Content::random(&mut rng, n * 100_000)).collect();
        let tracker = RealTracker::start(&test, NEVER);
        let p1 = RealPeer::start(&test, tracker.address(), "p1", |files| {
            names.iter().zip(&contents).for_each(|(name, content)| drop(content.write(files, name)));
        })
        .await;
        let p2 = RealPeer::start(&test, tracker.address(), "p2", |_| {}).await;
        let (events, watched) = Watched::start(&test);
        let job = p2.peer.fetch(names.iter().map(|name| what(name)).collect(), false, events);
        test.wait_for("the job", job.wait()).await;
        drop(job);
        let told = watched.end().await;
        assert_eq!(told.all_done().len(), names.len(), "{:?}", told.all_failed());
        for (name, content) in names.iter().zip(&contents) {
            assert!(content.stands_at(&p2.files.join(name)), "{name}");
            tracker.until("both", name, |found| held(found) == [(content.id, 2)]).await;
        }
        assert_eq!(part_files(&p2.files), Vec::<std::path::PathBuf>::new());
        p1.stop().await;
        p2.stop().await;
        tracker.stop().await;
    });
}

#[test]
fn a_peer_is_patient_until_somebody_has_it() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), SPAN + 1);
        let tracker = RealTracker::start(&test, NEVER);
        let p1 = RealPeer::start(&test, tracker.address(), "p1", |_| {}).await;
        let p2 = RealPeer::start(&test, tracker.address(), "p2", |_| {}).await;
        let (events, mut watched) = Watched::start(&test);
        let job = p2.peer.fetch(vec![what("later")], false, events);
        let failed =
            watched.until("the first failure", |event| matches!(event, JobEvent::Failed { .. })).await;
        assert!(
            matches!(&failed, JobEvent::Failed { what, error: JobError::NobodyHasIt } if what == "later"),
            "{failed:?}"
        );
        content.write(&p1.files, "later");
        watched.until("the file", |event| matches!(event, JobEvent::Done(_))).await;
        test.wait_for("the job", job.wait()).await;
        assert!(content.stands_at(&p2.files.join("later")));
        drop((job, watched));
        p1.stop().await;
        p2.stop().await;
        tracker.stop().await;
    });
}

#[test]
fn a_patient_job_tries_a_holder_again_that_it_had_given_up_once_it_has_registered_again() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), SPAN + 1);
        let holder = FakeHolder::start(&test, "far", std::slice::from_ref(&content), Behaviour::Honest);
        // It is cut off, and cannot be reached then.
        let script =
            [vec![Fault::to_client(Way::ends(SPAN as u64 / 2, End::Fin))], vec![Fault::refuse(); 2]].concat();
        let script = [script, vec![Fault::none(); 100]].concat();
        let proxy = FaultProxy::start(&test, holder.address(), script);
        let listed = candidate(&content, &["x"], vec![holder.listed_at(proxy.address())]);
        let tracker =
            FakeTracker::start(&test, Script { candidates: vec![listed.clone()], ..Script::default() });
        let peer = RealPeer::start(&test, tracker.address(), "p1", |_| {}).await;
        let (events, mut watched) = Watched::start(&test);
        let job = peer.peer.fetch(vec![what("x")], false, events);
        let failed = watched.until("the failure", |event| matches!(event, JobEvent::Failed { .. })).await;
        assert!(matches!(&failed, JobEvent::Failed { error: JobError::Undelivered(_), .. }), "{failed:?}");
        tracker.change(|script| script.candidates.clear());
        let nobody =
            |event: &JobEvent| matches!(event, JobEvent::Failed { error: JobError::NobodyHasIt, .. });
        watched.until("that nobody has it", nobody).await;
        assert_eq!(proxy.traffic().connections, 3);
        tracker.change(|script| script.candidates.push(listed));
        watched.until("the file", |event| matches!(event, JobEvent::Done(_))).await;
        test.wait_for("the job", job.wait()).await;
        assert!(content.stands_at(&peer.files.join("x")));
        drop((job, watched));
        peer.stop().await;
    });
}

#[test]
fn two_names_of_one_content_whose_holder_was_away_both_arrive_and_it_is_fetched_once() {
    system_test(|test| async move {
        // The cut comes before any span is whole.
        let content = Content::random(&mut test.rng(), 2 * SPAN);
        let holder = FakeHolder::start(&test, "far", std::slice::from_ref(&content), Behaviour::Honest);
        // It was there once, so it is dialled as often as the job sees fit.
        let cut = Fault::to_client(Way::ends(SPAN as u64 / 2, End::Fin));
        let script = [vec![cut], vec![Fault::refuse(); 2], vec![Fault::none(); 100]].concat();
        let proxy = FaultProxy::start(&test, holder.address(), script);
        let listed = candidate(&content, &["x", "y"], vec![holder.listed_at(proxy.address())]);
        let tracker =
            FakeTracker::start(&test, Script { candidates: vec![listed.clone()], ..Script::default() });
        let peer = RealPeer::start(&test, tracker.address(), "p1", |_| {}).await;
        let (events, mut watched) = Watched::start(&test);
        let job = peer.peer.fetch(vec![what("x"), what("y")], false, events);
        for name in ["x", "y"] {
            let has_failed =
                |event: &JobEvent| matches!(event, JobEvent::Failed { what, .. } if what == name);
            watched.until("a failure", has_failed).await;
        }
        // It registers again.
        tracker.change(|script| script.candidates.clear());
        for _ in ["x", "y"] {
            let nobody =
                |event: &JobEvent| matches!(event, JobEvent::Failed { error: JobError::NobodyHasIt, .. });
            watched.until("that nobody has it", nobody).await;
        }
        tracker.change(|script| script.candidates.push(listed));
        let mut fetched = 0;
        for _ in ["x", "y"] {
            let done = watched.until("a file", |event| matches!(event, JobEvent::Done(_))).await;
            let JobEvent::Done(done) = done else { unreachable!("it is one") };
            fetched += done.fetched_bytes;
        }
        test.wait_for("the job", job.wait()).await;
        assert_eq!(fetched, content.size());
        assert!(["x", "y"].iter().all(|name| content.stands_at(&peer.files.join(name))));
        drop((job, watched));
        peer.stop().await;
    });
}

/// The file that would be copied is deleted, or edited, before the second name is known.
#[test]
fn what_was_fetched_and_is_gone_is_fetched_again_for_another_name() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 2 * SPAN);
        let holder = FakeHolder::start(&test, "far", std::slice::from_ref(&content), Behaviour::Honest);
        let listed = |names: &[&str]| candidate(&content, names, vec![holder.listed()]);
        for (edit, [x, y, z]) in [(false, ["x0", "y0", "z0"]), (true, ["x1", "y1", "z1"])] {
            let candidates = vec![listed(&[x])];
            let tracker = FakeTracker::start(&test, Script { candidates, ..Script::default() });
            let peer = RealPeer::start(&test, tracker.address(), "p1", |_| {}).await;
            let (events, mut watched) = Watched::start(&test);
            let job = peer.peer.fetch(vec![what(x), what(y), what(z)], false, events);
            watched.until("the file", |event| matches!(event, JobEvent::Done(_))).await;
            if edit {
                Content::of("edited").write(&peer.files, x);
            } else {
                fs::remove_file(peer.files.join(x)).unwrap();
            }
            tracker.change(|script| script.candidates = vec![listed(&[y, z])]);
            let is_gone =
                |event: &JobEvent| matches!(event, JobEvent::Failed { error: JobError::Disk { .. }, .. });
            watched.until("that it is not there", is_gone).await;
            let mut fetched = 0;
            for _ in [y, z] {
                let done = watched.until("a file", |event| matches!(event, JobEvent::Done(_))).await;
                let JobEvent::Done(done) = done else { unreachable!("it is one") };
                fetched += done.fetched_bytes;
            }
            test.wait_for("the job", job.wait()).await;
            assert_eq!(fetched, content.size(), "the other one is a copy");
            assert!([y, z].iter().all(|name| content.stands_at(&peer.files.join(name))));
            drop((job, watched));
            peer.stop().await;
        }
    });
}

// ---- how a peer ends ----

#[test]
fn a_peer_that_stops_in_the_middle_of_a_download_keeps_its_part_and_resumes() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 5 * SPAN);
        let half = Behaviour::Partial([0, 2, 4].into());
        let holder = FakeHolder::start(&test, "far", std::slice::from_ref(&content), half);
        let candidates = vec![candidate(&content, &["x"], vec![holder.listed()])];
        let tracker = FakeTracker::start(&test, Script { candidates, ..Script::default() });
        let root = test.folder();
        let peer = RealPeer::start_in(&test, tracker.address(), "p1", root.clone()).await;
        let (events, mut watched) = Watched::start(&test);
        let job = peer.peer.fetch(vec![what("x")], false, events);
        let stored =
            |event: &JobEvent| matches!(event, JobEvent::Progress(now) if now.have_bytes == 3 * SPAN as u64);
        watched.until("three spans", stored).await;
        // Somebody fetches from it what it has so far, and stays connected.
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        getter.say(&[open(&content, false), get(&content, 2..3)]).await;
        let opened = getter.hear().await;
        assert!(matches!(opened, Heard::Message(FromHolder::Opened { spans: Some(_), .. })), "{opened:?}");
        assert_eq!(getter.hear().await, blocks(&content, 2));
        job.cancel();
        test.wait_for("the job", job.wait()).await;
        drop(job);
        assert!(matches!(watched.end().await.failed(), JobError::Interrupted));
        assert_eq!(part_files(&peer.files).len(), 1);

        // Again in the same process, with the getter still there.
        let (events, watched) = Watched::start(&test);
        let job = peer.peer.fetch(vec![what("x")], false, events);
        // It has the manifest and its part file, and asks what else there is.
        let begun = (2, Asked::Said(open(&content, false)));
        holder.until(|asked| asked.contains(&begun)).await;
        job.cancel();
        test.wait_for("the job", job.wait()).await;
        drop(job);
        assert!(matches!(watched.end().await.failed(), JobError::Interrupted));
        peer.stop().await;
        assert_eq!(getter.hear().await, Heard::End);

        // And in the next one.
        holder.gain([1, 3]);
        let peer = RealPeer::start_in(&test, tracker.address(), "p1", root).await;
        let (events, watched) = Watched::start(&test);
        let job = peer.peer.fetch(vec![what("x")], false, events);
        test.wait_for("the job", job.wait()).await;
        drop(job);
        let told = watched.end().await;
        assert_eq!(told.done().kept_bytes, 3 * SPAN as u64);
        assert_sums_up(told.done());
        assert!(content.stands_at(&peer.files.join("x")));
        peer.stop().await;
    });
}

#[test]
fn a_peer_that_stops_in_the_middle_of_uploads_ends_them() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), MAX_REQUEST_SPANS * SPAN);
        let (tracker, peer) = serving(&test, std::slice::from_ref(&content)).await;
        let mut getters = Vec::new();
        for _ in 0..4 {
            let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
            // More than any socket holds, and only its first span is read.
            getter.say(&[get(&content, 0..MAX_REQUEST_SPANS as u32)]).await;
            assert_eq!(getter.hear().await, blocks(&content, 0));
            getters.push(getter);
        }
        peer.stop().await;
        for mut getter in getters {
            let mut span = 1;
            loop {
                match getter.hear().await {
                    Heard::End => break,
                    heard => assert_eq!(heard, blocks(&content, span)),
                }
                span += 1;
            }
            assert!((span as usize) < MAX_REQUEST_SPANS, "it was in the middle");
        }
        tracker.stop().await;
    });
}
