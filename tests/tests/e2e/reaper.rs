//! Deleted accounts: what they answer, and that nothing of them is left, however often the store dies.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use kodiak_tests::{Client, Store};

use crate::orphans::{MIB, on_disk, pattern};

const OBJECTS: usize = 300;

/// Slows the reaper down, so that it can be killed.
fn slowed(text: String) -> String {
    let Some((before, after)) = text.split_once("[proxy.reaper]") else { return text };
    format!("{before}[proxy.reaper]{}", after.replacen("rate = 500", "rate = 100", 1))
}

async fn filled(client: &Client) -> Result<()> {
    for container in ["/c", "/versioned", "/empty"] {
        ensure!(client.put(container, Bytes::new()).await?.is_success());
    }
    let keep = [("x-versions-enabled", "true")];
    ensure!(client.send(Method::POST, "/versioned", &keep, Bytes::new()).await?.status.is_success());
    for number in 0..OBJECTS {
        ensure!(client.put(&format!("/c/o{number}"), Bytes::from(vec![7; 2000])).await?.is_success());
    }
    for seed in 0..3 {
        ensure!(client.put("/versioned/big", pattern(seed, 9)).await?.is_success());
    }
    ensure!(client.put("/c/big", pattern(9, 9)).await?.is_success());
    Ok(())
}

#[tokio::test]
async fn a_deleted_account_is_emptied_however_often_the_store_dies() -> Result<()> {
    let mut store = Store::start()?;
    store.stop()?;
    store.configure(slowed)?;
    store.restart()?;
    let client = Client::log_in(&store).await?;
    filled(&client).await?;
    let other = client.at_account("AUTH_other");
    ensure!(other.put("", Bytes::new()).await? == 201);
    ensure!(other.put("/c", Bytes::new()).await? == 201);
    ensure!(other.put("/c/big", pattern(5, 9)).await? == 201);
    let begun = client.send_s3(Method::POST, "/c/parts", "uploads", Bytes::new()).await?;
    let text = String::from_utf8(begun.body.to_vec())?;
    let id = text.split("UploadId>").nth(1).and_then(|rest| rest.split('<').next()).unwrap_or_default();
    let part = format!("partNumber=1&uploadId={id}");
    ensure!(client.send_s3(Method::PUT, "/c/parts", &part, pattern(6, 9)).await?.status == 200);

    ensure!(client.delete("?marker=x").await? == 400, "a query may have been meant for something else");
    ensure!(client.delete("").await? == 204);
    refused(&client).await?;
    for _ in 0..4 {
        // Long enough for some objects, not for all.
        tokio::time::sleep(Duration::from_millis(400)).await;
        store.kill()?;
        store.restart()?;
    }
    let client = Client::log_in(&store).await?;
    let begun = Instant::now();
    // What is left: the other account's object, and what a volume keeps of the rest.
    while on_disk(&store)? > 14 * MIB {
        ensure!(begun.elapsed() < Duration::from_secs(60), "{} MiB stay", on_disk(&store)? / MIB);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refused(&client).await?;
    let other = client.at_account("AUTH_other");
    ensure!(other.get("/c/big").await?.body == pattern(5, 9), "the other account's");
    Ok(())
}

/// What requests to a deleted account are answered.
async fn refused(client: &Client) -> Result<()> {
    for (method, path, status) in [
        (Method::GET, "", 410),
        (Method::HEAD, "", 410),
        (Method::PUT, "", 403),
        (Method::POST, "", 404),
        (Method::DELETE, "", 404),
        (Method::GET, "/c", 404),
        (Method::PUT, "/new", 404),
        (Method::GET, "/c/o1", 404),
        (Method::PUT, "/c/o1", 404),
        (Method::GET, "/versioned/big", 404),
    ] {
        let answer = client.send(method.clone(), path, &[], Bytes::new()).await?;
        ensure!(answer.status == status, "{method} {path:?}: {}", answer.status);
    }
    for (method, path, status) in
        [(Method::GET, "/", 403), (Method::PUT, "/new", 403), (Method::GET, "/versioned/big", 404)]
    {
        let answer = client.send_s3(method.clone(), path, "", Bytes::new()).await?;
        ensure!(answer.status == status, "S3 {method} {path}: {}", answer.status);
    }
    Ok(())
}

#[tokio::test]
async fn an_account_may_be_made_again_after_its_time() -> Result<()> {
    let mut store = Store::start()?;
    store.stop()?;
    store.configure(|text| text.replacen("recent = 604800", "recent = 0", 1))?;
    store.restart()?;
    let client = Client::log_in(&store).await?;
    filled(&client).await?;
    ensure!(client.delete("").await? == 204);
    let begun = Instant::now();
    // Until it is empty, it is refused.
    loop {
        match client.put("", Bytes::new()).await?.as_u16() {
            201 => break,
            403 => ensure!(begun.elapsed() < Duration::from_secs(60), "it is not emptied"),
            other => anyhow::bail!("PUT: {other}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(client.put("/c", Bytes::new()).await? == 201);
    ensure!(client.put("/c/again", Bytes::from_static(b"again")).await? == 201);
    ensure!(client.get("/c/o1").await?.status == 404);
    assert_eq!(client.list("c").await?, ["again"]);
    assert_eq!(client.list("").await?, ["c"]);
    Ok(())
}
