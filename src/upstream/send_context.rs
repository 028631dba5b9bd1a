//! Parameters of an attempt for its transport, besides the message.

use std::net::IpAddr;
use std::rc::Rc;

use tokio::time::Instant;

use super::race_events::RaceEvents;

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
