//! Blocks of policies with an erasure code: a fragment on each device of the partition.
//!
//! A fragment's key names the upload that wrote it, and no upload is ever repeated: fragments of two
//! writes cannot meet. Each is verified by its own checksums on its device.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use kodiak_storage_api::{BlockKey, BlockWrite, Codec, NodeError, ObjectPath, Replica};

use super::{Store, StoreError, quorum};

/// A block, and who keeps its fragments.
pub(super) struct Fragments {
    pub(super) codec: Arc<Codec>,
    pub(super) key: BlockKey,
    /// By fragment.
    pub(super) replicas: Vec<Replica>,
    /// Bytes of the block.
    pub(super) len: usize,
}

impl Fragments {
    /// Cuts a block and stores its fragments: so many are on stable storage when this returns
    /// ([`kodiak_storage_api::ErasureCode::write_quorum`]) that a read works without those of a minority
    /// of the parity.
    pub(super) async fn write(self, owner: &ObjectPath, block: Bytes) -> Result<(), StoreError> {
        let codec = self.codec.clone();
        // Off the async threads: a millisecond a block, for hashing more than for the code.
        let cut = tokio::task::spawn_blocking(move || {
            let digest = |fragment: Bytes| (*blake3::hash(&fragment).as_bytes(), fragment);
            codec.split(&block).map(|fragments| fragments.into_iter().map(digest).collect::<Vec<_>>())
        });
        let cut = cut.await.map_err(|error| StoreError::Unavailable(error.to_string()))??;
        let write = |fragment: usize, replica: Replica| {
            let block = cut.get(fragment).map(|(digest, data)| BlockWrite {
                key: self.key.of_fragment(fragment),
                owner: owner.clone(),
                digest: *digest,
                data: vec![data.clone()],
            });
            async move {
                let missing = || NodeError::Corrupt("more devices than fragments".into());
                replica.node.write_block(replica.device, block.ok_or_else(missing)?).await
            }
        };
        quorum::write_to(self.codec.code().write_quorum(), self.replicas.clone(), write).await?;
        Ok(())
    }

    /// Verified bytes of a range of the block: from the fragments that hold it, and what cannot be read
    /// from the same range of others.
    pub(super) async fn read(&self, range: Range<u32>) -> Result<Bytes, StoreError> {
        let len = self.codec.code().fragment_len(self.len);
        let range = range.start as usize..range.end as usize;
        let fragments = range.start / len..range.end.div_ceil(len);
        let within = |fragment: usize| {
            let (begin, end) = (fragment * len, (fragment + 1) * len);
            (range.start.max(begin) - begin) as u32..(range.end.min(end) - begin) as u32
        };
        let parts = fragments.map(|fragment| self.read_fragment(fragment, within(fragment)));
        let mut parts = try_join_all(parts).await?;
        if parts.len() == 1 {
            return parts.pop().ok_or_else(|| StoreError::Corrupt("no fragment".into()));
        }
        Ok(parts.concat().into())
    }

    async fn read_fragment(&self, fragment: usize, range: Range<u32>) -> Result<Bytes, NodeError> {
        match self.fetch(fragment, range.clone()).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => {
                tracing::warn!(key = ?self.key, fragment, %error, "a fragment is rebuilt to be read");
            }
        }
        metrics::counter!("kodiak_fragments_rebuilt_total").increment(1);
        let needed = self.codec.code().data();
        let fetch = |other: usize| {
            let bytes = self.fetch(other, range.clone());
            async move { (other, bytes.await) }
        };
        // As many as are needed, and another for each that fails.
        let mut others = (0..self.codec.code().fragments()).filter(|other| *other != fragment);
        let mut asked: FuturesUnordered<_> = others.by_ref().take(needed).map(fetch).collect();
        let (mut found, mut errors) = (vec![None; self.codec.code().fragments()], Vec::new());
        while let Some((other, bytes)) = asked.next().await {
            match bytes {
                Ok(bytes) => found[other] = Some(bytes),
                Err(error) => {
                    errors.push(error);
                    asked.extend(others.next().map(fetch));
                }
            }
        }
        if found.iter().flatten().count() < needed {
            return Err(super::error::worst(errors));
        }
        self.codec.rebuild(&found, fragment)
    }

    async fn fetch(&self, fragment: usize, range: Range<u32>) -> Result<Bytes, NodeError> {
        let missing = || NodeError::Unavailable(format!("no device holds fragment {fragment}"));
        let replica = self.replicas.get(fragment).ok_or_else(missing)?;
        replica.node.read_block(replica.device, self.key.of_fragment(fragment), range).await
    }
}

impl Store {
    /// The fragments of a block of `len` bytes; none if its policy replicates.
    pub(super) fn fragments(&self, key: BlockKey, len: usize) -> Result<Option<Fragments>, StoreError> {
        let map = self.map();
        let Some(codec) = map.codec(key.policy)? else { return Ok(None) };
        let replicas = map.block_replicas(key.policy, key.partition)?;
        Ok(Some(Fragments { codec, key, replicas, len }))
    }
}
