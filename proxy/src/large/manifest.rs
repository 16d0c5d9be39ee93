//! The stored manifest of a static large object.

use bytes::Bytes;
use kodiak_storage_api::ObjectPath;
use md5_simd::Md5;
use serde::{Deserialize, Serialize};

use super::whole;
use crate::store::{OpenObject, StoreError};

/// Longest manifest, bytes.
pub const MAX_MANIFEST: usize = 8 << 20;

/// A segment as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// `/container/object` in the manifest's own account; empty for bytes that the manifest itself holds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// ETag of the segment.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// Bytes of the whole segment.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// Content type of the segment.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content_type: String,
    /// When the segment was written, as listings have it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_modified: String,
    /// `first-last` of the segment's bytes, both included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// The segment is a static large object itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sub_slo: bool,
    /// Bytes in place of a segment, Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl ManifestEntry {
    /// The range of the segment's bytes that belong to the large object.
    pub fn selected(&self) -> std::ops::Range<u64> {
        let Some(range) = &self.range else { return 0..self.bytes };
        let (first, last) = range.split_once('-').unwrap_or((range, ""));
        let first = first.parse().unwrap_or(0);
        let end = last.parse::<u64>().map_or(self.bytes, |last| last.saturating_add(1));
        first..end.max(first)
    }

    /// The segment, in the account of the manifest.
    pub fn path(&self, account: &str) -> Option<ObjectPath> {
        let (container, object) = self.name.trim_start_matches('/').split_once('/')?;
        let whole = !container.is_empty() && !object.is_empty();
        whole.then(|| ObjectPath::new(account, container, object))
    }

    /// The bytes that the manifest holds in place of a segment.
    pub fn inline(&self) -> Option<Bytes> {
        use base64::Engine;
        let data = self.data.as_ref()?;
        base64::engine::general_purpose::STANDARD.decode(data).ok().map(Bytes::from)
    }

    /// How many bytes of the large object it is.
    pub fn length(&self) -> u64 {
        match self.inline() {
            Some(bytes) => bytes.len() as u64,
            None => self.selected().end - self.selected().start,
        }
    }
}

/// Reads a stored manifest.
pub fn parse(bytes: &[u8]) -> Result<Vec<ManifestEntry>, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(format!("manifest: {error}")))
}

/// Reads an object that is a manifest.
pub(super) async fn read(object: &OpenObject) -> Result<Vec<ManifestEntry>, StoreError> {
    if object.record().size > MAX_MANIFEST as u64 {
        return Err(StoreError::Corrupt("a manifest is too long".into()));
    }
    parse(&whole(object).await?)
}

/// The large object's ETag: MD5 over its segments' ETags, and their ranges where they have one.
pub fn entries_etag(entries: &[ManifestEntry]) -> String {
    let mut md5 = Md5::new();
    for entry in entries {
        match (&entry.range, entry.inline()) {
            (_, Some(bytes)) => md5.update(hex::encode(md5_simd::digest(&bytes)).as_bytes()),
            (Some(range), None) => md5.update(format!("{}:{range};", entry.hash).as_bytes()),
            (None, None) => md5.update(entry.hash.as_bytes()),
        }
    }
    hex::encode(md5.finalize())
}
