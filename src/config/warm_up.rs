//! Warm-up for jobs that are about to start: `[warm_up]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::table::TomlTable;
use super::value::ConfigValue;

/// Default of `[warm_up] enabled`.
pub(crate) const ENABLED: bool = true;

/// Settings of the warm-up for jobs that are about to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// True if the warm-up is enabled.
    pub enabled: bool,
    /// File with the query history of each project's jobs; `None`: in memory only.
    pub file: Option<PathBuf>,
}

impl Default for WarmUp {
    fn default() -> Self {
        Self { enabled: ENABLED, file: None }
    }
}

/// `[warm_up]` in the file.
#[derive(Debug)]
pub(crate) struct WarmUpTable {
    pub enabled: bool,
    /// Default: none, so the history is lost when nodens stops.
    pub file: Option<Spanned<FileValue>>,
}

/// Absolute path of a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct FileValue(pub PathBuf);

impl WarmUpTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Self {
        table.read(|table| Self { enabled: table.flag("enabled", ENABLED), file: table.value("file") })
    }
}

/// Converts `[warm_up]` to its validated form.
pub(super) fn warm_up(file: &WarmUpTable) -> WarmUp {
    WarmUp { enabled: file.enabled, file: file.file.as_ref().map(|file| file.get_ref().0.clone()) }
}

impl TryFrom<String> for FileValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = Path::new(&text);
        // A relative path would depend on the directory in which nodens was started.
        let good = path.is_absolute() && path.file_name().is_some() && !text.ends_with('/');
        if good && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(format!("{text:?} is not the whole path of a file"))
        }
    }
}

impl ConfigValue for FileValue {
    const EXPECTED: &'static str = r#""/var/lib/nodens/query-history.json""#;
}
