//! Who may ask.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Bits before the IPv4 address in an IPv4-mapped IPv6 address.
const MAPPED: u8 = 96;

/// The list of allowed source addresses.
#[derive(Clone, Debug)]
pub struct Admission {
    allow: Vec<IpNet>,
}

impl Admission {
    /// Admits clients within `allow` and nobody else.
    pub fn new(allow: &[IpNet]) -> Self {
        let allow: Vec<IpNet> = allow.iter().map(canonical).collect();
        Self { allow: IpNet::aggregate(&allow) }
    }

    /// Whether `client` may ask. An IPv4-mapped IPv6 address counts as the IPv4 address that it is.
    #[inline]
    pub fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.allow.iter().any(|net| net.contains(&client))
    }
}

/// A network of IPv4-mapped addresses as the IPv4 network that it is, since clients are compared so.
fn canonical(net: &IpNet) -> IpNet {
    let mapped = |net: &ipnet::Ipv6Net| {
        let bits = net.prefix_len().checked_sub(MAPPED)?;
        Ipv4Net::new(net.addr().to_ipv4_mapped()?, bits).ok()
    };
    match net {
        IpNet::V6(v6) => mapped(v6).map_or(*net, IpNet::V4),
        IpNet::V4(_) => *net,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let admits = |allow: &[&str], client: &str| {
            let allow: Vec<IpNet> = allow.iter().map(|net| net.parse().expect(net)).collect();
            Admission::new(&allow).admits(client.parse().expect(client))
        };
        for (allow, client, expected) in [
            (&["10.0.0.0/8"][..], "10.1.2.3", true),
            (&["10.0.0.0/8"], "11.1.2.3", false),
            (&["10.0.0.0/8"], "::ffff:10.1.2.3", true),
            (&["10.1.2.3/8"], "10.9.9.9", true),
            (&["::ffff:10.0.0.0/104"], "10.1.2.3", true),
            (&["::ffff:10.0.0.0/104"], "::ffff:11.1.2.3", false),
            (&["fd00::/8"], "fd12::1", true),
            (&["::/0"], "::ffff:10.1.2.3", false),
            (&["::1/128", "127.0.0.0/8"], "127.0.0.53", true),
            (&[], "127.0.0.1", false),
        ] {
            assert_eq!(admits(allow, client), expected, "{client} in {allow:?}");
        }
    }
}
