//! What is asked ahead for jobs that are about to start, as the file has it: `[warm_up]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::WarmUp as Settings;
use super::file::Leaf;
use super::table::Table;

/// `[warm_up] enabled`.
pub const ENABLED: bool = true;

/// `[warm_up]`.
#[derive(Debug)]
pub struct WarmUp {
    /// Default: [`ENABLED`].
    pub enabled: bool,
    /// Default: none, it is forgotten when nodens ends.
    pub file: Option<Spanned<File>>,
}

/// The path of a file that nodens writes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct File(pub PathBuf);

impl WarmUp {
    pub(super) fn read(table: Table<'_, '_>) -> Self {
        table.read(|table| Self { enabled: table.flag("enabled", ENABLED), file: table.value("file") })
    }
}

/// `[warm_up]` as the rest of the house reads it.
pub(super) fn warm_up(file: &WarmUp) -> Settings {
    Settings { enabled: file.enabled, file: file.file.as_ref().map(|file| file.get_ref().0.clone()) }
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

impl Leaf for File {
    const RIGHT: &'static str = r#""/var/lib/nodens/habits.json""#;
}
