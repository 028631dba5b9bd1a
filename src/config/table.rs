//! Reader of one table of the file, key by key. serde reads each value by itself, so an invalid one does not hide the next.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::IntoDeserializer;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostics, suggestion};
use super::key::{Arity, KeyProperty, Shape};
use super::units::Bounds;
use super::value::ConfigValue;

/// Table whose keys are taken out one by one. [`TomlTable::close`] reports the remaining keys as unknown.
pub(super) struct TomlTable<'m, 't> {
    /// Path of the table, if only its keys are collected.
    path: String,
    entries: DeTable<'t>,
    at: Range<usize>,
    asked: Vec<&'static str>,
    misshapen: bool,
    diagnostics: &'m Diagnostics<'m>,
}

impl<'m, 't> TomlTable<'m, 't> {
    /// Parses the outermost table of a text. A duplicate key is an error and counts once.
    pub(super) fn of_text(text: &'t str, diagnostics: &'m Diagnostics<'m>) -> Self {
        let (entries, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let span = error.span().unwrap_or_default();
            let what = match harmless(error) {
                true => twice(text, span.clone(), diagnostics),
                false => error.message().to_owned(),
            };
            diagnostics.add(span, format!("TOML: {what}"));
        }
        Self::new(entries.into_inner(), 0..0, diagnostics)
    }

    fn new(entries: DeTable<'t>, at: Range<usize>, diagnostics: &'m Diagnostics<'m>) -> Self {
        Self { path: String::new(), entries, at, asked: Vec::new(), misshapen: false, diagnostics }
    }

    /// Reports whether the table has any of these keys, with any value. To be called before they are read.
    pub(super) fn has_any(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.entries.contains_key(*key))
    }

    /// Returns the position of the table's header.
    pub(super) fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    /// Reads the value of `key`; `None` if it is missing or invalid.
    pub(super) fn value<T: ConfigValue>(&mut self, key: &'static str) -> Option<Spanned<T>> {
        self.ask(key, || KeyProperty::Value { form: T::FORM, arity: Arity::One });
        let value = self.take(key)?;
        self.leaf(key, value)
    }

    /// Reads the value of a required key.
    pub(super) fn required<T: ConfigValue>(&mut self, key: &'static str) -> Option<Spanned<T>> {
        self.record_required::<T>(key);
        self.value(key)
    }

    /// Reads the value of `key`; `None` if it is missing, invalid or out of bounds.
    pub(super) fn within<T>(&mut self, key: &'static str, bounds: &Bounds<T>) -> Option<Spanned<T>>
    where
        T: ConfigValue + PartialOrd + fmt::Display,
    {
        let value = self.value::<T>(key);
        self.ask(key, || KeyProperty::Bounds(bounds.floor.to_string(), bounds.ceiling.to_string()));
        let value = value?;
        let held = bounds.hold(value.get_ref()).map_err(|what| format!("{key}: {what}"));
        self.diagnostics.good(value.span(), held).map(|()| value)
    }

    /// Reads the value of `key`, or returns its default with an empty span.
    pub(super) fn bounded<T>(&mut self, key: &'static str, bounds: &Bounds<T>) -> Spanned<T>
    where
        T: ConfigValue + PartialOrd + fmt::Display + Copy,
    {
        let value = self.within(key, bounds);
        self.ask(key, || KeyProperty::Default(bounds.default.to_string()));
        value.unwrap_or_else(|| Spanned::new(0..0, bounds.default))
    }

    /// Reads a flag, or returns `default`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let value = self.value(key);
        self.ask(key, || KeyProperty::Default(default.to_string()));
        value.map_or(default, Spanned::into_inner)
    }

    /// Reads the valid values of a list. The list may be missing, but not empty.
    pub(super) fn list<T: ConfigValue>(&mut self, key: &'static str) -> Option<Vec<Spanned<T>>> {
        self.ask(key, || KeyProperty::Value { form: T::FORM, arity: Arity::List });
        let value = self.take(key)?;
        let at = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            self.diagnostics.add(at, format!("{key}: not a list; expected, in square brackets, {}", T::EXPECTED));
            return None;
        };
        if items.is_empty() {
            self.diagnostics.add(at, format!("{key}: the list is empty; expected a list of {}", T::EXPECTED));
            return None;
        }
        Some(items.into_iter().filter_map(|item| self.leaf(key, item)).collect())
    }

    /// Reads the valid values of a required list.
    pub(super) fn required_list<T: ConfigValue>(&mut self, key: &'static str) -> Option<Vec<Spanned<T>>> {
        self.record_required::<T>(key);
        self.list(key)
    }

    /// Reads a required value, or the valid values of a required list.
    pub(super) fn required_some<T: ConfigValue>(&mut self, key: &'static str) -> Option<Vec<Spanned<T>>> {
        self.record_required::<T>(key);
        self.some(key)
    }

    /// Reads a value, or the valid values of a list. It may be missing.
    pub(super) fn some<T: ConfigValue>(&mut self, key: &'static str) -> Option<Vec<Spanned<T>>> {
        let found = match self.entries.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(_)) => self.list(key),
            _ => self.value(key).map(|value| vec![value]),
        };
        self.ask(key, || KeyProperty::Value { form: T::FORM, arity: Arity::OneOrList });
        found
    }

    /// Reads the table `[key]`; `None` if the file has none.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Self> {
        if let Some(table) = self.outlined(key, Shape::One) {
            return Some(table);
        }
        let value = self.take(key)?;
        let table = self.as_table(value, &format!("[{key}]"));
        self.misshapen |= table.is_none();
        table
    }

    /// Reads the tables `[key.NAME]` with their names, in the order of the file; `None` if the file has none.
    pub(super) fn named_tables(&mut self, key: &'static str) -> Option<Vec<(Spanned<String>, Self)>> {
        if let Some(table) = self.outlined(key, Shape::Named) {
            return Some(vec![(Spanned::new(0..0, "NAME".to_owned()), table)]);
        }
        let value = self.take(key)?;
        let parent = self.as_table(value, &format!("[{key}.NAME], with a name of your own"));
        self.misshapen |= parent.is_none();
        let parent = parent?;
        let mut tables = Vec::new();
        for (name, value) in parent.entries {
            let name = Spanned::new(name.span(), name.into_inner().into_owned());
            if let Some(table) = self.as_table(value, &format!("[{key}.{name}]")) {
                tables.push((name, table));
            }
        }
        tables.sort_by_key(|(name, _)| name.span().start);
        Some(tables)
    }

    /// Reads the tables `[[key]]`, in the order of the file; `None` if the file has none.
    pub(super) fn tables(&mut self, key: &'static str) -> Option<Vec<Self>> {
        if let Some(table) = self.outlined(key, Shape::Many) {
            return Some(vec![table]);
        }
        let header = format!("[[{key}]]");
        let value = self.take(key)?;
        let at = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            self.misshapen = true;
            self.diagnostics
                .add(at, format!("{key}: there may be many, so each is headed {header}, in double brackets"));
            return None;
        };
        Some(items.into_iter().filter_map(|item| self.as_table(item, &header)).collect())
    }

    /// Builds a value from the table with `read`, then reports the keys that `read` did not take as unknown.
    pub(super) fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let made = read(&mut self);
        self.close();
        made
    }

    /// Adds an error for each remaining key, with the nearest known key. Returns whether there was such a key, or a known one
    /// that is not a table as it should be.
    pub(super) fn close(self) -> bool {
        for key in self.entries.keys() {
            let near = suggestion(key.get_ref(), self.asked.iter().copied());
            self.diagnostics.add(key.span(), format!("unknown key `{}`{near}", key.get_ref()));
        }
        self.misshapen || !self.entries.is_empty()
    }

    /// Returns an empty table in the place of `key`, where only the keys are wanted.
    fn outlined(&self, key: &'static str, shape: Shape) -> Option<Self> {
        if !self.diagnostics.is_outline() {
            return None;
        }
        self.ask(key, || KeyProperty::Table(shape));
        let outer = if self.path.is_empty() { String::new() } else { format!("{}.", self.path) };
        let name = if shape == Shape::Named { ".NAME" } else { "" };
        Some(Self { path: format!("{outer}{key}{name}"), ..Self::new(DeTable::new(), 0..0, self.diagnostics) })
    }

    fn ask(&self, key: &'static str, fact: impl FnOnce() -> KeyProperty) {
        self.diagnostics.ask(&self.path, key, fact);
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'t>>> {
        self.asked.push(key);
        self.entries.remove(key)
    }

    fn record_required<T: ConfigValue>(&self, key: &'static str) {
        self.ask(key, || KeyProperty::Required);
        if !self.entries.contains_key(key) && !self.diagnostics.has_broken(key) {
            self.diagnostics.add(self.at(), format!("`{key}` is missing; expected {}", T::EXPECTED));
        }
    }

    fn leaf<T: ConfigValue>(&self, key: &str, value: Spanned<DeValue<'t>>) -> Option<Spanned<T>> {
        let at = value.span();
        let read = T::deserialize(value.into_deserializer());
        let read = read.map_err(|error| format!("{key}: {}; expected {}", unexpected(error.message()), T::EXPECTED));
        self.diagnostics.good(at.clone(), read).map(|value| Spanned::new(at, value))
    }

    fn as_table(&self, value: Spanned<DeValue<'t>>, header: &str) -> Option<Self> {
        let at = value.span();
        match value.into_inner() {
            DeValue::Table(entries) => Some(Self::new(entries, at, self.diagnostics)),
            _ => {
                self.diagnostics.add(at, format!("a table is expected, headed {header}"));
                None
            }
        }
    }
}

/// Returns the text with each key blanked out whose TOML is broken, so that the rest keeps its positions. Adds an error for
/// each such key.
///
/// An open quote or bracket would invalidate all text after it, so each table is parsed by itself, and in it each key. A table
/// starts at a line that begins with a bracket, a key at a line that begins with a name and an equals sign.
pub(super) fn valid_part<'t>(text: &'t str, diagnostics: &Diagnostics<'_>) -> Cow<'t, str> {
    let (_, errors) = DeTable::parse_recoverable(text);
    if errors.iter().all(harmless) {
        return Cow::Borrowed(text);
    }
    let (mut part, mut table) = (String::new(), String::new());
    for line in text.split_inclusive('\n') {
        if line.starts_with('[') {
            part.push_str(&valid_table(&table, part.len(), diagnostics));
            table.clear();
        }
        table.push_str(line);
    }
    part.push_str(&valid_table(&table, part.len(), diagnostics));
    Cow::Owned(part)
}

/// Maximum number of broken keys of one table that are reported. A table with more is left out.
const MOST_BROKEN: usize = 16;

/// Returns the text of one table, which starts at byte `at` of the file, without its broken keys.
fn valid_table(table: &str, at: usize, diagnostics: &Diagnostics<'_>) -> String {
    let mut sound = table.to_owned();
    for _ in 0..MOST_BROKEN {
        let (_, errors) = DeTable::parse_recoverable(&sound);
        let broken = errors.iter().filter(|error| !harmless(error));
        let first = broken.map(|error| (error.span().unwrap_or_default(), error)).min_by_key(|(span, _)| span.start);
        let Some((span, error)) = first else { return sound };
        diagnostics.add(at + span.start..at + span.end, format!("TOML: {}", error.message()));
        let Some((key, lines)) = key_at(&sound, span.start) else { break };
        diagnostics.is_broken(key);
        sound.replace_range(lines.clone(), &blank(&sound[lines.clone()]));
    }
    blank(&sound)
}

/// Returns the key to which byte `at` of a table's text belongs, and the range of its lines; `None` if `at` is in the header.
fn key_at(table: &str, at: usize) -> Option<(&str, Range<usize>)> {
    let key = |line: &'_ str| -> Option<usize> {
        let (name, _) = line.split_once('=')?;
        let name = name.trim();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.\"'".contains(&byte);
        (!name.is_empty() && name.bytes().all(is_name)).then_some(name.len())
    };
    let mut found: Option<(&str, usize)> = None;
    let mut start = 0;
    for line in table.split_inclusive('\n') {
        if let Some(length) = key(line) {
            match found {
                // The first key that starts at or after `at` ends the broken one. An error right at its start means that
                // the value before it was not closed.
                Some((name, begun)) if start >= at => return Some((name, begun..start)),
                _ => {
                    let name = line.trim_start();
                    found = Some((name.get(..length).unwrap_or(name), start));
                }
            }
        }
        start += line.len();
    }
    found.map(|(name, begun)| (name, begun..table.len()))
}

/// Replaces every byte except newlines by a blank.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Describes a duplicate key or table header: its name, and the line of the first one.
fn twice(text: &str, at: Range<usize>, diagnostics: &Diagnostics<'_>) -> String {
    let (before, key) = (text.get(..at.start).unwrap_or_default(), text.get(at).unwrap_or_default());
    let line_of = |text: &str| text.rfind('\n').map_or(0, |end| end + 1);
    let this_line = text[line_of(before)..].lines().next().unwrap_or_default().trim();
    // The first one is searched in the whole file if it is a header, in the same table if it is a key.
    let is_header = this_line.starts_with('[');
    let start = if is_header { 0 } else { before.rfind("\n[").unwrap_or(0) };
    let mut offset = start;
    let mut first = None;
    for line in before[start..line_of(before).max(start)].split_inclusive('\n') {
        let found = match is_header {
            true => line.trim() == this_line,
            false => line.split_once('=').is_some_and(|(name, _)| name.trim() == key),
        };
        if found && first.is_none() {
            first = Some(offset);
        }
        offset += line.len();
    }
    let name = if is_header { this_line } else { key };
    match first {
        Some(first) => format!("`{name}` is on line {} already; leave one out", diagnostics.line(first..first)),
        None => format!("`{name}` is there twice; leave one out"),
    }
}

/// Rewords an error of serde without the Rust type that it expected: [`ConfigValue::EXPECTED`] is clearer.
fn unexpected(message: &str) -> String {
    let told = match message.rsplit_once(", expected ") {
        Some((unexpected, _)) if message.starts_with("invalid type: ") => unexpected,
        _ => message,
    };
    // Integer beyond 64 bits.
    match told.strip_suffix(" as i128").or_else(|| told.strip_suffix(" as u128")) {
        Some(number) => format!("{} is too large", number.trim_start_matches("invalid type: ")),
        None => told.to_owned(),
    }
}

/// Reports whether an error affects only its own key. Such errors are added when the whole file is parsed.
fn harmless(error: &toml::de::Error) -> bool {
    error.message() == "duplicate key"
}
