//! The moment from which [`Millis`] are counted.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Millis;

/// How long before its start a process begins to count: answers of another process may be as old as this.
const BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// Where counting begins.
#[derive(Clone, Copy, Debug)]
pub struct Epoch(Instant);

impl Epoch {
    /// One that is a while before now.
    pub fn new() -> Self {
        Self(Instant::now().checked_sub(BEFORE).unwrap_or_else(Instant::now))
    }

    /// The milliseconds until now.
    pub fn now(self) -> Millis {
        self.millis(Instant::now())
    }

    /// The milliseconds until a moment.
    #[inline]
    pub fn millis(self, moment: Instant) -> Millis {
        self.until(moment).as_millis() as Millis
    }

    /// The time until a moment.
    #[inline]
    pub fn until(self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.0)
    }

    /// The moment after so many milliseconds.
    pub fn instant(self, millis: Millis) -> Instant {
        self.0 + Duration::from_millis(millis)
    }
}

impl Default for Epoch {
    fn default() -> Self {
        Self::new()
    }
}
