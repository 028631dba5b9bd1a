//! The control thread beside the workers, and the report to clients about themselves.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::admin::report::ReportPages;
use crate::admission::descriptors::Descriptors;
use crate::answer::{LOOP_CHECK, Resolver};
use crate::clients::watch::Observed;
use crate::clients::{self, Client};
use crate::clock::Millis;
use crate::heartbeat::{HEARTBEAT, Heartbeats};
use crate::metrics::events::EventKind;
use crate::node::{self, NodeNetwork, PacketCounts, Repaired, Successor};
use crate::server::Phase;
use crate::snapshot::Snapshot;
use crate::task::{self, boxed_local};
use crate::upstream::connections::UpstreamConnections;
use crate::upstream::server_status::wall_clock;
use crate::upstream::{bootstrap, probe};
use crate::warm_up;
use crate::warm_up::file::HistoryFile;
use crate::wire::name::{Name, OWN_ZONE};

/// Interval between reads of the firewall's counters.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Age of a worker's heartbeat, in milliseconds, from which the worker does not serve: two heartbeats and some delay.
const LATE: Millis = 600;
/// Interval between checks for statistics that workers have flushed.
const SETTLE_EVERY: Duration = Duration::from_millis(50);

/// The parts of the control thread.
pub(super) struct ControlPart {
    pub(super) resolver: Arc<Resolver>,
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) pages: ControlPages,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) node: Option<Arc<NodeNetwork>>,
    pub(super) leaves_node: watch::Receiver<bool>,
    pub(super) heartbeats: Arc<Heartbeats>,
}

/// The admin pages and their listeners.
pub(super) struct ControlPages {
    pub(super) admin: Arc<Admin>,
    pub(super) all: Vec<Arc<TcpListener>>,
    pub(super) metrics_only: Vec<Arc<TcpListener>>,
}

impl ControlPart {
    /// Runs until the server stops. In standby the other process does this work.
    pub(super) async fn run(mut self) {
        let mut settling = JoinSet::new();
        settling.spawn_local(boxed_local(merge_counts(Arc::clone(&self.resolver))));
        while serves(&mut self.phase).await {
            self.run_maintenance().await;
        }
    }

    /// Runs until the server is no longer serving.
    async fn run_maintenance(&mut self) {
        let mut tasks = JoinSet::new();
        let ControlPages { admin, all, metrics_only } = &self.pages;
        for listener in all {
            let admin = Arc::clone(admin);
            tasks.spawn_local(boxed_local(pages(Arc::clone(listener), move |listener| {
                Arc::clone(&admin).serve(listener)
            })));
        }
        for listener in metrics_only {
            let admin = Arc::clone(admin);
            tasks.spawn_local(boxed_local(pages(Arc::clone(listener), move |listener| {
                Arc::clone(&admin).serve_metrics(listener)
            })));
        }
        let links = Rc::new(UpstreamConnections::new(Arc::clone(&self.descriptors)));
        let mut keeper = HistoryFile::open(&self.resolver);
        tasks.spawn_local(boxed_local(warm_up::run(Arc::clone(&self.resolver), Rc::clone(&links))));
        let mut renewal = None;
        if let Some(node) = &self.node {
            let (resolver, heartbeats) = (Arc::clone(&self.resolver), Arc::clone(&self.heartbeats));
            let is_responsive = move || heartbeats.late(resolver.now(), LATE).is_none();
            renewal = node.renewal(is_responsive.clone());
            let (node, resolver) = (Arc::clone(node), Arc::clone(&self.resolver));
            tasks.spawn_local(boxed_local(tend_node(node, resolver, self.leaves_node.clone(), is_responsive)));
        }
        tasks.spawn_local(boxed_local(know_clients(Arc::clone(&self.resolver))));
        tasks.spawn_local(boxed_local(remove_startup_taint(Arc::clone(&self.resolver), Arc::clone(&self.heartbeats))));
        tasks.spawn_local(boxed_local(tidy(Arc::clone(&self.resolver), Rc::clone(&links))));
        tasks.spawn_local(boxed_local(run_maintenance(Arc::clone(&self.resolver), links)));
        let keep = async {
            match &mut keeper {
                Some(keeper) => keeper.keep().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over(&mut self.phase) => {}
            () = keep => {}
        }
        // In standby the other process renews. Without one, the fallback answers new queries while those in flight end here.
        let successor = if *self.phase.borrow() == Phase::Resting { Successor::Exists } else { Successor::None };
        if let Some(renewal) = renewal {
            renewal.stop(successor);
        }
        drop(tasks);
        // The query history that the keeper writes includes the statistics up to now.
        let snapshot = self.resolver.snapshot.load();
        self.resolver.accounts.jobs.merge_counts(&self.resolver.clients, &snapshot.clients, self.resolver.now());
        if let Some(keeper) = keeper {
            keeper.close();
        }
    }
}

/// Waits while the server is in standby; returns whether the server serves then.
async fn serves(phase: &mut watch::Receiver<Phase>) -> bool {
    phase.wait_for(|phase| *phase != Phase::Resting).await.is_ok_and(|phase| *phase == Phase::Serving)
}

/// Waits until the server is no longer serving.
async fn over(phase: &mut watch::Receiver<Phase>) {
    // An error means that the whole server is gone.
    let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
}

/// Serves pages on a copy of a listener, as soon as the listener can be copied and watched.
async fn pages<F: Future<Output = io::Result<()>>>(listener: Arc<TcpListener>, serve: impl Fn(TcpListener) -> F) {
    loop {
        if let Ok(copy) = listener.try_clone() {
            // Returns only if the copy cannot be watched.
            let _ = serve(copy).await;
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// The report to clients about themselves.
pub(super) struct ReportPart {
    pub(super) report: Arc<ReportPages>,
    pub(super) listeners: Vec<Arc<TcpListener>>,
    pub(super) phase: watch::Receiver<Phase>,
}

impl ReportPart {
    /// Serves the report until the server stops, except in standby.
    pub(super) async fn run(mut self) {
        while serves(&mut self.phase).await {
            let mut tasks = JoinSet::new();
            for listener in &self.listeners {
                let report = Arc::clone(&self.report);
                tasks.spawn_local(boxed_local(pages(Arc::clone(listener), move |listener| {
                    Arc::clone(&report).serve(listener)
                })));
            }
            over(&mut self.phase).await;
        }
    }
}

/// Settles the statistics of one worker at a time, because probes are due in between. Runs in standby too, where the last
/// deferred responses are counted.
async fn merge_counts(resolver: Arc<Resolver>) {
    loop {
        resolver.accounts.jobs.follow(&resolver.snapshot.load());
        while resolver.accounts.jobs.merge_next(&resolver.clients) {
            tokio::task::yield_now().await;
        }
        resolver.accounts.jobs.run_maintenance(&resolver.tables(&resolver.snapshot.load()), resolver.now());
        tokio::time::sleep(SETTLE_EVERY).await;
    }
}

/// Watches the pods, if that is configured and possible.
async fn know_clients(resolver: Arc<Resolver>) {
    let settings = resolver.snapshot.load().config.kubernetes.clone();
    match clients::watch::node(&settings, |name| std::env::var(name).ok()) {
        Ok(Some(node)) => {
            let (clients, metrics) = (Arc::clone(&resolver.clients), Arc::clone(&resolver.metrics));
            let epoch = resolver.epoch;
            let on_start =
                Box::new(move |client: &Arc<Client>, hosts: &[Name]| warm_up::expect(&resolver, client, hosts));
            clients::watch::keep_current(Observed { clients, epoch, metrics, on_start }, node, settings).await;
        }
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "pod watch disabled"),
    }
}

/// Removes the startup taint from the node once all workers run, if the node is known.
async fn remove_startup_taint(resolver: Arc<Resolver>, heartbeats: Arc<Heartbeats>) {
    let settings = resolver.snapshot.load().config.kubernetes.clone();
    let Ok(Some(node)) = clients::watch::node(&settings, |name| std::env::var(name).ok()) else { return };
    loop {
        // After this time only workers that have run are not late.
        tokio::time::sleep(Duration::from_millis(LATE + 1)).await;
        if heartbeats.late(resolver.now(), LATE).is_none() {
            return clients::startup_taint::remove(&settings, &node).await;
        }
    }
}

/// Repairs the node's addresses and firewall, except while `leaves_node`, and reads the firewall's counters.
async fn tend_node(
    node: Arc<NodeNetwork>,
    resolver: Arc<Resolver>,
    leaves_node: watch::Receiver<bool>,
    is_responsive: impl Fn() -> bool,
) {
    let metrics = &resolver.metrics;
    let maintenance = node.run_maintenance(leaves_node.clone(), is_responsive, |repaired| {
        let (kind, reason) = match repaired {
            Ok(Repaired { addresses, firewall, .. }) => {
                metrics.node.repairs.with_label_values(&["address"]).inc_by(addresses.len() as u64);
                metrics.node.repairs.with_label_values(&["firewall"]).inc_by(firewall.into());
                let mut what: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                what.extend(firewall.then(|| "the table of nftables".to_owned()));
                (EventKind::NodeRepaired, what.join(", "))
            }
            Err(error) => (EventKind::NodeRepairFailed, error.to_string()),
        };
        metrics.events.record(wall_clock(), kind, (None, None), reason);
    });
    let count = async {
        let mut last = PacketCounts::default();
        loop {
            let now = node::counts();
            for (kind, now, last) in
                [("queries", now.queries, last.queries), ("responses", now.responses, last.responses)]
            {
                // The kernel's counters restart at 0 when the table is rewritten.
                let new = now.checked_sub(last).unwrap_or(now);
                metrics.node.untracked.with_label_values(&[kind]).inc_by(new);
            }
            let fallback = now.fallback.checked_sub(last.fallback).unwrap_or(now.fallback);
            last = now;
            if fallback > 0 {
                metrics.node.fallback.inc_by(fallback);
                let reason = format!("{fallback} packets");
                metrics.events.record(wall_clock(), EventKind::FallbackUsed, (None, None), reason);
                // The next process counts from here. If the kernel refuses, the repair below reports it.
                if !*leaves_node.borrow() && node.reset_counts().is_ok() {
                    last = PacketCounts::default();
                }
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
    };
    tokio::join!(maintenance, count, node.remove_leftovers(leaves_node.clone()));
}

/// Closes sockets to upstreams that are no longer needed, and reports local faults that have ended.
async fn tidy(resolver: Arc<Resolver>, links: Rc<UpstreamConnections>) {
    loop {
        {
            let snapshot = resolver.snapshot.load();
            links.tidy(&snapshot.groups, |server| snapshot.has_server(server), Instant::now());
        }
        resolver.metrics.faults.check(wall_clock());
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// Probes servers that are down, checks new servers for loops, and refreshes the addresses of servers given by name.
async fn run_maintenance(resolver: Arc<Resolver>, links: Rc<UpstreamConnections>) {
    let mut checked: Vec<usize> = Vec::new();
    let mut generation = None;
    let mut named = Vec::new();
    loop {
        let snapshot = resolver.snapshot.load_full();
        if generation.replace(snapshot.generation) != Some(snapshot.generation) {
            checked.clear();
            named.drain(..).for_each(|task: tokio::task::JoinHandle<()>| task.abort());
            for group in &snapshot.groups {
                let (group, snapshot, resolver) = (Arc::clone(group), Arc::clone(&snapshot), Arc::clone(&resolver));
                named.push(task::spawn_local(async move {
                    let name = group.config.name.clone();
                    if let Err(error) =
                        bootstrap::keep_current(group, &snapshot.config.bootstrap, &resolver.metrics).await
                    {
                        tracing::error!(upstream = %name, %error, "cannot use the bootstrap servers");
                    }
                }));
            }
        }
        let mut seen = Vec::new();
        let now = Instant::now();
        for (index, group) in snapshot.groups.iter().enumerate() {
            for server in group.servers.load().iter() {
                let id = Arc::as_ptr(server) as usize;
                seen.push(id);
                let new = !checked.contains(&id);
                let mut probe_due = server.probe_due(now, group.in_use(now));
                if probe_due && !group.try_acquire(now) {
                    // `max_qps` is used up: the probe counts as not sent.
                    server.was_not_probed();
                    probe_due = false;
                }
                if new {
                    server.clear_loop("it is about to be checked for a loop again");
                }
                // A silent server may have been silent at its last loop check too.
                if new || (probe_due && server.is_silent()) || server.loop_check_due(now) {
                    probe::check_loop(&links, server, loop_zone(&snapshot, index));
                }
                if server.case_check_due(now) && group.try_acquire(now) {
                    probe::check_case(&links, server, LOOP_CHECK);
                }
                if let Some(question) = server.lower_case_check()
                    && group.try_acquire(now)
                {
                    probe::check_lower_case(&links, server, question);
                }
                if server.edns_check_due(now) && group.try_acquire(now) {
                    probe::check_edns(&links, server, &probe_zone(&snapshot, index), group.known_question());
                }
                if probe_due {
                    probe::probe(&links, server, &probe_zone(&snapshot, index), group.known_question());
                }
            }
        }
        checked = seen;
        tokio::time::sleep(probe::TICK).await;
    }
}

/// Returns the zones of the routes that lead to a group.
fn zones(snapshot: &Snapshot, group: usize) -> impl Iterator<Item = &Name> {
    snapshot.config.routes.iter().filter(move |route| route.to == group).flat_map(|route| &route.zones)
}

/// Returns the zone whose SOA record is queried to probe a group.
fn probe_zone(snapshot: &Snapshot, group: usize) -> Name {
    zones(snapshot, group).next().cloned().unwrap_or_else(Name::root)
}

/// Returns the zone, in wire form, of the loop check's names for a group: one of the group's zones, because its servers may
/// send names outside these back to nodens. For a group with the root zone or without zones it is `OWN_ZONE`, which no
/// other server has.
fn loop_zone(snapshot: &Snapshot, group: usize) -> &[u8] {
    match zones(snapshot, group).next() {
        Some(zone) if !zones(snapshot, group).any(Name::is_root) => zone.as_wire(),
        _ => OWN_ZONE,
    }
}
