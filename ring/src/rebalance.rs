//! From the old assignment to the new one.
//!
//! First the targets of all failure domains ([`target`](crate::target)), then tier by tier from the
//! regions down: every slot (a replica of a partition) that has no place in the tier yet gets one, and
//! slots of domains above their target move to domains below it ([`settle`](crate::settle)). A slot that
//! stays in its domain at one tier is looked at again one tier below, until each lies on a device.

use crate::RingError;
use crate::builder::RingBuilder;
use crate::random::{Random, mix};
use crate::ring::{Assignment, NO_DEVICE};
use crate::settle::{NOWHERE, Plan};
use crate::target::{Wanted, targets};
use crate::topology::{DomainId, ROOT, Tree};

/// Rebalances and returns how many replicas moved or were placed.
pub(crate) fn run(builder: &mut RingBuilder, now: u32) -> Result<usize, RingError> {
    let weights: Vec<f64> = (0..builder.devices.len()).map(|i| builder.effective_weight(i)).collect();
    let usable = weights.iter().filter(|&&weight| weight > 0.0).count();
    let stride = builder.replicas.ceil() as usize;
    if usable < stride {
        return Err(RingError::TooFewDevices { replicas: stride, devices: usable });
    }
    let tree = Tree::new(&builder.devices);
    let (mut places, mut movable) = start(builder, &tree, now);
    let current = tally(&tree, &places);
    let wanted = Wanted {
        tree: &tree,
        partitions: builder.partitions(),
        slots: builder.slots_wanted(),
        weights: &weights,
        overload: builder.overload,
        current: &current,
    };
    let targets = targets(&wanted);
    if builder.assignment.as_ref().is_some_and(|old| !old.slots.is_empty()) {
        fit_replicas(builder, &tree, &targets, &mut places);
    } else {
        fill_rows(builder, &mut places);
    }
    freeze_unplaced(builder, &places, &mut movable);
    let random = Random::new(mix(builder.seed) ^ builder.epoch);
    let mut plan = Plan::new(&tree, targets, &weights, places, movable, random);
    plan.run();
    Ok(finish(builder, &tree, &plan, now))
}

/// The old rows as domains, in rows of the new length and those of leaving devices set free; and which
/// partitions may move.
fn start(builder: &RingBuilder, tree: &Tree, now: u32) -> (Vec<DomainId>, Vec<bool>) {
    let stride = builder.replicas.ceil() as usize;
    let old_stride = builder.assignment.as_ref().map_or(0, |old| old.stride);
    let width = stride.max(old_stride);
    let partitions = builder.partitions();
    let mut places = vec![NOWHERE; partitions * width];
    if let Some(old) = &builder.assignment {
        for partition in 0..partitions {
            let row = &mut places[partition * width..][..width];
            for (place, &position) in row.iter_mut().zip(old.row(partition)) {
                if position != NO_DEVICE {
                    let leaves = builder.removed[usize::from(position)];
                    *place = if leaves { ROOT } else { tree.leaf[usize::from(position)] };
                }
            }
        }
    }
    let rested = |&moved: &u32| moved == 0 || now.saturating_sub(moved - 1) >= builder.min_part_hours;
    let movable = match builder.moved_at.len() == partitions {
        true => builder.moved_at.iter().map(rested).collect(),
        false => vec![true; partitions],
    };
    (places, movable)
}

/// Replicas in each domain.
fn tally(tree: &Tree, places: &[DomainId]) -> Vec<u32> {
    let mut counts = vec![0.0; tree.leaf.len()];
    for &place in places {
        if let Some(position) = tree.domains.get(place as usize).and_then(|domain| domain.device) {
            counts[position] += 1.0;
        }
    }
    tree.sum(|position| counts[position]).into_iter().map(|count| count as u32).collect()
}

/// Replicas that `partition` should have: a fractional count gives the first partitions one more.
fn replicas_of(builder: &RingBuilder, partition: usize) -> usize {
    let partitions = builder.partitions();
    let slots = builder.slots_wanted();
    slots / partitions + usize::from(partition < slots % partitions)
}

/// Opens slots for all replicas of an empty ring.
fn fill_rows(builder: &RingBuilder, places: &mut [DomainId]) {
    let stride = builder.replicas.ceil() as usize;
    for (partition, row) in places.chunks_mut(stride).enumerate() {
        row[..replicas_of(builder, partition)].fill(ROOT);
    }
}

/// Gives each partition its number of replicas: opens slots, or drops the least useful ones.
fn fit_replicas(builder: &RingBuilder, tree: &Tree, targets: &[u32], places: &mut Vec<DomainId>) {
    let stride = builder.replicas.ceil() as usize;
    let width = places.len() / builder.partitions();
    let mut counts = tally(tree, places);
    for (partition, row) in places.chunks_mut(width).enumerate() {
        let wanted = replicas_of(builder, partition);
        // Open slots are dropped first, else the replica that crowds its domains most.
        while row.iter().filter(|&&place| place != NOWHERE).count() > wanted {
            let cost =
                |&i: &usize| (row[i] != ROOT, std::cmp::Reverse(crowding(tree, row, i, &counts, targets)));
            let Some(drop) = (0..width).filter(|&i| row[i] != NOWHERE).min_by_key(cost) else { break };
            if row[drop] != ROOT {
                for &domain in &tree.domains[row[drop] as usize].path {
                    counts[domain as usize] -= 1;
                }
            }
            row[drop] = NOWHERE;
        }
        let missing = wanted - row.iter().filter(|&&place| place != NOWHERE).count();
        row.iter_mut().filter(|place| **place == NOWHERE).take(missing).for_each(|place| *place = ROOT);
        // The order of the replicas stays; absent ones go to the end.
        row.sort_by_key(|&place| place == NOWHERE);
    }
    if width > stride {
        *places = places.chunks(width).flat_map(|row| row[..stride].iter().copied()).collect();
    }
}

/// How useful it is to drop replica `i`: neighbours in its own domains, then its device's surplus.
fn crowding(tree: &Tree, row: &[DomainId], i: usize, counts: &[u32], targets: &[u32]) -> (usize, i64) {
    let Some(domain) = tree.domains.get(row[i] as usize).filter(|_| row[i] != ROOT) else { return (0, 0) };
    let path = domain.path;
    let neighbours = row
        .iter()
        .filter_map(|&other| tree.domains.get(other as usize))
        .map(|other| (1..path.len()).filter(|&tier| other.path[tier] == path[tier]).count())
        .sum();
    let surplus = path[1..].iter().map(|&d| i64::from(counts[d as usize]) - i64::from(targets[d as usize]));
    (neighbours, surplus.sum())
}

/// A partition with a slot to place keeps its other replicas where they are.
fn freeze_unplaced(builder: &RingBuilder, places: &[DomainId], movable: &mut [bool]) {
    let stride = builder.replicas.ceil() as usize;
    for (row, movable) in places.chunks(stride).zip(movable) {
        let placed = row.iter().any(|&place| place != ROOT && place != NOWHERE);
        if placed && row.contains(&ROOT) {
            *movable = false;
        }
    }
}

/// Writes the plan into the builder, forgets the devices that left, and counts the moves.
fn finish(builder: &mut RingBuilder, tree: &Tree, plan: &Plan, now: u32) -> usize {
    let stride = plan.stride();
    let kept: Vec<usize> = (0..builder.devices.len()).filter(|&i| !builder.removed[i]).collect();
    let mut renumbered = vec![NO_DEVICE; builder.devices.len()];
    for (new, &old) in kept.iter().enumerate() {
        renumbered[old] = new as u16;
    }
    let to_position = |&place: &DomainId| {
        let device = tree.domains.get(place as usize).and_then(|domain| domain.device);
        device.map_or(NO_DEVICE, |position| renumbered[position])
    };
    let mut slots: Vec<u16> = plan.places().iter().map(to_position).collect();
    let mut order = Random::new(mix(builder.seed.wrapping_add(1)) ^ builder.epoch);
    builder.moved_at.resize(builder.partitions(), 0);
    let mut moved = 0;
    for partition in 0..builder.partitions() {
        let fresh = plan.fresh()[partition * stride..][..stride].iter().filter(|&&fresh| fresh).count();
        let row = &mut slots[partition * stride..][..stride];
        let present = row.iter().filter(|&&slot| slot != NO_DEVICE).count();
        moved += fresh;
        // Where every device has a replica of every partition, each would have the same place everywhere, and the
        // first ones do more. Places of what is there already stay: a fragment of an erasure code is known by its.
        if fresh == present {
            row.sort_by_key(|&slot| slot == NO_DEVICE);
            order.shuffle(&mut row[..present]);
        }
        // A partition that is placed for the first time has nothing to copy yet.
        if fresh > 0 && fresh < present {
            builder.moved_at[partition] = now.saturating_add(1);
        }
    }
    builder.assignment = Some(Assignment { stride, slots });
    let removed = std::mem::take(&mut builder.removed);
    let mut removed = removed.into_iter();
    builder.devices.retain(|_| !removed.next().unwrap_or(false));
    builder.removed = vec![false; builder.devices.len()];
    moved
}
