//! Items in which damage was found.
//!
//! They stay in the index, marked: a damaged record is still answered as damaged, never as absent, since a
//! majority might otherwise take an older version for the newest. They are in no digest, so that the
//! replicas differ until the item has been written again from an intact one.

use kodiak_storage_api::{BlockKey, Digest, ItemKey, NodeError, ObjectKey, Timestamp};
use serde::{Deserialize, Serialize};

use crate::digests::{block_place, object_place};
use crate::index::{Family, WriteBatch, block_key, encode, object_key, quarantined_bytes};
use crate::needle::Location;
use crate::writer::Shared;

/// Damage that was found.
#[derive(Clone, Debug)]
pub struct Damage {
    /// In what: a record or a block.
    pub key: ItemKey,
    /// Where it lies.
    pub location: Location,
    /// What is wrong.
    pub reason: String,
}

/// Value of the `quarantine` family.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// The item.
    pub key: ItemKey,
    /// What is wrong.
    pub reason: String,
    /// When that was found.
    pub found: Timestamp,
}

/// Key of a record in quarantine.
pub fn object(key: &ObjectKey) -> Vec<u8> {
    [&[0], &object_key(key)[..]].concat()
}

/// Key of a block in quarantine.
pub fn block(key: &BlockKey) -> Vec<u8> {
    [&[1], &block_key(key)[..]].concat()
}

impl Damage {
    /// Marks the item, if it still lies there.
    pub fn apply(&self, shared: &Shared, batch: &mut WriteBatch) -> Result<(), NodeError> {
        let applier = &shared.applier;
        let key = match &self.key {
            ItemKey::Object(key) => {
                let entry = applier.object(key)?;
                let Some(mut entry) = entry.filter(|e| e.location == self.location && !e.quarantined) else {
                    return Ok(());
                };
                entry.quarantined = true;
                batch.put_cf(applier.index.family(Family::Objects), object_key(key), entry.to_bytes());
                batch.sums.remove(object_place(key), Digest::of_object(&key.hash, entry.stamp.ballot));
                object(key)
            }
            ItemKey::Block(key) => {
                let entry = applier.block(key)?;
                if !entry.is_some_and(|e| e.location == self.location && !e.quarantined) {
                    return Ok(());
                }
                let value = quarantined_bytes(&self.location);
                batch.put_cf(applier.index.family(Family::Blocks), block_key(key), value);
                batch.sums.remove(block_place(key), Digest::of_block(key));
                block(key)
            }
            ItemKey::Directory(_) | ItemKey::Row(..) => return Ok(()),
        };
        tracing::error!(device = shared.name, item = ?self.key, reason = self.reason, "damage: quarantined");
        let value =
            Quarantined { key: self.key.clone(), reason: self.reason.clone(), found: shared.clock.now() };
        batch.put_cf(applier.index.family(Family::Quarantine), key, encode(&value));
        Ok(())
    }
}
