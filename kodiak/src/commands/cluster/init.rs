//! `kodiak cluster init`.

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use kodiak_cluster::map::check_name;
use kodiak_cluster::{
    ClusterId, Founding, Home, KeyDigest, Member, MemberDevice, MemberState, Mode, Policy, RingFile,
};
use kodiak_ring::RingBuilder;
use kodiak_storage_api::Protection;

use super::{FOLDER, MachineArguments, seconds};
use crate::output::say;
use crate::{data, member};

pub const EXAMPLES: &str = "Examples:
  kodiak cluster init --data /srv/kodiak --listen 10.0.0.1:8080 --cluster-listen 10.0.0.1:8081 --devices 4
  kodiak cluster init --data /srv/kodiak --listen 10.0.0.1:8080 --cluster-listen 10.0.0.1:8081 \\
      --device /disks/a --device /disks/b --replicas 3 --zone 1
Then: kodiak up --data /srv/kodiak, and kodiak cluster token --data /srv/kodiak for each further machine.";

/// See [`super::ClusterCommand::Init`].
#[derive(Args, Debug)]
pub struct Init {
    #[command(flatten)]
    machine: MachineArguments,
    /// Name of this machine in the cluster.
    #[arg(long, default_value = "n1")]
    node: String,
    /// Copies of everything. With fewer devices there are as many copies as devices, until more join.
    #[arg(long, default_value_t = 3)]
    replicas: u16,
    /// Bits: each ring gets 2^N partitions, about 100 for each device; they can become more later.
    #[arg(long, default_value_t = data::PART_POWER)]
    part_power: u8,
    /// Hours that a partition rests after a replica moved.
    #[arg(long, default_value_t = 0)]
    min_part_hours: u32,
}

/// Begins a cluster. The configuration is written last: a folder without it was never used.
pub fn run(arguments: Init) -> Result<()> {
    let Init { machine, node, replicas, part_power, min_part_hours } = arguments;
    machine.check()?;
    check_name(&node).map_err(|problem| anyhow!(problem))?;
    ensure!((1..=16).contains(&replicas), "--replicas {replicas}: it is 1 to 16");
    let folder = machine.folder();
    data::make_folder(&folder)?;
    let lock = data::lock(&folder)?.context("another process uses the folder")?;
    let home = Home::new(&folder.join(FOLDER));
    home.make()?;
    data::make_placement_key(&folder)?;
    let (cluster, slots) = (ClusterId::random(), machine.slots()?);
    let mut disks = home.disks(cluster, &node)?;
    let mut devices = Vec::new();
    for slot in &slots {
        devices.push(MemberDevice { name: slot.device.clone(), disk: disks.set_up(slot)?, weight: 0 });
    }
    let weights = member::weights(&slots)?;
    devices.iter_mut().zip(weights).for_each(|(device, weight)| device.weight = weight);
    let ring = RingBuilder::new(part_power, 1.0, min_part_hours, u64::from(cluster.0[0]))?;
    let policy = Policy {
        name: "Policy-0".into(),
        protection: Protection::Replicated,
        replicas,
        mode: Mode::Strict,
        ring: RingFile::of(&ring),
        deprecated: false,
        unmoved: false,
    };
    let member = Member {
        name: node.clone(),
        clock: 1,
        address: machine.cluster_listen,
        region: machine.region,
        zone: machine.zone,
        devices,
        key: KeyDigest([0; 32]),
        state: MemberState::Active,
    };
    home.found(Founding {
        member,
        cluster,
        directory_replicas: replicas,
        policies: vec![policy],
        ring,
        now: seconds(),
    })?;
    let addresses = (machine.listen, machine.metrics());
    let users = vec![data::administrator()];
    let settings = data::settings(machine.settings(&node), machine.devices()?, addresses, users);
    data::write_settings(&folder, &settings)?;
    drop(lock);
    let shown = folder.display();
    say!("Cluster {cluster} begins with {node} and {} devices in {shown}.", slots.len());
    say!("Serve it:          kodiak up --data {shown}");
    say!("Let others join:   kodiak cluster token --data {shown}");
    Ok(())
}
