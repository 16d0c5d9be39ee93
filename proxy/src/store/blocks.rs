//! Blocks of objects on their way to devices and back.
//!
//! A block never changes, and its key is of one upload: whichever device has it, verified by its checksum, has
//! the right bytes. So which devices count for its durability is a matter of where copies are to be, not of
//! consistency. Usually they are the ring's. With a write affinity they are the nearest ones: first the
//! ring's that are near, then near ones that stand in, and others only where those fail. In a policy that is
//! `available` others stand in for those that fail, too. A write is acknowledged when a majority's number of devices has it on stable storage; the repair brings it home.

use bytes::Bytes;
use kodiak_storage_api::{
    BlockKey, BlockWrite, DataId, Extent, Health, Mode, NodeError, ObjectPath, PolicyIndex, Replica,
    STAND_INS, Seat, Tree,
};

use super::affinity::WriteAffinity;
use super::{Store, StoreError, handoff, hedge, quorum};

impl Store {
    /// Where blocks go at first from now on.
    pub fn set_write_affinity(&self, affinity: WriteAffinity) {
        self.write_affinity.store(std::sync::Arc::new(affinity));
    }

    /// Writes one block to a majority of its replicas, or with a write affinity to so many devices: on stable
    /// storage there when this returns.
    pub(super) async fn write_block(
        &self,
        owner: &ObjectPath,
        policy: PolicyIndex,
        id: (DataId, u32),
        (digest, data): ([u8; 32], Bytes),
    ) -> Result<(), StoreError> {
        let key = self.map().block(policy, id.0, id.1)?;
        if let Some(fragments) = self.fragments(key, data.len())? {
            return fragments.write(owner, data).await;
        }
        let replicas = self.map().block_replicas(policy, key.place)?;
        let write = |_, replica: Replica| {
            let block = BlockWrite { key, owner: owner.clone(), digest, data: vec![data.clone()] };
            async move { replica.node.write_block(replica.device, block).await }
        };
        let place = (Tree::Blocks(policy), key.place);
        let affinity = self.write_affinity.load();
        if !affinity.is_empty() || self.map().mode(policy)? == Mode::Available {
            let copies = replicas.len();
            let targets = nearest(self.map().near_seats(place.0, place.1)?, &affinity, copies);
            let write = |replica: Replica| write(0, replica);
            return Ok(quorum::write_any(quorum::majority(copies), copies, targets, write).await?);
        }
        handoff::give(handoff::stand_ins(&self.map(), place, &replicas), |replica| write(0, replica));
        quorum::write(replicas, write).await?;
        Ok(())
    }

    /// Verified bytes of a block: from one of its replicas, or else from a device that stands in for them.
    pub(super) async fn read_copy(
        &self,
        key: BlockKey,
        range: std::ops::Range<u32>,
    ) -> Result<Bytes, StoreError> {
        let replicas = self.map().block_replicas(key.policy, key.place)?;
        let failed = match read_from(&replicas, key, &range).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        let seats = self.map().near_seats(Tree::Blocks(key.policy), key.place)?;
        let others: Vec<Replica> =
            seats.into_iter().filter(|seat| !seat.primary).map(|seat| seat.replica).collect();
        match read_from(&others, key, &range).await {
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(failed.into()),
        }
    }

    /// Deletes the blocks of extents wherever a replica of them may be.
    pub(super) async fn delete_extents(
        &self,
        policy: PolicyIndex,
        extents: &[Extent],
    ) -> Result<(), StoreError> {
        for extent in extents {
            for index in 0..extent.blocks() {
                let key = self.map().block(policy, extent.data, index)?;
                let fragmented = self.map().codec(policy)?.is_some();
                for (fragment, replica) in
                    self.map().block_replicas(policy, key.place)?.into_iter().enumerate()
                {
                    let key = if fragmented { key.of_fragment(fragment) } else { key };
                    replica.node.delete_blocks(replica.device, vec![key]).await?;
                }
            }
        }
        Ok(())
    }
}

/// Devices in the order in which a block is offered to them: near ones, the block's own first; its own that
/// are far; and the others.
fn nearest(seats: Vec<Seat>, affinity: &WriteAffinity, copies: usize) -> Vec<Replica> {
    let (near, far): (Vec<Seat>, Vec<Seat>) = seats.into_iter().partition(|seat| affinity.holds(seat));
    let (near, spare) = near.split_at(near.len().min(STAND_INS * copies));
    let (own, others): (Vec<Seat>, Vec<Seat>) = far.into_iter().partition(|seat| seat.primary);
    let order = near.iter().chain(&own).chain(spare).chain(&others);
    order.map(|seat| seat.replica.clone()).collect()
}

async fn read_from(
    replicas: &[Replica],
    key: BlockKey,
    range: &std::ops::Range<u32>,
) -> Result<Bytes, NodeError> {
    let health: Vec<Health> = replicas.iter().map(|replica| replica.node.health()).collect();
    let ask = |index: usize| {
        let (replica, range) = (replicas[index].clone(), range.clone());
        async move {
            let read = replica.node.read_block(replica.device, key, range).await;
            read.inspect_err(|error| match error {
                // That a node does not answer is said once, not with each block.
                NodeError::Unavailable(_) | NodeError::Overloaded => {
                    tracing::debug!(?key, %error, "a replica of a block is not available");
                }
                _ => tracing::warn!(?key, %error, "a replica of a block could not be read"),
            })
        }
    };
    let (mut answers, errors) = hedge::ask(&health, 1, hedge::PIECE_SLACK, ask).await;
    answers.pop().map(|(_, bytes)| bytes).ok_or_else(|| super::error::worst(errors))
}
