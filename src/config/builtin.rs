//! Configuration without a file: a cache that forwards all names to this machine's own nameservers.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use resolv_conf::ScopedIp;

use super::Config;
use super::address::{DNS_PORT, ServerAddress, own_listener};
use super::diagnostic::Diagnostic;
use super::parse::parse;
use super::server::LISTEN;

/// Failure to make a configuration from resolv.conf.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BuiltinError {
    /// No usable nameserver in resolv.conf. A retry helps once it has one.
    #[error("resolv.conf has no usable nameserver{}: give a configuration with --config, or add a line `nameserver ADDRESS`", .skipped)]
    NoNameserver {
        /// Unusable nameservers, as `, not ADDRESS ADDRESS`; empty if there are none.
        skipped: String,
    },
    /// Nameserver that is nodens itself.
    #[error(
        "resolv.conf names {server}, where nodens itself listens ({listener}): queries would go in a circle; \
         give the real upstreams with --config, or keep resolv.conf as it was before nodens served this machine"
    )]
    Loop {
        server: SocketAddr,
        /// Listener that a query to the nameserver reaches.
        listener: SocketAddr,
    },
    /// Rejection of the generated text: a bug.
    #[error("the configuration made from resolv.conf is refused: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Diagnostic>),
}

/// Returns the configuration used without a file: [`LISTEN`], loopback clients, admin on 127.0.0.1:9053, and one route for
/// all names to the nameservers of `resolv_conf`, the text of a resolv.conf(5), in their order.
///
/// Skips nameservers with an IPv6 zone, options without effect on nodens, and invalid lines. Uses all nameservers, not only
/// the first three. Applies `options trust-ad`. `local` is as in [`parse`].
///
/// # Errors
///
/// There is no usable nameserver, or one of them is nodens itself.
pub(crate) fn builtin(resolv_conf: &str, local: &[IpAddr]) -> Result<Config, BuiltinError> {
    let text = text(resolv_conf, &LISTEN, local)?;
    let mut config = parse(&text, local).map_err(BuiltinError::Refused)?;
    // The user did not write this text.
    config.warnings.clear();
    // A machine without IPv6 has no [::1] to listen on, and the user did not configure that listener.
    if local.iter().any(IpAddr::is_ipv4) && !local.iter().any(IpAddr::is_ipv6) {
        config.server.listen.retain(SocketAddr::is_ipv4);
    }
    Ok(config)
}

/// Generates the text of the configuration file. Keys that it omits have their defaults.
fn text(resolv_conf: &str, listen: &[SocketAddr], local: &[IpAddr]) -> Result<String, BuiltinError> {
    let (resolv, _) = resolv_conf::Config::parse_with_errors(resolv_conf.as_bytes());
    let (mut servers, mut skipped) = (Vec::<SocketAddr>::new(), String::new());
    for nameserver in &resolv.nameservers {
        match usable(nameserver) {
            Some(server) if !servers.contains(&server) => servers.push(server),
            Some(_) => {}
            None => skipped = format!("{skipped} {nameserver}"),
        }
    }
    if servers.is_empty() {
        if !skipped.is_empty() {
            skipped.insert_str(0, ", not");
        }
        return Err(BuiltinError::NoNameserver { skipped });
    }
    for &server in &servers {
        if let Some(listener) = own_listener(server, listen, local) {
            return Err(BuiltinError::Loop { server, listener });
        }
    }
    let mut text = String::from("[admin]\nlisten = \"127.0.0.1\"\n\n[upstreams.\"resolv.conf\"]\n");
    let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
    let _ = writeln!(text, "servers = {servers:?}\ntrust_ad = {}\n", resolv.trust_ad); // never fails for a String
    text.push_str("[[route]]\nzones = [\".\"]\nto = \"resolv.conf\"\n");
    Ok(text)
}

/// Returns the address of a nameserver if it is usable. `0.0.0.0` means loopback, as in the C library.
fn usable(nameserver: &ScopedIp) -> Option<SocketAddr> {
    let ip = match *nameserver {
        ScopedIp::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ScopedIp::V4(ip) => IpAddr::from(ip),
        ScopedIp::V6(ip, None) => IpAddr::from(ip),
        ScopedIp::V6(_, Some(_)) => return None,
    };
    let server = super::address::ServerValue::try_from(ip.to_string()).ok()?;
    matches!(server.0, ServerAddress::Plain(_)).then_some(SocketAddr::new(ip, DNS_PORT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Select;

    fn servers(resolv_conf: &str) -> Vec<String> {
        let config = builtin(resolv_conf, &[]).expect(resolv_conf);
        let plain = |server: &ServerAddress| match server {
            ServerAddress::Plain(address) => address.ip().to_string(),
            other => panic!("{other:?}"),
        };
        config.upstreams[0].servers.iter().map(plain).collect()
    }

    #[test]
    fn one_route_to_the_nameservers() {
        let config = builtin("nameserver 10.0.0.10\noptions ndots:5 trust-ad\n", &[]).expect("config");
        assert_eq!(config.server.listen, LISTEN);
        assert_eq!(config.server.allow.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.0/8", "::1/128"]);
        assert_eq!(config.admin.listen, [SocketAddr::from(([127, 0, 0, 1], 9053))]);
        assert_eq!(config.routes.len(), 1);
        assert!(config.routes[0].zones[0].is_root());
        let upstream = &config.upstreams[0];
        assert_eq!(
            (upstream.name.as_str(), upstream.select, upstream.trust_ad),
            ("resolv.conf", Select::Ordered, true)
        );
    }

    #[test]
    fn without_ipv6_only_ipv4_is_listened_on() {
        let local = ["127.0.0.1".parse().expect("address")];
        let config = builtin("nameserver 10.0.0.10\n", &local).expect("config");
        assert_eq!(config.server.listen, LISTEN[..1]);
    }

    #[test]
    fn odd_files_are_read() {
        for (text, right) in [
            (
                "nameserver 172.21.0.1  #support docker\nnameserver 1.1.1.1   #custom \nnameserver 9.9.9.9",
                &["172.21.0.1", "1.1.1.1", "9.9.9.9"][..],
            ),
            (
                "nameserver 1.1.1.1\nnameserver 2620:fe::fe\nnameserver 8.8.8.8\nnameserver 9.9.9.9\n",
                &["1.1.1.1", "2620:fe::fe", "8.8.8.8", "9.9.9.9"],
            ),
            ("nameserver fe80::1%eth0\r\nnameserver fe80::2\r\nnameserver 10.0.0.2\r\n", &["10.0.0.2"]),
            (
                "; old\nsearch bad..name a,b\nsortlist x\noptions rotate odd:x\nnameserver 10.0.0.2 junk\nnonsense\n",
                &["10.0.0.2"],
            ),
            ("nameserver 10.0.0.2\nnameserver 10.0.0.2\nnameserver 10.0.0.300\n", &["10.0.0.2"]),
            ("nameserver 0.0.0.0\n", &["127.0.0.1"]),
        ] {
            assert_eq!(servers(text), right, "{text}");
        }
    }

    #[test]
    fn without_servers_it_says_what_to_do() {
        for text in ["", "search corp.example\n", "nameserver fe80::1%eth0\n"] {
            let error = builtin(text, &[]).expect_err(text).to_string();
            assert!(error.contains("--config"), "{error}");
        }
        let error = builtin("nameserver fe80::1%eth0\n", &[]).expect_err("zone").to_string();
        assert!(error.contains("not fe80::1%eth0"), "{error}");
    }

    #[test]
    fn a_loop_is_named() {
        let local = ["10.0.0.5".parse().expect("address")];
        for (nameserver, listener) in [("127.0.0.1", "127.0.0.1:53"), ("10.0.0.5", "0.0.0.0:53")] {
            let listen = [listener.parse().expect(listener)];
            let error = text(&format!("nameserver {nameserver}\n"), &listen, &local).expect_err(nameserver);
            assert!(error.to_string().contains(&format!("{nameserver}:53")), "{error}");
            assert!(error.to_string().contains(listener), "{error}");
        }
        assert!(builtin("nameserver 127.0.0.1\n", &local).is_ok(), "nodens listens on another port");
    }
}
