//! Listings of all versions: a container's own rows and those of its versions, in one order.

use std::collections::{HashMap, HashSet};
use std::iter::Peekable;

use kodiak_storage_api::{Entry, ListQuery, Row, VersionId};

use super::{Versioning, is_marker_row, is_null_row, parse_version, versions_container, versions_prefix};
use crate::store::{Store, StoreError};

/// After every version of a name, whose ids are digits and dots.
const AFTER_IDS: &str = ":";

/// Where in the versions of one name a page begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VersionMarker {
    /// After all of them.
    Name,
    /// After the object that has no id.
    Null,
    /// After this version.
    Id(VersionId),
}

/// A question for one page of versions, in the order of names, each name's newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VersionQuery {
    /// Only names that begin so.
    pub prefix: String,
    /// As in [`ListQuery`].
    pub delimiter: Option<String>,
    /// Only what comes after it.
    pub marker: Option<(String, VersionMarker)>,
    /// Only names before it (after it, in reverse).
    pub end_marker: Option<String>,
    /// At most so many entries.
    pub limit: usize,
    /// From the last to the first.
    pub reverse: bool,
}

/// A version as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionRow {
    /// Its row, under the object's name.
    pub row: Row,
    /// Its id; none for an object without one.
    pub id: Option<VersionId>,
    /// It had no id when it was current.
    pub null: bool,
    /// It is the current version, or the marker that hides the object.
    pub latest: bool,
    /// It says that the object was deleted.
    pub marker: bool,
}

/// One entry of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VersionEntry {
    /// A version.
    Version(VersionRow),
    /// A rolled-up prefix.
    Prefix(String),
}

/// A page of versions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VersionPage {
    /// In order.
    pub entries: Vec<VersionEntry>,
    /// Whether more follow.
    pub truncated: bool,
}

impl VersionEntry {
    /// Its name or prefix.
    pub fn name(&self) -> &str {
        match self {
            VersionEntry::Version(version) => &version.row.name,
            VersionEntry::Prefix(prefix) => prefix,
        }
    }
}

impl Store {
    /// A page of a container's versions.
    pub async fn list_versions(
        &self,
        (account, container): (&str, &str),
        versioning: Versioning,
        query: &VersionQuery,
    ) -> Result<VersionPage, StoreError> {
        if query.limit == 0 {
            return Ok(VersionPage::default());
        }
        // Each of the two lists fills a page by itself, so that the two merged do up to its end. One more
        // tells whether there is more, and whether a marker at the end is a name's newest.
        let objects = self.list_objects(account, container, object_query(query)).await?.entries;
        let mut versions = Vec::new();
        let mut current = HashMap::new();
        if versioning != Versioning::Never {
            let container = versions_container(container);
            versions = match &query.delimiter {
                Some(delimiter) if delimiter.contains(in_ids) => {
                    self.roll_up_versions((account, &container), query, delimiter).await?
                }
                _ => self.list_objects(account, &container, version_query(query)).await?.entries,
            };
        }
        if let Some((name, VersionMarker::Id(_))) = query.marker.as_ref().filter(|_| !query.reverse) {
            // The page goes on within a name, whose own row comes before.
            let only = ListQuery { prefix: name.clone(), limit: 1, ..ListQuery::default() };
            let first = self.list_objects(account, container, only).await?.entries;
            current.extend(first.iter().filter(|entry| entry.name() == name).filter_map(named));
        }
        current.extend(objects.iter().filter_map(named));
        let mut entries = merge(objects, versions, query.reverse);
        mark_latest(&mut entries, &current, query);
        let truncated = entries.len() > query.limit;
        entries.truncate(query.limit);
        Ok(VersionPage { entries, truncated })
    }
}

impl Store {
    /// The versions of a page, rolled up here: the delimiter is found in ids too. Forward only.
    async fn roll_up_versions(
        &self,
        (account, container): (&str, &str),
        query: &VersionQuery,
        delimiter: &str,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut rows = ListQuery { delimiter: None, ..version_query(query) };
        let mut entries = Vec::new();
        loop {
            let page = self.list_objects(account, container, rows.clone()).await?;
            rows.marker = page.entries.last().map(|entry| entry.name().to_owned());
            let mut skipped = false;
            for entry in page.entries {
                let Some((name, _)) = parse_version(entry.name()) else { continue };
                let after = name.get(query.prefix.len()..).and_then(|rest| rest.find(delimiter));
                let Some(after) = after else {
                    entries.push(entry);
                    continue;
                };
                let prefix = &name[..query.prefix.len() + after + delimiter.len()];
                if query.marker.as_ref().is_none_or(|(marker, _)| prefix > marker.as_str()) {
                    entries.push(Entry::Prefix(format!("\0{prefix}")));
                }
                rows.marker = Some(format!("\0{prefix}\u{10ffff}"));
                skipped = true;
                break;
            }
            if (!page.truncated && !skipped) || entries.len() > query.limit {
                return Ok(entries);
            }
        }
    }
}

/// Whether an id may hold this character.
fn in_ids(character: char) -> bool {
    character.is_ascii_digit() || character == '.'
}

/// A name and the version that it links to.
fn named(entry: &Entry) -> Option<(String, Option<VersionId>)> {
    match entry {
        Entry::Row(row) => Some((row.name.clone(), row.version())),
        Entry::Prefix(_) => None,
    }
}

fn object_query(query: &VersionQuery) -> ListQuery {
    let marker = query.marker.as_ref().map(|(name, at)| match at {
        // The object without an id comes last in reverse; NUL ends no name.
        VersionMarker::Id(_) if query.reverse => format!("{name}\0"),
        _ => name.clone(),
    });
    ListQuery {
        prefix: query.prefix.clone(),
        delimiter: query.delimiter.clone(),
        marker,
        end_marker: query.end_marker.clone(),
        limit: query.limit + 1,
        reverse: query.reverse,
        ..ListQuery::default()
    }
}

fn version_query(query: &VersionQuery) -> ListQuery {
    let marker = query.marker.as_ref().map(|(name, at)| {
        let prefix = versions_prefix(name);
        match at {
            VersionMarker::Name if !query.reverse => format!("{prefix}{AFTER_IDS}"),
            VersionMarker::Name | VersionMarker::Null => prefix,
            VersionMarker::Id(id) => format!("{prefix}{}", id.inverted()),
        }
    });
    let end_marker = query.end_marker.as_ref().map(|name| {
        let prefix = versions_prefix(name);
        if query.reverse { format!("{prefix}{AFTER_IDS}") } else { prefix }
    });
    ListQuery {
        prefix: format!("\0{}", query.prefix),
        delimiter: query.delimiter.clone(),
        marker,
        end_marker,
        limit: query.limit + 1,
        reverse: query.reverse,
        ..ListQuery::default()
    }
}

fn merge(objects: Vec<Entry>, versions: Vec<Entry>, reverse: bool) -> Vec<VersionEntry> {
    let mut objects = objects.into_iter().filter_map(own_entry).peekable();
    let mut versions = versions.into_iter().filter_map(version_entry).peekable();
    let mut merged: Vec<VersionEntry> = Vec::new();
    loop {
        let next = match (objects.peek(), versions.peek()) {
            (None, None) => return merged,
            (Some(_), None) => objects.next(),
            (None, Some(_)) => versions.next(),
            (Some(own), Some(version)) => match own.name().cmp(version.name()) {
                std::cmp::Ordering::Equal => next_of_name(&mut objects, &mut versions, reverse),
                order if order.is_lt() != reverse => objects.next(),
                _ => versions.next(),
            },
        };
        merged.extend(next);
    }
}

/// Of two entries of one name: the object without an id is the newest; what shows the same is shown once.
fn next_of_name(
    objects: &mut Peekable<impl Iterator<Item = VersionEntry>>,
    versions: &mut Peekable<impl Iterator<Item = VersionEntry>>,
    reverse: bool,
) -> Option<VersionEntry> {
    match (objects.peek(), versions.peek()) {
        (Some(VersionEntry::Version(own)), Some(VersionEntry::Version(version))) => {
            // A write that came no further than this has kept what is still current.
            if version.id.is_some_and(|id| version.null && id.0 == own.row.timestamp) {
                versions.next();
                return None;
            }
            if reverse { versions.next() } else { objects.next() }
        }
        (Some(VersionEntry::Prefix(_)), _) => {
            versions.next();
            objects.next()
        }
        _ => versions.next(),
    }
}

/// An entry of the container itself; links are no versions.
fn own_entry(entry: Entry) -> Option<VersionEntry> {
    match entry {
        Entry::Prefix(prefix) => Some(VersionEntry::Prefix(prefix)),
        Entry::Row(row) if row.version().is_some() => None,
        Entry::Row(row) => Some(VersionEntry::Version(VersionRow {
            row,
            id: None,
            null: true,
            latest: false,
            marker: false,
        })),
    }
}

fn version_entry(entry: Entry) -> Option<VersionEntry> {
    let mut row = match entry {
        Entry::Prefix(prefix) => {
            return Some(VersionEntry::Prefix(prefix.strip_prefix('\0').unwrap_or(&prefix).to_owned()));
        }
        Entry::Row(row) => row,
    };
    let (name, id) = parse_version(&row.name).map(|(name, id)| (name.to_owned(), id))?;
    row.name = name;
    let (null, marker) = (is_null_row(&row), is_marker_row(&row));
    Some(VersionEntry::Version(VersionRow { row, id: Some(id), null, latest: false, marker }))
}

/// Says of each version whether it is the latest. `current`: what the container has at the names.
fn mark_latest(
    entries: &mut [VersionEntry],
    current: &HashMap<String, Option<VersionId>>,
    query: &VersionQuery,
) {
    // Names of which a newer version was listed before.
    let mut seen: HashSet<String> = HashSet::new();
    if let Some((name, VersionMarker::Id(_))) = query.marker.as_ref().filter(|_| !query.reverse) {
        seen.insert(name.clone());
    }
    let mut mark = |entry: &mut VersionEntry| {
        let VersionEntry::Version(version) = entry else { return };
        let first = seen.insert(version.row.name.clone());
        version.latest = match current.get(&version.row.name) {
            Some(held) => *held == version.id,
            None => version.marker && first,
        };
    };
    if query.reverse {
        entries.iter_mut().rev().for_each(&mut mark)
    } else {
        entries.iter_mut().for_each(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::super::NULL;
    use super::*;
    use kodiak_storage_api::Timestamp;

    fn id(at: u64) -> VersionId {
        VersionId(Timestamp::from_micros(at, 0))
    }

    fn row(name: &str, at: u64, content_type: &str) -> Entry {
        let mut row = Row::tombstone(name.into(), Timestamp::from_micros(at, 0));
        row.deleted = false;
        row.content_type = content_type.into();
        Entry::Row(row)
    }

    fn version(name: &str, at: u64, content_type: &str) -> Entry {
        row(&format!("{}{}", versions_prefix(name), id(at).inverted()), at, content_type)
    }

    fn listed(objects: Vec<Entry>, versions: Vec<Entry>, query: &VersionQuery) -> Vec<(String, u64, bool)> {
        let current = objects.iter().filter_map(named).collect();
        let mut entries = merge(objects, versions, query.reverse);
        mark_latest(&mut entries, &current, query);
        let shown = |entry| match entry {
            VersionEntry::Version(v) => (v.row.name, v.id.map_or(0, |id| id.0.micros()), v.latest),
            VersionEntry::Prefix(prefix) => (prefix, 0, false),
        };
        entries.into_iter().map(shown).collect()
    }

    #[test]
    fn a_names_versions_stand_together_with_the_newest_first() {
        let objects = || vec![row("b", 9, "x"), row("d", 1, "x")];
        let versions = || {
            vec![
                version("a", 5, super::super::DELETE_MARKER),
                version("a", 4, "x"),
                version("b", 3, "x"),
                version("c", 2, "x"),
            ]
        };
        let expected = vec![
            ("a".into(), 5, true),
            ("a".into(), 4, false),
            ("b".into(), 0, true),
            ("b".into(), 3, false),
            ("c".into(), 2, false),
            ("d".into(), 0, true),
        ];
        assert_eq!(listed(objects(), versions(), &VersionQuery::default()), expected);
        let backwards = VersionQuery { reverse: true, ..VersionQuery::default() };
        let turned = |entries: Vec<Entry>| entries.into_iter().rev().collect();
        let mut listed = listed(turned(objects()), turned(versions()), &backwards);
        listed.reverse();
        assert_eq!(listed, expected);
    }

    #[test]
    fn an_object_that_a_broken_write_has_kept_already_is_shown_once() {
        let mut kept = version("a", 4, "x");
        if let Entry::Row(row) = &mut kept {
            row.extra.push((NULL.into(), "true".into()));
        }
        let shown =
            listed(vec![row("a", 4, "x")], vec![kept, version("a", 2, "x")], &VersionQuery::default());
        assert_eq!(shown, [("a".into(), 0, true), ("a".into(), 2, false)]);
    }
}
