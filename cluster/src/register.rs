//! What a member has agreed to: the newest map it knows, and its vote about the next one.
//!
//! Each epoch is decided by one round of Paxos (Lamport, "Paxos Made Simple", 2001) among the members with a vote
//! in the map before it. A [`Register`] is the acceptor, a [`Proposal`] the proposer; both are pure, and whoever
//! drives them stores a register before it answers from it.
//!
//! Why at most one map is decided for an epoch: all proposals for epoch *n + 1* follow the one map of epoch *n*
//! (by induction, and by its digest), so that they ask the same voters; two majorities of these share a voter; and
//! a proposer whose ballot is the higher one learns from it what may have been decided, and proposes that.
//! A crashed proposer blocks nobody, since a higher ballot takes over from any state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{ClusterMap, Digest, Epoch};

/// Orders attempts: the higher one wins. No two proposers have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Ballot {
    /// The attempt.
    pub round: u64,
    /// Clock number of the proposer.
    pub node: u32,
}

/// A map that a voter has accepted.
#[derive(Clone, PartialEq, Debug)]
pub struct Accepted {
    /// In which attempt.
    pub ballot: Ballot,
    /// The map.
    pub map: Arc<ClusterMap>,
}

/// Why a vote is not given.
#[derive(Clone, PartialEq, Debug)]
pub enum Denied {
    /// The epoch is decided already: this is the newest map.
    Decided(Arc<ClusterMap>),
    /// The voter does not have the map before it yet, but this one.
    Behind(Epoch),
    /// Another attempt is ahead.
    Outbid(Ballot),
    /// Its map of the epoch before is another one: that must never be.
    Differs,
}

/// Why a map is not taken over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LearnError {
    /// Another cluster's.
    #[error("the map is of another cluster: this machine belongs to {own}, the map to {theirs}")]
    OtherCluster {
        /// This one.
        own: crate::ClusterId,
        /// The map's.
        theirs: crate::ClusterId,
    },
    /// An older one.
    #[error(
        "the map has epoch {offered}, which is older than {own} here: its sender has to fetch the newer one"
    )]
    Older {
        /// The newest one here.
        own: Epoch,
        /// The map's.
        offered: Epoch,
    },
    /// Same epoch, other content.
    #[error(
        "there are two maps of epoch {0}: stop this machine, and compare `kodiak cluster status` of all members"
    )]
    Differs(Epoch),
}

/// The newest map that is known, and the vote about the next one.
#[derive(Clone, PartialEq, Debug)]
pub struct Register {
    map: Arc<ClusterMap>,
    digest: Digest,
    promised: Ballot,
    accepted: Option<Accepted>,
}

impl Register {
    /// A register that has not voted.
    ///
    /// # Errors
    /// When the map cannot be encoded.
    pub fn new(map: Arc<ClusterMap>) -> Result<Register, crate::MapError> {
        let digest = map.digest()?;
        Ok(Register { map, digest, promised: Ballot::default(), accepted: None })
    }

    /// A register as it was stored.
    ///
    /// # Errors
    /// When the map cannot be encoded.
    pub fn restore(
        map: Arc<ClusterMap>,
        promised: Ballot,
        accepted: Option<Accepted>,
    ) -> Result<Register, crate::MapError> {
        Ok(Register { promised, accepted, ..Register::new(map)? })
    }

    /// The newest map.
    pub fn map(&self) -> &Arc<ClusterMap> {
        &self.map
    }

    /// Digest of the newest map.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The highest ballot that it follows.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// What it has accepted for the next epoch.
    pub fn accepted(&self) -> Option<&Accepted> {
        self.accepted.as_ref()
    }

    fn current(&self, follows: (Epoch, Digest), ballot: Ballot) -> Result<(), Denied> {
        let (epoch, digest) = follows;
        if self.map.epoch > epoch {
            return Err(Denied::Decided(self.map.clone()));
        }
        if self.map.epoch < epoch {
            return Err(Denied::Behind(self.map.epoch));
        }
        if self.digest != digest {
            return Err(Denied::Differs);
        }
        if self.promised > ballot {
            return Err(Denied::Outbid(self.promised));
        }
        Ok(())
    }

    /// Promises to follow no lower ballot about the map after `follows`. The answer may be sent once the register
    /// is stored.
    ///
    /// # Errors
    /// When it cannot promise.
    pub fn prepare(&mut self, follows: (Epoch, Digest), ballot: Ballot) -> Result<Option<Accepted>, Denied> {
        self.current(follows, ballot)?;
        self.promised = ballot;
        Ok(self.accepted.clone())
    }

    /// Accepts a map unless a higher ballot was promised. The answer may be sent once the register is stored.
    ///
    /// # Errors
    /// When it cannot accept.
    pub fn accept(&mut self, ballot: Ballot, map: Arc<ClusterMap>) -> Result<(), Denied> {
        let before = Epoch(map.epoch.0.saturating_sub(1));
        self.current((before, map.follows), ballot)?;
        self.promised = ballot;
        self.accepted = Some(Accepted { ballot, map });
        Ok(())
    }

    /// Takes a decided map over; whether it was new.
    ///
    /// # Errors
    /// When it is of another cluster, older, or another one of the same epoch.
    pub fn learn(&mut self, map: Arc<ClusterMap>) -> Result<bool, LearnError> {
        if map.cluster != self.map.cluster {
            return Err(LearnError::OtherCluster { own: self.map.cluster, theirs: map.cluster });
        }
        if map.epoch < self.map.epoch {
            return Err(LearnError::Older { own: self.map.epoch, offered: map.epoch });
        }
        let differs = || LearnError::Differs(map.epoch);
        if map.epoch == self.map.epoch {
            return if *map == *self.map { Ok(false) } else { Err(differs()) };
        }
        if map.epoch == self.map.epoch.next() && map.follows != self.digest {
            return Err(differs());
        }
        *self = Register::new(map.clone()).map_err(|_| differs())?;
        Ok(true)
    }
}

/// An attempt to have a map decided.
#[derive(Clone, Debug)]
pub struct Proposal {
    majority: usize,
    voters: BTreeSet<String>,
    /// Its ballot.
    pub ballot: Ballot,
    promises: BTreeMap<String, Option<Accepted>>,
    accepts: BTreeSet<String>,
}

impl Proposal {
    /// An attempt about the map after `base`.
    pub fn new(base: &ClusterMap, ballot: Ballot) -> Proposal {
        Proposal {
            majority: base.majority(),
            voters: base.voters().map(|member| member.name.clone()).collect(),
            ballot,
            promises: BTreeMap::new(),
            accepts: BTreeSet::new(),
        }
    }

    /// Counts a promise; whether a majority has promised.
    pub fn promised(&mut self, voter: &str, accepted: Option<Accepted>) -> bool {
        if self.voters.contains(voter) {
            self.promises.insert(voter.to_owned(), accepted);
        }
        self.promises.len() >= self.majority
    }

    /// What has to be proposed once a majority has promised: what may have been decided before, if anything.
    pub fn bound(&self) -> Option<Arc<ClusterMap>> {
        let accepted = self.promises.values().flatten();
        accepted.max_by_key(|accepted| accepted.ballot).map(|accepted| accepted.map.clone())
    }

    /// Counts an acceptance; whether the map is decided.
    pub fn accepted(&mut self, voter: &str) -> bool {
        if self.voters.contains(voter) {
            self.accepts.insert(voter.to_owned());
        }
        self.accepts.len() >= self.majority
    }
}

#[cfg(test)]
mod tests;
