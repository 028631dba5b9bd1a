//! Results, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::honest::{HonestStats, Outcomes};
use crate::visits::Visits;

/// Name of the floor.
pub const FLOOR: &str = "floor";

/// Results of a run.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Date, in UTC.
    pub date: String,
    /// Processor, CPUs and kernel.
    pub machine: String,
    /// Duration of each attack, in seconds.
    pub seconds: f64,
    /// Name and version of each measured server, by its short name.
    pub servers: BTreeMap<String, String>,
    /// Skipped servers and attacks, with the reason.
    pub skipped: Vec<String>,
    /// Outcomes of the honest client before the attacks, for each server: the sum over all attacks.
    pub idle: BTreeMap<String, Latencies>,
    /// One row for each attack on each server.
    pub rows: Vec<Row>,
}

/// Latencies of the honest client's hits, in milliseconds, and outcomes of its queries.
#[derive(Clone, Debug, Serialize)]
pub struct Latencies {
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    most_ms: Option<f64>,
    hits: Outcomes,
    fresh: Outcomes,
}

/// Results of one attack on one server.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Name of the attack.
    pub attack: String,
    /// Name of the server.
    pub server: String,
    /// Peak resident memory since the process started, in MiB.
    pub peak_mib: f64,
    /// Resident memory a while after the attack, in MiB; `None` for the floor.
    pub after_mib: Option<f64>,
    /// Peak kernel memory of the sockets of the server's port, in MiB; `None` without `ss`.
    pub sockets_mib: Option<f64>,
    /// CPU time of the server during the attack, in seconds.
    pub cpu_s: f64,
    /// Outcomes of the honest client during the attack.
    pub honest: Latencies,
    /// Visits of the honest client over TCP; `None` for the floor.
    pub visits: Option<Visits>,
    /// Queries that upstreams received during the attack; in the attack with CNAMEs, those for the target in each round.
    pub upstream_queries: u64,
    /// Number of messages that the attacker sent.
    pub sent: u64,
    /// Answers of clients that ask more than their limit, in the attack of many clients.
    pub beyond_limit: Option<BeyondLimit>,
    /// True if the server ended during the attack.
    pub died: bool,
    /// True if the attack was ended early, because the server had grown to 1 GiB.
    pub ended_early: bool,
}

/// Answers of clients that ask more than their limit.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BeyondLimit {
    /// Answers that they got.
    pub answered: u64,
    /// Answers that the limit allows: a burst of one second, and then the limit.
    pub allowed: u64,
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
    fn remark(&self) -> String {
        match (self.died, self.ended_early, self.beyond_limit) {
            (true, ..) => " (it ended)".to_owned(),
            (_, true, _) => " (attack ended at 1 GiB)".to_owned(),
            (.., Some(BeyondLimit { answered, allowed })) => {
                format!(" (beyond the limit: {answered} answers, allowed {allowed})")
            }
            _ => String::new(),
        }
    }

    /// Formats the number of failed visits and of all visits.
    fn in_vain(&self) -> String {
        self.visits.as_ref().map_or("-".to_owned(), |visits| format!("{}/{}", visits.failed, visits.made))
    }

    /// Returns a line of progress.
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

/// Returns the table, in Markdown.
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
        // Writing to a String cannot fail.
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

/// Formats a count of cached and of fresh names.
fn pair(honest: &Latencies, count: impl Fn(&Outcomes) -> u64) -> String {
    match (count(&honest.hits), count(&honest.fresh)) {
        (0, 0) => "0".to_owned(),
        (hits, fresh) => format!("{hits} + {fresh}"),
    }
}
