//! What every value of the file can say of itself.

use serde::de::DeserializeOwned;

/// A value that serde reads from one TOML value.
pub trait ConfigValue: DeserializeOwned {
    /// What a right value looks like, for the message about a wrong one.
    const EXPECTED: &'static str;
}

impl ConfigValue for String {
    const EXPECTED: &'static str = "a text in quotes";
}

impl ConfigValue for bool {
    const EXPECTED: &'static str = "true or false, without quotes";
}
