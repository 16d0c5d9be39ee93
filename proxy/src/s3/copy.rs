//! CopyObject, and the sources of part copies.

use futures_util::StreamExt;
use http::StatusCode;
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
use super::xml::Xml;
use crate::http::{Conditions, Decision, Payload};
use crate::large::Large;
use crate::store::{ByteStream, NewObject, OpenObject, Upload};

/// What is copied.
pub(super) struct Source {
    object: OpenObject,
    large: Option<Large>,
    bucket_and_key: (String, String),
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
        let (bucket, key) = parse_source(call.header("x-amz-copy-source").unwrap_or(""))?;
        let mut of = call.clone();
        (of.bucket, of.key) = (Some(bucket.clone()), Some(key.clone()));
        let (object, large) = self.open(&of).await?;
        let record = object.record();
        let etag = large.as_ref().map_or(record.etag.as_str(), |large| large.etag.as_str());
        let modified = metadata::modified(record).micros().div_ceil(1_000_000);
        let conditions = Conditions::from_headers(&call.headers, "x-amz-copy-source-");
        if conditions.decide(&[etag], modified) != Decision::Proceed {
            return Err(S3Error::precondition_failed());
        }
        Ok(Source { object, large, bucket_and_key: (bucket, key) })
    }

    pub(super) async fn copy_object(&self, call: &Call) -> Answer {
        let bucket = self.bucket_info(call).await?.directory;
        acl::check_object(call, &bucket)?;
        let policy = bucket.policy;
        let condition = condition(call)?;
        let source = self.source(call).await?;
        let replace = replaces(call, "x-amz-metadata-directive")?;
        let same = source.bucket_and_key == (call.bucket().to_owned(), call.key().to_owned());
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
        let record = self.store.commit(upload.finish().await?, object, condition).await?;
        let mut xml = Xml::root("CopyObjectResult");
        xml.element("LastModified", &iso_millis(record.timestamp));
        xml.element("ETag", &format!("\"{}\"", record.etag));
        if let (Some(algorithm), Some(value)) = (algorithm, value) {
            xml.element(algorithm.element(), &value);
            xml.element("ChecksumType", "FULL_OBJECT");
        }
        xml.answer("CopyObjectResult")
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

fn parse_source(value: &str) -> Result<(String, String), S3Error> {
    let wrong = || {
        S3Error::invalid_argument(
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
        )
    };
    // A question mark of the key itself is sent encoded.
    let (path, query) = value.split_once('?').map_or((value, None), |(path, query)| (path, Some(query)));
    let version = query.map(|query| query.strip_prefix("versionId=").ok_or_else(wrong)).transpose()?;
    if version.is_some_and(|version| version.contains('&')) {
        return Err(wrong());
    }
    if version.is_some_and(|version| version != "null") {
        let message = "The version does not exist: buckets are not versioned.";
        return Err(S3Error::new(StatusCode::NOT_FOUND, "NoSuchVersion", message));
    }
    let path = percent_decode_str(path).decode_utf8().map_err(|_| wrong())?;
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (bucket, key) = path.split_once('/').ok_or_else(wrong)?;
    if bucket.is_empty() || key.is_empty() || key.len() > MAX_KEY || path.contains('\0') {
        return Err(wrong());
    }
    Ok((bucket.to_owned(), key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_bucket_and_a_key_and_takes_no_parameter_but_a_version() {
        let source = ("b".to_owned(), "k/ü?".to_owned());
        for text in ["/b/k/%C3%BC%3F", "b/k/ü%3F", "b/k/ü%3F?versionId=null"] {
            assert_eq!(parse_source(text), Ok(source.clone()), "{text}");
        }
        for text in
            ["", "/", "b", "b/", "/b", "b/k?x", "b/k?versionId=null&x", "b/k?x&versionId=null", "b/%ff"]
        {
            assert_eq!(parse_source(text).expect_err(text).code, "InvalidArgument");
        }
        assert_eq!(parse_source("b/k?versionId=7").expect_err("a version").code, "NoSuchVersion");
    }
}
