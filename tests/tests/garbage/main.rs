//! Garbage collection deletes what no record names, and nothing else: the real coordinator over a real
//! node with three devices.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use kodiak_proxy::store::{Collector, Mode, NewObject, Placement, Precondition, SharedStore, Store};
use kodiak_ring::{NewDevice, PlacementKey, RingBuilder};
use kodiak_storage_api::jobs::{JobKind, Jobs, LocalDevice};
use kodiak_storage_api::{
    BlockKey, BlockWrite, BucketSet, Clock, DataId, DeviceIndex, Extent, ItemKey, Layout, Nodes, ObjectPath,
    Policy, PolicyIndex, Protection, ScanQuery, StorageNode, Tree,
};
use kodiak_storage_node::{DeviceSettings, Node, NodeSettings};

const POLICY: PolicyIndex = PolicyIndex(0);
const SIZE: usize = 600_000;

struct Rig {
    _folder: tempfile::TempDir,
    node: Arc<Node>,
    store: SharedStore,
    jobs: Arc<Jobs>,
}

impl Rig {
    async fn new() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let device =
            |i: u32| DeviceSettings { name: format!("d{i}"), path: folder.path().join(format!("d{i}")) };
        let settings = NodeSettings {
            devices: (1..=3).map(device).collect(),
            index_cache: 4 << 20,
            index_buffers: 4 << 20,
            allocate_step: 1 << 20,
            ..NodeSettings::default()
        };
        let clock = Arc::new(Clock::system(1));
        let node = Node::open(settings, clock.clone()).unwrap();
        let mut builder = RingBuilder::new(4, 3.0, 0, 1).unwrap();
        for i in 1..=3 {
            builder.add_device(NewDevice::new(0, 0, "n", &format!("d{i}"))).unwrap();
        }
        builder.rebalance(1).unwrap();
        let ring = builder.ring().unwrap();
        let placement = Placement {
            key: PlacementKey::new([7; 32]),
            accounts: ring.clone(),
            containers: ring.clone(),
            objects: vec![Policy::new(ring, Protection::Replicated)],
            default_policy: PolicyIndex(0),
        };
        let nodes: Nodes = [("n".to_owned(), node.clone() as Arc<dyn StorageNode>)].into_iter().collect();
        let store = Store::new(placement, &nodes, clock.clone()).unwrap();
        store.create_account("a", Vec::new()).await.unwrap();
        store.create_container("a", "c", POLICY, Vec::new()).await.unwrap();
        Rig { _folder: folder, node, store, jobs: Jobs::new(clock) }
    }

    async fn upload(
        &self,
        path: &ObjectPath,
        heir: Option<&ObjectPath>,
        fill: u8,
    ) -> kodiak_proxy::store::Staged {
        let mut upload = self.store.upload(path.clone(), POLICY, true);
        if let Some(heir) = heir {
            upload = upload.part_of(heir);
        }
        upload.write(Bytes::from(vec![fill; SIZE])).await.unwrap();
        upload.finish().await.unwrap()
    }

    async fn put(&self, path: &ObjectPath, heir: Option<&ObjectPath>, fill: u8) -> Vec<Extent> {
        let staged = self.upload(path, heir, fill).await;
        let record = self.store.commit(staged, NewObject::default(), Precondition::None).await.unwrap();
        match record.layout {
            Layout::Extents(extents) => extents,
            other => panic!("{other:?}"),
        }
    }

    async fn orphan(&self, data: u8, owner: &ObjectPath) -> BlockKey {
        let key = self.store.current_map().block(POLICY, DataId([data; 16]), 0).unwrap();
        for replica in self.store.current_map().block_replicas(POLICY, key.place).unwrap() {
            let write = BlockWrite {
                key,
                owner: owner.clone(),
                digest: *blake3::hash(b"orphan").as_bytes(),
                data: vec![Bytes::from_static(b"orphan")],
            };
            replica.node.write_block(replica.device, write).await.unwrap();
        }
        key
    }

    fn collector(&self, index: DeviceIndex, folder: Option<PathBuf>) -> Collector {
        let device = LocalDevice { index, name: format!("d{}", index.0), folder };
        let node = self.node.clone() as Arc<dyn StorageNode>;
        self.store.collector(&node, &device, (&self.jobs, 1 << 30))
    }

    async fn collect(&self, grace: Duration) -> u64 {
        let mut deleted = 0;
        for device in self.node.device_indexes() {
            deleted += self.collector(device, None).collect(grace).await.unwrap();
        }
        deleted
    }

    async fn blocks(&self) -> usize {
        let (mut count, tree) = (0, Tree::Blocks(POLICY));
        for device in self.node.device_indexes() {
            for (partition, _) in self
                .node
                .digests(device, tree, self.store.current_map().partitions(tree).unwrap())
                .await
                .unwrap()
            {
                let query =
                    ScanQuery { tree, partition, buckets: BucketSet::ALL, after: None, limit: 10_000 };
                let page = self.node.scan(device, query).await.unwrap();
                count += page.items.iter().filter(|item| matches!(item.key, ItemKey::Block(_))).count();
            }
        }
        count
    }

    async fn reads(&self, path: &ObjectPath, fill: u8) {
        let object = self.store.open(path, POLICY).await.unwrap();
        let size = object.record().size;
        let pieces: Vec<Bytes> = object.read(0..size).try_collect().await.unwrap();
        let body = pieces.concat();
        assert!(!body.is_empty() && body.iter().all(|byte| *byte == fill), "{path}");
    }
}

fn path(name: &str) -> ObjectPath {
    ObjectPath::new("a", "c", name)
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_no_record_names_go_and_all_others_stay() {
    let rig = Rig::new().await;
    rig.put(&path("plain"), None, 1).await;
    // A part whose extents an object has taken over.
    let part = ObjectPath::new("\0parts\0a", "c", "id\x0000001");
    rig.store.create_container("\0parts\0a", "c", POLICY, Vec::new()).await.unwrap();
    let extents = rig.put(&part, Some(&path("assembled")), 2).await;
    let object = NewObject { etag: Some("e-1".into()), ..NewObject::default() };
    rig.store.assemble(path("assembled"), POLICY, extents, object, Precondition::None).await.unwrap();
    rig.store.forget(&part, POLICY).await.unwrap();
    // A part that waits to be completed.
    let waiting = ObjectPath::new("\0parts\0a", "c", "id\x0000002");
    rig.put(&waiting, Some(&path("later")), 3).await;
    // An object that was there before its container kept versions, two versions of it, and a link.
    rig.put(&path("versioned"), None, 4).await;
    for fill in [5, 6] {
        let staged = rig.upload(&path("versioned"), None, fill).await;
        let written = rig.store.commit_as(Mode::Keep, staged, NewObject::default(), Precondition::None);
        written.await.unwrap();
    }
    let before = rig.blocks().await;
    let orphans = [
        rig.orphan(101, &path("plain")).await,
        rig.orphan(102, &path("never")).await,
        rig.orphan(103, &path("versioned")).await,
    ];
    // Nobody knows what it is a part of.
    rig.orphan(104, &ObjectPath::new("\0parts\0a", "c", "id\x0000003")).await;
    assert_eq!(rig.collect(Duration::from_secs(3600)).await, 0, "all are too young");
    assert_eq!(rig.collect(Duration::ZERO).await, 3 * orphans.len() as u64);
    assert_eq!(rig.blocks().await, before + 3);
    for (name, fill) in [("plain", 1), ("assembled", 2), ("versioned", 6)] {
        rig.reads(&path(name), fill).await;
    }
    let waiting = rig.store.open(&waiting, POLICY).await.unwrap();
    assert_eq!(waiting.read(0..SIZE as u64).try_collect::<Vec<Bytes>>().await.unwrap().concat().len(), SIZE);
    assert_eq!(rig.collect(Duration::ZERO).await, 0);
    rig.node.shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_when_the_owner_cannot_be_asked() {
    let rig = Rig::new().await;
    let key = rig.orphan(101, &path("gone")).await;
    let map = rig.store.current_map();
    let owner = map.object(&path("gone"), POLICY).unwrap();
    let records = map.object_replicas(POLICY, owner.place()).unwrap();
    assert_eq!(records.len(), 3);
    // Two of the three devices have been given the partition of the owner's record just now.
    let tree = Tree::Objects(POLICY);
    let partition = map.partition_of(tree, owner.place()).unwrap();
    for replica in &records[..2] {
        let assigned = kodiak_storage_node::Assignment {
            tree,
            power: partition.power(),
            partitions: vec![partition],
            begins: kodiak_storage_node::Begins::Lacking,
        };
        rig.node.adopt(replica.device, &[assigned]).unwrap();
    }
    assert_eq!(rig.collect(Duration::ZERO).await, 0);
    for replica in map.block_replicas(POLICY, key.place).unwrap() {
        assert!(replica.node.read_block(replica.device, key, 0..6).await.is_ok());
    }
    rig.node.shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_goes_on_where_a_restart_interrupted_it() {
    let rig = Rig::new().await;
    let mut keys = Vec::new();
    for data in 1..=20 {
        keys.push(rig.orphan(data, &path("never")).await);
    }
    let map = rig.store.current_map();
    let number = |key: &BlockKey| map.partition_of(Tree::Blocks(POLICY), key.place).unwrap().number();
    let mut partitions: Vec<u32> = keys.iter().map(number).collect();
    partitions.sort_unstable();
    partitions.dedup();
    let middle = partitions[partitions.len() / 2];
    // What a process that is killed there leaves behind.
    let (folder, device) = (tempfile::tempdir().unwrap(), DeviceIndex(0));
    let kept = format!("{{\"after\":[{{\"Blocks\":0}},[4,{middle}]],\"ended\":0}}");
    std::fs::write(folder.path().join("garbage.json"), kept).unwrap();
    let collector = rig.collector(device, Some(folder.path().to_owned()));
    let behind = keys.iter().filter(|key| number(key) > middle).count() as u64;
    assert_eq!(collector.collect(Duration::ZERO).await.unwrap(), behind);
    let last = rig.jobs.job(JobKind::Garbage, "d0", 1).status().last.unwrap();
    assert_eq!(
        (last.done, last.tally.changed),
        (partitions.len() as u64, behind),
        "what was done before counts"
    );
    // The next one begins at the beginning.
    assert_eq!(collector.collect(Duration::ZERO).await.unwrap(), keys.len() as u64 - behind);
    rig.node.shutdown();
}
