//! State changes of upstreams, the configuration and the process. Each change is written to the log once, and to a ring
//! that the admin pages read.
//!
//! Queries are not events, so this code is not on a hot path. The ring holds the last [`KEPT`] events.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Serialize, Serializer};

/// Number of events in the ring; older ones are dropped.
pub const KEPT: usize = 256;
/// Maximum size of a reason in bytes; it may quote untrusted text.
const LONGEST_REASON: usize = 512;

/// Milliseconds since 1970-01-01 00:00 UTC.
pub type UnixMillis = u64;

/// Kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A server was ejected: it is probed, and queried for clients only as a last resort.
    Ejected,
    /// An ejected server is queried for clients again.
    Recovered,
    /// A server responds with errors only.
    Failing,
    /// A server answers again.
    NoLongerFailing,
    /// A server is far slower than another one, which is queried first.
    Degraded,
    /// A server is no longer far slower.
    NoLongerDegraded,
    /// A server's queries come back to nodens; it is not queried.
    ForwardingLoop,
    /// The forwarding loop is gone, or is about to be checked again.
    ForwardingLoopCleared,
    /// A server is queried without EDNS for 15 minutes.
    EdnsOff,
    /// A server is queried without random letter case for 15 minutes.
    RandomCaseOff,
    /// A name below a cluster's domain that was denied exists; pruning by form ends on the route.
    PruningOff,
    /// The name of a server resolves to this address.
    AddressAdded,
    /// The name of a server no longer resolves to this address.
    AddressRemoved,
    /// The name of a server cannot be resolved.
    NameUnresolved,
    /// The name of a server can be resolved again.
    NameResolved,
    /// A new configuration is in force.
    ReloadApplied,
    /// A new configuration is in force, except for keys that need a restart.
    ReloadNeedsRestart,
    /// A new configuration is invalid; the current one stays in force.
    ReloadRejected,
    /// This worker process replaces one that died.
    WorkerReplaced,
    /// This process took over the sockets and the cache of a predecessor.
    TookOver,
    /// A successor takes queries from now on; this process is on standby.
    HandedOver,
    /// The successor stopped; this process takes queries again.
    HandoverReverted,
    /// A handover to or from another process failed.
    HandoverFailed,
    /// An address or the firewall table was removed, and has been restored.
    NodeRepaired,
    /// An address or the firewall table cannot be restored.
    NodeRepairFailed,
    /// The fallback answered on the node's addresses while nodens did not serve.
    FallbackUsed,
    /// This machine refuses socket operations.
    LocalFault,
    /// This machine has not refused socket operations for a while.
    LocalFaultCleared,
}

/// Log level of an event.
enum Level {
    Info,
    Warn,
    Error,
}

/// One event, as the admin API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Increasing id, also across restarts: the time, or the previous id plus one.
    pub id: u64,
    /// Time of the event.
    #[serde(serialize_with = "as_rfc3339")]
    pub time: UnixMillis,
    /// Kind of the event.
    pub kind: EventKind,
    /// The upstream, if the event is about one.
    pub upstream: Option<String>,
    /// The server, if the event is about one.
    pub server: Option<String>,
    /// Cause or object of the event.
    pub reason: String,
    /// Full text, as in the log.
    pub text: String,
}

/// Ring of recent events.
#[derive(Debug, Default)]
pub struct RecentEvents {
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    last: u64,
    /// Id of the newest event that was dropped.
    forgotten: u64,
    /// Time from which on the ring has events.
    began: UnixMillis,
}

impl RecentEvents {
    /// Sets the time from which on the ring has events. A predecessor may have recorded earlier ones.
    pub fn begin(&self, now: UnixMillis) {
        self.ring().began = now;
    }

    /// Returns the time from which on the ring has events.
    pub fn began(&self) -> UnixMillis {
        self.ring().began
    }

    /// Writes an event to the log and to the ring. `about` is the upstream and the server.
    pub fn record(
        &self,
        time: UnixMillis,
        kind: EventKind,
        about: (Option<&str>, Option<&str>),
        reason: impl Into<String>,
    ) {
        let mut reason = reason.into();
        let end = (0..=LONGEST_REASON.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or(0));
        let text = if reason.is_empty() { kind.words().to_string() } else { format!("{}: {reason}", kind.words()) };
        let (upstream, server) = about;
        self.keep(Event {
            id: 0,
            time,
            kind,
            upstream: upstream.map(str::to_owned),
            server: server.map(str::to_owned),
            reason,
            text: text.clone(),
        });
        // Logs after the ring's lock is released, because the log may be slow.
        match kind.level() {
            Level::Info => tracing::info!(upstream, server, "{text}"),
            Level::Warn => tracing::warn!(upstream, server, "{text}"),
            Level::Error => tracing::error!(upstream, server, "{text}"),
        }
    }

    /// Assigns the event's id and adds it to the ring.
    fn keep(&self, mut event: Event) {
        let mut ring = self.ring();
        // Ids increase even if the clock is set back.
        event.id = event.time.max(ring.last + 1);
        ring.last = event.id;
        ring.events.push_back(Arc::new(event));
        if ring.events.len() > KEPT
            && let Some(oldest) = ring.events.pop_front()
        {
            ring.forgotten = oldest.id;
        }
    }

    /// Returns the events after `id`, oldest first, and whether none of them was dropped, here or with a predecessor. With `id` 0,
    /// those of a predecessor are not asked for.
    pub fn after(&self, id: u64) -> (Vec<Arc<Event>>, bool) {
        let ring = self.ring();
        let from = ring.events.partition_point(|event| event.id <= id);
        (ring.events.range(from..).map(Arc::clone).collect(), ring.forgotten <= id && (id == 0 || ring.began <= id))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The ring is consistent between calls, so a poisoned lock is harmless.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventKind {
    fn words(self) -> &'static str {
        match self {
            Self::Ejected => "upstream server ejected",
            Self::Recovered => "upstream server recovered",
            Self::Failing => "upstream server responds with errors only",
            Self::NoLongerFailing => "upstream server answers again",
            Self::Degraded => "upstream server is far slower than another one, which is queried first",
            Self::NoLongerDegraded => "upstream server is no longer slow",
            Self::ForwardingLoop => {
                "forwarding loop: the upstream server's queries come back to nodens; it is not queried"
            }
            Self::ForwardingLoopCleared => "upstream server is queried again after a forwarding loop",
            Self::EdnsOff => "upstream server does not support EDNS: queried without OPT for 15 minutes",
            Self::RandomCaseOff => {
                "upstream server does not preserve letter case: queried in lower case for 15 minutes"
            }
            Self::PruningOff => "search lists are no longer pruned on this route",
            Self::AddressAdded => "upstream server address added",
            Self::AddressRemoved => "upstream server address removed",
            Self::NameUnresolved => "cannot resolve the name of an upstream server; retrying",
            Self::NameResolved => "name of an upstream server resolved again",
            Self::ReloadApplied => "new configuration applied",
            Self::ReloadNeedsRestart => "new configuration applied, except for these keys, which need a restart",
            Self::ReloadRejected => "new configuration rejected; the current one stays in force",
            Self::WorkerReplaced => "worker replaced",
            Self::TookOver => "took over from the running nodens",
            Self::HandedOver => "handed over to a new nodens; standby",
            Self::HandoverReverted => "handover reverted: this nodens serves again",
            Self::HandoverFailed => "handover failed",
            Self::NodeRepaired => "node repaired: another program had removed this",
            Self::FallbackUsed => "fallback used while nodens did not serve",
            Self::NodeRepairFailed => "cannot repair the node",
            Self::LocalFault => "local fault: queries fail because of this machine, not of an upstream server",
            Self::LocalFaultCleared => "local fault cleared",
        }
    }

    fn level(self) -> Level {
        match self {
            Self::Recovered | Self::ForwardingLoopCleared | Self::EdnsOff | Self::RandomCaseOff => Level::Info,
            Self::AddressAdded | Self::AddressRemoved | Self::NameResolved | Self::ReloadApplied => Level::Info,
            Self::Degraded | Self::NoLongerDegraded | Self::TookOver | Self::HandedOver => Level::Info,
            Self::LocalFaultCleared => Level::Info,
            Self::NoLongerFailing => Level::Info,
            Self::Failing | Self::Ejected | Self::NameUnresolved | Self::ReloadNeedsRestart => Level::Warn,
            Self::PruningOff => Level::Warn,
            Self::HandoverReverted
            | Self::HandoverFailed
            | Self::NodeRepaired
            | Self::FallbackUsed
            | Self::LocalFault => Level::Warn,
            Self::ForwardingLoop | Self::ReloadRejected | Self::WorkerReplaced | Self::NodeRepairFailed => Level::Error,
        }
    }
}

/// Formats a time as RFC 3339, in UTC, with milliseconds.
pub fn rfc3339(time: UnixMillis) -> String {
    let (days, of_day) = (time / 86_400_000, time % 86_400_000);
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    // The Gregorian calendar repeats every 400 years, which have 146,097 days.
    let (mut year, mut day) = (1970 + days / 146_097 * 400, days % 146_097);
    let mut length = 365;
    while day >= length {
        day -= length;
        year += 1;
        length = if is_leap(year) { 366 } else { 365 };
    }
    let mut month = 1;
    for length in [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", day + 1, of_day % 1_000)
}

fn as_rfc3339<S: Serializer>(time: &UnixMillis, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(events: &[Arc<Event>]) -> Vec<u64> {
        events.iter().map(|event| event.id).collect()
    }

    #[test]
    fn ids_grow_with_the_time_and_never_go_back() {
        let events = RecentEvents::default();
        for time in [1_000, 1_000, 990, 2_000] {
            events.record(time, EventKind::Ejected, (Some("up"), Some("192.0.2.1:53")), "three");
        }
        let (all, whole) = events.after(0);
        assert_eq!((ids(&all), whole), (vec![1_000, 1_001, 1_002, 2_000], true));
        assert_eq!(ids(&events.after(1_001).0), [1_002, 2_000]);
        assert_eq!(ids(&events.after(1_500).0), [2_000]);
        assert!(events.after(2_000).0.is_empty() && events.after(u64::MAX).0.is_empty());
        let first = all.first().expect("an event");
        assert_eq!(first.text, "upstream server ejected: three");
        assert_eq!((first.upstream.as_deref(), first.server.as_deref()), (Some("up"), Some("192.0.2.1:53")));
    }

    #[test]
    fn the_ring_forgets_the_oldest_and_says_so() {
        let events = RecentEvents::default();
        for time in 1..=KEPT as u64 {
            events.record(time, EventKind::ReloadApplied, (None, None), "");
        }
        assert!(events.after(0).1, "all are there");
        events.record(9_999, EventKind::ReloadApplied, (None, None), "");
        let (all, whole) = events.after(0);
        assert_eq!((all.len(), all[0].id, whole), (KEPT, 2, false));
        assert_eq!(all[0].text, "new configuration applied");
        // A reader that has seen the first event misses nothing.
        assert!(events.after(1).1);
    }

    #[test]
    fn events_of_a_predecessor_are_missed() {
        let events = RecentEvents::default();
        events.begin(1_000);
        events.record(1_200, EventKind::WorkerReplaced, (None, None), "");
        for (after, number, whole) in [(0, 1, true), (999, 1, false), (1_000, 1, true), (1_200, 0, true)] {
            let (found, is_whole) = events.after(after);
            assert_eq!((found.len(), is_whole), (number, whole), "{after}");
        }
    }

    #[test]
    fn a_reason_is_bounded() {
        let events = RecentEvents::default();
        events.record(1, EventKind::ReloadRejected, (None, None), "ä".repeat(10_000) + "x");
        let reason = events.after(0).0[0].reason.clone();
        assert!(reason.len() <= LONGEST_REASON && reason.chars().all(|letter| letter == 'ä'));
    }

    #[test]
    fn a_time_is_written_as_rfc_3339_does() {
        for (time, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_234_567_890_123, "2009-02-13T23:31:30.123Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (4_107_455_999_000, "2100-02-27T23:59:59.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(time), text);
        }
    }
}
