//! Trait of all values in the file.

use serde::de::DeserializeOwned;

/// Form of a value, for the JSON Schema and the reference page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueForm {
    /// A string; with a regular expression (ECMA 262) that each valid one matches, where there is one.
    Text(Option<&'static str>),
    /// One of these strings.
    OneOf(&'static [&'static str]),
    Integer,
    Number,
    Boolean,
    /// A table of strings.
    Map,
}

/// Value that serde reads from one TOML value.
pub(crate) trait ConfigValue: DeserializeOwned {
    /// Description of a valid value, for error messages.
    const EXPECTED: &'static str;
    /// Form of the value.
    const FORM: ValueForm = ValueForm::Text(None);
}

impl ConfigValue for String {
    const EXPECTED: &'static str = "a text in quotes";
}

impl ConfigValue for bool {
    const EXPECTED: &'static str = "true or false, without quotes";
    const FORM: ValueForm = ValueForm::Boolean;
}
