//! Nothing of an account that lives is lost: an account that is deleted while it is written to, reaped by several who die or stand still, and made
//! again with the same names.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use kodiak_proxy::store::{NewObject, Precondition, SharedStore, StoreError};
use kodiak_storage_api::{ListQuery, ObjectPath, PolicyIndex};
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::{sleep, timeout};

use crate::world::World;

const POLICY: PolicyIndex = PolicyIndex(0);
const PATIENCE: Duration = Duration::from_secs(6);
const CONTAINERS: [(&str, &str); 4] = [("a", "c0"), ("a", "c1"), ("other", "c0"), ("\0uploads\0a", "c0")];

struct Story {
    world: Arc<World>,
    over: AtomicBool,
    /// Everything whose write was acknowledged before the account was deleted, or concurrently.
    before: Mutex<BTreeSet<ObjectPath>>,
    /// What was acknowledged in the account's second life.
    after: Mutex<BTreeSet<ObjectPath>>,
    /// Its containers whose creation was acknowledged. Those of makers that died are shown by the queue of
    /// totals, which is not simulated.
    made: Mutex<BTreeSet<String>>,
}

async fn put(store: &SharedStore, path: &ObjectPath) -> Result<(), StoreError> {
    let mut upload = store.upload(path.clone(), POLICY, false);
    upload.write(Bytes::from_static(b"x")).await?;
    store.commit(upload.finish().await?, NewObject::default(), Precondition::None).await.map(drop)
}

impl Story {
    async fn pause(&self, longest: u64) {
        let pause = self.world.random(|random| random.random_range(0..longest));
        sleep(Duration::from_millis(pause)).await;
    }

    /// Writes objects, and containers that may be gone, until everything is over.
    async fn write(self: Arc<Story>) {
        for number in 0.. {
            self.pause(200).await;
            if self.over.load(Relaxed) {
                return;
            }
            let (account, container) = self.world.random(|random| CONTAINERS[random.random_range(0..4)]);
            let store = self.world.proxy();
            if number % 4 == 0 {
                let made = store.create_container(account, container, POLICY, Vec::new());
                let _ = timeout(PATIENCE, made).await;
            }
            let path = ObjectPath::new(account, container, &format!("old{number}"));
            if store.container(account, container).await.is_ok()
                && let Ok(Ok(())) = timeout(PATIENCE, put(&store, &path)).await
            {
                self.before.lock().insert(path);
            }
        }
    }

    /// Empties the account, now and then dying on the way, or standing still.
    async fn reap(self: Arc<Story>) {
        while !self.over.load(Relaxed) {
            self.pause(300).await;
            let store = self.world.proxy();
            let life = self.world.random(|random| random.random_range(1..3000));
            let mut reaping = pin!(store.reap_account("a"));
            if timeout(Duration::from_millis(life), &mut reaping).await.is_err()
                && self.world.random(|random| random.random_range(0..2) == 0)
            {
                self.pause(20_000).await;
                let _ = timeout(PATIENCE, reaping).await;
            }
        }
    }

    /// Deletes the account and makes it again as soon as it may be.
    async fn live_twice(self: Arc<Story>) {
        self.pause(2000).await;
        let deleted = timeout(PATIENCE, self.world.proxy().delete_account("a")).await;
        if !matches!(deleted, Ok(Ok(()))) {
            // It may take effect at any time: nobody can tell one life from the next.
            self.over.store(true, Relaxed);
            return;
        }
        // Emptying it may take the repair, which is not simulated: then there is no second life.
        for tries in 0.. {
            if tries == 400 {
                self.over.store(true, Relaxed);
                return;
            }
            self.pause(300).await;
            let created = timeout(PATIENCE, self.world.proxy().create_account("a", Vec::new())).await;
            if matches!(created, Ok(Ok(_))) {
                break;
            }
        }
        for number in 0..12 {
            let store = self.world.proxy();
            let container = ["c0", "c1"][number % 2];
            let made = timeout(PATIENCE, store.create_container("a", container, POLICY, Vec::new())).await;
            if matches!(made, Ok(Ok((_, true)))) {
                self.made.lock().insert(container.to_owned());
            }
            let path = ObjectPath::new("a", container, &format!("new{number}"));
            if matches!(made, Ok(Ok(_))) && matches!(timeout(PATIENCE, put(&store, &path)).await, Ok(Ok(())))
            {
                self.after.lock().insert(path);
            }
            self.pause(2000).await;
        }
        self.over.store(true, Relaxed);
    }
}

async fn names(store: &SharedStore, account: &str) -> Result<Vec<String>, String> {
    let query = ListQuery { limit: 1000, ..ListQuery::default() };
    let page = store.list_all_containers(account, query).await.map_err(|error| error.to_string())?;
    Ok(page.entries.iter().map(|entry| entry.name().to_owned()).collect())
}

/// Runs until everything works again. That nothing of the deleted account is left is for the end-to-end test: it
/// takes the repair, which is not simulated.
pub async fn run(world: Arc<World>) -> Result<(), String> {
    for (account, container) in CONTAINERS {
        let made = world.proxy().create_container(account, container, POLICY, Vec::new()).await;
        made.map_err(|error| error.to_string())?;
    }
    sleep(Duration::from_secs(2)).await;
    let story = Arc::new(Story {
        world: world.clone(),
        over: AtomicBool::new(false),
        before: Mutex::default(),
        after: Mutex::default(),
        made: Mutex::default(),
    });
    let storm = tokio::spawn(world.clone().storm());
    let mut tasks = vec![tokio::spawn(story.clone().live_twice()), tokio::spawn(story.clone().write())];
    tasks.extend((0..3).map(|_| tokio::spawn(story.clone().reap())));
    for task in tasks {
        task.await.map_err(|broken| broken.to_string())?;
    }
    world.heal().await;
    storm.await.map_err(|broken| broken.to_string())?;
    sleep(Duration::from_secs(10)).await;
    let store = world.proxy();
    let kept = story.before.lock().clone().into_iter().filter(|path| path.account() == "other");
    let after = story.after.lock().clone();
    for path in kept.chain(after) {
        store.head(&path, POLICY).await.map_err(|error| format!("{path} is lost: {error}"))?;
        let shown = names(&store, path.account()).await?;
        let sure = path.account() == "other" || story.made.lock().contains(path.container());
        if sure && !shown.contains(&path.container().to_owned()) {
            return Err(format!("the account of {path} shows {shown:?}"));
        }
    }
    Ok(())
}
