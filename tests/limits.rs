//! Limits on what a process sends and receives, kept for all connections together.
//!
//! What is promised is a rate, so these tests measure one: what goes through in ten seconds, from a
//! moment on at which it flows.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::cell::Cell;
use std::time::{Duration, Instant};

use enxame_actors::base::ByteRate;
use enxame_actors::base::limits::{MAX_REQUEST_SPANS, SOURCE_DEAD_TIMEOUT};
use enxame_actors::peer::RateLimits;
use enxame_actors::peer::events::{JobEvent, SourceState};
use support::files::SPAN;
use support::getter::{self, RawGetter};
use support::job::{Running, assert_sums_up, into_folder};
use support::swarm::{NEVER, RealPeer, RealTracker};
use support::{Content, system_test};

/// Long enough that what goes through at once at the beginning does not count.
const WINDOW: Duration = Duration::from_secs(10);
const RATE_BYTES_S: u64 = 2 << 20;
/// What is sent in the window, and some time before and behind it.
const SPANS: usize = 104;

fn limit(bytes_s: u64) -> Option<ByteRate> {
    Some(ByteRate::new(bytes_s).unwrap())
}

/// Finds out how much went through in [`WINDOW`], from what has gone through by now.
#[derive(Default)]
struct Meter {
    begun: Option<(Instant, u64)>,
}

impl Meter {
    /// Bytes per second, when the window is over. It begins when a second's bytes have gone through.
    fn measure(&mut self, bytes: u64) -> Option<f64> {
        let now = Instant::now();
        match self.begun {
            None if bytes >= RATE_BYTES_S => self.begun = Some((now, bytes)),
            Some((begun, before)) if now - begun >= WINDOW => {
                return Some((bytes - before) as f64 / (now - begun).as_secs_f64());
            }
            _ => {}
        }
        None
    }
}

#[track_caller]
fn assert_is_the_limit(bytes_s: f64) {
    let ratio = bytes_s / RATE_BYTES_S as f64;
    println!("{bytes_s:.0} bytes per second, {ratio:.4} of the limit");
    assert!((0.95..=1.05).contains(&ratio), "{bytes_s} bytes per second are {ratio} of the limit");
}

#[test]
fn all_uploads_of_a_peer_together_keep_the_limit() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), SPANS * SPAN);
        let tracker = RealTracker::start(&test, NEVER);
        let limits = RateLimits { upload: limit(RATE_BYTES_S), download: None };
        let fill = |files: &std::path::Path| drop(content.write(files, "file"));
        let peer = RealPeer::start_limited(&test, tracker.address(), "p1", limits, fill).await;
        let (bytes, moved) = (Cell::new(0), tokio::sync::Notify::new());
        let mut meter = Meter::default();
        let fetch = async || {
            let mut getter = RawGetter::greeted(&test, peer.peer.address()).await;
            let requests: Vec<_> = (0..SPANS as u32)
                .step_by(MAX_REQUEST_SPANS)
                .map(|first| {
                    getter::get(&content, first..(first + MAX_REQUEST_SPANS as u32).min(SPANS as u32))
                })
                .collect();
            getter.say(&requests).await;
            loop {
                let read = getter.pass_over().await as u64;
                bytes.set(bytes.get() + read);
                moved.notify_one();
            }
        };
        let measured = async {
            loop {
                moved.notified().await;
                if let Some(bytes_s) = meter.measure(bytes.get()) {
                    return bytes_s;
                }
            }
        };
        let bytes_s = tokio::select! {
            bytes_s = measured => bytes_s,
            ((), (), ()) = async { tokio::join!(fetch(), fetch(), fetch()) } => unreachable!(),
        };
        assert_is_the_limit(bytes_s);
        peer.stop().await;
        tracker.stop().await;
    });
}

#[test]
fn all_sources_of_a_fetch_together_keep_the_limit() {
    system_test(|test| async move {
        let content = Content::random(&mut test.rng(), SPANS * SPAN);
        let tracker = RealTracker::start(&test, NEVER);
        let fill = |files: &std::path::Path| drop(content.write(files, "file"));
        let one = RealPeer::start(&test, tracker.address(), "p1", fill).await;
        let two = RealPeer::start(&test, tracker.address(), "p2", fill).await;
        let limits = RateLimits { upload: None, download: limit(RATE_BYTES_S) };
        let wants = vec![into_folder("file", &test.folder())];
        let mut fetch = Running::start_limited(&test, tracker.address(), wants, false, limits);
        let (mut meter, mut bytes_s) = (Meter::default(), None);
        let is_over = |event: &JobEvent| {
            if let JobEvent::Progress(progress) = event {
                bytes_s = meter.measure(progress.have_bytes);
            }
            bytes_s.is_some()
        };
        fetch.watched.until("the end of the window", is_over).await;
        assert_is_the_limit(bytes_s.unwrap());
        fetch.cancel();
        fetch.finish().await;
        for peer in [one, two] {
            peer.stop().await;
        }
        tracker.stop().await;
    });
}

#[test]
fn a_limit_at_which_a_span_takes_longer_than_a_source_may_be_silent_loses_no_source() {
    system_test(|test| async move {
        const SLOW_BYTES_S: u64 = 20_000;
        let size = 13 * SLOW_BYTES_S as usize;
        assert!(size < SPAN && size as u64 > SLOW_BYTES_S * SOURCE_DEAD_TIMEOUT.as_secs());
        let content = Content::random(&mut test.rng(), size);
        let fill = |files: &std::path::Path| drop(content.write(files, "file"));
        let slow = limit(SLOW_BYTES_S);
        let fetched = async |upload, download| {
            let tracker = RealTracker::start(&test, NEVER);
            let limits = RateLimits { upload, download: None };
            let peer = RealPeer::start_limited(&test, tracker.address(), "p1", limits, fill).await;
            let folder = test.folder();
            let wants = vec![into_folder("file", &folder)];
            let limits = RateLimits { upload: None, download };
            let fetch = Running::start_limited(&test, tracker.address(), wants, false, limits);
            let told = fetch.finish().await;
            assert_sums_up(told.done());
            assert_eq!(told.done().wasted_bytes, 0);
            let is_dropped = |event: &JobEvent| {
                matches!(event, JobEvent::Source { state: SourceState::Dropped { .. }, .. })
            };
            assert!(!told.0.iter().any(is_dropped), "{:?}", told.0);
            assert!(content.stands_at(&folder.join("file")));
            peer.stop().await;
            tracker.stop().await;
        };
        tokio::join!(fetched(slow, None), fetched(None, slow));
    });
}
