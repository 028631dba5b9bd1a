//! What nodens has to say to a question by itself, before anyone else is asked.

use crate::fetch;
use crate::local::records::{Found, Records};
use crate::local::server_facts;
use crate::snapshot::Snapshot;
use crate::wire::make::LocalRecords;
use crate::wire::query::Key;
use crate::wire::{class, rcode, rtype};

/// How far the name of a loop check lies below this: `<token>.loop-check.nodens.internal`.
pub const LOOP_CHECK: &[u8] = b"\x0aloop-check\x06nodens\x08internal\x00";

/// What nodens itself has to say to a question.
pub enum Local {
    /// A response code and its records.
    Answer(u16, LocalRecords),
    /// Static CNAMEs that lead to a name (lower-case wire form) that takes this route.
    Alias(LocalRecords, Vec<u8>, u16),
    /// Nothing: it takes this route.
    Not {
        /// The route's number.
        route: u16,
    },
}

/// Whether nodens answers a question itself.
pub fn local(snapshot: &Snapshot, key: &Key) -> Local {
    let (name, qtype, qclass) = (key.name(), key.qtype(), key.qclass());
    if qclass == class::CH {
        let (rcode, records) = server_facts::chaos(name, qtype);
        return Local::Answer(rcode, records);
    }
    if qtype == rtype::ANY {
        return Local::Answer(rcode::NOERROR, server_facts::any());
    }
    if name.ends_with(LOOP_CHECK) {
        fetch::loop_check(snapshot, name);
        return Local::Answer(rcode::NXDOMAIN, LocalRecords::default());
    }
    match snapshot.records.find(name, qtype, qclass) {
        Some(Found::Answer(records)) => return Local::Answer(Records::RCODE, records),
        Some(Found::Alias(records, target)) => {
            return match local(snapshot, &key.for_name(target.as_wire())) {
                Local::Not { route } => Local::Alias(records, target.as_wire().to_vec(), route),
                // A special-use name behind a static alias: its records join the alias's.
                Local::Answer(rcode, more) => Local::Answer(rcode, records.followed_by(&more, target.as_wire())),
                Local::Alias(..) => Local::Answer(rcode::SERVFAIL, LocalRecords::default()),
            };
        }
        None => {}
    }
    let route = snapshot.router.find(name);
    let claimed = route.map_or(0, |(_, depth)| depth);
    if let Some((rcode, records)) = snapshot.special.find(name, qtype, claimed) {
        return Local::Answer(rcode, records);
    }
    match route {
        Some((route, _)) => Local::Not { route },
        // The configuration was checked to cover every name.
        None => Local::Answer(rcode::SERVFAIL, LocalRecords::default()),
    }
}
