//! Power goes, and takes what RocksDB had not synced: torn, cut off, or the whole file. (What becomes of the
//! volumes then is tested next to the storage code, above a disk that loses writes.)

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kodiak_tests::{Client, Depth, Ledger, Store, load};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

const ROUNDS: u64 = 12;
/// Disks lose whole sectors.
const SECTOR: u64 = 512;

/// The library that notes syncs, and where it does.
struct Notes {
    folder: TempDir,
}

impl Notes {
    fn new() -> Result<Notes> {
        let folder = TempDir::with_prefix("kodiak-synced-")?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/synced.c");
        let compiled = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(folder.path().join("synced.so"))
            .arg(source)
            .status()
            .context("cc")?;
        ensure!(compiled.success(), "synced.c does not compile");
        Ok(Notes { folder })
    }

    fn environment(&self) -> Vec<(OsString, OsString)> {
        let path = |name: &str| self.folder.path().join(name).into_os_string();
        vec![("LD_PRELOAD".into(), path("synced.so")), ("KODIAK_SYNCED".into(), path("log"))]
    }

    /// How much of each file is on stable storage, by what was noted since the last call.
    fn read(&self, lengths: &mut HashMap<PathBuf, u64>) -> Result<()> {
        let log = self.folder.path().join("log");
        let text = std::fs::read_to_string(&log)?;
        std::fs::remove_file(&log)?;
        let mut renamed = None;
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("F", rest)) => {
                    let (length, path) = rest.split_once(' ').context("a length")?;
                    lengths.insert(path.into(), length.parse()?);
                }
                Some(("R", from)) => renamed = lengths.remove(Path::new(from)),
                Some(("N", to)) => {
                    lengths.remove(Path::new(to));
                    lengths.extend(renamed.take().map(|length| (to.into(), length)));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Takes from a file what was not synced; how many bytes that were.
fn tear(path: &Path, synced: u64, random: &mut StdRng) -> Result<u64> {
    let length = std::fs::metadata(path)?.len();
    if length <= synced {
        return Ok(0);
    }
    if synced == 0 && random.random_bool(0.5) {
        std::fs::remove_file(path)?;
        return Ok(length);
    }
    let file = OpenOptions::new().write(true).open(path)?;
    let kept = random.random_range(synced..=length);
    file.set_len(kept)?;
    let mut at = synced;
    while at < kept {
        let end = (at / SECTOR + 1) * SECTOR;
        if random.random_bool(0.3) {
            file.write_all_at(&vec![0; (end.min(kept) - at) as usize], at)?;
        }
        at = end;
    }
    Ok(length - synced)
}

fn tear_indexes(store: &Store, synced: &HashMap<PathBuf, u64>, random: &mut StdRng) -> Result<u64> {
    let mut lost = 0;
    for device in ["d1", "d2", "d3"] {
        for entry in std::fs::read_dir(store.folder().join(device).join("index"))? {
            let path = entry?.path().canonicalize()?;
            lost += tear(&path, synced.get(&path).copied().unwrap_or(0), random)?;
        }
    }
    Ok(lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_does_not_need_what_rocksdb_has_not_synced() -> Result<()> {
    let seed = std::env::var("KODIAK_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("KODIAK_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (notes, ledger, mut synced) = (Notes::new()?, Ledger::default(), HashMap::new());
    let mut store = Store::start_in_environment(notes.environment())?;
    Client::log_in(&store).await?.put("/c", Bytes::new()).await?;
    // Checkpoints come often, so that power goes at all their moments.
    store.configure(|text| text.replace("checkpoint_bytes = 67108864", "checkpoint_bytes = 1048576"))?;
    store.stop()?;
    store.restart()?;
    let mut lost = 0;
    for round in 0..ROUNDS {
        let writers = load(&Client::log_in(&store).await?, &ledger, "c", round);
        // Not a synchronisation: the moment at which power goes is the random input of this test.
        tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
        store.kill()?;
        for writer in writers {
            writer.await?;
        }
        notes.read(&mut synced)?;
        lost += tear_indexes(&store, &synced, &mut random)?;
        store.restart()?;
        let depth = if round + 1 == ROUNDS { Depth::Everything } else { Depth::Sample(50) };
        ledger.verify(&Client::log_in(&store).await?, "c", depth, &mut random).await?;
    }
    println!("{ROUNDS} cuts, {} names, {lost} bytes of indexes lost", ledger.names());
    ensure!(lost > 0 && !synced.is_empty(), "nothing was torn: the notes do not work");
    Ok(())
}
