//! PUT of a static large object's manifest: `?multipart-manifest=put`.

use std::sync::Arc;

use base64::Engine;
use futures_util::{StreamExt, stream};
use http::{Response, StatusCode};
use kodiak_storage_api::{Directory, ObjectPath, ObjectRecord, VersionId};
use serde::Deserialize;
use serde_json::Value;

use super::SwiftFront;
use super::auth::Want;
use super::call::{Call, Target};
use super::error::{Answer, SwiftError};
use super::put::{check_etag, created};
use super::slo_report::{encoded, report};
use super::versions::stamp;
use crate::http::{RequestBody, RequestedRanges, full, iso_date};
use crate::large::symlink::is_link;
use crate::large::{self, ManifestEntry, entries_etag};
use crate::store::{NewObject, Written};

/// Most segments of one manifest.
pub(super) const MAX_SEGMENTS: usize = 1000;
/// Longest manifest, bytes.
pub(super) const MAX_MANIFEST: usize = large::MAX_MANIFEST;
/// Segments that are looked up at once.
const LOOKUPS: usize = 10;
/// Problems that are reported.
const MAX_PROBLEMS: usize = 50;

/// A segment as a client names it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    path: Option<String>,
    #[serde(default)]
    etag: Option<String>,
    #[serde(default)]
    size_bytes: Option<Value>,
    #[serde(default)]
    range: Option<String>,
    #[serde(default)]
    data: Option<String>,
}

/// A segment whose form is right.
#[derive(Clone, Debug)]
pub(super) enum Segment {
    Object { path: ObjectPath, named: String, etag: Option<String>, size: Option<u64>, range: Option<String> },
    Data(String),
}

impl SwiftFront {
    pub(super) async fn put_slo(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let container = self.container_for(call, Want::Write).await?;
        if call.headers.contains_key("x-copy-from") {
            return Err(SwiftError::status(StatusCode::METHOD_NOT_ALLOWED));
        }
        let too_large = || {
            SwiftError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("Manifest File > {MAX_MANIFEST} bytes"))
        };
        let text = body.collect_up_to(MAX_MANIFEST).await?.ok_or_else(too_large)?;
        if text.is_empty()
            && call.header("content-length").is_none()
            && !call.headers.contains_key("transfer-encoding")
        {
            return Err(SwiftError::status(StatusCode::LENGTH_REQUIRED));
        }
        self.check_quotas(call, &container, text.len() as u64).await?;
        let path = call.object_path()?;
        let segments = parse(&text, &path)?;
        let object = self.new_object(call)?;
        let manifest = Manifest { segments, object, container };
        if call.query.is_true("heartbeat") {
            return self.put_slo_slowly(call, manifest);
        }
        self.store_slo(call, manifest).await
    }

    /// Stores a copy of a manifest: its segments are those of the same names in the target's account.
    pub(super) async fn copy_slo(
        &self,
        call: &Call,
        entries: &[ManifestEntry],
        object: NewObject,
        container: &Arc<Directory>,
    ) -> Answer {
        let segment = |entry: &ManifestEntry| match &entry.data {
            Some(data) => Some(Segment::Data(data.clone())),
            None => {
                let path = entry.path(call.account())?;
                let (etag, range) = (Some(entry.hash.clone()), entry.range.clone());
                let named = entry.name.clone();
                Some(Segment::Object { path, named, etag, size: Some(entry.bytes), range })
            }
        };
        let segments = entries.iter().filter_map(segment).collect();
        self.store_slo(call, Manifest { segments, object, container: container.clone() }).await
    }

    async fn store_slo(&self, call: &Call, manifest: Manifest) -> Answer {
        match self.try_store_slo(call, manifest).await {
            Ok(stored) => stamp(created(&stored.record, &stored.etag), stored.version),
            Err(SloError::Problems(problems)) => {
                let (content_type, body) = report(call, &[], &problems);
                let builder = Response::builder()
                    .status(StatusCode::BAD_REQUEST)
                    .header("content-type", content_type)
                    .header("content-length", body.len());
                Ok(builder.body(full(body))?)
            }
            Err(SloError::Refused(error)) => Err(error),
        }
    }

    pub(super) async fn try_store_slo(&self, call: &Call, manifest: Manifest) -> Result<StoredSlo, SloError> {
        let Manifest { segments, mut object, container } = manifest;
        let path = call.object_path()?;
        let (entries, problems) = self.resolve(call, segments).await?;
        if !problems.is_empty() {
            return Err(SloError::Problems(problems));
        }
        let etag = entries_etag(&entries);
        check_etag(call, &etag)?;
        // Large objects of large objects grow a thousandfold with each level.
        let size = entries.iter().try_fold(0, |size: u64, entry| size.checked_add(entry.length()));
        let size = size.filter(|size| *size <= i64::MAX as u64).ok_or_else(|| {
            SwiftError::new(StatusCode::PAYLOAD_TOO_LARGE, "The large object is too large.")
        })?;
        object.headers.retain(|(name, _)| {
            name != large::DYNAMIC && name != large::STATIC && !name.starts_with("x-object-sysmeta-slo-")
        });
        object.headers.push((large::STATIC.into(), "True".into()));
        object.headers.push(("x-object-sysmeta-slo-etag".into(), etag.clone()));
        object.headers.push(("x-object-sysmeta-slo-size".into(), size.to_string()));
        object.listing =
            vec![("slo_etag".into(), format!("\"{etag}\"")), ("slo_bytes".into(), size.to_string())];
        let manifest =
            serde_json::to_vec(&entries).map_err(|error| SwiftError::bad_request(error.to_string()))?;
        let policy = container.policy;
        let condition = self.condition(call, &path, policy).await?;
        let mut upload = self.store.upload(path, policy, false);
        upload.write(manifest.into()).await.map_err(SwiftError::from)?;
        let staged = upload.finish().await.map_err(SwiftError::from)?;
        let Written { record, version } = self.store_in(&container, staged, object, condition).await?;
        Ok(StoredSlo { record, version, etag: format!("\"{etag}\"") })
    }

    /// Looks the segments up and compares them with what the client says of them.
    async fn resolve(
        &self,
        call: &Call,
        segments: Vec<Segment>,
    ) -> Result<(Vec<ManifestEntry>, Vec<Problem>), SwiftError> {
        let looked_up = stream::iter(segments)
            .map(|segment| async move {
                let record = match &segment {
                    Segment::Object { path, .. } => Some(self.segment_record(call, path).await),
                    Segment::Data(_) => None,
                };
                (segment, record)
            })
            .buffered(LOOKUPS)
            .collect::<Vec<_>>();
        let (mut entries, mut problems) = (Vec::new(), Vec::new());
        for (segment, record) in looked_up.await {
            match (segment, record) {
                (Segment::Data(data), _) => entries.push(data_entry(data)),
                (Segment::Object { path, named, etag, size, range }, Some(Ok(record))) => {
                    match entry(&path, &record, (etag, size, range)) {
                        Ok(entry) => entries.push(entry),
                        Err(what) => problems.push((encoded(&named), what)),
                    }
                }
                (Segment::Object { named, .. }, Some(Err(error))) => {
                    let code = error.code();
                    if code.is_server_error() {
                        return Err(error);
                    }
                    problems.push((encoded(&named), code.to_string()));
                }
                (Segment::Object { .. }, None) => {}
            }
            if problems.len() >= MAX_PROBLEMS {
                break;
            }
        }
        Ok((entries, problems))
    }

    async fn segment_record(&self, call: &Call, path: &ObjectPath) -> Result<ObjectRecord, SwiftError> {
        let target = Target {
            account: path.account().into(),
            container: Some(path.container().into()),
            object: Some(path.object().into()),
        };
        let container = self.container_for(&call.with_target(http::Method::HEAD, target), Want::Read).await?;
        let record = self.store.head(path, container.policy).await?;
        if !is_link(&record) {
            return Ok(record);
        }
        let link = self.store.open(path, container.policy).await?;
        Ok(self.follow(call, link).await?.record().clone())
    }
}

/// A manifest that is to be stored.
pub(super) struct Manifest {
    segments: Vec<Segment>,
    object: NewObject,
    /// Of the container.
    container: Arc<Directory>,
}

/// A manifest that has been stored.
pub(super) struct StoredSlo {
    pub(super) record: ObjectRecord,
    /// Its version, if it has an id.
    pub(super) version: Option<VersionId>,
    /// In quotes.
    pub(super) etag: String,
}

/// Why a manifest has not been stored.
pub(super) enum SloError {
    /// Segments are not what the client says of them.
    Problems(Vec<Problem>),
    Refused(SwiftError),
}

impl From<SwiftError> for SloError {
    fn from(error: SwiftError) -> SloError {
        SloError::Refused(error)
    }
}

/// A segment, percent-encoded, and what is wrong with it.
pub(super) type Problem = (String, String);

fn data_entry(data: String) -> ManifestEntry {
    ManifestEntry {
        name: String::new(),
        hash: String::new(),
        bytes: 0,
        content_type: String::new(),
        last_modified: String::new(),
        range: None,
        sub_slo: false,
        data: Some(data),
    }
}

fn entry(
    path: &ObjectPath,
    record: &ObjectRecord,
    (etag, size, range): (Option<String>, Option<u64>, Option<String>),
) -> Result<ManifestEntry, String> {
    let slo_size = record.header("x-object-sysmeta-slo-size").and_then(|size| size.parse().ok());
    let hash = record.header("x-object-sysmeta-slo-etag").unwrap_or(&record.etag);
    let bytes: u64 = slo_size.unwrap_or(record.size);
    if etag.is_some_and(|etag| etag.trim_matches('"') != hash) {
        return Err("Etag Mismatch".into());
    }
    if size.is_some_and(|size| size != bytes) {
        return Err("Size Mismatch".into());
    }
    if bytes == 0 {
        return Err("Too Small; each segment must be at least 1 byte.".into());
    }
    let range = match range {
        None => None,
        Some(range) => {
            let parsed = RequestedRanges::parse(&format!("bytes={range}")).map(|ranges| ranges.of(bytes));
            match parsed {
                Some(crate::http::Ranges::Parts(parts)) if parts.len() == 1 => {
                    let part = &parts[0];
                    let whole = part.start == 0 && part.end == bytes;
                    (!whole).then(|| format!("{}-{}", part.start, part.end - 1))
                }
                _ => return Err("Unsatisfiable Range".into()),
            }
        }
    };
    Ok(ManifestEntry {
        name: format!("/{}/{}", path.container(), path.object()),
        hash: hash.to_owned(),
        bytes,
        content_type: record.content_type.clone(),
        last_modified: iso_date(record.timestamp),
        range,
        sub_slo: slo_size.is_some(),
        data: None,
    })
}

/// Reads a manifest as a client sends it.
pub(super) fn parse(text: &[u8], manifest: &ObjectPath) -> Result<Vec<Segment>, SwiftError> {
    let not_json = || SwiftError::bad_request("Manifest must be valid JSON.\n");
    let list: Value = serde_json::from_slice(text).map_err(|_| not_json())?;
    let Value::Array(list) = list else { return Err(SwiftError::bad_request("Manifest must be a list.\n")) };
    if list.len() > MAX_SEGMENTS {
        let message = format!("Number of object-backed segments must be <= {MAX_SEGMENTS}");
        return Err(SwiftError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let (mut segments, mut problems) = (Vec::new(), Vec::new());
    for (index, value) in list.into_iter().enumerate() {
        match segment(value, manifest) {
            Ok(segment) => segments.push(segment),
            Err(what) => problems.push(format!("Index {index}: {what}\n")),
        }
    }
    if !problems.is_empty() {
        return Err(SwiftError::bad_request(problems.concat()));
    }
    if !segments.iter().any(|segment| matches!(segment, Segment::Object { .. })) {
        return Err(SwiftError::bad_request(
            "Inline data segments require at least one object-backed segment.\n",
        ));
    }
    Ok(segments)
}

fn segment(value: Value, manifest: &ObjectPath) -> Result<Segment, String> {
    if !value.is_object() {
        return Err("not a JSON object".into());
    }
    let wanted: Wanted = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if let Some(data) = wanted.data {
        if wanted.path.is_some()
            || wanted.etag.is_some()
            || wanted.size_bytes.is_some()
            || wanted.range.is_some()
        {
            return Err("extraneous keys beside data".into());
        }
        return match base64::engine::general_purpose::STANDARD.decode(&data) {
            Ok(bytes) if !bytes.is_empty() => Ok(Segment::Data(data)),
            Ok(_) => Err("Too small, inline data must be at least 1 byte".into()),
            Err(_) => Err("data must be valid base64".into()),
        };
    }
    let named = wanted.path.ok_or("expected keys to include one of \"path\" or \"data\"")?;
    let malformed = "path does not refer to an object. Path must be of the form /container/object.";
    let (container, object) = named.trim_start_matches('/').split_once('/').ok_or(malformed)?;
    if container.is_empty() || object.is_empty() || named.contains('\0') {
        return Err(malformed.into());
    }
    let path = ObjectPath::new(manifest.account(), container, object);
    if path == *manifest {
        return Err("manifest must not include itself as a segment".into());
    }
    let size = match wanted.size_bytes {
        None | Some(Value::Null) => None,
        Some(Value::Number(number)) => Some(number.as_u64().ok_or("invalid size_bytes")?),
        Some(Value::String(text)) => Some(text.parse().map_err(|_| "invalid size_bytes")?),
        Some(_) => return Err("invalid size_bytes".into()),
    };
    if size == Some(0) {
        return Err("too small; each segment must be at least 1 byte.".into());
    }
    if wanted.range.as_ref().is_some_and(|range| range.contains(',')) {
        return Err("multiple ranges (only one allowed)".into());
    }
    if wanted.range.as_ref().is_some_and(|range| RequestedRanges::parse(&format!("bytes={range}")).is_none())
    {
        return Err("invalid range".into());
    }
    let etag = wanted.etag.filter(|etag| !etag.is_empty());
    Ok(Segment::Object { path, named, etag, size, range: wanted.range })
}
