//! The admin pages and the metrics, with the built binary.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::support::client::{A, Tcp, ask_udp, connect_from, id, lookup, query, receive, udp};
use crate::support::page::page;
use crate::support::space::can_run;
use crate::support::{Nodens, config, eventually, field, restart, stop, upstream, zone};
use nodens::lab::fault::{Behaviour, Tcp as TcpFault};
use nodens::lab::upstream::LabUpstream;
use nodens::upstream::Transport;

const AAAA: u16 = 28;
const TXT: u16 = 16;
const UNKNOWN: u16 = 65_280;

#[test]
fn every_line_of_metrics_is_well_formed() {
    let nodens = with_every_family();
    let metrics = nodens.metrics();
    for (name, (kind, help)) in &metrics.families {
        assert!(name.starts_with("nodens_") || name.starts_with("process_"), "{name}");
        assert!(help.ends_with('.') && help.len() > 10, "{name}: {help}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    }
    assert_eq!(metrics.sum("nodens_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert!(metrics.sum("process_open_fds", &[]) > 0.0);
    for sample in &metrics.samples {
        assert!(sample.value >= 0.0, "{sample:?}");
    }
}

#[test]
fn promtool_finds_nothing() {
    if !can_run(false, &["promtool"]) {
        return;
    }
    let nodens = with_every_family();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("promtool runs");
    let text = nodens.get("/metrics").body;
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("writes");
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// Starts nodens, and gives each metric family something to count: an answer, a failure and a dropped packet.
fn with_every_family() -> Nodens {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    lookup(nodens.address(), "a.lab.example");
    upstream.set(Behaviour::rcode(2));
    lookup(nodens.address(), "b.lab.example");
    udp(nodens.address()).send(&[0; 5]).expect("sends");
    nodens.metric_becomes("nodens_dropped_packets_total", &[], |dropped| dropped == 1.0);
    nodens
}

#[test]
fn pages_that_nobody_reads_keep_nobody_from_health() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    let admin = nodens.admin.expect("admin pages");
    let request = "GET /metrics HTTP/1.1\r\nHost: nodens\r\n\r\n".repeat(30);
    let unread: Vec<_> = (0..70)
        .map(|n| {
            // From several addresses, one of them that of the kubelet.
            let mut connection = connect_from([127, 0, 0, 1 + n % 5], admin).0;
            // The connection may be closed already.
            let _ = connection.write_all(request.as_bytes());
            connection
        })
        .collect();
    for from in [1, 2, 9] {
        for _ in 0..5 {
            let health = page(connect_from([127, 0, 0, from], admin).0, "GET", "/healthz");
            assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
        }
    }
    drop(unread);
}

#[test]
fn pages_are_for_whom_they_are_meant() {
    let upstream = upstream(zone());
    let text = config(&[&upstream], "", "");
    let allow = |networks: &str| {
        let admin = format!("[admin]\nallow = [{networks}]\nmetrics_listen = [\"127.0.0.4:0\"]\n");
        text.replace(
            "[admin]\nlisten = \"127.0.0.1:0\"",
            &format!("{admin}listen = [\"127.0.0.1:0\", \"127.0.0.2:0\"]"),
        )
    };
    let nodens = Nodens::start(&allow("\"127.0.0.1/32\", \"127.0.0.7/32\""));
    let addresses = |words: &str| -> Vec<SocketAddr> {
        let lines = nodens.log().into_iter().filter(|line| line.contains(words));
        lines.map(|line| field(&line, "address").parse().expect("an address")).collect()
    };
    let (all, metrics) = (addresses("admin pages"), addresses("serving metrics and health only"));
    assert_eq!((all.len(), metrics.len()), (2, 1));
    let get = |from, to, path| page(connect_from([127, 0, 0, from], to).0, "GET", path);
    for to in &all {
        assert_eq!(get(7, *to, "/api/v1/jobs").status, 200);
    }
    for to in all.iter().chain(&metrics) {
        let refused = get(3, *to, "/healthz");
        assert!(refused.status == 403 && refused.body.contains("admin.allow"), "{}", refused.body);
        assert_eq!(get(7, *to, "/healthz").status, 200);
        assert_eq!(get(7, *to, "/metrics").status, 200);
    }
    for path in ["/", "/api/v1/jobs", "/api/v1/clients?address=127.0.0.1"] {
        let page = get(7, metrics[0], path);
        assert!(page.status == 404 && page.body.contains("/metrics\n/healthz\n"), "{path}: {}", page.body);
    }
    std::fs::write(nodens.config(), allow("\"127.0.0.0/8\"")).expect("writes");
    nodens.signal("HUP");
    eventually("others to be allowed", || (get(3, all[0], "/healthz").status == 200).then_some(()));
}

#[test]
fn queries_and_responses_are_counted_by_what_they_are() {
    let upstream = upstream(zone().rcode("broken.lab.example.", 2));
    let record = "[[record]]\nname = \"static.lab.example\"\ntype = \"A\"\nvalue = \"10.0.0.1\"\n";
    let route = "[[route]]\nzones = [\"deep.lab.example\"]\nto = \"up\"\n";
    let server = "listen = [\"0.0.0.0:0\"]\nallow = [\"127.0.0.1/32\"]";
    let text = config(&[&upstream], server, "deadline = \"30s\"");
    let nodens = Nodens::start(&format!("{text}{route}{record}"));
    let here = ([127, 0, 0, 1], nodens.address().port()).into();
    ask_udp(here, &query(1, "a.lab.example", A));
    ask_udp(here, &query(2, "a.lab.example", A));
    Tcp::connect(here).ask(&query(3, "a.lab.example", AAAA));
    Tcp::connect(here).ask(&query(4, "x.deep.lab.example", UNKNOWN));
    ask_udp(here, &query(5, "static.lab.example", A));
    ask_udp(here, &query(6, "broken.lab.example", A));
    ask_udp(here, &query(7, "nothing.example", TXT));
    let mut two_questions = query(8, "a.lab.example", A);
    two_questions[5] = 2;
    ask_udp(here, &two_questions);
    // The source address is not allowed.
    let stranger = std::net::UdpSocket::bind("127.0.0.2:0").expect("a socket");
    stranger.connect(here).expect("a way there");
    stranger.set_read_timeout(Some(crate::support::DEADLINE)).expect("a timeout");
    stranger.send(&query(9, "a.lab.example", A)).expect("sends");
    receive(&stranger);
    let mut response = query(10, "a.lab.example", A);
    response[2] |= 0x80;
    for silent in [&response[..], &[1, 2, 3]] {
        udp(here).send(silent).expect("sends");
    }

    // nodens updates its counters after it responds.
    nodens.metric_becomes("nodens_responses_total", &[], |responses| responses == 9.0);
    nodens.metric_becomes("nodens_dropped_packets_total", &[], |dropped| dropped == 2.0);
    let metrics = nodens.metrics();
    for (labels, right) in [
        (&[("transport", "udp"), ("type", "A"), ("route", ".")][..], 3.0),
        (&[("transport", "tcp"), ("type", "AAAA"), ("route", ".")], 1.0),
        (&[("transport", "tcp"), ("type", "other"), ("route", "deep.lab.example")], 1.0),
        (&[("transport", "udp"), ("type", "TXT"), ("route", ".")], 1.0),
        // The static record, and the query of the stranger.
        (&[("transport", "udp"), ("type", "A"), ("route", "none")], 2.0),
        // The message with two questions, of which nodens reads none.
        (&[("transport", "udp"), ("type", "other"), ("route", "none")], 1.0),
        (&[], 9.0),
    ] {
        assert_eq!(metrics.sum("nodens_queries_total", labels), right, "{labels:?} of {metrics:#?}");
    }
    for (labels, right) in [
        (&[("rcode", "NOERROR"), ("source", "upstream")][..], 3.0),
        (&[("rcode", "NOERROR"), ("source", "hit")], 1.0),
        (&[("rcode", "NOERROR"), ("source", "local")], 1.0),
        (&[("rcode", "SERVFAIL"), ("source", "upstream")], 2.0),
        (&[("rcode", "FORMERR"), ("source", "local")], 1.0),
        (&[("rcode", "REFUSED"), ("source", "refused")], 1.0),
    ] {
        assert_eq!(metrics.sum("nodens_responses_total", labels), right, "{labels:?} of {metrics:#?}");
    }
    assert_eq!(metrics.sum("nodens_request_duration_seconds_count", &[]), 9.0);
    assert_eq!(metrics.sum("nodens_request_duration_seconds_count", &[("source", "upstream")]), 5.0);
    assert_eq!(metrics.sum("nodens_cache_hits_total", &[]), 1.0);
    assert_eq!(metrics.sum("nodens_cache_misses_total", &[]), 5.0);
    for reason in ["response", "short"] {
        assert_eq!(metrics.sum("nodens_dropped_packets_total", &[("reason", reason)]), 1.0);
    }
}

#[test]
fn an_upstreams_replies_and_silence_are_seen() {
    let upstream = upstream(zone());
    let server = upstream.address().to_string();
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    let labels = [("upstream", "up"), ("server", server.as_str())];
    assert_eq!(nodens.metric("nodens_upstream_healthy", &labels), 1.0);
    for n in 0..10 {
        lookup(nodens.address(), &format!("{n}.lab.example"));
    }
    // The eleventh is the loop check. On a busy machine a query may be sent twice, as the first response takes too long.
    nodens.metric_becomes("nodens_upstream_request_duration_seconds_count", &labels, |count| count >= 11.0);
    // Over both transports: after a response that came too late, the question is asked over TCP.
    eventually("all queries to be seen and counted", || {
        let sent = nodens.metric("nodens_upstream_queries_total", &labels[1..]);
        (sent == upstream.seen_count() as f64).then_some(())
    });
    assert!(nodens.metric("nodens_upstream_smoothed_latency_seconds", &labels) > 0.0);
    nodens.metric_becomes("nodens_upstream_in_flight", &labels, |count| count == 0.0);

    upstream.set(Behaviour::truncated());
    let over_tcp = || nodens.metric("nodens_upstream_queries_total", &[("transport", "tcp")]);
    let before = over_tcp();
    lookup(nodens.address(), "truncated.lab.example");
    assert!(over_tcp() > before);

    upstream.set(Behaviour::silent());
    for n in 0..3 {
        lookup(nodens.address(), &format!("silent-{n}.lab.example"));
    }
    nodens.metric_becomes("nodens_upstream_healthy", &labels, |healthy| healthy == 0.0);
    upstream.set(Behaviour::normal());
    nodens.metric_becomes("nodens_upstream_healthy", &labels, |healthy| healthy == 1.0);
    // Unanswered queries of that time are given up.
    nodens.metric_becomes("nodens_upstream_in_flight", &labels, |count| count == 0.0);
    assert!(nodens.metric("nodens_upstream_failures_total", &[("kind", "timeout")]) >= 3.0);
}

#[test]
fn failures_are_counted_by_kind() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"1s\""));
    let mut names = 0;
    let mut fails = |kind: &str| {
        eventually(kind, || {
            names += 1;
            lookup(nodens.address(), &format!("{names}.lab.example"));
            (nodens.metric("nodens_upstream_failures_total", &[("kind", kind)]) > 0.0).then_some(())
        });
    };
    for (kind, behaviour) in [
        ("servfail", Behaviour::rcode(2)),
        ("notimp", Behaviour::rcode(4)),
        ("refused", Behaviour::rcode(5)),
        ("formerr", Behaviour::rcode(1)),
        ("other_rcode", Behaviour::rcode(9)),
        ("network", Behaviour::truncated().tcp(TcpFault::CloseAfter(0))),
        ("malformed", Behaviour::edited(garble)),
        ("timeout", Behaviour::silent()),
    ] {
        upstream.set(behaviour);
        fails(kind);
    }
    stop(&upstream);
    fails("connection_refused");
}

/// Truncates a response over UDP, and makes it malformed over TCP.
fn garble(seen: &nodens::lab::seen::Seen, wire: &mut Vec<u8>) {
    match seen.transport {
        Transport::Udp => wire[2] |= 0x02,
        Transport::Tcp | Transport::Tls => wire.truncate(14),
    }
}

#[test]
fn hedges_are_counted_when_sent_and_when_won() {
    let (first, second) = (upstream(zone()), upstream(zone()));
    let nodens = Nodens::start(&config(&[&first, &second], "", "select = \"ordered\""));
    let server = second.address().to_string();
    let labels = [("server", server.as_str())];
    let mut names = 0;
    eventually("a hedge that wins", || {
        first.set(Behaviour::silent());
        names += 1;
        lookup(nodens.address(), &format!("{names}.lab.example"));
        let won = nodens.metric("nodens_upstream_hedges_won_total", &labels);
        // A hedge is sent only if the first server is considered healthy.
        first.set(Behaviour::normal());
        nodens.metric_becomes("nodens_upstream_healthy", &[], |healthy| healthy == 2.0);
        (won > 0.0).then_some(())
    });
    let metrics = nodens.metrics();
    assert!(metrics.sum("nodens_upstream_hedges_total", &labels) >= 1.0);
    let first = first.address().to_string();
    assert_eq!(metrics.sum("nodens_upstream_hedges_won_total", &[("server", first.as_str())]), 0.0);
}

#[test]
fn waiting_clients_share_one_upstream_query() {
    let upstream = upstream(zone());
    upstream.set(Behaviour::silent());
    let nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"20s\""));
    let clients: Vec<_> = (0..10).map(|_| udp(nodens.address())).collect();
    for client in &clients {
        client.send(&query(1, "a.lab.example", A)).expect("sends");
    }
    nodens.metric_becomes("nodens_coalesced_queries_total", &[], |coalesced| coalesced == 9.0);
    assert_eq!(nodens.metric("nodens_pending_queries", &[]), 10.0);
    upstream.set(Behaviour::normal());
    // A later attempt for the same question gets a response, within the deadline.
    clients.iter().for_each(|client| assert_eq!(id(&receive(client)), 1));
    nodens.metric_becomes("nodens_pending_queries", &[], |pending| pending == 0.0);
    assert_eq!(nodens.metric("nodens_cache_misses_total", &[]), 10.0);
}

#[test]
fn a_popular_name_is_fetched_before_it_expires() {
    let upstream = upstream(zone().record("popular.lab.example. 5 A 192.0.2.7"));
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    eventually("a prefetch", || {
        lookup(nodens.address(), "popular.lab.example");
        (nodens.metric("nodens_cache_prefetches_total", &[]) > 0.0).then_some(())
    });
}

#[test]
fn a_full_cache_evicts_and_keeps_its_bound() {
    let text = format!("\"{}\" ", "x".repeat(250)).repeat(4);
    let upstream = upstream(zone().record(&format!("*.big.lab.example. 300 TXT {text}")));
    let nodens = Nodens::start(&format!("{}[cache]\nmemory = \"1MiB\"\n", config(&[&upstream], "", "")));
    let mut tcp = Tcp::connect(nodens.address());
    for n in 0..1_500 {
        tcp.ask(&query(n, &format!("{n}.big.lab.example"), TXT));
    }
    let metrics = nodens.metrics();
    let (bytes, entries) = (metrics.sum("nodens_cache_bytes", &[]), metrics.sum("nodens_cache_entries", &[]));
    let evictions = metrics.sum("nodens_cache_evictions_total", &[]);
    assert!(bytes > 0.0 && bytes <= 1_048_576.0, "{bytes}");
    assert!(entries > 0.0 && evictions > 0.0 && entries + evictions >= 1_500.0, "{entries} {evictions}");
}

#[test]
fn connections_are_counted_while_they_are_open() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "tcp_idle_timeout = \"600s\"", ""));
    let open = [(); 3].map(|()| Tcp::connect(nodens.address()));
    nodens.metric_becomes("nodens_tcp_connections", &[], |count| count == 3.0);
    drop(open);
    nodens.metric_becomes("nodens_tcp_connections", &[], |count| count == 0.0);
}

#[test]
fn readiness_follows_the_upstreams_of_each_route() {
    let (all, corp) = (upstream(zone()), upstream(zone()));
    let group = format!("[upstreams.corp]\nservers = [\"{}\"]\ndeadline = \"1s\"\n", corp.address());
    let route = "[[route]]\nzones = [\"corp.lab.example\", \"10.0.0.0/8\"]\nto = \"corp\"\n";
    let nodens = Nodens::start(&format!("{}{group}{route}", config(&[&all], "", "")));
    let is_ready = |nodens: &Nodens| {
        let page = nodens.get("/readyz");
        (page.status, page.body)
    };
    let ready = (200, "ok\n".to_owned());
    assert_eq!(is_ready(&nodens), ready);
    // Before its first response a server is unknown, and failures do not change that.
    let healthy = format!("    {} healthy\n", corp.address());
    eventually("its first response", || nodens.get("/readyz?verbose").body.contains(&healthy).then_some(()));
    for break_it in [|corp: &LabUpstream| corp.set(Behaviour::silent()), |corp: &LabUpstream| stop(corp)] {
        break_it(&corp);
        let mut names = 0;
        eventually("the server to be found out", || {
            names += 1;
            lookup(nodens.address(), &format!("{names}.corp.lab.example"));
            (nodens.get("/readyz").status == 503).then_some(())
        });
        assert_eq!(is_ready(&nodens).1, "not ready: see /readyz?verbose\n");
        let page = nodens.get("/readyz?verbose");
        assert_eq!(page.status, 503);
        assert!(page.body.contains("ok: route . to up\n"), "{}", page.body);
        assert!(page.body.contains("no live upstream: route corp.lab.example 10.0.0.0/8 to corp\n"), "{}", page.body);
        assert!(page.body.contains(&format!("    {} ejected\n", corp.address())), "{}", page.body);
        // The process is healthy, although one route is not.
        assert_eq!(nodens.get("/healthz").status, 200);

        restart(&corp);
        corp.set(Behaviour::normal());
        eventually("readiness", || (is_ready(&nodens) == ready).then_some(()));
        let page = nodens.get("/readyz?verbose");
        assert!(page.status == 200 && page.body.contains(&healthy), "{}", page.body);
    }
}

#[test]
fn pages_and_what_is_none() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    for (path, kind) in [
        ("/", "text/plain"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/healthz", "text/plain"),
        ("/readyz", "text/plain"),
        ("/readyz?verbose", "text/plain"),
        ("/api/v1/upstreams", "application/json"),
        ("/api/v1/events", "application/json"),
        ("/api/v1/events?x=y&after=7", "application/json"),
        ("/api/v1/clients?x=y&address=::1", "application/json"),
    ] {
        let page = nodens.get(path);
        assert_eq!(page.status, 200, "{path}");
        assert!(page.head.contains(&format!("content-type: {kind}")), "{path}: {}", page.head);
        assert!(!page.body.is_empty());
        let head = nodens.request("HEAD", path);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert!(head.head.contains(&format!("content-type: {kind}")), "{path}: {}", head.head);
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let page = nodens.request(method, path);
            assert_eq!(page.status, 405, "{method} {path}");
            assert!(page.head.contains("allow: get, head"), "{}", page.head);
        }
    }
    let list = nodens.get("/").body;
    for path in ["/metrics", "/healthz", "/readyz", "/api/v1/upstreams", "/api/v1/events", "/api/v1/clients"] {
        assert!(list.lines().any(|line| line.split_whitespace().next() == Some(path)), "{path}: {list}");
    }
    for path in ["/nothing", "/metrics/", "/METRICS", "//", "/healthz/x", "/api/v1", "/api/v1/upstream"] {
        for method in ["GET", "POST"] {
            let page = nodens.request(method, path);
            assert_eq!(page.status, 404, "{method} {path}");
            assert!(page.body.contains("/metrics "), "it says what there is: {}", page.body);
        }
    }
    for after in ["", "x", "-1", "1.5", "99999999999999999999"] {
        let page = nodens.get(&format!("/api/v1/events?after={after}"));
        assert_eq!(page.status, 400, "{after}");
        assert!(page.body.contains("after="), "{}", page.body);
    }
}
