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

/// Pause between two bursts.
const TICK: Duration = Duration::from_micros(500);
/// Most messages of one burst. A delayed sender does not make up for more than this.
const BURST: u64 = 2_000;
/// Receive buffer size, in bytes. It is small because responses are not read.
const RECEIVE_BUFFER: usize = 4_096;
/// Names in one round of CNAMEs of the same target.
const CNAMES: usize = 1_000;
/// Names of a round that are queried between two pauses, so that no socket buffer overflows.
const AT_ONCE: usize = 50;
/// Upper bound of the length of a random datagram, in bytes.
const LONGEST: u64 = 600;

/// Sends `rate` messages a second, made by `make`, from one socket, and reads nothing.
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
            sent += u64::from(socket.send(&message).is_ok()); // not counted if the kernel refuses it
        }
        target.count(sent);
        sleep(TICK);
    }
    Ok(())
}

/// Returns a query that nodens denies itself: for a name of 119 labels below `test` or below the cluster's domain. Every
/// third query to nodens is for `me.nodens.internal` instead.
pub fn denied(number: u64, is_nodens: bool) -> Vec<u8> {
    match number % 3 {
        2 if is_nodens => query(number as u16, "me.nodens.internal", TXT),
        1 => query(number as u16, &long_name(number, 117, "cluster.local"), A),
        _ => query(number as u16, &long_name(number, 118, "test"), A),
    }
}

/// Sends one round of queries each second, for 1,000 names that are CNAMEs of one target.
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

/// Sends random bytes, truncated queries, and queries with some bytes changed, in turn.
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
