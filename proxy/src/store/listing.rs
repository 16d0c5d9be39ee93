//! Pages of listings, merged from a majority of replicas.

use std::collections::BTreeMap;

use kodiak_storage_api::{
    Entry, Home, ListQuery, NodeError, Page, PolicyIndex, Replica, ShardMap, Stats, Timestamp,
};

use super::shards::Part;
use super::{Store, StoreError, quorum};

/// After every name that begins with NUL and before every other.
const HIDDEN_END: &str = "\0\u{10ffff}";

/// Times a page begins again because the listing was split meanwhile.
const ATTEMPTS: usize = 8;

/// Rows of one step of adding up an account.
const TOTALS_PAGE: usize = 10_000;

impl Store {
    /// A page of an account's containers, without the cluster's own.
    pub async fn list_containers(&self, account: &str, mut query: ListQuery) -> Result<Page, StoreError> {
        let bound = if query.reverse { &mut query.end_marker } else { &mut query.marker };
        if bound.as_deref().is_none_or(|bound| bound < HIDDEN_END) {
            *bound = Some(HIDDEN_END.into());
        }
        self.list_all_containers(account, query).await
    }

    /// A page of an account's containers, the cluster's own too, whose names begin with NUL.
    pub async fn list_all_containers(&self, account: &str, query: ListQuery) -> Result<Page, StoreError> {
        let key = self.map().account(account);
        let part = Part { key, replicas: self.map().account_replicas(key), bounds: Timestamp::ZERO };
        Ok(self.list(&[part], query).await?)
    }

    /// The totals of an account's containers by storage policy. Reads the account's whole listing.
    pub async fn policy_totals(&self, account: &str) -> Result<BTreeMap<PolicyIndex, Stats>, StoreError> {
        let mut totals: BTreeMap<PolicyIndex, Stats> = BTreeMap::new();
        let mut query = ListQuery { limit: TOTALS_PAGE, ..ListQuery::default() };
        loop {
            let page = self.list_all_containers(account, query.clone()).await?;
            for entry in &page.entries {
                let Entry::Row(row) = entry else { continue };
                let policy = row.extra("policy").and_then(|index| index.parse().ok()).unwrap_or(0);
                let stats = totals.entry(PolicyIndex(policy)).or_default();
                stats.rows += 1;
                stats.objects += row.objects;
                stats.bytes += row.bytes;
            }
            query.marker = page.entries.last().map(|entry| entry.name().to_owned());
            if !page.truncated || query.marker.is_none() {
                return Ok(totals);
            }
        }
    }

    /// A page of a container's objects: every object whose write was acknowledged before.
    pub async fn list_objects(
        &self,
        account: &str,
        container: &str,
        query: ListQuery,
    ) -> Result<Page, StoreError> {
        let path = format!("{account}/{container}");
        let mut map = self.fresh_map(&path).await?;
        for _ in 0..ATTEMPTS {
            let listed = match &map {
                Some(map) => self.list_split(&path, map, query.clone()).await,
                None => {
                    let whole = self.part(&path, Home::Container, Timestamp::ZERO);
                    self.list(&[whole], query.clone()).await
                }
            };
            match listed {
                // Somebody has split it, or has deleted it and made another.
                Err(NodeError::Moved) => {
                    map = Some(self.learn_map(&path).await?).filter(|map| map.version > Timestamp::ZERO);
                }
                listed => return Ok(listed?),
            }
        }
        Err(StoreError::Overloaded)
    }

    /// A page over the ranges of a listing that is split.
    async fn list_split(&self, path: &str, map: &ShardMap, query: ListQuery) -> Result<Page, NodeError> {
        let mut page = Page::default();
        let mut next = query.clone();
        for index in map.ranges_for(&query) {
            let room = query.limit - page.entries.len();
            // Where the page is full, one more entry tells whether more follow.
            next.limit = room.max(1);
            next.names = map.names(index);
            let range = &map.ranges[index];
            let mut parts = Vec::with_capacity(2);
            if let Some(source) = range.source.and_then(|source| map.position(source)) {
                // First: what is not there any more is found where it went.
                parts.push(self.part(path, map.ranges[source].home, map.ranges[source].since));
            }
            parts.push(self.part(path, range.home, range.since));
            let mut found = self.list(&parts, next.clone()).await?;
            if room == 0 {
                page.truncated = !found.entries.is_empty();
            } else {
                // A prefix that is shown already is not shown again by the next range.
                next.marker = found.entries.last().map(|entry| entry.name().to_owned()).or(next.marker);
                page.truncated = found.truncated;
                page.entries.append(&mut found.entries);
            }
            if page.truncated {
                break;
            }
        }
        Ok(page)
    }

    /// A page of the rows that are in the parts, each of which is asked by its own bounds.
    async fn list(&self, parts: &[Part], query: ListQuery) -> Result<Page, NodeError> {
        if let [Part { key, replicas, bounds }] = parts
            && let [only] = replicas.as_slice()
        {
            let query = ListQuery { bounds: *bounds, ..query };
            return only.node.list_rows(only.device, *key, query).await;
        }
        if parts.len() > 1 && query.delimiter.as_deref().is_some_and(|delimiter| !delimiter.is_empty()) {
            return self.list_rolled(parts, query).await;
        }
        let wanted = query.limit;
        let mut page = Page::default();
        let mut next = ListQuery { tombstones: true, ..query };
        loop {
            next.limit = wanted - page.entries.len();
            let mut pages = Vec::new();
            for Part { key, replicas, bounds } in parts {
                let ask = |_, replica: Replica| {
                    let query = ListQuery { bounds: *bounds, ..next.clone() };
                    async move { replica.node.list_rows(replica.device, *key, query).await }
                };
                let answers = match quorum::read(replicas, ask).await {
                    Err(NodeError::Unavailable(why)) => {
                        let available = self.available_container(replicas, *key).await;
                        available.ok_or(NodeError::Unavailable(why))?;
                        quorum::read_any(replicas, ask).await?
                    }
                    known => known?,
                };
                pages.extend(answers.into_iter().map(|(_, page)| page));
            }
            let (merged, more) = merge(pages, next.reverse);
            let ended = merged.is_empty();
            if let Some(last) = merged.last() {
                go_on_after(&mut next, last);
            }
            // A page that ended among the tombstones under a prefix shows that prefix once more.
            let known =
                |entry: &Entry| matches!(entry, Entry::Prefix(_)) && page.entries.last() == Some(entry);
            let dead = |entry: &Entry| matches!(entry, Entry::Row(row) if row.deleted);
            let room = next.limit;
            let mut live: Vec<Entry> =
                merged.into_iter().filter(|entry| !dead(entry) && !known(entry)).collect();
            page.truncated = more || live.len() > room;
            live.truncate(room);
            page.entries.append(&mut live);
            if !page.truncated || page.entries.len() == wanted || ended {
                return Ok(page);
            }
        }
    }

    /// Rolls up prefixes here: where rows are on their way from one directory to another, one of them may still
    /// have rows that the other knows to be deleted, so that neither can tell what is under a prefix.
    async fn list_rolled(&self, parts: &[Part], query: ListQuery) -> Result<Page, NodeError> {
        let delimiter = query.delimiter.clone().unwrap_or_default();
        let mut rows = ListQuery { delimiter: None, limit: query.limit + 1, ..query.clone() };
        let mut page = Page::default();
        loop {
            let found = Box::pin(self.list(parts, rows.clone())).await?;
            let mut jumped = false;
            for entry in found.entries {
                let name = entry.name();
                rows.marker = Some(name.to_owned());
                let rolled = name[query.prefix.len()..]
                    .find(&delimiter)
                    .map(|at| name[..query.prefix.len() + at + delimiter.len()].to_owned());
                let Some(prefix) = rolled else {
                    page.entries.push(entry);
                    continue;
                };
                let known = page.entries.last().is_some_and(|last| last.name() == prefix);
                if !known && passes(&query, &prefix) {
                    page.entries.push(Entry::Prefix(prefix.clone()));
                }
                // On to what comes after it.
                let beyond = if query.reverse { prefix } else { format!("{prefix}\u{10ffff}") };
                if query.reverse || rows.marker.as_ref().is_none_or(|name| *name < beyond) {
                    rows.marker = Some(beyond);
                }
                jumped = true;
                break;
            }
            if page.entries.len() > query.limit || !jumped && !found.truncated {
                page.truncated = page.entries.len() > query.limit;
                page.entries.truncate(query.limit);
                return Ok(page);
            }
        }
    }
}

/// Lets a query go on after an entry. Not by its marker after a row, which may be a tombstone: a marker would hide
/// the prefix that the names after it are rolled up to.
fn go_on_after(query: &mut ListQuery, last: &Entry) {
    match last {
        Entry::Prefix(prefix) => query.marker = Some(prefix.clone()),
        Entry::Row(row) if query.reverse => query.names.to = Some(row.name.clone()),
        Entry::Row(row) => query.names.from = format!("{}\0", row.name),
    }
}

/// Whether a rolled-up prefix comes after the marker.
fn passes(query: &ListQuery, prefix: &str) -> bool {
    match &query.marker {
        None => true,
        Some(marker) if query.reverse => prefix < marker.as_str(),
        Some(marker) => prefix > marker.as_str(),
    }
}

/// Merges replicas' pages: the newer row of a name wins. Names after the end of a page that was cut
/// are left out, since its replica may know others before them. Whether more follow.
fn merge(pages: Vec<Page>, reverse: bool) -> (Vec<Entry>, bool) {
    let more = pages.iter().any(|page| page.truncated);
    let ends: Vec<String> = pages
        .iter()
        .filter(|page| page.truncated)
        .filter_map(|page| page.entries.last().map(|entry| entry.name().to_owned()))
        .collect();
    let end = if reverse { ends.into_iter().max() } else { ends.into_iter().min() };
    let mut merged: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in pages.into_iter().flat_map(|page| page.entries) {
        let name = entry.name();
        let beyond = end.as_deref().is_some_and(|end| if reverse { name < end } else { name > end });
        if beyond {
            continue;
        }
        match (merged.get(name), &entry) {
            (Some(Entry::Row(held)), Entry::Row(row)) if held.timestamp >= row.timestamp => {}
            (Some(Entry::Prefix(_)), _) => {}
            _ => {
                merged.insert(name.to_owned(), entry);
            }
        }
    }
    let ordered = merged.into_values();
    (if reverse { ordered.rev().collect() } else { ordered.collect() }, more)
}
