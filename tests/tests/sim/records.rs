//! A container whose headers are changed while every proxy goes by its record.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use kodiak_proxy::store::{SharedStore, StoreError};
use kodiak_storage_api::{Directory, PolicyIndex};
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::{sleep, timeout};

use crate::world::World;

const HEADER: &str = "x-container-meta-number";
const CHANGES: u64 = 12;
const READERS: usize = 3;
const READS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(6);

/// What came of the changes.
#[derive(Default)]
struct Told {
    /// The newest number that was acknowledged.
    acknowledged: AtomicU64,
    /// Numbers of which nothing is known: they may take effect at any time.
    unknown: Mutex<HashSet<u64>>,
}

impl Told {
    /// Whether a number may be seen by who began when this one had been acknowledged.
    fn allows(&self, seen: u64, acknowledged: u64) -> bool {
        seen >= acknowledged || self.unknown.lock().contains(&seen)
    }
}

async fn pause(world: &World, longest: u64) {
    let pause = world.random(|random| random.random_range(0..longest));
    sleep(Duration::from_micros(pause)).await;
}

fn number(container: &Directory) -> u64 {
    container.header(HEADER).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// One client sets numbers, one after the other, at any proxy.
async fn change(world: Arc<World>, told: Arc<Told>) -> Result<(), String> {
    for number in 1..=CHANGES {
        pause(&world, 250_000).await;
        let headers = vec![(HEADER.to_owned(), number.to_string())];
        let store = world.proxy();
        told.unknown.lock().insert(number);
        if let Ok(Ok(())) = timeout(PATIENCE, store.update_container("a", "c", headers)).await {
            told.unknown.lock().remove(&number);
            told.acknowledged.store(number, Relaxed);
        }
    }
    Ok(())
}

/// Others go by the record at any proxy, and have to see what was acknowledged before they asked.
async fn read(world: Arc<World>, told: Arc<Told>) -> Result<(), String> {
    for _ in 0..READS {
        pause(&world, 90_000).await;
        let (store, before) = (world.proxy(), told.acknowledged.load(Relaxed));
        let Ok(Ok(record)) = timeout(PATIENCE, store.container_record("a", "c")).await else { continue };
        let seen = number(&record);
        if !told.allows(seen, before) {
            return Err(format!("the record of number {seen} is used after {before} was acknowledged"));
        }
    }
    Ok(())
}

/// Runs until everything works again.
pub async fn run(world: Arc<World>) -> Result<(), String> {
    let made = world.proxy().create_container("a", "c", PolicyIndex(0), Vec::new()).await;
    made.map_err(|error| error.to_string())?;
    sleep(Duration::from_secs(2)).await;
    let storm = tokio::spawn(world.clone().storm());
    let told = Arc::<Told>::default();
    let mut tasks = vec![tokio::spawn(change(world.clone(), told.clone()))];
    tasks.extend((0..READERS).map(|_| tokio::spawn(read(world.clone(), told.clone()))));
    let mut wrong = Ok(());
    for task in tasks {
        wrong = wrong.and(task.await.map_err(|broken| broken.to_string())?);
    }
    world.heal().await;
    storm.await.map_err(|broken| broken.to_string())?;
    wrong?;
    check(&world.proxy(), &told).await
}

async fn check(store: &SharedStore, told: &Told) -> Result<(), String> {
    let info = store.container("a", "c").await.map_err(|error: StoreError| error.to_string())?;
    let (at_last, acknowledged) = (number(&info.directory), told.acknowledged.load(Relaxed));
    if !told.allows(at_last, acknowledged) {
        return Err(format!("{acknowledged} was acknowledged and {at_last} is there at last"));
    }
    Ok(())
}
