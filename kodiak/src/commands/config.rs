//! `kodiak config`: checks configurations.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use crate::output::say;
use crate::serve;
use crate::settings::Settings;

/// See `kodiak config --help`.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Read a configuration and the files it names, and say what is wrong with them.
    #[command(after_help = "Example: kodiak config check /etc/kodiak/kodiak.toml")]
    Check {
        /// The configuration.
        file: PathBuf,
    },
}

/// Runs the command.
pub fn run(command: ConfigCommand) -> Result<()> {
    let ConfigCommand::Check { file } = command;
    let settings = Settings::load(&file)?;
    serve::placement(&settings)?;
    say!("{} is right.", file.display());
    Ok(())
}
