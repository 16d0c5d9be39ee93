//! Listings that are split while everybody writes, deletes and lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use kodiak_proxy::store::{NewObject, Precondition, SharedStore, StoreError, Whose};
use kodiak_storage_api::{Entry, ListQuery, ObjectPath, PolicyIndex};
use kodiak_tests::{Event, Operation, linearizable};
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::{sleep, timeout};

use crate::history::{misses, show};
use crate::world::World;

const POLICY: PolicyIndex = PolicyIndex(0);
const PATH: &str = "a/c";
/// Names of the container.
const NAMES: usize = 12;
/// A client that has waited so long goes on without an answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// Rows with which a part of a listing is split.
const ROWS: u64 = 2;

type Events = BTreeMap<String, Vec<Event>>;

/// What the clients of one container have seen.
struct Seen {
    world: Arc<World>,
    instant: AtomicU64,
    events: Mutex<Events>,
}

async fn put(store: &SharedStore, container: &str, name: &str, value: u64) -> Result<(), StoreError> {
    let mut upload = store.upload(ObjectPath::new("a", container, name), POLICY, false);
    upload.write(Bytes::from(value.to_string())).await?;
    let object = NewObject { etag: Some(format!("{value:x}")), ..NewObject::default() };
    store.commit(upload.finish().await?, object, Precondition::None).await.map(drop)
}

async fn delete(store: &SharedStore, container: &str, name: &str) -> Result<(), StoreError> {
    let path = ObjectPath::new("a", container, name);
    store.delete_object(&path, POLICY, Precondition::None).await.map(drop)
}

/// All names, some at a time.
async fn listed(store: &SharedStore, limit: usize) -> Result<Vec<String>, StoreError> {
    let mut query = ListQuery { limit, ..ListQuery::default() };
    let mut names: Vec<String> = Vec::new();
    loop {
        let page = store.list_objects("a", "c", query.clone()).await?;
        names.extend(page.entries.iter().map(|entry| entry.name().to_owned()));
        query.marker = names.last().cloned();
        if !page.truncated {
            assert!(names.is_sorted_by(|a, b| a < b), "out of order: {names:?}");
            return Ok(names);
        }
    }
}

fn name(number: usize) -> String {
    format!("{:02}", number % NAMES)
}

impl Seen {
    fn note(&self, name: &str, operation: Operation, begun: u64, answered: bool) {
        let ended = answered.then(|| self.instant.fetch_add(1, Relaxed));
        let event = Event { operation, begun, ended };
        self.events.lock().entry(name.to_owned()).or_default().push(event);
    }

    async fn client(self: Arc<Self>, operations: usize) {
        for _ in 0..operations {
            let pause = self.world.random(|random| random.random_range(0..40_000));
            sleep(Duration::from_micros(pause)).await;
            let (store, name) =
                (self.world.proxy(), name(self.world.random(|random| random.random_range(0..NAMES))));
            let begun = self.instant.fetch_add(1, Relaxed);
            match self.world.random(|random| random.random_range(0..10)) {
                0..6 => {
                    let done = timeout(PATIENCE, put(&store, "c", &name, begun)).await;
                    self.note(&name, Operation::Put(begun), begun, matches!(done, Ok(Ok(()))));
                }
                6 | 7 => {
                    let (answer, known) = match timeout(PATIENCE, delete(&store, "c", &name)).await {
                        Ok(Ok(())) => (true, true),
                        Ok(Err(StoreError::NoObject)) => (false, true),
                        _ => (true, false),
                    };
                    self.note(&name, Operation::Delete(answer), begun, known);
                }
                _ => self.list(&store, begun).await,
            }
        }
    }

    async fn list(&self, store: &SharedStore, begun: u64) {
        let limit = self.world.random(|random| random.random_range(1..20));
        if let Ok(Ok(names)) = timeout(PATIENCE, listed(store, limit)).await {
            let ended = Some(self.instant.fetch_add(1, Relaxed));
            let mut events = self.events.lock();
            for name in (0..NAMES).map(name) {
                let operation = Operation::Listed(names.contains(&name));
                events.entry(name).or_default().push(Event { operation, begun, ended });
            }
        }
    }

    /// Splits, and goes on with what others have begun.
    async fn splitter(self: Arc<Self>, rounds: usize) {
        for _ in 0..rounds {
            let pause = self.world.random(|random| random.random_range(0..150_000));
            sleep(Duration::from_micros(pause)).await;
            let store = self.world.proxy();
            let step = self.world.random(|random| random.random_range(0..6));
            let work = async {
                match step {
                    0..3 => store.split_parts(PATH, ROWS).await,
                    3 => store.finish_moves(PATH).await.map(drop),
                    4 => {
                        self.world.repair().await;
                        Ok(())
                    }
                    _ => store.keep_listing(PATH, Whose::All).await,
                }
            };
            // What fails or takes too long is left as it is.
            let _ = timeout(PATIENCE, work).await;
        }
    }

    /// After everything works again.
    async fn settle(&self) -> Result<(), String> {
        let fail = |what: &str, error: StoreError| format!("{what}: {error}");
        // One pass brings records, and what they allow another.
        for _ in 0..2 {
            self.world.repair().await;
        }
        for _ in 0..20 {
            let store = self.world.proxy();
            store.keep_listing(PATH, Whose::All).await.map_err(|error| fail("keep", error))?;
            if store.finish_moves(PATH).await.map_err(|error| fail("move", error))? {
                break;
            }
        }
        for away in 0..self.world.nodes.len() {
            self.world.isolate(Some(away));
            for name in (0..NAMES).map(name) {
                let begun = self.instant.fetch_add(1, Relaxed);
                let path = ObjectPath::new("a", "c", &name);
                let read = match self.world.proxy().head(&path, POLICY).await {
                    Ok(record) => Some((u64::from_str_radix(&record.etag, 16).expect("our ETag"), 0)),
                    Err(StoreError::NoObject) => None,
                    Err(error) => return Err(fail(&name, error)),
                };
                self.note(&name, Operation::Get(read), begun, true);
            }
            let begun = self.instant.fetch_add(1, Relaxed);
            self.list(&self.world.proxy(), begun).await;
        }
        self.world.isolate(None);
        self.world.repair().await;
        let store = self.world.proxy();
        store.keep_listing(PATH, Whose::All).await.map_err(|error| fail("keep", error))?;
        store.tell_totals(PATH).await.map_err(|error| fail("totals", error))?;
        // The last replica is told in the background.
        sleep(Duration::from_secs(2)).await;
        let names = listed(&store, 100).await.map_err(|error| fail("listing", error))?;
        let counted = store.container("a", "c").await.map_err(|error| fail("totals", error))?.stats;
        if counted.rows != names.len() as u64 {
            return Err(format!("{} rows are counted of {names:?}", counted.rows));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        self.events.lock().iter().try_for_each(|(name, events)| {
            let is_listing = |event: &&Event| matches!(event.operation, Operation::Listed(_));
            let object: Vec<Event> = events.iter().filter(|event| !is_listing(event)).copied().collect();
            if !linearizable(&object) {
                return Err(format!("{name} is not linearizable: {}", show(&object)));
            }
            let missed = events.iter().filter(is_listing).find(|listing| misses(events, listing));
            missed.map_or(Ok(()), |listing| Err(format!("{listing:?} of {name}: {}", show(&object))))
        })
    }
}

/// Clients and splitters in a storm; and then what was acknowledged must be there.
pub async fn run(world: Arc<World>) -> Result<usize, String> {
    let made = world.proxy().create_container("a", "c", POLICY, Vec::new()).await;
    made.map_err(|error| error.to_string())?;
    sleep(Duration::from_secs(2)).await;
    let seen = Arc::new(Seen { world: world.clone(), instant: AtomicU64::new(1), events: Mutex::default() });
    let storm = tokio::spawn(world.clone().storm());
    let mut tasks: Vec<_> = (0..4).map(|_| tokio::spawn(seen.clone().client(25))).collect();
    tasks.extend((0..2).map(|_| tokio::spawn(seen.clone().splitter(8))));
    for task in tasks {
        task.await.map_err(|broken| broken.to_string())?;
    }
    world.heal().await;
    storm.await.map_err(|broken| broken.to_string())?;
    seen.settle().await?;
    seen.check()?;
    world.proxy().listing_parts(PATH).await.map_err(|error| error.to_string())
}

fn random_query(world: &World) -> ListQuery {
    world.random(|random| {
        let mut text = |of: u32| {
            let letters = ["a", "b", "/", "c/"];
            let text: String = (0..of).map(|_| letters[random.random_range(0..letters.len())]).collect();
            (random.random_range(0..3) == 0).then_some(text)
        };
        let (prefix, marker, end_marker) = (text(2).unwrap_or_default(), text(3), text(3));
        let delimiter = (random.random_range(0..2) == 0).then(|| "/".to_owned());
        ListQuery {
            prefix,
            marker,
            end_marker,
            limit: random.random_range(1..12),
            // Prefixes in reverse have a known gap, see ARCHITECTURE.md.
            reverse: delimiter.is_none() && random.random(),
            delimiter,
            ..ListQuery::default()
        }
    })
}

/// What a page shows of names, in order, and whether more follow.
fn model(names: &BTreeSet<String>, query: &ListQuery) -> (Vec<String>, bool) {
    let mut shown: Vec<String> = Vec::new();
    let mut names: Vec<&String> = names.iter().filter(|name| name.starts_with(&query.prefix)).collect();
    if query.reverse {
        names.reverse();
    }
    let later = |a: &str, b: &str| if query.reverse { a < b } else { a > b };
    for name in names {
        let (marker, end) = (query.marker.as_deref(), query.end_marker.as_deref());
        if marker.is_some_and(|marker| !later(name, marker)) || end.is_some_and(|end| !later(end, name)) {
            continue;
        }
        let delimiter =
            query.delimiter.as_deref().and_then(|d| Some((name[query.prefix.len()..].find(d)?, d)));
        let entry = match delimiter {
            Some((at, delimiter)) => &name[..query.prefix.len() + at + delimiter.len()],
            None => name,
        };
        let hidden = delimiter.is_some() && marker.is_some_and(|marker| !later(entry, marker));
        if !hidden && shown.last().map(String::as_str) != Some(entry) {
            shown.push(entry.to_owned());
        }
    }
    let more = shown.len() > query.limit;
    shown.truncate(query.limit);
    (shown, more)
}

/// A listing shows what there is, at any stage of being split.
pub async fn compare(world: Arc<World>) -> Result<usize, String> {
    let wrong = |error: StoreError| error.to_string();
    world.proxy().create_container("a", "c", POLICY, Vec::new()).await.map_err(wrong)?;
    sleep(Duration::from_secs(2)).await;
    let mut names = BTreeSet::new();
    for round in 0..6 {
        for value in 0..14 {
            let name: String = world.random(|random| {
                let letters = ["a", "b", "/", "c/"];
                let len = random.random_range(1..5);
                (0..len).map(|_| letters[random.random_range(0..letters.len())]).collect()
            });
            let store = world.proxy();
            if world.random(|random| random.random_range(0..3) == 0) {
                let done = delete(&store, "c", &name).await;
                match (names.remove(&name), done) {
                    (true, Ok(())) | (false, Err(StoreError::NoObject)) => {}
                    (was, done) => return Err(format!("{name}: {was}, {done:?}")),
                }
            } else {
                put(&store, "c", &name, value).await.map_err(wrong)?;
                names.insert(name);
            }
        }
        world.proxy().split_parts(PATH, 4).await.map_err(wrong)?;
        if world.random(|random| random.random_range(0..2) == 0) {
            world.proxy().finish_moves(PATH).await.map_err(wrong)?;
        }
        // The last replica gets rows in the background.
        sleep(Duration::from_secs(1)).await;
        for _ in 0..60 {
            let query = random_query(&world);
            let page = world.proxy().list_objects("a", "c", query.clone()).await.map_err(wrong)?;
            let shown: Vec<&str> = page.entries.iter().map(Entry::name).collect();
            let (expected, more) = model(&names, &query);
            // That a page says there is more, where there is nothing but tombstones, is not wrong.
            if shown != expected || more && !page.truncated {
                return Err(format!(
                    "round {round}, {query:?}:\n{shown:?}, {}\nbut it is\n{expected:?}, {more}",
                    page.truncated
                ));
            }
        }
    }
    world.proxy().listing_parts(PATH).await.map_err(wrong)
}
