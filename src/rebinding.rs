//! Protection against DNS rebinding: removal of records by which a public name would lead into the private network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::compose::{Composer, TooLong};
use crate::wire::response::{Record, ResponseMessage, Section};
use crate::wire::write::soa_rdata;
use crate::wire::{HEADER, flag, rtype, u16_at};

/// SvcParam keys that hold addresses (RFC 9460 section 14.3.2).
const IPV4_HINT: u16 = 4;
const IPV6_HINT: u16 = 6;

/// TTL of the denial when an address was removed, in seconds: as for a negative answer, within the route's limits.
const FILTERED_TTL: u32 = 60;

/// Response without some of its records.
#[derive(Debug)]
pub(crate) struct StrippedResponse {
    pub wire: Vec<u8>,
    /// True if no record of the queried type is left.
    pub is_empty: bool,
}

/// Returns the response without the records that lead to private addresses; `None` if it has no such record. If no record of
/// the queried type is left, an SOA record is added, so that stub resolvers and caches keep the response like other denials
/// (RFC 2308).
///
/// # Errors
/// [`TooLong`]: names that were compressed are not compressed in the result.
pub(crate) fn strip(response: &ResponseMessage<'_>) -> Result<Option<StrippedResponse>, TooLong> {
    let leads_inside = |record: &&Record| is_private(record, response.message);
    let question = response.message.get(HEADER..response.question_end);
    let (true, Some(question)) = (response.records.iter().any(|record| leads_inside(&record)), question) else {
        return Ok(None);
    };
    let mut composer = Composer::new(response.flags, question);
    let is_left = |record: &&Record| !leads_inside(record);
    let is_empty = !response.section(Section::Answer).filter(is_left).any(|record| record.rtype == response.qtype());
    for section in [Section::Answer, Section::Authority, Section::Additional] {
        for record in response.section(section).filter(is_left) {
            composer.copy(response.message, record, section);
        }
        if section == Section::Authority && is_empty && response.soa().is_none() {
            let (_, end) = response.chain();
            composer.push(section, &end, rtype::SOA, FILTERED_TTL, &soa_rdata(FILTERED_TTL));
        }
    }
    composer.finish().map(|wire| Some(StrippedResponse { wire, is_empty }))
}

/// Returns the response without answers, with an SOA record (no data); for a response whose CNAMEs lead into the private
/// network.
///
/// # Errors
/// None for a question that can be parsed.
pub(crate) fn without_answers(response: &ResponseMessage<'_>) -> Result<Vec<u8>, TooLong> {
    let question = response.message.get(HEADER..response.question_end).unwrap_or_default();
    let mut composer = Composer::new(flag::QR | flag::RA, question);
    composer.push(Section::Authority, response.qname(), rtype::SOA, FILTERED_TTL, &soa_rdata(FILTERED_TTL));
    composer.finish()
}

fn is_private(record: &Record, message: &[u8]) -> bool {
    let rdata = record.rdata(message);
    match record.rtype {
        rtype::A => v4(rdata).is_some_and(is_inside),
        rtype::AAAA => v6(rdata).is_some_and(is_inside),
        rtype::SVCB | rtype::HTTPS => hints(rdata).is_some_and(|mut hints| hints.any(is_inside)),
        _ => false,
    }
}

/// Returns whether the address is internal: RFC 1918, shared address space of carriers (RFC 6598), loopback, link-local,
/// unspecified, ULA, local-use NAT64 (RFC 8215); also if an IPv6 address embeds such an IPv4 address.
fn is_inside(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let is_shared = matches!(v4.octets(), [100, 64..=127, ..]);
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || is_shared || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local() || {
                let (segments, octets) = (v6.segments(), v6.octets());
                let held = match segments {
                    // 64:ff9b:1::/48.
                    [0x64, 0xff9b, 1, ..] => return true,
                    // IPv4-compatible (RFC 4291) and NAT64 (RFC 6052).
                    [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => octets.last_chunk::<4>(),
                    // 6to4 (RFC 3056).
                    [0x2002, ..] => octets[2..].first_chunk::<4>(),
                    _ => None,
                };
                held.is_some_and(|held| is_inside(Ipv4Addr::from(*held).into()))
            }
        }
    }
}

/// Returns the address hints of an SVCB record's RDATA; `None` if its target name is malformed.
fn hints(rdata: &[u8]) -> Option<impl Iterator<Item = IpAddr>> {
    let target = crate::wire::name::plain_len(rdata.get(2..)?)?;
    let mut rest = rdata.get(2 + target..)?;
    let params = std::iter::from_fn(move || {
        let (key, length) = (u16_at(rest, 0)?, usize::from(u16_at(rest, 2)?));
        let value = rest.get(4..4 + length)?;
        rest = &rest[4 + length..];
        Some((key, value))
    });
    Some(params.flat_map(|(key, value)| {
        let size = match key {
            IPV4_HINT => 4,
            IPV6_HINT => 16,
            // No address has this size.
            _ => value.len() + 1,
        };
        value.chunks(size).filter(move |chunk| chunk.len() == size).filter_map(|chunk| v4(chunk).or_else(|| v6(chunk)))
    }))
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into())
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_and_outside() {
        for inside in [
            "10.0.0.1",
            "172.31.0.1",
            "192.168.1.1",
            "127.0.0.2",
            "169.254.20.10",
            "0.0.0.0",
            "::1",
            "::",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "::a00:1",
            "100.64.0.1",
            "100.127.255.254",
            "64:ff9b:1::808:808",
            "2002:a00:1::1",
            "2002:c0a8:101::1",
        ] {
            assert!(is_inside(inside.parse().expect(inside)), "{inside}");
        }
        for outside in
            ["192.0.2.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "64:ff9b::808:808", "2002:808:808::1"]
        {
            assert!(!is_inside(outside.parse().expect(outside)), "{outside}");
        }
    }

    #[test]
    fn hints_of_a_service_binding() {
        let rdata = b"\x00\x01\x00\x00\x01\x00\x02h2\x00\x04\x00\x08\xc0\x00\x02\x01\x0a\x00\x00\x01";
        let found: Vec<IpAddr> = hints(rdata).expect("well formed").collect();
        assert_eq!(found, ["192.0.2.1", "10.0.0.1"].map(|text| text.parse::<IpAddr>().expect(text)));
    }
}
