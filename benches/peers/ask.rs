//! The load: what is asked in each mode and how, with the library's own instrument.

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nodens::bench::draw::Draw;
use nodens::bench::load::{self, Outcome, Plan};
use nodens::bench::names::{MOST_QUESTIONS, Questions};
use nodens::bench::pace::Pace;

use crate::modes::Mode;
use crate::results::{FLOOR, Sample};
use crate::server::Started;

/// The zone of all names.
pub const ZONE: &str = "ci.example.net";
/// Names that are asked for again and again, A and AAAA of each.
pub const HIT_NAMES: usize = 1_000;

/// Queries under way at any time: enough to fill a server's batches, few enough for any socket's buffer.
const UNDER_WAY: u64 = 192;
/// Sockets, or TCP connections: as few as the least that a peer takes by default.
const SOCKETS: usize = 8;
/// New names a second: more than any server fetches.
const NEW_NAMES: f64 = 160_000.0;
/// When a query is lost.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How long names are asked for to make them known; if not all are answered, twice as long and so on.
const WARMING: Duration = Duration::from_millis(200);
/// How often, at most.
const WARMINGS: u32 = 5;
/// The same names in the same order for all.
const SEED: u64 = 1;

/// A mode's questions for one round.
pub struct Load {
    mode: Mode,
    round: u32,
    rate: u64,
    length: Duration,
    questions: Questions,
}

/// Name `at` of the hits, relative to the zone.
pub fn hit_name(at: usize) -> String {
    const HOSTS: [&str; 10] =
        ["registry", "gitlab", "npm", "pypi", "crates", "goproxy", "maven", "storage", "auth", "cdn"];
    const PLACES: [&str; 3] = ["eu", "us", "ap"];
    format!("{}-{at}.{}", HOSTS[at % HOSTS.len()], PLACES[at / HOSTS.len() % PLACES.len()])
}

impl Load {
    /// What `mode` asks in a round, `seconds` long, or `rate` a second in the mode that has a rate.
    ///
    /// # Errors
    /// None, unless this program is wrong.
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

    /// Asks for each name until all are known, over what the mode uses. Nothing to do for misses.
    ///
    /// # Errors
    /// A socket cannot be opened, or the server answers too little.
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

    /// Asks for a while. `cpu_time` tells what the server has spent so far.
    ///
    /// # Errors
    /// A socket cannot be opened.
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
    ) -> io::Result<Outcome> {
        let plan = Plan {
            targets: vec![server.address],
            pace,
            duration,
            timeout: TIMEOUT,
            tcp: self.mode == Mode::Tcp && server.name != FLOOR, // which is of UDP, for all modes
            lines: SOCKETS,
            seed: SEED,
        };
        load::run(&plan, &self.questions, draw, stop, |_| {})
    }
}

/// To two places, which is more than holds.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Answers without an error.
fn good(outcome: &Outcome) -> u64 {
    outcome.records.iter().map(|record| record.rcodes[0]).sum()
}
