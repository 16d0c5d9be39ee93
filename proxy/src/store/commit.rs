//! Changes of objects: each makes one version the newest, or fails and changes nothing.
//!
//! What is on stable storage when a commit answers: the object's needle (record, and data where it is
//! small) on a majority of its replicas, and its blocks before it. The listing row is visible at as
//! many replicas of the container, and comes back from the needle if the index is lost.

use std::sync::Arc;

use bytes::Bytes;
use kodiak_storage_api::{
    DirectoryKey, Extent, Layout, NodeError, ObjectKey, ObjectPath, ObjectRecord, ObjectWrite, PolicyIndex,
    RowDurability, RowTarget, Timestamp, Version,
};

use super::{NewObject, Precondition, Staged, Store, StoreError, quorum};
use kodiak_storage_api::Replica;

/// Times a write whose timestamp is behind is given a newer one. Each failure teaches the clock the
/// newest timestamp, so a second round already needs a writer elsewhere in between.
const STALE_RETRIES: usize = 8;

impl Store {
    /// Makes an upload the newest version of its path.
    pub async fn commit(
        self: &Arc<Self>,
        mut staged: Staged,
        object: NewObject,
        condition: Precondition,
    ) -> Result<ObjectRecord, StoreError> {
        let etag = object.etag.clone().unwrap_or_else(|| hex::encode(staged.md5()));
        let record = new_record(object.clone(), etag, staged.size(), staged.layout.clone());
        let (path, policy, inline) =
            (staged.path.clone(), staged.blocks.policy, std::mem::take(&mut staged.inline));
        let change = Change { path, policy, inline, at: object.timestamp, condition };
        let store = self.clone();
        self.finish_even_if_dropped(async move {
            let _lock = store.locks.lock(store.map().object(&change.path, change.policy)?.hash).await;
            store.check(&change).await?;
            // From here on a crash or an error may leave the record stored: the blocks stay.
            staged.blocks.hand_over();
            store.put(change, record).await
        })
        .await
    }

    /// Makes the concatenation of extents that other records (multipart parts) hold the newest
    /// version of `path`, without touching their bytes. `object.etag` must be given. Afterwards the
    /// parts' records are removed with [`Store::forget`], which leaves their extents alone.
    pub async fn assemble(
        self: &Arc<Self>,
        path: ObjectPath,
        policy: PolicyIndex,
        extents: Vec<Extent>,
        object: NewObject,
        condition: Precondition,
    ) -> Result<ObjectRecord, StoreError> {
        let size = extents.iter().map(|extent| extent.len).sum();
        let etag = object.etag.clone().unwrap_or_default();
        let at = object.timestamp;
        let record = new_record(object, etag, size, Layout::Extents(extents));
        let change = Change { path, policy, inline: Vec::new(), at, condition };
        let store = self.clone();
        self.finish_even_if_dropped(async move {
            let _lock = store.locks.lock(store.map().object(&change.path, change.policy)?.hash).await;
            store.check(&change).await?;
            store.put(change, record).await
        })
        .await
    }

    /// Replaces headers and listing fields without touching the bytes. `change` gets the current
    /// record, edits `content_type`, `etag`, `headers`, `listing` and `expires_at`, and may refuse.
    pub async fn update_object<F>(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
        mut edit: F,
    ) -> Result<ObjectRecord, StoreError>
    where
        F: FnMut(&mut ObjectRecord) -> Result<(), StoreError> + Send + 'static,
    {
        let (store, path) = (self.clone(), path.clone());
        self.finish_even_if_dropped(async move {
            let key = store.map().object(&path, policy)?;
            let _lock = store.locks.lock(key.hash).await;
            let stored = store.newest(key, &path, true).await?;
            let Some(stored) = stored else { return Err(StoreError::NoObject) };
            let Version::Live(mut record) = stored.version else { return Err(StoreError::NoObject) };
            if record.expired(store.now()) {
                return Err(StoreError::NoObject);
            }
            if let Layout::Version(id) = record.layout {
                return store.update_version((&path, policy), &record, id, edit).await;
            }
            edit(&mut record)?;
            let inline = stored.inline.into_iter().collect();
            let change = Change { path, policy, inline, at: None, condition: Precondition::None };
            store.put(change, record).await
        })
        .await
    }

    /// Deletes an object and answers what it was; [`StoreError::NoObject`] if there was none.
    pub async fn delete_object(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
        condition: Precondition,
    ) -> Result<ObjectRecord, StoreError> {
        self.remove(path, policy, condition, Version::Deleted).await
    }

    /// Deletes the record of a part whose extents another record has taken over.
    pub async fn forget(self: &Arc<Self>, path: &ObjectPath, policy: PolicyIndex) -> Result<(), StoreError> {
        match self.remove(path, policy, Precondition::None, Version::Moved).await {
            Ok(_) | Err(StoreError::NoObject) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
        condition: Precondition,
        tombstone: fn(Timestamp) -> Version,
    ) -> Result<ObjectRecord, StoreError> {
        let (store, path) = (self.clone(), path.clone());
        self.finish_even_if_dropped(async move {
            let key = store.map().object(&path, policy)?;
            let _lock = store.locks.lock(key.hash).await;
            let current = store.newest(key, &path, false).await?.map(|stored| stored.version);
            let now = store.now();
            let Some(Version::Live(record)) = current else { return Err(StoreError::NoObject) };
            if record.expired(now) && !matches!(condition, Precondition::Is(_)) {
                return Err(StoreError::NoObject);
            }
            if !condition.holds(Some(&record), now) {
                return Err(StoreError::PreconditionFailed);
            }
            let change = Change { path, policy, inline: Vec::new(), at: None, condition };
            store.write(&change, tombstone).await?;
            Ok(record)
        })
        .await
    }

    /// Runs a change as a task, so that a client that goes away does not leave it half done.
    pub(super) async fn finish_even_if_dropped<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let broken = |error: tokio::task::JoinError| StoreError::Unavailable(error.to_string());
        tokio::spawn(change).await.map_err(broken)?
    }

    pub(super) async fn check(&self, change: &Change) -> Result<(), StoreError> {
        if change.condition == Precondition::None {
            return Ok(());
        }
        let key = self.map().object(&change.path, change.policy)?;
        let current = self.newest(key, &change.path, false).await?.map(|stored| stored.version);
        let current = current.as_ref().and_then(Version::live);
        if change.condition.holds(current, self.now()) {
            return Ok(());
        }
        // S3 tells a missing object apart from one that differs.
        match (&change.condition, current) {
            (Precondition::Matches(_), None) => Err(StoreError::NoObject),
            _ => Err(StoreError::PreconditionFailed),
        }
    }

    pub(super) async fn put(&self, change: Change, record: ObjectRecord) -> Result<ObjectRecord, StoreError> {
        let version = |at| Version::Live(ObjectRecord { timestamp: at, ..record.clone() });
        let at = self.write(&change, version).await?;
        Ok(ObjectRecord { timestamp: at, ..record })
    }

    /// Writes a version to a majority, with a newer timestamp where one is in the way.
    pub(super) async fn write(
        &self,
        change: &Change,
        version: impl Fn(Timestamp) -> Version,
    ) -> Result<Timestamp, StoreError> {
        for _ in 0..STALE_RETRIES {
            let at = change.at.unwrap_or_else(|| self.clock.now());
            match self.write_at(change, version(at)).await {
                Ok(()) => return Ok(at),
                Err(NodeError::Stale { current }) => {
                    self.clock.observe(current);
                    if change.at.is_some() {
                        return Err(StoreError::Conflict(current));
                    }
                }
                Err(NodeError::NoDirectory) => {
                    self.undo(change).await;
                    return Err(StoreError::NoContainer);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Overloaded)
    }

    /// The container went away while its object was written: the object goes too.
    async fn undo(&self, change: &Change) {
        let tombstone = Version::Deleted(self.clock.now());
        match self.write_at(change, tombstone).await {
            Ok(()) | Err(NodeError::NoDirectory | NodeError::Stale { .. }) => {}
            Err(error) => tracing::warn!(path = %change.path, %error, "object of a deleted container stays"),
        }
    }

    async fn write_at(&self, change: &Change, version: Version) -> Result<(), NodeError> {
        let key = self.map().object(&change.path, change.policy)?;
        let replicas = self.map().object_replicas(change.policy, key.partition)?;
        let directory = self.map().container(change.path.container_path());
        let containers = self.map().container_replicas(directory);
        let (rows, unpaired) = pair_rows(directory, &replicas, containers);
        let inline = if version.live().is_some() { change.inline.as_slice() } else { &[] };
        let write = |index: usize, replica: Replica| {
            let row = rows.get(index).copied().flatten();
            let write = object_write(key, &change.path, &version, inline, row);
            async move { replica.node.write_object(replica.device, write).await }
        };
        quorum::write(replicas, write).await?;
        if unpaired.is_empty() {
            return Ok(());
        }
        let row = version.row(&change.path);
        let write = |_, replica: Replica| {
            let row = row.clone();
            async move {
                replica.node.write_rows(replica.device, directory, vec![row], RowDurability::Synced).await
            }
        };
        quorum::write(unpaired, write).await?;
        Ok(())
    }
}

/// A change of one name.
pub(super) struct Change {
    pub(super) path: ObjectPath,
    pub(super) policy: PolicyIndex,
    pub(super) inline: Vec<Bytes>,
    pub(super) at: Option<Timestamp>,
    pub(super) condition: Precondition,
}

impl Change {
    /// A change without bytes that depends on nothing.
    pub(super) fn of(path: &ObjectPath, policy: PolicyIndex) -> Change {
        let condition = Precondition::None;
        Change { path: path.clone(), policy, inline: Vec::new(), at: None, condition }
    }
}

pub(super) fn new_record(object: NewObject, etag: String, size: u64, layout: Layout) -> ObjectRecord {
    ObjectRecord {
        timestamp: Timestamp::ZERO,
        size,
        etag,
        content_type: object.content_type,
        headers: object.headers,
        listing: object.listing,
        expires_at: object.expires_at,
        layout,
    }
}

fn object_write(
    key: ObjectKey,
    path: &ObjectPath,
    version: &Version,
    inline: &[Bytes],
    row: Option<RowTarget>,
) -> ObjectWrite {
    ObjectWrite { key, path: path.clone(), version: version.clone(), inline: inline.to_vec(), row }
}

/// Gives each object replica the container replica of its own node, if there is one: those rows are
/// as durable as the object itself. The container replicas that are left need a write of their own.
fn pair_rows(
    directory: DirectoryKey,
    objects: &[Replica],
    mut containers: Vec<Replica>,
) -> (Vec<Option<RowTarget>>, Vec<Replica>) {
    let pair = |object: &Replica| {
        let index = containers.iter().position(|container| container.shares_node(object))?;
        let device = containers.remove(index).device;
        Some(RowTarget { directory, device })
    };
    let rows = objects.iter().map(pair).collect();
    (rows, containers)
}
