//! Accepts connections, bounds them, and gives each request to the front it is for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use metrics::Counter;
use rand::Rng;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::http::{Front, RequestBody, RequestContext, ResponseBody, header};

/// Limits of the listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Connections at once; one more waits to be accepted. Default 20,000.
    pub max_connections: usize,
    /// Seconds in which a request's head must arrive, and that a kept connection may idle. Default 60.
    pub header_timeout: u64,
    /// Seconds after which a request whose body pauses is given up, and a connection whose client takes
    /// nothing of its answer. Default 60.
    pub body_timeout: u64,
    /// A request that takes this many milliseconds is logged. Default 1,000.
    pub slow_request_ms: u64,
    /// Seconds that requests under way get at a shutdown. Default 10.
    pub drain: u64,
}

impl Default for ServerSettings {
    fn default() -> ServerSettings {
        ServerSettings {
            max_connections: 20_000,
            header_timeout: 60,
            body_timeout: 60,
            slow_request_ms: 1_000,
            drain: 10,
        }
    }
}

/// Header lines of one request: Swift allows 90 of metadata, and clients add their own.
const MAX_HEADERS: usize = 200;
/// Bytes of a request's head, and of one read of a body.
const READ_BUFFER: usize = 512 * 1024;
/// Pause after the system refused to accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The fronts behind one listener.
pub struct Fronts {
    /// Swift and its log-in.
    pub swift: Arc<dyn Front>,
    /// S3.
    pub s3: Arc<dyn Front>,
}

impl Fronts {
    /// S3 signs its requests; the rest is Swift where the path is one of Swift's.
    fn choose<B>(&self, request: &Request<B>) -> &Arc<dyn Front> {
        let path = request.uri().path();
        let signed =
            request.headers().get("authorization").is_some_and(|value| value.as_bytes().starts_with(b"AWS"));
        let query = request.uri().query().unwrap_or("");
        let presigned = query.contains("X-Amz-Algorithm=")
            || query.contains("X-Amz-Credential=")
            || query.contains("AWSAccessKeyId=");
        let of_swift = ["/v1/", "/v1.0/", "/auth/"].iter().any(|prefix| path.starts_with(prefix))
            || matches!(path, "/v1" | "/info" | "/healthcheck" | "/auth");
        let with_token =
            ["x-auth-token", "x-storage-token"].iter().any(|name| request.headers().contains_key(*name));
        let of_swift = of_swift
            || with_token
            || header(request.headers(), "host").is_some_and(|host| self.swift.claims(host))
            || query.contains("temp_url_sig=");
        if of_swift && !signed && !presigned { &self.swift } else { &self.s3 }
    }
}

/// Bytes of bodies: those that have come, and those of the answers that were begun.
struct Traffic {
    received: Counter,
    sent: Counter,
}

impl Traffic {
    fn of(front: &Arc<dyn Front>) -> Traffic {
        let bytes = |direction| metrics::counter!("kodiak_body_bytes_total", "api" => front.name(), "direction" => direction);
        Traffic { received: bytes("received"), sent: bytes("sent") }
    }
}

struct Shared {
    swift: Traffic,
    s3: Traffic,
    fronts: Fronts,
    settings: ServerSettings,
}

/// Serves until `stop` changes, then lets requests under way end.
pub async fn serve(
    listener: TcpListener,
    fronts: Fronts,
    settings: ServerSettings,
    mut stop: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(settings.max_connections));
    let drain = Duration::from_secs(settings.drain);
    let body_timeout = Duration::from_secs(settings.body_timeout);
    let (swift, s3) = (Traffic::of(&fronts.swift), Traffic::of(&fronts.s3));
    let shared = Arc::new(Shared { swift, s3, fronts, settings });
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.changed() => break,
            accepted = accept(&listener, &connections, body_timeout) => accepted,
        };
        match accepted {
            Ok((stream, peer, permit)) => connection(&shared, &graceful, (stream, peer), permit),
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way at the end of the shutdown");
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    body_timeout: Duration,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    // The system counts from when the client stopped to take what is sent.
    SockRef::from(&stream).set_tcp_user_timeout(Some(body_timeout))?;
    Ok((stream, peer, permit))
}

fn connection(
    shared: &Arc<Shared>,
    graceful: &GracefulShutdown,
    (stream, peer): (TcpStream, SocketAddr),
    permit: OwnedSemaphorePermit,
) {
    let handler = shared.clone();
    let service = service_fn(move |request| {
        let shared = handler.clone();
        async move { Ok::<_, Infallible>(shared.answer(request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(shared.settings.header_timeout))
        .max_headers(MAX_HEADERS)
        .max_buf_size(READ_BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        let _permit = permit;
        if let Err(error) = connection.await {
            tracing::debug!(%peer, %error, "connection ended");
        }
    });
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<ResponseBody> {
        let begun = Instant::now();
        let context = RequestContext { id: transaction_id(), peer };
        let id = context.id.clone();
        let front = self.fronts.choose(&request);
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let body_timeout = Duration::from_secs(self.settings.body_timeout);
        let kept = asks_to_be_kept(&request);
        let traffic = if Arc::ptr_eq(front, &self.fronts.swift) { &self.swift } else { &self.s3 };
        let request = request.map(|body| RequestBody::incoming(body, body_timeout, traffic.received.clone()));
        let mut response = front.handle(request, context).await;
        if let Ok(value) = HeaderValue::from_str(&id) {
            let headers = response.headers_mut();
            headers.insert("x-trans-id", value.clone());
            headers.insert("x-openstack-request-id", value);
        }
        if kept {
            // HTTP/1.1 keeps the connection anyway; older clients believe it only if they are told.
            response.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("keep-alive"));
        }
        traffic.sent.increment(response.body().size_hint().exact().unwrap_or_else(|| declared(&response)));
        let took = begun.elapsed();
        let status = response.status().as_u16();
        record(front.name(), &method, status, took);
        if took.as_millis() as u64 >= self.settings.slow_request_ms {
            let path = uri.path();
            tracing::warn!(%id, api = front.name(), %method, path, status, ?took, "slow request");
        }
        // The path only: the query may hold a signature.
        tracing::info!(target: "kodiak::access", %id, %peer, api = front.name(), %method, path = uri.path(), status, ?took);
        response
    }
}

fn asks_to_be_kept<B>(request: &Request<B>) -> bool {
    let asks = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"keep-alive");
    request.headers().get(CONNECTION).is_some_and(asks)
}

/// The length that an answer's head states for its body.
fn declared(response: &Response<ResponseBody>) -> u64 {
    header(response.headers(), "content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
}

fn record(api: &'static str, method: &http::Method, status: u16, took: Duration) {
    let method = match method.as_str() {
        "GET" => "GET",
        "PUT" => "PUT",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "DELETE" => "DELETE",
        "COPY" => "COPY",
        _ => "other",
    };
    let class = match status {
        0..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        507 => "507",
        503 => "503",
        _ => "5xx",
    };
    metrics::histogram!("kodiak_request_seconds", "api" => api, "method" => method, "status" => class)
        .record(took.as_secs_f64());
}

/// As Swift's: `tx`, 21 random hex digits, a dash, and the time in hex.
fn transaction_id() -> String {
    let random: u128 = rand::rng().random();
    let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    format!("tx{:021x}-{seconds:010x}", random >> 44)
}
