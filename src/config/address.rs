//! Addresses in the configuration file: listeners, servers and networks. Detects servers that are nodens itself.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use serde::Deserialize;

use super::value::ConfigValue;
use super::zones::network;
use crate::wire::name::Name;

/// Port of DNS over UDP and TCP (RFC 1035 section 4.2).
pub(crate) const DNS_PORT: u16 = 53;
/// Port of DNS over TLS (RFC 7858 section 3.1).
pub(crate) const TLS_PORT: u16 = 853;

/// Address of one server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// UDP, and TCP if the response is truncated.
    Plain(SocketAddr),
    /// Host name that a bootstrap server resolves; transport as for `Plain`.
    Named {
        /// Name to resolve by the bootstrap servers.
        host: Name,
        /// Port.
        port: u16,
    },
    /// DNS over TLS (RFC 7858), never clear text. The certificate is verified against the host name (RFC 8310 strict
    /// profile). Trusted roots are those in `SSL_CERT_FILE` or `SSL_CERT_DIR` if set (a private CA), else the system's,
    /// else the built-in ones.
    Tls {
        /// Address and port of the server.
        address: SocketAddr,
        /// Name that the server's certificate must have.
        host: String,
    },
}

/// Listen address. The port is `PORT` if the file gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Listen<const PORT: u16>(pub SocketAddr);

/// Server that resolves the host names of other servers. The port is 53 if the file gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Bootstrap(pub SocketAddr);

/// Server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ServerValue(pub ServerAddress);

/// Network of clients. A single address is a network of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct NetworkValue(pub IpNet);

/// Returns the listener in `listen` that a query to `server` would reach, if there is one.
///
/// A wildcard listener covers all addresses of its family on this machine: those in `local`, and loopback.
pub(crate) fn own_listener(server: SocketAddr, listen: &[SocketAddr], local: &[IpAddr]) -> Option<SocketAddr> {
    let ip = server.ip().to_canonical();
    listen.iter().copied().find(|listener| {
        let own = listener.ip().to_canonical();
        let here = ip.is_loopback() || local.iter().any(|local| local.to_canonical() == ip);
        let wildcard = own.is_unspecified() && own.is_ipv4() == ip.is_ipv4() && here;
        listener.port() == server.port() && (own == ip || wildcard)
    })
}

impl<const PORT: u16> TryFrom<String> for Listen<PORT> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        socket(&text, PORT).map(Self).ok_or_else(|| format!("{text:?} is not an address to listen on"))
    }
}

impl TryFrom<String> for Bootstrap {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let address = socket(&text, DNS_PORT).ok_or_else(|| format!("{text:?} is not an address"))?;
        reachable(address).map(Self)
    }
}

impl TryFrom<String> for NetworkValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(Self(address.into())),
            Err(_) => network(&text).map(Self),
        }
    }
}

impl TryFrom<String> for ServerValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("tls://") {
            return tls(&text, rest).map(Self);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(format!("nodens does not speak {scheme:?}: an address alone, or tls://"));
        }
        if let Some(address) = socket(&numbered_scope(&text, DNS_PORT)?, DNS_PORT) {
            return Ok(Self(ServerAddress::Plain(reachable(address)?)));
        }
        let (host, port) = match text.split_once(':') {
            None => (text.as_str(), Some(DNS_PORT)),
            Some((host, port)) => (host, port.parse().ok().filter(|&port| port > 0)),
        };
        match (host_name(host), port) {
            (Some(host), Some(port)) => Ok(Self(ServerAddress::Named { host, port })),
            _ => Err(format!("{text:?} is neither an address nor a host name")),
        }
    }
}

impl<const PORT: u16> ConfigValue for Listen<PORT> {
    const EXPECTED: &'static str = r#""127.0.0.1:5300", "[::1]:5300" or an address without a port"#;
}

impl ConfigValue for Bootstrap {
    const EXPECTED: &'static str = r#""10.0.0.2", "10.0.0.2:5353" or "[fd00::10]:53""#;
}

impl ConfigValue for ServerValue {
    const EXPECTED: &'static str =
        r#""10.0.0.2", "10.0.0.2:5353", "[fd00::10]:53", "dns.example" or "tls://1.1.1.1#host.name""#;
}

impl ConfigValue for NetworkValue {
    const EXPECTED: &'static str = r#""10.0.0.0/8", "::1/128" or a single address"#;
}

/// Parses an address with or without a port. An IPv6 address may have brackets.
fn socket(text: &str, default_port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(ip) if ip.is_ipv6() || bare.len() == text.len() => Some(SocketAddr::new(ip, default_port)),
        _ => text.parse().ok(),
    }
}

/// Replaces an interface name in the scope of an address by the interface's number: `fe80::1%eth0` (RFC 4007 section 11.2).
/// Adds brackets, because the standard library parses a scope only inside brackets, and then the default port if there is none.
fn numbered_scope(text: &str, default_port: u16) -> Result<Cow<'_, str>, String> {
    let Some((address, rest)) = text.split_once('%') else { return Ok(Cow::Borrowed(text)) };
    let (scope, port) = rest.split_once(']').unwrap_or((rest, ""));
    let number = match scope.parse::<u32>() {
        Ok(number) => number,
        Err(_) => if_nametoindex(scope).map_err(|_| format!("{text:?}: this machine has no interface {scope:?}"))?,
    };
    let address = address.trim_start_matches('[');
    let port = if port.is_empty() { format!(":{default_port}") } else { port.to_owned() };
    Ok(Cow::Owned(format!("[{address}%{number}]{port}")))
}

/// Returns the address if a query can be sent to it.
fn reachable(address: SocketAddr) -> Result<SocketAddr, String> {
    let ip = address.ip();
    if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255; 4]) {
        return Err(format!("{ip} is not the address of a server"));
    }
    match address {
        _ if address.port() == 0 => Err("port 0 cannot be asked".to_owned()),
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
            Err(format!("{ip} is link-local and needs its interface: \"[{ip}%eth0]:{}\"", v6.port()))
        }
        _ => Ok(address),
    }
}

/// Parses the part after `tls://`: an address, then `#` and the name that the server's certificate must have.
fn tls(text: &str, rest: &str) -> Result<ServerAddress, String> {
    let (address, host) = rest.split_once('#').unwrap_or((rest, ""));
    let address = socket(&numbered_scope(address, TLS_PORT)?, TLS_PORT)
        .ok_or_else(|| format!("{text:?} has no address after tls://"))?;
    let address = reachable(address)?;
    if host.parse::<IpAddr>().is_ok() {
        return Err(format!("{text:?} has an address after the #, expected the name in the server's certificate"));
    }
    match host_name(host) {
        Some(name) => Ok(ServerAddress::Tls { address, host: name.to_string().trim_end_matches('.').to_owned() }),
        None => Err(format!("{text:?} lacks the name in the server's certificate, after a #")),
    }
}

/// Parses a host name: labels of letters, digits, underscores and inner hyphens, the last one not a number (RFC 1123
/// section 2.1).
fn host_name(text: &str) -> Option<Name> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|byte| byte.is_ascii_digit());
    let hyphens = text.split('.').any(|label| label.starts_with('-') || label.ends_with('-'));
    if plain && !number && !hyphens { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Result<ServerAddress, String> {
        ServerValue::try_from(text.to_owned()).map(|server| server.0)
    }

    #[test]
    fn every_way_to_write_a_server() {
        let plain = |text: &str| ServerAddress::Plain(text.parse().expect(text));
        let named = |host: &str, port| ServerAddress::Named { host: host.parse().expect(host), port };
        let tls = |address: &str, host: &str| ServerAddress::Tls {
            address: address.parse().expect(address),
            host: host.to_owned(),
        };
        for (text, right) in [
            ("10.0.0.2", plain("10.0.0.2:53")),
            ("10.0.0.2:5353", plain("10.0.0.2:5353")),
            ("fd00::10", plain("[fd00::10]:53")),
            ("[fd00::10]", plain("[fd00::10]:53")),
            ("[fd00::10]:5353", plain("[fd00::10]:5353")),
            ("[fe80::1%2]:53", plain("[fe80::1%2]:53")),
            ("fe80::1%2", plain("[fe80::1%2]:53")),
            ("[fe80::1%lo]:5353", plain("[fe80::1%1]:5353")),
            ("dns.example", named("dns.example.", 53)),
            ("dns.example:5353", named("dns.example.", 5353)),
            ("kube_dns", named("kube_dns.", 53)),
            ("tls://1.1.1.1#cloudflare-dns.com", tls("1.1.1.1:853", "cloudflare-dns.com")),
            ("tls://1.1.1.1:8853#Cloudflare-DNS.com.", tls("1.1.1.1:8853", "cloudflare-dns.com")),
            ("tls://[2606:4700::1111]#one.one", tls("[2606:4700::1111]:853", "one.one")),
        ] {
            assert_eq!(server(text), Ok(right), "{text}");
        }
    }

    #[test]
    fn what_is_no_server() {
        for (text, part) in [
            ("10.0.0.256", "neither"),
            ("10.0.0.2:70000", "neither"),
            ("dns.example:0", "neither"),
            ("[10.0.0.2]:53", "neither"),
            ("bad name", "neither"),
            ("", "neither"),
            ("0.0.0.0", "not the address"),
            ("224.0.0.251", "not the address"),
            ("10.0.0.2:0", "port 0"),
            ("fe80::1", "[fe80::1%eth0]:53"),
            ("fe80::1%no-such-link", "no interface \"no-such-link\""),
            ("https://dns.google/dns-query", "does not speak \"https\""),
            ("tls://1.1.1.1", "certificate"),
            ("tls://1.1.1.1#", "certificate"),
            ("tls://1.1.1.1#1.1.1.1", "an address after the #"),
            ("-dns.example", "neither"),
            ("dns-.example", "neither"),
            ("dns..example", "neither"),
            ("tls://dns.google#dns.google", "no address"),
        ] {
            let error = server(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn listeners_have_a_default_port() {
        let listen = |text: &str| Listen::<53>::try_from(text.to_owned()).map(|listen| listen.0.to_string());
        assert_eq!(listen("127.0.0.1"), Ok("127.0.0.1:53".to_owned()));
        assert_eq!(listen("[::]:0"), Ok("[::]:0".to_owned()));
        assert!(listen("localhost:53").is_err());
    }

    #[test]
    fn clients_by_network_or_address() {
        let network = |text: &str| NetworkValue::try_from(text.to_owned()).map(|network| network.0.to_string());
        assert_eq!(network("10.0.0.0/8"), Ok("10.0.0.0/8".to_owned()));
        assert_eq!(network("::1"), Ok("::1/128".to_owned()));
        assert!(network("10.0.0.1/8").is_err_and(|error| error.contains("10.0.0.0/8")));
    }

    #[test]
    fn asking_oneself() {
        let local = ["10.0.0.5".parse().expect("address"), "fd00::5".parse().expect("address")];
        for (server, listen, own) in [
            ("127.0.0.1:53", "127.0.0.1:53", true),
            ("127.0.0.1:53", "127.0.0.1:5300", false),
            ("127.0.0.53:53", "0.0.0.0:53", true),
            ("10.0.0.5:53", "0.0.0.0:53", true),
            ("[::ffff:10.0.0.5]:53", "0.0.0.0:53", true),
            ("10.0.0.6:53", "0.0.0.0:53", false),
            ("10.0.0.5:53", "[::]:53", false), // IPv6 sockets accept IPv6 only
            ("[fd00::5]:53", "[::]:53", true),
            ("10.0.0.5:53", "10.0.0.6:53", false),
        ] {
            let [server, listen] = [server, listen].map(|text| text.parse().expect(text));
            assert_eq!(own_listener(server, &[listen], &local).is_some(), own, "{server} {listen}");
        }
    }
}
