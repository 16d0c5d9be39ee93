//! Reading needles: at once if index and page cache have them, else on a blocking thread.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kodiak_storage_api::{BlockKey, CHECKSUM_CHUNK, NodeError, ObjectKey, StoredVersion};

use crate::apply::damaged;
use crate::device::Device;
use crate::index::{BlockEntry, Family, ObjectEntry, block_key, object_key};
use crate::needle::{self, Kind, Location, NeedleError, ObjectMeta};
use crate::volume::Volume;

/// A step that may not wait for a device: `None` if it would have to.
type Attempt<T> = Result<Option<T>, NodeError>;

/// How a needle is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Only from memory.
    Cached,
    /// From the device if need be.
    Blocking,
}

/// A failed read of a volume as an answer.
pub fn io_failed(error: &std::io::Error) -> NodeError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => NodeError::Corrupt("needle is cut off".into()),
        _ => NodeError::Unavailable(error.to_string()),
    }
}

fn read(volume: &Volume, buffer: &mut [u8], offset: u64, patience: Patience) -> Attempt<()> {
    let read = match patience {
        Patience::Cached => volume.file.try_read_at(buffer, offset),
        Patience::Blocking => volume.file.read_at(buffer, offset).map(|()| true),
    };
    Ok(read.map_err(|error| io_failed(&error))?.then_some(()))
}

/// The newest version on a device.
pub async fn object(
    device: &Arc<Device>,
    key: ObjectKey,
    data: bool,
) -> Result<Option<StoredVersion>, NodeError> {
    if let Some(found) = object_attempt(device, &key, data, Patience::Cached)? {
        return Ok(found);
    }
    let device = device.clone();
    blocking(move || object_attempt(&device, &key, data, Patience::Blocking)).await
}

/// Runs a step that may wait on a blocking thread.
pub async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> Attempt<T> + Send + 'static,
) -> Result<T, NodeError> {
    let waited = tokio::task::spawn_blocking(step).await;
    let found = waited.map_err(|error| NodeError::Unavailable(error.to_string()))??;
    found.ok_or_else(|| NodeError::Unavailable("a blocking read did not read".into()))
}

fn object_attempt(
    device: &Device,
    key: &ObjectKey,
    data: bool,
    patience: Patience,
) -> Attempt<Option<StoredVersion>> {
    // Compaction may take the needle elsewhere between the two look-ups; the second finds it there.
    for last in [false, true] {
        let Some(entry) = entry(device, key, patience)? else { return Ok(None) };
        let Some(entry) = entry else { return Ok(Some(None)) };
        match stored(device, key, &entry, data, patience) {
            Err(NodeError::Corrupt(what)) if last => return Err(NodeError::Corrupt(what)),
            Err(NodeError::Corrupt(_)) => {}
            Ok(found) => return Ok(found.map(Some)),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn entry(device: &Device, key: &ObjectKey, patience: Patience) -> Attempt<Option<ObjectEntry>> {
    let index = &device.shared.applier.index;
    let key = object_key(key);
    let value = match patience {
        Patience::Cached => index.get_cached(Family::Objects, &key)?,
        Patience::Blocking => Some(index.get(Family::Objects, &key)?),
    };
    let Some(value) = value else { return Ok(None) };
    Ok(Some(value.map(|bytes| ObjectEntry::from_bytes(&bytes)).transpose()?))
}

fn stored(
    device: &Device,
    key: &ObjectKey,
    entry: &ObjectEntry,
    data: bool,
    patience: Patience,
) -> Attempt<StoredVersion> {
    if entry.quarantined {
        return Err(NodeError::Corrupt("it is quarantined".into()));
    }
    let location = &entry.location;
    let volume = device.shared.applier.volumes.of(location)?;
    let len = if data { location.content_len() } else { location.head_len() };
    let mut bytes = vec![0; len];
    if read(&volume, &mut bytes, location.offset, patience)?.is_none() {
        return Ok(None);
    }
    let bytes = Bytes::from(bytes);
    let head =
        needle::decode_head(&bytes, (location.volume, location.offset), volume.salt).map_err(damaged)?;
    let meta: ObjectMeta = head.decode().map_err(damaged)?;
    if head.header.kind != Kind::Object || meta.key != *key {
        return Err(NodeError::Corrupt("the index names another needle".into()));
    }
    let inline = if data {
        let inline = bytes.slice(location.head_len()..);
        head.verify(0, &inline).map_err(damaged)?;
        Some(inline)
    } else {
        None
    };
    Ok(Some(StoredVersion { version: meta.version, stamp: meta.stamp, inline }))
}

/// Verified bytes of a block.
pub async fn block(device: &Arc<Device>, key: BlockKey, range: Range<u32>) -> Result<Bytes, NodeError> {
    if let Some(bytes) = block_attempt(device, &key, &range, Patience::Cached)? {
        return Ok(bytes);
    }
    let device = device.clone();
    blocking(move || block_attempt(&device, &key, &range, Patience::Blocking)).await
}

fn block_location(device: &Device, key: &BlockKey, patience: Patience) -> Attempt<Location> {
    let index = &device.shared.applier.index;
    let key = block_key(key);
    let value = match patience {
        Patience::Cached => index.get_cached(Family::Blocks, &key)?,
        Patience::Blocking => Some(index.get(Family::Blocks, &key)?),
    };
    match value {
        None => Ok(None),
        Some(None) => Err(NodeError::NoBlock),
        Some(Some(bytes)) => match BlockEntry::from_bytes(&bytes)? {
            BlockEntry { quarantined: true, .. } => Err(NodeError::Corrupt("it is quarantined".into())),
            entry => Ok(Some(entry.location)),
        },
    }
}

fn block_attempt(device: &Device, key: &BlockKey, range: &Range<u32>, patience: Patience) -> Attempt<Bytes> {
    for last in [false, true] {
        let Some(location) = block_location(device, key, patience)? else { return Ok(None) };
        match block_bytes(device, &location, range, patience) {
            Err(NodeError::Corrupt(what)) if last => return Err(NodeError::Corrupt(what)),
            Err(NodeError::Corrupt(_)) => {}
            found => return found,
        }
    }
    Ok(None)
}

/// Reads the head, then the chunks that hold the range.
fn block_bytes(
    device: &Device,
    location: &Location,
    range: &Range<u32>,
    patience: Patience,
) -> Attempt<Bytes> {
    let (start, end) = (range.start as usize, range.end as usize);
    if start > end || end > location.data_len as usize {
        return Err(NodeError::Corrupt(format!(
            "range {start}..{end} is outside a block of {}",
            location.data_len
        )));
    }
    let volume = device.shared.applier.volumes.of(location)?;
    let mut head = vec![0; location.head_len()];
    if read(&volume, &mut head, location.offset, patience)?.is_none() {
        return Ok(None);
    }
    let head =
        needle::decode_head(&head, (location.volume, location.offset), volume.salt).map_err(damaged)?;
    if head.header.kind != Kind::Block {
        return Err(damaged(NeedleError::Metadata));
    }
    let first = start / CHECKSUM_CHUNK;
    let chunks_end = end.next_multiple_of(CHECKSUM_CHUNK).min(location.data_len as usize);
    let mut data = vec![0; chunks_end - first * CHECKSUM_CHUNK];
    let offset = location.data_offset() + (first * CHECKSUM_CHUNK) as u64;
    if read(&volume, &mut data, offset, patience)?.is_none() {
        return Ok(None);
    }
    head.verify(first, &data).map_err(damaged)?;
    let skip = start - first * CHECKSUM_CHUNK;
    Ok(Some(Bytes::from(data).slice(skip..skip + end - start)))
}
