//! Who is asked: `[upstreams.NAME]`, and `[bootstrap]`, who is asked for the addresses of those given by name.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::address::{Bootstrap, Server, ServerAddress};
use super::table::Table;
use super::units::{Bounds, Count, Time};
use super::value::ConfigValue;

/// `[upstreams.NAME] select`: in order, since the file's order is the one wish that is known; the others also send
/// queries to the later servers, which only whoever wrote them knows to be equals.
pub const SELECT: Select = Select::Ordered;
/// `[upstreams.NAME] deadline`: just below the 5 seconds after which the stub resolvers of glibc, musl and Go ask again.
pub const DEADLINE: Bounds<Time> =
    Bounds { default: Time::millis(4_500), floor: Time::millis(50), ceiling: Time::secs(30) };
/// `[upstreams.NAME] max_qps`: none where the file gives none.
pub const MAX_QPS: Bounds<Count> = Bounds { default: Count(0), floor: Count(10), ceiling: Count(10_000_000) };
/// `[upstreams.NAME] tcp_connections`: one carries many queries at once; another is for when it stalls.
pub const UPSTREAM_TCP_CONNECTIONS: Bounds<Count> = Bounds { default: Count(2), floor: Count(1), ceiling: Count(64) };
/// `[upstreams.NAME] trust_ad` (RFC 6840 section 5.7).
pub const TRUST_AD: bool = false;
/// `[upstreams.NAME] randomize_case`.
pub const RANDOMIZE_CASE: bool = true;

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

/// `[upstreams.NAME]`.
#[derive(Debug)]
pub struct UpstreamTable {
    /// The NAME.
    pub name: Spanned<String>,
    /// Required; none if a mistake has been noted.
    pub servers: Option<Vec<Spanned<Server>>>,
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

impl UpstreamTable {
    pub(super) fn read((name, table): (Spanned<String>, Table<'_, '_>)) -> Self {
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

/// `[bootstrap]`: its servers; none if a mistake has been noted.
pub(super) fn bootstrap(table: Table<'_, '_>) -> Vec<Spanned<Bootstrap>> {
    table.read(|table| table.required_list("servers")).unwrap_or_default()
}

impl ConfigValue for Select {
    const EXPECTED: &'static str = r#""ordered", "fastest" or "spread""#;
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
