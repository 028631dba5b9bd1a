//! `nodens bench latency` from a user's view: the built binary against scripted servers. No test depends on timing: every
//! query is accounted for.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::addresses::own_address;
use nodens::lab::fault::Behaviour;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use serde_json::Value;
use tokio::task::spawn_blocking;

/// Fast enough for a test, slow enough for a busy machine.
const QUICK: [&str; 6] = ["--rate", "200", "--duration", "1s", "--timeout", "10s"];

async fn upstream() -> LabUpstream {
    let zone = LabZone::new(".").record("*. 60 A 192.0.2.1").rcode("broken.example.", 2);
    LabUpstream::start((Ipv4Addr::LOCALHOST, 0).into(), zone).await.unwrap()
}

/// Runs `nodens bench latency`, while the scripted servers continue in this thread.
async fn bench(targets: &[SocketAddr], args: &[&str]) -> Output {
    let mut command = command(targets, args);
    spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn command(targets: &[SocketAddr], args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodens"));
    command.args(["bench", "latency"]);
    for target in targets {
        command.args(["--target", &target.to_string()]);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs with `--json` and checks the consistency of every target's figures.
async fn json(targets: &[SocketAddr], args: &[&str]) -> (Value, Option<i32>) {
    let output = bench(targets, &[args, &["--json"]].concat()).await;
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "no progress bar, no complaint");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["targets"].as_array().unwrap().len(), targets.len());
    for (target, address) in report["targets"].as_array().unwrap().iter().zip(targets) {
        assert_eq!(target["target"], address.to_string());
        adds_up(target);
    }
    (report, output.status.code())
}

fn adds_up(target: &Value) {
    let number = |value: &Value| value.as_u64().unwrap();
    let sum = |map: &Value| map.as_object().unwrap().values().map(number).sum::<u64>();
    let answered = number(&target["answered"]);
    let without = number(&target["lost"]) + sum(&target["errors"]) + number(&target["unresolved"]);
    assert_eq!(number(&target["sent"]), answered + without, "{target:#}");
    assert_eq!(sum(&target["rcodes"]), answered);
    assert_eq!(number(&target["latency_ms"]["count"]), answered);
    assert_eq!(number(&target["first_seen_ms"]["count"]) + number(&target["repeated_ms"]["count"]), answered);
    assert_eq!(number(&target["sender_lag_ms"]["count"]), number(&target["sent"]));
    let points = target["over_time"].as_array().unwrap();
    assert_eq!(points.iter().map(|point| number(&point["count"])).sum::<u64>(), answered);
    let quantile = |name: &str| target["latency_ms"][name].as_f64().unwrap_or_default();
    let quantiles = ["p50", "p90", "p99", "p999", "max"].map(quantile);
    assert!(quantiles.is_sorted(), "{quantiles:?}");
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn every_query_is_accounted_for() {
    let (one, two) = (upstream().await, upstream().await);
    two.set(Behaviour::rcode(3));
    let names = file("names.txt", "www.example\nwww.example AAAA # no such record\nbroken.example\n\nsome.example\n");
    let args = [&QUICK[..], &["--draw", "in-turn", "--edns", "--names", names.to_str().unwrap()]].concat();
    let (report, code) = json(&[one.address(), two.address()], &args).await;
    assert_eq!(code, Some(0));
    for (target, upstream) in report["targets"].as_array().unwrap().iter().zip([&one, &two]) {
        let sent = target["sent"].as_u64().unwrap();
        assert_eq!(sent + target["unsent"].as_u64().unwrap(), 200, "the rate times the duration");
        assert_eq!(sent, upstream.seen_count(), "what the bench says it sent has come");
        assert_eq!(target["answered"], sent);
        assert_eq!(target["first_seen_ms"]["count"], 4);
        assert!(upstream.seen().iter().all(|seen| seen.edns.is_some()));
    }
    assert!(report["targets"][0]["rcodes"]["SERVFAIL"].as_u64().unwrap() >= 40);
    assert!(report["targets"][0]["rcodes"]["NOERROR"].as_u64().unwrap() >= 100);
    assert_eq!(report["targets"][1]["rcodes"]["NXDOMAIN"], report["targets"][1]["sent"]);
    assert_eq!(report["shape"], 1);
    assert_eq!(report["interrupted"], false);
}

#[tokio::test]
async fn the_table_adds_up_too() {
    let upstream = upstream().await;
    let output = bench(&[upstream.address()], &QUICK).await;
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = |label: &str| {
        let rows = text.lines().filter(|line| line.trim_start().starts_with(label));
        rows.map(|line| line.split_whitespace().map(|word| word.replace(',', "")).collect())
            .collect::<Vec<Vec<String>>>()
    };
    let number = |word: &String| word.parse::<u64>().unwrap();
    let address = upstream.address().to_string();
    let [latency, outcome, ..] = &rows(&address)[..] else { panic!("{text}") };
    let numbers: Vec<u64> = outcome[1..5].iter().map(number).collect();
    assert_eq!(numbers[0], numbers[1] + numbers[2] + numbers[3], "{text}");
    assert_eq!(numbers[0], upstream.seen_count());
    assert_eq!(number(&latency[1]), numbers[1]);
    assert_eq!(number(&rows("first seen")[0][2]) + number(&rows("repeated")[0][1]), numbers[1]);
    assert!(text.contains("open loop of 200 q/s, 1 s for each target, UDP;"), "{text}");
    assert!(text.contains(&format!("NOERROR {}", numbers[1])), "{text}");
}

#[tokio::test]
async fn the_same_seed_asks_the_same() {
    let (one, two) = (upstream().await, upstream().await);
    let (report, _) = json(&[one.address(), two.address()], &[&QUICK[..], &["--seed", "7"]].concat()).await;
    let asked =
        |upstream: &LabUpstream| upstream.seen().iter().map(|seen| seen.question().to_vec()).collect::<Vec<_>>();
    let (first, second) = (asked(&one), asked(&two));
    let common = first.len().min(second.len()); // on a busy machine one of them may be short
    assert!(common > 100);
    // Over several sockets they may arrive in another order.
    let sorted = |mut asked: Vec<Vec<u8>>| {
        asked.sort();
        asked
    };
    if first.len() == second.len() {
        assert_eq!(sorted(first), sorted(second));
    }
    assert_eq!(report["settings"]["seed"], 7);
}

#[tokio::test]
async fn tcp_is_pipelined_over_few_connections() {
    let upstream = upstream().await;
    upstream.set_latency(Duration::from_millis(20));
    let args = ["--closed", "50", "--duration", "500ms", "--tcp", "--sockets", "2"];
    let (report, code) = json(&[upstream.address()], &args).await;
    assert_eq!(code, Some(0));
    let target = &report["targets"][0];
    assert_eq!(target["answered"], target["sent"], "{target:#}");
    assert!(target["sent"].as_u64().unwrap() >= 50);
    let clients: std::collections::HashSet<SocketAddr> = upstream.seen().iter().map(|seen| seen.client).collect();
    assert_eq!(clients.len(), 2);
    assert_eq!(report["settings"]["transport"], "tcp");
}

#[tokio::test]
async fn ipv6_is_asked() {
    let zone = LabZone::new(".").record("*. 60 A 192.0.2.1");
    let Ok(upstream) = LabUpstream::start((Ipv6Addr::LOCALHOST, 0).into(), zone).await else { return };
    let (report, code) = json(&[upstream.address()], &QUICK).await;
    assert_eq!((code, report["targets"][0]["lost"].as_u64()), (Some(0), Some(0)));
}

#[tokio::test]
async fn silence_is_loss() {
    let upstream = upstream().await;
    upstream.set(Behaviour::silent());
    let args = ["--rate", "200", "--duration", "500ms", "--timeout", "100ms"];
    let (report, code) = json(&[upstream.address()], &args).await;
    let target = &report["targets"][0];
    assert_eq!(code, Some(1), "not one reply");
    assert_eq!((target["answered"].as_u64(), target["lost"].as_u64()), (Some(0), Some(upstream.seen_count())));
    assert_eq!(target["latency_ms"]["p99"], Value::Null);
    assert_eq!(target["loss"], 1.0);
}

#[tokio::test]
async fn a_closed_port_is_told_from_silence() {
    let free = own_address();
    for transport in [&[][..], &["--tcp"]] {
        let args = [&["--rate", "100", "--duration", "500ms", "--timeout", "500ms"], transport].concat();
        let (report, code) = json(&[free], &args).await;
        let target = &report["targets"][0];
        assert_eq!((code, target["answered"].as_u64()), (Some(1), Some(0)));
        assert!(target["errors"]["refused"].as_u64().unwrap() > 0, "{target:#}");
    }
}

#[tokio::test]
async fn a_public_target_is_not_loaded_without_permission() {
    let upstream = upstream().await;
    let targets = [upstream.address(), "198.51.100.1:53".parse().unwrap()];
    for pace in [["--rate", "1001"], ["--closed", "1"]] {
        let output = bench(&targets, &[&pace[..], &["--duration", "1s"]].concat()).await;
        assert_eq!(output.status.code(), Some(64));
        let complaint = String::from_utf8(output.stderr).unwrap();
        for part in ["198.51.100.1:53", "nothing was sent", "1,000 queries a second", "--with-permission"] {
            assert!(complaint.contains(part), "{complaint}");
        }
    }
    assert_eq!(upstream.seen_count(), 0, "not even those that may be loaded");
}

#[tokio::test]
async fn a_wrong_command_line_says_what_is_wrong() {
    let loopback = ["--target", "127.0.0.1:9"];
    for (args, part) in [
        (&["--target", "dns.example.com"][..], "an address is needed"),
        (&[], "--target"),
        (&[&loopback[..], &["--rate", "5", "--closed", "5"]].concat(), "cannot be used with"),
        (&[&loopback[..], &["--duration", "10"]].concat(), "not a time with its unit"),
        (&[&loopback[..], &["--timeout", "2m"]].concat(), "from 100ms to 1m"),
        (&[&loopback[..]; 9].concat(), "up to 8"),
        (&[&[&loopback[..]; 5].concat()[..], &["--sockets", "13"]].concat(), "65 sockets are too many"),
    ] {
        let output = bench(&[], args).await;
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{complaint}");
        assert!(complaint.contains(part), "{complaint}");
    }
    let names = file("bad-names.txt", "good.example\nbad..example\n");
    let output = bench(&[], &[&loopback[..], &["--names", names.to_str().unwrap()]].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("bad-names.txt: line 2: \"bad..example\""));
}

#[tokio::test]
async fn a_signal_ends_the_run_with_what_there_is() {
    let upstream = upstream().await;
    let args = ["--rate", "100", "--duration", "1h", "--json"];
    let child = command(&[upstream.address()], &args).stdout(Stdio::piped()).spawn().unwrap();
    while upstream.seen_count() < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let interrupt = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    let output = spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(report["targets"][0]["sent"].as_u64().unwrap() >= 20);
    adds_up(&report["targets"][0]);
}

#[tokio::test]
async fn the_page_is_whole_and_loads_nothing() {
    let upstream = upstream().await;
    let names = file("<&\"names\">.txt", "www.example\nother.example\n");
    let page = file("page.html", "");
    let closed = own_address();
    let args = [&QUICK[..], &["--html", page.to_str().unwrap(), "--names", names.to_str().unwrap()]].concat();
    bench(&[upstream.address(), closed], &args).await;
    let text = std::fs::read_to_string(page).unwrap();
    for word in ["http://", "https://", "<script", "<link", "<img", "<iframe", "src=", "href=", "url(", "@import"] {
        assert!(!text.contains(word), "{word}");
    }
    let tags = well_formed(&text);
    for (tag, least) in [("svg", 2), ("table", 2), ("path", 4)] {
        assert!(tags.iter().filter(|seen| *seen == tag).count() >= least, "{tag}");
    }
    assert!(text.contains("prefers-color-scheme: dark") && text.contains(&upstream.address().to_string()));
}

/// Returns the names of all tags; panics on a tag not properly closed, an unquoted attribute, or a stray `<` or `&`.
fn well_formed(text: &str) -> Vec<String> {
    let text = text.strip_prefix("<!DOCTYPE html>").unwrap();
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    for piece in text.split('<').skip(1) {
        let (tag, after) = piece.split_once('>').unwrap_or_else(|| panic!("no end: {piece}"));
        assert!(!after.contains('>') || open.last().is_some_and(|tag| tag == "style"), "{after}");
        for entity in after.split('&').skip(1) {
            assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)), "{entity}");
        }
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap().to_owned();
        assert!(
            tag.matches('"').count().is_multiple_of(2) && tag.matches("=\"").count() * 2 == tag.matches('"').count()
        );
        seen.push(name.clone());
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    seen
}
