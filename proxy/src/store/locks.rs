//! One commit of a name at a time.

use kodiak_ring::KeyHash;
use tokio::sync::{Mutex, MutexGuard};

/// Locks that names share by their hash: enough that two busy names seldom meet.
const STRIPES: usize = 4096;

/// Makes "check the current version, then write the next" one step among this process's writers.
pub(super) struct KeyLocks {
    stripes: Vec<Mutex<()>>,
}

impl KeyLocks {
    pub(super) fn new() -> KeyLocks {
        KeyLocks { stripes: (0..STRIPES).map(|_| Mutex::new(())).collect() }
    }

    pub(super) async fn lock(&self, hash: KeyHash) -> MutexGuard<'_, ()> {
        let [.., high, low] = hash.0;
        self.stripes[usize::from(u16::from_be_bytes([high, low])) % STRIPES].lock().await
    }
}
