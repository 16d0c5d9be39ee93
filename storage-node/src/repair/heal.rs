//! Bringing the replicas of one partition together.
//!
//! What differs is found by buckets and then item by item. Blocks never change: who lacks one gets it. Of
//! rows the newer wins, directories merge. An object is a register (`docs/consistency.md`): a version that
//! a majority holds at one ballot has taken effect, and who lags learns it. One that fewer hold may be a
//! write under way, or one that was given up; it is not passed on as it is, but completed as any
//! coordinator would: at a new ballot that a majority promises first. In a policy that is `available` the
//! newest version simply goes to all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::jobs::{Pace, yielding};
use kodiak_storage_api::{
    BUCKETS, BlockWrite, BucketSet, Clock, Digest, DirectoryChange, DirectoryKey, DirectoryWrite, Item,
    ItemCopy, ItemKey, Map, Mode, NodeError, ObjectKey, ObjectWrite, Partition, Replica, Row, RowDurability,
    ScanQuery, Stamp, Timestamp, Tree, Version,
};

/// Buckets whose items are compared at once: bounds the memory to an eighth of a partition's keys.
const BUCKETS_AT_ONCE: usize = BUCKETS / 8;
/// Items of one page of a scan.
const PAGE: usize = 4096;
/// Rows that go in one needle.
const ROWS_AT_ONCE: usize = 500;
/// Items that are asked for at once.
const COPIES_AT_ONCE: usize = 64;

/// A partition of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// The tree.
    pub tree: Tree,
    /// The partition.
    pub partition: Partition,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Healed {
    /// Items that a replica got.
    pub copied: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Versions that no majority held, completed at a new ballot.
    pub settled: u64,
    /// Items that could not be brought together now.
    pub failed: u64,
    /// Versions that no majority holds and that are too young to be completed by anyone but their writer.
    pub young: u64,
    /// Replicas that did not answer.
    pub away: usize,
}

impl Healed {
    /// Whether every primary now has everything that any of them had.
    pub fn is_whole(&self) -> bool {
        // What was completed at a new ballot went to those who promised it.
        (self.failed, self.young, self.settled, self.away) == (0, 0, 0, 0)
    }

    /// Both together.
    pub fn add(&mut self, other: Healed) {
        self.copied += other.copied;
        self.bytes += other.bytes;
        self.settled += other.settled;
        self.failed += other.failed;
        self.young += other.young;
        self.away += other.away;
    }
}

/// Heals partitions.
pub struct Healer {
    /// Where things lie.
    pub map: Arc<Map>,
    /// Issues ballots.
    pub clock: Arc<Clock>,
    /// Bytes a second that are copied.
    pub pace: Arc<Pace>,
    /// A version that no majority holds is left alone for so long: its writer may be about to finish it.
    pub quiet: Duration,
}

/// What some replicas have of an item, by replica.
type Held = Vec<Option<Item>>;

/// The replicas of a partition that answer.
struct Members {
    /// Those that ought to hold it, and perhaps one that ought not: it only gives.
    replicas: Vec<Replica>,
    /// How many of the first are primaries.
    primaries: usize,
    /// How many primaries there are with those that do not answer.
    of: usize,
    /// The policy is `available`: of an object's versions the newest wins.
    newest_wins: bool,
}

impl Healer {
    /// Brings the primaries of a partition together, and gives them what `extra` has: a device that holds
    /// it for them.
    pub async fn heal(&self, place: Place, extra: Option<&Replica>) -> Result<Healed, NodeError> {
        let mut healed = Healed::default();
        let (members, sets) = self.gather(place, extra, &mut healed).await?;
        let is_directory = |key: &ItemKey| matches!(key, ItemKey::Directory(_));
        // A row needs its directory, which may be in another bucket; and a directory goes after its rows.
        let steps: &[bool] = match place.tree {
            Tree::Accounts | Tree::Containers => &[true, false, true],
            Tree::Objects(_) | Tree::Blocks(_) => &[false],
        };
        for (step, directories) in steps.iter().enumerate() {
            for buckets in &sets {
                let items = self.items(place, &members.replicas, *buckets).await?;
                let differing = items.into_iter().filter(|(key, held)| {
                    let differs = held[..members.primaries].iter().any(|item| differs(item, held));
                    differs && is_directory(key) == *directories
                });
                let failed = healed.failed;
                self.bring_together(&members, differing.collect(), &mut healed).await;
                // What fails at first is tried again at the end.
                healed.failed = if step + 1 < steps.len() && *directories { failed } else { healed.failed };
            }
        }
        Ok(healed)
    }

    /// Asks all for their buckets; answers who they are and in which buckets somebody differs.
    async fn gather(
        &self,
        place: Place,
        extra: Option<&Replica>,
        healed: &mut Healed,
    ) -> Result<(Members, Vec<BucketSet>), NodeError> {
        let Place { tree, partition } = place;
        let primaries = self.map.replicas(tree, partition)?;
        let of = primaries.len();
        let mut members = Members { replicas: Vec::new(), primaries: 0, of, newest_wins: false };
        if let Tree::Objects(policy) = tree {
            members.newest_wins = self.map.mode(policy)? == Mode::Available;
        }
        let mut all: Vec<Vec<Digest>> = Vec::new();
        for (index, replica) in primaries.iter().chain(extra).enumerate() {
            match replica.node.buckets(replica.device, tree, partition).await {
                Ok(buckets) => {
                    members.primaries += usize::from(index < of);
                    members.replicas.push(replica.clone());
                    all.push(buckets);
                }
                Err(error) if index < of => {
                    tracing::debug!(?place, %error, "a replica does not say what it has");
                    healed.away += 1;
                }
                Err(error) => return Err(error),
            }
        }
        let first = all.first().cloned().unwrap_or_default();
        let differs = |bucket: &usize| all.iter().any(|buckets| buckets.get(*bucket) != first.get(*bucket));
        let differing: Vec<usize> = (0..BUCKETS).filter(differs).collect();
        // Where many buckets have nothing in them, those that have something have little.
        let at_once = if differing.len() <= BUCKETS / 2 { BUCKETS } else { BUCKETS_AT_ONCE };
        let sets = differing.chunks(at_once).map(|buckets| {
            let mut set = BucketSet::default();
            buckets.iter().for_each(|bucket| set.insert(*bucket as u8));
            set
        });
        Ok((members, sets.collect()))
    }

    /// All items of some buckets, with what each replica has.
    async fn items(
        &self,
        place: Place,
        replicas: &[Replica],
        buckets: BucketSet,
    ) -> Result<HashMap<ItemKey, Held>, NodeError> {
        let mut all: HashMap<ItemKey, Held> = HashMap::new();
        for (index, replica) in replicas.iter().enumerate() {
            scan(replica, place, buckets, |item| {
                let held = all.entry(item.key.clone()).or_insert_with(|| vec![None; replicas.len()]);
                held[index] = Some(item);
            })
            .await?;
        }
        Ok(all)
    }

    async fn bring_together(&self, members: &Members, differing: Vec<(ItemKey, Held)>, healed: &mut Healed) {
        let mut rows: HashMap<(usize, usize, DirectoryKey), Vec<ItemKey>> = HashMap::new();
        let mut copies: HashMap<(usize, usize), Vec<ItemKey>> = HashMap::new();
        for (key, held) in differing {
            let Some(newest) = newest(&held) else { continue };
            let source = held.iter().position(|item| item.as_ref() == Some(&newest)).unwrap_or_default();
            let lags = |index: &usize| held[*index].as_ref().is_none_or(|item| item.digest != newest.digest);
            let targets: Vec<usize> = (0..members.primaries).filter(lags).collect();
            match &key {
                ItemKey::Directory(directory) => self.merge(members, *directory, &held, healed).await,
                ItemKey::Row(directory, _) => targets.iter().for_each(|target| {
                    rows.entry((source, *target, *directory)).or_default().push(key.clone());
                }),
                ItemKey::Block(_) => targets.iter().for_each(|target| {
                    copies.entry((source, *target)).or_default().push(key.clone());
                }),
                ItemKey::Object(object) => {
                    let have = members.primaries - targets.len();
                    if have > members.of / 2 || members.newest_wins {
                        targets.iter().for_each(|target| {
                            copies.entry((source, *target)).or_default().push(key.clone());
                        });
                    } else if newest.timestamp.micros() + self.quiet.as_micros() as u64
                        <= self.clock.wall_micros()
                    {
                        let settled = self.settle(members, *object, source).await;
                        healed.settled += u64::from(settled.is_ok());
                        count(settled, healed);
                    } else {
                        healed.young += 1;
                    }
                }
            }
        }
        for ((source, target, directory), keys) in rows {
            let (from, to) = (&members.replicas[source], &members.replicas[target]);
            for keys in keys.chunks(ROWS_AT_ONCE) {
                healed_by(self.copy_rows(from, to, directory, keys).await, keys.len(), healed);
            }
        }
        for ((source, target), keys) in copies {
            let (from, to) = (&members.replicas[source], &members.replicas[target]);
            healed_by(self.copy(from, to, keys.clone()).await, keys.len(), healed);
        }
    }

    async fn merge(&self, members: &Members, key: DirectoryKey, held: &Held, healed: &mut Healed) {
        let holders = held.iter().zip(&members.replicas).filter(|(item, _)| item.is_some());
        let mut merged: Option<kodiak_storage_api::Directory> = None;
        for (_, replica) in holders {
            match replica.node.read_items(replica.device, vec![ItemKey::Directory(key)]).await {
                Ok(mut copies) => match copies.pop() {
                    Some(Ok(Some(ItemCopy::Directory(found)))) => {
                        merged = Some(match merged {
                            Some(known) => known.merge(found),
                            None => found,
                        });
                    }
                    _ => healed.failed += 1,
                },
                Err(_) => healed.failed += 1,
            }
        }
        let Some(merged) = merged else { return };
        let digest = Digest::of_directory(&key.hash, &merged);
        for (item, replica) in held.iter().zip(&members.replicas).take(members.primaries) {
            if item.as_ref().is_some_and(|item| item.digest == digest) {
                continue;
            }
            let write = DirectoryWrite {
                key,
                name: merged.name.clone(),
                timestamp: merged.created.max(merged.deleted),
                change: DirectoryChange::Merge(Box::new(merged.clone())),
            };
            let written = yielding(|| replica.node.write_directory(replica.device, write.clone())).await;
            // A deletion waits for the tombstones of the rows that are left.
            count(written.map(|_| (1, 512)), healed);
        }
    }

    async fn copy_rows(
        &self,
        from: &Replica,
        to: &Replica,
        directory: DirectoryKey,
        keys: &[ItemKey],
    ) -> Result<(u64, u64), NodeError> {
        let mut rows: Vec<Row> = Vec::with_capacity(keys.len());
        let mut left = keys.to_vec();
        while !left.is_empty() {
            let copies = from.node.read_items(from.device, left.clone()).await?;
            if copies.is_empty() {
                return Err(NodeError::Unavailable("a replica answers no items".into()));
            }
            left.drain(..copies.len().min(left.len()));
            for copy in copies {
                if let Some(ItemCopy::Row(row)) = copy? {
                    rows.push(row);
                }
            }
        }
        let bytes = rows.iter().map(|row| 200 + row.name.len()).sum();
        self.pace.take(bytes).await;
        let count = rows.len() as u64;
        yielding(|| to.node.write_rows(to.device, directory, rows.clone(), RowDurability::Copied)).await?;
        Ok((count, bytes as u64))
    }

    /// Copies records that have taken effect, and blocks.
    async fn copy(
        &self,
        from: &Replica,
        to: &Replica,
        mut keys: Vec<ItemKey>,
    ) -> Result<(u64, u64), NodeError> {
        let (mut copied, mut bytes) = (0, 0);
        while !keys.is_empty() {
            let some: Vec<ItemKey> = keys.iter().take(COPIES_AT_ONCE).cloned().collect();
            let copies = from.node.read_items(from.device, some).await?;
            if copies.is_empty() {
                return Err(NodeError::Unavailable("a replica answers no items".into()));
            }
            let asked: Vec<ItemKey> = keys.drain(..copies.len().min(keys.len())).collect();
            let writes = asked.into_iter().zip(copies).map(|(key, copy)| self.put(to, key, copy));
            for written in futures_util::future::join_all(writes).await {
                let written = written?;
                copied += u64::from(written > 0);
                bytes += written;
            }
        }
        Ok((copied, bytes))
    }

    async fn put(
        &self,
        to: &Replica,
        key: ItemKey,
        copy: Result<Option<ItemCopy>, NodeError>,
    ) -> Result<u64, NodeError> {
        let Some(copy) = copy? else { return Ok(0) };
        let bytes = copy.size();
        self.pace.take(bytes).await;
        match (key, copy) {
            (ItemKey::Object(key), ItemCopy::Object { path, version, stamp, inline }) => {
                let write = object_write(key, &path, version, stamp, inline);
                yielding(|| to.node.learn_object(to.device, write.clone())).await?;
            }
            (ItemKey::Block(key), ItemCopy::Block { info, data }) => {
                if *blake3::hash(&data).as_bytes() != info.digest {
                    return Err(NodeError::Corrupt("a block is not what its digest says".into()));
                }
                let write = BlockWrite { key, owner: info.owner, digest: info.digest, data: vec![data] };
                yielding(|| to.node.write_block(to.device, write.clone())).await?;
            }
            _ => return Err(NodeError::Corrupt("a replica answers another item".into())),
        }
        Ok(bytes as u64)
    }

    /// Completes a version that no majority holds: a majority promises a new ballot, and gets at it the
    /// newest version that one of them or `source` has.
    async fn settle(
        &self,
        members: &Members,
        key: ObjectKey,
        source: usize,
    ) -> Result<(u64, u64), NodeError> {
        let ballot = self.clock.now();
        let primaries = &members.replicas[..members.primaries];
        let (mut promised, mut newest) = (Vec::new(), None::<(Timestamp, usize)>);
        for (index, replica) in primaries.iter().enumerate() {
            match replica.node.prepare(replica.device, key, ballot, ballot).await {
                Ok(promise) => {
                    promised.push(index);
                    if let Some(held) = promise.held {
                        newest = newest.max(Some((held.ballot, index)));
                    }
                }
                Err(NodeError::Stale(refusal)) => self.clock.observe(refusal.barrier),
                Err(error) => tracing::debug!(?key, %error, "no promise"),
            }
        }
        if promised.len() <= members.of / 2 {
            return Err(NodeError::Unavailable("no majority promises".into()));
        }
        let candidate = self.version(&members.replicas[source], key).await?;
        let from_primary = match newest {
            Some((held, index)) if candidate.as_ref().is_none_or(|(_, _, stamp, _)| stamp.ballot < held) => {
                self.version(&members.replicas[index], key).await?
            }
            _ => candidate,
        };
        let Some((path, version, stamp, inline)) = from_primary else { return Ok((0, 0)) };
        let write = object_write(key, &path, version.clone(), stamp.again(ballot), inline);
        let mut accepted = 0u64;
        for replica in promised.iter().map(|index| &primaries[*index]) {
            match yielding(|| replica.node.write_object(replica.device, write.clone())).await {
                Ok(()) => accepted += 1,
                Err(NodeError::Stale(refusal)) => self.clock.observe(refusal.barrier),
                Err(error) => tracing::debug!(?key, %error, "not accepted"),
            }
        }
        if accepted <= members.of as u64 / 2 {
            return Err(NodeError::Unavailable("no majority accepts".into()));
        }
        self.show(&path, &version, ballot).await?;
        Ok((accepted, 0))
    }

    /// The row of a version that was completed, at the replicas of its container.
    async fn show(
        &self,
        path: &kodiak_storage_api::ObjectPath,
        version: &Version,
        ballot: Timestamp,
    ) -> Result<(), NodeError> {
        let directory = self.map.container(path.container_path());
        let row = version.row(path, ballot);
        for replica in self.map.container_replicas(directory) {
            let rows = vec![row.clone()];
            // Of a listing that is split they go on from there to where they belong.
            match replica.node.write_rows(replica.device, directory, rows, RowDurability::Copied).await {
                Ok(()) | Err(NodeError::NoDirectory) => {}
                // The replicas of the container bring it to each other.
                Err(error) => tracing::debug!(%path, %error, "a row waits for its replica"),
            }
        }
        Ok(())
    }

    async fn version(
        &self,
        replica: &Replica,
        key: ObjectKey,
    ) -> Result<Option<(kodiak_storage_api::ObjectPath, Version, Stamp, bytes::Bytes)>, NodeError> {
        let mut copies = replica.node.read_items(replica.device, vec![ItemKey::Object(key)]).await?;
        match copies.pop().transpose()?.flatten() {
            Some(ItemCopy::Object { path, version, stamp, inline }) => {
                Ok(Some((path, version, stamp, inline)))
            }
            _ => Ok(None),
        }
    }

    /// Drops from a device what all primaries of a partition have: a handoff's items that are home, or a
    /// partition that has moved away. Answers how many are gone and how many had to stay.
    pub async fn hand_back(&self, place: Place, local: &Replica) -> Result<(usize, usize), NodeError> {
        let primaries = self.map.replicas(place.tree, place.partition)?;
        if primaries.iter().any(|primary| primary.is(local)) {
            return Ok((0, 0));
        }
        let replicas: Vec<Replica> = primaries.into_iter().chain([local.clone()]).collect();
        let last = replicas.len() - 1;
        let (mut gone, mut stay) = (0, 0);
        for from in (0..BUCKETS).step_by(BUCKETS_AT_ONCE) {
            let mut buckets = BucketSet::default();
            (from..from + BUCKETS_AT_ONCE).for_each(|bucket| buckets.insert(bucket as u8));
            let items = self.items(place, &replicas, buckets).await?;
            let (mut rows, mut directories) = (Vec::new(), Vec::new());
            for (key, mut held) in items {
                let Some(mine) = held.pop().flatten() else { continue };
                let home = match &key {
                    ItemKey::Block(block) if block.fragment().is_some() => {
                        block.fragment().and_then(|fragment| held.get(fragment)).is_some_and(Option::is_some)
                    }
                    _ => held.iter().flatten().count() == last,
                };
                let covered = home && self.covers(&replicas[..last], &key, &held, &mine, local).await?;
                match key {
                    _ if !covered => stay += 1,
                    ItemKey::Directory(_) => directories.push(mine),
                    _ => rows.push(mine),
                }
            }
            for items in rows.chunks(ROWS_AT_ONCE) {
                gone += yielding(|| local.node.forget(local.device, items.to_vec())).await?;
            }
            // Those that still have rows here are refused, and go in a later pass.
            let left = directories.len();
            let dropped = match directories.is_empty() {
                true => 0,
                false => yielding(|| local.node.forget(local.device, directories.clone())).await?,
            };
            gone += dropped;
            stay += left - dropped;
        }
        Ok((gone, stay))
    }

    /// Whether every primary has an item as it is here or newer.
    async fn covers(
        &self,
        primaries: &[Replica],
        key: &ItemKey,
        held: &Held,
        mine: &Item,
        local: &Replica,
    ) -> Result<bool, NodeError> {
        let ItemKey::Directory(directory) = key else {
            return Ok(held.iter().flatten().all(|item| item.timestamp >= mine.timestamp));
        };
        if held.iter().flatten().all(|item| item.digest == mine.digest) {
            return Ok(true);
        }
        let read = async |replica: &Replica| {
            let keys = vec![ItemKey::Directory(*directory)];
            let mut copies = replica.node.read_items(replica.device, keys).await?;
            match copies.pop().transpose()?.flatten() {
                Some(ItemCopy::Directory(found)) => Ok(Some(found)),
                _ => Ok::<_, NodeError>(None),
            }
        };
        let Some(mine) = read(local).await? else { return Ok(false) };
        for primary in primaries {
            let covered = match read(primary).await? {
                Some(theirs) => theirs.clone().merge(mine.clone()) == theirs,
                None => false,
            };
            if !covered {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn differs(item: &Option<Item>, held: &Held) -> bool {
    let digest = item.as_ref().map(|item| item.digest);
    held.iter().any(|other| other.as_ref().is_some_and(|other| Some(other.digest) != digest))
}

fn newest(held: &Held) -> Option<Item> {
    held.iter().flatten().max_by_key(|item| (item.timestamp, item.deleted)).cloned()
}

fn object_write(
    key: ObjectKey,
    path: &kodiak_storage_api::ObjectPath,
    version: Version,
    stamp: Stamp,
    inline: bytes::Bytes,
) -> ObjectWrite {
    let inline = if inline.is_empty() { Vec::new() } else { vec![inline] };
    ObjectWrite { key, path: path.clone(), version, stamp, expect: None, inline, row: None }
}

fn count(done: Result<(u64, u64), NodeError>, healed: &mut Healed) {
    match done {
        Ok((items, bytes)) => {
            healed.copied += items;
            healed.bytes += bytes;
        }
        Err(error) => {
            tracing::debug!(%error, "an item is left for the next pass");
            healed.failed += 1;
        }
    }
}

fn healed_by(done: Result<(u64, u64), NodeError>, of: usize, healed: &mut Healed) {
    let failed = done.is_err();
    count(done, healed);
    if failed {
        healed.failed += of as u64 - 1;
    }
}

/// Visits the items of some buckets on one replica.
pub async fn scan(
    replica: &Replica,
    place: Place,
    buckets: BucketSet,
    mut visit: impl FnMut(Item),
) -> Result<(), NodeError> {
    let Place { tree, partition } = place;
    let mut query = ScanQuery { tree, partition, buckets, after: None, limit: PAGE };
    loop {
        let page = replica.node.scan(replica.device, query.clone()).await?;
        page.items.into_iter().for_each(&mut visit);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(()),
        }
    }
}
