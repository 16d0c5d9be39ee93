//! The node: its devices, and the work that keeps them in order.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use kodiak_storage_api::{Clock, DeviceIndex, Holding, Item, ItemKey, NodeError, Partitions, Tree};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::audit::{AuditCursor, Audited};
use crate::device::{Device, Found};
use crate::directories::{Directories, Fence};
use crate::disk::{Disk, SystemDisk};
use crate::group::Request;
use crate::held::Assignment;
use crate::index::IndexMemory;
use crate::recover::{self, Checkpoint, Replayed};
use crate::repair::RepairSettings;
use crate::sweep::Snapshots;
use crate::{audit, compact, digests, forget, read};

/// One device of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSettings {
    /// Its name in the rings.
    pub name: String,
    /// Its folder; made if it is not there.
    pub path: PathBuf,
}

impl DeviceSettings {
    fn is_damaged(&self) -> bool {
        crate::index::is_damaged(&self.path.join(crate::device::INDEX))
    }
}

/// Settings of a storage node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSettings {
    /// The devices.
    pub devices: Vec<DeviceSettings>,
    /// Memory for index blocks of all devices together, bytes. Default 128 MiB.
    pub index_cache: usize,
    /// Memory for index entries that are not flushed, of all devices together, bytes. Default 96 MiB.
    pub index_buffers: usize,
    /// Bytes at which a volume is sealed. Default 1 GiB.
    pub volume_size: u64,
    /// Room is reserved in a volume in steps of at most this many bytes. Default 64 MiB.
    pub allocate_step: u64,
    /// Free bytes of a device below which only deletes and metadata are written. Default a twentieth of
    /// the disk, at least 16 MiB and at most 1 GiB.
    pub reserve: Option<u64>,
    /// A checkpoint is made when a device has written this many bytes since the last one: what a start
    /// after a crash has to read again. Default 64 MiB.
    pub checkpoint_bytes: u64,
    /// Compaction copies at most this many bytes a second. Default 64 MiB.
    pub compaction_rate: u64,
    /// Seconds between looks for volumes to compact. Default 30.
    pub compaction_interval: u64,
    /// How replicas are brought together, in a cluster.
    pub repair: RepairSettings,
}

impl Default for NodeSettings {
    fn default() -> NodeSettings {
        NodeSettings {
            devices: Vec::new(),
            index_cache: 128 << 20,
            index_buffers: 96 << 20,
            volume_size: 1 << 30,
            allocate_step: 64 << 20,
            reserve: None,
            checkpoint_bytes: 64 << 20,
            compaction_rate: 64 << 20,
            compaction_interval: 30,
            repair: RepairSettings::default(),
        }
    }
}

/// Why a node could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device's folder or files cannot be used.
    #[error("device {device}: {source}")]
    Io {
        /// The device.
        device: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("device {device} is in use by another process ({source})")]
    InUse {
        /// The device.
        device: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The index cannot be opened or brought up to date.
    #[error("device {device}: {message}")]
    Index {
        /// The device.
        device: String,
        /// What is wrong.
        message: String,
    },
}

/// A storage node in this process.
pub struct Node {
    pub(crate) devices: Arc<Vec<Arc<Device>>>,
    stop: Mutex<Option<Sender<()>>>,
    maintenance: Mutex<Option<JoinHandle<()>>>,
    sweeper: Mutex<Option<JoinHandle<()>>>,
    /// The start has passed over damaged needles: a record may be missing.
    damaged: bool,
}

/// Room of one device.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// Free bytes.
    pub available: u64,
    /// Bytes in all.
    pub total: u64,
    /// A sync has failed: it takes no more writes.
    pub failed: bool,
    /// Partitions that it is a replica of, but has not been filled with yet.
    pub missing: usize,
}

impl Node {
    /// Opens the devices, replays what a crash left, and starts their writers. Blocks.
    pub fn open(settings: NodeSettings, clock: Arc<Clock>) -> Result<Arc<Node>, OpenError> {
        Node::open_on(settings, clock, Arc::new(SystemDisk))
    }

    /// Opens the devices on another kind of disk.
    pub fn open_on(
        settings: NodeSettings,
        clock: Arc<Clock>,
        disk: Arc<dyn Disk>,
    ) -> Result<Arc<Node>, OpenError> {
        let begun = Instant::now();
        let memory = IndexMemory::new(settings.index_cache, settings.index_buffers);
        let find = || find(&settings, &memory, &clock, &disk);
        // An index whose damage shows only now is made anew at the second attempt.
        let Ready { found, directories, replayed } = match find() {
            Err(OpenError::Index { .. }) if settings.devices.iter().any(DeviceSettings::is_damaged) => find(),
            found => found,
        }?;
        let devices: Result<Vec<_>, _> =
            found.into_iter().map(|f| f.start(&settings, directories.clone()).map(Arc::new)).collect();
        let devices = Arc::new(devices?);
        tracing::info!(
            devices = devices.len(),
            needles = replayed.needles,
            ms = begun.elapsed().as_millis() as u64,
            "node open"
        );
        let (stop, stopped) = bounded(1);
        let (kept, of) = (devices.clone(), settings.clone());
        let maintenance = std::thread::Builder::new()
            .name("maintenance".into())
            .spawn(move || maintain(&kept, &of, &stopped, replayed.needles > 0))
            .map_err(|source| OpenError::Io { device: "all".into(), source })?;
        Ok(Arc::new(Node {
            devices,
            stop: Mutex::new(Some(stop)),
            maintenance: Mutex::new(Some(maintenance)),
            sweeper: Mutex::default(),
            damaged: replayed.damaged > 0,
        }))
    }

    /// Answers what waits, makes a checkpoint and closes. Blocks. Afterwards every call is refused.
    pub fn shutdown(&self) {
        self.stop.lock().take();
        self.devices.iter().for_each(|device| device.stop());
        for thread in [&self.maintenance, &self.sweeper] {
            if thread.lock().take().is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("maintenance panicked");
            }
        }
        self.devices.iter().for_each(|device| device.join());
        self.devices.iter().for_each(|device| device.ceiling.close());
        if let Err(error) = checkpoint(&self.devices) {
            tracing::error!(%error, "no checkpoint at the end: the next start replays");
        }
        self.devices.iter().for_each(|device| device.shared.applier.index.stop());
    }

    /// Deletes, in the background, the blocks of uploads that a crash interrupted. To be called before
    /// anything is written, and only if no other node may hold records that name this one's blocks.
    pub fn sweep_orphans(&self) -> std::io::Result<()> {
        if self.damaged {
            tracing::warn!("orphans are left alone: needles are damaged");
            return Ok(());
        }
        let devices = self.devices.clone();
        let (taken, ready) = bounded(1);
        let sweep = move || {
            let snapshots = Snapshots::take(&devices);
            // Whoever waits has gone if this fails.
            let _ = taken.send(());
            match snapshots.sweep() {
                Ok(0) => {}
                Ok(blocks) => tracing::info!(blocks, "blocks of interrupted uploads deleted"),
                Err(_) if devices.iter().any(|device| device.stopping()) => {}
                Err(error) => tracing::warn!(%error, "blocks of interrupted uploads stay behind"),
            }
        };
        *self.sweeper.lock() = Some(std::thread::Builder::new().name("sweeper".into()).spawn(sweep)?);
        ready.recv().map_err(std::io::Error::other)
    }

    /// Room of the devices.
    pub fn status(&self) -> Vec<DeviceStatus> {
        let status = |device: &Arc<Device>| {
            let space = device.space().unwrap_or(crate::disk::Space { available: 0, total: 0 });
            DeviceStatus {
                name: device.shared.name.clone(),
                available: space.available,
                total: space.total,
                failed: device.shared.failed.load(std::sync::atomic::Ordering::Acquire),
                missing: device.held.missing().len(),
            }
        };
        self.devices.iter().map(status).collect()
    }

    /// What the devices have of the rings' partitions. Blocks.
    pub fn holdings(&self) -> Result<Vec<Holding>, NodeError> {
        let mut all = Vec::new();
        for device in self.devices.iter() {
            let (index, name) = (&device.shared.applier.index, &device.shared.name);
            for (tree, power, whole, missing) in device.held.assigned() {
                let found = digests::roots(index, tree, &Partitions::all(power))?.into_iter();
                let digests: HashMap<u32, u64> =
                    found.map(|(at, digest)| (at.number(), (digest.number() >> 64) as u64)).collect();
                let others = digests.keys().filter(|at| !whole.contains(at) && !missing.contains(at)).count();
                let whole = whole.into_iter().map(|at| (at, digests.get(&at).copied().unwrap_or(0)));
                all.push(Holding {
                    device: name.clone(),
                    tree,
                    whole: whole.collect(),
                    lacking: missing.into_iter().collect(),
                    for_others: others as u64,
                });
            }
        }
        Ok(all)
    }

    /// Makes everything that is acknowledged part of the flushed indexes, so that a start replays nothing.
    pub fn checkpoint(&self) -> Result<(), NodeError> {
        checkpoint(&self.devices)
    }

    /// Compacts what is worth it now, and checkpoints. Blocks.
    pub fn compact(&self, rate: u64) -> Result<(), NodeError> {
        self.devices.iter().for_each(|device| compact_device(device, rate));
        checkpoint(&self.devices)
    }

    /// Whether the digests of all devices are those of what their indexes have: for tests.
    pub fn digests_are_right(&self) -> Result<bool, NodeError> {
        let right = |device: &Arc<Device>| digests::are_right(&device.shared.applier.index);
        self.devices.iter().try_fold(true, |all, device| Ok(all && right(device)?))
    }

    /// A device is now a replica of these partitions, and of no others: see [`Assignment`]. To be called
    /// before any reader knows the rings. Blocks.
    pub fn adopt(&self, device: DeviceIndex, assignments: &[Assignment]) -> Result<(), NodeError> {
        let device = self.at(device)?;
        let adopted = device.held.adopt(assignments);
        adopted
            .map_err(|error| NodeError::Unavailable(format!("cannot note what the device holds: {error}")))?;
        if device.held.missing().is_empty() {
            return Ok(());
        }
        // It takes writes of what it lacks: none that is older than what it may have lost.
        device.ceiling.bar(device.shared.clock.now())
    }

    /// Its devices.
    pub fn device_indexes(&self) -> impl Iterator<Item = DeviceIndex> + use<> {
        (0..self.devices.len() as u16).map(DeviceIndex)
    }

    /// Reads about `limit` bytes of a device from a position on, and quarantines what is damaged.
    pub async fn audit(
        &self,
        device: DeviceIndex,
        from: AuditCursor,
        limit: u64,
    ) -> Result<Audited, NodeError> {
        audit::step(self.at(device)?, from, limit).await
    }

    /// About how many bytes of a device are live.
    pub fn live_bytes(&self, device: DeviceIndex) -> Result<u64, NodeError> {
        Ok(crate::compact::live_bytes(self.at(device)?))
    }

    /// Name and folder of a device.
    pub fn folder(&self, device: DeviceIndex) -> Option<(String, PathBuf)> {
        let device = self.devices.get(usize::from(device.0))?;
        Some((device.shared.name.clone(), device.folder().to_owned()))
    }

    /// Whether a device was ever told its partitions of a tree.
    pub fn was_assigned(&self, tree: Tree) -> bool {
        self.devices.iter().any(|device| device.held.was_assigned(tree))
    }

    /// A row that goes with an object is as durable as the object's needle. Where that is to be forgotten,
    /// the devices that show the row get a needle of it first.
    pub(crate) async fn keep_rows(&self, device: DeviceIndex, items: &[Item]) -> Result<(), NodeError> {
        if !items.iter().any(|item| matches!(item.key, ItemKey::Object(_))) {
            return Ok(());
        }
        let (devices, from, items) = (self.devices.clone(), self.at(device)?.clone(), items.to_vec());
        let kept = read::blocking(move || {
            let mut kept = Vec::new();
            for (directory, rows) in forget::rows_of(&from.shared, &items)? {
                for holder in devices.iter() {
                    let shown = forget::shown(&holder.shared, &directory, &rows)?;
                    if !shown.is_empty() {
                        kept.push((holder.clone(), directory, shown));
                    }
                }
            }
            Ok(Some(kept))
        });
        for (holder, directory, rows) in kept.await? {
            match holder.ask(|done| Request::Rows(directory, rows, Fence::Down, done)).await {
                Ok(()) | Err(NodeError::NoDirectory) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The device of this place.
    pub(crate) fn at(&self, device: DeviceIndex) -> Result<&Arc<Device>, NodeError> {
        let missing = || NodeError::Unavailable(format!("no device {}", device.0));
        self.devices.get(usize::from(device.0)).ok_or_else(missing)
    }
}

/// Devices whose indexes are up to date.
struct Ready {
    found: Vec<Found>,
    directories: Arc<Vec<Arc<Directories>>>,
    replayed: Replayed,
}

/// Opens the devices and brings their indexes up to date.
fn find(
    settings: &NodeSettings,
    memory: &IndexMemory,
    clock: &Arc<Clock>,
    disk: &Arc<dyn Disk>,
) -> Result<Ready, OpenError> {
    let found = each(&settings.devices, |device| {
        Found::open(&device.name, &device.path, disk.clone(), memory, clock)
    })?;
    let directories: Vec<_> = found.iter().map(|f| f.shared().directories.clone()).collect();
    let replayed = replay(&found, &directories)?;
    Ok(Ready { found, directories: Arc::new(directories), replayed })
}

/// Does something with each device in a thread of its own.
fn each<T: Send, D: Sync>(
    devices: &[D],
    step: impl Fn(&D) -> Result<T, OpenError> + Sync,
) -> Result<Vec<T>, OpenError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = devices.iter().map(|device| scope.spawn(|| step(device))).collect();
        let joined = threads.into_iter().map(|thread| {
            let panicked = || OpenError::Index { device: "?".into(), message: "opening panicked".into() };
            thread.join().unwrap_or_else(|_| Err(panicked()))
        });
        joined.collect()
    })
}

fn replay(found: &[Found], directories: &[Arc<Directories>]) -> Result<Replayed, OpenError> {
    let failed = |f: &Found, error: NodeError| OpenError::Index {
        device: f.shared().name.clone(),
        message: error.to_string(),
    };
    let replayed: Vec<Replayed> =
        each(found, |f| recover::replay_index(f.shared(), f.checkpoint).map_err(|error| failed(f, error)))?;
    // An index made anew has no rows; those of its containers come from the objects of all devices.
    let anew = found.iter().any(|f| f.checkpoint == Checkpoint::START);
    each(found, |f| {
        let from = if anew { Checkpoint::START } else { f.checkpoint };
        recover::replay_rows(f.shared(), directories, from).map_err(|error| failed(f, error))
    })?;
    Ok(Replayed {
        needles: replayed.iter().map(|r| r.needles).sum(),
        damaged: replayed.iter().map(|r| r.damaged).sum(),
    })
}

/// Flushes all indexes and moves the checkpoints to what was applied before the flush.
fn checkpoint(devices: &[Arc<Device>]) -> Result<(), NodeError> {
    let _one_at_a_time = devices.first().map(|device| device.checkpointing.lock());
    let before: Vec<_> = devices
        .iter()
        .map(|device| {
            let position = *device.shared.applied.lock();
            (position, device.take_evacuated(), device.shared.directories.take_delivered())
        })
        .collect();
    for device in devices {
        device.shared.applier.index.flush()?;
    }
    for (device, (position, evacuated, delivered)) in devices.iter().zip(before) {
        device.save_checkpoint(Checkpoint::at(position))?;
        device.remove_volumes(&evacuated)?;
        device.shared.directories.forget_delivered(&delivered)?;
    }
    Ok(())
}

fn compact_device(device: &Arc<Device>, rate: u64) {
    for number in compact::candidates(device) {
        if device.stopping() || device.is_evacuated(number) {
            continue;
        }
        match compact::evacuate(device, number, rate) {
            Ok(true) => device.evacuated(number),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(device = device.shared.name, volume = number, %error, "not compacted");
                return;
            }
        }
    }
}

/// How often the maintenance thread looks at the devices.
const TICK: Duration = Duration::from_millis(250);
/// What was written is checkpointed after this long at the latest, so that a start stays quick.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);

fn maintain(devices: &[Arc<Device>], settings: &NodeSettings, stopped: &Receiver<()>, replayed: bool) {
    let positions = || devices.iter().map(|d| *d.shared.applied.lock()).collect::<Vec<_>>();
    let (mut last, mut at) = (positions(), Instant::now());
    // What one start has replayed, the next need not: crashes in a row would replay more each time.
    if replayed && let Err(error) = checkpoint(devices) {
        tracing::error!(%error, "checkpoint failed");
    }
    let mut compacted = Instant::now();
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
        devices.iter().for_each(|device| device.ceiling.keep_ahead(&device.shared.clock));
        let now = positions();
        let far = last.iter().zip(&now).any(|(old, new)| {
            old.0 != new.0 && new.1 > settings.checkpoint_bytes / 4
                || old.0 == new.0 && new.1.saturating_sub(old.1) > settings.checkpoint_bytes
        });
        if far || (now != last && at.elapsed() > CHECKPOINT_INTERVAL) {
            match checkpoint(devices) {
                Ok(()) => (last, at) = (now, Instant::now()),
                Err(error) => tracing::error!(%error, "checkpoint failed"),
            }
        }
        if compacted.elapsed() > Duration::from_secs(settings.compaction_interval) {
            devices.iter().for_each(|device| compact_device(device, settings.compaction_rate));
            compacted = Instant::now();
        }
    }
}
