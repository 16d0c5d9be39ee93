//! `kodiak cluster increase-part-power`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use kodiak_cluster::Change;

use crate::data;
use crate::operator::Operator;
use crate::output::say;

pub const EXAMPLES: &str = "Example: kodiak cluster increase-part-power 12 --data /srv/kodiak
At any time, under load. Rebalances even the devices out in smaller steps afterwards.";

/// See [`super::ClusterCommand::IncreasePartPower`].
#[derive(Args, Debug)]
pub struct IncreasePartPower {
    /// Bits: each ring that has fewer gets 2^N partitions, about 100 for each device.
    part_power: u8,
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
}

/// Grows the rings once all members take part in it.
pub fn run(arguments: IncreasePartPower) -> Result<()> {
    let mut operator = Operator::open(&arguments.data.unwrap_or_else(data::default_folder))?;
    operator.refresh()?;
    let before = operator.map().epoch;
    operator.change(Change::IncreasePartPower { power: arguments.part_power })?;
    let map = operator.map();
    if map.epoch == before {
        say!("Map {before}: all rings have as many partitions already.");
        return Ok(());
    }
    for (name, file, _) in map.rings() {
        say!("Map {}: the {name} ring has {} partitions.", map.epoch, file.builder()?.partitions());
    }
    Ok(())
}
