//! Query rate of `nodens bench latency` from its one thread, against a minimal responder.
//!
//! Where the responder has no CPU of its own, it limits the rate too. The sender's CPU time shows the rate that it would
//! reach if it never waited.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Setting;
use super::finding::Finding;
use super::responder::Responder;
use super::server::cpu_of;
use super::workers::median;

/// Queries in flight.
const IN_FLIGHT: &str = "512";

/// Measures the sender.
pub(crate) fn measure(setting: &Setting) -> io::Result<Vec<Finding>> {
    let responder = Responder::start()?;
    let (mut rates, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..if setting.quick { 1 } else { 5 } {
        let (rate, by_cpu) = run(setting, &responder)?;
        rates.push(rate);
        alone.push(by_cpu);
    }
    Ok(vec![
        Finding::at_least("queries a second of the sender", median(rates), 150_000.0, "/s"),
        Finding::plain("queries to a second of its CPU", median(alone), "/s"),
    ])
}

/// Returns the queries a second, and the queries for each second of CPU time.
fn run(setting: &Setting, responder: &Responder) -> io::Result<(f64, f64)> {
    let mut command = Command::new(&setting.binary);
    command.args(["bench", "latency", "--json", "--duration", "3s", "--closed", IN_FLIGHT]);
    command.args(["--target", &responder.address.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    std::thread::sleep(Duration::from_millis(2_800));
    // Read shortly before the process ends, because /proc has no CPU time of an ended process.
    let cpu = cpu_of(child.id());
    let mut text = String::new();
    child.stdout.take().map(|mut out| out.read_to_string(&mut text)).transpose()?;
    child.wait()?;
    let report: serde_json::Value = serde_json::from_str(&text).map_err(io::Error::other)?;
    let rate = report["targets"][0]["answered_per_s"].as_f64().unwrap_or(0.0);
    Ok((rate, rate * 2.8 / (cpu? as f64 / 1e9)))
}
