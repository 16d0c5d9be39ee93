//! What a needle changes in the index: the same for a write that was just synced and for one that a
//! replay finds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kodiak_storage_api::{
    BlockKey, Digest, Extent, Layout, NodeError, ObjectKey, ObjectPath, PolicyIndex, Stamp, Timestamp,
    Version,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::digests::{block_place, object_place};
use crate::index::{
    BlockEntry, Family, Index, OBJECT_KEY, ObjectEntry, WriteBatch, block_key, decode, encode,
    location_bytes, object_key,
};
use crate::needle::{self, Kind, Location, ObjectMeta};
use crate::volume::VolumeSet;

/// How much of a volume is of no use any more, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VolumeUse {
    /// Bytes of needles that nothing refers to.
    pub dead: u64,
    /// Those of them whose room the file system has back.
    pub punched: u64,
}

/// Queued extents of a replaced version.
#[derive(Serialize, Deserialize)]
pub struct FreedValue {
    /// The object.
    pub path: ObjectPath,
    /// Its policy.
    pub policy: PolicyIndex,
    /// The extents.
    pub extents: Vec<Extent>,
}

/// A version on its way into the index.
pub struct NewVersion<'a> {
    /// Where it is placed.
    pub key: &'a ObjectKey,
    /// Its name.
    pub path: &'a ObjectPath,
    /// The version.
    pub version: &'a Version,
    /// Which write it is, and its place in the order.
    pub stamp: Stamp,
    /// Its needle.
    pub location: Location,
    /// What the index has now.
    pub old: Option<ObjectEntry>,
}

/// The parts of a device that needles change.
pub struct Applier {
    /// The index.
    pub index: Arc<Index>,
    /// The volumes, for the metadata of what is replaced.
    pub volumes: Arc<VolumeSet>,
    usage: Mutex<HashMap<u32, VolumeUse>>,
}

impl Applier {
    /// For a device's index and volumes.
    pub fn new(index: Arc<Index>, volumes: Arc<VolumeSet>) -> Result<Applier, NodeError> {
        let mut usage = HashMap::new();
        let mut iterator = index.iterate(Family::Volumes, rocksdb::ReadOptions::default());
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            if let Ok(number) = key.try_into() {
                usage.insert(u32::from_be_bytes(number), decode(value)?);
            }
            iterator.next();
        }
        drop(iterator);
        Ok(Applier { index, volumes, usage: Mutex::new(usage) })
    }

    /// What the index has of an object.
    pub fn object(&self, key: &ObjectKey) -> Result<Option<ObjectEntry>, NodeError> {
        let value = self.index.get(Family::Objects, &object_key(key))?;
        value.map(|bytes| ObjectEntry::from_bytes(&bytes)).transpose()
    }

    /// Where the index has a block.
    pub fn block(&self, key: &BlockKey) -> Result<Option<BlockEntry>, NodeError> {
        let value = self.index.get(Family::Blocks, &block_key(key))?;
        value.map(|bytes| BlockEntry::from_bytes(&bytes)).transpose()
    }

    /// Makes a version the newest; queues what it leaves behind.
    pub fn put_object(&self, batch: &mut WriteBatch, new: &NewVersion<'_>) -> Result<(), NodeError> {
        let key = object_key(new.key);
        if let Some(old) = new.old
            && old.location != new.location
        {
            self.kill(batch, &old.location, 0);
            if old.stamp.ballot < new.stamp.ballot && (old.extents || old.expires) {
                self.leave_behind(batch, new, &old)?;
            }
        }
        let live = new.version.live();
        let entry = ObjectEntry {
            location: new.location,
            stamp: new.stamp,
            deleted: live.is_none(),
            extents: live.is_some_and(|record| matches!(record.layout, Layout::Extents(_))),
            expires: live.is_some_and(|record| record.expires_at.is_some()),
            quarantined: false,
        };
        if let Some(old) = new.old {
            self.uncount_object(batch, new.key, &old);
        }
        batch.sums.add(object_place(new.key), Digest::of_object(&new.key.hash, entry.stamp.ballot));
        if let Some(at) = live.and_then(|record| record.expires_at) {
            let value = encode(&(new.path, new.version.timestamp()));
            batch.put_cf(self.index.family(Family::Expiring), expiring_key(at, &key), value);
        }
        batch.put_cf(self.index.family(Family::Objects), key, entry.to_bytes());
        Ok(())
    }

    /// Takes an entry that is to be replaced or removed out of the digests and the quarantine.
    fn uncount_object(&self, batch: &mut WriteBatch, key: &ObjectKey, old: &ObjectEntry) {
        if old.quarantined {
            let quarantine = self.index.family(Family::Quarantine);
            batch.delete_cf(quarantine, crate::quarantine::object(key));
        } else {
            batch.sums.remove(object_place(key), Digest::of_object(&key.hash, old.stamp.ballot));
        }
    }

    /// Forgets a version: no tombstone stays, and its extents are not queued.
    pub fn forget_object(
        &self,
        batch: &mut WriteBatch,
        key: &ObjectKey,
        ballot: Timestamp,
    ) -> Result<(), NodeError> {
        // A replay may find an older one: the needle of what was forgotten is damaged.
        let Some(old) = self.object(key)?.filter(|old| old.stamp.ballot <= ballot) else { return Ok(()) };
        if old.expires
            && let Ok(ObjectMeta { version: Version::Live(record), .. }) =
                self.read_meta(Kind::Object, &old.location)
            && let Some(at) = record.expires_at
        {
            batch.delete_cf(self.index.family(Family::Expiring), expiring_key(at, &object_key(key)));
        }
        self.uncount_object(batch, key, &old);
        batch.delete_cf(self.index.family(Family::Objects), object_key(key));
        self.kill(batch, &old.location, 0);
        Ok(())
    }

    fn leave_behind(
        &self,
        batch: &mut WriteBatch,
        new: &NewVersion<'_>,
        old: &ObjectEntry,
    ) -> Result<(), NodeError> {
        let meta = match self.read_meta::<ObjectMeta>(Kind::Object, &old.location) {
            Ok(meta) => meta,
            Err(error) => {
                // The old record is damaged: its blocks are orphans for the sweeper.
                tracing::error!(path = %new.path, %error, "replaced version cannot be read");
                return Ok(());
            }
        };
        let Version::Live(record) = meta.version else { return Ok(()) };
        let key = object_key(new.key);
        if let Some(at) = record.expires_at {
            batch.delete_cf(self.index.family(Family::Expiring), expiring_key(at, &key));
        }
        let Layout::Extents(extents) = record.layout else { return Ok(()) };
        if matches!(new.version, Version::Moved(_)) {
            return Ok(());
        }
        let kept = match new.version.live().map(|r| &r.layout) {
            Some(Layout::Extents(kept)) => kept.as_slice(),
            _ => &[],
        };
        let extents: Vec<Extent> = extents.into_iter().filter(|e| !kept.contains(e)).collect();
        if !extents.is_empty() {
            let value = FreedValue { path: new.path.clone(), policy: new.key.policy, extents };
            batch.put_cf(self.index.family(Family::Freed), freed_key(old.stamp.ballot, &key), encode(&value));
        }
        Ok(())
    }

    /// Makes a block findable. `old` is where the index had it.
    pub fn put_block(
        &self,
        batch: &mut WriteBatch,
        key: &BlockKey,
        location: Location,
        old: Option<BlockEntry>,
    ) {
        if let Some(old) = old.filter(|old| old.location != location) {
            self.kill(batch, &old.location, 0);
        }
        if old.is_some_and(|old| old.quarantined) {
            batch.delete_cf(self.index.family(Family::Quarantine), crate::quarantine::block(key));
        }
        if old.is_none_or(|old| old.quarantined) {
            batch.sums.add(block_place(key), Digest::of_block(key));
        }
        batch.put_cf(self.index.family(Family::Blocks), block_key(key), location_bytes(&location));
    }

    /// Forgets blocks and gives back their room.
    pub fn delete_blocks(&self, batch: &mut WriteBatch, keys: &[BlockKey]) -> Result<(), NodeError> {
        // The index shows none of the batch: a block that is named twice is there twice.
        let mut seen = HashSet::new();
        for key in keys.iter().filter(|key| seen.insert(**key)) {
            let Some(old) = self.block(key)? else { continue };
            if old.quarantined {
                batch.delete_cf(self.index.family(Family::Quarantine), crate::quarantine::block(key));
            } else {
                batch.sums.remove(block_place(key), Digest::of_block(key));
            }
            batch.delete_cf(self.index.family(Family::Blocks), block_key(key));
            let punched = self.punch(&old.location);
            self.kill(batch, &old.location, punched);
        }
        Ok(())
    }

    /// Punches the whole pages of a needle's data out of its volume; how many bytes that gave back.
    /// The deletion is on stable storage already, so nothing can ask for them again.
    fn punch(&self, location: &Location) -> u64 {
        const PAGE: u64 = 4096;
        let start = location.data_offset().next_multiple_of(PAGE);
        let end = (location.data_offset() + u64::from(location.data_len)) / PAGE * PAGE;
        let Some(volume) = self.volumes.get(location.volume).filter(|_| end > start) else { return 0 };
        match volume.file.punch(start, end - start) {
            Ok(()) => end - start,
            Err(error) => {
                tracing::warn!(%error, "room of a deleted block could not be given back; compaction will");
                0
            }
        }
    }

    /// Counts a needle as dead.
    pub fn kill(&self, batch: &mut WriteBatch, location: &Location, punched: u64) {
        let mut usage = self.usage.lock();
        let volume = usage.entry(location.volume).or_default();
        volume.dead += location.padded_len();
        volume.punched += punched;
        batch.put_cf(self.index.family(Family::Volumes), location.volume.to_be_bytes(), encode(volume));
    }

    /// Use of a volume.
    pub fn usage(&self, volume: u32) -> VolumeUse {
        self.usage.lock().get(&volume).copied().unwrap_or_default()
    }

    /// Forgets the use of a volume that is gone.
    pub fn forget_volume(&self, volume: u32) -> Result<(), NodeError> {
        self.usage.lock().remove(&volume);
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.index.family(Family::Volumes), volume.to_be_bytes());
        self.index.write(batch)
    }

    /// Reads and verifies the metadata of a needle of the expected kind.
    pub fn read_meta<M: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        location: &Location,
    ) -> Result<M, NodeError> {
        let volume = self.volumes.of(location)?;
        let mut bytes = vec![0; location.head_len()];
        let read = volume.file.read_at(&mut bytes, location.offset);
        read.map_err(|error| NodeError::Unavailable(error.to_string()))?;
        let head =
            needle::decode_head(&bytes, (location.volume, location.offset), volume.salt).map_err(damaged)?;
        if head.header.kind != kind {
            return Err(NodeError::Corrupt("a needle of another kind".into()));
        }
        head.decode().map_err(damaged)
    }
}

/// A damaged needle as an answer.
pub fn damaged(error: needle::NeedleError) -> NodeError {
    NodeError::Corrupt(error.to_string())
}

/// Key of an object that ends.
pub fn expiring_key(at: u64, object: &[u8; OBJECT_KEY]) -> [u8; 8 + OBJECT_KEY] {
    let mut key = [0; 8 + OBJECT_KEY];
    key[..8].copy_from_slice(&at.to_be_bytes());
    key[8..].copy_from_slice(object);
    key
}

fn freed_key(at: Timestamp, object: &[u8; OBJECT_KEY]) -> [u8; 12 + OBJECT_KEY] {
    let mut key = [0; 12 + OBJECT_KEY];
    key[..12].copy_from_slice(&at.to_bytes());
    key[12..].copy_from_slice(object);
    key
}
