//! Computation of a cell's figures from the results of its queries.

use std::time::Duration;

use serde::Serialize;

use super::names::ClientResult;
use crate::lab::client::PATIENCE;

/// Number of first queries of a burst left out of `p99_after_10_ms`: by then the server can have detected the fault.
const LEARNT_AFTER: usize = 10;

/// Result of one query.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    pub verdict: ClientResult,
    /// Time from the query to its result.
    pub took: Duration,
}

/// Effect of one fault on the clients of one server. Times are in milliseconds. A query without a good answer counts with
/// the client's whole timeout, so loss never makes a server look faster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    pub asked: u64,
    /// Queries without a good answer: the sum of `silent`, `failed` and `wrong`.
    pub lost: u64,
    /// Queries without a response.
    pub silent: u64,
    /// Queries answered with SERVFAIL, REFUSED and the like.
    pub failed: u64,
    /// Queries with an answer other than the expected one.
    pub wrong: u64,
    pub p50_ms: f64,
    /// Upper bound of the times of 99 % of the queries; the number of queries is rounded down.
    pub p99_ms: f64,
    pub max_ms: f64,
    /// `p99_ms` without the first ten queries; only for a burst.
    pub p99_after_10_ms: Option<f64>,
    /// Queries received by the second upstream per query asked, if that upstream is healthy throughout.
    pub healthy_ratio: Option<f64>,
}

impl Figures {
    /// Computes the figures of `fates`, which are in the order of their queries. `burst` adds the figures without the first
    /// ten queries. `healthy` is the number of queries that the second upstream received, if it was healthy throughout.
    pub fn new(fates: &[Fate], burst: bool, healthy: Option<u64>) -> Self {
        let count = |verdict| fates.iter().filter(|fate| fate.verdict == verdict).count() as u64;
        let (silent, failed, wrong) =
            (count(ClientResult::Silent), count(ClientResult::Failed), count(ClientResult::Wrong));
        let times = sorted(fates);
        let later = burst.then(|| sorted(fates.get(LEARNT_AFTER..).unwrap_or_default()));
        Self {
            asked: fates.len() as u64,
            lost: silent + failed + wrong,
            silent,
            failed,
            wrong,
            p50_ms: within(&times, 50),
            p99_ms: within(&times, 99),
            max_ms: within(&times, 100),
            p99_after_10_ms: later.filter(|times| !times.is_empty()).map(|times| within(&times, 99)),
            healthy_ratio: healthy.filter(|_| !fates.is_empty()).map(|seen| seen as f64 / fates.len() as f64),
        }
    }
}

fn sorted(fates: &[Fate]) -> Vec<f64> {
    let time = |fate: &Fate| if fate.verdict == ClientResult::Good { fate.took } else { PATIENCE };
    let mut times: Vec<f64> = fates.iter().map(|fate| time(fate).as_secs_f64() * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Returns the upper bound of the times of `percent` % of the queries; the number of queries is rounded down.
fn within(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent / 100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn good(ms: u64) -> Fate {
        Fate { verdict: ClientResult::Good, took: Duration::from_millis(ms) }
    }

    #[test]
    fn of_fifty_the_slowest_but_one_is_p99() {
        let fates: Vec<Fate> = (1..=50).rev().map(good).collect();
        let figures = Figures::new(&fates, false, Some(55));
        assert_eq!((figures.p50_ms, figures.p99_ms, figures.max_ms), (25.0, 49.0, 50.0));
        assert_eq!((figures.asked, figures.lost, figures.p99_after_10_ms), (50, 0, None));
        assert_eq!(figures.healthy_ratio, Some(1.1));
    }

    #[test]
    fn what_is_lost_counts_with_the_clients_patience() {
        let mut fates: Vec<Fate> = (0..10).map(|_| good(900)).chain((0..90).map(|_| good(2))).collect();
        for (fate, verdict) in fates[10..].iter_mut().zip([
            ClientResult::Silent,
            ClientResult::Failed,
            ClientResult::Failed,
            ClientResult::Wrong,
        ]) {
            fate.verdict = verdict;
        }
        let figures = Figures::new(&fates, true, None);
        assert_eq!((figures.lost, figures.silent, figures.failed, figures.wrong), (4, 1, 2, 1));
        assert_eq!((figures.p50_ms, figures.p99_ms, figures.max_ms), (2.0, 5000.0, 5000.0));
        for fate in &mut fates {
            fate.verdict = ClientResult::Good;
        }
        let figures = Figures::new(&fates, true, None);
        assert_eq!((figures.p99_ms, figures.p99_after_10_ms), (900.0, Some(2.0)));
    }

    #[test]
    fn nothing_asked_is_no_mistake() {
        let figures = Figures::new(&[], true, Some(3));
        assert_eq!((figures.asked, figures.max_ms, figures.healthy_ratio), (0, 0.0, None));
    }
}
