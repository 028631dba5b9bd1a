//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::attack::Attack;
use crate::server::SERVERS;

/// Attacks on a DNS resolver: what each takes of nodens and of its peers, and what others notice of it.
///
/// Each attack meets a new process of each server that is installed, on loopback, with one thread and 64 MiB of cache, while
/// an honest client asks 200 cached and 20 fresh names a second and checks each answer. "floor" is a program that
/// answers at once and keeps nothing: what the machine does to the honest client under the same load.
///
/// With two CPUs or more, servers run on one; attacker, honest client and upstreams on another, the attacker with the lowest
/// priority. Nothing is left running.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench abuse --", after_help = EXAMPLES)]
pub struct Options {
    /// A smoke run: a second for each attack
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
    /// How long each attack goes on
    #[arg(long, value_name = "S", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=30))]
    seconds: u64,
    /// Only these attacks
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub only: Vec<Attack>,
    /// Only these servers
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = SERVERS.map(|server| server.name))]
    pub servers: Vec<String>,
    /// All attacks in turn on one process of nodens for so many minutes, an honest client asking 500 names a second
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["quick", "seconds", "only", "json"])]
    pub soak: Option<u64>,
    /// Say what each attack does, and end
    #[arg(long)]
    pub list: bool,
    /// Where a server's program is, if not in PATH or to try another one; may be given several times
    #[arg(long = "program", value_name = "NAME=FILE", value_parser = program)]
    pub programs: Vec<(String, PathBuf)>,
    /// Write all figures
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// What cargo adds
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
    /// How long each attack goes on.
    pub fn under_attack(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { self.seconds })
    }

    /// How long the honest client asks before each attack.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(if self.quick { 300 } else { 1_000 })
    }

    /// How long after the attack memory is read again.
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
