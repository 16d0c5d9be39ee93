//! `kodiak up`: a store on this machine.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::data::{self, Shape};
use crate::endpoints::{self, Endpoints};
use crate::output::{say, tell};
use crate::serve;
use crate::settings::Settings;

const EXAMPLES: &str = "Examples:
  kodiak up                                        in the foreground, in ~/.local/share/kodiak
  kodiak up -d                                     in the background
  kodiak up --data /srv/kodiak --devices 4 --replicas 2
  kodiak up --data /tmp/try --listen 127.0.0.1:0   on a free port; see /tmp/try/endpoints.json";

/// How long a start in the background may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// See `kodiak up --help`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Up {
    /// Folder of the store; made the first time.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
    /// Where Swift and S3 are served; port 0 picks a free one. Default the first time: 127.0.0.1:8080.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Where metrics are served. Default the first time: the next port, or a free one with port 0.
    #[arg(long)]
    metrics: Option<SocketAddr>,
    /// Devices (folders) to make the first time.
    #[arg(long, default_value_t = 3)]
    devices: u16,
    /// Copies of everything, decided the first time.
    #[arg(long, default_value_t = 1)]
    replicas: u16,
    /// Return once the store is healthy, and leave it running.
    #[arg(short = 'd', long)]
    detach: bool,
}

/// Starts the store, or says that it runs.
pub fn run(arguments: Up) -> Result<()> {
    let folder = arguments.data.clone().unwrap_or_else(data::default_folder);
    let listen = arguments.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
    let next_port = if listen.port() == 0 { 0 } else { listen.port().wrapping_add(1) };
    let metrics = arguments.metrics.unwrap_or(SocketAddr::new(listen.ip(), next_port));
    let shape = Shape { devices: arguments.devices, replicas: arguments.replicas, listen, metrics };
    let made = data::create(&folder, &shape)?;
    let folder = folder.canonicalize().with_context(|| format!("cannot use {}", folder.display()))?;
    let Some(lock) = data::lock(&folder)? else { return already(&folder) };
    if made {
        tell!(
            "Made a store in {}: {} devices, {} replicas.",
            folder.display(),
            shape.devices,
            shape.replicas
        );
    }
    endpoints::remove(&folder)?;
    if arguments.detach {
        drop(lock);
        return detach(&folder, &arguments);
    }
    let mut settings = Settings::load(&folder.join(data::CONFIG))?;
    if let Some(listen) = arguments.listen {
        settings.proxy.listen = listen;
        settings.metrics.listen = settings.metrics.listen.map(|_| metrics);
    }
    let served = serve::serve(settings, |endpoints| {
        endpoints.save(&folder)?;
        tell!("Kodiak is up.\n\n{}", endpoints.describe());
        Ok(())
    });
    endpoints::remove(&folder)?;
    drop(lock);
    served
}

fn already(folder: &Path) -> Result<()> {
    match Endpoints::load(folder).filter(Endpoints::alive) {
        Some(endpoints) => {
            say!("Kodiak is already up, process {}.\n\n{}", endpoints.pid, endpoints.describe());
            Ok(())
        }
        None => bail!("another process is starting or stopping the store in {}", folder.display()),
    }
}

fn detach(folder: &Path, arguments: &Up) -> Result<()> {
    let log = folder.join("kodiak.log");
    let out = OpenOptions::new().create(true).append(true).open(&log);
    let out = out.with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("up").arg("--data").arg(folder);
    for (name, address) in [("--listen", arguments.listen), ("--metrics", arguments.metrics)] {
        if let Some(address) = address {
            command.arg(name).arg(address.to_string());
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out).process_group(0);
    let mut child = command.spawn().context("cannot start the store")?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(endpoints) = Endpoints::load(folder).filter(Endpoints::alive) {
            say!(
                "Kodiak is up, process {}; it logs to {}.\n\n{}",
                endpoints.pid,
                log.display(),
                endpoints.describe()
            );
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(5).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            bail!("the store ended ({status}):\n{}", last.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("the store is not healthy after {} s; see {}", PATIENCE.as_secs(), log.display())
}
