//! The ring while it is being changed.

use crate::RingError;
use crate::rebalance;
use crate::ring::{Assignment, Device, Ring};

/// 2^24 partitions: 256 for each of the most devices, and 100 MB of memory at three replicas.
pub const MAX_PART_POWER: u8 = 24;
/// More replicas than any policy uses, erasure codes included.
pub const MAX_REPLICAS: f64 = 64.0;
/// Positions in the assignment are 16 bits wide and one value means "none".
pub const MAX_DEVICES: usize = 65_534;
/// Keeps sums of weights exact enough for targets.
pub const MAX_WEIGHT: f64 = 1e12;
/// Longest name of a node or device, in bytes.
const MAX_NAME: usize = 255;

/// A device to add; its id is given by the ring.
#[derive(Clone, PartialEq, Debug)]
pub struct NewDevice {
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

impl NewDevice {
    /// A device of weight 100 in the given place.
    pub fn new(region: u32, zone: u32, node: &str, name: &str) -> NewDevice {
        NewDevice { region, zone, node: node.to_owned(), name: name.to_owned(), weight: 100.0 }
    }

    /// The same with another weight.
    pub fn weight(self, weight: f64) -> NewDevice {
        NewDevice { weight, ..self }
    }
}

/// What a rebalance did.
#[derive(Clone, PartialEq, Debug)]
pub struct Rebalanced {
    /// Replicas that changed their device or were placed for the first time.
    pub moved: usize,
    /// Largest deviation of a device from its share by weight, in percent.
    pub balance: f64,
    /// Replicas that share a failure domain although others had room, in percent.
    pub dispersion: f64,
}

/// A ring with what is needed to change it. Each change raises the epoch; only
/// [`rebalance`](RingBuilder::rebalance) moves replicas.
#[derive(Clone, PartialEq, Debug)]
pub struct RingBuilder {
    pub(crate) part_power: u8,
    pub(crate) replicas: f64,
    pub(crate) min_part_hours: u32,
    pub(crate) overload: f64,
    pub(crate) seed: u64,
    pub(crate) epoch: u64,
    pub(crate) next_id: u32,
    /// By ascending id.
    pub(crate) devices: Vec<Device>,
    /// For each device: whether it leaves at the next rebalance.
    pub(crate) removed: Vec<bool>,
    /// None before the first rebalance.
    pub(crate) assignment: Option<Assignment>,
    /// For each partition: the hour after that in which a replica last moved; 0 for never.
    pub(crate) moved_at: Vec<u32>,
}

impl RingBuilder {
    /// An empty ring of 2^`part_power` partitions. After a replica of a partition moved, none of it
    /// moves for `min_part_hours`. The same `seed` and changes give the same ring.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn new(
        part_power: u8,
        replicas: f64,
        min_part_hours: u32,
        seed: u64,
    ) -> Result<RingBuilder, RingError> {
        if part_power > MAX_PART_POWER {
            return Err(RingError::PartPower(part_power));
        }
        let mut builder = RingBuilder {
            part_power,
            replicas: 1.0,
            min_part_hours,
            overload: 0.0,
            seed,
            epoch: 0,
            next_id: 0,
            devices: Vec::new(),
            removed: Vec::new(),
            assignment: None,
            moved_at: Vec::new(),
        };
        builder.set_replicas(replicas)?;
        builder.epoch = 1;
        Ok(builder)
    }

    /// Changes the replica count. A fraction gives that share of the partitions one replica more.
    ///
    /// # Errors
    /// When it is not between 1 and [`MAX_REPLICAS`].
    pub fn set_replicas(&mut self, replicas: f64) -> Result<(), RingError> {
        if !(1.0..=MAX_REPLICAS).contains(&replicas) {
            return Err(RingError::Replicas(replicas));
        }
        self.replicas = replicas;
        self.epoch += 1;
        Ok(())
    }

    /// By which factor a device may get more than its weight's share to keep replicas apart (0.1: 10%).
    ///
    /// # Errors
    /// When it is negative or not finite.
    pub fn set_overload(&mut self, overload: f64) -> Result<(), RingError> {
        if !(overload.is_finite() && overload >= 0.0) {
            return Err(RingError::Overload(overload));
        }
        self.overload = overload;
        self.epoch += 1;
        Ok(())
    }

    /// Changes for how many hours a partition rests after a replica moved.
    pub fn set_min_part_hours(&mut self, hours: u32) {
        self.min_part_hours = hours;
        self.epoch += 1;
    }

    /// Lets every partition move at the next rebalance, whenever it moved last.
    pub fn forget_moves(&mut self) {
        self.moved_at.fill(0);
        self.epoch += 1;
    }

    /// Raises the partition power: each partition becomes two or more, which are where it was. So nothing
    /// moves, and each half rests for as long as the whole would have; later rebalances move them one by one.
    /// Nothing changes if it is the power already.
    ///
    /// # Errors
    /// When it is lower, or above [`MAX_PART_POWER`].
    pub fn increase_part_power(&mut self, power: u8) -> Result<(), RingError> {
        if power > MAX_PART_POWER {
            return Err(RingError::PartPower(power));
        }
        let shrinks = RingError::Shrinks { now: self.part_power, wanted: power };
        let steps = power.checked_sub(self.part_power).ok_or(shrinks)?;
        if steps == 0 {
            return Ok(());
        }
        let copies = 1 << steps;
        if let Some(assignment) = &mut self.assignment {
            let rows = assignment.slots.chunks(assignment.stride);
            assignment.slots = rows.flat_map(|row| row.repeat(copies)).collect();
        }
        self.moved_at = self.moved_at.iter().flat_map(|hour| std::iter::repeat_n(*hour, copies)).collect();
        self.part_power = power;
        self.epoch += 1;
        Ok(())
    }

    /// Adds a device and returns its id. It gets partitions at the next rebalance.
    ///
    /// # Errors
    /// When a value is not valid, the device is there already, or the ring is full.
    pub fn add_device(&mut self, device: NewDevice) -> Result<u32, RingError> {
        check_weight(device.weight)?;
        check_name("node", &device.node)?;
        check_name("device", &device.name)?;
        let same = |(other, removed): &(&Device, &bool)| {
            !**removed && other.node == device.node && other.name == device.name
        };
        if let Some((other, _)) = self.devices.iter().zip(&self.removed).find(same) {
            return Err(RingError::DuplicateDevice { id: other.id, node: device.node, name: device.name });
        }
        if self.devices.len() >= MAX_DEVICES || self.next_id == u32::MAX {
            return Err(RingError::TooManyDevices);
        }
        let id = self.next_id;
        let NewDevice { region, zone, node, name, weight } = device;
        self.devices.push(Device { id, region, zone, node, name, weight });
        self.removed.push(false);
        self.next_id += 1;
        self.epoch += 1;
        Ok(id)
    }

    /// Takes a device out. Its replicas move at the next rebalance, whatever `min_part_hours` says.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn remove_device(&mut self, id: u32) -> Result<(), RingError> {
        let position = self.position(id)?;
        if self.assignment.is_none() {
            self.devices.remove(position);
            self.removed.remove(position);
        } else {
            self.removed[position] = true;
        }
        self.epoch += 1;
        Ok(())
    }

    /// Changes a device's weight; 0 drains it slowly, without breaking `min_part_hours`.
    ///
    /// # Errors
    /// When there is no such device or the weight is not valid.
    pub fn set_weight(&mut self, id: u32, weight: f64) -> Result<(), RingError> {
        check_weight(weight)?;
        let position = self.position(id)?;
        self.devices[position].weight = weight;
        self.epoch += 1;
        Ok(())
    }

    /// Places what has no device and moves as few replicas as weights and dispersion ask for, at most
    /// one of a partition (save those on removed devices) and none that moved within
    /// `min_part_hours`. `now` is in hours since any fixed moment.
    ///
    /// # Errors
    /// When there are fewer devices with weight than replicas.
    pub fn rebalance(&mut self, now: u32) -> Result<Rebalanced, RingError> {
        let moved = rebalance::run(self, now)?;
        self.epoch += 1;
        let dispersion = self.dispersion();
        Ok(Rebalanced { moved, balance: self.balance(), dispersion: dispersion.percent() })
    }

    /// The ring for servers, as of the last rebalance.
    ///
    /// # Errors
    /// [`RingError::NotBalanced`] before the first rebalance.
    pub fn ring(&self) -> Result<Ring, RingError> {
        let assignment = self.assignment.clone().ok_or(RingError::NotBalanced)?;
        Ok(Ring::new(self.part_power, self.epoch, self.devices.clone(), assignment))
    }

    /// Bits of the hash that choose the partition.
    pub fn part_power(&self) -> u8 {
        self.part_power
    }

    /// Number of partitions.
    pub fn partitions(&self) -> usize {
        1 << self.part_power
    }

    /// Replica count asked for; takes effect at a rebalance.
    pub fn replicas(&self) -> f64 {
        self.replicas
    }

    /// Hours that a partition rests after a move.
    pub fn min_part_hours(&self) -> u32 {
        self.min_part_hours
    }

    /// See [`set_overload`](RingBuilder::set_overload).
    pub fn overload(&self) -> f64 {
        self.overload
    }

    /// Grows with each change.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The seed of its randomness.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// All devices by ascending id; the flag says that it leaves at the next rebalance.
    pub fn devices(&self) -> impl Iterator<Item = (&Device, bool)> {
        self.devices.iter().zip(self.removed.iter().copied())
    }

    /// Replicas of all partitions together, at the count asked for.
    pub(crate) fn slots_wanted(&self) -> usize {
        (self.replicas * self.partitions() as f64).round() as usize
    }

    /// Weight that counts for placement: none for a device that leaves.
    pub(crate) fn effective_weight(&self, position: usize) -> f64 {
        if self.removed[position] { 0.0 } else { self.devices[position].weight }
    }

    fn position(&self, id: u32) -> Result<usize, RingError> {
        let found = self.devices.binary_search_by_key(&id, |device| device.id);
        found.ok().filter(|&position| !self.removed[position]).ok_or(RingError::UnknownDevice(id))
    }
}

pub(crate) fn check_weight(weight: f64) -> Result<(), RingError> {
    if (0.0..=MAX_WEIGHT).contains(&weight) { Ok(()) } else { Err(RingError::Weight(weight)) }
}

pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), RingError> {
    let valid = (1..=MAX_NAME).contains(&name.len()) && !name.contains(|c: char| c.is_control() || c == '/');
    if valid { Ok(()) } else { Err(RingError::Name { what, name: name.to_owned() }) }
}
