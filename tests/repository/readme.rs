//! What the README shows is what nodens does.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use nodens::config::parse::parse;
use nodens::metrics::Metrics;

const README: &str = include_str!("../../README.md");

/// The blocks of the README in this language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    README
        .split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

#[test]
fn the_example_is_a_good_configuration() {
    let good = blocks("toml").into_iter().find(|block| block.starts_with("[server]")).unwrap();
    let config = parse(good, &[]).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    assert_eq!((config.routes.len(), config.upstreams.len(), config.records.len()), (3, 3, 1));
}

#[test]
fn the_broken_example_has_the_mistakes_that_are_shown() {
    let broken = blocks("toml").into_iter().find(|block| block.starts_with("# broken.toml")).unwrap();
    let shown = blocks("console").into_iter().find(|block| block.contains("check broken.toml")).unwrap();
    let mistakes = parse(broken, &[]).unwrap_err();
    let said: Vec<String> = mistakes.iter().map(|mistake| format!("broken.toml:{mistake}")).collect();
    assert_eq!(said, shown.lines().skip(1).collect::<Vec<_>>());
}

#[test]
fn every_metric_is_listed_and_every_listed_one_exists() {
    let metrics = Metrics::new().unwrap();
    // A family with labels shows once it has a series.
    metrics.queries.received.with_label_values(&["udp", "A", "."]);
    metrics.queries.responses.with_label_values(&["NOERROR", "hit"]);
    metrics.queries.duration.with_label_values(&["hit"]);
    metrics.queries.dropped.with_label_values(&["short"]);
    metrics.server("public", "192.0.2.53:53").failed("timeout");
    metrics.shed("public");
    metrics.queries.filtered.with_label_values(&["."]);
    metrics.clients.series(["ci", "shop/api", ""]);
    let rendered = metrics.render();
    let real: BTreeSet<&str> =
        rendered.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let real: BTreeSet<&str> = real.into_iter().filter(|name| name.starts_with("nodens_")).collect();
    let listed: BTreeSet<&str> = README
        .split('`')
        .filter(|word| {
            word.starts_with("nodens_") && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        })
        .collect();
    assert_eq!(real, listed);
}
