//! What a node does by itself, and how it stands: one [`Job`] for each kind and device.
//!
//! A worker says when a pass begins, how far it is, and what came of it; [`Jobs`] has what all of them said,
//! for metrics and for operators. A pass that is long keeps its place in a [`Cursor`].

mod cursor;
mod pace;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{Clock, DeviceIndex};

pub use cursor::Cursor;
pub use pace::{Pace, yielding};

/// What a job is there for. New ones go to the end: their order is part of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Compares partitions with their other replicas, and copies what is lacking.
    Heal,
    /// The same for fragments of erasure codes, which are computed from others.
    Fragments,
    /// Gives away what the device holds for others.
    HandBack,
    /// Reads everything, to find what has rotted.
    Audit,
    /// Drops old tombstones that all replicas have.
    Tombstones,
    /// Deletes blocks that no record names.
    Garbage,
    /// Deletes objects that have expired.
    Expire,
    /// Tells accounts what their containers have.
    Totals,
    /// Deletes blocks of objects that were replaced or deleted.
    Free,
    /// Empties accounts that were deleted.
    Reap,
}

impl JobKind {
    /// All of them.
    pub const ALL: [JobKind; 10] = [
        JobKind::Heal,
        JobKind::Fragments,
        JobKind::HandBack,
        JobKind::Audit,
        JobKind::Tombstones,
        JobKind::Garbage,
        JobKind::Expire,
        JobKind::Totals,
        JobKind::Free,
        JobKind::Reap,
    ];

    /// Its name for people and metrics.
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Heal => "heal",
            JobKind::Fragments => "fragments",
            JobKind::HandBack => "hand-back",
            JobKind::Audit => "audit",
            JobKind::Tombstones => "tombstones",
            JobKind::Garbage => "garbage",
            JobKind::Expire => "expire",
            JobKind::Totals => "totals",
            JobKind::Free => "free",
            JobKind::Reap => "reap",
        }
    }

    /// What its progress is counted in.
    pub fn unit(self) -> &'static str {
        match self {
            JobKind::Heal | JobKind::Fragments | JobKind::HandBack => "partitions",
            JobKind::Tombstones | JobKind::Garbage => "partitions",
            JobKind::Audit => "bytes",
            JobKind::Expire | JobKind::Totals | JobKind::Free => "items",
            JobKind::Reap => "accounts",
        }
    }

    /// What its rate is counted in.
    pub fn rate_unit(self) -> &'static str {
        match self {
            JobKind::Heal | JobKind::Fragments | JobKind::HandBack | JobKind::Audit => "bytes",
            JobKind::Garbage => "blocks",
            JobKind::Tombstones | JobKind::Expire | JobKind::Totals | JobKind::Free => "items",
            JobKind::Reap => "accounts",
        }
    }
}

/// How a job stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JobStatus {
    /// Which one.
    pub kind: JobKind,
    /// Whose.
    pub device: String,
    /// At most so many a second, of [`JobKind::rate_unit`].
    pub rate: u64,
    /// The pass that is under way.
    pub running: Option<Running>,
    /// The last one that has ended.
    pub last: Option<PassEnd>,
    /// Passes that have ended since the process began.
    pub passes: u64,
    /// What all of them have done, the one under way included.
    pub total: Tally,
}

/// A pass that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Running {
    /// Second since 1970 at which it began, or went on after a restart.
    pub begun: u64,
    /// How far it is, in [`JobKind::unit`].
    pub done: u64,
    /// Of how many, where that is known.
    pub of: Option<u64>,
    /// What it has done.
    pub tally: Tally,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Items copied, dropped, deleted, told or found damaged.
    pub changed: u64,
    /// Items that could not be done now.
    pub failed: u64,
    /// Items that have to wait for something.
    pub waiting: u64,
}

impl Tally {
    fn add(&mut self, more: Tally) {
        self.changed += more.changed;
        self.failed += more.failed;
        self.waiting += more.waiting;
    }
}

/// A pass that has ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PassEnd {
    /// Second since 1970.
    pub ended: u64,
    /// How long it took, milliseconds.
    pub millis: u64,
    /// How far it came, in [`JobKind::unit`].
    pub done: u64,
    /// What it has done.
    pub tally: Tally,
    /// Why it ended early, or what is to be done about it.
    pub error: Option<String>,
}

/// All jobs of a process.
pub struct Jobs {
    clock: Arc<Clock>,
    list: Mutex<Vec<Arc<Job>>>,
}

impl Jobs {
    /// None yet.
    pub fn new(clock: Arc<Clock>) -> Arc<Jobs> {
        Arc::new(Jobs { clock, list: Mutex::default() })
    }

    /// The job of a kind for a device; made when it is asked for the first time.
    pub fn job(&self, kind: JobKind, device: &str, rate: u64) -> Arc<Job> {
        let mut list = self.list.lock();
        if let Some(job) = list.iter().find(|job| job.kind == kind && job.device == device) {
            return job.clone();
        }
        let job =
            Job { clock: self.clock.clone(), kind, device: device.to_owned(), rate, state: Mutex::default() };
        let job = Arc::new(job);
        list.push(job.clone());
        job
    }

    /// How all stand, by device and kind.
    pub fn statuses(&self) -> Vec<JobStatus> {
        let mut all: Vec<JobStatus> = self.list.lock().iter().map(|job| job.status()).collect();
        all.sort_by(|a, b| (&a.device, a.kind).cmp(&(&b.device, b.kind)));
        all
    }
}

/// A job of a device, for its worker.
pub struct Job {
    clock: Arc<Clock>,
    kind: JobKind,
    device: String,
    rate: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// The clock at its beginning, microseconds.
    since: u64,
    last: Option<PassEnd>,
    passes: u64,
    total: Tally,
}

impl Job {
    /// A pass begins; of how many, if that is known.
    pub fn begin(&self, of: Option<u64>) {
        let now = self.clock.wall_micros();
        let mut state = self.state.lock();
        state.since = now;
        state.running = Some(Running { begun: now / 1_000_000, done: 0, of, tally: Tally::default() });
    }

    /// The pass is so much further.
    pub fn advance(&self, done: u64) {
        if let Some(running) = &mut self.state.lock().running {
            running.done += done;
        }
    }

    /// The pass has done something.
    pub fn count(&self, tally: Tally) {
        let mut state = self.state.lock();
        state.total.add(tally);
        if let Some(running) = &mut state.running {
            running.tally.add(tally);
        }
    }

    /// The pass has ended; early, if there is an error.
    pub fn end(&self, error: Option<String>) {
        let now = self.clock.wall_micros();
        let mut state = self.state.lock();
        let Some(Running { done, tally, .. }) = state.running.take() else { return };
        let millis = now.saturating_sub(state.since) / 1000;
        state.last = Some(PassEnd { ended: now / 1_000_000, millis, done, tally, error });
        state.passes += 1;
    }

    /// How it stands.
    pub fn status(&self) -> JobStatus {
        let state = self.state.lock();
        JobStatus {
            kind: self.kind,
            device: self.device.clone(),
            rate: self.rate,
            running: state.running,
            last: state.last.clone(),
            passes: state.passes,
            total: state.total,
        }
    }
}

/// A device of this process: its place, name and folder (none in a simulation, where nothing is remembered).
#[derive(Clone, Debug)]
pub struct LocalDevice {
    /// Its place on the node.
    pub index: DeviceIndex,
    /// Its name.
    pub name: String,
    /// Where its files are.
    pub folder: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGED: Tally = Tally { changed: 2, failed: 1, waiting: 0 };

    #[test]
    fn a_pass_shows_how_far_it_is_and_then_what_came_of_it() {
        let jobs = Jobs::new(Arc::new(Clock::system(1)));
        let job = jobs.job(JobKind::Audit, "d1", 5);
        // Outside of a pass nothing is anybody's progress.
        job.advance(7);
        assert_eq!(job.status().running, None);
        job.begin(Some(10));
        job.advance(3);
        job.count(CHANGED);
        let running = job.status().running.expect("a pass");
        assert_eq!((running.done, running.of, running.tally), (3, Some(10), CHANGED));
        job.end(Some("no room".into()));
        let status = job.status();
        let last = status.last.expect("it has ended");
        assert_eq!((last.done, last.tally, last.error.as_deref()), (3, CHANGED, Some("no room")));
        assert_eq!((status.running, status.passes, status.total), (None, 1, CHANGED));
    }

    #[test]
    fn each_kind_and_device_has_one_job() {
        let jobs = Jobs::new(Arc::new(Clock::system(1)));
        jobs.job(JobKind::Heal, "d2", 1).begin(None);
        jobs.job(JobKind::Heal, "d1", 1);
        assert!(jobs.job(JobKind::Heal, "d2", 1).status().running.is_some());
        let devices: Vec<String> = jobs.statuses().into_iter().map(|status| status.device).collect();
        assert_eq!(devices, ["d1", "d2"]);
        let mut names: Vec<&str> = JobKind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), JobKind::ALL.len());
    }
}
