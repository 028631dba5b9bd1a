//! Addresses that nodens adds to the node: `[node]`.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use toml::Spanned;

use super::address::{DNS_PORT, ServerAddress};
use super::diagnostic::Diagnostics;
use super::routes::Route;
use super::table::TomlTable;
use super::upstreams::UpstreamConfig;
use super::value::{ConfigValue, ValueForm};

/// Maximum number of addresses.
const MOST: usize = 16;
/// Most addresses of one family that can have a fallback: marks of packets tell no more apart.
pub(crate) const MOST_WITH_FALLBACK: usize = 3;
/// Maximum length of a link's name: IFNAMSIZ without the terminating zero.
const LONGEST_NAME: usize = 15;

/// Defaults of `[node] keep_fallback` and `[node] take_over`.
const KEEP_FALLBACK: bool = false;
const TAKE_OVER: bool = false;

/// Addresses that nodens adds to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub(crate) addresses: Vec<IpAddr>,
    /// Listeners on these addresses.
    pub listen: Vec<SocketAddr>,
    /// Link that gets the addresses.
    pub interface: Interface,
    /// Firewall rules that exclude queries from connection tracking.
    pub firewall: FirewallKind,
    /// Servers to which the kernel sends queries while nodens does not serve, at most one for each family.
    pub fallback: Vec<IpAddr>,
    /// True if the fallback remains after a clean stop.
    pub keep_fallback: bool,
    /// True if another program may have the addresses and listen on them. There it answers while nodens does not, in place of the
    /// fallback.
    pub take_over: bool,
}

/// `[node]` in the file.
#[derive(Debug)]
pub(crate) struct NodeTable {
    pub addresses: Vec<Spanned<AddressValue>>,
    pub interface: Option<Spanned<Interface>>,
    pub firewall: Option<Spanned<FirewallKind>>,
    pub fallback: Option<Vec<Spanned<FallbackValue>>>,
    pub keep_fallback: bool,
    pub take_over: bool,
}

/// Element of `[node] fallback`; `None`: no fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct FallbackValue(pub Option<IpAddr>);

/// Element of `[node] addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct AddressValue(pub IpAddr);

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Interface {
    /// Dummy link, or loopback if the kernel has no dummy links.
    #[default]
    Auto,
    Dummy,
    /// Existing link of this name.
    Named(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum FirewallKind {
    /// nftables table that excludes queries from connection tracking.
    #[default]
    Nft,
    None,
}

impl NodeTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Self {
        table.read(|table| Self {
            addresses: table.required_list("addresses").unwrap_or_default(),
            interface: table.value("interface"),
            firewall: table.value("firewall"),
            fallback: table.some("fallback"),
            keep_fallback: table.flag("keep_fallback", KEEP_FALLBACK),
            take_over: table.flag("take_over", TAKE_OVER),
        })
    }
}

/// Converts `[node]` to its validated form. Adds errors for duplicate addresses, too many addresses, and addresses on which
/// the server does not listen.
pub(super) fn node(file: &NodeTable, server: &[SocketAddr], diagnostics: &Diagnostics<'_>) -> NodeConfig {
    let mut listen = Vec::new();
    let firewall = file.firewall.as_ref().map(|firewall| *firewall.get_ref()).unwrap_or_default();
    let is_none = |values: &Vec<_>| values.iter().all(|value: &Spanned<FallbackValue>| value.get_ref().0.is_none());
    let may_have_fallback = firewall == FirewallKind::Nft && !file.fallback.as_ref().is_some_and(is_none);
    for (number, address) in file.addresses.iter().enumerate() {
        let ip = address.get_ref().0;
        let takes =
            |other: &&SocketAddr| other.ip() == ip || (other.ip().is_unspecified() && other.is_ipv4() == ip.is_ipv4());
        let before = listen.len();
        listen.extend(server.iter().filter(takes).map(|other| SocketAddr::new(ip, other.port())));
        if listen.len() == before {
            let what = format!("addresses: nodens does not listen on {ip}: add it to [server] listen, or drop it here");
            diagnostics.add(address.span(), what);
        }
        if file.addresses[..number].iter().any(|other| other.get_ref().0 == ip) {
            diagnostics.add(address.span(), format!("addresses: {ip} is there twice"));
        }
        if number == MOST {
            diagnostics.add(address.span(), format!("addresses: there are more than {MOST}"));
        }
        let before = file.addresses[..number].iter().filter(|other| other.get_ref().0.is_ipv4() == ip.is_ipv4());
        if may_have_fallback && before.count() == MOST_WITH_FALLBACK {
            let what = format!(
                "addresses: {ip} has no fallback: only the first {MOST_WITH_FALLBACK} of a family can have one"
            );
            diagnostics.warn(address.span(), what);
        }
    }
    NodeConfig {
        fallback: fallback(file, firewall, diagnostics),
        keep_fallback: file.keep_fallback,
        take_over: file.take_over,
        addresses: file.addresses.iter().map(|address| address.get_ref().0).collect(),
        listen,
        interface: file.interface.as_ref().map(|interface| interface.get_ref().clone()).unwrap_or_default(),
        firewall,
    }
}

/// Returns the configured fallback. Adds errors for two addresses of one family, for "none" among addresses, and for a fallback
/// without the firewall that it is a part of.
fn fallback(file: &NodeTable, firewall: FirewallKind, diagnostics: &Diagnostics<'_>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let values = file.fallback.as_deref().unwrap_or_default();
    for value in values {
        let what = match value.get_ref().0 {
            None if values.len() > 1 => "fallback: \"none\" stands alone".to_owned(),
            None => continue,
            Some(_) if firewall == FirewallKind::None => {
                "fallback: it needs the nftables table that firewall = \"none\" forbids".to_owned()
            }
            Some(ip) if found.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) => {
                format!("fallback: {ip} is the second address of its family")
            }
            Some(ip) => {
                found.push(ip);
                continue;
            }
        };
        diagnostics.add(value.span(), what);
    }
    found
}

impl NodeConfig {
    /// Sets the fallback to the servers of the cluster's upstream, the first on port 53 of each family, if the file has no
    /// fallback.
    pub(super) fn default_fallback(mut self, file: &NodeTable, routes: &[Route], upstreams: &[UpstreamConfig]) -> Self {
        if file.fallback.is_some() || self.firewall == FirewallKind::None {
            return self;
        }
        let cluster = routes.iter().find(|route| route.cluster.is_some()).and_then(|route| upstreams.get(route.to));
        for server in cluster.map_or(&[][..], |upstream| &upstream.servers) {
            let ServerAddress::Plain(server) = server else { continue };
            let ip = server.ip();
            let is_first = self.fallback.iter().all(|other| other.is_ipv4() != ip.is_ipv4());
            if is_first && server.port() == DNS_PORT && !self.addresses.contains(&ip) && AddressValue::of(ip).is_ok() {
                self.fallback.push(ip);
            }
        }
        self
    }
}

impl Interface {
    /// Returns the name of the link, if it is configured.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            _ => None,
        }
    }
}

impl AddressValue {
    /// Checks that pods can send queries to an address. The error is what speaks against it.
    fn of(ip: IpAddr) -> Result<Self, String> {
        let why = match ip {
            _ if ip.is_loopback() => "is the loopback's, which a pod has for itself",
            _ if ip.is_unspecified() || ip.is_multicast() => "is not the address of a host",
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                "is a link-local one: a pod's resolv.conf cannot name its link"
            }
            IpAddr::V4(ip) if ip.is_broadcast() => "is not the address of a host",
            _ => return Ok(Self(ip)),
        };
        Err(format!("{ip} {why}"))
    }
}

impl TryFrom<String> for AddressValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is no address")).and_then(Self::of)
    }
}

impl TryFrom<String> for FallbackValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "none" => Ok(Self(None)),
            _ => AddressValue::try_from(text).map(|AddressValue(ip)| Self(Some(ip))),
        }
    }
}

impl TryFrom<String> for Interface {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_part = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "dummy" => Ok(Self::Dummy),
            "" | "." | ".." => Err(format!("{text:?} is no name of a link")),
            _ if text.len() > LONGEST_NAME || !text.chars().all(is_part) => {
                Err(format!("{text:?} is no name of a link: at most {LONGEST_NAME} characters, no spaces, no slash"))
            }
            _ => Ok(Self::Named(text)),
        }
    }
}

impl TryFrom<String> for FirewallKind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "nft" => Ok(Self::Nft),
            "none" => Ok(Self::None),
            _ => Err(format!("{text:?} is neither \"nft\" nor \"none\"")),
        }
    }
}

impl ConfigValue for AddressValue {
    const EXPECTED: &'static str = r#""169.254.20.10" or "fd00::a""#;
}

impl ConfigValue for FallbackValue {
    const EXPECTED: &'static str = r#""10.96.0.10", "fd00:10:96::a" or "none""#;
}

impl ConfigValue for Interface {
    const EXPECTED: &'static str = r#""auto", "dummy", "lo" or the name of a link"#;
}

impl ConfigValue for FirewallKind {
    const EXPECTED: &'static str = r#""nft" or "none""#;
    const FORM: ValueForm = ValueForm::OneOf(&["nft", "none"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::parse::parse;

    const REST: &str = "[upstreams.up]\nservers = [\"192.0.2.53\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";

    fn read(listen: &str, node: &str) -> Result<Config, String> {
        let text = format!("[server]\nlisten = [{listen}]\n[node]\n{node}\n{REST}");
        parse(&text, &[])
            .map_err(|diagnostics| diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect())
    }

    #[test]
    fn addresses_are_served_where_the_server_listens() {
        let config =
            read(r#""169.254.20.10", "[::]:5353""#, r#"addresses = ["169.254.20.10", "fd00::a"]"#).expect("good");
        let node = config.node.expect("a node");
        assert_eq!(
            node.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["169.254.20.10:53", "[fd00::a]:5353"]
        );
        assert_eq!((node.interface, node.firewall), (Interface::Auto, FirewallKind::Nft));
        let node =
            read(r#""169.254.20.10""#, "addresses = [\"169.254.20.10\"]\ninterface = \"lo\"\nfirewall = \"none\"");
        let node = node.expect("good").node.expect("a node");
        assert_eq!((node.interface.name(), node.firewall), (Some("lo"), FirewallKind::None));
    }

    #[test]
    fn the_fallback_is_the_upstream_of_the_cluster() {
        let fallback = |servers: &str, node: &str| {
            let text = format!(
                "[server]\nlisten = [\"169.254.20.10\"]\n[node]\naddresses = [\"169.254.20.10\"]\n{node}\n\
                 [upstreams.kube-dns]\nservers = [{servers}]\n\
                 [[route]]\nzones = [\"cluster.local\"]\nto = \"kube-dns\"\n{REST}"
            );
            let config = parse(&text, &[]).expect("good");
            config.node.expect("a node").fallback.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let both = r#""10.96.0.10:5353", "10.96.0.11", "10.96.0.12", "fd00::a""#;
        assert_eq!(fallback(both, ""), ["10.96.0.11", "fd00::a"]);
        assert_eq!(fallback(both, r#"fallback = "none""#), [""; 0]);
        assert_eq!(fallback(both, r#"fallback = ["10.96.0.10"]"#), ["10.96.0.10"]);
        assert_eq!(fallback(both, r#"firewall = "none""#), [""; 0]);
        assert_eq!(fallback(r#""127.0.0.1", "tls://10.0.0.1#dns.example""#, ""), [""; 0]);
    }

    #[test]
    fn addresses_beyond_the_marks_have_no_fallback() {
        let addresses = ["10.0.0.1", "fd00::1", "10.0.0.2", "10.0.0.3", "10.0.0.4"].map(|ip| format!("{ip:?}"));
        let list = addresses.join(", ");
        let warnings = |node: &str| {
            let config = read(&list, &format!("addresses = [{list}]\n{node}")).expect("good");
            let of_node = config.warnings.iter().map(ToString::to_string).filter(|text| text.contains("fallback"));
            of_node.collect::<Vec<_>>()
        };
        let found = warnings("");
        assert!(found.len() == 1 && found[0].contains("10.0.0.4 has no fallback: only the first 3"), "{found:?}");
        for none in ["fallback = \"none\"", "firewall = \"none\""] {
            assert_eq!(warnings(none), Vec::<String>::new(), "{none}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (node, reason) in [
            ("", "`addresses` is missing"),
            (r#"addresses = ["169.254.20.11"]"#, "4:14: addresses: nodens does not listen on 169.254.20.11: add it to"),
            (r#"addresses = ["169.254.20.10", "169.254.20.10"]"#, "169.254.20.10 is there twice"),
            (r#"addresses = ["127.0.0.1"]"#, "127.0.0.1 is the loopback's, which a pod has for itself"),
            (r#"addresses = ["fe80::1"]"#, "fe80::1 is a link-local one: a pod's resolv.conf cannot name its link"),
            (r#"addresses = ["0.0.0.0"]"#, "0.0.0.0 is not the address of a host"),
            (r#"addresses = ["node"]"#, "\"node\" is no address"),
            ("addresses = [\"169.254.20.10\"]\ninterface = \"a/b\"", "\"a/b\" is no name of a link"),
            (
                "addresses = [\"169.254.20.10\"]\nfallback = [\"10.96.0.10\", \"10.96.0.11\"]",
                "5:27: fallback: 10.96.0.11 is the second address of its family",
            ),
            ("addresses = [\"169.254.20.10\"]\nfallback = [\"none\", \"10.96.0.10\"]", "\"none\" stands alone"),
            ("addresses = [\"169.254.20.10\"]\nfallback = \"127.0.0.1\"", "127.0.0.1 is the loopback's"),
            (
                "addresses = [\"169.254.20.10\"]\nfallback = \"10.96.0.10\"\nfirewall = \"none\"",
                "fallback: it needs the nftables table",
            ),
            (
                "addresses = [\"169.254.20.10\"]\nfirewall = \"iptables\"",
                "\"iptables\" is neither \"nft\" nor \"none\"",
            ),
        ] {
            let told = read(r#""169.254.20.10""#, node).expect_err(node);
            assert!(told.contains(reason), "{node}: {told}");
        }
    }
}
