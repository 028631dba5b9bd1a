//! Clients that never retry: dnsperf over UDP and over TCP at the same time.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Number of clients of each kind. Over TCP, each keeps its connection.
const CLIENTS: &str = "16";
/// Queries in flight of each kind.
const UNDER_WAY: &str = "128";
/// Time after which a query counts as lost, in seconds.
const TIMEOUT: &str = "1";

/// Outcome for one kind of clients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    /// Queries sent.
    pub(crate) sent: u64,
    /// Queries without a response.
    pub(crate) lost: u64,
}

/// Outcome for all clients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lost {
    /// Over UDP.
    pub(crate) udp: Count,
    /// Over TCP.
    pub(crate) tcp: Count,
}

/// Running clients.
pub(crate) struct Load {
    udp: Child,
    tcp: Child,
}

impl Load {
    /// Starts clients that query `server` for `time`.
    pub(crate) fn start(dir: &Path, server: SocketAddr, names: usize, time: Duration) -> io::Result<Self> {
        let file = dir.join("names");
        fs::write(&file, (0..names).map(|n| format!("n{n}.load.example A\n")).collect::<String>())?;
        let start = |mode: &str| {
            let mut command = Command::new("taskset");
            command.args(["-c", &super::server::other_cpus(), "dnsperf", "-m", mode, "-c", CLIENTS, "-q", UNDER_WAY]);
            command.args(["-t", TIMEOUT, "-l", &time.as_secs().to_string(), "-s", &server.ip().to_string()]);
            command.args(["-p", &server.port().to_string(), "-d"]).arg(&file);
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
        };
        Ok(Self { udp: start("udp")?, tcp: start("tcp")? })
    }

    /// Waits until the clients have sent all queries; returns the outcome.
    pub(crate) fn end(self) -> io::Result<Lost> {
        Ok(Lost { udp: count(self.udp)?, tcp: count(self.tcp)? })
    }
}

fn count(child: Child) -> io::Result<Count> {
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |label: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| io::Error::other(format!("dnsperf says nothing of {label:?}; is it installed?")))
    };
    let (sent, done) = (number("Queries sent:")?, number("Queries completed:")?);
    Ok(Count { sent, lost: sent.saturating_sub(done) })
}
