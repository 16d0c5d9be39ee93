//! Messages over TLS: a request is the body of `POST /cluster` on a member's cluster port, its response that of
//! the answer. Whoever serves the port hands such requests to [`answer`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certificates::host_name;
use crate::message::CallError;
use crate::{
    Caller, ClusterId, JoinToken, Membership, NodeCertificate, Peer, Peers, Refusal, Request, Response,
};

/// Where messages are posted to.
pub const PATH: &str = "/cluster";
/// Time for connecting and TLS.
const CONNECT: Duration = Duration::from_secs(2);
/// Time for an answer from one member.
const ANSWER: Duration = Duration::from_secs(5);
/// Time for an answer that needs a majority.
const MAJORITY: Duration = Duration::from_secs(30);
/// Most bytes of a message: a map with several rings of the most partitions.
const MAX_MESSAGE: usize = 1 << 30;
/// Most bytes from a caller without a certificate.
const MAX_JOIN: usize = 64 << 10;

/// Calls members over TLS.
pub struct TlsPeers {
    cluster: ClusterId,
    config: Arc<ClientConfig>,
}

impl TlsPeers {
    /// Calls members of a cluster with this node's certificate.
    pub fn new(cluster: ClusterId, config: Arc<ClientConfig>) -> Arc<TlsPeers> {
        Arc::new(TlsPeers { cluster, config })
    }
}

#[async_trait]
impl Peers for TlsPeers {
    async fn call(&self, peer: &Peer, request: Request) -> Result<Response, CallError> {
        call(&self.config, self.cluster, peer, request).await
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
        match call(&config, token.cluster, &peer, request.clone()).await {
            Ok(response) => return Ok(response),
            Err(CallError(error)) => failures.push(format!("{name} at {address}: {error}")),
        }
    }
    Err(CallError(failures.join("; ")))
}

async fn call(
    config: &Arc<ClientConfig>,
    cluster: ClusterId,
    peer: &Peer,
    request: Request,
) -> Result<Response, CallError> {
    let patience = match request {
        Request::Change(_) | Request::Join(_) => MAJORITY,
        _ => ANSWER,
    };
    let late = |_| CallError(format!("no answer from {} within {} s", peer.address, patience.as_secs()));
    tokio::time::timeout(patience, exchange(config, cluster, peer, request)).await.map_err(late)?
}

fn failed(error: impl std::fmt::Display) -> CallError {
    CallError(error.to_string())
}

async fn exchange(
    config: &Arc<ClientConfig>,
    cluster: ClusterId,
    peer: &Peer,
    request: Request,
) -> Result<Response, CallError> {
    let connect = async {
        let stream = TcpStream::connect(peer.address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let host = ServerName::try_from(host_name(cluster, &peer.name)).map_err(failed)?;
        TlsConnector::from(config.clone()).connect(host, stream).await.map_err(tls_failed)
    };
    let late = |_| CallError(format!("{} cannot be reached within {} s", peer.address, CONNECT.as_secs()));
    let stream = tokio::time::timeout(CONNECT, connect).await.map_err(late)??;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let key = shown.and_then(|der| NodeCertificate::read(der).ok()).map(|certificate| certificate.key);
    // Whoever has the authority's key could sign in any name: the map knows the member's key.
    if peer.key.is_some() && key != peer.key {
        return Err(CallError(format!(
            "who answers at {} is not {}: its key is another one",
            peer.address, peer.name
        )));
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let body = postcard::to_stdvec(&request).map_err(failed)?;
    let request = hyper::Request::builder()
        .method(Method::POST)
        .uri(PATH)
        .header(hyper::header::HOST, "kodiak")
        .body(Full::new(Bytes::from(body)))
        .map_err(failed)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(tls_failed)?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), MAX_MESSAGE).collect().await.map_err(failed)?.to_bytes();
        match status {
            StatusCode::OK => postcard::from_bytes(&body).map_err(failed),
            status => Err(CallError(format!("{status}: {}", String::from_utf8_lossy(&body)))),
        }
    };
    // The connection moves only while it is polled; it ends with the call.
    tokio::select! {
        answered = answer => answered,
        Err(error) = connection => Err(tls_failed(error)),
    }
}

/// Says what a refusal of TLS means.
fn tls_failed(error: impl std::error::Error) -> CallError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
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
    request: hyper::Request<Incoming>,
) -> hyper::Response<Full<Bytes>> {
    let plain = |status, text: &str| {
        let mut response = hyper::Response::new(Full::new(Bytes::from(text.to_owned())));
        *response.status_mut() = status;
        response
    };
    if request.method() != Method::POST || request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "members call POST /cluster");
    }
    let caller = membership.identify(certificate.map(|der| der.as_ref()));
    let limit = if matches!(caller, Ok(Caller::Member(_))) { MAX_MESSAGE } else { MAX_JOIN };
    let body = tokio::time::timeout(ANSWER, Limited::new(request.into_body(), limit).collect()).await;
    let Ok(Ok(body)) = body else {
        return plain(StatusCode::BAD_REQUEST, "the request is too long or too slow");
    };
    let response = match (caller, postcard::from_bytes::<Request>(&body.to_bytes())) {
        (Ok(caller), Ok(request)) => membership.handle(caller, request).await,
        (Err(refusal), _) => {
            if membership.refuses(&refusal) {
                tracing::warn!(%refusal, "cluster calls are refused");
            }
            Response::Refused(refusal)
        }
        (Ok(_), Err(_)) => Response::Refused(Refusal::Failed(
            "the request makes no sense here: do all machines run the same version?".into(),
        )),
    };
    match postcard::to_stdvec(&response) {
        Ok(bytes) => hyper::Response::new(Full::new(bytes.into())),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
