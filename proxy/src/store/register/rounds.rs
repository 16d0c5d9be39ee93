//! One ballot at all replicas: accepting a version, promising, and the rows that go with a version.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kodiak_storage_api::{
    DirectoryKey, Home, NodeError, ObjectWrite, Promise, Refusal, Replica, RowDurability, RowTarget, Stamp,
    Timestamp, Tree,
};
use tokio::time::timeout;

use super::super::error::worst;
use super::{ATTEMPTS, GRACE, Proposal, Register};
use crate::store::{StoreError, handoff, quorum};

/// What the replicas answered to a version at one ballot.
pub(super) struct Round {
    replicas: usize,
    needed: usize,
    /// By replica: whether it has accepted the version at this ballot.
    accepted: Vec<bool>,
    /// By replica of the container: whether it has the row.
    rows: Vec<bool>,
    refusals: Vec<Refusal>,
    errors: Vec<NodeError>,
}

impl Round {
    fn count(&self) -> usize {
        self.accepted.iter().filter(|accepted| **accepted).count()
    }

    /// The version has taken effect.
    pub(super) fn chosen(&self) -> bool {
        self.count() >= self.needed
    }

    /// No replica has accepted the write at any ballot, and none will at this one.
    pub(super) fn never(&self) -> bool {
        self.refusals.len() == self.replicas && self.refusals.iter().all(|refusal| refusal.accepted.never())
    }

    /// A replica has taken part: more must be known before the write is tried again or given up.
    pub(super) fn contested(&self) -> bool {
        self.count() + self.refusals.len() > 0
    }

    /// The newest that a replica holds in its place.
    pub(super) fn held(&self) -> Option<Stamp> {
        self.refusals.iter().filter_map(|refusal| refusal.held).max_by_key(|held| held.ballot)
    }

    /// A replica holds something newer than this ballot.
    pub(super) fn outrun(&self, ballot: Timestamp) -> bool {
        self.held().is_some_and(|held| held.ballot > ballot)
    }

    /// It was refused by nobody: more replicas must answer.
    pub(super) fn unopposed(&self) -> bool {
        self.refusals.is_empty()
    }

    pub(super) fn error(&self) -> NodeError {
        worst(self.errors.clone())
    }
}

/// The promises of a majority.
pub(super) struct Promises {
    pub(super) ballot: Timestamp,
    pub(super) replicas: usize,
    /// By replica.
    pub(super) answers: Vec<(usize, Promise)>,
}

impl Promises {
    /// The newest version among them, and a replica that holds it.
    pub(super) fn newest(&self) -> Option<(usize, Stamp)> {
        let held = self.answers.iter().filter_map(|(index, promise)| Some((*index, promise.held?)));
        held.max_by_key(|(_, held)| held.ballot)
    }
}

impl Register<'_> {
    /// Offers a version to every replica but those that `have` it, until a majority has accepted it, or
    /// cannot any more: then the others are heard too. What has begun is finished in the background.
    pub(super) async fn accept(&self, proposal: &Proposal, have: &[usize]) -> Round {
        let mut round = Round {
            replicas: self.replicas.len(),
            needed: self.majority(),
            accepted: vec![false; self.replicas.len()],
            rows: vec![false; self.containers.len()],
            refusals: Vec::new(),
            errors: Vec::new(),
        };
        have.iter().for_each(|index| round.accepted[*index] = true);
        let others = self.replicas.iter().enumerate().filter(|(index, _)| !have.contains(index));
        if let [only] = self.replicas.as_slice() {
            let answer = self.offer(only, 0, proposal).await;
            self.count(&mut round, proposal, 0, answer);
            return round;
        }
        // Tasks, not bare futures: a write that has begun is finished even when the majority is reached.
        let offer = |(index, replica): (usize, &Replica)| {
            let answer = tokio::spawn(self.offer(replica, index, proposal));
            async move { (index, answer.await) }
        };
        let mut asked: FuturesUnordered<_> = others.map(offer).collect();
        while !round.chosen() {
            let hopeless = round.count() + asked.len() < self.majority();
            let next = if hopeless { timeout(GRACE, asked.next()).await } else { Ok(asked.next().await) };
            let Ok(Some((index, answer))) = next else { break };
            let broken = |error: tokio::task::JoinError| Err(NodeError::Unavailable(error.to_string()));
            self.count(&mut round, proposal, index, answer.unwrap_or_else(broken));
        }
        round
    }

    fn offer(
        &self,
        replica: &Replica,
        index: usize,
        proposal: &Proposal,
    ) -> impl Future<Output = Result<(), NodeError>> + Send + use<> {
        let write = self.object_write(index, proposal);
        let replica = replica.clone();
        async move { replica.node.write_object(replica.device, write).await }
    }

    pub(super) fn object_write(&self, index: usize, proposal: &Proposal) -> ObjectWrite {
        let target = |container: usize| RowTarget {
            directory: self.directory,
            device: self.containers[container].device,
        };
        let live = proposal.version.live().is_some();
        ObjectWrite {
            key: self.key,
            path: self.path.clone(),
            version: proposal.version.clone(),
            stamp: proposal.stamp,
            expect: proposal.expect,
            inline: if live { proposal.inline.clone() } else { Vec::new() },
            row: self.paired[index].map(target),
        }
    }

    fn count(&self, round: &mut Round, proposal: &Proposal, index: usize, answer: Result<(), NodeError>) {
        match answer {
            Ok(()) => {
                round.accepted[index] = true;
                self.paired[index].into_iter().for_each(|container| round.rows[container] = true);
            }
            // The version is stored; its row was not taken.
            Err(NodeError::NoDirectory | NodeError::Moved) => round.accepted[index] = true,
            // It was stored, and has been replaced since.
            Err(NodeError::Stale(refusal)) if refusal.accepted.ballots.contains(&proposal.stamp.ballot) => {
                round.accepted[index] = true;
            }
            Err(NodeError::Stale(refusal)) => round.refusals.push(refusal),
            Err(error) => round.errors.push(error),
        }
    }

    /// After a version was chosen: its row is on stable storage at a majority of the container's replicas
    /// when this returns. [`NodeError::NoDirectory`]: a majority says that there is no such container.
    pub(super) async fn finish(&self, proposal: &Proposal, round: &Round) -> Result<(), NodeError> {
        self.hand_off(proposal);
        self.rows(proposal, &round.rows).await
    }

    /// Gives a version that was chosen to devices that stand in for replicas that are down. Not before: one
    /// that was given up must not come back from where no coordinator looks.
    fn hand_off(&self, proposal: &Proposal) {
        let place = (Tree::Objects(self.key.policy), self.key.place());
        let stand_ins = handoff::stand_ins(&self.store.map(), place, &self.replicas);
        handoff::give(stand_ins, |replica| {
            let write = ObjectWrite { row: None, expect: None, ..self.object_write(0, proposal) };
            async move { replica.node.learn_object(replica.device, write).await }
        });
    }

    /// Writes a version's row to the replicas of the directory where it belongs; of the one that was known at
    /// first, some `have` it.
    pub(super) async fn rows(&self, proposal: &Proposal, have: &[bool]) -> Result<(), NodeError> {
        let first = (self.directory, self.containers.as_slice());
        match self.rows_at(first, &self.paired, proposal, have).await {
            Err(NodeError::Moved) => {}
            Err(NodeError::NoDirectory) if self.home != Home::Container => {}
            done => return done,
        }
        for attempt in 0..ATTEMPTS {
            let container = self.path.container_path();
            match self.store.learn_map(container).await {
                Ok(map) => {
                    let home = map.range_of(self.path.object()).home;
                    let part = self.store.part(container, home, Timestamp::ZERO);
                    let none = vec![false; part.replicas.len()];
                    match self.rows_at((part.key, &part.replicas), &[], proposal, &none).await {
                        Err(NodeError::Moved) => {}
                        Err(NodeError::NoDirectory) if home != Home::Container => {}
                        done => return done,
                    }
                }
                Err(StoreError::NoContainer) => return Err(NodeError::NoDirectory),
                Err(StoreError::Overloaded) => {}
                Err(error) => return Err(NodeError::Unavailable(error.to_string())),
            }
            self.pause(attempt).await;
        }
        Err(NodeError::Unavailable("the listing is being split, or deleted".into()))
    }

    /// Writes a version's row to the replicas of a directory that do not `have` it.
    async fn rows_at(
        &self,
        (directory, replicas): (DirectoryKey, &[Replica]),
        paired: &[Option<usize>],
        proposal: &Proposal,
        have: &[bool],
    ) -> Result<(), NodeError> {
        let needed = quorum::majority(replicas.len());
        let mut done = have.iter().filter(|have| **have).count();
        let paired = |index: &usize| paired.contains(&Some(*index));
        // Those that are paired get it with the object, late as it may be.
        let wanted = |index: &usize| !have[*index] && (done < needed || !paired(index));
        let row = proposal.version.row(&self.path, proposal.stamp.ballot);
        let write = |index: usize| {
            let (replica, row) = (replicas[index].clone(), row.clone());
            let write = async move {
                let durability = RowDurability::Synced;
                replica.node.write_rows(replica.device, directory, vec![row], durability).await
            };
            tokio::spawn(write)
        };
        let mut asked: FuturesUnordered<_> = (0..replicas.len()).filter(wanted).map(write).collect();
        let (mut gone, mut moved, mut errors) = (0, 0, Vec::new());
        while done < needed {
            match asked.next().await {
                Some(Ok(Ok(()))) => done += 1,
                Some(Ok(Err(NodeError::NoDirectory))) => gone += 1,
                Some(Ok(Err(NodeError::Moved))) => moved += 1,
                Some(Ok(Err(error))) => errors.push(error),
                Some(Err(broken)) => errors.push(NodeError::Unavailable(broken.to_string())),
                None => break,
            }
            if gone + moved + needed > replicas.len() {
                return Err(if moved > 0 { NodeError::Moved } else { NodeError::NoDirectory });
            }
        }
        if done >= needed {
            return Ok(());
        }
        if moved > 0 {
            return Err(NodeError::Moved);
        }
        if errors.is_empty() { Err(NodeError::NoDirectory) } else { Err(worst(errors)) }
    }

    /// Asks every replica to promise a ballot, until a majority has; with `all`, the others are heard too.
    /// None if so many refuse that none has.
    pub(super) async fn prepare(
        &self,
        ballot: Timestamp,
        origin: Timestamp,
        all: bool,
    ) -> Result<Option<Promises>, StoreError> {
        let ask = |(index, replica): (usize, &Replica)| {
            let (replica, key) = (replica.clone(), self.key);
            async move { (index, replica.node.prepare(replica.device, key, ballot, origin).await) }
        };
        let mut asked: FuturesUnordered<_> = self.replicas.iter().enumerate().map(ask).collect();
        let mut promises = Promises { ballot, replicas: self.replicas.len(), answers: Vec::new() };
        let (mut refused, mut errors) = (0, Vec::new());
        while promises.answers.len() < self.majority() || all {
            let enough = promises.answers.len() >= self.majority();
            let next = if enough { timeout(GRACE, asked.next()).await } else { Ok(asked.next().await) };
            match next {
                Ok(Some((index, Ok(promise)))) => promises.answers.push((index, promise)),
                Ok(Some((_, Err(NodeError::Stale(refusal))))) => {
                    self.store.clock.observe(refusal.barrier);
                    refused += 1;
                }
                Ok(Some((_, Err(error)))) => errors.push(error),
                Ok(None) | Err(_) => break,
            }
        }
        if promises.answers.len() >= self.majority() {
            return Ok(Some(promises));
        }
        if refused > 0 { Ok(None) } else { Err(unanswered(errors)) }
    }

    /// Lets the clock know what stands in the way of a ballot.
    pub(super) fn learn(&self, round: &Round) {
        round.refusals.iter().for_each(|refusal| self.store.clock.observe(refusal.barrier));
    }
}

/// Too few replicas answer.
pub(super) fn unanswered(errors: Vec<NodeError>) -> StoreError {
    worst(errors).into()
}
