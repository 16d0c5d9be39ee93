//! The older versioning: a container names another one, in which a copy of what is overwritten is kept.
//!
//! Source: Swift's "Object Versioning (Legacy)" reference. In stack mode a deletion takes the last copy
//! back; in history mode it keeps a copy and leaves a marker. Copies are named by the length of the name in
//! hex, the name, and when it was written. The copy is on stable storage before what it is of is replaced.

use std::sync::Arc;

use futures_util::StreamExt;
use kodiak_storage_api::{Directory, Entry, ListQuery, ObjectPath, PolicyIndex, Row};
use percent_encoding::percent_decode_str;

use super::{DELETE_MARKER, Mode, Versioning};
use crate::store::{NewObject, OpenObject, Precondition, Store, StoreError};

/// Header of a container: where copies are kept, percent-encoded.
pub const LOCATION: &str = "x-container-sysmeta-versions-location";
/// Header of a container: `stack` or `history`.
pub const LOCATION_MODE: &str = "x-container-sysmeta-versions-mode";
/// Copies that are looked at in one go.
const PAGE: usize = 100;

/// Where the copies of a container's objects are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location<'a> {
    /// As it was given, percent-encoded.
    pub value: &'a str,
    /// In history mode.
    pub history: bool,
}

impl<'a> Location<'a> {
    /// That of a container, if it has one.
    pub fn of(container: &'a Directory) -> Option<Location<'a>> {
        let value = container.header(LOCATION)?;
        Some(Location { value, history: container.header(LOCATION_MODE) == Some("history") })
    }

    fn container(&self) -> String {
        percent_decode_str(self.value).decode_utf8_lossy().into_owned()
    }
}

fn prefix(object: &str) -> String {
    format!("{:03x}{object}/", object.len())
}

impl Store {
    /// Copies what a name holds to where its container keeps copies, if it does.
    pub async fn archive(
        self: &Arc<Self>,
        container: &Directory,
        path: &ObjectPath,
    ) -> Result<(), StoreError> {
        let Some(location) = Location::of(container) else { return Ok(()) };
        let object = match self.open(path, container.policy).await {
            Ok(object) => object,
            Err(StoreError::NoObject) => return Ok(()),
            Err(error) => return Err(error),
        };
        let name = format!("{}{}", prefix(path.object()), object.record().timestamp);
        self.copy_whole(&object, &ObjectPath::new(path.account(), &location.container(), &name)).await
    }

    /// Stores an object again under another name, with all its metadata.
    async fn copy_whole(self: &Arc<Self>, object: &OpenObject, to: &ObjectPath) -> Result<(), StoreError> {
        let (policy, mode) = self.place_of(to).await?;
        let record = object.record();
        let mut upload = self.upload(to.clone(), policy, false);
        let mut stream = object.read(0..record.size);
        while let Some(data) = stream.next().await {
            upload.write(data?).await?;
        }
        let copy = NewObject {
            content_type: record.content_type.clone(),
            headers: record.headers.clone(),
            listing: record.listing.clone(),
            expires_at: record.expires_at,
            etag: Some(record.etag.clone()),
            timestamp: None,
        };
        self.commit_as(mode, upload.finish().await?, copy, Precondition::None).await?;
        Ok(())
    }

    async fn place_of(&self, path: &ObjectPath) -> Result<(PolicyIndex, Mode), StoreError> {
        match self.container(path.account(), path.container()).await {
            Ok(info) => Ok((info.directory.policy, Versioning::of(&info.directory).mode(Mode::Replace))),
            // That the other container is missing is no fault of this object.
            Err(StoreError::NoContainer) => Err(StoreError::PreconditionFailed),
            Err(error) => Err(error),
        }
    }

    /// Does what a DELETE does in a container that keeps copies; whether that is all: if not, the object
    /// is then to be deleted as any other.
    pub async fn delete_archived(
        self: &Arc<Self>,
        container: &Directory,
        path: &ObjectPath,
        condition: &Precondition,
    ) -> Result<bool, StoreError> {
        let Some(location) = Location::of(container) else { return Ok(false) };
        if let Precondition::Matches(etags) = condition {
            let current = self.head(path, container.policy).await?;
            if !etags.iter().any(|etag| etag == "*" || *etag == current.etag) {
                return Err(StoreError::PreconditionFailed);
            }
        }
        if location.history {
            self.archive(container, path).await?;
            self.leave_marker(&location, path).await?;
            return Ok(false);
        }
        self.take_back(&location, container, path).await
    }

    async fn leave_marker(
        self: &Arc<Self>,
        location: &Location<'_>,
        path: &ObjectPath,
    ) -> Result<(), StoreError> {
        let name = format!("{}{}", prefix(path.object()), self.clock().now());
        let marker = ObjectPath::new(path.account(), &location.container(), &name);
        let (policy, mode) = self.place_of(&marker).await?;
        let object = NewObject { content_type: DELETE_MARKER.into(), ..NewObject::default() };
        let empty = self.upload(marker, policy, false).finish().await?;
        self.commit_as(mode, empty, object, Precondition::None).await?;
        Ok(())
    }

    /// Replaces an object by its last copy.
    async fn take_back(
        self: &Arc<Self>,
        location: &Location<'_>,
        container: &Directory,
        path: &ObjectPath,
    ) -> Result<bool, StoreError> {
        let copies = location.container();
        let mut query =
            ListQuery { prefix: prefix(path.object()), limit: PAGE, reverse: true, ..ListQuery::default() };
        // The marker on top of the stack, once it is found to be what the name shows.
        let mut top: Option<ObjectPath> = None;
        loop {
            let page = self.list_objects(path.account(), &copies, query.clone()).await?;
            query.marker = page.entries.last().map(|entry| entry.name().to_owned());
            for entry in page.entries {
                let Entry::Row(Row { name, content_type, .. }) = entry else { continue };
                let copy = ObjectPath::new(path.account(), &copies, &name);
                if content_type == DELETE_MARKER {
                    if top.is_some() {
                        return self.discard(top).await;
                    }
                    match self.head(path, container.policy).await {
                        // The object is newer than the marker: it goes, and the marker shows again.
                        Ok(_) => return Ok(false),
                        Err(StoreError::NoObject) => top = Some(copy),
                        Err(error) => return Err(error),
                    }
                } else if self.restore_copy(&copy, path).await? {
                    self.discard(Some(copy)).await?;
                    return match top {
                        Some(_) => self.discard(top).await,
                        None => Ok(true),
                    };
                }
            }
            if !page.truncated {
                return self.discard(top).await;
            }
        }
    }

    /// Whether the copy was still there.
    async fn restore_copy(
        self: &Arc<Self>,
        copy: &ObjectPath,
        path: &ObjectPath,
    ) -> Result<bool, StoreError> {
        let (policy, _) = self.place_of(copy).await?;
        match self.open(copy, policy).await {
            Ok(object) => self.copy_whole(&object, path).await.map(|()| true),
            Err(StoreError::NoObject) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes a copy that is no longer needed, and answers so.
    async fn discard(self: &Arc<Self>, copy: Option<ObjectPath>) -> Result<bool, StoreError> {
        let Some(copy) = copy else { return Ok(false) };
        let (policy, mode) = self.place_of(&copy).await?;
        self.delete_as(mode, &copy, policy, Precondition::None).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_named_after_the_length_of_the_name() {
        assert_eq!(prefix("o"), "001o/");
        assert_eq!(prefix("\u{e9}t\u{e9}"), "005\u{e9}t\u{e9}/");
    }
}
