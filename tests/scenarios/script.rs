//! A scenario file as a list of steps: each is an unindented line and the indented lines below it.
//!
//! ```text
//! # The rule, and its source.
//! upstream public-1 latency=20ms
//!   www.example.com. 300 A 192.0.2.80
//! ask www.example.com A
//!   NOERROR
//!   www.example.com. 300 A 192.0.2.80
//! ```
//!
//! `config` and `reload` take TOML, in which `{public-1}` is the address of this upstream. Lines before the first table belong
//! to `[server]`. Without `config`, all upstreams form one group, `public`, and every name is routed to it.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// A step.
#[derive(Debug)]
pub(crate) struct Step {
    /// Line number, from 1.
    pub(crate) line: usize,
    /// Words of the line.
    pub(crate) words: Vec<String>,
    /// Indented lines below it.
    pub(crate) block: Vec<String>,
}

/// Reads a file; panics with the number of a line that it cannot read.
pub(crate) fn read(path: &Path) -> Vec<Step> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(text.starts_with("# "), "{}: begins with the rule, as a comment", path.display());
    let mut steps: Vec<Step> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with(' ') {
            let step = steps.last_mut().unwrap_or_else(|| panic!("line {number}: indented below nothing"));
            step.block.push(line.trim().to_owned());
        } else {
            steps.push(Step { line: number, words: words(line), block: Vec::new() });
        }
    }
    steps
}

/// Splits a line into words.
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// `key=value` words by key; a word without a value has an empty one.
#[derive(Debug)]
pub(crate) struct Options<'a>(HashMap<&'a str, &'a str>);

impl<'a> Options<'a> {
    /// Parses words.
    pub(crate) fn new(words: &'a [String]) -> Self {
        Self(words.iter().map(|word| word.split_once('=').unwrap_or((word, ""))).collect())
    }

    /// Removes a word without a value; returns whether it was present.
    pub(crate) fn flag(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    /// Removes a word and returns its value.
    pub(crate) fn value(&mut self, key: &str) -> Option<&'a str> {
        self.0.remove(key)
    }

    /// Removes a word and returns its value as a number.
    pub(crate) fn number(&mut self, key: &str) -> Option<u16> {
        self.value(key).map(|text| text.parse().unwrap_or_else(|_| panic!("{key}={text}: not a number")))
    }

    /// Panics if a word is left, which is then unknown.
    pub(crate) fn close(self) {
        assert!(self.0.is_empty(), "unknown words: {:?}", self.0);
    }
}

/// Parses a time such as `250ms`, `10s`, `2m` or `1h`.
pub(crate) fn time(text: &str) -> Duration {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().unwrap_or_else(|_| panic!("{text}: not a time"));
    match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        "h" => Duration::from_secs(number * 3_600),
        _ => panic!("{text}: not a time"),
    }
}

/// Parses `3` or `2..4`, both ends included.
pub(crate) fn range(text: &str) -> std::ops::RangeInclusive<u64> {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text}: not a number"));
    match text.split_once("..") {
        Some((least, most)) => number(least)..=number(most),
        None => number(text)..=number(text),
    }
}

/// Parses bytes in hexadecimal.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap_or_else(|| panic!("{text}: not hexadecimal")) as u8;
    text.as_bytes().chunks(2).map(|pair| pair.iter().fold(0, |high, low| high << 4 | digit(low))).collect()
}
