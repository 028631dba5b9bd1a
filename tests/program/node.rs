//! A node with pods: the addresses and the firewall of nodens, and their removal when nodens stops or was killed.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use crate::support::pod::{Pod, make_bridge};
use crate::support::space::{inside, ip};
use crate::support::{Dir, Nodens, eventually, send_signal, serve};

/// Addresses of nodens, the same on every node.
pub(crate) const ADDRESSES: [&str; 2] = ["169.254.20.10", "fd00:53::a"];
pub(crate) const TOOLS: [&str; 6] = ["ip", "nft", "conntrack", "nsenter", "dig", "setpriv"];

pub(crate) fn run(program: &str, words: &str) -> String {
    let output = Command::new(program).args(words.split(' ')).output().expect(program);
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Returns the addresses of the node, each with its link.
pub(crate) fn addresses() -> BTreeSet<String> {
    let text = run("ip", "-o address");
    let word = |line: &str, number: usize| line.split_whitespace().nth(number).unwrap_or_default().to_owned();
    // The kernel adds the link-local ones by itself.
    let all = text.lines().map(|line| format!("{} {}", word(line, 1), word(line, 3)));
    all.filter(|line| !line.contains(" fe80:")).collect()
}

pub(crate) fn has_address(address: &str) -> bool {
    addresses().iter().any(|line| line.contains(&format!(" {address}/")))
}

/// Returns the nftables tables.
pub(crate) fn tables() -> BTreeSet<String> {
    run("nft", "list tables").lines().map(str::to_owned).collect()
}

pub(crate) fn nodens(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nodens")).args(words).output().expect("nodens runs")
}

/// Returns whether the command succeeded, and its output.
pub(crate) fn said(output: &Output) -> (bool, String) {
    let text = [&*output.stdout, &*output.stderr].concat();
    (output.status.success(), String::from_utf8(text).expect("UTF-8"))
}

/// A node with a bridge, connection tracking, and an address and a table that do not belong to nodens.
pub(crate) struct Site {
    pub(crate) dir: Dir,
    before: (BTreeSet<String>, BTreeSet<String>),
}

impl Site {
    pub(crate) fn new() -> Self {
        make_bridge();
        ip("address add 169.254.20.11/32 dev lo");
        run("nft", "add table inet other");
        run("nft", "add chain inet other pre { type filter hook prerouting priority 0 ; }");
        // With this rule the kernel begins to track connections in this namespace.
        run("nft", "add rule inet other pre ct state new counter");
        Self { dir: Dir::new(), before: (addresses(), tables()) }
    }

    /// Returns a configuration; `node` is a part of its `[node]`. Without a fallback there, it has none.
    pub(crate) fn config(&self, node: &str, more: &str) -> String {
        let fallback = if node.contains("fallback") { "" } else { "fallback = \"none\"\n" };
        let socket = self.dir.file("run/handover.sock");
        format!(
            "[server]\nlisten = [\"{}\", \"[{}]\"]\nallow = [\"10.244.1.0/24\", \"fd00:1::/64\", \"169.254.20.10\"]\n\
             [admin]\nlisten = \"127.0.0.1:9053\"\n[handover]\nsocket = {socket:?}\n\
             [node]\naddresses = [\"{}\", \"{}\"]\n{fallback}{node}\n{more}",
            ADDRESSES[0], ADDRESSES[1], ADDRESSES[0], ADDRESSES[1]
        )
    }

    pub(crate) fn nodens(&self, config: &str) -> Nodens {
        let dir = Dir::new();
        let file = dir.write("nodens.toml", config);
        Nodens::spawn(serve().arg("--config").arg(file), dir)
    }

    /// Checks that addresses and tables are as before nodens started.
    pub(crate) fn is_as_before(&self) {
        assert_eq!((addresses(), tables()), self.before);
    }
}

/// An upstream without a server behind it, for tests that send no queries upstream.
pub(crate) const NOWHERE: &str =
    "[upstreams.up]\nservers = [\"127.0.0.1:9\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";

/// A server in its own namespace that has a record for one name.
pub(crate) struct Server {
    pod: Pod,
    program: std::process::Child,
    address: String,
}

impl Server {
    pub(crate) fn start(number: u8, dir: &Dir, name: &str, value: &str) -> Self {
        let pod = Pod::start(number, dir, "");
        let address = pod.addresses[0].clone();
        let text = format!(
            "[server]\nlisten = [\"{address}\", \"[{}]\"]\nallow = [\"0.0.0.0/0\", \"::/0\"]\n{NOWHERE}\
             [[record]]\nname = \"{name}\"\ntype = \"A\"\nvalue = \"{value}\"\n",
            pod.addresses[1]
        );
        let file = dir.write(&format!("server-{number}.toml"), &text);
        let program = pod.spawn(env!("CARGO_BIN_EXE_nodens"), &["serve", "--no-supervisor", "--config"], &file);
        eventually("a server", || {
            let output = pod.run("dig", &[&format!("@{address}"), "+short", "+tries=1", "+timeout=1", name]);
            (String::from_utf8_lossy(&output.stdout).trim() == value).then_some(())
        });
        Self { pod, program, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Returns the number of tracked connections to nodens.
fn tracked() -> usize {
    let of = |family: &str| run("conntrack", &format!("-L -f {family}"));
    let all = of("ipv4") + &of("ipv6");
    all.lines().filter(|line| line.contains("dport=53 ") && ADDRESSES.iter().any(|one| line.contains(one))).count()
}

/// Asks for each name from each pod, over both address families and both transports.
fn ask_all(pods: &[Pod], names: &[(&str, &str)]) {
    for pod in pods {
        for (name, value) in names {
            for server in ADDRESSES {
                for transport in ["+notcp", "+tcp"] {
                    let at = format!("@{server}");
                    let answer = pod.must("dig", &[&at, "+short", "+tries=1", "+timeout=30", transport, name]);
                    assert_eq!(answer.trim(), *value, "{name} {server} {transport}");
                }
            }
        }
    }
}

#[test]
fn pods_are_served_whatever_happens_to_nodens() {
    inside("node::pods_are_served_whatever_happens_to_nodens", &TOOLS, || {
        let site = Site::new();
        let servers = [
            ("web.shop.svc.cluster.local", "10.96.0.7"),
            ("git.corp.example", "10.0.0.7"),
            ("www.example.com", "192.0.2.1"),
        ];
        let [cluster, vpc, public] = [51, 52, 53].map(|number| {
            let (name, value) = servers[usize::from(number) - 51];
            Server::start(number, &site.dir, name, value)
        });
        let pods = [11, 12, 13].map(|number| Pod::start(number, &site.dir, "nameserver 169.254.20.10\n"));
        let routes = [("cluster.local", &cluster), ("corp.example", &vpc), (".", &public)].map(|(zone, server)| {
            let name = format!("up-{}", zone.len());
            let servers = format!("[upstreams.{name}]\nservers = [\"{}\"]\n", server.address);
            format!("{servers}[[route]]\nzones = [\"{zone}\"]\nto = \"{name}\"\n")
        });
        let before = (addresses(), tables());
        let config = site.config("", &routes.concat());

        // Without the firewall the kernel tracks each query; the firewall prevents that.
        let mut plain = site.nodens(&config.replace("[node]", "[node]\nfirewall = \"none\""));
        assert!(ADDRESSES.iter().all(|address| has_address(address)));
        ask_all(&pods, &servers);
        assert!(tracked() >= 12, "{}", run("conntrack", "-L"));
        plain.stop();
        assert_eq!((addresses(), tables()), before);
        run("conntrack", "-F");

        let mut nodens = site.nodens(&config);
        ask_all(&pods, &servers);
        assert_eq!(tracked(), 0, "{}", run("conntrack", "-L"));
        let queries = [("kind", "queries")];
        nodens.metric_becomes("nodens_node_untracked_packets_total", &queries, |count| count >= 36.0);
        nodens.metric_becomes("nodens_node_untracked_packets_total", &[("kind", "responses")], |count| count >= 36.0);

        // A new configuration.
        let file = nodens.config();
        std::fs::write(
            &file,
            config.clone() + "[[record]]\nname = \"new.example\"\ntype = \"A\"\nvalue = \"192.0.2.9\"\n",
        )
        .expect("writes");
        nodens.signal("HUP");
        nodens.logged("new configuration applied");
        ask_all(&pods, &[("new.example", "192.0.2.9")]);
        // A worker that dies.
        for _ in 0..3 {
            send_signal(nodens.worker().expect("a worker"), "KILL");
            ask_all(&pods[..1], &servers);
        }
        // Handovers.
        for _ in 0..3 {
            let new = site.nodens(&config);
            nodens.logged("handed over");
            ask_all(&pods[..1], &servers);
            nodens.stop();
            ask_all(&pods[1..2], &servers);
            nodens = new;
        }
        assert!(ADDRESSES.iter().all(|address| has_address(address)));
        assert_eq!(tracked(), 0, "{}", run("conntrack", "-L"));
        nodens.stop();
        assert_eq!((addresses(), tables()), before);
    });
}

/// Addresses of the Service of kube-dns.
pub(crate) const KUBE_DNS: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
/// Name that both kube-dns and nodens know, with different addresses.
pub(crate) const NAME: &str = "web.shop.svc.cluster.local";
pub(crate) const BY_KUBE_DNS: &str = "10.96.0.7";
pub(crate) const BY_NODENS: &str = "192.0.2.7";

#[test]
fn the_address_of_kube_dns_is_nodens_until_it_goes() {
    inside("node::the_address_of_kube_dns_is_nodens_until_it_goes", &TOOLS, || {
        const KUBE_DNS: &str = self::KUBE_DNS[0];
        let site = Site::new();
        let name = "web.shop.svc.cluster.local";
        let server = Server::start(51, &site.dir, name, "10.96.0.7");
        let pod = Pod::start(11, &site.dir, "");
        // As kube-proxy does for the Service of kube-dns; and responses from pod to pod return by way of the node.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("writes");
        run("nft", "add table ip kube-proxy");
        run("nft", "add chain ip kube-proxy services { type nat hook prerouting priority dstnat ; }");
        run("nft", "add chain ip kube-proxy leave { type nat hook postrouting priority srcnat ; }");
        for protocol in ["udp", "tcp"] {
            let rule = format!("add rule ip kube-proxy services ip daddr {KUBE_DNS} {protocol} dport 53");
            run("nft", &format!("{rule} dnat to {}", server.address));
        }
        run("nft", "add rule ip kube-proxy leave ct status dnat masquerade");
        let ask = |transport: &str| {
            let words = [&format!("@{KUBE_DNS}"), "+short", "+tries=1", "+timeout=30", transport, name];
            pod.must("dig", &words).trim().to_owned()
        };
        let by_whom = || [ask("+notcp"), ask("+tcp")];
        assert_eq!(by_whom(), ["10.96.0.7"; 2], "by kube-proxy");
        let record = format!("{NOWHERE}[[record]]\nname = \"{name}\"\ntype = \"A\"\nvalue = \"192.0.2.7\"\n");
        let config = site.config("", &record);
        let config = config.replace("listen = [\"169", &format!("listen = [\"{KUBE_DNS}\", \"169"));
        let config = config.replace("addresses = [\"169", &format!("addresses = [\"{KUBE_DNS}\", \"169"));
        let mut nodens = site.nodens(&config);
        assert_eq!(by_whom(), ["192.0.2.7"; 2], "by nodens");
        nodens.stop();
        assert_eq!(by_whom(), ["10.96.0.7"; 2], "by kube-proxy again");

        // Killed: the node still has the address, but its queries are kube-proxy's.
        let mut nodens = site.nodens(&config.replace("\"none\"", &format!("\"{KUBE_DNS}\"")));
        let becomes = |expected: &str| {
            eventually("the answers of another server", || {
                let words = [&format!("@{KUBE_DNS}"), "+short", "+tries=1", "+timeout=1", name];
                let answer = pod.run("dig", &words).stdout;
                (String::from_utf8_lossy(&answer).trim() == expected).then_some(())
            });
        };
        becomes("192.0.2.7");
        nodens.kill();
        becomes("10.96.0.7");
        assert_eq!(by_whom(), ["10.96.0.7"; 2], "by kube-proxy");
        assert!(has_address(KUBE_DNS));
        assert!(said(&self::nodens(&["node", "cleanup"])).0);
    });
}

/// Translates the addresses of the Service to those of a server, as kube-proxy does. Responses return by way of the node.
pub(crate) fn kube_proxy(server: &Server) {
    for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{file}"), "1").expect("writes");
    }
    for (family, number, pods, gateway) in
        [("ip", 0, "10.244.1.0/24", "10.244.1.254"), ("ip6", 1, "fd00:1::/64", "fd00:1::ff")]
    {
        ip(&format!("{} route add default via {gateway}", if number == 1 { "-6" } else { "-4" }));
        let table = format!("{family} kube-proxy");
        run("nft", &format!("add table {table}"));
        for (chain, hook) in [("services", "prerouting priority -100"), ("own", "output priority -100")] {
            run("nft", &format!("add chain {table} {chain} {{ type nat hook {hook} ; }}"));
            for protocol in ["udp", "tcp"] {
                let rule = format!("add rule {table} {chain} {family} daddr {} {protocol} dport 53", KUBE_DNS[number]);
                run("nft", &format!("{rule} dnat to {}", server.pod.addresses[number]));
            }
        }
        // Not for the node's own queries: nodens has to translate their source.
        run("nft", &format!("add chain {table} leave {{ type nat hook postrouting priority 100 ; }}"));
        run("nft", &format!("add rule {table} leave {family} saddr {pods} ct status dnat masquerade"));
    }
}

/// Asks for the name from a pod or, without one, from the node itself: over both families and both transports. Returns the
/// distinct answers; an empty one if there is none within `seconds`.
fn answers(pod: Option<&Pod>, seconds: u32) -> BTreeSet<String> {
    let timeout = format!("+timeout={seconds}");
    let mut answers = BTreeSet::new();
    for server in ADDRESSES {
        for transport in ["+notcp", "+tcp"] {
            let words = [&format!("@{server}"), "+short", "+tries=1", &timeout, transport, NAME];
            let output = match pod {
                Some(pod) => pod.run("dig", &words),
                None => Command::new("dig").args(words).output().expect("dig runs"),
            };
            answers.insert(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
    }
    answers
}

/// Waits until all answers are these. Those of kube-dns then have to stay so; a nodens that gets no CPU time is not alive.
pub(crate) fn answers_become(pods: &[Option<&Pod>], expected: &str) {
    let all = |seconds| pods.iter().flat_map(|pod| answers(*pod, seconds)).collect::<BTreeSet<_>>();
    let is_kube_dns = expected == BY_KUBE_DNS;
    let expected = BTreeSet::from([expected.to_owned()]);
    eventually("the answers of another server", || (all(1) == expected).then_some(()));
    for _ in 0..if is_kube_dns { 5 } else { 0 } {
        assert_eq!(all(30), expected);
    }
}

#[test]
fn the_fallback_answers_while_nodens_does_not() {
    inside("node::the_fallback_answers_while_nodens_does_not", &TOOLS, || {
        let site = Site::new();
        let server = Server::start(51, &site.dir, NAME, BY_KUBE_DNS);
        let pod = Pod::start(11, &site.dir, "");
        kube_proxy(&server);
        let before = (addresses(), tables());
        let record = format!("{NOWHERE}[[record]]\nname = \"{NAME}\"\ntype = \"A\"\nvalue = \"{BY_NODENS}\"\n");
        let config = |more: &str| {
            let fallback = format!("fallback = [\"{}\", \"{}\"]\n{more}", KUBE_DNS[0], KUBE_DNS[1]);
            site.config(&fallback, &record)
                .replace("\"169.254.20.10\"]\n[admin]", "\"169.254.20.10\", \"fd00:53::a\"]\n[admin]")
        };
        let file = site.dir.write("nodens.toml", &config(""));
        let status = || said(&nodens(&["node", "status", "--config", file.to_str().expect("UTF-8")])).1;
        let all = [Some(&pod), None];

        let mut serving = site.nodens(&config(""));
        eventually("answers without connection tracking", || {
            run("conntrack", "-F");
            answers_become(&all, BY_NODENS);
            (tracked() == 0).then_some(())
        });
        eventually("the status of the fallback", || {
            status().contains("fallback  10.96.0.10, fd00:10:96::a  ready").then_some(())
        });

        // Killed, and started again.
        serving.kill();
        answers_become(&all, BY_KUBE_DNS);
        assert!(status().contains("in use: nodens does not serve"), "{}", status());
        serving = site.nodens(&config(""));
        answers_become(&all, BY_NODENS);
        assert!(serving.logged("fallback used while nodens did not serve").contains("packets"));
        serving.metric_becomes("nodens_node_fallback_packets_total", &[], |count| count >= 8.0);

        // A worker that no longer runs, and runs again.
        let worker = serving.worker().expect("a worker");
        send_signal(worker, "STOP");
        answers_become(&all, BY_KUBE_DNS);
        send_signal(worker, "CONT");
        answers_become(&all, BY_NODENS);

        // A successor; then a clean stop, which removes everything.
        let new = site.nodens(&config(""));
        serving.logged("handed over");
        serving.stop();
        answers_become(&all, BY_NODENS);
        serving = new;
        serving.stop();
        assert_eq!((addresses(), tables()), before);

        // A clean stop that keeps the fallback.
        let mut serving = site.nodens(&config("keep_fallback = true"));
        answers_become(&all, BY_NODENS);
        serving.stop();
        answers_become(&[Some(&pod)], BY_KUBE_DNS);
        assert_eq!(addresses(), before.0);
        assert!(said(&nodens(&["node", "cleanup"])).0);
        assert_eq!((addresses(), tables()), before);
    });
}

#[test]
fn leftovers_of_a_kill_are_reused_or_removed() {
    inside("node::leftovers_of_a_kill_are_reused_or_removed", &TOOLS, || {
        let site = Site::new();
        let config = site.config("", NOWHERE);
        let file = site.dir.write("nodens.toml", &config);
        let file = file.to_str().expect("UTF-8");
        assert_eq!(said(&nodens(&["node", "cleanup"])), (true, "nothing to remove\n".to_owned()));
        assert!(!said(&nodens(&["node", "status", "--config", file])).0, "nothing is there");
        for words in [&["node", "cleanup"][..], &["node", "cleanup", "--config", file]] {
            let mut killed = site.nodens(&config);
            let (good, status) = said(&nodens(&["node", "status", "--config", file]));
            assert!(
                good && status.contains("address   169.254.20.10  on lo") && status.contains("in place"),
                "{status}"
            );
            let (good, text) = said(&nodens(words));
            assert!(!good && text.contains("a process listens on"), "{text}");
            killed.kill();
            assert!(has_address(ADDRESSES[0]) && tables().contains("table inet nodens"));
            // The next nodens finds the leftovers, and removes them when it stops.
            let mut next = site.nodens(&config);
            assert!(!next.log().iter().any(|line| line.contains("node repaired")));
            next.signal("TERM");
            next.exit();
            site.is_as_before();

            let mut killed = site.nodens(&config);
            killed.kill();
            let (good, text) = said(&nodens(words));
            let lines = [
                "removed the table nodens of nftables",
                "removed 169.254.20.10 from the link lo",
                "removed fd00:53::a from the link lo",
            ];
            assert!(good && lines.iter().all(|line| text.contains(line)), "{text}");
            site.is_as_before();
            assert_eq!(said(&nodens(words)), (true, "nothing to remove\n".to_owned()));
        }
    });
}

#[test]
fn removed_rules_come_back_foreign_rules_stay() {
    inside("node::removed_rules_come_back_foreign_rules_stay", &TOOLS, || {
        let site = Site::new();
        // This address does not belong to nodens.
        ip("address add fd00:53::a/128 dev lo nodad");
        let mut nodens = site.nodens(&site.config("interface = \"lo\"", NOWHERE));
        let rules = || run("nft", "list table inet nodens").matches("notrack").count();
        let mut repairs = 0.0;
        for damage in [
            &["flush table inet nodens"][..],
            &["delete chain inet nodens output"],
            &["delete table inet nodens"],
            &["add rule inet nodens output counter"],
            &["flush ruleset", "add table inet other"],
        ] {
            damage.iter().for_each(|words| drop(run("nft", words)));
            repairs += 1.0;
            nodens.metric_becomes("nodens_node_repairs_total", &[("what", "firewall")], |count| count == repairs);
            assert_eq!(rules(), 12, "{damage:?}");
        }
        ip("address del 169.254.20.10/32 dev lo");
        nodens.metric_becomes("nodens_node_repairs_total", &[("what", "address")], |count| count == 1.0);
        assert!(has_address(ADDRESSES[0]));
        assert!(nodens.logged("node repaired").contains("the table of nftables"));
        nodens.stop();
        assert!(!has_address(ADDRESSES[0]) && has_address(ADDRESSES[1]), "{:?}", addresses());
        assert!(!tables().contains("table inet nodens") && tables().contains("table inet other"));
    });
}

#[test]
fn a_node_without_ipv6_is_served_over_ipv4() {
    inside("node::a_node_without_ipv6_is_served_over_ipv4", &TOOLS, || {
        let site = Site::new();
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("writes");
        let before = (addresses(), tables());
        let record = format!("{NOWHERE}[[record]]\nname = \"{NAME}\"\ntype = \"A\"\nvalue = \"{BY_NODENS}\"\n");
        let mut nodens = site.nodens(&site.config("", &record));
        let ask = || run("dig", &format!("@{} +short +tries=1 +timeout=30 {NAME}", ADDRESSES[0]));
        assert_eq!(ask().trim(), BY_NODENS);
        let told = |nodens: &Nodens| nodens.log().iter().filter(|line| line.contains("IPv6 is switched off")).count();
        assert!(nodens.logged("IPv6 is switched off on this node").contains("fd00:53::a"));
        // A reload is no news, and needs no restart.
        std::fs::write(nodens.config(), site.config("", &format!("{record}# changed\n"))).expect("writes");
        nodens.signal("HUP");
        assert!(!nodens.logged("new configuration applied").contains("restart"));
        assert_eq!((ask().trim(), told(&nodens)), (BY_NODENS, 1));
        nodens.stop();
        assert_eq!((addresses(), tables()), before);
    });
}

#[test]
fn a_failed_set_up_is_undone_whole() {
    inside("node::a_failed_set_up_is_undone_whole", &TOOLS, || {
        let site = Site::new();
        ip("address add fd00:53::a/128 dev pods nodad");
        let before = (addresses(), tables());
        let file = site.dir.write("nodens.toml", &site.config("", NOWHERE));
        let output = nodens(&["serve", "--config", file.to_str().expect("UTF-8")]);
        let (good, text) = said(&output);
        assert!(!good && text.contains("fd00:53::a is on the link pods already"), "{text}");
        assert_eq!((addresses(), tables()), before, "169.254.20.10 is gone again");
    });
}

#[test]
fn what_cannot_be_done_is_said() {
    inside("node::what_cannot_be_done_is_said", &TOOLS, || {
        let site = Site::new();
        let start = |node: &str, drop: bool| {
            let file = site.dir.write("refused.toml", &site.config(node, NOWHERE));
            let mut command = Command::new(if drop { "setpriv" } else { "env" });
            if drop {
                command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
            }
            command.arg(env!("CARGO_BIN_EXE_nodens")).args(["serve", "--config"]).arg(file);
            let output = command.env_remove("NODENS_LOG").output().expect("nodens runs");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (code, text) = start("", true);
        assert!(code == Some(1) && text.contains("it needs CAP_NET_ADMIN"), "{code:?} {text}");
        let (code, text) = start("interface = \"none0\"", false);
        assert!(code == Some(1) && text.contains("there is no link none0: see [node] interface"), "{code:?} {text}");
        ip("address add 169.254.20.10/32 dev pods");
        let (code, text) = start("", false);
        assert!(
            code == Some(1) && text.contains("169.254.20.10 is on the link pods already, not on"),
            "{code:?} {text}"
        );
        ip("address del 169.254.20.10/32 dev pods");
        // If the kernel supports dummy links, there is no error to check.
        if !Command::new("ip")
            .args(["link", "add", "probe0", "type", "dummy"])
            .output()
            .expect("ip runs")
            .status
            .success()
        {
            let (code, text) = start("interface = \"dummy\"", false);
            assert!(code == Some(1) && text.contains("cannot make the dummy link nodens"), "{code:?} {text}");
        } else {
            ip("link del probe0");
        }
        site.is_as_before();
        // Without permission to write nftables tables, nodens still serves. The addresses exist already.
        ip("address add 169.254.20.10/32 dev lo");
        ip("address add fd00:53::a/128 dev lo nodad");
        let dir = Dir::new();
        let file = dir.write("nodens.toml", &site.config("interface = \"lo\"", NOWHERE));
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", env!("CARGO_BIN_EXE_nodens"), "serve"]);
        let mut nodens = Nodens::spawn(command.args(["--log", "json", "--config"]).arg(file), dir);
        nodens.logged("cannot exclude queries");
        nodens.stop();
        assert!(ADDRESSES.iter().all(|address| has_address(address)), "they are not nodens' own");
    });
}
