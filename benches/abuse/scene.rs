//! The upstreams, their zones, and their part of the servers' configurations.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nodens::lab::fault::Behaviour;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;

use crate::attack::Attack;
use crate::{denying, links, many_clients, reload};

/// Zone whose server never responds.
pub const SILENT: &str = "silent.example";
/// Zone whose server is slow.
pub const SLOW: &str = "slow.example";
/// Name in the slow zone with 61 KB of TXT records. All names below it have them too.
pub const BIG: &str = "big.slow.example";
/// Number of cached names that the honest client queries.
pub const CACHED_NAMES: usize = 100;
/// Network (/16) of clients that are not allowed to query, in the attack of strangers.
pub const STRANGERS: [u8; 2] = [127, 88];
/// Rounds of CNAMEs in the zone.
pub const ROUNDS: usize = 32;

/// Latency of the slow server. A large answer takes twice as long, because it is queried over UDP first.
const SLOWNESS: Duration = Duration::from_millis(500);
/// Number of TXT records in the large answer, of 1,007 bytes each. Servers refuse RRsets of very many records.
const TEXTS: usize = 60;

/// Returns a name that the honest client has queried before.
pub fn cached(number: usize) -> String {
    format!("h{number}.well.example")
}

/// Returns a name that was not queried before. Names with an odd number are fetched over TCP.
pub fn fresh(number: u64) -> String {
    let zone = if number.is_multiple_of(2) { "well.example" } else { links::LINKS };
    format!("f{number}.{zone}")
}

/// Returns one of many names that are CNAMEs of [`target`].
pub fn cname(number: usize, round: usize) -> String {
    format!("c{number}.r{round}.well.example")
}

/// Returns the target of all CNAMEs of a round.
fn target(round: usize) -> String {
    format!("t{round}.{SLOW}")
}

/// All upstreams.
pub struct Scene {
    /// Upstream for all names outside the zones of the others.
    pub well: Arc<LabUpstream>,
    silent: LabUpstream,
    /// Denies all names, for servers that do not deny `test` and the cluster's names themselves.
    denying: SocketAddr,
    /// Answers over TCP only.
    links: SocketAddr,
    /// Receives only queries for names of its zone; in the attack with CNAMEs, for their target.
    pub slow: LabUpstream,
}

impl Scene {
    /// Starts the upstreams in the current runtime.
    pub async fn start() -> io::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // The query that checks whether a server has started is for a name below the second origin.
        let well = LabZone::new("well.example.").origin("ci.example.net.");
        let cname = |round| format!("*.r{round}.well.example. 60 CNAME {}.", target(round));
        let well = (0..ROUNDS).map(cname).fold(well, |zone, line| zone.record(&line)).addresses_from_names();
        let text = format!("{0}\" \"{0}\" \"{0}\" \"{0}", "x".repeat(247));
        let big = ["", "*."].into_iter().flat_map(|below| (0..TEXTS).map(move |number| (below, number)));
        let slow = big.fold(LabZone::new(&format!("{SLOW}.")).addresses_from_names(), |zone, (below, number)| {
            zone.record(&format!("{below}{BIG}. 300 TXT \"{number:03}{text}\""))
        });
        let scene = Self {
            well: Arc::new(LabUpstream::start(any, well).await?),
            silent: LabUpstream::start(any, LabZone::new(".")).await?,
            denying: denying::start()?,
            links: links::start()?,
            slow: LabUpstream::start(any, slow).await?,
        };
        scene.silent.set(Behaviour::silent());
        scene.slow.set_latency(SLOWNESS);
        Ok(scene)
    }

    /// Returns the number of queries that all upstreams have received so far.
    pub fn seen(&self) -> u64 {
        let scripted = [&*self.well, &self.silent, &self.slow];
        denying::seen() + links::seen() + scripted.into_iter().map(LabUpstream::seen_count).sum::<u64>()
    }

    /// Returns the configuration of a server, from the template of the side-by-side run: 64 MiB of cache, and the upstream
    /// of each zone.
    pub fn config(&self, server: &str, template: &str, attack: Attack) -> String {
        let port = |upstream: &LabUpstream| upstream.address().port();
        let mut zones = vec![
            ("silent", SILENT, port(&self.silent)),
            ("slow", SLOW, port(&self.slow)),
            ("cluster", "cluster.local", self.denying.port()),
            ("links", links::LINKS, self.links.port()),
        ];
        if server != "nodens" {
            zones.push(("test", "test", self.denying.port())); // nodens does not deny a zone with a route
        }
        let each = |line: &dyn Fn(&str, &str, u16) -> String| -> String {
            zones.iter().map(|(group, zone, port)| line(group, zone, *port)).collect()
        };
        let [before, after] = match server {
            "nodens" => {
                let groups = each(&|group, zone, port| {
                    let group = format!(
                        "[upstreams.{group}]\nservers = [\"127.0.0.1:{port}\"]\n\
                                         [[route]]\nzones = [\"{zone}\"]\nto = \"{group}\"\n"
                    );
                    group
                });
                let more = match attack {
                    Attack::ReloadInALoop => reload::large(),
                    Attack::ManyClients => many_clients::view(),
                    _ => String::new(),
                };
                [String::new(), format!("[cache]\nmemory = \"64MiB\"\n{groups}{more}")]
            }
            "unbound" => {
                let forward = each(&|_, zone, port| {
                    format!("forward-zone:\n  name: \"{zone}\"\n  forward-addr: 127.0.0.1@{port}\n")
                });
                [String::new(), format!("server:\n  msg-cache-size: 32m\n  rrset-cache-size: 32m\n{forward}")]
            }
            "dnsdist" => {
                let pools = each(&|group, zone, port| {
                    format!(
                        "newServer({{address=\"127.0.0.1:{port}\", pool=\"{group}\", sockets=8}})\n\
                         addAction({{\"{zone}.\"}}, PoolAction(\"{group}\"))\n\
                         getPool(\"{group}\"):setCache(newPacketCache(200000))\n"
                    )
                });
                [String::new(), pools]
            }
            "knot-resolver" => {
                // The first matching policy applies.
                let policies = each(&|_, zone, port| {
                    format!(
                        "policy.add(policy.suffix(policy.FORWARD('127.0.0.1@{port}'), policy.todnames({{'{zone}.'}})))\n"
                    )
                });
                [policies, "cache.size = 64 * MB\n".to_owned()]
            }
            "pdns-recursor" => {
                let more = each(&|_, zone, port| format!("forward-zones+={zone}=127.0.0.1:{port}\n"));
                [String::new(), more]
            }
            "bind" => {
                let forward = each(&|_, zone, port| {
                    format!(
                        "zone \"{zone}\" {{ type forward; forward only; forwarders {{ 127.0.0.1 port {port}; }}; }};\n"
                    )
                });
                [String::new(), forward]
            }
            "dnsmasq" => [String::new(), each(&|_, zone, port| format!("server=/{zone}/127.0.0.1#{port}\n"))],
            "coredns" => {
                let blocks = each(&|_, zone, port| {
                    format!(
                        "{zone}:%PORT% {{\n    bind 127.0.0.1\n    errors\n    cache 3600\n    \
                         forward . 127.0.0.1:{port}\n}}\n"
                    )
                });
                [String::new(), blocks]
            }
            _ => Default::default(),
        };
        let upstream = self.well.address().port().to_string();
        let strangers = attack == Attack::Strangers;
        let template = if strangers { without_strangers(server, template) } else { template.to_owned() };
        before + &template.replace("%UPSTREAM%", &upstream) + "\n" + &after
    }
}

/// Returns a configuration in which clients of [`STRANGERS`] are not allowed to query.
fn without_strangers(server: &str, template: &str) -> String {
    let (from, to) = match server {
        "nodens" => ("workers = 1", "workers = 1\nallow = [\"127.0.0.0/10\", \"127.77.0.0/16\"]"),
        "unbound" => ("127.0.0.0/8 allow", "127.0.0.0/8 allow\n  access-control: 127.88.0.0/16 refuse"),
        "dnsdist" => ("\"127.0.0.0/8\"", "{\"127.0.0.0/10\", \"127.77.0.0/16\"}"),
        "bind" => ("{ 127.0.0.0/8; }", "{ !127.88.0.0/16; 127.0.0.0/8; }"),
        _ => return template.to_owned(),
    };
    template.replace(from, to)
}
