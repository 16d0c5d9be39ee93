//! Machines that are processes: they join, lose one and have it back, and refuse what does not belong to them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::StatusCode;
use kodiak_tests::{Client, Store, program};
use serde_json::Value;
use tempfile::TempDir;

/// How long the members may take to agree, and to fill each other.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `kodiak`; what it printed, or its complaint.
pub fn kodiak(arguments: &[&str]) -> Result<String> {
    let output = Command::new(program()?).args(arguments).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What `kodiak` complains about.
pub fn complaint(arguments: &[&str]) -> Result<String> {
    match kodiak(arguments) {
        Ok(printed) => bail!("{arguments:?} was done: {printed}"),
        Err(error) => Ok(error.to_string()),
    }
}

/// A cluster in a folder of its own.
pub struct Cluster {
    folder: TempDir,
    /// Of each machine.
    devices: u32,
}

impl Cluster {
    /// Begins one with the machine `n1`, which is up.
    pub fn begin() -> Result<(Cluster, Store)> {
        let cluster = Cluster { folder: TempDir::with_prefix("kodiak-cluster-")?, devices: 2 };
        cluster.init(&[])?;
        let store = cluster.up("n1")?;
        Ok((cluster, store))
    }

    /// So many machines of one device each, all up; they look for what to repair every second.
    pub fn of(machines: u32, init: &[&str]) -> Result<(Cluster, Vec<Store>)> {
        let cluster = Cluster { folder: TempDir::with_prefix("kodiak-cluster-")?, devices: 1 };
        cluster.init(init)?;
        let mut stores = Vec::new();
        cluster.hurry("n1")?;
        stores.push(cluster.up("n1")?);
        for number in 2..=machines {
            stores.push(cluster.another(&format!("n{number}"), number)?);
        }
        Ok((cluster, stores))
    }

    /// One more machine of such a cluster, which is up.
    pub fn another(&self, name: &str, zone: u32) -> Result<Store> {
        self.join(name, zone, &self.token(60)?)?;
        self.hurry(name)?;
        self.up(name)
    }

    /// Lets a machine look for what to repair every second.
    fn hurry(&self, name: &str) -> Result<()> {
        let config = self.data(name).join("kodiak.toml");
        let text = fs::read_to_string(&config)?;
        ensure!(text.contains("\ninterval = 30\n"), "the configuration has no interval: {text}");
        Ok(fs::write(&config, text.replace("\ninterval = 30\n", "\ninterval = 1\n"))?)
    }

    fn init(&self, more: &[&str]) -> Result<()> {
        let place = self.place("n1", 1);
        // Few partitions: filling them is not what is tested here.
        let arguments = ["cluster", "init", "--part-power", "6"].into_iter().chain(more.iter().copied());
        kodiak(&arguments.chain(place.iter().map(String::as_str)).collect::<Vec<_>>()).map(drop)
    }

    /// Three machines, all up.
    pub fn of_three() -> Result<(Cluster, [Store; 3])> {
        let (cluster, first) = Cluster::begin()?;
        let second = cluster.join("n2", 2, &cluster.token(60)?).and_then(|()| cluster.up("n2"))?;
        let third = cluster.join("n3", 3, &cluster.token(60)?).and_then(|()| cluster.up("n3"))?;
        Ok((cluster, [first, second, third]))
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn path(&self, name: &str) -> String {
        self.data(name).display().to_string()
    }

    fn place(&self, name: &str, zone: u32) -> Vec<String> {
        let free = "127.0.0.1:0";
        let (data, zone, devices) = (self.path(name), zone.to_string(), self.devices.to_string());
        let pairs =
            [("--data", data.as_str()), ("--node", name), ("--listen", free), ("--cluster-listen", free)];
        let pairs = pairs.into_iter().chain([("--zone", zone.as_str()), ("--devices", devices.as_str())]);
        pairs.flat_map(|(option, value)| [option.to_owned(), value.to_owned()]).collect()
    }

    pub fn token(&self, minutes: u32) -> Result<String> {
        let printed =
            kodiak(&["cluster", "token", "--data", &self.path("n1"), "--minutes", &minutes.to_string()])?;
        Ok(printed.split_whitespace().last().context("no token")?.to_owned())
    }

    fn joining(&self, name: &str, zone: u32, token: &str) -> Vec<String> {
        let head = ["cluster", "join", "--token", token].map(str::to_owned);
        head.into_iter().chain(self.place(name, zone)).collect()
    }

    fn join(&self, name: &str, zone: u32, token: &str) -> Result<()> {
        let arguments = self.joining(name, zone, token);
        kodiak(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    pub fn up(&self, name: &str) -> Result<Store> {
        Store::start_in(&self.data(name), &[])
    }

    /// Why a machine does not start.
    fn refused(&self, name: &str) -> Result<String> {
        match self.up(name) {
            Ok(_) => bail!("{name} has started"),
            Err(error) => Ok(error.to_string()),
        }
    }

    pub fn status(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&kodiak(&["cluster", "status", "--json", "--data", &self.path(name)])?)?)
    }

    /// Waits until a machine's view of the cluster is as it should be.
    pub fn wait(&self, name: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let status = self.status(name)?;
            if condition(&status) {
                return Ok(status);
            }
            ensure!(begun.elapsed() < PATIENCE, "it stays as {status:#}");
        }
    }
}

/// What the dispersion report says, and with which exit code.
fn dispersion(cluster: &Cluster) -> Result<(Option<i32>, Value)> {
    let command = ["cluster", "dispersion", "--json", "--data", &cluster.path("n1")].map(str::to_owned);
    let output = Command::new(program()?).args(command).stdin(Stdio::null()).output()?;
    Ok((output.status.code(), serde_json::from_slice(&output.stdout)?))
}

/// Whether all members are up with the newest map, and hold all that they are to hold.
pub fn settled(status: &Value, members: usize) -> bool {
    let list = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let filled = |member: &Value| {
        let devices = member["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
        !devices.is_empty() && devices.iter().all(|device| device["missing"] == 0)
    };
    let is = |member: &Value| {
        member["up"] == true
            && member["epoch"] == status["epoch"]
            && member["state"] == "active"
            && member["partitions"].as_u64() > Some(0)
            && filled(member)
    };
    list.len() == members && list.iter().all(is)
}

/// Bytes that no other size or seed has.
pub fn content(seed: u8, size: usize) -> Bytes {
    (0..size).map(|at| (at / 251) as u8 ^ at as u8 ^ seed).collect::<Vec<u8>>().into()
}

pub async fn is_there(client: &Client, path: &str, body: &Bytes) -> Result<()> {
    let answer = client.get(path).await?;
    ensure!(answer.status == StatusCode::OK, "GET {path}: {}", answer.status);
    ensure!(answer.body == body, "GET {path}: other bytes");
    Ok(())
}

pub async fn put(client: &Client, path: &str, body: &Bytes) -> Result<()> {
    let status = client.put(path, body.clone()).await?;
    ensure!(status == StatusCode::CREATED, "PUT {path}: {status}");
    Ok(())
}

#[tokio::test]
async fn three_machines_go_on_without_one_of_them_and_have_it_back() -> Result<()> {
    let (cluster, [first, second, mut third]) = Cluster::of_three()?;
    let status = cluster.wait("n2", |status| settled(status, 3))?;
    for ring in status["rings"].as_array().context("rings")? {
        ensure!(ring["replicas"] == 3.0 && ring["dispersion"] == 0.0, "{ring}");
    }
    let (one, two) = (Client::log_in(&first).await?, Client::log_in(&second).await?);
    let (small, large) = (content(1, 5_000), content(2, 9_000_000));
    put(&one, "/c", &Bytes::new()).await?;
    put(&one, "/c/small", &small).await?;
    put(&two, "/c/large", &large).await?;
    is_there(&Client::log_in(&third).await?, "/c/small", &small).await?;
    is_there(&one, "/c/large", &large).await?;

    let (code, report) = dispersion(&cluster)?;
    ensure!(code == Some(0) && report["missing"] == 0, "{report:#}");
    for member in cluster.status("n3")?["members"].as_array().context("members")? {
        let jobs = member["jobs"].as_array().context("jobs")?;
        let healed = |job: &&Value| job["kind"] == "heal" && job["passes"].as_u64() > Some(0);
        ensure!(
            jobs.iter().filter(healed).count() == 2,
            "each device compares itself with others: {member:#}"
        );
        let audits = jobs.iter().filter(|job| job["kind"] == "audit" && job["rate"] == 16 << 20);
        ensure!(audits.count() == 2, "{member:#}");
    }

    third.kill()?;
    let (code, report) = dispersion(&cluster)?;
    ensure!(code == Some(2) && report["missing"].as_u64() > Some(0), "{report:#}");
    ensure!(report["unavailable"] == 0 && report["silent"][0]["node"] == "n3", "{report:#}");
    put(&two, "/c/without", &small).await?;
    is_there(&one, "/c/without", &small).await?;
    is_there(&two, "/c/small", &small).await?;
    is_there(&one, "/c/large", &large).await?;
    let mut names = one.list("c").await?;
    names.sort();
    ensure!(names == ["large", "small", "without"], "{names:?}");
    let status = cluster.status("n1")?;
    ensure!(status["members"][2]["up"] == false, "{status:#}");
    // The map changes while it is away, but nothing is moved then.
    cluster.token(1)?;
    let weigh = ["device", "set-weight", "d1", "90", "--node", "n2", "--data", &cluster.path("n1")];
    let text = complaint(&weigh)?;
    ensure!(text.contains("n3 does not answer"), "{text}");

    // Nodes have called it many times since, and said hello to it every three seconds.
    let log = fs::read_to_string(cluster.data("n1").join("log"))?;
    let about: Vec<&str> =
        log.lines().filter(|line| line.contains(" WARN ") && line.contains("n3")).collect();
    ensure!(about.len() <= 3, "the log is full of a peer that is down:\n{}", about.join("\n"));

    third.restart()?;
    cluster.wait("n3", |status| settled(status, 3))?;
    let three = Client::log_in(&third).await?;
    for name in ["/c/small", "/c/without"] {
        is_there(&three, name, &small).await?;
    }
    is_there(&three, "/c/large", &large).await?;
    put(&three, "/c/again", &small).await?;
    is_there(&one, "/c/again", &small).await
}

#[tokio::test]
async fn who_may_not_join_is_told_why() -> Result<()> {
    let (cluster, _first) = Cluster::begin()?;
    let joining = |name: &str, token: &str| {
        let arguments = cluster.joining(name, 2, token);
        complaint(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let token = cluster.token(60)?;
    cluster.join("n2", 2, &token)?;
    let text = joining("n3", &token)?;
    ensure!(text.contains("used already") && text.contains("kodiak cluster token"), "{text}");
    let text = joining("n3", &cluster.token(0)?)?;
    ensure!(text.contains("has expired"), "{text}");
    let mut taken = cluster.joining("n3", 2, &cluster.token(60)?);
    taken.iter_mut().filter(|argument| *argument == "n3").for_each(|name| *name = "n1".into());
    let text = complaint(&taken.iter().map(String::as_str).collect::<Vec<_>>())?;
    ensure!(text.contains("called n1 already"), "{text}");
    let text = joining("n3", "kodiak1-AAAA")?;
    ensure!(text.contains("no join token"), "{text}");
    // Another authority's fingerprint, and another secret.
    let token = cluster.token(60)?;
    for (at_end, complaint) in [(false, "another cluster's authority"), (true, "not known here")] {
        let mut bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix("kodiak1-").context("a token")?)?;
        let at = if at_end { bytes.len() - 1 } else { 20 };
        bytes[at] ^= 1;
        let text = joining("n3", &format!("kodiak1-{}", URL_SAFE_NO_PAD.encode(bytes)))?;
        ensure!(text.contains(complaint), "{text}");
    }
    // All of that has cost nothing.
    cluster.join("n3", 3, &token)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(copied.success(), "cannot copy {}", from.display());
    Ok(())
}

fn swap(a: &Path, b: &Path) -> Result<()> {
    let aside = a.with_extension("aside");
    fs::rename(a, &aside)?;
    fs::rename(b, a)?;
    Ok(fs::rename(&aside, b)?)
}

#[tokio::test]
async fn what_does_not_belong_to_a_machine_is_refused_with_what_to_do() -> Result<()> {
    let (cluster, [_first, mut second, mut third]) = Cluster::of_three()?;
    cluster.wait("n1", |status| settled(status, 3))?;
    second.stop()?;
    let (data, aside) = (cluster.data("n2"), cluster.data("copy"));
    copy(&data, &aside)?;
    let (d1, d2) = (data.join("d1"), data.join("d2"));

    swap(&d1, &d2)?;
    let text = cluster.refused("n2")?;
    ensure!(text.contains("is d2 of node n2") && text.contains("its own slot"), "{text}");
    swap(&d1, &d2)?;

    let register = data.join("cluster/register");
    let whole = fs::read(&register)?;
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&register, damaged)?;
    let text = cluster.refused("n2")?;
    ensure!(text.contains("its checksum is wrong") && text.contains("kodiak node replace"), "{text}");
    fs::write(&register, whole)?;

    let (other, _store) = Cluster::begin()?;
    let theirs = other.data("n1").join("cluster/node.pem");
    let (own, kept) = (data.join("cluster/node.pem"), data.join("kept.pem"));
    fs::rename(&own, &kept)?;
    fs::copy(theirs, &own)?;
    let text = cluster.refused("n2")?;
    ensure!(text.contains("is of node n1"), "{text}");
    fs::rename(&kept, &own)?;

    second.restart()?;
    cluster.wait("n2", |status| settled(status, 3))?;
    let text = cluster.refused("copy")?;
    ensure!(text.contains("one of the two is a copy"), "{text}");
    second.stop()?;

    // The copy's disk is not the machine's any more: both have been started since.
    fs::remove_dir_all(&d1)?;
    copy(&aside.join("d1"), &d1)?;
    let text = cluster.refused("n2")?;
    ensure!(text.contains("is from the past") && text.contains("kodiak device reset d1"), "{text}");
    kodiak(&["device", "reset", "d1", "--data", &cluster.path("n2")])?;
    second.restart()?;
    cluster.wait("n2", |status| settled(status, 3))?;

    third.stop()?;
    let text = complaint(&["node", "remove", "n3", "--data", &cluster.path("n1")])?;
    ensure!(text.contains("still holds") && text.contains("kodiak node drain n3"), "{text}");
    kodiak(&["node", "remove", "n3", "--force", "--data", &cluster.path("n1")])?;
    cluster.wait("n2", |status| settled(status, 2))?;
    let text = cluster.refused("n3")?;
    ensure!(text.contains("was removed from the cluster"), "{text}");
    Ok(())
}
