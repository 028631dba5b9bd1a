//! Attacks over UDP.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nodens::bench::draw::Random;
use socket2::SockRef;

use crate::attack::Target;
use crate::packets::{A, TXT, long_name, query};
use crate::scene::{cached, cname};

/// The pause between two bursts.
const TICK: Duration = Duration::from_micros(500);
/// The most that is sent at once; a sender that was held up does not make up for more than this.
const BURST: u64 = 2_000;
/// Responses are not read: there is no room for many.
const RECEIVE_BUFFER: usize = 4_096;
/// Names in one round of CNAMEs of the same target.
const CNAMES: usize = 1_000;
/// Packets of such a round that are sent at once, so that no socket's buffer is full.
const AT_ONCE: usize = 50;
/// The most bytes of a random packet.
const LONGEST: u64 = 600;

/// Sends what `make` makes from one socket, so many a second, and reads nothing.
pub fn flood(target: &Target, from: Ipv4Addr, rate: u64, mut make: impl FnMut(u64, &mut Vec<u8>)) -> io::Result<()> {
    let socket = socket(target, from)?;
    let (start, mut done, mut number) = (Instant::now(), 0, 0);
    let mut message = Vec::new();
    while !target.is_over() {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        let burst = (due - done).min(BURST);
        done = due;
        let mut sent = 0;
        for _ in 0..burst {
            make(number, &mut message);
            number += 1;
            sent += u64::from(socket.send(&message).is_ok()); // what the kernel refuses is not sent
        }
        target.count(sent);
        sleep(TICK);
    }
    Ok(())
}

/// Queries that nodens denies itself: a name of 119 labels below `test`, or below the cluster's domain; and of nodens, each
/// third time, what it says of the client.
pub fn denied(number: u64, is_nodens: bool) -> Vec<u8> {
    match number % 3 {
        2 if is_nodens => query(number as u16, "me.nodens.internal", TXT),
        1 => query(number as u16, &long_name(number, 117, "cluster.local"), A),
        _ => query(number as u16, &long_name(number, 118, "test"), A),
    }
}

/// Asks, a round each second, for 1,000 names that are CNAMEs of one target.
pub fn bursts(target: &Target, from: Ipv4Addr, rounds: usize) -> io::Result<()> {
    let socket = socket(target, from)?;
    let start = Instant::now();
    for round in 0..rounds {
        for number in 0..CNAMES {
            let sent = socket.send(&query(number as u16, &cname(number, round), A));
            target.count(u64::from(sent.is_ok()));
            if number % AT_ONCE == 0 {
                sleep(TICK);
            }
        }
        while start.elapsed() < Duration::from_secs(round as u64 + 1) {
            if target.is_over() {
                return Ok(());
            }
            sleep(TICK);
        }
    }
    Ok(())
}

/// Sends random bytes, queries that are cut, and queries in which some bytes are others, in turn.
pub fn malformed(target: &Target, from: Ipv4Addr, rate: u64) -> io::Result<()> {
    let mut random = Random::new(1);
    let mut below = move |limit: u64| random.bits() % limit;
    flood(target, from, rate, |number, message| {
        *message = query(number as u16, &cached(below(100) as usize), A);
        match number % 3 {
            0 => {
                let length = below(LONGEST);
                *message = (0..length).map(|_| below(256) as u8).collect();
            }
            1 => message.truncate(below(message.len() as u64) as usize),
            _ => {
                for _ in 0..=below(4) {
                    let at = below(message.len() as u64) as usize;
                    message[at] = below(256) as u8;
                }
            }
        }
    })
}

fn socket(target: &Target, from: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect(target.address)?;
    socket.set_nonblocking(true)?;
    SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    Ok(socket)
}
