//! How a server stands and since when, for those who watch.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::time::Instant;

use super::failure::FailureKind;
use super::health::EJECT_AFTER;
use crate::metrics::events::UnixMillis;

/// Whether a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing has come from it yet.
    Unknown,
    /// It takes clients' queries.
    Healthy,
    /// It takes them, and gives errors alone.
    Failing,
    /// It takes them after the others, because it is far slower than one of them. It is probed.
    Degraded,
    /// It was silent too often: clients' queries go there only where no other server is left. It is probed.
    Ejected,
    /// Its queries come back to nodens: it is not queried at all.
    ForwardingLoop,
}

impl State {
    /// Whether clients get answers from it.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }

    /// What it is called where people read it.
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

/// A server's state, since when, and why.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    /// The state.
    pub state: State,
    /// Since then.
    pub since: Instant,
    /// The same by the wall clock of that moment.
    pub since_unix: UnixMillis,
    /// What led there.
    pub reason: String,
}

impl ServerStatus {
    /// A state that begins now.
    pub fn new(state: State, reason: impl Into<String>) -> Self {
        Self { state, since: Instant::now(), since_unix: wall_clock(), reason: reason.into() }
    }
}

/// Milliseconds since 1970; 0 where the clock says that it is earlier.
pub fn wall_clock() -> UnixMillis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as UnixMillis)
}

/// The last failures without a reply, so that an ejection can say which they were.
#[derive(Debug, Default)]
pub struct RecentFailures {
    last: [Option<FailureKind>; EJECT_AFTER as usize],
}

impl RecentFailures {
    /// One more.
    pub fn push(&mut self, kind: FailureKind) {
        self.last.rotate_left(1);
        self.last[EJECT_AFTER as usize - 1] = Some(kind);
    }

    /// All of them in words, oldest first.
    pub fn words(&self) -> String {
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
