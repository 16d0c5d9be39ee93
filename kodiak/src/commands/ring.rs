//! `kodiak ring`: makes, changes and shows ring files.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kodiak_ring::{NewDevice, Partition, RingBuilder};
use serde_json::{Value, json};

use crate::output::say;

const CREATE: &str = "Example: kodiak ring create object.ring --part-power 14 --replicas 3";
const ADD: &str =
    "Example: kodiak ring add object.ring --region 1 --zone 2 --node storage7 --device nvme0 --weight 3800";
const INCREASE: &str = "Example: kodiak ring increase-part-power object.ring 15
For a store of one machine, while it is down; `kodiak cluster increase-part-power` is for running clusters.";
const REBALANCE: &str = "Example: kodiak ring rebalance object.ring
A partition of which a replica moved rests for min-part-hours: run it again later until nothing moves.";
const IMPORT: &str = "Example: kodiak ring import /etc/swift/object.ring.gz object.ring
Takes over devices and assignment. Swift hashes names otherwise, so data must be copied through the API.";

/// What to do with a ring file.
#[derive(Subcommand, Debug)]
pub enum RingCommand {
    /// Make an empty ring.
    #[command(after_help = CREATE)]
    Create(Create),
    /// Add a device; it gets partitions at the next rebalance.
    #[command(after_help = ADD)]
    Add(Add),
    /// Take a device out; its partitions move at the next rebalance.
    #[command(after_help = "Example: kodiak ring remove object.ring 12")]
    Remove(Remove),
    /// Change a device's weight; 0 drains it.
    #[command(after_help = "Example: kodiak ring set-weight object.ring 12 7600")]
    SetWeight(SetWeight),
    /// Change the replica count, overload or min-part-hours.
    #[command(after_help = "Example: kodiak ring set object.ring --replicas 3 --overload 10")]
    Set(Set),
    /// Give the ring more partitions: each becomes two or more on the devices it was on, and nothing moves.
    #[command(after_help = INCREASE)]
    IncreasePartPower(IncreasePartPower),
    /// Assign partitions, moving as few as possible.
    #[command(after_help = REBALANCE)]
    Rebalance(Rebalance),
    /// Print the ring and its devices, or the devices of one partition.
    #[command(
        after_help = "Example: kodiak ring show object.ring --json\n         kodiak ring show object.ring --partition 77"
    )]
    Show(Show),
    /// Check that every partition has its replicas, each on a device of its own.
    #[command(after_help = "Example: kodiak ring validate object.ring")]
    Validate(Look),
    /// Print how well replicas are kept apart, tier by tier.
    #[command(after_help = "Example: kodiak ring dispersion object.ring")]
    Dispersion(Look),
    /// Make a ring from a Swift .ring.gz of format 1 or 2.
    #[command(after_help = IMPORT)]
    Import(Import),
}

/// See [`RingCommand::Create`].
#[derive(Args, Debug)]
pub struct Create {
    /// The ring file to make.
    file: PathBuf,
    /// Bits: the ring gets 2^N partitions, about 100 for each device; they can become more later.
    #[arg(long, default_value_t = 14)]
    part_power: u8,
    /// Replicas of each partition; a fraction is possible.
    #[arg(long, default_value_t = 3.0)]
    replicas: f64,
    /// Hours that a partition rests after a replica moved.
    #[arg(long, default_value_t = 1)]
    min_part_hours: u32,
    /// Percent that a device may hold above its weight's share, to keep replicas apart.
    #[arg(long, default_value_t = 10.0)]
    overload: f64,
    /// Seed of the assignment: the same seed and changes give the same ring.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// See [`RingCommand::IncreasePartPower`].
#[derive(Args, Debug)]
pub struct IncreasePartPower {
    /// The ring file.
    file: PathBuf,
    /// Bits: the ring gets 2^N partitions, about 100 for each device.
    part_power: u8,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// See [`RingCommand::Add`].
#[derive(Args, Debug)]
pub struct Add {
    /// The ring file.
    file: PathBuf,
    /// Region, the widest failure domain.
    #[arg(long, default_value_t = 1)]
    region: u32,
    /// Zone within the region: a room, a rack.
    #[arg(long, default_value_t = 1)]
    zone: u32,
    /// Name of the node that holds the device.
    #[arg(long)]
    node: String,
    /// Name of the device on its node.
    #[arg(long)]
    device: String,
    /// Share of the partitions, relative to the others; for example the size in GiB.
    #[arg(long, default_value_t = 100.0)]
    weight: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// See [`RingCommand::Remove`].
#[derive(Args, Debug)]
pub struct Remove {
    /// The ring file.
    file: PathBuf,
    /// The device's id, as `kodiak ring show` prints it.
    id: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// See [`RingCommand::SetWeight`].
#[derive(Args, Debug)]
pub struct SetWeight {
    /// The ring file.
    file: PathBuf,
    /// The device's id, as `kodiak ring show` prints it.
    id: u32,
    /// The new weight.
    weight: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// See [`RingCommand::Set`].
#[derive(Args, Debug)]
pub struct Set {
    /// The ring file.
    file: PathBuf,
    /// Replicas of each partition.
    #[arg(long)]
    replicas: Option<f64>,
    /// Percent above the weight's share.
    #[arg(long)]
    overload: Option<f64>,
    /// Hours that a partition rests after a move.
    #[arg(long)]
    min_part_hours: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// See [`RingCommand::Rebalance`].
#[derive(Args, Debug)]
pub struct Rebalance {
    /// The ring file.
    file: PathBuf,
    /// Move partitions even if they moved within min-part-hours. Only when all replicas are in place.
    #[arg(long)]
    ignore_min_part_hours: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// See [`RingCommand::Show`].
#[derive(Args, Debug)]
pub struct Show {
    /// The ring file.
    file: PathBuf,
    /// Print the devices of this partition, primaries first.
    #[arg(long)]
    partition: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A ring file to look at.
#[derive(Args, Debug)]
pub struct Look {
    /// The ring file.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// See [`RingCommand::Import`].
#[derive(Args, Debug)]
pub struct Import {
    /// Swift's file, for example object.ring.gz.
    swift: PathBuf,
    /// The ring file to make.
    file: PathBuf,
    /// Hours that a partition rests after a replica moved (Swift keeps that in its builder file).
    #[arg(long, default_value_t = 1)]
    min_part_hours: u32,
    /// Percent that a device may hold above its weight's share, to keep replicas apart.
    #[arg(long, default_value_t = 10.0)]
    overload: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs a `kodiak ring` command.
///
/// # Errors
/// With what a person is to read: which file or value, what is wrong, what to do.
pub fn run(command: RingCommand) -> Result<()> {
    match command {
        RingCommand::Create(args) => create(&args),
        RingCommand::Add(args) => add(args),
        RingCommand::Remove(args) => change(&args.file, args.json, |ring| Ok(ring.remove_device(args.id)?)),
        RingCommand::SetWeight(args) => {
            change(&args.file, args.json, |ring| Ok(ring.set_weight(args.id, args.weight)?))
        }
        RingCommand::Set(args) => set(&args),
        RingCommand::IncreasePartPower(args) => increase_part_power(&args),
        RingCommand::Rebalance(args) => rebalance(&args),
        RingCommand::Show(args) => show(&args),
        RingCommand::Validate(args) => validate(&args),
        RingCommand::Dispersion(args) => dispersion(&args),
        RingCommand::Import(args) => import(&args),
    }
}

fn load(file: &Path) -> Result<RingBuilder> {
    RingBuilder::load(file).with_context(|| format!("cannot use the ring file {}", file.display()))
}

/// Prints `value` as JSON or `text`.
fn print(json: bool, value: &Value, text: impl FnOnce() -> String) {
    if json { say!("{value:#}") } else { say!("{}", text()) }
}

fn changed(json: bool, file: &Path, builder: &RingBuilder) {
    let value = json!({ "file": file, "epoch": builder.epoch() });
    print(json, &value, || {
        let file = file.display();
        format!("{file} is at epoch {}; `kodiak ring rebalance {file}` makes it effective", builder.epoch())
    });
}

fn change(file: &Path, json: bool, apply: impl FnOnce(&mut RingBuilder) -> Result<()>) -> Result<()> {
    let mut builder = load(file)?;
    apply(&mut builder)?;
    builder.save(file)?;
    changed(json, file, &builder);
    Ok(())
}

fn increase_part_power(args: &IncreasePartPower) -> Result<()> {
    let mut builder = load(&args.file)?;
    builder.increase_part_power(args.part_power)?;
    builder.save(&args.file)?;
    let value = json!({ "file": args.file, "epoch": builder.epoch(), "partitions": builder.partitions() });
    print(args.json, &value, || {
        format!(
            "{} is at epoch {}, with {} partitions where they were; rebalances spread them",
            args.file.display(),
            builder.epoch(),
            builder.partitions()
        )
    });
    Ok(())
}

fn refuse_existing(file: &Path) -> Result<()> {
    if file.exists() {
        bail!("{} exists already: choose another name, or move it away first", file.display());
    }
    Ok(())
}

fn create(args: &Create) -> Result<()> {
    refuse_existing(&args.file)?;
    let mut builder = RingBuilder::new(args.part_power, args.replicas, args.min_part_hours, args.seed)?;
    builder.set_overload(args.overload / 100.0)?;
    builder.save(&args.file)?;
    let value = json!({ "file": args.file, "epoch": builder.epoch(), "partitions": builder.partitions() });
    print(args.json, &value, || {
        format!("made {} with {} partitions; add devices next", args.file.display(), builder.partitions())
    });
    Ok(())
}

fn add(args: Add) -> Result<()> {
    let mut builder = load(&args.file)?;
    let device = NewDevice::new(args.region, args.zone, &args.node, &args.device).weight(args.weight);
    let id = builder.add_device(device)?;
    builder.save(&args.file)?;
    let value = json!({ "file": args.file, "epoch": builder.epoch(), "id": id });
    print(args.json, &value, || format!("added {} on {} with id {id}", args.device, args.node));
    Ok(())
}

fn set(args: &Set) -> Result<()> {
    change(&args.file, args.json, |ring| {
        if args.replicas.is_none() && args.overload.is_none() && args.min_part_hours.is_none() {
            bail!("nothing to set: give --replicas, --overload or --min-part-hours");
        }
        if let Some(replicas) = args.replicas {
            ring.set_replicas(replicas)?;
        }
        if let Some(overload) = args.overload {
            ring.set_overload(overload / 100.0)?;
        }
        if let Some(hours) = args.min_part_hours {
            ring.set_min_part_hours(hours);
        }
        Ok(())
    })
}

/// Hours since 1970.
fn now() -> Result<u32> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the system's clock is before 1970")?;
    u32::try_from(since.as_secs() / 3600).context("the system's clock is too far ahead")
}

fn rebalance(args: &Rebalance) -> Result<()> {
    let mut builder = load(&args.file)?;
    if args.ignore_min_part_hours {
        builder.forget_moves();
    }
    let done = builder.rebalance(now()?)?;
    builder.save(&args.file)?;
    let value = json!({
        "file": args.file, "epoch": builder.epoch(), "moved": done.moved,
        "balance": done.balance, "dispersion": done.dispersion,
    });
    print(args.json, &value, || {
        format!(
            "moved {} replicas; balance {:.2}%, dispersion {:.2}%, epoch {}",
            done.moved,
            done.balance,
            done.dispersion,
            builder.epoch()
        )
    });
    Ok(())
}

fn show(args: &Show) -> Result<()> {
    let builder = load(&args.file)?;
    if let Some(partition) = args.partition {
        return show_partition(&builder, partition, args.json);
    }
    let devices: Vec<Value> = builder
        .devices()
        .zip(builder.loads())
        .map(|((device, leaves), load)| {
            json!({
                "id": device.id, "region": device.region, "zone": device.zone, "node": device.node,
                "device": device.name, "weight": device.weight, "partitions": load.partitions,
                "balance": load.balance, "leaves": leaves,
            })
        })
        .collect();
    let value = json!({
        "file": args.file, "epoch": builder.epoch(), "partitions": builder.partitions(),
        "replicas": builder.replicas(), "overload": builder.overload() * 100.0,
        "min_part_hours": builder.min_part_hours(), "seed": builder.seed(), "balance": builder.balance(),
        "dispersion": builder.dispersion().percent(), "devices": devices,
    });
    print(args.json, &value, || table(&builder, &args.file));
    Ok(())
}

fn table(builder: &RingBuilder, file: &Path) -> String {
    let mut text = format!(
        "{}: epoch {}, {} partitions, {} replicas, overload {}%, min-part-hours {}\nbalance {:.2}%, dispersion {:.2}%\n{:>5} {:>6} {:>5}  {:<20} {:<12} {:>10} {:>10} {:>8}",
        file.display(),
        builder.epoch(),
        builder.partitions(),
        builder.replicas(),
        builder.overload() * 100.0,
        builder.min_part_hours(),
        builder.balance(),
        builder.dispersion().percent(),
        "id",
        "region",
        "zone",
        "node",
        "device",
        "weight",
        "partitions",
        "balance"
    );
    for ((device, leaves), load) in builder.devices().zip(builder.loads()) {
        let balance = load.balance.map_or_else(|| "-".to_owned(), |balance| format!("{balance:.2}%"));
        text.push_str(&format!(
            "\n{:>5} {:>6} {:>5}  {:<20} {:<12} {:>10} {:>10} {:>8}{}",
            device.id,
            device.region,
            device.zone,
            device.node,
            device.name,
            device.weight,
            load.partitions,
            balance,
            if leaves { " leaves" } else { "" }
        ));
    }
    text
}

fn show_partition(builder: &RingBuilder, number: u32, json: bool) -> Result<()> {
    let ring = builder.ring()?;
    if number >= ring.partitions() {
        bail!("partition {number} does not exist: the ring has 0 to {}", ring.partitions() - 1);
    }
    let partition = Partition::new(ring.part_power(), number);
    let place = |device: &kodiak_ring::Device| {
        json!({ "id": device.id, "region": device.region, "zone": device.zone,
                "node": device.node, "device": device.name })
    };
    let primaries: Vec<Value> = ring.primaries(partition).map(place).collect();
    let handoffs: Vec<Value> = ring.handoffs(partition).map(place).collect();
    let value = json!({ "partition": number, "primaries": primaries, "handoffs": handoffs });
    print(json, &value, || {
        let line = |role, d: &kodiak_ring::Device| {
            format!("{role}  id {} r{} z{} {} {}", d.id, d.region, d.zone, d.node, d.name)
        };
        let primaries = ring.primaries(partition).map(|device| line("primary", device));
        primaries.chain(ring.handoffs(partition).map(|d| line("handoff", d))).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

fn validate(args: &Look) -> Result<()> {
    let builder = load(&args.file)?;
    let ring = builder.ring()?;
    let expected = builder.replicas().floor() as usize;
    let mut problems = Vec::new();
    for partition in ring.all_partitions() {
        let mut ids: Vec<u32> = ring.primaries(partition).map(|device| device.id).collect();
        let partition = partition.number();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        if count < expected {
            problems.push(format!("partition {partition} has {count} of {expected} replicas"));
        } else if ids.len() < count {
            problems.push(format!("partition {partition} has two replicas on one device"));
        }
    }
    if !problems.is_empty() {
        bail!(
            "{} partitions are not as they should be, the first: {}; run `kodiak ring rebalance`",
            problems.len(),
            problems[0]
        );
    }
    let value = json!({ "file": args.file, "valid": true, "partitions": ring.partitions() });
    print(args.json, &value, || {
        format!("{} is valid: {} partitions", args.file.display(), ring.partitions())
    });
    Ok(())
}

fn dispersion(args: &Look) -> Result<()> {
    let report = load(&args.file)?.dispersion();
    let value = json!({ "file": args.file, "percent": report.percent(), "report": report });
    print(args.json, &value, || {
        let line = |tier: &kodiak_ring::TierDispersion| {
            let worst = tier.worst.as_ref().map(|worst| format!(", most in {worst}")).unwrap_or_default();
            format!(
                "{:<7} {:>6} domains, {:>8} replicas too close{worst}",
                tier.tier, tier.domains, tier.crowded
            )
        };
        let tiers: Vec<String> = report.tiers.iter().map(line).collect();
        format!("dispersion {:.2}% of {} replicas\n{}", report.percent(), report.replicas, tiers.join("\n"))
    });
    Ok(())
}

fn import(args: &Import) -> Result<()> {
    refuse_existing(&args.file)?;
    let mut builder = RingBuilder::import_swift(&args.swift, args.min_part_hours, 0)
        .with_context(|| format!("cannot import {}", args.swift.display()))?;
    builder.set_overload(args.overload / 100.0)?;
    builder.save(&args.file)?;
    let devices = builder.devices().count();
    let value = json!({ "file": args.file, "epoch": builder.epoch(), "devices": devices, "partitions": builder.partitions() });
    print(args.json, &value, || {
        format!(
            "imported {devices} devices and {} partitions into {}",
            builder.partitions(),
            args.file.display()
        )
    });
    Ok(())
}
