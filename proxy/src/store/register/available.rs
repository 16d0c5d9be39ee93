//! Registers of policies whose mode is `available`: what is newest wins, wherever it was accepted.
//!
//! A write is acknowledged when a majority's number of devices has it on stable storage: the name's own, and
//! for each that fails the next one that stands in. A read asks the name's own devices, and for each that fails
//! the next stand-in, and answers the newest version that any of them has. There are no promises and no
//! second ballots of a version: so replicas that are brought together (the repair) agree by comparing ballots.
//! A condition is looked at before the write, and not again. See `docs/consistency.md`, "Modes".

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kodiak_storage_api::{
    DirectoryChange, DirectoryWrite, NodeError, ObjectWrite, Refusal, Replica, RowDurability, Stamp,
    StoredVersion, Timestamp, Version,
};
use tokio::time::timeout;

use super::rounds::unanswered;
use super::{ATTEMPTS, Draft, GRACE, Proposal, Register, has_blocks, timed, undecided};
use crate::store::{StoreError, quorum};

/// What devices answered to a version.
#[derive(Default)]
struct Spread {
    accepted: usize,
    refusals: Vec<Refusal>,
    errors: Vec<NodeError>,
}

impl Register<'_> {
    /// As [`Register::write`]; the version's time is `time`, or that of its ballot.
    pub(super) async fn write_available(
        &self,
        version: Version,
        inline: Vec<Bytes>,
        at: Option<Timestamp>,
        time: Option<Timestamp>,
    ) -> Result<Version, StoreError> {
        for _ in 0..ATTEMPTS {
            let ballot = at.unwrap_or_else(|| self.store.clock.now());
            let version = timed(version.clone(), time.unwrap_or(ballot));
            let proposal =
                Proposal { version, stamp: Stamp::first(ballot), inline: inline.clone(), expect: None };
            let spread = self.spread(&proposal).await;
            if spread.accepted >= self.majority() {
                self.rows_available(&proposal).await?;
                return Ok(proposal.version);
            }
            spread.refusals.iter().for_each(|refusal| self.store.clock.observe(refusal.barrier));
            // Its blocks may have been queued for deletion where it was accepted and replaced.
            if spread.accepted > 0 && has_blocks(&proposal.version) {
                return Err(undecided());
            }
            match spread.refusals.iter().map(|refusal| refusal.barrier).max() {
                None => return Err(unanswered(spread.errors)),
                Some(newer) if at.is_some() => return Err(StoreError::Conflict(newer)),
                Some(_) => {}
            }
        }
        Err(undecided())
    }

    /// Offers a version to the name's devices, and to the next one for each that fails, until a majority's
    /// number has it. What has begun is finished in the background.
    async fn spread(&self, proposal: &Proposal) -> Spread {
        let mut seats = self.seats.iter();
        let offer = |replica: &Replica| {
            let write = ObjectWrite { row: None, ..self.object_write(0, proposal) };
            let replica = replica.clone();
            tokio::spawn(async move { replica.node.write_object(replica.device, write).await })
        };
        let mut asked: FuturesUnordered<_> = seats.by_ref().take(self.replicas.len()).map(offer).collect();
        let mut spread = Spread::default();
        while spread.accepted < self.majority() {
            let Some(answer) = asked.next().await else { break };
            let broken = |error: tokio::task::JoinError| Err(NodeError::Unavailable(error.to_string()));
            match answer.unwrap_or_else(broken) {
                Ok(()) => spread.accepted += 1,
                Err(NodeError::Stale(refusal)) => spread.refusals.push(refusal),
                Err(error) => {
                    spread.errors.push(error);
                    asked.extend(seats.next().map(offer));
                }
            }
        }
        spread
    }

    /// The row of a version: at one of the container's own devices at least, and at a majority's number with
    /// those that stand in. These get the container's record first.
    async fn rows_available(&self, proposal: &Proposal) -> Result<(), NodeError> {
        let needed = quorum::majority(self.containers.len());
        let row = proposal.version.row(&self.path, proposal.stamp.ballot);
        let write = |replica: Replica| {
            let (row, directory) = (row.clone(), self.directory);
            async move {
                let durability = RowDurability::Synced;
                let written = replica.node.write_rows(replica.device, directory, vec![row], durability).await;
                (replica, written)
            }
        };
        let mut asked: FuturesUnordered<_> =
            self.containers.iter().map(|replica| tokio::spawn(write(replica.clone()))).collect();
        let (mut done, mut gone, mut errors) = (Vec::new(), false, Vec::new());
        while done.len() < needed {
            match asked.next().await {
                Some(Ok((replica, Ok(())))) => done.push(replica),
                Some(Ok((_, Err(NodeError::NoDirectory)))) => gone = true,
                Some(Ok((_, Err(error)))) => errors.push(error),
                Some(Err(broken)) => errors.push(NodeError::Unavailable(broken.to_string())),
                None => break,
            }
        }
        let Some(holder) = done.first().cloned() else {
            return Err(if gone { NodeError::NoDirectory } else { super::super::error::worst(errors) });
        };
        let mut missing = needed.saturating_sub(done.len());
        let mut seats = self.container_seats.iter().skip(self.containers.len());
        while missing > 0 {
            let Some(seat) = seats.next() else { return Err(super::super::error::worst(errors)) };
            let given = async {
                self.give_container(&holder, seat).await?;
                write(seat.clone()).await.1
            };
            match given.await {
                Ok(()) => missing -= 1,
                Err(error) => errors.push(error),
            }
        }
        Ok(())
    }

    /// Lets a device that stands in know the container.
    async fn give_container(&self, from: &Replica, to: &Replica) -> Result<(), NodeError> {
        let info = from.node.read_directory(from.device, self.directory).await?;
        let directory = info.ok_or(NodeError::NoDirectory)?.directory;
        let write = DirectoryWrite {
            key: self.directory,
            name: directory.name.clone(),
            timestamp: directory.created.max(directory.deleted),
            change: DirectoryChange::Merge(Box::new(directory)),
        };
        to.node.write_directory(to.device, write).await.map(drop)
    }

    /// The newest version that any device has that answers. That there is none, only the name's own can say.
    pub(super) async fn read_available(&self, data: bool) -> Result<Option<StoredVersion>, StoreError> {
        let mut seats = self.seats.iter().enumerate();
        let ask = |(index, replica): (usize, &Replica)| {
            let (replica, key) = (replica.clone(), self.key);
            async move { (index, replica.node.read_object(replica.device, key, data).await) }
        };
        let mut asked: FuturesUnordered<_> = seats.by_ref().take(self.replicas.len()).map(ask).collect();
        let (mut answered, mut own, mut errors) = (0, false, Vec::new());
        let mut newest: Option<StoredVersion> = None;
        loop {
            let enough = answered >= self.majority();
            let next = if enough { timeout(GRACE, asked.next()).await } else { Ok(asked.next().await) };
            match next {
                Ok(Some((index, Ok(stored)))) => {
                    answered += 1;
                    own |= index < self.replicas.len();
                    newest = [newest, stored].into_iter().flatten().max_by_key(|stored| stored.stamp.ballot);
                }
                Ok(Some((_, Err(error)))) => {
                    errors.push(error);
                    asked.extend(seats.next().map(ask));
                }
                Ok(None) | Err(_) => break,
            }
        }
        if newest.is_some() || own { Ok(newest) } else { Err(unanswered(errors)) }
    }

    /// Looks, lets `decide` decide, and writes: what comes in between is not noticed.
    pub(super) async fn swap_available(
        &self,
        data: bool,
        decide: &mut (impl FnMut(Option<&StoredVersion>) -> Result<Draft, StoreError> + ?Sized),
    ) -> Result<Version, StoreError> {
        let seen = self.read_available(data).await?;
        let Draft { version, inline, at } = decide(seen.as_ref())?;
        self.store.clock.observe(seen.map_or(Timestamp::ZERO, |stored| stored.stamp.ballot));
        self.write_available(version, inline, None, at).await
    }

    /// The newest version, if every device that may have one answers: what it does not name, no record names.
    pub(in crate::store) async fn read_everywhere(&self) -> Result<Option<StoredVersion>, StoreError> {
        let mut newest: Option<StoredVersion> = None;
        for replica in &self.seats {
            let stored = replica.node.read_object(replica.device, self.key, false).await?;
            newest = [newest, stored].into_iter().flatten().max_by_key(|stored| stored.stamp.ballot);
        }
        Ok(newest)
    }
}
