//! Blocks that no record names: those of uploads that a crash or a failure interrupted.
//!
//! Each node looks at the blocks on its own devices. A block is deleted when it is older than [`GRACE`] and
//! no record names its upload. Why that never takes a block in use:
//!
//! - *Who may name it.* The upload's owner says: the record at the owner's path, a version of that object,
//!   and for a part of a multipart upload the object (or version of it) that it was for. Records take
//!   extents over from each other only among these, and only from one that is there: a part's is removed
//!   after the object that has its extents was written, an object's is replaced by a link after its version
//!   was. So part, object and versions are read in this order, each from a majority; and the object once
//!   more at the end: had an extent gone from a version to the object between the first two readings, the
//!   object would be another now. Then nothing is decided.
//! - *Uploads under way.* What no record names now, none will later, unless its upload is still to be
//!   committed. A commit is refused when the upload began more than [`MAX_UPLOAD`] ago, by the clock of the
//!   process that received it, and a block is written after its upload began. So a block whose age is
//!   [`GRACE`], by the clock of the device's node, has been committed or never will be. The difference of
//!   12 hours is what that clock may jump ahead, and what a process may stand still between that check and
//!   its write.
//! - *In doubt nothing is deleted:* too few replicas answer (in a policy that is `available`, any device that
//!   may have the record; such containers keep no versions), an owner of an unknown kind, a change meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::jobs::{Cursor, Job, JobKind, Jobs, LocalDevice, Pace, Tally};
use kodiak_storage_api::{
    BlockInfo, BlockKey, BucketSet, DataId, Entry, ItemKey, Layout, ListQuery, ObjectPath, Partition,
    PolicyIndex, Replica, ScanQuery, StorageNode, StoredVersion, Tree,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::versions::{object_of, versions_of};
use super::{Store, StoreError};

/// Blocks are looked at when they are this old.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// Uploads that take longer are refused.
pub(super) const MAX_UPLOAD: Duration = Duration::from_secs(12 * 3600);
/// From the end of a round to the next, and from the start to the first.
const REST: Duration = Duration::from_secs(3600);
/// Blocks of one page.
const PAGE: usize = 500;
/// Rest before each round, however long ago the last one was.
const PAUSE: Duration = Duration::from_secs(60);
/// How often a round keeps where it is.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// What is known of owners is kept for so many, and so long.
const OWNERS: usize = 4096;
const OWNERS_FOR: Duration = Duration::from_secs(300);
/// Versions of one object that are looked at; of more, nothing is decided.
const VERSIONS: usize = 100_000;

/// Joins the path of a part and of the object that it is for, in the owner of its blocks.
const HEIR: &str = "\0\0";

/// The owner of the blocks of a part: its record's path, and the object that may take them over.
pub(super) fn owner(part: &ObjectPath, heir: &ObjectPath) -> ObjectPath {
    let object = format!("{}{HEIR}{heir}", part.object());
    ObjectPath::new(part.account(), part.container(), &object)
}

/// The record's path, and the object that may have taken its extents over; none if nobody knows.
fn parse(owner: &ObjectPath) -> Option<(ObjectPath, ObjectPath)> {
    if !owner.account().starts_with('\0') {
        return Some((owner.clone(), owner.clone()));
    }
    let (part, heir) = owner.object().split_once(HEIR)?;
    let part = ObjectPath::new(owner.account(), owner.container(), part);
    Some((part, ObjectPath::parse(heir).ok()?))
}

/// What owners' records name, for a while.
struct Owners {
    known: HashMap<(ObjectPath, PolicyIndex), Option<Arc<HashSet<DataId>>>>,
    since: Instant,
}

/// Where a collection goes on, and when the last one ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GarbageCursor {
    /// The last partition that was looked at by the collection under way; none between two.
    after: Option<(Tree, Partition)>,
    /// Second since 1970.
    ended: u64,
}

/// Who collects the garbage of a device.
pub struct Collector {
    store: Arc<Store>,
    local: Replica,
    job: Arc<Job>,
    pace: Pace,
    cursor: Cursor<GarbageCursor>,
}

impl Store {
    /// Collects garbage on devices of the node in this process until `stop` changes, each looking at no more than
    /// `rate` blocks a second.
    pub fn run_garbage_collection(
        self: &Arc<Self>,
        node: &Arc<dyn StorageNode>,
        devices: &[LocalDevice],
        (jobs, rate): (&Jobs, u64),
        stop: &watch::Receiver<bool>,
    ) {
        for device in devices {
            let (collector, mut stop) = (self.collector(node, device, (jobs, rate)), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    _ = stop.changed() => {}
                    () = collector.keep() => {}
                }
            });
        }
    }

    /// Who collects the garbage of a device.
    pub fn collector(
        self: &Arc<Self>,
        node: &Arc<dyn StorageNode>,
        device: &LocalDevice,
        (jobs, rate): (&Jobs, u64),
    ) -> Collector {
        Collector {
            store: self.clone(),
            local: Replica { node: node.clone(), device: device.index },
            job: jobs.job(JobKind::Garbage, &device.name, rate),
            pace: Pace::new(rate),
            cursor: Cursor::new(device.folder.as_deref(), "garbage"),
        }
    }
}

impl Collector {
    async fn keep(&self) {
        loop {
            let kept = self.cursor.load();
            let due = match kept {
                // A restart has interrupted it.
                Some(GarbageCursor { after: Some(_), .. }) => Duration::ZERO,
                Some(kept) => {
                    REST.saturating_sub(Duration::from_secs(self.store.now().saturating_sub(kept.ended)))
                }
                None => REST,
            };
            tokio::time::sleep(due.max(PAUSE)).await;
            match self.collect(GRACE).await {
                Ok(0) => {}
                Ok(blocks) => tracing::info!(blocks, "blocks of interrupted uploads deleted"),
                Err(error) => {
                    tracing::warn!(%error, "a garbage collection ended early and goes on there later")
                }
            }
        }
    }

    /// Goes over the device, from where the last collection was interrupted, if it was; how many blocks were
    /// deleted.
    ///
    /// # Errors
    /// When the device cannot be read. It goes on there the next time.
    pub async fn collect(&self, grace: Duration) -> Result<u64, StoreError> {
        let collected = self.collect_all(grace).await;
        self.job.end(collected.as_ref().err().map(ToString::to_string));
        collected
    }

    async fn collect_all(&self, grace: Duration) -> Result<u64, StoreError> {
        let (map, local) = (self.store.current_map(), &self.local);
        let mut places = Vec::new();
        for tree in map.trees().into_iter().filter(|tree| matches!(tree, Tree::Blocks(_))) {
            let held = local.node.digests(local.device, tree, map.partitions(tree)?).await?;
            places.extend(held.into_iter().map(|(partition, _)| (tree, partition)));
        }
        places.sort_unstable();
        let mut at = self.cursor.load().unwrap_or_default();
        let left = places.partition_point(|place| at.after.is_some_and(|after| *place <= after));
        self.job.begin(Some(places.len() as u64));
        self.job.advance(left as u64);
        let mut owners = Owners { known: HashMap::new(), since: Instant::now() };
        let (mut deleted, mut kept) = (0, Instant::now());
        for place in places.into_iter().skip(left) {
            deleted += self.partition(place, grace, &mut owners).await?;
            self.job.advance(1);
            at.after = Some(place);
            if kept.elapsed() >= KEEP_EVERY {
                kept = Instant::now();
                self.keep_at(&at).await;
            }
        }
        self.keep_at(&GarbageCursor { after: None, ended: self.store.now() }).await;
        Ok(deleted)
    }

    async fn keep_at(&self, at: &GarbageCursor) {
        if let Err(error) = self.cursor.save(at).await {
            tracing::warn!(%error, "the position of a garbage collection could not be kept");
        }
    }

    async fn partition(
        &self,
        (tree, partition): (Tree, Partition),
        grace: Duration,
        owners: &mut Owners,
    ) -> Result<u64, StoreError> {
        let mut deleted = 0;
        let mut query = ScanQuery { tree, partition, buckets: BucketSet::ALL, after: None, limit: PAGE };
        loop {
            let page = self.local.node.scan(self.local.device, query.clone()).await?;
            self.pace.take(page.items.len()).await;
            let blocks = page.items.into_iter().filter_map(|item| match item.key {
                ItemKey::Block(key) => Some(key),
                _ => None,
            });
            let found = self.store.collect_page(&self.local, blocks.collect(), grace, owners).await?;
            metrics::counter!("kodiak_garbage_blocks_total").increment(found);
            self.job.count(Tally { changed: found, ..Tally::default() });
            deleted += found;
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(deleted),
            }
        }
    }
}

impl Store {
    async fn collect_page(
        &self,
        local: &Replica,
        keys: Vec<BlockKey>,
        grace: Duration,
        owners: &mut Owners,
    ) -> Result<u64, StoreError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let infos = local.node.block_infos(local.device, keys.clone()).await?;
        let now = self.clock.wall_micros();
        let old = |info: &BlockInfo| now.saturating_sub(info.written.micros()) > grace.as_micros() as u64;
        let mut garbage = Vec::new();
        for (key, info) in keys.into_iter().zip(infos) {
            let Some(info) = info.filter(old) else { continue };
            match self.named_by(&info.owner, key.policy, owners).await {
                Some(named) if !named.contains(&key.data) => garbage.push(key),
                _ => {}
            }
        }
        let count = garbage.len() as u64;
        if count > 0 {
            local.node.delete_blocks(local.device, garbage).await?;
        }
        Ok(count)
    }

    /// The uploads that an owner's records name; none in doubt.
    async fn named_by(
        &self,
        owner: &ObjectPath,
        policy: PolicyIndex,
        owners: &mut Owners,
    ) -> Option<Arc<HashSet<DataId>>> {
        if owners.known.len() >= OWNERS || owners.since.elapsed() > OWNERS_FOR {
            *owners = Owners { known: HashMap::new(), since: Instant::now() };
        }
        let key = (owner.clone(), policy);
        if let Some(known) = owners.known.get(&key) {
            return known.clone();
        }
        let named = match self.ask_owner(owner, policy).await {
            Ok(named) => named.map(Arc::new),
            Err(error) => {
                tracing::debug!(%owner, %error, "an owner cannot be asked: its blocks stay");
                None
            }
        };
        owners.known.insert(key, named.clone());
        named
    }

    async fn ask_owner(
        &self,
        owner: &ObjectPath,
        policy: PolicyIndex,
    ) -> Result<Option<HashSet<DataId>>, StoreError> {
        let Some((record, object)) = parse(owner) else { return Ok(None) };
        let object = object_of(&object);
        let mut named = HashSet::new();
        if record != object {
            add(&mut named, self.newest_of_all(&record, policy).await?.as_ref());
        }
        let first = self.newest_of_all(&object, policy).await?;
        add(&mut named, first.as_ref());
        if !self.add_versions(&object, policy, &mut named).await? {
            return Ok(None);
        }
        let last = self.newest_of_all(&object, policy).await?;
        let write = |stored: Option<StoredVersion>| stored.map(|stored| stored.stamp.origin);
        Ok((write(first) == write(last)).then_some(named))
    }

    /// Whether all versions were seen.
    async fn add_versions(
        &self,
        object: &ObjectPath,
        policy: PolicyIndex,
        named: &mut HashSet<DataId>,
    ) -> Result<bool, StoreError> {
        let (container, prefix) = versions_of(object);
        let mut query = ListQuery { prefix, limit: 1000, ..ListQuery::default() };
        let mut seen = 0;
        loop {
            let page = match self.list_objects(object.account(), &container, query.clone()).await {
                Ok(page) => page,
                Err(StoreError::NoContainer) => return Ok(true),
                Err(error) => return Err(error),
            };
            query.marker = page.entries.last().map(|entry| entry.name().to_owned());
            for entry in page.entries {
                let Entry::Row(row) = entry else { continue };
                let version = ObjectPath::new(object.account(), &container, &row.name);
                add(named, self.newest(&version, policy, false).await?.as_ref());
                seen += 1;
            }
            if !page.truncated {
                return Ok(true);
            }
            if seen > VERSIONS {
                return Ok(false);
            }
        }
    }
}

fn add(named: &mut HashSet<DataId>, stored: Option<&StoredVersion>) {
    if let Some(record) = stored.and_then(|stored| stored.version.live())
        && let Layout::Extents(extents) = &record.layout
    {
        named.extend(extents.iter().map(|extent| extent.data));
    }
}

/// Refuses the commit of an upload that took so long that its blocks may count as garbage soon.
pub(super) fn still_in_time(begun: Instant) -> Result<(), StoreError> {
    if begun.elapsed() < MAX_UPLOAD {
        return Ok(());
    }
    let hours = MAX_UPLOAD.as_secs() / 3600;
    Err(StoreError::Refused(format!("the upload took longer than {hours} hours: send it in parts")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_names_the_part_and_the_object_it_is_for() {
        let part = ObjectPath::new("\0parts\0a", "b", "id\x0000007");
        let object = ObjectPath::new("a", "b", "key/with/slashes");
        assert_eq!(parse(&owner(&part, &object)), Some((part.clone(), object.clone())));
        assert_eq!(parse(&object), Some((object.clone(), object)));
        assert_eq!(parse(&part), None, "nobody knows which object a part alone is for");
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_is_refused_before_its_blocks_count_as_garbage() {
        let begun = Instant::now();
        tokio::time::advance(MAX_UPLOAD - Duration::from_secs(1)).await;
        assert!(still_in_time(begun).is_ok());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(still_in_time(begun).is_err());
        assert!(MAX_UPLOAD * 2 <= GRACE);
    }
}
