//! Completing and aborting multipart uploads.
//!
//! Completing is three steps that a crash may fall between: the upload is marked with the timestamp `T`
//! that its object will have; the object is written at `T` with the parts' extents; parts and upload are
//! removed without their bytes. A repeated request continues where the last one stopped: whether the
//! object was written is seen from the name's newest write, which is `T` or later only then, since
//! nobody else can write a timestamp of this clock.
//!
//! In a bucket that keeps versions the object is the version `T`, and the link to it a step of its own; that
//! version's record tells how far the last one came, and the name's newest write whether it got to the link.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use kodiak_storage_api::{DataId, Extent, Layout, ObjectPath, ObjectRecord, Timestamp, VersionId};
use md5_simd::Md5;
use serde::Deserialize;

use super::S3Front;
use super::call::Call;
use super::checksum::{Algorithm, of_parts};
use super::delete::AT_ONCE;
use super::error::{Answer, S3Error};
use super::metadata::{self, keep_checksum};
use super::multipart::{ALGORITHM, Begun, gone, part_checksum, part_number, part_path};
use super::put::condition;
use super::versions;
use super::xml::{self, Xml};
use crate::http::RequestBody;
use crate::store::{Mode, NewObject, Precondition, StoreError, Written};

/// Smallest part but the last.
const MIN_PART: u64 = 5 << 20;
/// Parts that are looked up at once.
const PAGE: usize = 1000;
/// Stored with an upload once its completion has begun: `T`.
const COMPLETING: &str = "x-object-sysmeta-s3-upload-completing";
/// Stored with an upload that is being aborted.
const ABORTING: &str = "x-object-sysmeta-s3-upload-aborting";
/// Stored with an object: the upload that it was.
const UPLOAD_ID: &str = "x-object-sysmeta-s3-upload-id";

#[derive(Deserialize)]
pub(super) struct CompleteMultipartUpload {
    #[serde(rename = "Part", default)]
    parts: Vec<NamedPart>,
}

#[derive(Deserialize)]
struct NamedPart {
    #[serde(rename = "PartNumber")]
    number: u32,
    #[serde(rename = "ETag")]
    etag: String,
    #[serde(rename = "ChecksumCRC32")]
    crc32: Option<String>,
    #[serde(rename = "ChecksumCRC32C")]
    crc32c: Option<String>,
    #[serde(rename = "ChecksumCRC64NVME")]
    crc64nvme: Option<String>,
    #[serde(rename = "ChecksumSHA1")]
    sha1: Option<String>,
    #[serde(rename = "ChecksumSHA256")]
    sha256: Option<String>,
}

impl NamedPart {
    fn checksum(&self, algorithm: Algorithm) -> Option<&String> {
        match algorithm {
            Algorithm::Crc32 => self.crc32.as_ref(),
            Algorithm::Crc32c => self.crc32c.as_ref(),
            Algorithm::Crc64Nvme => self.crc64nvme.as_ref(),
            Algorithm::Sha1 => self.sha1.as_ref(),
            Algorithm::Sha256 => self.sha256.as_ref(),
        }
    }
}

/// The parts of an object, checked.
#[derive(Default)]
struct Assembly {
    extents: Vec<Extent>,
    etags: Md5,
    parts: u32,
    /// Values and lengths, if every part has one.
    checksums: Vec<(String, u64)>,
}

/// What a completion has come to.
struct Assembled {
    /// The object that it made.
    written: Written,
    /// What the name holds, if anything: the same, unless somebody has changed it since.
    stored: Option<Written>,
    checksum: Option<(Algorithm, String)>,
}

/// The record that an assembly writes.
fn meant(object: &NewObject, extents: &[Extent], at: Timestamp) -> ObjectRecord {
    ObjectRecord {
        timestamp: at,
        size: extents.iter().map(|extent| extent.len).sum(),
        etag: object.etag.clone().unwrap_or_default(),
        content_type: object.content_type.clone(),
        headers: object.headers.clone(),
        listing: object.listing.clone(),
        expires_at: object.expires_at,
        layout: Layout::Extents(extents.to_vec()),
    }
}

impl S3Front {
    pub(super) async fn complete(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let begun = match self.begun(call).await {
            Ok(begun) => begun,
            Err(error) if error.code == "NoSuchUpload" => return self.completed_before(call, error).await,
            Err(error) => return Err(error),
        };
        let text = self.receive_xml(call, body).await?;
        let wanted: CompleteMultipartUpload = xml::parse(&text)?;
        if wanted.parts.is_empty() || wanted.parts.len() > 10_000 {
            return Err(S3Error::malformed_xml());
        }
        if wanted.parts.windows(2).any(|pair| pair[1].number <= pair[0].number) {
            return Err(S3Error::invalid_part_order());
        }
        if let Some(at) = completing(&begun.record)
            && self.is_assembled(call, &begun, at).await?
        {
            let written = self.assembled(call, &begun, at).await?;
            self.clean_up(call, &begun, written.as_ref()).await?;
            return match written.filter(|written| is_of(&written.record, &begun.id)) {
                Some(Written { record, version }) => {
                    let checksum = owned_checksum(&record);
                    self.completed(call, &record, checksum, versions::written(begun.mode, version))
                }
                None => Err(S3Error::no_such_upload()),
            };
        }
        let assembly = self.assembly(call, &begun, &wanted.parts).await?;
        let Assembled { written, stored, checksum } = self.assemble(call, &begun, assembly).await?;
        self.clean_up(call, &begun, stored.as_ref()).await?;
        let version = versions::written(begun.mode, written.version);
        self.completed(call, &written.record, checksum, version)
    }

    /// Whether an earlier attempt has written the object, at the time that it chose.
    async fn is_assembled(&self, call: &Call, begun: &Begun, at: Timestamp) -> Result<bool, S3Error> {
        let (path, policy) = (call.path(), begun.policy);
        let last = self.store.last_write(&path, policy).await?;
        if begun.mode == Mode::Replace {
            return Ok(last >= Some(at));
        }
        let id = VersionId(at);
        if self.store.last_write_of_version(&path, policy, id).await?.is_none() {
            return Ok(if begun.mode == Mode::Keep { last == Some(at) } else { last >= Some(at) });
        }
        if last < Some(at) {
            // It came as far as the version, but not to the link.
            match self.store.restore(&path, policy, id).await {
                Ok(_) | Err(StoreError::NoObject) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// What a completion at this time has written, or what has taken its place since.
    async fn assembled(&self, call: &Call, begun: &Begun, at: Timestamp) -> Result<Option<Written>, S3Error> {
        let (path, policy) = (call.path(), begun.policy);
        if begun.mode != Mode::Replace {
            match self.store.head_version(&path, policy, VersionId(at)).await {
                Ok(record) => return Ok(Some(Written { record, version: Some(VersionId(at)) })),
                Err(StoreError::NoObject) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match self.store.open(&path, policy).await {
            Ok(object) => {
                let (record, version) = (object.record().clone(), object.version());
                Ok(Some(Written { record, version }))
            }
            Err(StoreError::NoObject) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// An upload that is gone may be one whose completion was answered to nobody.
    async fn completed_before(&self, call: &Call, error: S3Error) -> Answer {
        let bucket = self.bucket_record(call).await?;
        match self.store.open(&call.path(), bucket.policy).await {
            Ok(object) if is_of(object.record(), call.query("uploadId").unwrap_or("")) => {
                let version = versions::written(versions::mode(&bucket), object.version());
                self.completed(call, object.record(), owned_checksum(object.record()), version)
            }
            _ => Err(error),
        }
    }

    fn completed(
        &self,
        call: &Call,
        record: &ObjectRecord,
        checksum: Option<(Algorithm, String)>,
        version: Option<String>,
    ) -> Answer {
        let host = call.header("host").unwrap_or("localhost");
        let key = super::list::encoded(call.key(), true);
        let mut xml = Xml::root("CompleteMultipartUploadResult");
        xml.element("Location", &format!("http://{host}/{}/{key}", call.bucket()));
        xml.element("Bucket", call.bucket());
        xml.element("Key", call.key());
        xml.element("ETag", &format!("\"{}\"", record.etag));
        if let Some((algorithm, value)) = checksum {
            xml.element(algorithm.element(), &value);
            xml.element("ChecksumType", record.header(metadata::CHECKSUM_TYPE).unwrap_or("COMPOSITE"));
        }
        let mut response = xml.answer("CompleteMultipartUploadResult")?;
        versions::insert_version(&mut response, version.as_deref());
        Ok(response)
    }

    /// Looks up and checks the parts that a completion names.
    async fn assembly(&self, call: &Call, begun: &Begun, wanted: &[NamedPart]) -> Result<Assembly, S3Error> {
        let algorithm = begun.checksum().map(|(algorithm, _)| algorithm);
        let mut assembly = Assembly::default();
        for (index, named) in wanted.iter().enumerate() {
            let record = match self.store.head(&part_path(call, &begun.id, named.number), begun.policy).await
            {
                Ok(record) => record,
                Err(StoreError::NoObject) => return Err(S3Error::invalid_part()),
                Err(error) => return Err(error.into()),
            };
            if record.etag != named.etag.trim().trim_matches('"') {
                return Err(S3Error::invalid_part());
            }
            if record.size < MIN_PART && index + 1 < wanted.len() {
                return Err(S3Error::entity_too_small()
                    .with("PartNumber", named.number.to_string())
                    .with("ProposedSize", record.size.to_string())
                    .with("MinSizeAllowed", MIN_PART.to_string()));
            }
            if let Some((algorithm, value)) = part_checksum(&record).filter(|(a, _)| Some(*a) == algorithm) {
                if named.checksum(algorithm).is_some_and(|given| *given != value) {
                    return Err(S3Error::invalid_part());
                }
                assembly.checksums.push((value, record.size));
            }
            let mut md5 = [0; 16];
            hex::decode_to_slice(&record.etag, &mut md5).map_err(|_| S3Error::internal())?;
            assembly.etags.update(&md5);
            assembly.parts += 1;
            if let Layout::Extents(extents) = record.layout {
                assembly.extents.extend(extents);
            }
        }
        Ok(assembly)
    }

    async fn assemble(&self, call: &Call, begun: &Begun, assembly: Assembly) -> Result<Assembled, S3Error> {
        let condition = condition(call)?;
        check_announced(call, begun, &assembly)?;
        let mut object = NewObject {
            content_type: begun.record.content_type.clone(),
            headers: begun.record.headers.clone(),
            etag: Some(format!("{}-{}", hex::encode(assembly.etags.finalize()), assembly.parts)),
            expires_at: begun.record.expires_at,
            ..NewObject::default()
        };
        object.headers.retain(|(name, _)| {
            !matches!(name.as_str(), ALGORITHM | COMPLETING | ABORTING) && name != metadata::CHECKSUM_TYPE
        });
        object.headers.push((UPLOAD_ID.into(), begun.id.clone()));
        let mut checksum = None;
        if let Some((algorithm, full)) = begun.checksum()
            && assembly.checksums.len() == assembly.parts as usize
            && let Some(value) = of_parts(algorithm, &assembly.checksums, full)
        {
            let whole = if full { value.as_str() } else { value.split('-').next().unwrap_or("") };
            if call.header(algorithm.header()).is_some_and(|given| given != value && given != whole) {
                return Err(S3Error::wrong_checksum(algorithm.name()));
            }
            keep_checksum(&mut object, algorithm, value.clone(), full);
            checksum = Some((algorithm, value));
        }
        self.store.archive(&begun.bucket, &call.path()).await?;
        let at = self.mark(begun).await?;
        let (place, meant) = ((call.path(), begun.policy), meant(&object, &assembly.extents, at));
        let assembled =
            self.store.assemble_as(begun.mode, place, assembly.extents, (object, at), condition).await;
        match assembled {
            Ok(written) => Ok(Assembled { stored: Some(written.clone()), written, checksum }),
            // Somebody has repeated this completion, or has written or deleted the name at a later time: then
            // the object was there, at `at`, and is gone again.
            Err(StoreError::Conflict(_)) => {
                let stored = self.assembled(call, begun, at).await?;
                let ours = stored.clone().filter(|stored| is_of(&stored.record, &begun.id));
                let written = ours.unwrap_or(Written { record: meant, version: None });
                Ok(Assembled { written, stored, checksum })
            }
            Err(error) => {
                // A version may be stored already: another attempt goes on with it.
                let nothing = matches!(error, StoreError::PreconditionFailed | StoreError::NoObject);
                if nothing || begun.mode != Mode::Keep {
                    self.unmark(begun).await?;
                }
                Err(error.into())
            }
        }
    }

    /// Marks an upload as being completed, at the timestamp that an earlier attempt chose, if any.
    async fn mark(&self, begun: &Begun) -> Result<Timestamp, S3Error> {
        let fresh = self.store.clock().now();
        let mark = hex::encode(fresh.to_bytes());
        let edit = move |record: &mut ObjectRecord| {
            if record.header(ABORTING).is_some() {
                return Err(StoreError::NoObject);
            }
            if record.header(COMPLETING).is_none() {
                record.headers.push((COMPLETING.into(), mark.clone()));
            }
            Ok(())
        };
        match self.store.update_object(&begun.path, begun.policy, edit).await {
            Ok(record) => Ok(completing(&record).unwrap_or(fresh)),
            Err(StoreError::NoObject) => Err(S3Error::no_such_upload()),
            Err(error) => Err(error.into()),
        }
    }

    async fn unmark(&self, begun: &Begun) -> Result<(), S3Error> {
        let edit = |record: &mut ObjectRecord| {
            record.headers.retain(|(name, _)| name != COMPLETING);
            Ok(())
        };
        match self.store.update_object(&begun.path, begun.policy, edit).await {
            Ok(_) | Err(StoreError::NoObject) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the records of an upload whose object is written. Parts that the object has taken over
    /// leave their bytes; others take them along.
    async fn clean_up(&self, call: &Call, begun: &Begun, written: Option<&Written>) -> Result<(), S3Error> {
        let taken: &[Extent] = match written.map(|written| &written.record.layout) {
            Some(Layout::Extents(extents)) => extents,
            _ => &[],
        };
        let taken: HashSet<DataId> = taken.iter().map(|extent| extent.data).collect();
        loop {
            let (rows, more) = self.parts(call, begun, 0, PAGE).await?;
            let remove = |row| self.remove_part(part_path(call, &begun.id, part_number(row)), begun, &taken);
            let removals: Vec<_> = rows.iter().map(remove).collect();
            stream::iter(removals).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
            if !more {
                break;
            }
        }
        self.remove(&begun.path, begun).await
    }

    async fn remove_part(
        &self,
        path: ObjectPath,
        begun: &Begun,
        taken: &HashSet<DataId>,
    ) -> Result<(), S3Error> {
        let part = match self.store.head(&path, begun.policy).await {
            Ok(part) => part,
            Err(StoreError::NoObject) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let shared = matches!(&part.layout, Layout::Extents(of) if of.iter().any(|extent| taken.contains(&extent.data)));
        if shared {
            return Ok(self.store.forget(&path, begun.policy).await?);
        }
        self.remove(&path, begun).await
    }

    async fn remove(&self, path: &ObjectPath, begun: &Begun) -> Result<(), S3Error> {
        match self.store.delete_object(path, begun.policy, Precondition::None).await {
            Ok(_) | Err(StoreError::NoObject) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn abort(&self, call: &Call) -> Answer {
        let begun = self.begun(call).await?;
        let edit = |record: &mut ObjectRecord| {
            if record.header(COMPLETING).is_some() {
                return Err(StoreError::Refused("The upload is being completed.".into()));
            }
            if record.header(ABORTING).is_none() {
                record.headers.push((ABORTING.into(), "yes".into()));
            }
            Ok(())
        };
        match self.store.update_object(&begun.path, begun.policy, edit).await {
            Ok(_) => {}
            Err(StoreError::NoObject) => return Err(S3Error::no_such_upload()),
            Err(error) => return Err(error.into()),
        }
        self.clean_up(call, &begun, None).await?;
        gone()
    }
}

/// Whether an object is what became of an upload.
fn is_of(record: &ObjectRecord, upload: &str) -> bool {
    record.header(UPLOAD_ID) == Some(upload)
}

fn owned_checksum(record: &ObjectRecord) -> Option<(Algorithm, String)> {
    metadata::checksum(record).map(|(algorithm, value)| (algorithm, value.to_owned()))
}

/// Compares what a completion says of the whole with what the parts are.
fn check_announced(call: &Call, begun: &Begun, assembly: &Assembly) -> Result<(), S3Error> {
    let size: u64 = assembly.extents.iter().map(|extent| extent.len).sum();
    if call.header("x-amz-mp-object-size").is_some_and(|given| given.parse() != Ok(size)) {
        let message = "The x-amz-mp-object-size that was given is not the size of the parts together.";
        return Err(S3Error::invalid_request(message));
    }
    let kind = begun.checksum().map(|(_, full)| if full { "FULL_OBJECT" } else { "COMPOSITE" });
    match (call.header("x-amz-checksum-type"), kind) {
        (Some(given), Some(kind)) if given != kind => {
            let message = format!("The upload was created with the checksum type {kind}.");
            Err(S3Error::invalid_request(message))
        }
        _ => Ok(()),
    }
}

fn completing(record: &ObjectRecord) -> Option<Timestamp> {
    let mut bytes = [0; Timestamp::ENCODED_LEN];
    hex::decode_to_slice(record.header(COMPLETING)?, &mut bytes).ok()?;
    Some(Timestamp::from_bytes(bytes))
}
