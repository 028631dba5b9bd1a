//! Attribution of clients, with the built binary and a scripted API server.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::api::Api;
use crate::support::client::lookup;
use crate::support::space::inside;
use crate::support::{Dir, Nodens, config, eventually, serve, upstream, zone};
use serde_json::Value;

/// Starts nodens on node-1 with `[kubernetes]` pointing to `api`.
fn start(api: &Api, more: &str) -> (Nodens, nodens::lab::upstream::LabUpstream) {
    let upstream = upstream(zone());
    let dir = Dir::new();
    let text = format!("{}[kubernetes]\nwatch = true\n{more}", config(&[&upstream], "", ""));
    (api.nodens(&text, dir), upstream)
}

fn who(nodens: &Nodens, address: &str) -> Value {
    let page = nodens.get(&format!("/api/v1/clients?address={address}"));
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.head.contains("content-type: application/json"), "{}", page.head);
    serde_json::from_str(&page.body).expect("JSON")
}

/// Waits until the address is attributed to that pod.
fn is_pod(nodens: &Nodens, address: &str, name: &str) -> Value {
    eventually(&format!("{address} is {name}"), || Some(who(nodens, address)).filter(|who| who["name"] == name))
}

/// Waits until the address is unknown for this reason.
fn is_unknown(nodens: &Nodens, address: &str, reason: &str) {
    eventually(&format!("{address} is unknown: {reason}"), || {
        let who = who(nodens, address);
        (who["known"] == false && who["reason"] == reason).then_some(())
    });
}

#[test]
fn pods_are_known_from_the_list_and_from_the_watch() {
    let api = Api::start();
    api.put("ci", "runner-t1abc-project-42-concurrent-0-x7k2m9qa", &["10.244.1.7", "fd00::7"], |pod| {
        pod["metadata"]["labels"]["job.runner.gitlab.com/pod"] = "runner-t1abc-project-42-concurrent-0".into();
        pod["metadata"]["labels"]["project.runner.gitlab.com/id"] = "42".into();
        pod["metadata"]["annotations"]["job.runner.gitlab.com/id"] = "8123".into();
    });
    api.put("shop", "web", &["10.244.1.8"], |_| {});
    let (nodens, _upstream) = start(&api, "");
    let job = is_pod(&nodens, "10.244.1.7", "runner-t1abc-project-42-concurrent-0-x7k2m9qa");
    assert_eq!(
        (&job["kind"], &job["by"], &job["namespace"]),
        (&"gitlab-job".into(), &"kubernetes".into(), &"ci".into())
    );
    assert_eq!(job["uid"], "uid-runner-t1abc-project-42-concurrent-0-x7k2m9qa");
    assert_eq!(job["job"]["project_id"], serde_json::json!({ "value": "42", "trust": "label" }));
    assert_eq!(job["job"]["job_id"], serde_json::json!({ "value": "8123", "trust": "job_controlled" }));
    assert_eq!(job["labels"]["project.runner.gitlab.com/id"], "42");
    assert!(job["age_seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0));
    assert!(job["since"].as_str().is_some_and(|since| since.starts_with("20") && since.ends_with('Z')), "{job}");
    is_pod(&nodens, "fd00%3A%3A7", "runner-t1abc-project-42-concurrent-0-x7k2m9qa");
    assert_eq!(is_pod(&nodens, "10.244.1.8", "web")["kind"], "pod");
    is_unknown(&nodens, "10.244.1.9", "unassigned");

    api.put("shop", "late", &["10.244.1.9"], |_| {});
    is_pod(&nodens, "10.244.1.9", "late");
    // A completed pod still has its address; then another pod gets it, and the first one is deleted.
    api.put("shop", "late", &["10.244.1.9"], |pod| pod["status"]["phase"] = "Succeeded".into());
    is_unknown(&nodens, "10.244.1.9", "unassigned");
    api.put("shop", "next", &["10.244.1.9"], |_| {});
    is_pod(&nodens, "10.244.1.9", "next");
    api.delete("late");
    api.put("kube-system", "proxy", &["192.168.7.7"], |pod| pod["spec"]["hostNetwork"] = true.into());
    is_unknown(&nodens, "192.168.7.7", "host");
    is_pod(&nodens, "10.244.1.9", "next");
    nodens.metric_becomes("nodens_watch_events_total", &[("kind", "deleted")], |deleted| deleted == 1.0);
    assert_eq!(nodens.metric("nodens_watch_pods", &[]), 4.0);
    assert_eq!(nodens.metric("nodens_watch_connected", &[]), 1.0);
    assert!(api.requests().iter().any(|request| request.contains("allowWatchBookmarks=true")), "{:?}", api.requests());
}

#[test]
fn a_watch_resumes_from_its_end_or_a_bookmark() {
    let api = Api::start();
    api.put("ci", "a", &["10.244.1.1"], |_| {});
    let (nodens, _upstream) = start(&api, "");
    is_pod(&nodens, "10.244.1.1", "a");
    let lists = || api.requests().iter().filter(|request| request.starts_with("list")).count();
    let listed = lists();
    api.bookmark();
    nodens.metric_becomes("nodens_watch_events_total", &[("kind", "bookmark")], |seen| seen == 1.0);
    // Versions before the bookmark are no longer requested and may be compacted.
    api.compact_to_bookmark();
    api.cut();
    api.put("ci", "b", &["10.244.1.2"], |_| {});
    is_pod(&nodens, "10.244.1.2", "b");
    is_pod(&nodens, "10.244.1.1", "a");
    nodens.metric_becomes("nodens_watch_restarts_total", &[("reason", "closed")], |closed| closed >= 1.0);
    assert_eq!(lists(), listed, "{:?}", api.requests());
    assert_eq!(nodens.metric("nodens_watch_restarts_total", &[("reason", "gone")]), 0.0);
}

#[test]
fn what_is_too_long_ago_is_listed_anew() {
    let api = Api::start();
    api.put("ci", "a", &["10.244.1.1"], |_| {});
    api.put("ci", "b", &["10.244.1.2"], |_| {});
    let (nodens, _upstream) = start(&api, "");
    is_pod(&nodens, "10.244.1.2", "b");
    // While the watch is down, one pod goes, and another comes with its address.
    api.refuse(Some(500));
    nodens.metric_becomes("nodens_watch_connected", &[], |connected| connected == 0.0);
    api.delete("b");
    api.put("ci", "c", &["10.244.1.2"], |_| {});
    api.compact();
    is_unknown(&nodens, "10.244.1.1", "watch_stale");
    is_unknown(&nodens, "10.244.1.2", "watch_stale");
    // Queries are still answered.
    lookup(nodens.address(), "a.lab.example");
    api.refuse(None);
    is_pod(&nodens, "10.244.1.2", "c");
    is_pod(&nodens, "10.244.1.1", "a");
    assert_eq!(nodens.metric("nodens_watch_restarts_total", &[("reason", "gone")]), 1.0);
    // The first list may come from the memory of the API server, the second one may not.
    let lists =
        api.requests().into_iter().filter(|request| request.starts_with("list") && !request.contains("continue"));
    let from_memory: Vec<bool> = lists.map(|request| request.contains("resourceVersion=0")).collect();
    assert!(from_memory.first() == Some(&true) && from_memory.last() == Some(&false), "{from_memory:?}");
    nodens.metric_becomes("nodens_watch_connected", &[], |connected| connected == 1.0);
}

#[test]
fn answers_wait_for_no_api() {
    let api = Api::start();
    api.refuse(Some(403));
    let (mut nodens, _upstream) =
        start(&api, "[[client]]\nsource = \"127.0.0.0/8\"\nname = \"here\"\nproject = \"g/p\"\n");
    lookup(nodens.address(), "a.lab.example");
    let warning = nodens.logged("Kubernetes watch lost");
    assert!(warning.contains("list and watch on pods"), "{warning}");
    assert_eq!(nodens.metric("nodens_watch_connected", &[]), 0.0);
    let here = who(&nodens, "127.0.0.1");
    assert_eq!(
        (&here["name"], &here["by"], &here["kind"]),
        (&"here".into(), &"configuration".into(), &"configured".into())
    );
    assert_eq!(here["job"]["project_path"], serde_json::json!({ "value": "g/p", "trust": "configuration" }));
    api.put("ci", "a", &["127.0.0.1"], |_| {});
    api.refuse(None);
    is_pod(&nodens, "127.0.0.1", "a");
    nodens.logged("Kubernetes watch re-established");
    let told = nodens.log().iter().filter(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\"")).count();
    assert_eq!(told, 1, "one line, however often it was tried: {:#?}", nodens.log());
}

#[test]
fn namespaces_are_watched_each_by_itself() {
    let api = Api::start();
    api.put("ci", "a", &["10.244.1.1"], |_| {});
    api.put("other", "b", &["10.244.1.2"], |_| {});
    api.put("secret", "c", &["10.244.1.3"], |_| {});
    let (nodens, _upstream) = start(&api, "namespaces = [\"ci\", \"other\"]\n");
    is_pod(&nodens, "10.244.1.1", "a");
    is_pod(&nodens, "10.244.1.2", "b");
    is_unknown(&nodens, "10.244.1.3", "unassigned");
    api.put("other", "d", &["10.244.1.4"], |_| {});
    is_pod(&nodens, "10.244.1.4", "d");
    assert!(api.requests().iter().all(|request| request.contains("/namespaces/")), "{:?}", api.requests());
}

#[test]
fn in_a_cluster_it_is_found_by_itself_over_tls() {
    inside("clients::in_a_cluster_it_is_found_by_itself_over_tls", &[], || {
        // The path of the token and of the cluster's certificate in every pod.
        let account = Path::new("/run/secrets/kubernetes.io/serviceaccount");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]).status().expect("mount runs");
        assert!(mounted.success());
        fs::create_dir_all(account).expect("a directory");
        let api = Api::start();
        let (address, certificate) = api.over_tls();
        for (name, text) in [("token", "secret"), ("ca.crt", certificate.as_str()), ("namespace", "dns")] {
            fs::write(account.join(name), text).expect("writes");
        }
        assert!(Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists(), "/var/run leads to /run");
        api.put("ci", "a", &["10.244.1.1"], |_| {});
        let upstream = upstream(zone());
        let dir = Dir::new();
        let file = dir.write("nodens.toml", &config(&[&upstream], "", ""));
        let mut command = serve();
        command.arg("--config").arg(file).env("NODE_NAME", "node-1");
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", address.port().to_string());
        let nodens = Nodens::spawn(&mut command, dir);
        is_pod(&nodens, "10.244.1.1", "a");
        api.put("ci", "b", &["10.244.1.2"], |_| {});
        is_pod(&nodens, "10.244.1.2", "b");
    });
}

#[test]
fn without_a_node_or_a_wish_nothing_is_watched() {
    let api = Api::start();
    for (more, node, logged) in [("watch = true\n", "", "pod watch disabled"), ("", "node-1", "nodens serves")] {
        let upstream = upstream(zone());
        let dir = Dir::new();
        let text = format!("{}[kubernetes]\n{more}", config(&[&upstream], "", ""));
        let file = api.write_config(&text, &dir);
        let mut command = serve();
        command.arg("--config").arg(file).env("NODE_NAME", node);
        let mut nodens = Nodens::spawn(command.env_remove("KUBERNETES_SERVICE_HOST"), dir);
        nodens.logged(logged);
        lookup(nodens.address(), "a.lab.example");
        is_unknown(&nodens, "127.0.0.1", "unassigned");
        assert_eq!(nodens.metric("nodens_watch_age_seconds", &[]), 0.0);
    }
    assert!(api.requests().is_empty(), "{:?}", api.requests());
}

#[test]
fn configured_clients_change_with_the_file() {
    let upstream = upstream(zone());
    let client = |name: &str| {
        format!("{}[[client]]\nsource = \"10.0.8.0/24\"\nname = \"{name}\"\n", config(&[&upstream], "", ""))
    };
    let mut nodens = Nodens::start(&client("before"));
    assert_eq!(who(&nodens, "10.0.8.7")["name"], "before");
    for wrong in ["", "?address=", "?address=x", "?addres=10.0.8.7"] {
        let page = nodens.get(&format!("/api/v1/clients{wrong}"));
        assert_eq!((page.status, page.body.as_str()), (400, "expected ?address=10.0.0.7\n"), "{wrong}");
    }
    std::fs::write(nodens.config(), client("after")).expect("writes");
    nodens.signal("HUP");
    nodens.logged("new configuration applied");
    assert_eq!(who(&nodens, "10.0.8.7")["name"], "after");
}
