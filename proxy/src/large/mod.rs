//! Objects whose bytes are those of other objects: Swift's large objects, static (SLO) and dynamic (DLO),
//! and symlinks.
//!
//! Both fronts read them. What S3 calls multipart is not here: its parts are extents of one object.

mod dynamic;
mod manifest;
mod segments;
pub mod symlink;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use kodiak_storage_api::{Directory, ObjectRecord};

pub use manifest::{MAX_MANIFEST, ManifestEntry, entries_etag, parse};
pub use segments::{Segment, Segments};

use crate::store::{OpenObject, SharedStore, StoreError};

/// Whether the asker may read the objects of a container.
pub type Access = Arc<dyn Fn(&Directory) -> bool + Send + Sync>;

/// Header that marks a static large object.
pub const STATIC: &str = "x-static-large-object";
/// Header that names the segments of a dynamic large object.
pub const DYNAMIC: &str = "x-object-manifest";

/// A large object, ready to be read.
pub struct Large {
    /// Its bytes.
    pub segments: Segments,
    /// Of the segments' ETags; answered in quotes.
    pub etag: String,
}

/// Whether an object is a manifest.
pub fn is_manifest(record: &ObjectRecord) -> bool {
    record.header(STATIC).is_some() || record.header(DYNAMIC).is_some()
}

/// The large object that this object is the manifest of; none if it is a plain one.
pub async fn open(
    store: &SharedStore,
    access: &Access,
    object: &OpenObject,
) -> Result<Option<Large>, StoreError> {
    let record = object.record();
    if record.header(STATIC).is_some() {
        let entries = manifest::read(object).await?;
        let etag = entries_etag(&entries);
        let segments =
            Segments::of_manifest((store.clone(), access.clone()), object.path().account(), entries, 0);
        return Ok(Some(Large { segments, etag }));
    }
    match record.header(DYNAMIC) {
        Some(prefix) => dynamic::open(store, access, prefix, object.path().account()).await.map(Some),
        None => Ok(None),
    }
}

/// All bytes of an object that is known to be small.
pub async fn whole(object: &OpenObject) -> Result<Bytes, StoreError> {
    if let Some(bytes) = object.inline(0..object.record().size) {
        return Ok(bytes);
    }
    let mut all = Vec::with_capacity(object.record().size as usize);
    let mut stream = object.read(0..object.record().size);
    while let Some(piece) = stream.try_next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all.into())
}
