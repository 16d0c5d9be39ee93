//! What replicas tell each other to come back together.
//!
//! A device keeps, for each [`Tree`] and partition, 256 *buckets*: sums of the digests of the items in
//! them, whatever their order. The sum of all buckets is the partition's digest, so two replicas of an
//! unchanged partition are compared by 16 bytes; else the buckets that differ tell which items to look at.
//!
//! An item's digest covers its key and everything that a newer version changes, so equal digests mean
//! equal replicas but for a chance of 2^-128 a comparison: names are placed by a keyed hash, and
//! timestamps are the cluster's own, so nobody can choose items whose sums meet.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    BlockKey, Directory, DirectoryKey, KeyHash, ObjectKey, ObjectPath, PolicyIndex, Row, Stamp, Timestamp,
    Version,
};

/// What a device keeps apart by ring: the items of one ring's partitions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Tree {
    /// Accounts and their rows.
    Accounts,
    /// Containers and their rows.
    Containers,
    /// Records of the objects of a policy, tombstones included.
    Objects(PolicyIndex),
    /// Blocks of a policy.
    Blocks(PolicyIndex),
}

/// What a device has of the partitions of a tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holding {
    /// Its name.
    pub device: String,
    /// The tree.
    pub tree: Tree,
    /// Partitions that it is a replica of and has whole, each with the first bytes of its digest.
    pub whole: Vec<(u32, u64)>,
    /// Those that it is a replica of and has to be filled with.
    pub lacking: Vec<u32>,
    /// How many it holds for others.
    pub for_others: u64,
}

/// Buckets of a partition.
pub const BUCKETS: usize = 256;

/// A sum of items' digests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Digest([u8; 16]);

impl Digest {
    /// Of nothing.
    pub const ZERO: Digest = Digest([0; 16]);

    /// The sum as a number, modulo 2^128.
    pub fn number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// From the number of [`Digest::number`].
    pub fn from_number(number: u128) -> Digest {
        Digest(number.to_be_bytes())
    }

    /// With another item or sum.
    #[must_use]
    pub fn plus(self, other: Digest) -> Digest {
        Digest::from_number(self.number().wrapping_add(other.number()))
    }

    /// Without an item or sum that is in it.
    #[must_use]
    pub fn minus(self, other: Digest) -> Digest {
        Digest::from_number(self.number().wrapping_sub(other.number()))
    }

    /// Of a version of an object.
    pub fn of_object(hash: &KeyHash, at: Timestamp) -> Digest {
        hashed(&[b"o", &hash.0, &at.to_bytes()])
    }

    /// Of a block, or any of its fragments: devices that each hold theirs have the same.
    pub fn of_block(key: &BlockKey) -> Digest {
        hashed(&[b"b", &key.data.0, &key.number().to_be_bytes()])
    }

    /// Of the record of an account or container.
    pub fn of_directory(hash: &KeyHash, directory: &Directory) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"d").update(&hash.0);
        hasher.update(&directory.created.to_bytes()).update(&directory.deleted.to_bytes());
        hasher.update(&directory.policy.0.to_be_bytes());
        for (name, header) in &directory.headers {
            hasher.update(&(name.len() as u64).to_be_bytes()).update(name.as_bytes());
            hasher.update(&header.timestamp.to_bytes());
        }
        first_half(&hasher.finalize())
    }

    /// Of a row.
    pub fn of_row(directory: &KeyHash, name: &str, at: Timestamp, deleted: bool) -> Digest {
        hashed(&[b"r", &directory.0, &at.to_bytes(), &[u8::from(deleted)], name.as_bytes()])
    }
}

fn hashed(parts: &[&[u8]]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    first_half(&hasher.finalize())
}

fn first_half(hash: &blake3::Hash) -> Digest {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    Digest(half)
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.number())
    }
}

/// A set of buckets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct BucketSet([u64; 4]);

impl BucketSet {
    /// All of them.
    pub const ALL: BucketSet = BucketSet([u64::MAX; 4]);

    /// Adds one.
    pub fn insert(&mut self, bucket: u8) {
        self.0[usize::from(bucket / 64)] |= 1 << (bucket % 64);
    }

    /// Whether it holds one.
    pub fn contains(&self, bucket: u8) -> bool {
        self.0[usize::from(bucket / 64)] >> (bucket % 64) & 1 == 1
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The buckets in which two replicas differ.
    pub fn differing(mine: &[Digest], theirs: &[Digest]) -> BucketSet {
        let mut set = BucketSet::default();
        for bucket in 0..=u8::MAX {
            let at = usize::from(bucket);
            if mine.get(at) != theirs.get(at) {
                set.insert(bucket);
            }
        }
        set
    }
}

/// Names an item of a tree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum ItemKey {
    /// An object's record.
    Object(ObjectKey),
    /// A block.
    Block(BlockKey),
    /// The record of an account or container.
    Directory(DirectoryKey),
    /// A row of one.
    Row(DirectoryKey, String),
}

impl ItemKey {
    /// The bucket of its partition that it is in.
    pub fn bucket(&self) -> u8 {
        match self {
            ItemKey::Object(key) => key.hash.0[15],
            ItemKey::Block(key) => key.data.0[15] ^ key.index as u8,
            ItemKey::Directory(key) => key.hash.0[15],
            ItemKey::Row(key, name) => row_bucket(&key.hash, name),
        }
    }
}

/// The bucket of a row: by its name, so that a large container is spread over all of its partition's.
pub fn row_bucket(directory: &KeyHash, name: &str) -> u8 {
    // FNV-1a, folded: any hash that spreads names will do, and this one is the same everywhere.
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = directory.0[12..].iter().chain(name.as_bytes()).fold(0x811c_9dc5, step);
    (hash ^ hash >> 8 ^ hash >> 16 ^ hash >> 24) as u8
}

/// What a device has of an item: enough to tell which of two replicas is newer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Item {
    /// Which one.
    pub key: ItemKey,
    /// An object's ballot; a row's timestamp. Of a directory's record: the last creation or deletion; its headers merge
    /// one by one. Blocks never change and have [`Timestamp::ZERO`].
    pub timestamp: Timestamp,
    /// It is a tombstone, or a deleted directory.
    pub deleted: bool,
    /// What it adds to its bucket.
    pub digest: Digest,
}

/// Where a scan goes on: opaque.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScanCursor(pub Vec<u8>);

/// A question for the items in some buckets of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScanQuery {
    /// The tree.
    pub tree: Tree,
    /// The partition.
    pub partition: crate::Partition,
    /// The buckets.
    pub buckets: BucketSet,
    /// Where the last page ended.
    pub after: Option<ScanCursor>,
    /// At most so many items. Fewer may come, even none, while more follow.
    pub limit: usize,
}

/// A page of items.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScanPage {
    /// The items.
    pub items: Vec<Item>,
    /// Where the next page begins, if there is one.
    pub next: Option<ScanCursor>,
}

/// A whole item, to be written to another replica. It is serialized without its bytes, which go beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ItemCopy {
    /// A version of an object with its inline bytes.
    Object {
        /// Its name.
        path: ObjectPath,
        /// The version.
        version: Version,
        /// Which write it is, and its place in the order.
        stamp: Stamp,
        /// The bytes, for [`crate::Layout::Inline`].
        #[serde(skip)]
        inline: Bytes,
    },
    /// A block.
    Block {
        /// What is known of it.
        info: BlockInfo,
        /// The content.
        #[serde(skip)]
        data: Bytes,
    },
    /// The record of an account or container.
    Directory(Directory),
    /// A row, or its tombstone.
    Row(Row),
}

impl ItemCopy {
    /// Its content, if it has any.
    pub fn content(&mut self) -> Option<&mut Bytes> {
        match self {
            ItemCopy::Object { inline, .. } => Some(inline),
            ItemCopy::Block { data, .. } => Some(data),
            ItemCopy::Directory(_) | ItemCopy::Row(_) => None,
        }
    }

    /// About how many bytes it is.
    pub fn size(&self) -> usize {
        match self {
            ItemCopy::Object { inline, .. } => 512 + inline.len(),
            ItemCopy::Block { data, .. } => 256 + data.len(),
            ItemCopy::Directory(_) | ItemCopy::Row(_) => 512,
        }
    }
}

/// What a device knows of a block besides its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BlockInfo {
    /// The object or part it was uploaded for.
    pub owner: ObjectPath,
    /// BLAKE3 of the content.
    pub digest: [u8; 32],
    /// When this device got it.
    pub written: Timestamp,
    /// Bytes of the content.
    pub len: u32,
}

/// Items answered by one [`crate::StorageNode::read_items`] have about this many bytes at most.
pub const ITEMS_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sum_does_not_depend_on_the_order(mut hashes in prop::collection::vec(any::<[u8; 16]>(), 1..40)) {
            let sum = |hashes: &[[u8; 16]]| hashes.iter().fold(Digest::ZERO, |sum, hash| {
                sum.plus(Digest::of_object(&KeyHash(*hash), Timestamp::from_micros(7, 1)))
            });
            let before = sum(&hashes);
            hashes.reverse();
            prop_assert_eq!(before, sum(&hashes));
            let last = Digest::of_object(&KeyHash(hashes[0]), Timestamp::from_micros(7, 1));
            prop_assert_eq!(before.minus(last), sum(&hashes[1..]));
        }
    }

    #[test]
    fn what_changes_an_item_changes_its_digest() {
        let hash = KeyHash([3; 16]);
        let (a, b) = (Timestamp::from_micros(1, 0), Timestamp::from_micros(1, 1));
        assert_ne!(Digest::of_object(&hash, a), Digest::of_object(&hash, b));
        assert_ne!(Digest::of_row(&hash, "n", a, false), Digest::of_row(&hash, "n", a, true));
        assert_ne!(Digest::of_row(&hash, "n", a, false), Digest::of_row(&hash, "m", a, false));
    }

    #[test]
    fn names_of_one_container_spread_over_all_buckets() {
        let mut counts = [0u32; BUCKETS];
        for i in 0..25_600 {
            counts[usize::from(row_bucket(&KeyHash([9; 16]), &format!("photos/{i:08}.jpg")))] += 1;
        }
        assert!(counts.iter().all(|count| (40..200).contains(count)), "{counts:?}");
    }

    #[test]
    fn buckets_that_differ_are_found() {
        let mut mine = vec![Digest::ZERO; BUCKETS];
        let theirs = mine.clone();
        let key =
            BlockKey { policy: PolicyIndex(0), place: crate::Place(1), data: DataId([8; 16]), index: 200 };
        let bucket = ItemKey::Block(key).bucket();
        mine[usize::from(bucket)] = Digest::of_block(&key);
        let set = BucketSet::differing(&mine, &theirs);
        assert!((0..=255).all(|other| set.contains(other) == (other == bucket)));
        assert!(BucketSet::differing(&theirs, &theirs).is_empty());
    }
}
