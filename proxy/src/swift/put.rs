//! PUT of an object.

use http::{HeaderMap, Response, StatusCode};
use kodiak_storage_api::{ObjectPath, ObjectRecord, PolicyIndex};

use super::SwiftFront;
use super::auth::Want;
use super::call::Call;
use super::error::{Answer, SwiftError};
use super::metadata;
use super::versions::stamp;
use crate::http::{RequestBody, empty, http_date};
use crate::store::{NewObject, Precondition, Staged, StoreError};

/// Largest object that one PUT stores: Swift's 5 GiB and a little.
pub(super) const MAX_FILE: u64 = 5 * 1024 * 1024 * 1024 + 2;

impl SwiftFront {
    pub(super) async fn put_object(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let container = self.container_for(call, Want::Write).await?;
        let policy = container.policy;
        let path = call.object_path()?;
        let length = check_length(call)?;
        self.check_quotas(call, &container, length.unwrap_or(0)).await?;
        let object = self.new_object(call)?;
        let condition = self.condition(call, &path, policy).await?;
        let staged = self.receive(path, policy, body).await?;
        if length.is_none() {
            self.check_quotas(call, &container, staged.size()).await?;
        }
        check_etag(call, &hex::encode(staged.md5()))?;
        let written = self.store_in(&container, staged, object, condition).await?;
        stamp(created(&written.record, &written.record.etag), written.version)
    }

    /// What the request's headers store.
    pub(super) fn new_object(&self, call: &Call) -> Result<NewObject, SwiftError> {
        let meta = metadata::object_meta(&call.headers, self.store.now())?;
        let name = call.target.object.as_deref().unwrap_or("");
        let content_type = metadata::content_type(&call.headers, name)?;
        Ok(NewObject {
            content_type,
            headers: meta.headers,
            expires_at: meta.expires_at,
            ..NewObject::default()
        })
    }

    /// Reads a body into an upload.
    pub(super) async fn receive(
        &self,
        path: ObjectPath,
        policy: PolicyIndex,
        body: &mut RequestBody,
    ) -> Result<Staged, SwiftError> {
        let mut upload = self.store.upload(path, policy, false);
        while let Some(data) = body.data().await {
            upload.write(data?).await?;
            if upload.written() > MAX_FILE {
                return Err(SwiftError::status(StatusCode::PAYLOAD_TOO_LARGE));
            }
        }
        Ok(upload.finish().await?)
    }

    /// `If-None-Match: *`, checked before the body is read, and again when it is stored.
    pub(super) async fn condition(
        &self,
        call: &Call,
        path: &ObjectPath,
        policy: PolicyIndex,
    ) -> Result<Precondition, SwiftError> {
        let Some(value) = call.header("if-none-match") else { return Ok(Precondition::None) };
        if value.trim() != "*" {
            return Err(SwiftError::bad_request("If-None-Match only supports *"));
        }
        match self.store.head(path, policy).await {
            Err(StoreError::NoObject) => Ok(Precondition::Absent),
            Ok(_) => Err(SwiftError::status(StatusCode::PRECONDITION_FAILED)),
            Err(error) => Err(error.into()),
        }
    }
}

/// The body's length, where it is said.
fn check_length(call: &Call) -> Result<Option<u64>, SwiftError> {
    let coding = call.header("transfer-encoding").unwrap_or("chunked");
    if !coding.eq_ignore_ascii_case("chunked") {
        return Err(SwiftError::new(
            StatusCode::NOT_IMPLEMENTED,
            "Only chunked transfer encoding is supported.",
        ));
    }
    let length = call.header("content-length");
    match length.map(str::parse::<u64>) {
        Some(Ok(length)) if length > MAX_FILE => {
            Err(SwiftError::new(StatusCode::PAYLOAD_TOO_LARGE, "Your request is too large."))
        }
        Some(Ok(length)) => Ok(Some(length)),
        Some(Err(_)) => Err(SwiftError::bad_request("Invalid Content-Length header value")),
        None if call.headers.contains_key("transfer-encoding") => Ok(None),
        None => Err(SwiftError::new(StatusCode::LENGTH_REQUIRED, "Missing Content-Length header.")),
    }
}

/// Compares a request's `ETag` with what was stored.
pub(super) fn check_etag(call: &Call, etag: &str) -> Result<(), SwiftError> {
    match call.header("etag").map(|given| given.trim().trim_matches('"')) {
        Some(given) if !given.is_empty() && !given.eq_ignore_ascii_case(etag) => {
            Err(SwiftError::status(StatusCode::UNPROCESSABLE_ENTITY))
        }
        _ => Ok(()),
    }
}

/// 201 for a new object.
pub(super) fn created(record: &ObjectRecord, etag: &str) -> Answer {
    created_with(record, etag, &HeaderMap::new())
}

/// 201 for a new object, with more headers.
pub(super) fn created_with(record: &ObjectRecord, etag: &str, more: &HeaderMap) -> Answer {
    let mut builder = Response::builder()
        .status(StatusCode::CREATED)
        .header("last-modified", http_date(record.timestamp))
        .header("etag", etag)
        .header("x-timestamp", record.timestamp.to_string())
        .header("content-type", "text/html; charset=UTF-8")
        .header("content-length", 0);
    for (name, value) in more {
        builder = builder.header(name, value);
    }
    Ok(builder.body(empty())?)
}
