//! The measured rate of a source or a file.

use std::time::{Duration, Instant};

/// How long bytes are gathered before they change the estimate.
const STEP: Duration = Duration::from_millis(100);
/// Weight of the newest step: half of the estimate is younger than about a quarter of a second.
const NEWEST: f64 = 0.3;

/// Bytes per second, smoothed exponentially over steps of 100 ms or more.
#[derive(Clone, Debug)]
pub struct Rate {
    bytes_s: Option<f64>,
    gathered: u64,
    since: Instant,
}

impl Rate {
    /// No estimate yet.
    pub fn new(now: Instant) -> Rate {
        Rate { bytes_s: None, gathered: 0, since: now }
    }

    /// Counts bytes that moved.
    pub fn add(&mut self, bytes: u64, now: Instant) {
        self.gathered += bytes;
        self.settle(now);
    }

    /// Begins to measure anew.
    pub fn restart(&mut self, now: Instant) {
        self.gathered = 0;
        self.since = now;
    }

    /// Nothing was asked for since `idle_since`, and now something is: that time does not count. What was gathered
    /// does, or a source that delivers all it was asked for within a step would never be measured.
    pub fn resume(&mut self, idle_since: Instant, now: Instant) {
        self.since += now.saturating_duration_since(idle_since.max(self.since));
    }

    fn settle(&mut self, now: Instant) {
        let step = now.saturating_duration_since(self.since);
        if step < STEP {
            return;
        }
        let measured = self.gathered as f64 / step.as_secs_f64();
        self.bytes_s = Some(match self.bytes_s {
            // A long step weighs as much as the short ones it stands for.
            Some(old) => {
                let keep = (1.0 - NEWEST).powf(step.as_secs_f64() / STEP.as_secs_f64());
                old * keep + measured * (1.0 - keep)
            }
            None => measured,
        });
        self.gathered = 0;
        self.since = now;
    }

    /// Bytes per second; `None` until a first step is over.
    pub fn bytes_s(&self) -> Option<u64> {
        self.bytes_s.map(|rate| rate as u64)
    }

    /// Bytes per second as of now: falls while nothing moves.
    pub fn bytes_s_at(&mut self, now: Instant) -> u64 {
        self.settle(now);
        self.bytes_s().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_a_steady_rate_and_forgets_it_when_nothing_moves() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        assert_eq!(rate.bytes_s(), None);
        for step in 1..=40u32 {
            rate.add(1000, start + Duration::from_millis(50) * step);
        }
        let steady = rate.bytes_s().unwrap();
        assert!((19_000..=21_000).contains(&steady), "{steady}");
        let later = start + Duration::from_secs(10);
        assert!(rate.bytes_s_at(later) < 100, "{rate:?}");
    }

    #[test]
    fn an_idle_time_that_was_not_asked_for_does_not_count() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        rate.add(10_000, start + Duration::from_secs(1));
        let before = rate.bytes_s();
        rate.resume(start + Duration::from_secs(1), start + Duration::from_secs(100));
        assert_eq!(rate.bytes_s(), before);
    }

    #[test]
    fn what_comes_between_many_short_idle_times_is_measured() {
        let [mut now, idle] = [Instant::now(), Instant::now()];
        let mut rate = Rate::new(now);
        rate.resume(idle, now);
        for _ in 0..100 {
            now += Duration::from_millis(7);
            rate.add(70_000, now);
            rate.resume(now, now + Duration::from_millis(13));
            now += Duration::from_millis(13);
        }
        assert_eq!(rate.bytes_s(), Some(10_000_000));
    }
}
