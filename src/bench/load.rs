//! The measuring loop: one thread that sends due queries, receives responses, and sleeps in between.
//!
//! ```text
//! for each turn (pace::Rounds):           one target for a quarter of a second, round after round
//!     until the turn is over:
//!         send due queries                 up to 64 at once, each batch on the next socket or connection
//!         receive responses                from every target, late ones of other turns too
//!         expire queries in flight         after the timeout
//!         sleep until a query is due or a response arrives
//!     wait briefly for the last responses  keeps the load of one target out of the next turn
//! wait for the remaining responses, up to the timeout
//! ```
//!
//! The loop does not allocate per query. A kernel timer wakes the thread shortly before a query is due. The thread polls
//! the clock for the remaining time, because a timer fires tens of microseconds late, which would count as latency.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::draw::Draw;
use super::names::Questions;
use super::pace::{Nanos, Pace, Rounds, SLICE, Slice};
use super::pending::{InFlightQueries, MOST_PLACES, SentQuery};
use super::record::{LossReason, TargetStats};
use super::tcp::TcpLine;
use super::udp::{BATCH, BatchBuffers, UdpLine};

/// Time between the end of a sleep and the next due query.
const EARLY: Nanos = 60_000;
/// Longest sleep, which bounds the delay until a signal or a timeout is noticed.
const LONGEST_SLEEP: Nanos = 50_000_000;
/// Longest wait for the last responses at the end of a turn.
const SETTLE: Nanos = 50_000_000;
/// Longest wait for responses after the user has interrupted the run.
const FAREWELL: Nanos = 100_000_000;
/// Interval between checks for queries past their timeout.
const EXPIRE_EVERY: Nanos = 10_000_000;
/// Token of the timer's events.
const TIMER: u64 = u64::MAX;

/// Parameters of a run.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Addresses of the servers to query, in turn.
    pub targets: Vec<SocketAddr>,
    /// Pace of queries during a target's turn.
    pub pace: Pace,
    /// Total time that each target is queried.
    pub duration: Duration,
    /// Time after which a query without a response is lost.
    pub timeout: Duration,
    /// True for TCP, false for UDP.
    pub tcp: bool,
    /// Number of sockets or connections to each target.
    pub lines: usize,
    /// Seed of the order of the targets.
    pub seed: u64,
}

impl LoadPlan {
    /// Returns the ring size of one line (socket or connection): twice its share of the queries that an open loop sends
    /// within the timeout, because lines do not share evenly. In a closed loop any number of queries may overtake one slow
    /// response, so the ring has its maximum size.
    fn room(&self) -> u64 {
        match self.pace {
            Pace::Open { rate } => {
                let all = rate as f64 * self.timeout.as_secs_f64();
                (2.0 * all / self.lines as f64) as u64
            }
            Pace::Closed { .. } => MOST_PLACES,
        }
    }
}

/// Progress of a run.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Finished turns of all targets.
    pub turns: u64,
    /// Total number of turns.
    pub of: u64,
    /// Queries sent.
    pub sent: u64,
    pub(crate) answered: u64,
}

/// Result of a run.
#[derive(Debug)]
pub struct LoadOutcome {
    /// One record for each target, in the plan's order.
    pub records: Vec<TargetStats>,
    /// Time that each target was queried, without the other targets' turns.
    pub asked_for: Vec<Duration>,
    /// True if the user ended the run early.
    pub interrupted: bool,
}

/// Runs a plan. Each target is sent the same sequence of questions, that of `draw`. `stop` ends the run early; `tell` is
/// called after each turn.
///
/// # Errors
/// A socket cannot be opened: too many open sockets, or no route to the address.
pub fn run(
    plan: &LoadPlan,
    questions: &Questions,
    draw: &Draw,
    stop: &AtomicBool,
    tell: impl FnMut(Progress),
) -> io::Result<LoadOutcome> {
    Load::new(plan, questions, draw, stop)?.run(plan, tell)
}

struct Load<'a> {
    questions: &'a Questions,
    stop: &'a AtomicBool,
    clock: Instant,
    timeout: Nanos,
    epoll: Epoll,
    timer: TimerFd,
    targets: Vec<LoadTarget>,
    buffers: BatchBuffers,
    expire_at: Nanos,
}

struct LoadTarget {
    lines: Vec<LoadLine>,
    next_line: usize,
    draw: Draw,
    seen: Vec<bool>,
    record: TargetStats,
    asked_for: Nanos,
}

enum LoadLine {
    Udp(UdpLine),
    Tcp(TcpLine),
}

impl LoadLine {
    fn pending(&mut self) -> &mut InFlightQueries {
        match self {
            Self::Udp(line) => line.pending(),
            Self::Tcp(line) => line.pending(),
        }
    }

    fn room(&self, now: Nanos) -> usize {
        match self {
            Self::Udp(_) => BATCH,
            Self::Tcp(line) => line.room(now),
        }
    }
}

impl LoadTarget {
    fn in_flight(&mut self) -> u64 {
        self.lines.iter_mut().map(|line| line.pending().len()).sum()
    }
}

impl<'a> Load<'a> {
    fn new(plan: &LoadPlan, questions: &'a Questions, draw: &Draw, stop: &'a AtomicBool) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        epoll.add(timer.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        let span = plan.duration * plan.targets.len() as u32; // at most 16 targets
        let room = plan.room();
        let mut targets = Vec::new();
        for (number, address) in plan.targets.iter().enumerate() {
            let mut lines = Vec::new();
            for at in 0..plan.lines {
                lines.push(match plan.tcp {
                    true => LoadLine::Tcp(TcpLine::new(*address, room)),
                    false => {
                        let line = UdpLine::open(*address, room)?;
                        epoll.add(line.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, token(number, at)))?;
                        LoadLine::Udp(line)
                    }
                });
            }
            targets.push(LoadTarget {
                lines,
                next_line: 0,
                draw: draw.clone(),
                seen: vec![false; questions.len()],
                record: TargetStats::new(span.as_nanos() as Nanos, SLICE * plan.targets.len() as u64),
                asked_for: 0,
            });
        }
        Ok(Self {
            questions,
            stop,
            clock: Instant::now(),
            timeout: plan.timeout.as_nanos() as Nanos,
            epoll,
            timer,
            targets,
            buffers: BatchBuffers::new(),
            expire_at: 0,
        })
    }

    fn run(mut self, plan: &LoadPlan, mut tell: impl FnMut(Progress)) -> io::Result<LoadOutcome> {
        let rounds = Rounds::new(plan.targets.len(), plan.duration.as_nanos() as Nanos, plan.seed);
        let length = rounds.length();
        let of = rounds.left() * plan.targets.len() as u64;
        let mut turns = vec![0; plan.targets.len()];
        for (done, who) in rounds.enumerate() {
            if self.stopped() {
                break;
            }
            self.turn(who, Slice::new(plan.pace, self.now(), length, turns[who]))?;
            turns[who] += 1;
            let records = || self.targets.iter().map(|target| &target.record);
            let (sent, answered) = (records().map(|r| r.sent).sum(), records().map(TargetStats::answers).sum());
            tell(Progress { turns: done as u64 + 1, of, sent, answered });
        }
        let interrupted = self.stopped();
        let patience = if interrupted { FAREWELL } else { self.timeout + SLICE };
        let end = self.now() + patience;
        while self.now() < end && (interrupted || !self.stopped()) && self.in_flight() > 0 {
            self.wait(end)?;
            self.expire();
        }
        for target in &mut self.targets {
            target.record.unresolved = target.in_flight();
        }
        let asked_for = self.targets.iter().map(|target| Duration::from_nanos(target.asked_for)).collect();
        let interrupted = self.stopped();
        Ok(LoadOutcome {
            records: self.targets.into_iter().map(|target| target.record).collect(),
            asked_for,
            interrupted,
        })
    }

    fn turn(&mut self, who: usize, mut slice: Slice) -> io::Result<()> {
        let start = self.now();
        loop {
            let now = self.now();
            if slice.is_over(now) || self.stopped() {
                break;
            }
            let held_up = self.send(who, &mut slice, now)?;
            let wake = match held_up {
                // Queries that cannot be sent now are retried soon.
                true => now + SLICE / 1000,
                false if slice.due(now, self.targets[who].in_flight()) > 0 => now,
                false => slice.wake(),
            };
            self.wait(wake)?;
            self.expire();
        }
        let now = self.now();
        self.targets[who].record.unsent += if self.stopped() { 0 } else { slice.unsent(now) };
        self.targets[who].asked_for += now - start;
        while self.now() < now + SETTLE && self.targets[who].in_flight() > 0 && !self.stopped() {
            self.wait(now + SETTLE)?;
        }
        Ok(())
    }

    /// Sends due queries, at most one batch; returns true if the target accepts none.
    fn send(&mut self, who: usize, slice: &mut Slice, now: Nanos) -> io::Result<bool> {
        let target = &mut self.targets[who];
        let due = slice.due(now, target.in_flight()).min(BATCH as u64) as usize;
        if due == 0 {
            return Ok(false);
        }
        let count = target.lines.len();
        let free = (0..count).map(|ahead| (target.next_line + ahead) % count);
        let Some(at) = free.into_iter().find(|at| target.lines[*at].room(now) > 0) else { return Ok(true) };
        target.next_line = at + 1;

        // The batch is drawn from a copy of the sequence; the original advances only by the queries sent.
        let mut draw = target.draw.clone();
        let nothing = SentQuery { intended: 0, sent: now, question: 0, first: false };
        let mut batch = [nothing; BATCH];
        for (ahead, waiting) in batch[..due].iter_mut().enumerate() {
            let question = draw.question();
            let first = !std::mem::replace(&mut target.seen[question as usize], true);
            *waiting = SentQuery { intended: slice.intended(ahead as u64, now), sent: now, question, first };
        }
        let batch = &batch[..due];
        let sent = match &mut target.lines[at] {
            LoadLine::Udp(line) => line.send(batch, self.questions, &mut self.buffers, &mut target.record),
            LoadLine::Tcp(line) => {
                match line.open(now) {
                    Ok(true) => {
                        if let Some(fd) = line.fd() {
                            self.epoll.add(fd, tcp_event(token(who, at)))?;
                        }
                    }
                    Ok(false) => {}
                    Err(error) if error.raw_os_error() == Some(libc::EMFILE) => return Err(error),
                    Err(error) => {
                        let sent = line.send(batch, self.questions, &mut target.record);
                        line.end(LossReason::of(&error), &mut target.record);
                        debug_assert_eq!(sent, batch.len());
                    }
                }
                match line.fd() {
                    Some(_) => line.send(batch, self.questions, &mut target.record),
                    None => batch.len(),
                }
            }
        };
        for waiting in batch.get(sent..).unwrap_or_default().iter().filter(|waiting| waiting.first) {
            target.seen[waiting.question as usize] = false;
        }
        for _ in 0..sent {
            target.draw.question();
        }
        slice.sent(sent as u64);
        Ok(sent == 0)
    }

    /// Sleeps until `wake` or the first event, and handles the events.
    fn wait(&mut self, wake: Nanos) -> io::Result<()> {
        let ahead = wake.saturating_sub(self.now()).min(LONGEST_SLEEP);
        let timeout = if ahead <= EARLY {
            EpollTimeout::ZERO
        } else {
            let sleep = Duration::from_nanos(ahead - EARLY);
            self.timer.set(Expiration::OneShot(sleep.into()), TimerSetTimeFlags::empty())?;
            EpollTimeout::NONE
        };
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in events.iter().take(count).filter(|event| event.data() != TIMER) {
            let (who, at) = (event.data() >> 32, event.data() & 0xffff_ffff);
            let Some(target) = self.targets.get_mut(who as usize) else { continue };
            let (clock, record) = (self.clock, &mut target.record);
            let now = || clock.elapsed().as_nanos() as Nanos;
            match target.lines.get_mut(at as usize) {
                Some(LoadLine::Udp(line)) => line.receive(now, self.questions, &mut self.buffers, record),
                Some(LoadLine::Tcp(line)) => {
                    let more = line.receive(now, self.questions, record);
                    line.flush(record);
                    if let Some(fd) = line.fd().filter(|_| more) {
                        // Events are edge-triggered: modifying the registration reports unread data again.
                        self.epoll.modify(fd, &mut tcp_event(event.data()))?;
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Counts queries past their timeout as lost, every `EXPIRE_EVERY`.
    fn expire(&mut self) {
        let now = self.now();
        if now < self.expire_at {
            return;
        }
        self.expire_at = now + EXPIRE_EVERY;
        let limit = now.saturating_sub(self.timeout);
        for target in &mut self.targets {
            for line in &mut target.lines {
                while line.pending().expired(limit).is_some() {
                    target.record.lost += 1;
                }
            }
        }
    }

    fn in_flight(&mut self) -> u64 {
        self.targets.iter_mut().map(LoadTarget::in_flight).sum()
    }

    fn now(&self) -> Nanos {
        self.clock.elapsed().as_nanos() as Nanos
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn token(target: usize, line: usize) -> u64 {
    (target as u64) << 32 | line as u64
}

/// Returns an edge-triggered registration for reading and writing.
fn tcp_event(token: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET, token)
}
