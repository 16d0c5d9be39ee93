//! Placement: which devices hold a partition, and which partition holds a name.
//!
//! Pure: no clock, no async, no I/O but the ring file itself. In the order a request meets them:
//! [`PlacementKey`] hashes a name to a [`KeyHash`], [`KeyHash::partition`] cuts it to a [`Partition`],
//! and the ring answers with the devices that hold it.

mod hash;
mod ring;

pub use hash::{KeyHash, Partition, PlacementKey, PolicyIndex};
pub use ring::{Device, Ring};
