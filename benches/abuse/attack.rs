//! The attacks.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use nodens::lab::upstream::LabUpstream;
use rustix::process::setpriority_process;

use crate::links::LINKS;
use crate::packets::{A, TXT, framed, padded, query};
use crate::scene::{BIG, ROUNDS, SILENT, SLOW, STRANGERS, cached};
use crate::streams::{Connections, hold_open};
use crate::{datagrams, forger, many_clients, reload};

/// Lowest priority, so that the honest client and the upstreams on the same CPU come first.
const LOWEST: i32 = 19;
/// Size of a receive buffer that is full at once, in bytes.
const LITTLE: usize = 4_096;
/// Pause between two bytes of a query that never ends.
const NOW_AND_THEN: Duration = Duration::from_secs(1);
/// Request for the metrics page.
const METRICS: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// 8 clients x 64 TCP connections x 60 hits of a cached 61 KB TXT, which they never read
    UnreadTcpHits,
    /// 64 TCP connections x 100 identical queries for one slow 61 KB answer, which they never read
    UnreadTcpMisses,
    /// 15 clients x 60 TCP connections that announce 65,535 bytes and send 3
    AnnouncedLengths,
    /// 64 TCP connections x 100 queries padded to 60 KB for slow names
    PaddedQueries,
    /// 8,000 new names a second of a zone whose server never answers, from one client
    SilentZone,
    /// 5,000 queries a second for names of 119 labels that nodens denies itself (nodens: and me.nodens.internal)
    LongNames,
    /// 10 clients x 60 idle TCP connections, the server under a soft limit of 1,024 open files
    IdleConnections,
    /// 1,000 public names at once that are CNAMEs of one private name, another one each second
    SameCname,
    /// 20,000 datagrams a second: random bytes, truncated and mutated queries
    Malformed,
    /// Up to 100,000 queries a second for a cached name, from one client
    FloodOfHits,
    /// 16,000 clients with a query a second each, and 10 with 60 a second each, all with a limit of 3 (nodens only)
    ManyClients,
    /// 85,000 forged responses a second to the ports that upstream queries come from, in nine shapes (needs root)
    Forged,
    /// The same, beside 20,000 queries a second for a cached name (needs root)
    ForgedUnderLoad,
    /// 700 queries a second for names that the upstream answers over TCP after 1.2 s
    SlowTcp,
    /// 2 queries a second for names whose response the upstream sends only half of, over TCP
    HalfResponses,
    /// 64 TCP connections from each of 16 clients that are not allowed to query, one byte a second on each
    Strangers,
    /// 5 clients x 14 connections to the admin pages that request the metrics 1,000 times and never read (nodens only)
    UnreadMetrics,
    /// SIGHUP twice a second while standard error is a full pipe that is never read (nodens only)
    UnreadLog,
    /// SIGHUP twice a second with 20,000 records that 32 views inherit (nodens only)
    ReloadInALoop,
}

/// Server under attack, and the state shared with the attacker.
pub struct Target {
    /// Address of the server.
    pub address: SocketAddr,
    /// Address of its admin pages, if it has any.
    pub admin: Option<SocketAddr>,
    /// Process group of the server.
    pub process: u32,
    /// Configuration file of the server.
    pub config: PathBuf,
    /// True if the server is nodens.
    pub is_nodens: bool,
    /// Upstream server of the names that the honest client queries.
    pub well: Arc<LabUpstream>,
    /// Set when the attack is over.
    pub over: AtomicBool,
    /// Messages sent so far. Connections opened, if the attack sends no messages; reloads, if it reloads.
    pub sent: AtomicU64,
    /// Answers that clients beyond their limit got so far.
    pub answered: AtomicU64,
}

impl Target {
    /// Returns true once the attack has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Adds to the number of messages sent.
    pub fn count(&self, messages: u64) {
        self.sent.fetch_add(messages, Ordering::Relaxed);
    }

    /// Adds to the number of answers that clients beyond their limit got.
    pub fn count_answered(&self, answers: u64) {
        self.answered.fetch_add(answers, Ordering::Relaxed);
    }
}

impl Attack {
    /// Returns the name of the attack on the command line and in tables.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Returns the description of the attack, in one line.
    pub fn describe(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    /// Returns true if the attack applies to this server.
    pub fn is_for(self, server: &str) -> bool {
        match self {
            Self::ReloadInALoop | Self::UnreadMetrics | Self::UnreadLog | Self::ManyClients => server == "nodens",
            // `scene` has no access lists for the other servers.
            Self::Strangers => ["floor", "nodens", "unbound", "dnsdist", "bind"].contains(&server),
            _ => true,
        }
    }

    /// Returns true if this process has the privileges for the attack.
    pub fn can_run(self) -> bool {
        !matches!(self, Self::Forged | Self::ForgedUnderLoad) || rustix::process::geteuid().is_root()
    }

    /// Returns the soft limit of open files for the server, if it differs from that of this process.
    pub fn open_files(self) -> Option<u64> {
        (self == Self::IdleConnections).then_some(1_024)
    }

    /// Runs the attack at the lowest priority until it is over.
    ///
    /// # Errors
    /// Returns an error if the system refuses a socket, a thread or the priority.
    pub fn run(self, target: &Target) -> io::Result<()> {
        setpriority_process(None, LOWEST)?;
        let one = client(1);
        let connections = |clients: u8, each, frames| Connections {
            clients: (1..=clients).map(client).collect(),
            each,
            receive_buffer: None,
            pause: None,
            to: None,
            frames,
        };
        match self {
            Self::UnreadTcpHits => {
                let frame = framed(&query(1, BIG, TXT));
                hold_open(target, &Connections { receive_buffer: Some(LITTLE), ..connections(8, 64, 60) }, |_, _| {
                    frame.clone()
                })
            }
            Self::UnreadTcpMisses => {
                let connections = Connections { receive_buffer: Some(LITTLE), ..connections(1, 64, 100) };
                // Each reopened connection queries another name.
                hold_open(target, &connections, |opened, _| framed(&query(1, &format!("m{opened}.{BIG}"), TXT)))
            }
            Self::AnnouncedLengths => hold_open(target, &connections(15, 60, 1), |_, _| vec![0xff, 0xff, 0]),
            Self::PaddedQueries => hold_open(target, &connections(1, 64, 100), |_, number| {
                framed(&padded(query(number as u16, &format!("p{number}.{SLOW}"), A)))
            }),
            Self::SilentZone => datagrams::flood(target, one, 8_000, |number, message| {
                *message = query(number as u16, &format!("s{number}.{SILENT}"), A);
            }),
            Self::LongNames => {
                let is_nodens = target.is_nodens;
                datagrams::flood(target, one, 5_000, |number, message| *message = datagrams::denied(number, is_nodens))
            }
            Self::IdleConnections => hold_open(target, &connections(10, 60, 0), |_, _| Vec::new()),
            Self::SameCname => datagrams::bursts(target, one, ROUNDS),
            Self::Malformed => datagrams::malformed(target, one, 20_000),
            Self::FloodOfHits => {
                let hit = query(1, &cached(0), A);
                datagrams::flood(target, one, 100_000, |_, message| message.clone_from(&hit))
            }
            Self::ManyClients => many_clients::ask(target),
            Self::Forged => forger::forge(target, 85_000),
            Self::ForgedUnderLoad => thread::scope(|scope| {
                let hit = query(1, &cached(0), A);
                let load =
                    scope.spawn(move || datagrams::flood(target, one, 20_000, |_, message| message.clone_from(&hit)));
                let forged = forger::forge(target, 85_000);
                forged.and(load.join().map_err(|_| io::Error::other("a thread panicked"))?)
            }),
            Self::SlowTcp => datagrams::flood(target, one, 700, |number, message| {
                *message = query(number as u16, &format!("slow{number}.{LINKS}"), A);
            }),
            Self::HalfResponses => datagrams::flood(target, one, 2, |number, message| {
                *message = query(number as u16, &format!("half{number}.{LINKS}"), A);
            }),
            Self::Strangers => {
                let clients = (1..=16).map(|number| Ipv4Addr::new(STRANGERS[0], STRANGERS[1], 0, number)).collect();
                // A query that never ends: one byte when the connection opens, and one each second.
                hold_open(
                    target,
                    &Connections { clients, frames: 30, pause: Some(NOW_AND_THEN), ..connections(0, 64, 0) },
                    |_, _| vec![0],
                )
            }
            Self::UnreadMetrics => match target.admin {
                Some(admin) => {
                    let connections =
                        Connections { receive_buffer: Some(LITTLE), to: Some(admin), ..connections(5, 14, 1_000) };
                    hold_open(target, &connections, |_, _| METRICS.to_vec())
                }
                None => Ok(()),
            },
            Self::UnreadLog | Self::ReloadInALoop => reload::repeat(target),
        }
    }
}

/// Returns the address of an attacker.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 66, 0, number)
}
