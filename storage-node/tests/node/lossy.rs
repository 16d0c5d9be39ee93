//! A disk that keeps in memory what was not synced, and loses and tears it when the power goes.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kodiak_storage_node::disk::{Disk, DiskFile, Space, SystemDisk};
use rand::Rng;

/// Disks lose whole sectors.
const SECTOR: usize = 512;

type Writes = Vec<(u64, Vec<u8>)>;

#[derive(Default)]
struct State {
    /// Writes since each file's last sync.
    unsynced: HashMap<PathBuf, Writes>,
    /// Files whose folder was not synced since they were made.
    unnamed: Vec<PathBuf>,
    off: bool,
}

#[derive(Clone, Default)]
pub struct LossyDisk(Arc<Mutex<State>>);

struct LossyFile {
    path: PathBuf,
    inner: Arc<dyn DiskFile>,
    disk: LossyDisk,
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl LossyDisk {
    /// Cuts the power: of the unsynced sectors, a random part reaches the files.
    pub fn cut(&self, random: &mut impl Rng) {
        let mut state = self.0.lock().unwrap();
        state.off = true;
        for (path, writes) in std::mem::take(&mut state.unsynced) {
            let Ok(file) = SystemDisk.open(&path) else { continue };
            let kept = random.random_range(0.0..1.0);
            for (offset, bytes) in writes {
                for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                    if random.random_bool(kept) {
                        let at = offset + (i * SECTOR) as u64;
                        file.write_at(&mut [IoSlice::new(sector)], at).unwrap();
                    }
                }
            }
        }
        for path in std::mem::take(&mut state.unnamed) {
            if random.random_bool(0.5) {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    fn on(&self) -> io::Result<std::sync::MutexGuard<'_, State>> {
        let state = self.0.lock().unwrap();
        if state.off { Err(power_is_off()) } else { Ok(state) }
    }

    fn wrap(&self, path: &Path, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(LossyFile { path: path.to_owned(), inner, disk: self.clone() })
    }
}

impl Disk for LossyDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.on()?.unnamed.push(path.to_owned());
        Ok(self.wrap(path, SystemDisk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(path, SystemDisk.open(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.on()?.unsynced.remove(path);
        SystemDisk.remove(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(folder)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.on()?.unnamed.retain(|path| path.parent() != Some(folder));
        Ok(())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        SystemDisk.read(path)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        drop(self.on()?);
        SystemDisk.replace(path, content)
    }

    fn space(&self, folder: &Path) -> io::Result<Space> {
        SystemDisk.space(folder)
    }
}

impl DiskFile for LossyFile {
    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.disk.on()?.unsynced.entry(self.path.clone()).or_default().push((offset, bytes));
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(buffer, offset)
    }

    fn try_read_at(&self, _: &mut [u8], _: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn sync(&self) -> io::Result<()> {
        let writes = self.disk.on()?.unsynced.remove(&self.path).unwrap_or_default();
        for (offset, bytes) in writes {
            self.inner.write_at(&mut [IoSlice::new(&bytes)], offset)?;
        }
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        drop(self.disk.on()?);
        self.inner.allocate(offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        drop(self.disk.on()?);
        self.inner.punch(offset, len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        drop(self.disk.on()?);
        self.inner.truncate(len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.inner.next_data(offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }
}
