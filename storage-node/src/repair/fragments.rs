//! Blocks under an erasure code: who lacks its fragment gets it, from a device that stands in, or computed
//! from others.
//!
//! The digests of blocks leave out which fragment it is, so devices that each hold theirs of the same
//! blocks are equal. A device mends its own fragments; of those it holds for others it gives each its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use kodiak_storage_api::jobs::yielding;
use kodiak_storage_api::{
    BlockInfo, BlockKey, BlockWrite, BucketSet, Codec, ItemCopy, ItemKey, NodeError, Replica,
};

use super::heal::{Healed, Healer, Place, scan};

/// For each block, which fragments are there, and on which replica.
type Found = BTreeMap<BlockKey, BTreeMap<usize, usize>>;

impl Healer {
    /// Mends the fragments of a partition that `local` lacks, or, where it is no primary, gives the
    /// primaries those that they lack.
    pub(super) async fn heal_fragments(
        &self,
        codec: &Codec,
        place: Place,
        local: &Replica,
    ) -> Result<Healed, NodeError> {
        let primaries = self.map.replicas(place.tree, place.partition)?;
        let mine = primaries.iter().position(|primary| primary.is(local));
        let mut replicas = primaries.clone();
        if mine.is_none() {
            replicas.push(local.clone());
        }
        let (mut healed, mut found, mut away) = (Healed::default(), Found::new(), Vec::new());
        for (index, replica) in replicas.iter().enumerate() {
            let scanned = scan(replica, place, BucketSet::ALL, |item| {
                if let ItemKey::Block(key) = item.key
                    && let Some(fragment) = key.fragment()
                {
                    let block = BlockKey { index: key.number(), ..key };
                    let holder = found.entry(block).or_default().entry(fragment).or_insert(index);
                    // Who ought to hold it knows best.
                    if index == fragment {
                        *holder = index;
                    }
                }
            });
            if let Err(error) = scanned.await {
                tracing::debug!(?place, index, %error, "a replica does not say what it has");
                away.push(index);
            }
        }
        healed.away = away.len();
        for (block, fragments) in found {
            let targets: Vec<usize> = match mine {
                Some(mine) => vec![mine],
                // What is held for others is theirs alone: nothing is computed for it.
                None => fragments
                    .iter()
                    .filter(|(_, holder)| **holder == primaries.len())
                    .map(|(f, _)| *f)
                    .collect(),
            };
            for target in targets.into_iter().filter(|target| *target < primaries.len()) {
                if fragments.get(&target) == Some(&target) || away.contains(&target) {
                    continue;
                }
                match self.mend(codec, &replicas, block, &fragments, target).await {
                    Ok(bytes) => {
                        healed.copied += 1;
                        healed.bytes += bytes;
                    }
                    Err(error) => {
                        tracing::debug!(?block, target, %error, "a fragment is left for the next pass");
                        healed.failed += 1;
                    }
                }
            }
        }
        Ok(healed)
    }

    async fn mend(
        &self,
        codec: &Codec,
        replicas: &[Replica],
        block: BlockKey,
        fragments: &BTreeMap<usize, usize>,
        target: usize,
    ) -> Result<u64, NodeError> {
        let (info, data) = match fragments.get(&target) {
            Some(holder) => self.fragment(&replicas[*holder], block.of_fragment(target)).await?,
            None => self.computed(codec, replicas, block, fragments, target).await?,
        };
        let (to, bytes) = (&replicas[target], data.len() as u64);
        let digest = *blake3::hash(&data).as_bytes();
        let write =
            BlockWrite { key: block.of_fragment(target), owner: info.owner, digest, data: vec![data] };
        yielding(|| to.node.write_block(to.device, write.clone())).await?;
        Ok(bytes)
    }

    async fn computed(
        &self,
        codec: &Codec,
        replicas: &[Replica],
        block: BlockKey,
        fragments: &BTreeMap<usize, usize>,
        target: usize,
    ) -> Result<(BlockInfo, Bytes), NodeError> {
        let mut parts = vec![None; codec.code().fragments()];
        let (mut known, mut left) = (None, codec.code().data());
        for (fragment, holder) in fragments {
            if left == 0 {
                break;
            }
            match self.fragment(&replicas[*holder], block.of_fragment(*fragment)).await {
                Ok((info, data)) => {
                    known = Some(info);
                    if let Some(part) = parts.get_mut(*fragment) {
                        *part = Some(data);
                        left -= 1;
                    }
                }
                Err(error) => tracing::debug!(?block, fragment, %error, "a fragment cannot be read"),
            }
        }
        match known {
            Some(info) if left == 0 => Ok((info, codec.rebuild(&parts, target)?)),
            _ => Err(NodeError::Unavailable("too few fragments".into())),
        }
    }

    /// A verified fragment.
    async fn fragment(&self, from: &Replica, key: BlockKey) -> Result<(BlockInfo, Bytes), NodeError> {
        let mut copies = from.node.read_items(from.device, vec![ItemKey::Block(key)]).await?;
        let Some(ItemCopy::Block { info, data }) = copies.pop().transpose()?.flatten() else {
            return Err(NodeError::NoBlock);
        };
        self.pace.take(data.len()).await;
        if *blake3::hash(&data).as_bytes() != info.digest {
            return Err(NodeError::Corrupt("a fragment is not what its digest says".into()));
        }
        Ok((info, data))
    }
}
