//! One table of the file, read key by key: serde reads each value by itself, so that a bad one does not hide the next.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::IntoDeserializer;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Diagnostics, suggestion};
use super::units::Bounds;
use super::value::ConfigValue;

/// A table whose keys are taken out one by one; [`Table::close`] calls what is then left unknown.
pub(super) struct Table<'m, 't> {
    entries: DeTable<'t>,
    at: Range<usize>,
    asked: Vec<&'static str>,
    misshapen: bool,
    mistakes: &'m Diagnostics<'m>,
}

impl<'m, 't> Table<'m, 't> {
    /// The outermost table of a text. A key that is there twice is noted and counts once.
    pub(super) fn of_text(text: &'t str, mistakes: &'m Diagnostics<'m>) -> Self {
        let (entries, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let span = error.span().unwrap_or_default();
            let what = match harmless(error) {
                true => twice(text, span.clone(), mistakes),
                false => error.message().to_owned(),
            };
            mistakes.add(span, format!("TOML: {what}"));
        }
        Self::new(entries.into_inner(), 0..0, mistakes)
    }

    fn new(entries: DeTable<'t>, at: Range<usize>, mistakes: &'m Diagnostics<'m>) -> Self {
        Self { entries, at, asked: Vec::new(), misshapen: false, mistakes }
    }

    /// Whether it has any of these keys, with whatever value. To be asked before they are read.
    pub(super) fn has_any(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.entries.contains_key(*key))
    }

    /// Where the table starts: its header.
    pub(super) fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    /// The value of `key`; none if the file has none or a bad one.
    pub(super) fn value<T: ConfigValue>(&mut self, key: &'static str) -> Option<Spanned<T>> {
        let value = self.take(key)?;
        self.leaf(key, value)
    }

    /// The value of `key`, which must be there.
    pub(super) fn required<T: ConfigValue>(&mut self, key: &'static str) -> Option<Spanned<T>> {
        self.must_have::<T>(key);
        self.value(key)
    }

    /// The value of `key` if it lies within its bounds.
    pub(super) fn within<T>(&mut self, key: &'static str, bounds: &Bounds<T>) -> Option<Spanned<T>>
    where
        T: ConfigValue + PartialOrd + fmt::Display,
    {
        let value = self.value::<T>(key)?;
        let held = bounds.hold(value.get_ref()).map_err(|what| format!("{key}: {what}"));
        self.mistakes.good(value.span(), held).map(|()| value)
    }

    /// The value of `key`, or its default with an empty span.
    pub(super) fn bounded<T>(&mut self, key: &'static str, bounds: &Bounds<T>) -> Spanned<T>
    where
        T: ConfigValue + PartialOrd + fmt::Display + Copy,
    {
        self.within(key, bounds).unwrap_or_else(|| Spanned::new(0..0, bounds.default))
    }

    /// Whether `key` is set, `default` if the file is silent.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.value(key).map_or(default, Spanned::into_inner)
    }

    /// The values of a list that may be absent but not empty, without the bad ones.
    pub(super) fn list<T: ConfigValue>(&mut self, key: &'static str) -> Option<Vec<Spanned<T>>> {
        let value = self.take(key)?;
        let at = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            self.mistakes.add(at, format!("{key}: not a list; expected, in square brackets, {}", T::EXPECTED));
            return None;
        };
        if items.is_empty() {
            self.mistakes.add(at, format!("{key}: the list is empty; expected a list of {}", T::EXPECTED));
            return None;
        }
        Some(items.into_iter().filter_map(|item| self.leaf(key, item)).collect())
    }

    /// The values of a list that must be there.
    pub(super) fn required_list<T: ConfigValue>(&mut self, key: &'static str) -> Option<Vec<Spanned<T>>> {
        self.must_have::<T>(key);
        self.list(key)
    }

    /// One value, or those of a list, that must be there.
    pub(super) fn required_some<T: ConfigValue>(&mut self, key: &'static str) -> Option<Vec<Spanned<T>>> {
        match self.entries.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(_)) => self.list(key),
            _ => self.required(key).map(|value| vec![value]),
        }
    }

    /// The table `[key]`; none if the file has none.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Self> {
        let value = self.take(key)?;
        let table = self.as_table(value, &format!("[{key}]"));
        self.misshapen |= table.is_none();
        table
    }

    /// The tables `[key.NAME]` with their names, in the order of the file; none if the file has none.
    pub(super) fn named_tables(&mut self, key: &'static str) -> Option<Vec<(Spanned<String>, Self)>> {
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

    /// The tables `[[key]]`, in the order of the file; none if the file has none.
    pub(super) fn tables(&mut self, key: &'static str) -> Option<Vec<Self>> {
        let header = format!("[[{key}]]");
        let value = self.take(key)?;
        let at = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            self.misshapen = true;
            self.mistakes.add(at, format!("{key}: there may be many, so each is headed {header}, in double brackets"));
            return None;
        };
        Some(items.into_iter().filter_map(|item| self.as_table(item, &header)).collect())
    }

    /// What `read` makes of the table; the keys that it does not ask for are unknown.
    pub(super) fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let made = read(&mut self);
        self.close();
        made
    }

    /// Notes every key that nobody asked for, with the nearest that exists; whether there was any, or a table of a known
    /// name that is none.
    pub(super) fn close(self) -> bool {
        for key in self.entries.keys() {
            let near = suggestion(key.get_ref(), self.asked.iter().copied());
            self.mistakes.add(key.span(), format!("unknown key `{}`{near}", key.get_ref()));
        }
        self.misshapen || !self.entries.is_empty()
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'t>>> {
        self.asked.push(key);
        self.entries.remove(key)
    }

    fn must_have<T: ConfigValue>(&self, key: &'static str) {
        if !self.entries.contains_key(key) && !self.mistakes.has_broken(key) {
            self.mistakes.add(self.at(), format!("`{key}` is missing; expected {}", T::EXPECTED));
        }
    }

    fn leaf<T: ConfigValue>(&self, key: &str, value: Spanned<DeValue<'t>>) -> Option<Spanned<T>> {
        let at = value.span();
        let read = T::deserialize(value.into_deserializer());
        let read = read.map_err(|error| format!("{key}: {}; expected {}", unexpected(error.message()), T::EXPECTED));
        self.mistakes.good(at.clone(), read).map(|value| Spanned::new(at, value))
    }

    fn as_table(&self, value: Spanned<DeValue<'t>>, header: &str) -> Option<Self> {
        let at = value.span();
        match value.into_inner() {
            DeValue::Table(entries) => Some(Self::new(entries, at, self.mistakes)),
            _ => {
                self.mistakes.add(at, format!("a table is expected, headed {header}"));
                None
            }
        }
    }
}

/// The text with each key blanked out whose TOML is broken, the mistake noted: what is left keeps its places.
///
/// An open quote or bracket would make nonsense of all that follows it, so each table is read by itself, and within it each key;
/// tables start at a line that starts with a bracket, keys at one that begins with a name and an equals sign.
pub(super) fn sound_part<'t>(text: &'t str, mistakes: &Diagnostics<'_>) -> Cow<'t, str> {
    let (_, errors) = DeTable::parse_recoverable(text);
    if errors.iter().all(harmless) {
        return Cow::Borrowed(text);
    }
    let (mut part, mut table) = (String::new(), String::new());
    for line in text.split_inclusive('\n') {
        if line.starts_with('[') {
            part.push_str(&sound_table(&table, part.len(), mistakes));
            table.clear();
        }
        table.push_str(line);
    }
    part.push_str(&sound_table(&table, part.len(), mistakes));
    Cow::Owned(part)
}

/// The most broken keys of one table that are told; with more it is left out.
const MOST_BROKEN: usize = 16;

/// One table's text without its broken keys; it starts at byte `at` of the file.
fn sound_table(table: &str, at: usize, mistakes: &Diagnostics<'_>) -> String {
    let mut sound = table.to_owned();
    for _ in 0..MOST_BROKEN {
        let (_, errors) = DeTable::parse_recoverable(&sound);
        let broken = errors.iter().filter(|error| !harmless(error));
        let first = broken.map(|error| (error.span().unwrap_or_default(), error)).min_by_key(|(span, _)| span.start);
        let Some((span, error)) = first else { return sound };
        mistakes.add(at + span.start..at + span.end, format!("TOML: {}", error.message()));
        let Some((key, lines)) = key_at(&sound, span.start) else { break };
        mistakes.is_broken(key);
        sound.replace_range(lines.clone(), &blank(&sound[lines.clone()]));
    }
    blank(&sound)
}

/// The key of a table's text that byte `at` belongs to, and the lines that it takes; none if that is its header.
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
                // The next key after that place; one right there ends what should have ended before.
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

/// As many blanks, in as many lines.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// What is wrong with a key, or the header of a table, that is there for the second time: its name, and where the first one is.
fn twice(text: &str, at: Range<usize>, mistakes: &Diagnostics<'_>) -> String {
    let (before, key) = (text.get(..at.start).unwrap_or_default(), text.get(at).unwrap_or_default());
    let line_of = |text: &str| text.rfind('\n').map_or(0, |end| end + 1);
    let this_line = text[line_of(before)..].lines().next().unwrap_or_default().trim();
    // The lines before this one that could hold the first: of the whole file for a header, of the same table for a key.
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
        Some(first) => format!("`{name}` is on line {} already; leave one out", mistakes.line(first..first)),
        None => format!("`{name}` is there twice; leave one out"),
    }
}

/// Serde's message in plain words: without the name of the Rust type that it expected, which [`ConfigValue::EXPECTED`] says better.
fn unexpected(message: &str) -> String {
    let told = match message.rsplit_once(", expected ") {
        Some((unexpected, _)) if message.starts_with("invalid type: ") => unexpected,
        _ => message,
    };
    // An integer beyond 64 bits.
    match told.strip_suffix(" as i128").or_else(|| told.strip_suffix(" as u128")) {
        Some(number) => format!("{} is too large", number.trim_start_matches("invalid type: ")),
        None => told.to_owned(),
    }
}

/// Whether an error spoils nothing but itself; it is noted when the whole file is read.
fn harmless(error: &toml::de::Error) -> bool {
    error.message() == "duplicate key"
}
