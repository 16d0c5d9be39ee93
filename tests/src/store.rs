//! A store in a process of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tempfile::TempDir;

/// How long a store may take to become healthy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running store. Dropped, it is killed.
pub struct Store {
    folder: Folder,
    /// More variables of its environment.
    environment: Vec<(OsString, OsString)>,
    child: Child,
    endpoints: Endpoints,
}

/// Where the data are.
enum Folder {
    /// Deleted with the store.
    Own(TempDir),
    /// Somebody else's.
    Given(PathBuf),
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Folder::Own(folder) => folder.path(),
            Folder::Given(path) => path,
        }
    }
}

/// How a store is reached: its `endpoints.json`.
#[derive(Clone, Deserialize)]
pub struct Endpoints {
    /// For Swift.
    pub swift: Swift,
    /// For S3.
    pub s3: S3,
}

/// How to log in to Swift.
#[derive(Clone, Deserialize)]
pub struct Swift {
    /// The log-in URL.
    pub auth_url: String,
    /// The user.
    pub user: String,
    /// The user's key.
    pub key: String,
}

/// How to sign for S3.
#[derive(Clone, Deserialize)]
pub struct S3 {
    /// The endpoint.
    pub url: String,
    /// The access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl Store {
    /// Starts a new, empty store.
    pub fn start() -> Result<Store> {
        Store::start_with(&[])
    }

    /// Starts a new, empty store with more arguments of `kodiak up`.
    pub fn start_with(arguments: &[&str]) -> Result<Store> {
        let folder = TempDir::with_prefix("kodiak-e2e-")?;
        let (child, endpoints) = spawn(folder.path(), arguments, &[])?;
        Ok(Store { folder: Folder::Own(folder), environment: Vec::new(), child, endpoints })
    }

    /// Starts a new, empty store with more variables in its environment, now and whenever it is restarted.
    pub fn start_in_environment(environment: Vec<(OsString, OsString)>) -> Result<Store> {
        let folder = TempDir::with_prefix("kodiak-e2e-")?;
        let (child, endpoints) = spawn(folder.path(), &[], &environment)?;
        Ok(Store { folder: Folder::Own(folder), environment, child, endpoints })
    }

    /// Starts a store in a folder that outlives it.
    pub fn start_in(folder: &Path, arguments: &[&str]) -> Result<Store> {
        std::fs::create_dir_all(folder)?;
        let (child, endpoints) = spawn(folder, arguments, &[])?;
        let (folder, environment) = (Folder::Given(folder.to_owned()), Vec::new());
        Ok(Store { folder, environment, child, endpoints })
    }

    /// Kills the process with no chance to tidy up, as a crash does.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops it properly.
    pub fn stop(&mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again on the same data; how long it took to be healthy.
    pub fn restart(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        (self.child, self.endpoints) = spawn(self.folder.path(), &[], &self.environment)?;
        Ok(begun.elapsed())
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How it is reached.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// `host:port` of it.
    pub fn address(&self) -> &str {
        self.endpoints.s3.url.trim_start_matches("http://")
    }

    /// Changes the configuration, from the next start on.
    pub fn configure(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let file = self.folder.path().join("kodiak.toml");
        Ok(std::fs::write(&file, change(std::fs::read_to_string(&file)?))?)
    }

    /// The log-in URL, user and key.
    pub fn login(&self) -> (&str, &str, &str) {
        let Swift { auth_url, user, key } = &self.endpoints.swift;
        (auth_url, user, key)
    }

    /// Bytes of memory that the process has now.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kibibytes * 1024)
    }

    /// Bytes that the process has written, to files above all.
    pub fn written(&self) -> Result<u64> {
        let counts = std::fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let line = counts.lines().find_map(|line| line.strip_prefix("wchar:")).context("wchar")?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    folder: &Path,
    arguments: &[&str],
    environment: &[(OsString, OsString)],
) -> Result<(Child, Endpoints)> {
    let file = folder.join("endpoints.json");
    if file.exists() {
        std::fs::remove_file(&file)?;
    }
    let program = program()?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    let mut child = Command::new(&program)
        .args(["up", "--listen", "127.0.0.1:0", "--data"])
        .arg(folder)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Ok(text) = std::fs::read(&file) {
            return Ok((child, serde_json::from_slice(&text)?));
        }
        if let Some(status) = child.try_wait()? {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            bail!("the store ended with {status}:\n{log}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    bail!("the store is not healthy after {PATIENCE:?}")
}

/// The program: `$KODIAK`, or the one that was built with this test.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KODIAK") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let built = test.parent().and_then(Path::parent).context("no build folder")?.join("kodiak");
    if built.exists() { Ok(built) } else { bail!("{} is not built", built.display()) }
}
