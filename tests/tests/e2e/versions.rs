//! The process is killed while versions are written: each that was acknowledged stays, with its bytes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use kodiak_tests::{Client, Store};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// Writers at once, each with a container of its own.
const WRITERS: u64 = 4;
/// Longer than the blocks of replaced objects are left alone.
const FREED: Duration = Duration::from_secs(5);

/// What a writer knows of its object's versions.
#[derive(Default)]
struct Model {
    container: String,
    /// Acknowledged versions: ids, where they have one, and contents.
    kept: Vec<(Option<String>, u64)>,
    /// The current object, while it is one without an id.
    null: Option<u64>,
    /// Contents whose write or removal was not acknowledged, or that were rightly replaced.
    maybe: BTreeSet<u64>,
    /// What the name answers; the outer none: nobody knows.
    current: Option<Option<u64>>,
    next: u64,
}

/// The bytes of a number; the first eight tell it.
fn content(number: u64) -> Bytes {
    let mut random = StdRng::seed_from_u64(number);
    let size = if random.random_bool(0.3) { random.random_range(262_145..900_000) } else { 3000 };
    let mut bytes = vec![0; size];
    random.fill_bytes(&mut bytes);
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes.into()
}

impl Model {
    fn path(&self) -> String {
        format!("/{}/o", self.container)
    }

    /// The object without an id becomes a version with one that nobody was told.
    fn keep_null(&mut self) {
        if let Some(null) = self.null.take() {
            self.kept.push((None, null));
        }
    }

    async fn put(&mut self, client: &Client, versioned: bool) -> Result<()> {
        let number = self.next;
        self.next += 1;
        self.maybe.insert(number);
        self.current = None;
        let replaced = if versioned { None } else { self.null.take() };
        self.maybe.extend(replaced);
        let answer = client.send(Method::PUT, &self.path(), &[], content(number)).await?;
        ensure!(answer.status == 201, "PUT: {}", answer.status);
        self.maybe.remove(&number);
        self.current = Some(Some(number));
        if versioned {
            self.keep_null();
            let id = answer.headers.get("x-object-version-id").context("no version")?;
            self.kept.push((Some(id.to_str()?.to_owned()), number));
        } else {
            self.null = Some(number);
        }
        Ok(())
    }

    async fn delete(&mut self, client: &Client) -> Result<()> {
        self.current = None;
        client.delete(&self.path()).await?;
        self.keep_null();
        self.current = Some(None);
        Ok(())
    }

    async fn remove_version(&mut self, client: &Client, random: &mut StdRng) -> Result<()> {
        let index = random.random_range(0..self.kept.len().max(1));
        let Some((Some(id), number)) = self.kept.get(index).cloned() else { return Ok(()) };
        self.kept.remove(index);
        self.maybe.insert(number);
        let known = std::mem::take(&mut self.current);
        let status = client.delete(&format!("{}?version-id={id}", self.path())).await?;
        ensure!(status == 204, "DELETE of a version: {status}");
        self.maybe.remove(&number);
        self.current = if known == Some(Some(number)) { Some(None) } else { known };
        Ok(())
    }

    async fn enable(&self, client: &Client, enabled: &str) -> Result<()> {
        let headers = [("x-versions-enabled", enabled)];
        client.send(Method::POST, &format!("/{}", self.container), &headers, Bytes::new()).await.map(drop)
    }

    /// Compares what is there with what is known.
    async fn verify(&self, client: &Client) -> Result<()> {
        let listing = client.get(&format!("/{}?versions", self.container)).await?;
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&listing.body)?;
        let mut found = BTreeSet::new();
        for row in &rows {
            let id = row["version_id"].as_str().context("no id")?;
            if row["content_type"].as_str().is_some_and(|kind| kind.contains("x-deleted")) {
                continue;
            }
            let answer = client.get(&format!("{}?version-id={id}", self.path())).await?;
            ensure!(answer.status == 200, "{} {id} is listed, and answers {}", self.container, answer.status);
            let number = u64::from_be_bytes(answer.body[..8].try_into()?);
            ensure!(answer.body == content(number), "{} {id}: other bytes than were put", self.container);
            found.insert((id.to_owned(), number));
        }
        let numbers: BTreeSet<u64> = found.iter().map(|(_, number)| *number).collect();
        for (id, number) in &self.kept {
            let there = id.as_ref().is_none_or(|id| found.contains(&(id.clone(), *number)));
            ensure!(
                there && numbers.contains(number),
                "{}: version {number} ({id:?}) is lost",
                self.container
            );
        }
        ensure!(self.null.is_none_or(|null| numbers.contains(&null)), "{}: null is lost", self.container);
        let known: BTreeSet<u64> = self.kept.iter().map(|(_, number)| *number).chain(self.null).collect();
        for number in numbers {
            ensure!(known.contains(&number) || self.maybe.contains(&number), "{number} has come back");
        }
        let Some(current) = self.current else { return Ok(()) };
        let answer = client.get(&self.path()).await?;
        match current {
            Some(number) => ensure!(answer.body == content(number), "{}: not {number}", self.container),
            None => ensure!(answer.status == 404, "{}: {}, not deleted", self.container, answer.status),
        }
        Ok(())
    }
}

/// Changes the object until the store is gone.
async fn write(client: Client, mut model: Model, seed: u64) -> Model {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let step = match random.random_range(0..10) {
            0 => model.delete(&client).await,
            1 | 2 => model.remove_version(&client, &mut random).await,
            3 | 4 => {
                let suspended = async {
                    model.enable(&client, "false").await?;
                    model.put(&client, false).await?;
                    model.enable(&client, "true").await
                };
                suspended.await
            }
            _ => model.put(&client, true).await,
        };
        match step {
            Ok(()) => {}
            // The connection broke: that is the crash. Anything else is a wrong answer.
            Err(error) => match error.downcast_ref::<hyper_util::client::legacy::Error>() {
                Some(_) => return model,
                None if error.downcast_ref::<hyper::Error>().is_some() => return model,
                None => panic!("{}: {error:#}", model.container),
            },
        }
    }
}

#[test]
fn every_acknowledged_version_survives_being_killed() {
    let rounds = std::env::var("KODIAK_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let seed = std::env::var("KODIAK_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    println!("KODIAK_SEED={seed} KODIAK_CRASHES={rounds}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads").block_on(crash(rounds, seed)).expect("no version is lost");
}

async fn crash(rounds: u64, seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = Store::start()?;
    let mut models: Vec<Model> = Vec::new();
    for round in 0..rounds {
        let client = Client::log_in(&store).await?;
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let container = format!("v{round}-{writer}");
            let headers = [("x-versions-enabled", "true")];
            client.send(Method::PUT, &format!("/{container}"), &headers, Bytes::new()).await?;
            let model = Model { container, next: (round * WRITERS + writer) << 20, ..Model::default() };
            writers.push(tokio::spawn(write(client.clone(), model, round * WRITERS + writer)));
        }
        // Not a synchronisation: the moment of the crash is the random input of this test.
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1500))).await;
        store.kill()?;
        let mut crashed = Vec::new();
        for writer in writers {
            crashed.push(writer.await?);
        }
        store.restart()?;
        let client = Client::log_in(&store).await?;
        for model in &crashed {
            model.verify(&client).await?;
        }
        models.extend(crashed);
    }
    // Not a synchronisation either: blocks that are wrongly freed are so by then.
    tokio::time::sleep(FREED).await;
    let client = Client::log_in(&store).await?;
    for model in &models {
        model.verify(&client).await?;
    }
    println!("{} versions, {rounds} crashes", models.iter().map(|model| model.kept.len()).sum::<usize>());
    Ok(())
}
