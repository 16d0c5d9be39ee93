//! The headers that are stored with an object, and how they are answered.

use http::response::Builder;
use kodiak_storage_api::{ObjectRecord, Row, Timestamp};

use super::call::Call;
use super::checksum::Algorithm;
use super::error::S3Error;
use super::storage_class::STANDARD;
use super::tags;
use crate::http::{expires_at, http_date, value_bytes};
use crate::store::NewObject;

/// Longest user metadata, names and values together.
const MAX_METADATA: usize = 2048;
/// Headers that are kept as they come.
const KEPT: [&str; 5] =
    ["cache-control", "content-disposition", "content-language", "expires", "x-robots-tag"];
/// Whether a checksum is of the whole or of the parts' checksums.
pub(super) const CHECKSUM_TYPE: &str = "x-object-sysmeta-s3-checksum-type";
/// Headers of requests for what Kodiak does not do: saying yes would be a lie.
const REFUSED: [&str; 7] = [
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-object-lock-legal-hold",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
];
/// When the object itself was written, microseconds since 1970, if its record was changed since.
const MODIFIED: &str = "x-object-sysmeta-s3-modified";
/// The same in a listing row.
const LISTED_MODIFIED: &str = "-modified";

/// What a request's headers store; `now` in seconds since 1970.
pub(super) fn new_object(call: &Call, now: u64) -> Result<NewObject, S3Error> {
    check_supported(call)?;
    let mut object = NewObject {
        content_type: call
            .header("content-type")
            .filter(|t| !t.is_empty())
            .unwrap_or("binary/octet-stream")
            .to_owned(),
        expires_at: expires_at(&call.headers, now).map_err(S3Error::invalid_argument)?,
        ..NewObject::default()
    };
    let tags = tags::of_header(call)?;
    if !tags.is_empty() {
        object.headers.push((tags::OBJECT.into(), tags));
    }
    let mut total = 0;
    for (name, value) in &call.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if let Some(name) = name.as_str().strip_prefix("x-amz-meta-") {
            total += name.len() + value.len();
            keep_metadata(&mut object, format!("x-object-meta-{name}"), value);
        } else if KEPT.contains(&name.as_str()) {
            object.headers.push((name.as_str().to_owned(), value));
        } else if name.as_str() == "content-encoding" {
            // The transfer's own encoding is not the object's.
            let kept: Vec<&str> =
                value.split(',').map(str::trim).filter(|coding| *coding != "aws-chunked").collect();
            if !kept.is_empty() && !kept[0].is_empty() {
                object.headers.push(("content-encoding".into(), kept.join(",")));
            }
        }
    }
    if total > MAX_METADATA {
        return Err(S3Error::metadata_too_large());
    }
    Ok(object)
}

fn check_supported(call: &Call) -> Result<(), S3Error> {
    if let Some(name) = REFUSED.into_iter().find(|name| call.headers.contains_key(*name)) {
        return Err(S3Error::not_implemented().with("Header", name));
    }
    Ok(())
}

/// Keeps a metadata header; lines of the same name are one value, as in HTTP.
fn keep_metadata(object: &mut NewObject, name: String, value: String) {
    match object.headers.last_mut() {
        Some((last, held)) if *last == name => {
            held.push(',');
            held.push_str(&value);
        }
        _ => object.headers.push((name, value)),
    }
}

/// Makes a record that is about to be changed remember when its object was written.
pub(super) fn keep_modified(record: &mut ObjectRecord) {
    if record.header(MODIFIED).is_none() {
        let micros = record.timestamp.micros().to_string();
        record.headers.push((MODIFIED.into(), micros.clone()));
        record.listing.push((LISTED_MODIFIED.into(), micros));
    }
}

/// When an object was written.
pub(super) fn modified(record: &ObjectRecord) -> Timestamp {
    written(record.header(MODIFIED), record.timestamp)
}

/// When the object of a row was written.
pub(super) fn row_modified(row: &Row) -> Timestamp {
    written(row.extra(LISTED_MODIFIED), row.timestamp)
}

fn written(kept: Option<&str>, changed: Timestamp) -> Timestamp {
    let kept = kept.and_then(|micros| micros.parse().ok());
    kept.map_or(changed, |micros| Timestamp::from_micros(micros, 0))
}

/// Keeps a checksum with an object and in its listing row.
pub(super) fn keep_checksum(object: &mut NewObject, algorithm: Algorithm, value: String, full: bool) {
    let kind = if full { "FULL_OBJECT" } else { "COMPOSITE" };
    object.headers.push((algorithm.stored().into(), value));
    object.headers.push((CHECKSUM_TYPE.into(), kind.into()));
    // A leading dash: shown by S3's listings only.
    object.listing.push(("-checksum".into(), algorithm.name().into()));
    object.listing.push(("-checksum-type".into(), kind.into()));
}

/// The checksum that an object has.
pub(super) fn checksum(record: &ObjectRecord) -> Option<(Algorithm, &str)> {
    Algorithm::ALL.into_iter().find_map(|algorithm| Some((algorithm, record.header(algorithm.stored())?)))
}

/// The headers of an object's answer, but for length, range and type.
pub(super) fn record_headers(
    mut builder: Builder,
    record: &ObjectRecord,
    etag: &str,
    class: &str,
) -> Builder {
    // The usual one is not mentioned.
    if class != STANDARD {
        builder = builder.header("x-amz-storage-class", class);
    }
    builder = builder
        .header("last-modified", http_date(modified(record)))
        .header("etag", format!("\"{etag}\""))
        .header("accept-ranges", "bytes");
    for (name, value) in &record.headers {
        if let Some(name) = name.strip_prefix("x-object-meta-") {
            builder = builder.header(format!("x-amz-meta-{name}"), &*value_bytes(value));
        } else if KEPT.contains(&name.as_str()) || name == "content-encoding" {
            builder = builder.header(name.as_str(), &*value_bytes(value));
        } else if name == tags::OBJECT {
            builder = builder.header("x-amz-tagging-count", tags::count(value));
        }
    }
    match record.expires_at {
        // The name by which Swift's users know the rule.
        Some(at) => builder.header(
            "x-amz-expiration",
            format!(
                "expiry-date=\"{}\", rule-id=\"swift-object-expiration\"",
                http_date(Timestamp::from_micros(at.saturating_mul(1_000_000), 0))
            ),
        ),
        None => builder,
    }
}

/// The checksum headers of an answer.
pub(super) fn checksum_headers(builder: Builder, record: &ObjectRecord) -> Builder {
    let Some((algorithm, value)) = checksum(record) else { return builder };
    let kind = record.header(CHECKSUM_TYPE).unwrap_or("FULL_OBJECT");
    builder.header(algorithm.header(), value).header("x-amz-checksum-type", kind)
}
