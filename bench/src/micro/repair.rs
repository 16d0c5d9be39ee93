//! How long replicas take to find that they are equal, and a wiped device to be filled again. Three nodes
//! in this process on one disk: the network is not in it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use kodiak_ring::{NewDevice, PlacementKey, RingBuilder};
use kodiak_storage_api::jobs::{Jobs, Pace};
use kodiak_storage_api::{
    Clock, DeviceIndex, DirectoryChange, DirectoryWrite, Layout, Map, Nodes, ObjectPath, ObjectRecord,
    ObjectWrite, Placement, Policy, PolicyIndex, Protection, Replica, RowTarget, Stamp, StorageNode, Version,
};
use kodiak_storage_node::repair::heal::Healer;
use kodiak_storage_node::repair::replicator::{self, PassJobs};
use kodiak_storage_node::{DeviceSettings, Node, NodeSettings};
use serde::Serialize;

use super::FolderArgs;

const POLICY: PolicyIndex = PolicyIndex(0);
const NODES: usize = 3;
const WRITERS: usize = 64;

/// What the benchmark takes.
#[derive(Args, Clone, Debug)]
pub struct RepairArgs {
    /// Objects on each device
    #[arg(long, default_value_t = 100_000)]
    objects: u64,
    /// Bytes of each
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Partition power of the rings
    #[arg(long, default_value_t = 14)]
    power: u8,
    /// Bytes a second that may be copied
    #[arg(long, default_value_t = 1 << 40)]
    rate: u64,
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Serialize)]
struct Figures {
    partitions: u32,
    objects: u64,
    size: usize,
    /// Comparing a device with the two others, all trees.
    compare_seconds: f64,
    compare_bytes: usize,
    refill_seconds: f64,
    refill_objects_per_second: f64,
    refill_megabytes_per_second: f64,
}

struct Rig {
    folder: tempfile::TempDir,
    nodes: Vec<Arc<Node>>,
    clock: Arc<Clock>,
    placement: Placement,
}

fn name(node: usize) -> String {
    format!("n{node}")
}

fn open(folder: &Path, node: usize, clock: &Arc<Clock>) -> anyhow::Result<Arc<Node>> {
    let device = DeviceSettings { name: "d".into(), path: folder.join(name(node)) };
    std::fs::create_dir_all(&device.path)?;
    Ok(Node::open(NodeSettings { devices: vec![device], ..NodeSettings::default() }, clock.clone())?)
}

impl Rig {
    fn new(args: &RepairArgs) -> anyhow::Result<Rig> {
        let folder = tempfile::tempdir_in(&args.folder.folder)?;
        let clock = Arc::new(Clock::system(1));
        let nodes = (0..NODES).map(|node| open(folder.path(), node, &clock)).collect::<Result<_, _>>()?;
        let mut builder = RingBuilder::new(args.power, NODES as f64, 0, 1)?;
        for node in 0..NODES {
            builder.add_device(NewDevice::new(0, 0, &name(node), "d"))?;
        }
        builder.rebalance(1)?;
        let ring = builder.ring()?;
        let placement = Placement {
            key: PlacementKey::new([7; 32]),
            accounts: ring.clone(),
            containers: ring.clone(),
            objects: vec![Policy::new(ring, Protection::Replicated)],
            default_policy: PolicyIndex(0),
        };
        Ok(Rig { folder, nodes, clock, placement })
    }

    fn map(&self) -> anyhow::Result<Arc<Map>> {
        let node = |(index, node): (usize, &Arc<Node>)| (name(index), node.clone() as Arc<dyn StorageNode>);
        let nodes: Nodes = self.nodes.iter().enumerate().map(node).collect();
        Ok(Arc::new(Map::new(self.placement.clone(), &nodes)?))
    }

    fn replica(&self, node: usize) -> Replica {
        Replica { node: self.nodes[node].clone(), device: DeviceIndex(0) }
    }

    fn healer(&self, rate: u64) -> anyhow::Result<Healer> {
        let (map, clock) = (self.map()?, self.clock.clone());
        Ok(Healer { map, clock, pace: Arc::new(Pace::new(rate)), quiet: Duration::ZERO })
    }

    async fn fill(&self, args: &RepairArgs) -> anyhow::Result<()> {
        let map = self.map()?;
        for (key, name) in [(map.account("a"), "a"), (map.container("a/c"), "a/c")] {
            let change = DirectoryChange::Create { policy: POLICY, headers: Vec::new() };
            let write = DirectoryWrite { key, name: name.into(), timestamp: self.clock.now(), change };
            for node in &self.nodes {
                node.write_directory(DeviceIndex(0), write.clone()).await?;
            }
        }
        let (next, body) = (Arc::new(AtomicU64::new(0)), Bytes::from(vec![7; args.size]));
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..WRITERS {
            let (next, body, map) = (next.clone(), body.clone(), map.clone());
            let (nodes, clock, objects) = (self.nodes.clone(), self.clock.clone(), args.objects);
            writers.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= objects {
                        return Ok::<_, anyhow::Error>(());
                    }
                    let write = object(&map, &clock, number, &body)?;
                    for node in &nodes {
                        node.write_object(DeviceIndex(0), write.clone()).await?;
                    }
                }
            });
        }
        while let Some(written) = writers.join_next().await {
            written??;
        }
        Ok(())
    }

    /// Bytes of the digests that the two peers of the first node answer.
    async fn compared_bytes(&self) -> anyhow::Result<usize> {
        let (map, mut bytes) = (self.map()?, 0);
        for tree in map.trees() {
            for node in &self.nodes[1..] {
                let digests = node.digests(DeviceIndex(0), tree, map.partitions(tree)?).await?;
                bytes += postcard::to_stdvec(&digests)?.len();
            }
        }
        Ok(bytes)
    }

    fn wipe(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes[node].shutdown();
        // Not the old folder: its files are open as long as somebody has a map with the node in it.
        self.nodes[node] = open(&self.folder.path().join("new"), node, &self.clock)?;
        Ok(())
    }
}

fn object(map: &Map, clock: &Clock, number: u64, body: &Bytes) -> anyhow::Result<ObjectWrite> {
    let path = ObjectPath::new("a", "c", &format!("{number:012}"));
    let timestamp = clock.now();
    let record = ObjectRecord {
        timestamp,
        size: body.len() as u64,
        etag: "d41d8cd98f00b204e9800998ecf8427e".into(),
        content_type: "application/octet-stream".into(),
        headers: Vec::new(),
        listing: Vec::new(),
        expires_at: None,
        layout: Layout::Inline,
    };
    Ok(ObjectWrite {
        key: map.object(&path, POLICY)?,
        path,
        version: Version::Live(record),
        stamp: Stamp::first(timestamp),
        expect: None,
        inline: vec![body.clone()],
        row: Some(RowTarget { directory: map.container("a/c"), device: DeviceIndex(0) }),
    })
}

async fn measure(args: &RepairArgs) -> anyhow::Result<Figures> {
    let mut rig = Rig::new(args)?;
    rig.fill(args).await?;
    let jobs = PassJobs::of(&Jobs::new(rig.clock.clone()), "d", args.rate);
    let healer = rig.healer(args.rate)?;
    let begun = Instant::now();
    let pass = replicator::pass(&healer, &rig.replica(0), true, &jobs).await?;
    let compared = begun.elapsed();
    anyhow::ensure!(pass.differing == 0, "the replicas differ: {pass:?}");
    let compare_bytes = rig.compared_bytes().await?;
    rig.wipe(1)?;
    let healer = rig.healer(args.rate)?;
    let begun = Instant::now();
    let pass = replicator::pass(&healer, &rig.replica(1), true, &jobs).await?;
    let refilled = begun.elapsed().as_secs_f64();
    anyhow::ensure!(pass.healed.failed == 0, "not everything was copied: {pass:?}");
    let again = replicator::pass(&healer, &rig.replica(1), true, &jobs).await?;
    anyhow::ensure!(again.differing == 0, "the replicas still differ: {again:?}");
    rig.nodes.iter().for_each(|node| node.shutdown());
    Ok(Figures {
        partitions: 1 << args.power,
        objects: args.objects,
        size: args.size,
        compare_seconds: compared.as_secs_f64(),
        compare_bytes,
        refill_seconds: refilled,
        refill_objects_per_second: args.objects as f64 / refilled,
        refill_megabytes_per_second: args.objects as f64 * args.size as f64 / refilled / 1e6,
    })
}

/// Runs it.
pub fn main(args: &RepairArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(measure(args))?;
    println!("{} objects of {} bytes, {} partitions", figures.objects, figures.size, figures.partitions);
    println!("comparing   {:>10.3} s  {:>10} bytes", figures.compare_seconds, figures.compare_bytes);
    println!(
        "refilling   {:>10.3} s  {:>10.0} objects/s  {:>8.1} MB/s",
        figures.refill_seconds, figures.refill_objects_per_second, figures.refill_megabytes_per_second
    );
    super::write_json(args.folder.common.json.as_deref(), "repair", &figures)
}
