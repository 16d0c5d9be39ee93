//! Stand-ins for a partition's primaries.

use crate::Partition;
use crate::random::mix;
use crate::ring::{Device, Tables};
use crate::topology::TIERS;

/// Walks the devices once for each tier, widest first, and yields those whose domain is still free.
///
/// The walk of a partition starts at a device drawn from the assignment itself, hence in proportion to
/// weights, and proceeds by a step that is coprime to the number of devices, hence visits each once.
pub(crate) struct Handoffs<'r> {
    tables: &'r Tables,
    /// A bit for each domain that holds a primary or an earlier handoff.
    taken: Vec<u64>,
    start: usize,
    step: usize,
    /// 0 to TIERS-1: the tier whose domains must be free; TIERS: devices of weight 0.
    pass: usize,
    walked: usize,
    /// Free domains of each tier: a pass ends early when none is left.
    free: [usize; TIERS],
}

impl<'r> Handoffs<'r> {
    pub(crate) fn new(tables: &'r Tables, partition: Partition) -> Handoffs<'r> {
        let count = tables.devices.len();
        let random = mix(u64::from(partition.number()) ^ 0x68_616E_646F_6666);
        let slots = &tables.assignment.slots;
        let start = slots.get((random % slots.len().max(1) as u64) as usize);
        let step = coprime_step((random >> 32) as usize, count);
        let mut handoffs = Handoffs {
            tables,
            taken: vec![0; tables.domains.total().div_ceil(64)],
            start: start.map_or(0, |&position| usize::from(position) % count.max(1)),
            step,
            pass: 0,
            walked: 0,
            free: tables.domains.counts(),
        };
        for &position in tables.row(partition) {
            if usize::from(position) < count {
                handoffs.mark(usize::from(position));
            }
        }
        handoffs
    }

    fn is_taken(&self, domain: u32) -> bool {
        self.taken[domain as usize / 64] >> (domain % 64) & 1 == 1
    }

    fn mark(&mut self, position: usize) {
        for (tier, domain) in self.tables.domains.of(position).into_iter().enumerate() {
            if !self.is_taken(domain) {
                self.taken[domain as usize / 64] |= 1 << (domain % 64);
                self.free[tier] -= 1;
            }
        }
    }

    fn fits(&self, position: usize) -> bool {
        let domains = self.tables.domains.of(position);
        let drained = self.tables.devices[position].weight <= 0.0;
        match self.pass {
            TIERS => drained && !self.is_taken(domains[TIERS - 1]),
            tier => !drained && !self.is_taken(domains[tier]),
        }
    }
}

impl<'r> Iterator for Handoffs<'r> {
    type Item = &'r Device;

    fn next(&mut self) -> Option<&'r Device> {
        let count = self.tables.devices.len();
        while self.pass <= TIERS {
            if self.walked == count || self.free[self.pass.min(TIERS - 1)] == 0 {
                self.pass += 1;
                self.walked = 0;
                continue;
            }
            let position = (self.start + self.walked * self.step) % count;
            self.walked += 1;
            if self.fits(position) {
                self.mark(position);
                return Some(&self.tables.devices[position]);
            }
        }
        None
    }
}

/// The first number from `wish` (modulo `count`) on that shares no factor with `count`.
fn coprime_step(wish: usize, count: usize) -> usize {
    let mut step = wish % count.max(1);
    while gcd(step, count) != 1 && step < count {
        step += 1;
    }
    step.max(1)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
