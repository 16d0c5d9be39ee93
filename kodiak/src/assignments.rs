//! What the rings give to this machine's devices.

use anyhow::{Context, Result};
use kodiak_proxy::store::Placement;
use kodiak_ring::{Partition, PolicyIndex, Ring};
use kodiak_storage_api::{DeviceIndex, StorageNode, Tree};
use kodiak_storage_node::{Assignment, Begins, Node};

/// A tree, its ring, on how many of a partition's devices it is, and what a device has of it at first.
struct Spread<'p> {
    tree: Tree,
    ring: &'p Ring,
    replicas: usize,
    begins: Begins,
}

/// Tells the devices of this machine, called `name`, which partitions they are replicas of from now on.
/// To be called before any reader knows the rings.
pub fn adopt(node: &Node, name: &str, placement: &Placement) -> Result<()> {
    // Nobody has anything yet where nobody else is in the ring and this machine never was.
    let begins = |tree: Tree, ring: &Ring, unmoved: bool| {
        let alone = ring.devices().all(|device| device.node == name) && !node.was_assigned(tree);
        match (alone, unmoved) {
            (true, _) => Begins::Whole,
            (false, true) => Begins::WholeUnlessWiped,
            (false, false) => Begins::Lacking,
        }
    };
    let spread =
        |tree, ring, replicas, unmoved| Spread { tree, ring, replicas, begins: begins(tree, ring, unmoved) };
    let (accounts, containers) = (&placement.accounts, &placement.containers);
    let mut trees = vec![
        spread(Tree::Accounts, accounts, accounts.replicas(), false),
        spread(Tree::Containers, containers, containers.replicas(), false),
    ];
    for (index, policy) in placement.objects.iter().enumerate() {
        let (index, ring) = (PolicyIndex(u16::try_from(index).context("too many policies")?), &policy.ring);
        trees.push(spread(Tree::Objects(index), ring, policy.record_replicas(), policy.unmoved));
        trees.push(spread(Tree::Blocks(index), ring, ring.replicas(), policy.unmoved));
    }
    let mut names: Vec<&str> = Vec::new();
    for spread in &trees {
        for device in spread.ring.devices().filter(|device| device.node == name) {
            if !names.contains(&device.name.as_str()) {
                names.push(&device.name);
            }
        }
    }
    for device in names {
        let index = node.device(device).with_context(|| format!("this machine has no device {device}"))?;
        adopt_device(node, (index, name, device), &trees)?;
    }
    Ok(())
}

fn adopt_device(
    node: &Node,
    (index, name, device): (DeviceIndex, &str, &str),
    trees: &[Spread<'_>],
) -> Result<()> {
    let assignment = |spread: &Spread<'_>| {
        let is_replica = |partition: &Partition| {
            let mut primaries = spread.ring.primaries(*partition).take(spread.replicas);
            primaries.any(|primary| primary.node == name && primary.name == device)
        };
        let partitions = spread.ring.all_partitions().filter(is_replica).collect();
        Assignment { tree: spread.tree, power: spread.ring.part_power(), partitions, begins: spread.begins }
    };
    let assignments: Vec<Assignment> = trees.iter().map(assignment).collect();
    Ok(node.adopt(index, &assignments)?)
}
