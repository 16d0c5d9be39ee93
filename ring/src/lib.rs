//! Placement: which devices hold a partition, and which partition holds a name.
//!
//! Pure: no clock, no async, no I/O but the ring file itself. In the order a request meets them:
//! [`PlacementKey`] hashes a name to a [`KeyHash`], whose first bits are its [`Place`]; at the power of a
//! [`Ring`] that is a [`Partition`], and the ring answers with the devices that hold it. Operators change it with a [`RingBuilder`].

mod builder;
mod error;
mod file;
#[doc(hidden)]
pub mod fuzzing;
mod handoff;
mod hash;
mod partition;
mod random;
mod rebalance;
mod report;
mod ring;
mod settle;
mod swift;
mod target;
mod topology;

pub use builder::{
    MAX_DEVICES, MAX_PART_POWER, MAX_REPLICAS, MAX_WEIGHT, NewDevice, Rebalanced, RingBuilder,
};
pub use error::RingError;
pub use hash::{KeyHash, PlacementKey, PolicyIndex};
pub use partition::{Partition, Partitions, Place};
pub use report::{DeviceLoad, Dispersion, TierDispersion};
pub use ring::{Device, Ring};
