//! Whole folders: what `get folder/`, `--all` and a peer's `--get folder/` fetch, where it goes, and what
//! fails by itself without keeping the rest.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use enxame_actors::base::What;
use enxame_actors::base::limits::{MAX_TREE_FILES_OPEN, TREE_BATCH_FILES};
use enxame_actors::peer::Want;
use enxame_actors::peer::events::{JobError, JobEvent};
use enxame_actors::wire::tracker::{Candidate, Listing};
use support::binary::enxame;
use support::files::SPAN;
use support::job::{Running, Watched, fetch, into_folder, part_files, sums_up, to_name, to_stream, what};
use support::swarm::{NEVER, RealPeer, RealTracker};
use support::{Content, RawPeer, Test, system_test};

// ---- what the stories stand on ----

/// What a folder holds: names below it, and contents.
type Files = BTreeMap<String, Content>;

/// A folder with small files, some larger ones, an empty one, and one content under several names.
fn some_files(test: &Test, small: usize) -> Files {
    let mut rng = test.rng();
    let mut files = Files::new();
    for number in 0..small {
        let size = rng.usize(1..9000);
        files.insert(format!("d{}/e{}/f{number}", number % 7, number % 3), Content::random(&mut rng, size));
    }
    files.insert("empty".into(), Content::of(""));
    files.insert("d0/empty".into(), Content::of(""));
    files.insert("span".into(), Content::random(&mut rng, SPAN));
    files.insert("large".into(), Content::random(&mut rng, 5 * SPAN + 77));
    let twin = Content::random(&mut rng, 3 * SPAN);
    files.insert("twins/a".into(), twin.clone());
    files.insert("twins/b".into(), twin);
    files
}

fn write(files: &Files, folder: &Path) {
    files.iter().for_each(|(name, content)| drop(content.write(folder, name)));
}

/// The names of all files below a folder, hidden ones too.
fn names_in(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                names.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    names
}

/// Asserts that a folder has exactly these files.
fn assert_holds(folder: &Path, files: &Files) {
    assert_eq!(names_in(folder), files.keys().cloned().collect());
    for (name, content) in files {
        assert!(content.stands_at(&folder.join(name)), "{name}");
    }
}

// ---- what arrives ----

#[test]
fn a_whole_folder_arrives_with_every_file_told_and_fetched_once() {
    system_test(|test| async move {
        let files = some_files(&test, MAX_TREE_FILES_OPEN + 400);
        let tracker = RealTracker::start(&test, NEVER);
        let holder = RealPeer::start(&test, tracker.address(), "p1", |shared| {
            write(&files, &shared.join("tree"));
            Content::of("not asked for").write(shared, "tree.txt");
            Content::of("neither").write(shared, "other/x");
        })
        .await;
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("tree/", &to)]).await;
        assert!(told.all_failed().is_empty(), "{told:#?}");
        assert_holds(&to, &files);
        let done = told.all_done();
        let names: BTreeSet<String> = done.iter().map(|done| done.name.to_string()).collect();
        assert_eq!(names, files.keys().map(|name| format!("tree/{name}")).collect());
        assert_eq!(done.len(), files.len(), "each is told once");
        assert!(done.iter().all(|done| sums_up(done) || done.sources.is_empty()));
        let contents: BTreeMap<_, _> = files.values().map(|content| (content.id, content.size())).collect();
        let fetched: u64 = done.iter().map(|done| done.fetched_bytes).sum();
        assert_eq!(fetched, contents.values().sum::<u64>(), "each content once, however many names it has");
        let found = told.0.iter().filter(|event| matches!(event, JobEvent::Found { .. })).count();
        assert_eq!(found, files.len());
        holder.stop().await;
        tracker.stop().await;
    });
}

#[test]
fn of_a_folder_of_which_nothing_comes_only_so_many_files_are_taken_up() {
    system_test(|test| async move {
        let tracker = RealTracker::start(&test, NEVER);
        // It takes connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = RawPeer::connect(tracker.address(), "silent").await.unwrap();
        let listing = |number: usize| Listing {
            name: format!("tree/{number:05}").parse().unwrap(),
            id: Content::of(number.to_string()).id,
            size: 5,
            complete: true,
        };
        let list = (0..MAX_TREE_FILES_OPEN + 2 * TREE_BATCH_FILES).map(listing).collect();
        holder.register(1, silent.local_addr().unwrap().port(), list).await.unwrap();
        let mut fetch = Running::start(&test, tracker.address(), vec![into_folder("tree/", &test.folder())]);
        let mut found = 0;
        let dropped = fetch.watched.until("the end of the holder's patience", |event| {
            found += usize::from(matches!(event, JobEvent::Found { .. }));
            matches!(event, JobEvent::Source { .. })
        });
        dropped.await;
        assert!(
            (MAX_TREE_FILES_OPEN - TREE_BATCH_FILES + 1..=MAX_TREE_FILES_OPEN).contains(&found),
            "{found}"
        );
        fetch.cancel();
        fetch.finish().await;
        drop(holder);
        tracker.stop().await;
    });
}

#[test]
fn of_names_that_are_one_elsewhere_the_first_is_fetched_and_the_others_name_both() {
    system_test(|test| async move {
        let mut rng = test.rng();
        let clashing = [("Readme", "README"), ("d/e\u{301}", "d/\u{e9}"), ("large", "Large")];
        let sizes = [30, 3000, 2 * SPAN + 1];
        let files: Files = clashing
            .iter()
            .zip(sizes)
            .flat_map(|((a, b), size)| [(*a, size), (*b, size)])
            .map(|(name, size)| (name.to_owned(), Content::random(&mut rng, size)))
            .collect();
        let tracker = RealTracker::start(&test, NEVER);
        // A folder shares one of each pair, so two folders have them.
        let mut holders = Vec::new();
        for (id, which) in [("p1", 0), ("p2", 1)] {
            let here: Files = clashing
                .iter()
                .map(|pair| [pair.0, pair.1][which].to_owned())
                .map(|name| (name.clone(), files[&name].clone()))
                .collect();
            let fill = |shared: &Path| write(&here, &shared.join("tree"));
            holders.push(RealPeer::start(&test, tracker.address(), id, fill).await);
        }
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("tree/", &to)]).await;
        let there = names_in(&to);
        assert_eq!(there.len(), clashing.len());
        let failed = told.all_failed();
        assert_eq!(failed.len(), clashing.len(), "{told:#?}");
        for (a, b) in clashing {
            let (had, not_had) = if there.contains(a) { (a, b) } else { (b, a) };
            assert!(files[had].stands_at(&to.join(had)));
            let is_named = failed.iter().any(|(what, error)| {
                matches!(error, JobError::SamePlace { path, there, other } if *what == format!("tree/{not_had}")
                    && *path == to.join(not_had) && *there == to.join(had) && *other == format!("tree/{had}"))
            });
            assert!(is_named, "{not_had}: {failed:?}");
        }
        for holder in holders {
            holder.stop().await;
        }
        tracker.stop().await;
    });
}

#[test]
fn holders_that_have_different_files_are_each_asked_for_theirs() {
    system_test(|test| async move {
        let files = some_files(&test, 400);
        let tracker = RealTracker::start(&test, NEVER);
        let mut holders = Vec::new();
        for part in 0..3 {
            let here = files.iter().enumerate().filter(|(number, _)| number % 3 == part);
            let here: Files = here.map(|(_, (name, content))| (name.clone(), content.clone())).collect();
            let id = format!("p{part}");
            let fill = |shared: &Path| write(&here, &shared.join("tree"));
            holders.push(RealPeer::start(&test, tracker.address(), &id, fill).await);
        }
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("tree/", &to)]).await;
        assert!(told.all_failed().is_empty(), "{told:#?}");
        assert_holds(&to, &files);
        for holder in holders {
            holder.stop().await;
        }
        tracker.stop().await;
    });
}

#[test]
fn all_there_is_and_several_folders_at_once_go_where_they_are_sent() {
    system_test(|test| async move {
        let files = some_files(&test, 40);
        let tracker = RealTracker::start(&test, NEVER);
        let holder = RealPeer::start(&test, tracker.address(), "p1", |shared| write(&files, shared)).await;
        let (all, parts) = (test.folder(), test.folder());
        let everything = Want { what: What::everything(), to: into_folder("x", &all).to };
        let told = fetch(&test, tracker.address(), vec![everything]).await;
        assert!(told.all_failed().is_empty(), "{told:#?}");
        assert_holds(&all, &files);

        let wants =
            vec![to_name("d1/", &parts, "one"), into_folder("twins/", &parts), into_folder("large", &parts)];
        let told = fetch(&test, tracker.address(), wants).await;
        assert!(told.all_failed().is_empty(), "{told:#?}");
        let moved = files.iter().filter_map(|(name, content)| {
            let name = match name.split_once('/') {
                Some(("d1", rest)) => format!("one/{rest}"),
                Some(("twins", rest)) => rest.to_owned(),
                None if name == "large" => name.clone(),
                _ => return None,
            };
            Some((name, content.clone()))
        });
        assert_holds(&parts, &moved.collect());
        holder.stop().await;
        tracker.stop().await;
    });
}

#[test]
fn a_peer_fetches_a_folder_under_its_whole_name_and_shares_it_on() {
    system_test(|test| async move {
        let files = some_files(&test, 100);
        let tracker = RealTracker::start(&test, NEVER);
        let holder = RealPeer::start(&test, tracker.address(), "p1", |shared| {
            write(&files, &shared.join("a/tree"));
        })
        .await;
        let second = RealPeer::start(&test, tracker.address(), "p2", |_| {}).await;
        let (events, watched) = Watched::start(&test);
        let job = second.peer.fetch(vec![what("a/tree/")], false, events);
        test.wait_for("the folder to be there", job.wait()).await;
        let told = watched.end().await;
        assert!(told.all_failed().is_empty(), "{told:#?}");
        assert_eq!(told.all_done().len(), files.len(), "each is told once");
        assert_holds(&second.files.join("a/tree"), &files);
        for name in files.keys() {
            let is_second = |found: &[Candidate]| {
                let mut holders = found.iter().flat_map(|candidate| &candidate.holders);
                holders.any(|holder| holder.peer.as_str() == "p2")
            };
            tracker.until("the second holder", &format!("a/tree/{name}"), is_second).await;
        }
        holder.stop().await;

        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("a/tree/", &to)]).await;
        assert!(told.all_failed().is_empty(), "{told:#?}");
        assert_holds(&to, &files);
        second.stop().await;
        tracker.stop().await;
    });
}

// ---- what stands there, and what fails by itself ----

#[test]
fn what_is_there_is_not_fetched_and_what_differs_is_told_and_left() {
    system_test(|test| async move {
        let files = some_files(&test, 60);
        let tracker = RealTracker::start(&test, NEVER);
        let holder =
            RealPeer::start(&test, tracker.address(), "p1", |shared| write(&files, &shared.join("t"))).await;
        let to = test.folder();
        write(&files, &to);
        let mine = Content::of("mine");
        mine.write(&to, "large");
        mine.write(&to, "d1/e1/f1");
        fs::remove_file(to.join("span")).unwrap();

        let told = fetch(&test, tracker.address(), vec![into_folder("t/", &to)]).await;
        let failed: BTreeSet<&str> = told.all_failed().iter().map(|(what, _)| *what).collect();
        assert_eq!(failed, BTreeSet::from(["t/large", "t/d1/e1/f1"]), "{told:#?}");
        assert!(told.all_failed().iter().all(|(_, error)| matches!(error, JobError::TargetExists(_))));
        assert_eq!(told.all_done().len(), files.len() - 2);
        let fetched: u64 = told.all_done().iter().map(|done| done.fetched_bytes).sum();
        assert_eq!(fetched, files["span"].size(), "what was there is not fetched");
        assert!(mine.stands_at(&to.join("large")) && mine.stands_at(&to.join("d1/e1/f1")));

        let wants = vec![into_folder("t/", &to)];
        let told = Running::start_with(&test, tracker.address(), wants, true).finish().await;
        assert!(told.all_failed().is_empty(), "{told:#?}");
        assert_holds(&to, &files);
        holder.stop().await;
        tracker.stop().await;
    });
}

#[test]
fn a_name_with_several_contents_fails_alone_and_is_not_written() {
    system_test(|test| async move {
        let mut files = some_files(&test, 30);
        let tracker = RealTracker::start(&test, NEVER);
        let first =
            RealPeer::start(&test, tracker.address(), "p1", |shared| write(&files, &shared.join("t"))).await;
        let second = RealPeer::start(&test, tracker.address(), "p2", |shared| {
            Content::of("another one").write(shared, "t/large");
        })
        .await;
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("t/", &to)]).await;
        let failed = told.all_failed();
        assert!(
            matches!(failed[..], [("t/large", JobError::Ambiguous(candidates))] if candidates.len() == 2),
            "{failed:?}"
        );
        files.remove("large");
        assert_holds(&to, &files);
        first.stop().await;
        second.stop().await;
        tracker.stop().await;
    });
}

#[test]
fn a_folder_that_nobody_has_or_that_goes_to_a_stream_is_told_as_one_failure() {
    system_test(|test| async move {
        let tracker = RealTracker::start(&test, NEVER);
        let holder = RealPeer::start(&test, tracker.address(), "p1", |shared| {
            Content::of("x").write(shared, "tree.txt");
            Content::of("x").write(shared, "a/x");
        })
        .await;
        let to = test.folder();
        let told = fetch(&test, tracker.address(), vec![into_folder("tree/", &to)]).await;
        assert!(matches!(told.all_failed()[..], [("tree/", JobError::NobodyHasIt)]), "{told:#?}");
        let told = fetch(&test, tracker.address(), vec![to_stream("a/", std::io::sink())]).await;
        assert!(matches!(told.failed(), JobError::Disk { .. }), "{told:#?}");
        assert_eq!(names_in(&to), BTreeSet::new());
        holder.stop().await;
        tracker.stop().await;
    });
}

#[test]
fn a_folder_that_is_given_up_in_the_middle_keeps_only_whole_files_and_is_had_by_the_next_try() {
    system_test(|test| async move {
        let files = some_files(&test, 2000);
        let tracker = RealTracker::start(&test, NEVER);
        let holder =
            RealPeer::start(&test, tracker.address(), "p1", |shared| write(&files, &shared.join("t"))).await;
        let to = test.folder();
        let mut running = Running::start(&test, tracker.address(), vec![into_folder("t/", &to)]);
        running.watched.until("the first file", |event| matches!(event, JobEvent::Done(_))).await;
        running.cancel();
        running.finish().await;
        for name in names_in(&to).iter().filter(|name| !name.contains(".enxame")) {
            assert!(files[name].stands_at(&to.join(name)), "{name}");
        }
        let told = fetch(&test, tracker.address(), vec![into_folder("t/", &to)]).await;
        assert!(told.all_failed().is_empty(), "{told:#?}");
        assert_eq!(part_files(&to), <[std::path::PathBuf; 0]>::default());
        assert_holds(&to, &files);
        holder.stop().await;
        tracker.stop().await;
    });
}

// ---- the binary ----

#[test]
fn the_command_makes_the_folder_ends_with_the_code_of_what_failed_and_says_so() {
    system_test(|test| async move {
        let files = some_files(&test, 20);
        let tracker = RealTracker::start(&test, NEVER);
        let holder = RealPeer::start(&test, tracker.address(), "p1", |shared| {
            write(&files, &shared.join("a/tree"));
        })
        .await;
        let at = tracker.address().to_string();
        let here = test.folder();
        let get = |args: &[&str]| {
            let mut command = enxame([&["get", "--tracker", &at], args].concat());
            command.current_dir(&here);
            command
        };
        let ran = support::binary::ran(&test, get(&["a/tree/"])).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_holds(&here.join("tree"), &files);
        assert!(ran.stderr.contains(&format!("{} files", files.len())), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "one line for all: {ran:?}");

        let ran = support::binary::ran(&test, get(&["a/tree/", "-o", "new", "--json"])).await;
        assert_eq!((ran.code, ran.records("done").len()), (Some(0), files.len()), "{ran:?}");
        assert_holds(&here.join("new"), &files);
        let ran = support::binary::ran(&test, get(&["--all", "-o", "all", "-q"])).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
        assert_holds(&here.join("all/a/tree"), &files);

        fs::write(here.join("new/large"), "mine").unwrap();
        let ran = support::binary::ran(&test, get(&["a/tree/", "-o", "new"])).await;
        assert_eq!(ran.code, Some(7), "{ran:?}");
        assert!(ran.stderr.contains("new/large exists and has another content"), "{ran:?}");
        for (args, code, says) in [
            (&["b/", "-o", "nothing"][..], 3, "nobody"),
            (&["a/tree/", "-o", "-"], 2, "-o -"),
            (&["a//"], 2, "neither a name nor an id"),
        ] {
            let ran = support::binary::ran(&test, get(args)).await;
            assert_eq!(ran.code, Some(code), "{ran:?}");
            assert!(ran.stderr.contains(says), "{ran:?}");
        }
        assert!(!here.join("nothing").exists());
        let ran = support::binary::ran(&test, enxame(["who-has", "a/tree/", "--tracker", &at])).await;
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains("enxame ls a/tree/"), "{ran:?}");
        holder.stop().await;
        tracker.stop().await;
    });
}
