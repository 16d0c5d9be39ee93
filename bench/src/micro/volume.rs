//! Durable 4 KiB writes: the storage node beside a file for each object.

mod files;
mod node;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

pub use self::node::open;
use super::{FolderArgs, write_json};
use crate::facts::{bytes_written, bytes_written_to_disk, machine_processor_seconds, own_processor_seconds};
use crate::latency;
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
    #[arg(long, default_value = "2s")]
    duration: String,
    /// Runs of each kind, of which the middle one is shown
    #[arg(long, default_value = "3")]
    rounds: usize,
    /// Folders that a file for each object is spread over; Swift has one for each object
    #[arg(long, default_value = "1")]
    folders: u64,
}

/// What stores the objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Engine {
    Files,
    Node,
    NodeWithRow,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Engine::Files => "a file for each object",
            Engine::Node => "node",
            Engine::NodeWithRow => "node, with listing row",
        }
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Task<'a> {
    engine: Engine,
    writers: usize,
    duration: Duration,
    folder: &'a Path,
    folders: u64,
}

#[derive(Debug, Serialize)]
struct Figure {
    engine: Engine,
    writers: usize,
    writes: u64,
    writes_per_second: f64,
    /// Least and most writes a second of all rounds.
    range_of_rounds: (f64, f64),
    p50_ms: f64,
    p99_ms: f64,
    /// Bytes that the process gave the disk for each byte of content: without the file system's journal.
    write_amplification: f64,
    /// Bytes that the disk wrote, for the whole machine, where the kernel tells.
    disk_amplification: Option<f64>,
    cpu_us_per_write: f64,
    /// Cores that others kept busy meanwhile.
    other_cpus: f64,
}

/// Runs it.
pub fn main(args: &VolumeArgs) -> anyhow::Result<()> {
    let duration = parse_duration(&args.duration)?;
    ensure!(
        args.rounds > 0 && args.folders > 0 && !args.writers.contains(&0),
        "--rounds, --folders and --writers must not be 0"
    );
    let mut rounds: Vec<Vec<Figure>> = Vec::new();
    // Rounds of a kind lie apart, so that one disturbance does not hit them all.
    for _ in 0..args.rounds {
        let mut place = 0;
        for &writers in &args.writers {
            for engine in [Engine::Files, Engine::Node, Engine::NodeWithRow] {
                rounds.resize_with(rounds.len().max(place + 1), Vec::new);
                rounds[place].push(run(args, engine, writers, duration)?);
                place += 1;
            }
        }
    }
    let figures: Vec<Figure> = rounds.into_iter().filter_map(middle).collect();
    print!("{}", table(&figures));
    println!(
        "Of each kind, the round in the middle and the range of all {}. Bytes and processor time are for each\n\
         4 KiB; what the disk wrote is of the whole machine, and others are the cores it kept busy besides.",
        args.rounds
    );
    write_json(args.folder.common.json.as_deref(), "volume", &figures)
}

fn table(figures: &[Figure]) -> Table {
    let headings = [
        "durable 4 KiB writes",
        "writers",
        "writes/s",
        "of all rounds",
        "p50",
        "p99",
        "process wrote",
        "disk wrote",
        "processor",
        "others",
    ];
    let mut table = Table::new(&headings);
    for one in figures {
        let (least, most) = one.range_of_rounds;
        table.row(vec![
            one.engine.name().to_string(),
            one.writers.to_string(),
            number(one.writes_per_second),
            format!("{}–{}", number(least), number(most)),
            nanoseconds(one.p50_ms * 1e6),
            nanoseconds(one.p99_ms * 1e6),
            format!("× {:.2}", one.write_amplification),
            one.disk_amplification.map_or("?".into(), |times| format!("× {times:.2}")),
            nanoseconds(one.cpu_us_per_write * 1e3),
            number(one.other_cpus),
        ]);
    }
    table
}

fn run(args: &VolumeArgs, engine: Engine, writers: usize, duration: Duration) -> anyhow::Result<Figure> {
    let folder = tempfile::tempdir_in(&args.folder.folder).context("cannot make a folder")?;
    let task = Task { engine, writers, duration, folder: folder.path(), folders: args.folders };
    match engine {
        Engine::Files => files::run(task),
        Engine::Node | Engine::NodeWithRow => node::run(task),
    }
}

fn middle(mut rounds: Vec<Figure>) -> Option<Figure> {
    rounds.sort_by(|a, b| a.writes_per_second.total_cmp(&b.writes_per_second));
    let rate = |figure: Option<&Figure>| figure.map_or(0.0, |figure| figure.writes_per_second);
    let range_of_rounds = (rate(rounds.first()), rate(rounds.last()));
    let place = rounds.len() / 2;
    let figure = rounds.into_iter().nth(place)?;
    Some(Figure { range_of_rounds, ..figure })
}

/// Measures what happens between its making and its end.
#[derive(Debug)]
struct Meter<'a> {
    task: Task<'a>,
    begun: Instant,
    written: u64,
    disk: Option<u64>,
    processor: f64,
    machine: f64,
}

impl Meter<'_> {
    fn start(task: Task<'_>) -> anyhow::Result<Meter<'_>> {
        // What was written before is not to be counted.
        rustix::fs::sync();
        let disk = bytes_written_to_disk(task.folder).ok();
        let (written, machine) = (bytes_written()?, machine_processor_seconds()?);
        let processor = own_processor_seconds();
        Ok(Meter { task, written, disk, processor, machine, begun: Instant::now() })
    }

    fn until(&self) -> Instant {
        self.begun + self.task.duration
    }

    fn finish(self, latencies: Vec<Histogram<u64>>) -> anyhow::Result<Figure> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let disk = bytes_written_to_disk(self.task.folder).ok().zip(self.disk);
        let mut all = latency::histogram()?;
        for one in latencies {
            all.add(&one)?;
        }
        let writes = all.len();
        let processor = own_processor_seconds() - self.processor;
        let machine = machine_processor_seconds()? - self.machine;
        let content = (writes as usize * SIZE) as f64;
        Ok(Figure {
            engine: self.task.engine,
            writers: self.task.writers,
            writes,
            writes_per_second: writes as f64 / seconds,
            range_of_rounds: (0.0, 0.0),
            p50_ms: latency::milliseconds(&all, 0.5),
            p99_ms: latency::milliseconds(&all, 0.99),
            write_amplification: (bytes_written()? - self.written) as f64 / content,
            disk_amplification: disk.map(|(after, before)| (after - before) as f64 / content),
            cpu_us_per_write: processor * 1e6 / writes as f64,
            other_cpus: ((machine - processor) / seconds).max(0.0),
        })
    }
}
