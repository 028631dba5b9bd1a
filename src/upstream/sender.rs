//! Interface of the transports: one attempt at one server.

use std::net::IpAddr;
use std::rc::Rc;

use tokio::time::Instant;

use super::failure::FailureKind;
use super::message::OutgoingQuery;
use super::race_events::RaceEvents;

/// Sockets of one worker to one server over one transport.
pub(super) trait Sender {
    /// Sends a query. Its outcome goes to the `race_events` of `context`.
    ///
    /// # Errors
    /// The query is not sent: this machine cannot, or too many queries are in flight.
    fn send(&self, query: OutgoingQuery, context: &SendContext<'_>) -> Result<(), FailureKind>;

    /// Closes sockets that are idle at `now`. Called periodically; connections close by themselves.
    fn close_idle(&self, _now: Instant) {}
}

/// Destination of an attempt's outcome, and its other parameters.
pub(super) struct SendContext<'a> {
    pub(super) number: usize,
    pub(super) race_events: &'a Rc<RaceEvents>,
    pub(super) at: Instant,
    /// Time after which the outcome no longer matters.
    pub(super) until: Instant,
    pub(super) random_case: bool,
    /// Maximum number of connections to the server.
    pub(super) connections: usize,
    /// The same question was sent to the server before, over the same transport.
    pub(super) again: bool,
    /// Client of the query; `None` for nodens's own.
    pub(super) client: Option<IpAddr>,
}
