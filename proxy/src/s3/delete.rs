//! Deleting objects, one or many.

use futures_util::{StreamExt, stream};
use http::StatusCode;
use kodiak_storage_api::{ObjectPath, PolicyIndex};
use serde::Deserialize;

use super::S3Front;
use super::call::{Call, MAX_KEY};
use super::error::{Answer, S3Error};
use super::multipart::gone;
use super::xml::{self, Xml};
use crate::http::{RequestBody, etags};
use crate::store::{Precondition, StoreError};

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
        let policy = self.bucket_info(call).await?.directory.policy;
        let condition = match call.header("if-match") {
            Some(list) => Precondition::Matches(etags(list)),
            None => Precondition::None,
        };
        self.delete_key(&call.path(), policy, condition).await?;
        gone()
    }

    /// Deletes a key; one that is not there is deleted already, unless it had to be there.
    async fn delete_key(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        condition: Precondition,
    ) -> Result<(), S3Error> {
        let any = matches!(&condition, Precondition::Matches(etags) if etags.iter().any(|etag| etag == "*"));
        let unconditional = condition == Precondition::None;
        match self.store.delete_object(path, policy, condition).await {
            Ok(_) => Ok(()),
            Err(StoreError::NoObject) if unconditional => Ok(()),
            Err(StoreError::NoObject) if any => Err(S3Error::precondition_failed()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn delete_many(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let policy = self.bucket_info(call).await?.directory.policy;
        let text = self.receive_xml(call, body).await?;
        let wanted: Delete = xml::parse(&text)?;
        if wanted.objects.is_empty() || wanted.objects.len() > MAX_KEYS {
            return Err(S3Error::malformed_xml());
        }
        if wanted.objects.iter().any(|named| named.key.is_empty()) {
            return Err(S3Error::missing_key());
        }
        let mut xml = Xml::root("DeleteResult");
        let delete = |named: Named| async move { (self.delete_named(call, policy, &named).await, named) };
        let deletes: Vec<_> = wanted.objects.into_iter().map(delete).collect();
        let mut deleted = stream::iter(deletes).buffered(AT_ONCE);
        while let Some((done, named)) = deleted.next().await {
            match done {
                Ok(()) if wanted.quiet == Some(true) => {}
                Ok(()) => {
                    xml.open("Deleted");
                    xml.element("Key", &named.key);
                    xml.close("Deleted");
                }
                Err(error) => {
                    xml.open("Error");
                    xml.element("Key", &named.key);
                    xml.element("Code", error.code);
                    xml.element("Message", error.message());
                    xml.close("Error");
                }
            }
        }
        xml.answer("DeleteResult")
    }

    async fn delete_named(&self, call: &Call, policy: PolicyIndex, named: &Named) -> Result<(), S3Error> {
        if named.key.contains('\0') {
            return Err(S3Error::invalid_argument("The key is not valid."));
        }
        if named.key.len() > MAX_KEY {
            return Err(S3Error::key_too_long());
        }
        if named.version.as_ref().is_some_and(|version| version != "null") {
            let message = "The version does not exist: buckets are not versioned.";
            return Err(S3Error::new(StatusCode::NOT_FOUND, "NoSuchVersion", message));
        }
        let condition = match &named.etag {
            Some(etag) => Precondition::Matches(etags(etag)),
            None => Precondition::None,
        };
        let path = ObjectPath::new(call.account(), call.bucket(), &named.key);
        self.delete_key(&path, policy, condition).await
    }
}
