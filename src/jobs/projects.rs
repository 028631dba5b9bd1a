//! Selection of the projects that have metric series of their own: bounds the number of series.
//!
//! 1. While there is room, a project gets its series with its first query.
//! 2. All other projects are counted as project `other`. The weight of each of them is estimated with the Space-Saving
//!    algorithm (Metwally, Agrawal, El Abbadi 2005) in a table of fixed size: a new project replaces the one of least
//!    weight, and inherits its weight as the error of the estimate.
//! 3. Every ten minutes all weights are halved. The heaviest of the other projects then takes over the series of the
//!    lightest named project if the lower bound of its weight is more than twice as large.
//!
//! A counter never decreases, and no count ever moves from one series to another. A project that loses its series is
//! counted as `other` from then on. If it gets series again, they begin at zero, which Prometheus takes for a restart.
//! Adding the lost count to `other` would show as a burst of queries that did not happen.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::account::ClientStats;
use super::metric_key::MetricKey;
use crate::clock::Millis;
use crate::metrics::clients::{ClientMetrics, ClientSeries};
use crate::wire::text::plain;

/// Interval between two rounds, which halve the weights and reassign series.
pub const ROUND: Millis = 600_000;
/// Most projects without series key weights are estimated.
const MOST_OTHERS: usize = 256;
/// Delay before a failure is counted: all workers have handed over what belongs to the same search by then.
const PATIENCE: Millis = 1_000;
/// Factor by which the weight of a project must exceed that of a named one to take over its series.
const HEAVIER: u64 = 2;

/// Projects with series, and estimates for the others.
#[derive(Debug)]
pub struct Projects {
    metrics: ClientMetrics,
    most: usize,
    named: HashMap<Arc<MetricKey>, Named, RandomState>,
    others: HashMap<Arc<MetricKey>, Estimate, RandomState>,
    unknown: ClientSeries,
    other: ClientSeries,
    round: Millis,
}

#[derive(Debug)]
struct Named {
    weight: u64,
    series: ClientSeries,
}

/// Estimated weight of a project without series.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    weight: u64,
    /// Upper bound of the overestimation.
    error: u64,
}

/// Labels of all projects without series.
const OTHER: [&str; 3] = ["", "other", ""];
/// Labels of all unknown clients.
const UNKNOWN: [&str; 3] = ["", "unknown", ""];

impl Projects {
    /// Creates an instance without projects; at most `most` of them get series.
    pub fn new(metrics: &ClientMetrics, most: usize) -> Self {
        Self {
            metrics: metrics.clone(),
            most,
            named: HashMap::default(),
            others: HashMap::default(),
            unknown: metrics.series(UNKNOWN),
            other: metrics.series(OTHER),
            round: 0,
        }
    }

    /// Sets the maximum number of projects with series. The lightest projects in excess lose theirs.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
        while self.named.len() > most {
            let Some((weight, key)) = self.lightest() else { break };
            self.unname(&key, weight);
        }
    }

    /// Adds the increase of an account to the metrics. Failures are added after a delay; with `last`, at once.
    pub(super) fn update_series(&mut self, account: &mut ClientStats, now: Millis, last: bool) {
        let (queries, failed) = (account.count(|_| true), account.failed());
        let reported = &mut account.reported;
        let new = queries.saturating_sub(reported.queries);
        reported.queries = queries;
        // A failure may be recognized as a search-list query a little later, and a counter must not decrease.
        let sure = match reported.waiting {
            _ if last => failed,
            Some((seen, since)) if now >= since + PATIENCE => {
                reported.waiting = None;
                seen.min(failed)
            }
            _ => reported.failed,
        };
        let failures = sure.saturating_sub(reported.failed);
        reported.failed += failures;
        if reported.waiting.is_none() && failed > reported.failed {
            reported.waiting = Some((failed, now));
        }
        reported.due = reported.waiting.is_some();
        let series = match &reported.key {
            None => &self.unknown,
            Some(key) => self.series(key, new, now),
        };
        series.queries.inc_by(new);
        series.failures.inc_by(failures);
    }

    /// Adds `queries` to the weight of `key`, and returns the series that they are counted in.
    fn series(&mut self, key: &Arc<MetricKey>, queries: u64, now: Millis) -> &ClientSeries {
        if now >= self.round + ROUND {
            self.round = now;
            self.turn();
        }
        // A project with exactly these labels shares their series.
        if key.labels() == UNKNOWN {
            return &self.unknown;
        }
        let named = self.named.contains_key(key);
        if key.labels() == OTHER || (!named && self.named.len() >= self.most) {
            self.estimate(key, queries);
            return &self.other;
        }
        if !named {
            let weight = self.others.remove(key).map_or(0, |estimate| estimate.weight - estimate.error);
            self.name(Arc::clone(key), weight);
        }
        match self.named.get_mut(key) {
            Some(named) => {
                named.weight += queries;
                &named.series
            }
            None => &self.other,
        }
    }

    /// Adds to the estimated weight of a project without series.
    fn estimate(&mut self, key: &Arc<MetricKey>, queries: u64) {
        if let Some(estimate) = self.others.get_mut(key) {
            estimate.weight += queries;
            return;
        }
        let mut error = 0;
        if self.others.len() >= MOST_OTHERS {
            let least = self.others.iter().min_by_key(|(_, estimate)| estimate.weight);
            let Some((gone, weight)) = least.map(|(key, estimate)| (Arc::clone(key), estimate.weight)) else {
                return;
            };
            self.others.remove(&gone);
            error = weight;
        }
        self.others.insert(Arc::clone(key), Estimate { weight: error + queries, error });
    }

    /// Halves all weights and reassigns series.
    fn turn(&mut self) {
        self.named.values_mut().for_each(|named| named.weight /= 2);
        self.others.retain(|_, estimate| {
            (estimate.weight, estimate.error) = (estimate.weight / 2, estimate.error / 2);
            estimate.weight > 0
        });
        let sure = |(key, estimate): (&Arc<MetricKey>, &Estimate)| (estimate.weight - estimate.error, Arc::clone(key));
        let mut rising: Vec<_> = self.others.iter().filter(|(key, _)| key.labels() != OTHER).map(sure).collect();
        rising.sort_by(|one, other| other.cmp(one));
        for (weight, key) in rising {
            let Some((least, lightest)) = self.lightest() else { return };
            if weight <= HEAVIER * least {
                return;
            }
            self.unname(&lightest, least);
            self.others.remove(&key);
            self.name(key, weight);
        }
    }

    fn lightest(&self) -> Option<(u64, Arc<MetricKey>)> {
        let weight = |(key, named): (&Arc<MetricKey>, &Named)| (named.weight, Arc::clone(key));
        self.named.iter().map(weight).min()
    }

    fn name(&mut self, key: Arc<MetricKey>, weight: u64) {
        let labels = shown(&key);
        let series = self.metrics.series(labels.each_ref().map(String::as_str));
        self.named.insert(key, Named { weight, series });
    }

    fn unname(&mut self, key: &Arc<MetricKey>, weight: u64) {
        self.named.remove(key);
        let labels = shown(key);
        self.metrics.forget(labels.each_ref().map(String::as_str));
        self.estimate(key, weight);
    }
}

/// Returns the label values. Jobs and their authors choose these names: characters that control a terminal are
/// replaced.
fn shown(key: &MetricKey) -> [String; 3] {
    key.labels().map(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn key(project: &str) -> Arc<MetricKey> {
        Arc::new(MetricKey::new("ci", project, "r"))
    }

    struct Scene {
        metrics: Metrics,
        projects: Projects,
        now: Millis,
    }

    impl Scene {
        fn new(most: usize) -> Self {
            let metrics = Metrics::new().expect("metrics");
            Self { projects: Projects::new(&metrics.clients, most), metrics, now: 1_000 }
        }

        fn ask(&mut self, project: &str, queries: u64) {
            self.projects.series(&key(project), queries, self.now).queries.inc_by(queries);
        }

        /// Advances the clock by one round.
        fn round(&mut self) {
            self.now += ROUND;
            self.ask("tick", 0);
        }

        /// Returns the count of each project that has one.
        fn counts(&self) -> Vec<(String, u64)> {
            let text = self.metrics.render();
            let lines = text.lines().filter_map(|line| line.strip_prefix("nodens_client_queries_total{"));
            let read = |line: &str| {
                let project = line.split("project=\"").nth(1)?.split('"').next()?.to_owned();
                Some((project, line.rsplit(' ').next()?.parse().ok()?))
            };
            let mut counts: Vec<_> = lines.filter_map(read).filter(|(project, _)| project != "unknown").collect();
            counts.sort();
            counts
        }
    }

    fn reported(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
        counts.iter().map(|(project, count)| ((*project).to_owned(), *count)).collect()
    }

    #[test]
    fn heavy_projects_replace_light_ones_keeping_counts() {
        let mut scene = Scene::new(2);
        for (project, queries) in [("a", 100), ("b", 10), ("c", 50), ("a", 1)] {
            scene.ask(project, queries);
        }
        assert_eq!(scene.counts(), reported(&[("a", 101), ("b", 10), ("other", 50)]));
        scene.round();
        // 25 against 5: c takes over from b, and begins at zero.
        scene.ask("b", 3);
        scene.ask("c", 7);
        assert_eq!(scene.counts(), reported(&[("a", 101), ("c", 7), ("other", 53)]));
        // A weight that is not twice as large does not suffice: a has 25 after another round, d 49 at most.
        scene.ask("d", 98);
        scene.ask("c", 200);
        scene.round();
        assert_eq!(scene.counts(), reported(&[("a", 101), ("c", 207), ("other", 151)]));
    }

    #[test]
    fn a_name_that_steers_a_terminal_does_so_in_no_label() {
        let mut scene = Scene::new(2);
        scene.ask("a\u{1b}[2J\u{202e}b", 7);
        assert_eq!(scene.counts(), reported(&[("a\u{fffd}[2J\u{fffd}b", 7), ("other", 0)]));
    }

    #[test]
    fn there_are_never_more_series_than_are_wanted() {
        let mut scene = Scene::new(3);
        let mut total = 0;
        for at in 0..5_000_u64 {
            scene.ask(&format!("p{}", at * 7_919 % 1_000), at % 5);
            total += at % 5;
            if at % 500 == 0 {
                scene.round();
            }
        }
        let counts = scene.counts();
        assert!(counts.len() <= 4, "{counts:?}");
        assert!(scene.projects.others.len() <= MOST_OTHERS + 1);
        assert!(counts.iter().map(|(_, count)| count).sum::<u64>() <= total);
        scene.projects.set_most(1);
        assert_eq!(scene.counts().len(), 2);
        scene.projects.set_most(0);
        scene.ask("p1", 1);
        let counts = scene.counts();
        assert!(matches!(counts.as_slice(), [(only, _)] if only == "other"), "{counts:?}");
    }

    #[test]
    fn an_inherited_count_makes_no_project_heavy() {
        let mut scene = Scene::new(1);
        scene.ask("a", 100);
        (0..MOST_OTHERS).for_each(|at| scene.ask(&format!("p{at}"), 200));
        // The others are exactly twice as heavy as a; the newcomer exceeds that only by the weight that it inherits.
        scene.ask("newcomer", 2);
        assert_eq!(scene.projects.others[&key("newcomer")].weight, 202);
        scene.round();
        assert_eq!(scene.counts(), reported(&[("a", 100), ("other", 200 * MOST_OTHERS as u64 + 2)]));
    }
}
