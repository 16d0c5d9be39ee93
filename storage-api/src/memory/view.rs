//! What a device shows: the outcome of its log.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::{
    BlockKey, Directory, DirectoryInfo, DirectoryKey, DirectoryWrite, Entry, ListQuery, NodeError, ObjectKey,
    ObjectWrite, Page, Row, Stamp, Stats, StoredVersion, Timestamp,
};

/// One entry of the log.
#[derive(Clone)]
pub(super) enum Record {
    Object(Box<ObjectWrite>),
    Block(BlockKey, Bytes),
    BlocksDeleted(Vec<BlockKey>),
    Directory(DirectoryKey, Directory),
    /// Rows, and whether the directory's bounds count.
    Rows(DirectoryKey, Vec<Row>, bool),
    /// Rows that are elsewhere: name, time, and whether it is a tombstone.
    RowsForgotten(DirectoryKey, Vec<(String, Timestamp, bool)>),
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
    /// A fault: bounds do not count.
    unbounded: bool,
}

impl View {
    /// Everything but rows first, as a real node replays: a row may come before its container.
    pub(super) fn of(log: &[Record], unbounded: bool) -> View {
        let mut view = View { unbounded, ..View::default() };
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
        let live = held.is_some_and(|held| held.rows.values().any(|row| !row.deleted));
        let old = held.map(|held| &held.directory);
        let (new, created) = write.apply(old.cloned())?;
        write.check(old, &new, live)?;
        Ok((new, created))
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
            Record::Rows(key, rows, fenced) => {
                let puts: Vec<_> = rows.iter().map(|row| self.put_row(key, row, *fenced)).collect();
                return puts.into_iter().collect();
            }
            Record::RowsForgotten(key, gone) => {
                let Some(held) = self.directories.get_mut(key) else { return Ok(()) };
                held.rows.retain(|name, row| {
                    !gone.iter().any(|(n, at, dead)| (n, *at, *dead) == (name, row.timestamp, row.deleted))
                });
            }
        }
        Ok(())
    }

    pub(super) fn show_row(&mut self, write: &ObjectWrite) -> Result<(), NodeError> {
        let Some(target) = write.row else { return Ok(()) };
        self.put_row(&target.directory, &write.version.row(&write.path, write.stamp.ballot), true)
    }

    fn put_row(&mut self, key: &DirectoryKey, row: &Row, fenced: bool) -> Result<(), NodeError> {
        let held = self.directories.get_mut(key).ok_or(NodeError::NoDirectory)?;
        let bounds = held.directory.bounds().filter(|_| fenced && !self.unbounded);
        if bounds.is_some_and(|bounds| !bounds.contain(&row.name)) {
            return Err(NodeError::Moved);
        }
        if !row.deleted && (!held.directory.exists() || row.timestamp <= held.directory.deleted) {
            return Err(NodeError::NoDirectory);
        }
        if held.rows.get(&row.name).is_none_or(|old| old.timestamp < row.timestamp) {
            held.rows.insert(row.name.clone(), row.clone());
        }
        Ok(())
    }

    pub(super) fn directories(&self) -> Vec<(DirectoryKey, Directory, Vec<Row>)> {
        let all = self.directories.iter();
        let mut all: Vec<_> = all
            .map(|(key, held)| (*key, held.directory.clone(), held.rows.values().cloned().collect()))
            .collect();
        all.sort_by_key(|(key, ..)| *key);
        all
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

    pub(super) fn list(&self, key: &DirectoryKey, query: &ListQuery) -> Result<Page, NodeError> {
        let mut page = Page::default();
        let held = self.directories.get(key);
        query.check(held.map(|held| &held.directory))?;
        let Some(held) = held else { return Ok(page) };
        let (after, before) = match query.reverse {
            false => (&query.marker, &query.end_marker),
            true => (&query.end_marker, &query.marker),
        };
        let within = |name: &str| {
            query.names.contains(name)
                && after.as_deref().is_none_or(|after| name > after)
                && before.as_deref().is_none_or(|b| name < b)
        };
        // A marker hides the prefixes up to itself.
        let hidden = |prefix: &str| match (&query.marker, query.reverse) {
            (Some(marker), false) => prefix <= marker.as_str(),
            (Some(marker), true) => prefix >= marker.as_str(),
            (None, _) => false,
        };
        let mut names: Vec<&Row> =
            held.rows.values().filter(|row| row.name.starts_with(&query.prefix)).collect();
        if query.reverse {
            names.reverse();
        }
        names.retain(|row| within(&row.name));
        for row in names.iter().filter(|row| !row.deleted) {
            let rest = &row.name[query.prefix.len()..];
            let delimiter = query.delimiter.as_deref();
            let rolled = delimiter.and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()));
            let entry = match rolled.map(|end| &row.name[..query.prefix.len() + end]) {
                Some(prefix) if hidden(prefix) => continue,
                Some(prefix) => Entry::Prefix(prefix.to_owned()),
                None => Entry::Row((*row).clone()),
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
        if query.tombstones {
            // Those of the names that the page covers, in the order of all entries.
            let last = page.entries.last().filter(|_| page.truncated).map(|entry| entry.name().to_owned());
            let beyond = |name: &str| {
                let last = last.as_deref();
                last.is_some_and(|last| if query.reverse { name < last } else { name > last })
            };
            let dead = names.iter().filter(|row| row.deleted && !beyond(&row.name));
            page.entries.extend(dead.map(|row| Entry::Row((*row).clone())));
            page.entries.sort_by(|a, b| match query.reverse {
                true => b.name().cmp(a.name()),
                false => a.name().cmp(b.name()),
            });
            page.truncated |= page.entries.len() > query.limit;
            page.entries.truncate(query.limit);
        }
        Ok(page)
    }
}
