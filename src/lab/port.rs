//! Port of a scripted server, for UDP and TCP.
//!
//! The port stays bound while the server is stopped or refuses TCP, so that no other process gets it. A closed port only
//! makes the kernel refuse datagrams and connections.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket as StdUdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::sleep;

/// Limit on tries to bind: a port that is free for UDP may be in use for TCP, or for a moment by another process.
const BIND_TRIES: u32 = 200;

/// Pause between two tries.
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// Receive buffer for a burst of queries, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Limit on connections that the kernel queues for the server.
const BACKLOG: i32 = 128;

/// A port that is bound for the lifetime of this value.
#[derive(Debug)]
pub(super) struct LabPort {
    address: SocketAddr,
    sockets: Mutex<PortSockets>,
}

/// Sockets of a port.
#[derive(Debug)]
pub(super) struct PortSockets {
    udp: StdUdpSocket,
    tcp: TcpListener,
    /// Set while the kernel accepts connections.
    accepts: bool,
}

impl LabPort {
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

    pub(super) fn sockets(&self) -> MutexGuard<'_, PortSockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a handle of the UDP socket.
    pub(super) fn udp(&self) -> io::Result<UdpSocket> {
        UdpSocket::from_std(self.sockets().udp.try_clone()?)
    }

    /// Returns a new handle of the listening socket.
    ///
    /// The runtime considers a socket that was shut down closed for good, so each opening needs a handle of its own.
    pub(super) fn listener(&self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.sockets().tcp.try_clone()?)
    }

    /// Closes the port and keeps it bound.
    pub(super) fn close(&self) {
        let mut sockets = self.sockets();
        // A connected socket receives datagrams from its peer only, which is itself. The kernel refuses those of others.
        let _ = sockets.udp.connect(self.address);
        let _ = sockets.refuse_tcp();
    }
}

impl PortSockets {
    /// Reopens the UDP side of a closed port. The port passes from the connected socket to a new one while both are bound.
    pub(super) fn open_udp(&mut self, address: SocketAddr) -> io::Result<()> {
        SockRef::from(&self.udp).set_reuse_port(true)?;
        let udp = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), None)?;
        udp.set_reuse_port(true)?;
        udp.bind(&address.into())?;
        self.udp = with_room(udp.into());
        SockRef::from(&self.udp).set_reuse_port(false)
    }

    /// Makes the kernel accept connections.
    pub(super) fn accept_tcp(&mut self) -> io::Result<()> {
        SockRef::from(&self.tcp).listen(BACKLOG)?;
        self.accepts = true;
        Ok(())
    }

    /// Makes the kernel refuse connections.
    pub(super) fn refuse_tcp(&mut self) -> io::Result<()> {
        // After a second shutdown, the socket would reset each connection that it accepts later.
        match std::mem::take(&mut self.accepts) {
            true => SockRef::from(&self.tcp).shutdown(Shutdown::Both),
            false => Ok(()),
        }
    }
}

fn bind_once(address: SocketAddr) -> io::Result<LabPort> {
    let udp = StdUdpSocket::bind(address)?;
    udp.set_nonblocking(true)?;
    let address = udp.local_addr()?;
    let tcp = TcpListener::bind(address)?;
    tcp.set_nonblocking(true)?;
    Ok(LabPort { address, sockets: Mutex::new(PortSockets { udp: with_room(udp), tcp, accepts: true }) })
}

/// Enlarges the receive buffer of a socket, as far as the system allows.
fn with_room(udp: StdUdpSocket) -> StdUdpSocket {
    let _ = SockRef::from(&udp).set_recv_buffer_size(RECEIVE_BUFFER);
    udp
}
