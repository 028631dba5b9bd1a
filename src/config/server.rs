//! Listeners, allowed clients and limits of TCP connections: `[server]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::address::{DNS_PORT, Listen, NetworkValue};
use super::diagnostic::Diagnostics;
use super::hints::{HINTS, Hints};
use super::table::TomlTable;
use super::units::{Bounds, CountValue, Time};
use super::value::ConfigValue;

/// Default of `[server] listen`: a port that needs no privilege, for this machine only.
pub const LISTEN: [SocketAddr; 2] =
    [SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5300), SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 5300)];
/// Default of `[server] allow`, as prefixes: this machine.
pub const ALLOW: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)];
/// `[server] workers`. 0 is one per CPU.
pub const WORKERS: Bounds<CountValue> =
    Bounds { default: CountValue(0), floor: CountValue(0), ceiling: CountValue(1024) };
/// `[server] tcp_idle_timeout`: "of the order of a few seconds" (RFC 7766 section 6.2.3).
pub const TCP_IDLE_TIMEOUT: Bounds<Time> =
    Bounds { default: Time::secs(10), floor: Time::secs(1), ceiling: Time::secs(600) };
/// `[server] tcp_connections`. Each costs a file descriptor and its buffers.
pub const TCP_CONNECTIONS: Bounds<CountValue> =
    Bounds { default: CountValue(1024), floor: CountValue(1), ceiling: CountValue(65_536) };
/// `[server] tcp_connections_per_client`. One client must not take all connections (RFC 7766 section 6.2.2).
pub const TCP_CONNECTIONS_PER_CLIENT: Bounds<CountValue> =
    Bounds { default: CountValue(64), floor: CountValue(1), ceiling: CountValue(65_536) };

/// Listeners and their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Addresses of the UDP and TCP listeners; port 0 takes any free port.
    pub listen: Vec<SocketAddr>,
    /// Networks of the allowed clients; others get REFUSED.
    pub allow: Vec<IpNet>,
    /// Number of worker threads; 0 is one per CPU that the process may use.
    pub workers: usize,
    /// Longest time that a TCP connection may stay without a query in flight (RFC 7766 section 6.2.3).
    pub tcp_idle_timeout: Duration,
    /// Maximum number of TCP connections.
    pub tcp_connections: usize,
    /// Maximum number of TCP connections from one client address.
    pub tcp_connections_per_client: usize,
    /// Name of this node in responses (`id.server`, NSID). `None`: the node's name, else the host's. Empty: no name is given.
    pub identity: Option<String>,
    /// Explanations for clients of no view.
    pub hints: Hints,
}

/// `[server]` in the file.
#[derive(Debug)]
pub struct ServerTable {
    pub(crate) listen: Vec<Spanned<Listen<DNS_PORT>>>,
    pub(crate) allow: Vec<Spanned<NetworkValue>>,
    pub(crate) workers: Spanned<CountValue>,
    pub(crate) tcp_idle_timeout: Spanned<Time>,
    pub(crate) tcp_connections: Spanned<CountValue>,
    pub(crate) tcp_connections_per_client: Spanned<CountValue>,
    /// Default: the node's name, else the host's.
    pub identity: Option<Identity>,
    pub(crate) hints: Hints,
}

/// Maximum length of `[server] identity` in bytes: that of a character-string (RFC 1035 section 3.3).
pub const LONGEST_IDENTITY: usize = 255;

/// Name of this node for clients; may be empty.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Identity(pub String);

impl TryFrom<String> for Identity {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.len() <= LONGEST_IDENTITY && !text.chars().any(char::is_control) {
            true => Ok(Self(text)),
            false => Err(format!("{text:?} is longer than {LONGEST_IDENTITY} bytes or has control characters")),
        }
    }
}

impl ConfigValue for Identity {
    const EXPECTED: &'static str = r#""node-7", or "" for none"#;
}

impl ServerTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Self {
        let unplaced = |address| Spanned::new(0..0, Listen(address));
        let network = |(address, prefix)| Some(Spanned::new(0..0, NetworkValue(IpNet::new(address, prefix).ok()?)));
        table.read(|table| Self {
            listen: table.list("listen").unwrap_or_else(|| LISTEN.map(unplaced).into()),
            allow: table.list("allow").unwrap_or_else(|| ALLOW.into_iter().filter_map(network).collect()),
            workers: table.bounded("workers", &WORKERS),
            tcp_idle_timeout: table.bounded("tcp_idle_timeout", &TCP_IDLE_TIMEOUT),
            tcp_connections: table.bounded("tcp_connections", &TCP_CONNECTIONS),
            tcp_connections_per_client: table.bounded("tcp_connections_per_client", &TCP_CONNECTIONS_PER_CLIENT),
            identity: table.value("identity").map(Spanned::into_inner),
            hints: table.value("hints").map_or(HINTS, Spanned::into_inner),
        })
    }
}

/// Converts `[server]` to its validated form. Adds errors for limits and listeners that conflict.
pub(super) fn server(file: &ServerTable, diagnostics: &Diagnostics<'_>) -> ServerConfig {
    let total = file.tcp_connections.get_ref().0;
    let per_client = &file.tcp_connections_per_client;
    let given = !per_client.span().is_empty();
    if given && per_client.get_ref().0 > total {
        let what = format!("tcp_connections_per_client: {per_client} is more than tcp_connections, {total}");
        diagnostics.add(per_client.span(), what);
    }
    for wildcard in file.listen.iter().filter(|listen| listen.get_ref().0.ip().is_unspecified()) {
        let all = wildcard.get_ref().0;
        let is_within = |other: &&Spanned<Listen<DNS_PORT>>| {
            let other = other.get_ref().0;
            other != all && other.port() == all.port() && all.port() != 0 && other.is_ipv4() == all.is_ipv4()
        };
        if let Some(other) = file.listen.iter().find(is_within) {
            let what = format!("listen: {all} takes {} as well; leave one out", other.get_ref().0);
            diagnostics.add(wildcard.span(), what);
        }
    }
    diagnostics.once("listener", file.listen.iter().map(|listen| (listen.span(), listen.get_ref().0)));
    ServerConfig {
        listen: file.listen.iter().map(|listen| listen.get_ref().0).collect(),
        allow: file.allow.iter().map(|network| network.get_ref().0).collect(),
        workers: file.workers.get_ref().0,
        tcp_idle_timeout: file.tcp_idle_timeout.get_ref().duration(),
        tcp_connections: total,
        tcp_connections_per_client: per_client.get_ref().0.min(total),
        identity: file.identity.as_ref().map(|identity| identity.0.clone()),
        hints: file.hints,
    }
}
