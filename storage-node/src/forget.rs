//! Dropping what is elsewhere: a handoff's items that are home, a partition that has moved away, and
//! tombstones that every replica has.
//!
//! A needle lists what was dropped, with its timestamps, so that a rebuild of the index does not bring it
//! back. Rebuilds follow the order of the log: what comes again later, stays.

use std::collections::{HashMap, HashSet};

use kodiak_storage_api::{DirectoryKey, Item, ItemKey, NodeError, Row};

use crate::digests::row_timestamp;
use crate::directories::row_key;
use crate::index::{Family, WriteBatch, directory_key};
use crate::needle::{Forgotten, Kind, ObjectMeta};
use crate::writer::Shared;

/// Whether a record, block or row is still the one that is to be forgotten.
pub fn is_there(shared: &Shared, item: &Item) -> Result<bool, NodeError> {
    Ok(match &item.key {
        ItemKey::Object(key) => {
            shared.applier.object(key)?.is_some_and(|e| e.stamp.ballot == item.timestamp && !e.quarantined)
        }
        ItemKey::Block(key) => shared.applier.block(key)?.is_some_and(|entry| !entry.quarantined),
        ItemKey::Directory(key) => shared.directories.may_be_forgotten(key, item)?,
        ItemKey::Row(directory, name) => {
            let key = row_key(&directory_key(directory), name);
            let family = if item.deleted { Family::Tombstones } else { Family::Rows };
            match shared.applier.index.get(family, &key)? {
                Some(value) => row_timestamp(&value)? == item.timestamp,
                None => false,
            }
        }
    })
}

/// Whether the index has any version of an item.
pub fn is_known(shared: &Shared, key: &ItemKey) -> Result<bool, NodeError> {
    Ok(match key {
        ItemKey::Object(key) => shared.applier.object(key)?.is_some(),
        ItemKey::Block(key) => shared.applier.block(key)?.is_some(),
        ItemKey::Directory(key) => shared.directories.stored(key)?.is_some(),
        ItemKey::Row(directory, name) => {
            let (index, key) = (&shared.applier.index, row_key(&directory_key(directory), name));
            index.get(Family::Rows, &key)?.is_some() || index.get(Family::Tombstones, &key)?.is_some()
        }
    })
}

/// The rows that come back after a crash from the needles of records that are to be forgotten.
pub fn rows_of(shared: &Shared, items: &[Item]) -> Result<HashMap<DirectoryKey, Vec<Row>>, NodeError> {
    let mut rows: HashMap<DirectoryKey, Vec<Row>> = HashMap::new();
    for item in items {
        let ItemKey::Object(key) = &item.key else { continue };
        let Some(entry) = shared.applier.object(key)?.filter(|e| e.stamp.ballot == item.timestamp) else {
            continue;
        };
        let meta: ObjectMeta = match shared.applier.read_meta(Kind::Object, &entry.location) {
            Ok(meta) => meta,
            // Compaction may have taken it elsewhere.
            Err(error) => match shared.applier.object(key)?.filter(|now| now.location != entry.location) {
                Some(now) => shared.applier.read_meta(Kind::Object, &now.location)?,
                None => return Err(error),
            },
        };
        if let Some(directory) = meta.row {
            rows.entry(directory).or_default().push(meta.version.row(&meta.path, meta.stamp.ballot));
        }
    }
    Ok(rows)
}

/// Of some rows, those that a device shows: it needs a needle of its own for them.
pub fn shown(shared: &Shared, directory: &DirectoryKey, rows: &[Row]) -> Result<Vec<Row>, NodeError> {
    let mut shown = Vec::new();
    for row in rows {
        if crate::compact::is_current(shared, directory, row)? {
            shown.push(row.clone());
        }
    }
    Ok(shown)
}

/// Drops records and blocks.
pub fn objects_and_blocks(
    shared: &Shared,
    forgotten: &Forgotten,
    batch: &mut WriteBatch,
) -> Result<(), NodeError> {
    let mut seen = HashSet::new();
    for item in forgotten.items.iter().filter(|item| seen.insert(&item.key)) {
        match &item.key {
            ItemKey::Object(key) => shared.applier.forget_object(batch, key, item.timestamp)?,
            ItemKey::Block(key) => shared.applier.delete_blocks(batch, &[*key])?,
            ItemKey::Directory(_) | ItemKey::Row(..) => {}
        }
    }
    Ok(())
}

/// Drops directories, for a replay, which has no writer beside it: the state that was forgotten, or an
/// older one, where the needle of that is gone.
pub fn directories(shared: &Shared, forgotten: &Forgotten) -> Result<(), NodeError> {
    let directories = &shared.directories;
    for item in &forgotten.items {
        let ItemKey::Directory(key) = &item.key else { continue };
        let mut shard = directories.lock(directories.shard_of(key));
        let stored = directories.stored(key)?.map(|stored| stored.directory);
        if stored.is_some_and(|stored| stored.created.max(stored.deleted) <= item.timestamp) {
            directories.forget(&mut shard, key)?;
        }
    }
    Ok(())
}

/// Drops rows that are still these.
pub fn rows(shared: &Shared, forgotten: &Forgotten, replay: bool) -> Result<(), NodeError> {
    let mut by_directory: HashMap<DirectoryKey, Vec<&Item>> = HashMap::new();
    for item in &forgotten.items {
        if let ItemKey::Row(directory, _) = &item.key {
            by_directory.entry(*directory).or_default().push(item);
        }
    }
    let directories = &shared.directories;
    by_directory.iter().try_for_each(|(key, items)| directories.forget_rows(key, items, replay))
}
