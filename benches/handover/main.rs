//! Cost of an upgrade, a crash and a restart for the clients: queries lost under load, by nodens and its peers.
//!
//! ```text
//! main: the events ──► server   the program as a process, its configuration, its log
//!                  ──► load     dnsperf over UDP and TCP at once, which never retries
//!                  ──► chart    the results as a picture
//! ```
//!
//! The server has one CPU and one worker, the clients have the other CPUs. Each kind of clients keeps enough queries in
//! flight that the server is never idle. This is a report, not a test: the exit code stays 0 whatever the figures are.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;

use self::chart::{Row, chart};
use self::load::{Load, Lost};
use self::server::{Kind, Server, Site};

mod chart;
mod death;
mod load;
mod server;

/// Number of names that are queried. All of them are soon in the cache.
const NAMES: usize = 1_000;
/// Time before the first event, and after the last one.
const MARGIN: Duration = Duration::from_secs(2);
/// Interval between two events. A worker that dies within a second after it began to serve is replaced more slowly.
const EVERY: Duration = Duration::from_millis(1_300);

/// Count the queries that upgrades, crashes and restarts lose: a report, whose exit code is 0 whatever the figures are.
#[derive(Debug, Parser)]
#[command(name = "handover", after_help = EXAMPLES)]
struct Options {
    /// Only these events; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    only: Vec<Event>,
    /// Number of upgrades and of kills
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    events: u32,
    /// Number of restarts of each peer
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    restarts: u32,
    /// Measure this program instead of the one built with the benchmark
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_nodens"))]
    binary: PathBuf,
    /// Write the results as an SVG image to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Line of text in the image: the machine, the date
    #[arg(long, value_name = "TEXT", default_value = "")]
    machine: String,
    /// This process is in the network namespace for the deaths
    #[arg(long, hide = true)]
    node: bool,
    /// Argument that cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// Event that is repeated under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Event {
    /// A new nodens takes over, and the old one is stopped
    Upgrades,
    /// The worker is killed with SIGKILL
    Kills,
    /// Unbound is stopped and started again
    Unbound,
    /// dnsdist is stopped and started again
    Dnsdist,
    /// Every process is killed, with and without a fallback; needs root
    Deaths,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench --bench handover                           all of it, some four minutes; needs dnsperf
  cargo bench --bench handover -- --only kills --events 5
  cargo bench --bench handover -- --only deaths          an address that outlives its server; needs root, ip, nft
  cargo bench --bench handover -- --svg upgrades.svg --machine EPYC
  cargo bench --bench handover -- --only upgrades --binary target/release/nodens";

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("handover: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    if options.node {
        return death::measure_all(&options.binary);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let zone = LabZone::new(".").record("*.load.example. 3600 A 192.0.2.1");
    let upstream = runtime.block_on(LabUpstream::start(([127, 0, 0, 1], 0).into(), zone))?;
    let wanted = |event| options.only.is_empty() || options.only.contains(&event);
    if options.only != [Event::Deaths] {
        println!("{:<28} {:>11} {:>6} {:>11} {:>6}   ", "", "UDP queries", "lost", "TCP queries", "lost");
    }
    let mut rows = Vec::new();
    for event in [Event::Upgrades, Event::Kills, Event::Unbound, Event::Dnsdist].into_iter().filter(|one| wanted(*one))
    {
        let (kind, count) = match event {
            Event::Upgrades | Event::Kills => (Kind::Nodens, options.events),
            Event::Unbound => (Kind::Unbound, options.restarts),
            Event::Dnsdist => (Kind::Dnsdist, options.restarts),
            Event::Deaths => continue,
        };
        let what = match event {
            Event::Upgrades => format!("nodens, {count} upgrades"),
            Event::Kills => format!("nodens, {count} kills"),
            Event::Unbound => format!("unbound, {count} restarts"),
            Event::Dnsdist => format!("dnsdist, {count} restarts"),
            Event::Deaths => continue,
        };
        let site = Site::new(&options.binary, upstream.address())?;
        let Some(server) = site.start(kind)? else {
            println!("{what:<28} skipped: it is not installed");
            continue;
        };
        match measure(event, count, &site, server) {
            Ok((lost, more)) => {
                println!(
                    "{what:<28} {:>11} {:>6} {:>11} {:>6}   {more}",
                    lost.udp.sent, lost.udp.lost, lost.tcp.sent, lost.tcp.lost
                );
                rows.push(Row { label: what, count, lost });
            }
            Err(error) => println!("{what:<28} failed: {error}"),
        }
    }
    if wanted(Event::Deaths) {
        death::run(&options.binary)?;
    }
    match &options.svg {
        Some(file) => fs::write(file, chart(&rows, &options.machine)),
        None => Ok(()),
    }
}

/// Repeats the event `count` times under load; returns the lost queries, and a remark.
fn measure(event: Event, count: u32, site: &Site, mut server: Server) -> io::Result<(Lost, String)> {
    let time = MARGIN * 2 + EVERY * count;
    let load = Load::start(&site.dir, site.address(), NAMES, time)?;
    sleep(MARGIN);
    let mut gaps = Vec::new();
    for _ in 0..count {
        let began = std::time::Instant::now();
        match event {
            Event::Upgrades => {
                let new = site.start(Kind::Nodens)?.ok_or_else(|| io::Error::other("no program"))?;
                server.stop()?;
                server = new;
            }
            Event::Kills => gaps.push(server.kill_worker()?),
            Event::Unbound | Event::Dnsdist | Event::Deaths => {
                let kind = server.kind;
                server.stop()?;
                server = site.start(kind)?.ok_or_else(|| io::Error::other("no program"))?;
            }
        }
        sleep(EVERY.saturating_sub(began.elapsed()));
    }
    let lost = load.end()?;
    server.stop()?;
    gaps.sort_unstable();
    let more = match (gaps.get(gaps.len() / 2), gaps.last()) {
        (Some(median), Some(most)) => format!("no worker for {median} ms in the median, {most} ms at most"),
        _ => String::new(),
    };
    Ok((lost, more))
}
