//! Clients that take their time: each is bounded in time and in memory, and stops nobody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use kodiak_tests::{Client, Store};

const MIB: u64 = 1 << 20;

/// A store with a short patience, seconds.
async fn impatient(patience: u64) -> Result<(Store, Client)> {
    let mut store = Store::start()?;
    store.kill()?;
    store.configure(|text| {
        let text = text.replace("header_timeout = 60", &format!("header_timeout = {patience}"));
        text.replace("body_timeout = 60", &format!("body_timeout = {patience}"))
    })?;
    store.restart()?;
    let client = Client::log_in(&store).await?;
    client.put("/c", Bytes::new()).await?;
    Ok((store, client))
}

fn connect(store: &Store) -> Result<TcpStream> {
    let stream = TcpStream::connect(store.address())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// Sends the head of a PUT and the beginning of its body.
fn begin_put(store: &Store, client: &Client, name: &str, length: u64, body: &[u8]) -> Result<TcpStream> {
    let mut stream = connect(store)?;
    let token = client.token();
    write!(
        stream,
        "PUT /v1/AUTH_kodiak/c/{name} HTTP/1.1\r\nhost: x\r\nx-auth-token: {token}\r\ncontent-length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    Ok(stream)
}

/// What comes until the server closes, or the read times out.
fn rest(mut stream: TcpStream) -> (Vec<u8>, std::io::Result<usize>) {
    let mut all = Vec::new();
    let ended = stream.read_to_end(&mut all);
    (all, ended)
}

#[tokio::test]
async fn a_head_or_a_body_that_does_not_come_is_given_up() -> Result<()> {
    let (store, client) = impatient(1).await?;
    let begun = Instant::now();
    let mut head = connect(&store)?;
    head.write_all(b"GET /v1/AUTH_kodiak HTTP/1.1\r\nhost:")?;
    let body = begin_put(&store, &client, "o", 100, b"half")?;
    let (answer, ended) = rest(head);
    assert!(ended.is_ok() && (answer.is_empty() || answer.starts_with(b"HTTP/1.1 408")), "{answer:?}");
    let (answer, ended) = rest(body);
    assert!(ended.is_ok() && answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert!(begun.elapsed() < Duration::from_secs(10));
    // The other client's connection has idled for too long as well.
    assert_eq!(Client::log_in(&store).await?.list("c").await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_slow_but_steady_body_is_waited_for() -> Result<()> {
    let (store, client) = impatient(1).await?;
    let mut stream = begin_put(&store, &client, "o", 8, b"")?;
    for byte in b"12345678" {
        std::thread::sleep(Duration::from_millis(300));
        stream.write_all(&[*byte])?;
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"HTTP/1.1 201");
    assert_eq!(Client::log_in(&store).await?.get("/c/o").await?.body, "12345678");
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut_off() -> Result<()> {
    let (store, client) = impatient(2).await?;
    assert_eq!(client.put("/c/big", vec![7; 64 << 20]).await?, 201);
    let mut stream = connect(&store)?;
    let token = client.token();
    write!(stream, "GET /v1/AUTH_kodiak/c/big HTTP/1.1\r\nhost: x\r\nx-auth-token: {token}\r\n\r\n")?;
    // Not a synchronisation: a client that reads nothing for longer than the store's patience.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let (got, ended) = rest(stream);
    assert!(ended.is_err(), "the connection was ended properly after {} bytes", got.len());
    assert!(got.len() < 64 << 20, "all of it came");
    Ok(())
}

#[tokio::test]
async fn many_uploads_of_slow_clients_take_bounded_memory() -> Result<()> {
    let store = Store::start()?;
    let client = Client::log_in(&store).await?;
    client.put("/c", Bytes::new()).await?;
    let before = store.resident()?;
    let part = vec![1; 3 << 20];
    let mut slow = Vec::new();
    for number in 0..150 {
        let stream = begin_put(&store, &client, &format!("slow-{number}"), 100 * MIB, b"")?;
        stream.set_nonblocking(true)?;
        slow.push((stream, 0));
    }
    // Each sends as much as it gets rid of, up to three quarters of a block, and then stalls.
    for _ in 0..200 {
        for (stream, sent) in &mut slow {
            *sent += stream.write(&part[*sent..]).unwrap_or(0);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let grown = store.resident()?.saturating_sub(before);
    println!("{} MiB for {} stalled uploads", grown / MIB, slow.len());
    assert!(grown < 500 * MIB, "{} MiB for {} stalled uploads", grown / MIB, slow.len());
    // Small ones need none of the buffers; large ones are told so in time.
    assert_eq!(client.put("/c/small", vec![2; 100_000]).await?, 201);
    let begun = Instant::now();
    assert_eq!(client.put("/c/large", vec![2; 6 << 20]).await?, 503);
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    drop(slow);
    for _ in 0..100 {
        if client.put("/c/large", vec![2; 6 << 20]).await? == 201 {
            assert_eq!(client.list("c").await?, ["large", "small"]);
            return Ok(());
        }
    }
    anyhow::bail!("the buffers of uploads that ended are not given back")
}

#[tokio::test]
async fn long_listings_for_slow_readers_take_bounded_memory() -> Result<()> {
    let store = Store::start()?;
    let client = Client::log_in(&store).await?;
    client.put("/c", Bytes::new()).await?;
    let names: Vec<_> = (0..2000).map(|number| format!("{}{number:04}", "n".repeat(900))).collect();
    let mut puts = tokio::task::JoinSet::new();
    for name in names {
        let client = client.clone();
        puts.spawn(async move { client.put(&format!("/c/{name}"), "x").await });
        if puts.len() >= 32 {
            puts.join_next().await.context("a PUT")???;
        }
    }
    while let Some(put) = puts.join_next().await {
        assert_eq!(put??, 201);
    }
    let before = store.resident()?;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = connect(&store)?;
        let token = client.token();
        write!(
            stream,
            "GET /v1/AUTH_kodiak/c?format=json HTTP/1.1\r\nhost: x\r\nx-auth-token: {token}\r\n\r\n"
        )?;
        slow.push(stream);
    }
    let mut first = [0; 12];
    for stream in &mut slow {
        stream.read_exact(&mut first)?;
        assert_eq!(&first, b"HTTP/1.1 200");
    }
    let grown = store.resident()?.saturating_sub(before);
    println!("{} MiB for {} listings of 2 MiB that nobody reads", grown / MIB, slow.len());
    // A page has at most 10,000 names; it is in memory until it is sent.
    assert!(grown < 700 * MIB, "{} MiB for {} listings", grown / MIB, slow.len());
    assert_eq!(client.get("/c?limit=1").await?.status, 200);
    Ok(())
}
