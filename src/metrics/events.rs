//! What happened to upstreams and to the configuration: each change is told here once, and goes to the log and into a
//! ring that the admin pages read.
//!
//! Told are changes of state, never queries: this is far off every hot path. The ring holds the last [`KEPT`] of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Serialize, Serializer};

/// Events in the ring; the oldest are forgotten.
pub const KEPT: usize = 256;
/// The most bytes of a reason: it may quote what a stranger has written.
const LONGEST_REASON: usize = 512;

/// Milliseconds since 1970-01-01 00:00 UTC.
pub type UnixMillis = u64;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Clients' queries go to this server no more; it is probed.
    Ejected,
    /// Clients' queries go there again.
    Recovered,
    /// It gives errors alone.
    Failing,
    /// It gives answers again.
    NoLongerFailing,
    /// It is far slower than another one, which is asked before it now.
    Degraded,
    /// It is not far slower any more.
    NoLongerDegraded,
    /// Its queries come back to nodens; it is not asked while they do.
    ForwardingLoop,
    /// They do no more, or that is to be found out again.
    ForwardingLoopCleared,
    /// It gets no EDNS for a while.
    EdnsOff,
    /// It gets no random letter case for a while.
    RandomCaseOff,
    /// Names below a cluster's domain that were denied exist; none is denied without asking any more.
    PruningOff,
    /// The name of a server leads to this address.
    AddressAdded,
    /// The name of a server leads there no more.
    AddressRemoved,
    /// The name of a server cannot be resolved.
    NameUnresolved,
    /// It can again.
    NameResolved,
    /// A new configuration is in force.
    ReloadApplied,
    /// The same, but a part of it waits for a restart.
    ReloadNeedsRestart,
    /// A new configuration was not good.
    ReloadRejected,
    /// This worker takes the place of one that died.
    WorkerReplaced,
    /// This nodens takes the place of another one, with its sockets and its cache.
    TookOver,
    /// A new one takes queries from now on; this one rests.
    HandedOver,
    /// The new one does no more; this one takes queries again.
    HandoverReverted,
    /// There was no handover.
    HandoverFailed,
    /// An address or the firewall was gone, and is back.
    NodeRepaired,
    /// It cannot be put back.
    NodeRepairFailed,
    /// This machine refuses sockets or what is done with them.
    LocalFault,
    /// It has not done so for a while.
    LocalFaultCleared,
}

/// How loudly it is logged.
enum Level {
    Info,
    Warn,
    Error,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Grows from event to event, across restarts too: it is the time, or one more than the last one's.
    pub id: u64,
    /// When.
    #[serde(serialize_with = "as_rfc3339")]
    pub time: UnixMillis,
    /// What.
    pub kind: Kind,
    /// The group, if it is about one.
    pub upstream: Option<String>,
    /// The server, if it is about one.
    pub server: Option<String>,
    /// Why, or which.
    pub reason: String,
    /// All of it in words, as the log has it.
    pub text: String,
}

/// The ring.
#[derive(Debug, Default)]
pub struct Events {
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    last: u64,
    /// The newest that is in the ring no more.
    forgotten: u64,
}

impl Events {
    /// Tells of an event, to the log and to whoever looks into the ring. `about` is the group and the server.
    pub fn tell(&self, time: UnixMillis, kind: Kind, about: (Option<&str>, Option<&str>), reason: impl Into<String>) {
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
        // Behind the ring's lock: a log may be slow.
        match kind.level() {
            Level::Info => tracing::info!(upstream, server, "{text}"),
            Level::Warn => tracing::warn!(upstream, server, "{text}"),
            Level::Error => tracing::error!(upstream, server, "{text}"),
        }
    }

    /// Gives the event its id and its place.
    fn keep(&self, mut event: Event) {
        let mut ring = self.ring();
        // A clock that was set back does not take ids back.
        event.id = event.time.max(ring.last + 1);
        ring.last = event.id;
        ring.events.push_back(Arc::new(event));
        if ring.events.len() > KEPT
            && let Some(oldest) = ring.events.pop_front()
        {
            ring.forgotten = oldest.id;
        }
    }

    /// The events after that id, oldest first, and whether none of them has been forgotten.
    pub fn after(&self, id: u64) -> (Vec<Arc<Event>>, bool) {
        let ring = self.ring();
        let from = ring.events.partition_point(|event| event.id <= id);
        (ring.events.range(from..).map(Arc::clone).collect(), ring.forgotten <= id)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The ring is whole between any two of its calls.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kind {
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
            Self::HandoverReverted | Self::HandoverFailed | Self::NodeRepaired | Self::LocalFault => Level::Warn,
            Self::ForwardingLoop | Self::ReloadRejected | Self::WorkerReplaced | Self::NodeRepairFailed => Level::Error,
        }
    }
}

/// A time as RFC 3339 writes it, in UTC, to the millisecond.
pub fn rfc3339(time: UnixMillis) -> String {
    let (days, of_day) = (time / 86_400_000, time % 86_400_000);
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    // The Gregorian calendar repeats itself every 400 years, which have 146,097 days.
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
        let events = Events::default();
        for time in [1_000, 1_000, 990, 2_000] {
            events.tell(time, Kind::Ejected, (Some("up"), Some("192.0.2.1:53")), "three");
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
        let events = Events::default();
        for time in 1..=KEPT as u64 {
            events.tell(time, Kind::ReloadApplied, (None, None), "");
        }
        assert!(events.after(0).1, "all are there");
        events.tell(9_999, Kind::ReloadApplied, (None, None), "");
        let (all, whole) = events.after(0);
        assert_eq!((all.len(), all[0].id, whole), (KEPT, 2, false));
        assert_eq!(all[0].text, "new configuration applied");
        // Who has seen the first one misses nothing.
        assert!(events.after(1).1);
    }

    #[test]
    fn a_reason_is_bounded() {
        let events = Events::default();
        events.tell(1, Kind::ReloadRejected, (None, None), "ä".repeat(10_000) + "x");
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
