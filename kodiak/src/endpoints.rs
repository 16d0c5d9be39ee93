//! `endpoints.json`: how scripts and tests reach a store that runs.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Name of the file in the data folder.
pub const FILE: &str = "endpoints.json";

/// How to reach a store. Written once it is healthy, removed when it stops.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoints {
    /// Swift.
    pub swift: Swift,
    /// S3.
    pub s3: S3,
    /// URL of the Prometheus metrics.
    pub metrics: Option<String>,
    /// Where it serves the other members of its cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<SocketAddr>,
    /// The process.
    pub pid: u32,
}

/// How to log in to Swift.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Swift {
    /// For `ST_AUTH`.
    pub auth_url: String,
    /// For `ST_USER`.
    pub user: String,
    /// For `ST_KEY`.
    pub key: String,
}

/// How to sign for S3.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct S3 {
    /// The endpoint, path style.
    pub url: String,
    /// The access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The region that signatures name.
    pub region: String,
}

impl Endpoints {
    /// Those in a data folder, if there are any.
    pub fn load(data: &Path) -> Option<Endpoints> {
        let text = std::fs::read(data.join(FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes them at once, so that nobody reads half of them, and only for the owner's eyes.
    pub fn save(&self, data: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        crate::data::write_secret(&data.join(FILE), &text)
    }

    /// Whether the process that wrote them lives.
    pub fn alive(&self) -> bool {
        i32::try_from(self.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
    }

    /// What a person pastes.
    pub fn describe(&self) -> String {
        let Endpoints { swift, s3, metrics, .. } = self;
        let host = s3.url.trim_start_matches("http://");
        format!(
            "Swift  {auth}
  export ST_AUTH={auth} ST_USER={user} ST_KEY={key}
  swift upload photos *.jpg && swift list photos

S3     {url}
  export AWS_ENDPOINT_URL={url} AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY={secret} AWS_DEFAULT_REGION={region}
  aws s3 mb s3://photos2 && aws s3 sync . s3://photos2
  s3cmd --host={host} --host-bucket={host} --no-ssl --access_key={access} --secret_key={secret} ls
  rclone lsd \":s3,provider=Other,endpoint='{url}',access_key_id={access},secret_access_key={secret}:\"

Metrics  {metrics}",
            auth = swift.auth_url,
            user = swift.user,
            key = swift.key,
            url = s3.url,
            access = s3.access_key,
            secret = s3.secret_key,
            region = s3.region,
            metrics = metrics.as_deref().unwrap_or("off"),
        )
    }
}

/// Takes the endpoints away when the store stops.
pub fn remove(data: &Path) -> Result<()> {
    match std::fs::remove_file(data.join(FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {FILE}"))
        }
        _ => Ok(()),
    }
}
