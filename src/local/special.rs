//! Special-use names, which no upstream should see unless a route claims them.
//!
//! Sources: RFC 6761 (localhost, invalid, test, private reverse zones), RFC 6303 (the other locally served zones), RFC 6762
//! (local), RFC 7686 (onion), RFC 8375 (home.arpa), RFC 9462 (resolver.arpa), RFC 9476 (alt), and the canary
//! `use-application-dns.net`, whose absence makes browsers use the system's resolver.
//!
//! Two reserved names are forwarded like any other: `example`, which RFC 6761 section 6.5 leaves to the public tree, and
//! `ipv4only.arpa` (RFC 8880), by which a client finds out whether its upstream does DNS64, so only the upstream can answer it.

use std::net::{Ipv4Addr, Ipv6Addr};

use foldhash::HashMap;

use crate::wire::name::{Name, suffixes};
use crate::wire::write::{LOCAL_SERVER, LocalRecords, soa_rdata};
use crate::wire::{Rcode, RrType, rcode, rtype};

/// TTL of the data of these zones, in seconds (RFC 6303 section 3: three hours).
const TTL: u32 = 10_800;
/// TTL of a denial, in seconds: short, as a route that claims the name may be added.
const DENIAL_TTL: u32 = 60;

/// Zones whose names do not exist, or have no data at the apex.
const EMPTY_ZONES: &[&str] = &[
    "invalid",
    "test",
    "local",
    "onion",
    "alt",
    "home.arpa",
    "use-application-dns.net",
    // RFC 6303 section 4.2, RFC 7793: IPv4 reverse zones
    "0.in-addr.arpa",
    "127.in-addr.arpa",
    "254.169.in-addr.arpa",
    "2.0.192.in-addr.arpa",
    "100.51.198.in-addr.arpa",
    "113.0.203.in-addr.arpa",
    "255.255.255.255.in-addr.arpa",
    "10.in-addr.arpa",
    "168.192.in-addr.arpa",
    // RFC 6303 sections 4.4 to 4.6: IPv6 unique local, link-local and documentation
    "d.f.ip6.arpa",
    "c.f.ip6.arpa",
    "8.e.f.ip6.arpa",
    "9.e.f.ip6.arpa",
    "a.e.f.ip6.arpa",
    "b.e.f.ip6.arpa",
    "8.b.d.0.1.0.0.2.ip6.arpa",
];

/// Reverse name of 127.0.0.1 in wire form: the only name with data in its zone, so its ancestors in the zone exist too.
const LOOPBACK_REVERSE: &[u8] = b"\x011\x010\x010\x03127\x07in-addr\x04arpa\x00";

/// Treatment of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    /// `localhost` and all names below it have the loopback addresses.
    Localhost,
    /// Reverse name of a loopback address.
    Loopback,
    /// The apex has no data but SOA and NS, and names below it do not exist.
    Empty,
    /// All names exist, and none has data (RFC 9462 section 6.4: this shows clients that there is no encrypted resolver here).
    NoData,
}

/// Table of special-use zones.
#[derive(Clone, Debug)]
pub(crate) struct Special(HashMap<Box<[u8]>, Treatment>);

impl Special {
    pub(crate) fn new() -> Self {
        let private_172 = (16..=31).map(|octet| format!("{octet}.172.in-addr.arpa"));
        let shared = (64..=127).map(|octet| format!("{octet}.100.in-addr.arpa"));
        let zero = "0.".repeat(31);
        let empty = EMPTY_ZONES.iter().map(ToString::to_string).chain(private_172).chain(shared);
        let table = empty
            .chain([format!("0.{zero}ip6.arpa")])
            .map(|zone| (zone, Treatment::Empty))
            .chain([("localhost".to_string(), Treatment::Localhost), ("resolver.arpa".to_string(), Treatment::NoData)])
            .chain(
                ["1.0.0.127.in-addr.arpa".to_string(), format!("1.{zero}ip6.arpa")]
                    .map(|zone| (zone, Treatment::Loopback)),
            );
        Self(table.filter_map(|(zone, kind)| Some((zone.parse::<Name>().ok()?.as_wire().into(), kind))).collect())
    }

    /// Returns the answer for `name` (lower-case wire form) as a response code and records, unless a route claims the name by a
    /// suffix of `claimed` labels that is at least as long as the special zone.
    pub(crate) fn find(&self, name: &[u8], qtype: RrType, claimed: usize) -> Option<(Rcode, LocalRecords)> {
        let labels = suffixes(name).count().saturating_sub(1);
        let (depth, zone, kind) = suffixes(name)
            .enumerate()
            .find_map(|(skipped, suffix)| Some((labels - skipped, suffix, *self.0.get(suffix)?)))?;
        if claimed >= depth {
            return None;
        }
        let apex = labels == depth;
        // DS is data of the parent (RFC 4035 section 3.1.4.1), which proves there that the zone is unsigned (RFC 8375).
        if apex && kind == Treatment::Empty && qtype == rtype::DS && zone.ends_with(b"\x04arpa\x00") {
            return None;
        }
        let mut records = LocalRecords::default();
        match (kind, qtype) {
            (Treatment::Localhost, rtype::A) => records.answer(rtype::A, TTL, &Ipv4Addr::LOCALHOST.octets()),
            (Treatment::Localhost, rtype::AAAA) => records.answer(rtype::AAAA, TTL, &Ipv6Addr::LOCALHOST.octets()),
            (Treatment::Loopback, rtype::PTR) if apex => records.answer(rtype::PTR, TTL, b"\x09localhost\x00"),
            // RFC 6303 section 3.
            (_, rtype::SOA) if apex => records.answer(rtype::SOA, TTL, &soa_rdata(TTL)),
            (_, rtype::NS) if apex => records.answer(rtype::NS, TTL, LOCAL_SERVER),
            _ => records.soa(zone, DENIAL_TTL),
        }
        let exists = apex
            || matches!(kind, Treatment::Localhost | Treatment::NoData)
            || suffixes(LOOPBACK_REVERSE).any(|ancestor| ancestor == name);
        Some((if exists { rcode::NOERROR } else { rcode::NXDOMAIN }, records))
    }
}

impl Default for Special {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, qtype: RrType, claimed: usize) -> Option<(Rcode, u16)> {
        let name: Name = name.parse().expect(name);
        Special::new().find(name.as_wire(), qtype, claimed).map(|(rcode, records)| (rcode, records.answers))
    }

    #[test]
    fn each_kind() {
        for (name, qtype, expected) in [
            ("localhost", rtype::A, Some((rcode::NOERROR, 1))),
            ("a.localhost", rtype::AAAA, Some((rcode::NOERROR, 1))),
            ("localhost", rtype::MX, Some((rcode::NOERROR, 0))),
            ("1.0.0.127.in-addr.arpa", rtype::PTR, Some((rcode::NOERROR, 1))),
            ("2.0.0.127.in-addr.arpa", rtype::PTR, Some((rcode::NXDOMAIN, 0))),
            ("1.0.0.127.in-addr.arpa", rtype::TXT, Some((rcode::NOERROR, 0))),
            ("0.0.127.in-addr.arpa", rtype::PTR, Some((rcode::NOERROR, 0))),
            ("x.1.0.0.127.in-addr.arpa", rtype::PTR, Some((rcode::NXDOMAIN, 0))),
            ("x.onion", rtype::A, Some((rcode::NXDOMAIN, 0))),
            ("printer.local", rtype::A, Some((rcode::NXDOMAIN, 0))),
            ("wpad.home.arpa", rtype::A, Some((rcode::NXDOMAIN, 0))),
            ("home.arpa", rtype::A, Some((rcode::NOERROR, 0))),
            ("home.arpa", rtype::SOA, Some((rcode::NOERROR, 1))),
            ("home.arpa", rtype::NS, Some((rcode::NOERROR, 1))),
            ("home.arpa", rtype::DS, None),
            ("x.home.arpa", rtype::DS, Some((rcode::NXDOMAIN, 0))),
            ("onion", rtype::DS, Some((rcode::NOERROR, 0))),
            ("resolver.arpa", rtype::NS, Some((rcode::NOERROR, 1))),
            ("_dns.resolver.arpa", rtype::SVCB, Some((rcode::NOERROR, 0))),
            ("x.alt", rtype::A, Some((rcode::NXDOMAIN, 0))),
            ("ipv4only.arpa", rtype::AAAA, None),
            ("x.example", rtype::A, None),
            ("b.e.f.ip6.arpa", rtype::SOA, Some((rcode::NOERROR, 1))),
            ("use-application-dns.net", rtype::A, Some((rcode::NOERROR, 0))),
            ("5.31.172.in-addr.arpa", rtype::PTR, Some((rcode::NXDOMAIN, 0))),
            ("5.32.172.in-addr.arpa", rtype::PTR, None),
            ("example.com", rtype::A, None),
            ("latest", rtype::A, None),
        ] {
            assert_eq!(ask(name, qtype, 0), expected, "{name}");
        }
    }

    #[test]
    fn loopback_of_ipv6() {
        let name = |first: &str| format!("{first}.{}ip6.arpa", "0.".repeat(31));
        assert_eq!(ask(&name("1"), rtype::PTR, 0), Some((rcode::NOERROR, 1)));
        assert_eq!(ask(&name("0"), rtype::PTR, 0), Some((rcode::NOERROR, 0)));
        assert_eq!(ask(&name("2"), rtype::PTR, 0), None);
    }

    #[test]
    fn negative_answers_can_be_cached() {
        let name: Name = "x.test".parse().expect("a name");
        let (_, records) = Special::new().find(name.as_wire(), rtype::A, 0).expect("special");
        assert_eq!((records.answers, records.authorities), (0, 1));
        assert!(records.wire.starts_with(b"\x04test\x00\0\x06\0\x01"));
        assert!(records.wire.ends_with(&DENIAL_TTL.to_be_bytes()));
    }

    #[test]
    fn a_route_claims_a_special_name_or_a_part_of_it() {
        assert_eq!(ask("x.test", rtype::A, 1), None);
        assert_eq!(ask("4.3.2.10.in-addr.arpa", rtype::PTR, 3), None);
        assert!(ask("4.3.2.10.in-addr.arpa", rtype::PTR, 2).is_some());
    }
}
