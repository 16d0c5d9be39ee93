//! Messages over gRPC: one method, [`PATH`], on a member's cluster port. Whoever serves the port hands its requests to
//! [`answer`].
//!
//! A connection to a member is kept and carries many calls at once; a machine that joins has one for its only call.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::uri::{PathAndQuery, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::certificates::host_name;
use crate::codec::Postcard;
use crate::message::CallError;
use crate::{
    Caller, ClusterId, JoinToken, KeyDigest, Membership, NodeCertificate, Peer, Peers, Refusal, Request,
    Response,
};

/// The method that all messages are calls of.
pub const PATH: &str = "/kodiak.Cluster/Call";
/// The protocol of the connections, in TLS.
pub const ALPN: &[u8] = b"h2";
/// Time for connecting and TLS.
const CONNECT: Duration = Duration::from_secs(2);
/// Time for an answer from one member.
const ANSWER: Duration = Duration::from_secs(5);
/// Time for an answer that needs a majority.
const MAJORITY: Duration = Duration::from_secs(30);
/// A connection is used for so long, and then made anew: certificates are looked at when one is made.
const KEPT: Duration = Duration::from_secs(3600);
/// Most bytes of a message: a map with several rings of the most partitions.
const MAX_MESSAGE: usize = 1 << 30;
/// Most bytes from a caller without a certificate.
const MAX_JOIN: usize = 64 << 10;

/// Calls members over TLS.
pub struct TlsPeers {
    cluster: ClusterId,
    config: Arc<ClientConfig>,
    kept: Mutex<HashMap<SocketAddr, Connection>>,
}

impl TlsPeers {
    /// Calls members of a cluster with this node's certificate.
    pub fn new(cluster: ClusterId, config: Arc<ClientConfig>) -> Arc<TlsPeers> {
        Arc::new(TlsPeers { cluster, config, kept: Mutex::default() })
    }

    /// A connection that can be used, and is to this peer.
    fn kept(&self, peer: &Peer) -> Option<Connection> {
        let mut kept = self.kept.lock();
        let usable = |connection: &Connection| {
            connection.since.elapsed() < KEPT && !connection.sender.is_closed() && connection.is_to(peer)
        };
        kept.retain(|address, connection| *address != peer.address || usable(connection));
        kept.get(&peer.address).cloned()
    }

    async fn exchange(&self, peer: &Peer, request: Request) -> Result<Response, CallError> {
        let connection = match self.kept(peer) {
            Some(connection) => connection,
            None => {
                let connection = connect(&self.config, self.cluster, peer).await?;
                self.kept.lock().insert(peer.address, connection.clone());
                connection
            }
        };
        connection.call(request).await
    }
}

#[async_trait]
impl Peers for TlsPeers {
    async fn call(&self, peer: &Peer, request: Request) -> Result<Response, CallError> {
        let answer = in_time(peer, patience(&request), self.exchange(peer, request)).await;
        if answer.is_err() {
            // Whatever it was, the next call begins with a new connection.
            self.kept.lock().remove(&peer.address);
        }
        answer
    }
}

/// Sends a join request to the first member of the token that can be reached.
///
/// # Errors
/// When none can be, or the one that was reached is not of the token's cluster.
pub async fn join(
    config: Arc<ClientConfig>,
    token: &JoinToken,
    request: Request,
) -> Result<Response, CallError> {
    let mut failures = Vec::new();
    for (name, address) in &token.members {
        let peer = Peer { name: name.clone(), address: *address, key: None };
        let request = request.clone();
        let exchange = async { connect(&config, token.cluster, &peer).await?.call(request).await };
        match in_time(&peer, MAJORITY, exchange).await {
            Ok(response) => return Ok(response),
            Err(CallError(error)) => failures.push(format!("{name} at {address}: {error}")),
        }
    }
    Err(CallError(failures.join("; ")))
}

fn patience(request: &Request) -> Duration {
    match request {
        Request::Change(_) | Request::Join(_) => MAJORITY,
        _ => ANSWER,
    }
}

async fn in_time(
    peer: &Peer,
    patience: Duration,
    exchange: impl Future<Output = Result<Response, CallError>>,
) -> Result<Response, CallError> {
    let late = |_| CallError(format!("no answer from {} within {} s", peer.address, patience.as_secs()));
    timeout(patience, exchange).await.map_err(late)?
}

fn failed(error: impl std::fmt::Display) -> CallError {
    CallError(error.to_string())
}

/// A connection to a member.
#[derive(Clone)]
struct Connection {
    sender: SendRequest<Body>,
    /// Whose it is by the certificate that was shown.
    node: String,
    key: Option<KeyDigest>,
    since: Instant,
}

async fn connect(
    config: &Arc<ClientConfig>,
    cluster: ClusterId,
    peer: &Peer,
) -> Result<Connection, CallError> {
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = vec![ALPN.to_vec()];
    let connect = async {
        let stream = TcpStream::connect(peer.address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let host = ServerName::try_from(host_name(cluster, &peer.name)).map_err(failed)?;
        TlsConnector::from(Arc::new(config)).connect(host, stream).await.map_err(|error| explained(&error))
    };
    let late = |_| CallError(format!("{} cannot be reached within {} s", peer.address, CONNECT.as_secs()));
    let stream = timeout(CONNECT, connect).await.map_err(late)??;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let key = shown.and_then(|der| NodeCertificate::read(der).ok()).map(|certificate| certificate.key);
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(ANSWER)
        .keep_alive_timeout(ANSWER)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(|error| explained(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a member lost");
        }
    });
    let connection = Connection { sender, node: peer.name.clone(), key, since: Instant::now() };
    // Whoever has the authority's key could sign in any name: the map knows the member's key.
    if connection.is_to(peer) {
        return Ok(connection);
    }
    Err(CallError(format!("who answers at {} is not {}: its key is another one", peer.address, peer.name)))
}

impl Connection {
    fn is_to(&self, peer: &Peer) -> bool {
        self.node == peer.name && (peer.key.is_none() || self.key == peer.key)
    }

    async fn call(self, request: Request) -> Result<Response, CallError> {
        let mut client = tonic::client::Grpc::with_origin(self, Uri::from_static("https://kodiak"))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        client.ready().await.map_err(|error| explained(&error))?;
        let path = PathAndQuery::from_static(PATH);
        let codec = Postcard::<Request, Response>::default();
        let answer = client.unary(tonic::Request::new(request), path, codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| explained(&status))
    }
}

impl tonic::client::GrpcService<Body> for Connection {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = hyper::Result<http::Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

/// An error with its causes, and what those of TLS mean.
fn explained(error: &(dyn std::error::Error + 'static)) -> CallError {
    let mut text = match error.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    let hint = if text.contains("UnknownIssuer") || text.contains("UnknownCA") {
        " (the certificate is of another cluster's authority: is this the right address, and the right token?)"
    } else if text.contains("Expired") {
        " (a certificate has expired: is a clock wrong? `kodiak up` renews this node's own)"
    } else if text.contains("NotValidForName") {
        " (another node answers there)"
    } else {
        ""
    };
    CallError(format!("{text}{hint}"))
}

/// Answers one request of a caller with this certificate, which TLS has checked.
pub async fn answer(
    membership: &Arc<Membership>,
    certificate: Option<&CertificateDer<'static>>,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
    if request.uri().path() != PATH {
        return Status::unimplemented(format!("members call {PATH}")).into_http();
    }
    let caller = membership.identify(certificate.map(|der| der.as_ref()));
    let limit = if matches!(caller, Ok(Caller::Member(_))) { MAX_MESSAGE } else { MAX_JOIN };
    let asked = Asked { membership: membership.clone(), caller };
    let mut server = tonic::server::Grpc::new(Postcard::<Response, Request>::default())
        .max_decoding_message_size(limit)
        .max_encoding_message_size(MAX_MESSAGE);
    let answered = timeout(MAJORITY + ANSWER, server.unary(asked, request)).await;
    answered.unwrap_or_else(|_| Status::new(Code::DeadlineExceeded, "the request is too slow").into_http())
}

/// A request whose message is about to be read.
struct Asked {
    membership: Arc<Membership>,
    caller: Result<Caller, Refusal>,
}

impl tonic::server::UnaryService<Request> for Asked {
    type Response = Response;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<tonic::Response<Response>, Status>> + Send + 'static>>;

    fn call(&mut self, request: tonic::Request<Request>) -> Self::Future {
        let (membership, caller) = (self.membership.clone(), self.caller.clone());
        Box::pin(async move {
            let response = match caller {
                Ok(caller) => membership.handle(caller, request.into_inner()).await,
                Err(refusal) => {
                    if membership.refuses(&refusal) {
                        tracing::warn!(%refusal, "cluster calls are refused");
                    }
                    Response::Refused(refusal)
                }
            };
            Ok(tonic::Response::new(response))
        })
    }
}
