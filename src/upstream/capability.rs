//! Feature that a server may lack. Only nodens's own checks decide whether it does, never the outcome of a client's
//! query, and every decision expires.
//!
//! Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Failed checks in a row after which the feature is not used.
const CHECKS: u8 = 2;
/// Time for which that decision holds.
pub(crate) const HOLDS_FOR: Duration = Duration::from_secs(900);
/// Minimum interval between two checks.
pub(crate) const CHECK_EVERY: Duration = Duration::from_millis(500);

/// State of one feature of one server.
#[derive(Debug, Default)]
pub(crate) struct Capability {
    /// A check is wanted.
    doubted: bool,
    /// Time of the last check.
    checked: Option<Instant>,
    /// Failed checks in a row.
    lacking: u8,
    /// End of the time for which the feature is not used.
    off_until: Option<Instant>,
}

impl Capability {
    /// Reports whether to use the feature.
    pub(crate) fn is_there(&self, now: Instant) -> bool {
        self.off_until.is_none_or(|until| now >= until)
    }

    /// Returns the end of the time for which the feature is not used, if it is not used now.
    pub(crate) fn off_until(&self, now: Instant) -> Option<Instant> {
        self.off_until.filter(|until| now < *until)
    }

    /// Records a response that a server without the feature would send, but others may send too.
    pub(crate) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Returns whether a check is due now, and if so records that it is sent.
    pub(crate) fn check_due(&mut self, now: Instant) -> bool {
        let due = self.doubted && self.is_there(now) && self.checked.is_none_or(|checked| now >= checked + CHECK_EVERY);
        if due {
            self.checked = Some(now);
        }
        due
    }

    /// Turns the feature off at once, after several checks elsewhere.
    pub(crate) fn turn_off(&mut self, now: Instant) {
        *self = Self { off_until: Some(now + HOLDS_FOR), ..Self::default() };
    }

    /// Records the result of a check; returns true if that turns the feature off.
    pub(crate) fn was_checked(&mut self, lacking: bool, now: Instant) -> bool {
        if !self.is_there(now) {
            // The check was in flight when the feature was turned off.
            return false;
        }
        self.lacking = if lacking { self.lacking + 1 } else { 0 };
        self.doubted = lacking && self.lacking < CHECKS;
        let verdict = self.lacking >= CHECKS;
        if verdict {
            self.turn_off(now);
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_checks_in_a_row_decide_and_the_verdict_ends() {
        let start = Instant::now();
        let mut capability = Capability::default();
        assert!(!capability.check_due(start));
        capability.doubt();
        assert!(capability.check_due(start) && !capability.check_due(start));
        assert!(!capability.was_checked(true, start));
        assert!(capability.is_there(start) && capability.check_due(start + CHECK_EVERY));
        // A passed check ends the doubt.
        assert!(!capability.was_checked(false, start));
        assert!(!capability.check_due(start + 2 * CHECK_EVERY));
        capability.doubt();
        assert!(!capability.was_checked(true, start) && capability.was_checked(true, start));
        capability.doubt();
        assert!(!capability.is_there(start) && !capability.check_due(start + 2 * CHECK_EVERY));
        assert_eq!(capability.off_until(start), Some(start + HOLDS_FOR));
        let later = start + HOLDS_FOR;
        assert!(capability.is_there(later) && capability.off_until(later).is_none() && capability.check_due(later));
    }
}
