//! Deleting objects, one or many.

use futures_util::{StreamExt, stream};
use kodiak_storage_api::{Directory, ObjectPath};
use serde::Deserialize;

use super::S3Front;
use super::call::{Call, MAX_KEY};
use super::error::{Answer, S3Error};
use super::versions::{Requested, deleted_version};
use super::xml::{self, Xml};
use crate::http::{RequestBody, etags};
use crate::store::{Deletion, Precondition};

/// Keys of one request.
const MAX_KEYS: usize = 1000;
/// Deletes of one request that are under way at once: the store gathers their writes.
pub(super) const AT_ONCE: usize = 32;

#[derive(Deserialize)]
pub(super) struct Delete {
    #[serde(rename = "Object", default)]
    objects: Vec<Named>,
    #[serde(rename = "Quiet", default)]
    quiet: Option<bool>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "VersionId")]
    version: Option<String>,
    #[serde(rename = "ETag")]
    etag: Option<String>,
}

impl S3Front {
    pub(super) async fn delete_object(&self, call: &Call) -> Answer {
        let bucket = self.bucket_record(call).await?;
        let condition = match call.header("if-match") {
            Some(list) => Precondition::Matches(etags(list)),
            None => Precondition::None,
        };
        self.delete_key(call, &bucket, condition).await
    }

    pub(super) async fn delete_many(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let bucket = self.bucket_record(call).await?;
        let text = self.receive_xml(call, body).await?;
        let wanted: Delete = xml::parse(&text)?;
        if wanted.objects.is_empty() || wanted.objects.len() > MAX_KEYS {
            return Err(S3Error::malformed_xml());
        }
        if wanted.objects.iter().any(|named| named.key.is_empty()) {
            return Err(S3Error::missing_key());
        }
        let mut xml = Xml::root("DeleteResult");
        let delete = |named: Named| async { (self.delete_named(call, &bucket, &named).await, named) };
        let deletes: Vec<_> = wanted.objects.into_iter().map(delete).collect();
        let mut done = stream::iter(deletes).buffered(AT_ONCE);
        while let Some((done, named)) = done.next().await {
            match done {
                Ok(_) if wanted.quiet == Some(true) => {}
                Ok((requested, deletion)) => {
                    xml.open("Deleted");
                    xml.element("Key", &named.key);
                    deleted(&mut xml, &bucket, requested, &deletion);
                    xml.close("Deleted");
                }
                Err(error) => {
                    xml.open("Error");
                    xml.element("Key", &named.key);
                    if let Some(version) = &named.version {
                        xml.element("VersionId", version);
                    }
                    xml.element("Code", error.code);
                    xml.element("Message", error.message());
                    xml.close("Error");
                }
            }
        }
        xml.answer("DeleteResult")
    }

    async fn delete_named(
        &self,
        call: &Call,
        bucket: &Directory,
        named: &Named,
    ) -> Result<(Option<Requested>, Deletion), S3Error> {
        if named.key.contains('\0') {
            return Err(S3Error::invalid_argument("The key is not valid."));
        }
        if named.key.len() > MAX_KEY {
            return Err(S3Error::key_too_long());
        }
        let requested = named.version.as_deref().map(Requested::parse).transpose()?;
        let condition = match &named.etag {
            Some(etag) => Precondition::Matches(etags(etag)),
            None => Precondition::None,
        };
        let path = ObjectPath::new(call.account(), call.bucket(), &named.key);
        let deletion = self.delete_requested((&path, bucket), requested, condition).await?;
        Ok((requested, deletion))
    }
}

/// What the answer to a batch says of a key's versions.
fn deleted(xml: &mut Xml, bucket: &Directory, requested: Option<Requested>, deletion: &Deletion) {
    if let Some(requested) = requested {
        xml.element("VersionId", &requested.to_string());
    }
    if deletion.marker {
        xml.element("DeleteMarker", "true");
        let marker = deleted_version(bucket, requested, deletion);
        xml.element("DeleteMarkerVersionId", marker.as_deref().unwrap_or("null"));
    }
}
