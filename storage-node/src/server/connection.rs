//! One connection: TLS, whose it is, and which protocol it speaks.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use kodiak_storage_api::Said;
use kodiak_storage_api::remote::{ALPN_GRPC, Carries, Identity, Party, Socket, identify, socket};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::Server;

/// A connection for blocks that is idle is closed after this; callers do it before.
const IDLE: Duration = Duration::from_secs(60);
/// A caller over HTTP/2 that is silent for so long is asked whether it is there, and has as long to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Calls at once of such a connection.
const STREAMS: u32 = 64;
/// As long as it likes.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Whose connection it is.
pub(super) struct Caller {
    pub certificate: Option<CertificateDer<'static>>,
    identity: Result<Identity, String>,
    /// The epoch of the map by which it was admitted, or refused and why.
    admitted: Mutex<Option<(u64, Result<(), String>)>>,
}

impl Caller {
    fn new(certificate: Option<CertificateDer<'static>>, party: &Party) -> Caller {
        let missing = || "it shows no certificate".to_owned();
        let identity =
            certificate.as_ref().ok_or_else(missing).and_then(|der| identify(der, party.cluster()));
        Caller { certificate, identity, admitted: Mutex::default() }
    }

    /// The caller's name, if it is a member by the newest map that this node has.
    pub fn member(&self, party: &Party, said: &Said<String>) -> Result<&str, String> {
        let identity = self.identity.as_ref().map_err(|why| format!("the caller is no node: {why}"))?;
        let epoch = party.view().epoch();
        let mut admitted = self.admitted.lock();
        if admitted.as_ref().is_none_or(|(at, _)| *at != epoch) {
            let asked = party.view().admit(&identity.node, &identity.certificate);
            if let Err(why) = &asked
                && said.is_news(identity.node.clone(), why)
            {
                tracing::warn!(node = identity.node, why, "a node that is no member calls");
            }
            *admitted = Some((epoch, asked));
        }
        match &*admitted {
            Some((_, Err(why))) => Err(format!("{} is not admitted: {why}", identity.node)),
            _ => Ok(&identity.node),
        }
    }
}

impl Server {
    pub(super) async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        watcher: Watcher,
        stop: watch::Receiver<bool>,
    ) {
        let Ok(stream) = socket(stream) else { return };
        let stream = match timeout(self.settings.handshake, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                // Whoever is refused comes again and again, each time from another port.
                if self.said.is_news(address.ip().to_string(), &error) {
                    tracing::warn!(%address, %error, "connections are refused");
                }
                return;
            }
            Err(_) => return tracing::debug!(%address, "no TLS handshake in time"),
        };
        let (_, session) = stream.get_ref();
        let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
        let agreed = protocol.as_deref().and_then(|protocol| self.party.versions().agreed(protocol));
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let (_room, longest) = match certificate {
            Some(_) => (None, FOREVER),
            // Members must get through whatever those do that anybody can be.
            None => match self.strangers.clone().try_acquire_owned() {
                Ok(room) => (Some(room), self.settings.longest),
                Err(_) => return tracing::warn!(%address, "too many callers without a certificate"),
            },
        };
        let caller = Arc::new(Caller::new(certificate.map(|der| der.clone().into_owned()), &self.party));
        let served = timeout(longest, async {
            match agreed {
                Some((Carries::Messages, _)) if caller.certificate.is_none() => {
                    Err("it shows no certificate".to_owned())
                }
                Some((Carries::Messages, _)) => {
                    self.messages(caller, stream, stop).await.map_err(|error| error.to_string())
                }
                None if protocol.as_deref() == Some(ALPN_GRPC) => {
                    self.grpc(caller, stream, watcher).await.map_err(|error| error.to_string())
                }
                Some((Carries::Blocks, _)) | None => {
                    self.blocks(caller, stream, watcher).await.map_err(|error| error.to_string())
                }
            }
        });
        if let Ok(Err(error)) = served.await {
            tracing::debug!(%address, error, "connection of a node ended");
        }
    }

    async fn blocks(
        self: Arc<Self>,
        caller: Arc<Caller>,
        stream: TlsStream<Socket>,
        watcher: Watcher,
    ) -> hyper::Result<()> {
        let idle = if caller.certificate.is_some() { IDLE } else { self.settings.handshake };
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (server, caller) = (self.clone(), caller.clone());
            async move { Ok::<_, Infallible>(server.answer(caller, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle)
            .serve_connection(TokioIo::new(stream), service);
        watcher.watch(connection).await
    }

    async fn grpc(
        self: Arc<Self>,
        caller: Arc<Caller>,
        stream: TlsStream<Socket>,
        watcher: Watcher,
    ) -> hyper::Result<()> {
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (server, caller) = (self.clone(), caller.clone());
            async move { Ok::<_, Infallible>(server.extend(caller, request).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .serve_connection(TokioIo::new(stream), service);
        watcher.watch(connection).await
    }
}
