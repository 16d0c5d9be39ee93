//! From names to the replicas that hold them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kodiak_ring::{Partition, Partitions, Place, PlacementKey, PolicyIndex, Ring};
use serde::{Deserialize, Serialize};

use crate::{
    BlockKey, Codec, DataId, DeviceIndex, DirectoryKey, ErasureCode, NodeError, ObjectKey, ObjectPath,
    Policies, PolicyLabel, StorageNode, Tree,
};

/// Where things lie: the rings and the key that hashes names.
#[derive(Clone)]
pub struct Placement {
    /// Hashes names.
    pub key: PlacementKey,
    /// Ring of the accounts.
    pub accounts: Ring,
    /// Ring of the containers.
    pub containers: Ring,
    /// The storage policies, by [`PolicyIndex`].
    pub objects: Vec<Policy>,
    /// The policy of containers that name none.
    pub default_policy: PolicyIndex,
}

/// Where a storage policy keeps its objects, and how.
#[derive(Clone)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// It keeps its objects and takes no new containers.
    pub deprecated: bool,
    /// Every partition still is where the ring had it first.
    pub unmoved: bool,
    /// Ring of its records and blocks.
    pub ring: Ring,
    /// How its blocks are kept.
    pub protection: Protection,
    /// What happens when a majority does not answer.
    pub mode: Mode,
}

/// What a storage policy does when a majority of an object's devices does not answer. What each promises is
/// said in `docs/consistency.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Neither reads nor writes: an object is a linearizable register.
    #[default]
    Strict,
    /// Other devices stand in, and the newest write wins once all are back.
    Available,
}

impl Policy {
    /// A policy of that ring, called `Policy-0`.
    pub fn new(ring: Ring, protection: Protection) -> Policy {
        Policy {
            name: "Policy-0".into(),
            deprecated: false,
            unmoved: false,
            ring,
            protection,
            mode: Mode::Strict,
        }
    }

    /// On how many devices of a partition its records are: the first ones.
    pub fn record_replicas(&self) -> usize {
        match self.protection {
            Protection::Replicated => self.ring.replicas(),
            Protection::Erasure(_) => RECORD_REPLICAS.min(self.ring.replicas()),
        }
    }

    /// Whether each fragment of a block has a replica of the ring.
    pub fn check(&self) -> Result<(), PlacementError> {
        match self.protection {
            Protection::Erasure(_) if self.mode == Mode::Available => Err(PlacementError::AvailableErasure),
            Protection::Erasure(code) if self.ring.replicas() != code.fragments() => {
                Err(PlacementError::Fragments { code, replicas: self.ring.replicas() })
            }
            Protection::Replicated | Protection::Erasure(_) => Ok(()),
        }
    }
}

/// How a storage policy keeps its blocks. Records, and small objects with them, are always replicated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// On each device of the ring's partition.
    #[default]
    Replicated,
    /// A fragment on each device: the ring has as many replicas as a block has fragments.
    Erasure(ErasureCode),
}

/// Copies of a record under a policy with an erasure code, on the first devices of its partition.
const RECORD_REPLICAS: usize = 3;

/// Devices of a region that stand in for those of a partition at most, for each replica.
pub const STAND_INS: usize = 2;

/// The storage nodes by their names in the rings.
pub type Nodes = HashMap<String, Arc<dyn StorageNode>>;

/// Why rings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// A ring names a device that no node has.
    #[error("the ring names device {device} of node {node}, which is not there")]
    NoSuchDevice {
        /// Node of the ring.
        node: String,
        /// Device of the ring.
        device: String,
    },
    /// Fragments have no stand-ins that readers would find.
    #[error("a policy with an erasure code cannot be `available`: make it `strict`, or replicate it")]
    AvailableErasure,
    /// A fragment needs a device.
    #[error("the erasure code {code} needs a ring of {} replicas, but its ring has {replicas}", .code.fragments())]
    Fragments {
        /// The policy's code.
        code: ErasureCode,
        /// Of its ring.
        replicas: usize,
    },
}

/// A device that holds a replica.
#[derive(Clone)]
pub struct Replica {
    /// Its node.
    pub node: Arc<dyn StorageNode>,
    /// Its number on the node.
    pub device: DeviceIndex,
}

impl Replica {
    /// Whether both are the same device.
    pub fn is(&self, other: &Replica) -> bool {
        self.device == other.device && self.shares_node(other)
    }

    /// Whether both are devices of one node.
    pub fn shares_node(&self, other: &Replica) -> bool {
        Arc::ptr_eq(&self.node, &other.node)
    }
}

/// A device that has a partition, or may stand in for one that has.
#[derive(Clone)]
pub struct Seat {
    /// The device.
    pub replica: Replica,
    /// Its region.
    pub region: u32,
    /// Its zone within the region.
    pub zone: u32,
    /// Whether the ring gives it the partition.
    pub primary: bool,
}

/// A ring whose devices have been found.
struct PlacedRing {
    ring: Ring,
    /// By the ring's device ids.
    devices: Vec<Option<Replica>>,
    regions: usize,
}

impl PlacedRing {
    fn new(ring: Ring, nodes: &Nodes) -> Result<PlacedRing, PlacementError> {
        let mut devices = Vec::new();
        for device in ring.devices() {
            let missing =
                || PlacementError::NoSuchDevice { node: device.node.clone(), device: device.name.clone() };
            let node = nodes.get(&device.node).ok_or_else(missing)?;
            let index = node.device(&device.name).ok_or_else(missing)?;
            let id = device.id as usize;
            if devices.len() <= id {
                devices.resize(id + 1, None);
            }
            devices[id] = Some(Replica { node: node.clone(), device: index });
        }
        let regions: HashSet<u32> = ring.devices().map(|device| device.region).collect();
        Ok(PlacedRing { ring, devices, regions: regions.len() })
    }

    fn replicas_of(&self, place: Place) -> Vec<Replica> {
        self.replicas(self.ring.partition_of(place))
    }

    /// The devices that hold a partition, and then those that stand in for them, in their order.
    fn seats(&self, partition: Partition) -> impl Iterator<Item = Seat> {
        let primaries = self.ring.primaries(partition).map(|device| (device, true));
        let handoffs = self.ring.handoffs(partition).map(|device| (device, false));
        primaries.chain(handoffs).filter_map(|(device, primary)| {
            let replica = self.devices.get(device.id as usize).cloned().flatten()?;
            Some(Seat { replica, region: device.region, zone: device.zone, primary })
        })
    }

    fn replicas(&self, partition: Partition) -> Vec<Replica> {
        let found = self.ring.primaries(partition);
        found.filter_map(|device| self.devices.get(device.id as usize).cloned().flatten()).collect()
    }
}

/// [`Placement`] with the devices behind it.
pub struct Map {
    key: PlacementKey,
    nodes: Nodes,
    accounts: PlacedRing,
    containers: PlacedRing,
    objects: Vec<PlacedPolicy>,
    policies: Arc<Policies>,
}

struct PlacedPolicy {
    placed: PlacedRing,
    codec: Option<Arc<Codec>>,
    mode: Mode,
}

impl PlacedPolicy {
    fn new(policy: Policy, nodes: &Nodes) -> Result<PlacedPolicy, PlacementError> {
        policy.check()?;
        let codec = match policy.protection {
            Protection::Replicated => None,
            Protection::Erasure(code) => Some(Arc::new(Codec::new(code))),
        };
        Ok(PlacedPolicy { mode: policy.mode, placed: PlacedRing::new(policy.ring, nodes)?, codec })
    }
}

impl Map {
    /// Finds the devices of all rings.
    pub fn new(placement: Placement, nodes: &Nodes) -> Result<Map, PlacementError> {
        let label =
            |policy: &Policy| PolicyLabel { name: policy.name.clone(), deprecated: policy.deprecated };
        let labels = placement.objects.iter().map(label).collect();
        let policies = Arc::new(Policies::new(labels, placement.default_policy));
        let objects = placement.objects.into_iter().map(|policy| PlacedPolicy::new(policy, nodes));
        Ok(Map {
            key: placement.key,
            nodes: nodes.clone(),
            accounts: PlacedRing::new(placement.accounts, nodes)?,
            containers: PlacedRing::new(placement.containers, nodes)?,
            objects: objects.collect::<Result<_, _>>()?,
            policies,
        })
    }

    /// The storage policies as clients see them.
    pub fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// Where an account lies.
    pub fn account(&self, account: &str) -> DirectoryKey {
        DirectoryKey { hash: self.key.hash(account.as_bytes()) }
    }

    /// Where a container (`account/container`) lies.
    pub fn container(&self, path: &str) -> DirectoryKey {
        DirectoryKey { hash: self.key.hash(path.as_bytes()) }
    }

    /// Where an object lies.
    pub fn object(&self, path: &ObjectPath, policy: PolicyIndex) -> Result<ObjectKey, NodeError> {
        self.policy(policy)?;
        Ok(ObjectKey { policy, hash: self.key.hash(path.as_str().as_bytes()) })
    }

    /// Where a block lies.
    pub fn block(&self, policy: PolicyIndex, data: DataId, index: u32) -> Result<BlockKey, NodeError> {
        self.policy(policy)?;
        let place = self.key.hash(&BlockKey::placement_name(data, index)).place();
        Ok(BlockKey { policy, place, data, index })
    }

    /// The devices that hold an account.
    pub fn account_replicas(&self, key: DirectoryKey) -> Vec<Replica> {
        self.accounts.replicas_of(key.place())
    }

    /// The devices that hold a container.
    pub fn container_replicas(&self, key: DirectoryKey) -> Vec<Replica> {
        self.containers.replicas_of(key.place())
    }

    /// The devices that hold the records of a place.
    pub fn object_replicas(&self, policy: PolicyIndex, place: Place) -> Result<Vec<Replica>, NodeError> {
        self.replicas(Tree::Objects(policy), self.partition_of(Tree::Objects(policy), place)?)
    }

    /// The devices that hold the blocks of a place: under an erasure code one for each fragment, in order.
    pub fn block_replicas(&self, policy: PolicyIndex, place: Place) -> Result<Vec<Replica>, NodeError> {
        Ok(self.policy(policy)?.placed.replicas_of(place))
    }

    /// The node of a name, as replicas name it.
    pub fn node(&self, name: &str) -> Option<&Arc<dyn StorageNode>> {
        self.nodes.get(name)
    }

    /// Every tree that a device may have something of.
    pub fn trees(&self) -> Vec<Tree> {
        let policies = (0..self.objects.len()).map(|policy| PolicyIndex(policy as u16));
        let trees = policies.flat_map(|policy| [Tree::Objects(policy), Tree::Blocks(policy)]);
        [Tree::Accounts, Tree::Containers].into_iter().chain(trees).collect()
    }

    /// All partitions of a tree's ring.
    pub fn partitions(&self, tree: Tree) -> Result<Partitions, NodeError> {
        Ok(self.ring_of(tree)?.ring.all_partitions())
    }

    /// The partition of a tree's ring that something is in.
    pub fn partition_of(&self, tree: Tree, place: Place) -> Result<Partition, NodeError> {
        Ok(self.ring_of(tree)?.ring.partition_of(place))
    }

    /// The devices that hold a partition of a tree; none that hold one of another power.
    pub fn replicas(&self, tree: Tree, partition: Partition) -> Result<Vec<Replica>, NodeError> {
        let mut replicas = self.ring_of(tree)?.replicas(partition);
        if let Tree::Objects(policy) = tree
            && self.policy(policy)?.codec.is_some()
        {
            replicas.truncate(RECORD_REPLICAS);
        }
        Ok(replicas)
    }

    /// The devices that stand in for those of a place, in their order.
    pub fn handoffs(&self, tree: Tree, place: Place) -> Result<Vec<Replica>, NodeError> {
        let placed = self.ring_of(tree)?;
        let found = placed.ring.handoffs(placed.ring.partition_of(place));
        Ok(found.filter_map(|device| placed.devices.get(device.id as usize).cloned().flatten()).collect())
    }

    /// The devices on which anything of a place may be: those that hold it, and of those that stand in for
    /// them the first of each region, [`STAND_INS`] for each replica. Writers look for no others, so readers need
    /// not.
    pub fn near_seats(&self, tree: Tree, place: Place) -> Result<Vec<Seat>, NodeError> {
        let placed = self.ring_of(tree)?;
        let partition = placed.ring.partition_of(place);
        let most = STAND_INS * self.replicas(tree, partition)?.len();
        let (mut seats, mut full) = (Vec::new(), 0);
        let mut taken: HashMap<u32, usize> = HashMap::new();
        for seat in placed.seats(partition) {
            let count = taken.entry(seat.region).or_default();
            if !seat.primary {
                *count += 1;
                full += usize::from(*count == most);
            }
            if seat.primary || *count <= most {
                seats.push(seat);
            }
            if full == placed.regions {
                break;
            }
        }
        Ok(seats)
    }

    fn ring_of(&self, tree: Tree) -> Result<&PlacedRing, NodeError> {
        Ok(match tree {
            Tree::Accounts => &self.accounts,
            Tree::Containers => &self.containers,
            Tree::Objects(policy) | Tree::Blocks(policy) => &self.policy(policy)?.placed,
        })
    }

    /// What the policy does when a majority does not answer.
    pub fn mode(&self, policy: PolicyIndex) -> Result<Mode, NodeError> {
        Ok(self.policy(policy)?.mode)
    }

    /// What cuts the policy's blocks, if anything does.
    pub fn codec(&self, policy: PolicyIndex) -> Result<Option<Arc<Codec>>, NodeError> {
        Ok(self.policy(policy)?.codec.clone())
    }

    fn policy(&self, policy: PolicyIndex) -> Result<&PlacedPolicy, NodeError> {
        let missing = || NodeError::Unavailable(format!("storage policy {} has no ring", policy.0));
        self.objects.get(usize::from(policy.0)).ok_or_else(missing)
    }
}
