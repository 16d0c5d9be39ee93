//! Parts of a bucket's configuration that cannot be set: what reading them answers, so that tools which
//! look at all of them (terraform, for one) see the defaults of a new bucket.

use http::{Method, StatusCode};

use super::S3Front;
use super::call::Call;
use super::error::{Answer, S3Error};
use super::multipart::gone;
use super::xml::Xml;

/// Subresources that a bucket does not have: what a GET of them answers.
const ABSENT: [(&str, &str); 10] = [
    ("policy", "NoSuchBucketPolicy"),
    ("policyStatus", "NoSuchBucketPolicy"),
    ("cors", "NoSuchCORSConfiguration"),
    ("lifecycle", "NoSuchLifecycleConfiguration"),
    ("encryption", "ServerSideEncryptionConfigurationNotFoundError"),
    ("website", "NoSuchWebsiteConfiguration"),
    ("object-lock", "ObjectLockConfigurationNotFoundError"),
    ("replication", "ReplicationConfigurationNotFoundError"),
    ("ownershipControls", "OwnershipControlsNotFoundError"),
    ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
];
/// Subresources of which a bucket may have many, by `id`: what a listing of them is called.
const NAMED: [(&str, &str); 4] = [
    ("analytics", "ListBucketAnalyticsConfigurationsResult"),
    ("intelligent-tiering", "ListBucketIntelligentTieringConfigurationsResult"),
    ("inventory", "ListInventoryConfigurationsResult"),
    ("metrics", "ListMetricsConfigurationsResult"),
];
/// Subresources that every bucket has, switched off: the root of what a GET of them answers.
const OFF: [(&str, &str); 4] = [
    ("accelerate", "AccelerateConfiguration"),
    ("logging", "BucketLoggingStatus"),
    ("notification", "NotificationConfiguration"),
    ("requestPayment", "RequestPaymentConfiguration"),
];

impl S3Front {
    /// Answers a request for configuration that cannot be set; none for any other request.
    pub(super) async fn fixed_configuration(&self, call: &Call) -> Option<Answer> {
        let find =
            |table: &[(&'static str, &'static str)]| table.iter().copied().find(|(name, _)| call.has(name));
        let answer = if let Some((name, code)) = find(&ABSENT) {
            match call.method {
                Method::GET => Err(absent(call, name, code)),
                Method::DELETE => gone(),
                _ => Err(S3Error::not_implemented()),
            }
        } else if let Some((_, root)) = find(&NAMED) {
            match (call.method == Method::GET, call.has("id")) {
                (true, true) => {
                    let message = "The bucket has no such configuration.";
                    Err(S3Error::new(StatusCode::NOT_FOUND, "NoSuchConfiguration", message))
                }
                (true, false) => none_of(root),
                _ => Err(S3Error::not_implemented()),
            }
        } else if let Some((_, root)) = find(&OFF) {
            if call.method == Method::GET { off(root) } else { Err(S3Error::not_implemented()) }
        } else if call.has("session") {
            Err(S3Error::not_implemented())
        } else {
            return None;
        };
        Some(self.bucket_record(call).await.and(answer))
    }
}

fn absent(call: &Call, name: &str, code: &'static str) -> S3Error {
    let message = match name {
        "object-lock" => "Object Lock configuration does not exist for this bucket".to_owned(),
        _ => format!("The bucket has no {name} configuration."),
    };
    S3Error::new(StatusCode::NOT_FOUND, code, message).with("BucketName", call.bucket())
}

fn none_of(root: &str) -> Answer {
    let mut xml = Xml::root(root);
    xml.element("IsTruncated", "false");
    xml.answer(root)
}

fn off(root: &str) -> Answer {
    let mut xml = Xml::root(root);
    if root == "RequestPaymentConfiguration" {
        xml.element("Payer", "BucketOwner");
    }
    xml.answer(root)
}
