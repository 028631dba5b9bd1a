//! The serving side of a handover: hands over to a successor, is in standby while the successor lives, and talks to the
//! predecessor from which this process took over.
//!
//! One thread waits for: a successor that connects, a message of the predecessor (in standby for this process), a message of
//! the successor (for which this process is in standby), and commands of its own process, which come through
//! [`handle`](super::handle).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::channel::{Channel, HandoverMessage, LONGEST_BODY};
use super::label::Label;
use super::sockets::HeldSockets;
use super::take::{hello, send_sockets};
use super::{PROTOCOL, START, STEP, is_trusted};
use crate::app::ServerHandle;
use crate::metrics::events::EventKind;
use crate::server::{GRACE, HandedOverConnection, Phase};
use crate::upstream::server_status::wall_clock;

/// Time limit for sending the cache; the rest is not handed over.
const PACKING: Duration = Duration::from_secs(10);
/// Interval between checks that nothing reads queries, in milliseconds.
const READERS_CHECK: u8 = 1;
/// Interval between checks that all connections are transferred, in milliseconds.
const CONNECTIONS_CHECK: u8 = 5;
/// Interval between checks that the predecessor is not waited for any longer, in milliseconds.
const PREDECESSOR_CHECK: u8 = 200;
/// Interval between checks for connections that are still to be transferred.
const MOVES_CHECK: Duration = Duration::from_millis(5);
/// Pause in accepting when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Command of this process to the handover server.
pub(super) enum HandoverCommand {
    Moved(HandedOverConnection),
    Leave(SyncSender<()>),
}

/// Callback that gets the sockets for the supervisor to hold after each change, because they must outlive this process.
pub type FdStore = Arc<dyn Fn(&HeldSockets) + Send + Sync>;

/// State of the thread.
pub(super) struct HandoverState {
    pub(super) host: ServerHandle,
    pub(super) listener: Option<Arc<OwnedFd>>,
    pub(super) predecessor: Option<Channel>,
    pub(super) successor: Option<Channel>,
    /// Latest time to wait until the predecessor has transferred everything: a process that would be a successor waits too.
    pub(super) awaits_predecessor: Option<Instant>,
    /// Latest time to tell the successor that everything is transferred.
    pub(super) settling: Option<Instant>,
    /// Latest time to announce the handover; it is announced earlier once nothing here reads queries.
    pub(super) announce: Option<Instant>,
    /// True if the predecessor serves again because this process stops.
    pub(super) leaving: bool,
    pub(super) holder: FdStore,
    pub(super) heard: Receiver<HandoverCommand>,
    pub(super) rung: UnixStream,
}

impl HandoverState {
    /// Handles events until the process leaves.
    pub(super) fn run(mut self) {
        loop {
            let [knocks, predecessor, successor] = self.wait();
            // Once nothing here reads queries, the successor answers all further queries.
            if self.announce.is_some_and(|latest| !self.host.reads() || Instant::now() > latest) {
                self.announce = None;
                self.record_event(EventKind::HandedOver, "");
            }
            self.awaits_predecessor = self.awaits_predecessor.filter(|latest| Instant::now() < *latest);
            // Before the commands: one that is sent before its connection is no longer counted must not be missed.
            let is_settled = !self.host.reads() && self.has_no_connections();
            let _ = io::Read::read(&mut self.rung, &mut [0; 64]);
            while let Ok(command) = self.heard.try_recv() {
                match command {
                    HandoverCommand::Moved(moved) => self.send_on(moved),
                    HandoverCommand::Leave(done) => {
                        self.leave();
                        let _ = done.send(());
                        return;
                    }
                }
            }
            if self.settling.is_some_and(|latest| is_settled || Instant::now() > latest) {
                self.settling = None;
                let _ = self.successor.as_ref().map(|successor| successor.send(&HandoverMessage::Settled));
            }
            if successor {
                self.receive_from_successor();
            }
            if predecessor {
                self.receive_from_predecessor();
            }
            if knocks {
                self.admit();
            }
        }
    }

    /// Waits for events; returns which of the listener, the predecessor and the successor have one.
    fn wait(&self) -> [bool; 3] {
        // A process in standby has nothing to hand over.
        let serves = self.host.phase() == Phase::Serving && self.awaits_predecessor.is_none();
        let others = [
            self.listener.as_deref().filter(|_| serves).map(AsFd::as_fd),
            self.predecessor.as_ref().map(AsFd::as_fd),
            self.successor.as_ref().map(AsFd::as_fd),
        ];
        let mut all = vec![PollFd::new(self.rung.as_fd(), PollFlags::POLLIN)];
        all.extend(others.iter().flatten().map(|other| PollFd::new(*other, PollFlags::POLLIN)));
        let timeout = match (self.announce, self.settling, self.awaits_predecessor) {
            (Some(_), ..) => PollTimeout::from(READERS_CHECK),
            (None, Some(_), _) => PollTimeout::from(CONNECTIONS_CHECK),
            (None, None, Some(_)) => PollTimeout::from(PREDECESSOR_CHECK),
            (None, None, None) => PollTimeout::NONE,
        };
        if poll(&mut all, timeout).is_err() {
            // Most likely a signal.
            return [false; 3];
        }
        let mut said = all.iter().skip(1).map(|one| one.any().unwrap_or(false));
        others.map(|other| other.is_some() && said.next().unwrap_or(false))
    }

    /// Accepts a successor, and goes into standby if the handover succeeds.
    fn admit(&mut self) {
        let Some(listener) = &self.listener else { return };
        let accepted = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC);
        let Ok(new) = accepted.map(Channel::of) else {
            // No file descriptor is left, which is temporary; the successor still waits to be accepted.
            std::thread::sleep(ACCEPT_PAUSE);
            return;
        };
        self.host.leave_node(true);
        let given = self.give(&new);
        if !matches!(given, Ok(true)) {
            self.host.leave_node(false);
        }
        match given {
            Ok(true) => {
                self.host.turn_to(Phase::Resting);
                self.announce = Some(Instant::now() + STEP);
                self.settling = Some(Instant::now() + GRACE);
                let _ = new.set_patience(STEP);
                self.successor = Some(new);
                self.hold();
            }
            Ok(false) => {}
            Err(error) => {
                self.record_failure(&format!("the new one gave up: {error}"));
                if error.kind() == io::ErrorKind::WouldBlock {
                    // It is only slow, and must not begin to serve now.
                    let _ = new.send(&HandoverMessage::Refused { why: "it has waited too long".to_owned() });
                }
            }
        }
    }

    /// Sends everything to a successor; returns whether the successor is ready.
    fn give(&self, new: &Channel) -> io::Result<bool> {
        new.set_patience(STEP)?;
        let refuse = |why: String| {
            self.record_failure(&why);
            // The successor may be gone already.
            let _ = new.send(&HandoverMessage::Refused { why });
            Ok(false)
        };
        let uid = new.peer_uid()?;
        if !is_trusted(uid) {
            return refuse(format!("user {uid} may not ask"));
        }
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        match new.receive()?.ok_or_else(gone)?.message {
            HandoverMessage::Hello { protocol: PROTOCOL, .. } => {}
            HandoverMessage::Hello { protocol, version } => {
                return refuse(format!("version {version} speaks protocol {protocol}, not {PROTOCOL}"));
            }
            _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
        new.send(&hello())?;
        send_sockets(new, &self.host.sockets)?;
        if let Some(listener) = &self.listener {
            new.send_with(&HandoverMessage::Socket(Label::Handover), &[], Some(listener.as_fd()))?;
        }
        let (resolver, deadline, mut failed) = (&self.host.resolver, Instant::now() + PACKING, None);
        new.send(&HandoverMessage::Cache(resolver.cache.hash_keys()))?;
        resolver.cache.pack(resolver.now(), LONGEST_BODY, |part| {
            failed = new.send_with(&HandoverMessage::Entries, part, None).err();
            failed.is_none() && Instant::now() < deadline
        });
        failed.map_or(Ok(()), Err)?;
        new.send(&HandoverMessage::Complete)?;
        new.set_patience(START)?;
        Ok(new.receive()?.ok_or_else(gone)?.message == HandoverMessage::Ready)
    }

    /// Transfers a connection with nothing in flight to the process that serves.
    fn send_on(&mut self, moved: HandedOverConnection) {
        if self.host.phase() == Phase::Serving {
            return self.host.adopt(moved);
        }
        // When this process is leaving, its predecessor serves again.
        let other = if self.leaving { &self.predecessor } else { &self.successor };
        if let Some(other) = other {
            let message = HandoverMessage::Connection { client: moved.client };
            // If the other process is gone, the connection is closed and the client opens a new one.
            let _ = other.send_with(&message, &moved.rest, Some(moved.stream.as_fd()));
        }
    }

    fn receive_from_predecessor(&mut self) {
        let Some(predecessor) = &self.predecessor else { return };
        match receive_from(predecessor, &self.host) {
            Some(Ok(HandoverMessage::Settled)) => self.awaits_predecessor = None,
            Some(Ok(_)) => {}
            Some(Err(_)) | None => {
                self.predecessor = None;
                self.awaits_predecessor = None;
                self.hold();
            }
        }
    }

    fn receive_from_successor(&mut self) {
        let Some(successor) = &self.successor else { return };
        match receive_from(successor, &self.host) {
            Some(Ok(HandoverMessage::Back)) => {
                if self.serve_again() {
                    let _ = self.successor.as_ref().map(|successor| successor.send(&HandoverMessage::Resumed));
                    self.record_event(EventKind::HandoverReverted, "the other one is about to stop");
                } else {
                    // This process stops too: the other one answers what it has read, and ends.
                    self.successor = None;
                }
                self.hold();
            }
            Some(Ok(HandoverMessage::Released)) => {
                self.successor = None;
                self.hold();
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => {
                self.successor = None;
                if self.host.phase() == Phase::Resting && self.serve_again() {
                    self.record_event(EventKind::HandoverReverted, "the other one is gone");
                }
                self.hold();
            }
        }
    }

    /// Returns whether this process serves again: not if it stops.
    fn serve_again(&mut self) -> bool {
        (self.announce, self.settling) = (None, None);
        self.host.leave_node(false);
        self.host.turn_to(Phase::Serving)
    }

    /// Prepares the end of the process.
    fn leave(&mut self) {
        match self.host.phase() {
            Phase::Serving => {
                if self.gives_back() {
                    self.leaving = true;
                    self.host.turn_to(Phase::Resting);
                    self.let_connections_go();
                }
            }
            Phase::Resting => {
                if let Some(predecessor) = &self.predecessor {
                    let _ = predecessor.send(&HandoverMessage::Released);
                }
                self.let_connections_go();
            }
            Phase::Stopping => {}
        }
    }

    /// Asks the predecessor, if there is one, to serve again; returns whether it does.
    fn gives_back(&mut self) -> bool {
        let Some(predecessor) = &self.predecessor else { return false };
        if predecessor.set_patience(STEP).is_err() || predecessor.send(&HandoverMessage::Back).is_err() {
            return false;
        }
        loop {
            match receive_from(predecessor, &self.host) {
                Some(Ok(HandoverMessage::Resumed)) => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
    }

    /// Transfers connections until no client's connection is left, at most for `GRACE`.
    fn let_connections_go(&mut self) {
        let deadline = Instant::now() + GRACE;
        loop {
            match self.heard.recv_timeout(MOVES_CHECK) {
                Ok(HandoverCommand::Moved(moved)) => self.send_on(moved),
                Ok(HandoverCommand::Leave(_)) => {}
                Err(_) if self.has_no_connections() || Instant::now() > deadline => return,
                Err(_) => {}
            }
        }
    }

    fn has_no_connections(&self) -> bool {
        self.host.resolver.metrics.capacity.tcp_connections.get() <= 0
    }

    /// Reports to the supervisor which sockets to hold.
    pub(super) fn hold(&self) {
        let mut sockets = self.host.sockets.clone();
        if let Some(Ok(listener)) = self.listener.as_deref().map(OwnedFd::try_clone) {
            sockets.put(Label::Handover, listener);
        }
        for (label, other) in [(Label::Elder, &self.predecessor), (Label::Heir, &self.successor)] {
            if let Some(Ok(other)) = other.as_ref().map(Channel::try_clone) {
                sockets.put(label, other.into_descriptor());
            }
        }
        (self.holder)(&sockets);
    }

    fn record_failure(&self, reason: &str) {
        self.host.resolver.metrics.handover_failures.inc();
        self.record_event(EventKind::HandoverFailed, reason);
    }

    fn record_event(&self, kind: EventKind, reason: &str) {
        self.host.resolver.metrics.events.record(wall_clock(), kind, (None, None), reason);
    }
}

/// Receives one message, and adopts the connection if it carries one. Returns `None` if the other side is gone.
fn receive_from(other: &Channel, host: &ServerHandle) -> Option<io::Result<HandoverMessage>> {
    let got = match other.receive() {
        Ok(got) => got?,
        Err(error) => return Some(Err(error)),
    };
    if let (HandoverMessage::Connection { client }, Some(socket)) = (&got.message, got.socket) {
        host.adopt(HandedOverConnection { stream: socket.into(), client: *client, rest: got.body });
    }
    Some(Ok(got.message))
}
