//! Opening a device: what the index lacks comes back from the volumes.
//!
//! A checkpoint names a position in the volumes before which everything is in the flushed indexes of
//! all devices of the node. Opening replays what follows, in two passes: first every device's index and
//! directories, then the listing rows, which may belong to a directory on another device. A device
//! without an index is replayed from its first volume, and then so are the rows of all devices.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use kodiak_storage_api::{DirectoryKey, NodeError, Row};
use serde::{Deserialize, Serialize};

use crate::apply::NewVersion;
use crate::directories::{Directories, Fence};
use crate::disk::Disk;
use crate::forget;
use crate::index::{ObjectEntry, WriteBatch};
use crate::needle::{
    BlockMeta, BlocksDeleted, DirectoryMeta, Forgotten, Header, Kind, NeedleError, ObjectMeta, RowsMeta,
};
use crate::scan::{self, Found};
use crate::volume::FIRST_NEEDLE;
use crate::writer::Shared;

const CHECKPOINT: &str = "checkpoint.json";
const FORMAT: u32 = 1;

/// A position that a device's index has caught up with.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    format: u32,
    /// Number of the volume.
    pub volume: u32,
    /// Offset in it.
    pub offset: u64,
}

impl Checkpoint {
    /// At the beginning of everything.
    pub const START: Checkpoint = Checkpoint { format: FORMAT, volume: 0, offset: FIRST_NEEDLE };

    /// At a position.
    pub fn at((volume, offset): (u32, u64)) -> Checkpoint {
        Checkpoint { format: FORMAT, volume, offset }
    }

    /// Reads a device's checkpoint; the start where there is none that can be read.
    pub fn load(disk: &dyn Disk, folder: &Path) -> Checkpoint {
        let Ok(bytes) = disk.read(&folder.join(CHECKPOINT)) else { return Checkpoint::START };
        match serde_json::from_slice::<Checkpoint>(&bytes) {
            Ok(checkpoint) if checkpoint.format == FORMAT => checkpoint,
            _ => {
                tracing::error!(folder = %folder.display(), "checkpoint is damaged: everything is replayed");
                Checkpoint::START
            }
        }
    }

    /// Replaces a device's checkpoint, durably.
    pub fn save(&self, disk: &dyn Disk, folder: &Path) -> std::io::Result<()> {
        disk.replace(&folder.join(CHECKPOINT), &serde_json::to_vec(self)?)
    }
}

/// What a replay did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replayed {
    /// Needles seen.
    pub needles: u64,
    /// Needles passed over because they are damaged.
    pub damaged: u64,
}

/// First pass: objects, blocks and directories into the index.
pub fn replay_index(shared: &Shared, from: Checkpoint) -> Result<Replayed, NodeError> {
    let mut replayed = Replayed::default();
    for volume in shared.applier.volumes.all() {
        if volume.number < from.volume {
            continue;
        }
        let start = if volume.number == from.volume { from.offset } else { FIRST_NEEDLE };
        let mut failure = None;
        let end = scan::walk(&volume, start, true, |header, found| {
            replayed.needles += 1;
            match found.and_then(|found| verified(&header, found)) {
                Ok(found) => match index_needle(shared, &header, &found) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        failure = Some(error);
                        ControlFlow::Break(())
                    }
                },
                Err(error) => {
                    replayed.damaged += 1;
                    tracing::warn!(device = shared.name, at = ?header.location, %error, "needle passed over");
                    ControlFlow::Continue(())
                }
            }
        });
        let end = end.map_err(|error| NodeError::Unavailable(error.to_string()))?;
        if let Some(error) = failure {
            return Err(error);
        }
        // Room that was reserved and never written goes back.
        if let Err(error) = volume.file.truncate(end) {
            tracing::warn!(device = shared.name, volume = volume.number, %error, "volume not cut");
        }
    }
    Ok(replayed)
}

fn verified<'a>(header: &Header, found: Found<'a>) -> Result<Found<'a>, NeedleError> {
    // The data of a block may have been punched out after its deletion; a read verifies it anyway.
    if header.kind != Kind::Block {
        found.head.verify(0, found.data)?;
    }
    Ok(found)
}

fn index_needle(shared: &Shared, header: &Header, found: &Found<'_>) -> Result<(), NodeError> {
    let applier = &shared.applier;
    let damaged = crate::apply::damaged;
    let mut batch = WriteBatch::default();
    let location = header.location;
    match header.kind {
        Kind::Object => {
            let ObjectMeta { key, path, version, stamp, .. } = found.head.decode().map_err(damaged)?;
            shared.clock.observe(stamp.ballot);
            let old = applier.object(&key)?;
            if old.is_none_or(|old| old.stamp.ballot <= stamp.ballot) {
                let new = NewVersion { key: &key, path: &path, version: &version, stamp, location, old };
                applier.put_object(&mut batch, &new)?;
            }
        }
        Kind::Block => {
            let meta: BlockMeta = found.head.decode().map_err(damaged)?;
            let old = applier.block(&meta.key)?;
            applier.put_block(&mut batch, &meta.key, location, old);
        }
        Kind::BlocksDeleted => {
            let meta: BlocksDeleted = found.head.decode().map_err(damaged)?;
            applier.delete_blocks(&mut batch, &meta.keys)?;
        }
        Kind::Directory => {
            let meta: DirectoryMeta = found.head.decode().map_err(damaged)?;
            shared.clock.observe(meta.directory.created.max(meta.directory.deleted));
            let directories = &shared.directories;
            let mut guard = directories.lock(directories.shard_of(&meta.key));
            let merged = match directories.stored(&meta.key)? {
                Some(old) => old.directory.merge(meta.directory),
                None => meta.directory,
            };
            directories.put(&mut guard, &meta.key, merged, location)?;
        }
        Kind::Forgotten => {
            let forgotten: Forgotten = found.head.decode().map_err(damaged)?;
            forget::objects_and_blocks(shared, &forgotten, &mut batch)?;
            forget::directories(shared, &forgotten)?;
        }
        Kind::Rows => {}
    }
    applier.index.write(batch)
}

/// Rows put in one go.
const ROWS_AT_ONCE: usize = 4096;

/// Second pass: the rows of the needles from `from` on, into every directory of the node.
pub fn replay_rows(shared: &Shared, node: &[Arc<Directories>], from: Checkpoint) -> Result<(), NodeError> {
    let mut rows: HashMap<DirectoryKey, Vec<Row>> = HashMap::new();
    let mut held = 0;
    for volume in shared.applier.volumes.all() {
        if volume.number < from.volume {
            continue;
        }
        let start = if volume.number == from.volume { from.offset } else { FIRST_NEEDLE };
        let mut failure = None;
        let walked = scan::walk(&volume, start, false, |header, found| {
            let Ok(found) = found else { return ControlFlow::Continue(()) };
            if header.kind == Kind::Forgotten {
                held = 0;
                return match put_rows(node, &mut rows).and_then(|()| forget_rows(shared, &found)) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        failure = Some(error);
                        ControlFlow::Break(())
                    }
                };
            }
            let taken = take_rows(shared, &header, &found, &mut rows).and_then(|taken| {
                held += taken;
                if held < ROWS_AT_ONCE {
                    return Ok(());
                }
                held = 0;
                put_rows(node, &mut rows)
            });
            match taken {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        walked.map_err(|error| NodeError::Unavailable(error.to_string()))?;
        if let Some(error) = failure {
            return Err(error);
        }
    }
    put_rows(node, &mut rows)
}

/// In the order of the log: what was put before is forgotten, what came after stays.
fn forget_rows(shared: &Shared, found: &Found<'_>) -> Result<(), NodeError> {
    let forgotten: Forgotten = found.head.decode().map_err(crate::apply::damaged)?;
    forget::rows(shared, &forgotten, true)
}

fn take_rows(
    shared: &Shared,
    header: &Header,
    found: &Found<'_>,
    rows: &mut HashMap<DirectoryKey, Vec<Row>>,
) -> Result<usize, NodeError> {
    match header.kind {
        Kind::Object => {
            let meta: ObjectMeta = found.head.decode().map_err(crate::apply::damaged)?;
            let Some(directory) = meta.row else { return Ok(0) };
            // A version that the first pass refused shows no row; neither does one that was deleted: its
            // tombstone may have come without a row, and the row's own tombstone be forgotten already.
            let (indexed, at) = (shared.applier.object(&meta.key)?, meta.stamp.ballot);
            let deleted = |entry: &ObjectEntry| entry.deleted && entry.stamp.ballot > at;
            if indexed.is_none_or(|entry| entry.stamp.ballot < at || deleted(&entry)) {
                return Ok(0);
            }
            rows.entry(directory).or_default().push(meta.version.row(&meta.path, meta.stamp.ballot));
            Ok(1)
        }
        Kind::Rows => {
            let meta: RowsMeta = found.head.decode().map_err(crate::apply::damaged)?;
            let taken = meta.rows.len();
            rows.entry(meta.key).or_default().extend(meta.rows);
            Ok(taken)
        }
        Kind::Block | Kind::BlocksDeleted | Kind::Directory | Kind::Forgotten => Ok(0),
    }
}

fn put_rows(node: &[Arc<Directories>], rows: &mut HashMap<DirectoryKey, Vec<Row>>) -> Result<(), NodeError> {
    for (key, rows) in rows.drain() {
        for directories in node {
            match directories.put_rows(&key, rows.iter(), Fence::Down) {
                // Its container is gone, or this device does not hold it.
                Ok(()) | Err(NodeError::NoDirectory) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
