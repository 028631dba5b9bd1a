//! Forged responses from the right address and port with the right id: none gets through to a client, and nodens draws
//! no conclusions from them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::addresses::own_address;
use crate::support::client::{A, ask_udp, data, framed, lookup, query};
use crate::support::space::inside;
use crate::support::{Nodens, config, upstream, zone};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, rdata};
use nodens::upstream::Transport;

const RIGHT: [u8; 4] = [192, 0, 2, 1];
const FORGED: [u8; 4] = [203, 0, 113, 9];
/// Number of names, asked for one after the other.
const NAMES: u16 = 300;

/// The last query of a client.
type Last = Arc<Mutex<Vec<u8>>>;

/// Starts a server that sends forged responses before each genuine one.
fn server() -> (SocketAddr, Last) {
    let address = own_address();
    let (udp, tcp) = (UdpSocket::bind(address).expect("a socket"), TcpListener::bind(address).expect("a listener"));
    let last = Last::default();
    let seen = Arc::clone(&last);
    thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((length, client)) = udp.recv_from(&mut buffer) {
            let query = &buffer[..length];
            // Not a probe.
            if query.to_ascii_lowercase().windows(7).any(|part| part == b"letters") {
                *seen.lock().expect("a lock") = query.to_vec();
            }
            for forged in forged(query).into_iter().chain([response(query, RIGHT)]) {
                let _ = udp.send_to(&forged, client);
            }
        }
    });
    thread::spawn(move || {
        for mut stream in tcp.incoming().map_while(Result::ok) {
            thread::spawn(move || -> Option<()> {
                loop {
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).ok()?;
                    let mut query = vec![0; u16::from_be_bytes(length).into()];
                    stream.read_exact(&mut query).ok()?;
                    stream.write_all(&framed(&response(&query, RIGHT))).ok()?;
                }
            });
        }
    });
    (address, last)
}

/// Returns the response to a query, with its question unchanged.
fn response(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut response = Message::from_vec(query).expect("a query");
    response.metadata.message_type = MessageType::Response;
    let name = response.queries[0].name().clone();
    response.answers.push(Record::from_rdata(name, 300, RData::A(rdata::A(address.into()))));
    response.to_vec().expect("a reply")
}

/// Returns the responses of an attacker who has address, port and id, but does not see the query.
fn forged(query: &[u8]) -> Vec<Vec<u8>> {
    let asked = Message::from_vec(query).expect("a query");
    let with = |change: &dyn Fn(&mut Message)| {
        let mut message = asked.clone();
        let name = Name::from_ascii(asked.queries[0].name().to_ascii().to_ascii_lowercase()).expect("a name");
        message.queries[0].set_name(name);
        message.edns = None;
        change(&mut message);
        response(&message.to_vec().expect("a message"), FORGED)
    };
    let bare = |code: u16| [&query[..2], &(0x8180 | code).to_be_bytes(), &[0; 8]].concat();
    let other = |message: &mut Message| {
        message.queries[0].set_name(Name::from_ascii("other.example.com.").expect("a name"));
    };
    let mut forged = vec![
        // With the name in small letters: unchanged, truncated, failed, and longer than nodens reads.
        with(&|_| {}),
        with(&|message| message.metadata.truncation = true),
        with(&|message| message.metadata.response_code = ResponseCode::ServFail),
        with(&|message| message.metadata.response_code = ResponseCode::FormErr),
        [with(&|_| {}), vec![0; 5_000]].concat(),
        // For another question, with another id, and the query itself.
        with(&other),
        with(&|message| message.metadata.id = message.metadata.id.wrapping_add(1)),
        query.to_vec(),
        // Less than a header, and (below) only a header.
        query[..7].to_vec(),
    ];
    forged.extend([0, 1, 2, 3, 5].map(bare));
    forged
}

#[test]
fn no_forged_answer_is_used_or_learned_from() {
    let (server, last) = server();
    let nodens = Nodens::start(&format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [upstreams.up]\nservers = [\"{server}\"]\ndeadline = \"20s\"\n[[route]]\nzones = [\".\"]\nto = \"up\"\n"
    ));
    for number in 0..NAMES {
        let name = format!("name{number}.of-many-letters.example.com");
        assert_eq!(data(&ask_udp(nodens.address(), &query(number, &name, A))), ["192.0.2.1"], "{name}");
    }
    // On a slow machine the server may seem slow, but forged letters and EDNS errors change nothing.
    let page = |path: &str| -> serde_json::Value { serde_json::from_str(&nodens.get(path).body).expect("JSON") };
    assert_eq!(page("/api/v1/upstreams")["upstreams"][0]["servers"][0]["random_case"], true);
    let events = page("/api/v1/events");
    for event in events["events"].as_array().expect("events") {
        let reason = event["reason"].as_str().unwrap_or_default();
        assert!(event["kind"] != "random_case_off" && !reason.contains("FORMERR"), "{event}");
    }
    // The letter case is random to the last.
    let asked = last.lock().expect("a lock").clone();
    assert!(asked.iter().any(u8::is_ascii_uppercase) && asked.iter().any(u8::is_ascii_lowercase));
}

#[test]
fn reserved_and_node_service_ports_are_avoided() {
    inside("forgery::reserved_and_node_service_ports_are_avoided", &[], || {
        // 232 ports are left, as node ports end at 32767.
        let reserved = "1024-29999,33000-65535";
        std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", reserved).expect("a namespace of its own");
        let upstream = upstream(zone());
        let nodens = Nodens::start(&config(&[&upstream], "workers = 1", ""));
        for number in 0..200 {
            lookup(nodens.address(), &format!("{number}.lab.example"));
        }
        let seen = upstream.seen();
        let ports: BTreeSet<_> =
            seen.iter().filter(|seen| seen.transport == Transport::Udp).map(|seen| seen.client.port()).collect();
        assert!(ports.len() > 20, "{ports:?}");
        assert!(ports.iter().all(|port| (32_768..33_000).contains(port)), "{ports:?}");
    });
}
