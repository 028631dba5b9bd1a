//! Race among the servers of a group for one question: a pure state machine, time is an argument.
//!
//! 1. The best server is queried: the first healthy one in order, or the one with the lowest smoothed latency.
//! 2. If it does not respond within its usual worst latency, the next healthy server is queried as well (a hedge), if the
//!    budget allows: hedges are at most 5 % of queries beyond a burst, because they must not slow down a slow network
//!    further.
//! 3. If it does not respond within its own timeout, or fails at once (SERVFAIL, REFUSED, a closed port ...), the next
//!    server is queried without regard to the budget. After the last server the order starts again with those that did
//!    not respond or whose port was closed: each server at most three times over UDP and twice over TCP (five times over
//!    TLS, or over UDP if it takes no TCP connections), with growing pauses. A server that is down for a second is
//!    queried again soon after it is back; one that is down for longer, when it has responded to another query. A server
//!    that responded with an error is not queried again, because it would repeat the error. A server that this machine
//!    cannot query is left out.
//! 4. Every attempt stays open: the first response that is an answer wins, even after its attempt has timed out.
//! 5. The race is lost at the deadline, or when no server is left to query and no attempt is in flight.
//!
//! After TC the question is sent to the same server over TCP at once; after FORMERR or NOTIMP, again without EDNS. A
//! doubtful response, which has the question in other letters or no question, causes an attempt over TCP as well, where a
//! response cannot be forged by guessing; the true response over UDP still counts.

use std::time::Duration;

use tokio::time::Instant;

use super::failure::FailureKind;
use super::transport::Transport;

/// Attempts over UDP per server and query before TCP is tried, and limit per transport of attempts that a response asks
/// for (RFC 9520 section 3.1 allows three per transport).
pub const TRIES_PER_SERVER: u8 = 3;
/// Attempts per server and query over all transports.
pub const MOST_TRIES: u8 = 5;
/// Minimum time from the first, second and third attempt at a server to the next one. After an outage of less than a
/// second, every query that began during it makes an attempt within half a second.
const PAUSES: [Duration; MOST_TRIES as usize - 2] =
    [Duration::from_millis(50), Duration::from_millis(400), Duration::from_millis(500)];
/// Last attempt, for longer outages: made once the server has responded to another query, or this long before the
/// deadline, and at least this long after the attempt before it otherwise.
const LAST_TRY: Duration = Duration::from_secs(1);

/// Time limit for the setup of a connection, TLS included.
pub const SET_UP: Duration = Duration::from_secs(1);

/// One server of the group, as the race needs it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Time after which another server is queried as well.
    pub hedge_after: Duration,
    /// Time after which an attempt is overdue.
    pub timeout: Duration,
    /// True if the query is sent with an OPT record.
    pub edns: bool,
    /// First transport: UDP, or TLS if the server is configured for it.
    pub transport: Transport,
    /// Takes clients' queries. Any other server is the last resort, and hedged to only if no server takes queries.
    pub healthy: bool,
}

/// Parameters of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Index of the candidate.
    pub candidate: usize,
    /// Transport that carries the attempt.
    pub transport: Transport,
    /// True if the query was sent with an OPT record.
    pub edns: bool,
    /// Hedge: sent while another attempt is still within its timeout.
    pub hedge: bool,
}

/// Outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// A server gave a usable answer.
    Answered,
    /// A truncated response: TCP is needed.
    Truncated,
    /// A message that may be the response or a forgery.
    Doubtful,
    /// A message like `Doubtful` which, if genuine, says that the server does not understand EDNS.
    DoubtfulFormerr,
    /// The attempt ended without a usable answer.
    Failed(FailureKind),
}

/// Next action of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this attempt and call again; its number is the count of attempts sent before.
    Send(Attempt),
    /// The attempt with this number timed out: count that against its server and call again.
    Overdue(usize),
    /// Wait for a response until this time and call again.
    Wait(Instant),
    /// The attempt with this number won.
    Won(usize),
    /// Every attempt failed, and no server is left to query.
    Lost,
}

/// State of the race for one question.
#[derive(Debug)]
pub struct Race {
    states: Vec<CandidateState>,
    attempts: Vec<AttemptState>,
    deadline: Instant,
    /// Attempt to send at once.
    postponed: Option<Attempt>,
    won: Option<usize>,
    /// The hedge was sent, or refused by the budget and not to be requested again.
    hedged: bool,
    /// Some attempt ended or timed out and has no successor yet.
    successor_owed: bool,
}

#[derive(Debug)]
struct CandidateState {
    candidate: Candidate,
    tries: u8,
    /// Earliest time of the next attempt.
    next: Option<Instant>,
    /// It responded that the answer needs TCP.
    needs_tcp: bool,
    /// It takes no connections: all attempts are over UDP.
    has_no_tcp: bool,
    /// Excluded: it responded with an error, or this machine cannot query it.
    out: bool,
}

#[derive(Debug)]
struct AttemptState {
    attempt: Attempt,
    sent: Instant,
    /// Time at which it was written to an established connection.
    written: Option<Instant>,
    open: bool,
    overdue: bool,
    /// A doubtful response came: the race does not wait for this attempt, but a later response to it counts.
    doubted: bool,
}

impl Race {
    /// Creates a race among `candidates`, the best first.
    pub fn new(candidates: impl IntoIterator<Item = Candidate>, deadline: Instant) -> Self {
        let state = |candidate| CandidateState {
            candidate,
            tries: 0,
            next: None,
            needs_tcp: false,
            has_no_tcp: false,
            out: false,
        };
        let mut states: Vec<_> = candidates.into_iter().map(state).collect();
        // If all are down, any of them may recover first.
        if states.iter().all(|state| !state.candidate.healthy) {
            states.iter_mut().for_each(|state| state.candidate.healthy = true);
        }
        Self {
            states,
            attempts: Vec::with_capacity(2),
            deadline,
            postponed: None,
            won: None,
            hedged: false,
            successor_owed: true,
        }
    }

    /// Returns the next action at `now`. `may_hedge` draws from the budget; it is called only when a hedge is due.
    pub fn step(&mut self, now: Instant, may_hedge: impl FnOnce() -> bool) -> Step {
        if let Some(winner) = self.won {
            return Step::Won(winner);
        }
        if let Some(number) = self.overdue(now) {
            self.successor_owed = true;
            return Step::Overdue(number);
        }
        if now >= self.deadline {
            return Step::Lost;
        }
        if let Some(attempt) = self.postponed.take() {
            return self.send(attempt, now);
        }
        if self.successor_owed
            && let Some(candidate) = self.next_candidate(now)
        {
            self.successor_owed = false;
            return self.send(self.first_attempt(candidate, false), now);
        }
        let next_try = self.next_try().filter(|_| self.successor_owed);
        self.successor_owed = next_try.is_some();
        if !self.hedged && self.hedge_due().is_some_and(|due| now >= due) {
            self.hedged = true;
            let next = self.next_candidate(now).filter(|next| self.states[*next].candidate.healthy);
            if let Some(candidate) = next.filter(|_| may_hedge()) {
                return self.send(self.first_attempt(candidate, true), now);
            }
        }
        if next_try.is_none() && self.attempts.iter().all(|tried| !tried.open) {
            return Step::Lost;
        }
        Step::Wait(next_try.into_iter().fold(self.next_event(), Instant::min))
    }

    /// Returns the next action after the race was won. Losing attempts that are within their timeout are still waited
    /// for, to detect a silent server even if another one always answers first. Returns only [`Step::Overdue`],
    /// [`Step::Wait`] and [`Step::Lost`] (nothing left to do).
    pub fn wind_up(&mut self, now: Instant) -> Step {
        if let Some(number) = self.overdue(now) {
            return Step::Overdue(number);
        }
        match self.timeouts().min() {
            Some(next) => Step::Wait(next),
            None => Step::Lost,
        }
    }

    /// Reports whether any attempt is left for [`Race::wind_up`] to wait for.
    pub fn has_losers(&self) -> bool {
        self.timeouts().next().is_some()
    }

    /// Starts the timeout of attempt `number`, which was written to its connection at `now`.
    pub fn written(&mut self, number: usize, now: Instant) {
        if let Some(tried) = self.attempts.get_mut(number) {
            tried.written = Some(now);
        }
    }

    /// Records the outcome of attempt `number`.
    pub fn ended(&mut self, number: usize, outcome: AttemptOutcome) {
        let Some(tried) = self.attempts.get_mut(number) else { return };
        let was_open = std::mem::replace(&mut tried.open, false);
        if !was_open && !std::mem::replace(&mut tried.doubted, false) {
            return;
        }
        tried.doubted = matches!(outcome, AttemptOutcome::Doubtful | AttemptOutcome::DoubtfulFormerr) && was_open;
        let (attempt, overdue) = (tried.attempt, tried.overdue);
        match outcome {
            AttemptOutcome::Answered => self.won = self.won.or(Some(number)),
            AttemptOutcome::Failed(FailureKind::Formerr | FailureKind::Notimp) | AttemptOutcome::DoubtfulFormerr
                if attempt.edns =>
            {
                self.states[attempt.candidate].candidate.edns = false;
                self.proceed(Attempt { edns: false, hedge: false, ..attempt }, overdue);
            }
            AttemptOutcome::Truncated | AttemptOutcome::Doubtful | AttemptOutcome::DoubtfulFormerr
                if attempt.transport == Transport::Udp =>
            {
                self.states[attempt.candidate].needs_tcp = true;
                self.proceed(Attempt { transport: Transport::Tcp, hedge: false, ..attempt }, overdue);
            }
            AttemptOutcome::Failed(FailureKind::ConnectionRefused | FailureKind::Network)
                if attempt.transport == Transport::Tcp && !self.states[attempt.candidate].needs_tcp =>
            {
                // TCP was only an alternative: the server has not seen the question.
                let state = &mut self.states[attempt.candidate];
                state.tries -= u8::from(!std::mem::replace(&mut state.has_no_tcp, true));
                self.postponed = Some(Attempt { transport: Transport::Udp, hedge: false, ..attempt });
            }
            // It may have been truncated on its way; TCP carries it whole. Tried only if there is no other server.
            AttemptOutcome::Failed(FailureKind::Malformed)
                if attempt.transport == Transport::Udp && self.states.len() == 1 =>
            {
                self.states[attempt.candidate].needs_tcp = true;
                self.proceed(Attempt { transport: Transport::Tcp, hedge: false, ..attempt }, overdue);
            }
            outcome => {
                // An immediate retry would meet the same error of the server or the same lasting fault of this machine.
                let is_final = matches!(outcome, AttemptOutcome::Failed(kind) if kind.is_final());
                self.states[attempt.candidate].out |= is_final;
                // An overdue attempt has its successor already.
                self.successor_owed |= !overdue;
            }
        }
    }

    /// Schedules the question for the same server with other parameters. Late responses may request this more than once:
    /// an attempt that is in flight already is not repeated, and each transport has at most three attempts.
    fn proceed(&mut self, next: Attempt, overdue: bool) {
        let same = |tried: &&AttemptState| {
            (tried.attempt.candidate, tried.attempt.transport) == (next.candidate, next.transport)
        };
        let mut before = self.attempts.iter().filter(same);
        let tries = before.clone().count();
        let all_tries = self.states[next.candidate].tries;
        if before.any(|tried| tried.open && !tried.overdue && tried.attempt.edns == next.edns) {
            return;
        }
        if tries < usize::from(TRIES_PER_SERVER) && all_tries < MOST_TRIES {
            self.postponed = Some(next);
        } else {
            self.successor_owed |= !overdue;
        }
    }

    /// Returns the servers that have only their last attempt left, each with the time of its latest attempt. The last
    /// attempt is made at once if the server has responded to another query since; see [`Race::is_heard_of`].
    pub fn wait_for_life(&self, now: Instant) -> impl Iterator<Item = (usize, Instant)> {
        let last = move |at: &usize| {
            let state = &self.states[*at];
            state.tries + 1 == MOST_TRIES && state.next.is_some_and(|next| next > now)
        };
        self.idle_candidates().filter(last).filter_map(|at| {
            let sent = self.attempts.iter().filter(|tried| tried.attempt.candidate == at).map(|tried| tried.sent);
            Some((at, sent.max()?))
        })
    }

    /// Records that a server responds again.
    pub fn is_heard_of(&mut self, candidate: usize, now: Instant) {
        if let Some(state) = self.states.get_mut(candidate) {
            state.next = Some(now);
        }
        self.successor_owed = true;
    }

    /// Reports whether a response may still come.
    pub fn has_open(&self) -> bool {
        self.attempts.iter().any(|tried| tried.open)
    }

    /// Returns the attempt with this number, and when it was sent.
    pub fn attempt(&self, number: usize) -> Option<(Attempt, Instant)> {
        self.attempts.get(number).map(|tried| (tried.attempt, tried.sent))
    }

    /// Returns the attempts without a response, for the report of a lost race.
    pub fn unanswered(&self) -> impl Iterator<Item = Attempt> {
        self.attempts.iter().filter(|tried| tried.open).map(|tried| tried.attempt)
    }

    /// Marks an attempt whose timeout has just ended, and returns its number.
    fn overdue(&mut self, now: Instant) -> Option<usize> {
        let late = |tried: &AttemptState| tried.open && !tried.overdue && now >= self.times_out(tried);
        let number = self.attempts.iter().position(late)?;
        self.attempts[number].overdue = true;
        Some(number)
    }

    fn send(&mut self, attempt: Attempt, now: Instant) -> Step {
        let state = &mut self.states[attempt.candidate];
        state.next = Some(match PAUSES.get(usize::from(state.tries)) {
            Some(pause) => now + *pause,
            None => (now + LAST_TRY).max(self.deadline.checked_sub(LAST_TRY).unwrap_or(now)),
        });
        state.tries = state.tries.saturating_add(1);
        self.attempts.push(AttemptState {
            attempt,
            sent: now,
            written: None,
            open: true,
            overdue: false,
            doubted: false,
        });
        Step::Send(attempt)
    }

    fn first_attempt(&self, candidate: usize, hedge: bool) -> Attempt {
        let CandidateState { candidate: Candidate { edns, transport, .. }, tries, .. } = self.states[candidate];
        // A server that was silent to several queries with EDNS may be unable to handle it. Inside TLS EDNS stays,
        // because it pads the query.
        let edns = edns && (tries + 1 != TRIES_PER_SERVER || transport.is_encrypted());
        let transport = match transport {
            Transport::Udp if tries >= TRIES_PER_SERVER && !self.states[candidate].has_no_tcp => Transport::Tcp,
            transport => transport,
        };
        Attempt { candidate, transport, edns, hedge }
    }

    /// Returns the next server to query: the one with the fewest attempts whose pause is over, healthy ones first, in
    /// order.
    fn next_candidate(&self, now: Instant) -> Option<usize> {
        self.idle_candidates()
            .filter(|at| self.states[*at].next.is_none_or(|next| now >= next))
            .min_by_key(|at| self.states[*at].tries)
    }

    /// Returns the earliest time at which some server may be queried again.
    fn next_try(&self) -> Option<Instant> {
        self.idle_candidates().filter_map(|at| self.states[at].next).min()
    }

    /// Returns the servers that may be queried again and have no attempt within its timeout.
    fn idle_candidates(&self) -> impl Iterator<Item = usize> {
        let busy = |candidate: usize| {
            let mut open = self.attempts.iter().filter(|tried| tried.open && !tried.overdue);
            open.any(|tried| tried.attempt.candidate == candidate)
        };
        (0..self.states.len())
            .filter(move |at| !self.states[*at].out && self.states[*at].tries < MOST_TRIES && !busy(*at))
    }

    fn hedge_due(&self) -> Option<Instant> {
        let first = self.attempts.iter().find(|tried| tried.open && !tried.overdue)?;
        let hedge_after = self.states[first.attempt.candidate].candidate.hedge_after;
        (self.states.len() > 1).then(|| first.sent + hedge_after)
    }

    /// Returns the ends of the timeouts of all open attempts.
    fn timeouts(&self) -> impl Iterator<Item = Instant> {
        self.attempts.iter().filter(|tried| tried.open && !tried.overdue).map(|tried| self.times_out(tried))
    }

    /// Returns the end of the timeout of an attempt.
    fn times_out(&self, tried: &AttemptState) -> Instant {
        let timeout = self.states[tried.attempt.candidate].candidate.timeout;
        match (tried.attempt.transport, tried.written) {
            (Transport::Udp, _) => tried.sent + timeout,
            // The known latency is that over UDP, and a response that needs a connection is large.
            (Transport::Tcp, written) => written.unwrap_or(tried.sent) + 2 * timeout,
            (Transport::Tls, Some(written)) => written + timeout,
            // Three or four round trips before the server sees the query.
            (Transport::Tls, None) => tried.sent + timeout.max(SET_UP),
        }
    }

    fn next_event(&self) -> Instant {
        let hedge = self.hedge_due().filter(|_| !self.hedged);
        self.timeouts().chain(hedge).fold(self.deadline, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::LocalFault;

    const MS: Duration = Duration::from_millis(1);

    fn candidate() -> Candidate {
        Candidate { hedge_after: 10 * MS, timeout: 50 * MS, edns: true, transport: Transport::Udp, healthy: true }
    }

    fn race(candidates: usize) -> (Race, Instant) {
        let start = Instant::now();
        (Race::new(vec![candidate(); candidates], start + 1_500 * MS), start)
    }

    fn sent(step: Step) -> Attempt {
        match step {
            Step::Send(attempt) => attempt,
            step => panic!("expected a send, not {step:?}"),
        }
    }

    fn never() -> bool {
        panic!("the budget was asked")
    }

    #[test]
    fn silence_is_hedged_and_the_first_answer_wins() {
        let (mut race, start) = race(2);
        assert_eq!(sent(race.step(start, never)).candidate, 0);
        assert_eq!(race.step(start, never), Step::Wait(start + 10 * MS));
        let hedge = sent(race.step(start + 10 * MS, || true));
        assert_eq!((hedge.candidate, hedge.hedge), (1, true));
        assert_eq!(race.step(start + 10 * MS, never), Step::Wait(start + 50 * MS));
        assert_eq!(race.step(start + 50 * MS, never), Step::Overdue(0));
        race.ended(1, AttemptOutcome::Answered);
        race.ended(0, AttemptOutcome::Answered);
        assert_eq!(race.step(start + 51 * MS, never), Step::Won(1));
        assert!(!race.has_losers());
    }

    #[test]
    fn a_silent_loser_is_found_out_after_the_race() {
        let (mut race, start) = race(2);
        sent(race.step(start, never));
        sent(race.step(start + 10 * MS, || true));
        race.ended(1, AttemptOutcome::Answered);
        assert_eq!(race.step(start + 12 * MS, never), Step::Won(1));
        assert!(race.has_losers());
        assert_eq!(race.wind_up(start + 12 * MS), Step::Wait(start + 50 * MS));
        assert_eq!(race.wind_up(start + 50 * MS), Step::Overdue(0));
        assert_eq!(race.wind_up(start + 50 * MS), Step::Lost);
    }

    #[test]
    fn without_budget_the_hedge_waits_for_a_timeout() {
        let (mut race, start) = race(2);
        sent(race.step(start, never));
        assert_eq!(race.step(start + 10 * MS, || false), Step::Wait(start + 50 * MS));
        assert_eq!(race.step(start + 20 * MS, never), Step::Wait(start + 50 * MS));
        assert_eq!(race.step(start + 50 * MS, never), Step::Overdue(0));
        let second = sent(race.step(start + 50 * MS, never));
        assert_eq!((second.candidate, second.hedge), (1, false));
    }

    #[test]
    fn an_error_moves_on_at_once_and_is_not_retried() {
        let (mut race, start) = race(2);
        sent(race.step(start, never));
        race.ended(0, AttemptOutcome::Failed(FailureKind::Servfail));
        assert_eq!(sent(race.step(start, never)).candidate, 1);
        race.ended(1, AttemptOutcome::Failed(FailureKind::Refused));
        assert_eq!(race.step(start, never), Step::Lost);
    }

    #[test]
    fn a_local_fault_goes_on_to_another_server_at_once() {
        let (mut race, start) = race(2);
        sent(race.step(start, never));
        race.ended(0, AttemptOutcome::Failed(FailureKind::Local(LocalFault::Descriptors)));
        assert_eq!(sent(race.step(start, never)).candidate, 1);
        race.ended(1, AttemptOutcome::Failed(FailureKind::Local(LocalFault::Descriptors)));
        assert_eq!(race.step(start, never), Step::Lost);
    }

    #[test]
    fn a_brief_local_fault_is_tried_again_after_a_while() {
        let (mut race, start) = race(1);
        sent(race.step(start, never));
        race.ended(0, AttemptOutcome::Failed(FailureKind::Local(LocalFault::Buffers)));
        assert_eq!(race.step(start, never), Step::Wait(start + 50 * MS));
        sent(race.step(start + 50 * MS, never));
        race.ended(1, AttemptOutcome::Failed(FailureKind::Local(LocalFault::Descriptors)));
        assert_eq!(race.step(start + 50 * MS, never), Step::Lost);
    }

    /// Returns all attempts of a race without an answer, each with its time since the start; with `refuses`, each port is
    /// closed.
    fn unanswered(candidates: usize, refuses: bool) -> Vec<(Duration, Attempt)> {
        let start = Instant::now();
        let mut race = Race::new(vec![candidate(); candidates], start + 4_500 * MS);
        let (mut now, mut attempts) = (start, Vec::new());
        loop {
            match race.step(now, || false) {
                Step::Send(attempt) => {
                    attempts.push((now - start, attempt));
                    if refuses {
                        race.ended(attempts.len() - 1, AttemptOutcome::Failed(FailureKind::ConnectionRefused));
                    }
                }
                Step::Overdue(_) => {}
                Step::Wait(until) => now = until,
                Step::Lost => return attempts,
                Step::Won(_) => panic!("nobody answers"),
            }
        }
    }

    #[test]
    fn a_silent_server_is_retried_over_udp_then_tcp() {
        for candidates in [1, 2, 3] {
            for refuses in [false, true] {
                let attempts = unanswered(candidates, refuses);
                for candidate in 0..candidates {
                    let of_it = || attempts.iter().filter(|(_, attempt)| attempt.candidate == candidate);
                    let transports: Vec<_> = of_it().map(|(_, attempt)| (attempt.transport, attempt.edns)).collect();
                    let (udp, tcp) = ((Transport::Udp, true), (Transport::Tcp, true));
                    let first = [udp, udp, (Transport::Udp, false), tcp];
                    // A server that takes no connections has not seen the question over TCP.
                    let rest = if refuses { &[udp, udp][..] } else { &[tcp] };
                    assert_eq!(transports, [&first[..], rest].concat());
                }
                // An outage that ends after up to 800 ms, and a query that began at any time before.
                for left in (0..=800).map(|ms| MS * ms) {
                    let next = attempts.iter().map(|(at, _)| *at).find(|at| *at >= left).expect("one more");
                    assert!(next <= left + 500 * MS, "{candidates} {refuses}: {left:?} {next:?}");
                }
            }
        }
    }

    #[test]
    fn truncation_case_and_formerr_retry_one_server() {
        for (outcome, transport, edns) in [
            (AttemptOutcome::Truncated, Transport::Tcp, true),
            (AttemptOutcome::Doubtful, Transport::Tcp, true),
            (AttemptOutcome::Failed(FailureKind::Formerr), Transport::Udp, false),
        ] {
            let (mut race, start) = race(2);
            sent(race.step(start, never));
            race.ended(0, outcome);
            let next = sent(race.step(start, never));
            assert_eq!((next.candidate, next.transport, next.edns), (0, transport, edns));
        }
    }

    #[test]
    fn late_replies_with_tc_ask_over_one_connection() {
        let (mut race, start) = race(1);
        sent(race.step(start, never));
        assert_eq!(race.step(start + 50 * MS, never), Step::Overdue(0));
        sent(race.step(start + 50 * MS, never));
        race.ended(0, AttemptOutcome::Truncated);
        assert_eq!(sent(race.step(start + 51 * MS, never)).transport, Transport::Tcp);
        race.ended(1, AttemptOutcome::Truncated);
        assert_eq!(race.step(start + 52 * MS, never), Step::Wait(start + 151 * MS));
    }

    #[test]
    fn a_connection_has_twice_the_time_once_it_is_set_up() {
        let (mut race, start) = race(1);
        sent(race.step(start, never));
        race.ended(0, AttemptOutcome::Truncated);
        assert_eq!(sent(race.step(start, never)).transport, Transport::Tcp);
        assert_eq!(race.step(start, never), Step::Wait(start + 100 * MS));
        race.written(1, start + 30 * MS);
        assert_eq!(race.step(start + 30 * MS, never), Step::Wait(start + 130 * MS));
        assert_eq!(race.step(start + 130 * MS, never), Step::Overdue(1));
    }

    #[test]
    fn tls_has_the_time_of_its_set_up_first() {
        let start = Instant::now();
        let mut race = Race::new([Candidate { transport: Transport::Tls, ..candidate() }], start + 5_000 * MS);
        sent(race.step(start, never));
        assert_eq!(race.step(start, never), Step::Wait(start + SET_UP));
        race.written(0, start + 300 * MS);
        assert_eq!(race.step(start + 300 * MS, never), Step::Wait(start + 350 * MS));
    }

    #[test]
    fn a_query_inside_tls_never_loses_its_padding() {
        let start = Instant::now();
        let mut race = Race::new([Candidate { transport: Transport::Tls, ..candidate() }], start + 1_500 * MS);
        let mut now = start;
        for number in 0..3 {
            loop {
                match race.step(now, never) {
                    Step::Wait(until) => now = until,
                    Step::Overdue(_) => {}
                    step => break assert!(sent(step).edns),
                }
            }
            race.written(number, now);
        }
    }

    #[test]
    fn unhealthy_servers_are_last_and_never_hedged_to() {
        let start = Instant::now();
        let ill = Candidate { healthy: false, ..candidate() };
        let mut race = Race::new([candidate(), ill], start + 1_500 * MS);
        sent(race.step(start, never));
        assert_eq!(race.step(start + 10 * MS, never), Step::Wait(start + 50 * MS));
        race.ended(0, AttemptOutcome::Failed(FailureKind::ConnectionRefused));
        assert_eq!(sent(race.step(start + 11 * MS, never)).candidate, 1);
    }
}
