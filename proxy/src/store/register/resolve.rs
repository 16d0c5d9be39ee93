//! What has become of a write that was refused, and the completion of writes that others left open.

use kodiak_storage_api::{Layout, Stamp, StoredVersion, Timestamp, Version};

use super::rounds::Promises;
use super::{ATTEMPTS, Proposal, Register, undecided};
use crate::store::{StoreError, quorum};

/// What has become of a write.
pub(super) enum Fate {
    /// It has taken effect.
    Done,
    /// It has not, and will not at any ballot before that of the fence.
    Open(Fence),
}

/// The promises after which a write is known not to take effect at an earlier ballot.
pub(super) struct Fence {
    pub(super) ballot: Timestamp,
    promises: Promises,
}

impl Fence {
    /// The newest version of those who promised.
    pub(super) fn held(&self) -> Option<Stamp> {
        self.promises.newest().map(|(_, held)| held)
    }
}

impl Register<'_> {
    /// Finds out whether a write whose ballot was refused has taken effect, or finishes it.
    ///
    /// A majority promises a new ballot first: so nobody can have the write accepted at an older one any
    /// more, and whoever had it accepted by a majority before is known to one of them.
    pub(super) async fn resolve(&self, proposal: &Proposal) -> Result<Fate, StoreError> {
        for attempt in 0..ATTEMPTS {
            let ballot = self.store.clock.now();
            let Some(promises) = self.prepare(ballot, proposal.stamp.origin, true).await? else {
                self.pause(attempt).await;
                continue;
            };
            if promises.newest().is_some_and(|(_, held)| held.origin == proposal.stamp.origin) {
                let again = proposal.again(ballot);
                let round = self.accept(&again, &[]).await;
                if round.chosen() {
                    self.finish(&again, &round).await?;
                    return Ok(Fate::Done);
                }
                self.learn(&round);
                if round.unopposed() {
                    return Err(undecided());
                }
                self.pause(attempt).await;
                continue;
            }
            return match judge(&promises) {
                Verdict::Done(ballot) => {
                    let chosen = proposal.again(ballot);
                    self.rows(&chosen, &vec![false; self.containers.len()]).await?;
                    Ok(Fate::Done)
                }
                Verdict::Unknown => Err(undecided()),
                Verdict::Not => Ok(Fate::Open(Fence { ballot, promises })),
            };
        }
        Err(undecided())
    }

    /// Makes sure that a write that was given up is never taken up by others: where a replica may still
    /// hold it, a majority gets something newer. Whether that was done.
    pub(super) async fn bury(&self, proposal: &Proposal, fence: &Fence) -> Result<bool, StoreError> {
        let newer = |held: &Stamp| held.ballot > proposal.stamp.ballot;
        let beyond =
            fence.promises.answers.iter().filter(|(_, promise)| promise.held.as_ref().is_some_and(newer));
        if beyond.count() >= self.majority() {
            return Ok(true);
        }
        Ok(self.adopt(&fence.promises).await?.is_some())
    }

    /// Completes what another coordinator has left open, and answers the newest version.
    pub(super) async fn help(&self) -> Result<Option<StoredVersion>, StoreError> {
        let ballot = self.store.clock.now();
        match self.prepare(ballot, ballot, false).await? {
            Some(promises) => self.adopt(&promises).await,
            None => Ok(None),
        }
    }

    /// Has the newest version of those who promised accepted at their ballot, under its own identity. Where
    /// there is none, a tombstone. None if another coordinator was quicker.
    pub(super) async fn adopt(&self, promises: &Promises) -> Result<Option<StoredVersion>, StoreError> {
        let newest = match promises.newest() {
            None => {
                let at = promises.ballot;
                StoredVersion { version: Version::Deleted(at), stamp: Stamp::first(at), inline: None }
            }
            Some((index, stamp)) => {
                let replica = &self.replicas[index];
                match replica.node.read_object(replica.device, self.key, true).await? {
                    Some(stored) if stored.stamp == stamp => stored,
                    _ => return Ok(None),
                }
            }
        };
        let inline = matches!(newest.version.live().map(|record| &record.layout), Some(Layout::Inline));
        let newest = StoredVersion { inline: newest.inline.filter(|_| inline), ..newest };
        let proposal = Proposal::of(&newest).again(promises.ballot);
        let round = self.accept(&proposal, &[]).await;
        if !round.chosen() {
            self.learn(&round);
            return if round.unopposed() { Err(round.error().into()) } else { Ok(None) };
        }
        self.finish_read(&proposal, &round).await?;
        Ok(Some(StoredVersion { stamp: proposal.stamp, ..newest }))
    }
}

enum Verdict {
    /// It has taken effect at this ballot.
    Done(Timestamp),
    /// It has not taken effect and never will.
    Not,
    /// Those who know do not answer.
    Unknown,
}

/// Whether a write has taken effect: at one ballot a majority has accepted it. A ballot at which that
/// happened is known to one of those who promised, unless they have forgotten.
fn judge(promises: &Promises) -> Verdict {
    let majority = quorum::majority(promises.replicas);
    let answers = || promises.answers.iter().map(|(_, promise)| &promise.accepted);
    let in_doubt =
        promises.replicas - promises.answers.len() + answers().filter(|accepted| accepted.forgotten).count();
    let mut ballots: Vec<Timestamp> =
        answers().flat_map(|accepted| accepted.ballots.iter().copied()).collect();
    ballots.sort_unstable();
    ballots.dedup();
    let counts = ballots.iter().map(|ballot| {
        let sure = answers().filter(|accepted| accepted.ballots.contains(ballot)).count();
        let forgotten =
            answers().filter(|accepted| accepted.forgotten && !accepted.ballots.contains(ballot)).count();
        (*ballot, sure, sure + forgotten + promises.replicas - promises.answers.len())
    });
    let counts: Vec<_> = counts.collect();
    if let Some((ballot, ..)) = counts.iter().find(|(_, sure, _)| *sure >= majority) {
        return Verdict::Done(*ballot);
    }
    let possible = in_doubt >= majority || counts.iter().any(|(_, _, possible)| *possible >= majority);
    if possible { Verdict::Unknown } else { Verdict::Not }
}

#[cfg(test)]
mod tests {
    use kodiak_storage_api::{Accepted, Promise};

    use super::*;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros, 0)
    }

    fn verdict(replicas: usize, answers: &[(&[u64], bool)]) -> &'static str {
        let promise = |(ballots, forgotten): &(&[u64], bool)| Promise {
            held: None,
            accepted: Accepted { ballots: ballots.iter().map(|b| at(*b)).collect(), forgotten: *forgotten },
        };
        let answers = answers.iter().map(promise).enumerate().collect();
        match judge(&Promises { ballot: at(100), replicas, answers }) {
            Verdict::Done(_) => "done",
            Verdict::Not => "not",
            Verdict::Unknown => "unknown",
        }
    }

    #[test]
    fn a_write_has_taken_effect_where_a_majority_accepted_it_at_one_ballot() {
        assert_eq!(verdict(3, &[(&[5], false), (&[5], false), (&[], false)]), "done");
        assert_eq!(verdict(3, &[(&[5], false), (&[], false), (&[], false)]), "not");
        assert_eq!(verdict(3, &[(&[5], false), (&[6], false), (&[], false)]), "not");
        assert_eq!(verdict(3, &[(&[], false), (&[], false)]), "not");
    }

    #[test]
    fn who_is_away_or_has_forgotten_may_have_accepted_it() {
        assert_eq!(verdict(3, &[(&[5], false), (&[], false)]), "unknown");
        assert_eq!(verdict(3, &[(&[5], false), (&[], false), (&[], true)]), "unknown");
        assert_eq!(verdict(3, &[(&[], false), (&[], true)]), "unknown");
        assert_eq!(verdict(3, &[(&[], false), (&[], false), (&[], true)]), "not");
        assert_eq!(verdict(2, &[(&[], false), (&[], false)]), "not");
    }
}
