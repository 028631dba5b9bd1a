//! Which names are tries of a search list, and what was meant by them.

use super::prefix::{Prefix, Prefixes};
use crate::wire::name::suffixes;

/// Where all namespaces are by default.
const SERVICES: &[u8] = b"\x03svc\x07cluster\x05local\x00";

/// The prefix that was meant, if the rest of this name is a suffix of the client's search list.
///
/// A search list begins with the client's own namespace. So a name of two labels or more in front of that cannot be one of
/// its services but by a pod's hostname; and whatever else was tried behind a name for which that was tried before is of
/// the same list. `tried` says whether it was, by the hash of the name's labels; it is asked once for the name and once for
/// each prefix at most.
///
/// Where the namespace is not known, it may be any one of the default cluster domain, and the name in front must have
/// three labels or more: no service and no pod's hostname has (but for SRV, whose names begin with an underscore).
pub fn meant(name: &Prefixes<'_>, namespace: Option<&str>, mut tried: impl FnMut(u64) -> bool) -> Option<Prefix> {
    let underscore = name.name().get(1) == Some(&b'_');
    let of_a_list = |prefix: Prefix, least: usize| (prefix.labels >= least && !underscore).then_some(prefix);
    if let Some(prefix) = namespace.and_then(|space| before_namespace(name, space)) {
        return of_a_list(prefix, 2);
    }
    if tried(name.whole()) {
        // It is the end of its own list.
        return None;
    }
    if let Some(front) = name.each().rev().find(|front| tried(front.hash)) {
        return Some(front);
    }
    let any = name.each().find(|prefix| suffixes(name.behind(*prefix)).nth(1) == Some(SERVICES));
    any.filter(|_| namespace.is_none()).and_then(|prefix| of_a_list(prefix, 3))
}

/// What stands before `namespace.svc.` in a name.
pub fn before_namespace(name: &Prefixes<'_>, namespace: &str) -> Option<Prefix> {
    name.each().find(|prefix| is_of_namespace(name.behind(*prefix), namespace))
}

/// Whether a name begins with `namespace.svc.`.
pub(super) fn is_of_namespace(name: &[u8], namespace: &str) -> bool {
    let length = namespace.len();
    usize::from(name.first().copied().unwrap_or(0)) == length
        && name.get(1..=length) == Some(namespace.as_bytes())
        && name.get(1 + length..).is_some_and(|rest| rest.starts_with(b"\x03svc"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;

    fn wire(name: &str) -> Box<[u8]> {
        name.parse::<Name>().expect(name).as_wire().into()
    }

    #[test]
    fn search_lists_are_seen_through() {
        let known =
            ["registry.example.com", "redis", "redis.example.com"].map(|name| Prefixes::of(&wire(name)).whole());
        let meant = |name: &str, namespace| {
            let name = wire(name);
            let name = Prefixes::of(&name);
            meant(&name, namespace, |hash| known.contains(&hash)).map(|prefix| name.front(prefix))
        };
        for (name, expected) in [
            ("registry.example.com.ci.svc.cluster.local", Some("registry.example.com")),
            ("registry.example.com.svc.cluster.local", Some("registry.example.com")),
            ("registry.example.com.cluster.local", Some("registry.example.com")),
            ("registry.example.com.eu-west-1.compute.internal", Some("registry.example.com")),
            ("registry.example.com", None),
            ("redis.ci.svc.cluster.local", None),
            ("redis.svc.cluster.local", Some("redis")),
            ("redis.example.com", None),
            ("_http._tcp.web.ci.svc.cluster.local", None),
            ("web.shop.svc.cluster.local", None),
            ("example.com", None),
        ] {
            assert_eq!(meant(name, Some("ci")), expected.map(wire), "{name}");
        }
        // Its namespace is not known.
        for (name, expected) in [
            ("registry.example.com.ci.svc.cluster.local", Some("registry.example.com")),
            ("registry.example.com.svc.cluster.local", Some("registry.example.com")),
            ("a.registry.example.com.svc.cluster.local", Some("a.registry.example")),
            ("redis.svc.cluster.local", Some("redis")),
            ("db-0.db.ci.svc.cluster.local", None),
            ("_pg._tcp.db.ci.svc.cluster.local", None),
            ("www.api.prod.eu.svc.corp.example", None),
        ] {
            assert_eq!(meant(name, None), expected.map(wire), "{name}");
        }
    }
}
