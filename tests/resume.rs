//! Downloads that were cut off: by `kill -9` at any moment, by the end of a peer.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use enxame_actors::base::{FileId, SpanSet};
use enxame_actors::content::folder::Folder;
use enxame_actors::content::part::{PartFile, Unfinished};
use enxame_actors::content::tree::{Proof, SpanHash};
use enxame_actors::peer::events::{JobError, JobEvent};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::binary::{Ran, enxame, ran};
use support::files::SPAN;
use support::job::{Watched, assert_sums_up, part_files, what};
use support::proxy::Way;
use support::swarm::RealPeer;
use support::tracker::{Script, candidate};
use support::{
    Behaviour, Content, FakeHolder, FakeTracker, Fault, FaultProxy, Test, system_test, system_test_within,
};
use tokio::task::spawn_blocking;

/// What a kill may cost at most, in bytes: a window of spans that were asked for, and what was in flight
/// in sockets and buffers.
const LOST_BY_A_KILL: u64 = 8 * SPAN as u64;

fn proof_of(content: &Content) -> Proof {
    let values = content.values.iter().map(|value| SpanHash::from_bytes(*value)).collect();
    Proof::new(content.id, content.geometry, values).unwrap()
}

/// What right bytes the part file of a download to `folder/x` holds, in bytes; 0 if there is none.
fn right_on_disk(folder: &Path, content: &Content) -> u64 {
    if part_files(folder).is_empty() {
        return 0;
    }
    let part = PartFile::open(&Folder::open(folder).unwrap(), &"x".parse().unwrap(), &proof_of(content));
    let had: SpanSet = part.unwrap().recover(&AtomicBool::new(false)).unwrap();
    had.len_bytes(&content.geometry)
}

/// Ends it as a power switch would, and says whether it had ended well before.
async fn kill(mut child: Child) -> bool {
    // It may have ended already; it is not reaped, so its number is nobody else's.
    child.kill().unwrap();
    spawn_blocking(move || child.wait()).await.unwrap().unwrap().success()
}

/// A holder behind a slow way, and a tracker that knows it.
fn slow(test: &Test, content: &Content, bytes_s: u64) -> (FakeHolder, FaultProxy, FakeTracker) {
    let holder = FakeHolder::start(test, "far", std::slice::from_ref(content), Behaviour::Honest);
    let way = Way { rate_bytes_s: Some(bytes_s), ..Way::default() };
    let proxy = FaultProxy::start(test, holder.address(), vec![Fault::to_client(way)]);
    let candidates = vec![candidate(content, &["dir/x"], vec![holder.listed_at(proxy.address())])];
    let tracker = FakeTracker::start(test, Script { candidates, ..Script::default() });
    (holder, proxy, tracker)
}

fn getter(tracker: &FakeTracker, to: &Path) -> Command {
    let mut command = enxame(["get", "dir/x", "--json", "--tracker", &tracker.address().to_string(), "-o"]);
    command.arg(to).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn only_record(ran: &Ran, event: &str) -> Value {
    match &ran.records(event)[..] {
        [record] => record.clone(),
        records => panic!("not one {event}, but {records:?}: {ran:?}"),
    }
}

#[test]
fn a_getter_that_is_killed_at_any_moment_goes_on_from_what_is_right_on_disk() {
    const KILLS: usize = 40;
    system_test_within(Duration::from_secs(300), |test| async move {
        let mut rng = test.rng();
        let content = Content::random(&mut rng, 47 * SPAN + 4097);
        let (_holder, proxy, tracker) = slow(&test, &content, 40 << 20);
        let size = content.size();
        let mut to = test.folder();
        let (mut kills, mut files, mut lost, mut worst) = (0, 0, 0, 0);
        while kills < KILLS {
            let before = right_on_disk(&to, &content);
            let delivered = proxy.traffic().to_client;
            let child = getter(&tracker, &to).spawn().unwrap();
            // Anywhere from before the first byte to behind the last: a few runs share one file.
            let until = delivered + rng.u64(0..=(size - before).min(size / 3));
            proxy.until(|traffic| traffic.to_client >= until).await;
            let until = Instant::now() + Duration::from_millis(rng.u64(0..80));
            // Nothing is waited for: any moment is right, such as one while it starts or renames.
            while Instant::now() < until {
                tokio::task::yield_now().await;
            }
            kills += 1;
            let is_done = kill(child).await;
            let delivered = proxy.traffic().to_client - delivered;
            let place = to.join("x");
            assert!(!is_done || place.exists());
            if place.exists() {
                assert!(content.stands_at(&place), "a final name shows a wrong file");
                assert_eq!(part_files(&to), Vec::<PathBuf>::new());
                files += 1;
                to = test.folder();
                continue;
            }
            let gained = right_on_disk(&to, &content) - before;
            let lost_now = delivered.saturating_sub(gained);
            assert!(lost_now <= LOST_BY_A_KILL, "{lost_now} bytes came and are not there");
            lost += lost_now;
            worst = worst.max(lost_now);
        }
        let before = right_on_disk(&to, &content);
        let last = ran(&test, getter(&tracker, &to)).await;
        assert_eq!(last.code, Some(0), "{last:?}");
        let done = only_record(&last, "done");
        assert_eq!(done["kept_bytes"], before, "it says how much it kept");
        assert_eq!(done["fetched_bytes"], size - before);
        assert!(content.stands_at(&to.join("x")));
        println!("{kills} kills, {files} files finished by one; lost {lost} bytes in all, at most {worst}");
    });
}

// ---- a peer ----

fn peer_command(tracker: &FakeTracker, root: &Path, more: &[&str]) -> Command {
    let tracker = tracker.address().to_string();
    let mut command = enxame(["peer", "p1", "--json", "--listen", "127.0.0.1:0", "--tracker", &tracker]);
    command.args(more).arg("--root").arg(root).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Reads the records of a running command up to this event.
async fn until_record(test: &Test, child: &mut Child, event: &'static str) -> Vec<Value> {
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let reading = spawn_blocking(move || {
        let mut records: Vec<Value> = Vec::new();
        let mut line = String::new();
        while stdout.read_line(&mut line).unwrap() > 0 {
            records.push(serde_json::from_str(&line).unwrap());
            if records.last().unwrap()["event"] == event {
                break;
            }
            line.clear();
        }
        (records, stdout)
    });
    let (records, stdout) = test.wait_for(format!("the record {event}"), reading).await.unwrap();
    child.stdout = Some(stdout.into_inner());
    assert_eq!(records.last().unwrap()["event"], event, "{records:?}");
    records
}

#[test]
fn a_peer_that_is_killed_goes_on_at_its_next_start_without_being_asked_again() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 30 * SPAN + 1);
        let (_holder, proxy, tracker) = slow(&test, &content, 20 << 20);
        let root = test.folder();
        let files = RealPeer::files_of(&root, "p1");
        let child = peer_command(&tracker, &root, &["--get", "dir/x"]).spawn().unwrap();
        proxy.until(|traffic| traffic.to_client > 12 * SPAN as u64).await;
        assert!(!kill(child).await);
        assert!(!files.join("dir/x").exists());
        let kept = right_on_disk(&files.join("dir"), &content);
        assert!(kept > 0);

        // Meanwhile the others call it otherwise: the id suffices, and the name is the one wished for.
        let holder = tracker_holder(&tracker);
        tracker.change(|script| script.candidates = vec![candidate(&content, &["another/name"], holder)]);
        let mut child = peer_command(&tracker, &root, &[]).spawn().unwrap();
        let records = until_record(&test, &mut child, "done").await;
        let found = records.iter().find(|record| record["event"] == "found").unwrap();
        assert_eq!(found["id"], content.id.to_string());
        let done = records.last().unwrap();
        assert_eq!(done["kept_bytes"], kept);
        assert_eq!(done["fetched_bytes"], content.size() - kept);
        assert_eq!(done["path"], files.join("dir/x").to_str().unwrap());
        assert!(content.stands_at(&files.join("dir/x")));
        assert_eq!(fs::read_dir(files.join("dir")).unwrap().count(), 1, "neither part nor note is left");
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let output = spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
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
    let part = PartFile::open_noted(&folder, &name.parse().unwrap(), &proof_of(content)).unwrap();
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
