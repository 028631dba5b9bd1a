//! Properties of a server's health: clients query the server while it takes queries, probes are sent when they are due.

use std::collections::BTreeMap;
use std::time::Duration;

use nodens::upstream::health::{
    EJECT_AFTER, EJECT_LOSING, HEDGE, Health, HealthChange, LONGEST_PROBE, MOST_PROOF, UnansweredAttempt,
};
use nodens::upstream::probe::TICK;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::config;

const MS: Duration = Duration::from_millis(1);
/// Longest wait for the response to a probe.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time after its return within which a server that is ejected again needs more responses to return.
const RELAPSE: Duration = Duration::from_secs(30);

/// Period of a server's behaviour: its duration and latency in milliseconds, and the percentage of queries that it loses.
#[derive(Clone, Debug)]
struct Spell {
    lasts: u32,
    latency: u32,
    loses: u32,
}

fn spell() -> impl Strategy<Value = Spell> {
    let latency = prop_oneof![2 => 0..60_u32, 1 => 60..900_u32];
    let loses = prop_oneof![3 => Just(0_u32), 2 => Just(100_u32), 1 => 10..80_u32];
    (200..14_000_u32, latency, loses).prop_map(|(lasts, latency, loses)| Spell { lasts, latency, loses })
}

#[derive(Clone, Copy)]
enum Event {
    Client,
    Tick,
    Reply(Duration, bool),
    /// Loss of a query that was sent at this time.
    Loss(UnansweredAttempt, Instant),
}

/// History of the server, tracked independently of the code under test.
struct Story {
    lost: u32,
    streak: u32,
    /// A probe was lost since the last response.
    agreed: bool,
    /// Set once many attempts are lost; true if a probe was lost since.
    losing: Option<bool>,
    ejected: Option<Instant>,
    last_probe: Instant,
    /// Responses in time since the ejection.
    given: u32,
    /// Least number of responses before the return.
    proof: u32,
    came_back: Option<Instant>,
    /// Time since which the server responds to everything.
    well: Option<Instant>,
}

impl Story {
    fn failed(&mut self, now: Instant, what: UnansweredAttempt, change: Option<HealthChange>) {
        self.streak += 1;
        self.lost = self.lost << 1 | 1;
        if what == UnansweredAttempt::Probe {
            self.agreed = true;
            self.losing = self.losing.map(|_| true);
        }
        if self.ejected.is_some() {
            assert_eq!(change, None, "ejected twice");
            return;
        }
        if self.lost.count_ones() >= EJECT_LOSING {
            self.losing.get_or_insert(false);
        }
        let bad = self.agreed && self.streak >= EJECT_AFTER || self.losing == Some(true);
        assert_eq!(change == Some(HealthChange::Ejected), bad, "ejected by {} in a row, {:b}", self.streak, self.lost);
        if bad {
            let relapse = self.came_back.is_some_and(|back| now < back + RELAPSE);
            self.proof = if relapse { (self.proof * 2).min(MOST_PROOF) } else { 1 };
            if self.streak < EJECT_AFTER {
                self.proof = self.proof.max(4);
            }
            (self.ejected, self.last_probe, self.given) = (Some(now), now, 0);
            (self.agreed, self.losing) = (false, None);
        }
    }

    /// Records a response. `late`: the query was counted as lost before.
    fn responded(
        &mut self,
        now: Instant,
        latency: Duration,
        late: bool,
        health: &Health,
        change: Option<HealthChange>,
    ) {
        (self.streak, self.agreed) = (0, false);
        // Responses to probes have cleared the suspicion.
        if self.losing.is_some() && !health.is_suspect() {
            (self.losing, self.lost) = (None, 0);
        }
        self.lost = if late { self.lost & self.lost.wrapping_sub(1) } else { self.lost << 1 };
        let Some(since) = self.ejected else { return assert_eq!(change, None) };
        if latency <= PATIENCE {
            self.given += 1;
        }
        if let Some(change) = change {
            assert_eq!(change, HealthChange::Recovered(now - since));
            assert!(self.given >= self.proof, "back by {} replies, not {}", self.given, self.proof);
            (self.ejected, self.came_back, self.lost, self.losing) = (None, Some(now), 0, None);
        }
    }

    /// Checks the invariants.
    fn check(&self, now: Instant, health: &Health, latency: Duration) {
        assert_eq!(health.is_healthy(), self.ejected.is_none());
        assert!((HEDGE.0..=HEDGE.1).contains(&health.hedge_after()));
        assert!((50 * MS..=1_000 * MS).contains(&health.attempt_timeout()));
        if self.ejected.is_none() {
            return;
        }
        let unasked = now - self.last_probe;
        assert!(unasked <= LONGEST_PROBE + TICK, "not probed for {unasked:?}");
        let well = self.well.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        // Two seconds, and the round trips of the most responses that the return may require.
        let most = Duration::from_secs(2) + latency * MOST_PROOF;
        assert!(well <= most, "well for {well:?} with {latency:?}, and still not asked: {health:?}");
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn the_ill_are_probed_and_the_well_are_asked(
        spells in vec(spell(), 1..14),
        pace in 5..400_u32,
        dice in vec((0..100_u32, 0.0..1.0), 97),
    ) {
        let start = Instant::now();
        let mut health = Health::new();
        let mut story = Story {
            lost: 0,
            streak: 0,
            agreed: false,
            losing: None,
            ejected: None,
            last_probe: start,
            given: 0,
            proof: 0,
            came_back: None,
            well: Some(start),
        };
        let mut queue: BTreeMap<(Instant, usize), Event> = BTreeMap::new();
        queue.insert((start, 0), Event::Client);
        queue.insert((start, 1), Event::Tick);
        let (mut count, mut draws) = (2, 0);
        let mut until = start;
        for spell in &spells {
            let begins = until;
            until += MS * spell.lasts;
            let latency = MS * spell.latency;
            // Responses to earlier queries may arrive later than those of this period.
            story.well = if spell.loses > 0 { None } else { Some(begins + PATIENCE.min(latency)) };
            while let Some(((now, _), _)) = queue.first_key_value().filter(|((now, _), _)| *now < until) {
                let now = *now;
                let (_, event) = queue.pop_first().unwrap();
                draws += 1;
                let (die, jitter) = dice[draws % dice.len()];
                let mut add = |after: Duration, event| {
                    count += 1;
                    queue.insert((now + after, count), event);
                };
                // A late response still counts, after the loss.
                let mut ask = |patience: Duration, what: UnansweredAttempt| {
                    if die < spell.loses || latency > patience {
                        add(patience, Event::Loss(what, now));
                    }
                    if die >= spell.loses {
                        add(latency, Event::Reply(latency, what == UnansweredAttempt::Probe));
                    }
                };
                match event {
                    Event::Client => {
                        if health.is_healthy() {
                            ask(health.attempt_timeout(), UnansweredAttempt::Query(draws as u64));
                        }
                        add(MS * pace, Event::Client);
                    }
                    Event::Tick => {
                        if health.probe_due(now, jitter, true, false) {
                            story.last_probe = now;
                            ask(health.probe_timeout(), UnansweredAttempt::Probe);
                        }
                        add(TICK, Event::Tick);
                    }
                    Event::Reply(latency, probe) => {
                        let late = latency >= health.attempt_timeout() && latency <= PATIENCE;
                        let change = health.responded(now, latency, probe);
                        story.responded(now, latency, late, &health, change);
                    }
                    // A lost probe is ignored if the server has responded since the probe was sent and is not losing packets.
                    Event::Loss(UnansweredAttempt::Probe, sent) if health.has_answered_since(sent) && !health.is_losing() => {}
                    Event::Loss(what, _) => {
                        let change = health.failed(now, jitter, what);
                        story.failed(now, what, change);
                    }
                }
                story.check(now, &health, latency);
            }
        }
    }
}
