//! The TOML file as a whole. The module of each table reads that table.
//!
//! The values here have passed the checks of single values: type, form and bounds. [`super::parse`] checks that they fit
//! together.

use toml::Spanned;

use super::address::Bootstrap;
use super::cache::CacheTable;
use super::clients::{ClientTable, KubernetesTable};
use super::diagnostic::Diagnostics;
use super::handover::{self, SocketPath};
use super::hosts::HostsTable;
use super::node::NodeTable;
use super::observability::{MetricsTable, QueryLogTable};
use super::pages::{self, AdminTable, ReportListener};
use super::records::RecordTable;
use super::rewrites::RewriteTable;
use super::routes::RouteTable;
use super::server::ServerTable;
use super::table::{TomlTable, valid_part};
use super::upstreams::{self, UpstreamTable};
use super::views::ViewTable;
use super::warm_up::WarmUpTable;

/// Contents of the whole file.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    pub server: ServerTable,
    pub admin: Option<AdminTable>,
    pub report: Vec<ReportListener>,
    pub node: Option<NodeTable>,
    /// `[handover]`: its socket, if present.
    pub handover: Option<Spanned<SocketPath>>,
    pub cache: CacheTable,
    pub bootstrap: Vec<Spanned<Bootstrap>>,
    /// All `[upstreams.NAME]`; `None` if the file has no such table.
    pub upstreams: Option<Vec<UpstreamTable>>,
    /// All `[[route]]`; `None` if the file has no such table.
    pub routes: Option<Vec<RouteTable>>,
    /// All `[[record]]` that have their required keys.
    pub records: Vec<RecordTable>,
    pub hosts: Option<HostsTable>,
    /// All `[[rewrite]]` that have their required keys.
    pub rewrites: Vec<RewriteTable>,
    pub kubernetes: KubernetesTable,
    pub warm_up: WarmUpTable,
    /// All `[[client]]` that have their required keys.
    pub clients: Vec<ClientTable>,
    pub views: Vec<ViewTable>,
    pub metrics: MetricsTable,
    /// `[query_log]`, if present with its required key.
    pub query_log: Option<QueryLogTable>,
    /// True if the TOML is valid. If not, keys and tables of the file are missing here.
    pub sound: bool,
    /// True if a table has an unknown name, perhaps a misspelling of a missing one, or if a known name is not a table.
    pub strangers: bool,
}

impl ConfigFile {
    /// Reads the text. Adds an error for each invalid value, each unknown key and each missing key.
    pub(super) fn read(text: &str, diagnostics: &Diagnostics<'_>) -> Self {
        let part = valid_part(text, diagnostics);
        let mut file = TomlTable::of_text(&part, diagnostics);
        let mut section = |key| file.table(key);
        let (server, admin, cache, bootstrap) =
            (section("server"), section("admin"), section("cache"), section("bootstrap"));
        let (kubernetes, report, warm_up) = (section("kubernetes"), section("report"), section("warm_up"));
        let (metrics, query_log) = (section("metrics"), section("query_log"));
        let (handover, node, hosts) = (section("handover"), section("node"), section("hosts"));
        let empty = || TomlTable::of_text("", diagnostics);
        Self {
            server: ServerTable::read(server.unwrap_or_else(empty)),
            admin: admin.map(AdminTable::read),
            report: report.map(pages::report).unwrap_or_default(),
            node: node.map(NodeTable::read),
            handover: handover.and_then(handover::socket),
            cache: CacheTable::read(cache.unwrap_or_else(empty)),
            bootstrap: bootstrap.map(upstreams::bootstrap).unwrap_or_default(),
            upstreams: file
                .named_tables("upstreams")
                .map(|tables| tables.into_iter().map(UpstreamTable::read).collect()),
            routes: file.tables("route").map(|tables| tables.into_iter().map(RouteTable::read).collect()),
            records: file.tables("record").into_iter().flatten().filter_map(RecordTable::read).collect(),
            hosts: hosts.map(HostsTable::read),
            rewrites: file.tables("rewrite").into_iter().flatten().filter_map(RewriteTable::read).collect(),
            kubernetes: KubernetesTable::read(kubernetes.unwrap_or_else(empty)),
            warm_up: WarmUpTable::read(warm_up.unwrap_or_else(empty)),
            clients: file.tables("client").into_iter().flatten().filter_map(ClientTable::read).collect(),
            views: file.tables("view").into_iter().flatten().map(ViewTable::read).collect(),
            metrics: MetricsTable::read(metrics.unwrap_or_else(empty)),
            query_log: query_log.and_then(QueryLogTable::read),
            sound: part == text,
            strangers: file.close(),
        }
    }
}
