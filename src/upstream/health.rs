//! One server's health: a pure state machine, time is an argument.
//!
//! - Latency: an exponentially smoothed mean for the order of servers, and a sliding window of the last replies for the
//!   "usual worst" (95th percentile), after which a second server is asked and, times a factor, the attempt is overdue.
//! - Failures: a timeout, a refused port or a broken network count; a run of them ejects the server. A response code
//!   such as SERVFAIL does not: one broken zone says nothing of the server, and going on to the next one costs no time.
//! - An ejected server is asked by probes only, at growing, jittered intervals; the first good reply brings it back, as
//!   does a late reply to a client's query. So no client waits for it, and it is back within two seconds.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that eject a server.
pub const EJECT_AFTER: u32 = 3;
/// The first probe comes this long after the ejection, each later one after twice as long.
pub const FIRST_PROBE: Duration = Duration::from_millis(200);
/// The longest wait between probes; bounds how late a recovery is noticed.
pub const LONGEST_PROBE: Duration = Duration::from_millis(1_500);
/// Replies in the sliding window.
const WINDOW: usize = 64;
/// The least wait before a second server is asked.
pub const LEAST_HEDGE: Duration = Duration::from_millis(5);
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
    streak: u32,
    ejected: Option<Ejected>,
}

#[derive(Clone, Copy, Debug)]
struct Ejected {
    since: Instant,
    wait: Duration,
    next_probe: Instant,
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
        Self { smoothed: None, window: [0; WINDOW], samples: 0, usual_worst: None, streak: 0, ejected: None }
    }

    /// A reply came after `latency`.
    pub fn replied(&mut self, now: Instant, latency: Duration) -> Option<Change> {
        self.streak = 0;
        let smoothed = self.smoothed.map_or(latency, |mean| (mean * 7 + latency) / 8);
        self.smoothed = Some(smoothed);
        self.window[self.samples % WINDOW] = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.samples += 1;
        // Sorting the window for each reply would be waste; early on each reply matters.
        if self.samples < 16 || self.samples.is_multiple_of(8) {
            self.usual_worst = Some(self.percentile_95());
        }
        self.ejected.take().map(|ejected| Change::Recovered(now.saturating_duration_since(ejected.since)))
    }

    /// An attempt got no reply. `jitter` is a random number of 0..=1 that spreads the first probe.
    pub fn failed(&mut self, now: Instant, jitter: f64) -> Option<Change> {
        self.streak = self.streak.saturating_add(1);
        if self.ejected.is_some() || self.streak < EJECT_AFTER {
            return None;
        }
        self.ejected = Some(Ejected { since: now, wait: FIRST_PROBE, next_probe: now + jittered(FIRST_PROBE, jitter) });
        Some(Change::Ejected)
    }

    /// Whether a probe is due now; the next one is then set for later.
    pub fn probe_due(&mut self, now: Instant, jitter: f64) -> bool {
        let Some(ejected) = self.ejected.as_mut().filter(|ejected| ejected.next_probe <= now) else { return false };
        ejected.wait = (ejected.wait * 2).min(LONGEST_PROBE);
        ejected.next_probe = now + jittered(ejected.wait, jitter);
        true
    }

    /// When the next probe is due, if the server is ejected.
    pub fn next_probe(&self) -> Option<Instant> {
        self.ejected.map(|ejected| ejected.next_probe)
    }

    /// Whether clients' queries go there.
    pub fn is_healthy(&self) -> bool {
        self.ejected.is_none()
    }

    /// The smoothed latency; none before the first reply.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// How long to wait for it before a second server is asked as well.
    pub fn hedge_after(&self) -> Duration {
        self.usual_worst.map_or(UNKNOWN_HEDGE, |worst| worst.max(LEAST_HEDGE))
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
        assert_eq!(health.failed(start, 0.5), None);
        assert_eq!(health.replied(start, MS), None);
        for _ in 1..EJECT_AFTER {
            assert_eq!(health.failed(start, 0.5), None);
        }
        assert_eq!(health.failed(start, 0.5), Some(Change::Ejected));
        assert!(!health.is_healthy());

        let mut now = start;
        for _ in 0..20 {
            let next = health.next_probe().expect("ejected");
            assert!(next > now && next - now <= LONGEST_PROBE);
            assert!(!health.probe_due(next - MS, 0.5));
            assert!(health.probe_due(next, 0.5));
            now = next;
        }
        assert_eq!(health.replied(now, MS), Some(Change::Recovered(now - start)));
        assert!(health.is_healthy());
    }

    #[test]
    fn usual_worst_is_the_95th_percentile() {
        let now = Instant::now();
        let mut health = Health::new();
        for i in 1..=64 {
            health.replied(now, MS * i);
        }
        assert_eq!(health.hedge_after(), MS * 61);
        assert_eq!(health.attempt_timeout(), MS * 183);
        for _ in 0..64 {
            health.replied(now, MS);
        }
        assert_eq!(health.hedge_after(), LEAST_HEDGE);
        assert_eq!(health.attempt_timeout(), ATTEMPT.0);
    }
}
