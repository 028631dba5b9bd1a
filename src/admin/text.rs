//! Text form of the JSON about jobs, for the command line and for the client reports.

use std::fmt::Write as _;

use serde_json::Value;

use crate::wire::text::plain;

/// Renders the list of `/api/v1/jobs`, a line for each job.
pub(crate) fn jobs(list: &Value) -> String {
    let none = Vec::new();
    let jobs = list["jobs"].as_array().unwrap_or(&none);
    let mut text = format!("{:>9} {:>7} {:>7} {:>7}  {}\n", "queries", "failed", "search", "last", "who");
    for job in jobs {
        let number = |key: &str| job[key].as_u64().unwrap_or(0);
        let last = format!("{:.0} s", job["last_age_seconds"].as_f64().unwrap_or(0.0));
        let (queries, failed, search) = (number("queries"), number("failed"), number("search_list_queries"));
        let _ = writeln!(text, "{queries:>9} {failed:>7} {search:>7} {last:>7}  {}", owner(job)); // cannot fail
    }
    if let Some(since) = list["counted_since"].as_str() {
        let _ = writeln!(text, "counted since {}", plain(since));
    }
    if let Some(dropped @ 1..) = list["dropped"].as_u64() {
        let _ = writeln!(text, "{dropped} notes found no room and are missing here");
    }
    text
}

/// Renders the document of `/api/v1/jobs/ID`.
pub(crate) fn job(job: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut text = format!("{}\n", owner(job));
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    let since = job["counted_since"].as_str().map(|since| format!(" since {}", plain(since))).unwrap_or_default();
    line(format!("  queries   {} ({} failed){since}", job["queries"], job["failed"]));
    for (key, label) in [("by_route", "routes"), ("by_rcode", "codes"), ("by_source", "from")] {
        let parts = job[key].as_object().into_iter().flatten().map(|(key, value)| format!("{key} {value}"));
        let parts: Vec<_> = parts.collect();
        if !parts.is_empty() {
            line(format!("  {label:<9} {}", parts.join(", ")));
        }
    }
    let search = &job["search_list"];
    if let Some(search_list_explanation) = search["explanation"].as_str() {
        line(format!("  {}", plain(search_list_explanation)));
        for search_targets in list(&search["names"]).iter().take(5) {
            line(format!("            {:>5} for {}", search_targets["queries"], word(&search_targets["name"])));
        }
    }
    line("  failures".to_string());
    for failure in list(&job["failures"]) {
        let (name, kind, times) = (word(&failure["name"]), word(&failure["type"]), &failure["queries"]);
        line(format!("    {times}x {name} {kind}: {}", word(&failure["cause"])));
        line(format!("      {}", word(&failure["explanation"])));
    }
    if list(&job["failures"]).is_empty() {
        line("    none".to_string());
    }
    line("  slowest".to_string());
    for slow in list(&job["slowest"]).iter().take(5) {
        let millis = slow["seconds"].as_f64().unwrap_or(0.0) * 1_000.0;
        let (name, kind, route) = (word(&slow["name"]), word(&slow["type"]), word(&slow["route"]));
        line(format!("    {millis:>8.1} ms  {name} {kind} by route {route}"));
    }
    if list(&job["slowest"]).is_empty() {
        line("    none".to_string());
    }
    text
}

fn owner(job: &Value) -> String {
    let mut text = word(&job["name"]);
    for (key, before) in [("kind", ", "), ("namespace", ", namespace "), ("job_id", ", job ")] {
        if let Some(value) = job[key].as_str() {
            text.push_str(before);
            text.push_str(&plain(value));
        }
    }
    text
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| "-".to_string(), plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_has_asked_nothing_has_no_empty_lines() {
        let text = job(&serde_json::json!({ "name": "a", "queries": 0, "failed": 0, "by_route": {}, "slowest": [] }));
        assert_eq!(text, "a\n  queries   0 (0 failed)\n  failures\n    none\n  slowest\n    none\n");
    }

    #[test]
    fn client_text_does_not_steer_the_terminal() {
        let text = jobs(&serde_json::json!({ "jobs": [{ "name": "a\u{1b}[2J", "queries": 3 }] }));
        assert!(text.ends_with("  a\u{fffd}[2J\n") && text.contains("3"), "{text:?}");
    }
}
