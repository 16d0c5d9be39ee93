//! One file for each command.

pub mod cluster;
pub mod config;
pub mod device;
pub mod down;
pub mod node;
pub mod ring;
pub mod run;
pub mod up;
