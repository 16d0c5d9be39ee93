//! Peers that are down, slow or busy.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use kodiak_storage_api::remote::Settings;
use kodiak_storage_api::{
    BlockKey, BlockWrite, DeviceIndex, DirectoryInfo, DirectoryKey, DirectoryWrite, Health, ListQuery,
    NodeError, ObjectKey, ObjectPath, ObjectWrite, Page, Promise, Row, RowDurability, StorageNode,
    StoredVersion, Timestamp, WorkId, WorkItem, WorkKind,
};
use kodiak_storage_node::{Server, ServerSettings};
use tokio::sync::Semaphore;

use crate::machine::{CLUSTER, Machines, Serving, ask, party, refusal};
use crate::rig::{block, directory_key};

/// Lets a call for a directory or a block through for each permit.
struct Gate {
    node: Arc<dyn StorageNode>,
    open: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// Counts a call while it waits.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    async fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(self.waiting.clone());
        self.open.acquire().await.expect("open").forget();
        drop(waiting);
    }
}

#[async_trait]
impl StorageNode for Gate {
    fn device(&self, name: &str) -> Option<DeviceIndex> {
        self.node.device(name)
    }
    async fn write_object(&self, device: DeviceIndex, write: ObjectWrite) -> Result<(), NodeError> {
        self.node.write_object(device, write).await
    }
    async fn prepare(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        ballot: Timestamp,
        origin: Timestamp,
    ) -> Result<Promise, NodeError> {
        self.node.prepare(device, key, ballot, origin).await
    }
    async fn read_object(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        data: bool,
    ) -> Result<Option<StoredVersion>, NodeError> {
        self.node.read_object(device, key, data).await
    }
    async fn write_block(&self, device: DeviceIndex, block: BlockWrite) -> Result<(), NodeError> {
        self.pass().await;
        self.node.write_block(device, block).await
    }
    async fn read_block(
        &self,
        device: DeviceIndex,
        key: BlockKey,
        range: Range<u32>,
    ) -> Result<Bytes, NodeError> {
        self.node.read_block(device, key, range).await
    }
    async fn delete_blocks(&self, device: DeviceIndex, keys: Vec<BlockKey>) -> Result<(), NodeError> {
        self.node.delete_blocks(device, keys).await
    }
    async fn write_directory(
        &self,
        device: DeviceIndex,
        write: DirectoryWrite,
    ) -> Result<(DirectoryInfo, bool), NodeError> {
        self.node.write_directory(device, write).await
    }
    async fn read_directory(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
    ) -> Result<Option<DirectoryInfo>, NodeError> {
        self.pass().await;
        self.node.read_directory(device, key).await
    }
    async fn write_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        rows: Vec<Row>,
        durability: RowDurability,
    ) -> Result<(), NodeError> {
        self.node.write_rows(device, key, rows, durability).await
    }
    async fn list_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        query: ListQuery,
    ) -> Result<Page, NodeError> {
        self.node.list_rows(device, key, query).await
    }
    async fn next_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        now: u64,
        limit: usize,
    ) -> Result<Vec<WorkItem>, NodeError> {
        self.node.next_work(device, kind, now, limit).await
    }
    async fn finish_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        ids: Vec<WorkId>,
    ) -> Result<(), NodeError> {
        self.node.finish_work(device, kind, ids).await
    }
}

struct Gated {
    machines: Machines,
    open: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl Gated {
    async fn start(server: ServerSettings, settings: Settings) -> Gated {
        let (open, waiting) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let gate = (open.clone(), waiting.clone());
        let decorate = |node| Arc::new(Gate { node, open: gate.0, waiting: gate.1 }) as Arc<dyn StorageNode>;
        Gated { machines: Machines::with(server, settings, None, decorate).await, open, waiting }
    }

    async fn waiting(&self, wanted: usize) {
        let reached = async {
            while self.waiting.load(Ordering::SeqCst) != wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("calls wait");
    }
}

fn short() -> Settings {
    Settings { message_deadline: Duration::from_millis(100), ..Settings::default() }
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_here_and_there() {
    let gated = Gated::start(ServerSettings::default(), short()).await;
    let why = refusal(&gated.machines.remote).await;
    assert!(why.contains("no answer within 100ms"), "{why}");
    gated.waiting(0).await;
    gated.open.add_permits(1);
    ask(&gated.machines.remote).await.expect("answered");
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_there() {
    let gated = Gated::start(ServerSettings::default(), Settings::default()).await;
    let remote = gated.machines.remote.clone();
    let call = tokio::spawn(async move { ask(&remote).await });
    let remote = gated.machines.remote.clone();
    let device = remote.device("d1").expect("a name");
    let bulk = tokio::spawn(async move { remote.write_block(device, block_write()).await });
    gated.waiting(2).await;
    call.abort();
    bulk.abort();
    gated.waiting(0).await;
}

fn block_write() -> BlockWrite {
    let data = vec![Bytes::from(vec![7; 100_000])];
    BlockWrite { key: block(3), owner: ObjectPath::new("a", "c", "o"), digest: [0; 32], data }
}

#[tokio::test]
async fn too_many_calls_are_refused_at_once_by_the_caller() {
    let settings = Settings { messages: 2, ..Settings::default() };
    let gated = Gated::start(ServerSettings::default(), settings).await;
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let remote = gated.machines.remote.clone();
            tokio::spawn(async move { ask(&remote).await })
        })
        .collect();
    gated.waiting(2).await;
    assert_eq!(ask(&gated.machines.remote).await, Err(NodeError::Overloaded));
    gated.open.add_permits(2);
    for call in calls {
        call.await.expect("joined").expect("answered");
    }
}

#[tokio::test]
async fn too_many_calls_are_refused_at_once_by_the_server() {
    let server = ServerSettings { calls: 1, ..ServerSettings::default() };
    let gated = Gated::start(server, Settings::default()).await;
    let remote = gated.machines.remote.clone();
    let call = tokio::spawn(async move { ask(&remote).await });
    gated.waiting(1).await;
    let remote = &gated.machines.remote;
    let device = remote.device("d1").expect("a name");
    assert_eq!(ask(remote).await, Err(NodeError::Overloaded));
    assert_eq!(remote.write_block(device, block_write()).await, Err(NodeError::Overloaded));
    assert!(matches!(remote.health(), Health::Remote { .. }), "a busy peer is not down");
    gated.open.add_permits(2);
    call.await.expect("joined").expect("answered");
    remote.write_block(device, block_write()).await.expect("there is room again");
}

#[tokio::test]
async fn calls_do_not_wait_for_each_other_and_are_answered_when_the_server_stops() {
    let gated = Gated::start(ServerSettings::default(), Settings::default()).await;
    let remote = gated.machines.remote.clone();
    let slow = tokio::spawn(async move { ask(&remote).await });
    gated.waiting(1).await;
    // Over the same connection, past the one that waits.
    let remote = gated.machines.remote.clone();
    let device = remote.device("d1").expect("a name");
    remote.next_work(device, WorkKind::Free, 0, 1).await.expect("answered");
    let stopping = tokio::spawn(gated.machines.serving.stop());
    // It accepts nothing any more, and still has an answer to give.
    while remote.next_work(device, WorkKind::Free, 0, 1).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!slow.is_finished() && !stopping.is_finished());
    gated.open.add_permits(1);
    slow.await.expect("joined").expect("answered");
    tokio::time::timeout(Duration::from_secs(5), stopping).await.expect("it ends").expect("joined");
}

#[tokio::test]
async fn a_peer_that_is_gone_is_left_alone_and_found_again_when_it_is_back() {
    let machines = Machines::start().await;
    let remote = machines.remote.clone();
    ask(&remote).await.expect("answered");
    let device = remote.device("d1").expect("a name");
    remote.write_block(device, block_write()).await.expect("written");
    let address = machines.serving.address.to_string();
    machines.serving.stop().await;
    let begun = Instant::now();
    while remote.health() != Health::Down {
        ask(&remote).await.expect_err("nobody is there");
        assert!(begun.elapsed() < Duration::from_secs(10), "the breaker does not open");
    }
    let why = refusal(&remote).await;
    assert!(why.contains("left alone") && why.contains(&address), "{why}");
    // The same node, served anew: calls of all kinds find it without help.
    let (again, _) = party(CLUSTER, "n2", machines.server_clock.clone());
    let config = machines.authority.node("n2", CLUSTER).server();
    let server = Server::new(machines.node.clone(), again, &config, None, ServerSettings::default());
    let serving = Serving::start(server, &address).await;
    while ask(&remote).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the peer is not found again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(remote.read_block(device, block(3), 0..3).await.expect("read"), Bytes::from_static(&[7; 3]));
    serving.stop().await;
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_opens_the_breaker() {
    let machines = Machines::start().await;
    // A listener whose backlog takes connections that nobody serves.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("an address");
    machines.remote.moved(&silent.local_addr().expect("bound").to_string());
    let begun = Instant::now();
    while machines.remote.health() != Health::Down {
        let why = refusal(&machines.remote).await;
        assert!(why.contains("no connection within 1s"), "{why}");
        assert!(begun.elapsed() < Duration::from_secs(10), "the breaker does not open");
    }
    let begun = Instant::now();
    refusal(&machines.remote).await;
    assert!(begun.elapsed() < Duration::from_millis(500), "refused at once");
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_does_not_keep_others_from_connecting() {
    let machines = Machines::start().await;
    let (remote, key) = (machines.remote.clone(), directory_key("nobody"));
    let device = remote.device("d1").expect("a name");
    let mut first = Box::pin(remote.read_directory(device, key));
    // It has begun to connect, and is then dropped.
    assert!(futures_util::FutureExt::now_or_never(&mut first).is_none());
    drop(first);
    ask(&remote).await.expect("answered");
}
