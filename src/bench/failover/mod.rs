//! What a fault of one upstream costs the clients: `nodens bench failover`.
//!
//! ```text
//! fault ──► ask ─────────────► server under test ──► two scripted upstreams
//! what      names: new ones,   server: its files     the first has the fault,
//! happens   answers checked    process: its life     the second answers in 2 ms
//! and when     │
//!              └──► figures ──► report ──► table, JSON, svg
//! ```
//!
//! Each cell of the tables has a fresh server process and fresh upstreams, so that nothing learnt in one helps or harms
//! the next. All servers have their turn at a fault before the next fault comes, in an order drawn anew for each.

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

use self::ask::Task;
use self::fault::{HEALTHY_LATENCY, Mode};
use self::figures::Figures;
use self::plan::{Cell, Plan};
use self::process::Process;
use self::report::{Outcome, Report};
use crate::lab::upstream::Upstream;

/// Measures all cells of a plan in turn; `progress` is told before each.
///
/// # Errors
/// What the system says if the upstreams cannot do as they should, or if nodens itself does not start. Another server
/// that does not start is told of in the report.
pub async fn run(plan: &Plan, stop: &AtomicBool, progress: impl Fn(&Cell)) -> io::Result<Report> {
    let mut report = Report::new(plan);
    for cell in plan.cells() {
        progress(&cell);
        let outcome = measure(plan, &cell, stop).await?;
        // A cell that was cut short says nothing.
        report.interrupted = stop.load(Ordering::Relaxed);
        if report.interrupted {
            break;
        }
        report.add(&cell, outcome);
    }
    Ok(report)
}

async fn measure(plan: &Plan, cell: &Cell, stop: &AtomicBool) -> io::Result<Outcome> {
    let ip = if plan.ipv6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
    let upstreams =
        [Upstream::start((ip, 0).into(), names::zone()).await?, Upstream::start((ip, 0).into(), names::zone()).await?];
    for upstream in &upstreams {
        upstream.set_latency(HEALTHY_LATENCY);
    }
    let queries = cell.fault.queries(cell.mode, plan.quick);
    let changes = cell.fault.changes(queries);
    // A steady client meets a server that was started into the fault; a burst begins together with it.
    if let (Mode::Steady, Some(change)) = (cell.mode, changes.first()) {
        ask::put(&upstreams, change).await?;
    }
    let addresses = upstreams.each_ref().map(Upstream::address);
    let known = if cell.fault.has_one_upstream() { &addresses[..1] } else { &addresses };
    let mut process = match Process::start(cell.server, &cell.program, ip, known).await {
        Ok(process) => process,
        Err(error) if cell.server == server::Server::Nodens => return Err(error),
        Err(error) => return Ok(Outcome { figures: None, trouble: Some(error.to_string()) }),
    };
    let before = upstreams[1].seen_count();
    let task =
        Task { server: process.address(), upstreams: &upstreams, changes: &changes, queries, tcp: plan.tcp, stop };
    let fates = match cell.mode {
        Mode::Steady => ask::steady(task).await?,
        Mode::Burst => ask::burst(task).await?,
    };
    let healthy = cell.fault.spares_the_second().then(|| upstreams[1].seen_count() - before);
    let trouble = (!process.runs()).then(|| format!("{} ended in the middle of it", cell.server.program()));
    Ok(Outcome { figures: Some(Figures::new(&fates, cell.mode == Mode::Burst, healthy)), trouble })
}
