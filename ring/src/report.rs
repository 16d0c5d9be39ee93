//! How good a ring is.

use serde::Serialize;

use crate::builder::RingBuilder;
use crate::ring::NO_DEVICE;
use crate::target::{Wanted, fair_shares, targets};
use crate::topology::{TIER_NAMES, TIERS, Tree, domain_name};

/// A device's part of the ring.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DeviceLoad {
    /// The device's id.
    pub id: u32,
    /// Replicas that it holds.
    pub partitions: usize,
    /// Replicas that its weight stands for.
    pub share: f64,
    /// Deviation from the share in percent; none when the share is 0.
    pub balance: Option<f64>,
}

/// Dispersion within one tier.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TierDispersion {
    /// `region`, `zone`, `node` or `device`.
    pub tier: &'static str,
    /// Failure domains in the tier.
    pub domains: usize,
    /// Replicas that share their domain with more of the same partition than need be.
    pub crowded: usize,
    /// The domain with most of them, if there are any.
    pub worst: Option<String>,
}

/// How well replicas are kept apart, were weights no matter.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Dispersion {
    /// Replicas in all.
    pub replicas: usize,
    /// By tier, regions first.
    pub tiers: Vec<TierDispersion>,
}

impl Dispersion {
    /// Crowded replicas of the worst tier in percent of all.
    pub fn percent(&self) -> f64 {
        let worst = self.tiers.iter().map(|tier| tier.crowded).max().unwrap_or(0);
        100.0 * worst as f64 / self.replicas.max(1) as f64
    }
}

impl RingBuilder {
    /// Replicas, share and deviation of each device, by ascending id.
    pub fn loads(&self) -> Vec<DeviceLoad> {
        let weights: Vec<f64> = (0..self.devices.len()).map(|i| self.effective_weight(i)).collect();
        let shares = fair_shares(&weights, self.slots_wanted() as f64, self.partitions() as f64);
        let mut held = vec![0; self.devices.len()];
        for &slot in self.assignment.iter().flat_map(|assignment| &assignment.slots) {
            if slot != NO_DEVICE {
                held[usize::from(slot)] += 1;
            }
        }
        let load = |position: usize| {
            let (partitions, share) = (held[position], shares[position]);
            let balance = (share > 0.0).then(|| 100.0 * (partitions as f64 / share - 1.0));
            DeviceLoad { id: self.devices[position].id, partitions, share, balance }
        };
        (0..self.devices.len()).map(load).collect()
    }

    /// Largest deviation of a device from its share, in percent; a device that should be empty and is
    /// not counts as 100.
    pub fn balance(&self) -> f64 {
        let deviation = |load: &DeviceLoad| match load.balance {
            Some(balance) => balance.abs(),
            None => {
                if load.partitions > 0 {
                    100.0
                } else {
                    0.0
                }
            }
        };
        self.loads().iter().map(deviation).fold(0.0, f64::max)
    }

    /// Compares the ring with the widest dispersion that its devices allow.
    pub fn dispersion(&self) -> Dispersion {
        let tree = Tree::new(&self.devices);
        let weights: Vec<f64> = (0..self.devices.len()).map(|i| self.effective_weight(i)).collect();
        let current = vec![0; tree.domains.len()];
        let wanted = Wanted {
            tree: &tree,
            partitions: self.partitions(),
            slots: self.slots_wanted(),
            weights: &weights,
            overload: f64::INFINITY,
            current: &current,
        };
        let allowed: Vec<u32> =
            targets(&wanted).iter().map(|target| target.div_ceil(self.partitions() as u32).max(1)).collect();
        let mut crowded = vec![0; tree.domains.len()];
        let (mut replicas, mut seen) = (0, vec![0u32; tree.domains.len()]);
        for row in self.assignment.iter().flat_map(|assignment| assignment.slots.chunks(assignment.stride)) {
            let leaves =
                || row.iter().filter(|&&slot| slot != NO_DEVICE).map(|&slot| tree.leaf[usize::from(slot)]);
            for leaf in leaves() {
                replicas += 1;
                for &domain in &tree.domains[leaf as usize].path[1..] {
                    seen[domain as usize] += 1;
                    crowded[domain as usize] += usize::from(seen[domain as usize] > allowed[domain as usize]);
                }
            }
            for leaf in leaves() {
                tree.domains[leaf as usize].path[1..].iter().for_each(|&domain| seen[domain as usize] = 0);
            }
        }
        Dispersion { replicas, tiers: self.by_tier(&tree, &crowded) }
    }

    fn by_tier(&self, tree: &Tree, crowded: &[usize]) -> Vec<TierDispersion> {
        let tier = |tier: usize| {
            let members = || (0..tree.domains.len()).filter(move |&id| tree.domains[id].tier == tier + 1);
            let worst = members().filter(|&id| crowded[id] > 0).max_by_key(|&id| crowded[id]);
            let device = |id: usize| {
                (0..self.devices.len())
                    .find(|&i| tree.domains[tree.leaf[i] as usize].path[tier + 1] == id as u32)
            };
            TierDispersion {
                tier: TIER_NAMES[tier],
                domains: members().count(),
                crowded: members().map(|id| crowded[id]).sum(),
                worst: worst.and_then(device).map(|i| domain_name(&self.devices[i], tier)),
            }
        };
        (0..TIERS).map(tier).collect()
    }
}
