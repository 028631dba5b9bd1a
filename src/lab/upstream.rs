//! A scripted DNS server over real sockets: UDP and TCP on one port, in the tokio runtime that starts it.
//!
//! Everything it answers comes from its [`Zone`], everything it does wrong from its [`Behaviour`]; both can be changed
//! while it runs, and count from the next query on. It runs as tasks of the runtime that called
//! [`Upstream::start`], of any flavour, and ends with it or when it is dropped.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket as StdUdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::fault::{Behaviour, Outgoing, Tcp, bare};
use super::seen::{Log, Seen};
use super::tcp;
use super::zone::Zone;
use crate::upstream::Transport;
use crate::wire::{PLAIN_SIZE, flag, rcode};

/// How often a port is tried: one that is free for UDP may be in use for TCP, or for a moment by somebody else.
const BIND_TRIES: u32 = 200;

/// The pause between two tries.
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// Room for a burst of queries, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Connections that the kernel holds for the server.
pub(super) const BACKLOG: i32 = 128;

/// A scripted DNS server.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    tasks: Mutex<Option<Tasks>>,
}

/// What the tasks and the owner share.
#[derive(Debug)]
pub(super) struct Shared {
    address: SocketAddr,
    zone: Mutex<Arc<Zone>>,
    latency: Mutex<Duration>,
    behaviour: watch::Sender<Arc<Behaviour>>,
    udp_queries: AtomicU64,
    log: Mutex<Log>,
    sockets: Mutex<Sockets>,
}

/// The sockets of the port. They stay bound while the server is stopped, so that nobody else is given the port.
#[derive(Debug)]
struct Sockets {
    udp: StdUdpSocket,
    tcp: TcpListener,
}

#[derive(Debug)]
struct Tasks {
    stop: watch::Sender<bool>,
    udp: JoinHandle<()>,
    tcp: JoinHandle<()>,
}

impl Upstream {
    /// Starts a server that answers normally, without latency. Port 0 takes one that is free for UDP and TCP.
    ///
    /// # Errors
    /// `InvalidInput` with every mistake of the zone; what the system says if the address cannot be bound.
    pub async fn start(address: SocketAddr, zone: Zone) -> io::Result<Self> {
        check(&zone)?;
        let sockets = bind(address).await?;
        let shared = Shared {
            address: sockets.udp.local_addr()?,
            zone: Mutex::new(Arc::new(zone)),
            latency: Mutex::default(),
            behaviour: watch::Sender::new(Arc::new(Behaviour::normal())),
            udp_queries: AtomicU64::new(0),
            log: Mutex::default(),
            sockets: Mutex::new(sockets),
        };
        let upstream = Self { shared: Arc::new(shared), tasks: Mutex::default() };
        upstream.spawn()?;
        Ok(upstream)
    }

    /// Where it listens; the same after [`Upstream::restart`].
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Every query that it saw, oldest first; the oldest are forgotten beyond [`KEPT_QUERIES`](super::seen::KEPT_QUERIES).
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.log).all()
    }

    /// How many queries it saw, the forgotten ones too.
    pub fn seen_count(&self) -> u64 {
        lock(&self.shared.log).count()
    }

    /// Forgets what it saw.
    pub fn clear_seen(&self) {
        lock(&self.shared.log).clear();
    }

    /// Behaves so from the next query on.
    pub fn set(&self, behaviour: Behaviour) {
        self.shared.udp_queries.store(0, Ordering::Relaxed);
        let refuse = behaviour.tcp == Tcp::Refuse;
        // The port closes and opens before this returns; the tasks follow.
        let sockets = lock(&self.shared.sockets);
        let refused = self.shared.behaviour.send_replace(Arc::new(behaviour)).tcp == Tcp::Refuse;
        if refuse != refused && lock(&self.tasks).is_some() {
            let socket = SockRef::from(&sockets.tcp);
            let _ = if refuse { socket.shutdown(Shutdown::Both) } else { socket.listen(BACKLOG) };
        }
    }

    /// How long it takes to reply, unless its behaviour says otherwise.
    pub fn set_latency(&self, latency: Duration) {
        *lock(&self.shared.latency) = latency;
    }

    /// Answers from another zone from the next query on.
    ///
    /// # Errors
    /// `InvalidInput` with every mistake of the zone, which changes nothing.
    pub fn set_zone(&self, zone: Zone) -> io::Result<()> {
        check(&zone)?;
        *lock(&self.shared.zone) = Arc::new(zone);
        Ok(())
    }

    /// Closes the port: when this returns, datagrams and connections are refused and replies still due are gone. Nobody else
    /// can bind the port meanwhile.
    pub async fn stop(&self) {
        let Some(tasks) = lock(&self.tasks).take() else { return };
        self.shared.close();
        tasks.stop.send_replace(true);
        // A task that panicked has ended as well.
        let _ = tasks.udp.await;
        let _ = tasks.tcp.await;
    }

    /// Opens the port again after [`Upstream::stop`], with the same zone, behaviour and record of queries.
    ///
    /// # Errors
    /// What the system says if it has no socket left.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn restart(&self) -> io::Result<()> {
        if lock(&self.tasks).is_some() {
            return Ok(());
        }
        let mut sockets = lock(&self.shared.sockets);
        // The port passes from the connected socket to a new one while both are bound.
        SockRef::from(&sockets.udp).set_reuse_port(true)?;
        let udp = Socket::new(Domain::for_address(self.shared.address), Type::DGRAM.nonblocking(), None)?;
        udp.set_reuse_port(true)?;
        udp.bind(&self.shared.address.into())?;
        sockets.udp = with_room(udp.into());
        SockRef::from(&sockets.udp).set_reuse_port(false)?;
        if self.shared.behaviour().tcp != Tcp::Refuse {
            SockRef::from(&sockets.tcp).listen(BACKLOG)?;
        }
        drop(sockets);
        self.spawn()
    }

    fn spawn(&self) -> io::Result<()> {
        let (stop, stopped) = watch::channel(false);
        let udp = UdpSocket::from_std(lock(&self.shared.sockets).udp.try_clone()?)?;
        let udp = tokio::spawn(serve_udp(Arc::clone(&self.shared), udp, stopped.clone()));
        let tcp = tokio::spawn(tcp::serve(Arc::clone(&self.shared), stopped));
        *lock(&self.tasks) = Some(Tasks { stop, udp, tcp });
        Ok(())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(tasks) = lock(&self.tasks).take() {
            tasks.udp.abort();
            tasks.tcp.abort();
        }
    }
}

impl Shared {
    /// Closes the port and keeps it bound.
    fn close(&self) {
        let sockets = lock(&self.sockets);
        // A connected socket takes datagrams from its peer alone, which is itself. The kernel refuses those of others.
        let _ = sockets.udp.connect(self.address);
        let _ = SockRef::from(&sockets.tcp).shutdown(Shutdown::Both);
    }

    pub(super) fn behaviour(&self) -> Arc<Behaviour> {
        self.behaviour.borrow().clone()
    }

    pub(super) fn behaviour_changes(&self) -> watch::Receiver<Arc<Behaviour>> {
        self.behaviour.subscribe()
    }

    /// A fresh handle of the listening socket.
    ///
    /// The runtime's view of a socket that was shut down stays "closed" for good, so each opening needs its own.
    pub(super) fn listener(&self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(lock(&self.sockets).tcp.try_clone()?)
    }

    /// Writes a query down and says what to send for it.
    pub(super) fn take(&self, wire: &[u8], client: SocketAddr, transport: Transport) -> Vec<Outgoing> {
        let behaviour = self.behaviour();
        let number = match transport {
            Transport::Udp => self.udp_queries.fetch_add(1, Ordering::Relaxed) + 1,
            Transport::Tcp | Transport::Tls => 0,
        };
        let (seen, query) = Seen::read(wire, client, transport);
        let zone = lock(&self.zone).clone();
        let with_opt = !behaviour.ignores_opt;
        let honest = match query {
            // A response must not be answered, or two servers could keep each other busy.
            _ if seen.flags & flag::QR != 0 || wire.len() < crate::wire::HEADER => None,
            None => Some(bare(&seen, rcode::FORMERR, 0, &[], false, None)),
            Some(query) => zone.reply(&seen, &query, with_opt).to_vec().ok(),
        };
        let size = seen.edns.as_ref().filter(|_| with_opt).map_or(PLAIN_SIZE, |edns| edns.size.max(PLAIN_SIZE));
        let honest = honest.map(|whole| match transport {
            Transport::Udp if whole.len() > usize::from(size) => {
                bare(&seen, rcode::NOERROR, flag::TC, seen.question(), with_opt, None)
            }
            _ => whole,
        });
        let own = *lock(&self.latency);
        let sends = behaviour.sends(&seen, honest, number, own);
        lock(&self.log).push(seen);
        sends
    }
}

async fn serve_udp(shared: Arc<Shared>, socket: UdpSocket, mut stopped: watch::Receiver<bool>) {
    let socket = Arc::new(socket);
    let mut late = JoinSet::new();
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let received = tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = late.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        // An error here tells of an earlier reply that found no taker.
        let Ok((length, client)) = received else { continue };
        let sends = shared.take(&buffer[..length], client, Transport::Udp);
        match sends.iter().map(|send| send.after).max() {
            None => {}
            Some(Duration::ZERO) => send_udp(&socket, client, &sends).await,
            // One task for them all, which keeps them in order.
            Some(after) => {
                let socket = Arc::clone(&socket);
                late.spawn(async move {
                    sleep(after).await;
                    send_udp(&socket, client, &sends).await;
                });
            }
        }
    }
    late.shutdown().await;
}

/// Sends datagrams; like the network, without a word if one is lost.
async fn send_udp(socket: &UdpSocket, client: SocketAddr, sends: &[Outgoing]) {
    for send in sends {
        let other = match (send.from_other_port, socket.local_addr()) {
            (true, Ok(address)) => UdpSocket::bind(SocketAddr::new(address.ip(), 0)).await.ok(),
            _ => None,
        };
        if other.is_some() || !send.from_other_port {
            let _ = other.as_ref().unwrap_or(socket).send_to(&send.wire, client).await;
        }
    }
}

/// Binds UDP first, then TCP on the same port.
async fn bind(address: SocketAddr) -> io::Result<Sockets> {
    let mut tries = 0;
    loop {
        let bound = bind_once(address);
        tries += 1;
        match bound {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < BIND_TRIES => sleep(BIND_PAUSE).await,
            bound => return bound,
        }
    }
}

fn bind_once(address: SocketAddr) -> io::Result<Sockets> {
    let udp = StdUdpSocket::bind(address)?;
    udp.set_nonblocking(true)?;
    let tcp = TcpListener::bind(udp.local_addr()?)?;
    tcp.set_nonblocking(true)?;
    Ok(Sockets { udp: with_room(udp), tcp })
}

/// Gives a socket its receive buffer. Smaller is fine where the system does not allow as much.
fn with_room(udp: StdUdpSocket) -> StdUdpSocket {
    let _ = SockRef::from(&udp).set_recv_buffer_size(RECEIVE_BUFFER);
    udp
}

fn check(zone: &Zone) -> io::Result<()> {
    match zone.mistakes() {
        [] => Ok(()),
        mistakes => Err(io::Error::new(io::ErrorKind::InvalidInput, mistakes.join("; "))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
