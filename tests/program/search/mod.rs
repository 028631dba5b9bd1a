//! Search lists, with the built binary: `prune_search` changes no answer, and saves kube-dns a number of queries from
//! real resolvers.

use std::process::Command;
use std::thread;

use crate::support::api::Api;
use crate::support::client::{A, ask_udp, parse, query, receive};
use crate::support::space::{inside, put_in_place};
use crate::support::{DEADLINE, Dir, Nodens, eventually, upstream, upstream_on};
use cluster::{Cluster, Dice};
use hickory_proto::op::ResponseCode;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;

mod cluster;
/// Search list of a pod in the namespace `ci`.
const SEARCH: [&str; 4] = ["ci.svc.cluster.local", "svc.cluster.local", "cluster.local", "eu-west-1.compute.internal"];

fn config(listen: &str, kube_dns: &LabUpstream, public: &LabUpstream, keys: &str) -> String {
    format!(
        "[server]\nlisten = [\"{listen}\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [upstreams.kube-dns]\nservers = [\"{}\"]\n[upstreams.public]\nservers = [\"{}\"]\n\
         [[route]]\nzones = [\"cluster.local\"]\nto = \"kube-dns\"\n{keys}\n[[route]]\nzones = [\".\"]\nto = \"public\"\n",
        kube_dns.address(),
        public.address()
    )
}

/// Resolves a name; returns the response code, and the answers without their TTLs.
fn answer(nodens: &Nodens, name: &str, qtype: u16) -> (ResponseCode, Vec<String>) {
    told(&ask_udp(nodens.address(), &query(7, name, qtype)))
}

fn told(response: &[u8]) -> (ResponseCode, Vec<String>) {
    let response = parse(response);
    let mut answers: Vec<_> =
        response.answers.iter().map(|record| format!("{} {}", record.name.to_lowercase(), record.data)).collect();
    answers.sort();
    (response.metadata.response_code, answers)
}

#[test]
fn every_answer_is_the_same() {
    let mut dice = Dice::new(0x5eed);
    let cluster = Cluster::new(&mut dice);
    let (kube_dns, public) = (upstream(cluster.zone()), upstream(LabZone::new(".")));
    let start = |keys| Nodens::start(&config("127.0.0.1:0", &kube_dns, &public, keys));
    let (plain, pruning) = (start("prune_search = false"), start("prune_search = true"));
    let names = cluster.valid_names();
    let ask = |mut dice: Dice| {
        let mut found = 0;
        for round in 0..1_500 {
            // Existing names are mixed with names whose denial makes nodens deny others itself.
            let name = if round % 3 == 0 { dice.pick(&names).clone() } else { cluster.any_name(&mut dice) };
            let qtype = *dice.pick(&[1, 1, 28, 28, 33, 5, 16, 65]);
            let expected = answer(&plain, &name, qtype);
            found += usize::from(!expected.1.is_empty());
            assert_eq!(answer(&pruning, &name, qtype), expected, "{name} {qtype}");
        }
        found
    };
    // Side by side, since each query waits for its response.
    let found: usize = thread::scope(|scope| {
        let clients = [1, 2, 3, 4].map(|seed| scope.spawn(move || ask(Dice::new(seed))));
        clients.map(|client| client.join().expect("the same answers")).iter().sum()
    });
    assert!(found > 400, "only {found} names had an answer");
    let metrics = pruning.get("/metrics").body;
    // A denial of an ancestor lives for seconds. The number of names that it denies depends on the speed of the queries.
    for (rule, least) in [("form", 100), ("ancestor", 1)] {
        let denied = value(&metrics, &format!("nodens_search_denied_total{{rule=\"{rule}\"}}"));
        assert!(denied >= least, "by {rule}: {denied}");
    }
    assert_eq!(value(&plain.get("/metrics").body, "nodens_search_denied_total{rule=\"form\"}"), 0);
}

/// Returns the value of a series.
fn value(metrics: &str, series: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{series} in {metrics}"))
}

/// Returns fifty names of two to four labels, such as jobs ask for.
fn public_names() -> Vec<String> {
    let hosts = ["", "registry.", "api.", "cdn.", "a.dl."];
    let domains = ["example.com", "example.org", "acme.io", "tools.com", "pkgs.org", "git.com", "apps.io", "docs.com"];
    let all = hosts.iter().flat_map(|host| domains.iter().map(move |domain| format!("{host}{domain}")));
    all.chain((0..10).map(|number| format!("mirror-{number}.example.com"))).collect()
}

#[test]
fn glibc_asks_kube_dns_less() {
    inside("search::glibc_asks_kube_dns_less", &["getent"], || {
        compare("glibc", |names| {
            let mut command = Command::new("getent");
            command.arg("ahosts").args(names);
            command
        });
    });
}

#[test]
fn musl_asks_kube_dns_less() {
    inside("search::musl_asks_kube_dns_less", &["musl-gcc"], || {
        let dir = Dir::new();
        let (source, program) = (dir.write("look.c", LOOK), dir.file("look"));
        let compiled = Command::new("musl-gcc").arg("-static").arg("-o").arg(&program).arg(source).status();
        assert!(compiled.expect("musl-gcc runs").success());
        compare("musl", |names| {
            let mut command = Command::new(&program);
            command.args(names);
            command
        });
    });
}

/// Resolves all names with `prune_search` off, with pruning, and with autopath as well; compares the numbers of queries.
fn compare(resolver: &str, program: impl Fn(&[String]) -> Command) {
    let dir = Dir::new();
    let resolv = format!("nameserver 127.0.0.1\nsearch {}\noptions ndots:5\n", SEARCH.join(" "));
    put_in_place(&dir.write("resolv.conf", &resolv), "/etc/resolv.conf");
    put_in_place(&dir.write("nsswitch.conf", "hosts: files dns\n"), "/etc/nsswitch.conf");
    let names = public_names();
    let ways = [("off", "prune_search = false"), ("prune_search", ""), ("autopath too", "autopath = true")];
    let asked = ways.map(|(way, keys)| {
        let (to_nodens, to_kube_dns) = queries(&names, keys, &program);
        println!("{resolver}, {} names, {way}: {to_nodens} queries to nodens, {to_kube_dns} to kube-dns", names.len());
        (to_nodens, to_kube_dns)
    });
    let [(all, off), (same, pruned), (few, with_autopath)] = asked;
    assert_eq!(names.len(), 50);
    assert!(off >= 300, "three names of A and AAAA each: {off}");
    // On a busy machine a query may be sent again.
    assert!(same.abs_diff(all) * 20 <= all && pruned * 5 <= off, "{pruned} of {off}, and {same} of {all}");
    assert!(few <= 110 && with_autopath * 5 <= off, "{with_autopath} of {off}, and {few} of {all}");
}

#[test]
fn the_first_name_gets_the_first_existing_answer() {
    const POD: &str = "127.0.0.2";
    let kube = "web.shop.svc.cluster.local. 5 A 10.96.0.7\nweb.ci.svc.cluster.local. 5 A 10.96.0.9\n\
                kubernetes.default.svc.cluster.local. 5 A 10.96.0.1";
    let kube_dns = upstream(LabZone::new("cluster.local.").negative_ttl(5).records(kube));
    let public = "registry.example.com. 300 CNAME cdn.example.com.\ncdn.example.com. 300 A 192.0.2.1\n\
                  a.b.c.d.e.f. 300 A 192.0.2.2\nbad.example.com. 300 A 192.0.2.3\ngit.example.com. 300 A 192.0.2.4";
    let failing = LabZone::new(".").records(public).rcode("bad.example.com.eu-west-1.compute.internal", 2);
    let public = upstream(failing);
    let (nodens, _api) = with_pod(POD, &config("127.0.0.1:0", &kube_dns, &public, "autopath = true"));
    let ask = |from: &str, name: &str, qtype| {
        let socket = std::net::UdpSocket::bind((from, 0)).expect("a socket");
        socket.connect(nodens.address()).expect("a way there");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.send(&query(7, name, qtype)).expect("sends");
        told(&receive(&socket))
    };
    let (exists, missing) = (ResponseCode::NoError, ResponseCode::NXDomain);
    let registry = "registry.example.com.ci.svc.cluster.local";
    let completed = [
        "cdn.example.com. 192.0.2.1".to_owned(),
        "registry.example.com. cdn.example.com.".to_owned(),
        format!("{registry}. registry.example.com."),
    ];
    // Twice: from upstreams, and from the cache.
    for _ in 0..2 {
        for (name, qtype, expected) in [
            (registry, A, (exists, completed.to_vec())),
            ("web.ci.svc.cluster.local", A, (exists, vec!["web.ci.svc.cluster.local. 10.96.0.9".to_owned()])),
            // A service of another namespace, found by the second try, has precedence over a public name.
            (
                "web.shop.ci.svc.cluster.local",
                A,
                (
                    exists,
                    vec![
                        "web.shop.ci.svc.cluster.local. web.shop.svc.cluster.local.".to_owned(),
                        "web.shop.svc.cluster.local. 10.96.0.7".to_owned(),
                    ],
                ),
            ),
            // The name exists, without an IPv6 address.
            (
                "web.shop.ci.svc.cluster.local",
                28,
                (exists, vec!["web.shop.ci.svc.cluster.local. web.shop.svc.cluster.local.".to_owned()]),
            ),
            ("typo.example.com.ci.svc.cluster.local", A, (missing, vec![])),
            // The fourth try fails with SERVFAIL, so its existence is unknown.
            ("bad.example.com.ci.svc.cluster.local", A, (missing, vec![])),
            // The pod has asked for the name itself first: it has five dots (`ndots`).
            ("a.b.c.d.e.f.ci.svc.cluster.local", A, (missing, vec![])),
            ("git.example.com.svc.cluster.local", A, (missing, vec![])),
            (registry, 33, (missing, vec![])),
        ] {
            assert_eq!(ask(POD, name, qtype), expected, "{name} {qtype}");
        }
        assert_eq!(ask("127.0.0.3", registry, A), (missing, vec![]), "of nobody's search list");
    }
    assert_eq!(value(&nodens.get("/metrics").body, "nodens_search_completed_total"), 6);
}

/// Starts nodens with an API that has one pod, which has this address and the usual search list.
fn with_pod(address: &str, text: &str) -> (Nodens, Api) {
    let api = Api::start();
    api.put("ci", "job", &[address], |pod| {
        pod["spec"]["dnsPolicy"] = "None".into();
        pod["spec"]["dnsConfig"] = serde_json::json!({
            "nameservers": ["127.0.0.1"], "searches": SEARCH, "options": [{ "name": "ndots", "value": "5" }]
        });
    });
    let dir = Dir::new();
    let nodens = api.nodens(&format!("{text}[kubernetes]\nwatch = true\n"), dir);
    let page = format!("/api/v1/clients?address={address}");
    eventually("the pod", || nodens.get(&page).body.contains("\"job\"").then_some(()));
    (nodens, api)
}

/// Runs the program; returns the number of queries to nodens and to kube-dns.
fn queries(names: &[String], keys: &str, program: impl Fn(&[String]) -> Command) -> (u64, u64) {
    let kube = "kubernetes.default.svc.cluster.local. 5 A 10.96.0.1\nweb.ci.svc.cluster.local. 5 A 10.96.0.9\n\
                api.ci.svc.cluster.local. 5 A 10.96.0.8\n";
    let kube_dns =
        upstream_on(([127, 0, 0, 2], 53).into(), LabZone::new("cluster.local.").negative_ttl(5).records(kube));
    let public = names.iter().fold(LabZone::new("."), |zone, name| {
        zone.record(&format!("{name}. 300 A 192.0.2.1")).record(&format!("{name}. 300 AAAA 2001:db8::1"))
    });
    let public = upstream_on(([127, 0, 0, 3], 53).into(), public);
    let (nodens, _api) = with_pod("127.0.0.1", &config("127.0.0.1:53", &kube_dns, &public, keys));
    kube_dns.clear_seen();

    let output = program(names).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for address in ["192.0.2.1", "2001:db8::1"] {
        assert!(text.matches(address).count() >= names.len(), "{text}");
    }
    // A service of the pod's own namespace has precedence over a public name, in every mode.
    for (name, address) in [("web", "10.96.0.9"), ("web.ci", "10.96.0.9"), ("api.ci.svc", "10.96.0.8")] {
        let output = program(&[name.to_owned()]).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(address), "{name}: {text}");
    }
    let asked = nodens.get("/metrics").body;
    let asked = asked.lines().filter(|line| line.starts_with("nodens_queries_total{"));
    let to_nodens = asked.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum();
    let to_kube_dns = kube_dns.seen().iter().filter(|seen| !seen.is_within("loop-check.nodens.internal")).count();
    (to_nodens, to_kube_dns as u64)
}

/// Source of a program that prints each address of each name on its own line.
const LOOK: &str = r#"
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *at;
    char text[128];
    for (int name = 1; name < argc; name++) {
        if (getaddrinfo(argv[name], "443", &hints, &found)) {
            puts(argv[name]);
            return 1;
        }
        for (at = found; at; at = at->ai_next)
            if (!getnameinfo(at->ai_addr, at->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST))
                puts(text);
        freeaddrinfo(found);
    }
    return 0;
}
"#;
