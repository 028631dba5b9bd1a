//! Reading a configuration file for a command: what is wrong with it goes to stderr, one line a mistake.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::hosts_files;
use super::outcome::Outcome;
use super::own_addresses::own_addresses;
use crate::config::Config;
use crate::config::parse::parse;
use crate::config::units::Size;

/// The header of the table that names hosts files.
const HOSTS: &[u8] = b"[hosts]";
/// The most bytes that a configuration file may have: a worker and its supervisor each keep it in memory.
const LONGEST: usize = 64 << 20;

/// All inputs of a configuration: parsed again they give the same one, however the machine has changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The configuration file's text, or resolv.conf's where there is no such file.
    pub(super) text: Vec<u8>,
    /// Other inputs, as they were when the text was read.
    around: Around,
}

/// Inputs of a configuration other than its text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Around {
    /// This machine's addresses.
    local: Vec<IpAddr>,
    /// The hosts files that the text names: their paths and texts.
    hosts: Vec<(String, String)>,
}

impl Source {
    /// Adds the addresses that this machine has now, and the hosts files that the text names.
    pub(super) fn of(text: Vec<u8>) -> Self {
        let mut source = Self { text, around: Around { local: own_addresses(), hosts: Vec::new() } };
        // Seldom are there any, and a large text is not to be parsed twice for nothing.
        if source.text.windows(HOSTS.len()).any(|part| part == HOSTS)
            && let Ok(config) = source.parse()
        {
            source.around.hosts = hosts_files::read(&config.hosts.files);
        }
        source
    }

    /// This machine's addresses when the text was read.
    pub(super) fn local(&self) -> &[IpAddr] {
        &self.around.local
    }

    /// Packs it for a supervisor: what is around as a line of JSON, then the text.
    pub(super) fn pack(&self) -> Vec<u8> {
        let mut packed = serde_json::to_vec(&self.around).unwrap_or_default(); // it is always JSON
        packed.push(b'\n');
        packed.extend_from_slice(&self.text);
        packed
    }

    /// Unpacks what [`Self::pack`] made; none if it is something else.
    pub(super) fn unpack(packed: &[u8]) -> Option<Self> {
        let end = packed.iter().position(|byte| *byte == b'\n')?;
        let around = serde_json::from_slice(packed.get(..end)?).ok()?;
        Some(Self { text: packed.get(end + 1..)?.to_vec(), around })
    }

    /// Parses the text of a configuration file.
    pub(super) fn parse(&self) -> Result<Config, Unusable> {
        let Self { text, around } = self;
        if text.len() > LONGEST {
            let what = format!("1:1: the file is larger than {}, the most that it may be", Size(LONGEST as u64));
            return Err(Unusable::Mistakes(vec![what]));
        }
        let text = str::from_utf8(text).map_err(|error| {
            let (line, column) = end_of(&text[..error.valid_up_to()]);
            Unusable::Mistakes(vec![format!("{line}:{column}: not UTF-8, which TOML must be")])
        })?;
        let mut config = parse(text, &around.local)
            .map_err(|mistakes| Unusable::Mistakes(mistakes.iter().map(ToString::to_string).collect()))?;
        config.add_hosts(around.hosts.iter().map(|(path, text)| (path.as_str(), text.as_str())));
        Ok(config)
    }
}

/// Reads a file, at most one byte more than it may have.
pub(super) fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(file)?.take(LONGEST as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Why a file gives no configuration.
pub(super) enum Unusable {
    /// It cannot be read.
    Unreadable(io::Error),
    /// These are its mistakes, each as `line:column: what`.
    Mistakes(Vec<String>),
}

/// The configuration of a file.
pub(super) fn load(file: &Path) -> Result<Config, Unusable> {
    Source::of(read(file).map_err(Unusable::Unreadable)?).parse()
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
        self.outcome()
    }

    /// How a command ends for them.
    pub(super) fn outcome(&self) -> Outcome {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_its_packing() {
        for (text, local) in [("", vec![]), ("[server]\n\n", vec!["192.0.2.1"]), ("\n", vec!["::1", "127.0.0.1"])] {
            let local = local.into_iter().map(|address| address.parse().expect("an address")).collect();
            let hosts = vec![("/etc/hosts".to_owned(), "10.0.0.1 a\n".to_owned())];
            let source = Source { text: text.into(), around: Around { local, hosts } };
            assert_eq!(Source::unpack(&source.pack()), Some(source));
        }
        for strange in [&b""[..], b"[server]", b"[server]\n", b"{}\n"] {
            assert_eq!(Source::unpack(strange), None);
        }
    }
}
