//! `kodiak down`: stops a store.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::data;
use crate::endpoints::Endpoints;
use crate::output::say;

/// Requests under way get 10 s, and a checkpoint follows.
const PATIENCE: Duration = Duration::from_secs(60);

/// See `kodiak down --help`.
#[derive(Args, Debug)]
#[command(after_help = "Example: kodiak down --data /srv/kodiak")]
pub struct Down {
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
}

/// Stops the store and waits until it is gone.
pub fn run(arguments: Down) -> Result<()> {
    let folder = arguments.data.unwrap_or_else(data::default_folder);
    if !folder.exists() || data::lock(&folder)?.is_some() {
        say!("No store is up in {}.", folder.display());
        return Ok(());
    }
    let Some(endpoints) = Endpoints::load(&folder) else {
        bail!("the store in {} is starting; try again", folder.display());
    };
    let pid = i32::try_from(endpoints.pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.context("endpoints.json has no process")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("cannot stop the store")?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if data::lock(&folder)?.is_some() {
            say!("Kodiak is down.");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("process {} is still there after {} s", endpoints.pid, PATIENCE.as_secs())
}
