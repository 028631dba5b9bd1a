//! `hints`, with the built binary: what clients learn of other views, upstream servers and the cache, over DNS and HTTP.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use crate::support::client::{A, EXTENDED_ERROR, code, data, query, query_with_option, receive};
use crate::support::{DEADLINE, Nodens, eventually, field, upstream};
use hickory_proto::op::ResponseCode;
use nodens::lab::fault::Behaviour;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use nodens::wire::response::ResponseMessage;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

const TXT: u16 = 16;
/// Client of the view that has a private zone.
const STAFF: &str = "127.0.0.2";
/// Client of another view.
const FORK: &str = "127.0.0.3";
/// Client of no view.
const PLAIN: &str = "127.0.0.4";
/// Addresses of one client, of which only the first is in the view of [`STAFF`].
const SPLIT: [&str; 2] = ["127.0.0.17", "127.0.0.18"];

struct Scene {
    nodens: Nodens,
    report: SocketAddr,
    public: LabUpstream,
    corp: LabUpstream,
}

/// Starts nodens with these keys in `[server]`, in the view `staff` and in the view `forks`.
fn scene([server, staff, forks]: [&str; 3]) -> Scene {
    let zone = LabZone::new(".")
        .record("www.example.com. 300 A 192.0.2.1")
        .record("www.partner.example. 300 A 192.0.2.2")
        .rcode("bad.example.com.", 3)
        .extended_error("bad.example.com.", 15, "malware, says 10.9.8.7")
        .rcode("worse.example.com.", 3)
        .extended_error("worse.example.com.", 15, "malware");
    let public = upstream(zone);
    let corp = upstream(LabZone::new("corp.example.").record("git.corp.example. 300 A 10.0.0.7"));
    let client = |address, name| format!("[[client]]\nsource = \"{address}\"\nname = \"{name}\"\n");
    let clients =
        [client(STAFF, "employee"), client(FORK, "fork"), client(PLAIN, "plain"), client("127.0.0.16/30", "split")]
            .concat();
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"127.0.0.0/8\"]\nworkers = 1\n{server}\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[report]\nlisten = [\"127.0.0.1:0\"]\n\
         [upstreams.public]\nservers = [\"{}\"]\n[upstreams.corp]\nservers = [\"{}\"]\n\
         [[route]]\nzones = [\".\"]\nto = \"public\"\n{clients}\
         [[view]]\nname = \"staff\"\nsources = [\"{STAFF}\", \"{}\"]\n{staff}\n\
         [[view.route]]\nzones = [\"corp.example\"]\nto = \"corp\"\n\
         [[view.route]]\nzones = [\"partner.example\"]\nto = \"public\"\n\
         [[view]]\nname = \"forks\"\nsources = [\"{FORK}\"]\ndeny = [\"secret.example\"]\n{forks}\n",
        public.address(),
        corp.address(),
        SPLIT[0]
    );
    let nodens = Nodens::start(&text);
    let log = nodens.log();
    let line = log.iter().find(|line| line.contains("client reports")).expect("a listener of reports");
    let report = field(line, "address").parse().expect("an address");
    Scene { nodens, report, public, corp }
}

impl Scene {
    fn send(&self, from: &str, packet: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind((from, 0)).expect("a socket");
        socket.connect(self.nodens.address()).expect("a way there");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.send(packet).expect("sends");
        receive(&socket)
    }

    /// Returns the response code and the extended errors, each as info-code and text.
    fn explained(&self, from: &str, name: &str) -> (ResponseCode, Vec<(u16, String)>) {
        let response = self.send(from, &query_with_option(7, name, EXTENDED_ERROR));
        let (mut errors, mut found) =
            (ResponseMessage::read(&response).expect("a response").extended_errors, Vec::new());
        while !errors.is_empty() {
            let number = |at: usize| u16::from_be_bytes([errors[at], errors[at + 1]]);
            let (info, rest) = (number(4), errors.split_off(4 + usize::from(number(2))));
            found.push((info, String::from_utf8_lossy(&errors[6..]).into_owned()));
            errors = rest;
        }
        (code(&response), found)
    }

    fn txt(&self, from: &str, name: &str) -> String {
        let response = self.send(from, &query(7, name, TXT));
        assert_eq!(code(&response), ResponseCode::NoError, "{name}");
        data(&response).join("\n")
    }

    /// Requests a page of the report; returns the status and the body.
    fn page(&self, from: &str, path: &str) -> (u16, String) {
        let from: IpAddr = from.parse().expect(from);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of its own");
        socket.connect(&self.report.into()).expect("a connection");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let (mut stream, mut text): (TcpStream, _) = (socket.into(), String::new());
        write!(stream, "GET {path} HTTP/1.1\r\nHost: nodens\r\n\r\n").expect("sends");
        stream.read_to_string(&mut text).expect("a response");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
    }

    /// Returns the text of all explanations that a client gets about this name, once its report has that many queries.
    fn everything(&self, from: &str, name: &str, queries: u64) -> String {
        let me = eventually("the report", || {
            let (status, me) = self.page(from, "/v1/me");
            let counted =
                me.split_once("  queries   ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
            (status == 200 && counted >= Some(queries)).then_some(me)
        });
        let pages = [me, self.page(from, "/v1/me.json").1, self.page(from, &format!("/v1/why/{name}")).1];
        let names = ["me.nodens.internal".to_owned(), format!("{name}.why.nodens.internal")];
        [pages.concat(), names.map(|name| self.txt(from, &name)).concat()].concat()
    }

    fn admin(&self, id: &str) -> String {
        self.nodens.get(&format!("/api/v1/jobs/{id}")).body
    }

    /// Reports whether a text has the address of an upstream server.
    fn names_server(&self, text: &str) -> bool {
        [&self.public, &self.corp].iter().any(|upstream| text.contains(&upstream.address().to_string()))
    }
}

#[test]
fn by_default_nothing_of_others_is_shown() {
    let scene = scene([""; 3]);
    assert_eq!(data(&scene.send(STAFF, &query(1, "git.corp.example", A))), ["10.0.0.7"]);
    assert_eq!(data(&scene.send(STAFF, &query(1, "www.example.com", A))), ["192.0.2.1"]);
    for from in [FORK, PLAIN] {
        assert_eq!(code(&scene.send(from, &query(1, "git.corp.example", A))), ResponseCode::NXDomain);
        let all = scene.everything(from, "git.corp.example", 1);
        assert!(all.contains("git.corp.example takes route \".\" to upstream public"), "{all}");
        for word in ["staff", "other clients", "other_view", "cache", " s more", "server 1"] {
            assert!(!all.contains(word), "{from} {word:?}: {all}");
        }
        assert!(!scene.names_server(&all), "{all}");
    }
    // The operator still sees it.
    let report = scene.admin("plain");
    assert!(report.contains("other_view") && report.contains("corp.example (staff)"), "{report}");
    // A client gets its own view.
    let all = scene.everything(STAFF, "git.corp.example", 2);
    assert!(all.contains(", view staff") && all.contains("route \"corp.example (staff)\" to upstream corp"), "{all}");
    assert!(!scene.names_server(&all) && !all.contains("cached"), "{all}");
}

/// A client whose addresses are in several views does not see the routes of one of them from another one.
#[test]
fn by_default_reports_have_routes_of_one_view() {
    let scene = scene([""; 3]);
    for (from, name) in SPLIT.iter().zip(["typo.corp.example", "typo.example.com"]) {
        assert_eq!(code(&scene.send(from, &query(1, name, A))), ResponseCode::NXDomain);
    }
    let all = scene.everything(SPLIT[0], "typo.corp.example", 2);
    assert!(all.contains("the servers of route \"corp.example (staff)\""), "{all}");
    let all = scene.everything(SPLIT[1], "typo.corp.example", 2);
    assert!(!all.contains("staff") && all.contains("typo.example.com failed 1x"), "{all}");
}

#[test]
fn by_default_errors_name_no_server() {
    let scene = scene([""; 3]);
    scene.public.set(Behaviour::rcode(2).extended_error(22, "no reply of 10.9.8.7"));
    // The second response comes from the cache.
    for expected in [&[23][..], &[23, 13]] {
        let (rcode, errors) = scene.explained(PLAIN, "down.example.com");
        assert_eq!(rcode, ResponseCode::ServFail);
        assert_eq!(errors.iter().map(|(info, _)| *info).collect::<Vec<_>>(), expected);
        assert_eq!(errors[0].1, "upstream public: SERVFAIL; extended error 22 no reply of");
    }
    scene.public.set(Behaviour::rcode(2).extended_error(22, "no reply of 10.9.8.7#53"));
    assert_eq!(scene.explained(PLAIN, "too.example.com"), (ResponseCode::ServFail, vec![(23, String::new())]));
    scene.public.set(Behaviour::normal());
    // Extended errors that the upstream added to its answers, also from the cache.
    for (name, text) in [("bad", "malware, says"), ("worse", "malware"), ("bad", "malware, says"), ("worse", "malware")]
    {
        let answer = scene.explained(PLAIN, &format!("{name}.example.com"));
        assert_eq!(answer, (ResponseCode::NXDomain, vec![(15, text.to_owned())]));
    }
    for name in ["down.example.com", "too.example.com", "bad.example.com"] {
        let all = scene.everything(PLAIN, name, 7);
        assert!(!scene.names_server(&all) && !all.contains("10.9.8.7"), "{all}");
        assert!(all.contains("the servers of route \".\" failed: upstream public: SERVFAIL"), "{all}");
    }
    let report = scene.admin("plain");
    assert!(scene.names_server(&report) && report.contains("no reply of 10.9.8.7"), "{report}");
}

#[test]
fn off_leaves_codes_alone() {
    let scene = scene(["", "", "hints = \"off\""]);
    let code_alone = |rcode, info| (rcode, vec![(info, String::new())]);
    for _ in 0..2 {
        assert_eq!(scene.explained(FORK, "worse.example.com"), code_alone(ResponseCode::NXDomain, 15));
        assert_eq!(scene.explained(FORK, "a.secret.example"), code_alone(ResponseCode::NXDomain, 15));
    }
    assert_eq!(scene.explained(PLAIN, "worse.example.com").1, [(15, "malware".to_owned())], "others get the text");
    scene.public.set(Behaviour::rcode(2));
    assert_eq!(scene.explained(FORK, "down.example.com"), code_alone(ResponseCode::ServFail, 23));
    let (_, errors) = scene.explained(FORK, "down.example.com");
    assert_eq!(errors, [(23, String::new()), (13, String::new())]);
    for name in ["me.nodens.internal", "why.nodens.internal", "www.example.com.why.nodens.internal"] {
        assert_eq!(scene.explained(FORK, name), code_alone(ResponseCode::Refused, 18), "{name}");
        assert_eq!(code(&scene.send(FORK, &query(7, name, TXT))), ResponseCode::Refused, "{name}");
        assert_eq!(code(&scene.send(PLAIN, &query(7, name, TXT))), ResponseCode::NoError, "{name}");
    }
    for path in ["/", "/v1/me", "/v1/me.json", "/v1/why/www.example.com"] {
        let refusal = "reports are switched off for this client (hints = \"off\")\n";
        assert_eq!(scene.page(FORK, path), (403, refusal.to_owned()), "{path}");
    }
    let report = eventually("the report", || Some(scene.admin("fork")).filter(|report| scene.names_server(report)));
    assert!(report.contains("malware"), "{report}");
}

#[test]
fn full_is_for_those_who_have_it() {
    let scene = scene(["hints = \"full\"", "hints = \"full\"", ""]);
    scene.corp.set(Behaviour::rcode(2));
    let (_, errors) = scene.explained(STAFF, "git.corp.example");
    assert_eq!(errors[0].1, format!("upstream corp: {} SERVFAIL", scene.corp.address()));
    let all = scene.everything(STAFF, "git.corp.example", 1);
    assert!(all.contains(&format!("server {}: ", scene.corp.address())) && all.contains("failed recently"), "{all}");
    for from in [PLAIN, FORK] {
        assert_eq!(code(&scene.send(from, &query(1, "git.corp.example", A))), ResponseCode::NXDomain);
    }
    let all = scene.everything(PLAIN, "git.corp.example", 1);
    assert!(all.contains("other clients have route \"corp.example (staff)\" for it"), "{all}");
    assert!(all.contains("A: cached ") && all.contains(&format!("server {}: ", scene.public.address())), "{all}");
    let all = scene.everything(FORK, "git.corp.example", 1);
    assert!(!all.contains("staff") && !scene.names_server(&all), "trust does not extend to views: {all}");
}

/// A suggestion must not show that another view has a route for a zone.
#[test]
fn suggestions_stay_within_the_own_zones() {
    let scene = scene([""; 3]);
    for from in [PLAIN, STAFF] {
        assert_eq!(data(&scene.send(from, &query(1, "www.partner.example", A))), ["192.0.2.2"]);
        assert_eq!(code(&scene.send(from, &query(1, "www", A))), ResponseCode::NXDomain);
    }
    let all = scene.everything(STAFF, "www", 2);
    assert!(all.contains("wrong suffix? www.partner.example exists"), "{all}");
    let all = scene.everything(PLAIN, "www", 2);
    assert!(all.contains("no such name: www ") && !all.contains("wrong"), "{all}");
    let report: Value = serde_json::from_str(&scene.admin("plain")).expect("JSON");
    assert_eq!(report["failures"][0]["cause"], "wrong_suffix", "{report:#}");
}
