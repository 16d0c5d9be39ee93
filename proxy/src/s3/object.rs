//! Reading objects.

use http::{Method, Response, StatusCode};
use kodiak_storage_api::{Layout, ObjectRecord};

use super::S3Front;
use super::call::Call;
use super::error::{Answer, S3Error};
use super::metadata::{checksum_headers, modified, record_headers};
use super::versions::{self, Opened, Requested};
use crate::http::{
    Conditions, Decision, Payload, Ranges, RequestBody, RequestedRanges, empty, etags, parse_http_date,
    payload,
};
use crate::large::{self, Large, symlink};
use crate::store::{OpenObject, StoreError};

/// Query parameters that replace headers of an answer.
const RESPONSES: [(&str, &str); 6] = [
    ("response-cache-control", "cache-control"),
    ("response-content-disposition", "content-disposition"),
    ("response-content-encoding", "content-encoding"),
    ("response-content-language", "content-language"),
    ("response-content-type", "content-type"),
    ("response-expires", "expires"),
];

impl S3Front {
    pub(super) async fn object(&self, call: &Call, body: &mut RequestBody) -> Answer {
        if call.has("uploadId") || call.has("uploads") {
            return self.multipart(call, body).await;
        }
        if call.has("acl") {
            return self.acl(call, body).await;
        }
        if call.has("tagging") {
            return self.object_tags(call, body).await;
        }
        if call.has("retention") || call.has("legal-hold") {
            return Err(S3Error::invalid_request("Bucket is missing Object Lock Configuration"));
        }
        if ["torrent", "restore", "select", "renameObject"].iter().any(|undone| call.has(undone)) {
            return Err(S3Error::not_implemented());
        }
        match call.method {
            Method::GET if call.has("attributes") => self.get_attributes(call).await,
            Method::GET | Method::HEAD => self.get_object(call).await,
            Method::PUT if call.has("versionId") => {
                Err(S3Error::invalid_argument("This operation does not accept a version-id."))
            }
            Method::PUT if call.headers.contains_key("x-amz-copy-source") => self.copy_object(call).await,
            Method::PUT => self.put_object(call, body).await,
            Method::DELETE => self.delete_object(call).await,
            Method::POST => Err(S3Error::not_implemented()),
            _ => Err(S3Error::method_not_allowed()),
        }
    }

    /// The object or the version that the request names, or what it is a symlink to; its bytes may be those
    /// of a Swift large object's segments.
    pub(super) async fn open(&self, call: &Call) -> Result<Opened, S3Error> {
        self.open_requested(call, Requested::of(call)?).await
    }

    /// What an object stands for, if it is a symlink.
    pub(super) async fn followed(&self, call: &Call, object: OpenObject) -> Result<OpenObject, S3Error> {
        if !symlink::is_link(object.record()) {
            return Ok(object);
        }
        let followed = symlink::follow(&self.store, &access(call), object).await;
        followed.map_err(|broken| S3Error::from(StoreError::from(*broken)))
    }

    /// The segments of an object that is a Swift manifest.
    pub(super) async fn large(&self, call: &Call, object: &OpenObject) -> Result<Option<Large>, S3Error> {
        if !large::is_manifest(object.record()) {
            return Ok(None);
        }
        Ok(large::open(&self.store, &access(call), object).await?)
    }

    async fn get_object(&self, call: &Call) -> Answer {
        let Opened { object, large, version } = self.open(call).await?;
        let record = object.record();
        let etag = large.as_ref().map_or(record.etag.as_str(), |large| large.etag.as_str());
        let modified = modified(record).micros().div_ceil(1_000_000);
        let builder = versions::with_version(Response::builder(), version.as_deref());
        let mut builder = record_headers(builder, record, etag, &self.class(object.policy()));
        match Conditions::from_headers(&call.headers, "").decide(&[etag], modified) {
            Decision::Proceed => {}
            Decision::NotModified => return Ok(builder.status(StatusCode::NOT_MODIFIED).body(empty())?),
            Decision::PreconditionFailed => return Err(S3Error::precondition_failed()),
        }
        let bytes: &dyn Payload = large.as_ref().map_or(&object as &dyn Payload, |large| &large.segments);
        let (ranges, parts) = ranges(call, record, (etag, modified), bytes.length())?;
        if let Some(parts) = parts {
            builder = builder.header("x-amz-mp-parts-count", parts);
        }
        let whole = ranges == Ranges::Whole;
        if whole
            && call.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("enabled"))
        {
            builder = checksum_headers(builder, record);
        }
        if ranges == Ranges::Unsatisfiable {
            return Err(S3Error::invalid_range().with("ActualObjectSize", bytes.length().to_string()));
        }
        let mut response = payload(builder, &record.content_type, bytes, ranges, call.is_head())?;
        for (parameter, name) in RESPONSES {
            if let Some(value) = call.query(parameter) {
                let value = http::HeaderValue::from_bytes(value.as_bytes());
                let value =
                    value.map_err(|_| S3Error::invalid_argument("A response header is not valid."))?;
                response.headers_mut().insert(name, value);
            }
        }
        Ok(response)
    }
}

/// The signer may read what lies in accounts that it owns.
fn access(call: &Call) -> large::Access {
    let principal = call.principal.clone();
    let owns = move |directory: &kodiak_storage_api::Directory| {
        principal.owns(directory.name.split('/').next().unwrap_or(""))
    };
    std::sync::Arc::new(owns)
}

/// The bytes that a GET asks for, by `Range` or `partNumber`, and with the latter the number of parts.
fn ranges(
    call: &Call,
    record: &ObjectRecord,
    (etag, modified): (&str, u64),
    length: u64,
) -> Result<(Ranges, Option<usize>), S3Error> {
    let same = |condition| match parse_http_date(condition) {
        Some(since) => modified <= since,
        None => etags(condition).iter().any(|tag| tag == etag),
    };
    let requested = call.header("range").and_then(RequestedRanges::parse);
    let requested = requested.filter(|_| call.header("if-range").is_none_or(same));
    let Some(part) = call.query("partNumber") else {
        return Ok((requested.map_or(Ranges::Whole, |ranges| ranges.of(length)), None));
    };
    if requested.is_some() {
        return Err(S3Error::invalid_request(
            "Cannot specify both Range header and partNumber query parameter",
        ));
    }
    let wrong = || S3Error::invalid_argument("Part number must be an integer between 1 and 10000, inclusive");
    let part: usize = part.parse().map_err(|_| wrong())?;
    if !(1..=10_000).contains(&part) {
        return Err(wrong());
    }
    let missing = || {
        let message = "The requested partnumber is not satisfiable";
        S3Error::new(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidPartNumber", message)
    };
    match &record.layout {
        // A multipart object's extents are its parts.
        Layout::Extents(extents) if record.etag.contains('-') => {
            let start: u64 = extents.iter().take(part - 1).map(|extent| extent.len).sum();
            let extent = extents.get(part - 1).ok_or_else(missing)?;
            Ok((Ranges::Parts(vec![start..start + extent.len]), Some(extents.len())))
        }
        _ if part == 1 => Ok((Ranges::Whole, None)),
        _ => Err(missing()),
    }
}
