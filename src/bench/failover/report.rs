//! Figures of a run, and their JSON.

use serde::Serialize;

use super::fault::{FaultRow, Mode};
use super::figures::Figures;
use super::plan::{Cell, FailoverPlan};
use super::server::TestedServer;
use crate::lab::client::PATIENCE;

/// Version of the JSON structure; incremented when a field changes its meaning or is removed.
const SHAPE: u32 = 1;

#[derive(Clone, Debug, Serialize)]
pub struct FailoverReport {
    shape: u32,
    nodens: &'static str,
    transport: &'static str,
    ipv6: bool,
    quick: bool,
    patience_s: f64,
    /// True if the user ended the run early; cells are missing then.
    pub interrupted: bool,
    missing: Vec<&'static str>,
    cells: Vec<ReportRow>,
    #[serde(skip)]
    servers: Vec<TestedServer>,
    #[serde(skip)]
    faults: Vec<FaultRow>,
}

/// Result of a cell.
#[derive(Clone, Debug, Serialize)]
pub struct CellOutcome {
    /// Figures, if the server started.
    #[serde(flatten)]
    pub figures: Option<Figures>,
    /// Failure of the server's process.
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct ReportRow {
    server: &'static str,
    mode: &'static str,
    fault: &'static str,
    #[serde(flatten)]
    outcome: CellOutcome,
}

impl FailoverReport {
    /// Returns a report of a plan, without figures yet.
    pub fn new(plan: &FailoverPlan) -> Self {
        Self {
            shape: SHAPE,
            nodens: env!("CARGO_PKG_VERSION"),
            transport: if plan.tcp { "tcp" } else { "udp" },
            ipv6: plan.ipv6,
            quick: plan.quick,
            patience_s: PATIENCE.as_secs_f64(),
            interrupted: false,
            missing: plan.missing.iter().map(|server| server.name()).collect(),
            cells: Vec::new(),
            servers: plan.servers.iter().map(|(server, _)| *server).collect(),
            faults: plan.faults.clone(),
        }
    }

    /// Adds the result of a cell.
    pub fn add(&mut self, cell: &Cell, outcome: CellOutcome) {
        let (server, mode, fault) = (cell.server.name(), cell.mode.name(), cell.fault.name);
        self.cells.push(ReportRow { server, mode, fault, outcome });
    }

    /// Returns the servers with results in this mode, in the order of the command line.
    pub fn servers(&self, mode: Mode) -> Vec<TestedServer> {
        let has = |server: &TestedServer| self.rows(mode).any(|row| row.server == server.name());
        self.servers.iter().copied().filter(has).collect()
    }

    /// Returns the faults with results in this mode.
    pub fn faults(&self, mode: Mode) -> Vec<FaultRow> {
        let has = |fault: &FaultRow| self.rows(mode).any(|row| row.fault == fault.name);
        self.faults.iter().copied().filter(has).collect()
    }

    /// Returns the figures of a cell, if there are any.
    pub fn figures(&self, mode: Mode, fault: &FaultRow, server: TestedServer) -> Option<&Figures> {
        let row = self.rows(mode).find(|row| row.fault == fault.name && row.server == server.name())?;
        row.outcome.figures.as_ref()
    }

    /// Returns the notes: servers not installed, failed processes, an early end.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.missing.is_empty() {
            notes.push(format!("not installed: {}", self.missing.join(", ")));
        }
        for row in &self.cells {
            if let Some(trouble) = &row.outcome.trouble {
                notes.push(format!("{}, {}, {}: {trouble}", row.server, row.mode, row.fault));
            }
        }
        if self.interrupted {
            notes.push("Ended early: the results so far.".to_owned());
        }
        notes
    }

    pub fn transport(&self) -> String {
        format!("{} over {}", self.transport.to_uppercase(), if self.ipv6 { "IPv6" } else { "IPv4" })
    }

    /// Returns the report as JSON; docs/guides/bench.md describes its structure.
    pub fn json(&self) -> String {
        // Serialization cannot fail: all keys are strings.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    fn rows(&self, mode: Mode) -> impl Iterator<Item = &ReportRow> {
        self.cells.iter().filter(move |row| row.mode == mode.name())
    }
}

/// Returns a report of example data for tests: the first server answers all queries, all others fail all.
#[cfg(test)]
pub(super) fn example(mode: Mode, servers: &[TestedServer]) -> FailoverReport {
    use std::time::Duration;

    use super::figures::Fate;
    use super::names::ClientResult;

    let faults: Vec<FaultRow> = ["none", "silent"].into_iter().filter_map(FaultRow::named).collect();
    let plan = FailoverPlan {
        servers: servers.iter().map(|server| (*server, "p".into())).collect(),
        missing: vec![TestedServer::CoreDns],
        faults: faults.clone(),
        closed: false,
        quick: false,
        ipv6: false,
        tcp: false,
    };
    let mut report = FailoverReport::new(&plan);
    for fault in faults {
        for (at, server) in servers.iter().enumerate() {
            let fates: Vec<Fate> = (1..=50)
                .map(|ms| Fate {
                    verdict: if at == 0 { ClientResult::Good } else { ClientResult::Failed },
                    took: Duration::from_millis(ms),
                })
                .collect();
            let figures = Figures::new(&fates, mode == Mode::Burst, Some(52));
            let cell = Cell { mode, fault, server: *server, program: "p".into() };
            report.add(&cell, CellOutcome { figures: Some(figures), trouble: None });
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_a_row_for_each_cell() {
        let report = example(Mode::Steady, &[TestedServer::Nodens, TestedServer::Bind]);
        let value: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        let cells = value["cells"].as_array().expect("cells");
        assert_eq!(cells.len(), 4);
        assert_eq!((&cells[3]["server"], &cells[3]["fault"]), (&"bind".into(), &"silent".into()));
        assert_eq!((&cells[3]["lost"], &cells[0]["p99_ms"]), (&50.into(), &49.0.into()));
        assert_eq!(value["missing"], serde_json::json!(["coredns"]));
    }
}
