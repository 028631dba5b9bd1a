//! What a run found, in numbers: the shape of `--json`, and the source of the table and the HTML page.
//!
//! Times are in milliseconds, shares between 0 and 1.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hdrhistogram::{Counter, Histogram};
use serde::Serialize;

use super::load::{Outcome, Plan};
use super::pace::Pace;
use super::record::Record;
use crate::wire::Rcode;

/// The version of the shape: grows when a field changes its meaning or goes.
pub(crate) const SHAPE: u32 = 1;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this shape.
    pub shape: u32,
    /// How it was asked.
    pub settings: Settings,
    /// Whether it was ended before its time.
    pub interrupted: bool,
    /// One for each target, in the order of the command line.
    pub targets: Vec<TargetReport>,
}

/// How it was asked.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Queries a second of an open loop, in a target's turn.
    pub rate: Option<u64>,
    /// Queries under way of a closed loop.
    pub closed: Option<u64>,
    /// Seconds that each target was to be asked.
    pub duration_s: f64,
    /// Seconds after which a query is lost.
    pub timeout_s: f64,
    pub transport: &'static str,
    /// Sockets or connections to each target.
    pub sockets: usize,
    /// Whether queries had an OPT record.
    pub edns: bool,
    /// Where the questions come from: "built-in" or the file.
    pub names: String,
    /// How many different questions there are.
    pub questions: usize,
    pub draw: &'static str,
    /// The seed of all that was drawn.
    pub seed: u64,
}

/// What became of the queries to one target: `sent` is the sum of `answered`, `lost`, the errors and `unresolved`.
#[derive(Clone, Debug, Serialize)]
pub struct TargetReport {
    pub target: SocketAddr,
    /// Seconds that it was asked.
    pub asked_s: f64,
    pub sent: u64,
    /// Those with a reply in time.
    pub answered: u64,
    pub lost: u64,
    /// Those that failed, by reason.
    pub errors: BTreeMap<&'static str, u64>,
    /// Those that still waited when the run was ended.
    pub unresolved: u64,
    /// Queries that were due and never left.
    pub unsent: u64,
    /// Lost and failed, as a share of `sent`.
    pub loss: f64,
    pub answered_per_s: f64,
    /// Replies by response code.
    pub rcodes: BTreeMap<String, u64>,
    /// Replies that were truncated.
    pub truncated: u64,
    /// Replies that belonged to no query under way.
    pub stray: u64,
    /// Latencies of all replies.
    pub latency_ms: Latency,
    /// Of questions that the run asked this target for the first time.
    pub first_seen_ms: Latency,
    /// Of questions that it had asked before.
    pub repeated_ms: Latency,
    /// How late queries left; part of the latencies.
    pub sender_lag_ms: Latency,
    /// The course of the run.
    pub over_time: Vec<Point>,
    /// Latencies at growing shares, for a chart.
    #[serde(skip)]
    pub curves: [Vec<(f64, f64)>; 2],
}

/// Latencies in milliseconds; null where there is none.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean: Option<f64>,
    /// Half of them are no longer than this.
    pub p50: Option<f64>,
    /// 90 of 100.
    pub p90: Option<f64>,
    /// 99 of 100.
    pub p99: Option<f64>,
    /// 999 of 1,000.
    pub p999: Option<f64>,
    pub max: Option<f64>,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// Seconds from the start of the run.
    pub at_s: f64,
    pub count: u64,
    /// Their median, in milliseconds.
    pub p50: f64,
    /// Their 99th percentile, in milliseconds.
    pub p99: f64,
}

/// Nanoseconds of a millisecond.
const MILLISECOND: f64 = 1e6;

impl Report {
    /// The report of a run. `names`, `questions`, `draw` and `edns` say what was asked.
    pub fn new(
        plan: &Plan,
        outcome: &Outcome,
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

    /// The report as JSON, indented.
    pub fn json(&self) -> String {
        match serde_json::to_string_pretty(self) {
            Ok(text) => text,
            Err(error) => unreachable!("a plain structure with text keys: {error}"),
        }
    }
}

impl TargetReport {
    fn new(target: SocketAddr, record: &Record, asked_s: f64) -> Self {
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
            latency_ms: Latency::of(&record.all()),
            first_seen_ms: Latency::of(&record.first),
            repeated_ms: Latency::of(&record.repeated),
            sender_lag_ms: Latency::of(&record.lag),
            over_time: record.over_time().map(|(at, part)| Point::of(at, part)).collect(),
            curves: [curve(&record.repeated), curve(&record.first)],
        }
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl Latency {
    fn of<C: Counter>(values: &Histogram<C>) -> Self {
        let any = !values.is_empty();
        // A bucket's upper end may lie above the longest value in it.
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

/// Shares and the latencies that they are within, closer and closer to 1, as far as there are values to tell them apart.
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

/// To a millionth: what a histogram tells apart, and short in print.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
