//! Handle of a running nodens: its addresses, reload, stop.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::descriptors;
use super::retired::Retired;
use super::server_handle::ServerHandle;
use super::thread::ThreadGuard;
use crate::admission::descriptors::Descriptors;
use crate::answer::Resolver;
use crate::config::Config;
use crate::heartbeat::{Heartbeats, STUCK_AFTER};
use crate::metrics::events::EventKind;
use crate::server::Phase;
use crate::snapshot::Snapshot;
use crate::upstream::server_status::wall_clock;

/// Memory of a configuration, in bytes, from which on a reload waits until those before it are freed.
const LARGE: usize = 4 << 20;
/// Interval between checks that every worker is running.
const TURNS_CHECK: Duration = Duration::from_millis(1);

/// A running nodens: its workers, its control thread and its sockets.
pub struct Running {
    pub(super) listen: Vec<SocketAddr>,
    pub(super) admin: Vec<SocketAddr>,
    pub(super) metrics_only: Vec<SocketAddr>,
    pub(super) report: Vec<SocketAddr>,
    pub(super) host: ServerHandle,
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) heartbeats: Arc<Heartbeats>,
    /// Number of workers that have started.
    pub(super) turning: Arc<AtomicUsize>,
    pub(super) failed: (watch::Sender<Option<&'static str>>, watch::Receiver<Option<&'static str>>),
    pub(super) workers: Vec<JoinHandle<usize>>,
    pub(super) others: Vec<JoinHandle<()>>,
    /// Locked for the whole reload: each snapshot is built from the one before it.
    pub(super) retired: Mutex<Retired>,
}

impl Running {
    /// Returns the addresses that serve DNS, in the order of the file, with the ports that were bound.
    pub fn listen_addresses(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// Returns the addresses of the admin pages.
    pub fn admin_addresses(&self) -> &[SocketAddr] {
        &self.admin
    }

    /// Returns the addresses that serve metrics and health only.
    pub fn metrics_addresses(&self) -> &[SocketAddr] {
        &self.metrics_only
    }

    /// Returns the addresses of the report to clients about themselves, in the order of the file.
    pub fn report_addresses(&self) -> &[SocketAddr] {
        &self.report
    }

    /// Returns the number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Returns a function that returns whether every worker is responsive.
    pub(crate) fn responsiveness(&self) -> impl Fn() -> bool + Send + 'static {
        let (resolver, heartbeats) = (Arc::clone(&self.host.resolver), Arc::clone(&self.heartbeats));
        move || heartbeats.late(resolver.now(), STUCK_AFTER).is_none()
    }

    /// Returns the state shared by the workers; for tests and tools.
    pub fn resolver(&self) -> &Arc<Resolver> {
        &self.host.resolver
    }

    /// Waits until the configurations before the one in force are freed, if that is large; for a limited time. A reload that
    /// begins then needs memory for two configurations.
    pub(crate) fn wait_for_memory(&self) {
        if self.host.resolver.snapshot.load().config.footprint() >= LARGE {
            self.retired.lock().unwrap_or_else(PoisonError::into_inner).wait();
        }
    }

    /// Puts a new configuration in force and logs that: see [`Self::apply_config`].
    pub fn reload(&self, config: Config) -> Vec<&'static str> {
        let needs_restart = self.apply_config(config);
        self.tell_reloaded(&needs_restart);
        needs_restart
    }

    /// Puts a new configuration in force with one swap; the cache is kept where view and route are unchanged. Keys that only a
    /// start reads keep their values; returns the names of those that differ in the new configuration. The caller must then
    /// call [`Self::tell_reloaded`].
    ///
    /// Everything that decides an answer is in the snapshot: a query sees one whole configuration, the old or the new one. No
    /// worker takes part in building the snapshot or in freeing the old one.
    pub fn apply_config(&self, mut config: Config) -> Vec<&'static str> {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let resolver = &self.host.resolver;
        let old = resolver.snapshot.load_full();
        let needs_restart = config.keep_start_only(&old.config);
        descriptors::share_out(&self.descriptors, &config);
        let new = Arc::new(Snapshot::new(config, &resolver.metrics, Some(&old)));
        retired.expect();
        // Before the swap: a worker that sees the new configuration opens a sampler of the log that it names.
        resolver.follow_query_log(&new.config);
        // Enabled before the swap and disabled after it: the history file's keeper reads the setting from the snapshot.
        let learns = new.config.warm_up.enabled;
        learns.then(|| resolver.accounts.jobs.query_history(|query_history| query_history.learn(true)));
        resolver.snapshot.store(Arc::clone(&new));
        (!learns).then(|| resolver.accounts.jobs.query_history(|query_history| query_history.learn(false)));
        // No answer depends on this.
        resolver.accounts.jobs.set_max_projects(new.config.metrics.max_projects);
        let kept: HashSet<_> = servers(&new).into_iter().collect();
        for (upstream, server) in servers(&old).into_iter().filter(|server| !kept.contains(server)) {
            resolver.metrics.forget_server(&upstream, &server);
        }
        retired.free(old);
        drop(retired);
        needs_restart
    }

    /// Counts and logs that a new configuration is in force, except for the keys `needs_restart`.
    pub fn tell_reloaded(&self, needs_restart: &[&str]) {
        self.host.resolver.metrics.config.reloaded(true);
        match needs_restart {
            [] => self.record_event(EventKind::ReloadApplied, ""),
            keys => self.record_event(EventKind::ReloadNeedsRestart, &keys.join(", ")),
        }
    }

    /// Counts and logs that a configuration was rejected; the one in force stays.
    pub fn reload_rejected(&self, reason: &str) {
        self.host.resolver.metrics.config.reloaded(false);
        self.record_event(EventKind::ReloadRejected, reason);
    }

    /// Records an event that concerns the whole server.
    pub fn record_event(&self, kind: EventKind, reason: &str) {
        self.host.resolver.metrics.events.record(wall_clock(), kind, (None, None), reason);
    }

    /// Returns the handle for the handover server.
    pub fn host(&self) -> ServerHandle {
        self.host.clone()
    }

    /// Waits until every worker is running, at most for `patience`; returns whether they are.
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

    /// Resolves when a part has failed, with the name of the part; the process should then be restarted.
    pub async fn failed(&self) -> &'static str {
        let mut failed = self.failed.1.clone();
        match failed.wait_for(Option::is_some).await.map(|what| *what) {
            Ok(Some(what)) => what,
            // The whole server is gone.
            _ => std::future::pending().await,
        }
    }

    /// Returns a guard that notices how the thread named `what` ends.
    pub(super) fn watch(&self, what: &'static str) -> ThreadGuard {
        ThreadGuard { what, failed: self.failed.0.clone(), phase: Arc::clone(&self.host.phase), well: false }
    }

    /// Stops reading and answers queries in flight, at most for [`crate::server::GRACE`]. Returns how many queries were left
    /// without a response.
    pub fn stop(mut self) -> usize {
        self.halt()
    }

    fn halt(&mut self) -> usize {
        self.host.turn_to(Phase::Stopping);
        let left = self.workers.drain(..).map(|worker| worker.join().unwrap_or(0)).sum();
        for other in self.others.drain(..) {
            let _ = other.join();
        }
        let Resolver { accounts, clients, snapshot, .. } = &*self.host.resolver;
        accounts.jobs.merge_counts(clients, &snapshot.load().clients, self.host.resolver.now());
        accounts.query_log.close();
        left
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Returns every server with the name of its group.
fn servers(snapshot: &Snapshot) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for group in &snapshot.groups {
        let name = &group.config.name;
        all.extend(group.servers.load().iter().map(|server| (name.clone(), server.address.to_string())));
    }
    all
}
