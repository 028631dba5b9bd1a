//! HTTP pages for operators and monitoring. `/` lists the pages; `api` makes some of the JSON documents. [`report`] serves
//! the pages on which each client sees its own queries.

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use crate::admission::connections::Caps;
use crate::answer::Resolver;
use crate::heartbeat::{Heartbeats, STUCK_AFTER};
use crate::wire::text::plain;
use crate::wire::text::plain_json;

mod api;
mod clients;
mod connections;
mod jobs;
pub(crate) mod report;
pub(crate) mod text;

use connections::{ConnectionGate, Pages};

/// Time limit for a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Lifetime of a connection; scrapers keep connections open between scrapes.
const LONGEST_CONNECTION: Duration = Duration::from_secs(600);
/// Media type of the JSON pages.
const JSON: &str = "application/json";

/// Path of a job's page, without the id.
const JOB: &str = "/api/v1/jobs/";

/// Path and description of each page.
const PAGES: [(&str, &str); 9] = [
    ("/", "this list"),
    ("/metrics", "metrics in Prometheus's text format"),
    ("/healthz", "200 if every worker is responsive"),
    ("/readyz", "200 if every route has a live upstream; ?verbose lists the others"),
    ("/api/v1/upstreams", "JSON: every upstream server: state, its reason, latencies, counts"),
    ("/api/v1/events", "JSON: the last 256 events, newest last; ?after=ID: later ones"),
    ("/api/v1/clients", "JSON: ?address=IP: identity of the client, its source and age"),
    ("/api/v1/jobs", "JSON: queries of each job, and how many failed"),
    ("/api/v1/jobs/ID", "JSON: queries of one job and causes of failures; ID: a job's number, a pod's name or UID"),
];

/// Pages of a listener for metrics only.
const METRICS_PAGES: [&str; 3] = ["/metrics", "/healthz", "/readyz"];
/// Connection limit of one address.
const MOST_PER_ADDRESS: usize = 16;

/// Admin pages and the state that they show.
pub(crate) struct Admin {
    resolver: Arc<Resolver>,
    heartbeats: Arc<Heartbeats>,
    door: ConnectionGate,
}

/// The pages of one listener.
struct ListenerPages {
    admin: Arc<Admin>,
    /// Restricts the listener to [`METRICS_PAGES`].
    metrics_only: bool,
}

impl Admin {
    /// Creates the pages from the state and the heartbeats of the workers, with a limit on connections.
    pub(crate) fn new(resolver: Arc<Resolver>, heartbeats: Arc<Heartbeats>, connections: usize) -> Arc<Self> {
        let caps = Caps { total: connections, per_client: MOST_PER_ADDRESS };
        Arc::new(Self {
            resolver,
            heartbeats,
            door: ConnectionGate::new(caps, HEADER_TIMEOUT, LONGEST_CONNECTION, true),
        })
    }

    /// Serves all pages until its task is dropped.
    ///
    /// # Errors
    /// The listener cannot be registered with the runtime.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) -> std::io::Result<()> {
        self.show(listener, false).await
    }

    /// Serves metrics and health only, until its task is dropped.
    ///
    /// # Errors
    /// The listener cannot be registered with the runtime.
    pub(crate) async fn serve_metrics(self: Arc<Self>, listener: TcpListener) -> std::io::Result<()> {
        self.show(listener, true).await
    }

    async fn show(self: Arc<Self>, listener: TcpListener, metrics_only: bool) -> std::io::Result<()> {
        let pages = Arc::new(ListenerPages { admin: Arc::clone(&self), metrics_only });
        self.door.serve(&pages, listener).await
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let job = path.strip_prefix(JOB);
        if job.is_none() && !PAGES.iter().any(|(known, _)| *known == path) {
            return page(StatusCode::NOT_FOUND, format!("not found; there is:\n\n{}", pages()));
        }
        if let Some(refusal) = unless_it_shows(request.method()) {
            return refusal;
        }
        let mut parameters = request.uri().query().unwrap_or_default().split('&');
        match path {
            "/metrics" => {
                self.refresh_gauges();
                page_of("text/plain; version=0.0.4; charset=utf-8", self.resolver.metrics.render())
            }
            "/healthz" => self.health(),
            "/readyz" => self.readiness(parameters.any(|parameter| parameter == "verbose")),
            "/api/v1/upstreams" => {
                let Resolver { snapshot, metrics, .. } = &*self.resolver;
                json_page(api::upstreams(&snapshot.load(), metrics, Instant::now()))
            }
            "/api/v1/events" => {
                let after = parameters.find_map(|parameter| parameter.strip_prefix("after=")).unwrap_or("0");
                match after.parse() {
                    Ok(after) => json_page(api::events(&self.resolver.metrics.events, after)),
                    Err(_) => page(StatusCode::BAD_REQUEST, "after= takes the id of an event, a whole number\n"),
                }
            }
            "/api/v1/clients" => match clients::identify(&self.resolver, parameters) {
                Ok(json) => json_page(json),
                Err(wrong) => page(StatusCode::BAD_REQUEST, wrong),
            },
            "/api/v1/jobs" => json_page(jobs::list(&self.resolver)),
            _ => match job.map(|id| jobs::one(&self.resolver, id)) {
                Some(Some(json)) => json_page(json),
                Some(None) => {
                    page(StatusCode::NOT_FOUND, "no such job: ID is a job's number, or a pod's name or UID\n")
                }
                None => page(StatusCode::OK, format!("nodens {}\n\n{}", env!("CARGO_PKG_VERSION"), pages())),
            },
        }
    }

    /// Reports whether every worker is responsive.
    fn health(&self) -> Response<Full<Bytes>> {
        match self.heartbeats.late(self.resolver.now(), STUCK_AFTER) {
            None => page(StatusCode::OK, "ok\n"),
            Some(worker) => page(StatusCode::SERVICE_UNAVAILABLE, format!("worker {worker} is not responsive\n")),
        }
    }

    /// Reports whether every route has a live upstream. The DNS listeners are open before this page is served.
    fn readiness(&self, verbose: bool) -> Response<Full<Bytes>> {
        let snapshot = self.resolver.snapshot.load();
        let (mut ready, mut lines) = (true, String::new());
        for route in &snapshot.config.routes {
            let Some(group) = snapshot.groups.get(route.to) else { continue };
            let alive = group.is_promising();
            ready &= alive;
            let word = if alive { "ok" } else { "no live upstream" };
            lines.push_str(&format!("{word}: route {} to {}\n", route.label, group.config.name));
            for server in group.servers.load().iter().filter(|_| verbose) {
                lines.push_str(&format!("    {} {}\n", server.address, server.server_status().state.words()));
            }
            group.unresolved().iter().filter(|_| verbose).for_each(|name| {
                lines.push_str(&format!("    {} cannot be resolved\n", plain(name)));
            });
        }
        let waiting = &snapshot.config.needs_restart;
        if verbose && !waiting.is_empty() {
            lines.push_str(&format!(
                "note: these keys of the configuration wait for a restart: {}\n",
                waiting.join(", ")
            ));
        }
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        match (verbose, ready) {
            (true, _) => page(status, lines),
            (false, true) => page(status, "ok\n"),
            (false, false) => page(status, "not ready: see /readyz?verbose\n"),
        }
    }

    /// Updates the gauges that are computed only when they are read.
    fn refresh_gauges(&self) {
        let (fill, metrics) = (self.resolver.cache.fill(), &self.resolver.metrics);
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.process.refresh();
        metrics.config.needs_restart.set(gauge(self.resolver.snapshot.load().config.needs_restart.len()));
        metrics.log.refresh();
        metrics.capacity.pending_queries.set(gauge(self.resolver.limits.governor.pending.count()));
        metrics.capacity.pending_prefetches.set(gauge(self.resolver.limits.governor.pending.prefetches()));
        metrics.capacity.buffered_bytes.set(gauge(self.resolver.limits.governor.buffered.held()));
        metrics.watch.refresh(self.resolver.now());
        metrics.cache.entries.set(i64::try_from(fill.entries).unwrap_or(i64::MAX));
        metrics.cache.bytes.set(i64::try_from(fill.bytes).unwrap_or(i64::MAX));
        metrics.cache.evictions.inc_by(fill.evictions.saturating_sub(metrics.cache.evictions.get()));
    }
}

impl Pages for ListenerPages {
    fn resolver(&self) -> &Resolver {
        &self.admin.resolver
    }

    fn admits(&self, visitor: IpAddr) -> bool {
        self.resolver().snapshot.load().may_watch.admits(visitor)
    }

    fn respond(&self, request: &Request<Incoming>, _: IpAddr) -> Response<Full<Bytes>> {
        if self.metrics_only && !METRICS_PAGES.contains(&request.uri().path()) {
            return page(StatusCode::NOT_FOUND, format!("not found; there is:\n\n{}\n", METRICS_PAGES.join("\n")));
        }
        self.admin.respond(request)
    }

    fn turn_away(&self, visitor: IpAddr) -> Response<Full<Bytes>> {
        page(StatusCode::FORBIDDEN, format!("{visitor} may not look here: it is not in admin.allow\n"))
    }
}

/// Refuses every method but GET and HEAD.
fn unless_it_shows(method: &Method) -> Option<Response<Full<Bytes>>> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    let text = "only GET and HEAD are allowed here: these pages show, they change nothing\n";
    let mut response = page(StatusCode::METHOD_NOT_ALLOWED, text);
    // RFC 9110 section 15.5.6 requires it.
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    Some(response)
}

/// Returns a line for each page.
fn pages() -> String {
    PAGES.iter().map(|(path, what)| format!("{path:<20}{what}\n")).collect()
}

/// Returns a response with a JSON document.
fn json_page(json: String) -> Response<Full<Bytes>> {
    page_of(JSON, plain_json(json))
}

fn page_of(kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = page(StatusCode::OK, text);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn page(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
