//! The load: the questions and the pace of each mode, with the library's own load generator.

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nodens::bench::draw::Draw;
use nodens::bench::load::{self, LoadOutcome, LoadPlan};
use nodens::bench::names::{MOST_QUESTIONS, Questions};
use nodens::bench::pace::Pace;

use crate::modes::Mode;
use crate::results::{FLOOR, Sample};
use crate::server::Started;

/// Zone of all names.
pub const ZONE: &str = "ci.example.net";
/// Number of names that hits query, A and AAAA of each.
pub const HIT_NAMES: usize = 1_000;

/// Queries in flight at any time: enough to fill a server's batches, few enough for any socket's buffer.
const UNDER_WAY: u64 = 192;
/// Number of sockets, or TCP connections: as few as the lowest default limit of a peer.
const SOCKETS: usize = 8;
/// New names a second, more than any server fetches.
const NEW_NAMES: f64 = 160_000.0;
/// Time after which a query is lost.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Time for which names are queried to cache them. It doubles until all are answered.
const WARMING: Duration = Duration::from_millis(200);
/// Most attempts to cache all names.
const WARMINGS: u32 = 5;
/// Seed: the same names in the same order for all servers.
const SEED: u64 = 1;

/// Questions of a mode for one round.
pub struct Load {
    mode: Mode,
    round: u32,
    rate: u64,
    length: Duration,
    questions: Questions,
}

/// Returns name `at` of the hits, relative to the zone.
pub fn hit_name(at: usize) -> String {
    const HOSTS: [&str; 10] =
        ["registry", "gitlab", "npm", "pypi", "crates", "goproxy", "maven", "storage", "auth", "cdn"];
    const PLACES: [&str; 3] = ["eu", "us", "ap"];
    format!("{}-{at}.{}", HOSTS[at % HOSTS.len()], PLACES[at / HOSTS.len() % PLACES.len()])
}

impl Load {
    /// Returns the load of `mode` in a round of `seconds`, at `rate` queries a second in the mode that has a rate.
    ///
    /// # Errors
    /// Returns an error only if the generated questions are invalid, which is a bug.
    pub fn new(mode: Mode, round: u32, seconds: f64, rate: u64) -> io::Result<Self> {
        let text: String = match mode {
            Mode::Misses => {
                let count = ((seconds * NEW_NAMES) as usize).min(MOST_QUESTIONS);
                (0..count).map(|at| format!("n{at}-{round}.new.{ZONE}\n")).collect()
            }
            _ => (0..HIT_NAMES).map(hit_name).map(|name| format!("{name}.{ZONE} A\n{name}.{ZONE} AAAA\n")).collect(),
        };
        let questions = Questions::parse(&text, mode == Mode::HitsEdns).map_err(io::Error::other)?;
        Ok(Self { mode, round, rate, length: Duration::from_secs_f64(seconds), questions })
    }

    /// Queries each name until all are cached, over the transport of the mode. Does nothing for misses.
    ///
    /// # Errors
    /// Returns an error if a socket cannot be opened, or the server answers too few queries.
    pub fn warm(&self, server: &Started, stop: &AtomicBool) -> io::Result<()> {
        if self.mode == Mode::Misses {
            return Ok(());
        }
        let pace = Pace::Closed { in_flight: UNDER_WAY / 4 };
        for doubled in 0..WARMINGS {
            let outcome =
                self.run(server, pace, WARMING * (1 << doubled), &Draw::in_turn(self.questions.len()), stop)?;
            if outcome.interrupted || good(&outcome) as usize >= self.questions.len() {
                return Ok(());
            }
        }
        Err(io::Error::other("it does not answer the names that should be known"))
    }

    /// Runs the load for the length of a round. `cpu_time` returns the CPU time of the server so far.
    ///
    /// # Errors
    /// Returns an error if a socket cannot be opened, or there is no answer.
    pub fn measure(&self, server: &Started, cpu_time: impl Fn() -> Duration, stop: &AtomicBool) -> io::Result<Sample> {
        let (pace, draw) = match self.mode {
            Mode::Latency => (Pace::Open { rate: self.rate }, Draw::zipf(self.questions.len(), SEED)),
            Mode::Misses => (Pace::Closed { in_flight: UNDER_WAY }, Draw::in_turn(self.questions.len())),
            _ => (Pace::Closed { in_flight: UNDER_WAY }, Draw::zipf(self.questions.len(), SEED)),
        };
        let before = cpu_time();
        let outcome = self.run(server, pace, self.length, &draw, stop)?;
        let spent = cpu_time().saturating_sub(before);
        if outcome.records[0].answers() == 0 {
            return Err(io::Error::other("no answer at all"));
        }
        let (record, time) = (&outcome.records[0], outcome.asked_for[0].as_secs_f64());
        let latencies = record.all();
        let microseconds = |share| rounded(latencies.value_at_quantile(share) as f64 / 1e3);
        Ok(Sample {
            round: self.round,
            cpu_us: rounded(spent.as_secs_f64() * 1e6 / record.answers() as f64),
            qps: rounded(record.answers() as f64 / time),
            busy: rounded(spent.as_secs_f64() / time),
            p50_us: microseconds(0.5),
            p99_us: microseconds(0.99),
            sent: record.sent,
            lost: record.lost + record.failures() + record.unsent + record.unresolved,
            failed: record.answers() - good(&outcome),
            repeated: self.mode == Mode::Misses && record.sent > self.questions.len() as u64,
        })
    }

    fn run(
        &self,
        server: &Started,
        pace: Pace,
        duration: Duration,
        draw: &Draw,
        stop: &AtomicBool,
    ) -> io::Result<LoadOutcome> {
        let plan = LoadPlan {
            targets: vec![server.address],
            pace,
            duration,
            timeout: TIMEOUT,
            tcp: self.mode == Mode::Tcp && server.name != FLOOR, // the floor uses UDP in all modes
            lines: SOCKETS,
            seed: SEED,
        };
        load::run(&plan, &self.questions, draw, stop, |_| {})
    }
}

/// Rounds to two decimal places, more than the precision of the measurement.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Returns the number of answers without an error.
fn good(outcome: &LoadOutcome) -> u64 {
    outcome.records.iter().map(|record| record.rcodes[0]).sum()
}
