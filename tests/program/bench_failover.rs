//! `nodens bench failover` from a user's view. No test depends on timing: every query is accounted for, the fault was
//! there, and nothing is left behind.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Limit for every wait, far above any expected duration.
const DEADLINE: Duration = Duration::from_secs(60);

/// A directory of the test, which the bench and its servers use as the system's temporary directory.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("failover-{}-{name}", std::process::id()));
        fs::create_dir_all(dir.join("tmp")).unwrap();
        Self(dir)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodens"));
        command.args(["bench", "failover"]).args(args).env("TMPDIR", self.0.join("tmp")).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Checks that no directory of a server and no server is left.
    fn nothing_is_left(&self) {
        let tmp = self.0.join("tmp");
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0, "{}", tmp.display());
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&line).contains(&tmp.display().to_string()), "{:?}", process.path());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_query_is_counted_and_the_fault_occurs() {
    let scratch = Scratch::new("run");
    let (json, svg) = (scratch.file("run.json"), scratch.file("run.svg"));
    let output = scratch.run(&["--fault", "servfail", "--quick", "--json", &json, "--svg", &svg]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).starts_with("2 runs, about "), "{}", text(&output.stderr));
    let report: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let cells = report["cells"].as_array().unwrap();
    let modes: Vec<&str> = cells.iter().map(|cell| cell["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["steady", "burst"]);
    for (cell, most) in cells.iter().zip([20, 100]) {
        let number = |key: &str| cell[key].as_u64().unwrap();
        assert_eq!((cell["server"].as_str(), cell["fault"].as_str()), (Some("nodens"), Some("servfail")));
        assert_eq!(number("lost"), number("silent") + number("failed") + number("wrong"), "{cell:#}");
        assert_eq!(number("wrong"), 0, "{cell:#}");
        // On a machine that stalls, a burst ends before its last name.
        assert!(number("asked") == most || (most == 100 && number("asked") > 0), "{cell:#}");
        // The first upstream gives no answers.
        let healthy = cell["healthy_ratio"].as_f64().unwrap() * number("asked") as f64;
        assert!(healthy.round() as u64 >= number("asked") - number("lost"), "{cell:#}");
        assert!(cell["trouble"].is_null());
    }
    let table = text(&output.stdout);
    assert_eq!(table.matches("answers SERVFAIL").count(), 2, "{table}");
    let picture = fs::read_to_string(svg).unwrap();
    assert!(picture.starts_with("<svg ") && picture.matches("<g><title>nodens, answers SERVFAIL").count() == 2);
    scratch.nothing_is_left();
}

#[test]
fn clients_ask_over_tcp_too() {
    let scratch = Scratch::new("tcp");
    let json = scratch.file("run.json");
    let output = scratch.run(&["--fault", "none", "--quick", "--closed", "--tcp", "--json", &json]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("burst: new names one after another, TCP over IPv4; nodens, ms\n"));
    let report: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(report["cells"].as_array().unwrap().len(), 1, "the burst alone");
    assert_eq!((&report["transport"], &report["cells"][0]["wrong"]), (&"tcp".into(), &0.into()));
}

#[test]
fn a_server_that_does_not_start_is_told_of() {
    let scratch = Scratch::new("broken");
    let program = scratch.0.join("unbound");
    fs::write(&program, "#!/bin/sh\necho it is out of order\nexit 3\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", scratch.0.display());
    let output =
        scratch.command(&["--only", "unbound", "--fault", "none", "--quick"]).env("PATH", path).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    for part in ["unbound, steady, none: unbound ended with exit status: 3", "it is out of order"] {
        assert!(table.contains(part), "{table}");
    }
    scratch.nothing_is_left();
}

#[test]
fn what_is_not_installed_is_told() {
    if ["/usr/local/sbin", "/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join("coredns").exists()) {
        return; // nodens searches these directories whatever PATH contains
    }
    let scratch = Scratch::new("missing");
    let output = scratch.command(&["--only", "coredns"]).env("PATH", "").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "nodens bench failover: not installed: coredns\n");
}

#[test]
fn a_wrong_command_line_says_what_is_wrong() {
    let scratch = Scratch::new("usage");
    for (args, code, part) in [
        (&["--fault", "earthquake"][..], 64, "possible values: none, silent, "),
        (&["--only", "djbdns"], 64, "possible values: nodens, unbound, "),
        (&["--only", "nodens", "--peers"], 64, "cannot be used with"),
        (&["--json", "/no/such/place.json"], 1, "nodens bench failover: /no/such/place.json: "),
    ] {
        let output = scratch.run(args);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{complaint}");
        assert!(complaint.contains(part), "{complaint}");
    }
}

#[test]
fn a_signal_ends_the_run_with_what_there_is() {
    let scratch = Scratch::new("signal");
    let mut command = scratch.command(&[]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // The first server has its directory, so the run has started.
    let start = Instant::now();
    while fs::read_dir(scratch.0.join("tmp")).unwrap().count() == 0 {
        assert!(start.elapsed() < DEADLINE);
        sleep(Duration::from_millis(10));
    }
    let interrupt = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).ends_with("Ended early: the results so far.\n"), "{}", text(&output.stdout));
    scratch.nothing_is_left();
}
