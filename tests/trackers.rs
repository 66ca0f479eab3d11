//! Several trackers, and none: who registers where, whose answer counts, and who helps when nobody answers.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use actix::Arbiter;
use enxame_actors::base::limits::{MAX_ANSWER_HOLDERS, TRACKER_ANSWER_TIMEOUT, TRACKER_RETRY_MAX};
use enxame_actors::peer::events::{JobError, JobEvent, SourceState};
use enxame_actors::peer::library::{AwaitReady, Library, LibraryConfig, ListChanged, Stop, Subscribe};
use enxame_actors::peer::trackers::{LeaveAll, TrackerFailure, TrackersConfig};
use enxame_actors::peer::{Peer, PeerConfig, PeerError, RateLimits};
use enxame_actors::tracker::{LeaveReason, TrackerEvent};
use enxame_actors::wire::peer::{FromHolder, ToHolder};
use enxame_actors::wire::tracker::{Candidate, Holder};
use support::files::SPAN;
use support::getter::{Heard, RawGetter};
use support::job::{Running, Told, Trackers, Watched, assert_sums_up, fetch, into_folder, share, what};
use support::proxy::RefusingAddress;
use support::swarm::{NEVER, RealPeer, RealTracker, start_peer};
use support::tracker::{Script, candidate};
use support::{Behaviour, Content, FakeHolder, FakeTracker, RawPeer, Test, system_test};

/// A tracker that answers with these.
fn tracker_of(test: &Test, candidates: Vec<Candidate>) -> FakeTracker {
    FakeTracker::start(test, Script { candidates, ..Script::default() })
}

/// A tracker that takes connections and says nothing.
fn silent(test: &Test) -> FakeTracker {
    FakeTracker::start(test, Script { silent: true, ..Script::default() })
}

/// Fetches into a peer's folder, and says what was told when all of it is done or has failed once.
async fn fetch_into(test: &Test, peer: &Peer, text: &str) -> Told {
    let (events, mut watched) = Watched::start(test);
    let job = peer.fetch(vec![what(text)], false, events);
    let is_end = |event: &JobEvent| matches!(event, JobEvent::Done(_) | JobEvent::Failed { .. });
    watched.until("an outcome", is_end).await;
    job.cancel();
    test.wait_for("the job's end", job.wait()).await;
    drop(job);
    watched.end().await
}

/// Whether the only candidate has exactly these holders.
fn held_by(peers: &[&str]) -> impl FnMut(&[Candidate]) -> bool {
    move |found| match found {
        [one] => {
            let mut ids: Vec<&str> = one.holders.iter().map(|holder| holder.peer.as_str()).collect();
            ids.sort_unstable();
            ids == peers
        }
        [] => peers.is_empty(),
        _ => false,
    }
}

async fn stop_all(peers: Vec<RealPeer>, trackers: Vec<RealTracker>) {
    for peer in peers {
        peer.stop().await;
    }
    for tracker in trackers {
        tracker.stop().await;
    }
}

// ---- registering ----

#[test]
fn a_peer_registers_with_all_its_trackers_tells_changes_to_all_and_leaves_all() {
    system_test(|test| async move {
        let mut trackers = vec![RealTracker::start(&test, NEVER), RealTracker::start(&test, NEVER)];
        let content = Content::random(&mut test.rng(), 1000);
        let both = [trackers[0].address(), trackers[1].address()];
        let peer = RealPeer::start(&test, both, "p1", |files| drop(content.write(files, "a"))).await;
        let later = Content::random(&mut test.rng(), 1000);
        later.write(&peer.files, "b");
        for tracker in &trackers {
            tracker.until("the file", "a", held_by(&["p1"])).await;
            tracker.until("what came later", "b", held_by(&["p1"])).await;
        }
        let peer_id = peer.peer.id().clone();
        peer.stop().await;
        for tracker in &mut trackers {
            loop {
                let event = test.wait_for("the peer to leave", tracker.events.recv()).await.unwrap();
                if let TrackerEvent::PeerLeft { peer, reason } = event {
                    assert_eq!((peer, reason), (peer_id.clone(), LeaveReason::Disconnected));
                    break;
                }
            }
        }
        stop_all(Vec::new(), trackers).await;
    });
}

#[test]
fn a_confirmation_looks_at_the_folder_for_every_tracker() {
    system_test(|test| async move {
        let interval = Duration::from_millis(300);
        let trackers = vec![RealTracker::start(&test, interval), RealTracker::start(&test, interval)];
        let root = test.folder();
        let content = Content::random(&mut test.rng(), 1000);
        let path = content.write(&root.join("files"), "a");
        // Nobody watches the folder: only the look in front of a confirmation finds the change.
        let library =
            Library::start(LibraryConfig { root, watch: false, progress: None }, &Arbiter::current());
        let links = enxame_actors::peer::trackers::Trackers::start(TrackersConfig {
            trackers: [trackers[0].address(), trackers[1].address()].addresses(),
            us: "p1".parse().unwrap(),
            port: 9,
            rescan: Some(library.clone().recipient()),
            is_lazy: false,
            news: None,
            memory: None,
        });
        let added = library.send(Subscribe(links.clone().recipient())).await.unwrap();
        links.do_send(ListChanged { added, removed: Vec::new() });
        library.send(AwaitReady).await.unwrap().unwrap();
        for tracker in &trackers {
            tracker.until("the file", "a", held_by(&["p1"])).await;
        }
        std::fs::remove_file(path).unwrap();
        for tracker in &trackers {
            tracker.until("nobody", "a", held_by(&[])).await;
        }
        links.send(LeaveAll).await.unwrap();
        library.send(Stop).await.unwrap();
        stop_all(Vec::new(), trackers).await;
    });
}

#[test]
fn a_peer_is_ready_with_one_tracker_and_registers_with_the_other_when_it_comes() {
    system_test(|test| async move {
        let here = RealTracker::start(&test, NEVER);
        let late = RealTracker::start(&test, NEVER);
        let late_address = late.address();
        late.stop().await;
        let content = Content::random(&mut test.rng(), 1000);
        let both = [late_address, here.address()];
        let peer = RealPeer::start(&test, both, "p1", |files| drop(content.write(files, "a"))).await;
        here.until("the peer", "a", held_by(&["p1"])).await;
        let late = RealTracker::start_at(&test, late_address, NEVER);
        late.until("the peer", "a", held_by(&["p1"])).await;
        stop_all(vec![peer], vec![here, late]).await;
    });
}

#[test]
fn trackers_that_restart_empty_know_all_living_peers_again_within_one_back_off() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 1000);
        let first = RealTracker::start(&test, NEVER);
        let second = RealTracker::start(&test, NEVER);
        let both = [first.address(), second.address()];
        let mut peers = Vec::new();
        for id in ["p1", "p2"] {
            peers.push(RealPeer::start(&test, both, id, |files| drop(content.write(files, "a"))).await);
        }
        first.until("both peers", "a", held_by(&["p1", "p2"])).await;
        second.until("both peers", "a", held_by(&["p1", "p2"])).await;

        // One of two: the other one knows them all the time.
        first.stop().await;
        assert!(held_by(&["p1", "p2"])(&second.who_has("a").await));
        let start = std::time::Instant::now();
        let first = RealTracker::start_at(&test, both[0], NEVER);
        first.until("both peers again", "a", held_by(&["p1", "p2"])).await;
        assert!(start.elapsed() < TRACKER_RETRY_MAX, "{:?}", start.elapsed());

        // Both, and one comes back.
        first.stop().await;
        second.stop().await;
        let start = std::time::Instant::now();
        let second = RealTracker::start_at(&test, both[1], NEVER);
        second.until("both peers again", "a", held_by(&["p1", "p2"])).await;
        assert!(start.elapsed() < TRACKER_RETRY_MAX, "{:?}", start.elapsed());
        stop_all(peers, vec![second]).await;
    });
}

#[test]
fn a_peer_id_that_one_of_the_trackers_knows_as_taken_is_an_error() {
    system_test(|test| async move {
        let (first, second) = (RealTracker::start(&test, NEVER), RealTracker::start(&test, NEVER));
        let other = RawPeer::connect(second.address(), "p1").await.unwrap();
        other.register(77, 9, Vec::new()).await.unwrap();
        let both = [first.address(), second.address()];
        let started = start_peer(both, "p1", test.folder(), None);
        match test.wait_for("the refusal", started).await.err() {
            Some(PeerError::Tracker(TrackerFailure::Refused { tracker, why })) => {
                assert_eq!(tracker, second.address().to_string());
                assert!(why.contains("p1 is registered"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(first.who_has("a").await, []);
        drop(other);
        stop_all(Vec::new(), vec![first, second]).await;
    });
}

#[test]
fn one_tracker_under_two_names_is_told_apart_from_two() {
    system_test(|test| async move {
        let tracker = RealTracker::start(&test, NEVER);
        let port = tracker.address().port();
        let config = PeerConfig {
            id: "p1".parse().unwrap(),
            root: test.folder(),
            listen: ([127, 0, 0, 1], 0).into(),
            trackers: vec![tracker.address().into(), format!("localhost:{port}").parse().unwrap()],
            wants: Vec::new(),
            progress: None,
            limits: RateLimits::default(),
        };
        match test.wait_for("the refusal", Peer::start(config, None)).await.err() {
            Some(PeerError::Tracker(TrackerFailure::Refused { why, .. })) => {
                assert!(why.ends_with("one tracker under two names?"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        tracker.stop().await;
    });
}

#[test]
fn a_peer_without_any_tracker_names_each_with_its_reason() {
    system_test(|test| async move {
        let nobody = [RefusingAddress::new(), RefusingAddress::new()];
        let both = [nobody[0].address(), nobody[1].address()];
        let started = start_peer(both, "p1", test.folder(), None);
        match test.wait_for("the failure", started).await.err() {
            Some(PeerError::Tracker(TrackerFailure::NoAnswer(reasons))) => {
                assert_eq!(reasons.len(), 2);
                for ((tracker, why), address) in reasons.iter().zip(both) {
                    assert_eq!(*tracker, address.to_string());
                    assert!(why.contains("refused"), "{why}");
                }
            }
            other => panic!("{other:?}"),
        }
    });
}

// ---- asking ----

#[test]
fn a_download_takes_from_the_holders_of_all_trackers() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 20 * SPAN);
        let all = std::slice::from_ref(&content);
        let even = FakeHolder::start(&test, "even", all, Behaviour::Partial((0..20).step_by(2).collect()));
        let odd = FakeHolder::start(&test, "odd", all, Behaviour::Partial((1..20).step_by(2).collect()));
        let first = tracker_of(&test, vec![candidate(&content, &["x"], vec![even.listed()])]);
        let second = tracker_of(&test, vec![candidate(&content, &["x"], vec![odd.listed()])]);
        let to = test.folder();
        let told = fetch(&test, [first.address(), second.address()], vec![into_folder("x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        assert_sums_up(told.done());
        for holder in ["even", "odd"] {
            assert_eq!(share(told.done(), holder), 10 * SPAN as u64, "{holder}");
        }
        let found = told.0.iter().find_map(|event| match event {
            JobEvent::Found { holders, .. } => Some(*holders),
            _ => None,
        });
        assert_eq!(found, Some(2));
    });
}

#[test]
fn a_name_that_means_something_else_at_another_tracker_has_to_be_chosen() {
    system_test(|test| async move {
        let contents = [Content::random(&mut test.rng(), 1000), Content::random(&mut test.rng(), 1001)];
        let holder = FakeHolder::start(&test, "p1", &contents, Behaviour::Honest);
        let trackers = contents
            .each_ref()
            .map(|content| tracker_of(&test, vec![candidate(content, &["x"], vec![holder.listed()])]));
        let both = [trackers[0].address(), trackers[1].address()];
        let to = test.folder();
        let told = fetch(&test, both, vec![into_folder("x", &to)]).await;
        assert!(matches!(told.failed(), JobError::Ambiguous(found) if found.len() == 2), "{told:?}");
        let choice = format!("x@{}", &contents[1].id.to_string()[..8]);
        let told = fetch(&test, both, vec![into_folder(&choice, &to)]).await;
        assert_eq!(told.done().id, contents[1].id);
    });
}

#[test]
fn the_first_meaning_that_any_tracker_knows_counts_at_all_of_them() {
    system_test(|test| async move {
        let named = Content::random(&mut test.rng(), 1000);
        let meant = Content::random(&mut test.rng(), 1001);
        // Eight digits: a name at one tracker, the beginning of an id at the other.
        let text = named.id.to_string()[..8].to_string();
        let holder = FakeHolder::start(&test, "p1", &[named.clone(), meant.clone()], Behaviour::Honest);
        let as_id = tracker_of(&test, vec![candidate(&named, &["other"], vec![holder.listed()])]);
        let as_name = tracker_of(&test, vec![candidate(&meant, &[&text], vec![holder.listed()])]);
        let to = test.folder();
        let told = fetch(&test, [as_id.address(), as_name.address()], vec![into_folder(&text, &to)]).await;
        assert_eq!(told.done().id, meant.id, "a name counts before a prefix");
    });
}

#[test]
fn a_tracker_that_swallows_everything_slows_no_question_by_its_time_out() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let holder = FakeHolder::start(&test, "p1", std::slice::from_ref(&content), Behaviour::Honest);
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![holder.listed()])]);
        let black_hole = silent(&test);
        let both = [black_hole.address(), tracker.address()];
        let to = test.folder();
        let start = std::time::Instant::now();
        let told = fetch(&test, both, vec![into_folder("x", &to)]).await;
        assert_eq!(told.done().id, content.id);
        assert!(told.done().elapsed < TRACKER_ANSWER_TIMEOUT / 4, "{:?}", told.done().elapsed);
        // That nobody has it is said later, and still before the time-out.
        let told = fetch(&test, both, vec![into_folder("nothing", &to)]).await;
        assert!(matches!(told.failed(), JobError::NobodyHasIt), "{told:?}");
        assert!(start.elapsed() < TRACKER_ANSWER_TIMEOUT, "{:?}", start.elapsed());
    });
}

#[test]
fn a_tracker_that_never_answers_is_given_up_after_ten_seconds() {
    system_test(|test| async move {
        let black_hole = silent(&test);
        let start = std::time::Instant::now();
        let told = fetch(&test, black_hole.address(), vec![into_folder("x", &test.folder())]).await;
        let JobError::NoTracker(reasons) = told.failed() else { panic!("{told:?}") };
        assert!(reasons[0].1.contains("within 10 s"), "{reasons:?}");
        assert!(start.elapsed() >= TRACKER_ANSWER_TIMEOUT, "{:?}", start.elapsed());
    });
}

#[test]
fn a_fetch_that_no_tracker_answers_names_each() {
    system_test(|test| async move {
        let nobody = [RefusingAddress::new(), RefusingAddress::new()];
        let both = [nobody[0].address(), nobody[1].address()];
        let told = fetch(&test, both, vec![into_folder("x", &test.folder())]).await;
        let JobError::NoTracker(reasons) = told.failed() else { panic!("{told:?}") };
        let named: Vec<String> = reasons.iter().map(|(tracker, _)| tracker.clone()).collect();
        assert_eq!(named, both.map(|address| address.to_string()));
    });
}

#[test]
fn one_dead_tracker_is_no_failure() {
    system_test(|test| async move {
        let nobody = RefusingAddress::new();
        let tracker = tracker_of(&test, Vec::new());
        let both = [nobody.address(), tracker.address()];
        let told = fetch(&test, both, vec![into_folder("x", &test.folder())]).await;
        assert!(matches!(told.failed(), JobError::NobodyHasIt), "{told:?}");
    });
}

// ---- without any tracker ----

/// Asks a holder who else has a content.
async fn others(test: &Test, holder: SocketAddr, content: &Content) -> Vec<Holder> {
    let mut getter = RawGetter::greeted(test, holder).await;
    getter.say(&[ToHolder::Peers { id: content.id }]).await;
    match getter.hear().await {
        Heard::Message(FromHolder::Holders { id, holders }) if id == content.id => holders,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_download_whose_tracker_died_finds_further_sources_by_asking_its_sources() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 20 * SPAN);
        let all = std::slice::from_ref(&content);
        let whole = FakeHolder::start(&test, "whole", all, Behaviour::Honest);
        let half = Behaviour::Partial((0..10).collect());
        let half = FakeHolder::start_knowing(&test, "half", all, half, &[whole.listed()]);
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![half.listed()])]);
        let peer = RealPeer::start(&test, tracker.address(), "p1", |_| {}).await;

        let (events, mut watched) = Watched::start(&test);
        let job = peer.peer.fetch(vec![what("x")], false, events);
        let found = |event: &JobEvent| matches!(event, JobEvent::Found { .. });
        watched.until("the tracker's answer", found).await;
        drop(tracker);
        test.wait_for("the job", job.wait()).await;
        drop(job);
        let told = watched.end().await;
        assert!(content.stands_at(&peer.files.join("x")));
        assert_sums_up(told.done());
        assert!(share(told.done(), "whole") >= 10 * SPAN as u64, "{told:?}");

        // Who delivered to us is told on, though no tracker told us of it.
        let mut known: Vec<String> = others(&test, peer.peer.address(), &content)
            .await
            .into_iter()
            .map(|holder| format!("{} {}", holder.peer, holder.address))
            .collect();
        known.sort();
        assert_eq!(known, [format!("half {}", half.address()), format!("whole {}", whole.address())]);
        peer.stop().await;
    });
}

#[test]
fn a_holder_tells_whom_trackers_told_it_of_but_neither_the_asker_nor_strangers() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 2 * SPAN);
        let holder = FakeHolder::start(&test, "h1", std::slice::from_ref(&content), Behaviour::Honest);
        let asker = Holder { peer: "raw".parse().unwrap(), ..holder.listed() };
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![holder.listed(), asker])]);
        let peer = RealPeer::start(&test, tracker.address(), "p1", |_| {}).await;
        assert_eq!(others(&test, peer.peer.address(), &content).await, [], "it has asked for nothing yet");
        let told = fetch_into(&test, &peer.peer, "x").await;
        assert_eq!(told.done().id, content.id);
        // A stranger fetches from it, and is not repeated to the next one.
        let mut stranger = RawGetter::greeted(&test, peer.peer.address()).await;
        stranger.say(&[ToHolder::Open { id: content.id, manifest: false }]).await;
        assert!(matches!(stranger.hear().await, Heard::Message(FromHolder::Opened { .. })));
        let known = others(&test, peer.peer.address(), &content).await;
        assert_eq!(known.len(), 1, "{known:?}");
        assert_eq!((known[0].peer.as_str(), known[0].address), ("h1", holder.address()));
        peer.stop().await;
    });
}

#[test]
fn a_source_that_tells_of_more_holders_than_it_may_is_dropped() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 4 * SPAN);
        let all = std::slice::from_ref(&content);
        let many: Vec<Holder> = (0..=MAX_ANSWER_HOLDERS)
            .map(|n| Holder {
                peer: format!("q{n}").parse().unwrap(),
                address: ([127, 0, 0, 1], 9).into(),
                complete: true,
            })
            .collect();
        let half = Behaviour::Partial([0, 1].into());
        let babbler = FakeHolder::start_knowing(&test, "babbler", all, half, &many);
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], vec![babbler.listed()])]);
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &test.folder())]).await;
        assert!(matches!(told.failed(), JobError::Undelivered(_)), "{told:?}");
        assert!(told.dropped("babbler")[0].contains("more holders than"), "{told:?}");
        assert_eq!(told.connected("q0"), 0);
    });
}

#[test]
fn addresses_at_which_no_peer_can_be_are_not_dialled_whoever_tells_them() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 4 * SPAN);
        let all = std::slice::from_ref(&content);
        let at = |peer: &str, address: &str| Holder {
            peer: peer.parse().unwrap(),
            address: address.parse().unwrap(),
            complete: true,
        };
        let bad = [
            at("multicast", "224.0.0.1:9"),
            at("unspecified", "0.0.0.0:9"),
            at("link-local", "169.254.169.254:80"),
            at("no-port", "127.0.0.1:0"),
        ];
        let whole = FakeHolder::start(&test, "whole", all, Behaviour::Honest);
        let told_last = [&bad[..], &[whole.listed()]].concat();
        let half = Behaviour::Partial([0, 1].into());
        let half = FakeHolder::start_knowing(&test, "half", all, half, &told_last);
        let holders = [&bad[..], &[half.listed()]].concat();
        let tracker = tracker_of(&test, vec![candidate(&content, &["x"], holders)]);
        let told = fetch(&test, tracker.address(), vec![into_folder("x", &test.folder())]).await;
        assert!(share(told.done(), "whole") >= 2 * SPAN as u64, "the last of the told ones was heard");
        for holder in bad {
            assert_eq!(told.dropped(holder.peer.as_str()), Vec::<&str>::new(), "{}", holder.peer);
        }
    });
}

#[test]
fn what_was_asked_for_once_can_be_fetched_when_all_trackers_are_dead() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let holder = FakeHolder::start(&test, "h1", std::slice::from_ref(&content), Behaviour::Honest);
        let tracker = tracker_of(&test, vec![candidate(&content, &["dir/x"], vec![holder.listed()])]);
        let peer = RealPeer::start(&test, tracker.address(), "p1", |_| {}).await;
        fetch_into(&test, &peer.peer, "dir/x").await.done();
        drop(tracker);
        for text in ["dir/x".to_string(), content.id.to_string()] {
            std::fs::remove_file(peer.files.join("dir/x")).unwrap();
            let told = fetch_into(&test, &peer.peer, &text).await;
            assert_eq!((told.done().id, share(told.done(), "h1")), (content.id, content.size()), "{text}");
        }
        let told = fetch_into(&test, &peer.peer, "never heard of").await;
        assert!(matches!(told.all_failed()[0].1, JobError::NoTracker(_)), "{told:?}");
        peer.stop().await;
    });
}

/// Starts a peer that is to fetch this, in this root, with nobody for a tracker.
async fn start_alone(test: &Test, nobody: impl Trackers, root: &Path, text: &str) -> Result<Peer, PeerError> {
    let config = PeerConfig {
        id: "p1".parse().unwrap(),
        root: root.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        trackers: nobody.addresses(),
        wants: vec![what(text)],
        progress: None,
        limits: RateLimits::default(),
    };
    test.wait_for("the peer to start or to fail", Peer::start(config, None)).await
}

#[test]
fn a_restarted_peer_remembers_holders_and_starts_without_a_tracker_only_for_what_they_have() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let holder = FakeHolder::start(&test, "h1", std::slice::from_ref(&content), Behaviour::Honest);
        let tracker = tracker_of(&test, vec![candidate(&content, &["dir/x"], vec![holder.listed()])]);
        let root = test.folder();
        let peer = RealPeer::start_in(&test, tracker.address(), "p1", root.clone()).await;
        fetch_into(&test, &peer.peer, "dir/x").await.done();
        let file = peer.files.join("dir/x");
        peer.stop().await;
        drop(tracker);
        std::fs::remove_file(&file).unwrap();
        let nobody = RefusingAddress::new();

        let unknown = start_alone(&test, nobody.address(), &root, "never heard of");
        let other_root = test.folder();
        let known = start_alone(&test, nobody.address(), &other_root, "dir/x");
        let (unknown, elsewhere) = tokio::join!(unknown, known);
        for failed in [unknown.err(), elsewhere.err()] {
            assert!(matches!(&failed, Some(PeerError::Tracker(TrackerFailure::NoAnswer(_)))), "{failed:?}");
        }

        let peer = start_alone(&test, nobody.address(), &root, "dir/x").await.unwrap();
        let told = fetch_into(&test, &peer, "dir/x").await;
        assert_eq!(share(told.done(), "h1"), content.size());
        assert!(content.stands_at(&file));
        test.wait_for("the peer's end", peer.stop()).await;
    });
}

#[test]
fn a_running_download_is_not_disturbed_by_the_death_of_all_trackers() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN);
        let slow = Behaviour::Trickle(4 * SPAN as u64);
        let holder = FakeHolder::start(&test, "h1", std::slice::from_ref(&content), slow);
        let known = || vec![candidate(&content, &["x"], vec![holder.listed()])];
        let trackers = [tracker_of(&test, known()), tracker_of(&test, known())];
        let both = [trackers[0].address(), trackers[1].address()];
        let to = test.folder();
        let mut running = Running::start(&test, both, vec![into_folder("x", &to)]);
        let connected =
            |event: &JobEvent| matches!(event, JobEvent::Source { state: SourceState::Connected, .. });
        running.watched.until("a source", connected).await;
        drop(trackers);
        let told = running.finish().await;
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(told.dropped("h1"), Vec::<&str>::new());
        assert_sums_up(told.done());
    });
}
