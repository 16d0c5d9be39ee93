//! `kodiak-bench`: loads any S3 or Swift endpoint, and measures parts of Kodiak by themselves.

mod facts;
mod latency;
mod load;
mod micro;
mod random;
mod table;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// As in the server, so that the micro-benchmarks measure what it runs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  kodiak-bench load --endpoints DIR/endpoints.json --op mixed --concurrency 1,8,64 --svg mixed.svg
  kodiak-bench load --s3 http://127.0.0.1:9000 --access-key KEY --secret-key SECRET --op get --size 1MiB
  kodiak-bench load --swift http://127.0.0.1:8080/auth/v1.0 --user test:tester --key testing --op put
  kodiak-bench micro volume --folder /var/tmp --json volume.json";

#[derive(Parser)]
#[command(
    name = "kodiak-bench",
    version,
    about = "Load generator and micro-benchmarks",
    args_override_self = true, after_help = EXAMPLES
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drive an S3 or Swift endpoint and verify what it answers
    Load(Box<load::LoadArgs>),
    /// Measure one part of Kodiak in this process
    #[command(subcommand)]
    Micro(micro::MicroCommand),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Load(args) => load::main(*args),
        Command::Micro(command) => micro::main(command).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("kodiak-bench: {error:#}");
        ExitCode::from(2)
    })
}
