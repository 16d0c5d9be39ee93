//! Writers that go on until the store dies.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use crate::ledger::content;
use crate::{Client, Ledger};

/// Writers at once.
const WRITERS: u64 = 8;
/// Names that all writers overwrite.
const SHARED: u64 = 12;
/// Smallest part of a multipart upload but the last.
const PART: usize = 5 << 20;

/// Starts writers on a container; each ends when its connection does. `round` makes their names new.
pub fn load(client: &Client, ledger: &Ledger, container: &str, round: u64) -> Vec<JoinHandle<()>> {
    let writer = |number| {
        let (client, ledger, container) = (client.clone(), ledger.clone(), container.to_owned());
        let mut random = StdRng::seed_from_u64(round * WRITERS + number);
        tokio::spawn(async move {
            for count in 0u64.. {
                let value = (round * WRITERS + number) << 32 | count;
                let name = match random.random_range(0..10) {
                    0..2 => format!("shared-{:02}", random.random_range(0..SHARED)),
                    _ => format!("{round:03}-{number}-{count:05}"),
                };
                let delete = random.random_bool(0.1);
                if write(&client, &ledger, (&container, &name), Some(value)).await.is_err()
                    || delete && write(&client, &ledger, (&container, &name), None).await.is_err()
                {
                    return;
                }
            }
        })
    };
    (0..WRITERS).map(writer).collect()
}

/// Writes or deletes a name, and notes it. An error means that the store went away.
///
/// # Panics
/// If the store is there and refuses.
pub async fn write(
    client: &Client,
    ledger: &Ledger,
    (container, name): (&str, &str),
    value: Option<u64>,
) -> Result<()> {
    let path = format!("/{container}/{name}");
    let body = value.map(|number| content(name, number));
    let begun = ledger.begin(name, value);
    let status = match body {
        None => client.delete(&path).await?,
        Some(body) if body.len() > PART => put_in_parts(client, &path, body).await?,
        Some(body) => client.put(&path, body).await?,
    };
    // Of a name that others write too, somebody may have deleted it before.
    assert!(status.is_success() || (value.is_none() && status == 404), "{path} answers {status}");
    ledger.end(name, begun);
    Ok(())
}

/// An S3 multipart upload; the status of what failed, or of its completion.
async fn put_in_parts(client: &Client, path: &str, body: Bytes) -> Result<http::StatusCode> {
    let begun = client.send_s3(Method::POST, path, "uploads", Bytes::new()).await?;
    if !begun.status.is_success() {
        return Ok(begun.status);
    }
    let text = String::from_utf8(begun.body.to_vec())?;
    let id = text.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once("</UploadId>"));
    let id = id.context("no upload id")?.0;
    let mut parts = String::new();
    for (index, start) in (0..body.len()).step_by(PART).enumerate() {
        let part = body.slice(start..(start + PART).min(body.len()));
        let query = format!("partNumber={}&uploadId={id}", index + 1);
        let answer = client.send_s3(Method::PUT, path, &query, part).await?;
        if !answer.status.is_success() {
            return Ok(answer.status);
        }
        let etag = answer.headers.get("etag").context("no ETag")?.to_str()?;
        parts += &format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", index + 1);
    }
    let list = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    let done = client.send_s3(Method::POST, path, &format!("uploadId={id}"), list).await?;
    // A completion may fail after its first bytes.
    let text = String::from_utf8_lossy(&done.body);
    ensure!(!done.status.is_success() || text.contains("CompleteMultipartUploadResult"), "{path}: {text}");
    Ok(done.status)
}
