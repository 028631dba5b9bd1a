//! How moments are counted. Times are arguments everywhere below the sockets, so this is a number and no clock.

/// Milliseconds since the process began to keep time.
pub type Millis = u64;
