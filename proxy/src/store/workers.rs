//! What the store does by itself: totals to accounts, expiry, deletion of replaced blocks and of what was in
//! deleted accounts.

use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::{DeviceIndex, Replica, StorageNode, Work, WorkItem, WorkKind};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::{Precondition, Store, StoreError};

/// How soon an account knows its containers' totals.
const TOTALS_EVERY: Duration = Duration::from_millis(100);
/// How soon an expired object is deleted (it is not answered from the second on at which it ends).
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// How often deleted accounts are looked for.
const REAP_EVERY: Duration = Duration::from_secs(1);
/// How often replaced blocks are deleted.
const FREE_EVERY: Duration = Duration::from_secs(1);
/// Replaced blocks are left for so long: a reader that has just found its record announces itself
/// within this time.
const FREE_GRACE: Duration = Duration::from_secs(2);
/// Items of one round.
const BATCH: usize = 200;

impl Store {
    /// Runs the background workers for devices of the node in this process until `stop` changes: each node
    /// does what its own devices have queued.
    pub fn run_workers(
        self: &Arc<Self>,
        node: &Arc<dyn StorageNode>,
        devices: impl Iterator<Item = DeviceIndex>,
        stop: &watch::Receiver<bool>,
    ) {
        for device in devices {
            for kind in [WorkKind::Totals, WorkKind::Expire, WorkKind::Free, WorkKind::Reap] {
                let replica = Replica { node: node.clone(), device };
                tokio::spawn(self.clone().work(kind, replica, stop.clone()));
            }
        }
    }

    async fn work(self: Arc<Self>, kind: WorkKind, replica: Replica, mut stop: watch::Receiver<bool>) {
        let period = match kind {
            WorkKind::Totals => TOTALS_EVERY,
            WorkKind::Expire => EXPIRE_EVERY,
            WorkKind::Free => FREE_EVERY,
            WorkKind::Reap => REAP_EVERY,
        };
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = stop.changed() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.round(kind, &replica).await {
                tracing::warn!(?kind, %error, "background work failed and will be tried again");
            }
        }
    }

    /// One batch of a device's queue. Items that cannot be done yet stay for a later round.
    async fn round(self: &Arc<Self>, kind: WorkKind, replica: &Replica) -> Result<(), StoreError> {
        let items = replica.node.next_work(replica.device, kind, self.now(), BATCH).await?;
        if items.is_empty() {
            return Ok(());
        }
        if kind == WorkKind::Free {
            tokio::time::sleep(FREE_GRACE).await;
        }
        let mut done = Vec::with_capacity(items.len());
        for WorkItem { id, work } in items {
            match self.perform(work, replica.device).await {
                Ok(true) => done.push(id),
                Ok(false) => {}
                Err(error) => tracing::warn!(?kind, %error, "an item of background work failed"),
            }
        }
        metrics::counter!("kodiak_background_items_total", "kind" => format!("{kind:?}").to_lowercase())
            .increment(done.len() as u64);
        Ok(replica.node.finish_work(replica.device, kind, done).await?)
    }

    /// Whether the item is done.
    async fn perform(self: &Arc<Self>, work: Work, device: DeviceIndex) -> Result<bool, StoreError> {
        match work {
            Work::Totals { info } => {
                self.report_totals(&info).await?;
                self.reap_stray(&info).await.map(|()| true)
            }
            Work::Reap { account, since } if self.reaps(&account, device, since) => {
                self.reap_account(&account).await.map(|()| true)
            }
            Work::Reap { .. } => Ok(false),
            Work::Expire { path, timestamp } => {
                let policy = match self.container(path.account(), path.container()).await {
                    Ok(info) => info.directory.policy,
                    Err(StoreError::NoContainer) => return Ok(true),
                    Err(error) => return Err(error),
                };
                match self.delete_object(&path, policy, Precondition::Is(timestamp)).await {
                    Ok(_) | Err(StoreError::NoObject | StoreError::PreconditionFailed) => Ok(true),
                    Err(error) => Err(error),
                }
            }
            Work::Free { path, policy, extents } => {
                let extents = self.without_kept(&path, policy, extents).await?;
                if extents.iter().any(|extent| self.readers.reads(extent)) {
                    return Ok(false);
                }
                self.delete_extents(policy, &extents).await.map(|()| true)
            }
        }
    }
}
