//! Real power loss: the store runs in a virtual machine whose QEMU is killed under load. The guest's page
//! cache is gone with it, so after the next boot only what was synced is there.
//!
//! `make guest` installs what it needs and runs it.

mod machine;

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use kodiak_tests::{Client, Depth, Ledger, load};
use machine::{Image, Machine, Syncs};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Older names that are read again after each power loss; all are read at the end.
const SAMPLE: usize = 30;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A store under load until the power goes; how many writes were acknowledged.
async fn live(machine: Machine, ledger: &Ledger, round: u64, life: Duration) -> Result<usize> {
    let client = Client::log_in_at(machine.endpoints()).await?;
    ensure!(client.put("/c", Bytes::new()).await?.is_success(), "no container");
    let writers = load(&client, ledger, "c", round);
    // Not a synchronisation: the moment of the loss is the random input of this test.
    tokio::time::sleep(life).await;
    machine.cut_power()?;
    for writer in writers {
        writer.await?;
    }
    Ok(ledger.acknowledged())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs QEMU: make guest"]
async fn whatever_was_acknowledged_survives_power_loss() -> Result<()> {
    let (rounds, seed) = (number("KODIAK_GUEST_ROUNDS", 5), number("KODIAK_SEED", 1));
    println!("KODIAK_SEED={seed} KODIAK_GUEST_ROUNDS={rounds}");
    let folder = tempfile::TempDir::with_prefix("kodiak-guest-")?;
    let image = Image::make(folder.path())?;
    let (ledger, mut random) = (Ledger::default(), StdRng::seed_from_u64(seed));
    let mut machine = Machine::boot(&image, Syncs::Done)?;
    for round in 0..rounds {
        let life = Duration::from_millis(random.random_range(200..3000));
        let acknowledged = live(machine, &ledger, round, life).await?;
        println!("power loss {round} after {life:?}: {acknowledged} acknowledged writes");
        machine = Machine::boot(&image, Syncs::Done)?;
        let depth = if round + 1 == rounds { Depth::Everything } else { Depth::Sample(SAMPLE) };
        let client = Client::log_in_at(machine.endpoints()).await?;
        ledger.verify(&client, "c", depth, &mut random).await?;
    }
    println!("{} names", ledger.names());

    // The same with a store whose syncs do nothing must be noticed, or this test proves nothing.
    machine.cut_power()?;
    let careless = Machine::boot(&image, Syncs::Skipped)?;
    let acknowledged = live(careless, &ledger, rounds, Duration::from_millis(1500)).await?;
    ensure!(acknowledged > 0, "nothing was written");
    let noticed = match Machine::boot(&image, Syncs::Done) {
        Err(error) => format!("{error:#}"),
        Ok(machine) => {
            let client = Client::log_in_at(machine.endpoints()).await?;
            match ledger.verify(&client, "c", Depth::Sample(SAMPLE), &mut random).await {
                Err(error) => format!("{error:#}"),
                Ok(()) => anyhow::bail!("{acknowledged} writes that were not synced are all there"),
            }
        }
    };
    println!("without syncs, as it should be: {noticed}");
    Ok(())
}
