//! What a ring promises, for any cluster.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, HashSet};

use kodiak_ring::{Device, NewDevice, Partition, Ring, RingBuilder, RingError};
use proptest::prelude::*;

/// A cluster to build: (region, zone, node, weight) of each device.
type Shape = Vec<(u32, u32, u32, f64)>;

fn build(power: u8, replicas: f64, overload: f64, shape: &Shape) -> RingBuilder {
    let mut builder = RingBuilder::new(power, replicas, 0, 7).unwrap();
    builder.set_overload(overload).unwrap();
    for (i, (region, zone, node, weight)) in shape.iter().enumerate() {
        add(&mut builder, *region, *zone, *node, &format!("d{i}"), *weight);
    }
    builder
}

fn add(builder: &mut RingBuilder, region: u32, zone: u32, node: u32, name: &str, weight: f64) -> u32 {
    let node = format!("n{region}-{zone}-{node}");
    builder.add_device(NewDevice::new(region, zone, &node, name).weight(weight)).unwrap()
}

fn rows(ring: &Ring) -> Vec<Vec<u32>> {
    ring.all_partitions().map(|p| ring.primaries(p).map(|device| device.id).collect()).collect()
}

/// Replicas of `after` that were not in the same partition `before`.
fn moved(before: &[Vec<u32>], after: &[Vec<u32>]) -> usize {
    before.iter().zip(after).map(|(b, a)| a.iter().filter(|id| !b.contains(id)).count()).sum()
}

fn held(rows: &[Vec<u32>]) -> BTreeMap<u32, usize> {
    let mut held = BTreeMap::new();
    rows.iter().flatten().for_each(|id| *held.entry(*id).or_default() += 1);
    held
}

fn domains(device: &Device) -> [String; 3] {
    let (region, zone) = (device.region, device.zone);
    [format!("{region}"), format!("{region}/{zone}"), format!("{region}/{zone}/{}", device.node)]
}

/// Every failure domain holds the average of all partitions' replicas of each, rounded up or down:
/// two of one partition meet in a domain only if its load demands it.
fn assert_dispersed(ring: &Ring, partitions: usize) {
    let mut total: BTreeMap<String, usize> = BTreeMap::new();
    let mut most: BTreeMap<String, usize> = BTreeMap::new();
    let mut least: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for p in ring.all_partitions() {
        let mut here: BTreeMap<String, usize> = BTreeMap::new();
        for device in ring.primaries(p) {
            for domain in domains(device) {
                *here.entry(domain.clone()).or_default() += 1;
                *total.entry(domain).or_default() += 1;
            }
        }
        for (domain, count) in here {
            let (fewest, partitions) = least.entry(domain.clone()).or_insert((count, 0));
            (*fewest, *partitions) = (count.min(*fewest), *partitions + 1);
            let most = most.entry(domain).or_default();
            *most = count.max(*most);
        }
    }
    for (domain, most) in most {
        let fair = total[&domain].div_ceil(partitions);
        assert!(most <= fair, "{domain} holds {most} replicas of a partition, {fair} would do");
        let (fewest, present) = least[&domain];
        let fewest = if present < partitions { 0 } else { fewest };
        let fair = total[&domain] / partitions;
        assert!(fewest >= fair, "{domain} holds {fewest} replicas of a partition, {fair} are possible");
    }
}

fn assert_distinct(ring: &Ring, replicas: usize) {
    for (p, row) in rows(ring).iter().enumerate() {
        let distinct: HashSet<&u32> = row.iter().collect();
        assert_eq!(distinct.len(), replicas, "partition {p}: {row:?}");
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let weight = prop_oneof![Just(100.0), 50.0..200.0_f64];
    prop::collection::vec((1..3u32, 1..4u32, 1..4u32, weight), 6..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_new_ring_is_balanced_dispersed_and_complete(
        shape in shapes(), replicas in 1..5usize, overload in prop_oneof![Just(0.0), Just(0.1), Just(10.0)],
    ) {
        let mut builder = build(9, replicas as f64, overload, &shape);
        builder.rebalance(0).unwrap();
        let ring = builder.ring().unwrap();
        assert_distinct(&ring, replicas);
        assert_dispersed(&ring, builder.partitions());
        for load in builder.loads() {
            let upper = (load.share * (1.0 + overload)).min(512.0) + 4.0;
            prop_assert!(load.partitions as f64 <= upper, "{load:?}");
            if overload == 0.0 {
                prop_assert!((load.partitions as f64 - load.share).abs() <= 4.0, "{load:?}");
            }
        }
    }

    #[test]
    fn a_seed_and_changes_give_the_same_ring(shape in shapes()) {
        let mut first = build(7, 3.0, 0.1, &shape);
        let mut second = build(7, 3.0, 0.1, &shape);
        for builder in [&mut first, &mut second] {
            builder.rebalance(1).unwrap();
            builder.set_weight(0, 10.0).unwrap();
            builder.rebalance(2).unwrap();
        }
        prop_assert_eq!(first, second);
    }

    #[test]
    fn rebalances_converge_to_balance_and_dispersion_after_changes(
        shape in shapes(), gone in 0..6u32, weight in 0.0..300.0_f64, overload in prop_oneof![Just(0.0), Just(0.1)],
    ) {
        let mut builder = build(9, 3.0, overload, &shape);
        builder.rebalance(0).unwrap();
        builder.remove_device(gone).unwrap();
        builder.set_weight((gone + 1) % 6, weight).unwrap();
        add(&mut builder, 1, 1, 1, "new", 150.0);
        add(&mut builder, 3, 1, 1, "far", 150.0);
        for hour in 1..12 {
            builder.rebalance(hour).unwrap();
            assert_distinct(&builder.ring().unwrap(), 3);
        }
        let ring = builder.ring().unwrap();
        prop_assert!(ring.devices().all(|device| device.id != gone));
        assert_dispersed(&ring, builder.partitions());
        for load in builder.loads() {
            prop_assert!(load.partitions as f64 <= load.share * (1.0 + overload) + 4.0, "{load:?}");
        }
        prop_assert_eq!(builder.rebalance(100).unwrap().moved, 0);
    }

    #[test]
    fn no_rebalance_moves_two_replicas_of_a_partition(shape in shapes(), weight in 0.0..300.0_f64) {
        let mut builder = build(8, 3.0, 0.1, &shape);
        builder.rebalance(0).unwrap();
        for hour in 1..4 {
            let before = rows(&builder.ring().unwrap());
            builder.set_weight(hour, weight).unwrap();
            add(&mut builder, hour, 1, 9, "late", 100.0);
            builder.rebalance(hour).unwrap();
            let after = rows(&builder.ring().unwrap());
            for (before, after) in before.iter().zip(&after) {
                prop_assert!(after.iter().filter(|id| !before.contains(id)).count() <= 1);
            }
        }
    }

    #[test]
    fn replica_counts_change_without_moving_what_stays(shape in shapes(), fraction in 0.0..1.0_f64) {
        let mut builder = build(8, 2.0, 0.0, &shape);
        builder.rebalance(0).unwrap();
        let before = rows(&builder.ring().unwrap());
        builder.set_replicas(3.0).unwrap();
        builder.rebalance(1).unwrap();
        let grown = rows(&builder.ring().unwrap());
        for (before, grown) in before.iter().zip(&grown) {
            prop_assert!(before.iter().all(|id| grown.contains(id)), "{before:?} {grown:?}");
        }
        assert_distinct(&builder.ring().unwrap(), 3);
        builder.set_replicas(2.0 + fraction).unwrap();
        builder.rebalance(2).unwrap();
        let total: usize = rows(&builder.ring().unwrap()).iter().map(Vec::len).sum();
        prop_assert_eq!(total, ((2.0 + fraction) * 256.0).round() as usize);
        builder.set_replicas(1.0).unwrap();
        builder.rebalance(3).unwrap();
        assert_distinct(&builder.ring().unwrap(), 1);
    }

    #[test]
    fn a_greater_power_moves_nothing_and_the_next_rebalance_little(shape in shapes(), more in 1..4u8) {
        let mut builder = build(6, 2.5, 0.1, &shape);
        builder.set_min_part_hours(24);
        builder.rebalance(100).unwrap();
        add(&mut builder, 9, 9, 9, "new", 100.0);
        let (old, mut same) = (builder.ring().unwrap(), builder.clone());
        builder.increase_part_power(6 + more).unwrap();
        let new = builder.ring().unwrap();
        prop_assert!(new.epoch() > old.epoch());
        for partition in new.all_partitions() {
            let whole = old.partition_of(*partition.places().start());
            prop_assert!(partition.is_within(whole));
            prop_assert!(new.primaries(partition).eq(old.primaries(whole)));
        }
        prop_assert_eq!(RingBuilder::from_bytes(&builder.to_bytes()).unwrap(), builder.clone());
        // What rested rests still; of what may move, a half goes where a whole could not.
        let moves = builder.rebalance(101).unwrap().moved;
        prop_assert!(moves <= (same.rebalance(101).unwrap().moved + shape.len() + 1) << more, "{}", moves);
        // Another power alone asks for next to nothing.
        for hour in [200, 300, 400] {
            builder.rebalance(hour).unwrap();
        }
        builder.increase_part_power(7 + more).unwrap();
        let moves = builder.rebalance(500).unwrap().moved;
        prop_assert!(moves <= 4 * (shape.len() + 1), "{} moves for {} devices", moves, shape.len() + 1);
    }

    #[test]
    fn handoffs_are_all_other_devices_and_spread_first(shape in shapes(), partition in 0..128u32) {
        let mut builder = build(7, 2.0, 0.1, &shape);
        builder.set_weight(0, 0.0).unwrap();
        builder.rebalance(0).unwrap();
        let ring = builder.ring().unwrap();
        let partition = Partition::new(7, partition);
        let order: Vec<&Device> = ring.primaries(partition).chain(ring.handoffs(partition)).collect();
        let distinct: HashSet<u32> = order.iter().map(|device| device.id).collect();
        prop_assert_eq!(distinct.len(), order.len());
        prop_assert_eq!(order.len(), shape.len());
        prop_assert_eq!(order[order.len() - 1].id, 0);
        // Regions first: once a handoff repeats a region, no later one opens a new one.
        let mut regions: HashSet<u32> = order[..2].iter().map(|device| device.region).collect();
        let opens: Vec<bool> =
            order[2..order.len() - 1].iter().map(|device| regions.insert(device.region)).collect();
        prop_assert!(opens.is_sorted_by(|earlier, later| earlier >= later), "{opens:?}");
    }
}

/// 5 regions of 4 zones of 10 nodes of 5 devices: 1,000 in all.
fn thousand() -> Shape {
    (0..1000).map(|i| (i / 200, i / 50 % 4, i / 5 % 10, 100.0)).collect()
}

/// Moves that any rebalance needs: what devices hold beyond what they shall hold.
fn least_moves(before: &[Vec<u32>], after: &[Vec<u32>]) -> usize {
    let (before, after) = (held(before), held(after));
    before.iter().map(|(id, count)| count.saturating_sub(after.get(id).copied().unwrap_or(0))).sum()
}

type Change = fn(&mut RingBuilder);

#[test]
fn a_change_of_one_device_moves_at_most_a_twentieth_more_than_it_must() {
    for overload in [0.0, 0.1] {
        let mut builder = build(14, 3.0, overload, &thousand());
        builder.rebalance(0).unwrap();
        let changes: [Change; 4] = [
            |builder| _ = add(builder, 1, 1, 1, "added", 100.0),
            |builder| builder.remove_device(17).unwrap(),
            |builder| builder.set_weight(500, 250.0).unwrap(),
            |builder| builder.set_weight(600, 20.0).unwrap(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let before = rows(&builder.ring().unwrap());
            change(&mut builder);
            let report = builder.rebalance(1 + number as u32).unwrap();
            let after = rows(&builder.ring().unwrap());
            let (moved, least) = (moved(&before, &after), least_moves(&before, &after));
            assert_eq!(moved, report.moved);
            assert!(moved as f64 <= least as f64 * 1.05, "change {number}: moved {moved}, must {least}");
            assert!(moved <= 200, "change {number} moved {moved} of 49,152 replicas");
            assert_dispersed(&builder.ring().unwrap(), builder.partitions());
            assert!(builder.loads().iter().all(|load| {
                let upper = load.share * (1.0 + overload);
                (load.partitions as f64) < upper + 3.0
            }));
        }
    }
}

#[test]
fn replicas_keep_to_three_equal_zones_when_one_grows_and_overload_allows() {
    let shape: Shape = (0..30).map(|i| (1, i % 3, i, 100.0)).collect();
    let mut builder = build(10, 3.0, 0.2, &shape);
    builder.rebalance(0).unwrap();
    add(&mut builder, 1, 0, 99, "more", 100.0);
    let report = builder.rebalance(1).unwrap();
    assert_eq!(report.dispersion, 0.0);
    assert!(report.moved > 80 && report.moved < 110, "{report:?}");
}

#[test]
fn a_moved_partition_rests_for_min_part_hours_unless_its_device_is_removed() {
    let shape: Shape = (0..6).map(|i| (1, i, i, 100.0)).collect();
    let mut builder = build(8, 3.0, 0.0, &shape);
    builder.set_min_part_hours(24);
    builder.rebalance(100).unwrap();
    add(&mut builder, 1, 9, 9, "first", 100.0);
    let first = builder.rebalance(101).unwrap().moved;
    assert!(first > 0);
    let before = rows(&builder.ring().unwrap());
    builder.set_weight(0, 0.0).unwrap();
    builder.rebalance(102).unwrap();
    let after = rows(&builder.ring().unwrap());
    assert!(moved(&before, &after) + first <= 256);
    assert!(held(&after)[&0] > 0, "some of the drained device's partitions rest");
    builder.rebalance(130).unwrap();
    builder.rebalance(160).unwrap();
    assert_eq!(held(&rows(&builder.ring().unwrap())).get(&0), None);
    builder.remove_device(1).unwrap();
    builder.rebalance(160).unwrap();
    assert_eq!(held(&rows(&builder.ring().unwrap())).get(&1), None);
}

#[test]
fn partners_of_a_device_are_spread_over_the_cluster() {
    let mut builder = build(16, 3.0, 0.1, &thousand());
    builder.rebalance(0).unwrap();
    let partners: HashSet<u32> =
        rows(&builder.ring().unwrap()).into_iter().filter(|row| row.contains(&0)).flatten().collect();
    assert!(partners.len() > 250, "a lost device is repaired by {} others only", partners.len());
}

#[test]
fn handoffs_of_a_lost_device_follow_the_weights() {
    let shape: Shape = (0..20).map(|i| (1, i % 4, i, if i < 4 { 300.0 } else { 100.0 })).collect();
    let mut builder = build(14, 3.0, 0.0, &shape);
    builder.rebalance(0).unwrap();
    let ring = builder.ring().unwrap();
    let mut load: BTreeMap<u32, usize> = BTreeMap::new();
    for p in ring.all_partitions() {
        let handoff = ring.handoffs(p).next().unwrap();
        *load.entry(handoff.id).or_default() += 1;
    }
    assert_eq!(load.len(), 20);
    assert!(load.values().all(|&count| count > 16_384 / 80), "{load:?}");
}

#[test]
fn mistakes_are_refused_with_what_to_do() {
    let shape: Shape = vec![(1, 1, 1, 100.0), (1, 1, 2, 100.0)];
    let mut builder = build(4, 3.0, 0.0, &shape);
    assert!(matches!(builder.ring(), Err(RingError::NotBalanced)));
    assert!(matches!(builder.rebalance(0), Err(RingError::TooFewDevices { replicas: 3, devices: 2 })));
    assert!(matches!(builder.remove_device(9), Err(RingError::UnknownDevice(9))));
    assert!(matches!(builder.set_weight(0, f64::NAN), Err(RingError::Weight(_))));
    assert!(matches!(builder.set_replicas(f64::NAN), Err(RingError::Replicas(_))));
    assert!(matches!(builder.set_overload(-1.0), Err(RingError::Overload(_))));
    assert!(matches!(RingBuilder::new(25, 1.0, 0, 0), Err(RingError::PartPower(25))));
    assert!(matches!(builder.increase_part_power(25), Err(RingError::PartPower(25))));
    assert!(matches!(builder.increase_part_power(3), Err(RingError::Shrinks { now: 4, wanted: 3 })));
    let epoch = builder.epoch();
    builder.increase_part_power(4).unwrap();
    assert_eq!(builder.epoch(), epoch, "nothing has changed");
    let again = NewDevice::new(7, 7, "n1-1-1", "d0");
    assert!(matches!(builder.add_device(again), Err(RingError::DuplicateDevice { id: 0, .. })));
    assert!(matches!(builder.add_device(NewDevice::new(1, 1, "a/b", "d")), Err(RingError::Name { .. })));
    assert!(matches!(builder.add_device(NewDevice::new(1, 1, "n", "")), Err(RingError::Name { .. })));
}

#[test]
fn a_partition_of_another_power_has_no_devices() {
    let mut builder = build(2, 1.0, 0.0, &vec![(1, 1, 1, 100.0)]);
    builder.rebalance(0).unwrap();
    let ring = builder.ring().unwrap();
    assert_eq!(ring.primaries(Partition::new(2, 3)).count(), 1);
    assert_eq!(ring.primaries(Partition::new(3, 3)).count(), 0);
    assert_eq!(ring.primaries(Partition::new(1, 1)).count(), 0);
}

#[test]
fn devices_that_hold_everything_are_first_equally_often() {
    let mut builder = RingBuilder::new(10, 6.0, 0, 1).unwrap();
    for node in 0..6 {
        add(&mut builder, 1, 1, node, "d", 100.0);
    }
    builder.rebalance(0).unwrap();
    let first = |ring: &Ring| -> Vec<u32> { rows(ring).iter().map(|row| row[0]).collect() };
    let before = first(&builder.ring().unwrap());
    for device in 0..6 {
        let count = before.iter().filter(|&&first| first == device).count();
        assert!((100..=250).contains(&count), "device {device} is first in {count} of 1024");
    }
    // What is placed keeps its place.
    builder.rebalance(1).unwrap();
    assert_eq!(first(&builder.ring().unwrap()), before);
}
