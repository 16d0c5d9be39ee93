//! Containers that are deleted while objects are put into them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kodiak_proxy::store::{NewObject, Precondition, SharedStore, StoreError, Whose};
use kodiak_storage_api::{Entry, ListQuery, ObjectPath, PolicyIndex};
use rand::Rng;
use tokio::time::{Instant, sleep, timeout};

use crate::world::World;

const CONTAINERS: usize = 4;
const OBJECTS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(6);

/// What clients were told.
#[derive(Default)]
struct Told {
    /// Objects whose write was acknowledged, and when.
    stored: Vec<(String, Instant)>,
    /// When the last deletion that was acknowledged began.
    deleted: Option<Instant>,
}

async fn put(store: &SharedStore, container: &str, object: &str) -> Result<(), StoreError> {
    let path = ObjectPath::new("a", container, object);
    let mut upload = store.upload(path, PolicyIndex(0), false);
    upload.write(Bytes::from_static(b"x")).await?;
    let staged = upload.finish().await?;
    store.commit(staged, NewObject::default(), Precondition::None).await.map(drop)
}

async fn pause(world: &World, longest: u64) {
    let pause = world.random(|random| random.random_range(0..longest));
    sleep(Duration::from_micros(pause)).await;
}

/// Splits the container's listing at any time, and leaves the work to others at any step.
async fn split(world: Arc<World>, container: &str) {
    let path = format!("a/{container}");
    for _ in 0..4 {
        pause(&world, 80_000).await;
        let store = world.proxy();
        let step = world.random(|random| random.random_range(0..5));
        let work = async {
            match step {
                0..3 => store.split_parts(&path, 1).await,
                3 => {
                    world.repair().await;
                    Ok(())
                }
                _ => store.keep_listing(&path, Whose::All).await,
            }
        };
        let _ = timeout(PATIENCE, work).await;
    }
}

async fn one(world: Arc<World>, container: String, splits: bool) -> Told {
    let writes = async {
        let mut stored = Vec::new();
        for number in 0..OBJECTS {
            pause(&world, 60_000).await;
            let (store, object) = (world.proxy(), number.to_string());
            if let Ok(Ok(())) = timeout(PATIENCE, put(&store, &container, &object)).await {
                stored.push((object, Instant::now()));
            }
        }
        stored
    };
    let deletes = async {
        let mut deleted = None;
        for _ in 0..3 {
            pause(&world, 100_000).await;
            let (store, begun) = (world.proxy(), Instant::now());
            let answer = timeout(PATIENCE, store.delete_container("a", &container)).await;
            deleted = deleted.max(matches!(answer, Ok(Ok(()))).then_some(begun));
        }
        deleted
    };
    let splits = async {
        if splits {
            split(world.clone(), &container).await;
        }
    };
    let (stored, deleted, ()) = tokio::join!(writes, deletes, splits);
    Told { stored, deleted }
}

fn names(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(Entry::name).collect()
}

/// Runs until everything works again; what was acknowledged must be there then.
pub async fn run(world: Arc<World>, splits: bool) -> Result<(), String> {
    let containers: Vec<String> = (0..CONTAINERS).map(|number| format!("c{number}")).collect();
    for container in &containers {
        let made = world.proxy().create_container("a", container, PolicyIndex(0), Vec::new()).await;
        made.map_err(|error| error.to_string())?;
    }
    sleep(Duration::from_secs(2)).await;
    let storm = tokio::spawn(world.clone().storm());
    let tasks: Vec<_> = containers
        .iter()
        .map(|container| tokio::spawn(one(world.clone(), container.clone(), splits)))
        .collect();
    let mut told = Vec::new();
    for task in tasks {
        told.push(task.await.map_err(|broken| broken.to_string())?);
    }
    world.heal().await;
    storm.await.map_err(|broken| broken.to_string())?;
    if splits {
        // What a deletion has left closed is opened after a while.
        sleep(Duration::from_secs(60)).await;
        for _ in 0..2 {
            world.repair().await;
        }
        for container in &containers {
            let kept = world.proxy().keep_listing(&format!("a/{container}"), Whose::All).await;
            kept.map_err(|error| format!("{container} is not kept: {error}"))?;
        }
    }
    let store = world.proxy();
    let all = |error: StoreError| error.to_string();
    let account = store.list_containers("a", ListQuery { limit: 100, ..ListQuery::default() }).await;
    let account = account.map_err(all)?;
    for (container, told) in containers.iter().zip(told) {
        check(&store, container, &told, names(&account.entries).contains(&container.as_str())).await?;
    }
    Ok(())
}

async fn check(store: &SharedStore, container: &str, told: &Told, shown: bool) -> Result<(), String> {
    let exists = match store.container("a", container).await {
        Ok(_) => true,
        Err(StoreError::NoContainer) => false,
        Err(error) => return Err(format!("{container}: {error}")),
    };
    // What was stored later is in a container that has come back, and must be there below.
    if told.stored.iter().any(|(_, stored)| told.deleted.is_some_and(|deleted| *stored < deleted)) {
        return Err(format!("{container} was deleted with {:?} in it", told.stored));
    }
    // It may exist again: the message that undoes an earlier deletion, which was refused, may come late, and
    // carry a time of a clock that is fast. But nobody is shown what is not there.
    if told.deleted.is_some() && !exists && shown {
        return Err(format!("{container} was deleted, and its account shows it"));
    }
    if told.stored.is_empty() {
        return Ok(());
    }
    if !exists || !shown {
        return Err(format!("{container} with {:?}: exists: {exists}, shown: {shown}", told.stored));
    }
    let page = store.list_objects("a", container, ListQuery { limit: 100, ..ListQuery::default() }).await;
    let page = page.map_err(|error| error.to_string())?;
    for (object, _) in &told.stored {
        let path = ObjectPath::new("a", container, object);
        let read = store.head(&path, PolicyIndex(0)).await;
        if read.is_err() || !names(&page.entries).contains(&object.as_str()) {
            return Err(format!("{path}: {read:?}, listed: {:?}", names(&page.entries)));
        }
    }
    Ok(())
}
