//! When a name above those that were denied is worth a query of nodens's own, and whether its denial may be believed.
//!
//! A name alone is no reason: asking for its namespace as well would be one query more. The second name below the same one
//! within five seconds is. Nothing here is asked more than [`MOST_A_SECOND`] times in a second.
//!
//! That a name is denied means that all below it are too (RFC 8020), if the server keeps to that. kube-dns does not: it
//! denies namespaces that have services. So the server is believed for a while after it has been seen not to deny the one
//! namespace that every cluster has.
//!
//! Pure: time is an argument.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::clock::Millis;

/// How long a denial may stand for the names below it: a namespace or service that comes to be is seen by then.
pub const LONGEST_CUT: Millis = 5_000;
/// How long a server is believed after it was right about the namespace that every cluster has.
const TRUSTED_FOR: Millis = 30_000;
/// How long it is not asked again after it was wrong.
const DISTRUSTED_FOR: Millis = 300_000;
/// Probes in a second, at most.
pub const MOST_A_SECOND: u32 = 20;
/// Probes under way at once, at most.
const MOST_IN_FLIGHT: u32 = 8;
/// Names of which it is known that one below them was denied; a power of two.
const SLOTS: usize = 64;

/// What is known of one cluster's domain.
#[derive(Debug)]
pub struct Probes {
    /// Until when the server is believed; zero: it is not.
    trusted: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    distrusted: Millis,
    second: Millis,
    begun: u32,
    in_flight: u32,
    denied: [Denied; SLOTS],
}

/// A name was denied, below another one.
#[derive(Clone, Copy, Debug, Default)]
struct Denied {
    above: u64,
    name: u64,
    at: Millis,
}

impl Probes {
    /// Nothing is known.
    pub fn new() -> Self {
        let state = State { distrusted: 0, second: 0, begun: 0, in_flight: 0, denied: [Denied::default(); SLOTS] };
        Self { trusted: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// Whether the server's denials count for the names below.
    pub fn is_trusted(&self, now: Millis) -> bool {
        now < self.trusted.load(Ordering::Relaxed)
    }

    /// The server has answered for the namespace that every cluster has: it exists, or it does not.
    pub fn judge(&self, exists: bool, now: Millis) {
        self.trusted.store(if exists { now + TRUSTED_FOR } else { 0 }, Ordering::Relaxed);
        self.state().distrusted = if exists { 0 } else { now + DISTRUSTED_FOR };
    }

    /// `name` was denied, which is below `above`, of which nothing is known; both are hashes. Whether that one is to be
    /// asked for now: then [`Probes::end`] must follow.
    pub fn begin(&self, above: u64, name: u64, now: Millis) -> bool {
        let mut state = self.state();
        let slot = &mut state.denied[above as usize % SLOTS];
        let known = slot.above == above && now < slot.at + LONGEST_CUT;
        let again = known && slot.name != name;
        if !known {
            *slot = Denied { above, name, at: now };
        }
        if now >= state.second + 1_000 {
            (state.second, state.begun) = (now, 0);
        }
        let may = again && now >= state.distrusted && state.begun < MOST_A_SECOND && state.in_flight < MOST_IN_FLIGHT;
        if may {
            state.begun += 1;
            state.in_flight += 1;
        }
        may
    }

    /// A probe has ended.
    pub fn end(&self) {
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
    }

    /// Consistent between any two statements.
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Probes {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_name_within_five_seconds_is_a_reason() {
        let probes = Probes::new();
        assert!(!probes.begin(1, 10, 0) && !probes.begin(1, 10, 1), "the same name, for another type");
        assert!(!probes.begin(2, 11, 2), "another one above");
        assert!(probes.begin(1, 11, 4_999));
        probes.end();
        assert!(!probes.begin(1, 12, 5_000), "too long after");
        assert!(probes.begin(1, 13, 5_001));
    }

    #[test]
    fn few_at_once_and_few_in_a_second() {
        let probes = Probes::new();
        let asked = |names: std::ops::Range<u64>, now, end: bool| {
            let begins = |above| {
                probes.begin(above, 0, now);
                let begun = probes.begin(above, 1, now);
                (begun && end).then(|| probes.end());
                begun
            };
            names.filter(|above| begins(*above)).count() as u32
        };
        assert_eq!(asked(0..50, 1_000, true), MOST_A_SECOND);
        assert_eq!(asked(100..150, 1_999, true), 0);
        assert_eq!(asked(200..250, 2_000, false), MOST_IN_FLIGHT);
        assert_eq!(asked(300..350, 4_000, false), 0);
    }

    #[test]
    fn a_server_that_was_wrong_is_left_alone() {
        let probes = Probes::new();
        assert!(!probes.is_trusted(0));
        probes.judge(true, 0);
        assert!(probes.is_trusted(TRUSTED_FOR - 1) && !probes.is_trusted(TRUSTED_FOR));
        probes.judge(false, 1);
        assert!(!probes.is_trusted(2));
        for (now, begins) in [(DISTRUSTED_FOR, false), (DISTRUSTED_FOR + 1, true)] {
            probes.begin(1, 1, now);
            assert_eq!(probes.begin(1, 2, now), begins);
        }
    }
}
