//! Reading objects.

use http::{Method, Response, StatusCode};
use kodiak_storage_api::{Layout, ObjectRecord};

use super::S3Front;
use super::bucket::acl;
use super::call::Call;
use super::error::{Answer, S3Error};
use super::metadata::{checksum_headers, record_headers};
use super::versions::{self, Opened, Requested};
use crate::http::{Conditions, Decision, Payload, Ranges, RequestBody, RequestedRanges, empty, payload};
use crate::large::{self, Large};
use crate::store::OpenObject;

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
            return self.object_acl(call).await;
        }
        for undone in ["tagging", "retention", "legal-hold", "torrent", "restore", "select", "renameObject"] {
            if call.has(undone) {
                return Err(S3Error::not_implemented());
            }
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

    async fn object_acl(&self, call: &Call) -> Answer {
        self.open(call).await?;
        match call.method {
            Method::GET => acl(call),
            Method::PUT if call.header("x-amz-acl") == Some("private") => {
                Ok(Response::builder().header("content-length", 0).body(empty())?)
            }
            _ => Err(S3Error::not_implemented()),
        }
    }

    /// The object or the version that the request names; its bytes may be those of a Swift large
    /// object's segments.
    pub(super) async fn open(&self, call: &Call) -> Result<Opened, S3Error> {
        self.open_requested(call, Requested::of(call)?).await
    }

    /// The segments of an object that is a Swift manifest. The signer owns the account, hence all of them.
    pub(super) async fn large(&self, call: &Call, object: &OpenObject) -> Result<Option<Large>, S3Error> {
        let principal = call.principal.clone();
        let owns = move |directory: &kodiak_storage_api::Directory| {
            principal.owns(directory.name.split('/').next().unwrap_or(""))
        };
        let access: large::Access = std::sync::Arc::new(owns);
        Ok(large::open(&self.store, &access, object).await?)
    }

    async fn get_object(&self, call: &Call) -> Answer {
        let Opened { object, large, version } = self.open(call).await?;
        let record = object.record();
        let etag = large.as_ref().map_or(record.etag.as_str(), |large| large.etag.as_str());
        let modified = record.timestamp.micros().div_ceil(1_000_000);
        let builder = versions::with_version(Response::builder(), version.as_deref());
        let mut builder = record_headers(builder, record, etag);
        match Conditions::from_headers(&call.headers, "").decide(&[etag], modified) {
            Decision::Proceed => {}
            Decision::NotModified => return Ok(builder.status(StatusCode::NOT_MODIFIED).body(empty())?),
            Decision::PreconditionFailed => return Err(S3Error::precondition_failed()),
        }
        let bytes: &dyn Payload = large.as_ref().map_or(&object as &dyn Payload, |large| &large.segments);
        let (ranges, parts) = ranges(call, record, bytes.length())?;
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

/// The bytes that a GET asks for, by `Range` or `partNumber`, and with the latter the number of parts.
fn ranges(call: &Call, record: &ObjectRecord, length: u64) -> Result<(Ranges, Option<usize>), S3Error> {
    let requested = call.header("range").and_then(RequestedRanges::parse);
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
