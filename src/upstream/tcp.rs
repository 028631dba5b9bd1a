//! One server over TCP, as one worker sees it: one connection, reused and pipelined, replies in any order (RFC 7766);
//! another one, up to a configured number, when nothing comes back over those that are open.
//! With TLS around it where the server is configured so (RFC 7858); the rest is the same.
//!
//! A connection is opened when a query needs it, and closed when it has been idle or when queries wait and nothing at
//! all comes: its path may be dead while a new one is not. Where a connection that has served
//! before breaks with queries in flight, they are sent once more on a new one: servers close idle connections whenever
//! they like, and no client should notice.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use super::encrypted;
use super::failure::FailureKind;
use super::inbox::{Event, Inbox};
use super::local::LocalFault;
use super::message::{Judgement, Sent, keepalive};
use super::send_context::SendContext;
use super::server::Server;
use super::sockets::{OpenSocket, OpenSockets};

/// Queries in flight on the connection; more are refused, which sends them to another server.
const IN_FLIGHT: usize = 512;
/// Bytes of responses that are read before those who wait for them have their turn.
const READ_AHEAD: usize = 64 << 10;
/// How long a connection may stay without a query in flight, unless the server asks for less (RFC 7828).
const IDLE: Duration = Duration::from_secs(10);
/// How long a connection may take to be set up, TLS included, and a write to be taken.
pub(super) const SETUP: Duration = Duration::from_secs(1);
/// How long queries may wait for a first sign of life. Longer than a client waits, shorter than the kernel: that tries
/// for minutes, and a server that has lost the connection would seem down as long.
const SILENCE: Duration = Duration::from_secs(2);
/// How long queries may wait for a sign of life until another connection is opened, if there may be one.
const STALLED: Duration = Duration::from_millis(200);
/// The same for a query that was sent over a connection before, and got no reply in its time.
const STALLED_AGAIN: Duration = Duration::from_millis(50);
/// Each time that so many more queries are in flight, those for which nobody waits are swept out.
const SWEEP_EVERY: usize = 32;

/// The connections of one worker to one server.
pub struct TcpLink {
    server: Arc<Server>,
    pool: RefCell<Vec<Pooled>>,
    open: Rc<OpenSockets>,
}

/// One connection, as those see it who have a query for it.
struct Pooled {
    queue: mpsc::Sender<Asked>,
    state: Rc<State>,
}

/// How a connection is.
struct State {
    /// Whether a query would be written at once.
    open: Cell<bool>,
    /// Queries that it has, written or not.
    waiting: Cell<usize>,
    /// The last sign of life while queries wait: the last reply, or the first query since.
    alive: Cell<Instant>,
}

impl Pooled {
    /// Whether queries wait there, and nothing comes: what is behind them may wait as long.
    fn is_stalled(&self, now: Instant, after: Duration) -> bool {
        self.state.waiting.get() > 0 && now >= self.state.alive.get() + after
    }
}

/// A query and where its outcome goes.
struct Asked {
    sent: Sent,
    /// When it was written: the set-up of a connection is not the server's latency.
    at: Instant,
    until: Instant,
    number: usize,
    inbox: Rc<Inbox>,
    again: bool,
}

impl TcpLink {
    /// No connection is opened before it is needed.
    pub fn new(server: Arc<Server>, open: Rc<OpenSockets>) -> Self {
        Self { server, pool: RefCell::default(), open }
    }

    /// Whether a query would be written at once.
    pub fn is_open(&self) -> bool {
        self.pool.borrow().iter().any(|pooled| pooled.state.open.get())
    }

    /// Sends a query over the connection that has the fewest; where all are stalled, over a new one if there may be one
    /// more. What becomes of it goes where `context` says.
    ///
    /// # Errors
    /// Too many queries are in flight.
    pub(super) fn send(&self, sent: Sent, context: &SendContext<'_>) -> Result<(), FailureKind> {
        let SendContext { number, at, until, connections, .. } = *context;
        let mut asked = Asked { sent, at, until, number, inbox: Rc::clone(context.inbox), again: false };
        let patience = if context.again { STALLED_AGAIN } else { STALLED };
        let mut pool = self.pool.borrow_mut();
        pool.retain(|pooled| !pooled.queue.is_closed());
        let place = if pool.len() < connections { self.open.connection(pool.is_empty()) } else { None };
        let stalled = |pooled: &Pooled| pooled.is_stalled(at, patience);
        let best = pool.iter().min_by_key(|pooled| (stalled(pooled), pooled.state.waiting.get()));
        if let Some(best) = best.filter(|best| !(place.is_some() && stalled(best))) {
            asked = match best.take(asked) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return Err(self.server.noted(FailureKind::Local(LocalFault::Busy)));
                }
                Err(mpsc::error::TrySendError::Closed(asked)) => asked,
            };
        }
        let busy = FailureKind::Local(LocalFault::Busy);
        // Only where the best one closed this very moment, and others are all that there may be.
        let Some(place) = place else { return Err(self.server.noted(busy)) };
        let (queue, receiver) = mpsc::channel(IN_FLIGHT);
        let state = Rc::new(State { open: Cell::new(false), waiting: Cell::new(0), alive: Cell::new(at) });
        let pooled = Pooled { queue, state: Rc::clone(&state) };
        pooled.take(asked).map_err(|_| busy)?;
        pool.push(pooled);
        tokio::task::spawn_local(serve(Arc::clone(&self.server), receiver, state, place));
        Ok(())
    }
}

impl Pooled {
    fn take(&self, asked: Asked) -> Result<(), mpsc::error::TrySendError<Asked>> {
        let at = asked.at;
        self.queue.try_send(asked)?;
        if self.state.waiting.replace(self.state.waiting.get() + 1) == 0 {
            self.state.alive.set(at);
        }
        Ok(())
    }
}

/// What bytes go over: a connection, or TLS on it.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Opens a connection as its server's configuration says: with TLS, or never.
async fn connect(server: &Server) -> Result<Box<dyn Stream>, FailureKind> {
    if let Some(host) = &server.tls_host {
        return Ok(Box::new(encrypted::connect(server.address, host).await?));
    }
    let stream = TcpStream::connect(server.address).await.map_err(|error| FailureKind::of_error(&error))?;
    stream.set_nodelay(true).map_err(|error| FailureKind::of_error(&error))?;
    Ok(Box::new(stream))
}

/// Opens connections as long as there are queries for them.
async fn serve(server: Arc<Server>, mut queue: mpsc::Receiver<Asked>, state: Rc<State>, _place: OpenSocket) {
    let mut connection = Connection { server, state, waiting: HashMap::new(), idle: IDLE, served: false };
    let last = loop {
        let stream = timeout(SETUP, connect(&connection.server)).await.unwrap_or(Err(FailureKind::Timeout));
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(kind) => {
                connection.server.noted(kind);
                connection.fail_those_who_had_their_chance(kind);
                break kind;
            }
        };
        connection.state.open.set(true);
        let end = connection.run(&mut stream, &mut queue).await;
        connection.state.open.set(false);
        match end {
            // The peer is told, inside TLS too, and nobody waits for that.
            Ok(()) => drop(tokio::task::spawn_local(async move { timeout(SETUP, stream.shutdown()).await })),
            Err(error) => connection.fail_those_who_had_their_chance(FailureKind::of_arrived(&error)),
        }
        if connection.waiting.is_empty() && queue.is_empty() {
            break FailureKind::Network;
        }
    };
    // Whoever comes now finds the queue closed and opens another.
    queue.close();
    while let Some(asked) = queue.recv().await {
        connection.fail(asked, last);
    }
}

struct Connection {
    server: Arc<Server>,
    state: Rc<State>,
    waiting: HashMap<u16, Asked>,
    idle: Duration,
    /// Whether the open connection has brought a reply yet.
    served: bool,
}

impl Connection {
    /// Serves the queue until the connection is idle (`Ok`) or breaks.
    async fn run(&mut self, stream: &mut Box<dyn Stream>, queue: &mut mpsc::Receiver<Asked>) -> io::Result<()> {
        self.served = false;
        let mut out = Vec::new();
        for asked in self.waiting.values_mut() {
            asked.at = Instant::now();
            frame(&asked.sent, &mut out);
        }
        let (mut input, mut filled, mut unseen) = (vec![0; 4_096], 0, 0);
        self.state.alive.set(Instant::now());
        let mut wanted = true;
        while wanted || !self.waiting.is_empty() {
            if !out.is_empty() {
                timeout(SETUP, stream.write_all(&out)).await??;
                timeout(SETUP, stream.flush()).await??;
                out.clear();
            }
            let patience = if self.waiting.is_empty() { self.idle } else { SILENCE };
            tokio::select! {
                // What is queued is taken even where the peer has closed: then it is sent again.
                biased;
                asked = queue.recv(), if wanted && self.waiting.len() < IN_FLIGHT => {
                    // Without, the sender's end is gone with its link; replies under way still find back.
                    wanted = asked.is_some();
                    let mut next = asked;
                    while let Some(asked) = next {
                        self.enqueue(asked, &mut out);
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
                    self.state.alive.set(Instant::now());
                    // Those who wait take what has come before more is read: many large replies may be on their way.
                    unseen += taken;
                    if unseen >= READ_AHEAD {
                        unseen = 0;
                        yield_now().await;
                    }
                }
                () = sleep_until(self.state.alive.get() + patience) => {
                    return if self.waiting.is_empty() { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) };
                }
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, mut asked: Asked, out: &mut Vec<u8>) {
        asked.at = Instant::now();
        if self.waiting.len() % SWEEP_EVERY == SWEEP_EVERY - 1 {
            let before = self.waiting.len();
            self.waiting.retain(|_, waiting| waiting.until > asked.at);
            self.wait_no_more(before - self.waiting.len());
        }
        while self.waiting.contains_key(&asked.sent.id()) {
            asked.sent.set_id(rand::random());
        }
        frame(&asked.sent, out);
        self.waiting.insert(asked.sent.id(), asked);
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
        let event = match asked.sent.judge(message) {
            Judgement::Reply(verdict) => Event::Reply(message.to_vec(), verdict),
            // A connection has one peer, so this is a broken server and not a stranger.
            Judgement::NotOurs | Judgement::CaseFolded => Event::Failed(FailureKind::Malformed),
        };
        if let Some(tenths) = keepalive(message) {
            self.idle = (Duration::from_millis(100) * tenths.into()).min(IDLE);
        }
        self.served = true;
        let Some(asked) = self.waiting.remove(&id) else { return };
        self.wait_no_more(1);
        let now = Instant::now();
        self.server.replied(now, now.saturating_duration_since(asked.at), asked.inbox.probe);
        asked.inbox.put(asked.number, event);
    }

    /// The connection broke: only queries that were in flight on one that had served before get a second chance.
    fn fail_those_who_had_their_chance(&mut self, kind: FailureKind) {
        let now = Instant::now();
        let served = std::mem::take(&mut self.served);
        for (id, mut asked) in std::mem::take(&mut self.waiting) {
            if served && !asked.again && now < asked.until {
                asked.again = true;
                self.waiting.insert(id, asked);
            } else {
                self.fail(asked, kind);
            }
        }
    }

    /// So many queries have their outcome, or nobody waits for it.
    fn wait_no_more(&self, count: usize) {
        self.server.metrics.in_flight.sub(count as i64);
        self.state.waiting.set(self.state.waiting.get().saturating_sub(count));
    }

    fn fail(&self, asked: Asked, kind: FailureKind) {
        self.wait_no_more(1);
        asked.inbox.put(asked.number, Event::Failed(kind));
    }
}

fn frame(sent: &Sent, out: &mut Vec<u8>) {
    let bytes = sent.bytes();
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}
