//! The port of a scripted server, for UDP and TCP.
//!
//! It stays bound while the server is stopped or refuses TCP, so that nobody else is given it: what is closed then is only
//! what the kernel would let in.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket as StdUdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::sleep;

/// How often a port is tried: one that is free for UDP may be in use for TCP, or for a moment by somebody else.
const BIND_TRIES: u32 = 200;

/// The pause between two tries.
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// Room for a burst of queries, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Connections that the kernel holds for the server.
const BACKLOG: i32 = 128;

/// A port that is bound as long as this lives.
#[derive(Debug)]
pub(super) struct Port {
    address: SocketAddr,
    sockets: Mutex<Sockets>,
}

/// The sockets of a port.
#[derive(Debug)]
pub(super) struct Sockets {
    udp: StdUdpSocket,
    tcp: TcpListener,
    /// Whether the kernel lets connections in.
    accepts: bool,
}

impl Port {
    /// Binds UDP first, then TCP on the same port.
    pub(super) async fn bind(address: SocketAddr) -> io::Result<Self> {
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

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle of the UDP socket.
    pub(super) fn udp(&self) -> io::Result<UdpSocket> {
        UdpSocket::from_std(self.sockets().udp.try_clone()?)
    }

    /// A fresh handle of the listening socket.
    ///
    /// The runtime's view of a socket that was shut down stays "closed" for good, so each opening needs its own.
    pub(super) fn listener(&self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.sockets().tcp.try_clone()?)
    }

    /// Closes the port and keeps it bound.
    pub(super) fn close(&self) {
        let mut sockets = self.sockets();
        // A connected socket takes datagrams from its peer alone, which is itself. The kernel refuses those of others.
        let _ = sockets.udp.connect(self.address);
        let _ = sockets.refuse_tcp();
    }
}

impl Sockets {
    /// Opens the UDP side of a closed port again: the port passes from the connected socket to a new one while both are
    /// bound.
    pub(super) fn open_udp(&mut self, address: SocketAddr) -> io::Result<()> {
        SockRef::from(&self.udp).set_reuse_port(true)?;
        let udp = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), None)?;
        udp.set_reuse_port(true)?;
        udp.bind(&address.into())?;
        self.udp = with_room(udp.into());
        SockRef::from(&self.udp).set_reuse_port(false)
    }

    /// From now on the kernel lets connections in.
    pub(super) fn accept_tcp(&mut self) -> io::Result<()> {
        SockRef::from(&self.tcp).listen(BACKLOG)?;
        self.accepts = true;
        Ok(())
    }

    /// From now on the kernel refuses connections.
    pub(super) fn refuse_tcp(&mut self) -> io::Result<()> {
        // Shut down a second time, it would reset each connection that it lets in later.
        match std::mem::take(&mut self.accepts) {
            true => SockRef::from(&self.tcp).shutdown(Shutdown::Both),
            false => Ok(()),
        }
    }
}

fn bind_once(address: SocketAddr) -> io::Result<Port> {
    let udp = StdUdpSocket::bind(address)?;
    udp.set_nonblocking(true)?;
    let address = udp.local_addr()?;
    let tcp = TcpListener::bind(address)?;
    tcp.set_nonblocking(true)?;
    Ok(Port { address, sockets: Mutex::new(Sockets { udp: with_room(udp), tcp, accepts: true }) })
}

/// Gives a socket its receive buffer. Smaller is fine where the system does not allow as much.
fn with_room(udp: StdUdpSocket) -> StdUdpSocket {
    let _ = SockRef::from(&udp).set_recv_buffer_size(RECEIVE_BUFFER);
    udp
}
