//! From names to the replicas that hold them.

use std::collections::HashMap;
use std::sync::Arc;

use kodiak_ring::{KeyHash, Partition, PlacementKey, PolicyIndex, Ring};

use crate::{BlockKey, DataId, DeviceIndex, DirectoryKey, NodeError, ObjectKey, ObjectPath, StorageNode};

/// Where things lie: the rings and the key that hashes names.
#[derive(Clone)]
pub struct Placement {
    /// Hashes names.
    pub key: PlacementKey,
    /// Ring of the accounts.
    pub accounts: Ring,
    /// Ring of the containers.
    pub containers: Ring,
    /// One ring a policy, by [`PolicyIndex`].
    pub objects: Vec<Ring>,
}

/// The storage nodes by their names in the rings.
pub type Nodes = HashMap<String, Arc<dyn StorageNode>>;

/// A ring names a device that no node has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ring names device {device} of node {node}, which is not there")]
pub struct NoSuchDevice {
    /// Node of the ring.
    pub node: String,
    /// Device of the ring.
    pub device: String,
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
    /// Whether both are devices of one node.
    pub fn shares_node(&self, other: &Replica) -> bool {
        Arc::ptr_eq(&self.node, &other.node)
    }
}

/// A ring whose devices have been found.
struct PlacedRing {
    ring: Ring,
    /// By the ring's device ids.
    devices: Vec<Option<Replica>>,
}

impl PlacedRing {
    fn new(ring: Ring, nodes: &Nodes) -> Result<PlacedRing, NoSuchDevice> {
        let mut devices = Vec::new();
        for device in ring.devices() {
            let missing = || NoSuchDevice { node: device.node.clone(), device: device.name.clone() };
            let node = nodes.get(&device.node).ok_or_else(missing)?;
            let index = node.device(&device.name).ok_or_else(missing)?;
            let id = device.id as usize;
            if devices.len() <= id {
                devices.resize(id + 1, None);
            }
            devices[id] = Some(Replica { node: node.clone(), device: index });
        }
        Ok(PlacedRing { ring, devices })
    }

    fn partition(&self, hash: KeyHash) -> Partition {
        hash.partition(self.ring.part_power())
    }

    fn replicas(&self, partition: Partition) -> Vec<Replica> {
        let found = self.ring.primaries(partition);
        found.filter_map(|device| self.devices.get(device.id as usize).cloned().flatten()).collect()
    }
}

/// [`Placement`] with the devices behind it.
pub struct Map {
    key: PlacementKey,
    accounts: PlacedRing,
    containers: PlacedRing,
    objects: Vec<PlacedRing>,
}

impl Map {
    /// Finds the devices of all rings.
    pub fn new(placement: Placement, nodes: &Nodes) -> Result<Map, NoSuchDevice> {
        let objects = placement.objects.into_iter().map(|ring| PlacedRing::new(ring, nodes));
        Ok(Map {
            key: placement.key,
            accounts: PlacedRing::new(placement.accounts, nodes)?,
            containers: PlacedRing::new(placement.containers, nodes)?,
            objects: objects.collect::<Result<_, _>>()?,
        })
    }

    /// Where an account lies.
    pub fn account(&self, account: &str) -> DirectoryKey {
        let hash = self.key.hash(account.as_bytes());
        DirectoryKey { partition: self.accounts.partition(hash), hash }
    }

    /// Where a container (`account/container`) lies.
    pub fn container(&self, path: &str) -> DirectoryKey {
        let hash = self.key.hash(path.as_bytes());
        DirectoryKey { partition: self.containers.partition(hash), hash }
    }

    /// Where an object lies.
    pub fn object(&self, path: &ObjectPath, policy: PolicyIndex) -> Result<ObjectKey, NodeError> {
        let hash = self.key.hash(path.as_str().as_bytes());
        Ok(ObjectKey { policy, partition: self.policy(policy)?.partition(hash), hash })
    }

    /// Where a block lies.
    pub fn block(&self, policy: PolicyIndex, data: DataId, index: u32) -> Result<BlockKey, NodeError> {
        let hash = self.key.hash(&BlockKey::placement_name(data, index));
        Ok(BlockKey { policy, partition: self.policy(policy)?.partition(hash), data, index })
    }

    /// The devices that hold an account.
    pub fn account_replicas(&self, key: DirectoryKey) -> Vec<Replica> {
        self.accounts.replicas(key.partition)
    }

    /// The devices that hold a container.
    pub fn container_replicas(&self, key: DirectoryKey) -> Vec<Replica> {
        self.containers.replicas(key.partition)
    }

    /// The devices of a partition of an object ring: of records and of blocks.
    pub fn object_replicas(
        &self,
        policy: PolicyIndex,
        partition: Partition,
    ) -> Result<Vec<Replica>, NodeError> {
        Ok(self.policy(policy)?.replicas(partition))
    }

    /// Every device of every ring, once.
    pub fn devices(&self) -> Vec<Replica> {
        let rings = [&self.accounts, &self.containers].into_iter().chain(&self.objects);
        let mut all: Vec<Replica> = Vec::new();
        for replica in rings.flat_map(|ring| ring.devices.iter().flatten()) {
            if !all.iter().any(|seen| seen.device == replica.device && seen.shares_node(replica)) {
                all.push(replica.clone());
            }
        }
        all
    }

    fn policy(&self, policy: PolicyIndex) -> Result<&PlacedRing, NodeError> {
        let missing = || NodeError::Unavailable(format!("storage policy {} has no ring", policy.0));
        self.objects.get(usize::from(policy.0)).ok_or_else(missing)
    }
}
