//! `nodens check` from a user's view: files, output and exit codes of the built binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The configuration of a hybrid cluster, which must stay valid as it is.
const HYBRID: &str = r#"
[server]
listen  = ["127.0.0.1:5300", "[::1]:5300"]
allow   = ["127.0.0.0/8", "::1/128"]
workers = 0

[admin]
listen = "127.0.0.1:9053"

[cache]
memory           = "64MiB"
max_ttl          = "1h"
negative_max_ttl = "30s"
stale            = "1h"
prefetch         = true

[upstreams.kube-dns]
servers = ["10.96.0.10"]

[upstreams.vpc]
servers  = ["10.0.0.2", "10.1.0.251", "10.1.0.252"]
select   = "ordered"
deadline = "1500ms"

[upstreams.public]
servers = ["8.8.8.8", "1.1.1.1"]
select  = "fastest"

[[route]]
zones            = ["cluster.local", "10.96.0.0/12", "10.244.0.0/16"]
to               = "kube-dns"
negative_max_ttl = "5s"

[[route]]
zones = ["corp.example", "10.0.0.0/8"]
to    = "vpc"

[[route]]
zones = ["."]
to    = "public"
deny_private_addresses = true

[[record]]
name  = "registry.corp.example"
type  = "A"
value = "10.0.3.7"
ttl   = "5m"
"#;

/// A valid end of a file, for mistakes in the lines before it.
const REST: &str = "[upstreams.up]\nservers = [\"1.1.1.1\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";

#[test]
fn examples_are_valid() {
    let files = examples("examples");
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let output = check(&file);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && stdout.contains(": OK (") && stderr.is_empty(), "{stdout}{stderr}");
    }
}

/// The configurations for clouds are valid. The only warning is that this machine lacks the directory of the warm-up's file.
#[test]
fn cloud_examples_are_valid() {
    let files = examples("config/examples");
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let output = check(&file);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let is_known = |line: &str| line.contains(": warning: warm_up.file: this machine has no directory ");
        assert!(output.status.success() && stdout.contains(": OK ("), "{stdout}{stderr}");
        assert!(stderr.lines().all(is_known), "{stderr}");
    }
}

#[test]
fn good_files() {
    let summary = "OK (2 listeners, 3 routes, 3 upstreams, cache 64MiB)";
    accepted(&written(HYBRID), summary);
    // nodens warns if this machine has no directory for one of the files.
    let full = root().join("config/nodens.toml");
    let summary_of_full = "OK (2 listeners, 4 routes, 3 upstreams, 1 view, cache 64MiB)";
    match Path::new("/var/lib/nodens").is_dir() {
        true => accepted(&full, summary_of_full),
        false => {
            let warning = format!(
                "{}: warning: warm_up.file: this machine has no directory /var/lib/nodens; make it before nodens starts \
                 there\n",
                full.display()
            );
            warned(&full, summary_of_full, &warning);
        }
    }
    accepted(&root().join("config/minimal.toml"), "OK (2 listeners, 1 route, 1 upstream, cache 64MiB)");
    let contract = root().join("../shared/examples/hybrid.toml");
    if contract.exists() {
        accepted(&contract, summary);
    }
}

#[test]
fn mistakes_of_server_admin_and_cache() {
    for (text, right) in [
        ("[server]\nlisen = [\"127.0.0.1\"]\n", &["2:1: unknown key `lisen`; did you mean `listen`?"][..]),
        ("[cahce]\n", &["1:2: unknown key `cahce`; did you mean `cache`?"]),
        ("admin = 5\n", &["1:9: a table is expected, headed [admin]"]),
        (
            "[server]\nworkers = 99999999999999999999\n",
            &["2:11: workers: integer `99999999999999999999` is too large; expected a whole number"],
        ),
        ("[server]\nlisten = \"127.0.0.1\"\n", &["2:10: listen: not a list"]),
        ("[server]\nallow = []\n", &["2:9: allow: the list is empty"]),
        (
            "[server]\nlisten = [5, \"127.0.0.1\", true]\nworkers = \"4\"\n[cache]\nprefetch = \"yes\"\n",
            &[
                "2:11: listen: invalid type: integer `5`; expected \"127.0.0.1:5300\"",
                "2:27: listen: invalid type: boolean",
                "3:11: workers: invalid type: string \"4\"; expected a whole number",
                "5:12: prefetch: invalid type: string \"yes\"; expected true or false",
            ],
        ),
        ("[server]\nlisten = [\"localhost:53\"]\n", &["2:11: listen: \"localhost:53\" is not an address"]),
        ("[server]\nlisten = [\"[::1]:53\",\n  \"::1\"]\n", &["3:3: the same listener is on line 2 already"]),
        (
            "[server]\nallow = [\"10.0.0.1/8\"]\n",
            &["2:10: allow: \"10.0.0.1/8\" has bits set after its prefix: the network is \"10.0.0.0/8\""],
        ),
        (
            "[server]\nworkers = -1\ntcp_connections = 0\ntcp_connections_per_client = 65537\n",
            &[
                "2:11: workers: -1 is not a count",
                "3:19: tcp_connections: 0 is too little: from 1 to 65536",
                "4:30: tcp_connections_per_client: 65537 is too much: from 1 to 65536",
            ],
        ),
        (
            "[server]\ntcp_connections = 8\ntcp_connections_per_client = 9\n",
            &["3:30: tcp_connections_per_client: 9 is more than tcp_connections, 8"],
        ),
        (
            "[server]\ntcp_idle_timeout = 10\n",
            &["2:20: tcp_idle_timeout: invalid type: integer `10`; expected \"1500ms\""],
        ),
        ("[admin]\n", &["1:1: `listen` is missing"]),
        (
            "[admin]\nlisten = \"0.0.0.0:5300\"\n",
            &["2:10: listen: 0.0.0.0:5300 is taken: [server] listens on 127.0.0.1:5300"],
        ),
        ("[report]\n", &["1:1: `listen` is missing; expected \"127.0.0.1:5300\""]),
        ("[report]\nlisten = \"127.0.0.1\"\n", &["2:10: listen: not a list"]),
        (
            "[admin]\nlisten = \"[::1]\"\n[report]\nlisten = [\"127.0.0.1:5300\", \"[::]:9053\", \"::1\", \"[::1]:9355\"]\n",
            &[
                "4:11: listen: 127.0.0.1:5300 is taken: [server] listens on 127.0.0.1:5300; choose another port",
                "4:29: listen: [::]:9053 is taken: [admin] listens on [::1]:9053; choose another port",
                "4:49: the same listener is on line 4 already",
            ],
        ),
        ("[cache]\nmemory = \"64 apples\"\n", &["2:10: memory: \"64 apples\" is not a size; expected \"64MiB\""]),
        (
            "[cache]\nmemory = \"0\"\nmax_ttl = \"0s\"\nnegative_max_ttl = \"1d\"\nstale = \"8d\"\n",
            &[
                "2:10: memory: 0B is too little: from 1MiB to 256GiB",
                "3:11: max_ttl: 0s is too little: from 1s to 7d",
                "4:20: negative_max_ttl: 1d is too much: from 1s to 3h",
                "5:9: stale: 8d is too much: from 0s to 7d",
            ],
        ),
        ("[cache]\nstale = \"5\"\n", &["2:9: stale: \"5\" is not a time with its unit"]),
    ] {
        refused(&format!("{text}{REST}"), right);
    }
}

#[test]
fn mistakes_of_kubernetes_and_clients() {
    let client = "[[client]]\nsource = \"10.0.8.0/24\"\nname = \"vms\"\n";
    for (text, right) in [
        ("[kubernetes]\nwacht = true\n".to_owned(), &["2:1: unknown key `wacht`; did you mean `watch`?"][..]),
        (
            "[kubernetes]\nwatch = \"yes\"\nnode = \"Node_1\"\nnamespaces = [\"ci\", \"-ci\", \"a.b\"]\n".to_owned(),
            &[
                "2:9: watch: invalid type: string \"yes\"; expected true or false",
                "3:8: node: \"Node_1\" is no name of a node; expected \"node-1.example\"",
                "4:21: namespaces: \"-ci\" is no name of a namespace",
                "4:28: namespaces: \"a.b\" is no name of a namespace",
            ],
        ),
        (
            "[kubernetes]\napi_server = \"10.0.0.1\"\ntoken_file = \"token\"\n".to_owned(),
            &[
                "2:14: api_server: \"10.0.0.1\" does not begin with https:// or http://; expected",
                "3:14: token_file: \"token\" is not the whole path of a file",
            ],
        ),
        ("[kubernetes]\nnamespaces = []\n".to_owned(), &["2:14: namespaces: the list is empty"]),
        (
            "[client]\nsource = \"10.0.8.0/24\"\nname = \"vms\"\n".to_owned(),
            &["1:1: client: there may be many, so each is headed [[client]]"],
        ),
        (
            "[[client]]\nsorce = \"10.0.8.0/24\"\nname = \"vms\"\n".to_owned(),
            &["1:1: `source` is missing; expected \"10.0.0.0/8\"", "2:1: unknown key `sorce`; did you mean `source`?"],
        ),
        (
            "[[client]]\nsource = \"10.0.8.1/24\"\nname = \"\"\nproject = 7\n".to_owned(),
            &[
                "2:10: source: \"10.0.8.1/24\" has bits set after its prefix",
                "3:8: name: \"\" is empty, longer than 256 bytes or has control characters",
                "4:11: project: invalid type: integer `7`; expected a short text in quotes",
            ],
        ),
        (
            "[warm_up]\nenable = true\nfile = \"query-history.json\"\n".to_owned(),
            &[
                "2:1: unknown key `enable`; did you mean `enabled`?",
                "3:8: file: \"query-history.json\" is not the whole path of a file; expected \"/var/lib/nodens/query-history.json\"",
            ],
        ),
        ("[warm_up]\nfile = \"/var/lib/\"\n".to_owned(), &["2:8: file: \"/var/lib/\" is not the whole path"]),
        (format!("{client}{client}"), &["5:10: the same source is on line 2 already; leave one out"]),
    ] {
        refused(&format!("{text}{REST}"), right);
    }
}

#[test]
fn mistakes_of_upstreams_and_routes() {
    let up = "[upstreams.up]\nservers = [\"1.1.1.1\"]\n";
    let all = "[[route]]\nzones = [\".\"]\nto = \"up\"\n";
    for (text, right) in [
        (format!("[upstreams.up]\n{all}"), &["1:1: `servers` is missing; expected \"10.0.0.2\""][..]),
        (
            format!("[upstreams.up]\nservers = [\"10.0.0.256\", \"udp://1.1.1.1\", \"tls://1.1.1.1\"]\n{all}"),
            &[
                "2:12: servers: \"10.0.0.256\" is neither an address nor a host name",
                "2:26: servers: nodens does not speak \"udp\"",
                "2:43: servers: \"tls://1.1.1.1\" lacks the name",
            ],
        ),
        (
            format!("[upstreams.up]\nservers = [\"1.1.1.1\", \"1.1.1.1:53\"]\n{all}"),
            &["2:23: the same server is on line 2 already"],
        ),
        (
            format!("[upstreams.up]\nservers = [\"127.0.0.1:5300\"]\n{all}"),
            &["2:12: 127.0.0.1:5300 is nodens itself, which listens on 127.0.0.1:5300"],
        ),
        (
            format!("[server]\nlisten = [\"0.0.0.0\"]\n[upstreams.up]\nservers = [\"127.0.0.53\"]\n{all}"),
            &["4:12: 127.0.0.53:53 is nodens itself, which listens on 0.0.0.0:53"],
        ),
        (
            format!(
                "[upstreams.none]\n[upstreams.up]\nservers = [\"dns.example\"]\n{all}[[route]]\nzones = [\"a\"]\nto = \"none\"\n"
            ),
            &["1:1: `servers` is missing", "3:12: `dns.example.` has to be resolved by others"],
        ),
        (
            format!("[bootstrap]\nservers = [\"dns.example\", \"1.1.1.1\", \"1.1.1.1\", \"[::1]:5300\"]\n{up}{all}"),
            &[
                "2:12: servers: \"dns.example\" is not an address",
                "2:38: the same server is on line 2 already",
                "2:49: [::1]:5300 is nodens itself",
            ],
        ),
        (
            format!("{up}select = \"fast\"\ndeadline = \"5ms\"\n{all}"),
            &[
                "3:10: select: \"fast\" is no way to select; expected \"ordered\", \"fastest\" or \"spread\"",
                "4:12: deadline: 5ms is too little: from 50ms to 30s",
            ],
        ),
        (
            format!("[upstreams.\"up stairs\"]\nservers = [\"1.1.1.1\"]\n{}", all.replace("up", "up stairs")),
            &["1:12: \"up stairs\" is no name for a group"],
        ),
        (
            format!("{up}[upstreams.spare]\nservers = [\"9.9.9.9\"]\n{all}"),
            &["3:12: no [[route]] leads to `spare`: add one with `to = \"spare\"`"],
        ),
        (
            format!("{up}{all}[[route]]\nzones = [\"a.example\"]\nto = \"upp\"\n"),
            &["8:6: to: there is no [upstreams.upp]; did you mean `up`?"],
        ),
        (
            format!("[upstream.up]\nservers = [\"1.1.1.1\"]\n{all}"),
            &["1:2: unknown key `upstream`; did you mean `upstreams`?"],
        ),
        (
            format!("{up}[route]\nzones = [\".\"]\nto = \"up\"\n"),
            &["3:1: route: there may be many, so each is headed [[route]]"],
        ),
        (
            format!("{up}[[route]]\nzones = [\"a.example\"]\nto = \"up\"\n"),
            &["3:1: no route covers the names outside all zones: one [[route]] needs `zones = [\".\"]`"],
        ),
        (String::new(), &["1:1: no route covers the names outside all zones"]),
        (
            format!(
                "{up}{all}[[route]]\nzones = [\"a\"]\nto = \"up\"\ncluster_domain = \"b.a\"\n[[route]]\nzones = [\"b\"]\nto = \"up\"\nautopath = true\nprune_search = true\n"
            ),
            &[
                "9:18: cluster_domain: b.a. is none of this route's zones; add it to them",
                "13:12: autopath: this route has no cluster's domain; name it with cluster_domain",
                "14:16: prune_search: this route has no cluster's domain; name it with cluster_domain",
            ],
        ),
        (
            format!("{up}{all}[[route]]\nzones = [\"a\"]\nto = \"up\"\ncluster_domain = \".\"\n"),
            &["9:18: cluster_domain: the root is not a domain of its own"],
        ),
        (format!("{up}{all}[[route]]\n"), &["6:1: `zones` is missing", "6:1: `to` is missing"]),
        (
            format!("{up}{all}[[route]]\nzones = [\"a..b\", \"10.0.0.1/8\", \"10.0.0.1\"]\nto = \"up\"\n"),
            &[
                "7:10: zones: \"a..b\" is not a name: a label is empty",
                "7:18: zones: \"10.0.0.1/8\" has bits set after its prefix: the network is \"10.0.0.0/8\"",
                "7:32: zones: \"10.0.0.1\" is an address, not a zone; for its reverse name write \"10.0.0.1/32\"",
            ],
        ),
        (
            format!("{up}{all}[[route]]\nzones = [\"a.example\", \"A.example.\", \".\"]\nto = \"up\"\n"),
            &["7:23: zones: line 7 claims a.example. already", "7:37: zones: line 4 claims . already"],
        ),
        (
            format!(
                "{up}{all}[[route]]\nzones = [\"10.96.0.0/12\"]\nto = \"up\"\n[[route]]\nzones = [\"96.10.in-addr.arpa\", \"10.104.0.0/13\"]\nto = \"up\"\n"
            ),
            &[
                "10:10: zones: line 7 claims 96.10.in-addr.arpa. already",
                "10:32: zones: line 7 claims 104.10.in-addr.arpa. already",
            ],
        ),
        (
            format!("{up}{all}negative_max_ttl = \"0s\"\ndeny_private = true\n"),
            &["6:20: negative_max_ttl: 0s is too little: from 1s to 3h", "7:1: unknown key `deny_private`"],
        ),
    ] {
        refused(&text, right);
    }
}

#[test]
fn mistakes_of_views() {
    let view = |keys: &str| format!("[[view]]\n{keys}");
    for (text, right) in [
        (view(""), &["1:1: `name` is missing", "1:1: the view selects no clients: give it `namespaces`"][..]),
        (
            view("name = 'a'\nnamspaces = ['ci']\n"),
            &["1:1: the view selects no clients", "3:1: unknown key `namspaces`; did you mean `namespaces`?"],
        ),
        (
            view("name = 'a'\nknown = true\n[[view]]\nname = 'a'\nknown = false\n"),
            &["5:8: the same view is on line 2 already"],
        ),
        (
            view("name = 'a'\nknown = false\nprojects = ['42']\n"),
            &["3:9: known: of a client that is not known nothing is known"],
        ),
        (view("name = 'a'\nprojects = ['a*b']\n"), &["3:13: projects: \"a*b\": a `*` stands at the end"]),
        (view("name = 'a'\nlabels = { }\n"), &["3:10: labels: no label is given; expected"]),
        (view("name = 'a'\nlabels = { a = 1 }\n"), &["3:10: labels: invalid type: integer `1`"]),
        (view("name = 'a'\nknown = true\nclient_max_qps = 0\n"), &["4:18: client_max_qps: 0 is too little: from 1"]),
        (
            view("name = 'a'\nknown = true\nhints = 'none'\n"),
            &["4:9: hints: \"none\" is no kind of hints; expected \"full\", \"own\" or \"off\""],
        ),
        (
            view("name = 'a'\nknown = true\ndeny = ['a.example']\n[[view.route]]\nzones = ['A.example']\nto = 'upp'\n"),
            &[
                "4:9: deny: line 6 claims a.example. already",
                "7:6: to: there is no [upstreams.upp]; did you mean `up`?",
            ],
        ),
        (
            view("name = 'a'\nknown = true\ninherit = false\n[[view.route]]\nzones = ['a.example']\nto = 'up'\n"),
            &["1:1: inherit = false, and nothing here covers the names outside all zones"],
        ),
        (
            view("name = 'a'\nknown = true\n[[view.record]]\nname = 'x.example'\ntype = 'A'\nvalue = 'y'\n"),
            &["7:9: value: \"y\""],
        ),
        (
            (0..33).map(|n| view(&format!("name = '{n}'\nknown = true\n"))).collect(),
            &["97:1: there are 33 views; at most 32 may be"],
        ),
    ] {
        refused(&format!("{text}{REST}"), right);
    }
    let used = "[[view]]\nname = 'a'\nknown = true\n[[view.route]]\nzones = ['a.example']\nto = 'spare'\n\
                [upstreams.spare]\nservers = ['9.9.9.9']\n";
    accepted(&written(&format!("{used}{REST}")), "OK (2 listeners, 2 routes, 2 upstreams, 1 view, cache 64MiB)");
}

#[test]
fn mistakes_of_records() {
    let record = |name: &str, kind: &str, value: &str| {
        format!("[[record]]\nname = '{name}'\ntype = '{kind}'\nvalue = '{value}'\n")
    };
    for (text, right) in [
        (
            "[[record]]\n".to_owned(),
            &["1:1: `name` is missing", "1:1: `type` is missing", "1:1: `value` is missing"][..],
        ),
        (record("a b", "A", "10.0.0.1"), &["2:8: name: \"a b\" is not a name"]),
        (
            record("a*.example", "A", "10.0.0.1"),
            &["2:8: name: \"a*.example\": an asterisk stands alone, as the first label"],
        ),
        (record("*", "A", "10.0.0.1"), &["2:8: name: \"*\" would match every name"]),
        (
            record("a.example", "AAAAA", "10.0.0.1"),
            &["3:8: type: \"AAAAA\" is not a type that a record may have; did you mean \"AAAA\"?"],
        ),
        (record("a.example", "A", "10.0.0.256"), &["4:9: value: \"10.0.0.256\": "]),
        (record("a.example", "A", "10.0.0.1") + "ttl = \"1500ms\"\n", &["5:7: ttl: 1500ms is not in whole seconds"]),
        (record("a.example", "A", "10.0.0.1") + "ttl = \"365d\"\n", &["5:7: ttl: 365d is too much: from 0s to 7d"]),
        (
            record("a.example", "CNAME", "b.example") + &record("A.example.", "A", "10.0.0.1"),
            &["6:8: a.example. has a CNAME, which excludes other data, on line 2"],
        ),
        (
            record("a.example", "A", "10.0.0.1") + &record("a.example", "CNAME", "b.example"),
            &["6:8: a.example. has other data, which excludes a CNAME, on line 2"],
        ),
        (
            record("a.example", "CNAME", "b.example") + &record("a.example", "CNAME", "c.example"),
            &["6:8: a.example. has a CNAME already"],
        ),
        (
            record("a.example", "A", "10.0.0.1") + &record("a.example", "A", "10.0.0.1"),
            &["6:8: a.example. has this very record on line 2"],
        ),
        (
            record("a.example", "A", "10.0.0.1") + &record("a.example", "A", "10.0.0.2") + "ttl = \"1s\"\n",
            &["6:8: a.example. has a record of this type with another TTL"],
        ),
        (
            record("a.example", "CNAME", "b.example") + &record("b.example", "CNAME", "a.example"),
            &["2:8: the CNAME of a.example. leads back to itself", "6:8: the CNAME of b.example. leads back to itself"],
        ),
    ] {
        refused(&(text + REST), right);
    }
}

#[test]
fn broken_toml_hides_only_its_own_key() {
    for (text, right) in [
        (
            "[server]\nlisten = [\"127.0.0.1:53\nworkers = 5000\n[cache]\nmemory = \"1B\"\n",
            &["2:24: TOML: ", "3:11: workers: 5000 is too much", "5:10: memory: 1B is too little"][..],
        ),
        (
            "[server]\nlisten = [\"127.0.0.1\"\n[cache]\nmemory =\n[admin]\nlisten = 5\n",
            &["2:22: TOML: unclosed array", "4:9: TOML: ", "6:10: listen: "],
        ),
        (
            "[server]\nlisten = [\n  \"127.0.0.1\"\n  \"::1\"\n]\nworkers = x\nallow = [\"10.0.0.1/8\"]\n",
            &["4:3: TOML: missing comma", "6:11: TOML: ", "7:10: allow: "],
        ),
        (
            "[cache]\nmemory = \"64MiB\"\nmemory = \"1B\"\nstale = 1\n",
            &["3:1: TOML: `memory` is on line 2 already; leave one out", "4:9: stale: "],
        ),
        (
            "[cache]\n[server]\n[cache]\nstale = 1\n",
            &["3:2: TOML: `[cache]` is on line 1 already; leave one out", "4:9: stale: "],
        ),
        ("[server]\nlisten = [\"\u{fc}\", 5]\n", &["2:11: listen: ", "2:16: listen: "]),
    ] {
        refused(&format!("{text}{REST}"), right);
    }
    refused(&REST.replace("zones = [\".\"]", "zones = [\".\""), &["5:1: TOML: "]);
    refused(&REST.replace("[\"1.1.1.1\"]", "1.1.1.1"), &["2:14: TOML: "]);
}

#[test]
fn every_mistake_in_one_run() {
    let text = HYBRID
        .replace("workers = 0", "wrokers = 0")
        .replace("\"64MiB\"", "\"1B\"")
        .replace("\"10.1.0.251\"", "\"10.0.0.2\"")
        .replace("to    = \"vpc\"", "to    = \"vcp\"")
        .replace("\"10.0.3.7\"", "\"10.0.3\"");
    refused(
        &text,
        &[
            "5:1: unknown key `wrokers`; did you mean `workers`?",
            "11:20: memory: ",
            "21:25: the same server",
            "36:9: to: there is no [upstreams.vcp]; did you mean `vpc`?",
            "46:9: value: ",
        ],
    );
}

#[test]
fn exit_codes() {
    let nodens = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_nodens")).args(args).output().expect("runs");
    for (args, code) in [
        (&[][..], 64),
        (&["chek"], 64),
        (&["check"], 64),
        (&["check", "a", "b"], 64),
        (&["--help"], 0),
        (&["check", "--help"], 0),
        (&["--version"], 0),
        (&["check", "/nonexistent/nodens.toml"], 1),
    ] {
        assert_eq!(nodens(args).status.code(), Some(code), "{args:?}");
    }
    assert!(String::from_utf8_lossy(&nodens(&["check", "--help"]).stdout).contains("Examples:"));

    let latin = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-latin.toml", std::process::id()));
    std::fs::write(&latin, b"[server]\n# b\xfccher\n").expect("writes");
    let output = check(&latin);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains(":2:4: not UTF-8"));
}

/// Checks that the file is accepted with this summary.
fn accepted(file: &Path, summary: &str) {
    warned(file, summary, "");
}

/// Checks that the file is accepted with this summary and these warnings.
fn warned(file: &Path, summary: &str, warnings: &str) {
    let output = check(file);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!((stdout.as_ref(), stderr.as_ref()), (format!("{}: {summary}\n", file.display()).as_str(), warnings));
}

/// Checks that the text is rejected for exactly these reasons: each is `line:column: ` and the beginning of the message.
fn refused(text: &str, reasons: &[&str]) {
    let file = written(text);
    let output = check(&file);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}\n{stderr}");
    assert_eq!(stderr.lines().count(), reasons.len(), "{text}\n{stderr}");
    for (line, reason) in stderr.lines().zip(reasons) {
        assert!(line.starts_with(&format!("{}:{reason}", file.display())), "{text}\n{line}\nis not: {reason}");
    }
}

fn check(file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nodens")).arg("check").arg(file).output().expect("runs")
}

/// Returns the configurations in a folder of the repository.
fn examples(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).expect("a directory");
    let files = entries.map(|entry| entry.expect("a file").path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "toml")).collect()
}

/// Writes the text to a new file and returns its path.
fn written(text: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("check-{}-{}.toml", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, text).expect("writes");
    file
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_file_has_a_largest_size() {
    let dir = crate::support::Dir::new();
    let file = dir.write("nodens.toml", REST);
    let of = |length: u64| {
        std::fs::File::options().write(true).open(&file).and_then(|file| file.set_len(length)).expect("a length");
        let output = Command::new(env!("CARGO_BIN_EXE_nodens")).arg("check").arg(&file).output().expect("nodens runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(of(REST.len() as u64), (Some(0), String::new()));
    let (code, text) = of((64 << 20) + 1);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.ends_with("nodens.toml:1:1: the file is larger than 64MiB, the most that it may be\n"), "{text}");
}
