//! A node and four pods with their own addresses: each asks with the resolvers of glibc and musl; report, metrics, views
//! and explanations are correct for each.

use crate::support::api::Api;
use crate::support::musl;
use crate::support::pod::{Pod, make_bridge};
use crate::support::space::{add_address, inside, ip};
use crate::support::{Dir, Nodens, eventually, upstream};
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use serde_json::{Value, json};

/// Addresses of nodens, the same on every node.
const NODENS: [&str; 2] = ["169.254.20.10", "fd00:53::10"];
/// Port of the report over HTTP; the test has its own network namespace.
const REPORT: u16 = 9354;

struct Scene {
    dir: Dir,
    nodens: Nodens,
    /// A job of a project that may see the private zone.
    staff: Pod,
    /// A job of a fork, which may not see it.
    fork: Pod,
    /// A job that has ended, whose process still sends queries.
    done: Pod,
    /// A pod without a job.
    plain: Pod,
    _upstreams: [LabUpstream; 3],
}

fn scene() -> Scene {
    make_bridge();
    ip(&format!("address add {}/32 dev lo", NODENS[0]));
    add_address(NODENS[1]);
    let api = Api::start();
    let dir = Dir::new();
    let resolv = |namespace: &str, nodens: &str| {
        format!(
            "nameserver {nodens}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        )
    };
    let staff = Pod::start(11, &dir, &resolv("ci", NODENS[0]));
    let fork = Pod::start(12, &dir, &resolv("ci", NODENS[1]));
    let done = Pod::start(13, &dir, &resolv("ci", NODENS[0]));
    let plain = Pod::start(14, &dir, &resolv("shop", NODENS[0]));
    for (name, namespace, pod, project, job) in [
        ("staff", "ci", &staff, Some("42"), "8123"),
        ("fork", "ci", &fork, Some("43"), "8124"),
        ("done", "ci", &done, Some("42"), "8122"),
        ("plain", "shop", &plain, None, ""),
    ] {
        let addresses = pod.addresses.each_ref().map(String::as_str);
        api.put(namespace, name, &addresses, |manifest| {
            if let Some(project) = project {
                manifest["metadata"]["labels"]["project.runner.gitlab.com/id"] = project.into();
                manifest["metadata"]["labels"]["manager.runner.gitlab.com/name"] = "shared-1".into();
                manifest["metadata"]["annotations"]["job.runner.gitlab.com/id"] = job.into();
            }
            if name == "fork" {
                manifest["metadata"]["labels"]["example.com/trust"] = "low".into();
            }
            if name == "done" {
                manifest["status"]["phase"] = "Succeeded".into();
            }
        });
    }
    let cluster = LabZone::new("cluster.local.").record("web.shop.svc.cluster.local. 5 A 10.96.0.7");
    let corp = LabZone::new("corp.example.").record("git.corp.example. 300 A 10.0.0.7");
    let public = LabZone::new(".").record("www.example.com. 300 A 192.0.2.1");
    let upstreams = [cluster, corp, public].map(upstream);
    let [cluster, corp, public] = upstreams.each_ref().map(LabUpstream::address);
    let text = format!(
        "[server]\nlisten = [\"{}\", \"[{}]\"]\nallow = [\"10.244.1.0/24\", \"fd00:1::/64\"]\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[report]\nlisten = [\"{}:{REPORT}\", \"[{}]:{REPORT}\"]\n\
         [kubernetes]\nwatch = true\n\
         [upstreams.kube-dns]\nservers = [\"{cluster}\"]\n[upstreams.vpc]\nservers = [\"{corp}\"]\n\
         [upstreams.public]\nservers = [\"{public}\"]\n\
         [[route]]\nzones = [\"cluster.local\"]\nto = \"kube-dns\"\n\
         [[route]]\nzones = [\".\"]\nto = \"public\"\n\
         [[view]]\nname = \"forks\"\nlabels = {{ \"example.com/trust\" = \"low\" }}\ndeny = [\"corp.example\"]\n\
         [[view]]\nname = \"staff\"\nprojects = [\"42\"]\n[[view.route]]\nzones = [\"corp.example\"]\nto = \"vpc\"\n",
        NODENS[0], NODENS[1], NODENS[0], NODENS[1]
    );
    let nodens = api.nodens(&text, Dir::new());
    let scene = Scene { dir, nodens, staff, fork, done, plain, _upstreams: upstreams };
    for (pod, name) in [(&scene.staff, "staff"), (&scene.fork, "fork"), (&scene.plain, "plain")] {
        for address in &pod.addresses {
            eventually(name, || (scene.page(&format!("clients?address={address}"))["name"] == name).then_some(()));
        }
    }
    scene
}

impl Scene {
    fn page(&self, path: &str) -> Value {
        serde_json::from_str(&self.nodens.get(&format!("/api/v1/{path}")).body).expect("JSON")
    }

    /// Returns the report of a job.
    fn report(&self, id: &str) -> Value {
        self.page(&format!("jobs/{id}"))
    }
}

#[test]
fn each_pod_is_itself() {
    inside("pods::each_pod_is_itself", &["ip", "nsenter", "getent", "musl-gcc", "dig", "curl"], || {
        let scene = scene();
        let Scene { staff, fork, done, plain, .. } = &scene;
        let musl = musl::look_up(&scene.dir).display().to_string();
        // glibc and musl, over IPv4 and IPv6, with search lists.
        for (pod, name, address) in [
            (staff, "www.example.com", Some("192.0.2.1")),
            (staff, "git.corp.example", Some("10.0.0.7")),
            (staff, "web.shop", Some("10.96.0.7")),
            (fork, "www.example.com", Some("192.0.2.1")),
            (fork, "git.corp.example", None),
            (done, "www.example.com", Some("192.0.2.1")),
            (done, "git.corp.example", None),
            (plain, "web", Some("10.96.0.7")),
            (plain, "git.corp.example", None),
        ] {
            let glibc = pod.run("getent", &["ahosts", name]);
            let musl = pod.run(&musl, &[name]);
            for (program, output) in [("getent", glibc), ("musl", musl)] {
                let text = String::from_utf8_lossy(&output.stdout);
                let found = text.split_whitespace().next().filter(|_| output.status.success());
                assert_eq!(found, address, "{program} {name} {text}");
            }
        }

        // The identity that each pod gets over DNS.
        let txt = |pod: &Pod, name: &str, server: &str| {
            pod.must("dig", &[&format!("@{server}"), "+short", "+tries=1", "+timeout=30", "TXT", name])
        };
        for (pod, server, words) in [
            (staff, NODENS[0], "is gitlab-job staff in namespace ci, job 8123, project 42, view staff"),
            (staff, NODENS[1], "is gitlab-job staff in namespace ci, job 8123, project 42, view staff"),
            (fork, NODENS[1], "is gitlab-job fork in namespace ci, job 8124, project 43, view forks"),
            (done, NODENS[0], "10.244.1.13 is not known"),
            (plain, NODENS[0], "is pod plain in namespace shop"),
        ] {
            let me = txt(pod, "me.nodens.internal.", server);
            assert!(me.contains(words), "{words}: {me}");
        }
        let why = |pod: &Pod, server: &str| txt(pod, "git.corp.example.why.nodens.internal.", server);
        for (pod, server, words) in [
            (staff, NODENS[0], "takes route \\\"corp.example (staff)\\\" to upstream vpc"),
            (fork, NODENS[1], "git.corp.example is denied to this client"),
            (plain, NODENS[0], "takes route \\\".\\\" to upstream public"),
        ] {
            let why = why(pod, server);
            assert!(why.contains(words), "{words}: {why}");
        }

        // The same over HTTP; each pod sees itself only.
        for (pod, url, name, job) in [
            (staff, format!("http://{}:{REPORT}/v1/me", NODENS[0]), "staff", "8123"),
            (fork, format!("http://[{}]:{REPORT}/v1/me", NODENS[1]), "fork", "8124"),
        ] {
            let me = pod.must("curl", &["--silent", "--show-error", "--fail", "--max-time", "30", &url]);
            assert!(me.starts_with(&format!("{name}, gitlab-job, namespace ci, job {job}\n")), "{me}");
        }

        // The reports of the node about each job.
        for (id, name, causes) in [
            ("8123", "staff", json!([])),
            ("8124", "fork", json!([["git.corp.example", "denied"]])),
            ("plain", "plain", json!([["git.corp.example", "other_view"]])),
        ] {
            let report = scene.report(id);
            assert_eq!(report["name"], name);
            let failures = report["failures"].as_array().expect("a list");
            let mut told: Vec<Value> = failures.iter().map(|f| json!([f["name"], f["cause"]])).collect();
            told.dedup();
            assert_eq!(json!(told), causes, "{report:#}");
        }
        assert_eq!(scene.nodens.get("/api/v1/jobs/8122").status, 404, "it had ended before it asked");
        let unknown = scene.report("unknown");
        assert!(unknown["queries"].as_u64().is_some_and(|queries| queries > 0), "{unknown:#}");

        // Metrics have series for projects, and none for pods.
        let client = |project, runner, namespace| [("namespace", namespace), ("project", project), ("runner", runner)];
        for (report, labels) in [
            ("8123", client("42", "shared-1", "ci")),
            ("8124", client("43", "shared-1", "ci")),
            ("plain", client("", "", "shop")),
            ("unknown", client("unknown", "", "")),
        ] {
            // A query that a busy machine sent twice may still be in flight.
            eventually("the same count", || {
                let asked = scene.report(report)["queries"].as_f64().expect("a number");
                (scene.nodens.metric("nodens_client_queries_total", &labels) == asked).then_some(())
            });
        }
    });
}
