//! The node as its callers use it: on real files, through crashes and lost power.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod cluster;
mod digests;
mod lossy;
mod power_loss;
mod repair;
mod restart;
mod rig;
mod space;
