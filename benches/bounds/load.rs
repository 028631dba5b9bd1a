//! Questions, and the load that asks them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nodens::bench::draw::{Draw, Random};
use nodens::bench::load::{self, LoadPlan};
use nodens::bench::names::Questions;
use nodens::bench::pace::Pace;
use nodens::bench::record::TargetStats;

use super::server::Server;

/// Queries in flight while a cache is filled.
const WINDOW: usize = 256;
/// Timeout after which a query that fills a cache is sent again.
const AGAIN: Duration = Duration::from_millis(200);
/// Attempts after which the server has failed.
const TRIES: usize = 50;

/// Returns the questions of one run, all of one length.
pub(crate) fn questions(names: impl Iterator<Item = String>) -> io::Result<Questions> {
    let text: String = names.flat_map(|name| [name, "\n".to_owned()]).collect();
    Questions::parse(&text, false).map_err(io::Error::other)
}

/// Returns the name with this number.
pub(crate) fn name(number: usize) -> String {
    format!("job-{number:07}.build.example.com")
}

/// Returns `count` questions for the first `names` names, in random order.
pub(crate) fn shuffled(count: usize, names: usize) -> io::Result<Questions> {
    let mut numbers: Vec<usize> = (0..count).map(|at| at % names).collect();
    Random::new(7).shuffle(&mut numbers);
    questions(numbers.into_iter().map(name))
}

/// Keeps `in_flight` queries in flight, with the questions in order.
pub(crate) fn saturate(
    target: SocketAddr,
    questions: &Questions,
    in_flight: u64,
    time: Duration,
) -> io::Result<TargetStats> {
    ask(target, questions, Pace::Closed { in_flight }, time)
}

/// Sends `rate` queries a second.
pub(crate) fn at_rate(target: SocketAddr, questions: &Questions, rate: u64, time: Duration) -> io::Result<TargetStats> {
    ask(target, questions, Pace::Open { rate }, time)
}

fn ask(target: SocketAddr, questions: &Questions, pace: Pace, duration: Duration) -> io::Result<TargetStats> {
    let timeout = Duration::from_secs(1);
    let plan = LoadPlan { targets: vec![target], pace, duration, timeout, tcp: false, lines: 16, seed: 1 };
    let draw = Draw::in_turn(questions.len());
    let mut outcome = load::run(&plan, questions, &draw, &AtomicBool::new(false), |_| {})?;
    outcome.records.pop().ok_or_else(|| io::Error::other("no record"))
}

/// Returns the server's CPU time for one answer under this load, in nanoseconds.
pub(crate) fn cost(server: &Server, questions: &Questions, in_flight: u64, time: Duration) -> io::Result<f64> {
    let before = server.cpu()?;
    let record = saturate(server.address, questions, in_flight, time)?;
    Ok((server.cpu()? - before) as f64 / record.answers().max(1) as f64)
}

/// Makes the server fetch these names, and answer each from its cache once.
///
/// The cache keeps names that were queried again before their eviction, so the names are queried in parts.
pub(crate) fn fill(server: &Server, names: Range<usize>) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server.address)?;
    socket.set_read_timeout(Some(AGAIN))?;
    let mut start = names.start;
    while start < names.end {
        let part = start..names.end.min(start + 8 * WINDOW);
        for _ in 0..2 {
            for window in part.clone().step_by(WINDOW) {
                ask_all(&socket, &questions((window..part.end.min(window + WINDOW)).map(name))?)?;
            }
        }
        start = part.end;
    }
    Ok(())
}

/// Sends the queries until all are answered.
fn ask_all(socket: &UdpSocket, questions: &Questions) -> io::Result<()> {
    let mut missing: Vec<bool> = vec![true; questions.len()];
    let mut left = missing.len();
    let mut buffer = [0; 1232];
    for _ in 0..TRIES {
        for (id, _) in missing.iter().enumerate().filter(|(_, missing)| **missing) {
            let query = questions.query(id as u32);
            buffer[..query.len()].copy_from_slice(query);
            buffer[..2].copy_from_slice(&(id as u16).to_be_bytes());
            socket.send(&buffer[..query.len()])?;
        }
        while left > 0 {
            let Ok(length) = socket.recv(&mut buffer) else { break };
            let id = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
            let ours = buffer[..length].get(12..).is_some_and(|rest| rest.starts_with(questions.question(id as u32)));
            let answered = ours && buffer[3] & 0x0f == 0;
            if answered && missing.get_mut(id).is_some_and(std::mem::take) {
                left -= 1;
            }
        }
        if left == 0 {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("{left} names got no answer")))
}
