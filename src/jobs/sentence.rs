//! Explanations of failed queries, as sentences for the author of the job.

use std::sync::Arc;

use super::search_list::is_of_namespace;
use crate::cause::Cause;
use crate::wire::name::{DisplayNoDot, suffixes};

/// Returns the sentence for a failure of `name` on `route`; `words` is the explanatory text of the failure.
pub(crate) fn sentence(
    cause: Cause,
    name: &[u8],
    route: Option<&Arc<str>>,
    namespace: Option<&str>,
    words: &str,
) -> String {
    let shown = DisplayNoDot(name);
    let because = if words.is_empty() { String::new() } else { format!(": {words}") };
    let of_route = |start: &str, end: &str| match route {
        Some(route) => format!("{start} of route {} {end}{because}", quoted(route)),
        None => format!("{start} {end}{because}"),
    };
    match (cause, route) {
        (Cause::Pruned, _) => format!(
            "no such name: {shown}: nodens denies it itself, as nothing of this name can be in the cluster (prune_search)"
        ),
        (Cause::SpecialUse, _) => {
            format!("no such name: {shown} is a special-use name, which nodens denies unless a route claims it")
        }
        (Cause::NoSuchName, Some(route)) => match service(name, namespace) {
            Some(service) => format!("no service {service} in namespace {}", namespace.unwrap_or_default()),
            None => format!("no such name: {shown} does not exist for the servers of route {}", quoted(route)),
        },
        (Cause::NoSuchName, None) => format!("no such name: {shown} does not exist"),
        (Cause::Blocked, _) => of_route(&format!("{shown} is blocked by the servers"), "by a policy of theirs"),
        (Cause::Filtered, _) => {
            let route = route.map_or(String::new(), |route| format!(" of route {}", quoted(route)));
            format!(
                "{shown} has only private addresses, which nodens removes from answers of the public \
                 servers{route} (deny_private_addresses): give the name a route of its own"
            )
        }
        (Cause::UpstreamTimeout, _) => of_route("no server", "answered in time"),
        (Cause::UpstreamUnreachable, _) => of_route("no server", "could be reached"),
        (Cause::UpstreamFailed, Some(_)) => of_route("the servers", "failed"),
        (Cause::UpstreamFailed, None) => format!("no answer{because}"),
        (Cause::CnameLoop, _) => format!("the CNAME records of {shown} form a loop or a chain of too many names"),
        (Cause::LocalFault, _) => format!("not sent, because of a fault of this node{because}"),
        (Cause::RateLimited, _) if words.is_empty() => "not sent: too many queries wait for upstreams".to_string(),
        (Cause::RateLimited, _) => format!("not sent{because}"),
        (Cause::Denied, _) => {
            format!("{shown} is denied to this client: its view denies this zone")
        }
        (Cause::Refused, _) => "this client may not ask here: its address is not in server.allow".to_string(),
        (Cause::BadQuery, _) => "the query is malformed or asks for what nodens does not do".to_string(),
        (Cause::TooBig, _) => format!(
            "the answer is larger than the {words} that this client takes over UDP, and it did not ask again over TCP, \
             as musl before 1.2.4 (Alpine 3.17 and older) never does"
        ),
    }
}

/// Returns the name of the service, if `name` is one of this namespace.
fn service(name: &[u8], namespace: Option<&str>) -> Option<String> {
    let rest = suffixes(name).nth(1)?;
    is_of_namespace(rest, namespace?).then(|| String::from_utf8_lossy(&name[1..name.len() - rest.len()]).into_owned())
}

fn quoted(route: &str) -> String {
    format!("\"{route}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;

    fn wire(name: &str) -> Box<[u8]> {
        name.parse::<Name>().expect(name).as_wire().into()
    }

    #[test]
    fn sentences() {
        let route: Arc<str> = "corp.example".into();
        for (cause, words, expected) in [
            (Cause::NoSuchName, "", "no such name: a.b does not exist for the servers of route \"corp.example\""),
            (
                Cause::Blocked,
                "malware",
                "a.b is blocked by the servers of route \"corp.example\" by a policy of theirs: malware",
            ),
            (
                Cause::UpstreamTimeout,
                "upstream corp: 10.0.0.2:53 no response",
                "no server of route \"corp.example\" answered in time: upstream corp: 10.0.0.2:53 no response",
            ),
            (
                Cause::UpstreamUnreachable,
                "upstream corp: 10.0.0.2:53 port closed",
                "no server of route \"corp.example\" could be reached: upstream corp: 10.0.0.2:53 port closed",
            ),
            (
                Cause::UpstreamFailed,
                "upstream corp: 10.0.0.2:53 SERVFAIL",
                "the servers of route \"corp.example\" failed: upstream corp: 10.0.0.2:53 SERVFAIL",
            ),
            (
                Cause::RateLimited,
                "upstream corp: not asked: max_qps = 5 is nearly used up",
                "not sent: upstream corp: not asked: max_qps = 5 is nearly used up",
            ),
            (Cause::RateLimited, "", "not sent: too many queries wait for upstreams"),
            (Cause::Refused, "", "this client may not ask here: its address is not in server.allow"),
        ] {
            assert_eq!(sentence(cause, &wire("a.b"), Some(&route), None, words), expected);
        }
        let said = sentence(Cause::TooBig, &wire("a.b"), Some(&route), None, "512 bytes");
        assert!(said.contains("larger than the 512 bytes") && said.contains("musl before 1.2.4"), "{said}");
        let said = sentence(Cause::NoSuchName, &wire("db.ci.svc.cluster.local"), Some(&route), Some("ci"), "");
        assert_eq!(said, "no service db in namespace ci");
        let said = sentence(Cause::Pruned, &wire("a.cluster.local"), Some(&route), Some("ci"), "");
        assert!(said.starts_with("no such name: a.cluster.local: nodens denies it itself"), "{said}");
        let said = sentence(Cause::UpstreamTimeout, &wire("a"), None, None, "");
        assert_eq!(said, "no server answered in time");
    }
}
