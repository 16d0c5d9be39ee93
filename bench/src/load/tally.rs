//! What workers count.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::mix::Operation;
use crate::latency;

/// What can go wrong with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An answer that is no success, with its beginning.
    Status(u16, String),
    /// The connection could not be made or broke.
    Connection(String),
    /// No whole answer in time.
    Timeout,
    /// An older generation of an object than was acknowledged.
    Stale(String),
    /// Wrong bytes.
    Corrupt(String),
    /// A listing without a name that was written.
    Unlisted(String),
    /// The request could not be made.
    Request(String),
}

impl Fault {
    /// What faults are counted under.
    pub fn kind(&self) -> String {
        match self {
            Fault::Status(status, _) => status.to_string(),
            Fault::Connection(_) => "connection".into(),
            Fault::Timeout => "timeout".into(),
            Fault::Stale(_) => "stale".into(),
            Fault::Corrupt(_) => "corrupt".into(),
            Fault::Unlisted(_) => "unlisted".into(),
            Fault::Request(_) => "request".into(),
        }
    }

    /// What there is to say about it.
    pub fn words(&self) -> &str {
        match self {
            Fault::Timeout => "no whole answer within --timeout",
            Fault::Status(_, text)
            | Fault::Connection(text)
            | Fault::Stale(text)
            | Fault::Corrupt(text)
            | Fault::Unlisted(text)
            | Fault::Request(text) => text,
        }
    }
}

/// One operation's successes.
#[derive(Clone, Debug)]
pub struct Successes {
    /// Nanoseconds from sending to the last byte of the answer.
    pub latency: Histogram<u64>,
    /// Bytes of objects sent or received.
    pub bytes: u64,
}

/// How often a fault came, and the first one's words.
#[derive(Clone, Debug)]
pub struct Faults {
    /// How often.
    pub count: u64,
    /// The first one.
    pub example: String,
}

/// What one or more workers have counted.
#[derive(Clone, Debug)]
pub struct Tally {
    /// An empty histogram, to begin others with.
    blank: Histogram<u64>,
    /// By operation.
    pub successes: BTreeMap<Operation, Successes>,
    /// By operation and kind.
    pub faults: BTreeMap<(Operation, String), Faults>,
    /// When the last counted operation ended.
    pub ended: Option<Instant>,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> anyhow::Result<Tally> {
        let blank = latency::histogram()?;
        Ok(Tally { blank, successes: BTreeMap::new(), faults: BTreeMap::new(), ended: None })
    }

    /// Counts a success.
    pub fn success(&mut self, operation: Operation, took: Duration, bytes: u64) {
        let new = || Successes { latency: self.blank.clone(), bytes: 0 };
        let one = self.successes.entry(operation).or_insert_with(new);
        latency::record(&mut one.latency, took);
        one.bytes += bytes;
    }

    /// Counts a fault.
    pub fn fault(&mut self, operation: Operation, fault: &Fault) {
        let new = || Faults { count: 0, example: fault.words().to_string() };
        self.faults.entry((operation, fault.kind())).or_insert_with(new).count += 1;
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: Tally) {
        for (operation, more) in other.successes {
            match self.successes.get_mut(&operation) {
                None => {
                    self.successes.insert(operation, more);
                }
                Some(have) => {
                    // Both have the same bounds, so nothing can be out of range.
                    let _ = have.latency.add(&more.latency);
                    have.bytes += more.bytes;
                }
            }
        }
        for (key, more) in other.faults {
            let have = self.faults.entry(key).or_insert(Faults { count: 0, example: more.example });
            have.count += more.count;
        }
        self.ended = self.ended.max(other.ended);
    }

    /// All successes.
    pub fn operations(&self) -> u64 {
        self.successes.values().map(|one| one.latency.len()).sum()
    }

    /// Faults of a kind, or of every kind.
    pub fn count_faults(&self, kind: Option<&str>) -> u64 {
        let of_kind = self.faults.iter().filter(|(key, _)| kind.is_none_or(|kind| kind == key.1));
        of_kind.map(|(_, faults)| faults.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut a = Tally::new().unwrap();
        a.success(Operation::Get, Duration::from_millis(1), 100);
        a.fault(Operation::Get, &Fault::Status(503, "first".into()));
        let mut b = Tally::new().unwrap();
        b.success(Operation::Get, Duration::from_millis(3), 100);
        b.success(Operation::Put, Duration::from_secs(99_999), 1);
        b.fault(Operation::Get, &Fault::Status(503, "second".into()));
        b.fault(Operation::Get, &Fault::Corrupt("bytes".into()));
        a.merge(b);
        assert_eq!(a.operations(), 3);
        assert_eq!(a.successes[&Operation::Get].bytes, 200);
        assert_eq!(a.count_faults(None), 3);
        assert_eq!(a.count_faults(Some("corrupt")), 1);
        assert_eq!(a.faults[&(Operation::Get, "503".to_string())].example, "first");
    }
}
