//! `/info` and `/healthcheck`.

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::SwiftFront;
use super::error::{Answer, SwiftError};
use super::{bulk, call, extract, formpost, listing, metadata, put, slo_put, slo_report, tempurl};
use crate::http::full;
use crate::large::symlink::MAX_LINKS;

impl SwiftFront {
    pub(super) fn healthcheck(&self, method: &Method) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(SwiftError::status(StatusCode::METHOD_NOT_ALLOWED));
        }
        text("OK", "text/plain")
    }

    /// What this cluster can do, so that clients need not try.
    pub(super) fn info(&self, method: &Method) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(SwiftError::status(StatusCode::METHOD_NOT_ALLOWED));
        }
        let mut info = json!({
            "swift": self.core(),
            "tempauth": { "account_acls": true },
            "bulk_upload": {
                "max_containers_per_extraction": extract::MAX_CONTAINERS,
                "max_failed_extractions": extract::MAX_FAILED,
            },
            "bulk_delete": {
                "max_deletes_per_request": bulk::MAX_DELETES,
                "max_failed_deletes": bulk::MAX_DELETES,
            },
            "slo": {
                "max_manifest_segments": slo_put::MAX_SEGMENTS,
                "max_manifest_size": slo_put::MAX_MANIFEST,
                "min_segment_size": 1,
                "allow_async_delete": false,
                "yield_frequency": slo_report::HEARTBEAT.as_secs(),
            },
            "s3api": {
                "max_bucket_listing": 1000,
                "max_parts_listing": 1000,
                "max_upload_part_num": 10_000,
                "max_multi_delete_objects": 1000,
                "allow_multipart_uploads": true,
                "min_segment_size": 5_242_880,
                "s3_acl": false,
            },
            "object_versioning": {},
            "versioned_writes": { "allowed_flags": ["x-versions-location", "x-history-location"] },
            "tempurl": tempurl::info(),
            "formpost": formpost::info(),
            "staticweb": {},
            "container_quotas": {},
            "account_quotas": {},
            "dlo": { "max_segments": listing::PAGE },
            "symlink": { "symloop_max": MAX_LINKS, "static_links": true },
        });
        if !self.settings.storage_domains.is_empty() {
            info["domain_remap"] = json!({ "default_reseller_prefix": null });
        }
        text(&info.to_string(), "application/json; charset=UTF-8")
    }

    /// The part about accounts, containers and objects as such.
    fn core(&self) -> Value {
        let policies = self.store.policies();
        let shown = policies.iter().filter(|(_, policy)| !policy.deprecated);
        let shown = shown.map(|(index, policy)| match index == policies.default_index() {
            true => json!({ "name": policy.name, "aliases": policy.name, "default": true }),
            false => json!({ "name": policy.name, "aliases": policy.name }),
        });
        let policies: Vec<_> = shown.collect();
        json!({
            "version": concat!("kodiak-", env!("CARGO_PKG_VERSION")),
            "policies": policies,
            "strict_cors_mode": true,
            "max_file_size": put::MAX_FILE,
            "max_meta_name_length": metadata::MAX_META_NAME,
            "max_meta_value_length": metadata::MAX_META_VALUE,
            "max_meta_count": metadata::MAX_META_COUNT,
            "max_meta_overall_size": metadata::MAX_META_OVERALL,
            "max_header_size": metadata::MAX_HEADER,
            "max_object_name_length": call::MAX_OBJECT_NAME,
            "max_container_name_length": call::MAX_CONTAINER_NAME,
            "max_account_name_length": call::MAX_ACCOUNT_NAME,
            "container_listing_limit": listing::PAGE,
            "account_listing_limit": listing::PAGE,
            "extra_header_count": 0,
            "account_autocreate": true,
            "allow_account_management": true,
            "valid_api_versions": ["v1", "v1.0"],
        })
    }
}

fn text(body: &str, content_type: &str) -> Answer {
    let builder =
        Response::builder().header("content-type", content_type).header("content-length", body.len());
    Ok(builder.body(full(body.to_owned()))?)
}
