//! The writer of a device: one thread that gathers what is waiting into one write and one sync.
//!
//! When it answers, the needle is on stable storage in the volume, the index shows it, and so does
//! the listing row that goes with it. Index and rows are in memory only: a crash brings them back from
//! the needle, because a checkpoint never passes a needle whose row is not flushed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use kodiak_storage_api::{
    BlockKey, BlockWrite, Clock, DirectoryInfo, DirectoryKey, DirectoryWrite, ItemKey, NodeError, ObjectKey,
    ObjectWrite, Promise, Refusal, Row, Timestamp, Vote, Votes,
};
use parking_lot::Mutex;
use serde::ser::{Serialize, SerializeTuple, Serializer};

use crate::apply::{Applier, NewVersion};
use crate::compact;
use crate::directories::{Directories, Fence, ShardGuard};
use crate::forget;
use crate::group::{Done, Group, Item, Move, Request};
use crate::index::{ObjectEntry, WriteBatch};
use crate::needle::{BlockMeta, BlocksDeleted, DirectoryMeta, Forgotten, Kind, ObjectMetaRef, RowsMeta};
use crate::promise::Ceiling;
use crate::volume::Tail;

/// A group closes when it has this many bytes: about what a disk takes in one sync's time.
const GROUP_BYTES: u64 = 8 << 20;
/// A group closes when it has this many needles: bounds the first one's wait.
const GROUP_ITEMS: usize = 512;

/// A device's state that its writer shares with readers and workers.
pub struct Shared {
    /// Its name, for logs and metrics.
    pub name: String,
    /// Index and volumes.
    pub applier: Applier,
    /// Accounts and containers.
    pub directories: Arc<Directories>,
    /// Everything before this position is in the index, rows included.
    pub applied: Mutex<(u32, u64)>,
    /// A sync has failed: what the kernel holds is unknown, and the device takes no more writes.
    pub failed: AtomicBool,
    /// Issues the time of blocks.
    pub clock: Arc<Clock>,
}

/// The writer's own state.
pub struct Writer {
    shared: Arc<Shared>,
    /// The directories of all devices of the node, for rows.
    node: Arc<Vec<Arc<Directories>>>,
    tail: Tail,
    group: Group,
    requests: Receiver<Request>,
    carried: Option<Request>,
    votes: Votes,
    ceiling: Arc<Ceiling>,
}

/// Bytes that serialize as themselves, without a length.
pub struct Raw<'a>(pub &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
        tuple.end()
    }
}

/// Directory shards locked from the check of a change to its application.
type Guards<'a> = HashMap<usize, ShardGuard<'a>>;

impl Writer {
    /// A writer that takes requests from a channel until it closes.
    pub fn new(
        shared: Arc<Shared>,
        node: Arc<Vec<Arc<Directories>>>,
        tail: Tail,
        requests: Receiver<Request>,
        ceiling: Arc<Ceiling>,
    ) -> Writer {
        let votes = Votes::after(ceiling.at_start());
        Writer { shared, node, tail, group: Group::default(), requests, carried: None, votes, ceiling }
    }

    /// Runs until every sender is gone.
    pub fn run(mut self) {
        while let Some(first) = self.carried.take().or_else(|| self.requests.recv().ok()) {
            if let Err(error) = self.tail.rotate() {
                refuse(first, io_error(&error));
                continue;
            }
            // A handle of its own, so that the guards do not borrow from `self`.
            let directories = self.shared.directories.clone();
            let mut guards = Guards::new();
            self.group.begin(&self.tail);
            self.gather(first, &directories, &mut guards);
            self.commit(guards);
        }
        self.tail.seal();
    }

    fn gather<'a>(&mut self, first: Request, directories: &'a Directories, guards: &mut Guards<'a>) {
        let mut next = Some(first);
        while let Some(request) = next {
            if let Err(again) = self.add(request, directories, guards) {
                self.carried = Some(again);
                return;
            }
            let full = self.group.bytes() >= GROUP_BYTES || self.group.items.len() >= GROUP_ITEMS;
            next = if full { None } else { self.requests.try_recv().ok() };
        }
    }

    /// Adds a request to the group, answers it, or gives it back for the next group.
    fn add<'a>(
        &mut self,
        request: Request,
        directories: &'a Directories,
        guards: &mut Guards<'a>,
    ) -> Result<(), Request> {
        if self.shared.failed.load(Ordering::Acquire) {
            refuse(
                request,
                NodeError::Unavailable("a sync failed earlier; restart after checking the disk".into()),
            );
            return Ok(());
        }
        // A move is checked against an index that does not show the rest of the group yet.
        let mixed = matches!(request, Request::Move(..)) != self.group.moves && !self.group.items.is_empty();
        let names = request.names();
        if mixed || names.iter().any(|name| self.group.names.contains(name)) {
            return Err(request);
        }
        self.group.names.extend(names);
        self.group.moves = matches!(request, Request::Move(..));
        match request {
            Request::Object(write, done) => self.add_object(write, false, done),
            Request::Learn(write, done) => self.add_object(write, true, done),
            Request::Prepare(key, ballot, done) => drop(done.send(self.promise(&key, ballot))),
            Request::Block(block, done) => self.add_block(*block, done),
            Request::DeleteBlocks(keys, done) => self.add_delete(keys, done),
            Request::Directory(write, done) => {
                let shard = directories.shard_of(&write.key);
                let guard = guards.entry(shard).or_insert_with(|| directories.lock(shard));
                self.add_directory(&write, guard, done);
            }
            Request::Rows(key, rows, fence, done) => self.add_rows(key, rows, fence, done),
            Request::Move(moved, done) => self.add_move(moved, done),
            Request::Forget(forgotten, done) => self.add_forget(forgotten, directories, guards, done),
            Request::Quarantine(damage, done) => {
                self.group.items.push(Item::Quarantine { damage, done });
            }
        }
        Ok(())
    }

    fn add_object(&mut self, write: Box<ObjectWrite>, learned: bool, done: Done<()>) {
        let added = (|| {
            let old = self.shared.applier.object(&write.key)?;
            self.votes.raise_floor(self.ceiling.barred());
            let vote = match learned {
                true => learn(old, write.stamp.ballot),
                false => self.votes.check(&write.key, old.map(|old| old.stamp), write.stamp, write.expect),
            };
            if vote.map_err(NodeError::Stale)? == Vote::Stored {
                return Ok(None);
            }
            self.ceiling.raise_above(write.stamp.ballot)?;
            let meta = ObjectMetaRef {
                key: &write.key,
                path: &write.path,
                version: &write.version,
                stamp: write.stamp,
                row: write.row.map(|row| row.directory),
            };
            let urgent = write.version.live().is_none();
            let location = self.group.add(&mut self.tail, Kind::Object, &meta, &write.inline, urgent)?;
            Ok(Some((location, old)))
        })();
        match added {
            Ok(Some((location, old))) => self.group.items.push(Item::Object { write, location, old, done }),
            // Its needle is on stable storage: this group was begun after the one that brought it.
            Ok(None) => self.group.stored.push((write, done)),
            Err(error) => drop(done.send(Err(error))),
        }
    }

    fn promise(
        &mut self,
        key: &ObjectKey,
        (ballot, origin): (Timestamp, Timestamp),
    ) -> Result<Promise, NodeError> {
        let held = self.shared.applier.object(key)?.map(|old| old.stamp);
        self.votes.raise_floor(self.ceiling.barred());
        // Before it is given, so that none is given that a crash could take back.
        self.ceiling.raise_above(ballot)?;
        self.votes.promise(key, held, ballot, origin).map_err(NodeError::Stale)
    }

    fn add_block(&mut self, block: BlockWrite, done: Done<()>) {
        let added = (|| {
            let old = self.shared.applier.block(&block.key)?;
            let meta = BlockMeta {
                key: block.key,
                owner: block.owner,
                digest: block.digest,
                written: self.shared.clock.now(),
            };
            let location = self.group.add(&mut self.tail, Kind::Block, &meta, &block.data, false)?;
            Ok((location, old))
        })();
        match added {
            Ok((location, old)) => self.group.items.push(Item::Block { key: block.key, location, old, done }),
            Err(error) => drop(done.send(Err(error))),
        }
    }

    fn add_delete(&mut self, keys: Vec<BlockKey>, done: Done<()>) {
        let meta = BlocksDeleted { keys };
        match self.group.add(&mut self.tail, Kind::BlocksDeleted, &meta, &[], true) {
            Ok(_) => self.group.items.push(Item::DeleteBlocks { keys: meta.keys, done }),
            Err(error) => drop(done.send(Err(error))),
        }
    }

    fn add_directory(
        &mut self,
        write: &DirectoryWrite,
        guard: &mut ShardGuard<'_>,
        done: Done<(DirectoryInfo, bool)>,
    ) {
        let added = (|| {
            let checked = self.shared.directories.check(guard, write)?;
            let meta = DirectoryMeta { key: write.key, directory: checked.directory.clone() };
            let location = self.group.add(&mut self.tail, Kind::Directory, &meta, &[], true)?;
            Ok((checked, location))
        })();
        match added {
            Ok((checked, location)) => {
                self.group.items.push(Item::Directory { key: write.key, checked, location, done });
            }
            Err(error) => drop(done.send(Err(error))),
        }
    }

    fn add_rows(&mut self, key: DirectoryKey, rows: Vec<Row>, fence: Fence, done: Done<()>) {
        let meta = RowsMeta { key, rows };
        match self.group.add(&mut self.tail, Kind::Rows, &meta, &[], true) {
            Ok(_) => self.group.items.push(Item::Rows { key, rows: meta.rows, fence, done }),
            Err(error) => drop(done.send(Err(error))),
        }
    }

    fn add_move(&mut self, mut moved: Box<Move>, done: Done<()>) {
        match compact::still_needed(&self.shared, &mut moved) {
            Ok(true) => {}
            dead => return drop(done.send(dead.map(|_| ()))),
        }
        let data: &[Bytes] = if moved.data.is_empty() { &[] } else { std::slice::from_ref(&moved.data) };
        // Moving frees room in the end, so it may use what is kept free.
        match self.group.add(&mut self.tail, moved.kind, &Raw(&moved.meta), data, true) {
            Ok(location) => self.group.items.push(Item::Move { moved, location, done }),
            Err(error) => drop(done.send(Err(error))),
        }
    }

    /// Directories that are to go are locked until they have, so that no row comes in between.
    fn add_forget<'a>(
        &mut self,
        mut forgotten: Forgotten,
        directories: &'a Directories,
        guards: &mut Guards<'a>,
        done: Done<usize>,
    ) {
        let shared = self.shared.clone();
        let mut failure = None;
        forgotten.items.retain(|item| {
            let same = match &item.key {
                ItemKey::Directory(key) => {
                    let shard = directories.shard_of(key);
                    guards.entry(shard).or_insert_with(|| directories.lock(shard));
                    directories.may_be_forgotten(key, item)
                }
                _ => forget::is_there(&shared, item),
            };
            same.unwrap_or_else(|error| {
                failure = Some(error);
                false
            })
        });
        let added = match failure {
            Some(error) => Err(error),
            None if forgotten.items.is_empty() => return drop(done.send(Ok(0))),
            None => self.group.add(&mut self.tail, Kind::Forgotten, &forgotten, &[], true),
        };
        match added {
            Ok(_) => self.group.items.push(Item::Forget { forgotten, done }),
            Err(error) => drop(done.send(Err(error))),
        }
    }

    fn commit(&mut self, guards: Guards<'_>) {
        if !self.group.items.is_empty() {
            let begun = Instant::now();
            if let Err(error) = self.group.write(&self.tail) {
                return self.fail(&error);
            }
            self.count(begun);
            self.group.release();
            self.tail.advance(self.group.end());
        }
        self.apply(guards);
        let (volume, offset) = self.tail.position();
        *self.shared.applied.lock() = (volume, offset);
    }

    fn count(&self, begun: Instant) {
        let device = self.shared.name.clone();
        metrics::counter!("kodiak_device_syncs_total", "device" => device.clone()).increment(1);
        metrics::counter!("kodiak_device_written_bytes_total", "device" => device.clone())
            .increment(self.group.bytes());
        metrics::histogram!("kodiak_device_group_size", "device" => device.clone())
            .record(self.group.items.len() as f64);
        metrics::histogram!("kodiak_device_sync_seconds", "device" => device.clone())
            .record(begun.elapsed().as_secs_f64());
        metrics::gauge!("kodiak_device_queue", "device" => device).set(self.requests.len() as f64);
    }

    /// Nothing of the group is acknowledged. What part of it reached the disk is cut off.
    fn fail(&mut self, error: &io::Error) {
        tracing::error!(device = self.shared.name, %error, "group could not be written");
        let answer = io_error(error);
        if answer != NodeError::Full {
            // After a failed sync the kernel may drop the pages and report success the next time.
            self.shared.failed.store(true, Ordering::Release);
        }
        self.tail.seal();
        for item in self.group.items.drain(..) {
            item.fail(answer.clone());
        }
        self.answer_stored();
        self.group.release();
    }

    /// Shows the group in the index, then in the listings, then to those who wait.
    fn apply(&mut self, mut guards: Guards<'_>) {
        let mut batch = WriteBatch::default();
        let items: Vec<Item> = self.group.items.drain(..).collect();
        let mut errors: Vec<Option<NodeError>> = Vec::with_capacity(items.len());
        for item in &items {
            errors.push(prepare(&self.shared, item, &mut batch).err());
        }
        if let Err(error) = self.shared.applier.index.write(batch) {
            self.shared.failed.store(true, Ordering::Release);
            items.into_iter().for_each(|item| item.fail(error.clone()));
            return;
        }
        let infos = self.apply_directories(&items, &mut guards);
        drop(guards);
        for item in &items {
            if let Item::Object { write, old, .. } = item {
                self.votes.accepted(&write.key, old.map(|old| old.stamp), write.stamp);
            }
        }
        self.apply_rows(&items, &mut errors);
        self.answer_stored();
        for ((item, error), info) in items.into_iter().zip(errors).zip(infos) {
            answer(item, error, info);
        }
    }

    /// A version that came twice: its row may have been refused the first time.
    fn answer_stored(&mut self) {
        for (write, done) in self.group.stored.drain(..) {
            let row = write.version.row(&write.path, write.stamp.ballot);
            let target = write.row.and_then(|target| {
                self.node.get(usize::from(target.device.0)).map(|node| (node, target.directory))
            });
            let put =
                target.map_or(Ok(()), |(node, key)| node.put_rows(&key, std::iter::once(&row), Fence::Up));
            drop(done.send(put));
        }
    }

    fn apply_directories(
        &self,
        items: &[Item],
        guards: &mut Guards<'_>,
    ) -> Vec<Option<Result<DirectoryInfo, NodeError>>> {
        let directories = &self.shared.directories;
        let put = |item: &Item| {
            let Item::Directory { key, checked, location, .. } = item else {
                forget_directories(directories, item, guards);
                return None;
            };
            let guard = guards.get_mut(&directories.shard_of(key))?;
            Some(directories.put(guard, key, checked.directory.clone(), *location))
        };
        items.iter().map(put).collect()
    }

    fn apply_rows(&self, items: &[Item], errors: &mut [Option<NodeError>]) {
        let mut targets: HashMap<(usize, DirectoryKey), Vec<(usize, Row)>> = HashMap::new();
        for (i, item) in items.iter().enumerate() {
            match item {
                Item::Object { write, .. } => {
                    let Some(target) = write.row else { continue };
                    let rows = targets.entry((usize::from(target.device.0), target.directory)).or_default();
                    rows.push((i, write.version.row(&write.path, write.stamp.ballot)));
                }
                Item::Rows { key, rows, fence, .. } => {
                    if let Err(error) = self.shared.directories.put_rows(key, rows.iter(), *fence) {
                        errors[i] = Some(error);
                    }
                }
                Item::Forget { forgotten, .. } => {
                    if let Err(error) = forget::rows(&self.shared, forgotten, false) {
                        errors[i] = Some(error);
                    }
                }
                _ => {}
            }
        }
        for ((device, key), rows) in targets {
            let Some(directories) = self.node.get(device) else { continue };
            put_each(directories, &key, &rows, errors);
        }
    }
}

/// What has taken effect is stored whatever was promised since, unless something newer is there. A damaged
/// copy of it may be written once more.
fn learn(old: Option<ObjectEntry>, ballot: Timestamp) -> Result<Vote, Refusal> {
    let there =
        old.is_some_and(|old| old.stamp.ballot > ballot || old.stamp.ballot == ballot && !old.quarantined);
    Ok(if there { Vote::Stored } else { Vote::Store })
}

fn forget_directories(directories: &Directories, item: &Item, guards: &mut Guards<'_>) {
    let Item::Forget { forgotten, .. } = item else { return };
    for item in &forgotten.items {
        let ItemKey::Directory(key) = &item.key else { continue };
        let Some(guard) = guards.get_mut(&directories.shard_of(key)) else { continue };
        if let Err(error) = directories.forget(guard, key) {
            tracing::error!(%error, "a directory that has moved away stays");
        }
    }
}

/// Puts rows together, and one by one if not all were taken, to tell whose fault it is.
fn put_each(
    directories: &Directories,
    key: &DirectoryKey,
    rows: &[(usize, Row)],
    errors: &mut [Option<NodeError>],
) {
    if directories.put_rows(key, rows.iter().map(|(_, row)| row), Fence::Up).is_ok() {
        return;
    }
    for (i, row) in rows {
        if let Err(error) = directories.put_rows(key, std::iter::once(row), Fence::Up) {
            errors[*i] = Some(error);
        }
    }
}

/// Puts what an item changes in the index into the batch.
fn prepare(shared: &Shared, item: &Item, batch: &mut WriteBatch) -> Result<(), NodeError> {
    let applier = &shared.applier;
    match item {
        Item::Object { write, location, old, .. } => {
            let ObjectWrite { key, path, version, stamp, .. } = &**write;
            let (stamp, location, old) = (*stamp, *location, *old);
            applier.put_object(batch, &NewVersion { key, path, version, stamp, location, old })
        }
        Item::Block { key, location, old, .. } => {
            applier.put_block(batch, key, *location, *old);
            Ok(())
        }
        Item::DeleteBlocks { keys, .. } => applier.delete_blocks(batch, keys),
        Item::Move { moved, location, .. } => compact::apply_move(shared, moved, *location, batch),
        Item::Forget { forgotten, .. } => forget::objects_and_blocks(shared, forgotten, batch),
        Item::Quarantine { damage, .. } => damage.apply(shared, batch),
        // Directories go in under their guards, rows under theirs.
        Item::Directory { .. } | Item::Rows { .. } => Ok(()),
    }
}

fn answer(item: Item, error: Option<NodeError>, info: Option<Result<DirectoryInfo, NodeError>>) {
    if let Some(error) = error {
        return item.fail(error);
    }
    match item {
        Item::Directory { done, checked, .. } => {
            let info = info.unwrap_or(Err(NodeError::NoDirectory));
            drop(done.send(info.map(|info| (info, checked.created))));
        }
        Item::Forget { forgotten, done } => drop(done.send(Ok(forgotten.items.len()))),
        Item::Object { done, .. }
        | Item::Block { done, .. }
        | Item::DeleteBlocks { done, .. }
        | Item::Rows { done, .. }
        | Item::Move { done, .. }
        | Item::Quarantine { done, .. } => drop(done.send(Ok(()))),
    }
}

fn refuse(request: Request, error: NodeError) {
    match request {
        Request::Directory(_, done) => drop(done.send(Err(error))),
        Request::Forget(_, done) => drop(done.send(Err(error))),
        Request::Prepare(_, _, done) => drop(done.send(Err(error))),
        Request::Object(_, done)
        | Request::Learn(_, done)
        | Request::Block(_, done)
        | Request::DeleteBlocks(_, done)
        | Request::Rows(_, _, _, done)
        | Request::Move(_, done)
        | Request::Quarantine(_, done) => drop(done.send(Err(error))),
    }
}

fn io_error(error: &io::Error) -> NodeError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => NodeError::Full,
        _ => NodeError::Unavailable(error.to_string()),
    }
}
