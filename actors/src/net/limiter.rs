//! What keeps all uploads, or all downloads, of a process below a limit.
//!
//! Bytes are taken from a bucket that refills at the rate of the limit, in front of each piece that
//! is moved. Pieces are small where the limit is low, so that a slow limit is a trickle and not
//! long silences: who waits for bytes takes a silence for a fault.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::base::ByteRate;
use crate::base::limits::MAX_LIMITED_PIECE_BYTES;

/// Pieces per second at a low limit: even when hundreds share it, each gets some bytes every few seconds.
const PIECES_S: u64 = 64;
/// The bucket counts in cells, and a cell takes a whole number of nanoseconds to refill: at least
/// so many, so that what is cut off is at most half a per cent.
const MIN_CELL_NS: u64 = 200;
/// The bucket holds what comes in this time: a wake-up that is late on a busy machine loses nothing,
/// and what can go out at once after a rest is a hundredth of ten seconds.
const BURST: Duration = Duration::from_millis(100);
const SECOND_NS: u64 = 1_000_000_000;

/// A limit and its bucket; clones share both.
#[derive(Clone)]
pub struct Limiter {
    bucket: Arc<RateLimiter<NotKeyed, InMemoryState, SinceStart>>,
    clock: SinceStart,
    /// Who waits for the bucket; the others wait for it, in the order in which they came.
    first: Arc<Semaphore>,
    cell_bytes: u64,
    piece_bytes: usize,
}

impl Limiter {
    /// A limiter with a full bucket. Its clock starts: it has to be called in a runtime.
    pub fn new(rate: ByteRate) -> Limiter {
        let bytes_s = rate.bytes_s();
        let cell_bytes = bytes_s.div_ceil(SECOND_NS / MIN_CELL_NS);
        let cell = Duration::from_nanos(cell_bytes * SECOND_NS / bytes_s);
        let piece_bytes = (bytes_s / PIECES_S).clamp(1, MAX_LIMITED_PIECE_BYTES as u64);
        let burst_bytes = (bytes_s * BURST.as_millis() as u64 / 1000).max(piece_bytes);
        let burst = cells(burst_bytes, cell_bytes);
        let quota = Quota::with_period(cell).expect("a cell takes MIN_CELL_NS at least").allow_burst(burst);
        let clock = SinceStart(Instant::now());
        Limiter {
            bucket: Arc::new(RateLimiter::direct_with_clock(quota, clock)),
            clock,
            first: Arc::new(Semaphore::new(1)),
            cell_bytes,
            piece_bytes: piece_bytes as usize,
        }
    }

    /// The most bytes to take at once.
    pub fn piece_bytes(&self) -> usize {
        self.piece_bytes
    }

    /// Waits until so many bytes may be moved: at most [`Limiter::piece_bytes`], more count as that
    /// many. First come, first served. Who stops waiting has taken nothing.
    pub async fn take(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let cells = cells(bytes.min(self.piece_bytes) as u64, self.cell_bytes);
        // Closed never; without a turn the limit would hold all the same, and only the order not.
        let _turn = self.first.acquire().await;
        while let Ok(Err(too_early)) = self.bucket.check_n(cells) {
            sleep(too_early.wait_time_from(self.clock.now())).await;
        }
    }
}

/// How many cells so many bytes are, a part of one counted whole. No more than a second's: these fit.
fn cells(bytes: u64, cell_bytes: u64) -> NonZeroU32 {
    let cells = u32::try_from(bytes.div_ceil(cell_bytes)).unwrap_or(u32::MAX);
    NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN)
}

/// The clock of tokio, which the waiting goes by too.
#[derive(Clone, Copy, Debug)]
struct SinceStart(Instant);

impl Clock for SinceStart {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that `takers` get through in so many seconds of a paused clock, in pieces of `bytes`.
    async fn moved(rate: u64, takers: usize, bytes: usize, seconds: u64) -> Vec<u64> {
        let limiter = Limiter::new(ByteRate::new(rate).unwrap());
        let end = Instant::now() + Duration::from_secs(seconds);
        let tasks: Vec<_> = (0..takers)
            .map(|_| {
                let limiter = limiter.clone();
                tokio::spawn(async move {
                    let mut moved = 0;
                    while Instant::now() < end {
                        let bytes = bytes.min(limiter.piece_bytes());
                        limiter.take(bytes).await;
                        moved += bytes as u64;
                    }
                    moved
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.push(task.await.unwrap());
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_the_rate_and_the_pieces_what_goes_through_is_within_three_per_cent() {
        let pieces = usize::MAX;
        for (rate, takers, bytes) in [
            (1000, 1, pieces),
            (1001, 3, 10),
            (50 << 10, 8, pieces),
            (999_999, 3, 5000),
            (20 << 20, 1, 4096),
            (20 << 20, 8, pieces),
            (123_456_789, 3, 4096),
            (1 << 30, 1, pieces),
            (5_000_000_000, 8, pieces),
        ] {
            let sum = moved(rate, takers, bytes, 10).await.iter().sum::<u64>() as f64;
            let ratio = sum / (rate * 10) as f64;
            assert!((0.97..1.03).contains(&ratio), "{rate} B/s, {takers} of {bytes}: {ratio}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_lowest_rate_many_takers_all_get_their_share() {
        let moved = moved(1000, 20, usize::MAX, 60).await;
        let (least, most) = (moved.iter().min().unwrap(), moved.iter().max().unwrap());
        assert!(*least > 0 && most - least <= 200, "{moved:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_has_taken_nothing_and_holds_up_nobody() {
        let limiter = Limiter::new(ByteRate::new(64_000).unwrap());
        // Down to nothing: what waits for nobody.
        while tokio::time::timeout(Duration::ZERO, limiter.take(1000)).await.is_ok() {}
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let limiter = limiter.clone();
            waiting.spawn(async move { limiter.take(1000).await });
        }
        tokio::task::yield_now().await;
        waiting.shutdown().await;
        let begun = Instant::now();
        limiter.take(1000).await;
        // A piece comes in 15.6 ms, and tokio's timers go by milliseconds.
        assert!(begun.elapsed() <= Duration::from_millis(17), "{:?}", begun.elapsed());
    }
}
