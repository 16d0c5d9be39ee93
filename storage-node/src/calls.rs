//! What a node does for its callers: each call finds its device, and asks its writer or reads its index.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use kodiak_storage_api::{
    BlockInfo, BlockKey, BlockWrite, DeviceIndex, Digest, DirectoryChange, DirectoryInfo, DirectoryKey,
    DirectoryWrite, Item, ItemCopy, ItemKey, ListQuery, NodeError, ObjectKey, ObjectWrite, Page, Partition,
    Partitions, Promise, Row, RowDurability, ScanPage, ScanQuery, StorageNode, StoredVersion, Timestamp,
    Tree, WorkId, WorkItem, WorkKind,
};

use crate::directories::Fence;
use crate::group::Request;
use crate::held::no_vote;
use crate::needle::Forgotten;
use crate::node::Node;
use crate::{digests, listing, read, trees, work};

/// A directory's key does not tell which of the two it is.
const DIRECTORIES: [Tree; 2] = [Tree::Accounts, Tree::Containers];

/// A replica that is being filled does not know what there is not.
fn unknown_directory(error: NodeError) -> NodeError {
    if error == NodeError::NoDirectory { no_vote() } else { error }
}

#[async_trait]
impl StorageNode for Node {
    fn device(&self, name: &str) -> Option<DeviceIndex> {
        self.devices.iter().position(|d| d.shared.name == name).map(|i| DeviceIndex(i as u16))
    }

    async fn write_object(&self, device: DeviceIndex, write: ObjectWrite) -> Result<(), NodeError> {
        let device = self.at(device)?;
        let filling = write.row.is_some_and(|row| {
            let holder = self.at(row.device);
            holder.is_ok_and(|holder| holder.held.is_missing(&DIRECTORIES, row.directory.place()))
        });
        let written = device.ask(|done| Request::Object(Box::new(write), done)).await;
        if filling { written.map_err(unknown_directory) } else { written }
    }

    async fn prepare(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        ballot: Timestamp,
        origin: Timestamp,
    ) -> Result<Promise, NodeError> {
        let device = self.at(device)?;
        device.held.vote(&[Tree::Objects(key.policy)], key.place())?;
        device.ask(|done| Request::Prepare(key, (ballot, origin), done)).await
    }

    async fn read_object(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        data: bool,
    ) -> Result<Option<StoredVersion>, NodeError> {
        let device = self.at(device)?;
        device.held.vote(&[Tree::Objects(key.policy)], key.place())?;
        read::object(device, key, data).await
    }

    async fn write_block(&self, device: DeviceIndex, block: BlockWrite) -> Result<(), NodeError> {
        self.at(device)?.ask(|done| Request::Block(Box::new(block), done)).await
    }

    async fn read_block(
        &self,
        device: DeviceIndex,
        key: BlockKey,
        range: Range<u32>,
    ) -> Result<Bytes, NodeError> {
        read::block(self.at(device)?, key, range).await
    }

    async fn delete_blocks(&self, device: DeviceIndex, keys: Vec<BlockKey>) -> Result<(), NodeError> {
        self.at(device)?.ask(|done| Request::DeleteBlocks(keys, done)).await
    }

    async fn write_directory(
        &self,
        device: DeviceIndex,
        write: DirectoryWrite,
    ) -> Result<(DirectoryInfo, bool), NodeError> {
        let device = self.at(device)?;
        // Only who has all rows knows whether a directory is empty, and only who has all records whether
        // there is one.
        if !matches!(write.change, DirectoryChange::Create { .. } | DirectoryChange::Merge(_)) {
            device.held.vote(&DIRECTORIES, write.key.place())?;
        }
        device.ask(|done| Request::Directory(write, done)).await
    }

    async fn read_directory(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
    ) -> Result<Option<DirectoryInfo>, NodeError> {
        let device = self.at(device)?;
        device.held.vote(&DIRECTORIES, key.place())?;
        if let Some(info) = device.shared.directories.read_cached(&key)? {
            return Ok(info);
        }
        let shared = device.shared.clone();
        read::blocking(move || shared.directories.read(&key).map(Some)).await
    }

    async fn write_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        rows: Vec<Row>,
        durability: RowDurability,
    ) -> Result<(), NodeError> {
        let device = self.at(device)?;
        let filling = device.held.is_missing(&DIRECTORIES, key.place());
        let written = match durability {
            RowDurability::Synced => device.ask(|done| Request::Rows(key, rows, Fence::Up, done)).await,
            RowDurability::Copied => device.ask(|done| Request::Rows(key, rows, Fence::Down, done)).await,
            RowDurability::Volatile => {
                let shared = device.shared.clone();
                let put = move || shared.directories.put_rows(&key, rows.iter(), Fence::Up).map(Some);
                read::blocking(put).await
            }
        };
        if filling { written.map_err(unknown_directory) } else { written }
    }

    async fn list_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        query: ListQuery,
    ) -> Result<Page, NodeError> {
        let device = self.at(device)?;
        device.held.vote(&DIRECTORIES, key.place())?;
        let shared = device.shared.clone();
        let list = move || {
            let page = listing::list(&shared.applier.index, &key, &query)?;
            // After the page was read: rows that were not in it any more are behind bounds that are seen here.
            query.check(shared.directories.stored(&key)?.map(|stored| stored.directory).as_ref())?;
            Ok(Some(page))
        };
        read::blocking(list).await
    }

    async fn next_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        now: u64,
        limit: usize,
    ) -> Result<Vec<WorkItem>, NodeError> {
        let shared = self.at(device)?.shared.clone();
        read::blocking(move || work::next(&shared, kind, now, limit).map(Some)).await
    }

    async fn finish_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        ids: Vec<WorkId>,
    ) -> Result<(), NodeError> {
        let shared = self.at(device)?.shared.clone();
        read::blocking(move || work::finish(&shared, kind, &ids).map(Some)).await
    }

    async fn digests(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partitions: Partitions,
    ) -> Result<Vec<(Partition, Digest)>, NodeError> {
        let shared = self.at(device)?.shared.clone();
        match shared.applier.index.grids().roots(tree, &partitions) {
            Some(digests) => Ok(digests),
            None => {
                read::blocking(move || digests::roots(&shared.applier.index, tree, &partitions).map(Some))
                    .await
            }
        }
    }

    async fn buckets(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partition: Partition,
    ) -> Result<Vec<Digest>, NodeError> {
        let shared = self.at(device)?.shared.clone();
        read::blocking(move || digests::buckets(&shared.applier.index, tree, partition).map(Some)).await
    }

    async fn scan(&self, device: DeviceIndex, query: ScanQuery) -> Result<ScanPage, NodeError> {
        let shared = self.at(device)?.shared.clone();
        read::blocking(move || trees::scan(&shared.applier.index, &query).map(Some)).await
    }

    async fn read_items(
        &self,
        device: DeviceIndex,
        keys: Vec<ItemKey>,
    ) -> Result<Vec<Result<Option<ItemCopy>, NodeError>>, NodeError> {
        let device = self.at(device)?.clone();
        read::blocking(move || trees::read_items(&device, &keys).map(Some)).await
    }

    async fn block_infos(
        &self,
        device: DeviceIndex,
        keys: Vec<BlockKey>,
    ) -> Result<Vec<Option<BlockInfo>>, NodeError> {
        let device = self.at(device)?.clone();
        read::blocking(move || trees::block_infos(&device, &keys).map(Some)).await
    }

    async fn learn_object(&self, device: DeviceIndex, write: ObjectWrite) -> Result<(), NodeError> {
        self.at(device)?.ask(|done| Request::Learn(Box::new(write), done)).await
    }

    async fn missing(&self, device: DeviceIndex) -> Result<Vec<(Tree, Partition)>, NodeError> {
        Ok(self.at(device)?.held.missing())
    }

    async fn filled(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partitions: Vec<Partition>,
    ) -> Result<(), NodeError> {
        let held = self.at(device)?.held.clone();
        let noted = read::blocking(move || Ok(Some(held.filled(tree, &partitions)))).await?;
        noted.map_err(|error| NodeError::Unavailable(format!("cannot note what the device holds: {error}")))
    }

    async fn forget(&self, device: DeviceIndex, items: Vec<Item>) -> Result<usize, NodeError> {
        self.keep_rows(device, &items).await?;
        let forgotten = Forgotten { items };
        self.at(device)?.ask(|done| Request::Forget(forgotten, done)).await
    }
}
