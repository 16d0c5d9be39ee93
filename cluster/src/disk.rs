//! Which disk is in which slot.
//!
//! Each device's folder has a file `identity` that says whose it is. Each start gets a random number, which is noted on the
//! disk and in the node's own folder: a disk that knows another last start was put back from a backup, or was started
//! somewhere else meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{BootId, ClusterId, DiskId, file};

/// Name of the file in a device's folder.
pub const IDENTITY: &str = "identity";
const FORMAT: u32 = 1;

/// What a disk says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of this file.
    pub format: u32,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its node.
    pub node: String,
    /// Its device.
    pub device: String,
    /// Itself.
    pub disk: DiskId,
    /// Starts of the node with it.
    pub generation: u64,
    /// The last of them.
    pub start: BootId,
    /// The one before it.
    pub before: BootId,
}

/// A device's slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its name in the rings.
    pub device: String,
    /// Its folder.
    pub path: PathBuf,
}

/// Why a disk is not used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: std::io::Error,
    },
    /// The folder has no identity.
    #[error(
        "device {device}: {path} holds no disk of this cluster. Is it mounted? If the disk is new or was wiped: \
         `kodiak device reset {device}`, and the other replicas fill it again"
    )]
    Missing {
        /// The slot.
        device: String,
        /// Its folder.
        path: PathBuf,
    },
    /// The identity cannot be read.
    #[error(
        "device {device}: {path} cannot be understood ({problem}): `kodiak device reset {device}` empties the disk"
    )]
    Damaged {
        /// The slot.
        device: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The disk is of another cluster.
    #[error(
        "device {device}: the disk at {path} belongs to cluster {found}, this machine to {own}. Put the right disk there, \
         or empty this one with `kodiak device reset {device}`"
    )]
    OtherCluster {
        /// The slot.
        device: String,
        /// Its folder.
        path: PathBuf,
        /// The disk's cluster.
        found: ClusterId,
        /// This one.
        own: ClusterId,
    },
    /// The disk is of another machine or slot.
    #[error(
        "device {device}: the disk at {path} is {found_device} of node {found_node}. Put each disk back into its own \
         slot, or empty this one with `kodiak device reset {device}`"
    )]
    OtherSlot {
        /// The slot.
        device: String,
        /// Its folder.
        path: PathBuf,
        /// The disk's device.
        found_device: String,
        /// The disk's node.
        found_node: String,
    },
    /// Another disk was in the slot.
    #[error(
        "device {device}: the disk at {path} is not the one that was in this slot ({found} instead of {known}). Put that \
         one back, or empty this one with `kodiak device reset {device}`"
    )]
    OtherDisk {
        /// The slot.
        device: String,
        /// Its folder.
        path: PathBuf,
        /// The disk.
        found: DiskId,
        /// The disk that was there.
        known: DiskId,
    },
    /// The disk has forgotten what it had acknowledged.
    #[error(
        "device {device}: the disk at {path} is from the past, or was used elsewhere: it knows {found} starts, this \
         machine {known}, and the last ones differ. Was it put back from a backup? What it acknowledged since then is \
         lost on it: `kodiak device reset {device}` empties it, and the other replicas fill it again"
    )]
    Past {
        /// The slot.
        device: String,
        /// Its folder.
        path: PathBuf,
        /// Starts that the disk knows.
        found: u64,
        /// Starts that the machine knows.
        known: u64,
    },
    /// Something else is there.
    #[error("device {device}: {path} is not empty: give an empty folder, or empty it first")]
    NotEmpty {
        /// The slot.
        device: String,
        /// Its folder.
        path: PathBuf,
    },
    /// The slot was never set up.
    #[error(
        "device {device} is in the configuration, but was not set up: take it out and `kodiak device add` it"
    )]
    Unknown {
        /// The slot.
        device: String,
    },
}

/// What the machine knows of the disk in a slot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    disk: DiskId,
    generation: u64,
    start: BootId,
}

/// The disks of this machine, noted outside of them.
#[derive(Debug)]
pub struct Disks {
    path: PathBuf,
    cluster: ClusterId,
    node: String,
    known: BTreeMap<String, Known>,
}

impl Disks {
    /// Reads the notes at `path`; there are none yet if it does not exist.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn load(path: &Path, cluster: ClusterId, node: &str) -> Result<Disks, DiskError> {
        let io = |source| DiskError::Io { path: path.to_owned(), source };
        let known = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| io(std::io::Error::other(error)))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(io(error)),
        };
        Ok(Disks { path: path.to_owned(), cluster, node: node.to_owned(), known })
    }

    /// Takes an empty folder into use; it is made if it is not there.
    ///
    /// # Errors
    /// When there is something in it.
    pub fn set_up(&mut self, slot: &Slot) -> Result<DiskId, DiskError> {
        let io = |source| DiskError::Io { path: slot.path.clone(), source };
        std::fs::create_dir_all(&slot.path).map_err(io)?;
        if contents(&slot.path).map_err(io)?.next().is_some() {
            return Err(DiskError::NotEmpty { device: slot.device.clone(), path: slot.path.clone() });
        }
        self.begin(slot)
    }

    /// Whether a slot holds the disk that was set up in it.
    pub fn holds(&self, slot: &Slot) -> bool {
        self.check(slot).is_ok()
    }

    /// Empties a slot's folder and takes it into use as a new disk.
    ///
    /// # Errors
    /// When something in it cannot be deleted.
    pub fn reset(&mut self, slot: &Slot) -> Result<DiskId, DiskError> {
        let io = |source| DiskError::Io { path: slot.path.clone(), source };
        std::fs::create_dir_all(&slot.path).map_err(io)?;
        // The identity goes first: whatever happens now, the rest is not taken for a disk any more.
        match std::fs::remove_file(slot.path.join(IDENTITY)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => std::fs::File::open(&slot.path).and_then(|folder| folder.sync_all()).map_err(io)?,
        }
        for entry in contents(&slot.path).map_err(io)? {
            let removed =
                if entry.is_dir() { std::fs::remove_dir_all(&entry) } else { std::fs::remove_file(&entry) };
            removed.map_err(|source| DiskError::Io { path: entry, source })?;
        }
        self.begin(slot)
    }

    fn begin(&mut self, slot: &Slot) -> Result<DiskId, DiskError> {
        let known = Known { disk: DiskId::random(), generation: 0, start: BootId::random() };
        self.write(slot, &known, known.start)?;
        let disk = known.disk;
        self.known.insert(slot.device.clone(), known);
        self.save()?;
        Ok(disk)
    }

    /// Checks the disks in all slots, and notes this start. In the order of `slots`.
    ///
    /// # Errors
    /// When a disk is not the one that belongs there.
    pub fn open(&mut self, slots: &[Slot]) -> Result<Vec<DiskId>, DiskError> {
        let checked: Result<Vec<Identity>, DiskError> = slots.iter().map(|slot| self.check(slot)).collect();
        let mut disks = Vec::new();
        for (slot, identity) in slots.iter().zip(checked?) {
            // The disk first: a crash between the two leaves it ahead by one, which `check` allows.
            let generation = identity.generation + 1;
            let known = Known { disk: identity.disk, generation, start: BootId::random() };
            self.write(slot, &known, identity.start)?;
            self.known.insert(slot.device.clone(), known);
            disks.push(identity.disk);
        }
        self.save()?;
        Ok(disks)
    }

    fn check(&self, slot: &Slot) -> Result<Identity, DiskError> {
        let (device, path) = (slot.device.clone(), slot.path.clone());
        let Some(known) = self.known.get(&device) else { return Err(DiskError::Unknown { device }) };
        let file = path.join(IDENTITY);
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DiskError::Missing { device, path });
            }
            Err(source) => return Err(DiskError::Io { path: file, source }),
        };
        let identity: Identity = match serde_json::from_slice(&text) {
            Ok(identity) => identity,
            Err(error) => return Err(DiskError::Damaged { device, path: file, problem: error.to_string() }),
        };
        if identity.format != FORMAT {
            let problem = format!("format {}, this program knows {FORMAT}", identity.format);
            return Err(DiskError::Damaged { device, path: file, problem });
        }
        if identity.cluster != self.cluster {
            return Err(DiskError::OtherCluster { device, path, found: identity.cluster, own: self.cluster });
        }
        if identity.node != self.node || identity.device != device {
            let (found_device, found_node) = (identity.device, identity.node);
            return Err(DiskError::OtherSlot { device, path, found_device, found_node });
        }
        if identity.disk != known.disk {
            return Err(DiskError::OtherDisk { device, path, found: identity.disk, known: known.disk });
        }
        if known.start != identity.start && known.start != identity.before {
            let (found, known) = (identity.generation, known.generation);
            return Err(DiskError::Past { device, path, found, known });
        }
        Ok(identity)
    }

    fn write(&self, slot: &Slot, known: &Known, before: BootId) -> Result<(), DiskError> {
        let identity = Identity {
            format: FORMAT,
            cluster: self.cluster,
            node: self.node.clone(),
            device: slot.device.clone(),
            disk: known.disk,
            generation: known.generation,
            start: known.start,
            before,
        };
        save_json(&slot.path.join(IDENTITY), &identity)
    }

    fn save(&self) -> Result<(), DiskError> {
        save_json(&self.path, &self.known)
    }
}

fn save_json(path: &Path, value: &impl Serialize) -> Result<(), DiskError> {
    let text = serde_json::to_vec_pretty(value).map_err(std::io::Error::other);
    let written = text.and_then(|text| file::replace(path, &text));
    written.map_err(|source| DiskError::Io { path: path.to_owned(), source })
}

/// Everything in a folder but what the file system itself puts there.
fn contents(folder: &Path) -> std::io::Result<impl Iterator<Item = PathBuf>> {
    let entries = std::fs::read_dir(folder)?;
    let entries: std::io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|e| e.path())).collect();
    Ok(entries?.into_iter().filter(|path| path.file_name().is_none_or(|name| name != "lost+found")))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine {
        _folder: tempfile::TempDir,
        notes: PathBuf,
        cluster: ClusterId,
        slots: Vec<Slot>,
    }

    fn machine() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let slot = |name: &str| Slot { device: name.into(), path: folder.path().join(name) };
        let (slots, notes) = (vec![slot("d1"), slot("d2")], folder.path().join("devices.json"));
        let cluster = ClusterId::random();
        let mut disks = Disks::load(&notes, cluster, "n1").unwrap();
        for slot in &slots {
            disks.set_up(slot).unwrap();
        }
        Machine { _folder: folder, notes, cluster, slots }
    }

    impl Machine {
        fn disks(&self) -> Disks {
            Disks::load(&self.notes, self.cluster, "n1").unwrap()
        }

        fn refused(&self) -> String {
            self.disks().open(&self.slots).unwrap_err().to_string()
        }
    }

    #[test]
    fn disks_in_their_slots_are_opened_again_and_again() {
        let machine = machine();
        let first = machine.disks().open(&machine.slots).unwrap();
        assert_eq!(machine.disks().open(&machine.slots).unwrap(), first);
        assert_ne!(first[0], first[1]);
    }

    #[test]
    fn swapped_disks_are_refused_by_name() {
        let machine = machine();
        let (a, b) = (&machine.slots[0].path, &machine.slots[1].path);
        let aside = a.with_file_name("aside");
        for (from, to) in [(a, &aside), (b, a), (&aside, b)] {
            std::fs::rename(from, to).unwrap();
        }
        let text = machine.refused();
        assert!(text.contains("is d2 of node n1") && text.contains("its own slot"), "{text}");
    }

    #[test]
    fn a_disk_of_another_cluster_node_or_backup_is_refused() {
        let machine = machine();
        let mut disks = machine.disks();
        let before = std::fs::read(machine.slots[0].path.join(IDENTITY)).unwrap();
        disks.open(&machine.slots).unwrap();
        std::fs::write(machine.slots[0].path.join(IDENTITY), &before).unwrap();
        let text = machine.refused();
        assert!(text.contains("from the past") && text.contains("kodiak device reset d1"), "{text}");

        disks.reset(&machine.slots[0]).unwrap();
        machine.disks().open(&machine.slots).unwrap();
        let identity = machine.slots[0].path.join(IDENTITY);
        let whole: Identity = serde_json::from_slice(&std::fs::read(&identity).unwrap()).unwrap();
        let with = |changed: Identity| {
            std::fs::write(&identity, serde_json::to_vec(&changed).unwrap()).unwrap();
            machine.refused()
        };
        let text = with(Identity { cluster: ClusterId([9; 16]), ..whole.clone() });
        assert!(text.contains("belongs to cluster 0909"), "{text}");
        let text = with(Identity { node: "n9".into(), ..whole.clone() });
        assert!(text.contains("of node n9"), "{text}");
        let text = with(Identity { disk: DiskId([9; 16]), ..whole.clone() });
        assert!(text.contains("not the one that was in this slot"), "{text}");
        std::fs::remove_file(&identity).unwrap();
        let text = machine.refused();
        assert!(text.contains("Is it mounted?"), "{text}");
    }

    #[test]
    fn a_copy_that_was_started_elsewhere_is_refused_though_it_knows_as_many_starts() {
        let machine = machine();
        let (notes, identity) =
            (std::fs::read(&machine.notes).unwrap(), machine.slots[0].path.join(IDENTITY));
        let before = std::fs::read(&identity).unwrap();
        machine.disks().open(&machine.slots[..1]).unwrap();
        let elsewhere = std::fs::read(&identity).unwrap();
        std::fs::write(&machine.notes, notes).unwrap();
        std::fs::write(&identity, before).unwrap();
        machine.disks().open(&machine.slots[..1]).unwrap();
        std::fs::write(&identity, elsewhere).unwrap();
        let text = machine.refused();
        assert!(text.contains("knows 1 starts, this machine 1, and the last ones differ"), "{text}");
    }

    #[test]
    fn a_crash_between_the_two_notes_is_no_backup() {
        let machine = machine();
        let notes = std::fs::read(&machine.notes).unwrap();
        machine.disks().open(&machine.slots).unwrap();
        std::fs::write(&machine.notes, notes).unwrap();
        machine.disks().open(&machine.slots).unwrap();
    }

    #[test]
    fn a_reset_empties_the_folder_and_a_used_one_is_not_set_up() {
        let machine = machine();
        std::fs::write(machine.slots[0].path.join("volume"), "data").unwrap();
        let mut disks = machine.disks();
        assert!(matches!(disks.set_up(&machine.slots[0]), Err(DiskError::NotEmpty { .. })));
        let disk = disks.reset(&machine.slots[0]).unwrap();
        assert!(!machine.slots[0].path.join("volume").exists());
        assert_eq!(machine.disks().open(&machine.slots).unwrap()[0], disk);
    }
}
