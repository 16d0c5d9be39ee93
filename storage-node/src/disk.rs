//! The storage code's own I/O: a trait, so that tests can lose and tear unsynced writes.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

/// Most buffers that one vectored write takes (`IOV_MAX`).
const MAX_SLICES: usize = 1024;

/// Room of a file system, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Free for us.
    pub available: u64,
    /// In all.
    pub total: u64,
}

/// A folder of files: a device.
pub trait Disk: Send + Sync + 'static {
    /// Makes a new file for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Deletes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names of the files in a folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Makes creations and deletions in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// The whole of a small file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Replaces a small file: after a crash it is the old or the new one, and after `Ok` the new one.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()>;
    /// Room on the file system.
    fn space(&self, folder: &Path) -> io::Result<Space>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// Writes all of `slices` at `offset`.
    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Writes whole pages from page-aligned memory, past the page cache where the file system can: large
    /// data is not copied then, and does not push out what is read often. As unsynced as any write.
    fn write_pages_at(&self, pages: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(&mut [IoSlice::new(pages)], offset)
    }
    /// Fills `buffer` from `offset`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Like [`DiskFile::read_at`] if that needs no waiting for the device; else `false`.
    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool>;
    /// Makes all writes durable.
    fn sync(&self) -> io::Result<()>;
    /// Reserves room, so that writes to it cannot find the disk full.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Gives back the room of a range, which then reads as zeros.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// The first offset from `offset` on that holds data, if any.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// Bytes of the file.
    fn size(&self) -> io::Result<u64>;
}

/// The operating system's files.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(SystemFile { file, direct: direct(path) }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(SystemFile { file, direct: direct(path) }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(folder)?
            .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new: PathBuf = path.with_file_name(name);
        let mut file = File::create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        self.sync_folder(path.parent().unwrap_or(Path::new(".")))
    }

    fn space(&self, folder: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(folder)?;
        Ok(Space { available: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
    }
}

struct SystemFile {
    file: File,
    /// The same file past the page cache, where the file system can.
    direct: Option<File>,
}

fn direct(path: &Path) -> Option<File> {
    let flag = rustix::fs::OFlags::DIRECT.bits();
    let opened = OpenOptions::new().write(true).custom_flags(i32::try_from(flag).ok()?).open(path);
    opened.inspect_err(|error| tracing::debug!(%error, "no direct writes")).ok()
}

/// Writes all of `slices` at `offset`.
fn write_all(file: &File, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    while !slices.is_empty() {
        let now = slices.len().min(MAX_SLICES);
        let written = match rustix::io::pwritev(file.as_fd(), &slices[..now], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        offset += written as u64;
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

impl DiskFile for SystemFile {
    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        write_all(&self.file, slices, offset)
    }

    fn write_pages_at(&self, pages: &[u8], offset: u64) -> io::Result<()> {
        let mut slices = [IoSlice::new(pages)];
        if let Some(direct) = &self.direct {
            match write_all(direct, &mut slices, offset) {
                // The device wants other alignments than pages.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => slices = [IoSlice::new(pages)],
                written => return written,
            }
        }
        write_all(&self.file, &mut slices, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let len = buffer.len();
        let mut slices = [IoSliceMut::new(buffer)];
        match rustix::io::preadv2(self.file.as_fd(), &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read == len),
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self.file.as_fd())?)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(self.file.as_fd(), FallocateFlags::empty(), offset, len)?)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(self.file.as_fd(), flags, offset, len)?)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(self.file.as_fd(), rustix::fs::SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL) => Ok((offset < self.size()?).then_some(offset)),
            Err(error) => Err(error.into()),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
