//! Writes that keep versions.

use std::sync::Arc;

use bytes::Bytes;
use kodiak_storage_api::{
    Extent, Layout, ObjectPath, ObjectRecord, PolicyIndex, StoredVersion, Timestamp, Version, VersionId,
};

use super::{Mode, NULL, Written, is_delete_marker, version_path};
use crate::store::commit::{Change, new_record};
use crate::store::{NewObject, Precondition, Staged, Store, StoreError};

impl Store {
    /// Stores an upload under its name in the way of its container.
    pub async fn commit_as(
        self: &Arc<Self>,
        mode: Mode,
        mut staged: Staged,
        object: NewObject,
        condition: Precondition,
    ) -> Result<Written, StoreError> {
        let (path, policy) = (staged.path.clone(), staged.blocks.policy);
        if mode != Mode::Keep {
            let record = self.commit(staged, object, condition).await?;
            self.replaced(mode, &path, policy, &record).await?;
            return Ok(Written { record, version: None });
        }
        let etag = object.etag.clone().unwrap_or_else(|| hex::encode(staged.md5()));
        let record = new_record(object, etag, staged.size(), staged.layout.clone());
        self.make_versions_container(path.account(), path.container(), policy).await?;
        let store = self.clone();
        self.finish_even_if_dropped(async move {
            let _lock = store.locks.lock(store.map().object(&path, policy)?.hash).await;
            store.check(&Change { condition, ..Change::of(&path, policy) }).await?;
            store.keep_null(&path, policy).await?;
            // As in a plain commit: from here on the record may be stored, so the blocks stay.
            staged.blocks.hand_over()?;
            let inline = std::mem::take(&mut staged.inline);
            let id = VersionId(store.clock.now());
            store.put_version((&path, policy), id, record, inline, true).await
        })
        .await
    }

    /// Makes an object of other records' extents, at the given time (see [`Store::assemble`]). A version
    /// that is older than what the name holds by then does not become the current one.
    pub async fn assemble_as(
        self: &Arc<Self>,
        mode: Mode,
        (path, policy): (ObjectPath, PolicyIndex),
        extents: Vec<Extent>,
        (object, at): (NewObject, Timestamp),
        condition: Precondition,
    ) -> Result<Written, StoreError> {
        if mode != Mode::Keep {
            let object = NewObject { timestamp: Some(at), ..object };
            let record = self.assemble(path.clone(), policy, extents, object, condition).await?;
            self.replaced(mode, &path, policy, &record).await?;
            return Ok(Written { record, version: None });
        }
        let size = extents.iter().map(|extent| extent.len).sum();
        let etag = object.etag.clone().unwrap_or_default();
        let record = new_record(object, etag, size, Layout::Extents(extents));
        self.make_versions_container(path.account(), path.container(), policy).await?;
        let store = self.clone();
        self.finish_even_if_dropped(async move {
            let _lock = store.locks.lock(store.map().object(&path, policy)?.hash).await;
            store.check(&Change { condition, ..Change::of(&path, policy) }).await?;
            let current = store.last_write(&path, policy).await?.is_none_or(|last| last < at);
            if current {
                store.keep_null(&path, policy).await?;
            }
            store.put_version((&path, policy), VersionId(at), record, Vec::new(), current).await
        })
        .await
    }

    /// Makes a version that is there the current one.
    pub async fn restore(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
        id: VersionId,
    ) -> Result<Written, StoreError> {
        let (store, path) = (self.clone(), path.clone());
        self.finish_even_if_dropped(async move {
            let _lock = store.locks.lock(store.map().object(&path, policy)?.hash).await;
            let record = store.head_version(&path, policy, id).await?;
            if is_delete_marker(&record) {
                return Err(StoreError::NoObject);
            }
            store.keep_null(&path, policy).await?;
            store.link((&path, policy), &record, id, None).await?;
            Ok(Written { record, version: Some(id) })
        })
        .await
    }

    /// What a write of a version without an id leaves of those before it: nothing, if S3 wrote it.
    async fn replaced(
        self: &Arc<Self>,
        mode: Mode,
        path: &ObjectPath,
        policy: PolicyIndex,
        by: &ObjectRecord,
    ) -> Result<(), StoreError> {
        match mode {
            Mode::ReplaceNull => self.remove_nulls(path, policy, by.timestamp).await,
            Mode::Replace | Mode::Keep => Ok(()),
        }
    }

    /// Writes a version and, with `current`, the link to it. The caller holds the name's lock.
    pub(super) async fn put_version(
        &self,
        (path, policy): (&ObjectPath, PolicyIndex),
        id: VersionId,
        mut record: ObjectRecord,
        inline: Vec<Bytes>,
        current: bool,
    ) -> Result<Written, StoreError> {
        // A version stays until it is deleted; what ends is that it is current.
        let ends = record.expires_at.take();
        let of = version_path(path, id);
        let change = Change { inline, at: Some(id.0), ..Change::of(&of, policy) };
        let record = self.put(change, record).await?;
        if current {
            match self.link((path, policy), &record, id, ends).await {
                // The container is gone: its versions go too.
                Err(StoreError::NoContainer) => {
                    self.write(Change::of(&of, policy), Version::Deleted(Timestamp::ZERO)).await?;
                    return Err(StoreError::NoContainer);
                }
                linked => linked?,
            }
        }
        Ok(Written { record, version: Some(id) })
    }

    /// Makes a name link to a version. The caller holds the name's lock.
    pub(super) async fn link(
        &self,
        (path, policy): (&ObjectPath, PolicyIndex),
        version: &ObjectRecord,
        id: VersionId,
        expires_at: Option<u64>,
    ) -> Result<(), StoreError> {
        let listing = version.listing.iter().filter(|(name, _)| name != NULL).cloned().collect();
        let link = ObjectRecord {
            timestamp: Timestamp::ZERO,
            size: version.size,
            etag: version.etag.clone(),
            content_type: version.content_type.clone(),
            headers: Vec::new(),
            listing,
            expires_at,
            layout: Layout::Version(id),
        };
        self.put(Change::of(path, policy), link).await.map(drop)
    }

    /// Gives the object at a name a record among the versions, if it has none. The caller holds the
    /// name's lock.
    pub(super) async fn keep_null(&self, path: &ObjectPath, policy: PolicyIndex) -> Result<(), StoreError> {
        let stored = self.newest(path, policy, true).await?;
        let Some(StoredVersion { version: Version::Live(mut record), inline, .. }) = stored else {
            return Ok(());
        };
        // Whatever is written next is to be newer.
        self.clock.observe(record.timestamp);
        if matches!(record.layout, Layout::Version(_)) || record.expired(self.now()) {
            return Ok(());
        }
        record.expires_at = None;
        record.listing.push((NULL.into(), "true".into()));
        let at = record.timestamp;
        let of = version_path(path, VersionId(at));
        let change = Change { inline: inline.into_iter().collect(), at: Some(at), ..Change::of(&of, policy) };
        match self.put(change, record).await {
            // It has one since an earlier write, which came no further.
            Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Changes the metadata of the version that a link names, and what the link shows of it. The caller
    /// holds the name's lock.
    pub(in crate::store) async fn update_version<F>(
        &self,
        (path, policy): (&ObjectPath, PolicyIndex),
        link: &ObjectRecord,
        id: VersionId,
        mut edit: F,
    ) -> Result<ObjectRecord, StoreError>
    where
        F: FnMut(&mut ObjectRecord) -> Result<(), StoreError>,
    {
        let of = version_path(path, id);
        let stored = self.newest(&of, policy, true).await?;
        let Some(StoredVersion { version: Version::Live(mut record), inline, .. }) = stored else {
            return Err(StoreError::NoObject);
        };
        record.expires_at = link.expires_at;
        edit(&mut record)?;
        let ends = record.expires_at.take();
        let change = Change { inline: inline.into_iter().collect(), ..Change::of(&of, policy) };
        let record = self.put(change, record).await?;
        self.link((path, policy), &record, id, ends).await?;
        Ok(ObjectRecord { expires_at: ends, ..record })
    }
}
