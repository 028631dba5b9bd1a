//! Every socket option of the listeners.
//!
//! Each worker has its own UDP socket and TCP listener on each address (SO_REUSEPORT), so workers share no socket, and the
//! kernel spreads clients over them. With SO_REUSEPORT a second nodens could bind the same port and take half of the
//! queries. So a first socket without that option tests whether the port is free.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Bytes that the kernel may hold for each socket. This memory is charged to the node, and to the pod if control groups
/// account for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketBuffers {
    /// Queries that wait in a UDP socket while its worker is busy.
    pub udp: usize,
    /// Responses that the client of a TCP connection has not read. A longer response is sent in parts as the client reads.
    pub tcp_send: usize,
    /// Queries that wait in a TCP connection.
    pub tcp_receive: usize,
}

impl SocketBuffers {
    /// Upper bounds. 4 MiB hold about 5,000 queries.
    pub(crate) const LARGEST: Self = Self { udp: 4 << 20, tcp_send: 32 << 10, tcp_receive: 16 << 10 };
    /// Lower bounds. 256 KiB hold about 300 queries.
    pub(crate) const LEAST: Self = Self { udp: 256 << 10, tcp_send: 8 << 10, tcp_receive: 4 << 10 };
}

/// Most connections that wait to be accepted.
const BACKLOG: i32 = 1_024;
/// Most attempts to find a port that is free for both UDP and TCP, if any port will do.
const PORT_DRAWS: usize = 16;

/// The sockets of one address: one of each kind for each worker.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// The address, with the port that was bound.
    pub address: SocketAddr,
    pub udp: Vec<UdpSocket>,
    pub tcp: Vec<TcpListener>,
}

/// Binds sockets for `workers` workers to an address. Port 0 takes any port that is free for both transports.
///
/// # Errors
/// The address is in use, not of this host, or not permitted.
pub(crate) fn bind(address: SocketAddr, workers: usize, buffers: SocketBuffers) -> io::Result<Listeners> {
    let mut draws = 0;
    loop {
        let bound = claim(address).and_then(|(address, _claims)| {
            complete(Listeners { address, udp: Vec::new(), tcp: Vec::new() }, workers, buffers)
        });
        match bound {
            // The port is in use for the other transport, or another process took it in between.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() == 0 && draws < PORT_DRAWS => {
                draws += 1
            }
            bound => return bound,
        }
    }
}

/// Binds more sockets to an address until each of `workers` workers has one of each kind.
///
/// # Errors
/// The address is in use without SO_REUSEPORT, not of this host, or not permitted.
pub(crate) fn complete(mut listeners: Listeners, workers: usize, buffers: SocketBuffers) -> io::Result<Listeners> {
    while listeners.udp.len() < workers {
        listeners.udp.push(udp(listeners.address, buffers.udp)?);
    }
    while listeners.tcp.len() < workers {
        listeners.tcp.push(tcp(listeners.address, buffers)?);
    }
    Ok(listeners)
}

/// Opens a listener for HTTP. Unless `beside` is set, no other process may listen on the address.
///
/// # Errors
/// The address is in use, not of this host, or not permitted.
pub(crate) fn http(address: SocketAddr, beside: bool) -> io::Result<TcpListener> {
    if !beside && address.port() != 0 {
        claim_tcp(address)?;
    }
    tcp(address, SocketBuffers::LARGEST)
}

/// Returns whether responses from this socket need an explicit source address: it is bound to the unspecified address.
pub(crate) fn is_wildcard(socket: &UdpSocket) -> bool {
    socket.local_addr().is_ok_and(|address| address.ip().is_unspecified())
}

/// Tests whether an address is free for both transports; returns it with the port that was bound, and sockets that hold any port
/// until others have it. Otherwise another nodens that looks for a port could share it. No client knows the port yet.
fn claim(wanted: SocketAddr) -> io::Result<(SocketAddr, Vec<Socket>)> {
    let udp = open(wanted, Type::DGRAM, false)?;
    udp.bind(&wanted.into())?;
    let address = SocketAddr::new(wanted.ip(), UdpSocket::from(udp.try_clone()?).local_addr()?.port());
    let tcp = claim_tcp(address)?;
    if wanted.port() != 0 {
        return Ok((address, Vec::new()));
    }
    udp.set_reuse_port(true)?;
    tcp.set_reuse_port(true)?;
    Ok((address, vec![udp, tcp]))
}

/// Tests whether an address is free for TCP: only a listening socket detects another one.
fn claim_tcp(address: SocketAddr) -> io::Result<Socket> {
    let claim = open(address, Type::STREAM, false)?;
    claim.set_reuse_address(true)?;
    claim.bind(&address.into())?;
    claim.listen(1)?;
    Ok(claim)
}

fn udp(address: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    let socket = open(address, Type::DGRAM, true)?;
    // Root may exceed the system's limit; other users get at most the limit.
    if setsockopt(&socket, sockopt::RcvBufForce, &buffer).is_err() {
        SockRef::from(&socket).set_recv_buffer_size(buffer)?;
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

fn tcp(address: SocketAddr, buffers: SocketBuffers) -> io::Result<TcpListener> {
    let socket = open(address, Type::STREAM, true)?;
    // Permits binding while connections from before a restart linger.
    socket.set_reuse_address(true)?;
    // Accepted connections inherit both sizes. The kernel doubles them for its overhead, and may grant less.
    socket.set_send_buffer_size(buffers.tcp_send / 2)?;
    socket.set_recv_buffer_size(buffers.tcp_receive / 2)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn open(address: SocketAddr, kind: Type, shared: bool) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() {
        // IPv4 has its own listeners.
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use super::*;

    #[test]
    fn no_two_servers_get_one_port() {
        let bind_many = || {
            let any = "127.0.0.1:0".parse().expect("an address");
            (0..100).map(|_| bind(any, 1, SocketBuffers::LEAST).expect("a port")).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..8).map(|_| thread::spawn(bind_many)).collect();
        let all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("ports")).collect();
        let ports: BTreeSet<_> = all.iter().map(|listeners| listeners.address).collect();
        assert_eq!(ports.len(), all.len());
    }
}
