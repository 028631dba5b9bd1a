//! The bounds of a running server: the limits that nodens promises for speed, memory and steadiness, measured on the built
//! program.
//!
//! ```text
//! main: which bounds ──► workers  names  lookup  tail  start  sender      one file for each
//!                           └──────┴──────┴─────┴─────┴──► server         the program as a process: CPU, memory
//!                                                     └──► load           questions, and the load that asks them
//!                                                     └──► responder      an upstream, and the floor of any server
//!                        ──► finding: bound, measured, asked, met or missed by how much
//! ```
//!
//! This is a report, not a test: it shows missed bounds, and the exit code stays 0. Costs are in CPU time, which a busy
//! machine disturbs less than wall-clock time. Values that are compared are measured in turns.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use self::finding::Finding;

mod finding;
mod load;
mod lookup;
mod names;
mod responder;
mod sender;
mod server;
mod start;
mod tail;
mod workers;

/// Allocator of the program, because a miss allocates.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure the bounds of a running nodens: a report, whose exit code is always 0.
#[derive(Debug, Parser)]
#[command(name = "bounds", after_help = EXAMPLES)]
struct Bounds {
    /// Only these bounds; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    only: Vec<Bound>,
    /// Shorter runs with a tenth of the names: a check that everything works, with rough figures
    #[arg(long)]
    quick: bool,
    /// Measure this program instead of the one built with the benchmark
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_nodens"))]
    binary: PathBuf,
    /// Argument that cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// Group of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bound {
    /// Two workers share nothing that costs CPU time
    Workers,
    /// A million names: cost of a hit as a server, memory
    Names,
    /// A million names: cost of a look-up within the process
    Lookup,
    /// Other activity does not slow hits
    Tail,
    /// Time from exec to the first response, and size of the program
    Start,
    /// Query rate of `nodens bench`
    Sender,
}

const EXAMPLES: &str = "\
Examples:
  cargo bench --bench bounds
  cargo bench --bench bounds -- --quick
  cargo bench --bench bounds -- --only names --only lookup
  cargo bench --bench bounds -- --only tail --binary /usr/local/bin/nodens";

/// State shared by all measurements.
#[derive(Clone, Debug)]
struct Setting {
    binary: PathBuf,
    quick: bool,
}

fn main() -> ExitCode {
    let bounds = Bounds::parse();
    let setting = Setting { binary: bounds.binary, quick: bounds.quick };
    let chosen = |bound: &Bound| bounds.only.is_empty() || bounds.only.contains(bound);
    println!("{}", finding::machine());
    println!("{}", Finding::HEAD);
    for bound in Bound::value_variants().iter().filter(|bound| chosen(bound)) {
        let measured = match bound {
            Bound::Workers => workers::measure(&setting),
            Bound::Names => names::measure(&setting),
            Bound::Lookup => lookup::measure(&setting),
            Bound::Tail => tail::measure(&setting),
            Bound::Start => start::measure(&setting),
            Bound::Sender => sender::measure(&setting),
        };
        print(*bound, measured);
    }
    ExitCode::SUCCESS
}

fn print(bound: Bound, measured: io::Result<Vec<Finding>>) {
    match measured {
        Ok(findings) => findings.iter().for_each(|finding| println!("{finding}")),
        Err(error) => println!("{bound:?} could not be measured: {error}"),
    }
}
