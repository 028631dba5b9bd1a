//! Line charts as SVG: axes, grid and lines, styled by the classes of the page.

use std::fmt::Write;

/// Size of a chart and the margins around its plot area, in SVG units.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 48.0;

/// One axis: scale, range and tick marks.
pub(super) struct Axis {
    title: String,
    scale: fn(f64) -> f64,
    ends: (f64, f64),
    marks: Vec<(f64, String)>,
}

pub(super) struct ChartLine {
    /// Classes: one for the colour, and one for dashes if the line is dashed.
    pub class: String,
    /// Tooltip of the line.
    pub label: String,
    pub points: Vec<(f64, f64)>,
}

impl Axis {
    /// Returns a logarithmic axis of milliseconds that holds all `values`, with marks at 1, 2, 5, 10 and so on.
    pub(super) fn milliseconds(title: &str, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::MAX, 0f64);
        for value in values.filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if high == 0.0 {
            (low, high) = (0.1, 10.0);
        }
        let steps: Vec<f64> =
            (-5..7).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power))).collect();
        let below = steps.iter().rev().find(|step| **step <= low).copied().unwrap_or(low);
        let above = steps.iter().find(|step| **step >= high && **step > below).copied().unwrap_or(high);
        // Beyond three decades only the powers of ten are marked.
        let all = above / below <= 1000.0;
        let marked = |step: &f64| *step >= below && *step <= above && (all || step.log10().fract().abs() < 1e-9);
        let marks = steps.into_iter().filter(marked).map(|step| (step, short(step))).collect();
        Self { title: title.to_owned(), scale: f64::log10, ends: (below, above), marks }
    }

    /// Returns an axis of shares up to `last`, on which each further nine takes the same length.
    pub(super) fn nines(title: &str, last: f64) -> Self {
        let all = [
            (0.0, "0"),
            (0.5, "50%"),
            (0.9, "90%"),
            (0.99, "99%"),
            (0.999, "99.9%"),
            (0.9999, "99.99%"),
            (0.99999, "99.999%"),
        ];
        let marks = all.iter().filter(|(share, _)| *share <= last).map(|(share, word)| (*share, (*word).to_owned()));
        let scale = |share: f64| -(1.0 - share.min(0.999_999_9)).log10();
        Self { title: title.to_owned(), scale, ends: (0.0, last.max(0.9)), marks: marks.collect() }
    }

    /// Returns an axis of seconds from 0.
    pub(super) fn seconds(title: &str, last: f64) -> Self {
        let last = last.max(0.1);
        let steps = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
        let step = steps.into_iter().find(|step| last / step <= 10.0).unwrap_or(last / 10.0);
        let marks = (0..).map(|n| f64::from(n) * step).take_while(|at| *at <= last).map(|at| (at, short(at)));
        Self { title: title.to_owned(), scale: |value| value, ends: (0.0, last), marks: marks.collect() }
    }

    /// Returns the marks: value and text.
    pub(super) fn marks(&self) -> &[(f64, String)] {
        &self.marks
    }

    /// Returns the position of a value on the axis, between 0 and 1.
    pub(super) fn place(&self, value: f64) -> f64 {
        let (low, high) = ((self.scale)(self.ends.0), (self.scale)(self.ends.1));
        (((self.scale)(value.clamp(self.ends.0, self.ends.1)) - low) / (high - low)).clamp(0.0, 1.0)
    }
}

/// Returns a chart. `label` describes it to screen readers; the caller ensures that it needs no escaping.
pub(super) fn chart(label: &str, x: &Axis, y: &Axis, lines: &[ChartLine]) -> String {
    let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
    let up = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">\n");
    let mut add = |text: String| {
        let _ = writeln!(out, "{text}"); // infallible for a String
    };
    for (value, word) in &x.marks {
        let at = across(*value);
        add(format!("<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>"));
        add(format!("<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{word}</text>", bottom + 17.0));
    }
    for (value, word) in &y.marks {
        let at = up(*value);
        add(format!("<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>"));
        add(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{word}</text>", LEFT - 8.0, at + 4.0));
    }
    add(format!("<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>"));
    let middle = (LEFT + right) / 2.0;
    add(format!(
        "<text class=\"title\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        HEIGHT - 8.0,
        x.title
    ));
    let middle = (TOP + bottom) / 2.0;
    add(format!(
        "<text class=\"title\" transform=\"translate(14 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        y.title
    ));
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        let mut path = String::new();
        for (at, (px, py)) in line.points.iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if at == 0 { 'M' } else { 'L' }, across(*px), up(*py)); // as above
        }
        add(format!("<path class=\"line {}\" d=\"{path}\"><title>{}</title></path>", line.class, line.label));
    }
    out + "</svg>\n"
}

fn short(value: f64) -> String {
    if value >= 1.0 { format!("{value:.0}") } else { format!("{}", (value * 1e6).round() / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_holds_its_values() {
        let axis = Axis::milliseconds("ms", [0.03, 7.0, 0.0].into_iter());
        assert_eq!(axis.ends, (0.02, 10.0));
        let words: Vec<&str> = axis.marks.iter().map(|(_, word)| word.as_str()).collect();
        assert_eq!(words, ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10"]);
        let wide = Axis::milliseconds("ms", [0.03, 5000.0].into_iter());
        let words: Vec<&str> = wide.marks.iter().map(|(_, word)| word.as_str()).collect();
        assert_eq!(words, ["0.1", "1", "10", "100", "1000"]);
        assert!((Axis::nines("", 0.9999).place(0.99) - 0.5).abs() < 1e-6, "two nines of four");
        assert_eq!(Axis::milliseconds("ms", std::iter::empty()).ends, (0.1, 10.0));
    }
}
