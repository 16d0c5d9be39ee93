//! Lookups and rebalances of a large ring.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use anyhow::ensure;
use clap::Args;
use kodiak_ring::{NewDevice, PlacementKey, Ring, RingBuilder};
use serde::Serialize;

use super::{MicroArgs, write_json};
use crate::table::{Table, nanoseconds};

/// What `micro ring` takes.
#[derive(Args, Clone, Debug)]
pub struct RingArgs {
    /// The ring has 2 to the power of this partitions
    #[arg(long, default_value_t = 18)]
    part_power: u8,
    /// Replicas of each
    #[arg(long, default_value_t = 3)]
    replicas: u8,
    /// Devices, ten to a node, in two regions of five zones; at least 100
    #[arg(long, default_value_t = 1000)]
    devices: u32,
    #[command(flatten)]
    common: MicroArgs,
}

#[derive(Serialize)]
struct Figures {
    part_power: u8,
    replicas: u8,
    devices: u32,
    rebalances: Vec<Rebalance>,
    lookups: Vec<Lookup>,
}

#[derive(Serialize)]
struct Rebalance {
    change: String,
    seconds: f64,
    /// Replicas that have to move whatever the algorithm.
    least_moves: usize,
    moves: usize,
}

#[derive(Serialize)]
struct Lookup {
    what: &'static str,
    nanoseconds: f64,
}

/// Runs it.
pub fn main(args: &RingArgs) -> anyhow::Result<()> {
    let RingArgs { part_power, replicas, devices, ref common } = *args;
    ensure!(devices >= 100, "--devices must be 100 or more");
    let mut builder = RingBuilder::new(part_power, f64::from(replicas), 0, 1)?;
    let rebalances = rebalances(&mut builder, devices)?;
    let shape = format!("2^{part_power} partitions × {replicas}, {devices} devices");
    let mut table = Table::new(&[&shape, "took", "moves", "least possible"]);
    for one in &rebalances {
        let (took, least) = (nanoseconds(one.seconds * 1e9), one.least_moves.to_string());
        table.row(vec![one.change.clone(), took, one.moves.to_string(), least]);
    }
    println!("{table}");
    let lookups = lookups(&builder.ring()?);
    let mut table = Table::new(&["lookup", "each"]);
    for one in &lookups {
        table.row(vec![one.what.to_string(), nanoseconds(one.nanoseconds)]);
    }
    print!("{table}");
    let figures = Figures { part_power, replicas, devices, rebalances, lookups };
    write_json(common.json.as_deref(), "ring", &figures)
}

fn rebalances(builder: &mut RingBuilder, devices: u32) -> anyhow::Result<Vec<Rebalance>> {
    builder.set_overload(0.1)?;
    for i in 0..devices {
        let (region, zone) = (i * 2 / devices, i * 10 / devices);
        let node = format!("node-{}", i / 10);
        builder.add_device(NewDevice::new(region, zone, &node, &format!("d{}", i % 10)))?;
    }
    let mut rebalances = vec![rebalance("first rebalance", builder)?];
    builder.add_device(NewDevice::new(0, 0, "node-0", "new"))?;
    rebalances.push(rebalance("one device added", builder)?);
    builder.remove_device(devices / 2)?;
    rebalances.push(rebalance("one device removed", builder)?);
    builder.set_weight(devices / 2 + 1, 200.0)?;
    rebalances.push(rebalance("one device's weight doubled", builder)?);
    for i in 0..devices / 10 {
        builder.add_device(NewDevice::new(1, 10, &format!("late-{}", i / 10), &format!("d{}", i % 10)))?;
    }
    rebalances.push(rebalance(&format!("a zone of {} devices added", devices / 10), builder)?);
    Ok(rebalances)
}

fn rebalance(change: &str, builder: &mut RingBuilder) -> anyhow::Result<Rebalance> {
    let loads = |builder: &RingBuilder| -> HashMap<u32, usize> {
        builder.loads().iter().map(|load| (load.id, load.partitions)).collect()
    };
    let before = loads(builder);
    let start = Instant::now();
    let report = builder.rebalance(builder.epoch() as u32)?;
    let seconds = start.elapsed().as_secs_f64();
    let mut least_moves: usize = before.values().sum();
    for (id, partitions) in loads(builder) {
        least_moves -= partitions.min(before.get(&id).copied().unwrap_or(0));
    }
    Ok(Rebalance { change: change.into(), seconds, least_moves, moves: report.moved })
}

fn lookups(ring: &Ring) -> Vec<Lookup> {
    let key = PlacementKey::new([7; 32]);
    let names: Vec<String> = (0..1 << 16).map(|i| format!("AUTH_test/container/object-{i:08}")).collect();
    let partition = |name: &String| ring.partition_of(key.hash(name.as_bytes()).place());
    let hashing = time(&names, 50, |name| {
        black_box(partition(name));
    });
    let primaries = time(&names, 50, |name| {
        black_box(ring.primaries(partition(name)).map(|device| device.id).sum::<u32>());
    });
    let handoffs = time(&names, 1, |name| {
        black_box(ring.handoffs(partition(name)).take(3).map(|device| device.id).sum::<u32>());
    });
    vec![
        Lookup { what: "hash of a name", nanoseconds: hashing },
        Lookup { what: "hash and three devices", nanoseconds: primaries },
        Lookup { what: "hash and three handoffs", nanoseconds: handoffs },
    ]
}

fn time(names: &[String], rounds: usize, mut work: impl FnMut(&String)) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        names.iter().for_each(&mut work);
    }
    start.elapsed().as_secs_f64() * 1e9 / (rounds * names.len()) as f64
}
