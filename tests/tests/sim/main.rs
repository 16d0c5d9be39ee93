//! The store's coordination, simulated: real coordinators over nodes in memory, under a clock, a network and
//! disks of which everything is decided by a seed.
//!
//! `SIM_SEEDS=a..b` runs other seeds than those that CI does.

#![expect(clippy::expect_used, reason = "what a test cannot go on without")]

mod containers;
mod history;
mod link;
mod reaper;
mod records;
mod regions;
mod shards;
mod world;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use history::History;
use kodiak_proxy::store::Weakness;
use kodiak_storage_api::PolicyIndex;
use kodiak_storage_api::memory::Faults;
use tokio::time::timeout;
use world::{Mutation, World};

const CLIENTS: usize = 4;
const OPERATIONS: usize = 14;
/// Simulated time in which a run must come to its end.
const LIMIT: Duration = Duration::from_secs(3600);

/// One run: its number, and what was wrong.
fn run(seed: u64, mutation: Mutation) -> (u64, Result<(), String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        // Of five nodes, a container's replicas are not those of its objects.
        let nodes = if seed % 3 == 2 { 5 } else { 3 };
        let world = World::new(seed, nodes, mutation);
        let made = world.proxy().create_container("a", "c", PolicyIndex(0), Vec::new()).await;
        made.expect("a container");
        // The last replicas get it in the background.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let history = History::new(world.clone());
        let storm = tokio::spawn(world.clone().storm());
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| tokio::spawn(history.clone().client(OPERATIONS))).collect();
        let all = async {
            for client in clients {
                client.await.map_err(|broken| broken.to_string())?;
            }
            world.heal().await;
            storm.await.map_err(|broken| broken.to_string())?;
            history.settle().await
        };
        let settled = timeout(LIMIT, all).await.unwrap_or_else(|_| Err("it does not end".into()));
        world.close();
        let (hash, checked) = history.check();
        (hash, checked.and(settled))
    })
}

fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("SIM_SEEDS") else { return default };
    let (from, to) = text.split_once("..").expect("SIM_SEEDS=a..b");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn objects_are_linearizable_whatever_fails() {
    for seed in seeds(0..2000) {
        let (_, checked) = run(seed, Mutation::default());
        if let Err(wrong) = checked {
            panic!("seed {seed}: {wrong}\nrun it alone with SIM_SEEDS={seed}..{}", seed + 1);
        }
    }
}

#[test]
fn a_seed_repeats_a_run_exactly() {
    for seed in 0..5 {
        assert_eq!(run(seed, Mutation::default()), run(seed, Mutation::default()), "seed {seed}");
    }
    assert_ne!(run(1, Mutation::default()).0, run(2, Mutation::default()).0);
}

/// One run of a simulation that ends by itself.
fn run_to_end<T, F>(
    seed: u64,
    mutation: Mutation,
    simulation: impl FnOnce(Arc<World>) -> F,
) -> Result<T, String>
where
    F: Future<Output = Result<T, String>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let world = World::new(seed, if seed % 3 == 2 { 5 } else { 3 }, mutation);
        let run = timeout(LIMIT, simulation(world.clone())).await;
        world.close();
        run.unwrap_or_else(|_| Err("it does not end".into()))
    })
}

/// Containers that are deleted while they are written to, and perhaps split.
fn run_containers(seed: u64, mutation: Mutation, splits: bool) -> Result<(), String> {
    run_to_end(seed, mutation, |world| containers::run(world, splits))
}

/// A container whose headers are changed.
fn run_records(seed: u64, mutation: Mutation) -> Result<(), String> {
    run_to_end(seed, mutation, records::run)
}

#[test]
fn every_proxy_goes_by_a_change_of_a_container_once_it_is_acknowledged() {
    for seed in seeds(0..1000) {
        if let Err(wrong) = run_records(seed, Mutation::default()) {
            panic!("seed {seed}: {wrong}\nrun it alone with SIM_SEEDS={seed}..{}", seed + 1);
        }
    }
}

#[test]
fn mistakes_with_records_are_noticed() {
    for store in [Weakness::ShortLeases, Weakness::LostChanges] {
        let mutation = Mutation { store, ..Mutation::default() };
        let caught = (0..2000).find(|seed| run_records(*seed, mutation).is_err());
        println!("{mutation:?}: seed {caught:?}");
        assert!(caught.is_some(), "{mutation:?}");
    }
}

#[test]
fn a_container_is_deleted_only_with_nothing_in_it() {
    for seed in seeds(0..1000) {
        if let Err(wrong) = run_containers(seed, Mutation::default(), false) {
            panic!("seed {seed}: {wrong}\nrun it alone with SIM_SEEDS={seed}..{}", seed + 1);
        }
    }
}

#[test]
fn a_container_whose_listing_is_split_is_deleted_only_with_nothing_in_it() {
    for seed in seeds(0..1000) {
        if let Err(wrong) = run_containers(seed, Mutation::default(), true) {
            panic!("seed {seed}: {wrong}\nrun it alone with SIM_SEEDS={seed}..{}", seed + 1);
        }
    }
}

/// One run of a listing that is split: in how many directories it is at the end.
fn run_shards(seed: u64, mutation: Mutation) -> Result<usize, String> {
    run_to_end(seed, mutation, shards::run)
}

#[test]
fn a_listing_that_is_split_shows_every_acknowledged_write() {
    let mut parts = 0;
    let seeds = seeds(0..1000);
    let runs = seeds.end - seeds.start;
    for seed in seeds {
        match run_shards(seed, Mutation::default()) {
            Ok(found) => parts += found as u64,
            Err(wrong) => panic!("seed {seed}: {wrong}\nrun it alone with SIM_SEEDS={seed}..{}", seed + 1),
        }
    }
    println!("{parts} parts in {runs} runs");
    assert!(2 * parts > 3 * runs, "hardly anything was split: {parts} parts in {runs} runs");
}

#[test]
fn a_page_of_a_listing_that_is_split_shows_what_there_is() {
    let mut parts = 0;
    let seeds = seeds(0..200);
    let runs = (seeds.end - seeds.start) as usize;
    for seed in seeds {
        let compared = run_to_end(seed, Mutation::default(), shards::compare);
        parts += compared.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
    assert!(parts > 3 * runs, "hardly anything was split: {parts} parts in {runs} runs");
}

#[test]
fn mistakes_in_splitting_are_noticed() {
    let unfenced = Faults { ignores_bounds: true, ..Faults::default() };
    let mistakes = [
        Mutation { node: unfenced, ..Mutation::default() },
        Mutation { store: Weakness::NoInstall, ..Mutation::default() },
    ];
    for mistake in mistakes {
        let caught = (0..2000).find(|seed| run_shards(*seed, mistake).is_err());
        println!("{mistake:?}: seed {caught:?}");
        assert!(caught.is_some(), "{mistake:?}");
    }
}

#[test]
fn a_deletion_that_counts_at_a_minority_is_noticed() {
    let mutation = Mutation { store: Weakness::MinorityDeletes, ..Mutation::default() };
    let caught = (0..2000).find(|seed| run_containers(*seed, mutation, false).is_err());
    println!("{mutation:?}: seed {caught:?}");
    assert!(caught.is_some());
}

/// One run of an account that is deleted, reaped and made again while it is written to.
fn run_reaper(seed: u64, mutation: Mutation) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let world = World::new(seed, if seed % 3 == 2 { 5 } else { 3 }, mutation);
        let run = timeout(LIMIT, reaper::run(world.clone())).await;
        world.close();
        run.unwrap_or_else(|_| Err("it does not end".into()))
    })
}

#[test]
fn a_reaper_takes_nothing_of_an_account_that_lives() {
    for seed in seeds(0..500) {
        if let Err(wrong) = run_reaper(seed, Mutation::default()) {
            panic!("seed {seed}: {wrong}\nrun it alone with SIM_SEEDS={seed}..{}", seed + 1);
        }
    }
}

/// How many seeds it takes to notice a mistake.
fn caught(mutation: Mutation) -> Option<u64> {
    (0..2000).find(|seed| run(*seed, mutation).1.is_err())
}

#[test]
fn every_mistake_is_noticed() {
    let store = |store| Mutation { store, ..Mutation::default() };
    let node = |node| Mutation { node, ..Mutation::default() };
    let mistakes = [
        store(Weakness::SmallQuorum),
        store(Weakness::NoWriteBack),
        store(Weakness::NoFence),
        store(Weakness::NoPrepare),
        node(Faults { no_sync: true, ..Faults::default() }),
        node(Faults { takes_older: true, ..Faults::default() }),
        node(Faults { breaks_promises: true, ..Faults::default() }),
        node(Faults { forgets_promises: true, ..Faults::default() }),
    ];
    let missed: Vec<Mutation> = mistakes
        .into_iter()
        .filter(|mistake| match caught(*mistake) {
            Some(seed) => {
                println!("{mistake:?}: seed {seed}");
                false
            }
            None => true,
        })
        .collect();
    assert_eq!(missed, []);
}
