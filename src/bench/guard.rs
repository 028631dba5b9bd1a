//! Targets that may be loaded without explicit permission: this host and private networks. Other targets are rate limited.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::pace::Pace;

/// Maximum queries per second to a target outside this host and private networks, unless the user states a permission.
pub(crate) const GENTLE_RATE: u64 = 1_000;

/// Returns whether a target is this host (`own` lists its addresses), or in a private (RFC 1918, RFC 4193), shared
/// (RFC 6598) or link-local network. A DNS cache on a node often has a link-local address.
pub(crate) fn is_private(target: IpAddr, own: &[IpAddr]) -> bool {
    let target = target.to_canonical();
    let by_kind = match target {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local() || is_shared(v4),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    by_kind || own.contains(&target) || is_this_host(target)
}

/// Returns the first target that must not be queried at this pace, if there is one.
pub(crate) fn forbidden(targets: &[SocketAddr], pace: Pace, own: &[IpAddr]) -> Option<SocketAddr> {
    let gentle = matches!(pace, Pace::Open { rate } if rate <= GENTLE_RATE);
    targets.iter().copied().find(|target| !gentle && !is_private(target.ip(), own))
}

fn is_shared(v4: Ipv4Addr) -> bool {
    let [a, b, ..] = v4.octets();
    a == 100 && b & 0xc0 == 64
}

/// Returns whether `ip` is the unspecified address, which leads to this host.
fn is_this_host(ip: IpAddr) -> bool {
    ip == Ipv4Addr::UNSPECIFIED || ip == Ipv6Addr::UNSPECIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_targets_are_told_apart() {
        for ip in [
            "127.0.0.9",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "100.100.0.1",
            "169.254.20.10",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "0.0.0.0",
            "203.0.113.7",
        ] {
            assert!(is_private(ip.parse().expect(ip), &["203.0.113.7".parse().expect("ours")]), "{ip}");
        }
        for ip in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(!is_private(ip.parse().expect(ip), &[]), "{ip}");
        }
    }

    #[test]
    fn a_public_target_is_asked_gently() {
        let targets: Vec<SocketAddr> = ["127.0.0.1:53", "198.51.100.1:53"].map(|t| t.parse().expect(t)).into();
        assert_eq!(forbidden(&targets, Pace::Open { rate: GENTLE_RATE }, &[]), None);
        assert_eq!(forbidden(&targets, Pace::Open { rate: GENTLE_RATE + 1 }, &[]), Some(targets[1]));
        assert_eq!(forbidden(&targets, Pace::Closed { in_flight: 1 }, &[]), Some(targets[1]));
        assert_eq!(forbidden(&targets[..1], Pace::Closed { in_flight: 1 }, &[]), None);
    }
}
