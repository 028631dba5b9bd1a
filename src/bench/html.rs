//! A report as one HTML page without external resources or scripts. It follows the reader's light or dark scheme.

use std::fmt::Write;

use super::report::{LatencySummary, LoadReport, TargetReport};
use super::svg::{Axis, ChartLine, chart};
use super::table::{codes, count, digits, headline, notes, percent};

/// Colours of targets for light and dark schemes; further targets reuse them from the start.
pub(super) const COLOURS: [(&str, &str); 8] = [
    ("#1f6fd0", "#6cb0ff"),
    ("#d1590f", "#ff9f5a"),
    ("#14804f", "#4fcf94"),
    ("#a02c8e", "#ee8bdd"),
    ("#8a6a00", "#e3c04a"),
    ("#c02f3b", "#ff8a90"),
    ("#5947b8", "#aea0ff"),
    ("#3f6575", "#93bccd"),
];

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2127; --soft: #59636e; --page: #ffffff; --rule: #dde2e7; --shade: #f5f7f9 }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 3rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .25rem } h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem }
p { margin: .25rem 0; color: var(--soft) } p.method { margin-top: 1.5rem; font-size: .9rem } p.warn { color: var(--ink); font-weight: 600 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .35rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule) }
th:first-child, td:first-child, td.words, th.words { text-align: left }
td.words { white-space: normal } thead th { color: var(--soft); font-weight: 600; border-bottom-width: 2px }
tr.whole td { background: var(--shade); font-weight: 600 } tr.part td:first-child { padding-left: 1.9rem; color: var(--soft) }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .5rem; border-radius: .2rem; vertical-align: -.05rem }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .9rem; margin: .25rem 0 .5rem }
.stroke { display: inline-block; width: 1.6rem; margin-right: .5rem; border-top: 2px solid var(--soft); vertical-align: .25rem }
.stroke.dashed { border-top-style: dashed }
svg { display: block; width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: var(--soft) }
svg text.title { font-weight: 600 } .grid { stroke: var(--rule) } .axis { fill: none; stroke: var(--soft) }
.line { fill: none; stroke-width: 2; stroke-linejoin: round } .dashed { stroke-dasharray: 6 4 }
";

const DARK: &str = "--ink: #e6eaee; --soft: #9aa7b3; --page: #14181d; --rule: #2b333c; --shade: #1c2229";

pub(crate) fn page(report: &LoadReport) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>DNS latency</title>\n<style>{}</style>\n</head>\n<body>\n",
        style()
    );
    let mut add = |text: &str| out.push_str(text);
    add(&format!("<h1>DNS latency</h1>\n<p>{}.</p>\n", escape(&headline(report))));
    if report.interrupted {
        add("<p class=\"warn\">Ended early: the results so far.</p>\n");
    }
    add("<h2>Latency in milliseconds</h2>\n");
    add(&latencies(report));
    add("<h2>Responses within a latency</h2>\n");
    add(&legend(report, ["repeated", "first seen"]));
    add(&distribution(report));
    add("<h2>Latency over time</h2>\n");
    add(&legend(report, ["median (p50)", "99th percentile (p99)"]));
    add(&over_time(report));
    add("<h2>Results of the queries</h2>\n");
    add(&outcomes(report));
    // Same notes as below the text table.
    for note in report.targets.iter().flat_map(notes) {
        add(&format!("<p>{}</p>\n", escape(&note)));
    }
    add(&format!(
        "<p class=\"method\">Latency counts from when a query {}. A query without a response is lost after {} s. \"First seen\" is a question \
         that this run had not asked the target before. nodens {}.</p>\n</body>\n</html>\n",
        if report.settings.rate.is_some() { "should have left, so stalls are not left out" } else { "left" },
        report.settings.timeout_s,
        env!("CARGO_PKG_VERSION")
    ));
    out
}

fn style() -> String {
    let colours = |pick: fn(&(&'static str, &'static str)) -> &'static str| {
        COLOURS.iter().enumerate().fold(String::new(), |mut all, (at, pair)| {
            let _ = write!(all, " --c{at}: {};", pick(pair)); // infallible for a String
            all
        })
    };
    let mut style = format!("{STYLE}:root {{{} }}\n", colours(|pair| pair.0));
    for at in 0..COLOURS.len() {
        let _ = writeln!(style, ".c{at} {{ stroke: var(--c{at}) }} .k{at} {{ background: var(--c{at}) }}"); // as above
    }
    style + &format!("@media (prefers-color-scheme: dark) {{ :root {{ {DARK};{} }} }}\n", colours(|pair| pair.1))
}

fn latencies(report: &LoadReport) -> String {
    let head = ["", "responses", "mean", "p50", "p90", "p99", "p99.9", "max"];
    let mut rows = Vec::new();
    for (at, target) in report.targets.iter().enumerate() {
        rows.push(latency_row("whole", &format!("{}{}", key(at), target.target), &target.latency_ms));
        rows.push(latency_row("part", "first seen", &target.first_seen_ms));
        rows.push(latency_row("part", "repeated", &target.repeated_ms));
    }
    table(&head, &rows)
}

fn latency_row(class: &str, label: &str, latency: &LatencySummary) -> String {
    let values = [latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max];
    let cells: String = values.map(|value| format!("<td>{}</td>", value.map_or("–".to_owned(), digits))).concat();
    format!("<tr class=\"{class}\"><td>{label}</td><td>{}</td>{cells}</tr>", count(latency.count))
}

fn outcomes(report: &LoadReport) -> String {
    let head = ["", "sent", "answered", "lost", "errors", "loss", "answered/s", "responses by code"];
    let row = |(at, target): (usize, &TargetReport)| {
        let numbers = [target.sent, target.answered, target.lost, target.failed()].map(count);
        let cells: String = numbers.map(|number| format!("<td>{number}</td>")).concat();
        format!(
            "<tr><td>{}{}</td>{cells}<td>{}</td><td>{}</td><td class=\"words\">{}</td></tr>",
            key(at),
            target.target,
            escape(&percent(target.loss)),
            count(target.answered_per_s as u64),
            escape(&codes(target))
        )
    };
    table(&head, &report.targets.iter().enumerate().map(row).collect::<Vec<_>>())
}

fn table(head: &[&str], rows: &[String]) -> String {
    let cell = |word: &&str| match *word {
        "responses by code" => format!("<th class=\"words\">{word}</th>"),
        _ => format!("<th>{word}</th>"),
    };
    let head: String = head.iter().map(cell).collect();
    let rows = rows.join("\n");
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n"
    )
}

fn distribution(report: &LoadReport) -> String {
    let curves = || report.targets.iter().flat_map(|target| &target.curves).flatten();
    let x = Axis::milliseconds("latency, ms (log scale)", curves().map(|point| point.1));
    let y = Axis::nines("share of responses", curves().map(|point| point.0).fold(0.9, f64::max));
    let mut lines = Vec::new();
    for (at, target) in report.targets.iter().enumerate() {
        for (curve, (what, dash)) in target.curves.iter().zip([("repeated", ""), ("first seen", " dashed")]) {
            lines.push(ChartLine {
                class: format!("c{}{dash}", at % COLOURS.len()),
                label: format!("{}, {what}", target.target),
                points: curve.iter().map(|(share, ms)| (*ms, *share)).collect(),
            });
        }
    }
    chart("Share of responses within a latency", &x, &y, &lines)
}

fn over_time(report: &LoadReport) -> String {
    let points = || report.targets.iter().flat_map(|target| &target.over_time);
    let x = Axis::seconds("time, s", points().map(|point| point.at_s).fold(0.0, f64::max));
    let y = Axis::milliseconds("latency, ms (log scale)", points().flat_map(|point| [point.p50, point.p99]));
    let mut lines = Vec::new();
    for (at, target) in report.targets.iter().enumerate() {
        let class = format!("c{}", at % COLOURS.len());
        let points = |value: fn(&super::report::Point) -> f64| {
            target.over_time.iter().map(|point| (point.at_s, value(point))).collect()
        };
        let label = |what: &str| format!("{}, {what}", target.target);
        lines.push(ChartLine { class: class.clone(), label: label("p50"), points: points(|point| point.p50) });
        lines.push(ChartLine {
            class: format!("{class} dashed"),
            label: label("p99"),
            points: points(|point| point.p99),
        });
    }
    chart("Latency over time", &x, &y, &lines)
}

fn legend(report: &LoadReport, strokes: [&str; 2]) -> String {
    let [solid, dashed] = strokes;
    let targets: String = report
        .targets
        .iter()
        .enumerate()
        .map(|(at, target)| format!("<span>{}{}</span>", key(at), target.target))
        .collect();
    format!(
        "<div class=\"legend\">{targets}<span><span class=\"stroke\"></span>{solid}</span>\
         <span><span class=\"stroke dashed\"></span>{dashed}</span></div>\n"
    )
}

fn key(at: usize) -> String {
    format!("<span class=\"key k{}\"></span>", at % COLOURS.len())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::report::example;
    use super::*;

    #[test]
    fn page_of_one_target() {
        insta::assert_snapshot!(page(&example()));
    }
}
