//! The report of a job about itself over HTTP, with the built binary, from several addresses.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use crate::support::api::Api;
use crate::support::client::{A, query, receive};
use crate::support::{DEADLINE, Dir, Nodens, eventually, field, upstream};
use nodens::lab::fault::Behaviour;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

const ONE: &str = "127.0.0.2";
const TWO: &str = "127.0.0.3";
const STRANGER: &str = "127.0.0.5";
const SHUT_OUT: &str = "127.0.0.9";

struct Scene {
    nodens: Nodens,
    report: Vec<SocketAddr>,
    _api: Api,
    _public: LabUpstream,
    _corp: LabUpstream,
}

/// Starts nodens with two jobs on one node; the servers of corp.example are silent.
fn scene() -> Scene {
    let api = Api::start();
    for (name, address, job) in [("one", ONE, "8123"), ("two", TWO, "8124")] {
        api.put("ci", name, &[address], |pod| {
            pod["metadata"]["labels"]["project.runner.gitlab.com/id"] = "42".into();
            pod["metadata"]["annotations"]["job.runner.gitlab.com/id"] = job.into();
        });
    }
    let public = upstream(LabZone::new(".").record("registry.example.com. 300 A 192.0.2.1"));
    let corp = upstream(LabZone::new("corp.example."));
    corp.set(Behaviour::silent());
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"127.0.0.0/29\", \"::1\"]\nhints = \"full\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [report]\nlisten = [\"127.0.0.1:0\", \"[::1]:0\"]\n\
         [upstreams.public]\nservers = [\"{}\"]\n[upstreams.corp]\nservers = [\"{}\"]\ndeadline = \"300ms\"\n\
         [[route]]\nzones = [\"corp.example\"]\nto = \"corp\"\n[[route]]\nzones = [\".\"]\nto = \"public\"\n\
         [kubernetes]\nwatch = true\n",
        public.address(),
        corp.address()
    );
    let dir = Dir::new();
    let nodens = api.nodens(&text, dir);
    let own = |line: &String| field(line, "address").parse().expect("an address");
    let report = nodens.log().iter().filter(|line| line.contains("client reports")).map(own).collect();
    let scene = Scene { nodens, report, _api: api, _public: public, _corp: corp };
    for (address, name) in [(ONE, "one"), (TWO, "two")] {
        eventually(&format!("{address} is {name}"), || {
            scene.nodens.get(&format!("/api/v1/clients?address={address}")).body.contains(name).then_some(())
        });
    }
    scene
}

/// A response: status, head in small letters, body.
type Response = (u16, String, String);

impl Scene {
    fn ask(&self, from: &str, name: &str) {
        let socket = UdpSocket::bind((from, 0)).expect("a socket");
        socket.connect(self.nodens.address()).expect("a way there");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.send(&query(7, name, A)).expect("sends");
        receive(&socket);
    }

    /// Connects to the report from this address.
    fn connect(&self, from: &str) -> TcpStream {
        let from: IpAddr = from.parse().expect(from);
        let to = self.report.iter().find(|report| report.is_ipv4() == from.is_ipv4()).expect("a listener");
        let socket = Socket::new(Domain::for_address(*to), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("its own address");
        socket.connect(&(*to).into()).expect("a connection");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.into()
    }

    fn request(&self, from: &str, method: &str, path: &str, headers: &str) -> Response {
        exchange(self.connect(from), &format!("{method} {path} HTTP/1.1\r\nHost: nodens\r\n{headers}\r\n"))
            .expect("a response")
    }

    fn get(&self, from: &str, path: &str) -> (u16, String) {
        let (status, _, body) = self.request(from, "GET", path, "");
        (status, body)
    }

    /// Returns the report of a client about itself as text, once it has this many queries.
    fn me(&self, from: &str, queries: u64) -> String {
        eventually(&format!("{queries} queries of {from}"), || {
            let (status, body) = self.get(from, "/v1/me");
            assert_eq!(status, 200, "{body}");
            body.contains(&format!("  queries   {queries} (")).then_some(body)
        })
    }
}

/// Sends a request and reads until the server closes the connection; returns `None` if the server sends nothing.
fn exchange(mut stream: TcpStream, request: &str) -> Option<Response> {
    // A write to a connection that is already closed may fail or not.
    let _ = stream.write_all(request.as_bytes());
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Some((status, head.to_ascii_lowercase(), body.to_owned()))
}

#[test]
fn a_job_sees_itself_and_nobody_else() {
    let scene = scene();
    assert!(scene.me(ONE, 0).contains("  failures\n    none\n"), "it has asked nothing");
    for name in ["registry.example.com", "typo.example.com", "git.corp.example"] {
        scene.ask(ONE, name);
    }
    scene.ask(TWO, "secret.example.org");
    let me = scene.me(ONE, 3);
    assert!(me.starts_with("one, gitlab-job, namespace ci, job 8123\n  queries   3 (2 failed) since 20"), "{me}");
    assert!(me.contains("    1x git.corp.example A: upstream_timeout\n"), "{me}");
    assert!(me.contains("    1x typo.example.com A: no_such_name\n") && !me.contains("secret"), "{me}");
    let me = scene.me(TWO, 1);
    assert!(me.starts_with("two, gitlab-job, namespace ci, job 8124\n") && !me.contains("typo"), "{me}");

    // The API shows an operator the same.
    let report: Value = serde_json::from_str(&scene.nodens.get("/api/v1/jobs/one").body).expect("JSON");
    for (path, accept) in [("/v1/me.json", ""), ("/v1/me", "Accept: text/html, application/json;q=0.9\r\n")] {
        let (status, head, body) = scene.request(ONE, "GET", path, accept);
        assert!(status == 200 && head.contains("content-type: application/json"), "{head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        let mine: Value = serde_json::from_str(&body).expect("JSON");
        for key in ["uid", "queries", "failed", "by_rcode", "address"] {
            assert_eq!(mine[key], report[key], "{key}");
        }
    }

    let (status, why) = scene.get(ONE, "/v1/why/git.corp.example");
    assert!(status == 200 && why.contains("ago for you: no server of route \"corp.example\""), "{why}");
    let (status, why) = scene.get(TWO, "/v1/why/git.corp.example");
    assert!(status == 200 && why.contains("to upstream corp\n") && !why.contains("for you"), "{why}");
    let (_, _, why) = scene.request(TWO, "GET", "/v1/why/registry.example.com.", "Accept: application/json\r\n");
    let why: Value = serde_json::from_str(&why).expect("JSON");
    assert_eq!(why["name"], "registry.example.com");
    assert!(why["lines"][1].as_str().is_some_and(|line| line.starts_with("A: cached ")), "{why}");
}

#[test]
fn whoever_is_not_known_is_told_why() {
    let scene = scene();
    let (status, body) = scene.get(STRANGER, "/v1/me");
    let text = "127.0.0.5 is not known: no known pod of this node has this address\n";
    assert_eq!((status, body.as_str()), (404, text));
    let (status, body) = scene.get("::1", "/v1/me.json");
    let value: Value = serde_json::from_str(&body).expect("JSON");
    let right = json!({
        "known": false, "address": "::1", "reason": "unassigned",
        "explanation": "no known pod of this node has this address",
    });
    assert_eq!((status, value), (404, right));
    let (status, body) = scene.get(STRANGER, "/v1/why/registry.example.com");
    assert!(status == 200 && body.contains("takes route \".\" to upstream public"), "{body}");
    for path in ["/v1/me", "/v1/why/registry.example.com", "/"] {
        let (status, body) = scene.get(SHUT_OUT, path);
        assert_eq!((status, body.as_str()), (403, "127.0.0.9 may not ask here: it is not in server.allow\n"));
    }
}

#[test]
fn there_is_nothing_else() {
    let scene = scene();
    for path in ["/metrics", "/api/v1/jobs", "/v1/", "/v1/me/two", "/v1/me.jso"] {
        let (status, body) = scene.get(ONE, path);
        assert!(status == 404 && body.contains("/v1/why/NAME") && body.contains("/v1/me.json"), "{path}: {body}");
    }
    assert_eq!(scene.nodens.get("/v1/me").status, 404, "the admin pages show nobody itself");
    for name in ["", "a..b", "a/b/c..d"] {
        assert_eq!(scene.get(ONE, &format!("/v1/why/{name}")).0, 400, "{name}");
    }
    let (status, head, _) = scene.request(ONE, "POST", "/v1/me", "Content-Length: 0\r\n");
    assert!(status == 405 && head.contains("allow: get, head"), "{head}");
    let (status, head, body) = scene.request(ONE, "HEAD", "/v1/me", "");
    assert!(status == 200 && body.is_empty() && head.contains("content-length: "), "{head}");
    let long = format!("X: {}\r\n", "x".repeat(9_000));
    let (status, _, _) = scene.request(ONE, "GET", "/v1/me", &long);
    assert_eq!(status, 431);
}

#[test]
fn nobody_takes_all_places_or_keeps_one() {
    let scene = scene();
    let request = "GET / HTTP/1.1\r\nHost: nodens\r\n\r\n";
    let mut silent: Vec<_> = (0..4).map(|_| scene.connect(ONE)).collect();
    assert!(exchange(scene.connect(TWO), request).is_some(), "the four places of one address are nobody else's");
    assert!(exchange(scene.connect(ONE), request).is_some(), "the one that has been silent for longest makes room");
    assert_eq!(silent.remove(0).read(&mut [0; 1]).expect("the end"), 0);
    for mut silent in silent {
        // A silent connection is closed before the deadline of the test.
        let mut rest = Vec::new();
        silent.read_to_end(&mut rest).expect("the end");
    }
}
