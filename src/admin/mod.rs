//! HTTP for people and machines that watch: `/metrics`, `/healthz`, `/readyz`.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use crate::answer::Resolver;
use crate::cache::Millis;

/// Requests served at once.
const MOST_CONNECTIONS: usize = 64;
/// How long a client may take to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may live: scrapers keep theirs open between scrapes.
const LONGEST_CONNECTION: Duration = Duration::from_secs(600);
/// How often each worker shows that it turns.
pub const HEARTBEAT: Duration = Duration::from_millis(250);
/// A worker that has not turned for so long is stuck.
const STUCK_AFTER: Millis = 5_000;

/// What the pages are made from.
pub struct Admin {
    /// What all workers share.
    pub resolver: Arc<Resolver>,
    /// When each worker last turned.
    pub heartbeats: Arc<Vec<AtomicU64>>,
}

impl Admin {
    /// Answers requests until its task is dropped.
    ///
    /// # Errors
    /// The listener cannot be watched.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(HEARTBEAT).await;
                continue;
            };
            let admin = Arc::clone(&self);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let response = admin.respond(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                // A client that goes away is its own affair.
                let _ = tokio::time::timeout(LONGEST_CONNECTION, connection).await;
                drop(place);
            });
        }
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = page(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed here\n");
            // RFC 9110 section 15.5.6 requires it.
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let verbose = request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "verbose"));
        match request.uri().path() {
            "/" => page(StatusCode::OK, "nodens: /metrics /healthz /readyz /readyz?verbose\n"),
            "/metrics" => {
                self.refresh_gauges();
                let mut response = page(StatusCode::OK, self.resolver.metrics.render());
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            "/healthz" => self.health(),
            "/readyz" => self.readiness(verbose),
            _ => page(StatusCode::NOT_FOUND, "not found: try /metrics /healthz /readyz\n"),
        }
    }

    /// Whether every worker turns.
    fn health(&self) -> Response<Full<Bytes>> {
        let now = self.resolver.now();
        let stuck = |beat: &AtomicU64| now.saturating_sub(beat.load(Ordering::Relaxed)) > STUCK_AFTER;
        match self.heartbeats.iter().position(stuck) {
            None => page(StatusCode::OK, "ok\n"),
            Some(worker) => page(StatusCode::SERVICE_UNAVAILABLE, format!("worker {worker} does not turn\n")),
        }
    }

    /// Whether every route has a live upstream. Listening it is, or this page would not be here.
    fn readiness(&self, verbose: bool) -> Response<Full<Bytes>> {
        let snapshot = self.resolver.snapshot.load();
        let (mut ready, mut lines) = (true, String::new());
        for (index, route) in (0..).zip(&snapshot.config.routes) {
            let Some(group) = snapshot.group(index) else { continue };
            let alive = group.is_alive();
            ready &= alive;
            let word = if alive { "ok" } else { "no live upstream" };
            lines.push_str(&format!("{word}: route {} to {}\n", route.label, group.config.name));
            for server in group.servers.load().iter().filter(|_| verbose) {
                let state = match (server.is_looped(), server.is_healthy()) {
                    (true, _) => "leads back to nodens",
                    (_, true) => "healthy",
                    (_, false) => "down",
                };
                lines.push_str(&format!("    {} {state}\n", server.address));
            }
        }
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        match (verbose, ready) {
            (true, _) => page(status, lines),
            (false, true) => page(status, "ok\n"),
            (false, false) => page(status, "not ready: see /readyz?verbose\n"),
        }
    }

    /// Gauges that nobody keeps while nobody looks.
    fn refresh_gauges(&self) {
        let (fill, metrics) = (self.resolver.cache.fill(), &self.resolver.metrics);
        metrics.cache_entries.set(i64::try_from(fill.entries).unwrap_or(i64::MAX));
        metrics.cache_bytes.set(i64::try_from(fill.bytes).unwrap_or(i64::MAX));
        metrics.cache_evictions.inc_by(fill.evictions.saturating_sub(metrics.cache_evictions.get()));
    }
}

fn page(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
