//! Blocks of uploads that a crash interrupted are deleted; those that anything needs stay.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use kodiak_tests::{Client, Store};

pub const MIB: usize = 1 << 20;

/// Bytes that the volumes of all devices take on the disk.
pub fn on_disk(store: &Store) -> Result<usize> {
    let mut blocks = 0;
    for device in 1..=3 {
        for entry in std::fs::read_dir(store.folder().join(format!("d{device}/volumes")))? {
            blocks += entry?.metadata()?.blocks();
        }
    }
    Ok(blocks as usize * 512)
}

pub fn pattern(seed: u8, mebibytes: usize) -> Bytes {
    (0..mebibytes * MIB).map(|at| (at / 7) as u8 ^ seed).collect::<Vec<u8>>().into()
}

async fn s3(client: &Client, method: Method, query: &str, body: Bytes) -> Result<String> {
    let answer = client.send_s3(method, "/c/parts", query, body).await?;
    ensure!(answer.status.is_success(), "{query}: {}", answer.status);
    let text = String::from_utf8(answer.body.to_vec())?;
    let id = text.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once("</UploadId>"));
    let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok());
    Ok(id.map(|(id, _)| id).or(etag).unwrap_or_default().to_owned())
}

async fn complete(client: &Client, id: &str, etags: &[String]) -> Result<()> {
    let part =
        |(index, etag)| format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", index + 1);
    let parts: String = etags.iter().enumerate().map(part).collect();
    let list = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    s3(client, Method::POST, &format!("uploadId={id}"), list.into()).await.map(drop)
}

#[tokio::test]
async fn blocks_of_interrupted_uploads_are_deleted_and_no_others() -> Result<()> {
    let mut store = Store::start()?;
    let client = Client::log_in(&store).await?;
    client.put("/c", Bytes::new()).await?;
    client.put("/c/kept", pattern(1, 9)).await?;
    // One multipart upload is completed, another is under way.
    let done = s3(&client, Method::POST, "uploads", Bytes::new()).await?;
    let mut etags = Vec::new();
    for number in 1..=2 {
        let query = format!("partNumber={number}&uploadId={done}");
        etags.push(s3(&client, Method::PUT, &query, pattern(2, 6)).await?);
    }
    complete(&client, &done, &etags).await?;
    let open = s3(&client, Method::POST, "uploads", Bytes::new()).await?;
    let part = s3(&client, Method::PUT, &format!("partNumber=1&uploadId={open}"), pattern(3, 6)).await?;

    let mut stream = TcpStream::connect(store.address())?;
    write!(
        stream,
        "PUT /v1/AUTH_kodiak/c/half HTTP/1.1\r\nhost: x\r\nx-auth-token: {}\r\ncontent-length: {}\r\n\r\n",
        client.token(),
        100 * MIB
    )?;
    stream.write_all(&pattern(4, 60))?;
    let begun = Instant::now();
    // Whole blocks are written while the next ones come.
    while store.written()? < 80 * MIB as u64 {
        ensure!(begun.elapsed() < Duration::from_secs(60), "the upload does not reach the disk");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.kill()?;
    store.restart()?;
    let begun = Instant::now();
    while on_disk(&store)? > 40 * MIB {
        ensure!(begun.elapsed() < Duration::from_secs(60), "{} MiB stay behind", on_disk(&store)? / MIB);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let client = Client::log_in(&store).await?;
    for (name, bytes) in [("kept", pattern(1, 9)), ("parts", [pattern(2, 6), pattern(2, 6)].concat().into())]
    {
        let answer = client.get(&format!("/c/{name}")).await?;
        ensure!(answer.body == bytes, "{name}: {}", answer.status);
    }
    complete(&client, &open, &[part]).await?;
    ensure!(client.get("/c/parts").await?.body == pattern(3, 6), "the part that was under way");
    ensure!(client.get("/c/half").await?.status == 404);
    assert_eq!(client.list("c").await?, ["kept", "parts"]);
    Ok(())
}
