//! What one side of a call knows of itself and learns of the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Gate, Head, Versions};
use crate::{Clock, Timestamp};

/// A peer's clock may be ahead of ours by this much. One that is further ahead is wrong, and following it would
/// give all later writes of this node times in the future.
const MAX_AHEAD_MICROS: u64 = 60_000_000;
/// A clock that is wrong is logged at most this often.
const LOG_EVERY_MICROS: u64 = 60_000_000;

/// What the transport asks of the cluster's membership.
pub trait ClusterView: Send + Sync + 'static {
    /// Epoch of the map that this node has.
    fn epoch(&self) -> u64;

    /// A peer has the map of a newer epoch. Called with every message until this node has it too, so it
    /// must return at once.
    fn newer(&self, peer: &str, epoch: u64);

    /// Whether a certificate (DER) that the cluster's authority has signed for `node` is that of a member, or why
    /// not. Asked for each connection, and again when the map has changed.
    fn admit(&self, node: &str, certificate: &[u8]) -> Result<(), String>;
}

/// One side of a call.
pub struct Party {
    cluster: String,
    name: String,
    clock: Arc<Clock>,
    view: Arc<dyn ClusterView>,
    gate: Gate,
    versions: Versions,
    /// When a wrong clock was last logged.
    logged: AtomicU64,
}

impl Party {
    /// A node of a cluster, by its name in the rings.
    pub fn new(
        cluster: impl Into<String>,
        name: impl Into<String>,
        clock: Arc<Clock>,
        view: Arc<dyn ClusterView>,
    ) -> Arc<Party> {
        Party::speaking(Versions::CURRENT, cluster, name, clock, view)
    }

    /// One that speaks these versions.
    pub fn speaking(
        versions: Versions,
        cluster: impl Into<String>,
        name: impl Into<String>,
        clock: Arc<Clock>,
        view: Arc<dyn ClusterView>,
    ) -> Arc<Party> {
        Arc::new(Party {
            cluster: cluster.into(),
            name: name.into(),
            clock,
            view,
            gate: Gate::default(),
            versions,
            logged: AtomicU64::new(0),
        })
    }

    /// The cluster's id.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Versions of the protocol that it speaks.
    pub fn versions(&self) -> Versions {
        self.versions
    }

    /// What the membership says.
    pub fn view(&self) -> &dyn ClusterView {
        self.view.as_ref()
    }

    /// Which map's rings this node goes by.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What goes with a message now that was placed by the map of an epoch.
    pub fn head(&self, epoch: u64) -> Head {
        Head { cluster: self.cluster.clone(), epoch, clock: self.clock.now() }
    }

    /// Takes in what came with a message of `peer`, unless it is of another cluster.
    pub fn hear(&self, peer: &str, head: &Head) -> Result<(), String> {
        if head.cluster != self.cluster {
            return Err(format!(
                "{peer} is a node of cluster {} and this one, {}, of cluster {}: one of the two addresses is wrong",
                head.cluster, self.name, self.cluster
            ));
        }
        self.follow(peer, head.clock);
        if head.epoch > self.view.epoch() {
            self.view.newer(peer, head.epoch);
        }
        Ok(())
    }

    fn follow(&self, peer: &str, seen: Timestamp) {
        let wall = self.clock.wall_micros();
        let ahead = seen.micros().saturating_sub(wall);
        if ahead <= MAX_AHEAD_MICROS {
            return self.clock.observe(seen);
        }
        metrics::counter!("kodiak_peer_clock_refused_total", "peer" => peer.to_owned()).increment(1);
        let last = self.logged.load(Ordering::Relaxed);
        let due = last == 0 || wall.saturating_sub(last) > LOG_EVERY_MICROS;
        if due && self.logged.compare_exchange(last, wall, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let seconds = ahead / 1_000_000;
            tracing::error!(peer, seconds, "a peer's clock is ahead and not followed: set the clocks by NTP");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct View {
        newer: Mutex<Vec<(String, u64)>>,
    }

    impl ClusterView for View {
        fn epoch(&self) -> u64 {
            5
        }

        fn newer(&self, peer: &str, epoch: u64) {
            self.newer.lock().push((peer.to_owned(), epoch));
        }

        fn admit(&self, _: &str, _: &[u8]) -> Result<(), String> {
            Ok(())
        }
    }

    fn party() -> (Arc<Party>, Arc<View>, Arc<Clock>) {
        let (view, clock) =
            (Arc::new(View::default()), Arc::new(Clock::with_wall(1, Arc::new(|| 1_000_000))));
        (Party::new("c", "n1", clock.clone(), view.clone()), view, clock)
    }

    fn head(cluster: &str, epoch: u64, micros: u64) -> Head {
        Head { cluster: cluster.into(), epoch, clock: Timestamp::from_micros(micros, 2) }
    }

    #[test]
    fn a_newer_epoch_is_told_and_an_older_one_is_not() {
        let (party, view, _) = party();
        for epoch in [4, 5, 6] {
            party.hear("n2", &head("c", epoch, 0)).expect("of this cluster");
        }
        assert_eq!(*view.newer.lock(), [("n2".to_owned(), 6)]);
    }

    #[test]
    fn a_clock_is_followed_unless_it_is_a_minute_ahead() {
        let (party, _, clock) = party();
        party.hear("n2", &head("c", 0, 61_000_000)).expect("of this cluster");
        assert!(clock.now().micros() >= 61_000_000);
        party.hear("n2", &head("c", 0, 61_000_001)).expect("of this cluster");
        assert!(clock.now().micros() < 61_000_001);
    }

    #[test]
    fn another_cluster_is_refused_and_its_clock_is_not_followed() {
        let (party, view, clock) = party();
        let refusal = party.hear("n2", &head("other", 9, 50_000_000)).expect_err("refused");
        assert!(refusal.contains("cluster other") && refusal.contains("cluster c"), "{refusal}");
        assert!(view.newer.lock().is_empty() && clock.now().micros() < 50_000_000);
    }
}
