//! The honest client: it sends queries at a steady rate from an address of its own, and checks each response.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nodens::lab::zone::address_of;
use serde::Serialize;

use crate::packets::{A, query};
use crate::scene::{CACHED_NAMES, cached, fresh};
use crate::session::interrupted;

/// Address of the honest client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);
/// Queries a second beside one attack: 200 for cached names and 20 for fresh ones.
pub const RATE: u32 = 220;
/// Every eleventh query is for a fresh name.
const FRESH_EVERY: u32 = 11;
/// Time without a response after which a query is lost.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Deadline for caching all cached names.
const PATIENCE: Duration = Duration::from_secs(10);
/// Highest latency that the histogram records, in nanoseconds.
const LONGEST: u64 = 10_000_000_000;

/// Outcomes of queries of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcomes {
    /// Queries sent.
    pub asked: u64,
    /// Queries without a response within two seconds.
    pub lost: u64,
    /// Responses with a code other than NOERROR.
    pub failed: u64,
    /// NOERROR responses without the address of the name.
    pub wrong: u64,
}

/// Outcomes of all queries of the honest client.
#[derive(Clone, Debug)]
pub struct HonestStats {
    /// Queries for cached names.
    pub hits: Outcomes,
    /// Queries for names that were not queried before.
    pub fresh: Outcomes,
    /// Latencies of right answers for cached names, in nanoseconds.
    pub latencies: Histogram<u64>,
}

/// Query in flight.
struct Waiting {
    sent: Instant,
    name: String,
    is_fresh: bool,
}

impl HonestStats {
    /// Returns statistics of no queries.
    pub fn new() -> io::Result<Self> {
        let latencies = Histogram::new_with_bounds(100, LONGEST, 3).map_err(io::Error::other)?;
        Ok(Self { hits: Outcomes::default(), fresh: Outcomes::default(), latencies })
    }

    /// Adds the outcomes and latencies of `other`.
    pub fn add(&mut self, other: &Self) {
        for (sum, part) in [(&mut self.hits, &other.hits), (&mut self.fresh, &other.fresh)] {
            sum.asked += part.asked;
            sum.lost += part.lost;
            sum.failed += part.failed;
            sum.wrong += part.wrong;
        }
        let _ = self.latencies.add(&other.latencies); // both have the same bounds
    }

    /// Returns a percentile of the latencies, in milliseconds; `None` if there are none.
    pub fn milliseconds(&self, share: f64) -> Option<f64> {
        (!self.latencies.is_empty()).then(|| self.latencies.value_at_quantile(share) as f64 / 1e6)
    }

    fn record(&mut self, waiting: &Waiting, matched: ResponseMatch) {
        let took = waiting.sent.elapsed();
        let outcomes = if waiting.is_fresh { &mut self.fresh } else { &mut self.hits };
        match matched {
            _ if took > TIMEOUT => outcomes.lost += 1,
            ResponseMatch::Failed => outcomes.failed += 1,
            ResponseMatch::Wrong => outcomes.wrong += 1,
            ResponseMatch::Right if !waiting.is_fresh => self.latencies.saturating_record(took.as_nanos() as u64),
            ResponseMatch::Right => {}
        }
    }
}

/// Result of checking a response.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ResponseMatch {
    Right,
    Wrong,
    Failed,
}

/// Sends `rate` queries a second for `time`, then waits for outstanding responses. No query waits for the response to
/// another; latency is measured from the time when the query was sent.
pub fn ask(server: SocketAddr, rate: u32, time: Duration, stop: &AtomicBool) -> io::Result<HonestStats> {
    /// Number of the next fresh name.
    static FRESH: AtomicU64 = AtomicU64::new(0);
    let socket = socket(server)?;
    let mut stats = HonestStats::new()?;
    let mut waiting: HashMap<u16, Waiting> = HashMap::new();
    let mut buffer = [0; 2_048];
    let (start, period) = (Instant::now(), Duration::from_secs(1) / rate);
    let count = (time.as_secs_f64() * f64::from(rate)) as u32;
    let mut sent = 0;
    loop {
        interrupted(stop)?;
        while sent < count && start.elapsed() >= period * sent {
            let is_fresh = sent % FRESH_EVERY == FRESH_EVERY - 1;
            let number = FRESH.fetch_add(u64::from(is_fresh), Ordering::Relaxed);
            let name = if is_fresh { fresh(number) } else { cached(sent as usize % CACHED_NAMES) };
            let _ = socket.send(&query(sent as u16, &name, A)); // without an answer if the kernel refuses it
            waiting.insert(sent as u16, Waiting { sent: Instant::now(), name, is_fresh });
            let outcomes = if is_fresh { &mut stats.fresh } else { &mut stats.hits };
            outcomes.asked += 1;
            sent += 1;
        }
        while let Ok(length) = socket.recv(&mut buffer) {
            if let Some((id, matched)) = read(&buffer[..length], &waiting)
                && let Some(query) = waiting.remove(&id)
            {
                stats.record(&query, matched);
            }
        }
        let next = if sent < count { start + period * sent } else { start + time + TIMEOUT };
        let rest = next.saturating_duration_since(Instant::now());
        if sent == count && (waiting.is_empty() || rest.is_zero()) {
            break;
        }
        // A signal interrupts the poll; the loop checks `stop`.
        let _ = ppoll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], Some(TimeSpec::from_duration(rest)), None);
    }
    for query in waiting.values() {
        let outcomes = if query.is_fresh { &mut stats.fresh } else { &mut stats.hits };
        outcomes.lost += 1;
    }
    Ok(stats)
}

/// Queries the cached names until each has been answered.
pub fn warm(server: SocketAddr, stop: &AtomicBool) -> io::Result<()> {
    let socket = socket(server)?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (start, mut at) = (Instant::now(), 0);
    let mut buffer = [0; 2_048];
    while at < CACHED_NAMES {
        interrupted(stop)?;
        if start.elapsed() > PATIENCE {
            return Err(io::Error::other("it does not answer the names that should be cached"));
        }
        let (id, name) = (at as u16, cached(at));
        socket.send(&query(id, &name, A))?;
        let one = HashMap::from([(id, Waiting { sent: start, name, is_fresh: false })]);
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        at += usize::from(read(&buffer[..length], &one) == Some((id, ResponseMatch::Right)));
    }
    Ok(())
}

/// Checks a response. Returns the ID of its query, and the result; `None` if no such query is in flight.
fn read(response: &[u8], waiting: &HashMap<u16, Waiting>) -> Option<(u16, ResponseMatch)> {
    let message = Message::from_vec(response).ok()?;
    let query = waiting.get(&message.metadata.id)?;
    let asked = message.queries.first()?.name().to_ascii();
    if !asked.trim_end_matches('.').eq_ignore_ascii_case(&query.name) {
        return None;
    }
    if message.metadata.response_code != ResponseCode::NoError {
        return Some((message.metadata.id, ResponseMatch::Failed));
    }
    let address = address_of(&query.name);
    let right = matches!(message.answers.as_slice(), [one] if matches!(one.data, RData::A(a) if a.0 == address));
    Some((message.metadata.id, if right { ResponseMatch::Right } else { ResponseMatch::Wrong }))
}

fn socket(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((CLIENT, 0))?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
