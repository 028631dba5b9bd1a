//! Upstreams: `[upstreams.NAME]`, and the servers that resolve the host names of other servers: `[bootstrap]`.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::address::{Bootstrap, ServerAddress, ServerValue};
use super::table::TomlTable;
use super::units::{Bounds, CountValue, Time};
use super::value::{ConfigValue, ValueForm};

/// Default of `[upstreams.NAME] select`. The order of the file is the only known preference. The other values also send queries
/// to the later servers, and only the author of the file can judge whether these are equivalent.
pub(crate) const SELECT: Select = Select::Ordered;
/// `[upstreams.NAME] deadline`: just below the 5 seconds after which the stub resolvers of glibc, musl and Go retry.
pub(crate) const DEADLINE: Bounds<Time> =
    Bounds { default: Time::millis(4_500), floor: Time::millis(50), ceiling: Time::secs(30) };
/// `[upstreams.NAME] max_qps`. Without the key there is no limit, and the default here is not used.
pub(crate) const MAX_QPS: Bounds<CountValue> =
    Bounds { default: CountValue(0), floor: CountValue(10), ceiling: CountValue(10_000_000) };
/// `[upstreams.NAME] tcp_connections`. One connection carries many queries at once; another serves while the first stalls.
pub(crate) const UPSTREAM_TCP_CONNECTIONS: Bounds<CountValue> =
    Bounds { default: CountValue(2), floor: CountValue(1), ceiling: CountValue(64) };
/// Default of `[upstreams.NAME] trust_ad` (RFC 6840 section 5.7).
pub(crate) const TRUST_AD: bool = false;
/// Default of `[upstreams.NAME] randomize_case`.
pub(crate) const RANDOMIZE_CASE: bool = true;

/// Group of servers that give the same answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamConfig {
    /// Name in the file and in metrics.
    pub name: String,
    /// Servers, in the order of the file; at least one.
    pub servers: Vec<ServerAddress>,
    /// Choice of the server that is queried first.
    pub select: Select,
    /// Longest time from a client's query to its response, be it an answer or an error.
    pub deadline: Duration,
    /// Most queries to all servers together in any second; `None`: no limit.
    pub max_qps: Option<u32>,
    /// Maximum number of TCP or TLS connections of each worker to each server.
    pub tcp_connections: usize,
    /// Trust in the servers' AD flag (RFC 6840 section 5.7), only for servers on a trusted path.
    pub trust_ad: bool,
    /// Random letter case in queries (0x20). nodens stops it by itself for a server that folds case.
    pub randomize_case: bool,
}

/// Choice of the server of an upstream that is queried first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Select {
    /// First server in the order of the file that is healthy and not far slower than another.
    Ordered,
    /// Healthy server with the lowest smoothed latency.
    Fastest,
    /// Better of two healthy servers drawn at random, by smoothed latency and queries in flight.
    Spread,
}

/// `[upstreams.NAME]` in the file.
#[derive(Debug)]
pub(crate) struct UpstreamTable {
    /// NAME in the header.
    pub name: Spanned<String>,
    /// Required; `None` if it is missing or invalid.
    pub servers: Option<Vec<Spanned<ServerValue>>>,
    pub select: Select,
    pub deadline: Spanned<Time>,
    /// Default: no limit. Bounds: [`MAX_QPS`].
    pub max_qps: Option<Spanned<CountValue>>,
    pub tcp_connections: Spanned<CountValue>,
    pub trust_ad: bool,
    pub randomize_case: bool,
}

impl UpstreamTable {
    pub(super) fn read((name, table): (Spanned<String>, TomlTable<'_, '_>)) -> Self {
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

/// Reads the servers of `[bootstrap]`. Adds an error and returns none if they are missing or invalid.
pub(super) fn bootstrap(table: TomlTable<'_, '_>) -> Vec<Spanned<Bootstrap>> {
    table.read(|table| table.required_list("servers")).unwrap_or_default()
}

impl ConfigValue for Select {
    const EXPECTED: &'static str = r#""ordered", "fastest" or "spread""#;
    const FORM: ValueForm = ValueForm::OneOf(&["ordered", "fastest", "spread"]);
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
