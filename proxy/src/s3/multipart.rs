//! Multipart uploads but for their completion.
//!
//! An upload and its parts are objects of accounts that no client can name (they begin with NUL): the
//! upload `key NUL id` in the container of its bucket's name of the account [`UPLOADS`], its parts
//! `id NUL number` in that of [`PARTS`]. A part's bytes are always blocks, so that completing takes them over as they are.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, Response, StatusCode};
use kodiak_storage_api::{Directory, Entry, ListQuery, ObjectPath, ObjectRecord, PolicyIndex, Row};
use rand::RngCore;

use super::S3Front;
use super::acl;
use super::bucket::owner;
use super::call::Call;
use super::checksum::Algorithm;
use super::copy::pump;
use super::delete::AT_ONCE;
use super::error::{Answer, S3Error};
use super::list::{encoded, iso_millis, max, url_encoded};
use super::metadata::{self, CHECKSUM_TYPE, checksum};
use super::versions;
use super::xml::Xml;
use crate::http::{Ranges, RequestBody, RequestedRanges, empty, http_date};
use crate::store::{Mode, NewObject, PARTS, Precondition, StoreError, UPLOADS};

/// Stored with an upload: the algorithm of its checksums.
pub(super) const ALGORITHM: &str = "x-object-sysmeta-s3-upload-algorithm";
/// What Swift says of bodies that are empty.
const NO_CONTENT_TYPE: &str = "text/html; charset=UTF-8";
/// Highest part number.
const MAX_PART: u32 = 10_000;

/// A multipart upload that was begun.
pub(super) struct Begun {
    pub(super) path: ObjectPath,
    pub(super) record: ObjectRecord,
    /// Policy of the bucket, of the parts, and of the object.
    pub(super) policy: PolicyIndex,
    /// The bucket.
    pub(super) bucket: Arc<Directory>,
    /// How its writes treat what is there.
    pub(super) mode: Mode,
    pub(super) id: String,
}

impl Begun {
    /// The algorithm of its checksums, and whether they are of the whole object.
    pub(super) fn checksum(&self) -> Option<(Algorithm, bool)> {
        let algorithm = Algorithm::parse(self.record.header(ALGORITHM)?)?;
        Some((algorithm, self.record.header(CHECKSUM_TYPE) == Some("FULL_OBJECT")))
    }
}

fn uploads_account(call: &Call) -> String {
    format!("{UPLOADS}{}", call.account())
}

fn parts_account(call: &Call) -> String {
    format!("{PARTS}{}", call.account())
}

/// Where a part lies.
pub(super) fn part_path(call: &Call, id: &str, number: u32) -> ObjectPath {
    ObjectPath::new(&parts_account(call), call.bucket(), &format!("{id}\0{number:05}"))
}

/// The number of a part's row.
pub(super) fn part_number(row: &Row) -> u32 {
    row.name.rsplit_once('\0').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

impl S3Front {
    pub(super) async fn multipart(&self, call: &Call, body: &mut RequestBody) -> Answer {
        match (&call.method, call.has("uploadId")) {
            (&Method::POST, false) => self.begin_upload(call).await,
            (&Method::PUT, true) if call.headers.contains_key("x-amz-copy-source") => {
                self.copy_part(call).await
            }
            (&Method::PUT, true) => self.put_part(call, body).await,
            (&Method::GET, true) => self.list_parts(call).await,
            (&Method::POST, true) => self.complete(call, body).await,
            (&Method::DELETE, true) => self.abort(call).await,
            _ => Err(S3Error::method_not_allowed()),
        }
    }

    async fn begin_upload(&self, call: &Call) -> Answer {
        let bucket = self.bucket_record(call).await?;
        acl::check_object(call, &bucket)?;
        let policy = bucket.policy;
        self.check_class(call, policy)?;
        let mut object = metadata::new_object(call, self.store.now())?;
        let chosen = chosen_checksum(call)?;
        if let Some((algorithm, full)) = chosen {
            let kind = if full { "FULL_OBJECT" } else { "COMPOSITE" };
            object.headers.push((ALGORITHM.into(), algorithm.name().into()));
            object.headers.push((CHECKSUM_TYPE.into(), kind.into()));
        }
        for account in [uploads_account(call), parts_account(call)] {
            if let Err(StoreError::NoContainer) = self.store.container(&account, call.bucket()).await {
                self.store.create_container(&account, call.bucket(), policy, Vec::new()).await?;
            }
        }
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        let id = hex::encode(id);
        let path = ObjectPath::new(&uploads_account(call), call.bucket(), &format!("{}\0{id}", call.key()));
        let staged = self.store.upload(path, policy, false).finish().await?;
        self.store.commit(staged, object, Precondition::Absent).await?;
        let mut xml = Xml::root("InitiateMultipartUploadResult");
        xml.element("Bucket", call.bucket());
        xml.element("Key", call.key());
        xml.element("UploadId", &id);
        let mut response = xml.answer("InitiateMultipartUploadResult")?;
        if let Some((algorithm, full)) = chosen {
            let headers = response.headers_mut();
            headers.insert("x-amz-checksum-algorithm", http::HeaderValue::from_static(algorithm.name()));
            let kind = if full { "FULL_OBJECT" } else { "COMPOSITE" };
            headers.insert("x-amz-checksum-type", http::HeaderValue::from_static(kind));
        }
        Ok(response)
    }

    /// The upload that a request names.
    pub(super) async fn begun(&self, call: &Call) -> Result<Begun, S3Error> {
        let id = call.query("uploadId").unwrap_or("").to_owned();
        let bucket = self.bucket_record(call).await?;
        let (policy, mode) = (bucket.policy, versions::mode(&bucket));
        let missing = || S3Error::no_such_upload().with("UploadId", call.query("uploadId").unwrap_or(""));
        if id.is_empty() || id.contains('\0') {
            return Err(missing());
        }
        let path = ObjectPath::new(&uploads_account(call), call.bucket(), &format!("{}\0{id}", call.key()));
        match self.store.head(&path, policy).await {
            Ok(record) => Ok(Begun { path, record, policy, bucket, mode, id }),
            Err(StoreError::NoObject) => Err(missing()),
            Err(error) => Err(error.into()),
        }
    }

    async fn put_part(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let number = number(call)?;
        let begun = self.begun(call).await?;
        let algorithm = begun.checksum().map(|(algorithm, _)| algorithm);
        let path = part_path(call, &begun.id, number);
        let received = self.receive(call, body, (path, begun.policy), (algorithm, true)).await?;
        if let (Some(wanted), Some((given, _))) = (algorithm, &received.checksum)
            && wanted != *given
        {
            let message =
                format!("Checksum Type mismatch occurred, expected checksum Type: {}", wanted.name());
            return Err(S3Error::invalid_request(message));
        }
        let checksum = received.checksum;
        let object = part_object(&checksum);
        let record = self.store.commit(received.staged, object, Precondition::None).await?;
        let mut builder = Response::builder()
            .header("etag", format!("\"{}\"", record.etag))
            .header("last-modified", http_date(record.timestamp))
            .header("content-type", NO_CONTENT_TYPE)
            .header("content-length", 0);
        if let Some((algorithm, value)) = checksum {
            builder = builder.header(algorithm.header(), value);
        }
        Ok(builder.body(empty())?)
    }

    async fn copy_part(&self, call: &Call) -> Answer {
        let number = number(call)?;
        let begun = self.begun(call).await?;
        let source = self.source(call).await?;
        let length = source.length();
        let range = match call.header("x-amz-copy-source-range") {
            None => 0..length,
            Some(text) => {
                let wrong = || {
                    S3Error::invalid_argument(
                        "The x-amz-copy-source-range value must be of the form bytes=first-last",
                    )
                };
                let requested = RequestedRanges::parse(text).ok_or_else(wrong)?;
                let outside = || {
                    S3Error::invalid_argument(format!(
                        "Range specified is not valid for source object of size: {length}"
                    ))
                };
                match requested.of(length) {
                    Ranges::Parts(parts)
                        if parts.len() == 1 && text.ends_with(&format!("-{}", parts[0].end - 1)) =>
                    {
                        parts[0].clone()
                    }
                    Ranges::Parts(_) | Ranges::Unsatisfiable => return Err(outside()),
                    Ranges::Whole => return Err(wrong()),
                }
            }
        };
        let algorithm = begun.checksum().map(|(algorithm, _)| algorithm);
        let part = part_path(call, &begun.id, number);
        let upload = self.store.upload(part, begun.policy, true).part_of(&call.path());
        let (upload, value) = pump(upload, source.stream(range), algorithm).await?;
        let checksum = algorithm.zip(value);
        let object = part_object(&checksum);
        let record = self.store.commit(upload.finish().await?, object, Precondition::None).await?;
        let mut xml = Xml::root("CopyPartResult");
        xml.element("LastModified", &iso_millis(record.timestamp));
        xml.element("ETag", &format!("\"{}\"", record.etag));
        if let Some((algorithm, value)) = checksum {
            xml.element(algorithm.element(), &value);
        }
        let mut response = xml.answer("CopyPartResult")?;
        versions::insert_source(&mut response, source.version.as_deref());
        Ok(response)
    }

    /// All parts of an upload from after `marker`, in order.
    pub(super) async fn parts(
        &self,
        call: &Call,
        begun: &Begun,
        marker: u32,
        limit: usize,
    ) -> Result<(Vec<Row>, bool), S3Error> {
        let query = ListQuery {
            prefix: format!("{}\0", begun.id),
            marker: Some(format!("{}\0{marker:05}", begun.id)),
            limit,
            ..ListQuery::default()
        };
        let page = self.store.list_objects(&parts_account(call), call.bucket(), query).await?;
        let row = |entry| match entry {
            Entry::Row(row) => Some(row),
            Entry::Prefix(_) => None,
        };
        Ok((page.entries.into_iter().filter_map(row).collect(), page.truncated))
    }

    async fn list_parts(&self, call: &Call) -> Answer {
        let begun = self.begun(call).await?;
        let limit = max(call, "max-parts")?;
        let marker = match call.query("part-number-marker").filter(|text| !text.is_empty()) {
            None => 0,
            Some(text) => text.parse::<u32>().map_err(|_| {
                S3Error::invalid_argument(
                    "Provided part-number-marker not an integer or within integer range",
                )
            })?,
        };
        let url = url_encoded(call)?;
        let (rows, truncated) = match limit {
            0 => (Vec::new(), false),
            _ => self.parts(call, &begun, marker, limit).await?,
        };
        let mut xml = Xml::root("ListPartsResult");
        xml.element("Bucket", call.bucket());
        xml.element("Key", &encoded(call.key(), url));
        xml.element("UploadId", &begun.id);
        owner(&mut xml, "Initiator", call);
        owner(&mut xml, "Owner", call);
        xml.element("StorageClass", &self.class(begun.policy));
        xml.value("PartNumberMarker", marker);
        xml.value("NextPartNumberMarker", rows.last().map_or(0, part_number));
        xml.value("MaxParts", limit);
        if url {
            xml.element("EncodingType", "url");
        }
        xml.value("IsTruncated", truncated);
        if let Some((algorithm, full)) = begun.checksum() {
            xml.element("ChecksumAlgorithm", algorithm.name());
            xml.element("ChecksumType", if full { "FULL_OBJECT" } else { "COMPOSITE" });
        }
        for row in &rows {
            xml.open("Part");
            xml.value("PartNumber", part_number(row));
            xml.element("LastModified", &iso_millis(row.timestamp));
            xml.element("ETag", &format!("\"{}\"", row.etag));
            xml.value("Size", row.bytes);
            if let (Some(algorithm), Some(value)) =
                (row.extra("-algorithm").and_then(Algorithm::parse), row.extra("-value"))
            {
                xml.element(algorithm.element(), value);
            }
            xml.close("Part");
        }
        xml.answer("ListPartsResult")
    }

    pub(super) async fn list_uploads(&self, call: &Call) -> Answer {
        let policy = self.bucket_record(call).await?.policy;
        let limit = max(call, "max-uploads")?;
        let url = url_encoded(call)?;
        let (key_marker, id_marker) =
            (call.query("key-marker").unwrap_or(""), call.query("upload-id-marker").unwrap_or(""));
        let marker = match (key_marker, id_marker) {
            ("", _) => None,
            (key, "") => Some(format!("{key}\0\u{10ffff}")),
            (key, id) => Some(format!("{key}\0{id}")),
        };
        let query = ListQuery {
            prefix: call.query("prefix").unwrap_or("").to_owned(),
            delimiter: call.query("delimiter").filter(|d| !d.is_empty()).map(str::to_owned),
            marker,
            limit: limit.max(1),
            ..ListQuery::default()
        };
        let page = match self.store.list_objects(&uploads_account(call), call.bucket(), query).await {
            Err(StoreError::NoContainer) => Default::default(),
            other => other?,
        };
        let split = |name: &str| {
            name.split_once('\0')
                .map_or((name.to_owned(), String::new()), |(k, i)| (k.to_owned(), i.to_owned()))
        };
        // As Swift and AWS do: a page says where the next begins even if there is none, unless it has one
        // upload only.
        let next = page.entries.last().filter(|_| page.truncated || page.entries.len() > 1);
        let (next_key, next_id) = next.map(|entry| split(entry.name())).unwrap_or_default();
        let mut xml = Xml::root("ListMultipartUploadsResult");
        xml.element("Bucket", call.bucket());
        xml.element("KeyMarker", &encoded(key_marker, url));
        xml.element("UploadIdMarker", id_marker);
        xml.element("NextKeyMarker", &encoded(&next_key, url));
        xml.element("NextUploadIdMarker", &next_id);
        if let Some(delimiter) = call.query("delimiter").filter(|d| !d.is_empty()) {
            xml.element("Delimiter", &encoded(delimiter, url));
        }
        xml.element("Prefix", &encoded(call.query("prefix").unwrap_or(""), url));
        xml.value("MaxUploads", limit);
        if url {
            xml.element("EncodingType", "url");
        }
        xml.value("IsTruncated", page.truncated);
        for entry in &page.entries {
            match entry {
                Entry::Prefix(prefix) => {
                    xml.open("CommonPrefixes");
                    xml.element("Prefix", &encoded(prefix, url));
                    xml.close("CommonPrefixes");
                }
                Entry::Row(row) => {
                    let (key, id) = split(&row.name);
                    xml.open("Upload");
                    xml.element("Key", &encoded(&key, url));
                    xml.element("UploadId", &id);
                    owner(&mut xml, "Initiator", call);
                    owner(&mut xml, "Owner", call);
                    xml.element("StorageClass", &self.class(policy));
                    xml.element("Initiated", &iso_millis(row.timestamp));
                    xml.close("Upload");
                }
            }
        }
        xml.answer("ListMultipartUploadsResult")
    }

    /// What is left of uploads when their bucket is gone.
    pub(super) async fn abort_all(&self, call: &Call) -> Result<(), S3Error> {
        for account in [uploads_account(call), parts_account(call)] {
            let policy = match self.store.container(&account, call.bucket()).await {
                Ok(info) => info.directory.policy,
                Err(StoreError::NoContainer) => continue,
                Err(error) => return Err(error.into()),
            };
            loop {
                let query = ListQuery { limit: 1000, ..ListQuery::default() };
                let page = self.store.list_objects(&account, call.bucket(), query).await?;
                if page.entries.is_empty() {
                    break;
                }
                let delete = |entry: Entry| {
                    let path = ObjectPath::new(&account, call.bucket(), entry.name());
                    async move {
                        match self.store.delete_object(&path, policy, Precondition::None).await {
                            Ok(_) | Err(StoreError::NoObject) => Ok(()),
                            Err(error) => Err(error),
                        }
                    }
                };
                let deletes: Vec<_> = page.entries.into_iter().map(delete).collect();
                stream::iter(deletes).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
            }
            self.store.delete_container(&account, call.bucket()).await?;
        }
        Ok(())
    }
}

fn part_object(checksum: &Option<(Algorithm, String)>) -> NewObject {
    let mut object = NewObject { content_type: "application/octet-stream".into(), ..NewObject::default() };
    if let Some((algorithm, value)) = checksum {
        object.headers.push((algorithm.stored().into(), value.clone()));
        object.listing.push(("-algorithm".into(), algorithm.name().into()));
        object.listing.push(("-value".into(), value.clone()));
    }
    object
}

fn number(call: &Call) -> Result<u32, S3Error> {
    let wrong = || {
        S3Error::invalid_argument(format!(
            "Part number must be an integer between 1 and {MAX_PART}, inclusive"
        ))
        .with("ArgumentName", "partNumber")
        .with("ArgumentValue", call.query("partNumber").unwrap_or(""))
    };
    let number = call.query("partNumber").and_then(|text| text.parse::<u32>().ok()).ok_or_else(wrong)?;
    if (1..=MAX_PART).contains(&number) { Ok(number) } else { Err(wrong()) }
}

/// The checksum that an upload's creation asks for, and whether it is of the whole object.
fn chosen_checksum(call: &Call) -> Result<Option<(Algorithm, bool)>, S3Error> {
    let Some(name) = call.header("x-amz-checksum-algorithm") else { return Ok(None) };
    let algorithm = Algorithm::parse(name)
        .ok_or_else(|| S3Error::invalid_request("Checksum algorithm provided is unsupported."))?;
    let full = match call.header("x-amz-checksum-type") {
        None => algorithm == Algorithm::Crc64Nvme,
        Some("FULL_OBJECT") if algorithm.combines() => true,
        Some("COMPOSITE") if algorithm != Algorithm::Crc64Nvme => false,
        Some(_) => {
            let message =
                format!("The checksum type cannot be used with the {} checksum algorithm.", algorithm.name());
            return Err(S3Error::invalid_request(message));
        }
    };
    Ok(Some((algorithm, full)))
}

/// The checksum that a part's record has.
pub(super) fn part_checksum(record: &ObjectRecord) -> Option<(Algorithm, String)> {
    checksum(record).map(|(algorithm, value)| (algorithm, value.to_owned()))
}

/// 204.
pub(super) fn gone() -> Answer {
    Ok(Response::builder().status(StatusCode::NO_CONTENT).body(empty())?)
}
