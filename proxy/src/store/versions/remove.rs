//! Deletions: of what is current, which leaves a marker, and of versions, which does not.

use std::collections::HashSet;
use std::sync::Arc;

use kodiak_storage_api::{
    DataId, Entry, Extent, Layout, ListQuery, ObjectPath, ObjectRecord, PolicyIndex, Row, Timestamp, Version,
    VersionId,
};

use super::{
    DELETE_MARKER, Mode, NULL, Versioning, is_delete_marker, is_marker_row, is_null_row, parse_version,
    version_path, versions_container, versions_prefix,
};
use crate::store::commit::{Change, new_record};
use crate::store::{NewObject, Precondition, Store, StoreError};

/// MD5 of nothing.
const EMPTY: &str = "d41d8cd98f00b204e9800998ecf8427e";
/// Versions that are looked at in one go.
const PAGE: usize = 1000;

/// What a deletion has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deletion {
    /// Whether there was what was to be deleted.
    pub existed: bool,
    /// The marker that it has left, or the version that is gone.
    pub version: Option<VersionId>,
    /// Whether that is a delete marker.
    pub marker: bool,
}

impl Store {
    /// Deletes an object in the way of its container.
    pub async fn delete_as(
        self: &Arc<Self>,
        mode: Mode,
        path: &ObjectPath,
        policy: PolicyIndex,
        condition: Precondition,
    ) -> Result<Deletion, StoreError> {
        if mode == Mode::Replace {
            return match self.delete_object(path, policy, condition).await {
                Ok(_) => Ok(Deletion { existed: true, version: None, marker: false }),
                Err(StoreError::NoObject) => Ok(Deletion { existed: false, version: None, marker: false }),
                Err(error) => Err(error),
            };
        }
        self.make_versions_container(path.account(), path.container(), policy).await?;
        let (store, path) = (self.clone(), path.clone());
        self.finish_even_if_dropped(async move {
            let _lock = store.locks.lock(store.map().object(&path, policy)?.hash).await;
            let held = store.record_at(&path, policy).await?;
            let current = held.as_ref().filter(|record| !record.expired(store.now()));
            if condition != Precondition::None {
                let current = current.ok_or(StoreError::NoObject)?;
                if !condition.holds(Some(current), store.now()) {
                    return Err(StoreError::PreconditionFailed);
                }
            }
            let existed = current.is_some();
            if mode == Mode::Keep {
                store.keep_null(&path, policy).await?;
            }
            let id = VersionId(store.clock.now());
            store.put_marker(&path, policy, id, mode == Mode::ReplaceNull).await?;
            if held.is_some() {
                store.write(Change::of(&path, policy), Version::Deleted(Timestamp::ZERO)).await?;
            }
            if mode == Mode::ReplaceNull {
                store.remove_nulls(&path, policy, id.0).await?;
            }
            Ok(Deletion { existed, version: Some(id), marker: true })
        })
        .await
    }

    async fn put_marker(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        id: VersionId,
        null: bool,
    ) -> Result<(), StoreError> {
        let mut object = NewObject { content_type: DELETE_MARKER.into(), ..NewObject::default() };
        if null {
            object.listing.push((NULL.into(), "true".into()));
        }
        let record = new_record(object, EMPTY.into(), 0, Layout::Inline);
        let change = Change { at: Some(id.0), ..Change::of(&version_path(path, id), policy) };
        self.put(change, record).await.map(drop)
    }

    /// Deletes a version. If it was the current one, nothing is current then, or with `promote` the
    /// newest that is left, unless that is a marker; likewise if it is the marker that hid the object.
    pub async fn delete_version(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
        id: VersionId,
        promote: bool,
    ) -> Result<Deletion, StoreError> {
        let (store, path) = (self.clone(), path.clone());
        self.finish_even_if_dropped(async move {
            let _lock = store.locks.lock(store.map().object(&path, policy)?.hash).await;
            store.remove_version(&path, policy, id, promote).await
        })
        .await
    }

    /// Deletes the version without an id, wherever it is, as [`Store::delete_version`] with `promote`.
    pub async fn delete_null(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
    ) -> Result<Deletion, StoreError> {
        let (store, path) = (self.clone(), path.clone());
        self.finish_even_if_dropped(async move {
            let _lock = store.locks.lock(store.map().object(&path, policy)?.hash).await;
            let mut gone = Deletion { existed: false, version: None, marker: false };
            if let Some(record) = store.record_at(&path, policy).await?
                && !matches!(record.layout, Layout::Version(_))
            {
                gone.existed = !record.expired(store.now());
                store.step_back(&path, policy, (VersionId(record.timestamp), true), true).await?;
            }
            for id in store.nulls(&path).await? {
                let removed = store.remove_version(&path, policy, id, true).await?;
                gone.marker |= !gone.existed && removed.marker;
                gone.existed = true;
            }
            Ok(gone)
        })
        .await
    }

    /// The caller holds the name's lock.
    async fn remove_version(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        id: VersionId,
        promote: bool,
    ) -> Result<Deletion, StoreError> {
        let of = version_path(path, id);
        let record = self.record_at(&of, policy).await?.ok_or(StoreError::NoObject)?;
        let marker = is_delete_marker(&record);
        match self.record_at(path, policy).await?.map(|held| held.layout) {
            Some(Layout::Version(current)) if current == id => {
                self.step_back(path, policy, (id, true), promote).await?;
            }
            None if marker && promote && self.newest_versions(path).await?.first().is_some_and(is(id)) => {
                self.step_back(path, policy, (id, false), promote).await?;
            }
            _ => {}
        }
        self.write(Change::of(&of, policy), Version::Deleted(Timestamp::ZERO)).await?;
        Ok(Deletion { existed: true, version: Some(id), marker })
    }

    /// Makes what was before a version the current one, in one write: the newest other version with
    /// `promote` and if it is no marker, else nothing. `held`: there is a record at the name.
    async fn step_back(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        (leaving, held): (VersionId, bool),
        promote: bool,
    ) -> Result<(), StoreError> {
        let newest = if promote { self.newest_versions(path).await? } else { Vec::new() };
        let next = newest.iter().find(|row| !is(leaving)(row)).filter(|row| !is_marker_row(row));
        if let Some((_, id)) = next.and_then(|row| parse_version(&row.name)) {
            let record = self.head_version(path, policy, id).await?;
            return self.link((path, policy), &record, id, None).await;
        }
        if held {
            self.write(Change::of(path, policy), Version::Deleted(Timestamp::ZERO)).await?;
        }
        Ok(())
    }

    /// The marker that hides an object: its newest version if that is one.
    pub async fn hiding_marker(&self, path: &ObjectPath) -> Result<Option<(VersionId, Row)>, StoreError> {
        let newest = self.newest_versions(path).await?.into_iter().next().filter(is_marker_row);
        Ok(newest.and_then(|row| parse_version(&row.name).map(|(_, id)| id).zip(Some(row))))
    }

    /// The two newest versions of an object.
    async fn newest_versions(&self, path: &ObjectPath) -> Result<Vec<Row>, StoreError> {
        let query = ListQuery { prefix: versions_prefix(path.object()), limit: 2, ..ListQuery::default() };
        let page = self.list_objects(path.account(), &versions_container(path.container()), query).await?;
        Ok(page.entries.into_iter().filter_map(row).collect())
    }

    /// The versions of an object that had no id when they were current, newest first.
    pub(super) async fn nulls(&self, path: &ObjectPath) -> Result<Vec<VersionId>, StoreError> {
        let container = versions_container(path.container());
        let mut query =
            ListQuery { prefix: versions_prefix(path.object()), limit: PAGE, ..ListQuery::default() };
        let mut found = Vec::new();
        loop {
            let page = self.list_objects(path.account(), &container, query.clone()).await?;
            query.marker = page.entries.last().map(|entry| entry.name().to_owned());
            let nulls = page.entries.into_iter().filter_map(row).filter(is_null_row);
            found.extend(nulls.filter_map(|row| parse_version(&row.name).map(|(_, id)| id)));
            if !page.truncated {
                return Ok(found);
            }
        }
    }

    /// Deletes the versions without an id that are older than a new one.
    pub(super) async fn remove_nulls(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        before: Timestamp,
    ) -> Result<(), StoreError> {
        for id in self.nulls(path).await?.into_iter().filter(|id| id.0 < before) {
            self.write(Change::of(&version_path(path, id), policy), Version::Deleted(Timestamp::ZERO))
                .await?;
        }
        Ok(())
    }

    /// Of the extents that a record of this name has left behind, those that no other record names: an
    /// object that has become a version shares its extents with that until it is replaced.
    pub(in crate::store) async fn without_kept(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        mut extents: Vec<Extent>,
    ) -> Result<Vec<Extent>, StoreError> {
        let mut kept: HashSet<DataId> = HashSet::new();
        let mut keep = |record: Option<ObjectRecord>| {
            if let Some(Layout::Extents(named)) = record.map(|record| record.layout) {
                kept.extend(named.iter().map(|extent| extent.data));
            }
        };
        // A replica that was behind leaves behind what the name holds now: the write came at another ballot.
        let newest = self.newest_of_all(path, policy).await?;
        keep(newest.and_then(|stored| stored.version.live().cloned()));
        let object = self.versioned_object(path).await?;
        if let Some(object) = object.as_ref().filter(|object| *object != path) {
            keep(self.record_at(object, policy).await?);
        }
        for object in object.into_iter() {
            for id in self.nulls(&object).await? {
                keep(self.record_at(&version_path(&object, id), policy).await?);
            }
        }
        extents.retain(|extent| !kept.contains(&extent.data));
        Ok(extents)
    }

    /// The object that a name is, or is a version of, if it may have versions.
    async fn versioned_object(&self, path: &ObjectPath) -> Result<Option<ObjectPath>, StoreError> {
        if path.account().starts_with('\0') {
            return Ok(None);
        }
        if let Some(container) = path.container().strip_prefix(&versions_container("")) {
            let object = parse_version(path.object());
            return Ok(object.map(|(object, _)| ObjectPath::new(path.account(), container, object)));
        }
        match self.container(path.account(), path.container()).await {
            Ok(info) if Versioning::of(&info.directory) == Versioning::Never => Ok(None),
            Ok(_) => Ok(Some(path.clone())),
            Err(StoreError::NoContainer) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn row(entry: Entry) -> Option<Row> {
    match entry {
        Entry::Row(row) => Some(row),
        Entry::Prefix(_) => None,
    }
}

/// Whether a row of the versions' container is of this version.
fn is(id: VersionId) -> impl Fn(&Row) -> bool {
    move |row| parse_version(&row.name).is_some_and(|(_, found)| found == id)
}
