//! Waiting longer after each failure, with jitter.

use std::time::Duration;

/// Waits that double from a first to a longest one; each is drawn between half of it and all of it,
/// so that many who lost the same tracker do not come back at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Nothing has failed yet.
    pub fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { first, longest, failures: 0 }
    }

    /// It worked: the next wait is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed: how long to wait now.
    pub fn next_wait(&mut self, rng: &mut fastrand::Rng) -> Duration {
        let whole = self.first.saturating_mul(2u32.saturating_pow(self.failures)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + rng.f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, longest);
        let mut rng = fastrand::Rng::with_seed(3);
        for whole in [100, 200, 400, 800, 1000, 1000, 1000].map(Duration::from_millis) {
            let wait = backoff.next_wait(&mut rng);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
        }
        for _ in 0..100 {
            assert!(backoff.next_wait(&mut rng) <= longest);
        }
        backoff.reset();
        assert!(backoff.next_wait(&mut rng) <= first);
    }
}
