//! What `kodiak cluster status --jobs` says about background work.

use kodiak_storage_api::jobs::{JobKind, JobStatus, PassEnd, Running, Tally};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// One line for each job.
pub fn describe(jobs: &[JobStatus]) -> String {
    jobs.iter().map(|job| format!("\n    {:8} {:11} {}", job.device, job.kind.name(), line(job))).collect()
}

fn line(job: &JobStatus) -> String {
    let now = job.running.as_ref().map_or_else(|| "idle".to_owned(), |running| progress(job.kind, running));
    let last = match &job.last {
        None => "no pass has ended yet".to_owned(),
        Some(last) => ended(job.kind, last),
    };
    let failure = job.last.as_ref().and_then(|last| last.error.as_ref());
    let failure = failure.map(|error| format!(": {error}")).unwrap_or_default();
    format!("{now}; {last}{failure}; at most {}/s", amount(job.rate, job.kind.rate_unit()))
}

fn progress(kind: JobKind, running: &Running) -> String {
    let of = running.of.map(|of| format!(" of {}", amount(of.max(running.done), ""))).unwrap_or_default();
    let done = amount(running.done, "");
    format!("{done}{of} {} since {}{}", kind.unit(), clock(running.begun), counts(running.tally))
}

fn ended(kind: JobKind, last: &PassEnd) -> String {
    let seconds = last.millis as f64 / 1000.0;
    let how = if last.error.is_some() { "ended early" } else { "ended" };
    let done = amount(last.done, kind.unit());
    format!("the last pass {how} {} after {seconds:.1} s, {done}{}", clock(last.ended), counts(last.tally))
}

fn counts(tally: Tally) -> String {
    let counts = [("changed", tally.changed), ("failed", tally.failed), ("waiting", tally.waiting)];
    counts.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!(", {count} {what}")).collect()
}

/// A number with its unit; bytes in a unit that is short.
fn amount(number: u64, unit: &str) -> String {
    match unit {
        "" => number.to_string(),
        "bytes" if number >= 10 << 20 => format!("{} MiB", number >> 20),
        unit => format!("{number} {unit}"),
    }
}

/// Date and time of a second since 1970, UTC.
fn clock(second: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(i64::try_from(second).unwrap_or(i64::MAX));
    time.map_or_else(
        |_| "?".into(),
        |time| format!("{} {:02}:{:02}:{:02} UTC", time.date(), time.hour(), time.minute(), time.second()),
    )
}

/// The same as JSON.
pub fn json(jobs: &[JobStatus]) -> Value {
    let job = |job: &JobStatus| {
        let mut value = json!(job);
        value["unit"] = json!(job.kind.unit());
        value["rate_unit"] = json!(job.kind.rate_unit());
        value
    };
    jobs.iter().map(job).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_done_what_was_done_and_how_fast() {
        let mut job = JobStatus {
            kind: JobKind::Audit,
            device: "d1".into(),
            rate: 16 << 20,
            running: None,
            last: None,
            passes: 0,
            total: Tally::default(),
        };
        assert_eq!(line(&job), "idle; no pass has ended yet; at most 16 MiB/s");
        let tally = Tally { changed: 2, failed: 0, waiting: 1 };
        job.running = Some(Running { begun: 1_800_000_000, done: 7, of: Some(9), tally });
        let error = Some("no room".to_owned());
        job.last = Some(PassEnd { ended: 1_800_000_060, millis: 1500, done: 20 << 20, tally, error });
        assert_eq!(
            line(&job),
            "7 of 9 bytes since 2027-01-15 08:00:00 UTC, 2 changed, 1 waiting; the last pass ended early \
             2027-01-15 08:01:00 UTC after 1.5 s, 20 MiB, 2 changed, 1 waiting: no room; at most 16 MiB/s"
        );
    }
}
