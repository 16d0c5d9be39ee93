//! Pages of a directory's rows: range scans that cost what they show.

use kodiak_storage_api::{DirectoryKey, Entry, ListQuery, NameRange, NodeError, Page, Row};
use rocksdb::{DBRawIterator, ReadOptions};

use crate::directories::decode_row;
use crate::index::{self, DIRECTORY_KEY, Family, Index, decode, directory_key, row_name};

/// The rows of one directory that a query may show, in one column family.
struct Scan<'a> {
    index: &'a Index,
    iterator: DBRawIterator<'a>,
    family: Family,
    reverse: bool,
}

/// The first key after every key that begins with `prefix`: that of a row, so it is never all ones.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    index::after_prefix(prefix).unwrap_or_else(|| vec![0xff; prefix.len() + 1])
}

fn joined(directory: &[u8; DIRECTORY_KEY], name: &str) -> Vec<u8> {
    crate::directories::row_key(directory, name)
}

/// The smallest key greater than `name`'s.
fn just_after(directory: &[u8; DIRECTORY_KEY], name: &str) -> Vec<u8> {
    let mut key = joined(directory, name);
    key.push(0);
    key
}

impl<'a> Scan<'a> {
    fn new(index: &'a Index, family: Family, directory: &[u8; DIRECTORY_KEY], query: &ListQuery) -> Scan<'a> {
        let prefix = joined(directory, &query.prefix);
        let (mut lower, mut upper) = (prefix.clone(), after_prefix(&prefix));
        let (after, before) = if query.reverse {
            (&query.end_marker, &query.marker)
        } else {
            (&query.marker, &query.end_marker)
        };
        let NameRange { from, to } = &query.names;
        if !from.is_empty() {
            lower = lower.max(joined(directory, from));
        }
        if let Some(to) = to {
            upper = upper.min(joined(directory, to));
        }
        if let Some(after) = after {
            lower = lower.max(just_after(directory, after));
        }
        if let Some(before) = before {
            upper = upper.min(joined(directory, before));
        }
        if upper < lower {
            upper.clone_from(&lower);
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(lower);
        options.set_iterate_upper_bound(upper);
        let mut iterator = index.iterate(family, options);
        if query.reverse {
            iterator.seek_to_last()
        } else {
            iterator.seek_to_first()
        }
        Scan { index, iterator, family, reverse: query.reverse }
    }

    /// Name of the row it stands on.
    fn name(&self) -> Result<Option<&str>, NodeError> {
        let Some(key) = self.iterator.key() else {
            return match self.iterator.status() {
                Ok(()) => Ok(None),
                Err(error) => Err(self.index.failed(error)),
            };
        };
        let name = row_name(key).ok_or_else(|| NodeError::Corrupt("row name".into()))?;
        Ok(Some(name))
    }

    fn row(&self, name: String) -> Result<Row, NodeError> {
        let value = self.iterator.value().unwrap_or_default();
        match self.family {
            Family::Tombstones => Ok(Row::tombstone(name, decode(value)?)),
            _ => decode_row(name, value),
        }
    }

    fn step(&mut self) {
        if self.reverse { self.iterator.prev() } else { self.iterator.next() }
    }

    /// Goes past everything under a prefix.
    fn skip(&mut self, directory: &[u8; DIRECTORY_KEY], prefix: &str) {
        let prefix = joined(directory, prefix);
        if self.reverse {
            self.iterator.seek_for_prev(&prefix);
            // A row named exactly as the prefix is rolled up in it too.
            if self.iterator.key() == Some(&prefix[..]) {
                self.iterator.prev();
            }
        } else {
            self.iterator.seek(after_prefix(&prefix));
        }
    }
}

/// The rolled-up prefix that shows a name, if it has the delimiter after the query's prefix.
fn rolled_up<'n>(name: &'n str, query: &ListQuery) -> Option<&'n str> {
    let delimiter = query.delimiter.as_deref().filter(|d| !d.is_empty())?;
    let at = name[query.prefix.len()..].find(delimiter)?;
    Some(&name[..query.prefix.len() + at + delimiter.len()])
}

/// Whether a rolled-up prefix lies strictly after the marker in the order of the listing.
fn shown(prefix: &str, query: &ListQuery) -> bool {
    match (&query.marker, query.reverse) {
        (None, _) => true,
        (Some(marker), false) => prefix > marker.as_str(),
        (Some(marker), true) => prefix < marker.as_str(),
    }
}

/// One page.
pub fn list(index: &Index, key: &DirectoryKey, query: &ListQuery) -> Result<Page, NodeError> {
    let directory = directory_key(key);
    let mut live = Scan::new(index, Family::Rows, &directory, query);
    let mut page = live_page(&mut live, &directory, query)?;
    if query.tombstones {
        let mut dead = Scan::new(index, Family::Tombstones, &directory, query);
        add_tombstones(&mut dead, &mut page, query)?;
    }
    Ok(page)
}

fn live_page(
    scan: &mut Scan<'_>,
    directory: &[u8; DIRECTORY_KEY],
    query: &ListQuery,
) -> Result<Page, NodeError> {
    let mut page = Page::default();
    while let Some(name) = scan.name()? {
        if page.entries.len() >= query.limit {
            page.truncated = true;
            break;
        }
        match rolled_up(name, query) {
            Some(prefix) => {
                let prefix = prefix.to_owned();
                scan.skip(directory, &prefix);
                if shown(&prefix, query) {
                    page.entries.push(Entry::Prefix(prefix));
                }
            }
            None => {
                let name = name.to_owned();
                page.entries.push(Entry::Row(scan.row(name)?));
                scan.step();
            }
        }
    }
    Ok(page)
}

/// Merges in the tombstones of the names that the page covers, keeping the limit.
fn add_tombstones(scan: &mut Scan<'_>, page: &mut Page, query: &ListQuery) -> Result<(), NodeError> {
    let after = |a: &str, b: &str| if query.reverse { a < b } else { a > b };
    let last = page.entries.last().filter(|_| page.truncated).map(|e| e.name().to_owned());
    let mut dead = Vec::new();
    while let Some(name) = scan.name()? {
        if dead.len() > query.limit || last.as_deref().is_some_and(|last| after(name, last)) {
            break;
        }
        let name = name.to_owned();
        dead.push(Entry::Row(scan.row(name)?));
        scan.step();
    }
    if dead.is_empty() {
        return Ok(());
    }
    page.entries.append(&mut dead);
    page.entries.sort_by(|a, b| if query.reverse { b.name().cmp(a.name()) } else { a.name().cmp(b.name()) });
    if page.entries.len() > query.limit {
        page.entries.truncate(query.limit);
        page.truncated = true;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_after_a_prefix_is_past_all_its_names() {
        assert_eq!(after_prefix(b"ab"), b"ac");
        assert_eq!(after_prefix(&[1, 0xff]), [2]);
        assert!(after_prefix(&[0xff]) > vec![0xff]);
    }
}
