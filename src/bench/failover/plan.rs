//! Measurements of a run: their selection, order and estimated duration.

use std::path::PathBuf;
use std::time::Duration;

use super::ask::{BURST_LIMIT, STEADY_PACE};
use super::fault::{FaultRow, Mode};
use super::server::TestedServer;
use crate::bench::draw::Random;
use crate::lab::client::PATIENCE;

#[derive(Clone, Debug)]
pub struct FailoverPlan {
    /// The servers and their programs.
    pub servers: Vec<(TestedServer, PathBuf)>,
    /// Requested servers that are not installed.
    pub missing: Vec<TestedServer>,
    pub faults: Vec<FaultRow>,
    /// True to measure only bursts, for all servers; otherwise steady mode for all servers, and bursts for nodens.
    pub closed: bool,
    pub quick: bool,
    /// True to use `::1` instead of `127.0.0.1` for all addresses.
    pub ipv6: bool,
    /// True if clients use TCP.
    pub tcp: bool,
}

/// One measurement: a server with a fault in a mode.
#[derive(Clone, Debug)]
pub struct Cell {
    pub mode: Mode,
    pub fault: FaultRow,
    pub server: TestedServer,
    pub program: PathBuf,
}

/// Typical time that a server takes to start.
const START: Duration = Duration::from_millis(500);

impl FailoverPlan {
    /// Returns all cells in order: all servers for a fault, in random order, before the next fault.
    pub fn cells(&self) -> Vec<Cell> {
        let mut random = Random::new(1);
        let mut cells = Vec::new();
        for mode in [Mode::Steady, Mode::Burst] {
            for fault in self.faults.iter().filter(|fault| fault.is_for(mode)) {
                let mut servers = self.servers.clone();
                servers.retain(|(server, _)| match mode {
                    Mode::Steady => !self.closed,
                    Mode::Burst => self.closed || *server == TestedServer::Nodens,
                });
                random.shuffle(&mut servers);
                cells.extend(servers.into_iter().map(|(server, program)| Cell {
                    mode,
                    fault: *fault,
                    server,
                    program,
                }));
            }
        }
        cells
    }

    /// Returns the estimated and the maximum duration of the run, if all servers start normally.
    pub fn durations(&self) -> (Duration, Duration) {
        let mut sum = (Duration::ZERO, Duration::ZERO);
        for cell in self.cells() {
            let (about, most) = cell.durations(self.quick);
            sum = (sum.0 + about, sum.1 + most);
        }
        sum
    }
}

impl Cell {
    fn durations(&self, quick: bool) -> (Duration, Duration) {
        let queries = self.fault.queries(self.mode, quick);
        let nodens = self.server == TestedServer::Nodens;
        let (about, most) = match self.mode {
            Mode::Steady => {
                // The last queries may take up to the client's timeout.
                let tail = if nodens { PATIENCE / 20 } else { PATIENCE / 3 };
                (STEADY_PACE * queries + tail, STEADY_PACE * queries + PATIENCE)
            }
            Mode::Burst => {
                let each = Duration::from_millis(if nodens { 5 } else { 20 });
                (each * queries, BURST_LIMIT + PATIENCE)
            }
        };
        (START + about, START + most)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::FAULTS;
    use super::*;

    fn plan(servers: &[TestedServer], closed: bool) -> FailoverPlan {
        FailoverPlan {
            servers: servers.iter().map(|server| (*server, PathBuf::from("p"))).collect(),
            missing: Vec::new(),
            faults: FAULTS.into(),
            closed,
            quick: false,
            ipv6: false,
            tcp: false,
        }
    }

    #[test]
    fn servers_take_a_fault_in_turn() {
        let cells = plan(&[TestedServer::Nodens, TestedServer::Unbound, TestedServer::Bind], false).cells();
        let (steady, burst): (Vec<_>, Vec<_>) = cells.iter().partition(|cell| cell.mode == Mode::Steady);
        for (turn, fault) in steady.chunks(3).zip(FAULTS) {
            assert!(turn.iter().all(|cell| cell.fault.name == fault.name));
            let mut names: Vec<_> = turn.iter().map(|cell| cell.server.name()).collect();
            names.sort_unstable();
            assert_eq!(names, ["bind", "nodens", "unbound"]);
        }
        assert_eq!(steady.len(), 3 * FAULTS.len());
        assert_eq!(burst.len(), FAULTS.len() - 7, "nodens alone, and not what needs time or is brief");
        assert!(burst.iter().all(|cell| cell.server == TestedServer::Nodens));
    }

    #[test]
    fn closed_is_the_burst_alone_and_for_all() {
        let plan = plan(&[TestedServer::Nodens, TestedServer::Dnsdist], true);
        let cells = plan.cells();
        assert_eq!(cells.len(), 2 * (FAULTS.len() - 7));
        assert!(cells.iter().all(|cell| cell.mode == Mode::Burst));
        let (about, most) = plan.durations();
        assert!(about < most, "{about:?} {most:?}");
    }
}
