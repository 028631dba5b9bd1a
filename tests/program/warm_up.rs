//! Warm-up for jobs, with the built binary, pods from a scripted API, and clients with their own addresses.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::support::api::Api;
use crate::support::client::{A, lookup, query, receive};
use crate::support::{DEADLINE, Dir, Nodens, config, eventually, upstream};
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use serde_json::{Value, json};

const AAAA: u16 = 28;
/// Names that each job asks for besides its GitLab server and its registry.
const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

struct Scene {
    nodens: Nodens,
    api: Api,
    upstream: LabUpstream,
}

fn zone() -> LabZone {
    LabZone::new("lab.example.").record("*.lab.example. 300 A 192.0.2.1").record("*.lab.example. 300 AAAA 2001:db8::1")
}

fn text(upstream: &LabUpstream, more: &str) -> String {
    format!("{}[kubernetes]\nwatch = true\n[warm_up]\n{more}", config(&[upstream], "", ""))
}

/// Starts nodens, which watches the pods of `api`.
fn start(api: Api, more: &str) -> Scene {
    let upstream = upstream(zone());
    let dir = Dir::new();
    let nodens = api.nodens(&text(&upstream, more), dir);
    nodens.metric_becomes("nodens_watch_connected", &[], |connected| connected == 1.0);
    Scene { nodens, api, upstream }
}

impl Scene {
    /// Binds the pod of a job to the node, or gives it its address.
    fn put(&self, name: &str, project: &str, address: Option<&str>, edit: impl FnOnce(&mut Value)) {
        self.api.put("ci", name, address.as_slice(), |pod| {
            pod["metadata"]["labels"]["project.runner.gitlab.com/id"] = project.into();
            pod["spec"]["containers"] = json!([
                { "name": "build", "image": "registry.lab.example:5050/group/build:1",
                  "env": [{ "name": "CI_SERVER_HOST", "value": "git.lab.example" }] },
            ]);
            if address.is_none() {
                pod["status"] = json!({ "phase": "Pending" });
            }
            edit(pod);
        });
    }

    /// Binds a job, and waits until the warm-up has filled the cache with `answers` entries.
    fn bind(&self, name: &str, project: &str, answers: f64) {
        self.put(name, project, None, |_| {});
        self.nodens.metric_becomes("nodens_cache_entries", &[], |entries| entries == answers);
    }

    /// Starts a job with an address.
    fn begin(&self, name: &str, project: &str, address: &str) {
        self.put(name, project, Some(address), |_| {});
        eventually(&format!("{address} is {name}"), || {
            let page = self.nodens.get(&format!("/api/v1/clients?address={address}"));
            page.body.contains(&format!("\"name\": \"{name}\"")).then_some(())
        });
    }

    fn ask(&self, from: &str, name: &str, qtype: u16) {
        let socket = UdpSocket::bind((from, 0)).expect("a socket");
        socket.connect(self.nodens.address()).expect("a way there");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.send(&query(7, name, qtype)).expect("sends");
        receive(&socket);
    }

    /// Sends the queries of a job, for both address families; returns the number of hits and of queries.
    fn work(&self, job: &str, from: &str) -> (u64, u64) {
        let names = NAMES.iter().chain(&["git", "registry"]);
        for name in names {
            [A, AAAA].into_iter().for_each(|qtype| self.ask(from, &format!("{name}.lab.example"), qtype));
        }
        let all = 2 * (NAMES.len() as u64 + 2);
        let report = eventually(&format!("{all} queries of {job}"), || {
            let page = self.nodens.get(&format!("/api/v1/jobs/{job}"));
            let report: Value = serde_json::from_str(&page.body).ok()?;
            (report["queries"].as_u64()? >= all).then_some(report)
        });
        (report["by_source"]["hit"].as_u64().unwrap_or(0), all)
    }

    /// Changes the server of the upstream, which makes all cached answers unusable.
    fn forget_answers(&mut self, more: &str) {
        let before = self.nodens.metric("nodens_config_reloads_total", &[]);
        self.upstream = upstream(zone());
        fs::write(self.nodens.config(), text(&self.upstream, more)).expect("writes");
        self.nodens.signal("HUP");
        self.nodens.metric_becomes("nodens_config_reloads_total", &[], |reloads| reloads > before);
    }

    /// Waits until the current server has received `questions` queries for the zone and no query is in flight.
    fn is_asked(&self, questions: usize) {
        eventually(&format!("{questions} questions"), || {
            let seen = self.upstream.seen();
            let asked = seen.iter().filter(|seen| seen.name.to_ascii_lowercase().ends_with(".lab.example.")).count();
            (asked >= questions && self.nodens.metric("nodens_upstream_in_flight", &[]) == 0.0).then_some(())
        });
    }

    fn prefetches(&self) -> f64 {
        self.nodens.metric("nodens_warm_up_prefetches_total", &[])
    }
}

#[test]
fn warm_up_serves_hosts_first_then_all_names() {
    let mut scene = start(Api::start(), "");
    scene.bind("one", "42", 4.0);
    scene.begin("one", "42", "127.0.0.2");
    assert_eq!(scene.work("one", "127.0.0.2"), (4, 24), "GitLab and the registry, both families");
    // Names that a search list produced, and names that fail, are not part of a warm-up.
    for name in ["a.lab.example.ci.svc.cluster.local", "typo.example"] {
        scene.ask("127.0.0.2", name, A);
    }
    scene.forget_answers("");
    let before = scene.prefetches();
    scene.put("two", "42", None, |_| {});
    scene.is_asked(24);
    scene.begin("two", "42", "127.0.0.3");
    let (hits, all) = scene.work("two", "127.0.0.3");
    assert!(hits * 10 >= all * 9, "{hits} of {all} are hits");
    assert_eq!(scene.prefetches(), before + 24.0, "nothing but what had answers");

    // Other projects do not profit from it. A project that the pod could have made up has no history.
    scene.forget_answers("");
    let before = scene.prefetches();
    scene.put("three", "43", None, |_| {});
    scene.is_asked(4);
    scene.put("four", "44", None, |pod| {
        pod["metadata"]["labels"] = json!({ "job.runner.gitlab.com/pod": "four" });
        pod["metadata"]["annotations"]["project.runner.gitlab.com/id"] = "42".into();
    });
    scene.nodens.metric_becomes("nodens_warm_up_skipped_total", &[("reason", "cached")], |skipped| skipped >= 4.0);
    scene.begin("three", "43", "127.0.0.4");
    assert_eq!(scene.work("three", "127.0.0.4").0, 4);
    assert_eq!(scene.prefetches(), before + 4.0);
    // The warm-up is done once for a pod, and for pods of jobs only.
    scene.api.put("ci", "web", &[], |pod| pod["status"] = json!({ "phase": "Pending" }));
    scene.put("four", "44", None, |pod| pod["metadata"]["annotations"]["more"] = "1".into());
    scene.begin("five", "43", "127.0.0.5");
    assert_eq!(scene.nodens.metric("nodens_warm_up_pods_total", &[]), 4.0);
}

#[test]
fn switched_off_nothing_is_asked_or_learned() {
    let mut scene = start(Api::start(), "enabled = false\n");
    scene.put("one", "42", None, |_| {});
    scene.begin("one", "42", "127.0.0.2");
    assert_eq!(scene.work("one", "127.0.0.2").0, 0);
    scene.forget_answers("enabled = false\n");
    scene.put("two", "42", None, |_| {});
    scene.begin("two", "42", "127.0.0.3");
    assert_eq!(scene.work("two", "127.0.0.3").0, 0);
    assert_eq!(scene.nodens.metric("nodens_warm_up_pods_total", &[]), 0.0);
    // Once enabled, it starts without history.
    scene.forget_answers("enabled = true\n");
    scene.put("three", "42", None, |_| {});
    scene.is_asked(4);
    scene.begin("three", "42", "127.0.0.4");
    assert_eq!(scene.work("three", "127.0.0.4").0, 4);
}

/// Runs nodens with one job until it exits, and returns the file it has written.
fn written(dir: &Dir) -> std::path::PathBuf {
    let file = dir.file("state/query-history.json");
    let mut scene = start(Api::start(), &format!("file = {file:?}\n"));
    scene.begin("one", "42", "127.0.0.2");
    scene.work("one", "127.0.0.2");
    scene.nodens.signal("TERM");
    assert!(scene.nodens.exit().success());
    file
}

/// Starts nodens with this file.
fn begun_with(file: &Path) -> Scene {
    start(Api::start(), &format!("file = {file:?}\n"))
}

#[test]
fn what_jobs_ask_outlives_a_restart() {
    let dir = Dir::new();
    let file = written(&dir);
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(file.parent().expect("a directory")).expect("it").count(), 1, "no rests");
    let mut scene = begun_with(&file);
    let line = scene.nodens.logged("query history of projects loaded");
    assert!(line.contains("\"projects\":1"), "{line}");
    scene.bind("two", "42", 24.0);
    scene.begin("two", "42", "127.0.0.3");
    assert_eq!(scene.work("two", "127.0.0.3"), (24, 24));
}

#[test]
fn a_file_that_is_no_good_is_told_of_and_replaced() {
    let dir = Dir::new();
    for (name, text) in [("empty", ""), ("broken", "{\"version\":1,"), ("new", "{\"version\":9,\"projects\":[]}")] {
        let file = dir.write(name, text);
        let mut scene = begun_with(&file);
        let line = scene.nodens.logged("starting with an empty one");
        assert!(line.contains("\"WARN\"") && line.contains(name), "{line}");
        scene.begin("one", "42", "127.0.0.2");
        scene.work("one", "127.0.0.2");
        scene.nodens.signal("TERM");
        assert!(scene.nodens.exit().success());
        assert!(fs::read_to_string(&file).expect("a file").contains("a.lab.example."), "{name}");
    }
    // If the file cannot be written, nothing else is affected.
    let file = dir.write("file", "").join("query-history.json");
    let mut scene = start(Api::start(), &format!("file = {file:?}\n"));
    scene.begin("one", "42", "127.0.0.2");
    scene.work("one", "127.0.0.2");
    scene.nodens.signal("TERM");
    assert!(scene.nodens.exit().success());
    scene.nodens.logged("cannot write the query history of projects");
}

#[test]
fn a_job_is_warmed_up_for_in_its_own_view() {
    let mut scene = start(Api::start(), "");
    let own = upstream(LabZone::new("lab.example.").record("*.lab.example. 300 A 192.0.2.42"));
    let views = format!(
        "[upstreams.own]\nservers = [\"{}\"]\n[[view]]\nname = \"own\"\nprojects = [\"42\"]\n\
         [[view.route]]\nzones = [\"git.lab.example\"]\nto = \"own\"\n\
         [[view]]\nname = \"denied\"\nprojects = [\"43\"]\ndeny = [\"lab.example\"]\n\
         [[view]]\nname = \"there\"\nprojects = [\"44\"]\nsources = [\"127.0.0.4\"]\ndeny = [\"lab.example\"]\n",
        own.address()
    );
    scene.forget_answers(&views);
    for (name, project) in [("one", "42"), ("two", "43"), ("three", "44")] {
        scene.put(name, project, None, |_| {});
    }
    let skipped = |reason| scene.nodens.metric("nodens_warm_up_skipped_total", &[("reason", reason)]);
    eventually("all to be asked or not", || {
        ((scene.prefetches(), skipped("local"), skipped("view")) == (4.0, 4.0, 4.0)).then_some(())
    });
    assert!(own.seen().iter().any(|seen| seen.asks("git.lab.example", A)), "{:?}", own.seen());
    assert!(!scene.upstream.seen().iter().any(|seen| seen.asks("git.lab.example", A)), "{:?}", scene.upstream.seen());
    scene.nodens.metric_becomes("nodens_cache_entries", &[], |entries| entries == 4.0);
    scene.begin("one", "42", "127.0.0.2");
    assert_eq!(scene.work("one", "127.0.0.2").0, 4);
}

#[test]
fn a_query_during_warm_up_joins_it() {
    let scene = start(Api::start(), "");
    scene.upstream.set_latency(Duration::from_millis(400));
    let mut pods = 0;
    // On a slow machine the response may arrive before the client asks; the next pod is tried then.
    eventually("a query that joins a prefetch", || {
        pods += 1;
        let host = format!("git{pods}.lab.example");
        scene.put(&format!("pod{pods}"), "42", None, |pod| {
            pod["spec"]["containers"][0]["env"][0]["value"] = host.as_str().into();
        });
        eventually("the prefetch", || scene.upstream.seen().iter().any(|seen| seen.asks(&host, A)).then_some(()));
        lookup(scene.nodens.address(), &host);
        (scene.nodens.metric("nodens_coalesced_queries_total", &[]) > 0.0).then_some(())
    });
}

#[test]
fn it_is_counted_what_clients_took() {
    let scene = start(Api::start(), "");
    let short = LabZone::new("lab.example.").record("*.lab.example. 1 A 192.0.2.1");
    scene.upstream.set_zone(short).expect("a zone");
    let mut pods = 0.0;
    // On a slow machine an answer may expire before a client asks for it; the next pod is tried then.
    eventually("an answer that was used", || {
        pods += 1.0;
        let host = format!("git{pods}.lab.example");
        scene.put(&format!("pod{pods}"), "42", None, |pod| {
            pod["spec"]["containers"][0]["env"][0]["value"] = host.as_str().into()
        });
        scene.nodens.metric_becomes("nodens_warm_up_pods_total", &[], |seen| seen == pods);
        lookup(scene.nodens.address(), &host);
        (scene.nodens.metric("nodens_warm_up_used_total", &[]) > 0.0).then_some(())
    });
}

#[test]
fn a_prefetch_is_the_least_of_all_queries() {
    let scene = start(Api::start(), "");
    let limited = text(&scene.upstream, "").replace("[[route]]", "max_qps = 10\ndeadline = \"200ms\"\n[[route]]");
    fs::write(scene.nodens.config(), limited).expect("writes");
    scene.nodens.signal("HUP");
    scene.nodens.metric_becomes("nodens_config_reloads_total", &[], |reloads| reloads == 1.0);
    let many: Vec<_> = (0..14).map(|n| json!({ "name": "c", "image": format!("r{n}.lab.example/image") })).collect();
    scene.put("one", "42", None, |pod| pod["spec"]["containers"] = many.into());
    // 28 queries in 140 ms; the limit leaves room for 8 a second.
    let skipped = |scene: &Scene| scene.nodens.metric("nodens_warm_up_skipped_total", &[("reason", "upstream")]);
    eventually("all to be asked or not", || (scene.prefetches() + skipped(&scene) == 28.0).then_some(()));
    assert!(skipped(&scene) > 0.0, "{} are asked", scene.prefetches());
    assert_eq!(crate::support::client::data(&lookup(scene.nodens.address(), "client.lab.example")), ["192.0.2.1"]);

    // A server that is down is not queried either.
    scene.upstream.set(nodens::lab::fault::Behaviour::silent());
    let down = || scene.nodens.metric("nodens_upstream_healthy", &[]) == 0.0;
    let mut asked = 0;
    eventually("the server to be down", || {
        // A new name each time: a failed name is not asked for again at once.
        asked += 1;
        lookup(scene.nodens.address(), &format!("down{asked}.lab.example"));
        down().then_some(())
    });
    let before = (scene.prefetches(), skipped(&scene));
    scene.put("two", "42", None, |_| {});
    eventually("four more to be skipped", || (skipped(&scene) == before.1 + 4.0).then_some(()));
    assert_eq!(scene.prefetches(), before.0);
}
