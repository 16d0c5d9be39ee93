//! The report of a load: a table for people, everything for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Times;
use super::options::Settings;
use super::tally::Tally;
use crate::facts::Machine;
use crate::latency::milliseconds;
use crate::table::{Table, number};

/// What was measured at one concurrency.
#[derive(Debug)]
pub struct Run {
    /// Workers.
    pub concurrency: usize,
    /// From the end of the warm-up to the end of the last operation.
    pub seconds: f64,
    /// What they counted.
    pub tally: Tally,
    /// Whether it ended early because the server could not be reached.
    pub stopped: bool,
    /// What it took.
    pub times: Times,
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    api: String,
    operation: String,
    sizes: String,
    objects: usize,
    warmup_seconds: f64,
    seed: u64,
    quickack: bool,
    client_threads: usize,
    /// Whether runs are missing.
    pub incomplete: bool,
    /// By concurrency.
    pub runs: Vec<RunReport>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Workers.
    pub concurrency: usize,
    /// How long it counted.
    pub seconds: f64,
    /// Successes a second, of all operations.
    pub operations_per_second: f64,
    /// Megabytes (2^20) a second.
    pub mib_per_second: f64,
    /// Successes.
    pub operations: u64,
    /// Faults of all kinds.
    pub errors: u64,
    /// Answers with wrong bytes.
    pub corrupt: u64,
    /// Answers with an older generation.
    pub stale: u64,
    /// Processor time of the server by operation, microseconds.
    pub server_cpu_us_per_operation: Option<f64>,
    /// Processors that the server kept busy.
    pub server_cpus: Option<f64>,
    /// Processors that neither server nor client kept busy, interrupts included: what disturbed the run.
    pub other_cpus: Option<f64>,
    /// Processor time of the client by operation, microseconds.
    pub client_cpu_us_per_operation: f64,
    /// By operation.
    pub by_operation: BTreeMap<String, OperationReport>,
    /// Faults by operation and kind.
    pub faults: Vec<FaultReport>,
}

/// One operation of a run.
#[derive(Clone, Debug, Serialize)]
pub struct OperationReport {
    /// Successes.
    pub operations: u64,
    /// Bytes of objects.
    pub bytes: u64,
    /// Successes a second.
    pub operations_per_second: f64,
    /// Megabytes (2^20) a second.
    pub mib_per_second: f64,
    /// Milliseconds.
    pub latency_ms: Latency,
}

/// Milliseconds to the last byte of the answer.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
    max: f64,
}

/// One kind of fault.
#[derive(Clone, Debug, Serialize)]
pub struct FaultReport {
    operation: String,
    kind: String,
    count: u64,
    example: String,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |share| milliseconds(histogram, share);
        Latency {
            mean: histogram.mean() / 1e6,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1e6,
        }
    }
}

impl RunReport {
    fn of(run: &Run) -> RunReport {
        let seconds = run.seconds.max(f64::MIN_POSITIVE);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20) / seconds;
        let tally = &run.tally;
        let by_operation = tally.successes.iter().map(|(operation, one)| {
            let report = OperationReport {
                operations: one.latency.len(),
                bytes: one.bytes,
                operations_per_second: one.latency.len() as f64 / seconds,
                mib_per_second: mib(one.bytes),
                latency_ms: Latency::of(&one.latency),
            };
            (operation.to_string(), report)
        });
        let operations = tally.operations();
        let each = |total: f64| total * 1e6 / operations.max(1) as f64;
        let faults = tally.faults.iter().map(|((operation, kind), faults)| FaultReport {
            operation: operation.to_string(),
            kind: kind.clone(),
            count: faults.count,
            example: faults.example.clone(),
        });
        RunReport {
            concurrency: run.concurrency,
            seconds: run.seconds,
            operations_per_second: operations as f64 / seconds,
            mib_per_second: mib(tally.successes.values().map(|one| one.bytes).sum()),
            operations,
            errors: tally.count_faults(None),
            corrupt: tally.count_faults(Some("corrupt")),
            stale: tally.count_faults(Some("stale")),
            server_cpu_us_per_operation: run.times.server.map(each),
            server_cpus: run.times.server.map(|total| total / seconds),
            other_cpus: run.times.others().map(|total| total / seconds),
            client_cpu_us_per_operation: each(run.times.client),
            by_operation: by_operation.collect(),
            faults: faults.collect(),
        }
    }

    fn errors_of(&self, operation: &str) -> u64 {
        let of_operation = self.faults.iter().filter(|fault| fault.operation == operation);
        of_operation.map(|fault| fault.count).sum()
    }
}

impl Report {
    /// A report without runs.
    pub fn new(machine: Machine, settings: &Settings) -> Report {
        Report {
            machine,
            api: format!("{:?}", settings.api),
            operation: settings.operation.clone(),
            sizes: settings.sizes.show(),
            objects: settings.objects,
            warmup_seconds: settings.warmup.as_secs_f64(),
            seed: settings.seed,
            quickack: settings.quickack,
            client_threads: settings.threads,
            incomplete: false,
            runs: Vec::new(),
        }
    }

    /// What is measured, in a few words.
    pub fn title(&self) -> String {
        format!("{} {}, {}", self.api, self.operation, self.sizes)
    }

    /// The lines above the runs.
    pub fn heading(&self) -> String {
        format!("{}\n{}\n", self.title(), self.machine.show())
    }

    /// The machine, in one line.
    pub fn machine(&self) -> String {
        self.machine.show()
    }

    /// Adds a run; gives its table.
    pub fn add(&mut self, run: Run) -> String {
        self.incomplete |= run.stopped;
        let run = RunReport::of(&run);
        let mut text = format!("\nconcurrency {}, {:.1} s", run.concurrency, run.seconds);
        if let (Some(each), Some(cpus)) = (run.server_cpu_us_per_operation, run.server_cpus) {
            // Infallible for strings.
            let _ = write!(text, "; processor time: server {} µs each ({cpus:.2} cores)", number(each));
        }
        let _ = write!(text, "; client {} µs each", number(run.client_cpu_us_per_operation));
        let others = run.other_cpus.map(|cpus| format!("; others {cpus:.2} cores")).unwrap_or_default();
        let _ = writeln!(text, "{others}");
        let headings = ["", "ops/s", "MiB/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "errors"];
        let mut table = Table::new(&headings);
        for (name, one) in &run.by_operation {
            let Latency { p50, p90, p99, p999, max, .. } = one.latency_ms;
            let figures = [one.operations_per_second, one.mib_per_second, p50, p90, p99, p999, max];
            let mut cells = vec![name.clone()];
            cells.extend(figures.map(number));
            cells.push(run.errors_of(name).to_string());
            table.row(cells);
        }
        if run.by_operation.len() != 1 {
            let mut cells =
                vec!["all".to_string(), number(run.operations_per_second), number(run.mib_per_second)];
            cells.extend(std::iter::repeat_n(String::new(), 5));
            cells.push(run.errors.to_string());
            table.row(cells);
        }
        self.runs.push(run);
        text + &table.to_string()
    }

    /// What went wrong.
    pub fn explanations(&self) -> String {
        let mut text = String::new();
        for run in &self.runs {
            for FaultReport { operation, kind, count, example } in &run.faults {
                let _ = writeln!(
                    text,
                    "concurrency {}: {count} × {operation} {kind}: {}; the first: {example}",
                    run.concurrency,
                    meaning(kind)
                );
            }
        }
        text
    }

    /// 1 where wrong bytes were read, nothing succeeded or runs are missing.
    pub fn exit_code(&self) -> ExitCode {
        let bad = |run: &RunReport| run.corrupt > 0 || run.operations == 0;
        if self.incomplete || self.runs.iter().any(bad) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

fn meaning(kind: &str) -> &'static str {
    match kind {
        "corrupt" => "bytes that were never written to that object",
        "stale" => "an older write than the last acknowledged one",
        "unlisted" => "an acknowledged object was missing from a listing",
        "connection" => "could not connect, or the connection broke",
        "timeout" => "no answer in time",
        "request" => "the client could not make the request",
        "401" | "403" => "refused: wrong keys or clock",
        "404" => "an acknowledged object was not found",
        "429" | "503" => "the server asks for fewer requests",
        "507" => "the server has no room",
        _ => "answered with that status",
    }
}
