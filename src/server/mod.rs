//! Bytes in, bytes out: the listeners of one worker.
//!
//! - [`socket`] every socket option;
//! - [`mmsg`] datagrams in batches;
//! - [`udp`] take a batch, answer what is known in place, hand over the rest, send a batch;
//! - [`tcp`] framed queries: pipelined, answered out of order;
//! - [`readers`] how many of them read.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use readers::Readers;

use crate::answer::{self, Finished, Resolver, Wanted};
use crate::fetch;
use crate::jobs::Ledger;
use crate::jobs::ledger::{Failed, NO_ROUTE, Wait};
use crate::metrics::Tally;
use crate::query_log::sampler::{Name, Record};
use crate::snapshot::Snapshot;
use crate::upstream::Ask;
use crate::wire::query::{Key, Query};
use crate::wire::{LARGEST_UDP_REPLY, LONGEST_MESSAGE, is_truncated, rcode};

pub mod mmsg;
pub mod readers;
pub mod socket;
pub mod tcp;
pub mod udp;

/// How long queries in flight are waited for when the server stops.
pub const GRACE: Duration = Duration::from_secs(5);

/// What the server is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It takes queries.
    #[default]
    Serving,
    /// Another process has the same sockets and takes queries from them; this one finishes what it has, and waits.
    Resting,
    /// It ends.
    Stopping,
}

/// A client's connection on its way to another process, and what has been read of the next query.
#[derive(Debug)]
pub struct Moved {
    /// The connection.
    pub stream: std::net::TcpStream,
    /// The client.
    pub client: IpAddr,
    /// What has been read.
    pub rest: Vec<u8>,
}

impl Moved {
    /// A number that tells clients apart, to spread them.
    pub fn client_number(&self) -> u16 {
        self.stream.peer_addr().map_or(0, |address| address.port())
    }
}

/// Takes connections to the process that serves now.
pub type Mover = Arc<dyn Fn(Moved) + Send + Sync>;

/// What the listeners of one worker share.
pub struct Worker<U> {
    /// What all workers share.
    pub resolver: Arc<Resolver>,
    /// This worker's upstreams.
    pub upstreams: Rc<U>,
    /// What the server is about.
    pub phase: watch::Receiver<Phase>,
    /// Where connections go when the server rests.
    pub mover: Mover,
    /// Who reads queries, in all workers.
    pub readers: Readers,
    tally: RefCell<Tally>,
    ledger: RefCell<Ledger>,
    /// Where a TCP reply is written before it is framed.
    scratch: RefCell<Box<[u8]>>,
    generation: Cell<u32>,
    /// The configuration that its notes were taken under.
    following: RefCell<Arc<Snapshot>>,
    in_flight: Cell<usize>,
    landed: Notify,
}

impl<U: Ask + 'static> Worker<U> {
    /// A worker without listeners yet.
    pub fn new(
        resolver: Arc<Resolver>,
        upstreams: Rc<U>,
        phase: watch::Receiver<Phase>,
        mover: Mover,
        readers: Readers,
    ) -> Rc<Self> {
        let snapshot = resolver.snapshot.load_full();
        Rc::new(Self {
            tally: RefCell::new(tally(&resolver, &snapshot)),
            ledger: RefCell::new(ledger(&resolver, &snapshot)),
            scratch: RefCell::new(vec![0; LONGEST_MESSAGE].into()),
            generation: Cell::new(snapshot.generation),
            following: RefCell::new(snapshot),
            resolver,
            upstreams,
            phase,
            mover,
            readers,
            in_flight: Cell::new(0),
            landed: Notify::new(),
        })
    }

    /// Waits until no query is in flight, at most for [`GRACE`]. Returns how many were left.
    pub async fn drain(&self) -> usize {
        let deadline = Instant::now() + GRACE;
        while self.in_flight.get() > 0 {
            if timeout_at(deadline, self.landed.notified()).await.is_err() {
                break;
            }
        }
        self.in_flight.get()
    }

    /// Answers a query in the background's own time, counted as in flight.
    async fn finish(&self, wanted: Box<Wanted>, packet: &[u8], over_tcp: bool) -> Finished {
        let (asked, client, generation, route) =
            (wanted.asked, wanted.client, wanted.snapshot.generation, wanted.route);
        let finished = answer::finish(&self.resolver, &self.upstreams, wanted, packet, over_tcp).await;
        let took = asked.elapsed();
        {
            let mut tally = self.tally.borrow_mut();
            tally.response(finished.rcode, finished.source);
            tally.flush(&self.resolver.metrics, took.as_secs_f64());
        }
        if let (Some(client), Ok(query)) = (client, Query::read(packet)) {
            // Numbers of another configuration's routes mean nothing now.
            let route = if generation == self.generation.get() { route } else { NO_ROUTE };
            let (key, at, mut ledger) = (Key::new(&query, 0), self.resolver.millis(asked), self.ledger.borrow_mut());
            let (qtype, rcode, source) = (query.qtype, finished.rcode, finished.source);
            ledger.count_late(client, route, rcode, source, at);
            if rcode != rcode::NOERROR {
                let failed =
                    Failed { name: key.name(), hash: self.resolver.cache.hash(&key), qtype, route, rcode, source };
                ledger.fail(client, failed, at, || Some(finished.extended_errors.clone()));
            }
            if !over_tcp && rcode == rcode::NOERROR && is_truncated(&finished.wire) {
                let (truncated, route) = (&self.resolver.jobs.truncated, ledger.route(route).cloned());
                let size = query.udp_size().min(LARGEST_UDP_REPLY);
                truncated.cut(client, key.name(), qtype, route, size.into(), at);
            }
            if ledger.log.draws(rcode) {
                let (name, now, by) = (Name::new(key.name()), self.resolver.millis(asked + took), finished.by);
                let errors = Some(finished.extended_errors.clone()).filter(|errors| !errors.is_empty());
                ledger.log.take(now, || Record {
                    client,
                    asked: at,
                    took,
                    over_tcp,
                    name,
                    qtype,
                    rcode,
                    source,
                    route,
                    by,
                    errors,
                });
            }
            ledger.wait(client, Wait { address: 0, asked: at, took, name: key.name().into(), qtype, route, rcode });
        }
        finished
    }

    /// Hands what was noted of clients to the accounts, if it is time.
    pub fn settle(&self, now: Instant) {
        let now = self.resolver.millis(now);
        let mut ledger = self.ledger.borrow_mut();
        if ledger.is_due(now) {
            self.resolver.jobs.settle(&mut ledger, &self.resolver.tables(&self.following.borrow()), now);
            ledger.log.hand_over();
        }
    }

    /// Fetches a popular entry anew.
    fn refresh(&self, wanted: Wanted) {
        fetch::refresh(&self.resolver, &self.upstreams, wanted);
    }

    /// Makes the counts fit the configuration in force. What it costs does not depend on the size of either configuration:
    /// queries wait for it.
    #[inline]
    pub fn follow(&self, snapshot: &Arc<Snapshot>) {
        if self.generation.replace(snapshot.generation) != snapshot.generation {
            self.turn_to(snapshot);
        }
    }

    #[cold]
    fn turn_to(&self, snapshot: &Arc<Snapshot>) {
        let resolver = &self.resolver;
        self.tally.borrow_mut().follow(&resolver.metrics, &snapshot.labels);
        let (mut ledger, before) = (self.ledger.borrow_mut(), self.following.replace(Arc::clone(snapshot)));
        resolver.jobs.settle_now(&mut ledger, &resolver.tables(&before), resolver.now());
        ledger.follow(&snapshot.labels);
        ledger.log = resolver.query_log.sampler(snapshot);
        // The last one to hold `before` is the thread that frees it.
    }

    /// Counts a query as in flight until the guard is dropped.
    fn depart(self: &Rc<Self>) -> InFlight<U> {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(Rc::clone(self))
    }
}

struct InFlight<U>(Rc<Worker<U>>);

impl<U> Drop for InFlight<U> {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.landed.notify_one();
    }
}

/// Resolves when the server serves no more, with what it is about then.
async fn over(mut phase: watch::Receiver<Phase>) -> Phase {
    // An error says that the whole server is gone.
    phase.wait_for(|phase| *phase != Phase::Serving).await.map_or(Phase::Stopping, |phase| *phase)
}

/// Resolves when the server does not rest, with what it is about then.
async fn rested(mut phase: watch::Receiver<Phase>) -> Phase {
    phase.wait_for(|phase| *phase != Phase::Resting).await.map_or(Phase::Stopping, |phase| *phase)
}

fn ledger(resolver: &Resolver, snapshot: &Arc<Snapshot>) -> Ledger {
    let mut ledger = Ledger::new(&[] as &[&str]);
    ledger.follow(&snapshot.labels);
    ledger.log = resolver.query_log.sampler(snapshot);
    ledger
}

fn tally(resolver: &Resolver, snapshot: &Snapshot) -> Tally {
    let mut tally = Tally::new(&resolver.metrics, &[]);
    tally.follow(&resolver.metrics, &snapshot.labels);
    tally
}
