//! A machine that runs out of file descriptors or ports: nodens blames no server, and recovers.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use crate::addresses::own_address;
use crate::support::client::{
    A, EXTENDED_ERROR, Tcp, code, data, extended_error, lookup, option, query, query_with_option, receive, udp,
};
use crate::support::space::{can_run, inside};
use crate::support::{DEADLINE, Dir, Nodens, config, eventually, serve, upstream, upstream_on, zone};
use hickory_proto::op::ResponseCode;
use nodens::lab::fault::Behaviour;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use socket2::{Domain, SockRef, Socket, Type};

/// Deadline of upstreams: on a busy machine a correct answer may take long.
const PATIENT: &str = "deadline = \"20s\"";
const ORDERED: &str = "select = \"ordered\"\ndeadline = \"20s\"";
const SPREAD: &str = "select = \"spread\"\ndeadline = \"20s\"";
/// Datagrams in flight at once.
const BURST: usize = 100;

/// Starts nodens with these limits on open files.
fn start_within(soft: u32, hard: u32, config: &str) -> Nodens {
    let (dir, program) = (Dir::new(), serve());
    let file = dir.write("nodens.toml", config);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"")]);
    command.arg(program.get_program()).args(program.get_args()).arg("--config").arg(file).env_remove("NODENS_LOG");
    Nodens::spawn(&mut command, dir)
}

/// Limit at which all open files stay open and nothing else can be opened. It is the least that the kernel reports as
/// used up: duplicates begin at descriptor 3, and a limit below that is an invalid argument (EINVAL).
const NOTHING_MORE: u32 = 4;

/// Returns the number of open file descriptors of the worker process.
fn open_files(nodens: &Nodens) -> usize {
    let worker = nodens.worker().expect("a worker");
    fs::read_dir(format!("/proc/{worker}/fd")).expect("a process").count()
}

/// Sets the soft limit on open files of the worker process.
fn set_limit(nodens: &Nodens, limit: u32) {
    let worker = nodens.worker().expect("a worker").to_string();
    let status = Command::new("prlimit").args(["--pid", &worker, &format!("--nofile={limit}:")]).status();
    assert!(status.expect("prlimit runs").success());
}

/// Returns the number of UDP sockets of all processes that are connected to this IPv4 address.
fn sockets_to(address: SocketAddr) -> usize {
    let IpAddr::V4(ip) = address.ip() else { panic!("{address} is no address of IPv4") };
    let peer = format!("{:08X}:{:04X}", u32::from(ip).swap_bytes(), address.port());
    let table = fs::read_to_string("/proc/net/udp").expect("a table");
    table.lines().filter(|line| line.split_whitespace().nth(2) == Some(&peer)).count()
}

/// Asks for `count` new names from many ports at once; returns the number of answers.
fn answered(server: SocketAddr, what: &str, count: usize) -> usize {
    let names: Vec<_> = (0..count).map(|n| format!("{what}-{n}.lab.example")).collect();
    let ask = |burst: &[String]| {
        let send = |name: &String| {
            let socket = udp(server);
            socket.send(&query(7, name, A)).expect("sends");
            socket
        };
        let sockets: Vec<_> = burst.iter().map(send).collect();
        sockets.iter().filter(|socket| code(&receive(socket)) == ResponseCode::NoError).count()
    };
    names.chunks(BURST).map(ask).sum()
}

/// Checks that servers were blamed for silence only, which a busy machine may cause, and that all are healthy in the
/// end.
fn no_server_was_blamed(nodens: &Nodens, servers: usize) {
    nodens.metric_becomes("nodens_upstream_healthy", &[], |healthy| healthy == servers as f64);
    for kind in ["network", "connection_refused"] {
        assert_eq!(nodens.metric("nodens_upstream_failures_total", &[("kind", kind)]), 0.0, "{kind}");
    }
    for down in nodens.log().iter().filter(|line| line.contains("upstream server ejected")) {
        assert!(down.contains("no response, no response, no response\""), "{down}");
    }
}

/// Connects to a server from this client address.
fn connect_from(client: Ipv4Addr, server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(client.into(), 0).into()).expect("an own address");
    socket.connect(&server.into()).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let upstream = upstream(zone());
    let nodens = start_within(256, 8_192, &config(&[&upstream], "workers = 2", PATIENT));
    assert_eq!(nodens.metric("process_max_fds", &[]), 8_192.0);
    assert!(!nodens.log().iter().any(|line| line.contains("RLIMIT_NOFILE")), "{:?}", nodens.log());
}

#[test]
fn upstream_ports_are_limited_and_close_when_idle() {
    let upstreams = [upstream(zone()), upstream(zone()), upstream(zone())];
    let servers = upstreams.each_ref();
    // 4 workers x 3 servers x 64 ports would be 768.
    let mut nodens = start_within(256, 256, &config(&servers, "workers = 4", SPREAD));
    assert!(nodens.logged("RLIMIT_NOFILE").contains("\"limit\":256"));
    let at_start = open_files(&nodens);
    let mut most = 0;
    for round in 0..24 {
        assert_eq!(answered(nodens.address(), &format!("round-{round}"), BURST), BURST, "round {round}");
        assert_eq!(nodens.get("/healthz").status, 200);
        most = most.max(open_files(&nodens));
    }
    assert!(most > at_start + 12 && most < 240, "{at_start} {most}");
    no_server_was_blamed(&nodens, 3);
    assert_eq!(nodens.metric("nodens_local_faults_total", &[]), 0.0);
    let open = || upstreams.iter().map(|upstream| sockets_to(upstream.address())).sum::<usize>();
    // An upstream in use is probed from time to time, over one port.
    eventually("idle ports to close", || (open() <= 6).then_some(()));
    assert_eq!(nodens.log().iter().filter(|line| line.contains("RLIMIT_NOFILE")).count(), 1);
}

#[test]
fn idle_client_connections_leave_descriptors_free() {
    let upstream = upstream(zone());
    let nodens = start_within(256, 256, &config(&[&upstream], "workers = 2", PATIENT));
    // All are within the configured limits: 1,024 in total, 64 of one client.
    let crowd: Vec<_> = (1..=10)
        .flat_map(|client| (0..60).map(move |_| Ipv4Addr::new(127, 9, 0, client)))
        .map(|client| connect_from(client, nodens.address()))
        .collect();
    nodens.metric_becomes("nodens_tcp_connections_rejected_total", &[], |rejected| rejected > 300.0);
    assert!(nodens.metric("nodens_tcp_connections", &[]) > 20.0);
    assert_eq!(nodens.get("/healthz").status, 200);
    assert_eq!(answered(nodens.address(), "beside", 300), 300);
    assert!(open_files(&nodens) < 250, "{}", open_files(&nodens));
    no_server_was_blamed(&nodens, 1);
    assert_eq!(nodens.metric("nodens_local_faults_total", &[]), 0.0);

    drop(crowd);
    nodens.metric_becomes("nodens_tcp_connections", &[], |open| open == 0.0);
    let mut tcp = Tcp::connect(nodens.address());
    assert_eq!(data(&tcp.ask(&query(1, "after.lab.example", A))), ["192.0.2.1"]);
}

#[test]
fn one_client_does_not_take_the_connections_of_all() {
    let upstream = upstream(zone());
    let nodens = start_within(256, 256, &config(&[&upstream], "workers = 2", PATIENT));
    let _crowd: Vec<_> = (0..64).map(|_| connect_from(Ipv4Addr::new(127, 9, 0, 1), nodens.address())).collect();
    nodens.metric_becomes("nodens_tcp_connections_rejected_total", &[], |rejected| rejected > 40.0);
    let mut other = Tcp(connect_from(Ipv4Addr::new(127, 9, 0, 2), nodens.address()));
    assert_eq!(data(&other.ask(&query(1, "a.lab.example", A))), ["192.0.2.1"]);
}

#[test]
fn without_descriptors_queries_fail_with_a_reason() {
    if !can_run(false, &["prlimit"]) {
        return;
    }
    let upstream = upstream(zone());
    let mut nodens = Nodens::start(&config(&[&upstream], "workers = 1", PATIENT));
    let ask = |nodens: &Nodens, name: &str| {
        let socket = udp(nodens.address());
        socket.send(&query_with_option(7, name, EXTENDED_ERROR)).expect("sends");
        receive(&socket)
    };
    // Open descriptors stay open, that of a late first probe too; nothing new can be opened.
    eventually("the end of the first probe", || (sockets_to(upstream.address()) == 0).then_some(()));
    set_limit(&nodens, NOTHING_MORE);
    for n in 0..50 {
        let response = ask(&nodens, &format!("{n}.lab.example"));
        assert_eq!(code(&response), ResponseCode::ServFail);
        let error = option(&response, EXTENDED_ERROR).expect("an extended error");
        let text = String::from_utf8_lossy(&error[2..]).into_owned();
        assert!(error.starts_with(&[0, 0]) && text.contains("no file descriptor left"), "{text}");
    }
    set_limit(&nodens, 4_096);
    // The same names again: a local fault is not cached as a failure of the name.
    for n in 0..50 {
        assert_eq!(code(&ask(&nodens, &format!("{n}.lab.example"))), ResponseCode::NoError, "{n}");
    }
    no_server_was_blamed(&nodens, 1);
    let metrics = nodens.metrics();
    assert!(metrics.sum("nodens_local_faults_total", &[("cause", "descriptors")]) >= 50.0);
    assert!(metrics.sum("nodens_upstream_failures_total", &[("kind", "local")]) >= 50.0);
    nodens.logged("local fault cleared");
    let told = nodens.log().iter().filter(|line| line.contains("local fault: ")).count();
    assert_eq!(told, 1, "once for all of them");
}

#[test]
fn open_ports_keep_serving_without_new_ones() {
    if !can_run(false, &["prlimit"]) {
        return;
    }
    let upstream = upstream(zone());
    let mut nodens = Nodens::start(&config(&[&upstream], "workers = 1", PATIENT));
    assert_eq!(answered(nodens.address(), "before", 4), 4);
    assert!((1..60).contains(&sockets_to(upstream.address())));
    set_limit(&nodens, NOTHING_MORE);
    // More queries than a port serves before it is renewed.
    assert_eq!(answered(nodens.address(), "meanwhile", 3_000), 3_000);
    // A new connection waits, and is served once a descriptor is free again.
    let waits = TcpStream::connect(nodens.address()).expect("the kernel's backlog");
    waits.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    nodens.logged("local fault: ");
    set_limit(&nodens, 4_096);
    assert_eq!(data(&Tcp(waits).ask(&query(1, "after.lab.example", A))), ["192.0.2.1"]);
    no_server_was_blamed(&nodens, 1);
}

#[test]
fn sockets_to_former_addresses_are_closed() {
    let servers: Vec<LabUpstream> = (0..2).map(|_| upstream_on(own_address(), zone())).collect();
    let addresses: Vec<_> = servers.iter().map(LabUpstream::address).collect();
    let names = |address: SocketAddr| {
        LabZone::new("infra.example.").record(&format!("resolver.infra.example. 1 A {}", address.ip()))
    };
    let bootstrap = upstream(names(addresses[0]));
    let mut nodens = Nodens::start(&format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 2\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [bootstrap]\nservers = [\"{}\"]\n[upstreams.up]\nservers = [\"resolver.infra.example:{}\"]\ndeadline = \"20s\"\n\
         [[route]]\nzones = [\".\"]\nto = \"up\"\n",
        bootstrap.address(),
        addresses[0].port()
    ));
    nodens.logged("upstream server address added");
    assert_eq!(answered(nodens.address(), "one", 400), 400);
    assert!(sockets_to(addresses[0]) > 50, "{}", sockets_to(addresses[0]));
    bootstrap.set_zone(names(addresses[1])).expect("a zone");
    nodens.logged("upstream server address removed");
    // Queries continue, otherwise the worker would close its ports for lack of traffic.
    let mut round = 0;
    eventually("sockets to the old address to close", || {
        round += 1;
        assert_eq!(answered(nodens.address(), &format!("two-{round}"), 100), 100);
        (sockets_to(addresses[0]) == 0).then_some(())
    });
    assert!(sockets_to(addresses[1]) > 0);
}

#[test]
fn without_a_local_port_left_no_server_is_blamed() {
    inside("abuse_descriptors::without_a_local_port_left_no_server_is_blamed", &[], || {
        let (full, other) = (upstream(zone()), upstream(zone()));
        // Each answer takes a TCP connection.
        full.set(Behaviour::truncated());
        let group = format!("[upstreams.other]\nservers = [\"{}\"]\n", other.address());
        let route = "[[route]]\nzones = [\"other.example\"]\nto = \"other\"\n";
        let nodens = Nodens::start(&format!("{}{group}{route}", config(&[&full], "workers = 1", PATIENT)));
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 20015").expect("a range");
        let mut taken = Vec::new();
        while let Ok(stream) = TcpStream::connect(full.address()) {
            SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).expect("an option");
            taken.push(stream);
            assert!(taken.len() <= 16);
        }
        let ask = |name: &str| {
            let socket = udp(nodens.address());
            socket.send(&query_with_option(7, name, EXTENDED_ERROR)).expect("sends");
            receive(&socket)
        };
        for n in 0..20 {
            let response = ask(&format!("{n}.lab.example"));
            assert_eq!(code(&response), ResponseCode::ServFail);
            let text = extended_error(&response);
            assert!(text.contains("no local port left"), "{text}");
        }
        no_server_was_blamed(&nodens, 2);
        assert!(nodens.metric("nodens_local_faults_total", &[("cause", "ports")]) >= 20.0);
        // The connections are reset, so none of their ports stays in use.
        drop(taken);
        for n in 0..20 {
            let response = ask(&format!("{n}.lab.example"));
            let well = code(&response) == ResponseCode::NoError;
            assert!(well, "{n}: {}", extended_error(&response));
        }
        no_server_was_blamed(&nodens, 2);
    });
}

#[test]
fn a_local_firewall_fails_over_at_once() {
    inside("abuse_descriptors::a_local_firewall_fails_over_at_once", &["nft"], || {
        // The kernel returns EPERM for each query; a rejected one also causes an ICMP error, as if from the server's host.
        for verdict in ["drop", "reject", "reject with icmp type admin-prohibited"] {
            let (shut, open) = (upstream(zone()), upstream(zone()));
            let nodens = Nodens::start(&config(&[&shut, &open], "workers = 1", ORDERED));
            // The previous rule would also affect a client that now has the port it names.
            let rules = format!(
                "flush ruleset; add table ip shut; add chain ip shut out {{ type filter hook output priority 0; }}; \
                 add rule ip shut out udp dport {} {verdict}",
                shut.address().port()
            );
            let status = Command::new("nft").arg(rules).status().expect("nft runs");
            assert!(status.success());
            assert_eq!(answered(nodens.address(), "shut", 200), 200, "{verdict}");
            assert_eq!(code(&lookup(nodens.address(), "one-more.lab.example")), ResponseCode::NoError);
            no_server_was_blamed(&nodens, 2);
            // Fewer than all: on a busy machine the first server may have seemed slow, and the second is queried first.
            assert!(nodens.metric("nodens_local_faults_total", &[("cause", "forbidden")]) > 0.0, "{verdict}");
        }
    });
}

#[test]
fn a_local_prohibit_route_blames_no_server() {
    inside("abuse_descriptors::a_local_prohibit_route_blames_no_server", &["ip"], || {
        let open = upstream(zone());
        let add = ["route", "add", "prohibit", "198.51.100.1"];
        assert!(Command::new("ip").args(add).status().expect("ip runs").success());
        let text = config(&[&open], "workers = 1", ORDERED);
        let text = text.replacen("servers = [", "servers = [\"198.51.100.1\", ", 1);
        let nodens = Nodens::start(&text);
        assert_eq!(answered(nodens.address(), "prohibited", 50), 50);
        no_server_was_blamed(&nodens, 2);
        assert!(nodens.metric("nodens_local_faults_total", &[("cause", "forbidden")]) > 0.0);
    });
}
