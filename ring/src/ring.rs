//! The ring that serving processes hold.

use std::sync::Arc;

use crate::handoff::Handoffs;
use crate::topology::DomainIndex;
use crate::{Partition, Partitions, Place};

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

/// No device: the last replica of a partition that has one fewer than others (fractional counts).
pub(crate) const NO_DEVICE: u16 = u16::MAX;

/// Which device holds which replica: one row of positions in the device table for each partition,
/// so that a lookup touches one cache line.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Assignment {
    /// Length of a row: the replica count, rounded up.
    pub(crate) stride: usize,
    /// The rows, one after another.
    pub(crate) slots: Vec<u16>,
}

impl Assignment {
    /// Positions of the devices that hold `partition`.
    pub(crate) fn row(&self, partition: usize) -> &[u16] {
        let start = partition * self.stride;
        self.slots.get(start..start + self.stride).unwrap_or_default()
    }
}

/// Which devices hold which partition. Immutable; a clone is cheap and shares the tables.
#[derive(Clone)]
pub struct Ring {
    tables: Arc<Tables>,
}

pub(crate) struct Tables {
    pub(crate) part_power: u8,
    pub(crate) epoch: u64,
    pub(crate) devices: Vec<Device>,
    pub(crate) domains: DomainIndex,
    pub(crate) assignment: Assignment,
}

impl Tables {
    /// Positions of the devices that hold a partition; none of one of another power.
    pub(crate) fn row(&self, partition: Partition) -> &[u16] {
        match partition.power() == self.part_power {
            true => self.assignment.row(partition.number() as usize),
            false => &[],
        }
    }
}

impl Ring {
    /// A ring of checked parts: `devices` ascend by id, `assignment` names only positions in it.
    pub(crate) fn new(part_power: u8, epoch: u64, devices: Vec<Device>, assignment: Assignment) -> Ring {
        let domains = DomainIndex::new(&devices);
        Ring { tables: Arc::new(Tables { part_power, epoch, devices, domains, assignment }) }
    }

    /// Bits of the hash that choose the partition.
    pub fn part_power(&self) -> u8 {
        self.tables.part_power
    }

    /// Number of partitions: two to the partition power.
    pub fn partitions(&self) -> u32 {
        1 << self.tables.part_power
    }

    /// All of them.
    pub fn all_partitions(&self) -> Partitions {
        Partitions::all(self.tables.part_power)
    }

    /// The partition that something is in.
    pub fn partition_of(&self, place: Place) -> Partition {
        place.partition(self.tables.part_power)
    }

    /// Replicas of each partition; when the count is fractional, of those that have most.
    pub fn replicas(&self) -> usize {
        self.tables.assignment.stride
    }

    /// Version of the ring; grows with each change.
    pub fn epoch(&self) -> u64 {
        self.tables.epoch
    }

    /// All devices, by ascending id.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.tables.devices.iter()
    }

    /// The devices that hold a partition, in replica order; none when it is one of another power.
    pub fn primaries(&self, partition: Partition) -> impl Iterator<Item = &Device> {
        let row = self.tables.row(partition);
        row.iter().filter_map(|&position| self.tables.devices.get(usize::from(position)))
    }

    /// The other devices in the order in which they stand in for primaries: first those in regions,
    /// then zones, then nodes that hold no replica yet; devices of weight 0 last. The order is fixed
    /// for a ring and a partition, and differs between partitions so that stand-in load spreads.
    pub fn handoffs(&self, partition: Partition) -> impl Iterator<Item = &Device> {
        Handoffs::new(&self.tables, partition)
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("part_power", &self.part_power())
            .field("replicas", &self.replicas())
            .field("epoch", &self.epoch())
            .field("devices", &self.tables.devices.len())
            .finish()
    }
}
