//! Deleting orphans: blocks that no record names, because a crash interrupted their upload.
//!
//! A node that has just been opened has no upload under way. What no record names then, none ever will:
//! records take extents over from each other (a completed multipart upload from its parts), but only from
//! records that are there. So snapshots of all indexes, taken before the first request, say which blocks
//! are orphans, and what is written meanwhile need not be looked at. In doubt nothing is deleted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::{BlockKey, DataId, Layout, NodeError, Version};
use rocksdb::{ReadOptions, Snapshot};
use tokio::sync::oneshot;

use crate::device::Device;
use crate::group::Request;
use crate::index::{Family, ObjectEntry, object_key, parse_block_key, parse_object_key};
use crate::needle::{Kind, ObjectMeta};

/// Uploads that are looked for at once: bounds the memory.
const UPLOADS_AT_ONCE: usize = 500_000;
/// Blocks deleted with one needle.
const BLOCKS_AT_ONCE: usize = 1_000;
/// After so many records it rests for [`REST`].
const RECORDS_BEFORE_REST: usize = 100;
const REST: Duration = Duration::from_millis(5);

/// The indexes of all devices at one time.
pub struct Snapshots<'d>(Vec<(&'d Arc<Device>, Snapshot<'d>)>);

impl<'d> Snapshots<'d> {
    /// Of now.
    pub fn take(devices: &'d [Arc<Device>]) -> Snapshots<'d> {
        Snapshots(devices.iter().map(|device| (device, device.shared.applier.index.snapshot())).collect())
    }

    /// Deletes the orphans of all devices; how many blocks they were.
    pub fn sweep(&self) -> Result<u64, NodeError> {
        let mut deleted = 0;
        for (device, snapshot) in &self.0 {
            let mut after = None;
            loop {
                let (mut blocks, last) = blocks(device, snapshot, after)?;
                if blocks.is_empty() {
                    break;
                }
                let mut unnamed: HashSet<DataId> = blocks.iter().map(|block| block.data).collect();
                self.remove_named(&mut unnamed)?;
                blocks.retain(|block| unnamed.contains(&block.data));
                for some in blocks.chunks(BLOCKS_AT_ONCE) {
                    delete(device, some)?;
                }
                deleted += blocks.len() as u64;
                after = last;
            }
        }
        Ok(deleted)
    }

    /// Takes out of `uploads` what a record of any device names.
    fn remove_named(&self, uploads: &mut HashSet<DataId>) -> Result<(), NodeError> {
        for (device, snapshot) in &self.0 {
            let mut iterator = device.shared.applier.index.iterate(Family::Objects, at(snapshot));
            iterator.seek_to_first();
            let mut read = 0;
            while let Some((key, value)) = iterator.item() {
                let entry = ObjectEntry::from_bytes(value)?;
                if entry.extents {
                    named_by(device, key, &entry)?.iter().for_each(|data| {
                        uploads.remove(data);
                    });
                    read += 1;
                    if read % RECORDS_BEFORE_REST == 0 {
                        std::thread::sleep(REST);
                    }
                }
                if uploads.is_empty() {
                    return Ok(());
                }
                if device.stopping() {
                    return Err(NodeError::Unavailable("stopping".into()));
                }
                iterator.next();
            }
            iterator.status().map_err(|error| device.shared.applier.index.failed(error))?;
        }
        Ok(())
    }
}

fn at(snapshot: &Snapshot<'_>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_snapshot(snapshot);
    options.fill_cache(false);
    options
}

/// The next blocks of a device, of a bounded number of uploads, and the last one looked at.
fn blocks(
    device: &Device,
    snapshot: &Snapshot<'_>,
    after: Option<Vec<u8>>,
) -> Result<(Vec<BlockKey>, Option<Vec<u8>>), NodeError> {
    let index = &device.shared.applier.index;
    let mut iterator = index.iterate(Family::Blocks, at(snapshot));
    match &after {
        None => iterator.seek_to_first(),
        Some(after) => {
            iterator.seek(after);
            if iterator.key() == Some(after) {
                iterator.next();
            }
        }
    }
    let (mut found, mut last) = (Vec::new(), None);
    while let Some(key) = iterator.key().filter(|_| found.len() < UPLOADS_AT_ONCE) {
        found.push(parse_block_key(key).ok_or_else(|| NodeError::Corrupt("index: block key".into()))?);
        last = Some(key.to_vec());
        iterator.next();
    }
    iterator.status().map_err(|error| index.failed(error))?;
    Ok((found, last))
}

/// The uploads that a record names.
fn named_by(device: &Device, key: &[u8], entry: &ObjectEntry) -> Result<Vec<DataId>, NodeError> {
    let applier = &device.shared.applier;
    let meta = match applier.read_meta::<ObjectMeta>(Kind::Object, &entry.location) {
        Ok(meta) => meta,
        // Compaction may have taken it elsewhere; whatever else happened to it is a reason to stop.
        Err(error) => {
            let key = parse_object_key(key).ok_or_else(|| NodeError::Corrupt("index: object key".into()))?;
            match applier.object(&key)?.filter(|now| now.stamp == entry.stamp) {
                Some(now) if now.location != entry.location => {
                    applier.read_meta(Kind::Object, &now.location)?
                }
                _ => return Err(error),
            }
        }
    };
    if object_key(&meta.key) != key {
        return Err(NodeError::Corrupt("the index names another needle".into()));
    }
    Ok(match meta.version {
        Version::Live(record) => match record.layout {
            Layout::Extents(extents) => extents.into_iter().map(|extent| extent.data).collect(),
            Layout::Inline | Layout::Version(_) => Vec::new(),
        },
        Version::Deleted(_) | Version::Moved(_) => Vec::new(),
    })
}

fn delete(device: &Device, blocks: &[BlockKey]) -> Result<(), NodeError> {
    let (done, answer) = oneshot::channel();
    device.send_blocking(Request::DeleteBlocks(blocks.to_vec(), done))?;
    answer.blocking_recv().unwrap_or(Err(NodeError::Unavailable("stopped".into())))
}
