//! The ring that serving processes hold.

use crate::Partition;

/// A device of the ring.
#[derive(Clone, PartialEq, Debug)]
pub struct Device {
    /// Its number in this ring; stays when others come and go.
    pub id: u32,
    /// Region.
    pub region: u32,
    /// Zone within the region.
    pub zone: u32,
    /// The node that holds it, by name.
    pub node: String,
    /// Its name on the node.
    pub name: String,
    /// Share of the partitions it should get, relative to the others.
    pub weight: f64,
}

/// Which devices hold which partition.
pub struct Ring {}

#[allow(clippy::todo, unused_variables)]
impl Ring {
    /// Bits of the hash that choose the partition.
    pub fn part_power(&self) -> u8 {
        todo!()
    }

    /// Replicas of each partition.
    pub fn replicas(&self) -> usize {
        todo!()
    }

    /// Version of the ring; grows with each change.
    pub fn epoch(&self) -> u64 {
        todo!()
    }

    /// All devices, by ascending id.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        std::iter::empty()
    }

    /// The devices that hold a partition, in replica order.
    pub fn primaries(&self, partition: Partition) -> impl Iterator<Item = &Device> {
        std::iter::empty()
    }

    /// The other devices in the order in which they stand in for primaries.
    pub fn handoffs(&self, partition: Partition) -> impl Iterator<Item = &Device> {
        std::iter::empty()
    }
}
