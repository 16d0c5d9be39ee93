//! Changes of the map: each a function from a map to the next one. Pure.

use std::net::SocketAddr;

use kodiak_ring::{NewDevice, RingBuilder, RingError};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::map::{MapError, check_name};
use crate::{
    ClusterMap, KeyDigest, MAX_MEMBERS, Member, MemberDevice, MemberState, Removed, RingFile, Token,
    TokenHash,
};

/// Removed members that are remembered.
const REMEMBERED: usize = 256;
/// Tokens that may be good at once.
const MAX_TOKENS: usize = 1000;
/// Seconds for which a token that has expired is remembered, so that its bearer is told so.
const TOLD: u64 = 86_400;
/// A rebalance moves one replica of a partition; a member with several devices may hold more.
const ROUNDS: usize = 8;

/// What is to change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// A machine may join with this token.
    AddToken {
        /// Hash of its secret.
        hash: TokenHash,
        /// Second since 1970 from which on it is refused.
        expires: u64,
    },
    /// A machine joins: it becomes a member without a vote that holds nothing.
    Admit(Admission),
    /// A member is up, here and with these disks: what it has is put into the rings the first time.
    Present {
        /// The member.
        name: String,
        /// Where it serves the cluster.
        address: SocketAddr,
        /// All its devices.
        devices: Vec<MemberDevice>,
    },
    /// A member gives its partitions away.
    Drain {
        /// The member.
        name: String,
    },
    /// A member is none any more; its certificates are refused.
    Remove {
        /// The member.
        name: String,
        /// Even if it still holds partitions.
        force: bool,
    },
    /// One member takes the place of another, which is removed.
    Replace {
        /// Who goes.
        old: String,
        /// Who takes its place: at once if it is up, else when it is up for the first time.
        new: String,
    },
    /// A device gives its partitions away and leaves the rings.
    RemoveDevice {
        /// The member that has it.
        node: String,
        /// The device.
        device: String,
    },
    /// A device is to hold another share.
    SetWeight {
        /// The member that has it.
        node: String,
        /// The device.
        device: String,
        /// Thousandths of the rings' weight.
        weight: u64,
    },
    /// The rings move one replica of a partition more, where that evens them out.
    Rebalance,
}

/// A machine that wants to join.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Admission {
    /// Hash of its token's secret.
    pub token: TokenHash,
    /// Its public key.
    pub key: KeyDigest,
    /// The name it wants.
    pub name: String,
    /// Region.
    pub region: u32,
    /// Zone within the region.
    pub zone: u32,
    /// Where it will serve the cluster; port 0 if that shows only then.
    pub address: SocketAddr,
}

/// Why a change is refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum ChangeError {
    /// Nobody has that name.
    #[error("{name:?} is no member; `kodiak cluster status` lists them")]
    NoMember {
        /// The name.
        name: String,
    },
    /// Somebody else has it.
    #[error(
        "a member is called {name} already: choose another name with --node, or `kodiak node remove {name}`"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// It cannot be one.
    #[error("{0}")]
    Name(String),
    /// The cluster never made it, or it expired long ago.
    #[error("the join token is not known here: make a new one with `kodiak cluster token`")]
    TokenUnknown,
    /// Too late.
    #[error("the join token has expired: make a new one with `kodiak cluster token`")]
    TokenExpired,
    /// Another machine has used it.
    #[error(
        "the join token was used already, and each admits one machine: make a new one with `kodiak cluster token`"
    )]
    TokenUsed,
    /// Too many of something.
    #[error("there are {max} {what} already, and no more are possible")]
    TooMany {
        /// What.
        what: String,
        /// How many.
        max: usize,
    },
    /// Not enough devices would be left.
    #[error("only {left} devices with weight would be left for {replicas} replicas: add devices first")]
    TooFewDevices {
        /// How many.
        left: usize,
        /// How many are needed.
        replicas: u16,
    },
    /// Its data would lack a replica.
    #[error(
        "{name} still holds {partitions} partitions: `kodiak node drain {name}` first, or --force if the machine is lost"
    )]
    StillHolds {
        /// The member.
        name: String,
        /// Replicas on its devices, of all rings.
        partitions: u64,
    },
    /// A cluster has one at least.
    #[error("{name} is the last member with a vote: a cluster needs one")]
    LastMember {
        /// The member.
        name: String,
    },
    /// There is no such device.
    #[error("{node} has no device {device}; `kodiak cluster status` lists them")]
    NoDevice {
        /// The member.
        node: String,
        /// The device.
        device: String,
    },
    /// It has not been up yet.
    #[error("{name} has not been up yet: start it with `kodiak up` there first")]
    NotUp {
        /// The member.
        name: String,
    },
    /// Both must be different.
    #[error("a member cannot take its own place: name two")]
    Itself,
    /// A ring does not let it.
    #[error("the {ring} ring refuses: {error}")]
    Ring {
        /// Which one.
        ring: String,
        /// What it says.
        error: String,
    },
    /// The map cannot be used.
    #[error("{0}")]
    Map(String),
}

impl From<MapError> for ChangeError {
    fn from(error: MapError) -> ChangeError {
        ChangeError::Map(error.to_string())
    }
}

/// The map after a change at `now`, seconds since 1970; none if everything is so already.
///
/// # Errors
/// When the change is not possible.
pub fn apply(map: &ClusterMap, change: &Change, now: u64) -> Result<Option<ClusterMap>, ChangeError> {
    let mut next = map.clone();
    next.tokens.retain(|token| token.expires.saturating_add(TOLD) > now);
    match change {
        Change::AddToken { hash, .. } if map.tokens.iter().any(|token| token.hash == *hash) => {
            return Ok(None);
        }
        Change::AddToken { hash, expires } => add_token(&mut next, *hash, *expires)?,
        Change::Admit(admission) => {
            // The token of the map, so that one that has expired is told from one that never was.
            let token = map.tokens.iter().find(|token| bool::from(token.hash.0.ct_eq(&admission.token.0)));
            if !admit(&mut next, admission, token.ok_or(ChangeError::TokenUnknown)?, now)? {
                return Ok(None);
            }
        }
        Change::Present { name, address, devices } => {
            if !present(&mut next, name, *address, devices, now)? {
                return Ok(None);
            }
        }
        Change::Drain { name } => drain(&mut next, name, now)?,
        Change::Remove { name, force } => remove(&mut next, name, *force, now)?,
        Change::Replace { old, new } => replace(&mut next, old, new, now)?,
        Change::RemoveDevice { node, device } => remove_device(&mut next, node, device, now)?,
        Change::SetWeight { node, device, weight } => {
            device_mut(&mut next, node, device)?.weight = *weight;
            settle_rings(&mut next, now)?;
        }
        Change::Rebalance => {
            if settle_rings(&mut next, now)? == 0 {
                return Ok(None);
            }
        }
    }
    let follows = map.digest()?;
    (next.epoch, next.follows) = (map.epoch.next(), follows);
    Ok(Some(next))
}

fn add_token(map: &mut ClusterMap, hash: TokenHash, expires: u64) -> Result<(), ChangeError> {
    if map.tokens.len() >= MAX_TOKENS {
        // Used ones are kept only to say so.
        map.tokens.retain(|token| token.used_by.is_none());
    }
    if map.tokens.len() >= MAX_TOKENS {
        return Err(ChangeError::TooMany { what: "join tokens".into(), max: MAX_TOKENS });
    }
    map.tokens.push(Token { hash, expires, used_by: None });
    Ok(())
}

/// Whether the map changes: a machine that did not hear the answer asks again with its token and key.
fn admit(map: &mut ClusterMap, new: &Admission, token: &Token, now: u64) -> Result<bool, ChangeError> {
    match token.used_by {
        Some(key) if key == new.key && map.member(&new.name).is_some_and(|m| m.key == key) => {
            return Ok(false);
        }
        Some(_) => return Err(ChangeError::TokenUsed),
        None if token.expires <= now => return Err(ChangeError::TokenExpired),
        None => {}
    }
    check_name(&new.name).map_err(ChangeError::Name)?;
    if map.members.len() >= MAX_MEMBERS {
        return Err(ChangeError::TooMany { what: "members".into(), max: MAX_MEMBERS });
    }
    let place = map.members.binary_search_by(|member| member.name.cmp(&new.name));
    let Err(place) = place else { return Err(ChangeError::NameTaken { name: new.name.clone() }) };
    let member = Member {
        name: new.name.clone(),
        clock: map.next_clock,
        address: new.address,
        region: new.region,
        zone: new.zone,
        devices: Vec::new(),
        key: new.key,
        state: MemberState::Joining { replaces: None },
    };
    map.members.insert(place, member);
    map.next_clock += 1;
    for token in map.tokens.iter_mut().filter(|token| token.hash == new.token) {
        token.used_by = Some(new.key);
    }
    Ok(true)
}

/// Whether the map changes.
fn present(
    map: &mut ClusterMap,
    name: &str,
    address: SocketAddr,
    devices: &[MemberDevice],
    now: u64,
) -> Result<bool, ChangeError> {
    let member = find_mut(map, name)?;
    let replaces = match &member.state {
        MemberState::Joining { replaces } => Some(replaces.clone()),
        MemberState::Active | MemberState::Draining => None,
    };
    let known = |device: &MemberDevice| member.devices.iter().find(|own| own.name == device.name);
    let fresh = devices.iter().filter(|device| known(device).is_none()).count();
    let changed = devices.iter().any(|device| known(device).is_none_or(|own| own.disk != device.disk));
    if replaces.is_none() && !changed && member.address == address {
        return Ok(false);
    }
    member.address = address;
    let draining = member.state == MemberState::Draining;
    for device in devices {
        match member.devices.iter_mut().find(|own| own.name == device.name) {
            // The weight is the map's, unless the device is new.
            Some(own) => own.disk = device.disk,
            None => member
                .devices
                .push(MemberDevice { weight: if draining { 0 } else { device.weight }, ..device.clone() }),
        }
    }
    if let Some(replaced) = &replaces {
        member.state = MemberState::Active;
        if let Some(old) = replaced.as_ref().filter(|old| map.member(old).is_some()) {
            forget(map, &old.clone())?;
        }
    }
    if fresh > 0 || replaces.is_some() {
        settle_rings(map, now)?;
    }
    Ok(true)
}

fn drain(map: &mut ClusterMap, name: &str, now: u64) -> Result<(), ChangeError> {
    let member = find_mut(map, name)?;
    if matches!(member.state, MemberState::Joining { .. }) {
        return Err(ChangeError::NotUp { name: name.to_owned() });
    }
    member.state = MemberState::Draining;
    member.devices.iter_mut().for_each(|device| device.weight = 0);
    keep_replicas(map)?;
    settle_rings(map, now).map(drop)
}

fn remove(map: &mut ClusterMap, name: &str, force: bool, now: u64) -> Result<(), ChangeError> {
    find_mut(map, name)?;
    let partitions = held(map, |node, _| node == name)?;
    if partitions > 0 && !force {
        return Err(ChangeError::StillHolds { name: name.to_owned(), partitions });
    }
    forget(map, name)?;
    if !force {
        keep_replicas(map)?;
    }
    settle_rings(map, now).map(drop)
}

fn replace(map: &mut ClusterMap, old: &str, new: &str, now: u64) -> Result<(), ChangeError> {
    if old == new {
        return Err(ChangeError::Itself);
    }
    find_mut(map, old)?;
    let member = find_mut(map, new)?;
    if let MemberState::Joining { replaces } = &mut member.state {
        *replaces = Some(old.to_owned());
        return Ok(());
    }
    forget(map, old)?;
    settle_rings(map, now).map(drop)
}

fn remove_device(map: &mut ClusterMap, node: &str, device: &str, now: u64) -> Result<(), ChangeError> {
    device_mut(map, node, device)?;
    find_mut(map, node)?.devices.retain(|own| own.name != device);
    keep_replicas(map)?;
    settle_rings(map, now).map(drop)
}

fn find_mut<'m>(map: &'m mut ClusterMap, name: &str) -> Result<&'m mut Member, ChangeError> {
    map.member_mut(name).ok_or_else(|| ChangeError::NoMember { name: name.to_owned() })
}

fn device_mut<'m>(
    map: &'m mut ClusterMap,
    node: &str,
    device: &str,
) -> Result<&'m mut MemberDevice, ChangeError> {
    let own = find_mut(map, node)?.devices.iter_mut().find(|own| own.name == device);
    own.ok_or_else(|| ChangeError::NoDevice { node: node.to_owned(), device: device.to_owned() })
}

/// Takes a member out of the list.
fn forget(map: &mut ClusterMap, name: &str) -> Result<(), ChangeError> {
    let member = find_mut(map, name)?.clone();
    map.members.retain(|other| other.name != name);
    if map.active().next().is_none() {
        return Err(ChangeError::LastMember { name: name.to_owned() });
    }
    map.removed.push(Removed { name: member.name, key: member.key, epoch: map.epoch.next() });
    let surplus = map.removed.len().saturating_sub(REMEMBERED);
    map.removed.drain(..surplus);
    Ok(())
}

/// Refuses what leaves fewer devices than there are replicas now.
fn keep_replicas(map: &ClusterMap) -> Result<(), ChangeError> {
    let left = map.members.iter().flat_map(|m| &m.devices).filter(|device| device.weight > 0).count();
    for (name, file, _) in map.rings() {
        let ring = file.builder().map_err(|error| refuses(&name, &error))?;
        if (left as f64) < ring.replicas() {
            return Err(ChangeError::TooFewDevices { left, replicas: ring.replicas().ceil() as u16 });
        }
    }
    Ok(())
}

/// Replicas of all rings on devices of which `on` says so, by node and name.
fn held(map: &ClusterMap, on: impl Fn(&str, &str) -> bool) -> Result<u64, ChangeError> {
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

fn refuses(ring: &str, error: &RingError) -> ChangeError {
    ChangeError::Ring { ring: ring.to_owned(), error: error.to_string() }
}

/// Brings all rings to what the members say, and moves as little as that asks for; how many replicas were moved.
fn settle_rings(map: &mut ClusterMap, now: u64) -> Result<usize, ChangeError> {
    let members: Vec<Member> = map.active().cloned().collect();
    let hours = u32::try_from(now / 3600).unwrap_or(u32::MAX);
    let mut moved = 0;
    let mut settled = |name: &str, file: &RingFile, wanted: u16| {
        let mut ring = file.builder().map_err(|error| refuses(name, &error))?;
        moved += settle_ring(&mut ring, &members, wanted, hours).map_err(|error| refuses(name, &error))?;
        Ok::<_, ChangeError>(RingFile::of(&ring))
    };
    map.accounts = settled("account", &map.accounts, map.directory_replicas)?;
    map.containers = settled("container", &map.containers, map.directory_replicas)?;
    let policies = map.policies.clone();
    for (policy, old) in map.policies.iter_mut().zip(policies) {
        policy.ring = settled(&old.name, &old.ring, old.replicas)?;
    }
    Ok(moved)
}

fn settle_ring(
    ring: &mut RingBuilder,
    members: &[Member],
    wanted: u16,
    hours: u32,
) -> Result<usize, RingError> {
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
    let replicas = f64::from(wanted).min(holding as f64).max(1.0);
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

#[cfg(test)]
mod tests;
