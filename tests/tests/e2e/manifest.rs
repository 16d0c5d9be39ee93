//! The table of who may import whom, and the licences of what we link, held by `cargo metadata`.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

/// Crate, and which of ours it may import.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("kodiak-ring", &[]),
    ("kodiak-auth", &[]),
    ("kodiak-storage-api", &["kodiak-ring"]),
    ("kodiak-storage-node", &["kodiak-ring", "kodiak-storage-api"]),
    ("kodiak-cluster", &["kodiak-ring", "kodiak-storage-api"]),
    ("kodiak-proxy", &["kodiak-auth", "kodiak-ring", "kodiak-storage-api"]),
    (
        "kodiak",
        &[
            "kodiak-auth",
            "kodiak-cluster",
            "kodiak-proxy",
            "kodiak-ring",
            "kodiak-storage-api",
            "kodiak-storage-node",
        ],
    ),
    ("kodiak-tests", &["kodiak-proxy", "kodiak-ring", "kodiak-storage-api", "kodiak-storage-node"]),
    ("kodiak-bench", &["kodiak-ring", "kodiak-storage-api", "kodiak-storage-node"]),
];

#[test]
fn crates_import_only_what_they_may() -> Result<()> {
    let metadata = metadata(&["--no-deps"])?;
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

#[test]
fn everything_we_link_has_a_licence_that_deny_toml_allows() -> Result<()> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deny.toml"))?;
    let policy: Value = toml::from_str(&text)?;
    let allowed = policy["licenses"]["allow"].as_array().context("licenses.allow")?;
    let allowed: BTreeSet<&str> = allowed.iter().filter_map(Value::as_str).collect();
    // What other platforms need is not downloaded here.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = metadata(&["--filter-platform", &platform])?;
    for package in metadata["packages"].as_array().context("packages")? {
        let name = package["name"].as_str().context("a name")?;
        let licence = package["license"].as_str().with_context(|| format!("{name} states no licence"))?;
        let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX)?;
        let permitted = expression.evaluate(|needed| allowed.contains(needed.to_string().as_str()));
        assert!(permitted, "{name} is under {licence}");
    }
    Ok(())
}

fn metadata(options: &[&str]) -> Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(options)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}
