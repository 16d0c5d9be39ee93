//! `kodiak device`: devices of a cluster's machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use kodiak_cluster::disk::{Disks, Slot};
use kodiak_cluster::{Change, Home};

use crate::operator::Operator;
use crate::output::say;
use crate::settings::Settings;
use crate::{data, member};

const ADD: &str = "Example: kodiak device add d5 /disks/e --data /srv/kodiak
Run it on the machine that has the device. It is put into use at the next start: kodiak down, kodiak up.";
const REMOVE: &str = "Example: kodiak device remove d5 --data /srv/kodiak
Run it on the machine that has the device. It is let go of at the next start, when its data have been copied.";
const WEIGHT: &str = "Example: kodiak device set-weight d5 930 --node n2 --data /srv/kodiak
By default a device weighs its size in GiB.";
const RESET: &str = "Example: kodiak device reset d5 --data /srv/kodiak
Everything on it is deleted; the other replicas fill it again. The store must be down.";

/// See `kodiak device --help`.
#[derive(Subcommand, Debug)]
pub enum DeviceCommand {
    /// Add a device to this machine.
    #[command(after_help = ADD)]
    Add(Add),
    /// Move everything away from a device of this machine, and take it out of the rings.
    #[command(after_help = REMOVE)]
    Remove(Named),
    /// Change how much a device is to hold.
    #[command(after_help = WEIGHT)]
    SetWeight(SetWeight),
    /// Empty a disk of this machine and take it into use as a new one.
    #[command(after_help = RESET)]
    Reset(Named),
}

/// See [`DeviceCommand::Add`].
#[derive(Args, Debug)]
pub struct Add {
    /// Its name.
    name: String,
    /// An empty folder.
    path: PathBuf,
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
}

/// A device of this machine.
#[derive(Args, Debug)]
pub struct Named {
    /// Its name.
    name: String,
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
}

/// See [`DeviceCommand::SetWeight`].
#[derive(Args, Debug)]
pub struct SetWeight {
    /// The device.
    name: String,
    /// Its new weight.
    weight: f64,
    /// The machine that has it. Default: this one.
    #[arg(long)]
    node: Option<String>,
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
}

/// Runs the command.
pub fn run(command: DeviceCommand) -> Result<()> {
    match command {
        DeviceCommand::Add(arguments) => add(arguments),
        DeviceCommand::Remove(arguments) => remove(arguments),
        DeviceCommand::SetWeight(arguments) => set_weight(arguments),
        DeviceCommand::Reset(arguments) => reset(arguments),
    }
}

fn folder(data: Option<PathBuf>) -> PathBuf {
    data.unwrap_or_else(data::default_folder)
}

/// This machine's settings and the notes about its disks.
fn disks(folder: &Path) -> Result<(Settings, Disks)> {
    let settings = Settings::load(&folder.join(data::CONFIG))?;
    let home = settings.cluster.folder.as_ref();
    let home = Home::new(home.with_context(|| format!("the store in {} is no cluster's", folder.display()))?);
    let cluster = home.open(&settings.cluster.node)?.stored.register().map().cluster;
    let disks = home.disks(cluster, &settings.cluster.node)?;
    Ok((settings, disks))
}

fn add(arguments: Add) -> Result<()> {
    let Add { name, path, data } = arguments;
    let folder = folder(data);
    let (settings, mut disks) = disks(&folder)?;
    let taken = settings.storage.devices.iter().any(|device| device.name == name);
    ensure!(!taken, "this machine has a device {name} already: choose another name");
    let slot = Slot { device: name, path: std::path::absolute(path)? };
    disks.set_up(&slot)?;
    edit(&folder, |devices| {
        let mut table = toml_edit::Table::new();
        table.insert("name", toml_edit::value(slot.device.as_str()));
        table.insert("path", toml_edit::value(slot.path.display().to_string()));
        devices.push(table);
    })?;
    say!("{} is put into use at the next start: kodiak down, kodiak up.", slot.device);
    Ok(())
}

fn remove(arguments: Named) -> Result<()> {
    let folder = folder(arguments.data);
    let mut operator = Operator::open(&folder)?;
    let (node, device) = (operator.node.clone(), arguments.name);
    operator.change(Change::RemoveDevice { node, device: device.clone() })?;
    edit(&folder, |devices| {
        devices.retain(|table| table.get("name").and_then(toml_edit::Item::as_str) != Some(&device));
    })?;
    say!(
        "Map {}: {device} leaves. Restart this machine's store once its data have been copied.",
        operator.map().epoch
    );
    Ok(())
}

fn set_weight(arguments: SetWeight) -> Result<()> {
    let weight = arguments.weight;
    ensure!((0.0..=1e9).contains(&weight), "a weight is 0 to 1000000000, not {weight}");
    let mut operator = Operator::open(&folder(arguments.data))?;
    let node = arguments.node.unwrap_or_else(|| operator.node.clone());
    let device = arguments.name;
    operator.change(Change::SetWeight {
        node,
        device: device.clone(),
        weight: (weight * 1000.0).round() as u64,
    })?;
    say!("Map {}: {device} weighs {weight}.", operator.map().epoch);
    Ok(())
}

fn reset(arguments: Named) -> Result<()> {
    let folder = folder(arguments.data);
    let lock = data::lock(&folder)?.context("the store is up: `kodiak down` first")?;
    let (settings, mut disks) = disks(&folder)?;
    let slot = member::slots(&settings).into_iter().find(|slot| slot.device == arguments.name);
    let slot = slot.with_context(|| format!("this machine has no device {}", arguments.name))?;
    disks.reset(&slot)?;
    drop(lock);
    say!("{} is empty. It is filled again once the store is up.", slot.device);
    Ok(())
}

/// Changes the list of devices in the configuration, and leaves the rest as a person wrote it.
fn edit(folder: &Path, change: impl FnOnce(&mut toml_edit::ArrayOfTables)) -> Result<()> {
    let path = folder.join(data::CONFIG);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut document: toml_edit::DocumentMut = text.parse()?;
    let devices = document.get_mut("storage").and_then(|storage| storage.get_mut("devices"));
    let devices = devices.and_then(toml_edit::Item::as_array_of_tables_mut);
    change(devices.with_context(|| format!("{} has no [[storage.devices]]", path.display()))?);
    data::write_secret(&path, document.to_string().as_bytes())
}
