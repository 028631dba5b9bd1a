//! What all workers know together of one server. No sockets: those belong to each worker.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::failure::FailureKind;
use super::health::{Change, EJECT_AFTER, EJECT_LOSING, Health};
use super::minute::Latencies;
use super::race::Candidate;
use super::standing::{Standing, State, Streak, wall_clock};
use super::transport::Transport;
use crate::metrics::ServerMetrics;
use crate::metrics::events::Kind;

/// Checks in a row whose replies came back in other letters, after which a server gets no random letter case for a while.
const FOLDED_CHECKS: u8 = 2;
/// How long that while is.
const FOLDS_FOR: Duration = Duration::from_secs(3_600);
/// The pause between two checks.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// Answers in a row that came only without EDNS, after silence with it, until a server gets no EDNS any more.
const PLAIN_BEFORE_RETREAT: u8 = 3;

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
    letters: Mutex<Letters>,
    /// Answers in a row that came only without EDNS.
    plain: AtomicU8,
    /// Its answers come from nodens itself.
    looped: AtomicBool,
    /// Random, so that only a query of the loop check bears it.
    token: u64,
    standing: Mutex<Standing>,
    last_failures: Mutex<Streak>,
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
            letters: Mutex::default(),
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

    /// An attempt failed. One that got a reply says nothing of the server's health, nor does one that was never sent.
    pub fn failed(&self, kind: FailureKind) {
        self.metrics.failed(kind.label());
        if kind.is_reply() || !kind.is_servers() {
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

    /// An attempt was given up that says nothing of the server's health: it is busy with others.
    pub(super) fn kept_waiting(&self) {
        self.metrics.failed(FailureKind::Timeout.label());
    }

    /// Takes down a failure that is this machine's, as soon as it is seen; returns it.
    pub(super) fn noted(&self, kind: FailureKind) -> FailureKind {
        if let FailureKind::Local(fault) = kind {
            self.metrics.local_fault(fault.index(), wall_clock());
        }
        kind
    }

    /// Whether a probe is due now; the next one is then set for later. `in_use`: see [`super::Group::in_use`].
    pub fn probe_due(&self, now: Instant, in_use: bool) -> bool {
        self.health().probe_due(now, rand::random(), in_use)
    }

    /// The last probe was not sent: this machine could not.
    pub(super) fn was_not_probed(&self) {
        self.health().was_not_probed();
    }

    /// What one more query would have to wait for there, as far as can be told.
    pub(super) fn load(&self) -> Duration {
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
    pub fn takes_random_case(&self, now: Instant) -> bool {
        lock(&self.letters).folds_until.is_none_or(|until| now >= until)
    }

    /// Whether to send it EDNS.
    pub fn takes_edns(&self) -> bool {
        self.plain.load(Ordering::Relaxed) < PLAIN_BEFORE_RETREAT
    }

    /// Something came in other letters than were sent: from a server that folds them, or from someone who guesses. That proves
    /// nothing, and has it checked.
    pub fn case_is_doubted(&self) {
        lock(&self.letters).doubted = true;
    }

    /// Whether to send a query now that finds out what it does to letters.
    pub fn case_check_due(&self, now: Instant) -> bool {
        let mut letters = lock(&self.letters);
        let due = letters.doubted
            && letters.folds_until.is_none_or(|until| now >= until)
            && letters.checked.is_none_or(|checked| now >= checked + CHECK_EVERY);
        if due {
            letters.checked = Some(now);
        }
        due
    }

    /// The true reply to such a query came back in other letters, or not.
    pub fn case_was_checked(&self, folded: bool, now: Instant) {
        let mut letters = lock(&self.letters);
        letters.folded_checks = if folded { letters.folded_checks + 1 } else { 0 };
        letters.doubted = folded && letters.folded_checks < FOLDED_CHECKS;
        if letters.folded_checks >= FOLDED_CHECKS {
            *letters = Letters { folds_until: Some(now + FOLDS_FOR), ..Letters::default() };
            self.tell(Kind::RandomCaseOff, format!("{FOLDED_CHECKS} checks in a row came back in other letters"));
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
    pub(super) fn is_or_was_passed_over(&self, best: Duration) {
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

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }
}

/// What a server does to the letters of a question.
#[derive(Debug, Default)]
struct Letters {
    /// Something came in other letters, and it is not known yet from whom.
    doubted: bool,
    /// When a check was last sent.
    checked: Option<Instant>,
    folded_checks: u8,
    /// It folds them, as far as is known until then.
    folds_until: Option<Instant>,
}

/// What these locks guard is consistent between any two calls, also where one of them has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::upstream::health::MOST_PROOF;

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
        let later = |n: u32| Instant::now() + Duration::from_secs(n.into());
        (0..MOST_PROOF).for_each(|n| server.replied(later(n), Duration::ZERO, true));
        assert_eq!((healthy(), server.standing().state), (1, State::Healthy));
        assert_eq!(told(), [Kind::Ejected, Kind::Looped, Kind::LoopForgotten, Kind::Recovered]);
        assert_eq!(server.recoveries.load(Ordering::Relaxed), 1);
    }
}
