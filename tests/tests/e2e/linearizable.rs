//! A recorded history of concurrent operations on few keys is checked for linearizability.
//!
//! Source: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993), with the memory of visited
//! states of Lowe (2017). Each key is a register of its own, so each history is checked by itself.
//!
//! An object and its row in the listing are two registers: a write changes one after the other before it
//! is answered. A reader may therefore see an object that a listing does not show yet, as long as its
//! write is not answered; what was acknowledged before a listing began is in it (list-after-write).

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use kodiak_tests::{Client, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KEYS: usize = 4;
const CLIENTS: u64 = 6;
const OPERATIONS: u64 = 48;

/// What was asked, and what was answered.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Put(u64),
    /// `If-None-Match: *`, and whether it was done.
    Create(u64, bool),
    /// Whether there was something.
    Delete(bool),
    Get(Option<u64>),
    /// A deletion that is known to have taken place, as the listing sees it.
    Remove,
    /// Whether the listing shows the key.
    Listed(bool),
}

/// An operation and the instants of a shared counter at which it began and ended.
#[derive(Clone, Copy, Debug)]
struct Event {
    operation: Operation,
    begun: u64,
    ended: u64,
}

impl Operation {
    /// Whether the operation tells something of the row in the listing.
    fn concerns_row(self) -> bool {
        matches!(
            self,
            Operation::Put(_) | Operation::Create(_, true) | Operation::Delete(true) | Operation::Listed(_)
        )
    }

    /// The operation as one on the row: a write that took place depends on the object alone.
    fn on_row(self) -> Operation {
        match self {
            Operation::Create(value, true) => Operation::Put(value),
            Operation::Delete(true) => Operation::Remove,
            other => other,
        }
    }

    /// The register after the operation; none if the answer could not have been given.
    fn apply(self, register: Option<u64>) -> Option<Option<u64>> {
        match self {
            Operation::Put(value) => Some(Some(value)),
            Operation::Create(value, true) => register.is_none().then_some(Some(value)),
            Operation::Create(_, false) => register.is_some().then_some(register),
            Operation::Delete(found) => (register.is_some() == found).then_some(None),
            Operation::Remove => Some(None),
            Operation::Get(value) => (register == value).then_some(register),
            Operation::Listed(shown) => (register.is_some() == shown).then_some(register),
        }
    }
}

/// Whether some order of the events, in which none comes before one that had ended when it began, gives
/// every answer.
fn linearizable(events: &[Event]) -> bool {
    assert!(events.len() <= 128, "events are a bit mask");
    let all = if events.len() == 128 { u128::MAX } else { (1 << events.len()) - 1 };
    let mut seen = HashSet::new();
    let mut open = vec![(0u128, None)];
    while let Some((done, register)) = open.pop() {
        if done == all {
            return true;
        }
        let waiting = || events.iter().enumerate().filter(|(index, _)| done >> index & 1 == 0);
        let first_end = waiting().map(|(_, event)| event.ended).min().unwrap_or(u64::MAX);
        for (index, event) in waiting().filter(|(_, event)| event.begun < first_end) {
            if let Some(next) = event.operation.apply(register) {
                let state = (done | 1 << index, next);
                if seen.insert(state) {
                    open.push(state);
                }
            }
        }
    }
    false
}

async fn one(client: &Client, key: usize, random: &mut StdRng, value: u64) -> Result<Operation> {
    let path = format!("/c/{key}");
    let body = Bytes::from(value.to_string());
    Ok(match random.random_range(0..10) {
        0..3 => {
            assert_eq!(client.put(&path, body).await?, 201);
            Operation::Put(value)
        }
        3 => {
            let answer = client.send(Method::PUT, &path, &[("if-none-match", "*")], body).await?;
            Operation::Create(value, answer.status == 201)
        }
        4 => Operation::Delete(client.delete(&path).await? == 204),
        5 => Operation::Listed(client.list("c").await?.contains(&key.to_string())),
        _ => {
            let answer = client.get(&path).await?;
            let text = String::from_utf8(answer.body.to_vec())?;
            Operation::Get(if answer.status == 200 { Some(text.parse()?) } else { None })
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_operations_on_a_key_are_linearizable() -> Result<()> {
    for seed in 1..=5 {
        println!("seed {seed}");
        let store = Store::start()?;
        Client::log_in(&store).await?.put("/c", Bytes::new()).await?;
        let history: Arc<Mutex<Vec<Vec<Event>>>> = Arc::new(Mutex::new(vec![Vec::new(); KEYS]));
        let instant = Arc::new(AtomicU64::new(1));
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let client = Client::log_in(&store).await?;
            let (history, instant) = (history.clone(), instant.clone());
            clients.push(tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed * 1000 + number);
                for operation in 0..OPERATIONS {
                    let key = random.random_range(0..KEYS);
                    let value = number * OPERATIONS + operation;
                    let begun = instant.fetch_add(1, Ordering::SeqCst);
                    let operation = one(&client, key, &mut random, value).await?;
                    let ended = instant.fetch_add(1, Ordering::SeqCst);
                    history.lock().expect("history")[key].push(Event { operation, begun, ended });
                }
                anyhow::Ok(())
            }));
        }
        for client in clients {
            client.await??;
        }
        for events in history.lock().expect("history").iter_mut() {
            events.sort_by_key(|event| event.begun);
            let listed = |event: &&Event| matches!(event.operation, Operation::Listed(_));
            let object: Vec<Event> = events.iter().filter(|event| !listed(event)).copied().collect();
            assert!(linearizable(&object), "seed {seed}: object {object:?}");
            let row: Vec<Event> = events
                .iter()
                .filter(|event| event.operation.concerns_row())
                .map(|event| Event { operation: event.operation.on_row(), ..*event })
                .collect();
            assert!(linearizable(&row), "seed {seed}: row {row:?}");
        }
    }
    Ok(())
}

#[test]
fn the_checker_knows_a_stale_read() {
    let event = |operation, begun, ended| Event { operation, begun, ended };
    let good = [
        event(Operation::Put(1), 1, 4),
        event(Operation::Get(None), 2, 3),
        event(Operation::Get(Some(1)), 5, 6),
    ];
    assert!(linearizable(&good));
    let stale = [
        event(Operation::Put(1), 1, 2),
        event(Operation::Put(2), 3, 4),
        event(Operation::Get(Some(1)), 5, 6),
    ];
    assert!(!linearizable(&stale));
}

#[test]
fn the_checker_knows_a_listing_that_misses_an_acknowledged_write() {
    let event = |operation, begun, ended| Event { operation, begun, ended };
    let in_flight = [event(Operation::Put(1), 1, 4), event(Operation::Listed(false), 2, 3)];
    assert!(linearizable(&in_flight));
    let missed = [event(Operation::Put(1), 1, 2), event(Operation::Listed(false), 3, 4)];
    assert!(!linearizable(&missed));
}
