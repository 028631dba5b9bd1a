//! Health of one server: a pure state machine, time is an argument.
//!
//! ```text
//!          3 attempts in a row lost, or 8 of the last 32      a probe is lost too
//! healthy ────────────────────────────────────► suspect ───────────────────► ejected ── probes: first after up to 200 ms,
//!    ▲ ▲                                           │                            │       then at growing intervals up to
//!    │ └───────────────────────────────────────────┘                            │       1.2 s; after a response, 50 ms
//!    │          probes are answered                                             │
//!    ├──────────────────────────────────────────────────────────────────────────┘
//!    │          required number of responses in a row
//!    │
//!    │    far slower than another server of its group
//!    └────────────────────────────────────────────────► degraded ── probes, every 500 ms
//! ```
//!
//! - Latency: an exponentially smoothed mean for the order of servers, and a sliding window of the last responses for the
//!   "usual worst" latency (95th percentile). After that latency a second server is queried; after a multiple of it the
//!   attempt is overdue.
//! - Failures: timeouts, closed ports and network errors count. After a run of them, or many among few attempts, other
//!   servers are queried first. A probe decides between a failed server and failing names: a server that does not respond
//!   to it is ejected. A name counts once in 10 s, and not in the run if the server responded to another query meanwhile:
//!   the name's zone may be lame or slow. A response code such as SERVFAIL does not count: one broken zone is no evidence
//!   against the server, and moving on to the next server costs no time.
//! - Ejection: an ejected server is queried by probes, at jittered intervals, and by clients only as a last resort. A
//!   good response to a probe, or a late but bearable one to a client's query, ends the ejection. So no client waits for
//!   the server, and it is back within two seconds. A server that recovered a short time ago, or that loses packets, has
//!   to give several responses in a row, because it may be flapping.
//! - Degradation: with `select = "ordered"`, a server that is far slower than another is queried after the others, and
//!   probed.
//! - A new server is probed at once, and so is one whose last query got no response.
//! - A server that has been idle for 10 s is probed if its group is in use.

use std::time::Duration;

use tokio::time::Instant;

use super::latency_window::{Latencies, LatencyWindow};

/// Failures in a row after which a server is suspect, and ejected once a probe fails too.
pub const EJECT_AFTER: u32 = 3;
/// Failures among the last 32 attempts with the same effect: a quarter.
pub const EJECT_LOSING: u32 = 8;
/// Time from the ejection to the first probe; each later interval is twice as long.
pub const FIRST_PROBE: Duration = Duration::from_millis(200);
/// Maximum interval between probes; bounds the delay until a recovery is noticed.
pub const LONGEST_PROBE: Duration = Duration::from_millis(1_200);
/// Interval to the next probe after a response, while more responses are required.
const CONFIRM: Duration = Duration::from_millis(50);
/// Minimum distance of two responses that both count: on a lossy network, closer ones are no further evidence.
const APART: Duration = Duration::from_millis(25);
/// Maximum number of responses in a row that an ejected server has to give.
pub const MOST_PROOF: u32 = 8;
/// Responses to probes that clear a server of suspected packet loss.
const CLEARED_BY: u32 = 4;
/// Time in which a name without a response counts once.
const COUNTS_ONCE: Duration = Duration::from_secs(10);
/// Names that are remembered for `COUNTS_ONCE`.
const COUNTED: usize = 8;
/// Responses in a row that are required of a server which was ejected for packet loss.
const PROOF_OF_LOSING: u32 = 4;
/// Time after a recovery within which another ejection doubles the number of required responses.
const RELAPSE: Duration = Duration::from_secs(30);
/// Maximum latency of a response that ends an ejection; a slower one is of no use to clients.
pub const BEARABLE: Duration = Duration::from_millis(1_000);
/// Maximum latency of a response that clients still wait for.
const LONGEST_REPLY: Duration = Duration::from_secs(4);
/// Interval between probes of a degraded server.
const SLOW_PROBE: Duration = Duration::from_millis(500);
/// Time without traffic after which a server of a group in use is probed.
pub const UNHEARD: Duration = Duration::from_secs(10);
/// Responses in the sliding window.
const WINDOW: usize = 64;
/// Bounds of the delay before a second server is queried.
pub const HEDGE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(150));
/// Delay before a second server is queried, without any response of the first one so far.
const UNKNOWN_HEDGE: Duration = Duration::from_millis(40);
/// Bounds of the timeout of an attempt.
const ATTEMPT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1_000));
/// Timeout of an attempt, without any response of the server so far.
const UNKNOWN_ATTEMPT: Duration = Duration::from_millis(200);

/// Health of one server.
#[derive(Debug)]
pub struct Health {
    smoothed: Option<Duration>,
    window: [u32; WINDOW],
    samples: usize,
    usual_worst: Option<Duration>,
    /// Last 32 attempts, the newest in the lowest bit; a set bit is an attempt without a response.
    lost: u32,
    streak: u32,
    /// A probe has failed, or the host has refused, since the last response.
    agreed: bool,
    losing: Option<PacketLoss>,
    /// Names that were counted, and when.
    counted: [Option<(u64, Instant)>; COUNTED],
    ejected: Option<Ejected>,
    /// Responses that the last recovery took, and its time.
    came_back: Option<(u32, Instant)>,
    degraded: bool,
    heard: Option<Instant>,
    answered: Option<Instant>,
    next_check: Option<Instant>,
    latency_window: LatencyWindow,
}

#[derive(Clone, Copy, Debug, Default)]
struct PacketLoss {
    /// Probes sent since the suspicion arose, one after the other, and the number answered.
    sent: u32,
    answered: u32,
    /// A probe was lost since.
    agreed: bool,
}

/// Attempt without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnansweredAttempt {
    /// A query for a name with this hash, while the server sent nothing at all.
    Query(u64),
    /// A query for a name with this hash, while the server responded to other queries.
    Beside(u64),
    /// A query of nodens's own, sent to see whether a server recovered.
    Probe,
    /// The host or the network reported that there is no server.
    Told,
}

#[derive(Clone, Copy, Debug)]
struct Ejected {
    since: Instant,
    wait: Duration,
    next_probe: Instant,
    /// Responses in a row that end the ejection, and the number given so far.
    proof: u32,
    given: u32,
    /// Time of the last of them.
    gave: Option<Instant>,
    /// A probe was sent after the last response.
    asked: bool,
}

/// Change of state that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// Clients' queries go there only as a last resort.
    Ejected,
    /// It takes queries again, after an ejection of this length.
    Recovered(Duration),
}

impl Health {
    /// Creates the state of a server without a response so far; it counts as healthy.
    pub fn new() -> Self {
        Self {
            smoothed: None,
            window: [0; WINDOW],
            samples: 0,
            usual_worst: None,
            lost: 0,
            streak: 0,
            agreed: false,
            losing: None,
            counted: [None; COUNTED],
            ejected: None,
            came_back: None,
            degraded: false,
            heard: None,
            answered: None,
            next_check: None,
            latency_window: LatencyWindow::new(),
        }
    }

    /// Records a response after `latency`, to a client's query or to a `probe`.
    pub fn responded(&mut self, now: Instant, latency: Duration, probe: bool) -> Option<HealthChange> {
        (self.streak, self.agreed) = (0, false);
        if let Some(losing) = self.losing.as_mut() {
            losing.answered = losing.sent.min(losing.answered + u32::from(probe));
            if losing.answered >= CLEARED_BY {
                (self.losing, self.lost) = (None, 0);
            }
        }
        if latency >= self.attempt_timeout() && latency <= BEARABLE {
            // Late: clears the mark of its attempt, which was counted as lost.
            self.lost &= self.lost.wrapping_sub(1);
        } else {
            self.lost <<= 1;
        }
        self.answered = Some(now);
        let unheard = self.heard.replace(now).is_some_and(|heard| now >= heard + UNHEARD / 2);
        // A server that is queried rarely gives few responses, so each has more weight.
        let weight = if self.degraded || self.ejected.is_some() || unheard { 2 } else { 8 };
        let smoothed = self.smoothed.map_or(latency, |mean| (mean * (weight - 1) + latency) / weight);
        self.smoothed = Some(smoothed);
        self.window[self.samples % WINDOW] = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.samples += 1;
        self.latency_window.record(now, latency);
        // The percentile is updated for every response at first, then for every eighth one: it needs a sort.
        if self.samples < 16 || self.samples.is_multiple_of(8) {
            self.usual_worst = Some(self.percentile_95());
        }
        let ejected = self.ejected.as_mut().filter(|_| latency <= BEARABLE)?;
        ejected.asked = false;
        if ejected.gave.is_some_and(|gave| now < gave + APART) {
            return None;
        }
        ejected.gave = Some(now);
        ejected.given += 1;
        if ejected.given < ejected.proof {
            ejected.next_probe = now + CONFIRM;
            return None;
        }
        let since = ejected.since;
        self.came_back = Some((ejected.proof, now));
        self.ejected = None;
        (self.lost, self.losing) = (0, None);
        Some(HealthChange::Recovered(now.saturating_duration_since(since)))
    }

    /// Records an attempt without a response. `jitter` is a random number of 0..=1 that spreads the first probe.
    pub fn failed(&mut self, now: Instant, jitter: f64, what: UnansweredAttempt) -> Option<HealthChange> {
        self.heard = Some(now);
        match what {
            UnansweredAttempt::Query(name) | UnansweredAttempt::Beside(name) if self.was_counted(name, now) => {
                return None;
            }
            UnansweredAttempt::Query(_) | UnansweredAttempt::Beside(_) => {}
            UnansweredAttempt::Probe | UnansweredAttempt::Told => {
                self.agreed = true;
                self.losing.iter_mut().for_each(|losing| losing.agreed = true);
            }
        }
        self.lost = self.lost << 1 | 1;
        if !matches!(what, UnansweredAttempt::Beside(_)) {
            self.streak = self.streak.saturating_add(1);
        }
        if self.ejected.is_some() {
            return None;
        }
        if self.lost.count_ones() >= EJECT_LOSING {
            self.losing.get_or_insert_default();
        }
        let loses = self.losing.is_some_and(|losing| losing.agreed);
        if !(loses || self.agreed && self.streak >= EJECT_AFTER) {
            return None;
        }
        (self.losing, self.agreed) = (None, false);
        let relapse = self.came_back.filter(|(_, back)| now < *back + RELAPSE);
        let proof = relapse.map_or(1, |(proof, _)| (proof * 2).min(MOST_PROOF));
        let proof = if self.streak < EJECT_AFTER { proof.max(PROOF_OF_LOSING) } else { proof };
        let next_probe = now + jittered(FIRST_PROBE, jitter);
        self.ejected =
            Some(Ejected { since: now, wait: FIRST_PROBE, next_probe, proof, given: 0, gave: None, asked: false });
        Some(HealthChange::Ejected)
    }

    /// Returns whether a name was counted within `COUNTS_ONCE`; counts it otherwise.
    fn was_counted(&mut self, name: u64, now: Instant) -> bool {
        let recent = |(_, at): &(u64, Instant)| now < *at + COUNTS_ONCE;
        if self.counted.iter().flatten().filter(|counted| recent(counted)).any(|(counted, _)| *counted == name) {
            return true;
        }
        self.counted.rotate_right(1);
        self.counted[0] = Some((name, now));
        false
    }

    /// Reports whether other servers are queried first until a probe decides, because too many attempts failed.
    pub fn is_suspect(&self) -> bool {
        self.streak >= EJECT_AFTER || self.losing.is_some()
    }

    /// Reports whether the server is suspected of losing packets.
    pub fn is_losing(&self) -> bool {
        self.losing.is_some()
    }

    /// Returns whether a probe is due now, and if so schedules the next one. `in_use`: its group was queried a short time
    /// ago. `is_doubtful`: the server gives errors.
    pub fn probe_due(&mut self, now: Instant, jitter: f64, in_use: bool, is_doubtful: bool) -> bool {
        if let Some(ejected) = self.ejected.as_mut() {
            if now < ejected.next_probe {
                return false;
            }
            if std::mem::replace(&mut ejected.asked, true) {
                ejected.given = 0;
            }
            if ejected.given == 0 {
                ejected.wait = (ejected.wait * 2).min(LONGEST_PROBE);
            }
            // Leaves time for the response, however far away the server is: the next probe would end the run of
            // responses.
            let response = self.smoothed.map_or(FIRST_PROBE, |mean| (mean * 3).clamp(FIRST_PROBE, LONGEST_PROBE));
            let wait = if ejected.given == 0 { ejected.wait } else { response };
            ejected.next_probe = now + jittered(wait, jitter);
            return true;
        }
        let due = match (self.next_check, self.heard) {
            // A new server.
            (None, None) => true,
            (checked, _) if self.losing.is_some() => {
                let is_over = self.losing.is_some_and(|losing| losing.answered == losing.sent);
                is_over && checked.is_none_or(|checked| now >= checked + CONFIRM)
            }
            // The last event was a failure.
            (Some(checked), Some(heard)) if self.streak > 0 && checked > heard => now >= checked + FIRST_PROBE,
            (_, Some(_)) if self.streak > 0 => true,
            (checked, _) if is_doubtful => checked.is_none_or(|checked| now >= checked + SLOW_PROBE),
            (checked, heard) => {
                let wait = if self.degraded { SLOW_PROBE } else { UNHEARD };
                in_use && heard.max(checked).is_some_and(|since| now >= since + jittered(wait, jitter))
            }
        };
        if due {
            self.next_check = Some(now);
            self.losing.iter_mut().for_each(|losing| losing.sent += 1);
        }
        due
    }

    /// Records that the last probe was not sent: the run of responses before it continues.
    pub fn was_not_probed(&mut self) {
        if let Some(ejected) = self.ejected.as_mut() {
            ejected.asked = false;
        }
        self.losing.iter_mut().for_each(|losing| losing.sent = losing.answered);
    }

    /// Returns the time of the next probe, if the server is ejected.
    pub fn next_probe(&self) -> Option<Instant> {
        self.ejected.map(|ejected| ejected.next_probe)
    }

    /// Reports whether the server is ejected and has not responded since.
    pub fn is_silent(&self) -> bool {
        self.ejected.is_some_and(|ejected| ejected.given == 0)
    }

    /// Reports whether the server has responded since `then`.
    pub fn has_answered_since(&self, then: Instant) -> bool {
        self.answered.is_some_and(|answered| answered > then)
    }

    /// Reports whether the server is not ejected.
    pub fn is_healthy(&self) -> bool {
        self.ejected.is_none()
    }

    /// Reports whether clients' queries go to this server before they go to others.
    pub fn takes_queries(&self) -> bool {
        self.is_healthy() && !self.is_suspect()
    }

    /// Returns the time to wait for the response to a probe. Clients do not wait for a suspect server, so it may take
    /// longer than an attempt, but the result must come soon.
    pub fn probe_timeout(&self) -> Duration {
        match (self.ejected, self.usual_worst) {
            (Some(_), _) => BEARABLE,
            // The server responds to other queries, so this response comes soon or is lost.
            (None, _) if self.losing.is_some() => (self.attempt_timeout() * 2).min(BEARABLE / 2),
            // A new server may be slow.
            (None, None) => LONGEST_REPLY,
            // A slow server.
            (None, Some(worst)) if worst >= BEARABLE => (worst * 2).min(LONGEST_REPLY),
            (None, Some(worst)) => (worst * 3).clamp(BEARABLE / 2, BEARABLE),
        }
    }

    /// Returns the number of attempts in a row without a response.
    pub fn streak(&self) -> u32 {
        self.streak
    }

    /// Reports whether the server is degraded.
    pub fn degraded(&self) -> bool {
        self.degraded
    }

    /// Compares the server with one whose smoothed latency is `best`, and returns whether it is degraded: above both four
    /// times `best` and `best` plus 10 ms. A degraded server recovers below twice `best` or `best` plus 5 ms.
    pub fn update_degraded(&mut self, best: Duration) -> bool {
        let (times, more) = match self.degraded {
            false => (4, Duration::from_millis(10)),
            true => (2, Duration::from_millis(5)),
        };
        self.degraded = self.smoothed.is_some_and(|mean| mean > (best * times).max(best + more));
        self.degraded
    }

    /// Returns the smoothed latency; `None` before the first response.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Returns the latencies of the last minute.
    pub fn last_minute(&mut self, now: Instant) -> Latencies {
        self.latency_window.latencies(now)
    }

    /// Returns the delay before a second server is queried as well.
    pub fn hedge_after(&self) -> Duration {
        self.usual_worst.map_or(UNKNOWN_HEDGE, |worst| worst.clamp(HEDGE.0, HEDGE.1))
    }

    /// Returns the timeout of an attempt.
    pub fn attempt_timeout(&self) -> Duration {
        self.usual_worst.map_or(UNKNOWN_ATTEMPT, |worst| (worst * 3).clamp(ATTEMPT.0, ATTEMPT.1))
    }

    fn percentile_95(&self) -> Duration {
        let len = self.samples.min(WINDOW);
        let mut sorted = self.window;
        let sorted = &mut sorted[..len];
        sorted.sort_unstable();
        let at = (len * 95).div_ceil(100).saturating_sub(1);
        Duration::from_micros(sorted.get(at).copied().unwrap_or(0).into())
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// Shortens `wait` by up to a third. Probes of many nodes do not synchronize, and none is late.
fn jittered(wait: Duration, jitter: f64) -> Duration {
    wait.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn ejected_by_failures_back_after_one_response() {
        let start = Instant::now();
        let mut health = Health::new();
        assert_eq!(health.failed(start, 0.5, UnansweredAttempt::Query(0)), None);
        assert_eq!(health.responded(start, MS, false), None);
        for name in 1..=u64::from(EJECT_AFTER) {
            assert!(health.takes_queries());
            assert_eq!(health.failed(start, 0.5, UnansweredAttempt::Query(name)), None);
        }
        assert!(health.is_healthy() && !health.takes_queries());
        assert!(health.probe_due(start, 0.5, false, false));
        assert_eq!(health.failed(start, 0.5, UnansweredAttempt::Probe), Some(HealthChange::Ejected));
        assert!(!health.is_healthy());

        let mut now = start;
        for _ in 0..20 {
            let next = health.next_probe().expect("ejected");
            assert!(next > now && next - now <= LONGEST_PROBE);
            assert!(!health.probe_due(next - MS, 0.5, false, false));
            assert!(health.probe_due(next, 0.5, false, false));
            now = next;
        }
        assert_eq!(health.responded(now, MS, true), Some(HealthChange::Recovered(now - start)));
        assert!(health.takes_queries());
    }

    #[test]
    fn a_name_counts_once_and_a_probe_clears() {
        let start = Instant::now();
        let mut health = Health::new();
        for _ in 0..10 {
            assert_eq!(health.failed(start, 0.5, UnansweredAttempt::Query(1)), None);
            assert_eq!(health.failed(start, 0.5, UnansweredAttempt::Query(2)), None);
        }
        assert!(health.takes_queries() && health.probe_due(start, 0.5, false, false));
        assert_eq!(health.failed(start, 0.5, UnansweredAttempt::Query(3)), None);
        assert!(health.is_suspect() && health.probe_due(start + FIRST_PROBE, 0.5, false, false));
        assert_eq!(health.responded(start, MS, true), None);
        assert!(health.takes_queries());
        // While other queries are answered, many failed names make the server suspect, and answered probes clear it.
        for name in 10..40 {
            assert_eq!(health.failed(start, 0.5, UnansweredAttempt::Beside(name)), None);
        }
        assert!(health.is_suspect());
        for number in 1..=CLEARED_BY {
            assert!(health.is_suspect() && health.probe_due(start + number * CONFIRM + FIRST_PROBE, 0.5, false, false));
            assert_eq!(health.responded(start, MS, true), None);
        }
        assert!(health.takes_queries());
    }

    #[test]
    fn a_new_server_is_probed_at_once() {
        let start = Instant::now();
        let mut health = Health::new();
        assert!(health.probe_due(start, 0.5, false, false) && !health.probe_due(start + MS, 0.5, false, false));
        // A closed port reported by the host needs no confirmation by a probe.
        for _ in 1..EJECT_AFTER {
            assert_eq!(health.failed(start, 0.5, UnansweredAttempt::Told), None);
        }
        assert_eq!(health.failed(start, 0.5, UnansweredAttempt::Told), Some(HealthChange::Ejected));
    }

    #[test]
    fn a_late_reply_was_not_lost() {
        let start = Instant::now();
        let mut health = Health::new();
        (0..101).for_each(|_| _ = health.responded(start, MS, false));
        // It has become slower; the window follows only after some responses.
        for name in 0..=u64::from(EJECT_LOSING) {
            let late = health.attempt_timeout() + MS;
            assert_eq!(health.failed(start, 0.5, UnansweredAttempt::Query(name)), None);
            assert_eq!(health.responded(start, late, false), None);
        }
        assert!(!health.is_suspect());
    }

    #[test]
    fn one_that_is_far_away_can_give_its_proof() {
        let (start, latency) = (Instant::now(), 300 * MS);
        let mut health = Health::new();
        // Every second query is lost, so many responses in a row are required.
        for name in 0.. {
            health.responded(start, latency, false);
            health.failed(start, 0.5, UnansweredAttempt::Query(name));
            if health.is_suspect() {
                break;
            }
        }
        health.failed(start, 0.5, UnansweredAttempt::Probe);
        assert!(!health.is_healthy());
        let mut responses = std::collections::VecDeque::new();
        for now in (0..3_000).map(|ms| start + MS * ms) {
            if responses.front() == Some(&now) {
                responses.pop_front();
                health.responded(now, latency, true);
            }
            if health.is_healthy() {
                return;
            }
            if health.probe_due(now, 1.0, false, false) {
                responses.push_back(now + latency);
            }
        }
        panic!("it is still down: {health:?}");
    }

    #[test]
    fn usual_worst_is_the_95th_percentile() {
        let now = Instant::now();
        let mut health = Health::new();
        for i in 1..=64 {
            health.responded(now, MS * i, false);
        }
        assert_eq!(health.hedge_after(), MS * 61);
        assert_eq!(health.attempt_timeout(), MS * 183);
        for _ in 0..64 {
            health.responded(now, MS, false);
        }
        assert_eq!(health.hedge_after(), HEDGE.0);
        assert_eq!(health.attempt_timeout(), ATTEMPT.0);
    }
}
