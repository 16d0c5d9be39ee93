use super::*;
use crate::testing::{self, NOW};

fn make(map: &ClusterMap, change: &Change) -> ClusterMap {
    let next = apply(map, change, NOW).unwrap().unwrap();
    assert_eq!((next.epoch, next.follows), (map.epoch.next(), map.digest().unwrap()));
    // Whatever a change makes can be read by the others.
    ClusterMap::decode(&next.encode().unwrap()).unwrap()
}

/// Replicas of the object ring on each member.
fn shares(map: &ClusterMap) -> Vec<u64> {
    map.members.iter().map(|member| partitions_of(map, &member.name).unwrap() / 3).collect()
}

#[test]
fn replicas_grow_with_the_devices_up_to_what_was_wanted() {
    let mut map = testing::map(1, 3, 1, 6);
    assert_eq!(shares(&map), [64, 0, 0, 0]);
    for (number, shares_then) in
        [(2, vec![64, 64, 0, 0]), (3, vec![64, 64, 64, 0]), (4, vec![48, 48, 48, 48])]
    {
        map = make(&map, &testing::present(number, 1));
        assert_eq!(shares(&map), shares_then);
    }
    assert_eq!(apply(&map, &testing::present(4, 1), NOW), Ok(None), "nothing is new");
}

#[test]
fn one_member_with_many_devices_keeps_all_replicas_until_others_come() {
    let map = testing::map(1, 1, 4, 6);
    assert_eq!(map.policies[0].ring.ring().unwrap().replicas(), 3);
    let map = make(&map, &testing::present(2, 4));
    assert!(shares(&map).iter().all(|&share| (64..=128).contains(&share)), "{:?}", shares(&map));
}

#[test]
fn a_drained_member_holds_nothing_and_is_removed_without_force() {
    let map = testing::map(4, 0, 2, 6);
    let remove = Change::Remove { name: "n4".into(), force: false };
    let held = apply(&map, &remove, NOW).unwrap_err();
    assert!(matches!(held, ChangeError::StillHolds { partitions: 144, .. }), "{held}");
    let map = make(&map, &Change::Drain { name: "n4".into() });
    assert_eq!(shares(&map), [64, 64, 64, 0]);
    let map = make(&map, &remove);
    assert!(map.member("n4").is_none());
    assert_eq!((map.removed[0].name.as_str(), map.removed[0].epoch), ("n4", map.epoch));
}

#[test]
fn what_would_lose_replicas_or_the_last_vote_is_refused() {
    let map = testing::map(3, 0, 1, 4);
    let drained = apply(&map, &Change::Drain { name: "n3".into() }, NOW);
    assert_eq!(drained, Err(ChangeError::TooFewDevices { left: 2, replicas: 3 }));
    let map = make(&map, &Change::Remove { name: "n3".into(), force: true });
    assert_eq!(shares(&map), [16, 16], "the others hold what they can");
    let map = make(&map, &Change::Remove { name: "n2".into(), force: true });
    let last = apply(&map, &Change::Remove { name: "n1".into(), force: true }, NOW);
    assert_eq!(last, Err(ChangeError::LastMember { name: "n1".into() }));
    let nobody = apply(&map, &Change::Drain { name: "n9".into() }, NOW);
    assert_eq!(nobody, Err(ChangeError::NoMember { name: "n9".into() }));
}

#[test]
fn a_replacement_takes_the_share_of_the_one_that_goes_when_it_is_up() {
    let map = testing::map(3, 1, 1, 6);
    let map = make(&map, &Change::Replace { old: "n2".into(), new: "n4".into() });
    assert_eq!(shares(&map), [64, 64, 64, 0], "not before it is up");
    let before = map.policies[0].ring.builder().unwrap();
    let map = make(&map, &testing::present(4, 1));
    assert!(map.member("n2").is_none());
    assert_eq!(shares(&map), [64, 64, 64]);
    // Nothing moves but what n2 held.
    let (old, new) = (before.ring().unwrap(), map.policies[0].ring.ring().unwrap());
    for partition in old.all_partitions() {
        let nodes = |ring: &kodiak_ring::Ring| {
            let mut nodes: Vec<String> =
                ring.primaries(partition).map(|device| device.node.clone()).collect();
            nodes.sort();
            nodes
        };
        let moved: Vec<String> =
            nodes(&old).into_iter().map(|node| if node == "n2" { "n4".to_owned() } else { node }).collect();
        let mut moved = moved;
        moved.sort();
        assert_eq!(nodes(&new), moved);
    }
    let itself = apply(&map, &Change::Replace { old: "n1".into(), new: "n1".into() }, NOW);
    assert_eq!(itself, Err(ChangeError::Itself));
}

#[test]
fn a_device_is_weighed_removed_and_swapped_for_a_new_disk() {
    let map = testing::map(3, 0, 2, 6);
    let heavy = Change::SetWeight { node: "n1".into(), device: "d1".into(), weight: 50_000 };
    let light = make(&map, &heavy);
    assert!(shares(&light)[0] <= shares(&map)[0]);
    let removed = make(&map, &Change::RemoveDevice { node: "n1".into(), device: "d2".into() });
    assert_eq!(removed.member("n1").unwrap().devices.len(), 1);
    let again = Change::RemoveDevice { node: "n1".into(), device: "d2".into() };
    assert!(matches!(apply(&removed, &again, NOW), Err(ChangeError::NoDevice { .. })));
    // A reset disk has another identity: the map learns it, and nothing moves.
    let mut devices = testing::devices(2);
    devices[1].disk = crate::DiskId([9; 16]);
    let present = Change::Present { name: "n1".into(), address: testing::address(1), devices };
    let next = make(&map, &present);
    assert_eq!(next.member("n1").unwrap().devices[1].disk, crate::DiskId([9; 16]));
    assert_eq!(next.policies, map.policies);
}

#[test]
fn clocks_are_never_used_twice_and_names_are_checked() {
    let mut map = testing::map(1, 0, 1, 2);
    let token = TokenHash([1; 32]);
    let admit = |name: &str| {
        Change::Admit(Admission {
            token,
            key: KeyDigest([9; 32]),
            name: name.into(),
            region: 1,
            zone: 1,
            address: testing::address(9),
        })
    };
    map = make(&map, &Change::AddToken { hash: token, expires: NOW + 1 });
    assert!(matches!(apply(&map, &admit("n1"), NOW), Err(ChangeError::NameTaken { .. })));
    for bad in ["", "N2", "a.b", "-a", "a/b"] {
        assert!(matches!(apply(&map, &admit(bad), NOW), Err(ChangeError::Name(_))), "{bad}");
    }
    assert_eq!(apply(&map, &admit("n2"), NOW + 1), Err(ChangeError::TokenExpired));
    map = make(&map, &admit("n2"));
    assert_eq!(map.member("n2").unwrap().clock, 2);
    map = make(&map, &Change::Remove { name: "n2".into(), force: false });
    map = make(&map, &Change::AddToken { hash: TokenHash([2; 32]), expires: NOW + 1 });
    let Change::Admit(mut second) = admit("n2") else { unreachable!() };
    second.token = TokenHash([2; 32]);
    map = make(&map, &Change::Admit(second));
    assert_eq!(map.member("n2").unwrap().clock, 3);
}

#[test]
fn rebalances_even_the_devices_out_and_then_change_nothing() {
    let mut map = testing::map(3, 0, 2, 6);
    let balance = |map: &ClusterMap| map.policies[0].ring.builder().unwrap().balance();
    let mut rounds = 0;
    while let Some(next) = apply(&map, &Change::Rebalance, NOW).unwrap() {
        // Growth from one machine to three has left the devices of each uneven.
        assert!(balance(&next) <= balance(&map), "{} after {}", balance(&next), balance(&map));
        (map, rounds) = (next, rounds + 1);
        assert!(rounds < 20, "it does not come to rest");
    }
    assert!(rounds > 0 && balance(&map) < 1.0, "{} after {rounds} rounds", balance(&map));
}

fn policy(name: &str, protection: &str, replicas: u16) -> Change {
    let protection = match protection {
        "" => Protection::Replicated,
        code => Protection::Erasure(code.parse().unwrap()),
    };
    Change::AddPolicy(NewPolicy {
        name: name.into(),
        protection,
        replicas,
        part_power: None,
        default: false,
        mode: Mode::Strict,
    })
}

fn set(name: &str, update: PolicyUpdate) -> Change {
    Change::SetPolicy { name: name.into(), update }
}

/// Whether no machine has two replicas of a partition.
fn apart(policy: &crate::Policy) -> bool {
    let ring = policy.ring.ring().unwrap();
    ring.all_partitions().all(|partition| {
        let nodes: std::collections::BTreeSet<&str> =
            ring.primaries(partition).map(|device| device.node.as_str()).collect();
        nodes.len() == ring.replicas()
    })
}

#[test]
fn a_policy_begins_with_a_ring_of_its_own_and_moves_nothing_of_others() {
    let map = testing::map(3, 1, 2, 6);
    let next = make(&map, &policy("two", "", 2));
    assert_eq!((&next.policies[0], &next.accounts), (&map.policies[0], &map.accounts));
    let two = &next.policies[1];
    assert_eq!((two.ring.ring().unwrap().replicas(), two.unmoved, two.deprecated), (2, true, false));
    // As soon as anything of it moves, a device may lack what another one had.
    assert!(!make(&next, &testing::present(4, 2)).policies[1].unmoved);
    let same = make(&next, &set("two", PolicyUpdate { default: true, ..PolicyUpdate::default() }));
    assert!(same.policies[1].unmoved && same.default_policy == 1);
}

#[test]
fn a_code_needs_a_machine_for_each_fragment_and_keeps_them() {
    let map = testing::map(5, 1, 2, 6);
    let refused = apply(&map, &policy("cold", "4+2", 0), NOW).unwrap_err();
    assert!(matches!(&refused, ChangeError::TooFewMachines { machines: 5, fragments: 6, .. }), "{refused}");
    assert!(refused.to_string().contains("kodiak cluster token"), "{refused}");
    let map = make(&map, &testing::present(6, 2));
    let map = make(&map, &policy("cold", "4+2", 0));
    assert!(apart(&map.policies[1]));
    for change in [
        Change::Drain { name: "n2".into() },
        Change::Remove { name: "n2".into(), force: true },
        Change::Replace { old: "n2".into(), new: "n3".into() },
    ] {
        let refused = apply(&map, &change, NOW).unwrap_err();
        assert!(matches!(&refused, ChangeError::FragmentsStay { machines: 5, .. }), "{refused}");
    }
    // One device of a machine may go, and not its last one.
    let device = |device: &str| Change::RemoveDevice { node: "n2".into(), device: device.into() };
    let one = make(&map, &device("d1"));
    assert!(matches!(apply(&one, &device("d2"), NOW), Err(ChangeError::FragmentsStay { .. })));
    let light = Change::SetWeight { node: "n2".into(), device: "d2".into(), weight: 0 };
    assert!(matches!(apply(&one, &light, NOW), Err(ChangeError::FragmentsStay { .. })));
}

#[test]
fn fragments_are_apart_whatever_the_devices_weigh_and_the_zones_hold() {
    // Five machines share a zone, the sixth has one to itself, and devices of very different sizes.
    let mut map = testing::map(6, 1, 3, 6);
    map.members.iter_mut().take(5).for_each(|member| member.zone = 1);
    map.members[5].devices.iter_mut().for_each(|device| device.weight = 9_000_000);
    map.members[0].devices.iter_mut().for_each(|device| device.weight = 1_000);
    let map = make(&map, &policy("cold", "4+2", 0));
    assert!(apart(&map.policies[1]));
    // They stay so when one more machine joins and the rings even out.
    let mut map = make(&map, &testing::present(7, 4));
    for _ in 0..20 {
        assert!(apart(&map.policies[1]));
        let Some(next) = apply(&map, &Change::Rebalance, NOW).unwrap() else { break };
        map = next;
    }
}

#[test]
fn policies_are_renamed_deprecated_and_made_the_default_as_swift_has_it() {
    let map = make(&testing::map(2, 0, 1, 4), &policy("two", "", 2));
    let update = PolicyUpdate::default;
    let deprecate = |yes| PolicyUpdate { deprecated: Some(yes), ..update() };
    let to = |name: &str| PolicyUpdate { name: Some(name.into()), ..update() };
    let refused = apply(&map, &set("gold", deprecate(true)), NOW).unwrap_err();
    assert!(matches!(refused, ChangeError::DeprecatedDefault { .. }), "{refused}");
    let map = make(&map, &set("TWO", PolicyUpdate { default: true, ..update() }));
    let map = make(&map, &set("gold", deprecate(true)));
    assert!(map.policies[0].deprecated && map.default_policy == 1);
    let both = apply(&map, &set("gold", PolicyUpdate { default: true, ..update() }), NOW);
    assert!(matches!(both, Err(ChangeError::DeprecatedDefault { .. })));
    let map = make(&map, &set("gold", PolicyUpdate { default: true, ..deprecate(false) }));
    for (name, taken) in [("TWO", true), ("Gold", false), ("standard", true), ("a_b", true), ("", true)] {
        assert_eq!(apply(&map, &set("gold", to(name)), NOW).is_err(), taken, "{name}");
    }
    let map = make(&map, &set("gold", to("silver")));
    assert_eq!(map.policies[0].name, "silver");
    assert_eq!(apply(&map, &set("silver", to("silver")), NOW), Ok(None), "nothing is new");
    assert!(matches!(apply(&map, &set("gold", update()), NOW), Err(ChangeError::NoPolicy { .. })));
    assert!(matches!(apply(&map, &policy("silver", "", 2), NOW), Err(ChangeError::PolicyTaken { .. })));
    assert!(matches!(apply(&map, &policy("x", "", 0), NOW), Err(ChangeError::Replicas { .. })));
}

#[test]
fn more_partitions_are_where_they_were_and_asking_twice_changes_nothing() {
    let map = testing::map(3, 0, 2, 4);
    let grow = |power| Change::IncreasePartPower { power };
    let next = make(&map, &grow(6));
    for ((_, old, _), (name, new, _)) in map.rings().zip(next.rings()) {
        let (old, new) = (old.ring().unwrap(), new.ring().unwrap());
        assert!(new.epoch() > old.epoch() && new.partitions() == 64, "{name}");
        for partition in new.all_partitions() {
            let whole = old.partition_of(*partition.places().start());
            assert!(new.primaries(partition).eq(old.primaries(whole)), "{name}: {partition:?}");
        }
    }
    assert_eq!(apply(&next, &grow(6), NOW), Ok(None));
    assert_eq!(apply(&next, &grow(5), NOW), Ok(None), "it never shrinks");
    let next = make(&next, &Change::SetWeight { node: "n1".into(), device: "d1".into(), weight: 1_000 });
    assert!(next.rings().all(|(_, file, _)| file.ring().unwrap().partitions() == 64));
}

#[test]
fn more_partitions_than_help_are_refused_with_how_many_would() {
    let map = testing::map(3, 0, 2, 4);
    let error = apply(&map, &Change::IncreasePartPower { power: 16 }, NOW).unwrap_err();
    assert!(matches!(&error, ChangeError::TooManyPartitions { each: 32_768, power: 16, .. }), "{error}");
    assert!(error.to_string().contains("at most 16384"), "{error}");
    assert!(apply(&map, &Change::IncreasePartPower { power: 255 }, NOW).is_err());
    make(&map, &Change::IncreasePartPower { power: 15 });
}
