//! CopyObject, and the sources of part copies.

use futures_util::StreamExt;
use kodiak_storage_api::ObjectRecord;
use percent_encoding::percent_decode_str;

use super::S3Front;
use super::acl;
use super::body::MAX_PUT;
use super::call::{Call, MAX_KEY};
use super::checksum::{Algorithm, Hasher};
use super::error::{Answer, S3Error};
use super::list::iso_millis;
use super::metadata::{self, checksum, keep_checksum};
use super::put::condition;
use super::tags;
use super::versions::{self, Opened, Requested};
use super::xml::Xml;
use crate::http::{Conditions, Decision, Payload};
use crate::large::Large;
use crate::store::{ByteStream, NewObject, OpenObject, Upload};

/// What is copied.
pub(super) struct Source {
    object: OpenObject,
    large: Option<Large>,
    named: Named,
    /// The version's name, in buckets that have versions.
    pub(super) version: Option<String>,
}

/// What an `x-amz-copy-source` names.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Named {
    bucket: String,
    key: String,
    version: Option<Requested>,
}

impl Source {
    pub(super) fn record(&self) -> &ObjectRecord {
        self.object.record()
    }

    fn payload(&self) -> &dyn Payload {
        self.large.as_ref().map_or(&self.object as &dyn Payload, |large| &large.segments)
    }

    /// Bytes of the source.
    pub(super) fn length(&self) -> u64 {
        self.payload().length()
    }

    pub(super) fn stream(&self, range: std::ops::Range<u64>) -> ByteStream {
        self.payload().stream(range)
    }
}

impl S3Front {
    /// Opens the `x-amz-copy-source` of a request, if its conditions hold.
    pub(super) async fn source(&self, call: &Call) -> Result<Source, S3Error> {
        let named = parse_source(call.header("x-amz-copy-source").unwrap_or(""))?;
        let mut of = call.clone();
        (of.bucket, of.key) = (Some(named.bucket.clone()), Some(named.key.clone()));
        let opened = self.open_requested(&of, named.version).await;
        // A marker cannot be copied; nor does the answer tell of it as of what was asked for.
        let marker = |error: S3Error| match error.code {
            "MethodNotAllowed" => S3Error::invalid_request(
                "The source of a copy request may not specifically refer to a delete marker by version id.",
            ),
            _ => error,
        };
        let Opened { object, large, version } = opened.map_err(marker)?;
        let record = object.record();
        let etag = large.as_ref().map_or(record.etag.as_str(), |large| large.etag.as_str());
        let modified = metadata::modified(record).micros().div_ceil(1_000_000);
        let conditions = Conditions::from_headers(&call.headers, "x-amz-copy-source-");
        if conditions.decide(&[etag], modified) != Decision::Proceed {
            return Err(S3Error::precondition_failed());
        }
        Ok(Source { object, large, named, version })
    }

    pub(super) async fn copy_object(&self, call: &Call) -> Answer {
        let bucket = self.bucket_record(call).await?;
        acl::check_object(call, &bucket)?;
        let (policy, mode) = (bucket.policy, versions::mode(&bucket));
        self.check_class(call, policy)?;
        let condition = condition(call)?;
        let source = self.source(call).await?;
        let replace = replaces(call, "x-amz-metadata-directive")?;
        let same = source.named.bucket == call.bucket()
            && source.named.key == call.key()
            && source.named.version.is_none();
        if same && !replace && call.header("x-amz-checksum-algorithm").is_none() {
            return Err(S3Error::invalid_request(
                "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata.",
            ));
        }
        if source.length() > MAX_PUT {
            return Err(S3Error::invalid_request(
                "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120",
            ));
        }
        let mut object = copied(metadata::new_object(call, self.store.now())?, source.record(), replace);
        if !replaces(call, "x-amz-tagging-directive")? {
            object.headers.retain(|(name, _)| name != tags::OBJECT);
            let kept = source.record().headers.iter().find(|(name, _)| name == tags::OBJECT);
            object.headers.extend(kept.cloned());
        }
        let algorithm = match call.header("x-amz-checksum-algorithm") {
            Some(name) => Some(
                Algorithm::parse(name)
                    .ok_or_else(|| S3Error::invalid_argument("Unknown checksum algorithm."))?,
            ),
            None => checksum(source.record()).map(|(algorithm, _)| algorithm),
        };
        let upload = self.store.upload(call.path(), policy, false);
        let length = source.length();
        let (upload, value) = pump(upload, source.stream(0..length), algorithm).await?;
        if let (Some(algorithm), Some(value)) = (algorithm, &value) {
            keep_checksum(&mut object, algorithm, value.clone(), true);
        }
        let staged = upload.finish().await?;
        self.store.archive(&bucket, &call.path()).await?;
        let written = self.store.commit_as(mode, staged, object, condition).await?;
        let record = written.record;
        let mut xml = Xml::root("CopyObjectResult");
        xml.element("LastModified", &iso_millis(record.timestamp));
        xml.element("ETag", &format!("\"{}\"", record.etag));
        if let (Some(algorithm), Some(value)) = (algorithm, value) {
            xml.element(algorithm.element(), &value);
            xml.element("ChecksumType", "FULL_OBJECT");
        }
        let mut response = xml.answer("CopyObjectResult")?;
        versions::insert_version(&mut response, versions::written(mode, written.version).as_deref());
        versions::insert_source(&mut response, source.version.as_deref());
        Ok(response)
    }
}

/// Writes a stream into an upload; the checksum of what passed, if one is wanted.
pub(super) async fn pump(
    mut upload: Upload,
    mut stream: ByteStream,
    algorithm: Option<Algorithm>,
) -> Result<(Upload, Option<String>), S3Error> {
    let mut hasher = algorithm.map(Hasher::new);
    while let Some(data) = stream.next().await {
        let data = data?;
        if let Some(hasher) = &mut hasher {
            hasher.update(&data);
        }
        upload.write(data).await?;
    }
    Ok((upload, hasher.map(Hasher::finish)))
}

/// Whether a directive says to take what the request has instead of what the source has.
fn replaces(call: &Call, directive: &'static str) -> Result<bool, S3Error> {
    match call.header(directive) {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(other) => Err(S3Error::invalid_argument("The directive is neither COPY nor REPLACE.")
            .with("ArgumentName", directive)
            .with("ArgumentValue", other)),
    }
}

/// What a copy stores: what the request has, or else what the source has. Tags are apart.
fn copied(new: NewObject, record: &ObjectRecord, replace: bool) -> NewObject {
    if replace {
        return new;
    }
    let kept = |name: &str| {
        !name.starts_with("x-object-sysmeta-")
            && name != crate::large::STATIC
            && name != crate::large::DYNAMIC
    };
    let tags = new.headers.into_iter().filter(|(name, _)| name == tags::OBJECT);
    NewObject {
        content_type: record.content_type.clone(),
        headers: record.headers.iter().filter(|(name, _)| kept(name)).cloned().chain(tags).collect(),
        expires_at: new.expires_at.or(record.expires_at),
        ..NewObject::default()
    }
}

fn parse_source(value: &str) -> Result<Named, S3Error> {
    let wrong = || {
        S3Error::invalid_argument(
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
        )
    };
    let (path, version) = match value.split_once('?') {
        None => (value, None),
        Some((path, query)) => {
            let version = query.strip_prefix("versionId=").ok_or_else(wrong)?;
            (path, Some(Requested::parse(version)?))
        }
    };
    let path = percent_decode_str(path).decode_utf8().map_err(|_| wrong())?;
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (bucket, key) = path.split_once('/').ok_or_else(wrong)?;
    if bucket.is_empty() || key.is_empty() || key.len() > MAX_KEY || path.contains('\0') {
        return Err(wrong());
    }
    Ok(Named { bucket: bucket.to_owned(), key: key.to_owned(), version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_bucket_and_a_key_and_takes_no_parameter_but_a_version() {
        let source = |version| Named { bucket: "b".to_owned(), key: "k/ü?".to_owned(), version };
        for text in ["/b/k/%C3%BC%3F", "b/k/ü%3F"] {
            assert_eq!(parse_source(text), Ok(source(None)), "{text}");
        }
        assert_eq!(parse_source("b/k/ü%3F?versionId=null"), Ok(source(Some(Requested::Null))));
        for text in [
            "",
            "/",
            "b",
            "b/",
            "/b",
            "b/k?x",
            "b/k?versionId=null&x",
            "b/k?versionId=x",
            "b/k?x&versionId=null",
            "b/%ff",
        ] {
            assert_eq!(parse_source(text).expect_err(text).code, "InvalidArgument");
        }
        assert!(parse_source("b/k?versionId=1234567890.12345").is_ok());
    }
}
