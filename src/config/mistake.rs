//! What is wrong in a file, and where: collected while the file is read, told once, in the order of the file.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

/// One thing that is wrong in the file: where it is, what it is, what would be right.
///
/// Shown as `line:column: what`, so that the file's name and a colon before it make a place that editors can jump to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong and what would be right, on one line.
    pub what: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

/// The mistakes found so far; shared by all who read a part of the file, hence the cell.
pub(super) struct Diagnostics<'t> {
    text: &'t str,
    found: RefCell<Vec<(usize, String)>>,
    /// What is no mistake, and worth to be told.
    warnings: RefCell<Vec<(usize, String)>>,
    /// Keys that are there and cannot be read.
    broken: RefCell<Vec<String>>,
}

impl<'t> Diagnostics<'t> {
    /// No mistakes yet in `text`.
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: RefCell::default(), warnings: RefCell::default(), broken: RefCell::default() }
    }

    /// Notes a mistake at the start of `span`, in bytes of the text.
    pub(super) fn add(&self, span: Range<usize>, what: impl Into<String>) {
        self.found.borrow_mut().push((span.start, what.into()));
    }

    /// Remembers that a key is there whose TOML is broken.
    pub(super) fn is_broken(&self, key: &str) {
        self.broken.borrow_mut().push(key.to_owned());
    }

    /// Whether such a key of this name is in any table: then it is not missing.
    pub(super) fn has_broken(&self, key: &str) -> bool {
        self.broken.borrow().iter().any(|broken| broken == key)
    }

    /// Adds a warning: what is at the start of `span` is allowed, and hardly what is meant.
    pub(super) fn warn(&self, span: Range<usize>, what: impl fmt::Display) {
        self.warnings.borrow_mut().push((span.start, format!("warning: {what}")));
    }

    /// Adds a note: what is at the start of `span` is as asked for, and should be known.
    pub(super) fn note(&self, span: Range<usize>, what: impl fmt::Display) {
        self.warnings.borrow_mut().push((span.start, format!("note: {what}")));
    }

    /// Returns the warnings and notes, in the order of the file.
    pub(super) fn warnings(&self) -> Vec<Diagnostic> {
        self.in_order(self.warnings.take())
    }

    fn in_order(&self, mut found: Vec<(usize, String)>) -> Vec<Diagnostic> {
        found.sort_by_key(|&(at, _)| at); // stable: at one place, as they were found
        found.dedup();
        let mistake = |(at, what)| {
            let (line, column) = place(self.text, at);
            Diagnostic { line, column, what }
        };
        found.into_iter().map(mistake).collect()
    }

    /// Notes the mistake of a result, if it is one, and hands on what is good.
    pub(super) fn good<T>(&self, span: Range<usize>, result: Result<T, String>) -> Option<T> {
        result.map_err(|what| self.add(span, what)).ok()
    }

    /// Notes each item that was there before.
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

    /// The line on which `span` starts, from 1.
    pub(super) fn line(&self, span: Range<usize>) -> usize {
        place(self.text, span.start).0
    }

    /// The good outcome if nothing is wrong, else every mistake in the order of the file.
    pub(super) fn unless_any<T>(self, good: Option<T>) -> Result<T, Vec<Diagnostic>> {
        let found = self.found.take();
        match good {
            Some(good) if found.is_empty() => Ok(good),
            _ => Err(self.in_order(found)),
        }
    }
}

/// The one of `known` that `word` was most likely meant to be; none if no one is near.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = word.to_ascii_lowercase();
    let budget = 1 + word.chars().count() / 4;
    let far = |candidate: &str| strsim::osa_distance(&word, &candidate.to_ascii_lowercase());
    let near = known.into_iter().map(|candidate| (far(candidate), candidate));
    near.filter(|&(distance, _)| distance <= budget).min_by_key(|&(distance, _)| distance).map(|(_, known)| known)
}

/// `; did you mean X?` for the nearest of `known`, or else the list of them all.
pub(super) fn suggestion<'k>(word: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => match known.into_iter().map(|known| format!("`{known}`")).collect::<Vec<_>>() {
            none if none.is_empty() => String::new(),
            known => format!("; there is {}", known.join(", ")),
        },
    }
}

/// The line and column, both from 1, of byte `at` of `text`; the end of the text if it lies behind it.
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
        let mistakes = Diagnostics::new("one\ntwo");
        mistakes.add(5..6, "second");
        mistakes.add(0..3, "first");
        let told = mistakes.unless_any(Some(())).expect_err("two mistakes");
        assert_eq!(told.iter().map(ToString::to_string).collect::<Vec<_>>(), ["1:1: first", "2:2: second"]);
        assert_eq!(Diagnostics::new("").unless_any(Some(1)), Ok(1));
    }
}
