//! This machine's part in the cluster: it answers about the map, votes, proposes, and keeps up.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kodiak_storage_api::jobs::JobStatus;
use kodiak_storage_api::{Holding, Said};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::message::{CallError, DeviceRoom, Hello, Join, MapBytes, NodeStatus, Welcome};
use crate::{
    Accepted, Admission, Authority, BootId, Caller, Change, ClusterMap, Denied, Epoch, Member, MemberDevice,
    MemberState, NodeCertificate, Peer, Peers, Refusal, Register, Request, Response, Stored, TokenHash,
    certificates,
};

mod propose;

/// For how long a process that has said hello counts as alive.
const LEASE: Duration = Duration::from_secs(15);
/// Between two hellos.
const BEAT: Duration = Duration::from_secs(3);
/// How long the members may take to answer before a start goes on without them.
const FIRST_HELLO: Duration = Duration::from_secs(1);

/// What the binary gives a membership.
pub struct Parts {
    /// This node's name.
    pub name: String,
    /// The newest map and the votes.
    pub stored: Stored,
    /// Signs certificates.
    pub authority: Authority,
    /// What a machine that joins needs beside certificate and map.
    pub settings: String,
    /// The way to the others.
    pub peers: Arc<dyn Peers>,
    /// How this machine is.
    pub report: Box<dyn Report>,
}

/// What a machine tells operators about itself.
pub trait Report: Send + Sync {
    /// Second since 1970 at which its certificate expires.
    fn certificate_expires(&self) -> i64;

    /// Version of its program.
    fn version(&self) -> String;

    /// The map whose rings its devices go by.
    fn placed(&self) -> Epoch;

    /// Its devices.
    fn devices(&self) -> Vec<DeviceRoom>;

    /// What it does in the background.
    fn jobs(&self) -> Vec<JobStatus>;

    /// What its devices have. May take a while.
    fn holdings(&self) -> Result<Vec<Holding>, String>;
}

/// Another member's process.
#[derive(Clone, Debug)]
struct Presence {
    boot: BootId,
    address: SocketAddr,
    seen: Instant,
}

/// This machine as a member of the cluster.
pub struct Membership {
    name: String,
    boot: BootId,
    stored: Mutex<Stored>,
    maps: watch::Sender<Arc<ClusterMap>>,
    authority: Authority,
    settings: String,
    peers: Arc<dyn Peers>,
    report: Box<dyn Report>,
    /// Refusals that have been logged, by who refuses or is refused.
    said: Said<String>,
    presences: Mutex<HashMap<String, Presence>>,
    /// Where this process serves the cluster, once it does.
    address: OnceLock<SocketAddr>,
    /// Whether a task fetches a newer map.
    fetching: AtomicBool,
    /// One proposal at a time, so that this machine does not outbid itself.
    proposing: tokio::sync::Mutex<()>,
}

impl Membership {
    /// Takes up the membership.
    pub fn new(parts: Parts) -> Arc<Membership> {
        let Parts { name, stored, authority, settings, peers, report } = parts;
        let (maps, _) = watch::channel(stored.register().map().clone());
        Arc::new(Membership {
            name,
            boot: BootId::random(),
            stored: Mutex::new(stored),
            maps,
            authority,
            settings,
            peers,
            report,
            said: Said::default(),
            presences: Mutex::default(),
            address: OnceLock::new(),
            fetching: AtomicBool::new(false),
            proposing: tokio::sync::Mutex::default(),
        })
    }

    /// This node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The newest map.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.maps.borrow().clone()
    }

    /// Sees each newer map.
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.maps.subscribe()
    }

    /// Who has sent a certificate that TLS has found to be of the cluster's authority.
    ///
    /// # Errors
    /// When it is not the one of a member.
    pub fn identify(&self, certificate: Option<&[u8]>) -> Result<Caller, Refusal> {
        let Some(der) = certificate else { return Ok(Caller::Anonymous) };
        let certificate = NodeCertificate::read(der).map_err(|_| Refusal::Anonymous)?;
        let map = self.map();
        if certificate.cluster != map.cluster {
            return Err(Refusal::OtherCluster { own: map.cluster, theirs: certificate.cluster });
        }
        let node = certificate.node;
        if map.member(&node).is_some_and(|member| member.key == certificate.key) {
            return Ok(Caller::Member(node));
        }
        match map.removed.iter().rev().find(|removed| removed.key == certificate.key) {
            Some(removed) => Err(Refusal::WasRemoved { node, epoch: removed.epoch }),
            None => Err(Refusal::NotAMember { node }),
        }
    }

    /// Whether a caller is refused for this since just now.
    pub(crate) fn refuses(&self, refusal: &Refusal) -> bool {
        self.said.is_news(format!("caller: {refusal}"), &"")
    }

    /// Answers a request.
    pub async fn handle(self: &Arc<Self>, caller: Caller, request: Request) -> Response {
        let answer = match (caller, request) {
            (_, Request::Join(join)) => {
                self.admit(*join).await.map(|welcome| Response::Welcome(Box::new(welcome)))
            }
            (Caller::Anonymous, _) => Err(Refusal::Anonymous),
            (Caller::Member(name), request) => self.answer(name, request).await,
        };
        answer.unwrap_or_else(Response::Refused)
    }

    async fn answer(self: &Arc<Self>, caller: String, request: Request) -> Result<Response, Refusal> {
        match request {
            Request::GetMap { have } => {
                let map = self.map();
                let newer = (map.epoch > have).then(|| MapBytes::of(&map)).transpose();
                newer.map(Response::Map).map_err(map_failed)
            }
            Request::Prepare { boot, epoch, digest, ballot } => {
                self.is_known(&caller, boot)?;
                match self.vote(move |register| register.prepare((epoch, digest), ballot)).await? {
                    Ok(accepted) => promised(accepted),
                    Err(denied) => denial(denied),
                }
            }
            Request::Accept { boot, ballot, map } => {
                self.is_known(&caller, boot)?;
                let map = Arc::new(ClusterMap::decode(&map.0).map_err(map_failed)?);
                let epoch = map.epoch;
                match self.vote(move |register| register.accept(ballot, map)).await? {
                    Ok(()) => Ok(Response::Done(epoch)),
                    Err(denied) => denial(denied),
                }
            }
            Request::Announce(map) => {
                let map = ClusterMap::decode(&map.0).map_err(map_failed)?;
                self.learn(Arc::new(map)).await?;
                Ok(Response::Done(self.map().epoch))
            }
            Request::Status => Ok(Response::Status(self.status())),
            Request::Holdings => {
                let (this, placed) = (self.clone(), self.report.placed());
                match tokio::task::spawn_blocking(move || this.report.holdings()).await {
                    Ok(Ok(holdings)) => Ok(Response::Holdings(placed, holdings)),
                    Ok(Err(error)) => Err(Refusal::Failed(error)),
                    Err(error) => Err(Refusal::Failed(error.to_string())),
                }
            }
            Request::Jobs => Ok(Response::Jobs(self.report.jobs())),
            Request::Hello(hello) => self.greet(caller, hello).await,
            Request::Change(change) => Ok(Response::Done(self.request(&change).await?.epoch)),
            // Answered for everybody.
            Request::Join(_) => Err(Refusal::Anonymous),
        }
    }

    /// Changes the map, unless that would move partitions while replicas still lack what the last change moved: two
    /// moves in a row could leave a partition without anybody who has all of it.
    ///
    /// # Errors
    /// When it is not the time, not possible, or too few members answer.
    pub async fn request(self: &Arc<Self>, change: &Change) -> Result<Arc<ClusterMap>, Refusal> {
        self.are_filled(change).await?;
        self.change(change).await
    }

    /// Whether a change moves partitions at a time that can be chosen, and who need not answer then.
    fn moves<'c>(&self, change: &'c Change) -> Option<Option<&'c str>> {
        match change {
            Change::Drain { .. }
            | Change::Rebalance
            | Change::SetWeight { .. }
            | Change::RemoveDevice { .. } => Some(None),
            Change::Remove { name, force: false } => Some(Some(name)),
            Change::Present { name, devices, .. } => {
                let map = self.map();
                let own = map.member(name);
                let joins = own.is_some_and(|own| matches!(own.state, MemberState::Joining { .. }));
                let has = |device: &MemberDevice| {
                    own.is_some_and(|own| own.devices.iter().any(|known| known.name == device.name))
                };
                (joins || !devices.iter().all(has)).then_some(Some(name))
            }
            // A machine or its data are lost, or nothing moves: of a partition that is not filled neither half is.
            Change::Remove { force: true, .. }
            | Change::IncreasePartPower { .. }
            | Change::Replace { .. }
            | Change::AddToken { .. }
            | Change::Admit(_)
            | Change::AddPolicy(_)
            | Change::SetPolicy { .. } => None,
        }
    }

    async fn are_filled(self: &Arc<Self>, change: &Change) -> Result<(), Refusal> {
        let Some(leaving) = self.moves(change) else { return Ok(()) };
        let mut calls = JoinSet::new();
        for peer in self.others().into_iter().filter(|peer| Some(peer.name.as_str()) != leaving) {
            let ways = self.peers.clone();
            calls.spawn(async move { (ways.call(&peer, Request::Status).await, peer.name) });
        }
        let mut lacking = Vec::new();
        let newest = self.map().epoch;
        let mut look = |name: &str, status: &NodeStatus| {
            let missing: usize = status.devices.iter().map(|device| device.missing).sum();
            if status.placed < newest {
                // What it lacks by the newest map it does not know yet.
                lacking.push(format!("{name} still goes by map {}", status.placed));
            } else if missing > 0 {
                lacking.push(format!("{name} lacks {missing} partitions"));
            }
        };
        if leaving != Some(self.name.as_str()) {
            look(&self.name, &self.status());
        }
        let mut silent = Vec::new();
        for (answer, name) in calls.join_all().await {
            match answer {
                Ok(Response::Status(status)) => look(&name, &status),
                Ok(_) => silent.push(format!("{name} gives no sense")),
                Err(CallError(error)) => silent.push(format!("{name} does not answer: {error}")),
            }
        }
        // A machine that is to make up for one that is down must not wait for it.
        if !matches!(change, Change::Present { .. }) {
            lacking.extend(silent);
        }
        if lacking.is_empty() { Ok(()) } else { Err(Refusal::Filling(lacking.join("; "))) }
    }

    /// How this machine is.
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            name: self.name.clone(),
            boot: self.boot,
            epoch: self.map().epoch,
            certificate_expires: self.report.certificate_expires(),
            version: self.report.version(),
            devices: self.report.devices(),
            placed: self.report.placed(),
        }
    }

    /// Changes the register; what it answers is on stable storage then.
    async fn vote<T: Send + 'static>(
        self: &Arc<Self>,
        step: impl FnOnce(&mut Register) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let this = self.clone();
        let stored = tokio::task::spawn_blocking(move || {
            let mut stored = this.stored.lock();
            let answer = stored.update(step);
            // Under the lock, so that the newest one is sent last.
            let map = stored.register().map().clone();
            this.maps.send_if_modified(|known| {
                let newer = map.epoch > known.epoch;
                if newer {
                    *known = map;
                }
                newer
            });
            answer
        });
        match stored.await {
            Ok(answer) => answer.map_err(|error| Refusal::Failed(error.to_string())),
            Err(error) => Err(Refusal::Failed(error.to_string())),
        }
    }

    /// Takes a decided map over.
    async fn learn(self: &Arc<Self>, map: Arc<ClusterMap>) -> Result<(), Refusal> {
        let epoch = map.epoch;
        match self.vote(move |register| register.learn(map)).await? {
            Ok(true) => {
                tracing::info!(%epoch, "new cluster map");
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "a cluster map is refused");
                Err(Refusal::Map(error.to_string()))
            }
        }
    }

    async fn admit(self: &Arc<Self>, join: Join) -> Result<Welcome, Refusal> {
        let failed = |error: certificates::CertificateError| Refusal::Failed(error.to_string());
        let admission = Admission {
            token: TokenHash(*blake3::hash(&join.secret).as_bytes()),
            key: certificates::request_key(&join.request).map_err(failed)?,
            name: join.name.clone(),
            region: join.region,
            zone: join.zone,
            address: join.address,
        };
        let map = self.change(&Change::Admit(admission)).await?;
        let now = OffsetDateTime::now_utc();
        let certificate = self.authority.sign_request(map.cluster, &join.name, &join.request, now);
        tracing::info!(node = join.name, "admitted");
        Ok(Welcome {
            certificate: certificate.map_err(failed)?,
            authority: self.authority.pem().to_owned(),
            authority_key: self.authority.key_pem(),
            map: MapBytes::of(&map).map_err(map_failed)?,
            settings: self.settings.clone(),
        })
    }

    fn is_known(&self, caller: &str, boot: BootId) -> Result<(), Refusal> {
        let known = self.presences.lock().get(caller).is_some_and(|presence| presence.boot == boot);
        if known { Ok(()) } else { Err(Refusal::Stranger) }
    }

    /// Notes that a member is alive, unless another process of its name is.
    async fn greet(self: &Arc<Self>, node: String, hello: Hello) -> Result<Response, Refusal> {
        let before = self.presences.lock().get(&node).cloned();
        let other = before.filter(|before| {
            before.boot != hello.boot && before.address != hello.address && before.seen.elapsed() < LEASE
        });
        if let Some(other) = other {
            let peer = Peer { name: node.clone(), address: other.address, key: None };
            // A process that was restarted elsewhere has left nobody there.
            if let Ok(Response::Status(status)) = self.peers.call(&peer, Request::Status).await
                && status.boot == other.boot
            {
                tracing::error!(node, first = %other.address, second = %hello.address, "two processes of one name");
                return Err(Refusal::Duplicate { node, address: other.address });
            }
        }
        let presence = Presence { boot: hello.boot, address: hello.address, seen: Instant::now() };
        self.presences.lock().insert(node, presence);
        Ok(Response::Done(self.map().epoch))
    }

    /// The other members that have been up.
    fn others(&self) -> Vec<Peer> {
        others(&self.map(), &self.name)
    }

    fn own_hello(&self, own: &ClusterMap) -> Hello {
        let known = || own.member(&self.name).map(|member| member.address);
        let address = self.address.get().copied().or_else(known);
        let address = address.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        Hello { boot: self.boot, address, epoch: own.epoch }
    }

    /// Says hello to a member, and brings both to the newer map; whether it answered.
    ///
    /// # Errors
    /// When the member refuses this process.
    async fn hello(self: &Arc<Self>, peer: &Peer) -> Result<bool, Refusal> {
        let own = self.map();
        let hello = self.own_hello(&own);
        match self.peers.call(peer, Request::Hello(hello)).await {
            Ok(Response::Done(theirs)) => {
                if theirs > own.epoch {
                    self.fetch(peer).await;
                } else if theirs < own.epoch {
                    // It asks by itself as well when this is lost.
                    let announce = Request::Announce(MapBytes::of(&own).map_err(map_failed)?);
                    drop(self.peers.call(peer, announce).await);
                }
                Ok(true)
            }
            Ok(Response::Refused(refusal)) => Err(refusal),
            Ok(_) | Err(CallError(_)) => Ok(false),
        }
    }

    /// Asks a member for a newer map: after a call has shown that it has one.
    pub async fn fetch(self: &Arc<Self>, peer: &Peer) {
        let have = self.map().epoch;
        if let Ok(Response::Map(Some(map))) = self.peers.call(peer, Request::GetMap { have }).await {
            match ClusterMap::decode(&map.0) {
                // It has been logged.
                Ok(map) => drop(self.learn(Arc::new(map)).await),
                Err(error) => tracing::warn!(peer = peer.name, %error, "a cluster map is refused"),
            }
        }
    }

    /// A call has shown that a member has a newer map. Returns at once; the map is fetched beside, by one task.
    pub fn hear_of_newer(self: &Arc<Self>, member: &str) {
        let Some(peer) = self.others().into_iter().find(|peer| peer.name == member) else { return };
        if !self.fetching.swap(true, Ordering::AcqRel) {
            let this = self.clone();
            tokio::spawn(async move {
                this.fetch(&peer).await;
                this.fetching.store(false, Ordering::Release);
            });
        }
    }

    /// Says hello to all members for the first time. It goes on after a second: who is not there does not
    /// hinder a start.
    ///
    /// # Errors
    /// When a member refuses this process: it must not serve.
    pub async fn announce_start(self: &Arc<Self>, address: SocketAddr) -> Result<(), Refusal> {
        let _ = self.address.set(address);
        tokio::time::timeout(FIRST_HELLO, self.hello_all()).await.unwrap_or(Ok(()))
    }

    async fn hello_all(self: &Arc<Self>) -> Result<(), Refusal> {
        let mut calls = JoinSet::new();
        for peer in self.others() {
            let this = self.clone();
            calls.spawn(async move {
                let answer = this.hello(&peer).await;
                (peer.name, answer)
            });
        }
        while let Some(called) = calls.join_next().await {
            match called {
                Ok((_, Err(refusal @ (Refusal::Duplicate { .. } | Refusal::WasRemoved { .. })))) => {
                    return Err(refusal);
                }
                Ok((peer, Err(refusal))) => {
                    if self.said.is_news(peer, &refusal) {
                        tracing::warn!(%refusal, "a member refuses this one");
                    }
                }
                Ok((peer, Ok(_))) => _ = self.said.is_over(&peer),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Makes the cluster know where this machine is and what disks it has, and says hello again and again.
    /// Ends when a member refuses this process, with the reason.
    pub async fn keep_up(self: Arc<Self>, present: Change) -> Refusal {
        let mut known = false;
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            if let Err(refusal) = self.hello_all().await {
                return refusal;
            }
            if !known {
                match self.request(&present).await {
                    Ok(_) => known = true,
                    Err(refusal) if self.said.is_news(self.name.clone(), &refusal) => {
                        tracing::warn!(%refusal, "the cluster does not know this start yet");
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// Signs this node's next certificate.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn renew(&self, key: &crate::NodeKey) -> Result<String, certificates::CertificateError> {
        self.authority.sign(self.map().cluster, &self.name, key, OffsetDateTime::now_utc())
    }
}

fn others(map: &ClusterMap, name: &str) -> Vec<Peer> {
    let up = |member: &&Member| member.name != name && member.address.port() != 0;
    map.members.iter().filter(up).map(peer).collect()
}

fn peer(member: &Member) -> Peer {
    Peer { name: member.name.clone(), address: member.address, key: Some(member.key) }
}

fn map_failed(error: crate::MapError) -> Refusal {
    Refusal::Map(error.to_string())
}

fn promised(accepted: Option<Accepted>) -> Result<Response, Refusal> {
    let accepted = accepted.map(|accepted| Ok((accepted.ballot, MapBytes::of(&accepted.map)?)));
    accepted.transpose().map(Response::Promised).map_err(map_failed)
}

fn denial(denied: Denied) -> Result<Response, Refusal> {
    match denied {
        Denied::Decided(map) => MapBytes::of(&map).map(|map| Response::Map(Some(map))).map_err(map_failed),
        Denied::Behind(epoch) => Ok(Response::Behind(epoch)),
        Denied::Outbid(ballot) => Ok(Response::Outbid(ballot)),
        Denied::Differs => {
            Err(Refusal::Map("there are two maps of one epoch: compare `kodiak cluster status`".into()))
        }
    }
}

#[cfg(test)]
mod tests;
