//! How commands reach the cluster: over the cluster port, with this machine's certificate.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kodiak_cluster::message::{CallError, NodeStatus};
use kodiak_cluster::{
    Change, ClusterMap, Epoch, Fingerprint, Home, Peer, Peers, Refusal, Request, Response, TlsPeers,
};
use kodiak_storage_api::Holding;
use kodiak_storage_api::jobs::JobStatus;
use tokio::runtime::Runtime;

use crate::data;
use crate::endpoints::Endpoints;
use crate::settings::Settings;

/// A person at a member's machine.
pub struct Operator {
    runtime: Runtime,
    peers: Arc<TlsPeers>,
    map: Arc<ClusterMap>,
    authority: Fingerprint,
    /// This machine's member.
    pub node: String,
}

/// One runtime for the calls of a command.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")
}

impl Operator {
    /// Uses the certificate and the map in a data folder.
    pub fn open(folder: &Path) -> Result<Operator> {
        let settings = Settings::load(&folder.join(data::CONFIG))?;
        let Some(home) = &settings.cluster.folder else {
            bail!(
                "the store in {} is one machine, not a cluster: `kodiak cluster init` begins one in another folder",
                folder.display()
            );
        };
        let opened = Home::new(home).open(&settings.cluster.node)?;
        let mut map = opened.stored.register().map().clone();
        if let Some(address) = Endpoints::load(folder).filter(Endpoints::alive).and_then(|e| e.cluster) {
            // The map learns of a new address a moment later.
            let own = |member: &&mut kodiak_cluster::Member| member.name == settings.cluster.node;
            Arc::make_mut(&mut map)
                .members
                .iter_mut()
                .filter(own)
                .for_each(|member| member.address = address);
        }
        Ok(Operator {
            runtime: runtime()?,
            peers: TlsPeers::new(map.cluster, opened.credentials.client()?),
            map,
            authority: opened.authority.fingerprint(),
            node: settings.cluster.node,
        })
    }

    /// The newest map that was seen.
    pub fn map(&self) -> &Arc<ClusterMap> {
        &self.map
    }

    /// Fingerprint of the cluster's authority.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// All members that have been up, this machine's first.
    fn members(&self) -> Vec<Peer> {
        let up = self.map.members.iter().filter(|member| member.address.port() != 0);
        let peer =
            |m: &kodiak_cluster::Member| Peer { name: m.name.clone(), address: m.address, key: Some(m.key) };
        let mut members: Vec<Peer> = up.map(peer).collect();
        members.sort_by_key(|peer| peer.name != self.node);
        members
    }

    /// Asks this machine's member, or another one if it is down.
    fn ask(&self, request: &Request) -> Result<Response> {
        let mut failures = Vec::new();
        for peer in self.members() {
            match self.runtime.block_on(self.peers.call(&peer, request.clone())) {
                Ok(Response::Refused(refusal)) => return Err(refusal.into()),
                Ok(response) => return Ok(response),
                Err(CallError(error)) => failures.push(format!("{}: {error}", peer.name)),
            }
        }
        bail!("no member answers ({}). Start this machine's with `kodiak up`", failures.join("; "))
    }

    /// Changes the map.
    pub fn change(&mut self, change: Change) -> Result<()> {
        let Response::Done(epoch) = self.ask(&Request::Change(change))? else {
            bail!("the member gives no sense")
        };
        self.refresh()?;
        if self.map.epoch < epoch {
            bail!(
                "the change is made (map {epoch}), but no member shows it: look with `kodiak cluster status`"
            );
        }
        Ok(())
    }

    /// Gets the newest map that a member has.
    pub fn refresh(&mut self) -> Result<()> {
        match self.ask(&Request::GetMap { have: Epoch(0) })? {
            Response::Map(Some(map)) => self.map = Arc::new(ClusterMap::decode(&map.0)?),
            _ => bail!("the member gives no sense"),
        }
        Ok(())
    }

    /// How each member is, in the order of the map.
    pub fn statuses(&self) -> Vec<Result<NodeStatus, String>> {
        self.ask_each(&Request::Status, |response| match response {
            Response::Status(status) => Some(status),
            _ => None,
        })
    }

    /// What each member does in the background, in the order of the map.
    pub fn jobs(&self) -> Vec<Result<Vec<JobStatus>, String>> {
        self.ask_each(&Request::Jobs, |response| match response {
            Response::Jobs(jobs) => Some(jobs),
            _ => None,
        })
    }

    /// What each member's devices have, and by which map, in the order of the map.
    pub fn holdings(&self) -> Vec<Result<(Epoch, Vec<Holding>), String>> {
        self.ask_each(&Request::Holdings, |response| match response {
            Response::Holdings(placed, holdings) => Some((placed, holdings)),
            _ => None,
        })
    }

    /// Asks all members at once; the answers are in the order of the map.
    fn ask_each<T>(&self, request: &Request, read: impl Fn(Response) -> Option<T>) -> Vec<Result<T, String>> {
        let ask = async |member: &kodiak_cluster::Member| {
            if member.address.port() == 0 {
                return Err("it has not been up yet".to_owned());
            }
            let peer = Peer { name: member.name.clone(), address: member.address, key: Some(member.key) };
            match self.peers.call(&peer, request.clone()).await {
                Ok(Response::Refused(refusal)) => Err(Refusal::to_string(&refusal)),
                Ok(response) => read(response).ok_or_else(|| "it gives no sense".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        };
        let asked = futures_util::future::join_all(self.map.members.iter().map(ask));
        self.runtime.block_on(asked)
    }
}
