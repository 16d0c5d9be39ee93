//! The auditor: reads everything on a device, at its own rate, again and again.

use std::sync::Arc;
use std::time::Duration;

use kodiak_storage_api::jobs::{Cursor, Job, JobKind, Jobs, LocalDevice, Pace, Tally};
use kodiak_storage_api::{DeviceIndex, Said};
use tokio::sync::watch;

use crate::audit::{AuditCursor, Audited};
use crate::node::Node;

/// Bytes of one step.
const STEP: u64 = 4 << 20;
/// Steps after which the position is kept.
const KEEP_EVERY: u64 = 64;
/// Rest between two rounds, and after an error.
const REST: Duration = Duration::from_secs(60);

/// Audits devices until `stop` changes, each at most at `rate` bytes a second: a task a device.
pub fn run(
    node: &Arc<Node>,
    devices: impl Iterator<Item = LocalDevice>,
    rate: u64,
    jobs: &Jobs,
    stop: &watch::Receiver<bool>,
) {
    for device in devices {
        let (node, mut stop) = (node.clone(), stop.clone());
        let auditor = Auditor {
            job: jobs.job(JobKind::Audit, &device.name, rate),
            pace: Pace::new(rate),
            cursor: Cursor::new(device.folder.as_deref(), "audit"),
            node,
            device,
        };
        tokio::spawn(async move {
            tokio::select! {
                _ = stop.changed() => {}
                () = auditor.keep() => {}
            }
        });
    }
}

/// The auditor of a device.
struct Auditor {
    node: Arc<Node>,
    device: LocalDevice,
    job: Arc<Job>,
    pace: Pace,
    cursor: Cursor<Position>,
}

/// Where an audit goes on, and how many bytes it has read by then.
#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    at: AuditCursor,
    read: u64,
}

impl Auditor {
    async fn keep(&self) {
        // A position that cannot be read costs a round, no more.
        let (mut position, said) = (self.cursor.load().unwrap_or_default(), Said::default());
        loop {
            if let Err(error) = self.round(&mut position).await {
                if said.is_news((), &error) {
                    tracing::warn!(device = self.device.name, %error, "the audit rests, and goes on there later");
                }
                self.job.end(Some(error.to_string()));
            } else {
                said.is_over(&());
                metrics::counter!("kodiak_audit_rounds_total", "device" => self.device.name.clone())
                    .increment(1);
                self.job.end(None);
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// Reads everything, from a position on.
    async fn round(&self, position: &mut Position) -> Result<(), kodiak_storage_api::NodeError> {
        // Not exact: what is written meanwhile is read as well, what is deleted is not.
        let all = self.node.live_bytes(self.device.index)?;
        self.job.begin(Some(all.max(position.read)));
        self.job.advance(position.read);
        let mut steps = 0u64;
        loop {
            let audited = self.node.audit(self.device.index, position.at.clone(), STEP).await?;
            self.note(&audited);
            self.pace.take(audited.bytes as usize).await;
            let ended = audited.next.is_none();
            let read = if ended { 0 } else { position.read + audited.bytes };
            *position = Position { at: audited.next.unwrap_or_default(), read };
            steps += 1;
            if (ended || steps.is_multiple_of(KEEP_EVERY))
                && let Err(error) = self.cursor.save(position).await
            {
                tracing::warn!(device = self.device.name, %error, "the audit's position could not be kept");
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn note(&self, audited: &Audited) {
        let (label, damaged) = (|| self.device.name.clone(), audited.damaged.len() as u64);
        metrics::counter!("kodiak_audit_bytes_total", "device" => label()).increment(audited.bytes);
        metrics::counter!("kodiak_audit_needles_total", "device" => label()).increment(audited.needles);
        metrics::counter!("kodiak_audit_damaged_total", "device" => label()).increment(damaged);
        self.job.advance(audited.bytes);
        self.job.count(Tally { changed: damaged, ..Tally::default() });
    }
}

impl Node {
    /// Its devices, for those who work on them in the background.
    pub fn local_devices(&self) -> Vec<LocalDevice> {
        let device = |index: DeviceIndex| {
            let (name, folder) = self.folder(index)?;
            Some(LocalDevice { index, name, folder: Some(folder) })
        };
        self.device_indexes().filter_map(device).collect()
    }
}
