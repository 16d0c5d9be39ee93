//! Reads OpenStack Swift's `.ring.gz`, formats 1 and 2.
//!
//! A gzip stream of, in network byte order but where said otherwise:
//!
//! | format 1 | format 2 |
//! | --- | --- |
//! | `R1NG`, u16 version 1 | `R1NG`, u16 version 2 |
//! | u32 length, JSON: `devs`, `part_shift`, `replica_count`, `byteorder` | sections: u64 length, content |
//! | for each replica a row of u16 device ids, in `byteorder`; the last may be short | JSON index: name to \[.., uncompressed start, .., uncompressed end, checksum method, checksum\] |
//! | | u64 start of the index in the uncompressed stream, u64 in the compressed one |
//!
//! The sections of format 2 that matter: `swift/ring/metadata`, `swift/ring/devices`, `swift/ring/assignments`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256, Sha512};

use crate::RingError;
use crate::builder::{MAX_DEVICES, MAX_PART_POWER, RingBuilder, check_name, check_weight};
use crate::file::MAX_EPOCH;
use crate::ring::{Assignment, Device, NO_DEVICE};

const MAGIC: &[u8] = b"R1NG";
/// The largest partition power times eight replicas of four-byte ids, and devices: what lies above is no ring.
const MAX_UNPACKED: u64 = 1 << 30;

#[derive(Deserialize)]
struct Metadata {
    part_shift: u32,
    #[serde(default)]
    byteorder: Option<String>,
    #[serde(default)]
    dev_id_bytes: Option<usize>,
    #[serde(default)]
    version: Option<u64>,
    #[serde(default)]
    devs: Vec<Option<SwiftDevice>>,
}

#[derive(Deserialize)]
struct SwiftDevice {
    id: u32,
    /// Absent in rings older than regions.
    #[serde(default = "first_region")]
    region: u32,
    zone: u32,
    ip: String,
    #[serde(default)]
    port: u32,
    device: String,
    weight: f64,
}

fn first_region() -> u32 {
    1
}

/// What either format holds.
struct SwiftRing {
    part_power: u8,
    version: u64,
    devices: Vec<SwiftDevice>,
    /// Device ids, row after row; each row is a replica of all partitions.
    ids: Vec<u32>,
}

impl RingBuilder {
    /// Imports a Swift ring file: its devices (node names are `ip:port`), weights and assignment, so
    /// that no replica moves. Swift's placement hash is another than ours: names fall into other
    /// partitions, hence this takes over a layout, not data.
    ///
    /// # Errors
    /// When the file cannot be read or is not a ring that this program understands.
    pub fn import_swift(path: &Path, min_part_hours: u32, seed: u64) -> Result<RingBuilder, RingError> {
        let read = std::fs::read(path);
        let bytes =
            read.map_err(|source| RingError::Io { action: "reading", path: path.to_owned(), source })?;
        RingBuilder::from_swift(&bytes, min_part_hours, seed)
    }

    /// The same from the file's bytes.
    ///
    /// # Errors
    /// When they are not a ring that this program understands.
    pub fn from_swift(bytes: &[u8], min_part_hours: u32, seed: u64) -> Result<RingBuilder, RingError> {
        let raw = unpack(bytes)?;
        let (head, rest) = raw.split_at_checked(6).ok_or_else(|| refuse("it is empty"))?;
        if &head[..4] != MAGIC {
            return Err(refuse(
                "it does not begin with R1NG; the oldest, pickled rings must be rewritten by swift-ring-builder first",
            ));
        }
        let ring = match u16::from_be_bytes([head[4], head[5]]) {
            1 => read_v1(rest)?,
            2 => read_v2(&raw)?,
            other => return Err(refuse(format!("its format is {other}, known are 1 and 2"))),
        };
        assemble(ring, min_part_hours, seed)
    }
}

fn refuse(text: impl Into<String>) -> RingError {
    RingError::Swift(text.into())
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, RingError> {
    let mut raw = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes)
        .take(MAX_UNPACKED + 1)
        .read_to_end(&mut raw)
        .map_err(|error| refuse(format!("it is not a whole gzip file ({error}): copy it again")))?;
    if raw.len() as u64 > MAX_UNPACKED {
        return Err(refuse(format!("it unpacks to more than {MAX_UNPACKED} bytes")));
    }
    Ok(raw)
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), RingError> {
    bytes.split_at_checked(at).ok_or_else(|| refuse("it ends early"))
}

fn be_u64(bytes: &[u8]) -> Result<(u64, &[u8]), RingError> {
    let (head, rest) = split(bytes, 8)?;
    Ok((head.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)), rest))
}

fn json<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, RingError> {
    serde_json::from_slice(bytes).map_err(|error| refuse(format!("its {what} cannot be read: {error}")))
}

fn part_power(shift: u32) -> Result<u8, RingError> {
    match 32u32.checked_sub(shift).and_then(|power| u8::try_from(power).ok()) {
        Some(power) if power <= MAX_PART_POWER => Ok(power),
        _ => Err(refuse(format!(
            "its part_shift is {shift}; partition powers 0 to {MAX_PART_POWER} are possible"
        ))),
    }
}

fn read_v1(rest: &[u8]) -> Result<SwiftRing, RingError> {
    let (length, rest) = split(rest, 4)?;
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
    let (text, rows) = split(rest, length as usize)?;
    let metadata: Metadata = json("metadata", text)?;
    let big = match metadata.byteorder.as_deref() {
        Some("big") => true,
        Some("little") | None => false,
        Some(other) => return Err(refuse(format!("its byte order is {other:?}"))),
    };
    let ids = device_ids(rows, 2, big)?;
    let part_power = part_power(metadata.part_shift)?;
    let devices = metadata.devs.into_iter().flatten().collect();
    Ok(SwiftRing { part_power, version: metadata.version.unwrap_or(1), devices, ids })
}

/// Index entries: compressed start, uncompressed start, compressed end, uncompressed end, method, checksum.
type Entry = (u64, usize, u64, usize, String, String);

fn read_v2(raw: &[u8]) -> Result<SwiftRing, RingError> {
    let tail = raw.len().checked_sub(16).ok_or_else(|| refuse("it ends early"))?;
    let (start, _) = be_u64(&raw[tail..])?;
    let index = usize::try_from(start).ok().and_then(|start| raw.get(start..tail));
    let (_, text) = be_u64(index.ok_or_else(|| refuse("its index lies outside of it"))?)?;
    let index: BTreeMap<String, Entry> = json("index", text)?;
    let metadata: Metadata = json("metadata", section(raw, &index, "swift/ring/metadata")?)?;
    let devices: Vec<Option<SwiftDevice>> = json("devices", section(raw, &index, "swift/ring/devices")?)?;
    let width = metadata.dev_id_bytes.unwrap_or(2);
    let ids = device_ids(section(raw, &index, "swift/ring/assignments")?, width, true)?;
    let part_power = part_power(metadata.part_shift)?;
    let devices = devices.into_iter().flatten().collect();
    Ok(SwiftRing { part_power, version: metadata.version.unwrap_or(1), devices, ids })
}

/// A section's content, its checksum verified.
fn section<'a>(raw: &'a [u8], index: &BTreeMap<String, Entry>, name: &str) -> Result<&'a [u8], RingError> {
    let (_, start, _, end, method, checksum) =
        index.get(name).ok_or_else(|| refuse(format!("it has no section {name}")))?;
    let whole = raw.get(*start..*end).ok_or_else(|| refuse(format!("section {name} lies outside of it")))?;
    let found = match method.as_str() {
        "sha256" => hex(&Sha256::digest(whole)),
        "sha512" => hex(&Sha512::digest(whole)),
        other => return Err(refuse(format!("section {name} has a checksum of the unknown kind {other}"))),
    };
    if found != *checksum {
        return Err(refuse(format!(
            "section {name} is damaged (its checksum does not fit): copy the file again"
        )));
    }
    let (length, content) = be_u64(whole)?;
    if length != content.len() as u64 {
        return Err(refuse(format!("section {name} has a wrong length")));
    }
    Ok(content)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn device_ids(bytes: &[u8], width: usize, big: bool) -> Result<Vec<u32>, RingError> {
    if !matches!(width, 1 | 2 | 4) || !bytes.len().is_multiple_of(width) {
        return Err(refuse(format!("its assignment of {} bytes has ids of {width} bytes", bytes.len())));
    }
    let id = |chunk: &[u8]| {
        let join = |id: u32, &byte: &u8| id << 8 | u32::from(byte);
        if big { chunk.iter().fold(0, join) } else { chunk.iter().rev().fold(0, join) }
    };
    Ok(bytes.chunks(width).map(id).collect())
}

fn assemble(ring: SwiftRing, min_part_hours: u32, seed: u64) -> Result<RingBuilder, RingError> {
    let partitions = 1 << ring.part_power;
    let replicas = ring.ids.len() as f64 / partitions as f64;
    let invalid = |error: RingError| refuse(error.to_string());
    let mut builder = RingBuilder::new(ring.part_power, replicas, min_part_hours, seed).map_err(invalid)?;
    if ring.devices.len() > MAX_DEVICES {
        return Err(invalid(RingError::TooManyDevices));
    }
    if ring.version > MAX_EPOCH {
        return Err(refuse(format!("its version is {}", ring.version)));
    }
    builder.epoch = ring.version.max(1);
    for device in ring.devices {
        let node = format!("{}:{}", device.ip, device.port);
        check_name("node", &node).and(check_name("device", &device.device)).map_err(invalid)?;
        check_weight(device.weight).map_err(invalid)?;
        let SwiftDevice { id, region, zone, device: name, weight, .. } = device;
        builder.devices.push(Device { id, region, zone, node, name, weight });
    }
    builder.devices.sort_by_key(|device| device.id);
    if builder.devices.windows(2).any(|pair| pair[0].id == pair[1].id) {
        return Err(refuse("two devices have the same id"));
    }
    builder.removed = vec![false; builder.devices.len()];
    let next = builder.devices.last().map_or(Some(0), |last| last.id.checked_add(1));
    builder.next_id = next.ok_or_else(|| refuse("a device's id is too large"))?;
    let stride = replicas.ceil() as usize;
    let mut slots = vec![NO_DEVICE; partitions * stride];
    for (i, &id) in ring.ids.iter().enumerate() {
        let found = builder.devices.binary_search_by_key(&id, |device| device.id);
        let position = found.map_err(|_| refuse(format!("a partition is on device {id}, which it lacks")))?;
        slots[i % partitions * stride + i / partitions] = position as u16;
    }
    builder.assignment = Some(Assignment { stride, slots });
    builder.moved_at = vec![0; partitions];
    Ok(builder)
}
