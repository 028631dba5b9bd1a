//! Why a query failed: a class for machines and a sentence for whoever wrote the job.

use std::sync::Arc;

use hickory_proto::rr::RecordType;

use super::prefix::{Prefix, Prefixes};
use crate::metrics::Source;
use crate::wire::name::{Bare, suffixes};
use crate::wire::{ede, rcode, u16_at};

/// Where all namespaces are by default.
const SERVICES: &[u8] = b"\x03svc\x07cluster\x05local\x00";

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The name does not exist.
    NoSuchName,
    /// No server answered in time.
    UpstreamTimeout,
    /// Servers were reached but gave no answer, or could not be reached.
    UpstreamFailed,
    /// A limit on queries was reached.
    RateLimited,
    /// The view that this client is of denies the name.
    Denied,
    /// This client may not ask.
    Refused,
    /// The query could not be read, or asks for what nodens does not do.
    BadQuery,
    /// The answer did not fit into a UDP reply, and the client did not ask for the rest of it over TCP.
    TooBig,
}

impl Cause {
    /// As APIs show it.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoSuchName => "no_such_name",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamFailed => "upstream_failed",
            Self::RateLimited => "rate_limited",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::BadQuery => "bad_query",
            Self::TooBig => "too_big",
        }
    }

    /// The cause of an answer with this code, from `source`, whose extended errors said `code` and `text`.
    pub fn of(rcode: u16, source: Source, code: Option<u16>, text: &str) -> Self {
        match (rcode, source) {
            (_, Source::Refused) => Self::Refused,
            _ if code == Some(ede::BLOCKED) => Self::Denied,
            (rcode::NXDOMAIN, _) => Self::NoSuchName,
            (rcode::FORMERR | rcode::NOTIMP | rcode::BADVERS | rcode::REFUSED, Source::Local) => Self::BadQuery,
            (_, Source::Local) => Self::RateLimited,
            _ if text.contains("max_qps") => Self::RateLimited,
            _ if code == Some(ede::NO_REACHABLE_AUTHORITY) && text.contains("no reply") => Self::UpstreamTimeout,
            _ => Self::UpstreamFailed,
        }
    }
}

/// What is said of a name that a route's `prune_search` denies.
pub const PRUNED: &str = "nodens denies it itself, as nothing of this name can be in the cluster (prune_search)";

/// Bytes kept of what extended errors say.
const MOST_TEXT: usize = 1_024;

/// The first code among extended errors, and what all of them say, up to `MOST_TEXT` bytes.
pub fn read_errors(mut options: &[u8]) -> (Option<u16>, String) {
    let (mut first, mut text) = (None, String::new());
    while let (Some(length), Some(code)) = (u16_at(options, 2), u16_at(options, 4)) {
        let end = 4 + usize::from(length);
        let Some(words) = options.get(6..end) else { break };
        first = first.or(Some(code));
        if !text.is_empty() && !words.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&String::from_utf8_lossy(words.get(..MOST_TEXT).unwrap_or(words)));
        options = options.get(end..).unwrap_or_default();
    }
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    (first, text)
}

/// The sentence for a failure of `name` that took `route`.
pub fn sentence(cause: Cause, name: &[u8], route: Option<&Arc<str>>, namespace: Option<&str>, text: &str) -> String {
    let shown = Bare(name);
    let because = if text.is_empty() { String::new() } else { format!(": {text}") };
    match (cause, route) {
        (Cause::NoSuchName, Some(_)) if text == PRUNED => format!("no such name: {shown}{because}"),
        (Cause::NoSuchName, Some(route)) => match service(name, namespace) {
            Some(service) => format!("no service {service} in namespace {}", namespace.unwrap_or_default()),
            None => format!("no such name: {shown} does not exist for the servers of route {}", quoted(route)),
        },
        (Cause::NoSuchName, None) => {
            format!("no such name: {shown} is special-use, nodens denies it itself unless a route claims it")
        }
        (Cause::UpstreamTimeout, Some(route)) => {
            format!("no server of route {} answered in time{because}", quoted(route))
        }
        (Cause::UpstreamFailed, Some(route)) => format!("the servers of route {} failed{because}", quoted(route)),
        (Cause::UpstreamTimeout, None) => format!("no server answered in time{because}"),
        (Cause::UpstreamFailed, None) => format!("no answer could be got{because}"),
        (Cause::RateLimited, _) if text.is_empty() => "not asked: too many queries wait for upstreams".to_string(),
        (Cause::RateLimited, _) => format!("not asked{because}"),
        (Cause::Denied, _) => {
            format!("{shown} is denied to this client: the view that it is of does not show this zone")
        }
        (Cause::Refused, _) => "this client may not ask here: its address is not in server.allow".to_string(),
        (Cause::BadQuery, _) => "the query is malformed or asks for what nodens does not do".to_string(),
        (Cause::TooBig, _) => format!(
            "the answer is larger than the {text} that this client takes over UDP, and it did not ask again over TCP, \
             as musl before 1.2.4 (Alpine 3.17 and older) never does"
        ),
    }
}

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
fn is_of_namespace(name: &[u8], namespace: &str) -> bool {
    let length = namespace.len();
    usize::from(name.first().copied().unwrap_or(0)) == length
        && name.get(1..=length) == Some(namespace.as_bytes())
        && name.get(1 + length..).is_some_and(|rest| rest.starts_with(b"\x03svc"))
}

/// The service's name, if `name` is one of this namespace.
fn service(name: &[u8], namespace: Option<&str>) -> Option<String> {
    let rest = suffixes(name).nth(1)?;
    is_of_namespace(rest, namespace?).then(|| String::from_utf8_lossy(&name[1..name.len() - rest.len()]).into_owned())
}

/// The mnemonic of a type, or `TYPE65280` (RFC 3597 section 5).
pub fn type_name(qtype: u16) -> String {
    match RecordType::from(qtype) {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

fn quoted(route: &str) -> String {
    format!("\"{route}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::make::extended_error;
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

    #[test]
    fn causes_and_sentences() {
        let route: Arc<str> = "corp.example".into();
        for (rcode, source, error, cause, expected) in [
            (
                rcode::NXDOMAIN,
                Source::Hit,
                None,
                "no_such_name",
                "no such name: a.b does not exist for the servers of route \"corp.example\"",
            ),
            (
                rcode::SERVFAIL,
                Source::Upstream,
                Some((22, "upstream corp: 10.0.0.2:53 no reply")),
                "upstream_timeout",
                "no server of route \"corp.example\" answered in time: upstream corp: 10.0.0.2:53 no reply",
            ),
            (
                rcode::SERVFAIL,
                Source::Upstream,
                Some((23, "upstream corp: 10.0.0.2:53 SERVFAIL")),
                "upstream_failed",
                "the servers of route \"corp.example\" failed: upstream corp: 10.0.0.2:53 SERVFAIL",
            ),
            (
                rcode::SERVFAIL,
                Source::Upstream,
                Some((0, "upstream corp: not asked: max_qps = 5 is nearly used up")),
                "rate_limited",
                "not asked: upstream corp: not asked: max_qps = 5 is nearly used up",
            ),
            (rcode::SERVFAIL, Source::Local, None, "rate_limited", "not asked: too many queries wait for upstreams"),
            (
                rcode::REFUSED,
                Source::Refused,
                None,
                "refused",
                "this client may not ask here: its address is not in server.allow",
            ),
        ] {
            let options = error.map(|(code, text)| extended_error(code, text)).unwrap_or_default();
            let (code, text) = read_errors(&options);
            let found = Cause::of(rcode, source, code, &text);
            let said = sentence(found, &wire("a.b"), Some(&route), None, &text);
            assert_eq!((found.label(), said.as_str()), (cause, expected));
        }
        let said = sentence(Cause::TooBig, &wire("a.b"), Some(&route), None, "512 bytes");
        assert!(said.contains("larger than the 512 bytes") && said.contains("musl before 1.2.4"), "{said}");
        let said = sentence(Cause::NoSuchName, &wire("db.ci.svc.cluster.local"), Some(&route), Some("ci"), "");
        assert_eq!(said, "no service db in namespace ci");
        let said = sentence(Cause::NoSuchName, &wire("a.cluster.local"), Some(&route), Some("ci"), PRUNED);
        assert!(said.starts_with("no such name: a.cluster.local: nodens denies it itself"), "{said}");
    }

    #[test]
    fn several_extended_errors_are_read_and_broken_ones_do_no_harm() {
        let options = [extended_error(22, "one"), extended_error(0, "two")].concat();
        assert_eq!(read_errors(&options), (Some(22), "one; two".to_string()));
        assert_eq!(read_errors(&options[..options.len() - 1]), (Some(22), "one".to_string()));
        assert_eq!(read_errors(&[0, 15, 0, 0, 0, 1]), (None, String::new()));
    }
}
