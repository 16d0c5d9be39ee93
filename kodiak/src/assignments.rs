//! What the rings give to this machine's devices.

use anyhow::{Context, Result};
use kodiak_proxy::store::Placement;
use kodiak_ring::{Partition, PolicyIndex, Ring};
use kodiak_storage_api::{DeviceIndex, StorageNode, Tree};
use kodiak_storage_node::{Assignment, Node};

/// Tells the devices of this machine, called `name`, which partitions they are replicas of from now on.
/// To be called before any reader knows the rings.
pub fn adopt(node: &Node, name: &str, placement: &Placement) -> Result<()> {
    let all = |tree, ring: &'_ Ring| (tree, ring.clone(), ring.replicas());
    let mut trees =
        vec![all(Tree::Accounts, &placement.accounts), all(Tree::Containers, &placement.containers)];
    for (index, policy) in placement.objects.iter().enumerate() {
        let policy_index = PolicyIndex(u16::try_from(index).context("too many policies")?);
        trees.push((Tree::Objects(policy_index), policy.ring.clone(), policy.record_replicas()));
        trees.push(all(Tree::Blocks(policy_index), &policy.ring));
    }
    // Nobody has anything yet where nobody else is in the ring and this machine never was.
    let fresh = |tree: Tree, ring: &Ring| {
        ring.devices().all(|device| device.node == name) && !node.was_assigned(tree)
    };
    let fresh: Vec<bool> = trees.iter().map(|(tree, ring, _)| fresh(*tree, ring)).collect();
    let mut names: Vec<&str> = Vec::new();
    for (_, ring, _) in &trees {
        for device in ring.devices().filter(|device| device.node == name) {
            if !names.contains(&device.name.as_str()) {
                names.push(&device.name);
            }
        }
    }
    for device in names {
        let index = node.device(device).with_context(|| format!("this machine has no device {device}"))?;
        adopt_device(node, (index, name, device), &trees, &fresh)?;
    }
    Ok(())
}

fn adopt_device(
    node: &Node,
    (index, name, device): (DeviceIndex, &str, &str),
    trees: &[(Tree, Ring, usize)],
    fresh: &[bool],
) -> Result<()> {
    let assignment = |((tree, ring, replicas), fresh): (&(Tree, Ring, usize), &bool)| {
        let is_replica = |partition: &Partition| {
            let mut primaries = ring.primaries(*partition).take(*replicas);
            primaries.any(|primary| primary.node == name && primary.name == device)
        };
        let partitions = ring.all_partitions().filter(is_replica).collect();
        Assignment { tree: *tree, power: ring.part_power(), partitions, fresh: *fresh }
    };
    let assignments: Vec<Assignment> = trees.iter().zip(fresh).map(assignment).collect();
    Ok(node.adopt(index, &assignments)?)
}
