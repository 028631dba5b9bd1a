//! The scripted upstream as its clients see it: raw bytes over sockets, one test for each behaviour.

#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::addresses::own_address;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use nodens::lab::fault::{Behaviour, Forgery, Tcp};
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::{LabZone, address_of};
use nodens::upstream::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Timeout of a wait; far longer than any of these tests takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Wait for a response that is expected not to come; long enough for a response on loopback.
const QUIET: Duration = Duration::from_millis(150);

const SERVFAIL: u16 = 2;
const FORMERR: u16 = 1;

fn zone() -> LabZone {
    LabZone::new("example.")
        .record("www.example. 300 A 192.0.2.1")
        .record("www.example. 300 A 192.0.2.2")
        .record("alias.example. 60 CNAME www.example.")
        .record("away.example. 60 CNAME www.elsewhere.test.")
        .record("loop.example. 60 CNAME loop.example.")
        .record("*.wild.example. 60 A 192.0.2.9")
        .record("deep.under.wild.example. 60 A 192.0.2.10")
        .record("odd.example. 60 TYPE65280 \\# 3 0A0b0c")
        .record("broken.example. 60 IN A \\# 2 FFFF")
        .record("version.example. 0 CH TXT \"lab\"")
        .record("long.example. 60 TXT \"0123456789012345678901234567890123456789\" \"x\"")
        .records(&(0..60).map(|n| format!("many.example. 60 A 192.0.2.{n}\n")).collect::<String>())
        .rcode("broken-server.example.", SERVFAIL)
        .extended_error("www.example.", 4, "forged")
}

async fn upstream() -> LabUpstream {
    LabUpstream::start(loopback(), zone()).await.unwrap()
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn plain(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    message(id, name, qtype).to_vec().unwrap()
}

fn with_opt(id: u16, name: &str, qtype: u16, dnssec_ok: bool, size: u16) -> Vec<u8> {
    let mut message = message(id, name, qtype);
    let mut edns = Edns::new();
    edns.set_max_payload(size).set_dnssec_ok(dnssec_ok);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

fn message(id: u16, name: &str, qtype: u16) -> Message {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::from(qtype)));
    message
}

/// Returns a client's socket that receives from the server only.
async fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = timeout(DEADLINE, socket.recv(&mut buffer)).await.expect("a reply").unwrap();
    buffer.truncate(length);
    buffer
}

async fn udp(upstream: &LabUpstream, query: &[u8]) -> Vec<u8> {
    let socket = client(upstream.address()).await;
    socket.send(query).await.unwrap();
    receive(&socket).await
}

async fn is_silent(upstream: &LabUpstream, query: &[u8]) -> bool {
    let (socket, before) = (client(upstream.address()).await, upstream.seen_count());
    socket.send(query).await.unwrap();
    upstream_saw(upstream, before + 1).await;
    timeout(QUIET, socket.recv(&mut [0; 512])).await.is_err()
}

async fn send_tcp(stream: &mut TcpStream, query: &[u8]) {
    stream.write_all(&[&(query.len() as u16).to_be_bytes(), query].concat()).await.unwrap();
}

/// Returns the next response; none if the connection was closed.
async fn receive_tcp(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let read = async {
        let length = stream.read_u16().await.ok()?;
        let mut response = vec![0; usize::from(length)];
        stream.read_exact(&mut response).await.ok()?;
        Some(response)
    };
    timeout(DEADLINE, read).await.expect("a reply or an end")
}

async fn tcp(upstream: &LabUpstream, query: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream.address()).await.unwrap();
    send_tcp(&mut stream, query).await;
    receive_tcp(&mut stream).await
}

fn rcode(response: &[u8]) -> u16 {
    u16::from(response[3] & 0x0f)
}

/// Returns the numbers of answer, authority and additional records.
fn counts(response: &[u8]) -> [u16; 3] {
    [6, 8, 10].map(|at| u16::from_be_bytes([response[at], response[at + 1]]))
}

fn question(message: &[u8]) -> &[u8] {
    let end = 12 + message[12..].iter().position(|&byte| byte == 0).unwrap() + 5;
    &message[12..end]
}

fn is_truncated(response: &[u8]) -> bool {
    response[2] & 0x02 != 0
}

#[tokio::test]
async fn an_address_comes_from_the_name() {
    let zone = LabZone::new("example.").record("fixed.example. 60 A 192.0.2.1").addresses_from_names();
    let upstream = LabUpstream::start(loopback(), zone).await.unwrap();
    let ask = async |name: &str, qtype: u16| {
        let socket = client(upstream.address()).await;
        socket.send(&plain(1, name, qtype)).await.unwrap();
        let mut response = [0; 512];
        let length = timeout(DEADLINE, socket.recv(&mut response)).await.unwrap().unwrap();
        Message::from_vec(&response[..length]).unwrap()
    };
    let addresses =
        async |name: &str| ask(name, 1).await.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>();
    for name in ["n1.example.", "N2.Deep.Example."] {
        assert_eq!(addresses(name).await, [address_of(&name.to_lowercase()).to_string()]);
    }
    assert_eq!(addresses("fixed.example.").await, ["192.0.2.1"]);
    let other_type = ask("n1.example.", 28).await;
    assert_eq!((other_type.metadata.response_code.low(), other_type.answers.len()), (0, 0));
    assert_eq!(ask("n1.elsewhere.", 1).await.metadata.response_code.low(), 5);
    let all: std::collections::HashSet<_> = (0..100).map(|n| address_of(&format!("n{n}.example"))).collect();
    assert!(all.len() >= 99, "neighbours differ");
    assert!(all.iter().all(|address| (address.octets()[0], address.octets()[1] & 0xfe) == (198, 18)));
}

#[tokio::test]
async fn it_answers_from_its_zone_over_udp_and_tcp() {
    let upstream = upstream().await;
    let query = plain(0x1234, "wWw.Example.", 1);
    let response = udp(&upstream, &query).await;
    assert_eq!(response[..4], [0x12, 0x34, 0x81, 0x80]);
    assert_eq!(question(&response), question(&query), "the letter case is echoed");
    assert_eq!(counts(&response), [2, 0, 0]);
    assert!(response.ends_with(&[192, 0, 2, 2]));
    assert_eq!(tcp(&upstream, &query).await.unwrap(), response);
}

#[tokio::test]
async fn it_chases_aliases_and_knows_nodata_from_nxdomain() {
    let upstream = upstream().await;
    for (name, qtype, code, records) in [
        ("alias.example.", 1, 0, [3, 0, 0]),
        ("alias.example.", 5, 0, [1, 0, 0]),
        ("alias.example.", 28, 0, [1, 1, 0]),
        ("away.example.", 1, 0, [1, 0, 0]),
        ("loop.example.", 1, SERVFAIL, [32, 0, 0]),
        ("www.example.", 28, 0, [0, 1, 0]),
        ("nothing.example.", 1, 3, [0, 1, 0]),
        ("wild.example.", 1, 0, [0, 1, 0]),
        ("any.wild.example.", 1, 0, [1, 0, 0]),
        ("two.labels.wild.example.", 1, 0, [1, 0, 0]),
        ("under.wild.example.", 1, 0, [0, 1, 0]),
        ("other.under.wild.example.", 1, 3, [0, 1, 0]),
        ("www.elsewhere.test.", 1, 5, [0, 0, 0]),
        ("broken-server.example.", 1, SERVFAIL, [0, 0, 0]),
        ("www.example.", 255, 0, [2, 0, 0]),
        ("version.example.", 16, 0, [0, 1, 0]),
    ] {
        let response = udp(&upstream, &plain(1, name, qtype)).await;
        assert_eq!((rcode(&response), counts(&response)), (code, records), "{name} {qtype}");
    }
    assert!(udp(&upstream, &plain(1, "odd.example.", 65_280)).await.ends_with(&[0, 3, 10, 11, 12]));
    assert!(udp(&upstream, &plain(1, "broken.example.", 1)).await.ends_with(&[0, 2, 255, 255]));
}

#[tokio::test]
async fn a_zone_answers_as_configured() {
    let upstream = upstream().await;
    upstream.set_zone(zone().without_soa()).unwrap();
    assert_eq!(counts(&udp(&upstream, &plain(1, "nothing.example.", 1)).await), [0, 0, 0]);

    upstream.set_zone(zone().negative_ttl(7)).unwrap();
    assert!(udp(&upstream, &plain(1, "nothing.example.", 1)).await.ends_with(&[0, 0, 0, 7]));

    upstream.set_zone(zone().authentic().signed()).unwrap();
    let response = udp(&upstream, &with_opt(1, "www.example.", 1, true, 1232)).await;
    assert_eq!((response[3] & 0x20, counts(&response)), (0x20, [3, 0, 1]), "AD, a signature, an OPT record");
    let response = udp(&upstream, &plain(1, "www.example.", 1)).await;
    assert_eq!((response[3] & 0x20, counts(&response)), (0, [2, 0, 0]));

    let response = udp(&upstream, &with_opt(1, "www.example.", 1, false, 1232)).await;
    assert!(response.ends_with(b"\0\x0f\0\x08\0\x04forged"), "the extended error of this name");
}

#[tokio::test]
async fn a_zone_reports_all_its_mistakes_at_the_start() {
    let zone = zone().record("www.example. 300 A 192.0.2.256").record("odd.example. 1 TYPE1 \\# 4 01");
    let error = LabUpstream::start(loopback(), zone).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("192.0.2.256") && error.to_string().contains("4 bytes promised, 1 given"));
}

#[tokio::test]
async fn it_writes_down_every_query() {
    let upstream = upstream().await;
    let mut query = with_opt(7, "Www.example.", 28, true, 1400);
    // Adds an option of code 65001 with two bytes, and sets CD.
    let at = query.len() - 2;
    query.splice(at.., *b"\0\x06\xfd\xe9\0\x02ab");
    query[3] |= 0x10;
    let socket = client(upstream.address()).await;
    socket.send(&query).await.unwrap();
    receive(&socket).await;
    tcp(&upstream, &plain(8, "www.example.", 1)).await.unwrap();

    let seen = upstream.seen();
    assert_eq!((seen.len(), upstream.seen_count()), (2, 2));
    assert_eq!((seen[0].transport, seen[1].transport), (Transport::Udp, Transport::Tcp));
    assert_eq!((seen[0].client, seen[0].id, &seen[0].wire), (socket.local_addr().unwrap(), 7, &query));
    assert_eq!((seen[0].name.as_str(), u16::from(seen[0].qtype), seen[0].qclass), ("Www.example.", 28, 1));
    assert!(seen[0].cd() && seen[0].rd() && seen[0].dnssec_ok() && seen[0].asks("www.EXAMPLE", 28));
    let edns = seen[0].edns.as_ref().unwrap();
    assert_eq!((edns.size, edns.version, edns.options.as_slice()), (1400, 0, &[(65_001, b"ab".to_vec())][..]));
    assert!(seen[1].edns.is_none());
    upstream.clear_seen();
    assert_eq!((upstream.seen().len(), upstream.seen_count()), (0, 0));
}

#[tokio::test]
async fn latency_is_its_own_or_the_behaviours() {
    let upstream = upstream().await;
    let query = plain(1, "www.example.", 1);
    upstream.set_latency(Duration::from_millis(30));
    for (behaviour, least) in [
        (Behaviour::normal(), 30),
        (Behaviour::normal().slower(3), 90),
        (Behaviour::normal().latency(Duration::from_millis(60)), 60),
    ] {
        upstream.set(behaviour);
        let start = Instant::now();
        udp(&upstream, &query).await;
        assert!(start.elapsed() >= Duration::from_millis(least));
        let start = Instant::now();
        tcp(&upstream, &query).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(least));
    }
}

#[tokio::test]
async fn silence_on_all_queries_or_on_edns_queries() {
    let upstream = upstream().await;
    upstream.set(Behaviour::silent());
    assert!(is_silent(&upstream, &plain(1, "www.example.", 1)).await);
    upstream.set(Behaviour::silent_on_opt());
    assert!(is_silent(&upstream, &with_opt(1, "www.example.", 1, false, 1232)).await);
    assert_eq!(counts(&udp(&upstream, &plain(1, "www.example.", 1)).await), [2, 0, 0]);
}

#[tokio::test]
async fn error_codes_with_and_without_question_and_reason() {
    let upstream = upstream().await;
    let (bare, edns) = (plain(1, "www.example.", 1), with_opt(2, "www.example.", 1, false, 1232));
    for code in [1, 2, 4, 5, 9] {
        upstream.set(Behaviour::rcode(code).extended_error(22, "gone"));
        let response = udp(&upstream, &bare).await;
        assert_eq!((rcode(&response), counts(&response), question(&response)), (code, [0; 3], question(&bare)));
        let response = tcp(&upstream, &edns).await.unwrap();
        assert!(response.ends_with(b"\0\x0a\0\x0f\0\x06\0\x16gone"));
    }
    upstream.set(Behaviour::rcode(16));
    let response = udp(&upstream, &edns).await;
    assert_eq!((rcode(&response), response[response.len() - 6]), (0, 1), "BADVERS lies partly in the OPT record");

    upstream.set(Behaviour::rcode(SERVFAIL).without_question().without_opt());
    assert_eq!(udp(&upstream, &edns).await, [0, 2, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]);

    upstream.set(Behaviour::formerr_on_opt());
    let response = udp(&upstream, &edns).await;
    assert_eq!((rcode(&response), counts(&response)), (FORMERR, [0; 3]));
    assert_eq!(counts(&udp(&upstream, &bare).await), [2, 0, 0]);

    upstream.set(Behaviour::normal().ignoring_opt());
    assert_eq!(counts(&udp(&upstream, &edns).await), [2, 0, 0]);
}

#[tokio::test]
async fn truncation_by_size_and_on_purpose() {
    let upstream = upstream().await;
    let many = plain(1, "many.example.", 1);
    let response = udp(&upstream, &many).await;
    assert_eq!((is_truncated(&response), counts(&response)), (true, [0; 3]));
    assert_eq!(counts(&udp(&upstream, &with_opt(1, "many.example.", 1, false, 1232)).await), [60, 0, 1]);

    upstream.set(Behaviour::truncated());
    let query = plain(1, "www.example.", 1);
    let response = udp(&upstream, &query).await;
    assert_eq!((is_truncated(&response), counts(&response), question(&response)), (true, [0; 3], question(&query)));
    assert_eq!(counts(&tcp(&upstream, &many).await.unwrap()), [60, 0, 0]);
}

#[tokio::test]
async fn forged_replies_alone_or_before_the_right_one() {
    let upstream = upstream().await;
    let query = plain(0x0100, "www.example.", 1);
    let right = udp(&upstream, &query).await;
    for (forgery, check) in [
        (Forgery::WrongId, (|response, _| response[..2] != [1, 0]) as fn(&[u8], &[u8]) -> bool),
        (Forgery::WrongQuestion, |response, query| {
            question(response) != question(query) && response[..2] == query[..2]
        }),
        (Forgery::Echo, |response, query| response == query),
    ] {
        upstream.set(Behaviour::forged(forgery));
        let response = udp(&upstream, &query).await;
        assert!(check(&response, &query), "{forgery:?}");
        assert!(check(&tcp(&upstream, &query).await.unwrap(), &query), "{forgery:?}");

        upstream.set(Behaviour::forged(forgery).then_honest().latency(Duration::from_millis(5)));
        let socket = client(upstream.address()).await;
        socket.send(&query).await.unwrap();
        assert_eq!((receive(&socket).await, receive(&socket).await), (response, right.clone()));
    }
    let root = plain(1, ".", 2);
    upstream.set_zone(LabZone::new(".")).unwrap();
    upstream.set(Behaviour::forged(Forgery::WrongQuestion));
    assert_ne!(question(&udp(&upstream, &root).await), question(&root));
}

#[tokio::test]
async fn a_reply_from_another_port() {
    let upstream = upstream().await;
    upstream.set(Behaviour::forged(Forgery::OtherPort).then_honest());
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    socket.send_to(&plain(1, "www.example.", 1), upstream.address()).await.unwrap();
    let mut buffer = [0; 512];
    let (first, from) = timeout(DEADLINE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_ne!(from, upstream.address());
    let (second, from) = timeout(DEADLINE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((from, second), (upstream.address(), first));
}

#[tokio::test]
async fn any_bytes_and_edited_replies() {
    let upstream = upstream().await;
    let query = plain(1, "wWw.example.", 1);
    upstream.set(Behaviour::bytes([0xff; 5]));
    assert_eq!(udp(&upstream, &query).await, [0xff; 5]);
    assert_eq!(tcp(&upstream, &query).await.unwrap(), [0xff; 5]);

    upstream.set(Behaviour::folded_case());
    assert_eq!(question(&udp(&upstream, &query).await), question(&query).to_ascii_lowercase());

    upstream.set(Behaviour::edited(|seen, response| match seen.transport {
        Transport::Udp => response.clear(),
        _ => response.extend(b"!"),
    }));
    assert!(is_silent(&upstream, &query).await);
    assert!(tcp(&upstream, &query).await.unwrap().ends_with(b"\xc0\0\x02\x02!"));
}

#[tokio::test]
async fn lost_packets_follow_a_fixed_pattern() {
    let upstream = upstream().await;
    let mut patterns = Vec::new();
    for behaviour in [
        Behaviour::normal().lose_every(3),
        Behaviour::normal().lose_percent(40, 7),
        Behaviour::normal().lose_percent(40, 7),
        Behaviour::normal().lose_percent(40, 8),
    ] {
        upstream.set(behaviour);
        let socket = client(upstream.address()).await;
        for id in 0..50 {
            socket.send(&plain(id, "www.example.", 1)).await.unwrap();
        }
        // Responses come in the order of their queries: that to the last query, which is not lost, comes after all others.
        upstream_saw(&upstream, 50).await;
        upstream.set(Behaviour::normal());
        socket.send(&plain(99, "www.example.", 1)).await.unwrap();
        let mut answered = Vec::new();
        while let Some(id) = Some(receive(&socket).await[1]).filter(|&id| id != 99) {
            answered.push(id);
        }
        upstream.clear_seen();
        patterns.push(answered);
    }
    assert_eq!(patterns[0], (0..50).filter(|id| id % 3 != 2).collect::<Vec<u8>>());
    assert_eq!(patterns[1], patterns[2]);
    assert_ne!(patterns[1], patterns[3]);
    assert!((20..40).contains(&patterns[1].len()));
}

async fn upstream_saw(upstream: &LabUpstream, queries: u64) {
    let start = Instant::now();
    while upstream.seen_count() < queries {
        assert!(start.elapsed() < DEADLINE, "{queries} queries never came");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn tcp_can_be_refused_and_allowed_again_at_once() {
    let upstream = upstream().await;
    let query = plain(1, "www.example.", 1);
    let mut open = TcpStream::connect(upstream.address()).await.unwrap();
    send_tcp(&mut open, &query).await;
    receive_tcp(&mut open).await.unwrap();
    for _ in 0..20 {
        upstream.set(Behaviour::normal().tcp(Tcp::Refuse));
        let error = TcpStream::connect(upstream.address()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(counts(&udp(&upstream, &query).await), [2, 0, 0]);
        upstream.set(Behaviour::normal());
        assert_eq!(counts(&tcp(&upstream, &query).await.unwrap()), [2, 0, 0]);
    }
    assert!(receive_tcp(&mut open).await.is_none(), "an open connection ends too");
    // The port is closed for two reasons, and opens when neither applies any more.
    upstream.set(Behaviour::normal().tcp(Tcp::Refuse));
    upstream.stop().await;
    upstream.restart().unwrap();
    assert!(TcpStream::connect(upstream.address()).await.is_err());
    upstream.set(Behaviour::normal());
    assert_eq!(counts(&tcp(&upstream, &query).await.unwrap()), [2, 0, 0]);
}

#[tokio::test]
async fn tcp_can_stay_silent_or_close_after_some_replies() {
    let upstream = upstream().await;
    let query = |id| plain(id, "www.example.", 1);
    upstream.set(Behaviour::normal().tcp(Tcp::Silent));
    let mut stream = TcpStream::connect(upstream.address()).await.unwrap();
    send_tcp(&mut stream, &query(1)).await;
    upstream_saw(&upstream, 1).await;
    assert!(timeout(QUIET, stream.read_u8()).await.is_err());

    for responses in 0..3 {
        upstream.set(Behaviour::normal().tcp(Tcp::CloseAfter(responses)));
        let mut stream = TcpStream::connect(upstream.address()).await.unwrap();
        for id in 0..4 {
            send_tcp(&mut stream, &query(id)).await;
        }
        for id in 0..responses {
            assert_eq!(receive_tcp(&mut stream).await.unwrap()[1], id as u8);
        }
        assert!(receive_tcp(&mut stream).await.is_none());
    }
}

#[tokio::test]
async fn tcp_replies_out_of_order_and_in_pieces() {
    let upstream = upstream().await;
    upstream.set(Behaviour::normal().tcp(Tcp::Reversed(3)));
    let mut stream = TcpStream::connect(upstream.address()).await.unwrap();
    for id in 0..5 {
        send_tcp(&mut stream, &plain(id, "www.example.", 1)).await;
    }
    for id in [2, 1, 0, 4, 3] {
        assert_eq!(receive_tcp(&mut stream).await.unwrap()[1], id);
    }
    upstream.set(Behaviour::normal().tcp(Tcp::InPieces(7)));
    assert_eq!(counts(&tcp(&upstream, &plain(1, "many.example.", 1)).await.unwrap()), [60, 0, 0]);
}

#[tokio::test]
async fn a_stopped_upstream_closes_its_port() {
    let upstream = upstream().await;
    let query = plain(1, "www.example.", 1);
    for _ in 0..3 {
        let mut open = TcpStream::connect(upstream.address()).await.unwrap();
        upstream.set_latency(Duration::from_secs(3600));
        send_tcp(&mut open, &query).await;
        upstream_saw(&upstream, 1).await;
        upstream.stop().await;
        assert!(receive_tcp(&mut open).await.is_none());
        let socket = client(upstream.address()).await;
        socket.send(&query).await.unwrap();
        let error = timeout(DEADLINE, socket.recv(&mut [0; 512])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(TcpStream::connect(upstream.address()).await.is_err());

        upstream.set_latency(Duration::ZERO);
        upstream.clear_seen();
        upstream.restart().unwrap();
        upstream.restart().unwrap();
        assert_eq!(counts(&udp(&upstream, &query).await), [2, 0, 0]);
        assert_eq!(counts(&tcp(&upstream, &query).await.unwrap()), [2, 0, 0]);
    }
}

#[tokio::test]
async fn messages_that_are_no_queries() {
    let upstream = upstream().await;
    assert!(is_silent(&upstream, &[1, 2, 3]).await);
    let mut no_query = plain(1, "www.example.", 1);
    no_query[2] |= 0x80;
    assert!(is_silent(&upstream, &no_query).await);
    let response = udp(&upstream, &plain(1, "www.example.", 1)[..20]).await;
    assert_eq!((rcode(&response), response.len()), (FORMERR, 12));
}

#[test]
fn dropping_it_frees_the_port() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let address = runtime.block_on(async {
        let upstream = LabUpstream::start(own_address(), zone()).await.unwrap();
        udp(&upstream, &plain(1, "www.example.", 1)).await;
        upstream.address()
    });
    let again = runtime.block_on(LabUpstream::start(address, zone())).unwrap();
    assert_eq!(again.address(), address);
}
