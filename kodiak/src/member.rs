//! A store that is a member of a cluster: its map, its listener, and what it does in the background.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use kodiak_cluster::disk::Slot;
use kodiak_cluster::home::Opened;
use kodiak_cluster::membership::{Parts, Report};
use kodiak_cluster::message::DeviceRoom;
use kodiak_cluster::{
    Change, ClusterMap, Credentials, Epoch, Home, MemberDevice, Membership, NodeCertificate, NodeKey,
    Refusal, TlsPeers,
};
use kodiak_proxy::store::{Nodes, Placement, ReadAffinity, Store};
use kodiak_ring::{PlacementKey, PolicyIndex};
use kodiak_storage_api::jobs::{JobStatus, Jobs};
use kodiak_storage_api::{Clock, Holding, Policy};
use kodiak_storage_node::{Node, Server, ServerSettings};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::assignments;
use crate::remote::{self, Remotes};
use crate::settings::{ClusterSettings, Settings};
use crate::shared::Shared;

/// Between two looks at this node's certificate.
const RENEWAL: Duration = Duration::from_secs(3600);

/// How long a start waits for the cluster to know it.
const FIRST_PRESENT: Duration = Duration::from_secs(3);

/// A member's folder, opened, and its disks, checked.
pub struct Machine {
    home: Home,
    opened: Opened,
    devices: Vec<MemberDevice>,
    cluster: ClusterSettings,
    settings: String,
    affinity: ReadAffinity,
    listen: SocketAddr,
}

impl Machine {
    /// Opens the folder, if the store is a member of a cluster.
    pub fn open(settings: &Settings) -> Result<Option<Machine>> {
        let cluster = settings.cluster.clone();
        let (Some(folder), Some(listen)) = (&cluster.folder, cluster.listen) else { return Ok(None) };
        let home = Home::new(folder);
        let opened = home.open(&cluster.node).context("this machine cannot take part in its cluster")?;
        let map = opened.stored.register().map().clone();
        let slots = slots(settings);
        let disks = home.disks(map.cluster, &cluster.node)?.open(&slots)?;
        let weights = weights(&slots)?;
        let devices = slots.into_iter().zip(disks).zip(weights);
        let devices =
            devices.map(|((slot, disk), weight)| MemberDevice { name: slot.device, disk, weight }).collect();
        let shared = Shared::of(settings)?;
        let affinity = settings.proxy.read_affinity.clone();
        Ok(Some(Machine { home, opened, devices, cluster, settings: shared.text()?, affinity, listen }))
    }

    /// The number of this machine's clock.
    pub fn clock(&self) -> Result<u32> {
        let map = self.opened.stored.register().map();
        let member = map.member(&self.cluster.node);
        let gone = || {
            format!("{} is no member of the cluster any more: see `kodiak cluster status`", self.cluster.node)
        };
        Ok(member.with_context(gone)?.clock)
    }

    /// Takes up the membership, once the storage is open. Nothing is served or called yet.
    pub async fn enlist(
        self,
        (node, jobs): (Arc<Node>, Arc<Jobs>),
        clock: Arc<Clock>,
        key: PlacementKey,
    ) -> Result<Enlisted> {
        let Machine { home, opened, devices, cluster, settings, affinity, listen } = self;
        let Opened { authority, credentials, key: own, stored } = opened;
        let map = stored.register().map().clone();
        let known = map.member(&cluster.node).map(|member| member.address);
        let listener = bind(listen, known).await?;
        let address = listener.local_addr()?;
        let client = credentials.client()?;
        let placed = Placed::default();
        let (credentials_shown, node_shown) = (credentials.clone(), node.clone());
        let report =
            MachineReport { credentials: credentials_shown, node: node_shown, jobs, placed: placed.clone() };
        let membership = Membership::new(Parts {
            name: cluster.node.clone(),
            stored,
            authority,
            settings,
            peers: TlsPeers::new(map.cluster, client.clone()),
            report: Box::new(report),
        });
        let (party, view) = remote::party(&membership, clock);
        let remotes = Remotes::new(party.clone(), node.clone(), client, affinity);
        let server = (credentials.server()?, ServerSettings::default());
        let server = Server::new(node.clone(), party, &server.0, Some(view), server.1);
        let present = Change::Present { name: cluster.node, address, devices };
        Ok(Enlisted {
            home,
            membership,
            node,
            credentials,
            own,
            key,
            remotes,
            server,
            listener,
            address,
            present,
            placed,
        })
    }
}

/// What a node's settings say about its slots.
pub fn slots(settings: &Settings) -> Vec<Slot> {
    let devices = settings.storage.devices.iter();
    devices.map(|device| Slot { device: device.name.clone(), path: device.path.clone() }).collect()
}

/// Weights of devices: the GiB of their file systems, in thousandths; devices on one share it.
pub fn weights(slots: &[Slot]) -> Result<Vec<u64>> {
    use std::os::unix::fs::MetadataExt;
    let look = |slot: &Slot| {
        let path = &slot.path;
        let at = || format!("device {} at {}", slot.device, path.display());
        let room = rustix::fs::statvfs(path).with_context(at)?;
        Ok((std::fs::metadata(path).with_context(at)?.dev(), room.f_blocks * room.f_frsize))
    };
    let looked: Vec<(u64, u64)> = slots.iter().map(look).collect::<Result<_>>()?;
    let share = |&(system, bytes): &(u64, u64)| {
        let sharing = looked.iter().filter(|(other, _)| *other == system).count() as u64;
        ((bytes / sharing * 1000) >> 30).max(1)
    };
    Ok(looked.iter().map(share).collect())
}

/// Port 0 means a free one the first time, and the same one later: the others know it.
async fn bind(listen: SocketAddr, known: Option<SocketAddr>) -> Result<TcpListener> {
    if let Some(known) =
        known.filter(|known| listen.port() == 0 && known.port() != 0 && known.ip() == listen.ip())
        && let Ok(listener) = TcpListener::bind(known).await
    {
        return Ok(listener);
    }
    TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen} for the cluster"))
}

/// What this machine tells operators.
struct MachineReport {
    credentials: Arc<Credentials>,
    node: Arc<Node>,
    jobs: Arc<Jobs>,
    placed: Placed,
}

/// Epoch of the map whose rings the devices go by.
type Placed = Arc<AtomicU64>;

impl Report for MachineReport {
    fn certificate_expires(&self) -> i64 {
        let read = NodeCertificate::read(&self.credentials.certificate());
        read.map_or(0, |read| read.expires.unix_timestamp())
    }

    fn version(&self) -> String {
        crate::VERSION.to_owned()
    }

    fn placed(&self) -> Epoch {
        Epoch(self.placed.load(Ordering::Acquire))
    }

    fn devices(&self) -> Vec<DeviceRoom> {
        let room = |device: kodiak_storage_node::DeviceStatus| DeviceRoom {
            name: device.name,
            available: device.available,
            total: device.total,
            failed: device.failed,
            missing: device.missing,
        };
        self.node.status().into_iter().map(room).collect()
    }

    fn jobs(&self) -> Vec<JobStatus> {
        self.jobs.statuses()
    }

    fn holdings(&self) -> Result<Vec<Holding>, String> {
        self.node.holdings().map_err(|error| error.to_string())
    }
}

/// A member that is about to serve.
pub struct Enlisted {
    home: Home,
    membership: Arc<Membership>,
    node: Arc<Node>,
    credentials: Arc<Credentials>,
    own: NodeKey,
    key: PlacementKey,
    remotes: Remotes,
    server: Arc<Server>,
    listener: TcpListener,
    /// Where it serves the others.
    pub address: SocketAddr,
    present: Change,
    placed: Placed,
}

impl Enlisted {
    /// The rings of the newest map, and the nodes in them.
    pub async fn placement(&self) -> Result<(Placement, Nodes)> {
        let map = self.membership.map();
        let placement = placement(&map, self.key.clone())?;
        let adopt = async || assignments::adopt(&self.node, self.membership.name(), &placement);
        self.remotes.gate().adopt(map.epoch.0, adopt).await?;
        self.placed.store(map.epoch.0, Ordering::Release);
        Ok((placement, self.remotes.nodes(map.epoch.0, &map.members)))
    }

    /// Serves the other members. Returns once this machine is known to them, or after some seconds: who does not
    /// answer does not hinder a start.
    ///
    /// # Errors
    /// When a member refuses this process.
    pub async fn serve(self, store: Arc<Store>, stop: watch::Receiver<bool>) -> Result<Serving> {
        let Enlisted {
            home,
            membership,
            node,
            credentials,
            own,
            key,
            remotes,
            server,
            listener,
            address,
            present,
            placed,
        } = self;
        let server = tokio::spawn(server.run(listener, stop));
        // A copy of a machine that runs must not serve clients.
        membership.announce_start(address).await?;
        match tokio::time::timeout(FIRST_PRESENT, membership.request(&present)).await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => tracing::warn!(%refusal, "the cluster does not know this start yet"),
            Err(_) => tracing::warn!("the cluster does not know this start yet: it does not answer in time"),
        }
        let serving = Serving {
            home,
            membership,
            node,
            credentials,
            own,
            key,
            remotes,
            store,
            server,
            present,
            placed,
        };
        serving.place().await;
        Ok(serving)
    }
}

/// A member that serves.
pub struct Serving {
    home: Home,
    membership: Arc<Membership>,
    node: Arc<Node>,
    credentials: Arc<Credentials>,
    own: NodeKey,
    key: PlacementKey,
    remotes: Remotes,
    store: Arc<Store>,
    server: JoinHandle<()>,
    present: Change,
    placed: Placed,
}

impl Serving {
    /// Keeps up with the others until a member refuses this process.
    pub async fn keep_up(&self) -> Refusal {
        let keeping = self.membership.clone().keep_up(self.present.clone());
        tokio::select! {
            refusal = keeping => refusal,
            () = self.follow() => Refusal::Failed("the membership ended".into()),
            () = self.renew() => Refusal::Failed("the renewal of certificates ended".into()),
        }
    }

    /// Waits for calls of others that are under way, once the server was told to stop.
    pub async fn end(self) {
        // A panic was logged where it happened.
        let _ = self.server.await;
    }

    /// Gives the store the rings of the newest map.
    async fn place(&self) {
        let map = self.membership.map();
        match self.use_rings(&map).await {
            Ok(()) => tracing::info!(epoch = map.epoch.0, "rings of the newest map are used"),
            Err(error) => tracing::error!(epoch = map.epoch.0, %error, "the rings of the map cannot be used"),
        }
    }

    async fn use_rings(&self, map: &ClusterMap) -> Result<()> {
        let (epoch, gate) = (map.epoch.0, self.remotes.gate());
        if gate.epoch() == epoch {
            return Ok(());
        }
        let placement = placement(map, self.key.clone())?;
        let nodes = self.remotes.nodes(epoch, &map.members);
        let adopt = async || {
            assignments::adopt(&self.node, self.membership.name(), &placement)?;
            Ok::<(), anyhow::Error>(self.store.set_placement(placement.clone(), &nodes)?)
        };
        gate.adopt(epoch, adopt).await?;
        self.placed.store(epoch, Ordering::Release);
        Ok(())
    }

    /// Gives the store each newer map's rings.
    async fn follow(&self) {
        let mut maps = self.membership.watch();
        // The one before may have come between.
        maps.mark_changed();
        while maps.changed().await.is_ok() {
            maps.mark_unchanged();
            self.place().await;
        }
    }

    /// Renews the certificate when two thirds of its life are over.
    async fn renew(&self) {
        let mut ticks = tokio::time::interval(RENEWAL);
        loop {
            ticks.tick().await;
            let read = NodeCertificate::read(&self.credentials.certificate());
            if read.is_ok_and(|certificate| !certificate.due(std::time::SystemTime::now().into())) {
                continue;
            }
            let renewed = self.membership.renew(&self.own).map_err(anyhow::Error::from).and_then(|pem| {
                self.home.save_certificate(&pem)?;
                Ok(self.credentials.renew(&pem, &self.own.pem())?)
            });
            match renewed {
                Ok(()) => tracing::info!("this node's certificate is renewed"),
                Err(error) => tracing::error!(%error, "this node's certificate cannot be renewed"),
            }
        }
    }
}

/// The rings of a map.
pub fn placement(map: &ClusterMap, key: PlacementKey) -> Result<Placement, kodiak_ring::RingError> {
    let policy = |policy: &kodiak_cluster::Policy| {
        Ok(Policy {
            name: policy.name.clone(),
            deprecated: policy.deprecated,
            unmoved: policy.unmoved,
            ring: policy.ring.ring()?,
            protection: policy.protection,
            mode: policy.mode,
        })
    };
    Ok(Placement {
        key,
        accounts: map.accounts.ring()?,
        containers: map.containers.ring()?,
        objects: map.policies.iter().map(policy).collect::<Result<_, kodiak_ring::RingError>>()?,
        default_policy: PolicyIndex(map.default_policy),
    })
}

/// The map in a member's folder, as it was stored last.
pub fn stored_map(folder: &Path, node: &str) -> Result<Arc<ClusterMap>> {
    Ok(Home::new(folder).open(node)?.stored.register().map().clone())
}
