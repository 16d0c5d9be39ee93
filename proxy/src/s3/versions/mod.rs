//! Versions: `versionId`, a bucket's versioning, and listings of versions (in `list`).
//!
//! A suspended bucket has one version without an id, `null`; what is written replaces it, and a deletion
//! leaves a marker in its place.

mod list;

use http::response::Builder;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use kodiak_storage_api::{Directory, ObjectPath, VersionId};
use serde::Deserialize;

use super::S3Front;
use super::call::Call;
use super::error::{Answer, S3Error};
use super::xml::{self, Xml};
use crate::http::{RequestBody, empty, http_date};
use crate::large::Large;
use crate::store::{
    Deletion, ENABLED, Location, Mode, OpenObject, Precondition, StoreError, Versioning, is_delete_marker,
    is_null, is_null_row,
};

const VERSION_ID: &str = "x-amz-version-id";
const DELETE_MARKER: &str = "x-amz-delete-marker";

/// The version that a request names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Requested {
    /// The one without an id.
    Null,
    Id(VersionId),
}

impl Requested {
    pub(super) fn parse(text: &str) -> Result<Requested, S3Error> {
        if text == "null" {
            return Ok(Requested::Null);
        }
        let wrong = |message| {
            S3Error::invalid_argument(message).with("ArgumentName", "versionId").with("ArgumentValue", text)
        };
        if text.is_empty() {
            return Err(wrong("Version id cannot be the empty string"));
        }
        text.parse().map(Requested::Id).map_err(|_| wrong("Invalid version id specified"))
    }

    /// That of the query, if there is one.
    pub(super) fn of(call: &Call) -> Result<Option<Requested>, S3Error> {
        call.query("versionId").map(Requested::parse).transpose()
    }
}

impl std::fmt::Display for Requested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Requested::Null => f.write_str("null"),
            Requested::Id(id) => id.fmt(f),
        }
    }
}

/// An object that a request reads.
pub(super) struct Opened {
    pub(super) object: OpenObject,
    /// Its segments, if it is a Swift manifest.
    pub(super) large: Option<Large>,
    /// The version's name, in buckets that have versions.
    pub(super) version: Option<String>,
}

#[derive(Deserialize)]
enum Request {
    VersioningConfiguration(Configuration),
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(rename = "Status")]
    status: Option<Status>,
    #[serde(rename = "MfaDelete")]
    mfa_delete: Option<Status>,
}

#[derive(Deserialize, PartialEq, Eq)]
enum Status {
    Enabled,
    Suspended,
    Disabled,
}

/// How writes treat what a bucket has.
pub(super) fn mode(bucket: &Directory) -> Mode {
    Versioning::of(bucket).mode(Mode::ReplaceNull)
}

/// The name of a version that was written in this way, as answers show it.
pub(super) fn written(mode: Mode, version: Option<VersionId>) -> Option<String> {
    match (mode, version) {
        (Mode::Keep, Some(id)) => Some(id.to_string()),
        (Mode::ReplaceNull, _) => Some("null".into()),
        _ => None,
    }
}

/// Adds the version's name to an answer.
pub(super) fn with_version(builder: Builder, version: Option<&str>) -> Builder {
    match version {
        Some(version) => builder.header(VERSION_ID, version),
        None => builder,
    }
}

/// Adds a header with a version's name to an answer that is made already.
pub(super) fn insert<B>(response: &mut Response<B>, name: &'static str, version: Option<&str>) {
    if let Some(version) = version.and_then(|version| HeaderValue::from_str(version).ok()) {
        response.headers_mut().insert(HeaderName::from_static(name), version);
    }
}

/// Adds the name of the version that an answer, made already, is about.
pub(super) fn insert_version<B>(response: &mut Response<B>, version: Option<&str>) {
    insert(response, VERSION_ID, version);
}

/// Adds the name of the version that was copied.
pub(super) fn insert_source<B>(response: &mut Response<B>, version: Option<&str>) {
    insert(response, "x-amz-copy-source-version-id", version);
}

impl S3Front {
    /// Opens a key or one of its versions.
    pub(super) async fn open_requested(
        &self,
        call: &Call,
        requested: Option<Requested>,
    ) -> Result<Opened, S3Error> {
        let bucket = self.bucket_record(call).await?;
        let (path, policy) = (call.path(), bucket.policy);
        let versioned = Versioning::of(&bucket) != Versioning::Never;
        let opened = match requested {
            None => self.store.open(&path, policy).await,
            Some(Requested::Null) if versioned => self.store.open_null_version(&path, policy).await,
            Some(Requested::Null) => self.store.open_null(&path, policy).await,
            Some(Requested::Id(id)) if versioned => self.store.open_version(&path, policy, id).await,
            Some(Requested::Id(_)) => Err(StoreError::NoObject),
        };
        let object = match (opened, requested) {
            (Ok(object), Some(requested)) if is_delete_marker(object.record()) => {
                return Err(S3Error::method_not_allowed()
                    .with_header("allow", "DELETE")
                    .with_header("last-modified", http_date(object.record().timestamp))
                    .with_header(DELETE_MARKER, "true")
                    .with_header(VERSION_ID, requested.to_string()));
            }
            (Ok(object), _) => object,
            (Err(StoreError::NoObject), Some(requested)) => {
                let message = "The specified version does not exist.";
                return Err(S3Error::new(StatusCode::NOT_FOUND, "NoSuchVersion", message)
                    .with("Key", call.key())
                    .with("VersionId", requested.to_string()));
            }
            (Err(StoreError::NoObject), None) => return Err(self.missing(call, &path, versioned).await?),
            (Err(error), _) => return Err(error.into()),
        };
        let version = versioned.then(|| match object.version() {
            Some(id) if !is_null(object.record()) => id.to_string(),
            _ => "null".to_owned(),
        });
        let object = self.followed(call, object).await?;
        let large = self.large(call, &object).await?;
        Ok(Opened { object, large, version })
    }

    /// The answer for a key without an object, which says whether a delete marker hides it.
    async fn missing(&self, call: &Call, path: &ObjectPath, versioned: bool) -> Result<S3Error, S3Error> {
        let missing = S3Error::no_such_key().with("Key", call.key());
        let marker = if versioned { self.store.hiding_marker(path).await? } else { None };
        Ok(match marker {
            Some((id, row)) => {
                let version = if is_null_row(&row) { "null".to_owned() } else { id.to_string() };
                missing.with_header(DELETE_MARKER, "true").with_header(VERSION_ID, version)
            }
            None => missing,
        })
    }

    /// Deletes a key, or one of its versions. What is not there is deleted already.
    pub(super) async fn delete_requested(
        &self,
        (path, bucket): (&ObjectPath, &Directory),
        requested: Option<Requested>,
        condition: Precondition,
    ) -> Result<Deletion, S3Error> {
        let policy = bucket.policy;
        let versioned = Versioning::of(bucket) != Versioning::Never;
        let any = matches!(&condition, Precondition::Matches(etags) if etags.iter().any(|etag| etag == "*"));
        let needed = condition != Precondition::None && requested.is_none();
        let deleted = match requested {
            Some(Requested::Id(id)) if versioned => self.store.delete_version(path, policy, id, true).await,
            Some(Requested::Id(_)) => Err(StoreError::NoObject),
            Some(Requested::Null) if versioned => self.store.delete_null(path, policy).await,
            _ => match self.store.delete_archived(bucket, path, &condition).await {
                Ok(true) => Ok(Deletion { existed: true, version: None, marker: false }),
                Ok(false) => self.store.delete_as(mode(bucket), path, policy, condition).await,
                Err(error) => Err(error),
            },
        };
        let deletion = match deleted {
            Err(StoreError::NoObject) => Deletion { existed: false, version: None, marker: false },
            deleted => deleted?,
        };
        match deletion.existed {
            false if needed && any => Err(S3Error::precondition_failed()),
            false if needed => Err(S3Error::no_such_key()),
            _ => Ok(deletion),
        }
    }

    pub(super) async fn delete_key(
        &self,
        call: &Call,
        bucket: &Directory,
        condition: Precondition,
    ) -> Answer {
        let requested = Requested::of(call)?;
        let deletion = self.delete_requested((&call.path(), bucket), requested, condition).await?;
        let mut builder = Response::builder().status(StatusCode::NO_CONTENT);
        if deletion.marker {
            builder = builder.header(DELETE_MARKER, "true");
        }
        let version = deleted_version(bucket, requested, &deletion);
        Ok(with_version(builder, version.as_deref()).body(empty())?)
    }

    /// `?versioning` of a bucket.
    pub(super) async fn bucket_versioning(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let bucket = self.bucket_record(call).await?;
        match call.method {
            Method::GET => {
                let mut xml = Xml::root("VersioningConfiguration");
                match Versioning::of(&bucket) {
                    Versioning::Never => {}
                    Versioning::Enabled => xml.element("Status", "Enabled"),
                    Versioning::Suspended => xml.element("Status", "Suspended"),
                }
                xml.answer("VersioningConfiguration")
            }
            Method::PUT => self.set_versioning(call, &bucket, body).await,
            _ => Err(S3Error::method_not_allowed()),
        }
    }

    async fn set_versioning(&self, call: &Call, bucket: &Directory, body: &mut RequestBody) -> Answer {
        let text = self.receive_xml(call, body).await?;
        let Request::VersioningConfiguration(wanted) = xml::parse(&text)?;
        if wanted.mfa_delete == Some(Status::Enabled) {
            return Err(S3Error::not_implemented().with("Element", "MfaDelete"));
        }
        let enabled = match wanted.status {
            Some(Status::Enabled) => "True",
            Some(Status::Suspended) => "False",
            Some(Status::Disabled) | None => return Err(S3Error::malformed_xml()),
        };
        if Location::of(bucket).is_some() {
            return Err(S3Error::invalid_request(
                "The bucket keeps versions in another container (X-Versions-Location).",
            ));
        }
        let (account, name) = (call.account(), call.bucket());
        self.store.prepare_versions(account, name, bucket.policy).await?;
        self.store.update_container(account, name, vec![(ENABLED.into(), enabled.into())]).await?;
        Ok(Response::builder().header("content-length", 0).body(empty())?)
    }
}

/// The version that the answer to a deletion names: the one that is gone, or the marker.
pub(super) fn deleted_version(
    bucket: &Directory,
    requested: Option<Requested>,
    deletion: &Deletion,
) -> Option<String> {
    match requested {
        Some(requested) => Some(requested.to_string()),
        None => written(mode(bucket), deletion.version),
    }
}
