//! The RocksDB database of a device: everything small, in key order.
//!
//! Nothing in it is the only copy. It is written without a write-ahead log, because the volumes are
//! one: what a crash takes from the memtables comes back from the volumes' tails. All column families
//! flush together, so that what is on disk is always one state that has been.
//!
//! | column family | key | value |
//! | --- | --- | --- |
//! | `objects` | policy, hash | where the newest version lies ([`ObjectEntry`]) |
//! | `blocks` | policy, place, upload, index | where the block lies ([`Location`]) |
//! | `directories` | hash | the record of an account or container |
//! | `totals` | hash | its [`Stats`] |
//! | `rows` | hash, name | live rows |
//! | `tombstones` | hash, name | timestamps of deleted rows |
//! | `expiring` | second, object's key | objects that end |
//! | `freed` | timestamp, object's key | extents to delete |
//! | `changed` | hash | containers whose account does not have their totals |
//! | `doomed` | second, hash | accounts that were deleted and are not empty |
//! | `volumes` | number | dead bytes ([`VolumeUse`]) |
//! | `digests` | tree, power, partition, bucket | sum of the digests in it ([`crate::digests`]) |
//! | `quarantine` | tree, item's key | why an item is not answered ([`crate::quarantine`]) |
//!
//! Integers in keys are big-endian, and a hash begins with its place: a partition, whatever the power of the
//! ring, is one range of keys, and no key changes when the power grows.

use std::path::{Path, PathBuf};

use kodiak_storage_api::{
    BlockKey, DataId, DirectoryKey, KeyHash, NodeError, ObjectKey, Place, PolicyIndex, Stamp, Timestamp,
};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice,
    ErrorKind, FlushOptions, Options, ReadOptions, ReadTier, Snapshot, WriteBufferManager, WriteOptions,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digests::{Grids, Sums, add_up};
use crate::needle::Location;

/// A column family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Object versions.
    Objects,
    /// Blocks.
    Blocks,
    /// Accounts and containers.
    Directories,
    /// Their totals.
    Totals,
    /// Live rows.
    Rows,
    /// Deleted rows.
    Tombstones,
    /// Objects that end.
    Expiring,
    /// Extents to delete.
    Freed,
    /// Containers whose totals have changed.
    Changed,
    /// Deleted accounts that are not empty.
    Doomed,
    /// Use of the volumes.
    Volumes,
    /// Sums of digests.
    Digests,
    /// Damaged items.
    Quarantine,
}

impl Family {
    const ALL: [Family; 13] = [
        Family::Objects,
        Family::Blocks,
        Family::Directories,
        Family::Totals,
        Family::Rows,
        Family::Tombstones,
        Family::Expiring,
        Family::Freed,
        Family::Changed,
        Family::Doomed,
        Family::Volumes,
        Family::Digests,
        Family::Quarantine,
    ];

    fn name(self) -> &'static str {
        match self {
            Family::Objects => "objects",
            Family::Blocks => "blocks",
            Family::Directories => "directories",
            Family::Totals => "totals",
            Family::Rows => "rows",
            Family::Tombstones => "tombstones",
            Family::Expiring => "expiring",
            Family::Freed => "freed",
            Family::Changed => "changed",
            Family::Doomed => "doomed",
            Family::Volumes => "volumes",
            Family::Digests => "digests",
            Family::Quarantine => "quarantine",
        }
    }
}

/// Memory that the databases of all devices of a node share.
pub struct IndexMemory {
    cache: Cache,
    buffers: WriteBufferManager,
}

impl IndexMemory {
    /// `cache` bytes of blocks read, `buffers` bytes of entries not flushed yet.
    pub fn new(cache: usize, buffers: usize) -> IndexMemory {
        IndexMemory {
            cache: Cache::new_lru_cache(cache),
            buffers: WriteBufferManager::new_write_buffer_manager(buffers, false),
        }
    }
}

/// Marks a database in which damage was found: the next opening makes it anew.
const DAMAGED: &str = "DAMAGED";

/// Whether damage was found in the database of a folder.
pub fn is_damaged(folder: &Path) -> bool {
    folder.join(DAMAGED).exists()
}

/// The database of one device.
pub struct Index {
    folder: PathBuf,
    db: DB,
    no_log: WriteOptions,
    cached_only: ReadOptionsMaker,
    grids: Grids,
}

/// Changes of the index that are applied at once, with the digests that they change.
#[derive(Default)]
pub struct WriteBatch {
    writes: rocksdb::WriteBatch,
    /// Changes of digests.
    pub sums: Sums,
}

impl WriteBatch {
    /// Sets a value.
    pub fn put_cf(&mut self, family: &ColumnFamily, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.writes.put_cf(family, key, value);
    }

    /// Removes a value.
    pub fn delete_cf(&mut self, family: &ColumnFamily, key: impl AsRef<[u8]>) {
        self.writes.delete_cf(family, key);
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.sums.is_empty()
    }
}

type ReadOptionsMaker = fn() -> ReadOptions;

fn cached_only() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_read_tier(ReadTier::BlockCache);
    options
}

/// A memtable is flushed when it has this many bytes; checkpoints flush earlier.
const MEMTABLE: usize = 32 << 20;

fn family_options(memory: &IndexMemory) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&memory.cache);
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(5);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(MEMTABLE);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}

impl Index {
    /// Opens the database in `folder`, making it if it is not there.
    pub fn open(folder: &Path, memory: &IndexMemory) -> Result<Index, rocksdb::Error> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_write_buffer_manager(&memory.buffers);
        options.set_max_background_jobs(2);
        options.set_max_open_files(512);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(8 << 20);
        options.set_paranoid_checks(true);
        let families = Family::ALL.map(|family| {
            let mut options = family_options(memory);
            if family == Family::Digests {
                options.set_merge_operator_associative("add up", add_up);
            }
            ColumnFamilyDescriptor::new(family.name(), options)
        });
        let db = DB::open_cf_descriptors(&options, folder, families)?;
        let mut no_log = WriteOptions::default();
        no_log.disable_wal(true);
        let grids = Grids::default();
        Ok(Index { folder: folder.to_owned(), db, no_log, cached_only, grids })
    }

    /// Reads the digests that are kept. To be called before anything is written.
    pub fn load_digests(&mut self) -> Result<(), NodeError> {
        self.grids = Grids::load(self)?;
        Ok(())
    }

    /// The digests of partitions.
    pub fn grids(&self) -> &Grids {
        &self.grids
    }

    /// The handle of a family.
    #[expect(clippy::expect_used, reason = "open() made every family")]
    pub fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("a family that open() made")
    }

    /// A value; may read the disk.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, NodeError> {
        self.db.get_pinned_cf(self.family(family), key).map_err(|error| self.failed(error))
    }

    /// A value if that needs no disk: `None` if it might.
    pub fn get_cached(
        &self,
        family: Family,
        key: &[u8],
    ) -> Result<Option<Option<DBPinnableSlice<'_>>>, NodeError> {
        match self.db.get_pinned_cf_opt(self.family(family), key, &(self.cached_only)()) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// A value encoded with postcard.
    pub fn get_decoded<T: DeserializeOwned>(
        &self,
        family: Family,
        key: &[u8],
    ) -> Result<Option<T>, NodeError> {
        self.get(family, key)?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Applies a batch at once; not durable by itself.
    pub fn write(&self, batch: WriteBatch) -> Result<(), NodeError> {
        let WriteBatch { mut writes, sums } = batch;
        let family = self.family(Family::Digests);
        self.grids.keep(&sums, |operands| {
            operands.for_each(|(key, sum)| writes.merge_cf(family, key, sum));
            self.write_plain(writes)
        })
    }

    /// Applies a batch that changes no digests.
    pub fn write_plain(&self, batch: rocksdb::WriteBatch) -> Result<(), NodeError> {
        self.db.write_opt(batch, &self.no_log).map_err(|error| self.failed(error))
    }

    /// Removes the keys from `from` to before `to`.
    pub fn drop_range(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), NodeError> {
        let mut batch = rocksdb::WriteBatch::default();
        batch.delete_range_cf(self.family(family), from, to);
        self.write_plain(batch)
    }

    /// Iterates from a position.
    pub fn iterate(&self, family: Family, options: ReadOptions) -> rocksdb::DBRawIterator<'_> {
        self.db.raw_iterator_cf_opt(self.family(family), options)
    }

    /// The state of now, to iterate over whatever is written meanwhile.
    pub fn snapshot(&self) -> Snapshot<'_> {
        self.db.snapshot()
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) -> Result<(), NodeError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families: Vec<&ColumnFamily> = Family::ALL.iter().map(|f| self.family(*f)).collect();
        self.db.flush_cfs_opt(&families, &options).map_err(|error| self.failed(error))
    }

    /// An error as an answer. Damage is noted: nothing in an index is the only copy.
    pub fn failed(&self, error: rocksdb::Error) -> NodeError {
        // A table that is gone is damage like one that lies. RocksDB tells it apart only in words.
        let lost = error.kind() == ErrorKind::IOError && error.as_ref().contains("No such file or directory");
        if error.kind() != ErrorKind::Corruption && !lost {
            return NodeError::Unavailable(format!("index: {error}"));
        }
        if !is_damaged(&self.folder) {
            tracing::error!(index = %self.folder.display(), %error, "index is damaged: the next start makes it anew");
            if let Err(error) = std::fs::write(self.folder.join(DAMAGED), error.as_ref()) {
                tracing::error!(%error, "the damage could not be noted");
            }
        }
        NodeError::Corrupt(format!("index: {error}"))
    }

    /// Stops background work, so that closing does not wait for a compaction.
    pub fn stop(&self) {
        self.db.cancel_all_background_work(true);
    }
}

/// Decodes a postcard value of the index.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NodeError> {
    postcard::from_bytes(bytes).map_err(|error| NodeError::Corrupt(format!("index: {error}")))
}

/// Encodes a value with postcard.
#[expect(clippy::expect_used, reason = "plain data into a growing vector: nothing to fail")]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data")
}

/// The first key after every key that begins with `prefix`; none if those are the last ones.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut bound = prefix.to_vec();
    while let Some(last) = bound.pop() {
        if last < 0xff {
            bound.push(last + 1);
            return Some(bound);
        }
    }
    None
}

/// Length of an object's key.
pub const OBJECT_KEY: usize = 18;
/// Length of a directory's key.
pub const DIRECTORY_KEY: usize = 16;

/// Bytes of an object's key.
pub fn object_key(key: &ObjectKey) -> [u8; OBJECT_KEY] {
    let mut out = [0; OBJECT_KEY];
    out[..2].copy_from_slice(&key.policy.0.to_be_bytes());
    out[2..].copy_from_slice(&key.hash.0);
    out
}

/// Bytes of a block's key.
pub fn block_key(key: &BlockKey) -> [u8; 26] {
    let mut out = [0; 26];
    out[..2].copy_from_slice(&key.policy.0.to_be_bytes());
    out[2..6].copy_from_slice(&key.place.0.to_be_bytes());
    out[6..22].copy_from_slice(&key.data.0);
    out[22..].copy_from_slice(&key.index.to_be_bytes());
    out
}

/// The inverse of [`object_key`].
pub fn parse_object_key(bytes: &[u8]) -> Option<ObjectKey> {
    Some(ObjectKey { policy: parse_policy(bytes)?, hash: KeyHash(bytes.get(2..)?.try_into().ok()?) })
}

/// The inverse of [`block_key`].
pub fn parse_block_key(bytes: &[u8]) -> Option<BlockKey> {
    let place = Place(u32::from_be_bytes(bytes.get(2..6)?.try_into().ok()?));
    let data = DataId(bytes.get(6..22)?.try_into().ok()?);
    let index = u32::from_be_bytes(bytes.get(22..)?.try_into().ok()?);
    Some(BlockKey { policy: parse_policy(bytes)?, place, data, index })
}

fn parse_policy(bytes: &[u8]) -> Option<PolicyIndex> {
    Some(PolicyIndex(u16::from_be_bytes(*bytes.first_chunk()?)))
}

/// Bytes of a directory's key: also the prefix of its rows' keys.
pub fn directory_key(key: &DirectoryKey) -> [u8; DIRECTORY_KEY] {
    key.hash.0
}

/// The inverse of [`directory_key`], of the first bytes of a row's key too.
pub fn parse_directory_key(bytes: &[u8]) -> Option<DirectoryKey> {
    Some(DirectoryKey { hash: KeyHash(*bytes.first_chunk()?) })
}

/// The name in a row's key.
pub fn row_name(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(DIRECTORY_KEY..)?).ok()
}

/// What the index knows of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectEntry {
    /// Its needle.
    pub location: Location,
    /// Which write it is, and its place in the order.
    pub stamp: Stamp,
    /// It is a tombstone.
    pub deleted: bool,
    /// It owns extents.
    pub extents: bool,
    /// It ends at some time.
    pub expires: bool,
    /// It is damaged: not answered, and counted in no digest, until it is written again.
    pub quarantined: bool,
}

const LOCATION_LEN: usize = 20;
const STAMP_LEN: usize = 2 * Timestamp::ENCODED_LEN;
const ENTRY_LEN: usize = LOCATION_LEN + STAMP_LEN + 1;

impl ObjectEntry {
    /// The value's bytes.
    pub fn to_bytes(self) -> [u8; ENTRY_LEN] {
        let mut out = [0; ENTRY_LEN];
        out[..LOCATION_LEN].copy_from_slice(&location_bytes(&self.location));
        let (ballot, origin) = out[LOCATION_LEN..ENTRY_LEN - 1].split_at_mut(Timestamp::ENCODED_LEN);
        ballot.copy_from_slice(&self.stamp.ballot.to_bytes());
        origin.copy_from_slice(&self.stamp.origin.to_bytes());
        out[ENTRY_LEN - 1] = u8::from(self.deleted)
            | u8::from(self.extents) << 1
            | u8::from(self.expires) << 2
            | u8::from(self.quarantined) << 3;
        out
    }

    /// The inverse of [`ObjectEntry::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<ObjectEntry, NodeError> {
        let bad = || NodeError::Corrupt("index: object entry".into());
        let bytes: &[u8; ENTRY_LEN] = bytes.try_into().map_err(|_| bad())?;
        let (ballot, origin) = bytes[LOCATION_LEN..ENTRY_LEN - 1].split_at(Timestamp::ENCODED_LEN);
        let timestamp = |bytes: &[u8]| bytes.try_into().map(Timestamp::from_bytes).map_err(|_| bad());
        let flags = bytes[ENTRY_LEN - 1];
        Ok(ObjectEntry {
            location: parse_location(bytes)?,
            stamp: Stamp { ballot: timestamp(ballot)?, origin: timestamp(origin)? },
            deleted: flags & 1 != 0,
            extents: flags & 2 != 0,
            expires: flags & 4 != 0,
            quarantined: flags & 8 != 0,
        })
    }
}

/// Bytes of a location.
pub fn location_bytes(location: &Location) -> [u8; LOCATION_LEN] {
    let mut out = [0; LOCATION_LEN];
    out[..4].copy_from_slice(&location.volume.to_be_bytes());
    out[4..12].copy_from_slice(&location.offset.to_be_bytes());
    out[12..16].copy_from_slice(&location.meta_len.to_be_bytes());
    out[16..].copy_from_slice(&location.data_len.to_be_bytes());
    out
}

/// What the index knows of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockEntry {
    /// Its needle.
    pub location: Location,
    /// It is damaged: not answered, and counted in no digest, until it is written again.
    pub quarantined: bool,
}

impl BlockEntry {
    /// From the value's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<BlockEntry, NodeError> {
        Ok(BlockEntry { location: parse_location(bytes)?, quarantined: is_quarantined(bytes) })
    }
}

/// A block's value once damage was found in it: not answered, and counted in no digest.
pub fn quarantined_bytes(location: &Location) -> [u8; LOCATION_LEN + 1] {
    let mut out = [1; LOCATION_LEN + 1];
    out[..LOCATION_LEN].copy_from_slice(&location_bytes(location));
    out
}

/// Whether a block's value says that it is damaged.
pub fn is_quarantined(value: &[u8]) -> bool {
    value.len() > LOCATION_LEN
}

/// The inverse of [`location_bytes`], of the first bytes of `bytes`.
pub fn parse_location(bytes: &[u8]) -> Result<Location, NodeError> {
    let bad = || NodeError::Corrupt("index: location".into());
    let bytes: &[u8; LOCATION_LEN] =
        bytes.get(..LOCATION_LEN).and_then(|b| b.try_into().ok()).ok_or_else(bad)?;
    let number =
        |range: std::ops::Range<usize>| bytes[range].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    Ok(Location {
        volume: number(0..4) as u32,
        offset: number(4..12),
        meta_len: number(12..16) as u32,
        data_len: number(16..20) as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_were_written() {
        let policy = PolicyIndex(3);
        let object = ObjectKey { policy, hash: KeyHash([9; 16]) };
        assert_eq!(parse_object_key(&object_key(&object)), Some(object));
        let block = BlockKey { policy, place: Place(70_000), data: DataId([8; 16]), index: 5 };
        assert_eq!(parse_block_key(&block_key(&block)), Some(block));
        assert_eq!(parse_block_key(&object_key(&object)), None);
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let location = Location { volume: 7, offset: 1 << 40, meta_len: 300, data_len: 4096 };
        let stamp = Stamp::first(Timestamp::from_micros(123_456_789, 5));
        let stamp = stamp.again(Timestamp::from_micros(123_456_790, 6));
        let entry =
            ObjectEntry { location, stamp, deleted: true, extents: false, expires: true, quarantined: true };
        assert_eq!(ObjectEntry::from_bytes(&entry.to_bytes()), Ok(entry));
        assert!(ObjectEntry::from_bytes(&[0; 5]).is_err());
    }
}
