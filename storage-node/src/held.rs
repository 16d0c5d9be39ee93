//! Which partitions a device holds whole.
//!
//! A device that was wiped, or that a new ring gives a partition to, lacks writes that others have
//! acknowledged. Until it has been filled from them it takes writes like any replica, but has no vote in
//! reads and promises: a majority that counted it could miss what it never had. `docs/consistency.md` has
//! the argument.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kodiak_storage_api::{NodeError, Partition, Place, Tree};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;

const FILE: &str = "held.json";
const FORMAT: u32 = 2;

/// The partitions of one ring that a device is a replica of.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Which ring's, and of what.
    pub tree: Tree,
    /// The ring's power.
    pub power: u8,
    /// The partitions.
    pub partitions: Vec<Partition>,
    /// What a device has of them that was never told of the tree.
    pub begins: Begins,
}

/// What a device has of a tree's partitions when it is told of the tree for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begins {
    /// All: the ring had no devices before, so there is nothing that a replica could lack.
    Whole,
    /// All, unless the disk is empty: every partition still is where the ring had it first, so that nobody but
    /// this device can have accepted anything in its place. A disk that was wiped may have forgotten that it did.
    WholeUnlessWiped,
    /// Nothing: others had the partitions before.
    Lacking,
}

/// Some partitions of a ring.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    power: u8,
    numbers: BTreeSet<u32>,
}

impl Numbers {
    fn contains(&self, place: Place) -> bool {
        self.numbers.contains(&place.partition(self.power).number())
    }

    /// Those of another power that are within these.
    fn holds(&self, partition: Partition) -> bool {
        partition.power() >= self.power && self.contains(*partition.places().start())
    }
}

type Trees = BTreeMap<Tree, Numbers>;

/// See the module. A device that was never told its assignments, as in a store of one machine, holds
/// whatever it is asked for.
pub struct Held {
    disk: Arc<dyn Disk>,
    file: PathBuf,
    state: RwLock<State>,
    /// Whether anything is missing: the check of every read.
    filling: AtomicBool,
}

#[derive(Default)]
struct State {
    /// What is on stable storage: none if there is no file.
    held: Option<Trees>,
    /// The file could not be read: nothing is known to be held, whatever it said.
    damaged: bool,
    /// No tree of which nothing is missing.
    missing: Trees,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    held: Vec<(Tree, Numbers)>,
}

impl Held {
    /// What the device in `folder` holds. A file that cannot be read counts as nothing held.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path) -> Held {
        let file = folder.join(FILE);
        let read = match disk.read(&file) {
            Ok(bytes) => match serde_json::from_slice::<Stored>(&bytes) {
                Ok(stored) if stored.format == FORMAT => Ok(Some(stored.held.into_iter().collect())),
                Ok(stored) => Err(format!("format {} is not known", stored.format)),
                Err(error) => Err(error.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &read {
            tracing::error!(file = %file.display(), error, "every partition is filled anew");
        }
        let (damaged, held) = (read.is_err(), read.unwrap_or_default());
        let state = RwLock::new(State { held, damaged, missing: Trees::new() });
        Held { disk, file, state, filling: AtomicBool::new(false) }
    }

    /// The device is now a replica of these partitions, and of no others. On stable storage when this
    /// returns is that those it was not a replica of before are missing: to be called before any reader
    /// knows the ring. Where a ring's power has grown, of a partition that was held both halves are: they have
    /// the same devices, and what was placed in it is placed in one of them.
    pub fn adopt(&self, assignments: &[Assignment]) -> io::Result<()> {
        let mut state = self.state.write();
        let (mut held, mut missing) = (Trees::new(), Trees::new());
        for Assignment { tree, power, partitions, begins } in assignments {
            let had = state.held.as_ref().and_then(|held| held.get(tree));
            let begins_whole = match begins {
                Begins::Whole => !state.damaged,
                Begins::WholeUnlessWiped => !state.damaged && state.held.is_some(),
                Begins::Lacking => false,
            };
            let is_held = |partition: &Partition| match had {
                Some(had) => had.holds(*partition),
                None => begins_whole,
            };
            let (whole, lacking): (Vec<Partition>, Vec<Partition>) =
                partitions.iter().filter(|partition| partition.power() == *power).partition(|p| is_held(p));
            let numbers = |partitions: Vec<Partition>| Numbers {
                power: *power,
                numbers: partitions.into_iter().map(Partition::number).collect(),
            };
            missing.insert(*tree, numbers(lacking));
            held.insert(*tree, numbers(whole));
        }
        missing.retain(|_, partitions| !partitions.numbers.is_empty());
        if state.held.as_ref() != Some(&held) {
            self.save(&held)?;
        }
        self.filling.store(!missing.is_empty(), Ordering::Release);
        *state = State { held: Some(held), damaged: false, missing };
        Ok(())
    }

    /// Whether the device was ever told its partitions of a tree.
    pub fn was_assigned(&self, tree: Tree) -> bool {
        let state = self.state.read();
        state.damaged || state.held.as_ref().is_some_and(|held| held.contains_key(&tree))
    }

    /// Partitions have everything that the others had: they vote from now on.
    pub fn filled(&self, tree: Tree, partitions: &[Partition]) -> io::Result<()> {
        let mut state = self.state.write();
        let (mut missing, mut held) = (state.missing.clone(), state.held.clone().unwrap_or_default());
        let (Some(lacking), Some(whole)) = (missing.get_mut(&tree), held.get_mut(&tree)) else {
            return Ok(());
        };
        let mut changed = false;
        for partition in partitions.iter().filter(|partition| partition.power() == whole.power) {
            if lacking.numbers.remove(&partition.number()) {
                whole.numbers.insert(partition.number());
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
        missing.retain(|_, partitions| !partitions.numbers.is_empty());
        self.save(&held)?;
        state.missing = missing;
        self.filling.store(!state.missing.is_empty(), Ordering::Release);
        state.held = Some(held);
        Ok(())
    }

    /// The partitions of each tree that it is a replica of, with their power: those that it has whole, and those
    /// that are missing.
    pub fn assigned(&self) -> Vec<(Tree, u8, BTreeSet<u32>, BTreeSet<u32>)> {
        let state = self.state.read();
        let missing = |tree: &Tree| state.missing.get(tree).map(|missing| missing.numbers.clone());
        let held = state.held.iter().flatten();
        held.map(|(tree, whole)| {
            (*tree, whole.power, whole.numbers.clone(), missing(tree).unwrap_or_default())
        })
        .collect()
    }

    /// What is missing.
    pub fn missing(&self) -> Vec<(Tree, Partition)> {
        let state = self.state.read();
        let of = |(tree, partitions): (&Tree, &Numbers)| {
            let (tree, power) = (*tree, partitions.power);
            let numbers = partitions.numbers.iter();
            numbers.map(move |number| (tree, Partition::new(power, *number))).collect::<Vec<_>>()
        };
        state.missing.iter().flat_map(of).collect()
    }

    /// Whether the partition of a place is missing in one of these trees.
    pub fn is_missing(&self, trees: &[Tree], place: Place) -> bool {
        if !self.filling.load(Ordering::Acquire) {
            return false;
        }
        let state = self.state.read();
        let lacks = |tree| state.missing.get(tree).is_some_and(|missing| missing.contains(place));
        trees.iter().any(lacks)
    }

    /// Refuses a vote about what is in a partition that is missing.
    pub fn vote(&self, trees: &[Tree], place: Place) -> Result<(), NodeError> {
        if self.is_missing(trees, place) { Err(no_vote()) } else { Ok(()) }
    }

    fn save(&self, held: &Trees) -> io::Result<()> {
        let held = held.iter().map(|(tree, partitions)| (*tree, partitions.clone())).collect();
        self.disk.replace(&self.file, &serde_json::to_vec(&Stored { format: FORMAT, held })?)
    }
}

/// The answer of a replica that is being filled.
pub fn no_vote() -> NodeError {
    NodeError::Unavailable("this replica is being filled and has no vote yet".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SystemDisk;
    use kodiak_storage_api::PolicyIndex;

    const TREE: Tree = Tree::Containers;

    fn open(folder: &Path) -> Held {
        Held::open(Arc::new(SystemDisk), folder)
    }

    const POWER: u8 = 8;

    fn assigned(partitions: &[u32], begins: Begins) -> Vec<Assignment> {
        at_power(POWER, partitions, begins)
    }

    fn at_power(power: u8, partitions: &[u32], begins: Begins) -> Vec<Assignment> {
        let partitions = partitions.iter().map(|number| Partition::new(power, *number)).collect();
        vec![Assignment { tree: TREE, power, partitions, begins }]
    }

    fn place(number: u32) -> Place {
        Place(number << 24 | 0xff_0000)
    }

    fn missing(held: &Held) -> Vec<u32> {
        held.missing().into_iter().map(|(_, partition)| partition.number()).collect()
    }

    #[test]
    fn a_device_that_knows_of_no_ring_and_one_of_a_fresh_ring_hold_everything() {
        let folder = tempfile::tempdir().expect("folder");
        let held = open(folder.path());
        assert!(!held.is_missing(&[TREE], place(1)));
        held.adopt(&assigned(&[1, 2], Begins::Whole)).expect("saved");
        assert!(held.vote(&[TREE], place(1)).is_ok());
    }

    #[test]
    fn what_a_ring_adds_is_missing_until_it_is_filled_across_starts() {
        let folder = tempfile::tempdir().expect("folder");
        open(folder.path()).adopt(&assigned(&[1, 2], Begins::Whole)).expect("saved");
        let held = open(folder.path());
        held.adopt(&assigned(&[1, 2, 3, 4], Begins::Lacking)).expect("saved");
        assert_eq!(missing(&held), [3, 4]);
        assert!(held.vote(&[Tree::Accounts, TREE], place(3)).is_err());
        assert!(held.vote(&[Tree::Accounts], place(3)).is_ok());
        held.filled(TREE, &[Partition::new(POWER, 3)]).expect("saved");
        let again = open(folder.path());
        again.adopt(&assigned(&[1, 2, 3, 4], Begins::Lacking)).expect("saved");
        assert_eq!(missing(&again), [4]);
    }

    #[test]
    fn a_partition_that_went_and_came_back_is_missing() {
        let folder = tempfile::tempdir().expect("folder");
        let held = open(folder.path());
        held.adopt(&assigned(&[1, 2], Begins::Whole)).expect("saved");
        held.adopt(&assigned(&[1], Begins::Lacking)).expect("saved");
        held.adopt(&assigned(&[1, 2], Begins::Whole)).expect("saved");
        assert_eq!(missing(&held), [2]);
    }

    #[test]
    fn what_a_partition_has_its_halves_have_across_starts() {
        let folder = tempfile::tempdir().expect("folder");
        let held = open(folder.path());
        held.adopt(&assigned(&[1, 2], Begins::Whole)).expect("saved");
        held.adopt(&assigned(&[1, 2, 3], Begins::Lacking)).expect("saved");
        let halves = [2, 3, 4, 5, 6, 7];
        held.adopt(&at_power(POWER + 1, &halves, Begins::Lacking)).expect("saved");
        assert_eq!(missing(&held), [6, 7]);
        assert!(held.vote(&[TREE], place(2)).is_ok() && held.vote(&[TREE], place(3)).is_err());
        // What was filled by the ring before says nothing of this one's partitions.
        held.filled(TREE, &[Partition::new(POWER, 6)]).expect("nothing to save");
        held.filled(TREE, &[Partition::new(POWER + 1, 7)]).expect("saved");
        let again = open(folder.path());
        again.adopt(&at_power(POWER + 1, &halves, Begins::Lacking)).expect("saved");
        assert_eq!(missing(&again), [6]);
        again.adopt(&at_power(POWER + 3, &[8, 11, 24, 27, 28, 31], Begins::Lacking)).expect("saved");
        assert_eq!(missing(&again), [24, 27]);
        // A ring whose power has shrunk is another one.
        again.adopt(&assigned(&[1], Begins::Lacking)).expect("saved");
        assert_eq!(missing(&again), [1]);
    }

    #[test]
    fn a_new_device_of_an_old_ring_and_one_whose_file_is_damaged_hold_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let held = open(folder.path());
        held.adopt(&assigned(&[5], Begins::Lacking)).expect("saved");
        assert_eq!(missing(&held), [5]);
        std::fs::write(folder.path().join(FILE), b"{").expect("written");
        let held = open(folder.path());
        held.adopt(&assigned(&[5], Begins::Whole)).expect("saved");
        assert_eq!(missing(&held), [5]);
    }

    #[test]
    fn a_policy_that_begins_in_a_running_cluster_is_whole_but_on_a_disk_that_was_wiped() {
        let folder = tempfile::tempdir().expect("folder");
        let of_policy = |begins| {
            let begun =
                Assignment { tree: Tree::Objects(PolicyIndex(1)), ..assigned(&[7], begins).remove(0) };
            [assigned(&[1], Begins::Lacking), vec![begun]].concat()
        };
        // The disk was empty when it was told of the policy: it may have had what it does not know of.
        let held = open(folder.path());
        held.adopt(&of_policy(Begins::WholeUnlessWiped)).expect("saved");
        assert_eq!(missing(&held), [1, 7]);
        // It was in use before the policy began, whether it hears of it at once or after a restart.
        std::fs::remove_file(folder.path().join(FILE)).expect("wiped");
        open(folder.path()).adopt(&assigned(&[1], Begins::Lacking)).expect("saved");
        let held = open(folder.path());
        held.adopt(&of_policy(Begins::WholeUnlessWiped)).expect("saved");
        assert_eq!(missing(&held), [1]);
        // The partitions have moved since: others may have what it lacks.
        let folder = tempfile::tempdir().expect("folder");
        let held = open(folder.path());
        held.adopt(&assigned(&[1], Begins::Whole)).expect("saved");
        held.adopt(&of_policy(Begins::Lacking)).expect("saved");
        assert_eq!(missing(&held), [7]);
        // What is known to be held cannot be read.
        std::fs::write(folder.path().join(FILE), b"{").expect("written");
        let held = open(folder.path());
        held.adopt(&of_policy(Begins::WholeUnlessWiped)).expect("saved");
        assert_eq!(missing(&held), [1, 7]);
    }
}
