//! What all workers know together of a group and its servers. No sockets: those belong to each worker.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::RngExt;
use tokio::time::Instant;

use super::budget::Budget;
use super::health::{Change, EJECT_AFTER, EJECT_LOSING, Health, UNHEARD};
use super::minute::Latencies;
use super::quota::{Millis, Near, Quota, Verdict};
use super::race::Candidate;
use super::standing::{Standing, State, Streak, wall_clock};
use super::{FailureKind, Transport};
use crate::config::{self, Select};
use crate::metrics::ServerMetrics;
use crate::metrics::events::Kind;

/// Folded replies in a row after which a server gets no random letter case any more.
const FOLDS_BEFORE_RETREAT: u8 = 3;

/// Answers in a row that came only without EDNS, after silence with it, until a server gets no EDNS any more.
const PLAIN_BEFORE_RETREAT: u8 = 3;

/// Servers that give the same answers.
#[derive(Debug)]
pub struct Group {
    /// What the file says of it.
    pub config: config::Upstream,
    /// Its servers; those given by name come and go with their addresses.
    pub servers: ArcSwap<Vec<Arc<Server>>>,
    /// What hedges may cost.
    pub budget: Mutex<Budget>,
    /// What may be asked in a second, if that is bounded.
    quota: Option<Arc<Mutex<Quota>>>,
    /// When the quota's time began.
    epoch: Instant,
    /// When it was last asked, in milliseconds since the epoch.
    asked: AtomicU64,
    recoveries: Arc<AtomicU32>,
}

/// One server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name that its TLS certificate must bear, and it is never asked but over TLS; none: it is asked in clear text.
    pub tls_host: Option<String>,
    /// The group's name.
    pub group: String,
    /// Its metrics.
    pub metrics: ServerMetrics,
    health: Mutex<Health>,
    recoveries: Arc<AtomicU32>,
    /// Replies in a row whose random letter case came back changed.
    folds: AtomicU8,
    /// Answers in a row that came only without EDNS.
    plain: AtomicU8,
    /// Its answers come from nodens itself.
    looped: AtomicBool,
    /// Random, so that only a query of the loop check bears it.
    token: u64,
    standing: Mutex<Standing>,
    last_failures: Mutex<Streak>,
}

impl Group {
    /// A group of `servers`.
    pub fn new(config: config::Upstream, servers: Vec<Arc<Server>>, recoveries: Arc<AtomicU32>) -> Self {
        let quota = config.max_qps.map(|limit| Arc::new(Mutex::new(Quota::new(limit))));
        Self {
            config,
            servers: ArcSwap::from_pointee(servers),
            budget: Mutex::default(),
            quota,
            epoch: Instant::now(),
            asked: AtomicU64::new(0),
            recoveries,
        }
    }

    /// The same group after a reload: what was asked of it before still counts.
    pub fn after(self, old: &Self) -> Self {
        let same = old.config.max_qps == self.config.max_qps;
        let quota = if same { old.quota.clone() } else { self.quota };
        let asked = AtomicU64::new(old.asked.load(Ordering::Relaxed));
        Self { quota, epoch: old.epoch, asked, ..self }
    }

    /// The servers in the order in which a query should try them: those that clients' queries go to, best first, then
    /// the others as a last resort. One that leads back to nodens is left out.
    pub fn order(&self) -> Vec<Arc<Server>> {
        let mut servers: Vec<_> =
            self.servers.load().iter().filter(|server| !server.is_looped()).map(Arc::clone).collect();
        if servers.len() > 1 {
            match self.config.select {
                Select::Ordered => self.by_file(&mut servers),
                // A server of which nothing is known is worth a try before the others: so it becomes known.
                Select::Fastest => servers.sort_by_cached_key(|server| {
                    let health = server.health();
                    (!health.is_healthy(), health.smoothed().unwrap_or_default())
                }),
                Select::Spread => {
                    servers.sort_by_cached_key(|server| (!server.is_healthy(), server.load()));
                    let healthy = servers.iter().take_while(|server| server.is_healthy()).count();
                    if let Some(first) = better_of_two(healthy, &mut rand::rng()) {
                        servers[..=first].rotate_right(1);
                    }
                }
            }
        }
        servers
    }

    /// In the order of the file, but for those that are far slower than another.
    fn by_file(&self, servers: &mut [Arc<Server>]) {
        let known = |server: &Arc<Server>| {
            let health = server.health();
            health.smoothed().filter(|_| health.is_healthy())
        };
        let best = servers.iter().filter_map(known).min();
        let mut changed = Vec::new();
        servers.sort_by_cached_key(|server| {
            let mut health = server.health();
            let before = health.passed_over();
            let passed_over = best.is_some_and(|best| health.is_passed_over(best));
            if before != health.passed_over() {
                changed.push(Arc::clone(server));
            }
            (!health.is_healthy(), passed_over)
        });
        // Behind the sort, which holds the lock of a server's health.
        changed.iter().for_each(|server| server.is_or_was_passed_over(best.unwrap_or_default()));
    }

    /// It is being asked now.
    pub fn is_asked(&self, now: Instant) {
        self.asked.store(self.millis(now), Ordering::Relaxed);
    }

    /// Whether it was asked so short a time ago that it matters which of its servers are well.
    pub fn in_use(&self, now: Instant) -> bool {
        if self.servers.load().len() < 2 {
            return false;
        }
        let asked = self.asked.load(Ordering::Relaxed);
        asked > 0 && self.millis(now) < asked + UNHEARD.as_millis() as Millis
    }

    /// Judges a question that would have to be asked for `client`: see [`Quota::judge`].
    pub fn judge(&self, now: Instant, client: Option<IpAddr>) -> Verdict {
        let Some(mut quota) = self.quota() else { return Verdict::Ask };
        let now = self.millis(now);
        let verdict = quota.judge(now, client);
        if verdict != Verdict::Ask
            && let Some(Near { used, heaviest }) = quota.tell(now)
        {
            drop(quota);
            let (upstream, max_qps) = (&self.config.name, self.config.max_qps);
            let heaviest = heaviest.map(|(client, asked)| format!("{client} with {asked} questions"));
            tracing::warn!(
                %upstream, used, max_qps, heaviest,
                "max_qps is nearly used up: stale answers are served, the heaviest clients get SERVFAIL"
            );
        }
        verdict
    }

    /// Whether there is room for a hedge or a prefetch.
    pub fn has_room(&self, now: Instant) -> bool {
        self.quota().is_none_or(|mut quota| quota.has_room(self.millis(now)))
    }

    /// Queries sent in the last second, if they are bounded.
    pub fn used(&self, now: Instant) -> Option<u32> {
        self.quota().map(|mut quota| quota.used(self.millis(now)))
    }

    /// Takes a query out of the quota, if one is left.
    pub fn spend(&self, now: Instant) -> bool {
        self.quota().is_none_or(|mut quota| quota.spend(self.millis(now)))
    }

    /// Takes a hedge out of the budget, if it has one and the quota has room for it.
    pub fn may_hedge(&self, now: Instant) -> bool {
        self.has_room(now) && self.budget.lock().unwrap_or_else(PoisonError::into_inner).spend()
    }

    fn quota(&self) -> Option<MutexGuard<'_, Quota>> {
        // A quota is consistent between any two of its calls.
        self.quota.as_ref().map(|quota| quota.lock().unwrap_or_else(PoisonError::into_inner))
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

    /// A number that equal groups share across reloads: answers of one are answers of the other.
    pub fn realm(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let config::Upstream { servers, trust_ad, .. } = &self.config;
        (servers, trust_ad).hash(&mut hasher);
        hasher.finish()
    }
}

impl Server {
    /// A server of which nothing is known.
    pub fn new(
        group: &str,
        address: SocketAddr,
        tls_host: Option<String>,
        metrics: ServerMetrics,
        recoveries: Arc<AtomicU32>,
    ) -> Self {
        metrics.healthy.set(1);
        Self {
            address,
            tls_host,
            group: group.to_string(),
            metrics,
            health: Mutex::default(),
            recoveries,
            folds: AtomicU8::new(0),
            plain: AtomicU8::new(0),
            looped: AtomicBool::new(false),
            token: rand::random(),
            standing: Mutex::new(Standing::new(State::Healthy, "nothing against it so far")),
            last_failures: Mutex::default(),
        }
    }

    /// How the race sees it.
    pub fn candidate(&self) -> Candidate {
        let health = self.health();
        Candidate {
            hedge_after: health.hedge_after(),
            timeout: health.attempt_timeout(),
            edns: self.takes_edns(),
            transport: if self.tls_host.is_some() { Transport::Tls } else { Transport::Udp },
            healthy: health.is_healthy(),
        }
    }

    /// A reply came now, good or bad, after `latency`, to a client's query or to a `probe`.
    pub fn replied(&self, now: Instant, latency: Duration, probe: bool) {
        self.metrics.duration.observe(latency.as_secs_f64());
        let (change, smoothed) = {
            let mut health = self.health();
            (health.replied(now, latency), health.smoothed())
        };
        self.metrics.smoothed.set(smoothed.unwrap_or_default().as_secs_f64());
        if let Some(Change::Recovered(after)) = change
            && !self.is_looped()
        {
            self.recoveries.fetch_add(1, Ordering::Relaxed);
            self.becomes(self.state(), Kind::Recovered, || {
                let by = match probe {
                    _ if latency > after => "a late reply to a query from before",
                    true => "a probe was answered",
                    false => "a client's query of last resort was answered",
                };
                format!("after {:.3} s: {by}", after.as_secs_f64())
            });
        }
    }

    /// An attempt failed. One that got a reply says nothing of the server's health.
    pub fn failed(&self, kind: FailureKind) {
        self.metrics.failed(kind.label());
        if kind.is_reply() {
            return;
        }
        lock(&self.last_failures).push(kind);
        let (change, in_a_row) = {
            let mut health = self.health();
            (health.failed(Instant::now(), rand::random()), health.streak())
        };
        if change == Some(Change::Ejected) {
            self.metrics.ejections.inc();
            self.becomes(State::Ejected, Kind::Ejected, || {
                let last = lock(&self.last_failures).words();
                match in_a_row >= EJECT_AFTER {
                    true => format!("{EJECT_AFTER} failures in a row: {last}"),
                    false => format!("{EJECT_LOSING} failures among 32 attempts, the last ones: {last}"),
                }
            });
        }
    }

    /// Whether a probe is due now; the next one is then set for later. `in_use`: see [`Group::in_use`].
    pub fn probe_due(&self, now: Instant, in_use: bool) -> bool {
        self.health().probe_due(now, rand::random(), in_use)
    }

    /// What one more query would have to wait for there, as far as can be told.
    fn load(&self) -> Duration {
        let waiting = u32::try_from(self.metrics.in_flight.get()).unwrap_or(0);
        self.health().smoothed().unwrap_or_default() * waiting.saturating_add(1)
    }

    /// Whether clients' queries go there.
    pub fn is_healthy(&self) -> bool {
        !self.is_looped() && self.health().is_healthy()
    }

    /// Whether it is down and has given no sign of life since.
    pub fn is_silent(&self) -> bool {
        self.health().is_silent()
    }

    /// Whether it has replied since then.
    pub fn has_answered_since(&self, then: Instant) -> bool {
        self.health().has_answered_since(then)
    }

    /// Whether to send it random letter case.
    pub fn takes_random_case(&self) -> bool {
        self.folds.load(Ordering::Relaxed) < FOLDS_BEFORE_RETREAT
    }

    /// Whether to send it EDNS.
    pub fn takes_edns(&self) -> bool {
        self.plain.load(Ordering::Relaxed) < PLAIN_BEFORE_RETREAT
    }

    /// The random letter case came back as sent, or not.
    pub fn case_came_back(&self, same: bool) {
        let before = self.folds.load(Ordering::Relaxed);
        if same && before > 0 && before < FOLDS_BEFORE_RETREAT {
            self.folds.store(0, Ordering::Relaxed);
        } else if !same && self.folds.fetch_add(1, Ordering::Relaxed) + 1 == FOLDS_BEFORE_RETREAT {
            self.tell(Kind::RandomCaseOff, format!("{FOLDS_BEFORE_RETREAT} replies in a row in other letters"));
        }
    }

    /// It answered without EDNS what it did not with. If it said so itself (FORMERR) it gets none any more; if it was
    /// silent the network may have lost two datagrams, so that counts only if it happens again and again.
    pub fn answered_without_edns(&self, said_so: bool) {
        let step = if said_so { PLAIN_BEFORE_RETREAT } else { 1 };
        let add = |before: u8| Some(before.saturating_add(step).min(PLAIN_BEFORE_RETREAT));
        let before = self.plain.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).unwrap_or_default();
        if before < PLAIN_BEFORE_RETREAT && add(before) == Some(PLAIN_BEFORE_RETREAT) {
            let reason = match said_so {
                true => "it answered FORMERR".to_string(),
                false => format!("{PLAIN_BEFORE_RETREAT} answers in a row came only without"),
            };
            self.tell(Kind::EdnsOff, reason);
        }
    }

    /// It answered a query with EDNS.
    pub fn answered_with_edns(&self) {
        if (1..PLAIN_BEFORE_RETREAT).contains(&self.plain.load(Ordering::Relaxed)) {
            self.plain.store(0, Ordering::Relaxed);
        }
    }

    /// A query that only nodens sends came back to nodens through it.
    pub fn leads_back(&self) {
        if !self.looped.swap(true, Ordering::Relaxed) {
            self.becomes(State::Looped, Kind::Looped, || "a query of the loop check came back".to_string());
        }
    }

    /// The first label of the name by which the loop check asks this server, in wire form.
    pub fn loop_token(&self) -> [u8; 17] {
        let mut label = [16; 17];
        for (at, byte) in label[1..].iter_mut().enumerate() {
            *byte = b"0123456789abcdef"[usize::from((self.token >> (4 * at)) as u8 & 0xf)];
        }
        label
    }

    /// Forgets that it led back to nodens: it is about to be checked again.
    pub fn forgive_loop(&self) {
        if self.looped.swap(false, Ordering::Relaxed) {
            self.becomes(self.state(), Kind::LoopForgotten, || {
                "it is about to be checked for a loop again".to_string()
            });
        }
    }

    /// Whether it leads back to nodens.
    pub fn is_looped(&self) -> bool {
        self.looped.load(Ordering::Relaxed)
    }

    /// How it stands, since when, and why.
    pub fn standing(&self) -> Standing {
        lock(&self.standing).clone()
    }

    /// Its smoothed latency, and those of the last minute.
    pub fn latencies(&self, now: Instant) -> (Option<Duration>, Latencies) {
        let mut health = self.health();
        (health.smoothed(), health.last_minute(now))
    }

    /// When it is probed next, if it is.
    pub fn next_probe(&self) -> Option<Instant> {
        self.health().next_probe()
    }

    fn state(&self) -> State {
        if self.is_looped() {
            return State::Looped;
        }
        let health = self.health();
        match (health.is_healthy(), health.passed_over()) {
            (false, _) => State::Ejected,
            (true, true) => State::PassedOver,
            (true, false) => State::Healthy,
        }
    }

    /// Takes down a new state and tells of it, unless another worker has made it untrue in the meantime: so what is
    /// told, what the gauge shows and what is true are the same in the end.
    fn becomes(&self, state: State, kind: Kind, reason: impl FnOnce() -> String) {
        let mut standing = lock(&self.standing);
        if standing.state == state || self.state() != state {
            return;
        }
        let reason = reason();
        *standing = Standing::new(state, reason.as_str());
        self.metrics.healthy.set(i64::from(matches!(state, State::Healthy | State::PassedOver)));
        self.tell(kind, reason);
    }

    /// It has become, or is no more, far slower than the fastest of its group.
    fn is_or_was_passed_over(&self, best: Duration) {
        let smoothed = self.health().smoothed().unwrap_or_default();
        let reason = || format!("{smoothed:.1?}, and the fastest one takes {best:.1?}");
        match self.state() {
            State::PassedOver => self.becomes(State::PassedOver, Kind::PassedOver, reason),
            State::Healthy => self.becomes(State::Healthy, Kind::TakenAgain, reason),
            State::Ejected | State::Looped => {}
        }
    }

    fn tell(&self, kind: Kind, reason: String) {
        self.metrics.tell(wall_clock(), kind, reason);
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }
}

/// What these locks guard is consistent between any two calls, also where one of them has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    use crate::metrics::Metrics;
    use crate::upstream::health::MOST_PROOF;

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

    #[test]
    fn a_state_is_told_when_it_is_true_and_only_once() {
        let metrics = Metrics::new().expect("metrics");
        let address: SocketAddr = "192.0.2.1:53".parse().expect("an address");
        let server = Server::new("up", address, None, metrics.server("up", "192.0.2.1:53"), Arc::default());
        let told = || -> Vec<_> { metrics.events.after(0).0.iter().map(|event| event.kind).collect() };
        let healthy = || server.metrics.healthy.get();
        // What another worker has made untrue in the meantime.
        server.becomes(State::Ejected, Kind::Ejected, String::new);
        assert_eq!((told(), healthy()), (vec![], 1));

        (0..2 * EJECT_AFTER).for_each(|_| server.failed(FailureKind::Timeout));
        assert_eq!((told(), healthy(), server.standing().state), (vec![Kind::Ejected], 0, State::Ejected));
        server.leads_back();
        server.leads_back();
        assert_eq!((healthy(), server.standing().state), (0, State::Looped));
        // While it leads back, a reply does not make it well; forgiven, it is what it would be without.
        server.replied(Instant::now(), Duration::from_millis(1), true);
        assert_eq!((healthy(), server.standing().state), (0, State::Looped));
        (0..EJECT_AFTER).for_each(|_| server.failed(FailureKind::Timeout));
        server.forgive_loop();
        server.forgive_loop();
        assert_eq!((healthy(), server.standing().state), (0, State::Ejected));
        // It was back only a moment ago, so one reply is no proof.
        (0..MOST_PROOF).for_each(|_| server.replied(Instant::now(), Duration::ZERO, true));
        assert_eq!((healthy(), server.standing().state), (1, State::Healthy));
        assert_eq!(told(), [Kind::Ejected, Kind::Looped, Kind::LoopForgotten, Kind::Recovered]);
        assert_eq!(server.recoveries.load(Ordering::Relaxed), 1);
    }
}
