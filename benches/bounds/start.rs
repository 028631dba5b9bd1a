//! Time from exec to the first response, and size of the program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Setting;
use super::finding::Finding;
use super::responder::Responder;
use super::server::{Config, Server};
use super::workers::median;

/// Measures starts, and the size of the program.
pub(crate) fn measure(setting: &Setting) -> io::Result<Vec<Finding>> {
    let responder = Responder::start()?;
    let config = Config { workers: 0, cache_mib: 64, upstream: responder.address, dead: None };
    let mut times = Vec::new();
    for _ in 0..if setting.quick { 3 } else { 20 } {
        times.push(Server::start(setting, config)?.first_answer.as_secs_f64() * 1e3);
    }
    let longest = times.iter().copied().fold(0.0, f64::max);
    let mut findings = vec![
        Finding::at_most("exec to first answer, median", median(times), 50.0, "ms"),
        Finding::plain("exec to first answer, longest", longest, "ms"),
    ];
    let stripped = stripped(&setting.binary);
    let size = fs::metadata(stripped.as_ref().unwrap_or(&setting.binary))?.len() as f64 / f64::from(1 << 20);
    findings.push(match &stripped {
        Some(_) => Finding::at_most("size of the program, stripped", size, 15.0, "MiB"),
        None => Finding::plain("size of the program, symbols included: no strip", size, "MiB"),
    });
    stripped.map(fs::remove_file).transpose()?;
    Ok(findings)
}

/// Makes a copy without symbols, because a build for benchmarks has them; `None` if `strip` is not installed.
fn stripped(binary: &Path) -> Option<PathBuf> {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bounds-{}-stripped", std::process::id()));
    let status = Command::new("strip").arg("-o").arg(&copy).arg(binary).status().ok()?;
    status.success().then_some(copy)
}
