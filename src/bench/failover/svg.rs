//! A report as one SVG image in a light and a dark scheme: a row for each fault, a lane for each server.

use std::fmt::Write;

use super::fault::{FaultRow, Mode};
use super::figures::Figures;
use super::report::FailoverReport;
use super::server::TestedServer;
use super::table::ms;
use crate::bench::html::COLOURS;
use crate::bench::svg::Axis;

/// Sizes, in SVG units.
const WIDTH: f64 = 880.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 90.0;
const LANE: f64 = 12.0;
const GAP: f64 = 9.0;
const HEAD: f64 = 78.0;
const PANEL_HEAD: f64 = 34.0;
const PANEL_FOOT: f64 = 34.0;

const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: var(--ink) } .soft { fill: var(--soft) } .small { font-size: 11px }
.title { font-size: 15px; font-weight: 600 } .head { font-weight: 600 } .page { fill: var(--page) }
.grid { stroke: var(--rule) } .band { fill: var(--band) }
.max { fill: var(--page); stroke-width: 1.6 } .span { stroke-width: 1.4 }
";
const LIGHT: &str = "--ink: #1c2127; --soft: #59636e; --page: #ffffff; --rule: #dde2e7; --band: #f5f7f9;";
const DARK: &str = "--ink: #e6eaee; --soft: #9aa7b3; --page: #14181d; --rule: #2b333c; --band: #1b2128;";

pub(crate) fn picture(report: &FailoverReport) -> String {
    let modes: Vec<Mode> =
        [Mode::Steady, Mode::Burst].into_iter().filter(|mode| !report.servers(*mode).is_empty()).collect();
    let servers: Vec<TestedServer> = TestedServer::ALL
        .into_iter()
        .filter(|server| modes.iter().any(|mode| report.servers(*mode).contains(server)))
        .collect();
    let mut drawing = Drawing { out: String::new(), servers: &servers, y: HEAD };
    for mode in &modes {
        drawing.panel(report, *mode);
    }
    let height = drawing.y + 8.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"What a fault of one of two upstreams costs the clients\">\n<style>\n{}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n{}{}</svg>\n",
        style(),
        legend(&servers),
        drawing.out
    )
}

fn style() -> String {
    let colours = |pick: fn(&(&'static str, &'static str)) -> &'static str| {
        COLOURS.iter().enumerate().fold(String::new(), |mut all, (at, pair)| {
            let _ = write!(all, " --c{at}: {};", pick(pair)); // infallible for a String
            all
        })
    };
    let mut style = format!(":root {{ {LIGHT}{} }}\n{STYLE}", colours(|pair| pair.0));
    for at in 0..COLOURS.len() {
        let _ = writeln!(style, ".f{at} {{ fill: var(--c{at}) }} .s{at} {{ stroke: var(--c{at}) }}"); // as above
    }
    style + &format!("@media (prefers-color-scheme: dark) {{ :root {{ {DARK}{} }} }}\n", colours(|pair| pair.1))
}

fn legend(servers: &[TestedServer]) -> String {
    let mut out =
        "<text class=\"title\" x=\"16\" y=\"26\">What a fault of one of two upstreams costs the clients</text>\n"
            .to_owned();
    let mut x = 16.0;
    for server in servers {
        let at = colour(*server);
        let name = server.name();
        let _ = writeln!(
            out,
            "<circle class=\"f{at}\" cx=\"{}\" cy=\"47\" r=\"5\"/><text x=\"{}\" y=\"51\">{name}</text>",
            x + 5.0,
            x + 15.0
        ); // infallible for a String
        x += 36.0 + 7.0 * name.len() as f64;
    }
    out + "<text class=\"soft small\" x=\"16\" y=\"71\">Full dot: p99. Ring: slowest. \u{00d7} with a number: queries \
           without a right answer, which count as 5,000 ms.</text>\n"
}

/// Returns the colour of a server, which is independent of the other servers in the report.
fn colour(server: TestedServer) -> usize {
    TestedServer::ALL.iter().position(|other| *other == server).unwrap_or_default() % COLOURS.len()
}

struct Drawing<'a> {
    out: String,
    servers: &'a [TestedServer],
    y: f64,
}

impl Drawing<'_> {
    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.out, "{text}"); // infallible for a String
    }

    fn panel(&mut self, report: &FailoverReport, mode: Mode) {
        let servers: Vec<TestedServer> =
            self.servers.iter().copied().filter(|s| report.servers(mode).contains(s)).collect();
        let faults = report.faults(mode);
        let cells = || faults.iter().flat_map(|fault| servers.iter().map(move |s| report.figures(mode, fault, *s)));
        let values = cells().flatten().flat_map(|figures| [figures.p99_ms, figures.max_ms]);
        let axis = Axis::milliseconds("", values);
        let what = match mode {
            Mode::Steady => "Steady: a new name every 50 ms",
            Mode::Burst => "Burst: new names one after another",
        };
        self.add(format_args!("<text class=\"head\" x=\"16\" y=\"{}\">{what}</text>", self.y + 20.0));
        let lost = WIDTH - RIGHT + 18.0;
        self.add(format_args!("<text class=\"soft small\" x=\"{lost}\" y=\"{}\">lost</text>", self.y + 20.0));
        let top = self.y + PANEL_HEAD;
        let row = servers.len() as f64 * LANE + GAP;
        let bottom = top + faults.len() as f64 * row;
        for at in (0..faults.len()).step_by(2) {
            let y = top + at as f64 * row;
            self.add(format_args!(
                "<rect class=\"band\" x=\"8\" y=\"{y}\" width=\"{}\" height=\"{row}\"/>",
                WIDTH - 16.0
            ));
        }
        for (value, word) in axis.marks() {
            let x = across(&axis, *value);
            self.add(format_args!("<line class=\"grid\" x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>"));
            let y = bottom + 16.0;
            self.add(format_args!(
                "<text class=\"soft small\" x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{word} ms</text>"
            ));
        }
        for (at, fault) in faults.iter().enumerate() {
            let y = top + at as f64 * row;
            let middle = y + row / 2.0 + 4.0;
            self.add(format_args!("<text x=\"16\" y=\"{middle}\">{}</text>", fault.label));
            for (lane, server) in servers.iter().enumerate() {
                if let Some(figures) = report.figures(mode, fault, *server) {
                    let y = y + GAP / 2.0 + (lane as f64 + 0.5) * LANE;
                    self.lane(&axis, y, fault, *server, figures);
                }
            }
        }
        self.y = bottom + PANEL_FOOT;
    }

    /// Draws the dots of one cell, and the number of its lost queries.
    fn lane(&mut self, axis: &Axis, y: f64, fault: &FaultRow, server: TestedServer, figures: &Figures) {
        let c = colour(server);
        let (p99, max) = (across(axis, figures.p99_ms), across(axis, figures.max_ms));
        self.add(format_args!(
            "<g><title>{}, {}: p99 {} ms, slowest {} ms, {} of {} lost</title>\
             <line class=\"span s{c}\" x1=\"{p99:.1}\" y1=\"{y:.1}\" x2=\"{max:.1}\" y2=\"{y:.1}\"/>\
             <circle class=\"max s{c}\" cx=\"{max:.1}\" cy=\"{y:.1}\" r=\"3.6\"/>\
             <circle class=\"f{c}\" cx=\"{p99:.1}\" cy=\"{y:.1}\" r=\"3.6\"/></g>",
            server.name(),
            fault.label,
            ms(figures.p99_ms),
            ms(figures.max_ms),
            figures.lost,
            figures.asked
        ));
        if figures.lost > 0 {
            let x = WIDTH - RIGHT + 18.0;
            let y = y + 4.0;
            self.add(format_args!(
                "<text class=\"small f{c}\" x=\"{x}\" y=\"{y:.1}\">\u{00d7} {}</text>",
                figures.lost
            ));
        }
    }
}

fn across(axis: &Axis, value: f64) -> f64 {
    LEFT + 8.0 + axis.place(value) * (WIDTH - LEFT - RIGHT - 16.0)
}

#[cfg(test)]
mod tests {
    use super::super::report::example;
    use super::*;

    #[test]
    fn every_cell_has_its_dots_and_losses_their_number() {
        let picture = picture(&example(Mode::Steady, &[TestedServer::Nodens, TestedServer::Bind]));
        assert_eq!(picture.matches("<g><title>").count(), 4, "{picture}");
        assert_eq!(picture.matches("\u{00d7} 50</text>").count(), 2);
        assert!(picture.contains("bind, none: p99 5,000 ms, slowest 5,000 ms, 50 of 50 lost"));
        assert!(picture.contains("nodens, silent from the start: p99 49 ms, slowest 50 ms, 0 of 50 lost"));
        for word in ["<script", "<image", "href=", "url(", "@import"] {
            assert!(!picture.contains(word), "{word}");
        }
        assert!(picture.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn slower_is_further_right_and_within_the_picture() {
        let axis = Axis::milliseconds("", [2.0, 5000.0].into_iter());
        let places = [2.0, 20.0, 200.0, 5000.0].map(|value| across(&axis, value));
        assert!(places.is_sorted() && places[0] >= LEFT && places[3] <= WIDTH - RIGHT, "{places:?}");
        assert!((places[2] - places[1] - (places[1] - places[0])).abs() < 0.1, "a decade is a decade: {places:?}");
    }
}
