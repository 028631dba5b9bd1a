//! From exec to the first answer, and the size of the program.

use std::fs;
use std::io;

use super::Setting;
use super::finding::Finding;
use super::responder::Responder;
use super::server::{Config, Server};
use super::workers::median;

/// Measures.
pub(crate) fn measure(setting: &Setting) -> io::Result<Vec<Finding>> {
    let responder = Responder::start()?;
    let config = Config { workers: 0, cache_mib: 64, upstream: responder.address, dead: None };
    let mut times = Vec::new();
    for _ in 0..if setting.quick { 3 } else { 20 } {
        times.push(Server::start(setting, config)?.first_answer.as_secs_f64() * 1e3);
    }
    let longest = times.iter().copied().fold(0.0, f64::max);
    let size = fs::metadata(&setting.binary)?.len() as f64 / f64::from(1 << 20);
    Ok(vec![
        Finding::at_most("exec to first answer, median", median(times), 50.0, "ms"),
        Finding::plain("exec to first answer, longest", longest, "ms"),
        Finding::at_most("size of the program", size, 15.0, "MiB"),
    ])
}
