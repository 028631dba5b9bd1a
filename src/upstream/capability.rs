//! Something that a server may not be able to do: whether it can is judged by checks of nodens's own, never by what a client's
//! query met, and every verdict ends.
//!
//! Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Checks in a row without it, after which a server counts as one that cannot.
const CHECKS: u8 = 2;
/// How long that holds.
pub const HOLDS_FOR: Duration = Duration::from_secs(900);
/// The pause between two checks.
pub const CHECK_EVERY: Duration = Duration::from_millis(500);

/// What is known of it.
#[derive(Debug, Default)]
pub struct Capability {
    /// Something cast doubt on it, and nothing is known yet.
    doubted: bool,
    /// When a check was last sent.
    checked: Option<Instant>,
    /// Checks in a row without it.
    lacking: u8,
    /// The server cannot, as far as is known until then.
    off_until: Option<Instant>,
}

impl Capability {
    /// Whether the server can, as far as is known.
    pub fn is_there(&self, now: Instant) -> bool {
        self.off_until.is_none_or(|until| now >= until)
    }

    /// Until when it counts as one that cannot.
    pub fn off_until(&self, now: Instant) -> Option<Instant> {
        self.off_until.filter(|until| now < *until)
    }

    /// Something came that a server would send which cannot, and others too.
    pub fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Whether to send a check now.
    pub fn check_due(&mut self, now: Instant) -> bool {
        let due = self.doubted && self.is_there(now) && self.checked.is_none_or(|checked| now >= checked + CHECK_EVERY);
        if due {
            self.checked = Some(now);
        }
        due
    }

    /// The server cannot, as several checks have shown at once.
    pub fn turn_off(&mut self, now: Instant) {
        *self = Self { off_until: Some(now + HOLDS_FOR), ..Self::default() };
    }

    /// A check was answered, `lacking` it or not; true if that makes the verdict.
    pub fn was_checked(&mut self, lacking: bool, now: Instant) -> bool {
        if !self.is_there(now) {
            // A check that was under way.
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
        // One that is answered well takes the doubt away.
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
