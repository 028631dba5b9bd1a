//! A random cluster, and the answers of CoreDNS's `kubernetes` plugin for it.

use nodens::lab::zone::LabZone;

/// A pseudorandom generator with a fixed sequence.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `sides`.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

/// Labels of names; services and public names share them, and therefore collide.
const LABELS: [&str; 14] =
    ["web", "db", "api", "com", "org", "example", "io", "registry", "ci", "tcp", "dev", "a", "web-0", "10-1-2-3"];
/// Labels with a special meaning, used in their usual place and elsewhere.
const ODD: [&str; 9] = ["svc", "pod", "_tcp", "_http", "dns-version", "dns", "*", "any", "_udp"];

/// The records of a cluster, as lines of a zone file.
pub(crate) struct Cluster {
    lines: Vec<String>,
    /// Names that CoreDNS denies although names below them exist.
    denied: Vec<String>,
}

impl Cluster {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let mut cluster = Self { lines: Vec::new(), denied: Vec::new() };
        cluster.add("dns-version", "TXT \"1.1.0\"");
        cluster.add("ns.dns", "A 10.96.0.10");
        cluster.cluster_ip("kubernetes.default.svc", &["https"]);
        for namespace in ["ci", "shop", "com", "dev"] {
            for _ in 0..4 {
                let service = format!("{}.{namespace}.svc", dice.pick(&LABELS));
                if !cluster.lines.iter().any(|line| line.starts_with(&format!("{service}.cluster.local."))) {
                    cluster.service(&service, dice);
                }
            }
            let pod = format!("10-244-{}-{}.{namespace}.pod", dice.roll(256), dice.roll(256));
            for name in [pod.clone(), format!("a.{pod}"), format!("a.b.{pod}")] {
                cluster.add(&name, "A 10.244.1.7");
            }
        }
        cluster
    }

    fn service(&mut self, service: &str, dice: &mut Dice) {
        match dice.roll(4) {
            0 => self.cluster_ip(service, &["http", "metrics"]),
            1 => self.add(service, "CNAME www.elsewhere.example."),
            2 => {
                // Headless: endpoints by hostname and by address.
                for endpoint in ["web-0", "web-1", "10-244-3-4"] {
                    self.add(service, &format!("A 10.244.3.{}", dice.roll(256)));
                    self.add(&format!("{endpoint}.{service}"), "A 10.244.3.4");
                    self.ports(service, &["http"], &format!("{endpoint}.{service}"));
                    // kube-dns has this record, CoreDNS does not.
                    self.add(&format!("{endpoint}._http._tcp.{service}"), "A 10.244.3.4");
                }
            }
            // A service with IPv6 only.
            _ => self.add(service, "AAAA fd00::9"),
        }
    }

    fn cluster_ip(&mut self, service: &str, ports: &[&str]) {
        self.add(service, "A 10.96.0.9");
        self.ports(service, ports, service);
        self.add(&format!("10-244-3-9.{service}"), "A 10.244.3.9");
    }

    /// Adds the ports of a service. CoreDNS also accepts names without underscores, gives them an address, and denies the
    /// name between service and port.
    fn ports(&mut self, service: &str, ports: &[&str], target: &str) {
        for port in ports {
            for name in [format!("_{port}._tcp.{service}"), format!("{port}.tcp.{service}")] {
                self.add(&name, &format!("SRV 0 100 80 {target}.cluster.local."));
                self.add(&name, "A 10.96.0.9");
            }
        }
        self.denied.extend([format!("_tcp.{service}"), format!("tcp.{service}")]);
    }

    fn add(&mut self, name: &str, record: &str) {
        self.lines.push(format!("{name}.cluster.local. 5 {record}"));
    }

    pub(crate) fn zone(&self) -> LabZone {
        let zone = LabZone::new("cluster.local.").negative_ttl(5).records(&self.lines.join("\n"));
        self.denied.iter().fold(zone, |zone, name| zone.denied(&format!("{name}.cluster.local.")))
    }

    /// Returns every name with a record, and every ancestor of one.
    pub(crate) fn valid_names(&self) -> Vec<String> {
        let owners = self.lines.iter().filter_map(|line| line.split_once(". "));
        let mut names: Vec<String> = owners
            .flat_map(|(owner, _)| {
                let labels: Vec<&str> = owner.split('.').collect();
                (0..labels.len() - 1).map(|at| labels[at..].join(".")).collect::<Vec<_>>()
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Returns a random name of up to seven labels before `cluster.local`; most names are below `svc`.
    pub(crate) fn any_name(&self, dice: &mut Dice) -> String {
        let mut labels: Vec<&str> = (0..dice.roll(6)).map(|_| *dice.pick(&LABELS)).collect();
        match dice.roll(8) {
            0 => labels.push(*dice.pick(ODD.as_slice())),
            1 => {
                let at = dice.roll(labels.len() + 1);
                labels.insert(at, *dice.pick(ODD.as_slice()));
                labels.push("svc");
            }
            2 => {}
            3 => labels.push("pod"),
            4 | 5 => labels.extend(["ci", "svc"]),
            _ => labels.push("svc"),
        }
        labels.iter().map(|label| format!("{label}.")).collect::<String>() + "cluster.local"
    }
}
