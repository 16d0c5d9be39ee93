//! Reads: the newest version at a majority, which has it before the answer.

use kodiak_storage_api::{Layout, NodeError, Replica, Stamp, StoredVersion, Timestamp};

use super::rounds::Round;
use super::{ATTEMPTS, Proposal, Register};
use crate::store::{StoreError, Weakness, quorum};

/// What a replica has of the name.
enum Seen {
    /// What it answered.
    Intact(Option<StoredVersion>),
    /// It holds a version whose bytes are damaged. That costs it the bytes, not its vote.
    Damaged(Option<Stamp>),
}

impl Seen {
    fn ballot(&self) -> Timestamp {
        let stamp = match self {
            Seen::Intact(stored) => stored.as_ref().map(|stored| stored.stamp),
            Seen::Damaged(stamp) => *stamp,
        };
        stamp.map_or(Timestamp::ZERO, |stamp| stamp.ballot)
    }
}

/// Times a version that a promise keeps from being written back is looked at again before it is helped.
pub(super) const PATIENCE: u32 = 2;

impl Register<'_> {
    /// The newest version, with its inline bytes if `data`. When this answers, a majority of the replicas
    /// has it on stable storage, and a majority of the container's its row: no later read sees less.
    pub(in crate::store) async fn read(&self, data: bool) -> Result<Option<StoredVersion>, StoreError> {
        if self.available {
            return self.read_available(data).await;
        }
        if let [only] = self.replicas.as_slice() {
            return Ok(only.node.read_object(only.device, self.key, data).await?);
        }
        for attempt in 0..ATTEMPTS {
            let answers = self.look(data).await?;
            let ballot = answers.iter().map(|(_, seen)| seen.ballot()).max().unwrap_or_default();
            if ballot == Timestamp::ZERO {
                return Ok(None);
            }
            let holders: Vec<usize> =
                answers.iter().filter(|(_, seen)| seen.ballot() == ballot).map(|(index, _)| *index).collect();
            let newest = match self.intact(answers, ballot, data).await? {
                Some(newest) => newest,
                None => continue,
            };
            if holders.len() >= self.majority() || self.is_weak(Weakness::NoWriteBack) {
                return Ok(Some(newest));
            }
            let Some(full) = self.with_bytes(newest.clone(), &holders).await? else { continue };
            let proposal = Proposal::of(&full);
            let round = self.accept(&proposal, &holders).await;
            if round.chosen() {
                self.finish_read(&proposal, &round).await?;
                return Ok(Some(newest));
            }
            self.learn(&round);
            if round.unopposed() {
                return Err(round.error().into());
            }
            // What is newer may be a remnant at a replica that is not among those who are asked.
            if round.outrun(ballot) && attempt < PATIENCE {
                continue;
            }
            self.pause(attempt).await;
            if attempt >= PATIENCE
                && let Some(helped) = self.help().await?
            {
                return Ok(Some(helped));
            }
        }
        Err(StoreError::Overloaded)
    }

    /// Asks a majority. A replica whose bytes are damaged still says what it holds.
    async fn look(&self, data: bool) -> Result<Vec<(usize, Seen)>, StoreError> {
        let key = self.key;
        let ask = |_, replica: Replica| async move {
            match replica.node.read_object(replica.device, key, data).await {
                Ok(stored) => Ok(Seen::Intact(stored)),
                Err(NodeError::Corrupt(what)) => {
                    tracing::warn!(?key, what, "a replica of an object is damaged");
                    let nothing = Timestamp::ZERO;
                    let known = replica.node.prepare(replica.device, key, nothing, nothing).await?;
                    Ok(Seen::Damaged(known.held))
                }
                Err(error) => Err(error),
            }
        };
        Ok(quorum::read_majority(&self.replicas, ask).await?)
    }

    /// An intact copy of the version of a ballot: of those that answered, or else of the others. None if it
    /// has been replaced meanwhile.
    async fn intact(
        &self,
        answers: Vec<(usize, Seen)>,
        ballot: Timestamp,
        data: bool,
    ) -> Result<Option<StoredVersion>, StoreError> {
        let asked: Vec<usize> = answers.iter().map(|(index, _)| *index).collect();
        for (_, seen) in answers {
            if let Seen::Intact(Some(stored)) = seen
                && stored.stamp.ballot == ballot
            {
                return Ok(Some(stored));
            }
        }
        for (_, replica) in self.replicas.iter().enumerate().filter(|(index, _)| !asked.contains(index)) {
            match replica.node.read_object(replica.device, self.key, data).await {
                Ok(Some(stored)) if stored.stamp.ballot == ballot => return Ok(Some(stored)),
                Ok(Some(stored)) if stored.stamp.ballot > ballot => return Ok(None),
                _ => {}
            }
        }
        Err(StoreError::Corrupt("no intact copy of the newest version answers".into()))
    }

    /// A version with its inline bytes, from one of those that hold it. None if they have it no more.
    async fn with_bytes(
        &self,
        newest: StoredVersion,
        holders: &[usize],
    ) -> Result<Option<StoredVersion>, StoreError> {
        let inline = newest.version.live().is_some_and(|record| matches!(record.layout, Layout::Inline));
        if !inline {
            return Ok(Some(StoredVersion { inline: None, ..newest }));
        }
        if newest.inline.is_some() {
            return Ok(Some(newest));
        }
        let mut errors = Vec::new();
        for replica in holders.iter().map(|index| &self.replicas[*index]) {
            match replica.node.read_object(replica.device, self.key, true).await {
                Ok(Some(stored)) if stored.stamp == newest.stamp => return Ok(Some(stored)),
                Ok(_) => return Ok(None),
                Err(error) => errors.push(error),
            }
        }
        Err(super::rounds::unanswered(errors))
    }

    /// Makes the listing show the newest version, if there is any.
    pub(in crate::store) async fn show(&self) -> Result<(), StoreError> {
        let Some(newest) = self.read(false).await? else { return Ok(()) };
        match self.rows(&Proposal::of(&newest), &vec![false; self.containers.len()]).await {
            Ok(()) | Err(NodeError::NoDirectory) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Register::finish`], where the container may have gone: the version is read all the same.
    pub(super) async fn finish_read(&self, proposal: &Proposal, round: &Round) -> Result<(), StoreError> {
        match self.finish(proposal, round).await {
            Ok(()) | Err(NodeError::NoDirectory) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
