//! One server over TCP, as one worker sees it: one connection, reused and pipelined, replies in any order (RFC 7766);
//! another one, up to a configured number, when nothing comes back over those that are open.
//! With TLS around it where the server is configured so (RFC 7858); the rest is the same.
//!
//! A connection is opened when a query needs it, and closed when it has been idle or when queries wait and nothing at
//! all comes: its path may be dead while a new one is not. Where a connection breaks that has served before, or is closed that
//! was open when a query came to it, its queries are sent once more on a new one: servers close connections whenever they
//! like, and no client should notice.
//!
//! What counts for a sign of life is a whole response. One that begins and takes longer than 200 ms holds up those behind it:
//! they are sent over another connection. After a second the connection is closed, and its query has failed.
//!
//! No client has more than its share of the queries in flight, so that there is always room for another; and one that a response has
//! taken long to come to has one at a time for a while, so that it holds up one connection and no more.

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

use super::encrypted;
use super::failure::FailureKind;
use super::local::LocalFault;
use super::message::{MatchResult, Sent, keepalive};
use super::race::SET_UP;
use super::race_events::{Event, Line, RaceEvents};
use super::send_context::SendContext;
use super::server::Server;
use super::sockets::{OpenSocket, OpenSockets};
use crate::governor::pool::{Pool, Share};

/// Queries in flight on the connection; more are refused, which sends them to another server. As many as clients share over
/// all connections to the server: see [`Pool`].
const IN_FLIGHT: usize = 512;
/// Queries in flight with which another connection is opened, if there may be one.
const CROWDED: usize = 64;
/// Connections that there may be more than configured, one for each that a response without an end holds up.
pub const INSTEAD: usize = 2;
/// How long a response may take from its first byte to its last.
const WHOLE: Duration = Duration::from_secs(1);
/// How long a client whose query was answered slowly has one query in flight at a time.
const SLOW_FOR: Duration = Duration::from_secs(5);
/// Such clients that are remembered.
const MOST_SLOW: usize = 64;
/// How often a query may go over another connection because a response before it takes long.
const MOST_MOVES: u8 = 10;
/// Bytes of responses that are read before those who wait for them have their turn.
const READ_AHEAD: usize = 64 << 10;
/// How long a connection may stay without a query in flight, unless the server asks for less (RFC 7828).
const IDLE: Duration = Duration::from_secs(10);
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
pub struct TcpLink(Rc<Shared>);

/// What the connections to a server have in common.
struct Shared {
    server: Arc<Server>,
    pool: RefCell<Vec<Pooled>>,
    open: Rc<OpenSockets>,
    /// Places of queries in flight, over all connections.
    places: Arc<Pool>,
    /// The most connections.
    most: Cell<usize>,
    line: Rc<Line>,
    /// Clients to whose queries a response took long to come, and when it did.
    slow: RefCell<Vec<(IpAddr, Instant)>>,
}

/// One connection, as those see it who have a query for it.
struct Pooled {
    queue: mpsc::Sender<Box<Asked>>,
    state: Rc<State>,
}

/// How a connection is.
struct State {
    /// Queries that it has, written or not.
    waiting: Cell<usize>,
    /// The last sign of life while queries wait: the last reply, or the first query since.
    alive: Cell<Instant>,
    /// The question of a response that has begun to come.
    coming: RefCell<Option<Box<[u8]>>>,
    /// That of all connections to the server.
    line: Rc<Line>,
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
    race_events: Rc<RaceEvents>,
    client: IpAddr,
    again: bool,
    /// How often it was sent over another connection because a response before it took long.
    moved: u8,
    /// The connection was open when it came: if that breaks, the server need not be the reason.
    joined: bool,
    _place: Share,
}

impl TcpLink {
    /// No connection is opened before it is needed.
    pub fn new(server: Arc<Server>, open: Rc<OpenSockets>) -> Self {
        let places = Arc::new(Pool::new(IN_FLIGHT));
        let (pool, most, line) = (RefCell::default(), Cell::new(1), Rc::default());
        let slow = RefCell::default();
        Self(Rc::new(Shared { server, pool, open, places, most, line, slow }))
    }

    /// Sends a query over the connection that has the fewest; where all are stalled or crowded, over a new one if there may be
    /// one more. What becomes of it goes where `context` says.
    ///
    /// # Errors
    /// Too many queries are in flight, of this client or in all; or the response to the same question has begun to come, and
    /// another one would hold up others as well.
    pub(super) fn send(&self, sent: Sent, context: &SendContext<'_>) -> Result<(), FailureKind> {
        let SendContext { number, at, until, connections, .. } = *context;
        self.0.most.set(connections);
        if context.again && self.0.is_coming(sent.question()) {
            return Err(FailureKind::Incomplete);
        }
        let client = context.client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let busy = FailureKind::Local(LocalFault::Busy);
        // Its own doing, and no fault of this machine.
        let Some(share) = Share::of(&self.0.places, client, 1) else { return Err(busy) };
        if self.0.is_slow(client, at) && self.0.places.held_by(client) > 1 {
            return Err(busy);
        }
        let race_events = Rc::clone(context.race_events);
        let (again, moved, joined) = (false, 0, false);
        let asked = Asked { sent, at, until, number, race_events, client, again, moved, joined, _place: share };
        let patience = if context.again { STALLED_AGAIN } else { STALLED };
        self.0.put(Box::new(asked), at, patience).map_err(|_| self.0.server.noted(busy))
    }
}

impl Shared {
    /// Whether the response to this question has begun to come.
    fn is_coming(&self, question: &[u8]) -> bool {
        self.pool.borrow().iter().any(|pooled| pooled.state.coming.borrow().as_deref() == Some(question))
    }

    /// Whether a response to a query of this client took long to come a short time ago.
    fn is_slow(&self, client: IpAddr, now: Instant) -> bool {
        self.slow.borrow().iter().any(|(slow, at)| *slow == client && now < *at + SLOW_FOR)
    }

    /// A response to a query of this client takes long to come.
    fn takes_long(&self, client: IpAddr, now: Instant) {
        let mut slow = self.slow.borrow_mut();
        slow.retain(|(other, at)| *other != client && now < *at + SLOW_FOR);
        slow.truncate(MOST_SLOW - 1);
        slow.insert(0, (client, now));
    }

    /// Gives a query to a connection, a new one where it must be and may; gives it back where there is no room.
    fn put(self: &Rc<Self>, mut asked: Box<Asked>, now: Instant, patience: Duration) -> Result<(), Box<Asked>> {
        let mut pool = self.pool.borrow_mut();
        pool.retain(|pooled| !pooled.queue.is_closed());
        let stalled = |pooled: &Pooled| pooled.is_stalled(now, patience);
        let is_coming = |pooled: &Pooled| pooled.state.coming.borrow().is_some();
        let held_up = pool.iter().filter(|pooled| stalled(pooled) && is_coming(pooled)).count();
        let best = pool.iter().min_by_key(|pooled| (stalled(pooled), is_coming(pooled), pooled.state.waiting.get()));
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
        // Only where the best one closed this very moment, and others are all that there may be.
        let Some(place) = place else { return Err(asked) };
        let (queue, receiver) = mpsc::channel(IN_FLIGHT);
        let line = Rc::clone(&self.line);
        let state = State { waiting: Cell::new(0), alive: Cell::new(now), coming: RefCell::default(), line };
        let state = Rc::new(state);
        let pooled = Pooled { queue, state: Rc::clone(&state) };
        pooled.take(asked).map_err(mpsc::error::TrySendError::into_inner)?;
        pool.push(pooled);
        tokio::task::spawn_local(serve(Rc::clone(self), receiver, state, place));
        Ok(())
    }
}

impl Pooled {
    fn take(&self, asked: Box<Asked>) -> Result<(), mpsc::error::TrySendError<Box<Asked>>> {
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
async fn serve(others: Rc<Shared>, mut queue: mpsc::Receiver<Box<Asked>>, state: Rc<State>, _place: OpenSocket) {
    let server = Arc::clone(&others.server);
    let others = Rc::downgrade(&others);
    let mut connection = Connection { server, others, state, waiting: HashMap::new(), idle: IDLE, served: false };
    let last = loop {
        let stream = timeout(SET_UP, connect(&connection.server)).await.unwrap_or(Err(FailureKind::Timeout));
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(kind) => {
                connection.server.noted(kind);
                connection.fail_those_who_had_their_chance(kind);
                break kind;
            }
        };
        let end = connection.run(&mut stream, &mut queue).await;
        connection.state.coming.replace(None);
        match end {
            // The peer is told, inside TLS too, and nobody waits for that.
            Ok(()) => drop(tokio::task::spawn_local(async move { timeout(SET_UP, stream.shutdown()).await })),
            Err(error) => connection.fail_those_who_had_their_chance(FailureKind::of_arrived(&error)),
        }
        if connection.waiting.is_empty() && queue.is_empty() {
            break FailureKind::Network;
        }
    };
    // Whoever comes now finds the queue closed and opens another.
    queue.close();
    while let Some(asked) = queue.recv().await {
        connection.fail(&asked, last);
    }
}

struct Connection {
    server: Arc<Server>,
    /// The other connections, as long as any may be opened.
    others: Weak<Shared>,
    state: Rc<State>,
    waiting: HashMap<u16, Box<Asked>>,
    idle: Duration,
    /// Whether the open connection has brought a reply yet.
    served: bool,
}

impl Connection {
    /// Serves the queue until the connection is idle (`Ok`) or breaks.
    async fn run(&mut self, stream: &mut Box<dyn Stream>, queue: &mut mpsc::Receiver<Box<Asked>>) -> io::Result<()> {
        self.served = false;
        let mut out = Vec::new();
        let mut unwritten: Vec<u16> = self.waiting.keys().copied().collect();
        self.waiting.values().for_each(|asked| frame(&asked.sent, &mut out));
        let mut opened = true;
        // Since when a response has been coming that is not whole yet; whether it takes long, and nobody waits behind it.
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
                self.tell_written(&mut unwritten);
            }
            let patience = if self.waiting.is_empty() { self.idle } else { SILENCE };
            let until = match part_since {
                None => self.state.alive.get() + patience,
                Some(since) => since + if takes_long { WHOLE } else { STALLED },
            };
            tokio::select! {
                // What is queued is taken even where the peer has closed: then it is sent again.
                biased;
                asked = queue.recv(), if wanted && self.waiting.len() < IN_FLIGHT => {
                    // Without, the sender's end is gone with its link; replies under way still find back.
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
                    self.note_coming(&input[..filled]);
                    if takes_long && !alone {
                        alone = self.let_others_go(&input[..filled]);
                    }
                    // Those who wait take what has come before more is read: many large replies may be on their way.
                    unseen += taken;
                    if unseen >= READ_AHEAD {
                        unseen = 0;
                        yield_now().await;
                    }
                }
                () = sleep_until(until), if part_since.is_some() && !takes_long => {
                    takes_long = true;
                    alone = self.let_others_go(&input[..filled]);
                }
                () = sleep_until(until) => {
                    if part_since.is_some() {
                        self.give_up_coming(&input[..filled]);
                    }
                    return if self.waiting.is_empty() { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) };
                }
            }
            opened = false;
        }
        Ok(())
    }

    /// From now on those that have just been written wait for the server.
    fn tell_written(&mut self, unwritten: &mut Vec<u16>) {
        let now = Instant::now();
        for id in unwritten.drain(..) {
            if let Some(asked) = self.waiting.get_mut(&id) {
                asked.at = now;
                asked.race_events.put(asked.number, Event::Written(Rc::clone(&self.state.line)));
            }
        }
    }

    /// Whose response has begun to come, as far as can be told from its part.
    fn asked_for(&self, part: &[u8]) -> Option<u16> {
        crate::wire::u16_at(part, 2).filter(|id| self.waiting.contains_key(id))
    }

    /// Has senders know of the response that has begun to come.
    fn note_coming(&self, part: &[u8]) {
        let asked = self.asked_for(part).and_then(|id| self.waiting.get(&id));
        *self.state.coming.borrow_mut() = asked.map(|asked| asked.sent.question().into());
    }

    /// A response has begun to come and takes long: those behind it are sent over another connection. Returns false while it
    /// cannot be told whose response it is.
    fn let_others_go(&mut self, part: &[u8]) -> bool {
        let Some(coming) = crate::wire::u16_at(part, 2) else { return false };
        let own = self.waiting.remove(&coming);
        if let (Some(asked), Some(shared)) = (&own, self.others.upgrade()) {
            shared.takes_long(asked.client, Instant::now());
        }
        self.let_all_go();
        self.waiting.extend(own.map(|asked| (coming, asked)));
        true
    }

    fn let_all_go(&mut self) {
        let Some(others) = self.others.upgrade() else { return };
        let now = Instant::now();
        for (_, mut asked) in std::mem::take(&mut self.waiting) {
            self.state.waiting.set(self.state.waiting.get().saturating_sub(1));
            asked.moved += 1;
            // Those for whom nobody waits any more end here, and so do those that have had their chances.
            let may_go = now < asked.until && asked.moved <= MOST_MOVES && !others.is_slow(asked.client, now);
            let left = if may_go { others.put(asked, now, STALLED).err() } else { Some(asked) };
            if let Some(asked) = left {
                self.server.metrics.in_flight.dec();
                asked.race_events.put(asked.number, Event::Failed(FailureKind::Local(LocalFault::Busy)));
            }
        }
    }

    /// The response that has begun to come does not come to its end: its query has failed, and nobody else's.
    fn give_up_coming(&mut self, part: &[u8]) {
        if let Some(asked) = self.asked_for(part).and_then(|id| self.waiting.remove(&id)) {
            self.fail(&asked, FailureKind::Incomplete);
        }
        self.let_all_go();
    }

    fn enqueue(&mut self, mut asked: Box<Asked>, out: &mut Vec<u8>) -> u16 {
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
        let event = match asked.sent.judge(message) {
            MatchResult::Reply(verdict) => Event::Reply(message.to_vec(), verdict),
            // To a query of before, for which nobody waits any more.
            _ if asked.sent.is_of_another(message) => return,
            // A connection has one peer, so this is a broken server and not a stranger.
            MatchResult::NotOurs | MatchResult::Doubtful { .. } => Event::Failed(FailureKind::Malformed),
        };
        if let Some(tenths) = keepalive(message) {
            self.idle = (Duration::from_millis(100) * tenths.into()).min(IDLE);
        }
        self.served = true;
        let Some(asked) = self.waiting.remove(&id) else { return };
        self.wait_no_more(1);
        let now = Instant::now();
        self.server.replied(now, now.saturating_duration_since(asked.at), asked.race_events.probe);
        asked.race_events.put(asked.number, event);
    }

    /// The connection broke: queries in flight are sent once more if it had served before, as some servers close it behind each
    /// response (RFC 7766 section 6.2.4); or once, if it was closed that was open before them.
    fn fail_those_who_had_their_chance(&mut self, kind: FailureKind) {
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

    /// So many queries have their outcome, or nobody waits for it.
    fn wait_no_more(&self, count: usize) {
        self.server.metrics.in_flight.sub(count as i64);
        self.state.waiting.set(self.state.waiting.get().saturating_sub(count));
    }

    fn fail(&self, asked: &Asked, kind: FailureKind) {
        self.wait_no_more(1);
        asked.race_events.put(asked.number, Event::Failed(kind));
    }
}

fn frame(sent: &Sent, out: &mut Vec<u8>) {
    let bytes = sent.bytes();
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}
