//! Copies of queries and their responses, as workers hand them over.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::cause::Cause;
use crate::clock::Millis;
use crate::config::RouteId;
use crate::metrics::AnswerSource;
use crate::snapshot::Snapshot;
use crate::wire::name::MAX_NAME;
use crate::wire::{Rcode, RrType};

/// A query and its response.
#[derive(Clone, Debug)]
pub struct LoggedQuery {
    pub(crate) client: IpAddr,
    /// Time of the query.
    pub asked: Millis,
    /// Time from the query to the response.
    pub took: Duration,
    /// True if the query came over TCP.
    pub over_tcp: bool,
    /// Name in lower-case wire form.
    pub name: InlineName,
    /// Query type.
    pub qtype: RrType,
    /// Response code.
    pub rcode: Rcode,
    /// Source of the response.
    pub source: AnswerSource,
    /// Route, valid in the snapshot of the batch; `None` for nodens's own answers.
    pub route: Option<RouteId>,
    pub(crate) by: Option<SocketAddr>,
    /// Cause of the failure.
    pub cause: Option<Cause>,
    pub(crate) words: Option<Box<str>>,
}

/// A name stored without an allocation.
#[derive(Clone, Copy, Debug)]
pub struct InlineName {
    length: u8,
    bytes: [u8; MAX_NAME],
}

/// Records that one worker hands over together.
#[derive(Debug)]
pub struct QueryBatch {
    /// Queries to write, in the order of their responses.
    pub records: Vec<LoggedQuery>,
    /// Configuration under which the queries were answered: determines their routes and clients.
    pub snapshot: Arc<Snapshot>,
}

impl InlineName {
    /// Copies a name in wire form, in lower case.
    pub fn new(wire: &[u8]) -> Self {
        let length = wire.len().min(MAX_NAME);
        let mut name = Self { length: length as u8, bytes: [0; MAX_NAME] };
        name.bytes[..length].copy_from_slice(&wire[..length]);
        // The length bytes are at most 63, so they are not letters.
        name.bytes[..length].make_ascii_lowercase();
        name
    }

    /// Returns the name in wire form.
    pub fn as_wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}
