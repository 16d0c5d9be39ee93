//! `kodiak cluster policy`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use kodiak_cluster::{Change, ClusterMap, NewPolicy, Policy, PolicyUpdate};
use kodiak_storage_api::{ErasureCode, Mode, Protection};
use serde_json::{Value, json};

use crate::data;
use crate::operator::Operator;
use crate::output::say;

const LIST: &str = "Examples:
  kodiak cluster policy list --data /srv/kodiak
  kodiak cluster policy list --data /srv/kodiak --json";
const ADD: &str = "Examples:
  kodiak cluster policy add two --replicas 2 --data /srv/kodiak
  kodiak cluster policy add cold --erasure 4+2 --data /srv/kodiak      needs six machines
  kodiak cluster policy add gold --replicas 3 --default --data /srv/kodiak
A container gets its policy when it is made, by X-Storage-Policy or as S3's storage class, and keeps it.";
const SET: &str = "Examples:
  kodiak cluster policy set gold --default --data /srv/kodiak
  kodiak cluster policy set Policy-0 --deprecated true --data /srv/kodiak    it takes no new containers
  kodiak cluster policy set gold --name fast --data /srv/kodiak
What a policy promises never changes: copy objects into a container of another one.";

/// See `kodiak cluster policy --help`.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// The policies, and what each promises.
    #[command(after_help = LIST)]
    List(List),
    /// Begin a policy, with a ring of its own.
    #[command(after_help = ADD)]
    Add(Add),
    /// Rename a policy, deprecate it, or make it the default.
    #[command(after_help = SET)]
    Set(Set),
}

/// See [`PolicyCommand::List`].
#[derive(Args, Debug)]
pub struct List {
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// See [`PolicyCommand::Add`].
#[derive(Args, Debug)]
pub struct Add {
    /// Its name: letters, digits and -.
    name: String,
    /// Copies of everything.
    #[arg(long, required_unless_present = "erasure", conflicts_with = "erasure")]
    replicas: Option<u16>,
    /// Fragments of each block of more than 256 KiB: data+parity, such as 4+2. Smaller objects have three copies.
    #[arg(long)]
    erasure: Option<ErasureCode>,
    /// What it does when a majority of an object's devices is gone: strict refuses, available lets others stand in
    /// and promises less. It never changes.
    #[arg(long, default_value = "strict", value_parser = mode)]
    mode: Mode,
    /// Containers that name no policy get this one from now on.
    #[arg(long)]
    default: bool,
    /// Bits: its ring gets 2^N partitions. Default: as many as the first policy's.
    #[arg(long)]
    part_power: Option<u8>,
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
}

/// See [`PolicyCommand::Set`].
#[derive(Args, Debug)]
pub struct Set {
    /// The policy.
    name: String,
    /// Another name for it.
    #[arg(long = "name")]
    rename: Option<String>,
    /// Whether it takes no new containers: true or false.
    #[arg(long)]
    deprecated: Option<bool>,
    /// Containers that name no policy get this one from now on.
    #[arg(long)]
    default: bool,
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "strict" => Ok(Mode::Strict),
        "available" => Ok(Mode::Available),
        _ => Err("a mode is strict or available".into()),
    }
}

/// Runs the command.
pub fn run(command: PolicyCommand) -> Result<()> {
    match command {
        PolicyCommand::List(arguments) => list(arguments),
        PolicyCommand::Add(arguments) => add(arguments),
        PolicyCommand::Set(arguments) => set(arguments),
    }
}

fn open(data: Option<PathBuf>) -> Result<Operator> {
    Operator::open(&data.unwrap_or_else(data::default_folder))
}

fn list(arguments: List) -> Result<()> {
    let mut operator = open(arguments.data)?;
    // With everybody down the map of this machine's disk has to do.
    let _ = operator.refresh();
    let map = operator.map();
    if arguments.json {
        let policies: Vec<Value> =
            (0..map.policies.len()).map(|index| describe_json(map, index)).collect::<Result<_>>()?;
        say!("{:#}", json!({ "epoch": map.epoch.0, "policies": policies }));
        return Ok(());
    }
    for index in 0..map.policies.len() {
        say!("{}", describe(map, index)?);
    }
    Ok(())
}

/// Copies or fragments that a policy's ring has now.
fn replicas(policy: &Policy) -> Result<usize> {
    Ok(policy.ring.ring()?.replicas())
}

fn marks(map: &ClusterMap, index: usize) -> (bool, bool) {
    (usize::from(map.default_policy) == index, map.policies[index].deprecated)
}

fn describe(map: &ClusterMap, index: usize) -> Result<String> {
    let policy = &map.policies[index];
    let kept = match policy.protection {
        Protection::Replicated if replicas(policy)? < usize::from(policy.replicas) => {
            format!("{} copies, {} once there are as many devices", replicas(policy)?, policy.replicas)
        }
        Protection::Replicated => format!("{} copies", policy.replicas),
        Protection::Erasure(code) => format!("erasure code {code}"),
    };
    let mark = match marks(map, index) {
        (true, _) => ", the default",
        (_, true) => ", deprecated: takes no new containers",
        (false, false) => "",
    };
    let mode = if policy.mode == Mode::Available { ", available" } else { "" };
    Ok(format!("{index:2} {:16} {kept}{mode}{mark}", policy.name))
}

fn describe_json(map: &ClusterMap, index: usize) -> Result<Value> {
    let policy = &map.policies[index];
    let (default, deprecated) = marks(map, index);
    let erasure = match policy.protection {
        Protection::Replicated => None,
        Protection::Erasure(code) => Some(code.to_string()),
    };
    Ok(json!({
        "index": index, "name": policy.name, "default": default, "deprecated": deprecated, "erasure": erasure,
        "replicas": replicas(policy)?, "wanted_replicas": policy.replicas,
        "mode": policy.mode,
    }))
}

fn add(arguments: Add) -> Result<()> {
    let Add { name, replicas, erasure, mode, default, part_power, data } = arguments;
    let protection = erasure.map_or(Protection::Replicated, Protection::Erasure);
    let replicas = replicas.unwrap_or_default();
    let mut operator = open(data)?;
    let new = NewPolicy { name: name.clone(), protection, replicas, part_power, default, mode };
    operator.change(Change::AddPolicy(new))?;
    show(&operator, &name)
}

fn set(arguments: Set) -> Result<()> {
    let Set { name, rename, deprecated, default, data } = arguments;
    ensure!(
        rename.is_some() || deprecated.is_some() || default,
        "nothing is to change: give --name, --deprecated or --default"
    );
    let mut operator = open(data)?;
    let update = PolicyUpdate { name: rename.clone(), deprecated, default };
    operator.change(Change::SetPolicy { name: name.clone(), update })?;
    show(&operator, &rename.unwrap_or(name))
}

fn show(operator: &Operator, name: &str) -> Result<()> {
    let map = operator.map();
    let found = map.policies.iter().position(|policy| policy.name.eq_ignore_ascii_case(name));
    say!("Map {}:{}", map.epoch, describe(map, found.context("the policy is not in the newest map")?)?);
    Ok(())
}
