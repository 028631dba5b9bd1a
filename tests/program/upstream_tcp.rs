//! Upstreams that respond slowly or stop in the middle of a response over TCP: other names are not affected.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::addresses::own_address;
use crate::support::Nodens;
use crate::support::client::{
    A, EXTENDED_ERROR, code, connect_from, data, extended_error, framed, id, query, query_with_option,
};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, Record, rdata};

/// Delay of a slow answer.
const SLOW: Duration = Duration::from_millis(1_200);

/// Behaviour of a server for names that begin with `bad`; other names are answered at once.
#[derive(Clone, Copy)]
enum Bad {
    /// A late response; other queries are answered meanwhile.
    Slow,
    /// Half of the response, then nothing more on that connection.
    Half,
    /// One byte of the response every 100 ms.
    Drip,
    /// Half of the response, and the rest after 900 ms, just in time.
    JustInTime,
    /// A length of 65,535 and two bytes of the message, then nothing more on that connection.
    Announce,
}

/// Starts a server that truncates every answer over UDP. Over TCP, names that begin with `bad` get the fault `bad`.
fn server(bad: Bad) -> SocketAddr {
    let address = own_address();
    let (udp, tcp) = (UdpSocket::bind(address).expect("a socket"), TcpListener::bind(address).expect("a listener"));
    thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((length, client)) = udp.recv_from(&mut buffer) {
            let mut response = buffer[..length].to_vec();
            // QR and TC.
            response[2] |= 0x82;
            let _ = udp.send_to(&response, client);
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream, bad));
        }
    });
    address
}

fn serve(mut stream: TcpStream, bad: Bad) -> Option<()> {
    let out = Arc::new(Mutex::new(stream.try_clone().ok()?));
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut message = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut message).ok()?;
        let mut response = Message::from_vec(&message).ok()?;
        let name = response.queries.first()?.name().clone();
        response.metadata.message_type = MessageType::Response;
        response.edns = None;
        response.answers.push(Record::from_rdata(name.clone(), 300, RData::A(rdata::A::new(192, 0, 2, 1))));
        let frame = framed(&response.to_vec().ok()?);
        let is_bad = name.to_ascii().to_ascii_lowercase().starts_with("bad");
        match bad {
            _ if !is_bad => out.lock().ok()?.write_all(&frame).ok()?,
            Bad::Slow => {
                let out = Arc::clone(&out);
                thread::spawn(move || {
                    thread::sleep(SLOW);
                    out.lock().ok()?.write_all(&frame).ok()
                });
            }
            Bad::Half => {
                // The lock keeps other threads from writing after the half response.
                let mut held = out.lock().ok()?;
                held.write_all(&frame[..frame.len() / 2]).ok()?;
                return wait_for_end(stream);
            }
            Bad::JustInTime => {
                // Other queries on that connection wait.
                let mut held = out.lock().ok()?;
                let (half, rest) = frame.split_at(frame.len() / 2);
                held.write_all(half).ok()?;
                thread::sleep(Duration::from_millis(900));
                held.write_all(rest).ok()?;
            }
            Bad::Announce => {
                let mut held = out.lock().ok()?;
                held.write_all(&[&[0xff, 0xff][..], &message[..2]].concat()).ok()?;
                return wait_for_end(stream);
            }
            Bad::Drip => {
                let mut held = out.lock().ok()?;
                for byte in frame {
                    held.write_all(&[byte]).ok()?;
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

/// Reads until the other side closes the connection.
fn wait_for_end(mut stream: TcpStream) -> Option<()> {
    let mut buffer = [0; 512];
    while stream.read(&mut buffer).ok()? > 0 {}
    None
}

fn nodens(server: SocketAddr) -> Nodens {
    Nodens::start(&format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [upstreams.up]\nservers = [\"{server}\"]\ndeadline = \"20s\"\n[[route]]\nzones = [\".\"]\nto = \"up\"\n"
    ))
}

/// Checks that each good name of one client is answered while another client asks for bad names all the time.
fn others_are_answered(bad: Bad, burst: usize, pause: Duration) {
    let nodens = nodens(server(bad));
    let address = nodens.address();
    let mut other = connect_from([127, 0, 0, 3], address);
    assert_eq!(code(&other.ask(&query(0, "first.example.com", A))), ResponseCode::NoError);
    let over = Arc::new(());
    let continues = Arc::downgrade(&over);
    let client = thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.2:0").expect("a socket");
        let mut number = 0_u32;
        while continues.strong_count() > 0 {
            for _ in 0..burst {
                number += 1;
                let _ = socket.send_to(&query(number as u16, &format!("bad{number}.example.com"), A), address);
            }
            thread::sleep(pause);
        }
    });
    nodens.metric_becomes("nodens_upstream_queries_total", &[("transport", "tcp")], |count| count > 0.0);
    for number in 0..40_u16 {
        let response = other.ask(&query_with_option(number, &format!("good{number}.example.com"), EXTENDED_ERROR));
        let well = code(&response) == ResponseCode::NoError;
        assert!(well && id(&response) == number, "{number}: {}", extended_error(&response));
        assert_eq!(data(&response), ["192.0.2.1"]);
        thread::sleep(Duration::from_millis(20));
    }
    // None, unless the machine is slow.
    println!("{} ejections", nodens.metric("nodens_upstream_ejections_total", &[]));
    drop(over);
    client.join().expect("the client ends");
}

#[test]
fn slow_answers_over_tcp_hold_up_no_others() {
    others_are_answered(Bad::Slow, 30, Duration::from_millis(100));
}

#[test]
fn a_response_that_stops_half_way_holds_up_no_others() {
    others_are_answered(Bad::Half, 1, Duration::from_millis(500));
}

#[test]
fn a_response_that_drips_holds_up_no_others() {
    others_are_answered(Bad::Drip, 1, Duration::from_millis(500));
}

#[test]
fn an_announced_response_delays_no_others() {
    others_are_answered(Bad::Announce, 1, Duration::from_millis(500));
}

#[test]
fn responses_that_come_just_in_time_hold_up_no_others() {
    others_are_answered(Bad::JustInTime, 1, Duration::from_millis(100));
}

#[test]
fn many_stalled_responses_delay_no_others() {
    others_are_answered(Bad::Half, 2, Duration::from_millis(100));
}
