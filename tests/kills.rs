//! `kill -9`, at random moments, of whoever takes part: getters, trackers, holders. Nobody ever shows a
//! wrong file, and what was done is not done again.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use enxame_actors::base::limits::TRACKER_RETRY_MAX;
use enxame_actors::peer::events::JobEvent;
use enxame_actors::peer::library::ListChanged;
use enxame_actors::peer::tracker_client::TrackerClients;
use enxame_actors::peer::trackers::{LeaveAll, Trackers, TrackersConfig};
use enxame_actors::wire::Hello;
use enxame_actors::wire::tracker as wire;
use enxame_actors::wire::tracker::Listing;
use rustix::process::{Signal, kill_process};
use support::binary::{Process, enxame, ran};
use support::files::SPAN;
use support::job::{Running, Trackers as _, Watched, assert_sums_up, into_folder, part_files, what};
use support::proxy::{End, RefusingAddress, Way};
use support::swarm::{RealPeer, RealTracker};
use support::tracker::{Script, candidate, slow};
use support::{
    Behaviour, Content, FakeHolder, FakeTracker, Fault, FaultProxy, Test, system_test, system_test_within,
};

/// What a kill may cost at most, in bytes: a window of spans that were asked for, and what was in flight
/// in sockets and buffers.
const LOST_BY_A_KILL: u64 = 8 * SPAN as u64;

/// Lets some moments pass that nothing is waited for in: any moment is right, such as one while
/// somebody starts or renames.
async fn up_to(rng: &mut fastrand::Rng, most: Duration) {
    let until = Instant::now() + most.mul_f64(rng.f64());
    while Instant::now() < until {
        tokio::task::yield_now().await;
    }
}

// ---- a getter ----

fn getter(tracker: &FakeTracker, to: &Path) -> Command {
    let mut command = enxame(["get", "dir/x", "--json", "--tracker", &tracker.address().to_string(), "-o"]);
    command.arg(to);
    command
}

/// Row 18 of SECURITY.md.
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
            let before = content.right_on_disk(&to);
            let delivered = proxy.traffic().to_client;
            let getter = Process::start(&test, getter(&tracker, &to));
            // Anywhere from before the first byte to behind the last: a few runs share one file.
            let until = delivered + rng.u64(0..=(size - before).min(size / 3));
            proxy.until(|traffic| traffic.to_client >= until).await;
            up_to(&mut rng, Duration::from_millis(80)).await;
            kills += 1;
            let is_done = getter.kill().await.success();
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
            let gained = content.right_on_disk(&to) - before;
            let lost_now = delivered.saturating_sub(gained);
            assert!(lost_now <= LOST_BY_A_KILL, "{lost_now} bytes came and are not there");
            lost += lost_now;
            worst = worst.max(lost_now);
        }
        let before = content.right_on_disk(&to);
        let last = ran(&test, getter(&tracker, &to)).await;
        assert_eq!(last.code, Some(0), "{last:?}");
        let done = last.only_record("done");
        assert_eq!(done["kept_bytes"], before, "it says how much it kept");
        assert_eq!(done["fetched_bytes"], size - before);
        assert!(content.stands_at(&to.join("x")));
        println!("{kills} kills, {files} files finished by one; lost {lost} bytes in all, at most {worst}");
    });
}

// ---- a tracker ----

/// Starts a tracker there.
async fn tracker_at(test: &Test, place: &RefusingAddress) -> Process {
    let listen = place.address().to_string();
    let mut tracker = Process::start(test, enxame(["tracker", "--json", "--listen", &listen]));
    assert_eq!(tracker.ready().await, place.address());
    tracker
}

/// Asks until the tracker knows all of these, each with at least so many files.
async fn until_known(test: &Test, tracker: &RefusingAddress, expected: &[(&str, u32)]) {
    let hello = Hello::new("asker".parse().unwrap());
    let mut asker = TrackerClients::connect(&[tracker.address().into()], &hello).await;
    let asking = async {
        loop {
            let mut known = Vec::new();
            asker.peers(|peer| known.push((peer.peer.to_string(), peer.files))).await;
            assert!(!asker.is_none_left(), "{:?}", asker.failures());
            let is_known = |(peer, files): &(&str, u32)| {
                known.iter().any(|(known, listed)| known == peer && listed >= files)
            };
            if expected.iter().all(is_known) {
                return;
            }
        }
    };
    test.wait_for("the tracker to know all peers again", asking).await;
}

/// A back-off that began when the tracker was not there yet, and a registration on a busy machine.
const KNOWN_WITHIN: Duration = TRACKER_RETRY_MAX.saturating_add(Duration::from_secs(3));

/// A tracker, a slow holder and three peers; the tracker is killed so often while a download runs, another
/// one is wished for while it is dead, and it comes back empty. How long it took at most until it knew
/// all again.
async fn kill_a_tracker(test: &Test, mut rng: fastrand::Rng, kills: usize) -> Duration {
    // Two for each kill: one that is being fetched when it comes, and one that is wanted then.
    let contents: Vec<Content> = (0..2 * kills).map(|_| Content::random(&mut rng, 12 * SPAN + 1)).collect();
    let place = RefusingAddress::new();
    let mut tracker = tracker_at(test, &place).await;

    // The holder registers as a peer does.
    let holder = FakeHolder::start(test, "far", &contents, Behaviour::Honest);
    let proxy = FaultProxy::start(test, holder.address(), vec![Fault::to_client(Way::rate(8 << 20))]);
    let link = Trackers::start(TrackersConfig {
        trackers: place.address().addresses(),
        us: "far".parse().unwrap(),
        port: proxy.address().port(),
        rescan: None,
        is_lazy: false,
        news: None,
        memory: None,
    });
    let listing = |(n, content): (usize, &Content)| {
        let name = format!("f{n}").parse().unwrap();
        Listing { name, id: content.id, size: content.size(), complete: true }
    };
    let added = contents.iter().enumerate().map(listing).collect();
    link.do_send(ListChanged { added, removed: Vec::new() });
    let mut peers = Vec::new();
    let mut living = vec![("far", contents.len() as u32)];
    for id in ["p1", "p2", "p3"] {
        let mark = Content::random(&mut rng, 1000);
        let fill = |files: &Path| drop(mark.write(files, &format!("mark of {id}")));
        peers.push(RealPeer::start(test, place.address(), id, fill).await);
        living.push((id, 1));
    }
    until_known(test, &place, &living).await;

    let (mut running, mut wanted, mut slowest) = (Vec::new(), Vec::new(), Duration::ZERO);
    for (kill, two) in contents.chunks(2).enumerate() {
        let (to, name) = (test.folder(), format!("f{}", 2 * kill));
        let delivered = proxy.traffic().to_client;
        let mut fetch = Running::start(test, place.address(), vec![into_folder(&name, &to)]);
        fetch.watched.until("the answer", |event| matches!(event, JobEvent::Found { .. })).await;
        // Nobody but the holder has it, so all of it comes this way.
        let until = delivered + rng.u64(0..=two[0].size());
        proxy.until(|traffic| traffic.to_client >= until).await;
        up_to(&mut rng, Duration::from_millis(80)).await;
        tracker.kill().await;
        running.push((fetch, to.join(name), &two[0]));

        let (peer, name) = (&peers[kill % peers.len()], format!("f{}", 2 * kill + 1));
        let (events, watched) = Watched::start(test);
        let job = peer.peer.fetch(vec![what(&name)], false, events);
        wanted.push((job, watched, peer.files.join(name), &two[1]));
        up_to(&mut rng, Duration::from_millis(300)).await;
        tracker = tracker_at(test, &place).await;
        let started = Instant::now();
        until_known(test, &place, &living).await;
        slowest = slowest.max(started.elapsed());
        assert!(slowest < KNOWN_WITHIN, "all known again after {slowest:?}");
        for (_, path, content) in &running {
            assert!(!path.exists() || content.stands_at(path), "a final name shows a wrong file");
        }
    }

    for (fetch, path, content) in running {
        let told = fetch.finish().await;
        assert_eq!(told.dropped("far"), Vec::<&str>::new());
        assert_sums_up(told.done());
        assert!(content.stands_at(&path));
    }
    for (job, watched, path, content) in wanted {
        test.wait_for(format!("{}", path.display()), job.wait()).await;
        drop(job);
        let told = watched.end().await;
        assert!(matches!(told.all_done()[..], [done] if done.id == content.id), "{told:?}");
        assert!(content.stands_at(&path));
    }
    link.send(LeaveAll).await.unwrap();
    for peer in peers {
        peer.stop().await;
    }
    tracker.kill().await;
    slowest
}

#[test]
fn a_tracker_that_is_killed_at_any_moment_knows_all_living_peers_again_and_stops_no_download() {
    system_test_within(Duration::from_secs(180), |test| async move {
        // Two of them, each five times: who loses its tracker more often waits longer each time.
        let (first, second) =
            tokio::join!(kill_a_tracker(&test, test.rng(), 5), kill_a_tracker(&test, test.rng(), 5),);
        println!("10 kills of a tracker; all peers known again after {:?} at most", first.max(second));
    });
}

// ---- a holder ----

/// A peer of the binary, which is reached through a proxy.
struct Holder {
    command: Box<dyn Fn() -> Command>,
    proxy: FaultProxy,
    /// `None` while it is dead.
    process: Option<Process>,
    id: &'static str,
    /// It is its own, whether it listens or not.
    _place: RefusingAddress,
}

impl Holder {
    /// Starts it in this root, behind such a way.
    async fn start(
        test: &Test,
        tracker: &FakeTracker,
        id: &'static str,
        root: &Path,
        way: Way,
        more: &'static [&str],
    ) -> Holder {
        let place = RefusingAddress::new();
        let proxy = FaultProxy::start(test, place.address(), vec![Fault::to_client(way)]);
        let (tracker, listen) = (tracker.address().to_string(), place.address().to_string());
        let root = root.to_owned();
        let command = move || {
            let mut command = enxame(["peer", id, "--json", "--tracker", &tracker, "--listen", &listen]);
            command.args(more).arg("--root").arg(&root);
            command
        };
        let mut holder = Holder { command: Box::new(command), proxy, process: None, id, _place: place };
        holder.start_again(test).await;
        holder
    }

    /// How a tracker tells of it.
    fn listed(&self, complete: bool) -> wire::Holder {
        wire::Holder { peer: self.id.parse().unwrap(), address: self.proxy.address(), complete }
    }

    async fn kill(&mut self) {
        self.process.take().expect("it lives").kill().await;
    }

    /// Starts it, in the place where it was.
    async fn start_again(&mut self, test: &Test) {
        let process = self.process.insert(Process::start(test, (self.command)()));
        process.ready().await;
    }
}

/// Waits until the two have delivered so many bytes together.
async fn until_delivered(holders: &[Holder; 2], bytes: u64) {
    loop {
        let [first, second] = holders.each_ref().map(|holder| holder.proxy.traffic().to_client);
        if first + second >= bytes {
            return;
        }
        tokio::select! {
            _ = holders[0].proxy.until(|traffic| traffic.to_client > first) => {}
            _ = holders[1].proxy.until(|traffic| traffic.to_client > second) => {}
        }
    }
}

fn delivered(holders: &[Holder; 2]) -> u64 {
    holders.iter().map(|holder| holder.proxy.traffic().to_client).sum()
}

#[test]
fn holders_that_are_killed_in_the_middle_of_serving_and_come_back_cost_a_window_at_most() {
    const KILLS: usize = 10;
    /// Of one download.
    const KILLS_AT_ONCE: usize = 4;
    system_test_within(Duration::from_secs(180), |test| async move {
        let mut rng = test.rng();
        let content = Content::random(&mut rng, 95 * SPAN + 4097);
        let size = content.size();
        let tracker = FakeTracker::start(&test, Script::default());
        let mut holders = Vec::new();
        for id in ["h1", "h2"] {
            let root = test.folder();
            content.write(&RealPeer::files_of(&root, id), "dir/x");
            holders.push(Holder::start(&test, &tracker, id, &root, Way::rate(8 << 20), &[]).await);
        }
        let Ok(mut holders) = <[Holder; 2]>::try_from(holders) else { unreachable!() };
        let listed = holders.iter().map(|holder| holder.listed(true)).collect();
        tracker.change(|script| script.candidates = vec![candidate(&content, &["dir/x"], listed)]);

        let (mut kills, mut files, mut lost, mut worst) = (0, 0, 0, 0);
        while kills < KILLS {
            let to = test.folder();
            let before = delivered(&holders);
            let running = Running::start(&test, tracker.address(), vec![into_folder("dir/x", &to)]);
            let kills_here = KILLS_AT_ONCE.min(KILLS - kills);
            for _ in 0..kills_here {
                let so_far = delivered(&holders);
                let left = size.saturating_sub(so_far - before);
                until_delivered(&holders, so_far + rng.u64(0..=left.min(size / 3))).await;
                up_to(&mut rng, Duration::from_millis(80)).await;
                // One of them lives at any time, so nothing is an excuse.
                let holder = &mut holders[rng.usize(..2)];
                holder.kill().await;
                up_to(&mut rng, Duration::from_millis(200)).await;
                holder.start_again(&test).await;
                kills += 1;
            }
            let told = running.finish().await;
            assert!(content.stands_at(&to.join("x")));
            assert_sums_up(told.done());
            for reason in ["h1", "h2"].iter().flat_map(|id| told.dropped(id)) {
                assert!(!reason.contains("wrong") && !reason.contains("broke"), "{reason}");
            }
            let twice = delivered(&holders) - before - size;
            let lost_here = twice.saturating_sub(told.done().wasted_bytes);
            // What is asked of two sources at the end counts too.
            let may_be_lost = (kills_here as u64 + 1) * LOST_BY_A_KILL;
            assert!(lost_here <= may_be_lost, "{lost_here} bytes fetched again after {kills_here} kills");
            lost += lost_here;
            worst = worst.max(lost_here / kills_here as u64);
            files += 1;
        }
        println!(
            "{kills} kills of holders, {files} downloads; {lost} bytes fetched again, at most {worst} per kill"
        );
        for holder in &mut holders {
            holder.kill().await;
        }
    });
}

#[test]
fn a_holder_that_is_killed_while_it_downloads_goes_on_from_its_disk_and_serves_on() {
    const KILLS: u64 = 5;
    system_test_within(Duration::from_secs(180), |test| async move {
        let mut rng = test.rng();
        let content = Content::random(&mut rng, 95 * SPAN + 4097);
        let size = content.size();
        // Who wants it knows of nobody but the one between, which fetches from a slow holder. It has the
        // slow one's id, so that it is not told of it either.
        let (_holder, source, behind) = slow(&test, &content, 16 << 20);
        let root = test.folder();
        let more = &["--get", "dir/x"];
        let mut between = Holder::start(&test, &behind, "between", &root, Way::default(), more).await;
        let known = vec![candidate(&content, &["dir/x"], vec![between.listed(false)])];
        let tracker = FakeTracker::start(&test, Script { candidates: known, ..Script::default() });
        let getter = RealPeer::start(&test, tracker.address(), "far", |_| {}).await;
        let (events, watched) = Watched::start(&test);
        let job = getter.peer.fetch(vec![what("dir/x")], false, events);

        let folder = RealPeer::files_of(&root, "between").join("dir");
        let (mut kept, mut is_there) = (0, false);
        let mut moments: Vec<u64> = (0..KILLS).map(|_| rng.u64(0..=size)).collect();
        moments.sort_unstable();
        for moment in moments {
            source.until(|traffic| traffic.to_client >= moment).await;
            up_to(&mut rng, Duration::from_millis(80)).await;
            between.kill().await;
            is_there = folder.join("x").exists();
            assert!(!is_there || content.stands_at(&folder.join("x")), "a final name shows a wrong file");
            let right = content.right_on_disk(&folder);
            assert!(is_there || right >= kept, "what was had is had");
            kept = right;
            between.start_again(&test).await;
        }
        if !is_there {
            let done = between.process.as_mut().unwrap().until("done").await.pop().unwrap();
            assert_eq!(done["kept_bytes"], kept, "{done}");
            assert!(content.stands_at(&folder.join("x")));
        }
        test.wait_for("the job behind it", job.wait()).await;
        drop(job);
        let told = watched.end().await;
        assert!(matches!(told.all_done()[..], [done] if done.id == content.id), "{told:?}");
        assert!(content.stands_at(&getter.files.join("dir/x")));
        let again = [&source, &between.proxy].map(|proxy| proxy.traffic().to_client - size);
        assert!(again.iter().all(|again| *again <= KILLS * LOST_BY_A_KILL), "fetched again: {again:?}");
        println!(
            "{KILLS} kills; fetched again by the killed one and by who fetches from it: {again:?} bytes"
        );
        getter.stop().await;
        between.kill().await;
    });
}

/// Row 20 of SECURITY.md.
#[test]
fn the_dead_the_frozen_and_what_was_removed_are_gone_from_the_answers_in_the_promised_time() {
    const INTERVAL: Duration = Duration::from_secs(2);
    /// For timers and messages of a busy machine.
    const SLACK: Duration = Duration::from_secs(1);
    system_test(|test| async move {
        let mut rng = test.rng();
        let tracker = RealTracker::start(&test, INTERVAL);
        let address = tracker.address().to_string();
        let mut peers = Vec::new();
        for id in ["killed", "frozen", "living"] {
            let root = test.folder();
            let files = RealPeer::files_of(&root, id);
            Content::random(&mut rng, 1000).write(&files, id);
            let mut command = enxame(["peer", id, "--json", "--tracker", &address, "--root"]);
            command.arg(&root).args(["--listen", "127.0.0.1:0"]);
            let mut process = Process::start(&test, command);
            process.ready().await;
            tracker.until("it", id, |found| found.len() == 1).await;
            peers.push((process, files.join(id)));
        }
        let Ok([(killed, _), (frozen, _), (living, file)]) = <[_; 3]>::try_from(peers) else {
            unreachable!()
        };
        let gone = async |id: &str| {
            let begun = Instant::now();
            tracker.until("nobody", id, <[_]>::is_empty).await;
            begun.elapsed()
        };
        kill_process(frozen.pid(), Signal::STOP).unwrap();
        let silent = gone("frozen");
        let others = async {
            up_to(&mut rng, Duration::from_millis(500)).await;
            killed.kill().await;
            let closed = gone("killed").await;
            fs::remove_file(&file).unwrap();
            (closed, gone("living").await)
        };
        let (silent, (closed, removed)) = tokio::join!(silent, others);
        println!(
            "gone from WHO_HAS: a killed peer after {closed:?}, a removed file after {removed:?}, a frozen peer \
             after {silent:?} at an interval of {INTERVAL:?}"
        );
        assert!(closed < SLACK, "its connection was closed: {closed:?}");
        assert!(removed < Duration::from_secs(1), "{removed:?}");
        assert!(silent < 2 * INTERVAL + SLACK, "{silent:?}");
        frozen.kill().await;
        living.kill().await;
        tracker.stop().await;
    });
}

// ---- three of four holders ----

/// What a job told of its progress, with the time.
struct Trace {
    took: Duration,
    /// The longest time in which nothing came.
    longest_pause: Duration,
}

/// Fetches it from holders behind these scripts.
async fn trace(test: &Test, content: &Content, scripts: Vec<Vec<Fault>>) -> Trace {
    let holders: Vec<(FakeHolder, FaultProxy)> = scripts
        .into_iter()
        .enumerate()
        .map(|(n, script)| {
            let all = std::slice::from_ref(content);
            let holder = FakeHolder::start(test, &format!("h{n}"), all, Behaviour::Honest);
            let proxy = FaultProxy::start(test, holder.address(), script);
            (holder, proxy)
        })
        .collect();
    let listed = holders.iter().map(|(holder, proxy)| holder.listed_at(proxy.address())).collect();
    let candidates = vec![candidate(content, &["x"], listed)];
    let tracker = FakeTracker::start(test, Script { candidates, ..Script::default() });
    let to = test.folder();
    let begun = Instant::now();
    let mut running = Running::start(test, tracker.address(), vec![into_folder("x", &to)]);
    let (mut moved_at, mut had, mut longest_pause) = (begun, 0, Duration::ZERO);
    loop {
        let event = running.watched.until("progress, or the end", |_| true).await;
        let (have, is_over) = match event {
            JobEvent::Progress(now) => (now.have_bytes, false),
            JobEvent::Done(done) => (done.size, true),
            JobEvent::Failed { error, .. } => panic!("{error:?}"),
            _ => continue,
        };
        if have > had || is_over {
            longest_pause = longest_pause.max(moved_at.elapsed());
            (moved_at, had) = (Instant::now(), have);
        }
        if is_over {
            break;
        }
    }
    let took = begun.elapsed();
    running.finish().await;
    assert!(content.stands_at(&to.join("x")));
    Trace { took, longest_pause }
}

/// How a holder dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// Its process is killed: connections are reset, and nobody takes new ones.
    Killed,
    /// Its machine loses power: nothing moves, and nothing is said.
    NoPower,
}

#[test]
fn when_three_of_four_holders_die_the_last_one_alone_sets_the_time_and_nothing_pauses() {
    const RATE_BYTES_S: u64 = 8 << 20;
    system_test_within(Duration::from_secs(180), |test| async move {
        let mut rng = test.rng();
        let content = Content::random(&mut rng, 192 * SPAN + 1);
        let living = || vec![Fault::to_client(Way::rate(RATE_BYTES_S))];
        let alone = trace(&test, &content, vec![living()]).await;
        println!("one holder alone: {:?}, longest pause {:?}", alone.took, alone.longest_pause);
        for death in [Death::Killed, Death::NoPower] {
            // Each sends about a quarter if it lives that long.
            let moments: Vec<u64> = (0..3).map(|_| rng.u64(0..content.size() / 4)).collect();
            let scripts = moments.iter().map(|moment| {
                let (end, dead) = match death {
                    Death::Killed => (End::Reset, Fault::refuse()),
                    Death::NoPower => (End::BlackHole, Fault::black_hole()),
                };
                let way = Way { rate_bytes_s: Some(RATE_BYTES_S), ..Way::ends(*moment, end) };
                let mut script = vec![dead; 100];
                script[0] = Fault::to_client(way);
                script
            });
            let four = trace(&test, &content, scripts.chain([living()]).collect()).await;
            let ratio = four.took.as_secs_f64() / alone.took.as_secs_f64();
            println!(
                "three of four {death:?} after {moments:?} bytes: {:?}, {ratio:.2} of that; longest pause {:?}",
                four.took, four.longest_pause
            );
            assert!(ratio <= 1.3, "{ratio:.2} times what the last one alone needs");
            assert!(four.longest_pause <= Duration::from_secs(5), "{:?}", four.longest_pause);
        }
    });
}
