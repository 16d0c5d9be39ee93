//! A file for each object: what Swift's object server does, without its extended attributes.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::anyhow;
use hdrhistogram::Histogram;

use super::{Figure, Meter, SIZE, Task};
use crate::latency;
use crate::random::{Random, mix};

/// A temporary file, fsync, rename into its folder, fsync of that folder.
pub fn run(task: Task<'_>) -> anyhow::Result<Figure> {
    let folders: Vec<PathBuf> =
        (0..task.folders).map(|index| task.folder.join(format!("{index:02x}"))).collect();
    folders.iter().try_for_each(std::fs::create_dir)?;
    let body = Random::new(1).bytes(SIZE);
    let meter = Meter::start(task)?;
    let until = meter.until();
    let (folders, body) = (folders.as_slice(), body.as_slice());
    let latencies = thread::scope(|scope| {
        let start = |writer: usize| {
            let temporary = task.folder.join(format!("{writer}.tmp"));
            scope
                .spawn(move || write(writer as u64, until, |number| store(&temporary, folders, body, number)))
        };
        let threads: Vec<_> = (0..task.writers).map(start).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a writer panicked"))?);
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    meter.finish(latencies)
}

fn write(
    writer: u64,
    until: Instant,
    mut store: impl FnMut(u64) -> std::io::Result<()>,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = latency::histogram()?;
    let mut number = writer << 40;
    while Instant::now() < until {
        let begun = Instant::now();
        store(number)?;
        latency::record(&mut latency, begun.elapsed());
        number += 1;
    }
    Ok(latency)
}

fn store(temporary: &PathBuf, folders: &[PathBuf], body: &[u8], number: u64) -> std::io::Result<()> {
    let folder = &folders[(mix(number) % folders.len() as u64) as usize];
    let mut file = File::create(temporary)?;
    file.write_all(body)?;
    file.sync_all()?;
    std::fs::rename(temporary, folder.join(format!("{number:016x}")))?;
    File::open(folder)?.sync_all()
}
