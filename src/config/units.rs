//! Sizes, durations and counts in the file, and their bounds.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::value::{ConfigValue, ValueForm};

/// Number of bytes: `"64MiB"`, `"512KiB"`, `"1GiB"`, decimal `"64MB"`, plain `"65536"`. The case of the unit is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Size(pub u64);

/// Duration in milliseconds: `"1500ms"`, `"30s"`, `"5m"`, `"1h"`, `"1d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Time {
    millis: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "i64")]
pub struct CountValue(pub usize);

/// Default and bounds of a value.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<T> {
    /// Value if the file gives none.
    pub default: T,
    pub floor: T,
    pub ceiling: T,
}

impl<T: PartialOrd + fmt::Display> Bounds<T> {
    /// Checks that `value` is within the bounds. The error names them.
    pub fn hold(&self, value: &T) -> Result<(), String> {
        let Self { floor, ceiling, .. } = self;
        if value < floor {
            Err(format!("{value} is too little: from {floor} to {ceiling}"))
        } else if value > ceiling {
            Err(format!("{value} is too much: from {floor} to {ceiling}"))
        } else {
            Ok(())
        }
    }
}

/// Units of a size, larger ones first, and among equal ones the one for display first. `Mi` is Kubernetes' name of `MiB`.
const SIZES: [(&str, u64); 11] = [
    ("GiB", 1 << 30),
    ("Gi", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("Mi", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("Ki", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
    ("", 1),
];

/// Units of a duration in milliseconds, larger ones first.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Time {
    /// One week: the longest time that anything is kept.
    pub const WEEK: Self = Self::secs(7 * 86_400);

    /// Returns a duration of whole seconds.
    pub const fn secs(secs: u64) -> Self {
        Self { millis: secs * 1_000 }
    }

    /// Returns a duration of milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self { millis }
    }

    /// Converts the duration to the standard library's type.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.millis)
    }

    /// Returns the duration in seconds, if it is a whole number of seconds.
    pub const fn whole_secs(self) -> Option<u64> {
        if self.millis.is_multiple_of(1_000) { Some(self.millis / 1_000) } else { None }
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        measure(&text, &SIZES).map(Self).ok_or_else(|| format!("{text:?} is not a size"))
    }
}

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        measure(&text, &TIMES).map(Self::millis).ok_or_else(|| format!("{text:?} is not a time with its unit"))
    }
}

impl TryFrom<i64> for CountValue {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        usize::try_from(number).map(Self).map_err(|_| format!("{number} is not a count"))
    }
}

impl ConfigValue for Size {
    const EXPECTED: &'static str = r#""64MiB", "512KiB" or "65536" (bytes)"#;
    const FORM: ValueForm = ValueForm::Text(Some("^[0-9]+ *([KkMmGg]([Ii][Bb]?|[Bb])|[Bb])?$"));
}

impl ConfigValue for Time {
    const EXPECTED: &'static str = r#""1500ms", "30s", "5m", "1h" or "1d""#;
    const FORM: ValueForm = ValueForm::Text(Some("^[0-9]+ *([Mm]?[Ss]|[MmHhDd])$"));
}

impl ConfigValue for CountValue {
    const EXPECTED: &'static str = "a whole number such as 1024, without quotes";
    const FORM: ValueForm = ValueForm::Integer;
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, SIZES.iter().filter(|(unit, _)| unit.ends_with("iB")), "B", f)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis == 0 { f.write_str("0s") } else { show(self.millis, TIMES.iter(), "ms", f) }
    }
}

impl fmt::Display for CountValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Parses a number with its unit. Returns `None` if the number or the unit is invalid, or if the product overflows.
fn measure(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let &(_, factor) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start()))?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Writes `value` in the largest of `units` that divides it, else in `smallest`.
fn show<'u>(
    value: u64,
    mut units: impl Iterator<Item = &'u (&'u str, u64)>,
    smallest: &str,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    match units.find(|(_, factor)| value > 0 && value.is_multiple_of(*factor)) {
        Some((unit, factor)) => write!(f, "{}{unit}", value / factor),
        None => write!(f, "{value}{smallest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes, shown) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("512kib", 512 << 10, "512KiB"),
            ("1 GiB", 1 << 30, "1GiB"),
            ("64Mi", 64 << 20, "64MiB"),
            ("65536", 65536, "64KiB"),
            ("1000B", 1000, "1000B"),
            ("2MB", 2_000_000, "2000000B"),
            ("0", 0, "0B"),
        ] {
            let size = Size::try_from(text.to_owned());
            assert_eq!(size, Ok(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string(), shown);
        }
        for bad in ["", "MiB", "-1", "1.5GiB", "64 apples", "99999999999999GiB", "64MiB "] {
            assert!(Size::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        for (text, millis, shown) in [
            ("1500ms", 1500, "1500ms"),
            ("30s", 30_000, "30s"),
            ("300S", 300_000, "5m"),
            ("1h", 3_600_000, "1h"),
            ("24h", 86_400_000, "1d"),
            ("0s", 0, "0s"),
        ] {
            assert_eq!(Time::try_from(text.to_owned()), Ok(Time::millis(millis)), "{text}");
            assert_eq!(Time::millis(millis).to_string(), shown);
        }
        for bad in ["", "5", "s", "1h30m", "-1s", "1.5s", "99999999999999999d"] {
            assert!(Time::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert_eq!(Time::secs(5).whole_secs(), Some(5));
        assert_eq!(Time::millis(1500).whole_secs(), None);
    }

    #[test]
    fn bounds_include_both_ends() {
        let bounds = Bounds { default: CountValue(0), floor: CountValue(1), ceiling: CountValue(4) };
        assert_eq!(bounds.hold(&CountValue(1)), Ok(()));
        assert_eq!(bounds.hold(&CountValue(4)), Ok(()));
        assert_eq!(bounds.hold(&CountValue(0)), Err("0 is too little: from 1 to 4".to_owned()));
        assert_eq!(bounds.hold(&CountValue(5)), Err("5 is too much: from 1 to 4".to_owned()));
    }
}
