//! What a call to another machine costs: CPU time of both ends together, beside the same call in the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use kodiak_ring::PlacementKey;
use kodiak_storage_api::remote::{ClusterView, Party, RemoteNode, Settings, host_name};
use kodiak_storage_api::{
    Clock, DeviceIndex, DirectoryKey, Layout, ObjectKey, ObjectPath, ObjectRecord, ObjectWrite, PolicyIndex,
    Stamp, StorageNode, Version,
};
use kodiak_storage_node::{Server, ServerSettings};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::Serialize;
use tokio::sync::watch;

use super::volume::open;
use super::{FolderArgs, write_json};

/// Options.
#[derive(Args, Clone, Debug)]
pub struct RemoteArgs {
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Durable 4 KiB writes of each kind
    #[arg(long, default_value_t = 20_000)]
    pub writes: usize,
    /// Writes at once
    #[arg(long, default_value_t = 32)]
    pub writers: usize,
}

#[derive(Serialize)]
struct Figure {
    node: &'static str,
    writes_per_second: f64,
    cpu_microseconds_per_write: f64,
}

const CLUSTER: &str = "bench";
const BODY: usize = 4096;

struct View;

impl ClusterView for View {
    fn epoch(&self) -> u64 {
        0
    }
    fn newer(&self, _: &str, _: u64) {}
    fn admit(&self, _: &str, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Runs it.
pub fn main(args: &RemoteArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let folder = tempfile::tempdir_in(&args.folder.folder)?;
    let figures = runtime.block_on(measure(args, folder.path()))?;
    for Figure { node, writes_per_second, cpu_microseconds_per_write } in &figures {
        println!(
            "{node:<10} {writes_per_second:>9.0} writes/s {cpu_microseconds_per_write:>7.1} us CPU/write"
        );
    }
    write_json(args.folder.common.json.as_deref(), "remote", &figures)
}

async fn measure(args: &RemoteArgs, folder: &std::path::Path) -> anyhow::Result<Vec<Figure>> {
    let clock = Arc::new(Clock::system(1));
    let hash = PlacementKey::new([1; 32]).hash(b"a/c");
    let node = open(folder, clock.clone(), DirectoryKey { hash }).await?;
    let (client, server) = configs()?;
    let party = |name: &str| Party::new(CLUSTER, name, clock.clone(), Arc::new(View));
    let server = Server::new(node.clone(), party("n1"), &server, None, ServerSettings::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(server.run(listener, stopped));
    let remote = RemoteNode::new(party("n1"), "n1", &address, &client, Settings::default());
    let device = remote.device("d1").unwrap_or(DeviceIndex(0));
    let mut figures = Vec::new();
    // One after the other and again, so that neither has only the warm or the cold machine.
    for round in 0..2 {
        let nodes: [(&'static str, Arc<dyn StorageNode>); 2] =
            [("process", node.clone()), ("remote", remote.clone())];
        for (name, target) in nodes {
            figures.push(write(args, name, target, device, &clock, round).await?);
        }
    }
    stop.send_replace(true);
    serving.await?;
    tokio::task::spawn_blocking(move || node.shutdown()).await?;
    Ok(figures)
}

async fn write(
    args: &RemoteArgs,
    name: &'static str,
    node: Arc<dyn StorageNode>,
    device: DeviceIndex,
    clock: &Arc<Clock>,
    round: usize,
) -> anyhow::Result<Figure> {
    let (began, cpu) = (Instant::now(), cpu_time());
    let each = args.writes / args.writers;
    let tasks: Vec<_> = (0..args.writers)
        .map(|writer| {
            let (node, clock) = (node.clone(), clock.clone());
            tokio::spawn(async move {
                let body = Bytes::from(vec![7; BODY]);
                for number in 0..each {
                    let path = ObjectPath::new("a", "c", &format!("{name}-{round}-{writer}-{number}"));
                    node.write_object(device, object(path, &clock, body.clone())).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let writes = (each * args.writers) as f64;
    let cpu_microseconds_per_write = (cpu_time() - cpu).as_secs_f64() * 1e6 / writes;
    Ok(Figure {
        node: name,
        writes_per_second: writes / began.elapsed().as_secs_f64(),
        cpu_microseconds_per_write,
    })
}

fn object(path: ObjectPath, clock: &Clock, body: Bytes) -> ObjectWrite {
    let hash = PlacementKey::new([1; 32]).hash(path.as_str().as_bytes());
    let timestamp = clock.now();
    let record = ObjectRecord {
        timestamp,
        size: body.len() as u64,
        etag: "d41d8cd98f00b204e9800998ecf8427e".into(),
        content_type: "application/octet-stream".into(),
        headers: Vec::new(),
        listing: Vec::new(),
        expires_at: None,
        layout: Layout::Inline,
    };
    let key = ObjectKey { policy: PolicyIndex(0), hash };
    let (version, stamp) = (Version::Live(record), Stamp::first(timestamp));
    ObjectWrite { key, path, version, stamp, expect: None, inline: vec![body], row: None }
}

fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// One certificate for both ends.
fn configs() -> anyhow::Result<(ClientConfig, ServerConfig)> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let mut roots = RootCertStore::empty();
    roots.add(authority.self_signed(&key)?.der().clone())?;
    let (roots, issuer) = (Arc::new(roots), Issuer::new(authority, key));
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![host_name("n1", CLUSTER)])?.signed_by(&key, &issuer)?;
    let chain = vec![certificate.der().clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(default_provider());
    let versions = &[&rustls::version::TLS13];
    let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
    let client =
        client.with_root_certificates(roots.clone()).with_client_auth_cert(chain.clone(), key.clone_key())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    Ok((client, server.with_client_cert_verifier(verifier).with_single_cert(chain, key)?))
}
