//! The table of who may import whom, held by `cargo metadata`.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

/// Crate, and which of ours it may import.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("kodiak-ring", &[]),
    ("kodiak-auth", &[]),
    ("kodiak-storage-api", &["kodiak-ring"]),
    ("kodiak-storage-node", &["kodiak-ring", "kodiak-storage-api"]),
    ("kodiak-proxy", &["kodiak-auth", "kodiak-ring", "kodiak-storage-api"]),
    ("kodiak", &["kodiak-auth", "kodiak-proxy", "kodiak-ring", "kodiak-storage-api", "kodiak-storage-node"]),
    ("kodiak-tests", &[]),
    ("kodiak-bench", &["kodiak-ring", "kodiak-storage-api", "kodiak-storage-node"]),
];

#[test]
fn crates_import_only_what_they_may() -> Result<()> {
    let command = ["metadata", "--no-deps", "--format-version", "1", "--offline", "--locked"];
    let output =
        Command::new(env!("CARGO")).args(command).current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let packages = metadata["packages"].as_array().context("packages")?;
    assert_eq!(packages.len(), ALLOWED.len(), "the table lists every crate");
    for package in packages {
        let name = package["name"].as_str().context("a name")?;
        let (_, allowed) = ALLOWED.iter().find(|(listed, _)| *listed == name).context(name.to_owned())?;
        let dependencies = package["dependencies"].as_array().context("dependencies")?;
        let ours: BTreeSet<&str> = dependencies
            .iter()
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|name| name.starts_with("kodiak"))
            .collect();
        assert!(ours.iter().all(|used| allowed.contains(used)), "{name} imports {ours:?}");
    }
    Ok(())
}
