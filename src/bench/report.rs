//! Results of a run: the structure of `--json`, and the source of the table and the HTML page.
//!
//! Times are in milliseconds, shares are between 0 and 1.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hdrhistogram::{Counter, Histogram};
use serde::Serialize;

use super::load::{LoadOutcome, LoadPlan};
use super::pace::Pace;
use super::record::TargetStats;
use crate::wire::Rcode;

/// Version of the structure; incremented when a field changes its meaning or is removed.
pub(crate) const SHAPE: u32 = 1;

#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// Version of this structure.
    pub shape: u32,
    /// Settings of the run.
    pub settings: Settings,
    /// True if the user ended the run early.
    pub interrupted: bool,
    /// One report for each target, in the order of the command line.
    pub targets: Vec<TargetReport>,
}

/// Settings of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Queries per second of an open loop, during a target's turn.
    pub rate: Option<u64>,
    /// Queries in flight of a closed loop.
    pub closed: Option<u64>,
    /// Planned time of queries to each target, in seconds.
    pub duration_s: f64,
    /// Timeout of a query, in seconds.
    pub timeout_s: f64,
    pub transport: &'static str,
    /// Number of sockets or connections to each target.
    pub sockets: usize,
    /// True if queries had an OPT record.
    pub edns: bool,
    /// Source of the questions: "built-in" or the file.
    pub names: String,
    /// Number of questions in the set.
    pub questions: usize,
    pub draw: &'static str,
    /// Seed of the random draws.
    pub seed: u64,
}

/// Results of one target: `sent` is the sum of `answered`, `lost`, the errors and `unresolved`.
#[derive(Clone, Debug, Serialize)]
pub struct TargetReport {
    pub target: SocketAddr,
    /// Time that the target was queried, in seconds.
    pub asked_s: f64,
    pub sent: u64,
    /// Queries with a response within the timeout.
    pub answered: u64,
    pub lost: u64,
    /// Failed queries, by reason.
    pub errors: BTreeMap<&'static str, u64>,
    /// Queries in flight when the user ended the run.
    pub unresolved: u64,
    /// Queries that were due and not sent.
    pub unsent: u64,
    /// Lost and failed queries, as a share of `sent`.
    pub loss: f64,
    pub answered_per_s: f64,
    /// Responses by response code.
    pub rcodes: BTreeMap<String, u64>,
    pub truncated: u64,
    /// Responses without a query in flight.
    pub stray: u64,
    /// Latencies of all responses.
    pub latency_ms: LatencySummary,
    /// Latencies of questions that were new to this target.
    pub first_seen_ms: LatencySummary,
    /// Latencies of repeated questions.
    pub repeated_ms: LatencySummary,
    /// Delays of sending; part of the latencies.
    pub sender_lag_ms: LatencySummary,
    /// Latencies over the course of the run.
    pub over_time: Vec<Point>,
    /// Points (share, latency) of repeated and of new questions, for a chart.
    #[serde(skip)]
    pub curves: [Vec<(f64, f64)>; 2],
}

/// Latencies in milliseconds; null if there are none.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LatencySummary {
    pub count: u64,
    pub mean: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
    pub max: Option<f64>,
}

/// One part of the run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// Start of the part, in seconds since the start of the run.
    pub at_s: f64,
    pub count: u64,
    /// Median latency, in milliseconds.
    pub p50: f64,
    /// 99th percentile of the latencies, in milliseconds.
    pub p99: f64,
}

const MILLISECOND: f64 = 1e6;

impl LoadReport {
    /// Builds the report of a run. `names`, `questions`, `draw` and `edns` describe the questions.
    pub fn new(
        plan: &LoadPlan,
        outcome: &LoadOutcome,
        names: String,
        questions: usize,
        draw: &'static str,
        edns: bool,
    ) -> Self {
        let (rate, closed) = match plan.pace {
            Pace::Open { rate } => (Some(rate), None),
            Pace::Closed { in_flight } => (None, Some(in_flight)),
        };
        let settings = Settings {
            rate,
            closed,
            duration_s: plan.duration.as_secs_f64(),
            timeout_s: plan.timeout.as_secs_f64(),
            transport: if plan.tcp { "tcp" } else { "udp" },
            sockets: plan.lines,
            edns,
            names,
            questions,
            draw,
            seed: plan.seed,
        };
        let records = plan.targets.iter().zip(&outcome.records).zip(&outcome.asked_for);
        let targets =
            records.map(|((target, record), asked)| TargetReport::new(*target, record, asked.as_secs_f64())).collect();
        Self { shape: SHAPE, settings, interrupted: outcome.interrupted, targets }
    }

    /// Returns the report as indented JSON.
    pub fn json(&self) -> String {
        match serde_json::to_string_pretty(self) {
            Ok(text) => text,
            Err(error) => unreachable!("a plain structure with text keys: {error}"),
        }
    }
}

impl TargetReport {
    fn new(target: SocketAddr, record: &TargetStats, asked_s: f64) -> Self {
        let answered = record.answers();
        let rcodes = record.rcodes.iter().enumerate().filter(|(_, count)| **count > 0);
        let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
        Self {
            target,
            asked_s: round(asked_s),
            sent: record.sent,
            answered,
            lost: record.lost,
            errors: record.errors.iter().map(|(trouble, count)| (trouble.word(), *count)).collect(),
            unresolved: record.unresolved,
            unsent: record.unsent,
            loss: share(record.lost + record.failures(), record.sent),
            answered_per_s: if asked_s > 0.0 { (answered as f64 / asked_s).round() } else { 0.0 },
            rcodes: rcodes.map(|(code, count)| (Rcode::of_flags(code as u16).to_string(), *count)).collect(),
            truncated: record.truncated,
            stray: record.stray,
            latency_ms: LatencySummary::of(&record.all()),
            first_seen_ms: LatencySummary::of(&record.first),
            repeated_ms: LatencySummary::of(&record.repeated),
            sender_lag_ms: LatencySummary::of(&record.lag),
            over_time: record.over_time().map(|(at, part)| Point::of(at, part)).collect(),
            curves: [curve(&record.repeated), curve(&record.first)],
        }
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl LatencySummary {
    fn of<C: Counter>(values: &Histogram<C>) -> Self {
        let any = !values.is_empty();
        // The upper bound of a bucket may exceed its highest value.
        let at = |quantile| any.then(|| ms(values.value_at_quantile(quantile).min(values.max())));
        Self {
            count: values.len(),
            mean: any.then(|| round(values.mean() / MILLISECOND)),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: any.then(|| ms(values.max())),
        }
    }
}

impl Point {
    fn of(at: u64, part: &Histogram<u32>) -> Self {
        let quantile = |quantile| ms(part.value_at_quantile(quantile));
        Self { at_s: round(at as f64 / 1e9), count: part.len(), p50: quantile(0.5), p99: quantile(0.99) }
    }
}

/// Returns (share, latency) points with shares that approach 1, as far as the number of values distinguishes them.
fn curve(values: &Histogram<u64>) -> Vec<(f64, f64)> {
    if values.is_empty() {
        return Vec::new();
    }
    let last = 1.0 - 0.5 / values.len() as f64;
    let nines = (0..=200).map(|step| 1.0 - 10f64.powf(-f64::from(step) / 40.0));
    let mut points: Vec<(f64, f64)> =
        nines.take_while(|share| *share < last).map(|share| (share, ms(values.value_at_quantile(share)))).collect();
    points.push((last, ms(values.max())));
    points
}

fn ms(nanos: u64) -> f64 {
    round(nanos as f64 / MILLISECOND)
}

/// Rounds to six decimals: finer than a histogram resolves, and short in print.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Returns a report about one target: 97 responses, one lost and two failed queries.
#[cfg(test)]
pub(super) fn example() -> LoadReport {
    use std::time::Duration;

    use super::pace::SECOND;
    use super::pending::SentQuery;
    use super::record::LossReason;

    const MS: u64 = SECOND / 1_000;
    let mut record = TargetStats::new(10 * SECOND, 0);
    for n in 0..100 {
        let intended = n * 100 * MS;
        let query = SentQuery { intended, sent: intended + MS / 20, question: 0, first: n % 4 == 0 };
        record.left(&query);
        match n {
            97 => record.lost += 1,
            98 => record.failed(LossReason::Refused),
            99 => record.failed(LossReason::Closed),
            _ => record.answered(&query, intended + (1 + n % 10) * MS, &[0, 0, 0x80, if n == 5 { 3 } else { 0 }]),
        }
    }
    let plan = LoadPlan {
        targets: vec![SocketAddr::from(([192, 0, 2, 1], 53))],
        pace: Pace::Open { rate: 10 },
        duration: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        tcp: false,
        lines: 4,
        seed: 1,
    };
    let outcome = LoadOutcome { records: vec![record], asked_for: vec![plan.duration], interrupted: true };
    LoadReport::new(&plan, &outcome, "built-in".to_owned(), 300, "zipf", true)
}
