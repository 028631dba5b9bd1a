//! Views, with the built binary: pods of a scripted API see the contents of their view and no more.

use std::net::UdpSocket;

use crate::support::api::Api;
use crate::support::client::{A, code, data, query, receive};
use crate::support::{DEADLINE, Dir, Nodens, eventually, upstream};
use hickory_proto::op::ResponseCode;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use serde_json::{Value, json};

const TXT: u16 = 16;
/// A job of a project that may see the private zone.
const STAFF: &str = "127.0.0.2";
/// A job whose pod has the label of a fork.
const FORK: &str = "127.0.0.3";
/// A pod without a job.
const PLAIN: &str = "127.0.0.4";
/// An address without an identity.
const STRANGER: &str = "127.0.0.9";

struct Scene {
    nodens: Nodens,
    api: Api,
    corp: LabUpstream,
    _public: LabUpstream,
}

fn scene() -> Scene {
    let api = Api::start();
    api.put("ci", "staff", &[STAFF], |pod| pod["metadata"]["labels"]["project.runner.gitlab.com/id"] = "42".into());
    api.put("ci", "fork", &[FORK], |pod| {
        // A job can put any value in an annotation.
        pod["metadata"]["annotations"]["project.runner.gitlab.com/id"] = "42".into();
        pod["metadata"]["labels"]["job.runner.gitlab.com/pod"] = "fork".into();
        pod["metadata"]["labels"]["example.com/trust"] = "low".into();
    });
    api.put("shop", "plain", &[PLAIN], |_| {});
    let public = upstream(LabZone::new(".").record("www.example.com. 300 A 192.0.2.1"));
    let corp = upstream(LabZone::new("corp.example.").record("git.corp.example. 300 A 10.0.0.7"));
    let dir = Dir::new();
    let nodens = api.nodens(&text(&public, &corp), dir);
    let scene = Scene { nodens, api, corp, _public: public };
    for (address, name) in [(STAFF, "staff"), (FORK, "fork"), (PLAIN, "plain")] {
        eventually(name, || (scene.who(address)["name"] == name).then_some(()));
    }
    scene
}

fn text(public: &LabUpstream, corp: &LabUpstream) -> String {
    format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[kubernetes]\nwatch = true\n\
         [upstreams.public]\nservers = [\"{}\"]\n[upstreams.corp]\nservers = [\"{}\"]\n\
         [[route]]\nzones = [\".\"]\nto = \"public\"\n\
         [[view]]\nname = \"forks\"\nlabels = {{ \"example.com/trust\" = \"low\" }}\ndeny = [\"corp.example\"]\n\
         [[view]]\nname = \"staff\"\nprojects = [\"42\"]\n\
         [[view.route]]\nzones = [\"corp.example\"]\nto = \"corp\"\n\
         [[view]]\nname = \"strangers\"\nknown = false\n[[view.record]]\nname = \"who.example\"\ntype = \"TXT\"\nvalue = \"nobody\"\n",
        public.address(),
        corp.address()
    )
}

impl Scene {
    fn ask(&self, from: &str, name: &str, qtype: u16) -> Vec<u8> {
        let socket = UdpSocket::bind((from, 0)).expect("a socket");
        socket.connect(self.nodens.address()).expect("a way there");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.send(&query(7, name, qtype)).expect("sends");
        receive(&socket)
    }

    fn txt(&self, from: &str, name: &str) -> String {
        data(&self.ask(from, name, TXT)).join("\n")
    }

    fn who(&self, address: &str) -> Value {
        serde_json::from_str(&self.nodens.get(&format!("/api/v1/clients?address={address}")).body).expect("JSON")
    }

    /// Returns the first failure in the report of a job.
    fn failure(&self, id: &str) -> Value {
        eventually(&format!("a failure of {id}"), || {
            let report: Value = serde_json::from_str(&self.nodens.get(&format!("/api/v1/jobs/{id}")).body).ok()?;
            Some(report["failures"].get(0)?.clone())
        })
    }
}

#[test]
fn each_sees_what_its_view_shows() {
    let scene = scene();
    let views = [STAFF, FORK, PLAIN, STRANGER].map(|address| scene.who(address)["view"].clone());
    assert_eq!(views, [json!("staff"), json!("forks"), Value::Null, json!("strangers")]);
    assert_eq!(data(&scene.ask(STAFF, "git.corp.example", A)), ["10.0.0.7"]);
    // On a busy machine nodens may query the server twice.
    let asked = scene.corp.seen_count();
    for from in [FORK, PLAIN, STRANGER] {
        assert_eq!(code(&scene.ask(from, "git.corp.example", A)), ResponseCode::NXDomain, "{from}");
        assert_eq!(data(&scene.ask(from, "www.example.com", A)), ["192.0.2.1"], "{from}");
    }
    assert_eq!(scene.txt(STRANGER, "who.example"), "nobody");
    assert_eq!(code(&scene.ask(PLAIN, "who.example", TXT)), ResponseCode::NXDomain);
    assert_eq!(scene.corp.seen_count(), asked);
}

#[test]
fn nobody_is_told_what_others_see() {
    let scene = scene();
    assert_eq!(data(&scene.ask(STAFF, "git.corp.example", A)), ["10.0.0.7"]);
    assert!(
        scene.txt(STAFF, "me.nodens.internal").contains(", view staff"),
        "{}",
        scene.txt(STAFF, "me.nodens.internal")
    );
    let why = scene.txt(STAFF, "git.corp.example.why.nodens.internal");
    assert!(why.contains("to upstream corp"), "{why}");
    scene.ask(FORK, "git.corp.example", A);
    let why = scene.txt(FORK, "git.corp.example.why.nodens.internal");
    assert!(
        why.contains("denied to this client") && !why.contains("upstream corp") && !why.contains("cached"),
        "{why}"
    );
    scene.ask(PLAIN, "git.corp.example", A);
    let why = scene.txt(PLAIN, "git.corp.example.why.nodens.internal");
    assert!(why.contains("to upstream public") && !why.contains("upstream corp") && !why.contains("staff"), "{why}");
}

#[test]
fn failures_say_what_was_meant() {
    let scene = scene();
    scene.ask(STAFF, "git.corp.example", A);
    scene.ask(STAFF, "git", A);
    scene.ask(FORK, "git.corp.example", A);
    scene.ask(PLAIN, "git.corp.example", A);
    for (id, cause, words) in [
        ("staff", "wrong_suffix", "wrong suffix? git.corp.example exists"),
        ("fork", "denied", "git.corp.example is denied to this client"),
        ("plain", "other_view", "other clients have route \"corp.example (staff)\" for it"),
    ] {
        // A query counted by another worker may be reported a moment later.
        let failure = eventually(&format!("{cause} for {id}"), || {
            Some(scene.failure(id)).filter(|failure| failure["cause"] == cause)
        });
        assert!(failure["explanation"].as_str().is_some_and(|text| text.contains(words)), "{failure}");
    }
}

#[test]
fn another_pod_another_view() {
    let scene = scene();
    assert_eq!(data(&scene.ask(STAFF, "git.corp.example", A)), ["10.0.0.7"]);
    // The address moves to the pod of a fork.
    scene.api.put("ci", "staff", &[STAFF], |pod| pod["status"]["phase"] = "Succeeded".into());
    scene.api.put("ci", "next", &[STAFF], |pod| pod["metadata"]["labels"]["example.com/trust"] = "low".into());
    eventually("the address is next's", || (scene.who(STAFF)["name"] == "next").then_some(()));
    assert_eq!(code(&scene.ask(STAFF, "git.corp.example", A)), ResponseCode::NXDomain);
}
