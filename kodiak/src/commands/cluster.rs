//! `kodiak cluster`: looks at a store.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::json;

use crate::data;
use crate::endpoints::Endpoints;
use crate::serve;
use crate::settings::Settings;

/// See `kodiak cluster --help`.
#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Whether the store is up, its devices and their room.
    #[command(after_help = "Example: kodiak cluster status --data /srv/kodiak --json")]
    Status {
        /// Folder of the store.
        #[arg(long, env = "KODIAK_DATA")]
        data: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub fn run(command: ClusterCommand) -> Result<()> {
    let ClusterCommand::Status { data, json } = command;
    let folder = data.unwrap_or_else(data::default_folder);
    let settings = Settings::load(&folder.join(data::CONFIG))?;
    let placement = serve::placement(&settings)?;
    let running = Endpoints::load(&folder).filter(Endpoints::alive);
    let mut devices = Vec::new();
    for device in &settings.storage.devices {
        let room = rustix::fs::statvfs(&device.path);
        let room = room.with_context(|| format!("device {} at {}", device.name, device.path.display()))?;
        devices.push(json!({
            "name": device.name,
            "path": device.path,
            "available_bytes": room.f_bavail * room.f_frsize,
            "size_bytes": room.f_blocks * room.f_frsize,
        }));
    }
    let ring = &placement.objects.first().context("no object ring")?.ring;
    let status = json!({
        "up": running.is_some(),
        "pid": running.as_ref().map(|endpoints| endpoints.pid),
        "replicas": ring.replicas(),
        "partitions": ring.partitions(),
        "devices": devices,
    });
    if json {
        println!("{status:#}");
        return Ok(());
    }
    match &running {
        Some(endpoints) => println!("up, process {}, {}", endpoints.pid, endpoints.s3.url),
        None => println!("down"),
    }
    println!("{} replicas, {} partitions", ring.replicas(), ring.partitions());
    for device in devices {
        let gib = |name: &str| device[name].as_u64().unwrap_or(0) as f64 / f64::from(1 << 30);
        let name = device["name"].as_str().unwrap_or("");
        println!("{name:8} {:8.1} GiB free of {:.1}", gib("available_bytes"), gib("size_bytes"));
    }
    Ok(())
}
