//! Sockets of one worker to one server over UDP: many source ports in rotation, with many queries in flight on each.
//!
//! A forged response must match address, port, id, letter case and time at once (RFC 5452). Sockets are connected, so the
//! kernel drops datagrams from other addresses and reports closed ports. Each socket has a random port and is renewed;
//! ids are random. A datagram that does not match is ignored and the wait continues; the wait also continues after a
//! datagram that matches except for the letter case.
//!
//! Ports are opened when needed, and closed when idle. If file descriptors are scarce there are fewer ports; if none is
//! left, the open ports continue to serve, and are renewed later.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use nix::errno::Errno;
use rand::RngExt;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::failure::FailureKind;
use super::local_fault::LocalFault;
use super::message::{MatchResult, OutgoingQuery};
use super::race_events::{AttemptEvent, RaceEvents};
use super::sender::{SendContext, Sender};
use super::server::Server;
use super::sockets::{OpenSocket, OpenSockets};
use super::source_ports::SourcePorts;
use crate::admission::descriptors::PORTS;
use crate::task;

/// Number of queries after which a port is renewed.
const RENEW_AFTER: u32 = 512;
/// Age after which a port is renewed.
const RENEW_AGE: Duration = Duration::from_secs(120);
/// Idle time after which a port is closed. Opening a new one costs less than a query.
const IDLE: Duration = Duration::from_secs(15);
/// Maximum queries in flight on one port; if all ports are full, further queries go to another server.
const IN_FLIGHT_PER_PORT: usize = 512;
/// Interval between removals of expired queries, while there are any.
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// Time after the query for which a response counts for the server's health, even if its race has ended.
const MATTERS: Duration = Duration::from_secs(1);
/// Time for which a renewed port still receives late responses.
const LINGER: Duration = Duration::from_secs(3);
/// Attempts at a random port before the kernel chooses one.
const PORT_DRAWS: usize = 10;
/// Maximum size of a response; nodens advertises less, but some servers send more.
const LARGEST_REPLY: usize = 4_096;
/// Readiness of interest: responses, and the kernel's report of a closed port, which does not count as readable.
const ARRIVALS: Interest = Interest::READABLE.add(Interest::ERROR);

/// Ports of one worker to one server.
pub(crate) struct UdpSender {
    server: Arc<Server>,
    ports: Rc<Ports>,
    open: Rc<OpenSockets>,
}

/// Ports in rotation, and whether a task sweeps them.
struct Ports {
    slots: RefCell<Vec<Option<Rc<UdpPort>>>>,
    swept: Cell<bool>,
}

struct UdpPort {
    socket: AsyncFd<UdpSocket>,
    opened: Instant,
    used: Cell<Instant>,
    uses: Cell<u32>,
    /// Queries by id. Ids are drawn here, so clients cannot make them collide.
    waiting: RefCell<HashMap<u16, UdpQuery>>,
    retired: Notify,
    _place: OpenSocket,
}

impl UdpPort {
    fn is_fresh(&self, now: Instant) -> bool {
        self.uses.get() < RENEW_AFTER && now < self.opened + RENEW_AGE
    }

    fn is_idle(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    fn has_room(&self) -> bool {
        self.waiting.borrow().len() < IN_FLIGHT_PER_PORT
    }
}

struct UdpQuery {
    sent: OutgoingQuery,
    at: Instant,
    until: Instant,
    number: usize,
    /// Dropped when the race has ended.
    race_events: Weak<RaceEvents>,
    is_probe: bool,
    /// A message came that may be the response or a forgery.
    doubted: bool,
}

impl UdpQuery {
    /// Delivers an event to the race, if it still runs.
    fn deliver(&self, event: AttemptEvent) {
        if let Some(race_events) = self.race_events.upgrade() {
            race_events.put(self.number, event);
        }
    }

    /// Reports whether a response would still be of use: to a race, or for the server's health.
    fn is_worth_it(&self, now: Instant) -> bool {
        self.until > now && (self.race_events.strong_count() > 0 || now < self.at + MATTERS)
    }
}

impl UdpSender {
    /// Creates the rotation without ports: they are opened when needed.
    pub(crate) fn new(server: Arc<Server>, open: Rc<OpenSockets>) -> Self {
        let slots = RefCell::new((0..PORTS).map(|_| None).collect());
        Self { server, ports: Rc::new(Ports { slots, swept: Cell::new(false) }), open }
    }

    /// Returns a random port of the rotation; if it cannot be opened, another one that is open.
    fn port(&self, now: Instant) -> Result<Rc<UdpPort>, FailureKind> {
        let mut slots = self.ports.slots.borrow_mut();
        let at = rand::rng().random_range(0..self.open.ports_per_server().clamp(1, PORTS));
        let port = match &slots[at] {
            Some(port) if !port.is_fresh(now) => self.renew(&mut slots, at, now),
            Some(port) if port.has_room() => Ok(Rc::clone(port)),
            Some(_) => Err(FailureKind::Local(LocalFault::Busy)),
            None => self.renew(&mut slots, at, now),
        };
        let failure = match port {
            Ok(port) => return Ok(port),
            Err(failure) => failure,
        };
        let open: Vec<_> = slots.iter().flatten().filter(|port| port.has_room()).collect();
        match open.len() {
            0 => Err(self.server.count_local(failure)),
            count => Ok(Rc::clone(open[rand::rng().random_range(0..count)])),
        }
    }

    /// Opens a port in a slot of the rotation that is empty or due to be renewed.
    fn renew(&self, slots: &mut [Option<Rc<UdpPort>>], at: usize, now: Instant) -> Result<Rc<UdpPort>, FailureKind> {
        let others = slots.iter().enumerate().any(|(other, slot)| other != at && slot.is_some());
        // The old port is closed first to make room, unless it waits for responses or is the only one.
        let is_idle = slots[at].as_ref().is_none_or(|port| port.is_idle());
        if others && is_idle {
            retire(&mut slots[at]);
        }
        match self.open_port(now, !others && is_idle) {
            Ok(Some(port)) => {
                retire(&mut slots[at]);
                slots[at] = Some(Rc::clone(&port));
                Ok(port)
            }
            // The limit of open ports is reached: not a fault as long as one of them serves.
            Ok(None) => Err(FailureKind::Local(LocalFault::Busy)),
            Err(error) => {
                let failure = FailureKind::of_error(&error);
                // Counted even if another port serves instead.
                if slots.iter().any(Option::is_some) {
                    self.server.count_local(failure);
                }
                Err(failure)
            }
        }
    }

    /// Opens a port; `None` if the limit is reached.
    fn open_port(&self, now: Instant, first: bool) -> io::Result<Option<Rc<UdpPort>>> {
        let Some(place) = self.open.port(first) else { return Ok(None) };
        let port = Rc::new(UdpPort {
            socket: watched(open(self.server.address, &self.open.source_ports(now))?)?,
            opened: now,
            used: Cell::new(now),
            uses: Cell::new(0),
            waiting: RefCell::default(),
            retired: Notify::new(),
            _place: place,
        });
        task::spawn_local(read(Rc::clone(&port), Arc::clone(&self.server)));
        Ok(Some(port))
    }
}

impl Sender for UdpSender {
    /// Sends a query; its outcome goes to the `race_events` of `context`.
    ///
    /// # Errors
    /// The kernel does not send it, or too many queries are in flight.
    fn send(&self, mut sent: OutgoingQuery, context: &SendContext<'_>) -> Result<(), FailureKind> {
        let port = self.port(context.at)?;
        port.uses.set(port.uses.get().saturating_add(1));
        port.used.set(context.at);
        let mut waiting = port.waiting.borrow_mut();
        while waiting.contains_key(&sent.id()) {
            sent.set_id(rand::random());
        }
        let socket = port.socket.get_ref();
        let result = match socket.send(sent.bytes()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // A local rule that rejects also leaves an error on the socket, like an ICMP error of the server's host. It
            // is cleared here, because it must not count against the server.
            Err(error) if LocalFault::of(&error).is_some() => socket.take_error().and(Err(error)),
            // Possibly the report for an earlier query, which has now been taken off the socket.
            Err(_) => socket.send(sent.bytes()),
            result => result,
        };
        result.map_err(|error| self.server.count_local(FailureKind::of_error(&error)))?;
        let SendContext { number, at, until, .. } = *context;
        let (race_events, is_probe) = (Rc::downgrade(context.race_events), context.race_events.probe);
        waiting.insert(sent.id(), UdpQuery { sent, at, until, number, race_events, is_probe, doubted: false });
        if !self.ports.swept.replace(true) {
            task::spawn_local(sweep(Rc::downgrade(&self.ports), Arc::clone(&self.server)));
        }
        Ok(())
    }

    /// Closes idle ports, and idle ones beyond the current size of the rotation.
    fn close_idle(&self, now: Instant) {
        let in_rotation = self.open.ports_per_server();
        for (at, slot) in self.ports.slots.borrow_mut().iter_mut().enumerate() {
            let is_over = |port: &Rc<UdpPort>| port.is_idle() && (at >= in_rotation || now >= port.used.get() + IDLE);
            if slot.as_ref().is_some_and(is_over) {
                retire(slot);
            }
        }
    }
}

/// Takes a port out of the rotation: it closes at once if no query waits there, otherwise after `LINGER`.
fn retire(slot: &mut Option<Rc<UdpPort>>) {
    if let Some(port) = slot.take() {
        port.retired.notify_one();
    }
}

impl Drop for UdpSender {
    fn drop(&mut self) {
        self.ports.slots.borrow_mut().iter_mut().for_each(retire);
    }
}

/// Sweeps all ports until no query waits there.
async fn sweep(ports: Weak<Ports>, server: Arc<Server>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(ports) = ports.upgrade() else { return };
        let (now, mut left) = (Instant::now(), 0);
        for port in ports.slots.borrow().iter().flatten() {
            let mut waiting = port.waiting.borrow_mut();
            let before = waiting.len();
            waiting.retain(|_, waiting| waiting.is_worth_it(now));
            server.metrics.in_flight.sub((before - waiting.len()) as i64);
            left += waiting.len();
        }
        if left == 0 {
            ports.swept.set(false);
            return;
        }
    }
}

/// Reads the responses of a port until it is retired, and up to `LINGER` longer.
async fn read(port: Rc<UdpPort>, server: Arc<Server>) {
    let responses = async {
        loop {
            if port.socket.ready(ARRIVALS).await.is_ok() {
                drain(&port, &server);
            }
        }
    };
    tokio::select! {
        () = responses => {}
        () = async {
            port.retired.notified().await;
            if !port.waiting.borrow().is_empty() {
                tokio::time::sleep(LINGER).await;
            }
        } => {}
    }
    server.metrics.in_flight.sub(port.waiting.borrow().len() as i64);
}

/// Processes everything that has arrived.
fn drain(port: &UdpPort, server: &Server) {
    let mut buffer = [0; LARGEST_REPLY];
    let now = Instant::now();
    loop {
        match port.socket.try_io(Interest::READABLE, |socket| socket.recv(&mut buffer)) {
            Ok(len) => dispatch(port, server, &buffer[..len], now),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => fail_all(port, server, FailureKind::of_arrived(&error)),
        }
    }
    // Read until there is none, because the same report would wake the task again.
    while let Err(error) = port.socket.try_io(Interest::ERROR, report)
        && error.kind() != io::ErrorKind::WouldBlock
    {
        fail_all(port, server, FailureKind::of_arrived(&error));
    }
}

/// Returns the kernel's pending error: the closed port of an earlier query.
fn report(socket: &UdpSocket) -> io::Result<()> {
    Err(socket.take_error()?.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()))
}

fn dispatch(port: &UdpPort, server: &Server, datagram: &[u8], now: Instant) {
    let Some(id) = crate::wire::u16_at(datagram, 0) else { return };
    let mut all = port.waiting.borrow_mut();
    let Some(waiting) = all.get_mut(&id) else { return };
    let (event, is_whole) = match waiting.sent.match_response(datagram) {
        MatchResult::NotOurs => return,
        // No proof of anything: the wait continues, and the race sends the question in another way as well.
        MatchResult::Doubtful { folded, formerr } => {
            if !std::mem::replace(&mut waiting.doubted, true) {
                waiting.deliver(AttemptEvent::Doubtful { folded, formerr });
            }
            return;
        }
        MatchResult::Reply(verdict) => {
            let is_whole = !verdict.truncated;
            (AttemptEvent::Reply(datagram.to_vec(), verdict), is_whole)
        }
    };
    let Some(waiting) = all.remove(&id) else { return };
    drop(all);
    server.metrics.in_flight.dec();
    // A truncated response is no evidence of health: the server has to answer over TCP.
    if is_whole {
        server.responded(now, now.saturating_duration_since(waiting.at), waiting.is_probe);
    }
    waiting.deliver(event);
}

fn fail_all(port: &UdpPort, server: &Server, kind: FailureKind) {
    let all = std::mem::take(&mut *port.waiting.borrow_mut());
    server.metrics.in_flight.sub(all.len() as i64);
    for waiting in all.into_values() {
        waiting.deliver(AttemptEvent::Failed(kind));
    }
}

/// Opens a connected socket on a random source port.
fn open(server: SocketAddr, ports: &SourcePorts) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let drawn = (0..PORT_DRAWS).any(|_| {
        let port = ports.draw(&mut rand::rng());
        port.is_some_and(|port| socket.bind(&SocketAddr::new(any, port).into()).is_ok())
    });
    if !drawn {
        socket.bind(&SocketAddr::new(any, 0).into())?;
    }
    // Connecting sends nothing, so any failure is local, such as a prohibiting route (EACCES).
    socket.connect(&server.into()).map_err(|error| match error.raw_os_error() {
        Some(code) if code == Errno::EACCES as i32 => Errno::EPERM.into(),
        _ => error,
    })?;
    Ok(socket.into())
}

/// Watches a socket for arrivals only: a report of free space in its send buffer would cost a wake-up for each query.
#[expect(deprecated, reason = "its successor is unsafe, for descriptors that change; a socket of std keeps its own")]
fn watched(socket: UdpSocket) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, ARRIVALS)
}
