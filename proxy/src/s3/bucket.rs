//! Buckets and their configuration.

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use kodiak_storage_api::{Directory, Entry, ListQuery};
use serde::Deserialize;

use super::S3Front;
use super::acl::{self, Canned};
use super::call::{Call, valid_bucket_name};
use super::error::{Answer, S3Error};
use super::list::{decode_token, encode_token, iso_millis};
use super::xml::{self, Xml};
use crate::http::{RequestBody, empty};
use crate::store::StoreError;

/// Most buckets of one page.
const MAX_BUCKETS: usize = 10_000;

#[derive(Deserialize)]
pub(super) struct CreateBucketConfiguration {
    #[serde(rename = "LocationConstraint")]
    location: Option<String>,
}

impl S3Front {
    pub(super) async fn list_buckets(&self, call: &Call) -> Answer {
        let limit = match call.query("max-buckets").map(str::parse) {
            None => MAX_BUCKETS,
            Some(Ok(limit @ 1..=MAX_BUCKETS)) => limit,
            Some(_) => {
                return Err(S3Error::invalid_argument("max-buckets must be a number from 1 to 10000."));
            }
        };
        let token = call.query("continuation-token").filter(|token| !token.is_empty());
        let prefix = call.query("prefix").unwrap_or("");
        let marker = token.map(decode_token).transpose()?;
        let query = ListQuery { limit, marker, prefix: prefix.to_owned(), ..ListQuery::default() };
        if self.store.account_is_deleted(call.account()).await? {
            return Err(S3Error::account_problem());
        }
        let page = self.store.list_containers(call.account(), query).await?;
        let next = page.entries.last().filter(|_| page.truncated).map(|last| encode_token(last.name()));
        let mut xml = Xml::root("ListAllMyBucketsResult");
        owner(&mut xml, "Owner", call);
        xml.open("Buckets");
        for entry in page.entries {
            let Entry::Row(row) = entry else { continue };
            let created = row.extra("created").and_then(|micros| micros.parse().ok());
            let created =
                created.map_or(row.timestamp, |micros| kodiak_storage_api::Timestamp::from_micros(micros, 0));
            xml.open("Bucket");
            xml.element("Name", &row.name);
            xml.element("CreationDate", &iso_millis(created));
            xml.close("Bucket");
        }
        xml.close("Buckets");
        if let Some(next) = next {
            xml.element("ContinuationToken", &next);
        }
        if !prefix.is_empty() {
            xml.element("Prefix", prefix);
        }
        xml.answer("ListAllMyBucketsResult")
    }

    pub(super) async fn bucket(&self, call: &Call, body: &mut RequestBody) -> Answer {
        if call.has("versioning") {
            return self.bucket_versioning(call, body).await;
        }
        if let Some(answer) = self.bucket_subresource(call, body).await {
            return answer;
        }
        match call.method {
            Method::GET if call.has("uploads") => self.list_uploads(call).await,
            Method::GET if call.has("versions") => self.list_versions(call).await,
            Method::GET if call.query("list-type") == Some("2") => self.list_v2(call).await,
            Method::GET => self.list_v1(call).await,
            Method::HEAD => self.head_bucket(call).await,
            Method::PUT => self.create_bucket(call, body).await,
            Method::DELETE => self.delete_bucket(call).await,
            Method::POST if call.has("delete") => self.delete_many(call, body).await,
            Method::POST => Err(S3Error::not_implemented()),
            _ => Err(S3Error::method_not_allowed()),
        }
    }

    /// The bucket's record, whose policy places its objects.
    pub(super) async fn bucket_record(&self, call: &Call) -> Result<Arc<Directory>, S3Error> {
        match self.store.container_record(call.account(), call.bucket()).await {
            Ok(bucket) => Ok(bucket),
            Err(StoreError::NoContainer) if valid_bucket_name(call.bucket()) => {
                Err(S3Error::no_such_bucket().with("BucketName", call.bucket()))
            }
            Err(StoreError::NoContainer) => {
                Err(S3Error::invalid_bucket_name().with("BucketName", call.bucket()))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn head_bucket(&self, call: &Call) -> Answer {
        self.bucket_record(call).await?;
        let builder = Response::builder()
            .header("x-amz-bucket-region", &self.settings.region)
            .header("content-type", "application/xml")
            .header("content-length", 0);
        Ok(builder.body(empty())?)
    }

    async fn create_bucket(&self, call: &Call, body: &mut RequestBody) -> Answer {
        if !valid_bucket_name(call.bucket()) {
            return Err(S3Error::invalid_bucket_name().with("BucketName", call.bucket()));
        }
        if call.header("x-amz-bucket-object-lock-enabled").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
            return Err(S3Error::not_implemented().with("Header", "x-amz-bucket-object-lock-enabled"));
        }
        let list = acl::requested(call)?;
        let text = self.receive_xml(call, body).await?;
        let location =
            if text.is_empty() { None } else { xml::parse::<CreateBucketConfiguration>(&text)?.location };
        let policy = self.chosen_policy(call, location.as_deref())?;
        let (account, bucket) = (call.account(), call.bucket());
        match self.store.container(account, bucket).await {
            Ok(_) => return Err(S3Error::bucket_exists().with("BucketName", bucket)),
            Err(StoreError::NoContainer) => {}
            Err(error) => return Err(error.into()),
        }
        self.store
            .create_container(account, bucket, policy, list.map_or(Vec::new(), Canned::changes))
            .await?;
        let builder =
            Response::builder().header("location", format!("/{bucket}")).header("content-length", 0);
        Ok(builder.body(empty())?)
    }

    async fn delete_bucket(&self, call: &Call) -> Answer {
        self.bucket_record(call).await?;
        self.store.delete_container(call.account(), call.bucket()).await?;
        self.abort_all(call).await?;
        Ok(Response::builder().status(StatusCode::NO_CONTENT).body(empty())?)
    }

    /// Requests for part of a bucket's configuration; none for requests of the bucket itself.
    async fn bucket_subresource(&self, call: &Call, body: &mut RequestBody) -> Option<Answer> {
        let answer = |xml: Xml, root: &str| Some(xml.answer(root));
        if call.has("location") && call.method == Method::GET {
            if let Err(error) = self.bucket_record(call).await {
                return Some(Err(error));
            }
            let mut xml = Xml::root("LocationConstraint");
            // us-east-1 has no name, since it was there first.
            if self.settings.region != "us-east-1" {
                xml.text(&self.settings.region);
            }
            return answer(xml, "LocationConstraint");
        }
        if call.has("acl") {
            return Some(self.acl(call, body).await);
        }
        if call.has("tagging") {
            return Some(self.bucket_tags(call, body).await);
        }
        self.fixed_configuration(call).await
    }
}

/// Whose a bucket or an object is: its account's, all of whose owners are one to S3; so the asker's.
pub(super) fn owner(xml: &mut Xml, element: &str, call: &Call) {
    xml.open(element);
    xml.element("ID", &call.principal.user);
    xml.element("DisplayName", &call.principal.user);
    xml.close(element);
}
