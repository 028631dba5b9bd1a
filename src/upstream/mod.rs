//! Queries to upstreams: one question to a group of servers, one response by the deadline.
//!
//! ```text
//! answer ── ask(group, question, deadline) ──► connections ── sends the attempts of the race, waits for responses
//!                                               ├── race ── order, time and number of attempts; the winner (pure)
//!                                               ├── group, server, health, latency_window ── state that all workers share
//!                                               ├── budget, rate_limiter ── limits of hedges and of queries (pure)
//!                                               ├──► udp ── random port (source_ports), id and letter case
//!                                               └──► tcp ── pipelined, one connection reused
//!                                                     └── tls ── TLS on the connection
//! probe ── checks servers that take no clients' queries, forwarding loops, EDNS and letter case
//! bootstrap ── addresses of servers that are configured by name
//! question, transport, failure ── the question, the transport, possible failures
//! local_fault ── faults of this machine, which do not count against a server
//! evidence, capability ── responses of a server so far, and the features that it supports (pure)
//! server_status ── state of a server for the reports, with time and reason
//! sender ── interface of the transports
//! race_events, sockets ── outcomes of attempts, open sockets of a thread
//! ```

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use tokio::time::Instant;

pub mod bootstrap;
pub mod budget;
pub(crate) mod capability;
pub(crate) mod connections;
pub(crate) mod evidence;
pub(crate) mod failure;
pub(crate) mod group;
pub mod health;
pub(crate) mod latency_window;
pub(crate) mod local_fault;
pub(crate) mod message;
pub mod probe;
pub(crate) mod question;
pub mod race;
pub(crate) mod race_events;
pub mod rate_limiter;
mod sender;
pub mod server;
pub(crate) mod server_status;
pub(crate) mod sockets;
mod source_ports;
pub(crate) mod tcp;
pub(crate) mod tls;
pub(crate) mod transport;
pub(crate) mod udp;

pub use failure::{Failure, FailureKind, TlsFault};
pub use group::Group;
pub use local_fault::LocalFault;
pub use question::Question;
pub use server::Server;
pub use transport::Transport;

/// Response that ends the race: NOERROR (with data or without) or NXDOMAIN, its id and question checked, not truncated.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Message as received. The letter case of the question may be random.
    pub wire: Vec<u8>,
    /// Server that sent it.
    pub server: SocketAddr,
    /// Transport that it arrived over.
    pub transport: Transport,
}

/// Result of the attempts that are still in flight at the deadline.
pub type LateAnswer = Pin<Box<dyn Future<Output = Result<Answer, Failure>>>>;

/// No answer by the deadline.
pub struct Unanswered {
    pub(crate) failure: Failure,
    /// Result of the attempts that are still in flight, if there are any.
    pub late: Option<LateAnswer>,
}

impl From<Failure> for Unanswered {
    /// Makes a failure with no attempt in flight.
    fn from(failure: Failure) -> Self {
        Self { failure, late: None }
    }
}

/// Interface of the upstreams to the answer path.
pub trait Ask {
    /// Queries a group and returns by `deadline` at the latest. `client` is `None` for nodens's own queries.
    ///
    /// # Errors
    /// [`Unanswered`] lists the attempts. An immediate second call is of no use: all servers have had their attempts.
    fn ask(
        &self,
        group: &Group,
        question: &Question,
        client: Option<IpAddr>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Answer, Unanswered>>;
}
