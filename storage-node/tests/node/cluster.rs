//! Several real nodes in one process, and a map over them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kodiak_ring::{NewDevice, PlacementKey, Ring, RingBuilder};
use kodiak_storage_api::jobs::{Jobs, Pace};
use kodiak_storage_api::{
    BlockKey, BlockWrite, Clock, DataId, DeviceIndex, DirectoryChange, DirectoryWrite, Map, NodeError, Nodes,
    ObjectPath, ObjectWrite, Placement, Policy, PolicyIndex, Protection, Replica, Row, RowDurability, Stamp,
    StorageNode, Timestamp, Tree, Version,
};
use kodiak_storage_node::repair::heal::Healer;
use kodiak_storage_node::repair::replicator::{self, Pass, PassJobs};
use kodiak_storage_node::{Node, NodeSettings};

use crate::rig::{record, settings};

pub const POLICY: PolicyIndex = PolicyIndex(0);
pub const TREES: [Tree; 4] = [Tree::Accounts, Tree::Containers, Tree::Objects(POLICY), Tree::Blocks(POLICY)];

pub struct Cluster {
    folders: Vec<tempfile::TempDir>,
    pub nodes: Vec<Arc<Node>>,
    pub clock: Arc<Clock>,
    builder: RingBuilder,
    pub map: Arc<Map>,
    protection: Protection,
}

fn name(node: usize) -> String {
    format!("n{node}")
}

fn small(folder: &std::path::Path) -> NodeSettings {
    NodeSettings { index_cache: 2 << 20, index_buffers: 2 << 20, ..settings(folder, 1) }
}

impl Cluster {
    /// `count` nodes of one device each; the first three (or fewer) are in the rings.
    pub fn new(count: usize) -> Cluster {
        Cluster::protected(count, Protection::Replicated)
    }

    /// The same with another protection of blocks.
    pub fn protected(count: usize, protection: Protection) -> Cluster {
        let clock = Arc::new(Clock::system(1));
        let folders: Vec<_> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let open = |folder: &tempfile::TempDir| Node::open(small(folder.path()), clock.clone()).unwrap();
        let nodes: Vec<_> = folders.iter().map(open).collect();
        let mut builder = RingBuilder::new(4, count.min(3) as f64, 0, 1).unwrap();
        for node in 0..count.min(3) {
            builder.add_device(NewDevice::new(0, 0, &name(node), "d1")).unwrap();
        }
        builder.rebalance(1).unwrap();
        let map = map(&builder.ring().unwrap(), &nodes, protection);
        Cluster { folders, nodes, clock, builder, map, protection }
    }

    /// Puts another ring in force.
    pub fn change(&mut self, change: impl FnOnce(&mut RingBuilder)) {
        change(&mut self.builder);
        self.builder.forget_moves();
        self.builder.rebalance(2).unwrap();
        self.map = map(&self.builder.ring().unwrap(), &self.nodes, self.protection);
    }

    /// Replaces a node's disk by an empty one.
    pub fn wipe(&mut self, node: usize) {
        self.nodes[node].shutdown();
        self.folders[node] = tempfile::tempdir().unwrap();
        self.nodes[node] = Node::open(small(self.folders[node].path()), self.clock.clone()).unwrap();
        self.map = map(&self.builder.ring().unwrap(), &self.nodes, self.protection);
    }

    pub fn folder(&self, node: usize) -> &std::path::Path {
        self.folders[node].path()
    }

    pub fn replica(&self, node: usize) -> Replica {
        Replica { node: self.nodes[node].clone(), device: DeviceIndex(0) }
    }

    pub fn healer(&self) -> Healer {
        let pace = Arc::new(Pace::new(1 << 40));
        Healer { map: self.map.clone(), clock: self.clock.clone(), pace, quiet: Duration::ZERO }
    }

    /// A pass over each of these nodes.
    pub async fn pass(&self, nodes: &[usize]) -> Pass {
        let (mut all, jobs) = (Pass::default(), Jobs::new(self.clock.clone()));
        for node in nodes {
            let jobs = PassJobs::of(&jobs, &name(*node), 1);
            let pass = replicator::pass(&self.healer(), &self.replica(*node), true, &jobs).await.unwrap();
            all.differing += pass.differing;
            all.handed_back += pass.handed_back;
            all.waiting += pass.waiting;
            all.healed.add(pass.healed);
        }
        all
    }

    pub async fn create(&self, name: &str, on: &[usize]) {
        let create = DirectoryChange::Create { policy: POLICY, headers: Vec::new() };
        assert!(self.directory(name, create, on).await.all(|done| done.is_ok()));
    }

    pub async fn directory(
        &self,
        name: &str,
        change: DirectoryChange,
        on: &[usize],
    ) -> impl Iterator<Item = Result<(), NodeError>> + use<> {
        let key = if name.contains('/') { self.map.container(name) } else { self.map.account(name) };
        let timestamp = self.clock.now();
        let mut done = Vec::new();
        for node in on {
            let write = DirectoryWrite { key, name: name.into(), timestamp, change: change.clone() };
            done.push(self.nodes[*node].write_directory(DeviceIndex(0), write).await.map(drop));
        }
        done.into_iter()
    }

    /// Writes a version to some nodes, and its row to the same. Whether each took it.
    pub async fn write(&self, name: &str, body: Option<&[u8]>, on: &[usize]) -> (Timestamp, Vec<bool>) {
        let at = self.clock.now();
        let path = ObjectPath::parse(name).unwrap();
        let key = self.map.object(&path, POLICY).unwrap();
        let version = match body {
            Some(body) => Version::Live(record(at, body.len() as u64)),
            None => Version::Deleted(at),
        };
        let mut taken = Vec::new();
        for node in on {
            let write = ObjectWrite {
                key,
                path: path.clone(),
                version: version.clone(),
                stamp: Stamp::first(at),
                expect: None,
                inline: body.map(Bytes::copy_from_slice).into_iter().collect(),
                row: None,
            };
            let node = &self.nodes[*node];
            let written = node.write_object(DeviceIndex(0), write).await;
            let rows: Vec<Row> = vec![version.row(&path, at)];
            let directory = self.map.container(path.container_path());
            let rows = node.write_rows(DeviceIndex(0), directory, rows, RowDurability::Synced).await;
            taken.push(written.is_ok() && rows.is_ok());
        }
        (at, taken)
    }

    pub async fn read(&self, node: usize, name: &str) -> Result<Option<Bytes>, NodeError> {
        let path = ObjectPath::parse(name).unwrap();
        let key = self.map.object(&path, POLICY).unwrap();
        let stored = self.nodes[node].read_object(DeviceIndex(0), key, true).await?;
        Ok(stored.filter(|s| s.version.live().is_some()).and_then(|s| s.inline))
    }

    pub fn block(&self, data: u8, index: u32) -> BlockKey {
        self.map.block(POLICY, DataId([data; 16]), index).unwrap()
    }

    pub async fn put_block(&self, key: BlockKey, body: &[u8], on: &[usize]) {
        for node in on {
            let write = BlockWrite {
                key,
                owner: ObjectPath::new("a", "c", "big"),
                digest: *blake3::hash(body).as_bytes(),
                data: vec![Bytes::copy_from_slice(body)],
            };
            self.nodes[*node].write_block(DeviceIndex(0), write).await.unwrap();
        }
    }

    /// Whether these nodes have the same in every tree.
    pub async fn equal(&self, nodes: &[usize]) -> bool {
        for tree in TREES {
            let mut all = Vec::new();
            for node in nodes {
                all.push(
                    self.nodes[*node]
                        .digests(DeviceIndex(0), tree, self.map.partitions(tree).unwrap())
                        .await
                        .unwrap(),
                );
            }
            if all.windows(2).any(|pair| pair[0] != pair[1]) {
                return false;
            }
        }
        true
    }

    /// Whether a node has nothing.
    pub async fn empty(&self, node: usize) -> bool {
        for tree in TREES {
            if !self.nodes[node]
                .digests(DeviceIndex(0), tree, self.map.partitions(tree).unwrap())
                .await
                .unwrap()
                .is_empty()
            {
                return false;
            }
        }
        true
    }
}

fn map(ring: &Ring, nodes: &[Arc<Node>], protection: Protection) -> Arc<Map> {
    let by_name: Nodes = nodes
        .iter()
        .enumerate()
        .map(|(index, node)| (name(index), node.clone() as Arc<dyn StorageNode>))
        .collect::<HashMap<_, _>>();
    let placement = Placement {
        key: PlacementKey::new([7; 32]),
        accounts: ring.clone(),
        containers: ring.clone(),
        objects: vec![Policy::new(ring.clone(), protection)],
        default_policy: PolicyIndex(0),
    };
    Arc::new(Map::new(placement, &by_name).unwrap())
}
