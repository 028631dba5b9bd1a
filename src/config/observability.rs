//! Metrics and query log: `[metrics]` and `[query_log]`.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::table::TomlTable;
use super::units::{Bounds, CountValue};
use super::value::{ConfigValue, ValueForm};

/// `[metrics] max_projects`. Each adds two series to every scrape of every node.
pub(crate) const MAX_PROJECTS: Bounds<CountValue> =
    Bounds { default: CountValue(100), floor: CountValue(0), ceiling: CountValue(1_000) };
/// Default of `[query_log] only`.
pub(crate) const ONLY: Logged = Logged::All;
/// `[query_log] sample`. The floor is one in a million.
pub(crate) const SAMPLE: Bounds<ShareValue> =
    Bounds { default: ShareValue(1_000_000), floor: ShareValue(1), ceiling: ShareValue(1_000_000) };
/// `[query_log] max_per_second`. A line has about 400 bytes, so the default is about 40 KB a second.
pub(crate) const MAX_PER_SECOND: Bounds<CountValue> =
    Bounds { default: CountValue(100), floor: CountValue(1), ceiling: CountValue(100_000) };

/// Settings of the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Maximum number of combinations of namespace, project and runner with series of their own; the rest is project `other`.
    pub max_projects: usize,
}

/// Settings of the query log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryLogConfig {
    pub(crate) to: LogTarget,
    /// Queries that are logged.
    pub only: Logged,
    /// Part of these queries that is logged, drawn at random, in millionths.
    pub sample: u32,
    /// Most lines in any second.
    pub max_per_second: u32,
}

/// Destination of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// File at this path.
    File(PathBuf),
}

/// Queries that are logged, by their response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// Each query, whatever its response.
    All,
    /// Queries with a response other than NOERROR.
    Failures,
    /// Queries with a response other than NOERROR and NXDOMAIN.
    Errors,
}

/// `[metrics]` in the file.
#[derive(Debug)]
pub(crate) struct MetricsTable {
    pub max_projects: Spanned<CountValue>,
}

/// `[query_log]` in the file.
#[derive(Debug)]
pub(crate) struct QueryLogTable {
    pub to: Spanned<LogTargetValue>,
    pub only: Logged,
    pub sample: Spanned<ShareValue>,
    pub max_per_second: Spanned<CountValue>,
}

/// Destination of a log, as the file gives it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct LogTargetValue(pub LogTarget);

/// Part of a whole, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "f64")]
pub(crate) struct ShareValue(pub u32);

impl MetricsTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Self {
        table.read(|table| Self { max_projects: table.bounded("max_projects", &MAX_PROJECTS) })
    }
}

impl QueryLogTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Option<Self> {
        table.read(|table| {
            let to = table.required("to");
            let only = table.value("only").map_or(ONLY, Spanned::into_inner);
            let sample = table.bounded("sample", &SAMPLE);
            let max_per_second = table.bounded("max_per_second", &MAX_PER_SECOND);
            Some(Self { to: to?, only, sample, max_per_second })
        })
    }
}

/// Converts `[metrics]` to its validated form.
pub(super) fn metrics(file: &MetricsTable) -> MetricsConfig {
    MetricsConfig { max_projects: file.max_projects.get_ref().0 }
}

/// Converts `[query_log]` to its validated form.
pub(super) fn query_log(file: &QueryLogTable) -> QueryLogConfig {
    QueryLogConfig {
        to: file.to.get_ref().0.clone(),
        only: file.only,
        sample: file.sample.get_ref().0,
        max_per_second: u32::try_from(file.max_per_second.get_ref().0).unwrap_or(u32::MAX),
    }
}

impl TryFrom<String> for LogTargetValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "stdout" => Ok(Self(LogTarget::Stdout)),
            path if path.starts_with('/') && !path.ends_with('/') => Ok(Self(LogTarget::File(PathBuf::from(path)))),
            _ => Err(format!("{text:?} is neither stdout nor the whole path of a file")),
        }
    }
}

impl TryFrom<f64> for ShareValue {
    type Error = String;

    fn try_from(share: f64) -> Result<Self, String> {
        let millionths = (share * 1e6).round();
        // No share is rounded into its bounds. A share above 1 is accepted here, for the error that names the bounds.
        match share {
            share if !share.is_finite() || share < 0.0 => Err(format!("{share} is not a share")),
            share if share > 0.0 && share < 1e-6 => Err(format!("{share} is too little")),
            share if share > 1.0 => Ok(Self(millionths.max(1_000_001.0) as u32)),
            _ => Ok(Self(millionths as u32)),
        }
    }
}

impl fmt::Display for ShareValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1e6)
    }
}

impl ConfigValue for LogTargetValue {
    const EXPECTED: &'static str = r#""stdout" or "/var/log/nodens/queries.jsonl""#;
}

impl ConfigValue for ShareValue {
    const EXPECTED: &'static str = "a number from 0.000001 to 1, without quotes";
    const FORM: ValueForm = ValueForm::Number;
}

impl ConfigValue for Logged {
    const EXPECTED: &'static str = r#""all", "failures" or "errors""#;
    const FORM: ValueForm = ValueForm::OneOf(&["all", "failures", "errors"]);
}

impl<'de> Deserialize<'de> for Logged {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.to_ascii_lowercase().as_str() {
            "all" => Ok(Self::All),
            "failures" => Ok(Self::Failures),
            "errors" => Ok(Self::Errors),
            _ => Err(serde::de::Error::custom(format!("{text:?} is nothing that can be logged alone"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    const REST: &str = "[upstreams.up]\nservers = [\"192.0.2.1\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";

    fn read(query_log: &str) -> Result<Option<QueryLogConfig>, String> {
        let config = parse(&format!("[query_log]\n{query_log}\n{REST}"), &[]);
        config.map(|config| config.query_log).map_err(|diagnostics| diagnostics[0].what.clone())
    }

    #[test]
    fn a_query_log_is_read() {
        let all = QueryLogConfig { to: LogTarget::Stdout, only: Logged::All, sample: 1_000_000, max_per_second: 100 };
        assert_eq!(read("to = \"stdout\""), Ok(Some(all.clone())));
        assert_eq!(read("to = \"stdout\"\nsample = 1"), Ok(Some(all.clone())));
        let some = QueryLogConfig {
            to: LogTarget::File("/tmp/log".into()),
            only: Logged::Errors,
            sample: 10_000,
            max_per_second: 5,
        };
        assert_eq!(read("to = \"/tmp/log\"\nonly = \"errors\"\nsample = 0.01\nmax_per_second = 5"), Ok(Some(some)));
        assert_eq!(parse(REST, &[]).expect("good").query_log, None);
        for (text, diagnostic) in [
            ("", "`to` is missing; expected \"stdout\" or \"/var/log/nodens/queries.jsonl\""),
            (
                "to = \"log\"",
                "to: \"log\" is neither stdout nor the whole path of a file; expected \"stdout\" or \
                 \"/var/log/nodens/queries.jsonl\"",
            ),
            ("to = \"stdout\"\nsample = 0", "sample: 0 is too little: from 0.000001 to 1"),
            (
                "to = \"stdout\"\nsample = 0.0000009",
                "sample: 0.0000009 is too little; expected a number from 0.000001 to 1, without quotes",
            ),
            (
                "to = \"stdout\"\nsample = inf",
                "sample: inf is not a share; expected a number from 0.000001 to 1, without quotes",
            ),
            ("to = \"stdout\"\nsample = 1.0000001", "sample: 1.000001 is too much: from 0.000001 to 1"),
            ("to = \"stdout\"\nsample = 1.5", "sample: 1.5 is too much: from 0.000001 to 1"),
            (
                "to = \"stdout\"\nsample = -0.5",
                "sample: -0.5 is not a share; expected a number from 0.000001 to 1, without quotes",
            ),
            (
                "to = \"stdout\"\nonly = \"hits\"",
                "only: \"hits\" is nothing that can be logged alone; expected \"all\", \"failures\" or \
                 \"errors\"",
            ),
        ] {
            assert_eq!(read(text), Err(diagnostic.to_owned()));
        }
    }
}
