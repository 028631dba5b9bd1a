//! Whom to ask first, when to ask a second, which reply wins: a pure state machine, time is an argument.
//!
//! 1. Ask the best server: the first healthy one in order, or the one with the lowest smoothed latency.
//! 2. If it is silent for its usual worst latency, ask the next healthy one as well (a hedge), if the budget allows:
//!    hedges are at most 5 % of queries beyond a burst, so that a slow network is not made slower.
//! 3. If it is silent for its own timeout, or fails at once (SERVFAIL, REFUSED, a closed port ...), ask the next one
//!    without regard to the budget. When all were asked, begin again with those that were silent or whose port was closed,
//!    each server at most three times over UDP and twice over TCP, and after longer and longer pauses: a server that is
//!    away for a second is asked once more soon after it is back, and one that is away for longer when it has been heard of.
//!    One that answered with an error would only say it again; one that this machine cannot ask is left out.
//! 4. Every attempt stays open: whichever reply comes first and is an answer wins, however late its server is.
//! 5. At the deadline, or when there is nobody left to ask and nobody left to wait for, the race is lost.
//!
//! TC sends the question to the same server over TCP at once, and FORMERR or NOTIMP sends it again without EDNS. A doubtful reply, with the
//! question in other letters or without it, sends it over TCP as well, where nobody can guess; the true reply may still come.

use std::time::Duration;

use tokio::time::Instant;

use super::failure::FailureKind;
use super::transport::Transport;

/// Tries per server and query over one transport (RFC 9520 section 3.1 allows three).
pub const TRIES_PER_SERVER: u8 = 3;
/// Tries per server and query over all transports.
pub const MOST_TRIES: u8 = 5;
/// The least time from a server's first, second, third try to the next one. A silence of less than a second is over within half a
/// second before a try of each query that began during it.
const PAUSES: [Duration; MOST_TRIES as usize - 2] =
    [Duration::from_millis(50), Duration::from_millis(400), Duration::from_millis(500)];
/// The last try is for longer silences: it is made when the server has been heard of again, or so long before the deadline.
const LAST_TRY: Duration = Duration::from_secs(1);

/// How long a connection may take to be set up, TLS included.
pub const SET_UP: Duration = Duration::from_secs(1);

/// One server of the group as the race sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// When to ask another one as well.
    pub hedge_after: Duration,
    /// When to give up on an attempt.
    pub timeout: Duration,
    /// Whether to send OPT.
    pub edns: bool,
    /// What to begin with: UDP, or TLS where the server is configured so.
    pub transport: Transport,
    /// Whether it takes clients' queries; one that does not is the last resort, and hedged to only if no server does.
    pub healthy: bool,
}

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which candidate.
    pub candidate: usize,
    /// Over what.
    pub transport: Transport,
    /// With OPT or without.
    pub edns: bool,
    /// Whether it is a hedge: sent while another attempt is still within its time.
    pub hedge: bool,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer.
    Answered,
    /// Truncated: TCP is needed.
    Truncated,
    /// Something came that may be the reply, or a guess.
    Doubtful,
    /// The same, and if it is the reply, the server does not understand EDNS.
    DoubtfulFormerr,
    /// No answer.
    Failed(FailureKind),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this attempt and ask again; its number is the count of sends before it.
    Send(Attempt),
    /// Attempt number so-and-so has run out of its time: charge its server and ask again.
    Overdue(usize),
    /// Wait for a reply until then, and ask again.
    Wait(Instant),
    /// Attempt number so-and-so won.
    Won(usize),
    /// Nobody answered.
    Lost,
}

/// The state of one question's race.
#[derive(Debug)]
pub struct Race {
    runners: Vec<Runner>,
    attempts: Vec<Running>,
    deadline: Instant,
    /// An attempt that is owed at once.
    owed: Option<Attempt>,
    won: Option<usize>,
    /// Whether the hedge was sent, or refused by the budget and not to be asked for again.
    hedged: bool,
    /// Whether some attempt ended or ran out of time without a successor yet.
    successor_owed: bool,
}

#[derive(Debug)]
struct Runner {
    candidate: Candidate,
    tries: u8,
    /// When its next try may be, at the earliest.
    next: Option<Instant>,
    /// It has said that the answer needs TCP.
    needs_tcp: bool,
    /// It takes no connections, so that all tries are over UDP.
    has_no_tcp: bool,
    /// It answered with an error, or this machine cannot ask it.
    out: bool,
}

#[derive(Debug)]
struct Running {
    attempt: Attempt,
    sent: Instant,
    /// When it was written to a connection that was set up by then.
    written: Option<Instant>,
    open: bool,
    overdue: bool,
    /// Nobody waits for it as long as something else is under way, but a reply that comes counts.
    doubted: bool,
}

impl Race {
    /// A race among `candidates`, the best first.
    pub fn new(candidates: impl IntoIterator<Item = Candidate>, deadline: Instant) -> Self {
        let runner =
            |candidate| Runner { candidate, tries: 0, next: None, needs_tcp: false, has_no_tcp: false, out: false };
        let mut runners: Vec<_> = candidates.into_iter().map(runner).collect();
        // Where all are down, any may be the first that is back.
        if runners.iter().all(|runner| !runner.candidate.healthy) {
            runners.iter_mut().for_each(|runner| runner.candidate.healthy = true);
        }
        Self {
            runners,
            attempts: Vec::with_capacity(2),
            deadline,
            owed: None,
            won: None,
            hedged: false,
            successor_owed: true,
        }
    }

    /// What to do at `now`. `may_hedge` draws from the budget; it is asked only when a hedge is due.
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
        if let Some(attempt) = self.owed.take() {
            return self.send(attempt, now);
        }
        if self.successor_owed
            && let Some(runner) = self.next_runner(now)
        {
            self.successor_owed = false;
            return self.send(self.first_attempt(runner, false), now);
        }
        let next_try = self.next_try().filter(|_| self.successor_owed);
        self.successor_owed = next_try.is_some();
        if !self.hedged && self.hedge_due().is_some_and(|due| now >= due) {
            self.hedged = true;
            let next = self.next_runner(now).filter(|next| self.runners[*next].candidate.healthy);
            if let Some(runner) = next.filter(|_| may_hedge()) {
                return self.send(self.first_attempt(runner, true), now);
            }
        }
        if next_try.is_none() && self.attempts.iter().all(|running| !running.open) {
            return Step::Lost;
        }
        Step::Wait(next_try.into_iter().fold(self.next_event(), Instant::min))
    }

    /// What to do after the race was won: losers that are still within their time are waited for, so that a silent
    /// server is found out even when another always answers first. Only [`Step::Overdue`], [`Step::Wait`] and
    /// [`Step::Lost`] (nothing more) come from here.
    pub fn wind_up(&mut self, now: Instant) -> Step {
        if let Some(number) = self.overdue(now) {
            return Step::Overdue(number);
        }
        match self.timeouts().min() {
            Some(next) => Step::Wait(next),
            None => Step::Lost,
        }
    }

    /// Whether someone is left to be waited for by [`Race::wind_up`].
    pub fn has_losers(&self) -> bool {
        self.timeouts().next().is_some()
    }

    /// Attempt `number`, over a connection, was written only now: its time begins.
    pub fn written(&mut self, number: usize, now: Instant) {
        if let Some(running) = self.attempts.get_mut(number) {
            running.written = Some(now);
        }
    }

    /// Tells what became of attempt `number`.
    pub fn ended(&mut self, number: usize, outcome: Outcome) {
        let Some(running) = self.attempts.get_mut(number) else { return };
        let was_open = std::mem::replace(&mut running.open, false);
        if !was_open && !std::mem::replace(&mut running.doubted, false) {
            return;
        }
        running.doubted = matches!(outcome, Outcome::Doubtful | Outcome::DoubtfulFormerr) && was_open;
        let (attempt, overdue) = (running.attempt, running.overdue);
        match outcome {
            Outcome::Answered => self.won = self.won.or(Some(number)),
            Outcome::Failed(FailureKind::Formerr | FailureKind::Notimp) | Outcome::DoubtfulFormerr if attempt.edns => {
                self.runners[attempt.candidate].candidate.edns = false;
                self.go_on(Attempt { edns: false, hedge: false, ..attempt }, overdue);
            }
            Outcome::Truncated | Outcome::Doubtful | Outcome::DoubtfulFormerr
                if attempt.transport == Transport::Udp =>
            {
                self.runners[attempt.candidate].needs_tcp = true;
                self.go_on(Attempt { transport: Transport::Tcp, hedge: false, ..attempt }, overdue);
            }
            Outcome::Failed(FailureKind::ConnectionRefused | FailureKind::Network)
                if attempt.transport == Transport::Tcp && !self.runners[attempt.candidate].needs_tcp =>
            {
                // It was only another way to try: the server has not seen the question.
                let runner = &mut self.runners[attempt.candidate];
                runner.tries -= u8::from(!std::mem::replace(&mut runner.has_no_tcp, true));
                self.owed = Some(Attempt { transport: Transport::Udp, hedge: false, ..attempt });
            }
            // It may have been cut on its way, and TCP has it whole: worth a try where nobody else is left to ask.
            Outcome::Failed(FailureKind::Malformed)
                if attempt.transport == Transport::Udp && self.runners.len() == 1 =>
            {
                self.runners[attempt.candidate].needs_tcp = true;
                self.go_on(Attempt { transport: Transport::Tcp, hedge: false, ..attempt }, overdue);
            }
            outcome => {
                // Neither a server's error nor a lasting fault of this machine would be another one at once.
                let is_final = matches!(outcome, Outcome::Failed(kind) if kind.is_final());
                self.runners[attempt.candidate].out |= is_final;
                // One that was overdue has its successor already.
                self.successor_owed |= !overdue;
            }
        }
    }

    /// Owes the question to the same server in another way. Late replies may ask for that more than once: not where it
    /// is under way already, and over each transport no more than three times.
    fn go_on(&mut self, next: Attempt, overdue: bool) {
        let same = |running: &&Running| {
            (running.attempt.candidate, running.attempt.transport) == (next.candidate, next.transport)
        };
        let mut before = self.attempts.iter().filter(same);
        let tries = before.clone().count();
        let all_tries = self.runners[next.candidate].tries;
        if before.any(|running| running.open && !running.overdue && running.attempt.edns == next.edns) {
            return;
        }
        if tries < usize::from(TRIES_PER_SERVER) && all_tries < MOST_TRIES {
            self.owed = Some(next);
        } else {
            self.successor_owed |= !overdue;
        }
    }

    /// The servers that have their last try left, and since when nothing was sent to each: it is made at once if one has been heard
    /// of since. See [`Race::is_heard_of`].
    pub fn wait_for_life(&self, now: Instant) -> impl Iterator<Item = (usize, Instant)> {
        let last = move |at: &usize| {
            let runner = &self.runners[*at];
            runner.tries + 1 == MOST_TRIES && runner.next.is_some_and(|next| next > now)
        };
        self.idle_runners().filter(last).filter_map(|at| {
            let sent =
                self.attempts.iter().filter(|running| running.attempt.candidate == at).map(|running| running.sent);
            Some((at, sent.max()?))
        })
    }

    /// A server has been heard of again.
    pub fn is_heard_of(&mut self, candidate: usize, now: Instant) {
        if let Some(runner) = self.runners.get_mut(candidate) {
            runner.next = Some(now);
        }
        self.successor_owed = true;
    }

    /// Whether a reply may still come.
    pub fn has_open(&self) -> bool {
        self.attempts.iter().any(|running| running.open)
    }

    /// The attempt of that number, and when it was sent.
    pub fn attempt(&self, number: usize) -> Option<(Attempt, Instant)> {
        self.attempts.get(number).map(|running| (running.attempt, running.sent))
    }

    /// Attempts that got no reply until now, for the account of a lost race.
    pub fn unanswered(&self) -> impl Iterator<Item = Attempt> {
        self.attempts.iter().filter(|running| running.open).map(|running| running.attempt)
    }

    /// Marks an attempt that has just run out of its time.
    fn overdue(&mut self, now: Instant) -> Option<usize> {
        let late = |running: &Running| running.open && !running.overdue && now >= self.times_out(running);
        let number = self.attempts.iter().position(late)?;
        self.attempts[number].overdue = true;
        Some(number)
    }

    fn send(&mut self, attempt: Attempt, now: Instant) -> Step {
        let runner = &mut self.runners[attempt.candidate];
        runner.next = Some(match PAUSES.get(usize::from(runner.tries)) {
            Some(pause) => now + *pause,
            None => (now + LAST_TRY).max(self.deadline.checked_sub(LAST_TRY).unwrap_or(now)),
        });
        runner.tries = runner.tries.saturating_add(1);
        self.attempts.push(Running { attempt, sent: now, written: None, open: true, overdue: false, doubted: false });
        Step::Send(attempt)
    }

    fn first_attempt(&self, runner: usize, hedge: bool) -> Attempt {
        let Runner { candidate: Candidate { edns, transport, .. }, tries, .. } = self.runners[runner];
        // A server that was silent to EDNS again and again may be one that cannot stand it. Not so inside TLS, where
        // EDNS pads the query.
        let edns = edns && (tries + 1 != TRIES_PER_SERVER || transport == Transport::Tls);
        let transport = match transport {
            Transport::Udp if tries >= TRIES_PER_SERVER && !self.runners[runner].has_no_tcp => Transport::Tcp,
            transport => transport,
        };
        Attempt { candidate: runner, transport, edns, hedge }
    }

    /// The server to ask next: the least tried one in order, healthy ones first, whose next try may be now.
    fn next_runner(&self, now: Instant) -> Option<usize> {
        self.idle_runners()
            .filter(|at| self.runners[*at].next.is_none_or(|next| now >= next))
            .min_by_key(|at| self.runners[*at].tries)
    }

    /// When the next try of any server may be.
    fn next_try(&self) -> Option<Instant> {
        self.idle_runners().filter_map(|at| self.runners[at].next).min()
    }

    /// The servers that may be asked again, and have no attempt within its time.
    fn idle_runners(&self) -> impl Iterator<Item = usize> {
        let busy = |runner: usize| {
            let mut open = self.attempts.iter().filter(|running| running.open && !running.overdue);
            open.any(|running| running.attempt.candidate == runner)
        };
        (0..self.runners.len())
            .filter(move |at| !self.runners[*at].out && self.runners[*at].tries < MOST_TRIES && !busy(*at))
    }

    fn hedge_due(&self) -> Option<Instant> {
        let first = self.attempts.iter().find(|running| running.open && !running.overdue)?;
        let hedge_after = self.runners[first.attempt.candidate].candidate.hedge_after;
        (self.runners.len() > 1).then(|| first.sent + hedge_after)
    }

    /// When each open attempt runs out of its time.
    fn timeouts(&self) -> impl Iterator<Item = Instant> {
        self.attempts.iter().filter(|running| running.open && !running.overdue).map(|running| self.times_out(running))
    }

    /// When an attempt runs out of its time.
    fn times_out(&self, running: &Running) -> Instant {
        let timeout = self.runners[running.attempt.candidate].candidate.timeout;
        match (running.attempt.transport, running.written) {
            (Transport::Udp, _) => running.sent + timeout,
            // What is known of the server is its latency over UDP, and what needs a connection is large.
            (Transport::Tcp, written) => written.unwrap_or(running.sent) + 2 * timeout,
            (Transport::Tls, Some(written)) => written + timeout,
            // Three or four round trips before it sees the query.
            (Transport::Tls, None) => running.sent + timeout.max(SET_UP),
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
    fn silence_is_hedged_then_overdue_and_the_first_answer_wins() {
        let (mut race, start) = race(2);
        assert_eq!(sent(race.step(start, never)).candidate, 0);
        assert_eq!(race.step(start, never), Step::Wait(start + 10 * MS));
        let hedge = sent(race.step(start + 10 * MS, || true));
        assert_eq!((hedge.candidate, hedge.hedge), (1, true));
        assert_eq!(race.step(start + 10 * MS, never), Step::Wait(start + 50 * MS));
        assert_eq!(race.step(start + 50 * MS, never), Step::Overdue(0));
        race.ended(1, Outcome::Answered);
        race.ended(0, Outcome::Answered);
        assert_eq!(race.step(start + 51 * MS, never), Step::Won(1));
        assert!(!race.has_losers());
    }

    #[test]
    fn a_silent_loser_is_found_out_after_the_race() {
        let (mut race, start) = race(2);
        sent(race.step(start, never));
        sent(race.step(start + 10 * MS, || true));
        race.ended(1, Outcome::Answered);
        assert_eq!(race.step(start + 12 * MS, never), Step::Won(1));
        assert!(race.has_losers());
        assert_eq!(race.wind_up(start + 12 * MS), Step::Wait(start + 50 * MS));
        assert_eq!(race.wind_up(start + 50 * MS), Step::Overdue(0));
        assert_eq!(race.wind_up(start + 50 * MS), Step::Lost);
    }

    #[test]
    fn without_budget_the_second_waits_for_the_firsts_timeout() {
        let (mut race, start) = race(2);
        sent(race.step(start, never));
        assert_eq!(race.step(start + 10 * MS, || false), Step::Wait(start + 50 * MS));
        assert_eq!(race.step(start + 20 * MS, never), Step::Wait(start + 50 * MS));
        assert_eq!(race.step(start + 50 * MS, never), Step::Overdue(0));
        let second = sent(race.step(start + 50 * MS, never));
        assert_eq!((second.candidate, second.hedge), (1, false));
    }

    #[test]
    fn an_error_goes_on_at_once_and_is_not_asked_for_again() {
        let (mut race, start) = race(2);
        sent(race.step(start, never));
        race.ended(0, Outcome::Failed(FailureKind::Servfail));
        assert_eq!(sent(race.step(start, never)).candidate, 1);
        race.ended(1, Outcome::Failed(FailureKind::Refused));
        assert_eq!(race.step(start, never), Step::Lost);
    }

    #[test]
    fn a_local_fault_goes_on_to_another_server_at_once() {
        let (mut race, start) = race(2);
        sent(race.step(start, never));
        race.ended(0, Outcome::Failed(FailureKind::Local(LocalFault::Descriptors)));
        assert_eq!(sent(race.step(start, never)).candidate, 1);
        race.ended(1, Outcome::Failed(FailureKind::Local(LocalFault::Descriptors)));
        assert_eq!(race.step(start, never), Step::Lost);
    }

    #[test]
    fn a_brief_local_fault_is_tried_again_after_a_while() {
        let (mut race, start) = race(1);
        sent(race.step(start, never));
        race.ended(0, Outcome::Failed(FailureKind::Local(LocalFault::Buffers)));
        assert_eq!(race.step(start, never), Step::Wait(start + 50 * MS));
        sent(race.step(start + 50 * MS, never));
        race.ended(1, Outcome::Failed(FailureKind::Local(LocalFault::Descriptors)));
        assert_eq!(race.step(start + 50 * MS, never), Step::Lost);
    }

    /// All attempts of a race that nobody answers, each with the time from the start; with `refuses`, each port is closed.
    fn unanswered(candidates: usize, refuses: bool) -> Vec<(Duration, Attempt)> {
        let start = Instant::now();
        let mut race = Race::new(vec![candidate(); candidates], start + 4_500 * MS);
        let (mut now, mut attempts) = (start, Vec::new());
        loop {
            match race.step(now, || false) {
                Step::Send(attempt) => {
                    attempts.push((now - start, attempt));
                    if refuses {
                        race.ended(attempts.len() - 1, Outcome::Failed(FailureKind::ConnectionRefused));
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
    fn a_silent_server_is_tried_over_udp_then_over_tcp_with_longer_and_longer_pauses() {
        for candidates in [1, 2, 3] {
            for refuses in [false, true] {
                let attempts = unanswered(candidates, refuses);
                for candidate in 0..candidates {
                    let of_it = || attempts.iter().filter(|(_, attempt)| attempt.candidate == candidate);
                    let ways: Vec<_> = of_it().map(|(_, attempt)| (attempt.transport, attempt.edns)).collect();
                    let (udp, tcp) = ((Transport::Udp, true), (Transport::Tcp, true));
                    let first = [udp, udp, (Transport::Udp, false), tcp];
                    // One that takes no connections has not seen the question there.
                    let rest = if refuses { &[udp, udp][..] } else { &[tcp] };
                    assert_eq!(ways, [&first[..], rest].concat());
                }
                // A silence that ends after up to 800 ms, and a query that began at any time before.
                for left in (0..=800).map(|ms| MS * ms) {
                    let next = attempts.iter().map(|(at, _)| *at).find(|at| *at >= left).expect("one more");
                    assert!(next <= left + 500 * MS, "{candidates} {refuses}: {left:?} {next:?}");
                }
            }
        }
    }

    #[test]
    fn truncation_folded_case_and_formerr_stay_with_the_server() {
        for (outcome, transport, edns) in [
            (Outcome::Truncated, Transport::Tcp, true),
            (Outcome::Doubtful, Transport::Tcp, true),
            (Outcome::Failed(FailureKind::Formerr), Transport::Udp, false),
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
        race.ended(0, Outcome::Truncated);
        assert_eq!(sent(race.step(start + 51 * MS, never)).transport, Transport::Tcp);
        race.ended(1, Outcome::Truncated);
        assert_eq!(race.step(start + 52 * MS, never), Step::Wait(start + 151 * MS));
    }

    #[test]
    fn a_connection_has_twice_the_time_once_it_is_set_up() {
        let (mut race, start) = race(1);
        sent(race.step(start, never));
        race.ended(0, Outcome::Truncated);
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
    fn an_unhealthy_server_is_the_last_resort_and_never_hedged_to() {
        let start = Instant::now();
        let ill = Candidate { healthy: false, ..candidate() };
        let mut race = Race::new([candidate(), ill], start + 1_500 * MS);
        sent(race.step(start, never));
        assert_eq!(race.step(start + 10 * MS, never), Step::Wait(start + 50 * MS));
        race.ended(0, Outcome::Failed(FailureKind::ConnectionRefused));
        assert_eq!(sent(race.step(start + 11 * MS, never)).candidate, 1);
    }
}
