//! `kodiak-bench micro`.

mod erasure;
mod list;
mod remote;
mod repair;
mod ring;
mod volume;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::facts::Machine;

/// Which part.
#[derive(Subcommand, Clone, Debug)]
pub enum MicroCommand {
    /// Lookups and rebalances of a large ring
    Ring(ring::RingArgs),
    /// Durable 4 KiB writes of a storage node, beside a file for each object
    Volume(volume::VolumeArgs),
    /// Listings of containers
    List(list::ListArgs),
    /// CPU time of durable 4 KiB writes to another machine
    Remote(remote::RemoteArgs),
    /// Comparing unchanged replicas, and refilling a wiped device
    Repair(repair::RepairArgs),
    /// Erasure codes
    Erasure(erasure::ErasureArgs),
}

/// What all take.
#[derive(Args, Clone, Debug)]
pub struct MicroArgs {
    /// Write the figures here
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What all that write to a disk take.
#[derive(Args, Clone, Debug)]
pub struct FolderArgs {
    /// Folder to write in, on the disk to measure; what is written is deleted again
    #[arg(long, default_value = ".")]
    pub folder: PathBuf,
    #[command(flatten)]
    pub common: MicroArgs,
}

/// Runs the command.
pub fn main(command: MicroCommand) -> anyhow::Result<()> {
    println!("{}\n", Machine::here().show());
    match command {
        MicroCommand::Ring(args) => ring::main(&args),
        MicroCommand::Volume(args) => volume::main(&args),
        MicroCommand::List(args) => list::main(&args),
        MicroCommand::Remote(args) => remote::main(&args),
        MicroCommand::Repair(args) => repair::main(&args),
        MicroCommand::Erasure(args) => erasure::main(&args),
    }
}

#[derive(Serialize)]
struct Figures<'a, T> {
    machine: Machine,
    benchmark: &'a str,
    figures: &'a T,
}

fn write_json<T: Serialize>(path: Option<&Path>, benchmark: &str, figures: &T) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_vec_pretty(&Figures { machine: Machine::here(), benchmark, figures })?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
