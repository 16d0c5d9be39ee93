//! Whether a history of concurrent operations on one key is linearizable.
//!
//! Source: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993), with the memory of visited
//! states of Lowe (2017). Each key is a register of its own, so each history is checked by itself. An
//! operation whose outcome is unknown may take effect at any time after it began, or never.

use std::collections::HashSet;

/// What a register holds: the content, and the metadata that was last set on it.
pub type Value = (u64, u64);

/// What was asked, and what was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Content, without metadata.
    Put(u64),
    /// `If-None-Match: *`, and whether it was done.
    Create(u64, bool),
    /// `If-Match`: the content that must be there, the new one, and whether it was done.
    Swap(u64, u64, bool),
    /// New metadata, and whether there was something.
    Update(u64, bool),
    /// Whether there was something.
    Delete(bool),
    /// What was there.
    Get(Option<Value>),
    /// A deletion that is known to have taken place, as the listing sees it.
    Remove,
    /// Whether the listing shows the key.
    Listed(bool),
}

/// An operation and the instants of a shared counter at which it began and ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What was asked and answered; if it has no end, what it does if it takes effect.
    pub operation: Operation,
    /// When it began.
    pub begun: u64,
    /// When it ended; none if nobody knows whether it has taken effect or will.
    pub ended: Option<u64>,
}

impl Operation {
    /// Whether the operation tells something of the row in the listing.
    pub fn concerns_row(self) -> bool {
        use Operation::{Create, Delete, Listed, Put};
        matches!(self, Put(_) | Create(_, true) | Delete(true) | Listed(_))
    }

    /// The operation as one on the row: a write that took place depends on the object alone.
    pub fn on_row(self) -> Operation {
        match self {
            Operation::Create(value, true) => Operation::Put(value),
            Operation::Delete(true) => Operation::Remove,
            other => other,
        }
    }

    /// The register after the operation; none if the answer could not have been given.
    fn apply(self, register: Option<Value>) -> Option<Option<Value>> {
        let content = register.map(|(content, _)| content);
        match self {
            Operation::Put(value) => Some(Some((value, 0))),
            Operation::Create(value, true) => register.is_none().then_some(Some((value, 0))),
            Operation::Create(_, false) => register.is_some().then_some(register),
            Operation::Swap(old, new, true) => (content == Some(old)).then_some(Some((new, 0))),
            Operation::Swap(old, _, false) => (content != Some(old)).then_some(register),
            Operation::Update(meta, true) => content.map(|content| Some((content, meta))),
            Operation::Update(_, false) => register.is_none().then_some(register),
            Operation::Delete(found) => (register.is_some() == found).then_some(None),
            Operation::Remove => Some(None),
            Operation::Get(value) => (register == value).then_some(register),
            Operation::Listed(shown) => (register.is_some() == shown).then_some(register),
        }
    }
}

/// Whether some order of the events, in which none comes before one that had ended when it began, gives
/// every answer.
pub fn linearizable(events: &[Event]) -> bool {
    assert!(events.len() <= 128, "events are a bit mask");
    let required = events.iter().enumerate().filter(|(_, event)| event.ended.is_some());
    let required = required.fold(0u128, |mask, (index, _)| mask | 1 << index);
    let mut seen = HashSet::new();
    let mut open = vec![(0u128, None)];
    while let Some((done, register)) = open.pop() {
        if done & required == required {
            return true;
        }
        let waiting = || events.iter().enumerate().filter(|(index, _)| done >> index & 1 == 0);
        let first_end = waiting().filter_map(|(_, event)| event.ended).min().unwrap_or(u64::MAX);
        for (index, event) in waiting().filter(|(_, event)| event.begun < first_end) {
            if let Some(next) = event.operation.apply(register) {
                let state = (done | 1 << index, next);
                if seen.insert(state) {
                    open.push(state);
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(operation: Operation, begun: u64, ended: u64) -> Event {
        Event { operation, begun, ended: Some(ended) }
    }

    fn unknown(operation: Operation, begun: u64) -> Event {
        Event { operation, begun, ended: None }
    }

    const ONE: Operation = Operation::Get(Some((1, 0)));
    const TWO: Operation = Operation::Get(Some((2, 0)));

    #[test]
    fn a_stale_read_is_found() {
        let put = event(Operation::Put(1), 1, 4);
        assert!(linearizable(&[put, event(Operation::Get(None), 2, 3), event(ONE, 5, 6)]));
        let puts = [event(Operation::Put(1), 1, 2), event(Operation::Put(2), 3, 4)];
        assert!(!linearizable(&[puts[0], puts[1], event(ONE, 5, 6)]));
        assert!(linearizable(&[puts[0], puts[1], event(TWO, 5, 6)]));
    }

    #[test]
    fn an_unknown_write_takes_effect_late_or_never_but_once() {
        let history = [event(Operation::Put(1), 1, 2), unknown(Operation::Put(2), 3)];
        let with = |reads: &[(Operation, u64)]| {
            let reads = reads.iter().map(|(read, at)| event(*read, *at, at + 1));
            linearizable(&history.iter().copied().chain(reads).collect::<Vec<_>>())
        };
        assert!(with(&[(ONE, 5), (ONE, 90)]));
        assert!(with(&[(ONE, 5), (TWO, 90)]));
        assert!(!with(&[(TWO, 5), (ONE, 90)]));
        assert!(!linearizable(&[history[1], event(TWO, 1, 2)]));
    }

    #[test]
    fn a_write_that_takes_effect_twice_is_found() {
        let history = [
            event(Operation::Put(1), 1, 20),
            event(ONE, 2, 3),
            event(Operation::Put(2), 4, 5),
            event(TWO, 6, 7),
            event(ONE, 8, 9),
        ];
        assert!(!linearizable(&history));
    }

    #[test]
    fn only_one_of_two_conditional_writes_can_win() {
        let put = event(Operation::Put(1), 1, 2);
        let swap = |new, done, begun| event(Operation::Swap(1, new, done), begun, begun + 10);
        assert!(linearizable(&[put, swap(2, true, 3), swap(3, false, 4)]));
        assert!(!linearizable(&[put, swap(2, true, 3), swap(3, true, 4)]));
        assert!(!linearizable(&[
            event(Operation::Create(1, true), 1, 5),
            event(Operation::Create(2, true), 2, 6)
        ]));
    }

    #[test]
    fn metadata_stays_with_its_content() {
        let put = event(Operation::Put(1), 1, 2);
        let update = event(Operation::Update(7, true), 3, 4);
        assert!(linearizable(&[put, update, event(Operation::Get(Some((1, 7))), 5, 6)]));
        assert!(!linearizable(&[put, update, event(ONE, 5, 6)]));
    }

    #[test]
    fn a_listing_that_misses_an_acknowledged_write_is_found() {
        let listed = |shown| event(Operation::Listed(shown), 3, 4);
        assert!(linearizable(&[event(Operation::Put(1), 1, 5), listed(false)]));
        assert!(!linearizable(&[event(Operation::Put(1), 1, 2), listed(false)]));
    }
}
