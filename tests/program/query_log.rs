//! The query log, with the built binary: clients, servers, and responses that do not wait for the log.

use std::fs::{self, File};
use std::io;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::support::api::Api;
use crate::support::client::{A, Tcp, code, lookup, query, receive, udp};
use crate::support::{DEADLINE, Dir, Nodens, config, eventually, serve, upstream, zone};
use nodens::lab::fault::Behaviour;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use serde_json::{Value, json};

const POD: &str = "127.0.0.2";
const NETWORK: &str = "127.0.0.3";
const STRANGER: &str = "127.0.0.9";

/// Returns the complete lines of a file.
fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Waits until a file has `count` lines.
fn has_lines(file: &Path, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines in {}", file.display()), || Some(lines(file)).filter(|all| all.len() >= count))
}

/// Returns the names in the lines of a file.
fn names(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["name"].as_str().expect("a name")).collect()
}

/// Sends a query as the client with this address.
fn ask(nodens: &Nodens, from: &str, name: &str, qtype: u16) -> Vec<u8> {
    let socket = UdpSocket::bind((from, 0)).expect("a socket");
    socket.connect(nodens.address()).expect("a way there");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    socket.send(&query(7, name, qtype)).expect("sends");
    receive(&socket)
}

/// Replaces the configuration and reloads it.
fn reload(nodens: &Nodens, text: &str) {
    let taken = nodens.metric("nodens_config_reloads_total", &[("result", "applied")]);
    fs::write(nodens.config(), text).expect("writes");
    nodens.signal("HUP");
    nodens.metric_becomes("nodens_config_reloads_total", &[("result", "applied")], |now| now > taken);
}

/// Starts a nodens with one worker that logs to a file in its directory; returns also the file and the configuration.
fn logging(more: &str) -> (Nodens, LabUpstream, PathBuf, String) {
    let upstream = upstream(zone());
    let dir = Dir::new();
    let file = dir.file("queries.jsonl");
    let text = config(&[&upstream], "workers = 1", "");
    let logged = format!("{text}[query_log]\nto = {file:?}\n{more}\n");
    let path = dir.write("nodens.toml", &logged);
    (Nodens::spawn(serve().arg("--config").arg(path), dir), upstream, file, text)
}

#[test]
fn a_line_says_who_asked_what_and_who_answered() {
    let api = Api::start();
    api.put("ci", "one", &[POD], |pod| {
        pod["metadata"]["labels"]["project.runner.gitlab.com/id"] = "42".into();
        pod["metadata"]["labels"]["manager.runner.gitlab.com/id-short"] = "t1abc".into();
        pod["metadata"]["annotations"]["job.runner.gitlab.com/id"] = "8123".into();
    });
    let public = upstream(LabZone::new(".").record("*.lab.example. 300 A 192.0.2.1"));
    let corp = upstream(LabZone::new("corp.example."));
    corp.set(Behaviour::silent());
    let (dir, public_address, corp_address) = (Dir::new(), public.address(), corp.address());
    let file = dir.file("queries.jsonl");
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"127.0.0.0/29\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [upstreams.public]\nservers = [\"{public_address}\"]\n\
         [upstreams.corp]\nservers = [\"{corp_address}\"]\ndeadline = \"300ms\"\n\
         [[route]]\nzones = [\"corp.example\"]\nto = \"corp\"\n[[route]]\nzones = [\".\"]\nto = \"public\"\n\
         [kubernetes]\nwatch = true\n[query_log]\nto = {file:?}\n\
         [[client]]\nsource = \"{NETWORK}\"\nname = \"vms\"\nproject = \"group/project\"\njob = \"nightly\"\n"
    );
    let nodens = api.nodens(&text, dir);
    eventually("the pod to be known", || {
        nodens.get(&format!("/api/v1/clients?address={POD}")).body.contains("\"name\": \"one\"").then_some(())
    });

    ask(&nodens, POD, "WWW.lab.example", A);
    ask(&nodens, POD, "www.lab.example", A);
    // The second query waits for a late response to the first, and causes another attempt; the third gets the cached failure.
    (0..3).for_each(|_| drop(ask(&nodens, POD, "git.corp.example", A)));
    ask(&nodens, NETWORK, "typo.example.com", 28);
    ask(&nodens, POD, "LocalHost", A);
    ask(&nodens, POD, "me.nodens.internal", 16);
    ask(&nodens, STRANGER, "wwW.lab.example", A);
    Tcp::connect(nodens.address()).ask(&query(1, "tcp.lab.example", 65_280));
    let mut all = has_lines(&file, 10);
    assert_eq!(all.len(), 10);
    let said = format!("upstream corp: {corp_address} no response");
    let pod = json!({ "kind": "gitlab-job", "namespace": "ci", "pod": "one", "job": "8123", "project": "42",
        "runner": "t1abc", "client": POD });
    let public = json!({ "route": ".", "upstream": "public" });
    let public_answered = json!({ "route": ".", "upstream": "public", "server": public_address.to_string() });
    let corp = json!({ "route": "corp.example", "upstream": "corp", "cause": "upstream_timeout", "error": &said });
    let nobody = json!({});
    for (name, qtype, source, rcode, who, way) in [
        ("www.lab.example", "A", "upstream", "NOERROR", &pod, &public_answered),
        ("www.lab.example", "A", "hit", "NOERROR", &pod, &public),
        ("git.corp.example", "A", "upstream", "SERVFAIL", &pod, &corp),
        ("git.corp.example", "A", "upstream", "SERVFAIL", &pod, &corp),
        ("git.corp.example", "A", "hit", "SERVFAIL", &pod, &corp),
        (
            "typo.example.com",
            "AAAA",
            "upstream",
            "NXDOMAIN",
            &json!({ "kind": "configured", "network": "vms", "job": "nightly", "project": "group/project",
                "client": NETWORK }),
            &json!({ "route": ".", "upstream": "public", "server": public_address.to_string(),
                "cause": "no_such_name" }),
        ),
        ("localhost", "A", "local", "NOERROR", &pod, &nobody),
        ("me.nodens.internal", "TXT", "local", "NOERROR", &pod, &nobody),
        (
            "www.lab.example",
            "A",
            "refused",
            "REFUSED",
            &json!({ "client": STRANGER }),
            &json!({ "cause": "refused", "error": "this client may not ask: see server.allow" }),
        ),
        (
            "tcp.lab.example",
            "TYPE65280",
            "upstream",
            "NOERROR",
            &json!({ "client": "127.0.0.1", "transport": "tcp" }),
            &public_answered,
        ),
    ] {
        let mut expected = json!({ "client": null, "kind": null, "namespace": null, "pod": null, "network": null,
            "job": null, "project": null, "runner": null, "transport": "udp", "route": null, "upstream": null,
            "server": null, "cause": null, "error": null,
            "name": name, "type": qtype, "source": source, "rcode": rcode });
        for (key, value) in [who, way].into_iter().flat_map(|part| part.as_object().expect("an object")) {
            expected[key] = value.clone();
        }
        let is = |line: &Value| {
            let mut line = line.clone();
            let fields = line.as_object_mut().expect("an object");
            let time = fields.remove("time");
            let seconds = fields.remove("seconds").and_then(|seconds| seconds.as_f64());
            let slow = (name, source) == ("git.corp.example", "upstream");
            line == expected
                && time.is_some_and(|time| time.as_str().is_some_and(|time| time.starts_with("20")))
                && seconds.is_some_and(|seconds| if slow { seconds >= 0.3 } else { seconds >= 0.0 })
        };
        let found = all.iter().position(is);
        all.remove(found.unwrap_or_else(|| panic!("no {expected:#} in {all:#?}")));
    }
    assert_eq!(nodens.metric("nodens_query_log_lines_total", &[]), 10.0);
    assert_eq!(nodens.metric("nodens_query_log_dropped_total", &[]), 0.0);
}

#[test]
fn coalesced_and_refetched_answers_name_the_server() {
    let zone = zone().record("short.lab.example. 1 A 192.0.2.2");
    let upstream = upstream(zone);
    let dir = Dir::new();
    let file = dir.file("queries.jsonl");
    let text = config(&[&upstream], "", "deadline = \"20s\"");
    let path = dir.write("nodens.toml", &format!("{text}[query_log]\nto = {file:?}\nmax_per_second = 100000\n"));
    let nodens = Nodens::spawn(serve().arg("--config").arg(path), dir);
    let server = json!(upstream.address().to_string());
    let answered = || -> Vec<Value> {
        lines(&file)
            .into_iter()
            .filter(|line| line["source"] == "upstream")
            .map(|line| line["server"].clone())
            .collect()
    };
    // After its TTL the answer is fetched again by a task that does not depend on the client.
    eventually("it to be fetched twice", || {
        lookup(nodens.address(), "short.lab.example");
        (answered().len() >= 2).then_some(())
    });
    assert!(answered().iter().all(|by| *by == server), "{:?}", lines(&file));
    upstream.set_latency(Duration::from_millis(200));
    let mut asked = 0;
    eventually("two to wait for one answer", || {
        asked += 2;
        let clients = [1, 2].map(|id| {
            let socket = udp(nodens.address());
            socket.send(&query(id, &format!("slow-{asked}.lab.example"), A)).expect("sends");
            socket
        });
        clients.iter().for_each(|socket| drop(receive(socket)));
        (nodens.metric("nodens_coalesced_queries_total", &[]) > 0.0).then_some(())
    });
    eventually("all to be logged", || {
        let all = lines(&file);
        (names(&all).iter().filter(|name| name.starts_with("slow-")).count() == asked).then_some(())
    });
    assert!(answered().iter().all(|by| *by == server), "{:?}", lines(&file));
}

#[test]
fn a_rotated_file_is_reopened_without_loss() {
    let (nodens, _upstream, file, _) = logging("");
    let moved = file.with_extension("1");
    lookup(nodens.address(), "one.lab.example");
    has_lines(&file, 1);
    fs::rename(&file, &moved).expect("moves");
    lookup(nodens.address(), "two.lab.example");
    assert_eq!(names(&has_lines(&file, 1)), ["two.lab.example"]);
    assert_eq!(names(&lines(&moved)), ["one.lab.example"]);
    fs::remove_file(&file).expect("removes");
    lookup(nodens.address(), "three.lab.example");
    assert_eq!(names(&has_lines(&file, 1)), ["three.lab.example"]);
}

#[test]
fn a_reload_turns_it_on_and_off_and_elsewhere() {
    let (nodens, upstream, file, plain) = logging("only = \"failures\"");
    let other = file.with_extension("other");
    upstream.set(Behaviour::silent());
    let with = |file: &Path, more: &str| format!("{plain}[query_log]\nto = {file:?}\n{more}");
    lookup(nodens.address(), "localhost");
    lookup(nodens.address(), "a.invalid");
    assert_eq!(names(&has_lines(&file, 1)), ["a.invalid"]);
    reload(&nodens, &plain);
    lookup(nodens.address(), "b.invalid");
    reload(&nodens, &with(&other, "only = \"errors\""));
    for name in ["localhost", "c.invalid", "late.lab.example"] {
        lookup(nodens.address(), name);
    }
    assert_eq!(names(&has_lines(&other, 1)), ["late.lab.example"]);
    reload(&nodens, &with(&file, ""));
    lookup(nodens.address(), "localhost");
    assert_eq!(names(&has_lines(&file, 2)), ["a.invalid", "localhost"]);
    assert_eq!(lines(&other).len(), 1);
}

#[test]
fn what_is_drawn_is_written_before_the_end() {
    let upstream = upstream(zone());
    let dir = Dir::new();
    let (file, text) = (dir.file("stdout"), config(&[&upstream], "", ""));
    let path = dir.write("nodens.toml", &format!("{text}[query_log]\nto = \"stdout\"\nmax_per_second = 100000\n"));
    let out = File::create(&file).expect("a file");
    let mut nodens = Nodens::spawn(serve().arg("--config").arg(path).stdout(Stdio::from(out)), dir);
    for number in 0..300 {
        lookup(nodens.address(), &format!("n{}.lab.example", number % 10));
    }
    nodens.stop();
    let all = lines(&file);
    assert_eq!((all.len(), all.iter().filter(|line| line["source"] == "upstream").count()), (300, 10));
}

#[test]
fn a_second_has_no_more_lines_than_it_may() {
    let (nodens, _upstream, file, _) = logging("max_per_second = 2");
    for _ in 0..50 {
        lookup(nodens.address(), "www.lab.example");
    }
    let dropped = || nodens.metric("nodens_query_log_dropped_total", &[("reason", "rate")]) as usize;
    let all = eventually("each to be a line or dropped", || {
        Some(lines(&file)).filter(|all| all.len() + dropped() == 50 && !all.is_empty())
    });
    let mut seconds: Vec<_> = all.iter().map(|line| line["time"].as_str().expect("a time")[..19].to_owned()).collect();
    seconds.dedup();
    // Wall-clock seconds and seconds of the process do not coincide: each overlaps two of the others at most.
    assert!(all.len() <= 2 * (seconds.len() + 1), "{all:#?}");
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up() {
    let upstream = upstream(zone());
    let dir = Dir::new();
    let text = config(&[&upstream], "workers = 1", "");
    let path = dir.write("nodens.toml", &format!("{text}[query_log]\nto = \"stdout\"\nmax_per_second = 100000\n"));
    let (_unread, out) = io::pipe().expect("a pipe");
    let mut nodens = Nodens::spawn(serve().arg("--config").arg(path).stdout(Stdio::from(out)), dir);
    let full = || nodens.metric("nodens_query_log_dropped_total", &[("reason", "full")]);
    eventually("something to be dropped", || {
        for _ in 0..1_000 {
            assert_eq!(code(&lookup(nodens.address(), "www.lab.example")), hickory_proto::op::ResponseCode::NoError);
        }
        (full() > 0.0).then_some(())
    });
    nodens.stop();
}

#[test]
fn what_cannot_be_written_is_counted_and_told_once() {
    let upstream = upstream(zone());
    let dir = Dir::new();
    let (folder, text) = (dir.file("later"), config(&[&upstream], "", ""));
    let file = folder.join("queries.jsonl");
    let path = dir.write("nodens.toml", &format!("{text}[query_log]\nto = {file:?}\n"));
    let mut nodens = Nodens::spawn(serve().arg("--config").arg(path), dir);
    for count in 1..=3 {
        lookup(nodens.address(), "www.lab.example");
        let failed = |failed: f64| failed == f64::from(count);
        nodens.metric_becomes("nodens_query_log_dropped_total", &[("reason", "failed")], failed);
    }
    assert!(nodens.logged("cannot write the query log").contains("queries.jsonl"));
    fs::create_dir(&folder).expect("a directory");
    lookup(nodens.address(), "www.lab.example");
    assert_eq!(has_lines(&file, 1).len(), 1);
    nodens.logged("query log writable again");
    assert_eq!(nodens.log().iter().filter(|line| line.contains("cannot write the query log")).count(), 1);
}
