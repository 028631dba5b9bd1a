//! Queries over TCP: one connection, pipelined (RFC 7766), each message behind its length.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::names::Questions;
use super::pace::{Nanos, SECOND};
use super::pending::{Pending, Waiting};
use super::record::{Record, Trouble};
use super::udp::settle;

/// Bytes of queries that wait for the connection to take them; beyond this the sender waits.
const SEND_BUFFER: usize = 64 << 10;
/// Bytes read at once.
const READ: usize = 16 << 10;
/// Reads from one connection before the others have their turn.
const FAIR: usize = 64;
/// How long after a failed connection the next one is tried.
const PAUSE: Nanos = SECOND / 10;

/// One connection and what is under way on it. It is opened when there is something to send, and again after it ended.
#[derive(Debug)]
pub(super) struct TcpLine {
    target: SocketAddr,
    stream: Option<TcpStream>,
    pending: Pending,
    /// Bytes to be written.
    out: Vec<u8>,
    /// Bytes of a reply that is not whole yet.
    read: Vec<u8>,
    not_before: Nanos,
}

impl TcpLine {
    /// A connection to `target` for about `room` queries under way, to be opened when it is needed.
    pub(super) fn new(target: SocketAddr, room: u64) -> Self {
        Self { target, stream: None, pending: Pending::new(room), out: Vec::new(), read: Vec::new(), not_before: 0 }
    }

    /// The queries under way.
    pub(super) fn pending(&mut self) -> &mut Pending {
        &mut self.pending
    }

    /// How many queries it would take now.
    pub(super) fn room(&self, now: Nanos) -> usize {
        let down = self.stream.is_none() && now < self.not_before;
        if down || self.out.len() >= SEND_BUFFER { 0 } else { usize::MAX }
    }

    /// The connection to wait for; none if there is none.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }

    /// Opens the connection if it is not open. True if it is a new one, which nobody waits for yet.
    ///
    /// # Errors
    /// What the system says at once; a refusal by the target shows later, on the connection.
    pub(super) fn open(&mut self, now: Nanos) -> io::Result<bool> {
        if self.stream.is_some() {
            return Ok(false);
        }
        self.not_before = now + PAUSE;
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => self.stream = Some(socket.into()),
        }
        Ok(true)
    }

    /// Takes queries and writes what the connection takes. They have left, whatever becomes of them.
    pub(super) fn send(&mut self, batch: &[Waiting], questions: &Questions, record: &mut Record) -> usize {
        for waiting in batch {
            let query = questions.query(waiting.question);
            self.out.extend_from_slice(&(query.len() as u16).to_be_bytes()); // a query is far shorter than 64 KiB
            self.out.extend_from_slice(&self.pending.id(0).to_be_bytes());
            self.out.extend_from_slice(query.get(2..).unwrap_or_default());
            record.left(waiting);
            if self.pending.push(*waiting).is_some() {
                record.lost += 1;
            }
        }
        self.flush(record);
        batch.len()
    }

    /// Writes what is left to write.
    pub(super) fn flush(&mut self, record: &mut Record) {
        let Some(stream) = &mut self.stream else { return };
        let mut written = 0;
        let mut end = None;
        while written < self.out.len() {
            match stream.write(&self.out[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A connection that is being opened is not connected, or would block.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) => {
                    end = Some(Trouble::of(&error));
                    break;
                }
            }
        }
        self.out.drain(..written);
        if let Some(trouble) = end {
            self.end(trouble, record);
        }
    }

    /// Takes the replies that have come; true if there may be more. `now` tells the time.
    pub(super) fn receive(&mut self, now: impl Fn() -> Nanos, questions: &Questions, record: &mut Record) -> bool {
        for _ in 0..FAIR {
            let Some(stream) = &mut self.stream else { return false };
            let kept = self.read.len();
            self.read.resize(kept + READ, 0);
            let result = stream.read(&mut self.read[kept..]);
            self.read.truncate(kept + *result.as_ref().unwrap_or(&0));
            let end = match result {
                Ok(0) => Trouble::Closed,
                Ok(_) => {
                    self.settle(now(), questions, record);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return false,
                Err(error) => Trouble::of(&error),
            };
            self.end(end, record);
            return false;
        }
        true
    }

    /// Whole replies at the start of what was read.
    fn settle(&mut self, now: Nanos, questions: &Questions, record: &mut Record) {
        let mut done = 0;
        while let Some((length, rest)) = self.read[done..].split_first_chunk::<2>() {
            let Some(reply) = rest.get(..usize::from(u16::from_be_bytes(*length))) else { break };
            settle(&mut self.pending, reply, now, questions, record);
            done += 2 + reply.len();
        }
        self.read.drain(..done);
    }

    /// The connection is gone, and with it all that was under way.
    pub(super) fn end(&mut self, trouble: Trouble, record: &mut Record) {
        self.stream = None;
        self.out.clear();
        self.read.clear();
        while self.pending.expired(Nanos::MAX).is_some() {
            record.failed(trouble);
        }
    }
}
