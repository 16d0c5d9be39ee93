//! The queues of work that a device keeps for the cluster's workers.

use kodiak_storage_api::{NodeError, ObjectPath, Timestamp, Work, WorkId, WorkItem, WorkKind};
use rocksdb::ReadOptions;

use crate::apply::FreedValue;
use crate::index::{Family, WriteBatch, decode, directory_key, parse_directory_key};
use crate::writer::Shared;

/// The first items that are due.
pub fn next(shared: &Shared, kind: WorkKind, now: u64, limit: usize) -> Result<Vec<WorkItem>, NodeError> {
    match kind {
        WorkKind::Expire => expiring(shared, now, limit),
        WorkKind::Free => freed(shared, limit),
        WorkKind::Totals => changed(shared, limit),
        WorkKind::Reap => doomed(shared, now, limit),
    }
}

fn expiring(shared: &Shared, now: u64, limit: usize) -> Result<Vec<WorkItem>, NodeError> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound((now + 1).to_be_bytes());
    collect(shared, Family::Expiring, options, limit, |value| {
        let (path, timestamp): (ObjectPath, Timestamp) = decode(value)?;
        Ok(Work::Expire { path, timestamp })
    })
}

fn doomed(shared: &Shared, now: u64, limit: usize) -> Result<Vec<WorkItem>, NodeError> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound((now + 1).to_be_bytes());
    collect(shared, Family::Doomed, options, limit, |value| {
        let (account, since): (String, Timestamp) = decode(value)?;
        Ok(Work::Reap { account, since })
    })
}

fn freed(shared: &Shared, limit: usize) -> Result<Vec<WorkItem>, NodeError> {
    collect(shared, Family::Freed, ReadOptions::default(), limit, |value| {
        let FreedValue { path, policy, extents } = decode(value)?;
        Ok(Work::Free { path, policy, extents })
    })
}

fn collect(
    shared: &Shared,
    family: Family,
    options: ReadOptions,
    limit: usize,
    work: impl Fn(&[u8]) -> Result<Work, NodeError>,
) -> Result<Vec<WorkItem>, NodeError> {
    let mut items = Vec::new();
    let mut iterator = shared.applier.index.iterate(family, options);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item().filter(|_| items.len() < limit) {
        items.push(WorkItem { id: WorkId(key.to_vec()), work: work(value)? });
        iterator.next();
    }
    Ok(items)
}

fn changed(shared: &Shared, limit: usize) -> Result<Vec<WorkItem>, NodeError> {
    let directories = &shared.directories;
    let mut items = Vec::new();
    for key in directories.take_changed(limit) {
        match directories.read(&key)? {
            Some(info) => {
                items.push(WorkItem { id: WorkId(directory_key(&key).to_vec()), work: Work::Totals { info } })
            }
            None => directories.delivered(key),
        }
    }
    Ok(items)
}

/// Removes items. Totals are forgotten only after a checkpoint, since the account's row may still be
/// in another device's memory.
pub fn finish(shared: &Shared, kind: WorkKind, ids: &[WorkId]) -> Result<(), NodeError> {
    let index = &shared.applier.index;
    let family = match kind {
        WorkKind::Expire => Family::Expiring,
        WorkKind::Free => Family::Freed,
        WorkKind::Totals => {
            ids.iter()
                .filter_map(|id| parse_directory_key(&id.0))
                .for_each(|key| shared.directories.delivered(key));
            return Ok(());
        }
        // It is in the queue as long as its record says so.
        WorkKind::Reap => return Ok(()),
    };
    let mut batch = WriteBatch::default();
    ids.iter().for_each(|id| batch.delete_cf(index.family(family), &id.0));
    index.write(batch)
}
