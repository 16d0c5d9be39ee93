//! The process is killed under load, again and again: what it acknowledged is there, and nothing is half.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use kodiak_tests::{Client, Store};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// Writers at once.
const WRITERS: u64 = 8;

/// What is known of a name when the process dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    /// Its PUT was acknowledged.
    Stored,
    /// Its PUT or DELETE was under way.
    Unknown,
    /// Its DELETE was acknowledged.
    Deleted,
}

type Names = Arc<Mutex<BTreeMap<String, Known>>>;

/// A name's bytes: anybody can make them from the name.
fn content(name: &str) -> Bytes {
    let seed = name.bytes().fold(17u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut random = StdRng::seed_from_u64(seed);
    // Most lie with their record, some in a block of their own, a few in several.
    let size = match random.random_range(0..20) {
        0 => random.random_range(4_200_000..9_000_000),
        1..4 => random.random_range(262_145..1_000_000),
        _ => random.random_range(0..20_000),
    };
    let mut bytes = vec![0; size];
    random.fill_bytes(&mut bytes);
    bytes.into()
}

async fn write(client: Client, names: Names, round: u64, writer: u64) {
    let mut random = StdRng::seed_from_u64(round * WRITERS + writer);
    for number in 0.. {
        let name = format!("{round:03}-{writer}-{number:05}");
        names.lock().insert(name.clone(), Known::Unknown);
        let Ok(status) = client.put(&format!("/c/{name}"), content(&name)).await else { return };
        assert_eq!(status, 201, "{name}");
        names.lock().insert(name.clone(), Known::Stored);
        if random.random_bool(0.1) {
            names.lock().insert(name.clone(), Known::Unknown);
            let Ok(status) = client.delete(&format!("/c/{name}")).await else { return };
            assert_eq!(status, 204, "{name}");
            names.lock().insert(name.clone(), Known::Deleted);
        }
    }
}

/// Compares every name of a round, and the listing, with what is known.
async fn verify(client: &Client, names: &Names, round: u64) -> Result<()> {
    let listed: std::collections::BTreeSet<String> = client.list("c").await?.into_iter().collect();
    let known = names.lock().clone();
    for (name, known) in &known {
        let fresh = name.starts_with(&format!("{round:03}-"));
        ensure!(
            *known == Known::Unknown || listed.contains(name) == (*known == Known::Stored),
            "{name}: {known:?}"
        );
        if !fresh {
            continue;
        }
        let answer = client.get(&format!("/c/{name}")).await?;
        match (known, answer.status.as_u16()) {
            (Known::Stored | Known::Unknown, 200) => {
                ensure!(answer.body == content(name), "{name}: other bytes than were put");
                ensure!(listed.contains(name), "{name} is there but not listed");
            }
            (Known::Deleted | Known::Unknown, 404) => {
                ensure!(!listed.contains(name), "{name} is listed but gone")
            }
            (known, status) => anyhow::bail!("{name} is {known:?}, and answers {status}"),
        }
    }
    ensure!(listed.iter().all(|name| known.contains_key(name)), "a name is listed that nobody wrote");
    Ok(())
}

#[test]
fn whatever_was_acknowledged_survives_being_killed() {
    let rounds = std::env::var("KODIAK_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(15);
    let seed = std::env::var("KODIAK_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    println!("KODIAK_SEED={seed} KODIAK_CRASHES={rounds}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads").block_on(crash(rounds, seed)).expect("nothing is lost");
}

async fn crash(rounds: u64, seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = Store::start()?;
    let names: Names = Arc::default();
    Client::log_in(&store).await?.put("/c", Bytes::new()).await?;
    for round in 0..rounds {
        let client = Client::log_in(&store).await?;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write(client.clone(), names.clone(), round, writer)))
            .collect();
        // Not a synchronisation: the moment of the crash is the random input of this test.
        tokio::time::sleep(Duration::from_millis(random.random_range(5..400))).await;
        store.kill()?;
        for writer in writers {
            writer.await?;
        }
        let took = store.restart()?;
        ensure!(took < Duration::from_secs(10), "the restart took {took:?}");
        verify(&Client::log_in(&store).await?, &names, round).await?;
    }
    let known = names.lock();
    println!("{} names, {} crashes", known.len(), rounds);
    Ok(())
}
