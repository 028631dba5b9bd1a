//! Socket over which a successor takes over from the running nodens: `[handover]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::table::TomlTable;
use super::value::ConfigValue;

/// Maximum length of the path of a Unix socket, in bytes: see unix(7).
const LONGEST: usize = 107;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct SocketPath(pub PathBuf);

/// Reads the socket of `[handover]`. Adds an error and returns `None` if it is missing or invalid.
pub(super) fn socket(table: TomlTable<'_, '_>) -> Option<Spanned<SocketPath>> {
    table.read(|table| table.required("socket"))
}

impl TryFrom<String> for SocketPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = Path::new(&text);
        let good = path.is_absolute() && path.file_name().is_some() && !text.ends_with('/');
        if !good || text.chars().any(char::is_control) {
            return Err(format!("{text:?} is not the whole path of a socket"));
        }
        if text.len() > LONGEST {
            return Err(format!("{text:?} is too long for a Unix socket: at most {LONGEST} bytes"));
        }
        Ok(Self(text.into()))
    }
}

impl ConfigValue for SocketPath {
    const EXPECTED: &'static str = r#""/run/nodens/handover.sock""#;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_whole_and_not_too_long() {
        let path = |text: &str| SocketPath::try_from(text.to_owned());
        assert_eq!(path("/run/nodens/handover.sock").map(|path| path.0), Ok("/run/nodens/handover.sock".into()));
        for bad in ["", "handover.sock", "/run/nodens/", "/run/a\nb", &format!("/{}", "a".repeat(LONGEST))] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
        assert!(path(&format!("/{}", "a".repeat(LONGEST - 1))).is_ok());
    }
}
