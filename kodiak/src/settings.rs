//! The configuration file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kodiak_auth::FixedUser;
use kodiak_proxy::s3::S3Settings;
use kodiak_proxy::server::ServerSettings;
use kodiak_proxy::store::{ReadAffinity, ReaperSettings, WriteAffinity};
use kodiak_proxy::swift::SwiftSettings;
use kodiak_storage_api::{Mode, Protection, check_policy_name};
use kodiak_storage_node::NodeSettings;
use serde::{Deserialize, Serialize};

/// Everything that `kodiak run` needs. Relative paths are relative to the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What the cluster is.
    pub cluster: ClusterSettings,
    /// The front door.
    pub proxy: ProxySettings,
    /// Metrics for Prometheus.
    #[serde(default)]
    pub metrics: MetricsSettings,
    /// The storage node of this machine.
    pub storage: NodeSettings,
    /// The users.
    #[serde(default, rename = "user")]
    pub users: Vec<FixedUser>,
}

/// What the cluster is: rings of a store of one machine, or `folder` and `listen` of a member of several.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// Name of this node in the rings.
    pub node: String,
    /// File with the key that places names: 64 hex digits. Lost, nothing is found again.
    pub placement_key: PathBuf,
    /// Ring of the accounts; a member has it in its map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_ring: Option<PathBuf>,
    /// Ring of the containers; a member has it in its map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_ring: Option<PathBuf>,
    /// Ring of the objects of each storage policy, in the order of `proxy.swift.policies`; a member has them in its
    /// map.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub object_rings: Vec<PathBuf>,
    /// How each storage policy keeps its blocks, in the same order: `"replicated"`, which is the default,
    /// or `{ erasure = "4+2" }` with a ring of six replicas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protection: Vec<Protection>,
    /// What each storage policy does when a majority of an object's devices does not answer, in the same order:
    /// `"strict"`, which is the default, refuses; `"available"` lets others stand in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mode: Vec<Mode>,
    /// Folder with the map and the certificates of a member; `kodiak cluster init` and `join` make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Where a member serves the other ones: an address that they can reach. Port 0 picks a free one the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

/// The front door.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxySettings {
    /// Where Swift and S3 are served; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Limits of the listener.
    #[serde(default)]
    pub server: ServerSettings,
    /// Swift.
    #[serde(default)]
    pub swift: SwiftSettings,
    /// S3.
    #[serde(default)]
    pub s3: S3Settings,
    /// Which regions and zones are asked first, `"r1z1=100, r1=200"`, the lower the sooner. Default: this
    /// machine's zone, its region, all others.
    #[serde(default)]
    pub read_affinity: ReadAffinity,
    /// Regions and zones, `"r1"` or `"r1z2"`, to which blocks of objects above 256 KiB go at first; the repair
    /// brings them home. Default: none, they go home at once.
    #[serde(default)]
    pub write_affinity: WriteAffinity,
    /// What is done with deleted accounts.
    #[serde(default)]
    pub reaper: ReaperSettings,
    /// Seconds that a log-in is good for.
    #[serde(default = "token_life")]
    pub token_life: u64,
    /// Rows from which on a listing, or a part of one, is split in two; at least 100. Default 0: never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub listing_rows: u64,
}

fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

fn token_life() -> u64 {
    86_400
}

/// With less than this a listing would be little else than the directories it is made of.
const MIN_LISTING_ROWS: u64 = 100;

/// Metrics for Prometheus.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSettings {
    /// Where `/metrics` is served; nowhere if it is left out. Nobody is asked who they are there.
    pub listen: Option<SocketAddr>,
}

impl Settings {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Settings> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let settings = toml::from_str(&text).with_context(|| format!("{} is not right", path.display()));
        let mut settings: Settings = settings?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let cluster = &mut settings.cluster;
        let rings = cluster.account_ring.iter_mut().chain(&mut cluster.container_ring);
        let rings = rings.chain(&mut cluster.object_rings).chain(&mut cluster.folder);
        let devices = settings.storage.devices.iter_mut().map(|device| &mut device.path);
        for file in rings.chain(devices).chain([&mut cluster.placement_key]) {
            *file = folder.join(&*file);
        }
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.storage.devices.is_empty(), "storage.devices is empty");
        let (rings, policies) = (self.cluster.object_rings.len(), self.proxy.swift.policies.len());
        match (&self.cluster.folder, self.cluster.listen) {
            (Some(_), Some(_)) => {
                ensure!(rings == 0, "cluster.folder has the rings: take cluster.object_rings out")
            }
            (None, None) => ensure!(
                rings == policies,
                "there are {rings} object rings, but {policies} names in proxy.swift.policies"
            ),
            _ => bail!("cluster.folder and cluster.listen go together"),
        }
        let protections = self.cluster.protection.len();
        ensure!(
            protections <= rings,
            "cluster.protection has {protections} entries, but there are {rings} object rings"
        );
        let modes = self.cluster.mode.len();
        ensure!(modes <= rings, "cluster.mode has {modes} entries, but there are {rings} object rings");
        let rows = self.proxy.listing_rows;
        ensure!(
            rows == 0 || rows >= MIN_LISTING_ROWS,
            "proxy.listing_rows is {rows}: a part of a listing has at least {MIN_LISTING_ROWS}, and 0 is never"
        );
        let mut seen: Vec<String> = Vec::new();
        for policy in &self.proxy.swift.policies {
            check_policy_name(policy).map_err(anyhow::Error::msg)?;
            let name = policy.to_lowercase();
            ensure!(!seen.contains(&name), "two policies are called {policy}");
            seen.push(name);
        }
        for user in &self.users {
            let whole = |name: &str| !name.is_empty() && !name.contains([':', '/', ',']);
            if !whole(&user.account) || !whole(&user.name) {
                bail!("user {}:{}: names are not empty and hold no : / ,", user.account, user.name);
            }
            ensure!(!user.key.expose().is_empty(), "user {}:{} has no key", user.account, user.name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let text = "[cluster]\nnode = \"n\"\nplacemet_key = \"x\"\n";
        let error = toml::from_str::<Settings>(text).expect_err("a misspelt key").to_string();
        assert!(error.contains("placemet_key"), "{error}");
    }
}
