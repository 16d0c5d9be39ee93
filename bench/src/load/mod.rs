//! `kodiak-bench load`.

mod connection;
mod content;
mod endpoint;
mod mix;
mod options;
mod report;
mod run;
mod s3;
mod svg;
mod swift;
mod tally;
#[cfg(test)]
mod tests;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use self::content::Content;
use self::mix::{Mix, Operation};
pub use self::options::LoadArgs;
use self::options::Settings;
use self::report::{Report, Run};
use self::run::{Fleet, Outcome};
use self::worker::{Plan, Window};
use crate::facts::{Machine, machine_processor_seconds, own_processor_seconds, processor_seconds};

/// Runs the command.
pub fn main(args: LoadArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings::of(args)?;
    let runtime = match settings.threads {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        threads => {
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?
        }
    };
    let report = runtime.block_on(drive(&settings))?;
    if let Some(path) = &settings.json {
        let text = serde_json::to_vec_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &settings.svg {
        std::fs::write(path, svg::picture(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.exit_code())
}

async fn drive(settings: &Settings) -> anyhow::Result<Report> {
    let endpoint = &settings.endpoint;
    let mut requester = endpoint.requester(&settings.bucket, &settings.prefix, settings.page).await?;
    let new = requester.make_bucket().await.context("cannot begin")?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
    let plan = Plan {
        content: Content::new(settings.seed, settings.sizes.clone()),
        quickack: settings.quickack,
        timeout: settings.timeout,
        next_number: AtomicU64::new(0),
        // Generations of an earlier benchmark are smaller, unless it wrote more than one a microsecond.
        next_generation: AtomicU64::new(started),
    };
    let mut fleet = Fleet::new(Arc::new(plan), requester.clone(), settings.seed);
    let mut report = Report::new(Machine::here(), settings);
    print!("{}", report.heading());
    for &concurrency in &settings.concurrency {
        let run = measure(settings, &mut fleet, concurrency).await?;
        print!("{}", report.add(run));
    }
    print!("{}", report.explanations());
    if !settings.keep {
        fleet.clean_up(settings.most_concurrent()).await?;
        if new {
            requester.delete_bucket().await?;
        }
    }
    Ok(report)
}

async fn measure(settings: &Settings, fleet: &mut Fleet, concurrency: usize) -> anyhow::Result<Run> {
    if settings.mix.needs_objects() {
        fleet.prepare(settings.objects.max(concurrency), settings.most_concurrent()).await?;
    }
    // Deletes of a warm-up would leave fewer objects to delete than asked for.
    let warmup = if settings.mix.is_only(Operation::Delete) { Default::default() } else { settings.warmup };
    let from = Instant::now() + warmup;
    let window = Window {
        from,
        until: settings.duration.map(|duration| from + duration),
        tickets: settings.count.map(AtomicU64::new),
        stop: AtomicBool::new(false),
    };
    let running = fleet.start(&settings.mix, concurrency, window)?;
    tokio::time::sleep_until(from.into()).await;
    let before = Times::now(settings)?;
    let Outcome { tally } = fleet.finish(running).await?;
    let times = Times::now(settings)?.since(&before);
    let seconds = tally.ended.map_or(0.0, |ended| (ended - from).as_secs_f64());
    Ok(Run { concurrency, seconds, tally, times })
}

/// Processor time in seconds.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Of the server, where its process is known.
    server: Option<f64>,
    /// Of this process.
    client: f64,
    /// Of everything on the machine.
    machine: f64,
}

impl Times {
    fn now(settings: &Settings) -> anyhow::Result<Times> {
        let pids = &settings.server_pids;
        let server = if pids.is_empty() { None } else { Some(processor_seconds(pids)?) };
        Ok(Times { server, client: own_processor_seconds(), machine: machine_processor_seconds()? })
    }

    fn since(self, before: &Times) -> Times {
        let server = self.server.zip(before.server).map(|(after, before)| after - before);
        Times { server, client: self.client - before.client, machine: self.machine - before.machine }
    }

    /// Of everything but server and client.
    fn others(&self) -> Option<f64> {
        Some((self.machine - self.client - self.server?).max(0.0))
    }
}

/// A mix of one.
fn only(operation: Operation) -> Arc<Mix> {
    Arc::new(Mix::only(operation))
}
