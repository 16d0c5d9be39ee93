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

use kodiak_storage_api::{
    BlockInfo, BlockKey, BucketSet, DataId, DeviceIndex, Entry, ItemKey, Layout, ListQuery, ObjectPath,
    PolicyIndex, Replica, ScanQuery, StorageNode, StoredVersion, Tree,
};
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
/// Rest after a page: clients come first.
const PAGE_REST: Duration = Duration::from_millis(20);
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

impl Store {
    /// Collects garbage on devices of the node in this process until `stop` changes.
    pub fn run_garbage_collection(
        self: &Arc<Self>,
        node: &Arc<dyn StorageNode>,
        devices: impl Iterator<Item = DeviceIndex>,
        stop: &watch::Receiver<bool>,
    ) {
        for device in devices {
            let (store, mut stop) = (self.clone(), stop.clone());
            let local = Replica { node: node.clone(), device };
            tokio::spawn(async move {
                let rounds = async {
                    loop {
                        tokio::time::sleep(REST).await;
                        match store.collect_garbage(&local, GRACE).await {
                            Ok(0) => {}
                            Ok(blocks) => tracing::info!(blocks, "blocks of interrupted uploads deleted"),
                            Err(error) => tracing::warn!(%error, "a garbage collection ended early"),
                        }
                    }
                };
                tokio::select! {
                    _ = stop.changed() => {}
                    () = rounds => {}
                }
            });
        }
    }

    /// One round over a device; how many blocks were deleted.
    pub async fn collect_garbage(&self, local: &Replica, grace: Duration) -> Result<u64, StoreError> {
        let map = self.current_map();
        let mut owners = Owners { known: HashMap::new(), since: Instant::now() };
        let mut deleted = 0;
        for tree in map.trees().into_iter().filter(|tree| matches!(tree, Tree::Blocks(_))) {
            for (partition, _) in local.node.digests(local.device, tree, map.partitions(tree)?).await? {
                let mut query =
                    ScanQuery { tree, partition, buckets: BucketSet::ALL, after: None, limit: PAGE };
                loop {
                    let page = local.node.scan(local.device, query.clone()).await?;
                    let blocks = page.items.into_iter().filter_map(|item| match item.key {
                        ItemKey::Block(key) => Some(key),
                        _ => None,
                    });
                    deleted += self.collect_page(local, blocks.collect(), grace, &mut owners).await?;
                    match page.next {
                        Some(next) => query.after = Some(next),
                        None => break,
                    }
                    tokio::time::sleep(PAGE_REST).await;
                }
            }
        }
        metrics::counter!("kodiak_garbage_blocks_total").increment(deleted);
        Ok(deleted)
    }

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
