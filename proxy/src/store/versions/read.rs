//! Reading versions.

use std::sync::Arc;

use kodiak_storage_api::{Layout, ObjectPath, ObjectRecord, PolicyIndex, Timestamp, Version, VersionId};

use super::version_path;
use crate::store::{OpenObject, Store, StoreError};

impl Store {
    /// A version of an object, ready to be read; delete markers too.
    pub async fn open_version(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
        id: VersionId,
    ) -> Result<OpenObject, StoreError> {
        let of = version_path(path, id);
        let stored = self.newest(&of, policy, true).await?;
        let (record, inline) = self.visible(stored)?;
        let mut object = self.opened(path, policy, record, inline);
        object.version = Some(id);
        Ok(object)
    }

    /// A version's record.
    pub async fn head_version(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        id: VersionId,
    ) -> Result<ObjectRecord, StoreError> {
        let of = version_path(path, id);
        self.visible(self.newest(&of, policy, false).await?).map(|(record, _)| record)
    }

    /// When a version was last written or deleted, if it ever was.
    pub async fn last_write_of_version(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        id: VersionId,
    ) -> Result<Option<Timestamp>, StoreError> {
        self.last_write(&version_path(path, id), policy).await
    }

    /// The version without an id, current or not.
    pub async fn open_null_version(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
    ) -> Result<OpenObject, StoreError> {
        match self.open_null(path, policy).await {
            Err(StoreError::NoObject) => {}
            opened => return opened,
        }
        let id = self.nulls(path).await?.into_iter().next().ok_or(StoreError::NoObject)?;
        self.open_version(path, policy, id).await
    }

    /// The object itself if it has no id; [`StoreError::NoObject`] if a version is current.
    pub async fn open_null(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
    ) -> Result<OpenObject, StoreError> {
        let stored = self.newest(path, policy, true).await?;
        match self.visible(stored)? {
            (record, _) if matches!(record.layout, Layout::Version(_)) => Err(StoreError::NoObject),
            (record, inline) => Ok(self.opened(path, policy, record, inline)),
        }
    }

    /// Opens the version that a link names.
    pub(in crate::store) async fn open_linked(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
        mut link: ObjectRecord,
    ) -> Result<OpenObject, StoreError> {
        while let Layout::Version(id) = link.layout {
            match self.open_version(path, policy, id).await {
                Ok(mut object) => {
                    object.record.expires_at = link.expires_at;
                    return Ok(object);
                }
                Err(StoreError::NoObject) => link = self.relinked(path, policy, id).await?,
                Err(error) => return Err(error),
            }
        }
        self.open_null(path, policy).await
    }

    /// The record of the version that a link names.
    pub(in crate::store) async fn head_linked(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        mut link: ObjectRecord,
    ) -> Result<ObjectRecord, StoreError> {
        while let Layout::Version(id) = link.layout {
            match self.head_version(path, policy, id).await {
                Ok(record) => return Ok(ObjectRecord { expires_at: link.expires_at, ..record }),
                Err(StoreError::NoObject) => link = self.relinked(path, policy, id).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(link)
    }

    /// What a name holds after the version that it linked to was removed: that was after its link had
    /// gone, so it is something else or nothing.
    async fn relinked(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        gone: VersionId,
    ) -> Result<ObjectRecord, StoreError> {
        let stored = self.newest(path, policy, false).await?;
        let (record, _) = self.visible(stored)?;
        if record.layout == Layout::Version(gone) {
            return Err(StoreError::NoObject);
        }
        Ok(record)
    }

    /// The record at a name, whatever it is.
    pub(super) async fn record_at(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
    ) -> Result<Option<ObjectRecord>, StoreError> {
        let stored = self.newest(path, policy, false).await?;
        match stored.map(|stored| stored.version) {
            Some(Version::Live(record)) => Ok(Some(record)),
            _ => Ok(None),
        }
    }
}
