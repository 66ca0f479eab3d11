//! Trouble with the disk: full, read-only, gone, in use by others; and files that change while they
//! are served.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use enxame_actors::base::{FileId, SpanIndex};
use enxame_actors::peer::events::{JobError, JobEvent};
use enxame_actors::wire::peer::{FromHolder, ToHolder};
use enxame_actors::wire::tracker::Candidate;
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, fallocate, mknodat};
use support::binary::{enxame, quiet, ran};
use support::files::SPAN;
use support::getter::{Heard, RawGetter, blocks, get, open};
use support::holder::Asked;
use support::job::{Running, Watched, assert_sums_up, fetch, into_folder, part_files, to_name, what};
use support::mounts::{QuotaDisk, SmallDisk, with_mounts, with_quotas};
use support::swarm::{NEVER, RealPeer, RealTracker};
use support::tracker::{Script, candidate};
use support::{Behaviour, Content, FakeHolder, FakeTracker, Test, system_test, system_test_within};
use tokio::task::spawn_blocking;

// ---- what the stories stand on ----

/// A holder of this content, and a tracker that knows it as `dir/x`.
fn shared(test: &Test, content: &Content, behaviour: Behaviour) -> (FakeHolder, FakeTracker) {
    let holder = FakeHolder::start(test, "far", std::slice::from_ref(content), behaviour);
    let candidates = vec![candidate(content, &["dir/x"], vec![holder.listed()])];
    (holder, FakeTracker::start(test, Script { candidates, ..Script::default() }))
}

fn only(spans: impl IntoIterator<Item = u32>) -> Behaviour {
    Behaviour::Partial(spans.into_iter().collect())
}

/// How often each span was asked for.
fn times_asked(content: &Content, asked: &[(u64, Asked)]) -> Vec<usize> {
    let mut times = vec![0; content.geometry.spans()];
    for (_, asked) in asked {
        if let Asked::Said(ToHolder::Get { run, .. }) = asked {
            content.geometry.spans_of_run(*run).unwrap().for_each(|span| times[span as usize] += 1);
        }
    }
    times
}

fn stored(bytes: u64) -> impl FnMut(&JobEvent) -> bool {
    move |event| matches!(event, JobEvent::Progress(now) if now.have_bytes == bytes)
}

fn is_done(event: &JobEvent) -> bool {
    matches!(event, JobEvent::Done(_))
}

/// Whether it says that the disk refused, so.
fn refused(kind: ErrorKind) -> impl FnMut(&JobEvent) -> bool {
    move |event| matches!(event, JobEvent::Failed { error: JobError::Disk { kind: said, .. }, .. } if *said == kind)
}

fn visible_files(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with(".enxame")).collect()
}

fn get_command(tracker: &FakeTracker, to: &Path) -> Command {
    let mut command = enxame(["get", "dir/x", "--json", "--tracker", &tracker.address().to_string(), "-o"]);
    command.arg(to);
    command
}

// ---- a full disk ----

/// Row 17 of SECURITY.md.
#[test]
fn what_does_not_fit_fails_before_it_is_fetched_and_is_fetched_when_there_is_room() {
    with_mounts(|| {
        system_test_within(Duration::from_secs(120), |test| async move {
            let mut rng = test.rng();
            let disk_at = test.folder();
            let disk = SmallDisk::mount(&disk_at, 1 << 20);
            let mut sizes = vec![1, 4096, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN, 19 * SPAN + 4096];
            sizes.extend((sizes.len()..20).map(|_| rng.usize(1..20 * SPAN)));
            for size in sizes {
                for makes_room in [false, true] {
                    let content = Content::random(&mut rng, size);
                    let (holder, tracker) = shared(&test, &content, Behaviour::Honest);
                    let to = disk_at.join("to");
                    fs::create_dir(&to).unwrap();
                    // At least one page too little; with the folders and other files on it.
                    let pages = size.div_ceil(4096) as u64;
                    disk.resize(pages * 4096 + (64 << 10));
                    let ballast = disk_at.join("ballast");
                    fs::write(&ballast, vec![1; (64 << 10) + 4096 * rng.usize(1..=pages as usize)]).unwrap();

                    let told = fetch(&test, tracker.address(), vec![into_folder("dir/x", &to)]).await;
                    match told.failed() {
                        JobError::Disk { kind: ErrorKind::StorageFull, why, .. } => {
                            assert!(why.contains("more are needed"), "{why}")
                        }
                        error => panic!("{error:?}"),
                    }
                    assert_eq!(
                        times_asked(&content, &holder.asked()).iter().sum::<usize>(),
                        0,
                        "{size} bytes"
                    );
                    assert_eq!(fs::read_dir(&to).unwrap().count(), 0, "nothing is left");
                    if makes_room {
                        fs::remove_file(&ballast).unwrap();
                        let told = fetch(&test, tracker.address(), vec![into_folder("dir/x", &to)]).await;
                        assert_sums_up(told.done());
                        assert!(content.stands_at(&to.join("x")));
                    }
                    let _ = fs::remove_file(&ballast);
                    fs::remove_dir_all(&to).unwrap();
                }
            }
        });
    });
}

/// Gives back the room that was reserved for what has not come, as a file system without
/// reservations has it, and fills the disk.
fn steal_room(part: &Path, content: &Content, had: &[u32], ballast: &Path) {
    let file = File::options().write(true).open(part).unwrap();
    for span in content.geometry.all_spans().filter(|span| !had.contains(&span.number())) {
        let (offset, len) = (content.geometry.offset(span), content.geometry.len_bytes(span) as u64);
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len).unwrap();
    }
    let mut ballast = File::create(ballast).unwrap();
    let error = loop {
        if let Err(error) = ballast.write_all(&[7; 4096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
}

#[test]
fn a_get_that_meets_a_full_disk_in_the_middle_says_so_and_goes_on_from_there() {
    with_mounts(|| {
        system_test(|test| async move {
            let content = Content::random(&mut test.rng(), 10 * SPAN + 1);
            let (holder, tracker) = shared(&test, &content, only([0, 3, 10]));
            let disk_at = test.folder();
            let _disk = SmallDisk::mount(&disk_at, 4 << 20);
            let to = disk_at.join("to");
            fs::create_dir(&to).unwrap();
            let running = {
                let command = get_command(&tracker, &to);
                let test = test.clone();
                tokio::task::spawn_local(async move { ran(&test, command).await })
            };
            holder.until(|asked| times_asked(&content, asked)[10] > 0).await;
            // What was answered is on its way; the part shows when it is there.
            let have = [0, 3, 10].map(|span| content.geometry.span(span).unwrap());
            let part = test.wait_for("three spans on disk", until_on_disk(&to, &content, &have)).await;
            steal_room(&part, &content, &[0, 3, 10], &disk_at.join("ballast"));
            holder.gain(0..11);
            let ran_full = running.await.unwrap();
            assert_eq!(ran_full.code, Some(7), "{ran_full:?}");
            let said = &ran_full.stderr;
            assert!(
                said.contains("No space left on device; make room, then the same command goes on"),
                "{said}"
            );
            assert_eq!(ran_full.records("error")[0]["exit"], 7);
            assert_eq!(visible_files(&to), Vec::<PathBuf>::new(), "nothing short gets a final name");

            fs::remove_file(disk_at.join("ballast")).unwrap();
            let ran_again = ran(&test, get_command(&tracker, &to)).await;
            assert_eq!(ran_again.code, Some(0), "{ran_again:?}");
            let done = &ran_again.records("done")[0];
            assert!(done["kept_bytes"].as_u64().unwrap() > 2 * SPAN as u64, "{done}");
            assert!(content.stands_at(&to.join("x")));
        });
    });
}

/// Looks until a part file holds these spans.
async fn until_on_disk(to: &Path, content: &Content, spans: &[SpanIndex]) -> PathBuf {
    loop {
        if let [part] = &part_files(to)[..]
            && let Ok(file) = File::open(part)
        {
            let is_there = |span: &SpanIndex| {
                let mut data = vec![0; content.geometry.len_bytes(*span)];
                let read = file.read_exact_at(&mut data, content.geometry.offset(*span));
                read.is_ok() && data == content.span(span.number()).unwrap()
            };
            if spans.iter().all(is_there) {
                return part.clone();
            }
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_peer_whose_disk_is_full_serves_what_it_has_and_goes_on_when_there_is_room() {
    with_mounts(|| {
        system_test(|test| async move {
            let mut rng = test.rng();
            let [content, other] = [10 * SPAN + 1, 2 * SPAN].map(|size| Content::random(&mut rng, size));
            let (holder, tracker) = shared(&test, &content, only([0, 3]));
            let root = test.folder();
            let _disk = SmallDisk::mount(&root, 4 << 20);
            other.write(&RealPeer::files_of(&root, "p1"), "other");
            let peer = RealPeer::start_in(&test, tracker.address(), "p1", root.clone()).await;
            let (events, mut watched) = Watched::start(&test);
            let job = peer.peer.fetch(vec![what("dir/x")], false, events);
            watched.until("two spans", stored(2 * SPAN as u64)).await;
            let part = part_files(&peer.files).remove(0);
            steal_room(&part, &content, &[0, 3], &root.join("ballast"));
            holder.gain(0..11);
            watched.until("a full disk", refused(ErrorKind::StorageFull)).await;

            let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
            getter.say(&[get(&other, 0..2), open(&content, false), get(&content, 3..4)]).await;
            assert_eq!(getter.hear().await, blocks(&other, 0));
            assert_eq!(getter.hear().await, blocks(&other, 1));
            let opened = getter.hear().await;
            assert!(
                matches!(opened, Heard::Message(FromHolder::Opened { spans: Some(_), .. })),
                "{opened:?}"
            );
            assert_eq!(getter.hear().await, blocks(&content, 3), "what it has of a waiting download");
            // It is still full when it is tried again, and nothing is fetched for that.
            let before = times_asked(&content, &holder.asked());
            watched.until("a full disk again", refused(ErrorKind::StorageFull)).await;
            assert_eq!(times_asked(&content, &holder.asked()), before);
            assert_eq!(visible_files(&peer.files.join("dir")), Vec::<PathBuf>::new(), "no final name");

            fs::remove_file(root.join("ballast")).unwrap();
            let done = watched.until("the file", is_done).await;
            let JobEvent::Done(done) = done else { unreachable!() };
            assert_sums_up(&done);
            assert!(content.stands_at(&peer.files.join("dir/x")));
            let times = times_asked(&content, &holder.asked());
            assert_eq!((times[0], times[3]), (1, 1), "what was there is not fetched again: {times:?}");
            assert!(
                times.iter().all(|times| *times <= 2),
                "what was under way once more, no more: {times:?}"
            );
            test.wait_for("the job", job.wait()).await;
            drop((job, watched, getter));
            peer.stop().await;
        });
    });
}

#[test]
fn a_quota_that_is_used_up_is_told_by_get_and_waited_for_by_a_peer() {
    with_quotas(|| {
        system_test(|test| async move {
            let mut rng = test.rng();
            let contents = [48 * SPAN, SPAN].map(|size| Content::random(&mut rng, size));
            let [large, small] = &contents;
            let holder = FakeHolder::start(&test, "far", &contents, Behaviour::Honest);
            let known = |name, content| candidate(content, &[name], vec![holder.listed()]);
            let candidates = vec![known("dir/x", large), known("small", small)];
            let tracker = FakeTracker::start(&test, Script { candidates, ..Script::default() });
            let disk = QuotaDisk::mount(&test.folder(), 8 << 20);

            let told = ran(&test, get_command(&tracker, &disk.to)).await;
            assert_eq!(told.code, Some(7), "{told:?}");
            assert!(
                told.stderr.contains("Disk quota exceeded; make room, then the same command goes on"),
                "{told:?}"
            );
            assert_eq!(times_asked(large, &holder.asked()).iter().sum::<usize>(), 0);
            assert_eq!(fs::read_dir(&disk.to).unwrap().count(), 0, "nothing is left");

            let peer = RealPeer::start_in(&test, tracker.address(), "p1", disk.to.clone()).await;
            let (events, mut watched) = Watched::start(&test);
            let job = peer.peer.fetch(vec![what("dir/x")], false, events);
            watched.until("a used up quota", refused(ErrorKind::QuotaExceeded)).await;
            disk.limit(64 << 20);
            watched.until("the file", is_done).await;
            assert!(large.stands_at(&peer.files.join("dir/x")));
            test.wait_for("the job", job.wait()).await;
            drop((job, watched));
            peer.stop().await;

            // A file of one span is written when it has come.
            let to = disk.to.join("to");
            fs::create_dir(&to).unwrap();
            disk.limit(1);
            let told = fetch(&test, tracker.address(), vec![into_folder("small", &to)]).await;
            assert!(
                matches!(told.failed(), JobError::Disk { kind: ErrorKind::QuotaExceeded, .. }),
                "{told:?}"
            );
            assert_eq!(fs::read_dir(&to).unwrap().count(), 0, "nothing is left");
        });
    });
}

// ---- a disk that refuses otherwise ----

#[test]
fn a_read_only_disk_is_told_by_get_and_waited_for_by_a_peer() {
    with_mounts(|| {
        system_test(|test| async move {
            let mut rng = test.rng();
            let [content, other] = [2 * SPAN, SPAN].map(|size| Content::random(&mut rng, size));
            let (_holder, tracker) = shared(&test, &content, Behaviour::Honest);
            let root = test.folder();
            let disk = SmallDisk::mount(&root, 4 << 20);
            let files = RealPeer::files_of(&root, "p1");
            other.write(&files, "other");
            disk.set_read_only(true);
            let told = ran(&test, get_command(&tracker, &root)).await;
            assert_eq!(told.code, Some(7), "{told:?}");
            assert!(told.stderr.contains("Read-only file system; write elsewhere with -o PATH"), "{told:?}");

            let peer = RealPeer::start_in(&test, tracker.address(), "p1", root.clone()).await;
            let (events, mut watched) = Watched::start(&test);
            let job = peer.peer.fetch(vec![what("dir/x")], false, events);
            watched.until("a read-only disk", refused(ErrorKind::ReadOnlyFilesystem)).await;
            let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
            getter.say(&[get(&other, 0..1)]).await;
            assert_eq!(getter.hear().await, blocks(&other, 0), "it shares on");
            disk.set_read_only(false);
            watched.until("the file", is_done).await;
            assert!(content.stands_at(&files.join("dir/x")));
            test.wait_for("the job", job.wait()).await;
            drop((job, watched, getter));
            peer.stop().await;
        });
    });
}

#[test]
fn a_folder_of_somebody_else_is_told_by_get() {
    with_mounts(|| {
        system_test(|test| async move {
            let content = Content::random(&mut test.rng(), 2 * SPAN);
            let (_holder, tracker) = shared(&test, &content, Behaviour::Honest);
            let to = test.folder();
            // Where anybody gets to, as they do not to the folders of tests.
            for path in [to.as_path(), to.parent().unwrap()] {
                fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
            }
            let _disk = SmallDisk::mount(&to, 128 << 20);
            fs::copy(env!("CARGO_BIN_EXE_enxame"), to.join("enxame")).unwrap();
            let mut as_nobody = quiet(Command::new("setpriv"));
            as_nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(to.join("enxame"));
            as_nobody.args(["get", "dir/x", "--tracker", &tracker.address().to_string(), "-o"]).arg(&to);
            let told = ran(&test, as_nobody).await;
            assert_eq!(told.code, Some(7), "{told:?}");
            assert!(told.stderr.contains("Permission denied; write elsewhere with -o PATH"), "{told:?}");
            assert_eq!(visible_files(&to), [to.join("enxame")]);
        });
    });
}

#[test]
fn a_folder_that_goes_away_is_waited_for_and_never_made_anew() {
    system_test(|test| async move {
        for is_another in [false, true] {
            let content = Content::random(&mut test.rng(), 5 * SPAN);
            let (holder, tracker) = shared(&test, &content, only([1]));
            let root = test.folder();
            let peer = RealPeer::start_in(&test, tracker.address(), "p1", root.clone()).await;
            let (events, mut watched) = Watched::start(&test);
            let job = peer.peer.fetch(vec![what("dir/x")], false, events);
            watched.until("a span", stored(SPAN as u64)).await;
            let away = root.join("away");
            fs::rename(&peer.files, &away).unwrap();
            if is_another {
                // Its part goes with it, and with that the place of the final name.
                fs::remove_dir_all(&away).unwrap();
                holder.gain(0..5);
                watched.until("a folder that is gone", refused(ErrorKind::NotFound)).await;
                watched.until("it still is", refused(ErrorKind::NotFound)).await;
                assert!(!peer.files.exists(), "it may be a disk that is not mounted: nothing is put below");
                fs::create_dir(&peer.files).unwrap();
            } else {
                fs::rename(&away, &peer.files).unwrap();
                holder.gain(0..5);
            }
            watched.until("the file", is_done).await;
            assert!(content.stands_at(&peer.files.join("dir/x")));
            test.wait_for("the job", job.wait()).await;
            drop((job, watched));
            peer.stop().await;
        }
    });
}

#[test]
fn a_target_that_somebody_makes_meanwhile_is_left_and_told() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 3 * SPAN);
        let (holder, tracker) = shared(&test, &content, only([0]));
        let to = test.folder();
        let running = {
            let command = get_command(&tracker, &to);
            let test = test.clone();
            tokio::task::spawn_local(async move { ran(&test, command).await })
        };
        let root = test.folder();
        let peer = RealPeer::start_in(&test, tracker.address(), "p1", root.clone()).await;
        let (events, mut watched) = Watched::start(&test);
        let job = peer.peer.fetch(vec![what("dir/x")], false, events);
        watched.until("a span", stored(SPAN as u64)).await;
        let first = [content.geometry.span(0).unwrap()];
        test.wait_for("the part of the get", until_on_disk(&to, &content, &first)).await;
        fs::write(to.join("x"), "mine").unwrap();
        fs::write(peer.files.join("dir/x"), "mine").unwrap();
        holder.gain(0..3);
        let told = running.await.unwrap();
        assert_eq!(told.code, Some(7), "{told:?}");
        assert!(
            told.stderr.contains("exists and has another content; replace it with --overwrite"),
            "{told:?}"
        );
        test.wait_for("the job", job.wait()).await;
        drop(job);
        let told = watched.end().await;
        assert!(matches!(told.failed(), JobError::TargetExists(_)), "{told:?}");
        for path in [to.join("x"), peer.files.join("dir/x")] {
            assert_eq!(fs::read(&path).unwrap(), b"mine");
        }
        assert_eq!(part_files(&to).len(), 1, "what was fetched is kept");
        peer.stop().await;
    });
}

// ---- an older version ----

#[test]
fn of_an_older_version_that_is_replaced_what_is_the_same_is_not_fetched() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let content = Content::random(&mut rng, 70 * SPAN + 9);
        for (changed, same_len) in [(vec![], true), (vec![0, 5, 69], true), (vec![3], false)] {
            let mut older = content.data.to_vec();
            for span in &changed {
                older[span * SPAN + 1000] ^= 1;
            }
            older[70 * SPAN] ^= 1;
            older.truncate(if same_len { content.data.len() } else { 40 * SPAN + 17 });
            let missing: Vec<usize> = (0..71)
                .filter(|span| changed.contains(span) || *span == 70 || (!same_len && *span >= 40))
                .collect();
            let older = Content::of(older);
            let (holder, tracker) = shared(&test, &content, Behaviour::Honest);
            let to = test.folder();
            older.write(&to, "x");
            let wants = vec![into_folder("dir/x", &to)];
            let mut running = Running::start_with(&test, tracker.address(), wants, true);
            running.watched.until("its first progress or end", |_| true).await;
            let told = running.finish().await;
            let done = told.done();
            assert_sums_up(done);
            let missing_bytes: usize = missing.iter().map(|span| if *span == 70 { 9 } else { SPAN }).sum();
            assert_eq!(done.fetched_bytes, missing_bytes as u64);
            let times = times_asked(&content, &holder.asked());
            let asked: Vec<usize> = (0..71).filter(|span| times[*span] > 0).collect();
            assert_eq!(asked, missing);
            assert!(content.stands_at(&to.join("x")));
            assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
        }
    });
}

/// This content with one byte changed in each span for which `is_changed`.
fn older_version(content: &Content, is_changed: impl Fn(usize) -> bool) -> Content {
    let mut data = content.data.to_vec();
    (0..content.geometry.spans()).filter(|span| is_changed(*span)).for_each(|span| data[span * SPAN] ^= 1);
    Content::of(data)
}

#[test]
fn of_an_older_version_that_has_the_name_beside_the_target_what_is_the_same_is_not_fetched() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 30 * SPAN + 5);
        let (holder, tracker) = shared(&test, &content, Behaviour::Honest);
        let to = test.folder();
        let older = older_version(&content, |span| span.is_multiple_of(5));
        let path = older.write(&to, "sub/x");
        let before = fs::metadata(&path).unwrap();
        // A job that replaces takes from the one that it replaces too.
        for (name, overwrite, other) in [
            ("sub/x-new", false, None),
            ("sub/x-2", true, None),
            ("sub/x-3", true, Some(older_version(&content, |span| !span.is_multiple_of(5)))),
        ] {
            if let Some(other) = &other {
                other.write(&to, name);
            }
            let asked_before = times_asked(&content, &holder.asked());
            let wants = vec![to_name("dir/x", &to, name)];
            let told = Running::start_with(&test, tracker.address(), wants, overwrite).finish().await;
            assert_sums_up(told.done());
            let is_missing = |span: &usize| other.is_none() && span.is_multiple_of(5);
            let missing: Vec<usize> = (0..31).filter(is_missing).collect();
            let times = times_asked(&content, &holder.asked());
            let asked: Vec<usize> = (0..31).filter(|span| times[*span] > asked_before[*span]).collect();
            assert_eq!(asked, missing, "{name}");
            assert!(content.stands_at(&to.join(name)));
            let after = fs::metadata(&path).unwrap();
            assert!(older.stands_at(&path) && after.ino() == before.ino());
            assert_eq!(after.modified().unwrap(), before.modified().unwrap(), "it was only read");
        }
    });
}

#[test]
fn what_has_the_name_and_is_no_file_of_the_folder_is_not_read() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 4 * SPAN);
        let (_holder, tracker) = shared(&test, &content, Behaviour::Honest);
        let elsewhere = content.write(&test.folder(), "secret");
        let put: [&dyn Fn(&Path); 3] =
            [&|at| symlink(&elsewhere, at).unwrap(), &|at| fs::create_dir(at).unwrap(), &|at| {
                mknodat(CWD, at, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap()
            }];
        for put in put {
            let to = test.folder();
            put(&to.join("x"));
            let wants = vec![to_name("dir/x", &to, "new")];
            let told = Running::start(&test, tracker.address(), wants).finish().await;
            assert_eq!(told.done().fetched_bytes, content.size());
            assert!(content.stands_at(&to.join("new")));
        }
    });
}

#[test]
fn a_peer_replaces_an_older_version_in_its_folder_and_shares_that_until_then() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 6 * SPAN);
        let mut older = content.data.to_vec();
        older[4 * SPAN] ^= 1;
        older[5 * SPAN] ^= 1;
        let older = Content::of(older);
        let (holder, tracker) = shared(&test, &content, only([4]));
        let root = test.folder();
        older.write(&RealPeer::files_of(&root, "p1"), "dir/x");
        let peer = RealPeer::start_in(&test, tracker.address(), "p1", root).await;
        let (events, mut watched) = Watched::start(&test);
        let job = peer.peer.fetch(vec![what("dir/x")], true, events);
        watched.until("all but one span", stored(5 * SPAN as u64)).await;
        assert!(older.stands_at(&peer.files.join("dir/x")), "the older one is whole until it is replaced");
        let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
        getter.say(&[get(&older, 5..6), get(&content, 4..5)]).await;
        assert_eq!(getter.hear().await, blocks(&older, 5));
        assert_eq!(getter.hear().await, blocks(&content, 4));
        holder.gain(0..6);
        let done = watched.until("the file", is_done).await;
        assert!(matches!(&done, JobEvent::Done(done) if done.kept_bytes == 4 * SPAN as u64), "{done:?}");
        assert!(content.stands_at(&peer.files.join("dir/x")));
        test.wait_for("the job", job.wait()).await;
        drop((job, watched, getter));
        peer.stop().await;
    });
}

// ---- files that change while they are served ----

/// A way to give a file another content.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// Written over in its place, from a random offset on.
    InPlace,
    /// Cut short.
    Truncated,
    /// Another file takes its name.
    Replaced,
}

/// Changes it, and says what it holds now.
fn change(rng: &mut fastrand::Rng, path: &Path, before: &Content, how: Change) -> Content {
    let mut data = before.data.to_vec();
    match how {
        Change::InPlace => {
            let at = rng.usize(..data.len());
            rng.fill(&mut data[at..]);
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(&data[at..], at as u64).unwrap();
        }
        Change::Truncated => {
            data.truncate(rng.usize(SPAN..data.len()));
            File::options().write(true).open(path).unwrap().set_len(data.len() as u64).unwrap();
        }
        Change::Replaced => {
            data = vec![0; rng.usize(20 * SPAN..40 * SPAN)];
            rng.fill(&mut data);
            let new = path.with_file_name(".enxame-new");
            fs::write(&new, &data).unwrap();
            fs::rename(new, path).unwrap();
        }
    }
    Content::of(data)
}

fn is_held(candidates: &[Candidate], id: FileId) -> bool {
    candidates.iter().any(|candidate| candidate.id == id && candidate.holder_count > 0)
}

/// Row 19 of SECURITY.md.
#[test]
fn of_a_file_that_changes_while_it_is_served_no_receiver_accepts_a_byte() {
    const SPANS: usize = 1000;
    system_test_within(Duration::from_secs(240), |test| async move {
        let mut rng = test.rng();
        let tracker = RealTracker::start(&test, NEVER);
        let mut now = Content::random(&mut rng, 40 * SPAN);
        let peer = RealPeer::start(&test, tracker.address(), "p1", |files| drop(now.write(files, "x"))).await;
        let (mut served, mut spoilt, mut changes, mut done, mut slowest) = (0, 0, 0, 0, Duration::ZERO);
        let (mut hashed_again, mut fetches) = (0, Vec::new());
        while served < SPANS {
            let how = [Change::InPlace, Change::Truncated, Change::Replaced][changes % 3];
            tracker.until("what is there now", "x", |found| is_held(found, now.id)).await;
            // One reads span by span, and so sees each byte that goes out; one fetches.
            let to = test.folder();
            let id = now.id.to_string();
            let fetching = Running::start(&test, tracker.address(), vec![into_folder(&id, &to)]);
            let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
            let spans = now.geometry.spans() as u32;
            let change_at = rng.u32(..spans);
            let (mut changing, mut span) = (None, 0);
            while span < spans {
                if span == change_at && changing.is_none() {
                    let (path, before, mut rng) = (peer.files.join("x"), now.clone(), rng.fork());
                    changing = Some(spawn_blocking(move || {
                        let after = change(&mut rng, &path, &before, how);
                        (after, Instant::now())
                    }));
                }
                getter.say(&[get(&now, span..span + 1)]).await;
                match getter.hear().await {
                    Heard::Message(FromHolder::Missing { id }) => {
                        assert_eq!(id, now.id);
                        if changing.is_some() {
                            break;
                        }
                        // A file that is cut short gets two times from one call, when its length is there
                        // and when the call is over. Hashed between them, it is hashed again.
                        hashed_again += 1;
                        assert!(hashed_again <= 3, "it was there and unchanged");
                        tracker.until("the same again", "x", |found| is_held(found, now.id)).await;
                        continue;
                    }
                    // Cut short in the middle of a span: its sender saw the end of the file.
                    Heard::End => break,
                    heard => {
                        served += 1;
                        spoilt += usize::from(heard != blocks(&now, span));
                    }
                }
                span += 1;
            }
            drop(getter);
            let (after, at) = changing.unwrap().await.unwrap();
            changes += 1;
            let before = std::mem::replace(&mut now, after);
            let old = before.id.to_string();
            tracker.until("that it is withdrawn", &old, |found| !is_held_by(found, before.id, "p1")).await;
            slowest = slowest.max(at.elapsed());
            // What is gone is looked for some seconds more, and the next change does not wait for that.
            fetches.push((before, to, fetching));
        }
        for (before, to, fetching) in fetches {
            let told = fetching.finish().await;
            match told.all_done()[..] {
                [_] => {
                    assert!(before.stands_at(&to.join("x")), "another content under its name: {told:?}");
                    done += 1;
                }
                _ => assert_eq!(visible_files(&to), Vec::<PathBuf>::new(), "{told:?}"),
            }
        }
        println!(
            "{served} spans served, {changes} changes, {spoilt} spans changed on their way and were not \
             accepted, {done} fetches done before; withdrawn within {slowest:?}"
        );
        assert!(spoilt <= changes, "only what was being sent may be spoilt: {spoilt} spans");
        assert!(slowest < Duration::from_secs(1), "withdrawn after {slowest:?}");
        peer.stop().await;
        tracker.stop().await;
    });
}

fn is_held_by(candidates: &[Candidate], id: FileId, peer: &str) -> bool {
    let of_id = candidates.iter().filter(|candidate| candidate.id == id);
    of_id.flat_map(|candidate| &candidate.holders).any(|holder| holder.peer.as_str() == peer)
}
