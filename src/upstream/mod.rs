//! Asking others: one question to a group of servers, one reply back before the deadline.
//!
//! ```text
//! answer ── ask(group, question, deadline) ──► links ── sends what the race decides, waits for what comes back
//!                                               ├── race ── whom first, whom next, when, who won (pure)
//!                                               ├── group, server, health, minute ── what all workers know (pure)
//!                                               ├── budget, quota ── what hedges may cost, what may be asked at all (pure)
//!                                               ├──► udp ── random port (source_ports), id and letter case; strangers are ignored
//!                                               └──► tcp ── pipelined, one connection reused
//!                                                     └── encrypted ── TLS around it
//! probe ── asks servers that take no clients' queries whether they are back
//! names ── the addresses of servers that are given by name
//! question, transport, failure ── what is asked, over which way, what can go wrong
//! local ── faults of this machine, for which no server is to blame
//! evidence, capability ── what a server answers, and what it may be sent (pure)
//! standing ── how a server stands, since when and why, for those who watch
//! ```

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use tokio::time::Instant;

pub mod budget;
pub mod capability;
pub mod encrypted;
pub mod evidence;
pub mod failure;
pub mod group;
pub mod health;
pub mod latency_window;
pub mod links;
pub mod local;
pub mod message;
pub mod names;
pub mod probe;
pub mod question;
pub mod race;
pub mod race_events;
pub mod rate_limiter;
mod send_context;
pub mod server;
pub mod server_status;
pub mod sockets;
mod source_ports;
pub mod tcp;
pub mod transport;
pub mod udp;

pub use failure::{Failure, FailureKind, TlsFault};
pub use group::Group;
pub use local::LocalFault;
pub use question::Question;
pub use server::Server;
pub use transport::Transport;

/// A reply that ends the search: NOERROR (with data or without) or NXDOMAIN, its id and question checked, not truncated.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The message as it arrived. The question's letter case may be random.
    pub wire: Vec<u8>,
    /// Which server gave it.
    pub server: SocketAddr,
    /// Over which transport.
    pub transport: Transport,
}

/// What comes after the deadline, if anything does.
pub type Late = Pin<Box<dyn Future<Output = Result<Answer, Failure>>>>;

/// Nobody gave an answer by the deadline.
pub struct Unanswered {
    /// What was tried.
    pub failure: Failure,
    /// Some attempt is still open, and its reply may come late.
    pub late: Option<Late>,
}

impl From<Failure> for Unanswered {
    /// Nothing may come any more.
    fn from(failure: Failure) -> Self {
        Self { failure, late: None }
    }
}

/// The one thing that the answer path needs of upstreams.
pub trait Ask {
    /// Asks a group for a `client`, if it is not for nodens itself, and returns by `deadline` at the latest.
    ///
    /// # Errors
    /// [`Unanswered`] tells what was tried. Asking again at once makes no sense: all servers have had their tries.
    fn ask(
        &self,
        group: &Group,
        question: &Question,
        client: Option<IpAddr>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Answer, Unanswered>>;
}
