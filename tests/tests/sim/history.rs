//! Clients of a simulated store, and what they saw.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use kodiak_proxy::store::{NewObject, Precondition, SharedStore, StoreError};
use kodiak_storage_api::{Entry, ListQuery, ObjectPath, ObjectRecord, PolicyIndex};
use kodiak_tests::{Event, Operation, Value, linearizable};
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::{sleep, timeout};

use crate::world::World;

pub const KEYS: usize = 2;
/// A client that has waited so long goes on without an answer.
const PATIENCE: Duration = Duration::from_secs(4);
const META: &str = "x-object-meta-m";
const POLICY: PolicyIndex = PolicyIndex(0);

/// Everything that clients have seen, by key.
pub struct History {
    world: Arc<World>,
    instant: AtomicU64,
    value: AtomicU64,
    events: Mutex<BTreeMap<usize, Vec<Event>>>,
}

/// What an attempt tells of an operation: its answer; that it may have been done; nothing at all.
enum Seen {
    Answer(Operation),
    Unknown(Operation),
    Nothing,
}

fn path(key: usize) -> ObjectPath {
    ObjectPath::new("a", "c", &key.to_string())
}

fn etag(value: u64) -> String {
    // Only equality matters.
    format!("{value:032x}")
}

fn meta(record: &ObjectRecord) -> u64 {
    record.header(META).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn content(record: &ObjectRecord) -> u64 {
    u64::from_str_radix(&record.etag, 16).expect("our ETag")
}

async fn put(store: &SharedStore, key: usize, value: u64, condition: Precondition) -> Result<(), StoreError> {
    let mut upload = store.upload(path(key), POLICY, false);
    upload.write(Bytes::from(value.to_string())).await?;
    let object = NewObject { etag: Some(etag(value)), ..NewObject::default() };
    store.commit(upload.finish().await?, object, condition).await.map(drop)
}

async fn get(store: &SharedStore, key: usize, head: bool) -> Result<Option<Value>, StoreError> {
    let read = if head {
        store.head(&path(key), POLICY).await
    } else {
        store.open(&path(key), POLICY).await.map(|object| {
            let bytes = object.inline(0..object.record().size).expect("small");
            assert_eq!(bytes, content(object.record()).to_string(), "bytes of another version");
            object.record().clone()
        })
    };
    match read {
        Ok(record) => Ok(Some((content(&record), meta(&record)))),
        Err(StoreError::NoObject) => Ok(None),
        Err(error) => Err(error),
    }
}

pub async fn listed(store: &SharedStore) -> Result<Vec<String>, StoreError> {
    let page = store.list_objects("a", "c", ListQuery { limit: 100, ..ListQuery::default() }).await?;
    Ok(page.entries.iter().map(Entry::name).map(str::to_owned).collect())
}

/// The answer of a write that may have been refused in two ways.
fn outcome(done: Result<(), StoreError>, answer: impl Fn(bool) -> Operation, refused: &[StoreError]) -> Seen {
    match done {
        Ok(()) => Seen::Answer(answer(true)),
        Err(error) if refused.contains(&error) => Seen::Answer(answer(false)),
        Err(StoreError::NoContainer) => panic!("the container is gone"),
        Err(_) => Seen::Unknown(answer(true)),
    }
}

impl History {
    pub fn new(world: Arc<World>) -> Arc<History> {
        let (instant, value) = (AtomicU64::new(1), AtomicU64::new(1));
        Arc::new(History { world, instant, value, events: Mutex::default() })
    }

    /// One client: so many operations, one after the other.
    pub async fn client(self: Arc<History>, operations: usize) {
        let mut last = None;
        for _ in 0..operations {
            let pause = self.world.random(|random| random.random_range(0..30_000));
            sleep(Duration::from_micros(pause)).await;
            let key = self.world.random(|random| random.random_range(0..KEYS));
            self.one(key, &mut last).await;
        }
    }

    async fn one(&self, key: usize, last: &mut Option<Value>) {
        let (store, value) = (self.world.proxy(), self.value.fetch_add(1, Relaxed));
        let kind = self.world.random(|random| random.random_range(0..12));
        let expected = last.map_or(0, |(content, _)| content);
        let begun = self.instant.fetch_add(1, Relaxed);
        let attempt = async {
            use StoreError::{NoObject, PreconditionFailed};
            match kind {
                0..2 => {
                    let done = put(&store, key, value, Precondition::None).await;
                    outcome(done, |_| Operation::Put(value), &[])
                }
                2..4 => {
                    let done = put(&store, key, value, Precondition::Absent).await;
                    outcome(done, |done| Operation::Create(value, done), &[PreconditionFailed])
                }
                4 | 5 => {
                    let done = put(&store, key, value, Precondition::Matches(vec![etag(expected)])).await;
                    let answer = |done| Operation::Swap(expected, value, done);
                    outcome(done, answer, &[PreconditionFailed, NoObject])
                }
                6 => {
                    let edit = move |record: &mut ObjectRecord| {
                        record.headers = vec![(META.into(), value.to_string())];
                        Ok(())
                    };
                    let done = store.update_object(&path(key), POLICY, edit).await.map(drop);
                    outcome(done, |done| Operation::Update(value, done), &[NoObject])
                }
                7 => {
                    let done = store.delete_object(&path(key), POLICY, Precondition::None).await.map(drop);
                    outcome(done, Operation::Delete, &[NoObject])
                }
                8 => match listed(&store).await {
                    Ok(names) => Seen::Answer(Operation::Listed(names.contains(&key.to_string()))),
                    Err(_) => Seen::Nothing,
                },
                _ => match get(&store, key, kind == 9).await {
                    Ok(value) => Seen::Answer(Operation::Get(value)),
                    Err(_) => Seen::Nothing,
                },
            }
        };
        let seen = timeout(PATIENCE, attempt).await.unwrap_or(match kind {
            0..2 => Seen::Unknown(Operation::Put(value)),
            2..4 => Seen::Unknown(Operation::Create(value, true)),
            4 | 5 => Seen::Unknown(Operation::Swap(expected, value, true)),
            6 => Seen::Unknown(Operation::Update(value, true)),
            7 => Seen::Unknown(Operation::Delete(true)),
            _ => Seen::Nothing,
        });
        let ended = self.instant.fetch_add(1, Relaxed);
        let (operation, ended) = match seen {
            Seen::Answer(operation) => (operation, Some(ended)),
            Seen::Unknown(operation) => (operation, None),
            Seen::Nothing => return,
        };
        if let Operation::Get(value) = operation {
            *last = value;
        }
        self.events.lock().entry(key).or_default().push(Event { operation, begun, ended });
    }

    /// After everything works again: every key is read through every majority, so that all replicas agree.
    pub async fn settle(&self) -> Result<(), String> {
        for away in 0..self.world.nodes.len() {
            self.world.isolate(Some(away));
            for key in 0..KEYS {
                let begun = self.instant.fetch_add(1, Relaxed);
                let read = get(&self.world.proxy(), key, false).await;
                let value = read.map_err(|error| format!("key {key} cannot be read: {error}"))?;
                let ended = Some(self.instant.fetch_add(1, Relaxed));
                let event = Event { operation: Operation::Get(value), begun, ended };
                self.events.lock().entry(key).or_default().push(event);
            }
        }
        for away in 0..self.world.nodes.len() {
            self.world.isolate(Some(away));
            let store = self.world.proxy();
            let names = listed(&store).await.map_err(|error| format!("no listing: {error}"))?;
            for key in 0..KEYS {
                let there = get(&store, key, true).await.map_err(|error| error.to_string())?.is_some();
                if names.contains(&key.to_string()) != there {
                    return Err(format!("key {key} is {there} and listed as {names:?} without node {away}"));
                }
            }
        }
        self.world.isolate(None);
        Ok(())
    }

    /// Whether what was seen can have been, and a number that stands for it.
    pub fn check(&self) -> (u64, Result<(), String>) {
        let events = self.events.lock();
        let mut hash = DefaultHasher::new();
        format!("{events:?}").hash(&mut hash);
        let check = events.iter().try_for_each(|(key, events)| {
            let is_listing = |event: &&Event| matches!(event.operation, Operation::Listed(_));
            let object: Vec<Event> = events.iter().filter(|event| !is_listing(event)).copied().collect();
            if !linearizable(&object) {
                return Err(format!("key {key} is not linearizable: {}", show(&object)));
            }
            let missed = events.iter().filter(is_listing).find(|listing| misses(events, listing));
            missed.map_or(Ok(()), |listing| Err(format!("{listing:?} of key {key}: {}", show(&object))))
        });
        (hash.finish(), check)
    }
}

/// Whether a listing contradicts a change that was acknowledged before it began, and that no other change
/// may have undone before it ended.
pub fn misses(events: &[Event], listing: &Event) -> bool {
    let Operation::Listed(shown) = listing.operation else { return false };
    let makes = |event: &Event| match event.operation {
        Operation::Put(_) | Operation::Create(_, true) | Operation::Swap(_, _, true) => Some(true),
        Operation::Delete(true) => Some(false),
        _ => None,
    };
    let ended = |event: &Event| event.ended.unwrap_or(u64::MAX);
    events.iter().filter(|event| ended(event) < listing.begun && makes(event) == Some(!shown)).any(|change| {
        let undoes = |other: &&Event| {
            makes(other) == Some(shown) && ended(other) > change.begun && other.begun < ended(listing)
        };
        !events.iter().any(|other| undoes(&other))
    })
}

pub fn show(events: &[Event]) -> String {
    let mut events = events.to_vec();
    events.sort_by_key(|event| event.begun);
    let line = |event: &Event| {
        let end = event.ended.map_or("?".into(), |end| end.to_string());
        format!("\n  {}..{end} {:?}", event.begun, event.operation)
    };
    events.iter().map(line).collect()
}
