//! The sockets that one process gives to another, each with its purpose.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::channel::Channel;
use super::label::{Label, ListenAddress};

/// Sockets that a process holds for others, or was given.
#[derive(Clone, Debug, Default)]
pub struct HeldSockets(Vec<(Label, Arc<OwnedFd>)>);

impl HeldSockets {
    pub fn put(&mut self, label: Label, socket: impl Into<OwnedFd>) {
        self.0.push((label, Arc::new(socket.into())));
    }

    /// Returns whether there are no sockets.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of sockets.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns all sockets with their labels.
    pub fn iter(&self) -> impl Iterator<Item = (&Label, &OwnedFd)> {
        self.0.iter().map(|(label, socket)| (label, &**socket))
    }

    /// Returns a copy without the sockets for whose labels `gone` returns true.
    pub fn without(&self, gone: impl Fn(&Label) -> bool) -> Self {
        Self(self.0.iter().filter(|(label, _)| !gone(label)).cloned().collect())
    }

    /// Removes and returns the sockets for whose labels `wanted` returns a value.
    ///
    /// A descriptor that is shared is duplicated and stays open elsewhere.
    pub fn take<R>(&mut self, mut wanted: impl FnMut(&Label) -> Option<R>) -> Vec<(R, OwnedFd)> {
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        for (label, socket) in self.0.drain(..) {
            match wanted(&label) {
                None => left.push((label, socket)),
                Some(found) => match Arc::try_unwrap(socket) {
                    Ok(socket) => taken.push((found, socket)),
                    Err(shared) => taken.extend(shared.try_clone().map(|socket| (found, socket))),
                },
            }
        }
        self.0 = left;
        taken
    }

    /// Removes and returns one bound address configured as `wanted`, with its UDP sockets and TCP listeners, if there is one.
    pub fn take_dns(&mut self, wanted: SocketAddr) -> Option<(SocketAddr, Vec<UdpSocket>, Vec<TcpListener>)> {
        let bound = self.iter().find_map(|(label, _)| match label {
            Label::Udp(address) if address.wanted == wanted => Some(address.bound),
            _ => None,
        })?;
        let address = ListenAddress { wanted, bound };
        let udp = self.take(|label| (*label == Label::Udp(address)).then_some(()));
        let tcp = self.take(|label| (*label == Label::Tcp(address)).then_some(()));
        let udp = udp.into_iter().map(|(_, socket)| socket.into()).collect();
        Some((bound, udp, tcp.into_iter().map(|(_, socket)| socket.into()).collect()))
    }

    /// Removes and returns the first listener for whose label `is` returns true.
    pub fn take_listener(&mut self, is: impl Fn(&Label) -> bool) -> Option<OwnedFd> {
        let mut found = false;
        let taken = self.take(|label| (!found && is(label)).then(|| found = true));
        taken.into_iter().next().map(|(_, socket)| socket)
    }

    /// Removes and returns the channel to another process.
    pub fn take_channel(&mut self, label: &Label) -> Option<Channel> {
        self.take_listener(|other| other == label).map(Channel::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(wanted: &str, port: u16) -> ListenAddress {
        let wanted: SocketAddr = wanted.parse().expect("an address");
        ListenAddress { wanted, bound: SocketAddr::new(wanted.ip(), port) }
    }

    #[test]
    fn equal_requested_addresses_are_told_apart() {
        let udp = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let tcp = || TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut sockets = HeldSockets::default();
        for port in [7, 8, 7, 8] {
            sockets.put(Label::Udp(address("127.0.0.1:0", port)), udp());
            sockets.put(Label::Tcp(address("127.0.0.1:0", port)), tcp());
        }
        sockets.put(Label::Admin(address("127.0.0.1:0", 9)), tcp());
        let wanted = "127.0.0.1:0".parse().expect("an address");
        assert!(sockets.take_dns("127.0.0.1:53".parse().expect("an address")).is_none());
        for port in [7, 8] {
            let (bound, udp, tcp) = sockets.take_dns(wanted).expect("sockets");
            assert_eq!((bound.port(), udp.len(), tcp.len()), (port, 2, 2));
        }
        assert!(sockets.take_dns(wanted).is_none());
        assert!(sockets.take_listener(|label| matches!(label, Label::Report(_))).is_none());
        assert!(sockets.take_listener(|label| matches!(label, Label::Admin(_))).is_some());
        assert!(sockets.is_empty());
    }
}
