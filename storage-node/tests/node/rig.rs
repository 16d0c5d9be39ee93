//! A node on temporary folders, and short ways to ask it things.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kodiak_ring::PlacementKey;
use kodiak_storage_api::{
    BlockKey, BlockWrite, Clock, DataId, DeviceIndex, DirectoryChange, DirectoryInfo, DirectoryKey,
    DirectoryWrite, Entry, Layout, ListQuery, NodeError, ObjectKey, ObjectPath, ObjectRecord, ObjectWrite,
    PolicyIndex, RowTarget, Stamp, StorageNode, Timestamp, Version,
};
use kodiak_storage_node::disk::{Disk, SystemDisk};
use kodiak_storage_node::{DeviceSettings, Node, NodeSettings};

pub const POWER: u8 = 4;

pub fn settings(folder: &Path, devices: usize) -> NodeSettings {
    let device = |i: usize| DeviceSettings { name: format!("d{i}"), path: folder.join(format!("d{i}")) };
    NodeSettings {
        devices: (1..=devices).map(device).collect(),
        index_cache: 8 << 20,
        index_buffers: 8 << 20,
        allocate_step: 1 << 20,
        ..NodeSettings::default()
    }
}

pub struct Rig {
    pub node: Arc<Node>,
    pub clock: Arc<Clock>,
    devices: u16,
}

pub fn hash(name: &str) -> kodiak_storage_api::KeyHash {
    PlacementKey::new([7; 32]).hash(name.as_bytes())
}

pub fn directory_key(name: &str) -> DirectoryKey {
    DirectoryKey { hash: hash(name) }
}

pub fn object_key(path: &ObjectPath) -> ObjectKey {
    ObjectKey { policy: PolicyIndex(0), hash: hash(path.as_str()) }
}

impl Rig {
    pub fn open(settings: NodeSettings) -> Rig {
        Rig::open_on(settings, Arc::new(SystemDisk))
    }

    pub fn open_on(settings: NodeSettings, disk: Arc<dyn Disk>) -> Rig {
        let clock = Arc::new(Clock::system(1));
        let devices = settings.devices.len() as u16;
        let node = Node::open_on(settings, clock.clone(), disk).expect("node opens");
        Rig { node, clock, devices }
    }

    pub fn device(&self, hash: &kodiak_storage_api::KeyHash) -> DeviceIndex {
        DeviceIndex(u16::from(hash.0[0]) % self.devices)
    }

    pub async fn directory(
        &self,
        name: &str,
        change: DirectoryChange,
    ) -> Result<(DirectoryInfo, bool), NodeError> {
        let key = directory_key(name);
        let write = DirectoryWrite { key, name: name.into(), timestamp: self.clock.now(), change };
        self.node.write_directory(self.device(&key.hash), write).await
    }

    pub async fn create(&self, name: &str) {
        let create = DirectoryChange::Create { policy: PolicyIndex(0), headers: Vec::new() };
        self.directory(name, create).await.expect("created");
    }

    pub async fn info(&self, name: &str) -> DirectoryInfo {
        let key = directory_key(name);
        self.node.read_directory(self.device(&key.hash), key).await.expect("read").expect("there")
    }

    pub async fn write(&self, name: &str, at: Timestamp, body: Option<&[u8]>) -> Result<(), NodeError> {
        let path = ObjectPath::parse(name).expect("path");
        let key = object_key(&path);
        let directory = directory_key(path.container_path());
        let row = RowTarget { directory, device: self.device(&directory.hash) };
        let version = match body {
            Some(body) => Version::Live(record(at, body.len() as u64)),
            None => Version::Deleted(at),
        };
        let inline = body.map(|b| vec![Bytes::copy_from_slice(b)]).unwrap_or_default();
        let write =
            ObjectWrite { key, path, version, stamp: Stamp::first(at), expect: None, inline, row: Some(row) };
        self.node.write_object(self.device(&key.hash), write).await
    }

    pub async fn put(&self, name: &str, body: &[u8]) -> Result<(), NodeError> {
        self.write(name, self.clock.now(), Some(body)).await
    }

    pub async fn delete(&self, name: &str) -> Result<(), NodeError> {
        self.write(name, self.clock.now(), None).await
    }

    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, NodeError> {
        let path = ObjectPath::parse(name).expect("path");
        let key = object_key(&path);
        let stored = self.node.read_object(self.device(&key.hash), key, true).await?;
        Ok(stored.filter(|s| s.version.live().is_some()).map(|s| s.inline.expect("asked for")))
    }

    pub async fn list(&self, container: &str) -> Vec<String> {
        let key = directory_key(container);
        let query = ListQuery { limit: 1_000_000, ..ListQuery::default() };
        let page = self.node.list_rows(self.device(&key.hash), key, query).await.expect("listed");
        page.entries.iter().map(|entry: &Entry| entry.name().to_owned()).collect()
    }
}

pub fn record(timestamp: Timestamp, size: u64) -> ObjectRecord {
    ObjectRecord {
        timestamp,
        size,
        etag: "d41d8cd98f00b204e9800998ecf8427e".into(),
        content_type: "text/plain".into(),
        headers: vec![("x-object-meta-color".into(), "blue".into())],
        listing: Vec::new(),
        expires_at: None,
        layout: Layout::Inline,
    }
}

/// Copies a folder as it is now: what a process that is killed now leaves behind. Checkpoints come first,
/// so that none is newer than the indexes beside it. A copy during which a file came or went is of no one
/// moment (an index flushes and compacts in the background): it is made again.
pub fn copy(from: &Path, to: &Path) {
    for _ in 0..100 {
        let before = files(from);
        copy_some(from, to, &|name| name == "checkpoint.json");
        copy_some(from, to, &|name| name != "checkpoint.json");
        if files(from) == before {
            return;
        }
        std::fs::remove_dir_all(to).expect("removed");
    }
    panic!("{} is never still", from.display());
}

/// Every file below a folder, with its length.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("readable") {
        let entry = entry.expect("entry");
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(files(&entry.path())),
            Ok(metadata) => _ = found.insert(entry.path(), metadata.len()),
            Err(_) => {} // gone since: the second look differs
        }
    }
    found
}

fn copy_some(from: &Path, to: &Path, wanted: &dyn Fn(&std::ffi::OsStr) -> bool) {
    std::fs::create_dir_all(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy_some(&entry.path(), &target, wanted);
        } else if wanted(&entry.file_name())
            && let Err(error) = std::fs::copy(entry.path(), target)
        {
            // It has taken another's place meanwhile, or is not needed any more.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

pub fn block(index: u32) -> BlockKey {
    BlockKey { policy: PolicyIndex(0), place: hash(&index.to_string()).place(), data: DataId([9; 16]), index }
}

pub async fn put_block(rig: &Rig, index: u32, data: &[u8]) -> Result<(), NodeError> {
    let write = BlockWrite {
        key: block(index),
        owner: ObjectPath::new("a", "c", "big"),
        digest: [0; 32],
        data: data.chunks(70_001).map(Bytes::copy_from_slice).collect(),
    };
    rig.node.write_block(DeviceIndex(0), write).await
}
