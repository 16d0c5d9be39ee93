//! The tree of failure domains: cluster > regions > zones > nodes > devices.

use crate::ring::Device;

/// Tiers below the cluster: region, zone, node, device.
pub(crate) const TIERS: usize = 4;

/// The tier of nodes, the cluster being 0.
const NODE: usize = 3;

/// A failure domain's number in the tree.
pub(crate) type DomainId = u32;

/// The cluster itself.
pub(crate) const ROOT: DomainId = 0;

/// In a path: below the domain's own tier.
pub(crate) const BELOW: DomainId = DomainId::MAX;

/// Key of a domain by tier: a prefix of (region, zone, node, device).
type Key<'a> = (u32, u32, &'a str, u32);

fn key(device: &Device) -> Key<'_> {
    (device.region, device.zone, &device.node, device.id)
}

/// Whether two devices share their domain of `tier` (0 region to 3 device).
fn shares(a: &Device, b: &Device, tier: usize) -> bool {
    let (a, b) = (key(a), key(b));
    match tier {
        0 => a.0 == b.0,
        1 => (a.0, a.1) == (b.0, b.1),
        2 => (a.0, a.1, a.2) == (b.0, b.1, b.2),
        _ => a == b,
    }
}

/// Positions of `devices` in the order of the tree.
fn tree_order(devices: &[Device]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..devices.len()).collect();
    order.sort_by(|&a, &b| key(&devices[a]).cmp(&key(&devices[b])));
    order
}

/// For lookups: each device's domains as numbers that are distinct over all tiers.
pub(crate) struct DomainIndex {
    of: Vec<[u32; TIERS]>,
    counts: [usize; TIERS],
}

impl DomainIndex {
    pub(crate) fn new(devices: &[Device]) -> DomainIndex {
        let tree = Tree::new(devices);
        let mut counts = [0; TIERS];
        for domain in &tree.domains[1..] {
            counts[domain.tier - 1] += 1;
        }
        let mut of = vec![[0; TIERS]; devices.len()];
        for domain in &tree.domains {
            if let Some(position) = domain.device {
                of[position] = [domain.path[1], domain.path[2], domain.path[3], domain.path[4]];
            }
        }
        DomainIndex { of, counts }
    }

    /// Region, zone, node and device of the device at `position`.
    pub(crate) fn of(&self, position: usize) -> [u32; TIERS] {
        self.of[position]
    }

    /// Domains of each tier.
    pub(crate) fn counts(&self) -> [usize; TIERS] {
        self.counts
    }

    /// One more than the largest domain number.
    pub(crate) fn total(&self) -> usize {
        1 + self.counts.iter().sum::<usize>()
    }
}

/// A node of the tree.
pub(crate) struct Domain {
    /// 0 for the cluster, 1 region, 2 zone, 3 node, 4 device.
    pub(crate) tier: usize,
    pub(crate) children: Vec<DomainId>,
    /// Its ancestors by tier, itself at its own.
    pub(crate) path: [DomainId; TIERS + 1],
    /// Position in the device table, for a device.
    pub(crate) device: Option<usize>,
}

/// The domains, parents before children.
pub(crate) struct Tree {
    pub(crate) domains: Vec<Domain>,
    /// The domain of each device position.
    pub(crate) leaf: Vec<DomainId>,
}

impl Tree {
    pub(crate) fn new(devices: &[Device]) -> Tree {
        let root =
            Domain { tier: 0, children: Vec::new(), path: [ROOT, BELOW, BELOW, BELOW, BELOW], device: None };
        let mut tree = Tree { domains: vec![root], leaf: vec![ROOT; devices.len()] };
        let mut path = [ROOT; TIERS + 1];
        let mut previous: Option<&Device> = None;
        for position in tree_order(devices) {
            let device = &devices[position];
            for tier in 0..TIERS {
                if !previous.is_some_and(|other| shares(other, device, tier)) {
                    path[tier + 1] = tree.add_child(path[tier], (tier + 1 == TIERS).then_some(position));
                }
            }
            tree.leaf[position] = path[TIERS];
            previous = Some(device);
        }
        tree
    }

    fn add_child(&mut self, parent: DomainId, device: Option<usize>) -> DomainId {
        let id = self.domains.len() as DomainId;
        let above = &mut self.domains[parent as usize];
        above.children.push(id);
        let (tier, mut path) = (above.tier + 1, above.path);
        path[tier] = id;
        self.domains.push(Domain { tier, children: Vec::new(), path, device });
        id
    }

    pub(crate) fn children(&self, id: DomainId) -> &[DomainId] {
        &self.domains[id as usize].children
    }

    /// Sums a value of the devices up the tree.
    pub(crate) fn sum(&self, of_device: impl Fn(usize) -> f64) -> Vec<f64> {
        self.sum_within(of_device, f64::INFINITY)
    }

    /// The same where no node has more than `most`.
    pub(crate) fn sum_within(&self, of_device: impl Fn(usize) -> f64, most: f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.domains.len()];
        for (id, domain) in self.domains.iter().enumerate().rev() {
            let sum = match domain.device {
                Some(position) => of_device(position),
                None => domain.children.iter().map(|&child| sums[child as usize]).sum(),
            };
            sums[id] = if domain.tier == NODE { most.min(sum) } else { sum };
        }
        sums
    }
}

/// Names of the tiers, for reports: `region`, `zone`, `node`, `device`.
pub const TIER_NAMES: [&str; TIERS] = ["region", "zone", "node", "device"];

/// Counts of devices by domain name of a tier, for messages.
pub(crate) fn domain_name(device: &Device, tier: usize) -> String {
    let parts = [
        format!("r{}", device.region),
        format!("z{}", device.zone),
        device.node.clone(),
        device.name.clone(),
    ];
    parts[..=tier.min(TIERS - 1)].join("/")
}
