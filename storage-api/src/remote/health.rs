//! How long a peer's answers take.

use std::time::Duration;

use parking_lot::Mutex;

/// Assumed before the first answer.
const UNKNOWN: Duration = Duration::from_millis(20);
/// No answer is called late before this.
const MIN: Duration = Duration::from_millis(5);
/// Every answer is late after this.
const MAX: Duration = Duration::from_secs(1);

/// A smoothed time of answers and its spread. Their sum with the spread four times is about what 19 of 20
/// answers keep to. Source: Jacobson, "Congestion Avoidance and Control" (1988).
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Mean and mean deviation, seconds.
    seen: Mutex<Option<(f64, f64)>>,
}

impl Pace {
    /// An answer took so long.
    pub fn record(&self, took: Duration) {
        let took = took.as_secs_f64();
        let mut seen = self.seen.lock();
        *seen = Some(match *seen {
            None => (took, took / 2.0),
            Some((mean, spread)) => {
                let error = took - mean;
                (mean + error / 8.0, spread + (error.abs() - spread) / 4.0)
            }
        });
    }

    /// An answer that takes longer is late.
    pub fn late(&self) -> Duration {
        let seen = *self.seen.lock();
        seen.map_or(UNKNOWN, |(mean, spread)| Duration::from_secs_f64(mean + 4.0 * spread)).clamp(MIN, MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_follows_what_is_usual() {
        let pace = Pace::default();
        assert_eq!(pace.late(), UNKNOWN);
        (0..100).for_each(|_| pace.record(Duration::from_micros(300)));
        assert_eq!(pace.late(), MIN);
        (0..100).for_each(|_| pace.record(Duration::from_millis(40)));
        assert!(pace.late() > Duration::from_millis(39) && pace.late() < Duration::from_millis(60));
        (0..100).for_each(|_| pace.record(Duration::from_secs(9)));
        assert_eq!(pace.late(), MAX);
    }
}
