//! Layers of the code: 0 wire format, 1 configuration, 2 state, 3 responses, 4 sockets, 5 process.
//! A module imports from lower layers only.
//!
//! Every path in `src/` that names a module of this crate is resolved, in `use` and elsewhere, and checked against [`LAYERS`].
//! Import cycles between files are rejected too: a reader of one file must not have to read all files of a cycle.
//! Code under `#[cfg(test)]` is exempt.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use crate::imports::{Parsed, parsed, sources, target};

/// Each module and its layer. An entry covers the modules below it, unless one of them has an entry: then each needs one.
const LAYERS: &[(&str, u8)] = &[
    ("wire", 0),
    ("clock", 0),
    ("metrics", 0),
    ("cause", 1),
    ("config", 1),
    ("admission", 2),
    ("cache", 2),
    ("clients", 2),
    ("clients::address", 2),
    ("clients::api", 4),
    ("clients::client", 2),
    ("clients::static_clients", 2),
    ("clients::predicted_hosts", 2),
    ("clients::manifest", 2),
    ("clients::pods", 2),
    ("clients::runner", 2),
    ("clients::runner_kinds", 2),
    ("clients::search", 2),
    ("clients::address_owners", 2),
    ("clients::unknown", 2),
    ("clients::view_cache", 2),
    ("clients::views", 2),
    ("clients::startup_taint", 4),
    ("clients::watch", 4),
    ("epoch", 2),
    ("governor", 2),
    ("heartbeat", 2),
    ("local", 2),
    ("rebinding", 2),
    ("route", 2),
    ("upstream", 2),
    ("upstream::budget", 2),
    ("upstream::capability", 2),
    ("upstream::evidence", 2),
    ("upstream::failure", 2),
    ("upstream::group", 2),
    ("upstream::health", 2),
    ("upstream::race_events", 2),
    ("upstream::local_fault", 2),
    ("upstream::message", 2),
    ("upstream::latency_window", 2),
    ("upstream::rate_limiter", 2),
    ("upstream::question", 2),
    ("upstream::race", 2),
    ("upstream::server", 2),
    ("upstream::server_status", 2),
    ("upstream::transport", 2),
    ("answer", 3),
    ("coalesce", 3),
    ("forward", 3),
    ("effective_view", 3),
    ("jobs", 3),
    ("log", 3),
    ("query_log", 3),
    ("refresh", 3),
    ("snapshot", 3),
    ("task", 3),
    ("warm_up", 3),
    ("admin", 4),
    ("node", 4),
    ("server", 4),
    ("upstream::tls", 4),
    ("upstream::connections", 4),
    ("upstream::bootstrap", 4),
    ("upstream::probe", 4),
    ("upstream::sender", 4),
    ("upstream::sockets", 4),
    ("upstream::source_ports", 4),
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

/// Layers whose modules may import one another: responses are one path, and the process is one unit.
const OPEN_LAYERS: [u8; 2] = [3, 5];

/// Names that a file up to this layer must not use.
const FORBIDDEN: &[(u8, &[&str])] = &[
    (2, &["UdpSocket", "TcpStream", "TcpListener", "spawn", "spawn_local", "spawn_blocking", "tokio::net"]),
    (0, &["tokio", "Instant", "SystemTime"]),
];

#[test]
fn every_module_keeps_to_its_layer() {
    let faults = faults(&source());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn no_file_imports_itself_through_others() {
    let faults = circles(&source());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let found = |files: &[(&str, &str)]| {
        circles(&files.iter().map(|(module, text)| ((*module).to_string(), (*text).to_string())).collect())
    };
    let pair = [("cache", "use crate::route::Router;"), ("route", "use std::fmt;\nfn f() { crate::cache::g() }")];
    assert_eq!(found(&pair), ["a circle of imports: cache -> route -> cache (cache:1, route:2)"]);
    // One cycle is reported for each set of files that import one another: the shortest from its first file.
    let knots = [
        ("a", "use crate::b;"),
        ("b", "use crate::{a, c};"),
        ("c", "use crate::{a, b};"),
        ("d", "use crate::a;\nuse crate::e::X;"),
        ("e", "mod f; pub use f::X;\nfn y() { f::z() }"),
        ("e::f", "use super::Y;"),
    ];
    let expected = ["a circle of imports: a -> b -> a (a:1, b:1)", "a circle of imports: e -> e::f -> e (e:2, e::f:1)"];
    assert_eq!(found(&knots), expected);
    // An import through a re-export is an import of the file that defines the item.
    assert_eq!(found(&[("d", "use crate::e::X;"), ("e", "pub use f::X;"), ("e::f", "use super::Y;")]), [""; 0]);
    for other in [
        "#[cfg(test)] mod tests { use crate::cache::X; }",
        "// use crate::cache::X;",
        "pub(in crate::cache) fn f() {}",
        "use crate::wire::X;",
    ] {
        assert_eq!(found(&[pair[0], ("route", other), ("wire", "")]), [""; 0], "{other}");
    }
}

#[test]
fn a_breach_is_found() {
    let with = |module: &str, text: &str| {
        let mut files: BTreeMap<String, String> =
            LAYERS.iter().map(|(module, _)| ((*module).to_string(), String::new())).collect();
        files.insert("wire::name".to_string(), String::new());
        files.insert("upstream".to_string(), "pub use udp::Link; pub use race::Race;".to_string());
        files.insert(module.to_string(), text.to_string());
        faults(&files)
    };
    for (module, text, fault) in [
        ("cache", "use std::fmt;\nuse crate::answer::Answer;", "cache:2: layer 2 imports answer of layer 3"),
        ("cache", "use crate::{wire::name, route::{self, Router}};", "cache:1: layer 2 imports route of layer 2"),
        ("wire", "fn f() { crate::config::X }", "wire:1: layer 0 imports config of layer 1"),
        ("wire::name", "use super::super::metrics::X;", "wire::name:1: layer 0 imports metrics of layer 0"),
        ("upstream::race", "use super::udp;", "upstream::race:1: layer 2 imports upstream::udp of layer 4"),
        ("upstream::race", "use super::Link;", "upstream::race:1: layer 2 imports upstream::udp of layer 4"),
        ("upstream", "use udp::X;", "upstream:1: layer 2 imports upstream::udp of layer 4"),
        ("server", "mod m { use super::super::node; }", "server:1: layer 4 imports node of layer 4"),
        ("wire", "use tokio::time::Duration;", "wire:1: layer 0 names tokio"),
        ("route", "use tokio::{net::X, time};", "route:1: layer 2 names tokio::net"),
        ("route", "fn f() { std::thread::spawn(g) }", "route:1: layer 2 names spawn"),
        (
            "route",
            "#[cfg(test)] mod tests { use crate::app; }\nuse crate::app;",
            "route:2: layer 2 imports app of layer 5",
        ),
        ("utils", "", "utils: not in the table of layers"),
        ("upstream::new", "", "upstream::new: not in the table of layers"),
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
            // The re-export is resolved to the module of the socket.
            "server" => &["server:1: layer 4 imports upstream::udp of layer 4"],
            _ => &[],
        };
        assert_eq!(with(module, text), expected, "{module}: {text}");
    }
}

fn source() -> BTreeMap<String, String> {
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

/// Returns every breach as `module:line: what`.
fn faults(files: &BTreeMap<String, String>) -> Vec<String> {
    let modules: BTreeSet<&str> = files.keys().map(String::as_str).collect();
    let parsed = parsed(files, &modules);
    let mut faults = Vec::new();
    for (&module, Parsed { paths, .. }) in &parsed {
        let Some(layer) = layer(module) else {
            faults.push(format!("{module}: not in the table of layers"));
            continue;
        };
        for (line, path) in paths {
            let named = format!("{}::", path.join("::"));
            for word in FORBIDDEN.iter().filter(|(highest, _)| layer <= *highest).flat_map(|(_, words)| *words) {
                if path.iter().any(|part| part == word) || named.contains(&format!("{word}::")) {
                    faults.push(format!("{module}:{line}: layer {layer} names {word}"));
                }
            }
            let Some(path) = path.strip_prefix(&["crate".to_string()][..]) else { continue };
            let Some(target) = target(path, &modules, &parsed) else {
                faults.push(format!("{module}:{line}: crate::{} is no module", path.join("::")));
                continue;
            };
            let Some(other) = self::layer(&target) else { continue };
            let house = |module: &str| module.split("::").next().unwrap_or_default().to_string();
            let neighbours = house(module) == house(&target) || OPEN_LAYERS.contains(&layer);
            if other > layer || (other == layer && !neighbours) {
                faults.push(format!("{module}:{line}: layer {layer} imports {target} of layer {other}"));
            }
        }
    }
    faults.dedup();
    faults
}

/// Returns the layer of the longest entry that is `module` or above it.
fn layer(module: &str) -> Option<u8> {
    let is_above = |above: &str| module == above || module.starts_with(&format!("{above}::"));
    let (entry, layer) = LAYERS.iter().filter(|(entry, _)| is_above(entry)).max_by_key(|(entry, _)| entry.len())?;
    let divided = LAYERS.iter().any(|(other, _)| other.starts_with(&format!("{entry}::")));
    (module == *entry || !divided).then_some(*layer)
}

/// The other files that each file imports, each with the first line that names it.
type Imports<'f> = BTreeMap<&'f str, BTreeMap<&'f str, usize>>;

/// Returns one cycle for each set of files that import one another: the shortest from the first of them.
fn circles(files: &BTreeMap<String, String>) -> Vec<String> {
    let imports = imports(files);
    let (mut faults, mut seen) = (Vec::new(), BTreeSet::new());
    for &module in imports.keys() {
        let Some(way) = circle(module, &imports).filter(|_| !seen.contains(module)) else { continue };
        // Two files belong to one set if each leads to the other.
        let loops_back = |other: &&str| from(other, &imports).contains_key(module);
        seen.extend(from(module, &imports).into_keys().filter(loops_back));
        let lines = way.windows(2).map(|pair| format!("{}:{}", pair[0], imports[pair[0]][pair[1]]));
        let lines = lines.collect::<Vec<_>>().join(", ");
        faults.push(format!("a circle of imports: {} ({lines})", way.join(" -> ")));
    }
    faults
}

fn imports(files: &BTreeMap<String, String>) -> Imports<'_> {
    let modules: BTreeSet<&str> = files.keys().map(String::as_str).collect();
    let parsed = parsed(files, &modules);
    let mut imports = Imports::new();
    for (&module, Parsed { paths, .. }) in &parsed {
        let others = imports.entry(module).or_default();
        for (line, path) in paths {
            let Some(path) = path.strip_prefix(&["crate".to_string()][..]) else { continue };
            let target = target(path, &modules, &parsed).and_then(|target| modules.get(target.as_str()).copied());
            if let Some(target) = target.filter(|target| *target != module) {
                others.entry(target).or_insert(*line);
            }
        }
    }
    imports
}

/// Returns every file that `start` leads to, each with its predecessor on the shortest path.
fn from<'f>(start: &'f str, imports: &Imports<'f>) -> BTreeMap<&'f str, &'f str> {
    let (mut before, mut next) = (BTreeMap::new(), VecDeque::from([start]));
    while let Some(module) = next.pop_front() {
        for &other in imports.get(module).into_iter().flat_map(BTreeMap::keys) {
            before.entry(other).or_insert_with(|| {
                next.push_back(other);
                module
            });
        }
    }
    before
}

/// Returns the shortest path from a file back to itself, both ends included.
fn circle<'f>(module: &'f str, imports: &Imports<'f>) -> Option<Vec<&'f str>> {
    let before = from(module, imports);
    let mut way = vec![module, before.get(module)?];
    while let Some(last) = way.last().filter(|last| **last != module) {
        way.push(before[last]);
    }
    way.reverse();
    Some(way)
}
