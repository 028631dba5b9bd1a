//! Decides when a name above denied names is worth a query by nodens, and whether its denial is trusted.
//!
//! One denied name is not enough: to query its namespace as well would be one query more. A second denied name below the same
//! one within five seconds is enough. At most [`MOST_A_SECOND`] probes are sent in a second.
//!
//! The denial of a name covers all names below it (RFC 8020), if the server complies with that. kube-dns does not: it denies
//! namespaces that have services. So a server is trusted for some time after it has answered for the one namespace that every
//! cluster has.
//!
//! Pure: time is an argument.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::clock::Millis;

/// Longest time that a denial covers the names below it, in milliseconds: a new namespace or service becomes visible within it.
pub(crate) const LONGEST_CUT: Millis = 5_000;
/// Time that a server is trusted after a correct answer for the namespace that every cluster has, in milliseconds.
const TRUSTED_FOR: Millis = 30_000;
/// Time without probes after an incorrect answer, in milliseconds.
const DISTRUSTED_FOR: Millis = 300_000;
/// Most probes in a second.
pub(crate) const MOST_A_SECOND: u32 = 20;
/// Most probes in flight.
const MOST_IN_FLIGHT: u32 = 8;
/// Names whose last denied descendant is recorded; a power of two.
const SLOTS: usize = 64;

/// State of the probes of one cluster's domain.
#[derive(Debug)]
pub struct Probes {
    /// End of the trust in the server; zero if it is not trusted.
    trusted: AtomicU64,
    state: Mutex<ProbesState>,
}

#[derive(Debug)]
struct ProbesState {
    distrusted: Millis,
    second: Millis,
    begun: u32,
    in_flight: u32,
    denied: [Denied; SLOTS],
}

/// Denial of a name below another one.
#[derive(Clone, Copy, Debug, Default)]
struct Denied {
    above: u64,
    name: u64,
    at: Millis,
}

impl Probes {
    /// Returns the initial state: the server is not trusted.
    pub fn new() -> Self {
        let state =
            ProbesState { distrusted: 0, second: 0, begun: 0, in_flight: 0, denied: [Denied::default(); SLOTS] };
        Self { trusted: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// Returns whether the server's denials cover the names below.
    pub fn is_trusted(&self, now: Millis) -> bool {
        now < self.trusted.load(Ordering::Relaxed)
    }

    /// Records the server's answer for the namespace that every cluster has: whether it exists.
    pub fn judge(&self, exists: bool, now: Millis) {
        self.trusted.store(if exists { now + TRUSTED_FOR } else { 0 }, Ordering::Relaxed);
        self.state().distrusted = if exists { 0 } else { now + DISTRUSTED_FOR };
    }

    /// Records that `name`, which is below the unknown name `above`, was denied; both are hashes. Returns whether `above` is to
    /// be queried now: then [`Probes::end`] must follow.
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

    /// Records the end of a probe.
    pub fn end(&self) {
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
    }

    /// Locks the state. It is consistent between any two statements.
    fn state(&self) -> std::sync::MutexGuard<'_, ProbesState> {
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
