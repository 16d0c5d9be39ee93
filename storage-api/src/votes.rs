//! What a replica of an object answers to writes and promises: the rules, free of I/O.
//!
//! A name's versions are ordered by their *ballots*. A replica takes a version if its ballot is newer than
//! that of what it holds and no older than what it has promised; it gives a promise on the same terms. It
//! never takes back either. See `docs/consistency.md` for what coordinators make of that.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{ObjectKey, Timestamp};

/// Which write a version is, and its place in the order of its name's versions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// The order of versions. A write that is tried again, or finished by another, gets a newer one.
    pub ballot: Timestamp,
    /// The ballot of its first attempt, which it keeps: the write's identity.
    pub origin: Timestamp,
}

impl Stamp {
    /// Of a first attempt.
    pub fn first(at: Timestamp) -> Stamp {
        Stamp { ballot: at, origin: at }
    }

    /// The same write at another ballot.
    pub fn again(self, ballot: Timestamp) -> Stamp {
        Stamp { ballot, ..self }
    }
}

/// At which ballots a replica has ever accepted a write.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Accepted {
    /// Those that are known.
    pub ballots: Vec<Timestamp>,
    /// There may have been others, which the replica has forgotten.
    pub forgotten: bool,
}

impl Accepted {
    /// Whether it is certain that the write was never accepted.
    pub fn never(&self) -> bool {
        self.ballots.is_empty() && !self.forgotten
    }
}

/// Why a ballot was refused, for good: the replica will never take it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// What the replica holds.
    pub held: Option<Stamp>,
    /// A ballot is taken if it is newer than this.
    pub barrier: Timestamp,
    /// What the replica knows of the write that was refused.
    pub accepted: Accepted,
}

/// An answer to a `prepare`: nothing older than its ballot will be accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Promise {
    /// What the replica holds.
    pub held: Option<Stamp>,
    /// What it knows of the write that was asked for.
    pub accepted: Accepted,
}

/// A replica's answer to a write that it does not refuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vote {
    /// It is to be stored.
    Store,
    /// It is stored already.
    Stored,
}

/// Promises that are kept at once. One that gives way to others bars older ballots from the whole device.
const MAX_PROMISES: usize = 1 << 16;
/// Replaced versions that are remembered.
const MAX_REPLACED: usize = 1 << 16;

/// The promises of one device, and its memory of what it has accepted. Volatile, but for the ceiling that
/// the device keeps: no ballot above it is promised or accepted.
#[derive(Debug)]
pub struct Votes {
    promises: HashMap<ObjectKey, Timestamp>,
    /// The same by age.
    oldest: BTreeMap<Timestamp, ObjectKey>,
    /// No older ballot is taken: promises of that age may have been forgotten.
    floor: Timestamp,
    replaced: HashMap<(ObjectKey, Timestamp), Vec<Timestamp>>,
    order: VecDeque<(ObjectKey, Stamp)>,
    /// Writes of this origin or an older one may have been forgotten.
    horizon: Timestamp,
    limit: (usize, usize),
}

impl Votes {
    /// After a start: everything up to `ceiling` may have been promised and accepted before.
    pub fn after(ceiling: Timestamp) -> Votes {
        Votes::bounded(ceiling, MAX_PROMISES, MAX_REPLACED)
    }

    fn bounded(ceiling: Timestamp, promises: usize, replaced: usize) -> Votes {
        Votes {
            promises: HashMap::new(),
            oldest: BTreeMap::new(),
            floor: ceiling,
            replaced: HashMap::new(),
            order: VecDeque::new(),
            horizon: ceiling,
            limit: (promises, replaced),
        }
    }

    /// From now on nothing older is taken or denied: it may have been promised or accepted and be lost.
    pub fn raise_floor(&mut self, floor: Timestamp) {
        self.floor = self.floor.max(floor);
        self.horizon = self.horizon.max(floor);
    }

    /// Whether a write is to be stored, where `held` is stored now. With `expect`, only over that ballot
    /// (zero: over nothing).
    pub fn check(
        &self,
        key: &ObjectKey,
        held: Option<Stamp>,
        stamp: Stamp,
        expect: Option<Timestamp>,
    ) -> Result<Vote, Refusal> {
        let ballot = held.map_or(Timestamp::ZERO, |held| held.ballot);
        if held.is_some() && ballot == stamp.ballot {
            return Ok(Vote::Stored);
        }
        let unexpected = expect.is_some_and(|expected| expected != ballot);
        if unexpected || stamp.ballot < ballot || stamp.ballot < self.bar(key) {
            return Err(self.refusal(key, held, stamp.origin));
        }
        Ok(Vote::Store)
    }

    /// Notes that `stamp` was accepted in the place of `old`.
    pub fn accepted(&mut self, key: &ObjectKey, old: Option<Stamp>, stamp: Stamp) {
        if let Some(promise) = self.promises.get(key).copied()
            && promise <= stamp.ballot
        {
            self.promises.remove(key);
            self.oldest.remove(&promise);
        }
        let Some(old) = old else { return };
        self.replaced.entry((*key, old.origin)).or_default().push(old.ballot);
        self.order.push_back((*key, old));
        if self.order.len() > self.limit.1
            && let Some((key, stamp)) = self.order.pop_front()
        {
            self.horizon = self.horizon.max(stamp.origin);
            self.replaced.remove(&(key, stamp.origin));
        }
    }

    /// Promises to take nothing older than `ballot`, and says what is known of a write. At
    /// [`Timestamp::ZERO`] nothing is promised: a question.
    pub fn promise(
        &mut self,
        key: &ObjectKey,
        held: Option<Stamp>,
        ballot: Timestamp,
        origin: Timestamp,
    ) -> Result<Promise, Refusal> {
        if ballot > Timestamp::ZERO {
            if held.is_some_and(|held| held.ballot > ballot) || ballot < self.bar(key) {
                return Err(self.refusal(key, held, origin));
            }
            self.keep(*key, ballot);
        }
        Ok(Promise { held, accepted: self.known(key, held, origin) })
    }

    fn keep(&mut self, key: ObjectKey, ballot: Timestamp) {
        if let Some(old) = self.promises.insert(key, ballot) {
            self.oldest.remove(&old);
        }
        // Ballots are unique; should two names ever share one, the other's promise becomes the floor.
        if let Some(other) = self.oldest.insert(ballot, key).filter(|other| *other != key) {
            self.promises.remove(&other);
            self.floor = self.floor.max(ballot);
        }
        if self.promises.len() > self.limit.0
            && let Some((oldest, key)) = self.oldest.pop_first()
        {
            self.promises.remove(&key);
            self.floor = self.floor.max(oldest);
        }
    }

    fn bar(&self, key: &ObjectKey) -> Timestamp {
        self.promises.get(key).copied().unwrap_or_default().max(self.floor)
    }

    fn refusal(&self, key: &ObjectKey, held: Option<Stamp>, origin: Timestamp) -> Refusal {
        let ballot = held.map_or(Timestamp::ZERO, |held| held.ballot);
        Refusal { held, barrier: ballot.max(self.bar(key)), accepted: self.known(key, held, origin) }
    }

    fn known(&self, key: &ObjectKey, held: Option<Stamp>, origin: Timestamp) -> Accepted {
        let mut ballots = self.replaced.get(&(*key, origin)).cloned().unwrap_or_default();
        ballots.extend(held.filter(|held| held.origin == origin).map(|held| held.ballot));
        Accepted { ballots, forgotten: origin <= self.horizon }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyHash, PolicyIndex};

    fn key(number: u8) -> ObjectKey {
        ObjectKey { policy: PolicyIndex(0), hash: KeyHash([number; 16]) }
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros, 0)
    }

    fn stamp(micros: u64) -> Stamp {
        Stamp::first(at(micros))
    }

    #[test]
    fn an_older_write_is_refused_and_the_same_one_is_not() {
        let votes = Votes::after(Timestamp::ZERO);
        let held = Some(stamp(5));
        assert_eq!(votes.check(&key(1), held, stamp(5), None), Ok(Vote::Stored));
        assert_eq!(votes.check(&key(1), held, stamp(6), None), Ok(Vote::Store));
        let refusal = votes.check(&key(1), held, stamp(4), None).expect_err("older");
        assert_eq!((refusal.held, refusal.barrier), (held, at(5)));
        assert!(refusal.accepted.never());
    }

    #[test]
    fn a_promise_refuses_what_is_older_until_something_newer_is_accepted() {
        let mut votes = Votes::after(Timestamp::ZERO);
        votes.promise(&key(1), None, at(9), at(1)).expect("promised");
        assert_eq!(votes.promise(&key(1), None, at(8), at(1)).expect_err("older").barrier, at(9));
        assert!(votes.check(&key(1), None, stamp(8), None).is_err());
        assert_eq!(votes.check(&key(2), None, stamp(8), None), Ok(Vote::Store));
        assert_eq!(votes.check(&key(1), None, stamp(9), None), Ok(Vote::Store));
        votes.accepted(&key(1), None, stamp(9));
        assert!(votes.promises.is_empty() && votes.oldest.is_empty());
    }

    #[test]
    fn a_promise_that_gives_way_to_others_bars_older_ballots_from_the_device() {
        let mut votes = Votes::bounded(Timestamp::ZERO, 2, 2);
        for number in 1..=3 {
            votes.promise(&key(number), None, at(u64::from(number) * 10), at(1)).expect("promised");
        }
        assert!(votes.check(&key(1), None, stamp(9), None).is_err());
        assert!(votes.check(&key(9), None, stamp(9), None).is_err());
        assert_eq!(votes.check(&key(9), None, stamp(10), None), Ok(Vote::Store));
    }

    #[test]
    fn what_was_accepted_is_remembered_and_what_was_forgotten_is_said_to_be() {
        let mut votes = Votes::bounded(at(1), 2, 2);
        let again = stamp(5).again(at(7));
        votes.accepted(&key(1), Some(stamp(5)), again);
        let known = votes.promise(&key(1), Some(again), Timestamp::ZERO, at(5)).expect("a question");
        assert_eq!(known.accepted, Accepted { ballots: vec![at(5), at(7)], forgotten: false });
        votes.accepted(&key(1), Some(again), stamp(8));
        votes.accepted(&key(2), Some(stamp(6)), stamp(9));
        let known = |origin| votes.known(&key(1), Some(stamp(8)), at(origin));
        assert!(known(5).forgotten && known(1).forgotten && known(6).never());
    }

    #[test]
    fn nothing_of_before_a_start_is_taken_or_denied() {
        let mut votes = Votes::after(at(1));
        votes.raise_floor(at(100));
        votes.raise_floor(at(50));
        let refusal = votes.check(&key(1), None, stamp(99), None).expect_err("below the floor");
        assert_eq!(refusal.barrier, at(100));
        assert!(refusal.accepted.forgotten);
        assert_eq!(votes.check(&key(1), None, stamp(101), None), Ok(Vote::Store));
    }

    #[test]
    fn an_expectation_must_hold() {
        let votes = Votes::after(Timestamp::ZERO);
        assert!(votes.check(&key(1), Some(stamp(3)), stamp(5), Some(Timestamp::ZERO)).is_err());
        assert!(votes.check(&key(1), None, stamp(5), Some(at(3))).is_err());
        assert_eq!(votes.check(&key(1), Some(stamp(3)), stamp(5), Some(at(3))), Ok(Vote::Store));
        assert_eq!(votes.check(&key(1), None, stamp(5), Some(Timestamp::ZERO)), Ok(Vote::Store));
    }
}
