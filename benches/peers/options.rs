//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::modes::Mode;
use crate::server::SERVERS;

/// nodens and other DNS servers side by side on this machine: the cost of one answer for each.
///
/// Starts all installed servers on loopback, each with one thread and a configuration near its defaults, in front of one
/// local upstream (nsd, or a built-in one). Then measures in rounds, in which each server has its turn, so that drift
/// affects all alike. "floor" is a server that only turns queries into responses, in batches: the minimum cost of a program.
///
/// With two CPUs or more, servers run on one, and the load and the upstream on another. All processes end with the run.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench peers --", after_help = EXAMPLES)]
pub struct Options {
    /// Quick run: one round of a third of a second
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Number of measurements of each server in each mode
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Duration of each measurement
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    seconds: f64,
    /// Only these servers
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = SERVERS.map(|server| server.name))]
    pub only: Vec<String>,
    /// Only these modes
    #[arg(long, value_name = "MODES", value_delimiter = ',')]
    pub modes: Vec<Mode>,
    /// Queries a second in the mode `latency`
    #[arg(long, value_name = "QPS", default_value = "5000", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: u64,
    /// Program of a server, if it is not in PATH or to try another one; may be given several times
    #[arg(long = "program", value_name = "NAME=FILE", value_parser = program)]
    pub programs: Vec<(String, PathBuf)>,
    /// Measure nothing: show figures that --json wrote before
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Write all figures of all rounds as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a chart as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write the ratios to the floor as a Markdown table
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Argument that cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench --bench peers                                      all that is installed, in all modes
  cargo bench --bench peers -- --quick                           a first look
  cargo bench --bench peers -- --only floor,nodens,unbound --modes hits,misses --rounds 9
  cargo bench --bench peers -- --program coredns=/opt/coredns/coredns --json peers.json --svg peers.svg";

/// Longest measurement, in seconds: a longer one would run out of names that were not queried before.
const LONGEST: f64 = 6.0;

impl Options {
    /// Returns the number of measurements of each server in each mode.
    pub fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds.into() }
    }

    /// Returns the duration of each measurement, in seconds.
    pub fn seconds(&self) -> f64 {
        if self.quick { 0.3 } else { self.seconds }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=LONGEST).contains(&seconds) => Ok(seconds),
        _ => Err(format!("from 0.1 to {LONGEST}")),
    }
}

fn program(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if SERVERS.iter().any(|server| server.name == name) => Ok((name.to_owned(), file.into())),
        Some((name, _)) => Err(format!("there is no server {name:?}")),
        None => Err("NAME=FILE is needed".to_owned()),
    }
}
