//! `nodens bench`: measures DNS servers as their clients see them.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;

use super::failover::Failover;
use super::outcome::CommandOutcome;
use super::own_addresses::own_addresses;
use super::progress::{bar, stop_on_signal};
use crate::bench::draw::Draw;
use crate::bench::guard::{GENTLE_RATE, forbidden};
use crate::bench::html;
use crate::bench::load::{self, LoadPlan, Progress};
use crate::bench::names::Questions;
use crate::bench::pace::Pace;
use crate::bench::report::LoadReport;
use crate::bench::table::{count, table};
use crate::config::address::DNS_PORT;
use crate::config::units::Time;

/// Measure DNS servers as their clients see them.
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Latency(LatencyArgs),
    Failover(Failover),
}

/// Measure the response time of DNS servers side by side: percentiles, loss and response codes.
///
/// The targets can be any DNS servers. They are queried in turns of a quarter of a second, in a random order for each
/// round, so that drift of the machine affects all of them; each gets the same questions. With --rate, queries are sent on
/// schedule even if earlier ones have no response, and latency is measured from the scheduled time, so that a stall counts
/// (coordinated omission). With --closed, a fixed number of queries is in flight, and latency is measured from the time of
/// sending. A name is "first seen" if this run has not asked the target for it before; the server may have it in its cache.
///
/// A target outside this machine, private networks and the local link gets at most 1,000 queries a second, and none with
/// --closed, unless --with-permission confirms that its operator agrees.
///
/// Ctrl-C ends the run and prints the results so far. Exit codes: 0 the run is complete, whatever the results; 1 a target
/// sent no response at all, or the run failed; 64 the command line is wrong or the rate is refused.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct LatencyArgs {
    /// Server to measure: an address, not a name. May be given several times
    #[arg(long = "target", value_name = "ADDR[:PORT]", required = true, value_parser = target)]
    targets: Vec<SocketAddr>,
    /// File of questions, one `name [TYPE]` per line, the most popular first [default: a built-in set like a CI cluster's]
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// Order of questions: zipf draws the nth name 1/n as often as the first, in-turn takes one after the other
    #[arg(long, value_name = "ORDER", default_value = "zipf")]
    draw: OrderArg,
    /// Queries per second to a target in its turn [default: 1000]
    #[arg(long, value_name = "QPS", value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    rate: Option<u64>,
    /// Number of queries in flight, instead of a rate
    #[arg(long, value_name = "N", conflicts_with = "rate", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    closed: Option<u64>,
    /// Time for each target in all, from 100ms to 24h
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// Time after which a query without a response is lost, from 100ms to 60s
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = timeout)]
    timeout: Duration,
    /// Query over TCP, pipelined, instead of UDP
    #[arg(long)]
    tcp: bool,
    /// UDP sockets or TCP connections to each target, up to 64 for all together
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=64))]
    sockets: u16,
    /// Send queries with an OPT record
    #[arg(long)]
    edns: bool,
    /// Seed of the random order; the same seed asks the same questions
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Print JSON instead of a table; docs/guides/bench.md describes it
    #[arg(long)]
    json: bool,
    /// Also write an HTML page with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Confirm that the operator of the targets agrees to more than 1,000 queries per second
    #[arg(long)]
    with_permission: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OrderArg {
    Zipf,
    InTurn,
}

const EXAMPLES: &str = "\
Examples:
  nodens bench latency --target 127.0.0.1:5300
  nodens bench latency --target 169.254.20.10 --target 10.96.0.10 --rate 5000 --html report.html
  nodens bench latency --target 10.96.0.10 --names names.txt --draw in-turn --edns --json
  nodens bench latency --target [::1]:5300 --closed 1000 --duration 10s --tcp";

/// Limit on the targets of one run: each takes memory for its queries in flight, and a colour.
const MOST_TARGETS: usize = 8;
/// Limit on the sockets of one run: each takes up to 2 MiB for its queries in flight.
const MOST_SOCKETS: usize = 64;
/// Default of `--rate`, in queries a second.
const DEFAULT_RATE: u64 = 1_000;

impl Bench {
    pub(super) fn run(&self) -> CommandOutcome {
        let (name, result) = match &self.what {
            BenchCommand::Latency(latency) => ("latency", latency.run()),
            BenchCommand::Failover(failover) => ("failover", failover.run()),
        };
        result.unwrap_or_else(|(error, outcome)| {
            let _ = writeln!(io::stderr(), "nodens bench {name}: {error}"); // the exit code reports it too
            outcome
        })
    }
}

impl LatencyArgs {
    fn run(&self) -> Result<CommandOutcome, (String, CommandOutcome)> {
        let plan = self.plan().map_err(|error| (error, CommandOutcome::BadUsage))?;
        let questions = self.questions().map_err(|error| (error, CommandOutcome::Failed))?;
        let (draw, order) = match self.draw {
            OrderArg::Zipf => (Draw::zipf(questions.len(), self.seed), "zipf"),
            OrderArg::InTurn => (Draw::in_turn(questions.len()), "in-turn"),
        };
        let failed = |error: io::Error| (error.to_string(), CommandOutcome::Failed);
        // Created before the run: an invalid path must not cost a result.
        let page = self.html.as_ref().map(|file| Ok((file, fs::File::create(file)?))).transpose();
        let page = page.map_err(|error: io::Error| {
            let file = self.html.as_deref().unwrap_or(Path::new(""));
            (format!("{}: {error}", file.display()), CommandOutcome::Failed)
        })?;
        let stop = stop_on_signal();
        let bar = bar();
        let outcome = load::run(&plan, &questions, &draw, &stop, |progress| show(&bar, progress)).map_err(failed)?;
        bar.finish_and_clear();
        let names = self.names.as_ref().map_or("built-in".to_owned(), |file| file.display().to_string());
        let report = LoadReport::new(&plan, &outcome, names, questions.len(), order, self.edns);
        let text = if self.json { report.json() + "\n" } else { table(&report) };
        io::stdout().write_all(text.as_bytes()).map_err(failed)?;
        if let Some((file, mut page)) = page {
            let written = page.write_all(html::page(&report).as_bytes());
            written.map_err(|error| (format!("{}: {error}", file.display()), CommandOutcome::Failed))?;
        }
        let silent = report.targets.iter().any(|target| target.answered == 0);
        Ok(if silent { CommandOutcome::Failed } else { CommandOutcome::Good })
    }

    fn plan(&self) -> Result<LoadPlan, String> {
        let pace = match self.closed {
            Some(in_flight) => Pace::Closed { in_flight },
            None => Pace::Open { rate: self.rate.unwrap_or(DEFAULT_RATE) },
        };
        if self.targets.len() > MOST_TARGETS {
            return Err(format!("{} targets are too many: up to {MOST_TARGETS}", self.targets.len()));
        }
        let sockets = self.targets.len() * usize::from(self.sockets);
        if sockets > MOST_SOCKETS {
            return Err(format!("{sockets} sockets are too many: up to {MOST_SOCKETS} for all targets together"));
        }
        if let Some(target) = forbidden(&self.targets, pace, &own_addresses()).filter(|_| !self.with_permission) {
            return Err(format!(
                "{target} is neither an address of this machine nor private: nothing was sent. It may be asked at up to {} queries \
                 a second (--rate); if its operator agrees to more, add --with-permission",
                count(GENTLE_RATE)
            ));
        }
        Ok(LoadPlan {
            targets: self.targets.clone(),
            pace,
            duration: self.duration,
            timeout: self.timeout,
            tcp: self.tcp,
            lines: usize::from(self.sockets),
            seed: self.seed,
        })
    }

    fn questions(&self) -> Result<Questions, String> {
        let Some(file) = &self.names else { return Ok(Questions::built_in(self.edns)) };
        let named = |error: String| format!("{}: {error}", file.display());
        let text = fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
        Questions::parse(&text, self.edns).map_err(named)
    }
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.of);
    bar.set_position(progress.turns);
    bar.set_message(format!("{} sent, {} answered", count(progress.sent), count(progress.answered)));
}

/// Parses an address; its port is 53 unless given.
fn target(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = text.parse().or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)));
    match address {
        Ok(address) if address.port() == 0 => Err("port 0 cannot be queried".to_owned()),
        Ok(address) => Ok(address),
        Err(_) => Err("an address is needed, such as 10.96.0.10, 127.0.0.1:5300 or [::1]:53; a name would have to be \
             resolved first, by the very servers that are measured"
            .to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    time(text, Time::millis(100), Time::secs(86_400))
}

fn timeout(text: &str) -> Result<Duration, String> {
    time(text, Time::millis(100), Time::secs(60))
}

fn time(text: &str, floor: Time, ceiling: Time) -> Result<Duration, String> {
    let time = Time::try_from(text.to_owned())?;
    if time < floor || time > ceiling {
        return Err(format!("from {floor} to {ceiling}"));
    }
    Ok(time.duration())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_addresses() {
        for (text, address) in [
            ("10.0.0.1", "10.0.0.1:53"),
            ("10.0.0.1:5300", "10.0.0.1:5300"),
            ("::1", "[::1]:53"),
            ("[::1]", "[::1]:53"),
            ("[::1]:5300", "[::1]:5300"),
        ] {
            assert_eq!(target(text).map(|address| address.to_string()).as_deref(), Ok(address));
        }
        for text in ["dns.example.com", "10.0.0.1:0", "", "10.0.0"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
