//! The node as its callers use it: on real files, through crashes and lost power.

mod lossy;
mod power_loss;
mod restart;
mod rig;
mod space;
