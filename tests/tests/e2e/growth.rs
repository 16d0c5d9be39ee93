//! The rings' partitions become more while machines serve, die and come back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kodiak_tests::{Client, Depth, Ledger, Store, content};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, complaint, kodiak, settled};

const WRITERS: u64 = 6;
/// Names of a writer, written again and again.
const NAMES: u64 = 40;
/// How long the writers may take to get on.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writers that go on until they are stopped, each with its own names. What is refused, or has no answer, is
/// tried again at the next machine.
struct Load {
    ledger: Ledger,
    stop: watch::Sender<bool>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(clients: &[Client]) -> Load {
        let (ledger, (stop, stopped)) = (Ledger::default(), watch::channel(false));
        let writer = |number| write(number, clients.to_vec(), ledger.clone(), stopped.clone());
        let writers = (0..WRITERS).map(|number| tokio::spawn(writer(number))).collect();
        Load { ledger, stop, writers }
    }

    /// Waits until so many more writes are acknowledged.
    async fn goes_on(&self, more: usize) -> Result<()> {
        let (begun, before) = (Instant::now(), self.ledger.acknowledged());
        while self.ledger.acknowledged() < before + more {
            ensure!(begun.elapsed() < PATIENCE, "writes do not get on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn end(self) -> Result<Ledger> {
        self.stop.send_replace(true);
        for writer in self.writers {
            writer.await?;
        }
        println!("{} writes acknowledged", self.ledger.acknowledged());
        Ok(self.ledger)
    }
}

async fn write(number: u64, clients: Vec<Client>, ledger: Ledger, stopped: watch::Receiver<bool>) {
    let mut client = clients.iter().cycle().skip(number as usize);
    for count in 0u64.. {
        let name = format!("{number}-{:03}", count % NAMES);
        let value = (count % 5 != 4).then_some(number << 32 | count);
        for client in client.by_ref() {
            if *stopped.borrow() {
                return;
            }
            let (path, begun) = (format!("/c/{name}"), ledger.begin(&name, value));
            let status = match value {
                Some(value) => client.put(&path, content(&name, value)).await,
                None => client.delete(&path).await,
            };
            match status {
                Ok(status) if status.is_success() || (value.is_none() && status == 404) => {
                    ledger.end(&name, begun);
                    break;
                }
                Ok(status) => assert!(status.is_server_error(), "{path} answers {status}"),
                // Its machine is down.
                Err(_) => {}
            }
        }
    }
}

fn has_partitions(status: &Value, count: u64) -> bool {
    let rings = status["rings"].as_array().map(Vec::as_slice).unwrap_or_default();
    rings.len() == 3 && rings.iter().all(|ring| ring["partitions"] == count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_become_more_under_load_and_whoever_is_away_finds_out() -> Result<()> {
    let (cluster, [mut first, second, mut third]) = Cluster::of_three()?;
    cluster.wait("n1", |status| settled(status, 3))?;
    let mut clients = Vec::new();
    for store in [&first, &second, &third] {
        clients.push(Client::log_in(store).await?);
    }
    clients[0].put("/c", Bytes::new()).await?;
    let load = Load::begin(&clients);
    load.goes_on(100).await?;

    let grow =
        |power: &str| kodiak(&["cluster", "increase-part-power", power, "--data", &cluster.path("n2")]);
    let held = |status: &Value| -> Result<u64> {
        let members = status["members"].as_array().context("members")?;
        Ok(members.iter().filter_map(|member| member["partitions"].as_u64()).sum())
    };
    // Nothing is lacking at any time: every member that goes by the new map holds the halves of what it held.
    ensure!(grow("8")?.contains("has 256 partitions"));
    let status = cluster.status("n1")?;
    ensure!(has_partitions(&status, 256) && held(&status)? == 3 * 3 * 256, "{status:#}");
    let missing = |member: &Value| {
        let devices = member["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
        devices.iter().filter_map(|device| device["missing"].as_u64()).sum::<u64>()
    };
    ensure!(status["members"].as_array().context("members")?.iter().all(|m| missing(m) == 0), "{status:#}");
    cluster.wait("n3", |status| settled(status, 3) && has_partitions(status, 256))?;
    load.goes_on(100).await?;
    ensure!(grow("8")?.contains("already"));

    third.kill()?;
    load.goes_on(100).await?;
    grow("9")?;
    load.goes_on(100).await?;
    third.restart()?;
    cluster.wait("n3", |status| settled(status, 3) && has_partitions(status, 512))?;

    // Now replicas move, of parts that could not move alone before.
    kodiak(&["device", "set-weight", "d1", "1", "--node", "n1", "--data", &cluster.path("n1")])?;
    load.goes_on(100).await?;
    cluster.wait("n2", |status| settled(status, 3))?;
    let ledger = load.end().await?;
    let mut random = StdRng::seed_from_u64(1);
    for store in [&first, &second, &third] {
        ledger.verify(&Client::log_in(store).await?, "c", Depth::Everything, &mut random).await?;
    }
    // The others have it all without this one.
    first.kill()?;
    ledger.verify(&Client::log_in(&second).await?, "c", Depth::Everything, &mut random).await?;
    first.restart()?;
    cluster.wait("n1", |status| settled(status, 3) && has_partitions(status, 512))?;
    ledger.verify(&Client::log_in(&first).await?, "c", Depth::Everything, &mut random).await
}

#[tokio::test]
async fn one_machine_has_more_partitions_too() -> Result<()> {
    let (body, objects) = (Bytes::from_static(b"stays"), 50);
    let fill = async |client: &Client| -> Result<()> {
        client.put("/c", Bytes::new()).await?;
        for number in 0..objects {
            ensure!(client.put(&format!("/c/{number}"), body.clone()).await? == 201);
        }
        Ok(())
    };
    let check = async |client: &Client| -> Result<()> {
        for number in 0..objects {
            ensure!(client.get(&format!("/c/{number}")).await?.body == body, "{number}");
        }
        ensure!(client.list("c").await?.len() == objects);
        Ok(())
    };
    // A cluster of one machine, while it serves …
    let (cluster, store) = Cluster::begin()?;
    let client = Client::log_in(&store).await?;
    fill(&client).await?;
    kodiak(&["cluster", "increase-part-power", "7", "--data", &cluster.path("n1")])?;
    ensure!(has_partitions(&cluster.status("n1")?, 128));
    check(&client).await?;
    let text = complaint(&["cluster", "increase-part-power", "20", "--data", &cluster.path("n1")])?;
    ensure!(text.contains("choose a smaller number"), "{text}");
    // … and a store whose rings are files, over a restart.
    let mut store = Store::start()?;
    fill(&Client::log_in(&store).await?).await?;
    store.stop()?;
    for ring in ["account", "container", "object-0"] {
        let file = store.folder().join(format!("rings/{ring}.ring")).display().to_string();
        kodiak(&["ring", "increase-part-power", &file, "11"])?;
        let text = complaint(&["ring", "increase-part-power", &file, "10"])?;
        ensure!(text.contains("cannot shrink"), "{text}");
    }
    store.restart()?;
    check(&Client::log_in(&store).await?).await
}
