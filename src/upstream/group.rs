//! What all workers know together of a group, and whom of it to ask. No sockets: those belong to each worker.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::RngExt;
use tokio::time::Instant;

use super::budget::Budget;
use super::failure::Failure;
use super::health::UNHEARD;
use super::question::Question;
use super::rate_limiter::{RateLimiter, ShedLevel, Verdict};
use super::server::Server;
use crate::clock::Millis;
use crate::config::{self, Select};
use crate::wire::ede;

/// How long a question that was answered is kept until a newer one takes its place.
const KEEP_WELL: Duration = Duration::from_secs(5);

/// Servers that give the same answers.
#[derive(Debug)]
pub struct Group {
    /// What the file says of it.
    pub config: config::Upstream,
    /// Its servers; those given by name come and go with their addresses.
    pub servers: ArcSwap<Vec<Arc<Server>>>,
    /// What hedges may cost.
    pub budget: Arc<Mutex<Budget>>,
    /// How many queries to it wait.
    pub pending: Arc<AtomicUsize>,
    /// What may be asked in a second, if that is bounded.
    rate_limiter: Option<Arc<Mutex<RateLimiter>>>,
    /// When the quota's time began.
    epoch: Instant,
    /// When it was last asked, in milliseconds since the epoch.
    asked: AtomicU64,
    recoveries: Arc<AtomicU32>,
    /// A question of a client that was answered a short time ago, and when.
    well: Mutex<Option<(Question, Instant)>>,
    /// A name of a server that cannot be resolved, and why.
    unresolved: Mutex<Option<String>>,
}

impl Group {
    /// A group of `servers`.
    pub fn new(config: config::Upstream, servers: Vec<Arc<Server>>, recoveries: Arc<AtomicU32>) -> Self {
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

    /// The same group after a reload: what was asked of it before still counts.
    pub fn after(self, old: &Self) -> Self {
        let same = old.config.max_qps == self.config.max_qps;
        let rate_limiter = if same { old.rate_limiter.clone() } else { self.rate_limiter };
        let asked = AtomicU64::new(old.asked.load(Ordering::Relaxed));
        let (budget, pending) = (Arc::clone(&old.budget), Arc::clone(&old.pending));
        Self { rate_limiter, budget, pending, epoch: old.epoch, asked, ..self }
    }

    /// The servers in the order in which a query should try them: those that clients' queries go to, best first, then
    /// the others as a last resort. One in a forwarding loop is left out.
    pub fn order(&self) -> Vec<Arc<Server>> {
        let mut servers: Vec<_> =
            self.servers.load().iter().filter(|server| !server.is_looped()).map(Arc::clone).collect();
        if servers.len() > 1 {
            match self.config.select {
                Select::Ordered => self.by_file(&mut servers),
                // A server of which nothing is known is worth a try before the others: so it becomes known.
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

    /// Why nobody is asked where [`Group::order`] has no server.
    pub fn no_server(&self) -> Failure {
        let looped = self.servers.load().iter().any(|server| server.is_looped());
        let why = if looped { "its servers lead back to nodens" } else { "its servers' names are not resolved yet" };
        Failure { tried: Vec::new(), extended_error: Some((ede::OTHER, why.into())) }
    }

    /// In the order of the file, but for those that are far slower than another.
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
        // Behind the sort, which holds the lock of a server's health.
        changed.iter().for_each(|server| server.degraded_changed(best.unwrap_or_default()));
    }

    /// It is being asked now.
    pub fn is_asked(&self, now: Instant) {
        self.asked.store(self.millis(now), Ordering::Relaxed);
    }

    /// A client's question was answered.
    pub(super) fn was_answered(&self, question: &Question, now: Instant) {
        let mut well = self.well.lock().unwrap_or_else(PoisonError::into_inner);
        if well.as_ref().is_none_or(|(_, at)| now >= *at + KEEP_WELL) {
            *well = Some((question.clone(), now));
        }
    }

    /// A question that one of its servers has answered a short time ago, so that each should.
    pub fn known_question(&self) -> Option<Question> {
        let well = self.well.lock().unwrap_or_else(PoisonError::into_inner);
        well.as_ref().map(|(question, _)| question.clone())
    }

    /// The name of a server cannot be resolved, for this reason; or all can.
    pub fn set_unresolved(&self, why: Option<String>) {
        *self.unresolved.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// The names that cannot be resolved, with the reason.
    pub fn unresolved(&self) -> Vec<String> {
        self.unresolved.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Whether it was asked so short a time ago that it matters which of its servers are well.
    pub fn in_use(&self, now: Instant) -> bool {
        if self.servers.load().len() < 2 {
            return false;
        }
        let asked = self.asked.load(Ordering::Relaxed);
        asked > 0 && self.millis(now) < asked + UNHEARD.as_millis() as Millis
    }

    /// Judges a question that would have to be asked for `client`: see [`RateLimiter::judge`].
    pub fn judge(&self, now: Instant, client: Option<IpAddr>) -> Verdict {
        let Some(mut rate_limiter) = self.rate_limiter() else { return Verdict::Ask };
        let now = self.millis(now);
        let verdict = rate_limiter.judge(now, client);
        if verdict != Verdict::Ask
            && let Some(ShedLevel { used, heaviest }) = rate_limiter.tell(now)
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

    /// Whether there is room for a hedge or a prefetch.
    pub fn has_room(&self, now: Instant) -> bool {
        self.rate_limiter().is_none_or(|mut rate_limiter| rate_limiter.has_room(self.millis(now)))
    }

    /// Queries sent in the last second, if they are bounded.
    pub fn used(&self, now: Instant) -> Option<u32> {
        self.rate_limiter().map(|mut rate_limiter| rate_limiter.used(self.millis(now)))
    }

    /// Takes a query out of the quota, if one is left.
    pub fn spend(&self, now: Instant) -> bool {
        self.rate_limiter().is_none_or(|mut rate_limiter| rate_limiter.spend(self.millis(now)))
    }

    /// Takes a hedge out of the budget, if it has one and the quota has room for it.
    pub fn may_hedge(&self, now: Instant) -> bool {
        self.has_room(now) && self.budget.lock().unwrap_or_else(PoisonError::into_inner).spend()
    }

    fn rate_limiter(&self) -> Option<MutexGuard<'_, RateLimiter>> {
        // A quota is consistent between any two of its calls.
        self.rate_limiter.as_ref().map(|rate_limiter| rate_limiter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn millis(&self, now: Instant) -> Millis {
        now.saturating_duration_since(self.epoch).as_millis() as Millis
    }

    /// How often one of its servers came back: failures remembered from before are then forgotten.
    pub fn recoveries(&self) -> u32 {
        self.recoveries.load(Ordering::Relaxed)
    }

    /// The recovery count, for servers that join the group.
    pub fn shared_recoveries(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.recoveries)
    }

    /// Whether some server takes clients' queries.
    pub fn is_alive(&self) -> bool {
        self.servers.load().iter().any(|server| server.is_healthy())
    }

    /// Whether some server gives answers, as far as is known; of one that nothing has come from yet, whether nothing has failed.
    pub fn is_promising(&self) -> bool {
        self.servers.load().iter().any(|server| server.is_promising())
    }

    /// A number that equal groups share across reloads: answers of one are answers of the other.
    pub fn scope_fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let config::Upstream { servers, trust_ad, .. } = &self.config;
        (servers, trust_ad).hash(&mut hasher);
        hasher.finish()
    }
}

/// Of `count` servers, the best first, two are drawn at random; this is the better one. So the best is asked most, but
/// what all know to be idle is not stormed by all (the power of two choices). None if there are no two.
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
    fn of_two_drawn_the_better_one_is_taken_and_all_pairs_are_as_likely() {
        let mut random = rand::rng();
        assert_eq!(better_of_two(0, &mut random), None);
        assert_eq!(better_of_two(1, &mut random), None);
        assert!((0..100).all(|_| better_of_two(2, &mut random) == Some(0)));
        // Of four the ranks win 3, 2, 1 and 0 of the 6 pairs.
        let mut won = [0_u32; 4];
        (0..6_000).for_each(|_| won[better_of_two(4, &mut random).expect("two")] += 1);
        for (won, expected) in won.into_iter().zip([3_000, 2_000, 1_000, 0]) {
            assert!(won.abs_diff(expected) < 300, "{won} of {expected}");
        }
    }
}
