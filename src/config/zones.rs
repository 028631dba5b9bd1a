//! Zones of a route: names, and networks that stand for their reverse zones.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::value::ConfigValue;
use crate::wire::name::Name;

/// Entry of a route's `zones`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ZoneValue {
    /// Text in the file.
    pub text: String,
    /// One name, or the 1 to 128 reverse zones of a network.
    pub names: Vec<Name>,
}

impl TryFrom<String> for ZoneValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.parse::<IpAddr>().is_ok() {
            let bits = if text.contains(':') { 128 } else { 32 };
            return Err(format!("{text:?} is an address, not a zone; for its reverse name write \"{text}/{bits}\""));
        }
        if let Some(zone) = text.strip_prefix('*') {
            let zone = if zone.len() > 1 { zone.strip_prefix('.').unwrap_or(zone) } else { "." };
            return Err(format!(
                "{text:?} has an asterisk, which would be a name here: a zone holds all names below it, so write {zone:?}"
            ));
        }
        if text.strip_prefix('.').is_some_and(|zone| !zone.is_empty()) {
            let zone = text.trim_start_matches('.');
            return Err(format!("{text:?} begins with a dot: a zone holds all names below it, so write {zone:?}"));
        }
        let names = if is_network(&text) {
            reverse(network(&text)?)?
        } else {
            vec![text.parse::<Name>().map_err(|error| format!("{text:?} is not a name: {error}"))?]
        };
        Ok(Self { text, names })
    }
}

impl ConfigValue for ZoneValue {
    const EXPECTED: &'static str = r#""corp.example", "." or a network such as "10.0.0.0/8""#;
}

/// Domain below the root, for `cluster_domain` and `[[rewrite]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Domain(pub Name);

impl TryFrom<String> for Domain {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse::<Name>() {
            _ if is_network(&text) || text.parse::<IpAddr>().is_ok() => {
                Err(format!("{text:?} is a network or an address, and a domain is needed"))
            }
            Ok(_) if text.contains('*') => Err(format!("{text:?} has an asterisk: a domain holds all names below it")),
            Ok(name) if name.is_root() => Err("the root is not a domain of its own".to_owned()),
            Ok(name) => Ok(Self(name)),
            Err(error) => Err(format!("{text:?} is not a name: {error}")),
        }
    }
}

impl ConfigValue for Domain {
    const EXPECTED: &'static str = r#""cluster.local""#;
}

/// Parses a network. If bits are set after the prefix, the error names the correct network.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().map_err(|_| format!("{text:?} is not a network"))?;
    match network.trunc() {
        trunc if trunc == network => Ok(network),
        trunc => Err(format!("{text:?} has bits set after its prefix: the network is \"{trunc}\"")),
    }
}

/// Returns the reverse zones that together hold exactly the addresses of `network` (RFC 1035 section 3.5, RFC 3596 section 2.5).
///
/// A label of a reverse name is an octet (IPv4) or four bits (IPv6). If the prefix ends inside a label, there is a zone for
/// every value of that label that the prefix leaves open: at most 128 for IPv4, 8 for IPv6.
pub(super) fn reverse(network: IpNet) -> Result<Vec<Name>, String> {
    let (digits, bits_of_digit, suffix) = match network.network() {
        IpAddr::V4(address) => (address.octets().to_vec(), 8, "in-addr.arpa"),
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 0xf]);
            (nibbles.collect(), 4, "ip6.arpa")
        }
    };
    let whole = usize::from(network.prefix_len()) / bits_of_digit;
    let rest = usize::from(network.prefix_len()) % bits_of_digit;
    let label = |digit: u8| if bits_of_digit == 8 { format!("{digit}.") } else { format!("{digit:x}.") };

    let fixed: String = digits[..whole].iter().rev().map(|&digit| label(digit)).collect();
    let open: Vec<String> = match digits.get(whole) {
        Some(&first) if rest > 0 => (0..1u16 << (bits_of_digit - rest)).map(|step| label(first + step as u8)).collect(),
        _ => vec![String::new()],
    };
    let name = |open: String| format!("{open}{fixed}{suffix}").parse::<Name>().map_err(|error| error.to_string());
    open.into_iter().map(name).collect()
}

/// Reports whether a text has the form of a network. `0/25.2.0.192.in-addr.arpa` (RFC 2317) is a name.
fn is_network(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, prefix)| {
        address.parse::<IpAddr>().is_ok() || prefix.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(text: &str) -> Vec<String> {
        let zone = ZoneValue::try_from(text.to_owned()).expect(text);
        zone.names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_others_write_for_all_names_below_has_a_remedy() {
        for (text, remedy) in [
            ("*.corp.example", "write \"corp.example\""),
            ("*", "write \".\""),
            (".corp.example", "write \"corp.example\""),
        ] {
            let error = ZoneValue::try_from(text.to_owned()).expect_err(text);
            assert!(error.ends_with(remedy), "{error}");
        }
    }

    #[test]
    fn names_and_whole_labels() {
        for (text, zone) in [
            (".", "."),
            ("Corp.Example.", "corp.example."),
            ("0/25.2.0.192.in-addr.arpa", "0/25.2.0.192.in-addr.arpa."),
            ("0.0.0.0/0", "in-addr.arpa."),
            ("10.0.0.0/8", "10.in-addr.arpa."),
            ("10.244.0.0/16", "244.10.in-addr.arpa."),
            ("10.0.0.7/32", "7.0.0.10.in-addr.arpa."),
            ("::/0", "ip6.arpa."),
            ("fd00::/8", "d.f.ip6.arpa."),
            ("2001:db8::/32", "8.b.d.0.1.0.0.2.ip6.arpa."),
            ("::1/128", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa."),
        ] {
            assert_eq!(zones(text), [zone], "{text}");
        }
    }

    #[test]
    fn prefixes_inside_a_label() {
        for (text, count, first, last) in [
            ("10.96.0.0/12", 16, "96.10.in-addr.arpa.", "111.10.in-addr.arpa."),
            ("128.0.0.0/1", 128, "128.in-addr.arpa.", "255.in-addr.arpa."),
            ("192.0.2.128/25", 128, "128.2.0.192.in-addr.arpa.", "255.2.0.192.in-addr.arpa."),
            ("192.0.2.6/31", 2, "6.2.0.192.in-addr.arpa.", "7.2.0.192.in-addr.arpa."),
            ("fc00::/7", 2, "c.f.ip6.arpa.", "d.f.ip6.arpa."),
            ("8000::/1", 8, "8.ip6.arpa.", "f.ip6.arpa."),
        ] {
            let zones = zones(text);
            assert_eq!(zones.len(), count, "{text}");
            assert_eq!((zones.first(), zones.last()), (Some(&first.to_owned()), Some(&last.to_owned())), "{text}");
        }
    }

    #[test]
    fn bad_zones_say_what_is_right() {
        for (text, part) in [
            ("10.0.0.1/8", "the network is \"10.0.0.0/8\""),
            ("fd00::1/64", "the network is \"fd00::/64\""),
            ("10.0.0.0/33", "not a network"),
            ("10.0.0/8", "not a network"),
            ("10.0.0.0/8x", "not a network"),
            ("10.0.0.1", "write \"10.0.0.1/32\""),
            ("fd00::1", "write \"fd00::1/128\""),
            ("a..b", "a label is empty"),
            ("", "a label is empty"),
        ] {
            let error = ZoneValue::try_from(text.to_owned()).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
