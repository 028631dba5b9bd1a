//! What came of it, and what a reader wants to know of it.

use serde::{Deserialize, Serialize};

use crate::modes::Mode;

/// The server that all others are compared with.
pub const FLOOR: &str = "floor";

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    /// The day, as `2026-01-31`.
    pub date: String,
    /// Processor, CPUs and kernel.
    pub machine: String,
    /// Whom all forward to.
    pub upstream: String,
    /// How often each server was measured in each mode.
    pub rounds: u32,
    /// How long each time.
    pub seconds: f64,
    /// Queries a second in the mode `latency`.
    pub rate: u64,
    /// Who was measured.
    pub servers: Vec<Server>,
    /// And how they did.
    pub modes: Vec<ModeResults>,
}

/// One server.
#[derive(Debug, Serialize, Deserialize)]
pub struct Server {
    /// What it is called here.
    pub name: String,
    /// What it says of itself.
    pub version: String,
    /// From its start to its first answer, in milliseconds.
    pub start_ms: f64,
    /// Resident memory once it answers, and at the end, in MiB.
    pub memory_mib: [f64; 2],
}

/// One mode.
#[derive(Debug, Serialize, Deserialize)]
pub struct ModeResults {
    /// Which.
    pub mode: Mode,
    /// For each server, in the same order, one sample a round.
    pub samples: Vec<Vec<Sample>>,
}

/// One server in one mode in one round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// In which round.
    pub round: u32,
    /// CPU time for an answer, in microseconds.
    pub cpu_us: f64,
    /// Answers a second.
    pub qps: f64,
    /// CPU time by time: 1 if the server had no rest.
    pub busy: f64,
    /// The median latency, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// Queries.
    pub sent: u64,
    /// Queries without an answer in time.
    pub lost: u64,
    /// Answers with an error.
    pub failed: u64,
    /// Whether there were too few new names, so that some were asked for twice.
    pub repeated: bool,
}

/// One server in one mode: medians over the rounds, and sums of what should not have been.
#[derive(Debug, PartialEq)]
pub struct Row<'a> {
    /// Who.
    pub server: &'a str,
    /// CPU time for an answer, in microseconds.
    pub cpu_us: f64,
    /// The same as a multiple of the floor's in the same round.
    pub ratio: Option<f64>,
    /// How far the rounds lie apart: from the median to the farthest, as a share of it. Of the ratio if there is one.
    pub spread: f64,
    /// Answers a second.
    pub qps: f64,
    /// CPU time by time.
    pub busy: f64,
    /// The median latency, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// Queries without an answer in time.
    pub lost: u64,
    /// Answers with an error.
    pub failed: u64,
    /// Whether names were asked for twice that should have been new.
    pub repeated: bool,
}

impl Results {
    /// A mode's rows, the cheapest first; none if it was not measured.
    pub fn rows(&self, mode: Mode) -> Vec<Row<'_>> {
        let Some(results) = self.modes.iter().find(|results| results.mode == mode) else { return Vec::new() };
        let floor = self.servers.iter().position(|server| server.name == FLOOR);
        let floor = floor.and_then(|at| results.samples.get(at));
        let with_name = self.servers.iter().zip(&results.samples);
        let with_samples = with_name.filter(|(_, samples)| !samples.is_empty());
        let mut rows: Vec<Row<'_>> = with_samples.map(|(server, samples)| row(&server.name, samples, floor)).collect();
        rows.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
        rows
    }
}

fn row<'a>(server: &'a str, samples: &[Sample], floor: Option<&Vec<Sample>>) -> Row<'a> {
    let of = |value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Vec<f64>>();
    let costs = of(|sample| sample.cpu_us);
    let ratios: Vec<f64> = floor
        .into_iter()
        .flatten()
        .filter(|floor| floor.cpu_us > 0.0)
        .filter_map(|floor| {
            let sample = samples.iter().find(|sample| sample.round == floor.round)?;
            Some(sample.cpu_us / floor.cpu_us)
        })
        .collect();
    let is_floor = server == FLOOR;
    Row {
        server,
        cpu_us: median(&costs),
        ratio: (!ratios.is_empty()).then(|| median(&ratios)),
        // The floor's ratio to itself says nothing.
        spread: spread(if ratios.is_empty() || is_floor { &costs } else { &ratios }),
        qps: median(&of(|sample| sample.qps)),
        busy: median(&of(|sample| sample.busy)),
        p50_us: median(&of(|sample| sample.p50_us)),
        p99_us: median(&of(|sample| sample.p99_us)),
        lost: samples.iter().map(|sample| sample.lost).sum(),
        failed: samples.iter().map(|sample| sample.failed).sum(),
        repeated: !is_floor && samples.iter().any(|sample| sample.repeated),
    }
}

/// The middle one, or the mean of the two in the middle; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// From the median to the farthest, as a share of the median.
pub fn spread(values: &[f64]) -> f64 {
    let middle = median(values);
    let farthest = values.iter().map(|value| (value - middle).abs()).fold(0.0, f64::max);
    if middle > 0.0 { farthest / middle } else { 0.0 }
}
