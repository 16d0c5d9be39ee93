//! The storage node.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use hdrhistogram::Histogram;
use kodiak_ring::PlacementKey;
use kodiak_storage_api::{
    Clock, DeviceIndex, DirectoryChange, DirectoryKey, DirectoryWrite, Layout, ObjectKey, ObjectPath,
    ObjectRecord, ObjectWrite, PolicyIndex, RowTarget, Stamp, StorageNode, Version,
};
use kodiak_storage_node::{DeviceSettings, Node, NodeSettings};

use super::{Engine, Figure, Meter, SIZE, Task};
use crate::latency;
use crate::random::Random;

/// What a writer of the node needs.
struct Writer {
    node: Arc<Node>,
    clock: Arc<Clock>,
    key: PlacementKey,
    row: Option<RowTarget>,
    body: Bytes,
    next: AtomicU64,
}

impl Writer {
    fn write(&self) -> ObjectWrite {
        let path = ObjectPath::new("a", "c", &format!("{:012}", self.next.fetch_add(1, Relaxed)));
        let hash = self.key.hash(path.as_str().as_bytes());
        let record = ObjectRecord {
            timestamp: self.clock.now(),
            size: SIZE as u64,
            etag: "d41d8cd98f00b204e9800998ecf8427e".into(),
            content_type: "application/octet-stream".into(),
            headers: Vec::new(),
            listing: Vec::new(),
            expires_at: None,
            layout: Layout::Inline,
        };
        let key = ObjectKey { policy: PolicyIndex(0), hash };
        let (inline, row) = (vec![self.body.clone()], self.row);
        let stamp = Stamp::first(record.timestamp);
        ObjectWrite { key, path, version: Version::Live(record), stamp, expect: None, inline, row }
    }

    async fn run(&self, until: Instant) -> anyhow::Result<Histogram<u64>> {
        let mut latency = latency::histogram()?;
        while Instant::now() < until {
            let begun = Instant::now();
            self.node.write_object(DeviceIndex(0), self.write()).await?;
            latency::record(&mut latency, begun.elapsed());
        }
        Ok(latency)
    }
}

/// Durable writes of inline objects to one device.
pub fn run(task: Task<'_>) -> anyhow::Result<Figure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let clock = Arc::new(Clock::system(1));
    let key = PlacementKey::new([1; 32]);
    let hash = key.hash(b"a/c");
    let directory = DirectoryKey { hash };
    let node = runtime.block_on(open(task.folder, clock.clone(), directory))?;
    let row = RowTarget { directory, device: DeviceIndex(0) };
    let writer = Arc::new(Writer {
        node: node.clone(),
        clock,
        key,
        row: (task.engine == Engine::NodeWithRow).then_some(row),
        body: Random::new(1).bytes(SIZE).into(),
        next: AtomicU64::new(0),
    });
    let meter = Meter::start(task)?;
    let until = meter.until();
    let latencies = runtime.block_on(async {
        let start = |_| {
            let writer = writer.clone();
            tokio::spawn(async move { writer.run(until).await })
        };
        let tasks: Vec<_> = (0..task.writers).map(start).collect();
        let mut latencies = Vec::with_capacity(task.writers);
        for task in tasks {
            latencies.push(task.await??);
        }
        anyhow::Ok(latencies)
    })?;
    let figure = meter.finish(latencies);
    node.shutdown();
    figure
}

/// Opens a node with one device that holds one container.
pub async fn open(folder: &Path, clock: Arc<Clock>, key: DirectoryKey) -> anyhow::Result<Arc<Node>> {
    let device = DeviceSettings { name: "d1".into(), path: folder.into() };
    let node = Node::open(NodeSettings { devices: vec![device], ..Default::default() }, clock.clone())?;
    let change = DirectoryChange::Create { policy: PolicyIndex(0), headers: Vec::new() };
    let write = DirectoryWrite { key, name: "a/c".into(), timestamp: clock.now(), change };
    node.write_directory(DeviceIndex(0), write).await?;
    Ok(node)
}
