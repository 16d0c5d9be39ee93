//! How fast background work may go.

use std::time::Duration;

use crate::NodeError;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Lets so many bytes a second through, in the order in which they are asked for.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    free_at: Mutex<Instant>,
}

/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(100);
/// How long work waits that found a device's queue full: clients come first.
const YIELD: Duration = Duration::from_millis(100);
/// How often it then tries again.
const TRIES: usize = 50;

impl Pace {
    /// At most `rate` bytes a second.
    pub fn new(rate: u64) -> Pace {
        Pace { rate: rate.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes may go.
    pub async fn take(&self, bytes: usize) {
        let mut free_at = self.free_at.lock().await;
        let now = Instant::now();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        *free_at = (*free_at).max(earliest) + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        tokio::time::sleep_until(*free_at).await;
    }
}

/// Does something that a device with a full queue refuses, again and again until it does not.
pub async fn yielding<T, A: Future<Output = Result<T, NodeError>>>(
    mut step: impl FnMut() -> A,
) -> Result<T, NodeError> {
    for _ in 0..TRIES {
        match step().await {
            Err(NodeError::Overloaded) => tokio::time::sleep(YIELD).await,
            done => return done,
        }
    }
    Err(NodeError::Overloaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_go_at_their_rate() {
        let (pace, begun) = (Pace::new(1000), Instant::now());
        for _ in 0..10 {
            pace.take(100).await;
        }
        // Nothing makes it quicker; a busy machine only makes it slower.
        assert!(begun.elapsed() >= Duration::from_millis(850));
    }
}
