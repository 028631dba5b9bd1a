//! Errors and warnings about a file, with positions. They are collected while the file is read, and reported once in its order.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use super::key::{KeyProperty, RecordedKey};

/// Error or warning about a value in the file: position, problem and expected value.
///
/// Displayed as `line:column: what`. With the file's name and a colon in front, editors can jump to the position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub(crate) line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Problem and expected value, on one line.
    pub what: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

/// Errors and warnings found so far. All readers of the file's tables share them, hence the cells.
pub(super) struct Diagnostics<'t> {
    text: &'t str,
    found: RefCell<Vec<(usize, String)>>,
    /// Warnings and notes, which do not reject the file.
    warnings: RefCell<Vec<(usize, String)>>,
    /// Keys that are present but whose TOML is broken.
    broken: RefCell<Vec<String>>,
    /// Keys that the reader asks for, where only these are wanted.
    outline: Option<RefCell<Vec<RecordedKey>>>,
}

impl<'t> Diagnostics<'t> {
    /// Returns an empty collection for `text`.
    pub(super) fn new(text: &'t str) -> Self {
        let (found, warnings) = (RefCell::default(), RefCell::default());
        Self { text, found, warnings, broken: RefCell::default(), outline: None }
    }

    /// Returns one for an empty text that notes each key that the reader asks for.
    pub(super) fn of_outline() -> Diagnostics<'static> {
        Diagnostics { outline: Some(RefCell::default()), ..Diagnostics::new("") }
    }

    /// Returns whether only the keys are wanted.
    pub(super) fn is_outline(&self) -> bool {
        self.outline.is_some()
    }

    /// Notes what the reader asks about a key, where that is wanted.
    pub(super) fn ask(&self, table: &str, key: &'static str, fact: impl FnOnce() -> KeyProperty) {
        if let Some(outline) = &self.outline {
            outline.borrow_mut().push(RecordedKey { table: table.to_owned(), key, fact: fact() });
        }
    }

    /// Returns the keys that the reader asked for.
    pub(super) fn noted(self) -> Vec<RecordedKey> {
        self.outline.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Adds an error at the start of `span`, in bytes of the text.
    pub(super) fn add(&self, span: Range<usize>, what: impl Into<String>) {
        self.found.borrow_mut().push((span.start, what.into()));
    }

    /// Records that a key is present but its TOML is broken.
    pub(super) fn is_broken(&self, key: &str) {
        self.broken.borrow_mut().push(key.to_owned());
    }

    /// Reports whether any table has a broken key of this name. Such a key is not missing.
    pub(super) fn has_broken(&self, key: &str) -> bool {
        self.broken.borrow().iter().any(|broken| broken == key)
    }

    /// Adds a warning: the value at the start of `span` is allowed but rarely intended.
    pub(super) fn warn(&self, span: Range<usize>, what: impl fmt::Display) {
        self.warnings.borrow_mut().push((span.start, format!("warning: {what}")));
    }

    /// Adds a note: the value at the start of `span` has a consequence that the user should be aware of.
    pub(super) fn note(&self, span: Range<usize>, what: impl fmt::Display) {
        self.warnings.borrow_mut().push((span.start, format!("note: {what}")));
    }

    /// Returns the warnings and notes, in the order of the file.
    pub(super) fn warnings(&self) -> Vec<Diagnostic> {
        self.in_order(self.warnings.take())
    }

    fn in_order(&self, mut found: Vec<(usize, String)>) -> Vec<Diagnostic> {
        found.sort_by_key(|&(at, _)| at); // stable: keeps the order of errors at one position
        found.dedup();
        let diagnostic = |(at, what)| {
            let (line, column) = place(self.text, at);
            Diagnostic { line, column, what }
        };
        found.into_iter().map(diagnostic).collect()
    }

    /// Returns the value of a result. Adds an error at `span` and returns `None` if the result is an error.
    pub(super) fn good<T>(&self, span: Range<usize>, result: Result<T, String>) -> Option<T> {
        result.map_err(|what| self.add(span, what)).ok()
    }

    /// Adds an error for each item that equals an earlier one.
    pub(super) fn once<T: PartialEq>(&self, what: &str, items: impl Iterator<Item = (Range<usize>, T)>) {
        let mut seen: Vec<(Range<usize>, T)> = Vec::new();
        for (at, item) in items {
            if let Some((first, _)) = seen.iter().find(|(_, other)| *other == item) {
                let line = self.line(first.clone());
                self.add(at, format!("the same {what} is on line {line} already; leave one out"));
            } else {
                seen.push((at, item));
            }
        }
    }

    /// Returns the line on which `span` starts, from 1.
    pub(super) fn line(&self, span: Range<usize>) -> usize {
        place(self.text, span.start).0
    }

    /// Returns `good` if there are no errors, else all errors in the order of the file.
    pub(super) fn unless_any<T>(self, good: Option<T>) -> Result<T, Vec<Diagnostic>> {
        let found = self.found.take();
        match good {
            Some(good) if found.is_empty() => Ok(good),
            _ => Err(self.in_order(found)),
        }
    }
}

/// Returns the entry of `known` that is nearest to `word`; `None` if none is near.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = word.to_ascii_lowercase();
    let budget = 1 + word.chars().count() / 4;
    let far = |candidate: &str| strsim::osa_distance(&word, &candidate.to_ascii_lowercase());
    let near = known.into_iter().map(|candidate| (far(candidate), candidate));
    near.filter(|&(distance, _)| distance <= budget).min_by_key(|&(distance, _)| distance).map(|(_, known)| known)
}

/// Returns `; did you mean X?` for the nearest of `known`, else the list of all.
pub(super) fn suggestion<'k>(word: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => match known.into_iter().map(|known| format!("`{known}`")).collect::<Vec<_>>() {
            none if none.is_empty() => String::new(),
            known => format!("; there is {}", known.join(", ")),
        },
    }
}

/// Returns line and column, both from 1, of byte `at` of `text`. A position after the end counts as the end.
fn place(text: &str, at: usize) -> (usize, usize) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let text = "a = 1\nb\u{fc}cher = 2\n";
        for (at, line, column) in [(0, 1, 1), (4, 1, 5), (6, 2, 1), (8, 2, 2), (9, 2, 3), (18, 3, 1), (99, 3, 1)] {
            assert_eq!(place(text, at), (line, column), "byte {at}");
        }
    }

    #[test]
    fn near_words() {
        let known = ["listen", "allow", "workers", "tcp_idle_timeout"];
        for (word, near) in [
            ("lisen", Some("listen")),
            ("lsiten", Some("listen")),
            ("Listen", Some("listen")),
            ("alow", Some("allow")),
            ("tcp_timeout", None),
            ("tcp_idle_time", Some("tcp_idle_timeout")),
            ("x", None),
        ] {
            assert_eq!(nearest(word, known), near, "{word}");
        }
    }

    #[test]
    fn told_in_the_order_of_the_file() {
        let diagnostics = Diagnostics::new("one\ntwo");
        diagnostics.add(5..6, "second");
        diagnostics.add(0..3, "first");
        let told = diagnostics.unless_any(Some(())).expect_err("two mistakes");
        assert_eq!(told.iter().map(ToString::to_string).collect::<Vec<_>>(), ["1:1: first", "2:2: second"]);
        assert_eq!(Diagnostics::new("").unless_any(Some(1)), Ok(1));
    }
}
