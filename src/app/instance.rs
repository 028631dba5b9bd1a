//! An instance on its node: addresses and sockets, and the process that had them before.
//!
//! Sources of the sockets, in this order: a supervisor that kept those of a dead worker, a running nodens that hands over
//! its own, new sockets.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::error::StartError;
use super::running_instance::is_nodens;
use super::{Running, StartOptions, sharing, start_in};
use crate::cache::Cache;
use crate::config::Config;
use crate::epoch::Epoch;
use crate::handover::channel::{Channel, HandoverMessage};
use crate::handover::handle::{self, FdStore, HandoverHandle, HandoverServer, Params};
use crate::handover::label::Label;
use crate::handover::sockets::HeldSockets;
use crate::handover::take::{Taken, refusal, take};
use crate::metrics::events::EventKind;
use crate::node::{self, NodeNetwork};
use crate::server::Phase;
use crate::supervisor::link::{Inherited, SupervisorChannel};

/// Time that all workers have to start running.
const TURNS: Duration = Duration::from_secs(15);

/// A server on its sockets, from any source.
pub(crate) struct Instance {
    running: Running,
    handover_server: Option<HandoverServer>,
    node: Option<Arc<NodeNetwork>>,
}

/// Source of the sockets.
struct SocketSource {
    sockets: HeldSockets,
    /// Cache of the predecessor.
    cache: Option<Cache>,
    /// Channel to the predecessor.
    taken: Option<Channel>,
    /// True if a nodens runs here that does not hand over.
    beside: bool,
}

impl SocketSource {
    /// Returns the sockets of `given` if there are any; otherwise asks a running nodens for a handover, if `path` is set.
    fn find(config: &Config, given: HeldSockets, epoch: Epoch) -> Self {
        let path = config.handover.as_deref();
        let none = Self { sockets: HeldSockets::default(), cache: None, taken: None, beside: false };
        let Some(path) = path.filter(|_| given.is_empty()) else { return Self { sockets: given, ..none } };
        match take(path, config.cache.memory, epoch) {
            Ok(None) => none,
            Ok(Some(Taken { predecessor, sockets, cache })) => {
                Self { sockets, cache, taken: Some(predecessor), ..none }
            }
            Err(error) => {
                tracing::warn!(%error, "handover failed; sharing the ports with the running instance until it stops");
                Self { beside: true, ..none }
            }
        }
    }
}

/// Returns a callback that sends the sockets to hold to the supervisor, if there is one.
fn holder(link: Option<SupervisorChannel>) -> FdStore {
    Arc::new(move |sockets| {
        if let Some(link) = &link {
            link.hold_sockets(sockets);
        }
    })
}

/// Tells the predecessor that this process serves. Its sockets in `unwanted` are given back to the programs that it took them over from.
///
/// # Errors
/// A worker is not responsive, or the predecessor has given up waiting; it continues to serve.
fn tell_ready(running: &Running, predecessor: &Channel, unwanted: &HeldSockets) -> Result<(), String> {
    if !running.turns(TURNS) {
        return Err("a worker is not responsive".to_owned());
    }
    let waits = || refusal(predecessor).map_or(Ok(()), Err);
    waits()?;
    sharing::give_back(unwanted, |_| true);
    // If the predecessor is gone by now, this process is the only one that serves.
    predecessor.send(&HandoverMessage::Ready).or_else(|_| waits())
}

impl Instance {
    /// Serves on the sockets of the last worker, on those of the nodens that runs here now, or on new ones.
    ///
    /// # Errors
    /// The node cannot have the addresses, they cannot be listened on, or the system is out of threads. Another nodens that
    /// runs here then goes on.
    pub(crate) fn take(
        config: Config,
        given: Inherited,
        link: Option<SupervisorChannel>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let (path, door, epoch) = (config.handover.clone(), HandoverHandle::new()?, Epoch::new());
        let SocketSource { mut sockets, cache, taken, mut beside } = SocketSource::find(&config, given.sockets, epoch);
        let [predecessor, successor] = [Label::Elder, Label::Heir].map(|label| sockets.take_channel(&label));
        let mut listener = sockets.take_listener(|label| *label == Label::Handover);
        if given.replaces.from_file {
            // The file may have another path by now.
            listener =
                listener.filter(|listener| path.as_deref().is_some_and(|path| handle::listens_at(listener, path)));
        }
        let (inherited, cached) = (sockets.len(), cache.as_ref().map_or(0, |cache| cache.fill().entries));
        let node = NodeNetwork::of(&config).map(Arc::new);
        // In standby, the network is that of the process that serves.
        let own = node.as_ref().filter(|_| successor.is_none());
        let repaired = own.map(|node| node.set_up(taken.is_some() || beside)).transpose()?.unwrap_or_default();
        let takes_over = config.node.as_ref().is_some_and(|node| node.take_over);
        // Where handovers are wanted, the one that has the port should have offered one: its socket was deleted, or could not be
        // created.
        let may_share = path.is_some() && inherited == 0 && taken.is_none() && !beside;
        let options = |sockets, beside, cache| StartOptions {
            sockets,
            beside,
            phase: if successor.is_some() { Phase::Resting } else { Phase::Serving },
            node: node.clone(),
            leaves_node: taken.is_some(),
            cache,
            epoch,
            restarts: given.replaces.restarts,
            connection_sink: door.connection_sink(),
        };
        let is_wanted = |label: &Label| match label {
            Label::Udp(address) | Label::Tcp(address) => config.server.listen.contains(&address.wanted),
            _ => true,
        };
        let unwanted = sockets.without(is_wanted);
        let running = match start_in(config.clone(), options(sockets, beside, cache)) {
            Err(StartError::Listen { address, error, .. })
                if may_share
                    && (takes_over || config.server.listen.contains(&address))
                    && error.kind() == io::ErrorKind::AddrInUse
                    && is_nodens(&config.admin.listen) =>
            {
                beside = true;
                tracing::warn!(%address, "the running instance offers no handover; sharing the ports with it until it stops");
                start_in(config, options(HeldSockets::default(), beside, None))
            }
            running => running,
        };
        let running = match running {
            Ok(running) => running,
            Err(error) => {
                if let Some(node) = node {
                    // The table that existed before belongs to another process, which restores it, or to none.
                    if taken.is_some() || beside { node.undo_addresses(&repaired) } else { node.undo(&repaired) }
                }
                return Err(error.into());
            }
        };
        if beside {
            running.resolver().metrics.handover_failures.inc();
        }
        if let Some(predecessor) = &taken {
            // A failure before this point leaves the predecessor as it is.
            if let Err(why) = tell_ready(&running, predecessor, &unwanted) {
                node.inspect(|node| node.undo_addresses(&repaired));
                // Before the end of this process, so that the predecessor restores at once what is missing on the node.
                drop(taken);
                return Err(format!("{why}: the predecessor continues to serve").into());
            }
            let host = running.host();
            host.leave_node(false);
            if node.as_ref().is_none_or(|node| !node.has_table()) {
                node::remove_table();
            }
            if inherited > 0 {
                let snapshot = host.resolver.snapshot.load();
                let takes = snapshot.config.node.as_ref().filter(|node| node.take_over);
                let is_taken = |address| takes.is_some_and(|node| node.listen.contains(&address));
                sharing::end(&host.sockets, |address| !is_taken(address));
            }
            running.record_event(EventKind::TookOver, &format!("{inherited} sockets, {cached} cached answers"));
        }
        if let (None, Some(path)) = (&listener, &path) {
            match handle::listen(path) {
                Ok(new) => listener = Some(new),
                Err(error) => tracing::warn!(%error, path = %path.display(), "cannot offer a handover to a successor"),
            }
        }
        let holder = holder(link);
        let host = running.host();
        let has_just_taken_over = taken.is_some();
        let predecessor = taken.or(predecessor);
        if listener.is_none() && predecessor.is_none() && successor.is_none() {
            holder(&host.sockets);
            return Ok(Self { running, handover_server: None, node });
        }
        let handover_server =
            door.open(Params { host, listener, predecessor, has_just_taken_over, successor, holder })?;
        Ok(Self { running, handover_server: Some(handover_server), node })
    }

    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    /// Stops, after the predecessor serves again if it is still in standby. Returns how many queries were left without a
    /// response.
    pub(crate) fn leave(self) -> usize {
        let is_handing_over = self.handover_server.is_some_and(|server| !server.leave());
        let host = self.running.host();
        // A process in standby leaves the node configuration to the process that serves, and one that is handing over to a successor
        // that may serve at any moment. Until then the fallback answers.
        let node = self.node.filter(|_| !is_handing_over && host.phase() == Phase::Serving);
        if let (Some(_), Some(settings)) = (&node, &host.resolver.snapshot.load().config.node)
            && settings.take_over
        {
            sharing::give_back(&host.sockets, |address| settings.listen.contains(&address));
        }
        let own = host.sockets.iter().filter_map(|(_, socket)| node::inode(socket).ok()).collect();
        let left = self.running.stop();
        match node.map(|node| node.tear_down(&own)) {
            Some(Ok(removed)) => tracing::info!(removed = removed.join(", "), "node configuration removed"),
            Some(Err(error)) => {
                tracing::error!(%error, "cannot remove all node configuration: run `nodens node cleanup`")
            }
            None => {}
        }
        left
    }
}
