//! What is asked ahead for jobs that are about to start: `[warm_up]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::table::Table;
use super::value::ConfigValue;

/// `[warm_up] enabled`.
pub const ENABLED: bool = true;

/// What is asked ahead for jobs that are about to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// Whether anything is.
    pub enabled: bool,
    /// Where it is kept what the jobs of each project ask; none: in memory alone.
    pub file: Option<PathBuf>,
}

impl Default for WarmUp {
    fn default() -> Self {
        Self { enabled: ENABLED, file: None }
    }
}

/// `[warm_up]`.
#[derive(Debug)]
pub struct WarmUpTable {
    /// Default: [`ENABLED`].
    pub enabled: bool,
    /// Default: none, it is forgotten when nodens ends.
    pub file: Option<Spanned<File>>,
}

/// The path of a file that nodens writes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct File(pub PathBuf);

impl WarmUpTable {
    pub(super) fn read(table: Table<'_, '_>) -> Self {
        table.read(|table| Self { enabled: table.flag("enabled", ENABLED), file: table.value("file") })
    }
}

/// `[warm_up]` as the rest of the house reads it.
pub(super) fn warm_up(file: &WarmUpTable) -> WarmUp {
    WarmUp { enabled: file.enabled, file: file.file.as_ref().map(|file| file.get_ref().0.clone()) }
}

impl TryFrom<String> for File {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = Path::new(&text);
        // Where nodens was started from is no place to write to.
        let good = path.is_absolute() && path.file_name().is_some() && !text.ends_with('/');
        if good && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(format!("{text:?} is not the whole path of a file"))
        }
    }
}

impl ConfigValue for File {
    const EXPECTED: &'static str = r#""/var/lib/nodens/habits.json""#;
}
