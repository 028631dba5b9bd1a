//! The keys of the file as data: what the reader asks for, noted while it runs over an empty file ([`super::outline`]).

use super::value::ValueForm;

/// One thing that the reader asked for.
#[derive(Clone, Debug)]
pub(super) struct RecordedKey {
    /// Path of the table: empty for the file itself, `upstreams.NAME` for tables with names of the user's own.
    pub(super) table: String,
    /// Key within the table.
    pub(super) key: &'static str,
    pub(super) fact: KeyProperty,
}

/// Property of a key that the reader asked for.
#[derive(Clone, Debug)]
pub(super) enum KeyProperty {
    /// The key is a table of this shape.
    Table(Shape),
    /// The key has values of this form.
    Value {
        /// Form of one value.
        form: ValueForm,
        arity: Arity,
    },
    /// The key must be present.
    Required,
    /// The least and the most.
    Bounds(String, String),
    /// The value without the key.
    Default(String),
}

/// Shape of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    One,
    Named,
    Many,
}

/// Number of values of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arity {
    One,
    /// A list that is not empty.
    List,
    /// One value, or a list of them.
    OneOrList,
}
