//! How many replicas each failure domain should hold.
//!
//! From the cluster down, a domain's replicas are divided among its children in proportion to their
//! weights, within bounds that keep replicas apart: if no child needs to hold more than `h` replicas of
//! a partition, then each gets `h - 1` to `h` replicas of every partition as far as its weight, raised
//! by the overload, allows. If every replica can have a node of its own within that, each has. Fractions are rounded from the top, so that a region that should hold
//! exactly one replica of everything does; ties go to who holds more already, which saves moves.

use crate::topology::{DomainId, ROOT, Tree};

/// Tolerance for sums of shares.
const EPSILON: f64 = 1e-6;

/// What targets are computed from.
pub(crate) struct Wanted<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) partitions: usize,
    /// Replicas of all partitions together.
    pub(crate) slots: usize,
    /// By device position.
    pub(crate) weights: &'a [f64],
    /// Infinite for the widest dispersion there can be.
    pub(crate) overload: f64,
    /// Replicas that each domain holds now.
    pub(crate) current: &'a [u32],
}

/// Replicas for each domain; children add up to their parent.
pub(crate) fn targets(wanted: &Wanted) -> Vec<u32> {
    let partitions = wanted.partitions as f64;
    let shares = fair_shares(wanted.weights, wanted.slots as f64, partitions);
    let caps: Vec<f64> = shares
        .iter()
        .map(|&share| if share > 0.0 { (share * (1.0 + wanted.overload)).min(partitions) } else { 0.0 })
        .collect();
    let shares = wanted.tree.sum(|position| shares[position]);
    // Where the overload lets every replica have a node of its own, no spread of zones is worth two on one node.
    let apart = wanted.tree.sum_within(|position| caps[position], partitions);
    let most = if apart[ROOT as usize] + EPSILON >= wanted.slots as f64 { partitions } else { f64::INFINITY };
    let caps = wanted.tree.sum_within(|position| caps[position], most);
    let limit = |position: usize| if wanted.weights[position] > 0.0 { partitions } else { 0.0 };
    let limits = wanted.tree.sum_within(limit, most);
    let mut targets = vec![0; wanted.tree.domains.len()];
    targets[ROOT as usize] = wanted.slots as u32;
    for id in 0..wanted.tree.domains.len() {
        let children = wanted.tree.children(id as DomainId);
        if children.is_empty() || targets[id] == 0 {
            continue;
        }
        let pick = |values: &[f64]| children.iter().map(|&child| values[child as usize]).collect::<Vec<_>>();
        let exact = divide(f64::from(targets[id]), &pick(&shares), &pick(&caps), partitions);
        let current: Vec<u32> = children.iter().map(|&child| wanted.current[child as usize]).collect();
        let whole = round(targets[id], &exact, &current, &pick(&limits));
        for (&child, count) in children.iter().zip(whole) {
            targets[child as usize] = count;
        }
    }
    targets
}

/// Each device's replicas by weight alone, none with more than one of each partition.
pub(crate) fn fair_shares(weights: &[f64], slots: f64, limit: f64) -> Vec<f64> {
    let mut shares = vec![0.0; weights.len()];
    let mut full = vec![false; weights.len()];
    loop {
        let filled = full.iter().filter(|&&full| full).count() as f64;
        let open: f64 = weights.iter().zip(&full).filter(|(_, full)| !**full).map(|(weight, _)| weight).sum();
        if open <= 0.0 {
            return shares;
        }
        let rate = (slots - filled * limit).max(0.0) / open;
        let mut changed = false;
        for (position, &weight) in weights.iter().enumerate() {
            if full[position] {
                continue;
            }
            shares[position] = (weight * rate).min(limit);
            if weight * rate > limit {
                full[position] = true;
                changed = true;
            }
        }
        if !changed {
            return shares;
        }
    }
}

/// Divides `total` in proportion to `shares`, each within its bounds (see the file's head).
fn divide(total: f64, shares: &[f64], caps: &[f64], partitions: f64) -> Vec<f64> {
    let room: f64 = caps.iter().sum();
    // Rounding above may have given this domain up to one replica more than its cap.
    let stretch = if room < total { total / room.max(EPSILON) } else { 1.0 };
    let caps: Vec<f64> = caps.iter().map(|cap| cap * stretch).collect();
    let mut height = 1.0;
    let fits =
        |height: f64| caps.iter().map(|cap| cap.min(height * partitions)).sum::<f64>() + EPSILON >= total;
    while !fits(height) && caps.iter().any(|&cap| cap > height * partitions) {
        height += 1.0;
    }
    let low: Vec<f64> = caps.iter().map(|cap| cap.min((height - 1.0) * partitions)).collect();
    let high: Vec<f64> = caps.iter().map(|cap| cap.min(height * partitions)).collect();
    let at = |rate: f64| -> Vec<f64> {
        (0..shares.len()).map(|i| (rate * shares[i]).max(low[i]).min(high[i])).collect()
    };
    let (mut under, mut over) = (0.0, 1.0);
    while at(over).iter().sum::<f64>() < total - EPSILON && over < 1e30 {
        over *= 2.0;
    }
    for _ in 0..80 {
        let middle = (under + over) / 2.0;
        if at(middle).iter().sum::<f64>() < total { under = middle } else { over = middle }
    }
    at(over)
}

/// Whole numbers that add up to `total`, each the floor or the ceiling of its exact value.
fn round(total: u32, exact: &[f64], current: &[u32], limits: &[f64]) -> Vec<u32> {
    let mut whole: Vec<u32> = exact.iter().map(|value| (value + EPSILON).floor() as u32).collect();
    let sum: u32 = whole.iter().sum();
    let fraction = |i: usize| exact[i] - f64::from(whole[i]);
    let mut order: Vec<usize> = (0..exact.len()).filter(|&i| f64::from(whole[i]) + 0.5 < limits[i]).collect();
    order.sort_by(|&a, &b| {
        let holds = |i: usize| fraction(i) > EPSILON && current[i] > whole[i];
        holds(b).cmp(&holds(a)).then(fraction(b).total_cmp(&fraction(a))).then(a.cmp(&b))
    });
    let missing = total.saturating_sub(sum) as usize;
    for &i in order.iter().cycle().take(if order.is_empty() { 0 } else { missing }) {
        whole[i] += 1;
    }
    let mut excess = sum.saturating_sub(total);
    for count in whole.iter_mut().rev() {
        let cut = excess.min(*count).min(1);
        *count -= cut;
        excess -= cut;
    }
    whole
}
