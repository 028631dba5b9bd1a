//! Faults: the states of the two upstreams, and the queries at which they change.

use std::io;
use std::time::Duration;

use super::names::LAME;
use crate::lab::fault::{Behaviour, Forgery, Tcp};
use crate::lab::upstream::LabUpstream;
use crate::wire::{Rcode, rcode};

/// Response time of a healthy upstream.
pub const HEALTHY_LATENCY: Duration = Duration::from_millis(2);

/// Factor of the slow upstream's response time.
const SLOWER: u32 = 10;

/// Response time of the late upstream: longer than a resolver should wait, shorter than the client's timeout.
const LATE: Duration = Duration::from_millis(1500);

/// Query at which a brief fault begins.
const BRIEF_AT: u32 = 5;

/// Number of queries between two queries for the lame name.
const LAME_EVERY: usize = 10;

/// One fault, which is one row of the tables.
#[derive(Clone, Copy, Debug)]
pub struct FaultRow {
    /// Name on the command line and in JSON.
    pub name: &'static str,
    pub(crate) label: &'static str,
    course: Course,
}

/// Course of a fault: which upstreams change, and when.
#[derive(Clone, Copy, Debug)]
enum Course {
    /// The first upstream is in this state throughout.
    Throughout(UpstreamState),
    /// The first upstream enters this state after the given number of queries.
    After(u32, UpstreamState),
    /// Silence moves from the second to the first upstream after a third of the queries, and back after two thirds.
    Swap,
    /// The first upstream is alternately silent and healthy, each for the given number of queries.
    Flaps(u32),
    /// The only upstream is in this state for the given number of queries.
    OnlyOne(u32, UpstreamState),
    /// Both upstreams are silent for the given number of queries.
    Both(u32),
    /// Neither upstream answers one name, which another client asks repeatedly.
    Lame,
}

/// State of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamState {
    /// Answers after [`HEALTHY_LATENCY`].
    Healthy,
    /// Receives queries and never responds.
    Silent,
    /// Its port is closed, for UDP and TCP.
    Closed,
    /// Responds with this code and no records.
    Rcode(Rcode),
    /// Answers after a second and a half.
    Late,
    /// Drops the responses to 30 % of the queries over UDP.
    Lossy,
    /// Answers after ten times `HEALTHY_LATENCY`.
    Slow,
    /// Responds with the correct ID followed by noise.
    Garbage,
    /// Responds from a port other than the queried one.
    OtherPort,
    /// Truncates every response over UDP; accepts TCP connections and never writes to them.
    Truncated,
    /// Never answers [`LAME`], and is healthy for other names.
    Lame,
}

/// States of both upstreams from a query on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamChange {
    /// Number of the query, from 0.
    pub at: u32,
    /// States of the first and the second upstream.
    pub states: [UpstreamState; 2],
}

/// Timing of the queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One query every 50 ms, independent of earlier queries.
    Steady,
    /// Each query follows the result of the previous one.
    Burst,
}

/// All faults, in the order of the tables.
pub const FAULTS: [FaultRow; 19] = [
    fault("none", "none", Course::Throughout(UpstreamState::Healthy)),
    fault("silent", "silent from the start", Course::Throughout(UpstreamState::Silent)),
    fault("goes-silent", "goes silent in use", Course::After(10, UpstreamState::Silent)),
    fault("closed", "port closed", Course::Throughout(UpstreamState::Closed)),
    fault("goes-closed", "port closes in use", Course::After(10, UpstreamState::Closed)),
    fault("servfail", "answers SERVFAIL", Course::Throughout(UpstreamState::Rcode(rcode::SERVFAIL))),
    fault("refused", "answers REFUSED", Course::Throughout(UpstreamState::Rcode(rcode::REFUSED))),
    fault("late", "answers after 1.5 s", Course::Throughout(UpstreamState::Late)),
    fault("loss", "loses 30 %", Course::Throughout(UpstreamState::Lossy)),
    fault("swap", "the two swap roles", Course::Swap),
    fault("slower", "ten times slower", Course::Throughout(UpstreamState::Slow)),
    fault("garbage", "answers garbage", Course::Throughout(UpstreamState::Garbage)),
    fault("other-port", "answers from wrong port", Course::Throughout(UpstreamState::OtherPort)),
    fault("truncated", "truncates, TCP dead", Course::Throughout(UpstreamState::Truncated)),
    fault("flaps", "silent every other 2 s", Course::Flaps(40)),
    fault("only-silent", "only one, silent 400 ms", Course::OnlyOne(8, UpstreamState::Silent)),
    fault("both-silent", "both silent 500 ms", Course::Both(10)),
    fault("lame", "one lame name", Course::Lame),
    fault("only-closed", "only one, port closed 150 ms", Course::OnlyOne(3, UpstreamState::Closed)),
];

const fn fault(name: &'static str, label: &'static str, course: Course) -> FaultRow {
    FaultRow { name, label, course }
}

impl FaultRow {
    /// Returns the fault with this name.
    pub fn named(name: &str) -> Option<Self> {
        FAULTS.into_iter().find(|fault| fault.name == name)
    }

    /// Returns the number of queries.
    pub fn queries(&self, mode: Mode, quick: bool) -> u32 {
        match (mode, self.course, quick) {
            (Mode::Burst, _, false) => 500,
            (Mode::Burst, _, true) => 100,
            // Three periods, or two in a quick run.
            (Mode::Steady, Course::Flaps(turn), quick) => turn * if quick { 2 } else { 3 },
            (Mode::Steady, Course::Swap, false) => 60,
            (Mode::Steady, Course::Swap, true) => 30,
            (Mode::Steady, _, false) => 50,
            (Mode::Steady, _, true) => 20,
        }
    }

    /// Returns whether the fault is measured in this mode. A burst is too short for a fault that begins in use or depends on
    /// time.
    pub fn is_for(&self, mode: Mode) -> bool {
        let needs_time = matches!(self.course, Course::After(..) | Course::Flaps(_));
        mode == Mode::Steady || !(needs_time || self.is_brief())
    }

    /// Returns whether the fault ends while the client still sends queries, or affects another client only.
    fn is_brief(&self) -> bool {
        matches!(self.course, Course::OnlyOne(..) | Course::Both(_) | Course::Lame)
    }

    /// Returns whether the server under test has only the first upstream.
    pub fn has_one_upstream(&self) -> bool {
        matches!(self.course, Course::OnlyOne(..))
    }

    /// Returns whether the second upstream is healthy throughout, which makes its number of queries comparable.
    pub fn spares_the_second(&self) -> bool {
        !matches!(self.course, Course::Swap) && !self.is_brief()
    }

    /// Returns the changes during this number of queries. The first change is at query 0.
    pub fn changes(&self, queries: u32) -> Vec<UpstreamChange> {
        let first = |at, state| UpstreamChange { at, states: [state, UpstreamState::Healthy] };
        match self.course {
            Course::Throughout(state) => vec![first(0, state)],
            Course::After(at, state) => vec![first(0, UpstreamState::Healthy), first(at, state)],
            Course::Swap => (0..3)
                .map(|third| {
                    let states = [UpstreamState::Healthy, UpstreamState::Silent];
                    let states = if third % 2 == 0 { states } else { [states[1], states[0]] };
                    UpstreamChange { at: queries * third / 3, states }
                })
                .collect(),
            Course::Flaps(turn) => (0..queries.div_ceil(turn))
                .map(|number| {
                    first(number * turn, if number % 2 == 0 { UpstreamState::Silent } else { UpstreamState::Healthy })
                })
                .collect(),
            Course::OnlyOne(lasts, state) => {
                vec![
                    first(0, UpstreamState::Healthy),
                    first(BRIEF_AT, state),
                    first(BRIEF_AT + lasts, UpstreamState::Healthy),
                ]
            }
            Course::Both(lasts) => {
                let both = UpstreamChange { at: BRIEF_AT, states: [UpstreamState::Silent; 2] };
                vec![first(0, UpstreamState::Healthy), both, first(BRIEF_AT + lasts, UpstreamState::Healthy)]
            }
            Course::Lame => {
                let times = (0..queries).step_by(LAME_EVERY);
                times.map(|at| UpstreamChange { at, states: [UpstreamState::Lame; 2] }).collect()
            }
        }
    }
}

impl Mode {
    /// Returns the name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Burst => "burst",
        }
    }
}

impl UpstreamState {
    /// Sets an upstream to this state.
    ///
    /// # Errors
    /// The system's error if another process now holds the port that was closed.
    pub async fn apply(self, upstream: &LabUpstream) -> io::Result<()> {
        let normal = Behaviour::normal();
        upstream.set(match self {
            Self::Healthy | Self::Closed => normal,
            Self::Silent => Behaviour::silent(),
            Self::Rcode(code) => Behaviour::rcode(code),
            Self::Late => normal.latency(LATE),
            Self::Lossy => normal.lose_percent(30, 1),
            Self::Slow => normal.slower(SLOWER),
            Self::Garbage => Behaviour::edited(|_, wire| noise(wire)),
            Self::OtherPort => Behaviour::forged(Forgery::OtherPort),
            Self::Truncated => Behaviour::truncated().tcp(Tcp::Silent),
            Self::Lame => Behaviour::edited(|seen, wire| {
                if seen.is_named(LAME) {
                    wire.clear();
                }
            }),
        });
        if self == Self::Closed {
            upstream.stop().await;
            return Ok(());
        }
        upstream.restart()
    }
}

/// Overwrites everything after the ID with the same noise each time.
fn noise(wire: &mut [u8]) {
    let mut byte = 0x5a_u8;
    for place in wire.iter_mut().skip(2) {
        byte = byte.wrapping_mul(167).wrapping_add(13);
        *place = byte;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_course_begins_at_the_first_query() {
        for fault in FAULTS {
            for (mode, quick) in [(Mode::Steady, false), (Mode::Steady, true), (Mode::Burst, false)] {
                let queries = fault.queries(mode, quick);
                let changes = fault.changes(queries);
                assert_eq!(changes[0].at, 0, "{}", fault.name);
                assert!(changes.is_sorted_by(|one, next| one.at < next.at), "{}", fault.name);
                assert!(changes.iter().all(|change| change.at < queries), "{}: {changes:?}", fault.name);
            }
            assert_eq!(FaultRow::named(fault.name).unwrap().label, fault.label);
        }
    }

    #[test]
    fn roles_change_at_a_third_and_two_thirds() {
        let changes = FaultRow::named("swap").unwrap().changes(60);
        let (healthy, silent) = (UpstreamState::Healthy, UpstreamState::Silent);
        let change = |at, first, second| UpstreamChange { at, states: [first, second] };
        assert_eq!(changes, [change(0, healthy, silent), change(20, silent, healthy), change(40, healthy, silent)]);
        let flaps = FaultRow::named("flaps").unwrap();
        assert_eq!(flaps.changes(80), [change(0, silent, healthy), change(40, healthy, healthy)]);
    }
}
