//! Listings that have outgrown one directory (`kodiak_storage_api::ShardMap`; the argument is in
//! `docs/consistency.md`).
//!
//! The map of a container's listing is an object of Kodiak's own, so that it changes by compare-and-set as
//! objects do. Its shards are containers of a hidden account, whose totals are those of all of them. Whoever
//! goes by a map first makes sure that the bounds it sets are at a majority of the replicas of the directories
//! concerned: from then on nobody who goes by an older one gets a majority there. A container that was never
//! split has no map, and nobody asks for one before a replica refuses.

mod delete;
mod grow;
mod keep;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use kodiak_storage_api::{
    BOUNDS, DirectoryInfo, DirectoryKey, DirectoryWrite, Home, Layout, Names, NodeError, ObjectPath,
    PolicyIndex, Replica, ShardMap, Stats, StoredVersion, Timestamp, Version,
};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

pub use keep::Whose;

use super::commit::new_record;
use super::register::{Draft, Register};
use super::{NewObject, Store, StoreError, Weakness, quorum};

/// Account of Kodiak's own with the maps, and beginning of the names of the accounts with the shards.
const ACCOUNT: &str = "\0shards";
/// Container of the maps. An object of it is named as the container whose map it is.
const MAPS: &str = "maps";
/// Storage policy of the maps.
const POLICY: PolicyIndex = PolicyIndex(0);
/// Maps that a proxy remembers. They are read again when they are needed.
const KNOWN: usize = 1024;
/// A map by which rows are on their way is looked at again after so long, to learn that they have come.
const FRESH: Duration = Duration::from_secs(2);
/// Directories that get their bounds at once.
const AT_ONCE: usize = 16;
/// Times an operation begins again because its map has changed.
const ATTEMPTS: u32 = 8;
/// Rows from which on a directory is split, if nothing is configured: it never is.
const NEVER: u64 = u64::MAX;

/// What a proxy knows of listings that are split.
pub(super) struct Shards {
    known: RwLock<HashMap<String, Known>>,
    /// Whether any is: spares all others the look.
    any: AtomicBool,
    rows: AtomicU64,
    /// Containers that are being split here now.
    busy: Mutex<HashSet<String>>,
}

#[derive(Clone)]
struct Known {
    map: Arc<ShardMap>,
    learned: Instant,
}

impl Shards {
    pub(super) fn new() -> Shards {
        Shards {
            known: RwLock::default(),
            any: AtomicBool::new(false),
            rows: AtomicU64::new(NEVER),
            busy: Mutex::default(),
        }
    }

    fn find(&self, path: &str) -> Option<Known> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.known.read().get(path).cloned()
    }

    fn keep(&self, path: &str, map: &Arc<ShardMap>) {
        let mut known = self.known.write();
        if known.len() >= KNOWN {
            known.clear();
        }
        let newer = known.get(path).is_none_or(|held| held.map.version <= map.version);
        if newer {
            known.insert(path.to_owned(), Known { map: map.clone(), learned: Instant::now() });
        }
        self.any.store(true, Ordering::Release);
    }

    fn forget(&self, path: &str) {
        self.known.write().remove(path);
    }
}

/// A directory with rows of a listing, as its replicas are asked.
pub(super) struct Part {
    pub(super) key: DirectoryKey,
    pub(super) replicas: Vec<Replica>,
    /// The version of its bounds.
    pub(super) bounds: Timestamp,
}

/// What is known of a listing.
struct Newest {
    map: ShardMap,
    /// The version that is stored: the map's, or that of a map which counts no more; zero for none.
    stored: Timestamp,
    /// The container.
    info: DirectoryInfo,
}

/// The account that holds the shards of a container.
fn shards_account(path: &str) -> Option<String> {
    let (account, container) = path.split_once('/')?;
    Some(format!("{ACCOUNT}\0{}\0{account}{container}", account.len()))
}

/// The container whose shards an account holds.
fn container_of(shards: &str) -> Option<String> {
    let (len, names) = shards.strip_prefix(ACCOUNT)?.strip_prefix('\0')?.split_once('\0')?;
    let (account, container) = names.split_at_checked(len.parse().ok()?)?;
    Some(format!("{account}/{container}"))
}

/// Whether an account is one of those of which the splitting consists.
pub(super) fn is_own(account: &str) -> bool {
    account.starts_with(ACCOUNT)
}

/// Whether a container's listing may be split: not those of which the splitting itself consists.
fn may_split(path: &str) -> bool {
    path.contains('/') && !path.starts_with(ACCOUNT)
}

/// Name of a directory with a part of a listing.
fn home_path(path: &str, home: Home) -> String {
    match (home, shards_account(path)) {
        (Home::Shard(id), Some(account)) => format!("{account}/{id}"),
        _ => path.to_owned(),
    }
}

impl Store {
    /// Whether listings are split by themselves.
    pub(super) fn splits_listings(&self) -> bool {
        self.shards.rows.load(Ordering::Relaxed) != NEVER
    }

    /// From how many rows on a directory is split. Without it none is.
    pub fn set_split_rows(&self, rows: u64) {
        self.shards.rows.store(rows, Ordering::Relaxed);
    }

    /// Where a container's part of its listing is.
    pub(super) fn part(&self, path: &str, home: Home, bounds: Timestamp) -> Part {
        let map = self.map();
        let key = map.container(&home_path(path, home));
        Part { key, replicas: map.container_replicas(key), bounds }
    }

    /// The map that is known of a container's listing, if it is known to be split.
    pub(super) fn known_map(&self, path: &str) -> Option<Arc<ShardMap>> {
        self.shards.find(path).map(|known| known.map)
    }

    /// As [`Store::known_map`], for readers: where rows were on their way, they may have come.
    pub(super) async fn fresh_map(&self, path: &str) -> Result<Option<Arc<ShardMap>>, StoreError> {
        match self.shards.find(path) {
            Some(known) if known.map.moving().next().is_some() && known.learned.elapsed() > FRESH => {
                self.learn_map(path).await.map(Some)
            }
            known => Ok(known.map(|known| known.map)),
        }
    }

    /// The newest map of a container's listing. The bounds that it sets are at a majority everywhere.
    pub(super) fn learn_map<'s>(&'s self, path: &'s str) -> BoxFuture<'s, Result<Arc<ShardMap>, StoreError>> {
        async move {
            let map = self.newest_map(path).await?.map;
            match self.install(path, &map).await {
                Ok(()) => {}
                // It is being closed, and has rows: whoever closes it will find out.
                Err(NodeError::NotEmpty | NodeError::Moved) => return Err(StoreError::Overloaded),
                Err(error) => return Err(error.into()),
            }
            let map = Arc::new(map);
            match map.version {
                Timestamp::ZERO => self.shards.forget(path),
                _ => self.shards.keep(path, &map),
            }
            Ok(map)
        }
        .boxed()
    }

    /// The newest map that was decided, or that of a listing that is in one piece.
    async fn newest_map(&self, path: &str) -> Result<Newest, StoreError> {
        let key = self.map().container(path);
        let info = self.directory(&self.map().container_replicas(key), key).await?;
        let info = info.filter(|info| info.directory.exists()).ok_or(StoreError::NoContainer)?;
        let map = self.read_map(path).await?;
        let stored = map.as_ref().map_or(Timestamp::ZERO, |map| map.version);
        // What comes next is newer than all of them.
        let bounds = info.directory.bounds().map(|bounds| bounds.version).unwrap_or_default();
        self.clock.observe(stored.max(bounds).max(info.directory.created));
        let map = map.filter(|map| !is_void(&info, map)).unwrap_or_else(ShardMap::whole);
        Ok(Newest { map, stored, info })
    }

    /// What is stored as the map of a container's listing, even if that is one that was deleted.
    async fn read_map(&self, path: &str) -> Result<Option<ShardMap>, StoreError> {
        let stored = Register::of(self, &map_path(path), POLICY)?.read(true).await?;
        stored.as_ref().and_then(decode).transpose()
    }

    /// Replaces the map that was stored, of this version, by another; whether it was still there.
    async fn swap_map(&self, path: &str, stored: Timestamp, new: &ShardMap) -> Result<bool, StoreError> {
        // Before the map: a version without its row would have taken effect all the same.
        match self.container(ACCOUNT, MAPS).await {
            Ok(_) => {}
            Err(StoreError::NoContainer) => {
                self.create_container(ACCOUNT, MAPS, POLICY, Vec::new()).await?;
            }
            Err(error) => return Err(error),
        }
        let register = Register::of(self, &map_path(path), POLICY)?;
        let bytes = Bytes::from(new.encode());
        let record = new_record(NewObject::default(), String::new(), bytes.len() as u64, Layout::Inline);
        let swapped = register.swap(true, |seen| {
            is_stored(seen, stored)?;
            let (version, inline) = (Version::Live(record.clone()), vec![bytes.clone()]);
            Ok(Draft { version, inline, at: None })
        });
        match swapped.await {
            Ok(_) => Ok(true),
            Err(StoreError::PreconditionFailed) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the directories whose bounds a map changes their bounds; a majority of each has them when this
    /// answers. [`NodeError::NotEmpty`]: they are to be closed, and one has rows.
    async fn install(&self, path: &str, map: &ShardMap) -> Result<(), NodeError> {
        if map.version == Timestamp::ZERO || self.weakness == Weakness::NoInstall {
            return Ok(());
        }
        let give = |index: usize| {
            let (home, bounds) = (map.ranges[index].home, map.bounds(index));
            let part = self.part(path, home, bounds.version);
            let name = home_path(path, home);
            let write = move |_, replica: Replica| {
                let (key, timestamp) = (part.key, bounds.version);
                let write = DirectoryWrite { key, name: name.clone(), timestamp, change: bounds.change() };
                async move {
                    let (info, _) = replica.node.write_directory(replica.device, write).await?;
                    let held = info.directory.bounds().is_some_and(|held| held.version >= timestamp);
                    if held { Ok(()) } else { Err(NodeError::Unavailable("bounds were not taken".into())) }
                }
            };
            async move {
                match quorum::write(part.replicas, write).await {
                    Ok(_) => Ok(()),
                    Err(NodeError::NoDirectory) if home != Home::Container => {
                        Err(NodeError::Unavailable("a shard of the listing is missing".into()))
                    }
                    Err(error) => Err(error),
                }
            }
        };
        let given: Vec<Result<(), NodeError>> =
            stream::iter(map.changed().map(give)).buffer_unordered(AT_ONCE).collect().await;
        given.into_iter().collect()
    }

    /// Adds the totals of its shards to a container's.
    pub(super) async fn with_shards(&self, mut info: DirectoryInfo) -> Result<DirectoryInfo, StoreError> {
        let Stats { objects, bytes, .. } = self.shard_totals(&info).await?;
        info.stats.rows += objects;
        info.stats.objects += objects;
        info.stats.bytes += bytes;
        Ok(info)
    }

    async fn shard_totals(&self, info: &DirectoryInfo) -> Result<Stats, StoreError> {
        let split = info.directory.bounds().is_some_and(|bounds| bounds.names != Names::Void);
        let name = &info.directory.name;
        let Some(account) = shards_account(name).filter(|_| split && may_split(name)) else {
            return Ok(Stats::default());
        };
        match self.account(&account).await {
            Ok(shards) => Ok(shards.stats),
            Err(StoreError::NoAccount) => Ok(Stats::default()),
            Err(error) => Err(error),
        }
    }
}

/// Whether a map is of a container that was deleted.
fn is_void(info: &DirectoryInfo, map: &ShardMap) -> bool {
    let bounds = info.directory.bounds();
    bounds.is_some_and(|bounds| bounds.names == Names::Void && bounds.version > map.version)
}

fn is_stored(seen: Option<&StoredVersion>, version: Timestamp) -> Result<(), StoreError> {
    let seen = seen.and_then(decode).transpose()?.map_or(Timestamp::ZERO, |map| map.version);
    if seen == version { Ok(()) } else { Err(StoreError::PreconditionFailed) }
}

fn map_path(path: &str) -> ObjectPath {
    ObjectPath::new(ACCOUNT, MAPS, path)
}

fn decode(stored: &StoredVersion) -> Option<Result<ShardMap, StoreError>> {
    stored.version.live()?;
    Some(ShardMap::decode(stored.inline.as_deref().unwrap_or_default()).map_err(StoreError::from))
}

/// Headers as a change sets them, without the bounds, which have versions of their own.
pub(super) fn without_bounds(info: &DirectoryInfo) -> Vec<(String, String)> {
    let headers = info.directory.headers.iter().filter(|(name, _)| *name != BOUNDS);
    headers.map(|(name, header)| (name.clone(), header.value.clone())).collect()
}
