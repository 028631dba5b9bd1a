//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::honest::{HonestStats, Outcomes};
use crate::visits::Visits;

/// What the floor is called.
pub const FLOOR: &str = "floor";

/// Everything of a run.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The day, in UTC.
    pub date: String,
    /// Processor, CPUs and kernel.
    pub machine: String,
    /// How long each attack went on, in seconds.
    pub seconds: f64,
    /// What was measured, by its short name: name and version.
    pub servers: BTreeMap<String, String>,
    /// What was not, and why.
    pub skipped: Vec<String>,
    /// The honest client before the attacks, for each server: all of them together.
    pub idle: BTreeMap<String, Latencies>,
    /// An attack on a server.
    pub rows: Vec<Row>,
}

/// Latencies of the honest client's hits, in milliseconds, and what became of its queries.
#[derive(Clone, Debug, Serialize)]
pub struct Latencies {
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    most_ms: Option<f64>,
    hits: Outcomes,
    fresh: Outcomes,
}

/// One attack on one server.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The attack.
    pub attack: String,
    /// The server.
    pub server: String,
    /// The most resident memory since the process started, in MiB.
    pub peak_mib: f64,
    /// Resident memory a while after the attack, in MiB; none of the floor.
    pub after_mib: Option<f64>,
    /// The most that the kernel held for sockets of its port, in MiB; none without `ss`.
    pub sockets_mib: Option<f64>,
    /// CPU time of the server during the attack, in seconds.
    pub cpu_s: f64,
    /// The honest client meanwhile.
    pub honest: Latencies,
    /// Its visits over TCP; none of the floor.
    pub visits: Option<Visits>,
    /// Queries that upstreams saw meanwhile; for names of the same target, those for the target in each round.
    pub upstream_queries: u64,
    /// What the attacker sent.
    pub sent: u64,
    /// Whether the server ended under the attack.
    pub died: bool,
    /// Whether the attack was ended early, because the server had grown to a GiB.
    pub ended_early: bool,
}

impl From<&HonestStats> for Latencies {
    fn from(stats: &HonestStats) -> Self {
        let rounded = |share| stats.milliseconds(share).map(|ms| (ms * 1e3).round() / 1e3);
        Self {
            p50_ms: rounded(0.5),
            p99_ms: rounded(0.99),
            most_ms: rounded(1.0),
            hits: stats.hits.clone(),
            fresh: stats.fresh.clone(),
        }
    }
}

impl Row {
    fn remark(&self) -> &'static str {
        match (self.died, self.ended_early) {
            (true, _) => " (it ended)",
            (_, true) => " (attack ended at 1 GiB)",
            _ => "",
        }
    }

    /// Queries over TCP and looks at `/healthz` that had no answer, of how many.
    fn in_vain(&self) -> String {
        self.visits.as_ref().map_or("-".to_owned(), |visits| format!("{}/{}", visits.failed, visits.made))
    }

    /// A line of progress.
    pub fn line(&self) -> String {
        let honest = &self.honest;
        format!(
            "{}: {}: {:.0} MiB, others' p99 {} ms, lost {}, {:.1} s of CPU, {} visits in vain{}",
            self.attack,
            self.server,
            self.peak_mib,
            shown(honest.p99_ms),
            pair(honest, |outcomes| outcomes.lost),
            self.cpu_s,
            self.in_vain(),
            self.remark()
        )
    }
}

/// The table, in Markdown.
pub fn table(results: &Results) -> String {
    let mut out = format!("{}; {}; {} s of each attack\n", results.date, results.machine, results.seconds);
    out += &results.servers.values().cloned().collect::<Vec<_>>().join(", ");
    for line in &results.skipped {
        out += &format!("\n{line}");
    }
    out += "\n\nMemory in MiB, latencies of others' hits in ms; others' queries: cached + fresh\n\n";
    out += "| attack | server | peak RSS | RSS after | sockets | CPU s | p50 idle | p99 idle | p50 | p99 | lost | failed \
            | wrong | TCP in vain | upstream queries | sent |\n|---|---|";
    out += &"---:|".repeat(14);
    out += "\n";
    for row in &results.rows {
        let honest = &row.honest;
        let idle = results.idle.get(&row.server);
        let (p50, p99) = (idle.and_then(|idle| idle.p50_ms), idle.and_then(|idle| idle.p99_ms));
        let mib = |value: Option<f64>| value.map_or("-".to_owned(), |mib| format!("{mib:.1}"));
        // A String takes everything.
        let _ = writeln!(
            out,
            "| {} | {}{} | {:.1} | {} | {} | {:.1} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.attack,
            row.server,
            row.remark(),
            row.peak_mib,
            mib(row.after_mib),
            mib(row.sockets_mib),
            row.cpu_s,
            shown(p50),
            shown(p99),
            shown(honest.p50_ms),
            shown(honest.p99_ms),
            pair(honest, |outcomes| outcomes.lost),
            pair(honest, |outcomes| outcomes.failed),
            pair(honest, |outcomes| outcomes.wrong),
            row.in_vain(),
            row.upstream_queries,
            row.sent,
        );
    }
    out
}

fn shown(ms: Option<f64>) -> String {
    ms.map_or("-".to_owned(), |ms| format!("{ms:.2}"))
}

/// A count of cached names and of fresh ones.
fn pair(honest: &Latencies, count: impl Fn(&Outcomes) -> u64) -> String {
    match (count(&honest.hits), count(&honest.fresh)) {
        (0, 0) => "0".to_owned(),
        (hits, fresh) => format!("{hits} + {fresh}"),
    }
}
