//! Warnings of `nodens check`: settings that are valid but rarely intended, each with its remedy. A file with warnings is
//! accepted.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::address::ServerAddress;
use super::diagnostic::Diagnostics;
use super::file::ConfigFile;
use super::rewrites::RewriteTable;
use super::routes::RouteTable;
use super::upstreams::UpstreamTable;
use crate::wire::name::Name;

/// Adds the warnings of a whole file.
pub(super) fn advise(file: &ConfigFile, diagnostics: &Diagnostics<'_>) {
    clients_of_listeners(file, diagnostics);
    ipv6_alone(file, diagnostics);
    open_to_all(file, diagnostics);
    private_zones_without_route(file, diagnostics);
    rewritten_routes(file, diagnostics);
    let of_views = file.views.iter().flat_map(|view| &view.routes);
    file.routes.iter().flatten().chain(of_views).for_each(|route| falls_through(file, route, diagnostics));
}

/// Warns of listeners whose clients `allow` does not include.
fn clients_of_listeners(file: &ConfigFile, diagnostics: &Diagnostics<'_>) {
    let allow = || file.server.allow.iter().map(|network| network.get_ref().0);
    for listen in file.server.listen.iter().filter(|listen| !listen.span().is_empty()) {
        let address = listen.get_ref().0;
        let of_family = |network: &IpNet| network.addr().is_ipv4() == address.is_ipv4();
        let covered = allow().filter(of_family).any(|network| address.ip().is_loopback() || !is_loopback(&network));
        if !covered {
            let networks = match (address.ip().is_loopback(), address.is_ipv4()) {
                (true, true) => "\"127.0.0.0/8\"",
                (true, false) => "\"::1/128\"",
                (false, true) => "those of your pods and nodes, such as \"10.244.0.0/16\"",
                (false, false) => "those of your pods and nodes, such as \"fd00:10:244::/56\"",
            };
            let what = format!("listen: all clients of {address} get REFUSED: add {networks} to `allow`");
            diagnostics.warn(listen.span(), what);
        }
    }
}

/// Warns of IPv6 wildcard listeners on ports without an IPv4 listener: they accept no queries over IPv4.
fn ipv6_alone(file: &ConfigFile, diagnostics: &Diagnostics<'_>) {
    let listen = &file.server.listen;
    for wildcard in listen.iter().filter(|listen| listen.get_ref().0.ip() == IpAddr::from([0u16; 8])) {
        let SocketAddr::V6(address) = wildcard.get_ref().0 else { continue };
        if !listen.iter().any(|other| other.get_ref().0.is_ipv4() && other.get_ref().0.port() == address.port()) {
            let what = format!(
                "listen: {address} takes queries over IPv6 alone; add \"0.0.0.0:{}\" for those over IPv4",
                address.port()
            );
            diagnostics.warn(wildcard.span(), what);
        }
    }
}

/// Warns of an open resolver. If `server.allow` includes all addresses, warns of admin pages open to all addresses too.
fn open_to_all(file: &ConfigFile, diagnostics: &Diagnostics<'_>) {
    // A network with a prefix of at most 2 bits (half or a quarter of all addresses) counts as all addresses.
    let is_all = |network: &IpNet| network.prefix_len() <= 2;
    let Some(all) = file.server.allow.iter().find(|network| is_all(&network.get_ref().0)) else { return };
    let is_public = |listen: &&SocketAddr| listen.ip().is_unspecified() || !is_private(listen.ip());
    let listeners: Vec<SocketAddr> = file.server.listen.iter().map(|listen| listen.get_ref().0).collect();
    if let Some(public) = listeners.iter().find(is_public) {
        let what = format!(
            "allow: {} makes {public} an open resolver, if it can be reached from outside: name the networks of your clients",
            all.get_ref().0
        );
        diagnostics.warn(all.span(), what);
    }
    let Some(admin) = file.admin.as_ref().filter(|admin| admin.allow.iter().any(is_all)) else { return };
    for listen in admin.listen.iter().filter(|listen| !listen.get_ref().0.ip().is_loopback()) {
        let address = listen.get_ref().0;
        let what = format!(
            "listen: anyone who reaches {address} can read which client queried which names: set `allow` in [admin], or have \
             `metrics_listen` there and `listen` on 127.0.0.1"
        );
        diagnostics.warn(listen.span(), what);
    }
}

/// Warns of upstreams with private servers to which only "." is routed: nodens answers special-use names itself unless a
/// route claims them.
fn private_zones_without_route(file: &ConfigFile, diagnostics: &Diagnostics<'_>) {
    let routes = file.routes.as_deref().unwrap_or_default();
    let claims_local = |route: &RouteTable| {
        let names = route.zones.iter().flatten().flat_map(|zone| &zone.get_ref().names);
        names.into_iter().any(|name| name.as_wire().ends_with(b"\x05local\x00"))
    };
    if routes.iter().any(claims_local) {
        return;
    }
    for upstream in file.upstreams.iter().flatten().filter(|upstream| serves_private_zones(upstream)) {
        let name = upstream.name.get_ref();
        let leads_there = |route: &&RouteTable| route.to.as_ref().is_some_and(|to| to.get_ref() == name);
        let leading: Vec<_> = routes.iter().filter(leads_there).collect();
        let zones = || leading.iter().filter_map(|route| route.zones.as_deref()).flatten();
        if let Some(root) = zones().next()
            && zones().all(|zone| zone.get_ref().names.iter().all(Name::is_root))
        {
            let what = format!(
                "zones: only \".\" leads to {name}, whose servers are private: names below `local`, such as those of \
                 cluster.local, and reverse names of private networks do not exist here (RFC 6762, RFC 6303). Add the zones \
                 that these servers have, such as \"cluster.local\" and \"10.0.0.0/8\""
            );
            diagnostics.warn(root.span(), what);
        }
    }
}

/// Warns of zones that both a route and a rewrite claim.
fn rewritten_routes(file: &ConfigFile, diagnostics: &Diagnostics<'_>) {
    let zones = file.routes.iter().flatten().filter_map(|route| route.zones.as_deref()).flatten();
    for zone in zones {
        let is_same = |rewrite: &&RewriteTable| zone.get_ref().names.contains(&rewrite.zone.get_ref().0);
        if let Some(rewrite) = file.rewrites.iter().find(is_same) {
            let line = diagnostics.line(rewrite.zone.span());
            let what = format!(
                "zones: the [[rewrite]] on line {line} has all names of {} asked for under another one: leave out either",
                zone.get_ref().text
            );
            diagnostics.warn(zone.span(), what);
        }
    }
}

/// Adds a note about a `fallthrough`, since other servers then see names of the route's zones. Warns if both upstreams have
/// the same servers.
fn falls_through(file: &ConfigFile, route: &RouteTable, diagnostics: &Diagnostics<'_>) {
    let (Some(next), Some(to), Some(zones)) = (&route.fallthrough, &route.to, &route.zones) else { return };
    let servers = |name: &str| {
        let group = file.upstreams.iter().flatten().find(|group| group.name.get_ref() == name)?;
        Some(group.servers.iter().flatten().map(|server| &server.get_ref().0).collect::<Vec<_>>())
    };
    if servers(to.get_ref()) == servers(next.get_ref()) {
        let what = format!(
            "fallthrough: {} has the same servers as {}, which have said no already",
            next.get_ref(),
            to.get_ref()
        );
        diagnostics.warn(next.span(), what);
    }
    let zones: Vec<_> = zones.iter().map(|zone| zone.get_ref().text.as_str()).collect();
    let what = format!(
        "fallthrough: what {} denies of {} is asked of {}, which sees these names: as this file says",
        to.get_ref(),
        zones.join(", "),
        next.get_ref()
    );
    diagnostics.note(next.span(), what);
}

fn serves_private_zones(upstream: &UpstreamTable) -> bool {
    let is_private = |server: &ServerAddress| match server {
        ServerAddress::Plain(address) | ServerAddress::Tls { address, .. } => {
            !address.ip().is_loopback() && is_private(address.ip())
        }
        ServerAddress::Named { host, .. } => host.as_wire().ends_with(b"\x05local\x00"),
    };
    upstream.servers.iter().flatten().any(|server| is_private(&server.get_ref().0))
}

fn is_loopback(network: &IpNet) -> bool {
    network.addr().is_loopback() && network.prefix_len() >= if network.addr().is_ipv4() { 8 } else { 128 }
}

/// Reports whether an address is reachable only from this machine or from private networks.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let is_shared = matches!(v4.octets(), [100, 64..=127, ..]);
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || is_shared
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;

    const REST: &str = "[upstreams.up]\nservers = [\"192.0.2.1\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";

    /// Returns the warnings of a valid file.
    fn warnings(text: &str) -> Vec<String> {
        let config = parse(text, &[]).unwrap_or_else(|diagnostics| panic!("{diagnostics:?} in {text}"));
        config.warnings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn listeners_whose_clients_are_refused() {
        for (listen, allow, expected) in [
            ("127.0.0.1", "127.0.0.0/8", None),
            ("127.0.0.53", "127.0.0.53", None),
            ("127.0.0.1", "10.0.0.0/8", None),
            ("127.0.0.1", "::1", Some("add \"127.0.0.0/8\"")),
            ("169.254.20.10", "127.0.0.0/8", Some("add those of your pods and nodes, such as \"10.244.0.0/16\"")),
            ("169.254.20.10", "10.244.0.0/16", None),
            ("fd00::a", "10.244.0.0/16", Some("\"fd00:10:244::/56\"")),
            ("fd00::a", "fd00::/8", None),
        ] {
            let found = warnings(&format!("[server]\nlisten = [\"{listen}\"]\nallow = [\"{allow}\"]\n{REST}"));
            let matches = match expected {
                None => found.is_empty(),
                Some(part) => {
                    found.len() == 1 && found[0].starts_with("2:11: warning: listen: ") && found[0].contains(part)
                }
            };
            assert!(matches, "{listen} for {allow}: {found:?}");
        }
    }

    #[test]
    fn a_wildcard_of_one_family() {
        let all = "allow = [\"10.0.0.0/8\", \"fd00::/8\"]";
        let found = |listen: &str| warnings(&format!("[server]\n{all}\nlisten = [{listen}]\n{REST}"));
        assert_eq!(found("\"[::]:53\", \"0.0.0.0:53\""), Vec::<String>::new());
        assert_eq!(found("\"[::]:53\", \"10.0.0.1:53\""), Vec::<String>::new());
        let alone = found("\"[::]:53\"");
        assert!(alone.len() == 1 && alone[0].contains("add \"0.0.0.0:53\""), "{alone:?}");
    }

    #[test]
    fn what_is_open_to_all() {
        let open = "[server]\nallow = [\"0.0.0.0/0\"]\nlisten = ";
        for (text, parts) in [
            ("[\"10.0.0.1\"]\n", &[][..]),
            ("[\"203.0.113.1\"]\n", &["an open resolver"]),
            ("[\"0.0.0.0\"]\n", &["an open resolver"]),
            ("[\"10.0.0.1\"]\n[admin]\nlisten = \"127.0.0.1\"\n", &[]),
            ("[\"10.0.0.1\"]\n[admin]\nlisten = \"10.0.0.1\"\nallow = [\"10.0.0.0/8\"]\n", &[]),
            ("[\"10.0.0.1\"]\n[admin]\nlisten = \"10.0.0.1\"\n", &["which client queried which names"]),
        ] {
            let found = warnings(&format!("{open}{text}{REST}"));
            let matches =
                found.len() == parts.len() && found.iter().zip(parts).all(|(found, part)| found.contains(part));
            assert!(matches, "{text}: {found:?}");
        }
    }

    #[test]
    fn private_servers_that_only_the_root_leads_to() {
        let file = |server: &str, more: &str| {
            format!("[upstreams.up]\nservers = [\"{server}\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n{more}")
        };
        let found = warnings(&file("10.96.0.10", ""));
        assert!(found.len() == 1 && found[0].starts_with("4:10: warning: zones: only \".\" leads to up"), "{found:?}");
        let cluster = "[[route]]\nzones = [\"cluster.local\"]\nto = \"up\"\n";
        for good in [file("10.96.0.10", cluster), file("192.0.2.1", ""), file("127.0.0.1", "")] {
            assert_eq!(warnings(&good), Vec::<String>::new(), "{good}");
        }
    }

    #[test]
    fn a_route_that_a_rewrite_takes_away() {
        let text = format!(
            "{REST}[[route]]\nzones = [\"a.example\"]\nto = \"up\"\n[[rewrite]]\nzone = \"a.example\"\nto = \"b.example\"\n"
        );
        let found = warnings(&text);
        assert!(
            found.len() == 1 && found[0].starts_with("7:10: warning: zones: the [[rewrite]] on line 10"),
            "{found:?}"
        );
    }

    #[test]
    fn a_fallthrough_is_shown() {
        let file = "[upstreams.private]\nservers = [\"192.0.2.2\"]\n[[route]]\nzones = [\"a.example\", \"b.example\"]\n\
                    to = \"private\"\nfallthrough = \"up\"\n";
        let found = warnings(&format!("{file}{REST}"));
        let right = "6:15: note: fallthrough: what private denies of a.example, b.example is asked of up, which sees these names: \
                     as this file says";
        assert_eq!(found, [right]);
    }
}
