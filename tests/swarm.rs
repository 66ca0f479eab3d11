//! Many peers, one file, all at the same time.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use support::files::SPAN;
use support::job::{Watched, assert_sums_up, share, what};
use support::swarm::{NEVER, RealPeer, RealTracker};
use support::{Content, system_test};

#[test]
fn seven_peers_fetch_from_one_at_the_same_time_and_all_have_the_same_file() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), 40 * SPAN + 4097);
        let tracker = RealTracker::start(&test, NEVER);
        let mut peers = Vec::new();
        for n in 1..=8 {
            let fill = |files: &std::path::Path| {
                if n == 1 {
                    content.write(files, "dir/the file");
                }
            };
            peers.push(RealPeer::start(&test, tracker.address(), &format!("p{n}"), fill).await);
        }
        let fetch = |peer: &RealPeer| {
            let (events, watched) = Watched::start(&test);
            (peer.peer.fetch(vec![what("dir/the file")], false, events), watched)
        };
        let jobs: Vec<_> = peers[1..].iter().map(fetch).collect();
        for ((job, watched), peer) in jobs.into_iter().zip(&peers[1..]) {
            test.wait_for(format!("the job of {}", peer.peer.id()), job.wait()).await;
            drop(job);
            let told = watched.end().await;
            assert!(content.stands_at(&peer.files.join("dir/the file")), "{}", peer.peer.id());
            assert_sums_up(told.done());
            assert_eq!(share(told.done(), peer.peer.id().as_str()), 0, "nobody fetches from itself");
            assert_eq!(support::job::part_files(&peer.files), Vec::<std::path::PathBuf>::new());
        }
        let all_have_it = |found: &[enxame_actors::wire::tracker::Candidate]| {
            matches!(found, [one] if one.id == content.id
                && one.holder_count == 8
                && one.holders.iter().all(|holder| holder.complete))
        };
        tracker.until("eight complete holders", "dir/the file", all_have_it).await;
        for peer in peers {
            peer.stop().await;
        }
        tracker.stop().await;
    });
}
