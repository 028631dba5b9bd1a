//! The vocabulary of docs/glossary.md: the words that it replaces are rejected.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use crate::imports::sources;

/// Phrases to avoid, each with the words to use instead.
const REPLACED: &[(&str, &str)] = &[
    ("passed_over", "degraded"),
    ("PassedOver", "Degraded"),
    ("passed over", "degraded"),
    ("taken_again", "no_longer_degraded"),
    ("answers_again", "no_longer_failing"),
    ("loop_forgotten", "forwarding_loop_cleared"),
    ("leads back to nodens", "forwarding loop"),
    ("took_back", "handover_reverted"),
    ("node_mended", "node_repaired"),
    ("node_broken", "node_repair_failed"),
    ("reload_taken", "reload_applied"),
    ("replies_total", "responses_total"),
    ("right would be", "expected"),
    ("settable", "job_controlled"),
    ("disputed", "conflicting"),
    ("who asks is not watched", "pod watch disabled"),
    ("is heard again", "re-established"),
    ("is asked anew", "is queried again"),
    ("fetched anew", "fetched again"),
    ("as of late", "recently"),
    ("worker turns", "worker is responsive"),
    ("whoever", "anyone who"),
    ("habits.json", "query-history.json"),
    ("node mended", "node repaired"),
];

/// Paths to check: documentation, configuration and source code.
const READ: &[&str] =
    &["README.md", "CONTRIBUTING.md", "SECURITY.md", "RELEASING.md", "docs", "config", "deploy", "examples", "src"];

#[test]
fn replaced_words_stay_away() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut paths: Vec<_> = READ.iter().map(|path| root.join(path)).collect();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = fs::read_to_string(&path) {
            for (number, line) in (1..).zip(text.lines()) {
                let replaced = REPLACED.iter().filter(|(word, _)| line.contains(word));
                found.extend(
                    replaced.map(|(word, better)| format!("{}:{number}: {word:?}: use {better:?}", path.display())),
                );
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Most characters of a test's name.
const LONGEST_NAME: usize = 50;

#[test]
fn test_names_are_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut long = Vec::new();
    for (module, text) in ["src", "tests"].iter().flat_map(|folder| sources(&root.join(folder))) {
        let mut lines = text.lines().map(str::trim_start);
        while lines.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test")) {
            let name = lines.find_map(|line| Some(line.split_once("fn ")?.1.split('(').next()?.to_owned()));
            long.extend(name.filter(|name| name.len() > LONGEST_NAME).map(|name| format!("{module}::{name}")));
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}
