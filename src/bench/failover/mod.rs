//! Measures the effect of upstream faults on clients: `nodens bench failover`.
//!
//! ```text
//! fault ──► ask ─────────────► server under test ──► two scripted upstreams
//! state of  names: new ones,   server: config        the first has the fault,
//! upstreams answers checked    process: lifetime     the second answers in 2 ms
//! by query     │
//!              └──► figures ──► report ──► table, JSON, svg
//! ```
//!
//! Each cell of the tables has a new server process and new upstreams, which keeps state of one cell out of the next. All
//! servers are measured with a fault before the next fault begins, in an order drawn for each fault.

pub(crate) mod ask;
pub mod fault;
pub(crate) mod figures;
pub mod names;
pub(crate) mod plan;
pub mod process;
pub(crate) mod report;
pub mod server;
pub(crate) mod svg;
pub mod table;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use self::ask::AskTask;
use self::fault::{HEALTHY_LATENCY, Mode};
use self::figures::Figures;
use self::plan::{Cell, FailoverPlan};
use self::process::Process;
use self::report::{CellOutcome, FailoverReport};
use crate::lab::upstream::LabUpstream;

/// Measures all cells of a plan in sequence; `progress` is called before each cell.
///
/// # Errors
/// The system's error if the upstreams cannot be started or changed, or if nodens itself does not start. A failed start
/// of another server is recorded in the report.
pub async fn run(plan: &FailoverPlan, stop: &AtomicBool, progress: impl Fn(&Cell)) -> io::Result<FailoverReport> {
    let mut report = FailoverReport::new(plan);
    for cell in plan.cells() {
        progress(&cell);
        let outcome = measure(plan, &cell, stop).await?;
        // The figures of an interrupted cell are discarded.
        report.interrupted = stop.load(Ordering::Relaxed);
        if report.interrupted {
            break;
        }
        report.add(&cell, outcome);
    }
    Ok(report)
}

async fn measure(plan: &FailoverPlan, cell: &Cell, stop: &AtomicBool) -> io::Result<CellOutcome> {
    let ip = if plan.ipv6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
    let upstreams = [
        LabUpstream::start((ip, 0).into(), names::zone()).await?,
        LabUpstream::start((ip, 0).into(), names::zone()).await?,
    ];
    for upstream in &upstreams {
        upstream.set_latency(HEALTHY_LATENCY);
    }
    let queries = cell.fault.queries(cell.mode, plan.quick);
    let changes = cell.fault.changes(queries);
    // In steady mode the upstreams enter the first state before the server starts; in a burst, at the first query.
    if let (Mode::Steady, Some(change)) = (cell.mode, changes.first()) {
        ask::put(&upstreams, change).await?;
    }
    let addresses = upstreams.each_ref().map(LabUpstream::address);
    let known = if cell.fault.has_one_upstream() { &addresses[..1] } else { &addresses };
    let mut process = match Process::start(cell.server, &cell.program, ip, known).await {
        Ok(process) => process,
        Err(error) if cell.server == server::TestedServer::Nodens => return Err(error),
        Err(error) => return Ok(CellOutcome { figures: None, trouble: Some(error.to_string()) }),
    };
    let before = upstreams[1].seen_count();
    let task =
        AskTask { server: process.address(), upstreams: &upstreams, changes: &changes, queries, tcp: plan.tcp, stop };
    let fates = match cell.mode {
        Mode::Steady => ask::steady(task).await?,
        Mode::Burst => ask::burst(task).await?,
    };
    let healthy = cell.fault.spares_the_second().then(|| upstreams[1].seen_count() - before);
    let trouble = (!process.runs()).then(|| format!("{} ended in the middle of it", cell.server.program()));
    Ok(CellOutcome { figures: Some(Figures::new(&fates, cell.mode == Mode::Burst, healthy)), trouble })
}
