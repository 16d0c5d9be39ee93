//! What is counted of the calls to one peer.

use std::collections::HashMap;
use std::time::Duration;

use metrics::{Counter, Histogram};
use parking_lot::Mutex;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    /// With an answer, whatever it says.
    Answered,
    /// The peer could not be reached, or its answer could not be read.
    Failed,
    /// Not in time.
    Late,
    /// Not made: too many are under way, here or there.
    Overloaded,
    /// Not made: the peer is down.
    Down,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Failed => "failed",
            Outcome::Late => "late",
            Outcome::Overloaded => "overloaded",
            Outcome::Down => "down",
        }
    }
}

/// The meters of a peer: found once, since looking one up costs as much as a small message.
#[derive(Default)]
pub(super) struct Meters {
    peer: String,
    calls: Mutex<HashMap<(&'static str, Outcome), Counter>>,
    seconds: Mutex<HashMap<&'static str, Histogram>>,
}

impl Meters {
    pub fn new(peer: &str) -> Meters {
        Meters { peer: peer.to_owned(), ..Meters::default() }
    }

    pub fn ended(&self, call: &'static str, outcome: Outcome, took: Duration) {
        let mut calls = self.calls.lock();
        let counter = calls.entry((call, outcome)).or_insert_with(|| {
            let peer = self.peer.clone();
            metrics::counter!("kodiak_peer_calls_total", "peer" => peer, "call" => call, "outcome" => outcome.name())
        });
        counter.increment(1);
        drop(calls);
        if outcome == Outcome::Answered {
            let mut seconds = self.seconds.lock();
            let histogram = seconds.entry(call).or_insert_with(|| {
                metrics::histogram!("kodiak_peer_call_seconds", "peer" => self.peer.clone(), "call" => call)
            });
            histogram.record(took.as_secs_f64());
        }
    }
}
