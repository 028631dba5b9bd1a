//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::attack::Attack;
use crate::server::SERVERS;

/// Attacks on a DNS resolver: their cost for nodens and its peers, and their effect on other clients.
///
/// Each attack meets a new process of each installed server, on loopback, with one thread and 64 MiB of cache, while an
/// honest client sends 200 queries for cached and 20 for fresh names a second and checks each answer. "floor" is a program
/// that responds at once and keeps nothing: it shows how the machine affects the honest client under the same load.
///
/// With two CPUs or more, servers run on one; the attacker, the honest client and the upstreams run on another, the attacker
/// with the lowest priority. All processes end with the run.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench abuse --", after_help = EXAMPLES)]
pub struct Options {
    /// Smoke run: one second for each attack
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
    /// Duration of each attack
    #[arg(long, value_name = "S", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=30))]
    seconds: u64,
    /// Only these attacks
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub only: Vec<Attack>,
    /// Only these servers
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = SERVERS.map(|server| server.name))]
    pub servers: Vec<String>,
    /// Run all attacks in turn on one process of nodens for this many minutes, with an honest client at 500 queries a second
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["quick", "seconds", "only", "json"])]
    pub soak: Option<u64>,
    /// List the attacks and exit
    #[arg(long)]
    pub list: bool,
    /// Program of a server, if it is not in PATH or to try another one; may be given several times
    #[arg(long = "program", value_name = "NAME=FILE", value_parser = program)]
    pub programs: Vec<(String, PathBuf)>,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Argument that cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench --bench abuse                                  all attacks on all that is installed: some 20 minutes
  cargo bench --bench abuse -- --list
  cargo bench --bench abuse -- --quick --servers floor,nodens
  cargo bench --bench abuse -- --soak 10
  cargo bench --bench abuse -- --only silent-zone,malformed --servers nodens,unbound --json abuse.json";

impl Options {
    /// Returns the duration of each attack.
    pub fn under_attack(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { self.seconds })
    }

    /// Returns the time for which the honest client sends queries before each attack.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(if self.quick { 300 } else { 1_000 })
    }

    /// Returns the time between the end of an attack and the last reading of memory.
    pub fn after(&self) -> Duration {
        Duration::from_millis(if self.quick { 300 } else { 5_000 })
    }
}

fn program(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if SERVERS.iter().any(|server| server.name == name) => Ok((name.to_owned(), file.into())),
        Some((name, _)) => Err(format!("there is no server {name:?}")),
        None => Err("NAME=FILE is needed".to_owned()),
    }
}
