//! Instructions of a query, counted by callgrind and compared with bounds.
//!
//! The count does not depend on the load of the machine, so a change of a few percent shows. Each operation runs twice, the
//! second time with twice as many repetitions. The difference, divided by the number of added repetitions, is the cost of
//! one; preparation cancels out.
//!
//! ```text
//! cargo bench --bench instructions                     all operations, compared with their bounds
//! cargo bench --bench instructions -- --profile hit    the instructions of one operation, by origin
//! ```

use std::collections::BTreeMap;
use std::env;
use std::process::ExitCode;

use mimalloc::MiMalloc;

mod callgrind;
mod operations;
#[path = "../scene/mod.rs"]
mod scene;

use callgrind::Costs;
use operations::{OPERATIONS, Operation, TIMES};

/// Allocator, the same as in `nodens`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Distance from the bound, in percent, above which the bound is too loose.
const TOO_MUCH_ROOM: f64 = 10.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).filter(|argument| *argument != "--bench").collect();
    let outcome = match arguments.as_slice() {
        ["--do", name, times] => run_here(name, times),
        _ if !callgrind::is_installed() => return skipped("valgrind is not installed"),
        _ if cfg!(not(all(target_arch = "x86_64", not(debug_assertions)))) => {
            return skipped("the bounds are those of an optimised build for x86_64");
        }
        ["--profile", name] => profile(name),
        [] => all(),
        _ => Err("usage: cargo bench --bench instructions [-- --profile OPERATION]".to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Reports why nothing was measured. In CI, this is a failure.
fn skipped(why: &str) -> ExitCode {
    println!("skipped: {why}");
    if env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn find(name: &str) -> Result<&'static Operation, String> {
    OPERATIONS.iter().find(|operation| operation.name == name).ok_or_else(|| {
        let names: Vec<_> = OPERATIONS.iter().map(|operation| operation.name).collect();
        format!("{name}: no such operation; there are {}", names.join(", "))
    })
}

/// Runs an operation; called under callgrind.
fn run_here(name: &str, times: &str) -> Result<(), String> {
    let times = times.parse().map_err(|_| format!("{times}: not a number"))?;
    (find(name)?.run)(times);
    Ok(())
}

/// Counts all operations and compares them with their bounds.
fn all() -> Result<(), String> {
    let mut faults = Vec::new();
    println!("{:<12}{:>14}{:>10}{:>8}", "operation", "instructions", "bound", "room");
    for operation in &OPERATIONS {
        let taken = total(&once(operation)?);
        let bound = operation.bound as f64;
        let room = (bound - taken) / bound * 100.0;
        let Operation { name, bound, .. } = operation;
        let note = if room > TOO_MUCH_ROOM { "  far below its bound: lower it" } else { "" };
        println!("{name:<12}{taken:>14.1}{bound:>10}{room:>7.1}%{note}");
        if room < 0.0 {
            faults.push(format!("{name}: {taken:.1} instructions, {:.1} % above its bound of {bound}", -room));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// Prints the instructions of one operation by origin.
fn profile(name: &str) -> Result<(), String> {
    let costs = once(find(name)?)?;
    let whole = total(&costs);
    let mut rows: Vec<_> = costs.into_iter().filter(|(_, cost)| cost.abs() >= whole / 1000.0).collect();
    rows.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    println!("{name}: {whole:.1} instructions\n{:>12}{:>9}  from", "instructions", "share");
    for (origin, cost) in rows {
        println!("{cost:>12.1}{:>8.1}%  {origin}", cost / whole * 100.0);
    }
    Ok(())
}

/// Returns the instructions of one repetition by origin.
fn once(operation: &Operation) -> Result<BTreeMap<String, f64>, String> {
    let fewer = callgrind::count(operation.name, TIMES)?;
    let more = callgrind::count(operation.name, 2 * TIMES)?;
    let mut costs = BTreeMap::new();
    let mut add = |sign: f64, counted: Costs| {
        for (file, cost) in counted {
            *costs.entry(origin(&file)).or_insert(0.0) += sign * cost as f64 / TIMES as f64;
        }
    };
    add(1.0, more);
    add(-1.0, fewer);
    Ok(costs)
}

fn total(costs: &BTreeMap<String, f64>) -> f64 {
    costs.values().sum()
}

/// Returns the origin of a source file: a module of nodens or of the standard library, a package, the C library.
fn origin(file: &str) -> String {
    // HOME/registry/src/INDEX/PACKAGE/...
    if let Some((_, package)) = file.split_once("/registry/src/") {
        return package.split('/').nth(1).unwrap_or(package).to_string();
    }
    let file = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(file);
    let parts: Vec<&str> = file.trim_start_matches('/').trim_end_matches(".rs").split('/').collect();
    match parts.as_slice() {
        ["benches", ..] => "the benchmark itself".to_string(),
        ["src", module @ .., "mod"] | ["src", module @ ..] => format!("nodens::{}", module.join("::")),
        ["rustc", _, "library", part, "src", module, ..] => format!("{part}::{module}"),
        ["rust", "deps", package, ..] => format!("{package}, part of std"),
        // ./string/../sysdeps/..., ./malloc/...
        [".", ..] => "C library".to_string(),
        _ => file.to_string(),
    }
}
