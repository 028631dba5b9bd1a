//! A worker that dies is replaced with the same sockets, by the built binary.

use std::fs;
use std::net::UdpSocket;

use crate::addresses::own_address;
use crate::support::client::{A, code, id, lookup, query, receive, udp};
use crate::support::{Nodens, config, eventually, freeze, send_signal, serve, states, upstream, zone};

/// Kills the worker while the supervisor sleeps, so that queries come while nobody serves.
fn kill_worker(nodens: &Nodens, meanwhile: impl FnOnce()) {
    freeze(nodens.id());
    let worker = nodens.worker().expect("a worker");
    send_signal(worker, "KILL");
    eventually("the worker's death", || states(worker).is_none_or(|states| states == "Z").then_some(()));
    meanwhile();
    nodens.signal("CONT");
}

fn serves_again(nodens: &Nodens, restarts: f64) {
    nodens.metric_becomes("nodens_worker_restarts_total", &[], |count| count == restarts);
}

#[test]
fn queries_wait_until_a_new_worker_answers_them() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    for round in 1..=5_u16 {
        let socket = udp(nodens.address());
        kill_worker(&nodens, || {
            for n in 0..100 {
                socket.send(&query(n, &format!("a{n}.lab.example"), A)).expect("sends");
            }
        });
        let mut ids: Vec<u16> = (0..100).map(|_| id(&receive(&socket))).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..100).collect::<Vec<_>>(), "round {round}");
        serves_again(&nodens, f64::from(round));
    }
    let events = nodens.get("/api/v1/events").body;
    assert!(events.contains("\"worker_replaced\"") && events.contains("signal 9, SIGKILL"), "{events}");
    assert!(nodens.log().iter().any(|line| line.contains("the worker died (signal 9, SIGKILL)")));
}

#[test]
fn tcp_connections_that_come_meanwhile_are_served_too() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    let mut clients = Vec::new();
    kill_worker(&nodens, || {
        for n in 0..10 {
            let mut client = crate::support::client::Tcp::connect(nodens.address());
            client.send(&query(n, "a.lab.example", A));
            clients.push(client);
        }
    });
    for (n, client) in (0..).zip(&mut clients) {
        assert_eq!(id(&client.receive()), n);
    }
}

#[test]
fn it_goes_on_with_the_configuration_in_force_whatever_the_file_says() {
    let upstream = upstream(zone());
    let mut nodens = Nodens::start(&config(&[&upstream], "", ""));
    let good = fs::read_to_string(nodens.config()).expect("reads");
    // A change that is taken belongs to what is in force.
    let record = "\n[[record]]\nname = \"mine.example\"\ntype = \"A\"\nvalue = \"192.0.2.7\"\n";
    fs::write(nodens.config(), good.clone() + record).expect("writes");
    nodens.signal("HUP");
    nodens.logged("new configuration in force");
    fs::write(nodens.config(), "[server\n").expect("writes");
    kill_worker(&nodens, || ());
    serves_again(&nodens, 1.0);
    assert_eq!(crate::support::client::data(&lookup(nodens.address(), "mine.example")), ["192.0.2.7"]);
    nodens.logged("new configuration rejected");
    fs::write(nodens.config(), good).expect("writes");
    nodens.logged("new configuration in force");
    nodens.signal("TERM");
    assert_eq!(nodens.exit().code(), Some(0));
}

#[test]
fn a_worker_ends_with_its_supervisor() {
    let upstream = upstream(zone());
    let listen = format!("listen = [\"{}\"]", own_address());
    let mut nodens = Nodens::start(&config(&[&upstream], &listen, ""));
    let worker = nodens.worker().expect("a worker");
    nodens.signal("KILL");
    assert_eq!(nodens.exit().code(), None);
    eventually("the worker's end", || states(worker).is_none().then_some(()));
    UdpSocket::bind(nodens.address()).expect("the port is free");
}

#[test]
fn a_worker_that_does_not_begin_is_not_replaced() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let listen = format!("listen = [\"{}\"]", taken.local_addr().expect("an address"));
    let upstream = upstream(zone());
    let (status, lines) = crate::support::refused(&config(&[&upstream], &listen, ""), |_| ());
    assert_eq!(status, Some(1), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("the port is in use")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("the worker died")), "{lines:?}");
}

#[test]
fn without_a_supervisor_there_is_one_process() {
    let upstream = upstream(zone());
    let dir = crate::support::Dir::new();
    let file = dir.write("nodens.toml", &config(&[&upstream], "", ""));
    let mut nodens = Nodens::spawn(serve().arg("--no-supervisor").arg("--config").arg(file), dir);
    assert_eq!(nodens.worker(), None);
    assert_eq!(code(&lookup(nodens.address(), "a.lab.example")), hickory_proto::op::ResponseCode::NoError);
    nodens.signal("TERM");
    assert_eq!(nodens.exit().code(), Some(0));
}

#[test]
fn the_worker_is_nobodys_to_start() {
    let mut command = serve();
    command.arg("--worker").stdin(std::process::Stdio::null());
    let output = command.output().expect("nodens runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--worker is for the supervisor alone"));
}
