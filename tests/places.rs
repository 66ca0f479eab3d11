//! Where a download goes: what stands there already, what was left by an earlier one, and streams.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use enxame_actors::base::limits::{JOB_IN_FLIGHT_BYTES, STANDSTILL_TIMEOUT};
use enxame_actors::peer::PeerError;
use enxame_actors::peer::events::{JobError, JobEvent};
use enxame_actors::peer::open_folder;
use enxame_actors::wire::peer::ToHolder;
use enxame_actors::wire::tracker::{Candidate, Holder};
use support::files::SPAN;
use support::holder::{Asked, spans_asked};
use support::job::{Running, assert_sums_up, fetch, into_folder, part_files, share, to_name, to_stream};
use support::proxy::RefusingAddress;
use support::tracker::{Script, candidate};
use support::{Behaviour, Content, FakeHolder, FakeTracker, Test, system_test, system_test_within};
use tokio::sync::mpsc;

// ---- what the stories stand on ----

/// A holder of this content, and a tracker that knows it as `dir/x`.
fn shared(test: &Test, content: &Content, behaviour: Behaviour) -> (FakeHolder, FakeTracker) {
    let holder = FakeHolder::start(test, "p1", std::slice::from_ref(content), behaviour);
    let candidates = vec![candidate(content, &["dir/x"], vec![holder.listed()])];
    (holder, FakeTracker::start(test, Script { candidates, ..Script::default() }))
}

/// Has these spans until it gains others: what a test needs to stop a download where it wants.
fn only(spans: impl IntoIterator<Item = u32>) -> Behaviour {
    Behaviour::Partial(spans.into_iter().collect())
}

/// Waits until so many bytes are verified and written.
async fn until_stored(running: &mut Running, bytes: u64) {
    let stored = |event: &JobEvent| matches!(event, JobEvent::Progress(now) if now.have_bytes == bytes);
    running.watched.until(&format!("{bytes} bytes to be stored"), stored).await;
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

// ---- what stands there already ----

#[test]
fn the_same_content_there_already_is_success_without_a_transfer() {
    system_test(|test| async move {
        for size in [0, 1, 3 * SPAN + 1] {
            let content = Content::random(&mut test.rng(), size);
            let (holder, tracker) = shared(&test, &content, Behaviour::Honest);
            let to = test.folder();
            content.write(&to, "x");
            let told = fetch(&test, tracker.address(), vec![into_folder("dir/x", &to)]).await;
            let done = told.done();
            assert_eq!((done.fetched_bytes, done.kept_bytes), (0, size as u64));
            assert_eq!(done.path, Some(to.join("x")));
            assert_eq!(holder.asked(), [], "nobody is dialled");
            assert!(content.stands_at(&to.join("x")));
        }
    });
}

#[test]
fn another_content_there_is_left_as_it_is_and_told() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN + 1);
        let (holder, tracker) = shared(&test, &content, Behaviour::Honest);
        let same_size = Content::random(&mut test.rng(), 3 * SPAN + 1);
        for mine in [Content::of("mine"), same_size] {
            let to = test.folder();
            mine.write(&to, "x");
            let told = fetch(&test, tracker.address(), vec![into_folder("dir/x", &to)]).await;
            assert!(
                matches!(told.failed(), JobError::TargetExists(path) if *path == to.join("x")),
                "{told:#?}"
            );
            assert!(mine.stands_at(&to.join("x")));
            assert_eq!(files_in(&to).len(), 1, "no part file");
        }
        assert_eq!(holder.asked(), [], "nobody is dialled");
    });
}

#[test]
fn overwrite_replaces_what_stands_there() {
    system_test(|test| async move {
        for size in [10, 3 * SPAN + 1] {
            let content = Content::random(&mut test.rng(), size);
            let (_holder, tracker) = shared(&test, &content, Behaviour::Honest);
            let to = test.folder();
            Content::of("old").write(&to, "x");
            let wants = vec![into_folder("dir/x", &to)];
            let told = Running::start_with(&test, tracker.address(), wants, true).finish().await;
            assert_eq!(told.done().fetched_bytes, content.size());
            assert!(content.stands_at(&to.join("x")));
            assert_eq!(files_in(&to).len(), 1, "no part file");
        }
    });
}

#[test]
fn the_same_wish_twice_is_fetched_and_told_once() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN + 1);
        let (holder, tracker) = shared(&test, &content, Behaviour::Honest);
        let to = test.folder();
        let id = content.id.to_string();
        let wants = vec![into_folder("dir/x", &to), into_folder("dir/x", &to), into_folder(&id, &to)];
        let told = fetch(&test, tracker.address(), wants).await;
        assert_eq!(told.done().fetched_bytes, content.size());
        assert_eq!(spans_asked(&content, &holder.asked()), 4);
        assert!(content.stands_at(&to.join("x")));
    });
}

#[test]
fn one_content_to_several_places_is_fetched_once() {
    system_test(|test| async move {
        for size in [10, 3 * SPAN + 1] {
            let content = Content::random(&mut test.rng(), size);
            let (holder, tracker) = shared(&test, &content, Behaviour::Honest);
            let (here, there) = (test.folder(), test.folder());
            Content::of("in the way").write(&there, "taken");
            let wants = vec![
                into_folder("dir/x", &here),
                to_name("dir/x", &there, "deep/below/y"),
                to_name("dir/x", &there, "deep/below/y"),
                to_name("dir/x", &there, "taken"),
            ];
            let told = fetch(&test, tracker.address(), wants).await;
            let paths: Vec<_> = told.all_done().iter().map(|done| done.path.clone().unwrap()).collect();
            assert_eq!(paths, [here.join("x"), there.join("deep/below/y")], "{told:#?}");
            assert!(paths.iter().all(|path| content.stands_at(path)));
            told.all_done().into_iter().for_each(assert_sums_up);
            assert_eq!(spans_asked(&content, &holder.asked()), content.geometry.spans());
            assert!(matches!(told.all_failed()[..], [("dir/x", JobError::TargetExists(_))]), "{told:#?}");
            assert_eq!((part_files(&here), part_files(&there)), (vec![], vec![]));
        }
    });
}

#[test]
fn a_file_that_somebody_else_puts_there_in_the_middle_is_not_replaced() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 4 * SPAN);
        let (holder, tracker) = shared(&test, &content, only([0, 1, 3]));
        let to = test.folder();
        let mut running = Running::start(&test, tracker.address(), vec![into_folder("dir/x", &to)]);
        until_stored(&mut running, 3 * SPAN as u64).await;
        let theirs = Content::of("theirs");
        theirs.write(&to, "x");
        holder.gain([2]);
        let told = running.finish().await;
        assert!(matches!(told.failed(), JobError::TargetExists(path) if *path == to.join("x")), "{told:#?}");
        assert!(theirs.stands_at(&to.join("x")));
        assert_eq!(part_files(&to).len(), 1, "all that was fetched is kept");

        // Out of the way again: the next one needs nothing of anybody.
        fs::remove_file(to.join("x")).unwrap();
        let told = fetch(&test, tracker.address(), vec![into_folder("dir/x", &to)]).await;
        assert_eq!((told.done().kept_bytes, told.done().fetched_bytes), (content.size(), 0));
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(part_files(&to), Vec::<PathBuf>::new());
    });
}

#[test]
fn the_same_content_that_somebody_else_puts_there_in_the_middle_is_as_good() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 4 * SPAN);
        let (holder, tracker) = shared(&test, &content, only([0, 1, 3]));
        let to = test.folder();
        let mut running = Running::start(&test, tracker.address(), vec![into_folder("dir/x", &to)]);
        until_stored(&mut running, 3 * SPAN as u64).await;
        content.write(&to, "x");
        holder.gain([2]);
        let told = running.finish().await;
        assert_sums_up(told.done());
        assert_eq!(files_in(&to), [to.join("x")]);
    });
}

#[test]
fn a_folder_that_is_not_there_is_an_error_and_is_not_made() {
    system_test(|test| async move {
        let missing = test.folder().join("missing");
        let error = open_folder(&missing).unwrap_err();
        assert!(
            matches!(&error, PeerError::Folder { path, source }
            if *path == missing && source.kind() == ErrorKind::NotFound),
            "{error:?}"
        );
        assert!(!missing.exists());
    });
}

#[test]
fn a_folder_that_goes_away_is_told_with_its_path() {
    system_test(|test| async move {
        for size in [10, 3 * SPAN] {
            let content = Content::random(&mut test.rng(), size);
            let (_holder, tracker) = shared(&test, &content, Behaviour::Honest);
            let to = test.folder();
            let want = into_folder("dir/x", &to);
            fs::remove_dir(&to).unwrap();
            let told = fetch(&test, tracker.address(), vec![want]).await;
            assert!(
                matches!(told.failed(), JobError::Disk { path, kind: ErrorKind::NotFound, .. } if path.starts_with(&to)),
                "{told:#?}"
            );
        }
    });
}

// ---- what an earlier download left ----

#[test]
fn a_download_that_was_cancelled_goes_on_where_it_was() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 9 * SPAN + 100);
        let (_partial, tracker) = shared(&test, &content, only([0, 1, 4, 9]));
        let to = test.folder();
        let mut running = Running::start(&test, tracker.address(), vec![into_folder("dir/x", &to)]);
        let stored = 3 * SPAN as u64 + 100;
        until_stored(&mut running, stored).await;
        running.cancel();
        let told = running.finish().await;
        assert!(matches!(told.failed(), JobError::Interrupted), "{told:#?}");
        assert!(!to.join("x").exists());
        assert_eq!(part_files(&to).len(), 1);

        let (holder, tracker) = shared(&test, &content, Behaviour::Honest);
        let told = fetch(&test, tracker.address(), vec![into_folder("dir/x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(told.done().kept_bytes, stored);
        assert_sums_up(told.done());
        assert_eq!(spans_asked(&content, &holder.asked()), 6, "only the rest is asked for");
        assert_eq!(part_files(&to), Vec::<PathBuf>::new());
    });
}

#[test]
fn a_download_that_was_cancelled_can_be_begun_again_at_once() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 40 * SPAN);
        let (holder, tracker) = shared(&test, &content, Behaviour::Trickle(40 << 20));
        let to = test.folder();
        for round in 1..=5u64 {
            let running = Running::start(&test, tracker.address(), vec![into_folder("dir/x", &to)]);
            // In the middle of whatever it is doing then.
            let asked = |(connection, asked): &(u64, Asked)| {
                *connection == round && matches!(asked, Asked::Said(ToHolder::Get { .. }))
            };
            holder.until(|all| all.iter().any(asked)).await;
            running.cancel();
            let told = running.finish().await;
            assert!(matches!(told.failed(), JobError::Interrupted), "round {round}: {told:#?}");
        }
        let told = fetch(&test, tracker.address(), vec![into_folder("dir/x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        assert_sums_up(told.done());
    });
}

#[test]
fn a_job_that_is_cancelled_at_its_start_says_so_once_per_file() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let (_holder, tracker) = shared(&test, &content, Behaviour::Honest);
        for after_found in [false, true] {
            let to = test.folder();
            content.write(&to, "x");
            let wants = vec![into_folder("dir/x", &to), into_folder("dir/y", &to)];
            let mut running = Running::start(&test, tracker.address(), wants);
            if after_found {
                // What stands at its place is being hashed.
                running.watched.until("FOUND", |event| matches!(event, JobEvent::Found { .. })).await;
            }
            running.cancel();
            let told = running.finish().await;
            assert_eq!(told.all_failed().len() + told.all_done().len(), 2, "{told:#?}");
            assert!(content.stands_at(&to.join("x")));
        }
    });
}

/// Row 18 of SECURITY.md.
#[test]
fn a_part_file_that_was_torn_zeroed_and_tampered_with_heals() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 9 * SPAN + 100);
        let (_partial, tracker) = shared(&test, &content, only([0, 1, 2, 3, 4, 5, 9]));
        let to = test.folder();
        let mut running = Running::start(&test, tracker.address(), vec![into_folder("dir/x", &to)]);
        until_stored(&mut running, 6 * SPAN as u64 + 100).await;
        running.cancel();
        running.finish().await;

        let part = File::options().write(true).open(&part_files(&to)[0]).unwrap();
        part.write_all_at(&vec![0; SPAN], SPAN as u64).unwrap();
        part.write_all_at(b"x", 2 * SPAN as u64 + 77).unwrap();
        part.write_all_at(&content.data[..1000], 4 * SPAN as u64 - 500).unwrap();
        // The last span is gone, and so is what a file is long.
        part.set_len(8 * SPAN as u64).unwrap();
        drop(part);

        let (holder, tracker) = shared(&test, &content, Behaviour::Honest);
        let told = fetch(&test, tracker.address(), vec![into_folder("dir/x", &to)]).await;
        assert!(content.stands_at(&to.join("x")));
        // Of the seven, 1 is zeros, 2 has another byte, the tear hits 3 and 4, and the last is cut off.
        assert_eq!(told.done().kept_bytes, 2 * SPAN as u64);
        assert_sums_up(told.done());
        assert_eq!(spans_asked(&content, &holder.asked()), 8);
    });
}

// ---- streams ----

/// A writer whose reader is the test: each write waits until the one before was read.
struct Pipe(mpsc::Sender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(data.to_vec()).map_err(|_| io::Error::from(ErrorKind::BrokenPipe))?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pipe() -> (Pipe, mpsc::Receiver<Vec<u8>>) {
    let (write, read) = mpsc::channel(1);
    (Pipe(write), read)
}

/// All that comes through a pipe until it ends.
async fn all_of(test: &Test, read: &mut mpsc::Receiver<Vec<u8>>) -> Vec<u8> {
    let mut got = Vec::new();
    while let Some(data) = test.wait_for("the stream", read.recv()).await {
        got.extend(data);
    }
    got
}

#[test]
fn a_stream_gets_the_content_in_order_from_several_holders() {
    system_test(|test| async move {
        for size in [0, 1, SPAN, 40 * SPAN + 1] {
            let content = Content::random(&mut test.rng(), size);
            let holders = ["p1", "p2", "p3"].map(|peer| {
                FakeHolder::start(&test, peer, std::slice::from_ref(&content), Behaviour::Trickle(16 << 20))
            });
            let listed = holders.iter().map(FakeHolder::listed).collect();
            let candidates = vec![candidate(&content, &["x"], listed)];
            let tracker = FakeTracker::start(&test, Script { candidates, ..Script::default() });
            let (write, mut read) = pipe();
            let running = Running::start(&test, tracker.address(), vec![to_stream("x", write)]);
            let got = all_of(&test, &mut read).await;
            let told = running.finish().await;
            assert!(got == content.data, "size {size}");
            assert_eq!(told.done().path, None);
            assert_sums_up(told.done());
            if size > 10 * SPAN {
                for peer in ["p1", "p2", "p3"] {
                    assert!(share(told.done(), peer) > 0, "{peer}: {:?}", told.done());
                }
            }
        }
    });
}

#[test]
fn a_slow_reader_of_a_stream_bounds_what_is_asked_for() {
    system_test(|test| async move {
        let ahead = (JOB_IN_FLIGHT_BYTES / 2) as usize / SPAN;
        let content = Content::random(&mut test.rng(), 2 * ahead * SPAN);
        let (holder, tracker) = shared(&test, &content, Behaviour::Honest);
        let (write, mut read) = pipe();
        let running = Running::start(&test, tracker.address(), vec![to_stream("dir/x", write)]);
        // Nothing was read, and so much is asked for.
        holder.until(|asked| spans_asked(&content, asked) >= ahead).await;
        let (mut got, mut reads) = (Vec::new(), 0);
        while let Some(data) = test.wait_for("the stream", read.recv()).await {
            got.extend(data);
            reads += 1;
            let asked = spans_asked(&content, &holder.asked());
            assert!(asked <= reads + 1 + ahead, "{asked} spans asked for when {reads} were read");
        }
        assert!(got == content.data);
        assert_sums_up(running.finish().await.done());
    });
}

/// For longer than a file may stand still: one behind another one of the same slow holder, and one whose reader
/// takes nothing.
#[test]
fn what_waits_for_its_turn_or_for_its_reader_is_not_given_up() {
    system_test_within(Duration::from_secs(150), |test| async move {
        let mut rng = test.rng();
        let seconds = STANDSTILL_TIMEOUT.as_secs() as usize + 5;
        let first = Content::random(&mut rng, seconds * 3 * SPAN);
        let second = Content::random(&mut rng, 2 * SPAN + 1);
        let streamed = Content::random(&mut rng, 2 * JOB_IN_FLIGHT_BYTES as usize);
        let both = [first.clone(), second.clone()];
        let slow = FakeHolder::start(&test, "slow", &both, Behaviour::Trickle(3 * SPAN as u64));
        let fast = FakeHolder::start(&test, "fast", std::slice::from_ref(&streamed), Behaviour::Honest);
        let candidates = vec![
            candidate(&first, &["first"], vec![slow.listed()]),
            candidate(&second, &["second"], vec![slow.listed()]),
            candidate(&streamed, &["streamed"], vec![fast.listed()]),
        ];
        let tracker = FakeTracker::start(&test, Script { candidates, ..Script::default() });
        let to = test.folder();
        let (write, mut read) = pipe();
        let wants = vec![into_folder("first", &to), into_folder("second", &to), to_stream("streamed", write)];
        let mut running = Running::start(&test, tracker.address(), wants);
        let is_first =
            |event: &JobEvent| matches!(event, JobEvent::Done(done) if done.name.as_str() == "first");
        running.watched.until("the first file", is_first).await;
        assert!(all_of(&test, &mut read).await == streamed.data);
        let told = running.finish().await;
        assert_eq!((told.all_done().len(), told.all_failed().len()), (3, 0), "{told:#?}");
    });
}

#[test]
fn a_stream_that_cannot_be_written_ends_the_job() {
    system_test(|test| async move {
        for spans in [3, JOB_IN_FLIGHT_BYTES as usize / SPAN] {
            let content = Content::random(&mut test.rng(), spans * SPAN);
            let (_holder, tracker) = shared(&test, &content, Behaviour::Honest);
            let (write, mut read) = pipe();
            let running = Running::start(&test, tracker.address(), vec![to_stream("dir/x", write)]);
            assert_eq!(test.wait_for("the stream", read.recv()).await.unwrap(), content.data[..SPAN]);
            drop(read);
            let told = running.finish().await;
            assert!(
                matches!(told.failed(), JobError::Disk { kind: ErrorKind::BrokenPipe, .. }),
                "{spans} spans: {told:#?}"
            );
        }
    });
}

#[test]
fn a_stream_and_a_file_of_one_content_both_get_it() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN + 1);
        let (_holder, tracker) = shared(&test, &content, Behaviour::Honest);
        let to = test.folder();
        let (write, mut read) = pipe();
        let wants = vec![to_stream("dir/x", write), into_folder("dir/x", &to)];
        let running = Running::start(&test, tracker.address(), wants);
        let got = all_of(&test, &mut read).await;
        let told = running.finish().await;
        assert!(got == content.data);
        assert!(content.stands_at(&to.join("x")));
        assert_eq!(told.all_done().len(), 2, "{told:#?}");
    });
}

/// The liars have all but what would prove the size that they state.
#[test]
fn a_stream_of_which_nobody_delivers_what_proves_its_size_begins_with_another() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 8 * SPAN + 100);
        let forged = content.forged(content.data.len() + 1);
        let holder = |peer, content: &Content, behaviour| {
            FakeHolder::start(&test, peer, std::slice::from_ref(content), behaviour)
        };
        let liars = ["l1", "l2"].map(|peer| holder(peer, &forged, only(0..8)));
        let good = holder("good", &content, Behaviour::Honest);
        let lie = candidate(&forged, &["x"], liars.iter().map(FakeHolder::listed).collect());
        let candidates = vec![lie, candidate(&content, &["x"], vec![good.listed()])];
        let tracker = FakeTracker::start(&test, Script { candidates, ..Script::default() });
        let (write, mut read) = pipe();
        let running = Running::start(&test, tracker.address(), vec![to_stream("x", write)]);
        let got = all_of(&test, &mut read).await;
        let told = running.finish().await;
        assert!(got == content.data);
        assert_sums_up(told.done());
    });
}

#[test]
fn a_stream_that_was_begun_with_a_size_that_nobody_proves_begins_anew_with_the_other_one() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 5000);
        let holder = FakeHolder::start(&test, "right", std::slice::from_ref(&content), Behaviour::Honest);
        let right = candidate(&content, &["x"], vec![holder.listed()]);
        // Of as many holders of each size the larger size is believed.
        let away = RefusingAddress::new();
        let wrong = Holder { peer: "wrong".parse().unwrap(), address: away.address(), ..holder.listed() };
        let wrong = Candidate { size: 5001, ..candidate(&content, &["x"], vec![wrong]) };
        let candidates = vec![wrong, right];
        let tracker = FakeTracker::start(&test, Script { candidates, ..Script::default() });
        let (write, mut read) = pipe();
        let running = Running::start(&test, tracker.address(), vec![to_stream("x", write)]);
        let got = all_of(&test, &mut read).await;
        let told = running.finish().await;
        assert_eq!(told.done().size, content.size(), "{told:#?}");
        assert!(got == content.data);
    });
}

#[test]
fn two_files_that_would_meet_at_one_place_do_not_and_the_first_one_has_it() {
    system_test(|test| async move {
        let (first, second) =
            (Content::random(&mut test.rng(), 5000), Content::random(&mut test.rng(), 3 * SPAN + 1));
        let holder = FakeHolder::start(&test, "p1", &[first.clone(), second.clone()], Behaviour::Honest);
        let listed = || vec![holder.listed()];
        let candidates =
            vec![candidate(&first, &["a/same"], listed()), candidate(&second, &["b/same"], listed())];
        let tracker = FakeTracker::start(&test, Script { candidates, ..Script::default() });
        let to = test.folder();
        let wants = vec![into_folder("a/same", &to), into_folder("b/same", &to)];
        let running = Running::start_with(&test, tracker.address(), wants, true);
        let told = running.finish().await;
        assert!(first.stands_at(&to.join("same")), "overwriting is for what stood there before");
        assert_eq!(told.all_done().len(), 1);
        let failed = told.all_failed();
        assert!(
            matches!(&failed[..], [("b/same", JobError::SamePlace { other, .. })] if other == "a/same"),
            "{failed:?}"
        );
        assert_eq!(part_files(&to), Vec::<PathBuf>::new());
    });
}
