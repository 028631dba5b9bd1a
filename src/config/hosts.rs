//! Hosts files, whose names are answered like static records: `[hosts]`. This module has their paths and the parser of their
//! lines. The caller that reads a configuration file also reads the hosts files.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::Config;
use super::diagnostic::Diagnostics;
use super::records::{RECORD_TTL, RecordConfig, seconds};
use super::table::TomlTable;
use super::units::{Bounds, Time};
use super::value::ConfigValue;
use super::zones::reverse;
use crate::wire::name::Name;
use crate::wire::rtype;

/// `[hosts] ttl`. The default is short, because hosts files change without notice.
pub(crate) const HOSTS_TTL: Bounds<Time> = Bounds { default: Time::secs(60), ..RECORD_TTL };
/// Maximum number of errors in hosts files that are kept.
const MOST_FAULTS: usize = 20;

/// Settings of hosts files, and the result of reading them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Paths and patterns of the files.
    pub files: Vec<HostsPath>,
    /// TTL of their records, in seconds.
    pub ttl: u32,
    /// Number of records made from them.
    pub records: usize,
    /// Errors in the files, each as `FILE:LINE: error`. An invalid address excludes its line, an invalid name only itself.
    pub faults: Vec<String>,
}

/// Absolute path of a file, or a pattern with one asterisk in the file name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostsPath {
    /// Directory of the files.
    pub directory: PathBuf,
    start: String,
    /// Part of the file name after the asterisk; `None` without an asterisk.
    end: Option<String>,
}

/// `[hosts]` in the file.
#[derive(Debug)]
pub(crate) struct HostsTable {
    pub files: Vec<Spanned<HostsPath>>,
    pub ttl: Spanned<Time>,
}

impl HostsTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Self {
        table.read(|table| Self {
            files: table.required_list("files").unwrap_or_default(),
            ttl: table.bounded("ttl", &HOSTS_TTL),
        })
    }
}

/// Converts `[hosts]` to its validated form.
pub(super) fn hosts(file: Option<&HostsTable>, diagnostics: &Diagnostics<'_>) -> Hosts {
    let Some(file) = file else { return Hosts::default() };
    Hosts {
        files: file.files.iter().map(|path| path.get_ref().clone()).collect(),
        ttl: diagnostics.good(file.ttl.span(), seconds(*file.ttl.get_ref())).unwrap_or_default(),
        records: 0,
        faults: Vec::new(),
    }
}

impl HostsPath {
    /// Reports whether the path or pattern matches a file name in the directory.
    pub fn fits(&self, name: &str) -> bool {
        match &self.end {
            None => name == self.start,
            Some(end) => {
                let long_enough = name.len() >= self.start.len() + end.len();
                long_enough && name.starts_with(&self.start) && name.ends_with(end.as_str())
            }
        }
    }

    /// Returns the path of the only file; `None` for a pattern.
    pub fn single(&self) -> Option<PathBuf> {
        self.end.is_none().then(|| self.directory.join(&self.start))
    }
}

impl TryFrom<String> for HostsPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = Path::new(&text);
        let parts = path.parent().zip(path.file_name().and_then(|name| name.to_str()));
        let Some((directory, name)) = parts.filter(|_| path.is_absolute() && !text.ends_with('/')) else {
            return Err(format!("{text:?} is not the whole path of a file"));
        };
        let (start, end) = name.split_once('*').map_or((name, None), |(start, end)| (start, Some(end)));
        if directory.to_string_lossy().contains('*') || end.is_some_and(|end| end.contains('*')) {
            return Err(format!("{text:?}: one asterisk may stand in the file's name, for whatever it has there"));
        }
        Ok(Self { directory: directory.to_owned(), start: start.to_owned(), end: end.map(str::to_owned) })
    }
}

impl ConfigValue for HostsPath {
    const EXPECTED: &'static str = r#""/etc/hosts.d/*.hosts""#;
}

impl Config {
    /// Adds the records of hosts files, given as path and text, to the static records of all clients. Skips names that already
    /// have static records.
    pub fn add_hosts<'f>(&mut self, files: impl IntoIterator<Item = (&'f str, &'f str)>) {
        let taken: HashSet<Name> = self.records.iter().map(|record| record.name.clone()).collect();
        let mut seen = HashSet::new();
        let mut add = |records: &mut Vec<RecordConfig>, record: RecordConfig| {
            if !taken.contains(&record.name) && seen.insert((record.name.clone(), record.rtype, record.rdata.clone())) {
                records.push(record);
            }
        };
        let mut reversed = HashSet::new();
        let before = self.records.len();
        for (path, text) in files {
            for (number, line) in (1..).zip(text.lines()) {
                let line = if number == 1 { line.trim_start_matches('\u{feff}') } else { line };
                let HostsLine { address, names, faults } = host(line);
                let room = MOST_FAULTS.saturating_sub(self.hosts.faults.len());
                self.hosts.faults.extend(faults.into_iter().take(room).map(|what| format!("{path}:{number}: {what}")));
                let Some(address) = address else { continue };
                let (rtype, rdata) = match address {
                    IpAddr::V4(v4) => (rtype::A, v4.octets().to_vec()),
                    IpAddr::V6(v6) => (rtype::AAAA, v6.octets().to_vec()),
                };
                let ttl = self.hosts.ttl;
                // The first name of an address is its canonical one. Block lists map many names to an unspecified or loopback
                // address.
                if let Some(first) = names.first()
                    && !(address.is_unspecified() || address.is_loopback())
                    && let Some(name) = reverse(IpNet::from(address)).ok().and_then(|mut names| names.pop())
                    && reversed.insert(name.clone())
                {
                    add(
                        &mut self.records,
                        RecordConfig { name, rtype: rtype::PTR, ttl, rdata: first.as_wire().to_vec() },
                    );
                }
                for name in names {
                    add(&mut self.records, RecordConfig { name, rtype, ttl, rdata: rdata.clone() });
                }
            }
        }
        self.hosts.records = self.records.len() - before;
    }
}

/// Parsed line of a hosts file.
#[derive(Default)]
struct HostsLine {
    address: Option<IpAddr>,
    names: Vec<Name>,
    faults: Vec<String>,
}

/// Parses a line of a hosts file (hosts(5)): an address and its names. Skips `localhost`, which nodens answers itself (RFC 6761).
fn host(line: &str) -> HostsLine {
    let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
    let Some(first) = words.next() else { return HostsLine::default() };
    // A scope has no meaning on other machines.
    let Ok(address) = first.split('%').next().unwrap_or_default().parse() else {
        return HostsLine { faults: vec![format!("{first:?} is not an address")], ..HostsLine::default() };
    };
    let mut host = HostsLine { address: Some(address), ..HostsLine::default() };
    for word in words.filter(|word| *word != "localhost") {
        match word.parse::<Name>() {
            // Hosts files have no wildcards.
            Ok(_) if word.contains('*') => host.faults.push(format!("{word:?} is not a name of a host")),
            Ok(name) => host.names.push(name),
            Err(error) => host.faults.push(format!("{word:?} is not a name: {error}")),
        }
    }
    host
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    const FILE: &str = "[hosts]\nfiles = [\"/etc/hosts\"]\nttl = \"30s\"\n[[record]]\nname = \"own.example\"\ntype = \"A\"\n\
                        value = \"10.0.0.9\"\n[upstreams.up]\nservers = [\"192.0.2.1\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";

    #[test]
    fn lines_become_records() {
        let mut config = parse(FILE, &[]).expect("good");
        let text = "\u{feff}# hosts\n127.0.0.1 localhost\n10.0.0.1 a.example a # first\n\n10.0.0.2\ta.example\n10.0.0.1 a.example\n\
                    fd00::1 a.example\n10.0.0.3 own.example other.example\nfe80::1%eth0 link.example\nnot-an-address x\n\
                    10.0.0.4 b..c *.d good.example\n0.0.0.0 blocked.example\n";
        config.add_hosts([("/etc/hosts", text)]);
        let shown: Vec<_> = config.records[1..]
            .iter()
            .map(|record| format!("{} {} {}", record.name, u16::from(record.rtype), record.ttl))
            .collect();
        let link = format!("1.{}8.e.f.ip6.arpa. 12 30", "0.".repeat(28));
        let reverse_of_fd00 = format!("1.{}d.f.ip6.arpa. 12 30", "0.".repeat(29));
        let right = [
            "1.0.0.10.in-addr.arpa. 12 30",
            "a.example. 1 30",
            "a. 1 30",
            "2.0.0.10.in-addr.arpa. 12 30",
            "a.example. 1 30",
            &reverse_of_fd00,
            "a.example. 28 30",
            "3.0.0.10.in-addr.arpa. 12 30",
            "other.example. 1 30",
            &link,
            "link.example. 28 30",
            "4.0.0.10.in-addr.arpa. 12 30",
            "good.example. 1 30",
            "blocked.example. 1 30",
        ];
        assert_eq!(shown, right);
        assert_eq!(
            config.hosts.faults,
            [
                "/etc/hosts:10: \"not-an-address\" is not an address",
                "/etc/hosts:11: \"b..c\" is not a name: a label is empty",
                "/etc/hosts:11: \"*.d\" is not a name of a host"
            ]
        );
    }

    #[test]
    fn paths() {
        let path = |text: &str| HostsPath::try_from(text.to_owned());
        let many = path("/etc/hosts.d/a*.hosts").expect("good");
        assert_eq!((many.directory.as_path(), many.single()), (Path::new("/etc/hosts.d"), None));
        for (name, fits) in [("a.hosts", true), ("abc.hosts", true), ("b.hosts", false), ("a.host", false)] {
            assert_eq!(many.fits(name), fits, "{name}");
        }
        let one = path("/etc/hosts").expect("good");
        assert_eq!(one.single(), Some("/etc/hosts".into()));
        assert!(one.fits("hosts") && !one.fits("hosts2"));
        for bad in ["", "hosts", "/etc/", "/etc/*/hosts", "/etc/a*b*c"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
