//! Imports of each file of `src/`: every path that names a module of this crate, in `use` and elsewhere.
//!
//! Code under `#[cfg(test)]` is ignored. A re-export from a module below, such as `pub use race::Race`, is not an import: it
//! is resolved to the file that defines the item.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Returns the text of every source file by its module: `src/a/b.rs` and `src/a/b/mod.rs` are `a::b`.
pub(crate) fn sources(root: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = path.strip_prefix(root).unwrap().with_extension("");
                let parts: Vec<_> = module.iter().map(|part| part.to_str().unwrap()).collect();
                let module = parts.strip_suffix(&["mod"]).unwrap_or(&parts).join("::");
                files.insert(module, fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

/// Parses `files`, without those that exist for tests alone.
pub(crate) fn parsed<'f>(files: &'f BTreeMap<String, String>, modules: &BTreeSet<&str>) -> BTreeMap<&'f str, Parsed> {
    let mut parsed: BTreeMap<&str, Parsed> =
        files.iter().map(|(module, text)| (module.as_str(), parse(module, text, modules))).collect();
    let tested: BTreeSet<String> = parsed.values().flat_map(|parsed| parsed.tested.iter().cloned()).collect();
    parsed.retain(|module, _| !tested.contains(*module));
    parsed
}

/// Returns the module that a path from the root leads into; a re-export is resolved to the module that it comes from.
pub(crate) fn target(path: &[String], modules: &BTreeSet<&str>, parsed: &BTreeMap<&str, Parsed>) -> Option<String> {
    let depth = (1..=path.len()).rev().find(|depth| modules.contains(path[..*depth].join("::").as_str()))?;
    let module = path[..depth].join("::");
    let exported = path.get(depth).and_then(|item| parsed.get(module.as_str())?.exports.get(item));
    Some(exported.cloned().unwrap_or(module))
}

/// Paths that a file names, and its re-exports.
#[derive(Default)]
pub(crate) struct Parsed {
    /// Every path outside of tests, with its line; a path within this crate begins with `crate`.
    pub(crate) paths: Vec<(usize, Vec<String>)>,
    /// Names of the items that the file re-exports from modules below it, each with its module.
    exports: BTreeMap<String, String>,
    /// Modules below the file that exist for tests alone.
    tested: BTreeSet<String>,
}

fn parse(module: &str, text: &str, modules: &BTreeSet<&str>) -> Parsed {
    let tokens = tokens(text);
    let mut parsed = Parsed::default();
    // `inside`: inline modules around the current token, each with the depth of braces at which it ends. The root is no module.
    let file: Vec<String> =
        module.split("::").filter(|part| !["lib", "main"].contains(part)).map(String::from).collect();
    let mut inside: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        let word = |ahead: usize| tokens.get(at + ahead).map_or("", |(_, token)| token.as_str());
        let here: Vec<String> = file.iter().chain(inside.iter().map(|(name, _)| name)).cloned().collect();
        if (0..7).map(word).eq(["#", "[", "cfg", "(", "test", ")", "]"]) {
            let end = item_end(&tokens, at + 7);
            if let Some(mark) = tokens[at..end].iter().position(|(_, token)| token == "mod") {
                let name = tokens.get(at + mark + 1).map_or("", |(_, name)| name.as_str());
                parsed.tested.insert([&here[..], &[name.to_string()]].concat().join("::"));
            }
            at = end;
        } else if word(0) == "mod" && word(2) == "{" {
            inside.push((word(1).to_string(), depth));
            depth += 1;
            at += 3;
        } else if (0..3).map(word).eq(["pub", "(", "in"]) {
            // A visibility is not an import.
            at += tokens[at..].iter().position(|(_, token)| token == ")").unwrap_or(0) + 1;
        } else if word(0) == "use" {
            let public = at > 0 && tokens[at - 1].1 == "pub";
            let mut found = Vec::new();
            at = tree(&tokens, at + 1, &[], &mut found) + 1;
            for (line, path) in found {
                let relative = modules.contains([&here[..], &path[..1]].concat().join("::").as_str());
                let path = resolve(path, &here, modules);
                let below = path.len() == here.len() + 3 && path[1..].starts_with(&here);
                if public && below && (relative || path[0] == "crate") {
                    parsed.exports.insert(path[path.len() - 1].clone(), path[1..path.len() - 1].join("::"));
                } else {
                    parsed.paths.push((line, path));
                }
            }
        } else if is_word(word(0)) {
            let line = tokens[at].0;
            let mut path = vec![word(0).to_string()];
            while word(2 * path.len() - 1) == "::" && is_word(word(2 * path.len())) {
                path.push(word(2 * path.len()).to_string());
            }
            at += 2 * path.len() - 1;
            parsed.paths.push((line, resolve(path, &here, modules)));
        } else {
            match word(0) {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    inside.retain(|(_, start)| *start < depth);
                }
                _ => {}
            }
            at += 1;
        }
    }
    parsed
}

/// Returns the path from the root if `path` begins with `crate`, `self`, `super` or a module below `here`.
fn resolve(path: Vec<String>, here: &[String], modules: &BTreeSet<&str>) -> Vec<String> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    let skipped = match path[0].as_str() {
        "self" | "super" if path.len() == 1 => return path,
        "crate" => return if path.len() == 1 { vec![String::new()] } else { path },
        "self" => 1 + path[1..].iter().take_while(|part| *part == "super").count(),
        "super" => ups,
        _ if path.len() > 1 && modules.contains([here, &path[..1]].concat().join("::").as_str()) => 0,
        _ => return path,
    };
    let ups = if path[0] == "self" { skipped - 1 } else { ups };
    let above = &here[..here.len().saturating_sub(ups)];
    let rest = &path[skipped..];
    if above.is_empty() && rest.is_empty() {
        return vec![String::new()];
    }
    [&["crate".to_string()][..], above, rest].concat()
}

/// Reads the tree of a `use` declaration into complete paths; returns the index of its end.
fn tree(tokens: &[(usize, String)], mut at: usize, stem: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let mut path = stem.to_vec();
    while let Some((line, token)) = tokens.get(at) {
        match token.as_str() {
            "::" => at += 1,
            "as" => at += 2,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|(_, token)| token != "}") {
                    at = tree(tokens, at, &path, found);
                    at += usize::from(tokens.get(at).is_some_and(|(_, token)| token == ","));
                }
                return at + 1;
            }
            "self" if !path.is_empty() => at += 1,
            word if is_word(word) || word == "*" => {
                path.push(word.to_string());
                at += 1;
            }
            _ => {
                found.push((*line, path));
                return at;
            }
        }
    }
    at
}

/// Returns the end of the item at `at`: after its block or its semicolon, whichever comes first outside of brackets.
fn item_end(tokens: &[(usize, String)], mut at: usize) -> usize {
    let mut open = 0usize;
    while let Some((_, token)) = tokens.get(at) {
        at += 1;
        match token.as_str() {
            "{" | "(" | "[" => open += 1,
            "}" if open == 1 => return at,
            "}" | ")" | "]" => open = open.saturating_sub(1),
            ";" if open == 0 => return at,
            _ => {}
        }
    }
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Returns words, `::` and other characters, each with its line; without comments and literals.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let chars: Vec<char> = text.chars().collect();
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while at < chars.len() {
        let begin = at;
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut open = 0;
            while at < chars.len() {
                open += usize::from(starts(at, "/*"));
                open -= usize::from(starts(at, "*/"));
                at += if starts(at, "/*") || starts(at, "*/") { 2 } else { 1 };
                if open == 0 {
                    break;
                }
            }
        } else if chars[at] == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if chars[at] == '\'' {
            // A character literal has a quote after its first character, or a backslash before that; a lifetime has neither.
            at += match (chars.get(at + 1), chars.get(at + 2)) {
                (Some('\\'), _) => 3 + chars[at + 3..].iter().position(|c| *c == '\'').unwrap_or(0) + 1,
                (Some(_), Some('\'')) => 3,
                _ => 1,
            };
        } else if chars[at].is_alphanumeric() || chars[at] == '_' {
            while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
            let word: String = chars[begin..at].iter().collect();
            let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
            if ["r", "br", "cr"].contains(&word.as_str()) && chars.get(at + hashes) == Some(&'"') {
                let end = format!("\"{}", "#".repeat(hashes));
                at += hashes + 1;
                while at < chars.len() && !starts(at, &end) {
                    at += 1;
                }
                at += end.len();
            } else {
                tokens.push((line, word));
            }
        } else if starts(at, "::") {
            tokens.push((line, "::".to_string()));
            at += 2;
        } else {
            if !chars[at].is_whitespace() {
                tokens.push((line, chars[at].to_string()));
            }
            at += 1;
        }
        line += chars[begin..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}
