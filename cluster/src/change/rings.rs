//! Brings the rings to what the members and policies say.

use kodiak_ring::{NewDevice, Partition, RingBuilder, RingError};
use kodiak_storage_api::Protection;

use super::ChangeError;
use crate::{ClusterMap, Member, Policy, RingFile};

/// A rebalance moves one replica of a partition; a member with several devices may hold more.
const ROUNDS: usize = 8;
/// Partitions of a ring that a device may hold in the mean when their number is raised: a hundred times what
/// evens devices out, and as many as comparing replicas has been measured with.
pub(super) const MAX_PARTITIONS_EACH: f64 = 16_384.0;

/// Refuses what leaves a ring fewer devices than it has replicas now, or a code fewer machines than fragments.
pub(super) fn keep_replicas(map: &ClusterMap) -> Result<(), ChangeError> {
    keep_fragments(map)?;
    let left = map.members.iter().flat_map(|m| &m.devices).filter(|device| device.weight > 0).count();
    for (name, file, _) in map.rings() {
        let ring = file.builder().map_err(|error| refuses(&name, &error))?;
        if (left as f64) < ring.replicas() {
            return Err(ChangeError::TooFewDevices { left, replicas: ring.replicas().ceil() as u16 });
        }
    }
    Ok(())
}

/// Refuses what leaves an erasure code fewer machines than fragments. A lost one too is better left in the map than
/// given up: what remains gives its objects back, and a ring without enough devices cannot be used at all.
pub(super) fn keep_fragments(map: &ClusterMap) -> Result<(), ChangeError> {
    let machines = machines(map);
    for policy in &map.policies {
        if let Protection::Erasure(code) = policy.protection
            && machines < code.fragments()
        {
            return Err(ChangeError::FragmentsStay {
                policy: policy.name.clone(),
                code: code.to_string(),
                fragments: code.fragments(),
                machines,
            });
        }
    }
    Ok(())
}

/// Machines that hold partitions.
fn machines(map: &ClusterMap) -> usize {
    map.active().filter(|member| member.devices.iter().any(|device| device.weight > 0)).count()
}

/// Refuses a code whose fragments do not each have a machine of their own: with two on one, the loss of fewer
/// machines than it has parity fragments could lose objects.
pub(super) fn keep_apart(map: &ClusterMap, policy: &Policy) -> Result<(), ChangeError> {
    let Protection::Erasure(code) = policy.protection else { return Ok(()) };
    let (machines, fragments) = (machines(map), code.fragments());
    let too_few = || ChangeError::TooFewMachines {
        code: code.to_string(),
        fragments,
        parity: fragments - code.data(),
        machines,
    };
    if machines < fragments {
        return Err(too_few());
    }
    let ring = policy.ring.ring().map_err(|error| refuses(&policy.name, &error))?;
    let apart = |partition: Partition| {
        let mut nodes: Vec<&str> = ring.primaries(partition).map(|device| device.node.as_str()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.len() == fragments
    };
    if ring.all_partitions().all(apart) { Ok(()) } else { Err(too_few()) }
}

/// Replicas of all rings on devices of which `on` says so, by node and name.
pub(super) fn held(map: &ClusterMap, on: impl Fn(&str, &str) -> bool) -> Result<u64, ChangeError> {
    let mut held = 0;
    for (name, file, _) in map.rings() {
        let ring = file.builder().map_err(|error| refuses(&name, &error))?;
        for ((device, _), load) in ring.devices().zip(ring.loads()) {
            if on(&device.node, &device.name) {
                held += load.partitions as u64;
            }
        }
    }
    Ok(held)
}

/// Replicas that a member's devices hold, of all rings.
///
/// # Errors
/// When a ring cannot be read.
pub fn partitions_of(map: &ClusterMap, node: &str) -> Result<u64, ChangeError> {
    held(map, |name, _| name == node)
}

pub(super) fn refuses(ring: &str, error: &RingError) -> ChangeError {
    ChangeError::Ring { ring: ring.to_owned(), error: error.to_string() }
}

/// Brings all rings to what the members say, and moves as little as that asks for; how many replicas were moved.
pub(super) fn settle_rings(map: &mut ClusterMap, now: u64) -> Result<usize, ChangeError> {
    let members: Vec<Member> = map.active().cloned().collect();
    let settled = |name: &str, file: &RingFile, wanted: Wanted| {
        let mut ring = file.builder().map_err(|error| refuses(name, &error))?;
        let moved = settle_ring(&mut ring, &members, wanted, now).map_err(|error| refuses(name, &error))?;
        Ok::<_, ChangeError>((RingFile::of(&ring), moved))
    };
    let directories = Wanted { replicas: map.directory_replicas, all: false };
    let (accounts, mut moved) = settled("account", &map.accounts, directories)?;
    let (containers, more) = settled("container", &map.containers, directories)?;
    (map.accounts, map.containers) = (accounts, containers);
    moved += more;
    for policy in &mut map.policies {
        let (ring, more) = settled(&policy.name, &policy.ring, Wanted::of(policy))?;
        policy.ring = ring;
        policy.unmoved &= more == 0;
        moved += more;
    }
    Ok(moved)
}

/// Gives rings that have fewer 2^power partitions, each where it was; whether any ring changes.
pub(super) fn increase_part_power(map: &mut ClusterMap, power: u8) -> Result<bool, ChangeError> {
    let mut changes = false;
    let mut increased = |name: &str, file: &RingFile| {
        let mut ring = file.builder().map_err(|error| refuses(name, &error))?;
        if ring.part_power() >= power {
            return Ok(file.clone());
        }
        let devices = ring.devices().filter(|(device, leaves)| device.weight > 0.0 && !leaves).count();
        let each = ring.replicas() * f64::from(power).exp2() / devices.max(1) as f64;
        if each > MAX_PARTITIONS_EACH {
            return Err(ChangeError::TooManyPartitions { ring: name.to_owned(), power, each: each as u64 });
        }
        ring.increase_part_power(power).map_err(|error| refuses(name, &error))?;
        changes = true;
        Ok(RingFile::of(&ring))
    };
    map.accounts = increased("account", &map.accounts)?;
    map.containers = increased("container", &map.containers)?;
    for policy in &mut map.policies {
        policy.ring = increased(&policy.name, &policy.ring)?;
    }
    Ok(changes)
}

/// Replicas of a ring.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    replicas: u16,
    /// However few devices there are.
    all: bool,
}

impl Wanted {
    pub(super) fn of(policy: &Policy) -> Wanted {
        let all = matches!(policy.protection, Protection::Erasure(_));
        Wanted { replicas: policy.replicas, all }
    }
}

/// Brings a ring to what the members say.
pub(super) fn settle_ring(
    ring: &mut RingBuilder,
    members: &[Member],
    wanted: Wanted,
    now: u64,
) -> Result<usize, RingError> {
    let hours = u32::try_from(now / 3600).unwrap_or(u32::MAX);
    let present: Vec<_> = ring.devices().filter(|(_, leaves)| !leaves).map(|(d, _)| d.clone()).collect();
    let wants =
        || members.iter().flat_map(|member| member.devices.iter().map(move |device| (member, device)));
    for old in &present {
        let found = wants().find(|(member, device)| member.name == old.node && device.name == old.name);
        match found {
            None => ring.remove_device(old.id)?,
            Some((_, device)) if device.ring_weight() != old.weight => {
                ring.set_weight(old.id, device.ring_weight())?;
            }
            Some(_) => {}
        }
    }
    for (member, device) in wants() {
        if !present.iter().any(|old| old.node == member.name && old.name == device.name) {
            let new = NewDevice::new(member.region, member.zone, &member.name, &device.name);
            ring.add_device(new.weight(device.ring_weight()))?;
        }
    }
    let holding = wants().filter(|(_, device)| device.weight > 0).count();
    let most = if wanted.all { f64::INFINITY } else { holding as f64 };
    let replicas = f64::from(wanted.replicas).min(most).max(1.0);
    if replicas != ring.replicas() {
        ring.set_replicas(replicas)?;
    }
    let mut moved = ring.rebalance(hours)?.moved;
    let emptied = |ring: &RingBuilder| {
        let loads = ring.loads();
        ring.devices().zip(loads).all(|((device, _), load)| device.weight > 0.0 || load.partitions == 0)
    };
    // Devices without weight are to be empty; what rests after a move waits for a later rebalance.
    for _ in 0..ROUNDS {
        if emptied(ring) {
            break;
        }
        match ring.rebalance(hours)?.moved {
            0 => break,
            more => moved += more,
        }
    }
    Ok(moved)
}
