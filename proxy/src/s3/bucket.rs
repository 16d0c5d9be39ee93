//! Buckets and their configuration.

use http::{Method, Response, StatusCode};
use kodiak_storage_api::{DirectoryInfo, Entry, ListQuery, PolicyIndex};
use serde::Deserialize;

use super::S3Front;
use super::call::{Call, valid_bucket_name};
use super::error::{Answer, S3Error};
use super::list::iso_millis;
use super::xml::{self, Xml};
use crate::http::{RequestBody, empty};
use crate::store::StoreError;

/// Most buckets of one page.
const MAX_BUCKETS: usize = 10_000;

/// Subresources that a bucket does not have; what a GET of them answers.
const ABSENT: [(&str, &str); 9] = [
    ("policy", "NoSuchBucketPolicy"),
    ("tagging", "NoSuchTagSet"),
    ("cors", "NoSuchCORSConfiguration"),
    ("lifecycle", "NoSuchLifecycleConfiguration"),
    ("encryption", "ServerSideEncryptionConfigurationNotFoundError"),
    ("website", "NoSuchWebsiteConfiguration"),
    ("object-lock", "ObjectLockConfigurationNotFoundError"),
    ("replication", "ReplicationConfigurationNotFoundError"),
    ("ownershipControls", "OwnershipControlsNotFoundError"),
];
/// Subresources that are not done at all.
const UNDONE: [&str; 11] = [
    "accelerate",
    "analytics",
    "intelligent-tiering",
    "inventory",
    "logging",
    "metrics",
    "notification",
    "policyStatus",
    "publicAccessBlock",
    "requestPayment",
    "session",
];

#[derive(Deserialize)]
struct CreateBucketConfiguration {
    #[serde(rename = "LocationConstraint")]
    location: Option<String>,
}

impl S3Front {
    pub(super) async fn list_buckets(&self, call: &Call) -> Answer {
        let mut xml = Xml::root("ListAllMyBucketsResult");
        owner(&mut xml, "Owner", call);
        xml.open("Buckets");
        let query = ListQuery { limit: MAX_BUCKETS, ..ListQuery::default() };
        let page = self.store.list_containers(call.account(), query).await?;
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
        xml.answer("ListAllMyBucketsResult")
    }

    pub(super) async fn bucket(&self, call: &Call, body: &mut RequestBody) -> Answer {
        if call.has("versioning") {
            return self.bucket_versioning(call, body).await;
        }
        if let Some(answer) = self.bucket_subresource(call).await {
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
    pub(super) async fn bucket_info(&self, call: &Call) -> Result<DirectoryInfo, S3Error> {
        match self.store.container(call.account(), call.bucket()).await {
            Ok(info) => Ok(info),
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
        self.bucket_info(call).await?;
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
        let text = self.receive_xml(call, body).await?;
        if !text.is_empty() {
            let wanted: CreateBucketConfiguration = xml::parse(&text)?;
            let here = |location: &String| location.is_empty() || *location == self.settings.region;
            if !wanted.location.as_ref().is_none_or(here) {
                let message = "The location constraint is not this cluster's region.";
                return Err(S3Error::new(StatusCode::BAD_REQUEST, "InvalidLocationConstraint", message));
            }
        }
        let (account, bucket) = (call.account(), call.bucket());
        match self.store.container(account, bucket).await {
            Ok(_) => return Err(S3Error::bucket_exists().with("BucketName", bucket)),
            Err(StoreError::NoContainer) => {}
            Err(error) => return Err(error.into()),
        }
        self.store.create_container(account, bucket, PolicyIndex(0), Vec::new()).await?;
        let builder =
            Response::builder().header("location", format!("/{bucket}")).header("content-length", 0);
        Ok(builder.body(empty())?)
    }

    async fn delete_bucket(&self, call: &Call) -> Answer {
        self.bucket_info(call).await?;
        self.store.delete_container(call.account(), call.bucket()).await?;
        self.abort_all(call).await?;
        Ok(Response::builder().status(StatusCode::NO_CONTENT).body(empty())?)
    }

    /// Requests for part of a bucket's configuration; none for requests of the bucket itself.
    async fn bucket_subresource(&self, call: &Call) -> Option<Answer> {
        let answer = |xml: Xml, root: &str| Some(xml.answer(root));
        if call.has("location") && call.method == Method::GET {
            if let Err(error) = self.bucket_info(call).await {
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
            return Some(self.bucket_acl(call).await);
        }
        if let Some((name, code)) = ABSENT.into_iter().find(|(name, _)| call.has(name)) {
            return Some(match (call.method.clone(), self.bucket_info(call).await) {
                (_, Err(error)) => Err(error),
                (Method::GET, Ok(_)) => {
                    let message = match name {
                        "object-lock" => {
                            "Object Lock configuration does not exist for this bucket".to_owned()
                        }
                        _ => format!("The bucket has no {name} configuration."),
                    };
                    Err(S3Error::new(StatusCode::NOT_FOUND, code, message).with("BucketName", call.bucket()))
                }
                (Method::DELETE, Ok(_)) => {
                    Response::builder().status(StatusCode::NO_CONTENT).body(empty()).map_err(S3Error::from)
                }
                _ => Err(S3Error::not_implemented()),
            });
        }
        UNDONE.into_iter().find(|name| call.has(name)).map(|_| Err(S3Error::not_implemented()))
    }

    async fn bucket_acl(&self, call: &Call) -> Answer {
        self.bucket_info(call).await?;
        match call.method {
            Method::GET => acl(call),
            Method::PUT if matches!(call.header("x-amz-acl"), Some("private")) => {
                Ok(Response::builder().header("content-length", 0).body(empty())?)
            }
            _ => Err(S3Error::not_implemented()),
        }
    }
}

/// The access list that every bucket and object has: its owner may do everything.
pub(super) fn acl(call: &Call) -> Answer {
    let mut xml = Xml::root("AccessControlPolicy");
    owner(&mut xml, "Owner", call);
    xml.open("AccessControlList");
    xml.open("Grant");
    xml.open_with(
        "Grantee",
        "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\"",
    );
    xml.element("ID", &call.principal.user);
    xml.element("DisplayName", &call.principal.user);
    xml.close("Grantee");
    xml.element("Permission", "FULL_CONTROL");
    xml.close("Grant");
    xml.close("AccessControlList");
    xml.answer("AccessControlPolicy")
}

/// Whose a bucket or an object is: its account's, all of whose owners are one to S3; so the asker's.
pub(super) fn owner(xml: &mut Xml, element: &str, call: &Call) {
    xml.open(element);
    xml.element("ID", &call.principal.user);
    xml.element("DisplayName", &call.principal.user);
    xml.close(element);
}
