//! The supervisor replaces a dead worker, which gets the same sockets; with the built binary.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;

use hickory_proto::op::ResponseCode;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::addresses::own_address;
use crate::support::client::{A, code, data, id, lookup, query, receive, udp};
use crate::support::space::{can_run, inside, ip, put_in_place};
use crate::support::{
    Dir, Nodens, config, eventually, freeze, send_signal, serve, states, upstream, upstream_on, zone,
};

/// Kills the worker while the supervisor is stopped, and calls `meanwhile` while there is no worker.
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
    assert!(nodens.log().iter().any(|line| line.contains("worker died (signal 9, SIGKILL)")));
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
fn a_new_worker_keeps_the_configuration_in_force() {
    let upstream = upstream(zone());
    let mut nodens = Nodens::start(&config(&[&upstream], "", ""));
    let good = fs::read_to_string(nodens.config()).expect("reads");
    // A change that was applied belongs to the configuration in force.
    let record = "\n[[record]]\nname = \"mine.example\"\ntype = \"A\"\nvalue = \"192.0.2.7\"\n";
    fs::write(nodens.config(), good.clone() + record).expect("writes");
    nodens.signal("HUP");
    nodens.logged("new configuration applied");
    fs::write(nodens.config(), "[server\n").expect("writes");
    kill_worker(&nodens, || ());
    serves_again(&nodens, 1.0);
    assert_eq!(data(&lookup(nodens.address(), "mine.example")), ["192.0.2.7"]);
    nodens.logged("new configuration rejected");
    fs::write(nodens.config(), good).expect("writes");
    nodens.logged("new configuration applied");
    nodens.stop();
}

#[test]
fn hosts_files_changed_without_a_worker_are_reread() {
    let dir = Dir::new();
    let upstream = upstream(zone());
    let hosts = dir.write("a.hosts", "10.0.0.1 git.corp.example\n");
    let text = format!("{}[hosts]\nfiles = [\"{}\"]\n", config(&[&upstream], "", ""), hosts.display());
    let file = dir.write("nodens.toml", &text);
    let nodens = Nodens::spawn(serve().arg("--config").arg(&file), dir);
    let address = || data(&lookup(nodens.address(), "git.corp.example"));
    assert_eq!(address(), ["10.0.0.1"]);
    kill_worker(&nodens, || fs::write(&hosts, "10.0.0.3 git.corp.example\n").expect("writes"));
    serves_again(&nodens, 1.0);
    eventually("the changed address", || (address() == ["10.0.0.3"]).then_some(()));
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
    assert!(!lines.iter().any(|line| line.contains("worker died")), "{lines:?}");
}

#[test]
fn without_a_supervisor_there_is_one_process() {
    let upstream = upstream(zone());
    let dir = crate::support::Dir::new();
    let file = dir.write("nodens.toml", &config(&[&upstream], "", ""));
    let mut nodens = Nodens::spawn(serve().arg("--no-supervisor").arg("--config").arg(file), dir);
    assert_eq!(nodens.worker(), None);
    assert_eq!(code(&lookup(nodens.address(), "a.lab.example")), ResponseCode::NoError);
    nodens.stop();
}

#[test]
fn the_worker_is_nobodys_to_start() {
    let mut command = serve();
    command.arg("--worker").stdin(std::process::Stdio::null());
    let output = command.output().expect("nodens runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--worker is for the supervisor alone"));
}

/// Returns a configuration with a record whose value identifies it.
fn with_record(upstream: &LabUpstream, server: &str, value: &str, more: &str) -> String {
    let record = format!("[[record]]\nname = \"mine.example\"\ntype = \"A\"\nvalue = \"{value}\"\n");
    config(&[upstream], server, "") + &record + more
}

fn listen(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("listen = {addresses:?}")
}

/// Replaces the configuration file, reloads it, and waits for a log line that contains `what`.
fn reload(nodens: &Nodens, text: &str, what: &str) {
    let new = nodens.dir().write("new.toml", text);
    fs::rename(new, nodens.config()).expect("a swap");
    let before = nodens.log().len();
    nodens.signal("HUP");
    logged_after(nodens, before, what);
}

/// Waits for a matching line after the first `before` lines.
fn logged_after(nodens: &Nodens, before: usize, what: &str) -> String {
    eventually(what, || nodens.log().into_iter().skip(before).find(|line| line.contains(what)))
}

fn answers(nodens: &Nodens, value: &str) {
    assert_eq!(data(&lookup(nodens.address(), "mine.example")), [value]);
}

#[test]
fn a_successor_keeps_what_only_a_start_reads() {
    let upstream = upstream(zone());
    let (one, two) = (own_address(), own_address());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let busy = taken.local_addr().expect("an address");
    // Longer than one message between worker and supervisor.
    let long = "# a comment\n".repeat(20_000);
    let begun = with_record(&upstream, &listen(&[one]), "192.0.2.1", &long);
    let changes = [
        // Each change alone would keep a nodens that starts with it from serving, or move its addresses.
        ("server.listen", with_record(&upstream, &listen(&[two]), "192.0.2.2", "")),
        ("server.listen", with_record(&upstream, "listen = [\"203.0.113.7:53\"]", "192.0.2.3", &long)),
        ("admin.listen", begun.replace("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"{busy}\""))),
        ("report.listen", format!("{begun}[report]\nlisten = [\"{busy}\"]\n")),
        (
            "server.listen, node",
            with_record(&upstream, "listen = [\"169.254.77.7:53\"]", "192.0.2.4", "")
                + "[node]\naddresses = [\"169.254.77.7\"]\ninterface = \"nolink\"\nfirewall = \"none\"\n",
        ),
        ("server.workers, cache.memory", begun.replace("[admin]", "workers = 7\n[cache]\nmemory = \"3MiB\"\n[admin]")),
    ];
    for (keys, text) in &changes {
        let nodens = Nodens::start(&begun);
        let value = text.split("value = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a record");
        // The keys stay named as long as the file contains them.
        for _ in 0..2 {
            reload(&nodens, text, &format!("which need a restart: {keys}\""));
        }
        // Two deaths in a row.
        for restarts in [1.0, 2.0] {
            let before = nodens.log().len();
            kill_worker(&nodens, || ());
            serves_again(&nodens, restarts);
            answers(&nodens, value);
            logged_after(&nodens, before, &format!("wait for a restart: {keys}\""));
            assert!(lookup(one, "a.lab.example").len() > 12);
            UdpSocket::bind(two).expect("nobody listens there");
        }
        // The successor compares with the configuration that the first worker started with.
        reload(&nodens, text, &format!("which need a restart: {keys}\""));
        reload(&nodens, &begun, "new configuration applied\"");
        answers(&nodens, "192.0.2.1");
    }
}

#[test]
fn a_successor_needs_no_file() {
    let upstream = upstream(zone());
    let (one, two) = (own_address(), own_address());
    let dir = Dir::new();
    let file = dir.write("nodens.toml", &with_record(&upstream, &listen(&[one]), "192.0.2.1", ""));
    let argument = own_address();
    let nodens = Nodens::spawn(serve().arg("--config").arg(&file).args(["--listen", &argument.to_string()]), dir);
    reload(&nodens, &with_record(&upstream, &listen(&[two]), "192.0.2.2", ""), "which need a restart");
    for round in [1.0, 2.0] {
        kill_worker(&nodens, || {
            let _ = fs::remove_file(&file);
        });
        serves_again(&nodens, round);
        for address in [one, argument] {
            assert_eq!(data(&lookup(address, "mine.example")), ["192.0.2.2"]);
        }
        UdpSocket::bind(two).expect("nobody listens there");
    }
}

#[test]
fn a_partial_message_to_the_supervisor_is_ignored() {
    let upstream = upstream(zone());
    // More than the channel to the supervisor can buffer.
    let long = "# a comment\n".repeat(100_000);
    let nodens = Nodens::start(&with_record(&upstream, "", "192.0.2.1", &long));
    freeze(nodens.id());
    fs::write(nodens.config(), with_record(&upstream, "", "192.0.2.2", &long)).expect("writes");
    logged_after(&nodens, 0, "cannot send to the supervisor");
    logged_after(&nodens, 0, "new configuration applied");
    nodens.signal("CONT");
    reload(&nodens, &with_record(&upstream, "", "192.0.2.3", &long), "new configuration applied");
    kill_worker(&nodens, || ());
    serves_again(&nodens, 1.0);
    answers(&nodens, "192.0.2.3");
    assert!(!nodens.log().iter().any(|line| line.contains("before it served")));
}

/// Sets the soft limit on file descriptors of a process; returns the previous one.
fn limit_descriptors(process: u32, soft: Option<u64>) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).expect("its limits");
    let hard = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    let hard = hard.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    prlimit(process, Resource::Nofile, Rlimit { current: soft, maximum: hard }).expect("a limit").current
}

#[test]
fn it_is_tried_again_while_no_worker_can_be_started() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    // The second worker gets the sockets of the first, which the supervisor holds.
    kill_worker(&nodens, || ());
    serves_again(&nodens, 1.0);
    let before = limit_descriptors(nodens.id(), Some(3));
    kill_worker(&nodens, || ());
    for _ in 0..2 {
        logged_after(&nodens, nodens.log().len(), "cannot start a worker");
    }
    limit_descriptors(nodens.id(), before);
    serves_again(&nodens, 2.0);
    lookup(nodens.address(), "a.lab.example");
}

#[test]
fn missing_sockets_replace_none_that_are_held() {
    let upstream = upstream(zone());
    let mut nodens = Nodens::start(&config(&[&upstream], "", ""));
    kill_worker(&nodens, || ());
    serves_again(&nodens, 1.0);
    let before = limit_descriptors(nodens.id(), Some(3));
    // With a new configuration, the supervisor gets all sockets again.
    let record = "\n[[record]]\nname = \"mine.example\"\ntype = \"A\"\nvalue = \"192.0.2.7\"\n";
    let good = fs::read_to_string(nodens.config()).expect("reads");
    fs::write(nodens.config(), good + record).expect("writes");
    nodens.signal("HUP");
    nodens.logged("no file descriptor left for the worker's sockets");
    limit_descriptors(nodens.id(), before);
    kill_worker(&nodens, || ());
    serves_again(&nodens, 2.0);
    assert_eq!(data(&lookup(nodens.address(), "mine.example")), ["192.0.2.7"]);
}

#[test]
fn a_death_while_a_file_is_rejected_changes_nothing() {
    let upstream = upstream(zone());
    let one = own_address();
    let nodens = Nodens::start(&with_record(&upstream, &listen(&[one]), "192.0.2.1", ""));
    reload(&nodens, &with_record(&upstream, &listen(&[own_address()]), "192.0.2.2", ""), "which need a restart");
    reload(&nodens, "[server\n", "new configuration rejected");
    kill_worker(&nodens, || ());
    serves_again(&nodens, 1.0);
    answers(&nodens, "192.0.2.2");
}

#[test]
fn without_a_file_a_successor_keeps_the_servers() {
    inside("supervisor::without_a_file_a_successor_keeps_the_servers", &[], || {
        let dir = Dir::new();
        let resolv = dir.write("resolv.conf", "nameserver 127.0.0.2\n");
        put_in_place(&resolv, "/etc/resolv.conf");
        let zone = |value: &str| LabZone::new("lab.example.").record(&format!("*.lab.example. 1 A {value}"));
        let _upstreams = [
            upstream_on(([127, 0, 0, 2], 53).into(), zone("192.0.2.2")),
            upstream_on(([127, 0, 0, 3], 53).into(), zone("192.0.2.3")),
        ];
        let nodens = Nodens::spawn(&mut serve(), dir);
        fs::write(&resolv, "nameserver 127.0.0.3\n").expect("writes");
        kill_worker(&nodens, || ());
        serves_again(&nodens, 1.0);
        assert_eq!(data(&lookup(nodens.address(), "a.lab.example")), ["192.0.2.2"]);
        fs::write(&resolv, "").expect("writes");
        kill_worker(&nodens, || ());
        serves_again(&nodens, 2.0);
        assert_eq!(data(&lookup(nodens.address(), "b.lab.example")), ["192.0.2.2"]);
        // A signal sent while there is no worker reaches the successor.
        kill_worker(&nodens, || {
            fs::write(&resolv, "nameserver 127.0.0.3\n").expect("writes");
            nodens.signal("HUP");
        });
        serves_again(&nodens, 3.0);
        nodens.metric_becomes("nodens_config_reloads_total", &[("result", "applied")], |count| count == 1.0);
        assert_eq!(data(&lookup(nodens.address(), "c.lab.example")), ["192.0.2.3"]);
    });
}

/// Calls `body` with a nodens whose `[node]` link is gone: a successor cannot start with the previous configuration.
fn without_its_link(body: impl FnOnce(&Nodens, &str, &Dir)) {
    ip("link add lab type bridge");
    let upstream = upstream(zone());
    let node = "[node]\naddresses = [\"169.254.77.7\"]\ninterface = \"lab\"\nfirewall = \"none\"\n";
    let dir = Dir::new();
    let more = format!("{node}[handover]\nsocket = {:?}\n", dir.file("run/handover.sock"));
    let text = with_record(&upstream, "listen = [\"127.0.0.1:5300\", \"169.254.77.7:5300\"]", "192.0.2.1", &more);
    let nodens = Nodens::start(&text);
    ip("link del lab");
    kill_worker(&nodens, || ());
    body(&nodens, &text, &dir);
}

#[test]
fn a_repaired_file_lets_successors_start() {
    inside("supervisor::a_repaired_file_lets_successors_start", &[], || {
        without_its_link(|nodens, text, dir| {
            // An invalid file neither helps nor hinders.
            logged_after(nodens, 0, "the next one starts with the configuration file");
            fs::write(nodens.config(), "[server\n").expect("writes");
            logged_after(nodens, 0, "nodens.toml:1:");
            logged_after(nodens, 0, "the configuration file is invalid");
            let repaired = text.replace("\"lab\"", "\"lo\"").replace("192.0.2.1", "192.0.2.9");
            let repaired = repaired.replace("run/handover.sock", "run/other.sock");
            let new = nodens.dir().write("new.toml", &repaired);
            fs::rename(new, nodens.config()).expect("a swap");
            nodens.metric_becomes("nodens_worker_restarts_total", &[], |count| count > 1.0);
            logged_after(nodens, 0, "starting with the configuration file");
            answers(nodens, "192.0.2.9");
            eventually("the other socket", || dir.file("run/other.sock").exists().then_some(()));
            logged_after(nodens, 0, "worker replaced");
            // From here on this is the configuration in force.
            let count = nodens.metric("nodens_worker_restarts_total", &[]);
            kill_worker(nodens, || ());
            serves_again(nodens, count + 1.0);
            answers(nodens, "192.0.2.9");
        });
    });
}

#[test]
fn an_unusable_file_does_not_block_other_starts() {
    inside("supervisor::an_unusable_file_does_not_block_other_starts", &[], || {
        without_its_link(|nodens, text, _| {
            let away = text.replace("169.254.77.7", "203.0.113.7");
            let away = away.split("[node]").next().expect("a text");
            let new = nodens.dir().write("new.toml", away);
            fs::rename(new, nodens.config()).expect("a swap");
            logged_after(nodens, 0, "cannot listen on 203.0.113.7:5300");
            // The previous configuration can be started again.
            ip("link add lab type bridge");
            nodens.metric_becomes("nodens_worker_restarts_total", &[], |count| count > 1.0);
            answers(nodens, "192.0.2.1");
        });
    });
}

#[test]
fn signals_without_a_meaning_change_nothing() {
    let upstream = upstream(zone());
    let mut nodens = Nodens::start(&config(&[&upstream], "", ""));
    let worker = nodens.worker().expect("a worker");
    for signal in ["USR1", "USR2"] {
        nodens.signal(signal);
        send_signal(worker, signal);
    }
    // The reload shows that the signals before it have been handled.
    nodens.signal("HUP");
    nodens.logged("new configuration applied");
    assert_eq!(nodens.worker(), Some(worker));
    assert_eq!(code(&lookup(nodens.address(), "a.lab.example")), ResponseCode::NoError);
}

#[test]
fn as_pid_1_it_reaps_what_others_leave() {
    if !can_run(true, &["unshare", "nsenter", "sh"]) {
        return;
    }
    let upstream = upstream(zone());
    let dir = Dir::new();
    let file = dir.write("nodens.toml", &config(&[&upstream], "", ""));
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        env!("CARGO_BIN_EXE_nodens"),
        "serve",
        "--log",
        "json",
        "--config",
    ]);
    let nodens = Nodens::spawn(command.arg(file), dir);
    let children = |process: u32| {
        let text = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).expect("a process");
        text.split_whitespace().map(|child| child.parse().expect("a number")).collect::<Vec<u32>>()
    };
    let supervisor = children(nodens.id())[0];
    for _ in 0..3 {
        // The shell ends before its child, which then is a child of PID 1.
        let orphan = ["--pid", "--target", &supervisor.to_string(), "sh", "-c", "sleep 0.1 & sleep 0.2 &"];
        assert!(Command::new("nsenter").args(orphan).status().expect("nsenter runs").success());
    }
    eventually("the end of all orphans", || (children(supervisor).len() == 1).then_some(()));
    assert_eq!(code(&lookup(nodens.address(), "a.lab.example")), ResponseCode::NoError);
}
