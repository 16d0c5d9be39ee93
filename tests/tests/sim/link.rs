//! The network: a proxy's way to a node, on which messages are late, lost, repeated and overtaken.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kodiak_storage_api::memory::MemoryNode;
use kodiak_storage_api::{
    BlockKey, BlockWrite, DeviceIndex, DirectoryInfo, DirectoryKey, DirectoryWrite, Health, Item, ListQuery,
    NodeError, ObjectKey, ObjectWrite, Page, Promise, Row, RowDurability, StorageNode, StoredVersion,
    Timestamp, WorkId, WorkItem, WorkKind,
};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::world::World;

/// A call that takes longer has failed, whatever has become of it.
const DEADLINE: Duration = Duration::from_secs(1);

/// How long a message is under way to another region.
pub const CROSSING: Duration = Duration::from_millis(40);

/// From one proxy to one node.
pub struct Link {
    pub world: Arc<World>,
    pub proxy: usize,
    pub node: usize,
}

type Answer<T> = BoxFuture<'static, Result<T, NodeError>>;

impl Link {
    async fn call<T: Send + 'static>(
        &self,
        request: impl Fn(Arc<MemoryNode>) -> Answer<T> + Clone + Send + Sync + 'static,
    ) -> Result<T, NodeError> {
        let mut plan = self.world.plan();
        if self.world.is_far(self.proxy, self.node) {
            self.world.crossings.fetch_add(1, Relaxed);
            plan.arrives = plan.arrives.map(|delay| delay + CROSSING);
            plan.returns = plan.returns.map(|delay| delay + CROSSING);
        }
        let (answered, answer) = oneshot::channel();
        for (delay, answered) in [(plan.arrives, Some(answered)), (plan.again, None)]
            .into_iter()
            .filter_map(|(d, a)| Some((d?, a)))
        {
            let (world, request, proxy, node) = (self.world.clone(), request.clone(), self.proxy, self.node);
            tokio::spawn(async move {
                sleep(delay).await;
                if !world.reaches(proxy, node) {
                    return;
                }
                let done = request(world.nodes[node].clone()).await;
                if let (Some(answered), Some(back)) = (answered, plan.returns) {
                    sleep(back).await;
                    if world.reaches(proxy, node) {
                        let _ = answered.send(done);
                    }
                }
            });
        }
        // Nobody is told that a message was lost.
        let waited = timeout(DEADLINE, async {
            match answer.await {
                Ok(answer) => answer,
                Err(_) => std::future::pending().await,
            }
        });
        waited.await.unwrap_or_else(|_| Err(NodeError::Unavailable("no answer in time".into())))
    }
}

macro_rules! send {
    ($link:expr, $method:ident($($argument:ident),*)) => {
        $link.call(move |node| {
            let ($($argument,)*) = ($($argument.clone(),)*);
            async move { node.$method($($argument),*).await }.boxed()
        }).await
    };
}

#[async_trait]
impl StorageNode for Link {
    fn device(&self, name: &str) -> Option<DeviceIndex> {
        (name == "d1").then_some(DeviceIndex(0))
    }

    fn health(&self) -> Health {
        if !self.world.has_regions() {
            return Health::Local;
        }
        let far = self.world.is_far(self.proxy, self.node);
        let late = if far { 3 * CROSSING } else { CROSSING };
        Health::Remote { late, distance: u32::from(far) }
    }

    async fn write_object(&self, device: DeviceIndex, write: ObjectWrite) -> Result<(), NodeError> {
        send!(self, write_object(device, write))
    }

    async fn prepare(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        ballot: Timestamp,
        origin: Timestamp,
    ) -> Result<Promise, NodeError> {
        send!(self, prepare(device, key, ballot, origin))
    }

    async fn read_object(
        &self,
        device: DeviceIndex,
        key: ObjectKey,
        data: bool,
    ) -> Result<Option<StoredVersion>, NodeError> {
        send!(self, read_object(device, key, data))
    }

    async fn write_block(&self, device: DeviceIndex, block: BlockWrite) -> Result<(), NodeError> {
        send!(self, write_block(device, block))
    }

    async fn read_block(
        &self,
        device: DeviceIndex,
        key: BlockKey,
        range: Range<u32>,
    ) -> Result<Bytes, NodeError> {
        send!(self, read_block(device, key, range))
    }

    async fn delete_blocks(&self, device: DeviceIndex, keys: Vec<BlockKey>) -> Result<(), NodeError> {
        send!(self, delete_blocks(device, keys))
    }

    async fn write_directory(
        &self,
        device: DeviceIndex,
        write: DirectoryWrite,
    ) -> Result<(DirectoryInfo, bool), NodeError> {
        send!(self, write_directory(device, write))
    }

    async fn read_directory(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
    ) -> Result<Option<DirectoryInfo>, NodeError> {
        send!(self, read_directory(device, key))
    }

    async fn write_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        rows: Vec<Row>,
        durability: RowDurability,
    ) -> Result<(), NodeError> {
        send!(self, write_rows(device, key, rows, durability))
    }

    async fn list_rows(
        &self,
        device: DeviceIndex,
        key: DirectoryKey,
        query: ListQuery,
    ) -> Result<Page, NodeError> {
        send!(self, list_rows(device, key, query))
    }

    async fn forget(&self, device: DeviceIndex, items: Vec<Item>) -> Result<usize, NodeError> {
        send!(self, forget(device, items))
    }

    async fn next_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        now: u64,
        limit: usize,
    ) -> Result<Vec<WorkItem>, NodeError> {
        send!(self, next_work(device, kind, now, limit))
    }

    async fn finish_work(
        &self,
        device: DeviceIndex,
        kind: WorkKind,
        ids: Vec<WorkId>,
    ) -> Result<(), NodeError> {
        send!(self, finish_work(device, kind, ids))
    }
}
