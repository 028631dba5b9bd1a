//! Handovers between nodens processes on the same sockets: no query is lost, whichever process fails.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crate::addresses::own_address;
use crate::support::client::{A, Tcp, ask_udp, data, id, lookup, query, receive, udp};
use crate::support::{Dir, Nodens, eventually, refused, send_signal, serve, upstream, zone};
use nodens::handover::PROTOCOL;
use nodens::handover::channel::{Channel, HandoverMessage};
use nodens::handover::handle;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use socket2::{Domain, SockAddr, Socket, Type};

/// Paths and addresses that all nodens of a test share.
struct Scene {
    dir: Dir,
    upstream: LabUpstream,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Scene {
    fn new() -> Self {
        Self { dir: Dir::new(), upstream: upstream(zone()), listen: own_address(), admin: own_address() }
    }

    fn socket(&self) -> PathBuf {
        self.dir.file("run/handover.sock")
    }

    fn config(&self, listen: &str) -> String {
        format!(
            "[server]\nlisten = [\"{}\"{listen}]\nworkers = 2\n[admin]\nlisten = \"{}\"\n[handover]\nsocket = {:?}\n\
             [upstreams.up]\nservers = [\"{}\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n",
            self.listen,
            self.admin,
            self.socket(),
            self.upstream.address()
        )
    }

    /// Starts another nodens; returns once it serves.
    fn nodens(&self) -> Nodens {
        self.nodens_with(&self.config(""))
    }

    /// Starts another nodens with this configuration.
    fn nodens_with(&self, config: &str) -> Nodens {
        let dir = Dir::new();
        let file = dir.write("nodens.toml", config);
        Nodens::spawn(serve().arg("--config").arg(file), dir)
    }

    /// Stops `old`, which shares its ports with another nodens: that one answers, and hands over to the next.
    fn is_left_to_another(&self, mut old: Nodens) {
        old.stop();
        lookup(self.listen, "a.lab.example");
        // The next nodens finds the socket of the other one.
        self.nodens().logged("took over");
    }
}

/// Clients that send queries all the time: over UDP, over one TCP connection each, and over a new TCP connection for each
/// query. No query is repeated, and each must get a response.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn new(server: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let name = |n: u16| match n % 4 {
            0 => format!("miss-{n}.lab.example"),
            _ => "hit.lab.example".to_owned(),
        };
        let run = |work: fn(SocketAddr, u16, &mut Vec<Tcp>, &str)| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || {
                let mut connection = Vec::new();
                let mut number = 0_u16;
                while !stop.load(Ordering::Relaxed) {
                    work(server, number, &mut connection, &name(number));
                    answered.fetch_add(1, Ordering::Relaxed);
                    number = number.wrapping_add(1);
                }
            })
        };
        let over_udp = |server, number, _: &mut Vec<Tcp>, name: &str| {
            let socket = udp(server);
            socket.send(&query(number, name, A)).expect("sends");
            assert_eq!((id(&receive(&socket))), number);
        };
        let over_tcp = |server, number, connection: &mut Vec<Tcp>, name: &str| {
            if connection.is_empty() {
                connection.push(Tcp::connect(server));
            }
            // At any moment a part of a query may be in flight.
            let framed = crate::support::client::framed(&query(number, name, A));
            let (one, other) = framed.split_at(usize::from(number) % framed.len());
            connection[0].write(one);
            connection[0].write(other);
            assert_eq!(id(&connection[0].receive()), number);
        };
        let once = |server, number, _: &mut Vec<Tcp>, name: &str| {
            assert_eq!(id(&Tcp::connect(server).ask(&query(number, name, A))), number);
        };
        let threads = vec![run(over_udp), run(over_udp), run(over_tcp), run(over_tcp), run(once)];
        Self { stop, answered, threads }
    }

    /// Waits until more than 300 further queries have been answered.
    fn go_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("answers", || (self.answered.load(Ordering::Relaxed) > before + 300).then_some(()));
    }

    /// Stops the clients, and checks that every query was answered.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("every query is answered");
        }
    }
}

#[test]
fn nothing_is_lost_from_one_to_the_next() {
    let scene = Scene::new();
    let mut old = scene.nodens();
    let clients = Clients::new(scene.listen);
    // Each successor gets the sockets of its predecessor, whatever its number of workers.
    for workers in [2, 1, 3, 2, 1, 2] {
        clients.go_on();
        let mut new = scene.nodens_with(&scene.config("").replace("workers = 2", &format!("workers = {workers}")));
        assert!(new.logged("took over").contains(" cached answers"));
        old.logged("handed over");
        clients.go_on();
        old.stop();
        old = new;
    }
    clients.go_on();
    clients.end();
}

#[test]
fn a_cache_moves_as_a_whole() {
    const NAMES: u16 = 2_000;
    let scene = Scene::new();
    let config = format!("{}[cache]\nmemory = \"1MiB\"\n", scene.config(""));
    let mut old = scene.nodens_with(&config);
    let client = udp(scene.listen);
    let ask = |number| {
        client.send(&query(number, &format!("miss-{number}.lab.example"), A)).expect("sends");
        assert_eq!(id(&receive(&client)), number);
    };
    (0..NAMES).for_each(ask);
    old.metric_becomes("nodens_cache_entries", &[], |entries| entries == f64::from(NAMES));
    let mut new = scene.nodens_with(&config);
    assert!(new.logged("took over").contains(" 2000 cached answers"));
    // From here on the new one answers, and serves the metrics.
    old.logged("handed over");
    (0..NAMES).for_each(ask);
    assert_eq!(new.metric("nodens_cache_misses_total", &[]), 0.0);
}

#[test]
fn processes_that_start_at_once_take_turns() {
    let scene = Scene::new();
    let config = scene.config("").replace("workers = 2", "workers = 2\ntcp_connections_per_client = 500");
    let old = scene.nodens_with(&config);
    let clients = Clients::new(scene.listen);
    let mut idle: Vec<Tcp> = (0..100).map(|_| Tcp::connect(scene.listen)).collect();
    let mut ask_all = || {
        for (number, client) in idle.iter_mut().enumerate() {
            assert_eq!(id(&client.ask(&query(number as u16, "hit.lab.example", A))), number as u16);
        }
    };
    ask_all();
    clients.go_on();
    let successors: Vec<Nodens> = thread::scope(|scope| {
        let starts: Vec<_> = (0..10).map(|_| scope.spawn(|| scene.nodens_with(&config))).collect();
        starts.into_iter().map(|start| start.join().expect("it serves")).collect()
    });
    ask_all();
    clients.go_on();
    clients.end();
    // One has it all, and the others have handed over.
    let has = |nodens: &Nodens, text: &str| nodens.log().iter().any(|line| line.contains(text));
    assert!(successors.iter().all(|nodens| has(nodens, "took over")));
    assert_eq!(successors.iter().filter(|nodens| !has(nodens, "handed over to")).count(), 1);
    drop(old);
}

#[test]
fn a_connection_moves_with_its_partial_query() {
    let scene = Scene::new();
    let mut old = scene.nodens();
    let mut client = Tcp::connect(scene.listen);
    client.ask(&query(1, "a.lab.example", A));
    let framed = crate::support::client::framed(&query(2, "b.lab.example", A));
    let (one, other) = framed.split_at(framed.len() / 2);
    client.write(one);
    // The predecessor has probably read the half query: its worker answers other clients meanwhile.
    (0..20).for_each(|_| drop(lookup(scene.listen, "c.lab.example")));
    let _new = scene.nodens();
    old.logged("handed over");
    old.stop();
    client.write(other);
    assert_eq!(id(&client.receive()), 2);
    client.ask(&query(3, "d.lab.example", A));
}

#[test]
fn the_cache_goes_along() {
    let scene = Scene::new();
    let mut old = scene.nodens();
    lookup(scene.listen, "known.lab.example");
    let _new = scene.nodens();
    old.logged("handed over");
    old.signal("TERM");
    old.exit();
    // The upstream has read all queries from before once it answers a later one; a busy machine may have caused a second one.
    lookup(scene.listen, "other.lab.example");
    scene.upstream.clear_seen();
    assert_eq!(data(&lookup(scene.listen, "known.lab.example")), ["192.0.2.1"]);
    assert!(!scene.upstream.seen().iter().any(|seen| seen.is_named("known.lab.example.")));
}

#[test]
fn what_was_asked_of_others_does_not_go_along() {
    let scene = Scene::new();
    let mut old = scene.nodens();
    lookup(scene.listen, "known.lab.example");
    let other = upstream(LabZone::new("lab.example.").record("*.lab.example. 300 A 192.0.2.2"));
    let servers = [&scene.upstream, &other].map(|upstream| upstream.address().to_string());
    let mut new = scene.nodens_with(&scene.config("").replace(&servers[0], &servers[1]));
    new.logged("took over");
    old.logged("handed over");
    // From here on the new configuration answers every query, over every socket.
    for number in 0..100 {
        let query = query(number, "known.lab.example", A);
        assert_eq!(data(&ask_udp(scene.listen, &query)), ["192.0.2.2"]);
        assert_eq!(data(&Tcp::connect(scene.listen).ask(&query)), ["192.0.2.2"]);
    }
}

#[test]
fn a_successor_that_fails_early_changes_nothing() {
    let scene = Scene::new();
    let mut old = scene.nodens();
    let clients = Clients::new(scene.listen);
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let more = format!(", \"{}\"", taken.local_addr().expect("an address"));
    let (status, lines) = crate::support::refused(&scene.config(&more), |_| ());
    assert_eq!(status, Some(1), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("the port is in use")), "{lines:?}");
    old.logged("the new one gave up");
    clients.go_on();
    clients.end();
}

#[test]
fn the_old_one_serves_again_when_the_new_one_is_gone() {
    let scene = Scene::new();
    let mut old = scene.nodens();
    for _ in 0..2 {
        let mut new = scene.nodens();
        new.logged("took over");
        // The death of a worker does not revert the handover: the supervisor replaces the worker.
        send_signal(new.worker().expect("a worker"), "KILL");
        new.metric_becomes("nodens_worker_restarts_total", &[], |count| count == 1.0);
        lookup(scene.listen, "a.lab.example");
        new.kill();
        eventually("the old one to serve", || {
            let log = old.log();
            let last = |text| log.iter().rposition(|line| line.contains(text));
            (last("handover reverted") > last("handed over")).then_some(())
        });
        lookup(scene.listen, "b.lab.example");
        Tcp::connect(scene.listen).ask(&query(9, "c.lab.example", A));
    }
    old.stop();
}

#[test]
fn a_successor_stopped_first_reverts_the_handover() {
    let scene = Scene::new();
    let mut old = scene.nodens();
    let clients = Clients::new(scene.listen);
    for _ in 0..3 {
        clients.go_on();
        let mut new = scene.nodens();
        new.logged("took over");
        clients.go_on();
        new.stop();
    }
    clients.go_on();
    clients.end();
    assert!(old.logged("handover reverted").contains("the other one is about to stop"));
}

#[test]
fn a_resting_worker_that_dies_rests_again() {
    let scene = Scene::new();
    let mut old = scene.nodens();
    let mut new = scene.nodens();
    new.logged("took over");
    old.logged("handed over");
    let worker = old.worker().expect("a worker");
    send_signal(worker, "KILL");
    eventually("another one", || old.worker().filter(|other| *other != worker));
    old.logged("nodens on standby");
    let clients = Clients::new(scene.listen);
    clients.go_on();
    clients.end();
    new.kill();
    lookup(scene.listen, "a.lab.example");
}

#[test]
fn in_a_row_of_three_the_middle_one_may_go() {
    let scene = Scene::new();
    let mut first = scene.nodens();
    let mut second = scene.nodens();
    second.logged("took over");
    let mut third = scene.nodens();
    third.logged("took over");
    second.stop();
    let clients = Clients::new(scene.listen);
    clients.go_on();
    clients.end();
    assert!(!first.log().iter().any(|line| line.contains("handover reverted")), "the third one serves");
    first.stop();
}

/// Accepts one connection, reads one message, and sends `answer`.
pub(crate) fn foreign_predecessor(path: &std::path::Path, answer: HandoverMessage) -> JoinHandle<()> {
    predecessor_that_says(path, vec![answer])
}

fn predecessor_that_says(path: &std::path::Path, messages: Vec<HandoverMessage>) -> JoinHandle<()> {
    let listener = handle::listen(path).expect("listens");
    thread::spawn(move || {
        let accepted = rustix::net::accept(&listener).expect("somebody knocks");
        let new = Channel::of(accepted);
        new.receive().expect("a message").expect("hello");
        messages.iter().for_each(|message| new.send(message).expect("sends"));
    })
}

/// A predecessor that has stopped waiting serves on, so its successor must not begin to serve.
#[test]
fn a_predecessor_that_waits_no_longer_goes_on() {
    let scene = Scene::new();
    let predecessor = predecessor_that_says(
        &scene.socket(),
        vec![
            HandoverMessage::Hello { protocol: PROTOCOL, version: "9.9.9".to_owned() },
            HandoverMessage::Complete,
            HandoverMessage::Refused { why: "it has waited too long".to_owned() },
        ],
    );
    let (code, lines) = refused(&scene.config(""), |_| ());
    predecessor.join().expect("it was asked");
    let error = "it has waited too long: the predecessor continues to serve";
    assert!(code == Some(1) && lines.iter().any(|line| line.contains(error)), "{code:?} {lines:?}");
}

#[test]
fn without_a_common_protocol_both_share_the_ports() {
    for answer in [
        HandoverMessage::Hello { protocol: 999, version: "9.9.9".to_owned() },
        HandoverMessage::Refused { why: "not today".to_owned() },
        HandoverMessage::Complete,
    ] {
        let scene = Scene::new();
        let old = scene.nodens();
        let predecessor = foreign_predecessor(&scene.socket(), answer);
        let mut new = scene.nodens();
        predecessor.join().expect("it was asked");
        new.logged("sharing the ports");
        scene.is_left_to_another(old);
    }
}

#[test]
fn without_the_handover_socket_both_share_the_ports() {
    let scene = Scene::new();
    let old = scene.nodens();
    std::fs::remove_file(scene.socket()).expect("it is there");
    let mut new = scene.nodens();
    new.logged("offers no handover; sharing the ports");
    scene.is_left_to_another(old);
    new.metric_becomes("nodens_handover_failures_total", &[], |count| count == 1.0);
}

#[test]
fn ports_are_shared_with_nodens_alone() {
    let scene = Scene::new();
    let other = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    other.set_reuse_port(true).expect("a socket");
    other.bind(&scene.listen.into()).expect("the address is free");
    let (code, lines) = refused(&scene.config(""), |_| {});
    assert_eq!(code, Some(1));
    assert!(lines.iter().any(|line| line.contains("the port is in use")), "{lines:?}");
}

#[test]
fn foreign_protocols_and_nonsense_get_nothing() {
    let scene = Scene::new();
    let mut old = scene.nodens();
    let knock = || {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        socket.connect(&SockAddr::unix(scene.socket()).expect("a path")).expect("somebody is there");
        socket
    };
    let channel = Channel::of(OwnedFd::from(knock()));
    channel.send(&HandoverMessage::Hello { protocol: 999, version: "9.9.9".to_owned() }).expect("sends");
    let got = channel.receive().expect("a message").expect("a message");
    assert!(matches!(got.message, HandoverMessage::Refused { why } if why.contains("999")) && got.socket.is_none());
    knock().send(b"GET / HTTP/1.1\r\n\r\n").expect("sends");
    drop(knock());
    let channel = Channel::of(OwnedFd::from(knock()));
    channel.send(&HandoverMessage::Ready).expect("sends");
    assert!(channel.receive().is_ok_and(|got| got.is_none()));
    old.logged("handover failed");
    // The predecessor has handed nothing over, and serves.
    lookup(scene.listen, "a.lab.example");
}

#[test]
fn each_of_the_two_keeps_what_its_own_start_read() {
    let scene = Scene::new();
    let mut old = scene.nodens();
    let moved_to = own_address();
    let moved = scene.config("").replace(&scene.listen.to_string(), &moved_to.to_string());
    std::fs::write(old.config(), &moved).expect("writes");
    old.signal("HUP");
    old.logged("which need a restart: server.listen\"");
    let mut new = scene.nodens_with(&moved);
    new.logged("took over");
    old.logged("handed over");
    for nodens in [&old, &new] {
        send_signal(nodens.worker().expect("a worker"), "KILL");
    }
    old.logged("nodens on standby: another instance serves");
    new.logged("worker replaced");
    assert_eq!(data(&lookup(moved_to, "a.lab.example")), ["192.0.2.1"]);
    UdpSocket::bind(scene.listen).expect_err("the old one still has it");
    new.kill();
    old.logged("handover reverted");
    assert_eq!(data(&lookup(scene.listen, "a.lab.example")), ["192.0.2.1"]);
    UdpSocket::bind(moved_to).expect("nobody listens there");
}
