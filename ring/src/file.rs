//! The ring file: all that servers and operators need, in one.
//!
//! Little-endian:
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic `KODKRING` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | partition power |
//! | 16 | 8 | replica count (f64) |
//! | 24 | 8 | overload (f64) |
//! | 32 | 8 | epoch |
//! | 40 | 8 | seed |
//! | 48 | 4 | min-part-hours |
//! | 52 | 4 | id of the next device |
//! | 56 | 4 | number of devices, *n* |
//! | 60 | 4 | slots of a partition, *s*; 0 when never rebalanced |
//! | 64 | | *n* devices: id, region, zone (4 bytes each), leaves (1: 0 or 1), weight (8, f64), node and name (each: 2 bytes length, UTF-8) |
//! | | 2 × *s* × 2^power | slots: position of the device in the table, 65,535 for none |
//! | | 4 × 2^power | hour after each partition's last move, 0 for never (absent when *s* is 0) |
//! | end - 32 | 32 | BLAKE3 of everything before |

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::RingError;
use crate::builder::{MAX_DEVICES, MAX_PART_POWER, MAX_REPLICAS, RingBuilder, check_name, check_weight};
use crate::ring::{Assignment, Device, NO_DEVICE, Ring};

pub(crate) const MAGIC: &[u8; 8] = b"KODKRING";
pub(crate) const VERSION: u32 = 1;
const CHECKSUM: usize = 32;
/// Epochs grow by one with each change: none comes near this, and none that is read can overflow.
pub(crate) const MAX_EPOCH: u64 = u64::MAX / 2;

impl Ring {
    /// Reads the ring from a ring file.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or was never rebalanced.
    pub fn load(path: &Path) -> Result<Ring, RingError> {
        RingBuilder::load(path)?.ring()
    }

    /// Reads the ring from a ring file's bytes, as nodes send it to each other.
    ///
    /// # Errors
    /// When they are damaged or were never rebalanced.
    pub fn from_bytes(bytes: &[u8]) -> Result<Ring, RingError> {
        RingBuilder::from_bytes(bytes)?.ring()
    }
}

impl RingBuilder {
    /// Reads a ring file.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn load(path: &Path) -> Result<RingBuilder, RingError> {
        let bytes = std::fs::read(path).map_err(io("reading", path))?;
        RingBuilder::from_bytes(&bytes)
    }

    /// Writes the ring file so that, whatever happens, either the old or the new one is there.
    ///
    /// # Errors
    /// When writing fails; the old file is then untouched.
    pub fn save(&self, path: &Path) -> Result<(), RingError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.new", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let written = write_synced(&temporary, &self.to_bytes())
            .and_then(|()| std::fs::rename(&temporary, path).map_err(io("replacing", path)));
        if written.is_err() {
            // The first error is the one to report.
            _ = std::fs::remove_file(&temporary);
        }
        written?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("syncing", folder))
    }

    /// The ring file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::from(self.part_power).to_le_bytes());
        out.extend_from_slice(&self.replicas.to_le_bytes());
        out.extend_from_slice(&self.overload.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.seed.to_le_bytes());
        let stride = self.assignment.as_ref().map_or(0, |assignment| assignment.stride);
        for number in [self.min_part_hours, self.next_id, self.devices.len() as u32, stride as u32] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for (device, leaves) in self.devices() {
            for number in [device.id, device.region, device.zone] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.push(u8::from(leaves));
            out.extend_from_slice(&device.weight.to_le_bytes());
            for text in [&device.node, &device.name] {
                out.extend_from_slice(&(text.len() as u16).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
        if let Some(assignment) = &self.assignment {
            assignment.slots.iter().for_each(|slot| out.extend_from_slice(&slot.to_le_bytes()));
            self.moved_at.iter().for_each(|hour| out.extend_from_slice(&hour.to_le_bytes()));
        }
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        out
    }

    /// Reads a ring file's bytes. Any bytes give a valid ring or an error.
    ///
    /// # Errors
    /// When they are not a ring file, of another version, cut short or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<RingBuilder, RingError> {
        if bytes.len() < MAGIC.len() && MAGIC.starts_with(bytes) {
            return Err(RingError::Truncated { len: bytes.len() });
        }
        if !bytes.starts_with(MAGIC) {
            return Err(RingError::NotARing);
        }
        let mut header = Cursor { rest: &bytes[MAGIC.len()..], len: bytes.len() };
        let found = header.u32()?;
        if found != VERSION {
            return Err(RingError::Version { found, known: VERSION });
        }
        let body = bytes.len().saturating_sub(CHECKSUM);
        if blake3::hash(&bytes[..body]).as_bytes() != &bytes[body..] {
            // The sizes that the file states tell a short one from a damaged one.
            return Err(match parse(bytes) {
                Err(RingError::Truncated { len }) => RingError::Truncated { len },
                _ => RingError::Checksum,
            });
        }
        let (builder, rest) = parse(bytes)?;
        if rest.len() != CHECKSUM {
            return Err(RingError::Corrupt("it is longer than its parts".to_owned()));
        }
        Ok(builder)
    }
}

fn io<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(std::io::Error) -> RingError + use<'p> {
    move |source| RingError::Io { action, path: path.to_owned(), source }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), RingError> {
    let mut file = File::create(path).map_err(io("creating", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io("writing", path))
}

struct Cursor<'a> {
    rest: &'a [u8],
    /// Of the whole file, for messages.
    len: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], RingError> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(RingError::Truncated { len: self.len })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RingError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u16(&mut self) -> Result<u16, RingError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, RingError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, RingError> {
        self.array().map(u64::from_le_bytes)
    }

    fn f64(&mut self) -> Result<f64, RingError> {
        self.array().map(f64::from_le_bytes)
    }

    fn text(&mut self, what: &'static str) -> Result<String, RingError> {
        let len = self.u16()?;
        let bytes = self.take(usize::from(len))?;
        let text = std::str::from_utf8(bytes).map_err(|_| corrupt(format!("a {what} name is not UTF-8")))?;
        check_name(what, text).map_err(|error| corrupt(error.to_string()))?;
        Ok(text.to_owned())
    }
}

fn corrupt(text: impl Into<String>) -> RingError {
    RingError::Corrupt(text.into())
}

/// The builder and what follows it: the checksum of a sound file.
fn parse(bytes: &[u8]) -> Result<(RingBuilder, &[u8]), RingError> {
    let mut cursor = Cursor { rest: bytes, len: bytes.len() };
    cursor.take(MAGIC.len() + 4)?;
    let part_power = cursor.u32()?;
    let (replicas, overload) = (cursor.f64()?, cursor.f64()?);
    let (epoch, seed) = (cursor.u64()?, cursor.u64()?);
    let (min_part_hours, next_id) = (cursor.u32()?, cursor.u32()?);
    let (count, stride) = (cursor.u32()? as usize, cursor.u32()? as usize);
    if part_power > u32::from(MAX_PART_POWER) {
        return Err(corrupt(format!("its partition power is {part_power}")));
    }
    if count > MAX_DEVICES || stride > MAX_REPLICAS as usize {
        return Err(corrupt(format!("it states {count} devices and {stride} replicas")));
    }
    let mut builder = RingBuilder::new(part_power as u8, replicas, min_part_hours, seed)
        .map_err(|error| corrupt(error.to_string()))?;
    builder.set_overload(overload).map_err(|error| corrupt(error.to_string()))?;
    if epoch > MAX_EPOCH {
        return Err(corrupt(format!("its epoch is {epoch}")));
    }
    (builder.epoch, builder.next_id) = (epoch, next_id);
    for _ in 0..count {
        let (device, leaves) = parse_device(&mut cursor)?;
        let ascends = builder.devices.last().is_none_or(|last| last.id < device.id);
        if !ascends || device.id >= next_id {
            return Err(corrupt(format!("device id {} is out of order", device.id)));
        }
        builder.devices.push(device);
        builder.removed.push(leaves);
    }
    if stride > 0 {
        let partitions = builder.partitions();
        let slots = cursor.take(partitions * stride * 2)?;
        let slots: Vec<u16> =
            slots.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        if slots.iter().any(|&slot| slot != NO_DEVICE && usize::from(slot) >= count) {
            return Err(corrupt("a slot names a device that it does not have"));
        }
        let hours = cursor.take(partitions * 4)?.chunks_exact(4);
        builder.moved_at =
            hours.map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
        builder.assignment = Some(Assignment { stride, slots });
    }
    if cursor.rest.len() < CHECKSUM {
        return Err(RingError::Truncated { len: bytes.len() });
    }
    Ok((builder, cursor.rest))
}

fn parse_device(cursor: &mut Cursor) -> Result<(Device, bool), RingError> {
    let (id, region, zone) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    let leaves = match cursor.array::<1>()? {
        [0] => false,
        [1] => true,
        [other] => return Err(corrupt(format!("a device's flag is {other}"))),
    };
    let weight = cursor.f64()?;
    check_weight(weight).map_err(|error| corrupt(error.to_string()))?;
    let (node, name) = (cursor.text("node")?, cursor.text("device")?);
    Ok((Device { id, region, zone, node, name, weight }, leaves))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::NewDevice;

    fn sample() -> RingBuilder {
        let mut builder = RingBuilder::new(2, 2.0, 1, 3).unwrap();
        for i in 0..3 {
            builder.add_device(NewDevice::new(1, i, &format!("node{i}"), "d").weight(50.0)).unwrap();
        }
        builder.rebalance(9).unwrap();
        builder
    }

    /// Gives changed bytes a fitting checksum again.
    fn sealed(bytes: &[u8]) -> Vec<u8> {
        let body = &bytes[..bytes.len() - CHECKSUM];
        [body, blake3::hash(body).as_bytes()].concat()
    }

    #[test]
    fn the_format_stays_as_it_was_published() {
        let bytes = include_bytes!("../tests/data/golden.ring");
        let golden = RingBuilder::from_bytes(bytes).unwrap();
        assert_eq!(golden.to_bytes(), bytes);
        assert_eq!((golden.part_power(), golden.replicas(), golden.devices().count()), (2, 2.0, 3));
        assert_eq!(golden.ring().unwrap().primaries(crate::Partition::new(2, 3)).count(), 2);
    }

    #[test]
    fn a_saved_ring_is_read_back_with_its_builder_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object.ring");
        let mut builder = sample();
        builder.save(&path).unwrap();
        builder.remove_device(1).unwrap();
        builder.save(&path).unwrap();
        assert_eq!(RingBuilder::load(&path).unwrap(), builder);
        assert_eq!(Ring::load(&path).unwrap().epoch(), builder.epoch());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn each_kind_of_damage_has_its_own_error() {
        let bytes = sample().to_bytes();
        for len in 0..bytes.len() {
            let error = RingBuilder::from_bytes(&bytes[..len]).unwrap_err();
            assert!(matches!(error, RingError::Truncated { .. }), "{len}: {error}");
        }
        assert!(matches!(RingBuilder::from_bytes(b"R1NG and more"), Err(RingError::NotARing)));
        let mut newer = bytes.clone();
        newer[8] = 2;
        assert!(matches!(RingBuilder::from_bytes(&newer), Err(RingError::Version { found: 2, known: 1 })));
        let mut flipped = bytes.clone();
        flipped[40] ^= 1;
        assert!(matches!(RingBuilder::from_bytes(&flipped), Err(RingError::Checksum)));
        let longer = sealed(&[&bytes[..], &[0]].concat());
        assert!(matches!(RingBuilder::from_bytes(&longer), Err(RingError::Corrupt(_))));
        let missing = Ring::load(Path::new("/nonexistent/object.ring")).unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/object.ring"), "{missing}");
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(at in 12..200usize, bytes in prop::collection::vec(any::<u8>(), 1..16)) {
            let mut file = sample().to_bytes();
            for (offset, byte) in bytes.iter().enumerate() {
                let len = file.len();
                file[(at + offset) % len] = *byte;
            }
            if let Ok(mut builder) = RingBuilder::from_bytes(&sealed(&file)) {
                let ring = builder.ring();
                if let Ok(ring) = ring {
                    let first = crate::Partition::new(ring.part_power(), 0);
                    prop_assert!(ring.primaries(first).chain(ring.handoffs(first)).count() < 100);
                }
                _ = builder.loads();
                _ = builder.dispersion();
                if builder.part_power() < 10 {
                    _ = builder.rebalance(1);
                }
            }
            _ = RingBuilder::from_bytes(&bytes);
        }
    }
}
