//! Open sockets of one thread to upstreams, counted against its share of the file descriptors.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::source_ports::SourcePorts;
use crate::admission::descriptors::{Descriptors, ThreadShare};

/// Interval between reads of the reserved source ports.
const PORTS_READ_EVERY: Duration = Duration::from_secs(60);

/// Open sockets of one thread, and their limits.
#[derive(Debug)]
pub(crate) struct OpenSockets {
    descriptors: Arc<Descriptors>,
    share: Cell<ThreadShare>,
    ports: Cell<usize>,
    connections: Cell<usize>,
    /// Source ports to draw from.
    source_ports: RefCell<SourcePorts>,
    /// Time at which they were read; `None` before the first socket.
    ports_read: Cell<Option<Instant>>,
}

/// One open socket; dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct OpenSocket {
    of: Rc<OpenSockets>,
    kind: SocketKind,
}

#[derive(Clone, Copy, Debug)]
enum SocketKind {
    Port,
    Connection,
}

impl OpenSockets {
    /// Creates the state without open sockets.
    pub(crate) fn new(descriptors: Arc<Descriptors>) -> Rc<Self> {
        let share = Cell::new(descriptors.of_thread(1, 1));
        Rc::new(Self {
            descriptors,
            share,
            ports: Cell::new(0),
            connections: Cell::new(0),
            source_ports: RefCell::default(),
            ports_read: Cell::default(),
        })
    }

    /// Sets the number of servers, and the number of connections to all of them, that the share is divided by.
    pub(crate) fn serve(&self, servers: usize, connections: usize) {
        self.share.set(self.descriptors.of_thread(servers, connections));
    }

    /// Returns the number of UDP ports in rotation for each server.
    pub(crate) fn ports_per_server(&self) -> usize {
        self.share.get().ports_per_server
    }

    /// Reserves one UDP port; the `first` one of a server always has room.
    pub(crate) fn port(self: &Rc<Self>, first: bool) -> Option<OpenSocket> {
        self.open(SocketKind::Port, first || self.ports.get() < self.share.get().ports)
    }

    /// Reserves one connection; the `first` one to a server always has room.
    pub(crate) fn connection(self: &Rc<Self>, first: bool) -> Option<OpenSocket> {
        self.open(SocketKind::Connection, first || self.connections.get() < self.share.get().connections)
    }

    /// Returns the source ports to draw from, which are read again once a minute.
    pub(super) fn source_ports(&self, now: Instant) -> Ref<'_, SourcePorts> {
        if self.ports_read.get().is_none_or(|read| now >= read + PORTS_READ_EVERY) {
            self.ports_read.set(Some(now));
            self.source_ports.replace(SourcePorts::of_this_machine());
        }
        self.source_ports.borrow()
    }

    fn open(self: &Rc<Self>, kind: SocketKind, has_room: bool) -> Option<OpenSocket> {
        let count = self.count(kind);
        has_room.then(|| {
            count.set(count.get() + 1);
            OpenSocket { of: Rc::clone(self), kind }
        })
    }

    fn count(&self, kind: SocketKind) -> &Cell<usize> {
        match kind {
            SocketKind::Port => &self.ports,
            SocketKind::Connection => &self.connections,
        }
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        let count = self.of.count(self.kind);
        count.set(count.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::descriptors::DescriptorDemand;

    #[test]
    fn the_first_socket_always_fits_others_within_limit() {
        let descriptors = Descriptors::new(200, 60, 2, false);
        descriptors.share_out(DescriptorDemand { clients: 1_000, servers: 1, connections: 2 });
        let open = OpenSockets::new(Arc::new(descriptors));
        open.serve(1, 2);
        let ports: Vec<_> = std::iter::from_fn(|| open.port(false)).collect();
        assert!((1..64).contains(&ports.len()) && open.ports_per_server() < ports.len());
        let first = open.port(true);
        assert!(first.is_some() && open.port(false).is_none());
        drop(first);
        assert!(open.port(false).is_none());
        drop(ports);
        assert!(open.port(false).is_some());
        let connections: Vec<_> = std::iter::from_fn(|| open.connection(false)).collect();
        assert_eq!(connections.len(), 2);
        assert!(open.connection(true).is_some());
    }
}
