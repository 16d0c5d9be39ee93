//! `kodiak node`: machines that leave a cluster.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use kodiak_cluster::{Change, change};

use crate::data;
use crate::operator::Operator;
use crate::output::say;

const DRAIN: &str = "Example: kodiak node drain n2 --data /srv/kodiak
Its devices get weight 0. When `kodiak cluster status` shows no partitions on it and its data have been copied,
`kodiak node remove n2`.";
const REMOVE: &str = "Examples:
  kodiak node remove n2 --data /srv/kodiak            after it was drained
  kodiak node remove n2 --data /srv/kodiak --force    after it was lost; the other replicas fill its place";
const REPLACE: &str = "Example: kodiak node replace n2 n4 --data /srv/kodiak
n4 has joined before. If it has not been up yet, it takes the place of n2 when it is; else at once.";

/// See `kodiak node --help`.
#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// Move everything away from a machine.
    #[command(after_help = DRAIN)]
    Drain(Named),
    /// Take a machine out of the cluster: its certificate is refused from then on.
    #[command(after_help = REMOVE)]
    Remove(Remove),
    /// Let one machine take the place of another.
    #[command(after_help = REPLACE)]
    Replace(Replace),
}

/// A machine.
#[derive(Args, Debug)]
pub struct Named {
    /// Its name.
    name: String,
    /// Folder of a member's store on this machine.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
}

/// See [`NodeCommand::Remove`].
#[derive(Args, Debug)]
pub struct Remove {
    #[command(flatten)]
    node: Named,
    /// Even if it still holds partitions: they are lost there.
    #[arg(long)]
    force: bool,
}

/// See [`NodeCommand::Replace`].
#[derive(Args, Debug)]
pub struct Replace {
    /// Who goes.
    old: String,
    /// Who takes its place.
    new: String,
    /// Folder of a member's store on this machine.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
}

/// Runs the command.
pub fn run(command: NodeCommand) -> Result<()> {
    let (change, name, data) = match command {
        NodeCommand::Drain(Named { name, data }) => (Change::Drain { name: name.clone() }, name, data),
        NodeCommand::Remove(Remove { node: Named { name, data }, force }) => {
            (Change::Remove { name: name.clone(), force }, name, data)
        }
        NodeCommand::Replace(Replace { old, new, data }) => {
            (Change::Replace { old, new: new.clone() }, new, data)
        }
    };
    let mut operator = Operator::open(&data.unwrap_or_else(data::default_folder))?;
    operator.change(change)?;
    let map = operator.map();
    let held = change::partitions_of(map, &name)?;
    match map.member(&name) {
        Some(_) => say!("Map {}: {name} is to hold {held} partitions.", map.epoch),
        None => say!("Map {}: {name} is no member any more.", map.epoch),
    }
    Ok(())
}
