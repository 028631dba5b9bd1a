//! The floors of the house: bytes know nothing, knowledge knows bytes, the answer knows knowledge, sockets know the
//! answer, only the whole knows everyone.
//!
//! Every path in `src/` that names a module of this crate is resolved, in `use` and elsewhere, and held to [`FLOORS`].
//! Code under `#[cfg(test)]` is exempt.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each module and its floor. A module stands for those below it, unless one of these is in the table: then all must be.
const FLOORS: &[(&str, u8)] = &[
    ("wire", 0),
    ("clock", 0),
    ("metrics", 0),
    ("config", 1),
    ("admission", 2),
    ("cache", 2),
    ("clients", 2),
    ("clients::api", 4),
    ("clients::client", 2),
    ("clients::fixed", 2),
    ("clients::likely", 2),
    ("clients::manifest", 2),
    ("clients::pods", 2),
    ("clients::runner", 2),
    ("clients::search", 2),
    ("clients::table", 2),
    ("clients::view_cache", 2),
    ("clients::views", 2),
    ("clients::watch", 4),
    ("governor", 2),
    ("local", 2),
    ("rebinding", 2),
    ("route", 2),
    ("upstream", 2),
    ("upstream::budget", 2),
    ("upstream::group", 2),
    ("upstream::health", 2),
    ("upstream::inbox", 2),
    ("upstream::local", 2),
    ("upstream::message", 2),
    ("upstream::minute", 2),
    ("upstream::quota", 2),
    ("upstream::race", 2),
    ("upstream::server", 2),
    ("upstream::standing", 2),
    ("answer", 3),
    ("coalesce", 3),
    ("fetch", 3),
    ("horizon", 3),
    ("jobs", 3),
    ("query_log", 3),
    ("refresh", 3),
    ("snapshot", 3),
    ("warm_up", 3),
    ("admin", 4),
    ("node", 4),
    ("server", 4),
    ("upstream::encrypted", 4),
    ("upstream::links", 4),
    ("upstream::names", 4),
    ("upstream::probe", 4),
    ("upstream::send_context", 4),
    ("upstream::sockets", 4),
    ("upstream::tcp", 4),
    ("upstream::udp", 4),
    ("app", 5),
    ("bench", 5),
    ("cli", 5),
    ("handover", 5),
    ("lab", 5),
    ("lib", 5),
    ("main", 5),
    ("supervisor", 5),
];

/// Floors on which modules may import one another: the answer is one path, and the whole is one.
const OPEN_FLOORS: [u8; 2] = [3, 5];

/// What a file up to this floor does not name.
const FORBIDDEN: &[(u8, &[&str])] = &[
    (2, &["UdpSocket", "TcpStream", "TcpListener", "spawn", "spawn_local", "spawn_blocking", "tokio::net"]),
    (0, &["tokio", "Instant", "SystemTime"]),
];

#[test]
fn every_module_keeps_to_its_floor() {
    let faults = faults(&sources(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").as_path()));
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_breach_is_found() {
    let with = |module: &str, text: &str| {
        let mut files: BTreeMap<String, String> =
            FLOORS.iter().map(|(module, _)| ((*module).to_string(), String::new())).collect();
        files.insert("wire::name".to_string(), String::new());
        files.insert("upstream".to_string(), "pub use udp::Link; pub use race::Race;".to_string());
        files.insert(module.to_string(), text.to_string());
        faults(&files)
    };
    for (module, text, fault) in [
        ("cache", "use std::fmt;\nuse crate::answer::Answer;", "cache:2: floor 2 imports answer of floor 3"),
        ("cache", "use crate::{wire::name, route::{self, Router}};", "cache:1: floor 2 imports route of floor 2"),
        ("wire", "fn f() { crate::config::X }", "wire:1: floor 0 imports config of floor 1"),
        ("wire::name", "use super::super::metrics::X;", "wire::name:1: floor 0 imports metrics of floor 0"),
        ("upstream::race", "use super::udp;", "upstream::race:1: floor 2 imports upstream::udp of floor 4"),
        ("upstream::race", "use super::Link;", "upstream::race:1: floor 2 imports upstream::udp of floor 4"),
        ("upstream", "use udp::X;", "upstream:1: floor 2 imports upstream::udp of floor 4"),
        ("server", "mod m { use super::super::node; }", "server:1: floor 4 imports node of floor 4"),
        ("wire", "use tokio::time::Duration;", "wire:1: floor 0 names tokio"),
        ("route", "use tokio::{net::X, time};", "route:1: floor 2 names tokio::net"),
        ("route", "fn f() { std::thread::spawn(g) }", "route:1: floor 2 names spawn"),
        (
            "route",
            "#[cfg(test)] mod tests { use crate::app; }\nuse crate::app;",
            "route:2: floor 2 imports app of floor 5",
        ),
        ("utils", "", "utils: not in the table of floors"),
        ("upstream::new", "", "upstream::new: not in the table of floors"),
        ("cache", "use crate::nowhere::X;", "cache:1: crate::nowhere::X is no module"),
    ] {
        assert_eq!(with(module, text), [fault], "{module}: {text}");
    }
    for (module, text) in [
        ("cache", "use crate::wire::name::X; // use crate::app;\n/* crate::app /* nested */ crate::app */"),
        ("cache", "const T: &str = \"use crate::app;\"; const R: &str = r#\"\" crate::app\"#; const C: char = '\"';"),
        ("cache", "fn f<'a>(s: &'a str) {} #[cfg(test)] mod tests { use crate::app::X; }"),
        ("cache", "#[cfg(test)] use crate::app::X;\npub(crate) struct S;"),
        ("wire", "mod bit { pub(super) const A: u8 = 1; use super::name; }"),
        ("upstream::udp", "use super::tcp::X; use crate::config as c; use super::Race;"),
        ("answer", "use crate::coalesce::X;"),
        ("server", "use crate::answer::X; use crate::upstream::Link as L; fn f() { tokio::spawn(g) }"),
    ] {
        let expected: &[&str] = match module {
            // Through the re-export the socket is seen.
            "server" => &["server:1: floor 4 imports upstream::udp of floor 4"],
            _ => &[],
        };
        assert_eq!(with(module, text), expected, "{module}: {text}");
    }
}

/// The text of every source file by its module: `src/a/b.rs` and `src/a/b/mod.rs` are `a::b`.
fn sources(root: &Path) -> BTreeMap<String, String> {
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

/// Every breach, as `module:line: what`.
fn faults(files: &BTreeMap<String, String>) -> Vec<String> {
    let modules: BTreeSet<&str> = files.keys().map(String::as_str).collect();
    let parsed: BTreeMap<&str, Parsed> =
        files.iter().map(|(module, text)| (module.as_str(), parse(module, text, &modules))).collect();
    let mut faults = Vec::new();
    for (&module, Parsed { paths, tested, .. }) in &parsed {
        if parsed.values().any(|other| other.tested.contains(module)) || tested.contains(module) {
            continue;
        }
        let Some(floor) = floor(module) else {
            faults.push(format!("{module}: not in the table of floors"));
            continue;
        };
        for (line, path) in paths {
            let named = format!("{}::", path.join("::"));
            for word in FORBIDDEN.iter().filter(|(highest, _)| floor <= *highest).flat_map(|(_, words)| *words) {
                if path.iter().any(|part| part == word) || named.contains(&format!("{word}::")) {
                    faults.push(format!("{module}:{line}: floor {floor} names {word}"));
                }
            }
            let Some(path) = path.strip_prefix(&["crate".to_string()][..]) else { continue };
            let Some(target) = target(path, &modules, &parsed) else {
                faults.push(format!("{module}:{line}: crate::{} is no module", path.join("::")));
                continue;
            };
            let Some(other) = self::floor(&target) else { continue };
            let house = |module: &str| module.split("::").next().unwrap_or_default().to_string();
            let neighbours = house(module) == house(&target) || OPEN_FLOORS.contains(&floor);
            if other > floor || (other == floor && !neighbours) {
                faults.push(format!("{module}:{line}: floor {floor} imports {target} of floor {other}"));
            }
        }
    }
    faults.dedup();
    faults
}

/// The floor of the longest entry that is `module` or above it.
fn floor(module: &str) -> Option<u8> {
    let is_above = |above: &str| module == above || module.starts_with(&format!("{above}::"));
    let (entry, floor) = FLOORS.iter().filter(|(entry, _)| is_above(entry)).max_by_key(|(entry, _)| entry.len())?;
    let divided = FLOORS.iter().any(|(other, _)| other.starts_with(&format!("{entry}::")));
    (module == *entry || !divided).then_some(*floor)
}

/// The module that a path from the root leads into; a re-export leads on to where it comes from.
fn target(path: &[String], modules: &BTreeSet<&str>, parsed: &BTreeMap<&str, Parsed>) -> Option<String> {
    let depth = (1..=path.len()).rev().find(|depth| modules.contains(path[..*depth].join("::").as_str()))?;
    let module = path[..depth].join("::");
    let exported = path.get(depth).and_then(|item| parsed.get(module.as_str())?.exports.get(item));
    Some(exported.cloned().unwrap_or(module))
}

/// What a file names.
#[derive(Default)]
struct Parsed {
    /// Every path outside of tests and the line that it is on; one within this crate begins with `crate`.
    paths: Vec<(usize, Vec<String>)>,
    /// What it re-exports from modules below it: the item's name, and the module.
    exports: BTreeMap<String, String>,
    /// Modules below it that exist for tests alone.
    tested: BTreeSet<String>,
}

fn parse(module: &str, text: &str, modules: &BTreeSet<&str>) -> Parsed {
    let tokens = tokens(text);
    let mut parsed = Parsed::default();
    // The modules around a place, each with the depth of braces at which it ends. The root itself is no module.
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

/// A path as it is from the root, if it begins with `crate`, `self`, `super` or a module below `here`.
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

/// Reads the tree of a `use` declaration into whole paths; returns where it ends.
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

/// The end of the item at `at`: behind its block or its semicolon, whichever comes first outside of brackets.
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

/// Words, `::` and other characters, each with its line; without comments and literals.
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
            // A lifetime has no quote after its first letter; a character has, or a backslash before it.
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
