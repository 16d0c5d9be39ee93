//! Measures lookups and rebalances of a large ring: `cargo run --release -p kodiak-ring --example measure`.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use kodiak_ring::{NewDevice, PlacementKey, RingBuilder};

fn main() -> Result<(), kodiak_ring::RingError> {
    let mut builder = RingBuilder::new(18, 3.0, 0, 1)?;
    builder.set_overload(0.1)?;
    for i in 0..1000 {
        let node = format!("node-{}", i / 10);
        builder.add_device(NewDevice::new(i / 500, i / 100, &node, &format!("d{}", i % 10)))?;
    }
    time("first rebalance", &mut builder)?;
    builder.add_device(NewDevice::new(0, 0, "node-0", "new"))?;
    time("one device added", &mut builder)?;
    builder.remove_device(500)?;
    time("one device removed", &mut builder)?;
    builder.set_weight(700, 200.0)?;
    time("one device doubled", &mut builder)?;
    for i in 0..100 {
        builder.add_device(NewDevice::new(1, 10, &format!("late-{}", i / 10), &format!("d{}", i % 10)))?;
    }
    time("a zone of 100 added", &mut builder)?;
    lookups(&builder)
}

fn time(what: &str, builder: &mut RingBuilder) -> Result<(), kodiak_ring::RingError> {
    let before: HashMap<u32, usize> = builder.loads().iter().map(|load| (load.id, load.partitions)).collect();
    let start = Instant::now();
    let report = builder.rebalance(builder.epoch() as u32)?;
    let took = start.elapsed();
    let mut least: usize = before.values().sum();
    for load in builder.loads() {
        least -= load.partitions.min(before.get(&load.id).copied().unwrap_or(0));
    }
    println!("{what:20} {took:>12.1?}  at least {least:6} moves, {report:?}");
    Ok(())
}

fn lookups(builder: &RingBuilder) -> Result<(), kodiak_ring::RingError> {
    let ring = builder.ring()?;
    let key = PlacementKey::new([7; 32]);
    let names: Vec<String> = (0..1 << 16).map(|i| format!("AUTH_test/container/object-{i:08}")).collect();
    let rounds = 50;
    let start = Instant::now();
    for _ in 0..rounds {
        for name in &names {
            let partition = ring.partition_of(key.hash(name.as_bytes()).place());
            black_box(ring.primaries(partition).map(|device| device.id).sum::<u32>());
        }
    }
    let each = start.elapsed() / (rounds * names.len() as u32);
    println!("lookup with hashing  {each:>12.1?}");
    let start = Instant::now();
    for _ in 0..rounds {
        for name in &names {
            black_box(key.hash(name.as_bytes()));
        }
    }
    println!("hashing alone        {:>12.1?}", start.elapsed() / (rounds * names.len() as u32));
    let start = Instant::now();
    for name in &names {
        let partition = ring.partition_of(key.hash(name.as_bytes()).place());
        black_box(ring.handoffs(partition).take(3).map(|device| device.id).sum::<u32>());
    }
    println!("three handoffs       {:>12.1?}", start.elapsed() / names.len() as u32);
    Ok(())
}
