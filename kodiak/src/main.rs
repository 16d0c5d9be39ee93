//! `kodiak`: the whole cloud in one program.

// They panic where nobody reads: see `output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod assignments;
mod commands;
mod data;
mod endpoints;
mod member;
mod metrics;
mod operator;
mod output;
mod remote;
mod serve;
mod settings;
mod shared;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What this build calls itself.
pub const VERSION: &str = match cfg!(feature = "ahead") {
    true => concat!(env!("CARGO_PKG_VERSION"), "+ahead"),
    false => env!("CARGO_PKG_VERSION"),
};

const EXAMPLES: &str = "Examples:
  kodiak up                          start a store on this machine, in the foreground
  kodiak up --data /srv/kodiak -d    the same elsewhere, in the background
  kodiak down --data /srv/kodiak     stop it
  kodiak ring show object.ring       look at a ring";

/// A durable object store that speaks Swift and S3.
#[derive(Parser, Debug)]
#[command(name = "kodiak", version = VERSION, about, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a store on this machine; the first time, make its folders, rings and credentials.
    Up(commands::up::Up),
    /// Stop the store that `up` has started in a folder.
    Down(commands::down::Down),
    /// Serve what a configuration file says.
    Run(commands::run::Run),
    /// Make, change and look at rings.
    #[command(subcommand)]
    Ring(commands::ring::RingCommand),
    /// Make machines a cluster, and look at it.
    #[command(subcommand)]
    Cluster(commands::cluster::ClusterCommand),
    /// Drain, remove and replace machines of a cluster.
    #[command(subcommand)]
    Node(commands::node::NodeCommand),
    /// Add, weigh, remove and reset devices of a cluster.
    #[command(subcommand)]
    Device(commands::device::DeviceCommand),
    /// Check configurations.
    #[command(subcommand)]
    Config(commands::config::ConfigCommand),
    /// Print the version.
    #[command(after_help = "Example: kodiak version")]
    Version,
}

fn main() -> std::process::ExitCode {
    let done = match Arguments::parse().command {
        Command::Up(up) => commands::up::run(up),
        Command::Down(down) => commands::down::run(down),
        Command::Run(run) => commands::run::run(run),
        Command::Ring(ring) => commands::ring::run(ring),
        Command::Cluster(cluster) => commands::cluster::run(cluster),
        Command::Node(node) => commands::node::run(node),
        Command::Device(device) => commands::device::run(device),
        Command::Config(config) => commands::config::run(config),
        Command::Version => {
            output::say!("kodiak {VERSION}");
            Ok(())
        }
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            output::complain(format_args!("Error: {error:#}"));
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn look(command: &clap::Command, path: &str, without: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        let mut below = command.get_subcommands().filter(|below| below.get_name() != "help").peekable();
        if below.peek().is_none() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let shown = help.contains("Example") && help.contains(path.trim());
            if !shown || command.get_about().is_none() {
                without.push(path.clone());
            }
        }
        below.for_each(|below| look(below, &path, without));
    }

    #[test]
    fn every_command_says_what_it_does_and_shows_an_example() {
        let mut without = Vec::new();
        look(&Arguments::command(), "", &mut without);
        assert!(without.is_empty(), "these have none: {without:?}");
    }
}
