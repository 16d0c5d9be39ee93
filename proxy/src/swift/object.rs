//! Objects: `/v1/{account}/{container}/{object}`. PUT is in `put`, COPY in `copy`.

use http::response::Builder;
use http::{Method, Response, StatusCode};
use kodiak_storage_api::{ObjectPath, ObjectRecord, PolicyIndex};

use super::SwiftFront;
use super::account::done;
use super::auth::Want;
use super::call::Call;
use super::error::{Answer, SwiftError};
use super::{metadata, symlink, versions};
use crate::http::{
    Conditions, Decision, Payload, Ranges, RequestBody, RequestedRanges, header, http_date, payload,
    value_bytes,
};
use crate::large::symlink::{Link, is_link};
use crate::store::{OpenObject, Precondition, StoreError};

/// Headers that a POST replaces even if it does not name them.
const REPLACED_BY_POST: [&str; 7] = [
    "content-disposition",
    "content-encoding",
    "content-language",
    "cache-control",
    "expires",
    "x-robots-tag",
    "x-object-manifest",
];

impl SwiftFront {
    pub(super) async fn object(&self, call: &Call, body: &mut RequestBody) -> Answer {
        if let Some(version) = versions::requested(call)?
            && versions::changes_version(call)
        {
            return self.change_version(call, version, body).await;
        }
        match call.method.as_str() {
            "GET" | "HEAD" => self.get_object(call).await,
            "PUT" if symlink::is_wanted(call) => self.put_symlink(call, body).await,
            "PUT" if call.query.get("multipart-manifest") == Some("put") => self.put_slo(call, body).await,
            "PUT" if call.header("x-copy-from").is_some() => self.put_copy(call, body).await,
            "PUT" => self.put_object(call, body).await,
            "POST" => self.post_object(call).await,
            "DELETE" if call.query.get("multipart-manifest") == Some("delete") => self.delete_slo(call).await,
            "DELETE" => self.delete_object(call).await,
            "COPY" => self.copy_object(call, body).await,
            _ => Err(SwiftError::status(StatusCode::METHOD_NOT_ALLOWED)),
        }
    }

    async fn get_object(&self, call: &Call) -> Answer {
        let container = self.container_for(call, Want::Read).await?;
        let object = self.open_requested(call, &container).await?;
        if is_link(object.record()) {
            return self.get_symlink(call, object).await;
        }
        let answer = self.get_opened(call, &object).await;
        self.stamp_read(call, &container, &object, answer)
    }

    /// Answers with an object that is no link.
    pub(super) async fn get_opened(&self, call: &Call, object: &OpenObject) -> Answer {
        let record = object.record();
        if call.query.get("multipart-manifest") == Some("get") {
            return match record.header("x-static-large-object") {
                Some(_) => self.slo_manifest(call, object).await,
                None => answer(call, record, &shown_etag(record), object),
            };
        }
        self.get_whole(call, object).await
    }

    async fn post_object(&self, call: &Call) -> Answer {
        symlink::refuse_on_post(call)?;
        let container = self.container_for(call, Want::Write).await?;
        let meta = metadata::object_meta(&call.headers, self.store.now())?;
        let content_type = header(&call.headers, "content-type").filter(|t| !t.is_empty()).map(str::to_owned);
        let path = call.object_path()?;
        let edit = move |record: &mut ObjectRecord| {
            record.headers.retain(|(name, _)| {
                !name.starts_with("x-object-meta-") && !REPLACED_BY_POST.contains(&name.as_str())
            });
            record.headers.extend(meta.headers.iter().cloned());
            record.expires_at = meta.expires_at;
            if let Some(content_type) = &content_type {
                record.content_type = content_type.clone();
            }
            Ok(())
        };
        let record = self.store.update_object(&path, container.policy, edit).await?;
        match Link::of(&record, call.account()) {
            Some(link) => symlink::redirect(&link),
            None => done(StatusCode::ACCEPTED),
        }
    }

    pub(super) async fn delete_object(&self, call: &Call) -> Answer {
        let container = self.container_for(call, Want::Write).await?;
        let path = call.object_path()?;
        self.check_delete_at(call, &path, container.policy).await?;
        let condition = match call.header("if-match") {
            Some(list) => Precondition::Matches(crate::http::etags(list)),
            None => Precondition::None,
        };
        self.delete_in(&container, &path, condition).await
    }
}

impl SwiftFront {
    /// `X-If-Delete-At`: only if the object is to end at exactly this time.
    async fn check_delete_at(
        &self,
        call: &Call,
        path: &ObjectPath,
        policy: PolicyIndex,
    ) -> Result<(), SwiftError> {
        let Some(text) = call.header("x-if-delete-at") else { return Ok(()) };
        let at: u64 = text.parse().map_err(|_| SwiftError::bad_request("Bad X-If-Delete-At header value"))?;
        match self.store.head(path, policy).await {
            Ok(record) if record.expires_at == Some(at) => Ok(()),
            Ok(_) => Err(SwiftError::status(StatusCode::PRECONDITION_FAILED)),
            Err(StoreError::NoObject) => Err(SwiftError::not_found()),
            Err(error) => Err(error.into()),
        }
    }
}

/// An object's ETag as Swift shows it: in quotes where it is no MD5.
pub(super) fn shown_etag(record: &ObjectRecord) -> std::borrow::Cow<'_, str> {
    if record.etag.contains('-') {
        format!("\"{}\"", record.etag).into()
    } else {
        record.etag.as_str().into()
    }
}

/// What a record answers in headers, but for its length, type and ETag.
pub(super) fn record_headers(record: &ObjectRecord) -> Builder {
    let mut builder = Response::builder()
        .header("last-modified", http_date(record.timestamp))
        .header("x-timestamp", record.timestamp.to_string())
        .header("accept-ranges", "bytes");
    for (name, value) in &record.headers {
        if !name.starts_with("x-object-sysmeta-") {
            builder = builder.header(name.as_str(), &*value_bytes(value));
        }
    }
    // An S3 multipart object's ETag is no MD5, which clients expect of all but large objects.
    if record.etag.contains('-') {
        builder = builder.header(crate::large::STATIC, "True");
    }
    match record.expires_at {
        Some(at) => builder.header("x-delete-at", at),
        None => builder,
    }
}

/// Answers a GET or HEAD with an object's bytes, after its conditions and ranges.
pub(super) fn answer(call: &Call, record: &ObjectRecord, etag: &str, source: &dyn Payload) -> Answer {
    let modified = record.timestamp.micros().div_ceil(1_000_000);
    let bare = etag.trim_matches('"');
    let builder = record_headers(record).header("etag", etag);
    let conditions = Conditions::from_headers(&call.headers, "");
    // RFC 9110 lets If-Match win over If-Unmodified-Since; Swift holds to both.
    let unmodified = conditions.if_unmodified_since.is_none_or(|since| modified <= since);
    let decision =
        if unmodified { conditions.decide(&[bare], modified) } else { Decision::PreconditionFailed };
    match decision {
        Decision::Proceed => {}
        Decision::NotModified => return bodiless(builder, StatusCode::NOT_MODIFIED),
        Decision::PreconditionFailed => return bodiless(builder, StatusCode::PRECONDITION_FAILED),
    }
    let ranges = ranges(call, bare, modified, source.length());
    let head = call.method == Method::HEAD;
    let ranges = if head { Ranges::Whole } else { ranges };
    if ranges == Ranges::Unsatisfiable {
        let page = SwiftError::status(StatusCode::RANGE_NOT_SATISFIABLE).into_response();
        let (mut parts, body) = page.into_parts();
        let (own, _) = builder.body(())?.into_parts();
        for (name, value) in own.headers.iter().filter(|(name, _)| *name != "content-length") {
            parts.headers.entry(name).or_insert(value.clone());
        }
        let range = http::HeaderValue::from_str(&format!("bytes */{}", source.length()));
        parts.headers.extend(range.ok().map(|range| (http::header::CONTENT_RANGE, range)));
        return Ok(Response::from_parts(parts, body));
    }
    Ok(payload(builder, &record.content_type, source, ranges, head)?)
}

fn bodiless(builder: Builder, status: StatusCode) -> Answer {
    let builder =
        if status == StatusCode::NOT_MODIFIED { builder } else { builder.header("content-length", 0) };
    Ok(builder.status(status).body(crate::http::empty())?)
}

fn ranges(call: &Call, etag: &str, modified: u64, length: u64) -> Ranges {
    let Some(requested) = call.header("range").and_then(RequestedRanges::parse) else { return Ranges::Whole };
    if let Some(condition) = call.header("if-range") {
        let same = match crate::http::parse_http_date(condition) {
            Some(since) => modified <= since,
            None => crate::http::etags(condition).iter().any(|tag| tag == etag),
        };
        if !same {
            return Ranges::Whole;
        }
    }
    requested.of(length)
}
