//! The process is killed under load, again and again: what it acknowledged is there, and nothing is half.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use kodiak_tests::{Client, Depth, Ledger, Store, load};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Older names that are read again after each crash; all are listed again, and all are read at the end.
const SAMPLE: usize = 50;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn whatever_was_acknowledged_survives_being_killed() {
    let (rounds, seed) = (number("KODIAK_CRASHES", 200), number("KODIAK_SEED", 1));
    println!("KODIAK_SEED={seed} KODIAK_CRASHES={rounds}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads").block_on(crash(rounds, seed)).expect("nothing is lost");
}

/// Where the time goes.
#[derive(Default, Debug)]
struct Took {
    loading: Duration,
    starting: Duration,
    longest_start: Duration,
    verifying: Duration,
}

async fn crash(rounds: u64, seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = Store::start()?;
    let (ledger, mut took, mut acknowledged) = (Ledger::default(), Took::default(), 0);
    Client::log_in(&store).await?.put("/c", Bytes::new()).await?;
    for round in 0..rounds {
        let writers = load(&Client::log_in(&store).await?, &ledger, "c", round);
        // Not a synchronisation: the moment of the crash is the random input of this test.
        let life = Duration::from_millis(random.random_range(5..400));
        tokio::time::sleep(life).await;
        store.kill()?;
        for writer in writers {
            writer.await?;
        }
        acknowledged += ledger.acknowledged();
        let start = store.restart()?;
        ensure!(start < Duration::from_secs(10), "the restart took {start:?}");
        let depth = if round + 1 == rounds { Depth::Everything } else { Depth::Sample(SAMPLE) };
        let begun = std::time::Instant::now();
        ledger.verify(&Client::log_in(&store).await?, "c", depth, &mut random).await?;
        took.loading += life;
        took.starting += start;
        took.longest_start = took.longest_start.max(start);
        took.verifying += begun.elapsed();
    }
    println!("{rounds} crashes, {} names, {acknowledged} acknowledged writes, {took:?}", ledger.names());
    Ok(())
}
