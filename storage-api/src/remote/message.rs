//! What nodes say to each other: a call for each method of [`crate::StorageNode`], and its answer.
//!
//! Bytes of objects and blocks are not in here: they are the frame's payload.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    BlockInfo, BlockKey, BlockWrite, Digest, DirectoryInfo, DirectoryKey, DirectoryWrite, Item, ItemCopy,
    ItemKey, ListQuery, NodeError, ObjectKey, ObjectWrite, Page, Partition, Partitions, Promise, Row,
    RowDurability, ScanPage, ScanQuery, StoredVersion, Timestamp, Tree, WorkId, WorkItem, WorkKind,
};

/// What either side tells the other with every message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The sender's cluster.
    pub cluster: String,
    /// Of a call: epoch of the map by which it is placed, 0 if by none. Of an answer: of the map that the
    /// node has.
    pub epoch: u64,
    /// The sender's clock.
    pub clock: Timestamp,
}

/// A call on its way to a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// About the caller.
    pub head: Head,
    /// How long the caller waits, milliseconds.
    pub patience: u32,
    /// The device by its name: each process numbers them as it likes.
    pub device: String,
    /// The device of [`crate::RowTarget`], if the call has one.
    pub row_device: Option<String>,
    /// What is to be done.
    pub call: Call,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Response {
    /// About the node.
    pub head: Head,
    /// What came of it.
    pub result: Result<Reply, NodeError>,
}

/// A method of [`crate::StorageNode`] and its arguments.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as the methods and their arguments")]
pub enum Call {
    WriteObject(Box<ObjectWrite>),
    Prepare { key: ObjectKey, ballot: Timestamp, origin: Timestamp },
    ReadObject { key: ObjectKey, data: bool },
    WriteBlock(Box<BlockWrite>),
    ReadBlock { key: BlockKey, range: Range<u32> },
    DeleteBlocks { keys: Vec<BlockKey> },
    WriteDirectory(Box<DirectoryWrite>),
    ReadDirectory { key: DirectoryKey },
    WriteRows { key: DirectoryKey, rows: Vec<Row>, durability: RowDurability },
    ListRows { key: DirectoryKey, query: ListQuery },
    NextWork { kind: WorkKind, now: u64, limit: usize },
    FinishWork { kind: WorkKind, ids: Vec<WorkId> },
    Digests { tree: Tree, partitions: Partitions },
    Buckets { tree: Tree, partition: Partition },
    Scan(ScanQuery),
    ReadItems { keys: Vec<ItemKey> },
    BlockInfos { keys: Vec<BlockKey> },
    LearnObject(Box<ObjectWrite>),
    Missing,
    Filled { tree: Tree, partitions: Vec<Partition> },
    Forget { items: Vec<Item> },
}

impl Call {
    /// Its name in metrics and errors.
    pub fn name(&self) -> &'static str {
        match self {
            Call::WriteObject(_) => "write_object",
            Call::Prepare { .. } => "prepare",
            Call::ReadObject { .. } => "read_object",
            Call::WriteBlock(_) => "write_block",
            Call::ReadBlock { .. } => "read_block",
            Call::DeleteBlocks { .. } => "delete_blocks",
            Call::WriteDirectory(_) => "write_directory",
            Call::ReadDirectory { .. } => "read_directory",
            Call::WriteRows { .. } => "write_rows",
            Call::ListRows { .. } => "list_rows",
            Call::NextWork { .. } => "next_work",
            Call::FinishWork { .. } => "finish_work",
            Call::Digests { .. } => "digests",
            Call::Buckets { .. } => "buckets",
            Call::Scan(_) => "scan",
            Call::ReadItems { .. } => "read_items",
            Call::BlockInfos { .. } => "block_infos",
            Call::LearnObject(_) => "learn_object",
            Call::Missing => "missing",
            Call::Filled { .. } => "filled",
            Call::Forget { .. } => "forget",
        }
    }

    /// Whether it carries so much that it must not stand in the way of messages.
    pub fn is_bulk(&self) -> bool {
        matches!(self, Call::WriteBlock(_) | Call::ReadBlock { .. } | Call::ReadItems { .. })
    }
}

/// What a [`Call`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as what the methods answer")]
pub enum Reply {
    Done,
    /// With the payload as its inline bytes if `inline`.
    Object {
        stored: Option<StoredVersion>,
        inline: bool,
    },
    Promise(Promise),
    /// The payload.
    Bytes,
    Changed(DirectoryInfo, bool),
    Directory(Option<DirectoryInfo>),
    Page(Page),
    Work(Vec<WorkItem>),
    Digests(Vec<(Partition, Digest)>),
    Buckets(Vec<Digest>),
    Scanned(ScanPage),
    /// Of those with content, the payload has as many bytes as `lengths` says, one after the other.
    Items {
        items: Vec<Result<Option<ItemCopy>, NodeError>>,
        lengths: Vec<u32>,
    },
    BlockInfos(Vec<Option<BlockInfo>>),
    Missing(Vec<(Tree, Partition)>),
    Forgotten(usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyHash, PolicyIndex};

    /// The place of each call and reply in its list is part of the protocol: new ones go to the end. If this
    /// fails, put them back in order or raise [`crate::remote::PROTOCOL`].
    #[test]
    fn what_goes_over_the_wire_does_not_change_by_accident() {
        let key = ObjectKey { policy: PolicyIndex(1), hash: KeyHash([7; 16]) };
        let head = Head { cluster: "ab".into(), epoch: 5, clock: Timestamp::from_micros(1, 2) };
        let call = Call::ReadObject { key, data: true };
        let (device, row_device) = ("d1".into(), Some("d2".into()));
        let request = Request { head: head.clone(), patience: 5000, device, row_device, call };
        let bytes = postcard::to_stdvec(&request).expect("a message");
        let shared = [2, b'a', b'b', 5, 128, 32, 2];
        let mut expected = shared.to_vec();
        expected.extend([136, 39, 2, b'd', b'1', 1, 2, b'd', b'2', 2, 1]);
        expected.extend([7; 16]);
        expected.push(1);
        assert_eq!(bytes, expected);
        let response = Response { head, result: Ok(Reply::Forgotten(3)) };
        let bytes = postcard::to_stdvec(&response).expect("a message");
        assert_eq!(bytes, [&shared[..], &[0, 14, 3]].concat());
        let tag = |call: Call| postcard::to_stdvec(&call).expect("a message")[0];
        assert_eq!(tag(Call::FinishWork { kind: WorkKind::Free, ids: Vec::new() }), 11);
        assert_eq!((tag(Call::Missing), tag(Call::Forget { items: Vec::new() })), (18, 20));
        let (tree, partition) = (Tree::Accounts, Partition::new(10, 300));
        let asked = Call::Digests { tree, partitions: partition.into() };
        assert_eq!(postcard::to_stdvec(&asked).expect("a message"), [12, 0, 10, 172, 2, 173, 2]);
        let asked = Call::Buckets { tree, partition };
        assert_eq!(postcard::to_stdvec(&asked).expect("a message"), [13, 0, 10, 172, 2]);
    }
}
