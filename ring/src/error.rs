//! What can go wrong with a ring.

use std::path::PathBuf;

use crate::builder::{MAX_DEVICES, MAX_PART_POWER, MAX_REPLICAS, MAX_WEIGHT};

/// Errors of building, reading and writing rings. The text says which value was wrong and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The partition power is too large.
    #[error("partition power {0} is out of range: choose 0 to {MAX_PART_POWER}")]
    PartPower(u8),
    /// A partition power never shrinks.
    #[error("the partition power is {now} and cannot shrink to {wanted}: make a new ring")]
    Shrinks {
        /// What it is.
        now: u8,
        /// What it was to be.
        wanted: u8,
    },
    /// The replica count is no number, too small or too large.
    #[error("replica count {0} is out of range: choose 1 to {MAX_REPLICAS}")]
    Replicas(f64),
    /// The overload is negative or no number.
    #[error("overload {0} is not valid: give a factor of 0 or more, for example 0.1 for 10%")]
    Overload(f64),
    /// The weight is negative, too large or no number.
    #[error(
        "weight {0} is not valid: give 0 (drain the device) to {MAX_WEIGHT}, for example its size in GiB"
    )]
    Weight(f64),
    /// A node's or device's name is empty or too long.
    #[error("{what} {name:?} is not valid: give 1 to 255 bytes without control characters or '/'")]
    Name {
        /// Which of the two names.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The device is in the ring already.
    #[error("device {name} on node {node} is in the ring already, with id {id}: use set-weight to change it")]
    DuplicateDevice {
        /// Its id.
        id: u32,
        /// Its node.
        node: String,
        /// Its name.
        name: String,
    },
    /// No such device.
    #[error("the ring has no device with id {0}: `kodiak ring show` lists them")]
    UnknownDevice(u32),
    /// The ring is full.
    #[error("a ring holds at most {MAX_DEVICES} devices")]
    TooManyDevices,
    /// Fewer devices than replicas: two replicas would share a device.
    #[error(
        "{replicas} replicas need as many devices with a weight above 0, and the ring has {devices}: add devices or lower the replica count"
    )]
    TooFewDevices {
        /// Replicas asked for, rounded up.
        replicas: usize,
        /// Devices that may hold a replica.
        devices: usize,
    },
    /// The ring has no assignment yet.
    #[error("the ring was never rebalanced: run `kodiak ring rebalance` first")]
    NotBalanced,
    /// Reading or writing failed.
    #[error("{action} {} failed: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The bytes are not a ring file.
    #[error(
        "this is not a Kodiak ring file (it does not begin with its magic): check the path, or use `kodiak ring import` for a Swift ring"
    )]
    NotARing,
    /// The file is of a version that this program does not know.
    #[error(
        "the ring file has format version {found}, this program reads version {known}: use the Kodiak version that wrote it, or a newer one"
    )]
    Version {
        /// In the file.
        found: u32,
        /// What this program reads.
        known: u32,
    },
    /// The file ends early.
    #[error(
        "the ring file is cut short ({len} bytes): copy it again from another node or restore the backup"
    )]
    Truncated {
        /// Length found.
        len: usize,
    },
    /// The checksum does not fit the content.
    #[error(
        "the ring file is damaged (its checksum does not fit): copy it again from another node or restore the backup"
    )]
    Checksum,
    /// The checksum fits but the content makes no sense.
    #[error("the ring file is inconsistent: {0}; restore a backup")]
    Corrupt(String),
    /// A Swift ring could not be imported.
    #[error("cannot import this Swift ring: {0}")]
    Swift(String),
}
