//! Devices that stand in for those that are down.
//!
//! What they hold counts in no majority: it is there so that a write that was acknowledged while a replica
//! was down has as many copies as ever. Their node gives it to the replica when that is back, and drops it
//! then (the storage node's `repair`).

use kodiak_storage_api::{Health, Map, NodeError, Place, Replica, Tree};

/// For each of `replicas` that is down, the next device that is not, in the order of the ring.
pub(super) fn stand_ins(map: &Map, (tree, place): (Tree, Place), replicas: &[Replica]) -> Vec<Replica> {
    let is_down = |replica: &&Replica| replica.node.health() == Health::Down;
    let down = replicas.iter().filter(is_down).count();
    if down == 0 {
        return Vec::new();
    }
    match map.handoffs(tree, place) {
        Ok(handoffs) => handoffs.into_iter().filter(|replica| !is_down(&replica)).take(down).collect(),
        Err(_) => Vec::new(),
    }
}

/// Gives them a write, in the background: nobody waits for them.
pub(super) fn give<A>(stand_ins: Vec<Replica>, mut write: impl FnMut(Replica) -> A)
where
    A: Future<Output = Result<(), NodeError>> + Send + 'static,
{
    for replica in stand_ins {
        let written = write(replica);
        tokio::spawn(async move {
            match written.await {
                Ok(()) => metrics::counter!("kodiak_handoffs_total").increment(1),
                Err(error) => tracing::debug!(%error, "a device cannot stand in"),
            }
        });
    }
}
