//! What is simulated: nodes, proxies with clocks of their own, and everything that goes wrong.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use kodiak_proxy::store::{Nodes, Placement, ReaperSettings, SharedStore, Store, Weakness};
use kodiak_ring::{NewDevice, PlacementKey, RingBuilder};
use kodiak_storage_api::memory::{Faults, MemoryNode};
use kodiak_storage_api::{
    Clock, Directory, DirectoryChange, DirectoryKey, DirectoryWrite, Policy, Protection, Replica, Row,
    RowDurability,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::link::Link;

/// Microseconds since 1970 at which every run begins.
const BEGIN: u64 = 1_700_000_000_000_000;
/// Proxies at a time.
pub const PROXIES: usize = 3;

/// Which mistake is made on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mutation {
    pub store: Weakness,
    pub node: Faults,
}

/// When a message arrives, arrives once more, and when its answer comes back; none: never.
pub struct Plan {
    pub arrives: Option<Duration>,
    pub again: Option<Duration>,
    pub returns: Option<Duration>,
}

pub struct World {
    random: Mutex<StdRng>,
    start: Instant,
    pub nodes: Vec<Arc<MemoryNode>>,
    /// Nodes that are off.
    down: Mutex<HashSet<usize>>,
    /// Proxy and node that do not reach each other; proxies are counted on when they are replaced.
    cut: Mutex<HashSet<(usize, usize)>>,
    dead: Mutex<HashSet<usize>>,
    proxies: Mutex<Vec<(usize, SharedStore)>>,
    /// Microseconds by which each place's clock is wrong.
    skews: Vec<Arc<AtomicI64>>,
    started: AtomicUsize,
    /// How many regions there are: nodes and proxies are in one after another.
    regions: usize,
    /// Calls from a region to another.
    pub crossings: AtomicUsize,
    pub calm: AtomicBool,
    mutation: Mutation,
}

impl World {
    pub fn new(seed: u64, nodes: usize, mutation: Mutation) -> Arc<World> {
        World::of_regions(seed, nodes, mutation, 1)
    }

    pub fn of_regions(seed: u64, nodes: usize, mutation: Mutation, regions: usize) -> Arc<World> {
        let mut random = StdRng::seed_from_u64(seed);
        let skew = |_| Arc::new(AtomicI64::new(random.random_range(-300_000..300_000)));
        let skews = (0..PROXIES).map(skew).collect();
        let disk = Arc::new(Mutex::new(StdRng::seed_from_u64(seed ^ 0xd15c)));
        let node = |_| {
            let disk = disk.clone();
            let slow = move || Duration::from_micros(disk.lock().random_range(50..8_000));
            MemoryNode::new(mutation.node, slow)
        };
        let world = Arc::new(World {
            random: Mutex::new(random),
            start: Instant::now(),
            nodes: (0..nodes).map(node).collect(),
            down: Mutex::default(),
            cut: Mutex::default(),
            dead: Mutex::default(),
            proxies: Mutex::default(),
            skews,
            started: AtomicUsize::new(0),
            regions,
            crossings: AtomicUsize::new(0),
            calm: AtomicBool::new(true),
            mutation,
        });
        for place in 0..PROXIES {
            let proxy = world.start_proxy(place);
            world.proxies.lock().push(proxy);
        }
        world
    }

    pub fn random<T>(&self, choose: impl FnOnce(&mut StdRng) -> T) -> T {
        choose(&mut self.random.lock())
    }

    fn start_proxy(self: &Arc<World>, place: usize) -> (usize, SharedStore) {
        let number = self.started.fetch_add(1, Relaxed);
        let (start, skew) = (self.start, self.skews[place].clone());
        let wall = move || {
            let now = BEGIN + start.elapsed().as_micros() as u64;
            now.saturating_add_signed(skew.load(Relaxed))
        };
        let clock = Arc::new(Clock::with_wall(number as u32 + 1, Arc::new(wall)));
        let link = |node| Arc::new(Link { world: self.clone(), proxy: number, node });
        let nodes: Nodes = (0..self.nodes.len()).map(|n| (format!("n{n}"), link(n) as Arc<_>)).collect();
        let store =
            Store::weakened(placement(self.nodes.len(), self.regions), &nodes, clock, self.mutation.store);
        let store = store.expect("a store");
        store.set_reaper(ReaperSettings { recent: 0, ..ReaperSettings::default() });
        (number, store)
    }

    /// Any proxy.
    pub fn proxy(&self) -> SharedStore {
        let place = self.random(|random| random.random_range(0..PROXIES));
        self.proxies.lock()[place].1.clone()
    }

    pub fn plan(&self) -> Plan {
        let calm = self.calm.load(Relaxed);
        self.random(|random| {
            let mut delay = |longest: u64| Duration::from_micros(random.random_range(50..longest));
            if calm {
                return Plan { arrives: Some(delay(1_000)), again: None, returns: Some(delay(1_000)) };
            }
            let (arrives, returns, again) = (delay(15_000), delay(15_000), delay(3_000_000));
            let mut lost = |of: u32| random.random_range(0..of) == 0;
            Plan {
                arrives: (!lost(40)).then_some(arrives),
                returns: (!lost(40)).then_some(returns),
                again: lost(20).then_some(again),
            }
        })
    }

    /// The proxy of a place.
    pub fn proxy_at(&self, place: usize) -> SharedStore {
        self.proxies.lock()[place].1.clone()
    }

    /// Whether a proxy and a node are in different regions.
    pub fn is_far(&self, proxy: usize, node: usize) -> bool {
        proxy % self.regions != node % self.regions
    }

    pub fn has_regions(&self) -> bool {
        self.regions > 1
    }

    pub fn reaches(&self, proxy: usize, node: usize) -> bool {
        let cut = self.cut.lock().contains(&(proxy, node));
        !cut && !self.down.lock().contains(&node) && !self.dead.lock().contains(&proxy)
    }

    /// Cuts a node off from everybody, or joins it again.
    pub fn isolate(&self, node: Option<usize>) {
        let mut cut = self.cut.lock();
        cut.clear();
        if let Some(node) = node {
            cut.extend((0..self.started.load(Relaxed)).map(|proxy| (proxy, node)));
        }
    }

    /// Lets things go wrong until the end of the storm.
    pub async fn storm(self: Arc<World>) {
        self.calm.store(false, Relaxed);
        while !self.calm.load(Relaxed) {
            let wait = self.random(|random| random.random_range(20..300));
            sleep(Duration::from_millis(wait)).await;
            let node = self.random(|random| random.random_range(0..self.nodes.len()));
            let place = self.random(|random| random.random_range(0..PROXIES));
            match self.random(|random| random.random_range(0..9)) {
                0 | 1 => drop(tokio::spawn(self.clone().crash_node(node))),
                2 | 3 => {
                    let proxy = self.proxies.lock()[place].0;
                    self.cut.lock().insert((proxy, node));
                }
                4 | 5 => self.cut.lock().clear(),
                6 => {
                    let full = self.random(|random| random.random_range(0..3) == 0);
                    self.nodes[node].set_full(full).await;
                }
                7 => {
                    let jump = self.random(|random| random.random_range(-2_000_000..2_000_000));
                    self.skews[place].store(jump, Relaxed);
                }
                _ => self.fail(place, node).await,
            }
        }
    }

    /// What happens less often: a proxy is replaced, or bits flip on one node at a time.
    async fn fail(self: &Arc<World>, place: usize, node: usize) {
        if self.random(|random| random.random_range(0..2) == 0) {
            let proxy = self.start_proxy(place);
            let (old, _) = std::mem::replace(&mut self.proxies.lock()[place], proxy);
            self.dead.lock().insert(old);
        } else {
            for other in &self.nodes {
                other.heal().await;
            }
            self.nodes[node].rot(|objects| self.random(|random| random.random_range(0..objects))).await;
        }
    }

    async fn crash_node(self: Arc<World>, node: usize) {
        if !self.down.lock().insert(node) {
            return;
        }
        self.nodes[node].crash(|| self.random(|random| random.random_range(0..2) == 0)).await;
        let off = self.random(|random| random.random_range(1..800));
        sleep(Duration::from_millis(off)).await;
        self.down.lock().remove(&node);
    }

    /// Brings the replicas of every directory together, as the nodes' repair does: records merge, and of rows the
    /// newer wins.
    pub async fn repair(&self) {
        let mut all: BTreeMap<DirectoryKey, (Directory, BTreeMap<String, Row>)> = BTreeMap::new();
        for node in &self.nodes {
            for (key, directory, rows) in node.directories().await {
                let (record, newest) = all.entry(key).or_insert((directory.clone(), BTreeMap::new()));
                *record = record.clone().merge(directory);
                for row in rows {
                    let newer = newest.get(&row.name).is_none_or(|held| held.timestamp < row.timestamp);
                    if newer {
                        newest.insert(row.name.clone(), row);
                    }
                }
            }
        }
        let map = self.proxy().current_map();
        for (key, (directory, rows)) in all {
            let timestamp = directory.created.max(directory.deleted);
            let (name, merge) = (directory.name.clone(), DirectoryChange::Merge(Box::new(directory)));
            let write = DirectoryWrite { key, name, timestamp, change: merge };
            let rows: Vec<Row> = rows.into_values().collect();
            for Replica { node, device } in map.container_replicas(key) {
                // What fails now is left for the next time.
                let _ = node.write_directory(device, write.clone()).await;
                let _ = node.write_rows(device, key, rows.clone(), RowDurability::Copied).await;
                let _ = node.write_directory(device, write.clone()).await;
            }
        }
    }

    /// The end: proxies and world keep each other.
    pub fn close(&self) {
        self.proxies.lock().clear();
    }

    /// Everything works again, and what was under way has come to its end.
    pub async fn heal(&self) {
        self.calm.store(true, Relaxed);
        sleep(Duration::from_secs(8)).await;
        self.cut.lock().clear();
        for node in &self.nodes {
            node.set_full(false).await;
            node.heal().await;
        }
    }
}

fn placement(nodes: usize, regions: usize) -> Placement {
    let mut ring = RingBuilder::new(4, 3.0, 0, 1).expect("a ring");
    for node in 0..nodes {
        ring.add_device(NewDevice::new(1 + (node % regions) as u32, 1, &format!("n{node}"), "d1"))
            .expect("a device");
    }
    ring.rebalance(0).expect("balanced");
    let ring = ring.ring().expect("a ring");
    Placement {
        key: PlacementKey::new([7; 32]),
        accounts: ring.clone(),
        containers: ring.clone(),
        objects: vec![Policy::new(ring, Protection::Replicated)],
        default_policy: kodiak_storage_api::PolicyIndex(0),
    }
}
