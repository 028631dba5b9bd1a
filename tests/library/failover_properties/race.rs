//! Properties of a race: servers answer, stay silent, are late, fail or truncate according to a schedule.

use std::time::Duration;

use nodens::upstream::race::{Attempt, AttemptOutcome, Candidate, MOST_TRIES, Race, Step, TRIES_PER_SERVER};
use nodens::upstream::{FailureKind, Transport};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::time::Instant;

use super::config;

const MS: Duration = Duration::from_millis(1);
/// Least milliseconds from a server's first, second and third attempt to the next one.
const PAUSES: [u32; 3] = [50, 400, 500];
/// Least time from the last but one attempt to the last, and most time from the last attempt to the deadline.
const LAST: Duration = Duration::from_secs(1);

/// A server, and the fate of each query to it: no response, or this outcome after this many milliseconds.
#[derive(Clone, Debug)]
struct Server {
    candidate: Candidate,
    fates: Vec<Option<(u32, AttemptOutcome)>>,
}

fn outcome() -> impl Strategy<Value = AttemptOutcome> {
    select(vec![
        AttemptOutcome::Answered,
        AttemptOutcome::Answered,
        AttemptOutcome::Answered,
        AttemptOutcome::Truncated,
        AttemptOutcome::Doubtful,
        AttemptOutcome::Failed(FailureKind::Formerr),
        AttemptOutcome::Failed(FailureKind::Servfail),
        AttemptOutcome::Failed(FailureKind::Refused),
        AttemptOutcome::Failed(FailureKind::ConnectionRefused),
        AttemptOutcome::Failed(FailureKind::Malformed),
    ])
}

fn server() -> impl Strategy<Value = Server> {
    let fate = prop_oneof![
        2 => Just(None),
        2 => (0..2_000_u32, outcome()).prop_map(Some),
        1 => outcome().prop_map(|outcome| Some((0, outcome))),
    ];
    let transport = select(vec![Transport::Udp, Transport::Udp, Transport::Tls]);
    (5..150_u32, 50..1_000_u32, any::<bool>(), any::<bool>(), transport, vec(fate, 1..8)).prop_map(
        |(hedge, timeout, edns, healthy, transport, fates)| {
            let candidate = Candidate { hedge_after: MS * hedge, timeout: MS * timeout, edns, transport, healthy };
            Server { candidate, fates }
        },
    )
}

/// An attempt that was sent, as the test tracks it.
struct Sent {
    attempt: Attempt,
    at: Instant,
    times_out: Instant,
    fate: Option<(Instant, AttemptOutcome)>,
    open: bool,
    overdue: bool,
    /// The connection was refused, and no earlier response had required TCP.
    no_tcp: bool,
}

struct Course<'a> {
    servers: &'a [Server],
    sent: Vec<Sent>,
    out: Vec<bool>,
    /// Servers whose responses require TCP.
    needs_tcp: Vec<bool>,
    deadline: Instant,
    /// Server that is queried next over another transport or without EDNS, before any other server.
    continues: Option<usize>,
}

impl Course<'_> {
    fn send(&mut self, attempt: Attempt, now: Instant) {
        let server = &self.servers[attempt.candidate];
        let like =
            |sent: &&Sent| sent.attempt.candidate == attempt.candidate && sent.attempt.transport == attempt.transport;
        let before = self.sent.iter().filter(like).count();
        let many = attempt.transport == Transport::Tls || self.has_no_tcp(attempt.candidate);
        let most = if many { MOST_TRIES } else { TRIES_PER_SERVER };
        assert!(before < usize::from(most), "a server was asked too often over one transport");
        assert!(self.tries(attempt.candidate) < usize::from(MOST_TRIES), "a server was asked too often");
        let mut same = self.sent.iter().filter(like).filter(|sent| sent.attempt.edns == attempt.edns);
        let twin = same.any(|sent| sent.open && !sent.overdue && now < sent.times_out);
        assert!(!twin, "a second attempt while the first is within its time");
        if attempt.hedge {
            assert!(self.sent.iter().any(|sent| sent.open && !sent.overdue), "a hedge beside nobody");
            let all_ill = self.servers.iter().all(|server| !server.candidate.healthy);
            assert!(all_ill || server.candidate.healthy, "hedged to a server that is down");
        }
        let asked = self.sent.iter().filter(|sent| sent.attempt.candidate == attempt.candidate).count();
        let fate = server.fates[asked % server.fates.len()].map(|(after, outcome)| (now + MS * after, outcome));
        let round_trips = if attempt.transport == Transport::Tcp { 2 } else { 1 };
        let times_out = now + server.candidate.timeout * round_trips;
        self.sent.push(Sent { attempt, at: now, times_out, fate, open: true, overdue: false, no_tcp: false });
    }

    /// Returns whether a server has refused a connection that no earlier response had required.
    fn has_no_tcp(&self, candidate: usize) -> bool {
        self.sent.iter().any(|sent| sent.attempt.candidate == candidate && sent.no_tcp)
    }

    /// Returns the number of a server's attempts, without the refused connection.
    fn tries(&self, candidate: usize) -> usize {
        let of_it = self.sent.iter().filter(|sent| sent.attempt.candidate == candidate).count();
        of_it - usize::from(self.has_no_tcp(candidate))
    }

    /// Returns whether a server may be queried by `then`.
    fn someone_is_left(&self, then: Instant) -> bool {
        (0..self.servers.len()).any(|at| {
            let mut sent = self.sent.iter().filter(|sent| sent.attempt.candidate == at);
            let tries = self.tries(at);
            let next = |last: &Sent| match PAUSES.get(tries - 1) {
                Some(pause) => last.at + MS * *pause,
                None => (last.at + LAST).max(self.deadline - LAST),
            };
            let paused = sent.clone().next_back().is_some_and(|last| next(last) > then);
            let busy = sent.any(|sent| sent.open && !sent.overdue);
            !self.out[at] && tries < usize::from(MOST_TRIES) && !paused && !busy
        })
    }

    /// Passes the next outcome until `until` to the race; returns none if there is none.
    fn deliver(
        &mut self,
        race: &mut Race,
        until: Instant,
        now: &mut Instant,
        owed: &mut bool,
    ) -> Option<AttemptOutcome> {
        let (number, at, outcome) = (0..)
            .zip(&self.sent)
            .filter(|(_, sent)| sent.open)
            .filter_map(|(number, sent)| sent.fate.map(|(at, outcome)| (number, at, outcome)))
            .filter(|(_, at, _)| *at <= until)
            .min_by_key(|(number, at, _)| (*at, *number))?;
        *now = at.max(*now);
        let sent: &mut Sent = &mut self.sent[number];
        sent.open = false;
        let follows = match outcome {
            AttemptOutcome::Truncated | AttemptOutcome::Doubtful => sent.attempt.transport == Transport::Udp,
            AttemptOutcome::Failed(FailureKind::Formerr) => sent.attempt.edns,
            AttemptOutcome::Failed(FailureKind::ConnectionRefused) => {
                sent.no_tcp = sent.attempt.transport == Transport::Tcp && !self.needs_tcp[sent.attempt.candidate];
                sent.no_tcp
            }
            _ => false,
        };
        self.needs_tcp[sent.attempt.candidate] |=
            follows && matches!(outcome, AttemptOutcome::Truncated | AttemptOutcome::Doubtful);
        self.continues = follows.then_some(sent.attempt.candidate);
        if let AttemptOutcome::Failed(kind) = outcome
            && !follows
        {
            self.out[sent.attempt.candidate] |= kind.is_reply();
            *owed |= !sent.overdue;
        }
        race.ended(number, outcome);
        Some(outcome)
    }
}

proptest! {
    #![proptest_config(config(4_000))]

    #[test]
    fn a_race_ends_as_it_should(
        servers in vec(server(), 1..=4),
        time in 200..3_000_u32,
        budget in any::<bool>(),
        late in 0..4_u32,
    ) {
        let start = Instant::now();
        let deadline = start + MS * time;
        let mut race = Race::new(servers.iter().map(|server| server.candidate), deadline);
        let mut course = Course { servers: &servers, sent: Vec::new(), out: vec![false; servers.len()], needs_tcp: vec![false; servers.len()], deadline, continues: None };
        let (mut now, mut answered, mut hedges) = (start, false, 0);
        // True after a failure: the next attempt is due at once, whatever the budget allows.
        let mut owed = true;
        for steps in 0.. {
            prop_assert!(steps < 500, "it goes in circles");
            let mut may_hedge = false;
            let step = race.step(now, || {
                may_hedge = true;
                budget
            });
            let due = owed && course.someone_is_left(now) && now < deadline && !answered;
            match step {
                Step::Send(attempt) => {
                    if attempt.hedge {
                        prop_assert!(may_hedge && budget && !due, "a hedge out of turn");
                        hedges += 1;
                    } else {
                        prop_assert!(!may_hedge, "the budget was asked for a retry");
                    }
                    prop_assert!(now < deadline, "sent when it is too late");
                    owed &= course.continues.take() == Some(attempt.candidate);
                    course.send(attempt, now);
                }
                Step::Overdue(number) => {
                    let sent = &mut course.sent[number];
                    prop_assert!(sent.open && !sent.overdue && now >= sent.times_out, "overdue before its time");
                    sent.overdue = true;
                    owed = true;
                }
                Step::Wait(until) => {
                    prop_assert!(!due, "it waits though a server is left to be asked");
                    prop_assert!(until > now && until <= deadline, "it waits for {:?}", until - now);
                    // An attempt that is due may wait for the end of a pause.
                    owed &= course.someone_is_left(deadline);
                    match course.deliver(&mut race, until, &mut now, &mut owed) {
                        Some(outcome) => answered |= outcome == AttemptOutcome::Answered,
                        None => now = until + MS * late,
                    }
                }
                Step::Won(number) => {
                    prop_assert!(matches!(course.sent[number].fate, Some((at, AttemptOutcome::Answered)) if at <= now));
                    break;
                }
                Step::Lost => {
                    prop_assert!(!answered, "an answer was lost");
                    prop_assert!(now <= deadline + MS * late, "it ends {:?} too late", now - deadline);
                    let open = course.sent.iter().any(|sent| sent.open);
                    prop_assert!(now >= deadline || !(open || course.someone_is_left(deadline)), "it gave up too early");
                    break;
                }
            }
        }
        prop_assert!(hedges <= 1);
        let first = course.sent.first().map(|sent| (sent.at, sent.attempt.candidate));
        prop_assert_eq!(first, Some((start, 0)), "the best server is asked at once");

        // The race waits for the other attempts until each has an outcome or has timed out.
        for _ in 0..100 {
            match race.wind_up(now) {
                Step::Overdue(number) => course.sent[number].overdue = true,
                Step::Wait(until) => {
                    prop_assert!(until > now);
                    if course.deliver(&mut race, until, &mut now, &mut owed).is_none() {
                        now = until;
                    }
                }
                _ => break,
            }
        }
        prop_assert!(course.sent.iter().all(|sent| !sent.open || sent.overdue), "a silent server got away");
    }
}
