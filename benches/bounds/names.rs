//! A million names: the server's CPU time for a hit, and its memory.
//!
//! Two servers hold a thousand and a million names and are queried in turns, each name in random order, so that a look-up
//! finds none of its data in the CPU's caches. The sender does the same work for both.

use std::io;
use std::time::Duration;

use super::Setting;
use super::finding::Finding;
use super::load::{cost, fill, name, shuffled};
use super::responder::{RECORD, Responder};
use super::server::{Config, Server};
use super::workers::median;

/// Number of names in the small cache.
const FEW: usize = 1_000;
/// Queries in flight.
const IN_FLIGHT: u64 = 512;
/// Cache size with room for a million names, and for those on probation.
const CACHE_MIB: usize = 512;
/// Cache size that is exceeded.
const SMALL_MIB: usize = 64;
/// Number of names that exceeds the small cache.
const TOO_MANY: usize = 600_000;

/// Measures hits and memory with many names.
pub(crate) fn measure(setting: &Setting) -> io::Result<Vec<Finding>> {
    let many = if setting.quick { 100_000 } else { 1_000_000 };
    let responder = Responder::start()?;
    let config = |cache_mib| Config { workers: 1, cache_mib, upstream: responder.address, dead: None };
    let (small, large) = (Server::start(setting, config(CACHE_MIB))?, Server::start(setting, config(CACHE_MIB))?);
    let empty = large.memory()?;
    fill(&small, 0..FEW)?;
    fill(&large, 0..many)?;
    let filled = large.memory()?;
    let cached_message = large.metric("nodens_cache_entries")?;

    let (few_questions, many_questions) = (shuffled(many, FEW)?, shuffled(many, many)?);
    let (turns, time) = if setting.quick { (1, Duration::from_secs(1)) } else { (3, Duration::from_secs(2)) };
    let (mut few, mut all) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        few.push(cost(&small, &few_questions, IN_FLIGHT, time)?);
        all.push(cost(&large, &many_questions, IN_FLIGHT, time)?);
    }
    let ratios = few.iter().zip(&all).map(|(few, all)| all / few).collect();
    drop((small, large));

    let full = Server::start(setting, config(SMALL_MIB))?;
    let before = full.memory()?;
    fill(&full, 0..if setting.quick { TOO_MANY / 10 } else { TOO_MANY })?;
    let taken = (full.memory()? - before) as f64;
    let share = taken / (SMALL_MIB << 20) as f64;
    let entries = full.metric("nodens_cache_entries")?.max(1.0);

    let wire = (12 + name(0).len() + 2 + 4 + RECORD.len()) as f64;
    let fresh = Server::start(setting, config(SMALL_MIB))?;
    Ok(vec![
        Finding::plain("CPU of a hit, 1,000 names", median(few) / 1e3, "us"),
        Finding::plain(format!("CPU of a hit, {many} names"), median(all) / 1e3, "us"),
        Finding::at_most("CPU of a hit, many names to few", median(ratios), 1.3, "x"),
        Finding::at_least("names kept, of those asked for", cached_message / many as f64, 1.0, "x"),
        Finding::plain("bytes of an A answer on the wire", wire, "B"),
        Finding::plain("A answers kept when full, of 64 MiB", entries, ""),
        Finding::at_most("bytes of an A answer kept, resident, when full", taken / entries, wire + 200.0, "B"),
        Finding::plain(
            format!("the same, {many} names with room for more"),
            (filled - empty) as f64 / cached_message.max(1.0),
            "B",
        ),
        Finding::at_most(format!("resident when full, of cache.memory {SMALL_MIB} MiB"), share, 1.1, "x"),
        Finding::at_most("resident when empty", fresh.memory()? as f64 / f64::from(1 << 20), 20.0, "MiB"),
    ])
}
