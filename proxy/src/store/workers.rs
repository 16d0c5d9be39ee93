//! What the store does by itself: totals to accounts, expiry, deletion of replaced blocks and of what was in
//! deleted accounts.

use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::jobs::{Job, JobKind, Jobs, LocalDevice, Pace, Tally};
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

/// A queue of a device, and who works it off.
struct Worker {
    store: Arc<Store>,
    kind: WorkKind,
    replica: Replica,
    job: Arc<Job>,
    pace: Pace,
    /// Whether the last round failed: said once, not with every round.
    failing: bool,
}

/// What a round has come to.
struct Round {
    /// Items that were taken up.
    taken: usize,
    /// Those that are done.
    done: usize,
    /// Why one of the others failed.
    failure: Option<StoreError>,
}

impl Store {
    /// Runs the background workers for devices of the node in this process until `stop` changes: each node
    /// does what its own devices have queued, at most `rate` items a second of each queue.
    pub fn run_workers(
        self: &Arc<Self>,
        node: &Arc<dyn StorageNode>,
        devices: &[LocalDevice],
        (jobs, rate): (&Jobs, u64),
        stop: &watch::Receiver<bool>,
    ) {
        if self.splits_listings() {
            tokio::spawn(self.clone().keep_listings(stop.clone()));
        }
        for device in devices {
            for (kind, job) in [
                (WorkKind::Totals, JobKind::Totals),
                (WorkKind::Expire, JobKind::Expire),
                (WorkKind::Free, JobKind::Free),
                (WorkKind::Reap, JobKind::Reap),
            ] {
                let worker = Worker {
                    store: self.clone(),
                    kind,
                    replica: Replica { node: node.clone(), device: device.index },
                    job: jobs.job(job, &device.name, rate),
                    pace: Pace::new(rate),
                    failing: false,
                };
                tokio::spawn(worker.work(stop.clone()));
            }
        }
    }
}

impl Worker {
    async fn work(mut self, mut stop: watch::Receiver<bool>) {
        let period = match self.kind {
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
            self.pass().await;
        }
    }

    /// Works the queue off, as far as that goes now.
    async fn pass(&mut self) {
        let mut begun = false;
        let failure = loop {
            match self.round(&mut begun).await {
                // There is more, and it goes on.
                Ok(Round { taken: BATCH, done: 1.., failure: None }) => {}
                Ok(round) => break round.failure,
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = failure.as_ref().filter(|_| !self.failing) {
            tracing::warn!(kind = ?self.kind, %error, "background work fails and is tried again until it does not");
        }
        if begun && self.failing && failure.is_none() {
            tracing::info!(kind = ?self.kind, "background work goes on");
        }
        if begun || failure.is_some() {
            self.failing = failure.is_some();
        }
        self.job.end(failure.map(|error| error.to_string()));
    }

    /// One batch of a device's queue. Items that cannot be done yet stay for a later round.
    async fn round(&self, begun: &mut bool) -> Result<Round, StoreError> {
        let Worker { store, kind, replica, .. } = self;
        let items = replica.node.next_work(replica.device, *kind, store.now(), BATCH).await?;
        let mut round = Round { taken: items.len(), done: 0, failure: None };
        if items.is_empty() {
            return Ok(round);
        }
        if !std::mem::replace(begun, true) {
            self.job.begin(None);
        }
        if *kind == WorkKind::Free {
            tokio::time::sleep(FREE_GRACE).await;
        }
        let mut done = Vec::with_capacity(items.len());
        for WorkItem { id, work } in items {
            self.pace.take(1).await;
            let mut tally = Tally::default();
            match store.perform(work, replica.device).await {
                Ok(true) => {
                    done.push(id);
                    tally.changed = 1;
                }
                Ok(false) => tally.waiting = 1,
                Err(error) => {
                    tally.failed = 1;
                    tracing::debug!(?kind, %error, "an item of background work failed");
                    round.failure = Some(error);
                }
            }
            self.job.advance(1);
            self.job.count(tally);
        }
        metrics::counter!("kodiak_background_items_total", "kind" => format!("{kind:?}").to_lowercase())
            .increment(done.len() as u64);
        round.done = done.len();
        replica.node.finish_work(replica.device, *kind, done).await?;
        Ok(round)
    }
}

impl Store {
    /// Whether the item is done.
    async fn perform(self: &Arc<Self>, work: Work, device: DeviceIndex) -> Result<bool, StoreError> {
        match work {
            Work::Totals { info } => {
                self.look_at_size(&info);
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
