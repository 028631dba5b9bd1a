//! Connections to the HTTP pages, limited in number, lifetime and time to write.
//!
//! No visitor can lock out the others. Connections are limited per address and in total. At the limit of an address, its
//! longest idle connection makes room for a new one; at the total limit, a connection of the address with the most does. A
//! connection whose reader has stalled counts as idle. Written data waits [`WRITE_TIMEOUT`] at most for the reader.

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
use crate::task::boxed;
use crate::upstream::LocalFault;
use crate::upstream::server_status::wall_clock;

/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);
/// Longest time that written data waits for the reader.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Size limit of a request's head, in bytes.
const LONGEST_HEAD: usize = 8 << 10;
/// Lifetime of a connection from an address that is not allowed.
const STRANGERS_STAY: Duration = Duration::from_secs(5);

/// Pages and the addresses that may read them.
pub(super) trait Pages: Send + Sync + 'static {
    /// Returns the state that the pages show.
    fn resolver(&self) -> &Resolver;

    /// Returns whether `visitor` may read the pages.
    fn admits(&self, visitor: IpAddr) -> bool;

    /// Returns the response to a request of `visitor`.
    fn respond(&self, request: &Request<Incoming>, visitor: IpAddr) -> Response<Full<Bytes>>;

    /// Returns the response to a visitor that is not allowed.
    fn turn_away(&self, visitor: IpAddr) -> Response<Full<Bytes>>;
}

/// Connection limits of a set of pages.
pub(super) struct ConnectionGate {
    visitors: Arc<Connections>,
    caps: Caps,
    /// Time limit for a request's head.
    head: Duration,
    /// Lifetime of a connection.
    stay: Duration,
    /// Keep-alive: a connection may carry more than one request.
    keeps: bool,
}

impl ConnectionGate {
    /// Creates limits for connections that live for `stay` at most. With `keeps`, a connection may carry more than one
    /// request. The head of each request may take `head`.
    pub(super) fn new(caps: Caps, head: Duration, stay: Duration, keeps: bool) -> Self {
        Self { visitors: Arc::default(), caps, head, stay, keeps }
    }

    /// Serves `pages` on `listener` until its task is dropped.
    ///
    /// # Errors
    /// The listener cannot be registered with the runtime.
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

    /// Serves a connection in a task of its own, once it is admitted.
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
                // The connection counts as idle from now on, even while the visitor reads the response.
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
            // Errors of a connection concern its visitor only.
            tokio::select! {
                _ = timeout(stay, connection) => {}
                () = place.given_away() => {}
            }
        };
        tokio::spawn(boxed(serve));
    }
}
