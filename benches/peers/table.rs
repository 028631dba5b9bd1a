//! Plain tables for a terminal.

use std::fmt::Write;

use crate::modes::Mode;
use crate::results::{Results, Row};

/// Share of its CPU below which a server waited for the load or the upstream.
const BUSY: f64 = 0.95;

/// Returns one table for each mode, ordered by CPU time, and one of the servers.
pub fn tables(results: &Results) -> String {
    let mut out = format!("{}; {}; upstream: {}\n", results.date, results.machine, results.upstream);
    let mut idle = false;
    let mut add = |line: String| {
        let _ = writeln!(out, "{}", line.trim_end()); // writing to a String cannot fail
    };
    for mode in Mode::ALL {
        let rows = results.rows(mode);
        if rows.is_empty() {
            continue;
        }
        let rate = if mode == Mode::Latency { format!(" ({} q/s)", results.rate) } else { String::new() };
        add(String::new());
        add(format!("{}{rate}", mode.title()));
        let figures = if mode == Mode::Latency { ["p50 us", "p99 us"] } else { ["q/s", "busy"] };
        let [one, two] = figures;
        add(format!(
            "  {:<14}{:>10}{:>9}{:>7}{one:>10}{two:>8}{:>8}{:>8}",
            "server", "CPU us/q", "x floor", "+-", "lost", "failed"
        ));
        for row in rows {
            let (one, two) = match mode {
                Mode::Latency => (row.p50_us, format!("{:.0}", row.p99_us)),
                _ => (row.qps, format!("{:.0}%", row.busy * 100.0)),
            };
            idle |= mode != Mode::Latency && row.busy < BUSY;
            add(format!(
                "  {:<14}{:>10.2}{:>9}{:>7}{one:>10.0}{two:>8}{:>8}{:>8}{}",
                row.server,
                row.cpu_us,
                row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
                format!("{:.0}%", row.spread * 100.0),
                row.lost,
                row.failed,
                remark(&row)
            ));
        }
    }
    if idle {
        add("\nWhere busy is below 95% the server waited, for the load or the upstream: its batches are smaller then."
            .into());
    }
    add(format!("\n  {:<14}{:<26}{:>10}{:>12}{:>10}", "server", "version", "start ms", "MiB at once", "at last"));
    for server in &results.servers {
        let [first, last] = server.memory_mib;
        let (name, version) = (&server.name, &server.version);
        add(format!("  {name:<14}{version:<26}{:>10.0}{first:>12.1}{last:>10.1}", server.start_ms));
    }
    out
}

fn remark(row: &Row<'_>) -> &'static str {
    if row.repeated { "  (too few new names: some were hits)" } else { "" }
}
