//! Downloads into a peer's folder that were cut off, and go on at its next start.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use enxame_actors::base::FileId;
use enxame_actors::content::folder::Folder;
use enxame_actors::content::part::{PartFile, Unfinished};
use enxame_actors::peer::events::{JobError, JobEvent};
use rustix::process::Signal;
use support::binary::{Process, enxame};
use support::files::SPAN;
use support::job::{Watched, assert_sums_up, what};
use support::swarm::RealPeer;
use support::tracker::{Script, candidate, slow};
use support::{Behaviour, Content, FakeHolder, FakeTracker, system_test};

fn peer_command(tracker: &FakeTracker, root: &Path, more: &[&str]) -> Command {
    let tracker = tracker.address().to_string();
    let mut command = enxame(["peer", "p1", "--json", "--listen", "127.0.0.1:0", "--tracker", &tracker]);
    command.args(more).arg("--root").arg(root);
    command
}

#[test]
fn a_peer_that_is_killed_goes_on_at_its_next_start_without_being_asked_again() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 30 * SPAN + 1);
        let (_holder, proxy, tracker) = slow(&test, &content, 20 << 20);
        let root = test.folder();
        let files = RealPeer::files_of(&root, "p1");
        let peer = Process::start(&test, peer_command(&tracker, &root, &["--get", "dir/x"]));
        proxy.until(|traffic| traffic.to_client > 12 * SPAN as u64).await;
        assert!(!peer.kill().await.success());
        assert!(!files.join("dir/x").exists());
        let kept = content.right_on_disk(&files.join("dir"));
        assert!(kept > 0);

        // Meanwhile the others call it otherwise: the id suffices, and the name is the one wished for.
        let holder = tracker_holder(&tracker);
        tracker.change(|script| script.candidates = vec![candidate(&content, &["another/name"], holder)]);
        let mut peer = Process::start(&test, peer_command(&tracker, &root, &[]));
        let records = peer.until("done").await;
        let found = records.iter().find(|record| record["event"] == "found").unwrap();
        assert_eq!(found["id"], content.id.to_string());
        let done = records.last().unwrap();
        assert_eq!(done["kept_bytes"], kept);
        assert_eq!(done["fetched_bytes"], content.size() - kept);
        assert_eq!(done["path"], files.join("dir/x").to_str().unwrap());
        assert!(content.stands_at(&files.join("dir/x")));
        assert_eq!(fs::read_dir(files.join("dir")).unwrap().count(), 1, "neither part nor note is left");
        let (ended, said) = peer.end(Signal::TERM).await;
        assert!(ended.success(), "{said}");
        assert!(said.contains(&format!("goes on with dir/x ({})", content.id.short())), "{said}");
    });
}

fn tracker_holder(tracker: &FakeTracker) -> Vec<enxame_actors::wire::tracker::Holder> {
    let mut holders = Vec::new();
    tracker.change(|script| holders = script.candidates[0].holders.clone());
    holders
}

/// A part of this content below `files`, noted under this name, with its first span.
fn leave_unfinished(files: &Path, content: &Content, name: &str) {
    let folder = Folder::open(files).unwrap();
    let part = PartFile::open_noted(&folder, &name.parse().unwrap(), &content.proof()).unwrap();
    let first = content.geometry.span(0).unwrap();
    assert!(part.store(first, &content.span(0).unwrap()).unwrap());
}

fn done_id(event: &JobEvent) -> Option<FileId> {
    match event {
        JobEvent::Done(done) => Some(done.id),
        _ => None,
    }
}

#[test]
fn an_unfinished_file_that_nobody_has_waits_and_hinders_nothing() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let [lost, wanted] = [3 * SPAN, 2 * SPAN + 1].map(|size| Content::random(&mut rng, size));
        let holder = FakeHolder::start(&test, "far", &[lost.clone(), wanted.clone()], Behaviour::Honest);
        let known = vec![candidate(&wanted, &["y"], vec![holder.listed()])];
        let tracker = FakeTracker::start(&test, Script { candidates: known, ..Script::default() });
        let root = test.folder();
        let files = RealPeer::files_of(&root, "p1");
        leave_unfinished(&files, &lost, "x");
        let peer = RealPeer::start_in(&test, tracker.address(), "p1", root).await;
        assert_eq!(peer.peer.unfinished(), [Unfinished { id: lost.id, name: "x".parse().unwrap() }]);
        let (events, mut watched) = Watched::start(&test);
        let job = peer.peer.go_on(vec![what("y")], false, events);
        let failed =
            |event: &JobEvent| matches!(event, JobEvent::Failed { error: JobError::NobodyHasIt, .. });
        // Both come, in whatever order: neither waits for the other.
        let mut seen = (0, 0);
        let both = |event: &JobEvent| {
            seen.0 += usize::from(failed(event));
            seen.1 += usize::from(done_id(event) == Some(wanted.id));
            seen.0 > 0 && seen.1 > 0
        };
        watched.until("a failure and a file", both).await;
        watched.until("another try", failed).await;
        // Somebody has it again.
        let candidates = vec![candidate(&lost, &["x"], vec![holder.listed()])];
        tracker.change(|script| script.candidates = candidates);
        let done = watched.until("the unfinished file", |event| done_id(event).is_some()).await;
        assert!(
            matches!(&done, JobEvent::Done(done) if done.id == lost.id && done.kept_bytes == SPAN as u64)
        );
        test.wait_for("the job", job.wait()).await;
        assert!(lost.stands_at(&files.join("x")) && wanted.stands_at(&files.join("y")));
        drop((job, watched));
        peer.stop().await;
    });
}

#[test]
fn what_is_unfinished_and_wished_for_again_is_fetched_once() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let holder = FakeHolder::start(&test, "far", std::slice::from_ref(&content), Behaviour::Honest);
        let known = vec![candidate(&content, &["x"], vec![holder.listed()])];
        let tracker = FakeTracker::start(&test, Script { candidates: known, ..Script::default() });
        let root = test.folder();
        let files = RealPeer::files_of(&root, "p1");
        leave_unfinished(&files, &content, "x");
        let peer = RealPeer::start_in(&test, tracker.address(), "p1", root).await;
        let (events, watched) = Watched::start(&test);
        let job = peer.peer.go_on(vec![what("x")], false, events);
        test.wait_for("the job", job.wait()).await;
        drop(job);
        let told = watched.end().await;
        assert_sums_up(told.done());
        assert_eq!(told.done().kept_bytes, SPAN as u64);
        assert_eq!(fs::read_dir(&files).unwrap().count(), 1);
        peer.stop().await;
    });
}

#[test]
fn what_came_by_another_way_is_finished_and_its_part_goes() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let known = vec![candidate(&content, &["x"], vec![])];
        let tracker = FakeTracker::start(&test, Script { candidates: known, ..Script::default() });
        let root = test.folder();
        let files = RealPeer::files_of(&root, "p1");
        leave_unfinished(&files, &content, "x");
        content.write(&files, "x");
        let peer = RealPeer::start_in(&test, tracker.address(), "p1", root).await;
        let (events, watched) = Watched::start(&test);
        let job = peer.peer.go_on(Vec::new(), false, events);
        test.wait_for("the job", job.wait()).await;
        drop(job);
        assert_eq!(watched.end().await.done().kept_bytes, content.size());
        assert_eq!(fs::read_dir(&files).unwrap().count(), 1, "neither part nor note is left");
        peer.stop().await;
    });
}
