//! Changes of the map: each a function from a map to the next one. Pure.

use std::net::SocketAddr;

use kodiak_storage_api::Protection;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::{ClusterMap, KeyDigest, MemberDevice, Mode, TokenHash};

mod error;
mod members;
mod policies;
mod rings;

pub use error::ChangeError;
pub use rings::partitions_of;

/// Seconds for which a token that has expired is remembered, so that its bearer is told so.
const TOLD: u64 = 86_400;

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
    /// A storage policy begins, with a ring of its own.
    AddPolicy(NewPolicy),
    /// A storage policy changes in what does not move data.
    SetPolicy {
        /// Its name.
        name: String,
        /// What changes.
        update: PolicyUpdate,
    },
    /// Rings that have fewer get 2^power partitions. Nothing moves: each is where the one is that it was cut
    /// from.
    IncreasePartPower {
        /// Bits of a place that choose the partition.
        power: u8,
    },
}

/// A storage policy that is to begin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewPolicy {
    /// Its name.
    pub name: String,
    /// How blocks are kept.
    pub protection: Protection,
    /// Copies of everything once there are as many devices; with an erasure code its fragments.
    pub replicas: u16,
    /// Bits: its ring gets 2^N partitions. Default: as many as the first policy's has.
    pub part_power: Option<u8>,
    /// Containers that name no policy get this one from now on.
    pub default: bool,
    /// What happens when a majority is gone.
    pub mode: Mode,
}

/// What may change of a storage policy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PolicyUpdate {
    /// Another name. Containers keep the policy.
    pub name: Option<String>,
    /// Whether it takes no new containers.
    pub deprecated: Option<bool>,
    /// Containers that name no policy get this one from now on.
    pub default: bool,
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
        Change::AddToken { hash, expires } => members::add_token(&mut next, *hash, *expires)?,
        Change::Admit(admission) => {
            // The token of the map, so that one that has expired is told from one that never was.
            let token = map.tokens.iter().find(|token| bool::from(token.hash.0.ct_eq(&admission.token.0)));
            if !members::admit(&mut next, admission, token.ok_or(ChangeError::TokenUnknown)?, now)? {
                return Ok(None);
            }
        }
        Change::Present { name, address, devices } => {
            if !members::present(&mut next, name, *address, devices, now)? {
                return Ok(None);
            }
        }
        Change::Drain { name } => members::drain(&mut next, name, now)?,
        Change::Remove { name, force } => members::remove(&mut next, name, *force, now)?,
        Change::Replace { old, new } => members::replace(&mut next, old, new, now)?,
        Change::RemoveDevice { node, device } => members::remove_device(&mut next, node, device, now)?,
        Change::SetWeight { node, device, weight } => {
            members::device_mut(&mut next, node, device)?.weight = *weight;
            rings::keep_replicas(&next)?;
            rings::settle_rings(&mut next, now)?;
        }
        Change::Rebalance => {
            if rings::settle_rings(&mut next, now)? == 0 {
                return Ok(None);
            }
        }
        Change::IncreasePartPower { power } => {
            if !rings::increase_part_power(&mut next, *power)? {
                return Ok(None);
            }
        }
        Change::AddPolicy(new) => policies::add(&mut next, new, now)?,
        Change::SetPolicy { name, update } => {
            policies::set(&mut next, name, update)?;
            if (&next.policies, next.default_policy) == (&map.policies, map.default_policy) {
                return Ok(None);
            }
        }
    }
    let follows = map.digest()?;
    (next.epoch, next.follows) = (map.epoch.next(), follows);
    Ok(Some(next))
}

#[cfg(test)]
mod tests;
