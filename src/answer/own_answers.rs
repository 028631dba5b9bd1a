//! Answers that nodens gives itself, before any server is queried.

use crate::cause::Cause;
use crate::config::RouteId;
use crate::local::cluster::FORM_TTL;
use crate::local::records::{Records, StaticAnswer};
use crate::local::server_facts;
use crate::route::Destination;
use crate::snapshot::Snapshot;
use crate::upstream::server::{LOOP_LABEL, LOOP_NONCE, LOOP_TOKEN};
use crate::wire::cache_key::CacheKey;
use crate::wire::name::suffixes;
use crate::wire::write::{LocalRecords, extended_error};
use crate::wire::{Rcode, class, ede, rcode, rtype};

/// Suffix of nodens's own queries: letter case checks, and loop checks of servers that are queried for every name.
pub const LOOP_CHECK: &[u8] = b"\x0aloop-check\x06nodens\x08internal\x00";

/// Explanation of a denied name.
const DENIED: &str = "denied to this client: its view denies this zone";
/// TTL of the denial of such a name in seconds: a view may change.
const DENIED_TTL: u32 = 30;

/// Explanation of a type that is answered with "no data".
const FILTERED_TYPE: &str = "filtered: filter_types answers this type with no data";
/// TTL of that denial in seconds; short, as the configuration may change.
const FILTERED_TTL: u32 = 60;

/// Result of the local lookup of a question.
pub enum Local {
    /// Answer from static records, a special-use name, or a denial.
    Answer(LocalLookup),
    /// Static CNAMEs that lead to a name (lower-case wire form) with this route.
    Alias(LocalRecords, Vec<u8>, RouteId),
    /// NXDOMAIN: the name would take this route, but its cluster's domain cannot contain it.
    Denied {
        /// The route.
        route: RouteId,
    },
    /// No local answer: the name takes this route.
    Not {
        /// The route.
        route: RouteId,
        /// Number of labels of the suffix that matched the route.
        depth: usize,
    },
}

/// Answer that nodens gives itself.
pub struct LocalLookup {
    /// Response code.
    pub rcode: Rcode,
    /// Records of the answer section; the SOA record of a negative answer.
    pub records: LocalRecords,
    /// Cause of a failure; `None` for an answer.
    pub cause: Option<Cause>,
    /// Explanation; empty if the response code says enough.
    pub text: &'static str,
}

impl LocalLookup {
    /// Returns an answer that needs no explanation.
    fn plain(rcode: Rcode, records: LocalRecords) -> Self {
        Self { rcode, records, cause: Cause::of_rcode(rcode), text: "" }
    }

    /// Returns the extended error as a whole option, if there is one. A text without a cause means that the configuration
    /// filters the type.
    pub fn extended_error(&self) -> Vec<u8> {
        match (self.cause, self.text) {
            (_, "") => Vec::new(),
            (Some(cause), text) => cause.extended_error(text),
            (None, text) => extended_error(ede::FILTERED, text),
        }
    }
}

/// Looks up a question locally.
pub fn local(snapshot: &Snapshot, key: &CacheKey) -> Local {
    let (name, qtype, qclass) = (key.name(), key.qtype(), key.qclass());
    if qclass == class::CH {
        let (rcode, records) = server_facts::chaos(name, qtype, &snapshot.identity);
        // Questions about the server itself do not count as the client's failures.
        return Local::Answer(LocalLookup { cause: None, ..LocalLookup::plain(rcode, records) });
    }
    if qtype == rtype::ANY {
        return Local::Answer(LocalLookup::plain(rcode::NOERROR, server_facts::any()));
    }
    if loop_check(snapshot, name) || name.ends_with(LOOP_CHECK) {
        return Local::Answer(LocalLookup::plain(rcode::NXDOMAIN, LocalRecords::default()));
    }
    let effective_view = snapshot.effective_view(key.effective_view());
    match effective_view.find_records(name, qtype, qclass) {
        Some(StaticAnswer::Answer(records)) => return Local::Answer(LocalLookup::plain(Records::RCODE, records)),
        Some(StaticAnswer::Alias(records, target)) => {
            return match local(snapshot, &key.for_name(target.as_wire())) {
                Local::Not { route, .. } => Local::Alias(records, target.as_wire().to_vec(), route),
                // The records of a special-use or denied name join those of the static alias that leads to it.
                Local::Answer(own) => {
                    Local::Answer(LocalLookup { records: records.followed_by(&own.records, target.as_wire()), ..own })
                }
                Local::Denied { route } => {
                    let own = denial(snapshot, route);
                    Local::Answer(LocalLookup { records: records.followed_by(&own.records, target.as_wire()), ..own })
                }
                Local::Alias(..) => Local::Answer(LocalLookup::plain(rcode::SERVFAIL, LocalRecords::default())),
            };
        }
        None => {}
    }
    let found = effective_view.router.find(name);
    let claimed = found.map_or(0, |(_, depth)| depth);
    if let Some((rcode, records)) = snapshot.special.find(name, qtype, claimed) {
        let cause = (rcode == rcode::NXDOMAIN).then_some(Cause::SpecialUse);
        return Local::Answer(LocalLookup { cause, ..LocalLookup::plain(rcode, records) });
    }
    match found {
        Some((Destination::Route(route), depth)) => match snapshot.cluster(route) {
            Some(cluster) if qclass == class::IN && cluster.has(name, depth) && cluster.lacks(name, qtype) => {
                Local::Denied { route }
            }
            _ if snapshot.route(route).is_some_and(|route| effective_view.filters(route, qtype)) => {
                let mut records = LocalRecords::default();
                records.soa(zone(name, depth), FILTERED_TTL);
                Local::Answer(LocalLookup { rcode: rcode::NOERROR, records, cause: None, text: FILTERED_TYPE })
            }
            _ => Local::Not { route, depth },
        },
        Some((Destination::Denied, depth)) => {
            let mut records = LocalRecords::default();
            records.soa(zone(name, depth), DENIED_TTL);
            Local::Answer(LocalLookup { rcode: rcode::NXDOMAIN, records, cause: Some(Cause::Denied), text: DENIED })
        }
        // The configuration was checked to cover every name.
        None => Local::Answer(LocalLookup::plain(rcode::SERVFAIL, LocalRecords::default())),
    }
}

/// Returns the suffix of `name` that has `labels` labels.
fn zone(name: &[u8], labels: usize) -> &[u8] {
    let below = (suffixes(name).count() - 1).saturating_sub(labels);
    suffixes(name).nth(below).unwrap_or(name)
}

/// Returns the denial of a name that a route's cluster domain cannot contain.
pub fn denial(snapshot: &Snapshot, route: RouteId) -> LocalLookup {
    let mut records = LocalRecords::default();
    if let Some(cluster) = snapshot.cluster(route) {
        records.soa(cluster.domain(), FORM_TTL);
    }
    LocalLookup { cause: Some(Cause::Pruned), ..LocalLookup::plain(rcode::NXDOMAIN, records) }
}

/// Returns whether this query is a loop check that came back: the server whose token it bears forwards to nodens. Marks that
/// server. The name consists of token, nonce, `loop-check` and a zone of the server.
fn loop_check(snapshot: &Snapshot, name: &[u8]) -> bool {
    if !name.get(LOOP_TOKEN + LOOP_NONCE..).is_some_and(|rest| rest.starts_with(LOOP_LABEL)) {
        return false;
    }
    let mut came_back = false;
    for group in &snapshot.groups {
        for server in group.servers.load().iter().filter(|server| name.starts_with(&server.loop_token())) {
            server.loops_back();
            came_back = true;
        }
    }
    came_back
}
