//! Texts of the program as snapshots (`snapshots/*.snap`), so that a reworded text is one reviewed diff.
//!
//! `INSTA_UPDATE=always cargo test texts` writes the snapshots of changed texts.

use std::process::Command;

use insta::assert_snapshot;
use serde_json::Value;

use crate::support::{Dir, Nodens, config, eventually, stop, upstream, zone};

/// A configuration with mistakes of many kinds.
const MISTAKES: &str = r#"
[server]
lisen   = ["127.0.0.1:5300"]
allow   = ["10.0.0.0/33"]
workers = "two"

[cache]
memory  = "64 pounds"
max_ttl = "500h"

[upstreams.vpc]
servers  = ["10.0.0.2", "tls://10.0.0.3", "ns1.corp.example"]
deadline = "1ms"

[[route]]
zones = ["corp..example", "10.0.0.1/8"]
to    = "vcp"

[[record]]
name  = "a.corp.example"
type  = "A"
value = "2001:db8::1"
"#;

/// Returns what the program prints: stdout, then stderr, then the exit code if it is not 0.
fn printed(dir: &Dir, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodens"));
    command.args(words).current_dir(dir.file("")).env_remove("NODENS_LOG").env_remove("COLUMNS");
    let output = command.output().expect("nodens runs");
    let mut text = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
    if let Some(code) = output.status.code().filter(|code| *code != 0) {
        text.push_str(&format!("exit code {code}\n"));
    }
    text
}

/// Returns the commands that a help text lists, except `help`.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let starts = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let words = starts.filter_map(|line| line.split_whitespace().next());
    words.filter(|word| *word != "help").map(str::to_owned).collect()
}

#[test]
fn help_of_every_command() {
    let dir = Dir::new();
    let mut commands = vec![Vec::new()];
    while let Some(command) = commands.pop() {
        let words: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = printed(&dir, &words);
        let name = [&["help"][..], &words[..words.len() - 1]].concat().join("-");
        commands.extend(listed(&help).into_iter().map(|word| [&command[..], &[word]].concat()));
        assert_snapshot!(name, help);
    }
}

#[test]
fn check_reports_every_mistake() {
    let dir = Dir::new();
    dir.write("nodens.toml", MISTAKES);
    assert_snapshot!(printed(&dir, &["check", "nodens.toml"]));
}

#[test]
fn usage_mistakes() {
    let dir = Dir::new();
    let commands: [&[&str]; 4] =
        [&["sreve"], &["check"], &["serve", "--config", "missing.toml"], &["bench", "latency"]];
    let texts = commands.map(|words| format!("$ nodens {}\n{}", words.join(" "), printed(&dir, words)));
    assert_snapshot!(texts.join("\n"));
}

#[test]
fn admin_pages() {
    let upstream = upstream(zone());
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    assert_snapshot!("admin-index", nodens.get("/").body.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    let healthy = || Some(nodens.get("/api/v1/upstreams").body).filter(|body| body.contains("\"healthy\""));
    let mut upstreams: Value = serde_json::from_str(&eventually("the first response", healthy)).expect("JSON");
    redact(&mut upstreams);
    assert_snapshot!("api-upstreams", format!("{upstreams:#}"));
}

#[test]
fn a_route_without_a_live_upstream() {
    let upstream = upstream(zone());
    stop(&upstream);
    let nodens = Nodens::start(&config(&[&upstream], "", ""));
    eventually("the ejection", || nodens.get("/readyz?verbose").body.contains("ejected").then_some(()));
    let port = upstream.address().port().to_string();
    assert_snapshot!("readyz", nodens.get("/readyz?verbose").body.replace(&port, "PORT"));
    let admin = nodens.admin.expect("admin pages").to_string();
    let status = printed(&Dir::new(), &["status", "--admin", &admin]);
    assert_snapshot!("status", status.replace(&port, "PORT"));
}

/// Replaces what differs from run to run: numbers, times, addresses, and what is null until the first response.
fn redact(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::Object(fields) => fields.values_mut().for_each(redact),
        Value::Number(_) | Value::Null => *value = "number or null".into(),
        Value::String(text) if text.starts_with("127.0.0.1:") => *value = "address".into(),
        Value::String(text) if text.ends_with('Z') && text.contains('T') => *value = "time".into(),
        _ => {}
    }
}
