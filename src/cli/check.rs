//! `nodens check`: validates a configuration and lists its mistakes.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::config_file::load;
use super::outcome::CommandOutcome;
use crate::config::units::Size;
use crate::config::{Config, LogTarget};

/// Check a configuration file and report every mistake with its line and column.
///
/// Warnings name settings that are valid but rarely intended, each with its remedy. They go to stderr; the exit code is 0.
///
/// Nothing is started and no port is bound, so a file can be checked beside a running nodens. Exit codes: 0 the file is
/// valid; 78 it is not; 64 the command line is wrong; 1 the file cannot be read.
///
/// A valid file may still name an address, a port or a link that this node does not have. A running nodens applies a changed
/// file, except for the keys that need a restart: server.listen, server.workers, admin.listen, admin.metrics_listen,
/// report.listen, node, handover.socket, cache.memory, kubernetes, warm_up.file. Until then they keep the values of the start of
/// `nodens serve`, also in a worker that replaces a dead one. A file may have at most 64 MiB.
///
/// The summary states the memory that a large configuration needs at most, besides the cache; add it to the memory limit.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// Configuration file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  nodens check nodens.toml          mistakes and warnings to stderr, a summary to stdout
  nodens check nodens.toml && systemctl reload nodens";

impl CheckArgs {
    /// Checks the file and prints the result.
    pub(super) fn run(&self) -> CommandOutcome {
        match load(&self.file) {
            Ok(config) => {
                for warning in &config.warnings {
                    let _ = writeln!(io::stderr(), "{}:{warning}", self.file.display());
                }
                for fault in &config.hosts.faults {
                    let _ = writeln!(io::stderr(), "{fault}");
                }
                for directory in absent_directories(&config) {
                    let _ = writeln!(io::stderr(), "{}: warning: {directory}", self.file.display());
                }
                // The exit code reports it too.
                let _ = writeln!(io::stdout(), "{}: OK ({})", self.file.display(), summary(&config));
                CommandOutcome::Good
            }
            Err(unusable) => unusable.complain(&self.file),
        }
    }
}

/// Returns a warning for each configured path that does not fit this machine: a directory or a hosts file is missing, or a
/// directory is in the place of a file.
fn absent_directories(config: &Config) -> Vec<String> {
    let log = config.query_log.as_ref().and_then(|log| match &log.to {
        LogTarget::File(file) => Some(("query_log.to", file)),
        LogTarget::Stdout => None,
    });
    let hosts = config.hosts.files.iter().filter_map(|path| match path.single() {
        Some(file) if !file.is_file() => Some(format!("hosts.files: this machine has no file {}", file.display())),
        None if !path.directory.is_dir() => {
            Some(format!("hosts.files: this machine has no directory {}", path.directory.display()))
        }
        _ => None,
    });
    let query_history = config.warm_up.file.as_ref().map(|file| ("warm_up.file", file));
    let complaint = |(key, file): (&str, &PathBuf)| {
        if file.is_dir() {
            return Some(format!("{key}: {} is a directory; name a file in it", file.display()));
        }
        let directory = file.parent().filter(|directory| !directory.is_dir())?;
        let directory = directory.display();
        Some(format!("{key}: this machine has no directory {directory}; make it before nodens starts there"))
    };
    log.into_iter().chain(query_history).filter_map(complaint).chain(hosts).collect()
}

/// Returns the main counts of a configuration.
fn summary(config: &Config) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut parts = vec![
        count(config.server.listen.len(), "listener"),
        count(config.routes.len(), "route"),
        count(config.upstreams.len(), "upstream"),
    ];
    if !config.views.is_empty() {
        parts.push(count(config.views.len(), "view"));
    }
    parts.push(format!("cache {}", Size(config.cache.memory as u64)));
    // The memory of a small configuration is part of the memory that every nodens needs.
    match config.footprint() >> 20 {
        0 => {}
        mib => parts.push(format!("configuration {}", Size((mib as u64 + 1) << 20))),
    }
    parts.join(", ")
}
