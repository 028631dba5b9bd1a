//! What nodens has to say to a question by itself, before anyone else is asked.

use crate::cause::Cause;
use crate::config::RouteId;
use crate::local::cluster::FORM_TTL;
use crate::local::records::{Found, Records};
use crate::local::server_facts;
use crate::route::Way;
use crate::snapshot::Snapshot;
use crate::upstream::server::{LOOP_LABEL, LOOP_NONCE, LOOP_TOKEN};
use crate::wire::make::{LocalRecords, extended_error};
use crate::wire::name::suffixes;
use crate::wire::query::Key;
use crate::wire::{Rcode, class, ede, rcode, rtype};

/// What nodens asks for itself lies below this: letter case checks, and loop checks of servers that are asked for every name.
pub const LOOP_CHECK: &[u8] = b"\x0aloop-check\x06nodens\x08internal\x00";

/// Why a denied name does not exist.
const DENIED: &str = "denied to this client: the view that it is of does not show this zone";
/// How long a denied name may be held for not to exist, in seconds: a view may change.
const DENIED_TTL: u32 = 30;

/// Why a type is answered with "no data".
const FILTERED_TYPE: &str = "filtered: filter_types answers this type with no data";
/// TTL of that denial in seconds; short, as the configuration may change.
const FILTERED_TTL: u32 = 60;

/// What nodens itself has to say to a question.
pub enum Local {
    /// This.
    Answer(Own),
    /// Static CNAMEs that lead to a name (lower-case wire form) that takes this route.
    Alias(LocalRecords, Vec<u8>, RouteId),
    /// No such name: it would take this route, but its cluster's domain cannot have it.
    Denied {
        /// The route.
        route: RouteId,
    },
    /// Nothing: it takes this route.
    Not {
        /// The route.
        route: RouteId,
        /// The labels of the suffix by which it does.
        depth: usize,
    },
}

/// An answer of nodens's own.
pub struct Own {
    /// The response code.
    pub rcode: Rcode,
    /// Its records.
    pub records: LocalRecords,
    /// Why it is no answer; none if it is one.
    pub cause: Option<Cause>,
    /// The words for that; empty where the response code says enough.
    pub text: &'static str,
}

impl Own {
    /// One that needs no explanation.
    fn plain(rcode: Rcode, records: LocalRecords) -> Self {
        Self { rcode, records, cause: Cause::of_rcode(rcode), text: "" }
    }

    /// Its extended error as a whole option, if it has one. What is no failure and has words is filtered by configuration.
    pub fn extended_error(&self) -> Vec<u8> {
        match (self.cause, self.text) {
            (_, "") => Vec::new(),
            (Some(cause), text) => cause.extended_error(text),
            (None, text) => extended_error(ede::FILTERED, text),
        }
    }
}

/// Whether nodens answers a question itself.
pub fn local(snapshot: &Snapshot, key: &Key) -> Local {
    let (name, qtype, qclass) = (key.name(), key.qtype(), key.qclass());
    if qclass == class::CH {
        let (rcode, records) = server_facts::chaos(name, qtype, &snapshot.identity);
        // What people and tools ask of the server itself is not a failure of theirs.
        return Local::Answer(Own { cause: None, ..Own::plain(rcode, records) });
    }
    if qtype == rtype::ANY {
        return Local::Answer(Own::plain(rcode::NOERROR, server_facts::any()));
    }
    if loop_check(snapshot, name) || name.ends_with(LOOP_CHECK) {
        return Local::Answer(Own::plain(rcode::NXDOMAIN, LocalRecords::default()));
    }
    let horizon = snapshot.horizon(key.horizon());
    match horizon.find_records(name, qtype, qclass) {
        Some(Found::Answer(records)) => return Local::Answer(Own::plain(Records::RCODE, records)),
        Some(Found::Alias(records, target)) => {
            return match local(snapshot, &key.for_name(target.as_wire())) {
                Local::Not { route, .. } => Local::Alias(records, target.as_wire().to_vec(), route),
                // A special-use or denied name behind a static alias: its records join the alias's.
                Local::Answer(own) => {
                    Local::Answer(Own { records: records.followed_by(&own.records, target.as_wire()), ..own })
                }
                Local::Denied { route } => {
                    let own = denial(snapshot, route);
                    Local::Answer(Own { records: records.followed_by(&own.records, target.as_wire()), ..own })
                }
                Local::Alias(..) => Local::Answer(Own::plain(rcode::SERVFAIL, LocalRecords::default())),
            };
        }
        None => {}
    }
    let found = horizon.router.find(name);
    let claimed = found.map_or(0, |(_, depth)| depth);
    if let Some((rcode, records)) = snapshot.special.find(name, qtype, claimed) {
        let cause = (rcode == rcode::NXDOMAIN).then_some(Cause::SpecialUse);
        return Local::Answer(Own { cause, ..Own::plain(rcode, records) });
    }
    match found {
        Some((Way::Route(route), depth)) => match snapshot.cluster(route) {
            Some(cluster) if qclass == class::IN && cluster.has(name, depth) && cluster.lacks(name, qtype) => {
                Local::Denied { route }
            }
            _ if snapshot.route(route).is_some_and(|route| horizon.filters(route, qtype)) => {
                let mut records = LocalRecords::default();
                records.soa(zone(name, depth), FILTERED_TTL);
                Local::Answer(Own { rcode: rcode::NOERROR, records, cause: None, text: FILTERED_TYPE })
            }
            _ => Local::Not { route, depth },
        },
        Some((Way::Denied, depth)) => {
            let mut records = LocalRecords::default();
            records.soa(zone(name, depth), DENIED_TTL);
            Local::Answer(Own { rcode: rcode::NXDOMAIN, records, cause: Some(Cause::Denied), text: DENIED })
        }
        // The configuration was checked to cover every name.
        None => Local::Answer(Own::plain(rcode::SERVFAIL, LocalRecords::default())),
    }
}

/// The suffix of `name` that has `labels` labels.
fn zone(name: &[u8], labels: usize) -> &[u8] {
    let below = (suffixes(name).count() - 1).saturating_sub(labels);
    suffixes(name).nth(below).unwrap_or(name)
}

/// The denial of a name that a route's cluster domain cannot have.
pub fn denial(snapshot: &Snapshot, route: RouteId) -> Own {
    let mut records = LocalRecords::default();
    if let Some(cluster) = snapshot.cluster(route) {
        records.soa(cluster.domain(), FORM_TTL);
    }
    Own { cause: Some(Cause::Pruned), ..Own::plain(rcode::NXDOMAIN, records) }
}

/// Whether this query is one that only the loop check sends, and that came back: the server whose token it bears leads back
/// here. The name: token, nonce, `loop-check`, a zone of the server's.
fn loop_check(snapshot: &Snapshot, name: &[u8]) -> bool {
    if !name.get(LOOP_TOKEN + LOOP_NONCE..).is_some_and(|rest| rest.starts_with(LOOP_LABEL)) {
        return false;
    }
    let mut came_back = false;
    for group in &snapshot.groups {
        for server in group.servers.load().iter().filter(|server| name.starts_with(&server.loop_token())) {
            server.leads_back();
            came_back = true;
        }
    }
    came_back
}
