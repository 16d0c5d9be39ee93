//! One device: its volumes, its index, and the thread that writes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, TrySendError, bounded};
use kodiak_storage_api::{Clock, NodeError};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::apply::Applier;
use crate::directories::Directories;
use crate::disk::Disk;
use crate::group::{Done, Request};
use crate::held::Held;
use crate::index::{Index, IndexMemory};
use crate::node::{NodeSettings, OpenError};
use crate::promise::Ceiling;
use crate::recover::Checkpoint;
use crate::volume::{Tail, VolumeLimits, VolumeSet};
use crate::writer::{Shared, Writer};

/// Requests that may wait for a device's writer; more are refused as overload.
const QUEUE: usize = 4096;

/// Folder of the index in a device's folder.
pub const INDEX: &str = "index";

/// A device that is open.
pub struct Device {
    /// What its writer shares.
    pub shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    sender: Mutex<Option<Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stopping: AtomicBool,
    /// See there.
    pub ceiling: Arc<Ceiling>,
    /// Which partitions it holds whole.
    pub held: Arc<Held>,
    /// Volumes that may be deleted after the next checkpoint.
    evacuated: Mutex<Vec<u32>>,
    /// Held while a checkpoint of the node is made, that of its first device.
    pub checkpointing: Mutex<()>,
    /// Keeps every other process out of the folder while it is open.
    _lock: std::fs::File,
}

/// A device before its writer runs, with the checkpoint it was found at.
pub struct Found {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    lock: std::fs::File,
    /// Where its replay begins.
    pub checkpoint: Checkpoint,
}

impl Found {
    /// What the writer will share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Opens volumes and index. Without an index that can be read, everything is replayed.
    pub fn open(
        name: &str,
        folder: &Path,
        disk: Arc<dyn Disk>,
        memory: &IndexMemory,
        clock: &Arc<Clock>,
    ) -> Result<Found, OpenError> {
        let failed = |source| OpenError::Io { device: name.to_owned(), source };
        let volumes_folder = folder.join("volumes");
        std::fs::create_dir_all(&volumes_folder).map_err(failed)?;
        let lock =
            lock_folder(folder).map_err(|source| OpenError::InUse { device: name.to_owned(), source })?;
        // Volumes are only as durable as the names of the folders they are in.
        let parent = folder.parent().unwrap_or(Path::new("/"));
        for named_in in [parent, folder] {
            disk.sync_folder(named_in).map_err(failed)?;
        }
        let mut checkpoint = Checkpoint::load(disk.as_ref(), folder);
        let volumes = VolumeSet::open(disk.clone(), &volumes_folder, checkpoint.volume);
        let volumes = Arc::new(volumes.map_err(failed)?);
        let index_folder = folder.join(INDEX);
        // Before there is a new index: a crash while it is filled would leave it beside a checkpoint that
        // says it needs nothing more.
        let forget_checkpoint = || Checkpoint::START.save(disk.as_ref(), folder).map_err(failed);
        if !index_folder.join("CURRENT").exists() && checkpoint != Checkpoint::START {
            forget_checkpoint()?;
            checkpoint = Checkpoint::START;
        }
        let anew = || {
            forget_checkpoint()?;
            set_aside(&index_folder).map_err(failed)
        };
        if crate::index::is_damaged(&index_folder) {
            tracing::error!(device = name, "index is damaged: it is set aside and made anew");
            anew()?;
            checkpoint = Checkpoint::START;
        }
        let mut index = match Index::open(&index_folder, memory) {
            Ok(index) => index,
            Err(error) => {
                tracing::error!(device = name, %error, "index cannot be opened: it is set aside and made anew");
                anew()?;
                checkpoint = Checkpoint::START;
                Index::open(&index_folder, memory).map_err(|error| OpenError::Index {
                    device: name.to_owned(),
                    message: error.to_string(),
                })?
            }
        };
        let node_failed =
            |error: NodeError| OpenError::Index { device: name.to_owned(), message: error.to_string() };
        index.load_digests().map_err(node_failed)?;
        let index = Arc::new(index);
        let shared = Shared {
            name: name.to_owned(),
            directories: Arc::new(Directories::new(index.clone()).map_err(node_failed)?),
            applier: Applier::new(index, volumes).map_err(node_failed)?,
            applied: Mutex::new((0, 0)),
            failed: AtomicBool::new(false),
            clock: clock.clone(),
        };
        Ok(Found { shared: Arc::new(shared), disk, folder: folder.to_owned(), lock, checkpoint })
    }

    /// Starts the writer, once everything has been replayed.
    pub fn start(
        self,
        settings: &NodeSettings,
        node: Arc<Vec<Arc<Directories>>>,
    ) -> Result<Device, OpenError> {
        let name = self.shared.name.clone();
        let failed = |source| OpenError::Io { device: name.clone(), source };
        let total = self.disk.space(&self.folder).map_err(failed)?.total;
        let limits = VolumeLimits {
            volume_size: settings.volume_size,
            allocate_step: settings.allocate_step,
            reserve: settings.reserve.unwrap_or_else(|| default_reserve(total)),
        };
        let volumes = self.shared.applier.volumes.clone();
        let is_new = volumes.all().is_empty();
        let ceiling = Ceiling::open(self.disk.clone(), &self.folder, is_new, &self.shared.clock);
        let ceiling = Arc::new(ceiling);
        let held = Arc::new(Held::open(self.disk.clone(), &self.folder));
        // The writer begins a new volume: everything in the ones that are there has been applied.
        *self.shared.applied.lock() = (volumes.next_number(), crate::volume::FIRST_NEEDLE);
        let (sender, requests) = bounded(QUEUE);
        let writer =
            Writer::new(self.shared.clone(), node, Tail::new(volumes, limits), requests, ceiling.clone());
        let thread = std::thread::Builder::new()
            .name(format!("write-{name}"))
            .spawn(move || writer.run())
            .map_err(failed)?;
        Ok(Device {
            shared: self.shared,
            disk: self.disk,
            folder: self.folder,
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            stopping: AtomicBool::new(false),
            ceiling,
            held,
            evacuated: Mutex::new(Vec::new()),
            checkpointing: Mutex::new(()),
            _lock: self.lock,
        })
    }
}

/// Room kept for deletes, metadata and the index: a twentieth of the disk, within these bounds.
fn default_reserve(total: u64) -> u64 {
    (total / 20).clamp(16 << 20, 1 << 30)
}

fn lock_folder(folder: &Path) -> std::io::Result<std::fs::File> {
    let file = std::fs::File::create(folder.join("lock"))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

fn set_aside(folder: &Path) -> std::io::Result<()> {
    let mut number = 1;
    while folder.with_extension(format!("damaged-{number}")).exists() {
        number += 1;
    }
    std::fs::rename(folder, folder.with_extension(format!("damaged-{number}")))
}

impl Device {
    /// Asks the writer and waits for its answer.
    pub async fn ask<T>(&self, request: impl FnOnce(Done<T>) -> Request) -> Result<T, NodeError> {
        let (done, answer) = oneshot::channel();
        self.send(request(done))?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    fn send(&self, request: Request) -> Result<(), NodeError> {
        let sender = self.sender.lock();
        match sender.as_ref().ok_or_else(stopped)?.try_send(request) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(NodeError::Overloaded),
            Err(TrySendError::Disconnected(_)) => Err(stopped()),
        }
    }

    /// Sends a request from a thread that may wait for room in the queue.
    pub fn send_blocking(&self, request: Request) -> Result<(), NodeError> {
        let sender = self.sender.lock().clone().ok_or_else(stopped)?;
        sender.send(request).map_err(|_| stopped())
    }

    /// Whether the device is being closed.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Lets its background work end soon.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Ends the writer when it has answered everything that waits.
    pub fn join(&self) {
        self.sender.lock().take();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(device = self.shared.name, "writer panicked");
        }
    }

    /// Notes a volume that nothing will refer to after the next checkpoint.
    pub fn evacuated(&self, number: u32) {
        self.evacuated.lock().push(number);
    }

    /// Volumes that nothing refers to, once what is in memory now is flushed.
    pub fn take_evacuated(&self) -> Vec<u32> {
        std::mem::take(&mut *self.evacuated.lock())
    }

    /// Whether a volume waits for the checkpoint that lets it go.
    pub fn is_evacuated(&self, number: u32) -> bool {
        self.evacuated.lock().contains(&number)
    }

    /// Deletes volumes that nothing refers to.
    pub fn remove_volumes(&self, numbers: &[u32]) -> Result<(), NodeError> {
        for number in numbers {
            let removed = self.shared.applier.volumes.remove(*number);
            removed.map_err(|error| NodeError::Unavailable(error.to_string()))?;
            self.shared.applier.forget_volume(*number)?;
            tracing::info!(device = self.shared.name, volume = number, "volume compacted away");
        }
        Ok(())
    }

    /// Replaces the checkpoint.
    pub fn save_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), NodeError> {
        checkpoint
            .save(self.disk.as_ref(), &self.folder)
            .map_err(|error| NodeError::Unavailable(format!("checkpoint: {error}")))
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Room on its file system, bytes.
    pub fn space(&self) -> std::io::Result<crate::disk::Space> {
        self.disk.space(&self.folder)
    }
}

fn stopped() -> NodeError {
    NodeError::Unavailable("the device is stopped".into())
}
