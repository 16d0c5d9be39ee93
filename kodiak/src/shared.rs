//! What all members of a cluster have alike beside the map: the placement key and the users.

use anyhow::{Context, Result};
use kodiak_auth::FixedUser;
use serde::{Deserialize, Serialize};

use crate::settings::Settings;

/// It holds secrets: it is sent to machines that are admitted, and to nobody else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Hex digits of the key that places names.
    pub placement_key: String,
    /// The users.
    #[serde(default, rename = "user")]
    pub users: Vec<FixedUser>,
}

impl Shared {
    /// What this machine has.
    pub fn of(settings: &Settings) -> Result<Shared> {
        let path = &settings.cluster.placement_key;
        let key = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Shared { placement_key: key.trim().to_owned(), users: settings.users.clone() })
    }

    /// For sending.
    pub fn text(&self) -> Result<String> {
        toml::to_string(self).context("cannot write the users")
    }

    /// As it was sent.
    pub fn parse(text: &str) -> Result<Shared> {
        toml::from_str(text).context("what the cluster sent about users makes no sense here")
    }
}
