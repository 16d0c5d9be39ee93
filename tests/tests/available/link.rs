//! A node that can be cut off.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use kodiak_storage_api::{
    BlockInfo, BlockKey, BlockWrite, DeviceIndex, Digest, DirectoryInfo, DirectoryKey, DirectoryWrite,
    Health, Item, ItemCopy, ItemKey, ListQuery, NodeError, ObjectKey, ObjectWrite, Page, Partition,
    Partitions, Promise, Row, RowDurability, ScanPage, ScanQuery, StorageNode, StoredVersion, Timestamp,
    Tree, WorkId, WorkItem, WorkKind,
};

/// A machine's way to a node.
pub struct Link {
    pub node: Arc<dyn StorageNode>,
    pub cut: AtomicBool,
}

impl Link {
    fn pass(&self) -> Result<(), NodeError> {
        match self.cut.load(Ordering::SeqCst) {
            true => Err(NodeError::Unavailable("cut off".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl StorageNode for Link {
    fn device(&self, name: &str) -> Option<DeviceIndex> {
        self.node.device(name)
    }

    fn health(&self) -> Health {
        self.node.health()
    }

    async fn write_object(&self, device: DeviceIndex, write: ObjectWrite) -> Result<(), NodeError> {
        self.pass()?;
        self.node.write_object(device, write).await
    }

    async fn prepare(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        ballot: Timestamp,
        origin: Timestamp,
    ) -> Result<Promise, NodeError> {
        self.pass()?;
        self.node.prepare(device, key, ballot, origin).await
    }

    async fn read_object(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        data: bool,
    ) -> Result<Option<StoredVersion>, NodeError> {
        self.pass()?;
        self.node.read_object(device, key, data).await
    }

    async fn write_block(&self, device: DeviceIndex, block: BlockWrite) -> Result<(), NodeError> {
        self.pass()?;
        self.node.write_block(device, block).await
    }

    async fn read_block(
        &self,
        device: DeviceIndex,
        key: BlockKey,
        range: Range<u32>,
    ) -> Result<Bytes, NodeError> {
        self.pass()?;
        self.node.read_block(device, key, range).await
    }

    async fn delete_blocks(&self, device: DeviceIndex, keys: Vec<BlockKey>) -> Result<(), NodeError> {
        self.pass()?;
        self.node.delete_blocks(device, keys).await
    }

    async fn write_directory(
        &self,
        device: DeviceIndex,
        write: DirectoryWrite,
    ) -> Result<(DirectoryInfo, bool), NodeError> {
        self.pass()?;
        self.node.write_directory(device, write).await
    }

    async fn read_directory(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
    ) -> Result<Option<DirectoryInfo>, NodeError> {
        self.pass()?;
        self.node.read_directory(device, key).await
    }

    async fn write_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        rows: Vec<Row>,
        durability: RowDurability,
    ) -> Result<(), NodeError> {
        self.pass()?;
        self.node.write_rows(device, key, rows, durability).await
    }

    async fn list_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        query: ListQuery,
    ) -> Result<Page, NodeError> {
        self.pass()?;
        self.node.list_rows(device, key, query).await
    }

    async fn next_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        now: u64,
        limit: usize,
    ) -> Result<Vec<WorkItem>, NodeError> {
        self.pass()?;
        self.node.next_work(device, kind, now, limit).await
    }

    async fn finish_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        ids: Vec<WorkId>,
    ) -> Result<(), NodeError> {
        self.pass()?;
        self.node.finish_work(device, kind, ids).await
    }

    async fn digests(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partitions: Partitions,
    ) -> Result<Vec<(Partition, Digest)>, NodeError> {
        self.pass()?;
        self.node.digests(device, tree, partitions).await
    }

    async fn buckets(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partition: Partition,
    ) -> Result<Vec<Digest>, NodeError> {
        self.pass()?;
        self.node.buckets(device, tree, partition).await
    }

    async fn scan(&self, device: DeviceIndex, query: ScanQuery) -> Result<ScanPage, NodeError> {
        self.pass()?;
        self.node.scan(device, query).await
    }

    async fn read_items(
        &self,
        device: DeviceIndex,
        keys: Vec<ItemKey>,
    ) -> Result<Vec<Result<Option<ItemCopy>, NodeError>>, NodeError> {
        self.pass()?;
        self.node.read_items(device, keys).await
    }

    async fn block_infos(
        &self,
        device: DeviceIndex,
        keys: Vec<BlockKey>,
    ) -> Result<Vec<Option<BlockInfo>>, NodeError> {
        self.pass()?;
        self.node.block_infos(device, keys).await
    }

    async fn learn_object(&self, device: DeviceIndex, write: ObjectWrite) -> Result<(), NodeError> {
        self.pass()?;
        self.node.learn_object(device, write).await
    }

    async fn missing(&self, device: DeviceIndex) -> Result<Vec<(Tree, Partition)>, NodeError> {
        self.pass()?;
        self.node.missing(device).await
    }

    async fn filled(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partitions: Vec<Partition>,
    ) -> Result<(), NodeError> {
        self.pass()?;
        self.node.filled(device, tree, partitions).await
    }

    async fn forget(&self, device: DeviceIndex, items: Vec<Item>) -> Result<usize, NodeError> {
        self.pass()?;
        self.node.forget(device, items).await
    }
}
