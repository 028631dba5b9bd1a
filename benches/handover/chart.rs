//! The results as one SVG image in a light and a dark scheme: a bar for each transport, as long as the queries that one event
//! loses.

use std::fmt::Write;

use crate::load::Lost;

/// Sizes, in SVG units.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 150.0;
const HEAD: f64 = 80.0;
const BAR: f64 = 14.0;
const ROW: f64 = 2.0 * BAR + 16.0;

const STYLE: &str = "\
svg { background: #fff; font: 12px system-ui, sans-serif }
text { fill: #1b1f24 } .dim { fill: #57606a } .grid { stroke: #d8dee4 } .title { font-size: 16px; font-weight: 600 }
.udp { fill: #1f6fd0 } .tcp { fill: #d1590f }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117 } text { fill: #e6edf3 } .dim { fill: #8d96a0 } .grid { stroke: #2a313a }
  .udp { fill: #6cb0ff } .tcp { fill: #ff9f5a }
}
";

/// Result of one event that was repeated `count` times.
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) count: u32,
    pub(crate) lost: Lost,
}

/// Draws the rows; `machine` describes where they were measured.
pub(crate) fn chart(rows: &[Row], machine: &str) -> String {
    let each = |lost: u64, row: &Row| lost as f64 / f64::from(row.count.max(1));
    let most = rows.iter().flat_map(|row| [each(row.lost.udp.lost, row), each(row.lost.tcp.lost, row)]);
    let most = most.fold(1.0, f64::max);
    let machine = machine.replace('&', "&amp;").replace('<', "&lt;");
    let height = HEAD + ROW * rows.len() as f64 + 8.0;
    // Writing to a String cannot fail.
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Queries lost at each upgrade, crash or restart\">\n<style>\n{STYLE}</style>\n\
         <text class=\"title\" x=\"16\" y=\"26\">Queries lost at each upgrade, crash or restart under full load</text>\n\
         <text class=\"dim\" x=\"16\" y=\"45\">128 queries in flight over UDP and 128 over TCP, never repeated by the client; \
         shorter is better.</text>\n<text class=\"dim\" x=\"16\" y=\"61\">{machine}</text>\n\
         <line class=\"grid\" x1=\"{LEFT}\" y1=\"{HEAD}\" x2=\"{LEFT}\" y2=\"{}\"/>\n",
        height - 8.0
    );
    for (at, row) in rows.iter().enumerate() {
        let top = HEAD + ROW * at as f64 + 6.0;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            top + BAR + 4.0,
            row.label
        );
        let bars = [("udp", row.lost.udp), ("tcp", row.lost.tcp)];
        for (lane, (class, count)) in bars.into_iter().enumerate() {
            let (lost, y) = (each(count.lost, row), top + lane as f64 * (BAR + 2.0));
            let length = lost / most * (WIDTH - LEFT - RIGHT);
            let _ = writeln!(
                out,
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>\n\
                 <text class=\"dim\" x=\"{:.1}\" y=\"{}\">{lost:.0} over {}</text>",
                LEFT + length + 6.0,
                y + BAR - 3.0,
                class.to_uppercase()
            );
        }
    }
    out + "</svg>\n"
}
