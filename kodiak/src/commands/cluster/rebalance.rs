//! `kodiak cluster rebalance`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use kodiak_cluster::Change;

use crate::data;
use crate::operator::Operator;
use crate::output::say;

pub const EXAMPLES: &str = "Example: kodiak cluster rebalance --data /srv/kodiak
Run it again when the copies of the last one are complete, until nothing moves.";

/// See [`super::ClusterCommand::Rebalance`].
#[derive(Args, Debug)]
pub struct Rebalance {
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
}

/// Rebalances all rings once.
pub fn run(arguments: Rebalance) -> Result<()> {
    let mut operator = Operator::open(&arguments.data.unwrap_or_else(data::default_folder))?;
    operator.refresh()?;
    let before = operator.map().epoch;
    operator.change(Change::Rebalance)?;
    let map = operator.map();
    if map.epoch == before {
        say!("Map {before}: nothing moves.");
        return Ok(());
    }
    for (name, file, _) in map.rings() {
        say!("Map {}: the {name} ring has a balance of {:.2}%.", map.epoch, file.builder()?.balance());
    }
    Ok(())
}
