//! What a device answers to its replicas: the items of a partition, and whole items to copy.

use std::ops::ControlFlow;

use bytes::Bytes;
use kodiak_storage_api::{
    BlockInfo, BlockKey, Digest, DirectoryKey, ITEMS_BYTES, Item, ItemCopy, ItemKey, NodeError, Place, Row,
    ScanCursor, ScanPage, ScanQuery, Timestamp, Tree,
};
use rocksdb::ReadOptions;

use crate::apply::damaged;
use crate::device::Device;
use crate::digests::row_timestamp;
use crate::directories::{StoredDirectory, decode_row, row_key};
use crate::index::{
    Family, Index, ObjectEntry, after_prefix, decode, directory_key, is_quarantined, parse_block_key,
    parse_directory_key, parse_object_key, row_name,
};
use crate::needle::{self, BlockMeta, Kind, Location, ObjectMeta};

/// Keys that one call looks at: bounds its time.
const KEYS_AT_ONCE: usize = 50_000;

/// Families that a tree's items are in, in the order of a scan.
fn families(tree: Tree) -> &'static [Family] {
    match tree {
        Tree::Accounts | Tree::Containers => &[Family::Directories, Family::Rows, Family::Tombstones],
        Tree::Objects(_) => &[Family::Objects],
        Tree::Blocks(_) => &[Family::Blocks],
    }
}

/// The first key that a partition may have, and the first after all of them unless those are the last ones.
fn range(query: &ScanQuery) -> (Vec<u8>, Option<Vec<u8>>) {
    let key = |place: &Place| match query.tree {
        Tree::Accounts | Tree::Containers => place.0.to_be_bytes().to_vec(),
        Tree::Objects(policy) | Tree::Blocks(policy) => {
            [&policy.0.to_be_bytes()[..], &place.0.to_be_bytes()].concat()
        }
    };
    let places = query.partition.places();
    (key(places.start()), after_prefix(&key(places.end())))
}

/// Which tree a directory's items are in, remembered for the rows that follow one another.
struct Owner<'i> {
    index: &'i Index,
    last: Option<(DirectoryKey, Option<Tree>)>,
}

impl Owner<'_> {
    fn tree(&mut self, key: &DirectoryKey) -> Result<Option<Tree>, NodeError> {
        if let Some((last, tree)) = self.last
            && last == *key
        {
            return Ok(tree);
        }
        let stored: Option<StoredDirectory> =
            self.index.get_decoded(Family::Directories, &directory_key(key))?;
        let tree = stored.map(|stored| tree_of(&stored.directory.name));
        self.last = Some((*key, tree));
        Ok(tree)
    }
}

/// The tree of the account or container of this name.
pub fn tree_of(name: &str) -> Tree {
    if name.contains('/') { Tree::Containers } else { Tree::Accounts }
}

/// A page of a partition's items.
pub fn scan(index: &Index, query: &ScanQuery) -> Result<ScanPage, NodeError> {
    let (mut phase, mut after) = match &query.after {
        None => (0, None),
        Some(ScanCursor(bytes)) => match bytes.split_first() {
            Some((phase, key)) => (usize::from(*phase), Some(key.to_vec())),
            None => return Err(NodeError::Corrupt("a scan's cursor is empty".into())),
        },
    };
    let mut page = ScanPage::default();
    let mut owner = Owner { index, last: None };
    let mut looked_at = 0;
    while let Some(family) = families(query.tree).get(phase) {
        let left = after.take();
        let ended = each(index, *family, range(query), left.as_deref(), |key, value| {
            looked_at += 1;
            if let Some(item) = item(*family, query, &mut owner, key, value)? {
                page.items.push(item);
            }
            Ok(match page.items.len() >= query.limit || looked_at >= KEYS_AT_ONCE {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        })?;
        if let Some(last) = ended {
            page.next = Some(ScanCursor([&[phase as u8], &last[..]].concat()));
            return Ok(page);
        }
        phase += 1;
    }
    Ok(page)
}

/// Visits the keys of a range that come after `after`; the last one, if it was told to stop.
fn each(
    index: &Index,
    family: Family,
    (from, to): (Vec<u8>, Option<Vec<u8>>),
    after: Option<&[u8]>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, NodeError>,
) -> Result<Option<Vec<u8>>, NodeError> {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    if let Some(to) = to {
        options.set_iterate_upper_bound(to);
    }
    let mut iterator = index.iterate(family, options);
    iterator.seek(after.unwrap_or(&from));
    if after.is_some() && iterator.key() == after {
        iterator.next();
    }
    while let Some((key, value)) = iterator.item() {
        if visit(key, value)?.is_break() {
            return Ok(Some(key.to_vec()));
        }
        iterator.next();
    }
    iterator.status().map_err(|error| index.failed(error))?;
    Ok(None)
}

fn item(
    family: Family,
    query: &ScanQuery,
    owner: &mut Owner<'_>,
    key: &[u8],
    value: &[u8],
) -> Result<Option<Item>, NodeError> {
    let bad = || NodeError::Corrupt(format!("index: a key of {family:?}"));
    let wanted = |key: &ItemKey| query.buckets.contains(key.bucket());
    Ok(match family {
        Family::Objects => {
            let (object, entry) = (parse_object_key(key).ok_or_else(bad)?, ObjectEntry::from_bytes(value)?);
            let key = ItemKey::Object(object);
            (wanted(&key) && !entry.quarantined).then(|| Item {
                digest: Digest::of_object(&object.hash, entry.stamp.ballot),
                timestamp: entry.stamp.ballot,
                deleted: entry.deleted,
                key,
            })
        }
        Family::Blocks => {
            let block = parse_block_key(key).ok_or_else(bad)?;
            let key = ItemKey::Block(block);
            let digest = Digest::of_block(&block);
            (wanted(&key) && !is_quarantined(value)).then_some(Item {
                key,
                timestamp: Timestamp::ZERO,
                deleted: false,
                digest,
            })
        }
        Family::Directories => {
            let directory = parse_directory_key(key).ok_or_else(bad)?;
            let key = ItemKey::Directory(directory);
            if !wanted(&key) {
                return Ok(None);
            }
            let StoredDirectory { directory: record, .. } = decode(value)?;
            (tree_of(&record.name) == query.tree).then(|| Item {
                digest: Digest::of_directory(&directory.hash, &record),
                timestamp: record.created.max(record.deleted),
                deleted: !record.exists(),
                key,
            })
        }
        _ => {
            let directory = parse_directory_key(key).ok_or_else(bad)?;
            let name = row_name(key).ok_or_else(bad)?;
            if !query.buckets.contains(kodiak_storage_api::row_bucket(&directory.hash, name)) {
                return Ok(None);
            }
            let (timestamp, deleted) = (row_timestamp(value)?, family == Family::Tombstones);
            (owner.tree(&directory)? == Some(query.tree)).then(|| Item {
                digest: Digest::of_row(&directory.hash, name, timestamp, deleted),
                key: ItemKey::Row(directory, name.to_owned()),
                timestamp,
                deleted,
            })
        }
    })
}

/// Whole items, until they are too many bytes.
pub fn read_items(
    device: &Device,
    keys: &[ItemKey],
) -> Result<Vec<Result<Option<ItemCopy>, NodeError>>, NodeError> {
    let (mut copies, mut bytes) = (Vec::new(), 0);
    for key in keys {
        let copy = read_item(device, key);
        bytes += copy.as_ref().ok().and_then(Option::as_ref).map_or(64, ItemCopy::size);
        copies.push(copy);
        if bytes >= ITEMS_BYTES {
            break;
        }
    }
    Ok(copies)
}

fn read_item(device: &Device, key: &ItemKey) -> Result<Option<ItemCopy>, NodeError> {
    let shared = &device.shared;
    match key {
        ItemKey::Object(key) => {
            let find = || Ok(shared.applier.object(key)?.map(|e| (e.location, e.quarantined)));
            let Some((meta, data)) = needle::<ObjectMeta>(device, Kind::Object, find)? else {
                return Ok(None);
            };
            Ok(Some(ItemCopy::Object {
                path: meta.path,
                version: meta.version,
                stamp: meta.stamp,
                inline: data,
            }))
        }
        ItemKey::Block(key) => {
            let find = || Ok(shared.applier.block(key)?.map(|e| (e.location, e.quarantined)));
            let Some((meta, data)) = needle::<BlockMeta>(device, Kind::Block, find)? else { return Ok(None) };
            let info = BlockInfo {
                owner: meta.owner,
                digest: meta.digest,
                written: meta.written,
                len: data.len() as u32,
            };
            Ok(Some(ItemCopy::Block { info, data }))
        }
        ItemKey::Directory(key) => {
            Ok(shared.directories.stored(key)?.map(|stored| ItemCopy::Directory(stored.directory)))
        }
        ItemKey::Row(directory, name) => {
            let (index, key) = (&shared.applier.index, row_key(&directory_key(directory), name));
            if let Some(value) = index.get(Family::Rows, &key)? {
                return Ok(Some(ItemCopy::Row(decode_row(name.clone(), &value)?)));
            }
            let tombstone = index.get_decoded(Family::Tombstones, &key)?;
            Ok(tombstone.map(|at| ItemCopy::Row(Row::tombstone(name.clone(), at))))
        }
    }
}

/// Reads and verifies a whole needle. Compaction may take it elsewhere meanwhile: it is looked up twice.
fn needle<M: serde::de::DeserializeOwned>(
    device: &Device,
    kind: Kind,
    find: impl Fn() -> Result<Option<(Location, bool)>, NodeError>,
) -> Result<Option<(M, Bytes)>, NodeError> {
    let Some((first, quarantined)) = find()? else { return Ok(None) };
    if quarantined {
        return Err(NodeError::Corrupt("it is quarantined".into()));
    }
    match whole(device, kind, &first) {
        Err(NodeError::Corrupt(what)) => match find()? {
            None => Ok(None),
            Some((now, false)) if now != first => whole(device, kind, &now).map(Some),
            Some(_) => Err(NodeError::Corrupt(what)),
        },
        read => read.map(Some),
    }
}

/// Reads and verifies the needle that lies there.
pub fn whole<M: serde::de::DeserializeOwned>(
    device: &Device,
    kind: Kind,
    location: &Location,
) -> Result<(M, Bytes), NodeError> {
    let volume = device.shared.applier.volumes.of(location)?;
    let mut bytes = vec![0; location.content_len()];
    volume.file.read_at(&mut bytes, location.offset).map_err(|error| crate::read::io_failed(&error))?;
    let bytes = Bytes::from(bytes);
    let head =
        needle::decode_head(&bytes, (location.volume, location.offset), volume.salt).map_err(damaged)?;
    if head.header.kind != kind {
        return Err(NodeError::Corrupt("the index names a needle of another kind".into()));
    }
    let data = bytes.slice(location.head_len()..);
    head.verify(0, &data).map_err(damaged)?;
    Ok((head.decode().map_err(damaged)?, data))
}

/// What is known of blocks.
pub fn block_infos(device: &Device, keys: &[BlockKey]) -> Result<Vec<Option<BlockInfo>>, NodeError> {
    let applier = &device.shared.applier;
    let info = |key: &BlockKey| {
        let Some(entry) = applier.block(key)?.filter(|entry| !entry.quarantined) else { return Ok(None) };
        let (meta, len): (BlockMeta, u32) = match applier.read_meta(Kind::Block, &entry.location) {
            Ok(meta) => (meta, entry.location.data_len),
            // Compaction may have taken it elsewhere.
            Err(error) => match applier.block(key)?.filter(|now| now.location != entry.location) {
                Some(now) => (applier.read_meta(Kind::Block, &now.location)?, now.location.data_len),
                None => return Err(error),
            },
        };
        Ok(Some(BlockInfo { owner: meta.owner, digest: meta.digest, written: meta.written, len }))
    };
    keys.iter().map(info).collect()
}
