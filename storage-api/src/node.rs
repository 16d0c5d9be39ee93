//! The trait that every storage node implements, in this process or on another machine.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    BlockInfo, BlockKey, Digest, DirectoryInfo, DirectoryKey, DirectoryWrite, Extent, Item, ItemCopy,
    ItemKey, ListQuery, NodeError, ObjectKey, ObjectPath, Page, Partition, Partitions, PolicyIndex, Promise,
    Row, ScanPage, ScanQuery, Stamp, Timestamp, Tree, Version,
};

/// A device of one node: its place in the node's own list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DeviceIndex(pub u16);

/// A new version of an object. It is serialized without its bytes, which go beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObjectWrite {
    /// Where it lies.
    pub key: ObjectKey,
    /// Its name.
    pub path: ObjectPath,
    /// What to store.
    pub version: Version,
    /// Which write it is, and its place in the order of the name's versions.
    pub stamp: Stamp,
    /// Only over the version of this ballot (zero: over nothing); a device that holds another answers
    /// [`NodeError::Stale`]. For names with one replica, where that makes a compare-and-set.
    pub expect: Option<Timestamp>,
    /// The bytes, for [`crate::Layout::Inline`]; else empty. Never copied on the way to the device.
    #[serde(skip)]
    pub inline: Vec<Bytes>,
    /// The container replica on the same node whose row goes with it, if there is one.
    pub row: Option<RowTarget>,
}

/// A container replica on the node that stores the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RowTarget {
    /// The container.
    pub directory: DirectoryKey,
    /// The device that holds this replica of it.
    pub device: DeviceIndex,
}

/// What a device has of a name. It is serialized without its bytes, which go beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredVersion {
    /// The version.
    pub version: Version,
    /// Which write it is, and its place in the order.
    pub stamp: Stamp,
    /// The verified bytes, where they were asked for and lie inline.
    #[serde(skip)]
    pub inline: Option<Bytes>,
}

/// A block to store. It is serialized without its bytes, which go beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlockWrite {
    /// Where it lies.
    pub key: BlockKey,
    /// The object (or multipart part) that the upload is for; lets the sweeper find orphans.
    pub owner: ObjectPath,
    /// BLAKE3 of the content.
    pub digest: [u8; 32],
    /// The content, at most [`crate::BLOCK_SIZE`] bytes. Never copied on the way to the device.
    #[serde(skip)]
    pub data: Vec<Bytes>,
}

/// What has reached stable storage when rows are acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RowDurability {
    /// The rows themselves.
    Synced,
    /// Not yet, and the caller can give them again after a crash.
    Volatile,
    /// The rows themselves; and they are taken whatever the directory's bounds: another replica of it has them, or
    /// they will go from here to where they belong.
    Copied,
}

/// Queues of work that a node keeps for the cluster's background workers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum WorkKind {
    /// Objects whose `expires_at` has come.
    Expire,
    /// Blocks that a replaced or deleted version has left behind.
    Free,
    /// Containers whose totals their account does not have yet.
    Totals,
    /// Accounts that were deleted with containers in them.
    Reap,
}

/// Identity of a queued item on its device: opaque.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct WorkId(pub Vec<u8>);

/// An item of a queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkItem {
    /// Names it to [`StorageNode::finish_work`].
    pub id: WorkId,
    /// What is to be done.
    pub work: Work,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Delete the object if this version is still its newest.
    Expire {
        /// The object.
        path: ObjectPath,
        /// The version that ends.
        timestamp: Timestamp,
    },
    /// Delete the blocks of these extents.
    Free {
        /// The object they belonged to.
        path: ObjectPath,
        /// Its policy.
        policy: PolicyIndex,
        /// The extents.
        extents: Vec<Extent>,
    },
    /// Tell the account the totals of this container.
    Totals {
        /// The container and its totals now.
        info: DirectoryInfo,
    },
    /// Delete everything in this account.
    Reap {
        /// The account.
        account: String,
        /// When it was deleted.
        since: Timestamp,
    },
}

/// How soon a node can be expected to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// It is in this process.
    Local,
    /// On another machine: an answer to a small question that takes longer than `late` is unusual.
    Remote {
        /// About 19 of 20 answers come within it.
        late: Duration,
        /// How far away it is: the nearer ones are asked first.
        distance: u32,
    },
    /// It has not answered for a while: calls fail at once.
    Down,
}

/// A storage node: the only way to a device.
///
/// Every method may be called again after an error or a time-out: writes are idempotent by their
/// timestamps and keys. An `Ok` from a write means that it is on stable storage, unless the
/// method says otherwise, and that every later read of this device sees it.
#[async_trait]
pub trait StorageNode: Send + Sync + 'static {
    /// The device of this name.
    fn device(&self, name: &str) -> Option<DeviceIndex>;

    /// How soon it can be expected to answer: readers ask the better ones first.
    fn health(&self) -> Health {
        Health::Local
    }

    /// Stores a version unless the device has a newer one or has promised to take none so old
    /// ([`NodeError::Stale`]), and then its row, which is seen by every later listing and comes back by itself after a crash.
    /// [`NodeError::NoDirectory`], [`NodeError::Moved`]: the version is stored, but its row was not taken.
    /// Extents of the replaced version that the new one does not name go to [`WorkKind::Free`].
    async fn write_object(&self, device: DeviceIndex, write: ObjectWrite) -> Result<(), NodeError>;

    /// Promises never to take a version with an older ballot, and says what it holds and whether it has
    /// ever accepted the write of this origin. At [`Timestamp::ZERO`] it only says. The promise outlives
    /// a crash.
    async fn prepare(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        ballot: Timestamp,
        origin: Timestamp,
    ) -> Result<Promise, NodeError>;

    /// The newest version, tombstones included; with the inline bytes if `data`.
    async fn read_object(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        data: bool,
    ) -> Result<Option<StoredVersion>, NodeError>;

    /// Stores a block. A block that is there already is left as it is.
    async fn write_block(&self, device: DeviceIndex, block: BlockWrite) -> Result<(), NodeError>;

    /// Verified bytes of a block; `range` must lie within it.
    async fn read_block(
        &self,
        device: DeviceIndex,
        key: BlockKey,
        range: Range<u32>,
    ) -> Result<Bytes, NodeError>;

    /// Deletes blocks; those that are not there are passed over.
    async fn delete_blocks(&self, device: DeviceIndex, keys: Vec<BlockKey>) -> Result<(), NodeError>;

    /// Changes an account or container and answers its state after the change, and whether it was
    /// created by it. An older timestamp than the record's own never undoes a newer change.
    async fn write_directory(
        &self,
        device: DeviceIndex,
        write: DirectoryWrite,
    ) -> Result<(DirectoryInfo, bool), NodeError>;

    /// The record and totals, also of a deleted directory; none if it never was.
    async fn read_directory(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
    ) -> Result<Option<DirectoryInfo>, NodeError>;

    /// Puts rows into a directory, each unless a newer one is there. [`NodeError::Moved`]: some were refused, since
    /// they are not within its bounds.
    async fn write_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        rows: Vec<Row>,
        durability: RowDurability,
    ) -> Result<(), NodeError>;

    /// One page of a directory's rows; [`NodeError::Moved`] if its bounds are newer than those of the query.
    async fn list_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        query: ListQuery,
    ) -> Result<Page, NodeError>;

    /// The first `limit` items of a queue that are due at `now` (seconds since 1970).
    async fn next_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        now: u64,
        limit: usize,
    ) -> Result<Vec<WorkItem>, NodeError>;

    /// Removes items. Not synced: after a crash an item may come again.
    async fn finish_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        ids: Vec<WorkId>,
    ) -> Result<(), NodeError>;

    /// Digests of those partitions that the device has anything of.
    async fn digests(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partitions: Partitions,
    ) -> Result<Vec<(Partition, Digest)>, NodeError> {
        let _ = (device, tree, partitions);
        Err(no_repair())
    }

    /// The [`crate::BUCKETS`] digests that a partition's is the sum of.
    async fn buckets(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partition: Partition,
    ) -> Result<Vec<Digest>, NodeError> {
        let _ = (device, tree, partition);
        Err(no_repair())
    }

    /// Items of some buckets of a partition. An item that is changed meanwhile may come twice or not
    /// at all; the others come once.
    async fn scan(&self, device: DeviceIndex, query: ScanQuery) -> Result<ScanPage, NodeError> {
        let _ = (device, query);
        Err(no_repair())
    }

    /// Whole items, verified, in the order of the keys; none where there is none. Those that do not fit
    /// into about [`crate::ITEMS_BYTES`] are left out at the end: to be asked for again.
    async fn read_items(
        &self,
        device: DeviceIndex,
        keys: Vec<ItemKey>,
    ) -> Result<Vec<Result<Option<ItemCopy>, NodeError>>, NodeError> {
        let _ = (device, keys);
        Err(no_repair())
    }

    /// What is known of blocks; none of those that are not there.
    async fn block_infos(
        &self,
        device: DeviceIndex,
        keys: Vec<BlockKey>,
    ) -> Result<Vec<Option<BlockInfo>>, NodeError> {
        let _ = (device, keys);
        Err(no_repair())
    }

    /// Stores a version that has taken effect: a majority of its replicas holds it at this ballot. So it
    /// is taken whatever this device has promised since, unless it holds a newer one, and over a damaged
    /// copy of itself.
    async fn learn_object(&self, device: DeviceIndex, write: ObjectWrite) -> Result<(), NodeError> {
        let _ = (device, write);
        Err(no_repair())
    }

    /// Partitions that the device does not hold whole: it takes their writes, and has no vote in reads and
    /// promises until it is told that they are filled ([`StorageNode::filled`]).
    async fn missing(&self, device: DeviceIndex) -> Result<Vec<(Tree, Partition)>, NodeError> {
        let _ = device;
        Ok(Vec::new())
    }

    /// Notes that partitions have everything that every other replica had when the ring changed or later. On
    /// stable storage.
    async fn filled(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partitions: Vec<Partition>,
    ) -> Result<(), NodeError> {
        let _ = (device, tree, partitions);
        Ok(())
    }

    /// Drops items that are elsewhere, or that nobody needs any more, if they are still exactly these:
    /// no tombstone stays and no extents are queued. A directory's record goes only after all its rows.
    /// Answers how many were dropped; on stable storage.
    async fn forget(&self, device: DeviceIndex, items: Vec<Item>) -> Result<usize, NodeError> {
        let _ = (device, items);
        Err(no_repair())
    }
}

/// Answer of nodes that keep no digests (those of tests that never repair).
fn no_repair() -> NodeError {
    NodeError::Unavailable("this node keeps no digests".into())
}
