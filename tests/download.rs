//! Downloads on real loopback sockets: what arrives, from whom, and what is told of it, beside
//! holders and networks that fail and lie.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use actix::{Actor, Arbiter};
use enxame_actors::base::ByteRate;
use enxame_actors::base::limits::MAX_DOWNLOAD_CONNECTIONS;
use enxame_actors::peer::RateLimits;
use enxame_actors::peer::assembler::{Assembler, Begin, Handoff, Outcome, Output, Place, StopAssembling};
use enxame_actors::peer::dialling::Dialling;
use enxame_actors::peer::events::{JobError, JobEvent, SourceState};
use enxame_actors::peer::source_connection::{
    Order, SourceConfig, SourceConnection, SourceFact, SourceReport,
};
use enxame_actors::plan::{Ending, FileIndex, Request, SourceId};
use enxame_actors::wire::frame::BLOCKS_HEADER_BYTES;
use enxame_actors::wire::peer::ToHolder;
use enxame_actors::wire::tracker::{Candidate, Holder};
use support::files::{SIZES, SPAN};
use support::holder::{Asked, Says, connections, opened, spans_asked};
use support::job::{self, Running, Told, assert_sums_up, fetch, into_folder, part_files, part_path, share};
use support::mounts::with_no_network;
use support::probe::Probe;
use support::proxy::{End, RefusingAddress, Way};
use support::swarm::{NEVER, RealPeer, RealTracker};
use support::tracker::{Script, candidate};
use support::{
    Behaviour, Content, FakeHolder, FakeTracker, Fault, FaultProxy, Test, system_test, system_test_within,
};

// ---- what the stories stand on ----

/// A tracker that knows these.
fn tracker_of(test: &Test, candidates: Vec<Candidate>) -> FakeTracker {
    FakeTracker::start(test, Script { candidates, ..Script::default() })
}

fn holder(test: &Test, peer: &str, content: &Content, behaviour: Behaviour) -> FakeHolder {
    FakeHolder::start(test, peer, std::slice::from_ref(content), behaviour)
}

/// Lets all bytes of a holder arrive later, so that whoever is not behind it is asked before it.
fn later(test: &Test, holder: &FakeHolder) -> FaultProxy {
    let way = Way { latency: Duration::from_millis(300), ..Way::default() };
    FaultProxy::start(test, holder.address(), vec![Fault::to_client(way)])
}

// ---- sizes and holders ----

#[test]
fn every_size_arrives_whole_from_a_holder_and_the_numbers_sum_up() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let contents: Vec<Content> = SIZES.iter().map(|(size, _)| Content::random(&mut rng, *size)).collect();
        let holder = FakeHolder::start(&test, "p1", &contents, Behaviour::Honest);
        for (content, (size, why)) in contents.iter().zip(SIZES) {
            let tracker = tracker_of(&test, vec![candidate(content, &["dir/x.bin"], vec![holder.listed()])]);
            let to = test.folder();
            let told = fetch(&test, tracker.address(), vec![into_folder("dir/x.bin", &to)]).await;
            let done = told.done();
            assert!(content.stands_at(&to.join("x.bin")), "size {size}: {why}");
            assert_eq!((done.id, done.size, done.name.as_str()), (content.id, size as u64, "dir/x.bin"));
            assert_eq!(
                (done.fetched_bytes, done.kept_bytes, done.wasted_bytes),
                (size as u64, 0, 0),
                "{why}"
            );
            assert_eq!(done.path, Some(to.join("x.bin")));
            assert_eq!(share(done, "p1"), size as u64);
            assert_sums_up(done);
            assert_eq!(part_files(&to), Vec::<PathBuf>::new());
            let found = told.0.iter().find_map(|event| match event {
                JobEvent::Found { id, size, holders, .. } => Some((*id, *size, *holders)),
                _ => None,
            });
            assert_eq!(found, Some((content.id, size as u64, 1)));
        }
    });
}

#[test]
fn every_size_arrives_whole_from_a_real_peer_through_a_real_tracker() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let contents: Vec<Content> = SIZES.iter().map(|(size, _)| Content::random(&mut rng, *size)).collect();
        let tracker = RealTracker::start(&test, NEVER);
        let peer = RealPeer::start(&test, tracker.address(), "p1", |files| {
            for (n, content) in contents.iter().enumerate() {
                content.write(files, &format!("sizes/{n}"));
            }
        })
        .await;
        let to = test.folder();
        let wants = (0..contents.len()).map(|n| into_folder(&format!("sizes/{n}"), &to)).collect();
        let told = fetch(&test, tracker.address(), wants).await;
        assert_eq!(told.all_done().len(), SIZES.len(), "{told:#?}");
        for (n, content) in contents.iter().enumerate() {
            assert!(content.stands_at(&to.join(n.to_string())), "size {}", SIZES[n].0);
            let done = told.all_done().into_iter().find(|done| done.id == content.id).unwrap();
            assert_eq!((done.fetched_bytes, done.kept_bytes, done.wasted_bytes), (content.size(), 0, 0));
            assert_sums_up(done);
        }
        assert_eq!(told.connected("p1"), 1, "one connection carries all files");
        peer.stop().await;
        tracker.stop().await;
    });
}

fn each_holder_delivers(count: usize) {
    system_test(move |test| async move {
        let content = Content::random(&mut test.rng(), 48 * SPAN + 5);
        // Slow enough that nobody has delivered all before the last one is connected.
        let holders: Vec<FakeHolder> = (1..=count)
            .map(|n| holder(&test, &format!("p{n}"), &content, Behaviour::Trickle(8 << 20)))
            .collect();
        let listed = holders.iter().map(FakeHolder::listed).collect();
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], listed)]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        assert_sums_up(told.done());
        for (n, holder) in (1..=count).zip(&holders) {
            assert!(share(told.done(), &format!("p{n}")) > 0, "p{n}: {:?}", told.done());
            assert_eq!(connections(&holder.asked()), 1, "p{n}");
        }
    });
}

#[test]
fn one_holder_delivers_all_spans() {
    each_holder_delivers(1);
}

#[test]
fn two_holders_deliver_at_the_same_time() {
    each_holder_delivers(2);
}

#[test]
fn five_holders_deliver_at_the_same_time() {
    each_holder_delivers(5);
}

#[test]
fn a_job_of_many_files_uses_one_connection_per_peer() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let contents: Vec<Content> = (0..60)
            .map(|n| Content::random(&mut rng, if n % 10 == 0 { 2 * SPAN + n } else { 1000 + n }))
            .collect();
        let holders = ["p1", "p2"].map(|peer| FakeHolder::start(&test, peer, &contents, Behaviour::Honest));
        let candidates = contents.iter().enumerate().map(|(n, content)| {
            candidate(content, &[&format!("f{n}")], holders.iter().map(FakeHolder::listed).collect())
        });
        let tracker = tracker_of(&test, candidates.collect());
        let to = test.folder();
        let wants = (0..contents.len()).map(|n| into_folder(&format!("f{n}"), &to)).collect();
        let told = fetch(&test, tracker.address(), wants).await;
        assert_eq!(told.all_done().len(), contents.len(), "{:?}", told.all_failed());
        for (n, content) in contents.iter().enumerate() {
            assert!(content.stands_at(&to.join(format!("f{n}"))), "f{n}");
        }
        told.all_done().into_iter().for_each(assert_sums_up);
        for holder in &holders {
            assert_eq!(connections(&holder.asked()), 1);
        }
        assert_eq!((told.connected("p1"), told.connected("p2")), (1, 1));
    });
}

// ---- a bad holder beside an honest one ----

/// How a job treats a bad holder: how often it dials it, and with which words it drops it.
struct Treatment {
    behaviour: Behaviour,
    /// Part of each reason.
    reason: &'static str,
    /// How often it is dialled.
    dials: RangeInclusive<usize>,
}

const ONCE: RangeInclusive<usize> = 1..=1;
const AGAIN: RangeInclusive<usize> = 2..=usize::MAX;

/// The file arrives, the honest holder is never dropped, the bad one is, for its reason.
fn the_file_arrives_beside(treatment: Treatment) {
    system_test(move |test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN + 100);
        let bad = holder(&test, "bad", &content, treatment.behaviour.clone());
        let good = holder(&test, "good", &content, Behaviour::Honest);
        let proxy = later(&test, &good);
        let listed = vec![bad.listed(), good.listed_at(proxy.address())];
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], listed)]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")), "{:?}", treatment.behaviour);
        assert_sums_up(told.done());
        assert_eq!(told.dropped("good"), Vec::<&str>::new());
        assert!(share(told.done(), "good") > 0);
        let dropped = told.dropped("bad");
        assert!(!dropped.is_empty(), "{:?} is not dropped: {told:#?}", treatment.behaviour);
        for reason in dropped {
            assert!(reason.contains(treatment.reason), "{:?}: {reason}", treatment.behaviour);
        }
        let dialled = connections(&bad.asked());
        assert!(treatment.dials.contains(&dialled), "{:?} was dialled {dialled} times", treatment.behaviour);
    });
}

#[test]
fn who_sends_a_flipped_bit_is_dropped_and_never_asked_again() {
    let (behaviour, reason) = (Behaviour::FlipBit(3), "sent wrong data (span 3)");
    the_file_arrives_beside(Treatment { behaviour, reason, dials: ONCE });
}

#[test]
fn who_sends_another_file_is_dropped_and_never_asked_again() {
    let (behaviour, reason) = (Behaviour::OtherFile, "sent wrong data");
    the_file_arrives_beside(Treatment { behaviour, reason, dials: ONCE });
}

#[test]
fn who_says_it_has_what_it_lacks_is_dropped_and_asked_again_after_a_pause_at_most() {
    let (behaviour, reason) = (Behaviour::FalseHave(Says::Complete, BTreeSet::new()), "does not have it");
    the_file_arrives_beside(Treatment { behaviour, reason, dials: 1..=3 });
}

#[test]
fn who_sends_other_blocks_than_it_was_asked_for_is_dropped_and_never_asked_again() {
    let (behaviour, reason) = (Behaviour::WrongIndex, "blocks that were not asked for");
    the_file_arrives_beside(Treatment { behaviour, reason, dials: ONCE });
}

#[test]
fn who_sends_blocks_that_nobody_asked_for_is_dropped_and_never_asked_again() {
    let (behaviour, reason) = (Behaviour::Unasked, "broke the protocol");
    the_file_arrives_beside(Treatment { behaviour, reason, dials: ONCE });
}

#[test]
fn who_states_a_wrong_size_is_dropped_and_never_asked_again() {
    let (behaviour, reason) = (Behaviour::WrongSize, "states a wrong size (2097253 bytes)");
    the_file_arrives_beside(Treatment { behaviour, reason, dials: ONCE });
}

#[test]
fn who_sends_a_wrong_manifest_is_dropped_and_never_asked_again() {
    let (behaviour, reason) = (Behaviour::WrongManifest, "sent a wrong manifest");
    the_file_arrives_beside(Treatment { behaviour, reason, dials: ONCE });
}

#[test]
fn who_speaks_another_version_is_dropped_with_both_versions_named() {
    let (behaviour, reason) =
        (Behaviour::OtherVersion, "this is protocol version 2, bad (fake holder) speaks version 3");
    the_file_arrives_beside(Treatment { behaviour, reason, dials: ONCE });
}

/// Row 12 of SECURITY.md.
#[test]
fn beside_nine_liars_the_one_honest_holder_delivers_and_is_never_dropped() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 24 * SPAN + 100);
        // Whatever they are asked, their answer is one.
        let lies = [
            (Behaviour::OtherFile, "sent wrong data"),
            (Behaviour::WrongIndex, "blocks that were not asked for"),
            (Behaviour::Unasked, "broke the protocol"),
        ];
        let liars: Vec<_> = (0..9)
            .map(|n| {
                let (behaviour, why) = lies[n % lies.len()].clone();
                let peer = format!("liar{n}");
                (holder(&test, &peer, &content, behaviour), peer, why)
            })
            .collect();
        // It is slow, so that each of them is asked.
        let good = holder(&test, "good", &content, Behaviour::Trickle(4 << 20));
        let listed = liars.iter().map(|(liar, ..)| liar.listed()).chain([good.listed()]).collect();
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], listed)]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        assert_sums_up(told.done());
        // What nobody asked for is the first span, and right if that was just asked for.
        let from_liars = content.size() - share(told.done(), "good");
        assert!(from_liars == 0 || from_liars == SPAN as u64, "{from_liars} bytes from liars");
        assert_eq!((told.connected("good"), told.dropped("good").len()), (1, 0));
        for (liar, peer, why) in &liars {
            let reasons = told.dropped(peer);
            assert!(matches!(reasons[..], [reason] if reason.contains(why)), "{peer}: {reasons:?}");
            assert_eq!(connections(&liar.asked()), 1, "{peer}");
        }
    });
}

#[test]
fn who_is_busy_is_asked_again_when_it_said() {
    let (behaviour, reason) = (Behaviour::Busy(100), "is busy");
    the_file_arrives_beside(Treatment { behaviour, reason, dials: AGAIN });
}

#[test]
fn who_hangs_up_before_its_greeting_is_dialled_again() {
    let (behaviour, reason) = (Behaviour::CloseAt(10), "in the middle of a message");
    the_file_arrives_beside(Treatment { behaviour, reason, dials: AGAIN });
}

#[test]
fn who_hangs_up_in_the_middle_is_dialled_again_and_what_it_sent_counts() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN + 100);
        // Enough for the greeting, the manifest and two spans and a half.
        let bad = holder(&test, "bad", &content, Behaviour::CloseAt(2 * SPAN as u64 + SPAN as u64 / 2));
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![bad.listed()])]);
        let to = test.folder();
        let running = Running::start(&test, tracker.address(), vec![into_folder("x", &to)]);
        bad.until(|asked| connections(asked) == 2).await;
        let good = holder(&test, "good", &content, Behaviour::Honest);
        tracker.change(|script| script.candidates[0].holders.push(good.listed()));
        let told = running.finish().await;
        assert!(content.stands_at(&to.join("x")));
        assert_sums_up(told.done());
        assert_eq!(told.dropped("good"), Vec::<&str>::new());
        assert!(!told.dropped("bad").is_empty());
        for reason in told.dropped("bad") {
            assert_eq!(reason, "the connection was cut in the middle of a message");
        }
        // Two spans per connection were stored, and are not asked for again.
        assert!(share(told.done(), "bad") >= 4 * SPAN as u64, "{:?}", told.done());
    });
}

#[test]
fn a_holder_that_always_hangs_up_delivers_the_whole_file_bit_by_bit() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN + 100);
        let only = holder(&test, "only", &content, Behaviour::CloseAt(3 * SPAN as u64 + SPAN as u64 / 2));
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![only.listed()])]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(share(told.done(), "only"), content.size());
        assert_sums_up(told.done());
        assert_eq!(told.done().wasted_bytes, 0);
    });
}

#[test]
fn a_holder_that_cannot_be_reached_is_dialled_again_and_stops_nobody() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 2 * SPAN);
        let nobody = RefusingAddress::new();
        let good = holder(&test, "good", &content, Behaviour::Honest);
        let bad = Holder { peer: "bad".parse().unwrap(), address: nobody.address(), complete: true };
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![bad])]);
        let to = test.folder();
        let mut running = Running::start(&test, tracker.address(), vec![into_folder("x", &to)]);
        let dropped = |event: &JobEvent| {
            matches!(event, JobEvent::Source { state: SourceState::Dropped { reason }, .. }
                if reason.starts_with("cannot be reached: ") && reason.contains("refused"))
        };
        running.watched.until("the refused dial", dropped).await;
        running.watched.until("the second refused dial", dropped).await;
        tracker.change(|script| script.candidates[0].holders.push(good.listed()));
        let told = running.finish().await;
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(share(told.done(), "good"), content.size());
    });
}

#[test]
fn a_holder_that_stalls_loses_its_spans_to_one_that_turns_up_later() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN + 100);
        let bad = holder(&test, "bad", &content, Behaviour::StallAfter(2));
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![bad.listed()])]);
        let to = test.folder();
        let running = Running::start(&test, tracker.address(), vec![into_folder("x", &to)]);
        // It has sent all that it will send when the other one appears.
        bad.until(|asked| spans_asked(&content, asked) > 4).await;
        let good = holder(&test, "good", &content, Behaviour::Honest);
        tracker.change(|script| script.candidates[0].holders.push(good.listed()));
        let told = running.finish().await;
        assert!(content.stands_at(&to.join("x")));
        assert_sums_up(told.done());
        let delivered = share(told.done(), "bad").div_ceil(SPAN as u64);
        assert_eq!(delivered, 2, "{:?}", told.done());
        assert_eq!(told.dropped("good"), Vec::<&str>::new());
        assert!(told.done().elapsed < Duration::from_secs(9), "{:?}", told.done().elapsed);
    });
}

#[test]
fn a_holder_that_never_sends_its_manifest_does_not_hold_the_others_up() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 4 * SPAN);
        let (bad, good) = (
            holder(&test, "bad", &content, Behaviour::Honest),
            holder(&test, "good", &content, Behaviour::Honest),
        );
        // The greeting passes, the rest never comes.
        let hole =
            FaultProxy::start(&test, bad.address(), vec![Fault::to_client(Way::ends(80, End::BlackHole))]);
        let proxy = later(&test, &good);
        let listed = vec![bad.listed_at(hole.address()), good.listed_at(proxy.address())];
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], listed)]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(opened(&bad.asked()).len(), 1, "it was asked for the manifest");
        assert_eq!(share(told.done(), "good"), content.size());
        assert!(told.done().elapsed < Duration::from_secs(8), "{:?}", told.done().elapsed);
    });
}

#[test]
fn a_span_that_came_counts_while_the_next_one_hangs_in_the_middle() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 4 * SPAN);
        let only = holder(&test, "only", &content, Behaviour::Honest);
        let hole = Fault::to_client(Way::ends(SPAN as u64 * 3 / 2, End::BlackHole));
        let proxy = FaultProxy::start(&test, only.address(), vec![hole]);
        let listed = vec![only.listed_at(proxy.address())];
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], listed)]);
        let mut running = Running::start(&test, tracker.address(), vec![into_folder("x", &test.folder())]);
        let counts_or_ends = |event: &JobEvent| match event {
            JobEvent::Progress(now) => now.have_bytes > 0,
            JobEvent::Source { state, .. } => *state != SourceState::Connected,
            _ => false,
        };
        let event = running.watched.until("a span to count", counts_or_ends).await;
        assert!(matches!(&event, JobEvent::Progress(now) if now.have_bytes == SPAN as u64), "{event:?}");
        running.cancel();
        running.finish().await;
    });
}

#[test]
fn a_holder_that_trickles_does_not_hold_the_others_up() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 24 * SPAN);
        // A span takes it 26 s.
        let bad = holder(&test, "bad", &content, Behaviour::Trickle(10_000));
        let good = holder(&test, "good", &content, Behaviour::Trickle(16 << 20));
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![bad.listed(), good.listed()])]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(share(told.done(), "good"), content.size());
        assert!(told.done().elapsed < Duration::from_secs(8), "{:?}", told.done().elapsed);
    });
}

// ---- when nobody delivers ----

fn undelivered(error: &JobError) -> Vec<(String, String)> {
    match error {
        JobError::Undelivered(reasons) => {
            reasons.iter().map(|(peer, why)| (peer.to_string(), why.clone())).collect()
        }
        other => panic!("{other:?} instead of Undelivered"),
    }
}

#[test]
fn a_file_that_nobody_delivers_fails_with_the_reason_of_each_holder_and_keeps_what_it_has() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN);
        let nobody = RefusingAddress::new();
        let lies = [
            ("a-flips", Behaviour::FlipBit(3), "sent wrong data (span 3)"),
            ("b-other", Behaviour::OtherFile, "sent wrong data"),
            ("c-lacks", Behaviour::FalseHave(Says::Complete, BTreeSet::new()), "does not have it"),
            ("d-index", Behaviour::WrongIndex, "blocks that were not asked for"),
        ];
        let holders = lies.clone().map(|(peer, behaviour, _)| holder(&test, peer, &content, behaviour));
        let mut listed: Vec<Holder> = holders.iter().map(FakeHolder::listed).collect();
        listed.push(Holder { peer: "e-gone".parse().unwrap(), address: nobody.address(), complete: true });
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], listed)]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        let reasons = undelivered(told.failed());
        let expected =
            lies.iter().map(|(peer, _, why)| (*peer, *why)).chain([("e-gone", "cannot be reached")]);
        assert_eq!(reasons.len(), 5, "{reasons:?}");
        for ((peer, why), (expected_peer, expected_why)) in reasons.iter().zip(expected) {
            assert_eq!(peer, expected_peer);
            assert!(why.contains(expected_why), "{peer}: {why}");
        }
        for (holder, (peer, behaviour, _)) in holders.iter().zip(&lies) {
            let most = if matches!(behaviour, Behaviour::FalseHave(..)) { 4 } else { 1 };
            assert!(connections(&holder.asked()) <= most, "{peer}: a liar is dialled once");
        }
        assert!(!to.join("x").exists());
        assert_eq!(part_files(&to).len(), 1, "a-flips has delivered some");
    });
}

#[test]
fn a_size_that_calls_for_a_longer_manifest_is_found_wrong_before_that_is_waited_for() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN);
        let liar = holder(&test, "liar", &content, Behaviour::WrongSize);
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![liar.listed()])]);
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &test.folder())]).await;
        let why = "states a wrong size (2097153 bytes)".to_string();
        assert_eq!(undelivered(told.failed()), [("liar".into(), why)]);
    });
}

#[test]
fn who_lies_costs_nothing_of_what_is_on_disk() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN + 100);
        let to = test.folder();
        // All but the first span.
        let mut held = content.data.to_vec();
        held[..SPAN].fill(0);
        std::fs::write(part_path(&to, &content), &held).unwrap();
        for size in [1, SPAN, 7 * SPAN, content.data.len() - 1, content.data.len() + 1, 9 * SPAN + 1] {
            let liar = holder(&test, "liar", &content.forged(size), Behaviour::Honest);
            let lie = candidate(&content.forged(size), &["x"], vec![liar.listed()]);
            let tracker = tracker_of(&test, vec![lie]);
            let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
            let reasons = undelivered(told.failed());
            assert!(matches!(&reasons[..], [(_, why)] if why.starts_with("sent ")), "{size}: {reasons:?}");
            assert!(!to.join("x").exists());
            let held = std::fs::read(part_path(&to, &content)).unwrap();
            assert!(held.get(SPAN..content.data.len()) == Some(&content.data[SPAN..]), "{size}");
        }
        let good = holder(&test, "good", &content, Behaviour::Honest);
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![good.listed()])]);
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        // What came right from a liar counts too.
        assert!(told.done().fetched_bytes <= SPAN as u64, "{:?}", told.done());
        assert_sums_up(told.done());
    });
}

#[test]
fn a_holder_that_never_greets_is_given_up_after_two_attempts() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 10);
        let silent = holder(&test, "silent", &content, Behaviour::Honest);
        let hole = FaultProxy::start(&test, silent.address(), vec![Fault::black_hole()]);
        let listed = vec![silent.listed_at(hole.address())];
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], listed)]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        let why = "no greeting within 10 s".to_string();
        assert_eq!(undelivered(told.failed()), [("silent".into(), why.clone())]);
        assert_eq!(told.dropped("silent"), [&why, &why]);
        assert_eq!(hole.traffic().connections, 2);
    });
}

// ---- holders that are lost and come back ----

#[test]
fn the_only_holder_that_restarts_is_found_again_when_it_has_registered() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN);
        let only = holder(&test, "only", &content, Behaviour::Honest);
        // Dead in the middle of the second span, and for the dials behind that.
        let dies = Fault::to_client(Way::ends(SPAN as u64 * 3 / 2, End::Reset));
        let script = [vec![dies], vec![Fault::refuse(); 2], vec![Fault::none()]].concat();
        let proxy = FaultProxy::start(&test, only.address(), script);
        let listed = candidate(&content, &["x"], vec![only.listed_at(proxy.address())]);
        let tracker = tracker_of(&test, vec![listed.clone()]);
        let to = test.folder();
        let running = Running::start(&test, tracker.address(), vec![into_folder("x", &to)]);
        proxy.until(|traffic| traffic.connections == 2).await;
        tracker.change(|script| script.candidates.clear());
        proxy.until(|traffic| traffic.connections == 3).await;
        let asked = tracker.told().len();
        tracker.until(|told| told.len() > asked + 1).await;
        assert_eq!(proxy.traffic().connections, 3, "it is not dialled while nobody tells of it");
        tracker.change(|script| script.candidates.push(listed));
        let told = running.finish().await;
        assert!(content.stands_at(&to.join("x")), "{:?}", told.0);
        assert_sums_up(told.done());
        assert_eq!(proxy.traffic().connections, 4);
    });
}

#[test]
fn a_holder_that_looks_at_its_file_anew_is_asked_again_for_it() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 24 * SPAN + 5);
        let tracker = RealTracker::start(&test, NEVER);
        let limits = RateLimits { upload: ByteRate::new(4 << 20), download: None };
        let fill = |files: &Path| drop(content.write(files, "x"));
        let only = RealPeer::start_limited(&test, tracker.address(), "only", limits, fill).await;
        let served = only.files.join("x");
        let to = test.folder();
        let mut running = Running::start(&test, tracker.address(), vec![into_folder("x", &to)]);
        // None of these changes a byte of it.
        let touches: [&dyn Fn(); 3] = [
            &|| std::fs::set_permissions(&served, Permissions::from_mode(0o600)).unwrap(),
            &|| std::fs::hard_link(&served, only.files.parent().unwrap().join("linked")).unwrap(),
            &|| File::options().append(true).open(&served).unwrap().set_modified(SystemTime::now()).unwrap(),
        ];
        for (number, touch) in touches.into_iter().enumerate() {
            let so_far = 2 * (number + 1) as u64 * SPAN as u64;
            let has_come = |event: &JobEvent| matches!(event, JobEvent::Progress(progress) if progress.have_bytes > so_far);
            running.watched.until("some of it", has_come).await;
            touch();
        }
        let told = running.finish().await;
        assert!(content.stands_at(&to.join("x")), "{:?}", told.0);
        assert_sums_up(told.done());
        assert_eq!(told.lies("only"), Vec::<&str>::new());
        only.stop().await;
        tracker.stop().await;
    });
}

#[test]
fn a_holder_that_never_has_what_it_is_said_to_have_is_asked_a_few_times() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let other = Content::random(&mut test.rng(), 10);
        let lacks = holder(&test, "lacks", &other, Behaviour::Honest);
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![lacks.listed()])]);
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &test.folder())]).await;
        assert_eq!(undelivered(told.failed()), [("lacks".into(), "does not have it any more".into())]);
        let asked = opened(&lacks.asked()).len();
        assert!((2..=5).contains(&asked), "{asked} times");
    });
}

#[test]
fn that_our_own_link_is_down_is_held_against_no_holder() {
    with_no_network(|| {
        system_test(|test| async move {
            let content = Content::random(&mut test.rng(), 10);
            let far =
                Holder { peer: "far".parse().unwrap(), address: ([10, 0, 0, 1], 9).into(), complete: true };
            let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![far])]);
            let wants = vec![into_folder("x", &test.folder())];
            let mut running = Running::start(&test, tracker.address(), wants);
            let is_dropped = |event: &JobEvent| match event {
                JobEvent::Source { state: SourceState::Dropped { reason }, .. } => {
                    assert!(reason.starts_with("could not be dialled: Network is unreachable"), "{reason}");
                    true
                }
                _ => false,
            };
            // Of somebody who fails, three are enough.
            for _ in 0..5 {
                running.watched.until("a dial that cannot be made", is_dropped).await;
            }
            running.cancel();
            assert!(matches!(running.finish().await.failed(), JobError::Interrupted));
        });
    });
}

#[test]
fn a_job_has_sixteen_connections_however_many_holders_there_are() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 40 * SPAN);
        let holders: Vec<_> = (0..MAX_DOWNLOAD_CONNECTIONS + 8)
            .map(|number| holder(&test, &format!("p{number}"), &content, Behaviour::Trickle(300_000)))
            .collect();
        let listed = holders.iter().map(|holder| holder.listed()).collect();
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], listed)]);
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &test.folder())]).await;
        assert_sums_up(told.done());
        let (mut connected, mut most) = (BTreeSet::new(), 0);
        for event in &told.0 {
            match event {
                JobEvent::Source { peer, state: SourceState::Connected, .. } => connected.insert(peer),
                JobEvent::Source { peer, state: SourceState::Dropped { .. }, .. } => connected.remove(peer),
                _ => continue,
            };
            most = most.max(connected.len());
        }
        assert_eq!(most, MAX_DOWNLOAD_CONNECTIONS);
    });
}

#[test]
fn what_nobody_has_fails_at_once() {
    system_test(|test| async move {
        let content = Content::of("something");
        let holder = holder(&test, "p1", &content, Behaviour::Honest);
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![holder.listed()])]);
        let to = test.folder();
        let wants = vec![into_folder("y", &to), into_folder("x", &to)];
        let told = fetch(&test, tracker.address(), wants).await;
        assert!(matches!(told.all_failed()[..], [("y", JobError::NobodyHasIt)]), "{told:#?}");
        assert_eq!(told.all_done().len(), 1, "the other file is fetched all the same");
    });
}

#[test]
fn a_tracker_that_cannot_be_reached_is_named() {
    system_test(|test| async move {
        let nobody = RefusingAddress::new();
        let to = test.folder();
        let told = fetch(&test, nobody.address(), vec![into_folder("x", &to)]).await;
        match told.failed() {
            JobError::NoTracker(reasons) => {
                assert_eq!(reasons.len(), 1);
                assert_eq!(reasons[0].0, nobody.address().to_string());
                assert!(reasons[0].1.contains("refused"), "{reasons:?}");
            }
            other => panic!("{other:?}"),
        }
    });
}

// ---- names and ids ----

#[test]
fn one_of_two_files_with_one_name_has_to_be_chosen() {
    system_test(|test| async move {
        let contents = [Content::random(&mut test.rng(), 1000), Content::random(&mut test.rng(), SPAN + 1)];
        let holder = FakeHolder::start(&test, "p1", &contents, Behaviour::Honest);
        let known = |content: &Content| candidate(content, &["dir/x"], vec![holder.listed()]);
        let tracker = tracker_of(&test, contents.iter().map(known).collect());
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("dir/x", &to)]).await;
        let mut choices = contents.each_ref().map(known);
        choices.sort_by_key(|choice| choice.id);
        match told.failed() {
            JobError::Ambiguous(candidates) => assert_eq!(*candidates, choices),
            other => panic!("{other:?}"),
        }
        assert_eq!(holder.asked(), [], "nothing is guessed");
        for content in &contents {
            let id = content.id.to_string();
            // name@prefix, the id, and a prefix of it.
            for choice in [format!("dir/x@{}", &id[..6]), id.clone(), id[..8].to_string()] {
                let to = test.folder();
                let told = fetch(&test, tracker.address(), vec![into_folder(&choice, &to)]).await;
                assert_eq!(told.done().id, content.id, "{choice}");
                assert!(content.stands_at(&to.join("x")), "{choice}");
            }
        }
    });
}

#[test]
fn one_content_under_two_names_is_one_id_with_all_its_holders() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let tracker = RealTracker::start(&test, NEVER);
        let address = tracker.address();
        let p1 = RealPeer::start(&test, address, "p1", |files| drop(content.write(files, "a"))).await;
        let p2 = RealPeer::start(&test, address, "p2", |files| drop(content.write(files, "dir/b"))).await;
        let to = test.folder();
        let wants = vec![into_folder("a", &to), into_folder("dir/b", &to)];
        let told = fetch(&test, address, wants).await;
        assert_eq!(told.all_failed().len(), 0, "{told:#?}");
        assert!(content.stands_at(&to.join("a")) && content.stands_at(&to.join("b")));
        let found = told.0.iter().filter_map(|event| match event {
            JobEvent::Found { id, holders, .. } => Some((*id, *holders)),
            _ => None,
        });
        assert_eq!(found.collect::<Vec<_>>(), [(content.id, 2), (content.id, 2)]);
        let fetched: u64 = told.all_done().iter().map(|done| done.fetched_bytes).sum();
        assert_eq!(fetched, content.size(), "it is fetched once");
        p1.stop().await;
        p2.stop().await;
        tracker.stop().await;
    });
}

#[test]
fn a_size_that_most_claim_falsely_does_not_keep_the_file_from_whoever_has_it() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN + 100);
        let liars = ["l1", "l2", "l3"].map(|peer| holder(&test, peer, &content, Behaviour::WrongSize));
        let good = holder(&test, "good", &content, Behaviour::Honest);
        let truth = candidate(&content, &["x"], vec![good.listed()]);
        let lie = Candidate {
            size: content.size() + 1,
            ..candidate(&content, &["x"], liars.iter().map(FakeHolder::listed).collect())
        };
        let tracker = tracker_of(&test, vec![lie, truth]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(told.done().size, content.size());
        assert_sums_up(told.done());
        assert_eq!(told.dropped("good"), Vec::<&str>::new());
        for liar in &liars {
            assert_eq!(connections(&liar.asked()), 1, "{:?}", liar.asked());
        }
        assert_eq!(part_files(&to), Vec::<PathBuf>::new());
    });
}

#[test]
fn a_size_of_which_nobody_delivers_anything_is_given_up_for_another() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN + 100);
        let forged = content.forged(content.data.len() + 1);
        // They stay, and never have anything.
        let liars = ["l1", "l2"].map(|peer| holder(&test, peer, &forged, Behaviour::Partial([].into())));
        let good = holder(&test, "good", &content, Behaviour::Honest);
        let lie = candidate(&forged, &["x"], liars.iter().map(FakeHolder::listed).collect());
        let tracker = tracker_of(&test, vec![lie, candidate(&content, &["x"], vec![good.listed()])]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(told.done().size, content.size());
        assert_sums_up(told.done());
        assert_eq!(told.dropped("good"), Vec::<&str>::new());
    });
}

/// Each is taken for a small one first, of which many are fetched at a time.
#[test]
fn of_files_that_turn_out_to_be_large_few_are_fetched_at_a_time() {
    const MANY: usize = 30;
    const LARGE_AT_A_TIME: usize = 8;
    system_test(|test| async move {
        let mut rng = test.rng();
        let contents: Vec<Content> = (0..MANY).map(|_| Content::random(&mut rng, 2 * SPAN + 1)).collect();
        let forged: Vec<Content> = contents.iter().map(|content| content.forged(10)).collect();
        let liars = ["l1", "l2"].map(|peer| FakeHolder::start(&test, peer, &forged, Behaviour::Honest));
        let good = FakeHolder::start(&test, "good", &contents, Behaviour::Honest);
        let candidates = forged.iter().zip(&contents).enumerate().flat_map(|(n, (forged, content))| {
            let name = format!("f{n}");
            let lie = candidate(forged, &[&name], liars.iter().map(FakeHolder::listed).collect());
            [lie, candidate(content, &[&name], vec![good.listed()])]
        });
        let tracker = tracker_of(&test, candidates.collect());
        let to = test.folder();
        let wants = (0..MANY).map(|n| into_folder(&format!("f{n}"), &to)).collect();
        let told = fetch(&test, tracker.address(), wants).await;
        assert_eq!(told.all_done().len(), MANY, "{told:#?}");
        let asked = good.asked();
        let opens = |(_, asked): &(u64, Asked)| matches!(asked, Asked::Said(ToHolder::Open { .. }));
        let (last, _) =
            asked.iter().enumerate().filter(|(_, asked)| opens(asked)).nth(LARGE_AT_A_TIME).unwrap();
        let before = spans_asked(&contents[0], &asked[..last]);
        assert!(before >= 3, "one more is opened when one is fetched, and {before} spans were asked for");
    });
}

#[test]
fn who_was_told_of_by_a_liar_is_not_held_to_what_the_liar_says_of_the_size() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN + 100);
        let forged = content.forged(content.data.len() + 1);
        let good = holder(&test, "good", &content, Behaviour::Honest);
        let nothing = Behaviour::Partial([].into());
        let known = [good.listed()];
        let liar = FakeHolder::start_knowing(&test, "liar", std::slice::from_ref(&forged), nothing, &known);
        let tracker = tracker_of(&test, vec![candidate(&forged, &["x"], vec![liar.listed()])]);
        let to = test.folder();
        let running = Running::start(&test, tracker.address(), vec![into_folder("x", &to)]);
        good.until(|asked| !opened(asked).is_empty()).await;
        drop(liar);
        let told = running.finish().await;
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(told.done().size, content.size());
        assert_sums_up(told.done());
        assert_eq!(told.lies("good"), Vec::<&str>::new());
        assert_eq!(told.dropped("good").len(), 1, "asked again, it is asked for its size");
    });
}

// ---- a network that fails ----

/// Row 11 of SECURITY.md.
#[test]
fn an_answer_that_is_cut_at_any_byte_is_no_file() {
    system_test_within(Duration::from_secs(240), |test| async move {
        let content = Content::random(&mut test.rng(), 64 << 10);
        let holder = holder(&test, "p1", &content, Behaviour::CloseLaterEachTime);
        let to = test.folder();
        let (advanced, _) = Probe::start();
        let assembler = Assembler::start(advanced.downgrade());
        let (folder, name) = (job::folder(&to), "x".parse().unwrap());
        let place = Place { folder, name, overwrite: false, is_noted: false, namesake: None };
        let file = FileIndex(0);
        let begin =
            Begin { file, proof: content.proof(), output: Output::Place(place), is_one_of_many: false };
        assembler.send(begin).await.unwrap().unwrap();
        let (facts, mut heard) = Probe::<SourceReport>::start();
        let mut cut = 0;
        loop {
            let config = SourceConfig {
                source: SourceId(cut),
                us: "getter".parse().unwrap(),
                peer: "p1".parse().unwrap(),
                address: holder.address(),
                handoff: Handoff::to(assembler.clone().recipient()),
                // Each time as if it was the first.
                permits: (&Dialling::default().start()).into(),
                facts: facts.clone(),
                limiter: None,
            };
            let source = SourceConnection::start_on(&Arbiter::current(), config);
            let mut settled = Vec::new();
            let ending = loop {
                match test.wait_for("the end of the source", heard.recv()).await.unwrap().fact {
                    SourceFact::Connected => {
                        let request = Request { file, spans: 0..1, is_fresh: false };
                        source.do_send(Order::Get(vec![(request, content.id, content.geometry)]));
                    }
                    SourceFact::Settled(outcomes) => settled.extend(outcomes),
                    SourceFact::Ended(ending) => break ending,
                    fact => panic!("cut at {cut}: {fact:?}"),
                }
            };
            assert!(matches!(ending, Ending::Cut(_)), "cut at {cut}: {ending}");
            if let [(_, _, outcome)] = &settled[..] {
                assert!(matches!(outcome, Outcome::Finished(_)), "cut at {cut}: {outcome:?}");
                break;
            }
            assert!(settled.is_empty() && !to.join("x").exists(), "cut at {cut}");
            cut += 1;
        }
        assert!(content.stands_at(&to.join("x")));
        assert!(cut > content.size() && cut < content.size() + 200, "{cut} bytes are all of it");
        println!("cut at each of {cut} bytes");
        assembler.send(StopAssembling).await.unwrap();
    });
}

/// Fetches through proxies with these scripts, all at the same time, each from a holder of its own.
async fn fetch_through(test: &Test, content: &Content, scripts: Vec<Vec<Fault>>) -> Vec<(FaultProxy, Told)> {
    let mut started = Vec::new();
    for script in scripts {
        let holder = holder(test, "only", content, Behaviour::Honest);
        let proxy = FaultProxy::start(test, holder.address(), script);
        let listed = vec![holder.listed_at(proxy.address())];
        let tracker = tracker_of(test, vec![candidate(content, &["x"], listed)]);
        let to = test.folder();
        let running = Running::start(test, tracker.address(), vec![into_folder("x", &to)]);
        started.push((running, to, proxy, holder, tracker));
    }
    let mut ended = Vec::new();
    for (running, to, proxy, _holder, _tracker) in started {
        let told = running.finish().await;
        assert!(content.stands_at(&to.join("x")), "{told:#?}");
        ended.push((proxy, told));
    }
    ended
}

fn a_connection_cut_anywhere_is_made_again(end: End) {
    system_test(move |test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN + 777);
        let span = SPAN as u64;
        // Inside and behind the greeting, OPENED, the manifest, a header, spans; all but one byte.
        let cuts =
            [0, 1, 4, 30, 60, 90, 150, 200, 290, 310, 1100, span / 2, span + 1000, 2 * span, 3 * span + 1100];
        let script = |cut: &u64| vec![Fault::to_client(Way::ends(*cut, end)), Fault::none()];
        let ended = fetch_through(&test, &content, cuts.iter().map(script).collect()).await;
        for (cut, (proxy, told)) in cuts.iter().zip(ended) {
            assert_eq!(proxy.traffic().connections, 2, "cut at {cut}");
            assert_eq!(told.dropped("only").len(), 1, "cut at {cut}");
            assert_sums_up(told.done());
            assert_eq!(told.done().wasted_bytes, 0, "cut at {cut}");
        }
    });
}

#[test]
fn a_connection_that_ends_anywhere_is_made_again_and_the_job_finishes() {
    a_connection_cut_anywhere_is_made_again(End::Fin);
}

#[test]
fn a_connection_that_is_reset_anywhere_is_made_again_and_the_job_finishes() {
    a_connection_cut_anywhere_is_made_again(End::Reset);
}

/// What a holder sends of a content of three whole spans that is not data: where, in bytes from the
/// connection's first one.
async fn places_of_control(test: &Test, content: &Content) -> Vec<u64> {
    let ended = fetch_through(test, content, vec![vec![Fault::none()]]).await;
    let header = BLOCKS_HEADER_BYTES as u64;
    let frame = header + SPAN as u64;
    let first = ended[0].0.traffic().to_client - 3 * frame;
    let headers = (0..3).flat_map(|span| first + span * frame..first + span * frame + header);
    (0..first).chain(headers).collect()
}

#[test]
fn a_bit_flipped_on_the_way_is_found_wherever_it_is() {
    system_test_within(Duration::from_secs(240), |test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let good = holder(&test, "good", &content, Behaviour::Honest);
        let proxy = later(&test, &good);
        // Every byte of the greeting, of OPENED, the manifest, the headers of the spans; some of data.
        let control = places_of_control(&test, &content).await;
        let data =
            [0, 4000, SPAN as u64, 2 * SPAN as u64 + 77].map(|at| control[control.len() - 39] + 13 + at);
        let flips: Vec<u64> = control.into_iter().chain(data).collect();
        for flips in flips.chunks(40) {
            let mut started = Vec::new();
            for flip in flips {
                let flipped = holder(&test, "flipped", &content, Behaviour::Honest);
                let script = vec![Fault::to_client(Way::flips(*flip, (flip % 8) as u8)), Fault::none()];
                let network = FaultProxy::start(&test, flipped.address(), script);
                let listed = vec![flipped.listed_at(network.address()), good.listed_at(proxy.address())];
                let tracker = tracker_of(&test, vec![candidate(&content, &["x"], listed)]);
                let to = test.folder();
                let running = Running::start(&test, tracker.address(), vec![into_folder("x", &to)]);
                started.push((running, to, flipped, network, tracker));
            }
            for ((running, to, _flipped, network, _tracker), flip) in started.into_iter().zip(flips) {
                let told = running.finish().await;
                assert!(content.stands_at(&to.join("x")), "byte {flip}: {told:#?}");
                assert_sums_up(told.done());
                assert_eq!(told.dropped("good"), Vec::<&str>::new(), "byte {flip}");
                // Who sent wrong data is not asked again, whoever flipped the bit.
                let lied = told.dropped("flipped").iter().any(|reason| reason.contains("wrong data"));
                assert!(!lied || network.traffic().connections == 1, "byte {flip}: {told:#?}");
            }
        }
        println!("{} bytes flipped, each in a download of its own", flips.len());
    });
}

#[test]
fn a_bit_flipped_in_a_span_drops_its_source_and_another_one_finishes() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN + 777);
        let flipped = holder(&test, "flipped", &content, Behaviour::Honest);
        let good = holder(&test, "good", &content, Behaviour::Honest);
        let script = vec![Fault::to_client(Way::flips(SPAN as u64, 3)), Fault::none()];
        let network = FaultProxy::start(&test, flipped.address(), script);
        let proxy = later(&test, &good);
        let listed = vec![flipped.listed_at(network.address()), good.listed_at(proxy.address())];
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], listed)]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        let reasons = told.dropped("flipped");
        assert!(matches!(reasons[..], [reason] if reason.contains("sent wrong data")), "{reasons:?}");
        assert_eq!(network.traffic().connections, 1);
        assert!(share(told.done(), "good") > 0);
        assert_sums_up(told.done());
        assert!(told.done().wasted_bytes > 0, "the wrong span is counted");
    });
}

#[test]
fn a_black_hole_does_not_hold_the_others_up() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let (bad, good) = (
            holder(&test, "bad", &content, Behaviour::Honest),
            holder(&test, "good", &content, Behaviour::Honest),
        );
        let hole = FaultProxy::start(&test, bad.address(), vec![Fault::black_hole()]);
        let listed = vec![bad.listed_at(hole.address()), good.listed()];
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], listed)]);
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(hole.traffic().connections, 1);
        assert!(told.done().elapsed < Duration::from_secs(5), "{:?}", told.done().elapsed);
    });
}
