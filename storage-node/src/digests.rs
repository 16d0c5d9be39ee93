//! The digests of a device: sums over what its index has, kept in the same batch as what they are of.
//!
//! Those of a tree at one partition power are a *grid*: for each partition its buckets, values of the
//! `digests` family that a merge operator adds to, so that a write needs not read them; the sums of whole
//! partitions are in memory. Digests are therefore always those of the index, whatever a crash leaves of it.
//!
//! A grid is made when somebody asks for it the first time, by one scan beside the writes, which count in it
//! from its beginning on. It is kept until one of another power has been made: until the ring's power has
//! grown. What is not asked for, as in a store of one machine, is not kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kodiak_storage_api::{
    BUCKETS, BlockKey, Digest, DirectoryKey, ItemKey, NodeError, ObjectKey, Partition, Partitions, Place,
    PolicyIndex, Timestamp, Tree, row_bucket,
};
use parking_lot::{Mutex, RwLock};
use rocksdb::{MergeOperands, ReadOptions, Snapshot};

use crate::directories::StoredDirectory;
use crate::index::{
    Family, Index, ObjectEntry, after_prefix, decode, is_quarantined, parse_block_key, parse_directory_key,
    parse_object_key, row_name,
};
use crate::trees::tree_of;

/// Bytes of a grid's name, the prefix of its buckets' keys: tree and power.
const GRID_LEN: usize = 4;
/// … and of a bucket's key, which goes on with the partition's number and the bucket.
const CELL_LEN: usize = GRID_LEN + 5;
/// Begins the keys that say which grids are complete. Sorts after all buckets.
const COMPLETE: u8 = 0xff;
/// Buckets that are held in memory while a grid is made.
const AT_ONCE: usize = 100_000;
/// How long somebody who asks waits for a grid that is being made.
const PATIENCE: Duration = Duration::from_secs(2);

type GridName = [u8; GRID_LEN];
type Cell = [u8; CELL_LEN];

fn grid_name(tree: Tree, power: u8) -> GridName {
    let (kind, policy) = match tree {
        Tree::Accounts => (0, 0),
        Tree::Containers => (1, 0),
        Tree::Objects(policy) => (2, policy.0),
        Tree::Blocks(policy) => (3, policy.0),
    };
    let [high, low] = policy.to_be_bytes();
    [kind, high, low, power]
}

/// The inverse of [`grid_name`].
fn parse_grid_name([kind, high, low, power]: GridName) -> Option<(Tree, u8)> {
    let policy = PolicyIndex(u16::from_be_bytes([high, low]));
    let tree = match kind {
        0 => Tree::Accounts,
        1 => Tree::Containers,
        2 => Tree::Objects(policy),
        3 => Tree::Blocks(policy),
        _ => return None,
    };
    Some((tree, power))
}

fn cells_of(tree: Tree, partition: Partition) -> [u8; CELL_LEN - 1] {
    let mut out = [0; CELL_LEN - 1];
    out[..GRID_LEN].copy_from_slice(&grid_name(tree, partition.power()));
    out[GRID_LEN..].copy_from_slice(&partition.number().to_be_bytes());
    out
}

fn cell(tree: Tree, partition: Partition, bucket: u8) -> Cell {
    let mut out = [bucket; CELL_LEN];
    out[..CELL_LEN - 1].copy_from_slice(&cells_of(tree, partition));
    out
}

/// The number of a cell's partition.
fn number_of(cell: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(cell.get(GRID_LEN..CELL_LEN - 1)?.try_into().ok()?))
}

fn complete_key(name: GridName) -> [u8; GRID_LEN + 1] {
    let mut out = [COMPLETE; GRID_LEN + 1];
    out[1..].copy_from_slice(&name);
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

/// Changes of writes that are not applied yet: by tree, place and bucket, whatever the power.
#[derive(Default)]
pub struct Sums(HashMap<(Tree, Place, u8), u128>);

impl Sums {
    /// Puts an item in.
    pub fn add(&mut self, at: (Tree, Place, u8), digest: Digest) {
        let sum = self.0.entry(at).or_default();
        *sum = sum.wrapping_add(digest.number());
    }

    /// Takes an item out.
    pub fn remove(&mut self, at: (Tree, Place, u8), digest: Digest) {
        self.add(at, Digest::ZERO.minus(digest));
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Where an object's record is counted.
pub fn object_place(key: &ObjectKey) -> (Tree, Place, u8) {
    (Tree::Objects(key.policy), key.place(), ItemKey::Object(*key).bucket())
}

/// Where a block is counted.
pub fn block_place(key: &BlockKey) -> (Tree, Place, u8) {
    (Tree::Blocks(key.policy), key.place, ItemKey::Block(*key).bucket())
}

/// Where the record of an account or container is counted.
pub fn directory_place(container: bool, key: &DirectoryKey) -> (Tree, Place, u8) {
    (directory_tree(container), key.place(), ItemKey::Directory(*key).bucket())
}

/// Where a row is counted.
pub fn row_place(container: bool, key: &DirectoryKey, name: &str) -> (Tree, Place, u8) {
    (directory_tree(container), key.place(), row_bucket(&key.hash, name))
}

fn directory_tree(container: bool) -> Tree {
    if container { Tree::Containers } else { Tree::Accounts }
}

/// The digests of a tree at one power.
struct Grid {
    power: u8,
    /// Everything that the index has is counted.
    complete: AtomicBool,
    /// Sums of partitions, by number; none that is of nothing.
    roots: Mutex<BTreeMap<u32, u128>>,
}

impl Grid {
    fn new(power: u8, complete: bool, roots: BTreeMap<u32, u128>) -> Arc<Grid> {
        Arc::new(Grid { power, complete: complete.into(), roots: Mutex::new(roots) })
    }

    fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    fn add(&self, changes: impl Iterator<Item = (u32, u128)>) {
        let mut roots = self.roots.lock();
        changes.for_each(|(number, change)| add_to(&mut roots, number, change));
    }
}

fn add_to(roots: &mut BTreeMap<u32, u128>, number: u32, change: u128) {
    let sum = roots.entry(number).or_default();
    *sum = sum.wrapping_add(change);
    if *sum == 0 {
        roots.remove(&number);
    }
}

/// The digests that a device keeps.
#[derive(Default)]
pub struct Grids {
    /// Held by a writer until both index and memory have its change: a grid begins between two writes.
    grids: RwLock<BTreeMap<Tree, Vec<Arc<Grid>>>>,
    /// One is made at a time.
    making: Mutex<()>,
}

impl Grids {
    /// Reads the complete ones, and drops what is left of others.
    pub fn load(index: &Index) -> Result<Grids, NodeError> {
        let mut found: BTreeMap<GridName, BTreeMap<u32, u128>> = BTreeMap::new();
        let mut iterator = index.iterate(Family::Digests, ReadOptions::default());
        iterator.seek([COMPLETE]);
        while let Some(name) = iterator.key().and_then(|key| key.get(1..)?.first_chunk()) {
            found.insert(*name, BTreeMap::new());
            iterator.next();
        }
        iterator.seek_to_first();
        let mut left = Vec::new();
        while let Some((key, value)) = iterator.item().filter(|(key, _)| key.first() != Some(&COMPLETE)) {
            let name = *key.first_chunk().ok_or_else(|| NodeError::Corrupt("index: digest".into()))?;
            match found.get_mut(&name) {
                Some(roots) => {
                    if let (Some(number), Ok(sum)) = (number_of(key), value.try_into()) {
                        add_to(roots, number, u128::from_be_bytes(sum));
                    }
                    iterator.next();
                }
                None => {
                    left.push(name);
                    iterator.seek(after_prefix(&name).unwrap_or_else(|| vec![COMPLETE]));
                }
            }
        }
        iterator.status().map_err(|error| index.failed(error))?;
        left.into_iter().try_for_each(|name| drop_cells(index, name))?;
        let mut grids: BTreeMap<Tree, Vec<Arc<Grid>>> = BTreeMap::new();
        for (name, roots) in found {
            if let Some((tree, power)) = parse_grid_name(name) {
                grids.entry(tree).or_default().push(Grid::new(power, true, roots));
            }
        }
        Ok(Grids { grids: RwLock::new(grids), making: Mutex::default() })
    }

    /// Keeps the digests right over a write, to whose batch its operands of the merge operator are added.
    pub fn keep(
        &self,
        sums: &Sums,
        write: impl FnOnce(&mut dyn Iterator<Item = (Cell, [u8; 16])>) -> Result<(), NodeError>,
    ) -> Result<(), NodeError> {
        let grids = self.grids.read();
        let changes: Vec<(&Arc<Grid>, Tree, Partition, u8, u128)> = sums
            .0
            .iter()
            .filter(|(_, sum)| **sum != 0)
            .flat_map(|((tree, place, bucket), sum)| {
                let of_tree = grids.get(tree).into_iter().flatten();
                of_tree.map(|grid| (grid, *tree, place.partition(grid.power), *bucket, *sum))
            })
            .collect();
        let mut operands = changes
            .iter()
            .map(|(_, tree, partition, bucket, sum)| (cell(*tree, *partition, *bucket), sum.to_be_bytes()));
        write(&mut operands)?;
        for (grid, _, partition, _, sum) in &changes {
            grid.add(std::iter::once((partition.number(), *sum)));
        }
        Ok(())
    }

    fn grid(&self, tree: Tree, power: u8) -> Option<Arc<Grid>> {
        let grids = self.grids.read();
        let of_tree = grids.get(&tree)?;
        of_tree.iter().find(|grid| grid.power == power && grid.is_complete()).cloned()
    }

    /// Digests of those partitions that have anything; none if there is no complete grid of their power.
    pub fn roots(&self, tree: Tree, partitions: &Partitions) -> Option<Vec<(Partition, Digest)>> {
        let grid = self.grid(tree, partitions.power())?;
        let numbers = partitions.numbers();
        if numbers.is_empty() {
            return Some(Vec::new());
        }
        let roots = grid.roots.lock();
        let found = roots
            .range(numbers)
            .map(|(number, sum)| (Partition::new(grid.power, *number), Digest::from_number(*sum)));
        Some(found.collect())
    }
}

fn drop_cells(index: &Index, name: GridName) -> Result<(), NodeError> {
    // No grid's name is all ones: they begin with the kind of a tree.
    index.drop_range(Family::Digests, &name, &after_prefix(&name).unwrap_or_default())
}

/// Digests of those partitions that have anything. Makes the grid if there is none.
pub fn roots(
    index: &Index,
    tree: Tree,
    partitions: &Partitions,
) -> Result<Vec<(Partition, Digest)>, NodeError> {
    make(index, tree, partitions.power())?;
    index.grids().roots(tree, partitions).ok_or_else(being_made)
}

/// The buckets of a partition. Makes the grid if there is none.
pub fn buckets(index: &Index, tree: Tree, partition: Partition) -> Result<Vec<Digest>, NodeError> {
    make(index, tree, partition.power())?;
    let prefix = cells_of(tree, partition);
    let mut found = vec![Digest::ZERO; BUCKETS];
    let mut iterator = index.iterate(Family::Digests, ReadOptions::default());
    iterator.seek(prefix);
    while let Some((key, value)) = iterator.item().filter(|(key, _)| key.starts_with(&prefix)) {
        if let (Some(bucket), Ok(sum)) = (key.get(CELL_LEN - 1), value.try_into()) {
            found[usize::from(*bucket)] = Digest::from_number(u128::from_be_bytes(sum));
        }
        iterator.next();
    }
    iterator.status().map_err(|error| index.failed(error))?;
    Ok(found)
}

fn being_made() -> NodeError {
    NodeError::Unavailable("the digests of this power are being made".into())
}

/// Makes a grid, unless it is there. Blocks for one scan of the tree's items.
fn make(index: &Index, tree: Tree, power: u8) -> Result<(), NodeError> {
    let grids = index.grids();
    if grids.grid(tree, power).is_some() {
        return Ok(());
    }
    let _one = grids.making.try_lock_for(PATIENCE).ok_or_else(being_made)?;
    if grids.grid(tree, power).is_some() {
        return Ok(());
    }
    let name = grid_name(tree, power);
    // Of one whose making failed.
    drop_cells(index, name)?;
    let grid = Grid::new(power, false, BTreeMap::new());
    let snapshot = {
        let mut grids = grids.grids.write();
        grids.entry(tree).or_default().push(grid.clone());
        index.snapshot()
    };
    let counted = count(index, &snapshot, tree, power, |sums| {
        let family = index.family(Family::Digests);
        let mut batch = rocksdb::WriteBatch::default();
        sums.iter().for_each(|(cell, sum)| batch.merge_cf(family, cell, sum.to_be_bytes()));
        index.write_plain(batch)?;
        grid.add(sums.iter().filter_map(|(cell, sum)| Some((number_of(cell)?, *sum))));
        Ok(())
    });
    if let Err(error) = counted {
        let mut grids = grids.grids.write();
        grids.entry(tree).or_default().retain(|kept| !Arc::ptr_eq(kept, &grid));
        return Err(error);
    }
    replace(index, tree, &grid)
}

/// A grid is complete: it takes the place of those of other powers.
fn replace(index: &Index, tree: Tree, grid: &Arc<Grid>) -> Result<(), NodeError> {
    let old = {
        let mut grids = index.grids().grids.write();
        let of_tree = grids.entry(tree).or_default();
        grid.complete.store(true, Ordering::Release);
        let old: Vec<u8> =
            of_tree.iter().map(|grid| grid.power).filter(|power| *power != grid.power).collect();
        of_tree.retain(|kept| kept.power == grid.power);
        old
    };
    let family = index.family(Family::Digests);
    let mut batch = rocksdb::WriteBatch::default();
    batch.put_cf(family, complete_key(grid_name(tree, grid.power)), []);
    for power in &old {
        batch.delete_cf(family, complete_key(grid_name(tree, *power)));
    }
    index.write_plain(batch)?;
    old.into_iter().try_for_each(|power| drop_cells(index, grid_name(tree, power)))
}

type Cells = BTreeMap<Cell, u128>;

/// Sums over the items of a tree.
struct Counter<F> {
    tree: Tree,
    power: u8,
    cells: Cells,
    done: F,
}

impl<F: FnMut(&Cells) -> Result<(), NodeError>> Counter<F> {
    fn add(&mut self, (tree, place, bucket): (Tree, Place, u8), digest: Digest) -> Result<(), NodeError> {
        debug_assert_eq!(tree, self.tree);
        let sum = self.cells.entry(cell(tree, place.partition(self.power), bucket)).or_default();
        *sum = sum.wrapping_add(digest.number());
        if self.cells.len() >= AT_ONCE { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<(), NodeError> {
        (self.done)(&std::mem::take(&mut self.cells))
    }
}

/// Counts what a snapshot has of a tree; `done` is given sums that are to be added up.
fn count(
    index: &Index,
    snapshot: &Snapshot<'_>,
    tree: Tree,
    power: u8,
    done: impl FnMut(&Cells) -> Result<(), NodeError>,
) -> Result<(), NodeError> {
    let mut counter = Counter { tree, power, cells: Cells::new(), done };
    let bad = |what: &str| NodeError::Corrupt(format!("index: {what}"));
    match tree {
        Tree::Objects(policy) => {
            each(index, snapshot, Family::Objects, &policy.0.to_be_bytes(), |bytes, value| {
                let key = parse_object_key(bytes).ok_or_else(|| bad("object"))?;
                let entry = ObjectEntry::from_bytes(value)?;
                if entry.quarantined {
                    return Ok(());
                }
                counter.add(object_place(&key), Digest::of_object(&key.hash, entry.stamp.ballot))
            })?;
        }
        Tree::Blocks(policy) => {
            each(index, snapshot, Family::Blocks, &policy.0.to_be_bytes(), |bytes, value| {
                let key = parse_block_key(bytes).ok_or_else(|| bad("block"))?;
                if is_quarantined(value) {
                    return Ok(());
                }
                counter.add(block_place(&key), Digest::of_block(&key))
            })?;
        }
        Tree::Accounts | Tree::Containers => {
            each(index, snapshot, Family::Directories, &[], |bytes, value| {
                let key = parse_directory_key(bytes).ok_or_else(|| bad("directory"))?;
                let StoredDirectory { directory, .. } = decode(value)?;
                if tree_of(&directory.name) != tree {
                    return Ok(());
                }
                let container = tree == Tree::Containers;
                counter.add(directory_place(container, &key), Digest::of_directory(&key.hash, &directory))?;
                for (family, deleted) in [(Family::Rows, false), (Family::Tombstones, true)] {
                    each(index, snapshot, family, bytes, |row, value| {
                        let name = row_name(row).ok_or_else(|| bad("row name"))?;
                        let digest = Digest::of_row(&key.hash, name, row_timestamp(value)?, deleted);
                        counter.add(row_place(container, &key, name), digest)
                    })?;
                }
                Ok(())
            })?
        }
    }
    counter.hand_over()
}

/// The timestamp that a row's or a tombstone's value begins with.
pub fn row_timestamp(value: &[u8]) -> Result<Timestamp, NodeError> {
    let taken = postcard::take_from_bytes(value).map(|(at, _)| at);
    taken.map_err(|error| NodeError::Corrupt(format!("row: {error}")))
}

/// Visits what a snapshot has under keys that begin with `prefix`.
fn each(
    index: &Index,
    snapshot: &Snapshot<'_>,
    family: Family,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), NodeError>,
) -> Result<(), NodeError> {
    let mut options = ReadOptions::default();
    options.set_snapshot(snapshot);
    options.fill_cache(false);
    let mut iterator = index.iterate(family, options);
    iterator.seek(prefix);
    while let Some((key, value)) = iterator.item().filter(|(key, _)| key.starts_with(prefix)) {
        visit(key, value)?;
        iterator.next();
    }
    iterator.status().map_err(|error| index.failed(error))
}

/// Whether the digests that are kept are those of what the index has, and nothing else is stored; for tests.
pub fn are_right(index: &Index) -> Result<bool, NodeError> {
    let grids = index.grids().grids.read();
    let snapshot = index.snapshot();
    let (mut right, mut complete) = (Cells::new(), Vec::new());
    let mut roots_are_right = true;
    for (tree, grid) in grids.iter().flat_map(|(tree, grids)| grids.iter().map(|grid| (*tree, grid))) {
        let mut roots = BTreeMap::new();
        count(index, &snapshot, tree, grid.power, |cells| {
            for (cell, sum) in cells {
                let all = right.entry(*cell).or_default();
                *all = sum.wrapping_add(*all);
                number_of(cell).into_iter().for_each(|number| add_to(&mut roots, number, *sum));
            }
            Ok(())
        })?;
        complete.push(complete_key(grid_name(tree, grid.power)).to_vec());
        roots_are_right &= *grid.roots.lock() == roots;
    }
    right.retain(|_, sum| *sum != 0);
    let (mut stored, mut marked) = (Cells::new(), Vec::new());
    each(index, &snapshot, Family::Digests, &[], |key, value| {
        match (key.try_into(), value.try_into().map(u128::from_be_bytes)) {
            (Ok(cell), Ok(sum)) if sum != 0 => drop(stored.insert(cell, sum)),
            (Ok(_), Ok(_)) => {}
            _ => marked.push(key.to_vec()),
        }
        Ok(())
    })?;
    Ok(stored == right && marked == complete && roots_are_right)
}

#[cfg(test)]
mod tests {
    use kodiak_storage_api::{KeyHash, Stamp};

    use super::*;
    use crate::index::{IndexMemory, WriteBatch, object_key};
    use crate::needle::Location;

    #[test]
    fn what_an_interrupted_making_has_left_is_dropped_and_what_is_complete_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let memory = IndexMemory::new(8 << 20, 8 << 20);
        let open = || {
            let mut index = Index::open(folder.path(), &memory).unwrap();
            index.load_digests().unwrap();
            index
        };
        let index = open();
        let key = ObjectKey { policy: PolicyIndex(0), hash: KeyHash([7; 16]) };
        let (tree, at) = (Tree::Objects(PolicyIndex(0)), Timestamp::from_micros(5, 1));
        let entry = ObjectEntry {
            location: Location { volume: 1, offset: 64, meta_len: 1, data_len: 1 },
            stamp: Stamp::first(at),
            deleted: false,
            extents: false,
            expires: false,
            quarantined: false,
        };
        let mut batch = WriteBatch::default();
        batch.put_cf(index.family(Family::Objects), object_key(&key), entry.to_bytes());
        batch.sums.add(object_place(&key), Digest::of_object(&key.hash, at));
        index.write(batch).unwrap();
        let expected = |power| vec![(key.place().partition(power), Digest::of_object(&key.hash, at))];
        assert_eq!(roots(&index, tree, &Partitions::all(4)).unwrap(), expected(4));
        let mut left = rocksdb::WriteBatch::default();
        for (tree, power) in [(Tree::Accounts, 2), (tree, 3), (tree, 5), (Tree::Blocks(PolicyIndex(9)), 24)] {
            let cell = cell(tree, Partition::new(power, 1), 3);
            left.merge_cf(index.family(Family::Digests), cell, 77u128.to_be_bytes());
        }
        index.write_plain(left).unwrap();
        assert!(!are_right(&index).unwrap());
        index.flush().unwrap();
        drop(index);

        let index = open();
        assert!(are_right(&index).unwrap());
        assert_eq!(index.grids().roots(tree, &Partitions::all(4)), Some(expected(4)));
        assert_eq!(roots(&index, tree, &Partitions::all(5)).unwrap(), expected(5));
        assert!(are_right(&index).unwrap());
        index.flush().unwrap();
        drop(index);
        let index = open();
        assert_eq!(index.grids().roots(tree, &Partitions::all(4)), None, "another one has taken its place");
        assert_eq!(index.grids().roots(tree, &Partitions::all(5)), Some(expected(5)));
        assert!(are_right(&index).unwrap());
    }
}
