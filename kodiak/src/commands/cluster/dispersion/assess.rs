//! Which replicas of a ring are where the ring wants them. Pure.

use std::collections::HashMap;

use kodiak_ring::Ring;
use kodiak_storage_api::{Holding, Tree};
use serde::Serialize;

/// What is to be looked at: a ring, and what of it.
pub struct Wanted {
    /// For people.
    pub name: String,
    /// Whose partitions.
    pub tree: Tree,
    /// Where they ought to be.
    pub ring: Ring,
    /// On how many of a partition's devices: the first ones.
    pub replicas: usize,
    /// With fewer of them it does not answer.
    pub needed: usize,
}

/// What devices have said, by node and device.
pub type Found<'h> = HashMap<(&'h str, &'h str), Vec<&'h Holding>>;

/// How the replicas of a ring are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Assessment {
    /// Which ring.
    pub ring: String,
    /// Its partitions.
    pub partitions: u32,
    /// Replicas of each.
    pub replicas: usize,
    /// How many a partition needs to answer.
    pub needed: usize,
    /// Partitions by how many replicas are not in place: none, one, two…
    pub missing: Vec<u32>,
    /// Those with fewer in place than they need.
    pub unavailable: Vec<u32>,
    /// Those whose replicas in place were not alike when they were asked: writes under way, or not healed yet.
    pub differing: u32,
    /// Those with two replicas on one machine.
    pub same_machine: u32,
    /// Those with two replicas in one zone.
    pub same_zone: u32,
    /// Replicas that devices hold for others.
    pub held_for_others: u64,
}

/// Looks for each replica of a ring among what was found.
pub fn assess(wanted: &Wanted, found: &Found<'_>) -> Assessment {
    let of_tree = |holdings: &Vec<&Holding>| {
        let holding = holdings.iter().find(|holding| holding.tree == wanted.tree)?;
        Some(holding.whole.iter().copied().collect::<HashMap<u32, u64>>())
    };
    let whole: HashMap<(&str, &str), HashMap<u32, u64>> =
        found.iter().filter_map(|(device, holdings)| Some((*device, of_tree(holdings)?))).collect();
    let mut all = Assessment {
        ring: wanted.name.clone(),
        partitions: wanted.ring.partitions(),
        replicas: wanted.replicas,
        needed: wanted.needed,
        missing: vec![0; wanted.replicas + 1],
        ..Assessment::default()
    };
    for partition in wanted.ring.all_partitions() {
        let (mut machines, mut zones, mut digests) = (Vec::new(), Vec::new(), Vec::<&u64>::new());
        for device in wanted.ring.primaries(partition).take(wanted.replicas) {
            machines.push(device.node.as_str());
            zones.push((device.region, device.zone));
            let held = whole.get(&(device.node.as_str(), device.name.as_str()));
            digests.extend(held.and_then(|held| held.get(&partition.number())));
        }
        all.missing[wanted.replicas - digests.len()] += 1;
        if digests.len() < wanted.needed {
            all.unavailable.push(partition.number());
        }
        all.differing += u32::from(digests.windows(2).any(|pair| pair[0] != pair[1]));
        all.same_machine += u32::from(!distinct(machines));
        all.same_zone += u32::from(!distinct(zones));
    }
    let of_tree = found.values().flatten().filter(|holding| holding.tree == wanted.tree);
    all.held_for_others = of_tree.map(|holding| holding.for_others).sum();
    all
}

fn distinct<T: Ord>(mut list: Vec<T>) -> bool {
    list.sort_unstable();
    list.windows(2).all(|pair| pair[0] != pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use kodiak_ring::{NewDevice, Partition, RingBuilder};

    const DEVICES: [(&str, u32); 4] = [("n1", 1), ("n2", 2), ("n3", 3), ("n4", 3)];

    fn ring(machines: &[(&str, u32)]) -> Ring {
        let mut ring = RingBuilder::new(4, 3.0, 0, 1).unwrap();
        for (node, zone) in machines {
            ring.add_device(NewDevice::new(1, *zone, node, "d1")).unwrap();
        }
        ring.rebalance(0).unwrap();
        ring.ring().unwrap()
    }

    fn wanted(ring: &Ring) -> Wanted {
        Wanted { name: "account".into(), tree: Tree::Accounts, ring: ring.clone(), replicas: 3, needed: 2 }
    }

    /// Everything is where the ring wants it, but for what `lacks` says of a node and a partition.
    fn holdings(ring: &Ring, lacks: impl Fn(&str, u32) -> bool) -> Vec<(String, Holding)> {
        let of = |node: &str| {
            let is = |partition: &u32| {
                ring.primaries(Partition::new(4, *partition)).any(|device| device.node == node)
            };
            let mine = (0..ring.partitions()).filter(is).filter(|partition| !lacks(node, *partition));
            let whole = mine.map(|partition| (partition, 5)).collect();
            let device = "d1".into();
            Holding { device, tree: Tree::Accounts, whole, lacking: Vec::new(), for_others: 1 }
        };
        DEVICES.iter().map(|(node, _)| ((*node).to_owned(), of(node))).collect()
    }

    fn look(ring: &Ring, holdings: &[(String, Holding)]) -> Assessment {
        let mut found = Found::new();
        for (node, holding) in holdings {
            found.entry((node.as_str(), holding.device.as_str())).or_default().push(holding);
        }
        assess(&wanted(ring), &found)
    }

    #[test]
    fn a_ring_whose_replicas_are_all_there_lacks_nothing() {
        let ring = ring(&DEVICES);
        let all = look(&ring, &holdings(&ring, |_, _| false));
        assert_eq!(all.missing, [16, 0, 0, 0]);
        assert_eq!((all.unavailable.len(), all.differing, all.same_machine), (0, 0, 0));
        assert_eq!(all.held_for_others, 4);
    }

    #[test]
    fn what_machines_lack_is_counted_and_who_has_no_majority_is_named() {
        let ring = ring(&DEVICES);
        let one = look(&ring, &holdings(&ring, |node, _| node == "n1"));
        let on_n1 = (0..16)
            .filter(|p| ring.primaries(Partition::new(4, *p)).any(|device| device.node == "n1"))
            .count();
        assert_eq!(one.missing, [16 - on_n1 as u32, on_n1 as u32, 0, 0]);
        assert!(one.unavailable.is_empty());
        let all_of_seven = look(&ring, &holdings(&ring, |_, partition| partition == 7));
        assert_eq!(all_of_seven.missing, [15, 0, 0, 1]);
        assert_eq!(all_of_seven.unavailable, [7]);
    }

    #[test]
    fn replicas_that_differ_or_share_a_machine_or_zone_are_counted() {
        let ring = ring(&DEVICES);
        let mut held = holdings(&ring, |_, _| false);
        let changed = held[0].1.whole[0].0;
        held[0].1.whole[0].1 = 6;
        let differs = look(&ring, &held);
        assert_eq!(differs.differing, 1, "partition {changed}");
        let crowded = self::ring(&[("n1", 1), ("n2", 1), ("n3", 2)]);
        let all = look(&crowded, &holdings(&crowded, |_, _| false));
        assert_eq!((all.same_zone, all.same_machine), (16, 0));
    }
}
