//! Detection of names that a search list produced, and of their targets.

use super::prefix::{Prefix, Prefixes};
use crate::wire::name::suffixes;

/// Parent domain of all namespaces by default.
const SERVICES: &[u8] = b"\x03svc\x07cluster\x05local\x00";

/// Returns the target of a search-list query: the prefix of this name that is followed by a suffix of the client's
/// search list.
///
/// A search list begins with the client's own namespace. A name of two labels or more in front of that namespace is
/// taken for a target: no service has such a name, only a pod's hostname may. A prefix to which the search list is
/// known to have been applied is a target with any other suffix too. `tried` returns whether that is known of a name,
/// by the hash of its labels; it is called at most once for the name and once for each prefix.
///
/// If the namespace is unknown, any namespace of the default cluster domain may be the client's. The prefix must then
/// have three labels or more, which no service and no pod's hostname has. SRV names may have more labels: names that
/// begin with an underscore are not judged by their number of labels.
pub(crate) fn search_targets(
    name: &Prefixes<'_>,
    namespace: Option<&str>,
    mut tried: impl FnMut(u64) -> bool,
) -> Option<Prefix> {
    let underscore = name.name().get(1) == Some(&b'_');
    let of_a_list = |prefix: Prefix, least: usize| (prefix.labels >= least && !underscore).then_some(prefix);
    if let Some(prefix) = namespace.and_then(|space| before_namespace(name, space)) {
        return of_a_list(prefix, 2);
    }
    if tried(name.whole()) {
        // The name is the last entry of its own list.
        return None;
    }
    if let Some(front) = name.each().rev().find(|front| tried(front.hash)) {
        return Some(front);
    }
    let any = name.each().find(|prefix| suffixes(name.behind(*prefix)).nth(1) == Some(SERVICES));
    any.filter(|_| namespace.is_none()).and_then(|prefix| of_a_list(prefix, 3))
}

/// Returns the prefix before `namespace.svc.` in a name.
pub(crate) fn before_namespace(name: &Prefixes<'_>, namespace: &str) -> Option<Prefix> {
    name.each().find(|prefix| is_of_namespace(name.behind(*prefix), namespace))
}

/// Returns whether a name begins with `namespace.svc.`.
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
        let search_targets = |name: &str, namespace| {
            let name = wire(name);
            let name = Prefixes::of(&name);
            search_targets(&name, namespace, |hash| known.contains(&hash)).map(|prefix| name.front(prefix))
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
            assert_eq!(search_targets(name, Some("ci")), expected.map(wire), "{name}");
        }
        // The namespace is unknown.
        for (name, expected) in [
            ("registry.example.com.ci.svc.cluster.local", Some("registry.example.com")),
            ("registry.example.com.svc.cluster.local", Some("registry.example.com")),
            ("a.registry.example.com.svc.cluster.local", Some("a.registry.example")),
            ("redis.svc.cluster.local", Some("redis")),
            ("db-0.db.ci.svc.cluster.local", None),
            ("_pg._tcp.db.ci.svc.cluster.local", None),
            ("www.api.prod.eu.svc.corp.example", None),
        ] {
            assert_eq!(search_targets(name, None), expected.map(wire), "{name}");
        }
    }
}
