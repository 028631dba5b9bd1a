//! Servers under test: their program names, and the minimal configuration that makes each a forwarder with one or two
//! upstreams. All other settings keep their defaults.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A DNS server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestedServer {
    /// nodens: this program.
    Nodens,
    /// NLnet Labs Unbound.
    Unbound,
    /// ISC BIND.
    Bind,
    /// CoreDNS, the DNS server of most clusters.
    CoreDns,
    /// PowerDNS dnsdist, a load balancer without a cache by default.
    Dnsdist,
    /// CZ.NIC Knot Resolver.
    Knot,
    /// dnsmasq.
    Dnsmasq,
}

/// Addresses and directory of one server process.
#[derive(Clone, Copy, Debug)]
pub struct TestedServerSetup<'a> {
    /// Listening address, for UDP and TCP.
    pub listen: SocketAddr,
    /// Addresses of its upstreams, the faulty one first.
    pub upstreams: &'a [SocketAddr],
    pub(crate) dir: &'a Path,
}

/// Directories of system programs, searched after PATH.
const MORE_PATH: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

impl TestedServer {
    /// All servers, nodens first.
    pub const ALL: [Self; 7] =
        [Self::Nodens, Self::Unbound, Self::Bind, Self::CoreDns, Self::Dnsdist, Self::Knot, Self::Dnsmasq];

    /// Returns the name on the command line, in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nodens => "nodens",
            Self::Unbound => "unbound",
            Self::Bind => "bind",
            Self::CoreDns => "coredns",
            Self::Dnsdist => "dnsdist",
            Self::Knot => "knot",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    /// Returns the server with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|server| server.name() == name)
    }

    /// Returns the name of its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Bind => "named",
            Self::Knot => "kresd",
            other => other.name(),
        }
    }

    /// Finds the file of its program: this program's own, or the first of that name in PATH and the system directories.
    ///
    /// # Errors
    /// `NotFound` if it is not installed; the system's error if the path of this program is not available.
    pub fn find(self) -> io::Result<PathBuf> {
        if self == Self::Nodens {
            return env::current_exe();
        }
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain(MORE_PATH.map(PathBuf::from))
            .map(|dir| dir.join(self.program()))
            .find(|file| file.is_file())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Returns the command-line arguments; `file` contains its [`TestedServer::config`].
    pub fn arguments(self, file: &str, place: &TestedServerSetup<'_>) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Nodens => &["serve", "--no-supervisor", "--config", file],
            Self::Unbound => &["-d", "-c", file],
            Self::Bind => &["-g", "-n", "1", "-c", file],
            Self::CoreDns => &["-conf", file],
            Self::Dnsdist => &["--supervised", "--disable-syslog", "-C", file],
            Self::Knot => return ["-n", "-c", file, &place.dir.display().to_string()].map(str::to_owned).into(),
            Self::Dnsmasq => &["--keep-in-foreground", "--user=", "--group=", "--pid-file=", "-C", file],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Returns the configuration file's text.
    pub fn config(self, place: &TestedServerSetup<'_>) -> String {
        let TestedServerSetup { listen, upstreams, dir } = place;
        let each = |line: &dyn Fn(&SocketAddr) -> String| upstreams.iter().map(line).collect::<Vec<_>>();
        let (ip, port, dir) = (listen.ip(), listen.port(), dir.display());
        match self {
            Self::Nodens => format!(
                "[server]\nlisten = [\"{listen}\"]\nworkers = 1\n\
                 [upstreams.both]\nservers = [{}]\nselect = \"ordered\"\n\
                 [[route]]\nzones = [\".\"]\nto = \"both\"\n",
                each(&|upstream| format!("\"{upstream}\"")).join(", ")
            ),
            Self::Unbound => format!(
                "server:\n  interface: {}\n  directory: \"{dir}\"\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"\"\n  \
                 use-syslog: no\n  do-not-query-localhost: no\n\
                 remote-control:\n  control-enable: no\n\
                 forward-zone:\n  name: \".\"\n{}",
                at(listen),
                each(&|upstream| format!("  forward-addr: {}\n", at(upstream))).concat()
            ),
            Self::Bind => {
                let (v4, v6) =
                    if ip.is_ipv4() { (ip.to_string(), "none".into()) } else { ("none".into(), ip.to_string()) };
                format!(
                    "options {{\n  directory \"{dir}\";\n  pid-file none;\n  lock-file none;\n  \
                     session-keyfile \"{dir}/session.key\";\n  listen-on port {port} {{ {v4}; }};\n  \
                     listen-on-v6 port {port} {{ {v6}; }};\n  forward only;\n  \
                     forwarders {{ {} }};\n  dnssec-validation no;\n}};\ncontrols {{ }};\n",
                    each(&|upstream| format!("{} port {};", upstream.ip(), upstream.port())).join(" ")
                )
            }
            Self::CoreDns => {
                let upstreams = each(&ToString::to_string).join(" ");
                format!(".:{port} {{\n  bind {ip}\n  forward . {upstreams}\n  cache 30\n}}\n")
            }
            Self::Dnsdist => format!(
                "setLocal(\"{listen}\")\nsetSecurityPollSuffix(\"\")\n\
                 {}",
                (1..)
                    .zip(*upstreams)
                    .map(|(order, upstream)| format!("newServer({{address=\"{upstream}\", order={order}}})\n"))
                    .collect::<String>()
            ),
            // No trust anchor: the upstreams' names are not signed.
            Self::Knot => format!(
                "net.listen('{ip}', {port}, {{ kind = 'dns' }})\ntrust_anchors.remove('.')\n\
                 cache.size = 10 * MB\npolicy.add(policy.all(policy.FORWARD({{ {} }})))\n",
                each(&|upstream| format!("'{}'", at(upstream))).join(", ")
            ),
            Self::Dnsmasq => format!(
                "port={port}\nlisten-address={ip}\nbind-interfaces\nno-resolv\nno-hosts\n{}",
                each(&|upstream| format!("server={}\n", at(upstream).replace('@', "#"))).concat()
            ),
        }
    }
}

/// Formats an address as Unbound and others expect it: `127.0.0.1@53`.
fn at(address: &SocketAddr) -> String {
    format!("{}@{}", address.ip(), address.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::parse::parse;

    #[test]
    fn every_peer_gets_its_listener_and_upstreams() {
        for ip in ["127.0.0.1", "[::1]"] {
            let address = |port| format!("{ip}:{port}").parse().unwrap();
            let upstreams = [address(20_001), address(20_002)];
            let place = TestedServerSetup { listen: address(10_053), upstreams: &upstreams, dir: Path::new("/d") };
            for server in TestedServer::ALL {
                let config = server.config(&place);
                let ports =
                    ["10053", "20001", "20002"].map(|port| config.find(port).unwrap_or_else(|| panic!("{config}")));
                assert!(ports.is_sorted(), "the one with the fault is first: {config}");
                let alone = server.config(&TestedServerSetup { upstreams: &upstreams[..1], ..place });
                assert!(alone.contains("20001") && !alone.contains("20002"), "{alone}");
                assert!(server.arguments("/d/config", &place).contains(&"/d/config".to_owned()));
                assert_eq!(TestedServer::named(server.name()), Some(server));
            }
            let config = parse(&TestedServer::Nodens.config(&place), &[]).unwrap();
            assert_eq!((config.upstreams.len(), config.routes.len()), (1, 1));
        }
    }
}
