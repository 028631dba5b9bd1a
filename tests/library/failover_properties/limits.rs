//! Properties of the hedge budget and of the rate limit of a group.

use std::net::{IpAddr, Ipv4Addr};

use nodens::upstream::budget::HedgeBudget;
use nodens::upstream::rate_limiter::{RateDecision, RateLimiter};
use proptest::collection::vec;
use proptest::prelude::*;

use super::config;

proptest! {
    #![proptest_config(config(300))]

    /// Any span of the schedule represents a window of any length, ten seconds included: the budget has no clock.
    #[test]
    fn hedges_stay_within_a_burst_and_a_twentieth(
        schedule in vec((0..60_u32, 0..8_u32), 1..120),
    ) {
        let mut budget = HedgeBudget::default();
        // Queries and hedges of each entry of the schedule.
        let mut turns: Vec<(u32, u32)> = Vec::new();
        for (queries, wanted) in schedule {
            (0..queries).for_each(|_| budget.credit());
            turns.push((queries, 0));
            for _ in 0..wanted {
                let spent = budget.try_acquire();
                turns.last_mut().unwrap().1 += u32::from(spent);
                // The window with the most hedges for its queries.
                let (mut queries, mut hedges, mut worst) = (0, 0, i64::MIN);
                for (asked, hedged) in turns.iter().rev() {
                    (queries, hedges) = (queries + asked, hedges + hedged);
                    let over = i64::from(HedgeBudget::QUERIES_PER_HEDGE * hedges) - i64::from(queries);
                    worst = worst.max(over);
                }
                let most = i64::from(HedgeBudget::QUERIES_PER_HEDGE * HedgeBudget::BURST);
                prop_assert!(worst <= most, "more hedges than a burst and a twentieth");
                // Queries of the current entry may have come when the budget was full.
                let room = i64::from(HedgeBudget::QUERIES_PER_HEDGE * 2);
                prop_assert!(spent || worst + room > most - 60, "refused with {} to spare", most - worst);
            }
        }
    }

    #[test]
    fn no_second_exceeds_the_quota_none_shed_below_80(
        limit in 1..150_u32,
        schedule in vec((prop_oneof![8 => 0..40_u64, 2 => 50..400_u64, 1 => 1_000..4_000_u64], 0..20_u32, 0..4_u8), 1..300),
    ) {
        let mut rate_limiter = RateLimiter::new(limit);
        let mut sent: Vec<u64> = Vec::new();
        let mut now = 0;
        for (pause, wanted, client) in schedule {
            now += pause;
            for _ in 0..wanted {
                let within = |span: u64| sent.iter().rev().take_while(|at| **at + span > now).count() as u64;
                // The limiter counts in tenths of a second: the queries that it counts are at most 1.1 s old.
                let (least, most) = (within(1_000), within(1_100));
                let client = IpAddr::from(Ipv4Addr::new(10, 0, 0, client));
                let verdict = rate_limiter.admit(now, Some(client));
                prop_assert!(most * 100 >= 80 * u64::from(limit) || verdict == RateDecision::Ask, "shed below 80 %");
                prop_assert!(least * 100 < 80 * u64::from(limit) || verdict != RateDecision::Ask, "nothing shed at 80 %");
                prop_assert!(least * 100 < 95 * u64::from(limit) || verdict == RateDecision::Shed, "asked at 95 %");
                let room = rate_limiter.below_threshold(now);
                prop_assert!(most * 100 >= 80 * u64::from(limit) || room, "no hedges below 80 %");
                prop_assert!(least * 100 < 80 * u64::from(limit) || !room, "hedges at 80 %");
                let spent = rate_limiter.try_acquire(now);
                prop_assert!(spent || most >= u64::from(limit), "refused at {most} of {limit}");
                prop_assert!(!spent || least < u64::from(limit), "{least} of {limit} in a second, and one more");
                sent.extend(spent.then_some(now));
            }
        }
    }

    /// Checks that a client that queries once a second is not shed, from 2 s after another one began to query without end.
    #[test]
    fn light_clients_are_served_while_quota_remains(limit in 40..1_000_u32, pace in 1..6_u64) {
        let mut rate_limiter = RateLimiter::new(limit);
        let [heavy, light] = [1, 2].map(|last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last)));
        let mut shed = 0;
        for now in 0..10_000_u64 {
            for _ in 0..u64::from(limit) * pace / 1_000 + 1 {
                match rate_limiter.admit(now, Some(heavy)) {
                    RateDecision::Shed => shed += 1,
                    _ => _ = rate_limiter.try_acquire(now),
                }
            }
            if now % 1_000 == 777 && now > 2_000 {
                prop_assert!(rate_limiter.admit(now, Some(light)) != RateDecision::Shed, "the light client had to do without");
                prop_assert!(rate_limiter.try_acquire(now));
            }
        }
        prop_assert!(shed > 0, "and the heavy one has to do without some");
    }
}
