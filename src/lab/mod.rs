//! A small hybrid network on loopback with scripted upstreams, for the demo, the tests and the benchmarks.
//!
//! ```text
//!             ┌─ cluster.local, 10.96.0.0/12 ──► kube-dns            2 ms
//! nodens ─────┼─ corp.example, 10.0.0.0/8 ─────► vpc-1, vpc-2        6 ms
//!             └─ everything else ──────────────► public-1, public-2  20 ms
//! ```
//!
//! - [`upstream`]: a DNS server that answers from a [`zone`], misbehaves as its [`fault`] says and logs the queries it has
//!   [`seen`];
//! - [`LabNetwork`]: five servers, and the configuration of a nodens in front of them;
//! - [`client`] sends one query, [`tour`](mod@tour) a whole series, and [`console`] breaks servers on command.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use self::upstream::LabUpstream;
use self::zone::LabZone;

pub mod client;
pub(crate) mod console;
pub mod fault;
pub(crate) mod front;
mod port;
mod script;
pub mod seen;
mod tcp;
pub(crate) mod tour;
pub mod upstream;
pub mod zone;

/// A group of servers that give the same answers: one part of the split DNS.
#[derive(Debug)]
pub struct Horizon {
    /// Name of the upstream.
    pub group: &'static str,
    /// Zones that are routed to it, as in a configuration.
    pub zones: &'static [&'static str],
    /// Names of its servers.
    pub servers: &'static [&'static str],
    /// Response time of its servers.
    pub latency: Duration,
    /// Further lines for its upstream and for its route.
    settings: [&'static str; 2],
    /// Names to query, each with its type.
    pub examples: &'static [(&'static str, &'static str)],
    zone: fn() -> LabZone,
}

/// All groups of the network.
pub const HORIZONS: [Horizon; 3] = [
    Horizon {
        group: "kube-dns",
        zones: &["cluster.local", "10.96.0.0/12"],
        servers: &["kube-dns"],
        latency: Duration::from_millis(2),
        settings: ["", "negative_max_ttl = \"5s\"\n"],
        examples: &[("kubernetes.default.svc.cluster.local", "A"), ("1.0.96.10.in-addr.arpa", "PTR")],
        zone: cluster_zone,
    },
    Horizon {
        group: "vpc",
        zones: &["corp.example", "10.0.0.0/8"],
        servers: &["vpc-1", "vpc-2"],
        latency: Duration::from_millis(6),
        settings: ["select = \"ordered\"\ndeadline = \"1500ms\"\n", ""],
        examples: &[("artifacts.corp.example", "A"), ("7.3.0.10.in-addr.arpa", "PTR")],
        zone: private_zone,
    },
    Horizon {
        group: "public",
        zones: &["."],
        servers: &["public-1", "public-2"],
        latency: Duration::from_millis(20),
        settings: ["select = \"fastest\"\n", "deny_private_addresses = true\n"],
        examples: &[("pypi.example.org", "A"), ("registry-mirror.example.com", "A")],
        zone: public_zone,
    },
];

/// Name and address of the static record in the configuration.
pub const STATIC_RECORD: (&str, Ipv4Addr) = ("runner-cache.corp.example", Ipv4Addr::new(10, 0, 3, 99));

/// One server of the network.
#[derive(Debug)]
pub struct LabServer {
    /// Name of the server: `vpc-1`.
    pub name: &'static str,
    /// Group that it belongs to: `vpc`.
    pub group: &'static str,
    pub(crate) upstream: LabUpstream,
}

/// Servers of a hybrid cluster, on free ports of 127.0.0.1.
#[derive(Debug)]
pub struct LabNetwork {
    servers: Vec<LabServer>,
}

impl LabNetwork {
    /// Starts all servers in the current tokio runtime.
    ///
    /// # Errors
    /// The system's error if no port can be bound.
    pub async fn start() -> io::Result<Self> {
        let mut servers = Vec::new();
        for horizon in &HORIZONS {
            for &name in horizon.servers {
                let upstream = LabUpstream::start((Ipv4Addr::LOCALHOST, 0).into(), (horizon.zone)()).await?;
                upstream.set_latency(horizon.latency);
                servers.push(LabServer { name, group: horizon.group, upstream });
            }
        }
        Ok(Self { servers })
    }

    /// Returns all servers, those of one group in sequence.
    pub fn servers(&self) -> &[LabServer] {
        &self.servers
    }

    /// Returns the server of that name.
    pub fn server(&self, name: &str) -> Option<&LabUpstream> {
        self.servers.iter().find(|server| server.name == name).map(|server| &server.upstream)
    }

    /// Returns the servers of a group.
    pub fn group<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a LabServer> {
        self.servers.iter().filter(move |server| server.group == group)
    }

    /// Returns the configuration of a nodens in front of this network, with UDP and TCP listeners on `listen`; port 0 takes any.
    pub fn config(&self, listen: &[SocketAddr], admin: Option<SocketAddr>) -> String {
        let listen = quoted(listen.iter());
        let mut text = format!("[server]\nlisten = [{listen}]\nallow = [\"127.0.0.0/8\", \"::1/128\"]\n");
        if let Some(admin) = admin {
            text += &format!("\n[admin]\nlisten = \"{admin}\"\n");
        }
        text += "\n[cache]\nmemory = \"16MiB\"\nstale = \"1h\"\n";
        for Horizon { group, settings: [settings, _], .. } in &HORIZONS {
            let servers = quoted(self.group(group).map(|server| server.upstream.address()));
            text += &format!("\n[upstreams.{group}]\nservers = [{servers}]\n{settings}");
        }
        for Horizon { group, zones, settings: [_, settings], .. } in &HORIZONS {
            let zones = quoted(zones.iter());
            text += &format!("\n[[route]]\nzones = [{zones}]\nto = \"{group}\"\n{settings}");
        }
        let (name, address) = STATIC_RECORD;
        text + &format!("\n[[record]]\nname = \"{name}\"\ntype = \"A\"\nvalue = \"{address}\"\nttl = \"5m\"\n")
    }
}

fn quoted<T: ToString>(values: impl Iterator<Item = T>) -> String {
    values.map(|value| format!("\"{}\"", value.to_string())).collect::<Vec<_>>().join(", ")
}

fn cluster_zone() -> LabZone {
    LabZone::new("cluster.local.").negative_ttl(5).origin("96.10.in-addr.arpa.").records(
        "kubernetes.default.svc.cluster.local. 30 A 10.96.0.1
         registry.gitlab.svc.cluster.local. 30 A 10.96.14.20
         kube-dns.kube-system.svc.cluster.local. 30 A 10.96.0.10
         _https._tcp.kubernetes.default.svc.cluster.local. 30 SRV 0 100 443 kubernetes.default.svc.cluster.local.
         1.0.96.10.in-addr.arpa. 30 PTR kubernetes.default.svc.cluster.local.
         20.14.96.10.in-addr.arpa. 30 PTR registry.gitlab.svc.cluster.local.",
    )
}

/// Returns the private zone. The TTL of `db` is 1 s, so that the tour can see it go stale. Every name below `build` exists:
/// there is always one that was never queried.
fn private_zone() -> LabZone {
    LabZone::new("corp.example.").origin("10.in-addr.arpa.").records(
        "registry.corp.example. 60 A 10.0.3.7
         artifacts.corp.example. 60 CNAME store.corp.example.
         store.corp.example. 60 A 10.0.3.8
         store.corp.example. 60 A 10.0.3.9
         db.corp.example. 1 A 10.0.5.4
         *.build.corp.example. 60 A 10.0.7.1
         7.3.0.10.in-addr.arpa. 60 PTR registry.corp.example.
         8.3.0.10.in-addr.arpa. 60 PTR store.corp.example.",
    )
}

/// Returns the public zone. Public servers see no private name, so the chain of `registry-mirror` ends in NXDOMAIN there.
fn public_zone() -> LabZone {
    let zone = LabZone::new(".").origin("example.com.").origin("example.org.").records(
        "registry.example.com. 300 A 192.0.2.10
         registry.example.com. 300 AAAA 2001:db8::10
         www.example.com. 300 A 192.0.2.80
         registry-mirror.example.com. 300 CNAME registry.corp.example.
         rebind.example.com. 300 A 10.0.3.7
         pypi.example.org. 300 A 198.51.100.7
         pypi.example.org. 300 A 198.51.100.8",
    );
    // Too large for a datagram: 60 addresses of 28 bytes each.
    (1..=60).fold(zone, |zone, n| zone.record(&format!("mirrors.example.org. 300 AAAA 2001:db8::{n}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::client::{LabQuery, ask};
    use super::*;

    #[tokio::test]
    async fn each_horizon_answers_its_own_examples() {
        let network = LabNetwork::start().await.unwrap();
        assert_eq!(network.servers().len(), 5);
        for horizon in &HORIZONS {
            for server in network.group(horizon.group) {
                for (name, qtype) in horizon.examples {
                    let question = LabQuery::new(name, qtype).unwrap();
                    let response = ask(server.upstream.address(), &question).await.unwrap();
                    assert!(!response.message.answers.is_empty(), "{name} from {}", server.name);
                }
            }
        }
    }

    #[tokio::test]
    async fn the_configuration_is_toml_with_every_server() {
        let network = LabNetwork::start().await.unwrap();
        let text = network.config(&["127.0.0.1:5300".parse().unwrap()], Some("127.0.0.1:0".parse().unwrap()));
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["server"]["listen"][0].as_str(), Some("127.0.0.1:5300"));
        assert_eq!(table["admin"]["listen"].as_str(), Some("127.0.0.1:0"));
        assert_eq!(table["route"].as_array().unwrap().len(), 3);
        for server in network.servers() {
            let servers = table["upstreams"][server.group]["servers"].as_array().unwrap();
            let address = server.upstream.address().to_string();
            assert!(servers.iter().any(|server| server.as_str() == Some(&address)));
        }
        assert!(!network.config(&[], None).contains("admin"));
    }
}
