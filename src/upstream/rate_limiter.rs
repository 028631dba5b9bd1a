//! Rate limit of a group (`max_qps`), and which queries are shed when it is nearly used up.
//!
//! Some resolvers silently drop queries above their limit: that of an AWS VPC drops packets above 1,024 a second for each
//! network interface. A sender above the limit loses queries at random. The rate limit prevents that:
//!
//! | used in the last second | questions already in flight | stale answers | other questions |
//! |---|---|---|---|
//! | below 80 % | wait for the response | only when servers fail | are sent |
//! | from 80 % | wait for the response | at once | are sent for clients below an equal share; heavier ones get SERVFAIL |
//! | from 95 % | wait for the response | at once | get SERVFAIL: the rest is for retries after failed attempts |
//!
//! From 80 % on there are no hedges and no prefetches. No query waits for the next second: a queue would only grow.
//!
//! Pure: time is an argument.

use std::net::IpAddr;

use foldhash::HashMap;

use crate::clock::Millis;

/// Tenths of a second that count: the last ten and the current one. So no second, wherever it begins, exceeds the limit.
const SLOTS: usize = 11;
/// Milliseconds of a slot.
const SLOT: Millis = 100;
/// Percentage used from which on only questions of light clients are sent.
const NEAR: u64 = 80;
/// Percentage used from which on only retries of queries in flight are sent.
const NEARLY_SPENT: u64 = 95;
/// Maximum number of clients with a counter; further ones count as light.
const MOST_CLIENTS: usize = 4_096;
/// Minimum interval between log lines, in milliseconds.
const CHANGE_EVERY: Millis = 10_000;

/// Queries of the last second, and questions by client.
#[derive(Debug)]
pub struct RateLimiter {
    limit: u32,
    slots: [u32; SLOTS],
    /// Number of the current slot, counted from time 0.
    slot: u64,
    /// Sum of the slots.
    used: u32,
    /// Questions by client: a counter that is halved every second.
    clients: HashMap<IpAddr, u32>,
    second: u64,
    told: Option<Millis>,
}

/// Decision on a question that is not in flight yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateDecision {
    /// Send the query: the server's budget allows it.
    Ask,
    /// Send it, unless there is a stale answer.
    AskUnlessStale,
    /// Serve a stale answer, or SERVFAIL.
    Shed,
}

/// Content of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShedLevel {
    /// Queries sent in the last second.
    pub used: u32,
    /// Client with most questions, and their number.
    pub heaviest: Option<(IpAddr, u32)>,
}

impl RateLimiter {
    /// Creates a limit of `limit` queries in any second.
    pub fn new(limit: u32) -> Self {
        Self { limit, slots: [0; SLOTS], slot: 0, used: 0, clients: HashMap::default(), second: 0, told: None }
    }

    /// Decides on a question that needs a query, for `client` or for no particular one.
    pub fn admit(&mut self, now: Millis, client: Option<IpAddr>) -> RateDecision {
        self.advance(now);
        let asked = client.map_or(0, |client| self.count(client));
        let share = u64::from(self.used) * 100 / u64::from(self.limit.max(1));
        if share >= NEARLY_SPENT {
            RateDecision::Shed
        } else if share < NEAR {
            RateDecision::Ask
        } else if client.is_some() && asked <= self.fair_share() {
            RateDecision::AskUnlessStale
        } else {
            RateDecision::Shed
        }
    }

    /// Returns the queries sent in the last second.
    pub fn used(&mut self, now: Millis) -> u32 {
        self.advance(now);
        self.used
    }

    /// Reports whether there is room for dispensable queries: hedges and prefetches.
    pub fn below_threshold(&mut self, now: Millis) -> bool {
        self.advance(now);
        u64::from(self.used) * 100 < NEAR * u64::from(self.limit)
    }

    /// Takes one query from the limit; returns whether one was left.
    pub fn try_acquire(&mut self, now: Millis) -> bool {
        self.advance(now);
        if self.used >= self.limit {
            return false;
        }
        self.slots[(self.slot % SLOTS as u64) as usize] += 1;
        self.used += 1;
        true
    }

    /// Returns the content of a log line, at most every ten seconds.
    pub fn level_change(&mut self, now: Millis) -> Option<ShedLevel> {
        if self.told.is_some_and(|told| now < told + CHANGE_EVERY) {
            return None;
        }
        self.told = Some(now);
        let heaviest = self.clients.iter().max_by_key(|(_, asked)| **asked).map(|(client, asked)| (*client, *asked));
        Some(ShedLevel { used: self.used, heaviest })
    }

    /// Returns the equal share: the questions that each client may have.
    fn fair_share(&self) -> u32 {
        // The counters contain the current second and half of the one before: half as much again.
        let all = u64::from(self.limit) * NEAR / 100 * 3 / 2;
        // One more than there are, for the next client.
        (all / (self.clients.len() as u64 + 1)).max(1) as u32
    }

    fn count(&mut self, client: IpAddr) -> u32 {
        if self.clients.len() >= MOST_CLIENTS && !self.clients.contains_key(&client) {
            return 0;
        }
        let asked = self.clients.entry(client).or_default();
        *asked += 1;
        *asked
    }

    fn advance(&mut self, now: Millis) {
        let slot = now / SLOT;
        for passed in self.slot + 1..=slot.min(self.slot + SLOTS as u64) {
            let old = std::mem::take(&mut self.slots[(passed % SLOTS as u64) as usize]);
            self.used -= old;
        }
        self.slot = self.slot.max(slot);
        let second = now / 1_000;
        if second > self.second {
            let halvings = u32::try_from(second - self.second).unwrap_or(u32::MAX);
            self.second = second;
            self.clients.retain(|_, asked| {
                *asked = asked.checked_shr(halvings).unwrap_or(0);
                *asked > 0
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIGHT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const HEAVY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn no_sliding_second_exceeds_the_limit() {
        let mut rate_limiter = RateLimiter::new(100);
        let mut sent: Vec<Millis> = Vec::new();
        // Three queries a millisecond, with a pause now and then.
        for now in (0..20_000).filter(|now| now % 3_700 < 2_900) {
            for _ in 0..3 {
                if rate_limiter.try_acquire(now) {
                    sent.push(now);
                }
            }
        }
        let within = |from: Millis| sent.iter().filter(|at| (from..from + 1_000).contains(at)).count();
        assert!((0..19_000).all(|from| within(from) <= 100));
        assert!(sent.len() > 1_000, "and it is used: {}", sent.len());
    }

    #[test]
    fn heavy_clients_are_shed_first_then_retries() {
        let mut rate_limiter = RateLimiter::new(100);
        for _ in 0..79 {
            assert_eq!(rate_limiter.admit(0, Some(HEAVY)), RateDecision::Ask);
            assert!(rate_limiter.try_acquire(0));
        }
        assert!(rate_limiter.below_threshold(0));
        assert_eq!(rate_limiter.admit(0, Some(LIGHT)), RateDecision::Ask);
        assert!(rate_limiter.try_acquire(0));
        assert!(!rate_limiter.below_threshold(0));
        assert_eq!(rate_limiter.admit(0, Some(HEAVY)), RateDecision::Shed);
        assert_eq!(rate_limiter.admit(0, None), RateDecision::Shed);
        assert_eq!(rate_limiter.admit(0, Some(LIGHT)), RateDecision::AskUnlessStale);
        assert_eq!(rate_limiter.level_change(0), Some(ShedLevel { used: 80, heaviest: Some((HEAVY, 80)) }));
        assert_eq!(rate_limiter.level_change(CHANGE_EVERY - 1), None);
        (0..15).for_each(|_| assert!(rate_limiter.try_acquire(0)));
        assert_eq!(rate_limiter.admit(0, Some(LIGHT)), RateDecision::Shed);
        (0..5).for_each(|_| assert!(rate_limiter.try_acquire(0)));
        assert!(!rate_limiter.try_acquire(0));

        assert!(!rate_limiter.try_acquire(1_000), "the second is not over");
        assert!(rate_limiter.try_acquire(1_100));
        assert_eq!(rate_limiter.admit(1_100, Some(HEAVY)), RateDecision::Ask);
        assert!(rate_limiter.level_change(CHANGE_EVERY).is_some());
    }

    #[test]
    fn a_long_pause_forgets_clients_memory_is_bounded() {
        let mut rate_limiter = RateLimiter::new(10);
        (0..10_000_u32).for_each(|n| _ = rate_limiter.admit(0, Some(IpAddr::V4(n.into()))));
        assert_eq!(rate_limiter.clients.len(), MOST_CLIENTS);
        assert!(rate_limiter.try_acquire(Millis::MAX / 2));
        assert!(rate_limiter.clients.is_empty());
    }
}
