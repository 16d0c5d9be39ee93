//! Wires a configuration together and serves it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kodiak_auth::{FixedUsers, TokenLife};
use kodiak_proxy::s3::S3Front;
use kodiak_proxy::server::{self, Fronts};
use kodiak_proxy::store::{Nodes, Placement, Store};
use kodiak_proxy::swift::SwiftFront;
use kodiak_ring::{PlacementKey, PolicyIndex, Ring};
use kodiak_storage_api::jobs::Jobs;
use kodiak_storage_api::{Clock, Policy, StorageNode};
use kodiak_storage_node::Node;
use kodiak_storage_node::repair::{CurrentMap, Repairer, audit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::endpoints::{Endpoints, S3, Swift};
use crate::member::{self, Enlisted, Machine, Serving};
use crate::metrics;
use crate::settings::Settings;

/// Number of the clock of a store that is no member of a cluster.
const CLOCK: u32 = 1;
/// Threads that wait for disks and hash at once. More would only queue elsewhere.
const BLOCKING_THREADS: usize = 64;

/// Serves until SIGTERM or SIGINT. `healthy` is called once everything answers.
pub fn serve(settings: Settings, healthy: impl FnOnce(&Endpoints) -> Result<()>) -> Result<()> {
    log();
    raise_file_limit();
    let recorder = metrics::install()?;
    let machine = Machine::open(&settings)?;
    let clock = machine.as_ref().map_or(Ok(CLOCK), Machine::clock)?;
    let clock = Arc::new(Clock::system(clock));
    let node = Node::open(settings.storage.clone(), clock.clone()).context("cannot open the storage")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start threads")?;
    let opened = node.clone();
    let served = runtime.block_on(async move {
        let (stop, stopped) = watch::channel(false);
        let jobs = Jobs::new(clock.clone());
        let (store, member) = open(&settings, machine, opened.clone(), (clock, &jobs)).await?;
        let address = member.as_ref().map(|member| member.address);
        let member = match member {
            Some(member) => Some(member.serve(store.clone(), stopped.clone()).await?),
            None => None,
        };
        let users = Arc::new(FixedUsers::new(
            &settings.users,
            TokenLife(Duration::from_secs(settings.proxy.token_life)),
        ));
        let fronts = Fronts {
            swift: SwiftFront::new(store.clone(), users.clone(), settings.proxy.swift.clone()),
            s3: S3Front::new(store.clone(), users, settings.proxy.s3.clone()),
        };
        let listener = bind(settings.proxy.listen).await?;
        let mut endpoints = endpoints(&settings, listener.local_addr()?)?;
        endpoints.cluster = address;
        if let Some(address) = settings.metrics.listen {
            let listener = bind(address).await?;
            endpoints.metrics = Some(format!("http://{}/metrics", listener.local_addr()?));
            tokio::spawn(metrics::serve(listener, recorder, opened.clone(), jobs.clone()));
        }
        let own: Arc<dyn StorageNode> = opened.clone();
        store.set_write_affinity(settings.proxy.write_affinity.clone());
        store.set_reaper(settings.proxy.reaper.clone());
        if settings.proxy.listing_rows > 0 {
            store.set_split_rows(settings.proxy.listing_rows);
        }
        let rate = settings.storage.repair.queue_rate;
        store.run_workers(&own, &opened.local_devices(), (&jobs, rate), &stopped);
        if member.is_some() {
            repair(&settings, &opened, (&store, &jobs), &stopped);
        }
        let serving = tokio::spawn(server::serve(listener, fronts, settings.proxy.server.clone(), stopped));
        // Whoever knows that it is healthy may stop it.
        let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        healthy(&endpoints)?;
        tracing::info!(s3 = endpoints.s3.url, swift = endpoints.swift.auth_url, "serving");
        let ended = until_told(signals, member.as_ref()).await;
        tracing::info!("stopping");
        stop.send_replace(true);
        serving.await.context("the server broke")?;
        if let Some(member) = member {
            member.end().await;
        }
        ended
    });
    // What was acknowledged is durable already; this makes the next start quick.
    runtime.shutdown_timeout(Duration::from_secs(1));
    node.shutdown();
    served
}

/// Brings the replicas on this machine's devices together with the others, and looks for damage.
fn repair(
    settings: &Settings,
    node: &Arc<Node>,
    (store, jobs): (&Arc<Store>, &Arc<Jobs>),
    stopped: &watch::Receiver<bool>,
) {
    let repair = settings.storage.repair.clone();
    let (own, devices): (Arc<dyn StorageNode>, _) = (node.clone(), node.local_devices());
    store.run_garbage_collection(&own, &devices, (jobs, repair.garbage_rate), stopped);
    audit::run(node, devices.clone().into_iter(), repair.audit_rate, jobs, stopped);
    let (of, clock) = (store.clone(), store.shared_clock());
    let map: CurrentMap = Arc::new(move || of.current_map());
    let repairer = Repairer::new(repair, &settings.cluster.node, map, clock, jobs.clone());
    repairer.run(devices.into_iter(), stopped);
}

/// Opens the store: over this machine's node alone, or over those of a cluster.
async fn open(
    settings: &Settings,
    machine: Option<Machine>,
    node: Arc<Node>,
    (clock, jobs): (Arc<Clock>, &Arc<Jobs>),
) -> Result<(Arc<Store>, Option<Enlisted>)> {
    if let Some(machine) = machine {
        let member = machine.enlist((node, jobs.clone()), clock.clone(), key(settings)?).await?;
        let (placement, nodes) = member.placement().await?;
        return Ok((Store::new(placement, &nodes, clock)?, Some(member)));
    }
    let name = settings.cluster.node.clone();
    let nodes: Nodes = [(name, node.clone() as Arc<dyn StorageNode>)].into_iter().collect();
    let store = Store::new(placement(settings)?, &nodes, clock)?;
    // Every record is on this node: the rings name no other.
    node.sweep_orphans().context("cannot start the sweeper")?;
    Ok((store, None))
}

/// Until a signal comes, or the cluster refuses this process.
async fn until_told(
    (mut terminate, mut interrupt): (Signal, Signal),
    member: Option<&Serving>,
) -> Result<()> {
    let refused = async {
        match member {
            Some(member) => member.keep_up().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        refusal = refused => Err(refusal.into()),
    }
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

fn endpoints(settings: &Settings, address: std::net::SocketAddr) -> Result<Endpoints> {
    let Some(user) = settings.users.first() else { bail!("the configuration has no user") };
    let url = format!("{}://{address}", settings.proxy.swift.scheme);
    let name = format!("{}:{}", user.account, user.name);
    let key = user.key.expose().to_owned();
    Ok(Endpoints {
        swift: Swift { auth_url: format!("{url}/auth/v1.0"), user: name.clone(), key: key.clone() },
        s3: S3 {
            url,
            access_key: user.access_key.clone().unwrap_or(name),
            secret_key: key,
            region: settings.proxy.s3.region.clone(),
        },
        metrics: None,
        cluster: None,
        pid: std::process::id(),
    })
}

/// Reads the rings and the placement key.
pub fn placement(settings: &Settings) -> Result<Placement> {
    let cluster = &settings.cluster;
    if let Some(folder) = &cluster.folder {
        let map = member::stored_map(folder, &cluster.node)?;
        return Ok(member::placement(&map, key(settings)?)?);
    }
    let ring =
        |path: &Path| Ring::load(path).with_context(|| format!("cannot use the ring {}", path.display()));
    let named = |path: &Option<PathBuf>, name: &str| {
        ring(path.as_ref().with_context(|| format!("cluster.{name} is missing in the configuration"))?)
    };
    Ok(Placement {
        key: key(settings)?,
        accounts: named(&cluster.account_ring, "account_ring")?,
        containers: named(&cluster.container_ring, "container_ring")?,
        objects: (cluster.object_rings.iter().zip(&settings.proxy.swift.policies).enumerate())
            .map(|(index, (path, name))| {
                let protection = cluster.protection.get(index).copied().unwrap_or_default();
                let mode = cluster.mode.get(index).copied().unwrap_or_default();
                let policy = Policy { name: name.clone(), mode, ..Policy::new(ring(path)?, protection) };
                policy.check().with_context(|| format!("the ring {}", path.display()))?;
                Ok(policy)
            })
            .collect::<Result<_>>()?,
        default_policy: PolicyIndex(0),
    })
}

fn key(settings: &Settings) -> Result<PlacementKey> {
    let path = &settings.cluster.placement_key;
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key)
        .with_context(|| format!("{} does not hold 64 hex digits", path.display()))?;
    Ok(PlacementKey::new(key))
}

/// Logs to standard error; `KODIAK_LOG` filters. Each request is a line of `kodiak::access`.
fn log() {
    let filter =
        EnvFilter::try_from_env("KODIAK_LOG").unwrap_or_else(|_| EnvFilter::new("info,kodiak::access=off"));
    // Where standard error is closed, the complaint about that would go there too, and panic.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    // Somebody who embeds this has set up their own.
    let _ = subscriber.try_init();
}

/// Ten thousand connections need as many file descriptors.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files stays low");
    }
}
