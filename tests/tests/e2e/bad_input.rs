//! What nobody should send: each gets an error, nothing stored is harmed, memory stays flat.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Method;
use kodiak_tests::{Client, Store};

fn address(store: &Store) -> String {
    let (url, ..) = store.login();
    url.trim_start_matches("http://").split('/').next().unwrap_or("").to_owned()
}

/// Sends bytes as they are; the first line of the answer, if any comes.
fn raw(store: &Store, bytes: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(address(store))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(bytes)?;
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or("").to_owned())
}

#[tokio::test]
async fn broken_requests_are_refused_and_leave_nothing() -> Result<()> {
    let store = Store::start()?;
    let client = Client::log_in(&store).await?;
    client.put("/c", Bytes::new()).await?;
    let cases: &[(&[u8], &str)] = &[
        (b"nonsense\r\n\r\n", "400"),
        (b"GET /v1/a/%ff HTTP/1.1\r\nhost: x\r\n\r\n", "412"),
        (b"GET /v1/a/%00 HTTP/1.1\r\nhost: x\r\n\r\n", "412"),
        (b"PUT /v1/a/c/o HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", "400"),
        (b"PUT /v1/a/c/o HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "400"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n", "403"),
        (b"GET /b?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=zz HTTP/1.1\r\nhost: x\r\n\r\n", "400"),
        (b"GET /b HTTP/1.1\r\nhost: x\r\nauthorization: AWS4-HMAC-SHA256 Credential=\r\n\r\n", "400"),
    ];
    for (request, status) in cases {
        let answer = raw(&store, request)?;
        assert!(answer.contains(status), "{}: {answer}", String::from_utf8_lossy(request));
    }
    let huge = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &vec![b'a'; 2 << 20]].concat();
    // The server may close before it has read all of it.
    if let Ok(answer) = raw(&store, &huge) {
        assert!(answer.is_empty() || answer.contains("431"), "{answer}");
    }
    assert_eq!(client.list("c").await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_cut_short_stores_nothing() -> Result<()> {
    let store = Store::start()?;
    let client = Client::log_in(&store).await?;
    client.put("/c", Bytes::new()).await?;
    client.put("/c/o", "before").await?;
    let token = {
        let (url, user, key) = store.login();
        let path = url.split_once("//").and_then(|(_, rest)| rest.split_once('/')).context("a URL")?.1;
        let mut stream = TcpStream::connect(address(&store))?;
        write!(
            stream,
            "GET /{path} HTTP/1.1\r\nhost: x\r\nx-auth-user: {user}\r\nx-auth-key: {key}\r\n\r\n"
        )?;
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer)?;
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("x-auth-token: "));
        line.context("a token")?.to_owned()
    };
    for body in [vec![b'x'; 10], vec![b'x'; 6_000_000]] {
        let mut stream = TcpStream::connect(address(&store))?;
        let length = body.len() + 1;
        write!(
            stream,
            "PUT /v1/AUTH_kodiak/c/o HTTP/1.1\r\nhost: x\r\nx-auth-token: {token}\r\ncontent-length: {length}\r\n\r\n"
        )?;
        stream.write_all(&body)?;
        drop(stream);
        assert_eq!(client.get("/c/o").await?.body, "before");
    }
    assert_eq!(client.list("c").await?, ["o"]);
    Ok(())
}

#[tokio::test]
async fn ten_thousand_idle_connections_cost_little_and_stop_nobody() -> Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
    let store = Store::start()?;
    let client = Client::log_in(&store).await?;
    client.put("/c", Bytes::new()).await?;
    let before = store.resident()?;
    let mut idle = Vec::new();
    for number in 0..10_000 {
        let mut stream =
            TcpStream::connect(address(&store)).with_context(|| format!("connection {number}"))?;
        if number % 2 == 0 {
            stream.write_all(b"GET /v1/")?;
        }
        idle.push(stream);
    }
    assert_eq!(client.put("/c/o", "x").await?, 201);
    assert_eq!(client.get("/c/o").await?.body, "x");
    let grown = store.resident()?.saturating_sub(before);
    assert!(grown < 300 << 20, "{} MiB for 10,000 connections", grown >> 20);
    Ok(())
}

#[tokio::test]
async fn a_manifest_with_too_many_parts_is_refused() -> Result<()> {
    let store = Store::start()?;
    let client = Client::log_in(&store).await?;
    client.put("/c", Bytes::new()).await?;
    let entries = vec!["{\"path\":\"/c/o\"}"; 100_000].join(",");
    let path = "/c/m?multipart-manifest=put";
    let answer = client.send(Method::PUT, path, &[], format!("[{entries}]")).await?;
    assert_eq!(answer.status, 413);
    let bomb = "[".repeat(1_000_000);
    assert_eq!(client.send(Method::PUT, path, &[], bomb).await?.status, 400);
    assert_eq!(client.list("c").await?, Vec::<String>::new());
    Ok(())
}
