//! JSON documents of the admin pages. `docs/reference/api.md` documents each field.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::config::{Select, ServerAddress};
use crate::metrics::Metrics;
use crate::metrics::events::{Event, RecentEvents, rfc3339};
use crate::snapshot::Snapshot;
use crate::upstream::server_status::ServerState;
use crate::upstream::{Group, Server};

#[derive(Debug, Serialize)]
struct Upstreams<'a> {
    upstreams: Vec<UpstreamReport<'a>>,
}

#[derive(Debug, Serialize)]
struct UpstreamReport<'a> {
    name: &'a str,
    select: &'static str,
    deadline_seconds: f64,
    max_qps: Option<u32>,
    queries_last_second: Option<u32>,
    shed_total: Option<u64>,
    /// Labels of the routes that lead to the upstream.
    routes: Vec<&'a str>,
    /// Servers that are configured by name, as `HOST:PORT`.
    names: Vec<String>,
    /// Names that cannot be resolved, with the error.
    unresolved: Vec<String>,
    servers: Vec<ServerView>,
}

/// One address of an upstream.
#[derive(Debug, Serialize)]
struct ServerView {
    address: SocketAddr,
    transport: &'static str,
    tls_name: Option<String>,
    state: ServerState,
    reason: String,
    since: String,
    age_seconds: f64,
    next_probe_seconds: Option<f64>,
    edns: bool,
    /// Time until EDNS is tried again, if the server was found not to support it.
    edns_off_seconds: Option<f64>,
    random_case: bool,
    random_case_off_seconds: Option<f64>,
    in_flight: i64,
    smoothed_latency_seconds: Option<f64>,
    last_minute: LastMinute,
    queries_total: BTreeMap<&'static str, u64>,
    responses_total: u64,
    failures_total: BTreeMap<&'static str, u64>,
    hedges_total: u64,
    hedges_won_total: u64,
    ejections_total: u64,
}

/// Responses of the last minute.
#[derive(Debug, Serialize)]
struct LastMinute {
    responses: u64,
    latency_p50_seconds: Option<f64>,
    latency_p95_seconds: Option<f64>,
    latency_p99_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct EventList<'a> {
    events: Vec<&'a Event>,
    complete: bool,
}

/// Returns every upstream, in the order of the configuration file, with the current state of its servers.
pub(super) fn upstreams(snapshot: &Snapshot, metrics: &Metrics, now: Instant) -> String {
    let groups = snapshot.groups.iter().enumerate();
    let groups = groups.map(|(index, group)| upstream(snapshot, index, group, metrics, now));
    json(&Upstreams { upstreams: groups.collect() })
}

/// Returns the events after the given id.
pub(super) fn events(events: &RecentEvents, after: u64) -> String {
    let (events, complete) = events.after(after);
    json(&EventList { events: events.iter().map(Arc::as_ref).collect(), complete })
}

fn upstream<'a>(
    snapshot: &'a Snapshot,
    index: usize,
    group: &'a Group,
    metrics: &Metrics,
    now: Instant,
) -> UpstreamReport<'a> {
    let config = &group.config;
    let name = |server: &ServerAddress| match server {
        ServerAddress::Named { host, port } => Some(format!("{}:{port}", host.to_string().trim_end_matches('.'))),
        ServerAddress::Plain(_) | ServerAddress::Tls { .. } => None,
    };
    let routes = snapshot.config.routes.iter().filter(|route| route.to == index);
    UpstreamReport {
        name: &config.name,
        select: match config.select {
            Select::Ordered => "ordered",
            Select::Fastest => "fastest",
            Select::Spread => "spread",
        },
        deadline_seconds: config.deadline.as_secs_f64(),
        max_qps: config.max_qps,
        queries_last_second: group.used(now),
        shed_total: config.max_qps.map(|_| metrics.shed(&config.name).get()),
        routes: routes.map(|route| route.label.as_str()).collect(),
        names: config.servers.iter().filter_map(name).collect(),
        unresolved: group.unresolved(),
        servers: group.servers.load().iter().map(|server| view(server, config.randomize_case, now)).collect(),
    }
}

fn view(server: &Server, randomize_case: bool, now: Instant) -> ServerView {
    let (metrics, server_status) = (&server.metrics, server.server_status());
    let (smoothed, latency_window) = server.latencies(now);
    let [edns_off, random_case_off] = server.retreats(now).map(|left| left.map(seconds));
    let next_probe = server.next_probe().map(|at| at.saturating_duration_since(now));
    ServerView {
        address: server.address,
        transport: server.transport().label(),
        tls_name: server.tls_host.clone(),
        state: server_status.state,
        reason: server_status.reason,
        since: rfc3339(server_status.since_unix),
        age_seconds: seconds(now.saturating_duration_since(server_status.since)),
        next_probe_seconds: next_probe.map(seconds),
        edns: server.takes_edns(now),
        edns_off_seconds: edns_off,
        random_case_off_seconds: random_case_off,
        // TLS already protects against spoofed responses, so the letter case is never random there.
        random_case: randomize_case && server.transport().is_datagram() && server.takes_random_case(now),
        in_flight: metrics.in_flight.get(),
        smoothed_latency_seconds: smoothed.map(seconds),
        last_minute: LastMinute {
            responses: latency_window.responses,
            latency_p50_seconds: latency_window.p50.map(seconds),
            latency_p95_seconds: latency_window.p95.map(seconds),
            latency_p99_seconds: latency_window.p99.map(seconds),
        },
        queries_total: metrics.queries().collect(),
        responses_total: metrics.duration.get_sample_count(),
        failures_total: metrics.failures().collect(),
        hedges_total: metrics.hedges.get(),
        hedges_won_total: metrics.hedges_won.get(),
        ejections_total: metrics.ejections.get(),
    }
}

/// Converts to seconds, truncated to the microsecond; the rest is noise.
fn seconds(duration: Duration) -> f64 {
    Duration::from_micros(duration.as_micros() as u64).as_secs_f64()
}

fn json(page: &impl Serialize) -> String {
    // Cannot fail: keys are strings and numbers are finite.
    let mut text = serde_json::to_string_pretty(page).unwrap_or_default();
    text.push('\n');
    text
}
