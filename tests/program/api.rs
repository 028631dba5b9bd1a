//! The upstreams and events of `/api/v1`, compared with scripted upstreams.

use std::fs;
use std::time::Duration;

use crate::support::client::{A, lookup, query, udp};
use crate::support::{Nodens, config, eventually, stop, upstream, zone};
use nodens::lab::fault::Behaviour;
use nodens::lab::upstream::LabUpstream;
use nodens::metrics::events::EventKind;
use serde_json::Value;

const TXT: u16 = 16;

/// All kinds of events.
const ALL_KINDS: [EventKind; 16] = [
    EventKind::PruningOff,
    EventKind::Ejected,
    EventKind::Recovered,
    EventKind::Degraded,
    EventKind::NoLongerDegraded,
    EventKind::ForwardingLoop,
    EventKind::ForwardingLoopCleared,
    EventKind::EdnsOff,
    EventKind::RandomCaseOff,
    EventKind::AddressAdded,
    EventKind::AddressRemoved,
    EventKind::NameUnresolved,
    EventKind::NameResolved,
    EventKind::ReloadApplied,
    EventKind::ReloadNeedsRestart,
    EventKind::ReloadRejected,
];

/// Requests a page and parses it as JSON.
fn json(nodens: &Nodens, path: &str) -> Value {
    let page = nodens.get(path);
    assert_eq!(page.status, 200, "{path}: {}", page.body);
    assert!(page.head.contains("content-type: application/json"), "{}", page.head);
    serde_json::from_str(&page.body).expect("JSON")
}

/// Returns the entry of this server in `/api/v1/upstreams`.
fn of(nodens: &Nodens, server: &LabUpstream) -> Value {
    let page = json(nodens, "/api/v1/upstreams");
    let groups = page["upstreams"].as_array().expect("groups").iter();
    let mut servers = groups.flat_map(|group| group["servers"].as_array().expect("servers"));
    let is_it = |found: &&Value| found["address"] == server.address().to_string();
    servers.find(is_it).unwrap_or_else(|| panic!("not there: {page:#}")).clone()
}

/// Waits until `good` accepts the entry of this server.
fn becomes(nodens: &Nodens, server: &LabUpstream, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || Some(of(nodens, server)).filter(&good))
}

fn events(nodens: &Nodens) -> Vec<Value> {
    json(nodens, "/api/v1/events")["events"].as_array().expect("events").clone()
}

/// Waits for an event of this kind whose reason contains `reason`.
fn told(nodens: &Nodens, kind: &str, reason: &str) -> Value {
    let is_it = |event: &Value| event["kind"] == kind && event["reason"].as_str().is_some_and(|r| r.contains(reason));
    eventually(&format!("{kind}: {reason}"), || events(nodens).into_iter().find(is_it))
}

fn kinds(nodens: &Nodens) -> Vec<String> {
    events(nodens).iter().map(|event| event["kind"].as_str().expect("a kind").to_owned()).collect()
}

/// Asks for new names until `look` returns a value.
fn ask_until<T>(nodens: &Nodens, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut names = 0;
    eventually(what, || {
        names += 1;
        lookup(nodens.address(), &format!("{names}.until.lab.example"));
        look()
    })
}

/// Waits for the responses to the loop check and the first probe, or to others if a busy machine delayed these.
fn checked(nodens: &Nodens, server: &LabUpstream) {
    ask_until(nodens, "two responses", || (of(nodens, server)["responses_total"].as_u64() >= Some(2)).then_some(()));
}

fn is_a_time(text: &Value) -> bool {
    let shape = |c: char| if c.is_ascii_digit() { '0' } else { c };
    text.as_str().expect("text").chars().map(shape).eq("0000-00-00T00:00:00.000Z".chars())
}

/// Replaces the configuration file and reloads it.
fn reload(nodens: &Nodens, text: &str) {
    let new = nodens.dir().write("new.toml", text);
    fs::rename(new, nodens.config()).expect("a swap");
    nodens.signal("HUP");
}

#[test]
fn a_healthy_server_has_counts_and_latencies() {
    let upstream = upstream(zone());
    upstream.set_latency(Duration::from_millis(40));
    let route = "[[route]]\nzones = [\"corp.lab.example\", \"10.0.0.0/8\"]\nto = \"up\"\n";
    let nodens =
        Nodens::start(&format!("{}{route}", config(&[&upstream], "", "deadline = \"20s\"\nselect = \"fastest\"")));
    for n in 0..9 {
        lookup(nodens.address(), &format!("{n}.lab.example"));
    }
    // The tenth response is that of the loop check, the eleventh that of the first probe.
    let server = becomes(&nodens, &upstream, "eleven replies", |server| server["responses_total"].as_u64() >= Some(11));
    let group = json(&nodens, "/api/v1/upstreams")["upstreams"][0].clone();
    assert_eq!((&group["name"], &group["select"]), (&"up".into(), &"fastest".into()));
    assert_eq!(group["deadline_seconds"], 20.0);
    for field in ["max_qps", "queries_last_second", "shed_total"] {
        assert_eq!(group[field], Value::Null, "{field}");
    }
    assert_eq!(group["routes"], serde_json::json!([".", "corp.lab.example 10.0.0.0/8"]));
    assert_eq!(group["names"], serde_json::json!([]));

    assert_eq!((&server["transport"], &server["tls_name"]), (&"udp".into(), &Value::Null));
    assert_eq!((&server["state"], &server["next_probe_seconds"]), (&"healthy".into(), &Value::Null));
    assert_eq!(server["reason"], "it responded");
    assert_eq!((&server["edns"], &server["random_case"]), (&true.into(), &true.into()));
    assert!(is_a_time(&server["since"]), "{server:#}");
    assert!(server["age_seconds"].as_f64().is_some_and(|age| age > 0.3), "nine queries of 40 ms: {server:#}");
    assert_eq!(server["in_flight"], 0);
    assert!(server["queries_total"]["udp"].as_u64() >= Some(10), "{server:#}");
    assert_eq!(server["queries_total"]["tls"], 0);
    // A busy machine may delay a response so that it is asked for again, over TCP or by a hedge.
    assert!(server["queries_total"]["tcp"].is_u64(), "{server:#}");
    let [hedges, won] = ["hedges_total", "hedges_won_total"].map(|key| server[key].as_u64().expect("a number"));
    assert!(won <= hedges, "{server:#}");
    assert_eq!(server["ejections_total"], 0);
    let latency_window = &server["last_minute"];
    assert!(latency_window["responses"].as_u64() >= Some(10), "{server:#}");
    let percentiles = ["latency_p50_seconds", "latency_p95_seconds", "latency_p99_seconds"];
    let percentiles = percentiles.map(|key| latency_window[key].as_f64().expect("a number"));
    // Reported percentiles are at most a sixteenth off.
    assert!(percentiles[0] >= 0.0375 && percentiles.is_sorted(), "{percentiles:?}");
    assert!(server["smoothed_latency_seconds"].as_f64() >= Some(0.04), "{server:#}");
    assert!(events(&nodens).is_empty());
}

#[test]
fn silence_and_recovery_are_events_with_reasons() {
    let upstream = upstream(zone());
    let mut nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"1s\""));
    checked(&nodens, &upstream);
    upstream.set(Behaviour::silent());
    let is_down = |server: &Value| server["state"] == "ejected";
    let down = ask_until(&nodens, "ejection", || Some(of(&nodens, &upstream)).filter(is_down));
    let reason = "3 failures in a row: no response, no response, no response";
    assert_eq!((&down["reason"], &down["ejections_total"]), (&reason.into(), &1.into()));
    assert!(down["next_probe_seconds"].as_f64().is_some_and(|seconds| seconds <= 1.5), "{down:#}");
    assert!(down["failures_total"]["timeout"].as_u64() >= Some(3), "{down:#}");
    assert!(is_a_time(&down["since"]));
    // A gauge and a log line report the same.
    assert_eq!(nodens.metric("nodens_upstream_healthy", &[]), 0.0);
    assert_eq!(nodens.metric("nodens_upstream_ejections_total", &[]), 1.0);
    let line = nodens.logged("upstream server ejected");
    assert!(line.contains(reason) && line.contains(&upstream.address().to_string()), "{line}");

    upstream.set(Behaviour::normal());
    let up = becomes(&nodens, &upstream, "recovery", |server| server["state"] == "healthy");
    assert_eq!(up["next_probe_seconds"], Value::Null);
    // Usually a probe was answered; a response that a busy machine delayed proves life as well.
    let back = told(&nodens, "recovered", "");
    assert_eq!(back["reason"], up["reason"]);
    let by = back["reason"].as_str().and_then(|reason| reason.strip_prefix("after ")?.split_once(" s: "));
    let proofs =
        ["a probe was answered", "a late response to an earlier query", "a client's query of last resort was answered"];
    assert!(by.is_some_and(|(_, proof)| proofs.contains(&proof)), "{back:#}");
    assert_eq!((&back["upstream"], &back["server"]), (&"up".into(), &upstream.address().to_string().into()));
    assert_eq!(nodens.metric("nodens_upstream_healthy", &[]), 1.0);

    assert_eq!(kinds(&nodens), ["ejected", "recovered"]);
    let ejected = told(&nodens, "ejected", reason);
    assert_eq!((&ejected["time"], &back["time"]), (&down["since"], &up["since"]));
    assert!(ejected["id"].as_u64() < back["id"].as_u64());
    for (after, number) in [(0, 2), (ejected["id"].as_u64().unwrap_or(0), 1), (back["id"].as_u64().unwrap_or(0), 0)] {
        let page = json(&nodens, &format!("/api/v1/events?after={after}"));
        assert_eq!((page["events"].as_array().map(Vec::len), &page["complete"]), (Some(number), &true.into()));
    }
}

#[test]
fn a_closed_port_is_told_as_such() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"1s\""));
    checked(&nodens, &upstream);
    stop(&upstream);
    ask_until(&nodens, "ejection", || kinds(&nodens).contains(&"ejected".to_owned()).then_some(()));
    told(&nodens, "ejected", "port closed");
    assert!(of(&nodens, &upstream)["failures_total"]["connection_refused"].as_u64() >= Some(1));
}

#[test]
fn a_server_slow_from_the_start_is_not_ejected() {
    // 700 ms is longer than an attempt may take at a server in state unknown. If this machine stalls, the test is repeated
    // with another nodens.
    eventually("a slow server that is well", || {
        let upstream = upstream(zone());
        upstream.set_latency(Duration::from_millis(700));
        let nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"15s\""));
        let clients: Vec<_> = (0..3).map(|_| udp(nodens.address())).collect();
        for (n, client) in (0..).zip(&clients) {
            client.send(&query(n, &format!("{n}.lab.example"), A)).expect("sends");
        }
        becomes(&nodens, &upstream, "replies", |server| {
            server["state"] == "healthy" && server["responses_total"].as_u64() >= Some(5)
        });
        events(&nodens).is_empty().then_some(())
    });
}

#[test]
fn a_far_slower_server_is_degraded() {
    let (slow, fast) = (upstream(zone()), upstream(zone()));
    let nodens = Nodens::start(&config(&[&slow, &fast], "", "select = \"ordered\""));
    slow.set_latency(Duration::from_millis(120));
    let update_degraded = |server: &Value| server["state"] == "degraded";
    let server = ask_until(&nodens, "it to be slow", || Some(of(&nodens, &slow)).filter(update_degraded));
    assert!(server["reason"].as_str().is_some_and(|reason| reason.contains("the fastest one takes")), "{server:#}");
    // It would still be queried.
    let labels = [("server", server["address"].as_str().expect("an address"))];
    assert_eq!(nodens.metric("nodens_upstream_healthy", &labels), 1.0);
    slow.set_latency(Duration::ZERO);
    let is_healthy = |server: &Value| server["state"] == "healthy";
    ask_until(&nodens, "it to be fast", || Some(of(&nodens, &slow)).filter(is_healthy));
    let told: Vec<_> = events(&nodens).into_iter().filter(|event| event["server"] == server["address"]).collect();
    let of_it = |kind: &str| told.iter().any(|event| event["kind"] == kind);
    assert!(of_it("degraded") && (of_it("no_longer_degraded") || of_it("recovered")), "{told:#?}");
}

#[test]
fn what_a_bound_on_queries_costs_is_told() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", "max_qps = 10"));
    let group = ask_until(&nodens, "the bound", || {
        let group = json(&nodens, "/api/v1/upstreams")["upstreams"][0].clone();
        (group["shed_total"].as_u64() > Some(0) && group["queries_last_second"].as_u64() > Some(0)).then_some(group)
    });
    assert_eq!(group["max_qps"], 10);
    assert!(group["queries_last_second"].as_u64() <= Some(10), "{group:#}");
}

#[test]
fn a_server_that_loses_half_is_ejected() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"2s\""));
    checked(&nodens, &upstream);
    upstream.set(Behaviour::normal().lose_every(2));
    // If this machine stalls, the server may first be ejected for another reason.
    let reason = "8 failures among 32 attempts, the last ones: no response, no response, no response";
    ask_until(&nodens, "ejection", || events(&nodens).iter().any(|event| event["reason"] == reason).then_some(()));
}

#[test]
fn an_answered_last_resort_query_is_no_probe() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"1s\""));
    checked(&nodens, &upstream);
    // Queries that nodens sends on its own account get no valid response.
    let only_clients = Behaviour::edited(|seen, wire| {
        if !seen.is_within("lab.example.") || u16::from(seen.qtype) != A {
            // A wrong id, which matches no query.
            wire[0] ^= 0xff;
        }
    });
    upstream.set(Behaviour::silent());
    ask_until(&nodens, "ejection", || (of(&nodens, &upstream)["state"] == "ejected").then_some(()));
    upstream.set(only_clients);
    let mut names = 0;
    eventually("recovery", || {
        names += 1;
        lookup(nodens.address(), &format!("{names}.back.lab.example"));
        kinds(&nodens).contains(&"recovered".to_owned()).then_some(())
    });
    let back = events(&nodens).into_iter().find(|event| event["kind"] == "recovered").expect("it is back");
    assert!(back["reason"].as_str().is_some_and(|reason| reason.contains("of last resort was answered")), "{back:#}");
}

#[test]
fn a_forwarding_loop_is_reported_and_cleared() {
    let upstream = upstream(zone());
    let text = config(&[&upstream], "", "");
    let nodens = Nodens::start(&text);
    let lead_back = || {
        let check = eventually("a loop check", || {
            upstream.seen().into_iter().find(|seen| seen.is_within("loop-check.nodens.internal"))
        });
        crate::support::client::ask_udp(nodens.address(), &query(7, &check.name, TXT));
    };
    lead_back();
    let looped = becomes(&nodens, &upstream, "the loop", |server| server["state"] == "forwarding_loop");
    assert_eq!(looped["reason"], "a query of the loop check came back");
    assert_eq!(nodens.metric("nodens_upstream_healthy", &[]), 0.0);
    lead_back();
    assert_eq!(kinds(&nodens), ["forwarding_loop"], "once");

    reload(&nodens, &text.replace("to = \"up\"", "to = \"up\"\nnegative_max_ttl = \"7s\""));
    told(&nodens, "forwarding_loop_cleared", "checked");
    becomes(&nodens, &upstream, "health", |server| server["state"] == "healthy");
    assert_eq!(nodens.metric("nodens_upstream_healthy", &[]), 1.0);
    lead_back();
    becomes(&nodens, &upstream, "the loop", |server| server["state"] == "forwarding_loop");
    told(&nodens, "reload_applied", "");
    // Two threads report the reload and its consequences, in any order.
    let (of_reload, of_loops): (Vec<_>, Vec<_>) = kinds(&nodens).into_iter().partition(|kind| kind == "reload_applied");
    assert_eq!(
        (of_reload.len(), of_loops),
        (1, ["forwarding_loop", "forwarding_loop_cleared", "forwarding_loop"].map(String::from).to_vec())
    );
}

#[test]
fn what_a_server_cannot_stand_is_told() {
    for (behaviour, field, kind, reason) in [
        (Behaviour::formerr_on_opt(), "edns", "edns_off", "checks"),
        (Behaviour::silent_on_opt(), "edns", "edns_off", "checks"),
        (Behaviour::folded_case(), "random_case", "random_case_off", "checks"),
    ] {
        let upstream = upstream(zone());
        upstream.set(behaviour);
        let nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"5s\""));
        ask_until(&nodens, kind, || (of(&nodens, &upstream)[field] == false).then_some(()));
        let event = told(&nodens, kind, reason);
        assert_eq!(event["server"], upstream.address().to_string());
        let times = kinds(&nodens).iter().filter(|told| *told == kind).count();
        assert_eq!(times, 1, "{kind} is told once");
    }
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", "randomize_case = false"));
    assert_eq!(of(&nodens, &upstream)["random_case"], false);
}

#[test]
fn a_server_goes_from_unknown_to_failing() {
    let upstream = upstream(zone());
    upstream.set(Behaviour::silent());
    let nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"300ms\""));
    assert_eq!(of(&nodens, &upstream)["state"], "unknown");
    // nodens sends queries on its own account, before any client does.
    becomes(&nodens, &upstream, "a failure", |server| server["failures_total"]["timeout"].as_u64() > Some(0));
    assert_eq!(nodens.get("/readyz").status, 503);
    upstream.set(Behaviour::rcode(2));
    let failing = ask_until(&nodens, "nothing but errors", || {
        Some(of(&nodens, &upstream)).filter(|server| server["state"] == "failing")
    });
    assert_eq!(failing["reason"], "SERVFAIL to everything, to a probe too");
    assert_eq!(nodens.metric("nodens_upstream_healthy", &[]), 0.0);
    let page = nodens.get("/readyz?verbose");
    assert!(page.status == 503 && page.body.contains("failing: responds with errors only"), "{}", page.body);
    upstream.set(Behaviour::normal());
    ask_until(&nodens, "health", || (of(&nodens, &upstream)["state"] == "healthy").then_some(()));
    told(&nodens, "no_longer_failing", "");
    assert_eq!(nodens.get("/readyz").status, 200);
}

#[test]
fn a_server_over_tls_is_told_with_its_name() {
    let upstream = upstream(zone());
    let servers = format!("servers = [\"tls://{}#dns.test\"]", upstream.address());
    let text = config(&[&upstream], "", "").replace(&format!("servers = [\"{}\"]", upstream.address()), &servers);
    let nodens = Nodens::start(&text);
    lookup(nodens.address(), "a.lab.example");
    // The server accepts clear text only, so each attempt fails.
    let sum = |counts: &Value| counts.as_object().expect("counts").values().filter_map(Value::as_u64).sum::<u64>();
    let server = becomes(&nodens, &upstream, "a failure", |server| sum(&server["failures_total"]) > 0);
    assert_eq!((&server["transport"], &server["tls_name"]), (&"tls".into(), &"dns.test".into()));
    assert_eq!(server["random_case"], false);
    assert!(server["queries_total"]["tls"].as_u64() >= Some(1) && server["queries_total"]["udp"] == 0, "{server:#}");
    assert_eq!((&server["responses_total"], &server["smoothed_latency_seconds"]), (&0.into(), &Value::Null));
    assert_eq!(server["last_minute"]["latency_p50_seconds"], Value::Null);
}

#[test]
fn hedges_are_told_when_sent_and_when_won() {
    let (first, second) = (upstream(zone()), upstream(zone()));
    let nodens = Nodens::start(&config(&[&first, &second], "", "select = \"ordered\""));
    assert_eq!(json(&nodens, "/api/v1/upstreams")["upstreams"][0]["select"], "ordered");
    let mut names = 0;
    eventually("a hedge that wins", || {
        first.set(Behaviour::silent());
        names += 1;
        lookup(nodens.address(), &format!("{names}.lab.example"));
        first.set(Behaviour::normal());
        becomes(&nodens, &first, "health", |server| server["state"] != "ejected");
        (of(&nodens, &second)["hedges_won_total"].as_u64() > Some(0)).then_some(())
    });
    let server = of(&nodens, &second);
    assert!(server["hedges_total"].as_u64() >= server["hedges_won_total"].as_u64(), "{server:#}");
    assert_eq!(of(&nodens, &first)["hedges_won_total"], 0);
}

#[test]
fn reloads_are_told_with_what_came_of_them() {
    let (old, new) = (upstream(zone()), upstream(zone()));
    let text = config(&[&old], "", "");
    let nodens = Nodens::start(&text);
    reload(&nodens, &config(&[&new], "", ""));
    let event = told(&nodens, "reload_applied", "");
    assert_eq!((&event["upstream"], &event["server"], &event["reason"]), (&Value::Null, &Value::Null, &"".into()));
    assert_eq!(event["text"], "new configuration applied");
    assert!(is_a_time(&event["time"]));
    let page = nodens.get("/api/v1/upstreams").body;
    assert!(page.contains(&new.address().to_string()) && !page.contains(&old.address().to_string()), "{page}");

    reload(&nodens, &text.replace("to = \"up\"", "to = \"upp\"\nspeed = 5"));
    told(&nodens, "reload_rejected", "nodens.toml:11:6: to: there is no [upstreams.upp]");
    reload(&nodens, &format!("{text}[cache]\nmemory = \"3MiB\"\n"));
    told(&nodens, "reload_needs_restart", "cache.memory");
    assert_eq!(kinds(&nodens), ["reload_applied", "reload_rejected", "reload_needs_restart"]);
    // The keys stay named until the file matches the configuration in force again.
    reload(&nodens, &format!("{text}[cache]\nmemory = \"3MiB\"\nstale = \"2m\"\n"));
    nodens.metric_becomes("nodens_config_reloads_total", &[("result", "applied")], |count| count >= 3.0);
    let waiting = || nodens.metric("nodens_config_keys_waiting_for_restart", &[]);
    let page = nodens.get("/readyz?verbose").body;
    assert!(page.ends_with("note: these keys of the configuration wait for a restart: cache.memory\n"), "{page}");
    assert_eq!(waiting(), 1.0);
    reload(&nodens, &text);
    nodens.metric_becomes("nodens_config_reloads_total", &[("result", "applied")], |count| count >= 4.0);
    assert!(!nodens.get("/readyz?verbose").body.contains("restart") && waiting() == 0.0);
}

#[test]
fn every_field_is_explained_and_nothing_else_is() {
    const DOC: &str = include_str!("../../docs/reference/api.md");
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"1s\""));
    reload(&nodens, &config(&[&upstream], "", "deadline = \"2s\""));
    told(&nodens, "reload_applied", "");
    let mut keys = Vec::new();
    for path in ["/api/v1/upstreams", "/api/v1/events"] {
        collect(&json(&nodens, path), &mut keys);
    }
    keys.sort_unstable();
    keys.dedup();
    assert!(keys.len() > 30, "{keys:?}");
    let row = |line: &str| line.strip_prefix("| `").and_then(|line| line.split('`').next()).map(str::to_owned);
    // Kinds of events are values, with a table of their own.
    let (fields, kinds) = DOC.split_once("| kind |").expect("a table of kinds");
    let mut explained: Vec<_> = fields.lines().filter_map(row).collect();
    explained.sort_unstable();
    explained.dedup();
    for kind in ALL_KINDS {
        let kind = serde_json::to_value(kind).expect("a kind").as_str().expect("text").to_owned();
        assert!(kinds.contains(&format!("`{kind}`")), "{kind} is not explained");
    }
    // Keys by failure kind and by transport are explained with their parent.
    keys.retain(|key| !nodens::metrics::FAILURE_KINDS.contains(&key.as_str()));
    keys.retain(|key| !nodens::metrics::TRANSPORTS.contains(&key.as_str()));
    assert_eq!(keys, explained);
    // The examples are JSON with the same fields.
    let examples = DOC.split("```json\n").skip(1).map(|block| block.split("```").next().expect("an end"));
    let mut shown = Vec::new();
    for example in examples {
        collect(&serde_json::from_str(example).expect("an example is JSON"), &mut shown);
    }
    shown.retain(|key| !nodens::metrics::FAILURE_KINDS.contains(&key.as_str()));
    shown.retain(|key| !nodens::metrics::TRANSPORTS.contains(&key.as_str()));
    shown.sort_unstable();
    shown.dedup();
    assert_eq!(shown, explained);
}

/// Collects the keys of all nested objects.
fn collect(value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            keys.push(key.clone());
            collect(value, keys);
        }),
        Value::Array(values) => values.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}
