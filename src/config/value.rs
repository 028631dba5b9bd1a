//! What every value of the file can say of itself.

use serde::de::DeserializeOwned;

/// A value that serde reads from one TOML value.
pub trait Leaf: DeserializeOwned {
    /// What a right value looks like, for the message about a wrong one.
    const RIGHT: &'static str;
}

impl Leaf for String {
    const RIGHT: &'static str = "a text in quotes";
}

impl Leaf for bool {
    const RIGHT: &'static str = "true or false, without quotes";
}
