//! The connections to one peer.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::{StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::breaker::Breaker;
use super::messages::Messages;
use super::{
    BULK_PATH, Carries, Chunks, Frame, MAX_ANSWER, Party, Received, Socket, collect, host_name, identify,
    socket, with_alpn,
};

/// Time for TCP and TLS.
const CONNECT: Duration = Duration::from_secs(1);
/// Connections for blocks that are kept for the next.
const MAX_IDLE: usize = 16;
/// They are closed after this long without use, before the server does it.
const IDLE: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection. The breaker knows already.
    Connect(String),
    /// The connection broke: the peer may have done it or not.
    Broken(String),
    /// The peer does not talk with us.
    Refused(String),
    /// The peer has too much to do.
    Overloaded,
}

/// A connection for blocks, and the version that is spoken over it.
struct Blocks {
    sender: http1::SendRequest<Chunks>,
    version: u8,
}

type Connecting = Shared<BoxFuture<'static, Result<Messages, String>>>;

enum Slot {
    Empty,
    Connecting(Connecting),
    Open(Messages),
}

struct Idle {
    connection: Blocks,
    since: Instant,
}

/// The way to a peer.
pub(super) struct Link {
    party: Arc<Party>,
    peer: String,
    address: Mutex<String>,
    host: String,
    for_messages: Arc<ClientConfig>,
    for_blocks: Arc<ClientConfig>,
    pub breaker: Breaker,
    messages: Mutex<Slot>,
    idle: Mutex<Vec<Idle>>,
}

impl Link {
    pub fn new(party: Arc<Party>, peer: &str, address: &str, config: &ClientConfig) -> Arc<Link> {
        Arc::new(Link {
            host: host_name(peer, party.cluster()),
            for_messages: Arc::new(with_alpn(config, party.versions().offered(Carries::Messages))),
            for_blocks: Arc::new(with_alpn(config, party.versions().offered(Carries::Blocks))),
            party,
            peer: peer.to_owned(),
            address: Mutex::new(address.to_owned()),
            breaker: Breaker::new(peer),
            messages: Mutex::new(Slot::Empty),
            idle: Mutex::default(),
        })
    }

    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// New connections go to another address.
    pub fn moved(&self, address: &str) {
        let mut current = self.address.lock();
        if *current != address {
            address.clone_into(&mut current);
            *self.messages.lock() = Slot::Empty;
            self.idle.lock().clear();
        }
    }

    /// Connects, and makes sure that it is the node that is meant; with the version that both speak.
    async fn connect(&self, carries: Carries) -> Result<(TlsStream<Socket>, u8), String> {
        let versions = self.party.versions();
        let config = match carries {
            Carries::Messages => &self.for_messages,
            Carries::Blocks => &self.for_blocks,
        };
        let address = self.address.lock().clone();
        let connect = async {
            let stream = TcpStream::connect(&address).await.map_err(|error| error.to_string())?;
            let stream = socket(stream).map_err(|error| error.to_string())?;
            let host = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(config.clone()).connect(host, stream).await;
            let mut stream = stream.map_err(|error| match explained(&error) {
                error if error.contains("NoApplicationProtocol") => format!(
                    "it speaks no {versions} of the nodes' protocol, as this side does: machines work together if \
                     their versions are the same or next to each other, so upgrade version by version ({error})"
                ),
                error => error,
            })?;
            if carries == Carries::Messages {
                // With TLS 1.3 a server looks at our certificate when for us the handshake is over. It speaks
                // first: what it says, or why it does not, shows before anything is sent.
                stream.fill_buf().await.map_err(|error| explained(&error))?;
            }
            let (_, session) = stream.get_ref();
            let agreed = session.alpn_protocol().and_then(|protocol| versions.agreed(protocol));
            let Some((_, version)) = agreed.filter(|(carried, _)| *carried == carries) else {
                return Err("what answers there is no storage node".into());
            };
            let certificate = session.peer_certificates().and_then(|chain| chain.first());
            let identity = identify(certificate.ok_or("no certificate")?, self.party.cluster())?;
            self.party.view().admit(&identity.node, &identity.certificate)?;
            Ok((stream, version))
        };
        let connected = timeout(CONNECT, connect).await;
        let connected = connected.unwrap_or_else(|_| Err(format!("no connection within {CONNECT:?}")));
        connected.map_err(|error| {
            let error = format!("{address} cannot be used as node {}: {error}", self.peer);
            self.breaker.failed(Instant::now(), error.clone());
            error
        })
    }

    async fn open_messages(&self) -> Result<Messages, String> {
        let (stream, version) = self.connect(Carries::Messages).await?;
        Ok(Messages::open(stream, &self.peer, version))
    }

    /// The connection for messages. It is made by a task of its own: callers that give up early must not
    /// keep others from getting one, nor the breaker from learning that there is none.
    fn messages(self: &Arc<Self>) -> Connecting {
        let mut slot = self.messages.lock();
        match &*slot {
            Slot::Open(open) if !open.is_closed() => {
                let open = open.clone();
                return std::future::ready(Ok(open)).boxed().shared();
            }
            Slot::Connecting(connecting) if connecting.peek().is_none() => return connecting.clone(),
            _ => {}
        }
        let link = self.clone();
        let task = tokio::spawn(async move {
            let opened = link.open_messages().await;
            *link.messages.lock() = opened.clone().map_or(Slot::Empty, Slot::Open);
            opened
        });
        let ended = |joined: Result<_, tokio::task::JoinError>| joined.unwrap_or_else(|e| Err(e.to_string()));
        let connecting = task.map(ended).boxed().shared();
        *slot = Slot::Connecting(connecting.clone());
        connecting
    }

    /// Sends a message and waits for its answer. Sent twice only if nothing of it was sent the first time.
    pub async fn message(self: &Arc<Self>, mut frame: Frame) -> Result<Received, Failure> {
        loop {
            let connection = self.messages().await.map_err(Failure::Connect)?;
            // The connection has been lost since; the next turn makes another.
            match connection.call(frame).await {
                Ok(answer) => return answer,
                Err(unsent) => frame = unsent,
            }
        }
    }

    async fn open_blocks(&self) -> Result<Blocks, String> {
        let (stream, version) = self.connect(Carries::Blocks).await?;
        let connected = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = connected.map_err(|error| explained(&error))?;
        let peer = self.peer.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(peer, error = explained(&error), "connection for blocks lost");
            }
        });
        Ok(Blocks { sender, version })
    }

    fn take_idle(&self) -> Option<Blocks> {
        let mut idle = self.idle.lock();
        idle.retain(|idle| idle.since.elapsed() < IDLE && !idle.connection.sender.is_closed());
        idle.pop().map(|idle| idle.connection)
    }

    async fn keep(&self, mut connection: Blocks) {
        if connection.sender.ready().await.is_ok() {
            let mut idle = self.idle.lock();
            if idle.len() < MAX_IDLE {
                idle.push(Idle { connection, since: Instant::now() });
            }
        }
    }

    /// Sends a message with a block or for one, over a connection that nothing else uses meanwhile.
    pub async fn block(&self, frame: Frame) -> Result<Received, Failure> {
        let broken = |error: &(dyn Error + 'static)| Failure::Broken(explained(error));
        let request = http::Request::post(BULK_PATH).header(header::HOST, &self.host);
        let mut request = request.body(Chunks::from(frame)).map_err(|error| broken(&error))?;
        let (connection, response) = loop {
            let kept = self.take_idle();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(kept) => kept,
                None => self.open_blocks().await.map_err(Failure::Connect)?,
            };
            request.body_mut().set_version(connection.version);
            match connection.sender.try_send_request(request).await {
                Ok(response) => break (connection, response),
                // The peer had closed it while it was idle, and nothing was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(broken(error.error())),
                },
            }
        };
        let status = response.status();
        if status == StatusCode::OK {
            let answer = collect(response.into_body(), MAX_ANSWER).await;
            let answer = answer.map_err(|error| broken(&error))?;
            self.keep(connection).await;
            return Ok(answer);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return Err(Failure::Overloaded);
        }
        let text = http_body_util::Limited::new(response.into_body(), 4096);
        let text =
            http_body_util::BodyExt::collect(text).await.map(|body| body.to_bytes()).unwrap_or_default();
        Err(Failure::Refused(String::from_utf8_lossy(&text).into_owned()))
    }
}

/// An error with its causes, and what to do about those that an operator can cause.
pub(super) fn explained(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    let hint = if ["UnknownIssuer", "UnknownCA", "BadSignature"].iter().any(|what| text.contains(what)) {
        " (one of the two certificates is of another cluster's authority: is this the right address?)"
    } else if text.contains("Expired") || text.contains("expired") {
        " (a certificate has expired: is a clock wrong?)"
    } else if text.contains("not valid for name") || text.contains("NotValidForName") {
        " (another node answers there: the address in the map is wrong)"
    } else {
        ""
    };
    text + hint
}
