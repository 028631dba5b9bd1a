//! The listeners of one worker: receive queries, send responses.
//!
//! - [`socket`] every socket option;
//! - [`mmsg`] batches of datagrams;
//! - [`udp`] receives a batch, answers what it can at once, defers the rest, sends a batch;
//! - [`tcp`] framed queries: pipelined, answered out of order;
//! - [`phase`] phases of the server, [`readers`] count of the readers.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::answer::outcome::{self, Explanation, ParsedQuestion, QueryOutcome, Timing};
use crate::answer::{LocalCounters, PendingQuery, Resolved, Resolver, pruning};
use crate::effective_view::EffectiveViewId;
use crate::forward;
use crate::jobs::StatsBuffer;
use crate::snapshot::Snapshot;
use crate::upstream::Ask;
use crate::wire::cache_key::CacheKey;
use crate::wire::query::Query;
use crate::wire::{LARGEST_UDP_REPLY, LONGEST_MESSAGE, is_truncated, rcode};

pub(crate) mod mmsg;
pub(crate) mod phase;
pub(crate) mod readers;
pub(crate) mod socket;
pub(crate) mod steering;
pub(crate) mod tcp;
pub(crate) mod udp;

pub(crate) use phase::Phase;
use readers::Readers;

/// Time that queries in flight are waited for when the server stops.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// Most time in which a listener takes what has arrived at a stop.
const DRAIN: Duration = Duration::from_secs(1);

/// Attempts to flush the last statistics, 10 ms apart.
const LAST_FLUSHES: usize = 100;

/// A client's connection in transfer to another process.
#[derive(Debug)]
pub struct HandedOverConnection {
    pub stream: std::net::TcpStream,
    pub client: IpAddr,
    /// The bytes already read of the next query.
    pub rest: Vec<u8>,
}

impl HandedOverConnection {
    /// Returns the client's port, by which connections are spread over the workers.
    pub fn client_number(&self) -> u16 {
        self.stream.peer_addr().map_or(0, |address| address.port())
    }
}

/// Sends connections to the process that serves.
pub(crate) type ConnectionSink = Arc<dyn Fn(HandedOverConnection) + Send + Sync>;

/// Time that datagrams may wait while connections keep a worker busy. After it datagrams are served first, however many
/// connections are ready, so a client that fills its connections does not delay clients with short UDP queries.
const DATAGRAMS_WAIT: Duration = Duration::from_micros(250);

/// A listener for datagrams.
trait Datagrams {
    /// Answers one batch, if one has arrived and the listener reads.
    fn answer_batch(self: Rc<Self>);
}

/// State shared by the listeners of one worker.
pub(crate) struct WorkerState<U> {
    /// State shared by all workers.
    pub resolver: Arc<Resolver>,
    /// The upstream connections of this worker.
    pub upstreams: Rc<U>,
    pub phase: watch::Receiver<Phase>,
    /// Sends connections to the process that serves, while this one is in standby.
    pub connection_sink: ConnectionSink,
    /// Count of the readers of queries in all workers.
    pub readers: Readers,
    tally: RefCell<LocalCounters>,
    stats_buffer: RefCell<StatsBuffer>,
    /// Buffer for a TCP response before it is framed.
    scratch: RefCell<Box<[u8]>>,
    generation: Cell<u32>,
    /// Configuration under which the statistics are collected.
    following: RefCell<Arc<Snapshot>>,
    in_flight: Cell<usize>,
    landed: Notify,
    datagrams: RefCell<Vec<Weak<dyn Datagrams>>>,
    /// Time of the last check for datagrams.
    datagrams_at: Cell<Instant>,
}

impl<U: Ask + 'static> WorkerState<U> {
    /// Creates a worker without listeners.
    pub(crate) fn new(
        resolver: Arc<Resolver>,
        upstreams: Rc<U>,
        phase: watch::Receiver<Phase>,
        connection_sink: ConnectionSink,
        readers: Readers,
    ) -> Rc<Self> {
        let snapshot = resolver.snapshot.load_full();
        Rc::new(Self {
            tally: RefCell::new(tally(&resolver, &snapshot)),
            stats_buffer: RefCell::new(stats_buffer(&resolver, &snapshot)),
            scratch: RefCell::new(vec![0; LONGEST_MESSAGE].into()),
            generation: Cell::new(snapshot.generation),
            following: RefCell::new(snapshot),
            resolver,
            upstreams,
            phase,
            connection_sink,
            readers,
            in_flight: Cell::new(0),
            landed: Notify::new(),
            datagrams: RefCell::default(),
            datagrams_at: Cell::new(Instant::now()),
        })
    }

    /// Waits until no query is in flight, at most for [`GRACE`]. Returns how many are left.
    pub(crate) async fn drain(&self) -> usize {
        let deadline = Instant::now() + GRACE;
        while self.in_flight.get() > 0 {
            if timeout_at(deadline, self.landed.notified()).await.is_err() {
                break;
            }
        }
        self.in_flight.get()
    }

    /// Renders the response to a deferred query and records its outcome. Returns the response's length.
    fn complete(&self, resolved: &Resolved, out: &mut [u8]) -> usize {
        let len = resolved.render(&self.resolver, out);
        let took = resolved.took;
        let mut tally = self.tally.borrow_mut();
        if let (Some(client), Ok(query)) = (resolved.client(), Query::read(&resolved.query)) {
            // The key is built again only behind a static alias: building it costs a third of what a cache hit costs.
            let made;
            let question = match resolved.question() {
                Some(question) => question,
                None => {
                    made = CacheKey::new(&query, EffectiveViewId::COMMON);
                    ParsedQuestion::of(&made, self.resolver.cache.hash(&made))
                }
            };
            let (rcode, over_tcp) = (resolved.rcode(), resolved.over_tcp);
            let is_cut = !over_tcp && rcode == rcode::NOERROR && is_truncated(&out[..len]);
            let outcome = QueryOutcome {
                client,
                over_tcp,
                question,
                route: resolved.route_under(self.generation.get()),
                rcode,
                source: resolved.source,
                cause: resolved.cause(),
                words: Explanation::Options(resolved.extended_errors()),
                truncated_to: is_cut.then(|| query.udp_size().min(LARGEST_UDP_REPLY).into()),
            };
            let timing = Timing::Deferred(self.resolver.millis(resolved.asked()), took, resolved.answered_by());
            outcome::enter(&self.resolver, &mut tally, &mut self.stats_buffer.borrow_mut(), &outcome, timing);
        }
        tally.flush(&self.resolver.metrics, took.as_secs_f64());
        len
    }

    /// Flushes the statistics about clients to the accounts, if that is due.
    pub(crate) fn settle(&self, now: Instant) {
        let now = self.resolver.millis(now);
        let mut stats_buffer = self.stats_buffer.borrow_mut();
        if stats_buffer.is_due(now) && self.resolver.accounts.jobs.flush(&mut stats_buffer, now) {
            stats_buffer.log.hand_over();
        }
    }

    /// Flushes the last statistics, when no more will come. Waits for space at most for a second.
    pub(crate) async fn flush_all(&self) {
        for _ in 0..LAST_FLUSHES {
            if self.resolver.accounts.jobs.flush(&mut self.stats_buffer.borrow_mut(), self.resolver.now()) {
                return;
            }
            tokio::time::sleep(GRACE / 500).await;
        }
    }

    /// Refreshes a popular cache entry, or checks a denial.
    fn refresh(&self, pending_query: PendingQuery) {
        match pruning::is_denied(&pending_query) {
            true => pruning::check(&self.resolver, &self.upstreams, pending_query),
            false => forward::refresh(&self.resolver, &self.upstreams, pending_query),
        }
    }

    /// Adapts the counters to the configuration in force. The cost does not depend on the size of either configuration,
    /// because queries wait for it.
    #[inline]
    pub(crate) fn follow(&self, snapshot: &Arc<Snapshot>) {
        if self.generation.replace(snapshot.generation) != snapshot.generation {
            self.turn_to(snapshot);
        }
    }

    #[cold]
    fn turn_to(&self, snapshot: &Arc<Snapshot>) {
        let resolver = &self.resolver;
        self.tally.borrow_mut().follow(&resolver.metrics, &snapshot.labels);
        let (mut stats_buffer, before) = (self.stats_buffer.borrow_mut(), self.following.replace(Arc::clone(snapshot)));
        // Statistics that find no space now are flushed next time, and still settled with the clients of `before`.
        resolver.accounts.jobs.flush(&mut stats_buffer, resolver.now());
        stats_buffer.follow(&snapshot.labels, &snapshot.clients);
        stats_buffer.log = resolver.accounts.query_log.sampler(snapshot);
        // Dropped last: the thread that drops the last reference frees it, with the clients that the statistics refer to.
        drop(before);
    }

    /// Serves datagrams if [`DATAGRAMS_WAIT`] has passed since the last check for them. Called before work that takes time.
    fn datagrams_first(&self, now: Instant) {
        if now.saturating_duration_since(self.datagrams_at.get()) >= DATAGRAMS_WAIT {
            self.datagrams_at.set(now);
            self.datagrams.borrow().iter().filter_map(Weak::upgrade).for_each(Datagrams::answer_batch);
        }
    }

    /// Counts a query as in flight until the guard is dropped.
    fn depart(self: &Rc<Self>) -> InFlight<U> {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(Rc::clone(self))
    }
}

struct InFlight<U>(Rc<WorkerState<U>>);

impl<U> Drop for InFlight<U> {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.landed.notify_one();
    }
}

fn stats_buffer(resolver: &Resolver, snapshot: &Arc<Snapshot>) -> StatsBuffer {
    let mut stats_buffer = StatsBuffer::new(&[] as &[&str]);
    stats_buffer.follow(&snapshot.labels, &snapshot.clients);
    stats_buffer.log = resolver.accounts.query_log.sampler(snapshot);
    stats_buffer
}

fn tally(resolver: &Resolver, snapshot: &Snapshot) -> LocalCounters {
    let mut tally = LocalCounters::new(&resolver.metrics, &[]);
    tally.follow(&resolver.metrics, &snapshot.labels);
    tally
}
