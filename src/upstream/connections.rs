//! Connections of one worker to all servers: runs a race for each question over the worker's own sockets.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use foldhash::fast::FixedState;
use rand::RngExt;
use tokio::time::{Instant, timeout_at};

use super::failure::{Failure, FailureKind};
use super::group::Group;
use super::health::UnansweredAttempt;
use super::message::OutgoingQuery;
use super::question::Question;
use super::race::{Attempt, AttemptOutcome, Race, Step};
use super::race_events::{AttemptEvent, ConnectionActivity, RaceEvents};
use super::sender::{SendContext, Sender};
use super::server::Server;
use super::sockets::OpenSockets;
use super::tcp::{INSTEAD, TcpSender};
use super::transport::Transport;
use super::udp::UdpSender;
use super::{Answer, Ask, LateAnswer, Unanswered};
use crate::admission::descriptors::Descriptors;
use crate::task;
use crate::wire::name::MAX_NAME;
use crate::wire::{Rcode, rcode, u16_at};

/// Interval between checks whether a silent server has responded to other queries.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time after the deadline for which a late response is awaited: a client that repeats its query finds it.
const LATE: Duration = Duration::from_secs(5);

/// Sockets of one worker to all servers. Its futures run in a `LocalSet`.
pub struct UpstreamConnections {
    by_server: RefCell<HashMap<*const Server, Rc<ServerConnections>>>,
    open: Rc<OpenSockets>,
}

/// Sockets of one worker to one server.
pub(super) struct ServerConnections {
    /// Keeps the server alive, and with it its address, which is the key in the table.
    server: Arc<Server>,
    /// Sockets over the transport that the server is queried over first.
    first: Box<dyn Sender>,
    /// Sockets over TCP, for a server that is queried over UDP first. Encryption has no substitute.
    tcp: Option<Box<dyn Sender>>,
}

impl UpstreamConnections {
    /// Creates the table without sockets: they are opened when needed, within a thread's share of the file descriptors.
    pub fn new(descriptors: Arc<Descriptors>) -> Self {
        Self { by_server: RefCell::default(), open: OpenSockets::new(descriptors) }
    }

    /// Closes the sockets to servers that are no longer configured (responses in flight still arrive), and idle ones.
    /// Names and reloads change the servers, so this is called periodically. It visits only servers that were queried,
    /// and counts the servers of `groups`.
    pub fn tidy(&self, groups: &[Arc<Group>], is_configured: impl Fn(&Arc<Server>) -> bool, now: Instant) {
        let (mut servers, mut connections) = (0, 0);
        for group in groups {
            let count = group.servers.load().len();
            servers += count;
            connections += count * (group.config.tcp_connections + INSTEAD);
        }
        self.open.serve(servers, connections);
        let mut links = self.by_server.borrow_mut();
        links.retain(|_, link| is_configured(&link.server));
        for link in links.values() {
            link.first.close_idle(now);
        }
    }

    pub(super) fn to(&self, server: &Arc<Server>) -> Rc<ServerConnections> {
        let mut links = self.by_server.borrow_mut();
        Rc::clone(
            links
                .entry(Arc::as_ptr(server))
                .or_insert_with(|| Rc::new(ServerConnections::new(Arc::clone(server), &self.open))),
        )
    }
}

impl ServerConnections {
    fn new(server: Arc<Server>, open: &Rc<OpenSockets>) -> Self {
        let tcp = || -> Box<dyn Sender> { Box::new(TcpSender::new(Arc::clone(&server), Rc::clone(open))) };
        let (first, tcp) = match server.transport() {
            Transport::Udp => {
                (Box::new(UdpSender::new(Arc::clone(&server), Rc::clone(open))) as Box<dyn Sender>, Some(tcp()))
            }
            Transport::Tcp | Transport::Tls => (tcp(), None),
        };
        Self { server, first, tcp }
    }

    /// Sends one attempt. Its outcome, a failure to send included, goes to the `race_events` of `context`.
    pub(super) fn send(&self, question: &Question, attempt: Attempt, context: &SendContext<'_>) {
        let random_case =
            context.random_case && attempt.transport.is_datagram() && self.server.takes_random_case(context.at);
        let mut case = [0; MAX_NAME];
        if random_case {
            rand::rng().fill(&mut case[..question.name.as_wire().len()]);
        }
        let query =
            OutgoingQuery::new(question, rand::random(), random_case.then_some(&case), attempt.edns, attempt.transport);
        let metrics = &self.server.metrics;
        metrics.in_flight.inc();
        let sender = self.tcp.as_ref().filter(|_| attempt.transport == Transport::Tcp).unwrap_or(&self.first);
        let result = sender.send(query, context);
        // An attempt that this machine could not send is not counted as sent.
        if !matches!(result, Err(FailureKind::Local(_))) {
            metrics.sent(attempt.transport as usize);
            if attempt.hedge {
                metrics.hedges.inc();
            }
        }
        if let Err(kind) = result {
            metrics.in_flight.dec();
            context.race_events.put(context.number, AttemptEvent::Failed(kind));
        }
    }
}

impl Ask for UpstreamConnections {
    async fn ask(
        &self,
        group: &Group,
        question: &Question,
        client: Option<IpAddr>,
        deadline: Instant,
    ) -> Result<Answer, Unanswered> {
        let servers = group.order();
        if servers.is_empty() {
            return Err(group.no_server().into());
        }
        group.budget.lock().unwrap_or_else(PoisonError::into_inner).credit();
        let mut run = Run {
            race: Race::new(servers.iter().map(|server| server.candidate()), deadline),
            servers,
            race_events: Rc::default(),
            sends: 0,
            lines: Vec::new(),
            failure: Failure::default(),
            answer: None,
            name: FixedState::default().hash_one(question.name.as_wire()),
        };
        let mut now = Instant::now();
        group.is_asked(now);
        loop {
            match run.race.step(now, || group.may_hedge(now)) {
                Step::Send(_) if !group.try_acquire(now) => {
                    run.sends += 1;
                    run.take(run.sends - 1, AttemptEvent::Failed(FailureKind::Quota));
                }
                Step::Send(attempt) => {
                    let link = self.to(&run.servers[attempt.candidate]);
                    let context = SendContext {
                        number: run.sends,
                        race_events: &run.race_events,
                        at: now,
                        until: if attempt.transport.is_datagram() { deadline + LATE } else { deadline },
                        random_case: group.config.randomize_case,
                        connections: group.config.tcp_connections,
                        again: run.was_sent(attempt),
                        client,
                    };
                    run.sends += 1;
                    link.send(question, attempt, &context);
                }
                Step::Overdue(number) => run.overdue(number),
                Step::Wait(until) => {
                    // Few races have a server that waits for a sign of life, and only after four attempts at it.
                    let looks = run.race.wait_for_life(now).next().is_some();
                    let until = if looks { until.min(now + LOOK_EVERY) } else { until };
                    if let Ok((number, event)) = timeout_at(until, run.race_events.next()).await {
                        run.take(number, event);
                    } else if looks {
                        run.check_for_life(Instant::now());
                    }
                    // A race that is won needs no current time.
                    if run.answer.is_none() {
                        now = Instant::now();
                    }
                }
                Step::Won(number) => {
                    let Some(answer) = run.answer.take() else { return Err(run.failure.into()) };
                    let winner = run.race.attempt(number).map(|(attempt, _)| &run.servers[attempt.candidate]);
                    winner.inspect(|server| server.answered());
                    if winner.is_some_and(|server| !server.preserves_case()) {
                        run.observe_cases(group, Some((number, &answer)), question, now);
                    }
                    group.was_answered(question, now);
                    if run.race.has_losers() {
                        task::spawn_local(run.wind_up());
                    }
                    return Ok(answer);
                }
                Step::Lost => {
                    run.observe_cases(group, None, question, now);
                    return Err(run.lose(deadline + LATE));
                }
            }
        }
    }
}

struct Run {
    race: Race,
    servers: Vec<Arc<Server>>,
    race_events: Rc<RaceEvents>,
    sends: usize,
    /// Attempts that were written to a connection, with the connection's state and the time.
    lines: Vec<(usize, Rc<ConnectionActivity>, Instant)>,
    failure: Failure,
    answer: Option<Answer>,
    /// Hash of the name.
    name: u64,
}

impl Run {
    /// Processes the outcome of an attempt.
    fn take(&mut self, number: usize, event: AttemptEvent) {
        let Some((attempt, _)) = self.race.attempt(number) else { return };
        let server = Arc::clone(&self.servers[attempt.candidate]);
        let outcome = match event {
            AttemptEvent::Written(line) => {
                let now = Instant::now();
                self.lines.push((number, line, now));
                return self.race.written(number, now);
            }
            AttemptEvent::Failed(kind) => AttemptOutcome::Failed(kind),
            AttemptEvent::Doubtful { folded, formerr } => {
                if folded {
                    server.case_is_doubted();
                }
                if formerr { AttemptOutcome::DoubtfulFormerr } else { AttemptOutcome::Doubtful }
            }
            AttemptEvent::Reply(_, verdict) if verdict.truncated && attempt.transport.is_datagram() => {
                AttemptOutcome::Truncated
            }
            AttemptEvent::Reply(wire, verdict) => match FailureKind::of_verdict(&verdict) {
                // Truncated over a connection: the answer is larger than any message.
                None if verdict.truncated => {
                    server.gave_error();
                    AttemptOutcome::Failed(FailureKind::Malformed)
                }
                None => {
                    if !attempt.edns && self.lacked_edns_before(attempt.candidate) {
                        server.edns_is_doubted();
                    }
                    if attempt.hedge {
                        server.metrics.hedges_won.inc();
                    }
                    self.answer.get_or_insert(Answer { wire, server: server.address, transport: attempt.transport });
                    AttemptOutcome::Answered
                }
                Some(kind) => {
                    server.gave_error();
                    self.failure.extended_error = verdict.extended_error.or(self.failure.extended_error.take());
                    AttemptOutcome::Failed(kind)
                }
            },
        };
        if let AttemptOutcome::Failed(kind) = outcome {
            self.charge(number, kind);
        }
        self.race.ended(number, outcome);
    }

    /// Records responses to random letter case: from the server that answered, or from those that gave errors.
    fn observe_cases(&self, group: &Group, answer: Option<(usize, &Answer)>, question: &Question, now: Instant) {
        let over_udp = |attempt: Attempt| attempt.transport.is_datagram() && group.config.randomize_case;
        let takes = |server: &&Arc<Server>| !server.preserves_case() && server.takes_random_case(now);
        if let Some((number, answer)) = answer {
            let attempt = self.race.attempt(number).map(|(attempt, _)| attempt).filter(|attempt| over_udp(*attempt));
            let server = attempt.and_then(|attempt| self.servers.get(attempt.candidate)).filter(takes);
            let has_data = u16_at(&answer.wire, 6).is_some_and(|answers| answers > 0);
            let is_denial = u16_at(&answer.wire, 2).map(Rcode::of_flags) == Some(rcode::NXDOMAIN);
            if let Some(server) = server.filter(|_| has_data || is_denial) {
                server.observe_case(has_data, question);
            }
            return;
        }
        let errors =
            self.failure.tried.iter().filter(|(_, transport, kind)| transport.is_datagram() && kind.is_reply());
        for (address, ..) in errors.filter(|_| group.config.randomize_case) {
            let server = self.servers.iter().find(|server| server.address == *address).filter(takes);
            server.inspect(|server| server.observe_case(false, question));
        }
    }

    /// Releases the last attempt at servers that have responded to other queries since their latest attempt.
    fn check_for_life(&mut self, now: Instant) {
        let alive = |(at, sent): (usize, Instant)| {
            self.servers.get(at).filter(|server| server.has_answered_since(sent)).map(|_| at)
        };
        let alive: Vec<usize> = self.race.wait_for_life(now).filter_map(alive).collect();
        alive.into_iter().for_each(|at| self.race.is_heard_of(at, now));
    }

    /// Reports whether the server of `new` was queried over the same transport before.
    fn was_sent(&self, new: Attempt) -> bool {
        (0..self.sends)
            .filter_map(|number| self.race.attempt(number))
            .any(|(old, _)| (old.candidate, old.transport) == (new.candidate, new.transport))
    }

    /// Reports whether this server was queried with EDNS over UDP before in this race.
    fn lacked_edns_before(&self, candidate: usize) -> bool {
        (0..self.sends)
            .filter_map(|number| self.race.attempt(number))
            .any(|(attempt, _)| attempt.candidate == candidate && attempt.edns && attempt.transport.is_datagram())
    }

    /// Processes the timeout of an attempt. It counts against the server, unless the server has sent something else over
    /// a connection meanwhile: then it is not silent, but slow with this name or with the queries before it.
    fn overdue(&mut self, number: usize) {
        let is_heard = |(of, line, written): &(usize, Rc<ConnectionActivity>, Instant)| {
            *of == number && line.heard.get().is_some_and(|heard| heard > *written)
        };
        if !self.lines.iter().any(is_heard) {
            return self.charge(number, FailureKind::Timeout);
        }
        let Some((attempt, _)) = self.race.attempt(number) else { return };
        let Some(server) = self.servers.get(attempt.candidate) else { return };
        server.kept_waiting();
        self.failure.tried.push((server.address, attempt.transport, FailureKind::Timeout));
    }

    /// Counts a failed attempt against its server.
    fn charge(&mut self, number: usize, kind: FailureKind) {
        let Some((attempt, sent)) = self.race.attempt(number) else { return };
        let Some(server) = self.servers.get(attempt.candidate) else { return };
        // Failures over TCP are weak evidence against a server that is queried over UDP first.
        let beside = server.has_answered_since(sent) || attempt.transport == Transport::Tcp;
        let silence = if beside { UnansweredAttempt::Beside(self.name) } else { UnansweredAttempt::Query(self.name) };
        server.failed(kind, attempt.transport, silence);
        self.failure.tried.push((server.address, attempt.transport, kind));
    }

    /// Ends a lost race: adds the silent servers to the failure. Responses that arrive until `until` are the late result.
    fn lose(mut self, until: Instant) -> Unanswered {
        let silent: Vec<_> = self.race.unanswered().collect();
        for attempt in silent {
            if let Some(server) = self.servers.get(attempt.candidate) {
                let tried = (server.address, attempt.transport, FailureKind::Timeout);
                if !self.failure.tried.contains(&tried) {
                    self.failure.tried.push(tried);
                }
            }
        }
        let failure = self.failure.clone();
        let late: Option<LateAnswer> = self.race.has_open().then(|| Box::pin(self.late(until)) as LateAnswer);
        Unanswered { failure, late }
    }

    /// Waits for a late answer until `until`. An attempt may have had more time than the question: it fails at the end of its
    /// own timeout, so a server that is silent to all questions is ejected however short their deadline is.
    async fn late(mut self, until: Instant) -> Result<Answer, Failure> {
        while self.race.has_open() {
            let next = match self.race.wind_up(Instant::now()) {
                Step::Overdue(number) => {
                    self.overdue(number);
                    continue;
                }
                Step::Wait(next) => next.min(until),
                _ => until,
            };
            match timeout_at(next, self.race_events.next()).await {
                Ok((number, event)) => self.take(number, event),
                Err(_) if next == until => break,
                Err(_) => {}
            }
            if let Some(answer) = self.answer.take() {
                return Ok(answer);
            }
        }
        Err(self.failure)
    }

    /// Waits for the losing attempts of a race that was won.
    async fn wind_up(mut self) {
        loop {
            match self.race.wind_up(Instant::now()) {
                Step::Overdue(number) => self.overdue(number),
                Step::Wait(until) => {
                    if let Ok((number, event)) = timeout_at(until, self.race_events.next()).await {
                        self.take(number, event);
                    }
                }
                _ => return,
            }
        }
    }
}
