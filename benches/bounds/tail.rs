//! Tail latency of hits, while one query in twenty misses and under other disturbances.
//!
//! Hits and other queries come from separate senders, so that a percentile covers hits only. Each disturbance is measured in
//! turns with a quiet run before it. The rate is half of the highest measured rate, if the server, the two senders and the
//! upstream each have a CPU. If not, it is an eighth: the senders then wait for each other, and at half load the result
//! would only show the system's scheduler.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use nodens::bench::names::Questions;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;

use super::Setting;
use super::finding::Finding;
use super::load::{at_rate, fill, questions, saturate, shuffled};
use super::responder::Responder;
use super::server::{Config, Server};
use super::workers::median;

/// Number of names that hits query.
const NAMES: usize = 1_000;
/// Latency of the upstream.
const LATENCY: Duration = Duration::from_millis(20);
/// Pause between two reloads, or two scrapes.
const PAUSE: Duration = Duration::from_millis(100);
/// Queries a second for names of a dead upstream.
const DEAD_RATE: u64 = 500;
/// Queries a second of an eviction storm. Each evicts another answer.
const STORM_RATE: u64 = 5_000;
/// Number of CPUs with which no process waits for another's CPU.
const ENOUGH_CPUS: usize = 4;
/// Cache size that the storm overflows within its first turn.
const CACHE_MIB: usize = 4;

/// Measures the latency of hits under disturbances.
pub(crate) fn measure(setting: &Setting) -> io::Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let zone = LabZone::new("example.com.").record("*.example.com. 3600 A 192.0.2.1");
    let slow = runtime.block_on(LabUpstream::start((Ipv4Addr::LOCALHOST, 0).into(), zone))?;
    // A bound socket that is never read: queries to it cause no ICMP error.
    let dead = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let dead_address = dead.local_addr()?;
    let fast = Responder::start()?;
    let config = |upstream| Config { workers: 1, cache_mib: CACHE_MIB, upstream, dead: Some(dead_address) };
    let server = Server::start(setting, config(slow.address()))?;
    let stormed = Server::start(setting, config(fast.address))?;
    for server in [&server, &stormed] {
        fill(server, 0..NAMES)?;
    }
    slow.set_latency(LATENCY);

    let (turns, time) = if setting.quick { (1, Duration::from_secs(1)) } else { (3, Duration::from_secs(2)) };
    let hits = shuffled(NAMES, NAMES)?;
    let most = saturate(server.address, &hits, 512, time)?.answers() as f64 / time.as_secs_f64();
    let apart = thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= ENOUGH_CPUS);
    let (part, of) = if apart { ("half", 2.0) } else { ("an eighth", 8.0) };
    let rate = (most / of) as u64;
    let scene = Scene { hits, rate, turns, time };
    let mut findings = vec![Finding::plain(format!("hits a second, {part} of the most"), rate as f64, "/s")];

    let misses = scene.unique("miss", rate / 20)?;
    let (quiet, mixed) = scene.measure(&server, |turn| scene.ask_too(&server, &misses[turn], rate / 20))?;
    findings.push(Finding::plain("p50 of hits, nothing else going on", quiet.p50, "us"));
    findings.push(Finding::plain("p99 of hits, nothing else going on", quiet.p99, "us"));
    findings.push(Finding::plain("p50 of hits, 5 % misses", mixed.p50, "us"));
    findings.push(Finding::at_most("p99 of hits to their p50, 5 % misses", mixed.p99 / mixed.p50, 3.0, "x"));

    let mut moved =
        |what: &str, server: &Server, disturb: &(dyn Fn(usize) -> io::Result<()> + Sync)| -> io::Result<()> {
            let (quiet, disturbed) = scene.measure(server, disturb)?;
            findings.push(Finding::at_most(
                format!("p99 of hits moved by {what}"),
                disturbed.p99 - quiet.p99,
                1_000.0,
                "us",
            ));
            Ok(())
        };
    moved("ten reloads a second", &server, &|_| scene.again(|| server.signal("HUP")))?;
    moved("ten scrapes a second", &server, &|_| scene.again(|| server.metrics().map(drop)))?;
    let storm = scene.unique("storm", STORM_RATE)?;
    moved("an eviction storm", &stormed, &|turn| scene.ask_too(&stormed, &storm[turn], STORM_RATE))?;
    let lost = scene.unique("lost.dead.example", DEAD_RATE)?;
    moved("a dead upstream", &server, &|turn| scene.ask_too(&server, &lost[turn], DEAD_RATE))?;
    Ok(findings)
}

struct Scene {
    hits: Questions,
    rate: u64,
    turns: usize,
    time: Duration,
}

/// Percentiles, in microseconds.
struct Percentiles {
    p50: f64,
    p99: f64,
}

impl Scene {
    /// Returns percentiles of hits, quiet and while `disturb` runs: medians of all turns.
    fn measure(
        &self,
        server: &Server,
        disturb: impl Fn(usize) -> io::Result<()> + Sync,
    ) -> io::Result<(Percentiles, Percentiles)> {
        let (mut quiet, mut disturbed) = (Vec::new(), Vec::new());
        for turn in 0..self.turns {
            quiet.push(self.hits(server)?);
            disturbed.push(thread::scope(|scope| {
                let other = scope.spawn(|| disturb(turn));
                let hits = self.hits(server);
                other.join().map_err(|_| io::Error::other("what disturbs failed"))??;
                hits
            })?);
        }
        Ok((Percentiles::median(&quiet), Percentiles::median(&disturbed)))
    }

    /// Returns names for each turn that were not queried before, enough for this rate.
    fn unique(&self, word: &str, rate: u64) -> io::Result<Vec<Questions>> {
        let (label, zone) = word.split_once('.').unwrap_or((word, "build.example.com"));
        let count = (rate as f64 * self.time.as_secs_f64() * 1.1) as usize;
        let names = |turn| questions((0..count).map(move |at| format!("{label}-{turn}-{at:06}.{zone}")));
        (0..self.turns).map(names).collect()
    }

    fn hits(&self, server: &Server) -> io::Result<Percentiles> {
        let latencies = at_rate(server.address, &self.hits, self.rate, self.time)?.all();
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Percentiles { p50: at(0.5), p99: at(0.99) })
    }

    /// Queries other names, for as long as hits are queried.
    fn ask_too(&self, server: &Server, questions: &Questions, rate: u64) -> io::Result<()> {
        at_rate(server.address, questions, rate, self.time).map(drop)
    }

    /// Repeats an action, for as long as hits are queried.
    fn again(&self, what: impl Fn() -> io::Result<()>) -> io::Result<()> {
        for _ in 0..self.time.as_millis() / PAUSE.as_millis() {
            what()?;
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Percentiles {
    fn median(all: &[Self]) -> Self {
        let of = |value: fn(&Self) -> f64| median(all.iter().map(value).collect());
        Self { p50: of(|one| one.p50), p99: of(|one| one.p99) }
    }
}
