//! What nodes say to each other: a call for each method of [`crate::StorageNode`], and its answer.
//!
//! Bytes of objects and blocks are not in here: they are the frame's payload.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    BlockKey, BlockWrite, DirectoryInfo, DirectoryKey, DirectoryWrite, ListQuery, NodeError, ObjectKey,
    ObjectWrite, Page, Promise, Row, RowDurability, StoredVersion, Timestamp, WorkId, WorkItem, WorkKind,
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
        }
    }

    /// Whether it carries so much that it must not stand in the way of messages.
    pub fn is_bulk(&self) -> bool {
        matches!(self, Call::WriteBlock(_) | Call::ReadBlock { .. })
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
}
