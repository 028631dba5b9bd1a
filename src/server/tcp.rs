//! TCP (RFC 7766, RFC 9210): framed queries split over any segments, pipelined, answered as soon as each is ready.
//!
//! A connection is one task. It answers what it can at once. Other queries are resolved in tasks that report through a
//! channel, so a slow response delays none behind it. A client that does not read its responses delays only itself: while
//! responses wait to be written, nothing more is read from the client, and in the end its connection is closed.
//!
//! The memory of a connection is bounded and accounted for. Each response is rendered after the one before it is written.
//! Bytes beyond a small buffer, of an incomplete query or of responses that the client does not read, are a share of
//! [`Governor::buffered`](crate::governor::Governor). When no share is left, the connection is closed.

use std::io::{self, Read};
use std::net::{IpAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::phase::{Phase, left_standby, over};
use super::readers::Reading;
use super::socket::SocketBuffers;
use super::{DRAIN, HandedOverConnection, WorkerState};
use crate::admission::connections::{Admitted, Caps, ConnectionSlot, Connections};
use crate::answer::{self, BatchContext, Resolved, Response};
use crate::governor::pool::Share;
use crate::task;
use crate::upstream::server_status::wall_clock;
use crate::upstream::{Ask, LocalFault};

/// Most queries in flight of one connection; at this number no more are read.
const IN_FLIGHT: usize = 100;
/// Time that a client has to read a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause in accepting when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Size of every connection's read buffer. The buffer grows beyond it as bytes arrive, up to one whole frame.
const BUFFER: usize = 4_096;
/// Pause of a connection after each read that leaves more than `BUFFER` bytes. Queries are short: clients that send long
/// ones must not keep the worker busy.
const LONG_PAUSE: Duration = Duration::from_millis(5);
/// Size of the largest frame: length and message.
const LARGEST_FRAME: usize = 2 + u16::MAX as usize;
/// Bytes of queries that are still read from a connection when the server stops.
const MOST_AT_STOP: usize = 64 << 10;
/// Size of the ready responses at which they are written before more queries are answered.
const WRITE_SOON: usize = 64 * 1_024;

/// Queries of one connection that are answered before other connections and UDP are served.
const TURN: usize = 16;

/// Accepts connections until the server stops.
///
/// # Errors
/// The listener cannot be watched.
pub(crate) async fn serve<U: Ask + 'static>(
    worker: Rc<WorkerState<U>>,
    listener: TcpListener,
    connections: Arc<Connections>,
) -> io::Result<()> {
    loop {
        if left_standby(worker.phase.clone()).await == Phase::Stopping {
            return Ok(());
        }
        // Watched only while the server serves.
        let watched = match listener.try_clone().and_then(tokio::net::TcpListener::from_std) {
            Ok(watched) => watched,
            Err(error) if LocalFault::of(&error).is_some() => {
                not_accepted(&worker, &error).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        if accept(&worker, &watched, &connections).await == Phase::Stopping {
            break;
        }
    }
    // Clients that have connected by now may have sent queries. More may connect all the time.
    let deadline = Instant::now() + DRAIN;
    while Instant::now() < deadline
        && let Ok((stream, client)) = SockRef::from(&listener).accept()
    {
        stream.set_nonblocking(true)?;
        if let Some(client) = client.as_socket() {
            admit(&worker, TcpStream::from_std(stream.into())?, client.ip().to_canonical(), &connections, Vec::new());
        }
    }
    Ok(())
}

/// Takes over a connection from another process.
///
/// # Errors
/// The connection cannot be watched.
pub(crate) fn adopt<U: Ask + 'static>(
    worker: &Rc<WorkerState<U>>,
    moved: HandedOverConnection,
    connections: &Arc<Connections>,
) -> io::Result<()> {
    moved.stream.set_nonblocking(true)?;
    admit(worker, TcpStream::from_std(moved.stream)?, moved.client, connections, moved.rest);
    Ok(())
}

/// Accepts connections while the server serves; returns the next phase.
async fn accept<U: Ask + 'static>(
    worker: &Rc<WorkerState<U>>,
    listener: &tokio::net::TcpListener,
    connections: &Arc<Connections>,
) -> Phase {
    let over = over(worker.phase.clone());
    tokio::pin!(over);
    let Some(_reading) = worker.readers.enter_if_serving(&worker.phase) else { return over.await };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            phase = &mut over => return phase,
        };
        match accepted {
            Ok((stream, client)) => admit(worker, stream, client.ip().to_canonical(), connections, Vec::new()),
            // A connection that was aborted before it was accepted does not affect the next; lack of descriptors is temporary.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => not_accepted(worker, &error).await,
        }
    }
}

/// Pauses accepting; the connection still waits to be accepted. Counts the error if it is a fault of this machine.
async fn not_accepted<U>(worker: &WorkerState<U>, error: &io::Error) {
    if let Some(fault) = LocalFault::of(error) {
        worker.resolver.metrics.faults.count(fault.index(), wall_clock());
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Serves a connection in its own task as soon as there is a place for it; `rest` has already been read from it. Clients
/// that `admission` does not admit get a place of a separate pool, and only a refusal.
fn admit<U: Ask + 'static>(
    worker: &Rc<WorkerState<U>>,
    stream: TcpStream,
    client: IpAddr,
    connections: &Arc<Connections>,
    rest: Vec<u8>,
) {
    let metrics = &worker.resolver.metrics;
    let snapshot = worker.resolver.snapshot.load();
    let limits = &snapshot.config.server;
    let caps = Caps { total: limits.tcp_connections, per_client: limits.tcp_connections_per_client };
    let (may_ask, now) = (snapshot.admission.admits(client), worker.resolver.now());
    let admitted = match may_ask {
        true => connections.admit(client, caps, now),
        false => connections.admit_stranger(client, now),
    };
    if matches!(admitted, Admitted::Never) {
        return metrics.capacity.tcp_rejected.inc();
    }
    // The worker waits for this connection when it stops, because queries may be in flight on it.
    let (worker, idle, guard) = (Rc::clone(worker), limits.tcp_idle_timeout, worker.depart());
    let reading = worker.readers.enter();
    task::spawn_local(async move {
        let place = match admitted {
            Admitted::Now(place) => Some(place),
            Admitted::Later(waiting) => waiting.place(|| worker.resolver.now()).await,
            Admitted::Never => None,
        };
        let Some(place) = place else { return worker.resolver.metrics.capacity.tcp_rejected.inc() };
        worker.resolver.metrics.capacity.tcp_connections.inc();
        let connection = ClientConnection {
            worker: Rc::clone(&worker),
            client,
            idle,
            out: Vec::new(),
            in_flight: 0,
            long: None,
            may_ask,
            place,
        };
        // A broken connection is no error of nodens.
        let _ = connection.run(stream, rest, reading).await;
        worker.resolver.metrics.capacity.tcp_connections.dec();
        drop(guard);
    });
}

struct ClientConnection<U> {
    worker: Rc<WorkerState<U>>,
    client: IpAddr,
    idle: Duration,
    /// Framed responses that wait to be written.
    out: Vec<u8>,
    in_flight: usize,
    /// Share of the buffered bytes of all clients that the read buffer holds beyond [`BUFFER`].
    long: Option<Share>,
    place: ConnectionSlot,
    /// True if the client is admitted. Otherwise its queries are refused, and the connection ends once a refusal is written.
    may_ask: bool,
}

impl<U: Ask + 'static> ClientConnection<U> {
    async fn run(mut self, mut stream: TcpStream, mut input: Vec<u8>, reading: Reading) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (done, mut finished) = mpsc::channel::<Resolved>(IN_FLIGHT);
        let mut filled = input.len();
        self.fit_input(&mut input, filled)?;
        // Held while more may be read: not after the client's half-close, nor once the server is no longer serving.
        let mut reading = Some(reading);
        let mut moves = false;
        let mut last_use = Instant::now();
        // Time since which an incomplete query has been arriving.
        let mut part_since = None;
        let over = over(self.worker.phase.clone());
        tokio::pin!(over);
        loop {
            // Whole frames also wait here while too many of the connection's queries are in flight.
            loop {
                let (before, more) = (filled, self.take_frames(&mut input, &mut filled, &done)?);
                part_since = match (filled, part_since) {
                    (0, _) => None,
                    (_, Some(since)) if filled == before => Some(since),
                    _ => Some(Instant::now()),
                };
                while self.out.len() < WRITE_SOON
                    && let Ok(resolved) = finished.try_recv()
                {
                    self.complete(&resolved);
                }
                if self.out.is_empty() && !more {
                    break;
                }
                // Fewer than BUFFER bytes are written together with the next responses; more are written before other
                // connections are served.
                if !more || self.out.len() >= BUFFER {
                    let is_told = !self.out.is_empty() && !self.may_ask;
                    self.write(&mut stream).await?;
                    reading = reading.filter(|_| !is_told);
                    last_use = Instant::now();
                }
                if more {
                    yield_now().await;
                }
            }
            if reading.is_none() && self.in_flight == 0 {
                break;
            }
            let is_idle = self.in_flight == 0;
            self.place.note_idle(is_idle.then(|| self.worker.resolver.millis(last_use)));
            let until = part_since.unwrap_or(last_use) + self.idle;
            tokio::select! {
                read = stream.read(&mut input[filled..]), if reading.is_some() && self.in_flight < IN_FLIGHT => {
                    match read? {
                        0 => reading = None,
                        read => filled += read,
                    }
                    if filled > BUFFER {
                        sleep(LONG_PAUSE).await;
                    }
                }
                Some(resolved) = finished.recv(), if self.in_flight > 0 => {
                    self.complete(&resolved);
                    last_use = Instant::now();
                }
                () = sleep_until(until), if is_idle => return Ok(()),
                () = self.place.given_away(), if is_idle && reading.is_some() => {
                    // Queries that have arrived by now are answered.
                    reading = None;
                    filled = read_rest(&stream, &mut input, filled);
                }
                phase = &mut over, if reading.is_some() => {
                    reading = None;
                    moves = phase == Phase::Resting;
                    if !moves {
                        filled = read_rest(&stream, &mut input, filled);
                    }
                }
            }
        }
        if moves {
            input.truncate(filled);
            (self.worker.connection_sink)(HandedOverConnection {
                stream: stream.into_std()?,
                client: self.client,
                rest: input,
            });
            return Ok(());
        }
        stream.shutdown().await
    }

    /// Answers at most [`TURN`] whole frames of `input[..filled]`, while there is space for their responses. Moves the rest to
    /// the front; returns whether it begins with a whole frame that can be answered next.
    fn take_frames(
        &mut self,
        input: &mut Vec<u8>,
        filled: &mut usize,
        done: &mpsc::Sender<Resolved>,
    ) -> io::Result<bool> {
        let all = *filled;
        let frame = |input: &[u8], at: usize| {
            let end = at + 2 + usize::from(crate::wire::u16_at(input.get(..all)?, at)?);
            (end <= all).then_some(end)
        };
        let (mut at, mut taken) = (0, 0);
        let worker = Rc::clone(&self.worker);
        let started = Instant::now();
        worker.datagrams_first(started);
        let snapshot = worker.resolver.snapshot.load();
        worker.follow(&snapshot);
        let (mut tally, mut stats_buffer) = (worker.tally.borrow_mut(), worker.stats_buffer.borrow_mut());
        let mut context = worker.resolver.context(&snapshot, started, &mut tally, &mut stats_buffer);
        while taken < TURN
            && self.in_flight < IN_FLIGHT
            && self.out.len() < WRITE_SOON
            && let Some(end) = frame(input, at)
        {
            self.respond(&mut context, &input[at + 2..end], done);
            (at, taken) = (end, taken + 1);
        }
        let more = taken > 0 && self.in_flight < IN_FLIGHT && frame(input, at).is_some();
        tally.flush(&worker.resolver.metrics, started.elapsed().as_secs_f64());
        drop(stats_buffer);
        worker.settle(started);
        input.copy_within(at..all, 0);
        *filled = all - at;
        if at > 0 || *filled == input.len() {
            self.fit_input(input, *filled)?;
        }
        Ok(more)
    }

    /// Fits the size of the read buffer to `filled` bytes: with space for more, but no larger than needed.
    fn fit_input(&mut self, input: &mut Vec<u8>, filled: usize) -> io::Result<()> {
        let size = match filled {
            0..BUFFER => BUFFER,
            filled => (filled * 2).min(LARGEST_FRAME).max(filled + 1),
        };
        if size == input.len() {
            return Ok(());
        }
        let more = size - BUFFER;
        let enough = match &mut self.long {
            Some(long) => long.resize(more),
            None if more > 0 => {
                self.long = Share::of(&self.worker.resolver.limits.governor.buffered, self.client, more);
                self.long.is_some()
            }
            None => true,
        };
        if !enough {
            return Err(self.turned_away());
        }
        input.resize(size, 0);
        input.shrink_to_fit();
        Ok(())
    }

    /// Writes `out`, waiting at most [`WRITE_TIMEOUT`] for the client to read.
    async fn write(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        let written = match stream.try_write(&self.out) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if written < self.out.len() {
            // The kernel's buffer is full as well.
            let waiting = self.out.len() - written + SocketBuffers::LARGEST.tcp_send;
            let share = Share::of(&self.worker.resolver.limits.governor.buffered, self.client, waiting);
            let Some(_share) = share else { return Err(self.turned_away()) };
            timeout(WRITE_TIMEOUT, stream.write_all(&self.out[written..])).await??;
        }
        self.out.clear();
        self.out.shrink_to(BUFFER);
        Ok(())
    }

    /// Counts a rejection for lack of buffered bytes, of this client or in all; returns the error that closes the connection.
    fn turned_away(&self) -> io::Error {
        self.worker.resolver.metrics.capacity.rejections.with_label_values(&["buffered_bytes"]).inc();
        io::ErrorKind::OutOfMemory.into()
    }

    fn respond(&mut self, context: &mut BatchContext<'_>, packet: &[u8], done: &mpsc::Sender<Resolved>) {
        let mut scratch = self.worker.scratch.borrow_mut();
        let len = match self.worker.resolver.respond(context, packet, self.client, true, &mut scratch) {
            Response::Silence => return,
            Response::Reply(len) => len,
            Response::ReplyAndRefresh(len, pending_query) => {
                self.worker.refresh(*pending_query);
                len
            }
            Response::Deferred(deferred) => {
                self.in_flight += 1;
                let (worker, done) = (Rc::clone(&self.worker), done.clone());
                tokio::task::spawn_local(async move {
                    let resolved = answer::resolve(&worker.resolver, &worker.upstreams, deferred).await;
                    // The connection may be closed by now. The channel has space for all queries in flight.
                    let _ = done.try_send(resolved);
                });
                return;
            }
        };
        frame(&scratch[..len], &mut self.out);
    }

    /// Renders the response to a query that was in flight.
    fn complete(&mut self, resolved: &Resolved) {
        self.in_flight -= 1;
        let mut scratch = self.worker.scratch.borrow_mut();
        let len = self.worker.complete(resolved, &mut scratch);
        frame(&scratch[..len], &mut self.out);
    }
}

/// Reads what has arrived, without waiting for more; returns the number of bytes in `input`.
///
/// Reads from the kernel directly, because the runtime may not have been notified of new data yet.
fn read_rest(stream: &TcpStream, input: &mut Vec<u8>, mut filled: usize) -> usize {
    let socket = SockRef::from(stream);
    while filled < MOST_AT_STOP
        && let Ok(read @ 1..) = (&*socket).read(&mut input[filled..])
    {
        filled += read;
        if filled == input.len() {
            input.resize(input.len() * 2, 0);
        }
    }
    filled
}

fn frame(response: &[u8], out: &mut Vec<u8>) {
    if !response.is_empty() {
        out.extend_from_slice(&(response.len() as u16).to_be_bytes());
        out.extend_from_slice(response);
    }
}
