//! Reading a configuration file for a command: what is wrong with it goes to stderr, one line a mistake.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::outcome::Outcome;
use super::own_addresses::own_addresses;
use crate::config::Config;
use crate::config::parse::parse;

/// Why a file gives no configuration.
pub(super) enum Unusable {
    /// It cannot be read.
    Unreadable(io::Error),
    /// These are its mistakes, each as `line:column: what`.
    Mistakes(Vec<String>),
}

/// The configuration of a file.
pub(super) fn load(file: &Path) -> Result<Config, Unusable> {
    read(&fs::read(file).map_err(Unusable::Unreadable)?)
}

/// The configuration of what a file holds.
pub(super) fn read(bytes: &[u8]) -> Result<Config, Unusable> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let (line, column) = end_of(&bytes[..error.valid_up_to()]);
        Unusable::Mistakes(vec![format!("{line}:{column}: not UTF-8, which TOML must be")])
    })?;
    parse(text, &own_addresses())
        .map_err(|mistakes| Unusable::Mistakes(mistakes.iter().map(ToString::to_string).collect()))
}

impl Unusable {
    /// Each complaint about `file`, as a line.
    pub(super) fn lines(&self, file: &Path) -> Vec<String> {
        let file = file.display();
        match self {
            Self::Unreadable(error) => vec![format!("nodens: cannot read {file}: {error}")],
            Self::Mistakes(mistakes) => mistakes.iter().map(|mistake| format!("{file}:{mistake}")).collect(),
        }
    }

    /// Writes the complaints to stderr, and how a command ends for them.
    pub(super) fn complain(&self, file: &Path) -> Outcome {
        for line in self.lines(file) {
            let _ = writeln!(io::stderr(), "{line}"); // if nobody listens, the exit code still tells
        }
        match self {
            Self::Unreadable(_) => Outcome::Failed,
            Self::Mistakes(_) => Outcome::BadConfig,
        }
    }
}

/// The line and column behind the last byte of `text`, which is valid UTF-8.
fn end_of(text: &[u8]) -> (usize, usize) {
    let lines = text.iter().filter(|&&byte| byte == b'\n').count();
    let last = text.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    (lines + 1, String::from_utf8_lossy(last).chars().count() + 1)
}
