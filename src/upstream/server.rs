//! What all workers know together of one server. No sockets: those belong to each worker.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::capability::{Capability, HOLDS_FOR};
use super::evidence::Evidence;
use super::failure::FailureKind;
use super::health::{Change, EJECT_AFTER, EJECT_LOSING, Health, Lost};
use super::latency_window::Latencies;
use super::question::Question;
use super::race::Candidate;
use super::server_status::{RecentFailures, ServerStatus, State, wall_clock};
use super::transport::Transport;
use crate::metrics::ServerMetrics;
use crate::metrics::events::Kind;
use crate::wire::name::Name;

/// The time from finding a loop to the first check whether it is still there; each later one after twice as long.
const FIRST_LOOP_CHECK: Duration = Duration::from_secs(1);
/// The longest such time.
const LONGEST_LOOP_CHECK: Duration = Duration::from_secs(5);

/// Bytes of the first label in the names of the loop check: the token of the server.
pub const LOOP_TOKEN: usize = 17;
/// Bytes of the second one, which is random, so that no cache on the way has seen the name before.
pub const LOOP_NONCE: usize = 9;
/// The third one; a zone of the server follows.
pub const LOOP_LABEL: &[u8] = b"\x0aloop-check";

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
    evidence: Mutex<Evidence>,
    /// Whether a question comes back in the letters that it was sent in.
    letter_case: Mutex<Capability>,
    /// See [`Evidence::observe_case`].
    preserves_case: AtomicBool,
    /// Whether queries with an OPT record are answered.
    edns: Mutex<Capability>,
    /// Its answers come from nodens itself.
    looped: AtomicBool,
    loops: Mutex<Loops>,
    /// Random, so that only a query of the loop check bears it.
    token: u64,
    server_status: Mutex<ServerStatus>,
    last_failures: Mutex<RecentFailures>,
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
            evidence: Mutex::default(),
            letter_case: Mutex::default(),
            preserves_case: AtomicBool::new(false),
            edns: Mutex::default(),
            looped: AtomicBool::new(false),
            loops: Mutex::default(),
            token: rand::random(),
            server_status: Mutex::new(ServerStatus::new(State::Unknown, "no response yet")),
            last_failures: Mutex::default(),
        }
    }

    /// How the race sees it.
    pub fn candidate(&self) -> Candidate {
        let health = self.health();
        Candidate {
            hedge_after: health.hedge_after(),
            timeout: health.attempt_timeout(),
            edns: self.takes_edns(Instant::now()),
            transport: if self.tls_host.is_some() { Transport::Tls } else { Transport::Udp },
            healthy: health.takes_queries(),
        }
    }

    /// A reply came now, good or bad, after `latency`, to a client's query or to a `probe`.
    pub fn replied(&self, now: Instant, latency: Duration, probe: bool) {
        self.metrics.duration.observe(latency.as_secs_f64());
        let (change, smoothed, is_first) = {
            let mut health = self.health();
            let is_first = health.smoothed().is_none();
            (health.replied(now, latency, probe), health.smoothed(), is_first)
        };
        self.metrics.smoothed.set(smoothed.unwrap_or_default().as_secs_f64());
        if is_first {
            self.is_heard_of();
        }
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

    /// The first reply: nobody is told, as that is as it should be.
    fn is_heard_of(&self) {
        let mut server_status = lock(&self.server_status);
        if server_status.state == State::Unknown && self.state() == State::Healthy {
            *server_status = ServerStatus::new(State::Healthy, "it replied");
        }
    }

    /// It gave an answer to a client's query.
    pub(super) fn answered(&self) {
        lock(&self.evidence).answered();
        self.gives_answers();
    }

    /// It gave an error to a client's query.
    pub(super) fn gave_error(&self) {
        let is_doubtful = {
            let mut evidence = lock(&self.evidence);
            evidence.gave_error();
            evidence.is_doubtful()
        };
        // Some servers answer SERVFAIL or REFUSED to whatever has EDNS.
        if is_doubtful {
            self.edns_is_doubted();
        }
    }

    /// It answered a probe.
    pub(super) fn answered_probe(&self, question: &Question, error: Option<FailureKind>) {
        let only = {
            let mut evidence = lock(&self.evidence);
            evidence.answered_probe(question, error);
            evidence.only_error()
        };
        match only {
            Some(error) => self
                .becomes(State::Failing, Kind::Failing, || format!("{} to everything, to a probe too", error.words())),
            None => self.gives_answers(),
        }
    }

    fn gives_answers(&self) {
        if lock(&self.server_status).state == State::Failing {
            self.becomes(self.state(), Kind::NoLongerFailing, || "it gave an answer after errors alone".to_owned());
        }
    }

    /// What to probe it with: see [`Evidence::probe`].
    pub(super) fn probe_question(&self, zone: &Name, well: Option<Question>) -> Question {
        lock(&self.evidence).probe(zone, well)
    }

    /// An attempt failed. One that got a reply says nothing of the server's health, nor does one that was never sent.
    /// `silence` is what it was where nothing came.
    pub fn failed(&self, kind: FailureKind, transport: Transport, silence: Lost) {
        self.metrics.failed(kind.label());
        if kind.is_reply() || !kind.is_servers() {
            return;
        }
        lock(&self.last_failures).push(kind);
        let (change, in_a_row) = {
            let mut health = self.health();
            let is_told = kind != FailureKind::Timeout && transport != Transport::Tcp;
            let what = if is_told { Lost::Told } else { silence };
            (health.failed(Instant::now(), rand::random(), what), health.streak())
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
        let is_doubtful = lock(&self.evidence).is_doubtful();
        self.health().probe_due(now, rand::random(), in_use, is_doubtful)
    }

    /// The last probe was not sent: this machine could not.
    pub fn was_not_probed(&self) {
        self.health().was_not_probed();
    }

    /// What one more query would have to wait for there, as far as can be told.
    pub(super) fn load(&self) -> Duration {
        let waiting = u32::try_from(self.metrics.in_flight.get()).unwrap_or(0);
        self.health().smoothed().unwrap_or_default() * waiting.saturating_add(1)
    }

    /// Whether it is neither ejected nor leads back.
    pub fn is_healthy(&self) -> bool {
        !self.is_looped() && self.health().is_healthy()
    }

    /// Whether clients' queries go there before they go to others.
    pub fn takes_queries(&self) -> bool {
        !self.is_looped() && self.health().takes_queries()
    }

    /// Whether it gives answers, as far as is known; of one that nothing has come from yet, whether nothing has failed.
    pub fn is_promising(&self) -> bool {
        let state = self.server_status().state;
        state.is_good() || state == State::Unknown && self.health().streak() == 0
    }

    /// Whether it is suspected of losing packets.
    pub(super) fn is_losing(&self) -> bool {
        self.health().is_losing()
    }

    /// How long a probe's reply is waited for.
    pub(super) fn probe_timeout(&self) -> Duration {
        self.health().probe_timeout()
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
        lock(&self.letter_case).is_there(now)
    }

    /// Whether to send it EDNS.
    pub fn takes_edns(&self, now: Instant) -> bool {
        lock(&self.edns).is_there(now)
    }

    /// For how long it counts as one that answers no EDNS, and that folds letter case.
    pub fn retreats(&self, now: Instant) -> [Option<Duration>; 2] {
        [&self.edns, &self.letter_case]
            .map(|capability| lock(capability).off_until(now).map(|until| until.saturating_duration_since(now)))
    }

    /// Something came in other letters than were sent: from a server that folds them, or from someone who guesses. That proves
    /// nothing, and has it checked.
    pub fn case_is_doubted(&self) {
        lock(&self.letter_case).doubt();
    }

    /// Whether to send a query now that finds out what it does to letters.
    pub fn case_check_due(&self, now: Instant) -> bool {
        lock(&self.letter_case).check_due(now)
    }

    /// The true reply to such a query came back in other letters, or not.
    pub fn case_was_checked(&self, folded: bool, now: Instant) {
        if lock(&self.letter_case).was_checked(folded, now) {
            self.tell_of_retreat(Kind::RandomCaseOff, "checks came back in other letters");
        }
    }

    /// A query in random letter case was answered: see [`Evidence::observe_case`].
    pub(super) fn observe_case(&self, has_data: bool, question: &Question) {
        self.preserves_case.fetch_or(has_data, Ordering::Relaxed);
        lock(&self.evidence).observe_case(has_data, question);
    }

    /// Whether it has given data to a query in random letter case.
    pub(super) fn preserves_case(&self) -> bool {
        self.preserves_case.load(Ordering::Relaxed)
    }

    /// What to ask in lower case now, to find out whether it knows names in no other letters.
    pub fn lower_case_check(&self) -> Option<Question> {
        lock(&self.evidence).lower_case_check()
    }

    /// It answered in lower case what it denied in other letters, again and again.
    pub fn knows_lower_case_alone(&self, now: Instant) {
        lock(&self.letter_case).turn_off(now);
        self.tell_of_retreat(Kind::RandomCaseOff, "it knows names in lower case alone");
    }

    /// It answered without EDNS what it did not with: its own doing, or the name's, or two lost datagrams. That proves nothing,
    /// and has it checked.
    pub fn edns_is_doubted(&self) {
        lock(&self.edns).doubt();
    }

    /// Whether to find out now whether it answers EDNS.
    pub fn edns_check_due(&self, now: Instant) -> bool {
        lock(&self.edns).check_due(now)
    }

    /// It answered a plain question without EDNS, and with EDNS not, or did.
    pub fn edns_was_checked(&self, lacking: bool, now: Instant) {
        if lock(&self.edns).was_checked(lacking, now) {
            self.tell_of_retreat(Kind::EdnsOff, "checks were answered only without");
        }
    }

    /// Tells that a capability is not used for a while.
    fn tell_of_retreat(&self, kind: Kind, why: &str) {
        self.tell(kind, format!("{why}; for {} min", HOLDS_FOR.as_secs() / 60));
    }

    /// A query that only nodens sends came back to nodens through it.
    pub fn leads_back(&self) {
        {
            let mut loops = lock(&self.loops);
            loops.seen = loops.seen.saturating_add(1);
        }
        if !self.looped.swap(true, Ordering::Relaxed) {
            *lock(&self.loops) =
                Loops { seen: 1, next: Some(Instant::now() + FIRST_LOOP_CHECK), wait: FIRST_LOOP_CHECK };
            self.becomes(State::ForwardingLoop, Kind::ForwardingLoop, || {
                "a query of the loop check came back".to_string()
            });
        }
    }

    /// Whether to check now if it still leads back.
    pub fn loop_check_due(&self, now: Instant) -> bool {
        if !self.is_looped() {
            return false;
        }
        let mut loops = lock(&self.loops);
        let due = loops.next.is_none_or(|next| now >= next);
        if due {
            loops.wait = (loops.wait * 2).clamp(FIRST_LOOP_CHECK, LONGEST_LOOP_CHECK);
            loops.next = Some(now + loops.wait);
        }
        due
    }

    /// How often a query of the loop check has come back.
    pub(super) fn loops_seen(&self) -> u32 {
        lock(&self.loops).seen
    }

    /// The first label of the name by which the loop check asks this server, in wire form.
    pub fn loop_token(&self) -> [u8; LOOP_TOKEN] {
        let mut label = [16; LOOP_TOKEN];
        for (at, byte) in label[1..].iter_mut().enumerate() {
            *byte = b"0123456789abcdef"[usize::from((self.token >> (4 * at)) as u8 & 0xf)];
        }
        label
    }

    /// Forgets that it led back to nodens.
    pub fn forgive_loop(&self, why: &str) {
        if self.looped.swap(false, Ordering::Relaxed) {
            self.becomes(self.state(), Kind::ForwardingLoopCleared, || why.to_owned());
        }
    }

    /// Whether its queries come back to nodens.
    pub fn is_looped(&self) -> bool {
        self.looped.load(Ordering::Relaxed)
    }

    /// How it stands, since when, and why.
    pub fn server_status(&self) -> ServerStatus {
        lock(&self.server_status).clone()
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
            return State::ForwardingLoop;
        }
        let is_failing = lock(&self.evidence).only_error().is_some();
        let health = self.health();
        match health.is_healthy() {
            false => State::Ejected,
            true if health.smoothed().is_none() => State::Unknown,
            true if is_failing => State::Failing,
            true if health.degraded() => State::Degraded,
            true => State::Healthy,
        }
    }

    /// Takes down a new state and tells of it, unless another worker has made it untrue in the meantime: so what is
    /// told, what the gauge shows and what is true are the same in the end.
    fn becomes(&self, state: State, kind: Kind, reason: impl FnOnce() -> String) {
        let mut server_status = lock(&self.server_status);
        if server_status.state == state || self.state() != state {
            return;
        }
        let reason = reason();
        *server_status = ServerStatus::new(state, reason.as_str());
        self.metrics.healthy.set(i64::from(state.is_good()));
        self.tell(kind, reason);
    }

    /// It has become, or is no more, far slower than the fastest of its group.
    pub(super) fn degraded_changed(&self, best: Duration) {
        let smoothed = self.health().smoothed().unwrap_or_default();
        let reason = || format!("{smoothed:.1?}, and the fastest one takes {best:.1?}");
        match self.state() {
            State::Degraded => self.becomes(State::Degraded, Kind::Degraded, reason),
            State::Healthy => self.becomes(State::Healthy, Kind::NoLongerDegraded, reason),
            State::Unknown | State::Failing | State::Ejected | State::ForwardingLoop => {}
        }
    }

    fn tell(&self, kind: Kind, reason: String) {
        self.metrics.tell(wall_clock(), kind, reason);
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }
}

/// What the loop check has seen.
#[derive(Debug, Default)]
struct Loops {
    /// Queries of it that came back.
    seen: u32,
    /// When it is checked again, and how long after the last time.
    next: Option<Instant>,
    wait: Duration,
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

        (0..2 * EJECT_AFTER).for_each(|_| server.failed(FailureKind::Timeout, Transport::Udp, Lost::Probe));
        assert_eq!((told(), healthy(), server.server_status().state), (vec![Kind::Ejected], 0, State::Ejected));
        server.leads_back();
        server.leads_back();
        assert_eq!((healthy(), server.server_status().state), (0, State::ForwardingLoop));
        // While it leads back, a reply does not make it well; forgiven, it is what it would be without.
        server.replied(Instant::now(), Duration::from_millis(1), true);
        assert_eq!((healthy(), server.server_status().state), (0, State::ForwardingLoop));
        (0..EJECT_AFTER).for_each(|_| server.failed(FailureKind::Timeout, Transport::Udp, Lost::Probe));
        server.forgive_loop("");
        server.forgive_loop("");
        assert_eq!((healthy(), server.server_status().state), (0, State::Ejected));
        // It was back only a moment ago, so one reply is no proof.
        let later = |n: u32| Instant::now() + Duration::from_secs(n.into());
        (0..MOST_PROOF).for_each(|n| server.replied(later(n), Duration::ZERO, true));
        assert_eq!((healthy(), server.server_status().state), (1, State::Healthy));
        assert_eq!(told(), [Kind::Ejected, Kind::ForwardingLoop, Kind::ForwardingLoopCleared, Kind::Recovered]);
        assert_eq!(server.recoveries.load(Ordering::Relaxed), 1);
    }
}
