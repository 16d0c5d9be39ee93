//! The auditor: reads everything on a device, at its own rate, again and again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::DeviceIndex;
use tokio::sync::watch;

use super::LocalDevice;
use super::pace::Pace;
use crate::audit::AuditCursor;
use crate::disk::{Disk, SystemDisk};
use crate::node::Node;

/// Bytes of one step.
const STEP: u64 = 4 << 20;
/// Steps after which the position is kept.
const KEEP_EVERY: u64 = 64;
/// Rest between two rounds, and after an error.
const REST: Duration = Duration::from_secs(60);

const FILE: &str = "audit.json";

/// Audits devices until `stop` changes, each at most at `rate` bytes a second: a task a device.
pub fn run(
    node: &Arc<Node>,
    devices: impl Iterator<Item = LocalDevice>,
    rate: u64,
    stop: &watch::Receiver<bool>,
) {
    for device in devices {
        let (node, mut stop) = (node.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = stop.changed() => {}
                () = keep(node, device, rate) => {}
            }
        });
    }
}

async fn keep(node: Arc<Node>, device: LocalDevice, rate: u64) {
    let (pace, label) = (Pace::new(rate), || device.name.clone());
    let file = device.folder.as_ref().map(|folder| folder.join(FILE));
    let stored = file.as_ref().and_then(|file| SystemDisk.read(file).ok());
    // A position that cannot be read costs a round, no more.
    let mut at: AuditCursor =
        stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let mut steps = 0u64;
    loop {
        match node.audit(device.index, at.clone(), STEP).await {
            Ok(audited) => {
                metrics::counter!("kodiak_audit_bytes_total", "device" => label()).increment(audited.bytes);
                metrics::counter!("kodiak_audit_needles_total", "device" => label())
                    .increment(audited.needles);
                metrics::counter!("kodiak_audit_damaged_total", "device" => label())
                    .increment(audited.damaged.len() as u64);
                pace.take(audited.bytes as usize).await;
                let ended = audited.next.is_none();
                at = audited.next.unwrap_or_default();
                steps += 1;
                if ended || steps.is_multiple_of(KEEP_EVERY) {
                    save(file.clone(), &at).await;
                }
                if ended {
                    metrics::counter!("kodiak_audit_rounds_total", "device" => label()).increment(1);
                    tokio::time::sleep(REST).await;
                }
            }
            Err(error) => {
                tracing::warn!(device = device.name, %error, "the audit rests");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn save(file: Option<PathBuf>, at: &AuditCursor) {
    let (Some(file), Ok(bytes)) = (file, serde_json::to_vec(at)) else { return };
    let saved = tokio::task::spawn_blocking(move || SystemDisk.replace(&file, &bytes)).await;
    if !matches!(saved, Ok(Ok(()))) {
        tracing::warn!("the audit's position could not be kept");
    }
}

impl LocalDevice {
    /// The devices of a node.
    pub fn of(node: &Node) -> Vec<LocalDevice> {
        let device = |index: DeviceIndex| {
            let (name, folder) = node.folder(index)?;
            Some(LocalDevice { index, name, folder: Some(folder) })
        };
        node.device_indexes().filter_map(device).collect()
    }
}
