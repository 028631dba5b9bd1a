//! What was asked for: complete, valid, immutable. All that the rest of the house reads.
//!
//! ```text
//! the text of a file ─────────────────┬──► file ──────────────────► parse ──────────────► Config
//! builtin: a text where there is none ┘    each table by itself     whether they fit together
//!                                          └─────────────┬────────┘
//!   one for each table: its form in TOML, defaults,    server pages node handover cache upstreams routes records
//!   bounds, and what the rest of the house reads       hosts rewrites clients views warm_up watching
//!                                                        │
//!   how single values are written                      address zones units
//!   how a table is read, and what is wrong in it       table value mistake
//! ```
//!
//! A table's form has `Table` in its name: [`server::ServerTable`] is what the file says, [`Server`] what is made of it.
//! `advice` says what is allowed and seldom meant; [`mod@footprint`] says what a configuration takes of memory, [`mod@start_only`] what of it only a start reads.

use std::net::SocketAddr;
use std::path::PathBuf;

mod advice;
pub mod builtin;
pub mod file;
pub mod footprint;
pub mod parse;
pub mod start_only;

pub mod cache;
pub mod clients;
pub mod handover;
pub mod hosts;
pub mod node;
pub mod pages;
pub mod records;
pub mod rewrites;
pub mod routes;
pub mod server;
pub mod upstreams;
pub mod views;
pub mod warm_up;
pub mod watching;

pub mod address;
mod mistake;
mod table;
pub mod units;
pub mod value;
pub mod zones;

pub use address::ServerAddress;
pub use cache::Cache;
pub use clients::{ApiServer, Client, Kubernetes};
pub use hosts::Hosts;
pub use mistake::Diagnostic;
pub use node::Node;
pub use pages::Admin;
pub use records::Record;
pub use rewrites::Rewrite;
pub use routes::{Cluster, Fallthrough, Route, RouteId};
pub use server::Server;
pub use upstreams::{Select, Upstream};
pub use views::{Pattern, Selector, View, ViewId};
pub use warm_up::WarmUp;
pub use watching::{LogTarget, Logged, Metrics, QueryLog};

/// A whole configuration that has passed every check: indices are in range, names unique, every suffix has a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to listen, for whom.
    pub server: Server,
    /// Where metrics, health and the API are served, and to whom.
    pub admin: Admin,
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
    /// Hosts files, whose records come behind these.
    pub hosts: Hosts,
    /// Suffixes that take the place of others.
    pub rewrites: Vec<Rewrite>,
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
    /// Keys that only a start reads, and that the file has changed since.
    pub needs_restart: Vec<&'static str>,
    /// What it says and seldom means, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}
