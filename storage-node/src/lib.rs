//! The storage node: account, container and object servers on RocksDB and volumes.
//!
//! Knows neither HTTP nor users. In the order a write meets them: [`Node`] finds the device, `device`
//! queues for its `writer`, which gathers a `group` of `needle`s into one write and one sync of a
//! `volume`, and then applies them to the `index` and the `directories`. `recover` brings back from the
//! volumes what the indexes lack; `compact` gives back room, `sweep` that of interrupted uploads.
//!
//! `server` serves a node to other machines.
//!
//! The log is the store: volumes are the only durable copy, and RocksDB is a view of them that is
//! flushed at checkpoints and can be made anew.

mod apply;
mod audit;
mod calls;
mod compact;
mod device;
mod digests;
mod directories;
pub mod disk;
mod forget;
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod held;
mod index;
mod listing;
mod needle;
mod node;
mod promise;
mod quarantine;
mod read;
mod recover;
pub mod repair;
mod scan;
mod server;
mod sweep;
mod trees;
mod volume;
mod work;
mod writer;

pub use audit::{AuditCursor, Audited};
pub use held::{Assignment, Begins};
pub use node::{DeviceSettings, DeviceStatus, Node, NodeSettings, OpenError};
pub use server::{Body, Extension, Server, ServerSettings};
