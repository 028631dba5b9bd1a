//! What a transport is told of an attempt besides its message.

use std::net::IpAddr;
use std::rc::Rc;

use tokio::time::Instant;

use super::race_events::RaceEvents;

/// How an attempt's outcome finds back, and how long it matters.
pub(super) struct SendContext<'a> {
    pub(super) number: usize,
    pub(super) race_events: &'a Rc<RaceEvents>,
    /// The time now.
    pub(super) at: Instant,
    /// After this nobody waits for it.
    pub(super) until: Instant,
    pub(super) random_case: bool,
    /// The most connections to that server.
    pub(super) connections: usize,
    /// The same question was sent there before, over the same transport.
    pub(super) again: bool,
    /// For whom.
    pub(super) client: Option<IpAddr>,
}
