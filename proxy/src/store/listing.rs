//! Pages of listings, merged from a majority of replicas.

use std::collections::BTreeMap;

use kodiak_storage_api::{DirectoryKey, Entry, ListQuery, NodeError, Page, PolicyIndex, Stats};

use super::{Store, StoreError, quorum};
use kodiak_storage_api::Replica;

/// After every name that begins with NUL and before every other.
const HIDDEN_END: &str = "\0\u{10ffff}";

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
        self.list(&self.map().account_replicas(key), key, query).await
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
        let key = self.map().container(&format!("{account}/{container}"));
        self.list(&self.map().container_replicas(key), key, query).await
    }

    async fn list(
        &self,
        replicas: &[Replica],
        key: DirectoryKey,
        query: ListQuery,
    ) -> Result<Page, StoreError> {
        if let [only] = replicas {
            return Ok(only.node.list_rows(only.device, key, query).await?);
        }
        let wanted = query.limit;
        let mut page = Page::default();
        let mut next = ListQuery { tombstones: true, ..query };
        loop {
            next.limit = wanted - page.entries.len();
            let ask = |_, replica: Replica| {
                let query = next.clone();
                async move { replica.node.list_rows(replica.device, key, query).await }
            };
            let answers = match quorum::read(replicas, ask).await {
                Err(NodeError::Unavailable(why)) => {
                    let available = self.available_container(replicas, key).await;
                    available.ok_or(StoreError::Unavailable(why))?;
                    quorum::read_any(replicas, ask).await?
                }
                known => known?,
            };
            let pages = answers.into_iter().map(|(_, page)| page).collect();
            let (merged, more) = merge(pages, next.reverse);
            let last = merged.last().map(|entry| entry.name().to_owned());
            let live = merged.into_iter().filter(|entry| !matches!(entry, Entry::Row(row) if row.deleted));
            let room = next.limit;
            let mut live: Vec<Entry> = live.collect();
            page.truncated = more || live.len() > room;
            live.truncate(room);
            page.entries.append(&mut live);
            if !page.truncated || page.entries.len() == wanted || last.is_none() {
                return Ok(page);
            }
            next.marker = last;
        }
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
