//! Calls are made by the rings of one map, and a node that uses those of another refuses them.
//!
//! Without that, a coordinator that has not heard of a new map could write to a majority of old replicas
//! after the new ones have been filled, and no reader by the new map would ever see it. See
//! `docs/consistency.md`.

use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, watch};
use tokio::time::timeout;

use crate::NodeError;

/// How long a call waits for a node that does not have the caller's map yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// The map whose rings a node goes by.
pub struct Gate {
    epoch: RwLock<u64>,
    changed: watch::Sender<u64>,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { epoch: RwLock::new(0), changed: watch::Sender::new(0) }
    }
}

impl Gate {
    /// Epoch of the map that this node goes by.
    pub fn epoch(&self) -> u64 {
        *self.changed.borrow()
    }

    /// Goes by another map once `adopt` has succeeded. Calls that are under way end before, others wait.
    pub async fn adopt<E>(&self, epoch: u64, adopt: impl AsyncFnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut held = self.epoch.write().await;
        adopt().await?;
        *held = epoch;
        self.changed.send_replace(epoch);
        Ok(())
    }

    /// Lets a call through that was placed by the map of an epoch; the guard is to be held while it is made.
    /// Epoch 0 is that of callers without a map.
    pub async fn enter(&self, epoch: u64) -> Result<RwLockReadGuard<'_, u64>, NodeError> {
        let here = self.epoch.read().await;
        if epoch == 0 || *here == epoch {
            return Ok(here);
        }
        let own = *here;
        drop(here);
        if own < epoch {
            let mut changes = self.changed.subscribe();
            // Whether it came or not is looked at below.
            let _ = timeout(PATIENCE, changes.wait_for(|now| *now >= epoch)).await;
        }
        let here = self.epoch.read().await;
        if *here == epoch { Ok(here) } else { Err(other(epoch, *here)) }
    }
}

fn other(theirs: u64, own: u64) -> NodeError {
    NodeError::Unavailable(format!("the call goes by map {theirs}, this node by map {own}: try again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    async fn adopt(gate: &Gate, epoch: u64) {
        gate.adopt(epoch, async || Ok::<(), ()>(())).await.expect("adopted");
    }

    #[tokio::test(start_paused = true)]
    async fn only_calls_by_the_same_map_are_let_through() {
        let gate = Gate::default();
        adopt(&gate, 5).await;
        assert!(gate.enter(5).await.is_ok() && gate.enter(0).await.is_ok());
        assert!(gate.enter(4).await.is_err());
        assert!(gate.enter(6).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_a_map_that_comes_and_a_map_for_calls_that_are_under_way() {
        let gate = Arc::new(Gate::default());
        adopt(&gate, 5).await;
        let early = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter(6).await.is_ok() }
        });
        let under_way = gate.enter(5).await.expect("the same map");
        let adopting = tokio::spawn({
            let gate = gate.clone();
            async move { adopt(&gate, 6).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!adopting.is_finished() && !early.is_finished());
        drop(under_way);
        assert!(early.await.expect("no panic"));
        assert_eq!(gate.epoch(), 6);
    }

    #[tokio::test]
    async fn a_map_that_cannot_be_adopted_changes_nothing() {
        let gate = Gate::default();
        adopt(&gate, 5).await;
        assert_eq!(gate.adopt(6, async || Err("no room")).await, Err("no room"));
        assert!(gate.enter(5).await.is_ok());
    }
}
