//! Changes of the members and their devices.

use std::net::SocketAddr;

use super::rings::{held, keep_fragments, keep_replicas, settle_rings};
use super::{Admission, ChangeError};
use crate::map::check_name;
use crate::{ClusterMap, MAX_MEMBERS, Member, MemberDevice, MemberState, Removed, Token, TokenHash};

/// Removed members that are remembered.
const REMEMBERED: usize = 256;
/// Tokens that may be good at once.
const MAX_TOKENS: usize = 1000;

pub(super) fn add_token(map: &mut ClusterMap, hash: TokenHash, expires: u64) -> Result<(), ChangeError> {
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
pub(super) fn admit(
    map: &mut ClusterMap,
    new: &Admission,
    token: &Token,
    now: u64,
) -> Result<bool, ChangeError> {
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
pub(super) fn present(
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

pub(super) fn drain(map: &mut ClusterMap, name: &str, now: u64) -> Result<(), ChangeError> {
    let member = find_mut(map, name)?;
    if matches!(member.state, MemberState::Joining { .. }) {
        return Err(ChangeError::NotUp { name: name.to_owned() });
    }
    member.state = MemberState::Draining;
    member.devices.iter_mut().for_each(|device| device.weight = 0);
    keep_replicas(map)?;
    settle_rings(map, now).map(drop)
}

pub(super) fn remove(map: &mut ClusterMap, name: &str, force: bool, now: u64) -> Result<(), ChangeError> {
    find_mut(map, name)?;
    let partitions = held(map, |node, _| node == name)?;
    if partitions > 0 && !force {
        return Err(ChangeError::StillHolds { name: name.to_owned(), partitions });
    }
    forget(map, name)?;
    if force {
        keep_fragments(map)?
    } else {
        keep_replicas(map)?
    }
    settle_rings(map, now).map(drop)
}

pub(super) fn replace(map: &mut ClusterMap, old: &str, new: &str, now: u64) -> Result<(), ChangeError> {
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
    keep_fragments(map)?;
    settle_rings(map, now).map(drop)
}

pub(super) fn remove_device(
    map: &mut ClusterMap,
    node: &str,
    device: &str,
    now: u64,
) -> Result<(), ChangeError> {
    device_mut(map, node, device)?;
    find_mut(map, node)?.devices.retain(|own| own.name != device);
    keep_replicas(map)?;
    settle_rings(map, now).map(drop)
}

fn find_mut<'m>(map: &'m mut ClusterMap, name: &str) -> Result<&'m mut Member, ChangeError> {
    map.member_mut(name).ok_or_else(|| ChangeError::NoMember { name: name.to_owned() })
}

pub(super) fn device_mut<'m>(
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
