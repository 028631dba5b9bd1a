//! Ports on which another program listens too: nodens takes new queries over from it (`[node] take_over`), and gives them back.

use std::collections::HashSet;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

use crate::handover::label::Label;
use crate::handover::sockets::HeldSockets;
use crate::node;
use crate::server::socket::Listeners;
use crate::server::steering;

/// Interval between checks for queries that wait in sockets, and their maximum number.
const DRAIN_PAUSE: Duration = Duration::from_millis(5);
const DRAIN_CHECKS: u8 = 40;

/// Directs new queries to these listeners, if another program listens on the address too.
pub(super) fn take_over(listeners: &Listeners) {
    let Listeners { address, udp, tcp } = listeners;
    let own = udp.iter().map(AsFd::as_fd).chain(tcp.iter().map(AsFd::as_fd));
    let own = own.map(|socket| socket.try_clone_to_owned()).collect::<io::Result<Vec<_>>>();
    let taken = own.and_then(|own| others_at(*address, &own)).and_then(|[udp_others, tcp_others]| {
        steering::prefer(udp, udp_others)?;
        steering::prefer(tcp, tcp_others)?;
        Ok(udp_others + tcp_others > 0)
    });
    match taken {
        Ok(false) => {}
        Ok(true) => tracing::info!(%address, "another program listens on this address too; new queries are for nodens"),
        Err(error) => tracing::warn!(%address, %error, "another program may get a part of the queries"),
    }
}

/// Lets the kernel select among these sockets again: a predecessor may have taken over from a program that is gone now. `is_ended` selects
/// the addresses.
pub(super) fn end(sockets: &HeldSockets, is_ended: impl Fn(SocketAddr) -> bool) {
    for (label, socket) in sockets.iter() {
        let Some(address) = dns_address(label).filter(|address| is_ended(*address)) else { continue };
        if let Err(error) = steering::release(socket) {
            tracing::warn!(%address, %error, "workers may get unequal parts of the queries");
        }
    }
}

/// Withdraws these sockets in favour of other programs that listen on their addresses, if there are any: this process or its
/// successor does not read them any longer. What the sockets have received stays there. `is_given` selects the addresses.
///
/// A UDP socket that is connected, here to itself, gets no datagrams of others; a listener that is shut down, no connections. This holds
/// for all processes that have the socket, and whatever place it has in the kernel's group.
pub(super) fn give_back(sockets: &HeldSockets, is_given: impl Fn(SocketAddr) -> bool) {
    let mut addresses: Vec<SocketAddr> = sockets.iter().filter_map(|(label, _)| dns_address(label)).collect();
    addresses.dedup();
    for address in addresses.into_iter().filter(|address| is_given(*address)) {
        let own: Vec<_> = sockets.iter().filter(|(label, _)| dns_address(label) == Some(address)).collect();
        let inodes = own.iter().map(|(_, socket)| *socket).collect::<Vec<_>>();
        match others_at(address, &inodes) {
            Ok([0, 0]) => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(%address, %error, "queries to this address may be lost"),
        }
        for (label, socket) in &own {
            let given = steering::release(socket).and_then(|()| match label {
                Label::Udp(_) => SockRef::from(*socket).connect(&address.into()),
                _ => Ok(()),
            });
            given.unwrap_or_else(|error| tracing::warn!(%address, %error, "queries to this address may be lost"));
        }
        drain(&inodes);
        for (_, socket) in own.iter().filter(|(label, _)| matches!(label, Label::Tcp(_))) {
            // The connection of a client that arrives at this moment is reset.
            let _ = SockRef::from(*socket).shutdown(Shutdown::Both);
        }
        tracing::info!(%address, "another program gets new queries to this address again");
    }
}

/// Waits until the workers have read all queries that were in these sockets, a fifth of a second at most.
fn drain(sockets: &[&OwnedFd]) {
    let mut watched: Vec<_> = sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    for _ in 0..DRAIN_CHECKS {
        match poll(&mut watched, PollTimeout::ZERO) {
            Ok(0) => return,
            Ok(_) | Err(nix::Error::EINTR) => sleep(DRAIN_PAUSE),
            Err(_) => return,
        }
    }
}

fn dns_address(label: &Label) -> Option<SocketAddr> {
    match label {
        Label::Udp(address) | Label::Tcp(address) => Some(address.bound),
        _ => None,
    }
}

/// Returns the numbers of sockets of other programs on this address, for UDP and TCP.
fn others_at<S: std::borrow::Borrow<OwnedFd>>(address: SocketAddr, own: &[S]) -> io::Result<[usize; 2]> {
    let own = own.iter().map(|socket| node::inode(socket.borrow())).collect::<io::Result<HashSet<_>>>()?;
    Ok(node::others_at(address, &own))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::handover::label::ListenAddress;
    use crate::server::socket::{SocketBuffers, complete};

    /// Returns how many datagrams of new clients these sockets receive.
    fn received(sockets: &[&UdpSocket], address: SocketAddr) -> Vec<usize> {
        for _ in 0..200 {
            let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            client.send_to(&[0], address).expect("sends");
        }
        sockets.iter().map(|socket| std::iter::from_fn(|| socket.recv(&mut [0]).ok()).count()).collect()
    }

    /// The other program is started again in between, so its sockets are not the first ones any more.
    #[test]
    fn what_is_given_back_goes_to_the_other_program() {
        let listeners = |address| {
            complete(Listeners { address, udp: Vec::new(), tcp: Vec::new() }, 2, SocketBuffers::LEAST).expect("sockets")
        };
        // An address of this process alone, and a port that is never free meanwhile.
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let place = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        place.set_reuse_port(true).expect("an option");
        place.bind(&SocketAddr::from(([127, 86, high, low], 0)).into()).expect("an address");
        let place = UdpSocket::from(place);
        let address = place.local_addr().expect("an address");
        let other = listeners(address);
        drop(place);
        let own = listeners(address);
        let ours: Vec<_> = own.udp.iter().collect();
        // Both are of this process here.
        let place = ListenAddress { wanted: address, bound: address };
        let mut held = HeldSockets::default();
        own.udp.iter().for_each(|socket| held.put(Label::Udp(place), socket.try_clone().expect("a copy")));
        own.tcp.iter().for_each(|socket| held.put(Label::Tcp(place), socket.try_clone().expect("a copy")));
        take_over(&own);
        assert_eq!(received(&ours, address).iter().sum::<usize>(), 200);
        drop(other);
        let again = listeners(address);
        give_back(&held, |_| true);
        assert_eq!(received(&again.udp.iter().collect::<Vec<_>>(), address).iter().sum::<usize>(), 200);
        for _ in 0..20 {
            std::net::TcpStream::connect(address).expect("a connection");
        }
        let accepted = again.tcp.iter().map(|listener| std::iter::from_fn(|| listener.accept().ok()).count());
        assert_eq!(accepted.sum::<usize>(), 20);
    }
}
