//! The life of a process: signals, new configurations, exit.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::addresses::own_address;
use crate::support::client::{A, Tcp, code, data, id, lookup, query, receive, udp};
use crate::support::space::can_run;
use crate::support::{DEADLINE, Dir, Nodens, config, eventually, field, send_signal, serve, upstream, zone};
use hickory_proto::op::ResponseCode;
use nodens::lab::fault::Behaviour;
use nodens::lab::zone::LabZone;

/// Queries in flight, over UDP and over one TCP connection each.
struct Asked {
    datagrams: Vec<UdpSocket>,
    connections: Vec<Tcp>,
}

impl Asked {
    /// Asks for `count` names over each transport.
    fn new(server: SocketAddr, count: u16) -> Self {
        let ask_udp = |n| {
            let socket = udp(server);
            socket.send(&query(n, &format!("udp-{n}.lab.example"), A)).expect("sends");
            socket
        };
        let ask_tcp = |n| {
            let mut tcp = Tcp::connect(server);
            tcp.send(&query(n, &format!("tcp-{n}.lab.example"), A));
            tcp
        };
        Self { datagrams: (0..count).map(ask_udp).collect(), connections: (0..count).map(ask_tcp).collect() }
    }

    /// Checks that each query is answered, and each connection then closed.
    fn are_answered(self) {
        for (n, socket) in (0..).zip(&self.datagrams) {
            let response = receive(socket);
            assert_eq!((id(&response), data(&response)), (n, vec!["192.0.2.1".to_owned()]));
        }
        for (n, mut tcp) in (0..).zip(self.connections) {
            let response = tcp.receive();
            assert_eq!((id(&response), data(&response)), (n, vec!["192.0.2.1".to_owned()]));
            assert_eq!(tcp.next(), None);
        }
    }
}

#[test]
fn what_is_in_flight_at_a_signal_is_answered() {
    for signal in ["TERM", "INT"] {
        let upstream = upstream(zone());
        upstream.set_latency(Duration::from_millis(700));
        let mut nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"20s\""));
        let asked = Asked::new(nodens.address(), 20);
        eventually("the upstream to be asked", || {
            let seen = upstream.seen();
            let has = |name: String| seen.iter().any(|seen| seen.is_named(&name));
            (0..20).all(|n| has(format!("udp-{n}.lab.example.")) && has(format!("tcp-{n}.lab.example."))).then_some(())
        });
        nodens.signal(signal);
        asked.are_answered();
        assert_eq!(nodens.exit().code(), Some(0));
        assert!(nodens.logged("nodens stopped").contains("\"unanswered\":0"));
    }
}

#[test]
fn what_has_arrived_at_a_signal_is_answered() {
    let upstream = upstream(zone());
    let mut nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"20s\""));
    // Half of the names that are asked for over UDP are cached.
    (0..20).for_each(|n| drop(lookup(nodens.address(), &format!("udp-{n}.lab.example"))));
    let worker = nodens.freeze();
    let asked = Asked::new(nodens.address(), 40);
    nodens.signal("TERM");
    send_signal(worker, "CONT");
    asked.are_answered();
    assert_eq!(nodens.exit().code(), Some(0));
    assert!(nodens.logged("nodens stopped").contains("\"unanswered\":0"));
}

#[test]
fn a_silent_upstream_does_not_delay_the_exit() {
    let upstream = upstream(zone());
    upstream.set(Behaviour::silent());
    let mut nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"30s\""));
    let socket = udp(nodens.address());
    socket.send(&query(1, "a.lab.example", A)).expect("sends");
    nodens.metric_becomes("nodens_pending_queries", &[], |pending| pending == 1.0);
    nodens.stop();
    assert!(nodens.logged("nodens stopped").contains("\"unanswered\":1"));
}

#[test]
fn a_signal_as_early_as_it_can_come_ends_it_with_0() {
    let upstream = upstream(zone());
    for _ in 0..10 {
        let mut nodens = Nodens::start(&config(&[&upstream], "", ""));
        nodens.stop();
    }
}

#[test]
fn a_reload_under_load_loses_no_query() {
    let (old, new) = (upstream(zone()), upstream(another_zone()));
    let mut nodens = Nodens::start(&config(&[&old], "", "deadline = \"20s\""));
    let (address, done) = (nodens.address(), AtomicBool::new(false));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                scope.spawn({
                    let done = &done;
                    move || ask_until(done, address, client)
                })
            })
            .collect();
        eventually("load", || (old.seen_count() > 100).then_some(()));
        replace(&nodens, &config(&[&new], "", "deadline = \"20s\""));
        nodens.signal("HUP");
        nodens.logged("new configuration applied");
        assert_eq!(data(&lookup(address, "now.lab.example")), ["192.0.2.2"]);
        let before = new.seen_count();
        eventually("load on the new one", || (new.seen_count() > before + 100).then_some(()));
        done.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("all its queries are answered"));
    });
    assert!(nodens.metric("nodens_config_reloads_total", &[("result", "applied")]) >= 1.0);
    assert_eq!(nodens.metric("nodens_config_reloads_total", &[("result", "rejected")]), 0.0);
}

/// Asks for new names until `done`. After the first answer from the new upstream, all must come from it.
fn ask_until(done: &AtomicBool, server: SocketAddr, client: usize) {
    let (socket, mut taken) = (udp(server), false);
    for n in 0_u16.. {
        socket.send(&query(n, &format!("{client}-{n}.lab.example"), A)).expect("sends");
        let response = receive(&socket);
        assert_eq!((id(&response), code(&response)), (n, ResponseCode::NoError));
        let new = data(&response) == ["192.0.2.2"];
        assert!(new || !taken, "the old configuration answers after the new one");
        taken |= new;
        if done.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[test]
fn a_service_manager_is_told_of_start_life_and_stop() {
    let upstream = upstream(zone());
    for arguments in [&["--no-supervisor"][..], &[]] {
        let dir = Dir::new();
        let manager = UnixDatagram::bind(dir.file("notify.sock")).expect("binds");
        manager.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let hears = |wanted: &str| {
            let mut bytes = [0; 512];
            loop {
                let len = manager.recv(&mut bytes).expect(wanted);
                let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
                if text.trim_end() == wanted {
                    return;
                }
                assert_eq!(text.trim_end(), "WATCHDOG=1", "instead of {wanted}");
            }
        };
        let file = dir.write("nodens.toml", &config(&[&upstream], "", ""));
        let mut serve = serve();
        serve.args(arguments).arg("--config").arg(&file);
        serve.env("NOTIFY_SOCKET", dir.file("notify.sock")).env("WATCHDOG_USEC", "30000");
        let mut nodens = Nodens::spawn(&mut serve, dir);
        hears("READY=1");
        hears("WATCHDOG=1");
        nodens.signal("TERM");
        hears("STOPPING=1");
        assert_eq!(nodens.exit().code(), Some(0));
    }
}

#[test]
fn a_container_is_ready_once_its_own_nodens_serves() {
    if !can_run(true, &["unshare"]) {
        return;
    }
    let upstream = upstream(zone());
    let dir = Dir::new();
    let file = dir.write("nodens.toml", &config(&[&upstream], "", ""));
    // A PID namespace, as that of a container. Many other nodens run outside.
    let script = format!(
        "{nodens} ready; echo $?; {nodens} serve --config {file} 2>/dev/null & pid=$!; \
         until {nodens} ready 2>/dev/null; do sleep 0.05; done; kill $pid; wait $pid; echo $?; {nodens} ready; echo $?",
        nodens = env!("CARGO_BIN_EXE_nodens"),
        file = file.display()
    );
    let mut command = Command::new("timeout");
    command.args(["120", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script]);
    let output = command.output().expect("unshare runs");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "1\nready\n0\n1\n", "{errors}");
    assert!(errors.starts_with("nodens: no nodens of this PID namespace has started\n"), "{errors}");
}

#[test]
fn changed_files_and_swapped_links_are_reloaded() {
    let (old, new) = (upstream(zone()), upstream(another_zone()));
    let dir = Dir::new();
    // As kubelet mounts a ConfigMap: the file is a link through a link, which is swapped.
    for (version, upstream) in [("v1", &old), ("v2", &new)] {
        fs::create_dir(dir.file(version)).expect("a directory");
        dir.write(&format!("{version}/nodens.toml"), &config(&[upstream], "", ""));
    }
    symlink("v1", dir.file("..data")).expect("a link");
    symlink("..data/nodens.toml", dir.file("nodens.toml")).expect("a link");
    let mut nodens = Nodens::spawn(serve().arg("--config").arg(dir.file("nodens.toml")), dir);
    assert_eq!(data(&lookup(nodens.address(), "a.lab.example")), ["192.0.2.1"]);

    symlink("v2", nodens.dir().file("..data_tmp")).expect("a link");
    fs::rename(nodens.dir().file("..data_tmp"), nodens.dir().file("..data")).expect("a swap");
    nodens.logged("new configuration applied");
    assert_eq!(data(&lookup(nodens.address(), "a.lab.example")), ["192.0.2.2"]);

    let file = nodens.dir().file("v2/nodens.toml");
    fs::write(file, config(&[&old], "", "")).expect("writes");
    nodens.metric_becomes("nodens_config_reloads_total", &[("result", "applied")], |taken| taken == 2.0);
    assert_eq!(data(&lookup(nodens.address(), "b.lab.example")), ["192.0.2.1"]);
}

#[test]
fn a_bad_file_changes_nothing_and_is_explained() {
    let upstream = upstream(zone());
    let good = config(&[&upstream], "", "");
    let mut nodens = Nodens::start(&good);
    let reloads = |nodens: &Nodens| {
        ["applied", "rejected"].map(|result| nodens.metric("nodens_config_reloads_total", &[("result", result)]))
    };
    assert_eq!(reloads(&nodens), [0.0, 0.0]);

    replace(&nodens, &good.replace("to = \"up\"", "to = \"upp\"\nspeed = 5"));
    let line = nodens.logged("there is no [upstreams.upp]");
    assert_eq!(field(&line, "level"), "ERROR");
    let place = format!("the current one stays in force: {}:11:6: to: ", nodens.config().display());
    assert!(field(&line, "message").contains(&place), "{line}");
    nodens.logged(":12:1: unknown key `speed`");
    assert_eq!(reloads(&nodens), [0.0, 1.0]);
    assert_eq!(data(&lookup(nodens.address(), "a.lab.example")), ["192.0.2.1"]);

    // While the file is missing, there is nothing to apply; on SIGHUP, nodens logs that.
    fs::remove_file(nodens.config()).expect("it is there");
    nodens.signal("HUP");
    nodens.logged("cannot read");
    assert_eq!(reloads(&nodens), [0.0, 2.0]);
    assert_eq!(data(&lookup(nodens.address(), "b.lab.example")), ["192.0.2.1"]);

    replace(&nodens, &good);
    nodens.logged("new configuration applied");
    assert_eq!(reloads(&nodens), [1.0, 2.0]);
    nodens.signal("HUP");
    nodens.metric_becomes("nodens_config_reloads_total", &[("result", "applied")], |taken| taken == 2.0);
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let upstream = upstream(zone());
    let good = config(&[&upstream], "", "");
    let mut nodens = Nodens::start(&good);
    let server = "listen = [\"127.0.0.3:0\"]\nworkers = 7";
    let admin = "[admin]\nlisten = \"127.0.0.3:0\"\n[report]\nlisten = [\"127.0.0.3:0\"]\n[warm_up]\nfile = \"/nowhere/file\"\n[cache]\nmemory = \"3MiB\"";
    let text = config(&[&upstream], server, "").replace("[admin]\nlisten = \"127.0.0.1:0\"", admin);
    replace(&nodens, &text);
    let line = nodens.logged("which need a restart");
    assert_eq!(field(&line, "level"), "WARN");
    let keys = ": server.listen, server.workers, admin.listen, report.listen, cache.memory, warm_up.file";
    assert!(field(&line, "message").ends_with(keys), "{line}");
    assert_eq!(data(&lookup(nodens.address(), "a.lab.example")), ["192.0.2.1"]);
}

/// Replaces the configuration file atomically.
fn replace(nodens: &Nodens, text: &str) {
    let new = nodens.dir().write("new.toml", text);
    fs::rename(new, nodens.config()).expect("a swap");
}

fn another_zone() -> LabZone {
    LabZone::new("lab.example.").record("*.lab.example. 300 A 192.0.2.2")
}

#[test]
fn arguments_set_node_specific_addresses() {
    let upstream = upstream(zone());
    let (one, two) = (own_address(), own_address());
    let dir = Dir::new();
    let file = dir.write("nodens.toml", &config(&[&upstream], "", ""));
    let listen = format!("{one},{two}");
    let mut nodens = Nodens::spawn(serve().arg("--config").arg(file).args(["--listen", &listen]), dir);
    let text: Vec<_> = nodens.listen[1..].iter().map(ToString::to_string).collect();
    assert_eq!(text.join(","), listen);
    for address in nodens.listen.clone() {
        lookup(address, "a.lab.example");
    }
    nodens.signal("HUP");
    assert!(!nodens.logged("new configuration applied").contains("need a restart"));
}

/// Queries that arrive all the time are not waited for.
#[test]
fn a_flood_does_not_hold_up_the_end() {
    let upstream = upstream(zone());
    let dir = Dir::new();
    let file = dir.write("nodens.toml", &config(&[&upstream], "workers = 1", ""));
    let mut nodens = Nodens::spawn(serve().arg("--config").arg(file), dir);
    let (server, stop) = (nodens.address(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let (socket, query) = (udp(server), query(1, "localhost", A));
                while !stop.load(Ordering::Relaxed) {
                    // The kernel refuses this once nodens no longer listens.
                    let _ = socket.send(&query);
                }
            });
        }
        lookup(server, "a.lab.example");
        nodens.signal("TERM");
        let status = nodens.exit();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(status.code(), Some(0));
    });
}
