//! The part of the server that a handover needs.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::answer::Resolver;
use crate::handover::sockets::HeldSockets;
use crate::server::phase::turn;
use crate::server::readers::Readers;
use crate::server::{HandedOverConnection, Phase};

/// Handle with which the handover server controls this server and hands over its state.
#[derive(Clone)]
pub struct ServerHandle {
    /// State shared by all workers.
    pub resolver: Arc<Resolver>,
    pub(super) phase: Arc<watch::Sender<Phase>>,
    /// True while a handover is under way: the node's network is the other process's then.
    pub(super) leaves_node: Arc<watch::Sender<bool>>,
    /// Count of the readers of queries.
    pub(super) readers: Readers,
    /// Every socket on which the server listens.
    pub sockets: HeldSockets,
    /// Channel to each worker for connections of another process.
    pub(super) adopt: Vec<mpsc::Sender<HandedOverConnection>>,
}

impl ServerHandle {
    /// Returns the server's phase.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Sets the server's phase. Returns false if the server stops: no phase follows that one.
    pub fn turn_to(&self, phase: Phase) -> bool {
        turn(&self.phase, phase)
    }

    /// Sets whether the node's network is left alone: what the other process of a handover changes is not restored then.
    pub fn leave_node(&self, leaves: bool) {
        self.leaves_node.send_replace(leaves);
    }

    /// Returns whether any listener or connection still reads queries. Soon after [`ServerHandle::turn_to`] with another phase than
    /// [`Phase::Serving`] none does.
    pub fn reads(&self) -> bool {
        self.readers.count() > 0
    }

    /// Takes over a connection of another process; closes it if too many wait.
    pub fn adopt(&self, moved: HandedOverConnection) {
        if let Some(worker) = self.adopt.get(usize::from(moved.client_number()) % self.adopt.len().max(1)) {
            let _ = worker.try_send(moved);
        }
    }
}
