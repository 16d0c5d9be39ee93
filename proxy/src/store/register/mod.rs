//! The register of one name: its replicas, and what a coordinator asks of them.
//!
//! The argument why this is linearizable is `docs/consistency.md`. In short: versions are ordered by their
//! ballots; what a majority has accepted at one ballot has taken effect there; a ballot that depends on what
//! came before it is promised by a majority first; and a write gets a second ballot only when it is certain
//! that the first neither has taken effect nor will.

mod available;
mod read;
mod resolve;
mod rounds;
mod swap;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kodiak_storage_api::{
    DirectoryKey, Home, Map, Mode, NodeError, ObjectKey, ObjectPath, PolicyIndex, Replica, Stamp,
    StoredVersion, Timestamp, Tree, Version,
};

pub(super) use swap::Draft;

use super::shards::{self, Part};
use super::{Store, StoreError, Weakness, quorum};

/// Ballots of one operation at most. Each failure teaches the clock the newest ballot, so a second one
/// already needs a writer elsewhere in between.
const ATTEMPTS: u32 = 12;
/// First wait for another coordinator to finish; doubled up to sixteen times that, with jitter.
const PAUSE: Duration = Duration::from_millis(4);
/// How long the last replicas are waited for when their answers may tell how a write went.
const GRACE: Duration = Duration::from_millis(500);

/// One name, its replicas, and those of the directory with its row.
pub(super) struct Register<'s> {
    store: &'s Store,
    key: ObjectKey,
    path: ObjectPath,
    replicas: Vec<Replica>,
    home: Home,
    directory: DirectoryKey,
    containers: Vec<Replica>,
    /// The container replica on the node of each object replica: its row is as durable as the object.
    paired: Vec<Option<usize>>,
    /// The policy's mode is `available`; then who may hold the name, its replicas first, and likewise for its
    /// container.
    available: bool,
    seats: Vec<Replica>,
    container_seats: Vec<Replica>,
}

/// A version at a ballot.
#[derive(Clone)]
pub(super) struct Proposal {
    version: Version,
    stamp: Stamp,
    inline: Vec<Bytes>,
    /// See [`kodiak_storage_api::ObjectWrite::expect`].
    expect: Option<Timestamp>,
}

impl Proposal {
    fn again(&self, ballot: Timestamp) -> Proposal {
        Proposal { stamp: self.stamp.again(ballot), expect: None, ..self.clone() }
    }

    /// What was read, to be written elsewhere.
    fn of(stored: &StoredVersion) -> Proposal {
        Proposal {
            version: stored.version.clone(),
            stamp: stored.stamp,
            inline: stored.inline.clone().into_iter().collect(),
            expect: None,
        }
    }
}

/// A version with its time.
fn timed(mut version: Version, at: Timestamp) -> Version {
    match &mut version {
        Version::Live(record) => record.timestamp = at,
        Version::Deleted(time) | Version::Moved(time) => *time = at,
    }
    version
}

impl<'s> Register<'s> {
    pub(super) fn of(
        store: &'s Store,
        path: &ObjectPath,
        policy: PolicyIndex,
    ) -> Result<Register<'s>, NodeError> {
        let map: Arc<Map> = store.map.load_full();
        let key = map.object(path, policy)?;
        let replicas = map.object_replicas(policy, key.place())?;
        // Where its row is, as far as is known here: a replica of the directory says if that is not so.
        let shards = store.known_map(path.container_path());
        let home = shards.map_or(Home::Container, |shards| shards.range_of(path.object()).home);
        let Part { key: directory, replicas: containers, .. } =
            store.part(path.container_path(), home, Timestamp::ZERO);
        let mut free: Vec<usize> = (0..containers.len()).collect();
        let mut pair = |replica: &Replica| {
            let place = free.iter().position(|&index| containers[index].shares_node(replica))?;
            Some(free.remove(place))
        };
        let paired = replicas.iter().map(&mut pair).collect();
        // The maps of listings are registers whatever their policy says.
        let available = map.mode(policy)? == Mode::Available && !shards::is_own(path.account());
        let seats = |tree, place| match available {
            true => Ok(map.near_seats(tree, place)?.into_iter().map(|seat| seat.replica).collect()),
            false => Ok::<Vec<Replica>, NodeError>(Vec::new()),
        };
        let (own, container_seats) =
            (seats(Tree::Objects(policy), key.place())?, seats(Tree::Containers, directory.place())?);
        Ok(Register {
            store,
            key,
            path: path.clone(),
            replicas,
            home,
            directory,
            containers,
            paired,
            available,
            seats: own,
            container_seats,
        })
    }

    fn majority(&self) -> usize {
        let majority = quorum::majority(self.replicas.len());
        majority - usize::from(self.is_weak(Weakness::SmallQuorum))
    }

    fn is_weak(&self, weakness: Weakness) -> bool {
        self.store.weakness == weakness
    }

    /// Writes a version that depends on nothing before it; its time is `at`, or that of its first ballot.
    /// [`StoreError::Conflict`] if the name holds a ballot that is not older than `at`.
    pub(super) async fn write(
        &self,
        version: Version,
        inline: Vec<Bytes>,
        at: Option<Timestamp>,
    ) -> Result<Version, StoreError> {
        if self.available {
            return self.write_available(version, inline, at, None).await;
        }
        let first = at.unwrap_or_else(|| self.store.clock.now());
        let mut proposal =
            Proposal { version: timed(version, first), stamp: Stamp::first(first), inline, expect: None };
        for attempt in 0..ATTEMPTS {
            let round = self.accept(&proposal, &[]).await;
            if round.chosen() {
                self.finish(&proposal, &round).await?;
                return Ok(proposal.version);
            }
            self.learn(&round);
            let overtaken = |held: Option<Stamp>| {
                let newer = held.filter(|held| at.is_some_and(|at| held.ballot >= at));
                newer.map_or(Ok(()), |newer| Err(StoreError::Conflict(newer.ballot)))
            };
            if round.never() {
                overtaken(round.held())?;
                proposal.stamp = Stamp::first(self.store.clock.now());
                if at.is_none() {
                    proposal.version = timed(proposal.version, proposal.stamp.origin);
                }
                continue;
            }
            if !round.contested() {
                return Err(round.error().into());
            }
            if self.is_weak(Weakness::NoFence) {
                proposal = proposal.again(self.store.clock.now());
                continue;
            }
            self.pause(attempt).await;
            match self.resolve(&proposal).await? {
                resolve::Fate::Done => return Ok(proposal.version),
                // Its blocks may have been queued for deletion where it was accepted and replaced.
                resolve::Fate::Open(_) if has_blocks(&proposal.version) => return Err(undecided()),
                resolve::Fate::Open(fence) => {
                    overtaken(fence.held())?;
                    proposal = proposal.again(fence.ballot);
                }
            }
        }
        Err(undecided())
    }

    /// Waits, for about as long as another coordinator needs.
    async fn pause(&self, attempt: u32) {
        let longest = PAUSE * (1 << attempt.min(4));
        // Two coordinators have two clocks: that is random enough, and a simulation can repeat it.
        let [.., a, b, c, d, e, f] = self.store.clock.now().to_bytes();
        let mixed = u64::from_be_bytes([0, 0, a, b, c, d, e, f]).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        tokio::time::sleep(longest / 2 + longest.mul_f64(mixed as f64 / (1u64 << 24) as f64)).await;
    }
}

fn has_blocks(version: &Version) -> bool {
    let layout = version.live().map(|record| &record.layout);
    matches!(layout, Some(kodiak_storage_api::Layout::Extents(extents)) if !extents.is_empty())
}

/// It may have taken effect, or may still.
fn undecided() -> StoreError {
    StoreError::Unavailable("the write may or may not have taken effect".into())
}
