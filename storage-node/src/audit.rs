//! Reading everything that the index names, to find what has rotted before it is needed.
//!
//! In the order of the index, so that a needle whose head is gone is found too, and one in a volume that
//! is gone. What is damaged is quarantined (see [`crate::quarantine`]); replicas that have it intact bring
//! it back.

use kodiak_storage_api::{ItemKey, NodeError};
use rocksdb::ReadOptions;

use crate::device::Device;
use crate::group::Request;
use crate::index::{BlockEntry, Family, ObjectEntry, parse_block_key, parse_object_key};
use crate::needle::{BlockMeta, Kind, Location, ObjectMeta};
use crate::quarantine::Damage;
use crate::trees::whole;

/// Where an audit goes on: a family and a key of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditCursor {
    /// 0: records, 1: blocks.
    family: u8,
    after: Vec<u8>,
}

/// What one step of an audit has read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Audited {
    /// Needles.
    pub needles: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What was damaged, and is quarantined now.
    pub damaged: Vec<ItemKey>,
    /// Where to go on; none at the end.
    pub next: Option<AuditCursor>,
}

/// Reads about `limit` bytes from a position on.
pub async fn step(
    device: &std::sync::Arc<Device>,
    from: AuditCursor,
    limit: u64,
) -> Result<Audited, NodeError> {
    let read = device.clone();
    let (audited, damages) = crate::read::blocking(move || read_some(&read, from, limit).map(Some)).await?;
    for damage in damages {
        device.ask(|done| Request::Quarantine(Box::new(damage), done)).await?;
    }
    Ok(audited)
}

fn read_some(device: &Device, from: AuditCursor, limit: u64) -> Result<(Audited, Vec<Damage>), NodeError> {
    let (mut audited, mut damages) = (Audited::default(), Vec::new());
    let mut at = from;
    loop {
        let family = if at.family == 0 { Family::Objects } else { Family::Blocks };
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let index = &device.shared.applier.index;
        let mut iterator = index.iterate(family, options);
        iterator.seek(&at.after);
        if iterator.key() == Some(&at.after[..]) {
            iterator.next();
        }
        while let Some((key, value)) = iterator.item() {
            if let Some((key, location)) = entry(family, key, value)? {
                audited.needles += 1;
                audited.bytes += location.padded_len();
                if let Some(damage) = verify(device, key, location)? {
                    audited.damaged.push(damage.key.clone());
                    damages.push(damage);
                }
            }
            if audited.bytes >= limit || device.stopping() {
                audited.next = Some(AuditCursor { family: at.family, after: key.to_vec() });
                return Ok((audited, damages));
            }
            iterator.next();
        }
        iterator.status().map_err(|error| index.failed(error))?;
        if at.family == 1 {
            return Ok((audited, damages));
        }
        at = AuditCursor { family: 1, after: Vec::new() };
    }
}

fn entry(family: Family, key: &[u8], value: &[u8]) -> Result<Option<(ItemKey, Location)>, NodeError> {
    let bad = || NodeError::Corrupt("index: key".into());
    Ok(match family {
        Family::Objects => {
            let entry = ObjectEntry::from_bytes(value)?;
            let key = ItemKey::Object(parse_object_key(key).ok_or_else(bad)?);
            (!entry.quarantined).then_some((key, entry.location))
        }
        _ => {
            let entry = BlockEntry::from_bytes(value)?;
            let key = ItemKey::Block(parse_block_key(key).ok_or_else(bad)?);
            (!entry.quarantined).then_some((key, entry.location))
        }
    })
}

/// Damage, if there is any and the item still lies there.
fn verify(device: &Device, key: ItemKey, location: Location) -> Result<Option<Damage>, NodeError> {
    let read = match &key {
        ItemKey::Block(block) => whole::<BlockMeta>(device, Kind::Block, &location).map(|(meta, data)| {
            meta.key == *block && (meta.digest == [0; 32] || blake3::hash(&data) == meta.digest)
        }),
        ItemKey::Object(object) => {
            whole::<ObjectMeta>(device, Kind::Object, &location).map(|(meta, _)| meta.key == *object)
        }
        ItemKey::Directory(_) | ItemKey::Row(..) => return Ok(None),
    };
    let reason = match read {
        Ok(true) => return Ok(None),
        Ok(false) => "it is another item, or not what its digest says".to_owned(),
        Err(NodeError::Corrupt(reason)) => reason,
        Err(error) => return Err(error),
    };
    // What compaction has moved, or a client replaced, meanwhile is no damage: it lies elsewhere then, and
    // the quarantine looks again.
    Ok(Some(Damage { key, location, reason }))
}
