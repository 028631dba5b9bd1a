//! State of a group that all workers share, and the order of its servers. Sockets belong to each worker.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::RngExt;
use tokio::time::Instant;

use super::budget::HedgeBudget;
use super::failure::Failure;
use super::health::UNHEARD;
use super::question::Question;
use super::rate_limiter::{RateDecision, RateLimiter, ShedLevel};
use super::server::Server;
use crate::clock::Millis;
use crate::config::{self, Select};
use crate::wire::ede;

/// Minimum time for which an answered question is kept before a newer one replaces it.
const KEEP_WELL: Duration = Duration::from_secs(5);

/// Group of servers that give the same answers: an upstream.
#[derive(Debug)]
pub struct Group {
    /// Configuration of the group.
    pub config: config::UpstreamConfig,
    /// Servers; those configured by name change with their addresses.
    pub servers: ArcSwap<Vec<Arc<Server>>>,
    pub(crate) budget: Arc<Mutex<HedgeBudget>>,
    /// Number of queries to the group that wait.
    pub pending: Arc<AtomicUsize>,
    /// Rate limit, if `max_qps` is set.
    rate_limiter: Option<Arc<Mutex<RateLimiter>>>,
    /// Origin of the times in milliseconds.
    epoch: Instant,
    /// Time of the last query, in milliseconds since the epoch; 0 before the first one.
    asked: AtomicU64,
    recoveries: Arc<AtomicU32>,
    /// Question of a client that was answered a short time ago, and when.
    well: Mutex<Option<(Question, Instant)>>,
    /// Server name that cannot be resolved, and the reason.
    unresolved: Mutex<Option<String>>,
}

impl Group {
    /// Creates a group of `servers`.
    pub fn new(config: config::UpstreamConfig, servers: Vec<Arc<Server>>, recoveries: Arc<AtomicU32>) -> Self {
        let rate_limiter = config.max_qps.map(|limit| Arc::new(Mutex::new(RateLimiter::new(limit))));
        Self {
            config,
            servers: ArcSwap::from_pointee(servers),
            budget: Arc::default(),
            pending: Arc::default(),
            rate_limiter,
            epoch: Instant::now(),
            asked: AtomicU64::new(0),
            recoveries,
            well: Mutex::default(),
            unresolved: Mutex::default(),
        }
    }

    /// Takes over the counters of the same group from before a reload.
    pub fn after(self, old: &Self) -> Self {
        let same = old.config.max_qps == self.config.max_qps;
        let rate_limiter = if same { old.rate_limiter.clone() } else { self.rate_limiter };
        let asked = AtomicU64::new(old.asked.load(Ordering::Relaxed));
        let (budget, pending) = (Arc::clone(&old.budget), Arc::clone(&old.pending));
        Self { rate_limiter, budget, pending, epoch: old.epoch, asked, ..self }
    }

    /// Returns the servers in the order in which a query tries them: those that take clients' queries, best first, then
    /// the others as a last resort. Forwarding loops are left out.
    pub fn order(&self) -> Vec<Arc<Server>> {
        let mut servers: Vec<_> =
            self.servers.load().iter().filter(|server| !server.is_looped()).map(Arc::clone).collect();
        if servers.len() > 1 {
            match self.config.select {
                Select::Ordered => self.by_file(&mut servers),
                // A server without a response so far comes first, so that its latency becomes known.
                Select::Fastest => servers.sort_by_cached_key(|server| {
                    let health = server.health();
                    (!health.takes_queries(), health.smoothed().unwrap_or_default())
                }),
                Select::Spread => {
                    servers.sort_by_cached_key(|server| (!server.takes_queries(), server.load()));
                    let healthy = servers.iter().take_while(|server| server.takes_queries()).count();
                    if let Some(first) = better_of_two(healthy, &mut rand::rng()) {
                        servers[..=first].rotate_right(1);
                    }
                }
            }
        }
        servers
    }

    /// Returns the failure for an empty [`Group::order`].
    pub fn no_server(&self) -> Failure {
        let looped = self.servers.load().iter().any(|server| server.is_looped());
        let why = if looped { "its servers lead back to nodens" } else { "its servers' names are not resolved yet" };
        Failure { tried: Vec::new(), extended_error: Some((ede::OTHER, why.into())) }
    }

    /// Sorts in the order of the configuration, with degraded servers after the others.
    fn by_file(&self, servers: &mut [Arc<Server>]) {
        let known = |server: &Arc<Server>| {
            let health = server.health();
            health.smoothed().filter(|_| health.takes_queries())
        };
        let best = servers.iter().filter_map(known).min();
        let mut changed = Vec::new();
        servers.sort_by_cached_key(|server| {
            let mut health = server.health();
            let before = health.degraded();
            let degraded = best.is_some_and(|best| health.update_degraded(best));
            if before != health.degraded() {
                changed.push(Arc::clone(server));
            }
            (!health.takes_queries(), degraded)
        });
        // After the sort, which holds the lock of a server's health.
        changed.iter().for_each(|server| server.degraded_changed(best.unwrap_or_default()));
    }

    /// Records that the group is queried at `now`.
    pub fn is_asked(&self, now: Instant) {
        self.asked.store(self.millis(now), Ordering::Relaxed);
    }

    /// Records that a client's question was answered.
    pub(super) fn was_answered(&self, question: &Question, now: Instant) {
        let mut well = self.well.lock().unwrap_or_else(PoisonError::into_inner);
        if well.as_ref().is_none_or(|(_, at)| now >= *at + KEEP_WELL) {
            *well = Some((question.clone(), now));
        }
    }

    /// Returns a question that one of the servers has answered recently, so that each server should.
    pub fn known_question(&self) -> Option<Question> {
        let well = self.well.lock().unwrap_or_else(PoisonError::into_inner);
        well.as_ref().map(|(question, _)| question.clone())
    }

    /// Sets the server name that cannot be resolved, with the reason; `None` if all can.
    pub fn set_unresolved(&self, why: Option<String>) {
        *self.unresolved.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Returns the server names that cannot be resolved, with the reasons.
    pub fn unresolved(&self) -> Vec<String> {
        self.unresolved.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Reports whether the group has several servers and was queried in the last 10 s, so that their health matters.
    pub fn in_use(&self, now: Instant) -> bool {
        if self.servers.load().len() < 2 {
            return false;
        }
        let asked = self.asked.load(Ordering::Relaxed);
        asked > 0 && self.millis(now) < asked + UNHEARD.as_millis() as Millis
    }

    /// Decides on a question that needs a query for `client`: see [`RateLimiter::admit`].
    pub fn admit(&self, now: Instant, client: Option<IpAddr>) -> RateDecision {
        let Some(mut rate_limiter) = self.rate_limiter() else { return RateDecision::Ask };
        let now = self.millis(now);
        let verdict = rate_limiter.admit(now, client);
        if verdict != RateDecision::Ask
            && let Some(ShedLevel { used, heaviest }) = rate_limiter.level_change(now)
        {
            drop(rate_limiter);
            let (upstream, max_qps) = (&self.config.name, self.config.max_qps);
            let heaviest = heaviest.map(|(client, asked)| format!("{client} with {asked} questions"));
            tracing::warn!(
                %upstream, used, max_qps, heaviest,
                "max_qps nearly used up: serving stale answers, SERVFAIL to the heaviest clients"
            );
        }
        verdict
    }

    /// Reports whether the rate limit has room for a hedge or a prefetch.
    pub fn below_threshold(&self, now: Instant) -> bool {
        self.rate_limiter().is_none_or(|mut rate_limiter| rate_limiter.below_threshold(self.millis(now)))
    }

    /// Returns the queries sent in the last second, if there is a rate limit.
    pub fn used(&self, now: Instant) -> Option<u32> {
        self.rate_limiter().map(|mut rate_limiter| rate_limiter.used(self.millis(now)))
    }

    /// Takes one query from the rate limit; returns whether one was left.
    pub fn try_acquire(&self, now: Instant) -> bool {
        self.rate_limiter().is_none_or(|mut rate_limiter| rate_limiter.try_acquire(self.millis(now)))
    }

    /// Takes a hedge from the budget; returns whether the budget had one and the rate limit has room for it.
    pub fn may_hedge(&self, now: Instant) -> bool {
        self.below_threshold(now) && self.budget.lock().unwrap_or_else(PoisonError::into_inner).try_acquire()
    }

    fn rate_limiter(&self) -> Option<MutexGuard<'_, RateLimiter>> {
        // A limiter is consistent between any two of its calls.
        self.rate_limiter.as_ref().map(|rate_limiter| rate_limiter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn millis(&self, now: Instant) -> Millis {
        now.saturating_duration_since(self.epoch).as_millis() as Millis
    }

    /// Returns the number of recoveries of its servers. Failures remembered from before a recovery are dropped.
    pub fn recoveries(&self) -> u32 {
        self.recoveries.load(Ordering::Relaxed)
    }

    /// Returns the shared recovery count, for servers that join the group.
    pub fn shared_recoveries(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.recoveries)
    }

    /// Reports whether any server is neither ejected nor a forwarding loop.
    pub fn is_alive(&self) -> bool {
        self.servers.load().iter().any(|server| server.is_healthy())
    }

    /// Reports whether any server gives answers, as far as is known. A server without a response so far counts if nothing
    /// has failed.
    pub fn is_promising(&self) -> bool {
        self.servers.load().iter().any(|server| server.is_promising())
    }

    /// Returns a fingerprint that equal groups share across reloads: their answers are interchangeable.
    pub fn scope_fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        // Exhaustive, so that a new key does not compile until it is decided whether cached answers depend on it.
        let config::UpstreamConfig {
            servers,
            trust_ad,
            name: _,
            select: _,
            deadline: _,
            max_qps: _,
            tcp_connections: _,
            randomize_case: _,
        } = &self.config;
        (servers, trust_ad).hash(&mut hasher);
        hasher.finish()
    }
}

/// Draws two of `count` servers at random, which are sorted best first, and returns the index of the better one; `None`
/// if there are fewer than two. The best server gets most queries, but an idle one is not flooded by all workers at once
/// (the power of two choices).
fn better_of_two(count: usize, random: &mut impl RngExt) -> Option<usize> {
    let others = count.checked_sub(1).filter(|others| *others > 0)?;
    let one = random.random_range(0..count);
    let other = random.random_range(0..others);
    Some(one.min(if other >= one { other + 1 } else { other }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_of_two_random_servers_is_chosen() {
        let mut random = rand::rng();
        assert_eq!(better_of_two(0, &mut random), None);
        assert_eq!(better_of_two(1, &mut random), None);
        assert!((0..100).all(|_| better_of_two(2, &mut random) == Some(0)));
        // With four servers the ranks win 3, 2, 1 and 0 of the 6 pairs.
        let mut won = [0_u32; 4];
        (0..6_000).for_each(|_| won[better_of_two(4, &mut random).expect("two")] += 1);
        for (won, expected) in won.into_iter().zip([3_000, 2_000, 1_000, 0]) {
            assert!(won.abs_diff(expected) < 300, "{won} of {expected}");
        }
    }
}
