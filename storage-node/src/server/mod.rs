//! Serves a storage node to other machines of the cluster, over mutual TLS.
//!
//! In the order a call meets them: [`Server::run`] accepts, `connection` shakes hands and finds out whose
//! certificate it is, `messages` reads calls, or `answer` HTTP requests, which it sends where their path says, and
//! `perform` calls the node. More services share the port through [`Extension`].
//!
//! Everything has a bound: connections, calls under way, bytes and time of a call, time without a head. A call too
//! many is refused before its bytes are read.

mod answer;
mod connection;
mod messages;
mod perform;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::body::Incoming;
use hyper_util::server::graceful::GracefulShutdown;
use kodiak_storage_api::remote::{ALPN_GRPC, Carries, Party};
use kodiak_storage_api::{Said, StorageNode};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

pub use tonic::body::Body;

/// What ends with the server is given so long to end.
const GRACE: Duration = Duration::from_secs(10);
/// After an accept that failed: the process is out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Bounds of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerSettings {
    /// Connections at once; more are closed. Default 4096.
    pub connections: usize,
    /// Connections at once of callers without a certificate; more are closed. Default 64.
    pub strangers: usize,
    /// Messages at once of one connection. Default 1024.
    pub streams: usize,
    /// Calls that are served at once; more are refused as overload. Default 2048.
    pub calls: usize,
    /// Time for a request to come in whole. Default 15 s.
    pub receive: Duration,
    /// Time for TLS, and for a head that has begun. Default 5 s.
    pub handshake: Duration,
    /// Longest that a call may take, whatever its caller says. Default 60 s.
    pub longest: Duration,
}

impl Default for ServerSettings {
    fn default() -> ServerSettings {
        ServerSettings {
            connections: 4096,
            strangers: 64,
            streams: 1024,
            calls: 2048,
            receive: Duration::from_secs(15),
            handshake: Duration::from_secs(5),
            longest: Duration::from_secs(60),
        }
    }
}

/// Another service on the same port, over HTTP/2.
#[async_trait]
pub trait Extension: Send + Sync + 'static {
    /// Answers a request. The certificate has been checked by TLS; there is
    /// none if the configuration lets callers in without.
    async fn answer(
        &self,
        certificate: Option<&CertificateDer<'static>>,
        request: http::Request<Incoming>,
    ) -> http::Response<Body>;
}

/// A storage node as other machines see it.
pub struct Server {
    node: Arc<dyn StorageNode>,
    party: Arc<Party>,
    acceptor: TlsAcceptor,
    extension: Option<Arc<dyn Extension>>,
    settings: ServerSettings,
    calls: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// Whom it has refused, by name or address.
    said: Said<String>,
}

impl Server {
    /// Serves `node` as `party`. `config` has this node's certificate and asks callers for theirs; one that admits
    /// callers without lets them reach the extension only.
    pub fn new(
        node: Arc<dyn StorageNode>,
        party: Arc<Party>,
        config: &ServerConfig,
        extension: Option<Arc<dyn Extension>>,
        settings: ServerSettings,
    ) -> Arc<Server> {
        let mut config = config.clone();
        let versions = party.versions();
        let offered = [versions.offered(Carries::Messages), versions.offered(Carries::Blocks)];
        config.alpn_protocols = offered.concat();
        config.alpn_protocols.push(ALPN_GRPC.to_vec());
        // A resumed session would not look at the certificates again.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let calls = Arc::new(Semaphore::new(settings.calls));
        let strangers = Arc::new(Semaphore::new(settings.strangers));
        let said = Said::default();
        Arc::new(Server { node, party, acceptor, extension, settings, calls, strangers, said })
    }

    /// Serves until it is told to stop; calls that are under way then are answered.
    pub async fn run(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let room = Arc::new(Semaphore::new(self.settings.connections));
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = room.clone().try_acquire_owned() else {
                tracing::warn!(%address, limit = self.settings.connections, "too many connections of nodes");
                continue;
            };
            let (server, watcher, stop) = (self.clone(), graceful.watcher(), stop.clone());
            tokio::spawn(async move {
                server.connection(stream, address, watcher, stop).await;
                drop(permit);
            });
        }
        drop(listener);
        let ended = async {
            graceful.shutdown().await;
            let _ = room.acquire_many(self.settings.connections as u32).await;
        };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            tracing::warn!("calls of other nodes were still under way at the end");
        }
    }
}
