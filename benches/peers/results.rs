//! Results, and the figures derived from them.

use serde::{Deserialize, Serialize};

use crate::modes::Mode;

/// Server that all others are compared with.
pub const FLOOR: &str = "floor";

/// Results of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    /// Date, as `2026-01-31`.
    pub date: String,
    /// Processor, CPUs and kernel.
    pub machine: String,
    /// Upstream that all servers forward to.
    pub upstream: String,
    /// Number of measurements of each server in each mode.
    pub rounds: u32,
    /// Duration of each measurement.
    pub seconds: f64,
    /// Queries a second in the mode `latency`.
    pub rate: u64,
    /// Measured servers.
    pub servers: Vec<Server>,
    /// Measurements, by mode.
    pub modes: Vec<ModeResults>,
}

/// Measured server.
#[derive(Debug, Serialize, Deserialize)]
pub struct Server {
    /// Name in the results.
    pub name: String,
    /// Version that its program prints.
    pub version: String,
    /// Time from its start to its first response, in milliseconds.
    pub start_ms: f64,
    /// Resident memory after the first response, and at the end, in MiB.
    pub memory_mib: [f64; 2],
}

/// Measurements in one mode.
#[derive(Debug, Serialize, Deserialize)]
pub struct ModeResults {
    /// The mode.
    pub mode: Mode,
    /// One sample a round for each server, in the order of `servers`.
    pub samples: Vec<Vec<Sample>>,
}

/// Measurement of one server in one mode in one round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Number of the round.
    pub round: u32,
    /// CPU time of an answer, in microseconds.
    pub cpu_us: f64,
    /// Answers a second.
    pub qps: f64,
    /// CPU time divided by elapsed time: 1 if the server was never idle.
    pub busy: f64,
    /// Median latency, in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency, in microseconds.
    pub p99_us: f64,
    /// Queries sent.
    pub sent: u64,
    /// Queries without an answer in time.
    pub lost: u64,
    /// Answers with an error.
    pub failed: u64,
    /// True if there were too few new names, so that some were queried twice.
    pub repeated: bool,
}

/// Results of one server in one mode: medians over the rounds, and sums of lost and failed queries.
#[derive(Debug, PartialEq)]
pub struct Row<'a> {
    /// Name of the server.
    pub server: &'a str,
    /// CPU time of an answer, in microseconds.
    pub cpu_us: f64,
    /// CPU time of an answer as a multiple of the floor's in the same round.
    pub ratio: Option<f64>,
    /// Distance from the median to the farthest round, as a share of the median; of the ratio if there is one.
    pub spread: f64,
    /// Answers a second.
    pub qps: f64,
    /// CPU time divided by elapsed time.
    pub busy: f64,
    /// Median latency, in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency, in microseconds.
    pub p99_us: f64,
    /// Queries without an answer in time.
    pub lost: u64,
    /// Answers with an error.
    pub failed: u64,
    /// True if names that should have been new were queried twice.
    pub repeated: bool,
}

impl Results {
    /// Returns the rows of a mode, ordered by CPU time; none if the mode was not measured.
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
        // The floor's ratio to itself is always 1.
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

/// Returns the median, which is the mean of the two middle values for an even number of them; 0 for no values.
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

/// Returns the distance from the median to the farthest value, as a share of the median.
pub fn spread(values: &[f64]) -> f64 {
    let middle = median(values);
    let farthest = values.iter().map(|value| (value - middle).abs()).fold(0.0, f64::max);
    if middle > 0.0 { farthest / middle } else { 0.0 }
}
