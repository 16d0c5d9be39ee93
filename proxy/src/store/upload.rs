//! Bytes on their way in.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kodiak_storage_api::{BLOCK_SIZE, BlockKey, DataId, Extent, INLINE_MAX, Layout, ObjectPath, PolicyIndex};
use rand::RngCore;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::buffers::Buffer;
use super::md5::{self, Hashers, Md5Chain, Md5Stream};
use super::{SharedStore, Store, StoreError, garbage};

/// Pieces smaller than this are copied together: thousands of tiny ones would cost more than their bytes.
const SMALL_PIECE: usize = 4096;
/// Blocks of one upload that are hashed or written at once.
const BLOCKS_AT_ONCE: usize = 4;

/// Bytes on their way in. Nothing of it is visible before [`Store::commit`]; dropped without a
/// commit, what it has stored is deleted in the background.
pub struct Upload {
    blocks: Blocks,
    path: ObjectPath,
    /// What the blocks are for, told to whoever finds them without a record.
    owner: ObjectPath,
    inline_max: usize,
    /// A body that is small so far.
    pending: Vec<Bytes>,
    /// Tiny pieces that follow `pending`.
    tiny: BytesMut,
    /// Bytes of both.
    pending_len: usize,
    /// The block that is being gathered.
    buffer: Option<Buffer>,
    written: u64,
    md5: Option<Md5Chain>,
}

/// A complete upload.
pub struct Staged {
    pub(super) path: ObjectPath,
    pub(super) blocks: Blocks,
    pub(super) inline: Vec<Bytes>,
    pub(super) layout: Layout,
    size: u64,
    md5: [u8; 16],
}

/// The blocks of an upload; deletes them when it is dropped, unless a record has taken them over.
pub(super) struct Blocks {
    store: SharedStore,
    pub(super) policy: PolicyIndex,
    data: DataId,
    begun: u32,
    since: Instant,
    writes: JoinSet<Result<(), StoreError>>,
}

impl Store {
    /// Begins an upload. `policy` is the container's. With `always_blocks`, even a small body goes to
    /// blocks (multipart parts, which are assembled).
    pub fn upload(self: &Arc<Self>, path: ObjectPath, policy: PolicyIndex, always_blocks: bool) -> Upload {
        let mut data = DataId([0; 16]);
        rand::rng().fill_bytes(&mut data.0);
        let (store, since) = (self.clone(), Instant::now());
        let blocks = Blocks { store, policy, data, begun: 0, since, writes: JoinSet::new() };
        Upload {
            blocks,
            owner: path.clone(),
            path,
            inline_max: if always_blocks { 0 } else { INLINE_MAX },
            pending: Vec::new(),
            tiny: BytesMut::new(),
            pending_len: 0,
            buffer: None,
            written: 0,
            md5: Some(Md5Chain::Ready(Md5Stream::new())),
        }
    }
}

impl Upload {
    /// It is a part of this object, which may take its blocks over.
    #[must_use]
    pub fn part_of(mut self, object: &ObjectPath) -> Upload {
        self.owner = garbage::owner(&self.path, object);
        self
    }

    /// Bytes taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Takes the next bytes; waits while the devices are behind.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.written += bytes.len() as u64;
        if self.is_small() && self.pending_len + bytes.len() <= self.inline_max {
            self.keep(bytes);
            return Ok(());
        }
        for piece in self.kept() {
            self.fill(&piece).await?;
        }
        self.fill(&bytes).await
    }

    fn keep(&mut self, bytes: Bytes) {
        let first = self.pending_len == 0;
        self.pending_len += bytes.len();
        if bytes.len() < SMALL_PIECE && !first {
            self.tiny.extend_from_slice(&bytes);
            return;
        }
        if !self.tiny.is_empty() {
            self.pending.push(std::mem::take(&mut self.tiny).freeze());
        }
        self.pending.push(bytes);
    }

    /// What was kept.
    fn kept(&mut self) -> Vec<Bytes> {
        let mut pieces = std::mem::take(&mut self.pending);
        if !self.tiny.is_empty() {
            pieces.push(std::mem::take(&mut self.tiny).freeze());
        }
        pieces
    }

    /// Whether nothing went to a block yet.
    fn is_small(&self) -> bool {
        self.buffer.is_none() && self.blocks.begun == 0
    }

    /// Copies bytes to where the devices take them from without another copy.
    async fn fill(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let buffer = match &mut self.buffer {
                Some(buffer) if buffer.is_overdue() => return Err(StoreError::Overloaded),
                Some(buffer) => buffer,
                None => self.buffer.insert(self.blocks.store.buffers.take().await?),
            };
            bytes = buffer.push(bytes);
            if buffer.is_full() {
                self.send_block().await?;
            }
        }
        Ok(())
    }

    /// Ends the upload: all its blocks are on stable storage and its MD5 is known.
    pub async fn finish(mut self) -> Result<Staged, StoreError> {
        if self.is_small() {
            let (md5, inline) = md5::md5(self.kept(), self.pending_len).await?;
            return Ok(self.staged(md5, inline, Layout::Inline));
        }
        self.send_block().await?;
        let md5 = match self.md5.take() {
            Some(chain) => chain.stream().await,
            None => Err(StoreError::Unavailable("the upload had failed".into())),
        };
        // A block that failed explains a broken chain better than the chain does.
        self.blocks.drain(0).await?;
        let extent = Extent { data: self.blocks.data, len: self.written };
        let extents = if self.written == 0 { Vec::new() } else { vec![extent] };
        Ok(self.staged(md5?.finalize(), Vec::new(), Layout::Extents(extents)))
    }

    fn staged(self, md5: [u8; 16], inline: Vec<Bytes>, layout: Layout) -> Staged {
        Staged { path: self.path, blocks: self.blocks, inline, layout, size: self.written, md5 }
    }

    /// Hands the gathered block over to be hashed and written while the next one is gathered.
    async fn send_block(&mut self) -> Result<(), StoreError> {
        let Some(buffer) = self.buffer.take() else { return Ok(()) };
        self.blocks.drain(BLOCKS_AT_ONCE - 1).await?;
        if self.blocks.begun == BlockKey::MAX_BLOCKS {
            return Err(StoreError::Refused("an upload has too many blocks".into()));
        }
        let Some(chain) = self.md5.take() else {
            return Err(StoreError::Unavailable("the upload had failed".into()));
        };
        let md5 = match chain.stream().await {
            Ok(md5) => md5,
            Err(broken) => return Err(self.blocks.drain(0).await.err().unwrap_or(broken)),
        };
        let (hashed, next) = oneshot::channel();
        self.md5 = Some(Md5Chain::Pending(next));
        let (digest, data) = (buffer.blake3(), buffer.freeze());
        let (store, policy, owner) = (self.blocks.store.clone(), self.blocks.policy, self.owner.clone());
        let id = (self.blocks.data, self.blocks.begun);
        self.blocks.begun += 1;
        self.blocks.writes.spawn(async move {
            let next = async {
                // Nobody waits for the hash if the upload was given up.
                let _ =
                    hashed.send(store.hashers.get_or_init(Hashers::start).update(md5, data.clone()).await?);
                Ok(())
            };
            let write = store.write_block(&owner, policy, id, (digest, data.clone()));
            let ((), ()) = tokio::try_join!(next, write)?;
            Ok(())
        });
        Ok(())
    }
}

impl Blocks {
    /// Waits until at most `left` writes are under way; the first error ends the upload.
    async fn drain(&mut self, left: usize) -> Result<(), StoreError> {
        while self.writes.len() > left {
            if let Some(written) = self.writes.join_next().await {
                written.unwrap_or_else(|broken| Err(StoreError::Unavailable(broken.to_string())))?;
            }
        }
        Ok(())
    }

    /// A record is about to name the blocks: from now on they are not ours to delete. Refused when they
    /// are so old that others may soon take them for garbage.
    pub(super) fn hand_over(&mut self) -> Result<(), StoreError> {
        if self.begun > 0 {
            garbage::still_in_time(self.since)?;
            self.begun = 0;
        }
        Ok(())
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        if self.begun == 0 {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut writes = std::mem::take(&mut self.writes);
        let (store, policy) = (self.store.clone(), self.policy);
        let extent = Extent { data: self.data, len: u64::from(self.begun) * BLOCK_SIZE as u64 };
        runtime.spawn(async move {
            // No write may come after the deletes.
            writes.shutdown().await;
            if let Err(error) = store.delete_extents(policy, &[extent]).await {
                tracing::warn!(%error, "blocks of an upload that was given up stay behind");
            }
        });
    }
}

impl Staged {
    /// What it will be.
    pub fn path(&self) -> &ObjectPath {
        &self.path
    }

    /// Bytes of the upload.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// MD5 of its bytes.
    pub fn md5(&self) -> [u8; 16] {
        self.md5
    }

    /// The bytes, where they are few enough to be kept with the record.
    pub fn inline(&self) -> Option<&[Bytes]> {
        matches!(self.layout, Layout::Inline).then_some(&self.inline)
    }
}
