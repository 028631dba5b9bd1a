//! Asking others: one question to a group of servers, one reply back before the deadline.
//!
//! ```text
//! answer ── ask(group, question, deadline) ──► race ── whom first, whom next, when, who won
//!                                               │        (pure: time is an argument)
//!                                               ├──► udp ── random port, id and letter case; what does not match is ignored
//!                                               ├──► tcp ── pipelined, one connection reused
//!                                               └──► health ── latency, failures, ejection, probing
//! ```

use std::future::Future;
use std::net::SocketAddr;

use tokio::time::Instant;

use crate::wire::name::Name;

/// What is asked of an upstream. Two equal questions may share one answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, lower-case.
    pub name: Name,
    /// The type.
    pub qtype: u16,
    /// The class.
    pub qclass: u16,
    /// Recursion desired.
    pub rd: bool,
    /// Checking disabled (RFC 4035).
    pub cd: bool,
    /// DNSSEC OK (RFC 3225), sent in nodens's own OPT.
    pub dnssec_ok: bool,
    /// The header's reserved bit, passed through.
    pub z: bool,
}

/// A reply that ends the search: NOERROR (with data or without) or NXDOMAIN, its id and question checked, not truncated.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The message as it arrived. The question's letter case may be random.
    pub wire: Vec<u8>,
    /// Which server gave it: `group address`.
    pub server: SocketAddr,
    /// Over which transport.
    pub transport: Transport,
}

/// How a server was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A connection.
    Tcp,
    /// A connection inside TLS.
    Tls,
}

/// What went wrong with one attempt at one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No reply in time.
    Timeout,
    /// The host says that nobody listens there.
    ConnectionRefused,
    /// The host or its network cannot be reached, or the connection broke.
    Network,
    /// It answered SERVFAIL.
    Servfail,
    /// It answered REFUSED.
    Refused,
    /// It answered NOTIMP.
    Notimp,
    /// It answered FORMERR, without EDNS too.
    Formerr,
    /// It answered with another response code that is no answer.
    OtherRcode,
    /// Over a connection: a reply that does not match or cannot be read.
    Malformed,
    /// TLS could not be set up, or the certificate does not bear the configured name.
    Tls,
}

/// Nobody gave an answer in time.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    /// Each attempt in the order it was made.
    pub tried: Vec<(SocketAddr, Transport, FailureKind)>,
    /// The extended error that the last failing reply carried (RFC 8914): info-code and text.
    pub extended_error: Option<(u16, Vec<u8>)>,
}

/// The one thing that the answer path needs of upstreams.
pub trait Ask {
    /// Asks group `group` (its index in the configuration) and returns by `deadline` at the latest.
    fn ask(
        &self,
        group: usize,
        question: &Question,
        deadline: Instant,
    ) -> impl Future<Output = Result<Answer, Failure>>;
}
