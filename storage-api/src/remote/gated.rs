//! This machine's own node, in a cluster.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::RwLockReadGuard;

use super::Party;
use crate::{
    BlockInfo, BlockKey, BlockWrite, DeviceIndex, Digest, DirectoryInfo, DirectoryKey, DirectoryWrite,
    Health, Item, ItemCopy, ItemKey, ListQuery, NodeError, ObjectKey, ObjectWrite, Page, Partition,
    Partitions, Promise, Row, RowDurability, ScanPage, ScanQuery, StorageNode, StoredVersion, Timestamp,
    Tree, WorkId, WorkItem, WorkKind,
};

/// The node in this process, for calls that are placed by the map of an epoch: they pass the same gate as
/// those of other machines.
pub struct Gated {
    party: Arc<Party>,
    node: Arc<dyn StorageNode>,
    epoch: u64,
}

impl Gated {
    /// `node` is `party`'s own.
    pub fn new(party: Arc<Party>, node: Arc<dyn StorageNode>, epoch: u64) -> Arc<Gated> {
        Arc::new(Gated { party, node, epoch })
    }

    async fn enter(&self) -> Result<RwLockReadGuard<'_, u64>, NodeError> {
        self.party.gate().enter(self.epoch).await
    }
}

#[async_trait]
impl StorageNode for Gated {
    fn device(&self, name: &str) -> Option<DeviceIndex> {
        self.node.device(name)
    }

    fn health(&self) -> Health {
        self.node.health()
    }

    async fn write_object(&self, device: DeviceIndex, write: ObjectWrite) -> Result<(), NodeError> {
        let _gate = self.enter().await?;
        self.node.write_object(device, write).await
    }

    async fn prepare(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        ballot: Timestamp,
        origin: Timestamp,
    ) -> Result<Promise, NodeError> {
        let _gate = self.enter().await?;
        self.node.prepare(device, key, ballot, origin).await
    }

    async fn read_object(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        data: bool,
    ) -> Result<Option<StoredVersion>, NodeError> {
        let _gate = self.enter().await?;
        self.node.read_object(device, key, data).await
    }

    async fn write_block(&self, device: DeviceIndex, block: BlockWrite) -> Result<(), NodeError> {
        let _gate = self.enter().await?;
        self.node.write_block(device, block).await
    }

    async fn read_block(
        &self,
        device: DeviceIndex,
        key: BlockKey,
        range: Range<u32>,
    ) -> Result<Bytes, NodeError> {
        let _gate = self.enter().await?;
        self.node.read_block(device, key, range).await
    }

    async fn delete_blocks(&self, device: DeviceIndex, keys: Vec<BlockKey>) -> Result<(), NodeError> {
        let _gate = self.enter().await?;
        self.node.delete_blocks(device, keys).await
    }

    async fn write_directory(
        &self,
        device: DeviceIndex,
        write: DirectoryWrite,
    ) -> Result<(DirectoryInfo, bool), NodeError> {
        let _gate = self.enter().await?;
        self.node.write_directory(device, write).await
    }

    async fn read_directory(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
    ) -> Result<Option<DirectoryInfo>, NodeError> {
        let _gate = self.enter().await?;
        self.node.read_directory(device, key).await
    }

    async fn write_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        rows: Vec<Row>,
        durability: RowDurability,
    ) -> Result<(), NodeError> {
        let _gate = self.enter().await?;
        self.node.write_rows(device, key, rows, durability).await
    }

    async fn list_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        query: ListQuery,
    ) -> Result<Page, NodeError> {
        let _gate = self.enter().await?;
        self.node.list_rows(device, key, query).await
    }

    async fn next_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        now: u64,
        limit: usize,
    ) -> Result<Vec<WorkItem>, NodeError> {
        let _gate = self.enter().await?;
        self.node.next_work(device, kind, now, limit).await
    }

    async fn finish_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        ids: Vec<WorkId>,
    ) -> Result<(), NodeError> {
        let _gate = self.enter().await?;
        self.node.finish_work(device, kind, ids).await
    }

    async fn digests(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partitions: Partitions,
    ) -> Result<Vec<(Partition, Digest)>, NodeError> {
        let _gate = self.enter().await?;
        self.node.digests(device, tree, partitions).await
    }

    async fn buckets(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partition: Partition,
    ) -> Result<Vec<Digest>, NodeError> {
        let _gate = self.enter().await?;
        self.node.buckets(device, tree, partition).await
    }

    async fn scan(&self, device: DeviceIndex, query: ScanQuery) -> Result<ScanPage, NodeError> {
        let _gate = self.enter().await?;
        self.node.scan(device, query).await
    }

    async fn read_items(
        &self,
        device: DeviceIndex,
        keys: Vec<ItemKey>,
    ) -> Result<Vec<Result<Option<ItemCopy>, NodeError>>, NodeError> {
        let _gate = self.enter().await?;
        self.node.read_items(device, keys).await
    }

    async fn block_infos(
        &self,
        device: DeviceIndex,
        keys: Vec<BlockKey>,
    ) -> Result<Vec<Option<BlockInfo>>, NodeError> {
        let _gate = self.enter().await?;
        self.node.block_infos(device, keys).await
    }

    async fn learn_object(&self, device: DeviceIndex, write: ObjectWrite) -> Result<(), NodeError> {
        let _gate = self.enter().await?;
        self.node.learn_object(device, write).await
    }

    async fn missing(&self, device: DeviceIndex) -> Result<Vec<(Tree, Partition)>, NodeError> {
        let _gate = self.enter().await?;
        self.node.missing(device).await
    }

    async fn filled(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partitions: Vec<Partition>,
    ) -> Result<(), NodeError> {
        let _gate = self.enter().await?;
        self.node.filled(device, tree, partitions).await
    }

    async fn forget(&self, device: DeviceIndex, items: Vec<Item>) -> Result<usize, NodeError> {
        let _gate = self.enter().await?;
        self.node.forget(device, items).await
    }
}
