//! Histograms of nanoseconds.

use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};

/// A microsecond to an hour, to three digits; the largest stands for everything that takes longer.
pub fn histogram() -> Result<Histogram<u64>, CreationError> {
    Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3)
}

/// Counts a duration.
pub fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(took.as_nanos().try_into().unwrap_or(u64::MAX));
}

/// Milliseconds below which this share of durations lie.
pub fn milliseconds(histogram: &Histogram<u64>, share: f64) -> f64 {
    histogram.value_at_quantile(share) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near_what_was_recorded() {
        let mut all = histogram().unwrap();
        for milliseconds in 1..=1000 {
            record(&mut all, Duration::from_millis(milliseconds));
        }
        record(&mut all, Duration::from_secs(100_000));
        for (share, want) in [(0.5, 500.0), (0.99, 990.0)] {
            let found = milliseconds(&all, share);
            assert!((found / want - 1.0).abs() < 0.01, "{found} in place of {want}");
        }
        assert!(milliseconds(&all, 1.0) > 3_500_000.0);
    }
}
