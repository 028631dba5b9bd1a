//! A copy of a query and its answer, as workers hand it over.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::cause::Cause;
use crate::clock::Millis;
use crate::config::RouteId;
use crate::metrics::Source;
use crate::snapshot::Snapshot;
use crate::wire::name::MAX_NAME;
use crate::wire::{Rcode, RrType};

/// A query and its answer.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who asked.
    pub client: IpAddr,
    /// When.
    pub asked: Millis,
    /// From then to the answer.
    pub took: Duration,
    /// Over TCP or UDP.
    pub over_tcp: bool,
    /// The name in lower-case wire form.
    pub name: Name,
    /// The type.
    pub qtype: RrType,
    /// The response code.
    pub rcode: Rcode,
    /// Where the answer came from.
    pub source: Source,
    /// The route, as the batch's configuration counts them; none for nodens's own answers.
    pub route: Option<RouteId>,
    /// The server that gave the answer.
    pub by: Option<SocketAddr>,
    /// Why it is no answer.
    pub cause: Option<Cause>,
    /// The words that came with it.
    pub words: Option<Box<str>>,
}

/// A name without an allocation of its own.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    length: u8,
    bytes: [u8; MAX_NAME],
}

/// What one worker hands over at once.
#[derive(Debug)]
pub struct Batch {
    /// The queries.
    pub records: Vec<Record>,
    /// The configuration that they were answered under: what their routes are, and who asks.
    pub snapshot: Arc<Snapshot>,
}

impl Name {
    /// A copy of a name in wire form, in lower case.
    pub fn new(wire: &[u8]) -> Self {
        let length = wire.len().min(MAX_NAME);
        let mut name = Self { length: length as u8, bytes: [0; MAX_NAME] };
        name.bytes[..length].copy_from_slice(&wire[..length]);
        // The lengths of labels are no letters.
        name.bytes[..length].make_ascii_lowercase();
        name
    }

    /// The name in wire form.
    pub fn as_wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}
