//! Queries and failures by job, with the built binary, pods from a scripted API, and clients with their own addresses.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use crate::support::api::Api;
use crate::support::client::{A, code, data, query, receive};
use crate::support::{DEADLINE, Dir, Nodens, eventually, upstream};
use nodens::lab::fault::Behaviour;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use serde_json::{Value, json};

const TXT: u16 = 16;
const ONE: &str = "127.0.0.2";
const TWO: &str = "127.0.0.3";
const STRANGER: &str = "127.0.0.9";

struct Scene {
    nodens: Nodens,
    api: Api,
    corp: LabUpstream,
    _public: LabUpstream,
}

/// Starts nodens with two jobs of different projects on one node; the servers of corp.example are silent.
fn scene() -> Scene {
    scene_with("")
}

/// Starts the same scene with additional configuration and a deadline of 400 ms for corp.example.
fn scene_with(more: &str) -> Scene {
    scene_within("400ms", more)
}

/// Starts the same scene with additional configuration and this deadline for corp.example.
fn scene_within(deadline: &str, more: &str) -> Scene {
    let api = Api::start();
    for (name, address, project, job) in [("one", ONE, "42", "8123"), ("two", TWO, "43", "8124")] {
        api.put("ci", name, &[address], |pod| {
            pod["metadata"]["labels"]["project.runner.gitlab.com/id"] = project.into();
            pod["metadata"]["annotations"]["job.runner.gitlab.com/id"] = job.into();
        });
    }
    let public = upstream(LabZone::new(".").record("registry.example.com. 300 A 192.0.2.1"));
    let corp = upstream(LabZone::new("corp.example."));
    corp.set(Behaviour::silent());
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nhints = \"full\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [upstreams.public]\nservers = [\"{}\"]\n[upstreams.corp]\nservers = [\"{}\"]\ndeadline = \"{deadline}\"\n\
         [[route]]\nzones = [\"corp.example\"]\nto = \"corp\"\n\
         [[route]]\nzones = [\"cluster.local\"]\nto = \"public\"\n[[route]]\nzones = [\".\"]\nto = \"public\"\n\
         [kubernetes]\nwatch = true\n{more}",
        public.address(),
        corp.address()
    );
    let dir = Dir::new();
    let nodens = api.nodens(&text, dir);
    is_pod(&nodens, ONE, "one");
    is_pod(&nodens, TWO, "two");
    Scene { nodens, api, corp, _public: public }
}

/// Waits until nodens attributes the address to that pod.
fn is_pod(nodens: &Nodens, address: &str, name: &str) {
    eventually(&format!("{address} is {name}"), || {
        let page = nodens.get(&format!("/api/v1/clients?address={address}"));
        page.body.contains(&format!("\"name\": \"{name}\"")).then_some(())
    });
}

impl Scene {
    /// Sends a query as the client with this address.
    fn ask(&self, from: &str, name: &str, qtype: u16) -> Vec<u8> {
        let socket = UdpSocket::bind((from, 0)).expect("a socket");
        socket.connect(self.nodens.address()).expect("a way there");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.send(&query(7, name, qtype)).expect("sends");
        receive(&socket)
    }

    /// Returns the strings of a TXT answer, joined.
    fn txt(&self, from: &str, name: &str) -> String {
        let response = self.ask(from, name, TXT);
        assert_eq!(code(&response), hickory_proto::op::ResponseCode::NoError, "{name}");
        data(&response).join("\n")
    }

    /// Returns the report of a job, once it has this many queries.
    fn report(&self, id: &str, queries: u64) -> Value {
        eventually(&format!("{queries} queries of {id}"), || {
            let page = self.nodens.get(&format!("/api/v1/jobs/{id}"));
            let report: Value = serde_json::from_str(&page.body).ok()?;
            (report["queries"] == queries).then_some(report)
        })
    }

    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let admin: SocketAddr = self.nodens.admin.expect("admin pages");
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodens"));
        let output = command.args(arguments).args(["--admin", &admin.to_string()]).output().expect("nodens runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).expect("UTF-8"))
    }
}

/// Sends the eight queries of job one.
fn job_one(scene: &Scene) {
    for suffix in [".ci.svc.cluster.local", ".svc.cluster.local", ".cluster.local", "", ""] {
        scene.ask(ONE, &format!("registry.example.com{suffix}"), A);
    }
    scene.ask(ONE, "typo.example.com", A);
    scene.ask(ONE, "Typo.example.com", 28);
    scene.ask(ONE, "git.corp.example", A);
}

#[test]
fn each_job_has_a_report_of_its_own() {
    let scene = scene();
    job_one(&scene);
    scene.ask(TWO, "secret.example.org", A);
    scene.ask(STRANGER, "strange.example.org", A);
    let report = scene.report("one", 8);
    assert_eq!(
        (&report["uid"], &report["job_id"], &report["kind"]),
        (&json!("uid-one"), &json!("8123"), &json!("gitlab-job"))
    );
    assert_eq!(report["by_route"], json!({ "cluster.local": 3, ".": 4, "corp.example": 1 }));
    assert_eq!(report["by_rcode"], json!({ "NOERROR": 2, "NXDOMAIN": 5, "SERVFAIL": 1 }));
    assert_eq!(report["by_source"], json!({ "hit": 1, "local": 2, "upstream": 5 }));
    assert_eq!(report["failed"], 3);
    assert_eq!(
        report["search_list"],
        json!({
            "queries": 3,
            "explanation": "search-list noise (3 of 8 queries): names with a suffix of the search list; a final \
                            dot, or ndots: 1, avoids them",
            "names": [{ "name": "registry.example.com", "queries": 3 }],
        })
    );
    let failures: Vec<_> = report["failures"].as_array().expect("a list").iter().collect();
    let told: Vec<_> = failures.iter().map(|f| (&f["name"], &f["cause"], &f["queries"])).collect();
    let expected = [
        (&json!("typo.example.com"), &json!("no_such_name"), &json!(2)),
        (&json!("git.corp.example"), &json!("upstream_timeout"), &json!(1)),
    ];
    assert_eq!(told, expected);
    let said = failures[1]["explanation"].as_str().expect("a text");
    let server = format!("upstream corp: {} no response", scene.corp.address());
    assert!(said.contains("route \"corp.example\"") && said.contains(&server), "{said}");
    // On a busy machine another query may have taken longer.
    let slowest = report["slowest"].as_array().expect("a list");
    let git = slowest.iter().find(|slow| slow["name"] == "git.corp.example").expect("the slow one");
    assert_eq!(git["route"], "corp.example");
    assert!(git["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.3), "{git}");
    assert_eq!(report["slowest"].as_array().map(Vec::len), Some(5), "hits and denials take no time");
    // Each identifier of the job leads to the same report.
    for id in ["8123", "uid-one"] {
        assert_eq!(scene.report(id, 8)["name"], "one");
    }
    assert_eq!(scene.report("two", 1)["failures"][0]["name"], "secret.example.org");
    assert_eq!(scene.report("unknown", 1)["failures"][0]["name"], "strange.example.org");
    assert_eq!(scene.nodens.get("/api/v1/jobs/three").status, 404);
    let list: Value = serde_json::from_str(&scene.nodens.get("/api/v1/jobs").body).expect("JSON");
    assert_eq!((list["jobs"].as_array().map(Vec::len), &list["dropped"]), (Some(3), &json!(0)));

    // The report outlives the pod; the next pod with that address has its own.
    scene.api.delete("one");
    scene.api.put("ci", "three", &[ONE], |_| {});
    is_pod(&scene.nodens, ONE, "three");
    let me = scene.txt(ONE, "me.nodens.internal");
    assert!(me.contains("pod three") && me.contains("no queries yet"), "{me}");
    assert_eq!(scene.report("one", 8)["failed"], 3);
}

/// The cause of a failure does not depend on texts that an upstream sends.
#[test]
fn a_cause_is_what_happened_whatever_the_servers_say() {
    let scene = scene_within("20s", "");
    scene.corp.set(Behaviour::rcode(2).extended_error(22, "no reply: max_qps"));
    // The second query finds the cached failure.
    (0..2).for_each(|_| drop(scene.ask(ONE, "git.corp.example", A)));
    let zone = LabZone::new("corp.example.").rcode("bad.corp.example.", 3);
    scene.corp.set_zone(zone.extended_error("bad.corp.example.", 15, "malware")).expect("a zone");
    scene.corp.set(Behaviour::normal());
    // The second query is a hit.
    (0..2).for_each(|_| drop(scene.ask(ONE, "bad.corp.example", A)));
    let report = scene.report("one", 4);
    let of = |name: &str| {
        let failures = report["failures"].as_array().expect("a list");
        failures.iter().find(|failure| failure["name"] == name).expect(name)
    };
    let (servfail, blocked) = (of("git.corp.example"), of("bad.corp.example"));
    let explained =
        |failure: &Value, words: &str| failure["explanation"].as_str().is_some_and(|text| text.contains(words));
    assert_eq!((&servfail["cause"], &servfail["queries"]), (&json!("upstream_failed"), &json!(2)), "{report:#}");
    assert!(explained(servfail, "SERVFAIL; extended error 22 no reply: max_qps"), "{servfail}");
    assert_eq!((&blocked["cause"], &blocked["queries"]), (&json!("blocked"), &json!(2)), "{report:#}");
    assert!(explained(blocked, "blocked by the servers of route \"corp.example\"") && explained(blocked, "malware"));
}

#[test]
fn what_a_server_writes_steers_no_terminal() {
    const COMMANDS: &str = "a\u{1b}[2J\r\tb\u{202e}c\u{200b}d";
    let is_command = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{200b}".contains(c);
    let scene = scene_within("20s", "");
    scene.corp.set(Behaviour::rcode(2).extended_error(22, COMMANDS));
    scene.ask(ONE, "git.corp.example", A);
    let report = scene.report("one", 1);
    // Parsed from JSON, the text is unchanged.
    let explained = report["failures"][0]["explanation"].as_str().expect("a text");
    assert!(explained.contains("extended error 22 a"), "{explained}");
    let json = scene.nodens.get("/api/v1/jobs/one").body;
    let why = scene.txt(ONE, "git.corp.example.why.nodens.internal");
    for text in [&json, &why] {
        assert!(text.contains("extended error 22 a") && !text.contains(is_command), "{text:?}");
    }
}

#[test]
fn a_job_sees_itself_and_nobody_else() {
    let scene = scene();
    job_one(&scene);
    scene.ask(TWO, "secret.example.org", A);
    scene.report("one", 8);
    scene.report("two", 1);
    let me = scene.txt(ONE, "me.nodens.internal");
    assert!(me.contains("127.0.0.2 is gitlab-job one in namespace ci, job 8123, project 42"), "{me}");
    assert!(me.contains("8 queries, 3 failed, search-list noise (3 of 8 queries)\n"), "{me}");
    assert!(me.contains("typo.example.com failed 2x") && !me.contains("secret"), "{me}");
    let me = scene.txt(TWO, "ME.nodens.internal");
    assert!(me.contains("1 queries, 1 failed\nsecret") && !me.contains("typo"), "{me}");
    let me = scene.txt(STRANGER, "me.nodens.internal");
    assert!(me.contains("127.0.0.9 is not known: no known pod of this node"), "{me}");

    let why = scene.txt(ONE, "git.corp.example.why.nodens.internal");
    assert!(why.contains("ago for you: no server of route \"corp.example\" answered in time"), "{why}");
    assert!(why.contains("git.corp.example takes route \"corp.example\" to upstream corp"), "{why}");
    assert!(why.contains(&format!("server {}", scene.corp.address())), "{why}");
    let why = scene.txt(TWO, "git.corp.example.why.nodens.internal");
    assert!(why.contains("to upstream corp") && !why.contains("for you"), "{why}");
    let why = scene.txt(TWO, "registry.example.com.why.nodens.internal");
    assert!(
        why.contains("A: cached ") && why.contains("NOERROR, for 2") && why.contains("AAAA: not in the cache"),
        "{why}"
    );
    let why = scene.txt(TWO, "localhost.why.nodens.internal");
    assert!(why.contains("localhost is a special-use name: nodens answers NOERROR itself"), "{why}");
    // Too long for a response without EDNS: nodens returns the whole strings that fit.
    let long = format!("{}example.com", "long-label-long-label-long-label-long-label-long-label.".repeat(3));
    let response = scene.ask(TWO, &format!("{long}.why.nodens.internal"), TXT);
    assert!(response.len() <= 512 && response[2] & 2 == 0 && !data(&response).is_empty(), "{response:?}");
    for (name, qtype) in [("why.nodens.internal", TXT), ("a.why.nodens.internal", A), ("me.nodens.internal", A)] {
        let response = scene.ask(ONE, name, qtype);
        assert!(data(&response).is_empty() && code(&response) == hickory_proto::op::ResponseCode::NoError, "{name}");
    }
}

#[test]
fn the_command_line_shows_it() {
    let scene = scene();
    job_one(&scene);
    scene.report("one", 8);
    let (good, text) = scene.run(&["status", "--jobs"]);
    assert!(
        good && text.contains("        8       3       3 ") && text.contains("one, gitlab-job, namespace ci, job 8123"),
        "{text}"
    );
    let (good, text) = scene.run(&["job", "8123"]);
    assert!(good && text.contains("    2x typo.example.com A"), "{text}");
    assert!(text.contains("  search-list noise (3 of 8 queries): names with a suffix of the search list"), "{text}");
    let (good, text) = scene.run(&["job", "one", "--json"]);
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert!(good && report["queries"] == 8, "{text}");
    let (good, text) = scene.run(&["job", "three"]);
    assert!(!good && text.contains("no such job"), "{text}");
    let (good, text) = scene.run(&["job", "a/../b"]);
    assert!(!good && text.contains("neither a job's number nor a pod's name"), "{text}");
    let (good, text) = scene.run(&["status"]);
    assert!(text.contains("route . to public") && text.contains(&scene.corp.address().to_string()), "{good} {text}");
}

#[test]
fn projects_are_counted_in_the_metrics_up_to_a_number() {
    let scene = scene_with("[metrics]\nmax_projects = 1\n");
    let count = |family: &str, labels: &[(&str, &str)], expected: f64| {
        scene.nodens.metric_becomes(&format!("nodens_client_{family}_total"), labels, |count| count == expected);
    };
    job_one(&scene);
    count("queries", &[("namespace", "ci"), ("project", "42"), ("runner", "")], 8.0);
    count("failures", &[("project", "42")], 3.0);
    scene.ask(TWO, "secret.example.org", A);
    scene.ask(TWO, "registry.example.com", A);
    scene.ask(STRANGER, "strange.example.org", A);
    for (project, queries, failures) in [("other", 2.0, 1.0), ("unknown", 1.0, 1.0), ("42", 8.0, 3.0)] {
        count("queries", &[("project", project)], queries);
        count("failures", &[("project", project)], failures);
    }
    let metrics = scene.nodens.metrics();
    let series = |name: &str| metrics.samples.iter().filter(|sample| sample.name == name).count();
    assert_eq!(["nodens_client_queries_total", "nodens_client_failures_total"].map(series), [3, 3]);
    // Only names and labels: any digits can be part of a value.
    let said = metrics.samples.iter().map(|sample| format!("{} {:?} ", sample.name, sample.labels)).collect::<String>();
    assert!(!said.contains("8123") && !said.contains("secret"), "no job and no name is in the metrics: {said}");

    // With a higher limit, the next query of a project creates its series; earlier counts stay in `other`.
    let file = scene.nodens.config();
    let text = std::fs::read_to_string(&file).expect("the configuration");
    std::fs::write(&file, text.replace("max_projects = 1", "max_projects = 2")).expect("writes");
    scene.nodens.signal("HUP");
    scene.nodens.metric_becomes("nodens_config_reloads_total", &[("result", "applied")], |taken| taken >= 1.0);
    scene.ask(TWO, "registry.example.com", A);
    count("queries", &[("project", "43")], 1.0);
    count("queries", &[("project", "other")], 2.0);
}
