//! One UDP socket: receives a batch, answers what it can at once, defers the rest, sends a batch.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::mmsg::{BATCH, DatagramBatch, Peer};
use super::phase::{Phase, left_standby, over};
use super::socket::is_wildcard;
use super::{DRAIN, Datagrams, InFlight, WorkerState};
use crate::answer::{self, Deferred, Resolved, Response};
use crate::task;
use crate::upstream::Ask;

/// Full batches answered in a row before the worker's other tasks run.
const BATCHES_IN_A_ROW: usize = 4;

/// Serves a socket until the server stops. All sockets of a worker share the buffers in `batch`.
///
/// # Errors
/// The socket cannot be watched.
pub(crate) async fn serve<U: Ask + 'static>(
    worker: Rc<WorkerState<U>>,
    socket: UdpSocket,
    batch: Rc<RefCell<DatagramBatch>>,
) -> io::Result<()> {
    let with_destination = is_wildcard(&socket);
    let listener = Rc::new(Listener {
        worker,
        socket: Rc::new(socket),
        with_destination,
        batch,
        late: RefCell::new(DeferredResponses { resolved: Vec::new(), guards: Vec::new() }),
        is_late: Notify::new(),
        reads: Cell::new(false),
    });
    let datagrams = Rc::downgrade(&listener);
    listener.worker.datagrams.borrow_mut().push(datagrams);
    task::spawn_local(Rc::clone(&listener).send_late());
    loop {
        if left_standby(listener.worker.phase.clone()).await == Phase::Stopping {
            return Ok(());
        }
        if listener.read().await? == Phase::Stopping {
            break;
        }
    }
    // Queries that have arrived by now are answered too. More may arrive all the time, if nothing diverts them.
    let deadline = Instant::now() + DRAIN;
    while listener.context().is_ok_and(|count| count > 0) && Instant::now() < deadline {}
    Ok(())
}

/// Watches a socket for readability only: watching its send buffer too would cost a wake-up for each datagram sent.
#[expect(deprecated, reason = "its successor is unsafe, for descriptors that change; a socket of std keeps its own")]
fn watched(socket: &Rc<UdpSocket>) -> io::Result<AsyncFd<WatchedSocket>> {
    AsyncFd::with_interest(WatchedSocket(Rc::clone(socket)), Interest::READABLE)
}

/// The socket while it is watched; in standby it is not, because datagrams must not wake this process.
struct WatchedSocket(Rc<UdpSocket>);

impl AsRawFd for WatchedSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

struct Listener<U> {
    worker: Rc<WorkerState<U>>,
    socket: Rc<UdpSocket>,
    with_destination: bool,
    batch: Rc<RefCell<DatagramBatch>>,
    late: RefCell<DeferredResponses<U>>,
    is_late: Notify,
    /// True if this listener reads now.
    reads: Cell<bool>,
}

impl<U: Ask + 'static> Datagrams for Listener<U> {
    fn answer_batch(self: Rc<Self>) {
        if self.reads.get() {
            // The task that watches the socket reports its errors.
            let _ = self.context();
        }
    }
}

/// Deferred responses that wait to be sent, together with others that are ready at the same moment.
struct DeferredResponses<U> {
    resolved: Vec<(Peer, Resolved)>,
    /// Guards that count these queries as in flight until they are sent.
    guards: Vec<InFlight<U>>,
}

impl<U: Ask + 'static> Listener<U> {
    /// Answers queries while the server serves; returns the next phase.
    async fn read(self: &Rc<Self>) -> io::Result<Phase> {
        let socket = watched(&self.socket)?;
        let over = over(self.worker.phase.clone());
        tokio::pin!(over);
        let Some(_reading) = self.worker.readers.enter_if_serving(&self.worker.phase) else { return Ok(over.await) };
        self.reads.set(true);
        let end = self.read_until(&socket, over).await;
        self.reads.set(false);
        end
    }

    async fn read_until(
        self: &Rc<Self>,
        socket: &AsyncFd<WatchedSocket>,
        mut over: Pin<&mut impl Future<Output = Phase>>,
    ) -> io::Result<Phase> {
        loop {
            tokio::select! {
                ready = socket.readable() => drop(ready?),
                phase = &mut over => return Ok(phase),
            }
            let mut full = 0;
            while full < BATCHES_IN_A_ROW && self.take_batch(socket) == BATCH {
                full += 1;
            }
            if full == BATCHES_IN_A_ROW {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Receives and answers one batch, if any datagram waits. Returns the number of datagrams.
    fn take_batch(self: &Rc<Self>, socket: &AsyncFd<WatchedSocket>) -> usize {
        let mut taken = 0;
        // A batch that is not full has emptied the socket: reporting that saves the call that would find it empty.
        let _ = socket.try_io(Interest::READABLE, |_| {
            taken = self.context()?;
            if taken < BATCH { Err(io::Error::from(io::ErrorKind::WouldBlock)) } else { Ok(()) }
        });
        taken
    }

    /// Receives and answers one batch. Returns the number of datagrams.
    fn context(self: &Rc<Self>) -> io::Result<usize> {
        let mut batch = self.batch.borrow_mut();
        let count = batch.receive(self.socket.as_fd(), self.with_destination)?;
        let started = Instant::now();
        let worker = &self.worker;
        worker.datagrams_at.set(started);
        let resolver = &worker.resolver;
        let snapshot = resolver.snapshot.load();
        worker.follow(&snapshot);
        let (mut tally, mut stats_buffer) = (worker.tally.borrow_mut(), worker.stats_buffer.borrow_mut());
        let mut context = resolver.context(&snapshot, started, &mut tally, &mut stats_buffer);
        for at in 0..count {
            let Some((packet, client, out)) = batch.packet(at) else { continue };
            match resolver.respond(&mut context, packet, client.ip(), false, out) {
                Response::Silence => {}
                Response::Reply(len) => batch.queue_response(at, len),
                Response::ReplyAndRefresh(len, pending_query) => {
                    batch.queue_response(at, len);
                    worker.refresh(*pending_query);
                }
                Response::Deferred(deferred) => self.defer(&batch, at, deferred),
            }
        }
        self.count_refused(batch.send(self.socket.as_fd()));
        tally.flush(&resolver.metrics, started.elapsed().as_secs_f64());
        drop(stats_buffer);
        worker.settle(started);
        Ok(count)
    }

    /// Resolves a query in its own task.
    fn defer(self: &Rc<Self>, batch: &DatagramBatch, at: usize, deferred: Box<Deferred>) {
        let Some(peer) = batch.peer(at) else { return };
        let (listener, guard) = (Rc::clone(self), self.worker.depart());
        tokio::task::spawn_local(async move {
            let worker = &listener.worker;
            let resolved = answer::resolve(&worker.resolver, &worker.upstreams, deferred).await;
            let mut late = listener.late.borrow_mut();
            late.resolved.push((peer, resolved));
            late.guards.push(guard);
            listener.is_late.notify_one();
        });
    }

    /// Sends deferred responses. It runs after the tasks that are ready at its wake-up, so their responses are sent together.
    async fn send_late(self: Rc<Self>) {
        loop {
            self.is_late.notified().await;
            let DeferredResponses { resolved, guards } = &mut *self.late.borrow_mut();
            let mut batch = self.batch.borrow_mut();
            while !resolved.is_empty() {
                let part = resolved.drain(..resolved.len().min(BATCH));
                let render = |resolved: &Resolved, out: &mut [u8]| self.worker.complete(resolved, out);
                self.count_refused(batch.send_rendered(self.socket.as_fd(), part, render));
            }
            guards.clear();
        }
    }

    fn count_refused(&self, refused: usize) {
        if refused > 0 {
            self.worker.resolver.metrics.queries.dropped.with_label_values(&["unsendable"]).inc_by(refused as u64);
        }
    }
}
