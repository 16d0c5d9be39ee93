//! Reading many objects as one.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use kodiak_storage_api::ObjectPath;

use super::{Access, ManifestEntry, manifest, symlink};
use crate::http::Payload;
use crate::store::{ByteStream, OpenObject, SharedStore, StoreError};

/// Manifests within manifests, at most so deep.
const MAX_DEPTH: usize = 10;

/// Part of another object.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The object.
    pub path: ObjectPath,
    /// The ETag it must still have.
    pub etag: Option<String>,
    /// Which of its bytes.
    pub range: Range<u64>,
    /// It is a large object itself.
    pub nested: bool,
}

/// A piece of a large object.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Part of another object.
    Segment(Segment),
    /// Bytes of the manifest itself.
    Data(Bytes),
}

impl From<Segment> for Piece {
    fn from(segment: Segment) -> Piece {
        Piece::Segment(segment)
    }
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Piece::Segment(segment) => segment.range.end.saturating_sub(segment.range.start),
            Piece::Data(bytes) => bytes.len() as u64,
        }
    }
}

/// The pieces of a large object, in order.
#[derive(Clone)]
pub struct Segments {
    store: SharedStore,
    access: Access,
    pieces: Arc<Vec<Piece>>,
    length: u64,
    depth: usize,
}

impl Segments {
    /// These pieces, `depth` manifests below the one that was asked for.
    pub fn new(store: SharedStore, access: Access, pieces: Vec<Piece>, depth: usize) -> Segments {
        let length = pieces.iter().map(Piece::length).sum();
        Segments { store, access, pieces: Arc::new(pieces), length, depth }
    }

    /// The pieces of a stored manifest.
    pub(super) fn of_manifest(
        (store, access): (SharedStore, Access),
        account: &str,
        entries: Vec<ManifestEntry>,
        depth: usize,
    ) -> Segments {
        let piece = |entry: ManifestEntry| match entry.inline() {
            Some(bytes) => Some(Piece::Data(bytes)),
            None => {
                let path = entry.path(account)?;
                let range = entry.selected();
                Some(Piece::Segment(Segment { path, etag: Some(entry.hash), range, nested: entry.sub_slo }))
            }
        };
        Segments::new(store, access, entries.into_iter().filter_map(piece).collect(), depth)
    }

    /// How many pieces.
    pub fn parts(&self) -> usize {
        self.pieces.len()
    }

    /// The bytes that piece `number`, from 1, is of the whole.
    pub fn part(&self, number: usize) -> Option<Range<u64>> {
        let index = number.checked_sub(1)?;
        let start: u64 = self.pieces.get(..index)?.iter().map(Piece::length).sum();
        Some(start..start + self.pieces.get(index)?.length())
    }

    /// Opens the first piece of a range, and of the manifests within, so that a large object that cannot
    /// be read is refused before its answer has begun.
    pub async fn check(&self, start: u64) -> Result<(), StoreError> {
        let Some((Piece::Segment(segment), range)) =
            self.cut(start..(start + 1).min(self.length)).into_iter().next()
        else {
            return Ok(());
        };
        let object = self.open(&segment).await?;
        if segment.nested {
            let nested = self.nested(&object).await?;
            return Box::pin(nested.check(range.start + segment.range.start)).await;
        }
        Ok(())
    }

    /// The pieces that a range touches, and which bytes of each.
    fn cut(&self, range: Range<u64>) -> Vec<(Piece, Range<u64>)> {
        let mut begins = 0;
        let mut cut = Vec::new();
        for piece in self.pieces.iter() {
            let ends = begins + piece.length();
            let (start, end) = (range.start.max(begins), range.end.min(ends));
            if start < end {
                cut.push((piece.clone(), start - begins..end - begins));
            }
            begins = ends;
        }
        cut
    }

    async fn open(&self, segment: &Segment) -> Result<OpenObject, StoreError> {
        let container = self.store.container_record(segment.path.account(), segment.path.container()).await?;
        if !(self.access)(&container) {
            return Err(StoreError::Denied);
        }
        let object = self.store.open(&segment.path, container.policy).await?;
        let object = symlink::follow(&self.store, &self.access, object).await.map_err(|broken| *broken)?;
        let record = object.record();
        let current =
            record.header("x-object-sysmeta-slo-etag").filter(|_| segment.nested).unwrap_or(&record.etag);
        match &segment.etag {
            Some(etag) if etag != current => Err(StoreError::Refused("a segment has changed".into())),
            _ => Ok(object),
        }
    }

    async fn piece(self, piece: Piece, range: Range<u64>) -> Result<ByteStream, StoreError> {
        let segment = match piece {
            Piece::Data(bytes) => {
                let bytes = bytes.slice(range.start as usize..range.end as usize);
                return Ok(stream::iter([Ok(bytes)]).boxed());
            }
            Piece::Segment(segment) => segment,
        };
        let object = self.open(&segment).await?;
        let range = range.start + segment.range.start..range.end + segment.range.start;
        if !segment.nested {
            if range.end > object.record().size {
                return Err(StoreError::Refused("a segment has changed".into()));
            }
            return Ok(object.read(range));
        }
        Ok(self.nested(&object).await?.stream(range))
    }

    /// The segments of a manifest that is one of these.
    async fn nested(&self, object: &OpenObject) -> Result<Segments, StoreError> {
        if self.depth + 1 >= MAX_DEPTH {
            return Err(StoreError::Refused("manifests are nested too deep".into()));
        }
        let entries = manifest::read(object).await?;
        let shared = (self.store.clone(), self.access.clone());
        Ok(Segments::of_manifest(shared, object.path().account(), entries, self.depth + 1))
    }

    fn boxed_piece(
        self,
        piece: Piece,
        range: Range<u64>,
    ) -> BoxFuture<'static, Result<ByteStream, StoreError>> {
        self.piece(piece, range).boxed()
    }
}

impl Payload for Segments {
    fn length(&self) -> u64 {
        self.length
    }

    fn in_memory(&self, _: Range<u64>) -> Option<Bytes> {
        None
    }

    fn stream(&self, range: Range<u64>) -> ByteStream {
        let segments = self.clone();
        let open = move |(piece, range)| segments.clone().boxed_piece(piece, range);
        stream::iter(self.cut(range)).then(open).try_flatten().boxed()
    }
}
