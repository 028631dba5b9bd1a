//! Two workers: together they serve as much as two CPUs can, because they share nothing that one would wait for.
//!
//! The rates are compared where there are CPUs for two workers and a sender for each. The CPU time of a hit is compared on
//! any machine: it includes waiting, and the effects of the workers on each other's caches. With fewer CPUs than threads, it
//! also includes the cost of scheduling; two servers of one worker each, which share nothing at all, show how high that cost
//! is.

use std::io;
use std::thread;
use std::time::Duration;

use nodens::bench::names::Questions;

use super::Setting;
use super::finding::Finding;
use super::load::{fill, saturate, shuffled};
use super::responder::Responder;
use super::server::{Config, Server};

/// Number of names that are queried.
const NAMES: usize = 1_000;
/// Queries in flight of each sender.
const IN_FLIGHT: u64 = 256;
/// Number of CPUs with which the rates of two workers can be compared: one for each worker and each sender.
const ENOUGH_CPUS: usize = 4;

/// Measures one and two workers.
pub(crate) fn measure(setting: &Setting) -> io::Result<Vec<Finding>> {
    let responder = Responder::start()?;
    let config = |workers| Config { workers, cache_mib: 64, upstream: responder.address, dead: None };
    let one = Server::start(setting, config(1))?;
    let other = Server::start(setting, config(1))?;
    let two = Server::start(setting, config(2))?;
    for server in [&one, &other, &two] {
        fill(server, 0..NAMES)?;
    }
    let questions = shuffled(NAMES, NAMES)?;
    let (turns, time) = if setting.quick { (1, Duration::from_secs(1)) } else { (7, Duration::from_secs(2)) };
    let mut costs = [Vec::new(), Vec::new(), Vec::new()];
    let (mut to_one, mut to_apart) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        let turn = [[&one, &one], [&two, &two], [&one, &other]].map(|pair| cost_of(pair, &questions, time));
        let [single, double, apart] = turn;
        let [single, double, apart] = [single?, double?, apart?];
        to_one.push(double / single);
        to_apart.push(double / apart);
        for (all, cost) in costs.iter_mut().zip([single, double, apart]) {
            all.push(cost / 1e3);
        }
    }
    let [single, double, apart] = costs.map(median);
    let mut findings = vec![
        Finding::plain("CPU of a hit, one worker", single, "us"),
        Finding::plain("CPU of a hit, two workers", double, "us"),
        Finding::plain("CPU of a hit, two servers of one worker each", apart, "us"),
        Finding::at_most("CPU of a hit, two workers to one", median(to_one), 1.1, "x"),
        Finding::at_most("CPU of a hit, two workers to two servers", median(to_apart), 1.1, "x"),
    ];
    if thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= ENOUGH_CPUS) {
        let rate = |server: &Server| -> io::Result<f64> {
            Ok(both([server, server], &questions, time)? as f64 / time.as_secs_f64())
        };
        let (first, second) = (rate(&one)?, rate(&two)?);
        findings.push(Finding::at_least("hits a second, two workers to one", second / first, 1.8, "x"));
    }
    Ok(findings)
}

/// Returns the CPU time of an answer, in nanoseconds, of two servers, or of one named twice, each queried by a sender of its
/// own.
fn cost_of(pair: [&Server; 2], questions: &Questions, time: Duration) -> io::Result<f64> {
    let cpu = || -> io::Result<u64> {
        let [first, second] = pair;
        Ok(first.cpu()? + if std::ptr::eq(first, second) { 0 } else { second.cpu()? })
    };
    let before = cpu()?;
    let answers = both(pair, questions, time)?;
    Ok((cpu()? - before) as f64 / answers.max(1) as f64)
}

/// Returns the number of answers that two senders got, one from each server.
fn both(pair: [&Server; 2], questions: &Questions, time: Duration) -> io::Result<u64> {
    thread::scope(|scope| {
        let ask = |server: &Server| saturate(server.address, questions, IN_FLIGHT, time).map(|record| record.answers());
        let senders = pair.map(|server| scope.spawn(move || ask(server)));
        senders.into_iter().map(|sender| sender.join().map_err(|_| io::Error::other("a sender failed"))?).sum()
    })
}

/// Returns the median, which protects the benchmark against single disturbances.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
