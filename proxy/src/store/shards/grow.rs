//! Splitting: a directory's upper half goes to a new shard, while everybody reads and writes.
//!
//! - The shard is made.
//! - The map says that it takes the upper half from now on.
//! - Its bounds keep the old directory from taking rows of that half; only then does anybody write to the shard.
//! - The old rows are copied, each to a majority of the shard's replicas, and then dropped where they were.
//! - The map says that they have come. Until then readers ask both, the old directory first.
//!
//! Each step can be repeated by anybody.

use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::{
    Digest, DirectoryKey, Entry, Home, Item, ItemKey, ListQuery, Mode, NameRange, NodeError, Replica, Row,
    RowDurability, ShardError, ShardId, ShardMap, Timestamp, boundary,
};

use super::{ATTEMPTS, Newest, Part, shards_account};
use crate::store::{Store, StoreError, quorum};

/// Rows that are looked at to find the middle, with one question.
const LOOK: usize = 10_000;
/// Rows that are copied at once.
const BATCH: usize = 500;
/// After each batch clients have the devices for so long.
const PAUSE: Duration = Duration::from_millis(5);
/// Times a replica's rows are gone through. Other replicas may give it rows meanwhile.
const PASSES: usize = 4;

impl Store {
    /// Splits a part of a container's listing if it has more than `rows` rows, or goes on with what was begun.
    /// Whether there is a new shard.
    pub async fn split_listing(&self, path: &str, home: Home, rows: u64) -> Result<bool, StoreError> {
        for _ in 0..ATTEMPTS {
            let Newest { map, stored, info } = self.newest_map(path).await?;
            self.install(path, &map).await?;
            // What an `available` policy acknowledges need not be at a majority.
            let strict = self.map().mode(info.directory.policy)? == Mode::Strict;
            let Some(index) = map.position(home).filter(|_| strict && !map.closing) else {
                return Ok(false);
            };
            let part = self.part(path, home, map.bounds(index).version);
            let Some(at) = self.middle(&part, &map.names(index), rows).await? else { return Ok(false) };
            let shard = ShardId(self.clock.now());
            let next = match map.split(home, &at, shard, self.clock.now()) {
                Ok(next) => next,
                Err(ShardError::Busy) => return Ok(false),
                Err(full @ ShardError::Full) => {
                    tracing::warn!(path, %full, "a listing is not split any more");
                    return Ok(false);
                }
            };
            let Some(account) = shards_account(path) else { return Ok(false) };
            self.create_container(&account, &shard.to_string(), info.directory.policy, Vec::new()).await?;
            if self.swap_map(path, stored, &next).await? {
                tracing::info!(path, %shard, ranges = next.ranges.len(), "a listing has grown a shard");
                metrics::counter!("kodiak_listing_splits_total").increment(1);
                self.learn_map(path).await?;
                return Ok(true);
            }
            self.remove_container(&account, &shard.to_string()).await?;
        }
        Err(StoreError::Overloaded)
    }

    /// Brings the rows that are on their way to where they belong. Whether all have come.
    pub async fn finish_moves(&self, path: &str) -> Result<bool, StoreError> {
        for _ in 0..ATTEMPTS {
            let map = self.learn_map(path).await?;
            let Some((index, source)) = map.moving().next() else { return Ok(true) };
            if map.closing || !self.drain(path, &map, index, source).await? {
                return Ok(false);
            }
            let next = map.arrived(map.ranges[index].home, self.clock.now());
            self.swap_map(path, map.version, &next).await?;
        }
        Ok(false)
    }

    /// A name with about as many rows before it as after it, of a directory with more than `rows`.
    async fn middle(&self, part: &Part, names: &NameRange, rows: u64) -> Result<Option<String>, StoreError> {
        let key = part.key;
        let ask = |_, replica: Replica| async move { replica.node.read_directory(replica.device, key).await };
        let infos = quorum::read(&part.replicas, ask).await?;
        let held = infos.into_iter().filter_map(|(at, info)| Some((info?.stats.rows, at))).max();
        let Some((held, at)) = held.filter(|(held, _)| *held > rows.max(1)) else { return Ok(None) };
        let replica = &part.replicas[at];
        let mut query =
            ListQuery { limit: LOOK, names: names.clone(), bounds: part.bounds, ..ListQuery::default() };
        let mut left = held.div_ceil(2) as usize;
        let mut last: Option<String> = None;
        loop {
            // One more than is left, for the name after the middle.
            query.limit = LOOK.min(left + 1);
            let page = replica.node.list_rows(replica.device, key, query.clone()).await?;
            let seen: Vec<&str> = page.entries.iter().map(Entry::name).collect();
            if let Some(next) = seen.get(left) {
                let before = if left == 0 { last.as_deref() } else { seen.get(left - 1).copied() };
                let at = before.map(|before| boundary(before, next));
                return Ok(at.filter(|at| names.contains(at) && *at != names.from));
            }
            // There are fewer within the bounds than were counted.
            let Some(end) = seen.last().map(|name| (*name).to_owned()).filter(|_| page.truncated) else {
                return Ok(None);
            };
            left -= seen.len();
            query.marker = Some(end.clone());
            last = Some(end);
        }
    }

    /// Empties a range's source. Whether a majority of its replicas, which take no more rows of the range, has
    /// none left: then every row that was acknowledged there is at a majority of the range's own directory.
    async fn drain(
        &self,
        path: &str,
        map: &ShardMap,
        index: usize,
        source: Home,
    ) -> Result<bool, StoreError> {
        let Some(at) = map.position(source) else { return Ok(false) };
        let from = self.part(path, source, map.bounds(at).version);
        let to = self.part(path, map.ranges[index].home, map.bounds(index).version);
        let names = map.names(index);
        let mut fenced = Vec::new();
        for replica in &from.replicas {
            match replica.node.read_directory(replica.device, from.key).await {
                Ok(Some(info)) if info.directory.bounds().is_some_and(|held| held.version >= from.bounds) => {
                    fenced.push(replica.clone());
                }
                _ => {}
            }
        }
        let mut empty = 0;
        for replica in &fenced {
            match self.empty(replica, &from, &to, &names, &fenced).await {
                Ok(true) => empty += 1,
                Ok(false) => {}
                Err(error) => tracing::debug!(path, %error, "rows stay where they are for now"),
            }
        }
        Ok(empty >= quorum::majority(from.replicas.len()))
    }

    /// Brings a replica's rows of a range to where they belong, and drops them at all that are `fenced`: they have
    /// the bounds that keep such rows from coming back. Whether it has none left.
    async fn empty(
        &self,
        replica: &Replica,
        from: &Part,
        to: &Part,
        names: &NameRange,
        fenced: &[Replica],
    ) -> Result<bool, NodeError> {
        for _ in 0..PASSES {
            let mut query = ListQuery {
                limit: BATCH,
                tombstones: true,
                names: names.clone(),
                bounds: from.bounds,
                ..ListQuery::default()
            };
            let mut any = false;
            loop {
                let page = replica.node.list_rows(replica.device, from.key, query.clone()).await?;
                let Some(last) = page.entries.last().map(|entry| entry.name().to_owned()) else { break };
                any = true;
                query.marker = Some(last);
                let rows: Vec<Row> = page.entries.into_iter().filter_map(row).collect();
                self.bring(&rows, to).await?;
                forget(fenced, from.key, &rows).await;
                tokio::time::sleep(PAUSE).await;
                if !page.truncated {
                    break;
                }
            }
            if !any {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Rows are at a majority of a directory's replicas when this answers.
    async fn bring(&self, rows: &[Row], to: &Part) -> Result<(), NodeError> {
        let rows: Arc<[Row]> = rows.into();
        let key = to.key;
        let write = |_, replica: Replica| {
            let rows = rows.to_vec();
            async move { replica.node.write_rows(replica.device, key, rows, RowDurability::Synced).await }
        };
        quorum::write(to.replicas.clone(), write).await.map(drop)
    }
}

/// Drops rows that are elsewhere, where they are still these.
pub(super) async fn forget(replicas: &[Replica], key: DirectoryKey, rows: &[Row]) {
    let item = |row: &Row| Item {
        key: ItemKey::Row(key, row.name.clone()),
        timestamp: row.timestamp,
        deleted: row.deleted,
        digest: Digest::of_row(&key.hash, &row.name, row.timestamp, row.deleted),
    };
    let items: Vec<Item> = rows.iter().map(item).collect();
    for replica in replicas {
        if let Err(error) = replica.node.forget(replica.device, items.clone()).await {
            tracing::debug!(%error, "rows that are elsewhere stay for now");
        }
    }
}

pub(super) fn row(entry: Entry) -> Option<Row> {
    match entry {
        Entry::Row(row) => Some(row),
        Entry::Prefix(_) => None,
    }
}

/// When a map was made.
pub(super) fn age(version: Timestamp, now_micros: u64) -> Duration {
    Duration::from_micros(now_micros.saturating_sub(version.micros()))
}
