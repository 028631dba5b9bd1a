//! Reads and parses a configuration file for a command. Mistakes go to stderr, one a line.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::hosts_files::{self, FileStamp};
use super::outcome::CommandOutcome;
use super::own_addresses::own_addresses;
use crate::config::Config;
use crate::config::parse::parse;
use crate::config::units::Size;

/// The header of the table that names hosts files.
const HOSTS: &[u8] = b"[hosts]";
/// Size limit of a configuration file, in bytes: a worker and its supervisor each keep it in memory.
const LONGEST: usize = 64 << 20;

/// All inputs of a configuration. Parsing them again gives the same configuration, even if the machine has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigSource {
    /// Text of the configuration file, or of resolv.conf if there is no such file.
    pub(super) text: Vec<u8>,
    /// Other inputs, as of when the text was read.
    around: ConfigInputs,
}

/// Inputs of a configuration other than its text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ConfigInputs {
    /// Addresses of this machine.
    local: Vec<IpAddr>,
    /// Path and text of each hosts file that the text names.
    hosts: Vec<(String, String)>,
    /// Stamps of these files from before they were read: a later change is then noticed, by a successor too.
    #[serde(default)]
    stamps: Vec<FileStamp>,
}

impl ConfigSource {
    /// Combines the text with this machine's current addresses and the hosts files that the text names.
    pub(super) fn of(text: Vec<u8>) -> Self {
        let mut source = Self { text, around: ConfigInputs { local: own_addresses(), ..ConfigInputs::default() } };
        // Most configurations name no hosts files; a large text is then not parsed twice.
        if source.text.windows(HOSTS.len()).any(|part| part == HOSTS)
            && let Ok(config) = source.parse()
        {
            source.around.stamps = hosts_files::stamps(&config.hosts.files);
            source.around.hosts = hosts_files::read(&config.hosts.files);
        }
        source
    }

    /// Returns this machine's addresses as of when the text was read.
    pub(super) fn local(&self) -> &[IpAddr] {
        &self.around.local
    }

    /// Returns the stamps of the hosts files from before they were read.
    pub(super) fn stamps(&self) -> &[FileStamp] {
        &self.around.stamps
    }

    /// Returns the text and the stamps, and frees the texts of the hosts files.
    pub(super) fn into_watched(self) -> (Vec<u8>, Vec<FileStamp>) {
        (self.text, self.around.stamps)
    }

    /// Packs the source for the supervisor: the other inputs as a line of JSON, then the text.
    pub(super) fn pack(&self) -> Vec<u8> {
        let mut packed = serde_json::to_vec(&self.around).unwrap_or_default(); // cannot fail
        packed.push(b'\n');
        packed.extend_from_slice(&self.text);
        packed
    }

    /// Unpacks the output of [`Self::pack`]; returns `None` for any other input.
    pub(super) fn unpack(packed: &[u8]) -> Option<Self> {
        let end = packed.iter().position(|byte| *byte == b'\n')?;
        let around = serde_json::from_slice(packed.get(..end)?).ok()?;
        Some(Self { text: packed.get(end + 1..)?.to_vec(), around })
    }

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
            .map_err(|diagnostics| Unusable::Mistakes(diagnostics.iter().map(ToString::to_string).collect()))?;
        config.add_hosts(around.hosts.iter().map(|(path, text)| (path.as_str(), text.as_str())));
        Ok(config)
    }
}

/// Reads a file, up to one byte beyond the size limit.
pub(super) fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(file)?.take(LONGEST as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Reason why a file gives no configuration.
pub(super) enum Unusable {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// Mistakes in the file, each as `line:column: text`.
    Mistakes(Vec<String>),
}

/// Reads and parses a configuration file.
pub(super) fn load(file: &Path) -> Result<Config, Unusable> {
    ConfigSource::of(read(file).map_err(Unusable::Unreadable)?).parse()
}

impl Unusable {
    /// Returns the errors in `file`, one a line.
    pub(super) fn lines(&self, file: &Path) -> Vec<String> {
        let file = file.display();
        match self {
            Self::Unreadable(error) => vec![format!("nodens: cannot read {file}: {error}")],
            Self::Mistakes(diagnostics) => {
                diagnostics.iter().map(|diagnostic| format!("{file}:{diagnostic}")).collect()
            }
        }
    }

    /// Writes the errors to stderr and returns the outcome of the command.
    pub(super) fn complain(&self, file: &Path) -> CommandOutcome {
        for line in self.lines(file) {
            let _ = writeln!(io::stderr(), "{line}"); // the exit code reports it too
        }
        self.outcome()
    }

    /// Returns the outcome of a command that fails for this reason.
    pub(super) fn outcome(&self) -> CommandOutcome {
        match self {
            Self::Unreadable(_) => CommandOutcome::Failed,
            Self::Mistakes(_) => CommandOutcome::BadConfig,
        }
    }
}

/// Returns the line and column after the last byte of `text`, which is valid UTF-8.
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
            let stamps = vec![("/etc/hosts".into(), Some([1, 2, 3, 4])), ("/etc/none".into(), None)];
            let source = ConfigSource { text: text.into(), around: ConfigInputs { local, hosts, stamps } };
            assert_eq!(ConfigSource::unpack(&source.pack()), Some(source));
        }
        let older = ConfigSource::unpack(b"{\"local\":[],\"hosts\":[]}\n[server]\n").expect("a source without stamps");
        assert_eq!((older.stamps(), &older.text[..]), (&[][..], &b"[server]\n"[..]));
        for strange in [&b""[..], b"[server]", b"[server]\n", b"{}\n"] {
            assert_eq!(ConfigSource::unpack(strange), None);
        }
    }
}
