//! Listings that have outgrown one directory: which directory has the rows of which names.
//!
//! A container's listing begins in its own directory. When that has too many rows, the upper half of its
//! names is given to a *shard*, a directory of its own; shards split in the same way. The [`ShardMap`] says who
//! has which names. It changes by compare-and-set, one version after the other; replicas never see a version
//! that was not decided. A directory's part in it are its [`Bounds`], a header of its record. A replica that
//! knows newer bounds refuses who goes by older ones ([`NodeError::Moved`]): that is the fence on which
//! everything rests (`docs/consistency.md`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::directory::HeaderValue;
use crate::{Directory, DirectoryChange, DirectoryWrite, ListQuery, NodeError, Timestamp};

/// Header of a record that holds the directory's [`Bounds`]; its time is their version.
pub const BOUNDS: &str = "x-container-sysmeta-bounds";
/// Ranges of a listing at most. With as many, its directories grow on, as if they never split.
pub const MAX_RANGES: usize = 4096;
/// Bytes of an encoded map at most: it is read as one small object.
const MAX_BYTES: usize = 200 * 1024;
/// First byte of an encoded map.
const FORMAT: u8 = 1;

/// Names from one on up to another.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NameRange {
    /// The first name that may be in it.
    pub from: String,
    /// The first name after it; none: it has no end.
    pub to: Option<String>,
}

impl NameRange {
    /// Whether a name is in it.
    pub fn contains(&self, name: &str) -> bool {
        name >= self.from.as_str() && self.to.as_deref().is_none_or(|to| name < to)
    }
}

/// The names that a directory takes rows of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Names {
    /// These.
    Range(NameRange),
    /// None: the container is about to be deleted.
    Closed,
    /// All, as if it had never had bounds: the container was deleted, and what comes after is another one.
    Void,
}

/// A directory's part in a listing that is split.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Of the map that set them.
    pub version: Timestamp,
    /// What it takes.
    pub names: Names,
}

impl Bounds {
    /// Whether a row of this name belongs here.
    pub fn contain(&self, name: &str) -> bool {
        match &self.names {
            Names::Range(range) => range.contains(name),
            Names::Closed => false,
            Names::Void => true,
        }
    }

    /// As the value of a header.
    fn value(&self) -> String {
        match &self.names {
            Names::Range(NameRange { from, to: None }) => format!("{}:{from}", from.len()),
            Names::Range(NameRange { from, to: Some(to) }) => format!("{}:{from}+{to}", from.len()),
            Names::Closed => "closed".into(),
            Names::Void => String::new(),
        }
    }

    fn parse(header: &HeaderValue) -> Bounds {
        let range = || {
            let (len, rest) = header.value.split_once(':')?;
            let (from, rest) = rest.split_at_checked(len.parse().ok()?)?;
            let to = if rest.is_empty() { None } else { Some(rest.strip_prefix('+')?.to_owned()) };
            Some(Names::Range(NameRange { from: from.to_owned(), to }))
        };
        // What cannot be understood takes nothing: that loses nothing.
        let names = if header.value.is_empty() { Names::Void } else { range().unwrap_or(Names::Closed) };
        Bounds { version: header.timestamp, names }
    }

    /// The change that gives them to a directory.
    pub fn change(&self) -> DirectoryChange {
        DirectoryChange::Update { headers: vec![(BOUNDS.into(), self.value())] }
    }
}

impl Directory {
    /// Its part in a listing that is split, if it has one.
    pub fn bounds(&self) -> Option<Bounds> {
        self.headers.get(BOUNDS).map(Bounds::parse)
    }

    /// After a container was deleted whose bounds were closed at a version: they count no more. The mark comes
    /// right after that version, before any that may follow it.
    pub(crate) fn void_bounds(&mut self, closed: Timestamp) {
        let at = closed.just_after();
        if self.headers.get(BOUNDS).is_none_or(|held| held.timestamp < at) {
            self.headers.insert(BOUNDS.into(), HeaderValue { value: String::new(), timestamp: at });
        }
    }
}

impl DirectoryWrite {
    /// Whether a replica may make this change, from `old` to `new`; `live`: it has live rows. A plain function, the
    /// same for every kind of node.
    pub fn check(&self, old: Option<&Directory>, new: &Directory, live: bool) -> Result<(), NodeError> {
        let names = |directory: &Directory| directory.bounds().map(|bounds| bounds.names);
        let held = old.and_then(Directory::bounds);
        let open = |names: Option<Names>| matches!(names, Some(Names::Range(_)));
        match &self.change {
            // Rows may be acknowledged that are elsewhere.
            DirectoryChange::Delete if open(old.and_then(names)) => return Err(NodeError::Moved),
            DirectoryChange::Remove { closed }
                if held != Some(Bounds { version: *closed, names: Names::Closed }) =>
            {
                return Err(NodeError::Moved);
            }
            DirectoryChange::Update { .. } if live && names(new) == Some(Names::Closed) => {
                return Err(NodeError::NotEmpty);
            }
            // A deletion that was refused, and has left its trace at a replica.
            _ if !new.exists() && open(names(new)) => return Err(NodeError::Moved),
            _ => {}
        }
        let deletes = matches!(self.change, DirectoryChange::Delete | DirectoryChange::Remove { .. });
        let existed = old.is_some_and(Directory::exists);
        if (deletes || !new.exists()) && existed && live { Err(NodeError::NotEmpty) } else { Ok(()) }
    }
}

impl ListQuery {
    /// Whether a replica with this record may answer a page that it has read before it looked at the record:
    /// not if the asker goes by older bounds than it knows.
    pub fn check(&self, directory: Option<&Directory>) -> Result<(), NodeError> {
        let asked_by_none = self.bounds == Timestamp::ZERO;
        let stale = match directory.map(Directory::bounds) {
            None => !asked_by_none,
            Some(None) => false,
            Some(Some(Bounds { version, names: Names::Void })) => !asked_by_none && self.bounds < version,
            Some(Some(Bounds { version, .. })) => self.bounds < version,
        };
        if stale { Err(NodeError::Moved) } else { Ok(()) }
    }
}

/// Names a shard of a container: when it was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ShardId(pub Timestamp);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The directory that has the rows of a range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Home {
    /// The container's own.
    Container,
    /// A shard.
    Shard(ShardId),
}

/// Names that are in one directory. They begin at `from` and end where the next range begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardRange {
    /// The first name that may be in it.
    pub from: String,
    /// Where new rows go.
    pub home: Home,
    /// Version of the map that gave the directory its bounds.
    pub since: Timestamp,
    /// The directory that may still have rows of it, which are on their way here.
    pub source: Option<Home>,
}

/// Who has which names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardMap {
    /// Each version is newer than the one before.
    pub version: Timestamp,
    /// The container is about to be deleted: nobody takes rows.
    pub closing: bool,
    /// In order; the first begins with the empty name.
    pub ranges: Vec<ShardRange>,
}

/// Why a map does not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShardError {
    /// Too many ranges, or too many bytes of names.
    #[error("the listing has as many ranges as it may: {MAX_RANGES}, or {MAX_BYTES} bytes of names")]
    Full,
    /// The directory has no part in it, or is not done with the change before, or the name is not within it.
    #[error("this directory cannot be split now")]
    Busy,
}

impl ShardMap {
    /// Of a listing that was never split.
    pub fn whole() -> ShardMap {
        let since = Timestamp::ZERO;
        let all = ShardRange { from: String::new(), home: Home::Container, since, source: None };
        ShardMap { version: since, closing: false, ranges: vec![all] }
    }

    /// The range of a name.
    pub fn range_of(&self, name: &str) -> &ShardRange {
        let after = self.ranges.partition_point(|range| range.from.as_str() <= name);
        // The first begins with the empty name, so there is one.
        &self.ranges[after.saturating_sub(1)]
    }

    /// The names of a range.
    pub fn names(&self, index: usize) -> NameRange {
        let from = self.ranges.get(index).map(|range| range.from.clone()).unwrap_or_default();
        NameRange { from, to: self.ranges.get(index + 1).map(|next| next.from.clone()) }
    }

    /// Where a directory is among the ranges.
    pub fn position(&self, home: Home) -> Option<usize> {
        self.ranges.iter().position(|range| range.home == home)
    }

    /// What a range's directory takes.
    pub fn bounds(&self, index: usize) -> Bounds {
        let version = self.ranges.get(index).map_or(self.version, |range| range.since);
        let names = if self.closing { Names::Closed } else { Names::Range(self.names(index)) };
        Bounds { version, names }
    }

    /// The ranges whose directories have other bounds than by the version before.
    pub fn changed(&self) -> impl Iterator<Item = usize> {
        self.ranges
            .iter()
            .enumerate()
            .filter(|(_, range)| range.since == self.version)
            .map(|(index, _)| index)
    }

    /// Ranges whose rows are still on their way.
    pub fn moving(&self) -> impl Iterator<Item = (usize, Home)> {
        self.ranges.iter().enumerate().filter_map(|(index, range)| Some((index, range.source?)))
    }

    /// Gives the names of a directory from `at` on to a new shard.
    pub fn split(
        &self,
        home: Home,
        at: &str,
        shard: ShardId,
        version: Timestamp,
    ) -> Result<ShardMap, ShardError> {
        let index = self.position(home).ok_or(ShardError::Busy)?;
        let names = self.names(index);
        let busy = self.ranges[index].source.is_some() || self.moving().any(|(_, source)| source == home);
        if busy || self.closing || !names.contains(at) || names.from == at {
            return Err(ShardError::Busy);
        }
        let mut next = ShardMap { version, ..self.clone() };
        next.ranges[index].since = version;
        let upper =
            ShardRange { from: at.to_owned(), home: Home::Shard(shard), since: version, source: Some(home) };
        next.ranges.insert(index + 1, upper);
        if next.ranges.len() > MAX_RANGES || next.encode().len() > MAX_BYTES {
            return Err(ShardError::Full);
        }
        Ok(next)
    }

    /// All rows of a range have come. No bounds change.
    pub fn arrived(&self, home: Home, version: Timestamp) -> ShardMap {
        let mut next = ShardMap { version, ..self.clone() };
        next.ranges.iter_mut().filter(|range| range.home == home).for_each(|range| range.source = None);
        next
    }

    /// Closed, before the container is deleted, or open again: all bounds change.
    pub fn closed(&self, closing: bool, version: Timestamp) -> ShardMap {
        let mut next = ShardMap { version, closing, ranges: self.ranges.clone() };
        next.ranges.iter_mut().for_each(|range| range.since = version);
        next
    }

    /// The ranges that a page may show names of, in its order.
    pub fn ranges_for(&self, query: &ListQuery) -> Vec<usize> {
        let (after, before) = match query.reverse {
            false => (&query.marker, &query.end_marker),
            true => (&query.end_marker, &query.marker),
        };
        let shows = |index: &usize| {
            let from = self.ranges[*index].from.as_str();
            let to = self.ranges.get(index + 1).map(|next| next.from.as_str());
            let prefix = query.prefix.as_str();
            // It begins after all names with the prefix, or ends before the first.
            let beyond = from > prefix && !from.starts_with(prefix);
            let short =
                to.is_some_and(|to| to <= prefix || after.as_deref().is_some_and(|after| to <= after));
            let late = before.as_deref().is_some_and(|before| from >= before);
            !(beyond || short || late)
        };
        let mut indexes: Vec<usize> = (0..self.ranges.len()).filter(shows).collect();
        if query.reverse {
            indexes.reverse();
        }
        indexes
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Serializing plain data into memory cannot fail.
        postcard::to_extend(self, vec![FORMAT]).unwrap_or_default()
    }

    /// The inverse of [`ShardMap::encode`].
    pub fn decode(bytes: &[u8]) -> Result<ShardMap, NodeError> {
        let corrupt = || NodeError::Corrupt("the map of a listing cannot be read".into());
        let (format, rest) = bytes.split_first().ok_or_else(corrupt)?;
        let map: ShardMap = postcard::from_bytes(rest).map_err(|_| corrupt())?;
        let ordered = map.ranges.is_sorted_by(|a, b| a.from < b.from);
        let whole = map.ranges.first().is_some_and(|first| first.from.is_empty());
        if *format == FORMAT && ordered && whole { Ok(map) } else { Err(corrupt()) }
    }
}

/// A short name between two that follow each other: after the first, and not after the second.
pub fn boundary(last: &str, next: &str) -> String {
    let ends = next.char_indices().map(|(at, character)| at + character.len_utf8());
    let short = ends.map(|end| &next[..end]).find(|prefix| *prefix > last);
    short.unwrap_or(next).to_owned()
}

#[cfg(test)]
mod tests;
