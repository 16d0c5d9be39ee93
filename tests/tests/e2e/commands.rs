//! The commands themselves, whatever they are about.

use std::io::Read;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use kodiak_tests::program;
use tempfile::TempDir;

/// Runs `kodiak` with nobody to read what it prints.
fn unread(arguments: &[&str]) -> Result<Output> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let child = Command::new(program()?).args(arguments).stdout(writer).stderr(Stdio::piped()).spawn()?;
    Ok(child.wait_with_output()?)
}

#[test]
fn commands_end_quietly_when_nobody_reads_what_they_print() -> Result<()> {
    let folder = TempDir::with_prefix("kodiak-e2e-")?;
    let (ring, nowhere) = (folder.path().join("object.ring"), folder.path().join("none"));
    let (ring, nowhere) = (ring.to_str().context("a path")?, nowhere.to_str().context("a path")?);
    let commands: [&[&str]; 7] = [
        &["version"],
        &["--help"],
        &["ring", "create", ring, "--part-power", "4", "--replicas", "1"],
        &["ring", "add", ring, "--node", "n1", "--device", "d1"],
        &["ring", "rebalance", ring],
        &["ring", "show", ring, "--json"],
        &["down", "--data", nowhere],
    ];
    for command in commands {
        let output = unread(command)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && said.is_empty(), "{command:?}: {} {said}", output.status);
    }
    Ok(())
}

#[test]
fn a_store_whose_output_nobody_reads_serves_all_the_same() -> Result<()> {
    let folder = TempDir::with_prefix("kodiak-e2e-")?;
    let data = folder.path().join("data");
    let (mut reader, writer) = std::io::pipe()?;
    let mut child = Command::new(program()?)
        .args(["up", "--listen", "127.0.0.1:0", "--data"])
        .arg(&data)
        .env("KODIAK_LOG", "trace")
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    // As `head -c 1` does.
    reader.read_exact(&mut [0])?;
    drop(reader);
    let text = || std::fs::read_to_string(data.join("endpoints.json"));
    let begun = std::time::Instant::now();
    while text().is_err() && begun.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let down = Command::new(program()?).args(["down", "--data"]).arg(&data).output()?;
    let ended = child.wait()?;
    ensure!(down.status.success() && ended.success(), "it ended with {ended}: {down:?}");
    Ok(())
}
