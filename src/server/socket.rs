//! Every socket option of the listeners.
//!
//! Each worker has its own UDP socket and TCP listener on each address (SO_REUSEPORT), so that they share nothing; the
//! kernel spreads clients over them. A first socket without that option finds out whether the port is free, because with
//! it a second nodens would bind the same port and take half of the queries.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Bytes of queries that wait while a worker is busy: 4 MiB are some 5,000 queries.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;
/// Ports tried where any port will do, and TCP does not get the one that UDP got.
const PORT_DRAWS: usize = 16;

/// The sockets of one address, one of each kind for each worker.
#[derive(Debug)]
pub struct Listeners {
    /// The address, with its true port.
    pub address: SocketAddr,
    /// The UDP sockets.
    pub udp: Vec<UdpSocket>,
    /// The TCP listeners.
    pub tcp: Vec<TcpListener>,
}

/// Binds an address for so many workers. Port 0 takes any port that is free for both transports.
///
/// # Errors
/// The address is in use, not of this host, or not permitted.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Listeners> {
    let mut draws = 0;
    loop {
        match bind_both(address, workers) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() == 0 && draws < PORT_DRAWS => {
                draws += 1
            }
            result => return result,
        }
    }
}

/// A listener for HTTP.
///
/// # Errors
/// The address is in use, not of this host, or not permitted.
pub fn http(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, Type::STREAM, false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether replies from this socket need a source address: it is bound to all of them.
pub fn is_wildcard(socket: &UdpSocket) -> bool {
    socket.local_addr().is_ok_and(|address| address.ip().is_unspecified())
}

fn bind_both(wanted: SocketAddr, workers: usize) -> io::Result<Listeners> {
    let claim = open(wanted, Type::DGRAM, false)?;
    claim.bind(&wanted.into())?;
    let address = SocketAddr::new(wanted.ip(), UdpSocket::from(claim.try_clone()?).local_addr()?.port());
    // The same for TCP, where a listening socket is needed to find another one.
    let tcp_claim = open(address, Type::STREAM, false)?;
    tcp_claim.set_reuse_address(true)?;
    tcp_claim.bind(&address.into())?;
    tcp_claim.listen(1)?;
    drop((claim, tcp_claim));

    let udp = (0..workers).map(|_| udp(address)).collect::<io::Result<_>>()?;
    let tcp = (0..workers).map(|_| tcp(address)).collect::<io::Result<_>>()?;
    Ok(Listeners { address, udp, tcp })
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(address, Type::DGRAM, true)?;
    // Root may go beyond the system's limit; for others the limit is what they get.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, Type::STREAM, true)?;
    // Connections of before a restart that still linger are no hindrance.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn open(address: SocketAddr, kind: Type, shared: bool) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() {
        // IPv4 has listeners of its own.
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    Ok(socket)
}
