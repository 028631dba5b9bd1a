//! Configuration: complete, validated and immutable.
//!
//! ```text
//! text of a file ─────────────────────┬──► file ──────────────────► parse ──────────────► Config
//! builtin: text generated without one ┘    each table by itself     checks across tables
//!                                          └─────────────┬────────┘
//!   one module per table: its form in TOML,            server pages node handover cache upstreams routes records
//!   defaults, bounds, validated form                   hosts rewrites clients views warm_up observability
//!                                                        │
//!   syntax of single values                            address zones units hints
//!   reader of a table, and its errors                  table value diagnostic
//! ```
//!
//! A type with `Table` in its name is a table as the file has it: [`server::ServerTable`] is what the file says, and
//! [`ServerConfig`] is its validated form. `advice` adds warnings about settings that are valid but rarely intended.
//! [`mod@footprint`] estimates memory. [`mod@start_only`] lists the keys that only a start reads.

use std::net::SocketAddr;
use std::path::PathBuf;

mod advice;
pub(crate) mod builtin;
pub(crate) mod file;
pub(crate) mod footprint;
pub mod outline;
pub mod parse;
pub(crate) mod start_only;

pub(crate) mod cache;
pub(crate) mod clients;
pub(crate) mod handover;
pub(crate) mod hints;
pub(crate) mod hosts;
pub(crate) mod node;
pub(crate) mod observability;
pub(crate) mod pages;
pub(crate) mod records;
pub(crate) mod rewrites;
pub(crate) mod routes;
pub mod server;
pub(crate) mod upstreams;
pub(crate) mod views;
pub(crate) mod warm_up;

pub(crate) mod address;
mod diagnostic;
mod key;
mod table;
pub(crate) mod units;
pub(crate) mod value;
pub(crate) mod zones;

pub use address::ServerAddress;
pub use cache::CacheConfig;
pub use clients::{ApiServer, ClientConfig, Kubernetes};
pub use diagnostic::Diagnostic;
pub use hints::Hints;
pub use hosts::Hosts;
pub use node::NodeConfig;
pub use observability::{LogTarget, Logged, MetricsConfig, QueryLogConfig};
pub use pages::AdminConfig;
pub use records::RecordConfig;
pub use rewrites::Rewrite;
pub use routes::{ClusterConfig, Fallthrough, Route, RouteId};
pub use server::ServerConfig;
pub use upstreams::{Select, UpstreamConfig};
pub use views::{Pattern, Selector, View, ViewId};
pub use warm_up::WarmUp;

/// Complete configuration that has passed all checks: indices are in range, names are unique, every name has a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Listeners, allowed clients and limits.
    pub server: ServerConfig,
    /// Listeners of metrics, health and the API, and the networks that may use them.
    pub admin: AdminConfig,
    /// Listeners of the report, where each client sees its own data; empty: none.
    pub report: Vec<SocketAddr>,
    /// Addresses that nodens adds to the node; `None`: nodens changes nothing on the node.
    pub node: Option<NodeConfig>,
    /// Unix socket for the handover to a successor; `None`: no handover.
    pub handover: Option<PathBuf>,
    /// Settings of the cache.
    pub cache: CacheConfig,
    /// Servers that resolve the host names of upstream servers.
    pub bootstrap: Vec<SocketAddr>,
    /// Upstreams. A route refers to one by its index.
    pub upstreams: Vec<UpstreamConfig>,
    /// Routes of all clients, then those of each view. Their order has no effect: the longest suffix wins.
    pub routes: Vec<Route>,
    /// Static records for all clients.
    pub records: Vec<RecordConfig>,
    /// Hosts files. Their records are appended to `records`.
    pub hosts: Hosts,
    pub(crate) rewrites: Vec<Rewrite>,
    /// Settings of the Kubernetes watch, for attribution.
    pub kubernetes: Kubernetes,
    /// Settings of the warm-up for jobs that are about to start.
    pub warm_up: WarmUp,
    /// Identities of clients by network. If networks overlap, the smallest one applies.
    pub clients: Vec<ClientConfig>,
    /// Views. The first view that fits a client applies. If none fits, the settings above apply.
    pub views: Vec<View>,
    /// Settings of the metrics.
    pub metrics: MetricsConfig,
    /// Settings of the query log; `None`: no query log.
    pub query_log: Option<QueryLogConfig>,
    /// Start-only keys that the file has changed since the start.
    pub needs_restart: Vec<&'static str>,
    /// Warnings and notes, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}
