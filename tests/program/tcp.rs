//! Use and misuse of TCP by clients (RFC 7766, RFC 7828), with the built binary.

use std::io::Write;
use std::thread;
use std::time::Duration;

use crate::support::client::{
    A, KEEPALIVE, Tcp, ask_udp, code, connect_from, data, framed, id, option, query, query_with_option,
};
use crate::support::{Nodens, config, upstream, zone};
use hickory_proto::op::ResponseCode;
use nodens::lab::fault::Behaviour;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;

/// Code of an option that nodens does not support.
const UNKNOWN_OPTION: u16 = 65_001;
const TXT: u16 = 16;

/// Starts nodens in front of one upstream, and of another for `slow.example` that is silent until the test changes it.
fn with_a_slow_zone(server: &str) -> (Nodens, LabUpstream, LabUpstream) {
    let (fast, slow) =
        (upstream(zone()), upstream(LabZone::new("slow.example.").record("*.slow.example. 300 A 192.0.2.9")));
    slow.set(Behaviour::silent());
    let group = format!("[upstreams.slow]\nservers = [\"{}\"]\ndeadline = \"3s\"\n", slow.address());
    let route = "[[route]]\nzones = [\"slow.example\"]\nto = \"slow\"\n";
    let nodens = Nodens::start(&format!("{}{group}{route}", config(&[&fast], server, "")));
    (nodens, fast, slow)
}

#[test]
fn frames_split_over_any_segments() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    let frames: Vec<u8> = (1..=4).flat_map(|n| framed(&query(n, &format!("{n}.lab.example"), A))).collect();
    for size in [1, 2, 3, 7, frames.len() / 4 - 1, frames.len() / 4 + 1, frames.len() / 2, frames.len()] {
        let mut tcp = Tcp::connect(nodens.address());
        frames.chunks(size).for_each(|piece| tcp.write(piece));
        let mut ids: Vec<_> = (0..4).map(|_| id(&tcp.receive())).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3, 4], "pieces of {size}");
    }
}

#[test]
fn a_slow_answer_holds_up_none_behind_it() {
    let (nodens, _fast, slow) = with_a_slow_zone("");
    let mut tcp = Tcp::connect(nodens.address());
    tcp.write(&[framed(&query(1, "a.slow.example", A)), framed(&query(2, "b.lab.example", A))].concat());
    let first = tcp.receive();
    assert_eq!((id(&first), data(&first)), (2, vec!["192.0.2.1".to_owned()]));
    slow.set(Behaviour::normal());
    assert_eq!(id(&tcp.receive()), 1);
}

#[test]
fn queries_beyond_the_pipeline_limit_are_answered() {
    let upstream = upstream(zone());
    upstream.set_latency(Duration::from_millis(20));
    let nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"10s\""));
    let mut tcp = Tcp::connect(nodens.address());
    let frames: Vec<u8> = (0..350).flat_map(|n| framed(&query(n, &format!("{n}.lab.example"), A))).collect();
    tcp.write(&frames);
    tcp.half_close();
    let mut ids: Vec<_> = std::iter::from_fn(|| tcp.next()).map(|response| id(&response)).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..350).collect::<Vec<_>>());
}

#[test]
fn idle_connections_close_waiting_ones_do_not() {
    let (nodens, _fast, _slow) = with_a_slow_zone("tcp_idle_timeout = \"1s\"");
    let mut never_used = Tcp::connect(nodens.address());
    let mut used = Tcp::connect(nodens.address());
    assert_eq!(code(&used.ask(&query(1, "a.lab.example", A))), ResponseCode::NoError);
    // Its answer takes three times as long as a connection may be idle.
    let mut waits = Tcp::connect(nodens.address());
    waits.send(&query(2, "a.slow.example", A));
    assert_eq!(never_used.next(), None);
    assert_eq!(used.next(), None);
    assert_eq!(code(&waits.receive()), ResponseCode::ServFail);
    assert_eq!(waits.next(), None);
    nodens.metric_becomes("nodens_tcp_connections", &[], |open| open == 0.0);
}

#[test]
fn connections_are_capped_per_client_and_in_all() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "tcp_connections = 3\ntcp_connections_per_client = 2", ""));
    let asks = |client: &mut Tcp| code(&client.ask(&query(1, "a.lab.example", A))) == ResponseCode::NoError;
    let mut first = connect_from([127, 0, 0, 1], nodens.address());
    let mut second = connect_from([127, 0, 0, 1], nodens.address());
    assert!(asks(&mut first) && asks(&mut second));
    // At its limit, a client's longest idle connection makes room; at the total limit, that of the client with most.
    let mut third = connect_from([127, 0, 0, 1], nodens.address());
    assert!(asks(&mut third));
    assert_eq!(first.next(), None);
    let mut other = connect_from([127, 0, 0, 2], nodens.address());
    assert!(asks(&mut other));
    let mut last = connect_from([127, 0, 0, 3], nodens.address());
    assert!(asks(&mut last));
    assert_eq!(second.next(), None);
    assert!(asks(&mut third) && asks(&mut other) && asks(&mut last));
    nodens.metric_becomes("nodens_tcp_connections", &[], |open| open == 3.0);
    assert_eq!(nodens.metric("nodens_tcp_connections_rejected_total", &[]), 0.0);
}

#[test]
fn many_connections_with_one_query_each_are_answered() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", "deadline = \"20s\""));
    // More than a client may have open: the rest waits until others have closed.
    let clients: Vec<_> = (0..100_u16)
        .map(|n| {
            let mut client = Tcp::connect(nodens.address());
            client.send(&query(n, &format!("{n}.lab.example"), A));
            client
        })
        .collect();
    for (n, mut client) in (0..).zip(clients) {
        let response = client.receive();
        assert_eq!((id(&response), code(&response)), (n, ResponseCode::NoError));
    }
    assert_eq!(nodens.metric("nodens_tcp_connections_rejected_total", &[]), 0.0);
}

#[test]
fn refused_and_stalled_clients_hold_no_slot() {
    let upstream = upstream(zone());
    let server = "tcp_connections = 64\ntcp_idle_timeout = \"1s\"\nallow = [\"127.0.0.1/32\", \"127.0.0.3/32\"]";
    let nodens = Nodens::start(&config(&[&upstream], server, ""));
    let begin = |from| {
        let mut client = connect_from(from, nodens.address());
        client.write(&[0xff]);
        client
    };
    let strangers: Vec<_> = (0..200).map(|_| begin([127, 0, 0, 2])).collect();
    nodens.metric_becomes("nodens_tcp_connections_rejected_total", &[], |rejected| rejected >= 100.0);
    let refused = connect_from([127, 0, 0, 4], nodens.address()).ask(&query(1, "a.lab.example", A));
    assert_eq!(code(&refused), ResponseCode::Refused);
    let mut allowed: Vec<_> = (0..32).map(|_| begin([127, 0, 0, 1])).collect();
    let response = connect_from([127, 0, 0, 3], nodens.address()).ask(&query(1, "a.lab.example", A));
    assert_eq!(code(&response), ResponseCode::NoError);
    drop(strangers);
    // A byte now and then is not a query.
    for client in &mut allowed {
        while std::io::Write::write_all(&mut client.0, &[0xff]).is_ok() {
            thread::sleep(std::time::Duration::from_millis(100));
        }
    }
    nodens.metric_becomes("nodens_tcp_connections", &[], |open| open == 0.0);
}

#[test]
fn a_client_that_never_reads_is_disconnected() {
    let text = format!("\"{}\" ", "x".repeat(250)).repeat(16);
    let upstream = upstream(zone().record(&format!("big.lab.example. 300 TXT {text}")));
    // One worker: the connections share all that can be shared.
    let nodens = Nodens::start(&config(&[&upstream], "workers = 1", ""));
    let mut rude = Tcp::connect(nodens.address()).0;
    let flood: Vec<u8> = framed(&query(1, "big.lab.example", TXT)).repeat(1_000);
    let rude = thread::spawn(move || while rude.write_all(&flood).is_ok() {});
    let mut polite = Tcp::connect(nodens.address());
    for n in 0..200 {
        // Answers from upstreams, each in its own iteration of the worker's loop.
        assert_eq!(data(&polite.ask(&query(n, &format!("{n}.lab.example"), A))), ["192.0.2.1"]);
    }
    rude.join().expect("it was cut off");
    nodens.metric_becomes("nodens_tcp_connections", &[], |open| open == 1.0);
    assert_eq!(data(&polite.ask(&query(7, "after.lab.example", A))), ["192.0.2.1"]);
}

#[test]
fn a_half_close_delivers_all_answers_then_eof() {
    let (nodens, _fast, _slow) = with_a_slow_zone("");
    let mut tcp = Tcp::connect(nodens.address());
    for (id, name) in [(1, "a.slow.example"), (2, "a.lab.example"), (3, "b.slow.example"), (4, "localhost")] {
        tcp.send(&query(id, name, A));
    }
    tcp.half_close();
    let mut ids: Vec<_> = std::iter::from_fn(|| tcp.next()).map(|response| id(&response)).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4]);

    let mut silent = Tcp::connect(nodens.address());
    silent.half_close();
    assert_eq!(silent.next(), None);
}

#[test]
fn the_idle_timeout_is_sent_on_request_over_tcp_only() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "tcp_idle_timeout = \"12s\"", ""));
    let mut tcp = Tcp::connect(nodens.address());
    // From the upstream, from the cache, from nodens itself.
    for name in ["a.lab.example", "a.lab.example", "localhost"] {
        let response = tcp.ask(&query_with_option(1, name, KEEPALIVE));
        assert_eq!(option(&response, KEEPALIVE), Some(120_u16.to_be_bytes().to_vec()), "{name}");
        assert_eq!(option(&tcp.ask(&query_with_option(2, name, UNKNOWN_OPTION)), KEEPALIVE), None);
        assert_eq!(option(&tcp.ask(&query(3, name, A)), KEEPALIVE), None);
        let response = ask_udp(nodens.address(), &query_with_option(4, name, KEEPALIVE));
        assert_eq!((code(&response), option(&response, KEEPALIVE)), (ResponseCode::NoError, None));
    }
}

#[test]
fn what_is_no_query_leaves_the_connection_as_it_is() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    let mut tcp = Tcp::connect(nodens.address());
    let good = query(1, "a.lab.example", A);
    let mut response = good.clone();
    response[2] |= 0x80;
    // Empty, less than a header, a response, the longest possible frame: no response, and the next query is answered.
    for silent in [&[][..], &[1, 2, 3, 4, 5], &response, &[0xff; 65_535]] {
        tcp.send(silent);
        assert_eq!(data(&tcp.ask(&good)), ["192.0.2.1"]);
    }
    let mut two_questions = good.clone();
    two_questions[5] = 2;
    let mut update = good.clone();
    update[2] |= 5 << 3;
    let cut = &good[..good.len() - 3];
    for (wrong, right) in [
        (&two_questions[..], ResponseCode::FormErr),
        (cut, ResponseCode::FormErr),
        (&[0; 300], ResponseCode::FormErr),
        (&update, ResponseCode::NotImp),
    ] {
        assert_eq!(code(&tcp.ask(wrong)), right);
        assert_eq!(data(&tcp.ask(&good)), ["192.0.2.1"]);
    }
}
