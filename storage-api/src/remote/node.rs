//! A storage node on another machine.

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::health::Pace;
use super::link::{Failure, Link};
use super::meters::{Meters, Outcome};
use super::{Call, Frame, Party, Received, Reply, Request, Response};
use crate::{
    BlockInfo, BlockKey, BlockWrite, DeviceIndex, Digest, DirectoryInfo, DirectoryKey, DirectoryWrite,
    Health, Item, ItemCopy, ItemKey, ListQuery, NodeError, ObjectKey, ObjectWrite, Page, Partition,
    Partitions, Promise, Row, RowDurability, ScanPage, ScanQuery, StorageNode, StoredVersion, Timestamp,
    Tree, WorkId, WorkItem, WorkKind,
};

/// Bounds of the calls to one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Longest time for a message. Default 5 s.
    pub message_deadline: Duration,
    /// Longest time for a block. Default 15 s.
    pub block_deadline: Duration,
    /// Messages under way at once; more are refused as overload. Default 1024.
    pub messages: usize,
    /// Blocks under way at once; more are refused as overload. Default 64.
    pub blocks: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            message_deadline: Duration::from_secs(5),
            block_deadline: Duration::from_secs(15),
            messages: 1024,
            blocks: 64,
        }
    }
}

/// Calls of one kind: so many at once, each for so long.
struct Lane {
    room: Semaphore,
    deadline: Duration,
    pace: Pace,
}

impl Lane {
    fn new(room: usize, deadline: Duration) -> Lane {
        Lane { room: Semaphore::new(room), deadline, pace: Pace::default() }
    }
}

/// A storage node on another machine. It knows no device by itself: their names go with the calls, so that a
/// map can be made while the peer is down.
///
/// A call is made once. An error leaves open whether a write was done, as the contract allows; a call that is
/// dropped is cancelled at the peer too, unless its writer has it already.
pub struct RemoteNode {
    peer: Arc<Peer>,
    /// Of the map by which calls are placed; 0: by none.
    epoch: u64,
}

/// What all handles of a node share.
pub struct Peer {
    party: Arc<Party>,
    link: Arc<Link>,
    devices: RwLock<Vec<Arc<str>>>,
    messages: Lane,
    blocks: Lane,
    meters: Meters,
    distance: AtomicU32,
}

impl RemoteNode {
    /// The node called `peer` in the rings, at `address` (`host:port`). `config` has this node's certificate
    /// and the cluster's authority. Nothing is connected before the first call.
    pub fn new(
        party: Arc<Party>,
        peer: &str,
        address: &str,
        config: &ClientConfig,
        settings: Settings,
    ) -> Arc<RemoteNode> {
        let peer = Peer {
            link: Link::new(party.clone(), peer, address, config),
            party,
            devices: RwLock::default(),
            messages: Lane::new(settings.messages, settings.message_deadline),
            blocks: Lane::new(settings.blocks, settings.block_deadline),
            meters: Meters::new(peer),
            distance: AtomicU32::new(0),
        };
        Arc::new(RemoteNode { peer: Arc::new(peer), epoch: 0 })
    }

    /// The same node, for calls that are placed by the map of an epoch.
    pub fn placed_by(&self, epoch: u64) -> Arc<RemoteNode> {
        Arc::new(RemoteNode { peer: self.peer.clone(), epoch })
    }

    /// The peer has moved: later calls go to this address.
    pub fn moved(&self, address: &str) {
        self.link.moved(address);
    }

    /// How far away it is, as readers see it.
    pub fn set_distance(&self, distance: u32) {
        self.distance.store(distance, Ordering::Relaxed);
    }

    fn unavailable(&self, why: impl std::fmt::Display) -> NodeError {
        NodeError::Unavailable(format!("node {}: {why}", self.link.peer()))
    }

    fn name(&self, device: DeviceIndex) -> Result<String, NodeError> {
        let devices = self.devices.read();
        let name = devices.get(usize::from(device.0)).map(|name| name.to_string());
        name.ok_or_else(|| self.unavailable(format!("no device {} is known", device.0)))
    }

    fn frame(
        &self,
        device: DeviceIndex,
        call: Call,
        payload: Vec<Bytes>,
        lane: &Lane,
    ) -> Result<Frame, NodeError> {
        let row = match &call {
            Call::WriteObject(write) | Call::LearnObject(write) => write.row,
            _ => None,
        };
        let request = Request {
            head: self.party.head(self.epoch),
            patience: lane.deadline.as_millis() as u32,
            device: self.name(device)?,
            row_device: row.map(|row| self.name(row.device)).transpose()?,
            call,
        };
        Frame::new(&request, payload, self.party.versions().newest).map_err(|error| self.unavailable(error))
    }

    /// Makes a call, with the bytes that go with it.
    async fn ask(
        &self,
        device: DeviceIndex,
        call: Call,
        payload: Vec<Bytes>,
    ) -> Result<(Reply, Vec<Bytes>), NodeError> {
        let (name, bulk, begun) = (call.name(), call.is_bulk(), Instant::now());
        let lane = if bulk { &self.blocks } else { &self.messages };
        let frame = self.frame(device, call, payload, lane)?;
        let ended = |outcome| self.meters.ended(name, outcome, begun.elapsed());
        let Ok(_room) = lane.room.try_acquire() else {
            ended(Outcome::Overloaded);
            return Err(NodeError::Overloaded);
        };
        let breaker = &self.link.breaker;
        let _leave = breaker.admit(begun).map_err(|why| {
            ended(Outcome::Down);
            self.unavailable(format_args!("it is left alone for a while: {why}"))
        })?;
        let send = async { if bulk { self.link.block(frame).await } else { self.link.message(frame).await } };
        let failed = |error: String| {
            breaker.failed(Instant::now(), error.clone());
            self.unavailable(error)
        };
        let (outcome, result) = match timeout(lane.deadline, send).await {
            Ok(Ok(received)) => {
                breaker.succeeded();
                lane.pace.record(begun.elapsed());
                match self.read(received) {
                    Ok(result) => (Outcome::Answered, result),
                    Err(why) => (Outcome::Failed, Err(self.unavailable(why))),
                }
            }
            Ok(Err(Failure::Overloaded)) => {
                breaker.succeeded();
                (Outcome::Overloaded, Err(NodeError::Overloaded))
            }
            Ok(Err(Failure::Refused(why))) => {
                breaker.succeeded();
                (Outcome::Failed, Err(self.unavailable(format_args!("it refuses: {why}"))))
            }
            Ok(Err(Failure::Connect(why))) => (Outcome::Failed, Err(self.unavailable(why))),
            Ok(Err(Failure::Broken(why))) => (Outcome::Failed, Err(failed(why))),
            Err(_) => (Outcome::Late, Err(failed(format!("no answer within {:?}", lane.deadline)))),
        };
        ended(outcome);
        result
    }

    fn read(&self, received: Received) -> Result<Result<(Reply, Vec<Bytes>), NodeError>, String> {
        let response: Response = received.read(self.party.versions()).map_err(|error| error.to_string())?;
        self.party.hear(self.link.peer(), &response.head)?;
        Ok(response.result.map(|reply| (reply, received.payload)))
    }

    /// As [`RemoteNode::ask`], for calls without bytes.
    async fn say(&self, device: DeviceIndex, call: Call) -> Result<Reply, NodeError> {
        self.ask(device, call, Vec::new()).await.map(|(reply, _)| reply)
    }

    fn odd<T>(&self) -> Result<T, NodeError> {
        Err(self.unavailable("it answers something else than it was asked"))
    }

    async fn done(&self, device: DeviceIndex, call: Call, payload: Vec<Bytes>) -> Result<(), NodeError> {
        match self.ask(device, call, payload).await? {
            (Reply::Done, _) => Ok(()),
            _ => self.odd(),
        }
    }
}

impl Deref for RemoteNode {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.peer
    }
}

#[async_trait]
impl StorageNode for RemoteNode {
    fn device(&self, name: &str) -> Option<DeviceIndex> {
        let index = |devices: &[Arc<str>]| devices.iter().position(|known| **known == *name);
        let mut found = index(&self.devices.read());
        if found.is_none() {
            let mut devices = self.devices.write();
            found = index(&devices).or_else(|| {
                devices.push(name.into());
                Some(devices.len() - 1)
            });
        }
        found.and_then(|index| u16::try_from(index).ok()).map(DeviceIndex)
    }

    fn health(&self) -> Health {
        if self.link.breaker.is_closed() {
            Health::Remote {
                late: self.messages.pace.late(),
                distance: self.distance.load(Ordering::Relaxed),
            }
        } else {
            Health::Down
        }
    }

    async fn write_object(&self, device: DeviceIndex, mut write: ObjectWrite) -> Result<(), NodeError> {
        let inline = std::mem::take(&mut write.inline);
        self.done(device, Call::WriteObject(Box::new(write)), inline).await
    }

    async fn prepare(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        ballot: Timestamp,
        origin: Timestamp,
    ) -> Result<Promise, NodeError> {
        match self.say(device, Call::Prepare { key, ballot, origin }).await? {
            Reply::Promise(promise) => Ok(promise),
            _ => self.odd(),
        }
    }

    async fn read_object(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        data: bool,
    ) -> Result<Option<StoredVersion>, NodeError> {
        match self.ask(device, Call::ReadObject { key, data }, Vec::new()).await? {
            (Reply::Object { stored: Some(mut stored), inline }, payload) => {
                stored.inline = inline.then(|| Received::joined(payload));
                Ok(Some(stored))
            }
            (Reply::Object { stored: None, .. }, _) => Ok(None),
            _ => self.odd(),
        }
    }

    async fn write_block(&self, device: DeviceIndex, mut block: BlockWrite) -> Result<(), NodeError> {
        let data = std::mem::take(&mut block.data);
        self.done(device, Call::WriteBlock(Box::new(block)), data).await
    }

    async fn read_block(
        &self,
        device: DeviceIndex,
        key: BlockKey,
        range: Range<u32>,
    ) -> Result<Bytes, NodeError> {
        let wanted = range.len();
        match self.ask(device, Call::ReadBlock { key, range }, Vec::new()).await? {
            (Reply::Bytes, payload) => {
                let bytes = Received::joined(payload);
                if bytes.len() == wanted { Ok(bytes) } else { self.odd() }
            }
            _ => self.odd(),
        }
    }

    async fn delete_blocks(&self, device: DeviceIndex, keys: Vec<BlockKey>) -> Result<(), NodeError> {
        self.done(device, Call::DeleteBlocks { keys }, Vec::new()).await
    }

    async fn write_directory(
        &self,
        device: DeviceIndex,
        write: DirectoryWrite,
    ) -> Result<(DirectoryInfo, bool), NodeError> {
        match self.say(device, Call::WriteDirectory(Box::new(write))).await? {
            Reply::Changed(info, created) => Ok((info, created)),
            _ => self.odd(),
        }
    }

    async fn read_directory(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
    ) -> Result<Option<DirectoryInfo>, NodeError> {
        match self.say(device, Call::ReadDirectory { key }).await? {
            Reply::Directory(info) => Ok(info),
            _ => self.odd(),
        }
    }

    async fn write_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        rows: Vec<Row>,
        durability: RowDurability,
    ) -> Result<(), NodeError> {
        self.done(device, Call::WriteRows { key, rows, durability }, Vec::new()).await
    }

    async fn list_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        query: ListQuery,
    ) -> Result<Page, NodeError> {
        match self.say(device, Call::ListRows { key, query }).await? {
            Reply::Page(page) => Ok(page),
            _ => self.odd(),
        }
    }

    async fn next_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        now: u64,
        limit: usize,
    ) -> Result<Vec<WorkItem>, NodeError> {
        match self.say(device, Call::NextWork { kind, now, limit }).await? {
            Reply::Work(items) => Ok(items),
            _ => self.odd(),
        }
    }

    async fn finish_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        ids: Vec<WorkId>,
    ) -> Result<(), NodeError> {
        self.done(device, Call::FinishWork { kind, ids }, Vec::new()).await
    }

    async fn digests(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partitions: Partitions,
    ) -> Result<Vec<(Partition, Digest)>, NodeError> {
        match self.say(device, Call::Digests { tree, partitions }).await? {
            Reply::Digests(digests) => Ok(digests),
            _ => self.odd(),
        }
    }

    async fn buckets(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partition: Partition,
    ) -> Result<Vec<Digest>, NodeError> {
        match self.say(device, Call::Buckets { tree, partition }).await? {
            Reply::Buckets(digests) => Ok(digests),
            _ => self.odd(),
        }
    }

    async fn scan(&self, device: DeviceIndex, query: ScanQuery) -> Result<ScanPage, NodeError> {
        match self.say(device, Call::Scan(query)).await? {
            Reply::Scanned(page) => Ok(page),
            _ => self.odd(),
        }
    }

    async fn read_items(
        &self,
        device: DeviceIndex,
        keys: Vec<ItemKey>,
    ) -> Result<Vec<Result<Option<ItemCopy>, NodeError>>, NodeError> {
        let asked = self.ask(device, Call::ReadItems { keys }, Vec::new()).await?;
        let (Reply::Items { mut items, lengths }, payload) = asked else { return self.odd() };
        let mut content = Received::joined(payload);
        let mut lengths = lengths.into_iter().map(|len| len as usize);
        for slot in items.iter_mut().flatten().flatten().filter_map(ItemCopy::content) {
            match lengths.next() {
                Some(len) if len <= content.len() => *slot = content.split_to(len),
                _ => return self.odd(),
            }
        }
        Ok(items)
    }

    async fn block_infos(
        &self,
        device: DeviceIndex,
        keys: Vec<BlockKey>,
    ) -> Result<Vec<Option<BlockInfo>>, NodeError> {
        match self.say(device, Call::BlockInfos { keys }).await? {
            Reply::BlockInfos(infos) => Ok(infos),
            _ => self.odd(),
        }
    }

    async fn learn_object(&self, device: DeviceIndex, mut write: ObjectWrite) -> Result<(), NodeError> {
        let inline = std::mem::take(&mut write.inline);
        self.done(device, Call::LearnObject(Box::new(write)), inline).await
    }

    async fn missing(&self, device: DeviceIndex) -> Result<Vec<(Tree, Partition)>, NodeError> {
        match self.say(device, Call::Missing).await? {
            Reply::Missing(partitions) => Ok(partitions),
            _ => self.odd(),
        }
    }

    async fn filled(
        &self,
        device: DeviceIndex,
        tree: Tree,
        partitions: Vec<Partition>,
    ) -> Result<(), NodeError> {
        self.done(device, Call::Filled { tree, partitions }, Vec::new()).await
    }

    async fn forget(&self, device: DeviceIndex, items: Vec<Item>) -> Result<usize, NodeError> {
        match self.say(device, Call::Forget { items }).await? {
            Reply::Forgotten(count) => Ok(count),
            _ => self.odd(),
        }
    }
}
