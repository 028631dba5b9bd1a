//! Limits of what clients may hold of this process at once, so that none can take it all: queries that wait for upstreams, and
//! bytes of messages that wait to be read or written.
//!
//! A hit holds none of this: it is answered before the next message is handled. Everything else acquires its share here first,
//! and is rejected when the limit is reached. The limits are terms of the memory formula in `docs/guides/deploy.md`.
//!
//! - [`pool`] one bounded amount, shared by clients;
//! - [`pending`] queries that wait for upstreams, by client and by upstream group.

use std::sync::Arc;

pub(crate) mod pending;
pub(crate) mod pool;

use pending::PendingQueries;
use pool::Pool;

/// Most queries that wait for upstreams. One takes up to 8 KiB with its task, its key and its slot at the server.
pub const MOST_PENDING: usize = 3_072;
/// Most bytes of waiting messages: long queries that have not been received completely, responses that clients have not read,
/// and answers whose client's connection is busy.
pub const MOST_BUFFERED: usize = 4 << 20;

/// Limits of a process.
#[derive(Debug)]
pub struct Governor {
    /// Queries that wait for upstreams, and prefetches.
    pub pending: PendingQueries,
    /// Bytes of messages that wait.
    pub buffered: Arc<Pool>,
}

impl Governor {
    /// Returns limits of which nothing is in use.
    pub fn new() -> Self {
        Self { pending: PendingQueries::new(MOST_PENDING), buffered: Arc::new(Pool::new(MOST_BUFFERED)) }
    }
}

impl Default for Governor {
    fn default() -> Self {
        Self::new()
    }
}
