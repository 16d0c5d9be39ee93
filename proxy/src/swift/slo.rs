//! Static large objects: reading the manifest itself, and deleting it with its segments.

use http::{Method, StatusCode};
use kodiak_storage_api::ObjectPath;
use serde_json::{Value, json};

use super::SwiftFront;
use super::auth::Want;
use super::bulk::{Deleted, MAX_DELETES};
use super::call::{Call, Target};
use super::error::{Answer, SwiftError};
use super::object::{self, record_headers};
use super::versions;
use crate::http::{empty, full};
use crate::large::{self, ManifestEntry};
use crate::store::{OpenObject, Precondition};

impl SwiftFront {
    /// `?multipart-manifest=get`: the manifest in the form that a listing has, or with `format=raw` in
    /// the form that a PUT takes.
    pub(super) async fn slo_manifest(&self, call: &Call, object: &OpenObject) -> Answer {
        let record = object.record();
        let stored = large::whole(object).await?;
        let raw = call.query.get("format") == Some("raw");
        let body = if raw { raw_manifest(&large::parse(&stored)?).into() } else { stored };
        let etag = hex::encode(md5_simd::digest(&body));
        let content_type = if raw { &record.content_type } else { "application/json; charset=utf-8" };
        let builder = record_headers(record)
            .header("etag", etag)
            .header("content-type", content_type)
            .header("content-length", body.len());
        Ok(builder.body(if call.is_head() { empty() } else { full(body) })?)
    }

    /// `?multipart-manifest=delete`: the segments, and then the manifest.
    pub(super) async fn delete_slo(&self, call: &Call) -> Answer {
        let container = self.container_for(call, Want::Write).await?;
        let object = self.open_requested(call, &container).await;
        let mut report = Deleted::default();
        match object {
            Ok(object) if object.record().header(large::STATIC).is_some() => {
                let mut paths = Vec::new();
                self.collect_segments(&object, &mut paths, 0).await?;
                for path in paths {
                    let target = Target {
                        account: path.account().into(),
                        container: Some(path.container().into()),
                        object: Some(path.object().into()),
                    };
                    self.delete_one(&call.with_target(Method::DELETE, target), &mut report).await;
                }
                let deleted = match versions::requested(call)? {
                    Some(version) => self.delete_requested(&container, object.path(), version).await,
                    None => self.delete_in(&container, object.path(), Precondition::None).await,
                };
                report.count(call, deleted.map(drop));
            }
            Ok(_) => {
                report.failed_as(&call.target, StatusCode::BAD_REQUEST, "400 Not an SLO manifest".into());
            }
            Err(error) if error.code() == StatusCode::NOT_FOUND => report.count(call, Err(error)),
            Err(error) => return Err(error),
        }
        report.answer(call)
    }

    /// Names all segments, those of nested manifests too.
    async fn collect_segments(
        &self,
        object: &OpenObject,
        paths: &mut Vec<ObjectPath>,
        depth: usize,
    ) -> Result<(), SwiftError> {
        for entry in large::parse(&large::whole(object).await?)? {
            let Some(path) = entry.path(object.path().account()) else { continue };
            if entry.sub_slo && depth < 10 {
                let container = self.store.container_record(path.account(), path.container()).await;
                if let Ok(container) = container
                    && let Ok(nested) = self.store.open(&path, container.policy).await
                    && nested.record().header(large::STATIC).is_some()
                {
                    Box::pin(self.collect_segments(&nested, paths, depth + 1)).await?;
                }
            }
            if !paths.contains(&path) {
                paths.push(path);
            }
            if paths.len() > MAX_DELETES {
                return Err(SwiftError::bad_request("Too many buffered slo segments to delete."));
            }
        }
        Ok(())
    }

    pub(super) async fn get_whole(&self, call: &Call, object: &OpenObject) -> Answer {
        match self.large_object(call, object).await? {
            Some(large) => self.get_large(call, object.record(), large).await,
            None => object::answer(call, object.record(), &object::shown_etag(object.record()), object),
        }
    }
}

/// The manifest as a PUT takes it.
fn raw_manifest(entries: &[ManifestEntry]) -> String {
    let raw = |entry: &ManifestEntry| {
        if let Some(data) = &entry.data {
            return json!({ "data": data });
        }
        let mut value = json!({ "path": entry.name, "etag": entry.hash, "size_bytes": entry.bytes });
        if let Some(range) = &entry.range {
            value["range"] = json!(range);
        }
        value
    };
    Value::Array(entries.iter().map(raw).collect()).to_string()
}
