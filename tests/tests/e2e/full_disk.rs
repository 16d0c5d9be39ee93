//! A disk that fills up: writes are refused, nothing is half there, and room that is made is used.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use kodiak_tests::{Client, Store, content};
use tempfile::TempDir;

/// A small file system. Dropped, it is unmounted.
struct Small {
    folder: PathBuf,
    _kept: TempDir,
}

impl Small {
    /// None where this user may not mount.
    fn mount(mebibytes: u32) -> Result<Option<Small>> {
        let kept = TempDir::with_prefix("kodiak-full-")?;
        let folder = kept.path().join("disk");
        std::fs::create_dir(&folder)?;
        let size = format!("size={mebibytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).output()?;
        if !mounted.status.success() {
            println!("SKIPPED: cannot mount: {}", String::from_utf8_lossy(&mounted.stderr));
            return Ok(None);
        }
        Ok(Some(Small { folder, _kept: kept }))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What uses it has been killed.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

/// Bytes that are free.
fn free(folder: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// A name's bytes: some lie with their record, some in blocks.
fn body(number: u64) -> Bytes {
    let length = if number.is_multiple_of(4) { 100_000 } else { 3_000_000 };
    let seed = content("full", number);
    seed.iter().copied().cycle().take(length).collect::<Vec<u8>>().into()
}

/// PUTs until the disk is full; how many names were stored.
async fn fill(client: &Client) -> Result<u64> {
    for number in 0..10_000 {
        match client.put(&format!("/c/{number:05}"), body(number)).await?.as_u16() {
            201 => {}
            507 => return Ok(number),
            status => bail!("PUT on a full disk answers {status}"),
        }
    }
    bail!("the disk does not fill up")
}

async fn all_there(client: &Client, numbers: impl Iterator<Item = u64>) -> Result<()> {
    let mut names = Vec::new();
    for number in numbers {
        let name = format!("{number:05}");
        let answer = client.get(&format!("/c/{name}")).await?;
        ensure!(answer.status == 200 && answer.body == body(number), "{name}: {}", answer.status);
        names.push(name);
    }
    ensure!(client.list("c").await? == names, "the listing differs");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers_when_there_is_room() -> Result<()> {
    let Some(disk) = Small::mount(384)? else { return Ok(()) };
    let mut store = Store::start_in(&disk.folder.join("kodiak"), &[])?;
    let client = Client::log_in(&store).await?;
    client.put("/c", Bytes::new()).await?;
    let stored = fill(&client).await?;
    println!("{stored} objects, then full with {} MiB free", free(&disk.folder)? >> 20);
    ensure!(stored > 30, "full after {stored} objects");
    // The one that was refused is nowhere; an older version of a name stays.
    ensure!(client.get(&format!("/c/{stored:05}")).await?.status == 404);
    ensure!(client.put("/c/00001", vec![0; 20 << 20]).await? == 507, "more than there is room for");
    all_there(&client, 0..stored).await?;

    // Also after a crash on the full disk.
    store.kill()?;
    store.restart()?;
    let client = Client::log_in(&store).await?;
    all_there(&client, 0..stored).await?;

    for number in 0..stored / 2 {
        ensure!(client.delete(&format!("/c/{number:05}")).await? == 204, "DELETE on a full disk");
    }
    all_there(&client, stored / 2..stored).await?;
    // Replaced blocks are given back after a few seconds.
    let begun = Instant::now();
    while client.put("/c/later", body(1)).await? != 201 {
        ensure!(begun.elapsed() < Duration::from_secs(60), "no room after half of all was deleted");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(client.get("/c/later").await?.body == body(1));
    client.delete("/c/later").await?;
    all_there(&client, stored / 2..stored).await
}
