//! Ports on which another program listens too: nodens takes new queries over from it (`[node] take_over`), and gives them back.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::handover::label::Label;
use crate::handover::sockets::HeldSockets;
use crate::node;
use crate::server::socket::Listeners;
use crate::server::steering::{self, Sockets};

/// Interval between checks for queries that wait in sockets, and their maximum number.
const DRAIN_PAUSE: Duration = Duration::from_millis(5);
const DRAIN_CHECKS: u8 = 40;

/// Directs new queries to these listeners, if another program listens on the address too.
pub(super) fn take_over(listeners: &Listeners) {
    let Listeners { address, udp, tcp } = listeners;
    let own = udp.iter().map(AsFd::as_fd).chain(tcp.iter().map(AsFd::as_fd));
    let own = own.map(|socket| socket.try_clone_to_owned()).collect::<io::Result<Vec<_>>>();
    let taken = own.and_then(|own| others_at(*address, &own)).and_then(|[udp_others, tcp_others]| {
        steering::steer(udp, behind(udp_others, udp.len()))?;
        steering::steer(tcp, behind(tcp_others, tcp.len()))?;
        Ok(udp_others + tcp_others > 0)
    });
    match taken {
        Ok(false) => {}
        Ok(true) => tracing::info!(%address, "another program listens on this address too; new queries are for nodens"),
        Err(error) => tracing::warn!(%address, %error, "another program may get a part of the queries"),
    }
}

/// Lets the kernel select among these listeners again: a predecessor may have taken over from a program that is gone now.
pub(super) fn end(listeners: &Listeners) {
    let ended =
        steering::steer(&listeners.udp, Sockets::ALL).and_then(|()| steering::steer(&listeners.tcp, Sockets::ALL));
    if let Err(error) = ended {
        tracing::warn!(address = %listeners.address, %error, "workers may get unequal parts of the queries");
    }
}

/// Directs new queries to the other programs that listen on addresses of these sockets, if there are any: this process or its
/// successor does not read these sockets any longer. `is_given` selects the addresses.
pub(super) fn give_back(sockets: &HeldSockets, is_given: impl Fn(SocketAddr) -> bool) {
    let mut addresses: Vec<SocketAddr> = sockets.iter().filter_map(|(label, _)| dns_address(label)).collect();
    addresses.dedup();
    for address in addresses.into_iter().filter(|address| is_given(*address)) {
        let of = |wanted: fn(&Label) -> bool| {
            let found = sockets.iter().filter(|(label, _)| dns_address(label) == Some(address) && wanted(label));
            found.map(|(_, socket)| socket).collect::<Vec<_>>()
        };
        let (udp, tcp) = (of(|label| matches!(label, Label::Udp(_))), of(|label| matches!(label, Label::Tcp(_))));
        let given = others_at(address, &[&udp[..], &tcp].concat()).and_then(|[udp_others, tcp_others]| {
            if udp_others > 0 {
                steering::steer(&udp, Sockets { first: 0, count: udp_others })?;
            }
            if tcp_others > 0 {
                steering::steer(&tcp, Sockets { first: 0, count: tcp_others })?;
            }
            Ok(udp_others + tcp_others > 0)
        });
        match given {
            Ok(false) => {}
            Ok(true) => tracing::info!(%address, "another program gets new queries to this address again"),
            Err(error) => tracing::warn!(%address, %error, "queries to this address may be lost"),
        }
    }
}

/// Waits until the workers have read all queries that were in these sockets, a fifth of a second at most.
pub(super) fn drain(sockets: &HeldSockets, is_given: impl Fn(SocketAddr) -> bool) {
    let sockets = sockets.iter().filter(|(label, _)| dns_address(label).is_some_and(&is_given));
    let mut watched: Vec<_> = sockets.map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    for _ in 0..DRAIN_CHECKS {
        match poll(&mut watched, PollTimeout::ZERO) {
            Ok(0) => return,
            Ok(_) | Err(nix::Error::EINTR) => sleep(DRAIN_PAUSE),
            Err(_) => return,
        }
    }
}

/// Returns `own` sockets that began to listen after `others`; all if there are no others.
fn behind(others: usize, own: usize) -> Sockets {
    if others == 0 { Sockets::ALL } else { Sockets { first: others, count: own } }
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
