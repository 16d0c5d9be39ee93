//! A storage node in memory, for simulation: the rules of a real one, and a disk that crashes can hurt.
//!
//! A device is a log of records, of which the first so many are synced, and a view of them. A crash keeps
//! what was synced and any part of what was not. Queues of background work are not kept.

mod view;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    BlockKey, BlockWrite, DeviceIndex, Directory, DirectoryInfo, DirectoryKey, DirectoryWrite, Item, ItemKey,
    ListQuery, NodeError, ObjectKey, ObjectWrite, Page, Promise, Row, RowDurability, StorageNode,
    StoredVersion, Timestamp, Vote, Votes, WorkId, WorkItem, WorkKind,
};
use view::{Record, View};

/// What a device gets wrong on purpose, to show that tests notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Writes are acknowledged without a sync.
    pub no_sync: bool,
    /// Older versions replace newer ones.
    pub takes_older: bool,
    /// Promises are given and not kept.
    pub breaks_promises: bool,
    /// Promises are forgotten in a crash.
    pub forgets_promises: bool,
    /// Rows are taken whatever a directory's bounds.
    pub ignores_bounds: bool,
}

/// How far ahead of what is taken the ceiling is.
const AHEAD_MICROS: u64 = 2_000_000;

/// A node with one device, called `d1`.
pub struct MemoryNode {
    device: tokio::sync::Mutex<Device>,
    /// Of starts: what began before a crash does not answer after it.
    epoch: AtomicU64,
    sync: Box<dyn Fn() -> Duration + Send + Sync>,
    faults: Faults,
}

struct Device {
    log: Vec<Record>,
    synced: usize,
    view: View,
    votes: Votes,
    ceiling: Timestamp,
    full: bool,
}

impl MemoryNode {
    /// An empty node. `sync` says how long the next sync takes.
    pub fn new(faults: Faults, sync: impl Fn() -> Duration + Send + Sync + 'static) -> Arc<MemoryNode> {
        let device = Device {
            log: Vec::new(),
            synced: 0,
            view: View::of(&[], faults.ignores_bounds),
            votes: Votes::after(Timestamp::ZERO),
            ceiling: Timestamp::ZERO,
            full: false,
        };
        let device = tokio::sync::Mutex::new(device);
        Arc::new(MemoryNode { device, epoch: AtomicU64::new(0), sync: Box::new(sync), faults })
    }

    /// Crashes and starts again. Of the records that were not synced, those survive that `survives` says.
    pub async fn crash(&self, mut survives: impl FnMut() -> bool) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        let mut device = self.device.lock().await;
        let synced = device.synced;
        let log = std::mem::take(&mut device.log).into_iter().enumerate();
        device.log =
            log.filter(|(index, _)| *index < synced || survives()).map(|(_, record)| record).collect();
        device.synced = device.log.len();
        device.view = View::of(&device.log, self.faults.ignores_bounds);
        let floor = if self.faults.forgets_promises { Timestamp::ZERO } else { device.ceiling };
        device.votes = Votes::after(floor);
    }

    /// From now on there is no room for data, or again.
    pub async fn set_full(&self, full: bool) {
        self.device.lock().await.full = full;
    }

    /// Damages the bytes of the object that `choose` picks of so many.
    pub async fn rot(&self, choose: impl FnOnce(usize) -> usize) {
        self.device.lock().await.view.rot(choose);
    }

    /// Heals what [`MemoryNode::rot`] has damaged.
    pub async fn heal(&self) {
        self.device.lock().await.view.heal();
    }

    /// All directories, with all rows.
    pub async fn directories(&self) -> Vec<(DirectoryKey, Directory, Vec<Row>)> {
        self.device.lock().await.view.directories()
    }

    /// Whether what is held of a name is damaged.
    pub async fn is_damaged(&self, key: &ObjectKey) -> bool {
        self.device.lock().await.view.object(key, true).is_err()
    }

    /// One change: checked, appended, synced, shown, answered, all others waiting meanwhile.
    async fn change<T>(
        &self,
        step: impl FnOnce(&mut Device, Faults) -> Result<(Option<Record>, T), NodeError>,
    ) -> Result<T, NodeError> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let stopped = || NodeError::Unavailable("the node has crashed".into());
        let mut device = self.device.lock().await;
        if self.epoch.load(Ordering::Acquire) != epoch {
            return Err(stopped());
        }
        let (record, answer) = step(&mut device, self.faults)?;
        let Some(record) = record else { return Ok(answer) };
        device.log.push(record.clone());
        tokio::time::sleep((self.sync)()).await;
        if self.epoch.load(Ordering::Acquire) != epoch {
            return Err(stopped());
        }
        if !self.faults.no_sync {
            device.synced = device.log.len();
        }
        let refused = device.view.apply(&record);
        refused.map(|()| answer)
    }
}

impl Device {
    /// As a real device: on stable storage ahead of what it covers.
    fn raise_above(&mut self, ballot: Timestamp) {
        if ballot > self.ceiling {
            self.ceiling = Timestamp::from_micros(ballot.micros() + AHEAD_MICROS, 0);
        }
    }

    fn room(&self, needed: bool) -> Result<(), NodeError> {
        if self.full && needed { Err(NodeError::Full) } else { Ok(()) }
    }
}

#[async_trait]
impl StorageNode for MemoryNode {
    fn device(&self, name: &str) -> Option<DeviceIndex> {
        (name == "d1").then_some(DeviceIndex(0))
    }

    async fn write_object(&self, _: DeviceIndex, write: ObjectWrite) -> Result<(), NodeError> {
        let step = |device: &mut Device, faults: Faults| {
            let held = device.view.stamp(&write.key);
            match device.votes.check(&write.key, held, write.stamp, write.expect) {
                Ok(Vote::Stored) => {
                    device.view.show_row(&write)?;
                    return Ok((None, ()));
                }
                Ok(Vote::Store) => {}
                Err(_) if faults.takes_older => {}
                Err(refusal)
                    if faults.breaks_promises
                        && refusal.held.is_none_or(|h| h.ballot < write.stamp.ballot) => {}
                Err(refusal) => return Err(NodeError::Stale(refusal)),
            }
            device.room(write.version.live().is_some())?;
            device.raise_above(write.stamp.ballot);
            device.votes.accepted(&write.key, held, write.stamp);
            Ok((Some(Record::Object(Box::new(write))), ()))
        };
        self.change(step).await
    }

    async fn prepare(
        &self,
        _: DeviceIndex,
        key: ObjectKey,
        ballot: Timestamp,
        origin: Timestamp,
    ) -> Result<Promise, NodeError> {
        let step = |device: &mut Device, _: Faults| {
            let held = device.view.stamp(&key);
            device.raise_above(ballot);
            let promise = device.votes.promise(&key, held, ballot, origin).map_err(NodeError::Stale)?;
            Ok((None, promise))
        };
        self.change(step).await
    }

    async fn read_object(
        &self,
        _: DeviceIndex,
        key: ObjectKey,
        data: bool,
    ) -> Result<Option<StoredVersion>, NodeError> {
        self.device.lock().await.view.object(&key, data)
    }

    async fn write_block(&self, _: DeviceIndex, block: BlockWrite) -> Result<(), NodeError> {
        let step = |device: &mut Device, _: Faults| {
            device.room(true)?;
            Ok((Some(Record::Block(block.key, block.data.concat().into())), ()))
        };
        self.change(step).await
    }

    async fn read_block(&self, _: DeviceIndex, key: BlockKey, range: Range<u32>) -> Result<Bytes, NodeError> {
        let device = self.device.lock().await;
        let block = device.view.blocks.get(&key).ok_or(NodeError::NoBlock)?;
        let range = range.start as usize..range.end as usize;
        if range.start > range.end || range.end > block.len() {
            return Err(NodeError::Corrupt("range is outside the block".into()));
        }
        Ok(block.slice(range))
    }

    async fn delete_blocks(&self, _: DeviceIndex, keys: Vec<BlockKey>) -> Result<(), NodeError> {
        self.change(|_, _| Ok((Some(Record::BlocksDeleted(keys)), ()))).await
    }

    async fn write_directory(
        &self,
        _: DeviceIndex,
        write: DirectoryWrite,
    ) -> Result<(DirectoryInfo, bool), NodeError> {
        let key = write.key;
        let step = |device: &mut Device, _: Faults| {
            let (directory, created) = device.view.changed(&write)?;
            Ok((Some(Record::Directory(key, directory)), created))
        };
        let created = self.change(step).await?;
        let info = self.device.lock().await.view.info(&key).ok_or(NodeError::NoDirectory)?;
        Ok((info, created))
    }

    async fn read_directory(
        &self,
        _: DeviceIndex,
        key: DirectoryKey,
    ) -> Result<Option<DirectoryInfo>, NodeError> {
        Ok(self.device.lock().await.view.info(&key))
    }

    async fn write_rows(
        &self,
        _: DeviceIndex,
        key: DirectoryKey,
        rows: Vec<Row>,
        durability: RowDurability,
    ) -> Result<(), NodeError> {
        let fenced = durability != RowDurability::Copied;
        self.change(|_, _| Ok((Some(Record::Rows(key, rows, fenced)), ()))).await
    }

    async fn forget(&self, _: DeviceIndex, items: Vec<Item>) -> Result<usize, NodeError> {
        let mut gone: BTreeMap<DirectoryKey, Vec<(String, Timestamp, bool)>> = BTreeMap::new();
        for item in &items {
            let ItemKey::Row(key, name) = &item.key else { continue };
            gone.entry(*key).or_default().push((name.clone(), item.timestamp, item.deleted));
        }
        for (key, rows) in gone {
            self.change(|_, _| Ok((Some(Record::RowsForgotten(key, rows)), ()))).await?;
        }
        Ok(items.len())
    }

    async fn list_rows(
        &self,
        _: DeviceIndex,
        key: DirectoryKey,
        query: ListQuery,
    ) -> Result<Page, NodeError> {
        self.device.lock().await.view.list(&key, &query)
    }

    async fn next_work(
        &self,
        _: DeviceIndex,
        _: WorkKind,
        _: u64,
        _: usize,
    ) -> Result<Vec<WorkItem>, NodeError> {
        Ok(Vec::new())
    }

    async fn finish_work(&self, _: DeviceIndex, _: WorkKind, _: Vec<WorkId>) -> Result<(), NodeError> {
        Ok(())
    }
}
