//! One pass over a device: every partition that it holds is compared with the others that hold it.
//!
//! Partitions that it ought not to hold (it stands in for a device that was away, or they have moved) are
//! given to their primaries, and dropped when all of these have them.
//!
//! **Tombstones** are reclaimed when they are older than [`super::RepairSettings::reclaim_age`] and all primaries
//! have them. What could bring back the version before? Not a primary: each has the tombstone, or it would
//! not be reclaimed. A device that is no primary might still hold it, from a time when it stood in or was
//! one. In every pass such a device compares what it holds with a majority of the primaries, at least one
//! of which has the tombstone until it is reclaimed, and drops or replaces it. A device whose last such
//! pass began longer ago than the reclaim age might have missed that: it gives nothing away any more, says
//! so, and has to be wiped.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use kodiak_storage_api::jobs::{Job, JobKind, Jobs, Pace, Tally, yielding};
use kodiak_storage_api::{
    BucketSet, Clock, Digest, Item, Map, NodeError, Partition, Partitions, Replica, Tree,
};

use super::heal::{Healed, Healer, Place, scan};

/// Partitions that are compared by one message.
const PARTITIONS_AT_ONCE: u32 = 1 << 14;
/// Partitions that are healed at once: their writes share a device's syncs.
const HEALED_AT_ONCE: usize = 16;
/// Items that are dropped with one needle.
const FORGET_AT_ONCE: usize = 500;

/// What a pass has found and done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pass {
    /// Partitions compared.
    pub partitions: u64,
    /// Those that differed.
    pub differing: u64,
    /// Items of partitions that the device ought not to hold: dropped.
    pub handed_back: u64,
    /// … and those that had to stay.
    pub waiting: u64,
    /// What was copied.
    pub healed: Healed,
    /// Partitions that the device lacked and has got whole.
    pub filled: u64,
    /// Everything the device holds for others was compared with a majority of those.
    pub complete: bool,
}

/// Who is told how far a pass is.
pub struct PassJobs {
    heal: Arc<Job>,
    fragments: Arc<Job>,
    hand_back: Arc<Job>,
}

impl PassJobs {
    /// Those of a device.
    pub fn of(jobs: &Jobs, device: &str, rate: u64) -> PassJobs {
        PassJobs {
            heal: jobs.job(JobKind::Heal, device, rate),
            fragments: jobs.job(JobKind::Fragments, device, rate),
            hand_back: jobs.job(JobKind::HandBack, device, rate),
        }
    }

    fn begin(&self, map: &Map) -> Result<(), NodeError> {
        let (mut whole, mut cut) = (0, 0);
        for tree in map.trees() {
            *(if is_cut(map, tree)? { &mut cut } else { &mut whole }) += map.partitions(tree)?.len() as u64;
        }
        self.heal.begin(Some(whole));
        self.fragments.begin(Some(cut));
        self.hand_back.begin(None);
        Ok(())
    }

    /// The pass has ended; early, if there is an error.
    pub fn end(&self, error: Option<String>) {
        [&self.heal, &self.fragments, &self.hand_back].into_iter().for_each(|job| job.end(error.clone()));
    }

    fn healing(&self, map: &Map, tree: Tree) -> Result<&Job, NodeError> {
        Ok(if is_cut(map, tree)? { &self.fragments } else { &self.heal })
    }
}

/// Whether a tree's blocks are fragments.
fn is_cut(map: &Map, tree: Tree) -> Result<bool, NodeError> {
    match tree {
        Tree::Blocks(policy) => Ok(map.codec(policy)?.is_some()),
        Tree::Accounts | Tree::Containers | Tree::Objects(_) => Ok(false),
    }
}

fn tally(healed: &Healed) -> Tally {
    Tally { changed: healed.copied + healed.settled, failed: healed.failed, waiting: healed.young }
}

/// The partitions of one message.
struct Compared {
    /// Partitions the device is a primary of, in which somebody differs.
    differing: Vec<Partition>,
    /// … and in which everybody answered and nobody differs.
    equal: Vec<Partition>,
    /// Partitions it holds and ought not to.
    foreign: Vec<Partition>,
    partitions: u64,
    away: usize,
}

/// One pass. With `give`, foreign partitions are given to their primaries. Whoever calls ends the jobs.
pub async fn pass(healer: &Healer, local: &Replica, give: bool, jobs: &PassJobs) -> Result<Pass, NodeError> {
    let mut pass = Pass { complete: true, ..Pass::default() };
    jobs.begin(&healer.map)?;
    let missing: HashSet<(Tree, Partition)> = local.node.missing(local.device).await?.into_iter().collect();
    for tree in healer.map.trees() {
        let job = jobs.healing(&healer.map, tree)?;
        for some in healer.map.partitions(tree)?.chunks(PARTITIONS_AT_ONCE) {
            let compared = some.len() as u64;
            let found = compare(&healer.map, local, tree, some).await?;
            // Those that differ are done when they are healed.
            job.advance(compared - found.differing.len() as u64);
            pass.partitions += found.partitions;
            pass.healed.away += found.away;
            pass.differing += found.differing.len() as u64;
            let mut whole = found.equal;
            let heals = stream::iter(found.differing).map(|partition| async move {
                (partition, heal(healer, local, Place { tree, partition }, None).await)
            });
            let mut heals = std::pin::pin!(heals.buffer_unordered(HEALED_AT_ONCE));
            while let Some((partition, healed)) = heals.next().await {
                job.advance(1);
                match healed {
                    Ok(healed) => {
                        if healed.is_whole() {
                            whole.push(partition);
                        }
                        job.count(tally(&healed));
                        pass.healed.add(healed);
                    }
                    Err(error) => failed(&mut pass, job, &error),
                }
            }
            // Whatever was acknowledged before this device was a replica, one of the others had when it was
            // compared: see `docs/consistency.md`.
            whole.retain(|partition| missing.contains(&(tree, *partition)));
            if !whole.is_empty() {
                pass.filled += whole.len() as u64;
                local.node.filled(local.device, tree, whole).await?;
            }
            for partition in found.foreign.into_iter().filter(|_| give) {
                foreign(healer, local, Place { tree, partition }, (&mut pass, &jobs.hand_back)).await;
            }
        }
    }
    Ok(pass)
}

async fn heal(
    healer: &Healer,
    local: &Replica,
    place: Place,
    extra: Option<&Replica>,
) -> Result<Healed, NodeError> {
    if let Tree::Blocks(policy) = place.tree
        && let Some(codec) = healer.map.codec(policy)?
    {
        return healer.heal_fragments(&codec, place, local).await;
    }
    healer.heal(place, extra).await
}

fn failed(pass: &mut Pass, job: &Job, error: &NodeError) {
    tracing::debug!(%error, "a partition is left for the next pass");
    pass.healed.failed += 1;
    job.count(Tally { failed: 1, ..Tally::default() });
}

async fn foreign(healer: &Healer, local: &Replica, place: Place, (pass, job): (&mut Pass, &Job)) {
    job.advance(1);
    let of = healer.map.replicas(place.tree, place.partition).map_or(0, |replicas| replicas.len());
    match heal(healer, local, place, Some(local)).await {
        Ok(healed) => {
            pass.complete &= healed.away < of.div_ceil(2);
            let all = healed.away == 0;
            pass.healed.add(healed);
            if !all {
                pass.waiting += 1;
                job.count(Tally { waiting: 1, ..Tally::default() });
                return;
            }
        }
        Err(error) => {
            pass.complete = false;
            return failed(pass, job, &error);
        }
    }
    match healer.hand_back(place, local).await {
        Ok((gone, stay)) => {
            pass.handed_back += gone as u64;
            pass.waiting += stay as u64;
            job.count(Tally { changed: gone as u64, waiting: stay as u64, failed: 0 });
        }
        Err(error) => failed(pass, job, &error),
    }
}

async fn compare(map: &Map, local: &Replica, tree: Tree, some: Partitions) -> Result<Compared, NodeError> {
    let digests = async |replica: &Replica| {
        let found = replica.node.digests(replica.device, tree, some.clone()).await?;
        Ok::<HashMap<Partition, Digest>, NodeError>(found.into_iter().collect())
    };
    let mine = digests(local).await?;
    let mut compared =
        Compared { differing: Vec::new(), equal: Vec::new(), foreign: Vec::new(), partitions: 0, away: 0 };
    // Each peer once, with what it answered; none if it did not.
    let mut peers: Vec<(Replica, Option<HashMap<Partition, Digest>>)> = Vec::new();
    for partition in some.clone() {
        let replicas = map.replicas(tree, partition)?;
        if !replicas.iter().any(|replica| replica.is(local)) {
            if mine.contains_key(&partition) {
                compared.foreign.push(partition);
            }
            continue;
        }
        compared.partitions += 1;
        let (mut differs, mut all_answered) = (false, true);
        for peer in replicas.iter().filter(|replica| !replica.is(local)) {
            let known = peers.iter().position(|(known, _)| known.is(peer));
            let known = match known {
                Some(known) => known,
                None => {
                    let answer = digests(peer).await;
                    compared.away += usize::from(answer.is_err());
                    peers.push((peer.clone(), answer.ok()));
                    peers.len() - 1
                }
            };
            match &peers[known].1 {
                Some(theirs) => differs |= theirs.get(&partition) != mine.get(&partition),
                None => all_answered = false,
            }
        }
        if differs {
            compared.differing.push(partition);
        } else if all_answered {
            compared.equal.push(partition);
        }
    }
    Ok(compared)
}

/// Drops tombstones older than `before` (microseconds) of the partitions whose first replica this device
/// is, on all primaries, where these are equal. Answers how many.
pub async fn reclaim(
    map: &Arc<Map>,
    clock: &Clock,
    local: &Replica,
    age: std::time::Duration,
    (job, pace): (&Job, &Pace),
) -> Result<u64, NodeError> {
    let before = clock.wall_micros().saturating_sub(age.as_micros() as u64);
    let mut places = Vec::new();
    for tree in map.trees().into_iter().filter(|tree| !matches!(tree, Tree::Blocks(_))) {
        for (partition, digest) in local.node.digests(local.device, tree, map.partitions(tree)?).await? {
            let primaries = map.replicas(tree, partition)?;
            if primaries.first().is_some_and(|first| first.is(local)) {
                places.push((Place { tree, partition }, digest, primaries));
            }
        }
    }
    job.begin(Some(places.len() as u64));
    let mut dropped = 0;
    for (place, digest, primaries) in places {
        if all_equal(&primaries, place, digest).await {
            let more = reclaim_partition(&primaries, place, before, pace).await?;
            job.count(Tally { changed: more, ..Tally::default() });
            dropped += more;
        } else {
            job.count(Tally { waiting: 1, ..Tally::default() });
        }
        job.advance(1);
    }
    Ok(dropped)
}

/// Whether every primary answers, and has the same.
async fn all_equal(primaries: &[Replica], place: Place, digest: Digest) -> bool {
    for replica in primaries {
        match replica.node.digests(replica.device, place.tree, place.partition.into()).await {
            Ok(found) if found == [(place.partition, digest)] => {}
            _ => return false,
        }
    }
    true
}

async fn reclaim_partition(
    primaries: &[Replica],
    place: Place,
    before: u64,
    pace: &Pace,
) -> Result<u64, NodeError> {
    let Some(first) = primaries.first() else { return Ok(0) };
    let mut old: Vec<Item> = Vec::new();
    scan(first, place, BucketSet::ALL, |item| {
        if item.deleted && item.timestamp.micros() < before {
            old.push(item);
        }
    })
    .await?;
    for items in old.chunks(FORGET_AT_ONCE) {
        pace.take(items.len()).await;
        for replica in primaries {
            // If one fails, the others get the tombstone back from it.
            yielding(|| replica.node.forget(replica.device, items.to_vec())).await?;
        }
    }
    Ok(old.len() as u64)
}
