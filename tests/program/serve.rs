//! `nodens serve` as a process: listening addresses, source addresses of responses, and exits when it cannot serve.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use crate::addresses::own_address;
use crate::support::client::{A, Tcp, ask_udp, code, data, id, lookup, query};
use crate::support::space::{add_address, inside, put_in_place};
use crate::support::{DEADLINE, Dir, Nodens, config, eventually, field, refused, serve, upstream, upstream_on, zone};
use hickory_proto::op::ResponseCode;

#[test]
fn udp_and_tcp_share_the_port_in_the_log() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], r#"listen = ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"]"#, ""));
    assert_eq!(
        nodens.listen.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>(),
        ["127.0.0.1", "127.0.0.2", "::1"]
    );
    for &address in &nodens.listen {
        assert_ne!(address.port(), 0);
        // Once from the upstream, once from the cache.
        for _ in 0..2 {
            assert_eq!(data(&lookup(address, "udp.lab.example")), ["192.0.2.1"]);
            assert_eq!(data(&Tcp::connect(address).ask(&query(7, "tcp.lab.example", A))), ["192.0.2.1"]);
        }
    }
    // Two of twelve queries waited for the upstream, which may get them twice on a busy machine.
    nodens.metric_becomes("nodens_responses_total", &[("source", "hit")], |hits| hits == 10.0);
}

#[test]
fn wildcard_listeners_answer_from_the_queried_address() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], r#"listen = ["0.0.0.0:0"]"#, ""));
    let asked = [2, 3, 4].map(|last| SocketAddr::from(([127, 0, 0, last], nodens.address().port())));
    replies_from(&nodens, &asked, Ipv4Addr::LOCALHOST.into());
}

#[test]
fn bound_to_all_addresses_of_ipv6_as_well() {
    inside("serve::bound_to_all_addresses_of_ipv6_as_well", &[], || {
        for address in ["fd00::53", "fd00::54", "fd00::99"] {
            add_address(address);
        }
        let upstream = upstream(zone());
        let server = "listen = [\"[::]:0\", \"0.0.0.0:0\"]\nallow = [\"fd00::/16\"]";
        let nodens = Nodens::start(&config(&[&upstream], server, ""));
        let port = nodens.address().port();
        let asked = ["fd00::53", "fd00::54"].map(|ip| SocketAddr::new(ip.parse().expect("an address"), port));
        replies_from(&nodens, &asked, "fd00::99".parse().expect("an address"));
    });
}

/// Checks that each address responds from itself: from the upstream, from the cache, and over TCP.
fn replies_from(nodens: &Nodens, asked: &[SocketAddr], client: IpAddr) {
    let socket = UdpSocket::bind((client, 0)).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    for (at, &server) in (1..).zip(asked) {
        for _ in 0..2 {
            socket.send_to(&query(at, &format!("{at}.lab.example"), A), server).expect("sends");
            let mut response = [0; 512];
            let (length, from) = socket
                .recv_from(&mut response)
                .unwrap_or_else(|error| panic!("no reply from {server}: {error}\n{}", nodens.get("/metrics").body));
            assert_eq!((from, id(&response)), (server, at));
            assert_eq!(data(&response[..length]), ["192.0.2.1"]);
        }
        assert_eq!(data(&Tcp::connect(server).ask(&query(at, "tcp.lab.example", A))), ["192.0.2.1"]);
    }
}

#[test]
fn a_port_that_is_taken_is_one_line_and_exit_code_1() {
    let upstream = upstream(zone());
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let connections = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    let taken = [datagrams.local_addr().expect("bound"), connections.local_addr().expect("bound"), nodens.address()];
    for address in taken {
        let listen = format!("listen = [\"127.0.0.1:0\", \"{address}\"]");
        let line = one_line(refused(&config(&[&upstream], &listen, ""), |_| {}));
        assert!(line.starts_with(&format!("nodens: cannot listen on {address} (UDP and TCP)")), "{line}");
        assert!(line.contains("in use") && line.contains(&format!("sport = :{}", address.port())), "{line}");
    }
    let admin = nodens.admin.expect("admin pages").to_string();
    let text = config(&[&upstream], "", "")
        .replace("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"{admin}\""));
    let line = one_line(refused(&text, |_| {}));
    assert!(
        line.starts_with(&format!("nodens: cannot listen on {admin} (admin)")) && line.contains("in use"),
        "{line}"
    );
}

#[test]
fn a_foreign_address_is_one_line_and_exit_code_1() {
    let upstream = upstream(zone());
    let line = one_line(refused(
        &config(&[&upstream], "listen = [\"192.0.2.1:5300\"]\nallow = [\"192.0.2.0/24\"]", ""),
        |_| {},
    ));
    assert_eq!(line, "nodens: cannot listen on 192.0.2.1:5300 (UDP and TCP): this host does not have that address");
}

#[test]
fn a_forbidden_port_is_one_line_and_exit_code_1() {
    // A new namespace has the usual limit of 1024, whatever the limit of this machine.
    inside("serve::a_forbidden_port_is_one_line_and_exit_code_1", &["setpriv"], || {
        let upstream = upstream(zone());
        let text = config(&[&upstream], r#"listen = ["127.0.0.1:53"]"#, "");
        let line = one_line(refused(&text, |command| {
            let mut unprivileged = Command::new("setpriv");
            unprivileged.arg("--bounding-set=-net_bind_service").arg(command.get_program()).args(command.get_args());
            *command = unprivileged;
        }));
        assert!(line.starts_with("nodens: cannot listen on 127.0.0.1:53 (UDP and TCP): "), "{line}");
        assert!(line.contains("CAP_NET_BIND_SERVICE"), "{line}");
    });
}

#[test]
fn a_wrong_file_is_78_and_a_wrong_command_line_64() {
    let upstream = upstream(zone());
    let text = config(&[&upstream], "workers = \"many\"", "select = \"fast\"");
    let (code, lines) = refused(&text, |_| {});
    assert_eq!((code, lines.len()), (Some(78), 2), "{lines:?}");
    assert!(lines[0].contains("nodens.toml:3:11: workers: "), "{lines:?}");
    assert!(lines[1].contains("nodens.toml:8:10: select: "), "{lines:?}");

    for (args, code) in [
        (&["--config", "/nonexistent/nodens.toml"][..], 1),
        (&["--config"], 64),
        (&["--confg", "nodens.toml"], 64),
        (&["nodens.toml"], 64),
        (&["--help"], 0),
    ] {
        let output = serve().args(args).output().expect("nodens runs");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(code != 1 || stderr.lines().count() == 1, "{stderr}");
    }
    let (code, lines) = refused(&config(&[&upstream], "", ""), |command| {
        command.env("NODENS_LOG", "debgu");
    });
    assert_eq!((code, lines.len()), (Some(64), 1), "{lines:?}");
}

fn one_line((code, mut lines): (Option<i32>, Vec<String>)) -> String {
    assert_eq!((code, lines.len()), (Some(1), 1), "{lines:?}");
    lines.remove(0)
}

#[test]
fn without_a_file_resolv_conf_names_the_servers() {
    inside("serve::without_a_file_resolv_conf_names_the_servers", &[], || {
        let dir = Dir::new();
        put_in_place(&dir.write("resolv.conf", "search lab.example\nnameserver 127.0.0.2\n"), "/etc/resolv.conf");
        let upstream = upstream_on(([127, 0, 0, 2], 53).into(), zone());
        let nodens = Nodens::spawn(&mut serve(), dir);
        assert_eq!(nodens.listen.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:5300", "[::1]:5300"]);
        assert_eq!(nodens.admin, Some(([127, 0, 0, 1], 9053).into()));
        for &address in &nodens.listen {
            assert_eq!(data(&lookup(address, "www.lab.example")), ["192.0.2.1"]);
        }
        assert!(upstream.seen().iter().any(|seen| seen.is_named("www.lab.example.")));
        nodens.metric_becomes("nodens_responses_total", &[("source", "hit")], |hits| hits == 1.0);
        assert_eq!(nodens.get("/readyz").status, 200);
    });
}

#[test]
fn without_a_file_a_looping_nameserver_is_named() {
    inside("serve::without_a_file_a_looping_nameserver_is_named", &[], || {
        let dir = Dir::new();
        put_in_place(&dir.write("resolv.conf", "nameserver 127.0.0.2\n"), "/etc/resolv.conf");
        let forwarder = Forwarder::bind(([127, 0, 0, 2], 53).into());
        forwarder.to(([127, 0, 0, 1], 5300).into());
        is_named(Nodens::spawn(&mut serve(), dir), forwarder.address, "resolv.conf");
    });
}

#[test]
fn an_upstream_that_leads_back_is_named() {
    let forwarder = Forwarder::bind(([127, 0, 0, 1], 0).into());
    let nodens = Nodens::start(&forwarding(forwarder.address));
    forwarder.to(nodens.address());
    is_named(nodens, forwarder.address, "up");
}

#[test]
fn a_forwarding_loop_that_appears_later_is_named() {
    // The port is closed when nodens starts.
    let address = own_address();
    let nodens = Nodens::start(&forwarding(address));
    for n in 0..3 {
        lookup(nodens.address(), &format!("{n}.lab.example"));
    }
    nodens.metric_becomes("nodens_upstream_healthy", &[], |healthy| healthy == 0.0);
    let forwarder = Forwarder::bind(address);
    forwarder.to(nodens.address());
    is_named(nodens, address, "up");
}

fn forwarding(server: SocketAddr) -> String {
    let upstream = upstream(zone());
    config(&[&upstream], "", "").replace(&upstream.address().to_string(), &server.to_string())
}

/// Checks that the log and the page name the server, and that queries fail without waiting for it.
fn is_named(mut nodens: Nodens, server: SocketAddr, group: &str) {
    let line = nodens.logged("queries come back to nodens");
    assert_eq!((field(&line, "level"), field(&line, "server")), ("ERROR", server.to_string().as_str()));
    assert_eq!(field(&line, "upstream"), group);
    let page = nodens.get("/readyz?verbose");
    assert_eq!(page.status, 503);
    assert!(page.body.contains(&format!("{server} forwarding loop")), "{}", page.body);
    assert_eq!(nodens.get("/readyz").status, 503);
    assert_eq!(code(&ask_udp(nodens.address(), &query(1, "after.lab.example", A))), ResponseCode::ServFail);
    eventually("the metric", || (nodens.metric("nodens_upstream_healthy", &[]) == 0.0).then_some(()));
}

/// A server without records that forwards every query to another server.
struct Forwarder {
    address: SocketAddr,
    to: &'static OnceLock<SocketAddr>,
}

impl Forwarder {
    fn bind(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).expect("a socket");
        let address = socket.local_addr().expect("bound");
        // Leaked: it lives as long as the test program.
        let to: &'static OnceLock<SocketAddr> = Box::leak(Box::default());
        thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let (query, socket) = (buffer[..length].to_vec(), socket.try_clone().expect("a handle"));
                thread::spawn(move || {
                    let onward = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                    onward.set_read_timeout(Some(DEADLINE)).expect("a timeout");
                    onward.send_to(&query, to.wait()).expect("sends");
                    let mut response = [0; 4_096];
                    if let Ok(length) = onward.recv(&mut response) {
                        let _ = socket.send_to(&response[..length], client); // the client may be gone
                    }
                });
            }
        });
        Self { address, to }
    }

    /// Sets the server that gets all queries, including those already received.
    fn to(&self, server: SocketAddr) {
        self.to.set(server).expect("said once");
    }
}
