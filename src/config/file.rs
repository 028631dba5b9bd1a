//! The TOML file, field for field, each default beside its field.
//!
//! What is here has passed the checks that one value needs alone: its type, its form, its bounds. Whether the values fit
//! together is for [`super::parse`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;

use super::Select;
use super::address::{Bootstrap, Listen, Network, Server as ServerText};
use super::clients::{Client, Kubernetes};
use super::handover::SocketPath;
use super::mistake::Mistakes;
use super::node::Node;
use super::records::{Kind, Owner};
use super::table::{Table, sound_part};
use super::units::{Bounds, Count, Size, Time};
use super::views::View;
use super::warm_up::WarmUp;
use super::watching::{Metrics, QueryLog};
use super::zones::{Domain, Zone};

/// A value that serde reads from one TOML value.
pub trait Leaf: DeserializeOwned {
    /// What a right value looks like, for the message about a wrong one.
    const RIGHT: &'static str;
}

/// `[server] listen` where the file has none: a port that needs no privilege, for this machine only.
pub const LISTEN: [SocketAddr; 2] =
    [SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5300), SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 5300)];
/// `[server] allow` where the file has none: this machine, as prefixes.
pub const ALLOW: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)];
/// `[server] workers`: 0 is one per CPU.
pub const WORKERS: Bounds<Count> = Bounds { default: Count(0), floor: Count(0), ceiling: Count(1024) };
/// `[server] tcp_idle_timeout`: "of the order of a few seconds" (RFC 7766 section 6.2.3).
pub const TCP_IDLE_TIMEOUT: Bounds<Time> =
    Bounds { default: Time::secs(10), floor: Time::secs(1), ceiling: Time::secs(600) };
/// `[server] tcp_connections`: each costs a file descriptor and its buffers.
pub const TCP_CONNECTIONS: Bounds<Count> = Bounds { default: Count(1024), floor: Count(1), ceiling: Count(65_536) };
/// `[server] tcp_connections_per_client`: one client must not take them all (RFC 7766 section 6.2.2).
pub const TCP_CONNECTIONS_PER_CLIENT: Bounds<Count> =
    Bounds { default: Count(64), floor: Count(1), ceiling: Count(65_536) };
/// `[admin] listen`: the port where the file gives none.
pub const ADMIN_PORT: u16 = 9353;
/// `[report] listen`: the port where the file gives none.
pub const REPORT_PORT: u16 = 9355;
/// `[cache] memory`: below the floor the shards could not hold one large answer each.
pub const MEMORY: Bounds<Size> = Bounds { default: Size(64 << 20), floor: Size(1 << 20), ceiling: Size(256 << 30) };
/// `[cache] max_ttl`: RFC 8767 section 4 advises no more than a week.
pub const MAX_TTL: Bounds<Time> =
    Bounds { default: Time::secs(3_600), floor: Time::secs(1), ceiling: Time::secs(WEEK) };
/// `[cache] negative_max_ttl`, a route's as well: RFC 2308 section 5 advises no more than one to three hours.
pub const NEGATIVE_MAX_TTL: Bounds<Time> =
    Bounds { default: Time::secs(30), floor: Time::secs(1), ceiling: Time::secs(3 * 3_600) };
/// `[cache] stale`: RFC 8767 section 5 advises one to three days; here jobs are short, so an hour. Zero: never.
pub const STALE: Bounds<Time> = Bounds { default: Time::secs(3_600), floor: Time::secs(0), ceiling: Time::secs(WEEK) };
/// `[cache] prefetch`.
pub const PREFETCH: bool = true;
/// `[upstreams.NAME] select`: in order, since the file's order is the one wish that is known; the others also send
/// queries to the later servers, which only whoever wrote them knows to be equals.
pub const SELECT: Select = Select::Ordered;
/// `[upstreams.NAME] deadline`: well below the 5 seconds after which stub resolvers ask again.
pub const DEADLINE: Bounds<Time> =
    Bounds { default: Time::millis(1_500), floor: Time::millis(50), ceiling: Time::secs(30) };
/// `[upstreams.NAME] max_qps`: none where the file gives none.
pub const MAX_QPS: Bounds<Count> = Bounds { default: Count(0), floor: Count(10), ceiling: Count(10_000_000) };
/// `[upstreams.NAME] tcp_connections`: one carries many queries at once; another is for when it stalls.
pub const UPSTREAM_TCP_CONNECTIONS: Bounds<Count> = Bounds { default: Count(2), floor: Count(1), ceiling: Count(64) };
/// `[upstreams.NAME] trust_ad` (RFC 6840 section 5.7).
pub const TRUST_AD: bool = false;
/// `[upstreams.NAME] randomize_case`.
pub const RANDOMIZE_CASE: bool = true;
/// `[[route]] deny_private_addresses`.
pub const DENY_PRIVATE_ADDRESSES: bool = false;
/// `[[route]] cluster_domain` of a route that claims this zone: what kubeadm and most others call it.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// `[[route]] prune_search`: of the cluster's domain, where no answer is lost by it.
pub const PRUNE_SEARCH: bool = true;
/// `[[route]] autopath`: it gives an answer for another name than was asked for.
pub const AUTOPATH: bool = false;
/// `[[record]] ttl`, in whole seconds: the ceiling is that of all TTLs (RFC 8767 section 4).
pub const RECORD_TTL: Bounds<Time> =
    Bounds { default: Time::secs(300), floor: Time::secs(0), ceiling: Time::secs(WEEK) };

/// Seconds of a week.
const WEEK: u64 = 7 * 86_400;

/// The whole file.
#[derive(Debug)]
pub struct File {
    /// `[server]`.
    pub server: Server,
    /// `[admin]`: where it listens, if it does.
    pub admin: Option<Spanned<Listen<ADMIN_PORT>>>,
    /// `[report]`: where it listens.
    pub report: Vec<Spanned<Listen<REPORT_PORT>>>,
    /// `[node]`, if there is one.
    pub node: Option<Node>,
    /// `[handover]`: its socket, if there is one.
    pub handover: Option<Spanned<SocketPath>>,
    /// `[cache]`.
    pub cache: Cache,
    /// `[bootstrap]`: its servers.
    pub bootstrap: Vec<Spanned<Bootstrap>>,
    /// `[upstreams.NAME]`, each; none if the file has no such table.
    pub upstreams: Option<Vec<Upstream>>,
    /// `[[route]]`, each; none if the file has no such table.
    pub routes: Option<Vec<Route>>,
    /// `[[record]]`, each that is whole.
    pub records: Vec<Record>,
    /// `[kubernetes]`.
    pub kubernetes: Kubernetes,
    /// `[warm_up]`.
    pub warm_up: WarmUp,
    /// `[[client]]`, each that is whole.
    pub clients: Vec<Client>,
    /// `[[view]]`, each.
    pub views: Vec<View>,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `[query_log]`, if it is whole.
    pub query_log: Option<QueryLog>,
    /// Whether the TOML is sound; if not, tables are left out here that the file has.
    pub sound: bool,
    /// Whether a table has an unknown name, which may be meant for one that is missing, or a known table is none.
    pub strangers: bool,
}

/// `[server]`.
#[derive(Debug)]
pub struct Server {
    /// Default: [`LISTEN`].
    pub listen: Vec<Spanned<Listen<53>>>,
    /// Default: [`ALLOW`].
    pub allow: Vec<Spanned<Network>>,
    /// Default: [`WORKERS`].
    pub workers: Spanned<Count>,
    /// Default: [`TCP_IDLE_TIMEOUT`].
    pub tcp_idle_timeout: Spanned<Time>,
    /// Default: [`TCP_CONNECTIONS`].
    pub tcp_connections: Spanned<Count>,
    /// Default: [`TCP_CONNECTIONS_PER_CLIENT`].
    pub tcp_connections_per_client: Spanned<Count>,
}

/// `[cache]`.
#[derive(Debug)]
pub struct Cache {
    /// Default: [`MEMORY`].
    pub memory: Spanned<Size>,
    /// Default: [`MAX_TTL`].
    pub max_ttl: Spanned<Time>,
    /// Default: [`NEGATIVE_MAX_TTL`].
    pub negative_max_ttl: Spanned<Time>,
    /// Default: [`STALE`].
    pub stale: Spanned<Time>,
    /// Default: [`PREFETCH`].
    pub prefetch: bool,
}

/// `[upstreams.NAME]`.
#[derive(Debug)]
pub struct Upstream {
    /// The NAME.
    pub name: Spanned<String>,
    /// Required; none if a mistake has been noted.
    pub servers: Option<Vec<Spanned<ServerText>>>,
    /// Default: [`SELECT`].
    pub select: Select,
    /// Default: [`DEADLINE`].
    pub deadline: Spanned<Time>,
    /// Default: none, without limit. Bounds: [`MAX_QPS`].
    pub max_qps: Option<Spanned<Count>>,
    /// Default: [`UPSTREAM_TCP_CONNECTIONS`].
    pub tcp_connections: Spanned<Count>,
    /// Default: [`TRUST_AD`].
    pub trust_ad: bool,
    /// Default: [`RANDOMIZE_CASE`].
    pub randomize_case: bool,
}

/// `[[route]]`.
#[derive(Debug)]
pub struct Route {
    /// Its header.
    pub at: Range<usize>,
    /// Required; none if a mistake has been noted.
    pub zones: Option<Vec<Spanned<Zone>>>,
    /// Required; none if a mistake has been noted.
    pub to: Option<Spanned<String>>,
    /// Default: none, the cache's holds. Bounds: [`NEGATIVE_MAX_TTL`].
    pub negative_max_ttl: Option<Spanned<Time>>,
    /// Default: [`DENY_PRIVATE_ADDRESSES`].
    pub deny_private_addresses: bool,
    /// Default: [`CLUSTER_DOMAIN`] if that is among the zones, else none.
    pub cluster_domain: Option<Spanned<Domain>>,
    /// Default: [`PRUNE_SEARCH`].
    pub prune_search: Option<Spanned<bool>>,
    /// Default: [`AUTOPATH`].
    pub autopath: Option<Spanned<bool>>,
}

/// `[[record]]`.
#[derive(Debug)]
pub struct Record {
    /// Required.
    pub name: Spanned<Owner>,
    /// `type`, required.
    pub kind: Spanned<Kind>,
    /// Required; what is right depends on the type.
    pub value: Spanned<String>,
    /// Default: [`RECORD_TTL`].
    pub ttl: Spanned<Time>,
}

impl File {
    /// Reads the text and notes each value that is wrong by itself, each key that is unknown, each that is missing.
    pub(super) fn read(text: &str, mistakes: &Mistakes<'_>) -> Self {
        let part = sound_part(text, mistakes);
        let mut file = Table::of_text(&part, mistakes);
        let mut section = |key| file.table(key);
        let (server, admin, cache, bootstrap) =
            (section("server"), section("admin"), section("cache"), section("bootstrap"));
        let (kubernetes, report, warm_up) = (section("kubernetes"), section("report"), section("warm_up"));
        let (metrics, query_log) = (section("metrics"), section("query_log"));
        let (handover, node) = (section("handover"), section("node"));
        let empty = || Table::of_text("", mistakes);
        Self {
            server: Server::read(server.unwrap_or_else(empty)),
            admin: admin.and_then(|table| table.read(|table| table.required("listen"))),
            report: report.and_then(|table| table.read(|table| table.required_list("listen"))).unwrap_or_default(),
            node: node.map(Node::read),
            handover: handover.and_then(|table| table.read(|table| table.required("socket"))),
            cache: Cache::read(cache.unwrap_or_else(empty)),
            bootstrap: bootstrap
                .and_then(|table| table.read(|table| table.required_list("servers")))
                .unwrap_or_default(),
            upstreams: file.named_tables("upstreams").map(|tables| tables.into_iter().map(Upstream::read).collect()),
            routes: file.tables("route").map(|tables| tables.into_iter().map(Route::read).collect()),
            records: file.tables("record").into_iter().flatten().filter_map(Record::read).collect(),
            kubernetes: Kubernetes::read(kubernetes.unwrap_or_else(empty)),
            warm_up: WarmUp::read(warm_up.unwrap_or_else(empty)),
            clients: file.tables("client").into_iter().flatten().filter_map(Client::read).collect(),
            views: file.tables("view").into_iter().flatten().map(View::read).collect(),
            metrics: Metrics::read(metrics.unwrap_or_else(empty)),
            query_log: query_log.and_then(QueryLog::read),
            sound: part == text,
            strangers: file.close(),
        }
    }
}

impl Server {
    fn read(table: Table<'_, '_>) -> Self {
        let unplaced = |address| Spanned::new(0..0, Listen(address));
        let network = |(address, prefix)| Some(Spanned::new(0..0, Network(IpNet::new(address, prefix).ok()?)));
        table.read(|table| Self {
            listen: table.list("listen").unwrap_or_else(|| LISTEN.map(unplaced).into()),
            allow: table.list("allow").unwrap_or_else(|| ALLOW.into_iter().filter_map(network).collect()),
            workers: table.bounded("workers", &WORKERS),
            tcp_idle_timeout: table.bounded("tcp_idle_timeout", &TCP_IDLE_TIMEOUT),
            tcp_connections: table.bounded("tcp_connections", &TCP_CONNECTIONS),
            tcp_connections_per_client: table.bounded("tcp_connections_per_client", &TCP_CONNECTIONS_PER_CLIENT),
        })
    }
}

impl Cache {
    fn read(table: Table<'_, '_>) -> Self {
        table.read(|table| Self {
            memory: table.bounded("memory", &MEMORY),
            max_ttl: table.bounded("max_ttl", &MAX_TTL),
            negative_max_ttl: table.bounded("negative_max_ttl", &NEGATIVE_MAX_TTL),
            stale: table.bounded("stale", &STALE),
            prefetch: table.flag("prefetch", PREFETCH),
        })
    }
}

impl Upstream {
    fn read((name, table): (Spanned<String>, Table<'_, '_>)) -> Self {
        table.read(|table| Self {
            name,
            servers: table.required_list("servers"),
            select: table.value("select").map_or(SELECT, Spanned::into_inner),
            deadline: table.bounded("deadline", &DEADLINE),
            max_qps: table.within("max_qps", &MAX_QPS),
            tcp_connections: table.bounded("tcp_connections", &UPSTREAM_TCP_CONNECTIONS),
            trust_ad: table.flag("trust_ad", TRUST_AD),
            randomize_case: table.flag("randomize_case", RANDOMIZE_CASE),
        })
    }
}

impl Route {
    pub(super) fn read(table: Table<'_, '_>) -> Self {
        table.read(|table| Self {
            at: table.at(),
            zones: table.required_list("zones"),
            to: table.required("to"),
            negative_max_ttl: table.within("negative_max_ttl", &NEGATIVE_MAX_TTL),
            deny_private_addresses: table.flag("deny_private_addresses", DENY_PRIVATE_ADDRESSES),
            cluster_domain: table.value("cluster_domain"),
            prune_search: table.value("prune_search"),
            autopath: table.value("autopath"),
        })
    }
}

impl Record {
    pub(super) fn read(table: Table<'_, '_>) -> Option<Self> {
        table.read(|table| {
            let (name, kind, value) = (table.required("name"), table.required("type"), table.required("value"));
            let ttl = table.bounded("ttl", &RECORD_TTL);
            Some(Self { name: name?, kind: kind?, value: value?, ttl })
        })
    }
}

impl Leaf for String {
    const RIGHT: &'static str = "a text in quotes";
}

impl Leaf for bool {
    const RIGHT: &'static str = "true or false, without quotes";
}

impl Leaf for Select {
    const RIGHT: &'static str = r#""ordered", "fastest" or "spread""#;
}

impl<'de> Deserialize<'de> for Select {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.to_ascii_lowercase().as_str() {
            "ordered" => Ok(Self::Ordered),
            "fastest" => Ok(Self::Fastest),
            "spread" => Ok(Self::Spread),
            _ => Err(serde::de::Error::custom(format!("{text:?} is no way to select"))),
        }
    }
}
