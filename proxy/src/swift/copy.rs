//! COPY, and PUT with `X-Copy-From`: the bytes pass through the store, not through the client.

use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use kodiak_storage_api::ObjectRecord;

use super::SwiftFront;
use super::auth::Want;
use super::call::{Call, Target, is_true};
use super::error::{Answer, SwiftError};
use super::put::{MAX_FILE, check_etag, created_with};
use super::symlink;
use super::versions::stamp;
use crate::http::{
    Conditions, Decision, Payload, Ranges, RequestBody, RequestedRanges, http_date, value_bytes,
};
use crate::large;
use crate::large::symlink::is_link;
use crate::store::NewObject;

impl SwiftFront {
    /// COPY of the target to its `Destination`.
    pub(super) async fn copy_object(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let missing = || SwiftError::precondition("Destination header required");
        let destination = call.header("destination").ok_or_else(missing)?;
        let account = named_account(call, "destination-account")?;
        let target = Target::of_header(&account, destination, "Destination")?;
        let source = call.target.clone();
        self.copy(&call.with_target(Method::PUT, target), source, body).await
    }

    /// PUT of the target from its `X-Copy-From`.
    pub(super) async fn put_copy(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let account = named_account(call, "x-copy-from-account")?;
        let source = Target::of_header(&account, call.header("x-copy-from").unwrap_or(""), "X-Copy-From")?;
        self.copy(call, source, body).await
    }

    async fn copy(&self, call: &Call, source: Target, body: &mut RequestBody) -> Answer {
        if let Some(Ok(_)) = body.data().await {
            return Err(SwiftError::bad_request("Copy requests require a zero byte body"));
        }
        let from = call.with_target(Method::GET, source.clone());
        let from_container = self.container_for(&from, Want::Read).await?;
        let mut object = self.open_requested(&from, &from_container).await?;
        if is_link(object.record()) {
            if call.query.get("symlink") == Some("get") {
                return self.copy_symlink(call, &source, object.record()).await;
            }
            object = self.follow(&from, object).await?;
        }
        if call.headers.contains_key(symlink::TARGET) {
            return Err(symlink::not_empty());
        }
        let container = self.container_for(call, Want::Write).await?;
        let record = object.record().clone();
        let whole_manifest = call.query.get("multipart-manifest") == Some("get");
        let segments = if whole_manifest { None } else { self.large_object(&from, &object).await? };
        let bytes: &dyn Payload = segments.as_ref().map_or(&object as &dyn Payload, |large| &large.segments);
        let part = segments.as_ref().zip(call.query.get("part-number").and_then(|part| part.parse().ok()));
        let range = match part {
            Some((large, part)) => large
                .segments
                .part(part)
                .ok_or_else(|| SwiftError::status(StatusCode::RANGE_NOT_SATISFIABLE))?,
            None => source_range(call, &record, bytes)?,
        };
        if range.end - range.start > MAX_FILE {
            return Err(SwiftError::status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        self.check_quotas(call, &container, range.end - range.start).await?;
        let mut new = self.copied(call, &record)?;
        if whole_manifest && record.header(large::STATIC).is_some() {
            let entries = large::parse(&large::whole(&object).await?)?;
            return self.copy_slo(call, &entries, new, &container).await;
        }
        new.headers.retain(|(name, _)| name != large::STATIC && !name.starts_with("x-object-sysmeta-slo"));
        let path = call.object_path()?;
        let policy = container.policy;
        let condition = self.condition(call, &path, policy).await?;
        let mut upload = self.store.upload(path, policy, false);
        let mut stream = bytes.stream(range);
        while let Some(data) = stream.next().await {
            upload.write(data?).await?;
        }
        let staged = upload.finish().await?;
        check_etag(call, &hex::encode(staged.md5()))?;
        let written = self.store_in(&container, staged, new, condition).await?;
        let stored = &written.record;
        let answer = created_with(stored, &stored.etag, &copied_headers(&source, &record, stored));
        stamp(answer, written.version)
    }

    /// The metadata of a copy: the source's, then what the request gives.
    pub(super) fn copied(&self, call: &Call, record: &ObjectRecord) -> Result<NewObject, SwiftError> {
        let mut new = self.new_object(call)?;
        let fresh = call.header("x-fresh-metadata").is_some_and(is_true);
        if call.header("content-type").is_none() {
            new.content_type = record.content_type.clone();
        }
        if fresh {
            return Ok(new);
        }
        for (name, value) in &record.headers {
            // A copy of a large object's bytes is no manifest.
            let manifest = name == "x-object-manifest" && call.query.get("multipart-manifest") != Some("get");
            if !manifest && !new.headers.iter().any(|(given, _)| given == name) {
                new.headers.push((name.clone(), value.clone()));
            }
        }
        if new.expires_at.is_none() && !call.headers.contains_key("x-remove-delete-at") {
            new.expires_at = record.expires_at;
        }
        Ok(new)
    }
}

fn named_account(call: &Call, header: &str) -> Result<String, SwiftError> {
    let Some(value) = call.header(header) else { return Ok(call.account().to_owned()) };
    let account = super::call::decode(value).filter(|account| !account.is_empty() && !account.contains('/'));
    account.ok_or_else(|| SwiftError::precondition("Account name cannot be empty or contain slashes"))
}

/// The source's conditions and range hold for a copy as for a GET.
fn source_range(
    call: &Call,
    record: &ObjectRecord,
    bytes: &dyn Payload,
) -> Result<std::ops::Range<u64>, SwiftError> {
    let mut headers = call.headers.clone();
    // Of the destination, not of the source.
    headers.remove("if-none-match");
    let modified = record.timestamp.micros().div_ceil(1_000_000);
    if Conditions::from_headers(&headers, "").decide(&[&record.etag], modified) != Decision::Proceed {
        return Err(SwiftError::status(StatusCode::PRECONDITION_FAILED));
    }
    let requested = call.header("range").and_then(RequestedRanges::parse);
    match requested.map_or(Ranges::Whole, |ranges| ranges.of(bytes.length())) {
        Ranges::Whole => Ok(0..bytes.length()),
        Ranges::Parts(parts) => match parts.as_slice() {
            [range] => Ok(range.clone()),
            _ => Err(SwiftError::status(StatusCode::RANGE_NOT_SATISFIABLE)),
        },
        Ranges::Unsatisfiable => Err(SwiftError::status(StatusCode::RANGE_NOT_SATISFIABLE)),
    }
}

pub(super) fn copied_headers(source: &Target, record: &ObjectRecord, stored: &ObjectRecord) -> HeaderMap {
    let encode = |text: &str| percent_encoding::utf8_percent_encode(text, super::error::PATH).to_string();
    let from = format!(
        "{}/{}",
        encode(source.container.as_deref().unwrap_or("")),
        encode(source.object.as_deref().unwrap_or(""))
    );
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.insert(name, value);
        }
    };
    put("x-copied-from", &from);
    put("x-copied-from-account", &encode(&source.account));
    put("x-copied-from-last-modified", &http_date(record.timestamp));
    for (name, value) in &stored.headers {
        if name.starts_with("x-object-meta-")
            && let Ok(header) = http::HeaderName::from_bytes(name.as_bytes())
            && let Ok(value) = HeaderValue::from_bytes(&value_bytes(value))
        {
            headers.insert(header, value);
        }
    }
    headers
}
