//! One worker: a thread with listeners and upstream sockets of its own.

use std::cell::RefCell;
use std::net::{TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admission::connections::Connections;
use crate::admission::descriptors::Descriptors;
use crate::answer::Resolver;
use crate::heartbeat::{HEARTBEAT, Heartbeats};
use crate::server::mmsg::DatagramBatch;
use crate::server::readers::Readers;
use crate::server::{ConnectionSink, HandedOverConnection, Phase, WorkerState, tcp, udp};
use crate::task::boxed_local;
use crate::upstream::connections::UpstreamConnections;

/// The parts of one worker.
pub(super) struct WorkerPart {
    pub(super) number: usize,
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) connections: Arc<Connections>,
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) heartbeats: Arc<Heartbeats>,
    pub(super) turning: Arc<AtomicUsize>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) connection_sink: ConnectionSink,
    pub(super) readers: Readers,
    pub(super) adopted: mpsc::Receiver<HandedOverConnection>,
}

/// Failure of a listener.
pub(super) struct ListenerFailed;

impl WorkerPart {
    /// Serves until the server stops; returns how many queries were left.
    pub(super) async fn run(self) -> Result<usize, ListenerFailed> {
        let links = Rc::new(UpstreamConnections::new(self.descriptors));
        {
            let snapshot = self.resolver.snapshot.load();
            links.tidy(&snapshot.groups, |server| snapshot.has_server(server), Instant::now());
        }
        let worker = WorkerState::new(
            Arc::clone(&self.resolver),
            Rc::clone(&links),
            self.phase,
            self.connection_sink,
            self.readers,
        );
        let batch = Rc::new(RefCell::new(DatagramBatch::new()));
        let mut listeners = JoinSet::new();
        for socket in self.udp {
            listeners.spawn_local(boxed_local(udp::serve(Rc::clone(&worker), socket, Rc::clone(&batch))));
        }
        for listener in self.tcp {
            listeners.spawn_local(boxed_local(tcp::serve(Rc::clone(&worker), listener, Arc::clone(&self.connections))));
        }
        let mut beside = JoinSet::new();
        beside.spawn_local(boxed_local(adopt(Rc::clone(&worker), self.adopted, self.connections)));
        beside.spawn_local(boxed_local(send_heartbeats(Rc::clone(&worker), links, self.heartbeats, self.number)));
        self.turning.fetch_add(1, Ordering::Release);
        while let Some(ended) = listeners.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, worker = self.number, "a listener failed");
                    return Err(ListenerFailed);
                }
                Err(error) => {
                    tracing::error!(%error, worker = self.number, "a listener panicked");
                    return Err(ListenerFailed);
                }
            }
        }
        let left = worker.drain().await;
        worker.flush_all().await;
        Ok(left)
    }
}

/// Takes over connections of another process.
async fn adopt(
    worker: Rc<WorkerState<UpstreamConnections>>,
    mut adopted: mpsc::Receiver<HandedOverConnection>,
    connections: Arc<Connections>,
) {
    while let Some(moved) = adopted.recv().await {
        // A connection that broke in transfer is no error of nodens.
        let _ = tcp::adopt(&worker, moved, &connections);
    }
}

/// Records a heartbeat, flushes the statistics about clients, and closes sockets to upstreams that are no longer needed.
async fn send_heartbeats(
    worker: Rc<WorkerState<UpstreamConnections>>,
    links: Rc<UpstreamConnections>,
    heartbeats: Arc<Heartbeats>,
    number: usize,
) {
    let resolver = Arc::clone(&worker.resolver);
    loop {
        heartbeats.record(number, resolver.now());
        {
            // Not held while it sleeps: that would delay the freeing of an old configuration.
            let snapshot = resolver.snapshot.load_full();
            worker.follow(&snapshot);
            let now = Instant::now();
            worker.settle(now);
            links.tidy(&snapshot.groups, |server| snapshot.has_server(server), now);
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}
