//! Replicas come back together by themselves, and nothing rots.
//!
//! Each local device has a task that compares what it holds with the other replicas and copies what is
//! lacking (`replicator`, `heal`), and one that reads everything and finds what has rotted (`audit`). All of it works through [`kodiak_storage_api::StorageNode`], so that it does the same in a
//! simulation, and it yields to clients: it has a rate, and waits while a device's queue is full.

pub mod audit;
mod fragments;
pub mod heal;
pub mod pace;
pub mod replicator;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::{Clock, DeviceIndex, Map, NodeError, Replica};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::disk::{Disk, SystemDisk};
use heal::Healer;
use pace::Pace;
use replicator::Pass;

/// Settings of the background repair.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepairSettings {
    /// Each device copies at most this many bytes a second. Default 64 MiB.
    pub rate: u64,
    /// Each device is audited at most at this many bytes a second. Default 16 MiB.
    pub audit_rate: u64,
    /// Seconds between two passes over a device. Default 30.
    pub interval: u64,
    /// Seconds for which a version that no majority holds is left to its writer. Default 30.
    pub quiet: u64,
    /// Seconds after which tombstones go, if all replicas have them. A device that was away for longer has
    /// to be wiped. Default 7 days.
    pub reclaim_age: u64,
}

impl Default for RepairSettings {
    fn default() -> RepairSettings {
        RepairSettings {
            rate: 64 << 20,
            audit_rate: 16 << 20,
            interval: 30,
            quiet: 30,
            reclaim_age: 7 * 24 * 3600,
        }
    }
}

/// How the repair of a device stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairStatus {
    /// Passes since the start.
    pub passes: u64,
    /// Partitions that differed in the last pass.
    pub differing: u64,
    /// Items copied since the start.
    pub copied: u64,
    /// Bytes copied since the start.
    pub bytes: u64,
    /// Items that the last pass could not bring together.
    pub failed: u64,
    /// Items that the device holds for others and could not give back in the last pass.
    pub waiting: u64,
    /// Tombstones reclaimed since the start.
    pub reclaimed: u64,
    /// It was away so long that what it holds for others may be what they have deleted.
    pub must_be_wiped: bool,
    /// Why the last pass ended early, if it did.
    pub error: Option<String>,
}

/// The map that is in force.
pub type CurrentMap = Arc<dyn Fn() -> Arc<Map> + Send + Sync>;

/// How often tombstones are looked for.
const RECLAIM_EVERY: Duration = Duration::from_secs(3600);
/// A pass that has left something to do is followed by another this soon.
const AGAIN: Duration = Duration::from_secs(2);

/// The background repair of this process's devices.
pub struct Repairer {
    settings: RepairSettings,
    node: String,
    map: CurrentMap,
    clock: Arc<Clock>,
    status: Mutex<BTreeMap<String, RepairStatus>>,
}

/// A device to repair: its place, name and folder (none in a simulation, where nothing is remembered).
#[derive(Clone, Debug)]
pub struct LocalDevice {
    /// Its place on the node.
    pub index: DeviceIndex,
    /// Its name.
    pub name: String,
    /// Where its files are.
    pub folder: Option<PathBuf>,
}

impl Repairer {
    /// For the devices of the node in this process that the rings call `node`.
    pub fn new(settings: RepairSettings, node: &str, map: CurrentMap, clock: Arc<Clock>) -> Arc<Repairer> {
        Arc::new(Repairer { settings, node: node.to_owned(), map, clock, status: Mutex::default() })
    }

    /// Repairs until `stop` changes: a task a device.
    pub fn run(self: &Arc<Self>, devices: impl Iterator<Item = LocalDevice>, stop: &watch::Receiver<bool>) {
        for device in devices {
            let (repairer, mut stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    _ = stop.changed() => {}
                    () = repairer.keep(device) => {}
                }
            });
        }
    }

    /// How the devices stand, by name.
    pub fn status(&self) -> BTreeMap<String, RepairStatus> {
        self.status.lock().clone()
    }

    /// Passes over a device for ever.
    async fn keep(&self, device: LocalDevice) {
        let pace = Arc::new(Pace::new(self.settings.rate));
        let mut contact = Contact::load(device.folder.as_deref(), self.clock.wall_micros());
        let mut reclaimed = Instant::now();
        loop {
            let healer = Healer {
                map: (self.map)(),
                clock: self.clock.clone(),
                pace: pace.clone(),
                quiet: Duration::from_secs(self.settings.quiet),
            };
            // As the map names it: a replica is known by that.
            let Some(node) = healer.map.node(&self.node).cloned() else {
                tokio::time::sleep(Duration::from_secs(self.settings.interval)).await;
                continue;
            };
            let local = Replica { node, device: device.index };
            let begun = self.clock.wall_micros();
            let lost = begun.saturating_sub(contact.micros) > self.settings.reclaim_age * 1_000_000;
            if lost {
                tracing::error!(
                    device = device.name,
                    "was away for longer than tombstones are kept: what it holds for others stays here; \
                     wipe the device"
                );
            }
            let pass = replicator::pass(&healer, &local, !lost).await;
            if !lost && pass.as_ref().is_ok_and(|pass| pass.complete) {
                contact.note(begun).await;
            }
            if reclaimed.elapsed() >= RECLAIM_EVERY {
                reclaimed = Instant::now();
                self.reclaim(&device, &healer, &local).await;
            }
            let again = pass.as_ref().is_ok_and(|pass| pass.filled > 0 || pass.healed.copied > 0);
            self.note(&device.name, pass, lost);
            let rest = if again { AGAIN } else { Duration::from_secs(self.settings.interval) };
            tokio::time::sleep(rest).await;
        }
    }

    async fn reclaim(&self, device: &LocalDevice, healer: &Healer, local: &Replica) {
        let age = Duration::from_secs(self.settings.reclaim_age);
        match replicator::reclaim(&healer.map, &self.clock, local, age).await {
            Ok(dropped) => {
                metrics::counter!("kodiak_repair_reclaimed_total", "device" => device.name.clone())
                    .increment(dropped);
                self.status.lock().entry(device.name.clone()).or_default().reclaimed += dropped;
            }
            Err(error) => tracing::debug!(device = device.name, %error, "tombstones stay for now"),
        }
    }

    fn note(&self, device: &str, pass: Result<Pass, NodeError>, lost: bool) {
        let mut status = self.status.lock();
        let status = status.entry(device.to_owned()).or_default();
        status.passes += 1;
        status.must_be_wiped = lost;
        let pass = match pass {
            Ok(pass) => pass,
            Err(error) => {
                tracing::warn!(device, %error, "a pass of the repair ended early");
                status.error = Some(error.to_string());
                return;
            }
        };
        status.error = None;
        (status.differing, status.failed, status.waiting) =
            (pass.differing, pass.healed.failed, pass.waiting);
        status.copied += pass.healed.copied;
        status.bytes += pass.healed.bytes;
        let label = || device.to_owned();
        metrics::counter!("kodiak_repair_items_total", "device" => label()).increment(pass.healed.copied);
        metrics::counter!("kodiak_repair_bytes_total", "device" => label()).increment(pass.healed.bytes);
        metrics::counter!("kodiak_repair_settled_total", "device" => label()).increment(pass.healed.settled);
        metrics::counter!("kodiak_repair_handed_back_total", "device" => label()).increment(pass.handed_back);
        metrics::gauge!("kodiak_repair_differing", "device" => label()).set(pass.differing as f64);
        metrics::gauge!("kodiak_repair_failed", "device" => label()).set(pass.healed.failed as f64);
        metrics::gauge!("kodiak_repair_waiting", "device" => label()).set(pass.waiting as f64);
        if pass.healed.copied > 0 || pass.handed_back > 0 || pass.filled > 0 {
            tracing::info!(
                device,
                copied = pass.healed.copied,
                bytes = pass.healed.bytes,
                handed_back = pass.handed_back,
                filled = pass.filled,
                failed = pass.healed.failed,
                "repaired"
            );
        }
    }
}

/// When the last pass began in which everything a device holds for others was compared with them.
struct Contact {
    micros: u64,
    file: Option<PathBuf>,
}

const CONTACT: &str = "contact.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredContact {
    micros: u64,
}

impl Contact {
    /// A device without a file holds nothing for others yet.
    fn load(folder: Option<&Path>, now: u64) -> Contact {
        let file = folder.map(|folder| folder.join(CONTACT));
        let stored = file.as_ref().and_then(|file| SystemDisk.read(file).ok());
        let micros = match stored {
            None => now,
            // Damaged: as if it had been away for ever.
            Some(bytes) => serde_json::from_slice(&bytes).map_or(0, |contact: StoredContact| contact.micros),
        };
        Contact { micros, file }
    }

    async fn note(&mut self, micros: u64) {
        self.micros = micros;
        let Some(file) = self.file.clone() else { return };
        let save = move || {
            let bytes = serde_json::to_vec(&StoredContact { micros }).map_err(std::io::Error::other)?;
            SystemDisk.replace(&file, &bytes)
        };
        match tokio::task::spawn_blocking(save).await {
            Ok(Ok(())) => {}
            failed => tracing::warn!(?failed, "the time of the last pass could not be kept"),
        }
    }
}
