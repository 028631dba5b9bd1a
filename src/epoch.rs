//! Zero of [`Millis`].

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Millis;

/// Time between zero and the start of the process: answers of another process may be this old.
const BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// Moment at which the count of milliseconds is zero.
#[derive(Clone, Copy, Debug)]
pub struct Epoch(Instant);

impl Epoch {
    /// Returns an epoch two weeks before now, or now if the clock does not go back that far.
    pub fn new() -> Self {
        Self(Instant::now().checked_sub(BEFORE).unwrap_or_else(Instant::now))
    }

    /// Returns the milliseconds from zero until now.
    pub fn now(self) -> Millis {
        self.millis(Instant::now())
    }

    /// Returns the milliseconds from zero until `moment`.
    #[inline]
    pub fn millis(self, moment: Instant) -> Millis {
        self.until(moment).as_millis() as Millis
    }

    /// Returns the time from zero until `moment`.
    #[inline]
    pub fn until(self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.0)
    }

    /// Returns the moment `millis` milliseconds after zero.
    pub fn instant(self, millis: Millis) -> Instant {
        self.0 + Duration::from_millis(millis)
    }
}

impl Default for Epoch {
    fn default() -> Self {
        Self::new()
    }
}
