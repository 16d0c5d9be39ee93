//! The machine and the processes on it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Serialize;

/// What a figure has to be read beside.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// Their name.
    pub processor: String,
    /// Kernel release.
    pub kernel: String,
    /// Memory, bytes.
    pub memory: u64,
    /// The command line of the benchmark, secrets blanked.
    pub command: Vec<String>,
    /// Seconds since 1970 when it ran.
    pub time: u64,
    /// Version of the benchmark.
    pub version: &'static str,
}

impl Machine {
    /// This machine, now.
    pub fn here() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0);
        Machine {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            memory: kib * 1024,
            command: blank_secrets(std::env::args()),
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// In one line.
    pub fn show(&self) -> String {
        let gib = self.memory as f64 / f64::from(1 << 30);
        format!("{} cores ({}), {gib:.0} GiB, Linux {}", self.cores, self.processor, self.kernel)
    }
}

fn blank_secrets(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut secret = false;
    let mut shown = Vec::new();
    for argument in arguments {
        let name = argument.split('=').next().unwrap_or_default().to_string();
        let names_secret = ["--secret-key", "--key"].contains(&name.as_str());
        shown.push(match (secret, names_secret && argument.contains('=')) {
            (true, _) => "***".to_string(),
            (false, true) => format!("{name}=***"),
            (false, false) => argument.clone(),
        });
        secret = !secret && names_secret && !argument.contains('=');
    }
    shown
}

/// Processor time of this process, in seconds, to the nanosecond.
pub fn own_processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Processor time of everything on this machine, in seconds, and what other machines took from it.
pub fn machine_processor_seconds() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks = parse_machine_ticks(&text).context("unreadable /proc/stat")?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// User, nice, system, interrupts and what was stolen; not idle, waiting, nor guests, which user holds.
fn parse_machine_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let busy = fields.take(8).enumerate().filter(|(index, _)| ![3, 4].contains(index));
    busy.map(|(_, field)| field.parse::<u64>().ok()).sum()
}

/// Processor time of these processes and all that came of them, in seconds; processes that are gone count
/// where their parents have reaped them.
pub fn processor_seconds(pids: &[u32]) -> anyhow::Result<f64> {
    let mut seen = BTreeSet::new();
    let mut ticks = 0;
    for &pid in pids {
        ticks += ticks_below(pid, &mut seen).with_context(|| format!("processor time of process {pid}"))?;
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn ticks_below(pid: u32, seen: &mut BTreeSet<u32>) -> anyhow::Result<u64> {
    if !seen.insert(pid) {
        return Ok(0);
    }
    let folder = Path::new("/proc").join(pid.to_string());
    let mut ticks = parse_ticks(&fs::read_to_string(folder.join("stat"))?).context("unreadable stat")?;
    for task in fs::read_dir(folder.join("task"))? {
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for child in children.split_ascii_whitespace().filter_map(|child| child.parse().ok()) {
            ticks += ticks_below(child, seen).unwrap_or(0);
        }
    }
    Ok(ticks)
}

/// User and system time of a process and of its reaped children.
fn parse_ticks(stat: &str) -> Option<u64> {
    let after_name = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

/// Bytes that this process has caused to be written to disks.
pub fn bytes_written() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("no write_bytes")?;
    Ok(line.trim().parse()?)
}

/// Bytes that the disk below a folder has written, for the whole machine.
pub fn bytes_written_to_disk(folder: &Path) -> anyhow::Result<u64> {
    let device = fs::metadata(folder)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))?;
    let sectors = text.split_ascii_whitespace().nth(6).context("no sectors written")?;
    Ok(sectors.parse::<u64>()? * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_parsed_after_the_name() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 100 0 0 0 7 3 2 1 20 0 1 0 100 0 0";
        assert_eq!(parse_ticks(stat), Some(13));
        assert_eq!(parse_machine_ticks("cpu  1 2 4 1000 1000 8 16 32 64 128\ncpu0 1"), Some(63));
        assert!(own_processor_seconds() > 0.0 && machine_processor_seconds().unwrap() > 0.0);
        assert!(processor_seconds(&[std::process::id()]).unwrap() >= 0.0);
        assert!(processor_seconds(&[u32::MAX]).is_err());
    }

    #[test]
    fn secrets_are_not_reported() {
        let line = ["x", "--secret-key", "abc", "--key=def", "--size", "1"].map(String::from);
        assert_eq!(blank_secrets(line.into_iter()), ["x", "--secret-key", "***", "--key=***", "--size", "1"]);
    }
}
