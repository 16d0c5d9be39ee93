//! The typed object API: what Swift and S3 have in common.
//!
//! A write is an [`Upload`] (bytes in, nothing visible) and then [`Store::commit`]. A read is
//! [`Store::open`] and then [`OpenObject::read`]. Accounts and containers are directories.

mod accounts;
mod affinity;
mod blocks;
mod buffers;
mod commit;
mod directories;
mod erasure;
mod error;
mod garbage;
mod handoff;
mod hedge;
mod listing;
mod locks;
mod md5;
mod open;
mod quorum;
mod reaper;
mod records;
mod register;
mod shards;
mod upload;
mod versions;
mod workers;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use futures_util::stream::BoxStream;
use kodiak_storage_api::{Clock, Map, ObjectRecord, Policies, PolicyIndex, Timestamp};

pub use accounts::{PARTS, UPLOADS};
pub use affinity::{ReadAffinity, WriteAffinity};
pub use error::StoreError;
pub use garbage::{Collector, GarbageCursor};
pub use kodiak_storage_api::{Nodes, Placement, PlacementError};
pub use open::OpenObject;
pub use reaper::ReaperSettings;
pub use shards::Whose;
pub use upload::{Staged, Upload};
pub use versions::{
    DELETE_MARKER, Deletion, ENABLED, LOCATION, LOCATION_MODE, Location, Mode, VersionEntry, VersionMarker,
    VersionPage, VersionQuery, VersionRow, Versioning, Written, is_delete_marker, is_null, is_null_row,
};

use accounts::Living;
use buffers::Buffers;
use locks::KeyLocks;
use md5::Hashers;
use open::Readers;
use records::Records;
use shards::Shards;

/// What must hold of the current version for a write to happen; checked atomically with it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// `If-None-Match: *`: there is no object.
    Absent,
    /// `If-Match`: there is an object with one of these ETags (`*`: any).
    Matches(Vec<String>),
    /// `If-None-Match` with ETags: there is no object with one of these.
    MatchesNone(Vec<String>),
    /// The newest version is exactly this one (the expirer's delete).
    Is(Timestamp),
}

impl Precondition {
    /// Whether it holds of what is there now; an expired object counts as absent but for [`Self::Is`].
    fn holds(&self, current: Option<&ObjectRecord>, now: u64) -> bool {
        let visible = current.filter(|record| !record.expired(now));
        let is = |etags: &[String]| {
            visible.is_some_and(|record| etags.iter().any(|etag| etag == "*" || *etag == record.etag))
        };
        match self {
            Precondition::None => true,
            Precondition::Absent => visible.is_none(),
            Precondition::Matches(etags) => is(etags),
            Precondition::MatchesNone(etags) => !is(etags),
            Precondition::Is(timestamp) => current.is_some_and(|record| record.timestamp == *timestamp),
        }
    }
}

/// Everything of a new object but its bytes.
#[derive(Clone, Debug, Default)]
pub struct NewObject {
    /// `Content-Type`.
    pub content_type: String,
    /// Stored headers (see [`ObjectRecord::headers`]).
    pub headers: Vec<(String, String)>,
    /// Extra fields of the listing row.
    pub listing: Vec<(String, String)>,
    /// Seconds since 1970 at which it ends.
    pub expires_at: Option<u64>,
    /// ETag to answer in place of the content's MD5 (S3 multipart).
    pub etag: Option<String>,
    /// When given (Swift's `X-Timestamp` of trusted callers); else the store's clock.
    pub timestamp: Option<Timestamp>,
}

/// The coordinator of all reads and writes.
pub struct Store {
    /// Replaced as a whole when a ring changes.
    map: ArcSwap<Map>,
    clock: Arc<Clock>,
    locks: KeyLocks,
    records: Records,
    buffers: Buffers,
    /// Their threads begin with the first upload that needs them.
    hashers: OnceLock<Hashers>,
    readers: Arc<Readers>,
    shards: Shards,
    living: Living,
    reaper: ArcSwap<ReaperSettings>,
    reaper_pace: reaper::Pace,
    write_affinity: ArcSwap<WriteAffinity>,
    weakness: Weakness,
}

/// What a store leaves out on purpose, to show that the simulation notices. Nothing but tests can set it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Weakness {
    /// Nothing.
    #[default]
    None,
    /// Half of the replicas pass for a majority.
    SmallQuorum,
    /// What is read is not written back.
    NoWriteBack,
    /// A refused write is tried again without finding out what has become of it.
    NoFence,
    /// A conditional write is not prepared.
    NoPrepare,
    /// A container counts as deleted where any replica has deleted it.
    MinorityDeletes,
    /// A listing's new bounds are not given to a majority before anybody goes by them.
    NoInstall,
    /// A change of a container is acknowledged while others may still go by the old record.
    ShortLeases,
    /// A change of a container that has an older time than the record is acknowledged.
    LostChanges,
}

/// A store to share.
pub type SharedStore = Arc<Store>;

/// A stream of an object's bytes; ends with an error rather than with wrong bytes.
pub type ByteStream = BoxStream<'static, Result<bytes::Bytes, StoreError>>;

impl Store {
    /// A store over these nodes. Its background workers begin with [`Store::run_workers`].
    pub fn new(
        placement: Placement,
        nodes: &Nodes,
        clock: Arc<Clock>,
    ) -> Result<SharedStore, PlacementError> {
        Store::build(placement, nodes, clock, Weakness::None)
    }

    /// A store with a weakness.
    #[cfg(feature = "testing")]
    pub fn weakened(
        placement: Placement,
        nodes: &Nodes,
        clock: Arc<Clock>,
        weakness: Weakness,
    ) -> Result<SharedStore, PlacementError> {
        Store::build(placement, nodes, clock, weakness)
    }

    fn build(
        placement: Placement,
        nodes: &Nodes,
        clock: Arc<Clock>,
        weakness: Weakness,
    ) -> Result<SharedStore, PlacementError> {
        Ok(Arc::new(Store {
            map: ArcSwap::from_pointee(Map::new(placement, nodes)?),
            clock,
            locks: KeyLocks::new(),
            records: Records::new(),
            buffers: Buffers::new(),
            hashers: OnceLock::new(),
            readers: Arc::new(Readers::default()),
            shards: Shards::new(),
            living: Living::default(),
            reaper: ArcSwap::default(),
            reaper_pace: reaper::Pace::default(),
            write_affinity: ArcSwap::default(),
            weakness,
        }))
    }

    /// Goes on with other rings; what has begun with the old ones ends with them.
    pub fn set_placement(&self, placement: Placement, nodes: &Nodes) -> Result<(), PlacementError> {
        self.map.store(Arc::new(Map::new(placement, nodes)?));
        Ok(())
    }

    /// The map that is in force.
    pub fn current_map(&self) -> Arc<Map> {
        self.map.load_full()
    }

    /// Whether the policy's mode is `available`.
    pub fn is_available(&self, policy: PolicyIndex) -> bool {
        self.map().mode(policy).is_ok_and(|mode| mode == kodiak_storage_api::Mode::Available)
    }

    /// The storage policies.
    pub fn policies(&self) -> Arc<Policies> {
        self.map().policies().clone()
    }

    fn map(&self) -> arc_swap::Guard<Arc<Map>> {
        self.map.load()
    }

    /// The clock that orders this store's writes, to share.
    pub fn shared_clock(&self) -> Arc<Clock> {
        self.clock.clone()
    }

    /// The clock that orders this store's writes.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Seconds since 1970 now.
    pub fn now(&self) -> u64 {
        self.clock.wall_micros() / 1_000_000
    }
}
