//! A policy whose mode is `available` beside one that is `strict`: three machines with real nodes, one of them
//! cut off from the others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod link;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use kodiak_proxy::store::{NewObject, Placement, Precondition, SharedStore, Store, StoreError};
use kodiak_ring::{NewDevice, PlacementKey, RingBuilder};
use kodiak_storage_api::jobs::{Jobs, Pace};
use kodiak_storage_api::{
    Clock, Entry, ListQuery, Mode, Nodes, ObjectPath, Policy, PolicyIndex, Protection, Replica, StorageNode,
};
use kodiak_storage_node::repair::heal::Healer;
use kodiak_storage_node::repair::replicator::{self, Pass, PassJobs};
use kodiak_storage_node::{DeviceSettings, Node, NodeSettings};
use link::Link;
use tokio::sync::watch;

const STRICT: PolicyIndex = PolicyIndex(0);
const AVAILABLE: PolicyIndex = PolicyIndex(1);
const MACHINES: usize = 3;
const DEVICES: usize = 3;
const LARGE: usize = 600_000;

struct Cluster {
    _folders: Vec<tempfile::TempDir>,
    nodes: Vec<Arc<Node>>,
    /// A machine's ways to all nodes.
    links: Vec<Vec<Arc<Link>>>,
    stores: Vec<SharedStore>,
    clocks: Vec<Arc<Clock>>,
    stop: watch::Sender<bool>,
}

fn placement() -> Placement {
    let mut builder = RingBuilder::new(4, 3.0, 0, 1).unwrap();
    for (node, device) in (0..MACHINES).flat_map(|node| (0..DEVICES).map(move |device| (node, device))) {
        let device = NewDevice::new(1, node as u32 + 1, &format!("n{node}"), &format!("d{device}"));
        builder.add_device(device).unwrap();
    }
    builder.rebalance(1).unwrap();
    let ring = builder.ring().unwrap();
    let policy = |mode| Policy { mode, ..Policy::new(ring.clone(), Protection::Replicated) };
    Placement {
        key: PlacementKey::new([7; 32]),
        accounts: ring.clone(),
        containers: ring.clone(),
        objects: vec![policy(Mode::Strict), policy(Mode::Available)],
        default_policy: STRICT,
    }
}

impl Cluster {
    async fn new() -> Cluster {
        let folders: Vec<_> = (0..MACHINES).map(|_| tempfile::tempdir().unwrap()).collect();
        let clocks: Vec<_> = (0..MACHINES).map(|i| Arc::new(Clock::system(i as u32 + 1))).collect();
        let open = |(folder, clock): (&tempfile::TempDir, &Arc<Clock>)| {
            let device = |i: usize| DeviceSettings {
                name: format!("d{i}"),
                path: folder.path().join(format!("d{i}")),
            };
            let settings = NodeSettings {
                devices: (0..DEVICES).map(device).collect(),
                index_cache: 2 << 20,
                index_buffers: 2 << 20,
                allocate_step: 1 << 20,
                ..NodeSettings::default()
            };
            Node::open(settings, clock.clone()).unwrap()
        };
        let nodes: Vec<_> = folders.iter().zip(&clocks).map(open).collect();
        let link = |node: &Arc<Node>| Arc::new(Link { node: node.clone(), cut: AtomicBool::new(false) });
        let links: Vec<Vec<_>> = (0..MACHINES).map(|_| nodes.iter().map(link).collect()).collect();
        let store = |(ways, clock): (&Vec<Arc<Link>>, &Arc<Clock>)| {
            let named =
                |(i, way): (usize, &Arc<Link>)| (format!("n{i}"), way.clone() as Arc<dyn StorageNode>);
            let nodes: Nodes = ways.iter().enumerate().map(named).collect();
            Store::new(placement(), &nodes, clock.clone()).unwrap()
        };
        let stores: Vec<SharedStore> = links.iter().zip(&clocks).map(store).collect();
        let ((stop, stopped), jobs) = (watch::channel(false), Jobs::new(clocks[0].clone()));
        for (store, node) in stores.iter().zip(&nodes) {
            let own: Arc<dyn StorageNode> = node.clone();
            store.run_workers(&own, &node.local_devices(), (&jobs, 1000), &stopped);
        }
        stores[0].create_account("a", Vec::new()).await.unwrap();
        stores[0].create_container("a", "strict", STRICT, Vec::new()).await.unwrap();
        stores[0].create_container("a", "available", AVAILABLE, Vec::new()).await.unwrap();
        Cluster { _folders: folders, nodes, links, stores, clocks, stop }
    }

    /// Cuts a machine off from all others, or joins it again.
    fn cut(&self, machine: usize, cut: bool) {
        for other in (0..MACHINES).filter(|other| *other != machine) {
            self.links[machine][other].cut.store(cut, Ordering::SeqCst);
            self.links[other][machine].cut.store(cut, Ordering::SeqCst);
        }
    }

    /// One pass of the repair over all devices.
    async fn pass(&self) -> Pass {
        let (mut all, jobs) = (Pass::default(), Jobs::new(self.clocks[0].clone()));
        for machine in 0..MACHINES {
            let (map, clock) = (self.stores[machine].current_map(), self.clocks[machine].clone());
            let node = map.node(&format!("n{machine}")).unwrap().clone();
            let pace = Arc::new(Pace::new(1 << 40));
            let healer = Healer { map, clock, pace, quiet: Duration::ZERO };
            let jobs = PassJobs::of(&jobs, &format!("n{machine}"), 1);
            for device in self.nodes[machine].device_indexes() {
                let local = Replica { node: node.clone(), device };
                let pass = replicator::pass(&healer, &local, true, &jobs).await.unwrap();
                all.differing += pass.differing;
                all.waiting += pass.waiting;
                all.handed_back += pass.handed_back;
                all.healed.add(pass.healed);
            }
        }
        all
    }

    /// Passes until nothing is left to do.
    async fn settle(&self) {
        for _ in 0..10 {
            let pass = self.pass().await;
            if (pass.differing, pass.waiting, pass.handed_back) == (0, 0, 0) {
                return;
            }
        }
        panic!("the replicas do not come together: {:?}", self.pass().await);
    }

    fn end(self) {
        self.stop.send_replace(true);
        self.nodes.iter().for_each(|node| node.shutdown());
    }
}

fn path(container: &str, name: &str) -> ObjectPath {
    ObjectPath::new("a", container, name)
}

fn policy(container: &str) -> PolicyIndex {
    if container == "strict" { STRICT } else { AVAILABLE }
}

/// Small bodies lie with their records, large ones in blocks.
fn body(name: &str, fill: u8) -> Bytes {
    vec![fill; if name.starts_with("large") { LARGE } else { 100 }].into()
}

async fn put(
    store: &SharedStore,
    (container, name): (&str, &str),
    fill: u8,
    condition: Precondition,
) -> Result<(), StoreError> {
    let info = store.container("a", container).await?;
    let mut upload = store.upload(path(container, name), info.directory.policy, false);
    upload.write(body(name, fill)).await?;
    store.commit(upload.finish().await?, NewObject::default(), condition).await.map(drop)
}

async fn get(store: &SharedStore, container: &str, name: &str) -> Result<Bytes, StoreError> {
    let info = store.container("a", container).await?;
    let object = store.open(&path(container, name), info.directory.policy).await?;
    let size = object.record().size;
    Ok(object.read(0..size).try_collect::<Vec<Bytes>>().await?.concat().into())
}

async fn list(store: &SharedStore, container: &str) -> Result<Vec<String>, StoreError> {
    let query = ListQuery { limit: 1000, ..ListQuery::default() };
    let page = store.list_objects("a", container, query).await?;
    Ok(page.entries.iter().map(|entry| Entry::name(entry).to_owned()).collect())
}

async fn delete(store: &SharedStore, container: &str, name: &str) -> Result<(), StoreError> {
    store.delete_object(&path(container, name), policy(container), Precondition::None).await.map(drop)
}

fn is_unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Unavailable(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_cut_off_goes_on_in_an_available_container_only() {
    let cluster = Cluster::new().await;
    let (alone, others) = (&cluster.stores[0], &cluster.stores[1]);
    let names = ["small", "large", "gone", "large-gone", "replaced", "large-replaced"];
    for (container, name) in ["strict", "available"].iter().flat_map(|c| names.map(|name| (*c, name))) {
        put(others, (container, name), 1, Precondition::None).await.unwrap();
    }
    cluster.settle().await;
    cluster.cut(0, true);

    // The machine that is alone: nothing of the strict container, all of the other.
    assert!(is_unavailable(put(alone, ("strict", "new"), 2, Precondition::None).await));
    assert!(is_unavailable(get(alone, "strict", "small").await));
    assert!(is_unavailable(list(alone, "strict").await));
    let mut expected: BTreeMap<&str, u8> = [("small", 1), ("large", 1)].into();
    for name in ["alone", "large-alone", "replaced", "large-replaced", "both", "large-both"] {
        put(alone, ("available", name), 2, Precondition::None).await.expect(name);
        assert_eq!(get(alone, "available", name).await.unwrap(), body(name, 2), "{name}");
        expected.insert(name, 2);
    }
    for name in ["gone", "large-gone"] {
        delete(alone, "available", name).await.expect(name);
        assert_eq!(get(alone, "available", name).await, Err(StoreError::NoObject));
    }
    for name in ["small", "large"] {
        assert_eq!(get(alone, "available", name).await.unwrap(), body(name, 1), "{name}");
    }
    assert_eq!(list(alone, "available").await.unwrap(), expected.keys().copied().collect::<Vec<_>>());
    // A condition is looked at where it can be.
    let absent = put(alone, ("available", "alone"), 9, Precondition::Absent).await;
    assert_eq!(absent, Err(StoreError::PreconditionFailed));

    // The others go on in both.
    put(others, ("strict", "others"), 3, Precondition::None).await.unwrap();
    for name in ["others", "large-others", "both", "large-both"] {
        put(others, ("available", name), 3, Precondition::None).await.expect(name);
        expected.insert(name, 3);
    }
    // Replaced blocks are not deleted while anybody may name them.
    tokio::time::sleep(Duration::from_secs(4)).await;

    cluster.cut(0, false);
    cluster.settle().await;
    for (machine, store) in cluster.stores.iter().enumerate() {
        let listed = list(store, "available").await.unwrap();
        assert_eq!(listed, expected.keys().copied().collect::<Vec<_>>(), "on {machine}");
        for (name, fill) in &expected {
            let read = get(store, "available", name).await.unwrap();
            assert_eq!(read, body(name, *fill), "{name} on {machine}");
        }
        let mut strict = names.map(str::to_owned).to_vec();
        strict.push("others".into());
        strict.sort();
        assert_eq!(list(store, "strict").await.unwrap(), strict, "on {machine}");
        assert_eq!(get(store, "available", "gone").await, Err(StoreError::NoObject));
    }
    cluster.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_available_container_is_deleted_only_when_all_its_devices_say_that_it_is_empty() {
    let cluster = Cluster::new().await;
    let (alone, others) = (&cluster.stores[0], &cluster.stores[1]);
    cluster.cut(0, true);
    put(alone, ("available", "o"), 1, Precondition::None).await.unwrap();
    assert!(is_unavailable(others.delete_container("a", "available").await));
    cluster.cut(0, false);
    cluster.settle().await;
    assert_eq!(others.delete_container("a", "available").await, Err(StoreError::NotEmpty));
    assert_eq!(get(others, "available", "o").await.unwrap(), body("o", 1));
    delete(others, "available", "o").await.unwrap();
    others.delete_container("a", "available").await.unwrap();
    assert_eq!(get(others, "available", "o").await, Err(StoreError::NoContainer));
    cluster.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_are_available_keep_no_versions() {
    let cluster = Cluster::new().await;
    let refused = cluster.stores[0].prepare_versions("a", "available", AVAILABLE).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    cluster.stores[0].prepare_versions("a", "strict", STRICT).await.unwrap();
    cluster.end();
}
