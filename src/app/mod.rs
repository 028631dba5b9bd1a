//! The whole: builds every part from a [`Config`], starts it, swaps the configuration on reload, drains on stop.
//!
//! ```text
//! main thread ──► start ──► worker 0 ─┐   each: a single-threaded runtime, its own sockets on every address, its own
//!    │                      worker 1 ─┤         upstream sockets; shared: cache, health, counters, the snapshot
//!    │                      ...      ─┘
//!    │                      control ───── admin pages, probes, loop checks, upstreams' names, who the clients are, what is
//!    │                                    asked for them ahead
//!    │                      report ────── what each client may see of itself, where that is wanted
//!    ├──► reload ── a new snapshot, one pointer swap; a thread of its own frees the old one
//!    ├──► rest ──── another process has the same sockets and serves: read nothing, finish what there is, wait
//!    └──► stop ──── stop reading, answer what is in flight, at most 5 s
//! ```

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::admission::descriptors::Descriptors;
use crate::answer::Resolver;
use crate::config::Config;
use crate::handover::sockets::Sockets;
use crate::metrics::events::Kind;
use crate::server::readers::Readers;
use crate::server::{Moved, Phase};
use crate::snapshot::Snapshot;
use crate::upstream::standing::wall_clock;

mod control;
pub mod descriptors;
pub mod place;
mod retired;
mod room;
mod start;
mod worker;

pub use start::Seat;

use retired::Retired;
use start::prepare;
use worker::WorkerPart;

/// How often it is looked whether every worker turns.
const TURNS_CHECK: Duration = Duration::from_millis(1);

/// A nodens that serves.
pub struct Running {
    listen: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    report: Vec<SocketAddr>,
    host: Host,
    descriptors: Arc<Descriptors>,
    /// How many workers have begun to turn.
    turning: Arc<AtomicUsize>,
    failed: (watch::Sender<Option<&'static str>>, watch::Receiver<Option<&'static str>>),
    workers: Vec<JoinHandle<usize>>,
    others: Vec<JoinHandle<()>>,
    /// One reload after the other: each snapshot follows the one before it.
    retired: Mutex<Retired>,
}

/// What another process is told of, and what it tells: for those who give the sockets away.
#[derive(Clone)]
pub struct Host {
    /// What workers share.
    pub resolver: Arc<Resolver>,
    /// What the server is about.
    phase: Arc<watch::Sender<Phase>>,
    /// Who reads queries.
    readers: Readers,
    /// Every socket that it listens on.
    pub sockets: Sockets,
    /// To each worker: connections of another process.
    adopt: Vec<mpsc::Sender<Moved>>,
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

/// Sees how a thread ends.
struct Watch {
    what: &'static str,
    failed: watch::Sender<Option<&'static str>>,
    phase: Arc<watch::Sender<Phase>>,
    well: bool,
}

impl Watch {
    /// The thread is about to end, as it should or not.
    fn ended(mut self, well: bool) {
        self.well = well && *self.phase.borrow() == Phase::Stopping;
    }
}

impl Drop for Watch {
    /// A panic leads here too.
    fn drop(&mut self) {
        if !self.well {
            self.failed.send_replace(Some(self.what));
        }
    }
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
    start_in(config, Seat::default())
}

/// The same with what the process has been given.
///
/// # Errors
/// As for [`start`].
pub fn start_in(config: Config, seat: Seat) -> Result<Running, StartError> {
    let workers = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let (mut running, parts) = prepare(config, workers, seat)?;
    for part in parts.workers {
        let (name, watch) = (format!("nodens-{}", part.number), running.watch("a worker"));
        let handle = thread(name, move || {
            let left = block_on_local(part.run());
            watch.ended(left.as_ref().is_some_and(Result::is_ok));
            left.and_then(Result::ok).unwrap_or(0)
        });
        running.workers.push(handle.map_err(StartError::Thread)?);
    }
    let watch = running.watch("the control thread");
    let control = thread("nodens-control".into(), move || watch.ended(block_on_local(parts.control.run()).is_some()));
    running.others.push(control.map_err(StartError::Thread)?);
    if let Some(report) = parts.report {
        let watch = running.watch("the report's thread");
        // Whatever clients do there, upstreams are probed in time.
        let report = thread("nodens-report".into(), move || watch.ended(block_on_local(report.run()).is_some()));
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
    let (running, parts) = prepare(config, 1, Seat::default())?;
    tokio::task::spawn_local(parts.control.run());
    parts.report.map(|report| tokio::task::spawn_local(report.run()));
    let parts = parts.workers.into_iter().map(WorkerPart::run);
    let worker = tokio::task::spawn_local(async move {
        let mut left = 0;
        for part in parts {
            left += part.await.unwrap_or(0);
        }
        left
    });
    Ok((running, worker))
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
        &self.host.resolver
    }

    /// Puts a new configuration in force and logs that: see [`Self::put_in_force`].
    pub fn reload(&self, config: Config) -> Vec<&'static str> {
        let needs_restart = self.put_in_force(config);
        self.tell_reloaded(&needs_restart);
        needs_restart
    }

    /// Puts a new configuration in force with one swap; the cache stays where view and route are unchanged. Returns the
    /// keys that changed but that only a start reads. [`Self::tell_reloaded`] is to follow.
    ///
    /// All that decides an answer is in the snapshot: a query sees either configuration, whole. It is built and the old one
    /// is freed without the workers.
    pub fn put_in_force(&self, config: Config) -> Vec<&'static str> {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let resolver = &self.host.resolver;
        let old = resolver.snapshot.load_full();
        let needs_restart = old.needs_restart(&config);
        descriptors::share_out(&self.descriptors, &config);
        let new = Arc::new(Snapshot::new(config, &resolver.metrics, Some(&old)));
        retired.expect();
        // Before the swap: a worker that sees the new configuration looks for the log that it wants.
        resolver.query_log.follow(resolver, &new.config);
        // On before it and off behind it: the keeper of their file asks the snapshot whether they are learned.
        let learns = new.config.warm_up.enabled;
        learns.then(|| resolver.jobs.habits(|habits| habits.learn(true)));
        resolver.snapshot.store(Arc::clone(&new));
        (!learns).then(|| resolver.jobs.habits(|habits| habits.learn(false)));
        // No answer depends on this.
        resolver.jobs.set_max_projects(new.config.metrics.max_projects);
        let kept: HashSet<_> = servers(&new).into_iter().collect();
        for (upstream, server) in servers(&old).into_iter().filter(|server| !kept.contains(server)) {
            resolver.metrics.forget_server(&upstream, &server);
        }
        retired.free(old);
        drop(retired);
        needs_restart
    }

    /// Counts and logs that a new configuration is in force, all but these keys.
    pub fn tell_reloaded(&self, needs_restart: &[&str]) {
        self.host.resolver.metrics.reloads.with_label_values(&["taken"]).inc();
        match needs_restart {
            [] => self.tell(Kind::ReloadTaken, ""),
            keys => self.tell(Kind::ReloadNeedsRestart, &keys.join(", ")),
        }
    }

    /// A configuration could not be read, for this reason: nothing changes, but it is counted and told.
    pub fn reload_rejected(&self, reason: &str) {
        self.host.resolver.metrics.reloads.with_label_values(&["rejected"]).inc();
        self.tell(Kind::ReloadRejected, reason);
    }

    /// Tells of something that happened to the server as a whole.
    pub fn tell(&self, kind: Kind, reason: &str) {
        self.host.resolver.metrics.events.tell(wall_clock(), kind, (None, None), reason);
    }

    /// For those who give the sockets away.
    pub fn host(&self) -> Host {
        self.host.clone()
    }

    /// Waits until every worker turns, at most for so long; whether they do.
    pub fn turns(&self, patience: Duration) -> bool {
        let deadline = std::time::Instant::now() + patience;
        while self.turning.load(Ordering::Acquire) < self.workers.len() {
            if std::time::Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(TURNS_CHECK);
        }
        true
    }

    /// Resolves when a part of it has failed, with what that is: the process had better begin anew.
    pub async fn failed(&self) -> &'static str {
        let mut failed = self.failed.1.clone();
        match failed.wait_for(Option::is_some).await.map(|what| *what) {
            Ok(Some(what)) => what,
            // It is gone as a whole.
            _ => std::future::pending().await,
        }
    }

    fn watch(&self, what: &'static str) -> Watch {
        Watch { what, failed: self.failed.0.clone(), phase: Arc::clone(&self.host.phase), well: false }
    }

    /// Stops reading, answers what is in flight, at most for [`crate::server::GRACE`]. Returns how many queries were
    /// left without an answer.
    pub fn stop(mut self) -> usize {
        self.halt()
    }

    fn halt(&mut self) -> usize {
        self.host.turn_to(Phase::Stopping);
        let left = self.workers.drain(..).map(|worker| worker.join().unwrap_or(0)).sum();
        for other in self.others.drain(..) {
            let _ = other.join();
        }
        let Resolver { jobs, clients, query_log, snapshot, .. } = &*self.host.resolver;
        jobs.settle(clients, &snapshot.load().clients, self.host.resolver.now());
        query_log.close();
        left
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Every server with the name of its group.
fn servers(snapshot: &Snapshot) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for group in &snapshot.groups {
        let name = &group.config.name;
        all.extend(group.servers.load().iter().map(|server| (name.clone(), server.address.to_string())));
    }
    all
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
