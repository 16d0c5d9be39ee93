//! Dynamic large objects: every object under a prefix, in the order of names.

use kodiak_storage_api::{Entry, ListQuery, ObjectPath, ObjectRecord, Row};
use md5_simd::Md5;

use super::{Access, Large, Segment, Segments, symlink};
use crate::store::{SharedStore, StoreError};

/// Segments of one dynamic large object; a page of names at a time is read.
pub(super) const MAX_SEGMENTS: usize = 100_000;
const PAGE: usize = 10_000;

/// The large object of an `X-Object-Manifest` value.
pub(super) async fn open(
    store: &SharedStore,
    access: &Access,
    manifest: &str,
    account: &str,
) -> Result<Large, StoreError> {
    let refused = || StoreError::Refused("X-Object-Manifest must be in the format container/prefix".into());
    let decoded = percent_encoding::percent_decode_str(manifest).decode_utf8().map_err(|_| refused())?;
    let (container, prefix) = decoded.trim_start_matches('/').split_once('/').ok_or_else(refused)?;
    let mut segments = Vec::new();
    let mut md5 = Md5::new();
    let policy = match store.container_record(account, container).await {
        Ok(container) if access(&container) => Some(container.policy),
        Ok(_) => return Err(StoreError::Denied),
        Err(StoreError::NoContainer) => None,
        Err(error) => return Err(error),
    };
    let mut query = ListQuery { prefix: prefix.to_owned(), limit: PAGE, ..ListQuery::default() };
    while let Some(policy) = policy {
        let page = store.list_objects(account, container, query.clone()).await?;
        query.marker = page.entries.last().map(|entry| entry.name().to_owned());
        for entry in page.entries {
            let Entry::Row(row) = entry else { continue };
            let path = ObjectPath::new(account, container, &row.name);
            let row = if row.extra("symlink_path").is_none() {
                row
            } else {
                let link = store.open(&path, policy).await?;
                let target = symlink::follow(store, access, link).await.map_err(|broken| *broken)?;
                target_row(target.record(), row)
            };
            md5.update(row.etag.as_bytes());
            let nested = row.extra("slo_bytes").and_then(|bytes| bytes.parse().ok());
            let bytes = nested.unwrap_or_else(|| row.size());
            segments.push(Segment { path, etag: None, range: 0..bytes, nested: nested.is_some() }.into());
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(StoreError::Refused(format!("more than {MAX_SEGMENTS} segments")));
        }
        if !page.truncated {
            break;
        }
    }
    let etag = hex::encode(md5.finalize());
    Ok(Large { segments: Segments::new(store.clone(), access.clone(), segments, 0), etag })
}

/// The row of a symlink, as that of what it stands for.
fn target_row(target: &ObjectRecord, link: Row) -> Row {
    Row { bytes: target.size, etag: target.etag.clone(), extra: target.listing.clone(), ..link }
}
