//! The server as those see it who give its sockets to another process, or take them.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::answer::Resolver;
use crate::handover::sockets::Sockets;
use crate::server::readers::Readers;
use crate::server::{Moved, Phase};

/// What another process is told of, and what it tells: for those who give the sockets away.
#[derive(Clone)]
pub struct Host {
    /// What workers share.
    pub resolver: Arc<Resolver>,
    /// What the server is about.
    pub(super) phase: Arc<watch::Sender<Phase>>,
    /// Who reads queries.
    pub(super) readers: Readers,
    /// Every socket that it listens on.
    pub sockets: Sockets,
    /// To each worker: connections of another process.
    pub(super) adopt: Vec<mpsc::Sender<Moved>>,
}

impl Host {
    /// What the server is about.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// From now on it is about this.
    pub fn turn_to(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Whether any listener or connection still reads queries. After [`Host::turn_to`] with another phase than
    /// [`Phase::Serving`] there are soon none.
    pub fn reads(&self) -> bool {
        self.readers.count() > 0
    }

    /// Takes over a connection of another process; it is closed if there are too many.
    pub fn adopt(&self, moved: Moved) {
        if let Some(worker) = self.adopt.get(usize::from(moved.client_number()) % self.adopt.len().max(1)) {
            let _ = worker.try_send(moved);
        }
    }
}
