//! `/info` and `/healthcheck`.

use http::{Method, Response, StatusCode};
use serde_json::json;

use super::SwiftFront;
use super::error::{Answer, SwiftError};
use super::{bulk, call, listing, metadata, put, slo_put, slo_report};
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
        let policies: Vec<_> = self
            .settings
            .policies
            .iter()
            .enumerate()
            .map(|(index, name)| match index {
                0 => json!({ "name": name, "aliases": name, "default": true }),
                _ => json!({ "name": name, "aliases": name }),
            })
            .collect();
        let info = json!({
            "swift": {
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
            },
            "tempauth": { "account_acls": false },
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
            "dlo": { "max_segments": listing::PAGE },
            "symlink": { "symloop_max": MAX_LINKS, "static_links": true },
        });
        text(&info.to_string(), "application/json; charset=UTF-8")
    }
}

fn text(body: &str, content_type: &str) -> Answer {
    let builder =
        Response::builder().header("content-type", content_type).header("content-length", body.len());
    Ok(builder.body(full(body.to_owned()))?)
}
