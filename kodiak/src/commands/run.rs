//! `kodiak run`: serves a configuration.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::settings::Settings;

/// See `kodiak run --help`.
#[derive(Args, Debug)]
#[command(after_help = "Example: kodiak run --config /etc/kodiak/kodiak.toml
Each section of the file is a role that runs. Logs go to standard error; KODIAK_LOG filters them.")]
pub struct Run {
    /// The configuration.
    #[arg(long, env = "KODIAK_CONFIG")]
    config: PathBuf,
}

/// Serves until it is told to stop.
pub fn run(arguments: Run) -> Result<()> {
    crate::serve::serve(Settings::load(&arguments.config)?, |_| Ok(()))
}
