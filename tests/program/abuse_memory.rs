//! Hostile clients cannot take the memory of the process or the kernel, nor the places of other clients.
//!
//! The tests check the bounds of the memory formula (docs/guides/deploy.md), and the answers that other clients get. No
//! test depends on timing.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use nodens::lab::fault::Behaviour;
use nodens::lab::zone::LabZone;
use socket2::{Domain, Socket, Type};

use crate::support::client::{A, Tcp, code, data, framed, lookup, parse, query, receive};
use crate::support::space::can_run;
use crate::support::{DEADLINE, Nodens, config, eventually, upstream, zone};
use hickory_proto::op::ResponseCode;

/// Record type of the large answers.
const TXT: u16 = 16;
/// Limit on the memory of a process besides its cache and 1 MiB for each worker, in MiB.
const BESIDES: u64 = 44;
/// Default limit on the connections of one client.
const CONNECTIONS: usize = 64;
/// Limit on the queries in flight on one connection.
const PIPELINED: u16 = 100;

/// Starts nodens with a small cache, which can hide little other memory, and a long deadline for the upstream.
fn start(upstream: &nodens::lab::upstream::LabUpstream) -> Nodens {
    Nodens::start(&format!("{}[cache]\nmemory = \"4MiB\"\n", config(&[upstream], "workers = 2", "deadline = \"30s\"")))
}

/// Returns the peak resident memory of the worker process so far, in MiB.
fn peak(nodens: &Nodens) -> u64 {
    let worker = nodens.worker().expect("a worker");
    let status = fs::read_to_string(format!("/proc/{worker}/status")).expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib >> 10
}

/// Checks the peak against the formula: the cache, `BESIDES`, and two workers.
fn stays_small(nodens: &Nodens, what: &str) {
    let peak = peak(nodens);
    println!("{what}: at most {peak} MiB resident");
    assert!(peak < 4 + BESIDES + 2, "{what}: {peak} MiB");
}

/// Returns the records of [`zone`], and 61 KB of TXT records at `big.lab.example`.
fn big_zone() -> LabZone {
    let text = "x".repeat(250);
    (0..235).fold(zone(), |zone, number| zone.record(&format!("big.lab.example. 300 TXT \"{number:03}{text}\"")))
}

/// Opens connections from 127.0.0.1 that send the same frames and never read.
fn unread(server: SocketAddr, count: usize, frames: &[u8]) -> Vec<TcpStream> {
    unread_by(None, server, count, frames)
}

/// Opens such connections from the address `client`.
fn unread_by(client: Option<Ipv4Addr>, server: SocketAddr, count: usize, frames: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        if let Some(client) = client {
            socket.bind(&SocketAddr::new(client.into(), 0).into()).expect("an own address");
        }
        socket.set_recv_buffer_size(4_096).expect("an option");
        socket.connect(&server.into()).expect("a connection");
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true).expect("an option");
        // The server may close the connection at any moment, and need not read everything.
        let _ = std::io::Write::write_all(&mut &stream, frames);
        stream
    };
    (0..count).map(connect).collect()
}

fn pipelined(name: &str, qtype: u16) -> Vec<u8> {
    (0..PIPELINED).flat_map(|id| framed(&query(id, name, qtype))).collect()
}

/// Checks that another client is served.
fn serves_others(nodens: &Nodens) {
    let socket = UdpSocket::bind("127.0.0.8:0").expect("a socket");
    socket.connect(nodens.address()).expect("a way there");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    socket.send(&query(8, "other.lab.example", A)).expect("sends");
    let response = receive(&socket);
    assert_eq!(data(&response), ["192.0.2.1"], "{:?}", parse(&response));
}

#[test]
fn identical_queries_for_a_large_answer() {
    let upstream = upstream(big_zone());
    let nodens = start(&upstream);
    upstream.set(Behaviour::normal().latency(Duration::from_millis(500)));
    let clients = unread(nodens.address(), CONNECTIONS, &pipelined("big.lab.example", TXT));
    serves_others(&nodens);
    eventually("the large answer", || (nodens.metric("nodens_pending_queries", &[]) == 0.0).then_some(()));
    serves_others(&nodens);
    stays_small(&nodens, "64 connections, 100 queries each, for one answer of 61 KB that nobody reads");
    drop(clients);
    // Once nodens has noticed that the connections are closed, a client that reads gets the whole answer.
    nodens.metric_becomes("nodens_tcp_connections", &[], |open| open == 0.0);
    eventually("the whole answer", || {
        let answer = Tcp::connect(nodens.address()).ask(&query(7, "big.lab.example", TXT));
        (answer.len() > 60_000).then_some(())
    });
}

/// Each answer is different: it comes from the upstream on its own, and stays in the cache for a moment at most.
#[test]
fn different_large_answers_at_once() {
    let text = "x".repeat(250);
    let record = |zone: LabZone, number| zone.record(&format!("*.big.lab.example. 300 TXT \"{number:03}{text}\""));
    let upstream = upstream((0..235).fold(zone(), record));
    let config = config(&[&upstream], "workers = 2", "deadline = \"30s\"");
    let nodens = Nodens::start(&format!("{config}[cache]\nmemory = \"4MiB\"\n"));
    serves_others(&nodens);
    let before = peak(&nodens);
    let mut names = 0..;
    let mut connect = |client| {
        let names = names.by_ref().take(5);
        let frames: Vec<u8> =
            names.flat_map(|name| framed(&query(1, &format!("n{name}.big.lab.example"), TXT))).collect();
        unread_by(Some(Ipv4Addr::new(127, 9, 8, client)), nodens.address(), 1, &frames)
    };
    let clients: Vec<_> = (1..=8).cycle().take(8 * CONNECTIONS).flat_map(&mut connect).collect();
    eventually("all answers", || (nodens.metric("nodens_pending_queries", &[]) == 0.0).then_some(()));
    let grown = peak(&nodens) - before;
    println!("512 connections of 8 clients, 5 different answers of 61 KB each that nobody reads: {grown} MiB more");
    // The formula leaves this much to a release build, which starts with about 12 MiB; with debug information, with twice that.
    assert!(grown < 4 + BESIDES + 2 - 12, "{grown} MiB");
    drop(clients);
    serves_others(&nodens);
}

#[test]
fn hits_that_nobody_reads_do_not_fill_the_kernel() {
    if !can_run(false, &["ss"]) {
        return;
    }
    let upstream = upstream(big_zone());
    let nodens = start(&upstream);
    Tcp::connect(nodens.address()).ask(&query(7, "big.lab.example", TXT));
    let _clients = unread(nodens.address(), CONNECTIONS, &pipelined("big.lab.example", TXT));
    serves_others(&nodens);
    let filter = format!("sport = :{}", nodens.address().port());
    let mut most = 0;
    for _ in 0..20 {
        let output = Command::new("ss").args(["-tmnH", &filter]).output().expect("ss runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // skmem:(r<read>,rb..,t<written>,tb..,f..,w<queued for writing>,o..,bl..,d..)
        let memory = text.split("skmem:(").skip(1).flat_map(|rest| rest.split([',', ')']));
        let held = |field: &str| match field.split_at_checked(1) {
            Some(("r" | "w", number)) => number.parse::<u64>().unwrap_or(0),
            _ => 0,
        };
        most = most.max(memory.map(held).sum::<u64>());
    }
    println!("64 connections, 100 hits of 61 KB each: the kernel held {} KiB at most", most >> 10);
    assert!(most < 8 << 20, "{most} bytes");
    stays_small(&nodens, "hits that nobody reads");
}

#[test]
fn long_queries_for_slow_names() {
    let upstream = upstream(zone());
    let nodens = start(&upstream);
    serves_others(&nodens);
    upstream.set(Behaviour::silent());
    // An OPT record with 60,000 bytes of padding (RFC 7830).
    let padded = |id: u16| {
        let mut message = query(id, &format!("{id}.slow.lab.example"), A);
        message[11] = 1;
        message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0]);
        message.extend_from_slice(&60_004_u16.to_be_bytes());
        message.extend_from_slice(&[0, 12]);
        message.extend_from_slice(&60_000_u16.to_be_bytes());
        message.resize(message.len() + 60_000, 0);
        framed(&message)
    };
    let frames: Vec<u8> = (0..20).flat_map(padded).collect();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let stream = TcpStream::connect(nodens.address()).expect("a connection");
            stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
            let _ = std::io::Write::write_all(&mut &stream, &frames);
            stream
        })
        .collect();
    serves_others(&nodens);
    stays_small(&nodens, "64 connections, 20 queries of 60 KB each, for names that are not answered");
    drop(clients);
}

#[test]
fn announced_lengths_take_no_memory() {
    let upstream = upstream(zone());
    let strangers = "workers = 2\nallow = [\"127.0.0.1/32\", \"127.0.0.8/32\"]\ntcp_connections_per_client = 1000";
    let text = format!("{}[cache]\nmemory = \"4MiB\"\n", config(&[&upstream], strangers, ""));
    let nodens = Nodens::start(&text);
    let before = peak(&nodens);
    let connect = |last: u8| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let from: SocketAddr = ([127, 0, 0, last], 0).into();
        socket.bind(&from.into()).expect("an address");
        socket.connect(&nodens.address().into()).expect("a connection");
        let stream = TcpStream::from(socket);
        let _ = std::io::Write::write_all(&mut &stream, &[0xff, 0xff, 0]);
        stream
    };
    // Clients that are not allowed get few connections.
    let strangers: Vec<_> = (0..300).map(|_| connect(9)).collect();
    let clients: Vec<_> = (0..900).map(|_| connect(8)).collect();
    nodens.metric_becomes("nodens_tcp_connections", &[], |count| (900.0..920.0).contains(&count));
    nodens.metric_becomes("nodens_tcp_connections_rejected_total", &[], |count| count >= 250.0);
    serves_others(&nodens);
    let grown = peak(&nodens) - before;
    println!("900 connections that announce 65,535 bytes: {grown} MiB more");
    assert!(grown < 20, "{grown} MiB");
    drop((clients, strangers));
}

#[test]
fn one_client_cannot_take_the_places_of_the_others() {
    let (silent, well) =
        (upstream(zone()), upstream(LabZone::new("well.example.").record("*.well.example. 300 A 192.0.2.9")));
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 2\n[admin]\nlisten = \"127.0.0.1:0\"\n[cache]\nmemory = \"4MiB\"\n\
         [upstreams.silent]\nservers = [\"{}\"]\ndeadline = \"30s\"\n[upstreams.well]\nservers = [\"{}\"]\ndeadline = \"20s\"\n\
         [[route]]\nzones = [\".\"]\nto = \"silent\"\n[[route]]\nzones = [\"well.example\"]\nto = \"well\"\n",
        silent.address(),
        well.address()
    );
    let nodens = Nodens::start(&text);
    silent.set(Behaviour::silent());
    let flood = |from: u8, count: u32| {
        let socket = UdpSocket::bind((IpAddr::V4(Ipv4Addr::new(127, 0, 0, from)), 0)).expect("a socket");
        socket.connect(nodens.address()).expect("a way there");
        for number in 0..count {
            socket.send(&query(number as u16, &format!("{number}.{from}.lab.example"), A)).expect("sends");
            if number % 64 == 0 {
                // Paced by answers, otherwise the socket buffer could overflow.
                serves_well(&nodens, &format!("{number}-{from}"));
            }
        }
        socket
    };
    let serves_well = serves_well;
    let first = flood(2, 4_000);
    let second = flood(3, 3_000);
    let pending = nodens.metric("nodens_pending_queries", &[]);
    println!("two clients that ask 7,000 names of a silent zone: {pending} wait");
    assert!(pending < 3_072.0, "{pending}");
    let rejected = || nodens.metric("nodens_overload_rejections_total", &[("resource", "pending_queries")]);
    assert!(rejected() > 1_000.0, "{}", rejected());
    // Rejected queries get a response at once.
    first.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    assert_eq!(code(&receive(&first)), ResponseCode::ServFail);
    // A third client gets answers for its new names, and its queries to the silent zone become pending.
    for number in 0..30 {
        serves_well(&nodens, &format!("third-{number}"));
    }
    let (queries, before) = (nodens.metric("nodens_queries_total", &[]), rejected());
    let third = flood(4, 30);
    nodens.metric_becomes("nodens_queries_total", &[], |count| count >= queries + 30.0);
    assert_eq!(rejected(), before);
    stays_small(&nodens, "two clients that ask 7,000 names of a silent zone");
    drop((second, third));
}

/// Checks that a new name of `well.example` is answered, to 127.0.0.1.
fn serves_well(nodens: &Nodens, label: &str) {
    assert_eq!(data(&lookup(nodens.address(), &format!("{label}.well.example"))), ["192.0.2.9"], "{label}");
}
