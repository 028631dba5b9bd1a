//! One line of the report.

use std::fmt;
use std::fs;
use std::thread;

/// Measured value, and its bound.
#[derive(Debug)]
pub(crate) struct Finding {
    what: String,
    value: f64,
    unit: &'static str,
    asked: Asked,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    AtMost(f64),
    AtLeast(f64),
    /// No bound: the value only explains the others.
    Nothing,
}

impl Finding {
    /// Head of the table.
    pub(crate) const HEAD: &'static str =
        "bound                                                     measured          asked     met";

    /// Returns a finding whose value should not be above `most`.
    pub(crate) fn at_most(what: impl Into<String>, value: f64, most: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, asked: Asked::AtMost(most) }
    }

    /// Returns a finding whose value should not be below `least`.
    pub(crate) fn at_least(what: impl Into<String>, value: f64, least: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, asked: Asked::AtLeast(least) }
    }

    /// Returns a finding without a bound, which explains others.
    pub(crate) fn plain(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, asked: Asked::Nothing }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, value, unit, asked } = self;
        let measured = format!("{} {unit}", short(*value));
        let (asked, missed) = match *asked {
            Asked::AtMost(most) => (format!("<= {} {unit}", short(most)), (value / most - 1.0, *value > most)),
            Asked::AtLeast(least) => (format!(">= {} {unit}", short(least)), (1.0 - value / least, *value < least)),
            Asked::Nothing => (String::new(), (0.0, false)),
        };
        let met = match (asked.is_empty(), missed) {
            (true, _) => String::new(),
            (false, (by, true)) => format!("no, by {:.0} %", (by * 100.0).max(1.0)),
            (false, _) => "yes".to_owned(),
        };
        write!(to, "{}", format!("{what:<52} {measured:>13} {asked:>14}     {met}").trim_end())
    }
}

/// Formats a number with three digits, or with all digits before the point.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => thousands(value.round() as i64),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    format!("{}{}", if value < 0 { "-" } else { "" }, groups.join(","))
}

/// Returns a description of the machine.
pub(crate) fn machine() -> String {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("CPUs of unknown kind");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cpus} x {}, Linux {}\n", model.trim_start_matches([' ', '\t', ':']), kernel.trim())
}
