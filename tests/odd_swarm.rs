//! A swarm of which half is behind ways that flip bits and cut connections.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use enxame_actors::wire::tracker::Candidate;
use support::files::SPAN;
use support::job::{Told, Watched, assert_sums_up, part_files, share, what};
use support::proxy::{End, Traffic, Way};
use support::swarm::{Detour, NEVER, RealPeer, RealTracker};
use support::{Content, Fault, FaultProxy, Test, system_test_within};

const GETTERS: usize = 32;

/// Of the origin, per connection: so slow that the getters have to fetch from each other.
const ORIGIN_BYTES_S: u64 = 1 << 20;

/// What is between an odd peer and those who fetch from it: a bit is flipped in one span of twenty, and
/// one connection of twenty is cut in its first spans.
fn oddities(rng: &mut fastrand::Rng) -> Vec<Fault> {
    let noise = Way { noise: Some((SPAN as u64, 0.05)), ..Way::default() };
    let mut script = vec![Fault::to_client(noise.clone()); 20];
    let cut = (rng.u64(..4 * SPAN as u64), if rng.bool() { End::Fin } else { End::Reset });
    script[rng.usize(..20)] = Fault::to_client(Way { end: Some(cut), ..noise });
    script
}

/// A peer that all others reach through a proxy with this script.
struct Behind {
    peer: RealPeer,
    proxy: FaultProxy,
    _detour: Detour,
}

impl Behind {
    async fn start(
        test: &Test,
        tracker: &RealTracker,
        id: &str,
        script: Vec<Fault>,
        fill: impl FnOnce(&Path),
    ) -> Behind {
        let mut detour = Detour::start(test, tracker.address(), script);
        let peer = RealPeer::start(test, detour.tracker(), id, fill).await;
        let proxy = detour.proxy().await;
        Behind { peer, proxy, _detour: detour }
    }
}

/// What a getter tells of those that it fetched from.
#[derive(Default, Debug)]
struct Tally {
    from_origin: u64,
    from_honest: u64,
    from_odd: u64,
    wasted: u64,
    odd_dropped_for_lying: usize,
    odd_dropped_for_another_reason: usize,
}

impl Tally {
    /// Adds what this getter tells; nobody who is honest may have been dropped for lying.
    fn add(&mut self, getter: &str, told: &Told, honest: &[RealPeer], odd: &[Behind]) {
        let done = told.done();
        self.wasted += done.wasted_bytes;
        self.from_origin += share(done, "origin");
        let honest: Vec<&str> = honest.iter().map(|peer| peer.peer.id().as_str()).collect();
        self.from_honest += honest.iter().map(|source| share(done, source)).sum::<u64>();
        for source in honest.into_iter().chain(["origin"]) {
            assert_eq!(told.lies(source), [""; 0], "{getter} dropped {source} for lying");
        }
        for source in odd.iter().map(|odd| odd.peer.peer.id().as_str()) {
            self.from_odd += share(done, source);
            let lies = told.lies(source).len();
            self.odd_dropped_for_lying += lies;
            self.odd_dropped_for_another_reason += told.dropped(source).len() - lies;
        }
    }
}

#[test]
fn all_of_a_swarm_get_the_file_though_every_second_peer_is_odd() {
    system_test_within(Duration::from_secs(120), |test| async move {
        let mut rng = test.rng();
        let content = Content::random(&mut rng, 128 * SPAN - 4097);
        let tracker = RealTracker::start(&test, NEVER);
        let slow = Fault::to_client(Way { rate_bytes_s: Some(ORIGIN_BYTES_S), ..Way::default() });
        let fill = |files: &Path| drop(content.write(files, "dir/x"));
        let origin = Behind::start(&test, &tracker, "origin", vec![slow], fill).await;
        let (mut honest, mut odd) = (Vec::new(), Vec::new());
        for n in (1..=GETTERS).step_by(2) {
            honest.push(RealPeer::start(&test, tracker.address(), &format!("p{n}"), |_| {}).await);
            let id = format!("p{}", n + 1);
            odd.push(Behind::start(&test, &tracker, &id, oddities(&mut rng), |_| {}).await);
        }
        let fetch = |peer: &RealPeer| {
            let (events, watched) = Watched::start(&test);
            let job = peer.peer.fetch(vec![what("dir/x")], false, events);
            (peer.peer.id().to_string(), peer.files.clone(), job, watched)
        };
        let getters = honest.iter().chain(odd.iter().map(|odd| &odd.peer));
        let jobs: Vec<_> = getters.map(fetch).collect();
        let mut tally = Tally::default();
        for (getter, files, job, watched) in jobs {
            test.wait_for(format!("the job of {getter}"), job.wait()).await;
            drop(job);
            let told = watched.end().await;
            assert!(content.stands_at(&files.join("dir/x")), "{getter}");
            assert_eq!(part_files(&files), Vec::<PathBuf>::new(), "{getter}");
            assert_sums_up(told.done());
            tally.add(&getter, &told, &honest, &odd);
        }
        let traffic: Vec<Traffic> = odd.iter().map(|odd| odd.proxy.traffic()).collect();
        let flips: u64 = traffic.iter().map(|traffic| traffic.flips).sum();
        let connections: u64 = traffic.iter().map(|traffic| traffic.connections).sum();
        println!("{GETTERS} files; {connections} connections to odd peers, {flips} bits flipped; {tally:?}");
        assert!(tally.odd_dropped_for_lying > 0 && tally.odd_dropped_for_another_reason > 0, "{tally:?}");
        let all_have_it = |found: &[Candidate]| {
            matches!(found, [one] if one.holder_count as usize == GETTERS + 1
                && one.holders.iter().all(|holder| holder.complete))
        };
        tracker.until("that all have all of it", "dir/x", all_have_it).await;
        for peer in honest {
            peer.stop().await;
        }
        for Behind { peer, .. } in odd {
            peer.stop().await;
        }
        origin.peer.stop().await;
        tracker.stop().await;
    });
}
