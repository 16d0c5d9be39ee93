//! The contract between the proxy and the storage nodes.
//!
//! Knows neither HTTP nor RocksDB. In the order a request meets them: an [`ObjectPath`] names an
//! object, an [`ObjectKey`] places it, an [`ObjectWrite`] carries a [`Version`] of it to a device
//! through [`StorageNode`], and a [`Row`] shows it in the listing of its container, which is a
//! [`Directory`] as an account is (an account's rows are containers).

mod directory;
mod erasure;
mod error;
pub mod jobs;
mod key;
#[cfg(feature = "testing")]
pub mod memory;
mod node;
mod placement;
mod policies;
mod record;
#[cfg(feature = "remote")]
pub mod remote;
mod repair;
mod said;
mod shards;
mod time;
mod version;
mod votes;

pub use directory::{
    DELETED, Directory, DirectoryChange, DirectoryInfo, DirectoryWrite, Entry, HeaderValue, ListQuery, Page,
    Row, Stats,
};
pub use erasure::{Codec, ErasureCode, ErasureCodeError, MAX_FRAGMENTS};
pub use error::NodeError;
pub use key::{BlockKey, DataId, DirectoryKey, ObjectKey, ObjectPath, PathError};
pub use node::{
    BlockWrite, DeviceIndex, Health, ObjectWrite, RowDurability, RowTarget, StorageNode, StoredVersion, Work,
    WorkId, WorkItem, WorkKind,
};
pub use placement::{
    Map, Mode, Nodes, Placement, PlacementError, Policy, Protection, Replica, STAND_INS, Seat,
};
pub use policies::{Policies, PolicyLabel, check_policy_name};
pub use record::{Extent, Layout, ObjectRecord, Version};
pub use repair::{
    BUCKETS, BlockInfo, BucketSet, Digest, Holding, ITEMS_BYTES, Item, ItemCopy, ItemKey, ScanCursor,
    ScanPage, ScanQuery, Tree, row_bucket,
};
pub use said::Said;
pub use shards::{
    BOUNDS, Bounds, Home, MAX_RANGES, NameRange, Names, ShardError, ShardId, ShardMap, ShardRange, boundary,
};
pub use time::{Clock, Timestamp, Wall};
pub use version::{VersionId, VersionIdError};
pub use votes::{Accepted, Promise, Refusal, Stamp, Vote, Votes};

pub use kodiak_ring::{KeyHash, Partition, Partitions, Place, PlacementKey, PolicyIndex};

/// Objects up to this many bytes lie in one needle with their record; larger ones in blocks.
pub const INLINE_MAX: usize = 256 * 1024;
/// Bytes of a block, but for the last of an extent.
pub const BLOCK_SIZE: usize = 4 * 1024 * 1024;
/// Data is checksummed in pieces of this many bytes, so that a range is verified without the rest.
pub const CHECKSUM_CHUNK: usize = 64 * 1024;
