//! The command line, with a file for each command.

use std::ffi::OsString;

use clap::{Parser, Subcommand};

mod bench;
mod check;
mod config_file;
mod failover;
mod hosts_files;
mod lab;
mod log_format;
mod node;
mod outcome;
mod own_addresses;
mod progress;
mod ready;
mod schema;
mod serve;
mod service_manager;
mod signals;
mod start_config;
mod status;

pub use outcome::CommandOutcome;

/// A DNS caching resolver for the nodes of a Kubernetes CI cluster.
#[derive(Debug, Parser)]
#[command(name = "nodens", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Lab(lab::Lab),
    Serve(serve::Serve),
    Check(check::CheckArgs),
    Status(status::StatusArgs),
    Job(status::JobArgs),
    Node(node::NodeCommand),
    Bench(bench::Bench),
    Ready(ready::Ready),
    Schema(schema::Schema),
}

const EXAMPLES: &str = "\
Examples:
  nodens lab                        a small hybrid network on loopback, with nodens in front
  nodens lab --tour                 shows split horizon, cache and failover
  nodens serve                      a cache in front of /etc/resolv.conf, on port 5300
  nodens serve --config nodens.toml
  nodens check nodens.toml          reports every mistake of a configuration
  nodens status --jobs              jobs that query a running nodens, and how much of it fails
  nodens job 8123                   what one job asked, and why it failed
  nodens node status --config nodens.toml       addresses and firewall of this node
  nodens bench latency --target 127.0.0.1:5300
  nodens bench failover             cost of a fault of an upstream for clients
  nodens schema > nodens.schema.json    completes and checks the configuration in editors
  nodens help check                 more about a command";

/// Runs the command in `args`; the first argument is the program's name. Output goes to stdout, errors to stderr.
pub fn run(args: impl IntoIterator<Item = OsString>) -> CommandOutcome {
    match Cli::try_parse_from(args) {
        Ok(cli) => match cli.command {
            Command::Lab(lab) => lab.run(),
            Command::Serve(serve) => serve.run(),
            Command::Check(check) => check.run(),
            Command::Status(status) => status.run(),
            Command::Job(job) => job.run(),
            Command::Node(node) => node.run(),
            Command::Bench(bench) => bench.run(),
            Command::Ready(ready) => ready.run(),
            Command::Schema(schema) => schema.run(),
        },
        Err(answer) => {
            let _ = answer.print(); // a closed stdout or stderr cannot be reported
            if answer.use_stderr() { CommandOutcome::BadUsage } else { CommandOutcome::Good }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
