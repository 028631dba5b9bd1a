//! UDP source ports of queries to upstreams: random, without the ports that other services of the node bind.
//!
//! nodens shares the node's network namespace, and holds a port for up to two minutes. The kernel excludes the ports of
//! `net.ipv4.ip_local_reserved_ports` only when it chooses a port itself. nodens draws its own ports (RFC 5452 section
//! 4.5), so it excludes these ports itself, and also the UDP ports of services that are common on nodes (RFC 6056 section
//! 3.2).

use std::ops::RangeInclusive;

use rand::RngExt;

/// Ports that the node's administrator keeps free: ports and ranges, separated by commas.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// Ports that need no privilege.
const UNPRIVILEGED: RangeInclusive<u16> = 1_024..=u16::MAX;
/// UDP ports of services that are common on nodes. Administrators could reserve them, but seldom do.
const OF_NODE_SERVICES: &[RangeInclusive<u16>] = &[
    1_194..=1_194,   // OpenVPN
    1_701..=1_701,   // L2TP
    1_812..=1_813,   // RADIUS
    2_049..=2_049,   // NFS
    2_152..=2_152,   // GTP-U
    3_478..=3_478,   // STUN
    3_784..=3_785,   // BFD
    4_242..=4_242,   // Nebula
    4_490..=4_500,   // Submariner, IPsec through NAT
    4_784..=4_784,   // BFD over several hops
    4_789..=4_789,   // VXLAN
    4_800..=4_800,   // Submariner
    5_353..=5_355,   // multicast DNS, LLMNR
    5_404..=5_412,   // Corosync
    6_081..=6_081,   // Geneve: OVN-Kubernetes, Antrea
    6_443..=6_443,   // HTTP/3 of an API server's load balancer
    6_783..=6_784,   // Weave Net
    6_831..=6_832,   // Jaeger agent
    7_946..=7_946,   // memberlist: MetalLB, Docker Swarm
    8_125..=8_126,   // StatsD, Datadog agent
    8_285..=8_285,   // flannel over UDP
    8_300..=8_302,   // Consul
    8_443..=8_443,   // HTTP/3 of an ingress controller
    8_472..=8_472,   // VXLAN of flannel and Cilium
    8_600..=8_600,   // Consul's DNS
    9_993..=9_993,   // ZeroTier
    10_350..=10_351, // Antrea
    30_000..=32_767, // node ports: Cilium and kube-proxy take what arrives there for a Service's
    41_641..=41_641, // Tailscale
    51_820..=51_821, // WireGuard: Calico, flannel
    51_871..=51_871, // WireGuard of Cilium
];

/// Ports to draw from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SourcePorts {
    ranges: Vec<RangeInclusive<u16>>,
    count: u32,
}

impl SourcePorts {
    /// Returns the ports that are free to use with the current settings of this machine.
    pub(super) fn of_this_machine() -> Self {
        Self::without(&std::fs::read_to_string(RESERVED).unwrap_or_default())
    }

    /// Returns the unprivileged ports without those in `reserved` (in the kernel's format) and of common services.
    fn without(reserved: &str) -> Self {
        let mut taken: Vec<_> = reserved.trim().split(',').filter_map(range).chain(OF_NODE_SERVICES.to_vec()).collect();
        taken.sort_by_key(|range| *range.start());
        let mut ranges = Vec::new();
        // First port not decided yet.
        let mut next = u32::from(*UNPRIVILEGED.start());
        for range in taken {
            let (start, end) = (u32::from(*range.start()), u32::from(*range.end()));
            if next < start {
                ranges.push(next as u16..=(start - 1) as u16);
            }
            next = next.max(end + 1);
        }
        if next <= u32::from(u16::MAX) {
            ranges.push(next as u16..=u16::MAX);
        }
        let count = ranges.iter().map(|range| range.len() as u32).sum();
        Self { ranges, count }
    }

    /// Draws one of the ports; `None` if all are excluded.
    pub(super) fn draw(&self, random: &mut impl RngExt) -> Option<u16> {
        let mut left = match self.count {
            0 => return None,
            count => random.random_range(0..count),
        };
        for range in &self.ranges {
            match range.len() as u32 {
                length if left < length => return Some(range.start() + left as u16),
                length => left -= length,
            }
        }
        None
    }
}

/// Parses `8472` or `30000-32767`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    Some(start.trim().parse().ok()?..=end.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_and_those_of_services_are_left_out() {
        let ports = SourcePorts::without("8080,9148,20000-29999,65535\n");
        let is_in = |port: u16| ports.ranges.iter().any(|range| range.contains(&port));
        for port in [0, 53, 1_023, 4_789, 8_080, 8_472, 9_148, 20_000, 25_000, 29_999, 30_000, 32_767, u16::MAX] {
            assert!(!is_in(port), "{port}");
        }
        for port in [1_024, 8_079, 8_081, 19_999, 32_768, 65_534] {
            assert!(is_in(port), "{port}");
        }
        let counted = (0..=u16::MAX).filter(|port| is_in(*port)).count();
        assert_eq!(ports.count as usize, counted);
        let mut random = rand::rng();
        assert!((0..10_000).all(|_| ports.draw(&mut random).is_some_and(is_in)));
    }

    #[test]
    fn each_port_can_be_drawn() {
        let ports = SourcePorts::without("1024-40000,40002-50000,50002-65535");
        let mut random = rand::rng();
        let drawn: std::collections::BTreeSet<_> = (0..1_000).filter_map(|_| ports.draw(&mut random)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [40_001, 50_001]);
        assert_eq!(SourcePorts::without("1024-65535").draw(&mut random), None);
    }

    #[test]
    fn a_list_that_makes_no_sense_leaves_nothing_out() {
        let none = SourcePorts::without("");
        for text in ["\n", ",", "x", "70000", "9-", "-9", "5-4-3"] {
            assert_eq!(SourcePorts::without(text), none, "{text:?}");
        }
        assert!(none.count > 60_000, "{}", none.count);
    }
}
