//! Bits that flip on a device: an intact replica answers, or an error does; wrong bytes never do.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use bytes::Bytes;
use kodiak_tests::{Client, Store, content};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const NAMES: u64 = 60;

fn name(number: u64) -> String {
    format!("{number:03}")
}

async fn fill(store: &Store) -> Result<Client> {
    let client = Client::log_in(store).await?;
    client.put("/c", Bytes::new()).await?;
    for number in 0..NAMES {
        ensure!(client.put(&format!("/c/{}", name(number)), content("damage", number)).await? == 201);
    }
    Ok(client)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// Flips a bit in each kilobyte or so of a file, and in its head.
fn flip(path: &Path, random: &mut StdRng) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut at = 0;
    while at < length {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 1 << random.random_range(0..8)], at)?;
        at += random.random_range(1..2048);
    }
    Ok(())
}

/// How many names are answered; the others must be errors.
async fn read_all(client: &Client) -> Result<u64> {
    let mut right = 0;
    for number in 0..NAMES {
        // An answer that breaks off is an error too.
        let Ok(answer) = client.get(&format!("/c/{}", name(number))).await else { continue };
        match answer.status.as_u16() {
            200 => {
                ensure!(answer.body == content("damage", number), "{number}: wrong bytes");
                right += 1;
            }
            status => ensure!(status >= 500, "{number}: {status}"),
        }
    }
    Ok(right)
}

async fn listed(client: &Client) -> Result<()> {
    let names: Vec<String> = (0..NAMES).map(name).collect();
    ensure!(client.list("c").await? == names, "the listing differs");
    Ok(())
}

#[tokio::test]
async fn one_device_of_several_replicas_may_be_damaged_while_it_runs_or_not() -> Result<()> {
    let mut random = StdRng::seed_from_u64(7);
    for (devices, replicas) in [("2", "2"), ("3", "3")] {
        for stopped in [false, true] {
            let mut store = Store::start_with(&["--devices", devices, "--replicas", replicas])?;
            let mut client = fill(&store).await?;
            if stopped {
                store.kill()?;
            }
            for file in files(&store.folder().join("d1/volumes"))? {
                flip(&file, &mut random)?;
            }
            if stopped {
                store.restart()?;
                client = Client::log_in(&store).await?;
            }
            let right = read_all(&client).await?;
            ensure!(right == NAMES, "{replicas} replicas, stopped: {stopped}: {right} of {NAMES}");
            listed(&client).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_only_replica_answers_right_bytes_or_an_error() -> Result<()> {
    let mut random = StdRng::seed_from_u64(8);
    let store = Store::start_with(&["--devices", "1"])?;
    let client = fill(&store).await?;
    for file in files(&store.folder().join("d1/volumes"))? {
        flip(&file, &mut random)?;
    }
    let right = read_all(&client).await?;
    ensure!(right < NAMES / 2, "only {} damages were noticed", NAMES - right);
    Ok(())
}

#[tokio::test]
async fn an_index_that_is_deleted_or_damaged_is_made_anew() -> Result<()> {
    let mut random = StdRng::seed_from_u64(9);
    let mut store = Store::start()?;
    fill(&store).await?;
    for round in 0..4 {
        let index = store.folder().join(format!("d{}/index", 1 + round % 3));
        if round == 3 {
            // A proper end, so that the index has files to damage.
            store.stop()?;
            for file in files(&index)? {
                if file.extension().is_some_and(|extension| extension == "sst") {
                    flip(&file, &mut random)?;
                }
            }
        } else {
            store.kill()?;
            std::fs::remove_dir_all(&index)?;
        }
        store.restart()?;
        let client = Client::log_in(&store).await;
        if round == 3 {
            // Damage may be found only when it is read; the next start makes the index anew.
            if let Ok(client) = client {
                let _ = client.list("c").await;
                read_all(&client).await?;
            }
            store.kill()?;
            store.restart()?;
        }
        let client = Client::log_in(&store).await?;
        let right = read_all(&client).await?;
        ensure!(right == NAMES, "round {round}: {right} of {NAMES}");
        listed(&client).await?;
    }
    Ok(())
}
