//! State of one server that all workers share. Sockets belong to each worker.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::capability::{Capability, HOLDS_FOR};
use super::evidence::Evidence;
use super::failure::FailureKind;
use super::health::{EJECT_AFTER, EJECT_LOSING, Health, HealthChange, UnansweredAttempt};
use super::latency_window::Latencies;
use super::question::Question;
use super::race::Candidate;
use super::server_status::{RecentFailures, ServerState, ServerStatus, wall_clock};
use super::transport::Transport;
use crate::metrics::ServerMetrics;
use crate::metrics::events::EventKind;
use crate::wire::name::Name;

/// Time from the detection of a forwarding loop to the first check whether it persists; each later interval is twice as
/// long.
const FIRST_LOOP_CHECK: Duration = Duration::from_secs(1);
/// Maximum interval between these checks.
const LONGEST_LOOP_CHECK: Duration = Duration::from_secs(5);

/// Length in bytes of the first label in the names of the loop check: the token of the server.
pub const LOOP_TOKEN: usize = 17;
/// Length in bytes of the second label, which is random: no cache on the way has seen the name before.
pub const LOOP_NONCE: usize = 9;
/// Third label; a zone of the server follows.
pub const LOOP_LABEL: &[u8] = b"\x0aloop-check";

/// One server of an upstream.
#[derive(Debug)]
pub struct Server {
    /// Address that it listens on.
    pub address: SocketAddr,
    /// Name required in its TLS certificate; such a server is queried over TLS only. `None`: it is queried in clear text.
    pub tls_host: Option<String>,
    /// Name of the group.
    pub group: String,
    /// Metrics of the server.
    pub metrics: ServerMetrics,
    health: Mutex<Health>,
    recoveries: Arc<AtomicU32>,
    evidence: Mutex<Evidence>,
    /// Preservation of random letter case in responses.
    letter_case: Mutex<Capability>,
    preserves_case: AtomicBool,
    /// Support of queries with an OPT record.
    edns: Mutex<Capability>,
    /// Forwarding loop: its answers come from nodens itself.
    looped: AtomicBool,
    loops: Mutex<Loops>,
    /// Random value that only queries of the loop check contain.
    token: u64,
    server_status: Mutex<ServerStatus>,
    last_failures: Mutex<RecentFailures>,
}

impl Server {
    /// Creates a server without a response so far.
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
            server_status: Mutex::new(ServerStatus::new(ServerState::Unknown, "no response yet")),
            last_failures: Mutex::default(),
        }
    }

    /// Returns the transport that the server is queried over first.
    pub(crate) fn transport(&self) -> Transport {
        if self.tls_host.is_some() { Transport::Tls } else { Transport::Udp }
    }

    /// Returns the server's parameters for the race.
    pub fn candidate(&self) -> Candidate {
        let health = self.health();
        Candidate {
            hedge_after: health.hedge_after(),
            timeout: health.attempt_timeout(),
            edns: self.takes_edns(Instant::now()),
            transport: self.transport(),
            healthy: health.takes_queries(),
        }
    }

    /// Records a response at `now`, good or bad, after `latency`, to a client's query or to a `probe`.
    pub fn responded(&self, now: Instant, latency: Duration, probe: bool) {
        self.metrics.duration.observe(latency.as_secs_f64());
        let (change, smoothed, is_first) = {
            let mut health = self.health();
            let is_first = health.smoothed().is_none();
            (health.responded(now, latency, probe), health.smoothed(), is_first)
        };
        self.metrics.smoothed.set(smoothed.unwrap_or_default().as_secs_f64());
        if is_first {
            self.is_heard_of();
        }
        if let Some(HealthChange::Recovered(after)) = change
            && !self.is_looped()
        {
            self.recoveries.fetch_add(1, Ordering::Relaxed);
            self.becomes(self.state(), EventKind::Recovered, || {
                let by = match probe {
                    _ if latency > after => "a late response to an earlier query",
                    true => "a probe was answered",
                    false => "a client's query of last resort was answered",
                };
                format!("after {:.3} s: {by}", after.as_secs_f64())
            });
        }
    }

    /// Records the first response. It raises no event, because it is expected.
    fn is_heard_of(&self) {
        let mut server_status = lock(&self.server_status);
        if server_status.state == ServerState::Unknown && self.state() == ServerState::Healthy {
            self.show(&mut server_status, ServerState::Healthy, "it responded");
        }
    }

    /// Records an answer to a client's query.
    pub(super) fn answered(&self) {
        lock(&self.evidence).answered();
        self.gives_answers();
    }

    /// Records an error in response to a client's query.
    pub(super) fn gave_error(&self) {
        let is_doubtful = {
            let mut evidence = lock(&self.evidence);
            evidence.gave_error();
            evidence.is_doubtful()
        };
        // Some servers respond SERVFAIL or REFUSED to any query with EDNS.
        if is_doubtful {
            self.edns_is_doubted();
        }
    }

    /// Records the response to a probe.
    pub(super) fn answered_probe(&self, question: &Question, error: Option<FailureKind>) {
        let only = {
            let mut evidence = lock(&self.evidence);
            evidence.answered_probe(question, error);
            evidence.only_error()
        };
        match only {
            Some(error) => self.becomes(ServerState::Failing, EventKind::Failing, || {
                format!("{} to everything, to a probe too", error.words())
            }),
            None => self.gives_answers(),
        }
    }

    fn gives_answers(&self) {
        if lock(&self.server_status).state == ServerState::Failing {
            self.becomes(self.state(), EventKind::NoLongerFailing, || {
                "it gave an answer after errors alone".to_owned()
            });
        }
    }

    /// Returns the question to probe with: see [`Evidence::probe`].
    pub(super) fn probe_question(&self, zone: &Name, well: Option<Question>) -> Question {
        lock(&self.evidence).probe(zone, well)
    }

    /// Records a failed attempt. An error response does not count against the server's health, nor does an attempt that
    /// was never sent. `silence` is the kind of loss if nothing came.
    pub fn failed(&self, kind: FailureKind, transport: Transport, silence: UnansweredAttempt) {
        self.metrics.failed(kind.label());
        if kind.is_reply() || !kind.is_servers() {
            return;
        }
        lock(&self.last_failures).push(kind);
        let (change, in_a_row) = {
            let mut health = self.health();
            let is_told = kind != FailureKind::Timeout && transport != Transport::Tcp;
            let what = if is_told { UnansweredAttempt::Told } else { silence };
            (health.failed(Instant::now(), rand::random(), what), health.streak())
        };
        if change == Some(HealthChange::Ejected) {
            self.metrics.ejections.inc();
            self.becomes(ServerState::Ejected, EventKind::Ejected, || {
                let last = lock(&self.last_failures).words();
                match in_a_row >= EJECT_AFTER {
                    true => format!("{EJECT_AFTER} failures in a row: {last}"),
                    false => format!("{EJECT_LOSING} failures among 32 attempts, the last ones: {last}"),
                }
            });
        }
    }

    /// Counts a timeout that is no evidence against the server's health: it was busy with other queries.
    pub(super) fn kept_waiting(&self) {
        self.metrics.failed(FailureKind::Timeout.label());
    }

    /// Counts a failure at once if it is a fault of this machine; returns it.
    pub(super) fn count_local(&self, kind: FailureKind) -> FailureKind {
        if let FailureKind::Local(fault) = kind {
            self.metrics.local_fault(fault.index(), wall_clock());
        }
        kind
    }

    /// Returns whether a probe is due now, and if so schedules the next one. `in_use`: see [`super::Group::in_use`].
    pub fn probe_due(&self, now: Instant, in_use: bool) -> bool {
        let is_doubtful = lock(&self.evidence).is_doubtful();
        self.health().probe_due(now, rand::random(), in_use, is_doubtful)
    }

    /// Records that this machine could not send the last probe.
    pub fn was_not_probed(&self) {
        self.health().was_not_probed();
    }

    /// Estimates the time that one more query would have to wait for its response.
    pub(super) fn load(&self) -> Duration {
        let waiting = u32::try_from(self.metrics.in_flight.get()).unwrap_or(0);
        self.health().smoothed().unwrap_or_default() * waiting.saturating_add(1)
    }

    /// Reports whether the server is neither ejected nor a forwarding loop.
    pub fn is_healthy(&self) -> bool {
        !self.is_looped() && self.health().is_healthy()
    }

    /// Reports whether clients' queries go to this server before they go to others.
    pub fn takes_queries(&self) -> bool {
        !self.is_looped() && self.health().takes_queries()
    }

    /// Reports whether the server gives answers, as far as is known. Before its first response it counts if nothing has
    /// failed.
    pub fn is_promising(&self) -> bool {
        let state = self.server_status().state;
        state.is_good() || state == ServerState::Unknown && self.health().streak() == 0
    }

    /// Reports whether the server is suspected of losing packets.
    pub(super) fn is_losing(&self) -> bool {
        self.health().is_losing()
    }

    /// Returns the time to wait for the response to a probe.
    pub(super) fn probe_timeout(&self) -> Duration {
        self.health().probe_timeout()
    }

    /// Reports whether the server is ejected and has not responded since.
    pub fn is_silent(&self) -> bool {
        self.health().is_silent()
    }

    /// Reports whether the server has responded since `then`.
    pub fn has_answered_since(&self, then: Instant) -> bool {
        self.health().has_answered_since(then)
    }

    /// Reports whether to send random letter case to the server.
    pub fn takes_random_case(&self, now: Instant) -> bool {
        lock(&self.letter_case).is_there(now)
    }

    /// Reports whether to send EDNS to the server.
    pub fn takes_edns(&self, now: Instant) -> bool {
        lock(&self.edns).is_there(now)
    }

    /// Returns the remaining times for which the server is queried without EDNS and without random letter case.
    pub fn retreats(&self, now: Instant) -> [Option<Duration>; 2] {
        [&self.edns, &self.letter_case]
            .map(|capability| lock(capability).off_until(now).map(|until| until.saturating_duration_since(now)))
    }

    /// Records a response in other letters than the query: from a server that folds them, or a forgery. That is no proof,
    /// and schedules a check.
    pub fn case_is_doubted(&self) {
        lock(&self.letter_case).doubt();
    }

    /// Returns whether a check of letter case is due now, and if so schedules the next one.
    pub fn case_check_due(&self, now: Instant) -> bool {
        lock(&self.letter_case).check_due(now)
    }

    /// Records the true response to such a check: `folded` if it came in other letters.
    pub fn case_was_checked(&self, folded: bool, now: Instant) {
        if lock(&self.letter_case).was_checked(folded, now) {
            self.report_retreat(EventKind::RandomCaseOff, "checks came back in other letters");
        }
    }

    /// Records a response to a query in random letter case: see [`Evidence::observe_case`].
    pub(super) fn observe_case(&self, has_data: bool, question: &Question) {
        self.preserves_case.fetch_or(has_data, Ordering::Relaxed);
        lock(&self.evidence).observe_case(has_data, question);
    }

    /// Reports whether the server has given data to a query in random letter case.
    pub(super) fn preserves_case(&self) -> bool {
        self.preserves_case.load(Ordering::Relaxed)
    }

    /// Returns the question to ask in lower case, if a check is due whether the server finds names in lower case only.
    pub fn lower_case_check(&self) -> Option<Question> {
        lock(&self.evidence).lower_case_check()
    }

    /// Turns random letter case off: the server repeatedly answered in lower case what it denied in other letters.
    pub fn needs_lower_case(&self, now: Instant) {
        lock(&self.letter_case).turn_off(now);
        self.report_retreat(EventKind::RandomCaseOff, "it knows names in lower case alone");
    }

    /// Records that the server answered without EDNS what it did not answer with EDNS. The cause may be the server, the
    /// name or two lost datagrams, so this is no proof, and schedules a check.
    pub fn edns_is_doubted(&self) {
        lock(&self.edns).doubt();
    }

    /// Returns whether a check of EDNS is due now, and if so schedules the next one.
    pub fn edns_check_due(&self, now: Instant) -> bool {
        lock(&self.edns).check_due(now)
    }

    /// Records the result of an EDNS check: `lacking` if the question was answered only without EDNS.
    pub fn edns_was_checked(&self, lacking: bool, now: Instant) {
        if lock(&self.edns).was_checked(lacking, now) {
            self.report_retreat(EventKind::EdnsOff, "checks were answered only without");
        }
    }

    /// Raises an event: a capability is not used for a while.
    fn report_retreat(&self, kind: EventKind, why: &str) {
        self.record_event(kind, format!("{why}; for {} min", HOLDS_FOR.as_secs() / 60));
    }

    /// Marks the server as a forwarding loop: a query that only nodens sends came back to nodens through it.
    pub fn loops_back(&self) {
        {
            let mut loops = lock(&self.loops);
            loops.seen = loops.seen.saturating_add(1);
        }
        if !self.looped.swap(true, Ordering::Relaxed) {
            *lock(&self.loops) =
                Loops { seen: 1, next: Some(Instant::now() + FIRST_LOOP_CHECK), wait: FIRST_LOOP_CHECK };
            self.becomes(ServerState::ForwardingLoop, EventKind::ForwardingLoop, || {
                "a query of the loop check came back".to_string()
            });
        }
    }

    /// Returns whether to check now if the forwarding loop persists, and if so schedules the next check.
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

    /// Returns the number of queries of the loop check that have come back.
    pub(super) fn loops_seen(&self) -> u32 {
        lock(&self.loops).seen
    }

    /// Returns the first label of the names in the loop check of this server, in wire form.
    pub fn loop_token(&self) -> [u8; LOOP_TOKEN] {
        let mut label = [16; LOOP_TOKEN];
        for (at, byte) in label[1..].iter_mut().enumerate() {
            *byte = b"0123456789abcdef"[usize::from((self.token >> (4 * at)) as u8 & 0xf)];
        }
        label
    }

    /// Clears the forwarding loop.
    pub fn clear_loop(&self, why: &str) {
        if self.looped.swap(false, Ordering::Relaxed) {
            self.becomes(self.state(), EventKind::ForwardingLoopCleared, || why.to_owned());
        }
    }

    /// Reports whether the server's queries come back to nodens.
    pub fn is_looped(&self) -> bool {
        self.looped.load(Ordering::Relaxed)
    }

    /// Returns the state of the server, with time and reason.
    pub fn server_status(&self) -> ServerStatus {
        lock(&self.server_status).clone()
    }

    /// Returns the smoothed latency, and the latencies of the last minute.
    pub fn latencies(&self, now: Instant) -> (Option<Duration>, Latencies) {
        let mut health = self.health();
        (health.smoothed(), health.last_minute(now))
    }

    /// Returns the time of the next probe, if one is scheduled.
    pub fn next_probe(&self) -> Option<Instant> {
        self.health().next_probe()
    }

    fn state(&self) -> ServerState {
        if self.is_looped() {
            return ServerState::ForwardingLoop;
        }
        let is_failing = lock(&self.evidence).only_error().is_some();
        let health = self.health();
        match health.is_healthy() {
            false => ServerState::Ejected,
            true if health.smoothed().is_none() => ServerState::Unknown,
            true if is_failing => ServerState::Failing,
            true if health.degraded() => ServerState::Degraded,
            true => ServerState::Healthy,
        }
    }

    /// Sets a new state and raises an event, unless another worker has outdated the state meanwhile. In the end the
    /// event, the gauge and the actual state agree.
    fn becomes(&self, state: ServerState, kind: EventKind, reason: impl FnOnce() -> String) {
        let mut server_status = lock(&self.server_status);
        if server_status.state == state || self.state() != state {
            return;
        }
        let reason = reason();
        self.show(&mut server_status, state, &reason);
        // The page of the state and that of the events then show one time.
        self.metrics.record_event(server_status.since_unix, kind, reason);
    }

    /// Stores a state and shows it in the gauge. A server without a response so far is shown as healthy, as at its creation.
    fn show(&self, server_status: &mut ServerStatus, state: ServerState, reason: &str) {
        *server_status = ServerStatus::new(state, reason);
        self.metrics.healthy.set(i64::from(state.is_good() || state == ServerState::Unknown));
    }

    /// Updates the state after the server became, or ceased to be, far slower than the fastest one of its group.
    pub(super) fn degraded_changed(&self, best: Duration) {
        let smoothed = self.health().smoothed().unwrap_or_default();
        let reason = || format!("{smoothed:.1?}, and the fastest one takes {best:.1?}");
        match self.state() {
            ServerState::Degraded => self.becomes(ServerState::Degraded, EventKind::Degraded, reason),
            ServerState::Healthy => self.becomes(ServerState::Healthy, EventKind::NoLongerDegraded, reason),
            ServerState::Unknown | ServerState::Failing | ServerState::Ejected | ServerState::ForwardingLoop => {}
        }
    }

    fn record_event(&self, kind: EventKind, reason: String) {
        self.metrics.record_event(wall_clock(), kind, reason);
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }
}

/// Results of the loop check.
#[derive(Debug, Default)]
struct Loops {
    /// Queries of the loop check that came back.
    seen: u32,
    /// Time of the next check, and the interval before it.
    next: Option<Instant>,
    wait: Duration,
}

/// Locks `mutex`, even if a thread has panicked: the guarded state is consistent between any two calls.
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
        // Another worker has outdated this state.
        server.becomes(ServerState::Ejected, EventKind::Ejected, String::new);
        assert_eq!((told(), healthy()), (vec![], 1));

        (0..2 * EJECT_AFTER)
            .for_each(|_| server.failed(FailureKind::Timeout, Transport::Udp, UnansweredAttempt::Probe));
        assert_eq!(
            (told(), healthy(), server.server_status().state),
            (vec![EventKind::Ejected], 0, ServerState::Ejected)
        );
        server.loops_back();
        server.loops_back();
        assert_eq!((healthy(), server.server_status().state), (0, ServerState::ForwardingLoop));
        // While the server is a forwarding loop, a response does not make it healthy. Afterwards its other state applies.
        server.responded(Instant::now(), Duration::from_millis(1), true);
        assert_eq!((healthy(), server.server_status().state), (0, ServerState::ForwardingLoop));
        (0..EJECT_AFTER).for_each(|_| server.failed(FailureKind::Timeout, Transport::Udp, UnansweredAttempt::Probe));
        server.clear_loop("");
        server.clear_loop("");
        assert_eq!((healthy(), server.server_status().state), (0, ServerState::Ejected));
        // It recovered a short time ago, so one response is not enough.
        let later = |n: u32| Instant::now() + Duration::from_secs(n.into());
        (0..MOST_PROOF).for_each(|n| server.responded(later(n), Duration::ZERO, true));
        assert_eq!((healthy(), server.server_status().state), (1, ServerState::Healthy));
        assert_eq!(
            told(),
            [EventKind::Ejected, EventKind::ForwardingLoop, EventKind::ForwardingLoopCleared, EventKind::Recovered]
        );
        assert_eq!(server.recoveries.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_loop_before_the_first_response_leaves_no_mark() {
        let metrics = Metrics::new().expect("metrics");
        let address: SocketAddr = "192.0.2.1:53".parse().expect("an address");
        let server = Server::new("up", address, None, metrics.server("up", "192.0.2.1:53"), Arc::default());
        let shown = || (server.metrics.healthy.get(), server.server_status().state);
        assert_eq!(shown(), (1, ServerState::Unknown));
        server.loops_back();
        assert_eq!(shown(), (0, ServerState::ForwardingLoop));
        server.clear_loop("");
        assert_eq!(shown(), (1, ServerState::Unknown));
        server.responded(Instant::now(), Duration::from_millis(1), true);
        assert_eq!(shown(), (1, ServerState::Healthy));
    }
}
