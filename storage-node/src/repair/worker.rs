//! The tasks that keep a node's devices and their replicas together.

use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::{Clock, Map, Replica};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;

use super::heal::Healer;
use super::pace::Pace;
use super::replicator::{Pass, pass, reclaim};

/// Settings of repair.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepairSettings {
    /// Bytes that a device copies a second at most. Default 64 MiB.
    pub rate: u64,
    /// Seconds between two passes over a device while there is nothing to do. Default 10.
    pub interval: u64,
    /// Seconds after which a version that no majority holds is completed. Default 30.
    pub quiet: u64,
    /// Seconds after which a tombstone that all primaries have is dropped. Default 7 days.
    pub reclaim_age: u64,
}

impl Default for RepairSettings {
    fn default() -> RepairSettings {
        RepairSettings { rate: 64 << 20, interval: 10, quiet: 30, reclaim_age: 7 * 86_400 }
    }
}

/// While a device is filled or peers are away, the next pass comes sooner.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);

/// Repairs the devices of a node, `name` in the rings, until `stop` changes. `rings` answers those in use.
pub async fn run(
    name: String,
    rings: impl Fn() -> Arc<Map> + Send + Sync + 'static,
    clock: Arc<Clock>,
    settings: RepairSettings,
    mut stop: watch::Receiver<bool>,
) {
    let pace = Arc::new(Pace::new(settings.rate));
    let repair = async {
        loop {
            let map = rings();
            let mut busy = false;
            for local in map.on(&name) {
                busy |= device(&map, &local, &clock, &pace, &settings).await;
            }
            sleep(if busy { BUSY_INTERVAL } else { Duration::from_secs(settings.interval) }).await;
        }
    };
    tokio::select! {
        _ = stop.changed() => {}
        () = repair => {}
    }
}

/// One pass over a device; whether there is more to do.
async fn device(
    map: &Arc<Map>,
    local: &Replica,
    clock: &Arc<Clock>,
    pace: &Arc<Pace>,
    settings: &RepairSettings,
) -> bool {
    let healer = Healer {
        map: map.clone(),
        clock: clock.clone(),
        pace: pace.clone(),
        quiet: Duration::from_secs(settings.quiet),
    };
    match pass(&healer, local, true).await {
        Ok(done) => {
            record(&done);
            let reclaimed = reclaim(map, clock, local, Duration::from_secs(settings.reclaim_age)).await;
            match reclaimed {
                Ok(tombstones) => {
                    metrics::counter!("kodiak_repair_tombstones_reclaimed_total").increment(tombstones);
                }
                Err(error) => tracing::debug!(%error, "tombstones are left for the next pass"),
            }
            done.differing > 0 || done.waiting > 0 || done.healed.failed > 0
        }
        Err(error) => {
            tracing::debug!(%error, "a pass of repair is tried again");
            true
        }
    }
}

fn record(done: &Pass) {
    metrics::counter!("kodiak_repair_passes_total").increment(1);
    metrics::counter!("kodiak_repair_partitions_compared_total").increment(done.partitions);
    metrics::counter!("kodiak_repair_partitions_differing_total").increment(done.differing);
    metrics::counter!("kodiak_repair_partitions_filled_total").increment(done.filled);
    metrics::counter!("kodiak_repair_items_copied_total").increment(done.healed.copied);
    metrics::counter!("kodiak_repair_bytes_copied_total").increment(done.healed.bytes);
    metrics::counter!("kodiak_repair_items_failed_total").increment(done.healed.failed);
    metrics::counter!("kodiak_repair_items_handed_back_total").increment(done.handed_back);
    if done.filled > 0 || done.healed.copied > 0 {
        tracing::info!(
            filled = done.filled,
            copied = done.healed.copied,
            bytes = done.healed.bytes,
            failed = done.healed.failed,
            "replicas repaired"
        );
    }
}
