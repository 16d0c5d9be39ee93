//! Accounts and containers: a record, and rows in the order of their names.
//!
//! An account and a container are the same thing twice: an account's rows are its containers, a
//! container's rows are its objects. Both are a [`Directory`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{BOUNDS, DirectoryKey, NameRange, NodeError, PolicyIndex, Timestamp, VersionId};

/// A metadata value and when it was set; replicas merge by the newer. Empty means removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeaderValue {
    /// The value.
    pub value: String,
    /// When it was set.
    pub timestamp: Timestamp,
}

/// The record of an account or a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Directory {
    /// `account` or `account/container`.
    pub name: String,
    /// When it was last created.
    pub created: Timestamp,
    /// When it was last deleted; it exists while `created > deleted`.
    pub deleted: Timestamp,
    /// Storage policy of the objects of a container.
    pub policy: PolicyIndex,
    /// Headers by lower-case name (`x-container-meta-*`, `x-container-read`, …).
    pub headers: BTreeMap<String, HeaderValue>,
}

/// Header of an account that was deleted and that still has containers (Swift's status `DELETED`). When it
/// was set is when the account was deleted; it is never unset.
pub const DELETED: &str = "x-account-sysmeta-deleted";

impl Directory {
    /// Whether it exists now.
    pub fn exists(&self) -> bool {
        self.created > self.deleted
    }

    /// When the account was deleted, until everything in it is gone too.
    pub fn doomed(&self) -> Option<Timestamp> {
        let mark = self.headers.get(DELETED)?.timestamp;
        // One that is older than the creation was of a life before.
        (self.exists() && mark > self.created).then_some(mark)
    }

    /// The union of two states of one directory, whatever their order.
    #[must_use]
    pub fn merge(self, other: Directory) -> Directory {
        let (mut newer, older) = if self.created >= other.created { (self, other) } else { (other, self) };
        newer.deleted = newer.deleted.max(older.deleted);
        for (name, header) in older.headers {
            let keep = newer.headers.get(&name).is_some_and(|mine| mine.timestamp >= header.timestamp);
            if !keep {
                newer.headers.insert(name, header);
            }
        }
        newer.drop_old_headers();
        newer
    }

    /// The time of its last change.
    pub fn newest(&self) -> Timestamp {
        let headers = self.headers.values().map(|header| header.timestamp);
        headers.fold(self.created.max(self.deleted), Timestamp::max)
    }

    /// Forgets the headers of what was deleted, but for its bounds: their versions have an order of their own, and
    /// a deletion that was refused must not undo them.
    pub fn drop_old_headers(&mut self) {
        let deleted = self.deleted;
        self.headers.retain(|name, header| header.timestamp > deleted || name == BOUNDS);
    }

    /// A header's value, if set.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|h| h.value.as_str()).filter(|v| !v.is_empty())
    }
}

/// Totals over the live rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Live rows: containers of an account, objects of a container.
    pub rows: u64,
    /// Objects: those of the account's containers, or the container's rows.
    pub objects: u64,
    /// Bytes of those objects.
    pub bytes: u64,
}

/// A directory with its totals.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirectoryInfo {
    /// The record.
    pub directory: Directory,
    /// The totals.
    pub stats: Stats,
}

/// A change of a directory's record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirectoryWrite {
    /// Where it lies.
    pub key: DirectoryKey,
    /// `account` or `account/container`.
    pub name: String,
    /// When.
    pub timestamp: Timestamp,
    /// What.
    pub change: DirectoryChange,
}

/// What a [`DirectoryWrite`] does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DirectoryChange {
    /// Creates it, or sets headers where it exists (its policy then stays).
    Create {
        /// Policy if it is new.
        policy: PolicyIndex,
        /// Headers to set; an empty value removes.
        headers: Vec<(String, String)>,
    },
    /// Sets headers; [`crate::NodeError::NoDirectory`] where it does not exist.
    Update {
        /// Headers to set; an empty value removes.
        headers: Vec<(String, String)>,
    },
    /// Deletes it; [`crate::NodeError::NotEmpty`] while it has rows. Its headers go with it.
    Delete,
    /// Takes over what another replica knows, field by field the newer; [`crate::NodeError::NotEmpty`]
    /// if that would delete it while it has rows.
    Merge(Box<Directory>),
    /// Deletes one whose listing was split, as [`Self::Delete`] does; [`crate::NodeError::Moved`] unless its bounds
    /// are those that were closed by this version of the map.
    Remove {
        /// The version.
        closed: Timestamp,
    },
}

impl DirectoryWrite {
    /// The state after the change, and whether that created the directory: a plain function of the state
    /// before. Whether it is empty is for the caller to know.
    pub fn apply(&self, old: Option<Directory>) -> Result<(Directory, bool), NodeError> {
        let existed = old.as_ref().is_some_and(Directory::exists);
        let at = self.timestamp;
        let mut directory = old.unwrap_or_else(|| Directory {
            name: self.name.clone(),
            created: Timestamp::ZERO,
            deleted: Timestamp::ZERO,
            policy: Default::default(),
            headers: Default::default(),
        });
        match &self.change {
            DirectoryChange::Create { policy, headers } => {
                if !existed && at > directory.deleted {
                    directory.created = at;
                    directory.policy = *policy;
                }
                directory.set_headers(headers, at);
            }
            DirectoryChange::Update { .. } if !existed => return Err(NodeError::NoDirectory),
            DirectoryChange::Update { headers } => directory.set_headers(headers, at),
            DirectoryChange::Delete | DirectoryChange::Remove { .. } if !existed => {
                return Err(NodeError::NoDirectory);
            }
            DirectoryChange::Delete => directory.deleted = directory.deleted.max(at),
            DirectoryChange::Remove { closed } => {
                directory.deleted = directory.deleted.max(at);
                directory.void_bounds(*closed);
            }
            DirectoryChange::Merge(other) => directory = directory.merge((**other).clone()),
        }
        directory.drop_old_headers();
        let created = !existed && directory.exists();
        Ok((directory, created))
    }
}

impl Directory {
    /// Headers keep their removals (empty values) while the directory lives, for merging replicas.
    fn set_headers(&mut self, headers: &[(String, String)], at: Timestamp) {
        for (name, value) in headers {
            let newer = self.headers.get(name).is_none_or(|old| old.timestamp < at);
            if newer {
                self.headers.insert(name.clone(), HeaderValue { value: value.clone(), timestamp: at });
            }
        }
    }
}

/// Extra fields of a row that shows a version. Names with a leading dash are not shown as they are.
const VERSION: &str = "-version";
const VERSION_BYTES: &str = "-version-bytes";

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Name of the object or container.
    pub name: String,
    /// Of the write it shows; the newer row wins.
    pub timestamp: Timestamp,
    /// A tombstone.
    pub deleted: bool,
    /// 1 for an object; a container's count in its account.
    pub objects: u64,
    /// Size of an object; a container's total in its account.
    pub bytes: u64,
    /// ETag of an object, without quotes.
    pub etag: String,
    /// Content type of an object.
    pub content_type: String,
    /// More fields that a listing shows (`slo_etag`, `symlink_path`, checksum algorithms, …).
    pub extra: Vec<(String, String)>,
}

impl Row {
    /// The row of a deleted name.
    pub fn tombstone(name: String, timestamp: Timestamp) -> Row {
        Row {
            name,
            timestamp,
            deleted: true,
            objects: 0,
            bytes: 0,
            etag: String::new(),
            content_type: String::new(),
            extra: Vec::new(),
        }
    }

    /// Makes it show a version that has a row of its own elsewhere: its bytes are counted there.
    pub(crate) fn link(&mut self, version: VersionId) {
        self.extra.push((VERSION.into(), version.to_string()));
        self.extra.push((VERSION_BYTES.into(), self.bytes.to_string()));
        self.bytes = 0;
    }

    /// The version that it shows, if that has a row of its own elsewhere.
    pub fn version(&self) -> Option<VersionId> {
        self.extra(VERSION)?.parse().ok()
    }

    /// Bytes of what it shows, wherever they are counted.
    pub fn size(&self) -> u64 {
        self.extra(VERSION_BYTES).and_then(|bytes| bytes.parse().ok()).unwrap_or(self.bytes)
    }

    /// An extra field.
    pub fn extra(&self, name: &str) -> Option<&str> {
        self.extra.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// A question for one page of rows, in the order of UTF-8 bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ListQuery {
    /// Only names that begin so.
    pub prefix: String,
    /// Names that hold it after the prefix are rolled up to the part through its first occurrence.
    pub delimiter: Option<String>,
    /// Only names and rolled-up prefixes strictly after it (before it, in reverse). A marker that
    /// ends in the delimiter passes everything under that prefix.
    pub marker: Option<String>,
    /// Only names strictly before it (after it, in reverse).
    pub end_marker: Option<String>,
    /// At most so many entries.
    pub limit: usize,
    /// From the last name to the first.
    pub reverse: bool,
    /// Tombstones too (as rows), for merging replicas. Never rolled up into prefixes.
    pub tombstones: bool,
    /// Only names in it: the directory's part of a listing that is split. Unlike the markers it hides no
    /// rolled-up prefix.
    pub names: NameRange,
    /// Version of the directory's [`crate::Bounds`] that the asker goes by; zero where it knows of none. A replica
    /// that knows newer ones answers [`crate::NodeError::Moved`].
    pub bounds: Timestamp,
}

/// One entry of a page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// A name.
    Row(Row),
    /// A rolled-up prefix, through its delimiter.
    Prefix(String),
}

impl Entry {
    /// What it sorts by: the name or the prefix.
    pub fn name(&self) -> &str {
        match self {
            Entry::Row(row) => &row.name,
            Entry::Prefix(prefix) => prefix,
        }
    }
}

/// A page of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Page {
    /// In order.
    pub entries: Vec<Entry>,
    /// Whether more follow.
    pub truncated: bool,
}
