//! Volumes: the append-only files of a device.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | magic `KODIAKV2` |
//! | 8..12 | number of the volume |
//! | 12..16 | salt of its needles' checksums, random |
//! | 16..60 | zero |
//! | 60..64 | CRC-32 of bytes 0..60 |
//! | 64.. | needles (see [`crate::needle`]) |

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kodiak_storage_api::NodeError;
use parking_lot::RwLock;
use rand::RngCore;

use crate::disk::{Disk, DiskFile};
use crate::needle::{ALIGN, Location, Salt};

/// Offset of a volume's first needle.
pub const FIRST_NEEDLE: u64 = 64;

const MAGIC: [u8; 8] = *b"KODIAKV2";
/// What the magic of all versions begins with.
const FAMILY: &[u8] = b"KODIAKV";

/// One volume, open.
pub struct Volume {
    /// Its number; later volumes have greater ones.
    pub number: u32,
    /// Salt of its needles.
    pub salt: Salt,
    /// The file.
    pub file: Arc<dyn DiskFile>,
}

/// All volumes of a device.
pub struct VolumeSet {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    open: RwLock<BTreeMap<u32, Arc<Volume>>>,
    /// Number of the next volume. None is used twice, also not after its volume is gone: a checkpoint
    /// may name it.
    next: AtomicU32,
}

impl VolumeSet {
    /// Opens what is in the folder; new volumes get numbers from `first` on. A volume whose header is damaged was never acknowledged
    /// anything (the header is synced before the first needle) or is unreadable: it is set aside.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path, first: u32) -> io::Result<VolumeSet> {
        let mut open = BTreeMap::new();
        for name in disk.list(folder)? {
            let Some(number) = name.strip_suffix(".vol").and_then(|n| u32::from_str_radix(n, 16).ok()) else {
                continue;
            };
            match open_volume(disk.as_ref(), &folder.join(&name), number) {
                Ok(volume) => {
                    open.insert(number, Arc::new(volume));
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(volume = name, %error, "volume passed over: its header is damaged");
                }
                Err(error) => return Err(error),
            }
        }
        let next = open.last_key_value().map_or(1, |(last, _)| last + 1).max(first);
        Ok(VolumeSet { disk, folder: folder.to_owned(), open: RwLock::new(open), next: next.into() })
    }

    /// A volume by number.
    pub fn get(&self, number: u32) -> Option<Arc<Volume>> {
        self.open.read().get(&number).cloned()
    }

    /// All volumes, oldest first.
    pub fn all(&self) -> Vec<Arc<Volume>> {
        self.open.read().values().cloned().collect()
    }

    /// The volume of a location.
    pub fn of(&self, location: &Location) -> Result<Arc<Volume>, NodeError> {
        let missing = || NodeError::Corrupt(format!("volume {:08x} is missing", location.volume));
        self.get(location.volume).ok_or_else(missing)
    }

    /// Begins a new volume after all others. Its header is on stable storage.
    pub fn create(&self) -> io::Result<Arc<Volume>> {
        let mut number = self.next.fetch_add(1, Ordering::AcqRel);
        // A number whose file is there already is one that was set aside.
        while self.disk.open(&self.path(number)).is_ok() {
            number = self.next.fetch_add(1, Ordering::AcqRel);
        }
        let salt = Salt(rand::rng().next_u32());
        let file = self.disk.create(&self.path(number))?;
        file.write_at(&mut [IoSlice::new(&header(number, salt))], 0)?;
        file.sync()?;
        self.disk.sync_folder(&self.folder)?;
        let volume = Arc::new(Volume { number, salt, file });
        self.open.write().insert(number, volume.clone());
        Ok(volume)
    }

    /// Every volume to come has at least this number.
    pub fn next_number(&self) -> u32 {
        self.next.load(Ordering::Acquire)
    }

    /// Deletes a volume; those who read it finish undisturbed.
    pub fn remove(&self, number: u32) -> io::Result<()> {
        self.open.write().remove(&number);
        self.disk.remove(&self.path(number))?;
        self.disk.sync_folder(&self.folder)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{number:08x}.vol"))
    }
}

fn header(number: u32, salt: Salt) -> [u8; FIRST_NEEDLE as usize] {
    let mut bytes = [0; FIRST_NEEDLE as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    bytes[12..16].copy_from_slice(&salt.0.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn open_volume(disk: &dyn Disk, path: &Path, number: u32) -> io::Result<Volume> {
    let file = disk.open(path)?;
    let mut bytes = [0; FIRST_NEEDLE as usize];
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    file.read_at(&mut bytes, 0).map_err(|_| damaged("header is cut short"))?;
    let salt = Salt(u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]));
    if bytes != header(number, salt) {
        let crc = crc32fast::hash(&bytes[..60]).to_le_bytes();
        if bytes.starts_with(FAMILY) && bytes[..8] != MAGIC && bytes[60..] == crc {
            return Err(other_version(path, &bytes[..8]));
        }
        return Err(damaged("header does not match its checksum"));
    }
    Ok(Volume { number, salt, file })
}

fn other_version(path: &Path, magic: &[u8]) -> io::Error {
    let (found, known) = (String::from_utf8_lossy(magic), String::from_utf8_lossy(&MAGIC));
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "{} is in format {found} and this program reads {known} only: run the version of kodiak that wrote it, \
             and copy the objects to a new store",
            path.display()
        ),
    )
}

/// Sizes of volumes and of the room kept free.
#[derive(Clone, Copy, Debug)]
pub struct VolumeLimits {
    /// A volume that has reached this many bytes is sealed.
    pub volume_size: u64,
    /// Room is reserved in steps of at most this many bytes.
    pub allocate_step: u64,
    /// Free bytes below which only deletes and metadata are written.
    pub reserve: u64,
}

/// Where the next needle goes: owned by the device's writer.
pub struct Tail {
    set: Arc<VolumeSet>,
    limits: VolumeLimits,
    current: Option<Arc<Volume>>,
    position: u64,
    allocated: u64,
}

/// Room for deletes and metadata is taken in small steps, from the reserve.
const URGENT_STEP: u64 = 1 << 20;

impl Tail {
    /// A tail that begins a new volume with the first needle. What a crash has left behind the last
    /// needle of the old one is never written over.
    pub fn new(set: Arc<VolumeSet>, limits: VolumeLimits) -> Tail {
        Tail { set, limits, current: None, position: 0, allocated: 0 }
    }

    /// Seals a full volume and begins another, where that is due.
    pub fn rotate(&mut self) -> io::Result<()> {
        if self.current.is_none() || self.position >= self.limits.volume_size {
            self.seal();
            let volume = self.set.create()?;
            (self.position, self.allocated) = (FIRST_NEEDLE, FIRST_NEEDLE);
            self.current = Some(volume);
        }
        Ok(())
    }

    /// Gives back what was reserved and not used; the next needle begins a new volume.
    pub fn seal(&mut self) {
        if let Some(volume) = self.current.take() {
            // Only room is at stake: a volume that keeps its reserved end is as good.
            if let Err(error) = volume.file.truncate(self.position) {
                tracing::warn!(%error, volume = volume.number, "could not cut a sealed volume");
            }
        }
    }

    /// The volume that is written; [`Tail::rotate`] comes first.
    pub fn volume(&self) -> Option<&Arc<Volume>> {
        self.current.as_ref()
    }

    /// Number and offset for the next needle.
    pub fn position(&self) -> (u32, u64) {
        (self.current.as_ref().map_or(0, |v| v.number), self.position)
    }

    /// Reserves room up to `end`. `urgent` may use what is kept free.
    pub fn ensure(&mut self, end: u64, urgent: bool) -> Result<(), NodeError> {
        if end <= self.allocated {
            return Ok(());
        }
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => NodeError::Full,
            _ => NodeError::Unavailable(error.to_string()),
        };
        let space = self.set.disk.space(&self.set.folder).map_err(failed)?;
        let spare = space.available.saturating_sub(self.limits.reserve);
        let needed = end - self.allocated;
        let step = if urgent { URGENT_STEP } else { self.limits.allocate_step.min(spare / 4) }.max(needed);
        if !urgent && step > spare {
            return Err(NodeError::Full);
        }
        let step = step.next_multiple_of(4096);
        let Some(volume) = &self.current else {
            return Err(NodeError::Unavailable("no open volume".into()));
        };
        volume.file.allocate(self.allocated, step).map_err(failed)?;
        self.allocated += step;
        Ok(())
    }

    /// Moves past what was written.
    pub fn advance(&mut self, end: u64) {
        debug_assert!(end.is_multiple_of(ALIGN));
        self.position = end;
    }
}
