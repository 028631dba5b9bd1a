//! What clients may hold of this process at once, so that none can take it all: queries that wait for upstreams, and bytes
//! of messages that wait to be read or written.
//!
//! A hit holds nothing of this: it is answered before the next packet is looked at. Everything else asks here first, and is
//! refused where the bound is reached. The bounds are terms of the memory formula in `docs/guides/deploy.md`.
//!
//! - [`pool`] one bounded amount, shared by clients;
//! - [`pending`] the queries that wait for upstreams, by client and by upstream group.

use std::sync::Arc;

pub mod pending;
pub mod pool;

use pending::Pending;
use pool::Pool;

/// Queries that may wait for upstreams at once. One takes up to 8 KiB with its task, its key and its slot at the server.
pub const MOST_PENDING: usize = 3_072;
/// Bytes of messages that may wait at once: long queries that have not been read to their end, responses that clients have
/// not read, and answers whose client's connection is busy.
pub const MOST_BUFFERED: usize = 4 << 20;

/// All bounds of a process.
#[derive(Debug)]
pub struct Governor {
    /// Queries that wait for upstreams, and prefetches.
    pub pending: Pending,
    /// Bytes of messages that wait.
    pub buffered: Arc<Pool>,
}

impl Governor {
    /// Nothing is held.
    pub fn new() -> Self {
        Self { pending: Pending::new(MOST_PENDING), buffered: Arc::new(Pool::new(MOST_BUFFERED)) }
    }
}

impl Default for Governor {
    fn default() -> Self {
        Self::new()
    }
}
