//! Power goes at a random moment: what was acknowledged is there, whole and listed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::lossy::LossyDisk;
use crate::rig::{Rig, copy, settings};

/// Bodies by name; a write in flight may or may not have happened.
#[derive(Default, Clone)]
struct Known {
    /// `None`: deleted.
    acknowledged: BTreeMap<String, Option<Vec<u8>>>,
    in_flight: BTreeMap<String, Option<Vec<u8>>>,
}

async fn write_on(rig: Arc<Rig>, known: Arc<Mutex<Known>>, writer: usize, mut random: StdRng) {
    for i in 0u64.. {
        let name = format!("w{writer}-{}", random.random_range(0..12));
        let len = random.random_range(0..9000);
        let body = random.random_bool(0.8).then(|| format!("{writer}:{i}:{}", "x".repeat(len)).into_bytes());
        known.lock().unwrap().in_flight.insert(name.clone(), body.clone());
        let path = format!("a/c/{name}");
        let written = match &body {
            Some(body) => rig.put(&path, body).await,
            None => rig.delete(&path).await,
        };
        if written.is_err() {
            return;
        }
        let mut known = known.lock().unwrap();
        known.in_flight.remove(&name);
        known.acknowledged.insert(name, body);
    }
}

async fn verify(rig: &Rig, known: &Known) {
    let listed = rig.list("a/c").await;
    let mut bytes = 0;
    let names = known.acknowledged.keys().chain(known.in_flight.keys());
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let got = rig.get(&format!("a/c/{name}")).await.expect("readable").map(|b| b.to_vec());
        let before = known.acknowledged.get(name).cloned().flatten();
        let possible = got == before || known.in_flight.get(name).is_some_and(|body| *body == got);
        assert!(
            possible,
            "{name}: {:?}… is neither what was acknowledged nor what was in flight",
            got.map(|g| g.len())
        );
        assert_eq!(got.is_some(), listed.contains(name), "{name}: listing differs");
        bytes += got.map_or(0, |b| b.len() as u64);
    }
    let stats = rig.info("a/c").await.stats;
    assert_eq!((stats.rows, stats.bytes), (listed.len() as u64, bytes));
}

/// One life: open, verify what came before, write until the power goes.
async fn live(seed: u64, round: u64, folder: &std::path::Path, known: Known) -> Known {
    let mut random = StdRng::seed_from_u64(seed ^ round << 32);
    let disk = LossyDisk::default();
    let mut settings = settings(folder, 3);
    settings.checkpoint_bytes = 200_000;
    settings.volume_size = 400_000;
    settings.compaction_interval = 0;
    let rig = Arc::new(Rig::open_on(settings, Arc::new(disk.clone())));
    verify(&rig, &known).await;
    if round == 0 {
        rig.create("a/c").await;
    }
    // What came through the last cut is settled now.
    let mut settled = Known::default();
    for name in known.acknowledged.keys().chain(known.in_flight.keys()) {
        let body = rig.get(&format!("a/c/{name}")).await.unwrap().map(|b| b.to_vec());
        settled.acknowledged.insert(name.clone(), body);
    }
    let known = Arc::new(Mutex::new(settled));
    let writers: Vec<_> = (0..8)
        .map(|w| {
            tokio::spawn(write_on(rig.clone(), known.clone(), w, StdRng::seed_from_u64(random.random())))
        })
        .collect();
    let until = Duration::from_millis(random.random_range(5..250));
    tokio::time::sleep(until).await;
    disk.cut(&mut random);
    for writer in writers {
        writer.await.unwrap();
    }
    rig.node.shutdown();
    known.lock().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_power_loss() {
    let seed: u64 =
        std::env::var("KODIAK_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    let rounds: u64 = std::env::var("KODIAK_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(12);
    println!("KODIAK_SEED={seed} KODIAK_ROUNDS={rounds}");
    let mut folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 3));
    rig.create("a/c").await;
    rig.node.shutdown();
    drop(rig);
    let mut known = Known::default();
    for round in 0..rounds {
        known = live(seed, round, folder.path(), known).await;
        // The machine that comes up again finds only the files; sometimes without an index.
        let next = tempfile::tempdir().unwrap();
        copy(folder.path(), next.path());
        if round % 4 == 3 {
            std::fs::remove_dir_all(next.path().join(format!("d{}/index", 1 + round % 3))).unwrap();
        }
        folder = next;
    }
}
