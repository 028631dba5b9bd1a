//! What was asked for: complete, valid, immutable. All that the rest of the house reads.
//!
//! [`mod@file`] mirrors the TOML file, [`mod@parse`] turns it into a [`Config`] or into every mistake that it holds, and
//! [`mod@builtin`] makes one where there is no file,
//! [`mod@footprint`] says what it takes of memory. [`address`], [`clients`], [`records`], [`units`], [`views`],
//! [`mod@warm_up`], [`watching`] and [`zones`] know how the values are written.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::wire::name::Name;

pub mod builtin;
pub mod file;
pub mod parse;

pub mod address;
pub mod clients;
pub mod footprint;
pub mod handover;
pub mod node;
pub mod records;
pub mod units;
pub mod views;
pub mod warm_up;
pub mod watching;
pub mod zones;

mod mistake;
mod table;

pub use mistake::Mistake;

/// A whole configuration that has passed every check: indices are in range, names unique, every suffix has a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to listen, for whom.
    pub server: Server,
    /// Where metrics and health are served; none: nowhere.
    pub admin: Option<SocketAddr>,
    /// Where each client may look at what is known of itself; empty: nowhere.
    pub report: Vec<SocketAddr>,
    /// The node's own addresses; none if the node is to be left alone.
    pub node: Option<Node>,
    /// The Unix socket where a new nodens asks this one for its place; none if there is to be no handover.
    pub handover: Option<PathBuf>,
    /// How much is kept, and how long.
    pub cache: Cache,
    /// Servers that resolve the upstreams given by name; empty if none is.
    pub bootstrap: Vec<SocketAddr>,
    /// The groups of upstream servers; a route names one by its index.
    pub upstreams: Vec<Upstream>,
    /// The routes, in the order of the file, which means nothing: the longest suffix wins. First those of all clients,
    /// then those of each view.
    pub routes: Vec<Route>,
    /// Static records.
    pub records: Vec<Record>,
    /// Whether and how the Kubernetes API tells who asks.
    pub kubernetes: Kubernetes,
    /// What is asked ahead for jobs that are about to start.
    pub warm_up: WarmUp,
    /// Clients by their network; of networks within each other the smallest counts.
    pub clients: Vec<Client>,
    /// What some clients see that others do not: the first view that a client is of is its own. Who is of none sees what
    /// all of the above says.
    pub views: Vec<View>,
    /// What the metrics show.
    pub metrics: Metrics,
    /// Whether and where queries are logged.
    pub query_log: Option<QueryLog>,
}

/// The listeners and their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// UDP and TCP on each; port 0 takes any free port.
    pub listen: Vec<SocketAddr>,
    /// Who may ask; anyone else gets REFUSED.
    pub allow: Vec<IpNet>,
    /// Worker threads; 0 is one per CPU that the process may use.
    pub workers: usize,
    /// How long a TCP connection may stay without a query in flight (RFC 7766 section 6.2.3).
    pub tcp_idle_timeout: Duration,
    /// TCP connections at once, in all.
    pub tcp_connections: usize,
    /// TCP connections at once from one client address.
    pub tcp_connections_per_client: usize,
}

/// Addresses that nodens puts on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// They, not empty.
    pub addresses: Vec<IpAddr>,
    /// Where nodens listens on them.
    pub listen: Vec<SocketAddr>,
    /// The link that they are put on.
    pub interface: node::Interface,
    /// What keeps queries from connection tracking.
    pub firewall: node::Firewall,
}

/// The cache's bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// A hard bound on all cached answers, in bytes.
    pub memory: usize,
    /// The longest that a positive answer is kept.
    pub max_ttl: Duration,
    /// The longest that a negative answer is kept (RFC 2308), unless its route says otherwise.
    pub negative_max_ttl: Duration,
    /// How long past its TTL an answer may stand in for dead upstreams (RFC 8767); zero: never.
    pub stale: Duration,
    /// Whether popular answers are fetched anew before a client has to wait for them.
    pub prefetch: bool,
}

/// A group of servers that give the same answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Its name in the file and in metrics.
    pub name: String,
    /// Its servers, in the order of the file; at least one.
    pub servers: Vec<ServerAddress>,
    /// Which server is asked first.
    pub select: Select,
    /// From a client's query to its answer, good or bad.
    pub deadline: Duration,
    /// The most queries that are sent to its servers together in any second; none: as many as there are.
    pub max_qps: Option<u32>,
    /// TCP or TLS connections at once of each worker to each server.
    pub tcp_connections: usize,
    /// Whether its AD flag is believed (RFC 6840 section 5.7): only where the path to it is trusted.
    pub trust_ad: bool,
    /// Whether queries carry random letter case (0x20); it retreats by itself where a server folds case.
    pub randomize_case: bool,
}

/// One server of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// UDP first, TCP when truncated.
    Plain(SocketAddr),
    /// The same, at the addresses of a host name that a bootstrap server resolves.
    Named {
        /// The host name.
        host: Name,
        /// The port.
        port: u16,
    },
    /// DNS over TLS (RFC 7858), its certificate checked against the host name (RFC 8310 strict profile); never in clear
    /// text. Trusted are the roots in `SSL_CERT_FILE` or `SSL_CERT_DIR` if set (a private CA), else the system's, else
    /// those built in.
    Tls {
        /// Where it listens.
        address: SocketAddr,
        /// The name that its certificate must bear.
        host: String,
    },
}

/// Which server of a group is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Select {
    /// The first in the order of the file that is healthy and not far slower than another.
    Ordered,
    /// The healthy one with the lowest smoothed latency.
    Fastest,
    /// The better of two healthy ones drawn at random, by smoothed latency and queries in flight.
    Spread,
}

/// Names that go to one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The suffixes it claims; CIDRs have become their reverse zones.
    pub zones: Vec<Name>,
    /// The zones as the file wrote them, joined by a blank: the route's name in metrics and explanations.
    pub label: String,
    /// The group's index in [`Config::upstreams`].
    pub to: usize,
    /// The longest that a negative answer of this route is kept; none: as the cache says.
    pub negative_max_ttl: Option<Duration>,
    /// Whether private addresses are taken out of answers (protection against DNS rebinding).
    pub deny_private_addresses: bool,
    /// The zone of its that Kubernetes serves, if it has one.
    pub cluster: Option<Cluster>,
}

/// The zone that Kubernetes serves, and what is done about the search lists that end in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// The cluster's domain: one of the route's zones.
    pub domain: Name,
    /// Whether names that cannot exist there are denied without asking.
    pub prune_search: bool,
    /// Whether the first try of a pod's search list gets the answer of the last.
    pub autopath: bool,
}

/// One static record, class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its owner.
    pub name: Name,
    /// Its type.
    pub rtype: u16,
    /// Its time to live, in seconds.
    pub ttl: u32,
    /// Its RDATA in wire form, names uncompressed.
    pub rdata: Vec<u8>,
}

/// Where the pods of this node are learned from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// Whether the API is watched; none: where nodens runs in a cluster and knows its node.
    pub watch: Option<bool>,
    /// The node's name; none: the environment variable `NODE_NAME` has it.
    pub node: Option<String>,
    /// The namespaces that are watched; empty: all.
    pub namespaces: Vec<String>,
    /// The API server; none: that of the cluster whose pod this process is.
    pub api_server: Option<ApiServer>,
    /// Certificates, in PEM, of the authorities that the API server is trusted by; none: the service account's in a pod,
    /// else the system's.
    pub ca_file: Option<PathBuf>,
    /// The bearer token; none: the service account's in a pod, else none.
    pub token_file: Option<PathBuf>,
}

/// The address of a Kubernetes API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Its name or IP address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path before `/api`; empty or with a leading and without a trailing slash.
    pub path: String,
}

impl ApiServer {
    /// Returns host and port as an HTTP `Host` header has them.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// What is asked ahead for jobs that are about to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// Whether anything is.
    pub enabled: bool,
    /// Where it is kept what the jobs of each project ask; none: in memory alone.
    pub file: Option<PathBuf>,
}

impl Default for WarmUp {
    fn default() -> Self {
        Self { enabled: warm_up::ENABLED, file: None }
    }
}

/// Whoever asks from one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The network.
    pub source: IpNet,
    /// What it is called.
    pub name: String,
    /// The namespace that it counts as.
    pub namespace: Option<String>,
    /// The project that it works for.
    pub project: Option<String>,
    /// The job that it does.
    pub job: Option<String>,
    /// The runner that it belongs to.
    pub runner: Option<String>,
}

/// What some clients see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Whom it is for.
    pub selector: Selector,
    /// Whether the routes and records of all clients hold here where the view's own say nothing else.
    pub inherit: bool,
    /// Its own routes, as [`Config::routes`] counts them.
    pub routes: Range<usize>,
    /// Its own records; a name that has any has no others here.
    pub records: Vec<Record>,
    /// Zones whose names do not exist here; of zones within each other the smallest counts, a route's or this.
    pub deny: Vec<Name>,
    /// Whether private addresses are taken out of answers, whatever the routes say; none: as they say.
    pub deny_private_addresses: Option<bool>,
    /// The most queries of each client address in a second; none: as many as there are.
    pub client_max_qps: Option<u32>,
}

/// Whom a view is for: a client for whom all of this is true. Of each list one item has to be; what is empty always is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Its namespace.
    pub namespaces: Vec<Pattern>,
    /// All of these labels, with these values.
    pub labels: BTreeMap<String, String>,
    /// The path or number of its project, as far as that can be trusted.
    pub projects: Vec<Pattern>,
    /// The name or id of its runner, as far as that can be trusted.
    pub runners: Vec<Pattern>,
    /// Its address.
    pub sources: Vec<IpNet>,
    /// Whether it is known who it is; none: either.
    pub known: Option<bool>,
}

/// A text, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The text or how it begins.
    pub start: String,
    /// Whether anything may follow.
    pub open: bool,
}

impl Selector {
    /// Whether something has to be known of a client to be selected.
    pub fn asks_of_client(&self) -> bool {
        let Self { namespaces, labels, projects, runners, sources: _, known } = self;
        !(namespaces.is_empty() && labels.is_empty() && projects.is_empty() && runners.is_empty())
            || *known == Some(true)
    }
}

impl Pattern {
    /// Whether a text is meant.
    pub fn fits(&self, text: &str) -> bool {
        if self.open { text.starts_with(&self.start) } else { text == self.start }
    }
}

/// What the metrics show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Namespaces, projects and runners that have series of their own; the rest is project `other`.
    pub max_projects: usize,
}

/// Which queries are logged, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryLog {
    /// Where.
    pub to: LogTarget,
    /// Which of them.
    pub only: Logged,
    /// How many of these, drawn at random, in millionths.
    pub sample: u32,
    /// The most in any second.
    pub max_per_second: u32,
}

/// Where a log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The standard output.
    Stdout,
    /// This file.
    File(PathBuf),
}

/// Which queries are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// All.
    All,
    /// Those whose answer is not NOERROR.
    Failures,
    /// Those whose answer is neither NOERROR nor NXDOMAIN.
    Errors,
}
