//! The ceiling of a device: no ballot above it has been promised or accepted.
//!
//! Promises, and what was accepted and replaced, are in memory only. What a crash takes is covered by the
//! ceiling, which is on stable storage before any ballot up to it is taken: after a start nothing older is
//! taken or denied. It is raised ahead of time, so that no promise and no write waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kodiak_storage_api::{Clock, NodeError, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;

const FILE: &str = "ceiling.json";
const FORMAT: u32 = 1;
/// How far ahead of what is taken the ceiling is raised: what a clock may have to jump after a crash.
const AHEAD_MICROS: u64 = 2_000_000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    ceiling: Timestamp,
}

/// See the module.
pub struct Ceiling {
    disk: Arc<dyn Disk>,
    file: PathBuf,
    start: Timestamp,
    state: Mutex<State>,
    /// See [`Ceiling::bar`].
    bar: Mutex<Timestamp>,
    /// Held while the file is written; the writer goes on meanwhile.
    saving: Mutex<()>,
}

struct State {
    /// On stable storage.
    durable: Timestamp,
    /// The newest ballot that was taken.
    highest: Timestamp,
}

impl Ceiling {
    /// The ceiling of a device's folder, once the clock has seen everything that is stored. A device with
    /// no ceiling that can be read starts at now: its disk may be a wiped one.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path, is_new: bool, clock: &Clock) -> Ceiling {
        let file = folder.join(FILE);
        let read = disk.read(&file).ok().and_then(|bytes| serde_json::from_slice::<Stored>(&bytes).ok());
        let start = match read.filter(|stored| stored.format == FORMAT) {
            Some(stored) => stored.ceiling,
            None if is_new => clock.now(),
            None => {
                tracing::warn!(folder = %folder.display(), "no ceiling: only writes from now on are taken");
                clock.now()
            }
        };
        // Writes of this process need not be refused to learn of it.
        clock.observe(start);
        Ceiling {
            disk,
            file,
            start,
            bar: Mutex::new(start),
            state: Mutex::new(State { durable: start, highest: start }),
            saving: Mutex::new(()),
        }
    }

    /// What it was at the start.
    pub fn at_start(&self) -> Timestamp {
        self.start
    }

    /// Bars every older ballot: the device has lost what it promised and accepted of some names, or never
    /// had it. Holds when this returns, and after a crash.
    pub fn bar(&self, ballot: Timestamp) -> Result<(), NodeError> {
        self.raise_above(ballot)?;
        *self.bar.lock() = ballot;
        Ok(())
    }

    /// What is barred.
    pub fn barred(&self) -> Timestamp {
        *self.bar.lock()
    }

    /// Takes a ballot; on stable storage before it returns is that it may have been.
    pub fn raise_above(&self, ballot: Timestamp) -> Result<(), NodeError> {
        if ballot > self.taken(ballot) {
            let _saving = self.saving.lock();
            if ballot > self.taken(ballot) {
                self.save(ahead(ballot))?;
            }
        }
        Ok(())
    }

    /// Raises it while there is room left below it. It covers what the clock has issued too: a clock that is
    /// set back while the process is stopped issues nothing twice.
    pub fn keep_ahead(&self, clock: &Clock) {
        let _saving = self.saving.lock();
        self.taken(clock.last());
        let State { durable, highest } = *self.state.lock();
        let half = Timestamp::from_micros(highest.micros() + AHEAD_MICROS / 2, 0);
        if highest > self.start
            && half > durable
            && let Err(error) = self.save(ahead(highest))
        {
            tracing::warn!(file = %self.file.display(), %error, "ceiling not raised ahead of time");
        }
    }

    /// Lowers it to what was taken: nothing more will be.
    pub fn close(&self) {
        let _saving = self.saving.lock();
        let highest = self.state.lock().highest;
        if let Err(error) = self.save(highest) {
            tracing::warn!(file = %self.file.display(), %error, "ceiling not lowered");
        }
    }

    /// Notes a ballot; answers what is durable.
    fn taken(&self, ballot: Timestamp) -> Timestamp {
        let mut state = self.state.lock();
        state.highest = state.highest.max(ballot);
        state.durable
    }

    fn save(&self, ceiling: Timestamp) -> Result<(), NodeError> {
        let failed = |error: std::io::Error| NodeError::Unavailable(format!("ceiling: {error}"));
        let bytes = serde_json::to_vec(&Stored { format: FORMAT, ceiling });
        self.disk.replace(&self.file, &bytes.map_err(|error| failed(error.into()))?).map_err(failed)?;
        self.state.lock().durable = ceiling;
        Ok(())
    }
}

fn ahead(ballot: Timestamp) -> Timestamp {
    Timestamp::from_micros(ballot.micros() + AHEAD_MICROS, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SystemDisk;

    fn open(folder: &Path, is_new: bool) -> Ceiling {
        let clock = Clock::with_wall(1, Arc::new(|| 5_000_000));
        Ceiling::open(Arc::new(SystemDisk), folder, is_new, &clock)
    }

    #[test]
    fn after_a_crash_it_is_above_and_after_a_shutdown_at_everything_that_was_taken() {
        let folder = tempfile::tempdir().expect("folder");
        let first = open(folder.path(), true);
        assert!(first.at_start() < Timestamp::from_micros(6_000_000, 0));
        let ballot = Timestamp::from_micros(7_000_000, 3);
        first.raise_above(ballot).expect("raised");
        let crashed = open(folder.path(), false);
        assert!(crashed.at_start() > ballot);
        first.close();
        assert_eq!(open(folder.path(), false).at_start(), ballot);
    }

    #[test]
    fn it_is_raised_ahead_of_time() {
        let folder = tempfile::tempdir().expect("folder");
        let ceiling = open(folder.path(), true);
        ceiling.raise_above(Timestamp::from_micros(6_000_000, 0)).expect("raised");
        ceiling.raise_above(Timestamp::from_micros(7_900_000, 0)).expect("below it");
        ceiling.keep_ahead(&Clock::with_wall(1, Arc::new(|| 0)));
        assert_eq!(open(folder.path(), false).at_start(), Timestamp::from_micros(9_900_000, 0));
    }

    #[test]
    fn a_lost_file_bars_everything_from_before() {
        let folder = tempfile::tempdir().expect("folder");
        assert!(open(folder.path(), false).at_start() >= Timestamp::from_micros(5_000_000, 0));
    }
}
