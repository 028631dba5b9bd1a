//! Connections to pages over HTTP: how many there may be, of whom, and for how long.
//!
//! No visitor can keep the others out. Each address has so many connections at most; over that, and over the bound for all,
//! the one that has been idle for longest makes room, and one whose reader has stalled is idle. What is written waits
//! [`WRITE_TIMEOUT`] at most to be read.

use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1::Builder;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

use crate::admission::connections::{Admitted, Caps, Connections};
use crate::answer::Resolver;
use crate::upstream::LocalFault;
use crate::upstream::server_status::wall_clock;

/// The pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);
/// How long what is written may wait to be read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const LONGEST_HEAD: usize = 8 << 10;
/// How long a connection of one that may not look may live.
const STRANGERS_STAY: Duration = Duration::from_secs(5);

/// Pages, and who may look at them.
pub(super) trait Pages: Send + Sync + 'static {
    /// What they are made from.
    fn resolver(&self) -> &Resolver;

    /// Whether this address may look at them.
    fn admits(&self, visitor: IpAddr) -> bool;

    /// The response to a request of that address.
    fn respond(&self, request: &Request<Incoming>, visitor: IpAddr) -> Response<Full<Bytes>>;

    /// The response to one that may not look.
    fn turn_away(&self, visitor: IpAddr) -> Response<Full<Bytes>>;
}

/// The bounds of connections.
pub(super) struct Door {
    visitors: Arc<Connections>,
    caps: Caps,
    /// How long a request's head may take.
    head: Duration,
    /// How long a connection may live.
    stay: Duration,
    /// Whether a connection may bring more than one request.
    keeps: bool,
}

impl Door {
    /// One for connections that live for `stay` at most; `keeps`: whether they may bring more than one request, each of
    /// whose heads may take `head`.
    pub(super) fn new(caps: Caps, head: Duration, stay: Duration, keeps: bool) -> Self {
        Self { visitors: Arc::default(), caps, head, stay, keeps }
    }

    /// Answers requests until its task is dropped.
    ///
    /// # Errors
    /// The listener cannot be watched.
    pub(super) async fn serve<P: Pages>(&self, pages: &Arc<P>, listener: TcpListener) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.admit(pages, stream, peer.ip().to_canonical()),
                Err(error) => {
                    if let Some(fault) = LocalFault::of(&error) {
                        pages.resolver().metrics.faults.count(fault.index(), wall_clock());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves a connection in a task of its own, as soon as there is a place for it.
    fn admit<P: Pages>(&self, pages: &Arc<P>, stream: TcpStream, visitor: IpAddr) {
        let (pages, now) = (Arc::clone(pages), pages.resolver().now());
        let may_look = pages.admits(visitor);
        let (admitted, stay) = match may_look {
            true => (self.visitors.admit(visitor, self.caps, now), self.stay),
            false => (self.visitors.admit_stranger(visitor, now), STRANGERS_STAY),
        };
        let (head, keeps) = (self.head.min(stay), self.keeps && may_look);
        let serve = async move {
            let place = match admitted {
                Admitted::Now(place) => place,
                Admitted::Later(waiting) => match waiting.place(|| pages.resolver().now()).await {
                    Some(place) => place,
                    None => return,
                },
                Admitted::Never => return,
            };
            let service = hyper::service::service_fn(|request| {
                let response = match may_look {
                    true => pages.respond(&request, visitor),
                    false => pages.turn_away(visitor),
                };
                // From now on it is the visitor's turn.
                place.note_idle(Some(pages.resolver().now()));
                async move { Ok::<_, Infallible>(response) }
            });
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(WRITE_TIMEOUT));
            let connection = Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(head)
                .keep_alive(keeps)
                .max_buf_size(LONGEST_HEAD)
                .serve_connection(TokioIo::new(Box::pin(stream)), service);
            // A visitor that goes away is its own affair.
            tokio::select! {
                _ = timeout(stay, connection) => {}
                () = place.given_away() => {}
            }
        };
        tokio::spawn(serve);
    }
}
