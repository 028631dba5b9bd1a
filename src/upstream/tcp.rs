//! One server over TCP, as one worker sees it: one connection, reused and pipelined, replies in any order (RFC 7766).
//!
//! A connection is opened when a query needs it and closed when it has been idle. Where a connection that has served
//! before breaks with queries in flight, they are sent once more on a new one: servers close idle connections whenever
//! they like, and no client should notice.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::inbox::{Event, Inbox};
use super::message::{Judgement, Sent, keepalive};
use super::udp::kind_of;
use super::{FailureKind, Server};

/// Queries in flight on the connection; more are refused, which sends them to another server.
const IN_FLIGHT: usize = 512;
/// How long a connection may stay without a query in flight, unless the server asks for less (RFC 7828).
const IDLE: Duration = Duration::from_secs(10);
/// How long a connection may take to be set up, and a write to be taken.
const SETUP: Duration = Duration::from_secs(1);

/// The connection of one worker to one server.
pub struct TcpLink {
    server: Arc<Server>,
    queue: RefCell<Option<mpsc::Sender<Asked>>>,
}

/// A query and where its outcome goes.
struct Asked {
    sent: Sent,
    at: Instant,
    until: Instant,
    attempt: usize,
    inbox: Rc<Inbox>,
    again: bool,
}

impl TcpLink {
    /// No connection is opened before it is needed.
    pub fn new(server: Arc<Server>) -> Self {
        Self { server, queue: RefCell::new(None) }
    }

    /// Sends a query; what becomes of it goes to `inbox` as attempt `attempt`. After `until` nobody waits for it.
    ///
    /// # Errors
    /// Too many queries are in flight.
    pub fn send(&self, sent: Sent, attempt: usize, inbox: &Rc<Inbox>, until: Instant) -> Result<(), FailureKind> {
        let mut asked = Asked { sent, at: Instant::now(), until, attempt, inbox: Rc::clone(inbox), again: false };
        let mut queue = self.queue.borrow_mut();
        if let Some(open) = queue.as_ref() {
            asked = match open.try_send(asked) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => return Err(FailureKind::Network),
                Err(mpsc::error::TrySendError::Closed(asked)) => asked,
            };
        }
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        sender.try_send(asked).map_err(|_| FailureKind::Network)?;
        *queue = Some(sender);
        tokio::task::spawn_local(serve(Arc::clone(&self.server), receiver));
        Ok(())
    }
}

/// Opens connections as long as there are queries for them.
async fn serve(server: Arc<Server>, mut queue: mpsc::Receiver<Asked>) {
    let mut connection = Connection { server, waiting: HashMap::new(), idle: IDLE, served: false };
    let last = loop {
        let kind = match timeout(SETUP, TcpStream::connect(connection.server.address)).await {
            Ok(Ok(stream)) => match connection.run(stream, &mut queue).await {
                Ok(()) => break FailureKind::Network,
                Err(error) => kind_of(&error),
            },
            Ok(Err(error)) => kind_of(&error),
            Err(_) => FailureKind::Timeout,
        };
        connection.fail_those_who_had_their_chance(kind);
        if connection.waiting.is_empty() {
            break kind;
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
    waiting: HashMap<u16, Asked>,
    idle: Duration,
    /// Whether the open connection has brought a reply yet.
    served: bool,
}

impl Connection {
    /// Serves the queue until the connection is idle (`Ok`) or breaks.
    async fn run(&mut self, mut stream: TcpStream, queue: &mut mpsc::Receiver<Asked>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        self.served = false;
        let mut out = Vec::new();
        self.waiting.values().for_each(|asked| frame(&asked.sent, &mut out));
        let (mut input, mut filled) = (vec![0; 4_096], 0);
        let mut last_use = Instant::now();
        loop {
            if !out.is_empty() {
                timeout(SETUP, stream.write_all(&out)).await??;
                out.clear();
            }
            tokio::select! {
                asked = queue.recv(), if self.waiting.len() < IN_FLIGHT => {
                    // The sender's end is gone with its link.
                    let Some(asked) = asked else { return Ok(()) };
                    self.enqueue(asked, &mut out);
                    while self.waiting.len() < IN_FLIGHT && let Ok(asked) = queue.try_recv() {
                        self.enqueue(asked, &mut out);
                    }
                    last_use = Instant::now();
                }
                read = stream.read(&mut input[filled..]) => {
                    filled += match read? {
                        0 if self.waiting.is_empty() => return Ok(()),
                        0 => return Err(io::ErrorKind::ConnectionReset.into()),
                        read => read,
                    };
                    filled = self.take_frames(&mut input, filled);
                    last_use = Instant::now();
                }
                () = sleep_until(last_use + self.idle) => {
                    let now = Instant::now();
                    let abandoned: Vec<u16> =
                        self.waiting.iter().filter(|(_, asked)| asked.until <= now).map(|(id, _)| *id).collect();
                    for id in abandoned {
                        self.waiting.remove(&id);
                        self.server.metrics.in_flight.dec();
                    }
                    if self.waiting.is_empty() {
                        return Ok(());
                    }
                    last_use = now;
                }
            }
        }
    }

    fn enqueue(&mut self, mut asked: Asked, out: &mut Vec<u8>) {
        while self.waiting.contains_key(&asked.sent.id()) {
            asked.sent.set_id(rand::random());
        }
        frame(&asked.sent, out);
        self.waiting.insert(asked.sent.id(), asked);
    }

    /// Handles the whole frames in `input[..filled]`; returns how much is left, moved to the front.
    fn take_frames(&mut self, input: &mut Vec<u8>, mut filled: usize) -> usize {
        let mut at = 0;
        while let Some(length) = crate::wire::u16_at(&input[..filled], at) {
            let end = at + 2 + usize::from(length);
            if end > filled {
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
        input.copy_within(at..filled, 0);
        filled -= at;
        if filled == input.len() {
            input.resize(filled * 2, 0);
        }
        filled
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
        self.server.metrics.in_flight.dec();
        self.server.replied(asked.at.elapsed());
        asked.inbox.put(asked.attempt, event);
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

    fn fail(&self, asked: Asked, kind: FailureKind) {
        self.server.metrics.in_flight.dec();
        asked.inbox.put(asked.attempt, Event::Failed(kind));
    }
}

fn frame(sent: &Sent, out: &mut Vec<u8>) {
    let bytes = sent.bytes();
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}
