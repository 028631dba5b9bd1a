//! `nodens bench failover`: measures the cost of an upstream's fault for the clients.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tokio::runtime::Builder;

use super::outcome::CommandOutcome;
use super::progress::{bar, stop_on_signal};
use crate::bench::failover::fault::{FAULTS, FaultRow};
use crate::bench::failover::plan::FailoverPlan;
use crate::bench::failover::run;
use crate::bench::failover::server::TestedServer;
use crate::bench::failover::svg::picture;
use crate::bench::failover::table::table;

/// Measure the cost of a fault of one upstream server for the clients of nodens, and of other resolvers beside it.
///
/// Starts two scripted upstream servers on loopback and a resolver that forwards to them. The first server has the fault;
/// the second is healthy and answers in 2 ms. Answers are computed from the names, so that wrong ones are detected. Each
/// fault gets a new resolver process. Nothing leaves this machine.
///
/// Steady: 50 new names, one every 50 ms regardless of earlier ones, to a resolver that starts with the fault present.
/// Burst: 500 new names one after another; the fault begins with the first, and the burst ends after 20 s. A client waits
/// 5 s for a name and does not retry. A query is lost if it has no answer, an error such as SERVFAIL, or a wrong answer; it
/// counts as 5 s in all percentiles. The p99 of 50 queries is the second slowest.
///
/// Other resolvers run with near-default settings and choose between the two servers in their own way; nodens runs with
/// `select = "ordered"` and one worker. Compare figures of one table only: they depend on the machine and the time.
///
/// Ctrl-C ends the run and prints the results so far. Exit codes: 0 the run is complete, whatever the results; 1 nothing
/// could be measured, or the run failed; 64 the command line is wrong.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Failover {
    /// Measure only this fault; may be given several times [default: all]
    #[arg(long = "fault", value_name = "NAME", value_parser = fault())]
    faults: Vec<FaultRow>,
    /// Also measure the other resolvers that are installed
    #[arg(long)]
    peers: bool,
    /// Measure only this resolver; may be given several times
    #[arg(long = "only", value_name = "SERVER", value_parser = server(), conflicts_with = "peers")]
    only: Vec<TestedServer>,
    /// Only the burst, for all resolvers [default: steady for all, and the burst for nodens]
    #[arg(long)]
    closed: bool,
    /// Fewer names: 20 steady, 100 in a burst
    #[arg(long)]
    quick: bool,
    /// Query over TCP, with one connection per query
    #[arg(long)]
    tcp: bool,
    /// Use ::1 instead of 127.0.0.1
    #[arg(long)]
    ipv6: bool,
    /// Also write the figures as JSON; docs/guides/bench.md describes it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write a chart: for each fault, the p99 and the maximum of each resolver
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  nodens bench failover                             nodens and every fault, about two minutes
  nodens bench failover --quick --fault silent --fault servfail
  nodens bench failover --peers --svg failover.svg  with the other resolvers of this machine
  nodens bench failover --only nodens --only unbound --closed --json failover.json";

impl Failover {
    pub(super) fn run(&self) -> Result<CommandOutcome, (String, CommandOutcome)> {
        let failed = |error: io::Error| (error.to_string(), CommandOutcome::Failed);
        let plan = self.plan().map_err(failed)?;
        if plan.servers.is_empty() {
            let names: Vec<&str> = plan.missing.iter().map(|server| server.name()).collect();
            return Err((format!("not installed: {}", names.join(", ")), CommandOutcome::Failed));
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
        Ok(CommandOutcome::Good)
    }

    fn plan(&self) -> io::Result<FailoverPlan> {
        let wanted = match (self.only.as_slice(), self.peers) {
            ([], false) => &[TestedServer::Nodens][..],
            ([], true) => &TestedServer::ALL,
            (only, _) => only,
        };
        let (mut servers, mut missing) = (Vec::new(), Vec::new());
        for server in TestedServer::ALL.into_iter().filter(|server| wanted.contains(server)) {
            match server.find() {
                Ok(program) => servers.push((server, program)),
                Err(error) if server == TestedServer::Nodens => return Err(error),
                Err(_) => missing.push(server),
            }
        }
        let mut faults = FAULTS.to_vec();
        faults.retain(|fault| self.faults.is_empty() || self.faults.iter().any(|wanted| wanted.name == fault.name));
        let Self { closed, quick, tcp, ipv6, .. } = *self;
        Ok(FailoverPlan { servers, missing, faults, closed, quick, ipv6, tcp })
    }
}

fn open(path: Option<&Path>) -> Result<Option<(&Path, fs::File)>, (String, CommandOutcome)> {
    let create = |path| Ok((path, fs::File::create(path).map_err(|error| named(path, &error))?));
    path.map(create).transpose()
}

fn named(path: &Path, error: &io::Error) -> (String, CommandOutcome) {
    (format!("{}: {error}", path.display()), CommandOutcome::Failed)
}

fn minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..100 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

fn fault() -> impl TypedValueParser<Value = FaultRow> {
    PossibleValuesParser::new(FAULTS.map(|fault| fault.name))
        .try_map(|name| FaultRow::named(&name).ok_or("there is no such fault"))
}

fn server() -> impl TypedValueParser<Value = TestedServer> {
    PossibleValuesParser::new(TestedServer::ALL.map(TestedServer::name))
        .try_map(|name| TestedServer::named(&name).ok_or("there is no such server"))
}
