//! The whole: builds every part from a [`Config`], starts it, swaps the configuration on reload, drains on stop.
//!
//! ```text
//! main thread ──► start ──► worker 0 ─┐   each: a single-threaded runtime, its own sockets on every address, its own
//!    │                      worker 1 ─┤         upstream sockets; shared: cache, health, counters, the snapshot
//!    │                      ...      ─┘
//!    │                      control ───── admin pages, probes, loop checks, upstreams' names, who the clients are, what is
//!    │                                    asked for them ahead
//!    │                      report ────── what each client may see of itself, where that is wanted
//!    ├──► reload ── a new snapshot, one pointer swap
//!    └──► stop ──── stop reading, answer what is in flight, at most 5 s
//! ```

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::admin::HEARTBEAT;
use crate::admin::report::Report;
use crate::admission::connections::Connections;
use crate::answer::Resolver;
use crate::clients::Fixed;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::metrics::events::Kind;
use crate::server::mmsg::Batch;
use crate::server::socket::{self, Listeners};
use crate::server::{Worker, tcp, udp};
use crate::snapshot::Snapshot;
use crate::upstream::links::Links;
use crate::upstream::standing::wall_clock;

mod control;

use control::{ControlPart, ReportPart};

/// A nodens that serves.
pub struct Running {
    resolver: Arc<Resolver>,
    listen: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    report: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<usize>>,
    others: Vec<JoinHandle<()>>,
}

/// Why nodens could not start. Trying again makes sense only after the cause is gone.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({what}): {}", reason(*.address, .error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What it is for.
        what: &'static str,
        /// The kernel's word.
        error: io::Error,
    },
    /// The system gives no thread or no event queue.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The metrics cannot be registered.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Binds every address and serves. Returns once all of them take queries.
///
/// # Errors
/// An address is in use, not of this host or not permitted; or the system is out of threads.
pub fn start(config: Config) -> Result<Running, StartError> {
    let workers = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let (mut running, parts) = prepare(config, workers)?;
    for part in parts.workers {
        let name = format!("nodens-{}", part.number);
        let handle = thread(name, || block_on_local(part.run()).unwrap_or(0)).map_err(StartError::Thread)?;
        running.workers.push(handle);
    }
    let control = thread("nodens-control".into(), || {
        block_on_local(parts.control.run());
    });
    running.others.push(control.map_err(StartError::Thread)?);
    if let Some(report) = parts.report {
        // Whatever clients do there, upstreams are probed in time.
        let report = thread("nodens-report".into(), || {
            block_on_local(report.run());
        });
        running.others.push(report.map_err(StartError::Thread)?);
    }
    Ok(running)
}

/// The same with one worker, in tasks of the caller's own `LocalSet`: the clock is then the caller's too, so that a test
/// can pause it. [`Running::stop`] only tells the tasks to stop; the handle gives the count of queries left.
///
/// # Errors
/// As for [`start`].
pub fn start_here(config: Config) -> Result<(Running, tokio::task::JoinHandle<usize>), StartError> {
    let (running, parts) = prepare(config, 1)?;
    tokio::task::spawn_local(parts.control.run());
    parts.report.map(|report| tokio::task::spawn_local(report.run()));
    let parts = parts.workers.into_iter().map(WorkerPart::run);
    let worker = tokio::task::spawn_local(async move {
        let mut left = 0;
        for part in parts {
            left += part.await;
        }
        left
    });
    Ok((running, worker))
}

/// All that runs.
struct Parts {
    workers: Vec<WorkerPart>,
    control: ControlPart,
    report: Option<ReportPart>,
}

/// Binds every address and builds all parts, none of them running yet.
fn prepare(config: Config, workers: usize) -> Result<(Running, Parts), StartError> {
    let metrics = Arc::new(Metrics::new()?);
    let listen_on = |what| move |address: SocketAddr, error| StartError::Listen { address, what, error };
    let mut listeners = Vec::new();
    for address in &config.server.listen {
        let bound = socket::bind(*address, workers).map_err(|error| listen_on("UDP and TCP")(*address, error))?;
        listeners.push(bound);
    }
    let admin = match config.admin {
        Some(address) => Some(admin_listener(address).map_err(|error| listen_on("admin")(address, error))?),
        None => None,
    };
    let report = |address: &SocketAddr| socket::http(*address).map_err(|error| listen_on("report")(*address, error));
    let report = config.report.iter().map(report).collect::<Result<Vec<_>, _>>()?;
    let admin_address = admin.as_ref().and_then(|listener| listener.local_addr().ok());

    let resolver = Arc::new(Resolver::new(Snapshot::new(config, &metrics, None), metrics));
    resolver.query_log.follow(&resolver, &resolver.snapshot.load().config);
    let (stop, stopping) = watch::channel(false);
    let running = Running {
        listen: listeners.iter().map(|listeners| listeners.address).collect(),
        admin: admin_address,
        report: report.iter().filter_map(|listener| listener.local_addr().ok()).collect(),
        resolver: Arc::clone(&resolver),
        stop,
        workers: Vec::new(),
        others: Vec::new(),
    };
    let now = resolver.now();
    let heartbeats: Arc<Vec<AtomicU64>> = Arc::new((0..workers).map(|_| AtomicU64::new(now)).collect());
    let connections = Arc::<Connections>::default();
    let part = |number| WorkerPart {
        number,
        sockets: take_one_of_each(&mut listeners),
        resolver: Arc::clone(&resolver),
        connections: Arc::clone(&connections),
        heartbeats: Arc::clone(&heartbeats),
        stop: stopping.clone(),
    };
    let workers = (0..workers).map(part).collect();
    let report = (!report.is_empty()).then(|| ReportPart {
        report: Report::new(Arc::clone(&resolver)),
        listeners: report,
        stop: stopping.clone(),
    });
    Ok((running, Parts { workers, control: ControlPart { resolver, heartbeats, admin, stop: stopping }, report }))
}

impl Running {
    /// Where it listens, in the order of the file, with the true ports.
    pub fn listen_addresses(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// Where the admin pages are, if anywhere.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Where each client may look at what is known of itself, in the order of the file.
    pub fn report_addresses(&self) -> &[SocketAddr] {
        &self.report
    }

    /// How many workers serve.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// What workers share; for tests and tools that look inside.
    pub fn resolver(&self) -> &Arc<Resolver> {
        &self.resolver
    }

    /// Puts a new configuration in force with one swap; the cache stays where view and route are unchanged. Returns the
    /// keys that changed but that only a start reads.
    pub fn reload(&self, config: Config) -> Vec<&'static str> {
        let old = self.resolver.snapshot.load_full();
        let needs_restart = old.needs_restart(&config);
        let new = Arc::new(Snapshot::new(config, &self.resolver.metrics, Some(&old)));
        self.resolver.clients.put_fixed(Fixed::new(&new.config.clients));
        self.resolver.jobs.habits(|habits| habits.learn(new.config.warm_up.enabled));
        self.resolver.jobs.set_max_projects(new.config.metrics.max_projects);
        self.resolver.query_log.follow(&self.resolver, &new.config);
        self.resolver.snapshot.store(Arc::clone(&new));
        let servers = |snapshot: &Snapshot| -> Vec<(String, String)> {
            let of = |group: &Arc<crate::upstream::Group>| {
                let name = group.config.name.clone();
                group.servers.load().iter().map(move |server| (name.clone(), server.address.to_string())).collect()
            };
            snapshot.groups.iter().flat_map(|group| -> Vec<_> { of(group) }).collect()
        };
        let kept = servers(&new);
        for (upstream, server) in servers(&old).into_iter().filter(|server| !kept.contains(server)) {
            self.resolver.metrics.forget_server(&upstream, &server);
        }
        self.resolver.metrics.reloads.with_label_values(&["taken"]).inc();
        match needs_restart.as_slice() {
            [] => self.tell(Kind::ReloadTaken, ""),
            keys => self.tell(Kind::ReloadNeedsRestart, &keys.join(", ")),
        }
        needs_restart
    }

    /// A configuration could not be read, for this reason: nothing changes, but it is counted and told.
    pub fn reload_rejected(&self, reason: &str) {
        self.resolver.metrics.reloads.with_label_values(&["rejected"]).inc();
        self.tell(Kind::ReloadRejected, reason);
    }

    fn tell(&self, kind: Kind, reason: &str) {
        self.resolver.metrics.events.tell(wall_clock(), kind, (None, None), reason);
    }

    /// Stops reading, answers what is in flight, at most for [`crate::server::GRACE`]. Returns how many queries were
    /// left without an answer.
    pub fn stop(mut self) -> usize {
        self.halt()
    }

    fn halt(&mut self) -> usize {
        let _ = self.stop.send(true);
        let left = self.workers.drain(..).map(|worker| worker.join().unwrap_or(0)).sum();
        for other in self.others.drain(..) {
            let _ = other.join();
        }
        self.resolver.query_log.close();
        left
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.halt();
    }
}

/// One worker's share of everything.
struct WorkerPart {
    number: usize,
    sockets: Vec<(std::net::UdpSocket, TcpListener)>,
    resolver: Arc<Resolver>,
    connections: Arc<Connections>,
    heartbeats: Arc<Vec<AtomicU64>>,
    stop: watch::Receiver<bool>,
}

impl WorkerPart {
    /// Serves until the stop; returns how many queries were left.
    async fn run(self) -> usize {
        let links = Rc::new(Links::new());
        let worker = Worker::new(Arc::clone(&self.resolver), Rc::clone(&links), self.stop);
        let batch = Rc::new(RefCell::new(Batch::new()));
        let mut tasks = Vec::new();
        for (datagrams, connections) in self.sockets {
            let udp = udp::serve(Rc::clone(&worker), datagrams, Rc::clone(&batch));
            let tcp = tcp::serve(Rc::clone(&worker), connections, Arc::clone(&self.connections));
            tasks.push(tokio::task::spawn_local(udp));
            tasks.push(tokio::task::spawn_local(tcp));
        }
        let beat = tokio::task::spawn_local(beat(Rc::clone(&worker), links, self.heartbeats, self.number));
        for task in tasks {
            if let Ok(Err(error)) = task.await {
                tracing::error!(%error, worker = self.number, "a listener failed");
            }
        }
        let left = worker.drain().await;
        beat.abort();
        left
    }
}

/// Shows that the worker turns, hands over what it noted of clients, and closes sockets to servers that are configured no
/// more.
async fn beat(worker: Rc<Worker<Links>>, links: Rc<Links>, heartbeats: Arc<Vec<AtomicU64>>, number: usize) {
    let resolver = Arc::clone(&worker.resolver);
    let mut generation = 0;
    loop {
        if let Some(heartbeat) = heartbeats.get(number) {
            heartbeat.store(resolver.now(), Ordering::Relaxed);
        }
        let snapshot = resolver.snapshot.load_full();
        worker.follow(&snapshot);
        worker.settle(Instant::now());
        if std::mem::replace(&mut generation, snapshot.generation) != snapshot.generation {
            links.keep_only(&snapshot.groups);
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// A UDP socket and a TCP listener of each address.
fn take_one_of_each(listeners: &mut [Listeners]) -> Vec<(std::net::UdpSocket, TcpListener)> {
    listeners.iter_mut().filter_map(|listeners| Some((listeners.udp.pop()?, listeners.tcp.pop()?))).collect()
}

fn admin_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn thread<R: Send + 'static>(name: String, run: impl FnOnce() -> R + Send + 'static) -> io::Result<JoinHandle<R>> {
    std::thread::Builder::new().name(name).spawn(run)
}

/// Runs a future on a runtime of this thread alone; none, with a line in the log, if the system gives no event queue.
fn block_on_local<R>(future: impl Future<Output = R>) -> Option<R> {
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let result = LocalSet::new().block_on(&runtime, future);
            // Name look-ups of a library may still run in threads of their own.
            runtime.shutdown_timeout(Duration::from_millis(100));
            Some(result)
        }
        Err(error) => {
            tracing::error!(%error, "cannot start a worker's runtime");
            None
        }
    }
}

/// The kernel's word, and what to do.
fn reason(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("the port is in use: `ss -lunpt sport = :{}` says by whom", address.port()),
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE".to_string()
        }
        io::ErrorKind::AddrNotAvailable => "this host does not have that address".to_string(),
        _ => error.to_string(),
    }
}
