//! One server over UDP, as one worker sees it: many source ports in rotation, many queries in flight on each.
//!
//! A guesser must hit address, port, id, letter case and time at once (RFC 5452): sockets are connected, so the kernel
//! drops what comes from elsewhere and reports closed ports; each sits on a random port and is renewed; ids are random.
//! A datagram that does not match is ignored and the wait goes on; so it does after one that matches but for the letter case.
//!
//! Ports are opened as they are needed, and closed when they have been idle. Where file descriptors are scarce there are
//! fewer; where none is left, the ports that there are serve on, and are renewed later.

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
use super::local::LocalFault;
use super::message::{MatchResult, Sent};
use super::race_events::{Event, RaceEvents};
use super::send_context::SendContext;
use super::server::Server;
use super::sockets::{OpenSocket, OpenSockets};
use super::source_ports::SourcePorts;
use crate::admission::descriptors::PORTS;

/// Queries after which a port is renewed.
const RENEW_AFTER: u32 = 512;
/// The age after which a port is renewed.
const RENEW_AGE: Duration = Duration::from_secs(120);
/// The time without a query after which a port is closed. A new one costs less than a query does.
const IDLE: Duration = Duration::from_secs(15);
/// Queries in flight on one port; where all ports have so many, more are sent to another server.
const IN_FLIGHT_PER_PORT: usize = 512;
/// How often queries for which nobody waits any more are swept out, while there are any.
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// How long a reply matters to what is known of the server, where nobody waits for it any more.
const MATTERS: Duration = Duration::from_secs(1);
/// How long a renewed port still listens for late replies.
const LINGER: Duration = Duration::from_secs(3);
/// Draws of a random port before the kernel is asked to choose one.
const PORT_DRAWS: usize = 10;
/// The largest reply read; nodens advertises less, but some servers send more.
const LARGEST_REPLY: usize = 4_096;
/// What a port is watched for: replies, and the kernel's report of a closed port, which does not count as readable.
const ARRIVALS: Interest = Interest::READABLE.add(Interest::ERROR);

/// The ports of one worker towards one server.
pub struct UdpLink {
    server: Arc<Server>,
    ports: Rc<Ports>,
    open: Rc<OpenSockets>,
}

/// The rotation, and whether someone sweeps it.
struct Ports {
    slots: RefCell<Vec<Option<Rc<Port>>>>,
    swept: Cell<bool>,
}

struct Port {
    socket: AsyncFd<UdpSocket>,
    opened: Instant,
    used: Cell<Instant>,
    uses: Cell<u32>,
    /// By id: these are drawn here, so nobody can make them collide.
    waiting: RefCell<HashMap<u16, Waiting>>,
    retired: Notify,
    _place: OpenSocket,
}

impl Port {
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

struct Waiting {
    sent: Sent,
    at: Instant,
    until: Instant,
    number: usize,
    /// Gone with those who waited there.
    race_events: Weak<RaceEvents>,
    is_probe: bool,
    /// Something came that may be its reply, or a guess.
    doubted: bool,
}

impl Waiting {
    /// Tells those who wait, if anybody does.
    fn tell(&self, event: Event) {
        if let Some(race_events) = self.race_events.upgrade() {
            race_events.put(self.number, event);
        }
    }

    /// Whether a reply would matter: to somebody who waits, or to what is known of the server.
    fn is_worth_it(&self, now: Instant) -> bool {
        self.until > now && (self.race_events.strong_count() > 0 || now < self.at + MATTERS)
    }
}

impl UdpLink {
    /// No port is opened before it is needed.
    pub fn new(server: Arc<Server>, open: Rc<OpenSockets>) -> Self {
        let slots = RefCell::new((0..PORTS).map(|_| None).collect());
        Self { server, ports: Rc::new(Ports { slots, swept: Cell::new(false) }), open }
    }

    /// Sends a query; what becomes of it goes where `context` says.
    ///
    /// # Errors
    /// The kernel will not send it, or too many queries are in flight.
    pub(super) fn send(&self, mut sent: Sent, context: &SendContext<'_>) -> Result<(), FailureKind> {
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
            // A rule of this machine that rejects has reported itself to the socket as well, like an ICMP error of the
            // server's host: nobody is to take that for one.
            Err(error) if LocalFault::of(&error).is_some() => socket.take_error().and(Err(error)),
            // It may be the report of an earlier query's fate, which has been taken off the socket now.
            Err(_) => socket.send(sent.bytes()),
            result => result,
        };
        result.map_err(|error| self.server.noted(FailureKind::of_error(&error)))?;
        let SendContext { number, at, until, .. } = *context;
        let (race_events, is_probe) = (Rc::downgrade(context.race_events), context.race_events.probe);
        waiting.insert(sent.id(), Waiting { sent, at, until, number, race_events, is_probe, doubted: false });
        if !self.ports.swept.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(&self.ports), Arc::clone(&self.server)));
        }
        Ok(())
    }

    /// A port of the rotation, drawn at random; where it cannot be opened, another one that is open.
    fn port(&self, now: Instant) -> Result<Rc<Port>, FailureKind> {
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
            0 => Err(self.server.noted(failure)),
            count => Ok(Rc::clone(open[rand::rng().random_range(0..count)])),
        }
    }

    /// Opens a port in a place of the rotation that is empty or due to be renewed.
    fn renew(&self, slots: &mut [Option<Rc<Port>>], at: usize, now: Instant) -> Result<Rc<Port>, FailureKind> {
        let others = slots.iter().enumerate().any(|(other, slot)| other != at && slot.is_some());
        // The old one makes room first, unless it still waits for replies or is the only one.
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
            // As many are open as there may be: not a fault as long as one of them serves.
            Ok(None) => Err(FailureKind::Local(LocalFault::Busy)),
            Err(error) => {
                let failure = FailureKind::of_error(&error);
                // Told also where another port serves instead.
                if slots.iter().any(Option::is_some) {
                    self.server.noted(failure);
                }
                Err(failure)
            }
        }
    }

    /// Opens a port; none where there is no room for it.
    fn open_port(&self, now: Instant, first: bool) -> io::Result<Option<Rc<Port>>> {
        let Some(place) = self.open.port(first) else { return Ok(None) };
        let port = Rc::new(Port {
            socket: watched(open(self.server.address, &self.open.source_ports(now))?)?,
            opened: now,
            used: Cell::new(now),
            uses: Cell::new(0),
            waiting: RefCell::default(),
            retired: Notify::new(),
            _place: place,
        });
        tokio::task::spawn_local(read(Rc::clone(&port), Arc::clone(&self.server)));
        Ok(Some(port))
    }

    /// Closes the ports that have not been used for a while, and those beyond the rotation.
    pub(super) fn close_idle(&self, now: Instant) {
        let in_rotation = self.open.ports_per_server();
        for (at, slot) in self.ports.slots.borrow_mut().iter_mut().enumerate() {
            let is_over = |port: &Rc<Port>| port.is_idle() && (at >= in_rotation || now >= port.used.get() + IDLE);
            if slot.as_ref().is_some_and(is_over) {
                retire(slot);
            }
        }
    }
}

/// Takes a port out of the rotation: it closes once nobody waits there, and soon.
fn retire(slot: &mut Option<Rc<Port>>) {
    if let Some(port) = slot.take() {
        port.retired.notify_one();
    }
}

impl Drop for UdpLink {
    fn drop(&mut self) {
        self.ports.slots.borrow_mut().iter_mut().for_each(retire);
    }
}

/// Sweeps all ports until nobody waits there.
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

/// Reads a port's replies until it is retired, and a little longer.
async fn read(port: Rc<Port>, server: Arc<Server>) {
    let replies = async {
        loop {
            if port.socket.ready(ARRIVALS).await.is_ok() {
                drain(&port, &server);
            }
        }
    };
    tokio::select! {
        () = replies => {}
        () = async {
            port.retired.notified().await;
            if !port.waiting.borrow().is_empty() {
                tokio::time::sleep(LINGER).await;
            }
        } => {}
    }
    server.metrics.in_flight.sub(port.waiting.borrow().len() as i64);
}

/// Takes all that has arrived.
fn drain(port: &Port, server: &Server) {
    let mut buffer = [0; LARGEST_REPLY];
    let now = Instant::now();
    loop {
        match port.socket.try_io(Interest::READABLE, |socket| socket.recv(&mut buffer)) {
            Ok(len) => dispatch(port, server, &buffer[..len], now),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => fail_all(port, server, FailureKind::of_arrived(&error)),
        }
    }
    // Asked for until there is none, so that the same report does not wake the task again.
    while let Err(error) = port.socket.try_io(Interest::ERROR, report)
        && error.kind() != io::ErrorKind::WouldBlock
    {
        fail_all(port, server, FailureKind::of_arrived(&error));
    }
}

/// What the kernel has to report: the closed port of an earlier query.
fn report(socket: &UdpSocket) -> io::Result<()> {
    Err(socket.take_error()?.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()))
}

fn dispatch(port: &Port, server: &Server, datagram: &[u8], now: Instant) {
    let Some(id) = crate::wire::u16_at(datagram, 0) else { return };
    let mut all = port.waiting.borrow_mut();
    let Some(waiting) = all.get_mut(&id) else { return };
    let (event, is_whole) = match waiting.sent.judge(datagram) {
        MatchResult::NotOurs => return,
        // It proves nothing and ends nothing: the wait goes on, and the question is asked in another way as well.
        MatchResult::Doubtful { folded, formerr } => {
            if !std::mem::replace(&mut waiting.doubted, true) {
                waiting.tell(Event::Doubtful { folded, formerr });
            }
            return;
        }
        MatchResult::Reply(verdict) => {
            let is_whole = !verdict.truncated;
            (Event::Reply(datagram.to_vec(), verdict), is_whole)
        }
    };
    let Some(waiting) = all.remove(&id) else { return };
    drop(all);
    server.metrics.in_flight.dec();
    // One that only says that TCP is needed proves nothing of the server, which has to answer there.
    if is_whole {
        server.replied(now, now.saturating_duration_since(waiting.at), waiting.is_probe);
    }
    waiting.tell(event);
}

fn fail_all(port: &Port, server: &Server, kind: FailureKind) {
    let all = std::mem::take(&mut *port.waiting.borrow_mut());
    server.metrics.in_flight.sub(all.len() as i64);
    for waiting in all.into_values() {
        waiting.tell(Event::Failed(kind));
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
    // Nothing is sent by this, so whatever keeps it from being done is of this machine: a route that prohibits (EACCES).
    socket.connect(&server.into()).map_err(|error| match error.raw_os_error() {
        Some(code) if code == Errno::EACCES as i32 => Errno::EPERM.into(),
        _ => error,
    })?;
    Ok(socket.into())
}

/// Watches a socket for what arrives only: to hear of room in its send buffer too would cost a wake-up for each query.
#[expect(deprecated, reason = "its successor is unsafe, for descriptors that change; a socket of std keeps its own")]
fn watched(socket: UdpSocket) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, ARRIVALS)
}
