//! A recorded history of concurrent operations on few keys is checked for linearizability.
//!
//! An object and its row in the listing are two registers: a write changes one after the other before it
//! is answered. A reader may therefore see an object that a listing does not show yet, as long as its
//! write is not answered; what was acknowledged before a listing began is in it (list-after-write).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use kodiak_tests::{Client, Event, Operation, Store, linearizable};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KEYS: usize = 4;
const CLIENTS: u64 = 6;
const OPERATIONS: u64 = 48;

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
            Operation::Get(if answer.status == 200 { Some((text.parse()?, 0)) } else { None })
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
                    history.lock().expect("history")[key].push(Event {
                        operation,
                        begun,
                        ended: Some(ended),
                    });
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
