//! A server's place on the node: its addresses, its sockets, and who had them before.
//!
//! In this order: what a supervisor kept of a worker that died, what a nodens that serves here gives away, new sockets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Running, StartOptions, start_in};
use crate::config::Config;
use crate::handover::channel::{Channel, Message};
use crate::handover::door::{self, Begin, Door, FdStore, HandoverServer};
use crate::handover::label::Label;
use crate::handover::sockets::Sockets;
use crate::handover::take::{Taken, take};
use crate::metrics::events::Kind;
use crate::node::{Mended, Node};
use crate::server::Phase;
use crate::supervisor::link::{Inherited, Link};

/// How long all workers may take until they turn.
const TURNS: Duration = Duration::from_secs(15);

/// A server on its sockets, wherever it has them from.
pub struct Place {
    running: Running,
    handover_server: Option<HandoverServer>,
    node: Option<Node>,
}

/// Where the sockets come from.
struct Source {
    sockets: Sockets,
    /// Entries of the cache of the one whose place is taken.
    entries: Vec<Vec<u8>>,
    /// The way to that one.
    taken: Option<Channel>,
    /// Whether somebody serves here who gives nothing.
    beside: bool,
}

impl Source {
    /// What is given stands; else whoever serves here is asked, if handovers are wanted.
    fn find(path: Option<&Path>, given: Sockets) -> Self {
        let none = Self { sockets: Sockets::default(), entries: Vec::new(), taken: None, beside: false };
        let Some(path) = path.filter(|_| given.is_empty()) else { return Self { sockets: given, ..none } };
        match take(path) {
            Ok(None) => none,
            Ok(Some(Taken { predecessor, sockets, entries })) => {
                Self { sockets, entries, taken: Some(predecessor), ..none }
            }
            Err(error) => {
                tracing::warn!(%error, "handover failed; sharing the ports with the running instance until it stops");
                Self { beside: true, ..none }
            }
        }
    }
}

/// Tells a supervisor, if there is one, what to hold.
fn holder(link: Option<Link>) -> FdStore {
    Arc::new(move |sockets| {
        if let Some(link) = &link {
            link.hold_sockets(sockets);
        }
    })
}

impl Place {
    /// Serves on the sockets of the last worker, on those of the nodens that serves here now, or on new ones.
    ///
    /// # Errors
    /// The node cannot have the addresses, they cannot be listened on, or the system is out of threads. Another nodens
    /// that serves here goes on then.
    pub fn take(config: Config, given: Inherited, link: Option<Link>) -> Result<Self, Box<dyn std::error::Error>> {
        let (path, door) = (config.handover.clone(), Door::new()?);
        let Source { mut sockets, entries, taken, beside } = Source::find(path.as_deref(), given.sockets);
        let [predecessor, successor] = [Label::Elder, Label::Heir].map(|label| sockets.take_channel(&label));
        let mut listener = sockets.take_listener(|label| *label == Label::Handover);
        if given.replaces.from_file {
            // The file may have another path by now.
            listener = listener.filter(|listener| path.as_deref().is_some_and(|path| door::listens_at(listener, path)));
        }
        let (inherited, bytes) = (sockets.len(), entries.iter().map(Vec::len).sum::<usize>());
        let node = Node::of(&config);
        let mended = node.as_ref().map(Node::set_up).transpose()?.unwrap_or_default();
        let running = start_in(
            config,
            StartOptions {
                sockets,
                beside,
                phase: if successor.is_some() { Phase::Resting } else { Phase::Serving },
                entries,
                restarts: given.replaces.restarts,
                mover: door.mover(),
            },
        );
        let running = match running {
            Ok(running) => running,
            Err(error) => {
                // What was there before belongs to another one, or to nobody.
                if let Some(node) = node.filter(|_| mended != Mended::default() && taken.is_none() && !beside) {
                    let _ = node.tear_down();
                }
                return Err(error.into());
            }
        };
        if let Some(predecessor) = &taken {
            // What fails before this leaves the other one as it is.
            if !running.turns(TURNS) {
                return Err("not every worker turns: the other nodens goes on".into());
            }
            // If it is gone by now, nobody else serves.
            let _ = predecessor.send(&Message::Ready);
            running.tell(Kind::TookOver, &format!("{inherited} sockets, {} KiB of cached answers", bytes >> 10));
        }
        if let (None, Some(path)) = (&listener, &path) {
            match door::listen(path) {
                Ok(new) => listener = Some(new),
                Err(error) => tracing::warn!(%error, path = %path.display(), "cannot offer a handover to a successor"),
            }
        }
        let holder = holder(link);
        let host = running.host();
        let predecessor = taken.or(predecessor);
        if listener.is_none() && predecessor.is_none() && successor.is_none() {
            holder(&host.sockets);
            return Ok(Self { running, handover_server: None, node });
        }
        let handover_server = door.open(Begin { host, listener, predecessor, successor, holder })?;
        Ok(Self { running, handover_server: Some(handover_server), node })
    }

    /// The server.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Stops, after the place has been given back to whom it was taken from, if that one still rests. Returns how many queries
    /// were left without an answer.
    pub fn leave(self) -> usize {
        if let Some(handover_server) = self.handover_server {
            handover_server.leave();
        }
        // One that rests leaves all to the one that serves.
        let node = self.node.filter(|_| self.running.host().phase() == Phase::Serving);
        let left = self.running.stop();
        match node.as_ref().map(Node::tear_down) {
            Some(Ok(removed)) => tracing::info!(removed = removed.join(", "), "node configuration removed"),
            Some(Err(error)) => {
                tracing::error!(%error, "cannot remove all node configuration: run `nodens node cleanup`")
            }
            None => {}
        }
        left
    }
}
