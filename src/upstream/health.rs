//! One server's health: a pure state machine, time is an argument.
//!
//! ```text
//!      3 attempts in a row lost, or 8 of the last 32        a probe is lost too
//! taking ─────────────────────────────────────► suspect ───────────────────► ejected ── probes, 200 ms after, then ever
//!    ▲  ◄──────────────────────────────────────    │                            │   less often to 1.2 s; once one is
//!    │          probes are answered                                             │   answered, every 50 ms
//!    ├──────────────────────────────────────────────────────────────────────────┘
//!    │         as many replies in a row as it has to prove
//!    │    far slower than another server of its group
//!    └────────────────────────────────────────────────► degraded ── probes, every 500 ms
//! ```
//!
//! - Latency: an exponentially smoothed mean for the order of servers, and a sliding window of the last replies for the
//!   "usual worst" (95th percentile), after which a second server is asked and, times a factor, the attempt is overdue.
//! - Failures: a timeout, a refused port or a broken network count; after a run of them, or many among few, other servers
//!   are asked first. Whether it is the server or the names, a probe decides: one that it does not answer ejects it. A name
//!   counts once, however often it is asked, and not in the run if something else was answered meanwhile: it may be lame or
//!   slow where the server is well. A response code such as SERVFAIL does not count: one broken zone says nothing of the
//!   server, and going on to the next one costs no time.
//! - An ejected server is asked by probes only, at jittered intervals; a good reply brings it back, as does one to a
//!   client's query that comes late but in bearable time. So no client waits for it, and it is back within two seconds.
//!   One that was back only a moment ago, or loses packets, has to give several replies in a row: it may be flapping.
//! - One that is far slower than another is degraded where the order is otherwise that of the file, and probed as well.
//! - A new server is probed at once, and one that was silent last.
//! - Of a server that nobody has asked for a while, though its group is in use, a probe finds out how it is: before it
//!   is needed.

use std::time::Duration;

use tokio::time::Instant;

use super::latency_window::{Latencies, LatencyWindow};

/// Failures in a row that eject a server.
pub const EJECT_AFTER: u32 = 3;
/// Failures among the last 32 attempts that eject a server: a quarter.
pub const EJECT_LOSING: u32 = 8;
/// The first probe comes this long after the ejection, each later one after twice as long.
pub const FIRST_PROBE: Duration = Duration::from_millis(200);
/// The longest wait between probes; bounds how late a recovery is noticed.
pub const LONGEST_PROBE: Duration = Duration::from_millis(1_200);
/// The wait for the next probe once one was answered, but more replies are asked for.
const CONFIRM: Duration = Duration::from_millis(50);
/// Replies that come closer together are one proof: of a network that loses packets they tell no more.
const APART: Duration = Duration::from_millis(25);
/// The most replies in a row that an ejected server has to give.
pub const MOST_PROOF: u32 = 8;
/// Probes that a server answers which was suspected of losing packets, until it is no more.
const CLEARED_BY: u32 = 4;
/// A name that got no reply counts once in this time.
const COUNTS_ONCE: Duration = Duration::from_secs(10);
/// Names that are remembered for that.
const COUNTED: usize = 8;
/// The replies in a row that a server has to give which was ejected for losing packets now and then.
const PROOF_OF_LOSING: u32 = 4;
/// A server ejected again within this time after it came back has to give twice the proof.
const RELAPSE: Duration = Duration::from_secs(30);
/// A reply slower than this is no help to a client, so it does not bring a server back.
pub const BEARABLE: Duration = Duration::from_millis(1_000);
/// How long a reply may take that clients still wait for.
const LONGEST_REPLY: Duration = Duration::from_secs(4);
/// Interval between probes of a degraded server.
const SLOW_PROBE: Duration = Duration::from_millis(500);
/// How long a server of a group in use may be unheard of until it is probed.
pub const UNHEARD: Duration = Duration::from_secs(10);
/// Replies in the sliding window.
const WINDOW: usize = 64;
/// Bounds of the wait before a second server is asked.
pub const HEDGE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(150));
/// The wait before a second server is asked while nothing is known of the first.
const UNKNOWN_HEDGE: Duration = Duration::from_millis(40);
/// Bounds of an attempt's own timeout.
const ATTEMPT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1_000));
/// The attempt's timeout while nothing is known of the server.
const UNKNOWN_ATTEMPT: Duration = Duration::from_millis(200);

/// What is known of one server.
#[derive(Debug)]
pub struct Health {
    smoothed: Option<Duration>,
    window: [u32; WINDOW],
    samples: usize,
    usual_worst: Option<Duration>,
    /// The last attempts, the newest in the lowest bit; a bit that is set is one without a reply.
    lost: u32,
    streak: u32,
    /// Whether a probe, or the host itself, has agreed since the last reply.
    agreed: bool,
    /// It is suspected of losing packets.
    losing: Option<Losing>,
    /// Names that were counted, and when.
    counted: [Option<(u64, Instant)>; COUNTED],
    ejected: Option<Ejected>,
    /// What it had to give to come back, and when it was back.
    came_back: Option<(u32, Instant)>,
    degraded: bool,
    heard: Option<Instant>,
    answered: Option<Instant>,
    next_check: Option<Instant>,
    latency_window: LatencyWindow,
}

#[derive(Clone, Copy, Debug, Default)]
struct Losing {
    /// Probes sent since, one after the other, and how many were answered.
    sent: u32,
    answered: u32,
    /// A probe was lost since.
    agreed: bool,
}

/// An attempt without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A query for a name with this hash, and nothing at all came from the server meanwhile.
    Query(u64),
    /// The same, while others were answered.
    Beside(u64),
    /// A probe.
    Probe,
    /// The host or the network said that there is no server.
    Told,
}

#[derive(Clone, Copy, Debug)]
struct Ejected {
    since: Instant,
    wait: Duration,
    next_probe: Instant,
    /// Replies in a row that bring it back, and how many it has given.
    proof: u32,
    given: u32,
    /// When it gave the last of them.
    gave: Option<Instant>,
    /// A probe was sent after the last reply.
    asked: bool,
}

/// A change that deserves a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// No more queries of clients go there.
    Ejected,
    /// It takes queries again, after this long.
    Recovered(Duration),
}

impl Health {
    /// A server of which nothing is known; it counts as healthy.
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

    /// A reply came after `latency`, to a client's query or to a `probe`.
    pub fn replied(&mut self, now: Instant, latency: Duration, probe: bool) -> Option<Change> {
        (self.streak, self.agreed) = (0, false);
        if let Some(losing) = self.losing.as_mut() {
            losing.answered = losing.sent.min(losing.answered + u32::from(probe));
            if losing.answered >= CLEARED_BY {
                (self.losing, self.lost) = (None, 0);
            }
        }
        if latency >= self.attempt_timeout() && latency <= BEARABLE {
            // Its attempt was counted as lost, and is not.
            self.lost &= self.lost.wrapping_sub(1);
        } else {
            self.lost <<= 1;
        }
        self.answered = Some(now);
        let unheard = self.heard.replace(now).is_some_and(|heard| now >= heard + UNHEARD / 2);
        // Of one that only probes ask, few replies have to tell.
        let weight = if self.degraded || self.ejected.is_some() || unheard { 2 } else { 8 };
        let smoothed = self.smoothed.map_or(latency, |mean| (mean * (weight - 1) + latency) / weight);
        self.smoothed = Some(smoothed);
        self.window[self.samples % WINDOW] = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.samples += 1;
        self.latency_window.record(now, latency);
        // Sorting the window for each reply would be waste; early on each reply matters.
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
        Some(Change::Recovered(now.saturating_duration_since(since)))
    }

    /// An attempt got no reply. `jitter` is a random number of 0..=1 that spreads the first probe.
    pub fn failed(&mut self, now: Instant, jitter: f64, what: Lost) -> Option<Change> {
        self.heard = Some(now);
        match what {
            Lost::Query(name) | Lost::Beside(name) if self.was_counted(name, now) => return None,
            Lost::Query(_) | Lost::Beside(_) => {}
            Lost::Probe | Lost::Told => {
                self.agreed = true;
                self.losing.iter_mut().for_each(|losing| losing.agreed = true);
            }
        }
        self.lost = self.lost << 1 | 1;
        if !matches!(what, Lost::Beside(_)) {
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
        Some(Change::Ejected)
    }

    /// Whether a name was counted a short time ago; from now on it is.
    fn was_counted(&mut self, name: u64, now: Instant) -> bool {
        let recent = |(_, at): &(u64, Instant)| now < *at + COUNTS_ONCE;
        if self.counted.iter().flatten().filter(|counted| recent(counted)).any(|(counted, _)| *counted == name) {
            return true;
        }
        self.counted.rotate_right(1);
        self.counted[0] = Some((name, now));
        false
    }

    /// Whether so much was lost that others are asked first, until a probe decides.
    pub fn is_suspect(&self) -> bool {
        self.streak >= EJECT_AFTER || self.losing.is_some()
    }

    /// Whether it is suspected of losing packets.
    pub fn is_losing(&self) -> bool {
        self.losing.is_some()
    }

    /// Whether a probe is due now; the next one is then set for later. `in_use`: its group was asked a moment ago.
    /// `is_doubtful`: it gives errors.
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
            // Time for the reply, however far away the server is: the next probe would end the run of replies.
            let reply = self.smoothed.map_or(FIRST_PROBE, |mean| (mean * 3).clamp(FIRST_PROBE, LONGEST_PROBE));
            let wait = if ejected.given == 0 { ejected.wait } else { reply };
            ejected.next_probe = now + jittered(wait, jitter);
            return true;
        }
        let due = match (self.next_check, self.heard) {
            // Nothing is known of it.
            (None, None) => true,
            (checked, _) if self.losing.is_some() => {
                let is_over = self.losing.is_some_and(|losing| losing.answered == losing.sent);
                is_over && checked.is_none_or(|checked| now >= checked + CONFIRM)
            }
            // The last thing heard of it was silence.
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

    /// The last probe was not sent: replies that it gave before are still in a row.
    pub fn was_not_probed(&mut self) {
        if let Some(ejected) = self.ejected.as_mut() {
            ejected.asked = false;
        }
        self.losing.iter_mut().for_each(|losing| losing.sent = losing.answered);
    }

    /// When the next probe is due, if the server is ejected.
    pub fn next_probe(&self) -> Option<Instant> {
        self.ejected.map(|ejected| ejected.next_probe)
    }

    /// Whether it is ejected and has given no sign of life since.
    pub fn is_silent(&self) -> bool {
        self.ejected.is_some_and(|ejected| ejected.given == 0)
    }

    /// Whether it has replied since then.
    pub fn has_answered_since(&self, then: Instant) -> bool {
        self.answered.is_some_and(|answered| answered > then)
    }

    /// Whether it is not ejected.
    pub fn is_healthy(&self) -> bool {
        self.ejected.is_none()
    }

    /// Whether clients' queries go there before they go to others.
    pub fn takes_queries(&self) -> bool {
        self.is_healthy() && !self.is_suspect()
    }

    /// How long a probe's reply is waited for. Clients do not wait for one that is suspect, so it may take its time; how it is
    /// is to be known soon all the same.
    pub fn probe_timeout(&self) -> Duration {
        match (self.ejected, self.usual_worst) {
            (Some(_), _) => BEARABLE,
            // Others are answered, so this one is late or lost soon.
            (None, _) if self.losing.is_some() => (self.attempt_timeout() * 2).min(BEARABLE / 2),
            // Nothing is known of it, so it may be slow.
            (None, None) => LONGEST_REPLY,
            // It always is.
            (None, Some(worst)) if worst >= BEARABLE => (worst * 2).min(LONGEST_REPLY),
            (None, Some(worst)) => (worst * 3).clamp(BEARABLE / 2, BEARABLE),
        }
    }

    /// Attempts in a row without a reply.
    pub fn streak(&self) -> u32 {
        self.streak
    }

    /// Whether it is degraded.
    pub fn degraded(&self) -> bool {
        self.degraded
    }

    /// Compares it with a server whose smoothed latency is `best`, and returns whether it is degraded: four times that and 10 ms
    /// more are too much. A degraded server recovers below twice that or 5 ms more.
    pub fn update_degraded(&mut self, best: Duration) -> bool {
        let (times, more) = match self.degraded {
            false => (4, Duration::from_millis(10)),
            true => (2, Duration::from_millis(5)),
        };
        self.degraded = self.smoothed.is_some_and(|mean| mean > (best * times).max(best + more));
        self.degraded
    }

    /// The smoothed latency; none before the first reply.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Its latencies in the last minute.
    pub fn last_minute(&mut self, now: Instant) -> Latencies {
        self.latency_window.latencies(now)
    }

    /// How long to wait for it before a second server is asked as well.
    pub fn hedge_after(&self) -> Duration {
        self.usual_worst.map_or(UNKNOWN_HEDGE, |worst| worst.clamp(HEDGE.0, HEDGE.1))
    }

    /// How long to wait for it before the attempt counts as failed.
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

/// `wait` shortened by up to a third, so that probes of many nodes do not march in step and none is late.
fn jittered(wait: Duration, jitter: f64) -> Duration {
    wait.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn ejected_after_a_run_of_failures_probed_and_back_by_one_reply() {
        let start = Instant::now();
        let mut health = Health::new();
        assert_eq!(health.failed(start, 0.5, Lost::Query(0)), None);
        assert_eq!(health.replied(start, MS, false), None);
        for name in 1..=u64::from(EJECT_AFTER) {
            assert!(health.takes_queries());
            assert_eq!(health.failed(start, 0.5, Lost::Query(name)), None);
        }
        assert!(health.is_healthy() && !health.takes_queries());
        assert!(health.probe_due(start, 0.5, false, false));
        assert_eq!(health.failed(start, 0.5, Lost::Probe), Some(Change::Ejected));
        assert!(!health.is_healthy());

        let mut now = start;
        for _ in 0..20 {
            let next = health.next_probe().expect("ejected");
            assert!(next > now && next - now <= LONGEST_PROBE);
            assert!(!health.probe_due(next - MS, 0.5, false, false));
            assert!(health.probe_due(next, 0.5, false, false));
            now = next;
        }
        assert_eq!(health.replied(now, MS, true), Some(Change::Recovered(now - start)));
        assert!(health.takes_queries());
    }

    #[test]
    fn a_name_counts_once_and_a_probe_that_is_answered_clears_the_server() {
        let start = Instant::now();
        let mut health = Health::new();
        for _ in 0..10 {
            assert_eq!(health.failed(start, 0.5, Lost::Query(1)), None);
            assert_eq!(health.failed(start, 0.5, Lost::Query(2)), None);
        }
        assert!(health.takes_queries() && health.probe_due(start, 0.5, false, false));
        assert_eq!(health.failed(start, 0.5, Lost::Query(3)), None);
        assert!(health.is_suspect() && health.probe_due(start + FIRST_PROBE, 0.5, false, false));
        assert_eq!(health.replied(start, MS, true), None);
        assert!(health.takes_queries());
        // While others are answered, many names at last cast doubt on it, which probes dispel.
        for name in 10..40 {
            assert_eq!(health.failed(start, 0.5, Lost::Beside(name)), None);
        }
        assert!(health.is_suspect());
        for number in 1..=CLEARED_BY {
            assert!(health.is_suspect() && health.probe_due(start + number * CONFIRM + FIRST_PROBE, 0.5, false, false));
            assert_eq!(health.replied(start, MS, true), None);
        }
        assert!(health.takes_queries());
    }

    #[test]
    fn a_new_server_is_probed_at_once() {
        let start = Instant::now();
        let mut health = Health::new();
        assert!(health.probe_due(start, 0.5, false, false) && !health.probe_due(start + MS, 0.5, false, false));
        // The host says that nobody listens: that needs no other witness.
        for _ in 1..EJECT_AFTER {
            assert_eq!(health.failed(start, 0.5, Lost::Told), None);
        }
        assert_eq!(health.failed(start, 0.5, Lost::Told), Some(Change::Ejected));
    }

    #[test]
    fn a_late_reply_was_not_lost() {
        let start = Instant::now();
        let mut health = Health::new();
        (0..101).for_each(|_| _ = health.replied(start, MS, false));
        // It has become slower, which the window tells only after some replies.
        for name in 0..=u64::from(EJECT_LOSING) {
            let late = health.attempt_timeout() + MS;
            assert_eq!(health.failed(start, 0.5, Lost::Query(name)), None);
            assert_eq!(health.replied(start, late, false), None);
        }
        assert!(!health.is_suspect());
    }

    #[test]
    fn one_that_is_far_away_can_give_its_proof() {
        let (start, latency) = (Instant::now(), 300 * MS);
        let mut health = Health::new();
        // Each second one is lost, so that many replies in a row are asked for.
        for name in 0.. {
            health.replied(start, latency, false);
            health.failed(start, 0.5, Lost::Query(name));
            if health.is_suspect() {
                break;
            }
        }
        health.failed(start, 0.5, Lost::Probe);
        assert!(!health.is_healthy());
        let mut replies = std::collections::VecDeque::new();
        for now in (0..3_000).map(|ms| start + MS * ms) {
            if replies.front() == Some(&now) {
                replies.pop_front();
                health.replied(now, latency, true);
            }
            if health.is_healthy() {
                return;
            }
            if health.probe_due(now, 1.0, false, false) {
                replies.push_back(now + latency);
            }
        }
        panic!("it is still down: {health:?}");
    }

    #[test]
    fn usual_worst_is_the_95th_percentile() {
        let now = Instant::now();
        let mut health = Health::new();
        for i in 1..=64 {
            health.replied(now, MS * i, false);
        }
        assert_eq!(health.hedge_after(), MS * 61);
        assert_eq!(health.attempt_timeout(), MS * 183);
        for _ in 0..64 {
            health.replied(now, MS, false);
        }
        assert_eq!(health.hedge_after(), HEDGE.0);
        assert_eq!(health.attempt_timeout(), ATTEMPT.0);
    }
}
