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
use self::endpoint::Requester;
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
    runtime.block_on(async {
        let mut bench = Bench::begin(&settings).await?;
        let report = bench.drive(&settings).await?;
        write_files(&settings, &report)?;
        if !settings.keep {
            bench.clean_up(&settings).await;
        }
        Ok(report.exit_code())
    })
}

fn write_files(settings: &Settings, report: &Report) -> anyhow::Result<()> {
    if let Some(path) = &settings.json {
        let text = serde_json::to_vec_pretty(report)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &settings.svg {
        std::fs::write(path, svg::picture(report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A benchmark with what it has made at the server.
struct Bench {
    fleet: Fleet,
    requester: Requester,
    made_bucket: bool,
}

impl Bench {
    async fn begin(settings: &Settings) -> anyhow::Result<Bench> {
        processor_seconds(&settings.server_pids)?;
        let endpoint = &settings.endpoint;
        let mut requester = endpoint.requester(&settings.bucket, &settings.prefix, settings.page).await?;
        let made_bucket = requester.make_bucket().await.context("cannot begin")?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
        let plan = Plan {
            content: Content::new(settings.seed, settings.sizes.clone()),
            quickack: settings.quickack,
            timeout: settings.timeout,
            next_number: AtomicU64::new(0),
            // Those of an earlier benchmark are smaller, unless it wrote more than one a microsecond.
            next_generation: AtomicU64::new(started),
        };
        let fleet = Fleet::new(Arc::new(plan), requester.clone(), settings.seed);
        Ok(Bench { fleet, requester, made_bucket })
    }

    /// Makes all runs, or those before the one that could not be made.
    async fn drive(&mut self, settings: &Settings) -> anyhow::Result<Report> {
        let mut report = Report::new(Machine::here(), settings);
        print!("{}", report.heading());
        for &concurrency in &settings.concurrency {
            match measure(settings, &mut self.fleet, concurrency).await {
                Ok(run) => {
                    let stopped = run.stopped;
                    print!("{}", report.add(run));
                    if stopped {
                        println!("stopped: the server cannot be reached");
                        break;
                    }
                }
                Err(error) if report.runs.is_empty() => return Err(error),
                Err(error) => {
                    println!("\nno run at concurrency {concurrency}: {error:#}");
                    report.incomplete = true;
                    break;
                }
            }
        }
        print!("{}", report.explanations());
        Ok(report)
    }

    /// Deletes what was made; says so where that fails, for the figures are good all the same.
    async fn clean_up(&mut self, settings: &Settings) {
        let mut cleaned = self.fleet.clean_up(settings.most_concurrent()).await;
        if self.made_bucket && cleaned.is_ok() {
            cleaned = self.requester.delete_bucket().await;
        }
        if let Err(error) = cleaned {
            eprintln!("kodiak-bench: objects were left behind: {error:#}");
        }
    }
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
    let Outcome { tally, stopped } = fleet.finish(running).await?;
    let times = Times::now(settings)?.since(&before);
    let seconds = tally.ended.map_or(0.0, |ended| (ended - from).as_secs_f64());
    Ok(Run { concurrency, seconds, tally, stopped, times })
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
        // A server that has ended meanwhile takes its figure with it, not the report.
        let server = match settings.server_pids.as_slice() {
            [] => None,
            pids => processor_seconds(pids).ok(),
        };
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
