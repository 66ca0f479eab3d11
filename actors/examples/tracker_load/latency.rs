//! How long answers took: every one is kept, so that no quantile is an estimate.

use std::time::Duration;

/// A duration per answer, in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn append(&mut self, mut others: Latencies) {
        self.0.append(&mut others.0);
    }

    /// The latency that this part of all answers did not exceed, in milliseconds.
    pub(crate) fn quantile_ms(&mut self, part: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return 0.0 };
        let at = (last as f64 * part).ceil() as usize;
        let (_, value, _) = self.0.select_nth_unstable(at.min(last));
        f64::from(*value) / 1000.0
    }
}
