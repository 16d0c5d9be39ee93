//! The storage nodes of a cluster: this machine's own, and the others over the network.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use kodiak_cluster::{Caller, Member, Membership, call};
use kodiak_proxy::store::{Nodes, ReadAffinity};
use kodiak_storage_api::remote::{ClusterView, Gate, Gated, PROTOCOL, Party, RemoteNode, Settings, Versions};
use kodiak_storage_api::{Clock, StorageNode};
use kodiak_storage_node::{Body, Extension};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

/// What the transport asks of the membership, and what the membership is asked over the transport.
pub struct View(pub Arc<Membership>);

impl ClusterView for View {
    fn epoch(&self) -> u64 {
        self.0.map().epoch.0
    }

    fn newer(&self, peer: &str, _: u64) {
        self.0.hear_of_newer(peer);
    }

    fn admit(&self, node: &str, certificate: &[u8]) -> Result<(), String> {
        match self.0.identify(Some(certificate)) {
            Ok(Caller::Member(name)) if name == node => Ok(()),
            Ok(_) => Err(format!("the certificate is not that of {node}")),
            Err(refusal) => Err(refusal.to_string()),
        }
    }
}

#[async_trait]
impl Extension for View {
    async fn answer(
        &self,
        certificate: Option<&CertificateDer<'static>>,
        request: hyper::Request<hyper::body::Incoming>,
    ) -> hyper::Response<Body> {
        call::answer(&self.0, certificate, request).await
    }
}

/// Makes nodes of members. A member's node is kept while maps come and go, and its connections with it.
pub struct Remotes {
    party: Arc<Party>,
    local: Arc<dyn StorageNode>,
    config: Arc<ClientConfig>,
    affinity: ReadAffinity,
    /// By clock, which no two members ever share.
    known: Mutex<HashMap<u32, Arc<RemoteNode>>>,
}

impl Remotes {
    /// `local` is this machine's own node.
    pub fn new(
        party: Arc<Party>,
        local: Arc<dyn StorageNode>,
        config: Arc<ClientConfig>,
        affinity: ReadAffinity,
    ) -> Remotes {
        Remotes { party, local, config, affinity, known: Mutex::default() }
    }

    /// Which map's rings this machine goes by.
    pub fn gate(&self) -> &Gate {
        self.party.gate()
    }

    /// The nodes of these members, and this machine's own, for calls that the map of this epoch places.
    pub fn nodes(&self, epoch: u64, members: &[Member]) -> Nodes {
        let mut known = self.known.lock();
        known.retain(|clock, _| members.iter().any(|member| member.clock == *clock));
        let mut nodes: Nodes = HashMap::new();
        nodes.insert(self.party.name().to_owned(), Gated::new(self.party.clone(), self.local.clone(), epoch));
        let place = |member: &Member| (member.region, member.zone);
        let here = members.iter().find(|member| member.name == self.party.name()).map(place);
        // Who was never up has no address, and nothing in the rings.
        let up = |member: &&Member| member.name != self.party.name() && member.address.port() != 0;
        for member in members.iter().filter(up) {
            let address = member.address.to_string();
            let make = || {
                RemoteNode::new(self.party.clone(), &member.name, &address, &self.config, Settings::default())
            };
            let node = known.entry(member.clock).or_insert_with(make);
            node.moved(&address);
            node.set_distance(here.map_or(0, |here| self.affinity.distance(here, place(member))));
            nodes.insert(member.name.clone(), node.placed_by(epoch));
        }
        nodes
    }
}

/// Versions of the nodes' protocol that this build speaks. The tests of rolling upgrades have one that is ahead.
const VERSIONS: Versions = match cfg!(feature = "ahead") {
    true => Versions { oldest: PROTOCOL, newest: PROTOCOL + 1 },
    false => Versions::CURRENT,
};

/// This machine as a party to calls.
pub fn party(membership: &Arc<Membership>, clock: Arc<Clock>) -> (Arc<Party>, Arc<View>) {
    let view = Arc::new(View(membership.clone()));
    let cluster = membership.map().cluster.to_string();
    (Party::speaking(VERSIONS, cluster, membership.name(), clock, view.clone()), view)
}
