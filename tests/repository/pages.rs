//! Checks of the documentation: examples, generated pages, links.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use nodens::config::parse::parse;
use nodens::metrics::Metrics;

const CONFIGURATION: &str = include_str!("../../docs/guides/configuration.md");

const METRICS_HEAD: &str = "# Metrics

At `/metrics` of the admin addresses, in the text format of Prometheus. The table is generated from the help texts of the metrics;
[the dashboard](../../deploy/grafana/nodens.json) and [the alerts](../../deploy/prometheus/rules.yaml) use them.

`/healthz` responds with 200 while every worker is responsive. `/readyz` responds with 200 while every route has a server that answers;
`/readyz?verbose` names the routes that have none.

| metric | type | labels | meaning |
|---|---|---|---|
";

/// Returns the code blocks of a page in this language, in order.
fn blocks(page: &'static str, language: &str) -> Vec<&'static str> {
    page.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

#[test]
fn the_example_is_valid() {
    let example = blocks(CONFIGURATION, "toml").into_iter().find(|block| block.starts_with("[server]")).unwrap();
    let config = parse(example, &[]).unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"));
    assert_eq!((config.routes.len(), config.upstreams.len(), config.records.len()), (3, 3, 1));
}

#[test]
fn the_broken_example_has_the_mistakes_shown() {
    let broken = blocks(CONFIGURATION, "toml").into_iter().find(|block| block.starts_with("# broken.toml")).unwrap();
    let shown = blocks(CONFIGURATION, "console").into_iter().find(|block| block.contains("check broken.toml")).unwrap();
    let diagnostics = parse(broken, &[]).unwrap_err();
    let said: Vec<String> = diagnostics.iter().map(|diagnostic| format!("broken.toml:{diagnostic}")).collect();
    assert_eq!(said, shown.lines().skip(1).collect::<Vec<_>>());
}

#[test]
fn the_page_of_metrics_is_generated() {
    is_generated("docs/reference/metrics.md", &(METRICS_HEAD.to_owned() + &metrics_table()));
}

/// Compares a page with its generated text. `UPDATE_PAGES=1 cargo test --test repository pages` writes the page.
fn is_generated(name: &str, page: &str) {
    let file = root().join(name);
    if std::env::var_os("UPDATE_PAGES").is_some() {
        fs::write(&file, page).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "{name} is out of date: run UPDATE_PAGES=1 cargo test --test repository pages");
}

#[test]
fn the_page_of_configuration_keys_is_generated() {
    is_generated("docs/reference/configuration.md", &nodens::config::outline::reference());
}

/// Returns one row for each metric family that this process exports, in the order of their names.
fn metrics_table() -> String {
    let metrics = Metrics::new().unwrap();
    // A family with labels is exported only when it has a series.
    metrics.queries.received.with_label_values(&["udp", "A", "."]);
    metrics.queries.responses.with_label_values(&["NOERROR", "hit"]);
    metrics.queries.duration.with_label_values(&["hit"]);
    metrics.queries.dropped.with_label_values(&["short"]);
    metrics.queries.filtered.with_label_values(&["."]);
    metrics.server("public", "192.0.2.53:53").failed("timeout");
    metrics.shed("public");
    metrics.clients.series(["ci", "shop/api", ""]);
    let rendered = metrics.render();
    let mut families: BTreeMap<&str, [String; 3]> = BTreeMap::new();
    for line in rendered.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name).or_default()[2] = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name).or_default()[0] = kind.to_owned();
        } else if let Some((sample, labels)) = line.split_once('{') {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| sample.strip_suffix(end));
            let name = name.filter(|name| families.contains_key(name)).unwrap_or(sample);
            let labels = labels.split_once('}').unwrap().0;
            let names =
                labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).filter(|name| *name != "le");
            families.entry(name).or_default()[1] = names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" ");
        }
    }
    families.iter().fold(String::new(), |mut table, (name, [kind, labels, help])| {
        writeln!(table, "| `{name}` | {kind} | {labels} | {} |", help.replace('|', "\\|")).unwrap();
        table
    })
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in links(&text) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let has_anchor = || fs::read_to_string(&file).is_ok_and(|text| anchors(&text).any(|known| known == anchor));
            if !file.exists() || !anchor.is_empty() && !has_anchor() {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Returns every page of the repository.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = entry.file_name().into_string().unwrap();
            if path.is_dir() && name != "target" && name != "node_modules" && !name.starts_with('.') {
                directories.push(path);
            } else if name.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

/// Returns the targets of links to files and headings, outside code blocks.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    let targets = prose.flat_map(|prose| prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)));
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

/// Returns the anchors of a page's headings, as GitHub and GitLab form them.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text
        .split("```")
        .step_by(2)
        .flat_map(str::lines)
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    headings.map(|heading| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
