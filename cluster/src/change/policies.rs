//! Changes of the storage policies.

use kodiak_ring::{RingBuilder, RingError};
use kodiak_storage_api::{Protection, check_policy_name};

use super::rings::{Wanted, keep_apart, refuses, settle_ring};
use super::{ChangeError, NewPolicy, PolicyUpdate};
use crate::{ClusterMap, Member, Mode, Policy, RingFile};

/// Policies at most: each has a ring in the map.
const MAX_POLICIES: usize = 32;
/// Overload of a code's ring: its fragments are kept apart whatever the devices weigh.
const FRAGMENTS_APART: f64 = 1e6;
/// Copies of a replicated policy at most.
const MAX_REPLICAS: u16 = 16;

/// A policy begins. Nothing moves: only its own ring is made.
pub(super) fn add(map: &mut ClusterMap, new: &NewPolicy, now: u64) -> Result<(), ChangeError> {
    check_new_name(map, &new.name)?;
    if map.policies.len() >= MAX_POLICIES {
        return Err(ChangeError::TooMany { what: "policies".into(), max: MAX_POLICIES });
    }
    if new.mode == Mode::Available && new.protection != Protection::Replicated {
        return Err(ChangeError::AvailableErasure);
    }
    let replicas = match new.protection {
        Protection::Replicated if (1..=MAX_REPLICAS).contains(&new.replicas) => new.replicas,
        Protection::Replicated => return Err(ChangeError::Replicas { max: MAX_REPLICAS }),
        Protection::Erasure(code) => code.fragments() as u16,
    };
    let refuses = |error| refuses(&new.name, &error);
    let first = &map.policies[0].ring.builder().map_err(refuses)?;
    let (power, hours) = (new.part_power.unwrap_or(first.part_power()), first.min_part_hours());
    let seed = first.seed().wrapping_add(map.policies.len() as u64);
    let mut ring = RingBuilder::new(power, 1.0, hours, seed).map_err(refuses)?;
    if matches!(new.protection, Protection::Erasure(_)) {
        ring.set_overload(FRAGMENTS_APART).map_err(refuses)?;
    }
    let mut policy = Policy {
        name: new.name.clone(),
        protection: new.protection,
        replicas,
        mode: new.mode,
        ring: RingFile::of(&ring),
        deprecated: false,
        unmoved: true,
    };
    let members: Vec<Member> = map.active().cloned().collect();
    let settled = settle_ring(&mut ring, &members, Wanted::of(&policy), now);
    policy.ring = match (settled, new.protection) {
        (Ok(_), _) => RingFile::of(&ring),
        // Said by what is looked at next, in words that help.
        (Err(RingError::TooFewDevices { .. }), Protection::Erasure(_)) => policy.ring,
        (Err(error), _) => return Err(refuses(error)),
    };
    keep_apart(map, &policy)?;
    if new.default {
        map.default_policy = map.policies.len() as u16;
    }
    map.policies.push(policy);
    Ok(())
}

/// A policy gets another name, is deprecated or no longer, or becomes the default.
pub(super) fn set(map: &mut ClusterMap, name: &str, update: &PolicyUpdate) -> Result<(), ChangeError> {
    let found = map.policies.iter().position(|policy| policy.name.eq_ignore_ascii_case(name));
    let index = found.ok_or_else(|| ChangeError::NoPolicy { name: name.to_owned() })?;
    if let Some(renamed) = update.name.as_ref().filter(|renamed| **renamed != map.policies[index].name) {
        if !renamed.eq_ignore_ascii_case(name) {
            check_new_name(map, renamed)?;
        }
        map.policies[index].name = renamed.clone();
    }
    if let Some(deprecated) = update.deprecated {
        map.policies[index].deprecated = deprecated;
    }
    if update.default {
        map.default_policy = index as u16;
    }
    if map.policies[usize::from(map.default_policy)].deprecated {
        return Err(ChangeError::DeprecatedDefault { name: name.to_owned() });
    }
    Ok(())
}

fn check_new_name(map: &ClusterMap, name: &str) -> Result<(), ChangeError> {
    check_policy_name(name).map_err(ChangeError::Name)?;
    match map.policies.iter().any(|policy| policy.name.eq_ignore_ascii_case(name)) {
        true => Err(ChangeError::PolicyTaken { name: name.to_owned() }),
        false => Ok(()),
    }
}
