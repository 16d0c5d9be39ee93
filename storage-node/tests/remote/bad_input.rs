//! Who is no member, or speaks nonsense, is refused with a reason; the server goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kodiak_storage_api::remote::wire::{Kind, Reader};
use kodiak_storage_api::remote::{
    ALPN_GRPC, BULK_PATH, Carries, PROTOCOL, Party, RemoteNode, Settings, Versions, host_name, with_alpn,
};
use kodiak_storage_api::{Clock, StorageNode};
use kodiak_storage_node::{Body, Extension, Server, ServerSettings};
use proptest::test_runner::{Config, TestRunner};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::Authority;
use crate::machine::{CLUSTER, Machines, Serving, ask, party, refusal};

#[tokio::test]
async fn another_authority_is_refused_by_both_sides() {
    let machines = Machines::start().await;
    let (stranger, ours) = (Authority::new().node("n1", CLUSTER), machines.authority.node("n1", CLUSTER));
    let why = refusal(&machines.call_as(&stranger, machines.client.clone(), "n2")).await;
    assert!(why.contains("UnknownIssuer") && why.contains("is this the right address?"), "{why}");
    // One that trusts us is not trusted for that.
    let stranger = stranger.trusting(&ours);
    let why = refusal(&machines.call_as(&stranger, machines.client.clone(), "n2")).await;
    assert!(why.contains("UnknownCA") && why.contains("is this the right address?"), "{why}");
    ask(&machines.remote).await.expect("members are served");
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_refused() {
    let machines = Machines::start().await;
    let old = machines.authority.expired("n1", CLUSTER);
    let why = refusal(&machines.call_as(&old, machines.client.clone(), "n2")).await;
    assert!(why.to_lowercase().contains("expired"), "{why}");
}

#[tokio::test]
async fn a_node_that_answers_under_another_name_is_refused() {
    let machines = Machines::start().await;
    let credentials = machines.authority.node("n1", CLUSTER);
    let why = refusal(&machines.call_as(&credentials, machines.client.clone(), "n3")).await;
    assert!(why.contains("n3.") && why.contains("another node answers there"), "{why}");
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_refused_even_if_the_authority_is_ours() {
    let machines = Machines::start().await;
    let credentials = machines.authority.node("n1", "ffff");
    let why = refusal(&machines.call_as(&credentials, machines.client.clone(), "n2")).await;
    assert!(why.contains("of no node of cluster 0123456789abcdef"), "{why}");
}

#[tokio::test]
async fn a_call_that_says_another_cluster_is_refused() {
    let machines = Machines::start().await;
    // Its certificates are right for the node that it calls; only what it says is not.
    let credentials = machines.authority.node("n1", CLUSTER);
    let (liar, _) = party("feedbeef", "n1", Arc::new(Clock::system(9)));
    let head = liar.head(0);
    let why = machines.client.hear("n1", &head).expect_err("refused");
    assert!(why.contains("cluster feedbeef") && why.contains(CLUSTER), "{why}");
    let answered = post(&machines, &credentials.client(), wire(&head)).await;
    assert!(answered.contains("cluster feedbeef") && answered.contains(CLUSTER), "{answered}");
}

/// A call that reads no account, as it goes over the wire.
fn wire(head: &kodiak_storage_api::remote::Head) -> Vec<u8> {
    use kodiak_storage_api::remote::{Call, Request};
    let request = Request {
        head: head.clone(),
        patience: 5000,
        device: "d1".into(),
        row_device: None,
        call: Call::ReadDirectory { key: crate::rig::directory_key("nobody") },
    };
    let message = postcard::to_stdvec(&request).expect("a message");
    let mut all = vec![PROTOCOL];
    all.extend((message.len() as u32).to_be_bytes());
    all.extend(message);
    all
}

#[tokio::test]
async fn a_member_that_was_removed_is_refused_on_its_open_connection() {
    let machines = Machines::start().await;
    ask(&machines.remote).await.expect("a member");
    machines.server_view.refused.lock().push("n1".into());
    machines.server_view.epoch.store(2, Ordering::SeqCst);
    let why = refusal(&machines.remote).await;
    assert!(why.contains("n1 is not admitted: it has been removed from the cluster"), "{why}");
}

#[tokio::test]
async fn a_caller_that_finds_a_removed_node_does_not_talk_to_it() {
    let machines = Machines::start().await;
    machines.client_view.refused.lock().push("n2".into());
    let why = refusal(&machines.remote).await;
    assert!(why.contains("it has been removed from the cluster"), "{why}");
}

async fn connect(
    machines: &Machines,
    config: &rustls::ClientConfig,
    carries: Carries,
) -> TlsStream<TcpStream> {
    connect_by(machines, config, Versions::CURRENT.offered(carries)).await
}

async fn connect_by(
    machines: &Machines,
    config: &rustls::ClientConfig,
    protocols: Vec<Vec<u8>>,
) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(machines.serving.address).await.expect("connected");
    let host = ServerName::try_from(host_name("n2", CLUSTER)).expect("a name");
    let config = Arc::new(with_alpn(config, protocols));
    TlsConnector::from(config).connect(host, stream).await.expect("TLS")
}

/// The text of the answer to a body that is posted for blocks.
async fn post(machines: &Machines, config: &rustls::ClientConfig, body: Vec<u8>) -> String {
    let stream = connect(machines, config, Carries::Blocks).await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let request =
        http::Request::post(BULK_PATH).body(Full::new(bytes::Bytes::from(body))).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

#[tokio::test]
async fn callers_without_a_certificate_reach_the_extension_only() {
    struct Hello;
    #[async_trait]
    impl Extension for Hello {
        async fn answer(
            &self,
            certificate: Option<&CertificateDer<'static>>,
            request: http::Request<hyper::body::Incoming>,
        ) -> http::Response<Body> {
            let text = format!("{} {}", request.uri().path(), certificate.is_some());
            http::Response::new(Body::new(Full::new(bytes::Bytes::from(text))))
        }
    }
    let (settings, server) = (Settings::default(), ServerSettings::default());
    let machines = Machines::with(server, settings, Some(Arc::new(Hello)), |node| node).await;
    let credentials = machines.authority.node("n1", CLUSTER);
    let refused = post(&machines, &credentials.anonymous(), wire(&machines.client.head(0))).await;
    assert!(refused.contains("shows no certificate"), "{refused}");
    for (config, certificate) in [(credentials.anonymous(), false), (credentials.client(), true)] {
        let stream = connect_by(&machines, &config, vec![ALPN_GRPC.to_vec()]).await;
        let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = connected.expect("HTTP");
        tokio::spawn(connection);
        let request =
            http::Request::get("http://n2/cluster").body(Full::new(bytes::Bytes::new())).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body, format!("/cluster {certificate}"));
    }
}

#[tokio::test]
async fn callers_without_a_certificate_cannot_take_the_room_of_members() {
    let server = ServerSettings { strangers: 1, ..ServerSettings::default() };
    let machines = Machines::with(server, Settings::default(), None, |node| node).await;
    let config = machines.authority.node("n1", CLUSTER).anonymous();
    let call = wire(&machines.client.head(0));
    let first = connect(&machines, &config, Carries::Blocks).await;
    let (mut first, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(first)).await.expect("HTTP");
    tokio::spawn(connection);
    let mut get = || {
        first.send_request(http::Request::get("/").body(Full::new(bytes::Bytes::new())).expect("a request"))
    };
    let answered = get().await.expect("an answer");
    assert_eq!(answered.status(), http::StatusCode::NOT_FOUND);
    answered.into_body().collect().await.expect("a body");
    let mut second = connect(&machines, &config, Carries::Blocks).await;
    assert!(!matches!(second.read(&mut [0]).await, Ok(1)), "closed");
    let config = machines.authority.node("n1", CLUSTER).client();
    assert!(!post(&machines, &config, call).await.contains("certificate"));
    ask(&machines.remote).await.expect("members are served");
}

#[tokio::test]
async fn another_version_of_the_protocol_is_told_whom_to_upgrade() {
    let machines = Machines::start().await;
    let config = machines.authority.node("n1", CLUSTER).client();
    let mut call = wire(&machines.client.head(0));
    assert!(!post(&machines, &config, call.clone()).await.contains("upgrade"));
    call[0] = PROTOCOL + 1;
    let answer = post(&machines, &config, call).await;
    assert!(answer.contains("a call of n1") && answer.contains("upgrade the receiver"), "{answer}");
}

#[tokio::test]
async fn versions_that_are_the_same_or_next_to_each_other_work_together_and_others_are_told() {
    let machines = Machines::start().await;
    let credentials = machines.authority.node("n1", CLUSTER);
    let speaking = |oldest, newest, name: &str| {
        let view = machines.client_view.clone();
        Party::speaking(Versions { oldest, newest }, CLUSTER, name, machines.client_clock.clone(), view)
    };
    // The server speaks this source's version only.
    for (oldest, newest) in [(PROTOCOL, PROTOCOL), (PROTOCOL, PROTOCOL + 1)] {
        let remote = machines.call_as(&credentials, speaking(oldest, newest, "n1"), "n2");
        ask(&remote).await.expect("they have a version in common");
    }
    let ahead = machines.call_as(&credentials, speaking(PROTOCOL + 1, PROTOCOL + 2, "n1"), "n2");
    let why = refusal(&ahead).await;
    assert!(
        why.contains(&format!("versions {} to {}", PROTOCOL + 1, PROTOCOL + 2))
            && why.contains("version by version"),
        "{why}"
    );
    // And a server that is ahead answers callers that are not, in their version, blocks included.
    let party = speaking(PROTOCOL, PROTOCOL + 1, "n2");
    let config = machines.authority.node("n2", CLUSTER).server();
    let server = Server::new(machines.node.clone(), party, &config, None, ServerSettings::default());
    let serving = Serving::start(server, "127.0.0.1:0").await;
    for newest in [PROTOCOL, PROTOCOL + 1] {
        let (party, address) = (speaking(PROTOCOL, newest, "n1"), serving.address.to_string());
        let remote = RemoteNode::new(party, "n2", &address, &credentials.client(), Settings::default());
        ask(&remote).await.expect("they have a version in common");
        let device = remote.device("d1").expect("every name is taken");
        let read = remote.read_items(device, Vec::new()).await;
        assert!(read.expect("blocks too").is_empty());
    }
    serving.stop().await;
}

#[tokio::test]
async fn garbage_at_every_layer_does_not_stop_the_server() {
    let machines = Machines::start().await;
    let config = machines.authority.node("n1", CLUSTER).client();
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let bytes = proptest::collection::vec(proptest::prelude::any::<u8>(), 1..2000);
    let call = wire(&machines.client.head(0));
    for _ in 0..40 {
        let garbage = proptest::strategy::Strategy::new_tree(&bytes, &mut runner).expect("bytes");
        let garbage = proptest::strategy::ValueTree::current(&garbage);
        // Instead of TLS; inside TLS, for both protocols; as a body; as a call that was changed on its way.
        let mut plain = TcpStream::connect(machines.serving.address).await.expect("connected");
        let _ = plain.write_all(&garbage).await;
        for carries in [Carries::Blocks, Carries::Messages] {
            let mut stream = connect(&machines, &config, carries).await;
            let _ = stream.write_all(&garbage).await;
            let _ = stream.shutdown().await;
        }
        post(&machines, &config, garbage.clone()).await;
        let mut changed = call.clone();
        for pair in garbage.chunks_exact(2).take(4) {
            let at = usize::from(pair[0]) % changed.len();
            changed[at] ^= pair[1];
        }
        post(&machines, &config, changed).await;
        message(&machines, &config, garbage).await;
    }
    // The same bytes again are the same call again, which changes nothing twice.
    assert_eq!(
        post(&machines, &config, call.clone()).await.is_empty(),
        post(&machines, &config, call).await.is_empty()
    );
    ask(&machines.remote).await.expect("the server goes on");
}

/// Sends garbage as a call, and is told that it is none.
async fn message(machines: &Machines, config: &rustls::ClientConfig, garbage: Vec<u8>) {
    let mut stream = connect(machines, config, Carries::Messages).await;
    let mut packet = Vec::new();
    packet.extend((garbage.len() as u32 + 5).to_be_bytes());
    packet.extend([Kind::Call as u8, 0, 0, 0, 7]);
    packet.extend(garbage);
    stream.write_all(&packet).await.expect("written");
    let mut reader = Reader::new(stream, 4096);
    let mut next = async || reader.next().await.expect("whole").expect("a packet");
    assert_eq!(next().await.kind, Kind::Alive);
    let answer = next().await;
    assert_eq!((answer.kind, answer.call), (Kind::Refused, 7));
}
