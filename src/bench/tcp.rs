//! Queries over TCP: one connection, pipelined (RFC 7766); each message is preceded by its length.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::names::Questions;
use super::pace::{Nanos, SECOND};
use super::pending::{InFlightQueries, SentQuery};
use super::record::{LossReason, TargetStats};
use super::udp::settle;

/// Maximum bytes of queries queued for the connection; beyond this the sender waits.
const SEND_BUFFER: usize = 64 << 10;
const READ: usize = 16 << 10;
/// Maximum reads from one connection before the other connections are served.
const FAIR: usize = 64;
/// Minimum interval between two attempts to connect.
const PAUSE: Nanos = SECOND / 10;

/// One connection and its queries in flight. A query opens it if it is not open.
#[derive(Debug)]
pub(super) struct TcpLine {
    target: SocketAddr,
    stream: Option<TcpStream>,
    pending: InFlightQueries,
    /// Bytes not yet written.
    out: Vec<u8>,
    /// Bytes of an incomplete response.
    read: Vec<u8>,
    not_before: Nanos,
}

impl TcpLine {
    /// Prepares a connection to `target`, which is not opened yet; `room` is the expected number of queries in flight.
    pub(super) fn new(target: SocketAddr, room: u64) -> Self {
        Self {
            target,
            stream: None,
            pending: InFlightQueries::new(room),
            out: Vec::new(),
            read: Vec::new(),
            not_before: 0,
        }
    }

    /// Returns the queries in flight.
    pub(super) fn pending(&mut self) -> &mut InFlightQueries {
        &mut self.pending
    }

    /// Returns how many queries the connection accepts now.
    pub(super) fn room(&self, now: Nanos) -> usize {
        let down = self.stream.is_none() && now < self.not_before;
        if down || self.out.len() >= SEND_BUFFER { 0 } else { usize::MAX }
    }

    /// Returns the descriptor of the connection, if it is open.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }

    /// Opens the connection if it is not open. Returns true for a new connection, which is not registered with epoll yet.
    ///
    /// # Errors
    /// The system's immediate error; a later read or write reports a refusal by the target.
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

    /// Queues queries and writes as many bytes as the connection accepts. All of the queries count as sent.
    pub(super) fn send(&mut self, batch: &[SentQuery], questions: &Questions, record: &mut TargetStats) -> usize {
        for waiting in batch {
            let query = questions.query(waiting.question);
            self.out.extend_from_slice(&(query.len() as u16).to_be_bytes()); // a query is much shorter than 64 KiB
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

    /// Writes the queued bytes.
    pub(super) fn flush(&mut self, record: &mut TargetStats) {
        let Some(stream) = &mut self.stream else { return };
        let mut written = 0;
        let mut end = None;
        while written < self.out.len() {
            match stream.write(&self.out[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A connection that is still being opened reports one of these errors.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) => {
                    end = Some(LossReason::of(&error));
                    break;
                }
            }
        }
        self.out.drain(..written);
        if let Some(trouble) = end {
            self.end(trouble, record);
        }
    }

    /// Receives the responses that have arrived; returns true if there may be more. `now` returns the current time.
    pub(super) fn receive(&mut self, now: impl Fn() -> Nanos, questions: &Questions, record: &mut TargetStats) -> bool {
        for _ in 0..FAIR {
            let Some(stream) = &mut self.stream else { return false };
            let kept = self.read.len();
            self.read.resize(kept + READ, 0);
            let result = stream.read(&mut self.read[kept..]);
            self.read.truncate(kept + *result.as_ref().unwrap_or(&0));
            let end = match result {
                Ok(0) => LossReason::Closed,
                Ok(_) => {
                    self.settle(now(), questions, record);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return false,
                Err(error) => LossReason::of(&error),
            };
            self.end(end, record);
            return false;
        }
        true
    }

    /// Records the complete responses at the start of the read buffer and removes them.
    fn settle(&mut self, now: Nanos, questions: &Questions, record: &mut TargetStats) {
        let mut done = 0;
        while let Some((length, rest)) = self.read[done..].split_first_chunk::<2>() {
            let Some(response) = rest.get(..usize::from(u16::from_be_bytes(*length))) else { break };
            settle(&mut self.pending, response, now, questions, record);
            done += 2 + response.len();
        }
        self.read.drain(..done);
    }

    /// Closes the connection; all queries in flight fail with `trouble`.
    pub(super) fn end(&mut self, trouble: LossReason, record: &mut TargetStats) {
        self.stream = None;
        self.out.clear();
        self.read.clear();
        while self.pending.expired(Nanos::MAX).is_some() {
            record.failed(trouble);
        }
    }
}
