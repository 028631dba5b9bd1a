//! How much may be asked of a group in a second (`max_qps`), and who has to do without when that is too little.
//!
//! Some resolvers drop silently what is above their limit: the one of an AWS VPC above 1,024 packets a second for each
//! network interface. Whoever sends more there loses queries at random. So nodens does not:
//!
//! | used of the last second | questions that are asked already | stale answers | others |
//! |---|---|---|---|
//! | below 80 % | wait for the reply | only when servers fail | are asked |
//! | from 80 % | the same | at once | are asked for clients below an equal share; the heavier ones get SERVFAIL |
//! | from 95 % | the same | at once | get SERVFAIL: what is left is for tries after failed ones |
//!
//! From 80 % on there are no hedges and no prefetches. Nothing waits for the next second: a queue would only grow.
//!
//! Pure: time is an argument.

use std::net::IpAddr;

use foldhash::HashMap;

use crate::clock::Millis;

/// The last second and the running tenth of one, in tenths: so that in no second, wherever it begins, more is sent.
const SLOTS: usize = 11;
/// Milliseconds of a slot.
const SLOT: Millis = 100;
/// The share, in percent, from which on only light clients are asked for.
const NEAR: u64 = 80;
/// The share, in percent, from which on only queries under way are helped.
const NEARLY_SPENT: u64 = 95;
/// Clients of which it is known how much they ask; further ones count as light.
const MOST_CLIENTS: usize = 4_096;
/// How often the log is told at most, in milliseconds.
const TELL_EVERY: Millis = 10_000;

/// What was asked in the last second, and by whom.
#[derive(Debug)]
pub struct RateLimiter {
    limit: u32,
    slots: [u32; SLOTS],
    /// The number of the running slot, counted from the beginning of time.
    slot: u64,
    /// The sum of the slots.
    used: u32,
    /// Questions by client, of the running second and half of those before.
    clients: HashMap<IpAddr, u32>,
    second: u64,
    told: Option<Millis>,
}

/// What is to become of a question that nobody asks yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask.
    Ask,
    /// Ask, unless there is a stale answer.
    AskUnlessStale,
    /// Serve a stale answer, or SERVFAIL.
    Shed,
}

/// What is to be said of it in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShedLevel {
    /// Queries sent in the last second.
    pub used: u32,
    /// The client that asks most, and its questions.
    pub heaviest: Option<(IpAddr, u32)>,
}

impl RateLimiter {
    /// A quota of `limit` queries in any second.
    pub fn new(limit: u32) -> Self {
        Self { limit, slots: [0; SLOTS], slot: 0, used: 0, clients: HashMap::default(), second: 0, told: None }
    }

    /// Judges a question that would have to be asked for `client`, or for nobody in particular.
    pub fn judge(&mut self, now: Millis, client: Option<IpAddr>) -> Verdict {
        self.advance(now);
        let asked = client.map_or(0, |client| self.count(client));
        let share = u64::from(self.used) * 100 / u64::from(self.limit.max(1));
        if share >= NEARLY_SPENT {
            Verdict::Shed
        } else if share < NEAR {
            Verdict::Ask
        } else if client.is_some() && asked <= self.fair_share() {
            Verdict::AskUnlessStale
        } else {
            Verdict::Shed
        }
    }

    /// Queries sent in the last second.
    pub fn used(&mut self, now: Millis) -> u32 {
        self.advance(now);
        self.used
    }

    /// Whether there is room for what nobody would miss: hedges and prefetches.
    pub fn has_room(&mut self, now: Millis) -> bool {
        self.advance(now);
        u64::from(self.used) * 100 < NEAR * u64::from(self.limit)
    }

    /// Takes one query out of it, if one is left.
    pub fn spend(&mut self, now: Millis) -> bool {
        self.advance(now);
        if self.used >= self.limit {
            return false;
        }
        self.slots[(self.slot % SLOTS as u64) as usize] += 1;
        self.used += 1;
        true
    }

    /// What the log should be told, at most every ten seconds.
    pub fn tell(&mut self, now: Millis) -> Option<ShedLevel> {
        if self.told.is_some_and(|told| now < told + TELL_EVERY) {
            return None;
        }
        self.told = Some(now);
        let heaviest = self.clients.iter().max_by_key(|(_, asked)| **asked).map(|(client, asked)| (*client, *asked));
        Some(ShedLevel { used: self.used, heaviest })
    }

    /// The questions that each client may have if all have equally many.
    fn fair_share(&self) -> u32 {
        // Counted are the running second and half of the one before, which is half as much again.
        let all = u64::from(self.limit) * NEAR / 100 * 3 / 2;
        // One more than there are, for whoever comes next.
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
    fn no_second_has_more_than_the_limit_wherever_it_begins() {
        let mut rate_limiter = RateLimiter::new(100);
        let mut sent: Vec<Millis> = Vec::new();
        // Three queries a millisecond, with a pause now and then.
        for now in (0..20_000).filter(|now| now % 3_700 < 2_900) {
            for _ in 0..3 {
                if rate_limiter.spend(now) {
                    sent.push(now);
                }
            }
        }
        let within = |from: Millis| sent.iter().filter(|at| (from..from + 1_000).contains(at)).count();
        assert!((0..19_000).all(|from| within(from) <= 100));
        assert!(sent.len() > 1_000, "and it is used: {}", sent.len());
    }

    #[test]
    fn the_heaviest_go_first_and_what_is_left_is_for_further_tries() {
        let mut rate_limiter = RateLimiter::new(100);
        for _ in 0..79 {
            assert_eq!(rate_limiter.judge(0, Some(HEAVY)), Verdict::Ask);
            assert!(rate_limiter.spend(0));
        }
        assert!(rate_limiter.has_room(0));
        assert_eq!(rate_limiter.judge(0, Some(LIGHT)), Verdict::Ask);
        assert!(rate_limiter.spend(0));
        assert!(!rate_limiter.has_room(0));
        assert_eq!(rate_limiter.judge(0, Some(HEAVY)), Verdict::Shed);
        assert_eq!(rate_limiter.judge(0, None), Verdict::Shed);
        assert_eq!(rate_limiter.judge(0, Some(LIGHT)), Verdict::AskUnlessStale);
        assert_eq!(rate_limiter.tell(0), Some(ShedLevel { used: 80, heaviest: Some((HEAVY, 80)) }));
        assert_eq!(rate_limiter.tell(TELL_EVERY - 1), None);
        (0..15).for_each(|_| assert!(rate_limiter.spend(0)));
        assert_eq!(rate_limiter.judge(0, Some(LIGHT)), Verdict::Shed);
        (0..5).for_each(|_| assert!(rate_limiter.spend(0)));
        assert!(!rate_limiter.spend(0));

        assert!(!rate_limiter.spend(1_000), "the second is not over");
        assert!(rate_limiter.spend(1_100));
        assert_eq!(rate_limiter.judge(1_100, Some(HEAVY)), Verdict::Ask);
        assert!(rate_limiter.tell(TELL_EVERY).is_some());
    }

    #[test]
    fn a_long_pause_forgets_everyone_and_memory_is_bounded() {
        let mut rate_limiter = RateLimiter::new(10);
        (0..10_000_u32).for_each(|n| _ = rate_limiter.judge(0, Some(IpAddr::V4(n.into()))));
        assert_eq!(rate_limiter.clients.len(), MOST_CLIENTS);
        assert!(rate_limiter.spend(Millis::MAX / 2));
        assert!(rate_limiter.clients.is_empty());
    }
}
