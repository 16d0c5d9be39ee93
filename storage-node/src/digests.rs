//! The digests of a device: sums over what its index has, kept in the same batch as what they are of.
//!
//! Buckets are values of the `digests` family that a merge operator adds to, so a write needs not read
//! them; the sum of a partition's buckets is kept in memory. Digests are therefore always those of the
//! index, whatever a crash leaves of it. An index from before is given them when it is opened.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use kodiak_storage_api::{
    BUCKETS, Digest, DirectoryKey, ItemKey, NodeError, ObjectKey, Partition, Timestamp, Tree, row_bucket,
};
use parking_lot::Mutex;
use rocksdb::{ColumnFamily, MergeOperands, ReadOptions};

use crate::directories::StoredDirectory;
use crate::index::{
    Family, Index, ObjectEntry, decode, is_quarantined, parse_block_key, parse_directory_key,
    parse_object_key,
};

/// Bytes of a tree and partition, the prefix of its buckets' keys.
const PREFIX_LEN: usize = 7;
/// Says that the digests are complete. Sorts after all buckets.
const COMPLETE: &[u8] = &[0xff];
/// Items summed up in one batch when digests are made anew.
const BATCH: usize = 100_000;

type Prefix = [u8; PREFIX_LEN];

fn prefix(tree: Tree, partition: Partition) -> Prefix {
    let (kind, policy) = match tree {
        Tree::Accounts => (0, 0),
        Tree::Containers => (1, 0),
        Tree::Objects(policy) => (2, policy.0),
        Tree::Blocks(policy) => (3, policy.0),
    };
    let mut out = [kind; PREFIX_LEN];
    out[1..3].copy_from_slice(&policy.to_be_bytes());
    out[3..].copy_from_slice(&partition.0.to_be_bytes());
    out
}

/// Adds up operands of the merge operator.
pub fn add_up(_key: &[u8], value: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    let number = |bytes: &[u8]| bytes.try_into().map(u128::from_be_bytes).ok();
    let begin = match value {
        Some(bytes) => number(bytes)?,
        None => 0,
    };
    let sum = operands.iter().try_fold(begin, |sum, operand| Some(sum.wrapping_add(number(operand)?)))?;
    Some(sum.to_be_bytes().to_vec())
}

/// Changes of writes that are not applied yet, by bucket.
#[derive(Default)]
pub struct Sums(HashMap<[u8; PREFIX_LEN + 1], u128>);

impl Sums {
    /// Puts an item in.
    pub fn add(&mut self, (tree, partition, bucket): (Tree, Partition, u8), digest: Digest) {
        let sum = self.0.entry(key(tree, partition, bucket)).or_default();
        *sum = sum.wrapping_add(digest.number());
    }

    /// Takes an item out.
    pub fn remove(&mut self, at: (Tree, Partition, u8), digest: Digest) {
        self.add(at, Digest::ZERO.minus(digest));
    }

    /// The operands for the merge operator.
    pub fn operands(&self) -> impl Iterator<Item = ([u8; PREFIX_LEN + 1], [u8; 16])> {
        self.0.iter().filter(|(_, sum)| **sum != 0).map(|(key, sum)| (*key, sum.to_be_bytes()))
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn key(tree: Tree, partition: Partition, bucket: u8) -> [u8; PREFIX_LEN + 1] {
    let mut out = [bucket; PREFIX_LEN + 1];
    out[..PREFIX_LEN].copy_from_slice(&prefix(tree, partition));
    out
}

/// Where an object's record is counted.
pub fn object_place(key: &ObjectKey) -> (Tree, Partition, u8) {
    (Tree::Objects(key.policy), key.partition, ItemKey::Object(*key).bucket())
}

/// Where a block is counted.
pub fn block_place(key: &kodiak_storage_api::BlockKey) -> (Tree, Partition, u8) {
    (Tree::Blocks(key.policy), key.partition, ItemKey::Block(*key).bucket())
}

/// Where the record of an account or container is counted.
pub fn directory_place(container: bool, key: &DirectoryKey) -> (Tree, Partition, u8) {
    (directory_tree(container), key.partition, ItemKey::Directory(*key).bucket())
}

/// Where a row is counted.
pub fn row_place(container: bool, key: &DirectoryKey, name: &str) -> (Tree, Partition, u8) {
    (directory_tree(container), key.partition, row_bucket(&key.hash, name))
}

fn directory_tree(container: bool) -> Tree {
    if container { Tree::Containers } else { Tree::Accounts }
}

/// The digests of all partitions.
#[derive(Default)]
pub struct Roots(Mutex<BTreeMap<Prefix, u128>>);

impl Roots {
    /// Applies changes that the index has.
    pub fn apply(&self, sums: &Sums) {
        if sums.is_empty() {
            return;
        }
        let mut roots = self.0.lock();
        for (key, change) in &sums.0 {
            if let Some(prefix) = key.first_chunk() {
                let sum = roots.entry(*prefix).or_default();
                *sum = sum.wrapping_add(*change);
                if *sum == 0 {
                    roots.remove(prefix);
                }
            }
        }
    }

    /// Those of a tree that are not those of nothing.
    pub fn of(&self, tree: Tree, partitions: Range<u32>) -> Vec<(Partition, Digest)> {
        if partitions.is_empty() {
            return Vec::new();
        }
        let (first, last) = (Partition(partitions.start), Partition(partitions.end - 1));
        let number = |prefix: &Prefix| {
            Partition(prefix[3..].iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
        };
        let roots = self.0.lock();
        let range = roots.range(prefix(tree, first)..=prefix(tree, last));
        range.map(|(prefix, sum)| (number(prefix), Digest::from_number(*sum))).collect()
    }
}

/// The buckets of a partition.
pub fn buckets(index: &Index, tree: Tree, partition: Partition) -> Result<Vec<Digest>, NodeError> {
    let prefix = prefix(tree, partition);
    let mut found = vec![Digest::ZERO; BUCKETS];
    let mut iterator = index.iterate(Family::Digests, ReadOptions::default());
    iterator.seek(prefix);
    while let Some((key, value)) = iterator.item().filter(|(key, _)| key.starts_with(&prefix)) {
        if let (Some(bucket), Ok(sum)) = (key.get(PREFIX_LEN), value.try_into()) {
            found[usize::from(*bucket)] = Digest::from_number(u128::from_be_bytes(sum));
        }
        iterator.next();
    }
    iterator.status().map_err(|error| index.failed(error))?;
    Ok(found)
}

/// Makes digests for an index that has none, and reads the sums of partitions.
pub fn load(index: &Index) -> Result<Roots, NodeError> {
    let families: &ColumnFamily = index.family(Family::Digests);
    if index.get(Family::Digests, COMPLETE)?.is_none() {
        // One that was interrupted left some of them.
        index.drop_range(Family::Digests, &[0], COMPLETE)?;
        let mut batch = rocksdb::WriteBatch::default();
        for (key, sum) in recompute(index)? {
            batch.put_cf(families, key, sum.to_be_bytes());
            if batch.len() >= BATCH {
                index.write_plain(std::mem::take(&mut batch))?;
            }
        }
        batch.put_cf(families, COMPLETE, []);
        index.write_plain(batch)?;
    }
    let mut roots: BTreeMap<Prefix, u128> = BTreeMap::new();
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(COMPLETE);
    let mut iterator = index.iterate(Family::Digests, options);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        if let (Some(prefix), Ok(sum)) = (key.first_chunk::<PREFIX_LEN>(), value.try_into()) {
            let root = roots.entry(*prefix).or_default();
            *root = root.wrapping_add(u128::from_be_bytes(sum));
        }
        iterator.next();
    }
    iterator.status().map_err(|error| index.failed(error))?;
    roots.retain(|_, sum| *sum != 0);
    Ok(Roots(Mutex::new(roots)))
}

/// All buckets, from what the index has.
pub fn recompute(index: &Index) -> Result<BTreeMap<[u8; PREFIX_LEN + 1], u128>, NodeError> {
    let mut sums = Sums::default();
    let bad = |what: &str| NodeError::Corrupt(format!("index: {what}"));
    each(index, Family::Objects, |bytes, value| {
        let (key, entry) =
            (parse_object_key(bytes).ok_or_else(|| bad("object"))?, ObjectEntry::from_bytes(value)?);
        if !entry.quarantined {
            sums.add(object_place(&key), Digest::of_object(&key.hash, entry.stamp.ballot));
        }
        Ok(())
    })?;
    each(index, Family::Blocks, |bytes, value| {
        let key = parse_block_key(bytes).ok_or_else(|| bad("block"))?;
        if !is_quarantined(value) {
            sums.add(block_place(&key), Digest::of_block(&key));
        }
        Ok(())
    })?;
    let mut containers: HashMap<DirectoryKey, bool> = HashMap::new();
    each(index, Family::Directories, |bytes, value| {
        let key = parse_directory_key(bytes).ok_or_else(|| bad("directory"))?;
        let StoredDirectory { directory, .. } = decode(value)?;
        let container = directory.name.contains('/');
        containers.insert(key, container);
        sums.add(directory_place(container, &key), Digest::of_directory(&key.hash, &directory));
        Ok(())
    })?;
    for (family, deleted) in [(Family::Rows, false), (Family::Tombstones, true)] {
        each(index, family, |bytes, value| {
            let key = parse_directory_key(bytes).ok_or_else(|| bad("row"))?;
            let name = std::str::from_utf8(&bytes[20..]).map_err(|_| bad("row name"))?;
            let Some(container) = containers.get(&key) else { return Ok(()) };
            let at = row_timestamp(value)?;
            sums.add(row_place(*container, &key, name), Digest::of_row(&key.hash, name, at, deleted));
            Ok(())
        })?;
    }
    Ok(sums.0.into_iter().filter(|(_, sum)| *sum != 0).collect())
}

/// The timestamp that a row's or a tombstone's value begins with.
pub fn row_timestamp(value: &[u8]) -> Result<Timestamp, NodeError> {
    let taken = postcard::take_from_bytes(value).map(|(at, _)| at);
    taken.map_err(|error| NodeError::Corrupt(format!("row: {error}")))
}

fn each(
    index: &Index,
    family: Family,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), NodeError>,
) -> Result<(), NodeError> {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    let mut iterator = index.iterate(family, options);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        visit(key, value)?;
        iterator.next();
    }
    iterator.status().map_err(|error| index.failed(error))
}

/// Whether the digests are those of what the index has; for tests.
pub fn are_right(index: &Index) -> Result<bool, NodeError> {
    let right = recompute(index)?;
    let mut stored = BTreeMap::new();
    each(index, Family::Digests, |key, value| {
        if let (Some(key), Ok(sum)) = (key.first_chunk(), value.try_into()) {
            let sum = u128::from_be_bytes(sum);
            if sum != 0 {
                stored.insert(*key, sum);
            }
        }
        Ok(())
    })?;
    let mut roots: BTreeMap<Prefix, u128> = BTreeMap::new();
    for (key, sum) in &right {
        if let Some(prefix) = key.first_chunk::<PREFIX_LEN>() {
            let root = roots.entry(*prefix).or_default();
            *root = root.wrapping_add(*sum);
        }
    }
    Ok(stored == right && *index.roots().0.lock() == roots)
}
