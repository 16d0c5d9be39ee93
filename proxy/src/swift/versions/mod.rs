//! Object versioning: `X-Versions-Enabled`, `?versions` and `?version-id=`; and the older
//! `X-Versions-Location` and `X-History-Location` (in `legacy`).
//!
//! Source: Swift's "Object Versioning" reference. How versions are stored is in `store::versions`.

mod legacy;
mod list;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Method, StatusCode};
use kodiak_storage_api::{Directory, DirectoryInfo, Entry, ObjectPath, PolicyIndex, VersionId};

use super::SwiftFront;
use super::account::done;
use super::auth::Want;
use super::call::{Call, is_true};
use super::error::{Answer, SwiftError};
use super::put::created;
use crate::http::RequestBody;
use crate::store::{
    self, Deletion, Location, Mode, NewObject, OpenObject, Precondition, Staged, StoreError, Versioning,
    Written, is_delete_marker,
};

const ENABLED: &str = "x-versions-enabled";
const VERSION_ID: HeaderName = HeaderName::from_static("x-object-version-id");
const CURRENT_VERSION_ID: HeaderName = HeaderName::from_static("x-object-current-version-id");

/// The version that a request names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Requested {
    /// The object without an id.
    Null,
    Id(VersionId),
}

/// The `version-id` of a request. One that a signed URL allows does not name versions: it allows the name.
pub(super) fn requested(call: &Call) -> Result<Option<Requested>, SwiftError> {
    match call.query.get("version-id").filter(|id| !id.is_empty() && call.preauthorized.is_none()) {
        None => Ok(None),
        Some("null") => Ok(Some(Requested::Null)),
        Some(id) => match id.parse() {
            Ok(id) => Ok(Some(Requested::Id(id))),
            Err(_) => Err(SwiftError::bad_request("Invalid version parameter")),
        },
    }
}

/// Whether a request changes the version that it names: not a read, nor a copy, whose source it names.
pub(super) fn changes_version(call: &Call) -> bool {
    match call.method.as_str() {
        "GET" | "HEAD" | "COPY" => false,
        "PUT" => call.header("x-copy-from").is_none(),
        // Deletes the segments too.
        "DELETE" => call.query.get("multipart-manifest") != Some("delete"),
        _ => true,
    }
}

/// Tells which version a write or a deletion has made.
pub(super) fn stamp(answer: Answer, version: Option<VersionId>) -> Answer {
    let mut response = answer?;
    if let Some(id) = version {
        response.headers_mut().insert(VERSION_ID, value(id));
    }
    Ok(response)
}

fn value(id: VersionId) -> HeaderValue {
    HeaderValue::from_str(&id.to_string()).unwrap_or(HeaderValue::from_static("null"))
}

/// A path that names a version, as answers have it.
fn location(path: &ObjectPath, id: VersionId) -> String {
    let path = percent_encoding::utf8_percent_encode(path.as_str(), super::error::PATH);
    format!("/v1/{path}?version-id={id}")
}

impl SwiftFront {
    /// Stores an upload in the way of its container.
    pub(super) async fn store_in(
        &self,
        container: &Directory,
        staged: Staged,
        object: NewObject,
        condition: Precondition,
    ) -> Result<Written, SwiftError> {
        self.store.archive(container, staged.path()).await?;
        let mode = Versioning::of(container).mode(Mode::Replace);
        Ok(self.store.commit_as(mode, staged, object, condition).await?)
    }

    /// Deletes an object in the way of its container; 404 with the marker's id if there was none.
    pub(super) async fn delete_in(
        &self,
        container: &Directory,
        path: &ObjectPath,
        condition: Precondition,
    ) -> Answer {
        if self.store.delete_archived(container, path, &condition).await? {
            return done(StatusCode::NO_CONTENT);
        }
        let mode = Versioning::of(container).mode(Mode::Replace);
        let deleted = self.store.delete_as(mode, path, container.policy, condition).await?;
        match deleted {
            Deletion { existed: true, version, .. } => stamp(done(StatusCode::NO_CONTENT), version),
            Deletion { version, .. } => {
                let missing = SwiftError::not_found();
                Err(match version {
                    Some(id) => missing.with(VERSION_ID, &id.to_string()),
                    None => missing,
                })
            }
        }
    }

    /// The object that a request reads: the current one, or the version that it names.
    pub(super) async fn open_requested(
        &self,
        call: &Call,
        container: &Directory,
    ) -> Result<OpenObject, SwiftError> {
        let (path, policy) = (call.object_path()?, container.policy);
        match requested(call)? {
            None => Ok(self.store.open(&path, policy).await?),
            Some(Requested::Null) => Ok(self.store.open_null(&path, policy).await?),
            Some(Requested::Id(id)) => {
                self.authorize(call, container, Want::Own).await?;
                require_versioned(container)?;
                let object = self.store.open_version(&path, policy, id).await?;
                if is_delete_marker(object.record()) {
                    return Err(marker(object.record().content_type.as_str(), id));
                }
                Ok(object)
            }
        }
    }

    /// Tells which version an answer to a read shows.
    pub(super) fn stamp_read(
        &self,
        call: &Call,
        container: &Directory,
        object: &OpenObject,
        answer: Answer,
    ) -> Answer {
        let null = call.query.get("version-id") == Some("null");
        if Versioning::of(container) == Versioning::Never && !null {
            return answer;
        }
        let mut response = answer?;
        let version = object.version();
        response.headers_mut().insert(VERSION_ID, version.map_or(HeaderValue::from_static("null"), value));
        if let Some(id) = version
            && !call.query.has("version-id")
            && let Ok(location) = HeaderValue::from_str(&location(object.path(), id))
        {
            response.headers_mut().insert(http::header::CONTENT_LOCATION, location);
        }
        Ok(response)
    }

    /// Changes of a version: PUT restores it, DELETE removes it; nothing else is done to one.
    pub(super) async fn change_version(
        &self,
        call: &Call,
        version: Requested,
        body: &mut RequestBody,
    ) -> Answer {
        let want = match (version, &call.method) {
            (Requested::Id(_), &Method::DELETE) => Want::Own,
            _ => Want::Write,
        };
        let container = self.container_for(call, want).await?;
        let (path, policy) = (call.object_path()?, container.policy);
        match (call.method.clone(), version) {
            (Method::DELETE, version) => self.delete_requested(&container, &path, version).await,
            (Method::PUT, Requested::Null) => Err(SwiftError::bad_request("Invalid version parameter")),
            (Method::PUT, Requested::Id(id)) => {
                require_versioned(&container)?;
                if call.header("content-length").is_none() && !call.headers.contains_key("transfer-encoding")
                {
                    return Err(SwiftError::status(StatusCode::LENGTH_REQUIRED));
                }
                if body.data().await.transpose()?.is_some_and(|data| !data.is_empty()) {
                    let message = "PUT version-id requests require a zero byte body";
                    return Err(SwiftError::bad_request(message));
                }
                let restored = self.store.restore(&path, policy, id).await;
                let missing = |error| match error {
                    StoreError::NoObject => {
                        SwiftError::new(StatusCode::NOT_FOUND, "The specified version does not exist")
                    }
                    other => other.into(),
                };
                let Written { record, version } = restored.map_err(missing)?;
                stamp(created(&record, &record.etag), version)
            }
            (method, _) => {
                let message = format!("{method} to a specific version is not allowed");
                Err(SwiftError::bad_request(message))
            }
        }
    }

    /// Deletes a version. What has no id is the object itself, even if that links to a version.
    pub(super) async fn delete_requested(
        &self,
        container: &Directory,
        path: &ObjectPath,
        version: Requested,
    ) -> Answer {
        match version {
            Requested::Id(id) => {
                require_versioned(container)?;
                self.delete_version(path, container.policy, id).await
            }
            Requested::Null if Versioning::of(container) == Versioning::Enabled => {
                self.store.delete_object(path, container.policy, Precondition::None).await?;
                done(StatusCode::NO_CONTENT)
            }
            Requested::Null => self.delete_in(container, path, Precondition::None).await,
        }
    }

    async fn delete_version(&self, path: &ObjectPath, policy: PolicyIndex, id: VersionId) -> Answer {
        match self.store.delete_version(path, policy, id, false).await {
            Ok(_) => {}
            Err(StoreError::NoObject) => {
                return Err(SwiftError::not_found().with(VERSION_ID, &id.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
        let current = match self.store.open(path, policy).await {
            Ok(object) => object.version(),
            Err(StoreError::NoObject) => None,
            Err(error) => return Err(error.into()),
        };
        let mut response = stamp(done(StatusCode::NO_CONTENT), Some(id))?;
        let current = current.map_or(HeaderValue::from_static("null"), value);
        response.headers_mut().insert(CURRENT_VERSION_ID, current);
        Ok(response)
    }

    /// What a PUT or POST of a container changes of its versioning. `info`: the container, if it is there.
    pub(super) async fn versioning_changes(
        &self,
        call: &Call,
        info: Option<&DirectoryInfo>,
        policy: PolicyIndex,
        changes: &mut Vec<(String, String)>,
    ) -> Result<(), SwiftError> {
        legacy::changes(call, info, changes)?;
        let Some(wanted) = call.header(ENABLED).filter(|value| !value.is_empty()) else { return Ok(()) };
        let legacy = info.is_some_and(|info| Location::of(&info.directory).is_some());
        if legacy || changes.iter().any(|(name, value)| name == store::LOCATION && !value.is_empty()) {
            return Err(SwiftError::bad_request(
                "Cannot enable object versioning on a container that is already using the legacy versioned \
                 writes feature.",
            ));
        }
        if info.is_some_and(|info| info.directory.header("x-container-sync-to").is_some()) {
            return Err(SwiftError::bad_request(
                "Cannot enable object versioning on a container configured as source of container syncing.",
            ));
        }
        let enabled = is_true(wanted);
        if enabled {
            self.store.prepare_versions(call.account(), call.container(), policy).await?;
        }
        changes.push((store::ENABLED.into(), if enabled { "True" } else { "False" }.into()));
        Ok(())
    }

    /// The headers that tell of a container's versioning.
    pub(super) fn versioning_headers(
        &self,
        container: &Directory,
        mut builder: http::response::Builder,
    ) -> http::response::Builder {
        if let Some(enabled) = container.header(store::ENABLED) {
            builder = builder.header(ENABLED, enabled);
        }
        match Location::of(container) {
            Some(location) => builder.header(legacy::header(&location), location.value),
            None => builder,
        }
    }

    /// A container's totals with its versions'.
    pub(super) async fn with_versions(&self, mut info: DirectoryInfo) -> Result<DirectoryInfo, SwiftError> {
        info.stats.bytes += self.store.version_bytes(&info).await?;
        Ok(info)
    }
}

/// Shows what links link to.
pub(super) fn show_links(call: &Call, page: &mut [Entry]) {
    for entry in page {
        let Entry::Row(row) = entry else { continue };
        let Some(id) = row.version() else { continue };
        let path = ObjectPath::new(call.account(), call.container(), &row.name);
        row.extra.push(("symlink_path".into(), location(&path, id)));
        row.extra.push(("version_symlink".into(), "true".into()));
    }
}

fn require_versioned(container: &Directory) -> Result<(), SwiftError> {
    match Versioning::of(container) {
        Versioning::Never => {
            Err(SwiftError::bad_request("version-aware operations require that the container is versioned"))
        }
        Versioning::Enabled | Versioning::Suspended => Ok(()),
    }
}

/// The answer to a read of a delete marker.
fn marker(content_type: &str, id: VersionId) -> SwiftError {
    SwiftError::new(StatusCode::NOT_FOUND, "")
        .with(VERSION_ID, &id.to_string())
        .with(CONTENT_TYPE, content_type)
}
