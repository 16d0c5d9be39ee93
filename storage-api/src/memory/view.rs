//! What a device shows: the outcome of its log.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::{
    BlockKey, Directory, DirectoryChange, DirectoryInfo, DirectoryKey, DirectoryWrite, Entry, ListQuery,
    NodeError, ObjectKey, ObjectWrite, Page, Row, Stamp, Stats, StoredVersion,
};

/// One entry of the log.
#[derive(Clone)]
pub(super) enum Record {
    Object(Box<ObjectWrite>),
    Block(BlockKey, Bytes),
    BlocksDeleted(Vec<BlockKey>),
    Directory(DirectoryKey, Directory),
    Rows(DirectoryKey, Vec<Row>),
}

struct Object {
    stored: StoredVersion,
    damaged: bool,
}

struct Held {
    directory: Directory,
    rows: BTreeMap<String, Row>,
}

#[derive(Default)]
pub(super) struct View {
    objects: BTreeMap<ObjectKey, Object>,
    pub(super) blocks: HashMap<BlockKey, Bytes>,
    directories: HashMap<DirectoryKey, Held>,
}

impl View {
    /// Everything but rows first, as a real node replays: a row may come before its container.
    pub(super) fn of(log: &[Record]) -> View {
        let mut view = View::default();
        for record in log {
            // Refused rows were refused before.
            let _ = view.apply(record);
        }
        view
    }

    pub(super) fn stamp(&self, key: &ObjectKey) -> Option<Stamp> {
        self.objects.get(key).map(|object| object.stored.stamp)
    }

    pub(super) fn object(&self, key: &ObjectKey, data: bool) -> Result<Option<StoredVersion>, NodeError> {
        let Some(object) = self.objects.get(key) else { return Ok(None) };
        if object.damaged {
            return Err(NodeError::Corrupt("bits have flipped".into()));
        }
        let inline = object.stored.inline.clone().filter(|_| data);
        Ok(Some(StoredVersion { inline, ..object.stored.clone() }))
    }

    pub(super) fn rot(&mut self, choose: impl FnOnce(usize) -> usize) {
        if !self.objects.is_empty() {
            let index = choose(self.objects.len());
            self.objects.values_mut().skip(index).take(1).for_each(|object| object.damaged = true);
        }
    }

    pub(super) fn heal(&mut self) {
        self.objects.values_mut().for_each(|object| object.damaged = false);
    }

    pub(super) fn changed(&self, write: &DirectoryWrite) -> Result<(Directory, bool), NodeError> {
        let held = self.directories.get(&write.key);
        let live =
            held.is_some_and(|held| held.directory.exists() && held.rows.values().any(|row| !row.deleted));
        if live && write.change == DirectoryChange::Delete {
            return Err(NodeError::NotEmpty);
        }
        write.apply(held.map(|held| held.directory.clone()))
    }

    /// Shows a record; what was refused of it is the answer.
    pub(super) fn apply(&mut self, record: &Record) -> Result<(), NodeError> {
        match record {
            Record::Object(write) => {
                let inline = write.inline.concat().into();
                let stored = StoredVersion {
                    version: write.version.clone(),
                    stamp: write.stamp,
                    inline: Some(inline),
                };
                self.objects.insert(write.key, Object { stored, damaged: false });
                return self.show_row(write);
            }
            Record::Block(key, data) => drop(self.blocks.insert(*key, data.clone())),
            Record::BlocksDeleted(keys) => keys.iter().for_each(|key| drop(self.blocks.remove(key))),
            Record::Directory(key, directory) => {
                let held = self
                    .directories
                    .entry(*key)
                    .or_insert_with(|| Held { directory: directory.clone(), rows: BTreeMap::new() });
                held.directory = held.directory.clone().merge(directory.clone());
            }
            Record::Rows(key, rows) => return rows.iter().try_for_each(|row| self.put_row(key, row)),
        }
        Ok(())
    }

    pub(super) fn show_row(&mut self, write: &ObjectWrite) -> Result<(), NodeError> {
        let Some(target) = write.row else { return Ok(()) };
        self.put_row(&target.directory, &write.version.row(&write.path, write.stamp.ballot))
    }

    fn put_row(&mut self, key: &DirectoryKey, row: &Row) -> Result<(), NodeError> {
        let held = self.directories.get_mut(key).ok_or(NodeError::NoDirectory)?;
        if !row.deleted && (!held.directory.exists() || row.timestamp <= held.directory.deleted) {
            return Err(NodeError::NoDirectory);
        }
        if held.rows.get(&row.name).is_none_or(|old| old.timestamp < row.timestamp) {
            held.rows.insert(row.name.clone(), row.clone());
        }
        Ok(())
    }

    pub(super) fn info(&self, key: &DirectoryKey) -> Option<DirectoryInfo> {
        let held = self.directories.get(key)?;
        let live = held.rows.values().filter(|row| !row.deleted);
        let stats = live.fold(Stats::default(), |stats, row| Stats {
            rows: stats.rows + 1,
            objects: stats.objects + row.objects,
            bytes: stats.bytes + row.bytes,
        });
        Some(DirectoryInfo { directory: held.directory.clone(), stats })
    }

    pub(super) fn list(&self, key: &DirectoryKey, query: &ListQuery) -> Page {
        let mut page = Page::default();
        let Some(held) = self.directories.get(key) else { return page };
        let (after, before) = match query.reverse {
            false => (&query.marker, &query.end_marker),
            true => (&query.end_marker, &query.marker),
        };
        let within = |name: &str| {
            after.as_deref().is_none_or(|after| name > after) && before.as_deref().is_none_or(|b| name < b)
        };
        let mut names: Vec<&Row> =
            held.rows.values().filter(|row| row.name.starts_with(&query.prefix)).collect();
        if query.reverse {
            names.reverse();
        }
        for row in names.into_iter().filter(|row| within(&row.name) && (query.tombstones || !row.deleted)) {
            let rest = &row.name[query.prefix.len()..];
            let rolled = query.delimiter.as_deref().filter(|_| !row.deleted).and_then(|delimiter| {
                rest.find(delimiter).map(|at| &row.name[..query.prefix.len() + at + delimiter.len()])
            });
            let entry = match rolled {
                Some(prefix) if query.marker.as_deref() == Some(prefix) => continue,
                Some(prefix) => Entry::Prefix(prefix.to_owned()),
                None => Entry::Row(row.clone()),
            };
            if page.entries.last() == Some(&entry) {
                continue;
            }
            if page.entries.len() == query.limit {
                page.truncated = true;
                break;
            }
            page.entries.push(entry);
        }
        page
    }
}
