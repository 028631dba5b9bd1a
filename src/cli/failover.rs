//! `nodens bench failover`: measures the cost of an upstream's fault for the clients.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tokio::runtime::Builder;

use super::outcome::Outcome;
use super::progress::{bar, stop_on_signal};
use crate::bench::failover::fault::{FAULTS, Fault};
use crate::bench::failover::plan::Plan;
use crate::bench::failover::run;
use crate::bench::failover::server::Server;
use crate::bench::failover::svg::picture;
use crate::bench::failover::table::table;

/// Measure what a fault of one upstream costs the clients of a resolver: of nodens, and of others beside it.
///
/// Starts two scripted upstreams on loopback and a resolver that forwards to them. The first upstream has the fault; the
/// second is healthy and answers in 2 ms. Their answers are computed from the names, so that a wrong one is seen. Each
/// fault gets a fresh resolver process; nothing else is asked and nothing leaves this machine.
///
/// Steady: 50 new names, one every 50 ms whatever becomes of earlier ones, from a resolver that was started into the
/// fault. Burst: 500 new names one after another; the fault begins at the first, and after 20 s no more are asked. A
/// client waits 5 s for a name and asks only once, so these are the faults as they are, not as retries would soften them.
/// Lost is a query without a good answer: none, SERVFAIL or the like, or a wrong one; it counts as 5 s in all
/// percentiles. p99 of 50 queries is the slowest but one.
///
/// Others run with near-default settings, each with its own idea of how to choose between two upstreams; nodens runs with
/// `select = "ordered"` and one worker. The figures are of this machine at this time: compare what stands in one table.
///
/// Ctrl-C ends the run and prints what there is. Exit codes: 0 the run is done, whatever it found; 1 nothing could be
/// measured, or something failed; 64 the command line is wrong.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Failover {
    /// Measure this fault alone; may be given several times [default: all]
    #[arg(long = "fault", value_name = "NAME", value_parser = fault())]
    faults: Vec<Fault>,
    /// Measure other servers beside nodens, those that are installed
    #[arg(long)]
    peers: bool,
    /// Measure this server alone; may be given several times
    #[arg(long = "only", value_name = "SERVER", value_parser = server(), conflicts_with = "peers")]
    only: Vec<Server>,
    /// The burst alone, for all servers [default: steady for all, and the burst for nodens]
    #[arg(long)]
    closed: bool,
    /// Fewer names: 20 steady, 100 in a burst
    #[arg(long)]
    quick: bool,
    /// Clients ask over TCP, a connection for each query
    #[arg(long)]
    tcp: bool,
    /// Clients, resolvers and upstreams at ::1 instead of 127.0.0.1
    #[arg(long)]
    ipv6: bool,
    /// Write the figures as JSON too; docs/guides/bench.md tells its shape
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a picture too: a row for each fault, p99 and the slowest of each server
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  nodens bench failover                             nodens and every fault, about two minutes
  nodens bench failover --quick --fault silent --fault servfail
  nodens bench failover --peers --svg failover.svg  beside the other resolvers of this machine
  nodens bench failover --only nodens --only unbound --closed --json failover.json";

impl Failover {
    /// Runs the measurement.
    pub(super) fn run(&self) -> Result<Outcome, (String, Outcome)> {
        let failed = |error: io::Error| (error.to_string(), Outcome::Failed);
        let plan = self.plan().map_err(failed)?;
        if plan.servers.is_empty() {
            let names: Vec<&str> = plan.missing.iter().map(|server| server.name()).collect();
            return Err((format!("not installed: {}", names.join(", ")), Outcome::Failed));
        }
        // Created before the run: an invalid path must not cost a result.
        let (json, svg) = (open(self.json.as_deref())?, open(self.svg.as_deref())?);
        let cells = plan.cells().len() as u64;
        let (about, most) = plan.durations();
        // A failure to print this line must not end the run.
        let _ = writeln!(io::stderr(), "{cells} runs, about {} in all, at most {}", minutes(about), minutes(most));
        let stop = stop_on_signal();
        let bar = bar();
        bar.set_length(cells);
        let begun = std::cell::Cell::new(0);
        // One thread suffices for clients and upstreams, and leaves the other CPUs to the server.
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let report = runtime.block_on(run(&plan, &stop, |cell| {
            bar.set_position(begun.replace(begun.get() + 1));
            bar.set_message(format!("{}, {}, {}", cell.mode.name(), cell.fault.label, cell.server.name()));
        }));
        bar.finish_and_clear();
        let report = report.map_err(failed)?;
        io::stdout().write_all(table(&report).as_bytes()).map_err(failed)?;
        for (file, text) in [(json, report.json()), (svg, picture(&report))] {
            if let Some((path, mut file)) = file {
                file.write_all(text.as_bytes()).map_err(|error| named(path, &error))?;
            }
        }
        Ok(Outcome::Good)
    }

    fn plan(&self) -> io::Result<Plan> {
        let wanted = match (self.only.as_slice(), self.peers) {
            ([], false) => &[Server::Nodens][..],
            ([], true) => &Server::ALL,
            (only, _) => only,
        };
        let (mut servers, mut missing) = (Vec::new(), Vec::new());
        for server in Server::ALL.into_iter().filter(|server| wanted.contains(server)) {
            match server.find() {
                Ok(program) => servers.push((server, program)),
                Err(error) if server == Server::Nodens => return Err(error),
                Err(_) => missing.push(server),
            }
        }
        let mut faults = FAULTS.to_vec();
        faults.retain(|fault| self.faults.is_empty() || self.faults.iter().any(|wanted| wanted.name == fault.name));
        let Self { closed, quick, tcp, ipv6, .. } = *self;
        Ok(Plan { servers, missing, faults, closed, quick, ipv6, tcp })
    }
}

fn open(path: Option<&Path>) -> Result<Option<(&Path, fs::File)>, (String, Outcome)> {
    let create = |path| Ok((path, fs::File::create(path).map_err(|error| named(path, &error))?));
    path.map(create).transpose()
}

fn named(path: &Path, error: &io::Error) -> (String, Outcome) {
    (format!("{}: {error}", path.display()), Outcome::Failed)
}

fn minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..100 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

fn fault() -> impl TypedValueParser<Value = Fault> {
    PossibleValuesParser::new(FAULTS.map(|fault| fault.name))
        .try_map(|name| Fault::named(&name).ok_or("there is no such fault"))
}

fn server() -> impl TypedValueParser<Value = Server> {
    PossibleValuesParser::new(Server::ALL.map(Server::name))
        .try_map(|name| Server::named(&name).ok_or("there is no such server"))
}
