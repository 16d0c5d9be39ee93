//! Looking after listings that are split: who finds that a directory has outgrown its size, and what is left
//! behind by machines that were away or died.

use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::{
    DirectoryChange, DirectoryInfo, Health, Home, ListQuery, NameRange, ObjectPath, Replica, Row, ShardId,
    ShardMap, Timestamp,
};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::grow::{age, forget, row};
use super::{ACCOUNT, MAPS, container_of, is_void, may_split, without_bounds};
use crate::store::register::Register;
use crate::store::{Store, StoreError};

/// How often each machine looks at the listings of which it has a part.
const EVERY: Duration = Duration::from_secs(10);
/// Maps of one page.
const PAGE: usize = 1000;
/// Listings that one machine splits at once.
const AT_ONCE: usize = 2;
/// A deletion that is older has come to its end, or its machine has.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rows that are looked at in one go.
const BATCH: usize = 500;

/// The replicas that are looked after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// Those of this machine.
    Own,
    /// All.
    All,
}

impl Whose {
    fn includes(self, replica: &Replica) -> bool {
        self == Whose::All || replica.node.health() == Health::Local
    }
}

impl Store {
    /// Splits, in the background, a directory of whose totals a replica tells, if it has too many rows.
    pub(in crate::store) fn look_at_size(self: &Arc<Self>, info: &DirectoryInfo) {
        if info.stats.rows <= self.shards.rows.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        let Some((path, home)) = part_of(&info.directory.name) else { return };
        let mut busy = self.shards.busy.lock();
        if busy.len() >= AT_ONCE || !busy.insert(path.clone()) {
            return;
        }
        let store = self.clone();
        tokio::spawn(async move {
            if let Err(error) = store.grow(&path, home).await {
                tracing::warn!(path, %error, "a listing is not split yet");
            }
            store.shards.busy.lock().remove(&path);
        });
    }

    async fn grow(&self, path: &str, home: Home) -> Result<(), StoreError> {
        let rows = self.shards.rows.load(std::sync::atomic::Ordering::Relaxed);
        let all_there = self.finish_moves(path).await?;
        if all_there && self.split_listing(path, home, rows).await? {
            self.finish_moves(path).await?;
        }
        self.tell_totals(path).await
    }

    /// In how many directories a listing is.
    pub async fn listing_parts(&self, path: &str) -> Result<usize, StoreError> {
        Ok(self.learn_map(path).await?.ranges.len())
    }

    /// Splits each part of a listing that has more than `rows` rows.
    pub async fn split_parts(&self, path: &str, rows: u64) -> Result<(), StoreError> {
        let homes: Vec<Home> = self.learn_map(path).await?.ranges.iter().map(|range| range.home).collect();
        for home in homes {
            self.split_listing(path, home, rows).await?;
        }
        Ok(())
    }

    /// Looks after the listings of which this machine has a part, until `stop` changes.
    pub(in crate::store) async fn keep_listings(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = stop.changed() => return,
                _ = ticks.tick() => {}
            }
            match self.keep_all().await {
                Ok(()) | Err(StoreError::NoContainer) => {}
                Err(error) => tracing::debug!(%error, "listings that are split will be looked at again"),
            }
        }
    }

    async fn keep_all(&self) -> Result<(), StoreError> {
        let mut query = ListQuery { limit: PAGE, ..ListQuery::default() };
        loop {
            let page = self.list_objects(ACCOUNT, MAPS, query.clone()).await?;
            query.marker = page.entries.last().map(|entry| entry.name().to_owned());
            let paths: Vec<String> = page.entries.iter().map(|entry| entry.name().to_owned()).collect();
            for path in paths {
                if let Err(error) = self.keep_listing(&path, Whose::Own).await {
                    tracing::debug!(path, %error, "a listing that is split will be looked at again");
                }
            }
            if !page.truncated {
                return Ok(());
            }
        }
    }

    /// Does for one listing what somebody has begun and not finished. Of rows that are where they do not belong,
    /// those are brought home that these replicas have.
    pub async fn keep_listing(&self, path: &str, whose: Whose) -> Result<(), StoreError> {
        let key = self.map().container(path);
        let replicas = self.map().container_replicas(key);
        let (Some(map), Some(info)) = (self.read_map(path).await?, self.undisputed(&replicas, key).await?)
        else {
            return Ok(());
        };
        if is_void(&info, &map) {
            return self.clear_shards(path, &map).await;
        }
        if !info.directory.exists() {
            return Ok(());
        }
        if map.closing {
            let over = age(map.version, self.clock.wall_micros()) > PATIENCE;
            return if over { self.reopen(path, &info).await } else { Ok(()) };
        }
        let moving = map.moving().next().is_some() && replicas.iter().any(|replica| whose.includes(replica));
        if moving {
            self.finish_moves(path).await?;
        }
        let map = self.learn_map(path).await?;
        for index in 0..map.ranges.len() {
            if !map.moving().any(|(_, source)| source == map.ranges[index].home) {
                self.bring_home(path, &map, index, (&info, whose)).await?;
            }
        }
        if moving { self.tell_totals(path).await } else { Ok(()) }
    }

    /// After a deletion that was given up, or whose machine died.
    pub(super) async fn reopen(&self, path: &str, info: &DirectoryInfo) -> Result<(), StoreError> {
        let newest = self.newest_map(path).await?;
        if newest.map.closing {
            let open = newest.map.closed(false, self.clock.now());
            self.swap_map(path, newest.stored, &open).await?;
        }
        self.learn_map(path).await?;
        // Where a replica has deleted it all the same.
        let key = self.map().container(path);
        let again = DirectoryChange::Create { policy: info.directory.policy, headers: without_bounds(info) };
        self.clock.observe(info.directory.deleted);
        self.change(self.map().container_replicas(key), key, path, again).await.map(drop)
    }

    /// Brings home the rows beyond a directory's bounds that are left at replicas which were away when the others
    /// gave them up. What they say may be long out of date, so the objects themselves are asked.
    async fn bring_home(
        &self,
        path: &str,
        map: &ShardMap,
        index: usize,
        (info, whose): (&DirectoryInfo, Whose),
    ) -> Result<(), StoreError> {
        let Some(beyond) = map.names(index).to else { return Ok(()) };
        let part = self.part(path, map.ranges[index].home, map.bounds(index).version);
        let names = NameRange { from: beyond, to: None };
        for replica in part.replicas.clone() {
            if !whose.includes(&replica) {
                continue;
            }
            let mut query = ListQuery {
                limit: BATCH,
                tombstones: true,
                names: names.clone(),
                bounds: part.bounds,
                ..ListQuery::default()
            };
            loop {
                let Ok(page) = replica.node.list_rows(replica.device, part.key, query.clone()).await else {
                    break;
                };
                query.marker = page.entries.last().map(|entry| entry.name().to_owned());
                let (rows, truncated): (Vec<Row>, bool) =
                    (page.entries.into_iter().filter_map(row).collect(), page.truncated);
                for left in &rows {
                    self.show_again(path, &left.name, info).await?;
                }
                if !rows.is_empty() && self.is_fenced(&replica, &part).await {
                    forget(std::slice::from_ref(&replica), part.key, &rows).await;
                }
                if !truncated {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Writes the row of an object's newest version to where it belongs.
    async fn show_again(&self, path: &str, object: &str, info: &DirectoryInfo) -> Result<(), StoreError> {
        let Some((account, container)) = path.split_once('/') else { return Ok(()) };
        let path = ObjectPath::new(account, container, object);
        Register::of(self, &path, info.directory.policy)?.show().await
    }

    async fn is_fenced(&self, replica: &Replica, part: &super::Part) -> bool {
        let info = replica.node.read_directory(replica.device, part.key).await;
        let bounds = info.ok().flatten().and_then(|info| info.directory.bounds());
        bounds.is_some_and(|bounds| bounds.version >= part.bounds && part.bounds > Timestamp::ZERO)
    }

    /// Adds up a listing's totals again, and tells the account.
    pub async fn tell_totals(&self, path: &str) -> Result<(), StoreError> {
        let map = self.learn_map(path).await?;
        if let Some(shards) = super::shards_account(path) {
            let shard = |home: Home| match home {
                Home::Shard(id) => Some(id.to_string()),
                Home::Container => None,
            };
            let names: Vec<String> = map.ranges.iter().filter_map(|range| shard(range.home)).collect();
            for name in names {
                self.tell_account(&shards, &name).await?;
            }
        }
        match path.split_once('/') {
            Some((account, container)) => self.tell_account(account, container).await,
            None => Ok(()),
        }
    }

    async fn tell_account(&self, account: &str, container: &str) -> Result<(), StoreError> {
        let _lock = self.locks.lock(self.map().container(&format!("{account}/{container}")).hash).await;
        self.show_container(account, container).await
    }

    /// The container of whose shards one has told its totals.
    pub(in crate::store) async fn tell_container_of(&self, shards: &str) -> Result<(), StoreError> {
        let Some(path) = container_of(shards) else { return Ok(()) };
        match path.split_once('/') {
            Some((account, container)) => self.tell_account(account, container).await,
            None => Ok(()),
        }
    }
}

/// The container of which a directory has a part of the listing.
fn part_of(name: &str) -> Option<(String, Home)> {
    if may_split(name) {
        return Some((name.to_owned(), Home::Container));
    }
    let (shards, id) = name.split_once('/')?;
    let bytes: [u8; Timestamp::ENCODED_LEN] = hex::decode(id).ok()?.try_into().ok()?;
    Some((container_of(shards)?, Home::Shard(ShardId(Timestamp::from_bytes(bytes)))))
}
