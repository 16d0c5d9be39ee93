//! Replicas come back together by themselves, and nothing rots.
//!
//! Each local device has a task that compares and copies (`replicator`, `heal`), and one that reads
//! everything and finds what has rotted (`audit`). All of it works through [`StorageNode`], so that it does
//! the same in a simulation, and yields to clients: it has a rate, and waits while a device's queue is
//! full.

pub mod heal;
pub mod pace;
pub mod replicator;
mod worker;

pub use worker::{RepairSettings, run};
