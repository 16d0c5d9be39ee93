//! The older versioning: a container names another one, in which a copy of what is overwritten is kept.
//!
//! Source: Swift's "Object Versioning (Legacy)" reference. With `X-Versions-Location` the copies are a
//! stack, from which a DELETE takes the last one back; with `X-History-Location` a DELETE keeps a copy and
//! leaves a marker. Copies are named by the length of the name in hex, the name, and when it was written.

use futures_util::StreamExt;
use http::StatusCode;
use kodiak_storage_api::{Directory, DirectoryInfo, Entry, ListQuery, ObjectPath, Row};

use crate::store::{DELETE_MARKER, Mode, NewObject, OpenObject, Precondition, StoreError, Versioning};
use crate::swift::SwiftFront;
use crate::swift::account::done;
use crate::swift::call::{Call, decode};
use crate::swift::error::{Answer, SwiftError};

const LOCATION: &str = "x-container-sysmeta-versions-location";
const MODE: &str = "x-container-sysmeta-versions-mode";
const STACK_HEADER: &str = "x-versions-location";
const HISTORY_HEADER: &str = "x-history-location";
/// Copies that are looked at in one go.
const PAGE: usize = 100;

/// Where the copies of a container's objects are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Location<'a> {
    value: &'a str,
    history: bool,
}

impl<'a> Location<'a> {
    pub(super) fn of(container: &'a Directory) -> Option<Location<'a>> {
        let value = container.header(LOCATION)?;
        Some(Location { value, history: container.header(MODE) == Some("history") })
    }

    /// The header that tells of it.
    pub(super) fn header(&self) -> &'static str {
        if self.history { HISTORY_HEADER } else { STACK_HEADER }
    }

    /// As it was given, percent-encoded.
    pub(super) fn value(&self) -> &'a str {
        self.value
    }

    fn container(&self) -> String {
        decode(self.value).unwrap_or_default()
    }
}

/// Whether a header of a container says where copies are kept.
pub(super) fn is_location(name: &str) -> bool {
    name == LOCATION
}

/// What a PUT or POST of a container changes of where copies are kept.
pub(super) fn changes(
    call: &Call,
    info: Option<&DirectoryInfo>,
    changes: &mut Vec<(String, String)>,
) -> Result<(), SwiftError> {
    let given = |name: &'static str| call.header(name).filter(|value| !value.is_empty());
    let (location, mode) = match (given(STACK_HEADER), given(HISTORY_HEADER)) {
        (Some(_), Some(_)) => {
            return Err(SwiftError::bad_request(format!(
                "Only one of {STACK_HEADER} or {HISTORY_HEADER} may be specified"
            )));
        }
        (Some(location), None) => (location, "stack"),
        (None, Some(location)) => (location, "history"),
        (None, None) => {
            let empty = [STACK_HEADER, HISTORY_HEADER].iter().any(|name| call.headers.contains_key(*name));
            let removed = given("x-remove-versions-location").or_else(|| given("x-remove-history-location"));
            if empty || removed.is_some() {
                changes.push((LOCATION.into(), String::new()));
                changes.push((MODE.into(), String::new()));
            }
            return Ok(());
        }
    };
    if decode(location).is_none_or(|name| name.is_empty() || name.contains(['/', '\0'])) {
        return Err(SwiftError::precondition("Container name cannot be empty or contain slashes"));
    }
    if info.is_some_and(|info| Versioning::of(&info.directory) != Versioning::Never) {
        return Err(SwiftError::bad_request("The container keeps versions by X-Versions-Enabled."));
    }
    changes.push((LOCATION.into(), location.into()));
    changes.push((MODE.into(), mode.into()));
    Ok(())
}

fn prefix(object: &str) -> String {
    format!("{:03x}{object}/", object.len())
}

impl SwiftFront {
    /// Copies what a name holds to where its container keeps copies, if it does.
    pub(super) async fn archive(&self, container: &Directory, path: &ObjectPath) -> Result<(), SwiftError> {
        let Some(location) = Location::of(container) else { return Ok(()) };
        let object = match self.store.open(path, container.policy).await {
            Ok(object) => object,
            Err(StoreError::NoObject) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let name = format!("{}{}", prefix(path.object()), object.record().timestamp);
        self.copy_whole(&object, &ObjectPath::new(path.account(), &location.container(), &name)).await
    }

    /// Stores an object again under another name, with all its metadata.
    async fn copy_whole(&self, object: &OpenObject, to: &ObjectPath) -> Result<(), SwiftError> {
        let (policy, mode) = self.place_of(to).await?;
        let record = object.record();
        let mut upload = self.store.upload(to.clone(), policy, false);
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
        self.store.commit_as(mode, upload.finish().await?, copy, Precondition::None).await?;
        Ok(())
    }

    async fn place_of(
        &self,
        path: &ObjectPath,
    ) -> Result<(kodiak_storage_api::PolicyIndex, Mode), SwiftError> {
        match self.store.container(path.account(), path.container()).await {
            Ok(info) => Ok((info.directory.policy, Versioning::of(&info.directory).mode(Mode::Replace))),
            // That the other container is missing is no fault of this object.
            Err(StoreError::NoContainer) => Err(SwiftError::status(StatusCode::PRECONDITION_FAILED)),
            Err(error) => Err(error.into()),
        }
    }

    /// Does what a DELETE does in a container that keeps copies; none if the object is then to be deleted
    /// as any other.
    pub(super) async fn delete_archived(
        &self,
        container: &Directory,
        path: &ObjectPath,
        condition: &Precondition,
    ) -> Result<Option<Answer>, SwiftError> {
        let Some(location) = Location::of(container) else { return Ok(None) };
        if let Precondition::Matches(etags) = condition {
            let current = self.store.head(path, container.policy).await?;
            if !etags.iter().any(|etag| etag == "*" || *etag == current.etag) {
                return Err(SwiftError::status(StatusCode::PRECONDITION_FAILED));
            }
        }
        if location.history {
            self.archive(container, path).await?;
            self.leave_marker(&location, path).await?;
            return Ok(None);
        }
        self.take_back(&location, container, path).await
    }

    async fn leave_marker(&self, location: &Location<'_>, path: &ObjectPath) -> Result<(), SwiftError> {
        let name = format!("{}{}", prefix(path.object()), self.store.clock().now());
        let marker = ObjectPath::new(path.account(), &location.container(), &name);
        let (policy, mode) = self.place_of(&marker).await?;
        let object = NewObject { content_type: DELETE_MARKER.into(), ..NewObject::default() };
        let empty = self.store.upload(marker, policy, false).finish().await?;
        self.store.commit_as(mode, empty, object, Precondition::None).await?;
        Ok(())
    }

    /// Replaces an object by its last copy.
    async fn take_back(
        &self,
        location: &Location<'_>,
        container: &Directory,
        path: &ObjectPath,
    ) -> Result<Option<Answer>, SwiftError> {
        let copies = location.container();
        let mut query =
            ListQuery { prefix: prefix(path.object()), limit: PAGE, reverse: true, ..ListQuery::default() };
        // The marker on top of the stack, once it is found to be what the name shows.
        let mut top: Option<ObjectPath> = None;
        loop {
            let page = self.store.list_objects(path.account(), &copies, query.clone()).await?;
            query.marker = page.entries.last().map(|entry| entry.name().to_owned());
            for entry in page.entries {
                let Entry::Row(Row { name, content_type, .. }) = entry else { continue };
                let copy = ObjectPath::new(path.account(), &copies, &name);
                if content_type == DELETE_MARKER {
                    if top.is_some() {
                        return self.discard(top).await;
                    }
                    match self.store.head(path, container.policy).await {
                        // The object is newer than the marker: it goes, and the marker shows again.
                        Ok(_) => return Ok(None),
                        Err(StoreError::NoObject) => top = Some(copy),
                        Err(error) => return Err(error.into()),
                    }
                } else if self.restore_copy(&copy, path).await? {
                    self.discard(Some(copy)).await?;
                    return match top {
                        Some(_) => self.discard(top).await,
                        None => Ok(Some(done(StatusCode::NO_CONTENT))),
                    };
                }
            }
            if !page.truncated {
                return self.discard(top).await;
            }
        }
    }

    /// Whether the copy was still there.
    async fn restore_copy(&self, copy: &ObjectPath, path: &ObjectPath) -> Result<bool, SwiftError> {
        let (policy, _) = self.place_of(copy).await?;
        match self.store.open(copy, policy).await {
            Ok(object) => self.copy_whole(&object, path).await.map(|()| true),
            Err(StoreError::NoObject) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a copy that is no longer needed, and answers so.
    async fn discard(&self, copy: Option<ObjectPath>) -> Result<Option<Answer>, SwiftError> {
        let Some(copy) = copy else { return Ok(None) };
        let (policy, mode) = self.place_of(&copy).await?;
        self.store.delete_as(mode, &copy, policy, Precondition::None).await?;
        Ok(Some(done(StatusCode::NO_CONTENT)))
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
