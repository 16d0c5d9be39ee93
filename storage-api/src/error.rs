//! What can go wrong on a storage node, by meaning.

use serde::{Deserialize, Serialize};

use crate::Refusal;

/// Why a storage node refused or failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum NodeError {
    /// The device holds a newer version or has promised to take none as old as this; it never will.
    #[error("{} is stored or promised already", .0.barrier)]
    Stale(Refusal),
    /// The account or container does not exist, or was deleted after the write's timestamp.
    #[error("no such account or container")]
    NoDirectory,
    /// A directory with rows cannot be deleted.
    #[error("the account or container is not empty")]
    NotEmpty,
    /// The block is not on this device.
    #[error("no such block")]
    NoBlock,
    /// No room for more data; deletes still work.
    #[error("the device is full")]
    Full,
    /// What is stored fails its checksum; it was not answered.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// Too much is waiting already; try again later.
    #[error("the device's queue is full")]
    Overloaded,
    /// The device failed or is being stopped.
    #[error("the device does not answer: {0}")]
    Unavailable(String),
    /// The rows are in another directory: the listing has been split since the asker looked.
    #[error("this part of the listing has moved")]
    Moved,
}
