//! Durable 4 KiB writes: the storage node beside a file for each object.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use kodiak_ring::PlacementKey;
use kodiak_storage_api::{
    Clock, DeviceIndex, DirectoryChange, DirectoryKey, DirectoryWrite, Layout, ObjectKey, ObjectPath,
    ObjectRecord, ObjectWrite, PolicyIndex, RowTarget, StorageNode, Version,
};
use kodiak_storage_node::{DeviceSettings, Node, NodeSettings};
use serde::Serialize;

use super::{FolderArgs, write_json};
use crate::facts::{bytes_written, processor_seconds};
use crate::random::Random;
use crate::table::{Table, nanoseconds, number};
use crate::units::parse_duration;

const SIZE: usize = 4096;

/// What `micro volume` takes.
#[derive(Args, Clone, Debug)]
pub struct VolumeArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Writers at once; a list makes several runs
    #[arg(long, default_value = "1,8,32,128", value_delimiter = ',')]
    writers: Vec<usize>,
    /// Each run takes so long
    #[arg(long, default_value = "5s")]
    duration: String,
}

#[derive(Serialize)]
struct Figure {
    engine: &'static str,
    writers: usize,
    writes: u64,
    writes_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Bytes that reached the disk for each byte of content.
    write_amplification: f64,
    cpu_us_per_write: f64,
}

/// Runs it.
pub fn main(args: &VolumeArgs) -> anyhow::Result<()> {
    let duration = parse_duration(&args.duration)?;
    let mut figures = Vec::new();
    for &writers in &args.writers {
        figures.push(in_folder(args, |folder| files(folder, writers, duration))?);
    }
    for (engine, rows) in [("node", false), ("node, with listing row", true)] {
        for &writers in &args.writers {
            figures.push(in_folder(args, |folder| node(folder, engine, rows, writers, duration))?);
        }
    }
    let headings =
        ["durable 4 KiB writes", "writers", "writes/s", "p50", "p99", "bytes written", "processor"];
    let mut table = Table::new(&headings);
    for one in &figures {
        table.row(vec![
            one.engine.to_string(),
            one.writers.to_string(),
            number(one.writes_per_second),
            nanoseconds(one.p50_ms * 1e6),
            nanoseconds(one.p99_ms * 1e6),
            format!("× {:.2}", one.write_amplification),
            nanoseconds(one.cpu_us_per_write * 1e3),
        ]);
    }
    print!("{table}");
    write_json(args.folder.common.json.as_deref(), "volume", &figures)
}

fn in_folder<T>(args: &VolumeArgs, work: impl FnOnce(&Path) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let folder = tempfile::tempdir_in(&args.folder.folder).context("cannot make a folder")?;
    work(folder.path())
}

/// Measures what happens between its making and its end.
struct Meter {
    engine: &'static str,
    writers: usize,
    begun: Instant,
    written: u64,
    processor: f64,
}

impl Meter {
    fn start(engine: &'static str, writers: usize) -> anyhow::Result<Meter> {
        let processor = processor_seconds(&[std::process::id()])?;
        Ok(Meter { engine, writers, begun: Instant::now(), written: bytes_written()?, processor })
    }

    fn finish(self, latencies: Vec<Histogram<u64>>) -> anyhow::Result<Figure> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let mut all = Histogram::<u64>::new(3)?;
        for one in latencies {
            all.add(&one)?;
        }
        let writes = all.len();
        let processor = processor_seconds(&[std::process::id()])? - self.processor;
        let content = (writes as usize * SIZE) as f64;
        Ok(Figure {
            engine: self.engine,
            writers: self.writers,
            writes,
            writes_per_second: writes as f64 / seconds,
            p50_ms: all.value_at_quantile(0.5) as f64 / 1e6,
            p99_ms: all.value_at_quantile(0.99) as f64 / 1e6,
            write_amplification: (bytes_written()? - self.written) as f64 / content,
            cpu_us_per_write: processor * 1e6 / writes as f64,
        })
    }
}

/// A temporary file, fsync, rename, fsync of the folder.
fn files(folder: &Path, writers: usize, duration: Duration) -> anyhow::Result<Figure> {
    let body = Random::new(1).bytes(SIZE);
    let meter = Meter::start("a file for each object", writers)?;
    let until = meter.begun + duration;
    let write = |writer: usize| -> anyhow::Result<Histogram<u64>> {
        let mut latency = Histogram::new(3)?;
        let handle = File::open(folder)?;
        for number in 0u64.. {
            let begun = Instant::now();
            if begun >= until {
                break;
            }
            let (temporary, name) =
                (folder.join(format!("{writer}.tmp")), folder.join(format!("{writer}-{number}")));
            let mut file = File::create(&temporary)?;
            file.write_all(&body)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &name)?;
            handle.sync_all()?;
            latency.saturating_record(begun.elapsed().as_nanos() as u64);
        }
        Ok(latency)
    };
    let latencies = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers).map(|writer| scope.spawn(move || write(writer))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|one| one.map_err(|_| anyhow::anyhow!("a writer panicked"))?)
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    meter.finish(latencies)
}

/// What a writer of the node needs.
struct Writer {
    node: Arc<Node>,
    clock: Arc<Clock>,
    key: PlacementKey,
    directory: DirectoryKey,
    rows: bool,
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
        let row = self.rows.then_some(RowTarget { directory: self.directory, device: DeviceIndex(0) });
        let key = ObjectKey { policy: PolicyIndex(0), partition: hash.partition(10), hash };
        ObjectWrite { key, path, version: Version::Live(record), inline: vec![self.body.clone()], row }
    }

    async fn run(&self, until: Instant) -> anyhow::Result<Histogram<u64>> {
        let mut latency = Histogram::new(3)?;
        loop {
            let begun = Instant::now();
            if begun >= until {
                return Ok(latency);
            }
            self.node.write_object(DeviceIndex(0), self.write()).await?;
            latency.saturating_record(begun.elapsed().as_nanos() as u64);
        }
    }
}

fn node(
    folder: &Path,
    engine: &'static str,
    rows: bool,
    writers: usize,
    duration: Duration,
) -> anyhow::Result<Figure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let clock = Arc::new(Clock::system(1));
    let key = PlacementKey::new([1; 32]);
    let hash = key.hash(b"a/c");
    let directory = DirectoryKey { partition: hash.partition(10), hash };
    let node = runtime.block_on(open(folder, clock.clone(), directory))?;
    let body = Random::new(1).bytes(SIZE).into();
    let writer =
        Arc::new(Writer { node: node.clone(), clock, key, directory, rows, body, next: AtomicU64::new(0) });
    let meter = Meter::start(engine, writers)?;
    let until = meter.begun + duration;
    let latencies = runtime.block_on(async {
        let run = |_| {
            let writer = writer.clone();
            tokio::spawn(async move { writer.run(until).await })
        };
        let tasks: Vec<_> = (0..writers).map(run).collect();
        let mut latencies = Vec::with_capacity(writers);
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
