//! Replicas come back together by themselves, and nothing rots.
//!
//! Each local device has a task that compares what it holds with the other replicas and copies what is
//! lacking (`replicator`, `heal`), and one that reads everything and finds what has rotted (`audit`). All of it works through [`kodiak_storage_api::StorageNode`], so that it does the same in a
//! simulation, and it yields to clients: it has a rate, and waits while a device's queue is full.

pub mod audit;
mod fragments;
pub mod heal;
pub mod replicator;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::jobs::{Cursor, Job, JobKind, Jobs, LocalDevice, Pace};
use kodiak_storage_api::{Clock, Map, Replica, Said};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::disk::{Disk, SystemDisk};
use heal::Healer;
use replicator::{Pass, PassJobs};

/// Settings of what runs in the background.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepairSettings {
    /// Each device copies at most this many bytes a second. Default 64 MiB.
    pub rate: u64,
    /// Each device is audited at most at this many bytes a second. Default 16 MiB.
    pub audit_rate: u64,
    /// Each device drops at most this many tombstones a second. Default 10,000.
    pub reclaim_rate: u64,
    /// Each device looks at most at this many blocks a second for such that no record names. Default 20,000.
    pub garbage_rate: u64,
    /// Each device works off at most this many items a second of each of its queues: expired objects, totals of
    /// containers, replaced blocks. Default 2,000.
    pub queue_rate: u64,
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
            reclaim_rate: 10_000,
            garbage_rate: 20_000,
            queue_rate: 2_000,
            interval: 30,
            quiet: 30,
            reclaim_age: 7 * 24 * 3600,
        }
    }
}

/// The map that is in force.
pub type CurrentMap = Arc<dyn Fn() -> Arc<Map> + Send + Sync>;

/// How often tombstones are looked for.
const RECLAIM_EVERY: Duration = Duration::from_secs(3600);
/// How often it is looked whether there is a newer map.
const LOOK_AT_MAP: Duration = Duration::from_secs(1);
/// A pass that has left something to do is followed by another this soon.
const AGAIN: Duration = Duration::from_secs(2);

/// The background repair of this process's devices.
pub struct Repairer {
    settings: RepairSettings,
    node: String,
    map: CurrentMap,
    clock: Arc<Clock>,
    jobs: Arc<Jobs>,
}

/// A device, its jobs, and what is remembered of it.
struct Device {
    device: LocalDevice,
    jobs: PassJobs,
    tombstones: Arc<Job>,
    pace: Arc<Pace>,
    contact: Contact,
    /// When tombstones were looked for: seconds since 1970.
    reclaimed: Cursor<u64>,
    said: Said<&'static str>,
}

impl Repairer {
    /// For the devices of the node in this process that the rings call `node`.
    pub fn new(
        settings: RepairSettings,
        node: &str,
        map: CurrentMap,
        clock: Arc<Clock>,
        jobs: Arc<Jobs>,
    ) -> Arc<Repairer> {
        Arc::new(Repairer { settings, node: node.to_owned(), map, clock, jobs })
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

    fn device(&self, device: LocalDevice) -> Device {
        let folder = device.folder.as_deref();
        Device {
            jobs: PassJobs::of(&self.jobs, &device.name, self.settings.rate),
            tombstones: self.jobs.job(JobKind::Tombstones, &device.name, self.settings.reclaim_rate),
            pace: Arc::new(Pace::new(self.settings.rate)),
            contact: Contact::load(folder, self.clock.wall_micros()),
            reclaimed: Cursor::new(folder, "tombstones"),
            said: Said::default(),
            device,
        }
    }

    /// Passes over a device for ever.
    async fn keep(&self, device: LocalDevice) {
        let mut device = self.device(device);
        let now = || self.clock.wall_micros() / 1_000_000;
        // A process that is often started again reclaims all the same.
        let mut reclaimed = device.reclaimed.load().unwrap_or_else(now);
        loop {
            let healer = Healer {
                map: (self.map)(),
                clock: self.clock.clone(),
                pace: device.pace.clone(),
                quiet: Duration::from_secs(self.settings.quiet),
            };
            // As the map names it: a replica is known by that.
            let Some(node) = healer.map.node(&self.node).cloned() else {
                tokio::time::sleep(Duration::from_secs(self.settings.interval)).await;
                continue;
            };
            let local = Replica { node, device: device.device.index };
            let again = self.pass(&mut device, &healer, &local).await;
            if now().saturating_sub(reclaimed) >= RECLAIM_EVERY.as_secs() {
                reclaimed = now();
                self.reclaim(&device, &healer, &local).await;
                if let Err(error) = device.reclaimed.save(&reclaimed).await {
                    tracing::warn!(%error, "the time of the last search for tombstones could not be kept");
                }
            }
            let rest = if again { AGAIN } else { Duration::from_secs(self.settings.interval) };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = self.newer_map(&healer.map) => {}
            }
        }
    }

    /// Waits for another map: what it gives to a device should be there soon, and nothing more is moved before.
    async fn newer_map(&self, known: &Arc<Map>) {
        while Arc::ptr_eq(&(self.map)(), known) {
            tokio::time::sleep(LOOK_AT_MAP).await;
        }
    }

    /// One pass; whether another one is to follow soon.
    async fn pass(&self, device: &mut Device, healer: &Healer, local: &Replica) -> bool {
        let begun = self.clock.wall_micros();
        let lost = begun.saturating_sub(device.contact.micros) > self.settings.reclaim_age * 1_000_000;
        let name = &device.device.name;
        if lost && device.said.is_news("lost", &"") {
            tracing::error!(device = name, "{LOST}");
        }
        let pass = replicator::pass(healer, local, !lost, &device.jobs).await;
        if !lost && pass.as_ref().is_ok_and(|pass| pass.complete) {
            device.contact.note(begun).await;
        }
        let error = pass.as_ref().err().map(ToString::to_string);
        device.jobs.end(error.or_else(|| lost.then(|| LOST.to_owned())));
        match pass {
            Ok(pass) => {
                if device.said.is_over(&"pass") {
                    tracing::info!(device = name, "the repair goes on");
                }
                note(name, &pass);
                pass.filled > 0 || pass.healed.copied > 0
            }
            Err(error) => {
                if device.said.is_news("pass", &error) {
                    tracing::warn!(device = name, %error, "a pass of the repair ended early, and is begun again");
                }
                false
            }
        }
    }

    async fn reclaim(&self, device: &Device, healer: &Healer, local: &Replica) {
        let age = Duration::from_secs(self.settings.reclaim_age);
        let job = &device.tombstones;
        let pace = Pace::new(self.settings.reclaim_rate);
        match replicator::reclaim(&healer.map, &self.clock, local, age, (job, &pace)).await {
            Ok(dropped) => {
                metrics::counter!("kodiak_repair_reclaimed_total", "device" => device.device.name.clone())
                    .increment(dropped);
                job.end(None);
            }
            Err(error) => {
                tracing::debug!(device = device.device.name, %error, "tombstones stay for now");
                job.end(Some(error.to_string()));
            }
        }
    }
}

/// What is to be done with a device that was away for too long.
const LOST: &str =
    "was away for longer than tombstones are kept: what it holds for others stays here; wipe the device";

fn note(device: &str, pass: &Pass) {
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
