//! Reads: the newest version at a majority, and its bytes from any intact replica.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use kodiak_storage_api::{
    BLOCK_SIZE, CHECKSUM_CHUNK, DataId, Extent, Layout, Mode, ObjectPath, ObjectRecord, PolicyIndex,
    StoredVersion, Timestamp, Version, VersionId,
};
use parking_lot::Mutex;

use super::register::Register;
use super::{ByteStream, Store, StoreError};
use crate::http::Payload;

/// Bytes of one read of a block: large enough that the disk streams, small enough to begin at once.
const READ_PIECE: u64 = 16 * CHECKSUM_CHUNK as u64;
/// Pieces that are read before the client has taken the ones before.
const READ_AHEAD: usize = 3;

/// An object that is being read. Its bytes are those of one version, whatever happens meanwhile.
pub struct OpenObject {
    store: Arc<Store>,
    policy: PolicyIndex,
    path: ObjectPath,
    pub(super) record: ObjectRecord,
    inline: Option<Bytes>,
    reading: Option<Arc<Reading>>,
    /// Which version it is, if it has an id.
    pub(super) version: Option<VersionId>,
}

/// The uploads whose blocks are being read, so that they are not deleted meanwhile.
#[derive(Default)]
pub(super) struct Readers {
    counts: Mutex<HashMap<DataId, usize>>,
}

impl Readers {
    pub(super) fn reads(&self, extent: &Extent) -> bool {
        self.counts.lock().contains_key(&extent.data)
    }
}

/// Keeps an open object's extents in [`Readers`].
struct Reading {
    readers: Arc<Readers>,
    data: Vec<DataId>,
}

impl Reading {
    fn new(readers: &Arc<Readers>, extents: &[Extent]) -> Arc<Reading> {
        let data: Vec<DataId> = extents.iter().map(|extent| extent.data).collect();
        let mut counts = readers.counts.lock();
        for id in &data {
            *counts.entry(*id).or_default() += 1;
        }
        drop(counts);
        Arc::new(Reading { readers: readers.clone(), data })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut counts = self.readers.counts.lock();
        for id in &self.data {
            if let Some(count) = counts.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(id);
                }
            }
        }
    }
}

impl Store {
    /// The newest version's record, without its bytes; expired ones are [`StoreError::NoObject`].
    pub async fn head(&self, path: &ObjectPath, policy: PolicyIndex) -> Result<ObjectRecord, StoreError> {
        let stored = self.newest(path, policy, false).await?;
        match self.visible(stored)? {
            (record, _) if matches!(record.layout, Layout::Version(_)) => {
                self.head_linked(path, policy, record).await
            }
            (record, _) => Ok(record),
        }
    }

    /// The newest version, ready to be read.
    pub async fn open(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
    ) -> Result<OpenObject, StoreError> {
        let stored = self.newest(path, policy, true).await?;
        match self.visible(stored)? {
            (record, _) if matches!(record.layout, Layout::Version(_)) => {
                self.open_linked(path, policy, record).await
            }
            (record, inline) => Ok(self.opened(path, policy, record, inline)),
        }
    }

    /// Keeps the blocks of a record that was just read while it is being read.
    pub(super) fn opened(
        self: &Arc<Self>,
        path: &ObjectPath,
        policy: PolicyIndex,
        record: ObjectRecord,
        inline: Option<Bytes>,
    ) -> OpenObject {
        let reading = match &record.layout {
            Layout::Inline | Layout::Version(_) => None,
            Layout::Extents(extents) => Some(Reading::new(&self.readers, extents)),
        };
        let (store, path) = (self.clone(), path.clone());
        OpenObject { store, policy, path, record, inline, reading, version: None }
    }

    /// When the name was last written or deleted, if it ever was.
    pub async fn last_write(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
    ) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.newest(path, policy, false).await?.map(|stored| stored.version.timestamp()))
    }

    pub(super) fn visible(
        &self,
        stored: Option<StoredVersion>,
    ) -> Result<(ObjectRecord, Option<Bytes>), StoreError> {
        match stored {
            Some(StoredVersion { version: Version::Live(record), inline, .. })
                if record.expires_at.is_none() || !record.expired(self.now()) =>
            {
                let inline = inline.filter(|_| matches!(record.layout, Layout::Inline));
                Ok((record, inline))
            }
            _ => Err(StoreError::NoObject),
        }
    }

    /// The newest version; see [`Register::read`].
    pub(super) async fn newest(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        data: bool,
    ) -> Result<Option<StoredVersion>, StoreError> {
        Register::of(self, path, policy)?.read(data).await
    }

    /// The newest version of all that there may be: for whoever deletes what it does not name. In a policy that
    /// is `available`, an error unless every device answers that may have one.
    pub(super) async fn newest_of_all(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
    ) -> Result<Option<StoredVersion>, StoreError> {
        let register = Register::of(self, path, policy)?;
        match self.map().mode(policy)? {
            Mode::Strict => register.read(false).await,
            Mode::Available => register.read_everywhere().await,
        }
    }

    /// A verified piece of a block from the first replica that has it intact.
    async fn read_piece(&self, policy: PolicyIndex, piece: Piece) -> Result<Bytes, StoreError> {
        let key = self.map().block(policy, piece.data, piece.block)?;
        if let Some(fragments) = self.fragments(key, piece.block_len)? {
            return fragments.read(piece.range).await;
        }
        self.read_copy(key, piece.range).await
    }
}

/// Part of one block.
struct Piece {
    data: DataId,
    block: u32,
    block_len: usize,
    range: Range<u32>,
}

/// Cuts a range of an object into pieces of blocks, one at a time: a range may have millions.
struct Pieces {
    extents: std::vec::IntoIter<Extent>,
    extent: Option<Extent>,
    /// Where the current extent begins in the object.
    begins: u64,
    range: Range<u64>,
}

impl Pieces {
    fn new(extents: Vec<Extent>, range: Range<u64>) -> Pieces {
        let mut extents = extents.into_iter();
        Pieces { extent: extents.next(), extents, begins: 0, range }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let at = self.range.start;
        if at >= self.range.end {
            return None;
        }
        let mut extent = self.extent?;
        while at >= self.begins + extent.len {
            self.begins += extent.len;
            self.extent = self.extents.next();
            extent = self.extent?;
        }
        let within = at - self.begins;
        let block = within / BLOCK_SIZE as u64;
        let offset = within % BLOCK_SIZE as u64;
        // Pieces end where a checksum chunk does, so that no chunk is read twice; and with their block.
        let piece_end = at - offset % READ_PIECE + READ_PIECE;
        let block_end = self.begins + (block + 1) * BLOCK_SIZE as u64;
        let end = piece_end.min(block_end).min(self.begins + extent.len).min(self.range.end);
        self.range.start = end;
        let range = offset as u32..(offset + (end - at)) as u32;
        let block = block as u32;
        Some(Piece { data: extent.data, block, block_len: extent.block_len(block), range })
    }
}

impl OpenObject {
    /// The object's name.
    pub fn path(&self) -> &ObjectPath {
        &self.path
    }

    /// The storage policy of its container.
    pub fn policy(&self) -> PolicyIndex {
        self.policy
    }

    /// The version that it is, if it has an id.
    pub fn version(&self) -> Option<VersionId> {
        self.version
    }

    /// Everything about the object but its bytes.
    pub fn record(&self) -> &ObjectRecord {
        &self.record
    }

    /// The bytes of `range` if they are in memory already.
    pub fn inline(&self, range: Range<u64>) -> Option<Bytes> {
        self.inline.as_ref().map(|bytes| bytes.slice(range.start as usize..range.end as usize))
    }

    /// The bytes of `range`, which lies within the object. Small objects come in one piece.
    pub fn read(&self, range: Range<u64>) -> ByteStream {
        let extents = match &self.record.layout {
            Layout::Inline | Layout::Version(_) => {
                let missing = || StoreError::Corrupt("the record lacks its bytes".into());
                let bytes = self.inline(range).ok_or_else(missing);
                return stream::iter([bytes]).boxed();
            }
            Layout::Extents(extents) => extents,
        };
        let (store, policy, reading) = (self.store.clone(), self.policy, self.reading.clone());
        let read = move |piece| {
            let (store, reading) = (store.clone(), reading.clone());
            async move {
                let bytes = store.read_piece(policy, piece).await;
                drop(reading);
                bytes
            }
        };
        stream::iter(Pieces::new(extents.clone(), range)).map(read).buffered(READ_AHEAD).boxed()
    }
}

impl Payload for OpenObject {
    fn length(&self) -> u64 {
        self.record.size
    }

    fn in_memory(&self, range: Range<u64>) -> Option<Bytes> {
        self.inline(range)
    }

    fn stream(&self, range: Range<u64>) -> ByteStream {
        self.read(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_exactly_across_blocks_and_extents() {
        let block = BLOCK_SIZE as u64;
        let extents = [
            Extent { data: DataId([1; 16]), len: block + 10 },
            Extent { data: DataId([2; 16]), len: 5 },
            Extent { data: DataId([3; 16]), len: 3 * block },
        ];
        let total: u64 = extents.iter().map(|e| e.len).sum();
        for (start, end) in [(0, total), (7, 8), (block - 1, block + 12), (block + 10, block + 15)] {
            let cut: Vec<Piece> = Pieces::new(extents.to_vec(), start..end).collect();
            let covered: u64 = cut.iter().map(|p| u64::from(p.range.end - p.range.start)).sum();
            assert_eq!(covered, end - start);
            assert!(cut.iter().all(|p| p.range.end <= BLOCK_SIZE as u32 && p.range.start < p.range.end));
        }
    }
}
