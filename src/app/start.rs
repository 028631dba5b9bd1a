//! Construction of all parts of a nodens from its configuration and start options; none of them runs yet.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::{mpsc, watch};

use super::control::{ControlPages, ControlPart, ReportPart};
use super::error::StartError;
use super::running::Running;
use super::server_handle::ServerHandle;
use super::worker::WorkerPart;
use super::{descriptors, memory_limit, sharing};
use crate::admin::Admin;
use crate::admin::report::ReportPages;
use crate::admission::connections::Connections;
use crate::answer::Resolver;
use crate::cache::Cache;
use crate::config::Config;
use crate::epoch::Epoch;
use crate::handover::label::{Label, ListenAddress};
use crate::handover::sockets::HeldSockets;
use crate::heartbeat::Heartbeats;
use crate::metrics::Metrics;
use crate::node::NodeNetwork;
use crate::server::readers::Readers;
use crate::server::socket::{self, Listeners, SocketBuffers};
use crate::server::{ConnectionSink, Phase};
use crate::snapshot::Snapshot;
use crate::upstream::server_status::wall_clock;

/// Most connections of another process that wait for a worker; more are closed.
const MOST_ADOPTED: usize = 4_096;

/// Start options besides the configuration.
pub struct StartOptions {
    /// Sockets from a supervisor or from a predecessor.
    pub sockets: HeldSockets,
    /// True if another nodens keeps listening on the same addresses: ports need not be free then.
    pub beside: bool,
    /// Phase at the start.
    pub phase: Phase,
    /// Network of the node to tend, if there is one.
    pub(crate) node: Option<Arc<NodeNetwork>>,
    /// True if that is another process's until [`ServerHandle::leave_node`].
    pub(crate) leaves_node: bool,
    /// Cache with the entries of another nodens.
    pub cache: Option<Cache>,
    /// Zero of all times.
    pub epoch: Epoch,
    /// Number of workers that the supervisor has replaced.
    pub restarts: u64,
    /// Receiver of connections while the server is in standby.
    pub connection_sink: ConnectionSink,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            sockets: HeldSockets::default(),
            beside: false,
            phase: Phase::Serving,
            node: None,
            leaves_node: false,
            cache: None,
            epoch: Epoch::new(),
            restarts: 0,
            connection_sink: Arc::new(drop),
        }
    }
}

/// All parts that run in threads.
pub(super) struct Components {
    pub(super) workers: Vec<WorkerPart>,
    pub(super) control: ControlPart,
    pub(super) report: Option<ReportPart>,
}

/// Binds every address for which the process has no sockets, and builds all parts.
pub(super) fn prepare(
    config: Config,
    workers: usize,
    mut seat: StartOptions,
) -> Result<(Running, Components), StartError> {
    let metrics = Arc::new(Metrics::new()?);
    metrics.worker_restarts.inc_by(seat.restarts);
    metrics.events.begin(wall_clock());
    let buffers = memory_limit::buffers(&config, workers);
    let mut sockets = HeldSockets::default();
    let mut listeners = Vec::new();
    for wanted in &config.server.listen {
        let takes_over = config.node.as_ref().is_some_and(|node| node.take_over && node.listen.contains(wanted));
        let bound = dns(*wanted, workers, buffers, &mut seat, takes_over);
        let what = if takes_over { "UDP and TCP, shared by SO_REUSEPORT" } else { "UDP and TCP" };
        let bound = bound.map_err(|error| StartError::Listen { address: *wanted, what, error })?;
        let address = ListenAddress { wanted: *wanted, bound: bound.address };
        keep(&mut sockets, &bound.udp, &Label::Udp(address))?;
        keep(&mut sockets, &bound.tcp, &Label::Tcp(address))?;
        listeners.push(bound);
    }
    let mut http = |wanted: SocketAddr, what, label: fn(ListenAddress) -> Label| {
        let listener = page(wanted, &mut seat, label);
        let listener = listener.map_err(|error| StartError::Listen { address: wanted, what, error })?;
        let bound = listener.local_addr().unwrap_or(wanted);
        keep(&mut sockets, std::slice::from_ref(&listener), &label(ListenAddress { wanted, bound }))?;
        Ok::<_, StartError>((bound, listener))
    };
    let admin = config.admin.listen.iter().map(|address| http(*address, "admin", Label::Admin));
    let admin = admin.collect::<Result<Vec<_>, _>>()?;
    let metrics_only = config.admin.metrics_listen.iter().map(|address| http(*address, "metrics", Label::Admin));
    let metrics_only = metrics_only.collect::<Result<Vec<_>, _>>()?;
    let report = config.report.iter().map(|address| http(*address, "report", Label::Report));
    let report = report.collect::<Result<Vec<_>, _>>()?;

    let snapshot = Snapshot::new(config, &metrics, None);
    let cache = seat.cache.take().unwrap_or_else(|| Cache::new(snapshot.config.cache.memory));
    let resolver = Arc::new(Resolver::with_cache(snapshot, metrics, cache, seat.epoch));
    resolver.follow_query_log(&resolver.snapshot.load().config);
    let (phase, phases) = watch::channel(seat.phase);
    let (leaves_node, node_left) = watch::channel(seat.leaves_node);
    let (adopt, adopted): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(MOST_ADOPTED)).unzip();
    let (turning, readers) = (Arc::<AtomicUsize>::default(), Readers::default());
    let listen = listeners.iter().map(|listeners| listeners.address).collect();
    let (report_addresses, report): (Vec<_>, Vec<_>) = report.into_iter().unzip();
    let (admin_addresses, admin): (Vec<_>, Vec<_>) = admin.into_iter().unzip();
    let (metrics_addresses, metrics_only): (Vec<_>, Vec<_>) = metrics_only.into_iter().unzip();
    let now = resolver.now();
    let heartbeats = Arc::new(Heartbeats::new(workers, now));
    let watched = listeners.iter().map(|listeners| listeners.tcp.len()).sum();
    let descriptors = descriptors::shares(&resolver.snapshot.load().config, workers, watched);
    let running = Running {
        listen,
        admin: admin_addresses,
        metrics_only: metrics_addresses,
        report: report_addresses,
        host: ServerHandle {
            resolver: Arc::clone(&resolver),
            phase: Arc::new(phase),
            leaves_node: Arc::new(leaves_node),
            readers: readers.clone(),
            sockets,
            adopt,
        },
        descriptors: Arc::clone(&descriptors),
        heartbeats: Arc::clone(&heartbeats),
        turning: Arc::clone(&turning),
        failed: watch::channel(None),
        workers: Vec::new(),
        others: Vec::new(),
        retired: Default::default(),
    };
    let connections = Arc::new(Connections::within(Arc::clone(&descriptors)));
    let mut shares = deal(listeners, workers).into_iter();
    let part = |(number, adopted)| {
        let (udp, tcp) = shares.next().unwrap_or_default();
        WorkerPart {
            number,
            udp,
            tcp,
            resolver: Arc::clone(&resolver),
            connections: Arc::clone(&connections),
            descriptors: Arc::clone(&descriptors),
            heartbeats: Arc::clone(&heartbeats),
            turning: Arc::clone(&turning),
            phase: phases.clone(),
            connection_sink: Arc::clone(&seat.connection_sink),
            readers: readers.clone(),
            adopted,
        }
    };
    let workers = adopted.into_iter().enumerate().map(part).collect();
    let report = (!report.is_empty()).then(|| ReportPart {
        report: ReportPages::new(Arc::clone(&resolver), descriptors.reports()),
        listeners: report.into_iter().map(Arc::new).collect(),
        phase: phases.clone(),
    });
    let admin = ControlPages {
        admin: Admin::new(Arc::clone(&resolver), Arc::clone(&heartbeats), descriptors.pages()),
        all: admin.into_iter().map(Arc::new).collect(),
        metrics_only: metrics_only.into_iter().map(Arc::new).collect(),
    };
    let control = ControlPart {
        resolver,
        descriptors,
        pages: admin,
        phase: phases,
        node: seat.node,
        leaves_node: node_left,
        heartbeats,
    };
    Ok((running, Components { workers, control, report }))
}

/// Returns the listeners of one address: inherited ones, and new ones for workers without. `takes_over` allows another program there.
fn dns(
    wanted: SocketAddr,
    workers: usize,
    buffers: SocketBuffers,
    seat: &mut StartOptions,
    takes_over: bool,
) -> io::Result<Listeners> {
    let (inherited, shares) = (seat.sockets.take_dns(wanted), seat.beside || takes_over);
    if inherited.is_none() && !shares {
        return socket::bind(wanted, workers, buffers);
    }
    let (address, udp, tcp) = inherited.unwrap_or((wanted, Vec::new(), Vec::new()));
    let listeners = socket::complete(Listeners { address, udp, tcp }, workers, buffers)?;
    if takes_over {
        sharing::take_over(&listeners);
    }
    Ok(listeners)
}

/// Returns the listener of an HTTP address: an inherited one, or a new one.
fn page(wanted: SocketAddr, seat: &mut StartOptions, label: fn(ListenAddress) -> Label) -> io::Result<TcpListener> {
    let is = |other: &Label| match other {
        Label::Admin(address) | Label::Report(address) => address.wanted == wanted && *other == label(*address),
        _ => false,
    };
    match seat.sockets.take_listener(is) {
        Some(listener) => Ok(listener.into()),
        None => socket::http(wanted, seat.beside),
    }
}

/// Adds duplicates of these sockets to `sockets`.
fn keep<S: TryClone>(sockets: &mut HeldSockets, all: &[S], label: &Label) -> Result<(), StartError> {
    for socket in all {
        sockets.put(label.clone(), socket.another().map_err(StartError::Thread)?);
    }
    Ok(())
}

/// Socket that can be duplicated.
trait TryClone {
    fn another(&self) -> io::Result<OwnedFd>;
}

impl TryClone for UdpSocket {
    fn another(&self) -> io::Result<OwnedFd> {
        self.try_clone().map(Into::into)
    }
}

impl TryClone for TcpListener {
    fn another(&self) -> io::Result<OwnedFd> {
        self.try_clone().map(Into::into)
    }
}

/// Distributes the sockets: each worker gets one of each kind of each address, or more if there are more than workers.
fn deal(listeners: Vec<Listeners>, workers: usize) -> Vec<(Vec<UdpSocket>, Vec<TcpListener>)> {
    let mut shares: Vec<(Vec<UdpSocket>, Vec<TcpListener>)> = (0..workers).map(|_| Default::default()).collect();
    for listeners in listeners {
        for (number, socket) in listeners.udp.into_iter().enumerate() {
            shares[number % workers].0.push(socket);
        }
        for (number, listener) in listeners.tcp.into_iter().enumerate() {
            shares[number % workers].1.push(listener);
        }
    }
    shares
}
