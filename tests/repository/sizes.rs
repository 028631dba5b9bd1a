//! Sizes of files and functions of `src/`, its public lines and its short comments, and the names of its types.
//!
//! `cargo test --test repository sizes -- --nocapture` shows the figures.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::imports::sources;

/// Bounds in lines: half of the files, nine tenths of the files, and 99 % of the functions have at most this many.
const MEDIAN_FILE: usize = 179;
const P90_FILE: usize = 357;
const P99_FUNCTION: usize = 52;
/// Most doc comments that have one line of at most [`FEW_WORDS`] words: mnemonics and units, which need no more.
const SHORT_COMMENTS: usize = 45;
const FEW_WORDS: usize = 3;
/// Most lines of README.md.
const README: usize = 150;

/// Words before `fn`, `struct` and the like.
const QUALIFIERS: &[&str] = &["const", "async", "unsafe"];

#[test]
fn sizes_stay_within_their_bounds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(&root.join("src"));
    let files: Vec<usize> = sources.values().map(|text| text.lines().count()).collect();
    let functions: Vec<usize> = sources.values().flat_map(|text| functions(text)).collect();
    let short: usize = sources.values().map(|text| short_comments(text)).sum();
    let public = sources.values().flat_map(|text| text.lines()).filter(|line| line.trim().starts_with("pub ")).count();
    let readme = fs::read_to_string(root.join("README.md")).unwrap().lines().count();
    let rows = [
        ("lines of a file, median", percentile(&files, 50), MEDIAN_FILE),
        ("lines of a file, p90", percentile(&files, 90), P90_FILE),
        ("lines of a function, p99", percentile(&functions, 99), P99_FUNCTION),
        ("comments of three words or fewer", short, SHORT_COMMENTS),
        ("lines of README.md", readme, README),
    ];
    println!("{} files, {} functions, {public} public lines", files.len(), functions.len());
    for (what, value, bound) in rows {
        println!("{what}: {value}, at most {bound}");
    }
    let beyond: Vec<_> = rows.iter().filter(|(_, value, bound)| value > bound).collect();
    assert!(beyond.is_empty(), "{beyond:?}");
}

#[test]
fn what_is_measured_is_found() {
    let text = "fn one() {}\n\npub(crate) async fn two(\n    a: u8,\n) -> u8 {\n    a\n}\n\ntrait T {\n    fn none(&self);\n}\n";
    assert_eq!(functions(text), [1, 5]);
    let text = "/// Three short words.\nstruct A;\n\n/// Four words are enough.\nstruct B;\n\n/// Two words,\n/// two lines.\nstruct C;\n";
    assert_eq!(short_comments(text), 1);
    assert_eq!(types(text).collect::<Vec<_>>(), ["A", "B", "C"]);
    assert_eq!(
        types("pub(crate) trait D<'a> {\n    type Item;\n}\npub type E = u8;\n").collect::<Vec<_>>(),
        ["D", "E"]
    );
    assert_eq!((percentile(&[3, 1, 2], 50), percentile(&[], 50)), (2, 0));
}

#[test]
fn no_two_types_have_one_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources = sources(&root);
    let mut modules: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (module, text) in &sources {
        types(text).for_each(|name| modules.entry(name).or_default().push(module));
    }
    modules.retain(|_, modules| modules.len() > 1);
    assert!(modules.is_empty(), "{modules:#?}");
}

/// Returns the value that `percent` % of the values do not exceed; 0 if there is none.
fn percentile(values: &[usize], percent: usize) -> usize {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() * percent / 100).copied().unwrap_or(0)
}

/// Returns the number of lines of each function. Their ends are found by the indentation that rustfmt gives them.
fn functions(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let length = |at: usize| {
        let line = lines[at];
        if declared(line.trim_start())? != "fn" || line.ends_with(';') {
            return None;
        }
        if line.ends_with('}') {
            return Some(1);
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let ends = |line: &str| line.strip_prefix(indent) == Some("}");
        let declaration =
            lines[at..].iter().position(|line| line.ends_with(';') && line.starts_with(&format!("{indent})")));
        let end = lines[at..].iter().position(|line| ends(line))?;
        declaration.is_none_or(|declaration| declaration > end).then_some(end + 1)
    };
    (0..lines.len()).filter_map(length).collect()
}

/// Returns the word that says what a line declares, such as `fn`.
fn declared(line: &str) -> Option<&str> {
    words(line).next()
}

/// Returns the words of a line from that which says what it declares: without visibility and qualifiers.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let line = line.strip_prefix("pub").filter(|rest| rest.starts_with(['(', ' '])).unwrap_or(line);
    let line = if line.starts_with('(') { line.split_once(')').map_or(line, |(_, rest)| rest) } else { line };
    let mut words = line.split_whitespace().peekable();
    while words.next_if(|word| QUALIFIERS.contains(word)).is_some() {}
    words
}

/// Returns the names of the types that a file declares outside of functions, implementations and tests.
fn types(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with(' ')).filter_map(|line| {
        let mut words = words(line);
        let kind = words.next()?;
        let name = words.next()?;
        let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
        ["struct", "enum", "trait", "type", "union"].contains(&kind).then(|| &name[..end])
    })
}

/// Returns the number of doc comments that have one line of few words.
fn short_comments(text: &str) -> usize {
    let lines: Vec<Option<&str>> = text.lines().map(|line| line.trim_start().strip_prefix("///")).collect();
    let alone = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| lines[before]);
        before.is_none() && lines.get(at + 1).is_none_or(Option::is_none)
    };
    (0..lines.len())
        .filter(|at| {
            alone(*at) && lines[*at].is_some_and(|line| (1..=FEW_WORDS).contains(&line.split_whitespace().count()))
        })
        .count()
}
