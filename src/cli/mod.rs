//! The command line: one file per command.

use std::ffi::OsString;
use std::net::IpAddr;

use clap::{Parser, Subcommand};
use nix::ifaddrs::getifaddrs;
use tracing::warn;

mod bench;
mod check;
mod config_file;
mod failover;
mod lab;
mod node;
mod serve;
mod status;

/// How a run of the command ended; `main` turns it into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is good.
    Good,
    /// The command line is wrong (EX_USAGE).
    BadUsage,
    /// The configuration is wrong (EX_CONFIG).
    BadConfig,
    /// Something else went wrong; trying again may help.
    Failed,
}

impl Outcome {
    /// The exit code (sysexits.h).
    pub fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Failed => 1,
            Self::BadUsage => 64,
            Self::BadConfig => 78,
        }
    }

    /// What the exit code of another nodens says.
    fn of_code(code: u8) -> Self {
        let all = [Self::Good, Self::BadUsage, Self::BadConfig];
        all.into_iter().find(|outcome| outcome.code() == code).unwrap_or(Self::Failed)
    }
}

/// A DNS caching resolver for the nodes of a Kubernetes CI cluster.
#[derive(Debug, Parser)]
#[command(name = "nodens", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    Lab(lab::Lab),
    Serve(serve::Serve),
    Check(check::Check),
    Status(status::Status),
    Job(status::Job),
    Node(node::NodeCommand),
    Bench(bench::Bench),
}

const EXAMPLES: &str = "\
Examples:
  nodens lab                        a small hybrid network on loopback, with nodens in front
  nodens lab --tour                 be shown split horizon, cache and failover
  nodens serve                      a cache in front of /etc/resolv.conf, on port 5300
  nodens serve --config nodens.toml
  nodens check nodens.toml          every mistake of a configuration
  nodens status --jobs              who asks a nodens that runs, and how much of it fails
  nodens job 8123                   what one job asked, and why it failed
  nodens node status --config nodens.toml       what it has put on this node
  nodens bench latency --target 127.0.0.1:5300
  nodens bench failover             what a fault of an upstream costs the clients
  nodens help check                 more about a command";

/// Runs the command that `args` ask for; the first is the program's name. Output goes to stdout, complaints to stderr.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Outcome {
    match Cli::try_parse_from(args) {
        Ok(cli) => match cli.command {
            Command::Lab(lab) => lab.run(),
            Command::Serve(serve) => serve.run(),
            Command::Check(check) => check.run(),
            Command::Status(status) => status.run(),
            Command::Job(job) => job.run(),
            Command::Node(node) => node.run(),
            Command::Bench(bench) => bench.run(),
        },
        Err(answer) => {
            let _ = answer.print(); // nobody is left to tell that stdout or stderr is gone
            if answer.use_stderr() { Outcome::BadUsage } else { Outcome::Good }
        }
    }
}

/// This machine's own addresses, those that are up or down alike; none if the kernel does not tell.
fn own_addresses() -> Vec<IpAddr> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            warn!(%error, "cannot list this machine's addresses");
            return Vec::new();
        }
    };
    let ip = |address: nix::sys::socket::SockaddrStorage| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::from(v4.ip())),
        (_, Some(v6)) => Some(IpAddr::from(v6.ip())),
        _ => None,
    };
    interfaces.filter_map(|interface| interface.address.and_then(ip)).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn loopback_is_ours() {
        assert!(own_addresses().iter().any(IpAddr::is_loopback));
    }
}
