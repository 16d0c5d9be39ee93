//! Accounts and containers of one device: records, rows and totals.
//!
//! Rows of a directory change under the lock of its shard, so that its totals are always exactly
//! those of its rows, and so that a directory is deleted only while it has none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kodiak_storage_api::{
    Bounds, Digest, Directory, DirectoryInfo, DirectoryKey, DirectoryWrite, Item, ItemKey, NodeError, Row,
    Stats, Timestamp,
};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use crate::digests::{directory_place, row_place, row_timestamp};
use crate::index::{DIRECTORY_KEY, Family, Index, WriteBatch, directory_key, encode, row_name};
use crate::needle::Location;

/// Whether a directory's bounds count when rows are put into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fence {
    /// They come from a coordinator: those that are not within the bounds are refused.
    Up,
    /// They were here, or are at another replica, already.
    Down,
}

/// What row changes need to know of a directory, kept in memory.
#[derive(Clone, Debug)]
pub struct Head {
    created: Timestamp,
    deleted: Timestamp,
    container: bool,
    totals: Stats,
    /// Of a listing that is split.
    bounds: Option<Arc<Bounds>>,
}

impl Head {
    fn exists(&self) -> bool {
        self.created > self.deleted
    }
}

/// A directory's record and where its needle lies.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct StoredDirectory {
    /// The record.
    pub directory: Directory,
    /// The needle it came in.
    pub location: Location,
}

/// A row without its name, which is in its key.
#[derive(Serialize, Deserialize)]
struct StoredRow<'a> {
    timestamp: Timestamp,
    objects: u64,
    bytes: u64,
    #[serde(borrow)]
    etag: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    content_type: std::borrow::Cow<'a, str>,
    extra: Vec<(String, String)>,
}

/// Reads a live row from its value.
pub fn decode_row(name: String, value: &[u8]) -> Result<Row, NodeError> {
    let stored: StoredRow<'_> =
        postcard::from_bytes(value).map_err(|error| NodeError::Corrupt(format!("row: {error}")))?;
    Ok(Row {
        name,
        timestamp: stored.timestamp,
        deleted: false,
        objects: stored.objects,
        bytes: stored.bytes,
        etag: stored.etag.into_owned(),
        content_type: stored.content_type.into_owned(),
        extra: stored.extra,
    })
}

fn encode_row(row: &Row) -> Vec<u8> {
    encode(&StoredRow {
        timestamp: row.timestamp,
        objects: row.objects,
        bytes: row.bytes,
        etag: row.etag.as_str().into(),
        content_type: row.content_type.as_str().into(),
        extra: row.extra.clone(),
    })
}

/// Key of a row.
pub fn row_key(directory: &[u8; DIRECTORY_KEY], name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(DIRECTORY_KEY + name.len());
    key.extend_from_slice(directory);
    key.extend_from_slice(name.as_bytes());
    key
}

/// Key of an account in the queue of those that are to be emptied.
fn doomed_key(key: &DirectoryKey, since: Timestamp) -> [u8; 8 + DIRECTORY_KEY] {
    let mut bytes = [0; 8 + DIRECTORY_KEY];
    bytes[..8].copy_from_slice(&since.seconds().to_be_bytes());
    bytes[8..].copy_from_slice(&directory_key(key));
    bytes
}

const SHARDS: usize = 64;
/// Heads a shard keeps; beyond, it starts afresh (they are re-read from the index).
const HEADS_PER_SHARD: usize = 1024;

type Shard = HashMap<DirectoryKey, Head>;

/// The accounts and containers of one device.
pub struct Directories {
    index: Arc<Index>,
    shards: Vec<Mutex<Shard>>,
    changed: Mutex<HashSet<DirectoryKey>>,
    /// Taken from `changed` and not delivered yet.
    taken: Mutex<HashSet<DirectoryKey>>,
    delivered: Mutex<Vec<DirectoryKey>>,
}

/// The lock of a directory's shard, held from the check of a change to its application.
pub type ShardGuard<'a> = MutexGuard<'a, Shard>;

/// A directory change that has been checked.
pub struct Checked {
    /// Its state after the change.
    pub directory: Directory,
    /// Whether the change created it.
    pub created: bool,
}

impl Directories {
    /// The directories of a device's index.
    pub fn new(index: Arc<Index>) -> Result<Directories, NodeError> {
        let mut changed = HashSet::new();
        let mut iterator = index.iterate(Family::Changed, rocksdb::ReadOptions::default());
        iterator.seek_to_first();
        while let Some(key) = iterator.key() {
            changed.extend(crate::index::parse_directory_key(key));
            iterator.next();
        }
        drop(iterator);
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect();
        Ok(Directories {
            index,
            shards,
            changed: Mutex::new(changed),
            taken: Mutex::default(),
            delivered: Mutex::default(),
        })
    }

    /// Number of the shard that guards a directory.
    pub fn shard_of(&self, key: &DirectoryKey) -> usize {
        usize::from(key.hash.0[15]) % SHARDS
    }

    /// Locks a shard.
    pub fn lock(&self, shard: usize) -> ShardGuard<'_> {
        self.shards[shard].lock()
    }

    /// The stored record.
    pub fn stored(&self, key: &DirectoryKey) -> Result<Option<StoredDirectory>, NodeError> {
        self.index.get_decoded(Family::Directories, &directory_key(key))
    }

    /// The record with its totals.
    pub fn read(&self, key: &DirectoryKey) -> Result<Option<DirectoryInfo>, NodeError> {
        let Some(stored) = self.stored(key)? else { return Ok(None) };
        let stats = self.index.get_decoded(Family::Totals, &directory_key(key))?.unwrap_or_default();
        Ok(Some(DirectoryInfo { directory: stored.directory, stats }))
    }

    /// The record with its totals, if that needs no disk: the outer `None` if it might.
    pub fn read_cached(&self, key: &DirectoryKey) -> Result<Option<Option<DirectoryInfo>>, NodeError> {
        let key = directory_key(key);
        let (record, totals) =
            (self.index.get_cached(Family::Directories, &key)?, self.index.get_cached(Family::Totals, &key)?);
        let (Some(record), Some(totals)) = (record, totals) else { return Ok(None) };
        let Some(record) = record else { return Ok(Some(None)) };
        let stored: StoredDirectory = crate::index::decode(&record)?;
        let stats = totals.map(|t| crate::index::decode(&t)).transpose()?.unwrap_or_default();
        Ok(Some(Some(DirectoryInfo { directory: stored.directory, stats })))
    }

    fn head<'a>(&self, shard: &'a mut Shard, key: &DirectoryKey) -> Result<Option<&'a mut Head>, NodeError> {
        if !shard.contains_key(key) {
            let Some(info) = self.read(key)? else { return Ok(None) };
            if shard.len() >= HEADS_PER_SHARD {
                shard.clear();
            }
            let DirectoryInfo { directory, stats } = info;
            let head = Head {
                created: directory.created,
                deleted: directory.deleted,
                container: directory.name.contains('/'),
                totals: stats,
                bounds: directory.bounds().map(Arc::new),
            };
            shard.insert(*key, head);
        }
        Ok(shard.get_mut(key))
    }

    /// Checks a change against the current state; the caller holds the shard until it has applied it.
    pub fn check(&self, shard: &mut Shard, write: &DirectoryWrite) -> Result<Checked, NodeError> {
        let old = self.stored(&write.key)?.map(|s| s.directory);
        let checked = change(old.clone(), write)?;
        let live = self.head(shard, &write.key)?.is_some_and(|head| head.totals.rows > 0);
        write.check(old.as_ref(), &checked.directory, live)?;
        Ok(checked)
    }

    /// Stores a directory's new state. `replayed` states merge with what is there.
    pub fn put(
        &self,
        shard: &mut Shard,
        key: &DirectoryKey,
        directory: Directory,
        location: Location,
    ) -> Result<DirectoryInfo, NodeError> {
        let bytes = directory_key(key);
        let mut batch = WriteBatch::default();
        let place = directory_place(directory.name.contains('/'), key);
        if let Some(old) = self.stored(key)? {
            batch.sums.remove(place, Digest::of_directory(&key.hash, &old.directory));
            if let Some(since) = old.directory.doomed() {
                batch.delete_cf(self.index.family(Family::Doomed), doomed_key(key, since));
            }
        }
        batch.sums.add(place, Digest::of_directory(&key.hash, &directory));
        if let Some(since) = directory.doomed() {
            let value = encode(&(&directory.name, since));
            batch.put_cf(self.index.family(Family::Doomed), doomed_key(key, since), value);
        }
        let stored = StoredDirectory { directory, location };
        batch.put_cf(self.index.family(Family::Directories), bytes, encode(&stored));
        self.index.write(batch)?;
        shard.remove(key);
        let stats = self.head(shard, key)?.map(|h| h.totals).unwrap_or_default();
        Ok(DirectoryInfo { directory: stored.directory, stats })
    }

    /// Puts rows, each unless a newer one is there. Live rows need an existing directory that was
    /// not deleted after them; tombstones are always taken, so that a replay ends where it should. Behind a fence
    /// that is up, both have to be within the directory's bounds.
    pub fn put_rows<'r>(
        &self,
        key: &DirectoryKey,
        rows: impl Iterator<Item = &'r Row>,
        fence: Fence,
    ) -> Result<(), NodeError> {
        let mut shard = self.lock(self.shard_of(key));
        let Some(head) = self.head(&mut shard, key)? else { return Err(NodeError::NoDirectory) };
        let mut change = RowChange {
            index: &self.index,
            directory: *key,
            container: head.container,
            key: directory_key(key),
            batch: WriteBatch::default(),
            pending: HashMap::new(),
            totals: head.totals,
        };
        let bounds = head.bounds.as_deref().filter(|_| fence == Fence::Up);
        let (mut refused, mut moved) = (false, false);
        for row in rows {
            if bounds.is_some_and(|bounds| !bounds.contain(&row.name)) {
                moved = true;
            } else if row.deleted || (head.exists() && row.timestamp > head.deleted) {
                change.put(row)?;
            } else {
                refused = true;
            }
        }
        let RowChange { key: bytes, mut batch, totals, .. } = change;
        if head.container && totals != head.totals && self.changed.lock().insert(*key) {
            batch.put_cf(self.index.family(Family::Changed), bytes, []);
        }
        if !batch.is_empty() {
            batch.put_cf(self.index.family(Family::Totals), bytes, encode(&totals));
            self.index.write(batch)?;
        }
        head.totals = totals;
        match (moved, refused) {
            (true, _) => Err(NodeError::Moved),
            (_, true) => Err(NodeError::NoDirectory),
            _ => Ok(()),
        }
    }

    /// Drops rows that are still these, or older ones in a `replay`: the needle of what was forgotten may
    /// be damaged. Without its directory there are none.
    pub fn forget_rows(&self, key: &DirectoryKey, items: &[&Item], replay: bool) -> Result<(), NodeError> {
        let mut shard = self.lock(self.shard_of(key));
        let Some(head) = self.head(&mut shard, key)? else { return Ok(()) };
        let (mut batch, mut totals) = (WriteBatch::default(), head.totals);
        let mut seen = HashSet::new();
        for item in items.iter().filter(|item| seen.insert(&item.key)) {
            let ItemKey::Row(_, name) = &item.key else { continue };
            let bytes = row_key(&directory_key(key), name);
            let Some(held) = stored_row(&self.index, &bytes)? else { continue };
            let deleted = held.live.is_none();
            let same = (held.timestamp, deleted) == (item.timestamp, item.deleted);
            if !(same || replay && held.timestamp < item.timestamp) {
                continue;
            }
            let family = if held.live.is_some() { Family::Rows } else { Family::Tombstones };
            if let Some((objects, size)) = held.live {
                totals.rows -= 1;
                totals.objects -= objects;
                totals.bytes -= size;
            }
            batch.delete_cf(self.index.family(family), &bytes);
            let digest = Digest::of_row(&key.hash, name, held.timestamp, deleted);
            batch.sums.remove(row_place(head.container, key, name), digest);
        }
        if !batch.is_empty() {
            batch.put_cf(self.index.family(Family::Totals), directory_key(key), encode(&totals));
            self.index.write(batch)?;
        }
        head.totals = totals;
        Ok(())
    }

    /// Whether a directory is still the one that is to be forgotten, and has no rows. The caller holds
    /// its shard until it has forgotten it.
    pub fn may_be_forgotten(&self, key: &DirectoryKey, item: &Item) -> Result<bool, NodeError> {
        let Some(stored) = self.stored(key)? else { return Ok(false) };
        let same = Digest::of_directory(&key.hash, &stored.directory) == item.digest;
        Ok(same && self.has_no(Family::Rows, key)? && self.has_no(Family::Tombstones, key)?)
    }

    fn has_no(&self, family: Family, key: &DirectoryKey) -> Result<bool, NodeError> {
        let prefix = directory_key(key);
        let mut iterator = self.index.iterate(family, rocksdb::ReadOptions::default());
        iterator.seek(prefix);
        let none = iterator.key().is_none_or(|key| !key.starts_with(&prefix));
        iterator.status().map_err(|error| self.index.failed(error))?;
        Ok(none)
    }

    /// Drops a directory's record, and what rows a replay may find with it.
    pub fn forget(&self, shard: &mut Shard, key: &DirectoryKey) -> Result<(), NodeError> {
        let Some(stored) = self.stored(key)? else { return Ok(()) };
        let (bytes, container) = (directory_key(key), stored.directory.name.contains('/'));
        let mut batch = WriteBatch::default();
        let digest = Digest::of_directory(&key.hash, &stored.directory);
        batch.sums.remove(directory_place(container, key), digest);
        for family in [Family::Rows, Family::Tombstones] {
            let mut iterator = self.index.iterate(family, rocksdb::ReadOptions::default());
            iterator.seek(bytes);
            while let Some((row, value)) = iterator.item().filter(|(row, _)| row.starts_with(&bytes)) {
                let name = row_name(row).ok_or_else(|| NodeError::Corrupt("row".into()))?;
                let digest =
                    Digest::of_row(&key.hash, name, row_timestamp(value)?, family == Family::Tombstones);
                batch.sums.remove(row_place(container, key, name), digest);
                batch.delete_cf(self.index.family(family), row);
                iterator.next();
            }
            iterator.status().map_err(|error| self.index.failed(error))?;
        }
        for family in [Family::Directories, Family::Totals, Family::Changed] {
            batch.delete_cf(self.index.family(family), bytes);
        }
        if let Some(since) = stored.directory.doomed() {
            batch.delete_cf(self.index.family(Family::Doomed), doomed_key(key, since));
        }
        shard.remove(key);
        self.index.write(batch)
    }

    /// Takes up to `limit` containers whose totals have changed, those first that were taken before
    /// and not delivered. Later changes queue them again.
    pub fn take_changed(&self, limit: usize) -> Vec<DirectoryKey> {
        let (mut changed, mut taken) = (self.changed.lock(), self.taken.lock());
        changed.extend(taken.drain());
        taken.extend(changed.iter().take(limit));
        changed.retain(|key| !taken.contains(key));
        taken.iter().copied().collect()
    }

    /// Notes that a container's account has its totals, in memory so far.
    pub fn delivered(&self, key: DirectoryKey) {
        self.taken.lock().remove(&key);
        self.delivered.lock().push(key);
    }

    /// Takes what has been delivered before a checkpoint …
    pub fn take_delivered(&self) -> Vec<DirectoryKey> {
        std::mem::take(&mut *self.delivered.lock())
    }

    /// … and forgets it after: a crash in between delivers it once more.
    pub fn forget_delivered(&self, keys: &[DirectoryKey]) -> Result<(), NodeError> {
        let changed = self.changed.lock();
        let mut batch = WriteBatch::default();
        for key in keys.iter().filter(|key| !changed.contains(key)) {
            batch.delete_cf(self.index.family(Family::Changed), directory_key(key));
        }
        self.index.write(batch)
    }
}

/// Rows of one directory on their way into a batch.
struct RowChange<'a> {
    index: &'a Index,
    directory: DirectoryKey,
    container: bool,
    key: [u8; DIRECTORY_KEY],
    batch: WriteBatch,
    /// Rows of this batch by name, with what counts in the totals: the index does not show them yet.
    pending: HashMap<String, Counted>,
    totals: Stats,
}

#[derive(Clone, Copy)]
struct Counted {
    timestamp: Timestamp,
    /// Objects and bytes of a live row.
    live: Option<(u64, u64)>,
}

fn stored_row(index: &Index, key: &[u8]) -> Result<Option<Counted>, NodeError> {
    if let Some(value) = index.get(Family::Rows, key)? {
        let (timestamp, objects, bytes): (Timestamp, u64, u64) = postcard::take_from_bytes(&value)
            .map(|(counts, _)| counts)
            .map_err(|error| NodeError::Corrupt(format!("row: {error}")))?;
        return Ok(Some(Counted { timestamp, live: Some((objects, bytes)) }));
    }
    let tombstone = index.get_decoded(Family::Tombstones, key)?;
    Ok(tombstone.map(|timestamp| Counted { timestamp, live: None }))
}

impl RowChange<'_> {
    fn current(&self, key: &[u8], name: &str) -> Result<Option<Counted>, NodeError> {
        if let Some(pending) = self.pending.get(name) {
            return Ok(Some(*pending));
        }
        stored_row(self.index, key)
    }

    fn put(&mut self, row: &Row) -> Result<(), NodeError> {
        let key = row_key(&self.key, &row.name);
        let old = self.current(&key, &row.name)?;
        if old.is_some_and(|old| old.timestamp >= row.timestamp) {
            return Ok(());
        }
        let (rows, tombstones) = (self.index.family(Family::Rows), self.index.family(Family::Tombstones));
        if let Some((objects, bytes)) = old.and_then(|old| old.live) {
            self.totals.rows -= 1;
            self.totals.objects -= objects;
            self.totals.bytes -= bytes;
            if row.deleted {
                self.batch.delete_cf(rows, &key);
            }
        } else if old.is_some() && !row.deleted {
            self.batch.delete_cf(tombstones, &key);
        }
        let live = (!row.deleted).then_some((row.objects, row.bytes));
        if row.deleted {
            self.batch.put_cf(tombstones, &key, encode(&row.timestamp));
        } else {
            self.totals.rows += 1;
            self.totals.objects += row.objects;
            self.totals.bytes += row.bytes;
            self.batch.put_cf(rows, &key, encode_row(row));
        }
        let place = row_place(self.container, &self.directory, &row.name);
        let digest = |at, deleted| Digest::of_row(&self.directory.hash, &row.name, at, deleted);
        if let Some(old) = old {
            self.batch.sums.remove(place, digest(old.timestamp, old.live.is_none()));
        }
        self.batch.sums.add(place, digest(row.timestamp, row.deleted));
        self.pending.insert(row.name.clone(), Counted { timestamp: row.timestamp, live });
        Ok(())
    }
}

/// The state after a change.
fn change(old: Option<Directory>, write: &DirectoryWrite) -> Result<Checked, NodeError> {
    write.apply(old).map(|(directory, created)| Checked { directory, created })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kodiak_storage_api::{DirectoryChange, KeyHash, PolicyIndex};

    fn write(micros: u64, change: DirectoryChange) -> DirectoryWrite {
        let key = DirectoryKey { hash: KeyHash([0; 16]) };
        DirectoryWrite { key, name: "a/c".into(), timestamp: Timestamp::from_micros(micros, 0), change }
    }

    fn create(headers: &[(&str, &str)]) -> DirectoryChange {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        DirectoryChange::Create { policy: PolicyIndex(0), headers }
    }

    #[test]
    fn a_deleted_directory_forgets_its_headers() {
        let made = change(None, &write(1, create(&[("x-container-meta-a", "1")]))).unwrap();
        assert!(made.created);
        let gone = change(Some(made.directory), &write(2, DirectoryChange::Delete)).unwrap();
        assert!(!gone.directory.exists());
        let again = change(Some(gone.directory), &write(3, create(&[]))).unwrap();
        assert!(again.created && again.directory.headers.is_empty());
    }

    #[test]
    fn an_older_change_never_undoes_a_newer_one() {
        let made = change(None, &write(5, create(&[("k", "new")]))).unwrap();
        let late = change(Some(made.directory), &write(3, create(&[("k", "old")]))).unwrap();
        assert_eq!(late.directory.header("k"), Some("new"));
        assert!(!late.created);
    }

    #[test]
    fn states_merge_the_same_in_any_order() {
        let a = change(None, &write(1, create(&[("k", "1"), ("l", "1")]))).unwrap().directory;
        let b = change(Some(a.clone()), &write(2, create(&[("k", "2")]))).unwrap().directory;
        let c = change(Some(a.clone()), &write(3, DirectoryChange::Delete)).unwrap().directory;
        assert_eq!(b.clone().merge(c.clone()), c.clone().merge(b.clone()));
        assert_eq!(a.merge(b.clone()), b);
    }
}
