//! Changes of objects: each makes one version the newest, or fails and changes nothing.
//!
//! What is on stable storage when a commit answers: the object's needle (record, and data where it is
//! small) on a majority of its replicas, and its blocks before it. The listing row is at a majority of the
//! container's replicas, durable by itself or by the object's needle. How the replicas agree is
//! [`super::register`].

use std::sync::Arc;

use bytes::Bytes;
use kodiak_storage_api::{
    Extent, Layout, ObjectPath, ObjectRecord, PolicyIndex, StoredVersion, Timestamp, Version,
};

use super::register::{Draft, Register};
use super::{NewObject, Precondition, Staged, Store, StoreError};

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
        let change = Change { path, policy, inline, at: None, given: object.timestamp, condition };
        let store = self.clone();
        self.finish_even_if_dropped(async move {
            let _lock = store.locks.lock(store.map().object(&change.path, change.policy)?.hash).await;
            // A condition that does not hold leaves the blocks to be deleted.
            store.check(&change).await?;
            // From here on a crash or an error may leave the record stored: the blocks stay.
            staged.blocks.hand_over()?;
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
        let given = object.timestamp;
        let record = new_record(object, etag, size, Layout::Extents(extents));
        let change = Change { path, policy, inline: Vec::new(), at: None, given, condition };
        let store = self.clone();
        self.finish_even_if_dropped(async move {
            let _lock = store.locks.lock(store.map().object(&change.path, change.policy)?.hash).await;
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
            let _lock = store.locks.lock(store.map().object(&path, policy)?.hash).await;
            let register = Register::of(&store, &path, policy)?;
            let mut link = None;
            let changed = register.swap(true, |seen| {
                let Some(StoredVersion { version: Version::Live(record), inline, .. }) = seen else {
                    return Err(StoreError::NoObject);
                };
                if record.expired(store.now()) {
                    return Err(StoreError::NoObject);
                }
                let mut record = record.clone();
                if let Layout::Version(id) = record.layout {
                    link = Some((record, id));
                    return Err(StoreError::NoObject);
                }
                edit(&mut record)?;
                let inline = inline.iter().filter(|_| matches!(record.layout, Layout::Inline));
                Ok(Draft { inline: inline.cloned().collect(), version: Version::Live(record), at: None })
            });
            let changed = changed.await;
            if let Some((record, id)) = link {
                return store.update_version((&path, policy), &record, id, edit).await;
            }
            match changed? {
                Version::Live(record) => Ok(record),
                Version::Deleted(_) | Version::Moved(_) => Err(StoreError::NoObject),
            }
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
            let _lock = store.locks.lock(store.map().object(&path, policy)?.hash).await;
            let register = Register::of(&store, &path, policy)?;
            let mut removed = None;
            let swapped = register.swap(false, |seen| {
                let now = store.now();
                let record = seen.and_then(|stored| stored.version.live()).ok_or(StoreError::NoObject)?;
                if record.expired(now) && !matches!(condition, Precondition::Is(_)) {
                    return Err(StoreError::NoObject);
                }
                if !condition.holds(Some(record), now) {
                    return Err(StoreError::PreconditionFailed);
                }
                removed = Some(record.clone());
                Ok(Draft { version: tombstone(Timestamp::ZERO), inline: Vec::new(), at: None })
            });
            swapped.await?;
            removed.ok_or(StoreError::NoObject)
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
        if change.condition == Precondition::None && change.given.is_none() {
            return Ok(());
        }
        let current = self.newest(&change.path, change.policy, false).await?;
        change.holds(current.as_ref(), self.now())
    }

    pub(super) async fn put(&self, change: Change, record: ObjectRecord) -> Result<ObjectRecord, StoreError> {
        match self.write(change, Version::Live(record)).await? {
            Version::Live(record) => Ok(record),
            Version::Deleted(_) | Version::Moved(_) => Err(StoreError::NoObject),
        }
    }

    /// Makes a version the newest, where the change's condition holds of what is there.
    pub(super) async fn write(&self, change: Change, version: Version) -> Result<Version, StoreError> {
        let register = Register::of(self, &change.path, change.policy)?;
        let written = if change.condition == Precondition::None && change.given.is_none() {
            register.write(version, change.inline, change.at).await
        } else {
            let decide = |seen: Option<&StoredVersion>| {
                change.holds(seen, self.now())?;
                let (inline, version) = (change.inline.clone(), version.clone());
                Ok(Draft { version, inline, at: change.given.or(change.at) })
            };
            register.swap(false, decide).await
        };
        if written == Err(StoreError::NoContainer) {
            self.undo(&register, &change.path).await;
        }
        written
    }

    /// The container went away while its object was written: the object goes too.
    async fn undo(&self, register: &Register<'_>, path: &ObjectPath) {
        match register.write(Version::Deleted(Timestamp::ZERO), Vec::new(), None).await {
            Ok(_) | Err(StoreError::NoContainer) => {}
            Err(error) => tracing::warn!(%path, %error, "object of a deleted container stays"),
        }
    }
}

/// A change of one name.
pub(super) struct Change {
    pub(super) path: ObjectPath,
    pub(super) policy: PolicyIndex,
    pub(super) inline: Vec<Bytes>,
    /// Its time and ballot, for a name that is written once: Kodiak's own.
    pub(super) at: Option<Timestamp>,
    /// Its time, from whoever asks: it must be newer than that of what is there.
    pub(super) given: Option<Timestamp>,
    pub(super) condition: Precondition,
}

impl Change {
    /// A change without bytes that depends on nothing.
    pub(super) fn of(path: &ObjectPath, policy: PolicyIndex) -> Change {
        let condition = Precondition::None;
        Change { path: path.clone(), policy, inline: Vec::new(), at: None, given: None, condition }
    }

    fn holds(&self, seen: Option<&StoredVersion>, now: u64) -> Result<(), StoreError> {
        let newer = seen.map(|stored| stored.version.timestamp());
        if let Some(newer) = newer.filter(|newer| self.given.is_some_and(|given| *newer >= given)) {
            return Err(StoreError::Conflict(newer));
        }
        let current = seen.and_then(|stored| stored.version.live());
        if self.condition.holds(current, now) {
            return Ok(());
        }
        // S3 tells a missing object apart from one that differs.
        match (&self.condition, current) {
            (Precondition::Matches(_), None) => Err(StoreError::NoObject),
            _ => Err(StoreError::PreconditionFailed),
        }
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
