//! The Library on a real folder. Every test ends by stopping the actor, which fails if it panicked.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::time::SystemTime;

use actix_rt::{Arbiter, System};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::content::index::Changes;
use crate::content::part::PartFile;
use crate::content::tree::tests::{SPAN, data, proof_of};

/// What a test may take; it takes well under a second.
const DEADLINE: Duration = Duration::from_secs(20);

/// Hands on what the library tells.
struct Probe(mpsc::Sender<ListChanged>);

impl Actor for Probe {
    type Context = Context<Self>;
}

impl Handler<ListChanged> for Probe {
    type Result = ();

    fn handle(&mut self, told: ListChanged, _: &mut Context<Self>) {
        self.0.try_send(told).expect("a test hears of fewer changes than the channel holds");
    }
}

/// Hands on how far hashing is.
struct ProgressProbe(mpsc::Sender<Hashing>);

impl Actor for ProgressProbe {
    type Context = Context<Self>;
}

impl Handler<Hashing> for ProgressProbe {
    type Result = ();

    fn handle(&mut self, hashing: Hashing, _: &mut Context<Self>) {
        self.0.try_send(hashing).expect("a test hears of fewer ticks than the channel holds");
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    System::new().block_on(async { timeout(DEADLINE, test()).await.expect("the test ends in time") });
}

fn name(text: &str) -> FileName {
    text.parse().unwrap()
}

fn id_of(bytes: &[u8]) -> FileId {
    FileId::from_bytes(*blake3::hash(bytes).as_bytes())
}

/// A peer's folder.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Root {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("files")).unwrap();
        Root(root)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join("files").join(file)
    }

    /// Writes a file that was last changed a while ago, as most files were.
    fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        self.write_now(file, bytes);
        let past = SystemTime::now() - Duration::from_secs(60);
        File::options().write(true).open(self.path(file)).unwrap().set_modified(past).unwrap();
    }

    fn write_now(&self, file: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(file).parent().unwrap()).unwrap();
        fs::write(self.path(file), bytes).unwrap();
    }

    /// A library whose watcher works.
    async fn share(&self) -> Shared {
        self.share_with(true).await
    }

    /// A library that finds changes only when it is told to look.
    async fn share_blind(&self) -> Shared {
        self.share_with(false).await
    }

    async fn share_with(&self, watch: bool) -> Shared {
        let config = LibraryConfig { root: self.0.path().to_owned(), watch, progress: None };
        let library = Library::start(config, &Arbiter::current());
        let (sender, told) = mpsc::channel(1000);
        let list = library.send(Subscribe(Probe(sender).start().recipient())).await.unwrap();
        let mut shared = Shared { library, told, list: BTreeMap::new() };
        shared.take(ListChanged { added: list, removed: vec![] });
        shared
    }
}

/// A running library, and its list as one knows it who only hears of changes.
struct Shared {
    library: Addr<Library>,
    told: mpsc::Receiver<ListChanged>,
    list: BTreeMap<FileName, Listing>,
}

impl Shared {
    fn take(&mut self, told: ListChanged) {
        for listing in told.removed {
            assert_eq!(self.list.remove(&listing.name), Some(listing), "what goes was there");
        }
        for listing in told.added {
            assert!(listing.complete);
            assert_eq!(self.list.insert(listing.name.clone(), listing), None, "what comes was not there");
        }
    }

    /// Waits until exactly these files are shared; and the library says the same when asked.
    async fn has(&mut self, files: &[(&str, &[u8])]) {
        let expected: BTreeMap<FileName, (FileId, u64)> =
            files.iter().map(|(file, bytes)| (name(file), (id_of(bytes), bytes.len() as u64))).collect();
        while self.list.iter().map(|(n, l)| (n.clone(), (l.id, l.size))).collect::<BTreeMap<_, _>>()
            != expected
        {
            let told = self.told.recv().await.expect("the library lives");
            self.take(told);
        }
        let list = self.library.send(GetListings).await.unwrap();
        assert_eq!(list, self.list.values().cloned().collect::<Vec<_>>());
    }

    async fn ready(&mut self) -> FirstScan {
        let scan = self.library.send(AwaitReady).await.unwrap().unwrap();
        while let Ok(told) = self.told.try_recv() {
            self.take(told);
        }
        assert_eq!(scan.files, self.list.len(), "all was announced before it was ready");
        scan
    }

    async fn rescan(&self) {
        self.library.send(Rescan).await.unwrap();
    }

    async fn open(&self, bytes: &[u8]) -> Result<Arc<SharedFile>, OpenError> {
        self.library.send(OpenFile { id: id_of(bytes) }).await.unwrap()
    }

    async fn stop(self) {
        self.library.send(Stop).await.expect("the actor did not panic");
    }
}

#[test]
fn a_folder_is_shared_as_it_is_and_what_does_not_belong_there_is_not() {
    run(|| async {
        let root = Root::new();
        let large = data(70 * SPAN + 1);
        root.write("small", "s");
        root.write("empty", "");
        root.write("sub/größe 🐝", "ü");
        root.write("large", &large);
        root.write(".enxame-1.part", "half a download");
        fs::create_dir(root.path("empty folder")).unwrap();
        symlink("/etc/passwd", root.path("passwd")).unwrap();
        symlink("nowhere", root.path("dangling")).unwrap();
        mknodat(CWD, root.path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        fs::write(root.path("unreadable\x07name"), "x").unwrap();
        let mut shared = root.share().await;
        let scan = shared.ready().await;
        assert_eq!(
            scan,
            FirstScan { files: 4, bytes: large.len() as u64 + 3, hashed: 4, skipped: 4, left: 0 }
        );
        shared
            .has(&[("empty", b""), ("large", &large), ("small", b"s"), ("sub/größe 🐝", "ü".as_bytes())])
            .await;
        shared.stop().await;
    });
}

#[test]
fn what_is_added_renamed_changed_replaced_and_removed_is_told() {
    run(|| async {
        let root = Root::new();
        root.write("a", "one");
        let mut shared = root.share().await;
        shared.has(&[("a", b"one")]).await;

        root.write_now("sub/deep/b", "two");
        shared.has(&[("a", b"one"), ("sub/deep/b", b"two")]).await;
        fs::rename(root.path("a"), root.path("c")).unwrap();
        shared.has(&[("c", b"one"), ("sub/deep/b", b"two")]).await;
        // in place, same length
        root.write_now("c", "ONE");
        shared.has(&[("c", b"ONE"), ("sub/deep/b", b"two")]).await;
        // by renaming another file over it
        root.write_now(".enxame-x", "three");
        fs::rename(root.path(".enxame-x"), root.path("c")).unwrap();
        shared.has(&[("c", b"three"), ("sub/deep/b", b"two")]).await;
        // two names, one content
        root.write_now("d", "two");
        shared.has(&[("c", b"three"), ("d", b"two"), ("sub/deep/b", b"two")]).await;
        fs::remove_dir_all(root.path("sub")).unwrap();
        fs::remove_file(root.path("c")).unwrap();
        shared.has(&[("d", b"two")]).await;
        shared.stop().await;
    });
}

#[test]
fn a_rescan_withdraws_what_a_blind_watcher_missed_before_it_answers() {
    run(|| async {
        let root = Root::new();
        root.write("gone", "1");
        root.write("changed", "2");
        root.write("same", "3");
        let mut shared = root.share_blind().await;
        assert_eq!(shared.ready().await.hashed, 3);
        fs::remove_file(root.path("gone")).unwrap();
        root.write("changed", "two");
        root.write("new", "4");
        shared.rescan().await;
        assert!(shared.library.send(FindName { name: name("gone") }).await.unwrap().is_none());
        let changed = shared.library.send(FindName { name: name("changed") }).await.unwrap();
        assert!(changed.is_none_or(|listing| listing.id == id_of(b"two")));
        shared.has(&[("changed", b"two"), ("new", b"4"), ("same", b"3")]).await;
        // Many at once are answered together; nothing changed, so nothing is told.
        let many: Vec<_> = (0..50).map(|_| actix_rt::spawn(shared.library.send(Rescan))).collect();
        for answer in many {
            answer.await.unwrap().unwrap();
        }
        assert!(shared.told.try_recv().is_err());
        shared.stop().await;
    });
}

#[test]
fn a_restart_hashes_only_what_changed() {
    run(|| async {
        let root = Root::new();
        let large = data(3 * SPAN);
        root.write("large", &large);
        root.write("small", "s");
        root.write("changes", "old");
        root.write("goes", "g");
        let mut first = root.share().await;
        assert_eq!(first.ready().await.hashed, 4);
        first.stop().await;

        root.write("changes", "new");
        fs::remove_file(root.path("goes")).unwrap();
        let mut second = root.share().await;
        assert_eq!(second.ready().await.hashed, 1);
        let now: [(&str, &[u8]); 3] = [("changes", b"new"), ("large", &large), ("small", b"s")];
        second.has(&now).await;
        let opened = second.open(&large).await.unwrap();
        assert_eq!(opened.proof, proof_of(&large), "the manifest comes back too");
        second.stop().await;

        let mut third = root.share().await;
        assert_eq!(third.ready().await.hashed, 0);
        third.has(&now).await;
        third.stop().await;
        let kept = Cache::open(&root.0.path().join(".enxame")).load();
        assert_eq!(kept.len(), 3, "entries of files that went are gone too");
    });
}

#[test]
fn a_file_hashed_within_the_tick_of_its_change_is_shared_but_not_cached() {
    run(|| async {
        let root = Root::new();
        root.write("racy", "first");
        // Whole seconds and about now: a coarse clock, behind which a second change can hide.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let tick = SystemTime::UNIX_EPOCH + Duration::from_secs(now + 1);
        File::options().write(true).open(root.path("racy")).unwrap().set_modified(tick).unwrap();
        let mut shared = root.share_blind().await;
        shared.ready().await;
        shared.has(&[("racy", b"first")]).await;
        shared.stop().await;
        assert!(Cache::open(&root.0.path().join(".enxame")).load().is_empty());
    });
}

#[test]
fn when_the_tick_is_over_it_is_hashed_once_more_and_cached() {
    let mut library = Library::new(LibraryConfig { root: "nowhere".into(), watch: false, progress: None });
    let stamp = Stamp { device: 1, inode: 1, size: 5, mtime_ns: 0, ctime_ns: 0 };
    let entry = |bytes: &[u8], settled| Entry { stamp, proof: proof_of(bytes), settled };
    library.index.insert(name("racy"), entry(b"first", false));
    let look_again = Changes { unsettled: vec![(name("racy"), stamp)], ..Changes::default() };
    library.apply(Found { changes: look_again, skipped: vec![], unfinished: vec![] });
    assert_eq!(library.pending[SMALL], BTreeMap::from([(name("racy"), stamp)]));
    assert!(library.index.get(&name("racy")).is_some(), "it stays in the list meanwhile");

    library.pending = Default::default();
    library.hashing.insert(name("racy"), false);
    let result = Ok(Some(entry(b"other", true)));
    library.take_outcomes(vec![Outcome { name: name("racy"), stamp, result }]);
    assert_eq!(library.index.get(&name("racy")), Some(&entry(b"other", true)));
    assert!(library.cache_news[&name("racy")].is_some());
}

/// Row 2 of SECURITY.md: who swaps it back and forth does not keep it from being shared for ever.
#[test]
fn a_file_whose_place_was_taken_when_it_was_to_be_hashed_is_hashed_when_it_is_back() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fs::create_dir(path("real")).unwrap();
    fs::write(path("real/x"), "x").unwrap();
    fs::create_dir(path("of-another-kind")).unwrap();
    fs::create_dir(path("of-another-kind/x")).unwrap();
    fs::create_dir(path("empty")).unwrap();
    fs::write(path("file"), "").unwrap();
    symlink("real", path("link")).unwrap();
    fs::create_dir(path("of-a-link")).unwrap();
    symlink("../real/x", path("of-a-link/x")).unwrap();
    let folder = Folder::open(root.path()).unwrap();
    let (_, stamp) = folder.open_file(&name("real/x")).unwrap();
    for place in ["link", "of-a-link", "of-another-kind", "empty", "file", "nothing"] {
        let mut library =
            Library::new(LibraryConfig { root: "nowhere".into(), watch: false, progress: None });
        let (name, error) = (name("sub/x"), folder.open_file(&name(&format!("{place}/x"))).unwrap_err());
        library.hashing.insert(name.clone(), false);
        library.take_outcomes(vec![Outcome { name: name.clone(), stamp, result: Err(error) }]);
        let changes = Changes { fresh: vec![(name.clone(), stamp)], ..Changes::default() };
        library.apply(Found { changes, skipped: vec![], unfinished: vec![] });
        assert_eq!(library.pending[SMALL], BTreeMap::from([(name, stamp)]), "{place}");
    }
}

#[test]
fn a_long_first_scan_is_ready_with_what_it_has_and_says_how_much_is_left() {
    let mut library = Library::new(LibraryConfig { root: "nowhere".into(), watch: false, progress: None });
    let (sender, mut ready) = oneshot::channel();
    library.waiting_ready.push(sender);
    let stamp = |size| Stamp { device: 1, inode: size, size, mtime_ns: 0, ctime_ns: 0 };
    let entry = |bytes: &[u8]| Entry { stamp: stamp(5), proof: proof_of(bytes), settled: true };
    let changes = Changes {
        known: vec![(name("known"), entry(b"known"))],
        fresh: vec![(name("small"), stamp(5)), (name("large"), stamp(1 << 30))],
        ..Changes::default()
    };
    library.apply(Found { changes, skipped: vec![], unfinished: vec![] });
    library.be_ready();
    let scan = FirstScan { files: 1, bytes: 5, hashed: 0, skipped: 0, left: 2 };
    assert_eq!(ready.try_recv().unwrap(), Ok(scan));
    assert_eq!(library.queued_bytes, (1 << 30) + 5);

    let (small, stamp) = library.pending[SMALL].pop_first().unwrap();
    library.hashing.insert(small.clone(), false);
    let result = Ok(Some(entry(b"small")));
    library.take_outcomes(vec![Outcome { name: small.clone(), stamp, result }]);
    assert!(library.index.get(&small).is_some(), "it is in the list while the large one is not");
    assert_eq!(library.left(), 1);
}

#[test]
fn how_far_hashing_is_is_told_and_so_is_its_end() {
    run(|| async {
        let root = Root::new();
        let large = data(70 * SPAN + 1);
        root.write("large", &large);
        root.write("small", "12345");
        let (sender, mut told) = mpsc::channel(1000);
        let progress = Some(ProgressProbe(sender).start().recipient());
        let config = LibraryConfig { root: root.0.path().to_owned(), watch: false, progress };
        let library = Library::start(config, &Arbiter::current());
        let all = large.len() as u64 + 5;
        loop {
            let hashing = told.recv().await.unwrap();
            assert!(hashing.bytes <= all && hashing.of_bytes == all, "{hashing:?}");
            if hashing.left_files == 0 {
                assert_eq!(hashing.bytes, all);
                break;
            }
        }
        library.send(Stop).await.unwrap();
    });
}

#[test]
fn an_opened_file_knows_when_it_changed_and_a_stale_one_is_withdrawn() {
    run(|| async {
        let root = Root::new();
        root.write("a", "content");
        root.write("b", "content");
        let mut shared = root.share_blind().await;
        shared.ready().await;
        let opened = shared.open(b"content").await.unwrap();
        assert_eq!((opened.name.as_str(), opened.proof.id()), ("a", id_of(b"content")));
        assert!(opened.is_unchanged());
        root.write_now("a", "CONTENT");
        assert!(!opened.is_unchanged());
        // The other name still has it; the stale one goes and comes back as what it is now.
        assert_eq!(shared.open(b"content").await.unwrap().name.as_str(), "b");
        shared.has(&[("a", b"CONTENT"), ("b", b"content")]).await;
        fs::remove_file(root.path("b")).unwrap();
        assert!(matches!(shared.open(b"content").await, Err(OpenError::Missing)));
        assert!(matches!(shared.open(b"never there").await, Err(OpenError::Missing)));
        shared.has(&[("a", b"CONTENT")]).await;
        shared.stop().await;
    });
}

#[test]
fn a_suspected_file_is_withdrawn_at_once_and_comes_back_when_it_was_hashed() {
    run(|| async {
        let root = Root::new();
        root.write("a", "content");
        let mut shared = root.share_blind().await;
        shared.ready().await;
        shared.library.send(Suspect { id: id_of(b"content") }).await.unwrap();
        assert_eq!(shared.library.send(GetListings).await.unwrap(), []);
        shared.has(&[]).await;
        shared.has(&[("a", b"content")]).await;
        shared.stop().await;
    });
}

#[test]
fn a_finished_download_is_entered_without_being_hashed() {
    run(|| async {
        let root = Root::new();
        let bytes = data(SPAN + 1);
        let mut shared = root.share_blind().await;
        shared.ready().await;
        let folder = Folder::open(&root.path("")).unwrap();
        let part = PartFile::open(&folder, &name("sub/file"), &proof_of(&bytes)).unwrap();
        let geometry = *part.proof().geometry();
        for span in geometry.all_spans() {
            let begin = geometry.offset(span) as usize;
            assert!(part.store(span, &bytes[begin..begin + geometry.len_bytes(span)]).unwrap());
        }
        let proof = part.proof().clone();
        let stamp = part.finish(false).unwrap();
        let add = |stamp| AddFile { name: name("sub/file"), proof: proof.clone(), stamp };
        let other = Stamp { mtime_ns: 0, ..stamp };
        assert!(!shared.library.send(add(other)).await.unwrap(), "not the file that was downloaded");
        assert!(shared.library.send(add(stamp)).await.unwrap());
        shared.has(&[("sub/file", &bytes)]).await;
        let found = shared.library.send(FindById { id: id_of(&bytes) }).await.unwrap().unwrap();
        assert_eq!(found.name.as_str(), "sub/file");
        shared.stop().await;
        let mut again = root.share_blind().await;
        assert_eq!(again.ready().await.hashed, 0, "it was cached");
        again.stop().await;
    });
}

#[test]
fn a_folder_that_vanishes_is_shared_again_when_it_is_back() {
    run(|| async {
        let root = Root::new();
        root.write("a", "1");
        let mut shared = root.share().await;
        shared.ready().await;
        fs::rename(root.0.path().join("files"), root.0.path().join("elsewhere")).unwrap();
        shared.rescan().await;
        shared.has(&[]).await;
        assert!(!root.path("").exists(), "it is not made anew in place of what was there");
        fs::rename(root.0.path().join("elsewhere"), root.0.path().join("files")).unwrap();
        shared.rescan().await;
        shared.has(&[("a", b"1")]).await;
        // It is watched again, too.
        fs::remove_dir_all(root.path("")).unwrap();
        shared.rescan().await;
        shared.has(&[]).await;
        fs::create_dir(root.path("")).unwrap();
        shared.rescan().await;
        root.write_now("b", "2");
        shared.has(&[("b", b"2")]).await;
        shared.stop().await;
    });
}

#[test]
fn a_missing_folder_is_made_and_one_that_cannot_be_is_an_error() {
    run(|| async {
        let parent = tempfile::tempdir().unwrap();
        let config = LibraryConfig { root: parent.path().join("new/p1"), watch: true, progress: None };
        let library = Library::start(config.clone(), &Arbiter::current());
        assert_eq!(library.send(AwaitReady).await.unwrap(), Ok(FirstScan::default()));
        assert!(config.files().is_dir());
        library.send(Stop).await.unwrap();

        fs::write(parent.path().join("file"), "").unwrap();
        let config = LibraryConfig { root: parent.path().join("file/p1"), watch: true, progress: None };
        let library = Library::start(config.clone(), &Arbiter::current());
        let error = library.send(AwaitReady).await.unwrap().unwrap_err();
        assert_eq!(error.path, config.files());
        library.send(Stop).await.unwrap();
    });
}

/// A file that takes a while to hash and whose turn comes first.
fn put_a_large_one_in_front(root: &Root) {
    root.write("a", "");
    File::options().write(true).open(root.path("a")).unwrap().set_len(1 << 30).unwrap();
}

#[test]
fn what_is_asked_for_before_the_first_look_is_over_is_opened_when_it_was_found() {
    run(|| async {
        let root = Root::new();
        put_a_large_one_in_front(&root);
        let [large, small, none] = [70 * SPAN, 10, 11].map(data);
        root.write("z", &large);
        root.write("small", &small);
        let mut shared = root.share().await;
        let (opened, other, nothing) =
            tokio::join!(shared.open(&large), shared.open(&small), shared.open(&none));
        assert_eq!([opened.unwrap(), other.unwrap()].map(|file| file.name.clone()), ["z", "small"].map(name));
        assert!(matches!(nothing, Err(OpenError::Missing)));
        assert_eq!(shared.ready().await.files, 3, "what is not there is said when all is known");
        shared.stop().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_first_look_that_does_not_end_is_waited_for_so_long_and_no_longer() {
    let start = tokio::time::Instant::now();
    let (is_over, found) = oneshot::channel();
    drop(is_over);
    until_found(found).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    let (_looking, found) = oneshot::channel();
    until_found(found).await;
    assert_eq!(start.elapsed(), OPEN_PATIENCE);
}

#[test]
fn of_small_files_as_much_is_read_in_one_go_as_has_room_and_the_others_are_left() {
    run(|| async {
        let root = Root::new();
        let half = MAX_SMALL_READ_BYTES as usize / 2;
        let contents = [data(half - 1), data(half), vec![7; 2], vec![8; 1], data(SPAN + 1)];
        for (number, content) in contents.iter().enumerate() {
            root.write(&number.to_string(), content);
        }
        let mut shared = root.share().await;
        shared.ready().await;
        let ids = contents.iter().map(|content| id_of(content)).collect();
        let read = shared.library.send(ReadSmall { ids }).await.unwrap();
        let [first, second, third, fourth, large] = &contents;
        let whole = [Some(first), Some(second), None, Some(fourth), None].map(|content| content.cloned());
        assert_eq!(read, whole, "{} and {} do not fit, {} are several spans", third.len(), half, large.len());
        shared.stop().await;
    });
}

#[test]
fn who_waits_for_a_file_of_a_library_that_stops_is_told_that_it_is_missing() {
    run(|| async {
        let root = Root::new();
        put_a_large_one_in_front(&root);
        let shared = root.share().await;
        let waiting = actix_rt::spawn(shared.library.send(OpenFile { id: id_of(b"none") }));
        shared.library.send(GetListings).await.unwrap();
        shared.stop().await;
        assert!(matches!(waiting.await.unwrap(), Ok(Err(OpenError::Missing))));
    });
}

#[test]
fn stopping_ends_the_hashing_and_answers_everybody() {
    run(|| async {
        let root = Root::new();
        for number in 0..50 {
            root.write(&format!("{number}"), data(1000 + number));
        }
        root.write("large", data(100 * SPAN));
        let shared = root.share().await;
        let ready = actix_rt::spawn(shared.library.send(AwaitReady));
        let rescan = actix_rt::spawn(shared.library.send(Rescan));
        let second = actix_rt::spawn(shared.library.send(Stop));
        shared.stop().await;
        ready.await.unwrap().unwrap().ok();
        rescan.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        // The folder is free: the next one has the cache.
        let mut again = root.share().await;
        assert_eq!(again.ready().await.files, 51);
        again.stop().await;
    });
}
