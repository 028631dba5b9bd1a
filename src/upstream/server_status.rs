//! State of a server for the reports, with time and reason.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::time::Instant;

use super::failure::FailureKind;
use super::health::EJECT_AFTER;
use crate::metrics::events::UnixMillis;

/// State of a server, as in the glossary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    Unknown,
    /// It takes clients' queries.
    Healthy,
    /// It takes clients' queries, and responds with errors only.
    Failing,
    /// It takes clients' queries after the others, because it is far slower than one of them. It is probed.
    Degraded,
    /// It was silent too often: clients' queries go there only as a last resort. It is probed.
    Ejected,
    /// Its queries come back to nodens: it is not queried by clients, only by the loop check.
    ForwardingLoop,
}

impl ServerState {
    /// Reports whether clients get answers from it.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }

    /// Returns the words for logs and pages.
    pub fn words(self) -> &'static str {
        match self {
            Self::Unknown => "unknown: no response yet",
            Self::Healthy => "healthy",
            Self::Failing => "failing: responds with errors only",
            Self::Degraded => "degraded: far slower than another server",
            Self::Ejected => "ejected",
            Self::ForwardingLoop => "forwarding loop: its queries come back to nodens",
        }
    }
}

/// State of a server, with time and reason.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    pub state: ServerState,
    /// Time of the change.
    pub since: Instant,
    /// Time of the change by the wall clock.
    pub since_unix: UnixMillis,
    /// Reason of the change.
    pub reason: String,
}

impl ServerStatus {
    /// Creates a state that begins now.
    pub fn new(state: ServerState, reason: impl Into<String>) -> Self {
        Self { state, since: Instant::now(), since_unix: wall_clock(), reason: reason.into() }
    }
}

/// Returns the milliseconds since 1970; 0 if the clock is before that.
pub(crate) fn wall_clock() -> UnixMillis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as UnixMillis)
}

/// Last failures without a response, for the reason of an ejection.
#[derive(Debug, Default)]
pub(crate) struct RecentFailures {
    last: [Option<FailureKind>; EJECT_AFTER as usize],
}

impl RecentFailures {
    pub(crate) fn push(&mut self, kind: FailureKind) {
        self.last.rotate_left(1);
        self.last[EJECT_AFTER as usize - 1] = Some(kind);
    }

    /// Returns all of them in words, oldest first.
    pub(crate) fn words(&self) -> String {
        self.last.iter().flatten().map(|kind| kind.words()).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_failures_are_told_oldest_first() {
        let mut streak = RecentFailures::default();
        streak.push(FailureKind::Malformed);
        for kind in [FailureKind::Timeout, FailureKind::ConnectionRefused, FailureKind::Network] {
            streak.push(kind);
        }
        assert_eq!(streak.words(), "no response, port closed, network error");
    }
}
