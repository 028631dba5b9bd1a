//! `nodens check`: is a configuration good, and if not, where and why.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::{Outcome, own_addresses};
use crate::config::Config;
use crate::config::parse::parse;
use crate::config::units::Size;

/// Check a configuration file: every mistake in one run, each with its line and column.
///
/// Nothing is started and no port is bound, so a file can be checked beside a running nodens. Exit codes: 0 the file is
/// good, 78 it is not, 64 the command line is wrong, 1 the file cannot be read.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    /// The TOML file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  nodens check nodens.toml          mistakes to stderr, or a summary to stdout
  nodens check nodens.toml && systemctl reload nodens";

impl Check {
    /// Checks the file and says what it found.
    pub(super) fn run(&self) -> Outcome {
        let file = self.file.display();
        let text = match fs::read(&self.file).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                let (line, column) = end_of(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
                complain(format_args!("{file}:{line}:{column}: not UTF-8, which TOML must be"));
                return Outcome::BadConfig;
            }
            Err(error) => {
                complain(format_args!("nodens: cannot read {file}: {error}"));
                return Outcome::Failed;
            }
        };
        match parse(&text, &own_addresses()) {
            Ok(config) => {
                let _ = writeln!(io::stdout(), "{file}: good: {}", summary(&config)); // the exit code says it as well
                Outcome::Good
            }
            Err(mistakes) => {
                for mistake in mistakes {
                    complain(format_args!("{file}:{mistake}"));
                }
                Outcome::BadConfig
            }
        }
    }
}

/// The counts that a reader would look at first.
fn summary(config: &Config) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    format!(
        "{}, {}, {}, cache {}",
        count(config.server.listen.len(), "listener"),
        count(config.routes.len(), "route"),
        count(config.upstreams.len(), "upstream"),
        Size(config.cache.memory as u64),
    )
}

/// Writes one line to stderr, if it is still there.
fn complain(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The line and column behind the last byte of `text`, which is valid UTF-8.
fn end_of(text: &[u8]) -> (usize, usize) {
    let lines = text.iter().filter(|&&byte| byte == b'\n').count();
    let last = text.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    (lines + 1, String::from_utf8_lossy(last).chars().count() + 1)
}
