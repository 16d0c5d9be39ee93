//! Tags of objects and buckets.
//!
//! They are stored as `x-amz-tagging` sends them, percent-encoded in one way: `key=value&key=value`.

use http::{Method, Response, StatusCode};
use kodiak_storage_api::ObjectRecord;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::S3Front;
use super::call::Call;
use super::error::{Answer, S3Error};
use super::multipart::gone;
use super::versions::Requested;
use super::xml::{self, Xml};
use super::{metadata, query};
use crate::http::{RequestBody, empty};

/// Stored with an object.
pub(super) const OBJECT: &str = "x-object-sysmeta-s3-tagging";
/// Stored with a bucket.
const BUCKET: &str = "x-container-sysmeta-s3-tagging";
/// Most tags of an object.
const MAX_OBJECT: usize = 10;
/// Most tags of a bucket.
const MAX_BUCKET: usize = 50;
/// Longest key of a tag, characters.
const MAX_KEY: usize = 128;
/// Longest value of a tag, characters.
const MAX_VALUE: usize = 256;

#[derive(Deserialize)]
struct Tagging {
    #[serde(rename = "TagSet")]
    set: TagSet,
}

#[derive(Deserialize)]
struct TagSet {
    #[serde(rename = "Tag", default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "Value", default)]
    value: String,
}

/// The stored form of tags, or why they cannot be.
fn stored(tags: &[(String, String)], max: usize) -> Result<String, S3Error> {
    let invalid = |message| Err(S3Error::new(StatusCode::BAD_REQUEST, "InvalidTag", message));
    if tags.len() > max {
        let message = format!("There cannot be more than {max} tags.");
        return Err(S3Error::new(StatusCode::BAD_REQUEST, "BadRequest", message));
    }
    let plain = |text: &str| text.chars().all(|c| c.is_alphanumeric() || " +-=._:/@".contains(c));
    let mut text = String::new();
    for (index, (key, value)) in tags.iter().enumerate() {
        if key.is_empty() || key.chars().count() > MAX_KEY || !plain(key) {
            return invalid("The key of a tag is not valid.");
        }
        if value.chars().count() > MAX_VALUE || !plain(value) {
            return invalid("The value of a tag is not valid.");
        }
        if key.starts_with("aws:") {
            return invalid("Keys of tags cannot begin with aws:");
        }
        if tags[..index].iter().any(|(other, _)| other == key) {
            return invalid("Cannot provide multiple Tags with the same key");
        }
        if index > 0 {
            text.push('&');
        }
        text.extend(utf8_percent_encode(key, NON_ALPHANUMERIC));
        text.push('=');
        text.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    Ok(text)
}

/// The tags of a request's `x-amz-tagging`, in stored form; empty for none.
pub(super) fn of_header(call: &Call) -> Result<String, S3Error> {
    let Some(value) = call.header("x-amz-tagging") else { return Ok(String::new()) };
    let wrong = |_| {
        S3Error::invalid_argument(
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters \
             without tag name duplicates.",
        )
    };
    stored(&query::parse(value).map_err(wrong)?, MAX_OBJECT)
}

/// The tags of an object's document, in stored form.
pub(super) fn of_document(text: &str) -> Result<String, S3Error> {
    parse(text.as_bytes(), MAX_OBJECT)
}

/// How many tags an object has.
pub(super) fn count(stored: &str) -> usize {
    if stored.is_empty() { 0 } else { stored.matches('&').count() + 1 }
}

fn parse(text: &[u8], max: usize) -> Result<String, S3Error> {
    let tagging: Tagging = xml::parse(text)?;
    let tags: Vec<_> = tagging.set.tags.into_iter().map(|tag| (tag.key, tag.value)).collect();
    stored(&tags, max)
}

fn document(stored: &str) -> Answer {
    let mut xml = Xml::root("Tagging");
    xml.open("TagSet");
    for (key, value) in query::parse(stored)? {
        xml.open("Tag");
        xml.element("Key", &key);
        xml.element("Value", &value);
        xml.close("Tag");
    }
    xml.close("TagSet");
    xml.answer("Tagging")
}

impl S3Front {
    /// `?tagging` of an object.
    pub(super) async fn object_tags(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let policy = self.bucket_record(call).await?.policy;
        let requested = Requested::of(call)?;
        let opened = self.open_requested(call, requested).await?;
        if call.method != Method::GET && requested.is_some() {
            // What is tagged is the current version.
            let current = self.open_requested(call, None).await?;
            if current.version != opened.version {
                return Err(S3Error::not_implemented());
            }
        }
        match call.method {
            Method::GET => document(opened.object.record().header(OBJECT).unwrap_or("")),
            Method::PUT => {
                let text = self.receive_xml(call, body).await?;
                self.store.update_object(&call.path(), policy, set(parse(&text, MAX_OBJECT)?)).await?;
                Ok(Response::builder().header("content-length", 0).body(empty())?)
            }
            Method::DELETE => {
                self.store.update_object(&call.path(), policy, set(String::new())).await?;
                gone()
            }
            _ => Err(S3Error::method_not_allowed()),
        }
    }

    /// `?tagging` of a bucket.
    pub(super) async fn bucket_tags(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let directory = self.bucket_record(call).await?;
        let stored = match call.method {
            Method::GET => {
                let none = || {
                    S3Error::new(StatusCode::NOT_FOUND, "NoSuchTagSet", "The bucket has no tags.")
                        .with("BucketName", call.bucket())
                };
                return document(directory.header(BUCKET).ok_or_else(none)?);
            }
            Method::PUT => parse(&self.receive_xml(call, body).await?, MAX_BUCKET)?,
            Method::DELETE => String::new(),
            _ => return Err(S3Error::method_not_allowed()),
        };
        let changes = vec![(BUCKET.to_owned(), stored)];
        self.store.update_container(call.account(), call.bucket(), changes).await?;
        gone()
    }
}

/// Replaces an object's tags and leaves its `Last-Modified`.
fn set(stored: String) -> impl FnMut(&mut ObjectRecord) -> Result<(), crate::store::StoreError> + Send {
    move |record| {
        metadata::keep_modified(record);
        record.headers.retain(|(name, _)| name != OBJECT);
        if !stored.is_empty() {
            record.headers.push((OBJECT.into(), stored.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn tags_are_read_back_as_they_were_given() {
        let text = "<Tagging><TagSet><Tag><Key>a b</Key><Value>c&amp;d</Value></Tag></TagSet></Tagging>";
        assert_eq!(parse(text.as_bytes(), 1).expect_err("an ampersand").code, "InvalidTag");
        let tags = [pair("a+b", "c=d"), pair("é", "")];
        let text = stored(&tags, MAX_OBJECT).expect("valid tags");
        assert_eq!((query::parse(&text), count(&text)), (Ok(tags.to_vec()), 2));
        assert_eq!(count(""), 0);
    }

    #[test]
    fn tags_have_limits() {
        let many: Vec<_> = (0..11).map(|number| pair(&number.to_string(), "")).collect();
        assert_eq!(stored(&many, MAX_OBJECT).expect_err("11 tags").code, "BadRequest");
        let long = "x".repeat(MAX_VALUE + 1);
        let bad = [[pair("", "")], [pair("aws:x", "")], [pair("a", &long)], [pair(&long, "")]];
        for tags in bad {
            assert_eq!(stored(&tags, MAX_OBJECT).expect_err("a bad tag").code, "InvalidTag", "{tags:?}");
        }
        assert_eq!(stored(&[pair("a", ""), pair("a", "b")], 2).expect_err("twice").code, "InvalidTag");
    }
}
