//! Places and moves slots, tier by tier.

use crate::random::Random;
use crate::topology::{BELOW, DomainId, ROOT, TIERS, Tree};

/// Place of a slot that does not exist: a partition with fewer replicas than the longest row.
pub(crate) const NOWHERE: DomainId = DomainId::MAX;

/// Partners looked at before a swap is given up; the next rebalance tries others.
const SWAP_PROBES: usize = 256;

/// Swaps tried for each slot that was dealt, so that no two children share most of their partitions.
const MIXING: usize = 2;

/// How little moving a slot disturbs the tiers below.
#[derive(Clone, Copy, PartialEq)]
enum Release {
    /// The slot has no device yet, or its partition is crowded here.
    Free,
    /// All of its domains below are above their targets too.
    Surplus,
    /// Its device is.
    DeviceSurplus,
    /// Any that may move.
    Any,
}

/// Which slots are moved first, and whether they must find a device without further moves.
const RELEASES: [(Release, bool); 6] = [
    (Release::Free, true),
    (Release::Surplus, true),
    (Release::Free, false),
    (Release::Surplus, false),
    (Release::DeviceSurplus, false),
    (Release::Any, false),
];

/// The assignment in the making.
pub(crate) struct Plan<'a> {
    tree: &'a Tree,
    stride: usize,
    partitions: u32,
    targets: Vec<u32>,
    /// Devices with weight below each domain: no more replicas of one partition fit.
    capacity: Vec<f64>,
    /// For each slot the deepest domain that it has a place in: a device in the end.
    places: Vec<DomainId>,
    /// Slots that changed or got their device in this run.
    fresh: Vec<bool>,
    /// Partitions of which one more replica may move.
    movable: Vec<bool>,
    /// Slots in each domain.
    counts: Vec<u32>,
    random: Random,
}

impl<'a> Plan<'a> {
    /// `places` holds rows of equal length, one for each entry of `movable`; `weights` are the devices'.
    pub(crate) fn new(
        tree: &'a Tree,
        targets: Vec<u32>,
        weights: &[f64],
        places: Vec<DomainId>,
        movable: Vec<bool>,
        random: Random,
    ) -> Plan<'a> {
        let stride = places.len() / movable.len();
        let capacity = tree.sum(|position| if weights[position] > 0.0 { 1.0 } else { 0.0 });
        let partitions = movable.len() as u32;
        let fresh = places.iter().map(|&place| place == ROOT).collect();
        let mut counts = vec![0; tree.domains.len()];
        for domain in places.iter().filter_map(|&place| tree.domains.get(place as usize)) {
            for &above in domain.path.iter().filter(|&&id| id != BELOW) {
                counts[above as usize] += 1;
            }
        }
        Plan { tree, stride, partitions, targets, capacity, places, fresh, movable, counts, random }
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn places(&self) -> &[DomainId] {
        &self.places
    }

    pub(crate) fn fresh(&self) -> &[bool] {
        &self.fresh
    }

    /// Settles all tiers.
    pub(crate) fn run(&mut self) {
        let slots = (0..self.places.len() as u32).filter(|&slot| self.places[slot as usize] != NOWHERE);
        let mut level = vec![(ROOT, slots.collect::<Vec<u32>>())];
        for _ in 0..TIERS {
            let mut below = Vec::new();
            for (parent, slots) in level {
                self.settle(parent, &slots);
                below.extend(self.split(parent, &slots));
            }
            level = below;
        }
    }

    /// Gives every slot of `parent` a place in one of its children.
    fn settle(&mut self, parent: DomainId, slots: &[u32]) {
        if slots.is_empty() {
            return;
        }
        if slots.iter().all(|&slot| self.places[slot as usize] == parent) {
            return self.deal(parent, slots);
        }
        self.place_open(parent, slots);
        let by_child = self.split(parent, slots);
        for (child, members) in &by_child {
            self.shed(parent, *child, members);
        }
        let by_child = self.split(parent, slots);
        for (child, members) in &by_child {
            self.chain(parent, *child, members, &by_child);
        }
        self.spread(parent, slots);
    }

    /// Slots of `parent` by child.
    fn split(&self, parent: DomainId, slots: &[u32]) -> Vec<(DomainId, Vec<u32>)> {
        let children = self.tree.children(parent);
        let tier = self.tree.domains[parent as usize].tier + 1;
        let first = children.first().copied().unwrap_or_default();
        // Siblings are not numbered in a row, but ascend: an index by offset is small enough.
        let last = children.last().copied().unwrap_or_default();
        let mut index = vec![usize::MAX; (last - first) as usize + 1];
        let mut groups: Vec<(DomainId, Vec<u32>)> = Vec::with_capacity(children.len());
        for &child in children {
            index[(child - first) as usize] = groups.len();
            groups.push((child, Vec::with_capacity(self.counts[child as usize] as usize)));
        }
        for &slot in slots {
            let child = self.tree.domains[self.places[slot as usize] as usize].path[tier];
            if child != BELOW {
                groups[index[(child - first) as usize]].1.push(slot);
            }
        }
        groups
    }

    /// Deals a domain whose slots are all open. In a random order of its partitions, repeated for each
    /// replica, every child takes one run: so any child holds the floor or the ceiling of its share of
    /// every partition, which is exact balance and the widest dispersion at once.
    fn deal(&mut self, parent: DomainId, slots: &[u32]) {
        let mut rows: Vec<&[u32]> =
            slots.chunk_by(|a, b| *a as usize / self.stride == *b as usize / self.stride).collect();
        self.random.shuffle(&mut rows);
        rows.sort_by_key(|row| std::cmp::Reverse(row.len()));
        let mut children = self.tree.children(parent).to_vec();
        self.random.shuffle(&mut children);
        let mut takers = children
            .iter()
            .flat_map(|&child| std::iter::repeat_n(child, self.targets[child as usize] as usize));
        let deepest = rows.first().map_or(0, |row| row.len());
        let mut dealt = Vec::with_capacity(slots.len());
        for layer in 0..deepest {
            for slot in rows.iter().filter_map(|row| row.get(layer)) {
                match takers.next() {
                    Some(child) => dealt.push((*slot, child)),
                    None => break,
                }
            }
        }
        let complete = dealt.len() == slots.len();
        for (slot, child) in dealt {
            self.put(slot, child);
        }
        if complete {
            self.mix(slots);
        } else {
            self.place_open(parent, slots);
        }
    }

    /// Swaps random slots that were just dealt, keeping counts and dispersion.
    fn mix(&mut self, slots: &[u32]) {
        for _ in 0..slots.len() * MIXING {
            let (a, b) = (slots[self.random.below(slots.len())], slots[self.random.below(slots.len())]);
            let (home, away) = (self.places[a as usize], self.places[b as usize]);
            let leaves = |slot, domain| self.within(slot, domain) > self.least(domain);
            if a as usize / self.stride != b as usize / self.stride
                && self.has_room(a, away)
                && self.has_room(b, home)
                && leaves(a, home)
                && leaves(b, away)
            {
                self.places.swap(a as usize, b as usize);
            }
        }
    }

    /// Places the open slots of `parent`.
    fn place_open(&mut self, parent: DomainId, slots: &[u32]) {
        let mut open: Vec<u32> =
            slots.iter().copied().filter(|&slot| self.places[slot as usize] == parent).collect();
        if open.is_empty() {
            return;
        }
        self.random.shuffle(&mut open);
        let mut short = self.short_of(parent);
        let ordered = self.tree.children(parent).iter().any(|&child| self.least(child) > 0);
        for slot in open {
            let needy = || short.iter().copied().find(|&child| self.beside(slot, child) < self.least(child));
            let child = if ordered { needy() } else { None }
                .or_else(|| self.first_landing(slot, &short))
                .or_else(|| self.first_with_room(slot, &short))
                .or_else(|| self.least_crowded(parent, slot));
            if let Some(child) = child {
                self.put(slot, child);
                if self.counts[child as usize] >= self.targets[child as usize] {
                    short.retain(|&other| other != child);
                }
                if short.len() > 1 {
                    let first = self.random.below(short.len());
                    short.swap(0, first);
                }
            }
        }
    }

    /// Moves slots of an overfull child straight to children below their targets.
    fn shed(&mut self, parent: DomainId, child: DomainId, members: &[u32]) {
        if self.surplus(child) <= 0 {
            return;
        }
        let mut candidates: Vec<u32> = members.iter().copied().filter(|&slot| self.may_move(slot)).collect();
        self.random.shuffle(&mut candidates);
        let mut short = self.short_of(parent);
        let lacking: Vec<DomainId> = short.iter().copied().filter(|&to| self.least(to) > 0).collect();
        for slot in candidates.iter().copied().filter(|_| !lacking.is_empty()) {
            // Partitions that a child lacks altogether go there first.
            let needed = lacking.iter().copied().find(|&to| self.surplus(to) < 0 && self.lacks(slot, to));
            let leaves = self.is_in(slot, child)
                && self.may_move(slot)
                && self.within(slot, child) > self.least(child);
            if let Some(to) = needed.filter(|_| leaves && self.surplus(child) > 0) {
                self.put(slot, to);
            }
        }
        short.retain(|&to| self.surplus(to) < 0);
        for (release, lands) in RELEASES {
            for &slot in &candidates {
                if self.surplus(child) <= 0 || short.is_empty() {
                    return;
                }
                if !self.is_in(slot, child) || !self.may_move(slot) || !self.suits(release, slot, child) {
                    continue;
                }
                let to =
                    if lands { self.first_landing(slot, &short) } else { self.first_with_room(slot, &short) };
                if let Some(to) = to {
                    self.put(slot, to);
                    if self.surplus(to) >= 0 {
                        short.retain(|&other| other != to);
                    }
                }
            }
        }
        self.drain(child, &candidates, &short);
    }

    /// A child that shall hold nothing gives its slots away even where that crowds another.
    fn drain(&mut self, child: DomainId, candidates: &[u32], short: &[DomainId]) {
        if self.targets[child as usize] > 0 {
            return;
        }
        for &slot in candidates {
            if self.is_in(slot, child) && self.may_move(slot) {
                let fits = |to: &&DomainId| self.fits(slot, **to);
                if let Some(&to) = short.iter().filter(fits).min_by_key(|&&to| self.beside(slot, to)) {
                    self.put(slot, to);
                }
            }
        }
    }

    /// What [`shed`](Plan::shed) could not: a slot of `child` takes the place of a slot of a third
    /// child, which moves to one below its target.
    fn chain(
        &mut self,
        parent: DomainId,
        child: DomainId,
        members: &[u32],
        by_child: &[(DomainId, Vec<u32>)],
    ) {
        if self.surplus(child) <= 0 {
            return;
        }
        let mut candidates = members.to_vec();
        self.random.shuffle(&mut candidates);
        for slot in candidates {
            let short = self.short_of(parent);
            if self.surplus(child) <= 0 || short.is_empty() {
                return;
            }
            if !self.is_in(slot, child) || !self.may_move(slot) {
                continue;
            }
            let start = self.random.below(by_child.len());
            for offset in 0..by_child.len() {
                let (middle, others) = &by_child[(start + offset) % by_child.len()];
                if *middle == child || !self.has_room(slot, *middle) {
                    continue;
                }
                if let Some((other, to)) = self.find_partner(slot, *middle, others, &short) {
                    self.put(other, to);
                    self.put(slot, *middle);
                    break;
                }
            }
        }
    }

    /// Swaps slots that crowd a child, or that another child lacks, with slots of others at equal counts.
    fn spread(&mut self, parent: DomainId, slots: &[u32]) {
        let children = self.tree.children(parent);
        let floors: Vec<DomainId> = children.iter().copied().filter(|&child| self.least(child) > 0).collect();
        let wrong: Vec<u32> =
            slots.iter().copied().filter(|&slot| self.misplaced(parent, slot, &floors).is_some()).collect();
        if wrong.is_empty() {
            return;
        }
        let by_child = self.split(parent, slots);
        for slot in wrong {
            if !self.may_move(slot) {
                continue;
            }
            let Some((child, lacking)) = self.misplaced(parent, slot, &floors) else { continue };
            let start = self.random.below(by_child.len());
            for offset in 0..by_child.len() {
                let (to, others) = &by_child[(start + offset) % by_child.len()];
                if lacking.is_some_and(|lacking| lacking != *to) || !self.has_room(slot, *to) {
                    continue;
                }
                if self.surplus(*to) < 0 {
                    self.put(slot, *to);
                    break;
                }
                if let Some((other, back)) = self.find_partner(slot, *to, others, &[child]) {
                    self.put(other, back);
                    self.put(slot, *to);
                    break;
                }
            }
        }
    }

    /// The child that a slot should leave, and the one that lacks it if it is for that one's sake.
    fn misplaced(
        &self,
        parent: DomainId,
        slot: u32,
        floors: &[DomainId],
    ) -> Option<(DomainId, Option<DomainId>)> {
        let tier = self.tree.domains[parent as usize].tier + 1;
        let child = self.tree.domains[self.places[slot as usize] as usize].path[tier];
        if child == BELOW {
            return None;
        }
        let here = self.within(slot, child);
        if here > self.most(child) {
            return Some((child, None));
        }
        if floors.is_empty() || here <= self.least(child) {
            return None;
        }
        let lacking = floors.iter().copied().find(|&floor| self.lacks(slot, floor))?;
        Some((child, Some(lacking)))
    }

    /// Whether `domain` holds fewer replicas of the slot's partition than of any.
    fn lacks(&self, slot: u32, domain: DomainId) -> bool {
        self.within(slot, domain) < self.least(domain)
    }

    /// A slot of `from` that may move to one of `to`, and to which.
    fn find_partner(
        &mut self,
        slot: u32,
        from: DomainId,
        members: &[u32],
        to: &[DomainId],
    ) -> Option<(u32, DomainId)> {
        if members.is_empty() {
            return None;
        }
        let start = self.random.below(members.len());
        for offset in 0..members.len().min(SWAP_PROBES) {
            let other = members[(start + offset) % members.len()];
            let same = other as usize / self.stride == slot as usize / self.stride;
            if same || !self.is_in(other, from) || !self.may_move(other) {
                continue;
            }
            if self.within(other, from) <= self.least(from) {
                continue;
            }
            if let Some(target) = self.first_with_room(other, to) {
                return Some((other, target));
            }
        }
        None
    }

    /// Moves a slot to a sibling of its domain, or places it there.
    fn put(&mut self, slot: u32, to: DomainId) {
        let tier = self.tree.domains[to as usize].tier;
        let old = &self.tree.domains[self.places[slot as usize] as usize].path;
        for &domain in old[tier..].iter().filter(|&&domain| domain != BELOW) {
            self.counts[domain as usize] -= 1;
        }
        self.counts[to as usize] += 1;
        self.places[slot as usize] = to;
        if !self.fresh[slot as usize] {
            self.fresh[slot as usize] = true;
            self.movable[slot as usize / self.stride] = false;
        }
    }

    fn may_move(&self, slot: u32) -> bool {
        self.fresh[slot as usize] || self.movable[slot as usize / self.stride]
    }

    fn is_in(&self, slot: u32, domain: DomainId) -> bool {
        let tier = self.tree.domains[domain as usize].tier;
        self.tree.domains[self.places[slot as usize] as usize].path[tier] == domain
    }

    /// Replicas of the slot's partition in `domain`, itself included.
    fn within(&self, slot: u32, domain: DomainId) -> u32 {
        let tier = self.tree.domains[domain as usize].tier;
        let start = slot as usize / self.stride * self.stride;
        let inside = |place: &&DomainId| {
            **place != NOWHERE && self.tree.domains[**place as usize].path[tier] == domain
        };
        self.places[start..start + self.stride].iter().filter(inside).count() as u32
    }

    /// Other replicas of the slot's partition in `domain`.
    fn beside(&self, slot: u32, domain: DomainId) -> u32 {
        self.within(slot, domain) - u32::from(self.is_in(slot, domain))
    }

    /// Fewest replicas of any partition that `domain` should hold.
    fn least(&self, domain: DomainId) -> u32 {
        self.targets[domain as usize] / self.partitions
    }

    /// Most replicas of one partition that `domain` should hold.
    fn most(&self, domain: DomainId) -> u32 {
        self.targets[domain as usize].div_ceil(self.partitions)
    }

    fn surplus(&self, domain: DomainId) -> i64 {
        i64::from(self.counts[domain as usize]) - i64::from(self.targets[domain as usize])
    }

    fn short_of(&mut self, parent: DomainId) -> Vec<DomainId> {
        let children = self.tree.children(parent).iter().copied();
        let mut short: Vec<DomainId> = children.filter(|&child| self.surplus(child) < 0).collect();
        self.random.shuffle(&mut short);
        short
    }

    fn has_room(&self, slot: u32, domain: DomainId) -> bool {
        !self.is_in(slot, domain) && self.within(slot, domain) < self.most(domain)
    }

    /// Whether another replica of the partition finds a device of its own in `domain`.
    fn fits(&self, slot: u32, domain: DomainId) -> bool {
        !self.is_in(slot, domain) && f64::from(self.within(slot, domain)) < self.capacity[domain as usize]
    }

    fn first_with_room(&self, slot: u32, domains: &[DomainId]) -> Option<DomainId> {
        domains.iter().copied().find(|&domain| self.has_room(slot, domain))
    }

    /// The first that has a device for the slot without moving another.
    fn first_landing(&self, slot: u32, domains: &[DomainId]) -> Option<DomainId> {
        domains.iter().copied().find(|&domain| self.lands(slot, domain))
    }

    fn lands(&self, slot: u32, domain: DomainId) -> bool {
        let children = self.tree.children(domain);
        self.surplus(domain) < 0
            && self.has_room(slot, domain)
            && (children.is_empty() || children.iter().any(|&child| self.lands(slot, child)))
    }

    /// For a slot that no child below its target can take without crowding: one with room, which the
    /// following steps relieve, or else the one that holds least of the partition.
    fn least_crowded(&self, parent: DomainId, slot: u32) -> Option<DomainId> {
        let fitting = || self.tree.children(parent).iter().copied().filter(|&child| self.fits(slot, child));
        let roomy = fitting().filter(|&child| self.has_room(slot, child));
        roomy
            .min_by_key(|&child| self.surplus(child))
            .or_else(|| fitting().min_by_key(|&child| (self.within(slot, child), self.surplus(child))))
    }

    fn suits(&self, release: Release, slot: u32, child: DomainId) -> bool {
        let crowded = self.within(slot, child) > self.most(child);
        if !crowded && self.within(slot, child) <= self.least(child) && release != Release::Any {
            return false;
        }
        let domain = &self.tree.domains[self.places[slot as usize] as usize];
        let mut below = domain.path[self.tree.domains[child as usize].tier + 1..].iter();
        match release {
            Release::Free => self.fresh[slot as usize] || crowded,
            Release::Surplus => below.all(|&id| id != BELOW && self.surplus(id) > 0),
            Release::DeviceSurplus => domain.path[TIERS] != BELOW && self.surplus(domain.path[TIERS]) > 0,
            Release::Any => true,
        }
    }
}
