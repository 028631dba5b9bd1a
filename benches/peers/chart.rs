//! The ratios as a chart: a self-contained SVG for light and dark pages.

use std::fmt::Write;

use crate::modes::Mode;
use crate::results::{FLOOR, Results, Row};

/// Width of the chart, and where bars begin and end, in its own units.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 740.0;
/// Space above the first group; height of a bar with its gap, of a group's title, and of its marks.
const TOP: f64 = 76.0;
const BAR: f64 = 18.0;
const GROUP: f64 = 34.0;
const MARKS: f64 = 18.0;
const BOTTOM: f64 = 8.0;
/// Lowest end of the scale, so that a run of few servers still has a readable chart.
const LEAST_END: f64 = 2.0;

const STYLE: &str = "
  svg { background: #fff; font: 12px system-ui, sans-serif }
  text { fill: #1b1f24 } .dim { fill: #57606a } .grid { stroke: #d8dee4 } .title { font-size: 16px; font-weight: 600 }
  .group { font-weight: 600; font-size: 13px } .peer { fill: #9aa7b4 } .own { fill: #0a7d5a } .floor { fill: #d0d7de }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117 } text { fill: #e6edf3 } .dim { fill: #8d96a0 } .grid { stroke: #2a313a }
    .peer { fill: #5d6a78 } .own { fill: #2fbf8f } .floor { fill: #363e48 }
  }
";

/// Modes that measure the cost of a busy server. At a moderate rate, waking up is most of the cost.
const SHOWN: [Mode; 4] = [Mode::Hits, Mode::HitsEdns, Mode::Tcp, Mode::Misses];

/// Returns the chart: a group of bars for each mode, with a linear scale of its own.
pub fn chart(results: &Results) -> String {
    let groups: Vec<(Mode, Vec<Row<'_>>)> = SHOWN.into_iter().map(|mode| (mode, results.rows(mode))).collect();
    let groups: Vec<_> = groups.into_iter().filter(|(_, rows)| !rows.is_empty()).collect();
    let bars: usize = groups.iter().map(|(_, rows)| rows.len()).sum();
    let height = TOP + groups.len() as f64 * (GROUP + MARKS) + bars as f64 * BAR + BOTTOM;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"CPU time for a DNS answer, as multiples of the floor\">\n<style>{STYLE}</style>\n"
    );
    let mut add = |text: String| {
        let _ = writeln!(out, "{text}"); // writing to a String cannot fail
    };
    add("<text class=\"title\" x=\"16\" y=\"26\">CPU time for a DNS answer, as multiples of the floor</text>".into());
    add(format!(
        "<text class=\"dim\" x=\"16\" y=\"45\">1 is what the least possible server spends; shorter is better. {} rounds of {} s, \
         medians.</text>",
        results.rounds, results.seconds
    ));
    add(format!(
        "<text class=\"dim\" x=\"16\" y=\"61\">{}, {}</text>",
        escape(&results.date),
        escape(&results.machine)
    ));
    let mut y = TOP;
    for (mode, rows) in &groups {
        y += GROUP;
        let (step, last) = scale(rows.iter().filter_map(|row| row.ratio).fold(LEAST_END, f64::max));
        let across = |ratio: f64| LEFT + ratio / last * (RIGHT - LEFT);
        let foot = y + rows.len() as f64 * BAR;
        for mark in (0..).map(|at| f64::from(at) * step).take_while(|mark| *mark <= last) {
            let x = across(mark);
            add(format!("<line class=\"grid\" x1=\"{x:.1}\" y1=\"{y}\" x2=\"{x:.1}\" y2=\"{foot}\"/>"));
            add(format!(
                "<text class=\"dim\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{mark}×</text>",
                foot + 14.0
            ));
        }
        add(format!("<text class=\"group\" x=\"16\" y=\"{}\">{}</text>", y - 9.0, mode.title()));
        for row in rows {
            let ratio = row.ratio.unwrap_or_default();
            let class = match row.server {
                "nodens" => "own",
                FLOOR => "floor",
                _ => "peer",
            };
            let (end, middle) = (across(ratio), y + 12.0);
            let name = escape(row.server);
            add(format!("<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>", LEFT - 8.0));
            let (width, bar) = (end - LEFT, BAR - 4.0);
            add(format!(
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{bar}\" rx=\"2\"/>",
                y + 1.0
            ));
            let label = row.ratio.map_or("no floor".to_owned(), |ratio| format!("{ratio:.2}×, {:.1} µs", row.cpu_us));
            add(format!("<text class=\"dim\" x=\"{:.1}\" y=\"{middle}\">{label}</text>", end + 6.0));
            y += BAR;
        }
        y += MARKS;
    }
    out + "</svg>\n"
}

/// Returns the distance of the marks and the end of the axis: at most ten marks at round numbers, the last at or above
/// `most`.
pub fn scale(most: f64) -> (f64, f64) {
    let steps = (0..6).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
    let step = steps.into_iter().find(|step| most / step <= 10.0).unwrap_or(most);
    (step, (most / step).ceil() * step)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
