//! The data folder that `kodiak up` makes: devices, rings, credentials, configuration.

use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kodiak_auth::{FixedUser, Secret};
use kodiak_ring::{NewDevice, RingBuilder};
use kodiak_storage_node::{DeviceSettings, NodeSettings};
use rand::RngCore;

use crate::settings::{ClusterSettings, MetricsSettings, ProxySettings, Settings};

/// The configuration in a data folder.
pub const CONFIG: &str = "kodiak.toml";
/// The file with the key that places names.
pub const PLACEMENT_KEY: &str = "placement.key";
/// Name of the one node in its rings.
const NODE: &str = "local";
/// Two to this many partitions: a hundred and more for each device of a small store, which may grow to
/// some tens of devices before they are too few.
pub const PART_POWER: u8 = 10;

/// What the first start decides.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Devices, as folders.
    pub devices: u16,
    /// Copies of everything, on as many devices.
    pub replicas: u16,
    /// Where Swift and S3 are served.
    pub listen: SocketAddr,
    /// Where metrics are served.
    pub metrics: SocketAddr,
}

/// Makes a data folder, unless it is there; whether it was made. The configuration is written last: a
/// folder without it was never used, and is made again.
pub fn create(data: &Path, shape: &Shape) -> Result<bool> {
    if data.join(CONFIG).exists() {
        return Ok(false);
    }
    let (devices, replicas) = (shape.devices, shape.replicas);
    ensure!(devices > 0 && replicas > 0, "at least one device and one replica are needed");
    ensure!(replicas <= devices, "{replicas} replicas need {replicas} devices, but there are {devices}");
    make_folder(data)?;
    make_folder(&data.join("rings"))?;
    let names = device_names(devices);
    for (seed, ring) in ["account.ring", "container.ring", "object-0.ring"].into_iter().enumerate() {
        make_ring(&data.join("rings").join(ring), &names, replicas, seed as u64)?;
    }
    make_placement_key(data)?;
    let cluster = ClusterSettings {
        node: NODE.into(),
        placement_key: PLACEMENT_KEY.into(),
        account_ring: Some("rings/account.ring".into()),
        container_ring: Some("rings/container.ring".into()),
        object_rings: vec!["rings/object-0.ring".into()],
        protection: Vec::new(),
        mode: Vec::new(),
        folder: None,
        listen: None,
    };
    let device = |name: &String| DeviceSettings { name: name.clone(), path: name.into() };
    let devices = names.iter().map(device).collect();
    write_settings(data, &settings(cluster, devices, (shape.listen, shape.metrics), vec![administrator()]))?;
    Ok(true)
}

/// Makes a folder that only its owner may enter.
pub fn make_folder(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Names of the first devices.
pub fn device_names(devices: u16) -> Vec<String> {
    (1..=devices).map(|number| format!("d{number}")).collect()
}

/// Makes the key that places names.
pub fn make_placement_key(data: &Path) -> Result<()> {
    let mut key = [0; 32];
    rand::rng().fill_bytes(&mut key);
    write_secret(&data.join(PLACEMENT_KEY), hex::encode(key).as_bytes())
}

/// Writes the configuration: afterwards the folder is one that is used.
pub fn write_settings(data: &Path, settings: &Settings) -> Result<()> {
    let text = toml::to_string_pretty(settings).context("cannot write the configuration")?;
    let text = format!(
        "# The configuration of this store: `kodiak run --config kodiak.toml` serves it too.\n{text}"
    );
    write_secret(&data.join(CONFIG), text.as_bytes())?;
    // The folder's own name must outlast a power loss as what is in it does.
    let parent = data.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(parent).and_then(|parent| parent.sync_all());
    synced.with_context(|| format!("cannot sync the folder {}", parent.display()))
}

fn make_ring(path: &Path, devices: &[String], replicas: u16, seed: u64) -> Result<()> {
    let mut ring = RingBuilder::new(PART_POWER, f64::from(replicas), 0, seed)?;
    for device in devices {
        ring.add_device(NewDevice::new(1, 1, NODE, device).weight(100.0))?;
    }
    ring.rebalance(0)?;
    ring.save(path).with_context(|| format!("cannot write the ring {}", path.display()))
}

/// A configuration with defaults for the rest; `addresses` are of the front door and of the metrics.
pub fn settings(
    cluster: ClusterSettings,
    devices: Vec<DeviceSettings>,
    addresses: (SocketAddr, SocketAddr),
    users: Vec<FixedUser>,
) -> Settings {
    Settings {
        cluster,
        proxy: ProxySettings {
            listen: addresses.0,
            server: Default::default(),
            swift: Default::default(),
            s3: Default::default(),
            read_affinity: Default::default(),
            write_affinity: Default::default(),
            reaper: Default::default(),
            token_life: 86_400,
            listing_rows: 0,
        },
        metrics: MetricsSettings { listen: Some(addresses.1) },
        storage: NodeSettings { devices, ..Default::default() },
        users,
    }
}

/// The first user, with random keys.
pub fn administrator() -> FixedUser {
    FixedUser {
        account: "kodiak".into(),
        name: "admin".into(),
        key: Secret::new(random_text(40)),
        access_key: Some(random_text(20).to_uppercase()),
        admin: true,
        reseller_admin: true,
    }
}

/// Random letters and digits, from the system's generator.
fn random_text(length: usize) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = vec![0; length];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

/// Writes a file that only its owner may read, at once and onto stable storage.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<()> {
    kodiak_cluster::file::replace(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// Held while a store runs in a folder.
pub struct Lock(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

/// Takes the folder for this process; none if another has it.
pub fn lock(data: &Path) -> Result<Option<Lock>> {
    let path = data.join("kodiak.lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Where `up` keeps its data if it is not told: `$XDG_DATA_HOME/kodiak`, or `~/.local/share/kodiak`.
pub fn default_folder() -> std::path::PathBuf {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME").map(Into::into).or_else(home);
    base.unwrap_or_else(|| "/var/lib".into()).join("kodiak")
}
