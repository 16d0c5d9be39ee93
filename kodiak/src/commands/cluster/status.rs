//! `kodiak cluster status`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use kodiak_cluster::message::NodeStatus;
use kodiak_cluster::{Member, MemberState, change};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::endpoints::Endpoints;
use crate::operator::Operator;
use crate::output::say;
use crate::settings::Settings;
use crate::{data, serve};

pub const EXAMPLES: &str = "Examples:
  kodiak cluster status --data /srv/kodiak
  kodiak cluster status --data /srv/kodiak --jobs      what runs in the background
  kodiak cluster status --data /srv/kodiak --json";

/// See [`super::ClusterCommand::Status`].
#[derive(Args, Debug)]
pub struct Status {
    /// Folder of the store.
    #[arg(long, env = "KODIAK_DATA")]
    data: Option<PathBuf>,
    /// Say what each device does in the background: how far it is, and what came of the last pass.
    #[arg(long)]
    jobs: bool,
    /// Print JSON, which always has the jobs.
    #[arg(long)]
    json: bool,
}

/// Prints how the store or the cluster is.
pub fn run(arguments: Status) -> Result<()> {
    let folder = arguments.data.unwrap_or_else(data::default_folder);
    let settings = Settings::load(&folder.join(data::CONFIG))?;
    let (status, text) = match settings.cluster.folder {
        Some(_) => cluster(&folder, arguments.jobs || arguments.json)?,
        None => machine(&folder, &settings, arguments.jobs)?,
    };
    if arguments.json {
        say!("{status:#}")
    } else {
        say!("{text}")
    }
    Ok(())
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// A store of one machine.
fn machine(folder: &Path, settings: &Settings, with_jobs: bool) -> Result<(Value, String)> {
    let placement = serve::placement(settings)?;
    let running = Endpoints::load(folder).filter(Endpoints::alive);
    let mut devices = Vec::new();
    let mut text = match &running {
        Some(endpoints) => format!("up, process {}, {}", endpoints.pid, endpoints.s3.url),
        None => "down".to_owned(),
    };
    let ring = &placement.objects.first().context("no object ring")?.ring;
    text += &format!("\n{} replicas, {} partitions", ring.replicas(), ring.partitions());
    for device in &settings.storage.devices {
        let room = rustix::fs::statvfs(&device.path);
        let room = room.with_context(|| format!("device {} at {}", device.name, device.path.display()))?;
        let (available, total) = (room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize);
        text += &format!("\n{:8} {:8.1} GiB free of {:.1}", device.name, gib(available), gib(total));
        devices.push(json!({
            "name": device.name, "path": device.path, "available_bytes": available, "size_bytes": total,
        }));
    }
    let status = json!({
        "up": running.is_some(),
        "pid": running.as_ref().map(|endpoints| endpoints.pid),
        "replicas": ring.replicas(),
        "partitions": ring.partitions(),
        "devices": devices,
    });
    if with_jobs {
        let metrics = running.and_then(|endpoints| endpoints.metrics);
        text += "\nbackground work of a store of one machine is in its metrics: kodiak_job_* at ";
        text += metrics.as_deref().unwrap_or("metrics.listen of the configuration, once it is up");
    }
    Ok((status, text))
}

fn cluster(folder: &Path, with_jobs: bool) -> Result<(Value, String)> {
    let mut operator = Operator::open(folder)?;
    // With everybody down the map of this machine's disk has to do.
    let reached = operator.refresh().is_ok();
    let map = operator.map().clone();
    let mut text = format!("cluster {}, map {}", map.cluster, map.epoch);
    if !reached {
        text += " (as this machine saw it last: no member answers)";
    }
    let mut members = Vec::new();
    let jobs = if with_jobs { operator.jobs() } else { Vec::new() };
    for (index, (member, status)) in map.members.iter().zip(operator.statuses()).enumerate() {
        let partitions = change::partitions_of(&map, &member.name)?;
        text += &describe(member, &status, partitions);
        members.push(member_json(member, &status, partitions));
        match (jobs.get(index), members.last_mut()) {
            (Some(Ok(jobs)), Some(member)) => {
                text += &super::jobs::describe(jobs);
                member["jobs"] = super::jobs::json(jobs);
            }
            // Its status says so already.
            (Some(Err(_)) | None, _) | (_, None) => {}
        }
    }
    let mut rings = Vec::new();
    for (name, file, wanted) in map.rings() {
        let ring = file.builder()?;
        let dispersion = ring.dispersion();
        text += &format!(
            "\n{name} ring: {} of {wanted} replicas, {} partitions, balance {:.2}%, dispersion {:.2}%",
            ring.replicas(),
            ring.partitions(),
            ring.balance(),
            dispersion.percent()
        );
        rings.push(json!({
            "ring": name, "replicas": ring.replicas(), "wanted_replicas": wanted, "partitions": ring.partitions(),
            "balance": ring.balance(), "dispersion": dispersion.percent(), "dispersion_report": dispersion,
        }));
    }
    let status = json!({
        "cluster": map.cluster.to_string(), "epoch": map.epoch.0, "reached": reached, "members": members, "rings": rings,
    });
    Ok((status, text))
}

fn state(member: &Member) -> &'static str {
    match member.state {
        MemberState::Joining { .. } => "joining",
        MemberState::Active => "active",
        MemberState::Draining => "draining",
    }
}

fn describe(member: &Member, status: &Result<NodeStatus, String>, partitions: u64) -> String {
    let head = format!(
        "\n{:10} {:8} {:21} region {} zone {}, {partitions} partitions",
        member.name,
        state(member),
        member.address.to_string(),
        member.region,
        member.zone
    );
    let status = match status {
        Err(problem) => return format!("{head}\n    down: {problem}"),
        Ok(status) => status,
    };
    let mut text = format!(
        "{head}\n    up, map {}, kodiak {}, certificate until {}",
        status.epoch,
        status.version,
        day(status.certificate_expires)
    );
    for room in &status.devices {
        let own = member.devices.iter().find(|device| device.name == room.name);
        let weight =
            own.map_or_else(|| "not in the rings".to_owned(), |own| format!("weight {}", own.ring_weight()));
        let filling = match room.missing {
            0 => String::new(),
            missing => format!(", {missing} partitions to be filled"),
        };
        let failed = if room.failed { ", FAILED: takes no writes" } else { "" };
        text += &format!(
            "\n    {:8} {:8.1} GiB free of {:.1}, {weight}{filling}{failed}",
            room.name,
            gib(room.available),
            gib(room.total)
        );
    }
    text
}

fn day(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds).map_or_else(|_| "?".into(), |time| time.date().to_string())
}

fn member_json(member: &Member, status: &Result<NodeStatus, String>, partitions: u64) -> Value {
    let mut value = json!({
        "name": member.name, "state": state(member), "address": member.address, "region": member.region,
        "zone": member.zone, "partitions": partitions, "up": status.is_ok(),
    });
    match status {
        Ok(status) => {
            value["epoch"] = json!(status.epoch.0);
            value["version"] = json!(status.version);
            value["certificate_expires"] = json!(status.certificate_expires);
            value["devices"] = json!(status.devices);
        }
        Err(problem) => value["problem"] = json!(problem),
    }
    value
}
