//! Giving back the room of volumes that are mostly dead.
//!
//! The live needles of a volume are written again by the device's writer, which checks once more that
//! each is still the newest; after the next checkpoint nothing refers to the old volume, and it goes.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kodiak_storage_api::{DirectoryKey, NodeError, Row};
use tokio::sync::oneshot;

use crate::apply::{NewVersion, damaged};
use crate::device::Device;
use crate::digests::row_timestamp;
use crate::group::{Move, Request};
use crate::index::{Family, WriteBatch, directory_key, encode};
use crate::needle::{
    BlockMeta, BlocksDeleted, DirectoryMeta, Forgotten, Header, Kind, Location, ObjectMeta, RowsMeta,
};
use crate::scan;
use crate::volume::{FIRST_NEEDLE, Volume};
use crate::writer::Shared;

/// A volume is compacted when this share of what it takes on the disk is dead.
const DEAD_SHARE: f64 = 0.5;

fn meta<M: serde::de::DeserializeOwned>(moved: &Move) -> Result<M, NodeError> {
    postcard::from_bytes(&moved.meta).map_err(|error| NodeError::Corrupt(error.to_string()))
}

/// Whether a needle is still needed where it was read.
pub fn is_live(shared: &Shared, moved: &Move) -> Result<bool, NodeError> {
    let applier = &shared.applier;
    Ok(match moved.kind {
        Kind::Object => {
            let meta: ObjectMeta = meta(moved)?;
            applier.object(&meta.key)?.is_some_and(|entry| entry.location == moved.from)
        }
        Kind::Block => {
            applier.block(&meta::<BlockMeta>(moved)?.key)?.is_some_and(|entry| entry.location == moved.from)
        }
        Kind::Directory => {
            let meta: DirectoryMeta = meta(moved)?;
            shared.directories.stored(&meta.key)?.is_some_and(|stored| stored.location == moved.from)
        }
        // Needed while an older volume could bring the items back in a rebuild of the index.
        Kind::BlocksDeleted | Kind::Forgotten => {
            applier.volumes.all().first().is_some_and(|first| first.number < moved.from.volume)
        }
        Kind::Rows => rows_are_current(shared, &meta(moved)?)?,
    })
}

/// Whether a needle is still needed; takes out of one that lists items those that need no mention where
/// it goes. It comes after what was written since: rows that were replaced or forgotten would come back
/// in a rebuild of the index, and what has come back after it was deleted would be lost.
pub fn still_needed(shared: &Shared, moved: &mut Move) -> Result<bool, NodeError> {
    if !is_live(shared, moved)? {
        return Ok(false);
    }
    let left = match moved.kind {
        Kind::Rows => {
            let mut rows: RowsMeta = meta(moved)?;
            let key = rows.key;
            retain(&mut rows.rows, |row| is_current(shared, &key, row))?;
            moved.meta = encode(&rows);
            rows.rows.len()
        }
        Kind::BlocksDeleted => {
            let mut deleted: BlocksDeleted = meta(moved)?;
            retain(&mut deleted.keys, |key| Ok(shared.applier.block(key)?.is_none()))?;
            moved.meta = encode(&deleted);
            deleted.keys.len()
        }
        Kind::Forgotten => {
            let mut forgotten: Forgotten = meta(moved)?;
            retain(&mut forgotten.items, |item| Ok(!crate::forget::is_known(shared, &item.key)?))?;
            moved.meta = encode(&forgotten);
            forgotten.items.len()
        }
        Kind::Object | Kind::Block | Kind::Directory => 1,
    };
    Ok(left > 0)
}

fn retain<T>(list: &mut Vec<T>, keep: impl Fn(&T) -> Result<bool, NodeError>) -> Result<(), NodeError> {
    let mut failure = None;
    list.retain(|item| {
        keep(item).unwrap_or_else(|error| {
            failure = Some(error);
            false
        })
    });
    failure.map_or(Ok(()), Err)
}

/// Whether a device shows a row, or its tombstone, at just this timestamp.
pub fn is_current(shared: &Shared, key: &DirectoryKey, row: &Row) -> Result<bool, NodeError> {
    let key = crate::directories::row_key(&directory_key(key), &row.name);
    let family = if row.deleted { Family::Tombstones } else { Family::Rows };
    let Some(value) = shared.applier.index.get(family, &key)? else { return Ok(false) };
    Ok(row_timestamp(&value).is_ok_and(|at| at == row.timestamp))
}

fn rows_are_current(shared: &Shared, meta: &RowsMeta) -> Result<bool, NodeError> {
    for row in &meta.rows {
        if is_current(shared, &meta.key, row)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Points the index at a needle's new place.
pub fn apply_move(
    shared: &Shared,
    moved: &Move,
    to: Location,
    batch: &mut WriteBatch,
) -> Result<(), NodeError> {
    let applier = &shared.applier;
    match moved.kind {
        Kind::Object => {
            let ObjectMeta { key, path, version, stamp, .. } = meta(moved)?;
            // Moves share no group with other writes, so the index says what is newest.
            match applier.object(&key)?.filter(|entry| entry.location == moved.from) {
                Some(old) => {
                    let new = NewVersion {
                        key: &key,
                        path: &path,
                        version: &version,
                        stamp,
                        location: to,
                        old: Some(old),
                    };
                    applier.put_object(batch, &new)?;
                }
                None => applier.kill(batch, &to, 0),
            }
        }
        Kind::Block => {
            let meta: BlockMeta = meta(moved)?;
            let old = applier.block(&meta.key)?;
            applier.put_block(batch, &meta.key, to, old);
        }
        Kind::Directory => {
            let meta: DirectoryMeta = meta(moved)?;
            if let Some(mut stored) = shared.directories.stored(&meta.key)? {
                stored.location = to;
                batch.put_cf(
                    applier.index.family(Family::Directories),
                    directory_key(&meta.key),
                    encode(&stored),
                );
            }
        }
        Kind::BlocksDeleted | Kind::Rows | Kind::Forgotten => {}
    }
    Ok(())
}

/// The sealed volumes that are worth compacting.
pub fn candidates(device: &Device) -> Vec<u32> {
    let (current, _) = *device.shared.applied.lock();
    let worth = |volume: &std::sync::Arc<Volume>| {
        let size = volume.file.size().unwrap_or(0);
        let usage = device.shared.applier.usage(volume.number);
        let on_disk = size.saturating_sub(usage.punched).saturating_sub(FIRST_NEEDLE);
        let dead = usage.dead.saturating_sub(usage.punched);
        volume.number < current && dead as f64 >= on_disk as f64 * DEAD_SHARE
    };
    device.shared.applier.volumes.all().iter().filter(|v| worth(v)).map(|v| v.number).collect()
}

/// About how many bytes of a device's volumes are live.
pub fn live_bytes(device: &Device) -> u64 {
    let (current, end) = *device.shared.applied.lock();
    let live = |volume: &std::sync::Arc<Volume>| {
        // The newest volume is longer than what is written to it.
        let size = if volume.number == current { end } else { volume.file.size().unwrap_or(0) };
        let dead = device.shared.applier.usage(volume.number).dead;
        size.saturating_sub(dead).saturating_sub(FIRST_NEEDLE)
    };
    device.shared.applier.volumes.all().iter().map(live).sum()
}

/// Needles on their way to the writer at once.
const IN_FLIGHT: usize = 64;
/// Bytes on their way to the writer at once.
const BYTES_IN_FLIGHT: usize = 8 << 20;

/// Needles that the writer has been asked to move.
struct Moves<'d> {
    device: &'d Device,
    waiting: Vec<oneshot::Receiver<Result<(), NodeError>>>,
    bytes: usize,
}

impl Moves<'_> {
    fn send(&mut self, moved: Move) -> Result<(), NodeError> {
        self.bytes += moved.data.len();
        let (done, answer) = oneshot::channel();
        self.device.send_blocking(Request::Move(Box::new(moved), done))?;
        self.waiting.push(answer);
        if self.waiting.len() >= IN_FLIGHT || self.bytes >= BYTES_IN_FLIGHT { self.wait() } else { Ok(()) }
    }

    fn wait(&mut self) -> Result<(), NodeError> {
        self.bytes = 0;
        for answer in self.waiting.drain(..) {
            answer.blocking_recv().unwrap_or(Err(NodeError::Unavailable("stopped".into())))?;
        }
        Ok(())
    }
}

/// Copies what is live out of a volume, at most `rate` bytes a second. Whether it may be deleted after
/// the next checkpoint: not if a live needle of it is damaged and could not be copied.
pub fn evacuate(device: &Device, number: u32, rate: u64) -> Result<bool, NodeError> {
    let Some(volume) = device.shared.applier.volumes.get(number) else { return Ok(false) };
    let (begun, mut copied, mut complete, mut failure) = (Instant::now(), 0u64, true, None);
    let mut moves = Moves { device, waiting: Vec::new(), bytes: 0 };
    let walked = scan::walk(&volume, FIRST_NEEDLE, true, |header, found| {
        match found.map_err(damaged).and_then(|found| live_needle(device, &header, &found)) {
            Ok(None) => {}
            Ok(Some(moved)) => {
                copied += header.location.padded_len();
                failure = moves.send(moved).err();
            }
            Err(NodeError::Corrupt(what)) => {
                tracing::error!(device = device.shared.name, at = ?header.location, what, "damaged needle stays");
                complete = false;
            }
            Err(error) => failure = Some(error),
        }
        let due = Duration::from_secs_f64(copied as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        if failure.is_some() || device.stopping() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    walked.map_err(|error| NodeError::Unavailable(error.to_string()))?;
    match failure {
        Some(error) => Err(error),
        None => moves.wait().map(|()| complete && !device.stopping()),
    }
}

fn live_needle(device: &Device, header: &Header, found: &scan::Found<'_>) -> Result<Option<Move>, NodeError> {
    let data = Bytes::copy_from_slice(found.data);
    let moved = Move { kind: header.kind, from: header.location, meta: found.head.meta.to_vec(), data };
    if !is_live(&device.shared, &moved)? {
        return Ok(None);
    }
    found.head.verify(0, found.data).map_err(damaged)?;
    Ok(Some(moved))
}
