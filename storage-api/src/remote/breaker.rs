//! A circuit breaker: a peer that does not answer is left alone for a while.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Failures in a row after which a peer counts as down.
const THRESHOLD: u32 = 3;
/// First time for which it is left alone.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// The longest.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Calls go through.
    Closed { failures: u32 },
    /// Calls fail at once.
    Open { until: Instant, backoff: Duration },
    /// One call goes through to see whether the peer is back.
    Probing { backoff: Duration },
}

/// Decides whether a peer is worth a call.
#[derive(Debug)]
pub(super) struct Breaker {
    state: Mutex<State>,
    /// What the last failure was, for those who are refused.
    why: Mutex<String>,
    peer: String,
    gauge: metrics::Gauge,
}

/// Leave to make a call. Dropped without a word, it says nothing about the peer.
pub(super) struct Leave<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

impl Breaker {
    /// For a peer, which counts as up.
    pub fn new(peer: &str) -> Breaker {
        // 0 closed, 1 probing, 2 open.
        let gauge = metrics::gauge!("kodiak_peer_breaker", "peer" => peer.to_owned());
        gauge.set(0.0);
        let state = Mutex::new(State::Closed { failures: 0 });
        Breaker { state, why: Mutex::default(), peer: peer.to_owned(), gauge }
    }

    /// Whether calls go through.
    pub fn is_closed(&self) -> bool {
        matches!(*self.state.lock(), State::Closed { .. })
    }

    /// Leave to make a call, or why there is none.
    pub fn admit(&self, now: Instant) -> Result<Leave<'_>, String> {
        let mut state = self.state.lock();
        let probe = match *state {
            State::Closed { .. } => false,
            State::Open { until, backoff } if until <= now => {
                self.set(&mut state, State::Probing { backoff });
                true
            }
            State::Open { .. } | State::Probing { .. } => return Err(self.why.lock().clone()),
        };
        Ok(Leave { breaker: self, probe })
    }

    /// The peer has answered.
    pub fn succeeded(&self) {
        let mut state = self.state.lock();
        self.set(&mut state, State::Closed { failures: 0 });
    }

    /// The peer could not be reached or did not answer in time.
    pub fn failed(&self, now: Instant, why: String) {
        let mut state = self.state.lock();
        *self.why.lock() = why;
        let next = match *state {
            State::Closed { failures } if failures + 1 < THRESHOLD => {
                State::Closed { failures: failures + 1 }
            }
            State::Closed { .. } => open(now, MIN_BACKOFF),
            State::Probing { backoff } => open(now, (backoff * 2).min(MAX_BACKOFF)),
            // The failure of a call that was made before.
            open @ State::Open { .. } => open,
        };
        self.set(&mut state, next);
    }

    fn set(&self, state: &mut State, next: State) {
        match (&*state, &next) {
            (State::Closed { .. }, State::Open { .. }) => {
                tracing::warn!(peer = self.peer, why = *self.why.lock(), "a node does not answer");
            }
            (State::Open { .. } | State::Probing { .. }, State::Closed { .. }) => {
                tracing::info!(peer = self.peer, "a node answers again");
            }
            _ => {}
        }
        *state = next;
        self.gauge.set(match next {
            State::Closed { .. } => 0.0,
            State::Probing { .. } => 1.0,
            State::Open { .. } => 2.0,
        });
    }
}

/// Open for half to the whole of `backoff`, so that the callers of a peer do not all come back at once.
fn open(now: Instant, backoff: Duration) -> State {
    State::Open { until: now + backoff.mul_f64(rand::random_range(0.5..1.0)), backoff }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = self.breaker.state.lock();
        // A probe that was cancelled has found nothing out: the next call is one.
        if let (true, State::Probing { backoff }) = (self.probe, *state) {
            self.breaker.set(&mut state, State::Open { until: Instant::now(), backoff });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new("n2")
    }

    fn fail(breaker: &Breaker, times: u32) {
        (0..times).for_each(|_| breaker.failed(Instant::now(), "it is gone".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_only() {
        let breaker = breaker();
        for _ in 0..5 {
            fail(&breaker, THRESHOLD - 1);
            breaker.succeeded();
        }
        assert!(breaker.admit(Instant::now()).is_ok());
        fail(&breaker, THRESHOLD);
        assert_eq!(breaker.admit(Instant::now()).err().as_deref(), Some("it is gone"));
        assert!(!breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_closes_it_or_makes_it_wait_longer() {
        let breaker = breaker();
        fail(&breaker, THRESHOLD);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let begun = Instant::now();
            let leave = loop {
                match breaker.admit(Instant::now()) {
                    Ok(leave) => break leave,
                    Err(_) => tokio::time::advance(Duration::from_millis(1)).await,
                }
            };
            waits.push(begun.elapsed());
            assert!(breaker.admit(Instant::now()).is_err(), "a second probe");
            fail(&breaker, 1);
            drop(leave);
        }
        assert!(waits[0] >= MIN_BACKOFF / 2 && waits[0] <= MIN_BACKOFF, "{waits:?}");
        assert!(waits[9] >= MAX_BACKOFF / 2 && waits[9] <= MAX_BACKOFF, "{waits:?}");
        tokio::time::advance(MAX_BACKOFF).await;
        let leave = breaker.admit(Instant::now()).expect("a probe");
        breaker.succeeded();
        drop(leave);
        assert!(breaker.is_closed() && breaker.admit(Instant::now()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_cancelled_leaves_room_for_the_next() {
        let breaker = breaker();
        fail(&breaker, THRESHOLD);
        tokio::time::advance(MAX_BACKOFF).await;
        drop(breaker.admit(Instant::now()).expect("a probe"));
        assert!(breaker.admit(Instant::now()).is_ok());
    }
}
