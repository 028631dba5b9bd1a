//! A report as text for a terminal.

use std::fmt::Write;

use super::report::{LatencySummary, LoadReport, TargetReport};

/// Sender delay at the 99th percentile, in milliseconds, from which a note is printed.
const LATE_MS: f64 = 1.0;

/// Returns the report as a table with notes, in lines of up to 120 columns.
pub fn table(report: &LoadReport) -> String {
    let width = report.targets.iter().map(|target| target.target.to_string().len()).max().unwrap_or(0).max(12);
    let mut out = format!("{}\n\n", headline(report));
    let mut line = |text: String| {
        let _ = writeln!(out, "{}", text.trim_end()); // infallible for a String
    };
    line(format!(
        "{:<width$} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "latency, ms", "responses", "p50", "p90", "p99", "p99.9", "max"
    ));
    for target in &report.targets {
        line(latency_row(&target.target.to_string(), width, &target.latency_ms));
        line(latency_row("  first seen", width, &target.first_seen_ms));
        line(latency_row("  repeated", width, &target.repeated_ms));
    }
    line(String::new());
    line(format!(
        "{:<width$} {:>11} {:>11} {:>9} {:>9} {:>7} {:>11}  responses by code",
        "outcome", "sent", "answered", "lost", "errors", "loss", "answered/s"
    ));
    for target in &report.targets {
        line(outcome_row(target, width));
    }
    let notes: Vec<String> = report.targets.iter().flat_map(notes).collect();
    if !notes.is_empty() {
        line(String::new());
    }
    notes.into_iter().for_each(&mut line);
    if report.interrupted {
        line("\nEnded early: the results so far.".to_owned());
    }
    out
}

/// Returns a one-line summary of the settings.
pub fn headline(report: &LoadReport) -> String {
    let settings = &report.settings;
    let pace = match (settings.rate, settings.closed) {
        (Some(rate), _) => format!("open loop of {} q/s", count(rate)),
        (None, closed) => format!("closed loop of {} queries", count(closed.unwrap_or_default())),
    };
    let order = if settings.draw == "zipf" { "drawn by Zipf" } else { "in turn" };
    format!(
        "{pace}, {} s for each target, {}{}; {} questions ({}) {order}, seed {}",
        settings.duration_s,
        settings.transport.to_uppercase(),
        if settings.edns { " with EDNS" } else { "" },
        count(settings.questions as u64),
        settings.names,
        settings.seed
    )
}

/// Returns the notes about a target: errors, unusual responses, and a sender that was too slow.
pub fn notes(target: &TargetReport) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |text: String| notes.push(format!("{}: {text}", target.target));
    for (reason, number) in &target.errors {
        note(format!("{} {reason}", count(*number)));
    }
    if target.truncated > 0 {
        note(format!("{} responses truncated", count(target.truncated)));
    }
    if target.stray > 0 {
        note(format!(
            "{} responses that no query waited for: late, duplicate, or to another question",
            count(target.stray)
        ));
    }
    if target.unresolved > 0 {
        note(format!("{} still waited for a response at the end", count(target.unresolved)));
    }
    if target.unsent > 0 {
        note(format!("{} were due and never left: the rate is more than could be sent", count(target.unsent)));
    }
    if let Some(late) = target.sender_lag_ms.p99.filter(|late| *late >= LATE_MS) {
        note(format!("queries left up to {} ms late (p99), which is part of the latencies", digits(late)));
    }
    notes
}

/// Formats a number with thousands separators.
pub fn count(number: u64) -> String {
    let plain = number.to_string();
    let mut out = String::new();
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats milliseconds with three decimals below 10, two below 100, one below 1,000, and none above.
pub fn digits(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.3}"),
        ms if ms < 100.0 => format!("{ms:.2}"),
        ms if ms < 1000.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

/// Formats a share in percent; a share above 0 is never shown as 0%.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0%".to_owned(),
        share if share < 0.01 => "<0.01%".to_owned(),
        share => format!("{share:.2}%"),
    }
}

/// Formats the response codes with their counts, most frequent first.
pub fn codes(target: &TargetReport) -> String {
    let mut codes: Vec<(&String, &u64)> = target.rcodes.iter().collect();
    codes.sort_by(|a, b| b.1.cmp(a.1));
    codes.iter().map(|(code, number)| format!("{code} {}", count(**number))).collect::<Vec<_>>().join(", ")
}

fn latency_row(label: &str, width: usize, latency: &LatencySummary) -> String {
    let mut row = format!("{label:<width$} {:>11}", count(latency.count));
    for value in [latency.p50, latency.p90, latency.p99, latency.p999, latency.max] {
        let _ = write!(row, " {:>9}", value.map_or("-".to_owned(), digits)); // infallible for a String
    }
    row
}

fn outcome_row(target: &TargetReport, width: usize) -> String {
    format!(
        "{:<width$} {:>11} {:>11} {:>9} {:>9} {:>7} {:>11}  {}",
        target.target.to_string(),
        count(target.sent),
        count(target.answered),
        count(target.lost),
        count(target.failed()),
        percent(target.loss),
        count(target.answered_per_s as u64),
        codes(target)
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::example;
    use super::*;

    #[test]
    fn table_of_one_target() {
        insta::assert_snapshot!(table(&example()));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1234567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0321, 9.9, 12.345, 200.04, 5000.4].map(digits), ["0.032", "9.900", "12.35", "200.0", "5000"]);
        assert_eq!([0.0, 0.00001, 0.5].map(percent), ["0%", "<0.01%", "50.00%"]);
    }
}
