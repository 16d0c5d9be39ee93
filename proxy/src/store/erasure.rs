//! Blocks of policies with an erasure code: a fragment on each device of the partition.
//!
//! A fragment's key names the upload that wrote it, and no upload is ever repeated: fragments of two
//! writes cannot meet. Each is verified by its own checksums on its device.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{Either, select, try_join_all};
use kodiak_storage_api::{BlockKey, BlockWrite, Codec, Health, NodeError, ObjectPath, Replica};

use tokio::time::timeout;

use super::{Store, StoreError, hedge, quorum};

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

    /// The fragment itself; or, if it cannot be read or is late, from the same range of others.
    async fn read_fragment(&self, fragment: usize, range: Range<u32>) -> Result<Bytes, NodeError> {
        let mut direct = pin!(self.fetch(fragment, range.clone()));
        let read = match hedge::late(self.health(fragment)) {
            Some(late) => timeout(late + hedge::PIECE_SLACK, direct.as_mut()).await,
            None => Ok(direct.as_mut().await),
        };
        let late = match read {
            Ok(Ok(bytes)) => return Ok(bytes),
            // That a node does not answer is said once, not with each fragment.
            Ok(Err(error @ (NodeError::Unavailable(_) | NodeError::Overloaded))) => {
                tracing::debug!(key = ?self.key, fragment, %error, "a fragment is rebuilt to be read");
                false
            }
            Ok(Err(error)) => {
                tracing::warn!(key = ?self.key, fragment, %error, "a fragment is rebuilt to be read");
                false
            }
            Err(_) => true,
        };
        metrics::counter!("kodiak_fragments_rebuilt_total").increment(1);
        let rebuilt = pin!(self.rebuild(fragment, range));
        if !late {
            return rebuilt.await;
        }
        match select(direct, rebuilt).await {
            Either::Left((Err(_), rebuilt)) => rebuilt.await,
            Either::Right((Err(_), direct)) => direct.await,
            Either::Left((bytes, _)) | Either::Right((bytes, _)) => bytes,
        }
    }

    /// A range of a fragment from the same range of as many others as are needed.
    async fn rebuild(&self, fragment: usize, range: Range<u32>) -> Result<Bytes, NodeError> {
        let (all, needed) = (self.codec.code().fragments(), self.codec.code().data());
        let others: Vec<usize> = (0..all).filter(|other| *other != fragment).collect();
        let health: Vec<Health> = others.iter().map(|other| self.health(*other)).collect();
        let fetch = |index: usize| self.fetch(others[index], range.clone());
        let (answers, errors) = hedge::ask(&health, needed, hedge::PIECE_SLACK, fetch).await;
        if answers.len() < needed {
            return Err(super::error::worst(errors));
        }
        let mut found = vec![None; all];
        answers.into_iter().for_each(|(index, bytes)| found[others[index]] = Some(bytes));
        self.codec.rebuild(&found, fragment)
    }

    fn health(&self, fragment: usize) -> Health {
        self.replicas.get(fragment).map_or(Health::Down, |replica| replica.node.health())
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
        let replicas = map.block_replicas(key.policy, key.place)?;
        Ok(Some(Fragments { codec, key, replicas, len }))
    }
}
