//! A report as text for a terminal, with a row for each fault.

use std::fmt::Write;

use super::ask::STEADY_PACE;
use super::fault::Mode;
use super::figures::Figures;
use super::report::FailoverReport;
use crate::bench::table::count;

/// Returns one table for each measured mode, and the notes.
pub fn table(report: &FailoverReport) -> String {
    let mut out = String::new();
    for mode in [Mode::Steady, Mode::Burst] {
        let servers = report.servers(mode);
        let rows = match servers.as_slice() {
            [] => continue,
            [_] => full(report, mode),
            _ => side_by_side(report, mode),
        };
        let names: Vec<&str> = servers.iter().map(|server| server.name()).collect();
        let _ = writeln!(out, "{}\n\n{}", headline(report, mode, &names), aligned(&rows)); // infallible for a String
    }
    for note in report.notes() {
        let _ = writeln!(out, "{note}"); // as above
    }
    out
}

fn headline(report: &FailoverReport, mode: Mode, servers: &[&str]) -> String {
    let what = match mode {
        Mode::Steady => format!("a new name every {} ms", STEADY_PACE.as_millis()),
        Mode::Burst => "new names one after another".to_owned(),
    };
    let cells = match servers {
        [server] => format!("{server}, ms"),
        _ => "p99 / max in ms, lost".to_owned(),
    };
    format!("{}: {what}, {}; {cells}", mode.name(), report.transport())
}

/// Returns all figures of the only server.
fn full(report: &FailoverReport, mode: Mode) -> Vec<Vec<String>> {
    let mut head = vec!["first upstream", "asked", "p50", "p99", "max", "lost", "wrong", "healthy one asked"];
    if mode == Mode::Burst {
        head.insert(4, "after 10");
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect()];
    for fault in report.faults(mode) {
        for server in report.servers(mode) {
            let mut row = vec![fault.label.to_owned()];
            if let Some(figures) = report.figures(mode, &fault, server) {
                row.push(count(figures.asked));
                row.extend([figures.p50_ms, figures.p99_ms].map(ms));
                if mode == Mode::Burst {
                    row.push(figures.p99_after_10_ms.map_or("-".to_owned(), ms));
                }
                row.extend([ms(figures.max_ms), count(figures.lost), count(figures.wrong)]);
                row.push(figures.healthy_ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2} x")));
            }
            rows.push(row);
        }
    }
    rows
}

/// Returns the main figures of each server, one column per server.
fn side_by_side(report: &FailoverReport, mode: Mode) -> Vec<Vec<String>> {
    let servers = report.servers(mode);
    let head = std::iter::once("first upstream").chain(servers.iter().map(|server| server.name()));
    let mut rows = vec![head.map(str::to_owned).collect::<Vec<_>>()];
    for fault in report.faults(mode) {
        let cell = |server| report.figures(mode, &fault, server).map_or("-".to_owned(), cell);
        rows.push(std::iter::once(fault.label.to_owned()).chain(servers.iter().copied().map(cell)).collect());
    }
    rows
}

fn cell(figures: &Figures) -> String {
    let mut cell = format!("{} / {}", ms(figures.p99_ms), ms(figures.max_ms));
    if figures.lost > 0 {
        let _ = write!(cell, ", {} lost", count(figures.lost)); // infallible for a String
    }
    cell
}

/// Formats milliseconds, with one decimal below 10.
pub(super) fn ms(ms: f64) -> String {
    if ms < 9.95 { format!("{ms:.1}") } else { count(ms.round() as u64) }
}

/// Formats rows as lines; the first column is left-aligned, the others are right-aligned.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let _ = match at {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            }; // infallible for a String
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::report::example;
    use super::super::server::TestedServer;
    use super::*;

    #[test]
    fn servers_are_columns() {
        let text = table(&example(Mode::Steady, &[TestedServer::Nodens, TestedServer::Bind]));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn one_server_is_told_of_in_full() {
        let text = table(&example(Mode::Burst, &[TestedServer::Nodens]));
        let line = text.lines().find(|line| line.starts_with("silent")).unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().skip(4).collect();
        assert_eq!(words, ["50", "25", "49", "49", "50", "0", "0", "1.04", "x"], "{text}");
    }

    #[test]
    fn times_are_short() {
        assert_eq!([0.04, 2.25, 9.96, 250.4, 5000.0].map(ms), ["0.0", "2.2", "10", "250", "5,000"]);
    }
}
