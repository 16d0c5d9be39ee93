//! Records of containers that are used for a moment without asking their replicas again.
//!
//! Every request for an object needs its container's record: who may, which policy, whether versions are kept. Asking
//! a majority each time costs a small write a quarter of its processor time. So a record is used for [`LEASE`] after
//! it was asked for, and whoever changes a container has no answer before every lease of the old record has ended
//! ([`Store::outlast_leases`]): a request that begins after the answer goes by the change, whatever proxy it comes to.
//!
//! This rests on clocks that run at about the same rate (not on what they show).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::{Directory, DirectoryKey};
use parking_lot::RwLock;
use tokio::time::{Instant, sleep};

use super::locks::KeyLocks;
use super::{Store, StoreError, Weakness};

/// How long a record is used after it was asked for.
const LEASE: Duration = Duration::from_millis(100);
/// How long a change waits: clocks may run at rates that differ by half.
const OUTLAST: Duration = Duration::from_millis(150);
/// Records that are kept; beyond, those whose time has come go, and if none has, all.
const KEPT: usize = 16 << 10;

/// The records.
pub(super) struct Records {
    kept: RwLock<HashMap<DirectoryKey, (Arc<Directory>, Instant)>>,
    /// One asks, others that want the same wait for its answer.
    asking: KeyLocks,
}

impl Records {
    pub(super) fn new() -> Records {
        Records { kept: RwLock::default(), asking: KeyLocks::new() }
    }

    fn get(&self, key: &DirectoryKey) -> Option<Arc<Directory>> {
        let kept = self.kept.read();
        let (record, until) = kept.get(key)?;
        (*until > Instant::now()).then(|| record.clone())
    }

    fn keep(&self, key: DirectoryKey, record: Arc<Directory>, until: Instant) {
        let mut kept = self.kept.write();
        if kept.len() >= KEPT {
            let now = Instant::now();
            kept.retain(|_, (_, until)| *until > now);
            if kept.len() >= KEPT {
                kept.clear();
            }
        }
        kept.insert(key, (record, until));
    }
}

impl Store {
    /// A container's record, as it was when this was called or later.
    pub async fn container_record(
        &self,
        account: &str,
        container: &str,
    ) -> Result<Arc<Directory>, StoreError> {
        let key = self.map().container(&format!("{account}/{container}"));
        if let Some(record) = self.records.get(&key) {
            return Ok(record);
        }
        if self.map().container_replicas(key).len() == 1 {
            // The device in this process has it in memory.
            return Ok(Arc::new(self.own_directory(account, container).await?.directory));
        }
        let _asking = self.records.asking.lock(key.hash).await;
        if let Some(record) = self.records.get(&key) {
            return Ok(record);
        }
        let asked = Instant::now();
        let record = Arc::new(self.own_directory(account, container).await?.directory);
        self.records.keep(key, record.clone(), asked + LEASE);
        Ok(record)
    }

    /// After a majority of `replicas` has a change of a container: waits until nobody goes by the old record.
    pub(super) async fn outlast_leases(&self, replicas: usize) {
        if replicas > 1 && self.weakness != Weakness::ShortLeases {
            sleep(OUTLAST).await;
        }
    }
}
