//! The table of the [`firewall`](super::firewall): its chains, its sets and its rules.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::expression::{Expression, PacketSide};
use super::nft::{Chain, Hook, Rule, Set, Table};
use crate::config::address::DNS_PORT;
use crate::config::node::MOST_WITH_FALLBACK;

/// Name of the table, of the family `inet`.
pub(super) const TABLE: &str = "nodens";

/// Bits of packet and connection marks for the address that a query was sent to. Kubernetes uses the two bits above them.
const MARK: u32 = 0x3000;
const MARK_SHIFT: u32 = 12;

/// Addresses that are alive. The key types are those that `nft` knows as `ipv4_addr` and `ipv6_addr`.
pub(super) const ALIVE_IPV4: Set = Set { name: "alive4", key_type: 7, key_length: 4 };
pub(super) const ALIVE_IPV6: Set = Set { name: "alive6", key_type: 8, key_length: 16 };

/// Priority before connection tracking (NF_IP_PRI_RAW).
const RAW: i32 = -300;
/// Priority after the beginning of connection tracking, before other programs set marks (NF_IP_PRI_MANGLE).
const BEFORE_MANGLE: i32 = -160;
/// Priority before the source NAT of others (NF_IP_PRI_NAT_SRC).
const BEFORE_SOURCE_NAT: i32 = 90;
/// Priority after all NAT.
const LAST: i32 = 300;

const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const PREROUTING_MARK: &str = "prerouting_mark";
const OUTPUT_MARK: &str = "output_mark";
const MASQUERADE: &str = "masquerade";
const POSTROUTING: &str = "postrouting";
const INPUT: &str = "input";

/// Returns the set that an address is in while it is alive.
pub(super) fn set_of(ip: IpAddr) -> Set {
    if ip.is_ipv4() { ALIVE_IPV4 } else { ALIVE_IPV6 }
}

/// Servers of the fallback, and the addresses that have none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fallback<'a> {
    /// At most one server for each family.
    pub(super) servers: &'a [IpAddr],
    /// Addresses on which another program answers while nodens does not: their queries stay as they are.
    pub(super) shared: &'a [IpAddr],
}

impl Fallback<'_> {
    /// Returns the server to which queries for this address go while it is not alive.
    pub(super) fn of(&self, address: SocketAddr) -> Option<IpAddr> {
        let is_of = |ip: &IpAddr| ip.is_ipv4() == address.is_ipv4() && address.port() == DNS_PORT;
        let server = self.servers.iter().copied().find(is_of)?;
        Some(if self.shared.contains(&address.ip()) { address.ip() } else { server })
    }
}

/// Returns the table for queries to these addresses and ports.
pub(super) fn table(listen: &[SocketAddr], fallback: Fallback<'_>) -> Table {
    let marks = marks(listen, fallback);
    let mut rules = Vec::new();
    for address in listen {
        for (protocol, name) in [(libc::IPPROTO_UDP, "UDP"), (libc::IPPROTO_TCP, "TCP")] {
            rules.extend(rules_of(*address, (protocol as u8, name), fallback, &marks));
        }
    }
    let is_switched = listen.iter().any(|address| fallback.of(*address).is_some());
    // In an output chain of the type `route`, a packet with another destination is routed again.
    let output = if marks.is_empty() { "filter" } else { "route" };
    let mut chains = vec![
        Chain { name: PREROUTING, kind: "filter", hook: Hook::Prerouting, priority: RAW },
        Chain { name: OUTPUT, kind: output, hook: Hook::Output, priority: RAW },
    ];
    if !marks.is_empty() {
        chains.extend([
            Chain { name: PREROUTING_MARK, kind: "filter", hook: Hook::Prerouting, priority: BEFORE_MANGLE },
            Chain { name: OUTPUT_MARK, kind: "filter", hook: Hook::Output, priority: BEFORE_MANGLE },
            Chain { name: MASQUERADE, kind: "nat", hook: Hook::Postrouting, priority: BEFORE_SOURCE_NAT },
            Chain { name: POSTROUTING, kind: "filter", hook: Hook::Postrouting, priority: LAST },
            Chain { name: INPUT, kind: "filter", hook: Hook::Input, priority: LAST },
        ]);
        rules.extend(marks.iter().flat_map(|(ip, bits)| rules_of_marks(*ip, *bits)));
    }
    let sets = if is_switched { vec![ALIVE_IPV4, ALIVE_IPV6] } else { Vec::new() };
    Table { name: TABLE, chains, sets, rules }
}

/// Returns the mark for each address whose fallback is another one.
fn marks(listen: &[SocketAddr], fallback: Fallback<'_>) -> BTreeMap<IpAddr, u32> {
    let mut marks = BTreeMap::new();
    for address in listen {
        let ip = address.ip();
        let number = marks.keys().filter(|other: &&IpAddr| other.is_ipv4() == ip.is_ipv4()).count();
        let is_other = fallback.of(*address).is_some_and(|fallback| fallback != ip);
        if is_other && number < MOST_WITH_FALLBACK && !marks.contains_key(&ip) {
            marks.insert(ip, (number as u32 + 1) << MARK_SHIFT);
        }
    }
    marks
}

/// Returns the rules for one address, port and protocol.
fn rules_of(
    address: SocketAddr,
    (protocol, name): (u8, &str),
    fallback: Fallback<'_>,
    marks: &BTreeMap<IpAddr, u32>,
) -> Vec<Rule> {
    let ip = address.ip();
    let fallback = fallback.of(address);
    // The matches that exclude most packets come first.
    let of = |side, more: &[Expression]| {
        let mut expressions = vec![Expression::Address(side, ip)];
        let is_switched = fallback.is_some() && more.contains(&Expression::Accept);
        expressions.extend(is_switched.then(|| Expression::InSet(side, ip, set_of(ip).name)));
        expressions.extend([Expression::Protocol(protocol), Expression::Port(side, address.port())]);
        expressions.extend([Expression::Counter]);
        expressions.extend(more);
        expressions
    };
    let mut rules = Vec::new();
    for chain in [PREROUTING, OUTPUT] {
        let queries: &[_] = match fallback {
            Some(_) => &[Expression::Notrack, Expression::Accept],
            None => &[Expression::Notrack],
        };
        rules.push(Rule {
            chain,
            expressions: of(PacketSide::Destination, queries),
            comment: format!("{name} queries to {address}"),
        });
        if let (Some(server), Some(bits)) = (fallback, marks.get(&ip)) {
            let mark = Expression::SetMark { bits: *bits, mask: MARK };
            let write = Expression::SetAddress(PacketSide::Destination, server);
            rules.push(Rule {
                chain,
                expressions: of(PacketSide::Destination, &[mark, write]),
                comment: format!("{name} fallback of {address}: {server}"),
            });
        }
    }
    rules.push(Rule {
        chain: OUTPUT,
        expressions: of(PacketSide::Source, &[Expression::Notrack]),
        comment: format!("{name} responses from {address}"),
    });
    rules
}

/// Returns the rules for queries to an address that were sent to its fallback, and for the responses to them.
fn rules_of_marks(ip: IpAddr, bits: u32) -> Vec<Rule> {
    let connection = Expression::ConnectionMark { bits, mask: MARK };
    let rule = |chain, what: &str, expressions: &[Expression]| {
        let mut all = vec![Expression::FamilyOf(ip)];
        all.extend(expressions);
        Rule { chain, expressions: all, comment: format!("{what} {ip}") }
    };
    let to_connection = [
        Expression::Mark { bits, mask: MARK },
        Expression::SetConnectionMark { bits, mask: MARK },
        Expression::SetMark { bits: 0, mask: MARK },
    ];
    let as_asked = [connection, Expression::Reply, Expression::SetAddress(PacketSide::Source, ip)];
    let own = [connection, Expression::Address(PacketSide::Source, ip), Expression::Masquerade];
    vec![
        rule(PREROUTING_MARK, "connections to", &to_connection),
        rule(OUTPUT_MARK, "connections to", &to_connection),
        rule(MASQUERADE, "connections of the node to", &own),
        rule(POSTROUTING, "answers of the fallback of", &as_asked),
        rule(INPUT, "answers of the fallback of", &as_asked),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen() -> [SocketAddr; 2] {
        ["169.254.20.10:53", "[fd00::a]:53"].map(|address| address.parse().expect("an address"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn both_ways_and_both_transports_of_each_address() {
        let Table { rules, sets, .. } = table(&listen(), Fallback::default());
        assert!(sets.is_empty());
        assert_eq!(rules.len(), 12);
        let of =
            |chain, what: &str| rules.iter().filter(|rule| rule.chain == chain && rule.comment.contains(what)).count();
        assert_eq!(of(PREROUTING, "queries to"), 4);
        assert_eq!((of(OUTPUT, "queries to"), of(OUTPUT, "responses from")), (4, 4));
        assert_eq!(rules[0].comment, "UDP queries to 169.254.20.10:53");
    }

    #[test]
    fn an_address_that_is_not_alive_has_a_fallback() {
        let Table { rules, chains, .. } = table(&listen(), Fallback { servers: &[ip("10.96.0.10")], shared: &[] });
        // IPv6 has no fallback: as before.
        assert_eq!(rules.iter().filter(|rule| rule.comment.contains("[fd00::a]")).count(), 6);
        let of = |comment: &str| rules.iter().filter(|rule| rule.comment == comment).collect::<Vec<_>>();
        let (alive, dead) = (of("UDP queries to 169.254.20.10:53"), of("UDP fallback of 169.254.20.10:53: 10.96.0.10"));
        assert_eq!((alive.len(), dead.len()), (2, 2));
        assert_eq!(alive[0].expressions[1], Expression::InSet(PacketSide::Destination, ip("169.254.20.10"), "alive4"));
        assert_eq!(alive[0].expressions.last(), Some(&Expression::Accept));
        assert_eq!(
            dead[0].expressions.last(),
            Some(&Expression::SetAddress(PacketSide::Destination, ip("10.96.0.10")))
        );
        let output = chains.iter().find(|chain| chain.name == OUTPUT).expect("a chain");
        assert_eq!((output.kind, chains.len()), ("route", 7));
    }

    #[test]
    fn the_cluster_ip_is_its_own_fallback() {
        let listen = ["10.96.0.10:53".parse().expect("an address"), "10.96.0.10:5353".parse().expect("an address")];
        let Table { rules, chains, .. } = table(&listen, Fallback { servers: &[ip("10.96.0.10")], shared: &[] });
        assert_eq!((chains.len(), rules.len()), (2, 12), "nothing is written");
        let switched = rules.iter().filter(|rule| rule.expressions.contains(&Expression::Accept));
        assert_eq!(switched.count(), 4, "port 53 only");
    }

    #[test]
    fn each_address_has_a_mark_of_its_own() {
        let listen: Vec<SocketAddr> =
            (1..=5).map(|number| format!("10.0.0.{number}:53").parse().expect("an address")).collect();
        let marks: Vec<_> =
            marks(&listen, Fallback { servers: &[ip("10.96.0.10")], shared: &[] }).into_values().collect();
        assert_eq!(marks, [0x1000, 0x2000, 0x3000]);
        assert!(marks.iter().all(|mark| mark & !MARK == 0));
    }

    #[test]
    fn a_shared_address_keeps_its_queries() {
        let listen: SocketAddr = "169.254.20.10:53".parse().expect("an address");
        let (servers, shared) = ([ip("10.96.0.10")], [listen.ip()]);
        let fallback = Fallback { servers: &servers, shared: &shared };
        assert_eq!(fallback.of(listen), Some(listen.ip()));
        assert_eq!(Fallback { shared: &[], ..fallback }.of(listen), Some(ip("10.96.0.10")));
        assert_eq!(Fallback { servers: &[], ..fallback }.of(listen), None);
        let rules = table(&[listen], fallback).rules;
        assert!(rules.iter().all(|rule| !rule.comment.contains("fallback")), "{rules:?}");
    }
}
