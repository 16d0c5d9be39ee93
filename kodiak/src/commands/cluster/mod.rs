//! `kodiak cluster`: makes machines a cluster, and looks at it.

mod dispersion;
mod init;
mod jobs;
mod join;
mod policy;
mod power;
mod rebalance;
mod status;
mod token;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use kodiak_cluster::disk::Slot;
use kodiak_storage_node::DeviceSettings;

use crate::data;
use crate::settings::ClusterSettings;

/// Folder of a member in its data folder.
const FOLDER: &str = "cluster";

/// See `kodiak cluster --help`.
#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Begin a cluster on this machine; `kodiak up` then serves it.
    #[command(after_help = init::EXAMPLES)]
    Init(init::Init),
    /// Print a token with which one more machine may join.
    #[command(after_help = token::EXAMPLES)]
    Token(token::MakeToken),
    /// Make this machine a member; `kodiak up` then puts its devices into use.
    #[command(after_help = join::EXAMPLES)]
    Join(join::Join),
    /// The storage policies: what there are, new ones, and changes of them.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Give the rings more partitions, when there are many more devices: nothing moves by that.
    #[command(after_help = power::EXAMPLES)]
    IncreasePartPower(power::IncreasePartPower),
    /// Even the devices out: moves at most one replica of each partition a time.
    #[command(after_help = rebalance::EXAMPLES)]
    Rebalance(rebalance::Rebalance),
    /// Which replicas are where the rings want them, as the devices say.
    #[command(after_help = dispersion::EXAMPLES)]
    Dispersion(dispersion::DispersionReport),
    /// Who is up, with which map, devices and certificates; how well replicas are kept apart.
    #[command(after_help = status::EXAMPLES)]
    Status(status::Status),
}

/// Runs the command.
pub fn run(command: ClusterCommand) -> Result<()> {
    match command {
        ClusterCommand::Init(arguments) => init::run(arguments),
        ClusterCommand::Token(arguments) => token::run(arguments),
        ClusterCommand::Join(arguments) => join::run(arguments),
        ClusterCommand::Policy(command) => policy::run(command),
        ClusterCommand::IncreasePartPower(arguments) => power::run(arguments),
        ClusterCommand::Rebalance(arguments) => rebalance::run(arguments),
        ClusterCommand::Dispersion(arguments) => dispersion::run(arguments),
        ClusterCommand::Status(arguments) => status::run(arguments),
    }
}

/// What a machine says about itself, to begin a cluster or to join one.
#[derive(Args, Debug)]
struct MachineArguments {
    /// Folder of the store; made by this.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
    /// Where Swift and S3 are served; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where metrics are served. Default: the port after that of --cluster-listen on the loopback, or a free one.
    #[arg(long)]
    metrics: Option<SocketAddr>,
    /// Where the other machines reach this one; port 0 picks a free one.
    #[arg(long)]
    cluster_listen: SocketAddr,
    /// Zone: what fails together, such as a rack or a room.
    #[arg(long, default_value_t = 1)]
    zone: u32,
    /// Region: the widest failure domain.
    #[arg(long, default_value_t = 1)]
    region: u32,
    /// Devices (folders in the data folder) to make.
    #[arg(long, conflicts_with = "device")]
    devices: Option<u16>,
    /// An empty folder, the root of a file system of its own, that becomes a device. Repeat it for more.
    #[arg(long)]
    device: Vec<PathBuf>,
}

impl MachineArguments {
    fn folder(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(data::default_folder)
    }

    fn check(&self) -> Result<()> {
        ensure!(
            !self.cluster_listen.ip().is_unspecified(),
            "--cluster-listen {} names no address that the other machines can reach: give one of this machine's own",
            self.cluster_listen
        );
        ensure!(self.devices != Some(0), "at least one device is needed");
        let folder = self.folder();
        let used = folder.join(data::CONFIG);
        ensure!(
            !used.exists(),
            "{} holds a store already: choose another folder with --data, or move it away first",
            folder.display()
        );
        Ok(())
    }

    fn metrics(&self) -> SocketAddr {
        let port = self.cluster_listen.port();
        let next = if port == 0 { 0 } else { port.wrapping_add(1) };
        self.metrics.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], next)))
    }

    fn devices(&self) -> Result<Vec<DeviceSettings>> {
        let names = data::device_names(self.device.len().try_into()?);
        if self.device.is_empty() {
            let names = data::device_names(self.devices.unwrap_or(3)).into_iter();
            return Ok(names.map(|name| DeviceSettings { path: name.clone().into(), name }).collect());
        }
        let device = |(name, path): (String, &PathBuf)| {
            let path = std::path::absolute(path)?;
            Ok(DeviceSettings { name, path })
        };
        names.into_iter().zip(&self.device).map(device).collect()
    }

    fn slots(&self) -> Result<Vec<Slot>> {
        let folder = self.folder();
        let devices = self.devices()?.into_iter();
        Ok(devices.map(|device| Slot { path: folder.join(&device.path), device: device.name }).collect())
    }

    fn settings(&self, node: &str) -> ClusterSettings {
        ClusterSettings {
            node: node.to_owned(),
            placement_key: data::PLACEMENT_KEY.into(),
            account_ring: None,
            container_ring: None,
            object_rings: Vec::new(),
            protection: Vec::new(),
            mode: Vec::new(),
            folder: Some(FOLDER.into()),
            listen: Some(self.cluster_listen),
        }
    }
}

/// Seconds since 1970.
fn seconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
