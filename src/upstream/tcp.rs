//! Connections of one worker to one server over TCP: one connection, reused and pipelined, with responses in any order
//! (RFC 7766). Further ones, up to a configured number, are opened when the open ones are stalled or crowded. With TLS if
//! the server is configured for it (RFC 7858); everything else is the same.
//!
//! A connection is opened when a query needs it. It is closed when it has been idle, or when queries wait and nothing at
//! all arrives: its path may be dead while a new one is not. If a connection that has brought a response breaks, its
//! queries are sent again on a new one; so are queries that came to an open connection which the server then closed.
//! Servers may close connections at any time, and no client should notice.
//!
//! Only a whole response is a sign of life. A response that takes longer than 200 ms from its first byte delays those
//! behind it: their queries are sent over another connection. After a second the connection is closed, and the query of
//! that response has failed.
//!
//! No client has more than its share of the queries in flight, which leaves room for other clients. A client whose
//! response has taken long may have only one query in flight at a time for a while, so it delays at most one connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use super::failure::FailureKind;
use super::local_fault::LocalFault;
use super::message::{MatchResult, OutgoingQuery, keepalive};
use super::race::SET_UP;
use super::race_events::{AttemptEvent, ConnectionActivity, RaceEvents};
use super::sender::{SendContext, Sender};
use super::server::Server;
use super::sockets::{OpenSocket, OpenSockets};
use super::tls;
use crate::governor::pool::{Pool, Share};
use crate::task;

/// Maximum queries in flight on one connection; further ones are refused, which sends them to another server. Also the
/// number that all clients share over all connections to the server: see [`Pool`].
const IN_FLIGHT: usize = 512;
/// Queries in flight from which on another connection is opened, if one is allowed.
const CROWDED: usize = 64;
/// Connections allowed beyond the configured number, one for each connection that an unfinished response blocks.
pub(crate) const INSTEAD: usize = 2;
/// Time limit of a response from its first byte to its last.
const WHOLE: Duration = Duration::from_secs(1);
/// Time for which a client with a slow response has one query in flight at a time.
const SLOW_FOR: Duration = Duration::from_secs(5);
/// Number of such clients that are remembered.
const MOST_SLOW: usize = 64;
/// Number of times that a query may move to another connection because a response before it takes long.
const MOST_MOVES: u8 = 10;
/// Bytes of responses to read before the tasks that wait for them get to run.
const READ_AHEAD: usize = 64 << 10;
/// Idle time after which a connection is closed, unless the server asks for less (RFC 7828).
const IDLE: Duration = Duration::from_secs(10);
/// Time that queries may wait for a sign of life before the connection is closed. Longer than a client waits, shorter
/// than the kernel's retries: those take minutes, in which a server that has lost the connection would seem down.
const SILENCE: Duration = Duration::from_secs(2);
/// Time that queries may wait for a sign of life before another connection is opened, if one is allowed.
const STALLED: Duration = Duration::from_millis(200);
/// Like `STALLED`, for a query that was sent over a connection before and got no response in time.
const STALLED_AGAIN: Duration = Duration::from_millis(50);
/// Number of additional queries in flight after which expired ones are removed.
const SWEEP_EVERY: usize = 32;

/// Connections of one worker to one server.
pub(crate) struct TcpSender(Rc<SharedConnections>);

/// State shared by the connections to a server.
struct SharedConnections {
    server: Arc<Server>,
    pool: RefCell<Vec<Pooled>>,
    open: Rc<OpenSockets>,
    /// Shares of clients in the queries in flight, over all connections.
    places: Arc<Pool>,
    /// Maximum number of connections.
    most: Cell<usize>,
    line: Rc<ConnectionActivity>,
    /// Clients with a response that took long, and when.
    slow: RefCell<Vec<(IpAddr, Instant)>>,
}

/// One connection, as seen by senders.
struct Pooled {
    queue: mpsc::Sender<Box<TcpQuery>>,
    state: Rc<ConnectionState>,
}

/// State of a connection.
struct ConnectionState {
    /// Number of its queries, written or not.
    waiting: Cell<usize>,
    /// Last sign of life while queries wait: the last response, or the first query since.
    alive: Cell<Instant>,
    /// Question of the response that has begun to arrive.
    arriving: RefCell<Option<Box<[u8]>>>,
    /// State of all connections to the server.
    line: Rc<ConnectionActivity>,
}

impl Pooled {
    /// Reports whether queries have waited there for `after` without a response, so that another query may wait as long.
    fn is_stalled(&self, now: Instant, after: Duration) -> bool {
        self.state.waiting.get() > 0 && now >= self.state.alive.get() + after
    }
}

/// Query and the destination of its outcome.
struct TcpQuery {
    sent: OutgoingQuery,
    /// Time at which it was written: the setup of a connection is not part of the server's latency.
    at: Instant,
    until: Instant,
    number: usize,
    race_events: Rc<RaceEvents>,
    client: IpAddr,
    again: bool,
    /// Number of moves to another connection because a response before it takes long.
    moved: u8,
    /// The connection was open before the query came: if it is closed, the server need not have failed.
    joined: bool,
    _place: Share,
}

impl TcpSender {
    /// Creates the state without connections: they are opened when needed.
    pub(crate) fn new(server: Arc<Server>, open: Rc<OpenSockets>) -> Self {
        let places = Arc::new(Pool::new(IN_FLIGHT));
        let (pool, most, line) = (RefCell::default(), Cell::new(1), Rc::default());
        let slow = RefCell::default();
        Self(Rc::new(SharedConnections { server, pool, open, places, most, line, slow }))
    }
}

impl Sender for TcpSender {
    /// Sends a query over the connection with the fewest queries; if all are stalled or crowded, over a new one if one is
    /// allowed. The outcome goes to the `race_events` of `context`.
    ///
    /// # Errors
    /// Too many queries are in flight, of this client or in all; or the response to the same question has begun to
    /// arrive, and a second one would delay other queries too.
    fn send(&self, sent: OutgoingQuery, context: &SendContext<'_>) -> Result<(), FailureKind> {
        let SendContext { number, at, until, connections, .. } = *context;
        self.0.most.set(connections);
        if context.again && self.0.is_arriving(sent.question()) {
            return Err(FailureKind::Incomplete);
        }
        let client = context.client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let busy = FailureKind::Local(LocalFault::Busy);
        // Caused by the client, so not counted as a fault of this machine.
        let Some(share) = Share::of(&self.0.places, client, 1) else { return Err(busy) };
        if self.0.is_slow(client, at) && self.0.places.held_by(client) > 1 {
            return Err(busy);
        }
        let race_events = Rc::clone(context.race_events);
        let (again, moved, joined) = (false, 0, false);
        let asked = TcpQuery { sent, at, until, number, race_events, client, again, moved, joined, _place: share };
        let patience = if context.again { STALLED_AGAIN } else { STALLED };
        self.0.put(Box::new(asked), at, patience).map_err(|_| self.0.server.count_local(busy))
    }
}

impl SharedConnections {
    /// Reports whether the response to this question has begun to arrive.
    fn is_arriving(&self, question: &[u8]) -> bool {
        self.pool.borrow().iter().any(|pooled| pooled.state.arriving.borrow().as_deref() == Some(question))
    }

    /// Reports whether a response to a query of this client took long within `SLOW_FOR`.
    fn is_slow(&self, client: IpAddr, now: Instant) -> bool {
        self.slow.borrow().iter().any(|(slow, at)| *slow == client && now < *at + SLOW_FOR)
    }

    /// Records that a response to a query of this client takes long.
    fn takes_long(&self, client: IpAddr, now: Instant) {
        let mut slow = self.slow.borrow_mut();
        slow.retain(|(other, at)| *other != client && now < *at + SLOW_FOR);
        slow.truncate(MOST_SLOW - 1);
        slow.insert(0, (client, now));
    }

    /// Passes a query to a connection, a new one if necessary and allowed; returns the query if there is no room.
    fn put(self: &Rc<Self>, mut asked: Box<TcpQuery>, now: Instant, patience: Duration) -> Result<(), Box<TcpQuery>> {
        let mut pool = self.pool.borrow_mut();
        pool.retain(|pooled| !pooled.queue.is_closed());
        let stalled = |pooled: &Pooled| pooled.is_stalled(now, patience);
        let is_arriving = |pooled: &Pooled| pooled.state.arriving.borrow().is_some();
        let held_up = pool.iter().filter(|pooled| stalled(pooled) && is_arriving(pooled)).count();
        let best = pool.iter().min_by_key(|pooled| (stalled(pooled), is_arriving(pooled), pooled.state.waiting.get()));
        let wants_another = best.is_none_or(|best| stalled(best) || best.state.waiting.get() >= CROWDED);
        let may_open = wants_another && pool.len() < self.most.get() + held_up.min(INSTEAD);
        let place = if may_open { self.open.connection(pool.is_empty()) } else { None };
        if let Some(best) = best.filter(|_| place.is_none()) {
            asked = match best.take(asked) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(asked)) => return Err(asked),
                Err(mpsc::error::TrySendError::Closed(asked)) => asked,
            };
        }
        // Reached only if the chosen connection closed at this moment and no other one may be opened.
        let Some(place) = place else { return Err(asked) };
        let (queue, receiver) = mpsc::channel(IN_FLIGHT);
        let line = Rc::clone(&self.line);
        let state =
            ConnectionState { waiting: Cell::new(0), alive: Cell::new(now), arriving: RefCell::default(), line };
        let state = Rc::new(state);
        let pooled = Pooled { queue, state: Rc::clone(&state) };
        pooled.take(asked).map_err(mpsc::error::TrySendError::into_inner)?;
        pool.push(pooled);
        task::spawn_local(serve(Rc::clone(self), receiver, state, place));
        Ok(())
    }
}

impl Pooled {
    fn take(&self, asked: Box<TcpQuery>) -> Result<(), mpsc::error::TrySendError<Box<TcpQuery>>> {
        let at = asked.at;
        self.queue.try_send(asked)?;
        if self.state.waiting.replace(self.state.waiting.get() + 1) == 0 {
            self.state.alive.set(at);
        }
        Ok(())
    }
}

/// Byte stream of a connection: TCP, or TLS on it.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Opens a connection, with TLS if and only if the server is configured for it.
async fn connect(server: &Server) -> Result<Box<dyn Stream>, FailureKind> {
    if let Some(host) = &server.tls_host {
        return Ok(Box::new(tls::connect(server.address, host).await?));
    }
    let stream = TcpStream::connect(server.address).await.map_err(|error| FailureKind::of_error(&error))?;
    stream.set_nodelay(true).map_err(|error| FailureKind::of_error(&error))?;
    Ok(Box::new(stream))
}

/// Serves one place in the pool: opens connections as long as there are queries for them.
async fn serve(
    others: Rc<SharedConnections>,
    mut queue: mpsc::Receiver<Box<TcpQuery>>,
    state: Rc<ConnectionState>,
    _place: OpenSocket,
) {
    let server = Arc::clone(&others.server);
    let others = Rc::downgrade(&others);
    let mut connection = TcpConnection { server, others, state, waiting: HashMap::new(), idle: IDLE, served: false };
    let last = loop {
        let stream = timeout(SET_UP, connect(&connection.server)).await.unwrap_or(Err(FailureKind::Timeout));
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(kind) => {
                connection.server.count_local(kind);
                connection.fail_or_resend(kind);
                break kind;
            }
        };
        let end = connection.run(&mut stream, &mut queue).await;
        connection.state.arriving.replace(None);
        match end {
            // Sends the end of the stream, inside TLS too; runs in the background.
            Ok(()) => drop(task::spawn_local(async move { timeout(SET_UP, stream.shutdown()).await })),
            Err(error) => connection.fail_or_resend(FailureKind::of_arrived(&error)),
        }
        if connection.waiting.is_empty() && queue.is_empty() {
            break FailureKind::Network;
        }
    };
    // Later queries find the queue closed and open another connection.
    queue.close();
    while let Some(asked) = queue.recv().await {
        connection.fail(&asked, last);
    }
}

struct TcpConnection {
    server: Arc<Server>,
    /// All connections to the server, for queries that move to another one.
    others: Weak<SharedConnections>,
    state: Rc<ConnectionState>,
    waiting: HashMap<u16, Box<TcpQuery>>,
    idle: Duration,
    /// The open connection has brought a response.
    served: bool,
}

impl TcpConnection {
    /// Serves the queue until the connection is idle (`Ok`) or breaks.
    async fn run(&mut self, stream: &mut Box<dyn Stream>, queue: &mut mpsc::Receiver<Box<TcpQuery>>) -> io::Result<()> {
        self.served = false;
        let mut out = Vec::new();
        let mut unwritten: Vec<u16> = self.waiting.keys().copied().collect();
        self.waiting.values().for_each(|asked| frame(&asked.sent, &mut out));
        let mut opened = true;
        // Time at which the unfinished response began; whether it takes long, and whether the queries behind it have
        // moved.
        let mut part_since = None;
        let (mut takes_long, mut alone) = (false, false);
        let (mut input, mut filled, mut unseen) = (vec![0; 4_096], 0, 0);
        self.state.alive.set(Instant::now());
        let mut wanted = true;
        while wanted || !self.waiting.is_empty() {
            if !out.is_empty() {
                timeout(SET_UP, stream.write_all(&out)).await??;
                timeout(SET_UP, stream.flush()).await??;
                out.clear();
                self.record_written(&mut unwritten);
            }
            let patience = if self.waiting.is_empty() { self.idle } else { SILENCE };
            let until = match part_since {
                None => self.state.alive.get() + patience,
                Some(since) => since + if takes_long { WHOLE } else { STALLED },
            };
            tokio::select! {
                // Queued queries are taken first, even if the peer has closed: they are then sent again.
                biased;
                asked = queue.recv(), if wanted && self.waiting.len() < IN_FLIGHT => {
                    // `None`: the sender was dropped with its link; responses in flight are still delivered.
                    wanted = asked.is_some();
                    let mut next = asked;
                    while let Some(mut asked) = next {
                        asked.joined = !opened;
                        unwritten.push(self.enqueue(asked, &mut out));
                        next = if self.waiting.len() < IN_FLIGHT { queue.try_recv().ok() } else { None };
                    }
                }
                read = stream.read(&mut input[filled..]) => {
                    filled += match read? {
                        0 if self.waiting.is_empty() => return Ok(()),
                        0 => return Err(io::ErrorKind::ConnectionReset.into()),
                        read => read,
                    };
                    let taken = self.take_frames(&mut input, &mut filled);
                    let now = Instant::now();
                    self.state.line.heard.set(Some(now));
                    if taken > 0 {
                        self.state.alive.set(now);
                    }
                    part_since = match (filled, part_since) {
                        (0, _) => None,
                        (_, Some(since)) if taken == 0 => Some(since),
                        _ => Some(now),
                    };
                    (takes_long, alone) = (takes_long && taken == 0, alone && taken == 0);
                    self.publish_arriving(&input[..filled]);
                    if takes_long && !alone {
                        alone = self.move_others(&input[..filled]);
                    }
                    // The waiting tasks take these responses before more is read: many large ones may follow.
                    unseen += taken;
                    if unseen >= READ_AHEAD {
                        unseen = 0;
                        yield_now().await;
                    }
                }
                () = sleep_until(until), if part_since.is_some() && !takes_long => {
                    takes_long = true;
                    alone = self.move_others(&input[..filled]);
                }
                () = sleep_until(until) => {
                    if part_since.is_some() {
                        self.abandon_arriving(&input[..filled]);
                    }
                    return if self.waiting.is_empty() { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) };
                }
            }
            opened = false;
        }
        Ok(())
    }

    /// Starts the time of the queries that were just written.
    fn record_written(&mut self, unwritten: &mut Vec<u16>) {
        let now = Instant::now();
        for id in unwritten.drain(..) {
            if let Some(asked) = self.waiting.get_mut(&id) {
                asked.at = now;
                asked.race_events.put(asked.number, AttemptEvent::Written(Rc::clone(&self.state.line)));
            }
        }
    }

    /// Returns the id of the query whose response has begun to arrive, if the part received contains it.
    fn asked_for(&self, part: &[u8]) -> Option<u16> {
        crate::wire::u16_at(part, 2).filter(|id| self.waiting.contains_key(id))
    }

    /// Publishes the question of the response that has begun to arrive to the senders.
    fn publish_arriving(&self, part: &[u8]) {
        let asked = self.asked_for(part).and_then(|id| self.waiting.get(&id));
        *self.state.arriving.borrow_mut() = asked.map(|asked| asked.sent.question().into());
    }

    /// Moves the queries behind a response that takes long to another connection. Returns false while the id of the
    /// response has not arrived.
    fn move_others(&mut self, part: &[u8]) -> bool {
        let Some(arriving) = crate::wire::u16_at(part, 2) else { return false };
        let own = self.waiting.remove(&arriving);
        if let (Some(asked), Some(shared)) = (&own, self.others.upgrade()) {
            shared.takes_long(asked.client, Instant::now());
        }
        self.move_all();
        self.waiting.extend(own.map(|asked| (arriving, asked)));
        true
    }

    fn move_all(&mut self) {
        let Some(others) = self.others.upgrade() else { return };
        let now = Instant::now();
        for (_, mut asked) in std::mem::take(&mut self.waiting) {
            self.state.waiting.set(self.state.waiting.get().saturating_sub(1));
            asked.moved += 1;
            // Queries that have expired, have used up their moves or belong to a slow client end here.
            let may_go = now < asked.until && asked.moved <= MOST_MOVES && !others.is_slow(asked.client, now);
            let left = if may_go { others.put(asked, now, STALLED).err() } else { Some(asked) };
            if let Some(asked) = left {
                self.server.metrics.in_flight.dec();
                asked.race_events.put(asked.number, AttemptEvent::Failed(FailureKind::Local(LocalFault::Busy)));
            }
        }
    }

    /// Fails the query of the unfinished response, and moves all others to another connection.
    fn abandon_arriving(&mut self, part: &[u8]) {
        if let Some(asked) = self.asked_for(part).and_then(|id| self.waiting.remove(&id)) {
            self.fail(&asked, FailureKind::Incomplete);
        }
        self.move_all();
    }

    fn enqueue(&mut self, mut asked: Box<TcpQuery>, out: &mut Vec<u8>) -> u16 {
        asked.at = Instant::now();
        if self.waiting.len() % SWEEP_EVERY == SWEEP_EVERY - 1 {
            let before = self.waiting.len();
            self.waiting.retain(|_, waiting| waiting.until > asked.at);
            self.subtract_waiting(before - self.waiting.len());
        }
        while self.waiting.contains_key(&asked.sent.id()) {
            asked.sent.set_id(rand::random());
        }
        frame(&asked.sent, out);
        let id = asked.sent.id();
        self.waiting.insert(id, asked);
        id
    }

    /// Handles the whole frames in `input[..filled]`, and moves the rest to the front; returns the bytes of these frames.
    fn take_frames(&mut self, input: &mut Vec<u8>, filled: &mut usize) -> usize {
        let mut at = 0;
        while let Some(length) = crate::wire::u16_at(&input[..*filled], at) {
            let end = at + 2 + usize::from(length);
            if end > *filled {
                // Room for the whole frame, and never more than one.
                let needed = end - at;
                if input.len() < needed {
                    input.resize(needed, 0);
                }
                break;
            }
            self.dispatch(&input[at + 2..end]);
            at = end;
        }
        input.copy_within(at..*filled, 0);
        *filled -= at;
        if *filled == input.len() {
            input.resize(*filled * 2, 0);
        }
        at
    }

    fn dispatch(&mut self, message: &[u8]) {
        let Some(id) = crate::wire::u16_at(message, 0) else { return };
        let Some(asked) = self.waiting.get(&id) else { return };
        let event = match asked.sent.match_response(message) {
            MatchResult::Reply(verdict) => AttemptEvent::Reply(message.to_vec(), verdict),
            // The response to an earlier query, which has expired.
            _ if asked.sent.is_of_another(message) => return,
            // A connection has one peer, so this is a broken server and not a forgery.
            MatchResult::NotOurs | MatchResult::Doubtful { .. } => AttemptEvent::Failed(FailureKind::Malformed),
        };
        if let Some(tenths) = keepalive(message) {
            self.idle = (Duration::from_millis(100) * tenths.into()).min(IDLE);
        }
        self.served = true;
        let Some(asked) = self.waiting.remove(&id) else { return };
        self.subtract_waiting(1);
        let now = Instant::now();
        self.server.responded(now, now.saturating_duration_since(asked.at), asked.race_events.probe);
        asked.race_events.put(asked.number, event);
    }

    /// Handles a broken connection. Its queries are sent again if it had brought a response, as some servers close it
    /// after each response (RFC 7766 section 6.2.4); or once, if the connection was open before them and was closed.
    fn fail_or_resend(&mut self, kind: FailureKind) {
        let now = Instant::now();
        let served = std::mem::take(&mut self.served);
        for (id, mut asked) in std::mem::take(&mut self.waiting) {
            let was_closed = asked.joined && kind != FailureKind::Timeout;
            if now < asked.until && (served || was_closed && !asked.again) {
                asked.again |= !served;
                self.waiting.insert(id, asked);
            } else {
                self.fail(&asked, kind);
            }
        }
    }

    /// Subtracts `count` queries that have their outcome or have expired.
    fn subtract_waiting(&self, count: usize) {
        self.server.metrics.in_flight.sub(count as i64);
        self.state.waiting.set(self.state.waiting.get().saturating_sub(count));
    }

    fn fail(&self, asked: &TcpQuery, kind: FailureKind) {
        self.subtract_waiting(1);
        asked.race_events.put(asked.number, AttemptEvent::Failed(kind));
    }
}

fn frame(sent: &OutgoingQuery, out: &mut Vec<u8>) {
    let bytes = sent.bytes();
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}
