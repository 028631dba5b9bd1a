//! Queries over UDP: one connected socket, with batched sends and receives.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use socket2::SockRef;

use super::names::{LONGEST_QUERY, Questions};
use super::pace::Nanos;
use super::pending::{InFlightQueries, SentQuery};
use super::record::{LossReason, TargetStats};
use crate::wire::{HEADER, flag, u16_at};

/// Maximum datagrams per system call.
pub(super) const BATCH: usize = 64;
/// Receive buffer for one response, in bytes; queries advertise less.
const LARGEST_REPLY: usize = 2_048;
/// Socket receive buffer, in bytes: holds responses that arrive while the thread sends.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Maximum batches read from one socket before the other sockets are served.
const FAIR: usize = 4;

/// Buffers for one batch in each direction, shared by all sockets.
pub(super) struct BatchBuffers {
    queries: Box<[[u8; LONGEST_QUERY]; BATCH]>,
    responses: Box<[[u8; LARGEST_REPLY]; BATCH]>,
    sending: MultiHeaders<SockaddrStorage>,
    receiving: MultiHeaders<SockaddrStorage>,
}

/// One socket and its queries in flight.
#[derive(Debug)]
pub(super) struct UdpLine {
    socket: UdpSocket,
    pending: InFlightQueries,
}

impl BatchBuffers {
    pub(super) fn new() -> Self {
        Self {
            queries: Box::new([[0; LONGEST_QUERY]; BATCH]),
            responses: Box::new([[0; LARGEST_REPLY]; BATCH]),
            sending: MultiHeaders::preallocate(BATCH, None),
            receiving: MultiHeaders::preallocate(BATCH, None),
        }
    }
}

impl UdpLine {
    /// Opens a socket for `target` on a local port of its own; `room` is the expected number of queries in flight.
    ///
    /// # Errors
    /// The system's error: no socket left, or no route to the target.
    pub(super) fn open(target: SocketAddr, room: u64) -> io::Result<Self> {
        let local: SocketAddr = match target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local)?;
        socket.set_nonblocking(true)?;
        // The system may allow less; responses that are dropped for it count as lost.
        let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
        socket.connect(target)?;
        Ok(Self { socket, pending: InFlightQueries::new(room) })
    }

    /// Returns the queries in flight.
    pub(super) fn pending(&mut self) -> &mut InFlightQueries {
        &mut self.pending
    }

    /// Sends up to [`BATCH`] queries; returns how many were sent. A query that the system refuses counts as sent and failed.
    pub(super) fn send(
        &mut self,
        batch: &[SentQuery],
        questions: &Questions,
        buffers: &mut BatchBuffers,
        record: &mut TargetStats,
    ) -> usize {
        let batch = &batch[..batch.len().min(BATCH)];
        let mut lengths = [0; BATCH];
        for (at, waiting) in batch.iter().enumerate() {
            let query = questions.query(waiting.question);
            lengths[at] = query.len().min(LONGEST_QUERY);
            buffers.queries[at][..lengths[at]].copy_from_slice(&query[..lengths[at]]);
            buffers.queries[at][..2].copy_from_slice(&self.pending.id(at).to_be_bytes());
        }
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|at| [IoSlice::new(&buffers.queries[at][..lengths[at]])]);
        let headers = &mut buffers.sending;
        let sent = sendmmsg(
            self.socket.as_raw_fd(),
            headers,
            &slices[..batch.len()],
            [None; BATCH],
            [],
            MsgFlags::MSG_DONTWAIT,
        )
        .map(|sent| sent.count());
        match sent.map_err(io::Error::from) {
            Ok(sent) => {
                for waiting in &batch[..sent] {
                    record.left(waiting);
                    if self.pending.push(*waiting).is_some() {
                        record.lost += 1;
                    }
                }
                sent
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            // The error was caused by earlier queries (ICMP port unreachable).
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && !self.pending.is_empty() => {
                self.fail_all(LossReason::Refused, record);
                0
            }
            Err(error) => {
                for waiting in batch {
                    record.left(waiting);
                    record.failed(LossReason::of(&error));
                }
                batch.len()
            }
        }
    }

    /// Receives the responses that have arrived. `now` returns the current time.
    pub(super) fn receive(
        &mut self,
        now: impl Fn() -> Nanos,
        questions: &Questions,
        buffers: &mut BatchBuffers,
        record: &mut TargetStats,
    ) {
        for _ in 0..FAIR {
            let mut lengths = [0; BATCH];
            let mut slices = buffers.responses.each_mut().map(|response| [IoSliceMut::new(response)]);
            let headers = &mut buffers.receiving;
            let received = recvmmsg(self.socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None);
            let count = received.map(|responses| {
                lengths.iter_mut().zip(responses).map(|(length, response)| *length = response.bytes).count()
            });
            let now = now();
            match count.map_err(io::Error::from) {
                Ok(count) => {
                    for (response, length) in buffers.responses.iter().zip(lengths).take(count) {
                        settle(&mut self.pending, &response[..length.min(LARGEST_REPLY)], now, questions, record);
                    }
                    if count < BATCH {
                        return;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
                // The system does not report which query caused the error, and reports many errors as one.
                Err(error) => return self.fail_all(LossReason::of(&error), record),
            }
        }
    }

    fn fail_all(&mut self, trouble: LossReason, record: &mut TargetStats) {
        while self.pending.expired(Nanos::MAX).is_some() {
            record.failed(trouble);
        }
    }
}

impl AsFd for UdpLine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Records a response with the query that it belongs to: ID and question must match. A response with an error code may
/// have an empty question section. A response without a matching query counts as stray.
#[inline]
pub(super) fn settle(
    pending: &mut InFlightQueries,
    response: &[u8],
    now: Nanos,
    questions: &Questions,
    record: &mut TargetStats,
) {
    let matches = |waiting: &SentQuery| {
        let question = questions.question(waiting.question);
        let flags = u16_at(response, 2).unwrap_or_default();
        let without = u16_at(response, 4) == Some(0) && flags & flag::RCODE != 0;
        let same =
            response.get(HEADER..HEADER + question.len()).is_some_and(|theirs| theirs.eq_ignore_ascii_case(question));
        response.len() >= HEADER && flags & flag::QR != 0 && (without || same)
    };
    let id = u16_at(response, 0).filter(|id| pending.get(*id).is_some_and(matches));
    match id.and_then(|id| pending.take(id)) {
        Some(waiting) => record.answered(&waiting, now, response),
        None => record.stray += 1,
    }
}
